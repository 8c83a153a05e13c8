//! The records of one batch as a stream: what is decompressed and not looked at yet stays small.

use crate::records::record::{RawRecord, take_varint};
use crate::records::{
    BATCH_HEADER_SIZE, BatchHeader, CompressionType, RecordError, Scratch,
    compression::Decompressor,
};

/// Most bytes that the records of one batch may decompress to; what producers may send is less.
const DECOMPRESSED_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// The batch is not what its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadBatch;

enum Source<'a> {
    Plain(&'a [u8]),
    Packed(Decompressor<'a>),
}

/// Records in their order, each with the bytes it takes in the batch.
pub(super) struct Records<'a> {
    source: Source<'a>,
    /// Of a packed source: what was unpacked, from `at` on.
    unpacked: Vec<u8>,
    at: usize,
    left: i32,
}

impl<'a> Records<'a> {
    /// Over `batch`, one whole batch.
    pub(super) fn new(
        header: &BatchHeader,
        batch: &'a [u8],
        scratch: &'a mut Scratch,
    ) -> Result<Self, BadBatch> {
        let records = batch.get(BATCH_HEADER_SIZE..).ok_or(BadBatch)?;
        let source = match header.compression() {
            CompressionType::None => Source::Plain(records),
            _ if header.records_count == 0 => Source::Plain(&[]),
            codec => Source::Packed(
                Decompressor::new(codec, records, scratch, DECOMPRESSED_BYTES_MAX)
                    .map_err(|_| BadBatch)?,
            ),
        };
        Ok(Self {
            source,
            unpacked: Vec::new(),
            at: 0,
            left: header.records_count,
        })
    }

    /// The next record, and its bytes with the length before them.
    pub(super) fn next(&mut self) -> Result<Option<(RawRecord<'_>, &[u8])>, BadBatch> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let len = loop {
            let bytes = self.bytes();
            match record_len(bytes)? {
                Some(len) if len <= bytes.len() => break len,
                _ => self.unpack()?,
            }
        };
        let start = self.at;
        self.at += len;
        let bytes = match &self.source {
            Source::Plain(bytes) => &bytes[start..start + len],
            Source::Packed(_) => &self.unpacked[start..start + len],
        };
        let mut rest = bytes;
        let record = RawRecord::take(&mut rest).map_err(|_| BadBatch)?;
        Ok(Some((record, bytes)))
    }

    fn bytes(&self) -> &[u8] {
        match &self.source {
            Source::Plain(bytes) => &bytes[self.at..],
            Source::Packed(_) => &self.unpacked[self.at..],
        }
    }

    /// Unpacks some more.
    fn unpack(&mut self) -> Result<(), BadBatch> {
        let Source::Packed(source) = &mut self.source else {
            return Err(BadBatch);
        };
        if !source.next_chunk().map_err(|_| BadBatch)? {
            return Err(BadBatch);
        }
        self.unpacked.drain(..self.at);
        self.at = 0;
        let chunk = source.available();
        self.unpacked.extend_from_slice(chunk);
        let len = chunk.len();
        source.consume(len);
        Ok(())
    }
}

/// Bytes of the record at the start of `bytes`, its length included; `None` if the length is not all there.
fn record_len(bytes: &[u8]) -> Result<Option<usize>, BadBatch> {
    let mut rest = bytes;
    match take_varint(&mut rest) {
        Ok(length) => {
            let length = usize::try_from(length).map_err(|_| BadBatch)?;
            Ok(Some(bytes.len() - rest.len() + length))
        }
        Err(RecordError::Short) => Ok(None),
        Err(_) => Err(BadBatch),
    }
}
