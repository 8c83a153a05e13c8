//! The files of a [`MemoryDisk`] as those past the page cache see them: whole blocks from and to aligned memory,
//! which a device may tear between sectors.

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use super::apply;
use super::crash::BLOCK_BYTES as SECTOR_BYTES;
use super::{Call, Change, Content, Fault, MemoryDisk, MemoryFile};
use crate::runtime::aligned::{AlignedBuffer, BLOCK_BYTES};
use crate::runtime::disk_reads::{DiskRead, DiskReads};
use crate::storage::direct::{DirectDisk, RawFile, RawRead, RawWrite};
use crate::storage::disk::{Disk, LogFile, OpenMode};

/// What a device says to anything that is not aligned.
fn check_aligned(position: u64, bytes: &[u8]) -> io::Result<()> {
    let is_aligned = position.is_multiple_of(BLOCK_BYTES as u64)
        && bytes.len().is_multiple_of(BLOCK_BYTES)
        && !bytes.is_empty()
        && bytes.as_ptr().addr().is_multiple_of(BLOCK_BYTES);
    match is_aligned {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

impl Content {
    /// Writes so that it is on the device before anything that comes later. Writes that are not synced stay
    /// so, except where they lie below it.
    fn write_through(&mut self, position: u64, bytes: &[u8]) {
        // The length of the file goes to the device with it.
        let is_cut = |change: &Change| matches!(change, Change::Truncate(_));
        if let Some(last) = self.unsynced.iter().rposition(is_cut) {
            self.sync_up_to(self.synced_changes + last as u64 + 1);
        }
        for change in &mut self.unsynced {
            let Change::Write {
                position: at,
                bytes: old,
                ..
            } = change
            else {
                continue;
            };
            let from = position.max(*at);
            let to = (position + bytes.len() as u64).min(*at + old.len() as u64);
            if from < to {
                let new = &bytes[(from - position) as usize..(to - position) as usize];
                old[(from - *at) as usize..(to - *at) as usize].copy_from_slice(new);
            }
        }
        apply(&mut self.synced, position, bytes);
    }
}

impl RawFile for MemoryFile {
    fn identity(&self) -> io::Result<(u64, u64)> {
        Ok((0, Rc::as_ptr(&self.inode).addr() as u64))
    }

    fn len(&self) -> io::Result<u64> {
        LogFile::len(self)
    }

    fn write(
        &self,
        position: u64,
        buffer: Rc<AlignedBuffer>,
        range: Range<usize>,
        durable: bool,
    ) -> RawWrite {
        let file = self.clone();
        Box::pin(async move {
            let bytes = &AlignedBuffer::as_ref(&buffer)[range];
            check_aligned(position, bytes)?;
            let (keep, error) = match file.shared.count(Call::Write)? {
                None => (bytes.len(), None),
                Some(Fault::Io) => return Err(io::Error::from_raw_os_error(libc::EIO)),
                Some(Fault::DiskFull) => return Err(io::Error::from_raw_os_error(libc::ENOSPC)),
                Some(Fault::Short(len)) => (len.min(bytes.len()), None),
                Some(Fault::PowerOff) => (bytes.len() / 2, Some(io::Error::other("no power"))),
            };
            let keep = keep - keep % SECTOR_BYTES;
            let bytes = &bytes[..keep];
            let put = || {
                let mut content = file.inode.borrow_mut();
                apply(&mut content.bytes, position, bytes);
                content.allocated = content.allocated.max(content.bytes.len() as u64);
                content.modified = file.shared.now.get();
                content.unsynced.push(Change::Write {
                    position,
                    bytes: bytes.to_vec(),
                    direct: true,
                });
            };
            put();
            if let Some(error) = error {
                return Err(error);
            }
            file.shared.pause().await;
            poll_fn(|context| file.shared.poll_held(&file.shared.writes_held, context)).await;
            if durable {
                file.inode.borrow_mut().write_through(position, bytes);
            }
            Ok(keep)
        })
    }

    fn read(&self, position: u64, mut buffer: AlignedBuffer, len: usize, _: DiskRead) -> RawRead {
        let file = self.clone();
        Box::pin(async move {
            let into = &mut AlignedBuffer::as_mut(&mut buffer)[..len];
            check_aligned(position, into)?;
            let read = file.read_at(position, into).await?;
            Ok((read, buffer))
        })
    }

    async fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        LogFile::allocate(self, position, len).await?;
        let is_held = &self.shared.writes_held;
        poll_fn(|context| self.shared.poll_held(is_held, context)).await;
        let end = position + len;
        let mut content = self.inode.borrow_mut();
        if (content.bytes.len() as u64) < end {
            content.bytes.resize(end as usize, 0);
            content.unsynced.push(Change::Truncate(end));
        }
        Ok(())
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.truncate(len).await
    }

    async fn sync_data(&self) -> io::Result<()> {
        LogFile::sync_data(self).await
    }
}

impl DirectDisk for MemoryDisk {
    type Raw = MemoryFile;

    async fn open_raw(&self, path: &Path, mode: OpenMode) -> io::Result<MemoryFile> {
        self.open(path, mode).await
    }

    /// Nobody waits here for a device that is busy.
    fn disk_reads(&self) -> DiskReads {
        DiskReads::default()
    }

    async fn discard_raw(&self, _files: Vec<MemoryFile>) {}
}
