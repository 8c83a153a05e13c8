//! What a run does: every key, its default and its meaning. A workload file is TOML with these keys, and
//! `--set key=value` changes one.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::codec::Codec;
use crate::content::STAMP;

/// The workloads that have a name: the files in `workloads/`.
const NAMED: &[(&str, &str)] = &include!("workloads.in");

/// Every key of a workload file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Workload {
    /// For people.
    pub description: String,

    // What is made before.
    pub topics: u32,
    /// Partitions of each topic.
    pub partitions: u32,
    pub replication_factor: i16,
    /// Topics are called so, with a number; the run's own number comes between unless they are kept.
    pub topic_prefix: String,
    /// Whether the topics stay after the run.
    pub keep_topics: bool,
    /// Settings of the topics, by Kafka's names.
    pub topic_config: BTreeMap<String, String>,
    /// Bytes written and half deleted again before the run, in small segments: an aged disk.
    pub aged_bytes: u64,
    /// Bytes of keys and values produced before the run begins, to be read back in it.
    pub backlog_bytes: u64,
    /// Whether the machine's page cache is emptied after the backlog was written (root only).
    pub drop_caches: bool,

    // How long.
    pub warmup_seconds: f64,
    pub seconds: f64,
    /// Keys and values of which what is measured consists, in a closed loop: it ends when so many bytes are
    /// acknowledged, `seconds` being the longest; 0 for no limit.
    pub produce_bytes: u64,

    // The producers.
    /// Each has a connection of its own to each broker.
    pub producers: u32,
    /// Records a second by all producers together; 0 for a closed loop: as fast as they are acknowledged.
    pub rate: f64,
    /// Where the rate begins if it is not constant, rising or falling evenly to `rate`.
    pub ramp_from: f64,
    /// How long it takes to `rate`; 0 for no ramp.
    pub ramp_seconds: f64,
    /// Records that come on top, all at once, at the end of every `burst_every_ms`.
    pub burst_records: u64,
    pub burst_every_ms: u64,
    /// Look for the highest rate at which p99 stays below this, then run at it; 0 for no search.
    pub find_rate_p99_ms: f64,
    /// How long each rate is tried in that search.
    pub find_rate_seconds: f64,
    /// Requests without an answer on one connection.
    pub in_flight: u32,
    /// 0, 1 or all.
    pub acks: String,
    pub idempotent: bool,
    pub timeout_ms: i32,
    /// A batch is sent when it has so many bytes, uncompressed, …
    pub batch_bytes: u64,
    /// … or so many records (0: no limit) …
    pub batch_records: u32,
    /// … or when its first record has waited so long. Of no meaning in a closed loop, where batches are full.
    pub linger_ms: f64,
    /// Most batches, of as many partitions, in one request. A request that goes because one batch has waited long
    /// enough takes along what else fills for its broker.
    pub batches_per_request: u32,
    pub codec: Codec,

    // The records.
    /// Bytes of a value, at least 16.
    pub record_bytes: u64,
    /// Sizes of values by weight, `[[bytes, weight], …]`, instead of `record_bytes`.
    pub record_sizes: Vec<(u64, f64)>,
    /// none (whole batches go to the partitions in turn), round_robin or zipf.
    pub keys: Keys,
    pub key_count: u32,
    pub key_bytes: u32,
    pub zipf_exponent: f64,
    /// random or words.
    pub payload: Payload,

    // The consumers.
    /// Connections that share the partitions between them; 0 for no reading.
    pub consumers: u32,
    /// So many times, each reading everything.
    pub fan_out: u32,
    /// tail (what is produced meanwhile) or backlog (what was produced before).
    pub read: Read,
    /// Whether a backlog is begun again when it was read.
    pub read_again: bool,
    pub fetch_min_bytes: i32,
    pub fetch_max_bytes: i32,
    pub fetch_partition_max_bytes: i32,
    pub fetch_max_wait_ms: i32,

    // The run itself.
    /// Whether everything acknowledged is read back and compared.
    pub verify: bool,
    /// Threads that make the load.
    pub threads: u32,
    /// Makes contents and keys the same in every run.
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keys {
    None,
    RoundRobin,
    Zipf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    Random,
    Words,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Read {
    Tail,
    Backlog,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The one to print, with every key (the file itself has those that differ from the default)
    name: Option<String>,
}

/// Lists the named workloads, or prints one with every key.
pub fn main(args: &Args) -> Result<u8> {
    match &args.name {
        Some(name) => print!("{}", toml::to_string(&Workload::load(name, &[])?)?),
        None => {
            for (name, _) in NAMED {
                let workload = Workload::load(name, &[])?;
                println!("{name:<26} {}", workload.description);
            }
        }
    }
    Ok(0)
}

impl Default for Workload {
    fn default() -> Workload {
        Workload {
            description: String::new(),
            topics: 1,
            partitions: 1,
            replication_factor: 1,
            topic_prefix: "bench".into(),
            keep_topics: false,
            topic_config: BTreeMap::new(),
            aged_bytes: 0,
            backlog_bytes: 0,
            drop_caches: false,
            warmup_seconds: 2.0,
            seconds: 10.0,
            produce_bytes: 0,
            producers: 1,
            rate: 0.0,
            ramp_from: 0.0,
            ramp_seconds: 0.0,
            burst_records: 0,
            burst_every_ms: 0,
            find_rate_p99_ms: 0.0,
            find_rate_seconds: 5.0,
            in_flight: 5,
            acks: "all".into(),
            idempotent: false,
            timeout_ms: 30_000,
            batch_bytes: 16_384,
            batch_records: 0,
            linger_ms: 0.0,
            batches_per_request: 1,
            codec: Codec::None,
            record_bytes: 1024,
            record_sizes: Vec::new(),
            keys: Keys::None,
            key_count: 10_000,
            key_bytes: 8,
            zipf_exponent: 1.0,
            payload: Payload::Random,
            consumers: 0,
            fan_out: 1,
            read: Read::Tail,
            read_again: false,
            fetch_min_bytes: 1,
            fetch_max_bytes: 50 << 20,
            fetch_partition_max_bytes: 1 << 20,
            fetch_max_wait_ms: 500,
            verify: true,
            threads: 1,
            seed: 1,
        }
    }
}

/// The names of the workloads that have one, with the text of their files.
pub fn named() -> &'static [(&'static str, &'static str)] {
    NAMED
}

