//! What ringspun costs beside Apache Kafka: `cargo bench --bench measure -- [OPTIONS] [PART OF A NAME…]`.
//!
//! Each broker is pinned to core 0, the load (librdkafka, in this process) to core 1. Both run all the
//! time; the load goes to them in turn, round by round, so that a machine that drifts drifts for both. The
//! first round warms up and does not count. CPU is user and system time of all threads of the broker,
//! kernel workers of its rings included (`/proc/PID/stat`), so the other one's idling does not count.
//!
//! | measured | unit |
//! |---|---|
//! | `produce-1k`: 1 KiB records, batches up to 1 MB, 4 partitions, acks=all | CPU s/GB, MB/s |
//! | `produce-100b`: 100 B records, batches up to 1 MB | CPU s/GB, MB/s |
//! | `produce-10x1k`: batches of 10 records of 1 KiB over 16 partitions | CPU us a record |
//! | `fetch`: what `produce-1k` wrote, from the page cache | CPU s/GB, MB/s |
//! | `start`: from exec to the first answered ApiVersions, with an empty directory and with 1,000 partitions | ms |
//! | `idle`: resident memory and CPU after 5 s, empty and with 1,000 partitions | MB, % of a core |
//!
//! Options: `--rounds N` (5), `--mb N` produced a round (1000), `--only ringspun|kafka`, `--json FILE` for a
//! line of JSON a measurement. The table has medians, and the least and greatest of the rounds.

#[path = "../tests/broker/mod.rs"]
mod broker;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use broker::{Broker, Kind};

const BROKER_CORE: usize = 0;
const LOAD_CORE: usize = 1;
const MANY_PARTITIONS: i32 = 1_000;

struct Options {
    rounds: usize,
    megabytes: u64,
    kinds: Vec<Kind>,
    json: Option<fs::File>,
    names: Vec<String>,
}

impl Options {
    fn parse() -> Result<Options> {
        let mut options = Options {
            rounds: 5,
            megabytes: 1_000,
            kinds: vec![Kind::Ringspun, Kind::Kafka],
            json: None,
            names: Vec::new(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .with_context(|| format!("{argument} needs a value"))
            };
            match argument.as_str() {
                "--bench" => {}
                "--rounds" => options.rounds = value()?.parse()?,
                "--mb" => options.megabytes = value()?.parse()?,
                "--only" => {
                    options.kinds = match value()?.as_str() {
                        "ringspun" => vec![Kind::Ringspun],
                        "kafka" => vec![Kind::Kafka],
                        other => bail!("--only {other}: ringspun or kafka"),
                    }
                }
                "--json" => options.json = Some(fs::File::create(value()?)?),
                name if !name.starts_with('-') => options.names.push(name.to_string()),
                other => bail!("{other} is not an option; see the head of tools/measure.rs"),
            }
        }
        Ok(options)
    }

    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|part| name.contains(part.as_str()))
    }
}

