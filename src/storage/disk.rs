//! The seam between the log and whatever keeps its bytes.
//!
//! [`Disk`] makes, lists, renames and removes files; [`LogFile`] is one open file of a log. The back
//! ends are `PageCache` (plain files through the kernel's page cache)
//! and `MemoryDisk` (bytes in memory, with faults and crash images); `LogDisk` lies on one of them and
//! writes and reads the `.log` files that ask for it past the page cache.
//! Storage awaits these and nothing else, so a small poll loop can run a whole log.
//!
//! What a back end must keep:
//! 1. When a write's future is ready, its bytes are where a killed process does not take them along
//!    (in the kernel, or on the device), and every later read sees them.
//! 2. A write that fails or falls short says so; it is never retried here.
//! 3. After `sync_data` the bytes, and the length needed to read them, survive a power cut. After
//!    `sync_dir` so do the names in the directory.

use std::fs::File;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags};

use crate::base::settings::LogIo;
use crate::base::{FileSlice, Timestamp};
use crate::runtime::aligned::AlignedBuffer;
use crate::runtime::disk_reads::{DiskRead, DiskReads};

/// Record bytes on their way out of a log.
#[derive(Clone, Debug)]
pub enum LogSlice {
    /// A range of a file, to be sent by sendfile or splice.
    File(FileSlice),
    /// The bytes themselves, where they are not in the page cache.
    Bytes(Bytes),
}

impl LogSlice {
    /// Bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::File(slice) => slice.len as usize,
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// The file exists and is only read.
    Read,
    /// The file exists and will be written.
    Write,
    /// The file is made if it does not exist, and will be written. What it holds is kept.
    Create,
    /// As `Create`, and what it holds is dropped.
    Truncate,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    pub name: String,
    pub is_dir: bool,
    /// Bytes; 0 for a directory.
    pub len: u64,
    /// When the content last changed.
    pub modified: Timestamp,
}

/// Bytes of one piece of [`LogFile::write_again`].
const AGAIN_BYTES: u64 = 256 * 1024;

/// One open file. Clones are the same open file; it is closed with the last of them.
///
/// Closing a big file that was removed frees its blocks, which can take long: hand such a file to
/// [`Disk::discard`].
pub trait LogFile: Clone + std::fmt::Debug + 'static {
    /// Bytes from the start to the end of what was written or [filled](Self::fill), whatever was allocated
    /// behind it.
    fn len(&self) -> io::Result<u64>;

    /// Writes the buffers one behind the other from `position`.
    ///
    /// Returns the bytes written: fewer than given means that the rest did not fit (a full disk). One
    /// call is given at most what [`write_limit`](Self::write_limit) says.
    fn write_at(&self, position: u64, buffers: Vec<Bytes>)
    -> impl Future<Output = io::Result<u64>>;

    /// As [`write_at`](Self::write_at), of bytes that will be synced before anybody is told of them: where
    /// that is cheaper they are on the device when it returns, and a
    /// [`sync_data`](Self::sync_data) behind it has nothing to do.
    fn write_durable_at(
        &self,
        position: u64,
        buffers: Vec<Bytes>,
    ) -> impl Future<Output = io::Result<u64>> {
        self.write_at(position, buffers)
    }

    /// What one write is given at most. What goes to the device at once takes larger ones than a copy that
    /// holds up the shard.
    fn write_limit(&self) -> WriteLimit {
        WriteLimit {
            bytes: 1024 * 1024,
            buffers: MAX_WRITE_BUFFERS,
        }
    }

    /// Whether a write waits for the device, so that whoever has several files to write should begin all of
    /// them.
    fn write_waits(&self) -> bool {
        false
    }

    /// Whether [`allocate`](Self::allocate) makes the file longer, though not what [`len`](Self::len) says.
    fn allocation_lengthens(&self) -> bool {
        false
    }

    /// Whether the file may be longer than the `size` that was written, by zeros of its own making: it is to
    /// be [truncated](Self::truncate) to what it holds before its length is trusted.
    fn is_padded(&self, size: u64) -> bool {
        let _ = size;
        false
    }

    /// Fills `buffer` from `position`; returns fewer bytes only at the end of the file.
    fn read_at(&self, position: u64, buffer: &mut [u8]) -> impl Future<Output = io::Result<usize>>;

    /// Reserves `len` bytes of disk from `position` without changing what [`len`](Self::len) says.
    ///
    /// Advice: where the file system cannot, nothing happens and the answer is Ok. A full disk is an
    /// error of its own kind and harmless here.
    fn allocate(&self, position: u64, len: u64) -> impl Future<Output = io::Result<()>>;

    /// Puts `len` zeros on the device from `position`, behind all that is written, and makes the file that
    /// long: what is written over them later needs no change of the file's metadata to be durable.
    ///
    /// Returns false where there is no room for all of it. After an error it is not known what of the file
    /// is on the device, as after one of [`sync_data`](Self::sync_data). The future must be run to its end:
    /// dropped, the zeros may come at any time.
    fn fill(&self, position: u64, len: u64) -> impl Future<Output = io::Result<bool>>;

    /// Cuts the file to `len` bytes and gives back what was allocated behind.
    fn truncate(&self, len: u64) -> impl Future<Output = io::Result<()>>;

    /// Makes what was written survive a power cut. Never retried by the caller after an error.
    fn sync_data(&self) -> impl Future<Output = io::Result<()>>;

    /// Makes what lies between two positions survive a power cut, though a sync of it may have failed before. The
    /// kernel then takes for written what the device does not have, and another sync would do nothing: so the bytes
    /// are written once more.
    fn write_again(&self, from: u64, to: u64) -> impl Future<Output = io::Result<()>> {
        async move {
            let mut at = from;
            while at < to {
                let mut bytes = vec![0; (to - at).min(AGAIN_BYTES) as usize];
                let read = self.read_at(at, &mut bytes).await?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                bytes.truncate(read);
                if self.write_at(at, vec![bytes.into()]).await? < read as u64 {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                at += read as u64;
                if at < to {
                    // As between the pieces of any long write.
                    futures_lite::future::yield_now().await;
                }
            }
            self.sync_data().await
        }
    }

    /// The range as something a connection can send, without reading it where it is in the page cache.
    /// `len` bytes must have been written at `position`, or the back end says so with an error. More than the
    /// `loan` allows may be asked for where one batch is larger.
    fn slice(
        &self,
        position: u64,
        len: u32,
        loan: Loan,
    ) -> impl Future<Output = io::Result<LogSlice>>;

    /// How many of `max_bytes` a [`slice`](Self::slice) may have now: where it takes memory, that is bounded,
    /// and held from here on. With 0 there is none left, and more than one batch should not be asked for.
    fn lend(&self, max_bytes: u32) -> Loan {
        Loan {
            max_bytes,
            of: None,
        }
    }

    /// Gives back memory that a file holds which nobody writes to.
    fn idle(&self) {}
}

