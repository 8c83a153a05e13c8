//! Sockets: frames in, buffers and file slices out.

pub mod outgoing;

pub use outgoing::{Outgoing, Part};
