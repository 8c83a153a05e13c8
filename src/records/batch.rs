//! The record batch of format 2, seen through its header.
//!
//! A batch lies on the wire, on disk and on its way to a replica in the same bytes (KIP-98). All
//! numbers are big-endian:
//!
//! ```text
//!  at  size  field
//!   0     8  base_offset              offset of the first record; 0 from a producer, the leader writes it
//!   8     4  batch_length             bytes that follow this field, so 49 at least
//!  12     4  partition_leader_epoch   epoch of the leader that appended it; the leader writes it
//!  16     1  magic                    2
//!  17     4  crc                      CRC-32C of everything from `attributes` to the end of the batch
//!  21     2  attributes               bit 0-2 compression: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd
//!                                     bit 3   timestamp type: 0 CreateTime, 1 LogAppendTime
//!                                     bit 4   transactional
//!                                     bit 5   control batch
//!                                     bit 6   base_timestamp is the delete horizon (KIP-534)
//!  23     4  last_offset_delta        offset of the last record less base_offset
//!  27     8  base_timestamp           records carry a difference to it; ms
//!  35     8  max_timestamp            ms; for LogAppendTime the time of the append
//!  43     8  producer_id              -1 is none
//!  51     2  producer_epoch
//!  53     4  base_sequence            sequence of the first record; -1 is none
//!  57     4  records_count            may be less than last_offset_delta + 1 after compaction
//!  61        records                  as in [`super::record`]; compressed as one stream
//! ```
//!
//! The fields before `attributes` are outside the CRC, so that a leader places a batch in its log
//! without reading the records: [`assign`].

use std::fmt;

use crc_fast::CrcAlgorithm;

use crate::base::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

/// Bytes of the header, and the least size of a batch.
pub const BATCH_HEADER_SIZE: usize = 61;
/// Bytes up to and including `batch_length`, which counts what follows.
pub const LOG_OVERHEAD: usize = 12;
/// The only format of batches that is served.
pub const MAGIC: i8 = 2;

pub(crate) const LENGTH_AT: usize = 8;
pub(crate) const LEADER_EPOCH_AT: usize = 12;
pub(crate) const MAGIC_AT: usize = 16;
pub(crate) const CRC_AT: usize = 17;
pub(crate) const ATTRIBUTES_AT: usize = 21;
pub(crate) const LAST_OFFSET_DELTA_AT: usize = 23;
pub(crate) const BASE_TIMESTAMP_AT: usize = 27;
pub(crate) const MAX_TIMESTAMP_AT: usize = 35;
pub(crate) const PRODUCER_ID_AT: usize = 43;
pub(crate) const PRODUCER_EPOCH_AT: usize = 51;
pub(crate) const BASE_SEQUENCE_AT: usize = 53;
pub(crate) const RECORDS_COUNT_AT: usize = 57;

pub(crate) const COMPRESSION_MASK: i16 = 0x07;
pub(crate) const TIMESTAMP_TYPE_BIT: i16 = 0x08;
pub(crate) const TRANSACTIONAL_BIT: i16 = 0x10;
pub(crate) const CONTROL_BIT: i16 = 0x20;
pub(crate) const DELETE_HORIZON_BIT: i16 = 0x40;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum CompressionType {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl CompressionType {
    /// By the number in a batch's attributes; `None` for a number that no codec has.
    pub fn from_id(id: u8) -> Option<Self> {
        Some(match id {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            _ => return None,
        })
    }

    /// The number in a batch's attributes.
    pub fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// As settings and tools name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// By the name in settings; `uncompressed` is how `compression.type` says none.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "none" | "uncompressed" => Self::None,
            "gzip" => Self::Gzip,
            "snappy" => Self::Snappy,
            "lz4" => Self::Lz4,
            "zstd" => Self::Zstd,
            _ => return None,
        })
    }
}

impl fmt::Display for CompressionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whose clock stamped the records (`message.timestamp.type`, KIP-32).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TimestampType {
    /// The producer's: each record has its own.
    #[default]
    CreateTime,
    /// The broker's at the append: all records of a batch have its `max_timestamp`.
    LogAppendTime,
}

