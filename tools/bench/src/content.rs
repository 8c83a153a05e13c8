//! What the records of a run contain, so that it can be made cheaply and checked afterwards.
//!
//! A record's value begins with 16 bytes, big-endian; the rest is filler that never changes:
//!
//! | bytes | |
//! |---|---|
//! | 1 | [`HEAD`] for the first record of a batch, [`FOLLOWER`] for a later one with a stamp of its own, anything below 0x80 for a later one that is all filler |
//! | 7 | the batch: its producer (16 bits) and a number of the producer's own (40 bits) |
//! | 8 | when the record should have been sent, in nanoseconds since the run began |
//!
//! A closed loop sends all records of a batch at one time, so only the first is stamped: the batch is a
//! head of about a hundred bytes made anew and a tail shared by all, and its CRC is combined from both.
//! An open loop stamps each record in a copy.
//!
//! Checking: the records from one `HEAD` to the next are a *group*, the same in whatever batches the broker
//! keeps them. The [`digest`](RecordDigest) of a group covers every key and value and their order.

use std::ops::Range;
use std::rc::Rc;

use crate::codec::Codec;
use crate::crc;

/// First byte of the value of a batch's first record.
pub const HEAD: u8 = 0xB7;
/// First byte of the value of a later record that is stamped.
pub const FOLLOWER: u8 = 0xB8;
/// Bytes of a stamp, and the least bytes of a value.
pub const STAMP: usize = 16;
/// Bytes of a batch before its records.
pub const BATCH_HEADER: usize = 61;
/// Where the part that the CRC covers begins.
const CRC_FROM: usize = 21;

/// Which batch: a producer of the run and its own number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

impl BatchId {
    pub fn new(producer: u16, number: u64) -> BatchId {
        BatchId(u64::from(producer) << 40 | number & 0xff_ffff_ffff)
    }
}

fn write_stamp(out: &mut [u8], marker: u8, id: BatchId, at_ns: u64) {
    out[..8].copy_from_slice(&(u64::from(marker) << 56 | id.0).to_be_bytes());
    out[8..STAMP].copy_from_slice(&at_ns.to_be_bytes());
}

/// What a value says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    Head { id: BatchId, at_ns: u64 },
    Follower { at_ns: u64 },
    Filler,
}

impl Stamp {
    pub fn of(value: &[u8]) -> Stamp {
        let Some((stamp, _)) = value.split_first_chunk::<STAMP>() else {
            return Stamp::Filler;
        };
        let word = u64::from_be_bytes(stamp[..8].try_into().expect("8 of 16 bytes"));
        let at_ns = u64::from_be_bytes(stamp[8..].try_into().expect("8 of 16 bytes"));
        match stamp[0] {
            HEAD => Stamp::Head {
                id: BatchId(word & 0x00ff_ffff_ffff_ffff),
                at_ns,
            },
            FOLLOWER => Stamp::Follower { at_ns },
            _ => Stamp::Filler,
        }
    }
}

/// The sum over the records of a group of a mix of the checksum of its key and value and its place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordDigest(pub u32);

impl RecordDigest {
    /// `checksum` is the CRC-32C of the record from its key's length to the end of its value.
    pub fn add(&mut self, place: u32, checksum: u32) {
        let mixed = (checksum ^ place.wrapping_mul(0x9E37_79B9)).wrapping_mul(0x85EB_CA6B);
        self.0 = self.0.wrapping_add(mixed ^ mixed >> 15);
    }
}

/// How the values of a workload are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filler {
    Random,
    /// Words of a small vocabulary.
    Words,
}

/// Batches of up to so many records, encoded once.
pub struct Template {
    /// The records one after the other, each as in a batch.
    body: Vec<u8>,
    records: Vec<TemplateRecord>,
    /// End of the part of the first record that is made anew for each batch.
    head_end: usize,
}

struct TemplateRecord {
    /// Where the length of its key is, from where its digest counts.
    key_at: usize,
    value_at: usize,
    /// Checksum and shift of the value behind the stamp.
    rest: (u32, u32),
    /// One past the record.
    end: usize,
    /// Keys and values up to and with this record.
    payload: u64,
    /// CRC of the body from `head_end` to `end`, and its shift.
    tail: (u32, u32),
    /// Digest of the records from the second to this one.
    digest: RecordDigest,
}

