//! Measures the disk under a directory and the loopback, and says what fits.
//!
//! Bounded: a file of 96 MiB is written twice and a little more, each step has a time of its own, and all of it takes less than
//! twenty seconds. The file has no name from the moment it is open, so nothing is left behind however this ends. Times are
//! those of one thread that waits for each write, unless it says otherwise; other work on the machine shows in them.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, AtFlags, StatxFlags, fadvise, fdatasync, statvfs, statx};
use rustix::io::{ReadWriteFlags, pwritev2};
use serde_json::{Value, json};

use super::{Machine, disks};

const MIB: u64 = 1 << 20;

/// How much of it.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// Size of the file.
    file_bytes: u64,
    /// Most single durable writes of a kind.
    durable_writes: usize,
    /// Most time of a step on the disk.
    step: Duration,
    /// Time of each of the two steps on the loopback.
    loopback_step: Duration,
}

const FULL: Effort = Effort {
    file_bytes: 96 * MIB,
    durable_writes: 400,
    step: Duration::from_secs(2),
    loopback_step: Duration::from_millis(700),
};

/// A write to the page cache, as large as those of the broker.
const CACHE_WRITE_BYTES: usize = 256 << 10;

/// Written to the page cache before it is synced.
const CACHE_SYNC_BYTES: u64 = 16 * MIB;

/// A read through the page cache.
const CACHE_READ_BYTES: usize = 64 << 10;

/// A read or write past the page cache, and how many are under way at once.
const DIRECT_BYTES: usize = 1 << 20;
const DIRECT_DEPTH: usize = 4;

/// A durable write, and what O_DIRECT is aligned to.
const BLOCK_BYTES: usize = 4096;

/// How long one end of the loopback waits for the other.
const PATIENCE: Duration = Duration::from_secs(2);

const LOOPBACK_BYTES: usize = 64 << 10;

/// Less than this is no difference on a machine that does other things, too.
const CLEARLY: f64 = 1.2;

/// How long single operations took.
#[derive(Clone, Debug)]
struct Times {
    /// Ascending; at least one.
    sorted: Vec<Duration>,
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        (!times.is_empty()).then_some(Self { sorted: times })
    }

    fn micros(&self, quantile: f64) -> f64 {
        let last = self.sorted.len() - 1;
        let place = (last as f64 * quantile).round() as usize;
        self.sorted
            .get(place)
            .map_or(0.0, |t| t.as_secs_f64() * 1e6)
    }

    fn text(&self) -> String {
        format!(
            "p50 {:.0} us, p99 {:.0} us, max {:.0} us ({} times)",
            self.micros(0.5),
            self.micros(0.99),
            self.micros(1.0),
            self.sorted.len()
        )
    }

    fn json(&self) -> Value {
        json!({
            "p50_us": self.micros(0.5),
            "p99_us": self.micros(0.99),
            "max_us": self.micros(1.0),
            "count": self.sorted.len(),
        })
    }
}

/// What was measured past the page cache.
#[derive(Clone, Debug)]
struct Direct {
    /// What offsets and lengths have to be multiples of, where the kernel says.
    alignment_bytes: Option<u32>,
    write_mb_s: f64,
    read_mb_s: f64,
    durable: Option<Times>,
}

/// What [`measure`] found out. MB are 1,000,000 bytes.
#[derive(Clone, Debug)]
pub struct Measured {
    directory: String,
    /// Kind of file system and the disks under it, where that can be seen.
    beneath: Option<(String, Vec<String>)>,
    /// KiB the kernel reads ahead.
    read_ahead_kb: Option<u64>,
    /// With the fsync after each 16 MiB.
    cache_write_mb_s: f64,
    /// Into blocks that were written before.
    durable: Option<Times>,
    /// At the end of the file, which grows.
    durable_growing: Option<Times>,
    read_mb_s: f64,
    read_without_ahead_mb_s: f64,
    /// Or why not.
    direct: Result<Direct, String>,
    loopback_mb_s: f64,
    loopback: Option<Times>,
}

/// Bytes at an address that O_DIRECT takes.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn random(len: usize) -> Self {
        let mut bytes = vec![0; len + BLOCK_BYTES];
        fastrand::fill(&mut bytes);
        let start = bytes.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        Self { bytes, start, len }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

fn mb_s(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64().max(1e-9)
}

