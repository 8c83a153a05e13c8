//! The table for people.

use std::fmt::Write as _;

use super::{QUANTILES, Report, Sample, escaped, merged, share};
use crate::base::histogram::Recorded;
use crate::base::profile::{Gauged, Kind, Nanos, ShardProfile, SlowRequest, Stage};

/// Slowest requests that are shown with their stages; JSON has all.
const SLOWEST: usize = 20;

/// Stalls that are shown.
const STALLS: usize = 20;

/// The whole page.
pub fn render(report: &Report) -> String {
    let mut page = String::with_capacity(16 << 10);
    let shards = &report.sample.shards;
    let age = shards.iter().map(|shard| shard.age).max().unwrap_or(0);
    let window = match report.interval {
        None => format!("since the start, {} ago", time(age)),
        Some(_) => format!("of {}", time(age)),
    };
    let _ = writeln!(
        page,
        "ringspun profile of {} shards, {window}",
        shards.len()
    );
    if report.by_shard {
        for shard in shards {
            let _ = writeln!(page, "\n== shard {} ==", shard.shard);
            tables(&mut page, shard);
        }
    } else if let Some(all) = merged(shards) {
        tables(&mut page, &all);
    }
    let _ = writeln!(page, "\ncores");
    for shard in shards {
        let part = |nanos: u64| 100.0 * nanos as f64 / shard.age.max(1) as f64;
        let _ = writeln!(
            page,
            "  shard {:<3} ran {:.1} % of the time, waited {:.1} % for another to leave its core",
            shard.shard,
            part(shard.on_core),
            part(shard.waited_for_core),
        );
    }
    stalls(&mut page, shards);
    slowest(&mut page, &report.sample);
    page
}

fn tables(page: &mut String, shard: &ShardProfile) {
    let seconds = shard.age as f64 / 1e9;
    for &kind in Kind::ALL {
        let total = &shard.totals[kind.index()];
        let rate = total.count() as f64 / seconds.max(1e-9);
        let (name, count) = (kind.label(), total.count());
        let _ = writeln!(page, "\n{name}: {count} requests, {rate:.1} a second");
        if total.count() == 0 {
            continue;
        }
        head(page, "stage", "share");
        for &stage in kind.stages() {
            let recorded = &shard.stages[kind.index()][stage.index()];
            let part = format!("{:.1} %", 100.0 * share(shard, kind, stage));
            row(page, stage.label(), recorded, &part, time);
        }
        row(page, "total", total, "", time);
    }
    let _ = writeln!(page, "\nshard");
    head(page, "", "count");
    for &gauged in Gauged::ALL {
        let recorded = &shard.gauged[gauged.index()];
        if recorded.count() > 0 {
            let unit = if gauged.is_bytes() { bytes } else { time };
            row(
                page,
                gauged.label(),
                recorded,
                &recorded.count().to_string(),
                unit,
            );
        }
    }
    if shard.cold_bytes > 0 {
        let cold = bytes(shard.cold_bytes);
        let _ = writeln!(page, "  {cold} were sent that were not in the page cache");
    }
    let _ = writeln!(page, "\ntasks");
    let _ = writeln!(
        page,
        "  {:<20} {:>12} {:>9} {:>9} {:>9} {:>8}",
        "name", "turns", "busy", "mean", "longest", "> 1 ms"
    );
    let mut tasks = shard.tasks.clone();
    tasks.sort_by_key(|task| std::cmp::Reverse(task.busy));
    for task in tasks.iter().filter(|task| task.turns > 0) {
        let _ = writeln!(
            page,
            "  {:<20} {:>12} {:>8.2}% {:>9} {:>9} {:>8}",
            task.name,
            task.turns,
            100.0 * task.busy as f64 / shard.age.max(1) as f64,
            time(task.busy / task.turns.max(1)),
            time(task.longest),
            task.stalls,
        );
    }
}

fn head(page: &mut String, name: &str, last: &str) {
    let _ = write!(page, "  {name:<15}");
    for (_, quantile) in QUANTILES {
        let _ = write!(page, " {quantile:>9}");
    }
    let _ = writeln!(page, " {:>9} {:>9} {last:>9}", "max", "mean");
}

fn row(page: &mut String, name: &str, recorded: &Recorded, last: &str, unit: fn(u64) -> String) {
    let _ = write!(page, "  {name:<15}");
    for (q, _) in QUANTILES {
        let _ = write!(page, " {:>9}", unit(recorded.quantile(q)));
    }
    let (max, mean) = (unit(recorded.max()), unit(recorded.mean()));
    let _ = writeln!(page, " {max:>9} {mean:>9} {last:>9}");
}

