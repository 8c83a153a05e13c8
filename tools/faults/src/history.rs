//! What a log was told to hold, and what may be missing of it.
//!
//! A batch is in one of three lists: acknowledged ([`History::batches`]), staged without an answer
//! ([`History::maybe`]), or cut off by a truncation that is not on the device yet ([`History::ghosts`]).

use std::collections::{BTreeMap, BTreeSet};

use ringspun::base::{Offset, ProducerId};
use ringspun::records::BatchHeader;
use ringspun::records::control::{EndTxnMarker, TxnOutcome};
use ringspun::storage::producer_state::ProducerState;

/// `producer.id.expiration.ms`: nobody is forgotten.
pub const PRODUCER_EXPIRATION_MS: i64 = 1 << 50;

/// One record. A tombstone has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub offset: i64,
    pub key: u8,
    pub value: Option<u32>,
    pub timestamp: i64,
}

/// What readers of committed records make of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Visible,
    Undecided,
    Aborted,
}

/// A batch with its place.
#[derive(Clone, Debug)]
pub struct Batch {
    pub header: BatchHeader,
    pub marker: Option<EndTxnMarker>,
    /// Of data; a marker has none.
    pub records: Vec<Record>,
    pub appended_at: i64,
    pub fate: Fate,
    /// Retention had taken it, and a power cut brought back what lies before it.
    pub is_gone: bool,
}

impl Batch {
    pub fn base(&self) -> i64 {
        self.header.base_offset.0
    }

    pub fn last(&self) -> i64 {
        self.header.last_offset().0
    }

    /// Whether `header` is that of this batch, or of what the cleaner left of it.
    pub fn is(&self, header: &BatchHeader) -> bool {
        let of = |h: &BatchHeader| {
            (
                (h.base_offset, h.last_offset(), h.partition_leader_epoch),
                (h.producer_id, h.producer_epoch, h.base_sequence),
                (h.is_transactional(), h.is_control()),
            )
        };
        of(&self.header) == of(header)
    }
}

/// How the log came to be as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum After {
    Running,
    Kill,
    Power,
}

/// The history of one log.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub batches: Vec<Batch>,
    pub maybe: Vec<Batch>,
    pub ghosts: Vec<Batch>,
    /// A truncation has not come to its end.
    pub is_truncating: bool,
    /// It is one that empties the log: what came before may be there in part.
    pub is_emptying: bool,
    pub start: i64,
    /// The highest start that readers were ever told.
    pub start_ever: i64,
    /// As of the checkpoint of log start offsets.
    pub start_floor: i64,
    pub end: i64,
    /// All below was said to survive a power cut.
    pub flushed: i64,
    /// The folder's `partition.metadata` is on the device.
    pub has_metadata: bool,
    pub is_compacted: bool,
    pub delete_retention_ms: i64,
    /// Only below may anything have been cleaned.
    pub cleaned_limit: i64,
    /// What was decided below was relied upon by a cleaning.
    pub decided_limit: i64,
}

impl History {
    /// Readers are told that the log starts here.
    pub fn start_at(&mut self, start: i64) {
        self.start = start;
        self.start_ever = self.start_ever.max(start);
    }

    /// An empty log that begins at `start`.
    pub fn begin_at(&mut self, start: i64) {
        *self = Self {
            start,
            start_floor: self.start_floor,
            start_ever: self.start_ever.max(start),
            end: start,
            flushed: start,
            is_compacted: self.is_compacted,
            delete_retention_ms: self.delete_retention_ms,
            ..Self::default()
        };
    }

    /// All that is staged was written.
    pub fn acknowledge(&mut self) {
        self.end = self.maybe.last().map_or(self.end, |b| b.last() + 1);
        self.batches.append(&mut self.maybe);
        self.decide();
    }

    /// The log is about to be cut to `to`: a batch across it goes as a whole. Returns what is cut off, and what was
    /// staged.
    pub fn begin_truncation(&mut self, to: i64) -> Vec<Batch> {
        let at = self.batches.partition_point(|b| b.last() < to);
        let mut cut: Vec<Batch> = self.batches.drain(at..).collect();
        cut.append(&mut self.maybe);
        self.ghosts.extend(cut.iter().cloned());
        // Where nothing lies before, the log may end lower.
        self.end = self.batches.last().map_or(to, |b| b.last() + 1).min(to);
        self.flushed = self.flushed.min(self.end);
        self.start = self.start.min(to);
        self.is_truncating = true;
        self.decide();
        cut
    }

