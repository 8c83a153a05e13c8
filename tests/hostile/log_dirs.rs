//! Where the logs of a node lie, and how they are told to move (KIP-113).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kafka_protocol::messages::alter_replica_log_dirs_request::{
    AlterReplicaLogDir, AlterReplicaLogDirTopic,
};
use kafka_protocol::messages::{
    AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse, DescribeLogDirsRequest,
    DescribeLogDirsResponse,
};

use super::{PATIENCE, Peer, answer, request, text, topic};

/// Directories of these names below `at`, which exist, as the broker names them.
pub fn dirs<const N: usize>(at: &Path, names: [&str; N]) -> [PathBuf; N] {
    names.map(|name| {
        let dir = at.join(name);
        fs::create_dir_all(&dir).unwrap();
        dir.canonicalize().unwrap()
    })
}

/// As `log.dirs` has them.
pub fn join(dirs: &[PathBuf]) -> String {
    let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    dirs.join(",")
}

/// What lies in a directory.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// A node that is killed answers no more.
fn received(peer: &mut Peer) -> io::Result<Vec<u8>> {
    peer.receive()?
        .ok_or_else(|| io::ErrorKind::ConnectionReset.into())
}

/// Asks for a move; the code of the answer.
pub fn try_alter(peer: &mut Peer, name: &str, partition: i32, to: &Path) -> io::Result<i16> {
    let moved = AlterReplicaLogDirTopic::default()
        .with_name(topic(name))
        .with_partitions(vec![partition]);
    let dir = AlterReplicaLogDir::default()
        .with_path(text(&to.display().to_string()))
        .with_topics(vec![moved]);
    let body = AlterReplicaLogDirsRequest::default().with_dirs(vec![dir]);
    peer.try_send(&request(2, 5, &body))?;
    let response: AlterReplicaLogDirsResponse = answer(received(peer)?, 1, 2);
    Ok(response.results[0].partitions[0].error_code)
}

pub fn alter(peer: &mut Peer, name: &str, partition: i32, to: &Path) -> i16 {
    try_alter(peer, name, partition, to).expect("an answer")
}

pub fn try_describe(peer: &mut Peer) -> io::Result<DescribeLogDirsResponse> {
    let all = DescribeLogDirsRequest::default().with_topics(None);
    peer.try_send(&request(4, 3, &all))?;
    Ok(answer(received(peer)?, 1, 4))
}

pub fn describe(peer: &mut Peer) -> DescribeLogDirsResponse {
    try_describe(peer).expect("an answer")
}

/// In which directories a partition lies, and whether as one on its way.
pub fn places(peer: &mut Peer, name: &str, partition: i32) -> Vec<(PathBuf, bool)> {
    let mut places = Vec::new();
    for dir in describe(peer).results {
        let topics = dir.topics.iter().filter(|topic| topic.name.0 == *name);
        let partitions = topics.flat_map(|topic| &topic.partitions);
        for found in partitions.filter(|found| found.partition_index == partition) {
            places.push((PathBuf::from(&*dir.log_dir), found.is_future_key));
        }
    }
    places
}

pub fn await_place(peer: &mut Peer, name: &str, partition: i32, dir: &Path) {
    let patience = Instant::now() + PATIENCE;
    while places(peer, name, partition) != [(dir.to_path_buf(), false)] {
        assert!(
            Instant::now() < patience,
            "{name}-{partition} never comes to {dir:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
