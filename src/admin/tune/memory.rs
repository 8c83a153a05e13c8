//! How the kernel manages memory.

use super::{Asked, Change, Finding, Machine, Scope, Tuner, Verdict};

/// Percent of memory that may be dirty before the kernel writes it out, and before writers have to wait.
const DIRTY_BACKGROUND_RATIO: u64 = 5;
const DIRTY_RATIO: u64 = 40;

pub const TUNERS: &[Tuner] = &[
    Tuner {
        name: "transparent-huge-pages",
        reason: "the broker switches them off for itself, but with `always` the kernel gathers huge pages for every other program, and stops whoever needs memory meanwhile",
        measured: None,
        scope: Scope::Machine,
        look: huge_pages,
    },
    Tuner {
        name: "swappiness",
        reason: "a log that streams through the page cache makes the kernel swap out what a shard seldom touches; the shard stands still until it is back",
        measured: None,
        scope: Scope::Machine,
        look: swappiness,
    },
    Tuner {
        name: "dirty-pages",
        reason: "a shard that writes to the page cache is stopped by the kernel when too much of it waits for the disk (above the middle of the two limits); to begin early and stop late avoids that",
        measured: Some(
            "12 GB written on end: the page cache stopped the core for up to 20 ms and took 0.67 GB/s, O_DIRECT 3 ms and 1.5 to 1.8 GB/s (2-core EPYC guest, ext4, kernel 6.18, default limits); the effect of other limits was not measured",
        ),
        scope: Scope::Machine,
        look: dirty_pages,
    },
];

fn huge_pages(machine: &Machine, _: &Asked) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, wanted) in [("enabled", "madvise"), ("defrag", "madvise")] {
        let path = format!("/sys/kernel/mm/transparent_hugepage/{file}");
        let Some(value) = machine.value(&path) else {
            continue;
        };
        found.push(match value.as_str() {
            "always" => Finding::new(file, value, wanted, Verdict::write(path, wanted)),
            _ => Finding::good(file, value),
        });
    }
    if found.is_empty() {
        return Finding::not_here("this kernel has none");
    }
    found
}

fn swappiness(machine: &Machine, _: &Asked) -> Vec<Finding> {
    let swaps = machine.text("/proc/swaps").unwrap_or_default();
    if swaps.lines().count() < 2 {
        return Finding::not_here("there is no swap");
    }
    let path = "/proc/sys/vm/swappiness";
    match machine.number(path) {
        None => Finding::unknown("vm.swappiness cannot be read"),
        Some(set @ 0..=1) => vec![Finding::good("", set.to_string())],
        Some(set) => vec![Finding::new(
            "",
            set.to_string(),
            "1",
            Verdict::write(path, "1"),
        )],
    }
}

fn dirty_pages(machine: &Machine, _: &Asked) -> Vec<Finding> {
    let read = |name: &str| machine.number(&format!("/proc/sys/vm/{name}"));
    // Writing a ratio clears the bytes, and 0 bytes cannot be written back. So who set bytes is left alone.
    let bytes = ["dirty_background_bytes", "dirty_bytes"].map(|name| read(name).unwrap_or(0));
    if bytes != [0, 0] {
        return vec![Finding::good(
            "",
            format!(
                "{} and {} bytes, set by hand: left alone",
                bytes[0], bytes[1]
            ),
        )];
    }
    let (Some(background), Some(all)) = (read("dirty_background_ratio"), read("dirty_ratio"))
    else {
        return Finding::unknown("vm.dirty_ratio cannot be read");
    };
    let mut changes = Vec::new();
    let mut write = |name: &str, to: u64| {
        changes.push(Change {
            path: format!("/proc/sys/vm/{name}"),
            to: to.to_string(),
        });
    };
    if background > DIRTY_BACKGROUND_RATIO {
        write("dirty_background_ratio", DIRTY_BACKGROUND_RATIO);
    }
    if all < DIRTY_RATIO {
        write("dirty_ratio", DIRTY_RATIO);
    }
    let found = format!("write from {background} %, wait from {all} %");
    if changes.is_empty() {
        return vec![Finding::good("", found)];
    }
    let wanted = format!("write from {DIRTY_BACKGROUND_RATIO} %, wait from {DIRTY_RATIO} %");
    vec![Finding::new("", found, wanted, Verdict::Change(changes))]
}
