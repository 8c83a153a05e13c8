//! Reads the metadata that Apache Kafka left in a data directory. Changes nothing.
//!
//! What the bytes mean is [`kraft`](crate::metadata::kraft)'s affair; here are the files: which segments and
//! snapshots there are, and whether what cannot be read at the end of the last segment is a write that a
//! crash cut off. Kafka truncates that (nobody was told of it), and so it is passed over here, with a
//! line; after a clean stop, before the last segment, or with a whole batch behind it, it is damage, and
//! the start is refused.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::base::Offset;
use crate::metadata::kraft::{Cluster, KraftError};
use crate::records::{BATCH_HEADER_SIZE, BatchError, BatchHeader, verify_crc};
use crate::server::error::StartError;
use crate::storage::names::{FileKind, parse_file_name};

/// The folder of the metadata log.
pub const FOLDER: &str = "__cluster_metadata-0";

const SNAPSHOT_SUFFIX: &str = ".checkpoint";
/// Digits of a snapshot's end offset and epoch in its name.
const OFFSET_DIGITS: usize = 20;
const EPOCH_DIGITS: usize = 10;

/// A batch of the metadata log is at most 8 MiB large; more is damage.
const BATCH_BYTES_MAX: usize = 64 << 20;
/// How far a whole batch is looked for behind one that cannot be read.
const SEARCH_BYTES: usize = 16 << 20;

/// A batch that cannot be used: where, and why.
struct Bad {
    position: u64,
    why: KraftError,
}

/// The metadata in one of `dirs`, the data directories; none where there is no log of it. `clean`: the last
/// stop of Kafka was.
pub fn read<'a>(
    dirs: impl Iterator<Item = &'a Path>,
    clean: bool,
) -> Result<Option<(PathBuf, Cluster)>, StartError> {
    let mut found: Option<(PathBuf, Files)> = None;
    for dir in dirs {
        let folder = dir.join(FOLDER);
        let files = Files::list(&folder)
            .map_err(|error| StartError::directory(&folder, "cannot be read", error))?;
        if files.segments.is_empty() && files.snapshot.is_none() {
            continue;
        }
        if let Some((first, _)) = &found {
            return Err(StartError::TakeOver {
                path: folder,
                why: format!("there is another metadata log in {}", first.display()),
            });
        }
        found = Some((folder, files));
    }
    let Some((folder, files)) = found else {
        return Ok(None);
    };
    let cluster = files.read(&folder, clean)?;
    Ok(Some((folder, cluster)))
}

/// The files of a metadata log that count.
#[derive(Default)]
struct Files {
    /// In the order of their offsets.
    segments: Vec<(Offset, PathBuf)>,
    /// The latest, with its end offset.
    snapshot: Option<(Offset, PathBuf)>,
}

impl Files {
    fn list(folder: &Path) -> io::Result<Files> {
        let mut files = Files::default();
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
            Err(error) => return Err(error),
        };
        let mut snapshots = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if let Some(id) = parse_snapshot(&name) {
                snapshots.push((id, entry.path()));
            } else if let Some((base, FileKind::Log)) = parse_file_name(&name) {
                files.segments.push((base, entry.path()));
            }
        }
        files.segments.sort();
        let latest = snapshots.into_iter().max();
        files.snapshot = latest.map(|((end, _), path)| (end, path));
        Ok(files)
    }

    fn read(&self, folder: &Path, clean: bool) -> Result<Cluster, StartError> {
        let refused = |path: &Path, why: String| StartError::TakeOver {
            path: path.into(),
            why,
        };
        let mut cluster = Cluster::default();
        if let Some((end, path)) = &self.snapshot {
            let walked = walk(path, |batch| cluster.apply_snapshot_batch(batch));
            let bad =
                walked.map_err(|error| StartError::directory(path, "cannot be read", error))?;
            if let Some(Bad { position, why }) = bad {
                return Err(refused(path, format!("at byte {position}: {why}")));
            }
            let ended = cluster.end_snapshot(*end);
            ended.map_err(|why| refused(path, why.to_string()))?;
        }
        for (place, (_, path)) in self.segments.iter().enumerate() {
            let walked = walk(path, |batch| cluster.apply_log_batch(batch));
            let bad =
                walked.map_err(|error| StartError::directory(path, "cannot be read", error))?;
            let Some(Bad { position, why }) = bad else {
                continue;
            };
            let is_last = place + 1 == self.segments.len();
            let torn = is_last && !clean && is_tail(path, position, &why, cluster.log_end());
            if !torn {
                return Err(refused(path, format!("at byte {position}: {why}")));
            }
            tracing::warn!(
                "{}: what follows byte {position} was not written to its end, and does not count: {why}",
                path.display()
            );
        }
        tracing::info!(
            "{} was read up to offset {}",
            folder.display(),
            cluster.applied_to()
        );
        Ok(cluster.end())
    }
}

