//! Which brokers hold a new partition.

use std::collections::BTreeSet;

use kafka_protocol::ResponseError::{InvalidReplicaAssignment, InvalidReplicationFactor};
use kafka_protocol::messages::BrokerId as WireBrokerId;

use super::refusal::Refusal;
use crate::base::{BrokerId, LeaderEpoch, PartitionIndex, TopicId};
use crate::metadata::{Image, MetadataRecord, PartitionRegistration};

/// Replicas for `count` partitions from number `first`, `replication_factor` each.
///
/// 1. The brokers that are alive stand in the order of their ids.
/// 2. `seed` chooses the leader of partition 0; each next partition is led by the next broker.
/// 3. The followers are the brokers after the leader, at a distance that grows by one each time the
///    leaders have gone round, so that the partitions of a broker that fails spread over all others.
pub(super) fn place(
    image: &Image,
    seed: u64,
    first: usize,
    count: usize,
    replication_factor: usize,
) -> Result<Vec<Vec<BrokerId>>, Refusal> {
    let brokers: Vec<BrokerId> = image.alive_brokers().map(|b| b.broker_id).collect();
    let refuse = |reason: String| {
        Refusal::new(
            InvalidReplicationFactor,
            format!("Unable to replicate the partition {replication_factor} time(s): {reason}"),
        )
    };
    if brokers.is_empty() {
        return Err(refuse("All brokers are currently fenced.".to_owned()));
    }
    let n = brokers.len();
    if replication_factor > n {
        return Err(refuse(format!(
            "The target replication factor of {replication_factor} cannot be reached because only {n} \
             broker(s) are registered."
        )));
    }
    let start = usize::try_from(seed % n as u64).unwrap_or(0);
    let partitions = (first..first + count).map(|partition| {
        let leader = start + partition;
        let mut replicas = vec![brokers[leader % n]];
        if n > 1 {
            let distance = partition / n;
            replicas.extend(
                (0..replication_factor - 1)
                    .map(|follower| brokers[(leader + 1 + (distance + follower) % (n - 1)) % n]),
            );
        }
        replicas
    });
    Ok(partitions.collect())
}

/// Checks replicas that the client chose; `replication_factor` is that of the partitions before.
pub(super) fn check_assignment(
    image: &Image,
    partition: i32,
    replicas: &[WireBrokerId],
    replication_factor: Option<usize>,
) -> Result<Vec<BrokerId>, Refusal> {
    let refuse = |reason: String| Err(Refusal::new(InvalidReplicaAssignment, reason));
    if replicas.is_empty() {
        return refuse(
            "The manual partition assignment includes an empty replica list.".to_owned(),
        );
    }
    let mut seen = BTreeSet::new();
    for &WireBrokerId(id) in replicas {
        if image.broker(BrokerId(id)).is_none() {
            return refuse(format!(
                "The manual partition assignment includes broker {id}, but no such broker is registered."
            ));
        }
        if !seen.insert(id) {
            return refuse(format!(
                "The manual partition assignment includes the broker {id} more than once."
            ));
        }
    }
    if let Some(factor) = replication_factor
        && factor != replicas.len()
    {
        return refuse(format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is not \
             consistent with previous partitions, which have {factor} replica(s).",
            replicas.len()
        ));
    }
    let replicas: Vec<BrokerId> = replicas.iter().map(|r| BrokerId(r.0)).collect();
    if alive(image, &replicas).is_empty() {
        return refuse(format!(
            "All brokers specified in the manual partition assignment for partition {partition} are \
             fenced or in controlled shutdown."
        ));
    }
    Ok(replicas)
}

/// Those of `replicas` whose brokers are alive, in order.
pub(super) fn alive(image: &Image, replicas: &[BrokerId]) -> Vec<BrokerId> {
    replicas
        .iter()
        .copied()
        .filter(|id| image.broker(*id).is_some_and(|b| !b.fenced))
        .collect()
}

/// The record of a new partition, led by the first replica that is alive.
pub(super) fn new_partition(
    image: &Image,
    topic_id: TopicId,
    partition: usize,
    replicas: Vec<BrokerId>,
) -> MetadataRecord {
    let isr = alive(image, &replicas);
    MetadataRecord::Partition(PartitionRegistration {
        topic_id,
        partition: PartitionIndex(i32::try_from(partition).unwrap_or(i32::MAX)),
        leader: isr.first().copied(),
        isr,
        replicas,
        leader_epoch: LeaderEpoch(0),
        partition_epoch: 0,
        directories: Vec::new(),
    })
}

/// How many replicas each node would hold, against the limit.
pub(super) struct Room<'a> {
    image: &'a Image,
    limit: usize,
    added: std::collections::BTreeMap<BrokerId, usize>,
}

impl<'a> Room<'a> {
    pub fn new(image: &'a Image, limit: usize) -> Self {
        Self {
            image,
            limit,
            added: Default::default(),
        }
    }

    /// Takes room for `partitions`, or none.
    pub fn take(&mut self, partitions: &[Vec<BrokerId>]) -> Result<(), Refusal> {
        let mut added = self.added.clone();
        for &replica in partitions.iter().flatten() {
            *added.entry(replica).or_default() += 1;
        }
        for (&broker, &count) in &added {
            let holds = self.image.replica_count(broker);
            if holds + count > self.limit {
                return Err(Refusal::new(
                    kafka_protocol::ResponseError::PolicyViolation,
                    format!(
                        "Broker {broker} holds {holds} partition replica(s) and may hold {}.",
                        self.limit
                    ),
                ));
            }
        }
        self.added = added;
        Ok(())
    }
}