    /// The log is about to be emptied, and to begin at `at`. Returns what goes.
    pub fn begin_emptying(&mut self, at: i64) -> Vec<Batch> {
        let mut gone = std::mem::take(&mut self.batches);
        gone.append(&mut self.maybe);
        self.ghosts.extend(gone.iter().cloned());
        self.end = at;
        self.flushed = self.flushed.min(at);
        self.start_at(at);
        self.is_truncating = true;
        self.is_emptying = true;
        gone
    }

    /// It begins at `at`, and nothing of what was there comes back.
    pub fn end_emptying(&mut self, at: i64) {
        self.end = at;
        self.start_at(at);
        if self.has_metadata {
            self.flushed = at;
        }
        self.ghosts.clear();
        self.is_truncating = false;
        self.is_emptying = false;
        self.cleaned_limit = self.cleaned_limit.min(at);
        self.decided_limit = at;
        self.decide();
    }

    /// Whether a truncation has not come to its end that empties the log: one that is to, or one below all that retention
    /// has left. A crash in the middle leaves the end of what there was, or nothing; below where the log ever began
    /// nobody is owed anything.
    pub fn is_half_emptied(&self) -> bool {
        self.is_truncating && (self.is_emptying || self.end <= self.start_ever)
    }

    /// All below `offset` survives a power cut. `is_all`: so do the cuts.
    pub fn flushed_to(&mut self, offset: i64, is_all: bool) {
        self.flushed = self.flushed.max(offset.min(self.end));
        self.has_metadata = true;
        if is_all && !self.is_truncating {
            self.ghosts.clear();
        }
    }

    /// Works out what became of every transaction.
    pub fn decide(&mut self) {
        let mut open: BTreeMap<ProducerId, Vec<usize>> = BTreeMap::new();
        let mut fates = Vec::with_capacity(self.batches.len());
        for (i, batch) in self.batches.iter().enumerate() {
            let producer = batch.header.producer_id;
            let mut fate = Fate::Visible;
            if let Some(marker) = &batch.marker {
                for of_txn in open.remove(&producer).unwrap_or_default() {
                    fates[of_txn] = match marker.outcome {
                        TxnOutcome::Commit => Fate::Visible,
                        TxnOutcome::Abort => Fate::Aborted,
                    };
                }
            } else if batch.header.is_transactional() {
                open.entry(producer).or_default().push(i);
                fate = Fate::Undecided;
            }
            fates.push(fate);
        }
        for (batch, fate) in self.batches.iter_mut().zip(fates) {
            batch.fate = fate;
        }
    }

    /// The producers after the whole history; without what is gone, if that is to be left out.
    pub fn producers(&self, with_gone: bool) -> ProducerState {
        let mut state = ProducerState::new(PRODUCER_EXPIRATION_MS, Offset(0));
        for batch in self.batches.iter().filter(|b| with_gone || !b.is_gone) {
            state.update(&batch.header, batch.marker.as_ref());
        }
        state
    }

    /// The lowest offset of a transaction that is open, of those with a batch at or above `from`.
    pub fn first_undecided(&self, from: i64) -> Option<i64> {
        let open = |b: &&Batch| b.fate == Fate::Undecided && !b.is_gone;
        let seen: BTreeSet<ProducerId> = self
            .batches
            .iter()
            .filter(open)
            .filter(|b| b.last() >= from)
            .map(|b| b.header.producer_id)
            .collect();
        self.batches
            .iter()
            .filter(open)
            .find(|b| seen.contains(&b.header.producer_id))
            .map(Batch::base)
    }

    /// The batches that may be found in the log.
    pub fn candidates(&self, after: After) -> impl Iterator<Item = &Batch> {
        let with_maybe = after != After::Running;
        let with_ghosts = after == After::Power || (after == After::Kill && self.is_truncating);
        self.batches
            .iter()
            .filter(|b| !b.is_gone)
            .chain(self.maybe.iter().filter(move |_| with_maybe))
            .chain(self.ghosts.iter().filter(move |_| with_ghosts))
    }

    /// The offsets of visible records of each key that may have taken the place of older ones, ascending.
    pub fn superseding(&self) -> BTreeMap<u8, Vec<i64>> {
        let mut of_key: BTreeMap<u8, Vec<i64>> = BTreeMap::new();
        let visible = self.batches.iter().filter(|b| b.fate == Fate::Visible);
        for record in visible.flat_map(|b| &b.records) {
            if record.offset < self.cleaned_limit {
                of_key.entry(record.key).or_default().push(record.offset);
            }
        }
        of_key
    }
}
