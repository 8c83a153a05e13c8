//! One accepted connection: a half that reads frames and a half that sends.
//!
//! Both halves belong to one shard and may be used by two tasks of it at the same time. The socket is
//! closed when both are dropped; [`Control::shutdown`] ends both earlier.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll};

use super::frame::FrameReader;
use super::receive::ReceivePool;
use super::send::Sender;
use crate::runtime::aux_ring::AuxRing;
use crate::runtime::budget::Budget;
use crate::runtime::readiness::{Readiness, Watch};

/// What the connections of a shard share.
#[derive(Clone)]
pub struct ConnectionOptions {
    pub budget: Budget,
    pub pool: ReceivePool,
    /// Bytes of a frame at most (`socket.request.max.bytes`).
    pub frame_bytes_max: usize,
    /// Brings in what is not in the page cache before it is sent. Without it a send of cold data
    /// blocks the shard.
    pub aux_ring: Option<AuxRing>,
    pub readiness: Readiness,
}

/// Makes the halves of a connection; `fd` is a connected stream socket.
///
/// To be called on the shard that is to serve it. An error says that the kernel cannot watch one more.
pub fn connection(
    fd: OwnedFd,
    options: &ConnectionOptions,
) -> io::Result<(FrameReader, Sender, Control)> {
    let socket = Rc::new(Socket {
        watch: options.readiness.watch(fd)?,
        received: Cell::new(0),
        sent: Cell::new(0),
    });
    Ok((
        FrameReader::new(socket.clone(), options),
        Sender::new(socket.clone(), options),
        Control { socket },
    ))
}

/// Watches and ends a connection. The descriptor stays open as long as one of these lives: it is to be
/// dropped with the halves.
#[derive(Clone)]
pub struct Control {
    socket: Rc<Socket>,
}

impl Control {
    /// Bytes received so far. One that does not grow for `connections.max.idle.ms` is idle.
    pub fn received(&self) -> u64 {
        self.socket.received.get()
    }

    /// Bytes sent so far.
    pub fn sent(&self) -> u64 {
        self.socket.sent.get()
    }

    /// Ends both directions: the reader sees the end, the sender an error.
    pub fn shutdown(&self) {
        // An error says that the peer was faster.
        let _ = rustix::net::shutdown(self.socket.borrowed(), rustix::net::Shutdown::Both);
    }
}

/// The socket both halves share.
pub(super) struct Socket {
    watch: Watch,
    pub(super) received: Cell<u64>,
    pub(super) sent: Cell<u64>,
}

impl Socket {
    pub(super) fn borrowed(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = self.watch.poll_receive(cx, into);
        if let Poll::Ready(Ok(bytes)) = read {
            self.received.set(self.received.get() + bytes as u64);
        }
        read.map_err(io::Error::from)
    }

    /// Waits for room, after a send that found none.
    pub(super) async fn room(&self) {
        self.watch.room().await;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The poll for readiness holds the socket until its end went through the ring: closing the
        // descriptor alone would leave the peer waiting for the end.
        let _ = rustix::net::shutdown(self.borrowed(), rustix::net::Shutdown::Both);
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.watch.as_fd().as_raw_fd()
    }
}
