//! Record batches as they lie on the wire and on disk. Pure.
//!
//! - [`batch`]: the 61-byte header, its checks, the CRC, and placing a batch in a log in place.
//! - [`record`]: the records behind it, iterated without copying.
//! - [`validate`](mod@validate): what a producer's batch must be before it is appended.
//! - [`compression`]: the four codecs as streams of bounded memory.
//! - [`control`]: the markers that end transactions.
//! - [`builder`]: new batches.

pub mod batch;
pub mod builder;
pub mod compression;
pub mod control;
pub mod record;
mod shape;
pub mod validate;

pub use batch::{
    BATCH_HEADER_SIZE, BatchError, BatchHeader, CompressionType, LOG_OVERHEAD, MAGIC,
    TimestampType, assign, increment_sequence, verify_crc,
};
pub use builder::BatchBuilder;
pub use compression::{Compression, DecompressError, Scratch, decompress};
pub use record::{Header, Record, RecordError, RecordIter};
pub use validate::{
    RecordFault, Validated, ValidationError, ValidationRules, peek_compression, peek_transactional,
    validate,
};
