//! Data goes from ringspun to Apache Kafka and from Apache Kafka to ringspun, after a clean stop and after
//! kill -9, and nothing of it is different there: every record with its offset, key, value, headers and
//! timestamp, read with and without what transactions hide; committed offsets; an open transaction.
//!
//! To Kafka go the folders of partitions, into a cluster that has topics of the same names: its own
//! `partition.metadata` files stay, the rest of each folder is replaced. From Kafka comes the whole data
//! directory: topics, ids and settings are those of its metadata log.

mod broker;
#[path = "round_trips/contents.rs"]
mod contents;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, Producer};

use broker::{Broker, Kind, dump, packages};
use contents::*;

/// Whoever takes the transactional id over ends what it left open, and what lay behind comes out.
fn take_transaction_over(broker: &Broker) -> Result<()> {
    let again = producer(broker, &[("transactional.id", OPEN_ID)])?;
    let deadline = Instant::now() + WAIT;
    while let Err(error) = again.init_transactions(WAIT) {
        if Instant::now() > deadline {
            return Err(error.into());
        }
    }
    again.begin_transaction()?;
    let record = BaseRecord::<str, str>::to("transactions");
    let record = record.partition(1).payload("goes on");
    again.send(record).map_err(|(error, _)| error)?;
    again.commit_transaction(WAIT)?;
    loop {
        let records = read(broker, "transactions", 1, true)?;
        if records.len() == 11 * 100 + 1 {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("{} committed records", records.len()).into());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a directory");
    entries
        .map(|entry| entry.expect("an entry").path())
        .collect()
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in entries(from) {
        let place = to.join(entry.file_name().expect("a name"));
        match entry.is_dir() {
            true => copy(&entry, &place)?,
            false => fs::copy(&entry, &place).map(drop)?,
        }
    }
    Ok(())
}

const CHECKPOINTS: [&str; 4] = [
    "recovery-point-offset-checkpoint",
    "log-start-offset-checkpoint",
    "replication-offset-checkpoint",
    "cleaner-offset-checkpoint",
];

/// Puts the partitions in `ours` where those of the same names are in `kafka`; how many.
fn transplant(ours: &Path, kafka: &Path, clean: bool) -> Result<usize> {
    let mut count = 0;
    for folder in entries(kafka).into_iter().filter(|path| path.is_dir()) {
        let from = ours.join(folder.file_name().expect("a name"));
        if !from.is_dir() {
            continue;
        }
        count += 1;
        let is_its_own = |path: &Path| path.ends_with("partition.metadata");
        for file in entries(&folder).into_iter().filter(|f| !is_its_own(f)) {
            fs::remove_file(file)?;
        }
        for file in entries(&from).into_iter().filter(|f| !is_its_own(f)) {
            fs::copy(&file, folder.join(file.file_name().expect("a name")))?;
        }
    }
    for name in CHECKPOINTS {
        let _ = fs::remove_file(kafka.join(name));
        if ours.join(name).exists() {
            fs::copy(ours.join(name), kafka.join(name))?;
        }
    }
    if !clean {
        fs::remove_file(kafka.join(".kafka_cleanshutdown"))?;
    }
    Ok(count)
}

fn with_kafka(test: impl FnOnce() -> Result<()>) {
    match packages::jars() {
        Err(reason) if packages::all_required() => panic!("{reason}"),
        Err(reason) => println!("skipped: {reason}"),
        Ok(_) => test().unwrap_or_else(|problem| panic!("{problem}")),
    }
}

/// Kafka's dumper prints the records of a partition as a consumer was given them, those of transactions that are
/// hidden from readers among them.
fn prints_what_was_read(
    log_dir: &Path,
    before: &Contents,
    topic: &'static str,
    partition: i32,
) -> Result<()> {
    let text = |bytes: &Option<Vec<u8>>| -> Option<String> {
        let bytes = bytes.as_ref()?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    };
    let (low, _, records) = &before[&(topic, partition, false)];
    let read: Vec<_> = records
        .iter()
        .map(|record| dump::Printed {
            offset: record.offset,
            key: text(&record.key),
            payload: text(&record.value),
        })
        .collect();
    let mut printed = dump::records(log_dir, &format!("{topic}-{partition}"))?;
    // Deleted records lie in the segment of those that are left.
    printed.retain(|record| record.offset >= *low);
    if let Some((printed, read)) = printed.iter().zip(&read).find(|(a, b)| a != b) {
        return Err(
            format!("{topic}-{partition}: {printed:?} is printed, {read:?} was read").into(),
        );
    }
    match printed.len() == read.len() {
        true => Ok(()),
        false => Err(format!("{} printed, {} read", printed.len(), read.len()).into()),
    }
}

#[test]
fn apache_kafka_serves_what_ringspun_wrote() {
    with_kafka(|| {
        let root = tempfile::tempdir()?;
        // A cluster with these topics, which leaves what it is given alone.
        let kafka_at = root.path().join("kafka");
        let mut kafka = Broker::start(Kind::Kafka, &kafka_at, &SETTINGS)?;
        let idle = [("compacted", "min.cleanable.dirty.ratio", "1.0")];
        create_topics(&kafka, &idle)?;
        commit(&kafka)?;
        let makes_topic = producer(&kafka, &[("transactional.id", "first")])?;
        makes_topic.init_transactions(WAIT)?;
        kafka.stop()?;

        let ours_at = root.path().join("ours");
        let mut ours = Broker::start(Kind::Ringspun, &ours_at, &SETTINGS)?;
        create_topics(&ours, &[])?;
        fill(&ours)?;
        let before = contents(&ours)?;
        check_sense(&before);
        ours.kill();
        let killed = root.path().join("killed/data");
        copy(&ours.log_dir(), &killed)?;
        ours.start_again()?;
        same(&before, &contents(&ours)?)?;
        assert!(ours.stop()?.success());

        for topic in ["codecs", "transactions", "trimmed", "__"] {
            assert!(dump::run(&ours.log_dir(), topic)? > 3, "{topic}");
        }
        assert!(dump::run_with_gaps(&ours.log_dir(), "compacted")? > 9);
        for (topic, partition) in [("transactions", 0), ("transactions", 1), ("trimmed", 0)] {
            prints_what_was_read(&ours.log_dir(), &before, topic, partition)?;
        }
        for (from, clean) in [(ours.log_dir(), true), (killed, false)] {
            let at = root.path().join(format!("kafka-{clean}"));
            copy(&kafka_at, &at)?;
            let count = transplant(&from, &at.join("data"), clean)?;
            assert_eq!(count, 13 + 3 + 3);
            let kafka = Broker::start(Kind::Kafka, &at, &SETTINGS)?;
            same(&before, &contents(&kafka)?).map_err(|e| format!("clean {clean}: {e}"))?;
            check_committed(&kafka)?;
            take_transaction_over(&kafka)?;
        }
        Ok(())
    });
}

/// The settings of each topic that are its own.
fn own_settings(broker: &Broker) -> Result<BTreeMap<String, BTreeMap<String, Option<String>>>> {
    let consumer: BaseConsumer = client(broker).create()?;
    let metadata = consumer.fetch_metadata(None, WAIT)?;
    let mut all = BTreeMap::new();
    for topic in metadata.topics() {
        let wanted = [ResourceSpecifier::Topic(topic.name())];
        let described = block_on(admin(broker)?.describe_configs(&wanted, &AdminOptions::new()))?;
        let mut own = BTreeMap::new();
        for resource in described {
            for entry in resource?.entries {
                if entry.source == rdkafka::admin::ConfigSource::DynamicTopic {
                    own.insert(entry.name, entry.value);
                }
            }
        }
        own.insert(
            "partitions".into(),
            Some(topic.partitions().len().to_string()),
        );
        all.insert(topic.name().to_owned(), own);
    }
    Ok(all)
}

/// What is only in the metadata: settings that come and go, topics that grow and go.
fn change_metadata(kafka: &Broker) -> Result<()> {
    let (admin, options) = (admin(kafka)?, AdminOptions::new());
    let gone = NewTopic::new("gone", 2, TopicReplication::Fixed(1)).set("retention.ms", "5");
    for result in block_on(admin.create_topics([&gone], &options))? {
        result.map_err(|(name, error)| format!("{name}: {error}"))?;
    }
    for result in block_on(admin.delete_topics(&["gone"], &options))? {
        result.map_err(|(name, error)| format!("{name}: {error}"))?;
    }
    let more = [NewPartitions::new("empty", 4)];
    for result in block_on(admin.create_partitions(&more, &options))? {
        result.map_err(|(name, error)| format!("{name}: {error}"))?;
    }
    let changes = [
        AlterConfig::new(ResourceSpecifier::Topic("trimmed"))
            .set("retention.ms", "-1")
            .set("min.compaction.lag.ms", "77"),
        AlterConfig::new(ResourceSpecifier::Broker(1)).set("message.max.bytes", "2000001"),
    ];
    for change in &changes {
        for result in block_on(admin.alter_configs([change], &options))? {
            result.map_err(|(what, error)| format!("{what:?}: {error}"))?;
        }
    }
    // Two things that are not taken over.
    for change in [
        "producer_byte_rate=1000000",
        "SCRAM-SHA-256=[iterations=4096,password=x]",
    ] {
        let done = packages::java(&packages::jars()?)
            .args(["kafka.admin.ConfigCommand", "--bootstrap-server"])
            .arg(kafka.bootstrap())
            .args([
                "--alter",
                "--entity-type",
                "users",
                "--entity-name",
                "alice",
            ])
            .args(["--add-config", change])
            .output()?;
        if !done.status.success() {
            return Err(String::from_utf8_lossy(&done.stderr).into());
        }
    }
    Ok(())
}

/// All that the broker has said on standard error.
fn said(at: &Path) -> String {
    fs::read_to_string(at.join("stderr")).unwrap_or_default()
}

#[test]
fn ringspun_serves_what_apache_kafka_wrote_with_its_settings() {
    with_kafka(|| {
        let root = tempfile::tempdir()?;
        let kafka_at = root.path().join("kafka");
        // Snapshots of the metadata, and a log behind the last.
        let mut settings = SETTINGS.to_vec();
        settings.push(("metadata.log.max.record.bytes.between.snapshots", "3000"));
        let mut kafka = Broker::start(Kind::Kafka, &kafka_at, &settings)?;
        create_topics(&kafka, &[])?;
        fill(&kafka)?;
        change_metadata(&kafka)?;
        let before = contents(&kafka)?;
        check_sense(&before);
        let own = own_settings(&kafka)?;
        kafka.stop()?;

        for clean in [true, false] {
            let at = root.path().join(format!("ours-{clean}"));
            if !clean {
                kafka.start_again()?;
                watermarks(&kafka, "codecs", 0)?;
                kafka.kill();
            }
            copy(&kafka.log_dir(), &at.join("data"))?;
            let metadata = at.join("data/__cluster_metadata-0");
            let is_snapshot = |path: &PathBuf| path.extension().is_some_and(|e| e == "checkpoint");
            let mut snapshots = entries(&metadata);
            snapshots.retain(is_snapshot);
            assert!(snapshots.len() > 1, "{snapshots:?}");
            if !clean {
                // The log says as much without them.
                snapshots.iter().try_for_each(fs::remove_file)?;
            }
            let mut ours = Broker::start(Kind::Ringspun, &at, &SETTINGS)?;
            let words = said(&at);
            for line in [
                "7 topics with 20 partitions",
                "this is one-way",
                "1 client quotas were not taken over: of user alice",
                "1 SCRAM credentials were not taken over: of alice",
                "topics have no retention of their own",
            ] {
                assert!(words.contains(line), "{line}: {words}");
            }
            same(&before, &contents(&ours)?).map_err(|e| format!("clean {clean}: {e}"))?;
            let ours_own = own_settings(&ours)?;
            assert_eq!(ours_own, own);
            assert_eq!(ours_own["empty"]["partitions"].as_deref(), Some("4"));
            let broker = [ResourceSpecifier::Broker(1)];
            let described = block_on(admin(&ours)?.describe_configs(&broker, &AdminOptions::new()));
            let described = described?.remove(0)?;
            let max = described
                .get("message.max.bytes")
                .and_then(|e| e.value.clone());
            assert_eq!(max.as_deref(), Some("2000001"));
            check_committed(&ours)?;
            take_transaction_over(&ours)?;
            // New producers are not taken for Kafka's.
            let idempotent = producer(&ours, &[])?;
            let record = BaseRecord::<str, str>::to("codecs")
                .partition(0)
                .payload("new");
            idempotent.send(record).map_err(|(error, _)| error)?;
            idempotent.flush(WAIT)?;
            assert_eq!(watermarks(&ours, "codecs", 0)?, (0, 2_501));
            // Its own from now on.
            ours.kill();
            ours.start_again()?;
            assert_eq!(watermarks(&ours, "codecs", 0)?, (0, 2_501));
            assert_eq!(own_settings(&ours)?, own);
            assert_eq!(said(&at).matches("was taken over").count(), 1);
            assert!(ours.stop()?.success());
            let strays = entries(&at.join("data"));
            let strays = strays
                .iter()
                .filter(|p| p.to_string_lossy().ends_with("-stray"));
            assert_eq!(strays.count(), 0);
        }
        damaged_metadata_is_refused(&kafka.log_dir(), root.path())
    });
}

/// Every file under `dir` but the lock, with its content.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for path in entries(dir) {
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if !path.ends_with(".lock") {
            let content = fs::read(&path).expect("a file");
            files.insert(path, content);
        }
    }
    files
}

