//! Record batches as they lie on the wire and on disk. Pure.
//!
//! - [`batch`]: the 61-byte header, its checks, the CRC, and placing a batch in a log in place.
//! - [`record`]: the records behind it, iterated without copying.
//! - [`control`]: the markers that end transactions.

pub mod batch;
pub mod control;
pub mod record;

pub use batch::{
    BATCH_HEADER_SIZE, BatchError, BatchHeader, CompressionType, LOG_OVERHEAD, MAGIC,
    TimestampType, assign, increment_sequence, verify_crc,
};
pub use record::{Header, Record, RecordError, RecordIter};
