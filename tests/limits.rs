//! Every limit that holds a peer, counted and tried; and what becomes of a connection that breaks a rule.
//!
//! Each test has a node of its own, in a process of its own, and learns from its counters why a
//! connection ended.

mod broker;
mod hostile;

use std::io::Write;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::{
    DescribeConfigsRequest, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
    MetadataRequest, ProduceResponse, describe_configs_request, describe_topic_partitions_request,
};

use hostile::{
    FetchLimits, Node, Peer, answer, api_versions, batch, correlation_id, fetch, produce, request,
    text, topic,
};

const MIB: usize = 1 << 20;

/// A small node: one shard, requests of at most 2 MiB.
fn small(settings: &[(&str, &str)]) -> Node {
    let mut all = vec![
        ("ringspun.shards", "1"),
        ("socket.request.max.bytes", "2097152"),
        ("ringspun.memory.bytes", "100663296"),
    ];
    all.extend_from_slice(settings);
    Node::start(&all)
}

fn with_length(length: i32, rest: &[u8]) -> Vec<u8> {
    let mut out = length.to_be_bytes().to_vec();
    out.extend_from_slice(rest);
    out
}

#[test]
fn a_request_beyond_socket_request_max_bytes_closes_its_connection_alone() {
    let node = small(&[]);
    let mut other = node.connect();
    other.ping(1);
    for length in [2_097_153, i32::MAX] {
        let mut peer = node.connect();
        peer.stream
            .write_all(&with_length(length, &[0; 100]))
            .unwrap();
        assert_eq!(peer.read_to_close(), 0);
    }
    node.await_that("two are counted", |node| node.closed("too_large") == 2);
    other.ping(2);
    node.stop();
}

#[test]
fn a_size_header_or_body_that_is_malformed_closes_its_connection_alone_with_a_line() {
    let node = small(&[]);
    let mut other = node.connect();
    other.ping(1);
    // A body of Metadata 12 that ends in its first array.
    let mut body = request(12, 5, &MetadataRequest::default().with_topics(Some(vec![])));
    body.truncate(body.len() - 4);
    let mut count = api_versions(3, 5);
    // A length of a string that is not there.
    let end = count.len();
    count[end - 3] = 0x7f;
    let mut header = api_versions(0, 5);
    header[8..10].copy_from_slice(&i16::MAX.to_be_bytes());
    for frame in [body, count, header] {
        let mut peer = node.connect();
        peer.send(&frame);
        assert_eq!(peer.receive_id(), None);
    }
    for length in [-1, 0, 7, i32::MIN] {
        let mut peer = node.connect();
        peer.stream.write_all(&with_length(length, &[])).unwrap();
        assert_eq!(peer.receive_id(), None);
    }
    node.await_that("seven are counted", |node| node.closed("malformed") == 7);
    other.ping(2);
    let lines = node.log();
    let lines = lines.lines().filter(|l| l.contains("connection closed"));
    assert_eq!(lines.count(), 7, "{}", node.log());
    node.stop();
}

#[test]
fn a_flood_of_malformed_requests_is_a_bounded_number_of_lines() {
    let node = small(&[]);
    for _ in 0..300 {
        let mut peer = node.connect();
        peer.stream.write_all(&with_length(-1, &[])).unwrap();
        assert_eq!(peer.receive_id(), None);
    }
    node.await_that("all are counted", |node| node.closed("malformed") == 300);
    let folder = node.broker.log_dir();
    let text = std::fs::read_to_string(folder.with_file_name("stderr")).unwrap();
    let lines = text
        .lines()
        .filter(|l| l.contains("connection closed"))
        .count();
    // Ten a second; 300 connections may take a few.
    assert!((1..300).contains(&lines), "{lines}");
    node.stop();
}

#[test]
fn an_api_or_version_that_is_not_served_closes_the_connection() {
    let node = small(&[]);
    for (key, version) in [(3, 99), (0, 2), (1, 3), (999, 0), (-1, 0), (11, 10)] {
        let mut peer = node.connect();
        let mut frame = api_versions(0, 1);
        frame[0..2].copy_from_slice(&i16::to_be_bytes(key));
        frame[2..4].copy_from_slice(&i16::to_be_bytes(version));
        peer.send(&frame);
        assert_eq!(peer.receive_id(), None, "{key} {version}");
    }
    node.await_that("six are counted", |node| {
        node.closed("unsupported_version") == 6
    });
    node.stop();
}

