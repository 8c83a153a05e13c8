//! Logs that move from one directory to another (KIP-113).

use super::*;

/// An idempotent producer of librdkafka.
fn producer(node: &Node) -> ThreadedProducer<DefaultProducerContext> {
    ClientConfig::new()
        .set("bootstrap.servers", node.broker.bootstrap())
        .set("enable.idempotence", "true")
        .set("linger.ms", "1")
        .set("retry.backoff.ms", "10")
        .create()
        .unwrap()
}

/// Reads offsets from 0 to `count`: each value is its own number.
fn assert_numbers(bootstrap: &str, name: &str, count: u64) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(name, 0, Offset::Offset(0))
        .unwrap();
    consumer.assign(&list).unwrap();
    for number in 0..count {
        let message = consumer.poll(PATIENCE).expect("a record").unwrap();
        let value: [u8; 8] = message.payload().unwrap()[..8].try_into().unwrap();
        assert_eq!(
            (message.offset(), u64::from_be_bytes(value)),
            (number as i64, number)
        );
    }
}

fn send_numbers(
    producer: &ThreadedProducer<DefaultProducerContext>,
    name: &str,
    numbers: std::ops::Range<u64>,
) {
    for number in numbers {
        let mut value = number.to_be_bytes().to_vec();
        value.resize(1000, number as u8);
        loop {
            let record = BaseRecord::<(), [u8]>::to(name)
                .partition(0)
                .payload(&value);
            match producer.send(record) {
                Ok(()) => break,
                // Its queue is full.
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

/// A topic of one partition with settings of its own.
fn create_topic(node: &Node, name: &str, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", node.broker.bootstrap())
        .create()
        .unwrap();
    let mut topic = NewTopic::new(name, 1, TopicReplication::Fixed(1));
    for (name, value) in settings {
        topic = topic.set(name, value);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let created = runtime.block_on(admin.create_topics([&topic], &AdminOptions::new()));
    created.unwrap().remove(0).unwrap();
}

/// Moves a topic with these settings to and fro while one producer writes and one consumer reads it.
fn move_while_written_and_read(name: &str, settings: &[(&str, &str)]) {
    let at = tempfile::tempdir().unwrap();
    let dirs = two_dirs(at.path());
    let node = Node::start(&[
        ("ringspun.shards", "2"),
        ("log.dirs", &join(&dirs)),
        ("log.segment.bytes", "1048576"),
        ("log.segment.delete.delay.ms", "0"),
    ]);
    create_topic(&node, name, settings);
    let mut peer = node.connect();
    let count = 30_000;
    let producer = producer(&node);
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send_numbers(&producer, name, 0..count));
        let bootstrap = node.broker.bootstrap();
        let reader = scope.spawn(move || assert_numbers(&bootstrap, name, count));
        let mut moves = 0;
        while moves < 4 || !reader.is_finished() && moves < 40 {
            let (from, _) = places(&mut peer, name, 0).remove(0);
            let to = if from == dirs[0] { &dirs[1] } else { &dirs[0] };
            assert_eq!(alter(&mut peer, name, 0, to), 0);
            await_place(&mut peer, name, 0, to);
            moves += 1;
        }
        sender.join().unwrap();
        reader.join().unwrap();
    });
    producer.flush(PATIENCE).unwrap();
    assert_numbers(&node.broker.bootstrap(), name, count);
    // Nothing is left of the old ones.
    let (at_last, _) = places(&mut peer, name, 0).remove(0);
    let folder = format!("{name}-0");
    node.await_that("the old folders are gone", |_| {
        dirs.iter().all(|dir| {
            let here: Vec<_> = names(dir)
                .into_iter()
                .filter(|n| n.starts_with(name))
                .collect();
            here == if *dir == at_last {
                vec![folder.clone()]
            } else {
                vec![]
            }
        })
    });
    assert!(!at_last.join(&folder).join("replica-moved").exists());
    if settings.contains(&("ringspun.log.io", "direct")) {
        let (pages, cached) = log_pages(&at_last.join(&folder));
        assert!(pages > 5_000, "{pages}");
        assert!(cached * 20 < pages, "{cached} of {pages} are cached");
    }
    node.stop();
}

#[test]
fn a_log_moves_between_disks_while_it_is_written_and_read() {
    move_while_written_and_read("cached", &[]);
    move_while_written_and_read("synced", &[("flush.messages", "1")]);
}

#[test]
fn a_log_past_the_page_cache_moves_between_disks_while_it_is_written_and_read() {
    let at = tempfile::tempdir().unwrap();
    if !is_direct_here(at.path()) {
        return;
    }
    let direct = ("ringspun.log.io", "direct");
    move_while_written_and_read("direct", &[direct]);
    move_while_written_and_read("direct-synced", &[direct, ("flush.messages", "1")]);
}

#[test]
fn what_cannot_be_moved_is_refused() {
    let at = tempfile::tempdir().unwrap();
    let dirs = two_dirs(at.path());
    let node = Node::start(&[("ringspun.shards", "1"), ("log.dirs", &join(&dirs))]);
    node.create_topic("t", 1);
    let mut peer = node.connect();
    assert_eq!(alter(&mut peer, "t", 0, Path::new("/nowhere")), 57);
    assert_eq!(alter(&mut peer, "t", 1, &dirs[0]), 3);
    assert_eq!(alter(&mut peer, "none", 0, &dirs[0]), 3);
    let (here, _) = places(&mut peer, "t", 0).remove(0);
    assert_eq!(alter(&mut peer, "t", 0, &here), 0, "it is there");
    // An empty log moves, and goes with its topic.
    let there = if here == dirs[0] { &dirs[1] } else { &dirs[0] };
    assert_eq!(alter(&mut peer, "t", 0, there), 0);
    await_place(&mut peer, "t", 0, there);
    // It serves a moment before it takes appends.
    send_until(&mut peer, "t", 0, 0);
    delete_topic(&mut peer, "t");
    node.create_topic("t", 1);
    assert_eq!(send(&mut peer, "t", 0, batch(1, 10)).0, 0);
    node.stop();
}

#[test]
fn a_move_survives_kill_9_and_begins_anew() {
    let at = tempfile::tempdir().unwrap();
    let dirs = two_dirs(at.path());
    let dirs_setting = join(&dirs);
    let mut node = Node::start(&[
        ("ringspun.shards", "1"),
        ("log.dirs", &dirs_setting),
        ("log.segment.bytes", "1048576"),
        // Slow enough to be met on its way.
        ("replica.alter.log.dirs.io.max.bytes.per.second", "4000000"),
    ]);
    node.create_topic("t", 1);
    let mut peer = node.connect();
    let count = 8_000;
    let sender = producer(&node);
    send_numbers(&sender, "t", 0..count);
    sender.flush(PATIENCE).unwrap();
    let (from, _) = places(&mut peer, "t", 0).remove(0);
    let to = if from == dirs[0] { &dirs[1] } else { &dirs[0] };
    assert_eq!(alter(&mut peer, "t", 0, to), 0);
    node.await_that("it is on its way", |_| {
        names(to).iter().any(|name| name.ends_with("-future"))
    });
    node.broker.kill();
    node.broker.start_again().unwrap();
    let mut peer = node.connect();
    assert_numbers(&node.broker.bootstrap(), "t", count);
    await_place(&mut peer, "t", 0, to);
    assert_numbers(&node.broker.bootstrap(), "t", count);
    // Between the two names: both are there, and one says that it is whole.
    node.broker.stop().unwrap();
    fs::create_dir(from.join("t-0")).unwrap();
    for name in names(&to.join("t-0")) {
        fs::copy(to.join("t-0").join(&name), from.join("t-0").join(&name)).unwrap();
    }
    fs::write(from.join("t-0/replica-moved"), "").unwrap();
    node.broker.start_again().unwrap();
    let mut peer = node.connect();
    await_place(&mut peer, "t", 0, &from);
    assert_numbers(&node.broker.bootstrap(), "t", count);
    assert!(!to.join("t-0").exists() && !from.join("t-0/replica-moved").exists());
    node.stop();
}

#[test]
fn kafkas_own_tool_moves_logs_between_disks() {
    let jars = match packages::jars() {
        Ok(jars) => jars,
        Err(reason) if packages::all_required() => panic!("{reason}"),
        Err(reason) => return println!("skipped: {reason}"),
    };
    let at = tempfile::tempdir().unwrap();
    let dirs = two_dirs(at.path());
    let node = Node::start(&[
        ("ringspun.shards", "1"),
        ("log.dirs", &join(&dirs)),
        ("log.retention.ms", "-1"),
    ]);
    node.create_topic("t", 1);
    let mut peer = node.connect();
    for _ in 0..20 {
        assert_eq!(send(&mut peer, "t", 0, batch(10, 1000)).0, 0);
    }
    let before = read(&mut peer, "t", 0);
    let (from, _) = places(&mut peer, "t", 0).remove(0);
    let to = if from == dirs[0] { &dirs[1] } else { &dirs[0] };
    let plan = at.path().join("plan.json");
    let text = serde_json::json!({
        "version": 1,
        "partitions": [{
            "topic": "t", "partition": 0, "replicas": [1], "log_dirs": [to.display().to_string()],
        }],
    });
    fs::write(&plan, text.to_string()).unwrap();
    let tool = |step: &str| {
        let output = packages::java(&jars)
            .arg("org.apache.kafka.tools.reassign.ReassignPartitionsCommand")
            .args(["--bootstrap-server", &node.broker.bootstrap(), step])
            .arg("--reassignment-json-file")
            .arg(&plan)
            .output()
            .unwrap();
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        said
    };
    let said = tool("--execute");
    assert!(
        said.contains("Successfully started moving log directory"),
        "{said}"
    );
    await_place(&mut peer, "t", 0, to);
    let said = tool("--verify");
    assert!(said.contains("completed successfully"), "{said}");
    assert!(said.contains("is complete"), "{said}");
    assert_eq!(read(&mut peer, "t", 0), before);
    node.stop();
}

/// The coordinator of a group reads its state anew from where its log lies now.
#[test]
fn a_transaction_and_committed_offsets_go_on_over_a_move() {
    let at = tempfile::tempdir().unwrap();
    let dirs = two_dirs(at.path());
    let node = Node::start(&[
        ("ringspun.shards", "2"),
        ("log.dirs", &join(&dirs)),
        ("offsets.topic.num.partitions", "1"),
        ("transaction.state.log.num.partitions", "1"),
    ]);
    node.create_topic("t", 1);
    let mut peer = node.connect();
    let mut move_it = |name: &str| {
        let (from, _) = places(&mut peer, name, 0).remove(0);
        let to = if from == dirs[0] { &dirs[1] } else { &dirs[0] };
        assert_eq!(alter(&mut peer, name, 0, to), 0);
        await_place(&mut peer, name, 0, to);
    };
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", node.broker.bootstrap())
        .set("transactional.id", "one")
        .set("retry.backoff.ms", "10")
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    send_numbers(&producer, "t", 0..100);
    producer.flush(PATIENCE).unwrap();
    for name in ["t", "__transaction_state", "t"] {
        move_it(name);
    }
    send_numbers(&producer, "t", 100..200);
    producer.commit_transaction(PATIENCE).unwrap();
    assert_numbers(&node.broker.bootstrap(), "t", 200);

    let consumer = || -> BaseConsumer {
        ClientConfig::new()
            .set("bootstrap.servers", node.broker.bootstrap())
            .set("group.id", "g")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap()
    };
    let commit = |offset: i64| {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("t", 0, Offset::Offset(offset))
            .unwrap();
        consumer()
            .commit(&list, rdkafka::consumer::CommitMode::Sync)
            .unwrap();
    };
    let committed = || {
        let mut list = TopicPartitionList::new();
        list.add_partition("t", 0);
        let found = consumer().committed_offsets(list, PATIENCE).unwrap();
        found.elements()[0].offset()
    };
    commit(50);
    move_it("__consumer_offsets");
    assert_eq!(committed(), Offset::Offset(50));
    commit(60);
    move_it("__consumer_offsets");
    assert_eq!(committed(), Offset::Offset(60));
    node.stop();
}

/// A node with these directories, on which one log after the other moves, at `bytes_per_second`.
fn slow_node(dirs: &[PathBuf], bytes_per_second: &str, settings: &[(&str, &str)]) -> Node {
    let dirs = join(dirs);
    let mut all = vec![
        ("ringspun.shards", "1"),
        ("log.dirs", dirs.as_str()),
        ("log.segment.bytes", "1048576"),
        (
            "replica.alter.log.dirs.io.max.bytes.per.second",
            bytes_per_second,
        ),
    ];
    all.extend_from_slice(settings);
    Node::start(&all)
}

fn fill(node: &Node, name: &str, count: u64) {
    let sender = producer(node);
    send_numbers(&sender, name, 0..count);
    sender.flush(PATIENCE).unwrap();
}

/// One of the directories in which a partition does not lie.
fn elsewhere<'a>(peer: &mut Peer, name: &str, dirs: &'a [PathBuf]) -> &'a PathBuf {
    let (here, _) = places(peer, name, 0).remove(0);
    dirs.iter().find(|dir| **dir != here).unwrap()
}