/// Why bytes are not a batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchError {
    /// Fewer bytes than a header.
    Short { available: usize },
    /// `batch_length` is less than the rest of a header.
    Length { length: i32 },
    /// Not format 2: an older one, or not a batch.
    Magic { magic: i8 },
    /// Bits 0-2 of the attributes name no codec.
    Compression { id: u8 },
    /// The base offset is negative, or the last offset is below it or overflows.
    OffsetRange {
        base_offset: i64,
        last_offset_delta: i32,
    },
    /// A negative number of records, or more than the offsets between first and last have room for.
    RecordsCount { count: i32 },
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { available } => write!(
                f,
                "{available} bytes are fewer than the {BATCH_HEADER_SIZE} of a batch header"
            ),
            Self::Length { length } => write!(
                f,
                "batch length {length} is less than the {} bytes of the rest of its header",
                BATCH_HEADER_SIZE - LOG_OVERHEAD
            ),
            Self::Magic { magic } => write!(f, "magic {magic} is not {MAGIC}"),
            Self::Compression { id } => write!(f, "compression {id} is unknown"),
            Self::OffsetRange {
                base_offset,
                last_offset_delta,
            } => write!(
                f,
                "base offset {base_offset} with last offset delta {last_offset_delta} is no range"
            ),
            Self::RecordsCount { count } => write!(f, "records count {count} is impossible"),
        }
    }
}

impl std::error::Error for BatchError {}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    // Callers have checked that a whole header is there.
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

pub(crate) fn i16_at(bytes: &[u8], at: usize) -> i16 {
    i16::from_be_bytes(bytes_at(bytes, at))
}
pub(crate) fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(bytes_at(bytes, at))
}
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes_at(bytes, at))
}
pub(crate) fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_be_bytes(bytes_at(bytes, at))
}

/// The 61 bytes of a batch's header, parsed and consistent in themselves.
///
/// A value of this type holds: `size_in_bytes() >= BATCH_HEADER_SIZE`, the codec is known, the offsets
/// neither descend nor overflow, and `0 <= records_count <= last_offset_delta + 1`. Whether the CRC is
/// right is not known: [`verify_crc`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: Offset,
    /// Bytes after the length field itself; see [`BatchHeader::size_in_bytes`].
    pub batch_length: i32,
    pub partition_leader_epoch: LeaderEpoch,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: Timestamp,
    pub max_timestamp: Timestamp,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    /// -1 is none.
    pub base_sequence: i32,
    pub records_count: i32,
}

