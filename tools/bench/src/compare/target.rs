//! The brokers that are compared: how each is started, found ready, frozen and ended.
//!
//! All targets of a row are up for the whole row, but only one runs at a time: the others are frozen
//! (SIGSTOP), so they cost nothing and stay as warm as they are. Each is a process group that dies with
//! us, keeps its data in a folder of its own, and gets a free port of the loopback.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use super::jars::Java;
use super::sys::{self, Cores};
use super::wire;

/// A start may replay a log on a slow disk, on one core.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// What Kafka's documentation advises for its Java machine, with a heap of 4 GiB.
pub const KAFKA_JAVA: &[&str] = &[
    "-Xms4G",
    "-Xmx4G",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-XX:G1HeapRegionSize=16M",
];

#[derive(Clone, Debug)]
pub enum Kind {
    /// The program.
    Ringspun(PathBuf),
    Kafka(Java),
    /// A shell command, in which `{port}`, `{bootstrap}` and `{data}` are replaced.
    Command(String),
}

/// A broker that can be started.
#[derive(Clone, Debug)]
pub struct Target {
    pub name: String,
    pub kind: Kind,
    pub version: String,
    /// Settings of its own, besides what a row asks for.
    pub more: Vec<(String, String)>,
}

/// The name and the settings of another ringspun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct With {
    pub name: String,
    pub settings: Vec<(String, String)>,
}

/// What a target cannot be called.
const TAKEN: [&str; 3] = ["ringspun", "kafka", "floor"];

/// Whether a target can be called so.
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.chars().all(plain) && !TAKEN.contains(&name)
}

impl With {
    /// `name:setting=value,setting=value`, as `--with` takes it.
    pub fn parse(text: &str) -> Result<With, String> {
        let (name, settings) = text.split_once(':').unwrap_or((text, ""));
        let settings: Option<Vec<(String, String)>> = settings
            .split(',')
            .map(|setting| {
                let (name, value) = setting.split_once('=')?;
                Some((name.trim().to_owned(), value.trim().to_owned()))
            })
            .collect();
        match settings {
            Some(settings) if is_name(name) => Ok(With {
                name: name.to_owned(),
                settings,
            }),
            _ => Err(format!(
                "{text:?}: another ringspun is NAME:SETTING=VALUE,…, with a name of letters, digits, - _ . that is not taken"
            )),
        }
    }
}

/// What a row asks of a broker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// An fsync before each acknowledgement.
    pub fsync: bool,
    /// Shards of ringspun; 0 is its default, one a core.
    pub shards: u16,
    /// Partitions of a topic that is made by being written to.
    pub auto_partitions: u32,
    /// Any others.
    pub more: &'static [(&'static str, &'static str)],
}

impl Target {
    /// `name=command`, as `--target` takes it.
    pub fn parse(text: &str) -> Result<Target, String> {
        let (name, command) = text.split_once('=').unwrap_or((text, ""));
        if !is_name(name) {
            return Err(format!(
                "{text:?}: a target is NAME='COMMAND', with a name of letters, digits, - _ . that is not taken"
            ));
        }
        if !command.contains("{port}") && !command.contains("{bootstrap}") {
            return Err(format!(
                "{text:?}: the command has to say {{port}} or {{bootstrap}} where the port of the broker belongs"
            ));
        }
        Ok(Target {
            name: name.to_owned(),
            kind: Kind::Command(command.to_owned()),
            version: command.to_owned(),
            more: Vec::new(),
        })
    }

    pub fn ringspun(program: &Path) -> Result<Target> {
        let output = Command::new(program)
            .arg("--version")
            .output()
            .with_context(|| format!("{} cannot be run", program.display()))?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Target {
            name: "ringspun".into(),
            kind: Kind::Ringspun(program.to_path_buf()),
            version,
            more: Vec::new(),
        })
    }

    /// The same program with other settings.
    pub fn with(&self, with: &With) -> Target {
        Target {
            name: with.name.clone(),
            more: with.settings.clone(),
            ..self.clone()
        }
    }

    pub fn kafka(java: Java) -> Target {
        let version = format!(
            "Apache Kafka {}, {}, java {}",
            super::jars::kafka_version(),
            java.version(),
            KAFKA_JAVA.join(" ")
        );
        Target {
            name: "kafka".into(),
            kind: Kind::Kafka(java),
            version,
            more: Vec::new(),
        }
    }

    pub fn is_ringspun(&self) -> bool {
        matches!(self.kind, Kind::Ringspun(_))
    }

    /// The arguments or properties that the measurement gives it besides addresses and folders; for the
    /// report.
    pub fn settings(&self, shape: &Shape) -> Vec<(String, String)> {
        let mut settings = Vec::new();
        let mut set = |name: &str, value: &str| settings.push((name.to_owned(), value.to_owned()));
        if shape.fsync {
            set("log.flush.interval.messages", "1");
        }
        if shape.auto_partitions > 0 {
            set("num.partitions", &shape.auto_partitions.to_string());
        }
        for (name, value) in shape.more {
            set(name, value);
        }
        // What is deleted between rounds is to be gone, not renamed.
        set("log.segment.delete.delay.ms", "100");
        match &self.kind {
            Kind::Ringspun(_) if shape.shards > 0 => {
                set("ringspun.shards", &shape.shards.to_string());
            }
            Kind::Kafka(_) => {
                set("offsets.topic.replication.factor", "1");
                set("transaction.state.log.replication.factor", "1");
                set("transaction.state.log.min.isr", "1");
                // It is frozen while others run, and must not think itself dead then.
                set("broker.session.timeout.ms", "3600000");
            }
            _ => {}
        }
        settings.extend(self.more.iter().cloned());
        settings
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port of the loopback")?;
    Ok(listener.local_addr()?.port())
}

