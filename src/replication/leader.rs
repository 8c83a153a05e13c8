//! The leader's view of one partition: replicas, in-sync replicas, high watermark (KIP-16, KIP-101).
//!
//! Invariants: the high watermark never moves back while this leader leads, and never lies beyond the
//! leader's own end. The leader's own end counts as a replica's: it is the end of what is written, or,
//! where an fsync comes before the acknowledgement, the end of what is synced, so that nothing is
//! visible which a power cut could take back.

use std::collections::BTreeMap;

use crate::base::{BrokerId, LeaderEpoch, Offset, Timestamp};

/// Fewer in-sync replicas than `min.insync.replicas` asks for; nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{in_sync} in-sync replicas where min.insync.replicas is {required}")]
pub struct NotEnoughReplicas {
    pub in_sync: usize,
    pub required: usize,
}

#[derive(Clone, Copy, Debug)]
struct Follower {
    in_sync: bool,
    log_end_offset: Offset,
    /// The last time this follower stood at the leader's end.
    caught_up_at: Timestamp,
}

/// What the leader of one partition knows. One a partition, on the shard that owns it.
#[derive(Debug)]
pub struct LeaderState {
    broker_id: BrokerId,
    leader_epoch: LeaderEpoch,
    local_end: Offset,
    high_watermark: Offset,
    followers: BTreeMap<BrokerId, Follower>,
}

impl LeaderState {
    /// Begins to lead at `leader_epoch` with a log that ends at `local_end`.
    ///
    /// `high_watermark` is the last one known (from the checkpoint); it is capped at `local_end`.
    /// Replicas in `isr` count from now on, those that are not have to catch up first.
    pub fn new(
        broker_id: BrokerId,
        leader_epoch: LeaderEpoch,
        replicas: &[BrokerId],
        isr: &[BrokerId],
        local_end: Offset,
        high_watermark: Offset,
        now: Timestamp,
    ) -> Self {
        let followers = replicas
            .iter()
            .filter(|&&id| id != broker_id)
            .map(|&id| {
                let follower = Follower {
                    in_sync: isr.contains(&id),
                    log_end_offset: Offset(0),
                    caught_up_at: now,
                };
                (id, follower)
            })
            .collect();
        let mut state = Self {
            broker_id,
            leader_epoch,
            local_end,
            high_watermark: high_watermark.min(local_end),
            followers,
        };
        state.advance_high_watermark();
        state
    }

    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// The end of the leader's own log, as far as it counts.
    pub fn local_end(&self) -> Offset {
        self.local_end
    }

    /// One past the last record that every in-sync replica has.
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The in-sync replicas, in the order of their ids.
    pub fn isr(&self) -> Vec<BrokerId> {
        let mut isr: Vec<BrokerId> = self
            .followers
            .iter()
            .filter(|(_, follower)| follower.in_sync)
            .map(|(&id, _)| id)
            .collect();
        isr.push(self.broker_id);
        isr.sort_unstable();
        isr
    }

    /// Whether a produce with `acks=all` may be appended.
    ///
    /// `min_insync_replicas` is capped at the number of replicas, as in Kafka 4.3: a topic of one
    /// replica never refuses.
    pub fn check_min_isr(&self, min_insync_replicas: u32) -> Result<(), NotEnoughReplicas> {
        let replicas = self.followers.len() + 1;
        let required = usize::try_from(min_insync_replicas).map_or(replicas, |n| n.min(replicas));
        let in_sync = 1 + self.followers.values().filter(|f| f.in_sync).count();
        if in_sync < required {
            return Err(NotEnoughReplicas { in_sync, required });
        }
        Ok(())
    }

    /// The leader's own log now counts up to `end`. Returns the new high watermark if it moved.
    ///
    /// Panics if `end` moves back: a leader does not truncate.
    pub fn local_end_advanced(&mut self, end: Offset) -> Option<Offset> {
        assert!(end >= self.local_end);
        self.local_end = end;
        self.advance_high_watermark()
    }

    /// A follower asked for `fetch_offset`: it has everything before. Returns the new high watermark
    /// if it moved.
    ///
    /// An offset beyond the leader's end is taken as the end; a broker that is no replica is ignored.
    pub fn follower_fetched(
        &mut self,
        follower: BrokerId,
        fetch_offset: Offset,
        now: Timestamp,
    ) -> Option<Offset> {
        let local_end = self.local_end;
        let high_watermark = self.high_watermark;
        let follower = self.followers.get_mut(&follower)?;
        follower.log_end_offset = fetch_offset.min(local_end);
        if follower.log_end_offset >= local_end {
            follower.caught_up_at = now;
        }
        if !follower.in_sync && follower.log_end_offset >= high_watermark {
            follower.in_sync = true;
        }
        self.advance_high_watermark()
    }

