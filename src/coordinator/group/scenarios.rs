//! Runs `tests/scenarios/groups/*.txt` against the machine. A line is a step; behind `->` stands all that
//! comes of it, parted by ` | `: answers under the names of their requests, then records. A step without
//! `->` brings nothing: its request waits. The rest of a line after ` #` is a comment.
//!
//! ```text
//! a: join g client=c protocols=range:t1 -> a MEMBER_ID_REQUIRED @a | log g Empty 0
//! a: join g member=@a protocols=range:t1
//! tick 3000ms -> a ok generation=1 protocol=range leader=@a member=@a members=@a:t1
//! ```
//! `@a` is the member id that the request named `a` was given. `t1` stands for a consumer's subscription
//! to the topic; in assignments any word does.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, OffsetCommitRequest,
    OffsetDeleteRequest, ProducerId as WireProducerId, SyncGroupRequest, TopicName,
    TxnOffsetCommitRequest,
};

use super::record::{GroupMetadata, OffsetCommit, OffsetKey, key_type, read_group_key, type_of};
use super::*;
use crate::base::settings::NodeSettings;
use crate::base::{Offset, TopicId};
use crate::coordinator::fields::FieldReader;
use crate::metadata::{Image, MetadataRecord};
use crate::protocol::ErrorCode;

pub(super) enum Logged {
    Record(CoordinatorRecord, Position),
    Marker(ProducerId, bool),
}

/// A machine, its log and its clock.
pub(super) struct World {
    pub machine: GroupMachine,
    pub log: Vec<Logged>,
    pub now: Timestamp,
    pub image: Image,
    pub settings: NodeSettings,
    random: u128,
    next_token: u64,
    /// Requests by their tokens.
    names: BTreeMap<Token, String>,
    /// Member ids by `@name`.
    ids: BTreeMap<String, String>,
    out: Vec<String>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            machine: GroupMachine::new(PartitionIndex(0)),
            log: Vec::new(),
            now: Timestamp(1_000_000),
            image: Image::default(),
            settings: NodeSettings::defaults(),
            random: 0,
            next_token: 0,
            names: BTreeMap::new(),
            ids: BTreeMap::new(),
            out: Vec::new(),
        }
    }
}