pub fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = (value << 1 ^ value >> 63) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn varint_len(value: i64) -> usize {
    let rest = (value << 1 ^ value >> 63) as u64;
    (64 - (rest | 1).leading_zeros() as usize).div_ceil(7)
}

pub fn fill(value: &mut [u8], filler: Filler, random: &mut fastrand::Rng) {
    const WORDS: [&str; 16] = [
        "order", "customer", "price", "amount", "status", "pending", "shipped", "address",
        "street", "country", "created", "updated", "item", "quantity", "total", "currency",
    ];
    match filler {
        Filler::Random => random.fill(value),
        Filler::Words => {
            let mut at = 0;
            while at < value.len() {
                let word = WORDS[random.usize(..WORDS.len())].as_bytes();
                for &byte in word.iter().chain(b"=") {
                    if at < value.len() {
                        value[at] = byte;
                        at += 1;
                    }
                }
                for digit in [random.digit(10), random.digit(10)] {
                    if at < value.len() {
                        value[at] = digit as u8;
                        at += 1;
                    }
                }
            }
        }
    }
    if let Some(first) = value.first_mut() {
        *first &= 0x7f;
    }
}

impl Template {
    /// `records` are the keys and the sizes of the values, the latter at least [`STAMP`].
    pub fn new(
        records: impl IntoIterator<Item = (Option<Vec<u8>>, usize)>,
        filler: Filler,
        random: &mut fastrand::Rng,
    ) -> Template {
        let mut template = Template {
            body: Vec::new(),
            records: Vec::new(),
            head_end: 0,
        };
        let mut digest = RecordDigest::default();
        let mut payload = 0;
        for (place, (key, size)) in records.into_iter().enumerate() {
            assert!(size >= STAMP);
            let key_length = key.as_ref().map_or(-1, |key| key.len() as i64);
            let length = 1
                + 1
                + varint_len(place as i64)
                + varint_len(key_length)
                + key_length.max(0) as usize
                + varint_len(size as i64)
                + size
                + 1;
            let body = &mut template.body;
            put_varint(body, length as i64);
            body.push(0); // attributes
            body.push(0); // timestamp delta
            put_varint(body, place as i64);
            let key_at = body.len();
            put_varint(body, key_length);
            body.extend_from_slice(key.as_deref().unwrap_or_default());
            put_varint(body, size as i64);
            let value_at = body.len();
            body.resize(value_at + size, 0);
            fill(&mut body[value_at..], filler, random);
            payload += (key_length.max(0) as usize + size) as u64;
            let rest = &body[value_at + STAMP..];
            let rest = (crc32c::crc32c(rest), crc::shift_of(rest.len()));
            if place == 0 {
                template.head_end = value_at + STAMP;
            } else {
                digest.add(place as u32, crc32c::crc32c(&body[key_at..]));
            }
            body.push(0); // headers
            let tail = match template.records.last() {
                Some(last) => crc32c::crc32c_append(last.tail.0, &body[last.end..]),
                None => crc32c::crc32c(&body[template.head_end..]),
            };
            template.records.push(TemplateRecord {
                key_at,
                value_at,
                rest,
                end: body.len(),
                payload,
                tail: (tail, crc::shift_of(body.len() - template.head_end)),
                digest,
            });
        }
        assert!(!template.records.is_empty());
        template
    }

    /// Most records of a batch.
    pub fn max_records(&self) -> usize {
        self.records.len()
    }

    /// Bytes of keys and values of a batch of so many records.
    pub fn payload_bytes(&self, records: usize) -> u64 {
        self.records[records - 1].payload
    }

    /// Bytes on the wire of a batch of so many records, uncompressed.
    pub fn batch_bytes(&self, records: usize) -> usize {
        BATCH_HEADER + self.records[records - 1].end
    }

    fn record_checksum(&self, record: &TemplateRecord, stamped_head: &[u8]) -> u32 {
        crc::combine(crc32c::crc32c(stamped_head), record.rest.0, record.rest.1)
    }

