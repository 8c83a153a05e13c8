//! Stacks of whoever is on a core of this process, sampled by a timer of CPU time. One at a time in a process.
//!
//! The timer's signal interrupts a thread that runs, wherever it is: in the allocator, with a lock held. So its handler
//! takes no lock and no memory. It unwinds the stack, takes room for its words from a buffer that was there before by
//! one atomic addition, and writes them. Addresses only; what they are named is for others to look up.
//!
//! A sample is `thread id << 8 | addresses`, and its addresses from the innermost outwards: first those of the handler
//! itself and of the kernel's return from it.
//!
//! The buffer is taken down in this order, so that no handler writes into what is gone: the timer is stopped, the
//! buffer is not to be found any more, whoever is in the handler has left it. The handler stays: a signal may still
//! be under way, and by default it ends the process.

use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Addresses of a sample, at most; the outermost of a deeper stack are left out.
const DEPTH: usize = 128;

/// Words that a sample takes on an average, its stack being 40 deep or so; there is room for what is more.
const WORDS_PER_SAMPLE: f64 = 64.0;

/// Words of the buffer, at most: 64 MiB. What is not touched is not resident.
const WORDS_MAX: usize = 8 << 20;

/// Where handlers write. Null: nowhere.
static BUFFER: AtomicPtr<Buffer> = AtomicPtr::new(ptr::null_mut());

/// Threads that are in the handler.
static INSIDE: AtomicUsize = AtomicUsize::new(0);

struct Buffer {
    words: Box<[UnsafeCell<u64>]>,
    /// Words that were asked for; more than there are once it is full.
    taken: AtomicUsize,
    lost: AtomicU64,
}

/// A stack that was seen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stack {
    pub thread: i32,
    /// From the innermost outwards, as return addresses.
    pub addresses: Vec<u64>,
}

/// What was sampled.
#[derive(Debug, Default)]
pub struct Sampled {
    pub stacks: BTreeMap<Stack, u64>,
    /// Samples for which there was no room.
    pub lost: u64,
}

/// Samples are taken as long as it lives.
pub struct Sampler {
    buffer: *mut Buffer,
}

// SAFETY: the pointer is to what this owns alone, but for handlers, which may run on any thread.
unsafe impl Send for Sampler {}

impl Sampler {
    /// Begins to sample, so often a second of CPU time; there is room for `time` on all cores. `None` if another one
    /// is at it.
    pub fn start(samples_per_cpu_second: u32, time: Duration) -> io::Result<Option<Sampler>> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let samples = time.as_secs_f64() * cores as f64 * f64::from(samples_per_cpu_second);
        Self::with_room(
            samples_per_cpu_second,
            (samples * WORDS_PER_SAMPLE) as usize,
        )
    }

    fn with_room(samples_per_cpu_second: u32, words: usize) -> io::Result<Option<Sampler>> {
        // The first unwinding of a process may set up what the later ones use.
        let _ = unwind(&mut [0; DEPTH]);
        let words = words.clamp(DEPTH + 1, WORDS_MAX);
        let buffer = Box::into_raw(Box::new(Buffer {
            words: zeroed(words),
            taken: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
        }));
        let (null, order) = (ptr::null_mut(), Ordering::SeqCst);
        if let Err(_others) = BUFFER.compare_exchange(null, buffer, order, order) {
            // SAFETY: it was made here, and nobody else has seen it.
            drop(unsafe { Box::from_raw(buffer) });
            return Ok(None);
        }
        let sampler = Sampler { buffer };
        handle()?;
        set_timer(1_000_000 / samples_per_cpu_second.max(1))?;
        Ok(Some(sampler))
    }

    /// Ends it.
    pub fn finish(self) -> Sampled {
        self.stop();
        // SAFETY: handlers have left it (`stop`), and it is freed when `self` is dropped.
        let buffer = unsafe { &*self.buffer };
        let mut sampled = Sampled {
            lost: buffer.lost.load(Ordering::SeqCst),
            ..Sampled::default()
        };
        let taken = buffer.taken.load(Ordering::SeqCst);
        let words = &buffer.words[..taken.min(buffer.words.len())];
        // SAFETY: nobody writes any more.
        let mut words = words.iter().map(|word| unsafe { *word.get() });
        // Room that was taken and too small was left as it was: zero.
        while let Some(head) = words.next().filter(|head| *head != 0) {
            let stack = Stack {
                thread: (head >> 8) as i32,
                addresses: words.by_ref().take((head & 0xff) as usize).collect(),
            };
            *sampled.stacks.entry(stack).or_default() += 1;
        }
        sampled
    }

    /// Nothing is written into the buffer any more. May be called again.
    fn stop(&self) {
        // As long as it is this one's, nobody else begins.
        if BUFFER.load(Ordering::SeqCst) == self.buffer {
            // It fails for times that are none.
            let _ = set_timer(0);
            BUFFER.store(ptr::null_mut(), Ordering::SeqCst);
        }
        // Whoever comes later finds none; both are seen in one order, so nobody is missed.
        while INSIDE.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop();
        // SAFETY: it was made by `start`, and `stop` waited for the last who used it.
        drop(unsafe { Box::from_raw(self.buffer) });
    }
}

