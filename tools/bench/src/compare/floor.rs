//! What physics asks for: two programs that do only the unavoidable, and the loads that drive them.
//!
//! - `receive`: takes frames from its connections, writes all bytes that arrived in a turn with one
//!   `pwritev` into a file whose space is allocated, and answers each frame with eight bytes.
//! - `send`: sends a part of a file that is in the page cache by `sendfile`.
//! - `durable`: 4 KiB written with `O_DSYNC` over and over into a file that was written before; at a rate, whenever a
//!   record is due, for all that are due. A disk that stands still for 3 ms delays 15 of 5,000 records a second, and
//!   one write of those that only follow each other.
//! - `read`: a file that is not in memory, from its begin to its end, several large reads at once.
//!
//! Each is a child process of one thread, pinned where the brokers are, so that it is measured as they are.
//! [`pour`] and [`drain`] are the loads, on the calling thread.

use std::fs::File;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hdrhistogram::Histogram;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use serde::{Deserialize, Serialize};

use super::sys::{self, Cores};

/// Bytes taken from one connection at a time.
const RECEIVE_BYTES: usize = 256 << 10;
/// A write has so many bytes, or few more: calls of 1 MiB cost up to nine times as much, where memory is in
/// pieces.
const WRITE_BYTES: usize = 256 << 10;
/// The file of `receive` is extended in steps of this.
const EXTEND_BYTES: u64 = 256 << 20;
const SEND_BYTES: usize = 256 << 10;
/// One read of `read`, how many are under way at once, and where a buffer begins that the kernel writes to directly.
const READ_BYTES: usize = 1 << 20;
const READS_AT_ONCE: usize = 4;
const READ_ALIGNMENT: usize = 4096;
/// A frame due sooner than this is awaited awake, as the load generator does.
const SPIN: Duration = Duration::from_micros(60);
/// An answer: a length of 4 and 4 bytes, as a Kafka response begins.
const ANSWER: [u8; 8] = [0, 0, 0, 4, 0, 0, 0, 7];

/// One of the programs; hidden from `--help`.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum Program {
    /// Receive frames and write them to FILE
    Receive { file: PathBuf },
    /// Send parts of FILE
    Send { file: PathBuf },
    /// Write 4 KiB durably over and over
    Durable {
        file: PathBuf,
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// Records a second
        #[arg(long)]
        rate: Option<f64>,
    },
    /// Write so many bytes to FILE, and read them past the page cache
    Read { file: PathBuf, bytes: u64 },
}

/// Runs a program until its standard input ends.
pub fn run(program: &Program) -> Result<()> {
    match program {
        Program::Receive { file } => receive(file),
        Program::Send { file } => send(file),
        Program::Durable {
            file,
            seconds,
            rate,
        } => durable(file, Duration::from_secs_f64(*seconds), *rate),
        Program::Read { file, bytes } => read(file, *bytes),
    }
}

/// Counts frames in a stream of `length, bytes`.
#[derive(Clone, Copy, Debug, Default)]
struct Frames {
    /// Bytes of the frame under way that are still to come.
    left: usize,
    /// A length of which not all bytes have come.
    head: [u8; 4],
    head_len: usize,
}

impl Frames {
    /// How many frames end within `bytes`.
    fn take(&mut self, mut bytes: &[u8]) -> usize {
        let mut ended = 0;
        while !bytes.is_empty() {
            if self.left > 0 {
                let part = self.left.min(bytes.len());
                bytes = &bytes[part..];
                self.left -= part;
                ended += usize::from(self.left == 0);
                continue;
            }
            self.head[self.head_len] = bytes[0];
            bytes = &bytes[1..];
            self.head_len += 1;
            if self.head_len == 4 {
                self.head_len = 0;
                self.left = u32::from_be_bytes(self.head) as usize;
                ended += usize::from(self.left == 0);
            }
        }
        ended
    }
}

fn listen() -> Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    println!("ready {}", listener.local_addr()?.port());
    io::stdout().flush()?;
    Ok(listener)
}

