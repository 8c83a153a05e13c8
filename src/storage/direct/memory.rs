//! The memory of all direct files of a shard.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::poll_fn;
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::cache::Block;
use super::{CACHED_BYTES, Inner, RawFile, ZEROS_BYTES};
use crate::runtime::aligned::{AlignedBuffer, BufferPool};
use crate::runtime::disk_reads::DiskReads;
use crate::storage::disk::Lending;

/// How much memory direct files of one shard take at most, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct DirectLimits {
    /// For writes under way, the ends of files, and what was read of the rest; at least 2 MiB.
    pub cache_bytes: usize,
    /// For what connections have to send. Beyond it, one batch a fetch.
    pub lent_bytes: u64,
}

impl Default for DirectLimits {
    fn default() -> Self {
        Self {
            cache_bytes: 16 * 1024 * 1024,
            lent_bytes: 16 * 1024 * 1024,
        }
    }
}

/// When memory is short, this part of it is given back at once.
const EVICTED_PART: usize = 8;

/// This part of it holds what was read once, up to so many bytes: a second reader finds what is no further back. Memory
/// that was used before costs the first less: a cold backlog came at 1.4 to 1.7 GB/s with 8 to 32 MiB of it, at 1.2 to 1.3
/// with 92, and at 1.1 to 1.2 when all memory was filled.
const PASSED_PART: usize = 8;
const PASSED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Most blocks that are read ahead of one reader. A consumer's answer has a mebibyte of each partition, which is 4:
/// with 4, 8 and 16 one reader got 1.15, 1.35 and 1.52 GB/s of eight partitions.
const AHEAD_MAX: u64 = 16;

/// After so many blocks that were read to their end, one more is read ahead.
const AHEAD_GROWS_AFTER: u64 = 256;

/// One per shard.
pub struct DirectMemory<R: RawFile> {
    pool: BufferPool,
    reads: DiskReads,
    /// What connections of all shards have of this shard's files.
    lending: Arc<Lending>,
    /// By what the file is.
    files: RefCell<HashMap<(u64, u64), (u64, Weak<Inner<R>>)>>,
    /// By the file and the number of the block in it.
    blocks: RefCell<HashMap<(u64, u64), Rc<Block>>>,
    /// Blocks that were read to their end once, in the order in which they were.
    passed: RefCell<VecDeque<(u64, u64)>>,
    /// Blocks that were given up after that, no more than there is memory for: if one is read again, it stays.
    given_up: RefCell<GivenUp>,
    /// Blocks that a reader has read ahead, at most: fewer while they have to go before they are used.
    ahead: Cell<u64>,
    /// Blocks passed since that last changed.
    since: Cell<u64>,
    zeros: RefCell<Option<Rc<AlignedBuffer>>>,
    ids: Cell<u64>,
    ticks: Cell<u64>,
}

/// Keys of blocks, the latest of them.
#[derive(Default)]
struct GivenUp {
    keys: HashSet<(u64, u64)>,
    /// In the order in which they came; some may be gone.
    order: VecDeque<(u64, u64)>,
}

impl GivenUp {
    fn add(&mut self, key: (u64, u64), most: usize) {
        if self.keys.insert(key) {
            self.order.push_back(key);
        }
        while self.order.len() > most {
            if let Some(oldest) = self.order.pop_front() {
                self.keys.remove(&oldest);
            }
        }
    }
}

impl<R: RawFile> DirectMemory<R> {
    pub fn new(limits: DirectLimits, reads: DiskReads) -> Self {
        Self {
            pool: BufferPool::new(limits.cache_bytes),
            reads,
            lending: Lending::new(limits.lent_bytes),
            files: RefCell::default(),
            blocks: RefCell::default(),
            passed: RefCell::default(),
            given_up: RefCell::default(),
            ahead: Cell::new(AHEAD_MAX),
            since: Cell::new(0),
            zeros: RefCell::default(),
            ids: Cell::new(0),
            ticks: Cell::new(0),
        }
    }

