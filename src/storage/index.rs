//! The two sparse indexes of a segment, in Kafka's formats. All numbers are big-endian.
//!
//! ```text
//! .index       4  last offset of a batch less the segment's base offset
//!              4  position of that batch in the .log
//!
//! .timeindex   8  largest timestamp so far in the segment
//!              4  last offset of the batch that has it, less the segment's base offset
//! ```
//!
//! Both ascend in every field. Entries are made every `index.interval.bytes`; the last entry of a closed
//! segment's time index is the largest timestamp of the segment.
//!
//! No mmap: the newest entries are in memory until [`TAIL_ENTRIES`] have gathered, the rest is searched
//! in the file by position. What is lost of the tail in a crash is rebuilt by recovery, which reads the
//! segment anyway.

use std::io;

use bytes::{Bytes, BytesMut};

use super::disk::LogFile;

/// Entries that gather in memory before they are written.
pub(super) const TAIL_ENTRIES: usize = 128;
/// Entries read at once at the end of a search.
const BLOCK_ENTRIES: u32 = 256;

/// An index with entries of `N` bytes.
#[derive(Debug)]
pub(super) struct SparseIndex<F, const N: usize> {
    /// `None` while closed.
    pub(super) file: Option<F>,
    /// Entries that follow those in the file.
    pub(super) tail: Vec<[u8; N]>,
}

pub(super) type OffsetIndex<F> = SparseIndex<F, 8>;
pub(super) type TimeIndex<F> = SparseIndex<F, 12>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OffsetEntry {
    pub(super) relative_offset: u32,
    pub(super) position: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeEntry {
    pub(super) timestamp: i64,
    pub(super) relative_offset: u32,
}

impl OffsetEntry {
    pub(super) fn encode(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.relative_offset.to_be_bytes());
        bytes[4..].copy_from_slice(&self.position.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: [u8; 8]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self {
            relative_offset: u32::from_be_bytes([a, b, c, d]),
            position: u32::from_be_bytes([e, f, g, h]),
        }
    }
}

impl TimeEntry {
    pub(super) fn encode(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.timestamp.to_be_bytes());
        bytes[8..].copy_from_slice(&self.relative_offset.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: [u8; 12]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        Self {
            timestamp: i64::from_be_bytes([a, b, c, d, e, f, g, h]),
            relative_offset: u32::from_be_bytes([i, j, k, l]),
        }
    }
}

/// Where a search has to go on.
pub(super) enum Search<const N: usize> {
    Found([u8; N]),
    /// Among the entries in the file, or nowhere.
    InFile,
}

impl<F, const N: usize> SparseIndex<F, N> {
    pub(super) const CLOSED: Self = Self {
        file: None,
        tail: Vec::new(),
    };

    pub(super) fn is_closed(&self) -> bool {
        self.file.is_none() && self.tail.is_empty()
    }

    pub(super) fn push(&mut self, entry: [u8; N]) {
        self.tail.push(entry);
    }

    /// The tail as bytes, and the position in the file, which has `persisted` entries, where it belongs.
    pub(super) fn unwritten(&self, persisted: u32) -> Option<(u64, Bytes)> {
        if self.tail.is_empty() {
            return None;
        }
        let mut bytes = BytesMut::with_capacity(self.tail.len() * N);
        for entry in &self.tail {
            bytes.extend_from_slice(entry);
        }
        Some((u64::from(persisted) * N as u64, bytes.freeze()))
    }

    /// `entries` of the tail have been written.
    pub(super) fn written(&mut self, entries: usize) {
        self.tail.drain(..entries.min(self.tail.len()));
        if self.tail.is_empty() {
            self.tail = Vec::new();
        }
    }

    /// The last entry for which `holds`, which is true of the first so many and of none after.
    pub(super) fn search_tail(&self, holds: impl Fn([u8; N]) -> bool) -> Search<N> {
        match self.tail.partition_point(|entry| holds(*entry)) {
            0 => Search::InFile,
            n => Search::Found(self.tail[n - 1]),
        }
    }
}

/// The last entry of the first `entries` of an index file for which `holds`, which is true of the first
/// so many and of none after.
pub(super) async fn search_file<F: LogFile, const N: usize>(
    file: &F,
    entries: u32,
    holds: impl Fn([u8; N]) -> bool,
) -> io::Result<Option<[u8; N]>> {
    // Invariant: it holds of all entries before `low`, and of none from `high` on.
    let (mut low, mut high) = (0u32, entries);
    while high - low > BLOCK_ENTRIES {
        let middle = low + (high - low) / 2;
        let entry = read_entry(file, middle).await?;
        if holds(entry) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    // One before, which may be the answer.
    let first = low.saturating_sub(1);
    let count = (high - first) as usize;
    if count == 0 {
        return Ok(None);
    }
    let mut block = vec![0u8; count * N];
    let read = file
        .read_at(u64::from(first) * N as u64, &mut block)
        .await?;
    if read < block.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut found = None;
    for chunk in block.chunks_exact(N) {
        let mut entry = [0; N];
        entry.copy_from_slice(chunk);
        if !holds(entry) {
            break;
        }
        found = Some(entry);
    }
    Ok(found)
}

/// Entry number `at`, which is in the file.
pub(super) async fn read_entry<F: LogFile, const N: usize>(
    file: &F,
    at: u32,
) -> io::Result<[u8; N]> {
    let mut entry = [0; N];
    let read = file.read_at(u64::from(at) * N as u64, &mut entry).await?;
    if read < N {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(entry)
}
