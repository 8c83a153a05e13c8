//! What a process and the machine used, from `/proc`.

use std::fs;
use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::sys::Cores;

/// What a broker, or a floor program, used in one round. CPU is of the window of the measurement; the
/// rest from just before the load was started until it had ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// All threads, workers of io_uring included.
    pub cpu_user_s: f64,
    pub cpu_system_s: f64,
    /// Greatest resident memory since the mark was reset at the begin of the round.
    pub rss_peak_mb: f64,
    /// Bytes given to the block layer on behalf of the process.
    pub disk_written_mb: f64,
    pub disk_read_mb: f64,
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
    /// Time its threads ran, to the nanosecond, of those that are still there: for rounds in which next to
    /// nothing happens.
    pub ran_s: f64,
    /// Time its threads were runnable and not running.
    pub run_queue_wait_s: f64,
    pub minor_faults: u64,
    pub major_faults: u64,
}

impl Usage {
    pub fn cpu_s(&self) -> f64 {
        self.cpu_user_s + self.cpu_system_s
    }
}

/// Processes that belong together: the one we started, and those that it started.
pub fn family(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let pid = found[at];
        at += 1;
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten();
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|id| id.parse::<u32>().ok()),
            );
        }
    }
    found
}

/// The counters of a process at a moment.
#[derive(Clone, Copy, Debug, Default)]
struct Stat {
    user_ticks: u64,
    system_ticks: u64,
    minor_faults: u64,
    major_faults: u64,
}

/// Fields of `/proc/PID/stat` behind the name, which may hold spaces and parentheses.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let field = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat {
        minor_faults: field(7)?,
        major_faults: field(9)?,
        user_ticks: field(11)?,
        system_ticks: field(12)?,
    })
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// User and system seconds of these processes so far; those that are gone count nothing.
pub fn cpu_seconds(pids: &[u32]) -> (f64, f64) {
    let stat = sum_stat(pids);
    (
        stat.user_ticks as f64 / ticks_per_second(),
        stat.system_ticks as f64 / ticks_per_second(),
    )
}

fn sum_stat(pids: &[u32]) -> Stat {
    let mut sum = Stat::default();
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if let Some(stat) = parse_stat(&text) {
            sum.user_ticks += stat.user_ticks;
            sum.system_ticks += stat.system_ticks;
            sum.minor_faults += stat.minor_faults;
            sum.major_faults += stat.major_faults;
        }
    }
    sum
}

/// The number behind `name:` in a file of `/proc` such as `status` and `io`.
fn number_of(text: &str, name: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let digits = line.and_then(|line| line.split_whitespace().next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// The counters that are read at both ends of a round.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    stat: Stat,
    written_bytes: u64,
    read_bytes: u64,
    voluntary: u64,
    involuntary: u64,
    ran_ns: u64,
    wait_ns: u64,
}

impl Ends {
    fn read(pids: &[u32]) -> Ends {
        let mut ends = Ends {
            stat: sum_stat(pids),
            ..Ends::default()
        };
        for pid in pids {
            let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
            ends.written_bytes += number_of(&io, "write_bytes");
            ends.read_bytes += number_of(&io, "read_bytes");
            let tasks = fs::read_dir(format!("/proc/{pid}/task"))
                .into_iter()
                .flatten();
            for task in tasks.flatten() {
                let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
                ends.voluntary += number_of(&status, "voluntary_ctxt_switches");
                ends.involuntary += number_of(&status, "nonvoluntary_ctxt_switches");
                let sched = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
                let mut sched = sched.split_whitespace().flat_map(str::parse::<u64>);
                ends.ran_ns += sched.next().unwrap_or(0);
                ends.wait_ns += sched.next().unwrap_or(0);
            }
        }
        ends
    }
}

pub fn resident_mb(pids: &[u32], field: &str) -> f64 {
    let of = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        number_of(&status, field) as f64 / 1024.0
    };
    pids.iter().map(of).sum()
}