/// The file, by way of the page cache and past it. It has no name.
fn open(dir: &Path) -> io::Result<(File, io::Result<File>)> {
    let path = dir.join(format!(".ringspun-probe-{}.tmp", std::process::id()));
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let cached = options.clone().create_new(true).open(&path)?;
    let direct = options.custom_flags(libc::O_DIRECT).open(&path);
    fs::remove_file(&path)?;
    Ok((cached, direct))
}

/// Measures the disk under `dir`, which must exist, and the loopback.
pub fn measure(dir: &Path) -> Result<Measured, String> {
    measure_with(dir, FULL)
}

fn measure_with(dir: &Path, effort: Effort) -> Result<Measured, String> {
    let failed = |what: &str, error: io::Error| format!("{}: {what}: {error}", dir.display());
    let space = statvfs(dir).map_err(|e| failed("cannot be looked at", e.into()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < 2 * effort.file_bytes {
        return Err(format!(
            "{}: {} MiB are free, and {} are needed to measure",
            dir.display(),
            free / MIB,
            2 * effort.file_bytes / MIB
        ));
    }
    let (cached, direct) = open(dir).map_err(|e| failed("a file cannot be made in it", e))?;
    let (written, cache_write_mb_s) =
        write_cached(&cached, effort).map_err(|e| failed("write", e))?;
    let durable = durable_cached(&cached, 0, effort).map_err(|e| failed("fdatasync", e))?;
    let durable_growing =
        durable_cached(&cached, written, effort).map_err(|e| failed("fdatasync", e))?;
    let read = |advice| read_cached(&cached, written, advice, effort);
    let read_without_ahead_mb_s = read(Advice::Random).map_err(|e| failed("read", e))?;
    let read_mb_s = read(Advice::Normal).map_err(|e| failed("read", e))?;
    let direct = direct
        .and_then(|file| measure_direct(&file, written, effort))
        .map_err(|error| error.to_string());
    let (loopback_mb_s, loopback) =
        measure_loopback(effort).map_err(|error| format!("the loopback: {error}"))?;
    let machine = Machine::here(None).ok();
    let full = dir
        .canonicalize()
        .map_err(|e| failed("cannot be looked at", e))?;
    let beneath = machine
        .as_ref()
        .and_then(|machine| disks::beneath(machine, &full));
    let disk = beneath.as_ref().and_then(|(_, disks)| disks.first());
    let read_ahead_kb = disk.and_then(|disk| {
        machine
            .as_ref()?
            .number(&format!("/sys/block/{disk}/queue/read_ahead_kb"))
    });
    Ok(Measured {
        directory: full.display().to_string(),
        beneath,
        read_ahead_kb,
        cache_write_mb_s,
        durable,
        durable_growing,
        read_mb_s,
        read_without_ahead_mb_s,
        direct,
        loopback_mb_s,
        loopback,
    })
}

/// How much was written in the time, and how fast.
fn write_cached(file: &File, effort: Effort) -> io::Result<(u64, f64)> {
    let block = Aligned::random(CACHE_WRITE_BYTES);
    let began = Instant::now();
    let mut written = 0;
    while written < effort.file_bytes && (written == 0 || began.elapsed() < effort.step) {
        let until = effort.file_bytes.min(written + CACHE_SYNC_BYTES);
        while written < until {
            file.write_all_at(block.get(), written)?;
            written += CACHE_WRITE_BYTES as u64;
        }
        fdatasync(file)?;
    }
    Ok((written, mb_s(written, began.elapsed())))
}

fn repeat(
    effort: Effort,
    mut once: impl FnMut(u64) -> io::Result<()>,
) -> io::Result<Option<Times>> {
    let began = Instant::now();
    let mut times = Vec::with_capacity(effort.durable_writes);
    while times.len() < effort.durable_writes && began.elapsed() < effort.step {
        let at = Instant::now();
        once((times.len() * BLOCK_BYTES) as u64)?;
        times.push(at.elapsed());
    }
    Ok(Times::of(times))
}

fn durable_cached(file: &File, from: u64, effort: Effort) -> io::Result<Option<Times>> {
    let block = Aligned::random(BLOCK_BYTES);
    repeat(effort, |at| {
        file.write_all_at(block.get(), from + at)?;
        Ok(fdatasync(file)?)
    })
}

/// Reads what was written, after the cache has let go of it.
fn read_cached(file: &File, bytes: u64, advice: Advice, effort: Effort) -> io::Result<f64> {
    fadvise(file, 0, None, Advice::DontNeed)?;
    fadvise(file, 0, None, advice)?;
    let mut block = vec![0; CACHE_READ_BYTES];
    let began = Instant::now();
    let mut at = 0;
    while at < bytes && began.elapsed() < effort.step {
        file.read_exact_at(&mut block, at)?;
        at += CACHE_READ_BYTES as u64;
    }
    Ok(mb_s(at, began.elapsed()))
}

fn measure_direct(file: &File, bytes: u64, effort: Effort) -> io::Result<Direct> {
    let known = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok();
    let known = known.filter(|s| s.stx_mask & StatxFlags::DIOALIGN.bits() != 0);
    let write_mb_s = in_parallel(bytes, effort, |block, at| {
        file.write_all_at(block.get(), at)
    })?;
    let block = Aligned::random(BLOCK_BYTES);
    let durable = repeat(effort, |at| {
        let block = [io::IoSlice::new(block.get())];
        match pwritev2(file, &block, at, ReadWriteFlags::DSYNC)? {
            BLOCK_BYTES => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    })?;
    let read_mb_s = in_parallel(bytes, effort, |block, at| {
        file.read_exact_at(block.get_mut(), at)
    })?;
    Ok(Direct {
        alignment_bytes: known
            .map(|s| s.stx_dio_offset_align)
            .filter(|&align| align > 0),
        write_mb_s,
        read_mb_s,
        durable,
    })
}

/// Goes over the file, [`DIRECT_DEPTH`] pieces at once.
fn in_parallel(
    bytes: u64,
    effort: Effort,
    once: impl Fn(&mut Aligned, u64) -> io::Result<()> + Sync,
) -> io::Result<f64> {
    let next = AtomicU64::new(0);
    let done = AtomicU64::new(0);
    let began = Instant::now();
    let run = || -> io::Result<()> {
        let mut block = Aligned::random(DIRECT_BYTES);
        while began.elapsed() < effort.step {
            let at = next.fetch_add(DIRECT_BYTES as u64, Ordering::Relaxed);
            if at + DIRECT_BYTES as u64 > bytes {
                break;
            }
            once(&mut block, at)?;
            done.fetch_add(DIRECT_BYTES as u64, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..DIRECT_DEPTH).map(|_| scope.spawn(run)).collect();
        let gone = || io::Error::other("a thread ended early");
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| gone())?)
    })?;
    Ok(mb_s(done.load(Ordering::Relaxed), began.elapsed()))
}

/// MB a second in one direction, and the round trips of one byte.
fn measure_loopback(effort: Effort) -> io::Result<(f64, Option<Times>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    for end in [&near, &far] {
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(PATIENCE))?;
        end.set_write_timeout(Some(PATIENCE))?;
    }
    std::thread::scope(|scope| {
        // First echoes single bytes; a 1 ends that, and the rest is counted.
        let reader = scope.spawn(move || -> io::Result<u64> {
            let mut byte = [0];
            while byte[0] == 0 {
                far.read_exact(&mut byte)?;
                far.write_all(&byte)?;
            }
            let mut block = vec![0; LOOPBACK_BYTES];
            let mut bytes = 0;
            loop {
                match far.read(&mut block)? {
                    0 => return Ok(bytes),
                    n => bytes += n as u64,
                }
            }
        });
        let mut times = Vec::new();
        let began = Instant::now();
        let mut byte = [0];
        while byte[0] == 0 {
            let at = Instant::now();
            byte[0] = u8::from(began.elapsed() >= effort.loopback_step);
            near.write_all(&byte)?;
            near.read_exact(&mut byte)?;
            times.push(at.elapsed());
        }
        let block = vec![0x5a; LOOPBACK_BYTES];
        let began = Instant::now();
        while began.elapsed() < effort.loopback_step {
            near.write_all(&block)?;
        }
        near.shutdown(std::net::Shutdown::Write)?;
        let bytes = reader
            .join()
            .map_err(|_| io::Error::other("a thread ended early"))??;
        Ok((mb_s(bytes, began.elapsed()), Times::of(times)))
    })
}

