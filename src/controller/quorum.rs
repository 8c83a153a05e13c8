//! The metadata quorum of this node: openraft over one redb file, on the control thread.
//!
//! 1. [`Quorum::propose`] hands records to raft; they become one log entry.
//! 2. The entry is written and synced on a blocking thread; the control thread only waits.
//! 3. Raft counts the votes (here: one) and applies the entry to the image.
//! 4. The new [`Image`], and what changed, come back as an [`Update`].
//!
//! When the log since the last snapshot outgrows that snapshot, a new one is made and the log before
//! it is purged: file, memory and start time stay within a small multiple of the image.
//!
//! There is one voter and no timer: no election, no heartbeat, no wake-up while nothing happens. Room
//! for 3 to 5 voters is in `network` and in the configuration.
//!
//! Needs a tokio runtime with its time driver enabled. Everything is `Send`, but nothing here expects
//! to run on more than one thread.

mod error;
mod founding;
mod log_store;
mod network;
mod service;
mod state_machine;
mod store;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use openraft::error::{ClientWriteError, RaftError};
use openraft::{BasicNode, Config, Raft, SnapshotPolicy};
use serde::{Deserialize, Serialize};

pub use error::QuorumError;
pub use service::{Committed, ControllerService, StartError};

use crate::base::BrokerId;
use crate::metadata::{Delta, Image, MetadataRecord};
use log_store::LogStore;
use state_machine::StateMachine;
use store::Store;

openraft::declare_raft_types!(
    pub(crate) TypeConfig:
        D = Proposal,
        R = Applied,
        NodeId = u64,
        Node = BasicNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = std::io::Cursor<Vec<u8>>,
);

/// What a log entry of ours holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Proposal(Vec<MetadataRecord>);

/// What became of an entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Applied {
    Done { version: i64 },
    Refused(String),
}

/// A new image, and how it differs from the one before. To be published in the order of the versions.
#[derive(Clone, Debug)]
pub struct Update {
    pub image: Arc<Image>,
    pub delta: Arc<Delta>,
}

/// Below this much log no snapshot is made: reading it takes less than a millisecond.
const LEAST_LOG_BYTES_TO_SNAPSHOT: usize = 256 << 10;

/// Timers of raft that must never fire: there is nobody to elect or to send heartbeats to.
const NEVER_MS: u64 = 30 * 24 * 3600 * 1000;

/// This node's part of the quorum. One per node, on the control thread.
pub struct Quorum {
    raft: Raft<TypeConfig>,
    store: Arc<Store>,
    log: LogStore,
    machine: StateMachine,
    node_id: BrokerId,
}

impl Quorum {
    /// Opens or makes the file at `path` and leads the quorum; when it returns, [`Quorum::image`] has
    /// everything that was ever committed.
    ///
    /// The folder must exist. Reading and decoding is done on a blocking thread.
    pub async fn open(path: &Path, node_id: BrokerId) -> Result<Quorum, QuorumError> {
        let id = store::raft_id(node_id)?;
        let path = path.to_owned();
        let (store, loaded, machine) = tokio::task::spawn_blocking(move || {
            let (store, mut loaded) = Store::open(&path, node_id)?;
            let store = Arc::new(store);
            let machine = StateMachine::new(store.clone(), node_id, loaded.snapshot.take())?;
            Ok::<_, QuorumError>((store, loaded, machine))
        })
        .await
        .map_err(|e| QuorumError::Stopped(e.to_string()))??;
        let log = LogStore::new(store.clone(), loaded.vote, loaded.purged, loaded.log);
        let config = Config {
            cluster_name: "ringspun".to_owned(),
            heartbeat_interval: NEVER_MS,
            election_timeout_min: 2 * NEVER_MS,
            election_timeout_max: 3 * NEVER_MS,
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: 0,
            enable_tick: false,
            enable_heartbeat: false,
            enable_elect: false,
            ..Config::default()
        };
        let raft = Raft::new(
            id,
            Arc::new(config),
            network::NoPeers,
            log.clone(),
            machine.clone(),
        )
        .await
        .map_err(|e| QuorumError::Stopped(e.to_string()))?;
        let quorum = Quorum {
            raft,
            store,
            log,
            machine,
            node_id,
        };
        // The file says that this node leads, so raft commits and applies what is in the log at once.
        if let Some(last) = quorum.log.last_index() {
            let last = i64::try_from(last).unwrap_or(i64::MAX);
            quorum.applied(last).await?;
        }
        // Nobody has seen an image yet, so nobody needs to be told what led to it.
        quorum.machine.take_updates();
        Ok(quorum)
    }

    /// Returns when entry `index` is applied, or the quorum has stopped.
    async fn applied(&self, index: i64) -> Result<(), QuorumError> {
        let mut applied = self.machine.applied();
        let mut metrics = self.raft.metrics();
        loop {
            tokio::select! {
                done = applied.wait_for(|applied| *applied >= index) => {
                    return done.map(|_| ()).map_err(|e| QuorumError::Stopped(e.to_string()));
                }
                changed = metrics.changed() => {
                    if changed.is_err() {
                        return Err(QuorumError::Stopped("it ended while it was opened".to_owned()));
                    }
                    if let Err(fatal) = &metrics.borrow().running_state {
                        return Err(QuorumError::Stopped(fatal.to_string()));
                    }
                }
            }
        }
    }

    /// The latest image, with this node as its controller.
    pub fn image(&self) -> Arc<Image> {
        self.machine.image()
    }

    pub fn node_id(&self) -> BrokerId {
        self.node_id
    }

    /// What was applied and not yet taken, oldest first.
    pub fn take_updates(&self) -> Vec<Update> {
        self.machine.take_updates()
    }

    /// Commits `records` together: returns when they are synced and applied, about one fsync later.
    ///
    /// Records that contradict the latest image are refused before anything is written. The caller
    /// proposes one batch at a time ([`ControllerService`] does), or its records may meet another image
    /// than it looked at; then they are refused too, by all nodes alike.
    ///
    /// After [`QuorumError::Stopped`] it is not known whether the records will be there after a restart.
    pub async fn propose(&self, records: Vec<MetadataRecord>) -> Result<(), QuorumError> {
        let image = self.image();
        image
            .apply(image.version(), &records)
            .map_err(|e| QuorumError::Refused(e.to_string()))?;
        let written = self
            .raft
            .client_write(Proposal(records))
            .await
            .map_err(|e| match e {
                RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
                    QuorumError::Stopped(format!("this node does not lead it: {to}"))
                }
                other => QuorumError::Stopped(other.to_string()),
            })?;
        let result = match written.data {
            Applied::Done { .. } => Ok(()),
            Applied::Refused(reason) => Err(QuorumError::Refused(reason)),
        };
        let enough = LEAST_LOG_BYTES_TO_SNAPSHOT.max(self.machine.snapshot_bytes());
        if self.log.bytes() > enough {
            // Made on a blocking thread while we go on; a second request while one is made is ignored.
            let _ = self.raft.trigger().snapshot().await;
        }
        result
    }

    /// Ends raft and closes the file; its lock is free when this returns.
    pub async fn close(&self) {
        let _ = self.raft.shutdown().await;
        let store = self.store.clone();
        // Closing writes: redb notes that it was closed in order.
        let _ = tokio::task::spawn_blocking(move || store.close()).await;
    }
}
