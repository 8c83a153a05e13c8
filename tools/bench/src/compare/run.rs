//! The load generator as a child process, and what its result says in the terms of the table.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use serde_json::Value;

use super::metric::Metric;
use super::sys::{self, Cores};
use super::target::Broker;
use super::usage::Usage;

/// Settings of every run. The content is checked in rounds of its own.
pub const FIXED: &[(&str, &str)] = &[("acks", "all"), ("warmup_seconds", "1")];

/// What a run wrote.
#[derive(Clone, Debug)]
pub struct Ran {
    pub status: String,
    pub problems: Vec<String>,
    /// The part of the run that was measured.
    pub window: Option<(Instant, Instant)>,
    pub result: Value,
}

/// How a run is to go, besides its workload.
#[derive(Clone, Copy, Debug)]
pub struct How<'a> {
    pub seconds: f64,
    /// Read back and compare everything.
    pub verify: bool,
    pub cores: &'a Cores,
    /// A folder for what it writes, which is removed afterwards.
    pub scratch: &'a Path,
}

/// Runs the load against a broker until it ends. Fails if the broker ends before, or somebody wants us to.
pub fn run(broker: &mut Broker, settings: &[(String, String)], how: &How<'_>) -> Result<Ran> {
    let ran = load(broker.address(), settings, how, || broker.check());
    let _ = fs::remove_dir_all(how.scratch);
    // A broker that died says more than the load that missed it.
    broker.check()?;
    ran
}

fn load(
    address: SocketAddr,
    settings: &[(String, String)],
    how: &How<'_>,
    mut check: impl FnMut() -> Result<()>,
) -> Result<Ran> {
    let _ = fs::remove_dir_all(how.scratch);
    fs::create_dir_all(how.scratch)?;
    let json = how.scratch.join("result.json");
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["run", "--quiet", "--workload", "default", "--bootstrap"])
        .arg(address.to_string())
        .arg("--seconds")
        .arg(how.seconds.to_string())
        .arg("--out")
        .arg(how.scratch)
        .arg("--json")
        .arg(&json);
    if let [core] = how.cores.0.as_slice() {
        command.arg("--pin").arg(core.to_string());
    }
    for (key, value) in settings {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    if !how.verify {
        command.arg("--no-verify");
    }
    let words = fs::File::create(how.scratch.join("words"))?;
    command
        .stdin(Stdio::null())
        .stdout(words.try_clone()?)
        .stderr(words);
    sys::contain(&mut command, Some(how.cores));
    let mut child = Child(
        command
            .spawn()
            .context("the load generator cannot be started")?,
    );
    let mut asked = None;
    let status = loop {
        if let Some(status) = child.0.try_wait()? {
            break status;
        }
        if let Err(error) = check() {
            drop(child);
            return Err(error);
        }
        if sys::stop_asked() && asked.is_none() {
            // It ends with a partial result.
            sys::signal(child.0.id(), Signal::INT);
            asked = Some(Instant::now());
        }
        if asked.is_some_and(|asked: Instant| asked.elapsed() > Duration::from_secs(5)) {
            bail!("stopped");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let words = fs::read_to_string(how.scratch.join("words")).unwrap_or_default();
    let Ok(text) = fs::read(&json) else {
        let lines: Vec<&str> = words.lines().collect();
        let last = lines[lines.len().saturating_sub(5)..].join("\n  ");
        bail!("the load generator ended ({status}) without a result:\n  {last}");
    };
    let result: Value =
        serde_json::from_slice(&text).context("the result of the load generator")?;
    Ok(read(result))
}

/// Killed when dropped before its end.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

fn read(result: Value) -> Ran {
    let text = |name: &str| result[name].as_str().unwrap_or("failed").to_owned();
    let problems = result["problems"].as_array().into_iter().flatten();
    Ran {
        status: text("status"),
        problems: problems
            .filter_map(|p| Some(p.as_str()?.to_owned()))
            .collect(),
        window: window(&result),
        result,
    }
}

/// The measured part of a run: from `started`, for `seconds`.
fn window(result: &Value) -> Option<(Instant, Instant)> {
    let since_epoch = epoch_seconds(result["started"].as_str()?)?;
    let started = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(since_epoch);
    let ago = SystemTime::now().duration_since(started).ok()?;
    let from = Instant::now().checked_sub(ago)?;
    let seconds = Duration::try_from_secs_f64(result["seconds"].as_f64()?).ok()?;
    Some((from, from + seconds))
}

/// Seconds since 1970 of `2026-11-25T10:20:30.123Z`.
fn epoch_seconds(text: &str) -> Option<f64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let mut time = time.splitn(3, ':');
    let (hours, minutes) = (
        time.next()?.parse::<i64>().ok()?,
        time.next()?.parse::<i64>().ok()?,
    );
    let seconds = time.next()?.parse::<f64>().ok()?;
    // Days from 1970 of a year that begins in March.
    let year = if month <= 2 { year - 1 } else { year };
    let months = (month + 9) % 12;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * months + 2) / 5 + day
        - 1
        - 719_468;
    Some(((days * 24 + hours) * 60 + minutes) as f64 * 60.0 + seconds)
}

