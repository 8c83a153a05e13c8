//! Whole applications on a broker that is killed under them: a word count of Kafka Streams
//! (`exactly_once_v2`, with a state store and a repartition topic), and a distributed worker of Kafka
//! Connect that carries a file into a topic, exactly once, and from there into another file.
//!
//! The same tests pass on Apache Kafka (`RINGSPUN_TEST_BROKER=kafka`).

mod broker;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use broker::{Broker, Kind, die_with_parent, packages};

/// How long an application may take for what it has to do, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// An application's process; killed when dropped.
struct Application(Child);

impl Application {
    fn start(mut command: Command, stderr: &Path) -> Application {
        let stderr = File::options().create(true).append(true).open(stderr);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr.expect("a file in the test's folder"));
        die_with_parent(&mut command);
        Application(command.spawn().expect("java runs"))
    }

    fn is_running(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the applications need, or `None` with the reason printed.
fn present<T>(found: Result<T, String>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(reason) if packages::all_required() => panic!("{reason}"),
        Err(reason) => {
            println!("skipped: {reason}");
            None
        }
    }
}

fn client(broker: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.bootstrap());
    config
}

fn create(broker: &Broker, topics: &[(&str, i32)]) {
    let admin: AdminClient<_> = client(broker).create().expect("a client");
    let topics: Vec<NewTopic<'_>> = topics
        .iter()
        .map(|(name, partitions)| NewTopic::new(name, *partitions, TopicReplication::Fixed(1)))
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime
        .block_on(admin.create_topics(&topics, &AdminOptions::new()))
        .expect("topics");
    if broker.kind() == Kind::Kafka {
        // It answers before the topic can be written to.
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// A reader of what is committed in some partitions, from the beginning.
struct Reader(BaseConsumer);

impl Reader {
    fn new(broker: &Broker, topic: &str, partitions: i32) -> Reader {
        let consumer: BaseConsumer = client(broker)
            .set("group.id", "none")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .create()
            .expect("a client");
        let mut assignment = TopicPartitionList::new();
        for partition in 0..partitions {
            assignment
                .add_partition_offset(topic, partition, Offset::Offset(0))
                .expect("an offset");
        }
        consumer.assign(&assignment).expect("assigned");
        Reader(consumer)
    }

    /// The next record that there is within `patience`, as key and value.
    fn next(&self, patience: Duration) -> Option<(String, String)> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            // Errors tell of the broker that is not there.
            if let Some(Ok(message)) = self.0.poll(Duration::from_millis(100)) {
                let text = |bytes: Option<&[u8]>| {
                    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
                };
                return Some((text(message.key()), text(message.payload())));
            }
        }
        None
    }
}

#[test]
fn kafka_streams_counts_every_word_once() {
    let Some(word_count) = present(packages::word_count()) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kind = Kind::from_environment();
    let settings = [("ringspun.shards", "2")];
    let mut broker = Broker::start(kind, &folder.path().join("broker"), &settings).unwrap();
    create(&broker, &[("lines", 2), ("counts", 2)]);
    let stderr = folder.path().join("stderr");
    let start = |broker: &Broker| {
        let mut command = word_count.command();
        command
            .arg(broker.bootstrap())
            .arg(folder.path().join("state"));
        Application::start(command, &stderr)
    };
    let mut application = start(&broker);
    let reader = Reader::new(&broker, "counts", 2);
    let producer: ThreadedProducer<DefaultProducerContext> = client(&broker)
        .set("enable.idempotence", "true")
        .create()
        .expect("a client");
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    const LINES: usize = 500;
    for round in 0..4 {
        for line in 0..LINES {
            let words = [
                "all".to_owned(),
                format!("round-{round}"),
                format!("word-{}", line % 7),
            ];
            let line = words.join(" ");
            for word in words {
                *expected.entry(word).or_default() += 1;
            }
            let record = BaseRecord::<str, str>::to("lines").key("k").payload(&line);
            producer.send(record).expect("queued");
        }
        producer.flush(PATIENCE).expect("sent");
        match round {
            // In the middle of it.
            1 => {
                let (word, count) = reader.next(PATIENCE).expect("a count");
                note(&mut counted, word, &count);
                broker.kill();
                broker.start_again().unwrap();
            }
            2 => {
                drop(application);
                application = start(&broker);
            }
            _ => {}
        }
        let seen = |counted: &BTreeMap<String, u64>| counted.values().sum::<u64>();
        while seen(&counted) < seen(&expected) {
            let Some((word, count)) = reader.next(PATIENCE) else {
                let words = fs::read_to_string(&stderr).unwrap_or_default();
                panic!("round {round}: no more counts than {counted:?}\n{words}");
            };
            note(&mut counted, word, &count);
        }
        assert!(application.is_running());
    }
    assert_eq!(counted, expected);
    assert_eq!(reader.next(Duration::from_secs(1)), None);
}

