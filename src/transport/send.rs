//! The sending half of a connection: buffers by vectored sends, file slices by sendfile.
//!
//! A slice goes out in pieces of at most [`PIECE_BYTES`], less while producers want their turns, and the shard's
//! other tasks run between them. Before each piece `preadv2(RWF_NOWAIT)` says whether it is in the page cache; if not, the
//! auxiliary ring splices it into a pipe and from there into the socket, off the shard and without a
//! copy. What finds no room in the socket waits for it here. What the reader will want next is read
//! ahead meanwhile (see [`read_ahead`](super::read_ahead)).
//!
//! A small slice that is in the page cache is read instead, while there is memory for it: it goes out with the
//! buffers around it in one call, where sendfile would make three of them.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use rustix::io::{Errno, ReadWriteFlags};
use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};
use rustix::pipe::{SpliceFlags, splice};

use super::connection::{ConnectionOptions, Socket};
use super::outgoing::{Outgoing, Part};
use super::read_ahead::ReadAhead;
use crate::base::file_slice::FileSlice;
use crate::base::profile::Gauged;
use crate::runtime::aux_ring::{AuxRing, Spliced};
use crate::runtime::budget::{Budget, Units};
use crate::runtime::executor;
use crate::runtime::pipes::PIPE_BYTES;
use crate::runtime::profile;
use crate::runtime::yield_budget::BulkBudget;

/// Bytes of a file that are sent at once if they are in the page cache. One consumer read 5.2 GB/s with
/// pieces of 1 MiB, 5.0 with 512 KiB and 4.5 with 256 KiB (medians of 3, in turns); 1 MiB takes 0.2 ms.
const PIECE_BYTES: u32 = 1024 * 1024;

/// The same while producers want their turns. With 5,000 records/s beside a reader of a cold backlog, four runs in turns,
/// the p99 was 1.0, 1.2 and 1.3 ms with long pieces and 0.6, 0.8 and 0.9 with these (in the first the load was late
/// itself); the reader was as fast.
const SHORT_PIECE_BYTES: u32 = 256 * 1024;

/// Bytes that are brought in from the disk at once.
const COLD_PIECE_BYTES: u32 = 256 * 1024;
const _: () = assert!(COLD_PIECE_BYTES as usize <= PIPE_BYTES);

/// A slice of a file up to this is read and sent with the buffers around it.
const READ_BYTES_MAX: u32 = 16 * 1024;

/// With so many bytes of one reply read, they are sent before more are.
const READ_BYTES_WAITING_MAX: usize = 64 * 1024;

/// A byte is probed every so often: the kernel's read-ahead works in such steps.
const PROBE_EVERY_BYTES: u32 = 128 * 1024;

/// Buffers in one vectored send.
const VECTORS_MAX: usize = 64;

/// Bytes in one vectored send, which copies them: 0.1 ms.
const COPIED_BYTES_MAX: usize = 256 * 1024;

/// A byte that is copied counts as so many that are sent without a copy.
const COPY_COST: usize = 2;

/// The beginning of `buffers`, none of which is empty, as one vectored send takes it, and whether that is all.
fn vectors(buffers: &[Bytes]) -> (Vec<IoSlice<'_>>, bool) {
    let mut vectors = Vec::new();
    let mut room = COPIED_BYTES_MAX;
    let mut is_all = buffers.len() <= VECTORS_MAX;
    for buffer in buffers.iter().take(VECTORS_MAX) {
        let part = &buffer[..buffer.len().min(room)];
        is_all &= part.len() == buffer.len();
        if part.is_empty() {
            break;
        }
        room -= part.len();
        vectors.push(IoSlice::new(part));
    }
    (vectors, is_all)
}

/// Why a reply was not sent whole; the connection is to be closed.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error("a slice of a file ends before its length: the file was truncated")]
    FileTruncated,
    #[error("an earlier reply was sent in part only")]
    Broken,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for SendError {
    fn from(errno: Errno) -> SendError {
        SendError::Io(errno.into())
    }
}

/// The sending half of a connection.
pub struct Sender {
    socket: Rc<Socket>,
    budget: Budget,
    aux_ring: Option<AuxRing>,
    yields: BulkBudget,
    broken: bool,
    file_bytes: FileBytes,
    read_ahead: ReadAhead,
}

/// How bytes of files went out.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileBytes {
    /// From the file to the socket, without a copy.
    pub zero_copy: u64,
    /// Those of them that had to be brought in from the disk first.
    pub cold: u64,
}

impl Sender {
    pub(super) fn new(socket: Rc<Socket>, options: &ConnectionOptions) -> Sender {
        Sender {
            socket,
            budget: options.budget.clone(),
            aux_ring: options.aux_ring.clone(),
            yields: BulkBudget::new(PIECE_BYTES as usize, SHORT_PIECE_BYTES as usize),
            broken: false,
            file_bytes: FileBytes::default(),
            read_ahead: ReadAhead::default(),
        }
    }

