//! The small text files beside the logs, in Kafka's formats. Pure: text in, values out.
//!
//! An offset checkpoint (`recovery-point-offset-checkpoint`, `log-start-offset-checkpoint`,
//! `replication-offset-checkpoint`, `cleaner-offset-checkpoint`) lies in a data directory:
//!
//! ```text
//! 0                      version
//! 2                      number of entries
//! topic 0 1234           topic, partition, offset; one line each
//! topic 1 99
//! ```
//!
//! `partition.metadata` lies in a partition's folder:
//!
//! ```text
//! version: 0
//! topic_id: vfc0pEqSQFOBX7_BJnzeCg
//! ```

use std::collections::BTreeMap;
use std::fmt;

use crate::base::{Offset, PartitionIndex, Timestamp, TopicId};

/// Below these offsets, logs need no recovery.
pub const RECOVERY_POINT_CHECKPOINT: &str = "recovery-point-offset-checkpoint";
/// The log start offsets that lie within a segment.
pub const LOG_START_OFFSET_CHECKPOINT: &str = "log-start-offset-checkpoint";
/// The high watermarks.
pub const REPLICATION_OFFSET_CHECKPOINT: &str = "replication-offset-checkpoint";

/// Where the last pass of the cleaner ended.
pub const CLEANER_OFFSET_CHECKPOINT: &str = "cleaner-offset-checkpoint";
/// In a partition's folder: the log is whole, and other data directories may have folders of the same name, from or to
/// which it was moved. The one counts whose mark is the latest; see [`encode_moved`].
pub const REPLICA_MOVED: &str = "replica-moved";

/// Offsets by topic and partition.
pub type Offsets = BTreeMap<(String, PartitionIndex), Offset>;

/// What is wrong with a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointError {
    /// Not UTF-8.
    NotText,
    /// A line, numbered from 1, that is not what its place asks for.
    Line { line: usize },
    /// A version other than 0.
    Version { version: i64 },
    /// Another number of entries than the file announces.
    Count { announced: u64, found: u64 },
    /// The last line has no end: what it says may be the beginning of another number.
    Cut,
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotText => f.write_str("is not text"),
            Self::Line { line } => write!(f, "line {line} is malformed"),
            Self::Version { version } => write!(f, "version {version} is unknown"),
            Self::Count { announced, found } => {
                write!(f, "announces {announced} entries and has {found}")
            }
            Self::Cut => f.write_str("ends within a line"),
        }
    }
}

impl std::error::Error for CheckpointError {}

/// Reads an offset checkpoint. An empty file is an empty checkpoint.
pub fn decode_offsets(bytes: &[u8]) -> Result<Offsets, CheckpointError> {
    let text = std::str::from_utf8(bytes).map_err(|_| CheckpointError::NotText)?;
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(CheckpointError::Cut);
    }
    let mut offsets = Offsets::new();
    let mut lines = text.lines().enumerate().map(|(i, line)| (i + 1, line));
    let Some((line, version)) = lines.next() else {
        return Ok(offsets);
    };
    let version: i64 = version
        .trim()
        .parse()
        .map_err(|_| CheckpointError::Line { line })?;
    if version != 0 {
        return Err(CheckpointError::Version { version });
    }
    let announced: u64 = match lines.next() {
        Some((line, count)) => count
            .trim()
            .parse()
            .map_err(|_| CheckpointError::Line { line })?,
        None => return Err(CheckpointError::Line { line: 2 }),
    };
    let mut found = 0;
    for (line, text) in lines {
        if text.trim().is_empty() {
            continue;
        }
        let bad = CheckpointError::Line { line };
        let mut words = text.split_whitespace();
        let (Some(topic), Some(partition), Some(offset), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(bad);
        };
        let (Ok(partition), Ok(offset)) = (partition.parse(), offset.parse()) else {
            return Err(bad);
        };
        offsets.insert(
            (topic.to_owned(), PartitionIndex(partition)),
            Offset(offset),
        );
        found += 1;
    }
    if announced != found {
        return Err(CheckpointError::Count { announced, found });
    }
    Ok(offsets)
}

/// The text of an offset checkpoint.
pub fn encode_offsets<'a>(
    offsets: impl IntoIterator<Item = (&'a str, PartitionIndex, Offset)>,
) -> Vec<u8> {
    use fmt::Write;
    let mut lines = String::new();
    let mut count = 0;
    for (topic, partition, offset) in offsets {
        // Writing into a string does not fail.
        let _ = writeln!(lines, "{topic} {partition} {offset}");
        count += 1;
    }
    format!("0\n{count}\n{lines}").into_bytes()
}

