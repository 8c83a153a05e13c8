//! The codecs of record batches: decompression as a stream, chunk by chunk, and compression.
//!
//! What a peer compressed is read with bounded memory, whatever it claims to be:
//! 1. output appears in chunks in a [`Scratch`] that is reused, one a shard: 64 KiB for gzip and zstd, a
//!    block for lz4 (at most 4 MiB) and for framed snappy;
//! 2. a raw snappy block has no chunks and appears whole; its claimed size is checked against what its
//!    bytes could expand to at most (a factor of 22) before memory is taken;
//! 3. a zstd window may be 128 MiB, as its decoders allow by default; the memory behind it is touched only as
//!    far as data was really produced, and is given back after the batch;
//! 4. all output of a batch together is at most a limit that the caller sets.
//!
//! | codec | format | source |
//! |---|---|---|
//! | gzip | RFC 1952, members in sequence | |
//! | snappy | raw block, or the framing of snappy-java ("xerial") | [`snappy`] |
//! | lz4 | LZ4 frame, independent blocks only, as Kafka's Java client reads it | [`lz4`] |
//! | zstd | RFC 8878, frames in sequence | KIP-110 |

pub mod lz4;
pub mod snappy;

use std::fmt;
use std::io::{self, Read, Write};

use zstd::stream::raw::{DParameter, InBuffer, Operation, OutBuffer};

use super::batch::CompressionType;

/// Bytes of output that gzip and zstd produce at a time.
pub const CHUNK_SIZE: usize = 64 * 1024;
/// A [`Scratch`] keeps no more than this between batches.
const SCRATCH_KEPT: usize = 4 * 1024 * 1024;
/// 2 to this power is the largest window of zstd: the default limit of its decoders, Java's among them.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Why compressed records cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecompressError {
    /// The stream ends before its end mark.
    Truncated(CompressionType),
    /// The bytes are not what the codec writes. The text says which part.
    Corrupt(CompressionType, &'static str),
    /// More output than the caller's limit.
    TooLarge { limit: u64 },
}

impl fmt::Display for DecompressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated(codec) => write!(f, "{codec} stream ends early"),
            Self::Corrupt(codec, what) => write!(f, "{codec} stream is corrupt: {what}"),
            Self::TooLarge { limit } => {
                write!(f, "records are larger than {limit} bytes when decompressed")
            }
        }
    }
}

impl std::error::Error for DecompressError {}

/// Memory for decompression, reused from batch to batch. One per shard.
#[derive(Default)]
pub struct Scratch {
    chunk: Vec<u8>,
    zstd: Option<zstd::stream::raw::Decoder<'static>>,
}

impl Scratch {
    pub fn new() -> Self {
        Self::default()
    }
}

