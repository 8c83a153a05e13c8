//! Real clients against a running broker: everything they send is read back, by themselves and by others.
//!
//! The clients are Debian's kcat, Kafka's own Java client and command-line tools, confluent-kafka,
//! kafkajs and franz-go. Each (but kcat) is one small program beside this file, started once and told
//! what to do by lines of fields separated by tabs; it answers each with `ok` and fields, or `error` and
//! a text:
//!
//! | command | answer |
//! |---|---|
//! | `produce TOPIC FILE CODEC ACKS IDEMPOTENT(0,1)` | the number acknowledged; offsets as i64 in `FILE.offsets` |
//! | `consume TOPIC FILE PARTITION:FROM:TO,…` | the number of records, which are in FILE (see records.rs) |
//! | `transact ID TOPIC,… VALUE,… commit or abort` | sends each value to partition 0 of each topic, in one transaction |
//! | `committed TOPIC COUNT` | the first values of partition 0 that a reader of committed records sees |
//! | `group TOPIC FILE GROUP PROTOCOL LEAST` | as consume, as a member of a group, with a commit at the end |
//! | `offset TOPIC PARTITION earliest,latest,max or a time` | the offset |
//! | `create TOPIC PARTITIONS name=value,…`, `delete TOPIC`, `grow TOPIC PARTITIONS` | |
//! | `describe TOPIC` | the number of partitions |
//! | `get-config TOPIC NAME`, `set-config TOPIC NAME VALUE` | the value |
//! | `delete-records TOPIC PARTITION OFFSET` | the first offset left |
//! | `log-dirs TOPIC` | bytes on disk |
//! | `cluster` | cluster id, number of brokers, id of the controller |
//! | `producers TOPIC PARTITION` | the number of active producers |
//! | `tool CLASS STDIN ARGUMENT…` (Java) | exit status, what was printed |
//!
//! The same tests pass against Apache Kafka (`RINGSPUN_TEST_BROKER=kafka`), which makes them a reference.
//! `RINGSPUN_CAPTURE_FRAMES=FOLDER` keeps what the clients sent (see recorder.rs); the test that compares
//! addresses fails then.
//!
//! A client that cannot be installed is skipped with the reason; with `RINGSPUN_REQUIRE_ALL=1` that is a
//! failure. Arguments filter by a part of the name, as in every Rust test.

#[path = "../broker/mod.rs"]
mod broker;
mod client;
mod console_tools;
mod group_tools;
mod recorder;
mod records;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use broker::{Broker, Kind, packages};
use client::Client;
use recorder::Recorder;
use records::{Abilities, Record};

const PARTITIONS: i32 = 20;
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
/// Every way to be acknowledged: acks, idempotent.
const ACKS: [(&str, bool); 4] = [("all", true), ("all", false), ("1", false), ("0", false)];
/// Records in each partition of a client's own topic.
const RECORDS: i64 = 60;

/// What the tests share: the broker, the clients that are there, and what was sent.
struct World {
    broker: Broker,
    folder: PathBuf,
    clients: Vec<Client>,
    /// What each client sent to its own topic, all partitions, offsets from 0.
    sent: Vec<(&'static str, Vec<Record>)>,
    /// Milliseconds since 1970: the first record's time.
    time: i64,
}

impl World {
    fn client(&mut self, name: &str) -> &mut Client {
        self.clients
            .iter_mut()
            .find(|client| client.name == name)
            .expect("only asked for when it is there")
    }

    fn has(&self, name: &str) -> bool {
        self.clients.iter().any(|client| client.name == name)
    }

    fn sent(&self, name: &str) -> Result<Vec<Record>, String> {
        let sent = self.sent.iter().find(|(sender, _)| *sender == name);
        sent.map(|(_, records)| records.clone())
            .ok_or_else(|| "nothing was sent".into())
    }

