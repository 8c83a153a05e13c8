//! The LZ4 frame as Kafka uses it: one frame a batch, blocks independent, little-endian.
//!
//! ```text
//!   4  magic             0x184d2204
//!   1  FLG               bits 7-6 version 01, 5 blocks are independent, 4 block checksums,
//!                        3 content size, 2 content checksum, 1 reserved, 0 dictionary
//!   1  BD                bits 6-4 largest block: 4 64 KiB, 5 256 KiB, 6 1 MiB, 7 4 MiB; others reserved
//!   8  content size      if FLG says so
//!   1  header checksum   second byte of XXH32 from FLG to here
//!      blocks:           4 bytes of length, highest bit set if stored as it is; the block;
//!                        4 bytes XXH32 of the block, if FLG says so
//!   4  end mark          0
//!   4  content checksum  if FLG says so
//! ```
//!
//! Kafka's Java client reads no dictionaries and no dependent blocks, and stops at the end mark. A batch
//! with more than that would be lost on such consumers, so it is refused here. Unlike it, we check the
//! content checksum, as the reference decoder does that other clients use.

use std::io::{self, Write};

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use super::{DecompressError, room};
use crate::records::batch::CompressionType;

const MAGIC: [u8; 4] = 0x184d_2204_u32.to_le_bytes();
const STORED: u32 = 0x8000_0000;

const TRUNCATED: DecompressError = DecompressError::Truncated(CompressionType::Lz4);

fn corrupt(what: &'static str) -> DecompressError {
    DecompressError::Corrupt(CompressionType::Lz4, what)
}

/// Kafka's default level. As there, it stands for the fast compressor, and every other level for the
/// thorough one (KIP-390).
pub(super) const DEFAULT_LEVEL: i32 = 9;

/// Levels of Kafka. The reference library knows no level above 12, and takes more for 12.
const LEVELS: std::ops::RangeInclusive<i32> = 1..=17;

/// Writes a frame: independent blocks of 64 KiB, no checksums, as Kafka's producer does.
pub enum Encoder {
    Fast(FrameEncoder<Vec<u8>>),
    /// The reference library's high compression.
    High(::lz4::Encoder<Vec<u8>>),
}

impl Encoder {
    /// Appends to `out`.
    pub(super) fn new(level: i32, out: Vec<u8>) -> io::Result<Self> {
        if level == DEFAULT_LEVEL {
            let info = FrameInfo::new()
                .block_size(BlockSize::Max64KB)
                .block_mode(BlockMode::Independent);
            return Ok(Self::Fast(FrameEncoder::with_frame_info(info, out)));
        }
        let level = level.clamp(*LEVELS.start(), *LEVELS.end());
        let encoder = ::lz4::EncoderBuilder::new()
            .level(level.unsigned_abs())
            .block_size(::lz4::BlockSize::Max64KB)
            .block_mode(::lz4::BlockMode::Independent)
            .block_checksum(::lz4::liblz4::BlockChecksum::NoBlockChecksum)
            .checksum(::lz4::ContentChecksum::NoChecksum)
            .build(out)?;
        Ok(Self::High(encoder))
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Fast(encoder) => encoder.write_all(bytes),
            Self::High(encoder) => encoder.write_all(bytes),
        }
    }

    pub(super) fn written(&self) -> usize {
        match self {
            Self::Fast(encoder) => encoder.get_ref().len(),
            Self::High(encoder) => encoder.writer().len(),
        }
    }

    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Fast(encoder) => encoder.finish().map_err(io::Error::other),
            Self::High(encoder) => match encoder.finish() {
                (out, Ok(())) => Ok(out),
                (_, Err(error)) => Err(error),
            },
        }
    }
}

/// What is still to be read of a frame.
pub struct Frame<'a> {
    input: &'a [u8],
    max_block_size: usize,
    block_checksums: bool,
    content: Option<Xxh32>,
    ended: bool,
}

fn take_u32(input: &mut &[u8]) -> Result<u32, DecompressError> {
    let (bytes, rest) = input.split_first_chunk::<4>().ok_or(TRUNCATED)?;
    *input = rest;
    Ok(u32::from_le_bytes(*bytes))
}