fn stalls(page: &mut String, shards: &[ShardProfile]) {
    let all = shards.iter();
    let mut all: Vec<_> = all
        .flat_map(|s| s.stalls.iter().map(move |one| (s, one)))
        .collect();
    if all.is_empty() {
        let _ = writeln!(page, "\nno task kept a core for a millisecond");
        return;
    }
    all.sort_by_key(|(_, stall)| std::cmp::Reverse(stall.took));
    let _ = writeln!(
        page,
        "\ntasks that kept a core for over a millisecond, longest first"
    );
    for (shard, stall) in all.into_iter().take(STALLS) {
        let _ = write!(
            page,
            "  {:>9}  shard {:<3} {:<20} {:<10} {:>9} ago",
            time(stall.took),
            shard.shard,
            stall.task,
            stall.stage.map_or("-", Stage::label),
            time(shard.now.since(stall.at)),
        );
        if let Some(peer) = stall.peer {
            let _ = write!(page, "  {peer}");
        }
        page.push('\n');
    }
}

fn slowest(page: &mut String, sample: &Sample) {
    let shards = sample.shards.iter();
    let mut all: Vec<(Nanos, &SlowRequest)> = shards
        .flat_map(|shard| shard.slowest.iter().map(|slow| (shard.now, slow)))
        .collect();
    if all.is_empty() {
        return;
    }
    all.sort_by_key(|(_, slow)| std::cmp::Reverse(slow.about.lateness(&slow.timeline)));
    let _ = writeln!(
        page,
        "\nslowest requests of the last minute, waits that a fetch asked for left out"
    );
    for (now, slow) in all.into_iter().take(SLOWEST) {
        let at = slow.timeline.at();
        let _ = writeln!(
            page,
            "  {:>9}  {:<7} {:>9} ago  {} from {}  {}  {} in, {} out",
            time(slow.timeline.total()),
            slow.kind.label(),
            time(now.since(at)),
            client(slow),
            slow.peer,
            place(sample, slow),
            bytes(slow.request_bytes),
            bytes(slow.response_bytes),
        );
        let mut stages = String::new();
        for &stage in slow.kind.stages() {
            let spent = slow.timeline.spent(stage);
            if spent > 0 {
                let _ = write!(stages, " {} {}", stage.label(), time(spent));
            }
        }
        let _ = writeln!(page, "            {}", stages.trim_start());
    }
}

fn client(slow: &SlowRequest) -> String {
    match &*slow.client_id {
        "" => "(no client id)".into(),
        id => escaped(id),
    }
}

/// `orders-3 and 2 more`.
fn place(sample: &Sample, slow: &SlowRequest) -> String {
    let about = &slow.about;
    let mut text = match about.partitions {
        0 => return "no partition".into(),
        _ => format!(
            "{}-{}",
            super::json::topic(sample, about.topic),
            about.partition
        ),
    };
    if about.partitions > 1 {
        let _ = write!(text, " and {} more", about.partitions - 1);
    }
    text
}

/// A time in three digits or so.
pub fn time(nanos: u64) -> String {
    let of = |unit: f64, name: &str| {
        let value = nanos as f64 / unit;
        let digits = if value < 10.0 {
            2
        } else {
            usize::from(value < 100.0)
        };
        format!("{value:.digits$}{name}")
    };
    match nanos {
        0..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => of(1e3, "us"),
        1_000_000..1_000_000_000 => of(1e6, "ms"),
        _ => of(1e9, "s"),
    }
}

/// Bytes in three digits or so.
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes}B"),
        10_000..10_240_000 => format!("{:.1}KiB", bytes as f64 / 1024.0),
        10_240_000..10_737_418_240 => format!("{:.1}MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1}GiB", bytes as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_stage_the_stall_and_the_slowest_and_nothing_raw_of_a_client() {
        let mut report = super::super::tests::report();
        for by_shard in [false, true] {
            report.by_shard = by_shard;
            let page = render(&report);
            for &kind in Kind::ALL {
                assert!(
                    page.contains(&format!("\n{}: 100 requests", kind.label())),
                    "{page}"
                );
                for stage in kind.stages() {
                    assert!(page.contains(&format!("\n  {} ", stage.label())), "{page}");
                }
            }
            assert!(page.contains("sleepy"), "{page}");
            assert!(page.contains("orders-3 and 1 more"), "{page}");
            assert!(page.contains("evil\\u{1b}[2J\\u{202e}\"id"), "{page}");
            assert!(page.chars().all(|c| c == '\n' || !c.is_control()));
        }
    }

    #[test]
    fn times_and_bytes_are_short() {
        let times = [0, 999, 1_000, 12_345, 999_000, 1_234_567, 61_000_000_000].map(time);
        assert_eq!(
            times,
            [
                "0ns", "999ns", "1.00us", "12.3us", "999us", "1.23ms", "61.0s"
            ]
        );
        assert_eq!(
            [9_999, 65_536, 1 << 30].map(bytes),
            ["9999B", "64.0KiB", "1024.0MiB"]
        );
    }
}
