//! `/profile`: where the time of requests goes, as the shards tell it.
//!
//! ```text
//! /profile                    a table for people; JSON if the client accepts application/json
//!   ?format=text|json|hlog    hlog: an HdrHistogram log, one histogram a tag
//!   ?interval=SECONDS         of the next so many seconds, at most 60; since the start without
//!   ?by=shard                 each shard apart, not all together
//! /profile/flame              see [`flame`]
//! ```
//! Whoever asks costs each shard one message, or two with an interval, and a walk over its buckets of some
//! ten microseconds. No more than [`AT_ONCE`] are served at a time; what clients wrote (client ids, names of
//! topics) is escaped, and was cut short when it was kept.
//!
//! [`text`], [`json`] and [`hlog`] show a [`Report`]; [`command`] is `ringspun profile`, which asks a node
//! over HTTP; [`diff`] compares two HdrHistogram logs.

pub mod command;
pub mod diff;
pub mod flame;
pub mod hlog;
pub mod json;
pub mod names;
pub mod text;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::base::TopicId;
use crate::base::profile::{Kind, ShardProfile, Stage};

/// Requests served at a time, and intervals under way.
pub const AT_ONCE: usize = 4;

/// The longest interval that can be asked for: a connection may not be idle for much longer.
pub const INTERVAL_MAX: Duration = Duration::from_secs(60);

/// How long the shards may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// Quantiles that are shown, and what they are called.
pub const QUANTILES: [(f64, &str); 4] =
    [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9")];

/// How far the summaries of `/metrics` look back, at least; twice that at most.
const SUMMARY: Duration = Duration::from_secs(60);

/// What the shards told at one moment.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Empty if the profiler is switched off.
    pub shards: Vec<ShardProfile>,
    /// Names of the topics that are mentioned, as far as they exist.
    pub topics: BTreeMap<TopicId, Arc<str>>,
}

/// Where samples come from: whoever holds the other end answers each sender once.
pub type ProfileSource = mpsc::Sender<oneshot::Sender<Sample>>;

/// What is shown: of one moment, or between two.
#[derive(Clone, Debug)]
pub struct Report {
    pub sample: Sample,
    /// `None`: since the start.
    pub interval: Option<Duration>,
    pub at: SystemTime,
    /// Each shard apart.
    pub by_shard: bool,
}

/// Why there is no report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the profiler is switched off (ringspun.profile.enable=false)")]
    Off,
    #[error("{AT_ONCE} others are being served; try again")]
    Busy,
    #[error("the shards do not answer: the node starts or stops")]
    Silent,
}

/// Asks the shards. Clones are the same.
#[derive(Clone)]
pub struct Profiler {
    source: ProfileSource,
    room: Arc<Semaphore>,
    /// Earlier samples, for the summaries of `/metrics`; the latest last.
    earlier: Arc<Mutex<Vec<(Instant, Vec<ShardProfile>)>>>,
}

impl Profiler {
    pub fn new(source: ProfileSource) -> Self {
        Self {
            source,
            room: Arc::new(Semaphore::new(AT_ONCE)),
            earlier: Arc::default(),
        }
    }

