//! One round after another: what is done to the brokers, and what is written down.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::crossing::CROSSING_BYTES;
use super::floor::{self, Amount, Floor as FloorProgram, Poured};
use super::judge::Round;
use super::metric::Metric;
use super::row::{Floor, Fsync, ONE_RECORD_BYTES_PER_SECOND, Procedure, Row, Variant};
use super::run::{self, How, Ran};
use super::sys::{self, Cores};
use super::syscalls::Syscalls;
use super::target::{Broker, Shape, Target};
use super::usage::{self, CpuTimes, Observer, Usage};

/// Partitions of a broker that rests, or starts.
const MANY: i32 = 1_000;
/// A round may write this much a second before the disk counts as too small for it.
const BYTES_PER_SECOND: f64 = 2.5e9;
/// Kept free.
const SPARE_BYTES: u64 = 1 << 30;
/// Memory that is touched before a round, at most.
const TOUCHED_BYTES_MAX: u64 = 3_000_000_000;
/// Longest time for work that is fixed.
const WORK_S: f64 = 120.0;
/// A slice of the warm-up.
pub(super) const SLICE_S: f64 = 2.0;
/// Slices whose CPU cost a record differs by less are steady.
const STEADY: f64 = 0.05;

/// How everything is measured.
pub struct Plan {
    pub targets: Vec<Target>,
    pub rounds: u32,
    pub seconds: f64,
    /// Longest time until a broker counts as warm.
    pub warmup: Duration,
    pub quick: bool,
    pub broker_cores: Cores,
    pub load_cores: Cores,
    /// For the data of brokers: emptied afterwards.
    pub data: PathBuf,
}

/// A row could not be measured to its end. Rounds that were, are kept.
#[derive(Debug)]
pub enum Failed {
    /// This row; others may fare better.
    Row(anyhow::Error),
    /// Nothing more can be measured.
    All(anyhow::Error),
}

/// A broker and what was learned while it warmed up.
struct Warm {
    broker: Broker,
    /// What is done to it in a round.
    variants: Vec<&'static Variant>,
    /// MB/s of its closed loop, for rates that depend on it.
    rate_mb_s: f64,
}

impl Plan {
    fn cores(&self) -> Cores {
        let mut all = self.broker_cores.0.clone();
        all.extend(&self.load_cores.0);
        all.sort_unstable();
        all.dedup();
        Cores(all)
    }

    pub fn rounds_of(&self, row: &Row) -> u32 {
        if self.quick {
            self.rounds
        } else {
            self.rounds.max(row.rounds_min)
        }
    }

    /// The targets that have a part in a row.
    pub(super) fn targets_of(&self, row: &Row) -> impl Iterator<Item = &Target> {
        let own = row.variants.iter().all(|variant| variant.ringspun_only);
        self.targets
            .iter()
            .filter(move |target| !own || target.is_ringspun())
    }

    pub(super) fn shape(&self, row: &Row, target: &Target) -> Shape {
        let crossing = matches!(row.procedure, Procedure::Crossing { .. });
        Shape {
            fsync: match row.fsync {
                Fsync::Nobody => false,
                Fsync::Everybody => true,
                Fsync::Ringspun => target.is_ringspun(),
            },
            shards: if crossing { 2 } else { 0 },
            auto_partitions: if crossing { 16 } else { 0 },
            more: &[],
        }
    }

    pub(super) fn folder(&self, target: &Target) -> PathBuf {
        self.data.join(&target.name)
    }

    /// Measures a row; `keep` gets each round as soon as there is one.
    pub fn row(
        &self,
        row: &'static Row,
        keep: &mut dyn FnMut(Round) -> Result<()>,
    ) -> Result<(), Failed> {
        let result = match row.procedure {
            Procedure::Load | Procedure::Backlog => self.loads(row, keep),
            Procedure::Crossing { small } => self.crossing(row, small, keep),
            Procedure::Start => self.starts(row, keep),
            Procedure::Idle => self.idle(row, keep),
        };
        // A full disk or a wish to stop ends everything.
        match result {
            Ok(()) => Ok(()),
            Err(error) if sys::stop_asked() || error.downcast_ref::<NoSpace>().is_some() => {
                Err(Failed::All(error))
            }
            Err(error) => Err(Failed::Row(error)),
        }
    }

