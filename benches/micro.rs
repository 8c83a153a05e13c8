//! What the pieces of the data path cost alone: `cargo bench --bench micro`.
//!
//! One thread, nothing else; memory that is touched all the time. The pieces together cost more than
//! their sum, since they push each other out of the caches: whole rounds are `ringspun-bench compare`'s.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use futures_lite::future::{self, block_on};

use ringspun::base::ids::TopicId;
use ringspun::base::settings::NodeSettings;
use ringspun::base::{LeaderEpoch, Offset, PartitionIndex, Timestamp};
use ringspun::coordinator::group::{Ask, GroupMachine};
use ringspun::coordinator::{Context, CoordinatorRecord, Machine, Position, Token};
use ringspun::metadata::Image;
use ringspun::protocol::fetch::{
    FetchPartitionResponse, FetchResponse, FetchTopicResponse, decode_fetch_request,
    encode_fetch_response,
};
use ringspun::protocol::messages::{
    FetchRequest, OffsetCommitRequest, ProduceRequest, fetch_request, offset_commit_request,
    produce_request,
};
use ringspun::protocol::produce::decode_produce_request;
use ringspun::protocol::{StrBytes, walker};
use ringspun::records::{
    BATCH_HEADER_SIZE, BatchBuilder, BatchHeader, RecordIter, Scratch, ValidationRules, validate,
    verify_crc,
};
use ringspun::runtime::mailbox::{Bounds, Endpoint, mailbox};
use ringspun::storage::{AppendOrigin, Disk, Inline, Log, MemoryDisk, OpenOptions, PageCache};

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const PRODUCE: i16 = 0;
const FETCH: i16 = 1;

/// A batch as a producer sends it.
fn batch(records: usize, bytes: usize) -> BytesMut {
    let mut builder = BatchBuilder::uncompressed();
    let value = vec![b'v'; bytes];
    for _ in 0..records {
        builder.append(NOW, None, Some(&value), &[]);
    }
    BytesMut::from(builder.build().as_slice())
}

fn records(c: &mut Criterion) {
    let rules = ValidationRules::default();
    let mut scratch = Scratch::default();
    let mut group = c.benchmark_group("validate");
    for (name, count, bytes) in [
        ("one of 1 KiB", 1, 1024),
        ("10 of 1 KiB", 10, 1024),
        ("64 of 1 KiB", 64, 1024),
        ("9,000 of 100 B", 9_000, 100),
    ] {
        // Valid already, so it is not changed and may be validated again.
        let mut batch = batch(count, bytes);
        group.throughput(Throughput::Bytes(batch.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| validate(&mut batch, &rules, NOW, &mut scratch).expect("a good batch"))
        });
    }
    group.finish();

    let mut group = c.benchmark_group("crc");
    for (name, count) in [("1 KiB", 1), ("64 KiB", 64), ("1 MB", 970)] {
        let batch = batch(count, 1024);
        group.throughput(Throughput::Bytes(batch.len() as u64));
        group.bench_function(name, |b| b.iter(|| verify_crc(black_box(&batch))));
    }
    group.finish();
}

fn name() -> StrBytes {
    StrBytes::from_static_str("a-topic-of-some-length")
}

/// The body of a Produce request, version 9, with batches for so many partitions.
fn produce_body(partitions: i32, batch: &BytesMut) -> BytesMut {
    let data = (0..partitions).map(|index| {
        produce_request::PartitionProduceData::default()
            .with_index(index)
            .with_records(Some(batch.clone().freeze()))
    });
    let topic = produce_request::TopicProduceData::default()
        .with_name(name().into())
        .with_partition_data(data.collect());
    let request = ProduceRequest::default()
        .with_acks(-1)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![topic]);
    encoded(&request, 9)
}

fn fetch_body(partitions: i32) -> BytesMut {
    let asked = (0..partitions).map(|partition| {
        fetch_request::FetchPartition::default()
            .with_partition(partition)
            .with_partition_max_bytes(1 << 20)
    });
    let topic = fetch_request::FetchTopic::default()
        .with_topic(name().into())
        .with_partitions(asked.collect());
    let request = FetchRequest::default()
        .with_max_wait_ms(500)
        .with_min_bytes(1)
        .with_topics(vec![topic]);
    encoded(&request, 12)
}

fn encoded(request: &impl kafka_protocol::protocol::Encodable, version: i16) -> BytesMut {
    let mut bytes = BytesMut::new();
    request
        .encode(&mut bytes, version)
        .expect("of this version");
    bytes
}

