//! The report as one HTML page that needs nothing else.

use std::fmt::Write as _;

use anyhow::Result;

use super::{Report, claim, limits, over_time, plots, series_name, shown, spread, unfair, used};
use crate::compare::judge::{Outcome, Verdict};
use crate::compare::metric::Metric;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1c2330}\
table{border-collapse:collapse;margin:1rem 0;font-size:.9em}td,th{border:1px solid #d5dae2;padding:.3em .6em;text-align:left;vertical-align:top}\
th{background:#f2f4f7}.goal{background:#d9f2e0}.must{background:#fdf3d0}.misses{background:#fbdcd9}\
code{background:#f2f4f7;padding:.1em .3em}.plots{display:flex;flex-wrap:wrap;gap:1rem}.cut{color:#a3231a;font-weight:bold}\
@media(prefers-color-scheme:dark){body{background:#14181f;color:#dde3ec}th,code{background:#232a35}td,th{border-color:#3a4352}\
.goal{background:#1d4a2c}.must{background:#51430f}.misses{background:#5e2420}svg{background:#fff}}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn row(out: &mut String, cells: &[String]) {
    out.push_str("<tr>");
    for text in cells {
        let _ = write!(out, "<td>{}</td>", escape(text));
    }
    out.push_str("</tr>\n");
}

fn head(out: &mut String, cells: &[&str]) {
    out.push_str("<table><tr>");
    for text in cells {
        let _ = write!(out, "<th>{}</th>", escape(text));
    }
    out.push_str("</tr>\n");
}

/// The whole page. Fails only where a plot cannot be drawn.
pub fn html(report: &Report<'_>) -> Result<String> {
    let about = report.about;
    let mut out = String::new();
    let title = format!("ringspun beside others, {}", about.started);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title><style>{STYLE}</style></head><body>\n<h1>{0}</h1>\n",
        escape(&title)
    );
    if let Some(why) = &about.cut_short {
        let _ = writeln!(
            out,
            "<p class=\"cut\">This run was cut short: {}. What follows is what there was.</p>",
            escape(why)
        );
    }
    let _ = writeln!(
        out,
        "<p>Medians over rounds, in brackets the least and the greatest. A ratio is made within a round. \
         <code>ringspun-bench {}</code>, at {}; ended {}.</p>",
        escape(&about.command.join(" ")),
        escape(&about.commit),
        escape(&about.ended)
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
    out.push_str("</table>\n<h2>Verdicts</h2>\n");
    verdicts(&mut out, report);
    for outcome in &report.outcomes {
        section(&mut out, report, outcome)?;
    }
    out.push_str("<h2>What is unfair here</h2>\n<ul>\n");
    for point in unfair(about) {
        let _ = writeln!(out, "<li>{}</li>", escape(&point));
    }
    out.push_str("</ul>\n</body></html>\n");
    Ok(out)
}

fn verdicts(out: &mut String, report: &Report<'_>) {
    head(
        out,
        &[
            "row", "figure", "measured", "must", "goal", "rounds", "verdict",
        ],
    );
    for outcome in &report.outcomes {
        for judged in &outcome.judged {
            let class = match judged.verdict {
                Verdict::Goal => "goal",
                Verdict::Must => "must",
                Verdict::Misses => "misses",
                Verdict::Unknown => "",
            };
            let (must, goal) = limits(judged);
            let caveat = judged
                .caveat
                .as_ref()
                .map_or(String::new(), |why| format!(" ({why})"));
            let name = outcome.row.name;
            let _ = writeln!(
                out,
                "<tr><td><a href=\"#{name}\">{name}</a></td><td>{}</td><td>{}</td><td>{must}</td><td>{goal}</td><td>{}</td><td class=\"{class}\">{}{}</td></tr>",
                escape(&claim(judged)),
                escape(&spread(judged.summary)),
                judged.summary.map_or(0, |s| s.count),
                judged.verdict.text(),
                escape(&caveat)
            );
        }
    }
    out.push_str("</table>\n");
}

fn section(out: &mut String, report: &Report<'_>, outcome: &Outcome<'_>) -> Result<()> {
    let _ = writeln!(
        out,
        "<h2 id=\"{}\">{}: {}</h2>",
        outcome.row.name,
        outcome.row.name,
        escape(outcome.row.title)
    );
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
    out.push_str("</table>\n<div class=\"plots\">\n");
    for plot in drawn(outcome)? {
        out.push_str(&plot);
    }
    out.push_str("</div>\n");
    let mut open = false;
    for (target, variant) in outcome.series() {
        let used = used(outcome, &target, &variant);
        if !open {
            let mut names = vec!["used, medians"];
            names.extend(used.iter().map(|(name, _)| *name));
            head(out, &names);
            open = true;
        }
        let mut cells = vec![series_name(&target, &variant)];
        cells.extend(used.into_iter().map(|(_, value)| value));
        row(out, &cells);
    }
    if open {
        out.push_str("</table>\n");
    }
    if outcome.dropped > 0 {
        let _ = writeln!(
            out,
            "<p>{} rounds dropped for more than 1 % of steal.</p>",
            outcome.dropped
        );
    }
    for failed in &outcome.failed {
        let _ = writeln!(out, "<p>Not counted: {}</p>", escape(failed));
    }
    for (name, value) in super::markdown::syscalls(outcome) {
        let _ = writeln!(
            out,
            "<p>{}: {value} system calls a thousand records, while the content was checked.</p>",
            escape(&name)
        );
    }
    let _ = writeln!(
        out,
        "<p>Again: <code>{}</code></p>",
        escape(&report.repeat(outcome.row))
    );
    Ok(())
}

/// The plots of a row: what it costs, what it achieves, what it occupies, and its latencies.
fn drawn(outcome: &Outcome<'_>) -> Result<Vec<String>> {
    let mut plots = Vec::new();
    let bars = |metric: Metric| {
        let series = outcome.series().into_iter();
        let values = series.filter_map(|(target, variant)| {
            let summary = outcome.summary(&target, &variant, metric)?;
            Some((series_name(&target, &variant), summary))
        });
        values.collect::<Vec<_>>()
    };
    let shown = shown(outcome);
    for metric in &shown {
        let by_percentile =
            Metric::PERCENTILES.iter().any(|(of, _)| of == metric) || *metric == Metric::Max;
        let values = bars(*metric);
        if !by_percentile && !values.is_empty() {
            plots.push(plots::bars(metric.title(), &values)?);
        }
    }
    if !shown.contains(&Metric::RssPeakMb) && !bars(Metric::RssPeakMb).is_empty() {
        plots.push(plots::bars(
            Metric::RssPeakMb.title(),
            &bars(Metric::RssPeakMb),
        )?);
    }
    let mut curves = Vec::new();
    let mut times = Vec::new();
    for (target, variant) in outcome.series() {
        let points: Vec<(f64, f64)> = Metric::PERCENTILES
            .iter()
            .filter_map(|(metric, part)| {
                let summary = outcome.summary(&target, &variant, *metric)?;
                Some((*part, summary.median))
            })
            .collect();
        let name = series_name(&target, &variant);
        if points.len() > 1 {
            curves.push((name.clone(), points));
        }
        // The round whose p99 is the median one.
        let mut of: Vec<_> = outcome
            .rounds
            .iter()
            .filter(|r| r.target == target && r.variant == variant && !over_time(r).is_empty())
            .collect();
        of.sort_by(|a, b| {
            let p99 = |r: &crate::compare::judge::Round| r.metric(Metric::P99).unwrap_or(0.0);
            p99(a).total_cmp(&p99(b))
        });
        if let Some(round) = of.get(of.len() / 2) {
            times.push((name, over_time(round)));
        }
    }
    if !curves.is_empty() {
        plots.push(plots::percentiles(
            "latency by percentile, us, medians of rounds",
            &curves,
        )?);
    }
    if !times.is_empty() {
        plots.push(plots::over_time(
            "p99 of each second, us, the median round",
            &times,
        )?);
    }
    Ok(plots)
}
