//! A client of one connection that sends what it is told and decodes what it gets.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::ListOffsetsPartitionResponse;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, FetchRequest, FetchResponse, ListOffsetsRequest, ProduceRequest,
    RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use ringspun::base::{ProducerEpoch, ProducerId, Timestamp};
use ringspun::records::BatchBuilder;
use uuid::Uuid;

use crate::broker::{Broker, Kind};

/// Error codes by their names in Kafka.
pub mod code {
    pub const UNKNOWN_SERVER_ERROR: i16 = -1;
    pub const NONE: i16 = 0;
    pub const OFFSET_OUT_OF_RANGE: i16 = 1;
    pub const CORRUPT_MESSAGE: i16 = 2;
    pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    pub const MESSAGE_TOO_LARGE: i16 = 10;
    pub const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
    pub const COORDINATOR_NOT_AVAILABLE: i16 = 15;
    pub const NOT_COORDINATOR: i16 = 16;
    pub const INVALID_TOPIC_EXCEPTION: i16 = 17;
    pub const RECORD_LIST_TOO_LARGE: i16 = 18;
    pub const INVALID_REQUIRED_ACKS: i16 = 21;
    pub const INVALID_TIMESTAMP: i16 = 32;
    pub const UNSUPPORTED_VERSION: i16 = 35;
    pub const TOPIC_ALREADY_EXISTS: i16 = 36;
    pub const INVALID_PARTITIONS: i16 = 37;
    pub const INVALID_REPLICATION_FACTOR: i16 = 38;
    pub const INVALID_REPLICA_ASSIGNMENT: i16 = 39;
    pub const INVALID_CONFIG: i16 = 40;
    pub const INVALID_REQUEST: i16 = 42;
    pub const POLICY_VIOLATION: i16 = 44;
    pub const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
    pub const INVALID_PRODUCER_EPOCH: i16 = 47;
    pub const INVALID_TXN_STATE: i16 = 48;
    pub const INVALID_PRODUCER_ID_MAPPING: i16 = 49;
    pub const INVALID_TRANSACTION_TIMEOUT: i16 = 50;
    pub const CONCURRENT_TRANSACTIONS: i16 = 51;
    pub const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = 53;
    pub const OPERATION_NOT_ATTEMPTED: i16 = 55;
    pub const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
    pub const INVALID_FETCH_SESSION_EPOCH: i16 = 71;
    pub const UNKNOWN_LEADER_EPOCH: i16 = 75;
    pub const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
    pub const ELECTION_NOT_NEEDED: i16 = 84;
    pub const UNSTABLE_OFFSET_COMMIT: i16 = 88;
    pub const PRODUCER_FENCED: i16 = 90;
    pub const TRANSACTIONAL_ID_NOT_FOUND: i16 = 105;
    pub const TRANSACTION_ABORTABLE: i16 = 120;
    pub const INVALID_REGULAR_EXPRESSION: i16 = 128;
    pub const INVALID_RECORD: i16 = 87;
    pub const UNKNOWN_TOPIC_ID: i16 = 100;
    pub const FETCH_SESSION_TOPIC_ID_ERROR: i16 = 106;
}

/// Where a broker of this test keeps its data; empty.
pub fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("broker-{name}-{:?}", Kind::from_environment()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

/// A broker of a test's own.
pub fn own_broker(name: &str, settings: &[(&str, &str)]) -> Broker {
    Broker::start(Kind::from_environment(), &folder(name), settings).expect("a broker")
}

/// The address of the broker that most tests share: four shards, defaults.
pub fn shared() -> &'static str {
    static SHARED: OnceLock<String> = OnceLock::new();
    SHARED.get_or_init(|| {
        let (sender, receiver) = mpsc::channel();
        // The broker ends with the thread that started it, which therefore stays.
        std::thread::spawn(move || {
            let broker = own_broker("shared", &[("ringspun.shards", "4")]);
            sender.send(broker.bootstrap()).expect("the test waits");
            loop {
                std::thread::park();
            }
        });
        receiver.recv().expect("a broker")
    })
}

