//! What rounds say together: medians, spreads, ratios, verdicts. Pure.
//!
//! A ratio is made within a round, between targets that ran one after the other, and the median is taken
//! over the rounds' ratios: machines drift, and a drift hits both.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::metric::Metric;
use super::row::{Against, Judgement, Row};
use super::usage::Usage;

/// Steal above this spoils a round of a row that is about percentiles.
pub const STEAL_MAX: f64 = 0.01;

/// One measurement of one target, as it is kept in a file of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    pub schema: u32,
    pub row: String,
    pub target: String,
    /// Which of a row's workloads; empty where it has one.
    pub variant: String,
    /// From 1; 0 is the round in which the content was checked, which does not count.
    pub round: u32,
    /// `valid`, `invalid` (records lost, doubled or altered), `partial`, or `failed`.
    pub status: String,
    /// Why it is not valid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Of the window of the measurement.
    pub seconds: f64,
    pub usage: Usage,
    /// Part of the time of all cores in use that the host took away.
    pub steal: f64,
    pub dirty_before_mb: f64,
    pub dirty_after_mb: f64,
    /// Calls into the kernel, where perf could count them: in round 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syscalls: Option<u64>,
    /// By the names of [`Metric`].
    pub metrics: BTreeMap<String, f64>,
    /// What the load generator wrote.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub result: serde_json::Value,
}

impl Round {
    pub fn metric(&self, metric: Metric) -> Option<f64> {
        let value = self.metrics.get(metric.name()).copied()?;
        value.is_finite().then_some(value)
    }

    pub fn is_valid(&self) -> bool {
        self.status == "valid"
    }

    /// Another broker than ours that did not reach the rate of the row. What it did counts: its cost is of the
    /// records that it took, and its latencies are those of whoever asked for this rate.
    pub fn fell_short(&self) -> bool {
        let of_rate = |problem: &String| problem.starts_with("asked for ");
        self.target != "ringspun"
            && self.status == "failed"
            && !self.problems.is_empty()
            && self.problems.iter().all(of_rate)
    }
}

/// A median with the least and the greatest of its values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub median: f64,
    pub least: f64,
    pub greatest: f64,
    pub count: usize,
}

/// None of no values. The median of an even number is the mean of the middle two.
pub fn summary(values: impl IntoIterator<Item = f64>) -> Option<Summary> {
    let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let (least, greatest) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = match values.len() % 2 {
        1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    };
    Some(Summary {
        median,
        least,
        greatest,
        count: values.len(),
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// What we are after holds.
    Goal,
    /// What must hold holds.
    Must,
    Misses,
    /// There was not enough to say.
    Unknown,
}

impl Verdict {
    pub fn text(self) -> &'static str {
        match self {
            Verdict::Goal => "goal",
            Verdict::Must => "must",
            Verdict::Misses => "MISSES",
            Verdict::Unknown => "unknown",
        }
    }
}

/// One judgement with its outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    pub judgement: Judgement,
    /// Of the ratio over the rounds, or of the value itself.
    pub summary: Option<Summary>,
    pub verdict: Verdict,
    /// Why the verdict is to be taken with care.
    pub caveat: Option<String>,
}

/// A row with all that was found about it.
pub struct Outcome<'a> {
    pub row: &'static Row,
    pub rounds: Vec<&'a Round>,
    /// The rounds in which the content was checked.
    pub checked: Vec<&'a Round>,
    /// Rounds that were spoilt by steal.
    pub dropped: usize,
    /// Rounds that are no measurement, and why.
    pub failed: Vec<String>,
    pub judged: Vec<Judged>,
}

impl Outcome<'_> {
    pub fn summary(&self, target: &str, variant: &str, metric: Metric) -> Option<Summary> {
        let of = |round: &&Round| round.target == target && round.variant == variant;
        summary(
            self.rounds
                .iter()
                .copied()
                .filter(of)
                .filter_map(|r| r.metric(metric)),
        )
    }

    /// Targets in the order of their first rounds, with their variants.
    pub fn series(&self) -> Vec<(String, String)> {
        let mut series: Vec<(String, String)> = Vec::new();
        for round in &self.rounds {
            let of = (round.target.clone(), round.variant.clone());
            if !series.contains(&of) {
                series.push(of);
            }
        }
        series
    }
}

/// Rounds a row needs before its percentiles are believed.
pub const PERCENTILE_ROUNDS: u32 = 9;

