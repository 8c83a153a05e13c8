//! Runs `tests/scenarios/consumer_groups/*.txt`. A line is a step; what follows `->` is its answer, of
//! which an error's words may be left out from the end. The rest of a line after ` #` is a comment.
//!
//! ```text
//! topic NAME PARTITIONS | delete NAME | rack NAME | setting KEY=VALUE | config GROUP KEY=VALUE
//! heartbeat GROUP member=M epoch=E [topics=A,B] [regex=R] [owns=A:0,1;B:2] [instance=I] [assignor=N] [rack=R]
//!     -> M epoch=E [A:0,1;B:2]                      # the assignment, if one is sent
//! join GROUP member=M topics=A,B [owns=..] [instance=I] [session=MS] [rebalance=MS]  -> M epoch=E
//! sync GROUP member=M epoch=E -> A:0,1              # and beat GROUP member=M epoch=E, leave GROUP member=M
//! group GROUP   -> State epoch=E target=E members   # member GROUP M -> State epoch=E owns=.. revokes=.. target=..
//! commit GROUP member=M epoch=E [partition=A:0] [version=V] [transactional] | fetch GROUP member=M epoch=E
//! tick MS       -> what fell due
//! reload
//! ```

use std::collections::BTreeMap;

use super::Refusal;
use super::embedded;
use super::group::without_epochs;
use super::record::Partitions;
use super::testing::World;
use crate::base::TopicId;
use crate::base::settings::MigrationPolicy;
use crate::metadata::{Image, MetadataRecord};
use crate::protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use crate::protocol::messages::join_group_request::JoinGroupRequestProtocol;
use crate::protocol::messages::leave_group_request::MemberIdentity;
use crate::protocol::messages::{
    ConsumerGroupHeartbeatRequest, GroupId, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest,
    SyncGroupRequest, TopicName,
};
use crate::protocol::{ErrorCode, StrBytes, topic_id, uuid};

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// `key=value` words of a step.
struct Words<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Words<'a> {
    fn of(words: &[&'a str]) -> Self {
        Self(
            words
                .iter()
                .map(|w| w.split_once('=').unwrap_or((w, "")))
                .collect(),
        )
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.0.get(key).copied()
    }

    fn text(&self, key: &str) -> Option<StrBytes> {
        self.get(key).map(text)
    }

    fn number(&self, key: &str, default: i32) -> i32 {
        self.get(key)
            .map_or(default, |value| value.parse().expect(key))
    }

    fn list(&self, key: &str) -> Option<Vec<&'a str>> {
        let list = self.get(key)?.split(',').filter(|item| !item.is_empty());
        Some(list.collect())
    }

    /// `A:0,1;B:2`; a topic that is not there has an id of its own.
    fn partitions(&self, key: &str) -> Option<Vec<(String, Vec<i32>)>> {
        let topics = self.get(key)?.split(';').filter(|topic| !topic.is_empty());
        let topics = topics.map(|topic| {
            let (name, partitions) = topic.split_once(':').unwrap();
            let partitions = partitions.split(',').map(|p| p.parse().unwrap());
            (name.to_owned(), partitions.collect())
        });
        Some(topics.collect())
    }
}