pub fn is_kafka() -> bool {
    Kind::from_environment() == Kind::Kafka
}

/// A topic name that no other test has.
pub fn name(of: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{of}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

pub struct Wire {
    stream: TcpStream,
    correlation_id: i32,
}

impl Wire {
    pub fn shared() -> Wire {
        Wire::connect(shared())
    }

    pub fn connect(address: &str) -> Wire {
        let stream = TcpStream::connect(address).expect("a broker listens");
        stream.set_nodelay(true).expect("a socket");
        let limit = Some(Duration::from_secs(30));
        stream.set_read_timeout(limit).expect("a socket");
        Wire {
            stream,
            correlation_id: 0,
        }
    }

    pub fn send<R: Request>(&mut self, version: i16, request: &R) {
        self.correlation_id += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(text("wire")));
        let mut frame = BytesMut::from(&[0; 4][..]);
        header
            .encode(&mut frame, R::header_version(version))
            .expect("encodes");
        request.encode(&mut frame, version).expect("encodes");
        let length = (frame.len() - 4) as u32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame).expect("the broker reads");
    }

    /// The response to the oldest request that has none yet.
    pub fn receive<R: Request>(&mut self, version: i16) -> R::Response {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).expect("a response");
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame).expect("a response");
        let mut frame = Bytes::from(frame);
        ResponseHeader::decode(&mut frame, R::Response::header_version(version)).expect("a header");
        let response = R::Response::decode(&mut frame, version).expect("a response");
        assert!(!frame.has_remaining(), "bytes behind the response");
        response
    }

    pub fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.send(version, request);
        self.receive::<R>(version)
    }

    /// Whether the broker closes the connection without an answer.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0))
            || self.stream.take_error().is_ok_and(|error| error.is_some())
    }

    /// Creates a topic and returns its id.
    pub fn create(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Uuid {
        let request = CreateTopicsRequest::default()
            .with_timeout_ms(10_000)
            .with_topics(vec![creatable(name, partitions, configs)]);
        let response = self.ask(7, &request);
        let topic = &response.topics[0];
        assert_eq!(topic.error_code, 0, "{:?}", topic.error_message);
        if is_kafka() {
            // It answers a little before the leaders serve.
            std::thread::sleep(Duration::from_millis(300));
        }
        topic.topic_id
    }

    pub fn produce(
        &mut self,
        version: i16,
        acks: i16,
        topic: &str,
        partition: i32,
        records: impl Into<Bytes>,
    ) -> PartitionProduceResponse {
        let request = produce_request(acks, topic, partition, Some(records.into()));
        let mut response = self.ask(version, &request);
        response.responses.remove(0).partition_responses.remove(0)
    }

    /// Produces, and expects it to succeed; the base offset.
    pub fn append(&mut self, topic: &str, partition: i32, records: impl Into<Bytes>) -> i64 {
        let response = self.produce(9, -1, topic, partition, records);
        assert_eq!(response.error_code, 0, "{:?}", response.error_message);
        response.base_offset
    }

    /// Fetches one partition without waiting.
    pub fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> PartitionData {
        let asked = fetch_partition(partition, offset);
        let request = fetch_request(0, 1, vec![fetch_topic(topic, vec![asked])]);
        let response = self.ask(12, &request);
        only(response)
    }

    pub fn list_offset(
        &mut self,
        version: i16,
        topic: &str,
        partition: i32,
        timestamp: i64,
    ) -> ListOffsetsPartitionResponse {
        let request = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_topics(vec![
                ListOffsetsTopic::default()
                    .with_name(topic_name(topic))
                    .with_partitions(vec![
                        ListOffsetsPartition::default()
                            .with_partition_index(partition)
                            .with_current_leader_epoch(-1)
                            .with_timestamp(timestamp),
                    ]),
            ]);
        let mut response = self.ask(version, &request);
        response.topics.remove(0).partitions.remove(0)
    }
}