    /// Apache Kafka answers before the new topic can be written to everywhere; an idempotent producer whose
    /// first batch meets that and whose second does not is out of order for good.
    fn settle(&self) {
        if self.broker.kind() == Kind::Kafka {
            std::thread::sleep(Duration::from_millis(700));
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Tries again for a while where Apache Kafka answers before its own metadata has arrived
    /// everywhere; ringspun has to be right at once.
    fn soon<T>(
        &mut self,
        mut attempt: impl FnMut(&mut World) -> Result<T, String>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match attempt(self) {
                Err(_) if self.broker.kind() == Kind::Kafka && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                result => return result,
            }
        }
    }
}

fn require<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: T,
    expected: T,
) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}: {found:?} instead of {expected:?}"))
}

/// A client's own topic gets every codec and every way to be acknowledged, a partition each.
fn sends_with_every_codec_and_acks(world: &mut World, name: &'static str) -> Result<(), String> {
    let topic = format!("own-{name}");
    let creator = if name == "kcat" {
        world.clients[0].name
    } else {
        name
    };
    // A segment holds the 1 MiB record and little more, so that partitions roll.
    let configs = "segment.bytes=1200000,max.message.bytes=1150000";
    world
        .client(creator)
        .ask(&["create", &topic, &PARTITIONS.to_string(), configs])?;
    world.soon(|world| {
        let found = world.client(creator).ask_one(&["describe", &topic])?;
        require("partitions", found, PARTITIONS.to_string())
    })?;
    world.settle();
    let mut all = Vec::new();
    let (time, can) = (world.time, world.client(name).can);
    for (i, codec) in CODECS.iter().enumerate() {
        for (j, (acks, idempotent)) in ACKS.iter().enumerate() {
            let partition = (i * ACKS.len() + j) as i32;
            let records = records::make(name.len() as u64, partition, RECORDS, time, can);
            let file = world.file(&format!("{name}-{partition}"));
            world
                .client(name)
                .produce(&topic, &records, &file, codec, acks, *idempotent)
                .map_err(|error| {
                    format!("{codec}, acks={acks}, idempotent={idempotent}: {error}")
                })?;
            all.extend(records);
        }
    }
    world.sent.push((name, all));
    // acks=0 says nothing about arrival: the end offsets do.
    let deadline = Instant::now() + Duration::from_secs(20);
    for partition in 0..PARTITIONS {
        while world.client(creator).offset(&topic, partition, "latest")? != RECORDS {
            if Instant::now() > deadline {
                return Err(format!(
                    "partition {partition} does not reach offset {RECORDS}"
                ));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    // Otherwise no read crosses a roll. Files named by offset are Kafka's own layout.
    let segments = std::fs::read_dir(world.broker.log_dir().join(format!("{topic}-0")))
        .map_err(|error| error.to_string())?
        .filter(|entry| {
            entry
                .as_ref()
                .is_ok_and(|entry| entry.path().extension().is_some_and(|e| e == "log"))
        })
        .count();
    if segments < 2 {
        return Err(format!("{segments} segment in partition 0: nothing rolled"));
    }
    Ok(())
}

fn reads_everything(world: &mut World, reader: &str, sender: &str) -> Result<(), String> {
    let sent = world.sent(sender)?;
    let ranges: Vec<_> = (0..PARTITIONS)
        .map(|partition| (partition, 0, RECORDS))
        .collect();
    let file = world.file(&format!("{reader}-reads-{sender}"));
    let read = world
        .client(reader)
        .consume(&format!("own-{sender}"), &ranges, &file)?;
    records::compare(&sent, read)
}

/// The offset of a time is that of the first record at or after it; reading from there gives that record.
fn finds_offsets_by_time(world: &mut World, name: &str, sender: &str) -> Result<(), String> {
    let sent = world.sent(sender)?;
    let topic = format!("own-{sender}");
    for partition in [0, 5, 10, 15, 19] {
        let records: Vec<&Record> = sent
            .iter()
            .filter(|record| record.partition == partition)
            .collect();
        for time in [0, 1, 7_000, 7_001, 22_500, 58_000].map(|after| world.time + after) {
            let expected = records
                .iter()
                .find(|record| record.timestamp >= time)
                .ok_or("no such record")?;
            let found = world
                .client(name)
                .offset(&topic, partition, &time.to_string())?;
            require(
                &format!("partition {partition}, offset of time {time}"),
                found,
                expected.offset,
            )?;
            if name == "kafkajs" {
                continue;
            }
            let file = world.file("by-time");
            let range = (partition, found, found + 1);
            let read = world.client(name).consume(&topic, &[range], &file)?;
            records::compare(&[(*expected).clone()], read)?;
        }
        require(
            "earliest",
            world.client(name).offset(&topic, partition, "earliest")?,
            0,
        )?;
        require(
            "latest",
            world.client(name).offset(&topic, partition, "latest")?,
            RECORDS,
        )?;
        if matches!(name, "java" | "confluent-kafka" | "franz-go") {
            let largest = records
                .iter()
                .map(|record| record.timestamp)
                .max()
                .ok_or("no records")?;
            let expected = records
                .iter()
                .find(|record| record.timestamp == largest)
                .ok_or("no records")?;
            let found = world.client(name).offset(&topic, partition, "max")?;
            require(
                &format!("partition {partition}, offset of the largest time"),
                found,
                expected.offset,
            )?;
        }
    }
    if matches!(name, "java" | "confluent-kafka") {
        let never = (world.time + 100_000_000).to_string();
        require(
            "offset of a time to come",
            world.client(name).offset(&topic, 0, &never)?,
            -1,
        )?;
    }
    Ok(())
}

/// A member reads a part, commits and leaves; the next one of the same group reads the rest, and nothing twice.
fn a_group_goes_on_where_it_was(
    world: &mut World,
    name: &str,
    sender: &str,
    protocol: &str,
) -> Result<(), String> {
    let sent = world.sent(sender)?;
    let topic = format!("own-{sender}");
    let group = format!("{name}-{protocol}");
    let file = world.file(&group);
    let client = world.client(name);
    let mut read = client.group(&topic, &group, protocol, sent.len() / 2, &file)?;
    let left = sent.len() - read.len();
    if left > 0 {
        read.extend(client.group(&topic, &group, protocol, left, &file)?);
    }
    read.sort_by_key(|record| (record.partition, record.offset));
    records::compare(&sent, read)
}

fn administers(world: &mut World, name: &str) -> Result<(), String> {
    let topic = format!("admin-{name}");
    let topic = topic.as_str();
    world
        .client(name)
        .ask(&["create", topic, "3", "retention.ms=123456789"])?;
    let partitions = |world: &mut World, expected: &str| {
        world.soon(|world| {
            let found = world.client(name).ask_one(&["describe", topic])?;
            require("partitions", found.as_str(), expected)
        })
    };
    partitions(world, "3")?;
    let again = world.client(name).ask(&["create", topic, "3", ""]);
    // kafkajs answers false without an error.
    if again.is_ok() && name != "kafkajs" {
        return Err("created twice".into());
    }
    world.client(name).ask(&["grow", topic, "5"])?;
    partitions(world, "5")?;
    if world.client(name).ask(&["grow", topic, "4"]).is_ok() {
        return Err("grown from 5 partitions to 4".into());
    }
    let config = |world: &mut World, expected: &str| {
        world.soon(|world| {
            let found = world
                .client(name)
                .ask_one(&["get-config", topic, "retention.ms"])?;
            require("retention.ms", found.as_str(), expected)
        })
    };
    config(world, "123456789")?;
    world
        .client(name)
        .ask(&["set-config", topic, "retention.ms", "234567890"])?;
    config(world, "234567890")?;
    if world
        .client(name)
        .ask(&["set-config", topic, "retention.ms", "soon"])
        .is_ok()
    {
        return Err("retention.ms=soon was taken".into());
    }
    if world
        .client(name)
        .ask(&["set-config", topic, "no.such.config", "1"])
        .is_ok()
    {
        return Err("no.such.config was taken".into());
    }

    let can = Abilities {
        anything: true,
        null_headers: false,
    };
    let records: Vec<Record> = records::make(7, 4, 200, world.time, can)
        .into_iter()
        .filter(|record| record.value.as_ref().is_none_or(|value| value.len() < 1000))
        .zip(0..)
        .map(|(record, offset)| Record { offset, ..record })
        .collect();
    let file = world.file(topic);
    world
        .client(name)
        .produce(topic, &records, &file, "none", "all", true)?;
    let end = records.len() as i64;
    require(
        "latest",
        world.client(name).offset(topic, 4, "latest")?,
        end,
    )?;
    require(
        "first offset left",
        world
            .client(name)
            .ask_one(&["delete-records", topic, "4", "40"])?,
        "40".into(),
    )?;
    require(
        "earliest",
        world.client(name).offset(topic, 4, "earliest")?,
        40,
    )?;
    if world
        .client(name)
        .ask(&["delete-records", topic, "4", "100000"])
        .is_ok()
    {
        return Err("records that are not there were deleted".into());
    }
    if name != "kafkajs" {
        let read = world.client(name).consume(topic, &[(4, 40, end)], &file)?;
        records::compare(&records[40..], read)?;
    }
    if matches!(name, "java" | "franz-go") {
        let bytes = world.client(name).ask_one(&["log-dirs", topic])?;
        if bytes.parse::<u64>().is_ok_and(|bytes| bytes == 0) {
            return Err("no bytes on disk".into());
        }
        require(
            "producers",
            world.client(name).ask_one(&["producers", topic, "4"])?,
            "1".into(),
        )?;
    }
    let cluster = world.client(name).ask(&["cluster"])?;
    require("brokers", cluster.get(1).map(String::as_str), Some("1"))?;
    require("controller", cluster.get(2).map(String::as_str), Some("1"))?;
    require("length of the cluster's id", cluster[0].len(), 22)?;

    world.client(name).ask(&["delete", topic])?;
    let mut gone = |world: &mut World| match world.client(name).ask_one(&["describe", topic]) {
        Ok(count) if count != "0" => Err(format!("deleted, but described with {count} partitions")),
        _ => Ok(()),
    };
    // Clients that ask for metadata of a topic by name would create it anew: only these do not.
    if matches!(name, "java" | "franz-go") {
        world.soon(&mut gone)?;
    }
    world.soon(|world| world.client(name).ask(&["create", topic, "1", ""]))?;
    world.soon(|world| {
        require(
            "latest of the new topic",
            world.client(name).offset(topic, 0, "latest")?,
            0,
        )
    })?;
    world.client(name).ask(&["delete", topic])?;
    Ok(())
}

/// Of a committed transaction everything is read, in both topics; of an aborted one nothing.
fn transacts(world: &mut World, name: &'static str) -> Result<(), String> {
    let topics = [format!("one-{name}"), format!("two-{name}")];
    for topic in &topics {
        world.client(name).ask(&["create", topic, "1", ""])?;
    }
    world.settle();
    let id = format!("transactions-of-{name}");
    let both = topics.join(",");
    // The last one shows that the one before it was passed over.
    for (values, how) in [("a,b", "commit"), ("c,d", "abort"), ("e,f", "commit")] {
        world
            .client(name)
            .ask(&["transact", &id, &both, values, how])?;
    }
    for topic in &topics {
        let mut readers = vec!["java", "confluent-kafka", "franz-go"];
        if name == "kafkajs" {
            readers.push("kafkajs");
        }
        readers.retain(|reader| world.has(reader));
        for reader in readers {
            let read = world.client(reader).ask_one(&["committed", topic, "4"])?;
            require(&format!("{reader} reads {topic}"), read.as_str(), "a,b,e,f")?;
        }
    }
    Ok(())
}

/// All clients send to the same partitions at the same time; each one's records stay in its order.
fn send_at_the_same_time(world: &mut World) -> Result<(), String> {
    const EACH: i64 = 150;
    let first = world.clients[0].name;
    world.client(first).ask(&[
        "create",
        "together",
        &PARTITIONS.to_string(),
        "segment.bytes=1200000",
    ])?;
    let found = |world: &mut World| {
        let found = world.client(first).ask_one(&["describe", "together"])?;
        require("partitions", found, PARTITIONS.to_string())
    };
    world.soon(found)?;
    world.settle();
    let mut expected = vec![0; PARTITIONS as usize];
    let mut sent = Vec::new();
    for (i, client) in world.clients.iter().enumerate() {
        // kcat sends to one partition a run.
        let partitions = if client.name == "kcat" { 3 } else { PARTITIONS };
        let mut records = Vec::new();
        for n in 0..EACH {
            for partition in 0..partitions {
                let filler = "x".repeat((n as usize * 7 + i) % 900);
                records.push(Record {
                    partition,
                    offset: -1,
                    timestamp: -1,
                    key: Some(format!("{}-{n}", client.name).into_bytes()),
                    value: Some(format!("{n} {filler}").into_bytes()),
                    headers: records::Headers::List(Vec::new()),
                });
            }
        }
        (0..partitions as usize).for_each(|partition| expected[partition] += EACH);
        sent.push(records);
    }
    let folder = world.folder.clone();
    std::thread::scope(|scope| {
        let running: Vec<_> = world
            .clients
            .iter_mut()
            .zip(&sent)
            .zip(CODECS.iter().cycle())
            .map(|((client, records), codec)| {
                let file = folder.join(format!("together-{}", client.name));
                scope.spawn(move || client.produce("together", records, &file, codec, "all", true))
            })
            .collect();
        running
            .into_iter()
            .try_for_each(|one| one.join().expect("no panic"))
    })?;
    let ranges: Vec<_> = (0..PARTITIONS)
        .map(|p| (p, 0, expected[p as usize]))
        .collect();
    let mut first_read: Option<Vec<Vec<u8>>> = None;
    for name in ["java", "confluent-kafka", "franz-go", "kcat"] {
        if !world.has(name) {
            continue;
        }
        let file = world.file(&format!("together-read-{name}"));
        let read = records::by_partition(world.client(name).consume("together", &ranges, &file)?);
        for (partition, records) in &read {
            require(
                &format!("{name}: records of partition {partition}"),
                records.len() as i64,
                expected[*partition as usize],
            )?;
            for (records_sent, sender) in sent.iter().zip(&world.clients) {
                let prefix = format!("{}-", sender.name);
                let of_sender = |record: &&Record| {
                    record
                        .key
                        .as_deref()
                        .is_some_and(|key| key.starts_with(prefix.as_bytes()))
                };
                let sent = records_sent
                    .iter()
                    .filter(|record| record.partition == *partition);
                let read = records.iter().filter(of_sender);
                if !sent
                    .map(|record| (&record.key, &record.value))
                    .eq(read.map(|record| (&record.key, &record.value)))
                {
                    return Err(format!(
                        "{name} reads the records of {} out of order, partition {partition}",
                        sender.name
                    ));
                }
            }
        }
        let keys: Vec<Vec<u8>> = read
            .into_values()
            .flatten()
            .filter_map(|record| record.key)
            .collect();
        match &first_read {
            None => first_read = Some(keys),
            Some(first) if *first == keys => {}
            Some(_) => return Err(format!("{name} reads another order than the reader before")),
        }
    }
    Ok(())
}

/// A clean stop and a start on the same data: all is read again.
fn everything_is_there_after_a_restart(world: &mut World) -> Result<(), String> {
    let status = world.broker.stop()?;
    if !world.broker.is_clean(status) {
        return Err(format!("SIGTERM was answered with {status}"));
    }
    if !world.broker.log_dir().join(".kafka_cleanshutdown").exists() {
        return Err("no mark of a clean shutdown".into());
    }
    world.broker.start_again()?;
    let reader = ["franz-go", "confluent-kafka", "java", "kcat"]
        .into_iter()
        .find(|name| world.has(name))
        .ok_or("nobody can read")?;
    let senders: Vec<&str> = world.sent.iter().map(|(name, _)| *name).collect();
    for sender in senders {
        world.soon(|world| reads_everything(world, reader, sender))?;
    }
    Ok(())
}

/// Starts what can be started; what cannot, and why.
fn clients(broker: &Broker, folder: &Path) -> (Vec<Client>, Vec<(&'static str, String)>) {
    let all = Abilities {
        anything: true,
        null_headers: true,
    };
    // kafkajs cannot encode a header without a value.
    let most = Abilities {
        anything: true,
        null_headers: false,
    };
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    let drivers = [
        ("java", all, packages::java_driver as fn() -> _),
        ("confluent-kafka", all, packages::python_driver),
        ("franz-go", all, packages::franz_go_driver),
        ("kafkajs", most, packages::kafkajs_driver),
    ];
    for (name, can, driver) in drivers {
        let started = driver().and_then(|command| {
            Client::driver(
                name,
                can,
                command,
                &broker.bootstrap(),
                &folder.join(format!("{name}.stderr")),
            )
        });
        match started {
            Ok(client) => found.push(client),
            Err(reason) => missing.push((name, reason)),
        }
    }
    match packages::kcat() {
        Ok(program) => found.push(Client::kcat(program, &broker.bootstrap())),
        Err(reason) => missing.push(("kcat", reason)),
    }
    (found, missing)
}

/// A test, with its name and the clients it needs.
type Test = (String, Vec<&'static str>, Run);
type Run = Box<dyn Fn(&mut World) -> Result<(), String>>;

/// Every test in its order.
fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = Vec::new();
    let mut add =
        |name: String, needs: &[&'static str], test: Run| tests.push((name, needs.to_vec(), test));
    let all = ["java", "confluent-kafka", "franz-go", "kafkajs", "kcat"];
    for name in all {
        add(
            format!("{name}::sends_with_every_codec_and_acks"),
            &[name],
            Box::new(move |world| sends_with_every_codec_and_acks(world, name)),
        );
    }
    // Everyone reads its own, and each is read by another.
    for (reader, sender) in [
        ("java", "java"),
        ("confluent-kafka", "confluent-kafka"),
        ("franz-go", "franz-go"),
        ("kcat", "kcat"),
        ("confluent-kafka", "java"),
        ("franz-go", "confluent-kafka"),
        ("kcat", "franz-go"),
        ("java", "kcat"),
        ("java", "kafkajs"),
        ("kcat", "kafkajs"),
    ] {
        add(
            format!("{reader}::reads_what_{sender}_sent"),
            &[reader, sender],
            Box::new(move |world| reads_everything(world, reader, sender)),
        );
    }
    for (name, sender) in [
        ("java", "java"),
        ("confluent-kafka", "confluent-kafka"),
        ("franz-go", "franz-go"),
        ("kafkajs", "kafkajs"),
        ("kcat", "java"),
    ] {
        add(
            format!("{name}::finds_offsets_by_time"),
            &[name, sender],
            Box::new(move |world| finds_offsets_by_time(world, name, sender)),
        );
    }
    for (name, sender, protocol) in [
        ("java", "java", "RangeAssignor"),
        ("java", "java", "StickyAssignor"),
        ("java", "java", "CooperativeStickyAssignor"),
        ("java", "java", "consumer"),
        ("confluent-kafka", "confluent-kafka", "classic"),
        ("confluent-kafka", "confluent-kafka", "consumer"),
        ("franz-go", "franz-go", "classic"),
        ("kafkajs", "kafkajs", "classic"),
        ("kcat", "kcat", "classic"),
    ] {
        add(
            format!("{name}::a_group_goes_on_where_it_was::{protocol}"),
            &[name, sender],
            Box::new(move |world| a_group_goes_on_where_it_was(world, name, sender, protocol)),
        );
    }
    for name in ["java", "confluent-kafka", "franz-go", "kafkajs"] {
        add(
            format!("{name}::administers"),
            &[name],
            Box::new(move |world| administers(world, name)),
        );
    }
    for name in ["java", "confluent-kafka", "franz-go", "kafkajs"] {
        add(
            format!("{name}::transacts"),
            &[name],
            Box::new(move |world| transacts(world, name)),
        );
    }
    add(
        "kcat::lists_brokers_and_topics".into(),
        &["kcat"],
        Box::new(|world| {
            let bootstrap = world.broker.bootstrap();
            let printed = world.client("kcat").kcat_list()?;
            let wanted = [
                format!("broker 1 at {bootstrap}"),
                "topic \"own-kcat\" with 20 partitions".into(),
            ];
            match wanted.iter().find(|text| !printed.contains(*text)) {
                Some(text) => Err(format!("no {text:?} in\n{printed}")),
                None => Ok(()),
            }
        }),
    );
    add(
        "all::send_at_the_same_time".into(),
        &[],
        Box::new(send_at_the_same_time),
    );
    for (name, test) in console_tools::TESTS {
        add(format!("console_tools::{name}"), &["java"], Box::new(test));
    }
    add(
        "all::everything_is_there_after_a_restart".into(),
        &[],
        Box::new(everything_is_there_after_a_restart),
    );
    add(
        "console_tools::dump_log_segments_has_no_complaint".into(),
        &["java"],
        Box::new(console_tools::dump),
    );
    tests
}

/// Tests that are one story: each rests on those before it.
const STORY: [&str; 3] = [
    "java::sends_with_every_codec_and_acks",
    "java::a_group_goes_on_where_it_was::RangeAssignor",
    "console_tools::",
];

/// The tests that a filter names; of a story also what comes before.
fn chosen(mut tests: Vec<Test>, filters: &[&String]) -> Vec<Test> {
    let is_named = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(*f));
    let in_story = |name: &str| STORY.iter().any(|part| name.starts_with(part));
    let last = tests
        .iter()
        .rposition(|(name, ..)| in_story(name) && is_named(name));
    let mut place = 0;
    tests.retain(|(name, ..)| {
        let is_before = last.is_some_and(|last| place <= last) && in_story(name);
        place += 1;
        is_before || is_named(name)
    });
    tests
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let tests = chosen(tests(), &filters);
    if arguments.iter().any(|argument| argument == "--list") {
        tests.iter().for_each(|(name, ..)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", tests.len());
    if tests.is_empty() {
        println!("\ntest result: ok. 0 passed; 0 failed; 0 ignored");
        return ExitCode::SUCCESS;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kind = Kind::from_environment();
    let started = Instant::now();
    let capture = std::env::var_os("RINGSPUN_CAPTURE_FRAMES").map(PathBuf::from);
    let recorder = capture
        .as_ref()
        .map(|_| Recorder::start().expect("a port of the loopback"));
    let advertised = recorder
        .as_ref()
        .map(|recorder| format!("PLAINTEXT://127.0.0.1:{}", recorder.port));
    let settings: Vec<(&str, &str)> = advertised
        .iter()
        .map(|address| ("advertised.listeners", address.as_str()))
        .collect();
    let broker = match Broker::start(kind, &folder.path().join("broker"), &settings) {
        Ok(broker) => broker,
        Err(problem) => {
            println!(
                "{problem}\n\ntest result: FAILED. 0 passed; {} failed; 0 ignored",
                tests.len()
            );
            return ExitCode::FAILURE;
        }
    };
    if let Some(recorder) = &recorder {
        recorder.forward_to(broker.port());
    }
    let (clients, missing) = clients(&broker, folder.path());
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970");
    let mut world = World {
        broker,
        folder: folder.path().to_path_buf(),
        clients,
        sent: Vec::new(),
        time: now.as_millis() as i64 - 3_600_000,
    };
    let (mut passed, mut failed, mut ignored) = (0, Vec::new(), 0);
    for (name, needs, test) in tests {
        let lack = missing.iter().find(|(client, _)| needs.contains(client));
        let start = Instant::now();
        let result = match lack {
            Some((_, reason)) if !packages::all_required() => {
                println!("test {name} ... ignored, {reason}");
                ignored += 1;
                continue;
            }
            Some((_, reason)) => Err(reason.clone()),
            None if world.clients.is_empty() => Err("no client is there".into()),
            None => catch_unwind(AssertUnwindSafe(|| test(&mut world)))
                .unwrap_or_else(|_| Err("panicked, see above".into())),
        };
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                println!("test {name} ... ok ({seconds:.1} s)");
                passed += 1;
            }
            Err(problem) => {
                println!("test {name} ... FAILED ({seconds:.1} s)");
                failed.push((name, problem));
            }
        }
    }
    if let (Some(recorder), Some(capture)) = (recorder, capture) {
        recorder.write(&capture).expect("a folder to write to");
    }
    if !failed.is_empty() {
        println!("\nfailures:\n");
        for (name, problem) in &failed {
            println!("---- {name} ----\n{problem}\n");
        }
        println!(
            "---- the broker's last words ----\n{}\n",
            world.broker.last_words()
        );
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {} failed; {ignored} ignored; finished in {:.1} s ({kind:?})",
        failed.len(),
        started.elapsed().as_secs_f64()
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
