//! Plain files through the kernel's page cache.
//!
//! A write is one `pwritev` made on the spot: it copies into the page cache and is, measured, the cheapest
//! way there. A read asks for resident pages only (`RWF_NOWAIT`) and leaves cold ones to the
//! [`Offload`]. Everything that may sleep in the kernel (open, rename, unlink, fallocate, truncate, sync)
//! goes to the [`Offload`] as well.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use rustix::fs::FallocateFlags;
use rustix::io::ReadWriteFlags;

use super::disk::{
    DirEntry, Disk, Loan, LogFile, LogSlice, MAX_WRITE_BUFFERS, Offload, OpenMode, passed_over,
};
use super::removal::{remove_folder_now, remove_now};
use crate::base::profile::Gauged;
use crate::base::{FileSlice, Timestamp};
use crate::runtime::profile;

/// Most bytes in one `pwritev`. The kernel sizes the folios of new pages by the call: calls of 1 MiB want free
/// memory in pieces that seldom exist, or that the host of a virtual machine has taken back. System time of
/// 2 GB written to 8 new files on ext4, Linux 6.18, in turns, s/GB: 64 KiB 0.21 to 0.45, 256 KiB 0.20 to 0.40,
/// 512 KiB 0.19 to 0.28, 1 MiB 0.36 to 1.85. A call of this size also holds up the shard for 0.1 ms only.
const MAX_WRITE_BYTES: usize = 256 * 1024;

/// A disk of plain files. `O` says where blocking calls are made.
#[derive(Clone, Debug)]
pub struct PageCache<O> {
    offload: O,
}

impl<O: Offload> PageCache<O> {
    pub fn new(offload: O) -> Self {
        Self { offload }
    }

    /// Where its blocking calls are made.
    pub fn offload(&self) -> &O {
        &self.offload
    }
}

/// An open plain file.
#[derive(Clone, Debug)]
pub struct PageCacheFile<O> {
    file: Arc<File>,
    offload: O,
}

impl<O: Offload + std::fmt::Debug> LogFile for PageCacheFile<O> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    async fn write_at(&self, position: u64, buffers: Vec<Bytes>) -> io::Result<u64> {
        let mut written = 0u64;
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(buffers.len().min(MAX_WRITE_BUFFERS));
        let mut pending = 0usize;
        for buffer in &buffers {
            for part in buffer.chunks(MAX_WRITE_BYTES) {
                if slices.len() == MAX_WRITE_BUFFERS || pending + part.len() > MAX_WRITE_BYTES {
                    let done = pwritev_all(&self.file, &mut slices, position + written)?;
                    written += done;
                    if done < pending as u64 {
                        return Ok(written);
                    }
                    slices.clear();
                    pending = 0;
                }
                slices.push(IoSlice::new(part));
                pending += part.len();
            }
        }
        if pending > 0 {
            written += pwritev_all(&self.file, &mut slices, position + written)?;
        }
        Ok(written)
    }

    async fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            let result = rustix::io::preadv2(
                &*self.file,
                &mut [IoSliceMut::new(&mut buffer[read..])],
                position + read as u64,
                ReadWriteFlags::NOWAIT,
            );
            match result {
                Ok(0) => return Ok(read),
                Ok(n) => read += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::OPNOTSUPP) => {
                    let cold = self
                        .read_cold(position + read as u64, buffer.len() - read)
                        .await?;
                    buffer[read..read + cold.len()].copy_from_slice(&cold);
                    return Ok(read + cold.len());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(read)
    }

    async fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        let file = self.file.clone();
        self.offload
            .run(move || {
                match rustix::fs::fallocate(&*file, FallocateFlags::KEEP_SIZE, position, len) {
                    Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            })
            .await
    }

    async fn fill(&self, position: u64, len: u64) -> io::Result<bool> {
        let file = self.file.clone();
        self.offload
            .run(move || match reopen(&file) {
                Ok(own) => fill_now(&own, position, len),
                // No /proc.
                Err(_) => fill_now(&file, position, len),
            })
            .await
    }

    async fn truncate(&self, len: u64) -> io::Result<()> {
        let file = self.file.clone();
        self.offload.run(move || file.set_len(len)).await
    }

    async fn sync_data(&self) -> io::Result<()> {
        self.offload.sync_data(self.file.clone()).await
    }

    async fn slice(&self, position: u64, len: u32, _loan: Loan) -> io::Result<LogSlice> {
        Ok(LogSlice::File(FileSlice {
            file: self.file.clone(),
            position,
            len,
        }))
    }
}

