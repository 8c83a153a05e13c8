//! The quorum's log: entries in memory since the last snapshot, and in the [`Store`] behind them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, PoisonError};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    AnyError, LogId, LogState, OptionalSend, RaftLogReader, StorageError, StorageIOError, Vote,
};

use super::store::{Entry, NodeId, Store, encode_entry};
use super::{QuorumError, TypeConfig};

/// Handed to raft, and to every reader it makes; all share one log.
#[derive(Clone)]
pub(super) struct LogStore {
    store: Arc<Store>,
    shared: Arc<Mutex<LogInMemory>>,
}

#[derive(Default)]
struct LogInMemory {
    /// Bounded by how much log a snapshot is made for.
    entries: BTreeMap<u64, (Entry, usize)>,
    /// Bytes of the entries in the file.
    bytes: usize,
    purged: Option<LogId<NodeId>>,
    vote: Option<Vote<NodeId>>,
}

impl LogStore {
    pub fn new(
        store: Arc<Store>,
        vote: Option<Vote<NodeId>>,
        purged: Option<LogId<NodeId>>,
        log: Vec<(Entry, usize)>,
    ) -> Self {
        let bytes = log.iter().map(|(_, bytes)| bytes).sum();
        let entries = log
            .into_iter()
            .map(|(entry, bytes)| (entry.log_id.index, (entry, bytes)))
            .collect();
        Self {
            store,
            shared: Arc::new(Mutex::new(LogInMemory {
                entries,
                bytes,
                purged,
                vote,
            })),
        }
    }

    /// Bytes of log since the last purge.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// The index of the last entry, if there is one.
    pub fn last_index(&self) -> Option<u64> {
        let log = self.lock();
        let last = log.entries.last_key_value().map(|(&index, _)| index);
        last.or(log.purged.map(|id| id.index))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LogInMemory> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn on_blocking_thread(
        &self,
        work: impl FnOnce(&Store) -> Result<(), QuorumError> + Send + 'static,
    ) -> Result<(), QuorumError> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || work(&store))
            .await
            .unwrap_or(Err(QuorumError::Closed))
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError<NodeId>> {
        let log = self.lock();
        let entries = log
            .entries
            .range(range)
            .map(|(_, (entry, _))| entry.clone());
        Ok(entries.collect())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError<NodeId>> {
        let log = self.lock();
        let last = log
            .entries
            .last_key_value()
            .map(|(_, (entry, _))| entry.log_id);
        Ok(LogState {
            last_purged_log_id: log.purged,
            last_log_id: last.or(log.purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<NodeId>) -> Result<(), StorageError<NodeId>> {
        let vote = *vote;
        self.on_blocking_thread(move |store| store.save_vote(&vote))
            .await
            .map_err(|e| StorageIOError::write_vote(AnyError::new(&e)))?;
        self.lock().vote = Some(vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<NodeId>>, StorageError<NodeId>> {
        Ok(self.lock().vote)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError<NodeId>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut encoded = Vec::new();
        {
            let mut log = self.lock();
            for entry in entries {
                let index = entry.log_id.index;
                let bytes = encode_entry(&entry);
                log.bytes += bytes.len();
                log.entries.insert(index, (entry, bytes.len()));
                encoded.push((index, bytes));
            }
        }
        // raft waits for the callback before it writes again, so writes keep their order.
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            let result = store.append(&encoded);
            callback.log_io_completed(result.map_err(io::Error::other));
        });
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId<NodeId>) -> Result<(), StorageError<NodeId>> {
        self.on_blocking_thread(move |store| store.truncate(log_id.index))
            .await
            .map_err(|e| StorageIOError::write_logs(AnyError::new(&e)))?;
        let mut log = self.lock();
        let cut = log.entries.split_off(&log_id.index);
        log.bytes -= cut.values().map(|(_, bytes)| bytes).sum::<usize>();
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId<NodeId>) -> Result<(), StorageError<NodeId>> {
        self.on_blocking_thread(move |store| store.purge(log_id))
            .await
            .map_err(|e| StorageIOError::write_logs(AnyError::new(&e)))?;
        let mut log = self.lock();
        let kept = log.entries.split_off(&log_id.index.saturating_add(1));
        let purged = std::mem::replace(&mut log.entries, kept);
        log.bytes -= purged.values().map(|(_, bytes)| bytes).sum::<usize>();
        log.purged = Some(log_id);
        Ok(())
    }
}