/// Measurements by name and unit, then by broker, in the order of the rounds.
#[derive(Default)]
struct Results(BTreeMap<(String, &'static str), Vec<(Kind, f64)>>);

impl Results {
    fn add(
        &mut self,
        options: &mut Options,
        round: usize,
        kind: Kind,
        name: &str,
        unit: &'static str,
        value: f64,
    ) {
        eprintln!("round {round}: {kind:?} {name}: {value:.3} {unit}");
        if let Some(file) = &mut options.json {
            let line = serde_json::json!({
                "round": round, "broker": format!("{kind:?}"), "measured": name, "unit": unit, "value": value,
            });
            let _ = writeln!(file, "{line}");
        }
        self.0
            .entry((name.to_string(), unit))
            .or_default()
            .push((kind, value));
    }

    fn print(&self) {
        println!("| measured | unit | ringspun | Kafka 4.3.1 | Kafka / ringspun |");
        println!("|---|---|---|---|---|");
        for ((name, unit), values) in &self.0 {
            let of = |kind: Kind| {
                let mut of: Vec<f64> = values
                    .iter()
                    .filter(|(of, _)| *of == kind)
                    .map(|(_, value)| *value)
                    .collect();
                of.sort_by(f64::total_cmp);
                of
            };
            let show = |values: &[f64]| match (values.first(), values.last()) {
                (Some(least), Some(most)) => {
                    format!("{:.3} ({least:.3} to {most:.3})", values[values.len() / 2])
                }
                _ => "-".to_string(),
            };
            let (ours, theirs) = (of(Kind::Ringspun), of(Kind::Kafka));
            let ratio = match (ours.get(ours.len() / 2), theirs.get(theirs.len() / 2)) {
                (Some(ours), Some(theirs)) if *ours > 0.0 => format!("{:.1}", theirs / ours),
                _ => "-".to_string(),
            };
            println!(
                "| {name} | {unit} | {} | {} | {ratio} |",
                show(&ours),
                show(&theirs)
            );
        }
    }
}

/// User and system seconds of all threads of a process so far.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold spaces; utime and stime are fields 14 and 15.
    let (_, rest) = stat.rsplit_once(") ").context("a stat without a name")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    // SAFETY: sysconf takes and returns numbers.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(ticks as f64 / per_second as f64)
}

fn resident_megabytes(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

fn pin_to(core: usize) -> Result<()> {
    // SAFETY: the set is ours and initialised; the call reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        ensure!(
            libc::sched_setaffinity(0, std::mem::size_of_val(&set), &set) == 0,
            "no core {core}"
        );
    }
    Ok(())
}

fn client(broker: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.bootstrap());
    config
}

fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future))
}

fn admin(broker: &Broker) -> Result<AdminClient<DefaultClientContext>> {
    Ok(client(broker).create()?)
}

fn create_topic(broker: &Broker, name: &str, partitions: i32) -> Result<()> {
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1))
        .set("retention.ms", "-1")
        .set("file.delete.delay.ms", "100");
    for result in block_on(admin(broker)?.create_topics([&topic], &AdminOptions::new()))?? {
        result.map_err(|(name, error)| anyhow!("{name}: {error}"))?;
    }
    // Kafka answers before the topic can be written to.
    std::thread::sleep(Duration::from_secs(1));
    Ok(())
}

fn delete_topic(broker: &Broker, name: &str) -> Result<()> {
    block_on(admin(broker)?.delete_topics(&[name], &AdminOptions::new()))??;
    std::thread::sleep(Duration::from_secs(1));
    Ok(())
}

#[derive(Clone, Default)]
struct Delivered {
    count: Arc<AtomicU64>,
    failed: Arc<AtomicBool>,
}

impl ClientContext for Delivered {}

impl ProducerContext for Delivered {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.count.fetch_add(1, Ordering::Relaxed);
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
    }
}

/// What to produce.
struct Load {
    record_bytes: usize,
    batch_records: u32,
    partitions: i32,
    records: u64,
}

/// Seconds it took, and CPU seconds of the broker.
fn produce(broker: &Broker, topic: &str, load: &Load) -> Result<(f64, f64)> {
    let delivered = Delivered::default();
    let producer: BaseProducer<Delivered> = client(broker)
        .set("acks", "all")
        .set("batch.size", "1000000")
        .set("batch.num.messages", load.batch_records.to_string())
        .set("linger.ms", "20")
        .set("queue.buffering.max.messages", "1000000")
        .set("queue.buffering.max.kbytes", "200000")
        .create_with_context(delivered.clone())?;
    let value: Vec<u8> = (0..load.record_bytes).map(|_| fastrand::u8(..)).collect();
    producer
        .client()
        .fetch_metadata(Some(topic), Duration::from_secs(20))?;
    let cpu = cpu_seconds(broker.pid())?;
    let start = Instant::now();
    for number in 0..load.records {
        // All records of one batch, then those of the next partition's.
        let partition = number / load.batch_records as u64 % load.partitions as u64;
        let mut record = BaseRecord::<(), [u8]>::to(topic)
            .partition(partition as i32)
            .payload(&value);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    record = again;
                    producer.poll(Duration::from_millis(2));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        if number % 4096 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(120))?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(
        !delivered.failed.load(Ordering::Relaxed),
        "a record was refused"
    );
    ensure!(
        delivered.count.load(Ordering::Relaxed) == load.records,
        "not all records were acknowledged"
    );
    Ok((seconds, cpu_seconds(broker.pid())? - cpu))
}

