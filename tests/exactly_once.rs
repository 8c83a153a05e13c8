//! Exactly once, while everything is killed: Kafka's own TransactionalMessageCopier copies a topic in
//! transactions, some of which it aborts at random; copiers and broker are killed with `kill -9` again
//! and again. What a reader of committed records then finds in the copy is the original: nothing is
//! missing, nothing is there twice, and each partition is in its order.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `RINGSPUN_SEED` | of the times and of who is killed | random |
//! | `RINGSPUN_EXACTLY_ONCE_KILLS` | kills before the copiers may finish | 10 (Kafka: 4) |
//! | `RINGSPUN_TEST_BROKER` | `ringspun` or `kafka` | ringspun |

mod broker;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use broker::{Broker, Kind, die_with_parent, packages};

const INPUT: &str = "original";
const OUTPUT: &str = "copy";
const COPIERS: usize = 3;
/// Records in each partition.
const RECORDS: usize = 6_000;
/// The copiers have to be through by then, whatever is killed.
const PATIENCE: Duration = Duration::from_secs(300);

/// Each copier reads a partition of its own.
#[test]
fn a_partition_a_copier() {
    run(false);
}

/// The copiers are a consumer group; who takes over from a killed one waits until its transaction is over.
#[test]
fn copiers_in_a_group() {
    run(true);
}

fn environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().map(|text| match text.parse() {
        Ok(value) => value,
        Err(_) => panic!("{name}={text} is not a number"),
    })
}

fn run(in_a_group: bool) {
    let jars = match packages::jars() {
        Ok(jars) => jars,
        Err(reason) if packages::all_required() => panic!("{reason}"),
        Err(reason) => return println!("skipped: {reason}"),
    };
    let seed = environment("RINGSPUN_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    println!("seed {seed}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    if let Err(problem) = copy(&jars, folder.path(), in_a_group, seed) {
        let kept = folder.keep();
        panic!(
            "RINGSPUN_SEED={seed}: {problem}\nthe data is kept in {}",
            kept.display()
        );
    }
}

struct Copiers<'a> {
    jars: &'a Path,
    folder: &'a Path,
    bootstrap: String,
    in_a_group: bool,
    /// `None` once it has finished.
    running: Vec<Option<Child>>,
    /// How many gave up by themselves, and were started again.
    gave_up: u32,
}

