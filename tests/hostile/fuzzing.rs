//! Hostile frames against a whole node, over sockets: decode, handle, answer.
//!
//! Several peers send frames of [`Fuzzer`], pipelined, and read until all are answered or the
//! connection is closed. What
//! must hold:
//! 1. the process lives, and stops cleanly at the end;
//! 2. answers carry the ids of the requests, in their order; those without an answer are left out;
//! 3. after every peer has gone no connection is left: nothing hangs in a handler;
//! 4. another connection is answered all the while;
//! 5. resident memory grows by at most 64 MiB over where it was before.
//!
//! What frames can create legally is bounded by `ringspun.max.partitions`.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::*;
use ringspun::base::Timestamp;
use ringspun::protocol::fuzz::{Fuzzer, Rng};
use ringspun::records::{BatchBuilder, Compression, CompressionType};
use uuid::Uuid;

use super::*;

/// Growth of resident memory that is a failure.
const GROWTH_BYTES: u64 = 64 << 20;

/// Frames sent on one connection before it is closed. Most mutated frames close it themselves.
const FRAMES_A_CONNECTION: usize = 12;

/// How long a peer waits for answers: a fetch may have been asked to wait for weeks.
const PEER_PATIENCE: Duration = Duration::from_millis(300);

/// Connections at a time.
const PEERS: u64 = 4;

/// How much to fuzz.
#[derive(Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    pub frames: u64,
    /// Go on with fresh frames until this time is over.
    pub at_least: Duration,
}

/// What a run did.
#[derive(Debug)]
pub struct Done {
    pub frames: u64,
    pub answers: u64,
    pub growth_bytes: u64,
}

pub fn node() -> Node {
    Node::start(&[
        ("ringspun.shards", "2"),
        ("ringspun.max.partitions", "100"),
        ("ringspun.memory.bytes", "201326592"),
        ("socket.request.max.bytes", "1048576"),
        ("log.segment.delete.delay.ms", "100"),
        ("ringspun.logging.level", "error"),
    ])
}

pub fn run(plan: Plan) -> Done {
    let node = node();
    let seeds = named_seeds(&node);
    let (frames, answers) = (AtomicU64::new(0), AtomicU64::new(0));
    let over = AtomicBool::new(false);
    // What the first frames bring in for good, such as buffers kept for reuse, is not growth.
    send(
        &node,
        &seeds,
        plan.seed,
        PEERS,
        plan.frames / 20,
        &frames,
        &answers,
    );
    let before = node.rss();
    node.reset_peak_rss();
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| probe(&node, &over));
        let mut round = 0;
        while frames.load(Relaxed) < plan.frames || started.elapsed() < plan.at_least {
            let goal = plan
                .frames
                .max(frames.load(Relaxed) + 1)
                .min(frames.load(Relaxed) + 50_000);
            round += 1;
            send(
                &node,
                &seeds,
                plan.seed + round * PEERS,
                PEERS,
                goal,
                &frames,
                &answers,
            );
            if plan.at_least > Duration::ZERO {
                println!(
                    "{} frames, {} MiB resident, next seed {}",
                    frames.load(Relaxed),
                    node.rss() >> 20,
                    plan.seed + (round + 1) * PEERS
                );
            }
        }
        over.store(true, Relaxed);
    });
    node.await_that("the end of every connection", |node| {
        node.open_connections() == 0
    });
    let growth_bytes = node.peak_rss().saturating_sub(before);
    assert!(
        growth_bytes <= GROWTH_BYTES,
        "resident memory grew by {} MiB over {} MiB",
        growth_bytes >> 20,
        before >> 20
    );
    node.stop();
    Done {
        frames: frames.into_inner(),
        answers: answers.into_inner(),
        growth_bytes,
    }
}

