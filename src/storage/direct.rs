//! Log files that are written and read past the page cache (O_DIRECT).
//!
//! # Writing
//! 1. A file has a *tail*: buffers with the last bytes of it, each of which begins on a block. A write is
//!    copied behind them, and goes to the device from there, in pieces of up to 1 MiB that are in flight
//!    together; the last one is filled up to the end of its block with zeros. The write is done when the
//!    device has all of them.
//! 2. So the block in which the file ends is written again by the next write, with the bytes that are in it
//!    already. A device that tears it, sector by sector, leaves those as they were.
//! 3. Behind the file's [`len`](LogFile::len) there is nothing but zeros, or the end of the file: files
//!    are not used a second time, what is cut off is given back, and what is [filled](LogFile::fill) or
//!    allocated ahead reads as zeros. A scan that comes to the end of the last batch so finds no old one.
//! 4. A file is longer than it says while it is written to ([`LogFile::is_padded`]).
//! 5. A write of which the records are synced before anybody is told of them goes out with RWF_DSYNC
//!    ([`DURABLE_BY_DSYNC`]), and the sync behind it finds nothing to do.
//!
//! # Reading
//! From the tail, as far as that reaches; the rest through blocks of [`CACHED_BYTES`] that are kept for a
//! while, longer if they are read again, and read ahead where somebody reads on. Bytes for a connection are
//! copied out of both.
//!
//! # Memory
//! Tails and blocks of all files of a shard lie in one pool; what was not used for longest goes first. What is
//! lent to connections is counted beside it: when it is used up, a fetch gets one batch.
//!
//! Two opens of one file are one open file: they share its tail.

mod cache;
mod file;
mod log_disk;
mod memory;
mod raw;
mod write;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::rc::Rc;

use bytes::Bytes;

use super::disk::{Loan, LogFile, LogSlice, WriteLimit};
use super::gate::Gate;
use crate::runtime::aligned::{AlignedBuffer, BLOCK_BYTES, BUFFER_BYTES_MAX};
use cache::Recent;
pub use file::probe_direct;
pub use log_disk::{AnyFile, LogDisk};
pub use memory::{DirectLimits, DirectMemory};
pub use raw::{DirectDisk, RawFile, RawRead, RawWrite};

/// Whether a durable write is one write with RWF_DSYNC rather than a write and an fdatasync. Into room that
/// was written before, the first is one command to the device where it takes FUA, and the sync another.
const DURABLE_BY_DSYNC: bool = true;

/// Bytes of a block that reads go through.
const CACHED_BYTES: usize = 256 * 1024;

/// Most bytes of a tail. Who reads where the file is written reads them.
const TAIL_BYTES_MAX: usize = 4 * BUFFER_BYTES_MAX;

/// Most bytes of one slice: a copy of them takes a quarter of a millisecond.
const SLICE_BYTES_MAX: u32 = 1024 * 1024;

/// Bytes of zeros that are written at once.
const ZEROS_BYTES: usize = 256 * 1024;

/// `position` or the next one at which a block begins.
fn block_end(position: u64) -> u64 {
    position.next_multiple_of(BLOCK_BYTES as u64)
}

/// Where the block begins that has `position`.
fn block_start(position: u64) -> u64 {
    position - position % BLOCK_BYTES as u64
}

/// A file that is written and read past the page cache.
#[derive(Clone)]
pub struct DirectFile<R: RawFile> {
    inner: Rc<Inner<R>>,
}

struct Inner<R: RawFile> {
    raw: R,
    /// Tells it from all others that are open, and from those that were.
    id: u64,
    /// See [`RawFile::identity`].
    key: (u64, u64),
    memory: Rc<DirectMemory<R>>,
    /// What [`LogFile::len`] says.
    len: Cell<u64>,
    /// Of the file itself.
    raw_len: Cell<u64>,
    /// From here on there are only zeros.
    written: Cell<u64>,
    /// In the order of positions, each of which but the last is full; the last ends where the next write is
    /// expected.
    tail: RefCell<VecDeque<Chunk>>,
    /// Held by what changes bytes. Zeros are filled beside it.
    gate: Gate,
    /// Changes that are done, and those of them that a sync has covered.
    changes: Cell<u64>,
    synced: Cell<u64>,
    /// A write failed, or was dropped half-way.
    is_broken: Cell<bool>,
    recent: Recent,
    /// Blocks that are to be read ahead and wait for the disk.
    queued: RefCell<Vec<u64>>,
}

