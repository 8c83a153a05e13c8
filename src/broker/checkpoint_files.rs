//! The checkpoint files of a data directory: who writes them, and of whom they must not tell any more.
//!
//! Their entries are of names, and a topic that was deleted may be made again under the name that it had. What the files
//! say of the old one must not be taken for the new one's after a crash: records would be trusted that nobody has
//! flushed, or lie below a log start and not be served.
//!
//! 1. The files are written at intervals, of what the shards said a moment before: of a gathering, which has a number.
//! 2. Before the folder of a partition is made, [`CheckpointFiles::forget`] takes its name out of the files, if it may
//!    be in one of them. For many partitions they are written once.
//! 3. What was said by a gathering that had begun before is left out when that is written.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::{Offset, PartitionIndex};
use crate::broker::messages::Checkpoint;
use crate::storage::checkpoint::{
    CLEANER_OFFSET_CHECKPOINT, LOG_START_OFFSET_CHECKPOINT, RECOVERY_POINT_CHECKPOINT,
    REPLICATION_OFFSET_CHECKPOINT, decode_offsets, encode_offsets,
};
use crate::storage::{Disk as _, Inline, PageCache};

const FILES: [&str; 4] = [
    RECOVERY_POINT_CHECKPOINT,
    LOG_START_OFFSET_CHECKPOINT,
    REPLICATION_OFFSET_CHECKPOINT,
    CLEANER_OFFSET_CHECKPOINT,
];

/// A partition by the name of its topic, as in the files.
pub type Name = (Arc<str>, PartitionIndex);

/// One per data directory, for the threads that may wait: whoever writes the files holds the others up.
#[derive(Debug)]
pub struct CheckpointFiles {
    dir: PathBuf,
    /// Held while a file is written.
    writing: Mutex<()>,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// Partitions that a file may have an entry of.
    names: Arc<Names>,
    /// The same, of what is being written.
    writing: Arc<Names>,
    /// The number of the last gathering that has begun, and of the last that was written.
    begun: u64,
    written: u64,
    /// Partitions made since, and the last gathering that had begun by then.
    made: HashMap<Name, u64>,
}

#[derive(Clone, Debug, Default)]
struct Names(HashMap<Arc<str>, BTreeSet<PartitionIndex>>);

impl Names {
    fn insert(&mut self, topic: &Arc<str>, partition: PartitionIndex) {
        match self.0.get_mut(topic) {
            Some(partitions) => drop(partitions.insert(partition)),
            None => drop(self.0.insert(topic.clone(), BTreeSet::from([partition]))),
        }
    }

    fn extend(&mut self, others: &Names) {
        for (topic, partitions) in &others.0 {
            self.0.entry(topic.clone()).or_default().extend(partitions);
        }
    }

    fn has(&self, (topic, partition): &Name) -> bool {
        let partitions = self.0.get(topic);
        partitions.is_some_and(|partitions| partitions.contains(partition))
    }

