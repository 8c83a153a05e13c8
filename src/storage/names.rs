//! Names of the files of a log and of the folders of a data directory, as Kafka has them.

use std::fmt;

use crate::base::{Offset, PartitionIndex};

pub const LOG_SUFFIX: &str = ".log";
pub const INDEX_SUFFIX: &str = ".index";
pub const TIME_INDEX_SUFFIX: &str = ".timeindex";
pub const TXN_INDEX_SUFFIX: &str = ".txnindex";
pub const SNAPSHOT_SUFFIX: &str = ".snapshot";
pub const DELETED_SUFFIX: &str = ".deleted";
pub const CLEANED_SUFFIX: &str = ".cleaned";
pub const SWAP_SUFFIX: &str = ".swap";
pub const PARTITION_METADATA: &str = "partition.metadata";
/// Present while the process is stopped and was stopped cleanly.
pub const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";

/// Longest name of a topic (Kafka's limit).
const MAX_TOPIC_NAME: usize = 249;
/// Longest name of a file.
const MAX_FILE_NAME: usize = 255;

/// What a file in a partition's folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Log,
    Index,
    TimeIndex,
    TxnIndex,
    /// Of the producers, at the offset in its name.
    Snapshot,
}

impl FileKind {
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Log => LOG_SUFFIX,
            Self::Index => INDEX_SUFFIX,
            Self::TimeIndex => TIME_INDEX_SUFFIX,
            Self::TxnIndex => TXN_INDEX_SUFFIX,
            Self::Snapshot => SNAPSHOT_SUFFIX,
        }
    }
}

/// `00000000000000012345.log` for offset 12345.
pub fn file_name(base_offset: Offset, kind: FileKind) -> String {
    format!("{:020}{}", base_offset.0, kind.suffix())
}

/// The offset and kind of a file of a segment; `None` for every other name.
pub fn parse_file_name(name: &str) -> Option<(Offset, FileKind)> {
    let (digits, suffix) = name.split_at_checked(20)?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let offset = digits.parse().ok()?;
    let kind = match suffix {
        LOG_SUFFIX => FileKind::Log,
        INDEX_SUFFIX => FileKind::Index,
        TIME_INDEX_SUFFIX => FileKind::TimeIndex,
        TXN_INDEX_SUFFIX => FileKind::TxnIndex,
        SNAPSHOT_SUFFIX => FileKind::Snapshot,
        _ => return None,
    };
    Some((Offset(offset), kind))
}

/// What a folder of a data directory is, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Folder {
    /// A partition that is served.
    Partition {
        topic: String,
        partition: PartitionIndex,
    },
    /// A partition that was deleted; what is left of it may be removed.
    Deleted,
    /// Kafka's metadata log, strays and moving replicas: not ours to touch.
    LeftAlone,
    /// No partition.
    Other,
}

/// Kafka's metadata log.
const CLUSTER_METADATA: &str = "__cluster_metadata-0";

/// Reads the name of a folder of a data directory.
pub fn parse_folder(name: &str) -> Folder {
    if name == CLUSTER_METADATA {
        return Folder::LeftAlone;
    }
    // `TOPIC-PARTITION.<32 hex digits>-delete`: see `with_state`.
    for (suffix, is_delete) in [("-delete", true), ("-future", false), ("-stray", false)] {
        if let Some(rest) = name.strip_suffix(suffix)
            && let Some((front, unique)) = rest.rsplit_once('.')
            && unique.len() == 32
            && unique.bytes().all(|b| b.is_ascii_hexdigit())
            && front.contains('-')
        {
            return if is_delete {
                Folder::Deleted
            } else {
                Folder::LeftAlone
            };
        }
    }
    match name.rsplit_once('-') {
        Some((topic, digits))
            if is_topic_name(topic)
                && !digits.is_empty()
                && digits.bytes().all(|b| b.is_ascii_digit())
                // One spelling for each number, or two folders would be one partition.
                && (digits == "0" || !digits.starts_with('0')) =>
        {
            match digits.parse() {
                Ok(partition) => Folder::Partition {
                    topic: topic.to_owned(),
                    partition: PartitionIndex(partition),
                },
                Err(_) => Folder::Other,
            }
        }
        _ => Folder::Other,
    }
}

fn is_topic_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_TOPIC_NAME
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The folder of a partition.
pub fn folder_name(topic: &str, partition: PartitionIndex) -> String {
    format!("{topic}-{partition}")
}

