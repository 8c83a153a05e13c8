//! The disks of this node as a shard sees them, and where calls are made that may sleep in the kernel:
//! syncs on the shard's auxiliary ring, the rest on the shard's helper thread, which has no core of its
//! own to keep.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::base::profile::Gauged;
use crate::base::{FileSlice, Offset, TopicId};
use crate::broker::checkpoint_files::{CheckpointFiles, Name};
use crate::metadata::{DirectoryId, PartitionImage};
use crate::runtime::aligned::AlignedBuffer;
use crate::runtime::aux_ring::AuxRing;
use crate::runtime::disk_reads::{DiskRead, DiskReads};
use crate::runtime::profile;
use crate::storage::checkpoint::decode_partition_metadata;
use crate::storage::names::PARTITION_METADATA;
use crate::storage::{
    AllocationBudget, DirectLimits, Disk, Log, LogDisk, LogSlice, Offload, PageCache, names,
};

/// A shard's log.
pub type ShardLog = Log<ShardDisk>;
/// A shard's disk: plain files, through the page cache or past it.
pub type ShardDisk = LogDisk<PageCache<ShardOffload>>;

/// One per shard; clones share the ring.
#[derive(Clone)]
pub struct ShardOffload {
    ring: AuxRing,
}

impl ShardOffload {
    pub fn new(ring: AuxRing) -> Self {
        Self { ring }
    }
}

impl fmt::Debug for ShardOffload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShardOffload")
    }
}

impl Offload for ShardOffload {
    async fn sync_data(&self, file: Arc<File>) -> io::Result<()> {
        profile::measure(Gauged::Fsync, self.ring.fdatasync(file)).await
    }

    async fn write_direct(
        &self,
        file: Arc<File>,
        position: u64,
        buffer: Rc<AlignedBuffer>,
        range: Range<usize>,
        durable: bool,
    ) -> io::Result<usize> {
        profile::record(Gauged::WriteBytes, range.len() as u64);
        let write = self
            .ring
            .write_direct(file, position, buffer, range, durable);
        profile::measure(Gauged::WriteTime, write).await
    }

    async fn read_direct(
        &self,
        file: Arc<File>,
        position: u64,
        buffer: AlignedBuffer,
        len: usize,
        read: DiskRead,
    ) -> io::Result<(usize, AlignedBuffer)> {
        let read = self.ring.read_direct(file, position, buffer, len, read);
        profile::measure(Gauged::DiskRead, read).await
    }

    fn disk_reads(&self) -> DiskReads {
        self.ring.disk_reads().clone()
    }

    async fn sync_all(&self, file: Arc<File>) -> io::Result<()> {
        profile::measure(Gauged::Fsync, self.ring.fsync(file)).await
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        glommio::executor().spawn_blocking(job).await
    }
}

/// Reads all of `slice`, which lies within its file, on the shard's helper thread.
pub async fn read_slice(slice: FileSlice) -> io::Result<Vec<u8>> {
    let job = move || {
        let mut bytes = vec![0; slice.len as usize];
        slice.file.read_exact_at(&mut bytes, slice.position)?;
        Ok(bytes)
    };
    glommio::executor().spawn_blocking(job).await
}

/// The bytes of a slice, read off the shard's core where they come from a file.
pub async fn bytes_of(slice: LogSlice) -> io::Result<Bytes> {
    match slice {
        LogSlice::Bytes(bytes) => Ok(bytes),
        LogSlice::File(slice) => read_slice(slice).await.map(Bytes::from),
    }
}

/// What a directory's checkpoint files said of a partition when the node started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Points {
    pub recovery_point: Option<Offset>,
    pub log_start_offset: Option<Offset>,
    pub high_watermark: Option<Offset>,
    pub cleaned_to: Option<Offset>,
}

