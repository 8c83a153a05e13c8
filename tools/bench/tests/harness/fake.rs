//! A broker that keeps everything in memory and can be made to misbehave.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{
    Decodable, Encodable, HeaderVersion, StrBytes, decode_request_header_from_buffer,
};

/// What it does wrong, and from which record on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// Acknowledges one batch that it does not keep.
    Loses(i64),
    /// Keeps one batch twice.
    Doubles(i64),
    /// Changes a byte of one batch, and its checksum with it.
    Alters(i64),
    /// Answers nothing for a while, once.
    Stands(i64, Duration),
    /// Closes the connection.
    Dies(i64),
    /// Takes so long for each request.
    Crawls(Duration),
}

#[derive(Default)]
struct Log {
    batches: Vec<(i64, Bytes)>,
    end: i64,
}

struct State {
    port: i32,
    fault: Fault,
    logs: BTreeMap<(String, i32), Log>,
    records: i64,
    dead: bool,
}

pub struct Fake {
    state: Arc<(Mutex<State>, Condvar)>,
    pub address: String,
}

const APIS: &[(i16, i16, i16)] = &[
    (0, 3, 9),
    (1, 4, 12),
    (2, 1, 7),
    (3, 1, 12),
    (18, 0, 3),
    (19, 2, 7),
    (20, 1, 5),
];

impl Fake {
    pub fn start(fault: Fault) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new((
            Mutex::new(State {
                port: port.into(),
                fault,
                logs: BTreeMap::new(),
                records: 0,
                dead: false,
            }),
            Condvar::new(),
        ));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, shared) = (stream.unwrap(), shared.clone());
                thread::spawn(move || drop(serve(stream, &shared)));
            }
        });
        Fake {
            state,
            address: format!("127.0.0.1:{port}"),
        }
    }

    /// Waits until it has taken so many records.
    pub fn await_records(&self, records: i64) {
        let (state, changed) = &*self.state;
        let state = state.lock().unwrap();
        let limit = Duration::from_secs(60);
        let (state, _) = changed
            .wait_timeout_while(state, limit, |state| state.records < records)
            .unwrap();
        assert!(state.records >= records, "only {} records", state.records);
    }

    /// Topics that are there.
    pub fn topics(&self) -> usize {
        self.state.0.lock().unwrap().logs.len()
    }
}

fn serve(mut stream: TcpStream, state: &(Mutex<State>, Condvar)) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut frame)?;
        let mut frame = Bytes::from(frame);
        let header = decode_request_header_from_buffer(&mut frame).unwrap();
        let version = header.request_api_version;
        let Some(answer) = answer(header.request_api_key, version, frame, state) else {
            return Ok(());
        };
        let mut out = BytesMut::new();
        out.put_i32(0);
        let api = ApiKey::try_from(header.request_api_key).unwrap();
        ResponseHeader::default()
            .with_correlation_id(header.correlation_id)
            .encode(&mut out, api.response_header_version(version))
            .unwrap();
        out.extend_from_slice(&answer);
        let length = (out.len() - 4) as u32;
        out[..4].copy_from_slice(&length.to_be_bytes());
        stream.write_all(&out)?;
    }
}

fn encode(message: &(impl Encodable + HeaderVersion), version: i16) -> Option<BytesMut> {
    let mut out = BytesMut::new();
    message.encode(&mut out, version).unwrap();
    Some(out)
}

fn answer(
    api: i16,
    version: i16,
    mut body: Bytes,
    shared: &(Mutex<State>, Condvar),
) -> Option<BytesMut> {
    match api {
        0 => produce(
            ProduceRequest::decode(&mut body, version).unwrap(),
            version,
            shared,
        ),
        1 => {
            let request = FetchRequest::decode(&mut body, version).unwrap();
            fetch(request, version, shared)
        }
        2 => {
            let request = ListOffsetsRequest::decode(&mut body, version).unwrap();
            let state = shared.0.lock().unwrap();
            let topics = request.topics.into_iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|partition| {
                    let key = (topic.name.to_string(), partition.partition_index);
                    let end = state.logs.get(&key).map_or(0, |log| log.end);
                    ListOffsetsPartitionResponse::default()
                        .with_partition_index(partition.partition_index)
                        .with_offset(if partition.timestamp == -1 { end } else { 0 })
                });
                ListOffsetsTopicResponse::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions.collect())
            });
            let answer = ListOffsetsResponse::default().with_topics(topics.collect());
            encode(&answer, version)
        }
        3 => {
            let request = MetadataRequest::decode(&mut body, version).unwrap();
            let state = shared.0.lock().unwrap();
            let topics = request.topics.unwrap_or_default().into_iter().map(|topic| {
                let name = topic.name.unwrap();
                let partitions = state.logs.keys().filter(|(of, _)| **of == **name);
                let partitions = partitions.map(|(_, partition)| {
                    MetadataResponsePartition::default()
                        .with_partition_index(*partition)
                        .with_leader_id(7.into())
                });
                MetadataResponseTopic::default()
                    .with_partitions(partitions.collect())
                    .with_name(Some(name))
            });
            let broker = MetadataResponseBroker::default()
                .with_node_id(7.into())
                .with_host(StrBytes::from_static_str("127.0.0.1"))
                .with_port(state.port);
            let answer = MetadataResponse::default()
                .with_brokers(vec![broker])
                .with_topics(topics.collect());
            encode(&answer, version)
        }
        18 => {
            let apis = APIS.iter().map(|&(key, min, max)| {
                ApiVersion::default()
                    .with_api_key(key)
                    .with_min_version(min)
                    .with_max_version(max)
            });
            let answer = ApiVersionsResponse::default().with_api_keys(apis.collect());
            encode(&answer, version)
        }
        19 => {
            let request = CreateTopicsRequest::decode(&mut body, version).unwrap();
            let mut state = shared.0.lock().unwrap();
            let mut topics = Vec::new();
            for topic in request.topics {
                for partition in 0..topic.num_partitions {
                    let key = (topic.name.to_string(), partition);
                    state.logs.insert(key, Log::default());
                }
                topics.push(CreatableTopicResult::default().with_name(topic.name));
            }
            encode(
                &CreateTopicsResponse::default().with_topics(topics),
                version,
            )
        }
        20 => {
            let request = DeleteTopicsRequest::decode(&mut body, version).unwrap();
            let mut state = shared.0.lock().unwrap();
            let gone = |of: &String| request.topic_names.iter().any(|name| **name == **of);
            state.logs.retain(|(topic, _), _| !gone(topic));
            encode(&DeleteTopicsResponse::default(), version)
        }
        other => panic!("API {other}"),
    }
}