    /// The head of a batch, appended to `out`, and the part of the body that follows it: only the first
    /// record carries the stamp.
    pub fn batch(
        self: &Rc<Self>,
        out: &mut Vec<u8>,
        header: &BatchHeader,
        records: usize,
        at_ns: u64,
    ) -> (Range<usize>, RecordDigest) {
        let last = &self.records[records - 1];
        let start = out.len();
        header.write(out, records, 0, last.end);
        let body_at = out.len();
        out.extend_from_slice(&self.body[..self.head_end]);
        let stamp_at = out.len() - STAMP;
        write_stamp(&mut out[stamp_at..], HEAD, header.id, at_ns);
        let first = &self.records[0];
        let mut digest = last.digest;
        digest.add(
            0,
            self.record_checksum(first, &out[body_at + first.key_at..]),
        );
        let head = crc32c::crc32c(&out[start + CRC_FROM..]);
        let crc = crc::combine(head, last.tail.0, last.tail.1);
        out[start + CRC_FROM - 4..start + CRC_FROM].copy_from_slice(&crc.to_be_bytes());
        (self.head_end..last.end, digest)
    }

    /// A whole batch, appended to `out`, with a stamp in each record (`times_ns` has the time of each) or
    /// one for all, compressed by `codec`.
    pub fn whole_batch(
        &self,
        out: &mut Vec<u8>,
        scratch: &mut Vec<u8>,
        header: &BatchHeader,
        records: usize,
        times_ns: Times<'_>,
        codec: Codec,
    ) -> RecordDigest {
        let last = &self.records[records - 1];
        let start = out.len();
        let body: &mut [u8] = if codec == Codec::None {
            header.write(out, records, 0, last.end);
            out.extend_from_slice(&self.body[..last.end]);
            &mut out[start + BATCH_HEADER..]
        } else {
            scratch.clear();
            scratch.extend_from_slice(&self.body[..last.end]);
            scratch
        };
        let mut digest = RecordDigest::default();
        match times_ns {
            Times::Same(at_ns) => {
                let first = &self.records[0];
                write_stamp(&mut body[first.value_at..], HEAD, header.id, at_ns);
                digest = last.digest;
                let head = &body[first.key_at..first.value_at + STAMP];
                digest.add(0, self.record_checksum(first, head));
            }
            Times::Each(times) => {
                for (place, record) in self.records[..records].iter().enumerate() {
                    let marker = if place == 0 { HEAD } else { FOLLOWER };
                    let at_ns = times.get(place).copied().unwrap_or_default();
                    write_stamp(&mut body[record.value_at..], marker, header.id, at_ns);
                    let head = &body[record.key_at..record.value_at + STAMP];
                    digest.add(place as u32, self.record_checksum(record, head));
                }
            }
        }
        if codec != Codec::None {
            header.write(out, records, codec.id(), 0);
            codec
                .compress(scratch, out)
                .expect("compression into memory");
            let length = (out.len() - start - 12) as i32;
            out[start + 8..start + 12].copy_from_slice(&length.to_be_bytes());
        }
        let crc = crc32c::crc32c(&out[start + CRC_FROM..]);
        out[start + CRC_FROM - 4..start + CRC_FROM].copy_from_slice(&crc.to_be_bytes());
        digest
    }

    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// When the records of a batch should have been sent.
#[derive(Debug, Clone, Copy)]
pub enum Times<'a> {
    Same(u64),
    Each(&'a [u64]),
}

/// What is particular to a batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchHeader {
    pub id: BatchId,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// -1 unless idempotent.
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
}

impl BatchHeader {
    fn write(&self, out: &mut Vec<u8>, records: usize, attributes: u8, body: usize) {
        let count = records as i32;
        out.extend_from_slice(&0i64.to_be_bytes());
        out.extend_from_slice(&((BATCH_HEADER - 12 + body) as i32).to_be_bytes());
        out.extend_from_slice(&(-1i32).to_be_bytes()); // leader epoch
        out.push(2);
        out.extend_from_slice(&[0; 4]); // CRC
        out.extend_from_slice(&[0, attributes]);
        out.extend_from_slice(&(count - 1).to_be_bytes());
        out.extend_from_slice(&self.timestamp_ms.to_be_bytes());
        out.extend_from_slice(&self.timestamp_ms.to_be_bytes());
        out.extend_from_slice(&self.producer_id.to_be_bytes());
        out.extend_from_slice(&self.producer_epoch.to_be_bytes());
        out.extend_from_slice(&self.base_sequence.to_be_bytes());
        out.extend_from_slice(&count.to_be_bytes());
    }
}

