//! The memory frames are received into. One per shard.
//!
//! Connections that are between frames hold none of it: all receive into the shard's one chunk, of
//! which whole frames are split off without a copy. A frame that arrives in pieces gets a buffer of
//! its own. Chunks and large buffers come back when the last slice of them is dropped, and are used
//! again: faulting in fresh pages for every request would cost more than the copy from the socket.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::BytesMut;

/// Bytes of the shard's chunk.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;

/// With less than this left, the chunk is replaced.
const CHUNK_LEAST_BYTES: usize = 32 * 1024;

/// Smaller buffers are left to the allocator.
const KEPT_LEAST_BYTES: usize = 16 * 1024;

/// Frames up to this size are copied out of the chunk: one that waits for long must not hold it.
const COPIED_BYTES_MAX: usize = 4 * 1024;

/// The pool of one shard; clones are the same pool.
///
/// Beside what the memory budget counts it holds one chunk and at most `idle_bytes_max` bytes of
/// buffers that are not in use; [`ReceivePool::trim`] gives those back.
#[derive(Clone)]
pub struct ReceivePool {
    inner: Rc<Inner>,
}

struct Inner {
    chunk: RefCell<BytesMut>,
    lent: RefCell<Vec<Lent>>,
    lent_bytes: Cell<usize>,
    idle_bytes_max: usize,
}

/// A buffer that may be in use; `rest` is a handle that keeps its memory.
struct Lent {
    bytes: usize,
    rest: BytesMut,
    used: bool,
}

impl ReceivePool {
    /// Keeps at most `idle_bytes_max` bytes for reuse.
    pub fn new(idle_bytes_max: usize) -> ReceivePool {
        ReceivePool {
            inner: Rc::new(Inner {
                chunk: RefCell::new(BytesMut::new()),
                lent: RefCell::default(),
                lent_bytes: Cell::new(0),
                idle_bytes_max,
            }),
        }
    }

