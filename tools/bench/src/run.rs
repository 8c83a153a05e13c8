//! The subcommand `run`: what comes before the load, its phases, what comes after, and the result.
//!
//! 1. topics are made, the disk is aged, a backlog is produced, caches are dropped: what the workload asks for;
//! 2. a rate is searched for, or the load runs;
//! 3. everything acknowledged is read back;
//! 4. the topics are deleted, however the run ended.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::client::{Client, error_name};
use crate::contents::Contents;
use crate::engine::fetch::{Look, Span};
use crate::engine::produce::Pace;
use crate::engine::{Lay, Phase, Produce, ReadPlan, Shared};
use crate::phase::{self, Logs, PhaseResult};
use crate::report::{
    Fetched, Folder, Outcome, Produced, SCHEMA, Second, Status, Step, number, rfc3339, write_whole,
};
use crate::sample::{Acked, Latency, Ledger};
use crate::schedule::Schedule;
use crate::verify::{Checker, Verdict};
use crate::wire;
use crate::workload::{Read, Workload};

/// As long as no phase is: phases that end by themselves.
const UNLIMITED_NS: u64 = 1_000_000 * SECOND_NS;
const SECOND_NS: u64 = 1_000_000_000;
/// Connections that read back.
const CHECK_READERS: usize = 4;
/// Refinements of a rate that is searched for, after its bounds are known.
const SEARCH_STEPS: usize = 6;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  ringspun-bench run --bootstrap 127.0.0.1:9092 --workload tail-latency --set rate=5000
  ringspun-bench run --bootstrap 127.0.0.1:9092 --set batch_bytes=1MB --set producers=8 --seconds 30 --pin 1
  ringspun-bench run --bootstrap 127.0.0.1:9092 --workload my.toml --set topic_config.flush.messages=1 --out result

`ringspun-bench workloads default` prints every key.")]
pub struct Args {
    /// Addresses of brokers: host:port,host:port
    #[arg(long)]
    bootstrap: String,
    /// A named workload, or a file
    #[arg(long, default_value = "default")]
    workload: String,
    /// Sets one key of the workload, as often as you like
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// How long is measured, instead of what the workload says
    #[arg(long)]
    seconds: Option<f64>,
    /// How long is warmed up before
    #[arg(long)]
    warmup: Option<f64>,
    /// The core that the load runs on
    #[arg(long, value_name = "CORE")]
    pin: Option<usize>,
    /// Folder for result.json, per_second.csv and HdrHistogram logs
    #[arg(long)]
    out: Option<PathBuf>,
    /// File for the JSON, besides that in the folder
    #[arg(long)]
    json: Option<PathBuf>,
    /// Does not read back what was acknowledged
    #[arg(long)]
    no_verify: bool,
    /// Tells nothing but problems
    #[arg(long)]
    quiet: bool,
}

/// Runs it; what the process ends with.
pub fn main(args: &Args) -> Result<u8> {
    let mut settings = args.settings.clone();
    settings.extend(args.seconds.map(|it| format!("seconds={it}")));
    settings.extend(args.warmup.map(|it| format!("warmup_seconds={it}")));
    let mut workload = Workload::load(&args.workload, &settings)?;
    workload.verify &= !args.no_verify;
    if let Some(core) = args.pin {
        pin(core)?;
    }
    raise_open_files();
    let folder = args.out.as_deref().map(Folder::new).transpose()?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let mut logs = Logs::default();
    let outcome = Run::new(&args.bootstrap, workload, stop, args.quiet)?.run(&mut logs)?;
    let json = serde_json::to_vec_pretty(&outcome).context("the result as JSON")?;
    if let Some(folder) = &folder {
        folder.write("result.json", &json)?;
        folder.write(
            "per_second.csv",
            Second::csv(&outcome.per_second).as_bytes(),
        )?;
        for (name, log) in logs.0 {
            folder.write(name, &log)?;
        }
    }
    if let Some(path) = &args.json {
        write_whole(path, &json)?;
    }
    if args.quiet {
        for problem in &outcome.problems {
            eprintln!("ringspun-bench: {problem}");
        }
    } else {
        print!("{}", outcome.summary());
    }
    Ok(outcome.status.exit_code())
}

fn pin(core: usize) -> Result<()> {
    ensure!(core < CpuSet::MAX_CPU, "--pin {core}: no such core");
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).with_context(|| format!("--pin {core}"))
}

