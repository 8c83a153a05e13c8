//! Walks the bytes of a request before anything is decoded from them.
//!
//! The crate's decoders allocate arrays from a count on the wire: 4 bytes abort the process. So every
//! request is first read along its layout, a static table ([`requests`]), without allocating:
//! 1. every length and count is held against the bytes that are left, a count as if each element were as
//!    small as it can be;
//! 2. there are at most [`MAX_ELEMENTS`](super::MAX_ELEMENTS) elements and
//!    [`MAX_TAGS`](super::MAX_TAGS) tagged fields; depth is the table's, since no layout contains itself;
//! 3. strings are UTF-8, varints are at most 32 bits, nulls are where the version has nulls;
//! 4. what the decoded request will take in memory is added up, for the caller to reserve first.
//!
//! Bytes behind the request are ignored, as Kafka does.

mod requests;
#[cfg(test)]
pub(super) mod responses;

pub(super) use requests::REQUESTS;

use super::api::{self, Lookup};
use super::reader::{MAX_ELEMENTS, Malformed, Reader, Reason};

/// What the walk over a request's body found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walked {
    /// Bytes of the body that are the request; what is behind them is ignored.
    pub consumed: usize,
    /// An upper bound of what the decoded request takes beside the frame, which its strings and bytes
    /// point into.
    pub memory_bytes: usize,
    /// Elements of all its arrays: how much there is to do.
    pub elements: usize,
}

/// The type of a field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Bool,
    I8,
    I16,
    #[cfg(test)]
    U16,
    I32,
    I64,
    Uuid,
    Str,
    Records,
    Struct(&'static [Field]),
    Array(&'static Kind),
}

/// A field of a message or of a struct in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    since: i16,
    until: i16,
    nullable_since: i16,
    pub(super) tag: Option<u32>,
}

/// A message's fields.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) key: i16,
    pub(super) fields: &'static [Field],
}

const fn layout(key: i16, fields: &'static [Field]) -> Layout {
    Layout { key, fields }
}

const fn field(name: &'static str, kind: Kind) -> Field {
    Field {
        name,
        kind,
        since: 0,
        until: i16::MAX,
        nullable_since: i16::MAX,
        tag: None,
    }
}

impl Field {
    const fn since(mut self, version: i16) -> Self {
        self.since = version;
        self
    }

    const fn until(mut self, version: i16) -> Self {
        self.until = version;
        self
    }

    const fn nullable(mut self, since: i16) -> Self {
        self.nullable_since = since;
        self
    }

    const fn tagged(mut self, tag: u32) -> Self {
        self.tag = Some(tag);
        self
    }

    pub(super) fn is_in(&self, version: i16) -> bool {
        (self.since..=self.until).contains(&version)
    }

    pub(super) fn nullable_in(&self, version: i16) -> bool {
        version >= self.nullable_since
    }
}

/// The layout of a request.
pub(super) fn request_layout(key: i16) -> Option<&'static Layout> {
    REQUESTS.iter().find(|layout| layout.key == key)
}

/// Checks the body of a request (what follows its header) from beginning to end.
///
/// Allocates nothing. Takes time in proportion to the body.
pub fn walk(api_key: i16, version: i16, body: &[u8]) -> Result<Walked, Malformed> {
    walk_within(api_key, version, body, MAX_ELEMENTS)
}

/// As [`walk`], but gives up with `None` at a body of more than `elements_max` elements, so that a long
/// one can be walked where it holds up nobody.
pub fn walk_up_to(
    api_key: i16,
    version: i16,
    body: &[u8],
    elements_max: usize,
) -> Result<Option<Walked>, Malformed> {
    match walk_within(api_key, version, body, elements_max.min(MAX_ELEMENTS)) {
        Ok(walked) => Ok(Some(walked)),
        Err(malformed) if malformed.reason == Reason::TooManyElements => Ok(None),
        Err(malformed) => Err(malformed),
    }
}

fn walk_within(
    api_key: i16,
    version: i16,
    body: &[u8],
    elements_max: usize,
) -> Result<Walked, Malformed> {
    match (api::lookup(api_key, version), request_layout(api_key)) {
        (Lookup::Served(api), Some(layout)) => {
            let reader = Reader::new(body, api.flexible(version));
            walk_fields(
                layout.fields,
                version,
                reader.with_elements_max(elements_max),
            )
        }
        _ => Reader::new(body, false).err("version", Reason::NotServed),
    }
}

pub(super) fn walk_fields(
    fields: &'static [Field],
    version: i16,
    reader: Reader<'_>,
) -> Result<Walked, Malformed> {
    let mut walk = Walk {
        reader,
        version,
        memory_bytes: struct_size(fields),
    };
    walk.fields(fields)?;
    Ok(Walked {
        consumed: walk.reader.position(),
        memory_bytes: walk.memory_bytes,
        elements: walk.reader.elements_read(),
    })
}

