//! What is counted while the load runs, second by second.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies are kept in nanoseconds, from a microsecond to an hour, to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 3_600_000_000_000, 3).expect("bounds that fit")
}

/// One second of one thread, or of all.
#[derive(Clone)]
pub struct Interval {
    /// Seconds since measuring began; below 0 while warming up.
    pub t: i64,
    pub produced: Counts,
    pub fetched: Counts,
    pub produce_latency: Histogram<u64>,
    pub fetch_latency: Histogram<u64>,
    pub end_to_end: Histogram<u64>,
    /// How long after their time the load sent records.
    pub lateness: Histogram<u64>,
    /// How long after it was to look at its schedule the load did.
    pub load_late: Histogram<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub records: u64,
    /// Produced: keys and values. Fetched: batches as they came.
    pub bytes: u64,
    /// Batches as they went over the wire.
    pub wire_bytes: u64,
    pub requests: u64,
    pub errors: u64,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.wire_bytes += other.wire_bytes;
        self.requests += other.requests;
        self.errors += other.errors;
    }
}

impl Interval {
    pub fn new(t: i64) -> Interval {
        Interval {
            t,
            produced: Counts::default(),
            fetched: Counts::default(),
            produce_latency: histogram(),
            fetch_latency: histogram(),
            end_to_end: histogram(),
            lateness: histogram(),
            load_late: histogram(),
        }
    }

    /// Adds what another thread, or another second, counted.
    pub fn add(&mut self, other: &Interval) {
        self.produced.add(&other.produced);
        self.fetched.add(&other.fetched);
        for (all, one) in [
            (&mut self.produce_latency, &other.produce_latency),
            (&mut self.fetch_latency, &other.fetch_latency),
            (&mut self.end_to_end, &other.end_to_end),
            (&mut self.lateness, &other.lateness),
            (&mut self.load_late, &other.load_late),
        ] {
            all.add(one).expect("histograms of the same bounds");
        }
    }
}

/// What a histogram comes to, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Latency {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub p9999: f64,
    pub max: f64,
}

impl Latency {
    /// None where nothing was counted.
    pub fn of(histogram: &Histogram<u64>) -> Option<Latency> {
        let at = |quantile| us(histogram.value_at_quantile(quantile));
        (!histogram.is_empty()).then(|| Latency {
            count: histogram.len(),
            mean: (histogram.mean() / 100.0).round() / 10.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: us(histogram.max()),
        })
    }
}

/// Nanoseconds in microseconds, to a tenth.
pub fn us(ns: u64) -> f64 {
    (ns as f64 / 100.0).round() / 10.0
}

/// A batch that was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acked {
    pub id: crate::content::BatchId,
    /// -1 where the broker did not say.
    pub base_offset: i64,
    /// Of all partitions of the run.
    pub partition: u32,
    pub records: u32,
    pub digest: crate::content::RecordDigest,
}

/// What a consumer has read since measuring began.
#[derive(Debug, Clone, Copy, Default)]
pub struct Share {
    pub bytes: u64,
    /// How long that took.
    pub time_ns: u64,
}

impl Share {
    /// Millions of bytes a second.
    pub fn mb_s(self) -> f64 {
        self.bytes as f64 * 1e3 / self.time_ns.max(1) as f64
    }
}

/// What a thread knows when it is done, besides its intervals.
#[derive(Default)]
pub struct Ledger {
    pub acked: Vec<Acked>,
    /// Batches that were sent and not acknowledged: they may be there or not.
    pub uncertain: Vec<crate::content::BatchId>,
    /// Records that should have been sent and were not, or not answered, when the run ended.
    pub unfinished: u64,
    /// Refusals by Kafka's code.
    pub errors: BTreeMap<i16, u64>,
    /// Keys and values acknowledged, at any time.
    pub payload_bytes: u64,
    /// Why the load had to stop before its time.
    pub failure: Option<String>,
    /// When reading reached its end, in nanoseconds since the phase began.
    pub drained_at_ns: Option<u64>,
    /// By consumer.
    pub readers: BTreeMap<u32, Share>,
    /// When sending ended, and when the last answer was there, on the clock of the run.
    pub ended_at_ns: u64,
    pub idle_at_ns: u64,
}

impl Ledger {
    pub fn add(&mut self, mut other: Ledger) {
        self.acked.append(&mut other.acked);
        self.uncertain.append(&mut other.uncertain);
        self.unfinished += other.unfinished;
        self.payload_bytes += other.payload_bytes;
        for (code, count) in other.errors {
            *self.errors.entry(code).or_default() += count;
        }
        self.failure = self.failure.take().or(other.failure);
        self.ended_at_ns = self.ended_at_ns.max(other.ended_at_ns);
        self.idle_at_ns = self.idle_at_ns.max(other.idle_at_ns);
        self.drained_at_ns = self.drained_at_ns.max(other.drained_at_ns);
        self.readers.append(&mut other.readers);
    }
}
