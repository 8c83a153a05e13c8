//! Frames for fuzzing: valid ones of every API and version, made from the layouts, and mutations of
//! them. The same seed gives the same frames.

use super::api::{self, APIS};
use super::walker::{Field, Kind, request_layout};

/// A small generator of numbers (SplitMix64), so that a failing seed can be run again anywhere.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 {
            0
        } else {
            (self.next_u64() % bound as u64) as usize
        }
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Random content for the layout of a message in one version. Tagged fields, when there, are never at
/// their default, so that the bytes are exactly those of an encoder that leaves defaults out.
pub(super) struct Generator<'a> {
    pub(super) rng: &'a mut Rng,
    pub(super) version: i16,
    pub(super) flexible: bool,
    /// Whether to add tagged fields that no version knows.
    pub(super) unknown_tags: bool,
    pub(super) out: Vec<u8>,
}

impl Generator<'_> {
    pub(super) fn fields(&mut self, fields: &[Field]) {
        for field in fields {
            if field.tag.is_none() && field.is_in(self.version) {
                self.field(field, false);
            }
        }
        if self.flexible {
            self.tags(fields);
        }
    }

    fn tags(&mut self, fields: &[Field]) {
        let mut sections: Vec<(u32, Vec<u8>)> = Vec::new();
        for field in fields {
            let Some(tag) = field.tag else { continue };
            if field.is_in(self.version) && self.rng.one_in(2) {
                let outer = std::mem::take(&mut self.out);
                self.field(field, true);
                sections.push((tag, std::mem::replace(&mut self.out, outer)));
            }
        }
        sections.sort_by_key(|(tag, _)| *tag);
        if self.unknown_tags && self.rng.one_in(8) {
            let length = self.rng.below(200);
            sections.push((100 + self.rng.below(1 << 20) as u32, vec![7; length]));
        }
        self.varint(sections.len() as u32);
        for (tag, content) in sections {
            self.varint(tag);
            self.varint(content.len() as u32);
            self.out.extend_from_slice(&content);
        }
    }

    fn field(&mut self, field: &Field, not_default: bool) {
        let nullable = field.nullable_in(self.version);
        let null = nullable && !not_default && self.rng.one_in(4);
        match field.kind {
            Kind::Struct(_) if null => self.out.push(0xff),
            Kind::Struct(_) if nullable => {
                self.out.push(1);
                self.value(&field.kind, not_default);
            }
            Kind::Str if null && !self.flexible => self.out.extend_from_slice(&[0xff; 2]),
            Kind::Str | Kind::Records | Kind::Array(_) if null => {
                if self.flexible {
                    self.out.push(0);
                } else {
                    self.out.extend_from_slice(&[0xff; 4]);
                }
            }
            _ => self.value(&field.kind, not_default),
        }
    }

    fn value(&mut self, kind: &Kind, not_default: bool) {
        match kind {
            Kind::Bool => {
                let value = not_default || self.rng.one_in(2);
                self.out.push(u8::from(value));
            }
            Kind::I8 => self.integer(1),
            Kind::I16 => self.integer(2),
            #[cfg(test)]
            Kind::U16 => self.integer(2),
            Kind::I32 => self.integer(4),
            Kind::I64 => self.integer(8),
            Kind::Uuid => {
                for _ in 0..16 {
                    let byte = 1 + self.rng.below(255) as u8;
                    self.out.push(byte);
                }
            }
            Kind::Str => {
                let length = self.some_length(not_default);
                if self.flexible {
                    self.varint(length as u32 + 1);
                } else {
                    self.out.extend_from_slice(&(length as i16).to_be_bytes());
                }
                for _ in 0..length {
                    let letter = b'a' + self.rng.below(26) as u8;
                    self.out.push(letter);
                }
            }
            Kind::Records => {
                let length = self.some_length(not_default);
                self.length(length);
                for _ in 0..length {
                    let byte = self.rng.next_u64() as u8;
                    self.out.push(byte);
                }
            }
            Kind::Struct(fields) => {
                if not_default {
                    // All but the tags, each away from its default, which no tagged struct here nests.
                    for field in fields.iter() {
                        if field.is_in(self.version) {
                            self.field(field, true);
                        }
                    }
                    self.out.push(0);
                } else {
                    self.fields(fields);
                }
            }
            Kind::Array(element) => {
                let count = self.rng.below(4).max(usize::from(not_default));
                self.length(count);
                for _ in 0..count {
                    self.value(element, false);
                }
            }
        }
    }

    /// Mostly positive; never 0, -1 or the largest, which are the defaults in the schemas.
    fn integer(&mut self, bytes: usize) {
        let value = match self.rng.below(4) {
            0 => 1 + self.rng.below(4) as i64,
            1 => 1 + self.rng.below(100) as i64,
            2 => -2 - self.rng.below(100) as i64,
            _ => (self.rng.next_u64() >> 2) as i64 | 0x0101_0101_0101_0102,
        };
        // An i8 or i16 cut from a random number may be anything, which is no default of a tagged field:
        // those are i32 and i64.
        self.out
            .extend_from_slice(&value.to_be_bytes()[8 - bytes..]);
    }

    fn some_length(&mut self, not_empty: bool) -> usize {
        let length = match self.rng.below(8) {
            0 => 0,
            1 => 120 + self.rng.below(200),
            _ => self.rng.below(20),
        };
        length.max(usize::from(not_empty))
    }

    fn length(&mut self, length: usize) {
        if self.flexible {
            self.varint(length as u32 + 1);
        } else {
            self.out.extend_from_slice(&(length as i32).to_be_bytes());
        }
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }
}