/// Sends frames from `peers` threads until `goal` frames were sent in all.
fn send(
    node: &Node,
    seeds: &[Vec<u8>],
    seed: u64,
    peers: u64,
    goal: u64,
    frames: &AtomicU64,
    answers: &AtomicU64,
) {
    std::thread::scope(|scope| {
        for peer in 0..peers {
            scope.spawn(move || {
                // Half of the seeds have names that exist.
                let more = (0..3).flat_map(|_| seeds.iter().cloned());
                let more = more.chain(captured());
                let mut fuzzer = Fuzzer::with_seeds(seed + peer, more);
                let mut rng = Rng::new(seed + peer);
                let mut unsent: VecDeque<Vec<u8>> = VecDeque::new();
                while frames.load(Relaxed) < goal {
                    while unsent.len() < FRAMES_A_CONNECTION {
                        unsent.push_back(fuzzer.next_frame());
                    }
                    let (handled, answered) = converse(node, &unsent, &mut rng);
                    unsent.drain(..handled);
                    frames.fetch_add(handled as u64, Relaxed);
                    answers.fetch_add(answered, Relaxed);
                }
            });
        }
    });
}

/// Sends frames on one connection and reads to its end; how many of them the node has handled at
/// least, and how many it answered.
fn converse(node: &Node, frames: &VecDeque<Vec<u8>>, rng: &mut Rng) -> (usize, u64) {
    let mut bytes = Vec::new();
    let mut misframed = false;
    for (id, frame) in frames.iter().enumerate() {
        let mut frame = frame.clone();
        if let Some(place) = frame.get_mut(4..8) {
            place.copy_from_slice(&(id as i32).to_be_bytes());
        }
        let start = bytes.len();
        bytes.extend_from_slice(&prefixed(&frame));
        if rng.one_in(100) {
            // A length that is not the frame's: what comes behind begins anywhere.
            misframed = true;
            let length = [
                -1,
                0,
                7,
                i32::MAX,
                1_048_576,
                1_048_577,
                rng.below(200) as i32,
            ];
            let length = length[rng.below(length.len())];
            bytes[start..start + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
    // The last one asks for something that is answered at once: its answer says that all are done.
    let end = frames.len() as i32;
    bytes.extend_from_slice(&prefixed(&api_versions(0, end)));
    let mut peer = node.connect();
    let written = peer.stream.write_all(&bytes);
    if let Err(error) = &written {
        assert!(is_close(error), "{error}");
    }
    peer.stream
        .set_read_timeout(Some(PEER_PATIENCE))
        .expect("a socket");
    let (mut last, mut answered) = (-1, 0);
    // Until it is closed; or waits, as it may have been asked to.
    while let Ok(Some(answer)) = peer.receive() {
        let id = correlation_id(&answer);
        if misframed && (id <= last || id > end) {
            break;
        }
        assert!(id > last && id <= end, "answer {id} after {last}");
        last = id;
        answered += 1;
        if last == end {
            break;
        }
    }
    peer.abandon();
    // The frame behind the last answered one closed the connection, or waits, or needed no answer.
    (((last + 2) as usize).min(frames.len()), answered)
}

/// A peer of good will: it is answered all the while.
fn probe(node: &Node, over: &AtomicBool) {
    let mut id = 0;
    while !over.load(Relaxed) {
        let mut peer = node.connect();
        for _ in 0..20 {
            id += 1;
            peer.ping(id);
            peer.send(&request(
                12,
                id,
                &MetadataRequest::default().with_topics(Some(vec![])),
            ));
            assert_eq!(peer.receive_id(), Some(id));
            std::thread::sleep(Duration::from_millis(5));
        }
        peer.abandon();
    }
}

/// Valid frames whose names exist, so that mutations of them come further than to "unknown topic".
fn named_seeds(node: &Node) -> Vec<Vec<u8>> {
    let alpha = node.create_topic("alpha", 3);
    node.create_topic("beta", 1);
    node.create_topic("doomed", 2);
    let mut seeds = Vec::new();
    let compressions = [
        CompressionType::None,
        CompressionType::Gzip,
        CompressionType::Snappy,
        CompressionType::Lz4,
        CompressionType::Zstd,
    ];
    for kind in compressions {
        let mut builder = BatchBuilder::new(Compression::of(kind));
        for at in 0..5 {
            let headers: [(&[u8], Option<&[u8]>); 1] = [(b"h", Some(b"x"))];
            builder.append(
                Timestamp(1_700_000_000_000 + at),
                Some(b"key"),
                Some(&[7; 50]),
                &headers,
            );
        }
        let batch = Bytes::from(builder.build());
        for (version, acks) in [(3, 1), (7, -1), (8, 0), (9, 1), (12, -1)] {
            seeds.push(produce_version(version, "alpha", 1, acks, batch.clone(), 0));
        }
        seeds.push(produce_by_id(alpha, batch));
    }
    let idempotent = BatchBuilder::uncompressed()
        .producer(
            ringspun::base::ProducerId(77),
            ringspun::base::ProducerEpoch(0),
            0,
        )
        .append(Timestamp(1_700_000_000_000), None, Some(b"once"), &[])
        .build();
    seeds.push(produce("beta", 0, -1, Bytes::from(idempotent), 0));
    for version in [4, 7, 11, 12] {
        for (max_wait_ms, min_bytes) in [(0, 0), (2, 1)] {
            let limits = FetchLimits {
                max_wait_ms,
                min_bytes,
                max_bytes: 1 << 20,
            };
            seeds.push(fetch(version, "alpha", 1, limits, 0));
        }
    }
    seeds.extend([fetch_by_id(alpha, 13, 0), fetch_by_id(alpha, 17, -1)]);
    seeds.extend(read_only());
    seeds.extend(changes());
    seeds
}

/// What real clients sent: `tests/golden/frames`.
pub fn captured() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/frames");
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("captured frames")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|e| e == "frames"))
        .collect();
    files.sort();
    let mut frames = Vec::new();
    for file in files {
        let bytes = fs::read(file).expect("a file");
        let mut rest = bytes.as_slice();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (frame, after) = after.split_at(u32::from_be_bytes(*length) as usize);
            frames.push(frame.to_vec());
            rest = after;
        }
    }
    frames
}