/// Each connection is a file.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let _ = setrlimit(Resource::Nofile, raised);
}

struct Run {
    client: Client,
    shared: Shared,
    topics: Vec<String>,
    aged: Vec<String>,
    phases: u64,
    acked: Vec<Acked>,
    uncertain: Vec<crate::content::BatchId>,
    bar: ProgressBar,
    interrupted: bool,
}

impl Run {
    fn new(bootstrap: &str, workload: Workload, stop: Arc<AtomicBool>, quiet: bool) -> Result<Run> {
        // What cannot be made is known before anything is touched.
        Contents::new(&workload)?;
        let client = Client::bootstrap(bootstrap)?;
        let produce_version = client.version(wire::PRODUCE, wire::PRODUCE_VERSIONS)?;
        let fetch_version = client.version(wire::FETCH, wire::FETCH_VERSIONS)?;
        let run = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis() as u64;
        let middle = if workload.keep_topics {
            String::new()
        } else {
            format!("{run:x}-{}-", std::process::id())
        };
        let topics = (0..workload.topics)
            .map(|i| format!("{}-{middle}{i:05}", workload.topic_prefix))
            .collect();
        let bar = if quiet {
            ProgressBar::hidden()
        } else {
            ProgressBar::new_spinner()
        };
        bar.set_style(ProgressStyle::with_template("{spinner} {wide_msg}")?);
        let acks = workload.acks();
        Ok(Run {
            client,
            shared: Shared {
                acks,
                lay: Lay {
                    topics: Vec::new(),
                    partitions: workload.partitions,
                    brokers: Vec::new(),
                    leaders: Vec::new(),
                },
                workload,
                produce_version,
                fetch_version,
                started: Instant::now(),
                started_ms: run as i64,
                stop,
            },
            topics,
            aged: Vec::new(),
            phases: 0,
            acked: Vec::new(),
            uncertain: Vec::new(),
            bar,
            interrupted: false,
        })
    }

    fn run(mut self, logs: &mut Logs) -> Result<Outcome> {
        let outcome = self.run_all(logs);
        self.bar.finish_and_clear();
        let mut left = std::mem::take(&mut self.aged);
        if !self.shared.workload.keep_topics {
            left.append(&mut self.topics);
        }
        // A broker that died cannot be asked, and the run's own problem says more.
        let deleted = self.client.delete_topics(&left);
        let mut outcome = outcome?;
        if let Err(error) = deleted
            && outcome.status != Status::Failed
        {
            let problem = format!("the topics of the run may be left: {error:#}");
            outcome.problems.push(problem);
        }
        Ok(outcome)
    }

    fn run_all(&mut self, logs: &mut Logs) -> Result<Outcome> {
        self.prepare()?;
        let mut status = Status::Valid;
        let mut problems = Vec::new();
        let mut search = None;
        let workload = self.shared.workload.clone();
        let spans = self.consumer_spans()?;
        let mut result;
        if workload.find_rate_p99_ms > 0.0 && !self.stopped() {
            let (found, steps) = self.search(&spans)?;
            search = Some(steps);
            result = found;
        } else {
            let pace = pace(&workload);
            result = self.load(pace, workload.warmup_seconds, workload.seconds, &spans)?;
            if let Pace::Open(schedule) = pace
                && result.ledger.failure.is_none()
                && let Some(problem) = unreached(&workload, schedule, &result)
            {
                problems.push(problem);
                status = Status::Failed;
            }
        }
        let ago_ms = ((result.measured_s + result.late_s) * 1000.0) as u64;
        let elapsed_ms = self.shared.started.elapsed().as_millis() as u64;
        let started_ms = self.shared.started_ms as u64 + elapsed_ms.saturating_sub(ago_ms);
        *logs = std::mem::take(&mut result.logs);
        self.take_books(&mut result.ledger);
        if let Some(failure) = result.ledger.failure.take() {
            problems.push(failure);
            status = Status::Failed;
        }
        for (code, count) in &result.ledger.errors {
            problems.push(format!("{count} refusals: {}", error_name(*code)));
        }
        self.interrupted |= self.stopped();
        let mut verdict = None;
        if workload.verify && status != Status::Failed || self.can_check(&problems, status) {
            // From here on another interruption ends the reading.
            self.shared.stop.store(false, Ordering::Relaxed);
            match self.check() {
                Ok((found, told)) => {
                    problems.extend(told);
                    if !found.holds() {
                        status = Status::Invalid;
                    }
                    verdict = Some(found);
                }
                Err(error) => {
                    problems.push(format!("reading back: {error:#}"));
                    if status == Status::Valid {
                        status = Status::Failed;
                    }
                }
            }
        }
        if self.interrupted {
            problems.push(format!("interrupted after {:.1} s", result.measured_s));
            if status == Status::Valid || status == Status::Failed && verdict.is_some() {
                status = Status::Partial;
            }
        }
        Ok(self.outcome(result, started_ms, status, problems, verdict, search))
    }

