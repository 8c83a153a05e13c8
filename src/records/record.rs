//! The records inside a batch: read without copying, and written.
//!
//! Varints are zigzag, seven bits a byte, lowest first, at most 5 bytes (10 for `timestamp_delta`):
//!
//! ```text
//! varint   length             bytes of the record behind this field
//! int8     attributes         unused
//! varlong  timestamp_delta    to the batch's base_timestamp; ms
//! varint   offset_delta       to the batch's base_offset
//! varint   key length         negative is null
//!          key
//! varint   value length       negative is null
//!          value
//! varint   number of headers, then of each:
//!            varint  key length, key (UTF-8, never null)
//!            varint  value length, value; negative is null
//! ```

use std::fmt;

use super::batch::{BATCH_HEADER_SIZE, BatchHeader, TimestampType};
use crate::base::{Offset, Timestamp};

/// Bytes of the smallest record, its length included.
pub const MIN_RECORD_SIZE: usize = 7;

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// The bytes end inside a record, or a length points beyond its end.
    Short,
    /// A varint that does not end within its 5 or 10 bytes, or has more bits than its type.
    Varint,
    /// The record's length is negative.
    Length { length: i32 },
    /// The fields end before the record's length says so.
    Surplus { bytes: usize },
    /// A negative number of headers, or more than the bytes left could hold.
    HeadersCount { count: i32 },
    /// A header without a key.
    HeaderKey,
    /// Bytes follow the last record that the batch announces.
    Trailing,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("record ends early"),
            Self::Varint => f.write_str("varint is too long"),
            Self::Length { length } => write!(f, "record length {length} is negative"),
            Self::Surplus { bytes } => {
                write!(f, "record has {bytes} bytes more than its fields")
            }
            Self::HeadersCount { count } => write!(f, "number of headers {count} is impossible"),
            Self::HeaderKey => f.write_str("header key is null"),
            Self::Trailing => f.write_str("bytes follow the last record of the batch"),
        }
    }
}

impl std::error::Error for RecordError {}

/// Takes an unsigned varint of at most 32 bits off the front of `bytes`.
#[inline(always)]
fn take_unsigned(bytes: &mut &[u8]) -> Result<u32, RecordError> {
    let (&first, rest) = bytes.split_first().ok_or(RecordError::Short)?;
    if first < 0x80 {
        *bytes = rest;
        return Ok(u32::from(first));
    }
    if let Some((&second, rest)) = rest.split_first()
        && second < 0x80
    {
        *bytes = rest;
        return Ok(u32::from(first & 0x7f) | u32::from(second) << 7);
    }
    take_unsigned_long(bytes)
        .and_then(|value| u32::try_from(value).map_err(|_| RecordError::Varint))
}

/// The rest of [`take_unsigned`]; also refuses more than 5 bytes, even if they are padding.
#[cold]
#[inline(never)]
fn take_unsigned_long(bytes: &mut &[u8]) -> Result<u64, RecordError> {
    let mut value = 0u64;
    for at in 0..5 {
        let &byte = bytes.get(at).ok_or(RecordError::Short)?;
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            *bytes = &bytes[at + 1..];
            return Ok(value);
        }
    }
    Err(RecordError::Varint)
}

/// Takes a zigzag varint of at most 5 bytes off the front of `bytes`.
#[inline(always)]
pub fn take_varint(bytes: &mut &[u8]) -> Result<i32, RecordError> {
    let raw = take_unsigned(bytes)?;
    Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
}

/// Takes a zigzag varint of at most 10 bytes off the front of `bytes`.
#[inline(always)]
pub fn take_varlong(bytes: &mut &[u8]) -> Result<i64, RecordError> {
    let (&first, rest) = bytes.split_first().ok_or(RecordError::Short)?;
    if first < 0x80 {
        *bytes = rest;
        return Ok(zigzag(u64::from(first)));
    }
    take_varlong_long(bytes)
}