#[test]
fn an_unknown_version_of_api_versions_is_answered_with_a_version_0_body() {
    let node = small(&[]);
    let mut peer = node.connect();
    for version in [5, 99, i16::MAX, -1] {
        let mut frame = api_versions(0, 42);
        frame[2..4].copy_from_slice(&version.to_be_bytes());
        peer.send(&frame);
        let body = peer.receive().unwrap().expect("an answer");
        assert_eq!(correlation_id(&body), 42);
        assert_eq!(body[4..6], 35i16.to_be_bytes(), "UNSUPPORTED_VERSION");
        let count = u32::from_be_bytes(body[6..10].try_into().unwrap()) as usize;
        assert_eq!(body.len(), 10 + count * 6, "a version 0 body");
    }
    peer.ping(43);
    node.stop();
}

#[test]
fn what_was_asked_before_a_malformed_request_is_answered() {
    let node = small(&[]);
    let mut peer = node.connect();
    let mut bytes = Vec::new();
    for id in 0..10 {
        bytes.extend_from_slice(&hostile::prefixed(&api_versions(0, id)));
    }
    bytes.extend_from_slice(&with_length(-5, &[]));
    peer.stream.write_all(&bytes).unwrap();
    for id in 0..10 {
        assert_eq!(peer.receive_id(), Some(id));
    }
    assert_eq!(peer.receive_id(), None);
    node.stop();
}

#[test]
fn a_failed_produce_with_acks_0_closes_the_connection_and_a_good_one_is_silent() {
    let node = small(&[]);
    node.create_topic("t", 1);
    let mut peer = node.connect();
    peer.send(&produce("t", 0, 0, batch(1, 10), 1));
    // The next answer is another request's: the produce has none.
    peer.ping(2);
    peer.send(&produce("t", 7, 0, batch(1, 10), 3));
    assert_eq!(peer.receive_id(), None);
    node.await_that("it is counted", |node| {
        node.closed("unacknowledged_error") == 1
    });
    node.stop();
}

#[test]
fn pipelined_requests_are_answered_in_order_and_produces_reach_their_partition_in_order() {
    let node = Node::start(&[("ringspun.shards", "2")]);
    node.create_topic("t", 2);
    let mut peer = node.connect();
    let mut bytes = Vec::new();
    for id in 0..1_000 {
        // Both partitions, so both shards; every other request needs none.
        let frame = match id % 4 {
            0 => produce("t", 0, -1, batch(1, 10), id),
            2 => produce("t", 1, 1, batch(2, 10), id),
            _ => api_versions(0, id),
        };
        bytes.extend_from_slice(&hostile::prefixed(&frame));
    }
    let mut writer = peer.stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
    let mut next = [0, 0];
    for id in 0..1_000 {
        let frame = peer.receive().unwrap().expect("an answer");
        assert_eq!(correlation_id(&frame), id);
        if id % 2 == 0 {
            let response: ProduceResponse = answer(frame, 1, 9);
            let partition = &response.responses[0].partition_responses[0];
            let at = usize::from(id % 4 == 2);
            assert_eq!((partition.error_code, partition.base_offset), (0, next[at]));
            next[at] += 1 + at as i64;
        }
    }
    assert_eq!(next, [250, 500]);
    writing.join().unwrap();
    node.stop();
}

#[test]
fn max_connections_holds_and_a_place_that_becomes_free_is_given_again() {
    let node = small(&[("max.connections", "3")]);
    let mut open: Vec<Peer> = (0..3).map(|_| node.connect()).collect();
    for (id, peer) in open.iter_mut().enumerate() {
        peer.ping(id as i32);
    }
    for _ in 0..2 {
        assert_eq!(node.connect().read_to_close(), 0);
    }
    assert_eq!(node.closed("too_many_connections"), 2);
    drop(open.pop());
    node.await_that("a place is free", |node| node.open_connections() == 2);
    // The acceptor learns of the end a moment later.
    node.await_that("it is given again", |node| {
        let mut peer = node.connect();
        peer.try_send(&api_versions(0, 9)).is_ok() && matches!(peer.receive(), Ok(Some(_)))
    });
    node.stop();
}