const LISTENER: u64 = u64::MAX;
const INPUT: u64 = u64::MAX - 1;

/// An epoll instance that watches the listener and standard input.
fn watch(listener: &TcpListener) -> io::Result<rustix::fd::OwnedFd> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let readable = epoll::EventFlags::IN;
    epoll::add(
        &poll,
        listener,
        epoll::EventData::new_u64(LISTENER),
        readable,
    )?;
    epoll::add(
        &poll,
        io::stdin(),
        epoll::EventData::new_u64(INPUT),
        readable,
    )?;
    Ok(poll)
}

fn wait(poll: &rustix::fd::OwnedFd, events: &mut Vec<epoll::Event>) -> io::Result<()> {
    events.clear();
    match epoll::wait(poll, rustix::buffer::spare_capacity(events), None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

struct Receiving {
    stream: TcpStream,
    frames: Frames,
    buffer: Vec<u8>,
    filled: usize,
    ended: usize,
}

fn receive(path: &Path) -> Result<()> {
    let file = File::create(path)?;
    let (mut position, mut allocated) = (0u64, 0u64);
    let listener = listen()?;
    let poll = watch(&listener)?;
    let mut connections: Vec<Option<Receiving>> = Vec::new();
    let mut events = Vec::with_capacity(256);
    let answers = ANSWER.repeat(RECEIVE_BYTES / 4);
    loop {
        wait(&poll, &mut events)?;
        let mut ready = Vec::with_capacity(events.len());
        for event in &events {
            match event.data.u64() {
                INPUT => return Ok(()),
                LISTENER => {
                    while let Ok((stream, _)) = listener.accept() {
                        stream.set_nonblocking(true)?;
                        stream.set_nodelay(true)?;
                        let data = epoll::EventData::new_u64(connections.len() as u64);
                        epoll::add(&poll, &stream, data, epoll::EventFlags::IN)?;
                        connections.push(Some(Receiving {
                            stream,
                            frames: Frames::default(),
                            buffer: vec![0; RECEIVE_BYTES],
                            filled: 0,
                            ended: 0,
                        }));
                    }
                }
                at => ready.push(at as usize),
            }
        }
        let mut next = ready.as_slice();
        while !next.is_empty() {
            // As many connections as one write takes.
            let (mut gathered, mut count) = (0, 0);
            for &at in next {
                if gathered >= WRITE_BYTES {
                    break;
                }
                count += 1;
                let Some(Some(connection)) = connections.get_mut(at) else {
                    continue;
                };
                connection.filled = match connection.stream.read(&mut connection.buffer) {
                    Ok(0) => {
                        connections[at] = None;
                        continue;
                    }
                    Ok(read) => read,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                    Err(_) => {
                        connections[at] = None;
                        continue;
                    }
                };
                connection.ended = connection
                    .frames
                    .take(&connection.buffer[..connection.filled]);
                gathered += connection.filled;
            }
            let (batch, rest) = next.split_at(count);
            next = rest;
            if position + gathered as u64 > allocated {
                let step = EXTEND_BYTES.max(gathered as u64);
                rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), allocated, step)?;
                allocated += step;
            }
            let live = || batch.iter().filter_map(|at| connections[*at].as_ref());
            let parts: Vec<IoSlice<'_>> = live()
                .filter(|c| c.filled > 0)
                .map(|c| IoSlice::new(&c.buffer[..c.filled]))
                .collect();
            if !parts.is_empty() {
                let written = rustix::io::pwritev(&file, &parts, position)?;
                ensure!(written == gathered, "a short write: is the disk full?");
                position += gathered as u64;
            }
            for connection in live() {
                let bytes = ANSWER.len() * connection.ended;
                // The answers are small, and whoever drives this reads them.
                (&connection.stream).write_all(&answers[..bytes])?;
            }
            for at in batch {
                if let Some(connection) = &mut connections[*at] {
                    (connection.filled, connection.ended) = (0, 0);
                }
            }
        }
    }
}