    /// Before a round: room on the disk, nothing left to be written.
    pub(super) fn prepare(&self, row: &Row) -> Result<()> {
        check_stop()?;
        let most = |key: &str| {
            let numbers = row.variants.iter().filter_map(|it| it.number(key));
            numbers.max().unwrap_or(0)
        };
        let (backlog, work) = (most("backlog_bytes"), most("produce_bytes"));
        let writes = match row.procedure {
            Procedure::Load if work > 0 => work as f64 + BYTES_PER_SECOND,
            Procedure::Load if backlog == 0 => {
                let of = row.variants.iter().map(|it| it.bytes_per_second());
                (self.seconds + 1.0) * of.fold(0.0, f64::max).min(BYTES_PER_SECOND)
            }
            Procedure::Crossing { small: false } => CROSSING_BYTES as f64,
            Procedure::Crossing { small: true } => self.seconds * ONE_RECORD_BYTES_PER_SECOND,
            _ => 0.0,
        };
        let needed = writes as u64 + backlog + SPARE_BYTES;
        let free = sys::free_bytes(&self.data)?;
        if free < needed {
            return Err(NoSpace {
                path: self.data.clone(),
                needed,
                free,
                row: row.name,
            }
            .into());
        }
        sys::sync_file_system(&self.data)?;
        usage::wait_until_clean();
        // A round that is about what is written finds memory that the host has given to this machine already.
        if writes > 0.0 && !self.quick {
            sys::touch_memory((writes as u64 + backlog).min(TOUCHED_BYTES_MAX));
        }
        check_stop()
    }

    /// Observes a process while `load` runs, and makes a round of it.
    pub(super) fn observe(&self, pid: u32, load: impl FnOnce() -> Result<Ran>) -> Result<Round> {
        let cores = self.cores();
        let dirty_before_mb = usage::dirty_mb();
        let times = CpuTimes::now(&cores)?;
        let observer = Observer::start(pid);
        let ran = load();
        let usage = observer.finish(ran.as_ref().ok().and_then(|ran| ran.window));
        let ran = ran?;
        Ok(Round {
            schema: 1,
            status: ran.status,
            problems: ran.problems,
            seconds: ran.result["seconds"].as_f64().unwrap_or(0.0),
            metrics: run::metrics(&ran.result, &usage),
            usage,
            steal: CpuTimes::now(&cores)?.steal_since(&times),
            dirty_before_mb,
            dirty_after_mb: usage::dirty_mb(),
            result: ran.result,
            ..Round::default()
        })
    }

    fn how<'a>(&'a self, seconds: f64, verify: bool, scratch: &'a Path) -> How<'a> {
        How {
            seconds,
            verify,
            cores: &self.load_cores,
            scratch,
        }
    }

    /// Rows that are a load on brokers which stay up for the row.
    fn loads(&self, row: &'static Row, keep: &mut dyn FnMut(Round) -> Result<()>) -> Result<()> {
        let mut brokers = Vec::new();
        for target in self.targets_of(row) {
            for (number, variants) in row.brokers().into_iter().enumerate() {
                if !target.is_ringspun() && variants.iter().all(|variant| variant.ringspun_only) {
                    continue;
                }
                self.prepare(row)?;
                let mut shape = self.shape(row, target);
                shape.more = variants[0].broker;
                let folder = self.data.join(format!("{}-{number}", target.name));
                let mut broker = Broker::new(target, &folder, &self.broker_cores, shape)?;
                broker.start()?;
                let warm = self.warm(row, broker, variants, keep)?;
                warm.broker.freeze();
                brokers.push(warm);
            }
        }
        let kafka = brokers
            .iter()
            .find(|warm| warm.broker.target.name == "kafka");
        let reference = kafka.or(brokers.first()).map_or(0.0, |warm| warm.rate_mb_s);
        for number in 1..=self.rounds_of(row) {
            // Whoever comes second in one round comes first in the next.
            if number > 1 {
                brokers.reverse();
            }
            for warm in &mut brokers {
                let broker = &mut warm.broker;
                broker.thaw()?;
                for variant in &warm.variants {
                    if variant.ringspun_only && !broker.target.is_ringspun() {
                        continue;
                    }
                    self.prepare(row)?;
                    let mut settings = self.settings(row, variant);
                    if row.procedure == Procedure::Backlog {
                        settings.push(("rate".into(), backlog_rate(reference, variant)));
                    }
                    let scratch = self.data.join("load");
                    let pid = broker.pid();
                    let round = self.observe(pid, || {
                        let seconds = if variant.is_fixed_work() {
                            WORK_S
                        } else {
                            self.seconds
                        };
                        run::run(broker, &settings, &self.how(seconds, false, &scratch))
                    })?;
                    keep(named(round, row, &broker.target.name, variant.name, number))?;
                    broker.remove_topics()?;
                }
                broker.freeze();
            }
            if let Some(floor) = row.floor {
                self.prepare(row)?;
                let work = row
                    .variants
                    .iter()
                    .find_map(|it| it.number("produce_bytes"));
                let round = self.floor(floor, work.map(|work| self.amount(work)))?;
                keep(named(round, row, "floor", "", number))?;
            }
        }
        for warm in &mut brokers {
            warm.broker.thaw()?;
            warm.broker.stop()?;
        }
        Ok(())
    }