/// Observes a process from now until [`Observer::finish`].
pub struct Observer {
    pids: Vec<u32>,
    before: Ends,
    stop: mpsc::Sender<()>,
    sampler: JoinHandle<Vec<Sample>>,
}

/// CPU of the processes at a moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    user_s: f64,
    system_s: f64,
}

/// Between two looks at the CPU time.
const SAMPLE: Duration = Duration::from_millis(20);

impl Observer {
    pub fn start(root: u32) -> Observer {
        let pids = family(root);
        for pid in &pids {
            // 5 resets the greatest resident size (proc_pid_clear_refs(5)).
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
        let (stop, stopped) = mpsc::channel();
        let sampled = pids.clone();
        let sampler = std::thread::spawn(move || {
            let mut samples = Vec::new();
            loop {
                let (user_s, system_s) = cpu_seconds(&sampled);
                samples.push(Sample {
                    at: Instant::now(),
                    user_s,
                    system_s,
                });
                if stopped.recv_timeout(SAMPLE) != Err(mpsc::RecvTimeoutError::Timeout) {
                    return samples;
                }
            }
        });
        Observer {
            before: Ends::read(&pids),
            pids,
            stop,
            sampler,
        }
    }

    /// Ends it. CPU counts between `from` and `to` only; without them, all of it.
    pub fn finish(self, window: Option<(Instant, Instant)>) -> Usage {
        let after = Ends::read(&self.pids);
        let _ = self.stop.send(());
        let samples = self.sampler.join().unwrap_or_default();
        let (user, system) = match (samples.first(), samples.last(), window) {
            (_, _, Some((from, to))) => {
                let (a, b) = (interpolate(&samples, from), interpolate(&samples, to));
                (b.0 - a.0, b.1 - a.1)
            }
            (Some(a), Some(b), None) => (b.user_s - a.user_s, b.system_s - a.system_s),
            _ => (0.0, 0.0),
        };
        let megabytes = |after: u64, before: u64| after.saturating_sub(before) as f64 / 1e6;
        Usage {
            cpu_user_s: user.max(0.0),
            cpu_system_s: system.max(0.0),
            rss_peak_mb: resident_mb(&self.pids, "VmHWM"),
            disk_written_mb: megabytes(after.written_bytes, self.before.written_bytes),
            disk_read_mb: megabytes(after.read_bytes, self.before.read_bytes),
            // Threads that ended took theirs with them.
            voluntary_switches: after.voluntary.saturating_sub(self.before.voluntary),
            involuntary_switches: after.involuntary.saturating_sub(self.before.involuntary),
            ran_s: after.ran_ns.saturating_sub(self.before.ran_ns) as f64 / 1e9,
            run_queue_wait_s: after.wait_ns.saturating_sub(self.before.wait_ns) as f64 / 1e9,
            minor_faults: after
                .stat
                .minor_faults
                .saturating_sub(self.before.stat.minor_faults),
            major_faults: after
                .stat
                .major_faults
                .saturating_sub(self.before.stat.major_faults),
        }
    }
}

/// User and system seconds at a moment between samples.
fn interpolate(samples: &[Sample], at: Instant) -> (f64, f64) {
    let next = samples.partition_point(|sample| sample.at < at);
    match (
        next.checked_sub(1).and_then(|i| samples.get(i)),
        samples.get(next),
    ) {
        (Some(a), Some(b)) => {
            let span = (b.at - a.at).as_secs_f64();
            let part = if span > 0.0 {
                (at - a.at).as_secs_f64() / span
            } else {
                0.0
            };
            (
                a.user_s + (b.user_s - a.user_s) * part,
                a.system_s + (b.system_s - a.system_s) * part,
            )
        }
        (Some(only), None) | (None, Some(only)) => (only.user_s, only.system_s),
        (None, None) => (0.0, 0.0),
    }
}

/// Time of the machine's CPUs, to see what was stolen.
#[derive(Clone, Copy, Debug)]
pub struct CpuTimes {
    stolen: u64,
    all: u64,
}

impl CpuTimes {
    /// Of these cores together.
    pub fn now(cores: &Cores) -> io::Result<CpuTimes> {
        Ok(parse_cpu_times(&fs::read_to_string("/proc/stat")?, cores))
    }

