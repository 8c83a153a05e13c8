//! A disk in memory, with the faults and the crashes of real ones.
//!
//! For tests, and for simulations of whole clusters. Every call is counted; a fault can be set for the
//! n-th. [`MemoryDisk::crash`] gives the disk that a crash at this moment would leave:
//! - after a killed process: everything that was written, of which the device still has only what was synced;
//! - after a power cut: what was synced, plus whatever part of the rest a seed chooses, block by block:
//!   names in directories that were not synced may be the old or the new ones, unsynced writes may have
//!   arrived in part and out of order, and a file may have grown without what it grew by.
//!
//! A sync that fails leaves bytes that can be read and that no later sync brings to the device, as on Linux.

mod crash;
mod lie;

mod raw;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

pub use lie::Lie;

use super::disk::{DirEntry, Disk, Loan, LogFile, LogSlice, OpenMode};
use crate::base::Timestamp;
use lie::Lies;

/// What a faulty call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device says no. Nothing is written.
    Io,
    /// The disk is full. Nothing is written.
    DiskFull,
    /// A write puts down only this many bytes and says so. Other calls are `DiskFull`.
    Short(usize),
    /// As `Io` for this call and all that follow; a write puts down its first half before.
    PowerOff,
}

/// The calls that are counted, and at which faults may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Anything that changes bytes or names, or syncs them.
    Any,
    Write,
    Sync,
    /// Reading bytes of files and names of directories. Not among `Any`.
    Read,
}

/// How the machine stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process was killed: the kernel keeps what was written.
    Kill,
    /// The power went; `seed` chooses what of the unsynced survives.
    Power { seed: u64 },
}

#[derive(Clone, Debug)]
enum Change {
    Write {
        position: u64,
        bytes: Vec<u8>,
        /// Past the page cache.
        direct: bool,
    },
    Truncate(u64),
}

#[derive(Clone, Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    /// As of the last sync.
    synced: Vec<u8>,
    /// Since then.
    unsynced: Vec<Change>,
    /// Changes that are synced, counted from the beginning.
    synced_changes: u64,
    allocated: u64,
    modified: i64,
    /// Syncs that failed.
    failures: u64,
}

impl Content {
    /// The first `changes`, counted from the beginning, are on the device.
    fn sync_up_to(&mut self, changes: u64) {
        let newly = changes.saturating_sub(self.synced_changes) as usize;
        self.synced_changes += newly as u64;
        for change in self.unsynced.drain(..newly) {
            match change {
                Change::Truncate(len) => self.synced.resize(len as usize, 0),
                Change::Write {
                    position, bytes, ..
                } => apply(&mut self.synced, position, &bytes),
            }
        }
    }
}

impl Content {
    /// A sync has failed: as far as the kernel is concerned what it was to write is written, and no later sync
    /// tries again. Readers see it for as long as it stays in memory; the device has some of it. What went past the page
    /// cache is with the device, which gives it to readers, and is asked again by the next sync.
    fn forget_unsynced(&mut self, rng: &mut fastrand::Rng) {
        let changes = std::mem::take(&mut self.unsynced);
        for change in changes {
            match change {
                // Of metadata, which the journal keeps until the device has it.
                Change::Truncate(len) => self.synced.resize(len as usize, 0),
                Change::Write { direct: true, .. } => {
                    self.unsynced.push(change);
                    continue;
                }
                Change::Write {
                    position, bytes, ..
                } => crash::apply_some(&mut self.synced, position, &bytes, rng),
            }
            self.synced_changes += 1;
        }
    }
}

type Inode = Rc<RefCell<Content>>;

#[derive(Clone, Debug)]
enum Entry {
    Dir,
    File(Inode),
}

