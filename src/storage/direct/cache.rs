//! Reading: from the tail, else through blocks that are kept for a while.
//!
//! A block that is being read is polled by whoever needs it; one that was begun ahead goes on without
//! anybody, since the device has it. What a block says holds for the bytes below the end of the file as it
//! was when the read began: those are never written again, or the block is dropped.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use super::raw::RawRead;
use super::{CACHED_BYTES, Inner, RawFile, block_end};
use crate::runtime::aligned::AlignedBuffer;
use crate::runtime::disk_reads::DiskRead;

/// A block of a file that was read, or is.
pub(super) struct Block {
    state: RefCell<State>,
    /// What is told when the read is done.
    waiting: Arc<Waiting>,
    start: u64,
    /// Bytes of the file behind it are not in it.
    end: u64,
    /// By the memory's count.
    pub(super) used: Cell<u64>,
    /// How often it was read to its end, one more if it was in memory before.
    passes: Cell<u32>,
    /// Nobody has read any of it.
    is_unread: Cell<bool>,
}

enum State {
    Reading(RawRead),
    /// With as many bytes.
    Read(usize, AlignedBuffer),
    Failed,
}

/// All who wait for one read: one of them alone may have gone.
#[derive(Default)]
struct Waiting(Mutex<Vec<Waker>>);

impl Waiting {
    fn add(&self, waker: &Waker) {
        if let Ok(mut wakers) = self.0.lock()
            && !wakers.iter().any(|other| other.will_wake(waker))
        {
            wakers.push(waker.clone());
        }
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        let wakers = self.0.lock().map(|mut wakers| std::mem::take(&mut *wakers));
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Block {
    /// Whether the read is done; an error is told once.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        let State::Reading(read) = &mut *state else {
            return Poll::Ready(match *state {
                State::Failed => Err(io::Error::other("another read of it failed")),
                _ => Ok(()),
            });
        };
        self.waiting.add(context.waker());
        let waker = Waker::from(self.waiting.clone());
        let Poll::Ready(result) = read.as_mut().poll(&mut Context::from_waker(&waker)) else {
            return Poll::Pending;
        };
        let result = match result {
            Ok((read, buffer)) => {
                *state = State::Read(read, buffer);
                Ok(())
            }
            Err(error) => {
                *state = State::Failed;
                Err(error)
            }
        };
        drop(state);
        self.waiting.clone().wake();
        Poll::Ready(result)
    }

    /// Whether somebody has read it, and nobody else, so that it is likely that nobody will.
    pub(super) fn was_passed_once(&self) -> bool {
        self.passes.get() == 1
    }

    pub(super) fn is_unread(&self) -> bool {
        self.is_unread.get()
    }

    /// Gives `out` up to `len` bytes from `position` on.
    fn copy(&self, position: u64, len: usize, out: &mut impl FnMut(&[u8])) -> usize {
        let State::Read(read, buffer) = &*self.state.borrow() else {
            return 0;
        };
        let end = self.end.min(self.start + *read as u64);
        let from = (position - self.start) as usize;
        let len = len.min(end.saturating_sub(position) as usize);
        out(&AlignedBuffer::as_ref(buffer)[from..from + len]);
        self.is_unread.set(false);
        if position + len as u64 == end {
            self.passes.set(self.passes.get() + 1);
        }
        len
    }
}

/// Blocks of a file that were read from last.
#[derive(Default)]
pub(super) struct Recent {
    /// One more than their numbers.
    blocks: [Cell<u64>; 4],
    next: Cell<usize>,
}

impl Recent {
    /// Notes a read of a block. Returns whether it goes on behind an earlier one.
    fn goes_on(&self, index: u64) -> bool {
        let has = |index: u64| self.blocks.iter().any(|block| block.get() == index + 1);
        if !has(index) {
            self.blocks[self.next.get()].set(index + 1);
            self.next.set((self.next.get() + 1) % self.blocks.len());
        }
        index.checked_sub(1).is_some_and(has)
    }
}

impl<R: RawFile> Inner<R> {
    /// Gives `out` what there is of `len` bytes from `position`, piece by piece.
    pub(super) async fn read(
        self: &Rc<Self>,
        position: u64,
        len: usize,
        mut out: impl FnMut(&[u8]),
    ) -> io::Result<usize> {
        let left = self.len.get().saturating_sub(position);
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(len);
        let mut done = 0;
        while done < want {
            let at = position + done as u64;
            let copied = match self.copy_from_tail(at, want - done, &mut out) {
                0 => {
                    let end = position + want as u64;
                    self.copy_from_block(at, end, &mut out).await?
                }
                copied => copied,
            };
            if copied == 0 {
                break;
            }
            done += copied;
        }
        Ok(done)
    }