impl<'a> Frame<'a> {
    pub(super) fn new(input: &'a [u8]) -> Result<Self, DecompressError> {
        let rest = match input.strip_prefix(&MAGIC) {
            Some(rest) => rest,
            None if MAGIC.starts_with(input) => return Err(TRUNCATED),
            None => return Err(corrupt("magic")),
        };
        let &[flg, bd, ..] = rest else {
            return Err(TRUNCATED);
        };
        if flg >> 6 != 1 || flg & 0b11 != 0 {
            return Err(corrupt("version, reserved bit or dictionary"));
        }
        if flg & 0x20 == 0 {
            return Err(corrupt("dependent blocks are not supported"));
        }
        let max_block_size = match bd {
            0x40 => 64 * 1024,
            0x50 => 256 * 1024,
            0x60 => 1024 * 1024,
            0x70 => 4 * 1024 * 1024,
            _ => return Err(corrupt("block size")),
        };
        let described = if flg & 0x08 != 0 { 10 } else { 2 };
        let (description, rest) = rest.split_at_checked(described).ok_or(TRUNCATED)?;
        let (&checksum, rest) = rest.split_first().ok_or(TRUNCATED)?;
        if (Xxh32::of(description) >> 8) as u8 != checksum {
            return Err(corrupt("header checksum"));
        }
        Ok(Self {
            input: rest,
            max_block_size,
            block_checksums: flg & 0x10 != 0,
            content: (flg & 0x04 != 0).then(Xxh32::new),
            ended: false,
        })
    }

    /// Decompresses the next block that is not empty to the start of `chunk`; 0 behind the end mark.
    pub(super) fn next(&mut self, chunk: &mut Vec<u8>) -> Result<usize, DecompressError> {
        while !self.ended {
            let word = take_u32(&mut self.input)?;
            if word & !STORED == 0 {
                self.end()?;
                break;
            }
            let length = (word & !STORED) as usize;
            if length > self.max_block_size {
                return Err(corrupt("block length"));
            }
            let (block, rest) = self.input.split_at_checked(length).ok_or(TRUNCATED)?;
            self.input = rest;
            if self.block_checksums && take_u32(&mut self.input)? != Xxh32::of(block) {
                return Err(corrupt("block checksum"));
            }
            let out = room(chunk, self.max_block_size);
            let size = if word & STORED != 0 {
                out[..length].copy_from_slice(block);
                length
            } else {
                lz4_flex::block::decompress_into(block, out).map_err(|_| corrupt("block"))?
            };
            if let Some(content) = &mut self.content {
                content.update(&out[..size]);
            }
            if size > 0 {
                return Ok(size);
            }
        }
        Ok(0)
    }

    fn end(&mut self) -> Result<(), DecompressError> {
        self.ended = true;
        if let Some(content) = self.content.take()
            && take_u32(&mut self.input)? != content.finish()
        {
            return Err(corrupt("content checksum"));
        }
        if !self.input.is_empty() {
            return Err(corrupt("bytes behind the end mark"));
        }
        Ok(())
    }
}

const PRIME_1: u32 = 0x9e37_79b1;
const PRIME_2: u32 = 0x85eb_ca77;
const PRIME_3: u32 = 0xc2b2_ae3d;
const PRIME_4: u32 = 0x27d4_eb2f;
const PRIME_5: u32 = 0x1656_67b1;

/// XXH32 with seed 0, over bytes that come in parts.
struct Xxh32 {
    lanes: [u32; 4],
    pending: [u8; 16],
    pending_len: usize,
    total: u64,
}

fn word(bytes: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*bytes)
}

impl Xxh32 {
    fn new() -> Self {
        Self {
            lanes: [
                PRIME_1.wrapping_add(PRIME_2),
                PRIME_2,
                0,
                0u32.wrapping_sub(PRIME_1),
            ],
            pending: [0; 16],
            pending_len: 0,
            total: 0,
        }
    }

    fn of(bytes: &[u8]) -> u32 {
        let mut hash = Self::new();
        hash.update(bytes);
        hash.finish()
    }

    fn round(&mut self, stripe: &[u8; 16]) {
        let (words, _) = stripe.as_chunks::<4>();
        for (lane, bytes) in self.lanes.iter_mut().zip(words) {
            *lane = lane
                .wrapping_add(word(bytes).wrapping_mul(PRIME_2))
                .rotate_left(13)
                .wrapping_mul(PRIME_1);
        }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        self.total += bytes.len() as u64;
        if self.pending_len > 0 {
            let (now, later) = bytes.split_at(bytes.len().min(16 - self.pending_len));
            self.pending[self.pending_len..self.pending_len + now.len()].copy_from_slice(now);
            self.pending_len += now.len();
            bytes = later;
            if self.pending_len < 16 {
                return;
            }
            let stripe = self.pending;
            self.round(&stripe);
            self.pending_len = 0;
        }
        let (stripes, rest) = bytes.as_chunks::<16>();
        for stripe in stripes {
            self.round(stripe);
        }
        self.pending[..rest.len()].copy_from_slice(rest);
        self.pending_len = rest.len();
    }

