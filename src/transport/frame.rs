//! Length-prefixed frames from a socket: `length: i32`, then `length` bytes.
//!
//! 1. Between frames a connection holds nothing. It receives into the shard's chunk, after reserving
//!    as much of the budget as it may receive at once, and keeps what arrived.
//! 2. Whole frames are split off; small ones are copied, so that they do not hold the chunk.
//! 3. The rest, the beginning of a frame, moves to a buffer of that frame. It grows with what
//!    arrived, not with what was declared: eightfold, each time reserved before. The rest of the frame
//!    is received straight into it.
//!
//! State lives in the struct: a dropped [`FrameReader::next`] loses nothing.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;

use bytes::{Buf, BytesMut};

use super::connection::{ConnectionOptions, Socket};
use super::receive::ReceivePool;
use crate::base::profile::{Nanos, Stage};
use crate::runtime::budget::{Budget, FrameClaim, Stalled, Units};
use crate::runtime::executor;
use crate::runtime::profile;
use crate::runtime::yield_budget::YieldBudget;

/// Bytes received at once, at most.
const RECEIVE_BYTES: usize = 128 * 1024;

/// A request has at least a key, a version and a correlation id.
const FRAME_BYTES_LEAST: usize = 8;

/// Bytes a frame's own buffer starts with, at least.
const BUFFER_BYTES_LEAST: usize = 1024;

/// By how much that buffer outgrows what has arrived. By 4, most frames of a mebibyte took two buffers, and
/// the outgrown ones were a tenth of the memory of 500 connections that send such frames.
const GROWTH: usize = 8;

/// A request as it came, without its length.
#[derive(Debug)]
pub struct Frame {
    pub bytes: BytesMut,
    /// To be kept as long as the bytes are.
    pub units: Units,
    /// When its first byte was there to be received, and when its last one had been. 0 where the shard
    /// is not profiled.
    pub readable: Nanos,
    pub complete: Nanos,
}

