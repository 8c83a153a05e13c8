//! What crosses threads inside the mailbox: envelopes on lock-free lanes, and the bell that wakes a
//! sleeping receiver. All the `unsafe` of the mailbox is here.
//!
//! An [`Envelope`] belongs to the endpoint that made it, for the life of the mailbox. Whoever holds
//! its [`EnvelopeRef`] has it for itself: the sender puts a request in, the lane carries it, the
//! receiver takes the request out, puts the reply in and sends it home. There is one `EnvelopeRef`
//! an envelope, it cannot be cloned, and so a reply can neither get lost in a queue without room
//! nor be mixed up with another.
//!
//! A [`Lane`] is a stack that many push on and one takes whole; taken over, it is reversed, so
//! letters arrive in the order each sender pushed them.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};
use std::task::Waker;

pub(super) enum Letter<Q, A> {
    Empty,
    Request(Q),
    /// `None`: the receiver let the request fall.
    Reply(Option<A>),
}

/// Aligned to a cache line pair: two envelopes in flight between different cores must not share one.
#[repr(align(128))]
pub(super) struct Envelope<Q, A> {
    next: AtomicPtr<Envelope<Q, A>>,
    from: u16,
    slot: u32,
    letter: UnsafeCell<Letter<Q, A>>,
}

/// The one handle of an envelope, and with it the right to its letter.
pub(super) struct EnvelopeRef<Q, A>(NonNull<Envelope<Q, A>>);

impl<Q, A> EnvelopeRef<Q, A> {
    /// Makes an envelope of endpoint `from`, whose `slot` it names there.
    ///
    /// It lives until [`Envelope::free`]; the mailbox calls that when the last endpoint is gone.
    pub(super) fn new(from: u16, slot: u32) -> EnvelopeRef<Q, A> {
        let envelope = Box::new(Envelope {
            next: AtomicPtr::new(ptr::null_mut()),
            from,
            slot,
            letter: UnsafeCell::new(Letter::Empty),
        });
        EnvelopeRef(NonNull::from(Box::leak(envelope)))
    }

    pub(super) fn as_ptr(&self) -> *mut Envelope<Q, A> {
        self.0.as_ptr()
    }

    pub(super) fn from(&self) -> u16 {
        // SAFETY: envelopes outlive every handle (freed with the mailbox); `from` is never written.
        unsafe { self.0.as_ref().from }
    }

    pub(super) fn slot(&self) -> u32 {
        // SAFETY: as in `from`.
        unsafe { self.0.as_ref().slot }
    }

    /// Puts `letter` in and returns what was there.
    pub(super) fn replace(&mut self, letter: Letter<Q, A>) -> Letter<Q, A> {
        // SAFETY: the envelope is alive, and the only handle, held mutably, is the right to its
        // letter; a lane passes the handle on with release and acquire.
        unsafe { std::mem::replace(&mut *self.0.as_ref().letter.get(), letter) }
    }
}

/// Frees an envelope and the letter in it.
///
/// # Safety
/// `envelope` came from [`EnvelopeRef::as_ptr`], is freed once, and no handle of it is used again.
pub(super) unsafe fn free<Q, A>(envelope: *mut Envelope<Q, A>) {
    // SAFETY: made by `Box::leak` in `EnvelopeRef::new`; the caller promises the rest.
    drop(unsafe { Box::from_raw(envelope) });
}

#[repr(align(128))]
pub(super) struct Lane<Q, A> {
    /// Null: empty. `closed_mark()`: closed. Else the letter pushed last.
    head: AtomicPtr<Envelope<Q, A>>,
}

impl<Q, A> Lane<Q, A> {
    pub(super) fn new() -> Lane<Q, A> {
        Lane {
            head: AtomicPtr::new(ptr::null_mut()),
        }
    }

    fn closed_mark() -> *mut Envelope<Q, A> {
        ptr::without_provenance_mut(align_of::<Envelope<Q, A>>())
    }

    /// Gives the envelope to the receiver, or back when the lane is closed. Any thread.
    pub(super) fn push(&self, envelope: EnvelopeRef<Q, A>) -> Result<(), EnvelopeRef<Q, A>> {
        let pushed = envelope.as_ptr();
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            if head == Self::closed_mark() {
                return Err(envelope);
            }
            // SAFETY: we hold the envelope's only handle until the exchange below succeeds.
            unsafe { (*pushed).next.store(head, Ordering::Relaxed) };
            // SeqCst: a push comes before the look at the bell, see `Bell`.
            match self
                .head
                .compare_exchange_weak(head, pushed, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => return Ok(()),
                Err(now) => head = now,
            }
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.head.load(Ordering::SeqCst) == Self::closed_mark()
    }

    /// Whether something waits. The receiver only.
    pub(super) fn has_letters(&self) -> bool {
        let head = self.head.load(Ordering::SeqCst);
        !head.is_null() && head != Self::closed_mark()
    }

