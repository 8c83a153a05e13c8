//! A node as a hostile peer sees it: raw frames over raw sockets, its memory, its counters.

#![allow(dead_code)] // shared by several programs, none of which needs all of it

pub mod fuzzing;
pub mod log_dirs;
pub mod log_reader;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, CreateTopicsRequest, FetchRequest, ProduceRequest, RequestHeader,
    TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, Request, StrBytes};
use ringspun::records::BatchBuilder;

use crate::broker::{Broker, Kind, free_port};

/// Longest wait for anything that is to happen at once. A test that meets it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A node of its own, with an HTTP port for its counters. Killed when dropped.
pub struct Node {
    pub broker: Broker,
    address: SocketAddr,
    http: u16,
    _folder: tempfile::TempDir,
}

impl Node {
    pub fn start(settings: &[(&str, &str)]) -> Node {
        let folder = tempfile::tempdir().expect("a directory for the node");
        let http = free_port();
        let listener = format!("127.0.0.1:{http}");
        let mut all = vec![("ringspun.http.listener", listener.as_str())];
        all.extend_from_slice(settings);
        let broker = Broker::start(Kind::Ringspun, folder.path(), &all).expect("the node starts");
        Node {
            address: broker.bootstrap().parse().expect("an address"),
            broker,
            http,
            _folder: folder,
        }
    }

    pub fn connect(&self) -> Peer {
        Peer::new(TcpStream::connect(self.address).expect("a connection"))
    }

    pub fn try_connect(&self) -> io::Result<Peer> {
        TcpStream::connect(self.address).map(Peer::new)
    }

    /// From another address of the loopback.
    pub fn connect_from(&self, from: [u8; 4]) -> Peer {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let from = SocketAddr::from((from, 0));
        socket.bind(&from.into()).expect("an address of ours");
        socket.connect(&self.address.into()).expect("a connection");
        Peer::new(socket.into())
    }

    fn status_bytes(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.broker.pid());
        let status = fs::read_to_string(path).expect("the node runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
        kib.and_then(|kib| kib.parse::<u64>().ok()).expect(name) * 1024
    }

    /// Resident bytes now.
    pub fn rss(&self) -> u64 {
        self.status_bytes("VmRSS")
    }

    /// The most that was ever resident.
    pub fn peak_rss(&self) -> u64 {
        self.status_bytes("VmHWM")
    }

    /// Forgets the peak: it is counted from now on.
    pub fn reset_peak_rss(&self) {
        let path = format!("/proc/{}/clear_refs", self.broker.pid());
        fs::write(path, "5").expect("our own child");
    }

    /// Address of the HTTP server.
    pub fn http(&self) -> String {
        format!("127.0.0.1:{}", self.http)
    }

    /// The whole answer to a GET.
    pub fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).expect("the HTTP port");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// A series of `/metrics`, 0 if it is not there.
    pub fn metric(&self, series: &str) -> f64 {
        self.get("/metrics")
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
            .map_or(0.0, |value| value.trim().parse().expect("a number"))
    }

    /// Connections that were closed for `reason`.
    pub fn closed(&self, reason: &str) -> u64 {
        self.metric(&format!(
            "ringspun_connections_closed_total{{reason=\"{reason}\"}}"
        )) as u64
    }

    pub fn open_connections(&self) -> u64 {
        self.metric("ringspun_connections_open") as u64
    }

    /// Waits until `what` holds; fails when it does not come.
    pub fn await_that(&self, what: &str, holds: impl Fn(&Node) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(
                Instant::now() < deadline,
                "{what} did not come\n{}",
                self.log()
            );
            std::thread::yield_now();
        }
    }

    /// What the node wrote on standard error, its last lines.
    pub fn log(&self) -> String {
        self.broker.last_words()
    }

    /// Creates a topic; its id.
    pub fn create_topic(&self, name: &str, partitions: i32) -> uuid::Uuid {
        let mut peer = self.connect();
        peer.send(&create_topic(name, partitions, 1));
        let answer = peer.receive().expect("an answer").expect("an answer");
        // correlation id, tags, throttle time, one topic, its name, id: then the code
        let code_at = 4 + 1 + 4 + 1 + 1 + name.len() + 16;
        assert_eq!(answer[code_at..code_at + 2], [0, 0], "{name}: {answer:?}");
        uuid::Uuid::from_slice(&answer[code_at - 16..code_at]).expect("16 bytes")
    }

    /// A clean stop; the log has no panic.
    pub fn stop(mut self) {
        let status = self.broker.stop().expect("a stop");
        assert!(status.success(), "{status}: {}", self.log());
        assert!(!self.log().contains("panicked"), "{}", self.log());
    }
}

/// A connection to a node.
pub struct Peer {
    pub stream: TcpStream,
}

impl Peer {
    /// One of the node at this address.
    pub fn to(address: &str) -> io::Result<Peer> {
        TcpStream::connect(address).map(Peer::new)
    }

    fn new(stream: TcpStream) -> Peer {
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
        Peer { stream }
    }

    /// Sends a frame behind its length.
    pub fn send(&mut self, frame: &[u8]) {
        self.try_send(frame).expect("sent");
    }