    async fn sample(&self) -> Result<Sample, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let asked = async {
            self.source.send(sender).await.ok()?;
            receiver.await.ok()
        };
        let mut sample = timeout(ANSWER_WAIT, asked)
            .await
            .ok()
            .flatten()
            .ok_or(Refusal::Silent)?;
        if sample.shards.is_empty() {
            return Err(Refusal::Off);
        }
        for shard in &mut sample.shards {
            (shard.on_core, shard.waited_for_core) = core_time(shard.thread).unwrap_or((0, 0));
        }
        Ok(sample)
    }

    /// What there is to show since the start, or of the `interval` from now on.
    pub async fn report(
        &self,
        interval: Option<Duration>,
        by_shard: bool,
    ) -> Result<Report, Refusal> {
        let _room = self.room.try_acquire().map_err(|_| Refusal::Busy)?;
        let mut sample;
        match interval {
            None => sample = self.sample().await?,
            Some(interval) => {
                let before = self.sample().await?;
                tokio::time::sleep(interval).await;
                sample = self.sample().await?;
                let shards = std::mem::take(&mut sample.shards).into_iter();
                let since = |(now, before): (ShardProfile, &ShardProfile)| now.since(before);
                sample.shards = shards.zip(&before.shards).map(since).collect();
            }
        }
        Ok(Report {
            sample,
            interval,
            at: SystemTime::now(),
            by_shard,
        })
    }

    /// The summaries of `/metrics`, in the text format of OpenMetrics: quantiles of the last one or two
    /// minutes, if it is asked so often; counts and sums since the start. Empty if there is nothing to say.
    pub async fn summaries(&self) -> String {
        let Ok(sample) = self.sample().await else {
            return String::new();
        };
        let Some(now) = merged(&sample.shards) else {
            return String::new();
        };
        let base = self.base(sample.shards.clone());
        let recent = match merged(&base) {
            Some(base) => now.clone().since(&base),
            None => now.clone(),
        };
        let mut page = String::new();
        let name = "ringspun_request_stage_seconds";
        let _ = writeln!(page, "# HELP {name} Time of requests by stage.");
        let _ = writeln!(page, "# TYPE {name} summary\n# UNIT {name} seconds");
        for &kind in Kind::ALL {
            for &stage in kind.stages() {
                let labels = format!("api=\"{}\",stage=\"{}\"", kind.label(), stage.label());
                let of =
                    |shard: &'_ ShardProfile| shard.stages[kind.index()][stage.index()].clone();
                summary(&mut page, name, &labels, &of(&recent), &of(&now));
            }
        }
        let name = "ringspun_request_seconds";
        let _ = writeln!(
            page,
            "# HELP {name} Time of requests, from their first byte."
        );
        let _ = writeln!(page, "# TYPE {name} summary\n# UNIT {name} seconds");
        for &kind in Kind::ALL {
            let labels = format!("api=\"{}\"", kind.label());
            let of = |shard: &'_ ShardProfile| shard.totals[kind.index()].clone();
            summary(&mut page, name, &labels, &of(&recent), &of(&now));
        }
        page
    }

    /// Keeps what is now for later, and gives what was kept at least [`SUMMARY`] ago; or nothing.
    fn base(&self, now: Vec<ShardProfile>) -> Vec<ShardProfile> {
        let Ok(mut earlier) = self.earlier.lock() else {
            return Vec::new();
        };
        let latest = earlier.last().map(|(at, _)| at.elapsed());
        if latest.is_none_or(|age| age >= SUMMARY) {
            earlier.push((Instant::now(), now));
        }
        while earlier.len() > 1 && earlier[1].0.elapsed() >= SUMMARY {
            earlier.remove(0);
        }
        match earlier.first() {
            Some((at, shards)) if at.elapsed() >= SUMMARY => shards.clone(),
            _ => Vec::new(),
        }
    }

    /// What is served of it.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/profile", get(show))
            .route("/profile/flame", get(show_flame))
            .with_state(self.clone())
    }
}

fn summary(
    page: &mut String,
    name: &str,
    labels: &str,
    recent: &crate::base::histogram::Recorded,
    all: &crate::base::histogram::Recorded,
) {
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    for (q, _) in QUANTILES {
        if recent.count() > 0 {
            let value = seconds(recent.quantile(q));
            let _ = writeln!(page, "{name}{{{labels},quantile=\"{q}\"}} {value}");
        }
    }
    let _ = writeln!(page, "{name}_count{{{labels}}} {}", all.count());
    let _ = writeln!(page, "{name}_sum{{{labels}}} {}", seconds(all.sum()));
}

/// The sum of all shards. `None` if there are none.
pub fn merged(shards: &[ShardProfile]) -> Option<ShardProfile> {
    let (first, rest) = shards.split_first()?;
    let mut all = first.clone();
    rest.iter().for_each(|shard| all.add(shard));
    Some(all)
}

/// The part of a kind's time that went into a stage.
pub fn share(shard: &ShardProfile, kind: Kind, stage: Stage) -> f64 {
    let of = shard.stages[kind.index()][stage.index()].sum() as f64;
    let total = shard.totals[kind.index()].sum() as f64;
    if total > 0.0 { of / total } else { 0.0 }
}