    fn remove(&mut self, (topic, partition): &Name) {
        if let Some(partitions) = self.0.get_mut(topic) {
            partitions.remove(partition);
            if partitions.is_empty() {
                self.0.remove(topic);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CheckpointFiles {
    /// Those in `dir`, which have entries of `names`.
    pub fn new(dir: PathBuf, names: impl IntoIterator<Item = (String, PartitionIndex)>) -> Self {
        let mut has = Names::default();
        for (topic, partition) in names {
            has.insert(&topic.into(), partition);
        }
        let told = Told {
            names: Arc::new(has),
            ..Told::default()
        };
        Self {
            dir,
            writing: Mutex::default(),
            told: Mutex::new(told),
        }
    }

    /// The shards are about to be asked what the files should say: the number of that gathering.
    pub fn begin(&self) -> u64 {
        let mut told = lock(&self.told);
        told.begun += 1;
        told.begun
    }

    /// Writes what a gathering has come to. Does nothing if a later one was written before.
    pub fn write(&self, gathering: u64, checkpoints: &[&Checkpoint]) -> io::Result<()> {
        let mut names = Names::default();
        for checkpoint in checkpoints {
            names.insert(&checkpoint.topic, checkpoint.partition);
        }
        let _writing = lock(&self.writing);
        let made = {
            let mut told = lock(&self.told);
            if gathering <= told.written {
                return Ok(());
            }
            told.writing = Arc::new(names);
            told.made.clone()
        };
        let is_of_before = |checkpoint: &Checkpoint| {
            let made = made.get(&(checkpoint.topic.clone(), checkpoint.partition));
            made.is_some_and(|made| *made >= gathering)
        };
        let mut left = checkpoints.to_vec();
        if !made.is_empty() {
            left.retain(|checkpoint| !is_of_before(checkpoint));
        }
        let written = self.write_all(&left);
        let _before = {
            let told = &mut *lock(&self.told);
            let names = std::mem::take(&mut told.writing);
            match &written {
                Ok(()) => {
                    told.written = gathering;
                    told.made.retain(|_, made| *made > gathering);
                    // With those that were left out, which are looked for in vain at most.
                    std::mem::replace(&mut told.names, names)
                }
                // Some of the files may be written.
                Err(_) => {
                    Arc::make_mut(&mut told.names).extend(&names);
                    names
                }
            }
        };
        written
    }

    fn write_all(&self, checkpoints: &[&Checkpoint]) -> io::Result<()> {
        let write = |file: &str, of: fn(&Checkpoint) -> Option<Offset>| {
            let entries = checkpoints
                .iter()
                .filter_map(|c| Some((&*c.topic, c.partition, of(c)?)));
            self.write_if_other(file, &encode_offsets(entries))
        };
        write(RECOVERY_POINT_CHECKPOINT, |c| Some(c.recovery_point))?;
        // A log that starts at its first segment's start needs no line.
        write(LOG_START_OFFSET_CHECKPOINT, |c| {
            (c.log_start_offset > Offset(0)).then_some(c.log_start_offset)
        })?;
        write(REPLICATION_OFFSET_CHECKPOINT, |c| Some(c.high_watermark))?;
        write(CLEANER_OFFSET_CHECKPOINT, |c| c.cleaned_to)
    }

    /// Takes partitions whose folders are about to be made out of the files, durably. Whatever the shards have said
    /// until now will not bring them back. After an error the files may have them still.
    pub fn forget(&self, partitions: &[Name]) -> io::Result<()> {
        {
            let mut told = lock(&self.told);
            if told.begun > told.written {
                let begun = told.begun;
                let made = partitions.iter().cloned().map(|name| (name, begun));
                told.made.extend(made);
            }
            let may_have = |name: &Name| told.names.has(name) || told.writing.has(name);
            if !partitions.iter().any(may_have) {
                return Ok(());
            }
        }
        let _writing = lock(&self.writing);
        let mut names: HashMap<&str, BTreeSet<PartitionIndex>> = HashMap::new();
        for (topic, partition) in partitions {
            names.entry(topic).or_default().insert(*partition);
        }
        for file in FILES {
            self.take_out(file, &names)?;
        }
        let mut told = lock(&self.told);
        let has = Arc::make_mut(&mut told.names);
        partitions.iter().for_each(|name| has.remove(name));
        Ok(())
    }

    fn take_out(
        &self,
        file: &str,
        names: &HashMap<&str, BTreeSet<PartitionIndex>>,
    ) -> io::Result<()> {
        let bytes = match fs::read(self.dir.join(file)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        // The next start leaves one aside that is not what was written.
        let Ok(mut offsets) = decode_offsets(&bytes) else {
            return Ok(());
        };
        let before = offsets.len();
        offsets.retain(|(topic, partition), _| {
            let forgotten = names.get(topic.as_str());
            !forgotten.is_some_and(|partitions| partitions.contains(partition))
        });
        if offsets.len() == before {
            return Ok(());
        }
        let entries = offsets.iter();
        let entries = entries.map(|((topic, partition), at)| (topic.as_str(), *partition, *at));
        self.replace(file, &encode_offsets(entries))
    }

    /// An idle node must not wake its disk every few seconds.
    fn write_if_other(&self, file: &str, content: &[u8]) -> io::Result<()> {
        if fs::read(self.dir.join(file)).is_ok_and(|before| before == content) {
            return Ok(());
        }
        self.replace(file, content)
    }

    fn replace(&self, file: &str, content: &[u8]) -> io::Result<()> {
        let path: &Path = &self.dir.join(file);
        let disk = PageCache::new(Inline);
        futures_lite::future::block_on(disk.replace_file(path, content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(topic: &str, partition: i32, offset: i64) -> Checkpoint {
        Checkpoint {
            directory: 0,
            topic: topic.into(),
            partition: PartitionIndex(partition),
            recovery_point: Offset(offset),
            log_start_offset: Offset(offset),
            high_watermark: Offset(offset),
            cleaned_to: Some(Offset(offset)),
            log_end_offset: Offset(offset),
            size_bytes: 0,
        }
    }

    fn name(topic: &str, partition: i32) -> Name {
        (topic.into(), PartitionIndex(partition))
    }

    /// The offsets that all four files have of it.
    fn told(dir: &Path, topic: &str, partition: i32) -> [Option<i64>; 4] {
        FILES.map(|file| {
            let offsets = decode_offsets(&fs::read(dir.join(file)).unwrap()).unwrap();
            let offset = offsets.get(&(topic.to_owned(), PartitionIndex(partition)));
            offset.map(|offset| offset.0)
        })
    }

    #[test]
    fn who_is_forgotten_is_in_no_file_and_the_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let files = CheckpointFiles::new(dir.path().to_owned(), []);
        let of = |partition| checkpoint("t", partition, 7);
        let all: Vec<Checkpoint> = (0..100).map(of).collect();
        let number = files.begin();
        files
            .write(number, &all.iter().collect::<Vec<_>>())
            .unwrap();
        drop(files);
        // After a restart it is known who is in them, too.
        let names = (0..100).map(|partition| ("t".to_owned(), PartitionIndex(partition)));
        let files = CheckpointFiles::new(dir.path().to_owned(), names);
        files
            .forget(&[name("t", 3), name("t", 5), name("u", 4)])
            .unwrap();
        for partition in 0..100 {
            let expected = [3, 5].contains(&partition);
            let expected = [(!expected).then_some(7); 4];
            assert_eq!(told(dir.path(), "t", partition), expected, "{partition}");
        }
        // And who is in none of them costs nothing.
        fs::remove_file(dir.path().join(FILES[1])).unwrap();
        fs::create_dir(dir.path().join(FILES[1])).unwrap();
        files.forget(&[name("t", 3), name("u", 0)]).unwrap();
        assert!(files.forget(&[name("t", 4)]).is_err());
    }

    #[test]
    fn what_was_said_before_a_partition_was_made_is_not_written_after() {
        let dir = tempfile::tempdir().unwrap();
        let files = CheckpointFiles::new(dir.path().to_owned(), []);
        let (old, other) = (checkpoint("t", 0, 99), checkpoint("t", 1, 50));
        let number = files.begin();
        files.forget(&[name("t", 0)]).unwrap();
        files.write(number, &[&old, &other]).unwrap();
        assert_eq!(told(dir.path(), "t", 0), [None; 4]);
        assert_eq!(told(dir.path(), "t", 1), [Some(50); 4]);
        // Of what is said later it is.
        let (new, number) = (checkpoint("t", 0, 3), files.begin());
        files.write(number, &[&new, &other]).unwrap();
        assert_eq!(told(dir.path(), "t", 0), [Some(3); 4]);
        files.forget(&[name("t", 0)]).unwrap();
        assert_eq!(told(dir.path(), "t", 0), [None; 4]);
    }

    #[test]
    fn a_gathering_is_not_written_after_a_later_one() {
        let dir = tempfile::tempdir().unwrap();
        let files = CheckpointFiles::new(dir.path().to_owned(), []);
        let (first, second) = (files.begin(), files.begin());
        files.write(second, &[&checkpoint("t", 0, 20)]).unwrap();
        files.write(first, &[&checkpoint("t", 0, 10)]).unwrap();
        assert_eq!(told(dir.path(), "t", 0), [Some(20); 4]);
    }
}