pub fn creatable(name: &str, partitions: i32, configs: &[(&str, &str)]) -> CreatableTopic {
    CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(partitions)
        .with_replication_factor(-1)
        .with_configs(
            configs
                .iter()
                .map(|(name, value)| {
                    CreatableTopicConfig::default()
                        .with_name(text(name))
                        .with_value(Some(text(value)))
                })
                .collect(),
        )
}

pub fn produce_request(
    acks: i16,
    topic: &str,
    partition: i32,
    records: Option<Bytes>,
) -> ProduceRequest {
    let partition = PartitionProduceData::default()
        .with_index(partition)
        .with_records(records);
    ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(10_000)
        .with_topic_data(vec![
            TopicProduceData::default()
                .with_name(topic_name(topic))
                .with_partition_data(vec![partition]),
        ])
}

pub fn fetch_partition(partition: i32, offset: i64) -> FetchPartition {
    FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(offset)
        .with_current_leader_epoch(-1)
        .with_last_fetched_epoch(-1)
        .with_log_start_offset(-1)
        .with_partition_max_bytes(1 << 20)
}

pub fn fetch_topic(topic: &str, partitions: Vec<FetchPartition>) -> FetchTopic {
    FetchTopic::default()
        .with_topic(topic_name(topic))
        .with_partitions(partitions)
}

/// A fetch without a session.
pub fn fetch_request(max_wait_ms: i32, min_bytes: i32, topics: Vec<FetchTopic>) -> FetchRequest {
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(max_wait_ms)
        .with_min_bytes(min_bytes)
        .with_max_bytes(50 << 20)
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(topics)
}

/// The one partition of a response.
pub fn only(mut response: FetchResponse) -> PartitionData {
    assert_eq!(response.error_code, 0);
    assert_eq!(response.responses.len(), 1);
    response.responses.remove(0).partitions.remove(0)
}

pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("after 1970").as_millis() as i64
}

/// A batch of records with these values and times, without keys.
pub fn batch_at(records: &[(i64, &[u8])]) -> Vec<u8> {
    let mut batch = BatchBuilder::uncompressed();
    for &(timestamp, value) in records {
        batch.append(Timestamp(timestamp), None, Some(value), &[]);
    }
    batch.build()
}

/// A batch of `count` small records.
pub fn batch(count: usize) -> Vec<u8> {
    batch_at(&vec![(now(), &b"value"[..]); count])
}

/// A batch of one record of about this many bytes.
pub fn batch_of_bytes(bytes: usize) -> Vec<u8> {
    batch_at(&[(now(), &vec![b'x'; bytes])])
}

pub fn batch_by(id: i64, epoch: i16, sequence: i32, count: usize) -> Vec<u8> {
    let mut batch =
        BatchBuilder::uncompressed().producer(ProducerId(id), ProducerEpoch(epoch), sequence);
    for _ in 0..count {
        batch.append(Timestamp(now()), None, Some(b"value"), &[]);
    }
    batch.build()
}

/// Puts the right CRC into a batch that was changed.
pub fn with_crc(mut batch: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// Base offset, last offset and length of each batch.
pub fn batches(mut records: &[u8]) -> Vec<(i64, i64, usize)> {
    let mut found = Vec::new();
    while records.len() >= 61 {
        let base = i64::from_be_bytes(records[..8].try_into().expect("8"));
        let length = u32::from_be_bytes(records[8..12].try_into().expect("4")) as usize + 12;
        let delta = i32::from_be_bytes(records[23..27].try_into().expect("4"));
        found.push((base, base + i64::from(delta), length));
        records = records.get(length..).unwrap_or_default();
    }
    found
}

/// Base offsets of what was fetched.
pub fn bases(data: &PartitionData) -> Vec<i64> {
    let records = data.records.clone().unwrap_or_default();
    batches(&records).iter().map(|batch| batch.0).collect()
}
