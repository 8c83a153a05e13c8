//! A range of a file that is handed about instead of its bytes.

use std::fs::File;
use std::sync::Arc;

/// `len` bytes of `file` from `position`: records on their way from a log to a socket.
///
/// Holds the file open, so a segment that is deleted meanwhile stays readable to the end of a send
/// that is under way. The bytes of the range never change: logs only append behind it.
#[derive(Clone, Debug)]
pub struct FileSlice {
    pub file: Arc<File>,
    /// Bytes from the start of the file.
    pub position: u64,
    /// Bytes.
    pub len: u32,
}