/// One entry of `log.dirs`. Shared, read-only.
#[derive(Debug)]
pub struct Directory {
    pub path: PathBuf,
    pub id: DirectoryId,
    /// The last stop was clean: logs need no scan.
    pub clean: bool,
    /// A checkpoint of recovery points was here that could be read.
    pub has_checkpoint: bool,
    /// Folder name to what the checkpoint files say; nothing once the node has started.
    pub points: RwLock<HashMap<String, Points>>,
    pub checkpoints: CheckpointFiles,
    /// Bytes that the directory's logs may have allocated ahead.
    pub allocation: Arc<AllocationBudget>,
    /// Partitions that lie here.
    pub partitions: AtomicUsize,
    /// Partitions that were deleted here, or moved away, since the start.
    pub deleted: AtomicUsize,
    /// Folders of partitions that were on their way here when the node stopped.
    pub expected: HashSet<String>,
    /// Its file system has less room than is to be left free.
    pub low: AtomicBool,
    /// Why nothing here is served any more.
    pub failed: OnceLock<String>,
    /// Told when one of the node's directories fails; one for all of them.
    pub changed: Arc<Notify>,
}

impl Directory {
    /// Why nothing here is served, if it is not. Until a restart that stays so.
    pub fn failure(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// Gives the directory up; false if that was done before.
    pub fn fail(&self, why: String) -> bool {
        let is_first = self.failed.set(why).is_ok();
        self.changed.notify_one();
        is_first
    }

    /// What the checkpoint files say of a partition that was here before the start.
    pub fn points(&self, folder: &str) -> Points {
        let points = self.points.read().unwrap_or_else(PoisonError::into_inner);
        points.get(folder).copied().unwrap_or_default()
    }

    /// Every partition that was here is open: who comes from now on is another, though it may have the same name.
    pub fn forget_points(&self) {
        *self.points.write().unwrap_or_else(PoisonError::into_inner) = HashMap::new();
    }
}

/// Space of the file system that a directory lies on, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    pub total_bytes: i64,
    pub usable_bytes: i64,
}

/// The data directories, in the order of `log.dirs`.
#[derive(Clone)]
pub struct Directories {
    all: Arc<Vec<Directory>>,
    paths: Arc<Vec<PathBuf>>,
    disk: ShardDisk,
}

impl Directories {
    /// `limits` are of the memory that logs take which go past the page cache.
    pub fn new(all: Arc<Vec<Directory>>, offload: ShardOffload, limits: DirectLimits) -> Self {
        let paths = Arc::new(all.iter().map(|d| d.path.clone()).collect());
        Self {
            all,
            paths,
            disk: LogDisk::new(PageCache::new(offload), limits),
        }
    }

    pub fn all(&self) -> &[Directory] {
        &self.all
    }

    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    pub fn disk(&self) -> ShardDisk {
        self.disk.clone()
    }

    /// Acknowledgements wait for a flush: reads leave the disks time for it.
    pub fn on_awaited_flush(&self) {
        self.disk.base().offload().disk_reads().on_write();
    }

    /// The directory a partition lies in.
    pub fn find(&self, folder: &str) -> Option<usize> {
        self.all.iter().position(|d| d.path.join(folder).is_dir())
    }

    /// A directory that does not serve, if there is one.
    pub fn first_failed(&self) -> Option<usize> {
        self.all.iter().position(|d| d.failure().is_some())
    }

    /// The directory a new partition is to be made in: where the metadata says, else the one with the fewest
    /// partitions, as in Kafka.
    pub fn place(&self, partition: &PartitionImage) -> usize {
        let assigned = partition.directories.first();
        let serves = |index: &usize| self.all[*index].failure().is_none();
        let assigned = assigned.and_then(|id| self.all.iter().position(|d| d.id == *id));
        let assigned = assigned.filter(serves);
        let emptiest = || {
            let count = |index: &usize| self.all[*index].partitions.load(Ordering::Relaxed);
            let indexes = (0..self.all.len()).filter(serves);
            indexes.min_by_key(count).unwrap_or(0)
        };
        let place = assigned.unwrap_or_else(emptiest);
        self.one_more(place);
        place
    }

    /// Counts a partition that is made in a directory.
    pub fn one_more(&self, index: usize) {
        self.all[index].partitions.fetch_add(1, Ordering::Relaxed);
    }

