//! What `__transaction_state` holds: one record a transactional id, the last one counts (KIP-98, 890).
//!
//! ```text
//! key     2  version                 0
//!         S  transactional_id        2 bytes of length, then UTF-8
//! value   2  version                 0 or 1
//!         8  producer_id
//!         2  producer_epoch
//!         4  transaction_timeout_ms
//!         1  state                   0 Empty, 1 Ongoing, 2 PrepareCommit, 3 PrepareAbort,
//!                                    4 CompleteCommit, 5 CompleteAbort
//!         A  partitions              null while Empty: (S topic, A of 4 partition) each
//!         8  last_update_ms
//!         8  start_ms
//!         T  tagged fields           version 1: 0 previous_producer_id (8), 1 next_producer_id (8),
//!                                    2 client_transaction_version (2), 3 next_producer_epoch (2, not used)
//! ```
//!
//! In version 1 strings and arrays have compact lengths, and every struct ends in tagged fields, which are
//! left out where they have their default (-1, -1, 0, -1). A value that is null is a tombstone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::state::{NamedPartition, State, Transaction};
use crate::base::{PartitionIndex, ProducerEpoch, ProducerId, Timestamp};
use crate::coordinator::{CoordinatorRecord, Unreadable};

const KEY_VERSION: i16 = 0;
const TAG_PREVIOUS_PRODUCER_ID: u32 = 0;
const TAG_NEXT_PRODUCER_ID: u32 = 1;
const TAG_CLIENT_VERSION: u32 = 2;

/// Bytes that the record of a transaction's end takes at most beyond that of the transaction with the same
/// partitions: three tagged fields that were not there, with their numbers and lengths.
pub const END_BYTES: usize = 10 + 10 + 4;

/// The record of a transactional id, in the value version of the finalized `transaction.version`.
pub fn encode(id: &str, txn: &Transaction, transaction_version: i16) -> CoordinatorRecord {
    CoordinatorRecord {
        key: key(id),
        value: Some(value(txn, i16::from(transaction_version >= 1))),
    }
}

/// The record that forgets a transactional id.
pub fn tombstone(id: &str) -> CoordinatorRecord {
    CoordinatorRecord {
        key: key(id),
        value: None,
    }
}

fn key(id: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + id.len());
    out.put_i16(KEY_VERSION);
    put_string(&mut out, id, false);
    out.freeze()
}

fn value(txn: &Transaction, version: i16) -> Bytes {
    let flexible = version >= 1;
    let mut out = BytesMut::with_capacity(64 + 32 * txn.partitions.len());
    out.put_i16(version);
    out.put_i64(txn.producer_id.0);
    out.put_i16(txn.producer_epoch.0);
    out.put_i32(txn.timeout_ms);
    out.put_i8(txn.state.id());
    if txn.state == State::Empty {
        put_count(&mut out, None, flexible);
    } else {
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for partition in &txn.partitions {
            let indexes = topics.entry(&partition.topic).or_default();
            indexes.push(partition.partition.0);
        }
        put_count(&mut out, Some(topics.len()), flexible);
        for (topic, indexes) in topics {
            put_string(&mut out, topic, flexible);
            put_count(&mut out, Some(indexes.len()), flexible);
            indexes.into_iter().for_each(|index| out.put_i32(index));
            if flexible {
                out.put_u8(0);
            }
        }
    }
    out.put_i64(txn.last_update.0);
    out.put_i64(txn.start.0);
    if flexible {
        let previous = txn.prev_producer_id.0;
        let next = txn.next_producer_id.0;
        let client = txn.client_version;
        let count = u8::from(previous != -1) + u8::from(next != -1) + u8::from(client != 0);
        out.put_u8(count);
        let mut tag = |tag: u32, bytes: &[u8]| {
            put_varint(&mut out, tag);
            put_varint(&mut out, bytes.len() as u32);
            out.put_slice(bytes);
        };
        if previous != -1 {
            tag(TAG_PREVIOUS_PRODUCER_ID, &previous.to_be_bytes());
        }
        if next != -1 {
            tag(TAG_NEXT_PRODUCER_ID, &next.to_be_bytes());
        }
        if client != 0 {
            tag(TAG_CLIENT_VERSION, &client.to_be_bytes());
        }
    }
    out.freeze()
}

