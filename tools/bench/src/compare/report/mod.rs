//! The report of a comparison: `report.md` for reading in a terminal or on a forge, `report.html` with
//! plots, from the raw rounds alone. Pure: the same rounds give the same bytes.

mod html;
mod markdown;
mod plots;

use serde::{Deserialize, Serialize};

use super::facts::Machine;
use super::judge::{self, Judged, Outcome, Round, Summary};
use super::metric::Metric;
use super::row::{Against, Row};
use super::rows;

pub use html::html;
pub use markdown::{markdown, verdicts};

/// What holds for all rounds of a run; `run.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct About {
    pub schema: u32,
    pub started: String,
    pub ended: String,
    /// Whether it was cut short, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_short: Option<String>,
    /// The arguments behind `ringspun-bench`.
    pub command: Vec<String>,
    pub commit: String,
    pub machine: Machine,
    pub broker_cores: String,
    pub load_cores: String,
    pub rounds: u32,
    pub seconds: f64,
    pub quick: bool,
    pub targets: Vec<TargetFacts>,
    pub rows: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetFacts {
    pub name: String,
    pub version: String,
    /// What the measurement sets, besides addresses and folders.
    pub settings: Vec<(String, String)>,
}

/// A run with its rounds.
pub struct Report<'a> {
    pub about: &'a About,
    pub outcomes: Vec<Outcome<'a>>,
}

impl<'a> Report<'a> {
    pub fn new(about: &'a About, rounds: &'a [Round]) -> Report<'a> {
        let rows = about.rows.iter().filter_map(|name| rows::find(name));
        Report {
            about,
            outcomes: rows.map(|row| judge::judge(row, rounds)).collect(),
        }
    }

    /// The command that measures a row again.
    fn repeat(&self, row: &Row) -> String {
        let about = self.about;
        let mut command = format!(
            "cargo run --release -p ringspun-bench -- compare --rows {} --rounds {} --seconds {} --broker-cores {} --load-cores {}",
            row.name, about.rounds, about.seconds, about.broker_cores, about.load_cores
        );
        if about.quick {
            command += " --quick";
        }
        command
    }
}