    /// A load that did not reach its rate was acknowledged all the same.
    fn can_check(&self, problems: &[String], status: Status) -> bool {
        self.shared.workload.verify
            && status == Status::Failed
            && problems.iter().all(|it| it.starts_with("asked for"))
    }

    fn outcome(
        &self,
        result: PhaseResult,
        started_ms: u64,
        status: Status,
        problems: Vec<String>,
        verify: Option<Verdict>,
        search: Option<Vec<Step>>,
    ) -> Outcome {
        let workload = &self.shared.workload;
        let interval = &result.measured;
        let seconds = result.measured_s.max(1e-3);
        let rate = |count: u64| (count as f64 / seconds * 10.0).round() / 10.0;
        let rate_mb = |bytes: u64| (bytes as f64 / seconds / 1e4).round() / 100.0;
        let produced = &interval.produced;
        let fetched = &interval.fetched;
        let drains = workload.read == Read::Backlog && !workload.read_again;
        let readers = result.ledger.readers.values().filter(|_| drains);
        Outcome {
            schema: SCHEMA,
            tool_version: env!("CARGO_PKG_VERSION"),
            workload: workload.clone(),
            started: rfc3339(started_ms),
            seconds: (seconds * 1000.0).round() / 1000.0,
            status,
            problems,
            produce: (workload.producers > 0).then(|| Produced {
                records: produced.records,
                bytes: produced.bytes,
                wire_bytes: produced.wire_bytes,
                requests: produced.requests,
                errors: produced.errors,
                unfinished: result.ledger.unfinished,
                rate_records_s: rate(produced.records),
                rate_mb_s: rate_mb(produced.bytes),
                latency_us: Latency::of(&interval.produce_latency),
                sent_after_us: Latency::of(&interval.lateness),
                load_late_us: Latency::of(&interval.load_late),
            }),
            fetch: (workload.consumers > 0).then(|| Fetched {
                records: fetched.records,
                bytes: fetched.bytes,
                requests: fetched.requests,
                errors: fetched.errors,
                rate_records_s: rate(fetched.records),
                rate_mb_s: rate_mb(fetched.bytes),
                latency_us: Latency::of(&interval.fetch_latency),
                end_to_end_us: Latency::of(&interval.end_to_end),
                drained_s: result
                    .ledger
                    .drained_at_ns
                    .filter(|_| drains)
                    .map(|ns| ns as f64 / 1e9 - workload.warmup_seconds),
                readers_mb_s: readers
                    .map(|share| (share.mb_s() * 100.0).round() / 100.0)
                    .collect(),
            }),
            verify,
            load_cpu_s: (result.cpu_s * 1000.0).round() / 1000.0,
            search,
            per_second: result.seconds,
        }
    }

    fn stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    fn take_books(&mut self, ledger: &mut Ledger) {
        self.acked.append(&mut ledger.acked);
        self.uncertain.append(&mut ledger.uncertain);
    }

    /// What has to be there before the load.
    fn prepare(&mut self) -> Result<()> {
        let workload = self.shared.workload.clone();
        self.bar.set_message("creating topics");
        if workload.aged_bytes > 0 {
            self.age(&workload).context("ageing the disk")?;
        }
        let topics = self.topics.clone();
        self.shared.lay = self.create(&topics, workload.partitions, &workload.topic_config)?;
        // Once every partition tells its end, it is led.
        self.offsets(-1)?;
        if workload.backlog_bytes > 0 {
            self.bar.set_message("producing the backlog");
            let result = self.fill(workload.backlog_bytes)?;
            self.no_failure(result)?;
        }
        if workload.drop_caches {
            rustix::fs::sync();
            std::fs::write("/proc/sys/vm/drop_caches", "1")
                .context("drop_caches: /proc/sys/vm/drop_caches (only root may)")?;
        }
        Ok(())
    }