fn damaged_metadata_is_refused(kafka: &Path, root: &Path) -> Result<()> {
    let at = root.join("damaged");
    copy(kafka, &at.join("data"))?;
    let metadata = at.join("data/__cluster_metadata-0");
    let mut snapshots = entries(&metadata);
    snapshots.retain(|path| path.extension().is_some_and(|e| e == "checkpoint"));
    snapshots.sort();
    let last = snapshots.pop().expect("a snapshot");
    let whole = fs::read(&last)?;
    let log = metadata.join("00000000000000000000.log");
    let all = fs::read(&log)?;
    // In the last byte of the batch in the middle: the CRC of a batch is not of its base offset and leader epoch.
    let flipped = |bytes: &[u8]| {
        let mut end = 0;
        while end <= bytes.len() / 2 {
            let length = bytes[end + 8..end + 12].try_into().expect("four bytes");
            end += 12 + u32::from_be_bytes(length) as usize;
        }
        let mut bytes = bytes.to_vec();
        bytes[end - 1] ^= 4;
        bytes
    };
    for (path, bytes) in [
        (&last, flipped(&whole)),
        (&last, whole[..whole.len() - 1].to_vec()),
        (&log, flipped(&all)),
    ] {
        let good = fs::read(path)?;
        fs::write(path, &bytes)?;
        let before = files(&at.join("data"));
        let Err(words) = Broker::start(Kind::Ringspun, &at, &SETTINGS) else {
            return Err(format!("{} is damaged, and was taken", path.display()).into());
        };
        assert!(words.contains("cannot be taken over"), "{words}");
        assert!(words.contains("at byte"), "{words}");
        assert!(words.contains("nothing was changed"), "{words}");
        assert_eq!(files(&at.join("data")), before);
        fs::write(path, &good)?;
    }
    Broker::start(Kind::Ringspun, &at, &SETTINGS).map(drop)?;
    Ok(())
}
