//! A coordinator's log being read into its machine.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Seat;
use crate::base::Offset;
use crate::broker::offload::bytes_of;
use crate::coordinator::{CoordinatorRecord, Machine, Position};
use crate::records::control::{EndTxnMarker, TxnOutcome};
use crate::records::{
    BATCH_HEADER_SIZE, BatchHeader, CompressionType, LOG_OVERHEAD, RecordIter, Scratch, decompress,
};
use crate::runtime::executor::yield_now;

/// Records applied before other tasks of the shard may run: a few hundred microseconds.
const LOAD_RECORDS_PER_TURN: usize = 512;

/// What a compressed batch may grow to when it is loaded.
const BATCH_BYTES_MAX: u64 = 64 << 20;

/// Reasons to skip records of a log that are told apart.
const SKIPPED_KINDS: usize = 16;

/// A log being read into a machine.
pub(super) struct Loading<'a, M: Machine> {
    pub(super) machine: M,
    seat: &'a Seat<M>,
    /// Applied, or skipped.
    pub(super) records: u64,
    /// Read at once.
    bytes: u32,
    scratch: Scratch,
    /// Why records are not applied: the first offset, and how many.
    skipped: BTreeMap<String, (Offset, u64)>,
}

impl<'a, M: Machine> Loading<'a, M> {
    /// `bytes` are read at once; a read returns a whole batch, however little is asked for.
    pub(super) fn new(seat: &'a Seat<M>, bytes: u32) -> Self {
        Self {
            machine: M::new(seat.partition.key.partition),
            seat,
            records: 0,
            bytes,
            scratch: Scratch::default(),
            skipped: BTreeMap::new(),
        }
    }

    /// Reads to the end of what is staged. The error says why the machine cannot serve.
    pub(super) async fn run(&mut self) -> Result<(), String> {
        let done = self.read().await;
        self.say_skipped();
        done
    }

    async fn read(&mut self) -> Result<(), String> {
        let log = &self.seat.partition.log;
        let mut at = log.log_start_offset();
        // To the end of what is staged: markers may be appended meanwhile.
        while at < log.staged_end_offset() && !self.seat.closed.get() {
            let end = log.log_end_offset();
            if at >= end {
                if log.failure().is_some() {
                    return Err("the log is offline".to_owned());
                }
                yield_now().await;
                continue;
            }
            let read = log
                .read(at, self.bytes, end, true)
                .await
                .map_err(|e| e.to_string())?;
            let bytes = match read.slice {
                Some(slice) => bytes_of(slice).await.map_err(|e| e.to_string())?,
                None => return Err(format!("nothing to read at offset {at}")),
            };
            at = self.take(at, &bytes).await?;
        }
        Ok(())
    }

    /// Applies whole batches; returns the offset behind them.
    async fn take(&mut self, mut at: Offset, mut bytes: &[u8]) -> Result<Offset, String> {
        let start = at;
        while bytes.len() >= LOG_OVERHEAD {
            let header = BatchHeader::parse(bytes).map_err(|e| format!("at offset {at}: {e}"))?;
            let len = header.size_in_bytes();
            let Some(batch) = bytes.get(..len) else { break };
            self.batch(&header, batch).await;
            at = header.next_offset();
            bytes = &bytes[len..];
        }
        if at == start {
            return Err(format!("no whole batch at offset {at}"));
        }
        Ok(at)
    }

    async fn batch(&mut self, header: &BatchHeader, batch: &[u8]) {
        if header.is_control() {
            if let Ok(Some(marker)) = EndTxnMarker::of_batch(header, batch) {
                let committed = marker.outcome == TxnOutcome::Commit;
                self.machine
                    .apply_marker(header.producer_id, header.producer_epoch, committed);
            }
            return;
        }
        let producer = header
            .is_transactional()
            .then_some((header.producer_id, header.producer_epoch));
        let body = &batch[BATCH_HEADER_SIZE.min(batch.len())..];
        let plain;
        let body = if header.compression() == CompressionType::None {
            body
        } else {
            match decompress(
                header.compression(),
                body,
                &mut self.scratch,
                BATCH_BYTES_MAX,
            ) {
                Ok(bytes) => {
                    plain = bytes;
                    &plain[..]
                }
                Err(error) => {
                    self.skipped(header.base_offset, &error);
                    return;
                }
            }
        };
        let mut turn = 0;
        for record in RecordIter::new(header, body) {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    self.skipped(header.base_offset, &error);
                    return;
                }
            };
            let at = Position {
                offset: record.offset,
                timestamp: record.timestamp,
                producer,
            };
            let Some(key) = record.key else {
                self.skipped(record.offset, &"a record without a key");
                continue;
            };
            let coordinator_record = CoordinatorRecord {
                key: Bytes::copy_from_slice(key),
                value: record.value.map(Bytes::copy_from_slice),
            };
            if let Err(error) = self.machine.apply(&coordinator_record, at) {
                self.skipped(record.offset, &error);
            }
            self.records += 1;
            turn += 1;
            if turn >= LOAD_RECORDS_PER_TURN {
                turn = 0;
                yield_now().await;
            }
        }
    }

    /// The rest is loaded.
    fn skipped(&mut self, offset: Offset, why: &dyn std::fmt::Display) {
        let why = match self.skipped.len() < SKIPPED_KINDS {
            true => why.to_string(),
            false => "other reasons".to_owned(),
        };
        self.skipped.entry(why).or_insert((offset, 0)).1 += 1;
    }

    /// A loud line for each reason.
    fn say_skipped(&self) {
        for (why, (first, count)) in &self.skipped {
            tracing::error!(
                topic = %self.seat.partition.topic,
                partition = self.seat.partition.key.partition.0,
                offset = %first,
                "{count} records of a coordinator are skipped, the first at that offset: {why}"
            );
        }
    }
}