    fn no_failure(&mut self, mut result: PhaseResult) -> Result<()> {
        self.take_books(&mut result.ledger);
        if let Some(failure) = result.ledger.failure {
            bail!(failure);
        }
        ensure!(!self.stopped(), "interrupted before the load began");
        Ok(())
    }

    fn create(
        &mut self,
        topics: &[String],
        partitions: u32,
        configs: &BTreeMap<String, String>,
    ) -> Result<Lay> {
        let factor = self.shared.workload.replication_factor;
        let cluster = self
            .client
            .create_topics(topics, partitions, factor, configs)?;
        let ids: Vec<i32> = cluster.brokers.keys().copied().collect();
        let mut leaders = Vec::new();
        for topic in topics {
            let of_topic = cluster.leaders.get(topic);
            for leader in of_topic.with_context(|| format!("topic {topic} is gone"))? {
                let at = ids.binary_search(leader);
                leaders.push(at.ok().context("a leader is no broker")? as u16);
            }
        }
        Ok(Lay {
            topics: topics.to_vec(),
            partitions,
            brokers: cluster.brokers.into_values().collect(),
            leaders,
        })
    }

    /// Fills two topics side by side in small segments and deletes one: what is free then is in pieces.
    fn age(&mut self, workload: &Workload) -> Result<()> {
        let name = |half: &str| self.topics[0].replacen("-0", &format!("-aged-{half}-0"), 1);
        let halves = vec![name("a"), name("b")];
        self.aged = halves.clone();
        let configs = BTreeMap::from([("segment.bytes".to_string(), "1048576".to_string())]);
        self.shared.lay = self.create(&halves, 8, &configs)?;
        self.offsets(-1)?;
        let real = std::mem::replace(
            &mut self.shared.workload,
            Workload {
                topics: 2,
                partitions: 8,
                producers: 1,
                batch_bytes: 65_536,
                record_bytes: 1024,
                verify: false,
                ..Workload::default()
            },
        );
        let acks = std::mem::replace(&mut self.shared.acks, 1);
        let result = self.fill(workload.aged_bytes);
        self.shared.workload = real;
        self.shared.acks = acks;
        let result = result?;
        self.no_failure(result)?;
        self.client.delete_topics(&halves[..1])
    }

    /// Produces so many bytes, as fast as they are acknowledged.
    fn fill(&mut self, bytes: u64) -> Result<PhaseResult> {
        let produce = Produce {
            pace: Pace::Closed,
            budget_bytes: Some(bytes),
            producer_ids: self.producer_ids(self.shared.workload.producers.max(1))?,
        };
        let phase = self.phase(0, UNLIMITED_NS, Some(produce), None);
        phase::measure(&self.shared, &self.bar, phase, None)
    }

    fn producer_ids(&mut self, producers: u32) -> Result<Vec<Option<(i64, i16)>>> {
        (0..producers)
            .map(|_| {
                let idempotent = self.shared.workload.idempotent;
                idempotent.then(|| self.client.producer_id()).transpose()
            })
            .collect()
    }

    fn phase(
        &mut self,
        warmup_ns: u64,
        measured_ns: u64,
        produce: Option<Produce>,
        read: Option<ReadPlan>,
    ) -> Phase {
        self.phases += 1;
        Phase {
            number: self.phases,
            // Set when it begins.
            begin_ns: 0,
            threads: 1,
            warmup_ns,
            measured_ns,
            produce,
            read,
        }
    }

    /// What each consumer reads: the partitions are divided, and all that as often as it fans out.
    fn consumer_spans(&mut self) -> Result<Vec<Vec<Span>>> {
        let workload = &self.shared.workload;
        let consumers = workload.consumers as usize;
        if consumers == 0 {
            return Ok(Vec::new());
        }
        let (read, fan_out) = (workload.read, workload.fan_out as usize);
        let starts = self.offsets(-2)?;
        let ends = self.offsets(-1)?;
        let mut spans = vec![Vec::new(); consumers * fan_out];
        for partition in 0..self.shared.lay.total() {
            let at = partition as usize;
            let span = match read {
                Read::Tail => Span {
                    partition,
                    start: ends[at],
                    end: None,
                },
                Read::Backlog => Span {
                    partition,
                    start: starts[at],
                    end: Some(ends[at]),
                },
            };
            for fan in 0..fan_out {
                spans[fan * consumers + at % consumers].push(span);
            }
        }
        spans.retain(|spans| !spans.is_empty());
        Ok(spans)
    }