#[test]
fn max_connections_per_ip_counts_each_address_and_has_exceptions() {
    let node = small(&[
        ("max.connections.per.ip", "2"),
        ("max.connections.per.ip.overrides", "127.0.0.3:4"),
    ]);
    for (address, limit) in [
        ([127, 0, 0, 2], 2),
        ([127, 0, 0, 3], 4),
        ([127, 0, 0, 4], 2),
    ] {
        let mut open: Vec<Peer> = (0..limit).map(|_| node.connect_from(address)).collect();
        for peer in &mut open {
            peer.ping(1);
        }
        assert_eq!(node.connect_from(address).read_to_close(), 0, "{address:?}");
    }
    assert_eq!(node.closed("too_many_from_address"), 3);
    node.stop();
}

#[test]
fn a_listener_has_limits_of_its_own_that_change_while_it_runs() {
    let node = small(&[
        ("listener.name.plaintext.max.connections", "2"),
        (
            "listener.name.plaintext.max.connection.creation.rate",
            "1000",
        ),
    ]);
    let mut open: Vec<Peer> = (0..2).map(|_| node.connect()).collect();
    for peer in &mut open {
        peer.ping(1);
    }
    assert_eq!(node.connect().read_to_close(), 0);
    assert_eq!(node.closed("too_many_connections"), 1);
    let limit = "listener.name.plaintext.max.connections";
    open[0].send(&alter_broker("1", limit, "3"));
    assert!(open[0].receive().unwrap().is_some());
    node.connect().ping(1);
    node.stop();
}

#[test]
fn a_connection_beyond_the_creation_rate_waits_for_its_turn() {
    // A rate of one: the second waits for a second, unless the limit is raised meanwhile.
    let node = small(&[("max.connection.creation.rate", "1")]);
    let mut first = node.connect();
    first.ping(1);
    let mut second = node.connect();
    second.try_send(&api_versions(0, 2)).unwrap();
    first.ping(3);
    first.send(&alter_broker("", "max.connection.creation.rate", "1000000"));
    assert!(first.receive().unwrap().is_some());
    assert_eq!(second.receive_id(), Some(2));
    for id in 0..50 {
        node.connect().ping(id);
    }
    node.stop();
}

/// IncrementalAlterConfigs of a broker: sets one config.
fn alter_broker(name: &str, config: &str, value: &str) -> Vec<u8> {
    use kafka_protocol::messages::incremental_alter_configs_request as wire;
    let config = wire::AlterableConfig::default()
        .with_name(text(config))
        .with_value(Some(text(value)));
    let resource = wire::AlterConfigsResource::default()
        .with_resource_type(4)
        .with_resource_name(text(name))
        .with_configs(vec![config]);
    let body = kafka_protocol::messages::IncrementalAlterConfigsRequest::default()
        .with_resources(vec![resource]);
    request(1, 7, &body)
}

#[test]
fn a_connection_that_is_idle_is_closed_and_one_that_is_not_stays() {
    let node = small(&[("connections.max.idle.ms", "1000")]);
    let mut idle = node.connect();
    idle.ping(1);
    // Half a request is no request, but it is idle all the same.
    let mut half = node.connect();
    half.stream
        .write_all(&with_length(1_000, &[0; 10]))
        .unwrap();
    let mut busy = node.connect();
    let started = Instant::now();
    idle.stream.set_nonblocking(true).unwrap();
    let mut byte = [0];
    let mut id = 0;
    loop {
        busy.ping(id);
        id += 1;
        match std::io::Read::read(&mut idle.stream, &mut byte) {
            Ok(0) => break,
            Ok(_) => panic!("an answer to nothing"),
            Err(_) => assert!(started.elapsed() < hostile::PATIENCE, "still open"),
        }
    }
    assert!(started.elapsed() >= Duration::from_millis(900));
    assert_eq!(half.read_to_close(), 0);
    busy.ping(id);
    node.await_that("both are counted", |node| node.closed("idle") >= 2);
    node.stop();
}

