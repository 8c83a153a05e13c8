//! What can go wrong with the metadata's file and its quorum.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::BrokerId;

/// One line each, with what an operator can do about it.
#[derive(Debug, thiserror::Error)]
pub enum QuorumError {
    #[error("{path} is in use by another process: stop it, or give this broker a metadata.log.dir of its own", path = path.display())]
    Locked { path: PathBuf },
    #[error("{path} is damaged: {reason}; restore it from a copy", path = path.display())]
    Corrupt { path: PathBuf, reason: String },
    #[error("{path} was written by another version ({reason})", path = path.display())]
    Format { path: PathBuf, reason: String },
    #[error("no space left for {path}: make room and start again", path = path.display())]
    DiskFull { path: PathBuf },
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} belongs to node {found}, but node.id is {expected}", path = path.display())]
    OtherNode {
        path: PathBuf,
        expected: BrokerId,
        found: BrokerId,
    },
    #[error("node id {0} is negative")]
    NodeId(BrokerId),
    #[error("the snapshot of the metadata contradicts itself: {0}")]
    Snapshot(String),
    /// The records do not fit the image they would be applied to. Nothing was written.
    #[error("metadata records contradict the image: {0}")]
    Refused(String),
    /// The quorum has stopped: it was shut down, or its file failed earlier and nothing more is written.
    #[error("the metadata quorum has stopped: {0}")]
    Stopped(String),
    #[error("the metadata file is closed")]
    Closed,
}

impl QuorumError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                QuorumError::DiskFull { path }
            }
            // redb says so of a file that is not its own.
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => QuorumError::Corrupt {
                path,
                reason: source.to_string(),
            },
            _ => QuorumError::Io { path, source },
        }
    }

    pub(super) fn from_open(path: &Path, error: redb::DatabaseError) -> Self {
        Self::from_redb(path, error.into())
    }

    pub(super) fn from_redb(path: &Path, error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen => QuorumError::Locked {
                path: path.to_owned(),
            },
            redb::Error::Io(source) => Self::io(path, source),
            redb::Error::UpgradeRequired(version) => QuorumError::Format {
                path: path.to_owned(),
                reason: format!("file format {version}"),
            },
            redb::Error::PreviousIo => {
                QuorumError::Stopped("an earlier write to its file failed".to_owned())
            }
            other => QuorumError::Corrupt {
                path: path.to_owned(),
                reason: other.to_string(),
            },
        }
    }
}
