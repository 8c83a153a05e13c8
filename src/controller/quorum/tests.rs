//! The quorum on real files: it keeps what it committed, whatever happens to the process.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::{CreateTopicsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::*;
use crate::base::ProducerId;
use crate::controller::{AnySetting, BrokerStart, ControllerSettings};

const NODE: BrokerId = BrokerId(7);

fn on_control_thread<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

async fn start(path: &Path) -> ControllerService {
    let quorum = Quorum::open(path, NODE).await.unwrap();
    let service =
        ControllerService::new(quorum, ControllerSettings::default(), Arc::new(AnySetting));
    let broker = BrokerStart {
        broker_id: NODE,
        cluster_id: "cluster".to_owned(),
        listeners: BTreeMap::new(),
        rack: None,
        directories: Vec::new(),
        cluster_defaults: Vec::new(),
    };
    service.register_broker(&broker).await.unwrap();
    service
}

fn request(names: impl Iterator<Item = String>, partitions: i32) -> CreateTopicsRequest {
    let topics = names.map(|name| {
        CreatableTopic::default()
            .with_name(TopicName(StrBytes::from_string(name)))
            .with_num_partitions(partitions)
            .with_replication_factor(1)
    });
    CreateTopicsRequest::default().with_topics(topics.collect())
}

async fn create(service: &ControllerService, name: &str) -> Vec<Update> {
    let done = service
        .create_topics(&request([name.to_owned()].into_iter(), 2))
        .await
        .unwrap();
    assert_eq!(done.response.topics[0].error_code, 0, "{:?}", done.response);
    done.updates
}

fn names(image: &Image) -> Vec<String> {
    image.topics().map(|t| t.name.to_string()).collect()
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ringspun-metadata.redb");
    let before = on_control_thread(async {
        let service = start(&path).await;
        let updates = create(&service, "a").await;
        assert_eq!(updates.len(), 1);
        assert_eq!(updates[0].delta.topics_created.len(), 1);
        assert_eq!(updates[0].image.topic_count(), 1);
        create(&service, "b").await;
        let block = service
            .allocate_producer_ids()
            .await
            .unwrap()
            .into_response();
        assert_eq!((block.first, block.len), (ProducerId(0), 1000));
        service.close().await;
        (*service.image()).clone()
    });
    on_control_thread(async {
        let quorum = Quorum::open(&path, NODE).await.unwrap();
        assert_eq!(*quorum.image(), before);
        assert_eq!(quorum.image().controller_id(), Some(NODE));
        assert_eq!(quorum.image().next_producer_id(), ProducerId(1000));
        assert!(quorum.take_updates().is_empty());
        quorum.close().await;
    });
}

#[test]
fn the_epoch_of_a_broker_grows_with_every_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.redb");
    let epochs: Vec<i64> = (0..4)
        .map(|_| {
            on_control_thread(async {
                let service = start(&path).await;
                service.close().await;
                service.image().broker(NODE).unwrap().broker_epoch
            })
        })
        .collect();
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
}

#[test]
fn a_file_in_use_of_another_node_or_not_ours_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.redb");
    on_control_thread(async {
        let quorum = Quorum::open(&path, NODE).await.unwrap();
        let second = Quorum::open(&path, NODE).await;
        assert!(matches!(second, Err(QuorumError::Locked { .. })));
        quorum.close().await;
        // Closing gives the lock up, although raft's tasks may still be about.
        let other = Quorum::open(&path, BrokerId(8)).await.err().unwrap();
        assert!(matches!(other, QuorumError::OtherNode { .. }), "{other}");

        let garbage = dir.path().join("garbage.redb");
        std::fs::write(&garbage, vec![7u8; 10_000]).unwrap();
        let error = Quorum::open(&garbage, NODE).await.err().unwrap();
        assert!(matches!(error, QuorumError::Corrupt { .. }), "{error}");

        // Cut short, as by a copy that broke off.
        let whole = std::fs::read(&path).unwrap();
        for len in [1, 100, 4096, whole.len() / 2] {
            let cut = dir.path().join("cut.redb");
            std::fs::write(&cut, &whole[..len]).unwrap();
            let error = Quorum::open(&cut, NODE).await.err().unwrap();
            assert!(
                !matches!(
                    error,
                    QuorumError::Locked { .. } | QuorumError::OtherNode { .. }
                ),
                "{len}: {error}"
            );
        }

        let nowhere = dir.path().join("no-such-folder/m.redb");
        let error = Quorum::open(&nowhere, NODE).await.err().unwrap();
        assert!(matches!(error, QuorumError::Io { .. }), "{error}");
    });
}

