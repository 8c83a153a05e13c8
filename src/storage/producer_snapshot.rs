//! The producers of a log at an offset: `<offset>.snapshot`, so that an open need not read the whole log.
//!
//! Kafka's format, version 1, big-endian:
//!
//! ```text
//!  at  size  field
//!   0     2  version    1
//!   2     4  crc        CRC-32C of everything behind it
//!   6     4  entries    their number
//!  10        entries of 46 bytes:
//!            at  size  field
//!             0     8  producer_id
//!             8     2  producer_epoch
//!            10     4  last_sequence              -1 if the producer has no batch
//!            14     8  last_offset                -1 if the producer has no batch
//!            22     4  offset_delta               last offset of the last batch less its first
//!            26     8  timestamp                  of the last append, data or marker; ms
//!            34     4  coordinator_epoch          of the last marker; -1 is none
//!            38     8  current_txn_first_offset   -1 if no transaction is open
//! ```
//!
//! Only the last batch of a producer survives: after a restart a duplicate of an older one is out of order.

use std::fmt;

use super::producer_state::{BatchMetadata, ProducerEntry};
use crate::base::{Offset, ProducerEpoch, ProducerId, Timestamp};

const VERSION: i16 = 1;
const CRC_AT: usize = 2;
const ENTRIES_AT: usize = 6;
const FIRST_ENTRY_AT: usize = 10;
const ENTRY_SIZE: usize = 46;

/// What is wrong with a `.snapshot`. It is then deleted, and the one before it, or the log, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotError {
    /// The bytes end inside a field, or go on behind the last entry.
    Length {
        expected: usize,
        found: usize,
    },
    Version {
        version: i16,
    },
    Crc {
        stored: u32,
        computed: u32,
    },
    /// Values no writer produces, in the entry of this number from 0.
    Entry {
        entry: usize,
    },
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { expected, found } => write!(f, "{found} bytes instead of {expected}"),
            Self::Version { version } => write!(f, "version {version} is not {VERSION}"),
            Self::Crc { stored, computed } => {
                write!(f, "stored CRC {stored:#010x}, computed {computed:#010x}")
            }
            Self::Entry { entry } => write!(f, "entry {entry} is impossible"),
        }
    }
}

impl std::error::Error for SnapshotError {}

/// The bytes of a snapshot of `entries`, in their order.
pub fn encode<'a>(entries: impl IntoIterator<Item = &'a ProducerEntry>) -> Vec<u8> {
    let mut out = vec![0; FIRST_ENTRY_AT];
    let mut count: i32 = 0;
    for entry in entries {
        let last = entry.last_batch();
        out.extend(entry.producer_id.0.to_be_bytes());
        out.extend(entry.producer_epoch.0.to_be_bytes());
        out.extend(last.map_or(-1, |b| b.last_sequence).to_be_bytes());
        out.extend(last.map_or(-1, |b| b.last_offset.0).to_be_bytes());
        out.extend(last.map_or(0, |b| b.offset_delta).to_be_bytes());
        out.extend(entry.last_timestamp.0.to_be_bytes());
        out.extend(entry.coordinator_epoch.to_be_bytes());
        out.extend(
            entry
                .current_txn_first_offset
                .map_or(-1, |o| o.0)
                .to_be_bytes(),
        );
        count += 1;
    }
    out[..2].copy_from_slice(&VERSION.to_be_bytes());
    out[ENTRIES_AT..FIRST_ENTRY_AT].copy_from_slice(&count.to_be_bytes());
    let crc = crc32c::crc32c(&out[ENTRIES_AT..]);
    out[CRC_AT..ENTRIES_AT].copy_from_slice(&crc.to_be_bytes());
    out
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], SnapshotError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .ok_or(SnapshotError::Length {
            expected: at + N,
            found: bytes.len(),
        })
}