/// A request to `send`: so many bytes from the begin of the file.
fn send(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    ensure!(size > 0, "{} is empty", path.display());
    let listener = listen()?;
    let poll = watch(&listener)?;
    // The stream, its request, and what is left to send.
    let mut connections: Vec<Option<(TcpStream, u64)>> = Vec::new();
    let mut events = Vec::with_capacity(256);
    loop {
        wait(&poll, &mut events)?;
        for event in &events {
            match event.data.u64() {
                INPUT => return Ok(()),
                LISTENER => {
                    while let Ok((mut stream, _)) = listener.accept() {
                        let mut request = [0; 8];
                        stream.read_exact(&mut request)?;
                        stream.set_nonblocking(true)?;
                        let data = epoll::EventData::new_u64(connections.len() as u64);
                        epoll::add(&poll, &stream, data, epoll::EventFlags::OUT)?;
                        connections.push(Some((stream, u64::from_be_bytes(request))));
                    }
                }
                at => {
                    let Some(slot) = connections.get_mut(at as usize) else {
                        continue;
                    };
                    if !send_part(slot, &file, size) {
                        *slot = None;
                    }
                }
            }
        }
    }
}

/// Sends at most one piece; whether there is more to come.
fn send_part(slot: &mut Option<(TcpStream, u64)>, file: &File, size: u64) -> bool {
    let Some((stream, left)) = slot else {
        return false;
    };
    // Around and around: the same pages are as hot as they can be.
    let mut from = size - 1 - (*left - 1) % size;
    let piece = SEND_BYTES.min((size - from).min(*left) as usize);
    match rustix::fs::sendfile(&*stream, file, Some(&mut from), piece) {
        Ok(sent) => *left -= sent as u64,
        Err(Errno::AGAIN) => {}
        Err(_) => return false,
    }
    *left > 0
}

/// Percentiles in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub mean: f64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub p9999: u64,
    pub max: u64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Latency {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Latency {
            count: histogram.len(),
            mean: histogram.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: histogram.max(),
        }
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// When the records were due that the next write is for: all that are due at `now`, of which `next` is the first; one
/// that is due now where there is no rate.
fn due(rate: Option<f64>, next: &mut u64, now: Duration) -> Vec<Duration> {
    let Some(rate) = rate else {
        return vec![now];
    };
    let mut all = Vec::new();
    loop {
        let due = Duration::from_secs_f64(*next as f64 / rate);
        if due > now {
            return all;
        }
        all.push(due);
        *next += 1;
    }
}

fn durable(path: &Path, time: Duration, rate: Option<f64>) -> Result<()> {
    const PAGES: u64 = 4096;
    let block = [0x5a; 4096];
    let mut file = File::create(path)?;
    for _ in 0..PAGES {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
    let flags = rustix::fs::OFlags::DSYNC.bits();
    let file = File::options()
        .write(true)
        .custom_flags(i32::try_from(flags)?)
        .open(path)?;
    let mut histogram = Histogram::<u64>::new(3)?;
    let began = Instant::now();
    let mut at = 0;
    let mut next = 0;
    while began.elapsed() < time {
        let due = due(rate, &mut next, began.elapsed());
        if due.is_empty() {
            // A sleep would add what the kernel needs to end it.
            std::hint::spin_loop();
            continue;
        }
        file.write_all_at(&block, at % PAGES * 4096)?;
        at += 1;
        let done = began.elapsed();
        for due in due {
            histogram.record(microseconds(done - due))?;
        }
    }
    println!("{}", serde_json::to_string(&Latency::of(&histogram))?);
    Ok(())
}

/// What was read, and how long it took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskRead {
    pub bytes: u64,
    pub seconds: f64,
}

impl DiskRead {
    pub fn mb_s(self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds.max(1e-6)
    }
}

fn read(path: &Path, bytes: u64) -> Result<()> {
    use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
    let pieces = bytes.div_ceil(READ_BYTES as u64);
    let mut file = File::create(path)?;
    let piece: Vec<u8> = (0..READ_BYTES as u32)
        .map(|at| at.wrapping_mul(0x9e37_79b1).to_be_bytes()[0])
        .collect();
    for _ in 0..pieces {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    let file = File::options()
        .read(true)
        .custom_flags(i32::try_from(rustix::fs::OFlags::DIRECT.bits())?)
        .open(path)?;
    let next = AtomicU64::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let reader = || -> io::Result<()> {
            let mut buffer = vec![0; READ_BYTES + READ_ALIGNMENT];
            let from = buffer.as_ptr().align_offset(READ_ALIGNMENT);
            let buffer = &mut buffer[from..from + READ_BYTES];
            loop {
                let piece = next.fetch_add(1, Ordering::Relaxed);
                if piece >= pieces {
                    return Ok(());
                }
                file.read_exact_at(buffer, piece * READ_BYTES as u64)?;
            }
        };
        let readers: Vec<_> = (0..READS_AT_ONCE).map(|_| scope.spawn(reader)).collect();
        for reader in readers {
            let ended = reader.join();
            ended.map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        }
        anyhow::Ok(())
    })?;
    let read = DiskRead {
        bytes: pieces * READ_BYTES as u64,
        seconds: began.elapsed().as_secs_f64(),
    };
    println!("{}", serde_json::to_string(&read)?);
    Ok(())
}