/// Nanoseconds that a thread of this process ran, and that it could have run and did not.
fn core_time(thread: i32) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    let mut numbers = text.split_whitespace().map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// What clients wrote, for people and terminals: nothing that moves a cursor or turns the text round.
pub fn escaped(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || c.is_ascii_graphic() || c == ' ';
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if plain(c) && c != '\\' {
            out.push(c);
        } else {
            out.extend(c.escape_unicode());
        }
    }
    out
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    Json,
    Hlog,
}

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
struct Query {
    format: Format,
    interval: Option<Duration>,
    by_shard: bool,
}

impl Query {
    fn parse(query: &str, accepts_json: bool) -> Result<Query, String> {
        let mut asked = Query {
            format: if accepts_json {
                Format::Json
            } else {
                Format::Text
            },
            interval: None,
            by_shard: false,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("format", "text") => asked.format = Format::Text,
                ("format", "json") => asked.format = Format::Json,
                ("format", "hlog") => asked.format = Format::Hlog,
                ("format", _) => return Err("format is text, json or hlog".into()),
                ("by", "shard") => asked.by_shard = true,
                ("by", _) => return Err("by is shard".into()),
                ("interval", seconds) => asked.interval = Some(seconds_of(seconds, "interval")?),
                _ => return Err("known are format, interval and by".into()),
            }
        }
        Ok(asked)
    }
}

/// A number of seconds up to [`INTERVAL_MAX`].
fn seconds_of(text: &str, name: &str) -> Result<Duration, String> {
    let most = INTERVAL_MAX.as_secs_f64();
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=most).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("{name} is a number of seconds from 0.01 to {most}")),
    }
}

async fn show(State(profiler): State<Profiler>, uri: Uri, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|a| a.to_str().ok());
    let accepts_json = accept.is_some_and(|accept| accept.contains("application/json"));
    let asked = match Query::parse(uri.query().unwrap_or(""), accepts_json) {
        Ok(asked) => asked,
        Err(why) => return (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    };
    let report = match profiler.report(asked.interval, asked.by_shard).await {
        Ok(report) => report,
        Err(refusal) => return refused(refusal),
    };
    let (kind, page) = match asked.format {
        Format::Text => ("text/plain; charset=utf-8", text::render(&report)),
        Format::Json => ("application/json", json::render(&report)),
        Format::Hlog => match hlog::render(&report) {
            Ok(page) => ("text/plain; charset=utf-8", page),
            Err(error) => {
                tracing::error!("profile: {error}");
                return StatusCode::INTERNAL_SERVER_ERROR.into_response();
            }
        },
    };
    let mut response = ([(header::CONTENT_TYPE, kind)], page).into_response();
    if asked.format == Format::Hlog {
        let name = header::HeaderValue::from_static("attachment; filename=\"ringspun.hlog\"");
        response
            .headers_mut()
            .insert(header::CONTENT_DISPOSITION, name);
    }
    response
}

/// Seconds that are sampled, and whether a picture is asked for.
fn flame_query(query: &str) -> Result<(Duration, bool), String> {
    let (mut time, mut drawn) = (Duration::from_secs(10), false);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("seconds", seconds) => time = seconds_of(seconds, "seconds")?,
            ("format", "folded") => drawn = false,
            ("format", "svg") => drawn = true,
            ("format", _) => return Err("format is folded or svg".into()),
            _ => return Err("known are seconds and format".into()),
        }
    }
    Ok((time, drawn))
}

