//! The io_uring operations that glommio does not offer, on a ring of our own beside its rings. One
//! per shard.
//!
//! The ring's completions are announced through an eventfd, and a task of the shard reads it through
//! glommio; it is a blocking one, read as if it were a file. Where there is a [lookout](super::lookout) it polls the
//! ring instead. What an operation uses (the file, the
//! path, the pipe, the buffer) belongs to the operation until the kernel is done with it, so a dropped
//! future frees nothing too early. Operations that may wait for the disk run on the kernel's own worker
//! threads, never on the shard.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::CString;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Waker};

use glommio::io::BufferedFile;
use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, Probe, opcode, types};
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Resource, getrlimit};

use super::aligned::{AlignedBuffer, BLOCK_BYTES};
use super::disk_reads::{DiskRead, DiskReads};
use super::pipes::{Pipe, Pipes};

/// Entries of the ring: operations that are submitted at once, not those under way.
const ENTRIES: u32 = 64;

/// Bytes that are read ahead at once: a device takes no more of it in one transfer.
const READ_AHEAD_BYTES: u64 = 256 * 1024;

/// glommio needs as much locked memory for its rings.
const MEMLOCK_LEAST_BYTES: u64 = 512 * 1024;

/// Why this machine cannot run shards; each says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(
        "io_uring is not available ({error}): set the sysctl kernel.io_uring_disabled=0, and in a \
         container allow the io_uring system calls (seccomp)"
    )]
    Forbidden { error: io::Error },
    #[error("io_uring of this kernel lacks {operation}: Linux 5.15 or newer is needed")]
    Lacks { operation: &'static str },
    #[error(
        "the limit of locked memory is {have} bytes, at least {MEMLOCK_LEAST_BYTES} are needed: \
         raise it (ulimit -l, LimitMEMLOCK= of systemd, --ulimit memlock= of docker)"
    )]
    Memlock { have: u64 },
}

/// Whether shards can run here. To be asked before the first one is started: glommio ends the process
/// otherwise.
pub fn probe() -> Result<(), ProbeError> {
    if let Some(have) = getrlimit(Resource::Memlock).current
        && have < MEMLOCK_LEAST_BYTES
    {
        return Err(ProbeError::Memlock { have });
    }
    let forbidden = |error| ProbeError::Forbidden { error };
    let ring = IoUring::new(8).map_err(forbidden)?;
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(forbidden)?;
    for (code, operation) in [
        (opcode::Fsync::CODE, "fsync"),
        (opcode::Splice::CODE, "splice"),
        (opcode::Fallocate::CODE, "fallocate"),
        (opcode::UnlinkAt::CODE, "unlinkat"),
        (opcode::RenameAt::CODE, "renameat"),
        (opcode::PollAdd::CODE, "poll"),
    ] {
        if !probe.is_supported(code) {
            return Err(ProbeError::Lacks { operation });
        }
    }
    Ok(())
}

/// The ring of one shard; clones are the same ring.
#[derive(Clone)]
pub struct AuxRing {
    inner: Rc<Inner>,
}

struct Inner {
    state: RefCell<State>,
    pipes: Pipes,
    reads: DiskReads,
    /// The task that reads the eventfd, until somebody else looks.
    reaper: RefCell<Option<glommio::Task<()>>>,
}

struct State {
    /// Leaked, with `operations`, if the ring goes while operations are under way.
    ring: ManuallyDrop<IoUring>,
    operations: ManuallyDrop<Vec<Option<Operation>>>,
    free: Vec<usize>,
    under_way: usize,
}

struct Operation {
    result: Option<i32>,
    waker: Option<Waker>,
    /// Nobody waits any more.
    abandoned: bool,
    /// What the kernel uses.
    held: Box<dyn Any>,
    /// Ends with the operation, whether somebody looks at its result or not.
    read: Option<DiskRead>,
}

/// What is to be dropped when nobody borrows the ring's state: a buffer that goes back to its pool wakes tasks, and so
/// does the end of a read.
#[derive(Default)]
struct Ended {
    abandoned: Vec<Operation>,
    reads: Vec<DiskRead>,
}

