//! Producers, partitions and crashes at random, by seed. What must hold whatever happens:
//! 1. a transaction that was answered as committed is committed in each of its partitions, and no other is;
//! 2. an end is one decision: no partition gets a commit and another an abort;
//! 3. once the crashes stop, every end is finished without a client;
//! 4. what a client was told is what the machine knows after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::scenarios::{Bench, Came, settings};
use super::*;

/// Deterministic: a step of an LCG, its upper bits.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % n
    }

    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// What a partition has of a producer: Kafka's rules for markers, in short.
#[derive(Default)]
struct Partition {
    epochs: BTreeMap<ProducerId, ProducerEpoch>,
    /// Epoch of the open transaction.
    open: BTreeMap<ProducerId, ProducerEpoch>,
    /// How the transaction that the producer wrote in this epoch ended.
    ended: BTreeMap<(ProducerId, ProducerEpoch), bool>,
}

impl Partition {
    fn append(&mut self, producer_id: ProducerId, epoch: ProducerEpoch) -> bool {
        if self
            .epochs
            .get(&producer_id)
            .is_some_and(|known| epoch < *known)
        {
            return false;
        }
        self.epochs.insert(producer_id, epoch);
        self.open.entry(producer_id).or_insert(epoch);
        true
    }

    fn marker(&mut self, markers: &Markers) -> MarkerResult {
        let known = self.epochs.get(&markers.producer_id).copied();
        if known.is_some_and(|known| markers.producer_epoch < known) {
            return MarkerResult::Gone;
        }
        if let Some(epoch) = self.open.remove(&markers.producer_id) {
            // With version 2 the marker is one epoch on.
            assert!(markers.client_version < 2 || markers.producer_epoch > epoch);
            let ended = self
                .ended
                .insert((markers.producer_id, epoch), markers.commit);
            assert_eq!(ended, None, "a transaction ends once for the reader");
        }
        self.epochs
            .insert(markers.producer_id, markers.producer_epoch);
        MarkerResult::Written
    }
}

#[derive(Default)]
struct Producer {
    has: Option<(ProducerId, ProducerEpoch)>,
    wrote: BTreeSet<NamedPartition>,
}

