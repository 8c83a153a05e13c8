//! The layouts say what Kafka 4.3's schemas say, the crate's types what Kafka 4.1's do: where they agree
//! byte for byte, both are right.

use kafka_protocol::messages as m;

use super::*;
use crate::protocol::newer;
use crate::protocol::reader::Reader;
use crate::protocol::walker::{self, Kind, decoded_size, walk_fields};

#[test]
fn the_layouts_are_those_of_the_served_apis() {
    let keys: Vec<i16> = APIS.iter().map(|api| api.key).collect();
    assert_eq!(REQUESTS.iter().map(|l| l.key).collect::<Vec<_>>(), keys);
    assert_eq!(RESPONSES.iter().map(|l| l.key).collect::<Vec<_>>(), keys);
}

#[test]
fn every_request_of_every_version_is_walked_and_decoded_to_its_last_byte() {
    let mut rng = Rng::new(1);
    for (api, version) in served() {
        if is_decoded_here(api.key, version) {
            continue; // Names are ids, which the crate's types refuse: below.
        }
        let (request, _) = recoders(api.key);
        for round in 0..200 {
            let flexible = api.flexible(version);
            let fields = request_fields(api.key);
            let bytes = generate(&mut rng, fields, version, flexible, round % 2 == 1);
            let walked = walker::walk(api.key, version, &bytes)
                .unwrap_or_else(|e| panic!("{} {version}: {e}", api.name));
            assert_eq!(walked.consumed, bytes.len(), "{} {version}", api.name);
            let again = request(newer::request_version(api.key, version), &bytes)
                .unwrap_or_else(|e| panic!("{} {version}: {e}", api.name));
            assert_eq!(again, bytes, "{} {version}", api.name);
        }
    }
}

#[test]
fn requests_that_name_topics_by_id_are_walked_and_decoded() {
    let mut rng = Rng::new(7);
    for (api, version) in served().filter(|(api, version)| is_decoded_here(api.key, *version)) {
        for round in 0..200 {
            let fields = request_fields(api.key);
            let bytes = generate(&mut rng, fields, version, true, round % 2 == 1);
            let walked = walker::walk(api.key, version, &bytes).unwrap();
            assert_eq!(walked.consumed, bytes.len(), "{} {version}", api.name);
            decode_any(api.key, version, &bytes).unwrap();
        }
    }
}

#[test]
fn every_response_of_every_version_is_encoded_as_the_schema_says() {
    let mut rng = Rng::new(2);
    for (api, version) in served() {
        if (api.key, version) == (api::key::DESCRIBE_LOG_DIRS, 5) {
            continue; // Its type is ours and only encodes: tested beside it, and below.
        }
        let (_, response) = recoders(api.key);
        for round in 0..200 {
            let flexible = api.flexible(version);
            let fields = response_fields(api.key);
            let bytes = generate(&mut rng, fields, version, flexible, round % 2 == 1);
            let again = response(newer::response_version(api.key, version), &bytes)
                .unwrap_or_else(|e| panic!("{} {version}: {e}", api.name));
            assert_eq!(again, bytes, "{} {version}", api.name);
        }
    }
}

#[test]
fn our_describe_log_dirs_response_fits_the_schema_in_every_version() {
    let response = newer::DescribeLogDirsResponse {
        results: vec![newer::DescribeLogDirsResult::default(); 3],
        ..Default::default()
    };
    for version in 1..=5 {
        let mut out = Vec::new();
        response.encode(&mut out, version).unwrap();
        let fields = response_fields(api::key::DESCRIBE_LOG_DIRS);
        let walked = walk_fields(fields, version, Reader::new(&out, version >= 2)).unwrap();
        assert_eq!(walked.consumed, out.len());
    }
}

#[test]
fn default_messages_of_the_crate_walk_in_every_version() {
    fn check<T: kafka_protocol::protocol::Request + Default>(key: i16) {
        let api = api::find(key).unwrap();
        for version in api.min..=api.max {
            let mut out = Vec::new();
            let encoded = T::default().encode(&mut out, newer::request_version(key, version));
            encoded.unwrap();
            let walked = walker::walk(key, version, &out).unwrap();
            assert_eq!(walked.consumed, out.len());
        }
    }
    check::<m::ProduceRequest>(api::key::PRODUCE);
    check::<m::FetchRequest>(api::key::FETCH);
    check::<m::ListOffsetsRequest>(api::key::LIST_OFFSETS);
    check::<m::CreateTopicsRequest>(api::key::CREATE_TOPICS);
    check::<m::CreatePartitionsRequest>(api::key::CREATE_PARTITIONS);
    check::<m::DescribeConfigsRequest>(api::key::DESCRIBE_CONFIGS);
    check::<m::DescribeTopicPartitionsRequest>(api::key::DESCRIBE_TOPIC_PARTITIONS);
    check::<m::InitProducerIdRequest>(api::key::INIT_PRODUCER_ID);
    check::<m::DescribeLogDirsRequest>(api::key::DESCRIBE_LOG_DIRS);
}

