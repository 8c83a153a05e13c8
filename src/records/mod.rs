//! Record batches as they lie on the wire and on disk. Pure.
//!
//! - [`batch`]: the 61-byte header, its checks, the CRC, and placing a batch in a log in place.

pub mod batch;

pub use batch::{
    BATCH_HEADER_SIZE, BatchError, BatchHeader, CompressionType, LOG_OVERHEAD, MAGIC,
    TimestampType, assign, increment_sequence, verify_crc,
};
