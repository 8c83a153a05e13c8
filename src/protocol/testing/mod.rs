//! The layouts, the decoders and the encoders against each other and against the crate's types.

mod conformance;
mod fetch;
mod hostile;
mod produce;

use bytes::Bytes;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable};

use super::api::{self, APIS};
use super::fuzz::{Generator, Rng};
use super::txn_markers::WriteTxnMarkersRequest;
use super::walker::{Field, REQUESTS, responses::RESPONSES};
use super::{newer, topic_ids};

/// Decodes and encodes again with the crate; errs if the crate refuses or leaves bytes over.
type Recode = fn(i16, &[u8]) -> anyhow::Result<Vec<u8>>;

fn recode<T: Decodable + Encodable>(version: i16, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut rest = Bytes::copy_from_slice(bytes);
    let message = T::decode(&mut rest, version)?;
    anyhow::ensure!(rest.is_empty(), "{} bytes left", rest.len());
    let mut out = Vec::new();
    message.encode(&mut out, version)?;
    anyhow::ensure!(message.compute_size(version)? == out.len(), "size");
    Ok(out)
}

/// Decodes with the crate; errs if the crate refuses or leaves bytes over.
fn decode<T: Decodable>(version: i16, bytes: &[u8]) -> anyhow::Result<()> {
    let mut rest = Bytes::copy_from_slice(bytes);
    T::decode(&mut rest, version)?;
    anyhow::ensure!(rest.is_empty(), "{} bytes left", rest.len());
    Ok(())
}

macro_rules! recoders {
    ($($key:ident: $request:ident, $response:ident;)*) => {
        /// The crate's types of an API.
        fn recoders(key: i16) -> (Recode, Recode) {
            match key {
                $(api::key::$key => (recode::<$request> as Recode, recode::<$response> as Recode),)*
                _ => panic!("no types for key {key}"),
            }
        }

        /// Decodes a request of an API with the crate's type.
        fn decode_with_crate(key: i16, version: i16, bytes: &[u8]) -> anyhow::Result<()> {
            match key {
                $(api::key::$key => decode::<$request>(version, bytes),)*
                _ => panic!("no types for key {key}"),
            }
        }
    };
}