    /// Runs the load until its cost is steady; the first run is checked record by record.
    fn warm(
        &self,
        row: &'static Row,
        mut broker: Broker,
        variants: Vec<&'static Variant>,
        keep: &mut dyn FnMut(Round) -> Result<()>,
    ) -> Result<Warm> {
        let mut rate_mb_s = 0.0;
        for (number, &variant) in variants.iter().enumerate() {
            if variant.ringspun_only && !broker.target.is_ringspun() {
                continue;
            }
            let scratch = self.data.join("load");
            let settings = self.settings(row, variant);
            let seconds = if self.quick {
                self.seconds.min(1.0)
            } else {
                SLICE_S
            };
            // A backlog is read in a round; here it is about what is written.
            let mut checked = settings.clone();
            let writes = variant
                .settings
                .iter()
                .any(|(key, value)| *key == "producers" && *value != "0");
            if writes {
                checked.retain(|(key, _)| {
                    ![
                        "backlog_bytes",
                        "read",
                        "read_again",
                        "drop_caches",
                        "consumers",
                    ]
                    .contains(&key.as_str())
                });
            }
            let syscalls = Syscalls::count(&broker, &self.data);
            let pid = broker.pid();
            let round = self.observe(pid, || {
                run::run(&mut broker, &checked, &self.how(seconds, true, &scratch))
            })?;
            let mut round = named(round, row, &broker.target.name, variant.name, 0);
            round.syscalls = syscalls.and_then(Syscalls::finish);
            keep(round)?;
            broker.remove_topics()?;
            if self.quick {
                continue;
            }
            // As fast as it goes, whatever the rate of the row: code is compiled by being run often.
            let mut pressed = checked;
            pressed.retain(|(key, _)| key != "rate");
            let began = Instant::now();
            let mut costs: Vec<f64> = Vec::new();
            // The other workloads of a row find it warm.
            let most = if number == 0 {
                self.warmup
            } else {
                self.warmup / 4
            };
            while began.elapsed() < most && !is_steady(&costs) {
                self.prepare(row)?;
                let round = self.observe(pid, || {
                    run::run(&mut broker, &pressed, &self.how(SLICE_S, false, &scratch))
                })?;
                costs.push(round.metric(Metric::CpuPerRecord).unwrap_or(0.0));
                rate_mb_s = round.metric(Metric::ProduceMbS).unwrap_or(0.0);
                broker.remove_topics()?;
            }
        }
        Ok(Warm {
            broker,
            variants,
            rate_mb_s,
        })
    }

    /// Work that is fixed is a tenth when it is only to be seen whether everything works.
    fn amount(&self, bytes: u64) -> u64 {
        if self.quick { bytes / 10 } else { bytes }
    }

    fn settings(&self, row: &Row, variant: &Variant) -> Vec<(String, String)> {
        let mut settings = own(row.settings(variant));
        for (key, value) in &mut settings {
            if let ("produce_bytes" | "backlog_bytes", Ok(bytes)) = (key.as_str(), value.parse()) {
                *value = self.amount(bytes).to_string();
            }
        }
        settings
    }

