//! `kill -9` under load, again and again: every acknowledged record is there afterwards, at the offset
//! that was acknowledged, in order, and none is there twice.
//!
//! One idempotent producer (librdkafka, acks=all) goes on through all kills; the broker comes back on the
//! same port and data. Kafka's own dumper then goes over every file. The broker is killed at random
//! times, from a seed that is printed; the environment makes a longer run of it (see tools/kill9):
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `RINGSPUN_SEED` | of the times and records | random |
//! | `RINGSPUN_KILL9_ROUNDS` | kills before everything is checked | 20 (Kafka: 2) |
//! | `RINGSPUN_KILL9_SECONDS` | begin anew, with the next seed, until this time is over | one run |
//! | `RINGSPUN_TEST_BROKER` | `ringspun` or `kafka` | ringspun |

mod broker;
#[path = "kill9/cleaned.rs"]
mod cleaned;
#[path = "kill9/groups.rs"]
mod groups;
mod hostile;
#[path = "kill9/moves.rs"]
mod moves;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{
    BaseRecord, DefaultProducerContext, DeliveryResult, Producer, ProducerContext, ThreadedProducer,
};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use broker::{Broker, Kind, dump, packages};
use hostile::environment;
use moves::Moves;

const TOPIC: &str = "killed";
const PARTITIONS: i32 = 4;
/// Records sent but not acknowledged, at most.
const IN_FLIGHT: u64 = 2_000;

#[test]
fn kill_9_loses_no_acknowledged_record() {
    run_all(&[]);
}

#[test]
fn kill_9_loses_no_acknowledged_record_with_flush_messages_1() {
    run_all(&[("flush.messages", "1")]);
}

#[test]
fn kill_9_loses_no_acknowledged_record_past_the_page_cache() {
    if Kind::from_environment() == Kind::Ringspun {
        run_all(&[("ringspun.log.io", "direct")]);
    }
}

#[test]
fn kill_9_loses_no_acknowledged_record_past_the_page_cache_with_flush_messages_1() {
    if Kind::from_environment() == Kind::Ringspun {
        run_all(&[("ringspun.log.io", "direct"), ("flush.messages", "1")]);
    }
}

#[test]
fn kill_9_keeps_the_last_value_of_every_key_while_the_cleaner_and_retention_are_busy() {
    clean_all(&[]);
}

#[test]
fn kill_9_keeps_the_last_value_of_every_key_past_the_page_cache() {
    clean_all(&[("ringspun.log.io", "direct")]);
}

#[test]
fn kill_9_loses_no_acknowledged_record_while_logs_move_between_disks() {
    move_all(&[]);
}

#[test]
fn kill_9_loses_no_acknowledged_record_past_the_page_cache_while_logs_move_between_disks() {
    move_all(&[("ringspun.log.io", "direct")]);
}

#[test]
fn kill_9_keeps_the_last_value_of_every_key_while_logs_move_between_disks() {
    move_and_clean_all(&[]);
}

#[test]
fn kill_9_keeps_the_last_value_of_every_key_past_the_page_cache_while_logs_move_between_disks() {
    move_and_clean_all(&[("ringspun.log.io", "direct")]);
}

#[test]
fn kill_9_leaves_no_transaction_half_visible_while_logs_move_between_disks() {
    if Kind::from_environment() == Kind::Kafka {
        return;
    }
    let (rounds, seed) = (rounds(8), seed());
    println!("seed {seed}");
    attempt(seed, |folder| {
        let moves = Moves::new(folder, &[(TOPIC, PARTITIONS)]);
        transactions(Kind::Ringspun, folder, rounds, seed, Some(&moves))
    });
}

fn move_all(topic_settings: &[(&str, &str)]) {
    if Kind::from_environment() == Kind::Kafka {
        return;
    }
    let (rounds, seed) = (rounds(10), seed());
    println!("seed {seed}, {topic_settings:?}");
    attempt(seed, |folder| {
        let moves = Moves::new(folder, &[(TOPIC, PARTITIONS)]);
        let kind = Kind::Ringspun;
        run(kind, folder, rounds, seed, topic_settings, Some(&moves))
    });
}

