//! The end of a log as it will be when all that is staged is written: when the next segment begins, and which
//! index entries are due.

use super::index::{OffsetEntry, TimeEntry};
use crate::base::settings::LogSettings;

/// The active segment as it will be when all that is staged is written.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) base_offset: i64,
    pub(super) size: u64,
    /// When the segment was made or opened.
    pub(super) created: i64,
    /// Largest timestamp of its first batch, by which its age is judged.
    pub(super) first_timestamp: Option<i64>,
    pub(super) bytes_since_index: u64,
    pub(super) index_entries: u32,
    pub(super) time_entries: u32,
    pub(super) last_time_entry: i64,
    pub(super) max_timestamp: i64,
    pub(super) max_timestamp_offset: i64,
}

impl Head {
    pub(super) fn new(base_offset: i64, now: i64) -> Self {
        Self {
            base_offset,
            size: 0,
            created: now,
            first_timestamp: None,
            bytes_since_index: 0,
            index_entries: 0,
            time_entries: 0,
            last_time_entry: -1,
            max_timestamp: -1,
            max_timestamp_offset: -1,
        }
    }

    /// Whether the segment ends before a batch of `size` bytes. As in Kafka, the age is told by
    /// timestamps of records where there are any.
    pub(super) fn must_roll(
        &self,
        settings: &LogSettings,
        size: u64,
        last_offset: i64,
        max_timestamp: i64,
        now: i64,
    ) -> bool {
        if self.size == 0 {
            return false;
        }
        let waited = match self.first_timestamp {
            Some(first) if first >= 0 => max_timestamp.saturating_sub(first),
            _ => now.saturating_sub(self.created),
        };
        let age_limit = settings
            .roll_ms()
            .saturating_sub(jitter(settings, self.base_offset));
        self.size + size > u64::from(settings.segment_bytes)
            || waited > i64::try_from(age_limit).unwrap_or(i64::MAX)
            || self.index_entries >= settings.segment_index_bytes / 8
            // One entry is kept for the end of the segment.
            || self.time_entries + 1 >= settings.segment_index_bytes / 12
            || last_offset - self.base_offset > i64::from(i32::MAX)
    }

    /// Takes in a batch; returns the index entries that it is due.
    pub(super) fn add(
        &mut self,
        interval: u32,
        size: u64,
        last_offset: i64,
        max_timestamp: i64,
    ) -> (Option<OffsetEntry>, Option<TimeEntry>) {
        if max_timestamp > self.max_timestamp {
            self.max_timestamp = max_timestamp;
            self.max_timestamp_offset = last_offset;
        }
        self.first_timestamp.get_or_insert(max_timestamp);
        let mut entries = (None, None);
        if self.bytes_since_index > u64::from(interval) {
            entries.0 = Some(OffsetEntry {
                relative_offset: self.relative(last_offset),
                position: u32::try_from(self.size).unwrap_or(u32::MAX),
            });
            entries.1 = self.time_entry();
            self.index_entries += 1;
            self.bytes_since_index = 0;
        }
        self.bytes_since_index += size;
        self.size += size;
        entries
    }

    /// The entry that says the largest timestamp so far, unless the time index has it.
    pub(super) fn time_entry(&mut self) -> Option<TimeEntry> {
        if self.max_timestamp <= self.last_time_entry {
            return None;
        }
        self.last_time_entry = self.max_timestamp;
        self.time_entries += 1;
        Some(TimeEntry {
            timestamp: self.max_timestamp,
            relative_offset: self.relative(self.max_timestamp_offset),
        })
    }

    fn relative(&self, offset: i64) -> u32 {
        // `must_roll` keeps it below 2^31.
        u32::try_from(offset - self.base_offset).unwrap_or(u32::MAX)
    }
}

/// What is taken off `segment.ms` for the segment at `base_offset`: spread evenly, and the same each time.
fn jitter(settings: &LogSettings, base_offset: i64) -> u64 {
    let limit = settings.segment_jitter_ms.min(settings.roll_ms());
    let mixed = (base_offset as u64 ^ 0x5851_f42d_4c95_7f2d).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 16).checked_rem(limit).unwrap_or(0)
}
