//! Fields of coordinators' records, as Kafka's message serializer writes them. What is read comes from a
//! disk and is checked; what is written was checked on its way in.

use bytes::{BufMut, Bytes};

use super::Unreadable;
use crate::base::TopicId;

/// A cursor over a record's key or value. Nothing panics; nothing allocates more than there are bytes.
pub struct FieldReader<'a> {
    rest: &'a [u8],
    flexible: bool,
}

type Read<T> = Result<T, Unreadable>;

fn unreadable<T>(field: &str, why: &str) -> Read<T> {
    Err(Unreadable(format!("{field} {why}")))
}

impl<'a> FieldReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            flexible: false,
        }
    }

    /// Compact lengths and tagged fields from here on (KIP-482).
    pub fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    fn take(&mut self, length: usize, field: &str) -> Read<&'a [u8]> {
        match self.rest.split_at_checked(length) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => unreadable(field, "reaches beyond the end"),
        }
    }

    fn array<const N: usize>(&mut self, field: &str) -> Read<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N, field)?);
        Ok(out)
    }

    pub fn i8(&mut self, field: &str) -> Read<i8> {
        self.array(field).map(i8::from_be_bytes)
    }

    pub fn i16(&mut self, field: &str) -> Read<i16> {
        self.array(field).map(i16::from_be_bytes)
    }

    pub fn i32(&mut self, field: &str) -> Read<i32> {
        self.array(field).map(i32::from_be_bytes)
    }

    pub fn i64(&mut self, field: &str) -> Read<i64> {
        self.array(field).map(i64::from_be_bytes)
    }

    pub fn topic_id(&mut self, field: &str) -> Read<TopicId> {
        self.array(field).map(TopicId::from_bytes)
    }

    fn varint(&mut self, field: &str) -> Read<u32> {
        let mut value = 0;
        for i in 0..5 {
            let [byte] = self.array(field)?;
            if i == 4 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        unreadable(field, "is an overlong varint")
    }

    fn length(&mut self, short: bool, field: &str) -> Read<Option<usize>> {
        let length = if self.flexible {
            i64::from(self.varint(field)?) - 1
        } else if short {
            i64::from(self.i16(field)?)
        } else {
            i64::from(self.i32(field)?)
        };
        match usize::try_from(length) {
            Ok(length) => Ok(Some(length)),
            Err(_) if length == -1 => Ok(None),
            Err(_) => unreadable(field, "has an impossible length"),
        }
    }

    pub fn nullable_string(&mut self, field: &str) -> Read<Option<&'a str>> {
        let Some(length) = self.length(true, field)? else {
            return Ok(None);
        };
        match std::str::from_utf8(self.take(length, field)?) {
            Ok(text) => Ok(Some(text)),
            Err(_) => unreadable(field, "is not UTF-8"),
        }
    }

    pub fn string(&mut self, field: &str) -> Read<&'a str> {
        match self.nullable_string(field)? {
            Some(text) => Ok(text),
            None => unreadable(field, "is null"),
        }
    }

    pub fn bytes(&mut self, field: &str) -> Read<&'a [u8]> {
        match self.length(false, field)? {
            Some(length) => self.take(length, field),
            None => unreadable(field, "is null"),
        }
    }

    /// An array's element count, of which each takes at least a byte. Null is `None`.
    pub fn nullable_count(&mut self, field: &str) -> Read<Option<usize>> {
        match self.length(false, field)? {
            Some(count) if count > self.rest.len() => unreadable(field, "reaches beyond the end"),
            count => Ok(count),
        }
    }

    pub fn count(&mut self, field: &str) -> Read<usize> {
        match self.nullable_count(field)? {
            Some(count) => Ok(count),
            None => unreadable(field, "is null"),
        }
    }

    /// The tagged fields that end a struct: `known` is given each tag and its content. Nothing to read
    /// where the version has none.
    pub fn tags(
        &mut self,
        mut known: impl FnMut(u32, &mut FieldReader<'a>) -> Read<()>,
    ) -> Read<()> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.varint("tagged fields")? {
            let tag = self.varint("tag")?;
            let size = self.varint("tag size")?;
            let mut content = FieldReader {
                rest: self.take(size as usize, "tagged field")?,
                flexible: true,
            };
            known(tag, &mut content)?;
        }
        Ok(())
    }

    /// Tagged fields of which none is known.
    pub fn skip_tags(&mut self) -> Read<()> {
        self.tags(|_, _| Ok(()))
    }
}

/// Builds a record's key or value.
pub struct FieldWriter {
    out: Vec<u8>,
    flexible: bool,
}

impl FieldWriter {
    /// Begins with the version, or the type of the key.
    pub fn new(version: i16, flexible: bool) -> Self {
        let mut out = Vec::with_capacity(64);
        out.put_i16(version);
        Self { out, flexible }
    }

    pub fn finish(self) -> Bytes {
        Bytes::from(self.out)
    }

    pub fn i8(&mut self, value: i8) {
        self.out.put_i8(value);
    }

    pub fn i16(&mut self, value: i16) {
        self.out.put_i16(value);
    }

    pub fn i32(&mut self, value: i32) {
        self.out.put_i32(value);
    }

    pub fn i64(&mut self, value: i64) {
        self.out.put_i64(value);
    }

    pub fn topic_id(&mut self, id: TopicId) {
        self.out.put_slice(&id.to_bytes());
    }

    pub fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.put_u8(value as u8);
    }

    /// Panics beyond 32,767 bytes: strings come from the wire, where that is the limit.
    pub fn string(&mut self, text: &str) {
        let length = i16::try_from(text.len()).expect("a string of the wire's length");
        if self.flexible {
            self.varint(length as u32 + 1);
        } else {
            self.out.put_i16(length);
        }
        self.out.put_slice(text.as_bytes());
    }

    pub fn nullable_string(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.string(text),
            None if self.flexible => self.varint(0),
            None => self.out.put_i16(-1),
        }
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.out.put_slice(bytes);
    }

    /// Panics beyond 2^31: nothing that came in one request has so many.
    pub fn count(&mut self, count: usize) {
        let count = i32::try_from(count).expect("a count of the wire");
        if self.flexible {
            self.varint(count as u32 + 1);
        } else {
            self.out.put_i32(count);
        }
    }
}