fn move_and_clean_all(topic_settings: &[(&str, &str)]) {
    if Kind::from_environment() == Kind::Kafka {
        return;
    }
    let (rounds, seed) = (rounds(8), seed());
    println!("seed {seed}, {topic_settings:?}");
    attempt(seed, |folder| {
        let topics = cleaned::TOPICS.map(|topic| (topic, cleaned::PARTITIONS as i32));
        let moves = Moves::new(folder, &topics);
        cleaned::run(folder, rounds, seed, topic_settings, Some(&moves))
    });
}

/// Kafka looks whether something is to be cleaned or deleted when it likes.
fn clean_all(topic_settings: &[(&str, &str)]) {
    if Kind::from_environment() == Kind::Kafka {
        return;
    }
    let (rounds, seed) = (rounds(12), seed());
    println!("seed {seed}, {topic_settings:?}");
    attempt(seed, |folder| {
        cleaned::run(folder, rounds, seed, topic_settings, None)
    });
}

/// Producers that commit and abort transactions over all partitions, while the broker is killed: of each
/// transaction a reader of committed records sees everything, once, or nothing; everything if the commit
/// was acknowledged, nothing if it was aborted.
#[test]
fn kill_9_leaves_no_transaction_half_visible() {
    let (rounds, seed) = (rounds(30), seed());
    println!("seed {seed}");
    attempt(seed, |folder| {
        transactions(Kind::from_environment(), folder, rounds, seed, None)
    });
}

/// Offsets are committed and members of both protocols join while the broker is killed: what was
/// acknowledged is never taken back.
#[test]
fn kill_9_takes_back_no_committed_offset() {
    let (rounds, seed) = (rounds(50), seed());
    println!("seed {seed}");
    attempt(seed, |folder| {
        groups::run(Kind::from_environment(), folder, rounds, seed)
    });
}

/// Kills before everything is checked; Kafka takes long to start.
fn rounds(of_ringspun: u32) -> u32 {
    environment("RINGSPUN_KILL9_ROUNDS").unwrap_or(match Kind::from_environment() {
        Kind::Ringspun => of_ringspun,
        Kind::Kafka => 2,
    })
}

fn seed() -> u64 {
    environment("RINGSPUN_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000_000))
}

/// Runs it in a folder of its own, which is kept if it fails.
fn attempt(seed: u64, run: impl FnOnce(&Path) -> Result<(), String>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    if let Err(problem) = run(folder.path()) {
        let kept = folder.keep();
        panic!(
            "RINGSPUN_SEED={seed}: {problem}\nthe data is kept in {}",
            kept.display()
        );
    }
}

fn run_all(topic_settings: &[(&str, &str)]) {
    let (rounds, mut seed) = (rounds(20), seed());
    let until =
        Instant::now() + Duration::from_secs(environment("RINGSPUN_KILL9_SECONDS").unwrap_or(0));
    loop {
        println!("seed {seed}, {topic_settings:?}");
        attempt(seed, |folder| {
            let kind = Kind::from_environment();
            run(kind, folder, rounds, seed, topic_settings, None)
        });
        if Instant::now() >= until {
            return;
        }
        seed += 1;
    }
}

/// Kills the broker and starts it again; how long the start took. Where logs move, it is stopped in order now and then.
fn start_anew(broker: &mut Broker, round: u32, moves: Option<&Moves>) -> Result<Duration, String> {
    if moves.is_some() && Moves::is_stop(round) {
        let status = broker.stop()?;
        if !broker.is_clean(status) {
            return Err(format!("stop {round}: {status}"));
        }
    } else {
        broker.kill();
    }
    let start = Instant::now();
    broker
        .start_again()
        .map_err(|error| format!("after kill {round}: {error}"))?;
    let took = start.elapsed();
    moves.map_or(Ok(()), |moves| moves.check(broker, round))?;
    Ok(took)
}

/// What became of the records, by their number.
#[derive(Default)]
struct Ledger {
    /// The partition and offset at which each was acknowledged; -1 if the broker knew only that it has it.
    acknowledged: Mutex<BTreeMap<u64, (i32, i64)>>,
    count: AtomicU64,
    failed: Mutex<Vec<String>>,
}

impl Ledger {
    fn fail(&self, problem: String) {
        self.failed.lock().expect("no panic").push(problem);
    }

    fn check(&self) -> Result<(), String> {
        let failed = self.failed.lock().expect("no panic");
        if failed.is_empty() {
            Ok(())
        } else {
            Err(format!("{} problems, first: {}", failed.len(), failed[0]))
        }
    }
}

#[derive(Clone)]
struct Context(Arc<Ledger>);

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        // A broker that is not there is what this test is about; what ends a producer is not.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.0.fail(format!("the producer ended: {reason}"));
        }
    }

    fn log(&self, _: rdkafka::config::RDKafkaLogLevel, _: &str, _: &str) {}
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<u64>;

    fn delivery(&self, result: &DeliveryResult<'_>, number: Box<u64>) {
        match result {
            Ok(message) => {
                let place = (message.partition(), message.offset());
                let before = self
                    .0
                    .acknowledged
                    .lock()
                    .expect("no panic")
                    .insert(*number, place);
                if let Some(before) = before {
                    self.0.fail(format!(
                        "record {number} acknowledged at {before:?} and again at {place:?}"
                    ));
                }
                self.0.count.fetch_add(1, Ordering::SeqCst);
            }
            Err((error, _)) => self.0.fail(format!("record {number} was refused: {error}")),
        }
    }
}