/// The fields of a batch that a reader needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchView {
    pub base_offset: i64,
    /// Bytes of the whole batch.
    pub bytes: usize,
    pub attributes: i16,
    pub last_offset: i64,
    pub records: i32,
}

impl BatchView {
    /// `bytes` begin with a batch, at least its header.
    pub fn of(bytes: &[u8]) -> Result<BatchView, String> {
        let Some((header, _)) = bytes.split_first_chunk::<BATCH_HEADER>() else {
            return Err("a batch is shorter than its header".into());
        };
        let int = |at: usize| i32::from_be_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        let base_offset = i64::from_be_bytes(header[..8].try_into().expect("8 bytes"));
        let length = int(8);
        if header[16] != 2 {
            return Err(format!("a batch of format {} was fetched", header[16]));
        }
        if length < (BATCH_HEADER - 12) as i32 || int(57) < 0 || int(23) < 0 {
            return Err("a batch header was fetched that makes no sense".into());
        }
        Ok(BatchView {
            base_offset,
            bytes: length as usize + 12,
            attributes: i16::from_be_bytes([header[21], header[22]]),
            last_offset: base_offset.saturating_add(int(23).into()),
            records: int(57),
        })
    }

    /// Whether the checksum of the whole batch is right.
    pub fn crc_holds(batch: &[u8]) -> bool {
        let stored = &batch[CRC_FROM - 4..CRC_FROM];
        stored == crc32c::crc32c(&batch[CRC_FROM..]).to_be_bytes()
    }
}

/// A record of a batch, its records decompressed.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub offset_delta: i64,
    /// From the length of the key to the end of the value.
    pub digested: &'a [u8],
    pub value: &'a [u8],
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

/// The records in `body`, one after the other; `None` in place of one that cannot be read, and the end.
pub fn records(body: &[u8]) -> impl Iterator<Item = Option<Record<'_>>> {
    let mut at = 0;
    let mut broken = false;
    std::iter::from_fn(move || {
        if broken || at >= body.len() {
            return None;
        }
        let record = (|| {
            let length = usize::try_from(varint(body, &mut at)?).ok()?;
            let end = at.checked_add(length).filter(|&end| end <= body.len())?;
            let mut inner = at + 1;
            varint(body, &mut inner)?;
            let offset_delta = varint(body, &mut inner)?;
            let key_at = inner;
            let key_length = varint(body, &mut inner)?.max(0);
            inner = inner.checked_add(usize::try_from(key_length).ok()?)?;
            let value_length = usize::try_from(varint(body, &mut inner)?.max(0)).ok()?;
            let value_end = inner.checked_add(value_length).filter(|&it| it <= end)?;
            let record = Record {
                offset_delta,
                digested: body.get(key_at..value_end)?,
                value: body.get(inner..value_end)?,
            };
            at = end;
            Some(record)
        })();
        broken = record.is_none();
        Some(record)
    })
}

/// As much as is here of the first value in `body`, at least a stamp; None if it does not reach so far.
pub fn first_value(body: &[u8]) -> Option<&[u8]> {
    let mut at = 0;
    varint(body, &mut at)?;
    at += 1; // attributes
    varint(body, &mut at)?;
    varint(body, &mut at)?;
    let key_length = varint(body, &mut at)?.max(0);
    at = at.checked_add(usize::try_from(key_length).ok()?)?;
    let length = usize::try_from(varint(body, &mut at)?).ok()?;
    let value = body.get(at..)?;
    let value = &value[..length.min(value.len())];
    (value.len() >= STAMP).then_some(value)
}

/// The partition that Kafka's clients choose for a key.
pub fn partition_of_key(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions
}

fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes(word.try_into().expect("4 bytes")).wrapping_mul(M);
        k = (k ^ k >> 24).wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (i, &byte) in rest.iter().enumerate() {
            h ^= u32::from(byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h = (h ^ h >> 13).wrapping_mul(M);
    h ^ h >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: BatchHeader = BatchHeader {
        id: BatchId(0x0003_0000_0042),
        timestamp_ms: 1_700_000_000_000,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
    };

    fn template(sizes: &[usize]) -> Rc<Template> {
        let records = sizes
            .iter()
            .enumerate()
            .map(|(i, &size)| ((i % 2 == 1).then(|| b"key".to_vec()), size));
        let random = &mut fastrand::Rng::with_seed(1);
        Rc::new(Template::new(records, Filler::Random, random))
    }

    fn digest_of(body: &[u8]) -> RecordDigest {
        let mut digest = RecordDigest::default();
        for (place, record) in records(body).enumerate() {
            let record = record.expect("a record");
            assert_eq!(record.offset_delta, place as i64);
            digest.add(place as u32, crc32c::crc32c(record.digested));
        }
        digest
    }

    #[test]
    fn a_batch_of_head_and_shared_tail_is_whole() {
        let template = template(&[16, 1000, 17, 70_000]);
        for count in 1..=4 {
            let mut batch = vec![9; 5];
            let (tail, digest) = template.batch(&mut batch, &HEADER, count, 77);
            batch.extend_from_slice(&template.body()[tail]);
            let batch = &batch[5..];
            let view = BatchView::of(batch).unwrap();
            assert_eq!(view.bytes, batch.len());
            assert_eq!(view.bytes, template.batch_bytes(count));
            assert_eq!(
                (view.records, view.last_offset),
                (count as i32, count as i64 - 1)
            );
            assert!(BatchView::crc_holds(batch));
            assert_eq!(digest_of(&batch[BATCH_HEADER..]), digest);
            let first = records(&batch[BATCH_HEADER..]).next().unwrap().unwrap();
            let id = HEADER.id;
            assert_eq!(Stamp::of(first.value), Stamp::Head { id, at_ns: 77 });
        }
    }

    #[test]
    fn a_whole_batch_carries_a_stamp_in_each_record_through_every_codec() {
        let template = template(&[100, 16, 5000]);
        for codec in [
            Codec::None,
            Codec::Gzip,
            Codec::Snappy,
            Codec::Lz4,
            Codec::Zstd,
        ] {
            let (mut batch, mut scratch, mut body) = (Vec::new(), Vec::new(), Vec::new());
            let times = Times::Each(&[5, 6, 7]);
            let digest = template.whole_batch(&mut batch, &mut scratch, &HEADER, 3, times, codec);
            let view = BatchView::of(&batch).unwrap();
            assert_eq!(view.bytes, batch.len());
            assert!(BatchView::crc_holds(&batch));
            codec.decompress(&batch[BATCH_HEADER..], &mut body).unwrap();
            assert_eq!(digest_of(&body), digest);
            let stamps: Vec<Stamp> = records(&body)
                .map(|record| Stamp::of(record.unwrap().value))
                .collect();
            assert_eq!(
                stamps,
                [
                    Stamp::Head {
                        id: HEADER.id,
                        at_ns: 5
                    },
                    Stamp::Follower { at_ns: 6 },
                    Stamp::Follower { at_ns: 7 }
                ]
            );
        }
    }

    #[test]
    fn a_record_that_is_altered_or_moved_changes_the_digest() {
        let template = template(&[32, 32, 32]);
        let mut batch = Vec::new();
        let times = Times::Same(1);
        let digest =
            template.whole_batch(&mut batch, &mut Vec::new(), &HEADER, 3, times, Codec::None);
        let place = batch.len() - 3;
        batch[place] ^= 1;
        assert_ne!(digest_of(&batch[BATCH_HEADER..]), digest);
        let (mut ab, mut ba) = (RecordDigest::default(), RecordDigest::default());
        ab.add(0, 1);
        ab.add(1, 2);
        ba.add(0, 2);
        ba.add(1, 1);
        assert_ne!(ab, ba);
    }

    #[test]
    fn keys_go_where_the_java_client_sends_them() {
        // From the tests of Kafka's own clients.
        assert_eq!(murmur2(b"21") as i32, -973_932_308);
        assert_eq!(murmur2(b"foobar") as i32, -790_332_482);
        assert_eq!(murmur2(b"a-little-bit-long-string") as i32, -985_981_536);
    }
}