/// A broker that is up; killed, and its data removed, when dropped.
pub struct Broker {
    pub target: Target,
    folder: PathBuf,
    cores: Cores,
    shape: Shape,
    port: u16,
    controller_port: u16,
    http: Option<SocketAddr>,
    child: Option<Child>,
}

impl Broker {
    /// Not started yet; `folder` must not exist.
    pub fn new(target: &Target, folder: &Path, cores: &Cores, shape: Shape) -> Result<Broker> {
        fs::create_dir_all(folder).with_context(|| format!("no folder {}", folder.display()))?;
        Ok(Broker {
            target: target.clone(),
            folder: folder.to_path_buf(),
            cores: cores.clone(),
            shape,
            port: free_port()?,
            controller_port: free_port()?,
            http: None,
            child: None,
        })
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Where ringspun serves HTTP.
    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Of the process that was started. 0 while there is none.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    pub fn client(&self) -> Result<wire::Client> {
        wire::Client::connect(self.address(), Duration::from_secs(70))
    }

    /// Starts it and waits for its first answer; how long that took.
    pub fn start(&mut self) -> Result<Duration> {
        let mut command = match &self.target.kind {
            Kind::Ringspun(program) => self.ringspun(&program.clone()),
            Kind::Kafka(java) => self.kafka(&java.clone())?,
            Kind::Command(text) => {
                let data = self.data();
                fs::create_dir_all(&data)?;
                let text = text
                    .replace("{port}", &self.port.to_string())
                    .replace("{bootstrap}", &self.address().to_string())
                    .replace("{data}", &data.to_string_lossy());
                let mut command = Command::new("sh");
                command.arg("-c").arg(text);
                command
            }
        };
        let log = File::options().create(true).append(true).open(self.log())?;
        command.stdin(Stdio::null()).stderr(log.try_clone()?);
        if self.target.is_ringspun() {
            command.stdout(Stdio::piped());
        } else {
            command.stdout(log);
        }
        sys::contain(&mut command, Some(&self.cores));
        let began = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("{} cannot be started", self.target.name))?;
        let stdout = child.stdout.take();
        self.child = Some(child);
        if let Some(stdout) = stdout {
            let mut line = String::new();
            // Ends at the latest when the process does.
            BufReader::new(stdout).read_line(&mut line)?;
            self.http = ready_http(&line);
        }
        self.wait_for_answer(began)
    }