/// A floor program that runs; ended when dropped.
pub struct Floor {
    child: Child,
    port: u16,
    file: PathBuf,
}

impl Floor {
    /// Starts `receive` or `send` on these cores.
    pub fn start(what: &str, file: &Path, cores: &Cores) -> Result<Floor> {
        let mut command = command(what, file, cores)?;
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        let line = first_line(child.stdout.take());
        let port = line
            .strip_prefix("ready ")
            .and_then(|port| port.trim().parse().ok());
        let floor = Floor {
            child,
            port: port.unwrap_or(0),
            file: file.to_path_buf(),
        };
        ensure!(port.is_some(), "the floor program {what} did not start");
        Ok(floor)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.file);
    }
}

fn command(what: &str, file: &Path, cores: &Cores) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("floor")
        .arg(what)
        .arg(file)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    sys::contain(&mut command, Some(cores));
    Ok(command)
}

fn first_line(stdout: Option<ChildStdout>) -> String {
    let mut line = String::new();
    if let Some(stdout) = stdout {
        let _ = io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut line);
    }
    line
}

/// The percentiles of durable writes on the disk of `file`, by a program on these cores: one after the other, or at
/// a rate.
pub fn durable_latency(
    file: &Path,
    seconds: f64,
    rate: Option<f64>,
    cores: &Cores,
) -> Result<Latency> {
    let mut command = command("durable", file, cores)?;
    command
        .arg("--seconds")
        .arg(seconds.to_string())
        .stdin(Stdio::null());
    if let Some(rate) = rate {
        command.arg("--rate").arg(rate.to_string());
    }
    let output = command.output()?;
    let _ = std::fs::remove_file(file);
    ensure!(output.status.success(), "the floor program durable failed");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// How fast the disk of `file` gives what is not in memory, by a program on these cores.
pub fn disk_read(file: &Path, bytes: u64, cores: &Cores) -> Result<DiskRead> {
    let mut command = command("read", file, cores)?;
    command.arg(bytes.to_string()).stdin(Stdio::null());
    let output = command.output()?;
    let _ = std::fs::remove_file(file);
    ensure!(output.status.success(), "the floor program read failed");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What a load saw.
#[derive(Clone, Debug)]
pub struct Poured {
    pub frames: u64,
    pub bytes: u64,
    pub from: Instant,
    pub to: Instant,
    /// From the time at which a frame should have been sent, or was sent where there is no rate.
    pub latency: Latency,
}

/// How much is poured.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Frames that a connection has sent and not had answered, at most.
    pub in_flight: usize,
    /// The end, whichever comes first.
    pub bytes: u64,
    pub time: Duration,
    /// Frames a second over all connections; none: as fast as they are answered.
    pub rate: Option<f64>,
}

struct Pouring<'a> {
    stream: TcpStream,
    frame: &'a [u8],
    /// Of the frame under way.
    sent: usize,
    /// When the frames that are not answered were to be sent.
    due: std::collections::VecDeque<Instant>,
    answers: Frames,
    /// Frames that are to be sent.
    wanted: usize,
    blocked: bool,
}

