//! Reads the wire's basic types from bytes that nobody has checked.

use std::fmt;

/// Elements of all arrays of one request together. Kafka's own limit from 4.4 on.
pub const MAX_ELEMENTS: usize = 1_000_000;

/// Tagged fields of one request together. Kafka's own limit from 4.4 on.
pub const MAX_TAGS: usize = 10_000;

/// The bytes are not a request of the version they claim; the connection they came from is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// Bytes read when it was found out, counted from the start of the part that was read.
    pub at: usize,
    /// The field being read, in the schema's words.
    pub field: &'static str,
    pub reason: Reason,
}

/// What was wrong with a [`Malformed`] request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A length, a count or a fixed-size field reaches beyond the last byte.
    BeyondEnd,
    /// A length below -1, or above the largest its type allows.
    BadLength,
    /// Null where the version has no null.
    UnexpectedNull,
    /// A varint of more than 5 bytes, or of more than 32 bits.
    BadVarint,
    /// A string that is not UTF-8.
    NotUtf8,
    /// More than [`MAX_ELEMENTS`] elements.
    TooManyElements,
    /// More than [`MAX_TAGS`] tagged fields.
    TooManyTags,
    /// A tagged field whose content is not as long as its size says.
    TagSize,
    /// An API or version that has no layout here.
    NotServed,
    /// The walk found nothing, yet the decoder refused: a tag known in later versions only.
    Refused,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self.reason {
            Reason::BeyondEnd => "reaches beyond the end",
            Reason::BadLength => "has an impossible length",
            Reason::UnexpectedNull => "is null but may not be",
            Reason::BadVarint => "is an overlong varint",
            Reason::NotUtf8 => "is not UTF-8",
            Reason::TooManyElements => "exceeds the number of array elements in a request",
            Reason::TooManyTags => "exceeds the number of tagged fields in a request",
            Reason::TagSize => "is not as long as its tag says",
            Reason::NotServed => "is of an API or version that is not served",
            Reason::Refused => "was refused by the decoder",
        };
        write!(f, "{} at byte {} {}", self.field, self.at, reason)
    }
}

impl std::error::Error for Malformed {}

/// A cursor over unchecked bytes. Every method either consumes what it returns or errs; none panics,
/// none allocates.
///
/// `flexible` selects the compact encodings (KIP-482) of strings, bytes and arrays.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    pub(crate) flexible: bool,
    elements: usize,
    elements_max: usize,
    tags: usize,
}

