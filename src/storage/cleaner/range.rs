//! Which part of a log is to be cleaned, and whether it is due. Pure.
//!
//! ```text
//! first segment  first dirty       first uncleanable   active segment
//!     |  cleaned before  |  cleaned now  |  too young, or undecided  |
//! ```
//!
//! All segments before the first uncleanable one are written anew; the keys are those of the dirty part.

use crate::base::settings::LogSettings;
use crate::base::{Offset, Timestamp};

/// What is known of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) base_offset: i64,
    pub(super) size: u64,
    pub(super) largest_timestamp: i64,
    /// Largest timestamp of its first batch, where it was looked at.
    pub(super) first_timestamp: Option<i64>,
}

/// What can be cleaned of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleanable {
    pub first_dirty: Offset,
    /// Base offset of the segment at which cleaning ends.
    pub first_uncleanable: Offset,
    pub clean_bytes: u64,
    /// Dirty bytes.
    pub cleanable_bytes: u64,
    /// Milliseconds by which the oldest dirty record has passed `max.compaction.lag.ms`.
    pub overdue_ms: u64,
    /// How often the log had been cut by then: after another cut all of this is void.
    pub(super) truncations: u64,
}

impl Cleanable {
    /// Dirty bytes of all that would be written anew, 0 to 1.
    pub fn ratio(&self) -> f64 {
        let total = self.clean_bytes + self.cleanable_bytes;
        if total == 0 {
            return 0.0;
        }
        self.cleanable_bytes as f64 / total as f64
    }

    /// Whether `min.cleanable.dirty.ratio` or `max.compaction.lag.ms` asks for it.
    pub fn is_due(&self, settings: &LogSettings) -> bool {
        self.cleanable_bytes > 0
            && (self.overdue_ms > 0 || self.ratio() > settings.min_cleanable_dirty_ratio)
    }
}

/// The bounds of a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Of the oldest segment. The log start offset may lie behind it, but a power cut takes it back to its last
    /// checkpoint: of keys that were not looked at below, a tombstone could go and an older value come to light.
    pub(super) first_offset: i64,
    pub(super) log_end_offset: i64,
    pub(super) last_stable_offset: i64,
    /// Where cleaning ended the last time.
    pub(super) cleaned_to: Option<i64>,
}

impl Bounds {
    /// A checkpoint that does not lie within the log says nothing.
    pub(super) fn first_dirty(&self) -> i64 {
        self.cleaned_to
            .filter(|at| (self.first_offset..=self.log_end_offset).contains(at))
            .unwrap_or(self.first_offset)
    }
}

/// The segment that has or would have `offset`.
pub(super) fn floor(pieces: &[Piece], offset: i64) -> usize {
    pieces
        .partition_point(|piece| piece.base_offset <= offset)
        .saturating_sub(1)
}

/// What can be cleaned of the segments `pieces`, of which the last is the active one.
pub(super) fn cleanable(
    pieces: &[Piece],
    bounds: Bounds,
    settings: &LogSettings,
    now: Timestamp,
) -> Cleanable {
    let Some(active) = pieces.len().checked_sub(1) else {
        return Cleanable::default();
    };
    let first_dirty = bounds.first_dirty();
    let dirty = floor(pieces, first_dirty).min(active);
    let mut limit = bounds.last_stable_offset.min(pieces[active].base_offset);
    let min_lag_ms = i64::try_from(settings.min_compaction_lag_ms).unwrap_or(i64::MAX);
    let young = |piece: &&Piece| piece.largest_timestamp > now.0.saturating_sub(min_lag_ms);
    if min_lag_ms > 0
        && let Some(young) = pieces[dirty..active].iter().find(young)
    {
        limit = limit.min(young.base_offset);
    }
    let end = floor(pieces, limit.max(first_dirty)).min(active);
    let bytes = |range: &[Piece]| range.iter().map(|piece| piece.size).sum();
    let before = pieces.partition_point(|piece| piece.base_offset < first_dirty);
    let oldest = pieces[dirty..active]
        .iter()
        .filter_map(|piece| piece.first_timestamp)
        .filter(|at| *at > 0)
        .min();
    let max_lag_ms = i64::try_from(settings.max_compaction_lag_ms).unwrap_or(i64::MAX);
    let due_before = now.0.saturating_sub(max_lag_ms);
    let overdue = oldest.map_or(0, |oldest| due_before.saturating_sub(oldest));
    Cleanable {
        first_dirty: Offset(first_dirty),
        first_uncleanable: Offset(pieces[end].base_offset),
        clean_bytes: bytes(&pieces[..before.min(end)]),
        cleanable_bytes: bytes(&pieces[dirty.min(end)..end]),
        overdue_ms: u64::try_from(overdue).unwrap_or(0),
        truncations: 0,
    }
}

/// A segment that is to be written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) base_offset: i64,
    /// Base offset of the segment behind it.
    pub(super) end: i64,
    pub(super) size: u32,
    pub(super) index_bytes: u64,
    pub(super) time_index_bytes: u64,
}