impl AuxRing {
    /// Makes the ring and its task on the current shard.
    pub fn new() -> io::Result<AuxRing> {
        let ring = IoUring::new(ENTRIES)?;
        let announced = eventfd(0, EventfdFlags::CLOEXEC)?;
        ring.submitter().register_eventfd(announced.as_raw_fd())?;
        let inner = Rc::new(Inner {
            state: RefCell::new(State {
                ring: ManuallyDrop::new(ring),
                operations: ManuallyDrop::new(Vec::new()),
                free: Vec::new(),
                under_way: 0,
            }),
            pipes: Pipes::default(),
            reads: DiskReads::default(),
            reaper: RefCell::default(),
        });
        let reap = reap(Rc::downgrade(&inner), announced);
        let reap = super::executor::spawn("ring completions", reap);
        *inner.reaper.borrow_mut() = Some(reap);
        Ok(AuxRing { inner })
    }

    /// Leaves it to the caller to [look](Self::look) when the descriptor, which is the ring's, can be read.
    pub(super) fn leave_to_poll(&self) -> io::Result<RawFd> {
        // It is cancelled.
        drop(self.inner.reaper.take());
        let state = self.inner.state.borrow();
        state.ring.submitter().unregister_eventfd()?;
        Ok(state.ring.as_raw_fd())
    }

    /// Wakes whoever waits for operations that are complete. Returns whether any is.
    pub(super) fn look(&self) -> bool {
        let mut state = self.inner.state.borrow_mut();
        if !state.has_completions() {
            return false;
        }
        let mut wake = Vec::new();
        let ended = state.collect(&mut wake);
        drop(state);
        drop(ended);
        wake.into_iter().for_each(Waker::wake);
        true
    }

    /// fdatasync(2): what was written is on the disk, with what is needed to read it.
    ///
    /// After an error the state of the file is unknown; do not try again on the same file.
    pub async fn fdatasync(&self, file: Arc<File>) -> io::Result<()> {
        self.sync(file, types::FsyncFlags::DATASYNC).await
    }

    /// fsync(2), of a directory too.
    pub async fn fsync(&self, file: Arc<File>) -> io::Result<()> {
        self.sync(file, types::FsyncFlags::empty()).await
    }

    /// Lets so many operations wait for the disk at once, on threads of the kernel that come and go; 0 changes
    /// nothing. Returns how many did so far. Holds for all rings of this thread.
    pub fn set_disk_workers(&self, most: u32) -> io::Result<u32> {
        // The second is of what waits for sockets.
        let mut limits = [most, 0];
        let state = self.inner.state.borrow();
        state
            .ring
            .submitter()
            .register_iowq_max_workers(&mut limits)?;
        Ok(limits[0])
    }

    async fn sync(&self, file: Arc<File>, flags: types::FsyncFlags) -> io::Result<()> {
        let fd = types::Fd(file.as_raw_fd());
        let entry = opcode::Fsync::new(fd).flags(flags).build();
        self.run(entry, Box::new(file)).await.map(drop)
    }

    /// fallocate(2) with the given mode (0, or `FALLOC_FL_KEEP_SIZE`, …).
    pub async fn fallocate(
        &self,
        file: Arc<File>,
        mode: i32,
        position: u64,
        bytes: u64,
    ) -> io::Result<()> {
        let entry = opcode::Fallocate::new(types::Fd(file.as_raw_fd()), bytes)
            .offset(position)
            .mode(mode)
            .build();
        self.run(entry, Box::new(file)).await.map(drop)
    }

    /// Writes `range` of `buffer`, which begins and ends on a block, at `position` of a file that was opened
    /// with O_DIRECT; `durable` makes it as good as synced when it returns (RWF_DSYNC). Returns the bytes
    /// written.
    ///
    /// Nobody can change the buffer meanwhile: the operation has it, too.
    pub async fn write_direct(
        &self,
        file: Arc<File>,
        position: u64,
        buffer: Rc<AlignedBuffer>,
        range: Range<usize>,
        durable: bool,
    ) -> io::Result<usize> {
        self.disk_reads().on_write();
        let bytes = &AlignedBuffer::as_ref(&buffer)[range];
        assert!(bytes.len().is_multiple_of(BLOCK_BYTES));
        let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let entry = opcode::Write::new(types::Fd(file.as_raw_fd()), bytes.as_ptr(), len)
            .offset(position)
            .rw_flags(if durable { libc::RWF_DSYNC } else { 0 })
            .build();
        let [(done, _)] = self
            .run_all([(entry, Box::new((file, buffer)))], None)
            .await?;
        result(done).map(|written| written as usize)
    }