/// What a measurement speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fits {
    PageCache,
    Direct,
    Either,
}

impl Fits {
    fn word(self) -> &'static str {
        match self {
            Fits::PageCache => "page-cache",
            Fits::Direct => "direct",
            Fits::Either => "either",
        }
    }
}

impl Measured {
    /// Which way of writing the log fits, and why.
    fn back_end(&self) -> (Fits, String) {
        let direct = match &self.direct {
            Ok(direct) => direct,
            Err(why) => {
                return (
                    Fits::PageCache,
                    format!("O_DIRECT does not work here: {why}"),
                );
            }
        };
        if let Some(alignment) = direct.alignment_bytes.filter(|&a| a > BLOCK_BYTES as u32) {
            return (
                Fits::PageCache,
                format!("O_DIRECT asks for blocks of {alignment} bytes"),
            );
        }
        let (Some(cached), Some(past)) = (&self.durable, &direct.durable) else {
            return (Fits::Either, "durable writes could not be measured".into());
        };
        let durable = cached.micros(0.5) / past.micros(0.5).max(1e-3);
        let written = direct.write_mb_s / self.cache_write_mb_s.max(1e-9);
        let why = format!(
            "past the page cache a durable write takes {:.2} of its time, and the disk takes {written:.2} times as much a second",
            1.0 / durable
        );
        let fits = if durable >= CLEARLY && written > 1.0 / CLEARLY
            || written >= CLEARLY && durable > 1.0 / CLEARLY
        {
            Fits::Direct
        } else if durable < 1.0 / CLEARLY || written < 1.0 / CLEARLY {
            Fits::PageCache
        } else {
            Fits::Either
        };
        (fits, why)
    }

