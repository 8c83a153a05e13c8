//! The same while the cleaner writes segments anew and retention takes others, all the time: of a compacted topic
//! the last acknowledged value of every key is there, of one with `retention.bytes` everything from its start on;
//! and nothing that was not sent.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::broker::{Broker, Kind};
use super::moves::Moves;
use super::{
    Ledger, all_acknowledged, client, producer, send, start_anew, value, wait_for_progress,
};

const COMPACTED: &str = "compacted";
const RETAINED: &str = "retained";
pub const TOPICS: [&str; 2] = [COMPACTED, RETAINED];
pub const PARTITIONS: u64 = 2;
/// Of each partition.
const KEYS: u64 = 150;
const RETENTION_BYTES: &str = "3000000";

/// Whatever may be cleaned or deleted is, at once.
const GREEDY: [(&str, &str); 5] = [
    ("log.cleaner.backoff.ms", "20"),
    ("log.retention.check.interval.ms", "20"),
    ("log.initial.task.delay.ms", "0"),
    ("log.segment.delete.delay.ms", "0"),
    // Or each checkpoint would be that of a start.
    ("log.flush.offset.checkpoint.interval.ms", "1000"),
];

/// Where record `number` goes: topic, partition and key.
fn place(number: u64) -> (&'static str, i32, u64) {
    let topic = TOPICS[(number % 2) as usize];
    let partition = number / 2 % PARTITIONS;
    let mut random = fastrand::Rng::with_seed(number);
    (topic, partition as i32, random.u64(0..KEYS))
}

fn create_topics(broker: &Broker, settings: &[(&str, &str)]) -> Result<(), String> {
    let admin: AdminClient<_> = client(broker).create().map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    for name in TOPICS {
        let mut topic = NewTopic::new(name, PARTITIONS as i32, TopicReplication::Fixed(1))
            .set("segment.bytes", "1048576");
        let own = match name {
            COMPACTED => [
                ("cleanup.policy", "compact"),
                ("min.cleanable.dirty.ratio", "0.01"),
            ],
            _ => [("retention.bytes", RETENTION_BYTES), ("retention.ms", "-1")],
        };
        for (name, value) in own.iter().chain(settings) {
            topic = topic.set(name, value);
        }
        let created = runtime.block_on(admin.create_topics([&topic], &AdminOptions::new()));
        let created = created.map_err(|error| error.to_string())?.remove(0);
        created.map_err(|(name, error)| format!("{name}: {error}"))?;
    }
    Ok(())
}

pub fn run(
    folder: &Path,
    rounds: u32,
    seed: u64,
    settings: &[(&str, &str)],
    moves: Option<&Moves>,
) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut of_broker = GREEDY.to_vec();
    of_broker.extend(moves.iter().flat_map(|moves| moves.settings()));
    let mut broker = Broker::start(Kind::Ringspun, folder, &of_broker)?;
    create_topics(&broker, settings)?;
    let ledger = Arc::new(Ledger::default());
    let producer = producer(&broker, &ledger)?;
    let (stop, bootstrap) = (AtomicBool::new(false), broker.bootstrap());
    let mut sent = 0;
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(&producer, &ledger, &stop, seed, place, moves.is_some()));
        if let Some(moves) = moves {
            scope.spawn(|| moves.keep_moving(&bootstrap, &stop, seed));
        }
        let outcome = (|| {
            for round in 0..rounds {
                // Enough for a segment or two.
                wait_for_progress(&ledger, 1_000)?;
                std::thread::sleep(Duration::from_micros(random.u64(0..300_000)));
                start_anew(&mut broker, round, moves)?;
                ledger.check()?;
            }
            wait_for_progress(&ledger, 1_000)
        })();
        stop.store(true, Ordering::SeqCst);
        sent = sender.join().map_err(|_| "the sender panicked")?;
        outcome
    })
    .map_err(|error| format!("{error}\n{}", broker.last_words()))?;
    let acknowledged = all_acknowledged(producer, &ledger, sent)?;
    verify(&broker, &acknowledged, seed)?;
    broker.kill();
    broker.start_again()?;
    let left = verify(&broker, &acknowledged, seed)?;
    // That they were busy at all.
    for (topic, left) in &left {
        let sent = sent / 2;
        // The cleaner keeps off a log that moves or is to.
        if moves.is_none() && *left > sent / 2 {
            return Err(format!("{topic}: {left} of {sent} records are left"));
        }
    }
    if let Some(moves) = moves {
        moves.check_places(&broker)?;
        println!("{} moves", moves.check_words(folder, rounds)?);
    }
    let words = std::fs::read_to_string(folder.join("stderr")).unwrap_or_default();
    for word in ["could not be cleaned", "log is offline", "panicked"] {
        if let Some(line) = words.lines().find(|line| line.contains(word)) {
            return Err(line.to_owned());
        }
    }
    println!("{rounds} kills, {sent} records, left {left:?}");
    Ok(())
}

