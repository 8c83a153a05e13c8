//! The cleaner: a compacted log keeps the last record of each key (KIP-58, 98, 354, 534).
//!
//! A pass over a log:
//! 1. [`Log::cleanable`] tells what part of it is dirty: all behind the last pass, before the active segment,
//!    the last stable offset, what is not on the device yet, and what is younger than
//!    `min.compaction.lag.ms`.
//! 2. The producers' state behind it is put on the device: markers that go are needed to make it from an
//!    older one. The keys of the dirty part go into a map of a fixed size. If they do not fit, the pass ends where the
//!    map was full, and the next one goes on there.
//! 3. Every segment up to there is written anew, batch by batch ([`filter`]), small ones together into one,
//!    into staging files `<base>.log.<generation>.cleaned` (and `.index`, `.timeindex`, `.txnindex`), which
//!    are synced. Nothing else in the log is touched, and appends, reads and retention go on.
//! 4. The swap, with nobody else changing closed segments: if the sources are still as they were, the files
//!    are renamed to `.swap`, the `.log` last, and the folder is synced. From here on the new segment counts,
//!    whatever happens: opening the log completes the swap. In memory the segments are replaced at once.
//! 5. The other sources and the old indexes are removed, the folder is synced, and the files get their names.
//!
//! A crash before 4 leaves staging files, which go when the log is opened. Groups are swapped in the order of
//! the log, each on the disk before the next, so that an old value never outlives the tombstone that
//! removed it. Offsets never change.
//!
//! Storage neither sleeps nor spawns: where a pass lets others run, and waits for the limit of I/O, is
//! the caller's [`Pace`].

mod filter;
mod offset_map;
mod pass;
mod range;
mod reader;
mod records;
mod staging;
mod swap;
mod transactions;

use std::fmt;
use std::future::Future;

pub use pass::Pass;
pub use range::Cleanable;

use super::error::LogError;
use crate::records::Scratch;

/// How a pass shares its core and its disk.
pub trait Pace {
    /// So many bytes were read or written. Waits as long as the limit of I/O asks for.
    fn moved(&self, bytes: usize) -> impl Future<Output = ()>;
    /// Work was done that takes as long as looking at so many bytes. Lets others run now and then.
    fn worked(&self, bytes: usize) -> impl Future<Output = ()>;
    /// The pass is to end where it is.
    fn is_stopped(&self) -> bool;
}

/// How much memory a pass may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of the map of keys: `log.cleaner.dedupe.buffer.size`.
    pub map_bytes: u64,
    /// Share of it that is filled: `log.cleaner.io.buffer.load.factor`.
    pub load_factor: f64,
    /// Of one read, and of one write: half of `log.cleaner.io.buffer.size`. A batch that is larger comes
    /// whole.
    pub io_bytes: usize,
}

/// What is kept from one pass to the next. One per shard.
#[derive(Default)]
pub struct Cleaner {
    scratch: Scratch,
}

/// Why a pass did not come to its end. What it has swapped until then stays.
#[derive(Clone, Debug)]
pub enum CleanError {
    /// The log was cut, or segments went, while they were read; or the pass was told to stop. Another pass
    /// may do better.
    Aborted,
    /// The log cannot be cleaned: what is in it is not what was appended.
    Corrupt { path: String, position: u64 },
    /// A call to the disk failed; the log may be offline by this.
    Log(LogError),
}

impl fmt::Display for CleanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aborted => f.write_str("given up, since the log changed"),
            Self::Corrupt { path, position } => {
                write!(f, "{path}: no right batch at position {position}")
            }
            Self::Log(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CleanError {}

impl From<LogError> for CleanError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}
