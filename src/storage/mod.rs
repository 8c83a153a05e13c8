//! The log on disk, byte-compatible with Apache Kafka's.
//!
//! A partition is a folder `TOPIC-PARTITION` under a data directory. `Log` is one of them: it
//! is opened (and recovered), appended to in two steps, read by ranges of its files, flushed, cut and
//! aged. Everything it does to a disk goes through [`Disk`] and [`LogFile`]; time is an argument; it never
//! spawns, sleeps or sends, so the futures here wait for the disk and for nothing else.
//!
//! # The walk
//! All methods take `&self`; a shard shares a log as `Rc<Log<D>>`.
//!
//! ```text
//! Log::create(disk, dir, settings, topic_id, start_offset, OpenOptions).await -> Log
//! Log::open(disk, dir, settings, OpenOptions).await -> (Log, OpenReport)     recovers unless stopped cleanly
//! log.stage(BytesMut, &BatchHeader, origin, ..) -> Staged                    offsets assigned, not yet visible
//! log.write_staged(now).await -> Written             one write for all that was staged; log_end_offset moves
//! log.prepare().await                                when `Written::prepare` says so, in the background
//! log.read(start, max_bytes, upper_offset, min_one_batch).await -> ReadOut   ranges of files
//! log.offset_for_timestamp(timestamp, scratch).await  log.max_timestamp(scratch).await -> TimestampOffset
//! log.aborted_transactions(from, upper_bound).await
//! log.flush().await -> Offset                        all below survives a power cut (group commit)
//! log.flush_closed().await -> Offset                 the same for closed segments, after `Written::rolled`
//! log.delete_records(..)  log.delete_old_segments(now, high_watermark).await
//! log.cleanable(last_stable, now).await  log.clean(..).await -> Pass        the last record of each key stays
//! log.lower_recovery_point(offset) -> Lowered         before the log is cut; then the checkpoint is written
//! log.truncate_to(lowered, now).await  log.truncate_fully_and_start_at(lowered, now).await
//! log.open_files()  log.close_files().await  log.close(now).await  log.rename_deleted(path).await
//! log_dir::{take_clean_shutdown_mark, scan, write_offsets, write_clean_shutdown_mark, ..}  a data directory
//! ```
//!
//! # What is checked when
//! A disk may give back other bytes than it was given. As in Apache Kafka, not every read is checked:
//!
//! | file | at an open after a clean stop | at any other open | in service |
//! |---|---|---|---|
//! | `.log` | lengths, offsets and magics from the last index entry of the active segment on | CRC of all from the recovery point on | fetches: lengths and magics of the headers that are passed (`Corrupt`); the CRC is the client's to check, whom the bytes reach without a copy. The cleaner: CRC and every record |
//! | `.index`, `.timeindex` | length, and the last entry's plausibility; made anew where that fails | made anew from the recovery point on | each entry that is used is held against the batch that it names; one that lies is not used |
//! | `.txnindex` | length; made anew where it ends within an entry | made anew from the recovery point on | version and order of the entries (`Corrupt`) |
//! | `.snapshot` | CRC; an older one and the log take its place | the same | the cleaner: CRC of the one that it relies on |
//! | `leader-epoch-checkpoint` | its form, to the end of the last line; gathered from the log where that fails | the same, and made anew from the recovery point on | |
//! | checkpoints of the data directory | their form, to the end of the last line; empty where that fails, so that all is recovered. A log start behind the log's end is left aside | their form | |
//!
//! What is found wrong is in the [`OpenReport`]. Text files and `.txnindex` have no CRC: another digit in one is taken
//! for what was written. Nor are a batch's base offset and leader epoch part of what its CRC is of: they must
//! ascend, and that is all.

mod allocation;
pub mod checkpoint;
pub mod cleaner;
pub mod direct;
pub mod disk;
pub mod epoch_cache;
pub mod error;
mod gate;
mod head;
mod index;
pub mod log;
pub mod log_dir;
mod maintenance;
pub mod memory;
pub mod names;
mod next_segment;
mod open_files;
pub mod page_cache;
pub mod producer_snapshot;
pub mod producer_state;
mod read;
mod recovery;
mod removal;
mod retention;
mod scan;
mod segment;
mod state;
#[cfg(test)]
mod tests;
mod timestamps;
pub mod txn_index;

pub use allocation::AllocationBudget;
pub use direct::{DirectLimits, LogDisk, probe_direct};
pub use disk::{DirEntry, Disk, Inline, Loan, LogFile, LogSlice, Offload, OpenMode};
pub use error::{Failure, LogError, Operation};
pub use log::{AppendError, Log, Staged, Written};
pub use memory::MemoryDisk;
pub use page_cache::PageCache;
pub use producer_state::AppendOrigin;
pub use read::ReadOut;
pub use recovery::{Damage, OpenOptions, OpenReport};
pub use removal::remove_folder_now;
pub use retention::{Deleted, Lowered};
pub use timestamps::TimestampOffset;