/// End offset and epoch in a snapshot's name.
fn parse_snapshot(name: &str) -> Option<(Offset, i32)> {
    let (offset, epoch) = name.strip_suffix(SNAPSHOT_SUFFIX)?.split_once('-')?;
    let digits =
        |text: &str, length| text.len() == length && text.bytes().all(|c| c.is_ascii_digit());
    if !digits(offset, OFFSET_DIGITS) || !digits(epoch, EPOCH_DIGITS) {
        return None;
    }
    Some((Offset(offset.parse().ok()?), epoch.parse().ok()?))
}

/// Gives the batches of a file in their order to `apply`, until one cannot be used.
fn walk(
    path: &Path,
    mut apply: impl FnMut(&[u8]) -> Result<(), KraftError>,
) -> io::Result<Option<Bad>> {
    let file = File::open(path)?;
    let end = file.metadata()?.len();
    let mut position = 0;
    let mut batch = Vec::new();
    while position < end {
        let left = usize::try_from(end - position).unwrap_or(usize::MAX);
        batch.resize(left.min(BATCH_HEADER_SIZE), 0);
        file.read_exact_at(&mut batch, position)?;
        let bad = |why| Ok(Some(Bad { position, why }));
        let header = match BatchHeader::parse(&batch) {
            Ok(header) => header,
            Err(error) => return bad(KraftError::Batch(error)),
        };
        let size = header.size_in_bytes();
        if size > left {
            return bad(KraftError::Short(header.base_offset));
        }
        if size > BATCH_BYTES_MAX {
            let length = header.batch_length;
            return bad(KraftError::Batch(BatchError::Length { length }));
        }
        batch.resize(size, 0);
        file.read_exact_at(&mut batch, position)?;
        if let Err(why) = apply(&batch) {
            return bad(why);
        }
        position += size as u64;
    }
    Ok(None)
}