type Read<T> = Result<T, Malformed>;

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], flexible: bool) -> Self {
        Self {
            bytes,
            position: 0,
            flexible,
            elements: 0,
            elements_max: MAX_ELEMENTS,
            tags: 0,
        }
    }

    /// Stops behind fewer elements than [`MAX_ELEMENTS`].
    pub(super) fn with_elements_max(mut self, elements_max: usize) -> Self {
        self.elements_max = elements_max;
        self
    }

    /// Elements of arrays so far.
    pub(super) fn elements_read(&self) -> usize {
        self.elements
    }

    /// Bytes consumed.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    pub(crate) fn err<T>(&self, field: &'static str, reason: Reason) -> Read<T> {
        Err(Malformed {
            at: self.position,
            field,
            reason,
        })
    }

    #[inline]
    pub(crate) fn take(&mut self, length: usize, field: &'static str) -> Read<&'a [u8]> {
        let rest = self.bytes.get(self.position..).unwrap_or(&[]);
        match rest.get(..length) {
            Some(taken) => {
                self.position += length;
                Ok(taken)
            }
            None => self.err(field, Reason::BeyondEnd),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self, field: &'static str) -> Read<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, field)?);
        Ok(out)
    }

    pub(crate) fn i8(&mut self, field: &'static str) -> Read<i8> {
        self.array(field).map(i8::from_be_bytes)
    }

    pub(crate) fn i16(&mut self, field: &'static str) -> Read<i16> {
        self.array(field).map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self, field: &'static str) -> Read<i32> {
        self.array(field).map(i32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self, field: &'static str) -> Read<i64> {
        self.array(field).map(i64::from_be_bytes)
    }

    pub(crate) fn uuid(&mut self, field: &'static str) -> Read<[u8; 16]> {
        self.array(field)
    }

    /// An unsigned varint of at most 32 bits in at most 5 bytes. Zeros at the end are tolerated within
    /// the five, as Kafka does; a sixth byte or a 33rd bit is an error.
    #[inline]
    pub(crate) fn varint(&mut self, field: &'static str) -> Read<u32> {
        let mut value: u32 = 0;
        for i in 0..5 {
            let [byte] = self.array(field)?;
            if i == 4 && byte > 0x0f {
                return self.err(field, Reason::BadVarint);
            }
            value |= u32::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                break;
            }
        }
        Ok(value)
    }

    /// A length or count with null as `None`: an i32, or a varint that is one more.
    #[inline]
    fn length(&mut self, nullable: bool, field: &'static str) -> Read<Option<usize>> {
        if self.flexible {
            match self.varint(field)? {
                0 if nullable => Ok(None),
                0 => self.err(field, Reason::UnexpectedNull),
                n => Ok(Some((n - 1) as usize)),
            }
        } else {
            match self.i32(field)? {
                -1 if nullable => Ok(None),
                -1 => self.err(field, Reason::UnexpectedNull),
                n => match usize::try_from(n) {
                    Ok(n) => Ok(Some(n)),
                    Err(_) => self.err(field, Reason::BadLength),
                },
            }
        }
    }

    /// A string's bytes, checked to be UTF-8.
    #[inline]
    pub(crate) fn string(&mut self, nullable: bool, field: &'static str) -> Read<Option<&'a str>> {
        let length = if self.flexible {
            match self.length(nullable, field)? {
                Some(n) if n > i16::MAX as usize => return self.err(field, Reason::BadLength),
                length => length,
            }
        } else {
            match self.i16(field)? {
                -1 if nullable => None,
                -1 => return self.err(field, Reason::UnexpectedNull),
                n => match usize::try_from(n) {
                    Ok(n) => Some(n),
                    Err(_) => return self.err(field, Reason::BadLength),
                },
            }
        };
        let Some(length) = length else {
            return Ok(None);
        };
        let at = self.position;
        match std::str::from_utf8(self.take(length, field)?) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Malformed {
                at,
                field,
                reason: Reason::NotUtf8,
            }),
        }
    }

    /// A string that may not be null.
    #[inline]
    pub(crate) fn text(&mut self, field: &'static str) -> Read<&'a str> {
        Ok(self.string(false, field)?.unwrap_or(""))
    }

    /// Bytes or records.
    #[inline]
    pub(crate) fn bytes(&mut self, nullable: bool, field: &'static str) -> Read<Option<&'a [u8]>> {
        match self.length(nullable, field)? {
            Some(length) => self.take(length, field).map(Some),
            None => Ok(None),
        }
    }

    /// An array's element count, checked against what is left if each element takes `least` bytes, and
    /// charged to the request's budget of elements.
    #[inline]
    pub(crate) fn count(
        &mut self,
        nullable: bool,
        least: usize,
        field: &'static str,
    ) -> Read<Option<usize>> {
        let Some(count) = self.length(nullable, field)? else {
            return Ok(None);
        };
        // No element takes no bytes, so `max` only guards against a table that says otherwise.
        if count > self.remaining() / least.max(1) {
            return self.err(field, Reason::BeyondEnd);
        }
        self.elements = self.elements.saturating_add(count);
        if self.elements > self.elements_max {
            return self.err(field, Reason::TooManyElements);
        }
        Ok(Some(count))
    }

    /// The count of an array that may not be null.
    #[inline]
    pub(crate) fn elements(&mut self, least: usize, field: &'static str) -> Read<usize> {
        Ok(self.count(false, least, field)?.unwrap_or(0))
    }

    /// The number of tagged fields that end a struct, 0 below the flexible versions, charged to the
    /// request's budget of tags.
    #[inline]
    pub(crate) fn tag_count(&mut self) -> Read<usize> {
        if !self.flexible {
            return Ok(0);
        }
        let count = self.varint("tagged fields")? as usize;
        if count > self.remaining() / 2 {
            return self.err("tagged fields", Reason::BeyondEnd);
        }
        self.tags = self.tags.saturating_add(count);
        if self.tags > MAX_TAGS {
            return self.err("tagged fields", Reason::TooManyTags);
        }
        Ok(count)
    }

    /// A tagged field's number and the position just behind its content, which lies within the bytes.
    #[inline]
    pub(crate) fn tag(&mut self) -> Read<(u32, usize)> {
        let tag = self.varint("tag")?;
        let size = self.varint("tag size")? as usize;
        if size > self.remaining() {
            return self.err("tag size", Reason::BeyondEnd);
        }
        Ok((tag, self.position + size))
    }

    /// Skips to the end of a tagged field of an unknown number.
    pub(crate) fn skip_to(&mut self, end: usize) -> Read<()> {
        match end.checked_sub(self.position) {
            Some(length) => self.take(length, "tagged field").map(drop),
            None => self.err("tagged field", Reason::TagSize),
        }
    }

    /// Checks that a tagged field of a known number ended where its size said.
    pub(crate) fn tag_ends(&self, end: usize, field: &'static str) -> Read<()> {
        if self.position == end {
            Ok(())
        } else {
            self.err(field, Reason::TagSize)
        }
    }

    /// Skips the tagged fields of a struct that knows none.
    #[inline]
    pub(crate) fn skip_tags(&mut self) -> Read<()> {
        for _ in 0..self.tag_count()? {
            let (_, end) = self.tag()?;
            self.skip_to(end)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(bytes: &[u8]) -> Result<(u32, usize), Reason> {
        let mut reader = Reader::new(bytes, true);
        let value = reader.varint("v").map_err(|e| e.reason)?;
        Ok((value, reader.position()))
    }

    #[test]
    fn a_varint_has_at_most_32_bits_and_5_bytes() {
        assert_eq!(varint(&[0]), Ok((0, 1)));
        assert_eq!(varint(&[0xff, 0x01, 0x77]), Ok((255, 2)));
        assert_eq!(varint(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok((u32::MAX, 5)));
        assert_eq!(varint(&[0x80, 0x80, 0x00]), Ok((0, 3)));
        assert_eq!(
            varint(&[0xff, 0xff, 0xff, 0xff, 0x1f]),
            Err(Reason::BadVarint)
        );
        assert_eq!(
            varint(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]),
            Err(Reason::BadVarint)
        );
        assert_eq!(varint(&[0x80, 0x80]), Err(Reason::BeyondEnd));
        assert_eq!(varint(&[]), Err(Reason::BeyondEnd));
    }

    #[test]
    fn a_count_is_held_against_what_is_left() {
        let bytes = [&3i32.to_be_bytes()[..], &[0; 11]].concat();
        let count = |least| Reader::new(&bytes, false).elements(least, "a");
        assert_eq!(count(3), Ok(3));
        assert_eq!(count(4).unwrap_err().reason, Reason::BeyondEnd);
    }

    #[test]
    fn elements_of_all_arrays_of_a_request_are_counted_together() {
        let mut bytes = 600_000i32.to_be_bytes().to_vec();
        bytes.resize(1_300_000, 0);
        bytes[4..8].copy_from_slice(&600_000i32.to_be_bytes());
        let mut reader = Reader::new(&bytes, false);
        assert_eq!(reader.elements(1, "a"), Ok(600_000));
        assert_eq!(
            reader.elements(1, "b").unwrap_err().reason,
            Reason::TooManyElements
        );
    }
}
