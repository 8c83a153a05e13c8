//! Control records: what the broker writes between a producer's records, and consumers do not see (KIP-98).
//!
//! ```text
//! key    2  version   0 or later; later ones only append fields
//!        2  type      0 abort, 1 commit; others belong to the metadata quorum
//! value  2  version   0 or later, of a transaction's end
//!        4  coordinator_epoch
//! ```

use super::batch::BatchHeader;
use super::record::{RecordError, RecordIter};

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    Commit,
    Abort,
}

/// The marker that ends a producer's transaction in this partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndTxnMarker {
    pub outcome: TxnOutcome,
    /// Term of the transaction coordinator that sent it; an older one is fenced.
    pub coordinator_epoch: i32,
}

impl EndTxnMarker {
    /// The key and value of the control record.
    pub fn encode(&self) -> ([u8; 4], [u8; 6]) {
        let kind = match self.outcome {
            TxnOutcome::Abort => 0,
            TxnOutcome::Commit => 1,
        };
        let mut value = [0; 6];
        value[2..].copy_from_slice(&self.coordinator_epoch.to_be_bytes());
        ([0, 0, 0, kind], value)
    }

    /// Reads the key and value of a control record. `None` if it does not end a transaction.
    pub fn decode(key: &[u8], value: &[u8]) -> Option<EndTxnMarker> {
        let [v0, v1, t0, t1] = *key.first_chunk()?;
        if i16::from_be_bytes([v0, v1]) < 0 {
            return None;
        }
        let outcome = match i16::from_be_bytes([t0, t1]) {
            0 => TxnOutcome::Abort,
            1 => TxnOutcome::Commit,
            _ => return None,
        };
        let [w0, w1, epoch @ ..] = *value.first_chunk::<6>()?;
        if i16::from_be_bytes([w0, w1]) < 0 {
            return None;
        }
        Some(EndTxnMarker {
            outcome,
            coordinator_epoch: i32::from_be_bytes(epoch),
        })
    }

    /// The marker in a control batch. `None` if the cleaner has emptied the batch, or it holds another
    /// kind of control record.
    ///
    /// `batch` is one whole batch with `header` at its start. Control batches are never compressed.
    pub fn of_batch(
        header: &BatchHeader,
        batch: &[u8],
    ) -> Result<Option<EndTxnMarker>, RecordError> {
        let Some(record) = RecordIter::of_batch(header, batch).next() else {
            return Ok(None);
        };
        let record = record?;
        Ok(match (record.key, record.value) {
            (Some(key), Some(value)) => EndTxnMarker::decode(key, value),
            _ => None,
        })
    }
}