/// The element type at a path of field names.
fn element(key: i16, path: &[&str]) -> &'static Kind {
    let mut fields = request_fields(key);
    let mut found = None;
    for name in path {
        let field = fields.iter().find(|f| f.name == *name).unwrap();
        let kind = match &field.kind {
            Kind::Array(element) => *element,
            kind => kind,
        };
        if let Kind::Struct(inner) = kind {
            fields = inner;
        }
        found = Some(kind);
    }
    found.unwrap()
}

#[test]
fn the_memory_of_an_element_is_not_underestimated() {
    fn check<T>(key: i16, path: &[&str]) {
        let estimate = decoded_size(element(key, path));
        let real = size_of::<T>();
        assert!(estimate >= real, "{path:?}: {estimate} < {real}");
        assert!(estimate <= 2 * real + 32, "{path:?}: {estimate} >> {real}");
    }
    use crate::protocol::{fetch, produce};
    use api::key::*;
    use m::*;
    check::<produce::ProduceTopic>(PRODUCE, &["TopicData"]);
    // With the place of its records, which is noted beside it.
    check::<(produce::ProducePartition, Option<(usize, usize)>)>(
        PRODUCE,
        &["TopicData", "PartitionData"],
    );
    check::<fetch::FetchTopic>(FETCH, &["Topics"]);
    check::<fetch::FetchPartition>(FETCH, &["Topics", "Partitions"]);
    check::<fetch::ForgottenTopic>(FETCH, &["ForgottenTopicsData"]);
    check::<metadata_request::MetadataRequestTopic>(METADATA, &["Topics"]);
    check::<list_offsets_request::ListOffsetsTopic>(LIST_OFFSETS, &["Topics"]);
    check::<list_offsets_request::ListOffsetsPartition>(LIST_OFFSETS, &["Topics", "Partitions"]);
    check::<create_topics_request::CreatableTopic>(CREATE_TOPICS, &["Topics"]);
    check::<create_topics_request::CreatableReplicaAssignment>(
        CREATE_TOPICS,
        &["Topics", "Assignments"],
    );
    check::<create_topics_request::CreatableTopicConfig>(CREATE_TOPICS, &["Topics", "Configs"]);
    check::<delete_topics_request::DeleteTopicState>(DELETE_TOPICS, &["Topics"]);
    check::<TopicName>(DELETE_TOPICS, &["TopicNames"]);
    check::<delete_records_request::DeleteRecordsTopic>(DELETE_RECORDS, &["Topics"]);
    check::<delete_records_request::DeleteRecordsPartition>(
        DELETE_RECORDS,
        &["Topics", "Partitions"],
    );
    check::<describe_configs_request::DescribeConfigsResource>(DESCRIBE_CONFIGS, &["Resources"]);
    check::<alter_configs_request::AlterConfigsResource>(ALTER_CONFIGS, &["Resources"]);
    check::<alter_configs_request::AlterableConfig>(ALTER_CONFIGS, &["Resources", "Configs"]);
    check::<create_partitions_request::CreatePartitionsTopic>(CREATE_PARTITIONS, &["Topics"]);
    check::<create_partitions_request::CreatePartitionsAssignment>(
        CREATE_PARTITIONS,
        &["Topics", "Assignments"],
    );
    check::<incremental_alter_configs_request::AlterConfigsResource>(
        INCREMENTAL_ALTER_CONFIGS,
        &["Resources"],
    );
    check::<describe_topic_partitions_request::TopicRequest>(
        DESCRIBE_TOPIC_PARTITIONS,
        &["Topics"],
    );
    check::<describe_producers_request::TopicRequest>(DESCRIBE_PRODUCERS, &["Topics"]);
    check::<add_partitions_to_txn_request::AddPartitionsToTxnTransaction>(
        ADD_PARTITIONS_TO_TXN,
        &["Transactions"],
    );
    check::<add_partitions_to_txn_request::AddPartitionsToTxnTopic>(
        ADD_PARTITIONS_TO_TXN,
        &["V3AndBelowTopics"],
    );
    check::<crate::protocol::txn_markers::TxnMarker>(WRITE_TXN_MARKERS, &["Markers"]);
    check::<txn_offset_commit_request::TxnOffsetCommitRequestPartition>(
        TXN_OFFSET_COMMIT,
        &["Topics", "Partitions"],
    );
    check::<offset_for_leader_epoch_request::OffsetForLeaderPartition>(
        OFFSET_FOR_LEADER_EPOCH,
        &["Topics", "Partitions"],
    );
}
