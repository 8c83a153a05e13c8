//! The descriptors that a log holds: opened when they are needed, closed by whoever counts them for all logs.
//!
//! A log that is written to holds its active `.log`, and the indexes once entries are due; one that is read
//! holds a few old segments; one that will roll soon holds the next. [`Log::close_files`] gives back what it
//! can. It never closes a file with writes that no sync covers: an error of the kernel's own write-back might
//! then never be told. [`Log::flush`] comes first where that is to go as well.

use super::disk::{Disk, LogFile};
use super::error::LogError;
use super::log::Log;
use super::next_segment::Next;
use super::segment::Segment;
use crate::base::Timestamp;

impl<D: Disk> Log<D> {
    /// Descriptors that are held now, without those of calls that are under way.
    pub fn open_files(&self) -> usize {
        let state = self.state.borrow();
        let next = match &state.next {
            Next::Ready(prepared) => prepared.files.len(),
            Next::Unneeded | Next::Wanted | Next::Busy => 0,
        };
        state.segments.iter().map(open_files).sum::<usize>() + next
    }

    /// Descriptors that the write of what is staged, and the preparation of what is wanted, will open.
    pub fn wanted_files(&self) -> usize {
        let state = self.state.borrow();
        let closed = usize::from(state.active().file().is_none());
        let next = usize::from(matches!(state.next, Next::Wanted));
        closed + 3 * (state.staged_rolls() + next)
    }

    /// When the log was last written to.
    pub fn last_written(&self) -> Timestamp {
        Timestamp(self.state.borrow().active().last_modified)
    }

    /// Closes the files of a log that has fallen silent, and gives back the memory of what has passed through it. The
    /// log goes on as before when somebody comes. Returns how many were closed.
    pub async fn rest(&self) -> Result<usize, LogError> {
        {
            let _gate = self.gate.enter().await;
            self.state.borrow().check()?;
            self.write_index_tails(1).await?;
        }
        let closed = self.close_files().await;
        let mut state = self.state.borrow_mut();
        state.release_memory();
        // Where segments come and go it grows to twice what there are.
        state.segments.shrink_to_fit();
        Ok(closed)
    }

    /// Closes all files that need not be open. Returns how many. Writes and reads that come meanwhile, or were under
    /// way, are not disturbed: they have what they need, or open it again.
    pub async fn close_files(&self) -> usize {
        if !self.prepare_gate.is_held() {
            let _gate = self.prepare_gate.enter().await;
            self.drop_next().await;
        }
        let mut closed = Vec::new();
        // A write, or who cuts the log, has opened what it is about to use.
        if !self.gate.is_held() {
            let mut state = self.state.borrow_mut();
            let last = state.segments.len() - 1;
            for (index, segment) in state.segments.iter_mut().enumerate() {
                take_files(segment, index == last, &mut closed);
            }
        }
        let count = closed.len();
        if count > 0 {
            self.disk.discard(closed).await;
        }
        count
    }
}

fn open_files<F: LogFile>(segment: &Segment<F>) -> usize {
    let held = segment.held();
    usize::from(held.file.is_some())
        + usize::from(held.offset_index.file.is_some())
        + usize::from(held.time_index.file.is_some())
}