    /// Drops from the ISR each follower that has not stood at the leader's end for
    /// `replica_lag_time_max_ms` (KIP-16). Returns whether the ISR shrank, and the new high watermark
    /// if it moved.
    pub fn tick(&mut self, now: Timestamp, replica_lag_time_max_ms: i64) -> (bool, Option<Offset>) {
        let mut shrank = false;
        for follower in self.followers.values_mut().filter(|f| f.in_sync) {
            let behind = follower.log_end_offset < self.local_end;
            if behind && now.0 - follower.caught_up_at.0 > replica_lag_time_max_ms {
                follower.in_sync = false;
                shrank = true;
            }
        }
        (shrank, self.advance_high_watermark())
    }

    fn advance_high_watermark(&mut self) -> Option<Offset> {
        let smallest = self
            .followers
            .values()
            .filter(|f| f.in_sync)
            .map(|f| f.log_end_offset)
            .fold(self.local_end, Offset::min);
        if smallest <= self.high_watermark {
            return None;
        }
        self.high_watermark = smallest;
        assert!(self.high_watermark <= self.local_end);
        Some(smallest)
    }
}

#[cfg(test)]
mod tests {
    //! Runs `tests/scenarios/replication/*.txt`. A line is a step, what follows `->` is what must hold
    //! after it, as words in pairs; `#` begins a comment.

    use super::*;

    fn ids(text: &str) -> Vec<BrokerId> {
        text.split(',')
            .map(|n| BrokerId(n.parse().unwrap()))
            .collect()
    }

    fn run(name: &str, text: &str) {
        let mut now = Timestamp(0);
        let mut state: Option<LeaderState> = None;
        let mut min_isr = 1;
        let mut end = Offset(0);
        let mut refused = false;
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or("").trim();
            if line.is_empty() {
                continue;
            }
            let (step, expected) = line.split_once("->").unwrap_or((line, ""));
            let words: Vec<&str> = step.split_whitespace().collect();
            let arg = |name: &str| -> i64 {
                let prefix = format!("{name}=");
                let word = words.iter().find_map(|w| w.strip_prefix(prefix.as_str()));
                word.unwrap_or_else(|| panic!("{name}= missing in {line}"))
                    .parse()
                    .unwrap()
            };
            refused = refused && words[0] != "produce";
            match words[0] {
                // replicas 1,2,3 isr 1,2 min 2: broker 1 leads
                "replicas" => {
                    min_isr = words[5].parse().unwrap();
                    state = Some(LeaderState::new(
                        BrokerId(1),
                        LeaderEpoch(0),
                        &ids(words[1]),
                        &ids(words[3]),
                        Offset(0),
                        Offset(0),
                        now,
                    ));
                }
                "produce" => {
                    let state = state.as_mut().unwrap();
                    match state.check_min_isr(min_isr) {
                        Ok(()) => {
                            end = end.plus(arg("records"));
                            state.local_end_advanced(end);
                        }
                        Err(_) => refused = true,
                    }
                }
                "fetch" => {
                    let (id, offset) = (arg("follower"), arg("offset"));
                    let state = state.as_mut().unwrap();
                    state.follower_fetched(BrokerId(id as i32), Offset(offset), now);
                }
                "tick" => {
                    let ms: i64 = words[1].strip_suffix("ms").unwrap().parse().unwrap();
                    now = Timestamp(now.0 + ms);
                    state.as_mut().unwrap().tick(now, 30_000);
                }
                other => panic!("{name}:{}: no step {other}", number + 1),
            }
            let state = state.as_ref().unwrap();
            let mut expected = expected.split_whitespace();
            while let Some(what) = expected.next() {
                let holds = match what {
                    "NOT_ENOUGH_REPLICAS" => refused,
                    "accepted" => !refused,
                    "high_watermark" => {
                        state.high_watermark().to_string() == expected.next().unwrap()
                    }
                    "isr" => state.isr() == ids(expected.next().unwrap()),
                    other => panic!("{name}:{}: no check {other}", number + 1),
                };
                assert!(holds, "{name}:{}: {line}\nis {state:?}", number + 1);
            }
        }
    }

    #[test]
    fn scenarios() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios/replication");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            run(
                &path.display().to_string(),
                &std::fs::read_to_string(&path).unwrap(),
            );
            count += 1;
        }
        assert!(count > 0);
    }
}