/// So many words, which take no memory before they are written to.
fn zeroed(words: usize) -> Box<[UnsafeCell<u64>]> {
    let words = Box::into_raw(vec![0u64; words].into_boxed_slice());
    // SAFETY: a cell has the layout of what it holds, and the box was just given up.
    unsafe { Box::from_raw(words as *mut [UnsafeCell<u64>]) }
}

/// Fills `into` with the addresses of the calling thread's stack, innermost first; returns how many there are.
fn unwind(into: &mut [u64; DEPTH]) -> usize {
    let mut count = 0;
    let note = |frame: &backtrace::Frame| {
        into[count] = frame.ip() as u64;
        count += 1;
        count < DEPTH
    };
    // SAFETY: what has to be synchronised is the look-up of names, which is not done here. The unwinder itself finds
    // its tables without a lock, and what it calls back takes none and no memory.
    unsafe { backtrace::trace_unsynchronized(note) };
    count
}

/// The handler; those who look at stacks know it by its name.
extern "C" fn ringspun_note_stack(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    INSIDE.fetch_add(1, Ordering::SeqCst);
    let buffer = BUFFER.load(Ordering::SeqCst);
    if !buffer.is_null() {
        // SAFETY: whoever is inside is waited for before it is freed.
        let buffer = unsafe { &*buffer };
        // What is interrupted may be about to look at it.
        let errno = io::Error::last_os_error();
        let mut addresses = [0; DEPTH];
        let count = unwind(&mut addresses);
        buffer.note(&addresses[..count]);
        if let Some(errno) = errno.raw_os_error() {
            // SAFETY: it is the place of this thread.
            unsafe { *libc::__errno_location() = errno };
        }
    }
    INSIDE.fetch_sub(1, Ordering::SeqCst);
}

impl Buffer {
    fn note(&self, addresses: &[u64]) {
        let at = self.taken.fetch_add(addresses.len() + 1, Ordering::SeqCst);
        let room = self.words.get(at..at.saturating_add(addresses.len() + 1));
        let Some(room) = room else {
            self.lost.fetch_add(1, Ordering::SeqCst);
            return;
        };
        let thread = rustix::thread::gettid().as_raw_nonzero().get() as u64;
        let head = thread << 8 | addresses.len() as u64;
        for (word, value) in room.iter().zip(std::iter::once(&head).chain(addresses)) {
            // SAFETY: the addition gave this room to nobody else, and it is read when all have left.
            unsafe { *word.get() = *value };
        }
    }
}