    /// The part of the time since `before` that the host gave to others.
    pub fn steal_since(&self, before: &CpuTimes) -> f64 {
        let all = self.all.saturating_sub(before.all);
        if all == 0 {
            return 0.0;
        }
        self.stolen.saturating_sub(before.stolen) as f64 / all as f64
    }
}

fn parse_cpu_times(text: &str, cores: &Cores) -> CpuTimes {
    let mut times = CpuTimes { stolen: 0, all: 0 };
    for core in &cores.0 {
        let name = format!("cpu{core} ");
        let Some(line) = text.lines().find_map(|line| line.strip_prefix(&name)) else {
            continue;
        };
        // user nice system idle iowait irq softirq steal; guest time is within user.
        let fields: Vec<u64> = line.split_whitespace().flat_map(str::parse).collect();
        times.all += fields.iter().take(8).sum::<u64>();
        times.stolen += fields.get(7).copied().unwrap_or(0);
    }
    times
}

/// Megabytes that wait to be written to disks.
pub fn dirty_mb() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    (number_of(&text, "Dirty") + number_of(&text, "Writeback")) as f64 / 1024.0
}

/// Memory that nobody uses for anything.
pub fn free_memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    number_of(&text, "MemFree") * 1024
}

/// Waits until the kernel has next to nothing left to write, for at most 30 s.
pub fn wait_until_clean() {
    let deadline = Instant::now() + Duration::from_secs(30);
    while dirty_mb() > 16.0 && Instant::now() < deadline && !super::sys::stop_asked() {
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_have_any_name() {
        let text = "7 (a) b) S 1 7 7 0 -1 4194304 11 12 13 14 15 16 17 18 20 0 1";
        let stat = parse_stat(text).expect("fields");
        assert_eq!((stat.user_ticks, stat.system_ticks), (15, 16));
        assert_eq!((stat.minor_faults, stat.major_faults), (11, 13));
        assert!(parse_stat("").is_none());
    }

    #[test]
    fn cpu_between_two_samples_is_in_proportion() {
        let start = Instant::now();
        let sample = |ms: u64, user_s: f64| Sample {
            at: start + Duration::from_millis(ms),
            user_s,
            system_s: 2.0 * user_s,
        };
        let samples = [sample(100, 1.0), sample(200, 2.0)];
        let at = |ms: u64| interpolate(&samples, start + Duration::from_millis(ms));
        assert_eq!(at(0), (1.0, 2.0));
        assert!((at(150).0 - 1.5).abs() < 1e-9 && (at(150).1 - 3.0).abs() < 1e-9);
        assert_eq!(at(900), (2.0, 4.0));
    }

    #[test]
    fn steal_is_a_part_of_the_time_of_the_cores_that_count() {
        let before = "cpu0 10 0 10 80 0 0 0 0 0 0\ncpu1 0 0 0 100 0 0 0 50 0 0\n";
        let after = "cpu0 20 0 20 158 0 0 0 2 0 0\ncpu1 0 0 0 100 0 0 0 500 0 0\n";
        let cores = Cores(vec![0]);
        let (before, after) = (
            parse_cpu_times(before, &cores),
            parse_cpu_times(after, &cores),
        );
        assert!((after.steal_since(&before) - 0.02).abs() < 1e-9);
    }

    #[test]
    fn a_process_that_is_gone_used_nothing() {
        assert_eq!(cpu_seconds(&[u32::MAX]), (0.0, 0.0));
        let usage = Observer::start(u32::MAX).finish(None);
        assert_eq!(usage.cpu_s(), 0.0);
    }
}