#[derive(Debug, Default)]
struct Shared {
    /// As the running system sees it.
    names: RefCell<BTreeMap<PathBuf, Entry>>,
    /// As of the last sync of each directory.
    synced_names: RefCell<BTreeMap<PathBuf, Entry>>,
    /// Files that were renamed since their directory was synced, from and to.
    renames: RefCell<Vec<(PathBuf, PathBuf)>>,
    /// Directories that were renamed since one that either name is in was synced, in order.
    dir_renames: RefCell<Vec<(PathBuf, PathBuf)>>,
    /// Files that were removed since then, in order.
    removals: RefCell<Vec<PathBuf>>,
    calls: Cell<u64>,
    writes: Cell<u64>,
    syncs: Cell<u64>,
    opens: Cell<u64>,
    read_bytes: Cell<u64>,
    reads: Cell<u64>,
    lies: Lies,
    fault: Cell<Option<(Call, u64, Fault)>>,
    off: Cell<bool>,
    syncs_held: Cell<bool>,
    removals_held: Cell<bool>,
    writes_held: Cell<bool>,
    /// Who waits for a sync or a write that is held.
    held: RefCell<Vec<Waker>>,
    /// How often a call lets others run.
    pauses: RefCell<Option<fastrand::Rng>>,
    now: Cell<i64>,
}

/// A disk in memory; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    shared: Rc<Shared>,
}

/// A file of a [`MemoryDisk`].
#[derive(Clone, Debug)]
pub struct MemoryFile {
    shared: Rc<Shared>,
    inode: Inode,
    /// Failed syncs of the file that were told to whoever has opened it. Linux tells each once, by the sync that
    /// meets it or the next.
    told: Rc<Cell<u64>>,
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, path.to_string_lossy().into_owned())
}

impl Shared {
    /// Counts a call; what it is to do if a fault is set for it.
    fn count(&self, call: Call) -> Result<Option<Fault>, io::Error> {
        if self.off.get() {
            return Err(io::Error::other("no power"));
        }
        self.calls.set(self.calls.get() + 1);
        let counter = match call {
            Call::Any => &self.calls,
            Call::Write => &self.writes,
            Call::Sync => &self.syncs,
            Call::Read => &self.reads,
        };
        if call != Call::Any {
            counter.set(counter.get() + 1);
        }
        let Some((kind, at, fault)) = self.fault.get() else {
            return Ok(None);
        };
        let due = match kind {
            Call::Any => self.calls.get() >= at,
            kind => kind == call && counter.get() >= at,
        };
        if !due {
            return Ok(None);
        }
        if fault == Fault::PowerOff {
            self.off.set(true);
        } else {
            self.fault.set(None);
        }
        Ok(Some(fault))
    }