impl BatchHeader {
    /// Parses the header at the start of `bytes`; what follows it is not looked at, nor need it be there.
    ///
    /// Checks are made in the order of the variants of [`BatchError`], so an older format is told from
    /// damage. Whether the whole batch is there is the caller's to compare with
    /// [`size_in_bytes`](Self::size_in_bytes).
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        let header: &[u8; BATCH_HEADER_SIZE] = match bytes.first_chunk() {
            Some(header) => header,
            None => {
                // An older batch may be shorter than our header; its magic lies at the same place.
                if let Some(&magic) = bytes.get(MAGIC_AT)
                    && matches!(magic, 0 | 1)
                {
                    return Err(BatchError::Magic { magic: magic as i8 });
                }
                return Err(BatchError::Short {
                    available: bytes.len(),
                });
            }
        };
        let magic = header[MAGIC_AT] as i8;
        if magic != MAGIC {
            return Err(BatchError::Magic { magic });
        }
        let parsed = BatchHeader {
            base_offset: Offset(i64_at(header, 0)),
            batch_length: i32_at(header, LENGTH_AT),
            partition_leader_epoch: LeaderEpoch(i32_at(header, LEADER_EPOCH_AT)),
            crc: u32_at(header, CRC_AT),
            attributes: i16_at(header, ATTRIBUTES_AT),
            last_offset_delta: i32_at(header, LAST_OFFSET_DELTA_AT),
            base_timestamp: Timestamp(i64_at(header, BASE_TIMESTAMP_AT)),
            max_timestamp: Timestamp(i64_at(header, MAX_TIMESTAMP_AT)),
            producer_id: ProducerId(i64_at(header, PRODUCER_ID_AT)),
            producer_epoch: ProducerEpoch(i16_at(header, PRODUCER_EPOCH_AT)),
            base_sequence: i32_at(header, BASE_SEQUENCE_AT),
            records_count: i32_at(header, RECORDS_COUNT_AT),
        };
        if parsed.batch_length < (BATCH_HEADER_SIZE - LOG_OVERHEAD) as i32
            || parsed.batch_length > i32::MAX - LOG_OVERHEAD as i32
        {
            return Err(BatchError::Length {
                length: parsed.batch_length,
            });
        }
        let codec = (parsed.attributes & COMPRESSION_MASK) as u8;
        if CompressionType::from_id(codec).is_none() {
            return Err(BatchError::Compression { id: codec });
        }
        if parsed.base_offset.0 < 0
            || parsed.last_offset_delta < 0
            || parsed
                .base_offset
                .0
                // One more than the last offset is the next batch's, and must exist as well.
                .checked_add(i64::from(parsed.last_offset_delta) + 1)
                .is_none()
        {
            return Err(BatchError::OffsetRange {
                base_offset: parsed.base_offset.0,
                last_offset_delta: parsed.last_offset_delta,
            });
        }
        if parsed.records_count < 0
            || i64::from(parsed.records_count) > i64::from(parsed.last_offset_delta) + 1
        {
            return Err(BatchError::RecordsCount {
                count: parsed.records_count,
            });
        }
        Ok(parsed)
    }

    /// Bytes of the whole batch, header included.
    pub fn size_in_bytes(&self) -> usize {
        // Not negative: checked by `parse`.
        LOG_OVERHEAD + self.batch_length as usize
    }

    pub fn last_offset(&self) -> Offset {
        Offset(self.base_offset.0 + i64::from(self.last_offset_delta))
    }

    /// The offset after the last: where the next batch goes.
    pub fn next_offset(&self) -> Offset {
        Offset(self.last_offset().0 + 1)
    }

    pub fn compression(&self) -> CompressionType {
        CompressionType::from_id((self.attributes & COMPRESSION_MASK) as u8).unwrap_or_default()
    }

    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & TIMESTAMP_TYPE_BIT == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Holds markers of the broker, such as the end of a transaction, that consumers do not see.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON_BIT != 0
    }

    /// From when on the cleaner may drop this batch's tombstones and markers (KIP-534).
    pub fn delete_horizon(&self) -> Option<Timestamp> {
        self.has_delete_horizon().then_some(self.base_timestamp)
    }

    pub fn has_producer_id(&self) -> bool {
        self.producer_id > ProducerId::NONE
    }

    /// The sequence of the last record, which follows `i32::MAX` with 0; -1 if there is none.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return -1;
        }
        increment_sequence(self.base_sequence, self.last_offset_delta)
    }
}

/// `sequence` advanced by `by`: 2^31-1 is followed by 0. Neither argument is negative.
pub fn increment_sequence(sequence: i32, by: i32) -> i32 {
    ((i64::from(sequence) + i64::from(by)) & i64::from(i32::MAX)) as i32
}

/// Whether the CRC of `batch`, exactly one whole batch, is right. False if it is shorter than a header.
pub fn verify_crc(batch: &[u8]) -> bool {
    batch.len() >= BATCH_HEADER_SIZE && u32_at(batch, CRC_AT) == compute_crc(batch)
}

/// The CRC that `batch` should carry. `batch` is one whole batch.
///
/// By the processor's widest carry-less multiplication: a batch of 1 MB took 17 us with AVX-512, where the crc32 instruction
/// of `crc32c` takes 35; 16 KiB 0.30 and 0.72, 64 B 4 and 8 ns.
pub(crate) fn compute_crc(batch: &[u8]) -> u32 {
    let crc = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &batch[ATTRIBUTES_AT..]);
    // One of 32 bits, whatever the type.
    crc as u32
}