    pub fn try_send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.stream.write_all(&prefixed(frame))
    }

    /// The next answer without its length; `None` when the node closed the connection.
    pub fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut length = [0; 4];
        match self.stream.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if is_close(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut answer)?;
        Ok(Some(answer))
    }

    /// The correlation id of the next answer.
    pub fn receive_id(&mut self) -> Option<i32> {
        self.receive()
            .expect("an answer or the end")
            .map(|answer| correlation_id(&answer))
    }

    /// Reads to the end, which has to come; how many bytes came before.
    pub fn read_to_close(&mut self) -> u64 {
        let mut buffer = [0; 16 * 1024];
        let mut bytes = 0;
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return bytes,
                Ok(read) => bytes += read as u64,
                Err(error) if is_close(&error) => return bytes,
                Err(error) => panic!("not closed: {error}"),
            }
        }
    }

    /// Asks for the API versions: the node answers this connection.
    pub fn ping(&mut self, id: i32) -> Duration {
        let start = Instant::now();
        self.send(&api_versions(0, id));
        assert_eq!(self.receive_id(), Some(id));
        start.elapsed()
    }

    /// Says that nothing more will come.
    pub fn end(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Closes with a reset, so that no port lingers.
    pub fn abandon(self) {
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }
}

fn is_close(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe
    )
}

pub fn prefixed(frame: &[u8]) -> Vec<u8> {
    let mut out = (frame.len() as u32).to_be_bytes().to_vec();
    out.extend_from_slice(frame);
    out
}

pub fn correlation_id(answer: &[u8]) -> i32 {
    i32::from_be_bytes(answer[..4].try_into().expect("4 bytes"))
}

/// The frame of a request of the crate's types.
pub fn request<R: Request>(version: i16, correlation_id: i32, body: &R) -> Vec<u8> {
    let header_version = ApiKey::try_from(R::KEY)
        .expect("a key")
        .request_header_version(version);
    let mut out = BytesMut::new();
    RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(text("hostile")))
        .encode(&mut out, header_version)
        .expect("a header");
    body.encode(&mut out, version).expect("a body");
    out.to_vec()
}

/// An answer of the crate's types.
pub fn answer<T: Decodable>(frame: Vec<u8>, header_version: i16, version: i16) -> T {
    let mut bytes = Bytes::from(frame);
    let _ = bytes.split_to(if header_version >= 1 { 5 } else { 4 });
    T::decode(&mut bytes, version).expect("an answer of that version")
}

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub fn topic(name: &str) -> TopicName {
    TopicName(text(name))
}

pub fn api_versions(version: i16, id: i32) -> Vec<u8> {
    let body = ApiVersionsRequest::default()
        .with_client_software_name(text("hostile"))
        .with_client_software_version(text("1"));
    request(version, id, &body)
}

pub fn create_topic(name: &str, partitions: i32, id: i32) -> Vec<u8> {
    use kafka_protocol::messages::create_topics_request::CreatableTopic;
    let topic = CreatableTopic::default()
        .with_name(topic(name))
        .with_num_partitions(partitions)
        .with_replication_factor(1);
    let body = CreateTopicsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(30_000);
    request(7, id, &body)
}

/// One batch of `records` records with values of `value_bytes` bytes.
pub fn batch(records: usize, value_bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::uncompressed();
    let value = vec![b'v'; value_bytes];
    for _ in 0..records {
        append(&mut builder, &value);
    }
    Bytes::from(builder.build())
}

fn append(builder: &mut BatchBuilder, value: &[u8]) {
    builder.append(
        ringspun::base::Timestamp(1_700_000_000_000),
        None,
        Some(value),
        &[],
    );
}

pub fn produce(name: &str, partition: i32, acks: i16, batch: Bytes, id: i32) -> Vec<u8> {
    produce_version(9, name, partition, acks, batch, id)
}

pub fn produce_version(
    version: i16,
    name: &str,
    partition: i32,
    acks: i16,
    batch: Bytes,
    id: i32,
) -> Vec<u8> {
    use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
    let data = PartitionProduceData::default()
        .with_index(partition)
        .with_records(Some(batch));
    let body = ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![
            TopicProduceData::default()
                .with_name(topic(name))
                .with_partition_data(vec![data]),
        ]);
    request(version, id, &body)
}

/// Limits of a fetch; what it waits for at most is in milliseconds.
pub struct FetchLimits {
    pub max_wait_ms: i32,
    pub min_bytes: i32,
    pub max_bytes: i32,
}

pub fn fetch(version: i16, name: &str, partition: i32, limits: FetchLimits, id: i32) -> Vec<u8> {
    use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
    let asked = FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(0)
        .with_partition_max_bytes(limits.max_bytes);
    let body = FetchRequest::default()
        .with_max_wait_ms(limits.max_wait_ms)
        .with_min_bytes(limits.min_bytes)
        .with_max_bytes(limits.max_bytes)
        .with_session_epoch(-1)
        .with_topics(vec![
            FetchTopic::default()
                .with_topic(topic(name))
                .with_partitions(vec![asked]),
        ]);
    request(version, id, &body)
}

/// A number from the environment.
pub fn environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().map(|text| match text.parse() {
        Ok(value) => value,
        Err(_) => panic!("{name}={text} is not a number"),
    })
}

/// The reasons among `reasons` for which connections were closed.
pub fn closed_for(node: &Node, reasons: &[&'static str]) -> BTreeSet<&'static str> {
    let closed = reasons.iter().filter(|reason| node.closed(reason) > 0);
    closed.copied().collect()
}