    /// Counts a call that changes nothing. Without power, what was read before can still be read.
    fn check_read(&self) -> io::Result<()> {
        self.reads.set(self.reads.get() + 1);
        match self.fault.get() {
            Some((Call::Read, at, _)) if self.reads.get() >= at => {
                self.fault.set(None);
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
            _ => Ok(()),
        }
    }

    fn poll_held(&self, is_held: &Cell<bool>, context: &mut Context<'_>) -> Poll<()> {
        if !is_held.get() {
            return Poll::Ready(());
        }
        self.held.borrow_mut().push(context.waker().clone());
        Poll::Pending
    }

    /// Lets others run, if that is asked for.
    async fn pause(&self) {
        let mut left = match &mut *self.pauses.borrow_mut() {
            None => 0,
            Some(rng) => match rng.u8(0..8) {
                0 => rng.u8(0..30),
                often => often % 3,
            },
        };
        poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    fn check(&self, call: Call) -> io::Result<()> {
        match self.count(call)? {
            None => Ok(()),
            Some(Fault::Io) => Err(io::Error::from_raw_os_error(libc::EIO)),
            Some(Fault::DiskFull | Fault::Short(_)) => {
                Err(io::Error::from_raw_os_error(libc::ENOSPC))
            }
            Some(Fault::PowerOff) => Err(io::Error::other("no power")),
        }
    }
}

fn apply(bytes: &mut Vec<u8>, position: u64, data: &[u8]) {
    let start = position as usize;
    let end = start + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[start..end].copy_from_slice(data);
}

/// What is in the directory `from`, and that itself, is called `to` from now on.
fn move_names(names: &mut BTreeMap<PathBuf, Entry>, from: &Path, to: &Path) {
    let inside = names.keys().filter(|path| path.starts_with(from));
    for path in inside.cloned().collect::<Vec<_>>() {
        if let Some(entry) = names.remove(&path) {
            names.insert(moved(&path, from, to), entry);
        }
    }
}

/// `path` once `from` is called `to`.
fn moved(path: &Path, from: &Path, to: &Path) -> PathBuf {
    match path.strip_prefix(from) {
        Ok(rest) if rest.as_os_str().is_empty() => to.to_path_buf(),
        Ok(rest) => to.join(rest),
        Err(_) => path.to_path_buf(),
    }
}

impl MemoryDisk {
    pub fn new() -> Self {
        let disk = Self::default();
        disk.shared
            .names
            .borrow_mut()
            .insert(PathBuf::from("/"), Entry::Dir);
        disk
    }

    /// The `nth` call of this kind from the beginning (from 1), or the next one if that is past, fails so.
    pub fn set_fault(&self, call: Call, nth: u64, fault: Fault) {
        self.shared.fault.set(Some((call, nth, fault)));
    }

    /// No call fails any more; power that is off stays off.
    pub fn clear_fault(&self) {
        self.shared.fault.set(None);
    }

    /// Whether a [`Fault::PowerOff`] has come.
    pub fn is_off(&self) -> bool {
        self.shared.off.get()
    }

    /// Answers these syncs from now on without doing them.
    pub fn lie(&self, lie: Option<Lie>) {
        self.shared.lies.set(lie);
    }

    /// Syncs that were answered and not done.
    pub fn lies_told(&self) -> u64 {
        self.shared.lies.told()
    }

    /// Calls of this kind so far.
    pub fn calls(&self, call: Call) -> u64 {
        match call {
            Call::Any => self.shared.calls.get(),
            Call::Write => self.shared.writes.get(),
            Call::Sync => self.shared.syncs.get(),
            Call::Read => self.shared.reads.get(),
        }
    }

    /// Files opened so far.
    pub fn opens(&self) -> u64 {
        self.shared.opens.get()
    }

    /// Bytes read so far from files that were opened.
    pub fn read_bytes(&self) -> u64 {
        self.shared.read_bytes.get()
    }

    /// The modification time of what is written from now on.
    pub fn set_time(&self, now: Timestamp) {
        self.shared.now.set(now.0);
    }

    /// Bytes allocated behind the end of a file; `None` if there is no such file.
    pub fn tail_bytes(&self, path: &Path) -> Option<u64> {
        match self.shared.names.borrow().get(path) {
            Some(Entry::File(inode)) => {
                let content = inode.borrow();
                Some(content.allocated.saturating_sub(content.bytes.len() as u64))
            }
            _ => None,
        }
    }

    /// Changes a byte of a file behind everyone's back, as a rotten disk does.
    ///
    /// Panics if there is no such byte.
    pub fn flip(&self, path: &Path, position: u64) {
        let names = self.shared.names.borrow();
        let Some(Entry::File(inode)) = names.get(path) else {
            panic!("no file {}", path.display());
        };
        let mut content = inode.borrow_mut();
        content.bytes[position as usize] ^= 0x40;
        content.synced = content.bytes.clone();
        content.synced_changes += content.unsynced.len() as u64;
        content.unsynced.clear();
    }

    /// Syncs of files begin and do not end, until [`release_syncs`](Self::release_syncs).
    pub fn hold_syncs(&self) {
        self.shared.syncs_held.set(true);
    }

    /// Lets the syncs end that are held, and holds no more. What was written while one was held is not
    /// covered by it.
    pub fn release_syncs(&self) {
        self.shared.syncs_held.set(false);
        for waker in self.shared.held.take() {
            waker.wake();
        }
    }

    /// Writes past the page cache begin and do not end, until [`release_writes`](Self::release_writes).
    pub fn hold_writes(&self) {
        self.shared.writes_held.set(true);
    }

    /// Lets the writes end that are held, and holds no more.
    pub fn release_writes(&self) {
        self.shared.writes_held.set(false);
        for waker in self.shared.held.take() {
            waker.wake();
        }
    }

    /// Removals of files begin and do not end, until [`release_removals`](Self::release_removals).
    pub fn hold_removals(&self) {
        self.shared.removals_held.set(true);
    }

    /// Lets the removals end that are held, and holds no more.
    pub fn release_removals(&self) {
        self.shared.removals_held.set(false);
        for waker in self.shared.held.take() {
            waker.wake();
        }
    }

    /// Every call lets others run before and after what it does, as often as `seed` says; `None`: no call does.
    pub fn pause(&self, seed: Option<u64>) {
        *self.shared.pauses.borrow_mut() = seed.map(fastrand::Rng::with_seed);
    }

    /// Every file with its content, in the order of paths.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let names = self.shared.names.borrow();
        names
            .iter()
            .filter_map(|(path, entry)| match entry {
                Entry::Dir => None,
                Entry::File(inode) => Some((path.clone(), inode.borrow().bytes.clone())),
            })
            .collect()
    }

    fn rename_now(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = self.shared.names.borrow_mut();
        let rename = (from.to_path_buf(), to.to_path_buf());
        let mut renames = self.shared.renames.borrow_mut();
        if from != to && matches!(names.get(to), Some(Entry::Dir)) {
            let is_in = |path: &PathBuf| path.parent() == Some(to);
            if names.keys().any(is_in) {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
        }
        match names.get(from) {
            None => return Err(not_found(from)),
            Some(Entry::File(_)) => renames.push(rename),
            Some(Entry::Dir) => {
                for (old, new) in renames.iter_mut() {
                    *old = moved(old, from, to);
                    *new = moved(new, from, to);
                }
                for removed in self.shared.removals.borrow_mut().iter_mut() {
                    *removed = moved(removed, from, to);
                }
                self.shared.dir_renames.borrow_mut().push(rename);
            }
        }
        move_names(&mut names, from, to);
        Ok(())
    }

    fn inode(&self, path: &Path) -> Option<Inode> {
        match self.shared.names.borrow().get(path) {
            Some(Entry::File(inode)) => Some(inode.clone()),
            _ => None,
        }
    }
}

impl MemoryFile {
    fn open(shared: &Rc<Shared>, inode: Inode) -> Self {
        let told = inode.borrow().failures;
        Self {
            shared: shared.clone(),
            inode,
            told: Rc::new(Cell::new(told)),
        }
    }

    /// Bytes of the file as of its last sync.
    pub fn synced_bytes(&self) -> u64 {
        self.inode.borrow().synced.len() as u64
    }

    fn is_lied_about(&self) -> bool {
        let lies = &self.shared.lies;
        lies.are_about_files()
            && self.shared.names.borrow().iter().any(|(path, entry)| {
                matches!(entry, Entry::File(inode) if Rc::ptr_eq(inode, &self.inode))
                    && lies.skip_file(path)
            })
    }
}

impl LogFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.inode.borrow().bytes.len() as u64)
    }

    async fn write_at(&self, position: u64, buffers: Vec<Bytes>) -> io::Result<u64> {
        self.shared.pause().await;
        let mut data = Vec::new();
        for buffer in &buffers {
            data.extend_from_slice(buffer);
        }
        let (keep, error) = match self.shared.count(Call::Write)? {
            None => (data.len(), None),
            Some(Fault::Io) => return Err(io::Error::from_raw_os_error(libc::EIO)),
            Some(Fault::DiskFull) => return Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            Some(Fault::Short(len)) => (len.min(data.len()), None),
            Some(Fault::PowerOff) => (data.len() / 2, Some(io::Error::other("no power"))),
        };
        data.truncate(keep);
        {
            let mut content = self.inode.borrow_mut();
            apply(&mut content.bytes, position, &data);
            content.allocated = content.allocated.max(content.bytes.len() as u64);
            content.modified = self.shared.now.get();
            content.unsynced.push(Change::Write {
                position,
                bytes: data,
                direct: false,
            });
        }
        self.shared.pause().await;
        match error {
            None => Ok(keep as u64),
            Some(error) => Err(error),
        }
    }

    async fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.shared.check_read()?;
        self.shared.pause().await;
        let len = {
            let content = self.inode.borrow();
            let start = usize::try_from(position)
                .unwrap_or(usize::MAX)
                .min(content.bytes.len());
            let len = buffer.len().min(content.bytes.len() - start);
            buffer[..len].copy_from_slice(&content.bytes[start..start + len]);
            len
        };
        let read = self.shared.read_bytes.get() + len as u64;
        self.shared.read_bytes.set(read);
        self.shared.pause().await;
        Ok(len)
    }

    async fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        self.shared.pause().await;
        self.shared.check(Call::Any)?;
        let mut content = self.inode.borrow_mut();
        content.allocated = content.allocated.max(position + len);
        Ok(())
    }

    async fn fill(&self, position: u64, len: u64) -> io::Result<bool> {
        let zeros = Bytes::from(vec![0; len as usize]);
        // A failure that its sync meets is told to others as well.
        let file = Self::open(&self.shared, self.inode.clone());
        match file.write_at(position, vec![zeros]).await {
            Ok(n) if n == len => {}
            Ok(_) => return Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => return Ok(false),
            Err(error) => return Err(error),
        }
        file.sync_data().await?;
        Ok(true)
    }

    async fn truncate(&self, len: u64) -> io::Result<()> {
        self.shared.pause().await;
        self.shared.check(Call::Any)?;
        {
            let mut content = self.inode.borrow_mut();
            content.bytes.resize(len as usize, 0);
            content.allocated = len;
            content.unsynced.push(Change::Truncate(len));
        }
        self.shared.pause().await;
        Ok(())
    }

    async fn sync_data(&self) -> io::Result<()> {
        if let Err(error) = self.shared.check(Call::Sync) {
            if !self.shared.off.get() {
                let mut rng = fastrand::Rng::with_seed(self.shared.calls.get());
                let mut content = self.inode.borrow_mut();
                content.forget_unsynced(&mut rng);
                content.failures += 1;
                self.told.set(content.failures);
            }
            return Err(error);
        }
        if self.is_lied_about() {
            return Ok(());
        }
        let covered = {
            let content = self.inode.borrow();
            content.synced_changes + content.unsynced.len() as u64
        };
        self.shared.pause().await;
        poll_fn(|context| self.shared.poll_held(&self.shared.syncs_held, context)).await;
        let mut content = self.inode.borrow_mut();
        content.sync_up_to(covered);
        match self.told.replace(content.failures) < content.failures {
            true => Err(io::Error::from_raw_os_error(libc::EIO)),
            false => Ok(()),
        }
    }

    async fn slice(&self, position: u64, len: u32, _loan: Loan) -> io::Result<LogSlice> {
        self.shared.pause().await;
        let content = self.inode.borrow();
        let start = position as usize;
        match content.bytes.get(start..start + len as usize) {
            Some(bytes) => Ok(LogSlice::Bytes(Bytes::copy_from_slice(bytes))),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Disk for MemoryDisk {
    type File = MemoryFile;

    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<MemoryFile> {
        self.shared.pause().await;
        let inode = match self.inode(path) {
            Some(inode) => inode,
            None if matches!(mode, OpenMode::Create | OpenMode::Truncate) => {
                self.shared.check(Call::Any)?;
                let mut names = self.shared.names.borrow_mut();
                let parent = path.parent().unwrap_or(Path::new("/"));
                if !matches!(names.get(parent), Some(Entry::Dir)) {
                    return Err(not_found(parent));
                }
                let inode = Inode::default();
                inode.borrow_mut().modified = self.shared.now.get();
                names.insert(path.to_path_buf(), Entry::File(inode.clone()));
                inode
            }
            None => return Err(not_found(path)),
        };
        self.shared.opens.set(self.shared.opens.get() + 1);
        let file = MemoryFile::open(&self.shared, inode);
        if mode == OpenMode::Truncate && file.len()? > 0 {
            file.truncate(0).await?;
        }
        self.shared.pause().await;
        Ok(file)
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.shared.pause().await;
        self.shared.check_read()?;
        let names = self.shared.names.borrow();
        if !matches!(names.get(dir), Some(Entry::Dir)) {
            return Err(not_found(dir));
        }
        let mut entries = Vec::new();
        for (path, entry) in names.iter() {
            if path.parent() != Some(dir) {
                continue;
            }
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            let (is_dir, len, modified) = match entry {
                Entry::Dir => (true, 0, 0),
                Entry::File(inode) => {
                    let content = inode.borrow();
                    (false, content.bytes.len() as u64, content.modified)
                }
            };
            entries.push(DirEntry {
                name: name.to_owned(),
                is_dir,
                len,
                modified: Timestamp(modified),
            });
        }
        Ok(entries)
    }

    async fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.shared.pause().await;
        self.shared.check(Call::Any)?;
        let mut names = self.shared.names.borrow_mut();
        if names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        match path.parent() {
            Some(parent) if !matches!(names.get(parent), Some(Entry::Dir)) => {
                Err(not_found(parent))
            }
            _ => {
                names.insert(path.to_path_buf(), Entry::Dir);
                Ok(())
            }
        }
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.shared.pause().await;
        self.shared.check(Call::Any)?;
        self.rename_now(from, to)?;
        self.shared.pause().await;
        Ok(())
    }

    async fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.shared.check(Call::Any)?;
        let is_held = &self.shared.removals_held;
        self.shared.pause().await;
        poll_fn(|context| self.shared.poll_held(is_held, context)).await;
        match self.inode(path) {
            Some(_) => {
                self.shared.names.borrow_mut().remove(path);
                self.shared.removals.borrow_mut().push(path.to_path_buf());
            }
            None => return Err(not_found(path)),
        }
        self.shared.pause().await;
        Ok(())
    }

    async fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.shared.pause().await;
        self.shared.check(Call::Any)?;
        let mut names = self.shared.names.borrow_mut();
        if !matches!(names.get(path), Some(Entry::Dir)) {
            return Err(not_found(path));
        }
        names.retain(|name, _| !name.starts_with(path));
        Ok(())
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.shared.pause().await;
        self.shared.check(Call::Sync)?;
        if self.shared.lies.skip_dir(dir) {
            return Ok(());
        }
        let names = self.shared.names.borrow();
        let mut synced = self.shared.synced_names.borrow_mut();
        let mut dir_renames = self.shared.dir_renames.borrow_mut();
        // Those before are in the same journal.
        let last = dir_renames.iter().rposition(|(from, to)| {
            from.parent() == Some(dir) || to.parent() == Some(dir) || dir.starts_with(to)
        });
        for (from, to) in dir_renames.drain(..last.map_or(0, |last| last + 1)) {
            move_names(&mut synced, &from, &to);
        }
        synced.retain(|path, _| path.parent() != Some(dir));
        let of_dir = |path: &PathBuf| path.parent() == Some(dir);
        let mut renames = self.shared.renames.borrow_mut();
        renames.retain(|(from, to)| !of_dir(from) && !of_dir(to));
        self.shared
            .removals
            .borrow_mut()
            .retain(|path| !of_dir(path));
        for (path, entry) in names.iter() {
            // The directory itself and those above it are taken as synced with it.
            if path.parent() == Some(dir) || dir.starts_with(path) {
                synced.insert(path.clone(), entry.clone());
            }
        }
        Ok(())
    }

    async fn read_file(&self, path: &Path, limit_bytes: usize) -> io::Result<Vec<u8>> {
        self.shared.pause().await;
        let inode = self.inode(path).ok_or_else(|| not_found(path))?;
        self.shared.check_read()?;
        let content = inode.borrow();
        if content.bytes.len() > limit_bytes {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(content.bytes.clone())
    }

    async fn replace_file(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(".tmp");
        let temporary = PathBuf::from(name);
        let file = self.open(&temporary, OpenMode::Truncate).await?;
        let data = Bytes::copy_from_slice(content);
        let len = data.len() as u64;
        if file.write_at(0, vec![data]).await? < len {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        file.sync_data().await?;
        self.rename(&temporary, path).await?;
        match path.parent() {
            Some(dir) => self.sync_dir(dir).await,
            None => Ok(()),
        }
    }

    async fn discard(&self, _files: Vec<MemoryFile>) {}
}