    /// Lets `read` fill the front of the chunk, at most `bytes`, and returns what it filled.
    ///
    /// `read` returns how many bytes it wrote.
    pub(super) fn receive<E>(
        &self,
        bytes: usize,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<BytesMut, E> {
        let mut chunk = self.inner.chunk.borrow_mut();
        if chunk.len() < CHUNK_BYTES
            && !rewind(&mut chunk, CHUNK_BYTES)
            && chunk.len() < CHUNK_LEAST_BYTES
        {
            let fresh = self.take(CHUNK_BYTES, CHUNK_BYTES);
            self.keep(CHUNK_BYTES, std::mem::replace(&mut chunk, fresh));
        }
        let window = bytes.min(chunk.len());
        let filled = read(&mut chunk[..window])?;
        Ok(chunk.split_to(filled))
    }

    /// A buffer of at least `least` bytes, all of them initialised; one of `wanted` if one is idle.
    pub(super) fn take(&self, wanted: usize, least: usize) -> BytesMut {
        let mut lent = self.inner.lent.borrow_mut();
        let fits = |l: &Lent| l.bytes >= wanted && l.bytes / 4 <= wanted.max(KEPT_LEAST_BYTES);
        for index in 0..lent.len() {
            if fits(&lent[index]) && rewind_to_start(&mut lent[index]) {
                let found = lent.swap_remove(index);
                self.inner
                    .lent_bytes
                    .set(self.inner.lent_bytes.get() - found.bytes);
                return found.rest;
            }
        }
        BytesMut::zeroed(least)
    }

    /// Splits the first `bytes` off `buffer`, which came from [`take`](Self::take), and sees that
    /// its memory is used again.
    pub(super) fn hand_out(&self, mut buffer: BytesMut, bytes: usize) -> BytesMut {
        let whole = buffer.len();
        if whole < KEPT_LEAST_BYTES {
            buffer.truncate(bytes);
            return buffer;
        }
        let frame = buffer.split_to(bytes);
        self.keep(whole, buffer);
        frame
    }

    /// Splits a whole frame off received bytes.
    pub(super) fn split_frame(&self, received: &mut BytesMut, bytes: usize) -> BytesMut {
        let frame = received.split_to(bytes);
        if bytes <= COPIED_BYTES_MAX {
            return BytesMut::from(&frame[..]);
        }
        frame
    }

    fn keep(&self, bytes: usize, rest: BytesMut) {
        let sum = self.inner.lent_bytes.get() + bytes;
        if rest.is_empty() && rest.capacity() == 0 && bytes == 0 {
            return;
        }
        if sum <= self.inner.idle_bytes_max {
            self.inner.lent_bytes.set(sum);
            self.inner.lent.borrow_mut().push(Lent {
                bytes,
                rest,
                used: true,
            });
        }
    }

    /// Gives back buffers that nobody took since the last call. To be called every few seconds.
    pub fn trim(&self) {
        let mut freed = 0;
        self.inner.lent.borrow_mut().retain_mut(|lent| {
            let keep = std::mem::replace(&mut lent.used, false);
            freed += if keep { 0 } else { lent.bytes };
            keep
        });
        self.inner
            .lent_bytes
            .set(self.inner.lent_bytes.get() - freed);
    }
}

fn rewind_to_start(lent: &mut Lent) -> bool {
    rewind(&mut lent.rest, lent.bytes)
}

/// Makes `rest`, the tail of a buffer of `bytes` bytes, the whole buffer again; `false`, and nothing
/// changed, if somebody else holds a part of it.
fn rewind(rest: &mut BytesMut, bytes: usize) -> bool {
    let left = rest.len();
    rest.clear();
    let whole = rest.capacity() < bytes && rest.try_reclaim(bytes) && rest.capacity() >= bytes;
    let len = if whole { bytes } else { left };
    // SAFETY: the buffers of this file are made by `BytesMut::zeroed`, so every byte of their
    // allocations is initialised and stays so; `len` is within the capacity: it was the length
    // before, or was just reclaimed.
    unsafe { rest.set_len(len) };
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(pool: &ReceivePool, bytes: usize) -> BytesMut {
        let read = |window: &mut [u8]| {
            window[..bytes].fill(7);
            Ok::<_, ()>(bytes)
        };
        pool.receive(CHUNK_BYTES, read).unwrap()
    }

    #[test]
    fn a_chunk_is_filled_again_when_nobody_holds_a_part_of_it() {
        let pool = ReceivePool::new(1 << 20);
        let first = fill(&pool, 1_000);
        let at = first.as_ptr();
        let second = fill(&pool, 1_000);
        assert_eq!(second.as_ptr(), at.wrapping_add(1_000));
        drop((first, second));
        assert_eq!(fill(&pool, CHUNK_BYTES).as_ptr(), at);
    }

    #[test]
    fn a_used_up_chunk_comes_back_when_its_frames_are_dropped() {
        let pool = ReceivePool::new(1 << 20);
        let first = fill(&pool, CHUNK_BYTES);
        let at = first.as_ptr();
        let second = fill(&pool, CHUNK_BYTES);
        assert_ne!(second.as_ptr(), at);
        drop(first);
        assert_eq!(fill(&pool, 10).as_ptr(), at);
    }

    #[test]
    fn a_large_buffer_is_used_again_and_given_back_when_nobody_wants_it() {
        let pool = ReceivePool::new(1 << 20);
        let frame = pool.hand_out(pool.take(500_000, 500_000), 400_000);
        let at = frame.as_ptr();
        assert_ne!(pool.take(450_000, 450_000).as_ptr(), at, "in use");
        drop(frame.freeze());
        let again = pool.take(450_000, 450_000);
        assert_eq!((again.as_ptr(), again.len()), (at, 500_000));
        drop(pool.hand_out(again, 10));
        assert_eq!(pool.inner.lent_bytes.get(), 500_000);
        pool.trim();
        pool.trim();
        assert_eq!(pool.inner.lent_bytes.get(), 0);
    }
}
