//! Whether what is read back is what was acknowledged: every record once, unaltered, where the broker said.
//!
//! Records are taken in *groups* (see [`content`](crate::content)): whoever keeps them in other batches than
//! they came in is judged by the same rule.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::content::{BatchId, BatchView, RecordDigest, Stamp, records};
use crate::sample::Acked;

/// Problems told one by one; more are only counted.
const MAX_PROBLEMS: usize = 10;

/// What reading back came to, in records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Acknowledged, and not deleted by retention since.
    pub expected: u64,
    /// Of these, those that were there unaltered.
    pub found: u64,
    pub lost: u64,
    pub doubled: u64,
    pub altered: u64,
}

impl Verdict {
    pub fn holds(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.altered == 0
    }
}

struct Expected {
    acked: Acked,
    seen: bool,
}

/// A group that is being read.
struct Group {
    id: BatchId,
    base_offset: i64,
    records: u32,
    digest: RecordDigest,
}

pub struct Checker {
    expected: HashMap<BatchId, Expected>,
    /// Sent and not acknowledged: may be there once.
    uncertain: HashSet<BatchId>,
    open: HashMap<u32, Group>,
    doubled: u64,
    altered: u64,
    found: u64,
    lost: u64,
    problems: Vec<String>,
    name: Box<dyn Fn(u32) -> String + Send>,
}

impl Checker {
    /// `name` says how a partition is called.
    pub fn new(
        acked: Vec<Acked>,
        uncertain: Vec<BatchId>,
        name: impl Fn(u32) -> String + Send + 'static,
    ) -> Checker {
        Checker {
            expected: acked
                .into_iter()
                .map(|acked| (acked.id, Expected { acked, seen: false }))
                .collect(),
            uncertain: uncertain.into_iter().collect(),
            open: HashMap::new(),
            doubled: 0,
            altered: 0,
            found: 0,
            lost: 0,
            problems: Vec::new(),
            name: Box::new(name),
        }
    }

