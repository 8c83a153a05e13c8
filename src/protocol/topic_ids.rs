//! OffsetCommit and OffsetFetch 10 name topics by id (KIP-848). The crate's types have the field, and
//! refuse the version of the requests: they are decoded here into them. Responses are the crate's.

use bytes::Bytes;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::{GroupId, OffsetCommitRequest, OffsetFetchRequest};

use super::api::key;
use super::reader::Reader;
use super::response::decode_request;
use super::walker;
use super::{Malformed, StrBytes};

/// The first version with ids in the place of names, of both APIs.
pub const TOPIC_IDS_SINCE: i16 = 10;

fn string(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Any version. From 10 on the names of topics are empty.
pub fn decode_offset_commit(version: i16, body: Bytes) -> Result<OffsetCommitRequest, Malformed> {
    if version < TOPIC_IDS_SINCE {
        return decode_request(version, body);
    }
    walker::walk(key::OFFSET_COMMIT, version, &body)?;
    let mut reader = Reader::new(&body, true);
    let mut request = OffsetCommitRequest::default();
    request.group_id = GroupId(string(reader.text("GroupId")?));
    request.generation_id_or_member_epoch = reader.i32("GenerationIdOrMemberEpoch")?;
    request.member_id = string(reader.text("MemberId")?);
    request.group_instance_id = reader.string(true, "GroupInstanceId")?.map(string);
    for _ in 0..reader.elements(18, "Topics")? {
        let mut topic = OffsetCommitRequestTopic::default();
        topic.topic_id = uuid::Uuid::from_bytes(reader.uuid("TopicId")?);
        for _ in 0..reader.elements(18, "Partitions")? {
            let partition = OffsetCommitRequestPartition::default()
                .with_partition_index(reader.i32("PartitionIndex")?)
                .with_committed_offset(reader.i64("CommittedOffset")?)
                .with_committed_leader_epoch(reader.i32("CommittedLeaderEpoch")?)
                .with_committed_metadata(reader.string(true, "CommittedMetadata")?.map(string));
            reader.skip_tags()?;
            topic.partitions.push(partition);
        }
        reader.skip_tags()?;
        request.topics.push(topic);
    }
    reader.skip_tags()?;
    Ok(request)
}

/// Any version. From 10 on the names of topics are empty.
pub fn decode_offset_fetch(version: i16, body: Bytes) -> Result<OffsetFetchRequest, Malformed> {
    if version < TOPIC_IDS_SINCE {
        return decode_request(version, body);
    }
    walker::walk(key::OFFSET_FETCH, version, &body)?;
    let mut reader = Reader::new(&body, true);
    let mut request = OffsetFetchRequest::default();
    for _ in 0..reader.elements(8, "Groups")? {
        let mut group = OffsetFetchRequestGroup::default();
        group.group_id = GroupId(string(reader.text("GroupId")?));
        group.member_id = reader.string(true, "MemberId")?.map(string);
        group.member_epoch = reader.i32("MemberEpoch")?;
        let topics = reader.count(true, 18, "Topics")?;
        group.topics = None;
        if let Some(count) = topics {
            let mut topics = Vec::new();
            for _ in 0..count {
                let mut topic = OffsetFetchRequestTopics::default();
                topic.topic_id = uuid::Uuid::from_bytes(reader.uuid("TopicId")?);
                for _ in 0..reader.elements(4, "PartitionIndexes")? {
                    topic
                        .partition_indexes
                        .push(reader.i32("PartitionIndexes")?);
                }
                reader.skip_tags()?;
                topics.push(topic);
            }
            group.topics = Some(topics);
        }
        reader.skip_tags()?;
        request.groups.push(group);
    }
    request.require_stable = reader.i8("RequireStable")? != 0;
    reader.skip_tags()?;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_by_topic_id_is_decoded() {
        let mut body = vec![2, b'g', 0, 0, 0, 7, 3, b'm', b'1', 0, 2];
        body.extend([9; 16]);
        body.push(2);
        body.extend([0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 5]);
        body.extend([4, b'a', b'b', b'c', 0, 0, 0]);
        let request = decode_offset_commit(10, body.into()).unwrap();
        assert_eq!(request.group_id.as_str(), "g");
        assert_eq!(request.generation_id_or_member_epoch, 7);
        assert_eq!(request.member_id.as_str(), "m1");
        assert_eq!(request.retention_time_ms, -1);
        let topic = &request.topics[0];
        assert_eq!(topic.topic_id, uuid::Uuid::from_bytes([9; 16]));
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(3)
            .with_committed_offset(256)
            .with_committed_leader_epoch(5)
            .with_committed_metadata(Some(string("abc")));
        assert_eq!(topic.partitions, [partition]);
    }

    #[test]
    fn a_fetch_by_topic_id_is_decoded() {
        let mut body = vec![3, 2, b'g', 0, 255, 255, 255, 255, 0, 0];
        body.extend([2, b'h', 2, b'm', 0, 0, 0, 4, 2]);
        body.extend([9; 16]);
        body.extend([3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 1, 0]);
        let request = decode_offset_fetch(10, body.into()).unwrap();
        assert!(request.require_stable);
        assert_eq!(request.groups[0].topics, None);
        assert_eq!(request.groups[0].member_epoch, -1);
        let topics = request.groups[1].topics.as_ref().unwrap();
        assert_eq!(topics[0].topic_id, uuid::Uuid::from_bytes([9; 16]));
        assert_eq!(topics[0].partition_indexes, [1, 2]);
        assert_eq!(request.groups[1].member_id.as_deref(), Some("m"));
    }
}
