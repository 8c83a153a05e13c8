//! What two HdrHistogram logs differ in.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

use super::text::{bytes, time};
use crate::base::profile::{Gauged, Kind};

/// Quantiles that are compared.
const QUANTILES: [(f64, &str); 4] = [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"), (1.0, "max")];

/// A difference up to this is not pointed out: buckets are 1 % wide, and runs differ.
const SAME: f64 = 0.1;

/// A histogram with fewer values says little of its quantiles.
const FEW: u64 = 100;

/// A log, all its intervals together.
#[derive(Default)]
pub struct Recording {
    pub tags: BTreeMap<String, Histogram<u64>>,
}

impl Recording {
    /// Reads a log, of `ringspun profile --record` or any other; what has no tag is called `-`.
    pub fn parse(log: &[u8]) -> Result<Recording, String> {
        let mut recording = Recording::default();
        let mut deserializer = Deserializer::new();
        for entry in IntervalLogIterator::new(log) {
            let entry = entry.map_err(|error| format!("not an HdrHistogram log: {error:?}"))?;
            let LogEntry::Interval(interval) = entry else {
                continue;
            };
            let tag = interval.tag().map_or("-", |tag| tag.as_str());
            let coded = STANDARD.decode(interval.encoded_histogram());
            let coded =
                coded.map_err(|error| format!("the histogram {tag} is damaged: {error}"))?;
            let histogram: Histogram<u64> = deserializer
                .deserialize(&mut coded.as_slice())
                .map_err(|error| format!("the histogram {tag} is damaged: {error}"))?;
            match recording.tags.get_mut(tag) {
                Some(sum) => sum
                    .add(&histogram)
                    .map_err(|error| format!("the histograms {tag} do not add up: {error}"))?,
                None => {
                    recording.tags.insert(tag.to_owned(), histogram);
                }
            }
        }
        if recording.tags.is_empty() {
            return Err("no histogram in it".into());
        }
        Ok(recording)
    }
}

/// Both beside each other, in the order in which a request passes the stages; what changed is marked.
pub fn render(a: &Recording, b: &Recording) -> String {
    let mut page = String::new();
    let _ = write!(page, "  {:<24} {:>12} {:>12}", "", "A count", "B count");
    for (_, name) in QUANTILES {
        let _ = write!(page, "  {:>9} {:>9} {:>7}", format!("A {name}"), "B", "B/A");
    }
    page.push('\n');
    let mut tags: Vec<&String> = a.tags.keys().chain(b.tags.keys()).collect();
    tags.sort_by_key(|tag| (place(tag), tag.as_str()));
    tags.dedup();
    let mut marked = false;
    for tag in tags {
        let (of_a, of_b) = (a.tags.get(tag), b.tags.get(tag));
        let count = |of: Option<&Histogram<u64>>| of.map_or(0, Histogram::len);
        let few = count(of_a).min(count(of_b)) < FEW;
        let unit = if tag.ends_with("_bytes") { bytes } else { time };
        let mut line = format!("{:<24} {:>12} {:>12}", tag, count(of_a), count(of_b));
        let mut differs = false;
        for (q, _) in QUANTILES {
            let value = |of: Option<&Histogram<u64>>| match of {
                Some(of) if q < 1.0 => Some(of.value_at_quantile(q)),
                Some(of) => Some(of.max()),
                None => None,
            };
            let shown = |value: Option<u64>| value.map_or("-".to_owned(), unit);
            let (in_a, in_b) = (value(of_a), value(of_b));
            let ratio = match (in_a, in_b) {
                (Some(a), Some(b)) if a > 0 => Some(b as f64 / a as f64),
                _ => None,
            };
            // The largest of many is a matter of luck: it is shown, and marks nothing.
            differs |= q < 1.0 && ratio.is_some_and(|r| (r - 1.0).abs() > SAME);
            let ratio = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
            let _ = write!(line, "  {:>9} {:>9} {ratio:>7}", shown(in_a), shown(in_b));
        }
        let mark = match (differs, few) {
            (true, false) => '*',
            (true, true) => '?',
            (false, _) => ' ',
        };
        marked |= mark != ' ';
        let _ = writeln!(page, "{mark} {}", line.trim_end());
    }
    if marked {
        let _ = writeln!(
            page,
            "* a quantile differs by more than {:.0} %; ? as well, of fewer than {FEW} values",
            SAME * 100.0
        );
    } else {
        let _ = writeln!(
            page,
            "no quantile differs by more than {:.0} %",
            SAME * 100.0
        );
    }
    page
}

/// Where a tag stands in the order of the stages.
fn place(tag: &str) -> (usize, usize) {
    let tag = match tag.split_once('.') {
        Some((shard, rest)) if shard.starts_with("shard") => rest,
        _ => tag,
    };
    for (at, kind) in Kind::ALL.iter().enumerate() {
        let Some(stage) = tag
            .strip_prefix(kind.label())
            .and_then(|t| t.strip_prefix('.'))
        else {
            continue;
        };
        let stage = kind.stages().iter().position(|s| s.label() == stage);
        return (at, stage.unwrap_or(usize::MAX));
    }
    let gauged = Gauged::ALL.iter().position(|gauged| gauged.label() == tag);
    (Kind::COUNT, gauged.unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording(scale: u64) -> Recording {
        let mut append = Histogram::new_with_bounds(1, 1 << 40, 2).unwrap();
        let mut send = append.clone();
        for n in 1..=1_000u64 {
            append.record(n * scale).unwrap();
            send.record(n).unwrap();
        }
        let tags = [("produce.append", append), ("produce.send", send)];
        Recording {
            tags: tags.into_iter().map(|(t, h)| (t.to_owned(), h)).collect(),
        }
    }

    #[test]
    fn what_differs_is_marked_and_what_does_not_is_not() {
        let page = render(&recording(1_000), &recording(2_000));
        let line = |tag: &str| page.lines().find(|line| line.contains(tag)).unwrap();
        assert!(line("produce.append").starts_with('*'), "{page}");
        assert!(line("produce.append").contains(" 2.0"), "{page}");
        assert!(line("produce.send").starts_with(' '), "{page}");
        let same = render(&recording(5), &recording(5));
        assert!(same.contains("no quantile differs"), "{same}");
        let empty = Recording::default();
        assert!(render(&recording(5), &empty).contains(" - "));
    }

    #[test]
    fn stages_stand_in_their_order_and_shards_apart() {
        let tags = [
            "produce.receive",
            "produce.send",
            "produce.total",
            "fetch.read",
            "turn",
        ];
        assert!(tags.is_sorted_by_key(|tag| place(tag)));
        assert_eq!(place("shard3.fetch.read"), place("fetch.read"));
    }

    #[test]
    fn what_is_no_log_is_refused() {
        for bad in [
            "",
            "nonsense\n",
            "Tag=x,0.1,1.0,2.0,AAAA\n",
            "\"StartTimestamp\"\n1,2,3,!!\n",
        ] {
            assert!(Recording::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
