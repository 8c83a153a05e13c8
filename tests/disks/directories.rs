//! Directories that are bad at the start or fail while the node runs, and what a compacted log takes along.

use super::*;

/// A node with a topic of four partitions, two in each directory, and a record in each; stopped. Which lie in
/// the second directory, and which in the first.
fn spread_over(dirs: &[PathBuf; 2]) -> (Node, Vec<i32>, Vec<i32>) {
    let mut node = Node::start(&[
        ("ringspun.cores", "1"),
        ("ringspun.memory.bytes", "300000000"),
        ("log.dirs", &join(dirs)),
    ]);
    node.create_topic("t", 4);
    let mut peer = node.connect();
    for partition in 0..4 {
        assert_eq!(send(&mut peer, "t", partition, batch(1, 1000)).0, 0);
    }
    let is_in = |dir: &Path, partition: i32| dir.join(format!("t-{partition}")).exists();
    let (there, here): (Vec<i32>, Vec<i32>) = (0..4).partition(|p| is_in(&dirs[1], *p));
    assert_eq!((there.len(), here.len()), (2, 2), "spread over log.dirs");
    assert!(node.broker.stop().unwrap().success());
    (node, there, here)
}

/// Ways to spoil a directory, each with the way back.
pub fn spoil(how: &str, dir: &Path) -> Box<dyn FnOnce()> {
    let (away, dir) = (dir.with_extension("away"), dir.to_owned());
    match how {
        "a file in the way" => {
            fs::rename(&dir, &away).unwrap();
            fs::write(&dir, "").unwrap();
            Box::new(move || {
                fs::remove_file(&dir).unwrap();
                fs::rename(&away, &dir).unwrap();
            })
        }
        "damaged meta.properties" => {
            let (file, kept) = (dir.join("meta.properties"), away);
            fs::rename(&file, &kept).unwrap();
            fs::write(&file, "version=1\nnode.id=?\n").unwrap();
            Box::new(move || fs::rename(&kept, &file).unwrap())
        }
        "a lock that cannot be made" => {
            let file = dir.join(".lock");
            fs::remove_file(&file).unwrap();
            fs::create_dir(&file).unwrap();
            Box::new(move || fs::remove_dir(&file).unwrap())
        }
        other => panic!("{other}"),
    }
}

const WAYS: [&str; 3] = [
    "a file in the way",
    "damaged meta.properties",
    "a lock that cannot be made",
];

#[test]
fn a_bad_directory_takes_only_its_partitions_offline_at_the_start_and_they_come_back() {
    let at = tempfile::tempdir().unwrap();
    let dirs = two_dirs(at.path());
    let (mut node, there, here) = spread_over(&dirs);
    for (round, how) in (1..).zip(WAYS) {
        let restore = spoil(how, &dirs[1]);
        node.broker.start_again().unwrap();
        let mut peer = node.connect();
        for &partition in &there {
            let refused = send(&mut peer, "t", partition, batch(1, 1000));
            assert_eq!(refused.0, STORAGE_ERROR, "{how}");
        }
        for &partition in &here {
            assert_eq!(
                send(&mut peer, "t", partition, batch(1, 1000)).0,
                0,
                "{how}"
            );
            assert!(read(&mut peer, "t", partition) > round * 1000, "{how}");
        }
        let described = describe(&mut peer);
        let codes: Vec<i16> = described.results.iter().map(|r| r.error_code).collect();
        assert_eq!(codes, [0, STORAGE_ERROR], "{how}");
        let line = "the partitions of a data directory are offline until a restart";
        assert_eq!(node.log().matches(line).count(), round, "{how}");
        // What is new goes where it can be written.
        let later = format!("later-{round}");
        node.create_topic(&later, 2);
        for partition in 0..2 {
            assert_eq!(
                send(&mut peer, &later, partition, batch(1, 1000)).0,
                0,
                "{how}"
            );
            assert!(dirs[0].join(format!("{later}-{partition}")).is_dir());
        }
        assert!(node.broker.stop().unwrap().success(), "{how}");
        restore();
    }
    node.broker.start_again().unwrap();
    let mut peer = node.connect();
    for partition in 0..4 {
        let rounds = if here.contains(&partition) {
            WAYS.len()
        } else {
            0
        };
        let bytes = read(&mut peer, "t", partition);
        assert!(
            (rounds + 1..rounds + 2).contains(&(bytes / 1000)),
            "{bytes}"
        );
        assert_eq!(send(&mut peer, "t", partition, batch(1, 1000)).0, 0);
    }
    let all = [names(&dirs[0]), names(&dirs[1])].concat();
    assert_eq!(all.iter().filter(|name| name.starts_with("t-")).count(), 4);
    assert!(!all.iter().any(|name| name.ends_with("-stray")), "{all:?}");
    node.stop();
}

