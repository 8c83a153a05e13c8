//! `/profile/flame`: which functions the CPU's time goes to, by samples of the whole process.
//!
//! ```text
//! /profile/flame?seconds=SECONDS   of the next so many seconds, at most 60; 10 unless given
//!   &format=folded|svg             collapsed stacks, one a line with its samples; or a flame graph
//! ```
//! While it runs, a timer of CPU time interrupts the process [`SAMPLES_PER_CPU_SECOND`] times a second, and
//! whoever is on a core then notes its stack: a shard that waits costs nothing and does not show. A sample
//! takes some ten to thirty microseconds, so a busy core loses about half a hundredth. Afterwards a process of its
//! own looks [names](super::names) up for up to a second. One runs at a time; nothing of it stays.
//!
//! A sample that meets a call into the kernel shows the function that made it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use inferno::flamegraph::{self, Options};

use super::names;
use crate::runtime::stacks::{Sampled, Sampler, is_handler};

/// How often a second of CPU time is interrupted. A prime, so as not to keep step with anything.
pub const SAMPLES_PER_CPU_SECOND: u32 = 199;

/// Why there is no flame graph.
#[derive(Debug, thiserror::Error)]
pub enum FlameError {
    #[error("another one is under way; try again")]
    Busy,
    #[error("samples cannot be taken: {0}")]
    Failed(String),
}

/// Samples for `time`, and collapses them: `thread;outermost;…;innermost samples`, a line each, in order.
pub async fn folded(time: Duration) -> Result<String, FlameError> {
    let sampler = match Sampler::start(SAMPLES_PER_CPU_SECOND, time) {
        Ok(Some(sampler)) => sampler,
        Ok(None) => return Err(FlameError::Busy),
        Err(error) => return Err(FlameError::Failed(error.to_string())),
    };
    tokio::time::sleep(time).await;
    let lines = tokio::task::spawn_blocking(move || {
        let sampled = sampler.finish();
        if sampled.lost > 0 {
            tracing::warn!("a flame graph without {} samples: no room", sampled.lost);
        }
        let stacks = sampled.stacks.keys();
        let addresses: BTreeSet<u64> = stacks.flat_map(|s| s.addresses.iter().copied()).collect();
        let names = names::of(&addresses);
        let threads = sampled.stacks.keys().map(|stack| stack.thread);
        let threads: BTreeSet<i32> = threads.collect();
        let threads = threads.into_iter().map(|id| (id, name_of(id))).collect();
        collapse(&sampled, &names, &threads)
    });
    lines
        .await
        .map_err(|error| FlameError::Failed(error.to_string()))
}

/// The name of a thread; its number when it has ended.
fn name_of(thread: i32) -> String {
    match std::fs::read_to_string(format!("/proc/self/task/{thread}/comm")) {
        Ok(name) => names::plain(name.trim_end()),
        Err(_) => thread.to_string(),
    }
}

/// `names` has of each address the functions that are there: what was inlined before what it was inlined into.
fn collapse(
    sampled: &Sampled,
    names: &BTreeMap<u64, Vec<String>>,
    threads: &BTreeMap<i32, String>,
) -> String {
    let mut lines: BTreeMap<String, u64> = BTreeMap::new();
    for (stack, count) in &sampled.stacks {
        let names: Vec<&[String]> = stack
            .addresses
            .iter()
            .filter_map(|address| names.get(address).map(Vec::as_slice))
            .collect();
        // The handler, and what the kernel returns from it by, were not interrupted.
        let handler = names.iter().position(|at| at.iter().any(|n| is_handler(n)));
        let interrupted = handler.map_or(0, |handler| (handler + 2).min(names.len()));
        let mut line = match threads.get(&stack.thread) {
            Some(name) => name.clone(),
            None => stack.thread.to_string(),
        };
        let outermost_first = names[interrupted..].iter().rev();
        for name in outermost_first.flat_map(|at| at.iter().rev()) {
            line.push(';');
            line += name;
        }
        *lines.entry(line).or_default() += count;
    }
    let mut text = String::new();
    for (line, count) in lines {
        text += &format!("{line} {count}\n");
    }
    text
}

/// Draws collapsed stacks.
pub fn svg(folded: &str) -> Result<Vec<u8>, String> {
    let mut options = Options::default();
    options.title = "ringspun: samples of CPU time".into();
    options.count_name = "samples".into();
    let mut svg = Vec::new();
    if folded.trim().is_empty() {
        return Err("no sample was taken: the node had next to nothing to do".into());
    }
    flamegraph::from_lines(&mut options, folded.lines(), &mut svg).map_err(|e| e.to_string())?;
    Ok(svg)
}

/// The samples in collapsed stacks.
pub fn samples(folded: &str) -> u64 {
    let count = |line: &str| line.rsplit_once(' ')?.1.parse::<u64>().ok();
    folded.lines().filter_map(count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::stacks::Stack;

    #[test]
    fn a_stack_is_read_from_the_thread_inwards_and_equal_ones_are_one_line() {
        let mut sampled = Sampled::default();
        for (thread, addresses, count) in [
            (7, vec![1, 2, 3, 4, 5], 2),
            (7, vec![3, 4, 6], 3),
            (8, vec![5], 1),
            // Nothing but the handler was unwound.
            (9, vec![2], 4),
        ] {
            let stack = Stack { thread, addresses };
            sampled.stacks.insert(stack, count);
        }
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let names = BTreeMap::from([
            (1, named(&["backtrace::trace", "inlined"])),
            (2, named(&["ringspun_note_stack"])),
            (3, named(&["__restore_rt"])),
            (4, named(&["write", "flush"])),
            (5, named(&["run"])),
            (6, named(&["main"])),
        ]);
        let threads = BTreeMap::from([(7, "shard-1".to_owned()), (9, "b".to_owned())]);
        let lines = collapse(&sampled, &names, &threads);
        assert_eq!(
            lines,
            "8;run 1\nb 4\nshard-1;main;flush;write;__restore_rt 3\nshard-1;run;flush;write 2\n"
        );
        assert_eq!(super::samples(&lines), 10);
        let drawn = String::from_utf8(svg(&lines).expect("stacks")).expect("text");
        assert!(drawn.contains("<svg") && drawn.contains("flush"));
        assert!(svg("\n").unwrap_err().contains("no sample"));
    }
}