    /// A round of the floor; `work` is how many bytes the others write.
    fn floor(&self, floor: Floor, work: Option<u64>) -> Result<Round> {
        let file = self.data.join("floor");
        let time = Duration::from_secs_f64(self.seconds);
        match floor {
            Floor::Receive {
                frame_bytes,
                connections,
                in_flight,
                records,
            } => {
                let amount = Amount {
                    in_flight,
                    bytes: work.unwrap_or(u64::MAX),
                    time: work.map_or(time, |_| Duration::from_secs_f64(WORK_S)),
                    rate: None,
                };
                self.floor_receives(&file, frame_bytes, connections, records, &amount)
            }
            Floor::ReceiveAtRate { frame_bytes, rate } => {
                let amount = Amount {
                    in_flight: 1,
                    bytes: u64::MAX,
                    time,
                    rate: Some(rate),
                };
                self.floor_receives(&file, frame_bytes, 8, 1, &amount)
            }
            Floor::Send { connections } => {
                fs::write(&file, vec![7; 256 << 20])?;
                let program = FloorProgram::start("send", &file, &self.broker_cores)?;
                self.observe(program.pid(), || {
                    self.on_load_cores(|| {
                        // About as long as the others' rounds.
                        let bytes = (self.seconds * 3e9 / connections as f64) as u64;
                        let poured = floor::drain(program.address(), connections, bytes)?;
                        Ok(ran_of_floor(&poured, "fetch", 0))
                    })
                })
            }
            Floor::Drain { bytes } => {
                let disk = floor::disk_read(&file, self.amount(bytes), &self.broker_cores)?;
                let mut round = self.floor(Floor::Send { connections: 1 }, None)?;
                let loopback = round.metric(Metric::FetchMbS).unwrap_or(0.0);
                round.result["disk_mb_s"] = disk.mb_s().into();
                round.result["loopback_mb_s"] = loopback.into();
                // Neither cost is that of both; only the rate tells.
                let lower = disk.mb_s().min(loopback);
                round.metrics = [(Metric::FetchMbS.name().to_owned(), lower)].into();
                round.usage = Usage::default();
                Ok(round)
            }
            Floor::Durable { rate } => {
                let seconds = self.seconds.min(3.0);
                let latency = floor::durable_latency(&file, seconds, rate, &self.broker_cores)?;
                let result = serde_json::json!({ "seconds": self.seconds.min(3.0), "produce": { "latency_us": latency } });
                let ran = Ran {
                    status: "valid".into(),
                    problems: Vec::new(),
                    window: None,
                    result,
                };
                // Its CPU is of no interest; the process is gone.
                let mut round = self.observe(u32::MAX, || Ok(ran))?;
                round.usage = Usage::default();
                round.metrics.remove(Metric::RssPeakMb.name());
                Ok(round)
            }
        }
    }

    fn floor_receives(
        &self,
        file: &Path,
        frame_bytes: usize,
        connections: usize,
        records: u32,
        amount: &Amount,
    ) -> Result<Round> {
        let program = FloorProgram::start("receive", file, &self.broker_cores)?;
        let mut frame = ((frame_bytes - 4) as u32).to_be_bytes().to_vec();
        frame.resize(frame_bytes, 0x6b);
        self.observe(program.pid(), || {
            self.on_load_cores(|| {
                let streams: Result<Vec<_>, _> = (0..connections)
                    .map(|_| {
                        TcpStream::connect(program.address())
                            .map(|stream| (stream, frame.as_slice()))
                    })
                    .collect();
                let poured = floor::pour(streams?, amount)?;
                Ok(ran_of_floor(&poured, "produce", records))
            })
        })
    }

    /// Runs a load of our own where the load generator runs.
    pub(super) fn on_load_cores<T: Send>(
        &self,
        load: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.load_cores.pin()?;
                load()
            });
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("the load panicked"))?
        })
    }

    fn starts(&self, row: &'static Row, keep: &mut dyn FnMut(Round) -> Result<()>) -> Result<()> {
        for number in 1..=self.rounds_of(row) {
            for target in self.targets_of(row) {
                self.prepare(row)?;
                let mut broker = Broker::new(
                    target,
                    &self.folder(target),
                    &self.broker_cores,
                    Shape::default(),
                )?;
                for variant in row.variants {
                    self.prepare(row)?;
                    let took = broker.start()?;
                    let mut round = self.rest(&broker, Duration::ZERO)?;
                    let ms = took.as_secs_f64() * 1e3;
                    round.metrics.insert(Metric::StartMs.name().to_owned(), ms);
                    keep(named(round, row, &broker.target.name, variant.name, number))?;
                    let last = row
                        .variants
                        .last()
                        .is_some_and(|last| last.name == variant.name);
                    if !last {
                        self.many_partitions(&broker)?;
                        broker.stop()?;
                    }
                }
            }
        }
        Ok(())
    }

    fn idle(&self, row: &'static Row, keep: &mut dyn FnMut(Round) -> Result<()>) -> Result<()> {
        let mut brokers = Vec::new();
        for target in self.targets_of(row) {
            self.prepare(row)?;
            let mut broker = Broker::new(
                target,
                &self.folder(target),
                &self.broker_cores,
                Shape::default(),
            )?;
            broker.start()?;
            self.many_partitions(&broker)?;
            // What follows the making of a topic is not idling.
            pause(Duration::from_secs(if self.quick { 1 } else { 10 }))?;
            broker.freeze();
            brokers.push(broker);
        }
        for number in 1..=self.rounds_of(row) {
            for broker in &mut brokers {
                broker.thaw()?;
                self.prepare(row)?;
                let round =
                    self.rest(broker, Duration::from_secs_f64(self.seconds.max(1.0) * 2.0))?;
                broker.check()?;
                keep(named(round, row, &broker.target.name, "", number))?;
                broker.freeze();
            }
        }
        Ok(())
    }

    /// Lets a broker be for a time.
    fn rest(&self, broker: &Broker, time: Duration) -> Result<Round> {
        let seconds = time.as_secs_f64();
        let mut round = self.observe(broker.pid(), || {
            pause(time)?;
            let result = serde_json::json!({ "seconds": seconds });
            Ok(Ran {
                status: "valid".into(),
                problems: Vec::new(),
                window: None,
                result,
            })
        })?;
        let pids = usage::family(broker.pid());
        let mut set =
            |metric: Metric, value: f64| round.metrics.insert(metric.name().to_owned(), value);
        set(Metric::ResidentMb, usage::resident_mb(&pids, "VmRSS"));
        if seconds > 0.0 {
            set(Metric::IdleCpuPercent, round.usage.ran_s / seconds * 100.0);
        }
        Ok(round)
    }

    fn many_partitions(&self, broker: &Broker) -> Result<()> {
        let mut client = broker.client()?;
        client.create_topic("many", MANY)?;
        client.wait_for_topic("many", MANY as usize)
    }
}