/// A word's counts have to come one after the other, each once.
fn note(counted: &mut BTreeMap<String, u64>, word: String, count: &str) {
    let last = counted.entry(word.clone()).or_default();
    assert_eq!(count, (*last + 1).to_string(), "of {word}");
    *last += 1;
}

#[test]
fn kafka_connect_carries_a_file_through_a_topic() {
    let Some(worker) = present(packages::connect_worker()) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kind = Kind::from_environment();
    let settings = [("ringspun.shards", "2")];
    let mut broker = Broker::start(kind, &folder.path().join("broker"), &settings).unwrap();
    let rest = broker::free_port();
    let properties = folder.path().join("worker.properties");
    let text = format!(
        "bootstrap.servers={}\n\
         group.id=worker\n\
         listeners=http://127.0.0.1:{rest}\n\
         key.converter=org.apache.kafka.connect.storage.StringConverter\n\
         value.converter=org.apache.kafka.connect.storage.StringConverter\n\
         offset.storage.topic=connect-offsets\noffset.storage.replication.factor=1\n\
         offset.storage.partitions=2\n\
         config.storage.topic=connect-configs\nconfig.storage.replication.factor=1\n\
         status.storage.topic=connect-status\nstatus.storage.replication.factor=1\n\
         status.storage.partitions=2\n\
         offset.flush.interval.ms=200\n\
         exactly.once.source.support=enabled\n\
         consumer.isolation.level=read_committed\n\
         consumer.auto.offset.reset=earliest\n\
         plugin.discovery=service_load\n",
        broker.bootstrap()
    );
    fs::write(&properties, text).unwrap();
    let stderr = folder.path().join("stderr");
    let mut command = worker.command();
    command.arg(&properties);
    let mut worker = Application::start(command, &stderr);
    let complain = || fs::read_to_string(&stderr).unwrap_or_default();

    let (source, sink) = (folder.path().join("source"), folder.path().join("sink"));
    let mut file = File::create(&source).unwrap();
    let mut written = 0;
    let mut write = |count: usize| {
        let lines: String = (written..written + count)
            .map(|n| format!("line {n}\n"))
            .collect();
        written += count;
        file.write_all(lines.as_bytes()).unwrap();
        written
    };
    write(200);
    let connectors = [
        format!(
            r#"{{"name":"source","config":{{"connector.class":"FileStreamSource","tasks.max":"1",
            "exactly.once.support":"required","topic":"carried","file":"{}"}}}}"#,
            source.display()
        ),
        format!(
            r#"{{"name":"sink","config":{{"connector.class":"FileStreamSink","tasks.max":"1",
            "topics":"carried","file":"{}"}}}}"#,
            sink.display()
        ),
    ];
    create(&broker, &[("carried", 1)]);
    for connector in &connectors {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = post(rest, "/connectors", connector);
            if answer.starts_with("HTTP/1.1 201") {
                break;
            }
            assert!(
                worker.is_running() && Instant::now() < deadline,
                "{answer}\n{}",
                complain()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let carried = |count: usize| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(&sink).unwrap_or_default();
            if text.lines().last() == Some(&format!("line {}", count - 1)) {
                return text;
            }
            assert!(
                Instant::now() < deadline,
                "only {:?} of {count} lines\n{}",
                text.lines().last(),
                complain()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    carried(200);
    for _ in 0..2 {
        let count = write(300);
        broker.kill();
        broker.start_again().unwrap();
        carried(count);
    }
    assert!(worker.is_running());
    // Into the topic exactly once.
    let reader = Reader::new(&broker, "carried", 1);
    for n in 0..written {
        let (_, line) = reader.next(PATIENCE).expect("a line");
        assert_eq!(line, format!("line {n}"));
    }
    assert_eq!(reader.next(Duration::from_millis(500)), None);
    // Into the file at least once, in order.
    let text = fs::read_to_string(&sink).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    let mut seen = std::collections::BTreeSet::new();
    lines.retain(|line| seen.insert(*line));
    let expected: Vec<String> = (0..written).map(|n| format!("line {n}")).collect();
    assert_eq!(lines, expected);
}

/// What the worker's REST interface answers; nothing while it does not listen.
fn post(port: u16, path: &str, body: &str) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().unwrap_or_else(|error| error.to_string())
}