impl Workload {
    /// The workload of this name, or of this file, with `settings` (`key=value`) over it.
    pub fn load(name: &str, settings: &[String]) -> Result<Workload> {
        let text = match NAMED.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => text.to_string(),
            None if Path::new(name).exists() => {
                std::fs::read_to_string(name).with_context(|| format!("workload {name}"))?
            }
            None => {
                let near = nearest(name, NAMED.iter().map(|(known, _)| *known));
                bail!(
                    "no workload and no file is called {name}{}; `ringspun-bench workloads` lists them",
                    near.map_or(String::new(), |near| format!(", did you mean {near}?"))
                );
            }
        };
        Workload::parse(&text, settings).with_context(|| format!("workload {name}"))
    }

    /// The workload that `text` describes, with `settings` over it.
    pub fn parse(text: &str, settings: &[String]) -> Result<Workload> {
        let mut table: Table = text.parse::<Table>().context("not TOML")?;
        for setting in settings {
            let (key, value) = setting
                .split_once('=')
                .with_context(|| format!("--set {setting}: key=value is expected"))?;
            let (key, value) = (key.trim(), value.trim());
            if let Some(name) = key.strip_prefix("topic_config.") {
                let configs = table
                    .entry("topic_config")
                    .or_insert_with(|| Value::Table(Table::new()));
                let configs = configs.as_table_mut().context("topic_config is a table")?;
                configs.insert(name.into(), Value::String(value.into()));
                continue;
            }
            let parsed = format!("value = {value}").parse::<Table>();
            let value = parsed
                .ok()
                .and_then(|mut parsed| parsed.remove("value"))
                .unwrap_or_else(|| Value::String(value.into()));
            table.insert(key.into(), value);
        }
        let defaults = Table::try_from(Workload::default()).context("the defaults")?;
        for (key, value) in &mut table {
            let Some(default) = defaults.get(key) else {
                match nearest(key, defaults.keys().map(String::as_str)) {
                    Some(near) => bail!("unknown key {key}, did you mean {near}?"),
                    None => bail!("unknown key {key}"),
                }
            };
            convert(value, default).with_context(|| format!("key {key}"))?;
        }
        let workload: Workload = table.try_into()?;
        workload.check()?;
        Ok(workload)
    }

    fn check(&self) -> Result<()> {
        let numbers = [
            ("seconds", self.seconds),
            ("warmup_seconds", self.warmup_seconds),
            ("rate", self.rate),
            ("ramp_from", self.ramp_from),
            ("ramp_seconds", self.ramp_seconds),
            ("linger_ms", self.linger_ms),
            ("find_rate_p99_ms", self.find_rate_p99_ms),
            ("find_rate_seconds", self.find_rate_seconds),
            ("zipf_exponent", self.zipf_exponent),
        ];
        for (name, value) in numbers {
            ensure!(
                value.is_finite() && (0.0..=1e12).contains(&value),
                "{name} = {value}: a number from 0 on is expected"
            );
        }
        ensure!(self.seconds > 0.0, "seconds has to be more than 0");
        ensure!(
            self.seconds <= 1e6 && self.warmup_seconds <= 1e6,
            "more than 1,000,000 seconds"
        );
        ensure!(
            self.topics > 0 && self.partitions > 0,
            "there has to be a partition"
        );
        let partitions = u64::from(self.topics) * u64::from(self.partitions);
        ensure!(
            partitions <= 100_000,
            "topics x partitions = {partitions}: at most 100,000"
        );
        ensure!(self.producers <= 10_000, "at most 10,000 producers");
        ensure!(
            u64::from(self.consumers) * u64::from(self.fan_out) <= 10_000,
            "at most 10,000 consumers"
        );
        ensure!(
            self.fan_out > 0,
            "fan_out = 0: each record is read at least once"
        );
        ensure!(
            self.producers > 0 || (self.consumers > 0 && self.read == Read::Backlog),
            "without producers there is only a backlog to read: consumers and read = \"backlog\""
        );
        ensure!(
            self.read == Read::Tail || self.consumers == 0 || self.backlog_bytes > 0,
            "read = \"backlog\" needs backlog_bytes"
        );
        ensure!(
            matches!(self.acks.as_str(), "0" | "1" | "all"),
            "acks = {:?}: 0, 1 or all",
            self.acks
        );
        ensure!(
            !self.idempotent || self.acks == "all",
            "idempotent producers need acks = \"all\""
        );
        ensure!(
            !self.idempotent || self.in_flight <= 5,
            "idempotent producers have at most 5 requests in flight"
        );
        ensure!(
            (1..=100_000).contains(&self.in_flight),
            "in_flight = {}: 1 to 100,000",
            self.in_flight
        );
        ensure!(
            (1..=10_000).contains(&self.batches_per_request),
            "batches_per_request: 1 to 10,000"
        );
        ensure!(
            (1..=64).contains(&self.threads),
            "threads = {}: 1 to 64",
            self.threads
        );
        for (bytes, weight) in self.sizes() {
            ensure!(
                (STAMP as u64..=64 << 20).contains(&bytes),
                "a record of {bytes} bytes: 16 (its stamp) to 64 MiB"
            );
            ensure!(
                weight.is_finite() && weight > 0.0,
                "record_sizes: a weight is more than 0"
            );
        }
        ensure!(
            (1..=100 << 20).contains(&self.batch_bytes),
            "batch_bytes: 1 to 100 MiB"
        );
        if self.keys != Keys::None {
            ensure!(
                (1..=10_000_000).contains(&self.key_count),
                "key_count: 1 to 10,000,000"
            );
            ensure!(
                (1..=4096).contains(&self.key_bytes),
                "key_bytes: 1 to 4,096"
            );
        }
        ensure!(
            (self.burst_records > 0) == (self.burst_every_ms > 0),
            "burst_records and burst_every_ms go together"
        );
        ensure!(
            self.burst_records == 0 || self.ramp_seconds == 0.0,
            "a rate has bursts or a ramp, not both"
        );
        ensure!(
            self.ramp_seconds == 0.0 || self.rate > 0.0,
            "a ramp needs a rate to go to"
        );
        ensure!(
            self.produce_bytes == 0 || !(self.open_loop() || self.find_rate_p99_ms > 0.0),
            "produce_bytes is for a closed loop: no rate, no bursts, no search"
        );
        ensure!(
            self.find_rate_p99_ms == 0.0 || (self.producers > 0 && self.burst_records == 0),
            "a search for a rate needs producers, and no bursts"
        );
        Ok(())
    }

    /// Sizes of values with their weights.
    pub fn sizes(&self) -> Vec<(u64, f64)> {
        if self.record_sizes.is_empty() {
            vec![(self.record_bytes, 1.0)]
        } else {
            self.record_sizes.clone()
        }
    }

    /// Whether records have times at which they should be sent.
    pub fn open_loop(&self) -> bool {
        self.rate > 0.0 || self.burst_records > 0
    }

    pub fn acks(&self) -> i16 {
        match self.acks.as_str() {
            "0" => 0,
            "1" => 1,
            _ => -1,
        }
    }
}

