//! Going over the batches of a segment, and making its indexes anew.

use std::io;

use bytes::BytesMut;

use super::Loader;
use crate::base::LeaderEpoch;
use crate::storage::disk::Disk;
use crate::storage::error::{Failure, LogError, Operation};
use crate::storage::head::Head;
use crate::storage::maintenance::write_whole;
use crate::storage::names::FileKind;
use crate::storage::scan::{CheckedScan, Scanned};
use crate::storage::segment::Segment;

/// A segment whose batches were all looked at.
pub(super) struct Rebuilt<F> {
    pub(super) segment: Segment<F>,
    pub(super) head: Head,
    pub(super) next_offset: i64,
    /// Bytes that are batches; the file may have more.
    pub(super) valid: u64,
    /// Bytes up to the last one that is not zero, at least `valid`: behind it is what was filled ahead.
    pub(super) content: u64,
    /// Bytes of batches whose CRC was looked at.
    pub(super) checked: u64,
    /// A valid batch lies behind them.
    pub(super) is_damage: bool,
}

/// What a walk over the batches of a segment has come to.
struct Walked<F> {
    scan: CheckedScan<F>,
    head: Head,
    index: BytesMut,
    time_index: BytesMut,
    /// One past the last offset of the last batch.
    end: i64,
    /// It is not the end of the file that ended the walk.
    is_bad: bool,
}

impl<D: Disk> Loader<'_, D> {
    /// Walks over the batches of a segment, of which those below `flushed_to` are only looked at as
    /// [`CheckedScan::trusting_to`] says. Behind `gaps_to` each begins where the one before ends: the offset of a batch
    /// is not among what its CRC is of, and a torn write may have met that of one that was cut off long ago.
    async fn walk(
        &self,
        base_offset: i64,
        file: D::File,
        len: u64,
        next_offset: i64,
        flushed_to: i64,
        gaps_to: i64,
    ) -> io::Result<Walked<D::File>> {
        let mut head = Head::new(base_offset, self.now.0);
        let mut index = BytesMut::new();
        let mut time_index = BytesMut::new();
        let mut scan = CheckedScan::new(file, len, next_offset).trusting_to(flushed_to);
        let mut end = next_offset;
        let mut is_bad = false;
        let mut epoch = LeaderEpoch::NONE;
        loop {
            match scan.next().await? {
                // A batch of an older leader behind one of a newer was cut off once, and came back.
                Scanned::Batch { header }
                    if header.last_offset().0 - base_offset <= i64::from(i32::MAX)
                        && header.base_offset.0 <= end.max(gaps_to)
                        && (header.partition_leader_epoch >= epoch
                            || header.partition_leader_epoch == LeaderEpoch::NONE) =>
                {
                    epoch = epoch.max(header.partition_leader_epoch);
                    end = header.next_offset().0;
                    let (offset, time) = head.add(
                        self.settings.index_interval_bytes,
                        header.size_in_bytes() as u64,
                        header.last_offset().0,
                        header.max_timestamp.0,
                    );
                    if let Some(entry) = offset {
                        index.extend_from_slice(&entry.encode());
                    }
                    if let Some(entry) = time {
                        time_index.extend_from_slice(&entry.encode());
                    }
                }
                Scanned::End => break,
                Scanned::Bad | Scanned::Batch { .. } => {
                    (scan.position, scan.next_offset) = (head.size, end);
                    is_bad = true;
                    break;
                }
            }
        }
        if let Some(entry) = head.time_entry() {
            time_index.extend_from_slice(&entry.encode());
        }
        Ok(Walked {
            scan,
            head,
            index,
            time_index,
            end,
            is_bad,
        })
    }

    /// Checks every batch of a segment from `flushed_to` on, and writes its indexes anew. `is_trusted` says that the
    /// next start may not look at the segment.
    pub(super) async fn rebuild(
        &self,
        base_offset: i64,
        file: D::File,
        len: u64,
        next_offset: i64,
        flushed_to: i64,
        gaps_to: i64,
        is_trusted: bool,
    ) -> Result<Rebuilt<D::File>, LogError> {
        let read = |error| {
            LogError::Io(Failure::new(
                Operation::Read,
                &self.path(base_offset, FileKind::Log),
                error,
            ))
        };
        let walk = self.walk(
            base_offset,
            file.clone(),
            len,
            next_offset,
            flushed_to,
            gaps_to,
        );
        let mut walked = walk.await.map_err(read)?;
        if walked.end < flushed_to {
            // What was flushed is not all there: nothing is taken on trust.
            let walk = self.walk(base_offset, file, len, next_offset, 0, gaps_to);
            walked = walk.await.map_err(read)?;
        }
        let Walked {
            mut scan,
            head,
            index,
            time_index,
            end,
            is_bad,
        } = walked;
        let mut segment = Segment::new(base_offset, self.now.0);
        let valid = head.size;
        let checked = scan.checked_bytes;
        let is_damage = is_bad && scan.valid_batch_follows().await.map_err(read)?;
        let content = match is_damage {
            true => len,
            false => scan.content_end.max(valid),
        };
        segment.size = u32::try_from(valid).map_err(|_| LogError::Corrupt {
            path: self
                .path(base_offset, FileKind::Log)
                .to_string_lossy()
                .into(),
            position: valid,
        })?;
        segment.max_timestamp = head.max_timestamp;
        segment.max_timestamp_offset = head.max_timestamp_offset;
        // Where the log ends below the checkpoint, a power cut may bring back what was cut off, or removed, behind it.
        let is_trusted = is_trusted || end < flushed_to;
        for (kind, content) in [
            (FileKind::Index, &index),
            (FileKind::TimeIndex, &time_index),
        ] {
            let path = self.path(base_offset, kind);
            let written = match is_trusted {
                // Or a power cut would leave half of it, which the next start takes for whole.
                true => self.disk.replace_file(&path, content).await,
                false => write_whole(self.disk, &path, content.to_vec(), false).await,
            };
            self.io(Operation::Write, base_offset, kind, written)?;
        }
        segment.index_entries = (index.len() / 8) as u32;
        segment.time_entries = (time_index.len() / 12) as u32;
        let next_offset = if valid == 0 { base_offset } else { end };
        Ok(Rebuilt {
            segment,
            head,
            next_offset,
            valid,
            content,
            checked,
            is_damage,
        })
    }
}
