//! Compression of the records of a batch, as Kafka's clients do it: gzip, framed snappy (that of
//! snappy-java), LZ4 frames and zstd.

use std::io::{self, Read, Write};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// The codec of a workload; its number is the low three bits of a batch's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// What framed snappy begins with: the magic of snappy-java, its version and the least it is read by.
const XERIAL: &[u8] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
/// Bytes of a block of framed snappy, before compression.
const XERIAL_BLOCK: usize = 32 * 1024;
/// More than this is not decompressed: no workload makes such a batch.
const MAX_DECOMPRESSED: usize = 256 << 20;

impl Codec {
    /// The bits of a batch's attributes.
    pub fn id(self) -> u8 {
        self as u8
    }

    /// The codec of a batch's attributes.
    pub fn of_attributes(attributes: i16) -> Result<Codec> {
        Ok(match attributes & 7 {
            0 => Codec::None,
            1 => Codec::Gzip,
            2 => Codec::Snappy,
            3 => Codec::Lz4,
            4 => Codec::Zstd,
            other => bail!("a batch names codec {other}"),
        })
    }

    /// Appends the compressed form of `input` to `out`.
    pub fn compress(self, input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Codec::None => out.extend_from_slice(input),
            Codec::Gzip => {
                let mut writer = flate2::write::GzEncoder::new(out, flate2::Compression::default());
                writer.write_all(input)?;
                writer.finish()?;
            }
            Codec::Snappy => {
                out.extend_from_slice(XERIAL);
                let mut encoder = snap::raw::Encoder::new();
                for block in input.chunks(XERIAL_BLOCK) {
                    let compressed = encoder.compress_vec(block)?;
                    out.extend_from_slice(&(compressed.len() as u32).to_be_bytes());
                    out.extend_from_slice(&compressed);
                }
            }
            Codec::Lz4 => {
                let info = lz4_flex::frame::FrameInfo::new()
                    .block_size(lz4_flex::frame::BlockSize::Max64KB)
                    .block_mode(lz4_flex::frame::BlockMode::Independent);
                let mut writer = lz4_flex::frame::FrameEncoder::with_frame_info(info, out);
                writer.write_all(input)?;
                writer.finish()?;
            }
            Codec::Zstd => zstd::stream::copy_encode(input, out, 3)?,
        }
        Ok(())
    }

    /// Appends what `input` decompresses to, to `out`.
    pub fn decompress(self, input: &[u8], out: &mut Vec<u8>) -> Result<()> {
        fn all(reader: impl Read, out: &mut Vec<u8>) -> Result<()> {
            let read = reader.take(MAX_DECOMPRESSED as u64).read_to_end(out)?;
            ensure!(read < MAX_DECOMPRESSED, "a batch decompresses to too much");
            Ok(())
        }
        match self {
            Codec::None => out.extend_from_slice(input),
            Codec::Gzip => all(flate2::read::MultiGzDecoder::new(input), out)?,
            Codec::Snappy => {
                let mut decoder = snap::raw::Decoder::new();
                let Some(mut rest) = input.strip_prefix(&XERIAL[..8]) else {
                    out.extend_from_slice(&decoder.decompress_vec(input)?);
                    return Ok(());
                };
                rest = rest.get(8..).context("a short snappy header")?;
                while let Some((length, after)) = rest.split_first_chunk::<4>() {
                    let length = u32::from_be_bytes(*length) as usize;
                    let block = after.get(..length).context("a short snappy block")?;
                    ensure!(
                        snap::raw::decompress_len(block)? <= MAX_DECOMPRESSED,
                        "a snappy block decompresses to too much"
                    );
                    out.extend_from_slice(&decoder.decompress_vec(block)?);
                    rest = &after[length..];
                }
            }
            Codec::Lz4 => all(lz4_flex::frame::FrameDecoder::new(input), out)?,
            Codec::Zstd => all(zstd::stream::read::Decoder::new(input)?, out)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_gives_back_what_it_took() {
        let input: Vec<u8> = (0..100_000u32).map(|i| (i / 100 % 251) as u8).collect();
        for codec in [
            Codec::None,
            Codec::Gzip,
            Codec::Snappy,
            Codec::Lz4,
            Codec::Zstd,
        ] {
            let mut compressed = Vec::new();
            codec.compress(&input, &mut compressed).unwrap();
            let mut output = Vec::new();
            codec.decompress(&compressed, &mut output).unwrap();
            assert!(output == input, "{codec:?}");
            assert_eq!(Codec::of_attributes(codec.id().into()).unwrap(), codec);
        }
    }
}