#[inline(never)]
fn take_varlong_long(bytes: &mut &[u8]) -> Result<i64, RecordError> {
    let mut value = 0u64;
    for at in 0..10 {
        let &byte = bytes.get(at).ok_or(RecordError::Short)?;
        if at == 9 && byte > 1 {
            return Err(RecordError::Varint);
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            *bytes = &bytes[at + 1..];
            return Ok(zigzag(value));
        }
    }
    Err(RecordError::Varint)
}

#[inline(always)]
pub(crate) fn zigzag(raw: u64) -> i64 {
    (raw >> 1) as i64 ^ -((raw & 1) as i64)
}

/// Appends a zigzag varint: of an `i32` at most 5 bytes, of an `i64` at most 10.
pub fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)) as u64;
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

/// Bytes that [`put_varint`] writes.
pub fn varint_size(value: i64) -> usize {
    let raw = ((value << 1) ^ (value >> 63)) as u64;
    (70 - (raw | 1).leading_zeros() as usize) / 7
}

/// `length` bytes off the front; a negative length is null.
#[inline(always)]
fn take_nullable<'a>(bytes: &mut &'a [u8], length: i32) -> Result<Option<&'a [u8]>, RecordError> {
    let Ok(length) = usize::try_from(length) else {
        return Ok(None);
    };
    let (taken, rest) = bytes.split_at_checked(length).ok_or(RecordError::Short)?;
    *bytes = rest;
    Ok(Some(taken))
}

/// One record as it lies in its batch, all its fields checked. Offsets and timestamps are differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawRecord<'a> {
    pub attributes: i8,
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    headers_count: u32,
    headers: &'a [u8],
}

impl<'a> RawRecord<'a> {
    /// Takes a record off the front of `bytes`. On an error `bytes` is left anywhere.
    #[inline]
    pub fn take(bytes: &mut &'a [u8]) -> Result<RawRecord<'a>, RecordError> {
        let length = take_varint(bytes)?;
        let length_usize = usize::try_from(length).map_err(|_| RecordError::Length { length })?;
        let (body, rest) = bytes
            .split_at_checked(length_usize)
            .ok_or(RecordError::Short)?;
        *bytes = rest;
        Self::of_body(body)
    }

    /// A record from exactly the bytes that its length counts.
    #[inline]
    pub fn of_body(mut body: &'a [u8]) -> Result<RawRecord<'a>, RecordError> {
        let (&attributes, rest) = body.split_first().ok_or(RecordError::Short)?;
        body = rest;
        let timestamp_delta = take_varlong(&mut body)?;
        let offset_delta = take_varint(&mut body)?;
        let length = take_varint(&mut body)?;
        let key = take_nullable(&mut body, length)?;
        let length = take_varint(&mut body)?;
        let value = take_nullable(&mut body, length)?;
        let count = take_varint(&mut body)?;
        let headers = body;
        if count != 0 {
            skip_headers(&mut body, count)?;
        }
        if !body.is_empty() {
            return Err(RecordError::Surplus { bytes: body.len() });
        }
        Ok(RawRecord {
            attributes: attributes as i8,
            timestamp_delta,
            offset_delta,
            key,
            value,
            headers_count: count as u32,
            headers,
        })
    }

    /// The headers in their order; keys may repeat.
    pub fn headers(&self) -> Headers<'a> {
        Headers {
            left: self.headers_count,
            bytes: self.headers,
        }
    }
}

#[inline(never)]
fn skip_headers(body: &mut &[u8], count: i32) -> Result<(), RecordError> {
    // A header has two bytes at least.
    let possible = usize::try_from(count).is_ok_and(|count| count <= body.len() / 2);
    if !possible {
        return Err(RecordError::HeadersCount { count });
    }
    for _ in 0..count {
        take_header(body)?;
    }
    Ok(())
}

fn take_header<'a>(body: &mut &'a [u8]) -> Result<Header<'a>, RecordError> {
    let length = take_varint(body)?;
    let key = take_nullable(body, length)?.ok_or(RecordError::HeaderKey)?;
    let length = take_varint(body)?;
    let value = take_nullable(body, length)?;
    Ok(Header { key, value })
}

