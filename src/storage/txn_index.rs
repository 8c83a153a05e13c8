//! The aborted transactions of a segment: `.txnindex`, for readers of committed records (KIP-98).
//!
//! A file of entries of 34 bytes, big-endian, one for each abort marker in the segment, in the order of the
//! markers. There is no file while a segment has none.
//!
//! ```text
//!  at  size  field
//!   0     2  version              0
//!   2     8  producer_id
//!  10     8  first_offset         of the transaction's first record, perhaps in an earlier segment
//!  18     8  last_offset          of the abort marker
//!  26     8  last_stable_offset   when the marker was written
//! ```
//!
//! No input or output here; the log appends [`AbortedTxn::encode`] and reads whole files into
//! [`decode`].

use std::fmt;

use crate::base::{Offset, ProducerId};

/// Bytes of one entry.
pub const ABORTED_TXN_SIZE: usize = 34;

/// A transaction of which consumers with `read_committed` see nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTxn {
    pub producer_id: ProducerId,
    pub first_offset: Offset,
    /// Of the marker.
    pub last_offset: Offset,
    pub last_stable_offset: Offset,
}

/// What is wrong with a `.txnindex`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnIndexError {
    /// A version that is not known, in the entry of this number from 0.
    Version { entry: usize, version: i16 },
    /// An entry whose marker lies before the segment, or not behind the marker of the entry before it.
    Order { entry: usize, last_offset: i64 },
}

impl fmt::Display for TxnIndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { entry, version } => {
                write!(f, "entry {entry} has version {version}, not 0")
            }
            Self::Order { entry, last_offset } => {
                write!(
                    f,
                    "entry {entry} has last offset {last_offset}, out of order"
                )
            }
        }
    }
}

impl std::error::Error for TxnIndexError {}

impl AbortedTxn {
    pub fn encode(&self) -> [u8; ABORTED_TXN_SIZE] {
        let mut out = [0; ABORTED_TXN_SIZE];
        out[2..10].copy_from_slice(&self.producer_id.0.to_be_bytes());
        out[10..18].copy_from_slice(&self.first_offset.0.to_be_bytes());
        out[18..26].copy_from_slice(&self.last_offset.0.to_be_bytes());
        out[26..34].copy_from_slice(&self.last_stable_offset.0.to_be_bytes());
        out
    }

    fn overlaps(&self, from: Offset, upper_bound: Offset) -> bool {
        self.last_offset >= from && self.first_offset < upper_bound
    }
}

fn i64_at(entry: &[u8; ABORTED_TXN_SIZE], at: usize) -> i64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&entry[at..at + 8]);
    i64::from_be_bytes(bytes)
}

/// Reads a `.txnindex` of the segment that starts at `base_offset`.
///
/// A tail shorter than an entry, of a write that was cut, is left out: the file is to be truncated to
/// `entries.len() * ABORTED_TXN_SIZE` before it is appended to. On an error the index is to be rebuilt.
pub fn decode(bytes: &[u8], base_offset: Offset) -> Result<Vec<AbortedTxn>, TxnIndexError> {
    let (entries, _torn) = bytes.as_chunks::<ABORTED_TXN_SIZE>();
    let mut out: Vec<AbortedTxn> = Vec::with_capacity(entries.len());
    for (number, entry) in entries.iter().enumerate() {
        let version = i16::from_be_bytes([entry[0], entry[1]]);
        if version != 0 {
            return Err(TxnIndexError::Version {
                entry: number,
                version,
            });
        }
        let txn = AbortedTxn {
            producer_id: ProducerId(i64_at(entry, 2)),
            first_offset: Offset(i64_at(entry, 10)),
            last_offset: Offset(i64_at(entry, 18)),
            last_stable_offset: Offset(i64_at(entry, 26)),
        };
        if txn.last_offset < base_offset
            || out
                .last()
                .is_some_and(|last| last.last_offset >= txn.last_offset)
        {
            return Err(TxnIndexError::Order {
                entry: number,
                last_offset: txn.last_offset.0,
            });
        }
        out.push(txn);
    }
    Ok(out)
}