/// The bytes of a record: its number, and a filler of a length that follows from it.
fn value(number: u64, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed ^ number);
    let length = match random.u8(..) {
        0..8 => random.usize(10_000..60_000),
        _ => random.usize(0..1_200),
    };
    let mut value = number.to_be_bytes().to_vec();
    value.extend((0..length).map(|i| (number as usize + i) as u8));
    value
}

fn client(broker: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", broker.bootstrap())
        .set("reconnect.backoff.ms", "5")
        .set("reconnect.backoff.max.ms", "50")
        .set("log.connection.close", "false");
    config
}

fn create_topic(broker: &Broker, settings: &[(&str, &str)]) -> Result<(), String> {
    let admin: AdminClient<_> = client(broker).create().map_err(|error| error.to_string())?;
    let mut topic = NewTopic::new(TOPIC, PARTITIONS, TopicReplication::Fixed(1))
        .set("segment.bytes", "1048576");
    for (name, value) in settings {
        topic = topic.set(name, value);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let created = runtime
        .block_on(admin.create_topics([&topic], &AdminOptions::new()))
        .map_err(|error| error.to_string())?;
    if broker.kind() == Kind::Kafka {
        // It answers before the topic can be written to.
        std::thread::sleep(Duration::from_secs(1));
    }
    created
        .into_iter()
        .try_for_each(|one| one.map(drop).map_err(|error| format!("{error:?}")))
}

fn run(
    kind: Kind,
    folder: &Path,
    rounds: u32,
    seed: u64,
    topic_settings: &[(&str, &str)],
    moves: Option<&Moves>,
) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let settings = moves.map(Moves::settings);
    let mut broker = Broker::start(kind, folder, settings.as_ref().map_or(&[], |s| s))?;
    create_topic(&broker, topic_settings)?;
    let ledger = Arc::new(Ledger::default());
    let producer = producer(&broker, &ledger)?;
    let (stop, config, bootstrap) = (AtomicBool::new(false), client(&broker), broker.bootstrap());
    let mut sent = 0;
    let mut restart_ms = Vec::new();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(&producer, &ledger, &stop, seed, place, moves.is_some()));
        let reader = moves.map(|moves| {
            let (stop, config) = (&stop, &config);
            scope.spawn(|| moves.keep_moving(&bootstrap, stop, seed));
            scope.spawn(move || read_along(config, stop, seed))
        });
        let outcome = (|| {
            for round in 0..rounds {
                // Only a broker that acknowledges again is worth killing.
                wait_for_progress(&ledger, 20)?;
                std::thread::sleep(Duration::from_micros(random.u64(0..400_000)));
                restart_ms.push(start_anew(&mut broker, round, moves)?.as_millis());
                ledger.check()?;
            }
            wait_for_progress(&ledger, 20)
        })();
        stop.store(true, Ordering::SeqCst);
        sent = sender.join().map_err(|_| "the sender panicked")?;
        if let Some(reader) = reader {
            reader.join().map_err(|_| "the reader panicked")??;
        }
        outcome
    })
    .map_err(|error| format!("{error}\n{}", broker.last_words()))?;
    let acknowledged = all_acknowledged(producer, &ledger, sent)?;
    verify(&broker, &acknowledged, seed)?;
    // Once more, with what a crash leaves and recovery makes of it.
    broker.kill();
    broker.start_again()?;
    verify(&broker, &acknowledged, seed)?;
    let mut moved = String::new();
    if let Some(moves) = moves {
        moves.check_places(&broker)?;
        moved = format!(", {} moves", moves.check_words(folder, rounds)?);
    }
    broker.stop()?;
    let first = [broker.log_dir()];
    let dirs = moves.map_or(&first[..], Moves::dirs);
    let dumped = match packages::jars() {
        Ok(_) => {
            let dumped = dirs.iter().map(|dir| dump::run(dir, TOPIC));
            let files: usize = dumped.sum::<Result<_, String>>()?;
            format!("{files} files dumped without complaint")
        }
        Err(reason) if packages::all_required() => return Err(reason),
        Err(reason) => format!("not dumped: {reason}"),
    };
    restart_ms.sort_unstable();
    // Of writes that were under way, past the page cache the pieces arrive in any order: nothing of them was
    // acknowledged, but what is there behind a gap is kept aside.
    let words = std::fs::read_to_string(folder.join("stderr")).unwrap_or_default();
    let gaps = words.matches("damage in the log").count();
    println!(
        "{rounds} kills{moved}, {sent} records, {gaps} gaps, ready again after {} ms (median), {} ms (longest); {dumped}",
        restart_ms.get(restart_ms.len() / 2).unwrap_or(&0),
        restart_ms.last().unwrap_or(&0)
    );
    Ok(())
}

