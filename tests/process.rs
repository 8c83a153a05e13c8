//! The program from outside: what it refuses and how it says so, its ready line, its signals.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::process::{Pid, Signal, kill_process};

/// The program in an empty directory, on free ports, with nothing from our environment.
fn ringspun(at: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringspun"));
    command
        .current_dir(at)
        .env_clear()
        .args(["-o", "listeners=PLAINTEXT://127.0.0.1:0"])
        .args(["-o", "ringspun.http.listener=127.0.0.1:0"])
        .args(["-o", "ringspun.cores=1"])
        .args(["-o", "socket.request.max.bytes=1048576"])
        .args(["-o", "ringspun.memory.bytes=100000000"])
        .stdin(Stdio::null());
    command
}

/// Runs it to its end, which must be a refusal, and gives the one line.
fn refused(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(stdout.is_empty(), "{}", String::from_utf8_lossy(&stdout));
    assert!(!text.contains("panicked"), "{text}");
    // Log lines carry a time; the refusal begins with our name and comes last, alone.
    let lines: Vec<&str> = text
        .lines()
        .filter(|l| l.starts_with("ringspun: "))
        .collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert_eq!(text.lines().last(), Some(lines[0]), "{text}");
    lines[0].to_string()
}

fn refused_with(options: &[&str]) -> String {
    let at = tempfile::tempdir().unwrap();
    let mut command = ringspun(at.path());
    for option in options {
        command.args(["-o", option]);
    }
    refused(&mut command)
}

#[track_caller]
fn assert_says(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
}

#[test]
fn an_unknown_setting_is_refused_with_the_nearest_name() {
    assert_says(
        &refused_with(&["num.partitons=3"]),
        &["num.partitons", "did you mean num.partitions"],
    );
}

#[test]
fn a_bad_value_is_refused_with_key_value_and_range() {
    assert_says(
        &refused_with(&["num.partitions=zero"]),
        &["num.partitions", "zero"],
    );
    for micros in ["-1", "1000001"] {
        assert_says(
            &refused_with(&[&format!("ringspun.idle.poll.us={micros}")]),
            &["ringspun.idle.poll.us", micros, "1000000"],
        );
    }
    assert_says(
        &refused_with(&["ringspun.cores=9999"]),
        &["ringspun.cores", "9999"],
    );
}

#[test]
fn bad_arguments_are_one_line_too() {
    let at = tempfile::tempdir().unwrap();
    assert_says(
        &refused(ringspun(at.path()).arg("--nonsense")),
        &["--nonsense", "--help"],
    );
    assert_says(
        &refused(ringspun(at.path()).args(["--config", "missing.properties"])),
        &["missing.properties", "cannot be read"],
    );
}

#[test]
fn a_level_that_is_none_is_refused() {
    assert_says(
        &refused_with(&["ringspun.logging.level=ringspun=loud"]),
        &["ringspun.logging.level"],
    );
}

#[test]
fn too_little_memory_is_refused_with_the_arithmetic() {
    assert_says(
        &refused_with(&["ringspun.memory.bytes=20000000"]),
        &[
            "ringspun.memory.bytes",
            "1 shards x (1 MiB socket.request.max.bytes",
        ],
    );
}

#[test]
fn the_directory_of_another_node_is_refused_and_left_alone() {
    let at = tempfile::tempdir().unwrap();
    let meta = "version=1\ncluster.id=4L6g3nShT-eMCtK--X86sw\nnode.id=7\n";
    fs::create_dir(at.path().join("data")).unwrap();
    fs::write(at.path().join("data/meta.properties"), meta).unwrap();
    fs::write(at.path().join("data/.kafka_cleanshutdown"), "{}").unwrap();
    let mut command = ringspun(at.path());
    command.args(["-o", "log.dirs=data", "-o", "node.id=2"]);
    assert_says(
        &refused(&mut command),
        &["data", "belongs to node 7", "set node.id=7"],
    );
    assert_eq!(
        fs::read_to_string(at.path().join("data/meta.properties")).unwrap(),
        meta
    );
    assert!(at.path().join("data/.kafka_cleanshutdown").exists());
}

