//! What can go wrong with a log.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::base::Offset;

/// What was being done to a file when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Open,
    List,
    Read,
    Write,
    Truncate,
    Sync,
    Rename,
    Remove,
    Checkpoint,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::List => "list",
            Self::Read => "read",
            Self::Write => "write",
            Self::Truncate => "truncate",
            Self::Sync => "sync",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::Checkpoint => "write checkpoint",
        })
    }
}

/// A call to the file system that failed. Cheap to clone: it is told to everyone who waits.
#[derive(Clone, Debug)]
pub struct Failure {
    pub operation: Operation,
    /// The file or directory.
    pub path: Arc<str>,
    pub error: Arc<io::Error>,
}

impl Failure {
    pub(crate) fn new(operation: Operation, path: &std::path::Path, error: io::Error) -> Self {
        Self {
            operation,
            path: path.to_string_lossy().into(),
            error: Arc::new(error),
        }
    }

    /// The disk, or the owner's share of it, is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(
            self.error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.operation, self.path, self.error)
    }
}

/// Why an operation of a log was not done.
#[derive(Clone, Debug)]
pub enum LogError {
    /// The log is offline since this failure, which may be the one of this very call. Nothing is
    /// retried: only opening the log again, with recovery, brings it back.
    Offline(Failure),
    /// A read of one call failed. The log goes on.
    Io(Failure),
    /// The offset lies outside the log.
    OffsetOutOfRange {
        offset: Offset,
        log_start_offset: Offset,
        log_end_offset: Offset,
    },
    /// Bytes that were checked when they were appended are not a batch any more.
    Corrupt {
        /// The file.
        path: Arc<str>,
        /// Bytes from its start.
        position: u64,
    },
    /// The batch is larger than `segment.bytes`.
    BatchTooLarge { size_bytes: u64, limit_bytes: u64 },
    /// A batch that came with its offsets does not continue the log.
    OffsetsOutOfOrder {
        base_offset: Offset,
        log_end_offset: Offset,
    },
    /// The log was closed, or its partition deleted.
    Closed,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Offline(failure) => write!(f, "log is offline: {failure}"),
            Self::Io(failure) => failure.fmt(f),
            Self::OffsetOutOfRange {
                offset,
                log_start_offset,
                log_end_offset,
            } => write!(
                f,
                "offset {offset} is outside {log_start_offset} to {log_end_offset}"
            ),
            Self::Corrupt { path, position } => {
                write!(f, "{path}: no batch at position {position}")
            }
            Self::BatchTooLarge {
                size_bytes,
                limit_bytes,
            } => write!(
                f,
                "batch of {size_bytes} bytes is larger than a segment of {limit_bytes}"
            ),
            Self::OffsetsOutOfOrder {
                base_offset,
                log_end_offset,
            } => write!(
                f,
                "batch at offset {base_offset} does not follow log end offset {log_end_offset}"
            ),
            Self::Closed => f.write_str("log is closed"),
        }
    }
}

impl std::error::Error for LogError {}