fn produce_by_id(id: Uuid, batch: Bytes) -> Vec<u8> {
    use produce_request::{PartitionProduceData, TopicProduceData};
    let data = PartitionProduceData::default().with_records(Some(batch));
    let topic = TopicProduceData::default()
        .with_topic_id(id)
        .with_partition_data(vec![data]);
    let body = ProduceRequest::default()
        .with_acks(1)
        .with_timeout_ms(1_000)
        .with_topic_data(vec![topic]);
    request(13, 0, &body)
}

fn fetch_by_id(id: Uuid, version: i16, session_epoch: i32) -> Vec<u8> {
    use fetch_request::{FetchPartition, FetchTopic};
    let partitions = (0..3)
        .map(|partition| {
            FetchPartition::default()
                .with_partition(partition)
                .with_partition_max_bytes(1 << 20)
        })
        .collect();
    let topic = FetchTopic::default()
        .with_topic_id(id)
        .with_partitions(partitions);
    let body = FetchRequest::default()
        .with_max_wait_ms(1)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_session_epoch(session_epoch)
        .with_topics(vec![topic]);
    request(version, 0, &body)
}

fn read_only() -> Vec<Vec<u8>> {
    let metadata = |topics: Vec<&str>| {
        let topics = topics
            .into_iter()
            .map(|name| {
                metadata_request::MetadataRequestTopic::default().with_name(Some(topic(name)))
            })
            .collect();
        MetadataRequest::default()
            .with_topics(Some(topics))
            .with_allow_auto_topic_creation(true)
    };
    let offsets = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_topics(vec![
            list_offsets_request::ListOffsetsTopic::default()
                .with_name(topic("alpha"))
                .with_partitions(
                    [(0, -1), (1, -2), (2, 1_700_000_000_001)]
                        .map(|(partition, timestamp)| {
                            list_offsets_request::ListOffsetsPartition::default()
                                .with_partition_index(partition)
                                .with_timestamp(timestamp)
                        })
                        .to_vec(),
                ),
        ]);
    let epochs = OffsetForLeaderEpochRequest::default()
        .with_replica_id(BrokerId(-2))
        .with_topics(vec![
            offset_for_leader_epoch_request::OffsetForLeaderTopic::default()
                .with_topic(topic("alpha"))
                .with_partitions(vec![
                    offset_for_leader_epoch_request::OffsetForLeaderPartition::default()
                        .with_partition(1),
                ]),
        ]);
    let configs = |kind: i8, name: &str| {
        let resource = describe_configs_request::DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configuration_keys(None);
        let body = DescribeConfigsRequest::default()
            .with_resources(vec![resource])
            .with_include_synonyms(true)
            .with_include_documentation(true);
        request(4, 0, &body)
    };
    let producers = DescribeProducersRequest::default().with_topics(vec![
        describe_producers_request::TopicRequest::default()
            .with_name(topic("beta"))
            .with_partition_indexes(vec![0]),
    ]);
    let partitions = DescribeTopicPartitionsRequest::default()
        .with_topics(vec![
            describe_topic_partitions_request::TopicRequest::default().with_name(topic("alpha")),
        ])
        .with_response_partition_limit(2)
        .with_cursor(None);
    let log_dirs = DescribeLogDirsRequest::default().with_topics(Some(vec![
        describe_log_dirs_request::DescribableLogDirTopic::default()
            .with_topic(topic("alpha"))
            .with_partitions(vec![0, 1, 2]),
    ]));
    vec![
        request(8, 0, &metadata(vec!["alpha", "beta"])),
        request(12, 0, &metadata(vec!["beta", "gamma"])),
        request(5, 0, &offsets),
        request(10, 0, &offsets),
        request(4, 0, &epochs),
        configs(2, "alpha"),
        configs(4, "1"),
        configs(4, ""),
        configs(32, "group"),
        request(0, 0, &producers),
        request(0, 0, &partitions),
        request(4, 0, &log_dirs),
        request(
            4,
            0,
            &InitProducerIdRequest::default().with_transactional_id(None),
        ),
    ]
}

