//! The leader epochs of a partition's log: at which offset each leader began (KIP-101).
//!
//! Kept on disk as Kafka's `leader-epoch-checkpoint`, a text of lines that end in `\n`:
//!
//! ```text
//! 0            version
//! 2            number of entries
//! 0 0          epoch, start offset; both ascend
//! 3 1250
//! ```
//!
//! No input or output here: the log writes [`EpochCache::encode`] and hands what it read to
//! [`EpochCache::decode`]. The file may never lack an entry the log has, so a change by [`assign`] goes to
//! disk before the batch that caused it is acknowledged; a stale surplus is removed again by the
//! truncations that every open of a log does.
//!
//! [`assign`]: EpochCache::assign

use std::fmt::{self, Write};

use crate::base::{LeaderEpoch, Offset};

/// Name of the file in a partition's folder.
pub const LEADER_EPOCH_CHECKPOINT: &str = "leader-epoch-checkpoint";

/// An epoch and the offset of its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEntry {
    pub epoch: LeaderEpoch,
    pub start_offset: Offset,
}

/// What is wrong with a `leader-epoch-checkpoint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EpochCacheError {
    /// Not UTF-8.
    NotText,
    /// A line, numbered from 1, that is not what its place asks for.
    Line { number: usize, text: String },
    /// A version other than 0.
    Version { version: i64 },
    /// The file announces another number of entries than it has.
    Count { announced: usize, found: usize },
    /// The last line has no end: what it says may be the beginning of another number.
    Cut,
}

impl fmt::Display for EpochCacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotText => f.write_str("not UTF-8"),
            Self::Line { number, text } => write!(f, "line {number} is malformed: {text:?}"),
            Self::Version { version } => write!(f, "version {version} is not 0"),
            Self::Count { announced, found } => {
                write!(f, "{announced} entries announced, {found} found")
            }
            Self::Cut => f.write_str("the end of a line is missing"),
        }
    }
}

impl std::error::Error for EpochCacheError {}

/// The epochs of one log, in memory. Epochs and start offsets both ascend strictly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochCache {
    entries: Vec<EpochEntry>,
}

impl EpochCache {
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the text of a `leader-epoch-checkpoint`. An empty file is an empty cache.
    ///
    /// Entries that do not ascend are resolved as [`assign`](Self::assign) does: the later line wins.
    pub fn decode(bytes: &[u8]) -> Result<EpochCache, EpochCacheError> {
        let text = std::str::from_utf8(bytes).map_err(|_| EpochCacheError::NotText)?;
        if !text.is_empty() && !text.ends_with('\n') {
            return Err(EpochCacheError::Cut);
        }
        let mut lines = text.lines().enumerate();
        let malformed = |number: usize, text: &str| EpochCacheError::Line {
            number: number + 1,
            text: text.chars().take(80).collect(),
        };
        let Some((i, line)) = lines.next() else {
            return Ok(Self::default());
        };
        let version: i64 = line.parse().map_err(|_| malformed(i, line))?;
        if version != 0 {
            return Err(EpochCacheError::Version { version });
        }
        let Some((i, line)) = lines.next() else {
            return Ok(Self::default());
        };
        let announced: usize = line.parse().map_err(|_| malformed(i, line))?;
        let mut cache = Self::default();
        let mut found = 0;
        for (i, line) in lines {
            let mut words = line.split_ascii_whitespace();
            let entry = match (words.next(), words.next(), words.next()) {
                (Some(epoch), Some(start), None) => {
                    match (epoch.parse::<i32>(), start.parse::<i64>()) {
                        (Ok(epoch), Ok(start)) if epoch >= 0 && start >= 0 => EpochEntry {
                            epoch: LeaderEpoch(epoch),
                            start_offset: Offset(start),
                        },
                        _ => return Err(malformed(i, line)),
                    }
                }
                _ => return Err(malformed(i, line)),
            };
            cache.assign(entry.epoch, entry.start_offset);
            found += 1;
        }
        if found != announced {
            return Err(EpochCacheError::Count { announced, found });
        }
        Ok(cache)
    }