    /// Fills `buffer` from `position` of a file that was opened with O_DIRECT. Returns it with the bytes read:
    /// fewer at the end of the file only. `read` is of [`disk_reads`](Self::disk_reads).
    pub async fn read_direct(
        &self,
        file: Arc<File>,
        position: u64,
        mut buffer: AlignedBuffer,
        len: usize,
        read: DiskRead,
    ) -> io::Result<(usize, AlignedBuffer)> {
        let into = &mut AlignedBuffer::as_mut(&mut buffer)[..len];
        let len = u32::try_from(into.len()).map_err(io::Error::other)?;
        let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), into.as_mut_ptr(), len)
            .offset(position)
            .build();
        let held: Box<dyn Any> = Box::new((file, buffer));
        let [(done, held)] = self.run_all([(entry, held)], Some(read)).await?;
        let filled = result(done)? as usize;
        match held.downcast::<(Arc<File>, AlignedBuffer)>() {
            Ok(held) => Ok((filled, held.1)),
            Err(_) => Err(io::Error::other("the buffer of another operation")),
        }
    }

    /// unlink(2): removes a file, without the shard waiting for its blocks to be freed.
    pub async fn unlink(&self, path: &Path) -> io::Result<()> {
        self.remove(path, 0).await
    }

    /// rmdir(2).
    pub async fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.remove(path, libc::AT_REMOVEDIR).await
    }

    async fn remove(&self, path: &Path, flags: i32) -> io::Result<()> {
        let path = c_path(path)?;
        let entry = opcode::UnlinkAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr())
            .flags(flags)
            .build();
        self.run(entry, Box::new(path)).await.map(drop)
    }

    /// rename(2).
    pub async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (c_path(from)?, c_path(to)?);
        let here = types::Fd(libc::AT_FDCWD);
        let entry = opcode::RenameAt::new(here, from.as_ptr(), here, to.as_ptr()).build();
        self.run(entry, Box::new((from, to))).await.map(drop)
    }

    /// Has a range of a file brought into the page cache (POSIX_FADV_WILLNEED), which nobody waits for and of which
    /// no error is told.
    ///
    /// One piece after the other: all at once are worked off by a thread of the kernel without a pause, for up to
    /// 4.7 ms, and where that shares the core of the shard it waits. 2 GB that were not in the page cache, read beside
    /// 5,000 records/s, in turns, with all at once and one after the other: 82 and 11 turns of more than 1 ms of who
    /// sends, the longest 6.0 and 1.9 ms, and 1.52 and 1.73 GB/s.
    ///
    /// While somebody waits for writes, each piece takes its turn of the [disk's reads](Self::disk_reads).
    pub(crate) fn read_ahead(&self, file: &Arc<File>, range: Range<u64>) {
        let (ring, file) = (self.clone(), file.clone());
        let bring_in = async move {
            for position in range.clone().step_by(READ_AHEAD_BYTES as usize) {
                let bytes = (range.end - position).min(READ_AHEAD_BYTES);
                let brought = match ring.disk_reads().are_contended() {
                    true => ring.bring_in(&file, position, bytes).await,
                    false => {
                        let ask = ask_for(&file, position, bytes);
                        ring.run(ask, Box::new(file.clone())).await.map(drop)
                    }
                };
                if brought.is_err() {
                    return;
                }
            }
        };
        super::executor::spawn("read-ahead", bring_in).detach();
    }

    /// As [`read_ahead`](Self::read_ahead), in its turn, and until the bytes are there: to ask for them returns when the
    /// device has been asked, a read of the last one does not.
    async fn bring_in(&self, file: &Arc<File>, position: u64, bytes: u64) -> io::Result<()> {
        let turn = self.disk_reads().begin_ahead(bytes).await;
        let ask = ask_for(file, position, bytes).flags(Flags::ASYNC | Flags::IO_LINK);
        let mut last = vec![0u8];
        let wait = opcode::Read::new(types::Fd(file.as_raw_fd()), last.as_mut_ptr(), 1)
            .offset(position + bytes - 1)
            .build()
            .flags(Flags::ASYNC);
        let entries: [(Entry, Box<dyn Any>); 2] = [
            (ask, Box::new(file.clone())),
            (wait, Box::new((file.clone(), last))),
        ];
        let [_, (waited, _)] = self.run_all(entries, Some(turn)).await?;
        result(waited).map(drop)
    }

    /// What is read from disks: to be asked before it is.
    pub fn disk_reads(&self) -> &DiskReads {
        &self.inner.reads
    }

    /// The pipes of this shard, for [`Self::splice_through`].
    pub(crate) fn pipes(&self) -> &Pipes {
        &self.inner.pipes
    }

    /// splice(2) from a file into an empty pipe, and from there into a socket: two operations in a chain,
    /// which one worker thread does one after the other. The file is read, and the bytes are sent, off the
    /// shard.
    ///
    /// Room in the socket is not waited for, or a peer that does not read would hold a worker. Where the
    /// pipe takes less than was asked for, the chain ends before the socket.
    pub(crate) async fn splice_through(
        &self,
        file: Arc<File>,
        position: u64,
        pipe: Rc<Pipe>,
        socket: Rc<impl AsRawFd + 'static>,
        bytes: u32,
    ) -> io::Result<Spliced> {
        let position = i64::try_from(position).map_err(io::Error::other)?;
        let (outlet, inlet) = pipe.raw_ends();
        let turn = match self.disk_reads().are_contended() {
            true => Some(self.disk_reads().begin(bytes.into()).await),
            false => None,
        };
        let splice = opcode::Splice::new(
            types::Fd(file.as_raw_fd()),
            position,
            types::Fd(inlet),
            -1,
            bytes,
        )
        .build()
        .flags(Flags::ASYNC | Flags::IO_LINK);
        let send = opcode::Splice::new(
            types::Fd(outlet),
            -1,
            types::Fd(socket.as_raw_fd()),
            -1,
            bytes,
        )
        .flags(libc::SPLICE_F_NONBLOCK)
        .build()
        .flags(Flags::ASYNC);
        let [(piped, _), (sent, _)] = self
            .run_all(
                [
                    (splice, Box::new((file, pipe.clone()))),
                    (send, Box::new((pipe, socket))),
                ],
                turn,
            )
            .await?;
        let piped = result(piped)?;
        let sent = match result(sent) {
            Ok(sent) => sent,
            // The chain ended before, or there is no room.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::EAGAIN)) => 0,
            Err(error) => return Err(error),
        };
        Ok(Spliced { piped, sent })
    }

    /// Submits `entry`, which may use what is `held`, and waits for its result.
    async fn run(&self, entry: Entry, held: Box<dyn Any>) -> io::Result<u32> {
        // On a worker thread at once, rather than after a try on this core.
        let entry = entry.flags(Flags::ASYNC);
        let [(done, _)] = self.run_all([(entry, held)], None).await?;
        result(done)
    }

    /// Submits entries together and waits until all are done. Returns their results, and what each held. `read` ends with
    /// the last of them.
    async fn run_all<const N: usize>(
        &self,
        entries: [(Entry, Box<dyn Any>); N],
        read: Option<DiskRead>,
    ) -> io::Result<[(i32, Box<dyn Any>); N]> {
        let operations = {
            let mut state = self.inner.state.borrow_mut();
            let operations = state.submit(entries)?;
            if let Some(last) = operations.last()
                && let Some(operation) = &mut state.operations[*last]
            {
                operation.read = read;
            }
            operations
        };
        // All of them from here on: a dropped future abandons every one.
        let mut waiting = operations.map(|operation| Waiting {
            inner: &self.inner,
            operation,
            done: false,
        });
        let mut results = std::array::from_fn(|_| (0, Box::new(()) as Box<dyn Any>));
        for (result, waiting) in results.iter_mut().zip(&mut waiting) {
            *result = poll_fn(|cx| waiting.poll(cx.waker())).await;
        }
        Ok(results)
    }
}