    pub(super) fn next_id(&self) -> u64 {
        self.ids.set(self.ids.get() + 1);
        self.ids.get()
    }

    /// A number larger than those before.
    pub(super) fn tick(&self) -> u64 {
        self.ticks.set(self.ticks.get() + 1);
        self.ticks.get()
    }

    pub(super) fn opened(&self, key: (u64, u64)) -> Option<Rc<Inner<R>>> {
        self.files.borrow().get(&key)?.1.upgrade()
    }

    pub(super) fn register(&self, key: (u64, u64), inner: &Rc<Inner<R>>) {
        let entry = (inner.id, Rc::downgrade(inner));
        self.files.borrow_mut().insert(key, entry);
    }

    pub(super) fn unregister(&self, key: (u64, u64), id: u64) {
        let mut files = self.files.borrow_mut();
        if files.get(&key).is_some_and(|file| file.0 == id) {
            files.remove(&key);
        }
        if files.is_empty() {
            // Nobody writes past the page cache any more.
            drop(files);
            self.zeros.borrow_mut().take();
            self.given_up.take();
            self.pool.keep_at_most(0);
        }
    }

    pub(super) fn reads(&self) -> &DiskReads {
        &self.reads
    }

    pub(super) fn lending(&self) -> &Arc<Lending> {
        &self.lending
    }

    /// Bytes that files have in memory.
    pub fn used_bytes(&self) -> usize {
        self.pool.used_bytes()
    }

    pub(super) fn wake(&self) {
        self.pool.wake();
    }

    /// Blocks that a reader may have read ahead.
    pub(super) fn blocks_ahead(&self) -> u64 {
        let room = (self.pool.limit_bytes() / EVICTED_PART / CACHED_BYTES) as u64;
        room.min(self.ahead.get()).max(1)
    }

    /// A buffer of at least `bytes`, made room for or waited for.
    pub(super) fn poll_buffer(
        &self,
        bytes: usize,
        context: &mut Context<'_>,
    ) -> Poll<AlignedBuffer> {
        if let Some(buffer) = self.pool.take(bytes) {
            return Poll::Ready(buffer);
        }
        self.evict(bytes, context);
        match self.pool.take(bytes) {
            Some(buffer) => Poll::Ready(buffer),
            None => {
                self.pool.wait(context);
                Poll::Pending
            }
        }
    }

    pub(super) async fn buffer(&self, bytes: usize) -> AlignedBuffer {
        poll_fn(|context| self.poll_buffer(bytes, context)).await
    }

    /// As [`buffer`](Self::buffer), if that is to be had at once.
    pub(super) fn buffer_now(&self, bytes: usize) -> Option<AlignedBuffer> {
        match self.poll_buffer(bytes, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(buffer) => Some(buffer),
            Poll::Pending => None,
        }
    }

    pub(super) async fn zeros(&self) -> Rc<AlignedBuffer> {
        if let Some(zeros) = &*self.zeros.borrow() {
            return zeros.clone();
        }
        let mut zeros = self.buffer(ZEROS_BYTES).await;
        AlignedBuffer::as_mut(&mut zeros).fill(0);
        let zeros = Rc::new(zeros);
        *self.zeros.borrow_mut() = Some(zeros.clone());
        zeros
    }

    pub(super) fn block(&self, id: u64, index: u64) -> Option<Rc<Block>> {
        self.blocks.borrow().get(&(id, index)).cloned()
    }

    pub(super) fn keep_block(&self, id: u64, index: u64, block: Rc<Block>) {
        let before = self.blocks.borrow_mut().insert((id, index), block);
        drop(before);
    }

