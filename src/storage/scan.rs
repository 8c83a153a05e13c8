//! Reading a `.log` whose content is not trusted: after a crash, or when an index is missing.

use std::io;

use super::disk::LogFile;
use crate::base::LeaderEpoch;
use crate::records::{BATCH_HEADER_SIZE, BatchHeader};

/// Bytes read at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// Bytes read at once where the headers of large batches are all that is looked at.
const HEADER_BYTES: u64 = 4096;
/// Where the bytes begin that the CRC is of (see `records::batch`).
const CRC_FROM: u64 = 21;

/// Walks over the batches of a file and checks every one: header, length, offsets, and the CRC unless it is
/// [trusted](CheckedScan::trusting_to).
pub(super) struct CheckedScan<F> {
    file: F,
    pub(super) position: u64,
    end: u64,
    /// No batch may begin below.
    pub(super) next_offset: i64,
    /// Of the last batch that had one: the epochs of a log do not fall.
    leader_epoch: LeaderEpoch,
    /// Of batches that end below, only the header is looked at.
    trusted_to: i64,
    /// Bytes of the batch before.
    last_size: u64,
    /// Bytes of batches that were checked whole.
    pub(super) checked_bytes: u64,
    buffer: Vec<u8>,
    buffer_at: u64,
    /// One past the last byte that is not zero, once
    /// [`valid_batch_follows`](Self::valid_batch_follows) has looked.
    pub(super) content_end: u64,
}

/// What a scan came to.
#[derive(Debug)]
pub(super) enum Scanned {
    Batch {
        header: BatchHeader,
    },
    End,
    /// What begins at `position` is not a whole batch.
    Bad,
}

impl<F: LogFile> CheckedScan<F> {
    pub(super) fn new(file: F, end: u64, next_offset: i64) -> Self {
        Self {
            file,
            position: 0,
            end,
            next_offset,
            leader_epoch: LeaderEpoch::NONE,
            trusted_to: 0,
            last_size: 0,
            checked_bytes: 0,
            buffer: Vec::new(),
            buffer_at: 0,
            content_end: 0,
        }
    }

    /// Takes batches below this offset as they are, if their headers lead from one to the next.
    pub(super) fn trusting_to(self, offset: i64) -> Self {
        Self {
            trusted_to: offset,
            ..self
        }
    }

    /// One of the bytes between two positions.
    pub(super) fn at(file: F, position: u64, end: u64) -> Self {
        Self {
            position,
            ..Self::new(file, end, 0)
        }
    }

    pub(super) async fn next(&mut self) -> io::Result<Scanned> {
        let position = self.position;
        if position >= self.end {
            return Ok(Scanned::End);
        }
        let Some(header) = self.valid_at(position).await? else {
            return Ok(Scanned::Bad);
        };
        let epoch = header.partition_leader_epoch;
        if epoch != LeaderEpoch::NONE {
            if epoch < self.leader_epoch {
                return Ok(Scanned::Bad);
            }
            self.leader_epoch = epoch;
        }
        self.last_size = header.size_in_bytes() as u64;
        self.position = position + self.last_size;
        self.next_offset = header.next_offset().0;
        Ok(Scanned::Batch { header })
    }

    /// The header of the batch at `position`, if a whole and right one is there.
    async fn valid_at(&mut self, position: u64) -> io::Result<Option<BatchHeader>> {
        let left = self.end - position;
        if left < BATCH_HEADER_SIZE as u64 {
            return Ok(None);
        }
        let Ok(header) = BatchHeader::parse(self.bytes(position, BATCH_HEADER_SIZE).await?) else {
            return Ok(None);
        };
        let size = header.size_in_bytes() as u64;
        if size > left || header.base_offset.0 < self.next_offset {
            return Ok(None);
        }
        if header.next_offset().0 <= self.trusted_to {
            return Ok(Some(header));
        }
        self.checked_bytes += size;
        let mut crc = 0;
        let mut at = position + CRC_FROM;
        let batch_end = position + size;
        while at < batch_end {
            let want = (batch_end - at).min(CHUNK_BYTES as u64 / 2) as usize;
            let bytes = self.bytes(at, want).await?;
            if bytes.is_empty() {
                return Ok(None);
            }
            crc = crc32c::crc32c_append(crc, bytes);
            at += bytes.len() as u64;
        }
        Ok((crc == header.crc).then_some(header))
    }