/// Holds what is there against what was acknowledged; how many records are left of each topic.
fn verify(
    broker: &Broker,
    acknowledged: &BTreeMap<u64, (i32, i64)>,
    seed: u64,
) -> Result<BTreeMap<&'static str, u64>, String> {
    let mut left = BTreeMap::new();
    for topic in TOPICS {
        for partition in 0..PARTITIONS as i32 {
            let here = format!("{topic}-{partition}");
            let numbers = read(broker, topic, partition, acknowledged, seed)
                .map_err(|problem| format!("{here}: {problem}"))?;
            *left.entry(topic).or_default() += numbers.len() as u64;
            let of_it = acknowledged.keys().copied().filter(|number| {
                let (of_topic, of_partition, _) = place(*number);
                (of_topic, of_partition) == (topic, partition)
            });
            let missing = match topic {
                COMPACTED => {
                    let last: BTreeMap<u64, u64> = of_it.map(|n| (place(n).2, n)).collect();
                    let is_there = |n: &u64| numbers.binary_search(n).is_ok();
                    last.into_values().find(|number| !is_there(number))
                }
                // All from the first that is left.
                _ => {
                    let first = numbers.first().copied().unwrap_or(0);
                    let expected: Vec<u64> = of_it.filter(|number| *number >= first).collect();
                    let pairs = expected.iter().zip(&numbers);
                    let differs = pairs.filter(|(a, b)| a != b).map(|(a, _)| *a).next();
                    differs.or(expected.get(numbers.len()).copied())
                }
            };
            if let Some(number) = missing {
                let place = acknowledged[&number];
                return Err(format!("{here}: record {number} is lost, at {place:?}"));
            }
        }
    }
    Ok(left)
}

/// The numbers of the records of a partition, each of which is as it was sent and where it was acknowledged.
fn read(
    broker: &Broker,
    topic: &str,
    partition: i32,
    acknowledged: &BTreeMap<u64, (i32, i64)>,
    seed: u64,
) -> Result<Vec<u64>, String> {
    let consumer: BaseConsumer = client(broker)
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        .set("enable.partition.eof", "true")
        .create()
        .map_err(|error| error.to_string())?;
    // Retention may go on until the first fetch.
    let mut numbers: Vec<u64> = Vec::new();
    let patience = Duration::from_secs(30);
    let deadline = Instant::now() + patience;
    'again: loop {
        let watermarks = consumer.fetch_watermarks(topic, partition, patience);
        let (low, _) = watermarks.map_err(|error| error.to_string())?;
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(topic, partition, Offset::Offset(low))
            .and_then(|()| consumer.assign(&assignment))
            .map_err(|error| error.to_string())?;
        numbers.clear();
        loop {
            let message = match consumer.poll(patience) {
                None => return Err(format!("nothing comes after {:?}", numbers.last())),
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(numbers),
                Some(Err(error)) if Instant::now() > deadline => return Err(error.to_string()),
                Some(Err(_)) => continue 'again,
                Some(Ok(message)) => message,
            };
            let offset = message.offset();
            let payload = message.payload().unwrap_or_default();
            let number = payload
                .first_chunk()
                .map(|bytes| u64::from_be_bytes(*bytes));
            let number = number.ok_or(format!("offset {offset} has {} bytes", payload.len()))?;
            let (of_topic, of_partition, key) = place(number);
            if (of_topic, of_partition) != (topic, partition)
                || message.key() != Some(&key.to_be_bytes()[..])
                || payload != value(number, seed)
            {
                return Err(format!("offset {offset} has other bytes than {number}"));
            }
            match acknowledged.get(&number) {
                Some(place) if *place == (partition, offset) || place.1 < 0 => {}
                other => return Err(format!("{number} at {offset}, acknowledged at {other:?}")),
            }
            if numbers.last().is_some_and(|last| *last >= number) {
                return Err(format!("{number} comes after {:?}", numbers.last()));
            }
            numbers.push(number);
        }
    }
}