struct World {
    bench: Bench,
    random: Random,
    partitions: BTreeMap<NamedPartition, Partition>,
    producers: Vec<Producer>,
    /// Effects that were let out, and not carried out yet.
    effects: Vec<Effect>,
    /// What the client was told of the transaction it wrote in this epoch, and where it wrote.
    told: BTreeMap<(ProducerId, ProducerEpoch), (bool, BTreeSet<NamedPartition>)>,
    commits: usize,
    crashes: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut partitions = BTreeMap::new();
        for partition in 0..4 {
            let topic = Arc::from("a");
            let partition = PartitionIndex(partition);
            partitions.insert(NamedPartition { topic, partition }, Partition::default());
        }
        Self {
            bench: Bench::new(settings(
                "listeners=PLAINTEXT://127.0.0.1:0\ntransaction.max.timeout.ms=20000\n",
            )),
            random: Random(seed),
            partitions,
            producers: (0..3).map(|_| Producer::default()).collect(),
            effects: Vec::new(),
            told: BTreeMap::new(),
            commits: 0,
            crashes: 0,
        }
    }

    fn take(&mut self, came: Came) -> Option<Answer> {
        self.effects.extend(came.effects);
        came.answers.into_iter().next().map(|(_, answer)| answer)
    }

    /// Between any two steps: everything that is not on record is gone.
    fn maybe_crash(&mut self) {
        if self.random.chance(6) {
            self.crashes += 1;
            self.effects.clear();
            let came = self.bench.restart();
            self.take(came);
        }
    }

    /// Carries out one partition's part of an effect, or all, or is lost.
    fn carry_out(&mut self) {
        if self.effects.is_empty() {
            return;
        }
        let at = self.random.below(self.effects.len() as u64) as usize;
        let Effect::WriteMarkers(markers) = self.effects.remove(at) else {
            return;
        };
        let mut results = Vec::new();
        for name in &markers.partitions {
            let result = if self.random.chance(4) {
                MarkerResult::Retry
            } else {
                let partition = self.partitions.get_mut(name);
                partition.map_or(MarkerResult::Gone, |partition| partition.marker(&markers))
            };
            results.push((name.clone(), result));
        }
        // A crash here: markers are written, and nobody knows.
        let crashes = self.crashes;
        self.maybe_crash();
        if crashes != self.crashes {
            return;
        }
        let token = self.bench.token();
        let came = self.bench.ask(token, |_| Ask::MarkersWritten {
            transactional_id: markers.transactional_id.clone(),
            producer_id: markers.producer_id,
            producer_epoch: markers.producer_epoch,
            partitions: results.clone(),
        });
        self.take(came);
    }

    fn act(&mut self, who: usize) {
        let id: TransactionalId = Arc::from(format!("tx{who}"));
        let token = self.bench.token();
        // The second of them is an old client.
        let client_version = if who == 1 { 0 } else { 2 };
        let Some((producer_id, producer_epoch)) = self.producers[who].has else {
            let came = self.bench.ask(token, |fresh| Ask::InitProducerId {
                transactional_id: id.clone(),
                timeout_ms: 15_000,
                expected: None,
                fresh,
            });
            if let Some(Answer::InitProducerId(Ok(has))) = self.take(came) {
                self.producers[who].has = Some(has);
                self.producers[who].wrote.clear();
            }
            return;
        };
        match self.random.below(8) {
            0 => self.producers[who].has = None,
            1..=4 => {
                let names: Vec<_> = self.partitions.keys().cloned().collect();
                let name = names[self.random.below(names.len() as u64) as usize].clone();
                let came = self.bench.ask(token, |_| Ask::AddPartitions {
                    transactional_id: id.clone(),
                    producer_id,
                    producer_epoch,
                    partitions: vec![name.clone()],
                    client_version,
                    patience_ms: 0,
                });
                match self.take(came) {
                    Some(Answer::AddPartitions(ErrorCode::None)) => {
                        let partition = self.partitions.get_mut(&name).unwrap();
                        assert!(partition.append(producer_id, producer_epoch));
                        self.producers[who].wrote.insert(name);
                    }
                    Some(Answer::AddPartitions(ErrorCode::ConcurrentTransactions)) => {}
                    _ => self.producers[who].has = None,
                }
            }
            _ => {
                let commit = self.random.chance(2);
                let came = self.bench.ask(token, |fresh| Ask::End {
                    transactional_id: id.clone(),
                    producer_id,
                    producer_epoch,
                    commit,
                    client_version,
                    fresh,
                });
                match self.take(came) {
                    Some(Answer::End(Ok(has))) => {
                        let wrote = std::mem::take(&mut self.producers[who].wrote);
                        self.producers[who].has = (client_version == 2).then_some(has);
                        let of = (producer_id, producer_epoch);
                        self.commits += usize::from(commit && !wrote.is_empty());
                        if client_version == 2 {
                            self.told.insert(of, (commit, wrote));
                        }
                    }
                    Some(Answer::End(Err(ErrorCode::ConcurrentTransactions))) => {}
                    _ => self.producers[who].has = None,
                }
            }
        }
    }

    fn finish(&mut self) {
        self.effects.clear();
        let came = self.bench.restart();
        self.take(came);
        for _ in 0..10_000 {
            let came = self.bench.tick(1_000);
            self.take(came);
            while !self.effects.is_empty() {
                let Effect::WriteMarkers(markers) = self.effects.remove(0) else {
                    continue;
                };
                let written = |name: &NamedPartition| (name.clone(), MarkerResult::Written);
                for name in &markers.partitions {
                    self.partitions.get_mut(name).unwrap().marker(&markers);
                }
                let results: Vec<_> = markers.partitions.iter().map(written).collect();
                let token = self.bench.token();
                let came = self.bench.ask(token, |_| Ask::MarkersWritten {
                    transactional_id: markers.transactional_id.clone(),
                    producer_id: markers.producer_id,
                    producer_epoch: markers.producer_epoch,
                    partitions: results.clone(),
                });
                self.take(came);
            }
            let open = |partition: &Partition| !partition.open.is_empty();
            if !self.partitions.values().any(open) {
                return;
            }
        }
        panic!("a transaction stays open for ever");
    }

    fn check(&self) {
        for ((producer_id, epoch), (commit, wrote)) in &self.told {
            for name in wrote {
                let ended = self.partitions[name].ended.get(&(*producer_id, *epoch));
                assert_eq!(ended, Some(commit), "{producer_id} {epoch} in {name:?}");
            }
        }
        let mut decisions: BTreeMap<(ProducerId, ProducerEpoch), bool> = BTreeMap::new();
        for partition in self.partitions.values() {
            for (&of, &commit) in &partition.ended {
                assert_eq!(*decisions.entry(of).or_insert(commit), commit, "{of:?}");
            }
        }
    }
}

fn run(seed: u64) -> (usize, usize) {
    let mut world = World::new(seed);
    for _ in 0..300 {
        match world.random.below(10) {
            0..=4 => {
                let who = world.random.below(3) as usize;
                world.act(who);
            }
            5..=8 => world.carry_out(),
            _ => {
                let came = world.bench.tick(700);
                world.take(came);
            }
        }
        world.maybe_crash();
    }
    world.finish();
    world.check();
    (world.commits, world.crashes)
}

#[test]
fn ends_are_whole_whenever_the_coordinator_crashes() {
    let (mut commits, mut crashes) = (0, 0);
    for seed in 0..300 {
        let run = std::panic::catch_unwind(|| run(seed));
        let (some, more) = run.unwrap_or_else(|_| panic!("seed {seed}"));
        commits += some;
        crashes += more;
    }
    assert!(commits > 1_000 && crashes > 1_000, "{commits} {crashes}");
}