fn put_varint(out: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn put_count(out: &mut BytesMut, count: Option<usize>, flexible: bool) {
    // Each element takes more than a byte of a request, and requests are smaller than 2 GiB.
    match (count, flexible) {
        (Some(count), true) => put_varint(out, count as u32 + 1),
        (Some(count), false) => out.put_i32(count as i32),
        (None, true) => put_varint(out, 0),
        (None, false) => out.put_i32(-1),
    }
}

/// Ids and topic names came as strings of the wire, which are shorter than 32 KiB.
fn put_string(out: &mut BytesMut, text: &str, flexible: bool) {
    if flexible {
        put_varint(out, text.len() as u32 + 1);
    } else {
        out.put_i16(text.len() as i16);
    }
    out.put_slice(text.as_bytes());
}

/// The transactional id that a key names.
pub fn decode_key(key: &[u8]) -> Result<Arc<str>, Unreadable> {
    let mut read = Cursor {
        rest: key,
        flexible: false,
    };
    let version = read.i16()?;
    if version != KEY_VERSION {
        return Err(Unreadable(format!(
            "key of unknown version {version} in a log of transactions"
        )));
    }
    read.string().map(Arc::from)
}

/// Reads a value. What it does not hold (the last epoch) is none.
pub fn decode_value(value: &[u8]) -> Result<Transaction, Unreadable> {
    let mut read = Cursor {
        rest: value,
        flexible: false,
    };
    let version = read.i16()?;
    if !(0..=1).contains(&version) {
        return Err(Unreadable(format!(
            "value of unknown version {version} in a log of transactions"
        )));
    }
    read.flexible = version >= 1;
    let producer_id = ProducerId(read.i64()?);
    let producer_epoch = ProducerEpoch(read.i16()?);
    let timeout_ms = read.i32()?;
    let state = read.i8()?;
    let state = State::from_id(state)
        .ok_or_else(|| Unreadable(format!("transaction in unknown state {state}")))?;
    let mut partitions = BTreeSet::new();
    if let Some(topics) = read.count()? {
        for _ in 0..topics {
            let topic: Arc<str> = Arc::from(read.string()?);
            for _ in 0..read.count()?.unwrap_or(0) {
                partitions.insert(NamedPartition {
                    topic: topic.clone(),
                    partition: PartitionIndex(read.i32()?),
                });
            }
            read.tags(|_, _| Ok(()))?;
        }
    }
    let last_update = Timestamp(read.i64()?);
    let start = Timestamp(read.i64()?);
    let mut txn = Transaction {
        producer_id,
        prev_producer_id: ProducerId::NONE,
        next_producer_id: ProducerId::NONE,
        producer_epoch,
        last_producer_epoch: ProducerEpoch::NONE,
        timeout_ms,
        state,
        partitions,
        start,
        last_update,
        client_version: 0,
    };
    read.tags(|tag, mut content| {
        match tag {
            TAG_PREVIOUS_PRODUCER_ID => txn.prev_producer_id = ProducerId(content.i64()?),
            TAG_NEXT_PRODUCER_ID => txn.next_producer_id = ProducerId(content.i64()?),
            TAG_CLIENT_VERSION => txn.client_version = content.i16()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(txn)
}

/// Over bytes of the disk, which nobody has checked. Counts are not trusted for sizes: nothing is
/// allocated ahead.
struct Cursor<'a> {
    rest: &'a [u8],
    flexible: bool,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Unreadable> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or_else(|| Unreadable("record of a transaction is cut short".into()))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn i8(&mut self) -> Result<i8, Unreadable> {
        self.array().map(i8::from_be_bytes)
    }

    fn i16(&mut self) -> Result<i16, Unreadable> {
        self.array().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, Unreadable> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, Unreadable> {
        self.array().map(i64::from_be_bytes)
    }

    fn varint(&mut self) -> Result<u32, Unreadable> {
        let mut value: u64 = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| bad_length());
            }
        }
        Err(bad_length())
    }

    /// `None` is null.
    fn count(&mut self) -> Result<Option<usize>, Unreadable> {
        let count = if self.flexible {
            i64::from(self.varint()?) - 1
        } else {
            i64::from(self.i32()?)
        };
        match count {
            -1 => Ok(None),
            _ => usize::try_from(count).map(Some).map_err(|_| bad_length()),
        }
    }

    fn string(&mut self) -> Result<&'a str, Unreadable> {
        let len = if self.flexible {
            i64::from(self.varint()?) - 1
        } else {
            i64::from(self.i16()?)
        };
        let len = usize::try_from(len).map_err(|_| bad_length())?;
        std::str::from_utf8(self.take(len)?)
            .map_err(|_| Unreadable("string in a transaction's record is not UTF-8".into()))
    }

    /// Tagged fields, if the version has them.
    fn tags(
        &mut self,
        mut field: impl FnMut(u32, Cursor<'a>) -> Result<(), Unreadable>,
    ) -> Result<(), Unreadable> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let len = usize::try_from(self.varint()?).map_err(|_| bad_length())?;
            let content = Cursor {
                rest: self.take(len)?,
                flexible: true,
            };
            field(tag, content)?;
        }
        Ok(())
    }
}

