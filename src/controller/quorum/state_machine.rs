//! What committed entries are applied to: the image, in memory, with snapshots in the [`Store`].

use std::io::Cursor;
use std::sync::{Arc, Mutex, PoisonError};

use openraft::storage::RaftStateMachine;
use openraft::{
    AnyError, BasicNode, EntryPayload, LogId, OptionalSend, RaftSnapshotBuilder, Snapshot,
    SnapshotMeta, StorageError, StorageIOError, StoredMembership,
};
use tokio::sync::watch;

use super::store::{
    Entry, NodeId, Store, StoredSnapshot, decode_snapshot, encode_snapshot, snapshot_head,
};
use super::{Applied, QuorumError, TypeConfig, Update};
use crate::base::BrokerId;
use crate::metadata::Image;

/// Handed to raft; the quorum keeps a clone to look at the image.
#[derive(Clone)]
pub(super) struct StateMachine {
    store: Arc<Store>,
    shared: Arc<Mutex<Shared>>,
    /// The index of the last entry that was applied; -1 before the first.
    applied: Arc<watch::Sender<i64>>,
}

struct Shared {
    image: Arc<Image>,
    last_applied: Option<LogId<NodeId>>,
    membership: StoredMembership<NodeId, BasicNode>,
    /// Not yet taken, oldest first.
    updates: Vec<Update>,
    /// Bytes of the last snapshot.
    snapshot_bytes: usize,
}

impl StateMachine {
    pub fn new(
        store: Arc<Store>,
        node_id: BrokerId,
        snapshot: Option<StoredSnapshot>,
    ) -> Result<Self, QuorumError> {
        let mut shared = Shared {
            // The one voter is the controller, always.
            image: Arc::new(Image::default().with_controller(Some(node_id))),
            last_applied: None,
            membership: StoredMembership::default(),
            updates: Vec::new(),
            snapshot_bytes: 0,
        };
        if let Some(snapshot) = snapshot {
            shared.install(snapshot).map_err(QuorumError::Snapshot)?;
        }
        let applied = shared.version();
        Ok(Self {
            store,
            shared: Arc::new(Mutex::new(shared)),
            applied: Arc::new(watch::Sender::new(applied)),
        })
    }

    pub fn image(&self) -> Arc<Image> {
        self.lock().image.clone()
    }

    /// What was applied since the last call, oldest first.
    pub fn take_updates(&self) -> Vec<Update> {
        std::mem::take(&mut self.lock().updates)
    }

    pub fn applied(&self) -> watch::Receiver<i64> {
        self.applied.subscribe()
    }

