//! The broker is killed in the middle of joins and commits: an offset whose commit was acknowledged never
//! goes back, and the groups go on.
//!
//! Every worker has a partition of its own, commits ever greater offsets for it, and writes down what was
//! acknowledged. There are those without a group's members, and members of both protocols that join,
//! commit, and leave or just go away.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, CreateTopicsRequest, FindCoordinatorRequest, GroupId,
    JoinGroupRequest, LeaveGroupRequest, OffsetCommitRequest, OffsetFetchRequest, RequestHeader,
    ResponseHeader, SyncGroupRequest, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

use crate::broker::{Broker, Kind};

const TOPIC: &str = "read";
/// Workers of each kind.
const WORKERS: i32 = 3;
const KINDS: [&str; 3] = ["simple", "classic", "consumer"];
/// Longest time without any progress.
const PATIENCE: Duration = Duration::from_secs(60);

const MEMBER_ID_REQUIRED: i16 = 79;

/// What was acknowledged, and how often members joined.
#[derive(Default)]
struct Ledger {
    offsets: Mutex<BTreeMap<(&'static str, i32), i64>>,
    acknowledged: AtomicU64,
    joined: [AtomicU64; 3],
    moved: Condvar,
    over: AtomicBool,
}

struct Connection {
    stream: TcpStream,
    correlation_id: i32,
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic() -> TopicName {
    TopicName(text(TOPIC))
}

fn group(name: &str) -> GroupId {
    GroupId(text(name))
}

impl Connection {
    fn open(address: &str) -> io::Result<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Connection {
            stream,
            correlation_id: 0,
        })
    }

    fn ask<R: Request>(&mut self, version: i16, request: &R) -> io::Result<R::Response> {
        self.correlation_id += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(text("killed")));
        let mut frame = BytesMut::from(&[0; 4][..]);
        header
            .encode(&mut frame, R::header_version(version))
            .expect("encodes");
        request.encode(&mut frame, version).expect("encodes");
        let length = (frame.len() - 4) as u32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame)?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame)?;
        let mut frame = Bytes::from(frame);
        ResponseHeader::decode(&mut frame, R::Response::header_version(version)).expect("a header");
        Ok(R::Response::decode(&mut frame, version).expect("a response"))
    }
}

/// One worker: what it commits for, as whom.
struct Worker<'a> {
    ledger: &'a Ledger,
    address: &'a str,
    kind: &'static str,
    partition: i32,
    /// The offset it commits next.
    next: i64,
}

/// A member's turn ends with this: it begins anew.
enum End {
    Again,
    Lost,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Lost
    }
}