/// A valid body of a request; empty if the API is not served.
pub fn request_body(rng: &mut Rng, key: i16, version: i16, unknown_tags: bool) -> Vec<u8> {
    let (Some(api), Some(layout)) = (api::find(key), request_layout(key)) else {
        return Vec::new();
    };
    let mut generator = Generator {
        rng,
        version,
        flexible: api.flexible(version),
        unknown_tags,
        out: Vec::new(),
    };
    generator.fields(layout.fields);
    generator.out
}

/// A valid frame of a request, without its length prefix.
pub fn request_frame(rng: &mut Rng, key: i16, version: i16) -> Vec<u8> {
    let mut out = key.to_be_bytes().to_vec();
    out.extend_from_slice(&version.to_be_bytes());
    out.extend_from_slice(&(rng.next_u64() as i32).to_be_bytes());
    out.extend_from_slice(b"\0\x04fuzz");
    if api::find(key).is_some_and(|api| api.request_header_version(version) == 2) {
        out.push(0);
    }
    out.extend_from_slice(&request_body(rng, key, version, true));
    out
}

/// A valid frame of every API in every version it is served in.
pub fn seeds(rng: &mut Rng) -> Vec<Vec<u8>> {
    APIS.iter()
        .flat_map(|api| (api.min..=api.max).map(|version| (api.key, version)))
        .map(|(key, version)| request_frame(rng, key, version))
        .collect()
}

/// An endless source of hostile frames (without length prefix).
pub struct Fuzzer {
    rng: Rng,
    seeds: Vec<Vec<u8>>,
}

impl Fuzzer {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let seeds = seeds(&mut rng);
        Self { rng, seeds }
    }

    /// With frames captured elsewhere beside the generated ones.
    pub fn with_seeds(seed: u64, more: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let mut fuzzer = Self::new(seed);
        fuzzer.seeds.extend(more);
        fuzzer
    }

    /// The next frame: one in 16 as it was generated, the others with up to 4 mutations.
    pub fn next_frame(&mut self) -> Vec<u8> {
        let place = self.rng.below(self.seeds.len());
        if self.rng.one_in(64) {
            // Fresh content now and then, so that a long run is not bound to its first seeds.
            let api = APIS[self.rng.below(APIS.len())];
            let version = api.min + self.rng.below((api.max - api.min + 1) as usize) as i16;
            return request_frame(&mut self.rng, api.key, version);
        }
        let mut frame = self.seeds[place].clone();
        if self.rng.one_in(16) {
            return frame;
        }
        for _ in 0..=self.rng.below(4) {
            self.mutate(&mut frame);
        }
        frame
    }

    fn mutate(&mut self, frame: &mut Vec<u8>) {
        let at = self.place(frame.len());
        match self.rng.below(10) {
            0 => frame.truncate(at),
            1 => {
                for _ in 0..=self.rng.below(8) {
                    let at = self.place(frame.len());
                    if let Some(byte) = frame.get_mut(at) {
                        *byte ^= 1 << self.rng.below(8);
                    }
                }
            }
            2 => {
                // A 4-byte length or count.
                let value = match self.rng.below(6) {
                    0 => i32::MAX,
                    1 => i32::MIN,
                    2 => -1,
                    3 => 1_000_000,
                    4 => frame.len() as i32,
                    _ => self.rng.next_u64() as i32 & 0xffff,
                };
                overwrite(frame, at, &value.to_be_bytes());
            }
            3 => {
                let value = [i16::MAX, i16::MIN, -1, -2, 0, 1][self.rng.below(6)];
                overwrite(frame, at, &value.to_be_bytes());
            }
            4 => {
                // A varint: a compact length, a tag count, a tag, a tag's size.
                let value: &[u8] = [
                    &[0xff, 0xff, 0xff, 0xff, 0x0f][..],
                    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x00],
                    &[0xff, 0xff, 0xff, 0x7f],
                    &[0x80, 0x94, 0xeb, 0xdc, 0x03],
                    &[0x81, 0x00],
                    &[0x00],
                    &[0x7f],
                ][self.rng.below(7)];
                overwrite(frame, at, value);
            }
            5 => {
                let length = self.rng.below(16);
                let byte = self.rng.next_u64() as u8;
                frame.splice(at..at, std::iter::repeat_n(byte, length));
            }
            6 => {
                let end = (at + self.rng.below(16)).min(frame.len());
                frame.drain(at..end);
            }
            7 => {
                // The head of this and the tail of another.
                let other = &self.seeds[self.rng.below(self.seeds.len())];
                let from = self.rng.below(other.len() + 1);
                frame.truncate(at);
                frame.extend_from_slice(&other[from..]);
            }
            8 => {
                // A stretch of it once more, at most doubling it.
                if frame.len() < 1 << 16 {
                    let end = (at + self.rng.below(64)).min(frame.len());
                    let again = frame[at..end].to_vec();
                    frame.splice(end..end, again);
                }
            }
            _ => {
                // The body of one version under the number of another.
                if let Some(byte) = frame.get_mut(3) {
                    *byte = self.rng.below(20) as u8;
                }
            }
        }
    }

    /// A place in a frame; rarely in its first 8 bytes, which would only make it another API's.
    fn place(&mut self, length: usize) -> usize {
        if length <= 8 || self.rng.one_in(32) {
            self.rng.below(length + 1)
        } else {
            8 + self.rng.below(length - 7)
        }
    }
}

fn overwrite(frame: &mut [u8], at: usize, value: &[u8]) {
    for (byte, &new) in frame.iter_mut().skip(at).zip(value) {
        *byte = new;
    }
}