/// Gives a validated batch its place in the log, in place: base offset and leader epoch, and for
/// `LogAppendTime` topics the time of the append.
///
/// The offsets lie outside the CRC. With `log_append_time` the timestamp type and `max_timestamp`
/// change as well, and the CRC is adjusted by the difference, in time that grows with the logarithm of
/// the size: the records are not read.
///
/// Panics if `batch` is shorter than a header: it was parsed before.
pub fn assign(
    batch: &mut [u8],
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    log_append_time: Option<Timestamp>,
) {
    assert!(batch.len() >= BATCH_HEADER_SIZE);
    batch[..8].copy_from_slice(&base_offset.0.to_be_bytes());
    batch[LEADER_EPOCH_AT..LEADER_EPOCH_AT + 4].copy_from_slice(&leader_epoch.0.to_be_bytes());
    if let Some(time) = log_append_time {
        set_max_timestamp(batch, TimestampType::LogAppendTime, time);
    }
}

/// Sets the timestamp type and `max_timestamp` and adjusts the CRC; nothing is touched if both are so.
pub(crate) fn set_max_timestamp(batch: &mut [u8], timestamp_type: TimestampType, max: Timestamp) {
    let old = i16_at(batch, ATTRIBUTES_AT);
    let attributes = match timestamp_type {
        TimestampType::CreateTime => old & !TIMESTAMP_TYPE_BIT,
        TimestampType::LogAppendTime => old | TIMESTAMP_TYPE_BIT,
    };
    if attributes == old && i64_at(batch, MAX_TIMESTAMP_AT) == max.0 {
        return;
    }
    let before = crc32c::crc32c(&batch[ATTRIBUTES_AT..PRODUCER_ID_AT]);
    batch[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
    batch[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&max.0.to_be_bytes());
    let after = crc32c::crc32c(&batch[ATTRIBUTES_AT..PRODUCER_ID_AT]);
    // A CRC is linear: changing a prefix changes the whole by the prefix's change, shifted by what follows.
    // So it stays the producer's: damage since it was checked is still noticed by whoever reads.
    let crc = u32_at(batch, CRC_AT) ^ crc_shift(before ^ after, batch.len() - PRODUCER_ID_AT);
    batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
}

/// CRC-32C's polynomial, reflected: bit 31 is x^0.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// x to the power of 2^k, modulo the polynomial.
const POWERS: [u32; 35] = {
    let mut powers = [1 << 30; 35];
    let mut k = 1;
    while k < powers.len() {
        powers[k] = multiply(powers[k - 1], powers[k - 1]);
        k += 1;
    }
    powers
};

/// a times b, modulo the polynomial.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 1 << 31;
    while bit != 0 {
        // Without branches: the bits are as good as random.
        product ^= b & 0u32.wrapping_sub((a & bit != 0) as u32);
        b = (b >> 1) ^ (POLYNOMIAL & 0u32.wrapping_sub(b & 1));
        bit >>= 1;
    }
    product
}

