//! Builds a batch record by record: for control records, internal topics and tests.

use super::batch::{
    ATTRIBUTES_AT, BASE_SEQUENCE_AT, BASE_TIMESTAMP_AT, BATCH_HEADER_SIZE, CONTROL_BIT, CRC_AT,
    CompressionType, LAST_OFFSET_DELTA_AT, LEADER_EPOCH_AT, LENGTH_AT, LOG_OVERHEAD, MAGIC,
    MAGIC_AT, MAX_TIMESTAMP_AT, PRODUCER_EPOCH_AT, PRODUCER_ID_AT, RECORDS_COUNT_AT,
    TIMESTAMP_TYPE_BIT, TRANSACTIONAL_BIT, TimestampType, compute_crc,
};
use super::compression::{Compression, Compressor};
use super::control::EndTxnMarker;
use super::record::put_record;
use crate::base::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

/// A batch under construction. Records get ascending offset deltas from 0.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    compression: Compression,
    attributes: i16,
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    base_sequence: i32,
    base_timestamp: Option<Timestamp>,
    max_timestamp: Timestamp,
    count: i32,
    records: Vec<u8>,
}

impl BatchBuilder {
    /// A batch of base offset 0, without leader epoch or producer, of CreateTime.
    pub fn new(compression: Compression) -> Self {
        Self {
            compression,
            attributes: i16::from(compression.kind.id()),
            base_offset: Offset(0),
            leader_epoch: LeaderEpoch::NONE,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
            base_sequence: -1,
            base_timestamp: None,
            max_timestamp: Timestamp::NONE,
            count: 0,
            records: Vec::new(),
        }
    }

    pub fn uncompressed() -> Self {
        Self::new(Compression::of(CompressionType::None))
    }

    #[must_use]
    pub fn base_offset(mut self, base_offset: Offset) -> Self {
        self.base_offset = base_offset;
        self
    }

    #[must_use]
    pub fn leader_epoch(mut self, leader_epoch: LeaderEpoch) -> Self {
        self.leader_epoch = leader_epoch;
        self
    }