impl Worker<'_> {
    fn run(&mut self) {
        let over = || self.ledger.over.load(Ordering::SeqCst);
        let mut connection = None;
        while !over() {
            let Some(open) = &mut connection else {
                connection = Connection::open(self.address).ok();
                if connection.is_none() {
                    std::thread::sleep(Duration::from_millis(2));
                }
                continue;
            };
            let end = match self.kind {
                "simple" => self.commits(open, "", -1, 20),
                "classic" => self.classic_member(open),
                _ => self.consumer_member(open),
            };
            match end {
                Ok(()) => {}
                // The coordinator is loading, or the member was put out.
                Err(End::Again) => std::thread::sleep(Duration::from_millis(1)),
                Err(End::Lost) => connection = None,
            }
        }
    }

    /// Commits so many offsets.
    fn commits(
        &mut self,
        connection: &mut Connection,
        member: &str,
        generation: i32,
        count: usize,
    ) -> Result<(), End> {
        for _ in 0..count {
            let partition = OffsetCommitRequestPartition::default()
                .with_partition_index(self.partition)
                .with_committed_offset(self.next);
            let topic = OffsetCommitRequestTopic::default()
                .with_name(topic())
                .with_partitions(vec![partition]);
            let request = OffsetCommitRequest::default()
                .with_group_id(group(self.kind))
                .with_member_id(text(member))
                .with_generation_id_or_member_epoch(generation)
                .with_topics(vec![topic]);
            let response = connection.ask(9, &request)?;
            if response.topics[0].partitions[0].error_code != 0 {
                return Err(End::Again);
            }
            let mut offsets = self.ledger.offsets.lock().expect("no panic");
            offsets.insert((self.kind, self.partition), self.next);
            self.next += 1;
            self.ledger.acknowledged.fetch_add(1, Ordering::SeqCst);
            self.ledger.moved.notify_all();
        }
        Ok(())
    }

    fn joined(&self) {
        let kind = KINDS.iter().position(|kind| *kind == self.kind);
        self.ledger.joined[kind.expect("one of them")].fetch_add(1, Ordering::SeqCst);
        let _held = self.ledger.offsets.lock().expect("no panic");
        self.ledger.moved.notify_all();
    }

    /// Whether it goes away without a word this time.
    fn vanishes(&self) -> bool {
        fastrand::u8(..4) == 0
    }

    fn classic_member(&mut self, connection: &mut Connection) -> Result<(), End> {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(Bytes::from_static(b"anything"));
        let mut join = JoinGroupRequest::default()
            .with_group_id(group(self.kind))
            .with_session_timeout_ms(6_000)
            .with_rebalance_timeout_ms(300)
            .with_protocol_type(text("tested"))
            .with_protocols(vec![protocol]);
        let mut joined = connection.ask(7, &join)?;
        if joined.error_code == MEMBER_ID_REQUIRED {
            join.member_id = joined.member_id;
            joined = connection.ask(7, &join)?;
        }
        if joined.error_code != 0 {
            return Err(End::Again);
        }
        let assignments = joined.members.iter().map(|member| {
            SyncGroupRequestAssignment::default()
                .with_member_id(member.member_id.clone())
                .with_assignment(Bytes::from_static(b"something"))
        });
        let sync = SyncGroupRequest::default()
            .with_group_id(group(self.kind))
            .with_member_id(joined.member_id.clone())
            .with_generation_id(joined.generation_id)
            .with_protocol_type(Some(text("tested")))
            .with_protocol_name(Some(text("range")))
            .with_assignments(assignments.collect());
        let synced = connection.ask(5, &sync)?;
        if synced.error_code == 0 {
            self.joined();
            self.commits(connection, &joined.member_id, joined.generation_id, 5)?;
        }
        if self.vanishes() {
            return Err(End::Lost);
        }
        let member = MemberIdentity::default().with_member_id(joined.member_id);
        let leave = LeaveGroupRequest::default()
            .with_group_id(group(self.kind))
            .with_members(vec![member]);
        connection.ask(4, &leave)?;
        Ok(())
    }

    fn consumer_member(&mut self, connection: &mut Connection) -> Result<(), End> {
        let mut heartbeat = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group(self.kind))
            .with_member_id(text(&uuid::Uuid::new_v4().to_string()))
            .with_rebalance_timeout_ms(300)
            .with_subscribed_topic_names(Some(vec![topic()]))
            .with_topic_partitions(Some(Vec::new()));
        let joined = connection.ask(1, &heartbeat)?;
        if joined.error_code != 0 {
            return Err(End::Again);
        }
        self.joined();
        let member = heartbeat.member_id.clone();
        self.commits(connection, &member, joined.member_epoch, 5)?;
        if self.vanishes() {
            return Err(End::Lost);
        }
        heartbeat.member_epoch = -1;
        connection.ask(1, &heartbeat)?;
        Ok(())
    }
}