#[test]
fn max_request_partition_size_limit_bounds_what_describe_topic_partitions_tells() {
    let node = small(&[("max.request.partition.size.limit", "5")]);
    node.create_topic("a", 3);
    node.create_topic("b", 9);
    let mut peer = node.connect();
    let mut cursor = None;
    let mut pages = Vec::new();
    loop {
        let names = ["a", "b"].map(|name| {
            describe_topic_partitions_request::TopicRequest::default().with_name(topic(name))
        });
        let body = DescribeTopicPartitionsRequest::default()
            .with_topics(names.to_vec())
            .with_response_partition_limit(1_000)
            .with_cursor(cursor.take());
        peer.send(&request(0, 1, &body));
        let frame = peer.receive().unwrap().expect("an answer");
        let page: DescribeTopicPartitionsResponse = answer(frame, 1, 0);
        pages.push(
            page.topics
                .iter()
                .map(|t| t.partitions.len())
                .sum::<usize>(),
        );
        let Some(next) = page.next_cursor else { break };
        cursor = Some(
            describe_topic_partitions_request::Cursor::default()
                .with_topic_name(next.topic_name)
                .with_partition_index(next.partition_index),
        );
    }
    assert_eq!(pages, [5, 5, 2]);
    node.stop();
}

/// Some 100 KB of answer for a few bytes: every setting of the broker with its documentation.
fn describe_broker(id: i32, times: usize) -> Vec<u8> {
    let resource = describe_configs_request::DescribeConfigsResource::default()
        .with_resource_type(4)
        .with_resource_name(text("1"))
        .with_configuration_keys(None);
    let body = DescribeConfigsRequest::default()
        .with_resources(vec![resource; times])
        .with_include_synonyms(true)
        .with_include_documentation(true);
    request(4, id, &body)
}

#[test]
fn a_resource_named_a_hundred_thousand_times_is_described_once() {
    let node = small(&[]);
    let mut peer = node.connect();
    peer.send(&describe_broker(1, 1));
    let once = peer.receive().unwrap().expect("an answer").len();
    peer.send(&describe_broker(2, 100_000));
    assert_eq!(peer.receive().unwrap().expect("an answer").len(), once);
    node.stop();
}

#[test]
fn a_reader_that_stops_costs_bounded_memory_and_no_other_connection_its_time() {
    let node = small(&[]);
    let mut other = node.connect();
    let mut quiet: Vec<Duration> = (0..200).map(|id| other.ping(id)).collect();
    quiet.sort();
    let before = node.rss();
    node.reset_peak_rss();
    let mut stopped = Vec::new();
    for _ in 0..10 {
        let mut peer = node.connect();
        peer.stream.set_nonblocking(true).unwrap();
        // 1,000 answers of 100 KB, of which none is read.
        let mut bytes = Vec::new();
        for id in 0..1_000 {
            bytes.extend_from_slice(&hostile::prefixed(&describe_broker(id, 1)));
        }
        let _ = peer.stream.write(&bytes);
        stopped.push(peer);
    }
    let mut beside: Vec<Duration> = (0..200).map(|id| other.ping(id)).collect();
    beside.sort();
    let growth = node.peak_rss().saturating_sub(before);
    // Each holds 1 MiB of finished answers, the one that is sent, and the one that was under way.
    assert!(growth < 48 << 20, "{} MiB", growth >> 20);
    println!("ping p50 {:?} alone, {:?} beside", quiet[100], beside[100]);
    assert!(
        beside[100] < quiet[100] * 20 + Duration::from_millis(5),
        "ping {:?} alone, {:?} beside ten that do not read",
        quiet[100],
        beside[100]
    );
    drop(stopped);
    node.stop();
}

