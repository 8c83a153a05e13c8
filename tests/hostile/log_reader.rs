//! Reads a partition as a client does that trusts nobody: batch by batch, each CRC looked at.

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{
    FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse,
};
use ringspun::base::Offset;
use ringspun::records::{BatchHeader, RecordIter, verify_crc};

use super::{Peer, answer, request, topic};

/// What a partition gave from some offset on.
#[derive(Debug, Default)]
pub struct Served {
    /// In the order in which they came, all with the right CRC.
    pub batches: Vec<(BatchHeader, Bytes)>,
    /// Producer and first offset of the aborted transactions that were told.
    pub aborted: Vec<(i64, i64)>,
    /// What ended it before the end of the partition.
    pub problem: Option<Problem>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// The broker answered with this code.
    Code(i16),
    /// What came is no batch with the right CRC: a client tells its user so.
    BadBatch,
}

/// One record of a batch that is not compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub offset: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
}

impl Served {
    /// The records, those of transactions that were aborted among them, without markers.
    pub fn records(&self) -> Vec<Record> {
        let data = self.batches.iter().filter(|(h, _)| !h.is_control());
        let records = data.flat_map(|(header, batch)| {
            RecordIter::of_batch(header, batch).map(|record| {
                let record = record.expect("a record of a batch with the right CRC");
                Record {
                    offset: record.offset.0,
                    key: record.key.map(Bytes::copy_from_slice),
                    value: record.value.map(Bytes::copy_from_slice),
                }
            })
        });
        records.collect()
    }
}

/// Reads from `from`, or the first batch behind it, to the end.
pub fn read(peer: &mut Peer, name: &str, partition: i32, from: i64, committed: bool) -> Served {
    let mut served = Served::default();
    let mut next = from;
    loop {
        let asked = FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(next)
            .with_partition_max_bytes(1 << 20);
        let body = FetchRequest::default()
            .with_max_bytes(1 << 20)
            .with_session_epoch(-1)
            .with_isolation_level(i8::from(committed))
            .with_topics(vec![
                FetchTopic::default()
                    .with_topic(topic(name))
                    .with_partitions(vec![asked]),
            ]);
        peer.send(&request(12, 1, &body));
        let frame = peer.receive().unwrap().expect("an answer");
        let response: FetchResponse = answer(frame, 1, 12);
        let found = &response.responses[0].partitions[0];
        if found.error_code != 0 {
            served.problem = Some(Problem::Code(found.error_code));
            return served;
        }
        for aborted in found.aborted_transactions.iter().flatten() {
            let aborted = (aborted.producer_id.0, aborted.first_offset);
            if !served.aborted.contains(&aborted) {
                served.aborted.push(aborted);
            }
        }
        let bytes = found.records.clone().unwrap_or_default();
        if bytes.is_empty() {
            return served;
        }
        let mut at = 0;
        while at < bytes.len() {
            let header = BatchHeader::parse(&bytes[at..]);
            let whole = header.ok().and_then(|header| {
                let batch = bytes.get(at..at + header.size_in_bytes())?;
                verify_crc(batch).then(|| (header, bytes.slice_ref(batch)))
            });
            let Some((header, batch)) = whole else {
                // The last one may be cut off where the answer ends.
                if at == 0 {
                    served.problem = Some(Problem::BadBatch);
                    return served;
                }
                break;
            };
            at += batch.len();
            if header.next_offset().0 <= next && !served.batches.is_empty() {
                served.problem = Some(Problem::BadBatch);
                return served;
            }
            next = header.next_offset().0;
            served.batches.push((header, batch));
        }
    }
}

/// The offset of the first record of a partition and one past the last, or the code that says why not.
pub fn bounds(peer: &mut Peer, name: &str, partition: i32) -> Result<(Offset, Offset), i16> {
    let earliest = list_offset(peer, name, partition, -2)?;
    Ok((
        Offset(earliest),
        Offset(list_offset(peer, name, partition, -1)?),
    ))
}

/// The first offset of a record that is not older than `timestamp`.
pub fn list_offset(
    peer: &mut Peer,
    name: &str,
    partition: i32,
    timestamp: i64,
) -> Result<i64, i16> {
    let asked = ListOffsetsPartition::default()
        .with_partition_index(partition)
        .with_timestamp(timestamp);
    let body = ListOffsetsRequest::default().with_topics(vec![
        ListOffsetsTopic::default()
            .with_name(topic(name))
            .with_partitions(vec![asked]),
    ]);
    peer.send(&request(7, 2, &body));
    let frame = peer.receive().unwrap().expect("an answer");
    let response: ListOffsetsResponse = answer(frame, 1, 7);
    let found = &response.topics[0].partitions[0];
    match found.error_code {
        0 => Ok(found.offset),
        code => Err(code),
    }
}
