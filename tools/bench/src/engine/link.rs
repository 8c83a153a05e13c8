//! One connection of the load: what is to be written, and what was read and not yet understood.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::rc::Rc;

use rustix::net::RecvFlags;

use crate::content::Template;

/// Most parts handed to the kernel in one call.
const MAX_PARTS: usize = 64;
/// Bytes of answers that are thrown away in one call.
const DRAIN_BYTES: usize = 1 << 20;

/// A run of bytes to write.
pub enum Part {
    Own(Vec<u8>),
    Shared(Rc<Template>, Range<usize>),
}

impl Part {
    fn bytes(&self) -> &[u8] {
        match self {
            Part::Own(bytes) => bytes,
            Part::Shared(template, range) => &template.body()[range.clone()],
        }
    }
}

pub struct Link {
    pub stream: TcpStream,
    pub address: String,
    out: VecDeque<Part>,
    /// Bytes of the first part that are written.
    written: usize,
    /// Whether the poller is asked to say when more can be written.
    pub waits_to_write: bool,
    buffer: Vec<u8>,
    /// The part of the buffer that holds bytes.
    start: usize,
    end: usize,
    /// Where bytes go that nobody wants: the kernel drops them, and nothing is written to it.
    pub correlation: i32,
}

impl Link {
    pub fn new(stream: TcpStream, address: String, buffer_bytes: usize) -> io::Result<Link> {
        stream.set_nonblocking(true)?;
        Ok(Link {
            stream,
            address,
            out: VecDeque::new(),
            written: 0,
            waits_to_write: false,
            buffer: vec![0; buffer_bytes],
            start: 0,
            end: 0,
            correlation: 0,
        })
    }

    pub fn push(&mut self, part: Part) {
        self.out.push_back(part);
    }

    pub fn is_flushed(&self) -> bool {
        self.out.is_empty()
    }

    /// Writes until everything is gone or the socket is full.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            let empty: &[u8] = &[];
            let mut slices = [IoSlice::new(empty); MAX_PARTS];
            let mut count = 0;
            for part in self.out.iter().take(MAX_PARTS) {
                let bytes = part.bytes();
                let from = if count == 0 { self.written } else { 0 };
                slices[count] = IoSlice::new(&bytes[from..]);
                count += 1;
            }
            let mut wrote = match self.stream.write_vectored(&slices[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(wrote) => wrote,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            while let Some(front) = self.out.front() {
                let left = front.bytes().len() - self.written;
                if wrote < left {
                    self.written += wrote;
                    break;
                }
                wrote -= left;
                self.written = 0;
                self.out.pop_front();
            }
        }
        Ok(())
    }

    /// What was read and not consumed.
    pub fn input(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads once, at most `most` bytes. 0 if there is nothing now; an end of the stream is an error.
    pub fn read(&mut self, most: usize) -> io::Result<usize> {
        if self.buffer.len() - self.end < most.min(self.buffer.len() / 2) {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let to = self.buffer.len().min(self.end + most.max(1));
        loop {
            return match self.stream.read(&mut self.buffer[self.end..to]) {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.end += read;
                    Ok(read)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }

    /// Lets the kernel drop up to `most` bytes that have arrived, uncopied. 0 if there are none now.
    pub fn drop_arrived(&mut self, most: usize, drain: &mut Vec<u8>) -> io::Result<usize> {
        if drain.len() < DRAIN_BYTES {
            drain.resize(DRAIN_BYTES, 0);
        }
        let most = most.min(DRAIN_BYTES);
        loop {
            let got = rustix::net::recv(&self.stream, &mut drain[..most], RecvFlags::TRUNC);
            return match got {
                Ok((_, 0)) => Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((_, dropped)) => Ok(dropped),
                Err(rustix::io::Errno::AGAIN) => Ok(0),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => Err(error.into()),
            };
        }
    }
}