/// What a difference in a CRC becomes when `bytes` bytes follow: times x^(8 * bytes).
///
/// (`crc32c::crc32c_combine` does the same in some 40 us, more than a CRC of a megabyte takes.)
fn crc_shift(crc: u32, bytes: usize) -> u32 {
    // A batch has less than 2^31 bytes, so the powers suffice.
    let bits = (bytes as u64) << 3;
    POWERS
        .iter()
        .enumerate()
        .filter(|(k, _)| bits >> k & 1 != 0)
        .fold(crc, |crc, (_, &power)| multiply(power, crc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_is_crc32c_at_every_length() {
        let bytes: Vec<u8> = (0..70_000u32)
            .map(|n| (n.wrapping_mul(n) >> 7) as u8)
            .collect();
        // Others are used for a few bytes, for hundreds and for thousands, and for the rest that each leaves.
        let lengths = (BATCH_HEADER_SIZE..1_200).chain([4_095, 16_384, 65_537, 70_000]);
        for length in lengths {
            let batch = &bytes[..length];
            let crc = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
            assert_eq!(compute_crc(batch), crc, "{length}");
        }
    }

    /// An empty but valid header of 61 bytes.
    fn empty() -> Vec<u8> {
        let mut batch = vec![0; BATCH_HEADER_SIZE];
        batch[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&49i32.to_be_bytes());
        batch[MAGIC_AT] = 2;
        batch[PRODUCER_ID_AT..RECORDS_COUNT_AT].fill(0xff);
        let crc = compute_crc(&batch);
        batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
        batch
    }

    fn with(at: usize, value: &[u8]) -> Result<BatchHeader, BatchError> {
        let mut batch = empty();
        batch[at..at + value.len()].copy_from_slice(value);
        BatchHeader::parse(&batch)
    }

    #[test]
    fn each_impossible_field_is_an_error_of_its_own() {
        assert!(BatchHeader::parse(&empty()).is_ok());
        assert_eq!(
            BatchHeader::parse(&empty()[..60]),
            Err(BatchError::Short { available: 60 })
        );
        assert_eq!(with(MAGIC_AT, &[1]), Err(BatchError::Magic { magic: 1 }));
        assert_eq!(
            with(LENGTH_AT, &48i32.to_be_bytes()),
            Err(BatchError::Length { length: 48 })
        );
        assert_eq!(
            with(LENGTH_AT, &i32::MAX.to_be_bytes()),
            Err(BatchError::Length { length: i32::MAX })
        );
        assert_eq!(
            with(ATTRIBUTES_AT, &7i16.to_be_bytes()),
            Err(BatchError::Compression { id: 7 })
        );
        assert!(matches!(
            with(LAST_OFFSET_DELTA_AT, &(-1i32).to_be_bytes()),
            Err(BatchError::OffsetRange { .. })
        ));
        assert!(matches!(
            with(0, &(-1i64).to_be_bytes()),
            Err(BatchError::OffsetRange { .. })
        ));
        assert!(matches!(
            with(0, &i64::MAX.to_be_bytes()),
            Err(BatchError::OffsetRange { .. })
        ));
        assert_eq!(
            with(RECORDS_COUNT_AT, &2i32.to_be_bytes()),
            Err(BatchError::RecordsCount { count: 2 })
        );
        assert_eq!(
            with(RECORDS_COUNT_AT, &(-1i32).to_be_bytes()),
            Err(BatchError::RecordsCount { count: -1 })
        );
    }

    #[test]
    fn a_short_old_message_is_told_from_damage() {
        let mut old = vec![0; 34];
        old[MAGIC_AT] = 1;
        assert_eq!(
            BatchHeader::parse(&old),
            Err(BatchError::Magic { magic: 1 })
        );
    }

    #[test]
    fn sequences_follow_the_largest_with_zero() {
        assert_eq!(increment_sequence(i32::MAX, 0), i32::MAX);
        assert_eq!(increment_sequence(i32::MAX, 1), 0);
        assert_eq!(increment_sequence(i32::MAX - 2, 5), 2);
        assert_eq!(increment_sequence(i32::MAX, i32::MAX), i32::MAX - 1);
    }

    #[test]
    fn assign_keeps_the_crc_right() {
        for records in [0usize, 1, 3, 100, 4_096, 70_000, 1_000_001] {
            let mut batch = empty();
            batch.resize(BATCH_HEADER_SIZE + records, 0x5a);
            batch[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&(49 + records as i32).to_be_bytes());
            let crc = compute_crc(&batch);
            batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());

            assign(&mut batch, Offset(7), LeaderEpoch(3), None);
            assert!(verify_crc(&batch));
            assert_eq!(u32_at(&batch, CRC_AT), crc);

            assign(&mut batch, Offset(8), LeaderEpoch(3), Some(Timestamp(99)));
            assert!(verify_crc(&batch));
            let header = BatchHeader::parse(&batch).unwrap();
            assert_eq!(header.base_offset, Offset(8));
            assert_eq!(header.partition_leader_epoch, LeaderEpoch(3));
            assert_eq!(header.max_timestamp, Timestamp(99));
            assert_eq!(header.timestamp_type(), TimestampType::LogAppendTime);

            set_max_timestamp(&mut batch, TimestampType::CreateTime, Timestamp(1));
            assert!(verify_crc(&batch));
        }
    }
}