/// An idempotent one that never gives up.
fn producer(broker: &Broker, ledger: &Arc<Ledger>) -> Result<ThreadedProducer<Context>, String> {
    client(broker)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "1")
        .set("retry.backoff.ms", "5")
        .set("message.timeout.ms", "0")
        .set("socket.timeout.ms", "10000")
        .create_with_context(Context(ledger.clone()))
        .map_err(|error| error.to_string())
}

/// Where record `number` goes, to all partitions in turn: topic, partition and key.
fn place(number: u64) -> (&'static str, i32, u64) {
    (TOPIC, (number % PARTITIONS as u64) as i32, number)
}

/// Sends records, numbered from 0, to their places, until told to stop; how many.
fn send(
    producer: &ThreadedProducer<Context>,
    ledger: &Ledger,
    stop: &AtomicBool,
    seed: u64,
    place: fn(u64) -> (&'static str, i32, u64),
    is_paced: bool,
) -> u64 {
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        if number - ledger.count.load(Ordering::SeqCst) >= IN_FLIGHT {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        if is_paced && number % 4 == 0 {
            // The copy of a log has to come to where the log ends.
            std::thread::sleep(Duration::from_millis(1));
        }
        let (topic, partition, key) = place(number);
        let (key, value) = (key.to_be_bytes(), value(number, seed));
        let record = BaseRecord::with_opaque_to(topic, Box::new(number))
            .partition(partition)
            .key(&key[..])
            .payload(&value[..]);
        match producer.send(record) {
            Ok(()) => number += 1,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err((error, _)) => {
                ledger.fail(format!("record {number} could not be sent: {error}"));
                break;
            }
        }
    }
    number
}

fn wait_for_progress(ledger: &Ledger, records: u64) -> Result<(), String> {
    let before = ledger.count.load(Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_secs(60);
    while ledger.count.load(Ordering::SeqCst) < before + records {
        ledger.check()?;
        if Instant::now() > deadline {
            return Err("nothing was acknowledged for 60 s".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Waits until all is acknowledged that was sent; where each record is.
fn all_acknowledged(
    producer: ThreadedProducer<Context>,
    ledger: &Ledger,
    sent: u64,
) -> Result<BTreeMap<u64, (i32, i64)>, String> {
    producer
        .flush(Duration::from_secs(60))
        .map_err(|error| format!("at the end: {error}"))?;
    ledger.check()?;
    let acknowledged = std::mem::take(&mut *ledger.acknowledged.lock().expect("no panic"));
    match acknowledged.len() as u64 == sent {
        true => Ok(acknowledged),
        false => Err(format!("{sent} sent, {} acknowledged", acknowledged.len())),
    }
}

/// What is read next of each partition.
struct Expected {
    offsets: [i64; PARTITIONS as usize],
    numbers: [u64; PARTITIONS as usize],
    seed: u64,
}

impl Expected {
    fn from_the_start(seed: u64) -> Expected {
        Expected {
            offsets: [0; PARTITIONS as usize],
            numbers: std::array::from_fn(|partition| partition as u64),
            seed,
        }
    }

    /// The number of the record, which is the next one of its partition, with the bytes that were sent.
    fn take(&mut self, message: &impl Message) -> Result<u64, String> {
        let (partition, offset) = (message.partition(), message.offset());
        let here = format!("partition {partition}, offset {offset}");
        let next_offset = &mut self.offsets[partition as usize];
        let next_number = &mut self.numbers[partition as usize];
        if offset != *next_offset {
            return Err(format!("{here}: expected offset {next_offset}"));
        }
        let number = *next_number;
        if message.key() != Some(&number.to_be_bytes()[..]) {
            return Err(format!(
                "{here}: expected record {number}, found key {:?}",
                message.key()
            ));
        }
        if message.payload() != Some(&value(number, self.seed)[..]) {
            return Err(format!("{here}: record {number} has other bytes"));
        }
        *next_offset += 1;
        *next_number += PARTITIONS as u64;
        Ok(number)
    }
}

/// A consumer of all partitions from their starts on.
fn consumer(config: &ClientConfig) -> Result<BaseConsumer, String> {
    let consumer: BaseConsumer = config
        .clone()
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        .create()
        .map_err(|error| error.to_string())?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment
            .add_partition_offset(TOPIC, partition, Offset::Offset(0))
            .map_err(|error| error.to_string())?;
    }
    consumer
        .assign(&assignment)
        .map_err(|error| error.to_string())?;
    Ok(consumer)
}

/// Reads what is written, through all kills, until told to stop: who has read a record finds the next one behind it.
fn read_along(config: &ClientConfig, stop: &AtomicBool, seed: u64) -> Result<(), String> {
    let consumer = consumer(config)?;
    let mut expected = Expected::from_the_start(seed);
    while !stop.load(Ordering::SeqCst) {
        match consumer.poll(Duration::from_millis(50)) {
            None => {}
            Some(Ok(message)) => drop(expected.take(&message)?),
            Some(Err(KafkaError::MessageConsumption(
                code @ (RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange),
            ))) => return Err(format!("{code}, at {:?}", expected.offsets)),
            // There is no broker just now.
            Some(Err(_)) => {}
        }
    }
    Ok(())
}

/// Reads everything and holds it against what was acknowledged.
fn verify(
    broker: &Broker,
    acknowledged: &BTreeMap<u64, (i32, i64)>,
    seed: u64,
) -> Result<(), String> {
    let consumer = consumer(&client(broker))?;
    let mut left = 0;
    for partition in 0..PARTITIONS {
        let deadline = Instant::now() + Duration::from_secs(20);
        let (low, high) = loop {
            match consumer.fetch_watermarks(TOPIC, partition, Duration::from_secs(20)) {
                Ok(watermarks) => break watermarks,
                // Kafka listens before its partitions are loaded; ringspun's ready line has to mean ready.
                Err(_) if broker.kind() == Kind::Kafka && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(error) => return Err(format!("partition {partition}: {error}")),
            }
        };
        if low != 0 {
            return Err(format!("partition {partition} begins at {low}"));
        }
        left += high as u64;
    }
    if left != acknowledged.len() as u64 {
        return Err(format!(
            "{} records acknowledged, {left} are there",
            acknowledged.len()
        ));
    }
    let mut expected = Expected::from_the_start(seed);
    let mut last = Instant::now();
    while left > 0 {
        let message = match consumer.poll(Duration::from_millis(200)) {
            Some(message) => message.map_err(|error| error.to_string())?,
            None if last.elapsed() > Duration::from_secs(30) => {
                return Err(format!(
                    "{left} records do not come, next offsets {:?}",
                    expected.offsets
                ));
            }
            None => continue,
        };
        last = Instant::now();
        let number = expected.take(&message)?;
        let here = (message.partition(), message.offset());
        match acknowledged.get(&number) {
            Some(place) if *place == here || place.1 < 0 => {}
            other => {
                return Err(format!(
                    "{here:?}: record {number} was acknowledged at {other:?}"
                ));
            }
        }
        left -= 1;
    }
    Ok(())
}

const TRANSACTORS: usize = 3;
/// Records of a transaction in each partition.
const RECORDS_EACH: u64 = 2;
/// Written after all transactions, in none.
const LAST: &str = "last";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Committed,
    Aborted,
    /// The producer gave up on it, or was told nothing: committed or aborted.
    Unknown,
}

fn transactions(
    kind: Kind,
    folder: &Path,
    rounds: u32,
    seed: u64,
    moves: Option<&Moves>,
) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    // Several shards, so that most markers go from one to another.
    let mut settings = vec![("ringspun.shards", "3")];
    settings.extend(moves.iter().flat_map(|moves| moves.settings()));
    let mut broker = Broker::start(kind, folder, &settings)?;
    create_topic(&broker, &[])?;
    let stop = AtomicBool::new(false);
    let count = AtomicU64::new(0);
    let (config, bootstrap) = (client(&broker), broker.bootstrap());
    let mut ended = Vec::new();
    std::thread::scope(|scope| {
        let (stop, count, config) = (&stop, &count, &config);
        let transactors: Vec<_> = (0..TRANSACTORS)
            .map(|who| scope.spawn(move || transact(who, config, stop, count, seed)))
            .collect();
        if let Some(moves) = moves {
            let bootstrap = &bootstrap;
            scope.spawn(move || moves.keep_moving(bootstrap, stop, seed));
        }
        let progress = |transactions: u64| {
            let before = count.load(Ordering::SeqCst);
            let deadline = Instant::now() + Duration::from_secs(60);
            while count.load(Ordering::SeqCst) < before + transactions {
                if Instant::now() > deadline {
                    return Err("no transaction ended for 60 s".to_owned());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        };
        let outcome = (|| {
            for round in 0..rounds {
                progress(4)?;
                std::thread::sleep(Duration::from_micros(random.u64(0..60_000)));
                start_anew(&mut broker, round, moves)?;
            }
            progress(4)
        })();
        stop.store(true, Ordering::SeqCst);
        for transactor in transactors {
            ended.push(transactor.join().map_err(|_| "a transactor panicked")?);
        }
        outcome
    })
    .map_err(|error| format!("{error}\n{}", broker.last_words()))?;
    let ended: Vec<Vec<Ended>> = ended.into_iter().collect::<Result<_, _>>()?;
    // It is seen only when no transaction before it is open any more.
    let producer: ThreadedProducer<DefaultProducerContext> =
        config.create().map_err(|error| error.to_string())?;
    for partition in 0..PARTITIONS {
        let record = BaseRecord::<str, str>::to(TOPIC)
            .partition(partition)
            .payload(LAST);
        producer
            .send(record)
            .map_err(|(error, _)| error.to_string())?;
    }
    producer
        .flush(Duration::from_secs(60))
        .map_err(|error| error.to_string())?;
    verify_transactions(&broker, &ended)?;
    broker.kill();
    broker.start_again()?;
    let visible = verify_transactions(&broker, &ended)?;
    if let Some(moves) = moves {
        moves.check_places(&broker)?;
        let moved = moves.check_words(folder, rounds)?;
        println!("{moved} moves");
    }
    let of = |what| {
        ended
            .iter()
            .flatten()
            .filter(|ended| **ended == what)
            .count()
    };
    println!(
        "{rounds} kills, {} transactions committed, {} aborted, {} unknown; {visible} are there",
        of(Ended::Committed),
        of(Ended::Aborted),
        of(Ended::Unknown)
    );
    Ok(())
}

/// Runs one transaction after the other until told to stop; how each ended.
fn transact(
    who: usize,
    config: &ClientConfig,
    stop: &AtomicBool,
    count: &AtomicU64,
    seed: u64,
) -> Result<Vec<Ended>, String> {
    let mut random = fastrand::Rng::with_seed(seed + 1 + who as u64);
    let mut ended = Vec::new();
    let patience = Duration::from_secs(60);
    let say = |error: KafkaError| error.to_string();
    while !stop.load(Ordering::SeqCst) {
        // A new one after each that failed for good.
        let producer: ThreadedProducer<DefaultProducerContext> = config
            .clone()
            .set("transactional.id", format!("transactor-{who}"))
            .set("transaction.timeout.ms", "30000")
            .set("linger.ms", "1")
            .set("retry.backoff.ms", "5")
            .create()
            .map_err(say)?;
        producer.init_transactions(patience).map_err(say)?;
        while !stop.load(Ordering::SeqCst) {
            let number = ended.len();
            producer.begin_transaction().map_err(say)?;
            for record in 0..RECORDS_EACH {
                for partition in 0..PARTITIONS {
                    let value = format!("{who} {number} {record}");
                    let record = BaseRecord::<str, str>::to(TOPIC)
                        .partition(partition)
                        .payload(&value);
                    producer.send(record).map_err(|(error, _)| say(error))?;
                }
            }
            let mut aborts = random.u8(..4) == 0;
            if aborts {
                // An abort drops what is not sent yet, and would leave nothing to be hidden.
                let _ = producer.flush(Duration::from_secs(10));
            }
            let last = loop {
                let result = if aborts {
                    producer.abort_transaction(patience)
                } else {
                    producer.commit_transaction(patience)
                };
                match result {
                    Ok(()) if aborts => break Ended::Aborted,
                    Ok(()) => break Ended::Committed,
                    Err(KafkaError::Transaction(error)) if error.is_retriable() => {}
                    Err(KafkaError::Transaction(error)) if error.txn_requires_abort() => {
                        aborts = true;
                    }
                    Err(_) => break Ended::Unknown,
                }
            };
            ended.push(last);
            count.fetch_add(1, Ordering::SeqCst);
            if last == Ended::Unknown {
                break;
            }
        }
    }
    Ok(ended)
}

/// Reads what is committed, and holds it against how each transaction ended; how many are there.
fn verify_transactions(broker: &Broker, ended: &[Vec<Ended>]) -> Result<usize, String> {
    let consumer: BaseConsumer = client(broker)
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()
        .map_err(|error| error.to_string())?;
    let mut seen: BTreeMap<(usize, usize), u64> = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(TOPIC, partition, Offset::Offset(0))
            .map_err(|error| error.to_string())?;
        consumer
            .assign(&assignment)
            .map_err(|error| error.to_string())?;
        let mut next: BTreeMap<usize, (usize, u64)> = BTreeMap::new();
        let mut last = Instant::now();
        loop {
            let message = match consumer.poll(Duration::from_millis(100)) {
                None if last.elapsed() < Duration::from_secs(60) => continue,
                None => return Err(format!("partition {partition}: readers are held back")),
                Some(message) => message.map_err(|error| error.to_string())?,
            };
            last = Instant::now();
            let here = format!("partition {partition}, offset {}", message.offset());
            let text = String::from_utf8_lossy(message.payload().unwrap_or_default());
            if text == LAST {
                break;
            }
            let numbers: Vec<u64> = text.split(' ').filter_map(|n| n.parse().ok()).collect();
            let [who, number, record] = numbers[..] else {
                return Err(format!("{here}: {text:?}"));
            };
            let (who, number) = (who as usize, number as usize);
            let place = (number, record);
            // In order, each once.
            if next.get(&who).is_some_and(|next| place < *next) {
                return Err(format!("{here}: {text:?} again"));
            }
            next.insert(who, (number, record + 1));
            *seen.entry((who, number)).or_default() += 1;
        }
    }
    let whole = RECORDS_EACH * PARTITIONS as u64;
    for (who, ended) in ended.iter().enumerate() {
        for (number, ended) in ended.iter().enumerate() {
            let there = seen.get(&(who, number)).copied().unwrap_or(0);
            let right = match ended {
                Ended::Committed => there == whole,
                Ended::Aborted => there == 0,
                Ended::Unknown => there == 0 || there == whole,
            };
            if !right {
                return Err(format!(
                    "transaction {number} of {who}: {ended:?}, and {there} of {whole} records are there"
                ));
            }
        }
    }
    Ok(seen.len())
}