fn take_files<F: LogFile>(segment: &mut Segment<F>, is_active: bool, closed: &mut Vec<F>) {
    // The files of a swap have no names yet; what is allocated behind a closed one is still to be cut off.
    if segment.held().swapped.is_some() || !is_active && segment.held().allocated != 0 {
        return;
    }
    if open_files(segment) == 0 {
        return;
    }
    let may_close = segment.synced_size == segment.size;
    let (is_longer, size) = (segment.is_longer(), segment.size);
    let held = segment.held_mut();
    if may_close {
        if is_longer {
            // What the file knew of itself: it is cut before its length is trusted.
            held.filled = held.filled.max(size.saturating_add(1));
        }
        closed.extend(held.file.take());
    }
    // A lost entry costs a search, and recovery makes both anew; after a roll they are closed unsynced, too.
    closed.extend(held.offset_index.file.take());
    closed.extend(held.time_index.file.take());
    segment.release();
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NOW, open, settings};
    use super::super::tests::{append, batch, create, expected, memory, options, read_all, run};
    use crate::base::Offset;

    #[test]
    fn a_write_opens_one_file_and_an_idle_log_holds_none() {
        let (disk, data) = memory();
        let mut large = settings();
        large.segment_bytes = 1 << 20;
        let log = create(&disk, &data, &large);
        assert_eq!(log.open_files(), 0);
        let before = disk.opens();
        append(&log, batch(0, 1, NOW.0));
        assert_eq!(disk.opens() - before, 1, "the indexes are not due");
        assert_eq!(log.open_files(), 1);
        // Not synced: its failure is still to be told.
        assert_eq!(run(log.close_files()), 0);
        assert_eq!((log.open_files(), log.wanted_files()), (1, 0));
        run(log.flush()).unwrap();
        assert_eq!(run(log.close_files()), 1);
        assert_eq!((log.open_files(), log.wanted_files()), (0, 1));
        for tag in 1..400 {
            append(&log, batch(tag, 1, NOW.0));
        }
        assert_eq!(log.open_files(), 3, "the entries of the indexes were due");
        assert_eq!(run(log.close_files()), 2);
        run(log.flush()).unwrap();
        assert_eq!(run(log.close_files()), 1);
        let sent: Vec<_> = (0..400).map(|tag| (tag, 1)).collect();
        assert_eq!(read_all(&log, Offset(400), 1000), expected(&sent));
        run(log.close(NOW)).unwrap();
        let (log, report) = open(&disk, &data, &large, options(true));
        assert_eq!(report, Default::default());
        assert_eq!(read_all(&log, Offset(400), 1000), expected(&sent));
    }

    #[test]
    fn a_log_at_rest_keeps_nothing_of_what_passed_through_it() {
        let (disk, data) = memory();
        let mut large = settings();
        large.segment_bytes = 1 << 13;
        let log = create(&disk, &data, &large);
        let mut sent: Vec<_> = (0..300).map(|tag| (tag, 1)).collect();
        for &(tag, _) in &sent {
            append(&log, batch(tag, 1, NOW.0));
        }
        assert!(log.segment_count() > 1);
        assert_eq!(read_all(&log, Offset(300), 1000), expected(&sent));
        run(log.prepare()).unwrap();
        // What is not flushed is not forgotten, and its files stay open.
        run(log.rest()).unwrap();
        assert!(!log.state.borrow().marks.is_empty());
        run(log.flush()).unwrap();
        run(log.prepare()).unwrap();
        assert!(run(log.rest()).unwrap() > 0);
        {
            let state = log.state.borrow();
            let mut closed = state.segments.iter().rev().skip(1);
            assert!(closed.all(|segment| segment.holds_nothing()));
            // The active one may have room ahead, and no more.
            let active = state.active().held();
            assert!(active.offset_index.is_closed() && active.time_index.is_closed());
            assert!(active.file.is_none());
            let rooms = [
                state.marks.capacity(),
                state.readers.capacity(),
                state.snapshots.capacity(),
            ];
            assert_eq!(rooms, [0; 3]);
            assert_eq!(state.segments.capacity(), state.segments.len());
        }
        for tag in 300..400 {
            append(&log, batch(tag, 1, NOW.0));
            sent.push((tag, 1));
            assert!(run(log.read(Offset(tag as i64), 1000, Offset(tag as i64 + 1), true)).is_ok());
        }
        assert_eq!(read_all(&log, Offset(400), 1000), expected(&sent));
        run(log.flush()).unwrap();
        run(log.rest()).unwrap();
        drop(log);
        // As after kill -9.
        let (log, report) = open(&disk, &data, &large, options(false));
        assert_eq!(report.damage, None);
        assert_eq!(read_all(&log, Offset(400), 1000), expected(&sent));
    }

    #[test]
    fn a_busy_log_opens_files_ahead_of_its_rolls_only() {
        let (disk, data) = memory();
        let log = create(&disk, &data, &settings());
        let mut opens = 0;
        for tag in 0..60 {
            let (before, segments) = (disk.opens(), log.segment_count());
            append(&log, batch(tag, 3, NOW.0));
            // The first segment has its indexes opened at its end.
            if log.segment_count() > segments && segments > 1 {
                opens += disk.opens() - before;
            }
            run(log.prepare()).unwrap();
        }
        assert!(log.segment_count() > 3);
        assert_eq!(opens, 0);
    }

    #[test]
    fn files_may_be_closed_between_any_two_calls() {
        let (disk, data) = memory();
        let log = create(&disk, &data, &settings());
        let mut sent = Vec::new();
        for tag in 0..200 {
            append(&log, batch(tag, 2, NOW.0));
            sent.push((tag, 2));
            if tag % 3 == 0 {
                run(log.flush()).unwrap();
            }
            run(log.prepare()).unwrap();
            run(log.close_files());
            if tag % 7 == 0 {
                let end = log.log_end_offset();
                assert_eq!(read_all(&log, end, 700), expected(&sent));
                run(log.close_files());
            }
        }
        assert!(log.segment_count() > 10);
        run(log.flush()).unwrap();
        run(log.prepare()).unwrap();
        run(log.close_files());
        assert_eq!(log.open_files(), 0);
        drop(log);
        // As after kill -9.
        let (log, report) = open(&disk, &data, &settings(), options(false));
        assert_eq!(report.damage, None);
        assert_eq!(read_all(&log, Offset(400), 1000), expected(&sent));
    }
}