    /// The offsets of all partitions at a timestamp, asked of their leaders.
    fn offsets(&mut self, timestamp: i64) -> Result<Vec<i64>> {
        let lay = &self.shared.lay;
        let mut offsets = vec![0; lay.total() as usize];
        for (broker, address) in lay.brokers.iter().enumerate() {
            let led: Vec<u32> = (0..lay.total())
                .filter(|&partition| lay.broker_of(partition) == broker)
                .collect();
            if led.is_empty() {
                continue;
            }
            let names: Vec<(String, u32)> = led
                .iter()
                .map(|&partition| {
                    let topic = &lay.topics[(partition / lay.partitions) as usize];
                    (topic.clone(), partition % lay.partitions)
                })
                .collect();
            let answer = Client::connect(address)?.offsets(&names, timestamp)?;
            for (partition, name) in led.iter().zip(&names) {
                let offset = answer.get(name).context("an offset is missing")?;
                offsets[*partition as usize] = *offset;
            }
        }
        Ok(offsets)
    }

    /// The load of the workload at this pace.
    fn load(
        &mut self,
        pace: Pace,
        warmup_s: f64,
        seconds: f64,
        spans: &[Vec<Span>],
    ) -> Result<PhaseResult> {
        let workload = self.shared.workload.clone();
        let producers = workload.producers;
        let produce = if producers > 0 {
            Some(Produce {
                pace,
                budget_bytes: (workload.produce_bytes > 0).then_some(workload.produce_bytes),
                producer_ids: self.producer_ids(producers)?,
            })
        } else {
            None
        };
        let open = matches!(pace, Pace::Open(_));
        let look = match workload.read {
            Read::Backlog => Look::Headers,
            Read::Tail if open => Look::Stamps,
            Read::Tail => Look::FirstStamp,
        };
        let read = (!spans.is_empty()).then(|| ReadPlan {
            look,
            read_again: workload.read_again,
            spans: spans.to_vec(),
            ends_phase: workload.read == Read::Backlog && !workload.read_again,
        });
        let ns = |seconds: f64| (seconds * 1e9) as u64;
        let phase = self.phase(ns(warmup_s), ns(seconds), produce, read);
        phase::measure(&self.shared, &self.bar, phase, None)
    }

    /// The highest rate at which p99 stays below what is asked for, and the run at it.
    fn search(&mut self, spans: &[Vec<Span>]) -> Result<(PhaseResult, Vec<Step>)> {
        let workload = self.shared.workload.clone();
        let limit_us = workload.find_rate_p99_ms * 1000.0;
        let mut steps = Vec::new();
        let (mut low, mut high) = (0.0f64, f64::INFINITY);
        let mut rate = if workload.rate > 0.0 {
            workload.rate
        } else {
            1_000.0
        };
        let mut refinements = 0;
        while refinements < SEARCH_STEPS && rate >= 1.0 && !self.stopped() {
            let trial = self.trial(rate, 1.0, workload.find_rate_seconds, limit_us, spans)?;
            let holds = trial.1.holds;
            steps.push(trial.1);
            if holds {
                low = rate;
            } else {
                high = rate;
            }
            let bounded = low > 0.0 && high.is_finite();
            refinements += usize::from(bounded);
            rate = if bounded {
                (low * high).sqrt()
            } else if holds {
                rate * 2.0
            } else {
                rate / 2.0
            };
            if bounded && high / low < 1.02 {
                break;
            }
        }
        if self.stopped() {
            // What there is: nothing that holds at a known rate.
            let trial = self.trial(low.max(1.0), 0.0, 1.0, limit_us, spans)?;
            return Ok((trial.0, steps));
        }
        ensure!(
            low > 0.0,
            "no rate, not even 1 record/s, keeps p99 under {} ms",
            workload.find_rate_p99_ms
        );
        let mut rate = low;
        for _ in 0..5 {
            let warmup = workload.warmup_seconds;
            let (result, step) = self.trial(rate, warmup, workload.seconds, limit_us, spans)?;
            let holds = step.holds;
            steps.push(step);
            if holds || self.stopped() || result.ledger.failure.is_some() {
                self.shared.workload.rate = rate;
                return Ok((result, steps));
            }
            rate *= 0.95;
        }
        bail!(
            "no rate keeps p99 under {} ms for {} s, though {} records/s did for {} s",
            workload.find_rate_p99_ms,
            workload.seconds,
            number(low),
            workload.find_rate_seconds
        )
    }

