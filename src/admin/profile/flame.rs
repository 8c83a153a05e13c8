//! `/profile/flame`: which functions the CPU's time goes to, by samples of the whole process.
//!
//! ```text
//! /profile/flame?seconds=SECONDS   of the next so many seconds, at most 60; 10 unless given
//!   &format=folded|svg             collapsed stacks, one a line with its samples; or a flame graph
//! ```
//! While it runs, a timer of CPU time interrupts the process [`SAMPLES_PER_CPU_SECOND`] times a second, and
//! whoever is on a core then notes its stack: a shard that waits costs nothing and does not show. A sample
//! takes some ten to thirty microseconds, so a busy core loses about half a hundredth. Afterwards names are
//! looked up off the shards, for up to a second, and the tables for that stay: measured, 14 MB resident became
//! 315. So this is for a look now and then, not for a node whose memory is counted. One runs at a time; nothing
//! of it exists before the first.
//!
//! A sample that meets a call into the kernel shows the function that made it.

use std::collections::BTreeMap;
use std::time::Duration;

use inferno::flamegraph::{self, Options};
use pprof::{Frames, ProfilerGuardBuilder};

/// How often a second of CPU time is interrupted. A prime, so as not to keep step with anything.
pub const SAMPLES_PER_CPU_SECOND: i32 = 199;

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
    let guard = ProfilerGuardBuilder::default()
        .frequency(SAMPLES_PER_CPU_SECOND)
        .build()
        .map_err(|error| match error {
            pprof::Error::Running => FlameError::Busy,
            error => FlameError::Failed(error.to_string()),
        })?;
    tokio::time::sleep(time).await;
    let lines = tokio::task::spawn_blocking(move || {
        let report = guard.report().build();
        report.map(|report| collapse(&report.data))
    });
    match lines.await {
        Ok(Ok(lines)) => Ok(lines),
        Ok(Err(error)) => Err(FlameError::Failed(error.to_string())),
        Err(error) => Err(FlameError::Failed(error.to_string())),
    }
}

fn collapse<'a>(samples: impl IntoIterator<Item = (&'a Frames, &'a isize)>) -> String {
    let mut stacks: BTreeMap<String, isize> = BTreeMap::new();
    for (frames, count) in samples {
        let mut stack = plain(&frames.thread_name_or_id());
        // What was inlined comes before what it was inlined into.
        for symbol in frames
            .frames
            .iter()
            .rev()
            .flat_map(|frame| frame.iter().rev())
        {
            stack.push(';');
            stack += &plain(&symbol.name());
        }
        *stacks.entry(stack).or_default() += count;
    }
    let mut lines = String::new();
    for (stack, count) in stacks {
        lines += &format!("{stack} {count}\n");
    }
    lines
}

/// A name without what separates names.
fn plain(name: &str) -> String {
    name.replace(';', ":").replace(['\n', '\r'], " ")
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
    use std::time::SystemTime;

    use pprof::Symbol;

    use super::*;

    fn frames(thread: &str, innermost_first: &[&[&str]]) -> Frames {
        let symbol = |name: &&str| Symbol {
            name: Some(name.as_bytes().to_vec()),
            addr: None,
            lineno: None,
            filename: None,
        };
        Frames {
            frames: innermost_first
                .iter()
                .map(|frame| frame.iter().map(symbol).collect())
                .collect(),
            thread_name: thread.into(),
            thread_id: 1,
            sample_timestamp: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_stack_is_read_from_the_thread_inwards_and_equal_ones_are_one_line() {
        let samples = [
            (frames("shard-0", &[&["inlined", "write"], &["run"]]), 2),
            (frames("shard-0", &[&["inlined", "write"], &["run"]]), 3),
            (frames("a;b", &[&["run"]]), 1),
        ];
        let lines = collapse(samples.iter().map(|(frames, count)| (frames, count)));
        assert_eq!(lines, "a:b;run 1\nshard-0;run;write;inlined 5\n");
        assert_eq!(super::samples(&lines), 6);
        let drawn = String::from_utf8(svg(&lines).expect("stacks")).expect("text");
        assert!(drawn.contains("<svg") && drawn.contains("inlined"));
        assert!(svg("\n").unwrap_err().contains("no sample"));
    }
}