/// What [`AuxRing::splice_through`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spliced {
    /// Bytes that the pipe took; 0 at the end of the file.
    pub(crate) piped: u32,
    /// Of these, what the socket took. The rest is in the pipe.
    pub(crate) sent: u32,
}

/// To have a part of a file brought into the page cache.
fn ask_for(file: &Arc<File>, position: u64, bytes: u64) -> Entry {
    let fd = types::Fd(file.as_raw_fd());
    opcode::Fadvise::new(fd, bytes as libc::off_t, libc::POSIX_FADV_WILLNEED)
        .offset(position)
        .build()
}

fn result(done: i32) -> io::Result<u32> {
    u32::try_from(done).map_err(|_| io::Error::from_raw_os_error(-done))
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

impl State {
    /// Queues all of the entries or none, and submits them together.
    fn submit<const N: usize>(
        &mut self,
        entries: [(Entry, Box<dyn Any>); N],
    ) -> io::Result<[usize; N]> {
        let queued = entries.map(|(entry, held)| {
            let index = self.place(Operation {
                result: None,
                waker: None,
                abandoned: false,
                held,
                read: None,
            });
            (index, entry.user_data(index as u64))
        });
        let indexes = queued.each_ref().map(|(index, _)| *index);
        let entries = queued.map(|(_, entry)| entry);
        // SAFETY: every pointer and descriptor in an entry belongs to what it came with, which stays in
        // `operations`, at its place in memory, until the completion is seen (and beyond, see Drop).
        let pushed = unsafe { self.ring.submission().push_multiple(&entries) };
        if let Err(full) = pushed {
            for index in indexes {
                self.operations[index] = None;
                self.free.push(index);
            }
            return Err(io::Error::other(full));
        }
        self.under_way += N;
        // Entries that are queued but not taken over yet go with the next submission.
        match self.ring.submit() {
            Ok(_) => Ok(indexes),
            Err(error) if busy(&error) => Ok(indexes),
            Err(error) => {
                // The kernel may still take them over one day: what is held stays held.
                for index in indexes {
                    if let Some(operation) = &mut self.operations[index] {
                        operation.abandoned = true;
                    }
                }
                Err(error)
            }
        }
    }

    fn place(&mut self, operation: Operation) -> usize {
        match self.free.pop() {
            Some(index) => {
                self.operations[index] = Some(operation);
                index
            }
            None => {
                self.operations.push(Some(operation));
                self.operations.len() - 1
            }
        }
    }

    /// Whether there is something to collect, or to submit again.
    fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty() || !self.ring.submission().is_empty()
    }

    /// Takes what is complete.
    fn collect(&mut self, wake: &mut Vec<Waker>) -> Ended {
        let mut ended = Ended::default();
        while let Some(completion) = self.ring.completion().next() {
            let index = completion.user_data() as usize;
            self.under_way -= 1;
            let Some(Some(operation)) = self.operations.get_mut(index) else {
                continue;
            };
            ended.reads.extend(operation.read.take());
            if operation.abandoned {
                ended.abandoned.extend(self.operations[index].take());
                self.free.push(index);
                continue;
            }
            operation.result = Some(completion.result());
            wake.extend(operation.waker.take());
        }
        // What the kernel was too busy to take over before.
        if !self.ring.submission().is_empty() {
            let _ = self.ring.submit();
        }
        ended
    }
}

