//! Pipes that splices go through, kept for the next one: to make one and to give it its size takes several
//! system calls. One pool per shard.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// Bytes that a pipe takes, where the limit of the user's pipe memory allows it; else fewer at once.
pub const PIPE_BYTES: usize = 256 * 1024;

/// Pipes that are kept; an empty one holds no pages.
const IDLE_MAX: usize = 16;

/// Both ends of a pipe, non-blocking.
#[derive(Debug)]
pub struct Pipe {
    outlet: OwnedFd,
    inlet: OwnedFd,
}

impl Pipe {
    fn new() -> io::Result<Pipe> {
        let (outlet, inlet) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let _ = fcntl_setpipe_size(&inlet, PIPE_BYTES);
        Ok(Pipe { outlet, inlet })
    }

    /// Where bytes come out.
    pub fn outlet(&self) -> BorrowedFd<'_> {
        self.outlet.as_fd()
    }

    pub(super) fn raw_ends(&self) -> (RawFd, RawFd) {
        (self.outlet.as_raw_fd(), self.inlet.as_raw_fd())
    }
}

/// Pipes that are not in use.
#[derive(Debug, Default)]
pub struct Pipes {
    idle: RefCell<Vec<Rc<Pipe>>>,
}

impl Pipes {
    /// An empty pipe. It is closed when dropped, whatever it holds.
    pub fn take(&self) -> io::Result<Rc<Pipe>> {
        match self.idle.borrow_mut().pop() {
            Some(pipe) => Ok(pipe),
            None => Pipe::new().map(Rc::new),
        }
    }

    /// Gives back a pipe that is empty again.
    pub fn give(&self, pipe: Rc<Pipe>) {
        let mut idle = self.idle.borrow_mut();
        // One that an operation still holds may yet be filled.
        if idle.len() < IDLE_MAX && Rc::strong_count(&pipe) == 1 {
            idle.push(pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_was_given_back_is_taken_again_unless_somebody_holds_it() {
        let pipes = Pipes::default();
        let first = pipes.take().unwrap();
        let ends = first.raw_ends();
        let held = first.clone();
        pipes.give(first);
        let second = pipes.take().unwrap();
        assert_ne!(second.raw_ends(), ends);
        drop(second);
        pipes.give(held);
        assert_eq!(pipes.take().unwrap().raw_ends(), ends);
    }

    #[test]
    fn only_so_many_pipes_are_kept() {
        let pipes = Pipes::default();
        let taken: Vec<_> = (0..IDLE_MAX + 3).map(|_| pipes.take().unwrap()).collect();
        taken.into_iter().for_each(|pipe| pipes.give(pipe));
        assert_eq!(pipes.idle.borrow().len(), IDLE_MAX);
    }
}