    fn finish(&self) -> u32 {
        let mut hash = if self.total >= 16 {
            let [a, b, c, d] = self.lanes;
            a.rotate_left(1)
                .wrapping_add(b.rotate_left(7))
                .wrapping_add(c.rotate_left(12))
                .wrapping_add(d.rotate_left(18))
        } else {
            PRIME_5
        };
        hash = hash.wrapping_add(self.total as u32);
        let (words, bytes) = self.pending[..self.pending_len].as_chunks::<4>();
        for w in words {
            hash = hash
                .wrapping_add(word(w).wrapping_mul(PRIME_3))
                .rotate_left(17)
                .wrapping_mul(PRIME_4);
        }
        for &byte in bytes {
            hash = hash
                .wrapping_add(u32::from(byte).wrapping_mul(PRIME_5))
                .rotate_left(11)
                .wrapping_mul(PRIME_1);
        }
        hash ^= hash >> 15;
        hash = hash.wrapping_mul(PRIME_2);
        hash ^= hash >> 13;
        hash = hash.wrapping_mul(PRIME_3);
        hash ^ (hash >> 16)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::records::compression::{Scratch, decompress};

    fn read(bytes: &[u8]) -> Result<Vec<u8>, DecompressError> {
        decompress(CompressionType::Lz4, bytes, &mut Scratch::new(), 1 << 24)
    }

    fn frame(info: FrameInfo, bytes: &[u8]) -> Vec<u8> {
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn xxh32_is_the_published_function() {
        assert_eq!(Xxh32::of(b""), 0x02cc_5d05);
        assert_eq!(Xxh32::of(b"a"), 0x550d_7456);
        assert_eq!(Xxh32::of(b"abc"), 0x32d1_53ff);
        let long: Vec<u8> = (0..=255).collect();
        let mut parts = Xxh32::new();
        for part in long.chunks(7) {
            parts.update(part);
        }
        assert_eq!(parts.finish(), Xxh32::of(&long));
    }

    #[test]
    fn every_block_size_and_checksum_is_read() {
        let bytes: Vec<u8> = (0..300_000u32).map(|i| (i / 9) as u8).collect();
        for size in [
            BlockSize::Max64KB,
            BlockSize::Max256KB,
            BlockSize::Max1MB,
            BlockSize::Max4MB,
        ] {
            let info = FrameInfo::new()
                .block_size(size)
                .block_checksums(true)
                .content_checksum(true)
                .content_size(Some(bytes.len() as u64));
            let packed = frame(info, &bytes);
            assert!(read(&packed).as_ref() == Ok(&bytes));
            for at in [4, 5, 8, 14, 40, packed.len() - 1] {
                let mut damaged = packed.clone();
                damaged[at] ^= 0x04;
                assert!(read(&damaged).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn a_higher_level_makes_smaller_frames_that_the_java_client_reads() {
        // Words in no order: a thorough search finds longer matches than a hasty one.
        let mut seed = 1u32;
        let mut bytes = Vec::new();
        for _ in 0..40_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bytes.extend(format!("{:x} ", (seed >> 16) % 3_000).bytes());
        }
        let size = |level| {
            let mut encoder = Encoder::new(level, Vec::new()).unwrap();
            encoder.write(&bytes).unwrap();
            assert!(encoder.written() <= bytes.len());
            let packed = encoder.finish().unwrap();
            // Version 1, independent blocks, nothing else; 64 KiB.
            assert_eq!(packed[4..6], [0x60, 0x40], "level {level}");
            assert!(read(&packed).as_ref() == Ok(&bytes), "level {level}");
            packed.len()
        };
        let sizes: Vec<usize> = [DEFAULT_LEVEL, 4, 12].map(size).to_vec();
        assert!(sizes.is_sorted_by(|a, b| a > b), "{sizes:?}");
        assert_eq!(size(17), size(12));
        assert_eq!(size(99), size(17));
    }

    #[test]
    fn what_the_java_client_cannot_read_is_refused() {
        let linked = FrameInfo::new()
            .block_size(BlockSize::Max64KB)
            .block_mode(BlockMode::Linked);
        assert_eq!(
            read(&frame(linked, b"x")),
            Err(corrupt("dependent blocks are not supported"))
        );
        let mut two = frame(FrameInfo::new().block_size(BlockSize::Max64KB), b"x");
        two.extend(two.clone());
        assert_eq!(read(&two), Err(corrupt("bytes behind the end mark")));
    }

    #[test]
    fn a_frame_without_its_end_mark_is_truncated() {
        let whole = frame(FrameInfo::new().block_size(BlockSize::Max64KB), b"x");
        for cut in 1..=4 {
            assert_eq!(read(&whole[..whole.len() - cut]), Err(TRUNCATED));
        }
    }
}