enum Codec<'a> {
    Stored(&'a [u8]),
    Gzip(Box<flate2::bufread::MultiGzDecoder<&'a [u8]>>),
    Snappy(snappy::Blocks<'a>),
    Lz4(Box<lz4::Frame<'a>>),
    Zstd {
        input: &'a [u8],
        /// The last frame was read to its end.
        between_frames: bool,
    },
}

/// The decompressed bytes of a batch, as a sequence of chunks.
pub struct Decompressor<'a> {
    codec: Codec<'a>,
    scratch: &'a mut Scratch,
    /// Of the chunk in the scratch: what is there, and what was consumed of it.
    filled: usize,
    consumed: usize,
    produced: u64,
    limit: u64,
    /// The zstd decoder has worked on a window that is not worth keeping.
    large_window: bool,
}

impl<'a> Decompressor<'a> {
    /// Over `input`, the bytes behind a batch's header. Together they may grow to `limit` bytes.
    pub fn new(
        compression: CompressionType,
        input: &'a [u8],
        scratch: &'a mut Scratch,
        limit: u64,
    ) -> Result<Self, DecompressError> {
        let codec = match compression {
            CompressionType::None => Codec::Stored(input),
            CompressionType::Gzip => {
                Codec::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(input)))
            }
            CompressionType::Snappy => Codec::Snappy(snappy::Blocks::new(input)?),
            CompressionType::Lz4 => Codec::Lz4(Box::new(lz4::Frame::new(input)?)),
            CompressionType::Zstd => {
                prepare_zstd(scratch)?;
                Codec::Zstd {
                    input,
                    between_frames: true,
                }
            }
        };
        Ok(Self {
            codec,
            scratch,
            filled: 0,
            consumed: 0,
            produced: 0,
            limit,
            large_window: false,
        })
    }

    /// What is there of the current chunk and not consumed yet.
    pub fn available(&self) -> &[u8] {
        &self.scratch.chunk[self.consumed..self.filled]
    }

    /// Marks the first `bytes` of what is available as read. Panics if that is more than there is.
    pub fn consume(&mut self, bytes: usize) {
        self.consumed += bytes;
        assert!(self.consumed <= self.filled);
    }

    /// Replaces the consumed chunk by the next one. False at the end of the stream, which has then been
    /// checked as far as the codec can.
    ///
    /// Panics if the current chunk was not consumed.
    pub fn next_chunk(&mut self) -> Result<bool, DecompressError> {
        assert!(self.consumed == self.filled);
        self.consumed = 0;
        self.filled = 0;
        let left = self.limit - self.produced;
        self.filled = match &mut self.codec {
            Codec::Stored(input) => {
                let (now, later) = input.split_at(input.len().min(CHUNK_SIZE));
                *input = later;
                room(&mut self.scratch.chunk, CHUNK_SIZE)[..now.len()].copy_from_slice(now);
                now.len()
            }
            Codec::Gzip(decoder) => {
                let chunk = room(&mut self.scratch.chunk, CHUNK_SIZE);
                decoder.read(chunk).map_err(gzip_error)?
            }
            Codec::Snappy(blocks) => blocks.next(&mut self.scratch.chunk, left, self.limit)?,
            Codec::Lz4(frame) => frame.next(&mut self.scratch.chunk)?,
            Codec::Zstd {
                input,
                between_frames,
            } => next_zstd(input, between_frames, self.scratch)?,
        };
        if self.filled as u64 > left {
            self.filled = 0;
            return Err(DecompressError::TooLarge { limit: self.limit });
        }
        self.produced += self.filled as u64;
        self.large_window = self.produced > SCRATCH_KEPT as u64;
        Ok(self.filled > 0)
    }

    /// Bytes of output so far.
    pub fn produced(&self) -> u64 {
        self.produced
    }
}

impl Drop for Decompressor<'_> {
    fn drop(&mut self) {
        if self.scratch.chunk.len() > SCRATCH_KEPT {
            self.scratch.chunk = Vec::new();
        }
        if self.large_window {
            self.scratch.zstd = None;
        }
    }
}

/// At least `size` bytes at the start of `chunk`, which keeps the largest size it had.
fn room(chunk: &mut Vec<u8>, size: usize) -> &mut [u8] {
    if chunk.len() < size {
        chunk.resize(size, 0);
    }
    &mut chunk[..size]
}

fn gzip_error(error: io::Error) -> DecompressError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => DecompressError::Truncated(CompressionType::Gzip),
        _ => DecompressError::Corrupt(CompressionType::Gzip, "header, data or checksum"),
    }
}

fn prepare_zstd(scratch: &mut Scratch) -> Result<(), DecompressError> {
    let failed = |_: io::Error| DecompressError::Corrupt(CompressionType::Zstd, "no decoder");
    match &mut scratch.zstd {
        Some(decoder) => decoder.reinit().map_err(failed),
        place => {
            let mut decoder = zstd::stream::raw::Decoder::new().map_err(failed)?;
            decoder
                .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))
                .map_err(failed)?;
            *place = Some(decoder);
            Ok(())
        }
    }
}

