//! A disk on which `.log` files go past the page cache where they are asked to, and everything else as on the
//! disk beneath.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;

use super::{DirectDisk, DirectFile, DirectLimits, DirectMemory};
use crate::base::settings::LogIo;
use crate::storage::disk::{DirEntry, Disk, Loan, LogFile, LogSlice, OpenMode, WriteLimit};

/// One per shard; clones are the same.
pub struct LogDisk<B: DirectDisk> {
    base: B,
    memory: Rc<DirectMemory<B::Raw>>,
    /// Some file system has refused O_DIRECT, and that was said.
    refused: Rc<Cell<bool>>,
}

impl<B: DirectDisk> LogDisk<B> {
    pub fn new(base: B, limits: DirectLimits) -> Self {
        let reads = base.disk_reads();
        Self {
            base,
            memory: Rc::new(DirectMemory::new(limits, reads)),
            refused: Rc::default(),
        }
    }

    /// The disk beneath.
    pub fn base(&self) -> &B {
        &self.base
    }

    /// Bytes that files have in memory.
    pub fn memory_bytes(&self) -> usize {
        self.memory.used_bytes()
    }
}

impl<B: DirectDisk> Clone for LogDisk<B> {
    fn clone(&self) -> Self {
        Self {
            base: self.base.clone(),
            memory: self.memory.clone(),
            refused: self.refused.clone(),
        }
    }
}

impl<B: DirectDisk> fmt::Debug for LogDisk<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogDisk")
    }
}

/// A file of either kind.
pub enum AnyFile<B: DirectDisk> {
    Plain(B::File),
    Direct(DirectFile<B::Raw>),
}

impl<B: DirectDisk> Clone for AnyFile<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Plain(file) => Self::Plain(file.clone()),
            Self::Direct(file) => Self::Direct(file.clone()),
        }
    }
}

impl<B: DirectDisk> fmt::Debug for AnyFile<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(file) => file.fmt(f),
            Self::Direct(file) => file.fmt(f),
        }
    }
}

/// The same call of either kind.
macro_rules! either {
    ($self:ident, $file:ident => $call:expr) => {
        match $self {
            AnyFile::Plain($file) => $call,
            AnyFile::Direct($file) => $call,
        }
    };
}

impl<B: DirectDisk> LogFile for AnyFile<B> {
    fn len(&self) -> io::Result<u64> {
        either!(self, file => file.len())
    }

    async fn write_at(&self, position: u64, buffers: Vec<Bytes>) -> io::Result<u64> {
        either!(self, file => file.write_at(position, buffers).await)
    }

    async fn write_durable_at(&self, position: u64, buffers: Vec<Bytes>) -> io::Result<u64> {
        either!(self, file => file.write_durable_at(position, buffers).await)
    }

    fn write_limit(&self) -> WriteLimit {
        either!(self, file => file.write_limit())
    }

    fn write_waits(&self) -> bool {
        either!(self, file => file.write_waits())
    }

    fn allocation_lengthens(&self) -> bool {
        either!(self, file => file.allocation_lengthens())
    }

    fn is_padded(&self, size: u64) -> bool {
        either!(self, file => file.is_padded(size))
    }

    async fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        either!(self, file => file.read_at(position, buffer).await)
    }

    async fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        either!(self, file => file.allocate(position, len).await)
    }

    async fn fill(&self, position: u64, len: u64) -> io::Result<bool> {
        either!(self, file => file.fill(position, len).await)
    }

    async fn truncate(&self, len: u64) -> io::Result<()> {
        either!(self, file => file.truncate(len).await)
    }

    async fn sync_data(&self) -> io::Result<()> {
        either!(self, file => file.sync_data().await)
    }

    async fn write_again(&self, from: u64, to: u64) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.write_again(from, to).await,
            Self::Direct(file) => file.write_again(from, to).await,
        }
    }

    async fn slice(&self, position: u64, len: u32, loan: Loan) -> io::Result<LogSlice> {
        either!(self, file => file.slice(position, len, loan).await)
    }

    fn lend(&self, max_bytes: u32) -> Loan {
        either!(self, file => file.lend(max_bytes))
    }

    fn idle(&self) {
        either!(self, file => file.idle());
    }
}

impl<B: DirectDisk> Disk for LogDisk<B> {
    type File = AnyFile<B>;

    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<AnyFile<B>> {
        self.base.open(path, mode).await.map(AnyFile::Plain)
    }

    /// A file system that refuses O_DIRECT gets the file through the page cache, and a warning.
    async fn open_log(&self, path: &Path, mode: OpenMode, io: LogIo) -> io::Result<AnyFile<B>> {
        if !io.is_direct() {
            return self.open(path, mode).await;
        }
        match self.base.open_raw(path, mode).await {
            Ok(raw) => {
                let file = DirectFile::open(raw, &self.memory)?;
                if mode == OpenMode::Truncate && file.len()? > 0 {
                    file.truncate(0).await?;
                }
                Ok(AnyFile::Direct(file))
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                if !self.refused.replace(true) {
                    tracing::warn!(
                        "{}: its file system refuses O_DIRECT ({error}): logs there go through the page cache",
                        path.display()
                    );
                }
                self.open(path, mode).await
            }
            Err(error) => Err(error),
        }
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.base.list(dir).await
    }

    async fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.base.create_dir(path).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.base.rename(from, to).await
    }

    async fn rename_all(&self, renames: Vec<(PathBuf, PathBuf)>) -> io::Result<()> {
        self.base.rename_all(renames).await
    }

    async fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.base.remove_file(path).await
    }

    async fn remove_files(&self, paths: Vec<PathBuf>) -> io::Result<()> {
        self.base.remove_files(paths).await
    }

    async fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.base.remove_dir_all(path).await
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.base.sync_dir(dir).await
    }

    async fn read_file(&self, path: &Path, limit_bytes: usize) -> io::Result<Vec<u8>> {
        self.base.read_file(path, limit_bytes).await
    }

    async fn read_pieces(&self, pieces: Vec<(PathBuf, u64, usize)>) -> io::Result<Vec<Vec<u8>>> {
        self.base.read_pieces(pieces).await
    }

    async fn replace_file(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.base.replace_file(path, content).await
    }

    async fn discard(&self, files: Vec<AnyFile<B>>) {
        let (mut plain, mut direct) = (Vec::new(), Vec::new());
        for file in files {
            match file {
                AnyFile::Plain(file) => plain.push(file),
                AnyFile::Direct(file) => direct.push(file.into_raw()),
            }
        }
        if !plain.is_empty() {
            self.base.discard(plain).await;
        }
        if !direct.is_empty() {
            self.base.discard_raw(direct).await;
        }
    }
}