fn await_future(peer: &mut Peer, name: &str, dir: &Path) {
    let patience = Instant::now() + PATIENCE;
    while !places(peer, name, 0).contains(&(dir.to_path_buf(), true)) {
        assert!(Instant::now() < patience, "{name} does not move to {dir:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_topic_is_deleted_while_its_log_moves_or_waits_to_move() {
    let at = tempfile::tempdir().unwrap();
    let dirs = two_dirs(at.path());
    // A piece of the first takes nearly a minute.
    let node = slow_node(&dirs, "10000", &[]);
    let mut peer = node.connect();
    for name in ["t", "u"] {
        node.create_topic(name, 1);
        fill(&node, name, 2_000);
    }
    for name in ["t", "u"] {
        let to = elsewhere(&mut peer, name, &dirs);
        assert_eq!(alter(&mut peer, name, 0, to), 0);
        await_future(&mut peer, name, to);
    }
    delete_topic(&mut peer, "u");
    node.create_topic("v", 1);
    assert_eq!(send(&mut peer, "v", 0, batch(1, 10)).0, 0);
    assert_eq!(places(&mut peer, "t", 0).len(), 2, "it moves still");
    delete_topic(&mut peer, "t");
    node.create_topic("w", 1);
    assert_eq!(send(&mut peer, "w", 0, batch(1, 10)).0, 0);
    node.await_that("nothing is left on its way", |_| {
        let all = dirs.iter().flat_map(|dir| names(dir));
        !all.into_iter().any(|name| name.ends_with("-future"))
    });
    node.stop();
}

#[test]
fn of_several_moves_of_one_log_what_was_asked_for_last_counts() {
    let at = tempfile::tempdir().unwrap();
    let dirs = dirs(at.path(), ["a", "b", "c"]);
    let node = slow_node(&dirs, "1000000", &[]);
    let mut peer = node.connect();
    node.create_topic("t", 1);
    fill(&node, "t", 2_000);
    let (here, _) = places(&mut peer, "t", 0).remove(0);
    let others: Vec<_> = dirs.iter().filter(|dir| **dir != here).collect();
    assert_eq!(alter(&mut peer, "t", 0, others[0]), 0);
    await_future(&mut peer, "t", others[0]);
    assert_eq!(alter(&mut peer, "t", 0, others[1]), 0);
    assert_eq!(alter(&mut peer, "t", 0, &here), 0);
    let (mut looks, patience) = (0, Instant::now() + PATIENCE);
    while looks < 20 {
        assert!(Instant::now() < patience, "it goes on moving");
        let places = places(&mut peer, "t", 0);
        looks = if places.len() == 1 { looks + 1 } else { 0 };
        assert!(places.contains(&(here.clone(), false)), "{places:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    for to in [others[0], others[1], others[0]] {
        assert_eq!(alter(&mut peer, "t", 0, to), 0);
    }
    await_place(&mut peer, "t", 0, others[0]);
    assert_numbers(&node.broker.bootstrap(), "t", 2_000);
    node.stop();
}

#[test]
fn neither_a_stop_nor_kill_9_forgets_a_move_even_one_that_waits() {
    let at = tempfile::tempdir().unwrap();
    let dirs = two_dirs(at.path());
    let mut node = slow_node(&dirs, "100000", &[]);
    let mut peer = node.connect();
    let mut wanted = Vec::new();
    for name in ["t", "u", "v"] {
        node.create_topic(name, 1);
        fill(&node, name, 2_000);
        let to = elsewhere(&mut peer, name, &dirs).clone();
        assert_eq!(alter(&mut peer, name, 0, &to), 0);
        await_future(&mut peer, name, &to);
        wanted.push((name, to));
    }
    for is_stop in [true, false] {
        if is_stop {
            assert!(node.broker.stop().unwrap().success());
        } else {
            node.broker.kill();
        }
        node.broker.start_again().unwrap();
        let mut peer = node.connect();
        for (name, to) in &wanted {
            await_future(&mut peer, name, to);
            assert_numbers(&node.broker.bootstrap(), name, 2_000);
        }
    }
    node.stop();
}

#[test]
fn settings_that_change_during_a_move_hold_after_it() {
    let at = tempfile::tempdir().unwrap();
    let dirs = two_dirs(at.path());
    let often = ("log.retention.check.interval.ms", "100");
    let delay = ("log.segment.delete.delay.ms", "0");
    let node = slow_node(&dirs, "2000000", &[often, delay]);
    let mut peer = node.connect();
    node.create_topic("t", 1);
    fill(&node, "t", 4_000);
    let to = elsewhere(&mut peer, "t", &dirs);
    assert_eq!(alter(&mut peer, "t", 0, to), 0);
    await_future(&mut peer, "t", to);
    set_config(&mut peer, "t", "retention.bytes", "1000000");
    await_place(&mut peer, "t", 0, to);
    send_until(&mut peer, "t", 0, 0);
    for _ in 0..12 {
        assert_eq!(send(&mut peer, "t", 0, batch(1, MIB / 2)).0, 0);
    }
    node.await_that("retention goes on", |_| {
        let folder = to.join("t-0");
        let logs = names(&folder).into_iter().filter(|n| n.ends_with(".log"));
        logs.count() <= 3
    });
    node.stop();
}

#[test]
fn a_move_leaves_the_reserve_of_a_disk_free() {
    let at = tempfile::tempdir().unwrap();
    let [first] = dirs(at.path(), ["a"]);
    let mounts = ["b", "c"].map(|name| {
        let size = if name == "b" { "20m" } else { "64m" };
        Mount::new(&at.path().join(name), size)
    });
    let [Ok(small), Ok(larger)] = mounts else {
        return println!("skipped: no file system can be mounted");
    };
    let all = [&first, &small.0, &larger.0].map(|dir| dir.canonicalize().unwrap());
    let reserve = ("ringspun.log.min.free.bytes", "8388608");
    let node = slow_node(&all, "4000000", &[reserve, ("log.retention.ms", "-1")]);
    let mut peer = node.connect();
    // They are spread over the disks.
    node.create_topic("spread", 3);
    node.create_topic("t", 1);
    let (here, _) = places(&mut peer, "t", 0).remove(0);
    if here != all[0] {
        assert_eq!(alter(&mut peer, "t", 0, &all[0]), 0);
        await_place(&mut peer, "t", 0, &all[0]);
        send_until(&mut peer, "t", 0, 0);
    }
    for _ in 0..48 {
        assert_eq!(send(&mut peer, "t", 0, batch(1, MIB / 2)).0, 0);
    }
    let is_gone = |dir: &Path| !names(dir).iter().any(|name| name.ends_with("-future"));
    assert_eq!(alter(&mut peer, "t", 0, &all[1]), 0);
    node.await_that("it is refused", |node| {
        node.log().contains("there is room for") && is_gone(&all[1])
    });
    assert_eq!(alter(&mut peer, "t", 0, &all[2]), 0);
    await_future(&mut peer, "t", &all[2]);
    // Somebody else takes what there was.
    fs::write(all[2].join("ballast"), vec![0; 50 * MIB]).unwrap();
    node.await_that("it is given up", |node| {
        node.log().contains("there is no room left but") && is_gone(&all[2])
    });
    assert!(
        larger.free_bytes() > 4 * MIB as u64,
        "{}",
        larger.free_bytes()
    );
    assert_eq!(places(&mut peer, "t", 0), [(all[0].clone(), false)]);
    assert_eq!(send(&mut peer, "t", 0, batch(1, 1000)).0, 0);
    assert_eq!(node.metric("ringspun_offline_partitions"), 0.0);
    fs::remove_file(all[2].join("ballast")).unwrap();
    for partition in 0..3 {
        send_until(&mut peer, "spread", partition, 0);
    }
    node.stop();
}

#[test]
fn a_log_that_cannot_have_its_name_goes_on_where_it_is() {
    let at = tempfile::tempdir().unwrap();
    let dirs = two_dirs(at.path());
    let node = slow_node(&dirs, "100000000", &[]);
    let mut peer = node.connect();
    node.create_topic("t", 1);
    fill(&node, "t", 1_000);
    let to = elsewhere(&mut peer, "t", &dirs);
    fs::create_dir_all(to.join("t-0/in the way")).unwrap();
    assert_eq!(alter(&mut peer, "t", 0, to), 0);
    node.await_that("it is said, and nothing is left", |node| {
        let is_left = names(to).iter().any(|name| name.starts_with("t-0."));
        node.log().contains("could not be moved") && !is_left
    });
    assert_eq!(send(&mut peer, "t", 0, batch(1, 1000)).0, 0);
    assert_numbers(&node.broker.bootstrap(), "t", 1_000);
    fs::remove_dir_all(to.join("t-0")).unwrap();
    assert_eq!(alter(&mut peer, "t", 0, to), 0);
    await_place(&mut peer, "t", 0, to);
    assert_numbers(&node.broker.bootstrap(), "t", 1_000);
    node.stop();
}

/// Moves the log and waits until it takes records there.
fn bring(peer: &mut Peer, name: &str, to: &Path) {
    assert_eq!(alter(peer, name, 0, to), 0);
    await_place(peer, name, 0, to);
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for name in names(from) {
        fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

/// The disk that a log left has failed before its folder lost its name, and is repaired later.
#[test]
fn a_log_that_moved_away_from_a_failed_disk_does_not_come_back_with_it() {
    let at = tempfile::tempdir().unwrap();
    let dirs = dirs(at.path(), ["a", "b", "c"]);
    let mut node = slow_node(&dirs, "100000000", &[("log.segment.delete.delay.ms", "0")]);
    let mut peer = node.connect();
    node.create_topic("t", 1);
    let sender = producer(&node);
    send_numbers(&sender, "t", 0..1_000);
    sender.flush(PATIENCE).unwrap();
    bring(&mut peer, "t", &dirs[1]);
    assert!(node.broker.stop().unwrap().success());
    let before = at.path().join("before");
    copy_folder(&dirs[1].join("t-0"), &before);
    node.broker.start_again().unwrap();
    bring(&mut node.connect(), "t", &dirs[2]);
    send_numbers(&sender, "t", 1_000..2_000);
    sender.flush(PATIENCE).unwrap();
    node.broker.kill();
    copy_folder(&before, &dirs[1].join("t-0"));
    fs::write(dirs[2].join("t-0/replica-moved"), "").unwrap();
    let restore = directories::spoil("a file in the way", &dirs[1]);
    node.broker.start_again().unwrap();
    assert_numbers(&node.broker.bootstrap(), "t", 2_000);
    node.broker.kill();
    restore();
    node.broker.start_again().unwrap();
    assert_numbers(&node.broker.bootstrap(), "t", 2_000);
    let mut peer = node.connect();
    assert_eq!(places(&mut peer, "t", 0), [(dirs[2].clone(), false)]);
    assert!(!dirs[1].join("t-0").exists());
    assert!(!dirs[2].join("t-0/replica-moved").exists());
    node.stop();
}

#[test]
fn a_deleted_topic_on_a_failed_disk_does_not_take_the_place_of_a_new_one_of_its_name() {
    let at = tempfile::tempdir().unwrap();
    let dirs = dirs(at.path(), ["a", "b", "c"]);
    let mut node = slow_node(&dirs, "100000000", &[("log.segment.delete.delay.ms", "0")]);
    let mut peer = node.connect();
    node.create_topic("t", 1);
    assert_eq!(send(&mut peer, "t", 0, batch(1, 1000)).0, 0);
    bring(&mut peer, "t", &dirs[1]);
    assert!(node.broker.stop().unwrap().success());
    let restore = directories::spoil("a file in the way", &dirs[1]);
    node.broker.start_again().unwrap();
    let mut peer = node.connect();
    delete_topic(&mut peer, "t");
    node.create_topic("t", 1);
    fill(&node, "t", 500);
    bring(&mut peer, "t", &dirs[2]);
    assert!(node.broker.stop().unwrap().success());
    restore();
    node.broker.start_again().unwrap();
    assert_numbers(&node.broker.bootstrap(), "t", 500);
    let mut peer = node.connect();
    assert_eq!(places(&mut peer, "t", 0), [(dirs[2].clone(), false)]);
    let aside = names(&dirs[1]);
    assert!(
        aside.iter().any(|name| name.ends_with("-stray")),
        "{aside:?}"
    );
    node.stop();
}

/// The disk that a log leaves has refused to take its folder away.
#[test]
fn a_folder_that_a_move_has_left_behind_is_in_nobodys_way() {
    let at = tempfile::tempdir().unwrap();
    let dirs = two_dirs(at.path());
    let mut node = slow_node(&dirs, "100000000", &[("log.segment.delete.delay.ms", "0")]);
    let mut peer = node.connect();
    node.create_topic("t", 1);
    fill(&node, "t", 500);
    let (from, _) = places(&mut peer, "t", 0).remove(0);
    let to = if from == dirs[0] { &dirs[1] } else { &dirs[0] };
    bring(&mut peer, "t", to);
    copy_folder(&to.join("t-0"), &from.join("t-0"));
    // Of the log when it comes back.
    bring(&mut peer, "t", &from);
    assert_numbers(&node.broker.bootstrap(), "t", 500);
    copy_folder(&from.join("t-0"), &to.join("t-0"));
    // Of another of its name.
    delete_topic(&mut peer, "t");
    node.create_topic("t", 1);
    assert_eq!(read(&mut peer, "t", 0), 0);
    fill(&node, "t", 300);
    assert!(names(to).iter().any(|name| name.ends_with("-stray")));
    node.broker.kill();
    node.broker.start_again().unwrap();
    assert_numbers(&node.broker.bootstrap(), "t", 300);
    node.stop();
}

#[test]
fn the_checkpoints_know_soon_where_a_log_has_moved() {
    let at = tempfile::tempdir().unwrap();
    let dirs = two_dirs(at.path());
    let an_hour = ("log.flush.offset.checkpoint.interval.ms", "3600000");
    let start = ("log.flush.start.offset.checkpoint.interval.ms", "3600000");
    let node = slow_node(&dirs, "100000000", &[an_hour, start]);
    let mut peer = node.connect();
    node.create_topic("t", 1);
    fill(&node, "t", 10);
    let to = elsewhere(&mut peer, "t", &dirs);
    bring(&mut peer, "t", to);
    node.await_that("the recovery point is in its directory", |_| {
        let checkpoint = fs::read_to_string(to.join("recovery-point-offset-checkpoint"));
        checkpoint.is_ok_and(|text| text.contains("\nt 0 "))
    });
    node.stop();
}