fn next_zstd(
    input: &mut &[u8],
    between_frames: &mut bool,
    scratch: &mut Scratch,
) -> Result<usize, DecompressError> {
    let Some(decoder) = &mut scratch.zstd else {
        return Err(DecompressError::Corrupt(
            CompressionType::Zstd,
            "no decoder",
        ));
    };
    let chunk = room(&mut scratch.chunk, CHUNK_SIZE);
    let mut out = OutBuffer::around(chunk);
    while out.pos() < CHUNK_SIZE {
        if input.is_empty() && *between_frames {
            break;
        }
        let before = out.pos();
        let mut from = InBuffer::around(input);
        let hint = decoder.run(&mut from, &mut out).map_err(|_| {
            DecompressError::Corrupt(CompressionType::Zstd, "frame, window or checksum")
        })?;
        let read = from.pos();
        *input = &input[read..];
        // 0 means that a frame is read and handed out to its end.
        *between_frames = hint == 0;
        if hint != 0 && input.is_empty() && out.pos() == before {
            return Err(DecompressError::Truncated(CompressionType::Zstd));
        }
    }
    Ok(out.pos())
}

/// Decompresses all the records of a batch at once, for those who need them together.
///
/// `records` are the bytes behind the header. Memory grows with what is really produced, to `limit`.
pub fn decompress(
    compression: CompressionType,
    records: &[u8],
    scratch: &mut Scratch,
    limit: u64,
) -> Result<Vec<u8>, DecompressError> {
    let mut out = Vec::new();
    let mut stream = Decompressor::new(compression, records, scratch, limit)?;
    while stream.next_chunk()? {
        out.extend_from_slice(stream.available());
        stream.consume(stream.available().len());
    }
    Ok(out)
}

/// A codec with its level, as `compression.type` and `compression.*.level` ask for (KIP-390).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    pub kind: CompressionType,
    /// gzip 1 to 9, -1 its default; lz4 1 to 17; zstd -131072 to 22. Beyond that the nearest. Snappy has
    /// none.
    pub level: i32,
}

impl Compression {
    /// With the default level: gzip -1, lz4 9, zstd 3.
    pub fn of(kind: CompressionType) -> Self {
        let level = match kind {
            CompressionType::Zstd => 3,
            CompressionType::Lz4 => lz4::DEFAULT_LEVEL,
            CompressionType::None | CompressionType::Gzip | CompressionType::Snappy => -1,
        };
        Self { kind, level }
    }
}

