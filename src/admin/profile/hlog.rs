//! The report as an HdrHistogram log, for HdrHistogram's own tools and for `ringspun profile --diff`.
//!
//! One line a tag: `produce.total`, `produce.append`, …, `fetch.send`, and `turn`, `fsync`, `write_bytes`, …
//! for what is measured beside requests; `shard1.` before them where shards are apart. Values are
//! nanoseconds or bytes; the column of the largest is in milliseconds, as is usual.

use std::io;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::{Report, merged};
use crate::base::histogram::{HIGHEST, Recorded};
use crate::base::profile::{Gauged, Kind, ShardProfile};

/// The whole log. Histograms without values are left out.
pub fn render(report: &Report) -> io::Result<String> {
    let sample = &report.sample;
    let age = sample.shards.iter().map(|shard| shard.age).max();
    let duration = Duration::from_nanos(age.unwrap_or(0));
    let start = report
        .at
        .checked_sub(duration)
        .unwrap_or(SystemTime::UNIX_EPOCH);
    let mut log = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut writer = IntervalLogWriterBuilder::new()
        .add_comment("[Logged with ringspun]")
        .with_start_time(start)
        .with_base_time(start)
        .with_max_value_divisor(1e6)
        .begin_log_with(&mut log, &mut serializer)?;
    let mut write = |tag: &str, recorded: &Recorded| {
        if recorded.count() == 0 {
            return Ok(());
        }
        let histogram = histogram(recorded)?;
        let tag = Tag::new(tag);
        writer
            .write_histogram(&histogram, Duration::ZERO, duration, tag)
            .map_err(|error| io::Error::other(format!("{error:?}")))
    };
    if report.by_shard {
        for shard in &sample.shards {
            all(shard, &format!("shard{}.", shard.shard), &mut write)?;
        }
    } else if let Some(shard) = merged(&sample.shards) {
        all(&shard, "", &mut write)?;
    }
    String::from_utf8(log).map_err(io::Error::other)
}

fn all(
    shard: &ShardProfile,
    prefix: &str,
    write: &mut impl FnMut(&str, &Recorded) -> io::Result<()>,
) -> io::Result<()> {
    for &kind in Kind::ALL {
        let name = kind.label();
        write(
            &format!("{prefix}{name}.total"),
            &shard.totals[kind.index()],
        )?;
        for &stage in kind.stages() {
            let recorded = &shard.stages[kind.index()][stage.index()];
            write(&format!("{prefix}{name}.{}", stage.label()), recorded)?;
        }
    }
    for &gauged in Gauged::ALL {
        let recorded = &shard.gauged[gauged.index()];
        write(&format!("{prefix}{}", gauged.label()), recorded)?;
    }
    Ok(())
}

/// The same buckets.
fn histogram(recorded: &Recorded) -> io::Result<Histogram<u64>> {
    let mut histogram = Histogram::new_with_bounds(1, HIGHEST, 2).map_err(io::Error::other)?;
    for (value, count) in recorded.buckets() {
        histogram.record_n(value, count).map_err(io::Error::other)?;
    }
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    use super::super::diff::Recording;
    use super::*;

    #[test]
    fn a_log_is_read_back_with_the_same_values() {
        let report = super::super::tests::report();
        let log = render(&report).unwrap();
        let read = Recording::parse(log.as_bytes()).unwrap();
        let shard = &report.sample.shards[0];
        for &kind in Kind::ALL {
            for &stage in kind.stages() {
                let ours = &shard.stages[kind.index()][stage.index()];
                let theirs = &read.tags[&format!("{}.{}", kind.label(), stage.label())];
                assert_eq!(theirs.len(), ours.count());
                let bucket = theirs.highest_equivalent(ours.quantile(0.5));
                assert_eq!(theirs.value_at_quantile(0.5), bucket);
            }
        }
        assert!(read.tags.contains_key("turn") && !read.tags.contains_key("fsync"));
    }
}