    fn trial(
        &mut self,
        rate: f64,
        warmup_s: f64,
        seconds: f64,
        limit_us: f64,
        spans: &[Vec<Span>],
    ) -> Result<(PhaseResult, Step)> {
        let schedule = Schedule::Even { rate };
        let mut result = self.load(Pace::Open(schedule), warmup_s, seconds, spans)?;
        self.take_books(&mut result.ledger);
        if let Some(failure) = &result.ledger.failure {
            bail!("at {} records/s, {failure}", number(rate));
        }
        let p99_us = Latency::of(&result.measured.produce_latency).map_or(f64::MAX, |it| it.p99);
        let workload = Workload {
            seconds,
            warmup_seconds: warmup_s,
            ..self.shared.workload.clone()
        };
        let reached = unreached(&workload, schedule, &result).is_none();
        let step = Step {
            rate_records_s: rate,
            p99_us,
            holds: reached && p99_us <= limit_us,
        };
        Ok((result, step))
    }

    /// Reads back everything acknowledged.
    fn check(&mut self) -> Result<(Verdict, Vec<String>)> {
        self.bar.set_message("reading back");
        let (starts, ends) = (self.offsets(-2)?, self.offsets(-1)?);
        let mut spans: Vec<Vec<Span>> = vec![Vec::new(); CHECK_READERS];
        for partition in 0..self.shared.lay.total() {
            let at = partition as usize;
            spans[at % CHECK_READERS].push(Span {
                partition,
                start: starts[at],
                end: Some(ends[at]),
            });
        }
        let lay = self.shared.lay.clone();
        let mut acked = std::mem::take(&mut self.acked);
        let mut uncertain = std::mem::take(&mut self.uncertain);
        if self.shared.acks == 0 {
            // Nobody said that these arrived.
            uncertain.extend(acked.drain(..).map(|acked| acked.id));
        }
        let checker = Checker::new(acked, uncertain, move |partition| lay.name(partition));
        let read = ReadPlan {
            look: Look::Everything,
            read_again: false,
            spans,
            ends_phase: true,
        };
        let phase = self.phase(0, UNLIMITED_NS, None, Some(read));
        let result = phase::measure(&self.shared, &self.bar, phase, Some(Box::new(checker)))?;
        if let Some(failure) = result.ledger.failure {
            bail!(failure);
        }
        ensure!(!self.stopped(), "interrupted");
        let starts = self.offsets(-2)?;
        let checker = result.checker.context("the checker is gone")?;
        Ok(checker.finish(|partition| starts[partition as usize]))
    }
}

fn pace(workload: &Workload) -> Pace {
    if workload.burst_records > 0 {
        Pace::Open(Schedule::Bursts {
            rate: workload.rate,
            burst: workload.burst_records,
            period_s: workload.burst_every_ms as f64 / 1e3,
        })
    } else if workload.ramp_seconds > 0.0 {
        Pace::Open(Schedule::Ramp {
            from: workload.ramp_from,
            to: workload.rate,
            flat_s: workload.warmup_seconds,
            ramp_s: workload.ramp_seconds,
        })
    } else if workload.rate > 0.0 {
        Pace::Open(Schedule::Even {
            rate: workload.rate,
        })
    } else {
        Pace::Closed
    }
}

/// Says so when the rate asked for was not reached.
fn unreached(workload: &Workload, schedule: Schedule, result: &PhaseResult) -> Option<String> {
    let measured_s = result.measured_s;
    if result.ledger.unfinished == 0 && result.late_s <= (measured_s * 0.05).max(0.5) {
        return None;
    }
    let ns = |seconds: f64| (seconds * 1e9) as u64;
    let warmup = schedule.due_before(ns(workload.warmup_seconds));
    let due = schedule.due_before(ns(workload.warmup_seconds + measured_s)) - warmup;
    let acknowledged = result.measured.produced.records;
    Some(format!(
        "asked for {} records/s, achieved {}: {} records were owed at the end, and the latencies are those of a growing queue",
        number(due as f64 / measured_s),
        number(acknowledged as f64 / measured_s),
        number(due.saturating_sub(acknowledged) as f64)
    ))
}