/// The folder of a partition that is being deleted. `unique` keeps apart two deletions of one name; a
/// long topic name is shortened so that the result is a legal file name.
///
/// The 32 digits are a UUID of version 8, where Kafka's are of version 4: see [`is_ours`].
pub fn deleted_folder_name(topic: &str, partition: PartitionIndex, unique: u128) -> String {
    let unique = unique & !(0xf << 76) | 8 << 76;
    let suffix = format!("-{partition}.{unique:032x}-delete");
    let room = MAX_FILE_NAME - suffix.len();
    let topic = topic.get(..room).unwrap_or(topic);
    format!("{topic}{suffix}")
}

/// The folder of a log that is being filled to take the place of one in another data directory, as
/// [`deleted_folder_name`].
pub fn future_folder_name(topic: &str, partition: PartitionIndex, unique: u128) -> String {
    let deleted = deleted_folder_name(topic, partition, unique);
    let front = deleted.strip_suffix("-delete").unwrap_or(&deleted);
    format!("{front}-future")
}

/// The partition's folder that a [`future_folder_name`] of ours stands for.
pub fn future_of(name: &str) -> Option<&str> {
    let (front, _) = name.strip_suffix("-future")?.rsplit_once('.')?;
    is_ours(name).then_some(front)
}

/// Whether a [`Folder::Deleted`] was named by [`deleted_folder_name`] and not by another broker.
pub fn is_ours(deleted: &str) -> bool {
    let digits = deleted.rsplit_once('.').map_or("", |(_, unique)| unique);
    digits.as_bytes().get(12) == Some(&b'8')
}

/// A file of a segment that the cleaner writes anew: the log's `generation`-th.
pub fn cleaned_file_name(base_offset: Offset, kind: FileKind, generation: u64) -> String {
    format!(
        "{}.{generation}{CLEANED_SUFFIX}",
        file_name(base_offset, kind)
    )
}

/// The bytes of a damaged log that were cut off at `time`, kept beside it.
pub fn cut_file_name(base_offset: Offset, time: impl fmt::Display) -> String {
    format!("{}.cut-{time}", file_name(base_offset, FileKind::Log))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_segment_files_are_kafkas() {
        assert_eq!(
            file_name(Offset(12345), FileKind::TimeIndex),
            "00000000000000012345.timeindex"
        );
        assert_eq!(
            parse_file_name("00000000000000012345.log"),
            Some((Offset(12345), FileKind::Log))
        );
        for other in [
            "12345.log",
            "00000000000000012345.log.deleted",
            "99999999999999999999.log",
            "0000000000000001234x.log",
            "leader-epoch-checkpoint",
            "\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}.log",
        ] {
            assert_eq!(parse_file_name(other), None, "{other}");
        }
    }

    #[test]
    fn folders_are_told_apart_by_name() {
        let partition = |topic: &str, partition| Folder::Partition {
            topic: topic.into(),
            partition: PartitionIndex(partition),
        };
        assert_eq!(parse_folder("a-b-3"), partition("a-b", 3));
        assert_eq!(parse_folder("t-0"), partition("t", 0));
        assert_eq!(
            parse_folder("__consumer_offsets-49"),
            partition("__consumer_offsets", 49)
        );
        assert_eq!(parse_folder("__cluster_metadata-0"), Folder::LeftAlone);
        let deleted = deleted_folder_name("my-topic", PartitionIndex(7), 0xabc);
        assert_eq!(
            deleted,
            "my-topic-7.00000000000080000000000000000abc-delete"
        );
        assert_eq!(parse_folder(&deleted), Folder::Deleted);
        assert!(is_ours(&deleted));
        assert!(!is_ours("t-0.9b2cf2f0a3a14d2d8c1f1be5e1c1f5aa-delete"));
        assert_eq!(
            parse_folder("t-0.00000000000000000000000000000abc-stray"),
            Folder::LeftAlone
        );
        for other in [
            "lost+found",
            "t",
            "t-",
            "-1",
            "t-01",
            "t--1x",
            "t-4294967296",
            "a b-0",
        ] {
            assert_eq!(parse_folder(other), Folder::Other, "{other}");
        }
        let long = deleted_folder_name(&"x".repeat(249), PartitionIndex(12), 1);
        assert_eq!(long.len(), 255);
        assert_eq!(parse_folder(&long), Folder::Deleted);
    }
}
