//! Writing behind the tail of a file.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};

use super::raw::RawWrite;
use super::{Chunk, Inner, RawFile, TAIL_BYTES_MAX, block_end, block_start};
use crate::runtime::aligned::{AlignedBuffer, BLOCK_BYTES, BUFFER_BYTES_MAX};

/// Pieces of one write that are in flight together.
pub(super) const PIECES_MAX: usize = 8;

/// Bytes of the first buffer of a tail: a file that is seldom written to holds no more.
const CHUNK_BYTES_MIN: usize = 16 * 1024;

/// Bytes that are copied before other tasks run.
const COPY_BYTES: usize = 512 * 1024;

/// A piece of a write that is under way.
struct Piece {
    /// Bytes that it has of the write, from its beginning.
    done_at: u64,
    /// Bytes to be written, and those of them that were there before.
    len: usize,
    old: usize,
    write: RawWrite,
}

/// One write.
struct Write<'a, R: RawFile> {
    inner: &'a Inner<R>,
    buffers: Vec<Bytes>,
    /// Of `buffers`, the first that is not copied whole.
    next_buffer: usize,
    /// Where the bytes go that are copied next, and where the last one does.
    at: u64,
    end: u64,
    durable: bool,
    /// What is in the block of the first byte before it, if that is in no buffer of the tail.
    before: Vec<u8>,
    /// What is in the block of the last byte behind it.
    behind: Vec<u8>,
    pieces: Vec<Piece>,
    is_finished: bool,
    /// Bytes from the beginning, if not all could be written.
    short: Option<u64>,
    start: u64,
}

impl<R: RawFile> Inner<R> {
    /// Writes `buffers` one behind the other from `position`. See the module.
    pub(super) async fn write(
        &self,
        position: u64,
        buffers: Vec<Bytes>,
        durable: bool,
    ) -> io::Result<u64> {
        let total: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        if total == 0 {
            return Ok(0);
        }
        let _gate = self.gate.enter().await;
        if self.is_broken.get() {
            return Err(io::Error::other("an earlier write failed"));
        }
        let end = position + total;
        let mut behind = Vec::new();
        if end < self.written.get() && !end.is_multiple_of(BLOCK_BYTES as u64) {
            behind = self.block_at(block_start(end)).await?;
            behind.drain(..(end % BLOCK_BYTES as u64) as usize);
        }
        let before = self.bytes_before(position).await?;
        let mut write = Write {
            inner: self,
            buffers,
            next_buffer: 0,
            at: position,
            end,
            durable,
            before,
            behind,
            pieces: Vec::new(),
            is_finished: false,
            short: None,
            start: position,
        };
        poll_fn(|context| write.poll(context)).await?;
        if let Some(short) = write.short {
            return Ok(short);
        }
        write.is_finished = true;
        let overwrites = position < self.len.get();
        self.written.set(self.written.get().max(end));
        self.raw_len.set(self.raw_len.get().max(block_end(end)));
        self.len.set(self.len.get().max(end));
        if !durable {
            self.changed();
        }
        if overwrites {
            self.memory.drop_blocks(self.id, position..end);
        }
        self.settle_tail(position, end);
        // What was in flight can be given back.
        self.memory.wake();
        Ok(total)
    }

    /// The bytes of a block; zeros where the file has none.
    async fn block_at(&self, start: u64) -> io::Result<Vec<u8>> {
        if start >= self.raw_len.get() {
            return Ok(vec![0; BLOCK_BYTES]);
        }
        let (read, buffer) = self.read_raw(start, BLOCK_BYTES).await?;
        let mut bytes = AlignedBuffer::as_ref(&buffer)[..read].to_vec();
        bytes.resize(BLOCK_BYTES, 0);
        Ok(bytes)
    }

    /// What is in the block of `position` before it, unless the tail goes on there.
    async fn bytes_before(&self, position: u64) -> io::Result<Vec<u8>> {
        let first = block_start(position);
        {
            let mut tail = self.tail.borrow_mut();
            let goes_on = tail.back_mut().is_some_and(|last| {
                // A write that was dropped may have the buffer still; it takes no other one then.
                last.end == position
                    && (last.capacity_end() == position || Rc::get_mut(&mut last.buffer).is_some())
            });
            if goes_on {
                return Ok(Vec::new());
            }
            tail.clear();
        }
        let mut bytes = Vec::new();
        if first < position {
            bytes = self.block_at(first).await?;
            bytes.truncate((position - first) as usize);
        }
        Ok(bytes)
    }

