//! Reads the batches of a segment one after the other, each checked, in reads of a fixed size.

use std::io;
use std::ops::Range;

use super::Pace;
use crate::records::{BATCH_HEADER_SIZE, BatchHeader};
use crate::storage::disk::LogFile;

/// Where the bytes begin that the CRC is of (see `records::batch`).
const CRC_FROM: usize = 21;
/// Bytes that are checked at once.
const CRC_BYTES: usize = 256 * 1024;

/// Why there is no next batch.
#[derive(Debug)]
pub(super) enum ReadError {
    Io(io::Error),
    Bad { position: u64 },
}

pub(super) struct BatchReader<F> {
    file: F,
    /// Of the next batch in the file, and in the buffer.
    position: u64,
    at: usize,
    end: u64,
    /// Offsets that may come.
    offsets: Range<i64>,
    buffer: Vec<u8>,
    io_bytes: usize,
}

impl<F: LogFile> BatchReader<F> {
    /// Over the bytes from `position` to `end`, with `offsets` in ascending order.
    pub(super) fn new(
        file: F,
        position: u64,
        end: u64,
        offsets: Range<i64>,
        io_bytes: usize,
    ) -> Self {
        Self {
            file,
            position,
            at: 0,
            end,
            offsets,
            buffer: Vec::new(),
            io_bytes: io_bytes.max(4096),
        }
    }

    /// Of the next batch.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) async fn next(
        &mut self,
        pace: &impl Pace,
    ) -> Result<Option<(BatchHeader, &[u8])>, ReadError> {
        let position = self.position;
        if position >= self.end {
            return Ok(None);
        }
        let bad = ReadError::Bad { position };
        let left = self.end - position;
        if left < BATCH_HEADER_SIZE as u64 {
            return Err(bad);
        }
        self.fill(BATCH_HEADER_SIZE, pace).await?;
        let Ok(header) = BatchHeader::parse(&self.buffer[self.at..]) else {
            return Err(bad);
        };
        let size = header.size_in_bytes();
        // The offset of a batch is not part of what its CRC is of.
        if size as u64 > left
            || header.base_offset.0 < self.offsets.start
            || header.next_offset().0 > self.offsets.end
        {
            return Err(bad);
        }
        self.offsets.start = header.next_offset().0;
        self.fill(size, pace).await?;
        let start = self.at;
        self.at += size;
        self.position += size as u64;
        let batch = &self.buffer[start..start + size];
        let mut crc = 0;
        for part in batch[CRC_FROM..].chunks(CRC_BYTES) {
            crc = crc32c::crc32c_append(crc, part);
            pace.worked(part.len() / 8).await;
        }
        if crc != header.crc {
            return Err(bad);
        }
        Ok(Some((header, batch)))
    }

    /// Has `need` bytes of the next batch in the buffer. The file has as many.
    async fn fill(&mut self, need: usize, pace: &impl Pace) -> Result<(), ReadError> {
        if self.buffer.len() - self.at >= need {
            return Ok(());
        }
        self.buffer.drain(..self.at);
        self.at = 0;
        if need <= self.io_bytes {
            self.buffer.shrink_to(self.io_bytes);
        }
        while self.buffer.len() < need {
            let old = self.buffer.len();
            let from = self.position + old as u64;
            let want = usize::try_from(self.end - from)
                .unwrap_or(usize::MAX)
                .min(self.io_bytes.saturating_sub(old).max(need - old))
                .min(self.io_bytes);
            self.buffer.resize(old + want, 0);
            let read = self.file.read_at(from, &mut self.buffer[old..]).await;
            let read = read.map_err(ReadError::Io)?;
            self.buffer.truncate(old + read);
            if read == 0 {
                return Err(ReadError::Bad {
                    position: self.position,
                });
            }
            pace.moved(read).await;
        }
        Ok(())
    }
}
