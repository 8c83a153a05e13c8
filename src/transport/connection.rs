//! One accepted connection: a half that reads frames and a half that sends.
//!
//! Both halves belong to one shard and may be used by two tasks of it at the same time. The socket is
//! closed when both are dropped; [`Control::shutdown`] ends both earlier.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use super::frame::FrameReader;
use super::receive::ReceivePool;
use super::send::Sender;
use crate::runtime::aux_ring::AuxRing;
use crate::runtime::budget::Budget;

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
}

/// Makes the halves of a connection; `fd` is a connected stream socket.
///
/// To be called on the shard that is to serve it.
pub fn connection(fd: OwnedFd, options: &ConnectionOptions) -> (FrameReader, Sender, Control) {
    let socket = Rc::new(Socket::new(fd));
    (
        FrameReader::new(socket.clone(), options),
        Sender::new(socket.clone(), options),
        Control { socket },
    )
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
    fd: RawFd,
    /// Owns the descriptor; also the way to learn of readiness. Borrowed only while it is polled.
    stream: RefCell<TcpStream>,
    pub(super) received: Cell<u64>,
    pub(super) sent: Cell<u64>,
}

impl Socket {
    fn new(fd: OwnedFd) -> Socket {
        let raw = fd.into_raw_fd();
        Socket {
            fd: raw,
            // SAFETY: the descriptor was owned and is given away here, once.
            stream: RefCell::new(unsafe { TcpStream::from_raw_fd(raw) }),
            received: Cell::new(0),
            sent: Cell::new(0),
        }
    }

    pub(super) fn borrowed(&self) -> std::os::fd::BorrowedFd<'_> {
        // SAFETY: `stream` owns the descriptor for as long as `self` lives.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(self.fd) }
    }

    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut stream = self.stream.borrow_mut();
        let read = Pin::new(&mut *stream).poll_read(cx, into);
        if let Poll::Ready(Ok(bytes)) = read {
            self.received.set(self.received.get() + bytes as u64);
        }
        read
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let mut stream = self.stream.borrow_mut();
        let written = Pin::new(&mut *stream).poll_write(cx, from);
        if let Poll::Ready(Ok(bytes)) = written {
            self.sent.set(self.sent.get() + bytes as u64);
        }
        written
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // glommio's poll for readiness holds the socket until its cancellation went through the ring:
        // closing the descriptor alone would leave the peer waiting for the end.
        let _ = rustix::net::shutdown(self.borrowed(), rustix::net::Shutdown::Both);
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}