fn busy(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::EBUSY | libc::EINTR)
    )
}

struct Waiting<'a> {
    inner: &'a Inner,
    operation: usize,
    done: bool,
}

impl Waiting<'_> {
    fn poll(&mut self, waker: &Waker) -> Poll<(i32, Box<dyn Any>)> {
        let mut state = self.inner.state.borrow_mut();
        let operation = state.operations[self.operation]
            .as_mut()
            .expect("an operation stays until its result is taken");
        match operation.result {
            None => {
                operation.waker = Some(waker.clone());
                Poll::Pending
            }
            Some(result) => {
                let done = state.operations[self.operation].take();
                state.free.push(self.operation);
                self.done = true;
                match done {
                    Some(done) => Poll::Ready((result, done.held)),
                    None => Poll::Pending,
                }
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut state = self.inner.state.borrow_mut();
        let index = self.operation;
        let Some(operation) = &mut state.operations[index] else {
            return;
        };
        if operation.result.is_none() {
            operation.abandoned = true;
            return;
        }
        let done = state.operations[index].take();
        state.free.push(index);
        drop(state);
        drop(done);
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let mut ignored = Vec::new();
        drop(self.collect(&mut ignored));
        if self.under_way == 0 {
            // SAFETY: dropped once, here, and not used afterwards; the kernel uses none of it.
            unsafe {
                ManuallyDrop::drop(&mut self.ring);
                ManuallyDrop::drop(&mut self.operations);
            }
        }
    }
}

/// Wakes whoever waits for operations that are complete, until the ring is gone.
async fn reap(inner: Weak<Inner>, announced: OwnedFd) {
    // SAFETY: the descriptor was owned and is given away here, once.
    let announced = unsafe { BufferedFile::from_raw_fd(announced.into_raw_fd()) };
    loop {
        // An eventfd has no positions; a read of 8 bytes waits until it is not zero.
        let read = announced.read_at(0, 8).await;
        let Some(inner) = inner.upgrade() else {
            return;
        };
        let mut wake = Vec::new();
        let ended = inner.state.borrow_mut().collect(&mut wake);
        drop(ended);
        wake.into_iter().for_each(Waker::wake);
        if read.is_err() {
            super::executor::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn files_are_synced_renamed_and_removed_off_the_shard() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let other = dir.path().join("b");
        probe().unwrap();
        glommio::LocalExecutorBuilder::default()
            .make()
            .unwrap()
            .run(async {
                let ring = AuxRing::new().unwrap();
                let mut file = File::create(&path).unwrap();
                file.write_all(b"records").unwrap();
                let file = Arc::new(file);
                ring.fdatasync(file.clone()).await.unwrap();
                ring.fallocate(file.clone(), 0, 0, 4096).await.unwrap();
                assert_eq!(file.metadata().unwrap().len(), 4096);
                ring.rename(&path, &other).await.unwrap();
                assert!(other.exists() && !path.exists());
                let error = ring.unlink(&path).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::NotFound);
                ring.unlink(&other).await.unwrap();
                assert!(!other.exists());
                let directory = Arc::new(File::open(dir.path()).unwrap());
                ring.fsync(directory).await.unwrap();
                let before = ring.set_disk_workers(64).unwrap();
                assert_eq!(ring.set_disk_workers(before).unwrap(), 64);
            });
    }

    #[test]
    fn blocks_are_written_and_read_past_the_page_cache_and_keep_their_buffers() {
        use super::super::aligned::BufferPool;
        use std::os::unix::fs::OpenOptionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create(true);
        let direct = options
            .custom_flags(libc::O_DIRECT)
            .open(dir.path().join("a"));
        let Ok(file) = direct.map(Arc::new) else {
            return println!("skipped: O_DIRECT is refused here");
        };
        glommio::LocalExecutorBuilder::default()
            .make()
            .unwrap()
            .run(async {
                let ring = AuxRing::new().unwrap();
                let pool = BufferPool::new(0);
                let mut buffer = pool.take(3 * BLOCK_BYTES).unwrap();
                AlignedBuffer::as_mut(&mut buffer).fill(7);
                let mut buffer = Rc::new(buffer);
                let range = BLOCK_BYTES..3 * BLOCK_BYTES;
                let write = async |buffer: &Rc<AlignedBuffer>, position, durable| {
                    let buffer = buffer.clone();
                    ring.write_direct(file.clone(), position, buffer, range.clone(), durable)
                        .await
                };
                assert_eq!(write(&buffer, 0, false).await.unwrap(), 8192);
                assert_eq!(write(&buffer, 8192, true).await.unwrap(), 8192);
                assert_eq!(file.metadata().unwrap().len(), 16384);
                assert!(Rc::get_mut(&mut buffer).is_some());
                // One that nobody waits for has its buffer until the kernel is done.
                {
                    let mut write = Box::pin(write(&buffer, 0, true));
                    assert!(futures_lite::future::poll_once(&mut write).await.is_none());
                }
                assert!(Rc::get_mut(&mut buffer).is_none());
                while Rc::get_mut(&mut buffer).is_none() {
                    ring.fdatasync(file.clone()).await.unwrap();
                }
                let into = pool.take(4 * BLOCK_BYTES).unwrap();
                let turn = ring.disk_reads().begin(4 * BLOCK_BYTES as u64).await;
                let read = ring.read_direct(file.clone(), 12288, into, 4 * BLOCK_BYTES, turn);
                let (read, buffer) = read.await.unwrap();
                assert_eq!(read, 4096);
                assert!(
                    AlignedBuffer::as_ref(&buffer)[..4096]
                        .iter()
                        .all(|b| *b == 7)
                );
                let used = pool.used_bytes();
                {
                    let turn = ring.disk_reads().begin_now(BLOCK_BYTES as u64);
                    let read = ring.read_direct(file.clone(), 0, buffer, BLOCK_BYTES, turn);
                    let mut read = Box::pin(read);
                    assert!(futures_lite::future::poll_once(&mut read).await.is_none());
                }
                assert_eq!(pool.used_bytes(), used);
                while pool.used_bytes() == used {
                    ring.fdatasync(file.clone()).await.unwrap();
                }
                // Nothing is under way that nobody waits for.
                let all = ring.disk_reads().begin(u64::MAX);
                assert!(futures_lite::future::poll_once(all).await.is_some());
            });
    }

    #[test]
    fn pieces_are_read_ahead_in_their_turn_while_writes_are_waited_for() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        file.set_len(4 << 20).unwrap();
        glommio::LocalExecutorBuilder::default()
            .make()
            .unwrap()
            .run(async {
                let ring = AuxRing::new().unwrap();
                ring.disk_reads().on_write();
                let all = ring.disk_reads().begin(u64::MAX).await;
                // The last one goes beyond the end of the file.
                ring.read_ahead(&file, 0..(4 << 20) + 1);
                for _ in 0..100 {
                    super::super::executor::yield_now().await;
                }
                assert_eq!(ring.inner.state.borrow().under_way, 0);
                drop(all);
                while Arc::strong_count(&file) > 1 {
                    ring.fdatasync(file.clone()).await.unwrap();
                }
                let all = ring.disk_reads().begin(u64::MAX);
                assert!(futures_lite::future::poll_once(all).await.is_some());
            });
    }

    #[test]
    fn pieces_that_are_read_ahead_come_one_after_the_other() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        file.set_len(4 << 20).unwrap();
        glommio::LocalExecutorBuilder::default()
            .make()
            .unwrap()
            .run(async {
                let ring = AuxRing::new().unwrap();
                ring.read_ahead(&file, 0..4 << 20);
                let mut seen = 0;
                while Arc::strong_count(&file) > 1 {
                    let under_way = ring.inner.state.borrow().under_way;
                    assert!(under_way <= 1, "{under_way} pieces at once");
                    seen += under_way;
                    super::super::executor::yield_now().await;
                }
                assert!(seen > 0);
            });
    }

    #[test]
    fn a_file_goes_through_a_pipe_into_a_socket_as_far_as_there_is_room() {
        use std::io::Read;
        use std::os::unix::net::UnixStream;
        let content: Vec<u8> = (0..3_000_000u32).map(|n| (n / 7) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let file = Arc::new(file);
        glommio::LocalExecutorBuilder::default()
            .make()
            .unwrap()
            .run(async {
                let ring = AuxRing::new().unwrap();
                let (mut peer, socket) = UnixStream::pair().unwrap();
                socket.set_nonblocking(true).unwrap();
                let socket = Rc::new(socket);
                let splice = async |position, bytes| {
                    let pipe = ring.pipes().take().unwrap();
                    let through =
                        ring.splice_through(file.clone(), position, pipe, socket.clone(), bytes);
                    through.await
                };
                let all = splice(1, 100_000).await.unwrap();
                assert_eq!((all.piped, all.sent), (100_000, 100_000));
                let mut received = vec![0; 100_000];
                peer.read_exact(&mut received).unwrap();
                assert!(received[..] == content[1..100_001]);
                // The file ends early: what there is stays in the pipe.
                let part = splice(2_999_000, 100_000).await.unwrap();
                assert_eq!((part.piped, part.sent), (1_000, 0));
                assert_eq!(splice(3_000_000, 10).await.unwrap().piped, 0);
                // Nobody reads.
                let full = loop {
                    let spliced = splice(0, 100_000).await.unwrap();
                    if spliced.sent < spliced.piped {
                        break spliced;
                    }
                };
                assert_eq!(full.piped, 100_000);
                drop(peer);
                assert!(splice(0, 100_000).await.is_err());
            });
    }

    #[test]
    fn an_operation_holds_its_file_until_the_kernel_is_done_even_if_nobody_waits() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        glommio::LocalExecutorBuilder::default()
            .make()
            .unwrap()
            .run(async {
                let ring = AuxRing::new().unwrap();
                {
                    let mut sync = Box::pin(ring.fdatasync(file.clone()));
                    assert!(futures_lite::future::poll_once(&mut sync).await.is_none());
                }
                assert_eq!(Arc::strong_count(&file), 2);
                // Completions are seen together: this one comes after the other was begun.
                while Arc::strong_count(&file) > 1 {
                    ring.fsync(Arc::new(tempfile::tempfile().unwrap()))
                        .await
                        .unwrap();
                }
            });
    }
}