impl<O: Offload> PageCacheFile<O> {
    async fn read_cold(&self, position: u64, len: usize) -> io::Result<Vec<u8>> {
        let file = self.file.clone();
        let read = self.offload.run(move || {
            let mut buffer = vec![0; len];
            let mut read = 0;
            while read < len {
                match rustix::io::pread(&*file, &mut buffer[read..], position + read as u64) {
                    Ok(0) => break,
                    Ok(n) => read += n,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            buffer.truncate(read);
            Ok(buffer)
        });
        profile::measure(Gauged::DiskRead, read).await
    }
}

/// The same file, opened once more: the kernel tells of a write that failed once to whoever has opened the file, and
/// the zeros' sync must not be told of records in place of theirs.
fn reopen(file: &File) -> io::Result<File> {
    File::options()
        .write(true)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Writes zeros and syncs them, a piece at a time: a sync of records that comes meanwhile takes the piece
/// with it, and waits for no more.
fn fill_now(file: &File, position: u64, len: u64) -> io::Result<bool> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    const PIECE_BYTES: u64 = 256 * 1024;
    let end = position + len;
    let mut at = position;
    while at < end {
        let piece_end = end.min(at + PIECE_BYTES);
        while at < piece_end {
            let zeros = &ZEROS[..ZEROS.len().min((piece_end - at) as usize)];
            match rustix::io::pwrite(file, zeros, at) {
                Ok(0) | Err(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => {
                    return Ok(false);
                }
                Ok(n) => at += n as u64,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        file.sync_data()?;
    }
    Ok(true)
}

/// Writes all of `slices`, or what fits: a short write is continued, so that a full disk names itself.
fn pwritev_all(file: &File, slices: &mut [IoSlice<'_>], position: u64) -> io::Result<u64> {
    let mut left: &mut [IoSlice<'_>] = slices;
    let mut written = 0u64;
    while !left.is_empty() {
        let at = position + written;
        let call = || rustix::io::pwritev(file, left, at);
        match profile::measure_now(Gauged::WriteTime, call) {
            Ok(0) => break,
            Ok(n) => {
                profile::record(Gauged::WriteBytes, n as u64);
                written += n as u64;
                IoSlice::advance_slices(&mut left, n);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(written)
}

impl<O: Offload + std::fmt::Debug> Disk for PageCache<O> {
    type File = PageCacheFile<O>;

    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Self::File> {
        let path = path.to_path_buf();
        let file = self
            .offload
            .run(move || open_options(mode).open(path))
            .await?;
        Ok(PageCacheFile {
            file: Arc::new(file),
            offload: self.offload.clone(),
        })
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let dir = dir.to_path_buf();
        self.offload.run(move || list_now(&dir)).await
    }

    async fn create_dir(&self, path: &Path) -> io::Result<()> {
        let path = path.to_path_buf();
        self.offload.run(move || std::fs::create_dir(path)).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_path_buf(), to.to_path_buf());
        self.offload.run(move || std::fs::rename(from, to)).await
    }

    async fn rename_all(&self, renames: Vec<(PathBuf, PathBuf)>) -> io::Result<()> {
        self.offload
            .run(move || {
                renames
                    .iter()
                    .try_for_each(|(from, to)| std::fs::rename(from, to))
            })
            .await
    }

    async fn remove_file(&self, path: &Path) -> io::Result<()> {
        let path = path.to_path_buf();
        self.offload.run(move || remove_now(&path)).await
    }

    async fn remove_files(&self, paths: Vec<PathBuf>) -> io::Result<()> {
        self.offload
            .run(move || {
                let mut paths = paths.iter();
                paths.try_for_each(|path| passed_over(remove_now(path)))
            })
            .await
    }

    async fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let path = path.to_path_buf();
        self.offload.run(move || remove_folder_now(&path)).await
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_path_buf();
        let opened = self.offload.run(move || File::open(dir)).await?;
        self.offload.sync_all(Arc::new(opened)).await
    }

    async fn read_file(&self, path: &Path, limit_bytes: usize) -> io::Result<Vec<u8>> {
        let path = path.to_path_buf();
        self.offload
            .run(move || {
                use std::io::Read;
                let mut content = Vec::new();
                // One more than allowed, to see that there is more.
                let limit = limit_bytes as u64 + 1;
                File::open(&path)?.take(limit).read_to_end(&mut content)?;
                if content.len() > limit_bytes {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("larger than {limit_bytes} bytes"),
                    ));
                }
                Ok(content)
            })
            .await
    }

    async fn read_pieces(&self, pieces: Vec<(PathBuf, u64, usize)>) -> io::Result<Vec<Vec<u8>>> {
        let job = move || pieces.into_iter().map(read_piece).collect();
        self.offload.run(job).await
    }

    async fn replace_file(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let (path, content) = (path.to_path_buf(), content.to_vec());
        self.offload.run(move || replace_now(&path, &content)).await
    }

    async fn discard(&self, files: Vec<Self::File>) {
        let files: Vec<Arc<File>> = files.into_iter().map(|file| file.file).collect();
        // Closing reports nothing that could be acted upon.
        let _ = self
            .offload
            .run(move || {
                drop(files);
                Ok(())
            })
            .await;
    }
}

fn read_piece((path, position, len): (PathBuf, u64, usize)) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = vec![0; len];
    let mut read = 0;
    while read < len {
        match rustix::io::pread(&file, &mut bytes[read..], position + read as u64) {
            Ok(0) => break,
            Ok(n) => read += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(read);
    Ok(bytes)
}

/// How a plain file is opened in this mode.
pub(super) fn open_options(mode: OpenMode) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true);
    match mode {
        OpenMode::Read => {}
        OpenMode::Write => {
            options.write(true);
        }
        OpenMode::Create => {
            options.write(true).create(true).truncate(false);
        }
        OpenMode::Truncate => {
            options.write(true).create(true).truncate(true);
        }
    }
    options
}

fn list_now(dir: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Removed between the two calls.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let modified = metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
            .and_then(|since| i64::try_from(since.as_millis()).ok())
            .unwrap_or(0);
        let is_dir = metadata.is_dir();
        entries.push(DirEntry {
            name,
            is_dir,
            len: if is_dir { 0 } else { metadata.len() },
            modified: Timestamp(modified),
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn replace_now(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = PathBuf::from(name);
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&temporary, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}