fn produce(
    request: ProduceRequest,
    version: i16,
    (state, changed): &(Mutex<State>, Condvar),
) -> Option<BytesMut> {
    let mut state = state.lock().unwrap();
    if let Fault::Crawls(time) = state.fault {
        thread::sleep(time);
    }
    let mut topics = Vec::new();
    for topic in request.topic_data {
        let mut partitions = Vec::new();
        for partition in topic.partition_data {
            let mut batch = BytesMut::from(&partition.records.unwrap()[..]);
            let records = i64::from((&batch[57..61]).get_i32());
            state.records += records;
            changed.notify_all();
            let now = |at: i64| state.records >= at;
            let mut copies = 1;
            match state.fault {
                Fault::Loses(at) if now(at) => (copies, state.fault) = (0, Fault::None),
                Fault::Doubles(at) if now(at) => (copies, state.fault) = (2, Fault::None),
                Fault::Alters(at) if now(at) => {
                    state.fault = Fault::None;
                    let last = batch.len() - 2;
                    batch[last] ^= 1;
                    let crc = crc32c::crc32c(&batch[21..]);
                    batch[17..21].copy_from_slice(&crc.to_be_bytes());
                }
                Fault::Stands(at, time) if now(at) => {
                    state.fault = Fault::None;
                    thread::sleep(time);
                }
                Fault::Dies(at) if now(at) => state.dead = true,
                _ => {}
            }
            if state.dead {
                return None;
            }
            let key = (topic.name.to_string(), partition.index);
            let log = state.logs.get_mut(&key).unwrap();
            let base_offset = log.end;
            for _ in 0..copies {
                batch[..8].copy_from_slice(&log.end.to_be_bytes());
                log.batches.push((log.end, batch.clone().freeze()));
                log.end += records;
            }
            if copies == 0 {
                log.end += records;
            }
            partitions.push(
                PartitionProduceResponse::default()
                    .with_index(partition.index)
                    .with_base_offset(base_offset),
            );
        }
        topics.push(
            TopicProduceResponse::default()
                .with_name(topic.name)
                .with_partition_responses(partitions),
        );
    }
    encode(&ProduceResponse::default().with_responses(topics), version)
}

fn fetch(
    request: FetchRequest,
    version: i16,
    (state, changed): &(Mutex<State>, Condvar),
) -> Option<BytesMut> {
    let mut state = state.lock().unwrap();
    let mut waited = false;
    loop {
        if state.dead {
            return None;
        }
        let mut any = false;
        let mut topics = Vec::new();
        for topic in &request.topics {
            let mut partitions = Vec::new();
            for partition in &topic.partitions {
                let log = &state.logs[&(topic.topic.to_string(), partition.partition)];
                let from = log
                    .batches
                    .partition_point(|(base, _)| *base < partition.fetch_offset);
                let mut records = BytesMut::new();
                for (_, batch) in &log.batches[from..] {
                    if records.len() > partition.partition_max_bytes as usize {
                        break;
                    }
                    records.extend_from_slice(batch);
                }
                any |= !records.is_empty();
                partitions.push(
                    PartitionData::default()
                        .with_partition_index(partition.partition)
                        .with_high_watermark(log.end)
                        .with_aborted_transactions(None)
                        .with_records(Some(records.freeze())),
                );
            }
            topics.push(
                FetchableTopicResponse::default()
                    .with_topic(topic.topic.clone())
                    .with_partitions(partitions),
            );
        }
        if any || waited {
            return encode(&FetchResponse::default().with_responses(topics), version);
        }
        let limit = Duration::from_millis(request.max_wait_ms as u64);
        let before = state.records;
        let (again, _) = changed
            .wait_timeout_while(state, limit, |state| state.records == before && !state.dead)
            .unwrap();
        state = again;
        waited = state.records == before;
    }
}