/// What one segment knows about a range of offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub aborted: Vec<AbortedTxn>,
    /// No later segment can hold a transaction that began in the range.
    pub complete: bool,
}

/// The aborted transactions that touch `from..upper_bound`, out of one segment's entries.
///
/// The search goes on in the next segment unless [`Collected::complete`]: a transaction that began in
/// the range may be aborted by a marker far behind it.
pub fn collect(entries: &[AbortedTxn], from: Offset, upper_bound: Offset) -> Collected {
    let mut collected = Collected::default();
    for txn in entries {
        if txn.overlaps(from, upper_bound) {
            collected.aborted.push(*txn);
        }
        if txn.last_stable_offset >= upper_bound {
            collected.complete = true;
            break;
        }
    }
    collected
}

/// How many entries remain when the log is cut to end at `end_offset`.
pub fn entries_before(entries: &[AbortedTxn], end_offset: Offset) -> usize {
    entries.partition_point(|txn| txn.last_offset < end_offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn txn(producer: i64, first: i64, last: i64, stable: i64) -> AbortedTxn {
        AbortedTxn {
            producer_id: ProducerId(producer),
            first_offset: Offset(first),
            last_offset: Offset(last),
            last_stable_offset: Offset(stable),
        }
    }

    #[test]
    fn an_entry_is_34_big_endian_bytes() {
        let bytes = txn(1, 2, 3, 4).encode();
        let mut expected = vec![0, 0];
        for value in [1i64, 2, 3, 4] {
            expected.extend(value.to_be_bytes());
        }
        assert_eq!(bytes.as_slice(), expected);
    }

    #[test]
    fn what_was_encoded_is_decoded_and_a_torn_tail_left_out() {
        let entries = [txn(0, 0, 10, 11), txn(1, 5, 15, 13), txn(2, 18, 35, 25)];
        let mut bytes: Vec<u8> = entries.iter().flat_map(AbortedTxn::encode).collect();
        assert_eq!(decode(&bytes, Offset(0)), Ok(entries.to_vec()));
        bytes.truncate(bytes.len() - 1);
        assert_eq!(decode(&bytes, Offset(0)), Ok(entries[..2].to_vec()));
        assert_eq!(
            decode(&bytes, Offset(11)),
            Err(TxnIndexError::Order {
                entry: 0,
                last_offset: 10
            })
        );
        bytes[ABORTED_TXN_SIZE + 1] = 1;
        assert_eq!(
            decode(&bytes, Offset(0)),
            Err(TxnIndexError::Version {
                entry: 1,
                version: 1
            })
        );
    }

    #[test]
    fn collects_what_overlaps_and_stops_when_nothing_later_can() {
        let entries = [
            txn(0, 0, 10, 11),
            txn(1, 5, 15, 13),
            txn(2, 18, 35, 25),
            txn(3, 32, 50, 40),
        ];
        let of = |from, to| {
            let found = collect(&entries, Offset(from), Offset(to));
            let ids: Vec<i64> = found.aborted.iter().map(|t| t.producer_id.0).collect();
            (ids, found.complete)
        };
        assert_eq!(of(0, 100), (vec![0, 1, 2, 3], false));
        assert_eq!(of(0, 32), (vec![0, 1, 2], true));
        assert_eq!(of(0, 35), (vec![0, 1, 2, 3], true));
        assert_eq!(of(10, 35), (vec![0, 1, 2, 3], true));
        assert_eq!(of(11, 35), (vec![1, 2, 3], true));
        assert_eq!(of(20, 41), (vec![2, 3], false));
    }

    #[test]
    fn truncation_drops_the_markers_at_and_behind_the_end() {
        let entries = [txn(0, 0, 10, 11), txn(1, 5, 15, 13)];
        assert_eq!(entries_before(&entries, Offset(16)), 2);
        assert_eq!(entries_before(&entries, Offset(15)), 1);
        assert_eq!(entries_before(&entries, Offset(0)), 0);
    }
}