    /// `want` bytes from `at`; fewer at the end of the file. `want` is at most half a chunk.
    async fn bytes(&mut self, at: u64, want: usize) -> io::Result<&[u8]> {
        let is_here =
            at >= self.buffer_at && at + want as u64 <= self.buffer_at + self.buffer.len() as u64;
        if !is_here {
            // A shard does not stand still for a whole segment.
            futures_lite::future::yield_now().await;
            let skips = self.next_offset < self.trusted_to && self.last_size > HEADER_BYTES;
            let most = match skips {
                true => HEADER_BYTES.max(want as u64),
                false => CHUNK_BYTES as u64,
            };
            let len = (self.end - at).min(most) as usize;
            self.buffer.resize(len, 0);
            self.buffer_at = at;
            let read = self.file.read_at(at, &mut self.buffer).await?;
            self.buffer.truncate(read);
        }
        let start = (at - self.buffer_at) as usize;
        let end = (start + want).min(self.buffer.len());
        Ok(self.buffer.get(start..end).unwrap_or(&[]))
    }

    /// Looks for the last byte that is not zero, from the end of the file to the present position.
    async fn find_content_end(&mut self) -> io::Result<()> {
        let mut end = self.end;
        self.content_end = self.position;
        while end > self.position {
            let start = self
                .position
                .max(end.saturating_sub(CHUNK_BYTES as u64 / 2));
            let bytes = self.bytes(start, (end - start) as usize).await?;
            if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
                self.content_end = start + last as u64 + 1;
                return Ok(());
            }
            end = start;
        }
        Ok(())
    }

    /// Whether a valid batch lies anywhere behind the bad one at the present position.
    ///
    /// Every byte may be its beginning. Bytes made to look like batches could let this check one CRC after
    /// the other: once it has read the rest four times over in this way, it says yes, which only means
    /// that the bytes are kept.
    pub(super) async fn valid_batch_follows(&mut self) -> io::Result<bool> {
        let mut budget = 4 * (self.end - self.position);
        let mut at = self.position + 1;
        self.find_content_end().await?;
        // A batch does not end in zeros alone: its header has some that are not.
        while at + BATCH_HEADER_SIZE as u64 <= self.end && at < self.content_end {
            let want = (self.end - at).min(CHUNK_BYTES as u64 / 2) as usize;
            let window = self.bytes(at, want).await?;
            if window.len() < BATCH_HEADER_SIZE {
                return Ok(false);
            }
            let candidates = window.len() - BATCH_HEADER_SIZE + 1;
            let found = (0..candidates).find(|i| window[i + 16] == 2 && looks_right(&window[*i..]));
            let Some(found) = found else {
                at += candidates as u64;
                continue;
            };
            at += found as u64;
            let header = BatchHeader::parse(&window[found..]);
            if let Ok(header) = header
                && header.base_offset.0 >= self.next_offset
                && header.base_offset.0 - self.next_offset <= i64::from(i32::MAX)
                && header.size_in_bytes() as u64 <= self.end - at
            {
                if self.valid_at(at).await?.is_some() {
                    return Ok(true);
                }
                match budget.checked_sub(header.size_in_bytes() as u64) {
                    Some(left) => budget = left,
                    None => return Ok(true),
                }
            }
            at += 1;
        }
        Ok(false)
    }
}

/// The cheap part of telling a header: a length that is one.
fn looks_right(bytes: &[u8]) -> bool {
    matches!(bytes, [o, _, _, _, _, _, _, _, l, ..] if *o < 0x80 && *l < 0x80)
}
