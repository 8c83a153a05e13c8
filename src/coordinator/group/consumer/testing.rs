//! A coordinator of consumer groups and nothing else, with a clock that tests move.

use std::collections::BTreeMap;

use super::heartbeat::{self, Client, Fenced};
use super::soft::Soft;
use super::{ConsumerGroup, ConsumerRecord, Env, Refusal, Text, classic};
use crate::base::settings::NodeSettings;
use crate::base::{BrokerId, LeaderEpoch, PartitionIndex, Timestamp, TopicId};
use crate::coordinator::CoordinatorRecord;
use crate::metadata::{
    BrokerRegistration, ConfigResource, Image, MetadataRecord, PartitionRegistration,
};
use crate::protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, HeartbeatRequest,
    JoinGroupRequest, LeaveGroupRequest, LeaveGroupResponse, SyncGroupRequest,
};

pub const CLIENT: Client<'static> = Client {
    id: "client",
    host: "/127.0.0.1",
};

pub struct World {
    pub now: Timestamp,
    pub image: Image,
    pub settings: NodeSettings,
    pub groups: BTreeMap<Text, ConsumerGroup>,
    pub soft: Soft,
    pub log: Vec<CoordinatorRecord>,
    ids: u128,
}

impl Default for World {
    fn default() -> Self {
        Self {
            now: Timestamp(1_000_000),
            image: Image::default(),
            settings: NodeSettings::defaults(),
            groups: BTreeMap::new(),
            soft: Soft::default(),
            log: Vec::new(),
            ids: 0,
        }
    }
}