fn handle() -> io::Result<()> {
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = ringspun_note_stack;
    // SAFETY: a zeroed one is valid: no flags, nothing blocked.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: the handler does nothing that a signal's handler may not do, see above.
    match unsafe { libc::sigaction(libc::SIGPROF, &action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Interrupts the process whenever it has used so many microseconds of CPU time; 0: no more.
fn set_timer(micros: u32) -> io::Result<()> {
    let every = libc::timeval {
        tv_sec: 0,
        tv_usec: micros.into(),
    };
    let timer = libc::itimerval {
        it_interval: every,
        it_value: every,
    };
    // SAFETY: it reads the time that is given.
    match unsafe { libc::setitimer(libc::ITIMER_PROF, &timer, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a function's name is that of the handler.
pub fn is_handler(name: &str) -> bool {
    name.ends_with("ringspun_note_stack")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// One at a time, here as well.
    static ALONE: Mutex<()> = Mutex::new(());

    /// Uses so much CPU time, however long that takes.
    fn spin(time: Duration) {
        let used = || {
            // SAFETY: a zeroed time is one, and the call writes to it alone.
            let mut used: libc::timespec = unsafe { std::mem::zeroed() };
            let told = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut used) };
            assert_eq!(told, 0);
            Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
        };
        let end = used() + time;
        while used() < end {
            std::hint::black_box(vec![0u8; 100]);
        }
    }

    #[test]
    fn whoever_runs_is_seen_and_there_is_one_at_a_time() {
        let _alone = ALONE.lock();
        let sampler = Sampler::start(1000, Duration::from_secs(1)).unwrap();
        let sampler = sampler.expect("there is no other");
        assert!(
            Sampler::start(1000, Duration::from_secs(1))
                .unwrap()
                .is_none()
        );
        let threads: Vec<i32> = std::thread::scope(|scope| {
            let busy = || {
                spin(Duration::from_millis(200));
                rustix::thread::gettid().as_raw_nonzero().get()
            };
            let all: Vec<_> = (0..4).map(|_| scope.spawn(busy)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let sampled = sampler.finish();
        assert_eq!(sampled.lost, 0);
        let of = |thread: &i32| {
            let stacks = sampled.stacks.iter();
            let of = stacks.filter(|(stack, _)| stack.thread == *thread);
            of.map(|(_, samples)| samples).sum::<u64>()
        };
        for thread in &threads {
            assert!(of(thread) > 5, "{} of {thread}", of(thread));
        }
        assert!(sampled.stacks.keys().all(|stack| stack.addresses.len() > 3));
        // Another one after it.
        assert!(Sampler::start(1000, Duration::ZERO).unwrap().is_some());
    }

    #[test]
    fn samples_without_room_are_counted() {
        let _alone = ALONE.lock();
        let sampler = Sampler::with_room(1000, 0).unwrap().expect("no other");
        // SAFETY: it is freed with the sampler.
        let lost = || unsafe { &*sampler.buffer }.lost.load(Ordering::SeqCst);
        while lost() < 10 {
            spin(Duration::from_millis(20));
        }
        let sampled = sampler.finish();
        let kept: u64 = sampled.stacks.values().sum();
        assert!(kept >= 1 && sampled.lost >= 10, "{kept}, {}", sampled.lost);
    }

    #[test]
    fn threads_that_note_at_once_do_not_mix_their_words() {
        let buffer = Buffer {
            words: zeroed(30_000),
            taken: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
        };
        // SAFETY: it is what handlers do on any thread.
        struct Shared<'a>(&'a Buffer);
        unsafe impl Sync for Shared<'_> {}
        let shared = &Shared(&buffer);
        std::thread::scope(|scope| {
            for own in 1..=4u64 {
                scope.spawn(move || {
                    let shared = shared;
                    for n in 0..1000 {
                        shared.0.note(&vec![own; 1 + n % 9]);
                    }
                });
            }
        });
        let buffer = Box::into_raw(Box::new(buffer));
        let sampled = Sampler { buffer }.finish();
        let noted: u64 = sampled.stacks.values().sum();
        assert_eq!((noted, sampled.lost), (4000, 0));
        for stack in sampled.stacks.keys() {
            assert!(stack.addresses.windows(2).all(|two| two[0] == two[1]));
        }
    }
}