/// Three digits that count, and no more than a person reads: `0.283`, `12.3`, `1,234`.
fn number(value: f64) -> String {
    let size = value.abs();
    let decimals = match size {
        _ if size >= 100.0 || size == 0.0 => 0,
        _ if size >= 10.0 => 1,
        _ if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_once('.').unwrap_or((&text, ""));
    let (sign, digits) = whole
        .strip_prefix('-')
        .map_or(("", whole), |digits| ("-", digits));
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if rest.is_empty() {
        format!("{sign}{grouped}")
    } else {
        format!("{sign}{grouped}.{rest}")
    }
}

/// `1.24 (1.20 to 1.31)`.
fn spread(summary: Option<Summary>) -> String {
    match summary {
        None => "-".to_owned(),
        Some(s) if s.count == 1 => number(s.median),
        Some(s) => format!(
            "{} ({} to {})",
            number(s.median),
            number(s.least),
            number(s.greatest)
        ),
    }
}

/// What a judgement compares, in words.
fn claim(judged: &Judged) -> String {
    let (metric, variant) = (judged.judgement.metric.title(), judged.judgement.variant);
    let of = match variant {
        "" => metric.to_owned(),
        variant => format!("{metric}, {variant}"),
    };
    match judged.judgement.against {
        Against::Kafka => format!("{of}: times better than Kafka"),
        Against::Floor => format!("{of}: times the floor"),
        Against::Variant(other) => format!("{metric}: {variant} / {other}"),
        Against::Nothing => of,
    }
}

fn limits(judged: &Judged) -> (String, String) {
    let sign = match judged.judgement.against {
        Against::Kafka => "at least",
        _ => "at most",
    };
    let of = |value: f64| format!("{sign} {value}");
    (of(judged.judgement.must), of(judged.judgement.goal))
}

/// `ringspun`, or `ringspun, 4x4`.
fn series_name(target: &str, variant: &str) -> String {
    if variant.is_empty() {
        target.to_owned()
    } else {
        format!("{target}, {variant}")
    }
}

/// What was used besides the row's own figures, medians.
fn used(outcome: &Outcome<'_>, target: &str, variant: &str) -> Vec<(&'static str, String)> {
    let of: Vec<&Round> = outcome
        .rounds
        .iter()
        .copied()
        .filter(|r| r.target == target && r.variant == variant)
        .collect();
    let median = |value: &dyn Fn(&Round) -> f64| {
        let summary = judge::summary(of.iter().map(|round| value(round)));
        summary.map_or("-".to_owned(), |s| number(s.median))
    };
    vec![
        ("user s", median(&|r| r.usage.cpu_user_s)),
        ("system s", median(&|r| r.usage.cpu_system_s)),
        ("run queue s", median(&|r| r.usage.run_queue_wait_s)),
        ("peak MB", median(&|r| r.usage.rss_peak_mb)),
        ("disk MB written", median(&|r| r.usage.disk_written_mb)),
        (
            "switches",
            median(&|r| (r.usage.voluntary_switches + r.usage.involuntary_switches) as f64),
        ),
        ("steal %", median(&|r| r.steal * 100.0)),
        ("dirty MB before", median(&|r| r.dirty_before_mb)),
        ("dirty MB after", median(&|r| r.dirty_after_mb)),
    ]
}

/// What is not fair, so that nobody has to find it out.
fn unfair(about: &About) -> Vec<String> {
    let mut points = vec![
        format!(
            "Everything runs on one machine over the loopback, the broker on core {} and the load on core {}: no network card, no interrupt of one, and a broker made for many threads gets as many cores as one made for few. Kafka's figures on a large machine may be better a core, or worse.",
            about.broker_cores, about.load_cores
        ),
        "One node, replication factor 1: what replication costs is not measured.".to_owned(),
        "The load generator was written by the people who wrote ringspun. It sends batches that were encoded before, as fast as the sockets take them, to every broker alike; a Java client would cost more and hide differences between brokers behind its own cost.".to_owned(),
        "While one target runs, the others are frozen (SIGSTOP): they cost no time and stay warm, but they keep their memory, and their part of the processor's caches is cold after each turn. Kafka's broker.session.timeout.ms is raised so that it survives that.".to_owned(),
        "Kafka gets a heap of 4 GiB, its own flags for G1, and a warm-up until its CPU cost a record changes by less than 5 % over three slices, or time is up; it is not tuned beyond what its documentation advises (no huge pages, no other collector, network and I/O threads at their defaults). ringspun runs with its defaults too.".to_owned(),
        "Without fsync a crash of the machine (not of the broker) loses what the page cache held, for both. With fsync both have flush.messages=1, which Kafka's documentation advises against: its way to durability is replication.".to_owned(),
        "Before a round that writes, up to 3 GB of memory are touched and given back, so that no broker pays for pages that the host of a virtual machine has to find first. A slow broker's round is longer, so the host has more time to take them back.".to_owned(),
        "The rows were chosen by the people who wrote ringspun, and so were the musts and goals. Rows on which others fell apart are among them, but not every row on which ringspun might.".to_owned(),
        "The floor does not parse, check, index or answer in Kafka's words; no broker can reach 1.0 with the same work to do. Its programs use epoll and plain system calls; another mechanism might lie lower.".to_owned(),
    ];
    if about.machine.virtual_machine {
        points.push("This is a virtual machine: the host takes time away (steal is given) and its disk may acknowledge a flush before the medium has it.".to_owned());
    }
    if about.quick {
        points.push("This was a quick run: one short round without warm-up. Its figures show that the harness works and nothing else.".to_owned());
    }
    points
}

/// Seconds and worst latencies of a round, from the load generator's seconds.
fn over_time(round: &Round) -> Vec<(f64, f64)> {
    let seconds = round.result["per_second"].as_array().into_iter().flatten();
    seconds
        .filter_map(|second| Some((second["t"].as_f64()?, second["p99_us"].as_f64()?)))
        .collect()
}

/// Metrics a row has values for, of those it shows.
fn shown(outcome: &Outcome<'_>) -> Vec<Metric> {
    let has = |metric: &&Metric| outcome.rounds.iter().any(|r| r.metric(**metric).is_some());
    outcome.row.shown.iter().filter(has).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::usage::Usage;
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_count() {
        for (value, text) in [
            (0.0, "0"),
            (0.28345, "0.283"),
            (1.236, "1.24"),
            (12.34, "12.3"),
            (999.6, "1,000"),
            (1_234_567.0, "1,234,567"),
            (-12_345.0, "-12,345"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    /// Two rows as a run leaves them.
    fn canned() -> (About, Vec<Round>) {
        let about = About {
            schema: 1,
            started: "2026-11-25T10:00:00Z".into(),
            ended: "2026-11-25T10:20:00Z".into(),
            command: vec![
                "compare".into(),
                "--rows".into(),
                "produce-1k,open-5k".into(),
            ],
            commit: "abc1234".into(),
            machine: Machine {
                cpu: "A Processor".into(),
                cores: 2,
                memory_gb: 24.0,
                virtual_machine: true,
                kernel: "6.18".into(),
                mount: "/dev/vda at /, ext4 (rw)".into(),
                governor: "not visible".into(),
                transparent_huge_pages: "[madvise]".into(),
                dirty_ratios: "10, 20".into(),
            },
            broker_cores: "0".into(),
            load_cores: "1".into(),
            rounds: 2,
            seconds: 5.0,
            targets: vec![
                TargetFacts {
                    name: "ringspun".into(),
                    version: "ringspun 0.1.0".into(),
                    settings: vec![],
                },
                TargetFacts {
                    name: "kafka".into(),
                    version: "Apache Kafka 4.3.1 <on> Java".into(),
                    settings: vec![("broker.session.timeout.ms".into(), "3600000".into())],
                },
            ],
            rows: vec!["produce-1k".into(), "open-5k".into()],
            ..About::default()
        };
        let mut rounds = Vec::new();
        for number in 1..=2u32 {
            for (target, cost) in [("ringspun", 0.5), ("kafka", 2.6), ("floor", 0.3)] {
                let cost = cost + f64::from(number) * 0.01;
                rounds.push(Round {
                    schema: 1,
                    row: "produce-1k".into(),
                    target: target.into(),
                    round: number,
                    status: "valid".into(),
                    seconds: 5.0,
                    usage: Usage {
                        cpu_user_s: cost,
                        cpu_system_s: 2.0 * cost,
                        rss_peak_mb: 100.0 * cost,
                        ..Usage::default()
                    },
                    metrics: BTreeMap::from([
                        ("cpu_s_per_gb".into(), cost),
                        ("produce_mb_s".into(), 1000.0 / cost),
                        ("rss_peak_mb".into(), 100.0 * cost),
                    ]),
                    ..Round::default()
                });
            }
            for (target, factor) in [("ringspun", 1.0), ("kafka", 6.0)] {
                let at = |us: f64| us * factor + f64::from(number);
                rounds.push(Round {
                    schema: 1,
                    row: "open-5k".into(),
                    target: target.into(),
                    round: number,
                    status: if target == "kafka" && number == 2 {
                        "invalid"
                    } else {
                        "valid"
                    }
                    .into(),
                    problems: if target == "kafka" && number == 2 {
                        vec!["1 record lost".into()]
                    } else {
                        vec![]
                    },
                    seconds: 5.0,
                    steal: if number == 1 { 0.0 } else { 0.03 },
                    metrics: BTreeMap::from([
                        ("p50_us".into(), at(100.0)),
                        ("p90_us".into(), at(150.0)),
                        ("p99_us".into(), at(400.0)),
                        ("p999_us".into(), at(900.0)),
                        ("p9999_us".into(), at(1500.0)),
                        ("max_us".into(), at(2000.0)),
                    ]),
                    result: serde_json::json!({ "per_second": [
                        { "t": 1, "p99_us": at(380.0) }, { "t": 2, "p99_us": at(420.0) },
                    ]}),
                    ..Round::default()
                });
            }
        }
        (about, rounds)
    }

    fn golden(name: &str, made: &str) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(name);
        if std::env::var_os("RINGSPUN_UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(&path, made).expect("a writable folder");
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            kept == made,
            "{name} is not what it was; if that is right: RINGSPUN_UPDATE_GOLDEN=1 cargo test -p ringspun-bench golden\n{made}"
        );
    }

    #[test]
    fn the_report_in_markdown_is_the_golden_one() {
        let (about, rounds) = canned();
        golden("report.md", &markdown(&Report::new(&about, &rounds)));
    }

    #[test]
    fn the_report_in_html_needs_nothing_else_and_escapes_what_it_is_given() {
        let (about, rounds) = canned();
        let page = html(&Report::new(&about, &rounds)).expect("plots");
        for outside in ["http://", "https://", "src=", "<link", "@import"] {
            let of_svg = page.matches("http://www.w3.org/2000/svg").count();
            let found =
                page.matches(outside).count() - if outside == "http://" { of_svg } else { 0 };
            assert_eq!(found, 0, "{outside}");
        }
        assert!(page.contains("Apache Kafka 4.3.1 &lt;on&gt; Java"));
        assert!(
            page.matches("<svg").count() >= 4,
            "{}",
            page.matches("<svg").count()
        );
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        // The same rounds give the same bytes.
        assert_eq!(page, html(&Report::new(&about, &rounds)).expect("plots"));
    }

    #[test]
    fn a_report_of_nothing_is_still_one() {
        let (mut about, _) = canned();
        about.cut_short = Some("stopped by a signal".into());
        let report = Report::new(&about, &[]);
        assert!(markdown(&report).contains("stopped by a signal"));
        assert!(html(&report).is_ok());
    }
}