/// A part of the tail.
struct Chunk {
    /// Of the buffer's first byte in the file; a block begins there.
    start: u64,
    /// Behind what may be read of it.
    end: u64,
    buffer: Rc<AlignedBuffer>,
    /// When it was last used, by the memory's count.
    used: u64,
}

impl Chunk {
    fn capacity_end(&self) -> u64 {
        self.start + self.buffer.len() as u64
    }
}

/// Bytes that a connection has until it has sent them.
struct Lent {
    bytes: Vec<u8>,
    _loan: Loan,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<R: RawFile> fmt::Debug for DirectFile<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "DirectFile({:?}, {})",
            self.inner.raw,
            self.inner.len.get()
        )
    }
}

impl<R: RawFile> DirectFile<R> {
    /// A file that was just opened; if it is open already, it is that one.
    fn open(raw: R, memory: &Rc<DirectMemory<R>>) -> io::Result<Self> {
        let key = raw.identity()?;
        if let Some(inner) = memory.opened(key) {
            return Ok(Self { inner });
        }
        let len = raw.len()?;
        let inner = Rc::new(Inner {
            id: memory.next_id(),
            key,
            raw,
            memory: memory.clone(),
            len: Cell::new(len),
            raw_len: Cell::new(len),
            written: Cell::new(len),
            tail: RefCell::default(),
            gate: Gate::default(),
            // Of what was written before it was opened nothing is known.
            changes: Cell::new(1),
            synced: Cell::new(0),
            is_broken: Cell::new(false),
            recent: Recent::default(),
            queued: RefCell::default(),
        });
        memory.register(key, &inner);
        Ok(Self { inner })
    }

    /// What has to be dropped where it may take long.
    fn into_raw(self) -> R {
        self.inner.raw.clone()
    }
}

impl<R: RawFile> Inner<R> {
    fn changed(&self) {
        self.changes.set(self.changes.get() + 1);
    }

    /// Gives `out` up to `len` bytes that the tail has from `position` on; 0 if it does not have that byte.
    fn copy_from_tail(&self, position: u64, len: usize, out: &mut impl FnMut(&[u8])) -> usize {
        let mut tail = self.tail.borrow_mut();
        let at = tail.partition_point(|chunk| chunk.end <= position);
        let Some(chunk) = tail.get_mut(at).filter(|chunk| chunk.start <= position) else {
            return 0;
        };
        chunk.used = self.memory.tick();
        let from = (position - chunk.start) as usize;
        let len = len.min((chunk.end - position) as usize);
        let bytes: &[u8] = AlignedBuffer::as_ref(&chunk.buffer);
        out(&bytes[from..from + len]);
        len
    }

    /// What lies behind `len` is cut off.
    fn forget_from(&self, len: u64) {
        let mut tail = self.tail.borrow_mut();
        tail.retain(|chunk| chunk.start < len);
        if let Some(last) = tail.back_mut() {
            last.end = last.end.min(len);
        }
        self.memory.drop_blocks(self.id, len..u64::MAX);
    }

    /// Reads whole blocks from the device that a write waits for: `len` bytes from `position`, of which the result has as many as the
    /// file.
    async fn read_raw(&self, position: u64, len: usize) -> io::Result<(usize, AlignedBuffer)> {
        let buffer = self.memory.buffer(len).await;
        let read = self.memory.reads().begin_now(len as u64);
        let (filled, buffer) = self.raw.read(position, buffer, len, read).await?;
        Ok((filled.min(len), buffer))
    }
}