    /// Where the log in `folder` was on its way to.
    pub fn expected(&self, folder: &str) -> Option<usize> {
        self.all.iter().position(|d| d.expected.contains(folder))
    }

    /// Sees to it that partitions whose folders are about to be made are not taken for others of their names.
    ///
    /// Those of `partitions` that have no folder are taken out of the checkpoint files of every directory that serves: a
    /// move may bring them to another than that in which they are made. Where they `are_new`, a folder is of a topic that
    /// was deleted: a move, or the deletion, could not take it away. It is set aside, as at a start.
    pub async fn make_way(
        &self,
        mut partitions: Vec<(Name, TopicId)>,
        are_new: bool,
    ) -> io::Result<()> {
        if partitions.is_empty() {
            return Ok(());
        }
        let all = self.all.clone();
        let make_way = move || {
            let serve = || all.iter().filter(|dir| dir.failure().is_none());
            if are_new {
                for ((topic, partition), id) in &partitions {
                    let folder = names::folder_name(topic, *partition);
                    serve().try_for_each(|dir| set_other_aside(&dir.path, &folder, *id))?;
                }
            }
            partitions.retain(|((topic, partition), _)| {
                let folder = names::folder_name(topic, *partition);
                !all.iter().any(|dir| dir.path.join(&folder).is_dir())
            });
            let names: Vec<Name> = partitions.into_iter().map(|(name, _)| name).collect();
            serve().try_for_each(|dir| dir.checkpoints.forget(&names))
        };
        glommio::executor().spawn_blocking(make_way).await
    }

    /// Total and free space of a directory's file system, asked where the shard need not wait.
    pub async fn measure(&self, index: usize) -> Option<Space> {
        let path = self.paths.get(index)?.clone();
        glommio::executor()
            .spawn_blocking(move || space_of(&path))
            .await
    }

    /// Tries whether a file can be made, written and synced in a directory. A full disk can be written to when
    /// there is room again, so it counts as one that can.
    pub async fn probe(&self, index: usize) -> io::Result<()> {
        let Some(dir) = self.paths.get(index).cloned() else {
            return Ok(());
        };
        let probe = move || {
            let path = dir.join(".ringspun-probe.tmp");
            let tried = File::create(&path).and_then(|file| {
                file.write_all_at(&[0; 4096], 0)?;
                file.sync_data()
            });
            tried.and_then(|()| std::fs::remove_file(&path))
        };
        match glommio::executor().spawn_blocking(probe).await {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                ) =>
            {
                Ok(())
            }
            tried => tried,
        }
    }

    /// Removes what is left of a deleted partition.
    pub async fn remove_folder(&self, folder: &Path) {
        let parent = folder.parent();
        if let Some(directory) = self.all.iter().find(|d| Some(&*d.path) == parent) {
            let fewer = |count: usize| Some(count.saturating_sub(1));
            let order = Ordering::Relaxed;
            let _ = directory.partitions.fetch_update(order, order, fewer);
        }
        if let Err(error) = self.disk.remove_dir_all(folder).await
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("{} could not be removed: {error}", folder.display());
        }
    }
}

/// Gives a folder in `dir` another name, if it is not of the topic `id`.
fn set_other_aside(dir: &Path, folder: &str, id: TopicId) -> io::Result<()> {
    let path = dir.join(folder);
    if !path.is_dir() {
        return Ok(());
    }
    let found = match std::fs::read(path.join(PARTITION_METADATA)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        found => decode_partition_metadata(&found?).ok().flatten(),
    };
    if found == Some(id) {
        return Ok(());
    }
    let stray = format!("{folder}.{}-stray", uuid::Uuid::new_v4().simple());
    tracing::warn!(
        "{} is of a topic that was deleted; it is kept as {stray}",
        path.display()
    );
    std::fs::rename(&path, dir.join(stray))?;
    File::open(dir)?.sync_all()
}

/// Total and free space of the file system of `path`.
fn space_of(path: &Path) -> Option<Space> {
    let stat = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize)).ok();
    Some(Space {
        total_bytes: bytes(stat.f_blocks)?,
        usable_bytes: bytes(stat.f_bavail)?,
    })
}
