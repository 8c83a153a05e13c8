//! What a connection that reads what is not in the page cache will want next.
//!
//! The kernel reads ahead as well, when a page is missing or a marked one is met, but by whoever meets it: with a
//! disk that is set to windows of 8 MiB that is a shard, for milliseconds. So such a file is told to be read without
//! ([`Advice::Random`]), and the auxiliary ring brings in what lies before its reader, off the shard.
//!
//! 1. A reader is known from the first piece that was missing, and as long as its slices follow each other.
//! 2. Up to a *window* behind the slice that is being sent is brought in. The window begins at [`WINDOW_MIN`], and
//!    doubles with each slice up to [`WINDOW_MAX`], so that somebody who reads here and there costs little; a large one
//!    ends at a multiple of [`ALIGNED`].
//! 3. More is asked for once half of the window is used: in few and large pieces.

use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Weak};

use rustix::fs::Advice;

/// Bytes.
const WINDOW_MIN: u64 = 512 * 1024;

/// Bytes. One reader and eight of a cold backlog, medians of 4, in turns: 1,990 and 2,020 MB/s with 4 MiB, 2,170 and 2,160
/// with 8, 2,210 and 2,210 with 16, 2,140 and 2,240 with 32, at the same CPU time a byte.
const WINDOW_MAX: u64 = 8 * 1024 * 1024;

/// Bytes: what is asked for comes in whole transfers, without a rest at either end. With windows that ended anywhere it
/// was 1,900 and 1,990 MB/s in the same turns (of 4 MiB), for 0.43 CPU s/GB instead of 0.39 with one reader.
const ALIGNED: u64 = 2 * 1024 * 1024;

/// Files that one connection reads; who reads more goes without for some.
const READERS_MAX: usize = 64;

/// One per connection.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    /// The one that was used last is last.
    readers: Vec<Reader>,
}

#[derive(Debug)]
struct Reader {
    file: Weak<File>,
    /// Where the next slice begins, if it goes on.
    next: u64,
    /// Behind what was asked for.
    to: u64,
    window: u64,
}

impl ReadAhead {
    /// What to bring in when a slice from `position` to `end` is about to be sent.
    pub(super) fn going_on(
        &mut self,
        file: &Arc<File>,
        position: u64,
        end: u64,
    ) -> Option<Range<u64>> {
        let mut reader = self.take(file)?;
        if reader.next != position {
            // Somewhere else: what is missing there tells.
            return None;
        }
        reader.window = (reader.window * 2).min(WINDOW_MAX);
        let range = reader.advance(end);
        self.readers.push(reader);
        range
    }

    /// What to bring in when a piece of a slice that goes to `end` is missing, and is read; `position` is where
    /// that piece ends.
    pub(super) fn missed(
        &mut self,
        file: &Arc<File>,
        position: u64,
        end: u64,
    ) -> Option<Range<u64>> {
        if let Some(reader) = self.take(file) {
            // Known already: it is under way, or was evicted again.
            self.readers.push(reader);
            return None;
        }
        // Where it cannot be told, the kernel goes on as it does.
        let _ = rustix::fs::fadvise(&**file, 0, None, Advice::Random);
        let mut reader = Reader {
            file: Arc::downgrade(file),
            next: end,
            to: position,
            window: WINDOW_MIN,
        };
        let range = reader.advance(end);
        if self.readers.len() == READERS_MAX {
            self.readers.remove(0);
        }
        self.readers.push(reader);
        range
    }

    fn take(&mut self, file: &Arc<File>) -> Option<Reader> {
        let is_it = |reader: &Reader| std::ptr::eq(reader.file.as_ptr(), Arc::as_ptr(file));
        let at = self.readers.iter().rposition(is_it)?;
        Some(self.readers.remove(at))
    }
}

impl Reader {
    /// The slice that is being sent ends at `end`.
    fn advance(&mut self, end: u64) -> Option<Range<u64>> {
        self.next = end;
        let wanted = end + self.window;
        if self.to + self.window / 2 > wanted {
            return None;
        }
        let from = self.to;
        // Less than half a window is never asked for, so this leaves something.
        self.to = match self.window > ALIGNED {
            true => wanted / ALIGNED * ALIGNED,
            false => wanted,
        };
        Some(from..self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    fn file() -> Arc<File> {
        Arc::new(tempfile::tempfile().unwrap())
    }

    #[test]
    fn nothing_is_read_ahead_before_something_is_missing() {
        let mut ahead = ReadAhead::default();
        assert_eq!(ahead.going_on(&file(), 0, 1024 * KIB), None);
    }

    #[test]
    fn the_window_grows_while_slices_follow_each_other_and_is_asked_for_in_halves() {
        let (mut ahead, file) = (ReadAhead::default(), file());
        // The rest of the slice, and a window behind it.
        let first = ahead.missed(&file, 256 * KIB, 1024 * KIB);
        assert_eq!(first, Some(256 * KIB..1536 * KIB));
        assert_eq!(ahead.missed(&file, 512 * KIB, 1024 * KIB), None);
        let next = ahead.going_on(&file, 1024 * KIB, 2048 * KIB);
        assert_eq!(next, Some(1536 * KIB..3072 * KIB));
        let next = ahead.going_on(&file, 2048 * KIB, 2148 * KIB);
        assert_eq!(next, Some(3072 * KIB..4196 * KIB));
        // From here on it ends at whole transfers.
        let next = ahead.going_on(&file, 2148 * KIB, 2248 * KIB);
        assert_eq!(next, Some(4196 * KIB..6144 * KIB));
        let next = ahead.going_on(&file, 2248 * KIB, 2348 * KIB);
        assert_eq!(next, Some(6144 * KIB..10240 * KIB));
        // Less than half of it is used.
        assert_eq!(ahead.going_on(&file, 2348 * KIB, 2448 * KIB), None);
        let next = ahead.going_on(&file, 2448 * KIB, 6148 * KIB);
        assert_eq!(next, Some(10240 * KIB..14336 * KIB));
    }

    #[test]
    fn a_jump_begins_anew_with_what_is_missing() {
        let (mut ahead, file) = (ReadAhead::default(), file());
        ahead.missed(&file, 0, KIB);
        assert_eq!(ahead.going_on(&file, 9000 * KIB, 9001 * KIB), None);
        let again = ahead.missed(&file, 9001 * KIB, 9001 * KIB);
        assert_eq!(again, Some(9001 * KIB..9001 * KIB + WINDOW_MIN));
    }

    #[test]
    fn the_file_that_was_read_longest_ago_is_forgotten() {
        let mut ahead = ReadAhead::default();
        let files: Vec<Arc<File>> = (0..READERS_MAX + 1).map(|_| file()).collect();
        for file in &files {
            assert!(ahead.missed(file, 0, KIB).is_some());
        }
        assert_eq!(ahead.readers.len(), READERS_MAX);
        assert_eq!(ahead.going_on(&files[0], KIB, 2 * KIB), None);
        assert!(ahead.going_on(&files[1], KIB, 2 * KIB).is_some());
    }
}