impl World {
    /// Lets the machine do something, and does with the outcome what a host does.
    pub fn step(
        &mut self,
        act: impl FnOnce(&mut GroupMachine, &mut Context<'_>) -> Outcome<GroupMachine>,
    ) -> Vec<(Token, Answer)> {
        let random = &mut self.random;
        let mut context = Context {
            now: self.now,
            image: &self.image,
            settings: &self.settings,
            random: &mut || {
                *random += 1;
                *random
            },
        };
        let outcome = act(&mut self.machine, &mut context);
        for record in outcome.records {
            let at = Position {
                offset: Offset(self.log.len() as i64),
                timestamp: self.now,
                producer: outcome.producer,
            };
            self.machine.apply(&record, at).unwrap();
            self.out.push(show_record(&record, outcome.producer));
            self.log.push(Logged::Record(record, at));
        }
        outcome.answers
    }

    pub fn ask(&mut self, ask: Ask) -> (Token, Vec<(Token, Answer)>) {
        let token = Token(self.next_token);
        self.next_token += 1;
        (
            token,
            self.step(|machine, context| machine.ask(context, token, ask)),
        )
    }

    /// Advances the clock; what is due on the way is done at its time.
    pub fn advance(&mut self, ms: i64) -> Vec<(Token, Answer)> {
        let until = Timestamp(self.now.0 + ms);
        let mut answers = Vec::new();
        while let Some(at) = self.machine.next_deadline().filter(|at| *at <= until) {
            self.now = at.max(self.now);
            answers.extend(self.step(|machine, context| machine.expire(context)));
        }
        self.now = until;
        answers
    }

    /// A new machine from the log.
    pub fn restart(&mut self) -> Vec<(Token, Answer)> {
        self.machine = GroupMachine::new(PartitionIndex(0));
        for logged in &self.log {
            match logged {
                Logged::Record(record, at) => self.machine.apply(record, *at).unwrap(),
                Logged::Marker(id, committed) => {
                    self.machine.apply_marker(*id, ProducerEpoch(0), *committed);
                }
            }
        }
        self.step(|machine, context| machine.loaded(context))
    }

    pub fn metadata(&mut self, records: Vec<MetadataRecord>) -> Vec<(Token, Answer)> {
        let version = self.image.version() + 1;
        let (image, delta) = self.image.apply(version, &records).unwrap();
        self.image = image;
        self.step(|machine, context| machine.image_changed(context, &delta))
    }

    /// Symbolic names for member ids.
    fn symbolic(&self, id: &str) -> String {
        let known = self.ids.iter().find(|(_, known)| *known == id);
        known.map_or_else(|| id.to_owned(), |(name, _)| name.clone())
    }

    fn real(&self, id: &str) -> StrBytes {
        text(self.ids.get(id).map_or(id, String::as_str))
    }

    fn show(&self, token: Token, answer: &Answer) -> String {
        let name = self.names.get(&token).cloned().unwrap_or_default();
        let code = |code: i16| match ErrorCode::from_code(code).unwrap() {
            ErrorCode::None => "ok".to_owned(),
            error => shout(&format!("{error:?}")),
        };
        let mut out = format!("{name} ");
        match answer {
            Answer::Join(join) => {
                out += &code(join.error_code);
                let member = self.symbolic(&join.member_id);
                if join.error_code != 0 {
                    if !member.is_empty() {
                        write!(out, " {member}").unwrap();
                    }
                    return out;
                }
                let protocol = join.protocol_name.as_deref().unwrap_or("null");
                let leader = self.symbolic(&join.leader);
                let generation = join.generation_id;
                write!(out, " generation={generation} protocol={protocol}").unwrap();
                write!(out, " leader={leader} member={member}").unwrap();
                if join.skip_assignment {
                    out += " skip-assignment";
                }
                if !join.members.is_empty() {
                    let members = join.members.iter().map(|member| {
                        format!(
                            "{}:{}",
                            self.symbolic(&member.member_id),
                            word(&member.metadata)
                        )
                    });
                    write!(out, " members={}", members.collect::<Vec<_>>().join(",")).unwrap();
                }
            }
            Answer::Sync(sync) => {
                out += &code(sync.error_code);
                if sync.error_code == 0 {
                    let assignment = word(&sync.assignment);
                    let protocol = sync.protocol_name.as_deref().unwrap_or("null");
                    write!(out, " protocol={protocol} assignment={assignment}").unwrap();
                }
            }
            Answer::Heartbeat(heartbeat) => out += &code(heartbeat.error_code),
            Answer::Leave(leave) => {
                let members = leave.members.iter().map(|m| code(m.error_code));
                out += &members.collect::<Vec<_>>().join(",");
            }
            Answer::Commit(commit) => {
                let codes = commit.topics.iter().flat_map(|topic| {
                    topic
                        .partitions
                        .iter()
                        .map(|partition| code(partition.error_code))
                });
                out += &codes.collect::<Vec<_>>().join(",");
            }
            Answer::CommitInTransaction(commit) => {
                let codes = commit.topics.iter().flat_map(|topic| {
                    topic
                        .partitions
                        .iter()
                        .map(|partition| code(partition.error_code))
                });
                out += &codes.collect::<Vec<_>>().join(",");
            }
            Answer::Fetch(fetch) => {
                out += &code(fetch.error_code);
                for topic in &fetch.topics {
                    for partition in &topic.partitions {
                        let index = partition.partition_index;
                        write!(out, " {}-{index}=", topic.name.as_str()).unwrap();
                        if partition.error_code == 0 {
                            write!(out, "{}", partition.committed_offset).unwrap();
                        } else {
                            out += &code(partition.error_code);
                        }
                        if let Some(metadata) = partition.metadata.as_deref()
                            && !metadata.is_empty()
                        {
                            write!(out, "({metadata})").unwrap();
                        }
                    }
                }
            }
            Answer::DeleteOffsets(delete) => {
                out += &code(delete.error_code);
                for topic in &delete.topics {
                    for partition in &topic.partitions {
                        let index = partition.partition_index;
                        let code = code(partition.error_code);
                        write!(out, " {}-{index}={code}", topic.name.as_str()).unwrap();
                    }
                }
            }
            Answer::List(groups) => {
                let groups = groups.iter().map(|group| {
                    let (state, kind) = (&group.group_state, &group.group_type);
                    format!(
                        "{}:{}:{}",
                        group.group_id.as_str(),
                        state.as_str(),
                        kind.as_str()
                    )
                });
                out += &groups.collect::<Vec<_>>().join(" ");
            }
            Answer::Describe(groups) => {
                let groups = groups.iter().map(|group| {
                    let members = group.members.iter().map(|member| {
                        let (id, instance) = (&member.member_id, &member.group_instance_id);
                        let instance = instance.as_deref().map(|i| format!("/{i}"));
                        format!(
                            "{}{}:{}:{}",
                            self.symbolic(id),
                            instance.unwrap_or_default(),
                            word(&member.member_metadata),
                            word(&member.member_assignment)
                        )
                    });
                    format!(
                        "{} {} {} type={} protocol={} members={}",
                        group.group_id.as_str(),
                        code(group.error_code),
                        group.group_state.as_str(),
                        group.protocol_type.as_str(),
                        group.protocol_data.as_str(),
                        members.collect::<Vec<_>>().join(",")
                    )
                });
                out += &groups.collect::<Vec<_>>().join("; ");
            }
            Answer::DeleteGroups(results) => {
                let results = results.iter().map(|(_, error)| code(error.code()));
                out += &results.collect::<Vec<_>>().join(",");
            }
            // Their scenarios are run elsewhere.
            Answer::ConsumerHeartbeat(heartbeat) => out += &code(heartbeat.error_code),
            Answer::ConsumerDescribe(groups) => {
                let codes = groups.iter().map(|group| code(group.error_code));
                out += &codes.collect::<Vec<_>>().join(",");
            }
        }
        out
    }

    /// Runs one step; what comes of it.
    fn run(&mut self, step: &str) -> String {
        self.out.clear();
        let (name, step) = step.split_once(": ").unwrap_or(("", step));
        let words: Vec<&str> = step.split_whitespace().collect();
        let options = Options(&words);
        let group = group_id(&text(words.get(1).copied().unwrap_or("")));
        let ask = match words[0] {
            "set" => {
                let value: i64 = words[2].parse().unwrap();
                let groups = &mut self.settings.groups;
                match words[1] {
                    "message.max.bytes" => {
                        self.settings.log_defaults.max_message_bytes = value as _;
                    }
                    "group.max.size" => groups.max_size = value as i32,
                    "group.min.session.timeout.ms" => groups.min_session_timeout_ms = value as i32,
                    "group.max.session.timeout.ms" => groups.max_session_timeout_ms = value as i32,
                    "group.initial.rebalance.delay.ms" => {
                        groups.initial_rebalance_delay_ms = value as i32;
                    }
                    "offset.metadata.max.bytes" => groups.offset_metadata_max_bytes = value as i32,
                    "offsets.retention.minutes" => groups.offsets_retention_ms = value * 60_000,
                    "offsets.retention.check.interval.ms" => {
                        groups.offsets_retention_check_interval_ms = value;
                    }
                    other => panic!("no setting {other}"),
                }
                None
            }
            "tick" => {
                let ms = words[1].strip_suffix("ms").unwrap().parse().unwrap();
                return self.show_all(|world| world.advance(ms));
            }
            "restart" => return self.show_all(Self::restart),
            "marker" => {
                let id = ProducerId(words[1].parse().unwrap());
                let committed = words[2] == "commit";
                self.machine.apply_marker(id, ProducerEpoch(0), committed);
                self.log.push(Logged::Marker(id, committed));
                None
            }
            "create-topic" => {
                let id = TopicId(words[2].parse().unwrap());
                let topic = MetadataRecord::Topic {
                    name: words[1].to_owned(),
                    topic_id: id,
                };
                return self.show_all(|world| world.metadata(vec![topic]));
            }
            "delete-topic" => {
                let id = self.image.topic_id(words[1]).unwrap();
                let gone = MetadataRecord::RemoveTopic { topic_id: id };
                return self.show_all(|world| world.metadata(vec![gone]));
            }
            "join" => {
                let protocols = options.get("protocols").unwrap_or("range:t1");
                let protocols = protocols
                    .split(',')
                    .filter(|p| !p.is_empty())
                    .map(|protocol| {
                        let (name, metadata) = protocol.split_once(':').unwrap();
                        JoinGroupRequestProtocol::default()
                            .with_name(text(name))
                            .with_metadata(subscription(metadata))
                    });
                let request = JoinGroupRequest::default()
                    .with_group_id(group)
                    .with_session_timeout_ms(options.number("session", 10_000))
                    .with_rebalance_timeout_ms(options.number("rebalance", 60_000))
                    .with_member_id(self.real(options.get("member").unwrap_or("")))
                    .with_group_instance_id(options.get("instance").map(text))
                    .with_protocol_type(text(options.get("type").unwrap_or("consumer")))
                    .with_protocols(protocols.collect());
                Some(Ask::Join(Join {
                    version: options.number("v", 9) as i16,
                    client_id: text(options.get("client").unwrap_or("c")),
                    client_host: text("/127.0.0.1"),
                    request,
                }))
            }
            "sync" => {
                let assignments = options.get("assign").unwrap_or("").split(',');
                let assignments = assignments.filter(|a| !a.is_empty()).map(|assigned| {
                    let (id, assignment) = assigned.split_once(':').unwrap();
                    SyncGroupRequestAssignment::default()
                        .with_member_id(self.real(id))
                        .with_assignment(Bytes::copy_from_slice(assignment.as_bytes()))
                });
                Some(Ask::Sync(
                    SyncGroupRequest::default()
                        .with_group_id(group)
                        .with_generation_id(options.number("generation", 1))
                        .with_member_id(self.real(options.get("member").unwrap()))
                        .with_group_instance_id(options.get("instance").map(text))
                        .with_protocol_type(options.get("type").map(text))
                        .with_protocol_name(options.get("protocol").map(text))
                        .with_assignments(assignments.collect()),
                ))
            }
            "heartbeat" => Some(Ask::Heartbeat(
                HeartbeatRequest::default()
                    .with_group_id(group)
                    .with_generation_id(options.number("generation", 1))
                    .with_member_id(self.real(options.get("member").unwrap_or("")))
                    .with_group_instance_id(options.get("instance").map(text)),
            )),
            "leave" => {
                let members = options.get("members").unwrap_or("").split(',');
                let members = members.map(|member| {
                    let (id, instance) = match member.split_once('/') {
                        Some((id, instance)) => (id, Some(text(instance))),
                        None => (member, None),
                    };
                    MemberIdentity::default()
                        .with_member_id(self.real(id))
                        .with_group_instance_id(instance)
                });
                let request = LeaveGroupRequest::default()
                    .with_group_id(group)
                    .with_members(members.collect());
                Some(Ask::Leave(request))
            }
            "commit" => {
                let mut topics = Vec::new();
                for (topic, partition, value) in options.partitions() {
                    let (offset, metadata) = match value.split_once('(') {
                        Some((offset, rest)) => (offset, rest.trim_end_matches(')')),
                        None => (value, ""),
                    };
                    let id = options.number("id", 0) as u128;
                    topics.push(
                        OffsetCommitRequestTopic::default()
                            .with_name(TopicName(text(topic)))
                            .with_topic_id(uuid::Uuid::from_u128(id))
                            .with_partitions(vec![
                                OffsetCommitRequestPartition::default()
                                    .with_partition_index(partition)
                                    .with_committed_offset(offset.parse().unwrap())
                                    .with_committed_metadata(Some(text(metadata))),
                            ]),
                    );
                }
                let request = OffsetCommitRequest::default()
                    .with_group_id(group)
                    .with_generation_id_or_member_epoch(options.number("generation", -1))
                    .with_member_id(self.real(options.get("member").unwrap_or("")))
                    .with_group_instance_id(options.get("instance").map(text))
                    .with_retention_time_ms(options.number("retention", -1).into())
                    .with_topics(topics);
                let version = options.number("v", 9) as i16;
                Some(Ask::Commit { version, request })
            }
            "txn-commit" => {
                let topics = options
                    .partitions()
                    .into_iter()
                    .map(|(topic, partition, offset)| {
                        TxnOffsetCommitRequestTopic::default()
                            .with_name(TopicName(text(topic)))
                            .with_partitions(vec![
                                TxnOffsetCommitRequestPartition::default()
                                    .with_partition_index(partition)
                                    .with_committed_offset(offset.parse().unwrap())
                                    .with_committed_metadata(Some(StrBytes::default())),
                            ])
                    });
                let request = TxnOffsetCommitRequest::default()
                    .with_group_id(group)
                    .with_producer_id(WireProducerId(options.number("producer", 7).into()))
                    .with_generation_id(options.number("generation", -1))
                    .with_member_id(self.real(options.get("member").unwrap_or("")))
                    .with_topics(topics.collect());
                Some(Ask::CommitInTransaction {
                    guard: None,
                    version: 5,
                    request,
                })
            }
            "fetch" => {
                let topics = options.get("topics").map(|list| {
                    let topics = list.split(',').map(|place| {
                        let (topic, partition) = place.rsplit_once('-').unwrap();
                        let id = options.number("id", 0) as u128;
                        OffsetFetchRequestTopics::default()
                            .with_name(TopicName(text(topic)))
                            .with_topic_id(uuid::Uuid::from_u128(id))
                            .with_partition_indexes(vec![partition.parse().unwrap()])
                    });
                    topics.collect()
                });
                Some(Ask::Fetch {
                    group: OffsetFetchRequestGroup::default()
                        .with_group_id(group)
                        .with_topics(topics),
                    require_stable: words.contains(&"stable"),
                })
            }
            "delete-offsets" => {
                let list = options.get("topics").unwrap();
                let topics = list.split(',').map(|place| {
                    let (topic, partition) = place.rsplit_once('-').unwrap();
                    OffsetDeleteRequestTopic::default()
                        .with_name(TopicName(text(topic)))
                        .with_partitions(vec![
                            OffsetDeleteRequestPartition::default()
                                .with_partition_index(partition.parse().unwrap()),
                        ])
                });
                Some(Ask::DeleteOffsets(
                    OffsetDeleteRequest::default()
                        .with_group_id(group)
                        .with_topics(topics.collect()),
                ))
            }
            "list" => {
                let filter = |name| -> Vec<String> {
                    let list = options.get(name).unwrap_or("");
                    list.split(',')
                        .filter(|w| !w.is_empty())
                        .map(str::to_lowercase)
                        .collect()
                };
                Some(Ask::List {
                    states: filter("states"),
                    types: filter("types"),
                })
            }
            "describe" => Some(Ask::Describe(vec![group.0])),
            "delete-group" => Some(Ask::DeleteGroups(vec![group.0])),
            other => panic!("no step {other}"),
        };
        match ask {
            Some(ask) => {
                let token = Token(self.next_token);
                self.names.insert(token, name.to_owned());
                self.show_all(|world| world.ask(ask).1)
            }
            None => String::new(),
        }
    }

    fn show_all(&mut self, act: impl FnOnce(&mut Self) -> Vec<(Token, Answer)>) -> String {
        let answers = act(self);
        for (token, answer) in &answers {
            if let Answer::Join(join) = answer
                && !join.member_id.is_empty()
                // Then it is what the request said, and nothing that it was given.
                && join.error_code != ErrorCode::UnknownMemberId.code()
                && self.symbolic(&join.member_id) == *join.member_id
                && let Some(name) = self.names.get(token)
            {
                self.ids
                    .insert(format!("@{name}"), join.member_id.to_string());
            }
        }
        let mut lines: Vec<String> = Vec::new();
        for (token, answer) in &answers {
            lines.push(self.show(*token, answer).trim().to_owned());
        }
        let mut records = std::mem::take(&mut self.out);
        for record in &mut records {
            for (name, id) in &self.ids {
                *record = record.replace(id.as_str(), name);
            }
        }
        lines.extend(records);
        lines.join(" | ")
    }
}

struct Options<'a>(&'a [&'a str]);

impl<'a> Options<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        let pairs = self.0.iter().filter_map(|word| word.split_once('='));
        pairs
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| value)
            .next()
    }

    fn number(&self, name: &str, default: i32) -> i32 {
        self.get(name).map_or(default, |text| text.parse().unwrap())
    }

    /// `topic-0=5` words.
    fn partitions(&self) -> Vec<(&'a str, i32, &'a str)> {
        let pairs = self.0.iter().filter_map(|word| word.split_once('='));
        let places = pairs.filter_map(|(place, value)| {
            let (topic, partition) = place.rsplit_once('-')?;
            Some((topic, partition.parse().ok()?, value))
        });
        places.collect()
    }
}