#[test]
fn a_thousand_requests_in_flight_are_all_answered_in_bounded_memory() {
    let node = small(&[]);
    node.create_topic("t", 1);
    let before = node.rss();
    node.reset_peak_rss();
    let mut peer = node.connect();
    // Each waits for 50 ms or its turn: there is nothing to read.
    let mut bytes = Vec::new();
    for id in 0..1_000 {
        let limits = FetchLimits {
            max_wait_ms: 50,
            min_bytes: 1,
            max_bytes: 1 << 20,
        };
        bytes.extend_from_slice(&hostile::prefixed(&fetch(11, "t", 0, limits, id)));
    }
    let mut writer = peer.stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
    for id in 0..1_000 {
        assert_eq!(peer.receive_id(), Some(id));
    }
    writing.join().unwrap();
    let growth = node.peak_rss().saturating_sub(before);
    assert!(growth < 16 << 20, "{} MiB", growth >> 20);
    node.stop();
}

#[test]
fn a_client_that_goes_leaves_no_fetch_waiting() {
    let node = Node::start(&[("ringspun.shards", "2")]);
    node.create_topic("t", 4);
    for partition in 0..4 {
        let mut peer = node.connect();
        let limits = FetchLimits {
            max_wait_ms: i32::MAX,
            min_bytes: i32::MAX,
            max_bytes: i32::MAX,
        };
        peer.send(&fetch(11, "t", partition, limits, 1));
        // Begun for sure: behind it the connection reads on.
        peer.abandon();
    }
    node.await_that("no connection", |node| node.open_connections() == 0);
    node.stop();
}

/// 500 connections send 1 MiB each, all at once; every one is answered without an error. The most that
/// was resident.
fn five_hundred_send_a_mebibyte(memory_bytes: &str) -> u64 {
    let node = Node::start(&[
        ("ringspun.shards", "2"),
        ("ringspun.memory.bytes", memory_bytes),
        ("socket.request.max.bytes", "2097152"),
        ("message.max.bytes", "2097152"),
    ]);
    node.create_topic("t", 8);
    println!("{} MiB before", node.rss() >> 20);
    let batch = batch(1, MIB - 1_000);
    let senders: Vec<_> = (0..500)
        .map(|id| {
            let mut peer = node.connect();
            let frame = produce("t", id % 8, 1, batch.clone(), id);
            std::thread::Builder::new()
                .stack_size(128 * 1024)
                .spawn(move || {
                    peer.send(&frame);
                    let frame = peer.receive().unwrap().expect("an answer");
                    let response: ProduceResponse = answer(frame, 1, 9);
                    response.responses[0].partition_responses[0].error_code
                })
                .unwrap()
        })
        .collect();
    for sender in senders {
        assert_eq!(sender.join().unwrap(), 0);
    }
    let peak = node.peak_rss();
    node.await_that("no memory is held", |node| {
        node.metric("ringspun_budget_used_bytes") < 1e6
    });
    // Together they are more than there is.
    // Where all of it nearly fits, whether anybody waits depends on who is faster.
    if memory_bytes == "52428800" {
        // It is looked at twice a second, and all of this may take less.
        node.await_that("somebody has waited", |node| {
            node.metric("ringspun_budget_waits_total") > 0.0
        });
    }
    node.stop();
    peak
}

/// The program the project is judged by keeps to its budget; one built for debugging has larger code and
/// stacks.
fn is_release() -> bool {
    std::env::var_os("RINGSPUN_TEST_BINARY").is_some() || !cfg!(debug_assertions)
}

#[test]
fn requests_that_stand_still_are_given_up_when_others_need_their_memory() {
    // Some 4 MiB for requests, and as much of them half sent as can be.
    let node = Node::start(&[
        ("ringspun.shards", "1"),
        ("ringspun.memory.bytes", "36700160"),
        ("socket.request.max.bytes", "2097152"),
        ("message.max.bytes", "2097152"),
        ("ringspun.request.stall.timeout.ms", "100"),
    ]);
    node.create_topic("t", 1);
    let mut standing: Vec<Peer> = (0..8)
        .map(|_| {
            let mut peer = node.connect();
            // As far as the node takes it: one that waits for memory reads no more.
            peer.stream.set_nonblocking(true).unwrap();
            let _ = peer.stream.write(&with_length(2_097_152, &[0; MIB]));
            peer
        })
        .collect();
    let mut honest = node.connect();
    for id in 0..10 {
        honest.send(&produce("t", 0, 1, batch(1, MIB), id));
        let frame = honest.receive().unwrap().expect("an answer");
        let response: ProduceResponse = answer(frame, 1, 9);
        assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
    }
    node.await_that("some were given up", |node| node.closed("stalled") > 0);
    let given_up = node.closed("stalled");
    // Nobody waits any more: whoever is left may stand still.
    honest.ping(99);
    assert!(given_up <= 8, "{given_up}");
    for peer in &mut standing {
        peer.end();
    }
    node.stop();
}