    /// What else follows, a line each.
    fn advice(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let best = [
            &self.durable,
            &self.direct.as_ref().ok().and_then(|d| d.durable.clone()),
        ]
        .into_iter()
        .flatten()
        .min_by(|a, b| a.micros(0.5).total_cmp(&b.micros(0.5)))
        .cloned();
        if let Some(best) = best {
            lines.push(format!(
                "flush.messages=1: an acknowledgement waits {:.0} us for the disk at p50, {:.0} at p99; those that wait share one fsync",
                best.micros(0.5),
                best.micros(0.99)
            ));
        }
        if let (Some(written), Some(growing)) = (&self.durable, &self.durable_growing)
            && growing.micros(0.5) > CLEARLY * written.micros(0.5)
        {
            lines.push(format!(
                "a durable write that makes the file grow takes {:.1} times as long as one into blocks written before",
                growing.micros(0.5) / written.micros(0.5).max(1e-3)
            ));
        }
        if let Ok(direct) = &self.direct
            && direct.read_mb_s > CLEARLY * self.read_mb_s
        {
            let now = self
                .read_ahead_kb
                .map_or(String::new(), |kb| format!(" (now {kb})"));
            lines.push(format!(
                "the kernel reads ahead less than the disk can give: try more in read_ahead_kb of its queue{now}"
            ));
        }
        lines
    }