    fn problem(&mut self, text: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(text);
        }
    }

    /// A batch that could not even be decompressed.
    pub fn broken(&mut self, records: u64, why: &str) {
        self.altered += records.max(1);
        self.problem(format!("a batch cannot be read: {why}"));
    }

    /// A batch of this partition, in the order of offsets; `body` are its records, decompressed.
    pub fn batch(&mut self, partition: u32, view: BatchView, crc_holds: bool, body: &[u8]) {
        if view.attributes & 0x20 != 0 {
            return; // a control batch
        }
        if !crc_holds {
            self.broken(view.records as u64, "its checksum is wrong");
            return;
        }
        for record in records(body) {
            let Some(record) = record else {
                self.broken(1, "a record's lengths make no sense");
                return;
            };
            let checksum = crc32c::crc32c(record.digested);
            if let Stamp::Head { id, .. } = Stamp::of(record.value) {
                self.close(partition);
                let group = Group {
                    id,
                    base_offset: view.base_offset + record.offset_delta,
                    records: 0,
                    digest: RecordDigest::default(),
                };
                self.open.insert(partition, group);
            }
            match self.open.get_mut(&partition) {
                Some(group) => {
                    group.digest.add(group.records, checksum);
                    group.records += 1;
                }
                None => {
                    // Retention may have cut a group in two; else the head is lost, which is found below.
                    if record.offset_delta == 0 && view.base_offset == 0 {
                        self.altered += 1;
                        let name = (self.name)(partition);
                        self.problem(format!("{name} begins with a record that is not ours"));
                    }
                }
            }
        }
    }

    fn close(&mut self, partition: u32) {
        let Some(group) = self.open.remove(&partition) else {
            return;
        };
        let records = u64::from(group.records);
        let place = |it: &Checker| format!("{} offset {}", (it.name)(partition), group.base_offset);
        let Some(expected) = self.expected.get_mut(&group.id) else {
            if !self.uncertain.remove(&group.id) {
                self.altered += records;
                let place = place(self);
                self.problem(format!("{place}: {records} records that were never sent"));
            }
            return;
        };
        if expected.seen {
            self.doubled += records;
            let place = place(self);
            self.problem(format!("{place}: {records} records for the second time"));
            return;
        }
        expected.seen = true;
        let acked = expected.acked;
        if acked.partition != partition {
            self.altered += records;
            let place = place(self);
            let other = (self.name)(acked.partition);
            self.problem(format!("{place}: {records} records that belong to {other}"));
        } else if group.records != acked.records {
            let kept = group.records.min(acked.records);
            self.found += u64::from(kept);
            self.lost += u64::from(acked.records - kept);
            self.doubled += u64::from(group.records - kept);
            let place = place(self);
            let sent = acked.records;
            self.problem(format!(
                "{place}: {records} records where {sent} were acknowledged"
            ));
        } else if group.digest != acked.digest {
            self.altered += records;
            let place = place(self);
            self.problem(format!("{place}: {records} records with other contents"));
        } else {
            self.found += records;
            if acked.base_offset >= 0 && acked.base_offset != group.base_offset {
                self.altered += records;
                self.found -= records;
                let place = place(self);
                let said = acked.base_offset;
                self.problem(format!("{place}: records acknowledged with offset {said}"));
            }
        }
    }

    /// The verdict, when everything was read; what lies before the beginnings of the logs is not expected.
    pub fn finish(mut self, log_start: impl Fn(u32) -> i64) -> (Verdict, Vec<String>) {
        let open: Vec<u32> = self.open.keys().copied().collect();
        for partition in open {
            self.close(partition);
        }
        let mut expected = 0;
        let mut missing: HashMap<u32, u64> = HashMap::new();
        for Expected { acked, seen } in self.expected.values() {
            let records = u64::from(acked.records);
            let end = acked.base_offset.saturating_add(acked.records.into());
            let kept = acked.base_offset < 0 || acked.base_offset >= log_start(acked.partition);
            if *seen {
                expected += records;
            } else if kept {
                expected += records;
                *missing.entry(acked.partition).or_default() += records;
            } else if end > log_start(acked.partition) {
                // Cut by retention in its middle: neither expected nor lost.
            }
        }
        let mut missing: Vec<(u32, u64)> = missing.into_iter().collect();
        missing.sort_unstable();
        for (partition, records) in missing {
            self.lost += records;
            let name = (self.name)(partition);
            self.problem(format!(
                "{name}: {records} acknowledged records are not there"
            ));
        }
        let verdict = Verdict {
            expected,
            found: self.found,
            lost: self.lost,
            doubled: self.doubled,
            altered: self.altered,
        };
        (verdict, self.problems)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::codec::Codec;
    use crate::content::{BATCH_HEADER, BatchHeader, Filler, Template, Times};

    fn batch(number: u64, base_offset: i64) -> (Vec<u8>, Acked) {
        let random = &mut fastrand::Rng::with_seed(1);
        let template = Rc::new(Template::new(vec![(None, 40); 3], Filler::Random, random));
        let header = BatchHeader {
            id: BatchId::new(1, number),
            timestamp_ms: 0,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
        };
        let mut bytes = Vec::new();
        let times = Times::Same(number);
        let digest =
            template.whole_batch(&mut bytes, &mut Vec::new(), &header, 3, times, Codec::None);
        bytes[..8].copy_from_slice(&base_offset.to_be_bytes());
        let acked = Acked {
            id: header.id,
            base_offset,
            partition: 0,
            records: 3,
            digest,
        };
        (bytes, acked)
    }

    fn judge(acked: Vec<Acked>, uncertain: Vec<BatchId>, there: &[Vec<u8>]) -> Verdict {
        let mut checker = Checker::new(acked, uncertain, |partition| format!("p{partition}"));
        for bytes in there {
            let view = BatchView::of(bytes).unwrap();
            checker.batch(0, view, BatchView::crc_holds(bytes), &bytes[BATCH_HEADER..]);
        }
        checker.finish(|_| 0).0
    }

    fn verdict(expected: u64, found: u64, lost: u64, doubled: u64, altered: u64) -> Verdict {
        Verdict {
            expected,
            found,
            lost,
            doubled,
            altered,
        }
    }

    #[test]
    fn what_was_acknowledged_and_is_there_holds() {
        let ((a, acked_a), (b, acked_b)) = (batch(1, 0), batch(2, 3));
        let judged = judge(vec![acked_a, acked_b], vec![], &[a, b]);
        assert_eq!(judged, verdict(6, 6, 0, 0, 0));
        assert!(judged.holds());
    }

    #[test]
    fn what_is_missing_is_lost_and_what_is_there_twice_doubled() {
        let ((a, acked_a), (_, acked_b), (again, _)) = (batch(1, 0), batch(2, 3), batch(1, 3));
        let judged = judge(vec![acked_a, acked_b], vec![], &[a, again]);
        assert_eq!(judged, verdict(6, 3, 3, 3, 0));
    }

    #[test]
    fn a_changed_byte_is_altered_with_or_without_a_right_checksum() {
        let (mut a, acked) = batch(1, 0);
        let at = a.len() - 2;
        a[at] ^= 1;
        assert_eq!(judge(vec![acked], vec![], &[a.clone()]).altered, 3);
        let crc = crc32c::crc32c(&a[21..]);
        a[17..21].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(judge(vec![acked], vec![], &[a]), verdict(3, 0, 0, 0, 3));
    }

    #[test]
    fn what_was_not_acknowledged_may_be_there_once() {
        let ((a, _), (again, _)) = (batch(1, 0), batch(1, 3));
        let id = BatchId::new(1, 1);
        assert!(judge(vec![], vec![id], std::slice::from_ref(&a)).holds());
        assert!(judge(vec![], vec![id], &[]).holds());
        assert!(!judge(vec![], vec![id], &[a, again]).holds());
    }

    #[test]
    fn an_offset_other_than_acknowledged_is_a_problem() {
        let (a, mut acked) = batch(1, 0);
        acked.base_offset = 5;
        assert!(!judge(vec![acked], vec![], &[a]).holds());
    }

    #[test]
    fn what_retention_deleted_is_not_expected() {
        let (_, acked) = batch(1, 0);
        let checker = Checker::new(vec![acked], vec![], |_| String::new());
        assert_eq!(checker.finish(|_| 3).0, verdict(0, 0, 0, 0, 0));
    }
}
