//! Sockets: frames in, buffers and file slices out.

mod connection;
mod frame;
mod listener;
mod outgoing;
mod read_ahead;
mod receive;
mod send;

pub use connection::{ConnectionOptions, Control, connection};
pub use frame::{Frame, FrameError, FrameReader};
pub use listener::{Accepted, Bound, Listener, SocketOptions};
pub use outgoing::{Outgoing, Part};
pub use receive::ReceivePool;
pub use send::{SendError, Sender};

#[cfg(test)]
mod tests;
