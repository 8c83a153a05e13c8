//! The same while every log moves from disk to disk, all the time (KIP-113): each partition is served from one
//! directory, and nothing is kept aside for want of knowing which of two is whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::broker::Broker;
use super::hostile::{Peer, log_dirs};

/// One of so many ends is in order, and not by `kill -9`.
const STOP_EVERY: u32 = 5;
/// After so many starts the moves are let come to their end, so that what lies where can be told.
const LOOK_EVERY: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(60);

/// The data directories of a broker, and what moves between them.
pub struct Moves {
    dirs: Vec<PathBuf>,
    joined: String,
    /// Topics, each with its number of partitions.
    topics: Vec<(&'static str, i32)>,
    paused: AtomicBool,
    asked: AtomicU64,
    problem: Mutex<Option<String>>,
}

impl Moves {
    pub fn new(folder: &Path, topics: &[(&'static str, i32)]) -> Moves {
        let dirs = log_dirs::dirs(folder, ["data", "second", "third"]);
        Moves {
            joined: log_dirs::join(&dirs),
            dirs: dirs.into(),
            topics: topics.to_vec(),
            paused: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            problem: Mutex::new(None),
        }
    }

    /// Of the broker.
    pub fn settings(&self) -> [(&str, &str); 3] {
        [
            ("log.dirs", &self.joined),
            ("ringspun.shards", "2"),
            ("log.segment.delete.delay.ms", "0"),
        ]
    }

    /// Whether the broker is to be ended in order this time.
    pub fn is_stop(round: u32) -> bool {
        round % STOP_EVERY == STOP_EVERY - 1
    }

    /// Asks for one move after the other until told to stop, whatever the broker does meanwhile.
    pub fn keep_moving(&self, bootstrap: &str, stop: &AtomicBool, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut peer = None;
        while !stop.load(Ordering::SeqCst) {
            // Often another one is asked for before the last has ended, and of the same log, too.
            std::thread::sleep(Duration::from_millis(random.u64(0..60)));
            if self.paused.load(Ordering::SeqCst) {
                continue;
            }
            let (topic, partitions) = self.topics[random.usize(..self.topics.len())];
            let partition = random.i32(0..partitions);
            let to = &self.dirs[random.usize(..self.dirs.len())];
            let connected = peer.take().or_else(|| Peer::to(bootstrap).ok());
            let Some(mut connected) = connected else {
                continue;
            };
            match log_dirs::try_alter(&mut connected, topic, partition, to) {
                Ok(0) => {
                    self.asked.fetch_add(1, Ordering::SeqCst);
                }
                Ok(code) => {
                    let problem = format!("{topic}-{partition} to {}: {code}", to.display());
                    self.problem.lock().expect("no panic").replace(problem);
                }
                Err(_) => continue,
            }
            peer = Some(connected);
        }
    }

    /// What is to hold after the start that ended `round`, while the broker runs.
    pub fn check(&self, broker: &Broker, round: u32) -> Result<(), String> {
        if let Some(problem) = self.problem.lock().expect("no panic").take() {
            return Err(problem);
        }
        match round % LOOK_EVERY {
            0 => self.check_places(broker),
            _ => Ok(()),
        }
    }

    /// Each partition lies in one directory, once all have come where they were to go.
    pub fn check_places(&self, broker: &Broker) -> Result<(), String> {
        self.paused.store(true, Ordering::SeqCst);
        let checked = self.await_places(broker);
        self.paused.store(false, Ordering::SeqCst);
        checked
    }

    fn await_places(&self, broker: &Broker) -> Result<(), String> {
        let say = |error: std::io::Error| error.to_string();
        let mut peer = Peer::to(&broker.bootstrap()).map_err(say)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let described = log_dirs::try_describe(&mut peer).map_err(say)?;
            let mut served: BTreeMap<String, PathBuf> = BTreeMap::new();
            let mut is_moving = false;
            for dir in &described.results {
                for topic in &dir.topics {
                    for partition in &topic.partitions {
                        is_moving |= partition.is_future_key;
                        let folder = format!("{}-{}", topic.name.0, partition.partition_index);
                        let place = PathBuf::from(&*dir.log_dir);
                        if !partition.is_future_key
                            && let Some(other) = served.insert(folder.clone(), place)
                        {
                            return Err(format!("{folder} is served from {other:?} as well"));
                        }
                    }
                }
            }
            // The folders of the last move are renamed a moment after.
            let wrong = self.misplaced(&served);
            match (is_moving, wrong) {
                (false, None) => return Ok(()),
                (_, wrong) if Instant::now() > deadline => {
                    return Err(format!("still moving: {is_moving}; {wrong:?}"));
                }
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// A partition that does not lie where it is served from, and there only.
    fn misplaced(&self, served: &BTreeMap<String, PathBuf>) -> Option<String> {
        let partitions = self.topics.iter().flat_map(|&(topic, partitions)| {
            (0..partitions).map(move |partition| format!("{topic}-{partition}"))
        });
        for folder in partitions {
            let here = self.dirs.iter().filter(|dir| dir.join(&folder).is_dir());
            let here: Vec<_> = here.collect();
            let from = served.get(&folder);
            if here.len() != 1 || Some(here[0]) != from {
                return Some(format!(
                    "{folder} lies in {here:?} and is served from {from:?}"
                ));
            }
        }
        None
    }

    /// That logs moved at all, and nothing was said that must not be; how many moved.
    pub fn check_words(&self, folder: &Path, rounds: u32) -> Result<usize, String> {
        let words = std::fs::read_to_string(folder.join("stderr")).unwrap_or_default();
        let wrong = [
            "could not be moved",
            "lies in another directory",
            "is left behind",
            "log is offline",
            "panicked",
        ];
        if let Some(line) = words
            .lines()
            .find(|line| wrong.iter().any(|word| line.contains(word)))
        {
            return Err(line.to_owned());
        }
        for dir in &self.dirs {
            if let Some(name) = log_dirs::names(dir).iter().find(|n| n.ends_with("-stray")) {
                return Err(format!("{name} is kept aside"));
            }
        }
        let moved = words.matches("the log moved to").count();
        match moved < rounds as usize {
            true => Err(format!(
                "{moved} of {} moves came to their end",
                self.asked.load(Ordering::SeqCst)
            )),
            false => Ok(moved),
        }
    }

    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }
}