/// A header of a record (KIP-82).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// UTF-8 by agreement of the clients; not checked here.
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
}

/// The headers of one record.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    left: u32,
    bytes: &'a [u8],
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.left = self.left.checked_sub(1)?;
        // They were walked once when the record was parsed, so an error cannot come.
        take_header(&mut self.bytes).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left as usize))
    }
}

/// One record with its place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub offset: Offset,
    /// Of the record itself, or for LogAppendTime of its batch.
    pub timestamp: Timestamp,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    headers_count: u32,
    headers: &'a [u8],
}

impl<'a> Record<'a> {
    /// The headers in their order; keys may repeat.
    pub fn headers(&self) -> Headers<'a> {
        Headers {
            left: self.headers_count,
            bytes: self.headers,
        }
    }
}

/// The records of one batch, in order. Ends after the first error.
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    bytes: &'a [u8],
    left: i32,
    base_offset: Offset,
    base_timestamp: Timestamp,
    log_append_time: Option<Timestamp>,
}

impl<'a> RecordIter<'a> {
    /// Over `records`, the uncompressed or decompressed bytes behind the header of `header`'s batch.
    pub fn new(header: &BatchHeader, records: &'a [u8]) -> Self {
        RecordIter {
            bytes: records,
            left: header.records_count,
            base_offset: header.base_offset,
            base_timestamp: header.base_timestamp,
            log_append_time: match header.timestamp_type() {
                TimestampType::CreateTime => None,
                TimestampType::LogAppendTime => Some(header.max_timestamp),
            },
        }
    }

    /// Over an uncompressed `batch`, with `header` at its start. Bytes behind the batch are not looked at.
    pub fn of_batch(header: &BatchHeader, batch: &'a [u8]) -> Self {
        let end = header.size_in_bytes().min(batch.len());
        let start = BATCH_HEADER_SIZE.min(end);
        Self::new(header, &batch[start..end])
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            if !self.bytes.is_empty() {
                self.bytes = &[];
                return Some(Err(RecordError::Trailing));
            }
            return None;
        }
        self.left -= 1;
        match RawRecord::take(&mut self.bytes) {
            Ok(raw) => Some(Ok(Record {
                offset: self.base_offset.plus(i64::from(raw.offset_delta)),
                timestamp: self.log_append_time.unwrap_or(Timestamp(
                    self.base_timestamp.0.wrapping_add(raw.timestamp_delta),
                )),
                key: raw.key,
                value: raw.value,
                headers_count: raw.headers_count,
                headers: raw.headers,
            })),
            Err(error) => {
                self.left = 0;
                self.bytes = &[];
                Some(Err(error))
            }
        }
    }
}