fn protocol(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for partitions in [1, 16] {
        let body = produce_body(partitions, &batch(10, 1024));
        group.bench_function(format!("produce, {partitions} partitions"), |b| {
            b.iter_batched(
                || body.clone(),
                |body| decode_produce_request(9, body).expect("well formed"),
                BatchSize::SmallInput,
            )
        });
        let body = fetch_body(partitions);
        group.bench_function(format!("fetch, {partitions} partitions"), |b| {
            b.iter(|| decode_fetch_request(12, black_box(&body)).expect("well formed"))
        });
        group.bench_function(format!("walk fetch, {partitions} partitions"), |b| {
            b.iter(|| walker::walk(FETCH, 12, black_box(&body)).is_ok())
        });
        let body = produce_body(partitions, &batch(10, 1024));
        group.bench_function(format!("walk produce, {partitions} partitions"), |b| {
            b.iter(|| walker::walk(PRODUCE, 9, black_box(&body)).is_ok())
        });
    }
    group.finish();

    let mut group = c.benchmark_group("encode");
    for partitions in [1, 16] {
        let of = |partition_index| FetchPartitionResponse {
            partition_index,
            high_watermark: 1_000_000,
            records_len: Some(1 << 20),
            ..FetchPartitionResponse::default()
        };
        let response = FetchResponse {
            topics: vec![FetchTopicResponse {
                topic: name(),
                partitions: (0..partitions).map(of).collect(),
                ..FetchTopicResponse::default()
            }],
            ..FetchResponse::default()
        };
        group.bench_function(format!("fetch response, {partitions} partitions"), |b| {
            b.iter(|| encode_fetch_response(12, 7, black_box(&response)).expect("of this version"))
        });
    }
    group.finish();
}

fn log<D: Disk>(disk: D, data: &Path, index_interval_bytes: u32) -> Log<D> {
    let mut settings = NodeSettings::defaults().log_defaults.clone();
    settings.index_interval_bytes = index_interval_bytes;
    let options = OpenOptions {
        cleaned_to: None,
        has_checkpoint: true,
        is_clean: false,
        recovery_point: Offset(0),
        log_start_offset: None,
        producer_expiration_ms: 86_400_000,
        allocation: None,
        now: NOW,
    };
    let created = Log::create(
        disk,
        Arc::from(data.join("topic-0")),
        Arc::new(settings),
        TopicId(7),
        Offset(0),
        options,
    );
    block_on(created).expect("an empty folder")
}

fn stage<D: Disk>(log: &Log<D>, batch: &BytesMut, header: &BatchHeader) {
    log.stage(
        batch.clone(),
        header,
        AppendOrigin::Client,
        None,
        LeaderEpoch(0),
        None,
        NOW,
    )
    .expect("a good batch");
}

fn storage(c: &mut Criterion) {
    // A read of one batch is a search of the index and of what lies between two entries.
    let mut group = c.benchmark_group("index look-up");
    let disk = MemoryDisk::new();
    let data = Path::new("/data");
    block_on(disk.create_dir(data)).expect("an empty disk");
    let small = batch(1, 100);
    let header = BatchHeader::parse(&small).expect("a good batch");
    let log_in_memory = log(disk, data, 4096);
    for _ in 0..100_000 {
        stage(&log_in_memory, &small, &header);
    }
    block_on(log_in_memory.write_staged(NOW)).expect("room");
    let end = log_in_memory.log_end_offset();
    for (name, step) in [("at random", 7_919), ("one after another", 1)] {
        let mut offset = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                offset = (offset + step) % end.0;
                block_on(log_in_memory.read(Offset(offset), 1, end, true)).expect("in range")
            })
        });
    }
    group.finish();

    // Appends that wait for the same fsync share it.
    let mut group = c.benchmark_group("fsync batcher");
    group.sample_size(20);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let kib = batch(1, 1024);
    let header = BatchHeader::parse(&kib).expect("a good batch");
    let on_disk = log(PageCache::new(Inline), folder.path(), 4096);
    for appends in [1u64, 16, 64] {
        group.throughput(Throughput::Elements(appends));
        group.bench_function(format!("{appends} appends of 1 KiB, one fsync"), |b| {
            b.iter(|| {
                for _ in 0..appends {
                    stage(&on_disk, &kib, &header);
                }
                block_on(on_disk.write_staged(NOW)).expect("room");
                block_on(on_disk.flush()).expect("a disk")
            })
        });
    }
    group.finish();
}

/// Answers what it is asked until it is closed.
async fn echo(endpoint: &Endpoint<u64, u64>) {
    while let Ok(incoming) = endpoint.next().await {
        endpoint.reply(incoming.token, incoming.request + 1);
    }
}

