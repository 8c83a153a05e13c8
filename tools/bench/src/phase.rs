//! One phase of a load: its threads, what they tell each second, and what it came to.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;
use indicatif::ProgressBar;

use crate::engine::{self, Message, Phase, Shared};
use crate::report::{Second, number};
use crate::sample::{Interval, Ledger};
use crate::verify::Checker;

/// Names of the HdrHistogram logs.
const LOGS: [&str; 3] = ["produce.hlog", "fetch.hlog", "end_to_end.hlog"];

/// HdrHistogram logs by file name.
#[derive(Default)]
pub struct Logs(pub BTreeMap<&'static str, Vec<u8>>);

/// What a phase came to.
pub struct PhaseResult {
    pub measured: Interval,
    pub seconds: Vec<Second>,
    pub measured_s: f64,
    pub cpu_s: f64,
    /// How long after the end the last answer came.
    pub late_s: f64,
    pub ledger: Ledger,
    pub checker: Option<Box<Checker>>,
    pub logs: Logs,
}

/// Runs a phase to its end, with a line that is shown meanwhile.
/// Runs a phase on its threads and gathers what they tell.
pub fn measure(
    shared: &Shared,
    bar: &ProgressBar,
    mut phase: Phase,
    mut checker: Option<Box<Checker>>,
) -> Result<PhaseResult> {
    // One thread reads back: it alone knows what to expect.
    phase.threads = if checker.is_some() {
        1
    } else {
        shared.workload.threads as usize
    };
    // Connecting takes its time.
    let connections = phase.produce.as_ref().map_or(0, |it| it.producer_ids.len())
        + phase.read.as_ref().map_or(0, |it| it.spans.len());
    phase.begin_ns = shared.now_ns() + 20_000_000 + connections as u64 * 200_000;
    let measure_from = phase.begin_ns + phase.warmup_ns;
    let mut gathering = Gathering::new(phase.threads);
    let mut buffers = LOGS.map(|_| Vec::new());
    let mut serializers = LOGS.map(|_| V2DeflateSerializer::new());
    let begun = UNIX_EPOCH
        + Duration::from_millis(shared.started_ms as u64)
        + Duration::from_nanos(measure_from);
    let mut logs = Vec::new();
    for (buffer, serializer) in buffers.iter_mut().zip(&mut serializers) {
        let log = IntervalLogWriterBuilder::new()
            .with_start_time(begun)
            .with_base_time(begun)
            .with_max_value_divisor(1e6)
            .begin_log_with(buffer, serializer)?;
        logs.push(log);
    }
    let mut cpu_from = None;
    std::thread::scope(|scope| -> Result<()> {
        let (tell, told) = mpsc::channel();
        for thread in 0..phase.threads {
            let (tell, phase, checker) = (tell.clone(), &phase, checker.take());
            scope.spawn(move || engine::run(shared, phase, thread, checker, &tell));
        }
        drop(tell);
        loop {
            let message = told.recv_timeout(Duration::from_millis(20));
            if cpu_from.is_none() && shared.now_ns() >= measure_from {
                cpu_from = Some(cpu_s());
            }
            match message {
                Ok(Message::Second(thread, interval)) => gathering.take(thread, interval),
                Ok(Message::Done(thread, ledger, checker)) => {
                    gathering.done(thread, *ledger, checker);
                }
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            while let Some(interval) = gathering.next() {
                bar.set_message(live(&interval));
                bar.tick();
                if interval.t < 0 {
                    continue;
                }
                let histograms = [
                    &interval.produce_latency,
                    &interval.fetch_latency,
                    &interval.end_to_end,
                ];
                for (log, histogram) in logs.iter_mut().zip(histograms) {
                    let at = Duration::from_secs(interval.t as u64);
                    log.write_histogram(histogram, at, Duration::from_secs(1), None)
                        .map_err(|error| anyhow!("a histogram log: {error:?}"))?;
                }
            }
        }
    })?;
    drop(logs);
    let cpu_s = cpu_from.map_or(0.0, |from| cpu_s() - from);
    let ledger = gathering.ledger;
    let measured = &gathering.measured;
    let counted = [
        measured.produced.requests > 0,
        measured.fetched.requests > 0,
        !measured.end_to_end.is_empty(),
    ];
    let named = LOGS.into_iter().zip(buffers).zip(counted);
    let logs = named.filter(|(_, counted)| *counted).map(|(log, _)| log);
    let seconds = |ns: u64| ns as f64 / 1e9;
    Ok(PhaseResult {
        measured_s: seconds(ledger.ended_at_ns.saturating_sub(measure_from)),
        late_s: seconds(ledger.idle_at_ns.saturating_sub(ledger.ended_at_ns)),
        logs: Logs(logs.collect()),
        measured: gathering.measured,
        seconds: gathering.seconds,
        cpu_s,
        ledger,
        checker: gathering.checker,
    })
}

/// Seconds as the threads tell them, put together when all have told theirs.
struct Gathering {
    open: BTreeMap<i64, Interval>,
    /// By thread, the last second it told.
    told: Vec<i64>,
    measured: Interval,
    seconds: Vec<Second>,
    ledger: Ledger,
    checker: Option<Box<Checker>>,
}

impl Gathering {
    fn new(threads: usize) -> Gathering {
        Gathering {
            open: BTreeMap::new(),
            told: vec![i64::MIN; threads],
            measured: Interval::new(0),
            seconds: Vec::new(),
            ledger: Ledger::default(),
            checker: None,
        }
    }

    fn take(&mut self, thread: usize, interval: Interval) {
        self.told[thread] = interval.t;
        match self.open.get_mut(&interval.t) {
            Some(all) => all.add(&interval),
            None => drop(self.open.insert(interval.t, interval)),
        }
    }

    fn done(&mut self, thread: usize, ledger: Ledger, checker: Option<Box<Checker>>) {
        self.told[thread] = i64::MAX;
        self.ledger.add(ledger);
        self.checker = self.checker.take().or(checker);
    }

    /// The next second that is complete.
    fn next(&mut self) -> Option<Interval> {
        let complete = *self.told.iter().min()?;
        let first = self.open.first_entry()?;
        if *first.key() > complete {
            return None;
        }
        let interval = first.remove();
        if interval.t >= 0 {
            self.measured.add(&interval);
            self.seconds.push(Second::of(&interval));
        }
        Some(interval)
    }
}

/// The line that is shown while the load runs.
fn live(interval: &Interval) -> String {
    let mut line = if interval.t < 0 {
        format!("warming up, {} s left", -interval.t)
    } else {
        format!("{:>4} s", interval.t + 1)
    };
    let ms = |ns: u64| format!("{:.2}", ns as f64 / 1e6);
    let parts = [
        ("produce", &interval.produced, &interval.produce_latency),
        ("fetch", &interval.fetched, &interval.fetch_latency),
    ];
    for (name, counts, latency) in parts {
        if counts.requests + counts.records > 0 {
            line += &format!(
                "  {name} {}/s {} MB/s p50 {} p99 {} max {} ms",
                number(counts.records as f64),
                number(counts.bytes as f64 / 1e6),
                ms(latency.value_at_quantile(0.5)),
                ms(latency.value_at_quantile(0.99)),
                ms(latency.max())
            );
        }
    }
    if !interval.end_to_end.is_empty() {
        let p99 = interval.end_to_end.value_at_quantile(0.99);
        line += &format!("  end to end p99 {} ms", ms(p99));
    }
    let errors = interval.produced.errors + interval.fetched.errors;
    line + &format!("  errors {errors}")
}

/// CPU that this process has used.
fn cpu_s() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