/// Reads a snapshot. The length is checked against the number of entries before any memory is taken.
pub fn decode(bytes: &[u8]) -> Result<Vec<ProducerEntry>, SnapshotError> {
    let version = i16::from_be_bytes(field(bytes, 0)?);
    if version != VERSION {
        return Err(SnapshotError::Version { version });
    }
    let stored = u32::from_be_bytes(field(bytes, CRC_AT)?);
    let count = i32::from_be_bytes(field(bytes, ENTRIES_AT)?);
    let computed = crc32c::crc32c(&bytes[ENTRIES_AT..]);
    if stored != computed {
        return Err(SnapshotError::Crc { stored, computed });
    }
    let body = &bytes[FIRST_ENTRY_AT..];
    let expected = usize::try_from(count)
        .ok()
        .and_then(|count| count.checked_mul(ENTRY_SIZE))
        .unwrap_or(usize::MAX);
    if body.len() != expected {
        return Err(SnapshotError::Length {
            expected: expected.saturating_add(FIRST_ENTRY_AT),
            found: bytes.len(),
        });
    }
    let mut entries = Vec::with_capacity(body.len() / ENTRY_SIZE);
    for (number, at) in body.chunks_exact(ENTRY_SIZE).enumerate() {
        let producer_id = ProducerId(i64::from_be_bytes(field(at, 0)?));
        let producer_epoch = ProducerEpoch(i16::from_be_bytes(field(at, 8)?));
        let last_sequence = i32::from_be_bytes(field(at, 10)?);
        let last_offset = Offset(i64::from_be_bytes(field(at, 14)?));
        let offset_delta = i32::from_be_bytes(field(at, 22)?);
        let timestamp = Timestamp(i64::from_be_bytes(field(at, 26)?));
        let coordinator_epoch = i32::from_be_bytes(field(at, 34)?);
        let txn = Offset(i64::from_be_bytes(field(at, 38)?));
        let possible = producer_id.0 >= 0
            && offset_delta >= 0
            && (last_offset.0 < 0 || i64::from(offset_delta) <= last_offset.0);
        if !possible {
            return Err(SnapshotError::Entry { entry: number });
        }
        let batch = (last_offset.0 >= 0).then_some(BatchMetadata {
            last_sequence,
            last_offset,
            offset_delta,
            timestamp,
        });
        entries.push(ProducerEntry::restored(
            producer_id,
            producer_epoch,
            coordinator_epoch,
            timestamp,
            (txn.0 >= 0).then_some(txn),
            batch,
        ));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<ProducerEntry> {
        vec![
            ProducerEntry::restored(
                ProducerId(1),
                ProducerEpoch(2),
                -1,
                Timestamp(99),
                None,
                Some(BatchMetadata {
                    last_sequence: 9,
                    last_offset: Offset(109),
                    offset_delta: 4,
                    timestamp: Timestamp(99),
                }),
            ),
            ProducerEntry::restored(
                ProducerId(7),
                ProducerEpoch(0),
                3,
                Timestamp(5),
                Some(Offset(80)),
                None,
            ),
        ]
    }

    #[test]
    fn an_entry_is_46_bytes_behind_a_head_of_10() {
        let bytes = encode(&entries());
        assert_eq!(bytes.len(), 10 + 2 * 46);
        assert_eq!(bytes[..2], [0, 1]);
        assert_eq!(bytes[6..10], [0, 0, 0, 2]);
        let mut second = Vec::new();
        second.extend(7i64.to_be_bytes());
        second.extend(0i16.to_be_bytes());
        second.extend((-1i32).to_be_bytes());
        second.extend((-1i64).to_be_bytes());
        second.extend(0i32.to_be_bytes());
        second.extend(5i64.to_be_bytes());
        second.extend(3i32.to_be_bytes());
        second.extend(80i64.to_be_bytes());
        assert_eq!(bytes[56..], second);
    }

    #[test]
    fn the_bytes_are_those_that_kafka_writes() {
        let theirs = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/golden/records/java-producers.snapshot"
        );
        let theirs = std::fs::read(theirs).unwrap();
        assert_eq!(encode(&entries()), theirs);
        assert_eq!(decode(&theirs), Ok(entries()));
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        assert_eq!(decode(&encode(&entries())), Ok(entries()));
        assert_eq!(decode(&encode(&[])), Ok(vec![]));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = encode(&entries());
        for at in 0..bytes.len() {
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(decode(&damaged).is_err(), "byte {at} bit {bit}");
            }
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(decode(&longer).is_err());
    }

    #[test]
    fn a_count_beyond_the_bytes_takes_no_memory() {
        let mut bytes = encode(&[]);
        bytes[6..10].copy_from_slice(&i32::MAX.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[6..]);
        bytes[2..6].copy_from_slice(&crc.to_be_bytes());
        assert!(matches!(decode(&bytes), Err(SnapshotError::Length { .. })));
        bytes[6..10].copy_from_slice(&(-1i32).to_be_bytes());
        let crc = crc32c::crc32c(&bytes[6..]);
        bytes[2..6].copy_from_slice(&crc.to_be_bytes());
        assert!(matches!(decode(&bytes), Err(SnapshotError::Length { .. })));
    }
}