/// Makes of a value what its key takes: sizes with units become numbers, numbers become what else a number
/// may stand for.
fn convert(value: &mut Value, default: &Value) -> Result<()> {
    *value = match (&*value, default) {
        (Value::Integer(number), Value::Float(_)) => Value::Float(*number as f64),
        (Value::Integer(number), Value::String(_)) => Value::String(number.to_string()),
        (Value::String(text), Value::Integer(_)) => {
            Value::Integer(size(text).with_context(|| format!("{text:?} is no number"))?)
        }
        (Value::Table(configs), Value::Table(_)) => {
            let mut converted = Table::new();
            flatten("", configs, &mut converted)?;
            Value::Table(converted)
        }
        (Value::Array(_), Value::Array(_)) => return Ok(()),
        (given, expected) => {
            ensure!(
                given.same_type(expected),
                "a {} is expected, not a {}",
                expected.type_str(),
                given.type_str()
            );
            return Ok(());
        }
    };
    Ok(())
}

/// `segment.bytes = 1` without quotes is a table in a table in TOML; Kafka's names have dots.
fn flatten(prefix: &str, table: &Table, out: &mut Table) -> Result<()> {
    for (key, value) in table {
        let name = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        let text = match value {
            Value::Table(inner) => {
                flatten(&name, inner, out)?;
                continue;
            }
            Value::String(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(flag) => flag.to_string(),
            other => bail!("{name} is a {}", other.type_str()),
        };
        out.insert(name, Value::String(text));
    }
    Ok(())
}

/// `64KiB`, `1MiB`, `2GB`, or a plain number.
fn size(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(text.len());
    let number: i64 = text[..digits].replace('_', "").parse().ok()?;
    let unit = match text[digits..].trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// The name most like this one, if one is like it at all.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_workload_reads() {
        for (name, _) in named() {
            let workload = Workload::load(name, &[]).unwrap_or_else(|error| panic!("{error:#}"));
            assert!(!workload.description.is_empty(), "{name}");
        }
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let error = Workload::parse("partitons = 4", &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown key partitons, did you mean partitions?"
        );
        let error = Workload::parse("", &["lingerms=4".into()]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown key lingerms, did you mean linger_ms?"
        );
    }

    #[test]
    fn settings_come_over_the_file_and_numbers_may_have_units() {
        let text = "batch_bytes = \"64KiB\"\nacks = 1\nrate = 5\n[topic_config]\nsegment.bytes = 1048576\n\"retention.ms\" = -1";
        let settings = ["rate=7.5", "topic_config.flush.messages=1", "acks=all"];
        let workload = Workload::parse(text, &settings.map(String::from)).unwrap();
        assert_eq!(workload.batch_bytes, 65_536);
        assert_eq!(workload.rate, 7.5);
        assert_eq!(workload.acks, "all");
        let configs: Vec<_> = workload.topic_config.into_iter().collect();
        let expected = [
            ("flush.messages", "1"),
            ("retention.ms", "-1"),
            ("segment.bytes", "1048576"),
        ];
        assert_eq!(
            configs,
            expected.map(|(name, value)| (name.into(), value.into()))
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, expected) in [
            ("record_bytes = 8", "its stamp"),
            ("acks = 2", "0, 1 or all"),
            ("seconds = 0", "seconds"),
            ("partitions = \"many\"", "partitions"),
            ("partitions = -1", "partitions"),
            ("consumers = 1\nread = \"backlog\"", "needs backlog_bytes"),
            ("burst_records = 5", "go together"),
            ("codec = \"brotli\"", "brotli"),
            ("produce_bytes = 1\nrate = 5", "closed loop"),
            ("rate = nan", "rate"),
        ] {
            let error = Workload::parse(text, &[]).expect_err(text);
            assert!(format!("{error:#}").contains(expected), "{text}: {error:#}");
        }
    }
}