#[test]
fn a_directory_in_use_is_refused_whichever_kind_of_lock_holds_it() {
    let lock = |file: &File, posix: bool| match posix {
        // As Java takes it.
        true => fcntl_lock(file, FlockOperation::NonBlockingLockExclusive),
        false => flock(file, FlockOperation::NonBlockingLockExclusive),
    };
    for posix in [true, false] {
        let at = tempfile::tempdir().unwrap();
        let path = at.path().join(".lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(path)
            .unwrap();
        lock(&file, posix).unwrap();
        let mut command = ringspun(at.path());
        command.args(["-o", "log.dirs=."]);
        assert_says(
            &refused(&mut command),
            &["is in use by another process", "log.dirs"],
        );
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_refused() {
    assert_says(
        &refused_with(&["log.dirs=/proc/ringspun-data"]),
        &["/proc/ringspun-data cannot be created", "log.dirs"],
    );
    let at = tempfile::tempdir().unwrap();
    fs::write(at.path().join("data"), "").unwrap();
    let mut command = ringspun(at.path());
    command.args(["-o", "log.dirs=data"]);
    assert_says(&refused(&mut command), &["a file is in the way"]);
}

#[test]
fn print_config_and_version_print_and_exit() {
    let at = tempfile::tempdir().unwrap();
    let config = ringspun(at.path())
        .args(["-o", "num.partitions=17", "--print-config"])
        .output()
        .unwrap();
    assert!(config.status.success());
    assert!(
        String::from_utf8(config.stdout)
            .unwrap()
            .contains("num.partitions=17")
    );
    let version = ringspun(at.path()).arg("--version").output().unwrap();
    assert!(version.status.success());
    assert_eq!(
        String::from_utf8(version.stdout).unwrap(),
        concat!("ringspun ", env!("CARGO_PKG_VERSION"), "\n")
    );
    // Neither touched the directory.
    assert_eq!(fs::read_dir(at.path()).unwrap().count(), 0);
}

/// A running node, killed when dropped.
struct Node {
    child: Child,
    ready: String,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Node {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut ready = String::new();
        stdout.read_line(&mut ready).unwrap();
        Self {
            child,
            ready: ready.trim_end().to_string(),
            stdout,
        }
    }

    /// The value of `name=` in the ready line.
    fn field(&self, name: &str) -> &str {
        self.ready
            .split(' ')
            .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
            .unwrap_or_else(|| panic!("no {name} in {:?}", self.ready))
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn http(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn it_says_ready_once_and_stops_cleanly_on_a_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let at = tempfile::tempdir().unwrap();
        let mut node = Node::start(ringspun(at.path()).args(["-o", "log.dirs=data"]));
        assert!(
            node.ready
                .starts_with("ringspun ready node=1 listeners=PLAINTEXT://127.0.0.1:"),
            "{}",
            node.ready
        );
        assert_eq!(node.field("shards"), "1");
        let address = node.field("http").to_string();
        assert!(http(&address, "/health/live").starts_with("HTTP/1.1 200"));
        assert!(http(&address, "/health/ready").starts_with("HTTP/1.1 200"));
        assert!(http(&address, "/metrics").contains("ringspun_shards 1"));
        assert!(http(&address, "/shards").contains("{\"shards\":[{\"shard\":0,\"connections\":["));
        let mark = at.path().join("data/.kafka_cleanshutdown");
        assert!(!mark.exists());
        node.signal(signal);
        assert_eq!(node.child.wait().unwrap().code(), Some(0));
        assert!(mark.exists());
        let mut rest = String::new();
        node.stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
    }
}

#[test]
fn a_port_in_use_is_refused_and_the_clean_mark_stays() {
    let at = tempfile::tempdir().unwrap();
    let mut node = Node::start(ringspun(at.path()).args(["-o", "log.dirs=data"]));
    node.signal(Signal::TERM);
    assert_eq!(node.child.wait().unwrap().code(), Some(0));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for option in [
        format!("listeners=PLAINTEXT://{address}"),
        format!("ringspun.http.listener={address}"),
    ] {
        let mut command = ringspun(at.path());
        command.args(["-o", "log.dirs=data", "-o", &option]);
        assert_says(
            &refused(&mut command),
            &[&address, "another program listens there"],
        );
        assert!(at.path().join("data/.kafka_cleanshutdown").exists());
    }
}

#[test]
fn a_second_node_on_the_same_directory_is_refused_by_process_number() {
    let at = tempfile::tempdir().unwrap();
    let node = Node::start(ringspun(at.path()).args(["-o", "log.dirs=data"]));
    let mut second = ringspun(at.path());
    second.args(["-o", "log.dirs=data"]);
    assert_says(
        &refused(&mut second),
        &[&format!("process {}", node.child.id())],
    );
}

/// `server.properties` as Kafka 4.3 comes with it, without its comments.
const STOCK: &str = "process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=localhost:9093
listeners=PLAINTEXT://:9092,CONTROLLER://:9093
inter.broker.listener.name=PLAINTEXT
advertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
log.dirs=/tmp/kraft-combined-logs
num.partitions=1
num.recovery.threads.per.data.dir=2
offsets.topic.replication.factor=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
log.retention.hours=168
log.segment.bytes=1073741824
log.retention.check.interval.ms=300000
";

#[test]
fn kafkas_stock_properties_start_a_node_that_opens_no_controller_listener() {
    let at = tempfile::tempdir().unwrap();
    fs::write(at.path().join("server.properties"), STOCK).unwrap();
    // Its port is taken, and nobody minds.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let controller = taken.local_addr().unwrap();
    let listeners = format!("listeners=PLAINTEXT://127.0.0.1:0,CONTROLLER://{controller}");
    let node = Node::start(
        ringspun(at.path())
            .args(["--config", "server.properties", "-o", "log.dirs=data"])
            .args(["-o", &listeners]),
    );
    let opened = node.field("listeners");
    assert!(opened.starts_with("PLAINTEXT://127.0.0.1:"), "{opened}");
    assert!(!opened.contains("CONTROLLER"), "{opened}");
}

#[test]
fn the_environment_comes_between_the_file_and_the_command_line() {
    let at = tempfile::tempdir().unwrap();
    fs::write(
        at.path().join("server.properties"),
        "node.id=3\nlog.dirs=from-file\nnum.partitions=5\n",
    )
    .unwrap();
    let mut node = Node::start(
        ringspun(at.path())
            .env("KAFKA_LOG_DIRS", "from-environment")
            .env("KAFKA_CFG_NODE_ID", "4")
            .env("KAFKA_HEAP_OPTS", "-Xmx1G")
            .args(["--config", "server.properties", "-o", "node.id=5"]),
    );
    assert_eq!(node.field("node"), "5");
    node.signal(Signal::TERM);
    assert_eq!(node.child.wait().unwrap().code(), Some(0));
    assert!(at.path().join("from-environment/meta.properties").exists());
    assert!(!at.path().join("from-file").exists());
    // Who a node is, is written in its directory.
    let again = Node::start(ringspun(at.path()).args(["-o", "log.dirs=from-environment"]));
    assert_eq!(again.field("node"), "5");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let at = tempfile::tempdir().unwrap();
    let mut node = Node::start(ringspun(at.path()).args(["-o", "log.dirs=data"]));
    // A client that asks and does not read: its answers are in flight, so the stop waits for them.
    let address = node.field("listeners").replace("PLAINTEXT://", "");
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_write_timeout(Some(std::time::Duration::from_millis(300)))
        .unwrap();
    let ask = b"\0\0\0\x0a\0\x12\0\0\0\0\0\x01\xff\xff".repeat(1_000);
    while stream.write_all(&ask).is_ok() {}
    node.signal(Signal::TERM);
    let health = node.field("http").to_string();
    while http(&health, "/health/ready").starts_with("HTTP/1.1 200") {}
    node.signal(Signal::TERM);
    let status = node.child.wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()), "{status}");
    assert!(!at.path().join("data/.kafka_cleanshutdown").exists());
}