fn check_stop() -> Result<()> {
    if sys::stop_asked() {
        bail!("stopped by a signal");
    }
    Ok(())
}

fn pause(time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        check_stop()?;
        std::thread::sleep(
            Duration::from_millis(20).min(until.saturating_duration_since(Instant::now())),
        );
    }
    Ok(())
}

/// The disk is too small for the next round.
#[derive(Debug)]
pub struct NoSpace {
    path: PathBuf,
    needed: u64,
    free: u64,
    row: &'static str,
}

impl std::fmt::Display for NoSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "row {} may write {:.1} GB in a round, and {} has {:.1} GB left: choose shorter rounds (--seconds) or another disk (--data)",
            self.row,
            self.needed as f64 / 1e9,
            self.path.display(),
            self.free as f64 / 1e9
        )
    }
}

impl std::error::Error for NoSpace {}

fn own(settings: Vec<(&str, &str)>) -> Vec<(String, String)> {
    let owned = settings
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    owned.collect()
}

pub(super) fn named(
    mut round: Round,
    row: &Row,
    target: &str,
    variant: &str,
    number: u32,
) -> Round {
    round.row = row.name.to_owned();
    round.target = target.to_owned();
    round.variant = variant.to_owned();
    round.round = number;
    round
}

/// Records a second that make 30 % of a rate.
fn backlog_rate(reference_mb_s: f64, variant: &Variant) -> String {
    let bytes = variant
        .settings
        .iter()
        .find(|(key, _)| *key == "record_bytes");
    let bytes = bytes
        .and_then(|(_, value)| value.parse::<f64>().ok())
        .unwrap_or(1024.0);
    // Without a warm-up there is nothing to go by: 30 MB/s.
    let reference = if reference_mb_s > 0.0 {
        reference_mb_s
    } else {
        100.0
    };
    format!("{:.0}", (0.3 * reference * 1e6 / bytes).max(1.0))
}

/// Whether the last three costs lie close together.
fn is_steady(costs: &[f64]) -> bool {
    let Some(last) = costs.len().checked_sub(3).map(|from| &costs[from..]) else {
        return false;
    };
    let least = last.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = last.iter().copied().fold(0.0, f64::max);
    greatest <= least * (1.0 + STEADY)
}

/// What a load of our own did, in the words of the load generator.
pub(super) fn ran_of_floor(poured: &Poured, part: &str, records: u32) -> Ran {
    let seconds = (poured.to - poured.from).as_secs_f64();
    let mut result = serde_json::json!({ "seconds": seconds });
    result[part] = serde_json::json!({
        "records": poured.frames * u64::from(records),
        "bytes": poured.bytes,
        "requests": poured.frames,
        "rate_mb_s": if seconds > 0.0 { poured.bytes as f64 / 1e6 / seconds } else { 0.0 },
        "latency_us": poured.latency,
    });
    Ran {
        status: "valid".to_owned(),
        problems: Vec::new(),
        window: Some((poured.from, poured.to)),
        result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_slices_in_a_row_have_to_agree() {
        assert!(!is_steady(&[1.0, 1.0]));
        assert!(!is_steady(&[1.0, 1.2, 1.0]));
        assert!(is_steady(&[9.0, 1.0, 1.04, 1.02]));
    }

    #[test]
    fn a_backlog_is_read_beside_thirty_percent_of_the_rate() {
        let row = super::super::rows::find("backlog").expect("a row");
        assert_eq!(backlog_rate(102.4, &row.variants[0]), "30000");
    }
}
