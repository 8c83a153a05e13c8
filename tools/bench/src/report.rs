//! How a result is told: one JSON object, a line for each second, HdrHistogram logs, and a few lines for people.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::sample::{Interval, Latency, us};
use crate::verify::Verdict;
use crate::workload::Workload;

/// The load is said to be late if its p99.9 is so much, and so much of the latencies' own.
const LATE_US: f64 = 200.0;
const LATE_PART: f64 = 0.25;

/// Version of the JSON.
pub const SCHEMA: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It ran as asked and everything acknowledged was read back (unless that was not asked for).
    Valid,
    /// Records were lost, doubled or altered.
    Invalid,
    /// Interrupted: what is there is right, but not all that was asked for.
    Partial,
    /// It could not run, or not to its end, or not at the rate asked for.
    Failed,
}

impl Status {
    /// What the process ends with.
    pub fn exit_code(self) -> u8 {
        match self {
            Status::Valid => 0,
            Status::Invalid => 1,
            Status::Failed => 2,
            Status::Partial => 130,
        }
    }
}

/// A run's result, field by field what the JSON has.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub schema: u32,
    pub tool_version: &'static str,
    pub workload: Workload,
    /// When measuring began, RFC 3339.
    pub started: String,
    /// How long was measured.
    pub seconds: f64,
    pub status: Status,
    pub problems: Vec<String>,
    pub produce: Option<Produced>,
    pub fetch: Option<Fetched>,
    pub verify: Option<Verdict>,
    /// CPU of this process while it measured.
    pub load_cpu_s: f64,
    /// What a search for a rate tried.
    pub search: Option<Vec<Step>>,
    pub per_second: Vec<Second>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Produced {
    pub records: u64,
    /// Keys and values, before compression.
    pub bytes: u64,
    /// Batches as they went over the wire.
    pub wire_bytes: u64,
    pub requests: u64,
    pub errors: u64,
    /// Records that were due when measuring ended and not acknowledged in the time that was left to them.
    pub unfinished: u64,
    pub rate_records_s: f64,
    /// Millions of bytes a second.
    pub rate_mb_s: f64,
    /// From when a record should have been sent to its acknowledgement.
    pub latency_us: Option<Latency>,
    /// From when a record should have been sent to when it was: linger, and waiting for the answers of requests that
    /// are in flight, included.
    pub sent_after_us: Option<Latency>,
    /// From when the load was to look at its schedule to when it did: what its own core was late, which is in all
    /// latencies too.
    pub load_late_us: Option<Latency>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Fetched {
    pub records: u64,
    /// Batches as they came over the wire.
    pub bytes: u64,
    /// Answers that had records.
    pub requests: u64,
    pub errors: u64,
    pub rate_records_s: f64,
    pub rate_mb_s: f64,
    /// From a question to its complete answer, of those that had records.
    pub latency_us: Option<Latency>,
    /// From when a record should have been sent to its arrival.
    pub end_to_end_us: Option<Latency>,
    /// When a backlog was read to its end.
    pub drained_s: Option<f64>,
    /// How fast each consumer read its part of a backlog, millions of bytes a second.
    pub readers_mb_s: Vec<f64>,
}

/// One rate that a search tried.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    pub rate_records_s: f64,
    pub p99_us: f64,
    pub holds: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct Second {
    pub t: i64,
    pub produced: u64,
    pub fetched: u64,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub max_us: Option<f64>,
    pub end_to_end_p99_us: Option<f64>,
    pub errors: u64,
}

impl Second {
    pub fn of(interval: &Interval) -> Second {
        // A load that only reads has its latencies in fetches.
        let latency = if interval.produce_latency.is_empty() && interval.produced.requests == 0 {
            &interval.fetch_latency
        } else {
            &interval.produce_latency
        };
        let at = |quantile| (!latency.is_empty()).then(|| us(latency.value_at_quantile(quantile)));
        let end_to_end = &interval.end_to_end;
        Second {
            t: interval.t,
            produced: interval.produced.records,
            fetched: interval.fetched.records,
            p50_us: at(0.5),
            p99_us: at(0.99),
            max_us: (!latency.is_empty()).then(|| us(latency.max())),
            end_to_end_p99_us: (!end_to_end.is_empty())
                .then(|| us(end_to_end.value_at_quantile(0.99))),
            errors: interval.produced.errors + interval.fetched.errors,
        }
    }

    pub fn csv(seconds: &[Second]) -> String {
        let mut csv =
            String::from("t,produced,fetched,p50_us,p99_us,max_us,end_to_end_p99_us,errors\n");
        let or_empty = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
        for it in seconds {
            csv += &format!(
                "{},{},{},{},{},{},{},{}\n",
                it.t,
                it.produced,
                it.fetched,
                or_empty(it.p50_us),
                or_empty(it.p99_us),
                or_empty(it.max_us),
                or_empty(it.end_to_end_p99_us),
                it.errors
            );
        }
        csv
    }
}

/// A number for people: 1234567.8 is `1,234,568`, and below ten it has two digits behind the point.
pub fn number(value: f64) -> String {
    if value.abs() < 10.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if value < 0.0 {
        grouped.insert(0, '-');
    }
    grouped
}

fn latency_line(name: &str, latency: &Option<Latency>) -> String {
    let Some(it) = latency else {
        return String::new();
    };
    let ms = |us: f64| format!("{:.3}", us / 1000.0);
    format!(
        "  {name:<22} mean {} p50 {} p90 {} p99 {} p99.9 {} p99.99 {} max {} ms\n",
        ms(it.mean),
        ms(it.p50),
        ms(it.p90),
        ms(it.p99),
        ms(it.p999),
        ms(it.p9999),
        ms(it.max)
    )
}

impl Outcome {
    /// A few lines for people.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        if let Some(it) = &self.produce {
            text += &format!(
                "produced {} records in {:.1} s: {} records/s, {} MB/s, {} requests, {} errors\n",
                number(it.records as f64),
                self.seconds,
                number(it.rate_records_s),
                number(it.rate_mb_s),
                number(it.requests as f64),
                it.errors
            );
            text += &latency_line("to acknowledgement", &it.latency_us);
            text += &latency_line("late to send", &it.sent_after_us);
            text += &latency_line("late itself", &it.load_late_us);
            text += &it.own_part();
        }
        if let Some(it) = &self.fetch {
            text += &format!(
                "fetched {} records: {} records/s, {} MB/s, {} answers\n",
                number(it.records as f64),
                number(it.rate_records_s),
                number(it.rate_mb_s),
                number(it.requests as f64)
            );
            text += &latency_line("fetch", &it.latency_us);
            text += &latency_line("end to end", &it.end_to_end_us);
            if let Some(seconds) = it.drained_s {
                text += &format!("  backlog drained in {seconds:.2} s\n");
            }
        }
        for step in self.search.iter().flatten() {
            text += &format!(
                "tried {} records/s: p99 {:.3} ms{}\n",
                number(step.rate_records_s),
                step.p99_us / 1000.0,
                if step.holds { "" } else { ", too much" }
            );
        }
        match &self.verify {
            Some(it) => {
                text += &format!(
                    "read back {} of {} acknowledged records: {} lost, {} doubled, {} altered\n",
                    it.found, it.expected, it.lost, it.doubled, it.altered
                );
            }
            None => text += "not read back\n",
        }
        for problem in &self.problems {
            text += &format!("! {problem}\n");
        }
        text += match self.status {
            Status::Valid => "valid\n",
            Status::Invalid => "INVALID\n",
            Status::Partial => "PARTIAL: interrupted\n",
            Status::Failed => "FAILED\n",
        };
        text
    }
}