    /// What was sent from files since the last call.
    pub fn take_file_bytes(&mut self) -> FileBytes {
        std::mem::take(&mut self.file_bytes)
    }

    /// Sends all parts in order; resolves when the kernel has all of them.
    ///
    /// Waits as long as the peer does not read; a limit to that is the caller's, who closes the
    /// connection then. If this fails or is dropped under way, the peer may have got a part of the
    /// reply, and every later send fails.
    pub async fn send(&mut self, outgoing: Outgoing) -> Result<(), SendError> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(SendError::Broken);
        }
        executor::count_turn();
        let mut buffers: Vec<Bytes> = Vec::new();
        let mut read_bytes = 0;
        // What was read is held until it is sent: a peer that stopped reading may hold it for long.
        let mut held: Option<Units> = None;
        for part in outgoing.parts {
            match part {
                Part::Bytes(bytes) if bytes.is_empty() => {}
                Part::Bytes(bytes) => buffers.push(bytes),
                Part::File(slice) if slice.len == 0 => {}
                Part::File(slice) => {
                    if let Some((bytes, units)) = self.read_small(&slice) {
                        read_bytes += bytes.len();
                        buffers.push(bytes);
                        match &mut held {
                            Some(held) => held.merge(units),
                            None => held = Some(units),
                        }
                        if read_bytes >= READ_BYTES_WAITING_MAX {
                            self.send_buffers(&mut buffers, true).await?;
                            (read_bytes, held) = (0, None);
                        }
                        continue;
                    }
                    self.send_buffers(&mut buffers, true).await?;
                    (read_bytes, held) = (0, None);
                    self.send_file(slice).await?;
                }
            }
        }
        self.send_buffers(&mut buffers, false).await?;
        self.broken = false;
        Ok(())
    }

    async fn send_buffers(
        &mut self,
        buffers: &mut Vec<Bytes>,
        more: bool,
    ) -> Result<(), SendError> {
        let mut first = 0;
        while first < buffers.len() {
            let mut flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let sent = match &buffers[first..] {
                // What nearly every answer is.
                [one] if one.len() <= COPIED_BYTES_MAX => {
                    flags.set(SendFlags::MORE, more);
                    send(self.socket.borrowed(), one, flags)
                }
                several => {
                    let (vectors, is_rest) = vectors(several);
                    flags.set(SendFlags::MORE, more || !is_rest);
                    let mut none = SendAncillaryBuffer::default();
                    sendmsg(self.socket.borrowed(), &vectors, &mut none, flags)
                }
            };
            let mut sent = match sent {
                Ok(sent) => {
                    self.socket.sent.set(self.socket.sent.get() + sent as u64);
                    sent
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    self.room().await;
                    continue;
                }
                Err(errno) => return Err(errno.into()),
            };
            let bytes = sent;
            while first < buffers.len() && sent >= buffers[first].len() {
                sent -= buffers[first].len();
                first += 1;
            }
            if sent > 0 {
                buffers[first].advance(sent);
            }
            self.yields.spend(bytes * COPY_COST).await;
        }
        buffers.clear();
        Ok(())
    }

    /// The bytes of a small slice, if there is memory for them and a read does not wait for the disk.
    fn read_small(&self, slice: &FileSlice) -> Option<(Bytes, Units)> {
        if slice.len > READ_BYTES_MAX {
            return None;
        }
        let units = self.budget.try_reserve_ahead(u64::from(slice.len))?;
        let mut bytes = vec![0; slice.len as usize];
        let read = read_resident(&slice.file, slice.position, &mut bytes);
        // Less than all: a part has to come from the disk, or the file ends, which is told by the send.
        (read == Ok(bytes.len())).then(|| (bytes.into(), units))
    }

    /// Waits for room, after a send that found none.
    async fn room(&mut self) {
        self.yields.refill();
        self.socket.room().await;
    }

    async fn send_file(&mut self, slice: FileSlice) -> Result<(), SendError> {
        let mut position = slice.position;
        let mut left = slice.len;
        let end = position + u64::from(left);
        let going_on = self.read_ahead.going_on(&slice.file, position, end);
        self.bring_in(&slice.file, going_on);
        while left > 0 {
            let piece = left.min(self.yields.turn() as u32);
            let (hot, ring) = match &self.aux_ring {
                Some(ring) => (resident(&slice.file, position, piece), Some(ring.clone())),
                None => (piece, None),
            };
            let sent = match ring {
                Some(ring) if hot == 0 => {
                    let piece = piece.min(COLD_PIECE_BYTES);
                    let behind = position + u64::from(piece);
                    let missed = self.read_ahead.missed(&slice.file, behind, end);
                    self.bring_in(&slice.file, missed);
                    self.send_cold(&ring, &slice.file, position, piece).await?
                }
                _ => self.send_hot(&slice.file, position, hot).await?,
            };
            self.file_bytes.zero_copy += u64::from(sent);
            position += u64::from(sent);
            left -= sent.min(left);
            self.yields.spend(sent as usize).await;
        }
        Ok(())
    }

    /// Has what the reader will want brought in from the disk meanwhile.
    fn bring_in(&self, file: &Arc<File>, range: Option<Range<u64>>) {
        if let (Some(ring), Some(range)) = (&self.aux_ring, range) {
            ring.read_ahead(file, range);
        }
    }

    /// Sends a part of what is in the page cache.
    async fn send_hot(
        &mut self,
        file: &Arc<File>,
        position: u64,
        bytes: u32,
    ) -> Result<u32, SendError> {
        loop {
            let mut at = position;
            let socket = self.socket.borrowed();
            match rustix::fs::sendfile(socket, file, Some(&mut at), bytes as usize) {
                Ok(0) => return Err(SendError::FileTruncated),
                Ok(sent) => {
                    self.socket.sent.set(self.socket.sent.get() + sent as u64);
                    profile::record(Gauged::SendfileBytes, sent as u64);
                    return Ok(u32::try_from(sent).unwrap_or(bytes));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.room().await,
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Sends a part of what may have to come from the disk.
    async fn send_cold(
        &mut self,
        ring: &AuxRing,
        file: &Arc<File>,
        position: u64,
        bytes: u32,
    ) -> Result<u32, SendError> {
        let pipe = ring.pipes().take()?;
        let socket = self.socket.clone();
        let splice = ring.splice_through(file.clone(), position, pipe.clone(), socket, bytes);
        let Spliced { piped, sent } = profile::measure(Gauged::DiskRead, splice).await?;
        profile::record(Gauged::SpliceBytes, piped.into());
        self.socket
            .sent
            .set(self.socket.sent.get() + u64::from(sent));
        if piped == 0 {
            return Err(SendError::FileTruncated);
        }
        self.drain_pipe(pipe.outlet(), piped - sent.min(piped))
            .await?;
        ring.pipes().give(pipe);
        self.file_bytes.cold += u64::from(piped);
        Ok(piped)
    }

    async fn drain_pipe(&mut self, outlet: BorrowedFd<'_>, bytes: u32) -> Result<(), SendError> {
        let mut left = bytes as usize;
        while left > 0 {
            let socket = self.socket.borrowed();
            match splice(outlet, None, socket, None, left, SpliceFlags::NONBLOCK) {
                Ok(0) => return Err(SendError::FileTruncated),
                Ok(sent) => {
                    self.socket.sent.set(self.socket.sent.get() + sent as u64);
                    left -= sent.min(left);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.room().await,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

/// How many of these bytes a read would not wait for the disk for, as far as a byte here and there tells.
fn resident(file: &File, position: u64, bytes: u32) -> u32 {
    let is_resident = |at: u32| {
        let read = read_resident(file, position + u64::from(at), &mut [0]);
        // Where the file system cannot tell (EOPNOTSUPP), or at the end, the send itself will.
        read != Err(Errno::AGAIN)
    };
    if !is_resident(0) {
        return 0;
    }
    let mut there = 0;
    while there < bytes {
        let step = PROBE_EVERY_BYTES.min(bytes - there);
        if !is_resident(there + step - 1) {
            return there;
        }
        there += step;
    }
    bytes
}

/// Reads what is in the page cache.
fn read_resident(file: &File, position: u64, into: &mut [u8]) -> Result<usize, Errno> {
    let vectors = &mut [IoSliceMut::new(into)];
    rustix::io::preadv2(file, vectors, position, ReadWriteFlags::NOWAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vectored_send_is_told_that_more_comes_only_if_it_does() {
        let taken = |lengths: &[usize]| {
            let buffers: Vec<Bytes> = lengths.iter().map(|&n| vec![0; n].into()).collect();
            let (vectors, is_all) = vectors(&buffers);
            let bytes: usize = vectors.iter().map(|vector| vector.len()).sum();
            (bytes, is_all)
        };
        const MAX: usize = COPIED_BYTES_MAX;
        assert_eq!(taken(&[10, MAX - 10]), (MAX, true));
        assert_eq!(taken(&[10, MAX - 9]), (MAX, false));
        assert_eq!(taken(&[MAX, 1]), (MAX, false));
        assert_eq!(taken(&[1; VECTORS_MAX]), (VECTORS_MAX, true));
        assert_eq!(taken(&[1; VECTORS_MAX + 1]), (VECTORS_MAX, false));
    }
}