/// What is read off a run, by metric.
pub fn metrics(result: &Value, usage: &Usage) -> BTreeMap<String, f64> {
    let mut metrics = BTreeMap::new();
    let mut set = |metric: Metric, value: Option<f64>| {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            metrics.insert(metric.name().to_owned(), value);
        }
    };
    let of = |part: &str, name: &str| result[part][name].as_f64().unwrap_or(0.0);
    let bytes = of("produce", "bytes") + of("fetch", "bytes");
    let records = of("produce", "records") + of("fetch", "records");
    let requests = of("produce", "requests") + of("fetch", "requests");
    let acks = of("produce", "requests");
    let seconds = result["seconds"].as_f64().unwrap_or(0.0);
    let (cpu, some) = (usage.cpu_s(), |n: f64| (n > 0.0).then_some(n));
    set(
        Metric::CpuPerGb,
        some(bytes).map(|bytes| cpu / (bytes / 1e9)),
    );
    set(
        Metric::CpuPerRecord,
        some(records).map(|records| cpu * 1e6 / records),
    );
    set(
        Metric::CpuPerRequest,
        some(requests).map(|requests| cpu * 1e6 / requests),
    );
    if acks > 0.0 {
        set(Metric::AcksPerCpuSecond, some(cpu).map(|cpu| acks / cpu));
        set(
            Metric::AcksPerSecond,
            some(seconds).map(|seconds| acks / seconds),
        );
    }
    set(Metric::ProduceMbS, result["produce"]["rate_mb_s"].as_f64());
    set(Metric::FetchMbS, result["fetch"]["rate_mb_s"].as_f64());
    let readers = result["fetch"]["readers_mb_s"].as_array();
    set(Metric::ReadersApart, readers.and_then(|it| apart(it)));
    set(Metric::RssPeakMb, Some(usage.rss_peak_mb));
    let latency = &result["produce"]["latency_us"];
    for (metric, name) in [
        (Metric::P50, "p50"),
        (Metric::P90, "p90"),
        (Metric::P99, "p99"),
        (Metric::P999, "p999"),
        (Metric::P9999, "p9999"),
        (Metric::Max, "max"),
    ] {
        set(metric, latency[name].as_f64());
    }
    let load_late = &result["produce"]["load_late_us"]["p999"];
    set(Metric::LoadLateP999, load_late.as_f64());
    metrics
}

/// The fastest over the slowest, of at least two.
fn apart(rates: &[Value]) -> Option<f64> {
    let rates: Vec<f64> = rates.iter().filter_map(Value::as_f64).collect();
    let fastest = rates.iter().copied().reduce(f64::max)?;
    let slowest = rates.iter().copied().reduce(f64::min)?;
    (rates.len() > 1 && slowest > 0.0).then(|| fastest / slowest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_result_is_read() {
        assert_eq!(epoch_seconds("1970-01-01T00:00:00Z"), Some(0.0));
        assert_eq!(epoch_seconds("2000-02-29T12:00:00.5Z"), Some(951_825_600.5));
        assert_eq!(epoch_seconds("2026-11-25T10:20:30Z"), Some(1_795_602_030.0));
        for wrong in ["", "2026-11-25", "2026-11-25T10:20:30+01:00", "xT1:2:3Z"] {
            assert_eq!(epoch_seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn costs_are_of_what_was_measured() {
        let result = serde_json::json!({
            "seconds": 2.0,
            "produce": {"records": 1_000_000, "bytes": 1_000_000_000u64, "requests": 1000,
                        "rate_mb_s": 500.0, "latency_us": {"p50": 5, "p999": 70},
                        "load_late_us": {"p999": 9}},
            "fetch": null,
        });
        let usage = Usage {
            cpu_user_s: 0.5,
            cpu_system_s: 1.5,
            ..Usage::default()
        };
        let metrics = metrics(&result, &usage);
        let of = |metric: Metric| metrics.get(metric.name()).copied();
        assert_eq!(of(Metric::CpuPerGb), Some(2.0));
        assert_eq!(of(Metric::CpuPerRecord), Some(2.0));
        assert_eq!(of(Metric::AcksPerCpuSecond), Some(500.0));
        assert_eq!(of(Metric::AcksPerSecond), Some(500.0));
        assert_eq!(of(Metric::P999), Some(70.0));
        assert_eq!(of(Metric::LoadLateP999), Some(9.0));
        assert_eq!(of(Metric::FetchMbS), None);
    }

    #[test]
    fn readers_are_as_far_apart_as_the_fastest_and_the_slowest() {
        let of = |rates: Value| apart(rates.as_array().expect("a list"));
        assert_eq!(of(serde_json::json!([300.0, 150.0, 200.0])), Some(2.0));
        assert_eq!(of(serde_json::json!([300.0])), None);
        assert_eq!(of(serde_json::json!([300.0, 0.0])), None);
        assert_eq!(of(serde_json::json!([])), None);
    }
}