    /// A block was read to its end, for the first time. Most of what is read once is not read again: it keeps its memory
    /// for a while, and then the next block has it, which costs less than memory that was not used before.
    pub(super) fn passed(&self, id: u64, index: u64) {
        self.since.set(self.since.get() + 1);
        if self.since.get() >= AHEAD_GROWS_AFTER {
            self.set_ahead(self.ahead.get() + 1);
        }
        let mut passed = self.passed.borrow_mut();
        passed.push_back((id, index));
        let most_bytes = (self.pool.limit_bytes() / PASSED_PART).min(PASSED_BYTES_MAX);
        if passed.len() <= most_bytes / CACHED_BYTES {
            return;
        }
        let Some(key) = passed.pop_front() else {
            return;
        };
        drop(passed);
        let unused = |block: &Rc<Block>| Rc::strong_count(block) == 1 && block.was_passed_once();
        let is_unused = self.blocks.borrow().get(&key).is_some_and(unused);
        if is_unused {
            let gone = self.blocks.borrow_mut().remove(&key);
            drop(gone);
            let most = self.pool.limit_bytes() / CACHED_BYTES;
            self.given_up.borrow_mut().add(key, most);
        }
    }

    /// Whether a block that is about to be read was given up a while ago. Told once.
    pub(super) fn was_given_up(&self, id: u64, index: u64) -> bool {
        self.given_up.borrow_mut().keys.remove(&(id, index))
    }

    fn set_ahead(&self, blocks: u64) {
        self.ahead.set(blocks.clamp(1, AHEAD_MAX));
        self.since.set(0);
    }

    /// Forgets what was read of a file in this range.
    pub(super) fn drop_blocks(&self, id: u64, positions: Range<u64>) {
        let size = CACHED_BYTES as u64;
        let (first, last) = (positions.start / size, positions.end.div_ceil(size));
        let mut gone = Vec::new();
        {
            let mut blocks = self.blocks.borrow_mut();
            if last - first < blocks.len() as u64 {
                gone.extend((first..last).filter_map(|index| blocks.remove(&(id, index))));
            } else {
                let inside = |key: &(u64, u64)| key.0 == id && (first..last).contains(&key.1);
                gone.extend(blocks.extract_if(|key, _| inside(key)).map(|(_, b)| b));
            }
        }
        drop(gone);
    }

    /// Gives back what was not used for longest, `bytes` or a part of all. What the device has at work is not
    /// touched: the task of `context` is woken when that ends.
    fn evict(&self, bytes: usize, context: &mut Context<'_>) {
        let goal = bytes.max(self.pool.limit_bytes() / EVICTED_PART);
        let before = self.pool.used_bytes();
        let blocks: Vec<((u64, u64), Rc<Block>)> = {
            let blocks = self.blocks.borrow();
            let unused = blocks.iter().filter(|(_, b)| Rc::strong_count(b) == 1);
            unused.map(|(key, b)| (*key, b.clone())).collect()
        };
        let mut found: Vec<(u64, Victim<R>)> = Vec::new();
        for (key, block) in blocks {
            if block.poll(context).is_ready() {
                found.push((block.used.get(), Victim::Block(key)));
            }
        }
        let files: Vec<Rc<Inner<R>>> = {
            let files = self.files.borrow();
            files.values().filter_map(|(_, f)| f.upgrade()).collect()
        };
        for file in files {
            for chunk in &*file.tail.borrow() {
                if Rc::strong_count(&chunk.buffer) == 1 {
                    found.push((chunk.used, Victim::Chunk(file.clone(), chunk.start)));
                }
            }
        }
        found.sort_unstable_by_key(|(used, _)| *used);
        let (mut given, mut unread) = (0, 0);
        for (_, victim) in found {
            if before - self.pool.used_bytes() >= goal {
                break;
            }
            match victim {
                Victim::Block(key) => {
                    let block = self.blocks.borrow_mut().remove(&key);
                    given += 1;
                    unread += usize::from(block.is_some_and(|block| block.is_unread()));
                }
                Victim::Chunk(file, start) => {
                    let mut tail = file.tail.borrow_mut();
                    tail.retain(|chunk| chunk.start != start);
                }
            }
        }
        if unread * 2 > given {
            self.set_ahead(self.ahead.get() / 2);
        }
    }
}

enum Victim<R: RawFile> {
    Block((u64, u64)),
    Chunk(Rc<Inner<R>>, u64),
}