/// Appends a record with all its varints.
pub fn put_record(
    out: &mut Vec<u8>,
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[(&[u8], Option<&[u8]>)],
) {
    let nullable = |bytes: Option<&[u8]>| match bytes {
        Some(bytes) => varint_size(bytes.len() as i64) + bytes.len(),
        None => 1,
    };
    let length = 1
        + varint_size(timestamp_delta)
        + varint_size(i64::from(offset_delta))
        + nullable(key)
        + nullable(value)
        + varint_size(headers.len() as i64)
        + headers
            .iter()
            .map(|&(key, value)| nullable(Some(key)) + nullable(value))
            .sum::<usize>();
    out.reserve(length + 5);
    put_varint(out, length as i64);
    out.push(0);
    put_varint(out, timestamp_delta);
    put_varint(out, i64::from(offset_delta));
    put_nullable(out, key);
    put_nullable(out, value);
    put_varint(out, headers.len() as i64);
    for &(key, value) in headers {
        put_nullable(out, Some(key));
        put_nullable(out, value);
    }
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_varint(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
        None => put_varint(out, -1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(mut bytes: &[u8]) -> Result<i32, RecordError> {
        take_varint(&mut bytes)
    }

    fn varlong(mut bytes: &[u8]) -> Result<i64, RecordError> {
        take_varlong(&mut bytes)
    }

    #[test]
    fn varints_are_zigzag_with_the_lowest_bits_first() {
        assert_eq!(varint(&[0]), Ok(0));
        assert_eq!(varint(&[1]), Ok(-1));
        assert_eq!(varint(&[0x80, 0x01]), Ok(64));
        assert_eq!(varint(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok(i32::MIN));
        assert_eq!(varint(&[0xfe, 0xff, 0xff, 0xff, 0x0f]), Ok(i32::MAX));
        assert_eq!(
            varlong(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
            Ok(i64::MIN)
        );
    }

    #[test]
    fn overlong_and_overflowing_varints_are_errors() {
        assert_eq!(varint(&[0x80; 6]), Err(RecordError::Varint));
        assert_eq!(
            varint(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]),
            Err(RecordError::Varint)
        );
        assert_eq!(
            varint(&[0xff, 0xff, 0xff, 0xff, 0x1f]),
            Err(RecordError::Varint)
        );
        assert_eq!(varlong(&[0x80; 11]), Err(RecordError::Varint));
        assert_eq!(
            varlong(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]),
            Err(RecordError::Varint)
        );
        assert_eq!(varint(&[]), Err(RecordError::Short));
        assert_eq!(varint(&[0x80]), Err(RecordError::Short));
        assert_eq!(varint(&[0x80, 0x80, 0x80]), Err(RecordError::Short));
    }

    #[test]
    fn what_is_written_is_read_back_in_the_bytes_announced() {
        for shift in 0..63 {
            for value in [1i64 << shift, -(1 << shift), (1 << shift) - 1] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                assert_eq!(out.len(), varint_size(value), "{value}");
                assert_eq!(varlong(&out), Ok(value));
                if let Ok(small) = i32::try_from(value) {
                    assert_eq!(varint(&out), Ok(small));
                }
            }
        }
    }

    fn body(bytes: &[u8]) -> Result<RawRecord<'_>, RecordError> {
        RawRecord::of_body(bytes)
    }

    #[test]
    fn a_record_uses_exactly_its_length() {
        assert!(body(&[0, 0, 0, 1, 1, 0]).is_ok());
        assert_eq!(
            body(&[0, 0, 0, 1, 1, 0, 9]),
            Err(RecordError::Surplus { bytes: 1 })
        );
        assert_eq!(body(&[0, 0, 0, 1, 1]), Err(RecordError::Short));
        assert_eq!(body(&[0, 0, 0, 20, 1, 0]), Err(RecordError::Short));
    }

    #[test]
    fn headers_have_keys_and_no_more_than_fit() {
        assert_eq!(body(&[0, 0, 0, 1, 1, 2, 1, 1]), Err(RecordError::HeaderKey));
        assert_eq!(
            body(&[0, 0, 0, 1, 1, 1]),
            Err(RecordError::HeadersCount { count: -1 })
        );
        assert_eq!(
            body(&[0, 0, 0, 1, 1, 4, 2, b'k', 1]),
            Err(RecordError::HeadersCount { count: 2 })
        );
        let bytes = [0, 0, 0, 1, 1, 4, 2, b'k', 1, 0, 2, b'v'];
        let record = body(&bytes).unwrap();
        let headers: Vec<_> = record.headers().collect();
        assert_eq!(
            headers,
            [
                Header {
                    key: b"k",
                    value: None
                },
                Header {
                    key: b"",
                    value: Some(b"v")
                }
            ]
        );
    }
}
