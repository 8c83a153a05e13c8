//! Transactions as a pass over the log from its beginning meets them: which batches were aborted, and which
//! markers no longer end anything.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::base::{Offset, ProducerId};
use crate::records::control::{EndTxnMarker, TxnOutcome};
use crate::records::{BatchHeader, RecordError};
use crate::storage::txn_index::AbortedTxn;

/// The transactions that are open where the pass is.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    /// Producers with a batch since their last marker that belongs to no aborted transaction.
    committing: BTreeSet<ProducerId>,
    /// Whether a batch of it was met.
    aborting: BTreeMap<ProducerId, (AbortedTxn, bool)>,
    /// Aborted transactions that begin further on, by their first offset.
    ahead: BinaryHeap<Reverse<ByFirst>>,
    /// Of aborted transactions whose marker was met and has to stay.
    index: Vec<AbortedTxn>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ByFirst {
    first_offset: i64,
    last_offset: i64,
    producer_id: i64,
    last_stable_offset: i64,
}

impl Transactions {
    /// Adds the aborted transactions that touch a segment, before its first batch. Those that reach over
    /// several segments may come with each of them.
    pub(super) fn add_aborted(&mut self, aborted: &[AbortedTxn]) {
        self.ahead.extend(aborted.iter().map(|txn| {
            Reverse(ByFirst {
                first_offset: txn.first_offset.0,
                last_offset: txn.last_offset.0,
                producer_id: txn.producer_id.0,
                last_stable_offset: txn.last_stable_offset.0,
            })
        }));
    }

    /// A batch of data. Returns whether its transaction was aborted: nobody may see its records.
    pub(super) fn on_batch(&mut self, header: &BatchHeader) -> bool {
        self.begin_up_to(header.last_offset().0);
        if !header.is_transactional() {
            return false;
        }
        match self.aborting.get_mut(&header.producer_id) {
            Some((_, met)) => {
                *met = true;
                true
            }
            None => {
                self.committing.insert(header.producer_id);
                false
            }
        }
    }

    /// A control batch. Returns whether it is the marker of a transaction of which nothing was left, so that
    /// it may go in time.
    pub(super) fn on_control(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
    ) -> Result<bool, RecordError> {
        self.begin_up_to(header.last_offset().0);
        if header.records_count == 0 {
            // It was emptied before.
            return Ok(true);
        }
        let Some(marker) = EndTxnMarker::of_batch(header, batch)? else {
            return Ok(false);
        };
        Ok(match marker.outcome {
            TxnOutcome::Abort => match self.aborting.remove(&header.producer_id) {
                Some((txn, true)) => {
                    self.index.push(txn);
                    false
                }
                _ => true,
            },
            TxnOutcome::Commit => !self.committing.remove(&header.producer_id),
        })
    }

    /// The index entries of the markers that were met since the last call and stay.
    pub(super) fn take_index(&mut self) -> Vec<AbortedTxn> {
        std::mem::take(&mut self.index)
    }

    fn begin_up_to(&mut self, offset: i64) {
        while let Some(Reverse(next)) = self.ahead.peek()
            && next.first_offset <= offset
        {
            let txn = AbortedTxn {
                producer_id: ProducerId(next.producer_id),
                first_offset: Offset(next.first_offset),
                last_offset: Offset(next.last_offset),
                last_stable_offset: Offset(next.last_stable_offset),
            };
            self.ahead.pop();
            // One that reaches over several segments came more than once.
            self.aborting.entry(txn.producer_id).or_insert((txn, false));
        }
    }
}