#[test]
fn what_had_to_come_from_the_disk_is_counted() {
    let node = small(&[]);
    node.create_topic("t", 1);
    let mut peer = node.connect();
    for id in 0..20 {
        peer.send(&produce("t", 0, 1, batch(1, 100_000), id));
        assert_eq!(peer.receive_id(), Some(id));
    }
    let segment = node.broker.log_dir().join("t-0/00000000000000000000.log");
    let file = std::fs::File::open(segment).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let limits = FetchLimits {
        max_wait_ms: 0,
        min_bytes: 1,
        max_bytes: 1 << 20,
    };
    peer.send(&fetch(11, "t", 0, limits, 30));
    assert_eq!(peer.receive_id(), Some(30));
    node.await_that("bytes came from the disk", |node| {
        node.metric("ringspun_fetched_cold_bytes_total") > 0.0
    });
    node.stop();
}

#[test]
fn five_hundred_connections_that_send_a_mebibyte_stay_within_the_budget() {
    let peak = five_hundred_send_a_mebibyte("268435456");
    println!("peak {} MiB of 256 MiB", peak >> 20);
    assert!(peak <= 256 << 20, "{} MiB", peak >> 20);
}

#[test]
fn five_hundred_connections_finish_with_a_budget_of_a_tenth_of_what_they_send() {
    let peak = five_hundred_send_a_mebibyte("52428800");
    println!("peak {} MiB of 50 MiB", peak >> 20);
    assert!(!is_release() || peak <= 50 << 20, "{} MiB", peak >> 20);
}

#[test]
fn ten_thousand_connections_that_declared_100_mib_stay_within_the_budget() {
    // Both ends are on this machine: half of what may be open, less what the rest needs.
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls only read and write the struct.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    let count = (limit.rlim_max.saturating_sub(500) as usize).min(10_000);
    println!("{count} connections");
    let memory = 256usize << 20;
    let node = Node::start(&[
        ("ringspun.shards", "1"),
        ("ringspun.memory.bytes", &memory.to_string()),
        ("socket.request.max.bytes", "104857600"),
    ]);
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        let mut peer = node.connect();
        peer.stream
            .write_all(&with_length(104_857_600, &api_versions(0, 1)))
            .unwrap();
        open.push(peer);
    }
    // What was sent has been read when this one, which came last, is answered.
    node.await_that("all are open", |node| {
        node.open_connections() == count as u64
    });
    let mut last = node.connect();
    for id in 0..100 {
        last.ping(id);
    }
    let peak = node.peak_rss();
    println!("peak {} MiB of {} MiB", peak >> 20, memory >> 20);
    assert!(peak <= memory as u64, "{} MiB", peak >> 20);
    drop(open);
    node.await_that("all are gone", |node| node.open_connections() <= 1);
    node.stop();
}

#[test]
fn what_a_request_takes_decoded_is_held_against_the_budget() {
    // 300,000 topics of 6 bytes: some 30 times as much when decoded, from each of 40 connections.
    let node = Node::start(&[
        ("ringspun.shards", "1"),
        ("ringspun.memory.bytes", "100663296"),
        ("socket.request.max.bytes", "2097152"),
    ]);
    let topics: Vec<_> = (0..300_000)
        .map(|_| {
            kafka_protocol::messages::produce_request::TopicProduceData::default()
                .with_name(topic("t"))
        })
        .collect();
    let body = kafka_protocol::messages::ProduceRequest::default()
        .with_acks(1)
        .with_topic_data(topics);
    let frame = Bytes::from(hostile::prefixed(&request(9, 1, &body)));
    let peers: Vec<_> = (0..40)
        .map(|_| {
            let mut peer = node.connect();
            let frame = frame.clone();
            std::thread::spawn(move || {
                peer.stream.write_all(&frame).unwrap();
                // Answered, or closed for want of memory; not more.
                let _ = peer.receive();
            })
        })
        .collect();
    for peer in peers {
        peer.join().unwrap();
    }
    let peak = node.peak_rss();
    println!("peak {} MiB", peak >> 20);
    assert!(peak <= 192 << 20, "{} MiB", peak >> 20);
    node.connect().ping(1);
    node.stop();
}