/// Parts `sources` into groups that together fit into one segment each.
pub(super) fn groups(sources: &[Source], settings: &LogSettings) -> Vec<Vec<Source>> {
    let index_limit = u64::from(settings.segment_index_bytes);
    let mut groups: Vec<Vec<Source>> = Vec::new();
    let (mut size, mut index, mut time_index) = (0u64, 0u64, 0u64);
    for source in sources {
        let fits = |group: &Vec<Source>| {
            size + u64::from(source.size) <= u64::from(settings.segment_bytes)
                && index + source.index_bytes <= index_limit
                && time_index + source.time_index_bytes <= index_limit
                && (source.size == 0
                    || source.end - 1 - group[0].base_offset <= i64::from(i32::MAX))
        };
        match groups.last_mut() {
            Some(group) if fits(group) => group.push(*source),
            _ => {
                (size, index, time_index) = (0, 0, 0);
                groups.push(vec![*source]);
            }
        }
        size += u64::from(source.size);
        index += source.index_bytes;
        time_index += source.time_index_bytes;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::settings::NodeSettings;

    const NOW: i64 = 1_000_000;

    fn settings(min_lag_ms: u64, max_lag_ms: u64) -> LogSettings {
        let mut settings = NodeSettings::defaults().log_defaults.clone();
        settings.min_compaction_lag_ms = min_lag_ms;
        settings.max_compaction_lag_ms = max_lag_ms;
        settings
    }

    /// Segments of 100 offsets and bytes, a second apart; the last is active.
    fn pieces(count: i64) -> Vec<Piece> {
        (0..count)
            .map(|n| Piece {
                base_offset: n * 100,
                size: 100,
                largest_timestamp: NOW - (count - n) * 1000,
                first_timestamp: Some(NOW - (count - n) * 1000 - 10),
            })
            .collect()
    }

    fn bounds(cleaned_to: Option<i64>, last_stable_offset: i64) -> Bounds {
        Bounds {
            first_offset: 0,
            log_end_offset: 500,
            last_stable_offset,
            cleaned_to,
        }
    }

    fn found(bounds: Bounds, settings: &LogSettings) -> (i64, i64, u64, u64) {
        let found = cleanable(&pieces(5), bounds, settings, Timestamp(NOW));
        (
            found.first_dirty.0,
            found.first_uncleanable.0,
            found.clean_bytes,
            found.cleanable_bytes,
        )
    }

    #[test]
    fn everything_before_the_active_segment_is_cleaned_as_far_as_it_is_decided() {
        let none = settings(0, u64::MAX);
        assert_eq!(found(bounds(None, 500), &none), (0, 400, 0, 400));
        assert_eq!(found(bounds(Some(200), 500), &none), (200, 400, 200, 200));
        // The last stable offset lies within a segment: that one is left.
        assert_eq!(found(bounds(Some(200), 350), &none), (200, 300, 200, 100));
        assert_eq!(found(bounds(Some(200), 150), &none), (200, 200, 200, 0));
        assert_eq!(found(bounds(Some(400), 500), &none), (400, 400, 400, 0));
        // Beyond the log: the checkpoint says nothing.
        assert_eq!(found(bounds(Some(501), 500), &none), (0, 400, 0, 400));
    }

    #[test]
    fn what_is_too_young_is_left_and_what_is_too_old_is_due() {
        let young = settings(2500, u64::MAX);
        assert_eq!(found(bounds(Some(100), 500), &young), (100, 300, 100, 200));
        let old = settings(0, 4000);
        let lag = |cleaned_to| {
            let found = cleanable(&pieces(5), bounds(cleaned_to, 500), &old, Timestamp(NOW));
            (found.overdue_ms, found.is_due(&old))
        };
        assert_eq!(lag(Some(100)), (10, true));
        assert_eq!(lag(Some(200)).0, 0);
    }

    #[test]
    fn a_log_is_due_above_its_ratio_of_dirty_bytes() {
        let mut settings = settings(0, u64::MAX);
        let due = |settings: &LogSettings, cleaned_to| {
            cleanable(
                &pieces(5),
                bounds(cleaned_to, 500),
                settings,
                Timestamp(NOW),
            )
            .is_due(settings)
        };
        assert!(!due(&settings, Some(200)));
        assert!(due(&settings, Some(100)));
        settings.min_cleanable_dirty_ratio = 0.0;
        assert!(due(&settings, Some(300)));
        assert!(!due(&settings, Some(400)));
    }

    #[test]
    fn small_segments_are_merged_as_far_as_they_fit() {
        let source = |base_offset: i64, end, size| Source {
            base_offset,
            end,
            size,
            index_bytes: 8,
            time_index_bytes: 12,
        };
        let mut settings = settings(0, u64::MAX);
        settings.segment_bytes = 100;
        let far = 1 << 40;
        let sources = [
            source(0, 10, 60),
            source(10, 20, 40),
            source(20, 30, 1),
            source(30, far, 0),
            source(far, far + 10, 5),
            source(far + 10, far + 20, 96),
        ];
        let bases = |settings: &LogSettings| -> Vec<Vec<i64>> {
            groups(&sources, settings)
                .iter()
                .map(|group| group.iter().map(|source| source.base_offset).collect())
                .collect()
        };
        assert_eq!(
            bases(&settings),
            [vec![0, 10], vec![20, 30], vec![far], vec![far + 10]]
        );
        settings.segment_index_bytes = 8;
        assert_eq!(bases(&settings).len(), 6);
    }
}