/// The offset that is committed; waits until the coordinator has loaded.
fn committed(address: &str, kind: &str, partition: i32) -> Result<i64, String> {
    let asked = OffsetFetchRequestTopic::default()
        .with_name(topic())
        .with_partition_indexes(vec![partition]);
    let request = OffsetFetchRequest::default()
        .with_group_id(group(kind))
        .with_topics(Some(vec![asked]));
    let deadline = Instant::now() + PATIENCE;
    let mut connection = Connection::open(address).map_err(|error| error.to_string())?;
    loop {
        let response = connection.ask(7, &request);
        let response = response.map_err(|error| error.to_string())?;
        if response.error_code == 0 {
            return Ok(response.topics[0].partitions[0].committed_offset);
        }
        if Instant::now() > deadline {
            return Err(format!("{kind}: OffsetFetch says {}", response.error_code));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until `enough`.
fn wait(ledger: &Ledger, what: &str, enough: impl Fn() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    let mut offsets = ledger.offsets.lock().expect("no panic");
    while !enough() {
        if Instant::now() > deadline {
            return Err(format!("no {what} in {PATIENCE:?}"));
        }
        let waited = ledger
            .moved
            .wait_timeout(offsets, Duration::from_millis(50));
        offsets = waited.expect("no panic").0;
    }
    Ok(())
}

fn prepare(address: &str) -> Result<(), String> {
    let failed = |error: io::Error| error.to_string();
    let mut connection = Connection::open(address).map_err(failed)?;
    let created = CreatableTopic::default()
        .with_name(topic())
        .with_num_partitions(WORKERS)
        .with_replication_factor(1);
    let request = CreateTopicsRequest::default()
        .with_timeout_ms(30_000)
        .with_topics(vec![created]);
    let created = connection.ask(5, &request).map_err(failed)?;
    if created.topics[0].error_code != 0 {
        return Err(format!("CreateTopics: {}", created.topics[0].error_code));
    }
    let deadline = Instant::now() + PATIENCE;
    let find = FindCoordinatorRequest::default().with_key(text("simple"));
    while connection.ask(3, &find).map_err(failed)?.error_code != 0 {
        if Instant::now() > deadline {
            return Err("no coordinator".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

pub fn run(kind: Kind, folder: &Path, rounds: u32, seed: u64) -> Result<(), String> {
    let settings = [("group.initial.rebalance.delay.ms", "0")];
    let mut broker = Broker::start(kind, folder, &settings)?;
    let address = broker.bootstrap();
    prepare(&address)?;
    let ledger = Ledger::default();
    std::thread::scope(|scope| {
        for kind in KINDS {
            for partition in 0..WORKERS {
                let mut worker = Worker {
                    ledger: &ledger,
                    address: &address,
                    kind,
                    partition,
                    next: 1,
                };
                scope.spawn(move || worker.run());
            }
        }
        let killed = kill_again_and_again(&mut broker, &ledger, rounds, seed);
        ledger.over.store(true, Ordering::SeqCst);
        if killed.is_err() {
            // Whoever waits for an answer gets none.
            broker.kill();
        }
        killed
    })
}

fn kill_again_and_again(
    broker: &mut Broker,
    ledger: &Ledger,
    rounds: u32,
    seed: u64,
) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let address = broker.bootstrap();
    let joined = || ledger.joined.each_ref().map(|n| n.load(Ordering::SeqCst));
    let acknowledged = || ledger.acknowledged.load(Ordering::SeqCst);
    for round in 1..=rounds {
        let (joined_before, before) = (joined(), acknowledged());
        let more = random.u64(1..200);
        wait(ledger, "commits", || acknowledged() >= before + more)?;
        // Members of both protocols are back in their groups, every fifth time.
        if round % 5 == 0 {
            wait(ledger, "members", || {
                let joined = joined();
                joined[1] > joined_before[1] && joined[2] > joined_before[2]
            })?;
        }
        broker.kill();
        let offsets = ledger.offsets.lock().expect("no panic").clone();
        broker.start_again()?;
        for ((kind, partition), offset) in offsets {
            let committed = committed(&address, kind, partition)?;
            if committed < offset {
                return Err(format!(
                    "round {round}: {offset} was acknowledged to group {kind} for partition {partition}, \
                     {committed} is committed"
                ));
            }
        }
    }
    println!(
        "{} commits and {:?} joins acknowledged over {rounds} kills",
        acknowledged(),
        &joined()[1..]
    );
    Ok(())
}