/// Judges a row by its rounds; round 0, others' rounds and such as are not valid do not count.
pub fn judge<'a>(row: &'static Row, rounds: &'a [Round]) -> Outcome<'a> {
    let of_row: Vec<&Round> = rounds
        .iter()
        .filter(|round| round.row == row.name)
        .collect();
    let failed = of_row
        .iter()
        .filter(|round| !round.is_valid() && !round.fell_short())
        .map(|round| {
            let why = round.problems.join("; ");
            format!(
                "{} {} round {}: {} {why}",
                round.target, round.variant, round.round, round.status
            )
        })
        .collect();
    let counted = of_row
        .iter()
        .copied()
        .filter(|r| (r.is_valid() || r.fell_short()) && r.round > 0);
    let (good, spoilt): (Vec<&Round>, Vec<&Round>) =
        counted.partition(|round| !row.percentiles || round.steal <= STEAL_MAX);
    let judged = row
        .judgements
        .iter()
        .map(|judgement| judge_one(row, *judgement, &good))
        .collect();
    Outcome {
        row,
        rounds: good,
        checked: of_row
            .iter()
            .copied()
            .filter(|r| r.is_valid() && r.round == 0)
            .collect(),
        dropped: spoilt.len(),
        failed,
        judged,
    }
}

fn judge_one(row: &Row, judgement: Judgement, rounds: &[&Round]) -> Judged {
    let metric = judgement.metric;
    let find = |round: u32, target: &str, variant: &str| {
        let of = |r: &&&Round| r.round == round && r.target == target && r.variant == variant;
        rounds.iter().find(of).and_then(|r| r.metric(metric))
    };
    let ours = |round| find(round, "ringspun", judgement.variant);
    let numbers: std::collections::BTreeSet<u32> = rounds.iter().map(|r| r.round).collect();
    let values = numbers.iter().filter_map(|&round| match judgement.against {
        Against::Kafka => {
            let theirs = find(round, "kafka", judgement.variant)?;
            Some(metric.advantage(ours(round)?, theirs))
        }
        Against::Floor => {
            let floor = find(round, "floor", "")?;
            Some(metric.times(ours(round)?, floor))
        }
        Against::Variant(other) => Some(ours(round)? / find(round, "ringspun", other)?),
        Against::Nothing => ours(round),
    });
    let summary = summary(values);
    let verdict = match summary {
        None => Verdict::Unknown,
        Some(summary) => {
            let holds = |limit: f64| match judgement.against {
                Against::Kafka => summary.median >= limit,
                Against::Floor | Against::Variant(_) | Against::Nothing => summary.median <= limit,
            };
            match (holds(judgement.goal), holds(judgement.must)) {
                (true, _) => Verdict::Goal,
                (false, true) => Verdict::Must,
                (false, false) => Verdict::Misses,
            }
        }
    };
    let mut caveats = Vec::new();
    if let Some(count) = summary.map(|summary| summary.count)
        && row.percentiles
        && count < PERCENTILE_ROUNDS as usize
    {
        caveats.push(format!(
            "of good rounds {count}, fewer than {PERCENTILE_ROUNDS}"
        ));
    }
    let short = rounds
        .iter()
        .filter(|r| r.target == "kafka" && r.fell_short());
    let short = short.count();
    if judgement.against == Against::Kafka && short > 0 {
        caveats.push(format!("Kafka fell short of the rate in {short} rounds"));
    }
    let caveat = (!caveats.is_empty()).then(|| caveats.join("; "));
    Judged {
        judgement,
        summary,
        verdict,
        caveat,
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows;
    use super::*;

    #[test]
    fn whoever_falls_short_of_a_rate_counts_with_what_it_did_unless_it_is_ours() {
        let row = rows::find("wide-linger").expect("a row");
        let short = |target: &str, cost: f64| Round {
            status: "failed".into(),
            problems: vec!["asked for 50,000 records/s, achieved 30,000".into()],
            ..round(row.name, target, 1, Metric::CpuPerRecord, cost)
        };
        let ours = round(row.name, "ringspun", 1, Metric::CpuPerRecord, 2.0);
        let rounds = [ours, short("kafka", 12.0)];
        let judged = &judge(row, &rounds).judged[0];
        assert_eq!(judged.summary.map(|s| s.median), Some(6.0));
        let caveat = judged.caveat.as_deref();
        assert_eq!(caveat, Some("Kafka fell short of the rate in 1 rounds"));
        let rounds = [short("ringspun", 2.0), short("kafka", 12.0)];
        let outcome = judge(row, &rounds);
        assert_eq!(outcome.judged[0].verdict, Verdict::Unknown);
        assert_eq!(outcome.failed.len(), 1);
        // A refusal is no matter of speed.
        let mut refused = short("kafka", 12.0);
        refused.problems.push("64 refusals".into());
        assert!(!refused.fell_short());
    }

    fn round(row: &str, target: &str, number: u32, metric: Metric, value: f64) -> Round {
        Round {
            schema: 1,
            row: row.into(),
            target: target.into(),
            round: number,
            status: "valid".into(),
            metrics: BTreeMap::from([(metric.name().to_owned(), value)]),
            ..Round::default()
        }
    }

    fn row(name: &str) -> &'static Row {
        rows::find(name).expect("a row of the table")
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(summary([]), None);
        let of = |values: &[f64]| summary(values.iter().copied()).map(|s| s.median);
        assert_eq!(of(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(of(&[1.0, f64::NAN]), Some(1.0));
    }

    #[test]
    fn a_rate_is_judged_by_how_many_times_slower_than_the_floor_it_is() {
        let of = |variant: &str, rate: f64| Round {
            variant: variant.into(),
            ..round("drain", "ringspun", 1, Metric::FetchMbS, rate)
        };
        let rounds = [
            of("1", 1_250.0),
            of("8", 800.0),
            round("drain", "floor", 1, Metric::FetchMbS, 1_000.0),
        ];
        let outcome = judge(row("drain"), &rounds);
        let judged: Vec<_> = outcome.judged.iter().take(2).collect();
        let medians = judged.iter().map(|it| it.summary.map(|s| s.median));
        assert!(medians.eq([Some(0.8), Some(1.25)]));
        assert_eq!(judged[0].verdict, Verdict::Goal);
        assert_eq!(judged[1].verdict, Verdict::Misses);
    }

    #[test]
    fn a_ratio_is_made_within_a_round_and_its_median_is_judged() {
        let cost = Metric::CpuPerGb;
        let mut rounds = Vec::new();
        // The machine slows down threefold in the last round, for both.
        for (number, ours, theirs) in [(1, 1.0, 5.0), (2, 1.0, 4.5), (3, 3.0, 15.0)] {
            rounds.push(round("produce-1k", "ringspun", number, cost, ours));
            rounds.push(round("produce-1k", "kafka", number, cost, theirs));
        }
        let outcome = judge(row("produce-1k"), &rounds);
        let kafka = &outcome.judged[0];
        assert_eq!(kafka.judgement.against, Against::Kafka);
        assert_eq!(
            kafka.summary.map(|s| (s.median, s.least, s.count)),
            Some((5.0, 4.5, 3))
        );
        // Must 4, goal 6.
        assert_eq!(kafka.verdict, Verdict::Must);
        // The floor was not measured.
        assert_eq!(outcome.judged[1].verdict, Verdict::Unknown);
    }

    #[test]
    fn more_is_better_for_rates_and_less_for_costs() {
        let rate = Metric::AcksPerCpuSecond;
        let rounds = [
            round("produce-one", "ringspun", 1, rate, 90_000.0),
            round("produce-one", "kafka", 1, rate, 25_000.0),
        ];
        let judged = &judge(row("produce-one"), &rounds).judged[0];
        assert_eq!(judged.summary.map(|s| s.median), Some(3.6));
        assert_eq!(judged.verdict, Verdict::Goal);
    }

    #[test]
    fn what_must_hold_and_does_not_is_a_miss() {
        let rounds = [round("idle", "ringspun", 1, Metric::IdleCpuPercent, 1.2)];
        assert_eq!(
            judge(row("idle"), &rounds).judged[0].verdict,
            Verdict::Misses
        );
        let rounds = [round("idle", "ringspun", 1, Metric::IdleCpuPercent, 0.05)];
        assert_eq!(judge(row("idle"), &rounds).judged[0].verdict, Verdict::Goal);
    }

    #[test]
    fn a_round_with_steal_is_dropped_with_its_pair_where_percentiles_are_judged() {
        let mut rounds = Vec::new();
        for number in 1..=10 {
            rounds.push(round("open-5k", "ringspun", number, Metric::P999, 1000.0));
            rounds.push(round("open-5k", "kafka", number, Metric::P999, 8000.0));
        }
        rounds[0].steal = 0.02;
        let outcome = judge(row("open-5k"), &rounds);
        assert_eq!((outcome.dropped, outcome.rounds.len()), (1, 19));
        let judged = &outcome.judged[0];
        assert_eq!(judged.summary.map(|s| s.count), Some(9));
        assert_eq!((judged.verdict, &judged.caveat), (Verdict::Must, &None));
        // One more, and there are too few to believe.
        rounds[3].steal = 0.02;
        let outcome = judge(row("open-5k"), &rounds);
        assert_eq!(outcome.dropped, 2);
        assert!(outcome.judged[0].caveat.is_some());
        // CPU time is not what steal takes: those rows keep the round.
        let mut kept = round("produce-1k", "ringspun", 1, Metric::CpuPerGb, 1.0);
        kept.steal = 0.5;
        assert_eq!(judge(row("produce-1k"), &[kept]).dropped, 0);
    }

    #[test]
    fn rounds_that_failed_or_only_checked_do_not_count() {
        let mut checked = round("produce-1k", "ringspun", 0, Metric::CpuPerGb, 1.0);
        let mut lost = round("produce-1k", "kafka", 1, Metric::CpuPerGb, 1.0);
        lost.status = "invalid".into();
        lost.problems.push("2 records lost".into());
        checked.round = 0;
        let rounds = [checked, lost];
        let outcome = judge(row("produce-1k"), &rounds);
        assert!(outcome.rounds.is_empty());
        assert_eq!(outcome.failed, ["kafka  round 1: invalid 2 records lost"]);
    }
}