/// Why no frame comes; the connection is to be closed.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a request of {length} bytes: the least is {FRAME_BYTES_LEAST}, the most {most}")]
    Length { length: i32, most: usize },
    #[error("the peer closed the connection in the middle of a request")]
    Truncated,
    #[error(transparent)]
    Stalled(#[from] Stalled),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The reading half of a connection.
pub struct FrameReader {
    socket: Rc<Socket>,
    budget: Budget,
    pool: ReceivePool,
    frame_bytes_max: usize,
    /// Bytes of the length that have arrived.
    head: [u8; 4],
    head_bytes: usize,
    /// The length of the current frame, once known.
    length: Option<usize>,
    /// Received and not handed out yet, and the units for at least that.
    received: BytesMut,
    units: Option<Units>,
    /// Reserved for the receive under way.
    window: Option<Units>,
    partial: Option<Partial>,
    yields: YieldBudget,
    yield_due: bool,
    /// The last receive: when its bytes were there, and when it was done.
    last_receive: (Nanos, Nanos),
    /// When the first byte of the current frame was there.
    readable: Option<Nanos>,
}

/// A frame that has arrived in part.
struct Partial {
    claim: FrameClaim,
    buffer: BytesMut,
    filled: usize,
    /// Bytes of the buffer that are reserved.
    reserved: usize,
}

enum Received {
    Bytes(usize),
    NoUnits,
}

impl FrameReader {
    pub(super) fn new(socket: Rc<Socket>, options: &ConnectionOptions) -> FrameReader {
        FrameReader {
            socket,
            budget: options.budget.clone(),
            pool: options.pool.clone(),
            frame_bytes_max: options.frame_bytes_max,
            head: [0; 4],
            head_bytes: 0,
            length: None,
            received: BytesMut::new(),
            units: None,
            window: None,
            partial: None,
            yields: YieldBudget::default(),
            yield_due: false,
            last_receive: Default::default(),
            readable: None,
        }
    }

    /// The next frame; `None` when the peer closed the connection between two frames.
    ///
    /// Lets the other tasks of the shard run now and then, however much the peer sends.
    pub async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if std::mem::take(&mut self.yield_due) {
                executor::yield_now().await;
            }
            if let Some(frame) = self.cut()? {
                // Not now: were this future dropped while it yields, the frame would be lost.
                self.yield_due = self.yields.spend_now(frame.bytes.len() + 64);
                return Ok(Some(frame));
            }
            let arrived = match self.length {
                Some(length) if self.partial.is_some() || !self.received.is_empty() => {
                    self.receive_rest(length).await?
                }
                _ => self.receive_any().await?,
            };
            if arrived == 0 {
                return match (self.head_bytes, self.length) {
                    (0, None) => Ok(None),
                    _ => Err(FrameError::Truncated),
                };
            }
        }
    }

    /// Takes a whole frame from what has arrived.
    fn cut(&mut self) -> Result<Option<Frame>, FrameError> {
        let length = match self.length {
            Some(length) => length,
            None => {
                if !self.received.is_empty() {
                    self.readable.get_or_insert(self.last_receive.0);
                }
                while self.head_bytes < 4 && !self.received.is_empty() {
                    self.head[self.head_bytes] = self.received.get_u8();
                    self.head_bytes += 1;
                }
                if self.head_bytes < 4 {
                    self.drop_received_if_empty();
                    return Ok(None);
                }
                let length = i32::from_be_bytes(self.head);
                let most = self.frame_bytes_max;
                let checked = usize::try_from(length)
                    .ok()
                    .filter(|l| (FRAME_BYTES_LEAST..=most).contains(l))
                    .ok_or(FrameError::Length { length, most })?;
                self.head_bytes = 0;
                self.length = Some(checked);
                checked
            }
        };
        if let Some(partial) = self.partial.take_if(|p| p.filled == length) {
            self.length = None;
            let bytes = self.pool.hand_out(partial.buffer, length);
            return Ok(Some(self.frame(bytes, partial.claim.finish())));
        }
        if self.partial.is_some() || self.received.len() < length {
            self.drop_received_if_empty();
            return Ok(None);
        }
        self.length = None;
        let bytes = self.pool.split_frame(&mut self.received, length);
        let units = match &mut self.units {
            Some(units) => units.split(length as u64),
            None => unreachable!("what is received was reserved"),
        };
        self.drop_received_if_empty();
        Ok(Some(self.frame(bytes, units)))
    }

    fn frame(&mut self, bytes: BytesMut, units: Units) -> Frame {
        let (readable, complete) = self.last_receive;
        Frame {
            bytes,
            units,
            readable: self.readable.take().unwrap_or(readable),
            complete,
        }
    }

    fn drop_received_if_empty(&mut self) {
        if self.received.is_empty() {
            // Else an idle connection would hold the chunk and units of the bytes of lengths.
            self.received = BytesMut::new();
            self.units = None;
        }
    }

    /// Receives into the shard's chunk. Returns 0 at the end of the stream.
    async fn receive_any(&mut self) -> Result<usize, FrameError> {
        loop {
            match poll_fn(|cx| self.poll_receive_any(cx)).await? {
                Received::Bytes(bytes) => return Ok(bytes),
                Received::NoUnits => {
                    let window = self.budget.reserve(RECEIVE_BYTES as u64).await;
                    self.window = Some(window);
                }
            }
        }
    }

    fn poll_receive_any(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Result<Received, FrameError>> {
        // Reserved at each poll anew: while it waits, a connection holds nothing.
        let window = match self.window.take() {
            Some(window) => window,
            None => match self.budget.try_reserve(RECEIVE_BYTES as u64) {
                Some(window) => window,
                None => return Poll::Ready(Ok(Received::NoUnits)),
            },
        };
        let mut window = window;
        let readable = profile::recent();
        let socket = &self.socket;
        let received = self.pool.receive(window.bytes() as usize, |into| {
            match socket.poll_read(cx, into) {
                Poll::Ready(Ok(bytes)) => Ok(bytes),
                Poll::Ready(Err(error)) => Err(Some(error)),
                Poll::Pending => Err(None),
            }
        });
        match received {
            Ok(received) => {
                executor::count_turn();
                self.last_receive = (readable, profile::stamp(Stage::Receive));
                let bytes = received.len();
                window.shrink_to(bytes as u64);
                self.received = received;
                self.units = Some(window);
                Poll::Ready(Ok(Received::Bytes(bytes)))
            }
            Err(Some(error)) => Poll::Ready(Err(error.into())),
            Err(None) => {
                self.yields.refill();
                Poll::Pending
            }
        }
    }

    /// Receives into the current frame's own buffer. Returns 0 at the end of the stream.
    async fn receive_rest(&mut self, length: usize) -> Result<usize, FrameError> {
        if self.partial.is_none() {
            let mut claim = self.budget.begin_frame();
            if let Some(units) = self.units.take() {
                claim.merge(units);
            }
            self.partial = Some(Partial {
                claim,
                buffer: BytesMut::new(),
                filled: 0,
                reserved: 0,
            });
        }
        let Some(partial) = &mut self.partial else {
            unreachable!("made above")
        };
        let arrived = partial.filled + self.received.len();
        if arrived >= partial.reserved {
            let wanted = length.min(BUFFER_BYTES_LEAST.max(arrived.saturating_mul(GROWTH)));
            let more = (wanted as u64).saturating_sub(partial.claim.bytes());
            if more > 0 {
                partial.claim.grow(more).await?;
            }
            // Less than all may have been granted, but only of what is more than the whole budget.
            partial.reserved = wanted;
            if partial.buffer.len() < wanted {
                // The outgrown one is not kept for others: it would take the place of whole ones.
                let mut buffer = self.pool.take(length, wanted);
                buffer[..partial.filled].copy_from_slice(&partial.buffer[..partial.filled]);
                partial.buffer = buffer;
            }
        }
        if !self.received.is_empty() {
            let bytes = self.received.len();
            partial.buffer[partial.filled..arrived].copy_from_slice(&self.received);
            partial.filled = arrived;
            self.received = BytesMut::new();
            return Ok(bytes);
        }
        let end = partial.reserved.min(partial.filled + RECEIVE_BYTES);
        let (socket, yields) = (&self.socket, &mut self.yields);
        let bytes = poll_fn(|cx| {
            if let Poll::Ready(stalled) = partial.claim.poll_stalled(cx) {
                return Poll::Ready(Err(FrameError::from(stalled)));
            }
            let into = &mut partial.buffer[partial.filled..end];
            match socket.poll_read(cx, into) {
                Poll::Ready(read) => Poll::Ready(read.map_err(FrameError::from)),
                Poll::Pending => {
                    yields.refill();
                    Poll::Pending
                }
            }
        })
        .await?;
        executor::count_turn();
        let readable = profile::recent();
        self.last_receive = (readable, profile::stamp(Stage::Receive));
        partial.filled += bytes;
        partial.claim.progressed();
        // Bytes count when their frame is whole; between, a large frame must not run on for ever.
        if bytes > 0 && partial.filled < length {
            self.yield_due |= self.yields.spend_now(bytes / 2);
        }
        Ok(bytes)
    }
}
