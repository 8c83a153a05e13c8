//! The report as Markdown.

use std::fmt::Write as _;

use super::{Report, claim, limits, number, series_name, shown, spread, unfair, used};
use crate::compare::judge::Outcome;

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn row(out: &mut String, cells: &[String]) {
    let cells: Vec<String> = cells.iter().map(|text| cell(text)).collect();
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

fn head(out: &mut String, cells: &[&str]) {
    let _ = writeln!(out, "| {} |", cells.join(" | "));
    let _ = writeln!(out, "|{}", "---|".repeat(cells.len()));
}

/// The whole page.
pub fn markdown(report: &Report<'_>) -> String {
    let about = report.about;
    let mut out = String::new();
    let _ = writeln!(out, "# ringspun beside others, {}\n", about.started);
    if let Some(why) = &about.cut_short {
        let _ = writeln!(
            out,
            "**This run was cut short: {}.** What follows is what there was.\n",
            why.replace('\n', " ")
        );
    }
    let _ = writeln!(
        out,
        "Medians over rounds, in brackets the least and the greatest. A ratio is made within a round. \
         `ringspun-bench {}`, at {}; ended {}.\n",
        about.command.join(" "),
        about.commit,
        about.ended
    );
    head(&mut out, &["what", "is"]);
    for (name, value) in about.machine.lines() {
        row(&mut out, &[name.into(), value]);
    }
    row(
        &mut out,
        &[
            "broker on core, load on core".into(),
            format!("{}, {}", about.broker_cores, about.load_cores),
        ],
    );
    for target in &about.targets {
        let settings: Vec<String> = target
            .settings
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        let with = if settings.is_empty() {
            String::new()
        } else {
            format!("; {}", settings.join(", "))
        };
        row(
            &mut out,
            &[target.name.clone(), format!("{}{with}", target.version)],
        );
    }
    let _ = writeln!(out, "\n## Verdicts\n");
    out += &verdicts(report);
    for outcome in &report.outcomes {
        section(&mut out, report, outcome);
    }
    let _ = writeln!(out, "\n## What is unfair here\n");
    for point in unfair(about) {
        let _ = writeln!(out, "- {point}");
    }
    out
}

/// The table of verdicts alone.
pub fn verdicts(report: &Report<'_>) -> String {
    let mut table = String::new();
    let out = &mut table;
    head(
        out,
        &[
            "row", "figure", "measured", "must", "goal", "rounds", "verdict",
        ],
    );
    for outcome in &report.outcomes {
        for judged in &outcome.judged {
            let (must, goal) = limits(judged);
            let caveat = judged
                .caveat
                .as_ref()
                .map_or(String::new(), |why| format!(" ({why})"));
            row(
                out,
                &[
                    outcome.row.name.into(),
                    claim(judged),
                    spread(judged.summary),
                    must,
                    goal,
                    judged.summary.map_or(0, |s| s.count).to_string(),
                    format!("{}{caveat}", judged.verdict.text()),
                ],
            );
        }
    }
    table
}

fn section(out: &mut String, report: &Report<'_>, outcome: &Outcome<'_>) {
    let _ = writeln!(out, "\n## {}: {}\n", outcome.row.name, outcome.row.title);
    let metrics = shown(outcome);
    let mut names = vec!["target"];
    names.extend(metrics.iter().map(|metric| metric.title()));
    head(out, &names);
    for (target, variant) in outcome.series() {
        let mut cells = vec![series_name(&target, &variant)];
        cells.extend(
            metrics
                .iter()
                .map(|m| spread(outcome.summary(&target, &variant, *m))),
        );
        row(out, &cells);
    }
    let _ = writeln!(out);
    let mut first = true;
    for (target, variant) in outcome.series() {
        let used = used(outcome, &target, &variant);
        if first {
            let mut names = vec!["used, medians"];
            names.extend(used.iter().map(|(name, _)| *name));
            head(out, &names);
            first = false;
        }
        let mut cells = vec![series_name(&target, &variant)];
        cells.extend(used.into_iter().map(|(_, value)| value));
        row(out, &cells);
    }
    if outcome.dropped > 0 {
        let _ = writeln!(
            out,
            "\n{} rounds dropped for more than 1 % of steal.",
            outcome.dropped
        );
    }
    for failed in &outcome.failed {
        let _ = writeln!(out, "\nNot counted: {}", failed.replace('\n', " "));
    }
    for (name, value) in syscalls(outcome) {
        let _ = writeln!(
            out,
            "\n{name}: {value} system calls a thousand records, while the content was checked."
        );
    }
    let settings: Vec<String> = outcome
        .row
        .variants
        .iter()
        .map(|variant| {
            let settings = variant
                .settings
                .iter()
                .map(|(k, v)| format!("--set {k}={v}"));
            settings.collect::<Vec<_>>().join(" ")
        })
        .filter(|text| !text.is_empty())
        .collect();
    let _ = writeln!(out, "\nAgain: `{}`", report.repeat(outcome.row));
    for text in settings {
        let _ = writeln!(
            out,
            "\nThe load alone: `ringspun-bench run --bootstrap HOST:PORT --workload default {text}`"
        );
    }
}

/// Calls into the kernel a thousand records, of the rounds in which they were counted.
pub(super) fn syscalls(outcome: &Outcome<'_>) -> Vec<(String, String)> {
    let counted = outcome.checked.iter().filter_map(|round| {
        let records = round.result["verify"]["expected"]
            .as_f64()
            .filter(|n| *n > 0.0)?;
        let calls = round.syscalls? as f64;
        Some((
            series_name(&round.target, &round.variant),
            number(calls / records * 1e3),
        ))
    });
    counted.collect()
}
