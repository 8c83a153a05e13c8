//! Removes a file so that those who share a core, or the file system's journal, with whoever does it get their turn.
//!
//! What a large file has in the page cache is freed with it: 0.2 s for 1 GiB, in which a core is given to others every
//! few milliseconds only. So it loses its name first, and then its bytes, a piece at a time, with a pause behind each.
//! Appends of 1 KiB to another file at 5,000 a second on the same core, while 1 GiB is removed, in turns: p90 1.0 ms
//! and p99 4.1 and 4.8 at once, p90 0.2 to 0.3 and p99 0.5 and 0.6 in pieces; at the lowest priority 0.8 and 1.4.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::runtime::lease::is_open_only_here;

/// Bytes that are freed at once.
const PIECE_BYTES: u64 = 8 << 20;
const PAUSE: Duration = Duration::from_millis(1);

/// Removes the file `path`; takes long if it is large.
pub(super) fn remove_now(path: &Path) -> io::Result<()> {
    let len = std::fs::symlink_metadata(path)?.len();
    let file = match len > PIECE_BYTES {
        true => OpenOptions::new().write(true).open(path).ok(),
        false => None,
    };
    std::fs::remove_file(path)?;
    if let Some(file) = file
        && is_ours_alone(&file)
    {
        for len in lengths(len) {
            if file.set_len(len).is_err() {
                // What is left goes with the file.
                break;
            }
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// Removes a partition's folder with all that is in it; takes long where that is much.
pub fn remove_folder_now(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            match remove_now(&entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    std::fs::remove_dir_all(folder)
}

/// Nobody reads it any more, and it has no other name, such as a copy made by links has.
fn is_ours_alone(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.nlink() == 0) && is_open_only_here(file)
}

/// To what a file of `len` bytes is cut, one after the other.
fn lengths(len: u64) -> impl Iterator<Item = u64> {
    let pieces = len.div_ceil(PIECE_BYTES);
    (0..pieces).rev().map(|piece| piece * PIECE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_goes_in_pieces_down_to_nothing() {
        const MIB: u64 = 1 << 20;
        let all = |len| lengths(len).collect::<Vec<_>>();
        assert_eq!(all(17 * MIB), [16 * MIB, 8 * MIB, 0]);
        assert_eq!(all(16 * MIB), [8 * MIB, 0]);
        assert_eq!(all(1), [0]);
        assert!(all(0).is_empty());
    }

    #[test]
    fn a_large_file_is_gone_and_whoever_reads_it_or_has_a_link_to_it_has_all_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        let len = 3 * PIECE_BYTES + 1;
        let large = |path: &Path| File::create(path).unwrap().set_len(len).unwrap();
        large(&path);
        remove_now(&path).unwrap();
        assert!(!path.exists());
        large(&path);
        let reader = File::open(&path).unwrap();
        remove_now(&path).unwrap();
        assert!(!path.exists());
        assert_eq!(reader.metadata().unwrap().len(), len);
        large(&path);
        let link = dir.path().join("link");
        std::fs::hard_link(&path, &link).unwrap();
        remove_now(&path).unwrap();
        assert_eq!(std::fs::metadata(&link).unwrap().len(), len);
        let missing = remove_now(&path).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