impl World {
    pub fn env<R>(
        &mut self,
        ask: impl FnOnce(&mut Env<'_>, &BTreeMap<Text, ConsumerGroup>) -> R,
    ) -> R {
        let Self {
            now,
            image,
            settings,
            groups,
            soft,
            ids,
            ..
        } = self;
        let mut random = || {
            *ids += 1;
            *ids
        };
        let mut env = Env {
            now: *now,
            image,
            settings,
            random: &mut random,
            soft,
        };
        ask(&mut env, groups)
    }

    pub fn change(&mut self, records: Vec<MetadataRecord>) {
        let version = self.image.version() + 1;
        let (image, delta) = self.image.apply(version, &records).unwrap();
        self.image = image;
        super::image_changed(&mut self.soft, &self.image, &delta);
    }

    /// A topic with so many partitions, or so many more.
    pub fn topic(&mut self, name: &str, partitions: i32) {
        let mut records = Vec::new();
        let (topic_id, first) = match self.image.topic_by_name(name) {
            Some(topic) => (topic.id, topic.partitions.len() as i32),
            None => {
                self.ids += 1;
                let topic_id = TopicId(self.ids);
                let name = name.to_owned();
                records.push(MetadataRecord::Topic { name, topic_id });
                (topic_id, 0)
            }
        };
        records.extend((first..partitions).map(|partition| {
            MetadataRecord::Partition(PartitionRegistration {
                topic_id,
                partition: PartitionIndex(partition),
                replicas: vec![BrokerId(1)],
                isr: vec![BrokerId(1)],
                leader: Some(BrokerId(1)),
                leader_epoch: LeaderEpoch(0),
                partition_epoch: 0,
                directories: Vec::new(),
            })
        }));
        self.change(records);
    }

    pub fn rack(&mut self, rack: &str) {
        self.change(vec![MetadataRecord::RegisterBroker(BrokerRegistration {
            broker_id: BrokerId(1),
            broker_epoch: self.image.version() + 1,
            listeners: BTreeMap::new(),
            rack: Some(rack.to_owned()),
            directories: Vec::new(),
            fenced: false,
        })]);
    }

    pub fn config(&mut self, group: &str, key: &str, value: &str) {
        self.change(vec![MetadataRecord::Config {
            resource: ConfigResource::Group(group.to_owned()),
            key: key.to_owned(),
            value: Some(value.to_owned()),
        }]);
    }

    /// As a host: writes, and applies what it wrote.
    pub fn commit(&mut self, records: Vec<CoordinatorRecord>) {
        for record in &records {
            let value = record.value.as_deref();
            let read = ConsumerRecord::decode(&record.key, value).unwrap();
            assert_eq!(&read.encode(), record, "a record reads as it was written");
            self.apply(read);
        }
        self.log.extend(records);
    }

    fn apply(&mut self, record: ConsumerRecord) {
        let id = record.group_id.clone();
        if record.is_tombstone() && !self.groups.contains_key(&id) {
            return;
        }
        let group = self.groups.entry(id.clone());
        let group = group.or_insert_with(|| ConsumerGroup::new(id.clone()));
        if !group.apply(record, &mut self.soft).unwrap() {
            self.groups.remove(&id);
        }
    }

    /// A restart: what is on record is read again.
    pub fn reload(&mut self) {
        let before = std::mem::take(&mut self.groups);
        self.soft = Soft::default();
        for record in self.log.clone() {
            let read = ConsumerRecord::decode(&record.key, record.value.as_deref()).unwrap();
            self.apply(read);
        }
        assert_eq!(self.groups, before, "the log gives the groups");
        self.env(|env, groups| {
            env.soft.topics_created_version = env.image.version();
            for group in groups.values() {
                heartbeat::start_timers(env, group);
            }
        });
    }

    pub fn heartbeat(
        &mut self,
        version: i16,
        request: &ConsumerGroupHeartbeatRequest,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        let (records, response) = self.env(|env, groups| {
            let assignors = heartbeat::assignors(&env.settings.consumer_groups.assignors);
            heartbeat::validate(request, version, &assignors)?;
            let id: Text = (&*request.group_id.0).into();
            let group = groups.get(&id);
            if request.member_epoch < 0 {
                let group = group.ok_or_else(|| super::not_found(&id))?;
                let (fenced, response) = heartbeat::leave(env, group, request)?;
                return Ok((records_of(fenced), response));
            }
            let new = ConsumerGroup::new(id.clone());
            let group = match group {
                None if request.member_epoch != 0 => return Err(super::not_found(&id)),
                group => group.unwrap_or(&new),
            };
            heartbeat::heartbeat(env, group, Vec::new(), request, CLIENT)
        })?;
        self.commit(records);
        Ok(response)
    }

    pub fn join(
        &mut self,
        version: i16,
        request: &JoinGroupRequest,
    ) -> Result<classic::Joined, Refusal> {
        let mut joined = self.env(|env, groups| {
            let group = groups.get(&*request.group_id.0).expect("a group");
            classic::join(env, group, request, version, CLIENT)
        })?;
        if joined.downgrade.is_none() {
            self.commit(std::mem::take(&mut joined.records));
        }
        Ok(joined)
    }

    pub fn sync(&mut self, request: &SyncGroupRequest) -> Result<Vec<u8>, Refusal> {
        let response =
            self.env(|env, groups| classic::sync(env, &groups[&*request.group_id.0], request))?;
        Ok(response.assignment.to_vec())
    }

    pub fn classic_heartbeat(
        &mut self,
        request: &HeartbeatRequest,
    ) -> Result<crate::protocol::ErrorCode, Refusal> {
        self.env(|env, groups| classic::heartbeat(env, &groups[&*request.group_id.0], request))
    }

    pub fn leave(&mut self, request: &LeaveGroupRequest) -> LeaveGroupResponse {
        let (fenced, response) =
            self.env(|env, groups| classic::leave(env, &groups[&*request.group_id.0], request));
        self.commit(records_of(fenced));
        response
    }

    /// Lets time pass, and does what falls due. Says what happened.
    pub fn tick(&mut self, ms: i64) -> Vec<String> {
        let end = Timestamp(self.now.0 + ms);
        let mut events = Vec::new();
        loop {
            while !self.soft.resolutions.is_empty() {
                let (id, records) = self.env(|env, groups| {
                    let (id, mut resolution) = env.soft.resolutions.pop_first().unwrap();
                    while !resolution.step(env.image) {}
                    let group = groups.get(&id);
                    let resolved = resolution.finish();
                    let records = group.map(|g| heartbeat::resolved(env, g, resolved));
                    (id, records.unwrap_or_default())
                });
                self.commit(records);
                events.push(format!("resolved {id}"));
            }
            let Some(next) = self.soft.timers.next().filter(|next| *next <= end) else {
                break;
            };
            self.now = next.max(self.now);
            let now = self.now;
            let Some(((group, member, timer), epoch)) = self.soft.timers.take_due(now) else {
                continue;
            };
            let fenced = self.env(|env, groups| {
                heartbeat::expire(env, groups.get(&group)?, &member, timer, epoch)
            });
            if let Some(fenced) = fenced {
                self.commit(records_of(fenced));
                events.push(format!("{member} fenced ({timer:?})"));
            }
        }
        self.now = end;
        events
    }
}

/// A group that would become a classic one is not expected here.
fn records_of(fenced: Fenced) -> Vec<CoordinatorRecord> {
    match fenced {
        Fenced::Goes(records) => records,
        Fenced::Downgrades { leaving } => panic!("downgrade without {:?}", leaving.keys()),
    }
}