    /// Appends everything that waits to `into`, oldest first. The receiver only.
    pub(super) fn take_into(&self, into: &mut VecDeque<EnvelopeRef<Q, A>>) {
        if self.has_letters() {
            self.unpack(ptr::null_mut(), into);
        }
    }

    /// Closes the lane for ever; what waited is appended to `into`.
    pub(super) fn close_into(&self, into: &mut VecDeque<EnvelopeRef<Q, A>>) {
        if !self.is_closed() {
            self.unpack(Self::closed_mark(), into);
        }
    }

    fn unpack(&self, leave: *mut Envelope<Q, A>, into: &mut VecDeque<EnvelopeRef<Q, A>>) {
        let mut head = self.head.swap(leave, Ordering::SeqCst);
        let first = into.len();
        while let Some(envelope) = NonNull::new(head) {
            // SAFETY: the swap made the whole chain ours; envelopes outlive every handle.
            head = unsafe { envelope.as_ref() }.next.load(Ordering::Relaxed);
            into.push_back(EnvelopeRef(envelope));
        }
        into.make_contiguous()[first..].reverse();
    }
}

const AWAKE: u8 = 0;
const ARMED: u8 = 1;
const RINGING: u8 = 2;

/// Wakes the receiver's task if it sleeps: armed by the receiver before its last look at the lanes,
/// rung by senders after a push, so one of the two sees the other.
///
/// The stored waker is written by the receiver only while the state is `AWAKE`, and read by the one
/// sender that moved `ARMED` to `RINGING`.
#[repr(align(128))]
pub(super) struct Bell {
    state: AtomicU8,
    waker: UnsafeCell<Option<Waker>>,
}

impl Bell {
    pub(super) fn new() -> Bell {
        Bell {
            state: AtomicU8::new(AWAKE),
            waker: UnsafeCell::new(None),
        }
    }

    /// Any thread, after its push.
    pub(super) fn ring(&self) {
        // Sequentially consistent, as the push before it and the receiver's look after it armed: one of the two
        // sees the other. Nearly always it is awake, and the line stays shared.
        if self.state.load(Ordering::SeqCst) != ARMED {
            return;
        }
        if self
            .state
            .compare_exchange(ARMED, RINGING, Ordering::SeqCst, Ordering::SeqCst)
            .is_err()
        {
            return;
        }
        // SAFETY: in state RINGING nobody writes the waker, and only we leave that state.
        let waker = unsafe { (*self.waker.get()).clone() };
        self.state.store(AWAKE, Ordering::SeqCst);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The receiver only: from now on a ring wakes `waker`. Look at the lanes again afterwards.
    pub(super) fn arm(&self, waker: &Waker) {
        // SAFETY: only this thread writes the waker, and not now; a sender may read it meanwhile.
        let known = unsafe { (*self.waker.get()).as_ref() }.is_some_and(|w| w.will_wake(waker));
        if known {
            // A ring under way will wake us after this; else the bell is armed now.
            let _ = self
                .state
                .compare_exchange(AWAKE, ARMED, Ordering::SeqCst, Ordering::SeqCst);
            return;
        }
        let disarmed =
            self.state
                .compare_exchange(ARMED, AWAKE, Ordering::SeqCst, Ordering::SeqCst);
        if disarmed == Err(RINGING) {
            // A sender reads the old waker just now: come back in a moment.
            waker.wake_by_ref();
            return;
        }
        // SAFETY: the state is AWAKE, and only this thread arms the bell: nobody reads the waker.
        unsafe { *self.waker.get() = Some(waker.clone()) };
        self.state.store(ARMED, Ordering::SeqCst);
    }

    /// The receiver only: rings wake nobody from now on, but for one that is under way.
    pub(super) fn disarm(&self) {
        let _ = self
            .state
            .compare_exchange(ARMED, AWAKE, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// The receiver only: arms the bell for the task it was last armed for.
    pub(super) fn arm_again(&self) {
        // SAFETY: only this thread writes the waker, and not now.
        if unsafe { (*self.waker.get()).is_some() } {
            let _ = self
                .state
                .compare_exchange(AWAKE, ARMED, Ordering::SeqCst, Ordering::SeqCst);
        }
    }
}

// SAFETY: a lane hands each envelope, with its letter, from one thread to one other; the letters are
// Send, and all else in it is atomic.
unsafe impl<Q: Send, A: Send> Send for Lane<Q, A> {}
// SAFETY: as above; the methods that are the receiver's alone are called through the one `Endpoint`
// that the seed of this lane was bound to, which is neither Send nor Sync.
unsafe impl<Q: Send, A: Send> Sync for Lane<Q, A> {}
// SAFETY: see the type: the state decides who may touch the waker, and `Waker` is Send and Sync.
unsafe impl Sync for Bell {}
