//! A node that may open few files serves more partitions than that. The limit is this process's own, which
//! the node inherits, so there is one test here.

mod broker;
mod hostile;

use std::fs;

use rustix::process::{Resource, Rlimit, setrlimit};

use hostile::{Node, Peer, batch, produce};
use kafka_protocol::messages::ProduceResponse;

const FILES: u64 = 600;
const PARTITIONS: i32 = 1000;

fn send(peer: &mut Peer, partition: i32) -> i16 {
    peer.send(&produce("many", partition, 1, batch(1, 100), 1));
    let frame = peer.receive().unwrap().expect("an answer");
    let answered: ProduceResponse = hostile::answer(frame, 1, 9);
    answered.responses[0].partition_responses[0].error_code
}

fn open_files(node: &Node) -> usize {
    let path = format!("/proc/{}/fd", node.broker.pid());
    fs::read_dir(path).unwrap().count()
}

#[test]
fn more_partitions_are_written_to_than_files_may_be_open() {
    let few = Rlimit {
        current: Some(FILES),
        maximum: Some(FILES),
    };
    setrlimit(Resource::Nofile, few).unwrap();
    let mut node = Node::start(&[
        ("ringspun.cores", "1"),
        ("ringspun.memory.bytes", "300000000"),
        ("log.flush.offset.checkpoint.interval.ms", "1000"),
    ]);
    node.create_topic("many", PARTITIONS);
    let idle = open_files(&node);
    assert!(idle < 100, "{idle}");
    let mut peer = node.connect();
    let mut most = 0;
    for round in 0..2 {
        for partition in 0..PARTITIONS {
            assert_eq!(send(&mut peer, partition), 0, "{round}: {partition}");
            if partition % 50 == 0 {
                most = most.max(open_files(&node));
            }
        }
    }
    // Half are for logs, and those are made use of; a flush may open a few more for a moment.
    let half = FILES as usize / 2;
    assert!(
        most <= idle + half + 50 && most > half / 2,
        "{most} of {FILES}"
    );
    assert!(!node.log().contains("is offline"), "{}", node.log());
    drop(peer);
    node.broker.kill();
    node.broker.start_again().unwrap();
    assert!(open_files(&node) < 100);
    let mut peer = node.connect();
    for partition in 0..PARTITIONS {
        assert_eq!(send(&mut peer, partition), 0);
    }
    assert!(!node.log().contains("is offline"), "{}", node.log());
    node.stop();
}