fn bad_length() -> Unreadable {
    Unreadable("record of a transaction has an impossible length".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn sample() -> Transaction {
        let partition = |topic: &str, index| NamedPartition {
            topic: Arc::from(topic),
            partition: PartitionIndex(index),
        };
        Transaction {
            producer_id: ProducerId(5),
            prev_producer_id: ProducerId(4),
            next_producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch(2),
            last_producer_epoch: ProducerEpoch::NONE,
            timeout_ms: 60_000,
            state: State::Ongoing,
            partitions: [partition("a", 0), partition("a", 1), partition("b", 7)].into(),
            start: Timestamp(0x100),
            last_update: Timestamp(0x200),
            client_version: 2,
        }
    }

    #[test]
    fn a_record_is_kafkas_byte_for_byte() {
        let record = encode("tx", &sample(), 2);
        assert_eq!(hex(&record.key), "000000027478");
        let expected = concat!(
            "0001",
            "0000000000000005",
            "0002",
            "0000ea60",
            "01",
            "03",
            "0261",
            "03",
            "00000000",
            "00000001",
            "00",
            "0262",
            "02",
            "00000007",
            "00",
            "0000000000000200",
            "0000000000000100",
            "02",
            "00080000000000000004",
            "02020002",
        );
        assert_eq!(hex(&record.value.unwrap()), expected);
        // Before transaction.version 1, without what only later versions know.
        let expected = concat!(
            "0000",
            "0000000000000005",
            "0002",
            "0000ea60",
            "01",
            "00000002",
            "000161",
            "00000002",
            "00000000",
            "00000001",
            "000162",
            "00000001",
            "00000007",
            "0000000000000200",
            "0000000000000100",
        );
        assert_eq!(hex(&encode("tx", &sample(), 0).value.unwrap()), expected);
    }

    #[test]
    fn the_record_of_an_end_takes_a_bounded_number_of_bytes_more() {
        let mut begun = sample();
        begun.prev_producer_id = ProducerId::NONE;
        begun.client_version = 0;
        let size = |txn: &Transaction| encode("tx", txn, 2).value.unwrap().len();
        for commit in [false, true] {
            let exhausted = ProducerId(1 << 40);
            let end = begun.prepared(commit, 2, exhausted, Timestamp(0x300));
            assert_eq!(size(&end), size(&begun) + END_BYTES);
            assert!(size(&end.completed(Timestamp(0x400))) < size(&end));
        }
    }

    #[test]
    fn an_empty_transaction_has_null_for_partitions() {
        let mut txn = sample();
        txn.state = State::Empty;
        txn.partitions.clear();
        let value = encode("tx", &txn, 2).value.unwrap();
        assert_eq!(value[17], 0);
        assert_eq!(decode_value(&value).unwrap(), txn);
    }

    #[test]
    fn what_is_written_is_read() {
        for version in [0, 1, 2] {
            let record = encode("tx", &sample(), version);
            assert_eq!(&*decode_key(&record.key).unwrap(), "tx");
            let mut read = decode_value(&record.value.unwrap()).unwrap();
            if version == 0 {
                read.prev_producer_id = ProducerId(4);
                read.client_version = 2;
            }
            assert_eq!(read, sample());
        }
    }

    #[test]
    fn every_cut_and_unknown_versions_are_unreadable() {
        let record = encode("tx", &sample(), 2);
        let value = record.value.unwrap();
        for len in 0..value.len() {
            assert!(decode_value(&value[..len]).is_err(), "{len}");
        }
        for len in 0..record.key.len() {
            assert!(decode_key(&record.key[..len]).is_err(), "{len}");
        }
        let mut other = value.to_vec();
        other[1] = 2;
        assert!(decode_value(&other).is_err());
        other[1] = 1;
        other[16] = 9;
        assert!(decode_value(&other).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes: Vec<u8>, version in 0u8..2) {
            let _ = decode_key(&bytes);
            if bytes.len() > 1 {
                bytes[0] = 0;
                bytes[1] = version;
            }
            let _ = decode_value(&bytes);
        }
    }
}
