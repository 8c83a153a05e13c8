//! Why a node does not start: one line that says what is wrong and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::base::BrokerId;
use crate::base::settings::SettingError;

/// Why the node does not start. Each prints as one line with the remedy.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("{0}")]
    Settings(#[from] SettingError),
    /// A setting, or a limit of the process, that does not work here.
    #[error("{name}: {why}; {remedy}")]
    Setting {
        name: &'static str,
        why: String,
        remedy: String,
    },
    /// The machine lacks something.
    #[error("{what}: {error}; {remedy}")]
    Probe {
        what: String,
        error: io::Error,
        remedy: String,
    },
    #[error("{path} {what}: {error}; {remedy}", path = .path.display())]
    Directory {
        path: PathBuf,
        what: &'static str,
        error: io::Error,
        remedy: &'static str,
    },
    #[error("{path}: the disk is full ({free} free): {error}; free some space or name another directory in log.dirs",
        path = .path.display(), free = size(*.free_bytes))]
    DiskFull {
        path: PathBuf,
        free_bytes: u64,
        error: io::Error,
    },
    #[error("{path} is in use by {holder}; stop that one, or give this node a directory of its own in log.dirs",
        path = .path.display(),
        holder = .holder.map_or("another process".into(), |pid| format!("process {pid}")))]
    Locked {
        path: PathBuf,
        /// The process that wrote its number into the lock file; Apache Kafka writes none.
        holder: Option<u32>,
    },
    #[error("{path} cannot be understood: {why}; repair it, or restore it from a copy of the directory", path = .path.display())]
    MetaProperties { path: PathBuf, why: String },
    #[error("{directory} belongs to node {owner}, and node.id={wanted} is set; set node.id={owner}, or name another directory in log.dirs",
        directory = .directory.display())]
    OtherNode {
        directory: PathBuf,
        owner: BrokerId,
        wanted: BrokerId,
    },
    #[error("{first} belongs to {what} {first_id} and {second} to {what} {second_id}; name only directories of one {what} in log.dirs",
        first = .first.display(), second = .second.display())]
    Disagree {
        what: &'static str,
        first: PathBuf,
        first_id: String,
        second: PathBuf,
        second_id: String,
    },
    #[error("{first} and {second} have the same directory.id, so one is a copy of the other; remove one of them from log.dirs",
        first = .first.display(), second = .second.display())]
    CopiedDirectory { first: PathBuf, second: PathBuf },
    #[error("{first} and {second} in log.dirs are the same directory; name it once",
        first = .first.display(), second = .second.display())]
    SameDirectory { first: PathBuf, second: PathBuf },
    #[error("{path}: the cluster of Apache Kafka whose metadata this is cannot be taken over: {why}; nothing was changed. \
             Start Apache Kafka there, put it right and stop it cleanly; or move that away, and its topics are taken over \
             without their settings, keeping everything", path = .path.display())]
    TakeOver { path: PathBuf, why: String },
    #[error("{setting}: {address} cannot be opened: {error}; {remedy}")]
    Bind {
        setting: &'static str,
        address: String,
        error: io::Error,
        remedy: &'static str,
    },
    /// What none of the above says, as a whole line with its remedy.
    #[error("{0}")]
    Other(String),
}

impl StartError {
    /// An error on a data directory, with the remedy that its kind suggests.
    pub fn directory(path: &Path, what: &'static str, error: io::Error) -> Self {
        use io::ErrorKind::{
            AlreadyExists, NotADirectory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem,
            StorageFull,
        };
        let remedy = match error.kind() {
            StorageFull | QuotaExceeded => {
                return StartError::DiskFull {
                    path: path.into(),
                    free_bytes: rustix::fs::statvfs(path)
                        .map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize)),
                    error,
                };
            }
            PermissionDenied => {
                "give the user that runs ringspun the right to write there, or name another directory in log.dirs"
            }
            ReadOnlyFilesystem => "mount it for writing, or name another directory in log.dirs",
            NotADirectory | AlreadyExists => {
                "a file is in the way: remove it, or name another directory in log.dirs"
            }
            _ => "name a directory in log.dirs that can be created and written",
        };
        StartError::Directory {
            path: path.into(),
            what,
            error,
            remedy,
        }
    }

    /// Whether it is about one data directory alone, which the others can do without: neither an
    /// identity that contradicts, nor a process that runs, nor a disk that is merely full.
    pub(super) fn is_of_one_directory(&self) -> bool {
        match self {
            StartError::Directory { .. } | StartError::MetaProperties { .. } => true,
            StartError::Settings(_)
            | StartError::Setting { .. }
            | StartError::Probe { .. }
            | StartError::DiskFull { .. }
            | StartError::Locked { .. }
            | StartError::OtherNode { .. }
            | StartError::Disagree { .. }
            | StartError::CopiedDirectory { .. }
            | StartError::SameDirectory { .. }
            | StartError::TakeOver { .. }
            | StartError::Bind { .. }
            | StartError::Other(_) => false,
        }
    }

    /// An error of opening a port. `setting` names where the address comes from.
    pub fn bind(setting: &'static str, address: impl fmt::Display, error: io::Error) -> Self {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another program listens there (`ss -ltnp` shows which): stop it, or choose another port"
            }
            io::ErrorKind::AddrNotAvailable => {
                "it is no address of this machine (`ip address` shows them)"
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need CAP_NET_BIND_SERVICE: choose another port"
            }
            _ => "choose an address of this machine and a free port",
        };
        StartError::Bind {
            setting,
            address: address.to_string(),
            error,
            remedy,
        }
    }

    /// The error as it goes to the operator: one line, whatever the texts within contain.
    pub fn line(&self) -> String {
        one_line(&self.to_string())
    }
}

/// Joins lines, so that a message stays one.
pub fn one_line(text: &str) -> String {
    let parts: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    parts.join(" ")
}

/// Bytes as people read them: `24 MiB`, `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    let (unit, name) = match bytes {
        b if b >= 1 << 40 => (1u64 << 40, "TiB"),
        b if b >= 1 << 30 => (1 << 30, "GiB"),
        b if b >= 1 << 20 => (1 << 20, "MiB"),
        b if b >= 1 << 10 => (1 << 10, "KiB"),
        b => return format!("{b} B"),
    };
    if bytes.is_multiple_of(unit) {
        format!("{} {name}", bytes / unit)
    } else {
        format!("{:.1} {name}", bytes as f64 / unit as f64)
    }
}