impl<R: RawFile> LogFile for DirectFile<R> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.inner.len.get())
    }

    async fn write_at(&self, position: u64, buffers: Vec<Bytes>) -> io::Result<u64> {
        self.inner.write(position, buffers, false).await
    }

    async fn write_durable_at(&self, position: u64, buffers: Vec<Bytes>) -> io::Result<u64> {
        self.inner.write(position, buffers, DURABLE_BY_DSYNC).await
    }

    fn write_limit(&self) -> WriteLimit {
        WriteLimit {
            bytes: (write::PIECES_MAX * BUFFER_BYTES_MAX) as u64,
            buffers: 16 * 1024,
        }
    }

    fn write_waits(&self) -> bool {
        true
    }

    fn allocation_lengthens(&self) -> bool {
        true
    }

    fn is_padded(&self, size: u64) -> bool {
        self.inner.raw_len.get() > size
    }

    async fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        let len = buffer.len();
        let copy = |bytes: &[u8]| {
            buffer[filled..filled + bytes.len()].copy_from_slice(bytes);
            filled += bytes.len();
        };
        self.inner.read(position, len, copy).await
    }

    async fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        let inner = &self.inner;
        // Within the length of the file: a write that makes it longer waits for every other one.
        let end = block_end(position + len);
        let allocated = inner.raw.allocate(position, end - position).await;
        inner.raw_len.set(inner.raw.len()?);
        allocated
    }

    async fn fill(&self, position: u64, len: u64) -> io::Result<bool> {
        let inner = &self.inner;
        let end = position + len;
        // The block in which a write may end is left to it, and is filled by it.
        let (mut at, last) = (block_end(position), block_end(end));
        let zeros = inner.memory.zeros().await;
        while at < last {
            let piece = zeros.len().min((last - at) as usize);
            let written = inner.raw.write(at, zeros.clone(), 0..piece, false).await;
            inner.changed();
            match written {
                Ok(n) => {
                    inner.raw_len.set(inner.raw_len.get().max(at + n as u64));
                    if n < piece {
                        return Ok(false);
                    }
                }
                Err(error) if is_full(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
            at += piece as u64;
        }
        if inner.raw_len.get() < end {
            // All of it lies in the block in which the file ended, which is not as long yet.
            self.allocate(position, len).await?;
            if inner.raw_len.get() < end {
                return Ok(false);
            }
            inner.changed();
        }
        inner.len.set(inner.len.get().max(end));
        self.sync_data().await?;
        Ok(true)
    }

    async fn truncate(&self, len: u64) -> io::Result<()> {
        let inner = &self.inner;
        let _gate = inner.gate.enter().await;
        let result = inner.raw.set_len(len).await;
        inner.changed();
        inner.forget_from(len);
        inner.raw_len.set(inner.raw.len()?);
        inner.len.set(len);
        inner.written.set(inner.written.get().min(len));
        result
    }

    async fn sync_data(&self) -> io::Result<()> {
        let inner = &self.inner;
        let changes = inner.changes.get();
        if inner.synced.get() >= changes {
            return Ok(());
        }
        inner.raw.sync_data().await?;
        inner.synced.set(inner.synced.get().max(changes));
        Ok(())
    }

    /// The device was asked each time, and reads come from there.
    async fn write_again(&self, _from: u64, _to: u64) -> io::Result<()> {
        self.sync_data().await
    }

    async fn slice(&self, position: u64, len: u32, mut loan: Loan) -> io::Result<LogSlice> {
        loan.set(len.into());
        let len = len as usize;
        let mut bytes = Vec::with_capacity(len);
        let copy = |piece: &[u8]| bytes.extend_from_slice(piece);
        if self.inner.read(position, len, copy).await? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(LogSlice::Bytes(Bytes::from_owner(Lent {
            bytes,
            _loan: loan,
        })))
    }

    fn lend(&self, max_bytes: u32) -> Loan {
        self.inner
            .memory
            .lending()
            .lend(max_bytes.min(SLICE_BYTES_MAX))
    }

    fn idle(&self) {
        self.inner.tail.borrow_mut().clear();
        self.inner.memory.drop_blocks(self.inner.id, 0..u64::MAX);
    }
}

impl<R: RawFile> Drop for Inner<R> {
    fn drop(&mut self) {
        self.memory.drop_blocks(self.id, 0..u64::MAX);
        self.memory.unregister(self.key, self.id);
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