/// What the first unknown tag of a struct takes in the decoder's map (a tree's leaf), and each further.
const FIRST_TAG_BYTES: usize = 512;
const NEXT_TAG_BYTES: usize = 128;

struct Walk<'a> {
    reader: Reader<'a>,
    version: i16,
    memory_bytes: usize,
}

impl Walk<'_> {
    fn fields(&mut self, fields: &'static [Field]) -> Result<(), Malformed> {
        for field in fields {
            if field.tag.is_none() && field.is_in(self.version) {
                self.field(field)?;
            }
        }
        let mut unknown = 0;
        for _ in 0..self.reader.tag_count()? {
            let (tag, end) = self.reader.tag()?;
            let known = fields
                .iter()
                .find(|field| field.tag == Some(tag) && field.is_in(self.version));
            if let Some(field) = known {
                self.field(field)?;
                self.reader.tag_ends(end, field.name)?;
            } else {
                self.reader.skip_to(end)?;
                unknown += 1;
            }
        }
        if unknown > 0 {
            self.memory_bytes += FIRST_TAG_BYTES + unknown * NEXT_TAG_BYTES;
        }
        Ok(())
    }

    fn field(&mut self, field: &'static Field) -> Result<(), Malformed> {
        let nullable = field.nullable_in(self.version);
        if let (Kind::Struct(_), true) = (field.kind, nullable) {
            // A struct that may be null is led by a byte: negative for null, else 1.
            match self.reader.i8(field.name)? {
                1 => {}
                -1 => return Ok(()),
                _ => return self.reader.err(field.name, Reason::BadLength),
            }
        }
        self.value(&field.kind, nullable, field.name)
    }

    fn value(
        &mut self,
        kind: &'static Kind,
        nullable: bool,
        name: &'static str,
    ) -> Result<(), Malformed> {
        match kind {
            Kind::Str => self.reader.string(nullable, name).map(drop),
            Kind::Records => self.reader.bytes(nullable, name).map(drop),
            Kind::Struct(fields) => self.fields(fields),
            Kind::Array(element) => {
                let least = least_size(element, self.version, self.reader.flexible);
                let Some(count) = self.reader.count(nullable, least, name)? else {
                    return Ok(());
                };
                self.memory_bytes += count * decoded_size(element);
                if let Some(size) = fixed_size(element) {
                    return self.reader.take(count * size, name).map(drop);
                }
                for _ in 0..count {
                    self.value(element, false, name)?;
                }
                Ok(())
            }
            fixed => self
                .reader
                .take(fixed_size(fixed).unwrap_or(0), name)
                .map(drop),
        }
    }
}

/// The bytes of a type that always takes the same.
fn fixed_size(kind: &Kind) -> Option<usize> {
    match kind {
        Kind::Bool | Kind::I8 => Some(1),
        Kind::I16 => Some(2),
        #[cfg(test)]
        Kind::U16 => Some(2),
        Kind::I32 => Some(4),
        Kind::I64 => Some(8),
        Kind::Uuid => Some(16),
        Kind::Str | Kind::Records | Kind::Struct(_) | Kind::Array(_) => None,
    }
}

/// The fewest bytes an element can take on the wire.
fn least_size(kind: &Kind, version: i16, flexible: bool) -> usize {
    match kind {
        Kind::Struct(fields) => {
            let tags = usize::from(flexible);
            let there = |f: &&Field| f.tag.is_none() && f.is_in(version);
            let size = |f: &Field| match f.kind {
                Kind::Struct(_) if f.nullable_in(version) => 1,
                _ => least_size(&f.kind, version, flexible),
            };
            tags + fields.iter().filter(there).map(size).sum::<usize>()
        }
        Kind::Str if !flexible => 2,
        Kind::Records | Kind::Array(_) if !flexible => 4,
        Kind::Str | Kind::Records | Kind::Array(_) => 1,
        fixed => fixed_size(fixed).unwrap_or(1),
    }
}

/// At least what the crate's type takes, all versions' fields included; what hangs off it is counted on
/// its own.
pub(super) fn decoded_size(kind: &Kind) -> usize {
    match kind {
        Kind::Struct(fields) => struct_size(fields),
        Kind::Str | Kind::Records => 32,
        Kind::Array(_) => 24,
        fixed => fixed_size(fixed).unwrap_or(0),
    }
}

fn struct_size(fields: &[Field]) -> usize {
    const TAG_MAP: usize = 24;
    // A struct that may be null takes a word more where no bit pattern is free.
    let sum: usize = fields.iter().map(|f| decoded_size(&f.kind).max(1)).sum();
    (sum + TAG_MAP).next_multiple_of(8)
}
