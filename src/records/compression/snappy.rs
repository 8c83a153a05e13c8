//! Snappy, raw and in the framing of snappy-java.
//!
//! Kafka's Java client frames its blocks ("xerial"); librdkafka and others write one raw block, which
//! begins with its decompressed size as a varint. Both are read; the framing is written:
//!
//! ```text
//!   8  82 'S' 'N' 'A' 'P' 'P' 'Y' 00
//!   4  version              1, big-endian
//!   4  compatible version   1
//!      blocks: 4 bytes of length, big-endian, then a raw block
//! ```
//!
//! There is no end mark: the stream ends with the batch. A second header may follow a block, where streams
//! were joined.

use std::io;

use super::{DecompressError, room};
use crate::records::batch::CompressionType;

const MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const HEADER_SIZE: usize = 16;
/// Decompressed bytes of a block that is written, as snappy-java's default.
const BLOCK_SIZE: usize = 32 * 1024;
/// The most that a raw block can expand: a copy of 3 bytes yields 64.
const MAX_EXPANSION: u64 = 22;

fn corrupt(what: &'static str) -> DecompressError {
    DecompressError::Corrupt(CompressionType::Snappy, what)
}

/// The blocks of a stream that are still to be read.
pub struct Blocks<'a> {
    input: &'a [u8],
    framed: bool,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(input: &'a [u8]) -> Result<Self, DecompressError> {
        Ok(match input.strip_prefix(&MAGIC) {
            None => Self {
                input,
                framed: false,
            },
            Some(versions) => Self {
                input: versions
                    .get(HEADER_SIZE - MAGIC.len()..)
                    .ok_or(DecompressError::Truncated(CompressionType::Snappy))?,
                framed: true,
            },
        })
    }

    /// Decompresses the next block that is not empty to the start of `chunk`; 0 at the end.
    pub(super) fn next(
        &mut self,
        chunk: &mut Vec<u8>,
        left: u64,
        limit: u64,
    ) -> Result<usize, DecompressError> {
        while !self.input.is_empty() {
            let block = if self.framed {
                self.take_framed()?
            } else {
                std::mem::take(&mut self.input)
            };
            if block.is_empty() {
                continue;
            }
            let size = snap::raw::decompress_len(block).map_err(|_| corrupt("block size"))?;
            if size as u64 > (block.len() as u64).saturating_mul(MAX_EXPANSION) {
                return Err(corrupt("block size"));
            }
            if size as u64 > left {
                return Err(DecompressError::TooLarge { limit });
            }
            let out = room(chunk, size);
            let size = snap::raw::Decoder::new()
                .decompress(block, out)
                .map_err(|_| corrupt("block"))?;
            if size > 0 {
                return Ok(size);
            }
        }
        Ok(0)
    }

    fn take_framed(&mut self) -> Result<&'a [u8], DecompressError> {
        if let Some(joined) = self.input.strip_prefix(&MAGIC) {
            self.input = joined
                .get(HEADER_SIZE - MAGIC.len()..)
                .ok_or(DecompressError::Truncated(CompressionType::Snappy))?;
            return Ok(&[]);
        }
        let (length, rest) = self
            .input
            .split_first_chunk::<4>()
            .ok_or(DecompressError::Truncated(CompressionType::Snappy))?;
        let length =
            usize::try_from(i32::from_be_bytes(*length)).map_err(|_| corrupt("block length"))?;
        let (block, rest) = rest
            .split_at_checked(length)
            .ok_or(DecompressError::Truncated(CompressionType::Snappy))?;
        self.input = rest;
        Ok(block)
    }
}

/// Writes the framing.
pub struct Writer {
    out: Vec<u8>,
    block: Vec<u8>,
    encoder: snap::raw::Encoder,
}

impl Writer {
    pub(super) fn new(mut out: Vec<u8>) -> Self {
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
        Self {
            out,
            block: Vec::with_capacity(BLOCK_SIZE),
            encoder: snap::raw::Encoder::new(),
        }
    }

    pub(super) fn written(&self) -> usize {
        self.out.len()
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_SIZE - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == BLOCK_SIZE {
                self.flush_block()?;
            }
        }
        Ok(())
    }

    fn flush_block(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let start = self.out.len();
        let most = snap::raw::max_compress_len(self.block.len());
        self.out.resize(start + 4 + most, 0);
        let size = self
            .encoder
            .compress(&self.block, &mut self.out[start + 4..])
            .map_err(io::Error::other)?;
        self.out[start..start + 4].copy_from_slice(&(size as i32).to_be_bytes());
        self.out.truncate(start + 4 + size);
        self.block.clear();
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<Vec<u8>> {
        self.flush_block()?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::compression::{Scratch, decompress};

    fn read(bytes: &[u8]) -> Result<Vec<u8>, DecompressError> {
        decompress(CompressionType::Snappy, bytes, &mut Scratch::new(), 1 << 20)
    }

    #[test]
    fn a_raw_block_is_read() {
        let raw = snap::raw::Encoder::new()
            .compress_vec(b"hello hello")
            .unwrap();
        assert_eq!(read(&raw), Ok(b"hello hello".to_vec()));
    }

    #[test]
    fn joined_frames_are_read_as_one() {
        let mut writer = Writer::new(Vec::new());
        writer.write(b"one").unwrap();
        let mut writer = Writer::new(writer.finish().unwrap());
        writer.write(b"two").unwrap();
        assert_eq!(read(&writer.finish().unwrap()), Ok(b"onetwo".to_vec()));
    }

    #[test]
    fn a_claimed_size_beyond_what_the_bytes_can_hold_takes_no_memory() {
        // 2^32 - 1 bytes, out of one literal.
        let claim = [0xff, 0xff, 0xff, 0xff, 0x0f, 0x00, b'x'];
        assert_eq!(read(&claim), Err(corrupt("block size")));
    }

    #[test]
    fn a_frame_that_points_beyond_its_end_is_truncated() {
        let mut bytes = Writer::new(Vec::new()).finish().unwrap();
        bytes.extend([0, 0, 0, 9, 1]);
        assert_eq!(
            read(&bytes),
            Err(DecompressError::Truncated(CompressionType::Snappy))
        );
        let mut bytes = Writer::new(Vec::new()).finish().unwrap();
        bytes.extend([0xff, 0, 0, 9, 1]);
        assert_eq!(read(&bytes), Err(corrupt("block length")));
    }
}