/// Sends frames over connections, each its own frame again and again, and reads the answers, which begin
/// with a length. The calling thread is busy with nothing else meanwhile.
pub fn pour(connections: Vec<(TcpStream, &[u8])>, amount: &Amount) -> Result<Poured> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut all = Vec::new();
    for (at, (stream, frame)) in connections.into_iter().enumerate() {
        ensure!(!frame.is_empty(), "an empty frame");
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&poll, &stream, epoll::EventData::new_u64(at as u64), flags)?;
        all.push(Pouring {
            stream,
            frame,
            sent: 0,
            due: std::collections::VecDeque::new(),
            answers: Frames::default(),
            wanted: 0,
            blocked: false,
        });
    }
    ensure!(!all.is_empty(), "no connections");
    let mut histogram = Histogram::<u64>::new(3)?;
    let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
    let mut scratch = vec![0; 64 << 10];
    let from = Instant::now();
    let (mut frames, mut bytes, mut begun) = (0u64, 0u64, 0u64);
    let mut asked = 0u64;
    let mut to = from;
    loop {
        let now = Instant::now();
        let over = bytes >= amount.bytes || now - from >= amount.time || sys::stop_asked();
        let open: usize = all
            .iter()
            .map(|c| c.due.len() + usize::from(c.sent > 0))
            .sum();
        if over && open == 0 {
            break;
        }
        if now - from > amount.time + Duration::from_secs(30) {
            bail!("answers do not come");
        }
        let mut timeout = Duration::from_millis(100);
        if let Some(rate) = amount.rate {
            // The first is due at the begin.
            let due = ((now - from).as_secs_f64() * rate) as u64 + 1;
            let count = all.len() as u64;
            while !over && asked < due {
                all[(asked % count) as usize].wanted += 1;
                asked += 1;
            }
            let next = Duration::from_secs_f64(asked as f64 / rate);
            let left = next.saturating_sub(now - from);
            // A sleep would end later.
            timeout = match left < SPIN {
                true => Duration::ZERO,
                false => timeout.min(left - SPIN / 2),
            };
        }
        for connection in &mut all {
            while !connection.blocked && (connection.sent > 0 || !over) {
                if connection.sent == 0 {
                    let may = match amount.rate {
                        Some(_) => connection.wanted > 0,
                        None => connection.due.len() < amount.in_flight,
                    };
                    if !may {
                        break;
                    }
                }
                match connection
                    .stream
                    .write(&connection.frame[connection.sent..])
                {
                    Ok(written) => {
                        bytes += written as u64;
                        if connection.sent == 0 {
                            let due = match amount.rate {
                                Some(rate) => from + Duration::from_secs_f64(begun as f64 / rate),
                                None => now,
                            };
                            connection.wanted = connection.wanted.saturating_sub(1);
                            connection.due.push_back(due);
                            begun += 1;
                        }
                        connection.sent += written;
                        if connection.sent == connection.frame.len() {
                            connection.sent = 0;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        connection.blocked = true
                    }
                    Err(error) => return Err(error).context("the connection failed while sending"),
                }
            }
        }
        events.clear();
        let timeout = rustix::fs::Timespec::try_from(timeout)?;
        match epoll::wait(
            &poll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&timeout),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let Some(connection) = all.get_mut(event.data.u64() as usize) else {
                continue;
            };
            let flags = event.flags;
            if flags.contains(epoll::EventFlags::OUT) {
                connection.blocked = false;
            }
            loop {
                match connection.stream.read(&mut scratch) {
                    Ok(0) => bail!("the broker closed the connection"),
                    Ok(read) => {
                        let now = Instant::now();
                        for _ in 0..connection.answers.take(&scratch[..read]) {
                            let due = connection.due.pop_front().context("an answer too many")?;
                            histogram.record(microseconds(now.saturating_duration_since(due)))?;
                            frames += 1;
                            to = now;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        return Err(error).context("the connection failed while receiving");
                    }
                }
            }
        }
    }
    Ok(Poured {
        frames,
        bytes,
        from,
        to,
        latency: Latency::of(&histogram),
    })
}

