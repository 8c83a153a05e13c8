//! The io_uring operations that glommio does not offer, on a ring of our own beside its rings. One
//! per shard.
//!
//! The ring's completions are announced through an eventfd, and a task of the shard reads it through
//! glommio; it is a blocking one, read as if it were a file. What an operation uses (the file, the
//! path, the pipe) belongs to the operation until the kernel is done with it, so a dropped future
//! frees nothing too early. Operations that may wait for the disk run on the kernel's own worker
//! threads, never on the shard.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::CString;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
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

use super::pipes::{Pipe, Pipes};

/// Entries of the ring: operations that are submitted at once, not those under way.
const ENTRIES: u32 = 64;

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
    _held: Box<dyn Any>,
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
        });
        let reap = reap(Rc::downgrade(&inner), announced);
        glommio::spawn_local(super::profile::named("ring completions", reap)).detach();
        Ok(AuxRing { inner })
    }

    /// Wakes whoever waits for operations that are complete, without waiting for a turn of glommio.
    pub(super) fn look(&self) {
        let mut wake = Vec::new();
        self.inner.state.borrow_mut().collect(&mut wake);
        wake.into_iter().for_each(Waker::wake);
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
        let read = opcode::Splice::new(
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
        let [piped, sent] = self
            .run_all([
                (read, Box::new((file, pipe.clone()))),
                (send, Box::new((pipe, socket))),
            ])
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
        let [done] = self.run_all([(entry, held)]).await?;
        result(done)
    }

    /// Submits entries together and waits until all are done.
    async fn run_all<const N: usize>(
        &self,
        entries: [(Entry, Box<dyn Any>); N],
    ) -> io::Result<[i32; N]> {
        let operations = self.inner.state.borrow_mut().submit(entries)?;
        // All of them from here on: a dropped future abandons every one.
        let mut waiting = operations.map(|operation| Waiting {
            inner: &self.inner,
            operation,
            done: false,
        });
        let mut results = [0; N];
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
                _held: held,
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

    fn collect(&mut self, wake: &mut Vec<Waker>) {
        while let Some(completion) = self.ring.completion().next() {
            let index = completion.user_data() as usize;
            self.under_way -= 1;
            let Some(Some(operation)) = self.operations.get_mut(index) else {
                continue;
            };
            if operation.abandoned {
                self.operations[index] = None;
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
    fn poll(&mut self, waker: &Waker) -> Poll<i32> {
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
                let held = state.operations[self.operation].take();
                state.free.push(self.operation);
                self.done = true;
                drop(state);
                drop(held);
                Poll::Ready(result)
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
        if operation.result.is_some() {
            state.operations[index] = None;
            state.free.push(index);
        } else {
            operation.abandoned = true;
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let mut ignored = Vec::new();
        self.collect(&mut ignored);
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
        inner.state.borrow_mut().collect(&mut wake);
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