    /// The text of a `leader-epoch-checkpoint`.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = String::with_capacity(8 + self.entries.len() * 16);
        // Writing to a string cannot fail.
        let _ = write!(text, "0\n{}\n", self.entries.len());
        for entry in &self.entries {
            let _ = writeln!(text, "{} {}", entry.epoch, entry.start_offset);
        }
        text.into_bytes()
    }

    /// Notes that `epoch` has written from `start_offset` on. True if that changed anything, and the
    /// file is to be written. Called for every batch that is appended, so the answer is mostly no.
    ///
    /// Entries that contradict the new one (not below it in epoch and in offset) are dropped: the log
    /// has been cut there. Negative numbers, from a batch without an epoch, are ignored.
    pub fn assign(&mut self, epoch: LeaderEpoch, start_offset: Offset) -> bool {
        if epoch.0 < 0 || start_offset.0 < 0 {
            return false;
        }
        if let Some(latest) = self.latest()
            && latest.epoch == epoch
            && start_offset >= latest.start_offset
        {
            return false;
        }
        while let Some(latest) = self.latest()
            && (latest.epoch >= epoch || latest.start_offset >= start_offset)
        {
            self.entries.pop();
        }
        self.entries.push(EpochEntry {
            epoch,
            start_offset,
        });
        true
    }

    pub fn latest(&self) -> Option<EpochEntry> {
        self.entries.last().copied()
    }

    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.latest().map(|entry| entry.epoch)
    }

    pub fn earliest(&self) -> Option<EpochEntry> {
        self.entries.first().copied()
    }

    pub fn entries(&self) -> &[EpochEntry] {
        &self.entries
    }

    /// Gives back room for more than there are.
    pub fn shrink(&mut self) {
        self.entries.shrink_to_fit();
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The largest epoch not above `requested`, and the offset one past its last record: the answer to
    /// OffsetForLeaderEpoch (KIP-101, KIP-279, KIP-320). `None` if it cannot be told.
    ///
    /// For the latest epoch that is `log_end_offset`. Below the first known epoch the answer is the
    /// requested epoch with the start of the first known one: what lay before it is gone, and a
    /// follower is to go on from there.
    pub fn end_offset_for(
        &self,
        requested: LeaderEpoch,
        log_end_offset: Offset,
    ) -> Option<(LeaderEpoch, Offset)> {
        if requested.0 < 0 {
            return None;
        }
        if self.latest_epoch() == Some(requested) {
            return Some((requested, log_end_offset));
        }
        let above = self.entries.partition_point(|e| e.epoch <= requested);
        let higher = self.entries.get(above)?;
        match above.checked_sub(1).and_then(|at| self.entries.get(at)) {
            Some(floor) => Some((floor.epoch, higher.start_offset)),
            None => Some((requested, higher.start_offset)),
        }
    }

    /// The epoch that wrote the record at `offset`.
    pub fn epoch_for_offset(&self, offset: Offset) -> Option<LeaderEpoch> {
        let above = self.entries.partition_point(|e| e.start_offset <= offset);
        above
            .checked_sub(1)
            .and_then(|at| self.entries.get(at))
            .map(|entry| entry.epoch)
    }

    /// The log was cut to end at `end_offset`: drops the epochs that began there or later. True if the
    /// file is to be written.
    pub fn truncate_from_end(&mut self, end_offset: Offset) -> bool {
        let before = self.entries.len();
        self.entries.retain(|e| e.start_offset < end_offset);
        before != self.entries.len()
    }

    /// The log now starts at `start_offset`: drops the epochs that ended there or earlier; the one that
    /// spans it starts there now. True if the file is to be written.
    pub fn truncate_from_start(&mut self, start_offset: Offset) -> bool {
        let before = self
            .entries
            .partition_point(|e| e.start_offset <= start_offset);
        if before == 0 {
            return false;
        }
        let spanning = before - 1;
        let changed = spanning > 0 || self.entries[spanning].start_offset != start_offset;
        self.entries[spanning].start_offset = start_offset;
        self.entries.drain(..spanning);
        changed
    }

    /// Takes over what was found of the batches between two offsets; what is known of others stays.
    pub fn replace_range(&mut self, from: Offset, to: Offset, found: &EpochCache) {
        let behind = self.entries.partition_point(|e| e.start_offset < to);
        let behind = self.entries.split_off(behind);
        self.entries.retain(|e| e.start_offset < from);
        for entry in &found.entries {
            self.assign(entry.epoch, entry.start_offset);
        }
        for entry in behind {
            if self
                .latest_epoch()
                .is_none_or(|latest| latest < entry.epoch)
            {
                self.entries.push(entry);
            }
        }
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(entries: &[(i32, i64)]) -> EpochCache {
        let mut cache = EpochCache::new();
        for &(epoch, start) in entries {
            assert!(cache.assign(LeaderEpoch(epoch), Offset(start)));
        }
        cache
    }

    fn pairs(cache: &EpochCache) -> Vec<(i32, i64)> {
        cache
            .entries()
            .iter()
            .map(|e| (e.epoch.0, e.start_offset.0))
            .collect()
    }

    #[test]
    fn what_is_found_in_a_part_of_the_log_says_nothing_about_the_rest() {
        let known = cache(&[(0, 0), (1, 52), (3, 70), (4, 90)]);
        let replaced = |from, to, found: &[(i32, i64)]| {
            let mut known = known.clone();
            known.replace_range(Offset(from), Offset(to), &cache(found));
            pairs(&known)
        };
        // The epoch before goes on into the part.
        assert_eq!(replaced(41, 60, &[(0, 41), (1, 52)]), pairs(&known));
        assert_eq!(
            replaced(41, 80, &[(0, 41), (1, 52), (3, 70)]),
            pairs(&known)
        );
        // The checkpoint did not know of one, or knew of one that is not there.
        let found = [(0, 0), (1, 52), (2, 60), (3, 70), (4, 90)];
        assert_eq!(replaced(55, 70, &[(1, 55), (2, 60)]), found);
        assert_eq!(replaced(41, 60, &[(0, 41)]), [(0, 0), (3, 70), (4, 90)]);
        assert_eq!(replaced(60, 95, &[(1, 60)]), [(0, 0), (1, 52)]);
    }

    #[test]
    fn only_a_new_epoch_or_an_earlier_start_changes_the_cache() {
        let mut c = cache(&[(0, 0), (3, 10)]);
        assert!(!c.assign(LeaderEpoch(3), Offset(11)));
        assert!(!c.assign(LeaderEpoch(-1), Offset(11)));
        assert!(c.assign(LeaderEpoch(3), Offset(9)));
        assert_eq!(pairs(&c), [(0, 0), (3, 9)]);
    }

    #[test]
    fn a_contradicting_entry_drops_those_it_contradicts() {
        let mut c = cache(&[(0, 0), (3, 10), (4, 20)]);
        assert!(c.assign(LeaderEpoch(5), Offset(10)));
        assert_eq!(pairs(&c), [(0, 0), (5, 10)]);
        assert!(c.assign(LeaderEpoch(2), Offset(30)));
        assert_eq!(pairs(&c), [(0, 0), (2, 30)]);
    }

    #[test]
    fn the_end_of_an_epoch_is_the_start_of_the_next() {
        let c = cache(&[(2, 5), (4, 10), (7, 30)]);
        let end = Offset(50);
        let ask = |epoch| {
            c.end_offset_for(LeaderEpoch(epoch), end)
                .map(|(e, o)| (e.0, o.0))
        };
        assert_eq!(ask(-1), None);
        assert_eq!(ask(1), Some((1, 5)), "older than all: where the log starts");
        assert_eq!(ask(2), Some((2, 10)));
        assert_eq!(ask(3), Some((2, 10)));
        assert_eq!(ask(5), Some((4, 30)));
        assert_eq!(ask(7), Some((7, 50)));
        assert_eq!(ask(8), None, "newer than all");
        assert_eq!(EpochCache::new().end_offset_for(LeaderEpoch(0), end), None);
    }

    #[test]
    fn truncation_from_the_end_drops_epochs_that_began_there() {
        let mut c = cache(&[(2, 5), (4, 10), (7, 30)]);
        assert!(!c.truncate_from_end(Offset(31)));
        assert!(c.truncate_from_end(Offset(30)));
        assert_eq!(pairs(&c), [(2, 5), (4, 10)]);
        assert!(c.truncate_from_end(Offset(0)));
        assert!(c.is_empty());
    }

    #[test]
    fn truncation_from_the_start_keeps_the_epoch_that_spans_it() {
        let mut c = cache(&[(2, 5), (4, 10), (7, 30)]);
        assert!(!c.truncate_from_start(Offset(4)));
        assert!(!c.truncate_from_start(Offset(5)));
        assert!(c.truncate_from_start(Offset(12)));
        assert_eq!(pairs(&c), [(4, 12), (7, 30)]);
        assert!(c.truncate_from_start(Offset(30)));
        assert_eq!(pairs(&c), [(7, 30)]);
        assert!(c.truncate_from_start(Offset(99)));
        assert_eq!(pairs(&c), [(7, 99)]);
    }

    #[test]
    fn the_epoch_of_an_offset_is_the_last_that_began_at_or_below_it() {
        let c = cache(&[(2, 5), (4, 10)]);
        assert_eq!(c.epoch_for_offset(Offset(4)), None);
        assert_eq!(c.epoch_for_offset(Offset(9)), Some(LeaderEpoch(2)));
        assert_eq!(c.epoch_for_offset(Offset(10)), Some(LeaderEpoch(4)));
    }

    #[test]
    fn the_text_is_kafkas() {
        let c = cache(&[(0, 0), (3, 1250)]);
        assert_eq!(c.encode(), b"0\n2\n0 0\n3 1250\n");
        assert_eq!(EpochCache::decode(&c.encode()), Ok(c));
        assert_eq!(EpochCache::decode(b""), Ok(EpochCache::new()));
        assert_eq!(EpochCache::decode(b"0\n0\n"), Ok(EpochCache::new()));
    }

    #[test]
    fn a_damaged_text_is_an_error_and_not_a_guess() {
        for (text, error) in [
            (&b"1\n0\n"[..], EpochCacheError::Version { version: 1 }),
            (
                b"0\n2\n0 0\n",
                EpochCacheError::Count {
                    announced: 2,
                    found: 1,
                },
            ),
            (b"\xff", EpochCacheError::NotText),
            (
                b"0\n1\n0 x\n",
                EpochCacheError::Line {
                    number: 3,
                    text: "0 x".into(),
                },
            ),
            (
                b"0\n1\n0 0 0\n",
                EpochCacheError::Line {
                    number: 3,
                    text: "0 0 0".into(),
                },
            ),
            (
                b"0\n99999999999999999999999\n",
                EpochCacheError::Line {
                    number: 2,
                    text: "99999999999999999999999".into(),
                },
            ),
        ] {
            assert_eq!(EpochCache::decode(text), Err(error));
        }
    }
}