/// Reads a topic of `records` from its beginning.
fn fetch(broker: &Broker, topic: &str, load: &Load) -> Result<(f64, f64)> {
    let consumer: BaseConsumer = client(broker)
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.message.max.bytes", "1048576")
        .set("queued.min.messages", "1000000")
        .set("queued.max.messages.kbytes", "100000")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..load.partitions {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    let cpu = cpu_seconds(broker.pid())?;
    let start = Instant::now();
    consumer.assign(&assignment)?;
    let mut read = 0;
    while read < load.records {
        match consumer.poll(Duration::from_secs(20)) {
            Some(message) => {
                read += 1;
                ensure!(
                    message?.payload_len() == load.record_bytes,
                    "a record of another length"
                );
            }
            None => bail!("{read} of {} records came", load.records),
        }
    }
    Ok((
        start.elapsed().as_secs_f64(),
        cpu_seconds(broker.pid())? - cpu,
    ))
}

/// Loads every broker in turn, round by round.
fn loads(options: &mut Options, results: &mut Results, folder: &Path) -> Result<()> {
    let total = options.megabytes * 1_000_000;
    let loads = [
        (
            "produce-1k",
            Load {
                record_bytes: 1024,
                batch_records: 900,
                partitions: 4,
                records: total / 1024,
            },
        ),
        (
            "produce-100b",
            Load {
                record_bytes: 100,
                batch_records: 8_000,
                partitions: 4,
                records: total / 4 / 100,
            },
        ),
        (
            "produce-10x1k",
            Load {
                record_bytes: 1024,
                batch_records: 10,
                partitions: 16,
                records: total / 5 / 1024,
            },
        ),
    ];
    let wanted = |name: &str| options.wants(name) || name == "produce-1k" && options.wants("fetch");
    let loads: Vec<_> = loads.into_iter().filter(|(name, _)| wanted(name)).collect();
    if loads.is_empty() {
        return Ok(());
    }
    let mut brokers = Vec::new();
    for kind in options.kinds.clone() {
        let mut broker = unstarted(kind, &folder.join(format!("loads-{kind:?}")))?;
        broker.start_again().map_err(|problem| anyhow!(problem))?;
        brokers.push(broker);
    }
    for round in 0..=options.rounds {
        for (name, load) in &loads {
            for broker in &brokers {
                let kind = broker.kind();
                let topic = format!("{name}-{round}");
                create_topic(broker, &topic, load.partitions)?;
                let (seconds, cpu) = produce(broker, &topic, load)?;
                let gigabytes = (load.records * load.record_bytes as u64) as f64 / 1e9;
                let mut add = |name: &str, unit, value| {
                    if round > 0 {
                        results.add(options, round, kind, name, unit, value);
                    }
                };
                if load.batch_records == 10 {
                    add(name, "CPU us a record", cpu * 1e6 / load.records as f64);
                } else {
                    add(name, "CPU s/GB", cpu / gigabytes);
                }
                add(name, "MB/s", gigabytes * 1e3 / seconds);
                if *name == "produce-1k" {
                    let (seconds, cpu) = fetch(broker, &topic, load)?;
                    add("fetch", "CPU s/GB", cpu / gigabytes);
                    add("fetch", "MB/s", gigabytes * 1e3 / seconds);
                }
                delete_topic(broker, &topic)?;
            }
        }
    }
    for broker in &brokers {
        results.add(
            options,
            0,
            broker.kind(),
            "resident after the loads",
            "MB",
            resident_megabytes(broker.pid())?,
        );
    }
    Ok(())
}

fn unstarted(kind: Kind, folder: &Path) -> Result<Broker> {
    // One shard, as there is one core.
    let settings = [
        ("ringspun.cores", "0,"),
        ("auto.create.topics.enable", "false"),
    ];
    let broker = Broker::new(kind, folder, &settings).map_err(|problem| anyhow!(problem))?;
    Ok(broker.pinned_to(BROKER_CORE))
}

/// Milliseconds from now until `address` answers ApiVersions.
fn first_answer(address: &str, limit: Duration) -> Result<f64> {
    // size 10+4, api_key 18, version 0, correlation id 1, client id "load"
    const REQUEST: &[u8] = b"\x00\x00\x00\x0e\x00\x12\x00\x00\x00\x00\x00\x01\x00\x04load";
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Ok(mut stream) = TcpStream::connect(address) {
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            let mut head = [0; 8];
            if stream.write_all(REQUEST).is_ok()
                && stream.read_exact(&mut head).is_ok()
                && head[4..] == [0, 0, 0, 1]
            {
                return Ok(start.elapsed().as_secs_f64() * 1e3);
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    bail!("{address} does not answer");
}

/// Starts the broker; milliseconds until its first answer.
fn timed_start(broker: &mut Broker) -> Result<f64> {
    let address = broker.bootstrap();
    let answer = std::thread::spawn(move || first_answer(&address, Duration::from_secs(60)));
    broker.start_again().map_err(|problem| anyhow!(problem))?;
    answer.join().map_err(|_| anyhow!("panicked"))?
}

fn idle(
    options: &mut Options,
    results: &mut Results,
    round: usize,
    broker: &Broker,
    with: &str,
) -> Result<()> {
    std::thread::sleep(Duration::from_secs(5));
    let cpu = cpu_seconds(broker.pid())?;
    std::thread::sleep(Duration::from_secs(5));
    let cpu = (cpu_seconds(broker.pid())? - cpu) / 5.0 * 100.0;
    let resident = resident_megabytes(broker.pid())?;
    results.add(
        options,
        round,
        broker.kind(),
        &format!("idle, {with}, CPU"),
        "% of a core",
        cpu,
    );
    results.add(
        options,
        round,
        broker.kind(),
        &format!("idle, {with}, resident"),
        "MB",
        resident,
    );
    Ok(())
}

/// Starts each broker with nothing, and again with many partitions.
fn starts(options: &mut Options, results: &mut Results, folder: &Path) -> Result<()> {
    for round in 1..=options.rounds.min(5) {
        for kind in options.kinds.clone() {
            let folder = folder.join(format!("start-{kind:?}-{round}"));
            let mut broker = unstarted(kind, &folder)?;
            let ms = timed_start(&mut broker)?;
            results.add(options, round, kind, "start, empty", "ms", ms);
            // Idling takes its time and varies little.
            if round == 1 && options.wants("idle") {
                idle(options, results, round, &broker, "empty")?;
            }
            create_topic(&broker, "many", MANY_PARTITIONS)?;
            broker.stop().map_err(|problem| anyhow!(problem))?;
            let ms = timed_start(&mut broker)?;
            results.add(options, round, kind, "start, 1,000 partitions", "ms", ms);
            if round == 1 && options.wants("idle") {
                idle(options, results, round, &broker, "1,000 partitions")?;
            }
            broker.kill();
            let _ = fs::remove_dir_all(&folder);
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut options = Options::parse()?;
    let folder = tempfile::tempdir()?;
    let mut results = Results::default();
    pin_to(LOAD_CORE)?;
    let outcome = loads(&mut options, &mut results, folder.path()).and_then(|()| {
        if options.wants("start") || options.wants("idle") {
            starts(&mut options, &mut results, folder.path())?;
        }
        Ok(())
    });
    results.print();
    outcome
}