    #[must_use]
    pub fn producer(mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: i32) -> Self {
        self.producer_id = id;
        self.producer_epoch = epoch;
        self.base_sequence = base_sequence;
        self
    }

    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.attributes |= TRANSACTIONAL_BIT;
        self
    }

    #[must_use]
    pub fn control(mut self) -> Self {
        self.attributes |= CONTROL_BIT;
        self
    }

    #[must_use]
    pub fn timestamp_type(mut self, timestamp_type: TimestampType) -> Self {
        match timestamp_type {
            TimestampType::CreateTime => self.attributes &= !TIMESTAMP_TYPE_BIT,
            TimestampType::LogAppendTime => self.attributes |= TIMESTAMP_TYPE_BIT,
        }
        self
    }

    pub fn append(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> &mut Self {
        let base = *self.base_timestamp.get_or_insert(timestamp);
        self.max_timestamp = self.max_timestamp.max(timestamp);
        put_record(
            &mut self.records,
            timestamp.0.wrapping_sub(base.0),
            self.count,
            key,
            value,
            headers,
        );
        self.count += 1;
        self
    }

    /// Number of records so far.
    pub fn count(&self) -> i32 {
        self.count
    }

    /// Bytes of the batch so far, if it were not compressed.
    pub fn size_in_bytes(&self) -> usize {
        BATCH_HEADER_SIZE + self.records.len()
    }

    /// The finished batch.
    ///
    /// Panics if it has no record, or more than 2 GiB.
    pub fn build(&self) -> Vec<u8> {
        assert!(self.count > 0);
        let head = vec![0; BATCH_HEADER_SIZE];
        let mut batch = Compressor::new(self.compression, head)
            .and_then(|mut out| {
                out.write(&self.records)?;
                out.finish()
            })
            .expect("compressing from memory to memory");
        self.put_header(&mut batch, self.count - 1);
        batch
    }

    /// A batch of the offsets from `base_offset` to `base_offset + last_offset_delta` in which there are no records, as a
    /// cleaner leaves one where all of them are gone.
    pub fn empty(
        base_offset: Offset,
        last_offset_delta: i32,
        leader_epoch: LeaderEpoch,
    ) -> Vec<u8> {
        let mut batch = vec![0; BATCH_HEADER_SIZE];
        Self::uncompressed()
            .base_offset(base_offset)
            .leader_epoch(leader_epoch)
            .put_header(&mut batch, last_offset_delta);
        batch
    }

    fn put_header(&self, batch: &mut [u8], last_offset_delta: i32) {
        let mut put = |at: usize, bytes: &[u8]| batch[at..at + bytes.len()].copy_from_slice(bytes);
        let base_timestamp = self.base_timestamp.unwrap_or(Timestamp::NONE);
        put(0, &self.base_offset.0.to_be_bytes());
        put(LEADER_EPOCH_AT, &self.leader_epoch.0.to_be_bytes());
        put(MAGIC_AT, &MAGIC.to_be_bytes());
        put(ATTRIBUTES_AT, &self.attributes.to_be_bytes());
        put(LAST_OFFSET_DELTA_AT, &last_offset_delta.to_be_bytes());
        put(BASE_TIMESTAMP_AT, &base_timestamp.0.to_be_bytes());
        put(MAX_TIMESTAMP_AT, &self.max_timestamp.0.to_be_bytes());
        put(PRODUCER_ID_AT, &self.producer_id.0.to_be_bytes());
        put(PRODUCER_EPOCH_AT, &self.producer_epoch.0.to_be_bytes());
        put(BASE_SEQUENCE_AT, &self.base_sequence.to_be_bytes());
        put(RECORDS_COUNT_AT, &self.count.to_be_bytes());
        seal(batch);
    }

    /// The control batch that ends a producer's transaction.
    pub fn end_txn(
        producer_id: ProducerId,
        producer_epoch: ProducerEpoch,
        marker: &EndTxnMarker,
        now: Timestamp,
    ) -> Vec<u8> {
        let (key, value) = marker.encode();
        Self::uncompressed()
            .transactional()
            .control()
            .producer(producer_id, producer_epoch, -1)
            .append(now, Some(&key), Some(&value), &[])
            .build()
    }
}

/// Writes the length and the CRC of a batch that is otherwise finished.
///
/// Panics if it has more than 2 GiB.
pub(crate) fn seal(batch: &mut [u8]) {
    let length = i32::try_from(batch.len() - LOG_OVERHEAD).expect("a batch of at most 2 GiB");
    batch[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_be_bytes());
    let crc = compute_crc(batch);
    batch[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::control::TxnOutcome;
    use crate::records::{BatchHeader, verify_crc};

    #[test]
    fn a_batch_without_records_leads_past_its_offsets() {
        let batch = BatchBuilder::empty(Offset(7), 2, LeaderEpoch(3));
        assert!(verify_crc(&batch));
        let header = BatchHeader::parse(&batch).unwrap();
        assert_eq!((header.size_in_bytes(), header.records_count), (61, 0));
        assert_eq!(header.base_offset, Offset(7));
        assert_eq!(header.next_offset(), Offset(10));
        assert_eq!(header.partition_leader_epoch, LeaderEpoch(3));
    }

    #[test]
    fn a_marker_is_a_control_batch_of_one_record() {
        let marker = EndTxnMarker {
            outcome: TxnOutcome::Abort,
            coordinator_epoch: 7,
        };
        let batch = BatchBuilder::end_txn(ProducerId(5), ProducerEpoch(1), &marker, Timestamp(9));
        assert!(verify_crc(&batch));
        let header = BatchHeader::parse(&batch).unwrap();
        assert!(header.is_control() && header.is_transactional());
        assert_eq!(header.last_sequence(), -1);
        assert_eq!(EndTxnMarker::of_batch(&header, &batch), Ok(Some(marker)));
    }
}