    /// What was written from `from` to `end` may be read from the tail, and what is too much of that goes.
    fn settle_tail(&self, from: u64, end: u64) {
        let mut tail = self.tail.borrow_mut();
        for chunk in tail.iter_mut() {
            if chunk.capacity_end() > from && chunk.start < end {
                chunk.end = chunk.capacity_end().min(end);
            }
        }
        let mut bytes: usize = tail.iter().map(|chunk| chunk.buffer.len()).sum();
        while bytes > TAIL_BYTES_MAX
            && let Some(first) = tail.pop_front()
        {
            bytes -= first.buffer.len();
        }
    }
}

impl<R: RawFile> Write<'_, R> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut copied = 0;
        loop {
            let mut i = 0;
            while let Some(piece) = self.pieces.get_mut(i) {
                match piece.write.as_mut().poll(context) {
                    Poll::Pending => i += 1,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Ready(Ok(written)) => {
                        if written < piece.len {
                            let new = written.saturating_sub(piece.old) as u64;
                            let short = piece.done_at + new;
                            self.short = Some(self.short.map_or(short, |s| s.min(short)));
                        }
                        drop(self.pieces.swap_remove(i));
                        self.inner.memory.wake();
                    }
                }
            }
            let is_begun = self.at == self.end || self.short.is_some();
            if is_begun && self.pieces.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if is_begun || self.pieces.len() >= PIECES_MAX {
                return Poll::Pending;
            }
            if copied >= COPY_BYTES {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.begin_piece(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(bytes) => copied += bytes,
            }
        }
    }

    /// Copies what goes into one buffer, and begins to write it. Waits for memory.
    fn begin_piece(&mut self, context: &mut Context<'_>) -> Poll<usize> {
        let mut tail = self.inner.tail.borrow_mut();
        let goes_on = tail.back().is_some_and(|last| {
            self.at == self.start && last.end == self.at && last.capacity_end() > self.at
        });
        if !goes_on {
            let first = block_start(self.at);
            let wanted = (block_end(self.end) - first) as usize;
            let last = tail.back().map_or(0, |last| last.buffer.len());
            let bytes = wanted
                .max(2 * last)
                .clamp(CHUNK_BYTES_MIN, BUFFER_BYTES_MAX);
            drop(tail);
            let Poll::Ready(mut buffer) = self.inner.memory.poll_buffer(bytes, context) else {
                return Poll::Pending;
            };
            let before = std::mem::take(&mut self.before);
            assert_eq!(before.len() as u64, self.at - first);
            AlignedBuffer::as_mut(&mut buffer)[..before.len()].copy_from_slice(&before);
            tail = self.inner.tail.borrow_mut();
            tail.push_back(Chunk {
                start: first,
                end: self.at,
                buffer: Rc::new(buffer),
                used: 0,
            });
        }
        let Some(chunk) = tail.back_mut() else {
            return Poll::Pending;
        };
        chunk.used = self.inner.memory.tick();
        let from = (self.at - chunk.start) as usize;
        let to = chunk.buffer.len().min((self.end - chunk.start) as usize);
        let Some(buffer) = Rc::get_mut(&mut chunk.buffer) else {
            unreachable!("`bytes_before` has seen that nobody else has it");
        };
        let bytes: &mut [u8] = AlignedBuffer::as_mut(buffer);
        copy(
            &mut self.buffers,
            &mut self.next_buffer,
            &mut bytes[from..to],
        );
        let padded = to.next_multiple_of(BLOCK_BYTES);
        if padded > to {
            bytes[to..padded].fill(0);
            if !self.behind.is_empty() {
                bytes[to..padded].copy_from_slice(&self.behind);
            }
        }
        let first = from - from % BLOCK_BYTES;
        let write = self.inner.raw.write(
            chunk.start + first as u64,
            chunk.buffer.clone(),
            first..padded,
            self.durable,
        );
        self.pieces.push(Piece {
            done_at: self.at - self.start,
            len: padded - first,
            old: from - first,
            write,
        });
        self.at += (to - from) as u64;
        Poll::Ready(to - from)
    }
}

/// Moves bytes from the front of `buffers`, from the one at `next` on, until `out` is full.
fn copy(buffers: &mut [Bytes], next: &mut usize, mut out: &mut [u8]) {
    while !out.is_empty() {
        let buffer = &mut buffers[*next];
        let len = buffer.len().min(out.len());
        let (part, rest) = out.split_at_mut(len);
        buffer.copy_to_slice(part);
        out = rest;
        if buffer.is_empty() {
            *next += 1;
        }
    }
}

impl<R: RawFile> Drop for Write<'_, R> {
    /// A write that did not come to its end: what the file holds is not known, and what the tail does is not
    /// what the file does.
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        let inner = self.inner;
        inner.is_broken.set(true);
        inner.tail.borrow_mut().clear();
        inner.written.set(inner.written.get().max(self.end));
        inner
            .raw_len
            .set(inner.raw_len.get().max(block_end(self.end)));
        inner.changed();
        inner.memory.wake();
    }
}