fn shout(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

/// A consumer's subscription to the topics of `t1+t2`; what begins with `!` is nonsense.
pub(super) fn subscription(topics: &str) -> Bytes {
    if let Some(raw) = topics.strip_prefix('!') {
        return Bytes::copy_from_slice(raw.as_bytes());
    }
    let topics: Vec<&str> = topics.split('+').collect();
    let mut out = vec![0, 1];
    out.extend((topics.len() as i32).to_be_bytes());
    for topic in topics {
        out.extend((topic.len() as i16).to_be_bytes());
        out.extend(topic.as_bytes());
    }
    out.extend((-1i32).to_be_bytes());
    out.into()
}

/// The reverse of [`subscription`], or the text itself.
fn word(bytes: &[u8]) -> String {
    let topics = || -> Result<String, Unreadable> {
        let mut reader = FieldReader::new(bytes);
        let mut topics = Vec::new();
        reader.i16("version")?;
        for _ in 0..reader.count("topics")? {
            topics.push(reader.string("topic")?);
        }
        Ok(topics.join("+"))
    };
    topics().unwrap_or_else(|_| String::from_utf8_lossy(bytes).into_owned())
}

fn show_record(
    record: &CoordinatorRecord,
    producer: Option<(ProducerId, ProducerEpoch)>,
) -> String {
    if type_of(&record.key) == Some(key_type::GROUP_METADATA) {
        let id = read_group_key(&record.key).unwrap();
        let Some(value) = &record.value else {
            return format!("log {id} gone");
        };
        let group = GroupMetadata::read(value).unwrap();
        let members = group.members.iter();
        let members = members.map(|m| format!(" {}={}", m.member_id, word(m.assignment)));
        let state = if group.members.is_empty() {
            "Empty"
        } else {
            "Stable"
        };
        let protocol = group.protocol.unwrap_or("-");
        let members = members.collect::<String>();
        return format!("log {id} {state} {} {protocol}{members}", group.generation);
    }
    if type_of(&record.key).is_some_and(consumer::record::is_consumer_key) {
        // Their scenarios are run elsewhere.
        return "log of a consumer group".to_owned();
    }
    let key = OffsetKey::read(&record.key).unwrap();
    let value = record
        .value
        .as_ref()
        .map(|value| OffsetCommit::read(value).unwrap());
    let value = value.map_or("gone".to_owned(), |commit| commit.offset.to_string());
    let producer = producer
        .map(|(id, _)| format!(" of {id}"))
        .unwrap_or_default();
    format!(
        "log {} {}-{}={value}{producer}",
        key.group_id, key.topic, key.partition
    )
}

#[test]
fn scenarios() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios/groups");
    let mut paths: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    let mut wrong = String::new();
    for path in paths {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let mut world = World::default();
        for (number, line) in std::fs::read_to_string(&path).unwrap().lines().enumerate() {
            let line = line.split(" #").next().unwrap().trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (step, expected) = match line.split_once("->") {
                Some((step, expected)) => (step.trim(), expected.trim()),
                None => (line, ""),
            };
            let came = world.run(step);
            if came != expected {
                let number = number + 1;
                writeln!(
                    wrong,
                    "{file}:{number}: {step}\n  expected {expected}\n  came     {came}"
                )
                .unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