async fn show_flame(uri: Uri) -> Response {
    let (time, drawn) = match flame_query(uri.query().unwrap_or("")) {
        Ok(asked) => asked,
        Err(why) => return (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    };
    let unavailable = |why: String| {
        let retry = [(header::RETRY_AFTER, "1")];
        (StatusCode::SERVICE_UNAVAILABLE, retry, why + "\n").into_response()
    };
    match flame::folded(time).await {
        Ok(folded) if drawn => match flame::svg(&folded) {
            Ok(svg) => ([(header::CONTENT_TYPE, "image/svg+xml")], svg).into_response(),
            Err(why) => unavailable(why),
        },
        Ok(folded) => {
            let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
            (kind, folded).into_response()
        }
        Err(error) => unavailable(error.to_string()),
    }
}

fn refused(refusal: Refusal) -> Response {
    let text = format!("{refusal}\n");
    let status = match refusal {
        Refusal::Off => StatusCode::NOT_FOUND,
        Refusal::Busy | Refusal::Silent => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, [(header::RETRY_AFTER, "1")], text).into_response()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::base::ShardId;
    use crate::base::profile::{About, Nanos, Timeline};
    use crate::runtime::profile;

    /// What a shard tells after a few requests, one of them odd.
    pub fn sample() -> Sample {
        profile::start();
        let topic = TopicId(7);
        for n in 1..=100u64 {
            for &kind in Kind::ALL {
                let mut timeline = Timeline::begin(crate::runtime::clock::now());
                for (at, &stage) in kind.stages().iter().enumerate() {
                    timeline.mark(stage, Nanos(timeline.at().0 + n * 1_000 * (at as u64 + 1)));
                }
                let about = About {
                    topic,
                    partition: 3,
                    partitions: 2,
                    may_wait: 0,
                };
                let peer = "127.0.0.1:9".parse().unwrap();
                profile::finish(kind, &timeline, &about, || {
                    ("evil\x1b[2J\u{202e}\"id", peer, [100, n])
                });
            }
        }
        futures_lite::future::block_on(profile::named("sleepy", async {
            std::thread::sleep(Duration::from_millis(3));
        }));
        Sample {
            shards: vec![*profile::snapshot(ShardId(0)).unwrap()],
            topics: BTreeMap::from([(topic, "orders".into())]),
        }
    }

    pub fn report() -> Report {
        Report {
            sample: sample(),
            interval: None,
            at: SystemTime::now(),
            by_shard: false,
        }
    }

    #[test]
    fn a_query_names_format_interval_and_shards() {
        let parse = |query: &str| Query::parse(query, false);
        let seconds = Duration::from_millis(2500);
        let all = Query {
            format: Format::Hlog,
            interval: Some(seconds),
            by_shard: true,
        };
        assert_eq!(parse("format=hlog&interval=2.5&by=shard"), Ok(all));
        assert_eq!(Query::parse("", true).unwrap().format, Format::Json);
        assert_eq!(
            Query::parse("format=text", true).unwrap().format,
            Format::Text
        );
        for bad in [
            "format=xml",
            "interval=0",
            "interval=61",
            "interval=NaN",
            "interval=-1",
            "by=x",
            "y",
        ] {
            parse(bad).unwrap_err();
        }
    }

    #[test]
    fn a_flame_graph_is_of_some_seconds() {
        let ten = Duration::from_secs(10);
        assert_eq!(flame_query(""), Ok((ten, false)));
        let asked = flame_query("seconds=0.5&format=svg");
        assert_eq!(asked, Ok((Duration::from_millis(500), true)));
        for bad in ["seconds=0", "seconds=61", "format=png", "interval=1"] {
            flame_query(bad).unwrap_err();
        }
    }

    #[test]
    fn what_clients_wrote_cannot_move_a_cursor() {
        assert_eq!(
            escaped("a-b.c\x1b[2J\u{202e}é\\"),
            "a-b.c\\u{1b}[2J\\u{202e}é\\u{5c}"
        );
    }

    #[test]
    fn an_interval_holds_what_came_within_it_and_shards_add_up() {
        let earlier = sample().shards.remove(0);
        let later = sample().shards.remove(0);
        // A profiler that was started anew: nothing is left of what was before.
        assert_eq!(later.clone().since(&earlier).totals[0].count(), 0);
        let both = merged(&[earlier, later]).unwrap();
        assert_eq!(both.totals[0].count(), 200);
        let shares = Kind::Produce.stages().iter();
        let sum: f64 = shares.map(|&s| share(&both, Kind::Produce, s)).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn a_source_that_is_busy_silent_or_off_is_told_apart() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (source, mut asked) = mpsc::channel(4);
            let profiler = Profiler::new(source);
            let held = profiler.room.clone().acquire_many_owned(AT_ONCE as u32);
            let held = held.await.unwrap();
            let busy = profiler.report(None, false).await.unwrap_err();
            assert_eq!(busy, Refusal::Busy);
            drop(held);
            let (source, gone) = mpsc::channel(4);
            drop(gone);
            let silent = Profiler::new(source).report(None, false).await.unwrap_err();
            assert_eq!(silent, Refusal::Silent);
            tokio::spawn(async move {
                while let Some(sender) = asked.recv().await {
                    let _: Result<_, Sample> = sender.send(Sample::default());
                }
            });
            let off = profiler.report(None, false).await.unwrap_err();
            assert_eq!(off, Refusal::Off);
        });
    }
}
