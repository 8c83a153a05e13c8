//! Memory for reads and writes past the page cache: buffers that begin and end on a block, recycled. One pool a
//! shard.
//!
//! 1. What is handed out and what is kept for reuse stay together below the pool's limit.
//! 2. Who finds no room makes some or waits: a buffer that is dropped, wherever that happens on the shard,
//!    wakes those who wait.
//! 3. A buffer that the kernel uses belongs to the operation until it is done (see
//!    [`AuxRing`](super::aux_ring::AuxRing)): it comes back here only then.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::{Rc, Weak};
use std::task::{Context, Waker};

/// Bytes to which the offset, the length and the address of every direct read and write are aligned. Devices
/// that take less exist; there are some that say so and are wrong.
pub const BLOCK_BYTES: usize = 4096;

/// Most bytes of one buffer.
pub const BUFFER_BYTES_MAX: usize = 1024 * 1024;

/// Sizes of buffers: powers of two from [`BLOCK_BYTES`] to [`BUFFER_BYTES_MAX`].
const CLASSES: usize = (BUFFER_BYTES_MAX / BLOCK_BYTES).trailing_zeros() as usize + 1;

/// Bytes of memory that lie at an address that is a multiple of [`BLOCK_BYTES`], as many as a power of two
/// times that.
pub struct AlignedBuffer {
    /// A block longer than what is used of it.
    memory: Vec<u8>,
    start: usize,
    pool: Weak<Inner>,
}

impl AlignedBuffer {
    fn new(class: usize, pool: &Rc<Inner>) -> Self {
        let memory = vec![0; memory_bytes(class)];
        // Never more than a block away.
        let start = memory.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        Self {
            memory,
            start,
            pool: Rc::downgrade(pool),
        }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.memory.len() - BLOCK_BYTES
    }

    fn class(&self) -> usize {
        (self.len() / BLOCK_BYTES).trailing_zeros() as usize
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len()]
    }
}

impl AsMut<[u8]> for AlignedBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        let len = self.len();
        &mut self.memory[self.start..self.start + len]
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuffer({})", self.len())
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        let Some(pool) = self.pool.upgrade() else {
            return;
        };
        let class = self.class();
        pool.used.set(pool.used.get() - memory_bytes(class));
        pool.kept.set(pool.kept.get() + memory_bytes(class));
        let memory = std::mem::take(&mut self.memory);
        pool.free.borrow_mut()[class].push((memory, self.start));
        pool.wake();
    }
}

/// What a buffer of a class takes.
const fn memory_bytes(class: usize) -> usize {
    (BLOCK_BYTES << class) + BLOCK_BYTES
}

fn class_of(bytes: usize) -> usize {
    let blocks = bytes.div_ceil(BLOCK_BYTES).max(1).next_power_of_two();
    blocks.trailing_zeros() as usize
}

/// Buffers of one shard; clones are the same pool.
#[derive(Clone)]
pub struct BufferPool {
    inner: Rc<Inner>,
}

struct Inner {
    limit_bytes: usize,
    /// Of buffers that somebody has.
    used: Cell<usize>,
    /// Of those in `free`.
    kept: Cell<usize>,
    free: RefCell<[Vec<(Vec<u8>, usize)>; CLASSES]>,
    waiting: RefCell<Vec<Waker>>,
}

impl Inner {
    fn wake(&self) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (used, limit) = (self.inner.used.get(), self.inner.limit_bytes);
        write!(f, "BufferPool({used} of {limit})")
    }
}

impl BufferPool {
    /// One of at most `limit_bytes`, but of at least two of the largest buffers.
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            inner: Rc::new(Inner {
                limit_bytes: limit_bytes.max(2 * memory_bytes(CLASSES - 1)),
                used: Cell::new(0),
                kept: Cell::new(0),
                free: RefCell::default(),
                waiting: RefCell::default(),
            }),
        }
    }

    pub fn limit_bytes(&self) -> usize {
        self.inner.limit_bytes
    }

    /// Bytes of buffers that somebody has.
    pub fn used_bytes(&self) -> usize {
        self.inner.used.get()
    }

    /// A buffer of at least `bytes`, at most [`BUFFER_BYTES_MAX`], if there is room. What it holds is of no
    /// meaning.
    pub fn take(&self, bytes: usize) -> Option<AlignedBuffer> {
        assert!(bytes <= BUFFER_BYTES_MAX);
        let (pool, class) = (&self.inner, class_of(bytes));
        let takes = memory_bytes(class);
        if pool.used.get() + takes > pool.limit_bytes {
            return None;
        }
        let free = pool.free.borrow_mut()[class].pop();
        let buffer = match free {
            Some((memory, start)) => {
                pool.kept.set(pool.kept.get() - takes);
                AlignedBuffer {
                    memory,
                    start,
                    pool: Rc::downgrade(pool),
                }
            }
            None => {
                self.keep_at_most(pool.limit_bytes - pool.used.get() - takes);
                AlignedBuffer::new(class, pool)
            }
        };
        pool.used.set(pool.used.get() + takes);
        Some(buffer)
    }

    /// Has the task of `context` woken when something may have changed for one who found no room.
    pub fn wait(&self, context: &Context<'_>) {
        let waker = context.waker();
        let mut waiting = self.inner.waiting.borrow_mut();
        if !waiting.iter().any(|other| other.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    /// Wakes those who wait: what somebody has can be given back now.
    pub fn wake(&self) {
        self.inner.wake();
    }

    /// Gives the memory of buffers that nobody has back to the allocator, the largest first, until at most
    /// `bytes` of it are left.
    pub fn keep_at_most(&self, bytes: usize) {
        let pool = &self.inner;
        let mut free = pool.free.borrow_mut();
        for class in (0..CLASSES).rev() {
            while pool.kept.get() > bytes && free[class].pop().is_some() {
                pool.kept.set(pool.kept.get() - memory_bytes(class));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_recycled_and_bounded() {
        let pool = BufferPool::new(0);
        let limit = pool.limit_bytes();
        let large = [(); 2].map(|()| pool.take(BUFFER_BYTES_MAX).unwrap());
        for buffer in &large {
            assert_eq!(buffer.as_ref().len(), BUFFER_BYTES_MAX);
            assert_eq!(buffer.as_ref().as_ptr().addr() % BLOCK_BYTES, 0);
        }
        assert_eq!(pool.used_bytes(), limit);
        assert!(pool.take(1).is_none());
        let address = large[0].as_ref().as_ptr().addr();
        drop(large);
        assert_eq!(pool.used_bytes(), 0);
        let again = [(); 2].map(|()| pool.take(BUFFER_BYTES_MAX - 5).unwrap());
        assert!(again.iter().any(|b| b.as_ref().as_ptr().addr() == address));
        drop(again);
        // What is kept in one size gives way to another.
        let mut small = Vec::new();
        while let Some(buffer) = pool.take(5000) {
            assert_eq!(buffer.len(), 8192);
            small.push(buffer);
        }
        assert!(small.len() > 150);
        assert_eq!(pool.inner.kept.get(), 0);
        drop(small);
        pool.keep_at_most(0);
        assert_eq!(pool.inner.kept.get(), 0);
    }
}
