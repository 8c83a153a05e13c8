//! Kafka's verifiable producer and consumers: members join, leave, crash (kill -9) and pause for longer than
//! their session (by `RINGSPUN_PAUSE_SECONDS`: `tools/kill9` has them pause for three minutes), and every
//! record is read.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::broker::{die_with_parent, packages};
use crate::{ANSWER_TIMEOUT, World};

const TOPIC: &str = "verified";
const PARTITIONS: usize = 6;
const RECORDS: usize = 20_000;

/// The tools that run, and what they have said.
struct Tools {
    running: BTreeMap<&'static str, Child>,
    lines: Receiver<(&'static str, Value)>,
    said: Sender<(&'static str, Value)>,
    owned: BTreeMap<&'static str, BTreeSet<i64>>,
    /// Partitions that each has read from since it was given any.
    reads: BTreeMap<&'static str, BTreeSet<i64>>,
    /// Records, by partition and offset.
    sent: BTreeSet<(i64, i64)>,
    read: BTreeSet<(i64, i64)>,
    failed: Vec<String>,
}

impl Drop for Tools {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Tools {
    fn new() -> Tools {
        let (said, lines) = mpsc::channel();
        Tools {
            running: BTreeMap::new(),
            lines,
            said,
            owned: BTreeMap::new(),
            reads: BTreeMap::new(),
            sent: BTreeSet::new(),
            read: BTreeSet::new(),
            failed: Vec::new(),
        }
    }

    fn start(&mut self, name: &'static str, mut command: Command) {
        command.stdout(Stdio::piped());
        die_with_parent(&mut command);
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let said = self.said.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(value) = serde_json::from_str(&line)
                    && said.send((name, value)).is_err()
                {
                    break;
                }
            }
        });
        self.running.insert(name, child);
    }

    fn signal(&self, name: &str, signal: Signal) {
        let id = i32::try_from(self.running[name].id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    /// It is gone, in one way or the other.
    fn end(&mut self, name: &'static str, signal: Signal) {
        self.signal(name, signal);
        self.running.remove(name).unwrap().wait().unwrap();
        self.owned.remove(name);
    }

    fn take(&mut self, name: &'static str, event: &Value) {
        let number = |name: &str| event[name].as_i64().unwrap();
        match event["name"].as_str().unwrap_or_default() {
            "producer_send_success" => {
                self.sent.insert((number("partition"), number("offset")));
            }
            "producer_send_error" => self.failed.push(event.to_string()),
            "record_data" => {
                self.read.insert((number("partition"), number("offset")));
                let reads = self.reads.entry(name).or_default();
                reads.insert(number("partition"));
            }
            which @ ("partitions_assigned" | "partitions_revoked") => {
                // What one that has ended said before does not count.
                if !self.running.contains_key(name) {
                    return;
                }
                self.reads.remove(name);
                let owned = self.owned.entry(name).or_default();
                for partition in event["partitions"].as_array().unwrap() {
                    let partition = partition["partition"].as_i64().unwrap();
                    match which {
                        "partitions_assigned" => owned.insert(partition),
                        _ => owned.remove(&partition),
                    };
                }
            }
            _ => {}
        }
    }

    fn await_that(&mut self, what: &str, holds: impl Fn(&Tools) -> bool) {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while !holds(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok((name, event)) = self.lines.recv_timeout(left) else {
                let (owned, sent, read) = (&self.owned, self.sent.len(), self.read.len());
                panic!("not so: {what}; owned {owned:?}, sent {sent}, read {read}");
            };
            self.take(name, &event);
        }
    }

    fn all_is_read(&self) -> bool {
        self.sent.len() == RECORDS && self.read.is_superset(&self.sent)
    }

    /// It knows where to go on in each of its partitions.
    fn is_reading(&self, name: &str) -> bool {
        self.reads.get(name) == self.owned.get(name) || self.all_is_read()
    }

    /// These own all partitions, each some, and none is two's.
    fn share(&self, names: &[&str]) -> bool {
        let owned = |name: &&str| self.owned.get(*name).filter(|owned| !owned.is_empty());
        let owned: Vec<_> = names.iter().filter_map(owned).collect();
        let all: BTreeSet<_> = owned.iter().copied().flatten().collect();
        owned.len() == names.len()
            && owned.iter().map(|owned| owned.len()).sum::<usize>() == PARTITIONS
            && all.len() == PARTITIONS
    }
}

fn consumer(world: &World, protocol: &str) -> Command {
    let mut command = packages::java(&world.jars);
    command.arg("org.apache.kafka.tools.VerifiableConsumer");
    command.args(["--bootstrap-server", &world.broker.bootstrap()]);
    command.args(["--topic", TOPIC, "--group-id", "g", "--verbose"]);
    command.args(["--group-protocol", protocol, "--reset-policy", "earliest"]);
    if protocol == "classic" {
        command.args(["--session-timeout", "6000"]);
    }
    command
}

fn members_come_and_go(protocol: &str) {
    let Some(mut world) = World::start(&[
        ("group.initial.rebalance.delay.ms", "0"),
        ("group.consumer.min.session.timeout.ms", "6000"),
        ("group.consumer.session.timeout.ms", "6000"),
        ("group.consumer.min.heartbeat.interval.ms", "1000"),
        ("group.consumer.heartbeat.interval.ms", "1000"),
    ]) else {
        return;
    };
    world.ask(&format!("create {TOPIC} {PARTITIONS}"));
    let mut tools = Tools::new();
    let mut producer = packages::java(&world.jars);
    producer.arg("org.apache.kafka.tools.VerifiableProducer");
    producer.args(["--bootstrap-server", &world.broker.bootstrap()]);
    producer.args(["--topic", TOPIC, "--throughput", "500"]);
    producer.args(["--max-messages", &RECORDS.to_string()]);
    tools.start("producer", producer);
    tools.start("a", consumer(&world, protocol));
    tools.start("b", consumer(&world, protocol));
    tools.await_that("two share", |tools| tools.share(&["a", "b"]));
    tools.start("c", consumer(&world, protocol));
    tools.await_that("a third one joins", |tools| tools.share(&["a", "b", "c"]));

    tools.end("b", Signal::KILL);
    tools.await_that("one has crashed", |tools| tools.share(&["a", "c"]));

    // One stands still for longer than its session, and comes back. (Whoever asks where to go on after its
    // session is told that it is no member, which ends this consumer.)
    tools.await_that("it reads", |tools| tools.is_reading("a"));
    tools.signal("a", Signal::STOP);
    tools.await_that("one pauses", |tools| tools.share(&["c"]));
    let pause = std::env::var("RINGSPUN_PAUSE_SECONDS").ok();
    if let Some(seconds) = pause.and_then(|seconds| seconds.parse().ok()) {
        std::thread::sleep(Duration::from_secs(seconds));
    }
    tools.signal("a", Signal::CONT);
    tools.await_that("it is back", |tools| tools.share(&["a", "c"]));

    tools.end("c", Signal::TERM);
    tools.await_that("one has left", |tools| tools.share(&["a"]));
    tools.await_that("all is read", Tools::all_is_read);
    assert_eq!(tools.failed, Vec::<String>::new());
    tools.end("a", Signal::TERM);
    assert_eq!(world.ask("committed g"), [RECORDS.to_string()]);
}

#[test]
fn classic_members_come_and_go_and_every_record_is_read() {
    members_come_and_go("classic");
}

#[test]
fn members_of_the_new_protocol_come_and_go_and_every_record_is_read() {
    members_come_and_go("consumer");
}