/// Bytes that somebody may have in memory; given back when dropped.
#[derive(Debug)]
pub struct Loan {
    /// How many.
    pub max_bytes: u32,
    of: Option<(Arc<Lending>, u64)>,
}

impl Loan {
    /// Changes how many are held, whether or not there are so many.
    pub(super) fn set(&mut self, bytes: u64) {
        if let Some((lending, held)) = &mut self.of {
            lending.lent.fetch_add(bytes, Ordering::Relaxed);
            lending.lent.fetch_sub(*held, Ordering::Relaxed);
            *held = bytes;
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// A bounded number of bytes that loans are made of.
#[derive(Debug)]
pub(super) struct Lending {
    limit: u64,
    lent: AtomicU64,
}

impl Lending {
    pub(super) fn new(limit: u64) -> Arc<Self> {
        let lent = AtomicU64::new(0);
        Arc::new(Self { limit, lent })
    }

    /// At most `max_bytes` of what is left.
    pub(super) fn lend(self: &Arc<Self>, max_bytes: u32) -> Loan {
        let left = self.limit.saturating_sub(self.lent.load(Ordering::Relaxed));
        let max_bytes = max_bytes.min(u32::try_from(left).unwrap_or(u32::MAX));
        self.lent.fetch_add(max_bytes.into(), Ordering::Relaxed);
        Loan {
            max_bytes,
            of: Some((self.clone(), max_bytes.into())),
        }
    }
}

/// See [`LogFile::write_limit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteLimit {
    /// Except that one buffer may be larger.
    pub bytes: u64,
    pub buffers: usize,
}

/// Most buffers in one [`LogFile::write_at`] (the kernel's limit for a vectored write).
pub const MAX_WRITE_BUFFERS: usize = 1024;

/// Where files are. Clones share everything.
pub trait Disk: Clone + 'static {
    type File: LogFile;

    fn open(&self, path: &Path, mode: OpenMode) -> impl Future<Output = io::Result<Self::File>>;
    /// Opens the `.log` of a segment, whose bytes go the way that `io` says, as far as this disk knows it.
    fn open_log(
        &self,
        path: &Path,
        mode: OpenMode,
        io: LogIo,
    ) -> impl Future<Output = io::Result<Self::File>> {
        let _ = io;
        self.open(path, mode)
    }
    /// The names in a directory, in order. Names that are not UTF-8 are left out.
    fn list(&self, dir: &Path) -> impl Future<Output = io::Result<Vec<DirEntry>>>;
    /// Makes a directory; its parent exists. One that exists already is `AlreadyExists`.
    fn create_dir(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// Replaces `to` if it exists.
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>>;
    /// Renames one after the other, as [`rename`](Self::rename) does, and stops at the first that fails.
    fn rename_all(&self, renames: Vec<(PathBuf, PathBuf)>) -> impl Future<Output = io::Result<()>> {
        async move {
            for (from, to) in &renames {
                self.rename(from, to).await?;
            }
            Ok(())
        }
    }
    fn remove_file(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    /// Removes one after the other, as [`remove_file`](Self::remove_file) does, and stops at the first that
    /// fails. One that is not there is passed over.
    fn remove_files(&self, paths: Vec<PathBuf>) -> impl Future<Output = io::Result<()>> {
        async move {
            for path in &paths {
                passed_over(self.remove_file(path).await)?;
            }
            Ok(())
        }
    }
    /// Removes a directory and everything in it.
    fn remove_dir_all(&self, path: &Path) -> impl Future<Output = io::Result<()>>;
    fn sync_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>>;
    /// The whole of a small file; more than `limit_bytes` is `InvalidData`.
    fn read_file(
        &self,
        path: &Path,
        limit_bytes: usize,
    ) -> impl Future<Output = io::Result<Vec<u8>>>;
    /// Bytes of many files, each by its path, position and length, in one call to the disk; fewer where a
    /// file ends before.
    fn read_pieces(
        &self,
        pieces: Vec<(PathBuf, u64, usize)>,
    ) -> impl Future<Output = io::Result<Vec<Vec<u8>>>> {
        async move {
            let mut read = Vec::with_capacity(pieces.len());
            for (path, position, len) in pieces {
                let mut bytes = vec![0; len];
                let file = self.open(&path, OpenMode::Read).await?;
                let count = file.read_at(position, &mut bytes).await?;
                bytes.truncate(count);
                read.push(bytes);
            }
            Ok(read)
        }
    }
    /// Writes a small file so that after a crash at any moment either the old or the new content is
    /// there: a temporary file beside it, synced, renamed, the directory synced.
    fn replace_file(&self, path: &Path, content: &[u8]) -> impl Future<Output = io::Result<()>>;
    /// Closes files somewhere where it may take long.
    fn discard(&self, files: Vec<Self::File>) -> impl Future<Output = ()>;
}

/// A removal counts where there is nothing to remove.
pub(super) fn passed_over(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Where calls are made that may sleep in the kernel, so that a shard does not.
///
/// The broker gives an implementation over its auxiliary ring and its helper threads; [`Inline`] makes
/// the call on the spot.
pub trait Offload: Clone + 'static {
    /// `fdatasync` of the file.
    fn sync_data(&self, file: Arc<File>) -> impl Future<Output = io::Result<()>>;

    /// Writes `range` of `buffer`, in whole blocks, at `position` of a file that was opened with O_DIRECT.
    /// `durable` makes it as good as synced when it returns. May write less than all and say so.
    ///
    /// A future that is dropped leaves the buffer with the kernel until that is done with it.
    fn write_direct(
        &self,
        file: Arc<File>,
        position: u64,
        buffer: Rc<AlignedBuffer>,
        range: Range<usize>,
        durable: bool,
    ) -> impl Future<Output = io::Result<usize>>;

    /// Fills the first `len` bytes of `buffer`, which are whole blocks, from `position` of a file that was
    /// opened with O_DIRECT. Returns it with the bytes read: fewer at the end of the file. `read`, which is one of
    /// [`disk_reads`](Self::disk_reads), ends when the disk is done.
    fn read_direct(
        &self,
        file: Arc<File>,
        position: u64,
        buffer: AlignedBuffer,
        len: usize,
        read: DiskRead,
    ) -> impl Future<Output = io::Result<(usize, AlignedBuffer)>>;

    /// To be asked before a large read from a disk.
    fn disk_reads(&self) -> DiskReads;

    /// `fsync` of the file, which may be a directory.
    fn sync_all(&self, file: std::sync::Arc<std::fs::File>)
    -> impl Future<Output = io::Result<()>>;

    /// Runs a blocking job (open, rename, unlink, fallocate, a read of cold pages) and returns what it
    /// returned.
    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> impl Future<Output = io::Result<T>>;
}

/// Makes every blocking call on the spot: for tests, tools and the start of the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inline;

impl Offload for Inline {
    async fn sync_data(&self, file: Arc<File>) -> io::Result<()> {
        file.sync_data()
    }

    async fn write_direct(
        &self,
        file: Arc<File>,
        position: u64,
        buffer: Rc<AlignedBuffer>,
        range: Range<usize>,
        durable: bool,
    ) -> io::Result<usize> {
        let bytes = &AlignedBuffer::as_ref(&buffer)[range];
        let flags = match durable {
            true => ReadWriteFlags::DSYNC,
            false => ReadWriteFlags::empty(),
        };
        loop {
            let vectors = [io::IoSlice::new(bytes)];
            match rustix::io::pwritev2(&*file, &vectors, position, flags) {
                Err(Errno::INTR) => {}
                written => return Ok(written?),
            }
        }
    }

    async fn read_direct(
        &self,
        file: Arc<File>,
        position: u64,
        mut buffer: AlignedBuffer,
        len: usize,
        _read: DiskRead,
    ) -> io::Result<(usize, AlignedBuffer)> {
        loop {
            match file.read_at(&mut AlignedBuffer::as_mut(&mut buffer)[..len], position) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return Ok((read?, buffer)),
            }
        }
    }

    fn disk_reads(&self) -> DiskReads {
        DiskReads::default()
    }

    async fn sync_all(&self, file: std::sync::Arc<std::fs::File>) -> io::Result<()> {
        file.sync_all()
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        job()
    }
}