    pub fn snapshot_bytes(&self) -> usize {
        self.lock().snapshot_bytes
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn version(&self) -> i64 {
        self.last_applied.map_or(-1, |id| version(&id))
    }

    fn install(&mut self, snapshot: StoredSnapshot) -> Result<(), String> {
        let (image, _) = Image::default()
            .apply(version(&snapshot.last_log_id), &snapshot.records)
            .map_err(|e| e.to_string())?;
        self.image = Arc::new(image.with_controller(self.image.controller_id()));
        self.last_applied = Some(snapshot.last_log_id);
        self.membership = snapshot.membership;
        self.snapshot_bytes = snapshot.bytes;
        Ok(())
    }

    fn apply(&mut self, entry: Entry) -> Applied {
        self.last_applied = Some(entry.log_id);
        let version = version(&entry.log_id);
        match entry.payload {
            EntryPayload::Blank => {
                self.image = Arc::new(self.image.at_version(version));
                Applied::Done { version }
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                self.image = Arc::new(self.image.at_version(version));
                Applied::Done { version }
            }
            EntryPayload::Normal(proposal) => match self.image.apply(version, &proposal.0) {
                Ok((image, delta)) => {
                    self.image = Arc::new(image);
                    self.updates.push(Update {
                        image: self.image.clone(),
                        delta: Arc::new(delta),
                    });
                    Applied::Done { version }
                }
                // Every node refuses the same entry the same way, so the images stay equal.
                Err(error) => {
                    tracing::error!(version, %error, "a metadata entry contradicts the image and is skipped");
                    self.image = Arc::new(self.image.at_version(version));
                    Applied::Refused(error.to_string())
                }
            },
        }
    }
}

/// An image's version is the index of the last entry in it.
fn version(id: &LogId<NodeId>) -> i64 {
    i64::try_from(id.index).unwrap_or(i64::MAX)
}

fn meta(
    last_log_id: LogId<NodeId>,
    membership: &StoredMembership<NodeId, BasicNode>,
) -> SnapshotMeta<NodeId, BasicNode> {
    SnapshotMeta {
        last_log_id: Some(last_log_id),
        last_membership: membership.clone(),
        snapshot_id: last_log_id.to_string(),
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<NodeId>>, StoredMembership<NodeId, BasicNode>), StorageError<NodeId>>
    {
        let shared = self.lock();
        Ok((shared.last_applied, shared.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError<NodeId>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut shared = self.lock();
        let results = entries
            .into_iter()
            .map(|entry| shared.apply(entry))
            .collect();
        let version = shared.version();
        drop(shared);
        self.applied.send_replace(version);
        Ok(results)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let shared = self.lock();
        SnapshotBuilder {
            machine: self.clone(),
            image: shared.image.clone(),
            last_applied: shared.last_applied,
            membership: shared.membership.clone(),
        }
    }

    async fn begin_receiving_snapshot(
        &mut self,
    ) -> Result<Box<Cursor<Vec<u8>>>, StorageError<NodeId>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<NodeId, BasicNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError<NodeId>> {
        let fails = |reason: String| {
            StorageIOError::read_snapshot(Some(meta.signature()), AnyError::error(reason))
        };
        let bytes = snapshot.into_inner();
        let store = self.store.clone();
        let decoded = tokio::task::spawn_blocking(move || {
            let decoded = decode_snapshot(&bytes)?;
            store.save_snapshot(&bytes).map_err(|e| e.to_string())?;
            Ok(decoded)
        })
        .await
        .unwrap_or_else(|e| Err(e.to_string()))
        .map_err(fails)?;
        let version = {
            let mut shared = self.lock();
            shared.install(decoded).map_err(fails)?;
            shared.version()
        };
        self.applied.send_replace(version);
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<Snapshot<TypeConfig>>, StorageError<NodeId>> {
        let store = self.store.clone();
        let found = tokio::task::spawn_blocking(move || {
            let Some(bytes) = store.load_snapshot().map_err(|e| e.to_string())? else {
                return Ok(None);
            };
            Ok(Some((snapshot_head(&bytes)?, bytes)))
        })
        .await
        .unwrap_or_else(|e| Err(e.to_string()))
        .map_err(|reason: String| StorageIOError::read_snapshot(None, AnyError::error(reason)))?;
        Ok(found.map(|((last_log_id, membership), bytes)| Snapshot {
            meta: meta(last_log_id, &membership),
            snapshot: Box::new(Cursor::new(bytes)),
        }))
    }
}

/// An image on its way into the file; later entries do not change it.
pub(super) struct SnapshotBuilder {
    machine: StateMachine,
    image: Arc<Image>,
    last_applied: Option<LogId<NodeId>>,
    membership: StoredMembership<NodeId, BasicNode>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError<NodeId>> {
        let Some(last_applied) = self.last_applied else {
            return Ok(Snapshot {
                meta: SnapshotMeta::default(),
                snapshot: Box::default(),
            });
        };
        let (store, image) = (self.machine.store.clone(), self.image.clone());
        let membership = self.membership.clone();
        let bytes = tokio::task::spawn_blocking(move || {
            let bytes = encode_snapshot(&last_applied, &membership, &image.to_records());
            store.save_snapshot(&bytes).map_err(|e| e.to_string())?;
            Ok(bytes)
        })
        .await
        .unwrap_or_else(|e| Err(e.to_string()))
        .map_err(|reason: String| StorageIOError::write_snapshot(None, AnyError::error(reason)))?;
        self.machine.lock().snapshot_bytes = bytes.len();
        Ok(Snapshot {
            meta: meta(last_applied, &self.membership),
            snapshot: Box::new(Cursor::new(bytes)),
        })
    }
}