#[test]
fn an_empty_file_and_what_a_crash_left_of_making_one_are_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.redb");
    std::fs::write(&path, b"").unwrap();
    std::fs::write(dir.path().join("m.redb.new"), b"half").unwrap();
    on_control_thread(async {
        let service = start(&path).await;
        create(&service, "a").await;
        service.close().await;
    });
    assert!(!dir.path().join("m.redb.new").exists());
}

#[test]
fn a_caller_that_gives_up_leaves_its_update_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.redb");
    on_control_thread(async {
        let service = start(&path).await;
        let request = request(["a".to_owned()].into_iter(), 1);
        let mut dropped = Box::pin(service.create_topics(&request));
        // Polled until the entry is on its way, then dropped.
        let polled = futures_lite::future::poll_once(&mut dropped).await;
        assert!(polled.is_none());
        drop(dropped);
        while service.image().topic_count() == 0 {
            tokio::task::yield_now().await;
        }
        let updates = create(&service, "b").await;
        assert_eq!(updates.len(), 2);
        assert!(updates[0].image.version() < updates[1].image.version());
        assert_eq!(&*updates[0].delta.topics_created[0].name, "a");
        service.close().await;
    });
}

#[test]
fn records_that_contradict_the_image_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    on_control_thread(async {
        let service = start(&dir.path().join("m.redb")).await;
        let before = service.image();
        let wrong = MetadataRecord::RemoveTopic {
            topic_id: crate::base::TopicId(99),
        };
        let error = service.propose(vec![wrong]).await.unwrap_err();
        assert!(matches!(error, QuorumError::Refused(_)), "{error}");
        assert_eq!(*service.image(), *before);
        create(&service, "still-works").await;
        service.close().await;
    });
}

#[test]
fn the_file_stays_bounded_while_topics_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.redb");
    on_control_thread(async {
        let service = start(&path).await;
        // Each round writes some 60 KB of log; the image at the end is next to nothing.
        for round in 0..60 {
            let names = (0..200).map(|n| format!("topic-{round}-{n}"));
            let request = request(names, 1);
            let created = service
                .create_topics(&request)
                .await
                .unwrap()
                .into_response();
            let mut records: Vec<MetadataRecord> = Vec::new();
            for topic in created.topics {
                records.push(MetadataRecord::RemoveTopic {
                    topic_id: crate::base::TopicId(topic.topic_id.as_u128()),
                });
            }
            service.propose(records).await.unwrap();
            let log = service.quorum().log.bytes();
            assert!(
                log < 4 * LEAST_LOG_BYTES_TO_SNAPSHOT,
                "{log} bytes of log in round {round}"
            );
        }
        create(&service, "the-last").await;
        service.close().await;
    });
    let len = std::fs::metadata(&path).unwrap().len();
    assert!(len < 16 << 20, "{len} bytes");
    on_control_thread(async {
        let quorum = Quorum::open(&path, NODE).await.unwrap();
        assert_eq!(names(&quorum.image()), ["the-last"]);
        quorum.close().await;
    });
}

const CHILD: &str = "RINGSPUN_TEST_QUORUM_CHILD";

/// Not a test of its own: the process that the next test kills. Says each topic once it is committed.
#[test]
fn child_that_creates_topics_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    on_control_thread(async {
        let service = start(Path::new(&path)).await;
        for n in service.image().topic_count().. {
            create(&service, &format!("t-{n:06}")).await;
            println!("\ncommitted {n}");
        }
    });
}

