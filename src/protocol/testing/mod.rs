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
use super::walker::{Field, REQUESTS, responses::RESPONSES};

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
    API_VERSIONS: ApiVersionsRequest, ApiVersionsResponse;
    CREATE_TOPICS: CreateTopicsRequest, CreateTopicsResponse;
    DELETE_TOPICS: DeleteTopicsRequest, DeleteTopicsResponse;
    DELETE_RECORDS: DeleteRecordsRequest, DeleteRecordsResponse;
    INIT_PRODUCER_ID: InitProducerIdRequest, InitProducerIdResponse;
    OFFSET_FOR_LEADER_EPOCH: OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse;
    DESCRIBE_CONFIGS: DescribeConfigsRequest, DescribeConfigsResponse;
    ALTER_CONFIGS: AlterConfigsRequest, AlterConfigsResponse;
    DESCRIBE_LOG_DIRS: DescribeLogDirsRequest, DescribeLogDirsResponse;
    CREATE_PARTITIONS: CreatePartitionsRequest, CreatePartitionsResponse;
    ELECT_LEADERS: ElectLeadersRequest, ElectLeadersResponse;
    INCREMENTAL_ALTER_CONFIGS: IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse;
    LIST_PARTITION_REASSIGNMENTS: ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse;
    DESCRIBE_QUORUM: DescribeQuorumRequest, DescribeQuorumResponse;
    DESCRIBE_CLUSTER: DescribeClusterRequest, DescribeClusterResponse;
    DESCRIBE_PRODUCERS: DescribeProducersRequest, DescribeProducersResponse;
    LIST_CONFIG_RESOURCES: ListConfigResourcesRequest, ListConfigResourcesResponse;
    DESCRIBE_TOPIC_PARTITIONS: DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse;
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