fn mailboxes(c: &mut Criterion) {
    let mut group = c.benchmark_group("mailbox");
    let mut seeds = mailbox::<u64, u64>(1, Bounds::default());
    let own = seeds.remove(0).bind();
    group.bench_function("a request to oneself", |b| {
        b.iter(|| {
            let asked = async {
                let _ = black_box(own.call(0, 1).await);
            };
            block_on(future::or(asked, echo(&own)))
        })
    });

    let mut seeds = mailbox::<u64, u64>(2, Bounds::default());
    let (there, here) = (seeds.remove(1), seeds.remove(0).bind());
    let peer = std::thread::spawn(move || block_on(echo(&there.bind())));
    // Our own lanes are served by the same loop that takes requests.
    for in_flight in [1usize, 64] {
        group.throughput(Throughput::Elements(in_flight as u64));
        group.bench_function(format!("{in_flight} requests to another thread"), |b| {
            b.iter(|| {
                let asked = async {
                    let mut pending = Vec::with_capacity(in_flight);
                    for number in 0..in_flight as u64 {
                        pending.push(here.post(1, number).await.expect("it listens"));
                    }
                    for pending in pending {
                        let _ = black_box(pending.await);
                    }
                };
                block_on(future::or(asked, echo(&here)))
            })
        });
    }
    group.finish();
    // The thread waits for ever for requests that nobody sends, and ends with the process.
    drop(peer);
}

/// The log of a coordinator of groups that have committed so many offsets, a hundred each, as it is written.
fn offsets_log(offsets: usize) -> Vec<Vec<u8>> {
    const OF_A_GROUP: usize = 100;
    let (image, settings) = (Image::default(), NodeSettings::defaults());
    let mut machine = GroupMachine::new(PartitionIndex(0));
    let mut batches = Vec::new();
    let mut builder = BatchBuilder::uncompressed();
    let mut next_offset = 0i64;
    let mut close = |builder: &mut BatchBuilder, records: i64| {
        let closed = std::mem::replace(builder, BatchBuilder::uncompressed());
        let mut batch = closed.build();
        batch[..8].copy_from_slice(&next_offset.to_be_bytes());
        next_offset += records;
        batches.push(batch);
    };
    let mut records = 0;
    for number in 0..offsets / OF_A_GROUP {
        let partitions = (0..OF_A_GROUP).map(|partition| {
            offset_commit_request::OffsetCommitRequestPartition::default()
                .with_partition_index(partition as i32)
                .with_committed_offset(1_000_000 + number as i64)
        });
        let topic = offset_commit_request::OffsetCommitRequestTopic::default()
            .with_name(name().into())
            .with_partitions(partitions.collect());
        let request = OffsetCommitRequest::default()
            .with_group_id(StrBytes::from_string(format!("a-group-of-some-length-{number}")).into())
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        let mut random = || 0;
        let mut context = Context {
            now: NOW,
            image: &image,
            settings: &settings,
            random: &mut random,
        };
        let ask = Ask::Commit {
            version: 9,
            request,
        };
        for record in machine.ask(&mut context, Token(0), ask).records {
            builder.append(NOW, Some(&record.key), record.value.as_deref(), &[]);
            records += 1;
        }
        if builder.size_in_bytes() > 256 * 1024 {
            close(&mut builder, records);
            records = 0;
        }
    }
    close(&mut builder, records);
    batches
}

/// What a host does with the log of its coordinator, without the disk.
fn load(batches: &[Vec<u8>]) -> GroupMachine {
    let mut machine = GroupMachine::new(PartitionIndex(0));
    for batch in batches {
        let header = BatchHeader::parse(batch).expect("a good batch");
        for record in RecordIter::new(&header, &batch[BATCH_HEADER_SIZE..]) {
            let record = record.expect("a good record");
            let at = Position {
                offset: record.offset,
                timestamp: record.timestamp,
                producer: None,
            };
            let record = CoordinatorRecord {
                key: Bytes::copy_from_slice(record.key.expect("a key")),
                value: record.value.map(Bytes::copy_from_slice),
            };
            machine.apply(&record, at).expect("readable");
        }
    }
    machine
}

fn coordinators(c: &mut Criterion) {
    const OFFSETS: usize = 1_000_000;
    let log = offsets_log(OFFSETS);
    let mut group = c.benchmark_group("coordinator");
    group.sample_size(10);
    group.throughput(Throughput::Elements(OFFSETS as u64));
    group.bench_function("load 1,000,000 committed offsets", |b| {
        b.iter_with_large_drop(|| load(&log))
    });
    group.finish();
}

criterion_group!(micro, records, protocol, storage, mailboxes, coordinators);
criterion_main!(micro);
