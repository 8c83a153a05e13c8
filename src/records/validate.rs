//! What a produced batch must be before it is appended: Kafka's rules, and their order.
//!
//! 1. One whole batch of format 2, and nothing else.
//! 2. Base offset 0; not larger than `max.message.bytes`; the CRC is right.
//! 3. As many records as offsets, one at least; not a control batch; a sequence if there is a producer.
//! 4. Every record is well formed, with offset deltas 0, 1, 2, …, and the batch ends with the last one. For a
//!    compressed batch this is seen while it is decompressed, a chunk at a time.
//! 5. A key on compacted topics, and a timestamp within `message.timestamp.before.max.ms` and
//!    `message.timestamp.after.max.ms`. These are reported record by record.
//! 6. If the topic's `compression.type` is another than the batch has, it is compressed anew. The records
//!    themselves stay byte for byte.
//!
//! Where we are stricter than Apache Kafka, which lets these pass: bytes behind the batch that are not a
//! batch, and offset deltas out of order (it appends an uncompressed batch with them).

use std::fmt;

use bytes::{Bytes, BytesMut};

use super::batch::{
    ATTRIBUTES_AT, BATCH_HEADER_SIZE, BatchError, BatchHeader, COMPRESSION_MASK, CompressionType,
    LOG_OVERHEAD, MAGIC, MAGIC_AT, TRANSACTIONAL_BIT, TimestampType, i16_at, i32_at, i64_at,
    set_max_timestamp, u32_at, verify_crc,
};
use super::builder::seal;
use super::compression::{Compression, Compressor, DecompressError, Decompressor, Scratch};
use super::record::{RawRecord, RecordError, zigzag};
use super::shape::Outlines;
use crate::base::Timestamp;

/// Of the records that break a rule of their own, so many are named in the answer.
pub const MAX_RECORD_FAULTS: usize = 1000;

/// The most that a batch may decompress to, unless the rules say otherwise: bounds the time it can
/// take, at some 3 GB/s, while its memory is bounded by [`Scratch`] anyway.
pub const MAX_DECOMPRESSED_BYTES: u64 = 128 * 1024 * 1024;