#[test]
fn kill_9_at_any_moment_loses_nothing_that_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.redb");
    let mut committed = 0;
    for round in 0..6u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("controller::quorum::tests::child_that_creates_topics_until_it_is_killed")
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // The moment: after so many commits, in the midst of the next one.
        let mut left = 5 + round * 7;
        while left > 0 {
            let line = lines.next().expect("the child ended by itself").unwrap();
            if let Some(n) = line.strip_prefix("committed ") {
                committed = n.parse::<usize>().unwrap() + 1;
                left -= 1;
            }
        }
        child.kill().unwrap();
        for line in lines.map_while(Result::ok) {
            if let Some(n) = line.strip_prefix("committed ") {
                committed = n.parse::<usize>().unwrap() + 1;
            }
        }
        child.wait().unwrap();
        on_control_thread(async {
            let quorum = Quorum::open(&path, NODE).await.unwrap();
            let found = names(&quorum.image());
            // One more may have been committed without a word.
            assert!(
                found.len() == committed || found.len() == committed + 1,
                "{} topics, {committed} committed",
                found.len()
            );
            assert!(
                found
                    .iter()
                    .enumerate()
                    .all(|(n, name)| *name == format!("t-{n:06}"))
            );
            quorum.close().await;
        });
    }
}

/// Figures, printed: `cargo test --release --lib quorum::tests::figures -- --ignored --nocapture`.
#[test]
#[ignore = "prints figures, checks nothing"]
fn figures() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let path = dir.path().join("m.redb");
    let ms = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
    let at = Instant::now();
    on_control_thread(async {
        let quorum = Quorum::open(&path, NODE).await.unwrap();
        println!("make the file and lead: {:.2} ms", ms(at));
        quorum.close().await;
    });
    for (topics, partitions) in [(0, 0), (1000, 1), (9000, 1), (100, 100)] {
        on_control_thread(async {
            let service = start(&path).await;
            for first in (0..topics).step_by(100) {
                let prefix = partitions;
                let names = (first..first + 100).map(|n| format!("topic-{topics}-{prefix}-{n}"));
                service
                    .create_topics(&request(names, partitions))
                    .await
                    .unwrap();
            }
            let mut commits: Vec<f64> = Vec::new();
            for _ in 0..200 {
                let at = Instant::now();
                service.allocate_producer_ids().await.unwrap();
                commits.push(ms(at));
            }
            commits.sort_by(f64::total_cmp);
            println!(
                "{} topics, {} partitions: commit p50 {:.2} p90 {:.2} max {:.2} ms",
                service.image().topic_count(),
                service.image().partition_count(),
                commits[100],
                commits[180],
                commits[199]
            );
            let at = Instant::now();
            service.close().await;
            println!("  close {:.2} ms", ms(at));
        });
        let mut opens: Vec<f64> = Vec::new();
        for _ in 0..9 {
            let at = Instant::now();
            on_control_thread(async {
                let quorum = Quorum::open(&path, NODE).await.unwrap();
                opens.push(ms(at));
                quorum.close().await;
            });
        }
        opens.sort_by(f64::total_cmp);
        println!(
            "  open median {:.2} max {:.2} ms, file {} KB",
            opens[4],
            opens[8],
            std::fs::metadata(&path).unwrap().len() >> 10
        );
    }
    let mut file = std::fs::File::create(dir.path().join("sync")).unwrap();
    let mut syncs: Vec<f64> = Vec::new();
    for _ in 0..200 {
        use std::io::Write;
        let at = Instant::now();
        file.write_all(&[1; 4096]).unwrap();
        file.sync_data().unwrap();
        syncs.push(ms(at));
    }
    syncs.sort_by(f64::total_cmp);
    println!(
        "one 4 KiB append and fdatasync: p50 {:.2} p90 {:.2} ms",
        syncs[100], syncs[180]
    );
}