    fn wait_for_answer(&mut self, began: Instant) -> Result<Duration> {
        loop {
            let answered = wire::Client::connect(self.address(), Duration::from_secs(5))
                .and_then(|mut client| client.api_versions());
            if answered.is_ok() {
                return Ok(began.elapsed());
            }
            self.check()?;
            if began.elapsed() > START_TIMEOUT {
                bail!(
                    "{} does not answer on {} after {} s{}",
                    self.target.name,
                    self.address(),
                    START_TIMEOUT.as_secs(),
                    self.last_words()
                );
            }
            if sys::stop_asked() {
                bail!("stopped while {} was starting", self.target.name);
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    fn ringspun(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let mut set = |name: &str, value: &str| {
            command.arg("-o").arg(format!("{name}={value}"));
        };
        set("listeners", &format!("PLAINTEXT://{}", self.address()));
        set("log.dirs", &self.data().to_string_lossy());
        set("ringspun.http.listener", "127.0.0.1:0");
        for (name, value) in self.target.settings(&self.shape) {
            set(&name, &value);
        }
        command
    }

    fn kafka(&self, java: &Java) -> Result<Command> {
        let (broker, controller) = (self.port, self.controller_port);
        let listeners =
            format!("PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}");
        let mut properties = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
             listeners={listeners}\nadvertised.listeners={listeners}\n\
             controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
             log.dirs={}\n",
            self.data().display()
        );
        for (name, value) in self.target.settings(&self.shape) {
            properties += &format!("{name}={value}\n");
        }
        let file = self.folder.join("server.properties");
        fs::write(&file, properties)?;
        if !self.data().join("meta.properties").exists() {
            let output = java
                .command(&["-Xmx256M"])
                .args(["kafka.tools.StorageTool", "format", "--standalone"])
                .args(["-t", "cmluZ3NwdW5yaW5nc3B1bg", "-c"])
                .arg(&file)
                .output()?;
            if !output.status.success() {
                bail!(
                    "Kafka's data directory cannot be made: {}",
                    String::from_utf8_lossy(&output.stderr)
                );
            }
        }
        let mut command = java.command(KAFKA_JAVA);
        command.arg("kafka.Kafka").arg(&file);
        Ok(command)
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The last lines that the broker wrote, to be put behind a message.
    pub fn last_words(&self) -> String {
        let text = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(64 << 10)..]);
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        if lines.is_empty() {
            return "; it wrote nothing".to_owned();
        }
        format!(
            "; its last lines:\n  {}",
            lines[lines.len().saturating_sub(10)..].join("\n  ")
        )
    }

    /// Fails if the process has ended.
    pub fn check(&mut self) -> Result<()> {
        let status: Option<ExitStatus> = match &mut self.child {
            Some(child) => child.try_wait()?,
            None => bail!("{} is not running", self.target.name),
        };
        if let Some(status) = status {
            bail!(
                "{} has ended ({status}){}",
                self.target.name,
                self.last_words()
            );
        }
        Ok(())
    }

    pub fn freeze(&self) {
        sys::signal_group(self.pid(), Signal::STOP);
    }

    /// Lets it run again, and waits until it answers.
    pub fn thaw(&mut self) -> Result<()> {
        self.check()?;
        sys::signal_group(self.pid(), Signal::CONT);
        self.wait_for_answer(Instant::now())?;
        Ok(())
    }

    /// Deletes all topics and waits until their files are gone.
    pub fn remove_topics(&mut self) -> Result<()> {
        self.client()?.delete_topics()?;
        let deadline = Instant::now() + Duration::from_secs(30);
        // What the broker keeps for itself is small.
        while sys::folder_bytes(&self.data()) > 64 << 20 && Instant::now() < deadline {
            self.check()?;
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Asks for a clean end and waits for it.
    pub fn stop(&mut self) -> Result<()> {
        let pid = self.pid();
        sys::signal_group(pid, Signal::CONT);
        sys::signal(pid, Signal::TERM);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            match &mut self.child {
                None => return Ok(()),
                Some(child) => {
                    if child.try_wait()?.is_some() {
                        self.child = None;
                        return Ok(());
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        bail!(
            "{} was still running {} s after SIGTERM",
            self.target.name,
            STOP_TIMEOUT.as_secs()
        )
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The group exists until its leader has been waited for.
            sys::signal_group(child.id(), Signal::KILL);
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The address of HTTP in `ringspun ready node=1 listeners=… http=127.0.0.1:9644 …`.
fn ready_http(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.strip_prefix("ringspun ready ")?.split_once("http=")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_broker_needs_a_name_of_its_own_and_a_place_for_the_port() {
        let target =
            Target::parse("nisshi=nisshi broker --port {port} --dir {data}").expect("good");
        assert_eq!(target.name, "nisshi");
        for wrong in [
            "nisshi",
            "=x {port}",
            "kafka=x {port}",
            "a b=x {port}",
            "nisshi=nisshi broker",
        ] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn another_ringspun_has_a_name_and_settings_of_its_own() {
        let with = With::parse("direct:ringspun.log.io=direct,num.partitions=3").expect("good");
        assert_eq!(with.name, "direct");
        let ours = Target {
            name: "ringspun".into(),
            kind: Kind::Ringspun("ringspun".into()),
            version: String::new(),
            more: Vec::new(),
        };
        let target = ours.with(&with);
        assert!(target.is_ringspun());
        let direct = ("ringspun.log.io".to_owned(), "direct".to_owned());
        assert!(target.settings(&Shape::default()).contains(&direct));
        assert!(!ours.settings(&Shape::default()).contains(&direct));
        for wrong in ["direct", "direct:", "kafka:a=b", ":a=b", "a b:c=d", "a:b"] {
            assert!(With::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_broker_that_dies_at_once_is_told_with_its_last_lines_and_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = Target::parse("dies=echo no licence >&2; exit 7 # {port}").expect("good");
        let below = folder.path().join("dies");
        let cores = Cores(vec![0]);
        let mut broker = Broker::new(&target, &below, &cores, Shape::default()).expect("a folder");
        let error = broker.start().unwrap_err().to_string();
        assert!(
            error.contains("dies has ended") && error.contains("no licence"),
            "{error}"
        );
        drop(broker);
        assert!(!below.exists());
    }

    #[test]
    fn the_address_of_http_is_in_the_ready_line() {
        let line = "ringspun ready node=1 listeners=PLAINTEXT://127.0.0.1:1 http=127.0.0.1:9644 shards=2 ms=12\n";
        assert_eq!(ready_http(line), Some(([127, 0, 0, 1], 9644).into()));
        assert_eq!(ready_http("ringspun: no"), None);
    }

    #[test]
    fn both_durabilities_are_kafkas_own_setting() {
        let target = Target::parse("x={port}").expect("good");
        let fsync = Shape {
            fsync: true,
            ..Shape::default()
        };
        let flush = ("log.flush.interval.messages".to_owned(), "1".to_owned());
        assert!(target.settings(&fsync).contains(&flush));
        assert!(!target.settings(&Shape::default()).contains(&flush));
    }
}