/// What a topic asks of the batches it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidationRules {
    /// `max.message.bytes`: of a batch, header included, as it was sent and as it is stored.
    pub max_message_bytes: u32,
    /// `cleanup.policy` contains `compact`: every record needs a key.
    pub compacted: bool,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how much older than now a CreateTime may be.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`: how far in the future a CreateTime may be.
    pub timestamp_after_max_ms: i64,
    /// `compression.type` with its level; `None` is `producer`: as it comes.
    pub compression: Option<Compression>,
    /// The most that the records may be when decompressed.
    pub max_decompressed_bytes: u64,
}

impl Default for ValidationRules {
    /// Kafka's defaults for a topic.
    fn default() -> Self {
        Self {
            max_message_bytes: 1_048_588,
            compacted: false,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 3_600_000,
            compression: None,
            max_decompressed_bytes: MAX_DECOMPRESSED_BYTES,
        }
    }
}

/// A batch that may be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validated {
    /// Of the bytes as they are now.
    pub header: BatchHeader,
    /// Largest timestamp of the records, -1 if none has one. For LogAppendTime it is not known before
    /// the append.
    pub max_timestamp: Timestamp,
    /// Which record, from 0, is the first with it.
    pub offset_delta_of_max_timestamp: i32,
    /// The bytes were replaced by a batch of the topic's own compression.
    pub recompressed: bool,
}

/// What is wrong with one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordFault {
    /// A compacted topic needs a key.
    NoKey,
    /// Outside the limits, which are given.
    TimestampOutOfRange {
        timestamp: Timestamp,
        from: Timestamp,
        to: Timestamp,
    },
    /// The producer says LogAppendTime, which is for the broker to say.
    LogAppendTime,
}

impl fmt::Display for RecordFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey => f.write_str("Compacted topic cannot accept message without key"),
            Self::TimestampOutOfRange {
                timestamp,
                from,
                to,
            } => write!(
                f,
                "Timestamp {timestamp} is out of range. The timestamp should be within \
                 [{from}, {to}]"
            ),
            Self::LogAppendTime => {
                f.write_str("Producer should not set timestamp type to LogAppendTime")
            }
        }
    }
}

/// Why a batch is refused. Each variant names the code Kafka answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValidationError {
    /// No bytes, or not a whole batch: INVALID_RECORD.
    NoBatch,
    /// A format before 2: INVALID_RECORD.
    OldMagic { magic: i8 },
    /// No format at all: CORRUPT_MESSAGE.
    UnknownMagic { magic: i8 },
    /// A length that leaves no room for a header: CORRUPT_MESSAGE.
    Length { length: i32 },
    /// Bytes follow the batch: INVALID_RECORD.
    MoreThanOneBatch,
    /// The producer gave a base offset other than 0: INVALID_RECORD.
    BaseOffset { base_offset: i64 },
    /// Beyond `max.message.bytes`, as sent or after it was compressed anew: MESSAGE_TOO_LARGE.
    TooLarge { size: usize, max: u32 },
    /// CORRUPT_MESSAGE.
    Crc { stored: u32 },
    /// Fields that no batch has: INVALID_RECORD.
    Header(BatchError),
    /// No record, or another number than offsets: INVALID_RECORD.
    Count { count: i32, last_offset_delta: i32 },
    /// Control records are the broker's: INVALID_RECORD.
    ControlBatch,
    /// A producer id without a sequence: INVALID_RECORD.
    NoSequence { base_sequence: i32 },
    /// The record of this number, from 0, is malformed: INVALID_RECORD.
    Malformed { index: i32, error: RecordError },
    /// The record of this number has another offset delta: INVALID_RECORD.
    OffsetDelta { index: i32, found: i32 },
    /// INVALID_RECORD: sending it again would not help.
    Decompress(DecompressError),
    /// The topic's codec failed: UNKNOWN_SERVER_ERROR.
    Compress,
    /// Records that are well formed but break a rule: INVALID_TIMESTAMP if
    /// [`invalid_timestamp`](Self::Records::invalid_timestamp), else INVALID_RECORD.
    Records {
        /// By index from 0, at most [`MAX_RECORD_FAULTS`].
        faults: Vec<(i32, RecordFault)>,
        /// How many there were.
        total: u32,
        /// One at least of all is about a timestamp.
        invalid_timestamp: bool,
    },
}

impl fmt::Display for ValidationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBatch => f.write_str("Record batch has no batches at all"),
            Self::OldMagic { magic } => write!(
                f,
                "Produce requests are only allowed to contain record batches with magic version \
                 2, not {magic}"
            ),
            Self::UnknownMagic { magic } => write!(f, "Invalid magic {magic} found in record"),
            Self::Length { length } => write!(f, "Record batch has length {length}"),
            Self::MoreThanOneBatch => f.write_str(
                "Produce requests are only allowed to contain exactly one record batch per partition",
            ),
            Self::BaseOffset { base_offset } => write!(
                f,
                "The baseOffset of the record batch should be 0, but it is {base_offset}"
            ),
            Self::TooLarge { size, max } => write!(
                f,
                "The record batch size is {size} bytes which exceeds the maximum configured value \
                 of {max}"
            ),
            Self::Crc { stored } => write!(f, "Record is corrupt (stored crc = {stored})"),
            Self::Header(error) => write!(f, "Record batch header is invalid: {error}"),
            Self::Count {
                count,
                last_offset_delta,
            } => write!(
                f,
                "Inconsistent last offset delta {last_offset_delta} and count of records {count}"
            ),
            Self::ControlBatch => f.write_str("Clients are not allowed to write control records"),
            Self::NoSequence { base_sequence } => write!(
                f,
                "Invalid sequence number {base_sequence} in record batch with producer id"
            ),
            Self::Malformed { index, error } => write!(f, "Record {index} is invalid: {error}"),
            Self::OffsetDelta { index, found } => {
                write!(f, "Record {index} has offset delta {found}")
            }
            Self::Decompress(error) => write!(f, "Failed to decompress record stream: {error}"),
            Self::Compress => f.write_str("Failed to compress records"),
            Self::Records {
                total,
                invalid_timestamp,
                ..
            } => {
                if *invalid_timestamp {
                    f.write_str("One or more records have been rejected due to invalid timestamp")
                } else {
                    write!(
                        f,
                        "One or more records have been rejected due to {total} record errors in total"
                    )
                }
            }
        }
    }
}

impl std::error::Error for ValidationError {}

impl From<DecompressError> for ValidationError {
    fn from(error: DecompressError) -> Self {
        Self::Decompress(error)
    }
}

/// The codec of a produced batch, before anything of it is checked: zstd is refused with
/// UNSUPPORTED_COMPRESSION_TYPE before Produce version 7 (KIP-110).
pub fn peek_compression(records: &[u8]) -> Option<CompressionType> {
    let header = records.first_chunk::<BATCH_HEADER_SIZE>()?;
    if header[MAGIC_AT] != MAGIC as u8 {
        return None;
    }
    CompressionType::from_id((i16_at(header, ATTRIBUTES_AT) & COMPRESSION_MASK) as u8)
}

/// Whether a produced batch says it belongs to a transaction, before anything of it is checked.
pub fn peek_transactional(records: &[u8]) -> bool {
    records
        .first_chunk::<BATCH_HEADER_SIZE>()
        .is_some_and(|header| {
            header[MAGIC_AT] == MAGIC as u8
                && i16_at(header, ATTRIBUTES_AT) & TRANSACTIONAL_BIT != 0
        })
}

/// Checks what a producer sent for one partition, and makes it what the topic wants.
///
/// `records` is all of it. It is changed in place only where its `max_timestamp` was wrong, and replaced
/// when it is compressed anew; base offset, leader epoch and log append time come later, by
/// [`assign`](super::batch::assign). On an error it is of no more use. `now` is the broker's time.
pub fn validate(
    records: &mut BytesMut,
    rules: &ValidationRules,
    now: Timestamp,
    scratch: &mut Scratch,
) -> Result<Validated, ValidationError> {
    let header = check_envelope(records, rules)?;
    check_header(&header)?;

    let mut walk = Walk::new(&header, rules, now);
    let body = &records[BATCH_HEADER_SIZE..];
    let target = rules
        .compression
        .filter(|target| target.kind != header.compression());
    let mut out = match target {
        Some(target) => Some(
            Compressor::new(target, records[..BATCH_HEADER_SIZE].to_vec())
                .map_err(|_| ValidationError::Compress)?,
        ),
        None => None,
    };
    if header.compression() == CompressionType::None {
        walk.slice(body)?;
        if let Some(out) = &mut out {
            out.write(body).map_err(|_| ValidationError::Compress)?;
        }
    } else {
        let limit = rules.max_decompressed_bytes;
        let stream = Decompressor::new(header.compression(), body, scratch, limit)?;
        let tee = out.as_mut().map(|out| (out, rules.max_message_bytes));
        walk.stream(&mut Stream { stream, tee })?;
    }
    let (max_timestamp, offset_delta_of_max_timestamp) = walk.finish()?;

    let recompressed = out.is_some();
    if let (Some(target), Some(out)) = (target, out) {
        let mut batch = out.finish().map_err(|_| ValidationError::Compress)?;
        check_size(batch.len(), rules)?;
        let codec = i16::from(target.kind.id());
        let attributes = header.attributes & !COMPRESSION_MASK | codec;
        batch[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
        seal(&mut batch);
        *records = BytesMut::from(Bytes::from(batch));
    }
    if rules.timestamp_type == TimestampType::CreateTime {
        set_max_timestamp(records, TimestampType::CreateTime, max_timestamp);
    }
    Ok(Validated {
        header: BatchHeader::parse(records).map_err(ValidationError::Header)?,
        max_timestamp,
        offset_delta_of_max_timestamp,
        recompressed,
    })
}

fn check_size(size: usize, rules: &ValidationRules) -> Result<(), ValidationError> {
    if size as u64 > u64::from(rules.max_message_bytes) {
        return Err(ValidationError::TooLarge {
            size,
            max: rules.max_message_bytes,
        });
    }
    Ok(())
}

/// Rules 1 and 2, and the header's consistency in itself.
fn check_envelope(bytes: &[u8], rules: &ValidationRules) -> Result<BatchHeader, ValidationError> {
    let Some(&magic) = bytes.get(MAGIC_AT) else {
        return Err(ValidationError::NoBatch);
    };
    let magic = magic as i8;
    match magic {
        MAGIC => {}
        0 | 1 => return Err(ValidationError::OldMagic { magic }),
        _ => return Err(ValidationError::UnknownMagic { magic }),
    }
    if bytes.len() < BATCH_HEADER_SIZE {
        return Err(ValidationError::NoBatch);
    }
    let length = i32_at(bytes, super::batch::LENGTH_AT);
    let Some(size) = usize::try_from(length)
        .ok()
        .map(|length| length + LOG_OVERHEAD)
        .filter(|size| *size >= BATCH_HEADER_SIZE)
    else {
        return Err(ValidationError::Length { length });
    };
    if size > bytes.len() {
        return Err(ValidationError::NoBatch);
    }
    if size < bytes.len() {
        return Err(ValidationError::MoreThanOneBatch);
    }
    let base_offset = i64_at(bytes, 0);
    if base_offset != 0 {
        return Err(ValidationError::BaseOffset { base_offset });
    }
    check_size(size, rules)?;
    if !verify_crc(bytes) {
        return Err(ValidationError::Crc {
            stored: u32_at(bytes, super::batch::CRC_AT),
        });
    }
    BatchHeader::parse(bytes).map_err(ValidationError::Header)
}

/// Rule 3.
fn check_header(header: &BatchHeader) -> Result<(), ValidationError> {
    if header.records_count <= 0
        || i64::from(header.records_count) != i64::from(header.last_offset_delta) + 1
    {
        return Err(ValidationError::Count {
            count: header.records_count,
            last_offset_delta: header.last_offset_delta,
        });
    }
    if header.is_control() {
        return Err(ValidationError::ControlBatch);
    }
    if header.has_producer_id() && header.base_sequence < 0 {
        return Err(ValidationError::NoSequence {
            base_sequence: header.base_sequence,
        });
    }
    Ok(())
}

/// Rules 4 and 5: goes over the records of one batch.
struct Walk {
    count: i32,
    index: i32,
    base_timestamp: i64,
    /// The batch says LogAppendTime: this is then every record's timestamp.
    log_append_time: Option<i64>,
    /// Of CreateTime; -1 is allowed as well.
    from: i64,
    to: i64,
    check_range: bool,
    compacted: bool,
    max_timestamp: i64,
    index_of_max: i32,
    faults: Vec<(i32, RecordFault)>,
    total: u32,
    invalid_timestamp: bool,
}

impl Walk {
    fn new(header: &BatchHeader, rules: &ValidationRules, now: Timestamp) -> Self {
        Self {
            count: header.records_count,
            index: 0,
            base_timestamp: header.base_timestamp.0,
            log_append_time: match header.timestamp_type() {
                TimestampType::CreateTime => None,
                TimestampType::LogAppendTime => Some(header.max_timestamp.0),
            },
            from: now.0.saturating_sub(rules.timestamp_before_max_ms),
            to: now.0.saturating_add(rules.timestamp_after_max_ms),
            check_range: rules.timestamp_type == TimestampType::CreateTime,
            compacted: rules.compacted,
            max_timestamp: -1,
            index_of_max: 0,
            faults: Vec::new(),
            total: 0,
            invalid_timestamp: false,
        }
    }

    /// The hot path: some nanoseconds a record.
    fn slice(&mut self, mut body: &[u8]) -> Result<(), ValidationError> {
        let mut outlines = Outlines::default();
        while self.index < self.count {
            let taken = outlines.take(&mut body);
            let record = taken.map_err(|error| self.malformed(error))?;
            self.observe(record.offset_delta, record.timestamp_delta, record.has_key)?;
        }
        if !body.is_empty() {
            return Err(self.malformed(RecordError::Trailing));
        }
        Ok(())
    }

    /// A record within a chunk is parsed in place; one that lies across chunks, field by field.
    fn stream(&mut self, stream: &mut Stream<'_, '_>) -> Result<(), ValidationError> {
        while self.index < self.count {
            let available = stream.stream.available();
            let mut rest = available;
            let (offset_delta, timestamp_delta, has_key) = match RawRecord::take(&mut rest) {
                Ok(record) => {
                    let seen = (
                        record.offset_delta,
                        record.timestamp_delta,
                        record.key.is_some(),
                    );
                    let used = available.len() - rest.len();
                    stream.stream.consume(used);
                    seen
                }
                Err(RecordError::Short) => stream.record().map_err(|error| self.broken(error))?,
                Err(error) => return Err(self.malformed(error)),
            };
            self.observe(offset_delta, timestamp_delta, has_key)?;
        }
        // The end of the stream has to be seen, where checksums are, and no more records before it.
        if stream.fill().map_err(|error| self.broken(error))? {
            return Err(self.malformed(RecordError::Trailing));
        }
        Ok(())
    }

    #[inline(always)]
    fn observe(
        &mut self,
        offset_delta: i32,
        timestamp_delta: i64,
        has_key: bool,
    ) -> Result<(), ValidationError> {
        if offset_delta != self.index {
            return Err(ValidationError::OffsetDelta {
                index: self.index,
                found: offset_delta,
            });
        }
        let timestamp = match self.log_append_time {
            None => self.base_timestamp.wrapping_add(timestamp_delta),
            Some(time) => time,
        };
        if timestamp > self.max_timestamp {
            self.max_timestamp = timestamp;
            self.index_of_max = self.index;
        }
        let ranged = self.check_range && timestamp != -1;
        if (self.compacted && !has_key)
            || (ranged && (timestamp < self.from || timestamp > self.to))
            || (!ranged && self.log_append_time.is_some())
        {
            self.fault(timestamp, has_key, ranged);
        }
        self.index += 1;
        Ok(())
    }

    #[cold]
    fn fault(&mut self, timestamp: i64, has_key: bool, ranged: bool) {
        let fault = if self.compacted && !has_key {
            RecordFault::NoKey
        } else if ranged {
            RecordFault::TimestampOutOfRange {
                timestamp: Timestamp(timestamp),
                from: Timestamp(self.from),
                to: Timestamp(self.to),
            }
        } else {
            RecordFault::LogAppendTime
        };
        self.invalid_timestamp |= fault != RecordFault::NoKey;
        self.total += 1;
        if self.faults.len() < MAX_RECORD_FAULTS {
            self.faults.push((self.index, fault));
        }
    }

    fn malformed(&self, error: RecordError) -> ValidationError {
        ValidationError::Malformed {
            index: self.index,
            error,
        }
    }

    fn broken(&self, error: StreamError) -> ValidationError {
        match error {
            StreamError::Record(error) => self.malformed(error),
            StreamError::Validation(error) => error,
        }
    }

    fn finish(self) -> Result<(Timestamp, i32), ValidationError> {
        if self.total > 0 {
            return Err(ValidationError::Records {
                faults: self.faults,
                total: self.total,
                invalid_timestamp: self.invalid_timestamp,
            });
        }
        Ok((Timestamp(self.max_timestamp), self.index_of_max))
    }
}

enum StreamError {
    Record(RecordError),
    Validation(ValidationError),
}

impl From<RecordError> for StreamError {
    fn from(error: RecordError) -> Self {
        Self::Record(error)
    }
}

/// Decompressed records as they come, with a copy to the topic's own compressor and its limit.
struct Stream<'a, 'c> {
    stream: Decompressor<'a>,
    tee: Option<(&'c mut Compressor, u32)>,
}

impl Stream<'_, '_> {
    /// Makes sure that something is available. False at the end.
    fn fill(&mut self) -> Result<bool, StreamError> {
        if !self.stream.available().is_empty() {
            return Ok(true);
        }
        let more = self
            .stream
            .next_chunk()
            .map_err(|error| StreamError::Validation(error.into()))?;
        if let Some((out, max)) = &mut self.tee {
            out.write(self.stream.available())
                .map_err(|_| StreamError::Validation(ValidationError::Compress))?;
            if out.written() > *max as usize {
                return Err(StreamError::Validation(ValidationError::TooLarge {
                    size: out.written(),
                    max: *max,
                }));
            }
        }
        Ok(more)
    }

    fn byte(&mut self) -> Result<u8, StreamError> {
        if !self.fill()? {
            return Err(RecordError::Short.into());
        }
        let byte = self.stream.available().first().copied();
        self.stream.consume(1);
        byte.ok_or(StreamError::Record(RecordError::Short))
    }

    /// A record from its length to its end, of which nothing is kept however large it is.
    fn record(&mut self) -> Result<(i32, i64, bool), StreamError> {
        let mut length = Field {
            stream: self,
            left: usize::MAX,
        };
        let length = length.varint()?;
        let left = usize::try_from(length).map_err(|_| RecordError::Length { length })?;
        let mut body = Field { stream: self, left };
        body.byte()?;
        let timestamp_delta = body.varlong(10)?;
        let offset_delta = body.varint()?;
        let has_key = body.skip_nullable()?;
        body.skip_nullable()?;
        let count = body.varint()?;
        if !usize::try_from(count).is_ok_and(|count| count <= body.left / 2) {
            return Err(RecordError::HeadersCount { count }.into());
        }
        for _ in 0..count {
            if !body.skip_nullable()? {
                return Err(RecordError::HeaderKey.into());
            }
            body.skip_nullable()?;
        }
        if body.left > 0 {
            return Err(RecordError::Surplus { bytes: body.left }.into());
        }
        Ok((offset_delta, timestamp_delta, has_key))
    }
}

/// Reads fields from a stream, and no more than `left` bytes of it.
struct Field<'f, 'a, 'c> {
    stream: &'f mut Stream<'a, 'c>,
    left: usize,
}

impl Field<'_, '_, '_> {
    fn byte(&mut self) -> Result<u8, StreamError> {
        self.left = self.left.checked_sub(1).ok_or(RecordError::Short)?;
        self.stream.byte()
    }

    fn varint(&mut self) -> Result<i32, StreamError> {
        Ok(i32::try_from(self.varlong(5)?).map_err(|_| RecordError::Varint)?)
    }

    fn varlong(&mut self, most: u32) -> Result<i64, StreamError> {
        let mut value = 0u64;
        for at in 0..most {
            let byte = self.byte()?;
            if at == 9 && byte > 1 {
                return Err(RecordError::Varint.into());
            }
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                return Ok(zigzag(value));
            }
        }
        Err(RecordError::Varint.into())
    }

    /// Skips a length and the bytes it counts. False if it is null.
    fn skip_nullable(&mut self) -> Result<bool, StreamError> {
        let Ok(mut bytes) = usize::try_from(self.varint()?) else {
            return Ok(false);
        };
        self.left = self.left.checked_sub(bytes).ok_or(RecordError::Short)?;
        while bytes > 0 {
            if !self.stream.fill()? {
                return Err(RecordError::Short.into());
            }
            let now = self.stream.stream.available().len().min(bytes);
            self.stream.stream.consume(now);
            bytes -= now;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
