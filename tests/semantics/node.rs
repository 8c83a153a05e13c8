//! What a node says of itself: versions, addresses, directories, quorum.

use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::describe_quorum_request::{PartitionData, TopicData};
use kafka_protocol::messages::{
    ApiVersionsRequest, DescribeClusterRequest, DescribeLogDirsRequest, DescribeQuorumRequest,
    MetadataRequest,
};

use crate::broker::free_port;
use crate::wire::*;

#[test]
fn api_versions_are_told_in_every_version() {
    let mut wire = Wire::shared();
    for version in 0..=4 {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(text("wire"))
            .with_client_software_version(text("1"));
        let response = wire.ask(version, &request);
        assert_eq!(response.error_code, 0);
        let produce = response
            .api_keys
            .iter()
            .find(|k| k.api_key == 0)
            .expect("told");
        assert_eq!((produce.min_version, produce.max_version), (0, 13));
        let fetch = response
            .api_keys
            .iter()
            .find(|k| k.api_key == 1)
            .expect("told");
        assert_eq!((fetch.min_version, fetch.max_version), (4, 18));
    }
    let response = wire.ask(3, &ApiVersionsRequest::default());
    assert_eq!(response.error_code, code::INVALID_REQUEST);
}

#[test]
fn an_unsupported_version_closes_the_connection() {
    let mut wire = Wire::shared();
    wire.send(14, &Unsupported);
    assert!(wire.is_closed());
}

/// A metadata request of a version that does not exist.
struct Unsupported;

mod unsupported {

    use kafka_protocol::messages::{MetadataRequest, MetadataResponse};
    use kafka_protocol::protocol::buf::{ByteBuf, ByteBufMut};
    use kafka_protocol::protocol::{
        Decodable, Encodable, HeaderVersion, Message, Request, VersionRange,
    };

    use super::Unsupported;

    impl Message for Unsupported {
        const VERSIONS: VersionRange = VersionRange { min: 14, max: 14 };
        const DEPRECATED_VERSIONS: Option<VersionRange> = None;
    }

    impl Encodable for Unsupported {
        fn encode<B: ByteBufMut>(&self, buf: &mut B, _version: i16) -> anyhow::Result<()> {
            buf.put_u8(0);
            Ok(())
        }

        fn compute_size(&self, _version: i16) -> anyhow::Result<usize> {
            Ok(1)
        }
    }

    impl Decodable for Unsupported {
        fn decode<B: ByteBuf>(buf: &mut B, _version: i16) -> anyhow::Result<Self> {
            buf.advance(1);
            Ok(Unsupported)
        }
    }

    impl HeaderVersion for Unsupported {
        fn header_version(_version: i16) -> i16 {
            2
        }
    }

    impl Request for Unsupported {
        const KEY: i16 = MetadataRequest::KEY;
        type Response = MetadataResponse;
    }
}

#[test]
fn each_listener_tells_its_own_address() {
    if is_kafka() {
        return; // The reference is started with one listener.
    }
    let (inner, outer) = (free_port(), free_port());
    let listeners = format!("PLAINTEXT://127.0.0.1:{inner},OUTER://127.0.0.1:{outer}");
    let advertised = format!("PLAINTEXT://inner.example:{inner},OUTER://outer.example:7777");
    let _broker = own_broker(
        "listeners",
        &[
            ("ringspun.shards", "2"),
            ("listeners", &listeners),
            ("advertised.listeners", &advertised),
            (
                "listener.security.protocol.map",
                "PLAINTEXT:PLAINTEXT,OUTER:PLAINTEXT",
            ),
        ],
    );
    for (port, expected) in [
        (inner, ("inner.example", i32::from(inner))),
        (outer, ("outer.example", 7777)),
    ] {
        let mut wire = Wire::connect(&format!("127.0.0.1:{port}"));
        let response = wire.ask(12, &MetadataRequest::default().with_topics(Some(vec![])));
        let broker = &response.brokers[0];
        assert_eq!((broker.host.as_str(), broker.port), expected);
        let response = wire.ask(1, &DescribeClusterRequest::default().with_endpoint_type(1));
        let broker = &response.brokers[0];
        assert_eq!((broker.host.as_str(), broker.port), expected);
    }
}

#[test]
fn a_cluster_of_one_is_described() {
    let mut wire = Wire::shared();
    for version in 0..=2 {
        let request = DescribeClusterRequest::default()
            .with_endpoint_type(1)
            .with_include_cluster_authorized_operations(true);
        let response = wire.ask(version, &request);
        assert_eq!((response.error_code, response.controller_id.0), (0, 1));
        assert_eq!(response.brokers.len(), 1);
        assert_eq!(response.cluster_id.len(), 22);
        assert_eq!(response.cluster_authorized_operations, 0b1_1111_1010_0000);
    }
    let request = DescribeClusterRequest::default().with_endpoint_type(2);
    assert_ne!(wire.ask(1, &request).error_code, 0);
}

#[test]
fn directories_tell_the_bytes_of_partitions() {
    let mut wire = Wire::shared();
    let topic = name("dirs");
    wire.create(&topic, 5, &[]);
    let records = batch_of_bytes(5000);
    let length = records.len() as i64;
    wire.append(&topic, 3, records);
    for version in 1..=4 {
        let request = DescribeLogDirsRequest::default().with_topics(Some(vec![
            DescribableLogDirTopic::default()
                .with_topic(topic_name(&topic))
                .with_partitions(vec![3, 1]),
        ]));
        let response = wire.ask(version, &request);
        let directory = &response.results[0];
        assert_eq!(directory.error_code, 0);
        let found = &directory.topics[0].partitions;
        let sizes: Vec<(i32, i64)> = found
            .iter()
            .map(|p| (p.partition_index, p.partition_size))
            .collect();
        let mut sorted = sizes.clone();
        sorted.sort();
        assert_eq!(sorted, [(1, 0), (3, length)]);
        if version >= 4 {
            assert!(directory.total_bytes > 0 && directory.usable_bytes > 0);
        }
    }
}

#[test]
fn the_quorum_of_one_leads() {
    let mut wire = Wire::shared();
    let asked = |topic: &str| {
        DescribeQuorumRequest::default().with_topics(vec![
            TopicData::default()
                .with_topic_name(topic_name(topic))
                .with_partitions(vec![PartitionData::default().with_partition_index(0)]),
        ])
    };
    for version in 0..=2 {
        let response = wire.ask(version, &asked("__cluster_metadata"));
        assert_eq!(response.error_code, 0);
        let partition = &response.topics[0].partitions[0];
        assert_eq!((partition.error_code, partition.leader_id.0), (0, 1));
        assert_eq!(partition.current_voters.len(), 1);
        assert!(partition.high_watermark > 0);
    }
}
