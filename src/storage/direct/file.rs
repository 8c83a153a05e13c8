//! Plain files, opened with O_DIRECT.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use rustix::fs::FallocateFlags;

use super::raw::{DirectDisk, RawFile, RawRead, RawWrite};
use crate::runtime::aligned::{AlignedBuffer, BLOCK_BYTES};
use crate::runtime::disk_reads::{DiskRead, DiskReads};
use crate::storage::disk::{Offload, OpenMode};
use crate::storage::page_cache::{PageCache, open_options};

/// A file that was opened with O_DIRECT; `O` says where blocking calls are made.
#[derive(Clone, Debug)]
pub struct PlainRaw<O> {
    file: Arc<File>,
    offload: O,
}

impl<O: Offload + std::fmt::Debug> RawFile for PlainRaw<O> {
    fn identity(&self) -> io::Result<(u64, u64)> {
        let metadata = self.file.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn write(
        &self,
        position: u64,
        buffer: Rc<AlignedBuffer>,
        range: Range<usize>,
        durable: bool,
    ) -> RawWrite {
        let (file, offload) = (self.file.clone(), self.offload.clone());
        Box::pin(async move {
            let mut written = 0;
            // A short write is continued, so that a full disk names itself.
            while written < range.len() && written.is_multiple_of(BLOCK_BYTES) {
                let rest = range.start + written..range.end;
                let at = position + written as u64;
                let write = offload.write_direct(file.clone(), at, buffer.clone(), rest, durable);
                match write.await {
                    Ok(0) => break,
                    Ok(n) => written += n,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(written)
        })
    }

    fn read(&self, position: u64, buffer: AlignedBuffer, len: usize, read: DiskRead) -> RawRead {
        let (file, offload) = (self.file.clone(), self.offload.clone());
        Box::pin(async move {
            let read = offload.read_direct(file, position, buffer, len, read);
            read.await
        })
    }

    async fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        let file = self.file.clone();
        let job = move || {
            use rustix::io::Errno;
            match rustix::fs::fallocate(&*file, FallocateFlags::empty(), position, len) {
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
                Err(error) => Err(error.into()),
            }
        };
        self.offload.run(job).await
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        let file = self.file.clone();
        self.offload.run(move || file.set_len(len)).await
    }

    async fn sync_data(&self) -> io::Result<()> {
        self.offload.sync_data(self.file.clone()).await
    }
}

impl<O: Offload + std::fmt::Debug> DirectDisk for PageCache<O> {
    type Raw = PlainRaw<O>;

    async fn open_raw(&self, path: &Path, mode: OpenMode) -> io::Result<PlainRaw<O>> {
        let path = path.to_path_buf();
        let offload = self.offload().clone();
        let open = move || {
            let mut options = open_options(mode);
            options.custom_flags(libc::O_DIRECT).open(path)
        };
        let file = Arc::new(offload.run(open).await?);
        Ok(PlainRaw { file, offload })
    }

    fn disk_reads(&self) -> DiskReads {
        self.offload().disk_reads()
    }

    async fn discard_raw(&self, files: Vec<PlainRaw<O>>) {
        let files: Vec<Arc<File>> = files.into_iter().map(|raw| raw.file).collect();
        let close = move || {
            drop(files);
            Ok(())
        };
        // Closing reports nothing that could be acted upon.
        let _ = self.offload().run(close).await;
    }
}

/// Whether files in `dir` can be written and read past the page cache, in blocks as they are used here; the
/// reason if not.
pub fn probe_direct(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let path = dir.join(".ringspun-direct.tmp");
    let mut options = open_options(OpenMode::Truncate);
    let pool = crate::runtime::aligned::BufferPool::new(0);
    let tried = options
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .and_then(|file| {
            let Some(mut block) = pool.take(BLOCK_BYTES) else {
                return Ok(());
            };
            AlignedBuffer::as_mut(&mut block).fill(1);
            file.write_all_at(AlignedBuffer::as_ref(&block), 0)?;
            file.read_exact_at(AlignedBuffer::as_mut(&mut block), 0)
        });
    let removed = std::fs::remove_file(&path);
    tried.and(match removed {
        // It was never made.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    })
}