fn changes() -> Vec<Vec<u8>> {
    let alter = |kind: i8, name: &str, key: &str, value: &str| {
        let config = incremental_alter_configs_request::AlterableConfig::default()
            .with_name(text(key))
            .with_value(Some(text(value)));
        let resource = incremental_alter_configs_request::AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configs(vec![config]);
        let body = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        request(1, 0, &body)
    };
    let delete_records = DeleteRecordsRequest::default()
        .with_timeout_ms(1_000)
        .with_topics(vec![
            delete_records_request::DeleteRecordsTopic::default()
                .with_name(topic("alpha"))
                .with_partitions(vec![
                    delete_records_request::DeleteRecordsPartition::default()
                        .with_partition_index(1)
                        .with_offset(1),
                ]),
        ]);
    let delete = DeleteTopicsRequest::default()
        .with_timeout_ms(1_000)
        .with_topics(vec![
            delete_topics_request::DeleteTopicState::default().with_name(Some(topic("doomed"))),
        ]);
    let grow = CreatePartitionsRequest::default()
        .with_timeout_ms(1_000)
        .with_topics(vec![
            create_partitions_request::CreatePartitionsTopic::default()
                .with_name(topic("doomed"))
                .with_count(3)
                .with_assignments(None),
        ]);
    vec![
        create_topic("doomed", 2, 0),
        request(6, 0, &delete),
        request(3, 0, &grow),
        request(2, 0, &delete_records),
        alter(2, "alpha", "retention.ms", "604800000"),
        alter(2, "beta", "max.message.bytes", "10000"),
    ]
}
