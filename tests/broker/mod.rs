//! The broker under test, as a process of its own: ringspun, or Apache Kafka as the reference that
//! every test of a client has to pass as well (`RINGSPUN_TEST_BROKER=kafka`).
//!
//! Listens on a free port of 127.0.0.1, keeps its data where it is told, and dies with the test.

#![allow(dead_code)] // shared by several test programs, none of which needs all of it

pub mod dump;
pub mod packages;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Longest time a start may take: a recovery on a busy machine, or a Java machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ringspun,
    /// Apache Kafka, one node that is broker and controller.
    Kafka,
}

impl Kind {
    /// What `RINGSPUN_TEST_BROKER` says: `ringspun` (the default) or `kafka`.
    pub fn from_environment() -> Kind {
        match std::env::var("RINGSPUN_TEST_BROKER").as_deref() {
            Err(_) | Ok("" | "ringspun") => Kind::Ringspun,
            Ok("kafka") => Kind::Kafka,
            Ok(other) => panic!("RINGSPUN_TEST_BROKER={other}: ringspun or kafka"),
        }
    }
}

/// A running broker, killed when dropped.
pub struct Broker {
    kind: Kind,
    folder: PathBuf,
    settings: Vec<(String, String)>,
    port: u16,
    controller_port: u16,
    core: Option<usize>,
    child: Option<Child>,
}

impl Broker {
    /// Starts a broker that keeps everything below `folder`, which may hold what an earlier one left.
    ///
    /// `settings` are Kafka's broker settings, given to either kind; those that begin with `ringspun.` to
    /// ringspun only.
    pub fn start(kind: Kind, folder: &Path, settings: &[(&str, &str)]) -> Result<Broker, String> {
        let mut broker = Broker::new(kind, folder, settings)?;
        broker.start_again()?;
        Ok(broker)
    }

    /// As [`Broker::start`], but not running yet.
    pub fn new(kind: Kind, folder: &Path, settings: &[(&str, &str)]) -> Result<Broker, String> {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Broker {
            kind,
            folder: folder.to_path_buf(),
            settings: settings
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
            port: free_port(),
            controller_port: free_port(),
            core: None,
            child: None,
        })
    }

    /// It may run on this core only.
    pub fn pinned_to(mut self, core: usize) -> Broker {
        self.core = Some(core);
        self
    }

    /// Starts again on the same port and data, after [`Broker::kill`] or [`Broker::stop`].
    pub fn start_again(&mut self) -> Result<(), String> {
        assert!(self.child.is_none(), "still running");
        match self.kind {
            Kind::Ringspun => self.start_ringspun(),
            Kind::Kafka => self.start_kafka(),
        }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The data directory: a folder a partition.
    pub fn log_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks for a clean stop (SIGTERM) and waits for it.
    pub fn stop(&mut self) -> Result<ExitStatus, String> {
        let mut child = self.child.take().expect("running");
        // SAFETY: kill only takes numbers; the process is our child and not yet waited for, so the id is its.
        unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match child.try_wait().map_err(|error| error.to_string())? {
                Some(status) => return Ok(status),
                None if Instant::now() > deadline => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err("still running 30 s after SIGTERM".into());
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Whether the exit status is the one of a clean stop.
    pub fn is_clean(&self, status: ExitStatus) -> bool {
        // The Java machine reports the signal although it has stopped in order.
        status.success()
            || self.kind == Kind::Kafka
                && (status.code() == Some(143) || status.signal() == Some(libc::SIGTERM))
    }

    /// The last lines of what the broker wrote on standard error.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(self.folder.join("stderr")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn spawn(&self, command: &mut Command) -> Result<Child, String> {
        if let Some(core) = self.core {
            run_on(command, core);
        }
        let stderr = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("stderr"))
            .map_err(|error| error.to_string())?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        die_with_parent(command);
        command
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))
    }

    fn start_ringspun(&mut self) -> Result<(), String> {
        let binary = std::env::var("RINGSPUN_TEST_BINARY")
            .unwrap_or_else(|_| env!("CARGO_BIN_EXE_ringspun").to_string());
        let mut command = Command::new(binary);
        let mut set = |name: &str, value: &str| {
            command.arg("-o").arg(format!("{name}={value}"));
        };
        set("listeners", &format!("PLAINTEXT://127.0.0.1:{}", self.port));
        set("log.dirs", &self.log_dir().to_string_lossy());
        set("ringspun.http.listener", "");
        for (name, value) in &self.settings {
            set(name, value);
        }
        let mut child = self.spawn(&mut command)?;
        let (lines, first) = mpsc::channel();
        let stdout = child.stdout.take().expect("piped");
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = lines.send(line);
        });
        let line = first.recv_timeout(START_TIMEOUT);
        self.child = Some(child);
        let port = line.as_deref().ok().and_then(ready_port);
        match port {
            Some(port) => {
                self.port = port;
                Ok(())
            }
            None => {
                self.kill();
                Err(format!(
                    "no ready line, but {line:?}; on standard error:\n{}",
                    self.last_words()
                ))
            }
        }
    }

    fn start_kafka(&mut self) -> Result<(), String> {
        let jars = packages::jars()?;
        let (port, controller_port) = (self.port, self.controller_port);
        let listeners =
            format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}");
        let mut properties = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}\n\
             listeners={listeners}\n\
             advertised.listeners={listeners}\n\
             controller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=PLAINTEXT\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
             log.dirs={}\n\
             offsets.topic.replication.factor=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n",
            self.log_dir().display()
        );
        for (name, value) in &self.settings {
            if !name.starts_with("ringspun.") {
                properties += &format!("{name}={value}\n");
            }
        }
        let file = self.folder.join("server.properties");
        fs::write(&file, properties).map_err(|error| error.to_string())?;
        if !self.log_dir().join("meta.properties").exists() {
            let format = packages::java(&jars)
                .args(["kafka.tools.StorageTool", "format", "--standalone"])
                .args(["-t", "cmluZ3NwdW5yaW5nc3B1bg", "-c"])
                .arg(&file)
                .output()
                .map_err(|error| error.to_string())?;
            if !format.status.success() {
                return Err(String::from_utf8_lossy(&format.stderr).into_owned());
            }
        }
        let mut command = packages::java(&jars);
        command
            .arg("kafka.Kafka")
            .arg(&file)
            .env_remove("KAFKA_OPTS");
        let mut child = self.spawn(&mut command)?;
        let stdout = child.stdout.take().expect("piped");
        std::thread::spawn(move || BufReader::new(stdout).lines().for_each(drop));
        self.child = Some(child);
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let gone = self
                .child
                .as_mut()
                .expect("running")
                .try_wait()
                .ok()
                .flatten();
            if gone.is_some() || Instant::now() > deadline {
                self.kill();
                return Err(format!("Kafka did not start:\n{}", self.last_words()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The port in `ringspun ready node=1 listeners=PLAINTEXT://127.0.0.1:41234 …`.
fn ready_port(line: &str) -> Option<u16> {
    let rest = line.strip_prefix("ringspun ready ")?;
    let (_, rest) = rest.split_once("PLAINTEXT://127.0.0.1:")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port of the loopback");
    listener.local_addr().expect("bound").port()
}

/// The process is to end when this one does, however that happens.
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe and touches no memory of the parent's.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}

/// The process is to run on this core, whatever ours may run on.
fn run_on(command: &mut Command, core: usize) {
    // SAFETY: the set is a plain array on the stack, and sched_setaffinity is async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(core, &mut set);
            if libc::sched_setaffinity(0, std::mem::size_of_val(&set), &set) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}