    pub fn text(&self) -> String {
        let mut text = self.directory.clone();
        if let Some((kind, disks)) = &self.beneath {
            let _ = write!(
                text,
                " ({kind} on {})",
                if disks.is_empty() {
                    "no disk".into()
                } else {
                    disks.join(", ")
                }
            );
        }
        text.push('\n');
        let times = |times: &Option<Times>| times.as_ref().map_or("-".into(), Times::text);
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<46}{value}");
        };
        line(
            "write, page cache, fsync every 16 MiB",
            format!("{:.0} MB/s", self.cache_write_mb_s),
        );
        line("write 4 KiB and fdatasync", times(&self.durable));
        line("the same, the file grows", times(&self.durable_growing));
        line(
            "read, page cache, cold",
            format!("{:.0} MB/s", self.read_mb_s),
        );
        line(
            "the same without read-ahead, 64 KiB",
            format!("{:.0} MB/s", self.read_without_ahead_mb_s),
        );
        match &self.direct {
            Ok(direct) => {
                let alignment = direct
                    .alignment_bytes
                    .map_or("not said".into(), |a| format!("{a} bytes"));
                line("O_DIRECT, alignment", alignment);
                line(
                    "write, O_DIRECT, 4 x 1 MiB",
                    format!("{:.0} MB/s", direct.write_mb_s),
                );
                line(
                    "write 4 KiB, O_DIRECT and RWF_DSYNC",
                    times(&direct.durable),
                );
                line(
                    "read, O_DIRECT, 4 x 1 MiB",
                    format!("{:.0} MB/s", direct.read_mb_s),
                );
            }
            Err(why) => line("O_DIRECT", why.clone()),
        }
        line(
            "loopback, 64 KiB",
            format!("{:.0} MB/s", self.loopback_mb_s),
        );
        line("loopback, round trip of one byte", times(&self.loopback));
        let (fits, why) = self.back_end();
        let _ = writeln!(text, "back end that fits: {}: {why}", fits.word());
        for advice in self.advice() {
            let _ = writeln!(text, "{advice}");
        }
        text
    }

    pub fn json(&self) -> String {
        let times = |times: &Option<Times>| times.as_ref().map(Times::json);
        let direct = match &self.direct {
            Ok(direct) => json!({
                "works": true,
                "alignment_bytes": direct.alignment_bytes,
                "write_mb_s": direct.write_mb_s,
                "read_mb_s": direct.read_mb_s,
                "durable_4k": times(&direct.durable),
            }),
            Err(why) => json!({ "works": false, "why": why }),
        };
        let (fits, why) = self.back_end();
        let page = json!({
            "schema": 1,
            "command": "probe",
            "directory": self.directory,
            "file_system": self.beneath.as_ref().map(|(kind, _)| kind),
            "disks": self.beneath.as_ref().map(|(_, disks)| disks),
            "read_ahead_kb": self.read_ahead_kb,
            "page_cache": {
                "write_mb_s": self.cache_write_mb_s,
                "read_mb_s": self.read_mb_s,
                "read_without_ahead_mb_s": self.read_without_ahead_mb_s,
                "durable_4k": times(&self.durable),
                "durable_4k_growing": times(&self.durable_growing),
            },
            "direct": direct,
            "loopback": { "mb_s": self.loopback_mb_s, "round_trip": times(&self.loopback) },
            "fits": { "back_end": fits.word(), "why": why, "advice": self.advice() },
        });
        format!("{page}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(us: u64) -> Option<Times> {
        Times::of(vec![Duration::from_micros(us); 3])
    }

    fn measured(direct: Result<Direct, String>) -> Measured {
        Measured {
            directory: "/data".into(),
            beneath: Some(("xfs".into(), vec!["nvme0n1".into()])),
            read_ahead_kb: Some(128),
            cache_write_mb_s: 1000.0,
            durable: times(1000),
            durable_growing: times(2000),
            read_mb_s: 500.0,
            read_without_ahead_mb_s: 200.0,
            direct,
            loopback_mb_s: 3000.0,
            loopback: times(20),
        }
    }

    fn direct(write_mb_s: f64, durable_us: u64) -> Direct {
        Direct {
            alignment_bytes: Some(512),
            write_mb_s,
            read_mb_s: 1000.0,
            durable: times(durable_us),
        }
    }

    #[test]
    fn the_back_end_that_is_clearly_faster_fits() {
        let fits = |write, durable| measured(Ok(direct(write, durable))).back_end().0;
        assert_eq!(fits(1000.0, 500), Fits::Direct);
        assert_eq!(fits(1500.0, 1000), Fits::Direct);
        assert_eq!(fits(1000.0, 1000), Fits::Either);
        assert_eq!(fits(1000.0, 1500), Fits::PageCache);
        assert_eq!(fits(500.0, 900), Fits::PageCache);
        // Faster one way and slower the other.
        assert_eq!(fits(500.0, 500), Fits::PageCache);
        assert_eq!(measured(Err("no".into())).back_end().0, Fits::PageCache);
        let mut coarse = direct(5000.0, 100);
        coarse.alignment_bytes = Some(16384);
        assert_eq!(measured(Ok(coarse)).back_end().0, Fits::PageCache);
    }

    #[test]
    fn what_is_slow_is_said() {
        let report = measured(Ok(direct(1000.0, 500)));
        let text = report.text();
        for part in [
            "xfs on nvme0n1",
            "waits 500 us",
            "2.0 times as long",
            "(now 128)",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let json: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["direct"]["durable_4k"]["p50_us"], 500.0);
        assert_eq!(json["fits"]["back_end"], "direct");
    }

    #[test]
    fn a_probe_measures_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let little = Effort {
            file_bytes: 2 * MIB,
            durable_writes: 2,
            step: Duration::from_secs(2),
            loopback_step: Duration::from_millis(5),
        };
        let measured = measure_with(dir.path(), little).unwrap();
        assert!(measured.cache_write_mb_s > 0.0 && measured.read_mb_s > 0.0);
        assert!(measured.durable.is_some() && measured.loopback.is_some());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let missing = measure(&dir.path().join("none")).unwrap_err();
        assert!(missing.contains("cannot be looked at"), "{missing}");
    }
}