/// Takes `bytes` from `send` over each of so many connections, without looking at them.
pub fn drain(address: SocketAddr, connections: usize, bytes: u64) -> Result<Poured> {
    let mut streams = Vec::new();
    let from = Instant::now();
    for _ in 0..connections {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(&bytes.to_be_bytes())?;
        streams.push((stream, bytes));
    }
    let mut scratch = vec![0; 1 << 20];
    while !streams.is_empty() {
        for (stream, left) in &mut streams {
            let fd: BorrowedFd<'_> = stream.as_fd();
            let len = scratch.len().min(*left as usize);
            let (_, taken) = rustix::net::recv(fd, &mut scratch[..len], RecvFlags::TRUNC)?;
            ensure!(
                taken > 0,
                "the floor program closed connection {}",
                fd.as_raw_fd()
            );
            *left -= taken as u64;
        }
        streams.retain(|(_, left)| *left > 0);
    }
    Ok(Poured {
        frames: 0,
        bytes: bytes * connections as u64,
        from,
        to: Instant::now(),
        latency: Latency::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_wherever_they_are_cut() {
        let stream: Vec<u8> = [3u8, 0, 5]
            .iter()
            .flat_map(|len| {
                let mut frame = u32::from(*len).to_be_bytes().to_vec();
                frame.extend(vec![9; usize::from(*len)]);
                frame
            })
            .collect();
        for cut in 1..stream.len() {
            let mut frames = Frames::default();
            let counted: usize = stream.chunks(cut).map(|part| frames.take(part)).sum();
            assert_eq!(counted, 3, "cut every {cut}");
        }
    }

    #[test]
    fn a_durable_write_is_for_all_records_that_are_due() {
        let ms = Duration::from_millis;
        let mut next = 0;
        assert_eq!(due(Some(1000.0), &mut next, ms(0)), [ms(0)]);
        assert!(due(Some(1000.0), &mut next, Duration::from_micros(999)).is_empty());
        // The disk stood still until the fourth was due.
        assert_eq!(due(Some(1000.0), &mut next, ms(3)), [ms(1), ms(2), ms(3)]);
        assert_eq!(due(None, &mut next, ms(7)), [ms(7)]);
    }

    #[test]
    fn a_late_answer_is_counted_from_when_its_frame_was_due() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let (seen, all_seen) = std::sync::mpsc::channel();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut frame = [0; 8];
            // Nothing is answered before the tenth has come.
            for _ in 0..10 {
                stream.read_exact(&mut frame).expect("a frame");
            }
            let _ = seen.send(Instant::now());
            stream.write_all(&ANSWER.repeat(10)).expect("room");
            let _ = stream.read(&mut frame);
        });
        let frame = [0, 0, 0, 4, 1, 2, 3, 4];
        let stream = TcpStream::connect(address).expect("the server");
        let amount = Amount {
            in_flight: 1,
            bytes: 80,
            time: Duration::from_secs(20),
            rate: Some(100.0),
        };
        let poured = pour(vec![(stream, &frame)], &amount).expect("answers");
        let waited = all_seen.recv().expect("the server ran") - poured.from;
        assert_eq!(poured.frames, 10);
        // The first was due at the begin.
        assert!(
            poured.latency.max >= microseconds(waited) * 99 / 100,
            "{:?}",
            poured.latency
        );
        server.join().expect("no panic");
    }
}