fn name(error: ErrorCode) -> String {
    let mut out = String::new();
    for c in format!("{error:?}").chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

fn refused(refusal: Refusal) -> String {
    format!("{} {}", name(refusal.error), refusal.message)
}

fn show(partitions: &Partitions, image: &Image) -> String {
    let mut topics: Vec<String> = partitions
        .iter()
        .map(|(topic, partitions)| {
            let partitions: Vec<String> = partitions.iter().map(i32::to_string).collect();
            let name = image.topic(*topic).map_or("gone", |topic| &*topic.name);
            format!("{name}:{}", partitions.join(","))
        })
        .collect();
    topics.sort();
    format!("[{}]", topics.join(";"))
}

impl World {
    fn step(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (verb, rest) = words.split_first().unwrap();
        let group = rest.first().copied().unwrap_or("");
        let of = Words::of(rest);
        match *verb {
            "topic" => self.topic(group, rest[1].parse().unwrap()),
            "delete" => {
                let topic_id = self.image.topic_id(group).unwrap();
                self.change(vec![MetadataRecord::RemoveTopic { topic_id }]);
            }
            "rack" => self.rack(group),
            "config" => {
                let (key, value) = rest[1].split_once('=').unwrap();
                self.config(group, key, value);
            }
            "setting" => {
                let (key, value) = group.split_once('=').unwrap();
                let number = || value.parse::<i32>().unwrap();
                let settings = &mut self.settings.consumer_groups;
                match key {
                    "max.size" => settings.max_size = number() as u32,
                    "session.timeout.ms" => settings.session_timeout_ms = number(),
                    "regex.refresh.interval.ms" => settings.regex_refresh_interval_ms = number(),
                    "assignment.interval.ms" => settings.assignment_interval_ms = number(),
                    "migration.policy" => {
                        settings.migration_policy = match value {
                            "disabled" => MigrationPolicy::Disabled,
                            "upgrade" => MigrationPolicy::Upgrade,
                            _ => panic!("{value}"),
                        }
                    }
                    _ => panic!("{key}"),
                }
            }
            "reload" => self.reload(),
            "tick" => {
                let events = self.tick(group.parse().unwrap());
                if !events.is_empty() {
                    return events.join(", ");
                }
            }
            "heartbeat" => return self.heartbeat_step(group, &of),
            "join" => return self.join_step(group, &of),
            "sync" => {
                let request = SyncGroupRequest::default()
                    .with_group_id(GroupId(text(group)))
                    .with_member_id(of.text("member").unwrap())
                    .with_group_instance_id(of.text("instance"))
                    .with_generation_id(of.number("epoch", -1))
                    .with_protocol_type(of.text("type"))
                    .with_protocol_name(of.text("protocol"));
                return match self.sync(&request) {
                    Err(refusal) => refused(refusal),
                    Ok(bytes) => {
                        let (partitions, user_data) = embedded::assignment(&bytes).unwrap();
                        assert!(!user_data);
                        show(&embedded::by_id(&partitions, &self.image), &self.image)
                    }
                };
            }
            "beat" => {
                let request = HeartbeatRequest::default()
                    .with_group_id(GroupId(text(group)))
                    .with_member_id(of.text("member").unwrap())
                    .with_group_instance_id(of.text("instance"))
                    .with_generation_id(of.number("epoch", -1));
                return match self.classic_heartbeat(&request) {
                    Err(refusal) => refused(refusal),
                    Ok(ErrorCode::None) => "ok".to_owned(),
                    Ok(error) => name(error),
                };
            }
            "leave" => {
                let member = MemberIdentity::default()
                    .with_member_id(of.text("member").unwrap_or_default())
                    .with_group_instance_id(of.text("instance"));
                let request = LeaveGroupRequest::default()
                    .with_group_id(GroupId(text(group)))
                    .with_members(vec![member]);
                let response = self.leave(&request);
                let error = ErrorCode::from_code(response.members[0].error_code).unwrap();
                if error != ErrorCode::None {
                    return name(error);
                }
            }
            "group" => {
                return match self.groups.get(group) {
                    None => "none".to_owned(),
                    Some(group) => format!(
                        "{} epoch={} target={} members={}",
                        group.state(),
                        group.epoch,
                        group.target_epoch,
                        group.members.len()
                    ),
                };
            }
            "member" => {
                let group = &self.groups[group];
                let Some(member) = group.members.get(rest[1]) else {
                    return "none".to_owned();
                };
                let target = group.target.get(rest[1]).cloned().unwrap_or_default();
                return format!(
                    "{:?} epoch={} owns={} revokes={} target={}",
                    member.state,
                    member.epoch,
                    show(&without_epochs(&member.assigned), &self.image),
                    show(&without_epochs(&member.revoking), &self.image),
                    show(&target, &self.image),
                );
            }
            "describe" => {
                let described = self.groups[group].describe("uniform", &self.image);
                return format!(
                    "{} {} {}",
                    described.group_state,
                    described.assignor_name,
                    described.members.len()
                );
            }
            "commit" => {
                let check = self.groups[group].validate_offset_commit(
                    of.get("member").unwrap_or(""),
                    of.get("instance"),
                    of.number("epoch", -1),
                    of.get("transactional").is_some(),
                    of.number("version", 9) as i16,
                );
                let partitions = of.partitions("partition").unwrap_or_default();
                for (topic, partitions) in partitions {
                    let id = self.image.topic_id(&topic).unwrap();
                    if let Ok(check) = &check
                        && let Err(refusal) = check.partition(id, partitions[0])
                    {
                        return refused(refusal);
                    }
                }
                if let Err(refusal) = check {
                    return refused(refusal);
                }
            }
            "fetch" => {
                let group = &self.groups[group];
                let fetch = group.validate_offset_fetch(of.get("member"), of.number("epoch", -1));
                if let Err(refusal) = fetch {
                    return refused(refusal);
                }
            }
            other => panic!("{other}"),
        }
        "ok".to_owned()
    }

    fn heartbeat_step(&mut self, group: &str, of: &Words<'_>) -> String {
        let epoch = of.number("epoch", 0);
        let owned = of.partitions("owns").or((epoch == 0).then(Vec::new));
        let owned = owned.map(|owned| {
            let topics = owned.into_iter().map(|(topic, partitions)| {
                let id = self.image.topic_id(&topic).unwrap_or(TopicId(u128::MAX));
                TopicPartitions::default()
                    .with_topic_id(uuid(id))
                    .with_partitions(partitions)
            });
            topics.collect()
        });
        let topics = of.list("topics").map(|topics| {
            let topics = topics.into_iter();
            topics.map(|topic| TopicName(text(topic))).collect()
        });
        let timeout = if epoch == 0 { 60_000 } else { -1 };
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_member_id(of.text("member").unwrap_or_default())
            .with_member_epoch(epoch)
            .with_instance_id(of.text("instance"))
            .with_rack_id(of.text("rack"))
            .with_rebalance_timeout_ms(of.number("rebalance", timeout))
            .with_subscribed_topic_names(topics)
            .with_subscribed_topic_regex(of.text("regex"))
            .with_server_assignor(of.text("assignor"))
            .with_topic_partitions(owned);
        match self.heartbeat(of.number("version", 1) as i16, &request) {
            Err(refusal) => refused(refusal),
            Ok(response) => {
                let member = response.member_id.unwrap();
                let mut out = format!("{member} epoch={}", response.member_epoch);
                if let Some(assignment) = response.assignment {
                    let topics = assignment.topic_partitions.iter();
                    let partitions = topics.map(|topic| {
                        let partitions = topic.partitions.iter().copied().collect();
                        (topic_id(topic.topic_id), partitions)
                    });
                    let partitions = partitions.collect();
                    out = format!("{out} {}", show(&partitions, &self.image));
                }
                out
            }
        }
    }

    fn join_step(&mut self, group: &str, of: &Words<'_>) -> String {
        let topics: Vec<&str> = of.list("topics").unwrap_or_default();
        let mut metadata = 1i16.to_be_bytes().to_vec();
        metadata.extend_from_slice(&(topics.len() as i32).to_be_bytes());
        let put = |out: &mut Vec<u8>, text: &str| {
            out.extend_from_slice(&(text.len() as i16).to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        };
        for topic in topics {
            put(&mut metadata, topic);
        }
        metadata.extend_from_slice(&(-1i32).to_be_bytes());
        let owned = of.partitions("owns").unwrap_or_default();
        metadata.extend_from_slice(&(owned.len() as i32).to_be_bytes());
        for (topic, partitions) in owned {
            put(&mut metadata, &topic);
            metadata.extend_from_slice(&(partitions.len() as i32).to_be_bytes());
            for partition in partitions {
                metadata.extend_from_slice(&partition.to_be_bytes());
            }
        }
        if of.get("garbled").is_some() {
            metadata.truncate(5);
        }
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(of.text("protocol").unwrap_or(text("range")))
            .with_metadata(metadata.into());
        let request = JoinGroupRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_member_id(of.text("member").unwrap_or_default())
            .with_group_instance_id(of.text("instance"))
            .with_session_timeout_ms(of.number("session", 45_000))
            .with_rebalance_timeout_ms(of.number("rebalance", 60_000))
            .with_protocol_type(of.text("type").unwrap_or(text("consumer")))
            .with_protocols(vec![protocol]);
        match self.join(9, &request) {
            Err(refusal) => refused(refusal),
            Ok(joined) if joined.response.error_code != 0 => {
                name(ErrorCode::from_code(joined.response.error_code).unwrap())
            }
            Ok(joined) => {
                let response = joined.response;
                let mut out = format!("{} epoch={}", response.member_id, response.generation_id);
                if let Some(downgrade) = joined.downgrade {
                    out = format!("{out} downgrade rebalance={}", downgrade.rebalance);
                }
                out
            }
        }
    }
}

#[test]
fn scenarios() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/scenarios/consumer_groups"
    );
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    let mut wrong = String::new();
    for path in files {
        let mut world = World::default();
        for (number, line) in std::fs::read_to_string(&path).unwrap().lines().enumerate() {
            let line = line.split(" #").next().unwrap_or("").trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (step, expected) = line.split_once("->").unwrap_or((line, "ok"));
            let (step, expected) = (step.trim(), expected.trim());
            let got = world.step(step);
            let error =
                expected.chars().next().is_some_and(char::is_uppercase) && expected.contains('_');
            if got != expected && !(error && got.starts_with(expected)) {
                wrong += &format!(
                    "{}:{}: {step}\n  got      {got}\n  expected {expected}\n",
                    path.display(),
                    number + 1
                );
            }
        }
        // What is on record gives the groups again.
        world.reload();
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
