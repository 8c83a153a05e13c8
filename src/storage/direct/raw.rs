//! The file under a [`DirectFile`](super::DirectFile): whole blocks, from and to aligned memory.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;

use crate::runtime::aligned::AlignedBuffer;
use crate::runtime::disk_reads::{DiskRead, DiskReads};
use crate::storage::disk::{Disk, OpenMode};

/// A write that is under way.
pub type RawWrite = Pin<Box<dyn Future<Output = io::Result<usize>>>>;
/// A read that is under way.
pub type RawRead = Pin<Box<dyn Future<Output = io::Result<(usize, AlignedBuffer)>>>>;

/// Clones are the same open file.
pub trait RawFile: Clone + fmt::Debug + 'static {
    /// The same for two opens of one file, and for no two files that are open.
    fn identity(&self) -> io::Result<(u64, u64)>;

    /// Bytes.
    fn len(&self) -> io::Result<u64>;

    /// Writes `range` of `buffer`, which begins and ends on a block, at `position`, which does too. `durable`
    /// makes it as good as synced when it returns. Less than all is written where the rest did not fit.
    ///
    /// Several may be under way. One that is dropped has the buffer until it is done.
    fn write(
        &self,
        position: u64,
        buffer: Rc<AlignedBuffer>,
        range: Range<usize>,
        durable: bool,
    ) -> RawWrite;

    /// Fills the first `len` bytes of `buffer`, whole blocks, from `position`. Returns it with the bytes read:
    /// fewer at the end of the file. `read` ends when the device is done, whether anybody looks at the result or not.
    fn read(&self, position: u64, buffer: AlignedBuffer, len: usize, read: DiskRead) -> RawRead;

    /// Reserves `len` bytes from `position` and makes the file that long. Where the file system cannot,
    /// nothing happens.
    fn allocate(&self, position: u64, len: u64) -> impl Future<Output = io::Result<()>>;

    fn set_len(&self, len: u64) -> impl Future<Output = io::Result<()>>;

    fn sync_data(&self) -> impl Future<Output = io::Result<()>>;
}

/// A disk whose files can be opened past the page cache.
pub trait DirectDisk: Disk {
    type Raw: RawFile;

    /// `InvalidInput` where the file system refuses O_DIRECT.
    fn open_raw(&self, path: &Path, mode: OpenMode) -> impl Future<Output = io::Result<Self::Raw>>;

    /// To be asked before a read.
    fn disk_reads(&self) -> DiskReads;

    /// Closes files somewhere where it may take long.
    fn discard_raw(&self, files: Vec<Self::Raw>) -> impl Future<Output = ()>;
}