/// Whether ten pings on one connection, one after the other, are all answered before a long request on
/// another, whose last byte is sent before the first of them.
fn pings_pass(node: &Node, frame: &[u8]) -> bool {
    let bytes = hostile::prefixed(frame);
    let (last, before) = bytes.split_last().expect("a request");
    let mut long = node.connect();
    long.stream.write_all(before).unwrap();
    let mut other = node.connect();
    // By then the node has received what was sent so far.
    for id in 0..50 {
        other.ping(id);
    }
    long.stream.write_all(&[*last]).unwrap();
    for id in 0..10 {
        other.ping(id);
    }
    long.stream.set_nonblocking(true).unwrap();
    let passed = long.stream.peek(&mut [0]).is_err();
    long.stream.set_nonblocking(false).unwrap();
    assert!(
        long.receive().unwrap().is_some(),
        "the long request has an answer"
    );
    passed
}

#[test]
fn a_request_of_many_elements_does_not_hold_up_its_neighbours_on_the_shard() {
    use kafka_protocol::messages::{self as wire, *};
    const MANY: usize = 200_000;
    let node = Node::start(&[
        ("ringspun.shards", "1"),
        ("ringspun.memory.bytes", "805306368"),
        ("socket.request.max.bytes", "33554432"),
    ]);
    node.create_topic("t", 1);
    let metadata = MetadataRequest::default().with_topics(Some(
        (0..MANY)
            .map(|_| {
                wire::metadata_request::MetadataRequestTopic::default().with_name(Some(topic("u")))
            })
            .collect(),
    ));
    let partitions = (0..MANY as i32).map(|partition| {
        wire::list_offsets_request::ListOffsetsPartition::default().with_partition_index(partition)
    });
    let offsets = ListOffsetsRequest::default().with_topics(vec![
        wire::list_offsets_request::ListOffsetsTopic::default()
            .with_name(topic("t"))
            .with_partitions(partitions.collect()),
    ]);
    let partitions = (0..MANY as i32).map(|partition| {
        wire::fetch_request::FetchPartition::default()
            .with_partition(partition)
            .with_partition_max_bytes(1)
    });
    let fetch = FetchRequest::default().with_topics(vec![
        wire::fetch_request::FetchTopic::default()
            .with_topic(topic("t"))
            .with_partitions(partitions.collect()),
    ]);
    let partitions = (0..MANY as i32).map(|partition| {
        wire::produce_request::PartitionProduceData::default().with_index(partition)
    });
    let produce = ProduceRequest::default().with_acks(1).with_topic_data(vec![
        wire::produce_request::TopicProduceData::default()
            .with_name(topic("t"))
            .with_partition_data(partitions.collect()),
    ]);
    let resources = (0..MANY).map(|id| {
        describe_configs_request::DescribeConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text(&format!("{id:x}")))
    });
    let configs = DescribeConfigsRequest::default().with_resources(resources.collect());
    for (name, frame) in [
        ("Metadata", request(9, 1, &metadata)),
        ("ListOffsets", request(7, 1, &offsets)),
        ("Fetch", request(11, 1, &fetch)),
        ("Produce", request(9, 1, &produce)),
        ("DescribeConfigs", request(4, 1, &configs)),
    ] {
        // This process may be the one that does not come to its turn.
        let passed = (0..10).any(|_| pings_pass(&node, &frame));
        assert!(passed, "{name}: ten pings in a row waited for it");
    }
    node.stop();
}
