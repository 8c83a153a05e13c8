//! Against Apache Kafka itself, where it is there.
//!
//! `RINGSPUN_KAFKA_CLASSPATH` is the class path of Kafka's tools; `RINGSPUN_KAFKA_LOG_DIR` a data directory
//! that a cleanly stopped Kafka has written. Without them these tests do nothing.

use std::process::Command;

use super::*;

/// As [`dump_with_gaps`], of a log without gaps.
fn dump(class_path: &str, arguments: &[&str], files: &[PathBuf]) -> String {
    let text = dump_with_gaps(class_path, arguments, files);
    // Of its own segments, too, it says that -1 is followed by their base offset.
    let gaps = text
        .lines()
        .filter(|line| line.contains(" is followed by "));
    for gap in gaps {
        assert!(gap.trim().starts_with("-1 "), "{gap}");
    }
    text
}

fn dump_with_gaps(class_path: &str, arguments: &[&str], files: &[PathBuf]) -> String {
    let files: Vec<String> = files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    let output = Command::new("java")
        .args(["-Xmx256M", "-cp", class_path])
        .arg("org.apache.kafka.tools.DumpLogSegments")
        .args(arguments)
        .args(["--files", &files.join(",")])
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{text}");
    for complaint in ["Mismatch", "not found", "out of order", "xception"] {
        assert!(!text.contains(complaint), "{text}");
    }
    text
}

fn files(dir: &Path, suffixes: &[&str]) -> Vec<PathBuf> {
    let disk = PageCache::new(Inline);
    run(disk.list(dir))
        .unwrap()
        .into_iter()
        .filter(|entry| suffixes.iter().any(|suffix| entry.name.ends_with(suffix)))
        .map(|entry| dir.join(entry.name))
        .collect()
}

#[test]
fn kafkas_dumper_reads_ours_live_and_stopped() {
    let Ok(class_path) = std::env::var("RINGSPUN_KAFKA_CLASSPATH") else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let disk = PageCache::new(Inline);
    let mut large = settings();
    large.segment_bytes = 200_000;
    large.index_interval_bytes = 4096;
    let log = create(&disk, data.path(), &large);
    for tag in 0..3000u64 {
        let builder = match tag % 3 {
            0 => BatchBuilder::new(Compression::of(CompressionType::Lz4)),
            1 => BatchBuilder::uncompressed().producer(
                ProducerId(1),
                ProducerEpoch(0),
                tag as i32 / 3 * 2,
            ),
            _ => BatchBuilder::uncompressed(),
        };
        let timestamp = NOW.0 + (tag as i64 * 7919) % 100_000;
        let written = {
            stage(&log, batch_of(builder, tag, 2, timestamp)).unwrap();
            run(log.write_staged(NOW)).unwrap()
        };
        if written.prepare {
            run(log.prepare()).unwrap();
        }
    }
    assert!(log.segment_count() > 1);
    let dir = data.path().join("topic-0");
    let check = || {
        let text = dump(&class_path, &["--deep-iteration"], &files(&dir, &[".log"]));
        assert_eq!(text.matches("| offset:").count(), 6000);
        let indexes = files(&dir, &[".index", ".timeindex"]);
        dump(&class_path, &["--verify-index-only"], &indexes);
        dump(&class_path, &["--index-sanity-check"], &indexes);
    };
    check();
    run(log.close(NOW)).unwrap();
    check();
    let text = dump(&class_path, &[], &files(&dir, &[".snapshot"]));
    assert!(text.contains("producerId: 1 "), "{text}");
    let (log, report) = open(&disk, data.path(), &large, options(true));
    assert_eq!(report, OpenReport::default());
    assert_eq!(log.log_end_offset(), Offset(6000));
    drop(log);
    let (_, report) = open(&disk, data.path(), &large, options(false));
    assert_eq!(report.damage, None);
    check();
}

#[test]
fn kafkas_dumper_reads_what_was_cleaned() {
    use crate::storage::cleaner::{Cleaner, Limits};
    let Ok(class_path) = std::env::var("RINGSPUN_KAFKA_CLASSPATH") else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let disk = PageCache::new(Inline);
    let mut large = settings();
    large.segment_bytes = 50_000;
    large.index_interval_bytes = 1000;
    large.cleanup_policy.compact = true;
    let log = create(&disk, data.path(), &large);
    for tag in 0..3000u64 {
        let codec = CompressionType::from_id((tag % 5) as u8).unwrap();
        let mut builder = BatchBuilder::new(Compression::of(codec));
        for n in 0..3 {
            let key = format!("key-{}", (tag * (n + 1)) % 700);
            let value = (n < 2 || tag % 7 > 0).then_some(b"a value of some length");
            let value = value.map(|value| &value[..]);
            builder.append(NOW, Some(key.as_bytes()), value, &[]);
        }
        append(&log, BytesMut::from(&builder.build()[..]));
    }
    let before = log.size_bytes();
    let limits = Limits {
        map_bytes: 1 << 20,
        load_factor: 0.9,
        io_bytes: 64 * 1024,
    };
    for _ in 0..2 {
        run(log.flush_closed()).unwrap();
        let range = run(log.cleanable(log.log_end_offset(), NOW)).unwrap();
        let mut cleaner = Cleaner::default();
        run(log.clean(&mut cleaner, limits, &range, NOW, &super::cleaner::AtOnce)).unwrap();
    }
    assert!(log.size_bytes() < before / 2);
    let dir = data.path().join("topic-0");
    let text = dump_with_gaps(&class_path, &["--deep-iteration"], &files(&dir, &[".log"]));
    assert!(text.contains("deleteHorizonMs: OptionalLong["), "{text}");
    let indexes = files(&dir, &[".index", ".timeindex"]);
    dump(&class_path, &["--verify-index-only"], &indexes);
    dump(&class_path, &["--index-sanity-check"], &indexes);
}

#[test]
fn a_directory_that_kafka_wrote_is_opened() {
    let Ok(dir) = std::env::var("RINGSPUN_KAFKA_LOG_DIR") else {
        return;
    };
    let disk = PageCache::new(Inline);
    let found = run(log_dir::scan(&disk, Path::new(&dir))).unwrap();
    assert!(!found.partitions.is_empty());
    assert!(found.bad_checkpoints.is_empty());
    for partition in found.partitions {
        assert!(partition.topic_id.is_some());
        for is_clean in [true, false] {
            let mut options = options(is_clean);
            options.recovery_point = log_dir::DataDir::offset_of(
                &found.recovery_points,
                &partition.topic,
                partition.partition,
            )
            .unwrap_or_default();
            let (log, report) = run(Log::open(
                disk.clone(),
                Arc::from(partition.dir.clone()),
                Arc::new(settings()),
                options,
            ))
            .unwrap();
            assert_eq!(report.damage, None, "{partition:?}");
            assert_eq!(report.truncated_bytes, 0, "{partition:?}");
            assert_eq!(report.rebuilt_indexes, 0, "{partition:?}");
            let (mut next, mut batches) = (log.log_start_offset(), 0);
            let end = log.log_end_offset();
            while next < end {
                let out = run(log.read(next, 100_000, end, true)).unwrap();
                batches += batches_of(&bytes_of(&out.slice.unwrap())).len();
                next = out.next_offset;
            }
            println!(
                "{}-{}: {end}, {batches} batches",
                partition.topic, partition.partition
            );
        }
    }
}