#[test]
fn a_start_is_refused_without_the_metadata_or_with_directories_that_contradict() {
    let at = tempfile::tempdir().unwrap();
    let dirs = two_dirs(at.path());
    let (mut node, _, _) = spread_over(&dirs);
    for how in WAYS {
        let restore = spoil(how, &dirs[0]);
        let words = node.broker.start_again().unwrap_err();
        assert!(
            words.contains(&dirs[0].display().to_string()),
            "{how}: {words}"
        );
        restore();
    }
    let own = fs::read_to_string(dirs[1].join("meta.properties")).unwrap();
    fs::write(
        dirs[1].join("meta.properties"),
        own.replace("node.id=1", "node.id=2"),
    )
    .unwrap();
    let words = node.broker.start_again().unwrap_err();
    assert!(words.contains("belongs to node 1"), "{words}");
    fs::write(dirs[1].join("meta.properties"), own).unwrap();
    node.broker.start_again().unwrap();
    node.stop();

    // A new node does not begin with less than it was given.
    let (good, bad) = (at.path().join("good"), at.path().join("bad"));
    fs::write(&bad, "").unwrap();
    let dirs = format!("{},{}", good.display(), bad.display());
    let settings = [("log.dirs", dirs.as_str())];
    let started = broker::Broker::start(broker::Kind::Ringspun, &at.path().join("new"), &settings);
    let words = started.map(drop).unwrap_err();
    assert!(words.contains("a file is in the way"), "{words}");
    assert!(!good.join("meta.properties").exists());
}

#[test]
fn a_node_stops_when_its_last_directory_fails() {
    let at = tempfile::tempdir().unwrap();
    let dir = at.path().join("only");
    let mut node = Node::start(&[
        ("ringspun.cores", "1"),
        ("ringspun.memory.bytes", "300000000"),
        ("log.dirs", &dir.display().to_string()),
        ("log.segment.bytes", "1048576"),
    ]);
    node.create_topic("t", 1);
    let mut peer = node.connect();
    assert_eq!(send(&mut peer, "t", 0, batch(1, 1000)).0, 0);
    fs::rename(&dir, at.path().join("away")).unwrap();
    fs::write(&dir, "").unwrap();
    // What is open is written still, until the next segment cannot be made.
    let sent = |peer: &mut Peer| {
        peer.try_send(&produce("t", 0, 1, batch(1, MIB / 2), 1))
            .is_ok()
            && matches!(peer.receive(), Ok(Some(_)))
    };
    let stat = format!("/proc/{}/stat", node.broker.pid());
    let deadline = Instant::now() + PATIENCE;
    while !fs::read_to_string(&stat).unwrap().contains(") Z ") {
        assert!(Instant::now() < deadline, "it goes on");
        if !sent(&mut peer) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let status = node.broker.stop().unwrap();
    assert_eq!(status.code(), Some(1), "{status:?}");
    let words = node.log();
    assert!(
        words.contains("all data directories have failed"),
        "{words}"
    );
    // Nothing was closed in order.
    assert!(!at.path().join("away/.kafka_cleanshutdown").exists());
}

#[test]
fn a_compacted_log_that_moves_stays_compacted() {
    let at = tempfile::tempdir().unwrap();
    let dirs = two_dirs(at.path());
    let mut node = Node::start(&[
        ("ringspun.cores", "1"),
        ("ringspun.memory.bytes", "300000000"),
        ("log.dirs", &join(&dirs)),
        ("log.cleanup.policy", "compact"),
        ("log.segment.bytes", "1048576"),
        ("log.cleaner.backoff.ms", "50"),
        ("log.cleaner.min.cleanable.ratio", "0.01"),
        ("log.flush.offset.checkpoint.interval.ms", "1000"),
        ("log.flush.start.offset.checkpoint.interval.ms", "1000"),
    ]);
    node.create_topic("t", 1);
    let mut peer = node.connect();
    for _ in 0..6 {
        // Ten keys, one after the other.
        assert_eq!(send(&mut peer, "t", 0, keyed_batch(10, MIB / 20)).0, 0);
    }
    let [from, to] = match dirs[0].join("t-0").is_dir() {
        true => [&dirs[0], &dirs[1]],
        false => [&dirs[1], &dirs[0]],
    };
    let cleaned = |dir: &Path| -> Option<i64> {
        let text = fs::read_to_string(dir.join("cleaner-offset-checkpoint")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("t 0 "))?;
        line.parse().ok()
    };
    node.await_that("it is compacted", |_| cleaned(from).is_some());
    // From now on it would have to be all new to be compacted again.
    set_config(&mut peer, "t", "min.cleanable.dirty.ratio", "1.0");
    let before = cleaned(from);
    assert_eq!(alter(&mut peer, "t", 0, to), 0);
    await_place(&mut peer, "t", 0, to);
    assert!(node.broker.stop().unwrap().success());
    assert_eq!(cleaned(from), None);
    assert!(cleaned(to) >= before, "{before:?}, then {:?}", cleaned(to));
}

/// Records with the keys 0, 1, ….
fn keyed_batch(records: usize, value_bytes: usize) -> Bytes {
    let mut builder = ringspun::records::BatchBuilder::uncompressed();
    for key in 0..records {
        let key = key.to_string();
        let value = vec![b'x'; value_bytes];
        let now = ringspun::base::Timestamp(1_700_000_000_000);
        builder.append(now, Some(key.as_bytes()), Some(&value), &[]);
    }
    builder.build().into()
}