impl Produced {
    /// A line if the load's own lateness is much of the latencies it saw.
    fn own_part(&self) -> String {
        let (Some(seen), Some(own)) = (&self.latency_us, &self.load_late_us) else {
            return String::new();
        };
        if own.p999 < LATE_US || own.p999 < seen.p999 * LATE_PART {
            return String::new();
        }
        format!(
            "! the load was late itself: by {:.3} ms at p99.9, where the answers are by {:.3} ms\n",
            own.p999 / 1000.0,
            seen.p999 / 1000.0
        )
    }
}

/// A folder in which all that is written is whole or not there.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes the folder, and sees that it can be written to before anything runs.
    pub fn new(path: &Path) -> Result<Folder> {
        fs::create_dir_all(path)
            .and_then(|()| {
                let probe = path.join(".ringspun-bench");
                fs::write(&probe, [0; 4096]).inspect_err(|_| drop(fs::remove_file(&probe)))?;
                fs::remove_file(probe)
            })
            .with_context(|| format!("output folder {}", path.display()))?;
        Ok(Folder(path.into()))
    }

    pub fn write(&self, name: &str, contents: &[u8]) -> Result<()> {
        write_whole(&self.0.join(name), contents)
    }
}

/// Writes a file that is whole or not there.
pub fn write_whole(path: &Path, contents: &[u8]) -> Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let written: io::Result<()> = fs::write(&part, contents).and_then(|()| fs::rename(&part, path));
    written
        .inspect_err(|_| drop(fs::remove_file(&part)))
        .with_context(|| format!("writing {}", path.display()))
}

/// RFC 3339, in UTC, to the second.
pub fn rfc3339(unix_ms: u64) -> String {
    let (unix_s, ms) = (unix_ms / 1000, unix_ms % 1000);
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    // Civil from days, with years that begin in March.
    let z = days + 719_468;
    let era = z / 146_097;
    let of_era = z % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ms:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_that_is_late_itself_says_so() {
        let latency = |p999: f64| Latency {
            count: 1,
            mean: 0.0,
            p50: 0.0,
            p90: 0.0,
            p99: 0.0,
            p999,
            p9999: 0.0,
            max: 0.0,
        };
        let produced = |seen: f64, own: f64| Produced {
            records: 0,
            bytes: 0,
            wire_bytes: 0,
            requests: 0,
            errors: 0,
            unfinished: 0,
            rate_records_s: 0.0,
            rate_mb_s: 0.0,
            latency_us: Some(latency(seen)),
            sent_after_us: None,
            load_late_us: Some(latency(own)),
        };
        let line = produced(4000.0, 1500.0).own_part();
        assert!(
            line.contains("1.500 ms") && line.contains("4.000 ms"),
            "{line}"
        );
        for (seen, own) in [(4000.0, 900.0), (150.0, 150.0)] {
            assert_eq!(produced(seen, own).own_part(), "", "{seen} {own}");
        }
    }

    #[test]
    fn times_are_as_date_tells_them() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_827_696_007), "2000-02-29T12:34:56.007Z");
        assert_eq!(rfc3339(1_798_761_599_999), "2026-12-31T23:59:59.999Z");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(number(1_234_567.8), "1,234,568");
        assert_eq!(number(999.0), "999");
        assert_eq!(number(1.234), "1.23");
    }
}