/// Compresses a stream of bytes to the end of a buffer.
pub enum Compressor {
    Stored(Vec<u8>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Snappy(snappy::Writer),
    Lz4(Box<lz4::Encoder>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Compressor {
    /// Appends to `out`.
    pub fn new(compression: Compression, out: Vec<u8>) -> io::Result<Self> {
        Ok(match compression.kind {
            CompressionType::None => Self::Stored(out),
            CompressionType::Gzip => {
                let level = match u32::try_from(compression.level) {
                    Ok(level) => flate2::Compression::new(level.clamp(1, 9)),
                    Err(_) => flate2::Compression::default(),
                };
                Self::Gzip(flate2::write::GzEncoder::new(out, level))
            }
            CompressionType::Snappy => Self::Snappy(snappy::Writer::new(out)),
            CompressionType::Lz4 => Self::Lz4(Box::new(lz4::Encoder::new(compression.level, out)?)),
            CompressionType::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(
                out,
                compression.level.clamp(-131_072, 22),
            )?),
        })
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stored(out) => {
                out.extend_from_slice(bytes);
                Ok(())
            }
            Self::Gzip(encoder) => encoder.write_all(bytes),
            Self::Snappy(encoder) => encoder.write(bytes),
            Self::Lz4(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write_all(bytes),
        }
    }

    /// Bytes in the buffer so far; more may be held back until [`finish`](Self::finish).
    pub fn written(&self) -> usize {
        match self {
            Self::Stored(out) => out.len(),
            Self::Gzip(encoder) => encoder.get_ref().len(),
            Self::Snappy(encoder) => encoder.written(),
            Self::Lz4(encoder) => encoder.written(),
            Self::Zstd(encoder) => encoder.get_ref().len(),
        }
    }

    /// Ends the stream and returns the buffer.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Stored(out) => Ok(out),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Snappy(encoder) => encoder.finish(),
            Self::Lz4(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODECS: [CompressionType; 5] = [
        CompressionType::None,
        CompressionType::Gzip,
        CompressionType::Snappy,
        CompressionType::Lz4,
        CompressionType::Zstd,
    ];
    const LIMIT: u64 = 64 << 20;

    fn compress(kind: CompressionType, bytes: &[u8]) -> Vec<u8> {
        let mut compressor = Compressor::new(Compression::of(kind), Vec::new()).unwrap();
        for part in bytes.chunks(10_000) {
            compressor.write(part).unwrap();
        }
        compressor.finish().unwrap()
    }

    fn noise(size: usize) -> Vec<u8> {
        let mut state = 1u32;
        (0..size)
            .map(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if i % 3 == 0 {
                    (state >> 24) as u8
                } else {
                    b'x'
                }
            })
            .collect()
    }

    #[test]
    fn every_codec_returns_what_was_compressed() {
        let mut scratch = Scratch::new();
        for size in [0, 1, 100, 32 * 1024, 65_536, 65_537, 1_000_000] {
            let bytes = noise(size);
            for codec in CODECS {
                let packed = compress(codec, &bytes);
                let back = decompress(codec, &packed, &mut scratch, LIMIT);
                assert!(back.as_ref() == Ok(&bytes), "{codec} {size}");
            }
        }
    }

    #[test]
    fn a_stream_cut_anywhere_is_an_error() {
        let mut scratch = Scratch::new();
        let bytes = noise(5_000);
        for codec in &CODECS[1..] {
            let packed = compress(*codec, &bytes);
            for cut in 0..packed.len() {
                let back = decompress(*codec, &packed[..cut], &mut scratch, LIMIT);
                // Framed snappy and nothing at all have no end mark: what is there must be a beginning.
                match back {
                    Ok(back) => assert!(
                        bytes.starts_with(&back) && (cut == 0 || *codec == CompressionType::Snappy),
                        "{codec} cut at {cut}"
                    ),
                    Err(_) => assert!(cut > 0 || *codec != CompressionType::None),
                }
            }
        }
    }

    #[test]
    fn a_bomb_is_an_error_and_costs_little_memory() {
        let zeros = vec![0; 16 << 20];
        for codec in &CODECS[1..] {
            let packed = compress(*codec, &zeros);
            assert!(packed.len() < 2 << 20, "{codec}");
            let mut scratch = Scratch::new();
            let limit = 1 << 20;
            assert_eq!(
                decompress(*codec, &packed, &mut scratch, limit),
                Err(DecompressError::TooLarge { limit }),
                "{codec}"
            );
            assert!(scratch.chunk.len() <= 2 << 20);
        }
    }

    #[test]
    fn a_zstd_window_beyond_the_limit_is_refused() {
        // Magic, a frame header without a single segment, window log 31, then nothing.
        let packed = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0, 0, 0];
        let mut scratch = Scratch::new();
        assert!(matches!(
            decompress(CompressionType::Zstd, &packed, &mut scratch, LIMIT),
            Err(DecompressError::Corrupt(..))
        ));
        // The decoder is of use again.
        let good = compress(CompressionType::Zstd, b"abc");
        assert_eq!(
            decompress(CompressionType::Zstd, &good, &mut scratch, LIMIT),
            Ok(b"abc".to_vec())
        );
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        let mut scratch = Scratch::new();
        let bytes = noise(3_000);
        for codec in &CODECS[1..] {
            let packed = compress(*codec, &bytes);
            for at in 0..packed.len().min(600) {
                for flip in [0x01, 0x80, 0xff] {
                    let mut damaged = packed.clone();
                    damaged[at] ^= flip;
                    let _ = decompress(*codec, &damaged, &mut scratch, 1 << 20);
                }
            }
        }
    }
}