    /// Gives `out` what the block of `position` has from there; `end` is how far this read goes.
    async fn copy_from_block(
        self: &Rc<Self>,
        position: u64,
        end: u64,
        out: &mut impl FnMut(&[u8]),
    ) -> io::Result<usize> {
        let index = position / CACHED_BYTES as u64;
        let block = match self.known_block(index, position) {
            Some(block) => block,
            None => {
                let bytes = self.bytes_of_block(index);
                let read = self.memory.reads().begin(bytes as u64).await;
                let buffer = self.memory.buffer(bytes).await;
                // Another reader may have been in the queue for it.
                match self.known_block(index, position) {
                    Some(block) => block,
                    None => self.begin_block(index, buffer, read),
                }
            }
        };
        block.used.set(self.memory.tick());
        let mut ahead = end.div_ceil(CACHED_BYTES as u64).max(index + 1);
        if self.recent.goes_on(index) {
            ahead = ahead.max(index + 1 + self.memory.blocks_ahead());
        }
        self.read_ahead(index + 1, ahead.min(index + 1 + self.memory.blocks_ahead()));
        let read = poll_fn(|context| block.poll(context)).await;
        if read.is_err() {
            self.memory.drop_blocks(self.id, position..position + 1);
        }
        read?;
        let was_passed = block.passes.get() > 0;
        let copied = block.copy(position, (end - position) as usize, out);
        if !was_passed && block.was_passed_once() {
            self.memory.passed(self.id, index);
        }
        Ok(copied)
    }

    /// A block that was read, or is being read, as far as `position` at least.
    fn known_block(&self, index: u64, position: u64) -> Option<Rc<Block>> {
        let block = self.memory.block(self.id, index)?;
        (block.end > position).then_some(block)
    }

    /// Bytes that a read of a block asks for.
    fn bytes_of_block(&self, index: u64) -> usize {
        let start = index * CACHED_BYTES as u64;
        let end = (start + CACHED_BYTES as u64).min(block_end(self.len.get()));
        (end.saturating_sub(start) as usize).max(1)
    }

    fn begin_block(&self, index: u64, buffer: AlignedBuffer, read: DiskRead) -> Rc<Block> {
        let start = index * CACHED_BYTES as u64;
        // The file may have been cut while memory was waited for.
        let bytes = self.bytes_of_block(index).min(buffer.len());
        let bytes = bytes.next_multiple_of(crate::runtime::aligned::BLOCK_BYTES);
        let block = Rc::new(Block {
            state: RefCell::new(State::Reading(self.raw.read(start, buffer, bytes, read))),
            waiting: Arc::default(),
            start,
            end: self.len.get().min(start + bytes as u64),
            used: Cell::new(self.memory.tick()),
            passes: Cell::new(u32::from(self.memory.was_given_up(self.id, index))),
            is_unread: Cell::new(true),
        });
        self.memory.keep_block(self.id, index, block.clone());
        block
    }

    /// Has blocks read when the disk has time, as far as there is memory then, and as the tail does not have them.
    fn read_ahead(self: &Rc<Self>, from: u64, to: u64) {
        for index in from..to {
            let mut queued = self.queued.borrow_mut();
            if !self.lacks_block(index) || queued.contains(&index) {
                continue;
            }
            queued.push(index);
            drop(queued);
            let inner = Rc::downgrade(self);
            let begin = move |read| {
                if let Some(inner) = inner.upgrade() {
                    inner.queued.borrow_mut().retain(|other| *other != index);
                    inner.begin_ahead(index, read);
                }
            };
            let bytes = self.bytes_of_block(index) as u64;
            if !self.memory.reads().call_ahead(bytes, begin) {
                self.queued.borrow_mut().retain(|other| *other != index);
                return;
            }
        }
    }

    /// Whether a block has to be read to be known, as far as the tail does not have it.
    fn lacks_block(&self, index: u64) -> bool {
        let tail = self.tail.borrow().front().map(|chunk| chunk.start);
        let end = tail.unwrap_or(u64::MAX).min(self.len.get());
        let start = index * CACHED_BYTES as u64;
        let whole = (start + CACHED_BYTES as u64).min(end);
        start < end && self.known_block(index, whole - 1).is_none()
    }

    fn begin_ahead(&self, index: u64, read: DiskRead) {
        // It may have been read meanwhile.
        if !self.lacks_block(index) {
            return;
        }
        let Some(buffer) = self.memory.buffer_now(self.bytes_of_block(index)) else {
            return;
        };
        let block = self.begin_block(index, buffer, read);
        // Polled once, it is on its way.
        let _ = block.poll(&mut Context::from_waker(Waker::noop()));
    }
}