impl Copiers<'_> {
    fn errors(&self, copier: usize) -> PathBuf {
        self.folder.join(format!("copier-{copier}.stderr"))
    }

    fn start(&self, copier: usize) -> Result<Child, String> {
        let stderr = File::options()
            .create(true)
            .append(true)
            .open(self.errors(copier))
            .map_err(|error| error.to_string())?;
        let mut command = packages::java(self.jars);
        command
            .arg("org.apache.kafka.tools.TransactionalMessageCopier")
            .args(["--broker-list", &self.bootstrap])
            .args(["--input-topic", INPUT, "--output-topic", OUTPUT])
            .args(["--input-partition", &copier.to_string()])
            .args(["--transactional-id", &format!("copier-{copier}")])
            .args(["--transaction-size", "20", "--enable-random-aborts"])
            .arg("--use-group-metadata");
        if self.in_a_group {
            command.args(["--consumer-group", "copiers", "--group-mode"]);
        } else {
            command.args(["--consumer-group", &format!("copiers-{copier}")]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        die_with_parent(&mut command);
        command.spawn().map_err(|error| error.to_string())
    }

    fn restart(&mut self, copier: usize) -> Result<(), String> {
        self.running[copier] = Some(self.start(copier)?);
        Ok(())
    }

    fn kill(&mut self, copier: usize) -> Result<(), String> {
        if let Some(mut child) = self.running[copier].take() {
            let _ = child.kill();
            let _ = child.wait();
            self.restart(copier)?;
        }
        Ok(())
    }

    /// Starts those again that gave up; whether all have finished.
    fn look(&mut self) -> Result<bool, String> {
        for copier in 0..self.running.len() {
            let Some(child) = &mut self.running[copier] else {
                continue;
            };
            match child.try_wait().map_err(|error| error.to_string())? {
                None => {}
                Some(status) if status.success() => self.running[copier] = None,
                Some(_) => {
                    self.gave_up += 1;
                    self.restart(copier)?;
                }
            }
        }
        Ok(self.running.iter().all(Option::is_none))
    }

    fn last_words(&self) -> String {
        let words = |copier| {
            let text = std::fs::read_to_string(self.errors(copier)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(15)..].join("\n")
        };
        (0..self.running.len())
            .map(|copier| format!("copier {copier}:\n{}\n", words(copier)))
            .collect()
    }
}

impl Drop for Copiers<'_> {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn copy(jars: &Path, folder: &Path, in_a_group: bool, seed: u64) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let kind = Kind::from_environment();
    let kills = environment("RINGSPUN_EXACTLY_ONCE_KILLS").unwrap_or(match kind {
        Kind::Ringspun => 10,
        Kind::Kafka => 4,
    });
    let mut broker = Broker::start(kind, &folder.join("broker"), &[("ringspun.shards", "2")])?;
    fill(&broker)?;
    let mut copiers = Copiers {
        jars,
        folder,
        bootstrap: broker.bootstrap(),
        in_a_group,
        running: Vec::new(),
        gave_up: 0,
    };
    for copier in 0..COPIERS {
        let child = copiers.start(copier)?;
        copiers.running.push(Some(child));
    }
    let began = Instant::now();
    let (mut of_copiers, mut of_broker) = (0, 0);
    let mut next_kill = began + Duration::from_secs(2);
    while !copiers.look()? {
        if began.elapsed() > PATIENCE {
            return Err(format!(
                "not through after {PATIENCE:?}\n{}\nbroker:\n{}",
                copiers.last_words(),
                broker.last_words()
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
        if Instant::now() < next_kill || of_copiers + of_broker >= kills {
            continue;
        }
        if random.bool() {
            of_broker += 1;
            broker.kill();
            broker.start_again()?;
        } else {
            of_copiers += 1;
            copiers.kill(random.usize(..COPIERS))?;
        }
        next_kill = Instant::now() + Duration::from_millis(random.u64(300..2_500));
    }
    println!(
        "{of_copiers} copiers and {of_broker} brokers killed, {} copiers gave up, {:.0} s",
        copiers.gave_up,
        began.elapsed().as_secs_f64()
    );
    verify(&broker)?;
    // Once more, from what is on disk.
    broker.kill();
    broker.start_again()?;
    verify(&broker)
}

fn client(broker: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.bootstrap());
    config
}

/// Makes both topics and writes the original.
fn fill(broker: &Broker) -> Result<(), String> {
    let admin: AdminClient<_> = client(broker).create().map_err(|error| error.to_string())?;
    let partitions = COPIERS as i32;
    let topics = [INPUT, OUTPUT].map(|name| {
        // Segments roll often.
        NewTopic::new(name, partitions, TopicReplication::Fixed(1)).set("segment.bytes", "1048576")
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime
        .block_on(admin.create_topics(&topics, &AdminOptions::new()))
        .map_err(|error| error.to_string())?;
    if broker.kind() == Kind::Kafka {
        // It answers before the topic can be written to.
        std::thread::sleep(Duration::from_secs(1));
    }
    let producer: ThreadedProducer<DefaultProducerContext> = client(broker)
        .set("enable.idempotence", "true")
        .create()
        .map_err(|error| error.to_string())?;
    for number in 0..RECORDS {
        for partition in 0..partitions {
            let value = value(partition, number);
            let record = BaseRecord::<[u8], str>::to(INPUT)
                .partition(partition)
                .payload(&value);
            producer
                .send(record)
                .map_err(|(error, _)| error.to_string())?;
        }
    }
    producer
        .flush(Duration::from_secs(60))
        .map_err(|error| error.to_string())
}

fn value(partition: i32, number: usize) -> String {
    format!("{partition}-{number}")
}

/// Reads what is committed of the copy, and holds it against the original.
fn verify(broker: &Broker) -> Result<(), String> {
    let consumer: BaseConsumer = client(broker)
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .create()
        .map_err(|error| error.to_string())?;
    for partition in 0..COPIERS as i32 {
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(OUTPUT, partition, Offset::Offset(0))
            .map_err(|error| error.to_string())?;
        consumer
            .assign(&assignment)
            .map_err(|error| error.to_string())?;
        let mut number = 0;
        let mut last = Instant::now();
        loop {
            let message = match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => message,
                // The end of what is committed.
                Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) if number >= RECORDS => {
                    break;
                }
                Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) | None
                    if last.elapsed() < Duration::from_secs(20) =>
                {
                    continue;
                }
                Some(Err(error)) => {
                    return Err(format!(
                        "partition {partition} ends at record {number}: {error}"
                    ));
                }
                None => return Err(format!("partition {partition} ends at record {number}")),
            };
            last = Instant::now();
            let expected = value(partition, number);
            let found = message.payload().map(String::from_utf8_lossy);
            if found.as_deref() != Some(&expected) {
                return Err(format!(
                    "partition {partition}, offset {}: {found:?} instead of {expected}",
                    message.offset()
                ));
            }
            number += 1;
        }
        if number != RECORDS {
            return Err(format!("partition {partition} has {number} records"));
        }
    }
    Ok(())
}