/// Reads a `partition.metadata`: the topic's id, `None` if it says that there is none.
pub fn decode_partition_metadata(bytes: &[u8]) -> Result<Option<TopicId>, CheckpointError> {
    let text = std::str::from_utf8(bytes).map_err(|_| CheckpointError::NotText)?;
    let mut version = None;
    let mut topic_id = None;
    for (i, text) in text.lines().enumerate() {
        if text.trim().is_empty() {
            continue;
        }
        let bad = CheckpointError::Line { line: i + 1 };
        let Some((key, value)) = text.split_once(':') else {
            return Err(bad);
        };
        match key.trim() {
            "version" => version = Some(value.trim().parse::<i64>().map_err(|_| bad)?),
            "topic_id" => topic_id = Some(TopicId::parse(value.trim()).ok_or(bad)?),
            _ => return Err(bad),
        }
    }
    match (version, topic_id) {
        (Some(0), Some(TopicId::ZERO)) => Ok(None),
        (Some(0), Some(id)) => Ok(Some(id)),
        (Some(version), _) if version != 0 => Err(CheckpointError::Version { version }),
        _ => Err(CheckpointError::Line { line: 1 }),
    }
}

/// The text of a `partition.metadata`.
pub fn encode_partition_metadata(topic_id: TopicId) -> Vec<u8> {
    // Kafka ends the file without a line break.
    format!("version: 0\ntopic_id: {topic_id}").into_bytes()
}

/// The content of a [`REPLICA_MOVED`]: when it was written, in milliseconds since the epoch.
pub fn encode_moved(at: Timestamp) -> Vec<u8> {
    format!("{}\n", at.0).into_bytes()
}

/// When a [`REPLICA_MOVED`] was written. One without a time is older than all that have one.
pub fn decode_moved(bytes: &[u8]) -> Timestamp {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    Timestamp(text.trim().parse().unwrap_or(0))
}

/// The content of a clean-shutdown mark. `broker_epoch` is -1 if there is none.
pub fn encode_clean_shutdown(broker_epoch: i64) -> Vec<u8> {
    format!("{{\"version\":0,\"brokerEpoch\":{broker_epoch}}}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_checkpoint_round_trips() {
        let bytes = encode_offsets([
            ("a", PartitionIndex(0), Offset(5)),
            ("b-c", PartitionIndex(12), Offset(1 << 40)),
        ]);
        assert_eq!(bytes, b"0\n2\na 0 5\nb-c 12 1099511627776\n");
        let offsets = decode_offsets(&bytes).unwrap();
        assert_eq!(offsets[&("b-c".to_owned(), PartitionIndex(12))].0, 1 << 40);
        assert_eq!(decode_offsets(b"").unwrap().len(), 0);
        assert_eq!(decode_offsets(b"0\n0\n").unwrap().len(), 0);
    }

    #[test]
    fn malformed_checkpoints_are_errors() {
        for (bytes, error) in [
            (&b"1\n0\n"[..], CheckpointError::Version { version: 1 }),
            (b"0\n", CheckpointError::Line { line: 2 }),
            (
                b"0\n2\na 0 5\n",
                CheckpointError::Count {
                    announced: 2,
                    found: 1,
                },
            ),
            (b"0\n1\na 0\n", CheckpointError::Line { line: 3 }),
            (b"0\n1\na 0 5 6\n", CheckpointError::Line { line: 3 }),
            (b"0\n1\na 0 5", CheckpointError::Cut),
            (b"\xff", CheckpointError::NotText),
        ] {
            assert_eq!(decode_offsets(bytes), Err(error));
        }
    }

    #[test]
    fn the_latest_mark_of_a_move_is_told() {
        let at = |ms| decode_moved(&encode_moved(Timestamp(ms)));
        assert_eq!(at(1_700_000_000_000), Timestamp(1_700_000_000_000));
        assert!(decode_moved(b"") < at(1));
    }

    #[test]
    fn partition_metadata_is_kafkas() {
        let id = TopicId::parse("vfc0pEqSQFOBX7_BJnzeCg").unwrap();
        let bytes = encode_partition_metadata(id);
        assert_eq!(bytes, b"version: 0\ntopic_id: vfc0pEqSQFOBX7_BJnzeCg");
        assert_eq!(decode_partition_metadata(&bytes), Ok(Some(id)));
        assert!(decode_partition_metadata(b"topic_id: vfc0pEqSQFOBX7_BJnzeCg").is_err());
        assert!(decode_partition_metadata(b"version: 0\n").is_err());
    }
}
