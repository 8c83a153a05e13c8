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
//! Log::open(disk, dir, Arc<LogConfig>, OpenOptions { clean, recovery_point, log_start_offset, now, .. })
//!         .await -> Result<(Log, OpenReport { damage, truncated, .. }), LogError>
//! log.stage(BytesMut, &BatchHeader, leader_epoch, log_append_time, now)   assigns offsets, not yet visible
//!         -> Result<Staged { base_offset, last_offset, duplicate, log_append_time, .. }, AppendError>
//! log.write_staged(now).await -> Result<Written { log_end_offset, bytes, rolled, prepare }, LogError>
//!         one pwritev for all that was staged; then log_end_offset moves
//! log.prepare().await                        next segment, preallocation; off the hot path, when `prepare` is set
//! log.read(start, max_bytes, upper_offset, min_one_batch).await -> Result<ReadOut { slice, .. }, LogError>
//! log.offset_for_timestamp(timestamp).await  log.max_timestamp().await
//! log.flush().await -> Result<Offset, LogError>      everything below is on the device (group commit: one at a time)
//! log.log_start_offset()  log_end_offset()  staged_end_offset()  recovery_point()  size_bytes()
//! log.delete_records(offset)  log.delete_old_segments(now, high_watermark).await
//! log.truncate_to(offset).await  log.truncate_fully_and_start_at(offset).await
//! log.end_offset_for_epoch(epoch)  log.set_config(Arc<LogConfig>)  log.close(now).await
//! ```

pub mod disk;
pub mod epoch_cache;
pub mod error;
pub mod producer_snapshot;
pub mod producer_state;
pub mod txn_index;

pub use disk::{DirEntry, Disk, Inline, LogFile, LogSlice, Offload, OpenMode};
pub use error::{Failure, LogError, Operation};