/// Whether what cannot be read from `position` on is a write that was cut off: damage of bytes, not of
/// sense, and no whole batch from `expected` on behind it.
fn is_tail(path: &Path, position: u64, why: &KraftError, expected: Offset) -> bool {
    let is_damage = match why {
        KraftError::Batch(_) | KraftError::Short(_) | KraftError::Checksum(_) => true,
        KraftError::Compression { .. }
        | KraftError::RecordFormat { .. }
        | KraftError::Record { .. }
        | KraftError::Gap { .. }
        | KraftError::Snapshot(_)
        | KraftError::Contradiction { .. } => false,
    };
    let rest = || {
        let file = File::open(path)?;
        let length = file.metadata()?.len().saturating_sub(position);
        let length = usize::try_from(length).map_or(SEARCH_BYTES, |l| l.min(SEARCH_BYTES));
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, position)?;
        io::Result::Ok(bytes)
    };
    // What cannot be read again is not judged to be harmless.
    let Ok(bytes) = rest() else {
        return false;
    };
    let whole = |at: usize| {
        let Some(rest) = bytes.get(at..) else {
            return false;
        };
        BatchHeader::parse(rest).is_ok_and(|header| {
            header.base_offset >= expected
                && rest.get(..header.size_in_bytes()).is_some_and(verify_crc)
        })
    };
    is_damage && !(1..bytes.len()).any(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;
    use crate::records::BatchBuilder;

    /// A record of the controller that says nothing.
    const NO_OP: &[u8] = &[1, 20, 0, 0];

    fn batch(at: i64) -> Vec<u8> {
        let mut builder = BatchBuilder::uncompressed().base_offset(Offset(at));
        builder.append(Timestamp(1), None, Some(NO_OP), &[]);
        builder.build()
    }

    fn try_read(files: &[(&str, Vec<u8>)], clean: bool) -> Result<Option<Offset>, String> {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(FOLDER);
        fs::create_dir(&folder).unwrap();
        for (name, bytes) in files {
            fs::write(folder.join(name), bytes).unwrap();
        }
        let read = read([root.path()].into_iter(), clean);
        read.map(|read| read.map(|(_, cluster)| cluster.applied_to()))
            .map_err(|error| error.line())
    }

    const FIRST: &str = "00000000000000000000.log";

    #[test]
    fn a_folder_without_a_log_is_none() {
        assert_eq!(try_read(&[("file", Vec::new())], true), Ok(None));
        assert!(
            read([Path::new("/nowhere")].into_iter(), true)
                .unwrap()
                .is_none()
        );
        assert_eq!(try_read(&[(FIRST, Vec::new())], true), Ok(Some(Offset(0))));
    }

    #[test]
    fn segments_are_read_in_their_order() {
        let second = "00000000000000000002.log";
        let files = [
            (second, batch(2)),
            (FIRST, [batch(0), batch(1)].concat()),
            ("00000000000000000003.log.deleted", batch(9)),
        ];
        assert_eq!(try_read(&files, true), Ok(Some(Offset(3))));
        let gap = [(second, batch(2))];
        let line = try_read(&gap, true).unwrap_err();
        assert!(line.contains("offset 2 follows 0"), "{line}");
        // Not whole: no header.
        let snapshot = ("00000000000000000002-0000000001.checkpoint", batch(0));
        let line = try_read(&[(second, batch(2)), snapshot], true).unwrap_err();
        assert!(line.contains("has no header"), "{line}");
    }

    #[test]
    fn damage_is_refused_where_a_snapshot_stands_for_it_too() {
        let control = |at, kind| {
            let builder = BatchBuilder::uncompressed().base_offset(Offset(at));
            let mut builder = builder.control();
            builder.append(Timestamp(1), Some(&[0, 0, 0, kind]), Some(&[0, 0]), &[]);
            builder.build()
        };
        let snapshot = [control(0, 3), batch(1), control(2, 4)].concat();
        let mut log = [batch(0), batch(1), batch(2)].concat();
        let middle = log.len() / 2;
        let files = |log: &[u8]| {
            let snapshot = (
                "00000000000000000003-0000000001.checkpoint",
                snapshot.clone(),
            );
            [(FIRST, log.to_vec()), snapshot]
        };
        assert_eq!(try_read(&files(&log), false), Ok(Some(Offset(3))));
        log[middle] ^= 1;
        let line = try_read(&files(&log), false).unwrap_err();
        assert!(line.contains("checksum"), "{line}");
    }

    #[test]
    fn a_write_that_a_crash_cut_off_is_passed_over_and_damage_is_refused() {
        let mut torn = [batch(0), batch(1)].concat();
        let whole = torn.len() / 2;
        torn.truncate(torn.len() - 3);
        let mut wrong = [batch(0), batch(1)].concat();
        let last = wrong.len() - 1;
        wrong[last] ^= 1;
        let zeros = [batch(0), vec![0; 500]].concat();
        for tail in [torn, wrong.clone(), zeros] {
            assert_eq!(
                try_read(&[(FIRST, tail.clone())], false),
                Ok(Some(Offset(1)))
            );
            // After a clean stop nothing is cut off.
            let line = try_read(&[(FIRST, tail.clone())], true).unwrap_err();
            assert!(line.contains(&format!("at byte {whole}")), "{line}");
            // Nor is what another segment follows.
            let files = [(FIRST, tail), ("00000000000000000002.log", batch(2))];
            try_read(&files, false).unwrap_err();
        }
        // Nor what a whole batch follows.
        let middle = [wrong, batch(2)].concat();
        let line = try_read(&[(FIRST, middle)], false).unwrap_err();
        assert!(line.contains("checksum"), "{line}");
    }
}
