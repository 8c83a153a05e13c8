//! What a row of the comparison is made of.

use super::metric::Metric;
use super::run::FIXED;

/// What one record of up to 1 KiB a request comes to, at most.
pub const ONE_RECORD_BYTES_PER_SECOND: f64 = 2e8;

/// What a value is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// How many times better than Kafka in the same round: at least.
    Kafka,
    /// How many times the floor's of the same round, or how many times slower: at most.
    Floor,
    /// How many times ringspun's own under another workload of the same round: at most.
    Variant(&'static str),
    /// The value itself: at most.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    pub metric: Metric,
    /// Of which workload; empty where the row has one.
    pub variant: &'static str,
    pub against: Against,
    pub must: f64,
    pub goal: f64,
}

/// The unavoidable part of a row's work, measured in the same rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Floor {
    /// Receive and write: frames of so many bytes over so many connections, so many in flight on each.
    Receive {
        frame_bytes: usize,
        connections: usize,
        in_flight: usize,
        /// Records in a frame, for figures by record.
        records: u32,
    },
    /// Receive and write at a rate, for its percentiles.
    ReceiveAtRate { frame_bytes: usize, rate: f64 },
    /// Send from a file in the page cache over so many connections.
    Send { connections: usize },
    /// Durable writes of 4 KiB, for their percentiles: at a rate, each of all that is due, or one after the other.
    Durable { rate: Option<f64> },
    /// Read so many bytes from the disk, and send from the page cache: the lower of the two rates.
    Drain { bytes: u64 },
}

/// A workload of `ringspun-bench run`: settings over those of [`FIXED`].
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    pub name: &'static str,
    pub settings: &'static [(&'static str, &'static str)],
    /// Settings of the broker; each set of them has a broker of its own.
    pub broker: &'static [(&'static str, &'static str)],
    /// Other brokers do without.
    pub ringspun_only: bool,
}

impl Variant {
    /// The value of a setting that is a number.
    pub fn number(&self, key: &str) -> Option<u64> {
        let of_key = self.settings.iter().rev().find(|(name, _)| *name == key);
        of_key.and_then(|(_, value)| value.parse().ok())
    }

    /// The most that it can write in a second, as far as its settings tell.
    pub fn bytes_per_second(&self) -> f64 {
        let record = self.number("record_bytes").unwrap_or(1024) as f64;
        match (self.number("rate"), self.number("batch_records")) {
            (Some(rate), _) => 2.0 * rate as f64 * record,
            (None, Some(1)) => ONE_RECORD_BYTES_PER_SECOND,
            _ => f64::INFINITY,
        }
    }

    /// Whether it ends when its work is done, however long that takes.
    pub fn is_fixed_work(&self) -> bool {
        let again = self.settings.contains(&("read_again", "true"));
        self.number("produce_bytes").is_some() || self.number("backlog_bytes").is_some() && !again
    }
}

/// How a round of a row goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Procedure {
    /// Run the load.
    Load,
    /// Fill a topic, put it out of the page cache, then read it while writing at 30 % of Kafka's rate.
    Backlog,
    /// Ask two shards on the same cores over connections that own the partition, and that do not.
    Crossing { small: bool },
    /// Start it, empty and with 1,000 partitions, and let it be.
    Start,
    /// 1,000 partitions and nothing to do.
    Idle,
}

/// Who has an fsync before each acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    Nobody,
    Everybody,
    /// Ringspun alone: the other is to be beaten without.
    Ringspun,
}

#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub title: &'static str,
    pub procedure: Procedure,
    pub fsync: Fsync,
    pub variants: &'static [Variant],
    pub floor: Option<Floor>,
    pub judgements: &'static [Judgement],
    /// It is judged by percentiles: at least nine rounds, none with steal.
    pub percentiles: bool,
    /// Rounds that it takes at least to see what is looked for.
    pub rounds_min: u32,
    /// What the report's table shows of it.
    pub shown: &'static [Metric],
}

impl Row {
    /// The sets of settings for which brokers are started, each with its workloads.
    pub fn brokers(&self) -> Vec<Vec<&'static Variant>> {
        let mut brokers: Vec<Vec<&'static Variant>> = Vec::new();
        for variant in self.variants {
            match brokers.iter_mut().find(|of| of[0].broker == variant.broker) {
                Some(of) => of.push(variant),
                None => brokers.push(vec![variant]),
            }
        }
        brokers
    }

    /// Settings that are shared by all rows, then those of a workload.
    pub fn settings(&self, variant: &Variant) -> Vec<(&'static str, &'static str)> {
        FIXED.iter().chain(variant.settings).copied().collect()
    }
}