recoders! {
    PRODUCE: ProduceRequest, ProduceResponse;
    FETCH: FetchRequest, FetchResponse;
    LIST_OFFSETS: ListOffsetsRequest, ListOffsetsResponse;
    METADATA: MetadataRequest, MetadataResponse;
    OFFSET_COMMIT: OffsetCommitRequest, OffsetCommitResponse;
    OFFSET_FETCH: OffsetFetchRequest, OffsetFetchResponse;
    FIND_COORDINATOR: FindCoordinatorRequest, FindCoordinatorResponse;
    JOIN_GROUP: JoinGroupRequest, JoinGroupResponse;
    HEARTBEAT: HeartbeatRequest, HeartbeatResponse;
    LEAVE_GROUP: LeaveGroupRequest, LeaveGroupResponse;
    SYNC_GROUP: SyncGroupRequest, SyncGroupResponse;
    DESCRIBE_GROUPS: DescribeGroupsRequest, DescribeGroupsResponse;
    LIST_GROUPS: ListGroupsRequest, ListGroupsResponse;
    API_VERSIONS: ApiVersionsRequest, ApiVersionsResponse;
    CREATE_TOPICS: CreateTopicsRequest, CreateTopicsResponse;
    DELETE_TOPICS: DeleteTopicsRequest, DeleteTopicsResponse;
    DELETE_RECORDS: DeleteRecordsRequest, DeleteRecordsResponse;
    INIT_PRODUCER_ID: InitProducerIdRequest, InitProducerIdResponse;
    OFFSET_FOR_LEADER_EPOCH: OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse;
    ADD_PARTITIONS_TO_TXN: AddPartitionsToTxnRequest, AddPartitionsToTxnResponse;
    ADD_OFFSETS_TO_TXN: AddOffsetsToTxnRequest, AddOffsetsToTxnResponse;
    END_TXN: EndTxnRequest, EndTxnResponse;
    WRITE_TXN_MARKERS: WriteTxnMarkersRequest, WriteTxnMarkersResponse;
    TXN_OFFSET_COMMIT: TxnOffsetCommitRequest, TxnOffsetCommitResponse;
    DESCRIBE_CONFIGS: DescribeConfigsRequest, DescribeConfigsResponse;
    ALTER_CONFIGS: AlterConfigsRequest, AlterConfigsResponse;
    ALTER_REPLICA_LOG_DIRS: AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse;
    DESCRIBE_LOG_DIRS: DescribeLogDirsRequest, DescribeLogDirsResponse;
    CREATE_PARTITIONS: CreatePartitionsRequest, CreatePartitionsResponse;
    DELETE_GROUPS: DeleteGroupsRequest, DeleteGroupsResponse;
    ELECT_LEADERS: ElectLeadersRequest, ElectLeadersResponse;
    INCREMENTAL_ALTER_CONFIGS: IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse;
    ALTER_PARTITION_REASSIGNMENTS: AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse;
    LIST_PARTITION_REASSIGNMENTS: ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse;
    OFFSET_DELETE: OffsetDeleteRequest, OffsetDeleteResponse;
    DESCRIBE_QUORUM: DescribeQuorumRequest, DescribeQuorumResponse;
    DESCRIBE_CLUSTER: DescribeClusterRequest, DescribeClusterResponse;
    DESCRIBE_PRODUCERS: DescribeProducersRequest, DescribeProducersResponse;
    DESCRIBE_TRANSACTIONS: DescribeTransactionsRequest, DescribeTransactionsResponse;
    LIST_TRANSACTIONS: ListTransactionsRequest, ListTransactionsResponse;
    CONSUMER_GROUP_HEARTBEAT: ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse;
    CONSUMER_GROUP_DESCRIBE: ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse;
    LIST_CONFIG_RESOURCES: ListConfigResourcesRequest, ListConfigResourcesResponse;
    DESCRIBE_TOPIC_PARTITIONS: DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse;
}

/// Whether a request is decoded here and not by the crate.
fn is_decoded_here(key: i16, version: i16) -> bool {
    matches!(key, api::key::OFFSET_COMMIT | api::key::OFFSET_FETCH)
        && version >= topic_ids::TOPIC_IDS_SINCE
}

/// Decodes a request of any version with whoever can.
fn decode_any(key: i16, version: i16, bytes: &[u8]) -> anyhow::Result<()> {
    let body = Bytes::copy_from_slice(bytes);
    match key {
        api::key::OFFSET_COMMIT => Ok(topic_ids::decode_offset_commit(version, body).map(drop)?),
        api::key::OFFSET_FETCH => Ok(topic_ids::decode_offset_fetch(version, body).map(drop)?),
        _ => decode_with_crate(key, newer::request_version(key, version), bytes),
    }
}

/// Every API with each version it is served in.
fn served() -> impl Iterator<Item = (&'static api::Api, i16)> {
    APIS.iter()
        .flat_map(|api| (api.min..=api.max).map(move |version| (api, version)))
}

fn request_fields(key: i16) -> &'static [Field] {
    REQUESTS.iter().find(|l| l.key == key).unwrap().fields
}

fn response_fields(key: i16) -> &'static [Field] {
    RESPONSES.iter().find(|l| l.key == key).unwrap().fields
}

fn generate(
    rng: &mut Rng,
    fields: &[Field],
    version: i16,
    flexible: bool,
    unknown_tags: bool,
) -> Vec<u8> {
    let mut generator = Generator {
        rng,
        version,
        flexible,
        unknown_tags,
        out: Vec::new(),
    };
    generator.fields(fields);
    generator.out
}
