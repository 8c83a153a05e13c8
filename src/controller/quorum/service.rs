//! The operations of the controller, one after the other, each committed before the next begins.

use std::sync::Arc;

use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, CreatePartitionsRequest, CreatePartitionsResponse,
    CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
    ElectLeadersRequest, ElectLeadersResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{Quorum, QuorumError, Update};
use crate::base::{BrokerId, LeaderEpoch, PartitionIndex, ProducerId, TopicId};
use crate::controller::{
    self, AdoptError, BrokerStart, ConfigRules, ControllerSettings, FoundTopic, Outcome,
    ProducerIdBlock, RegisterError, TakeOverError, TakenOver,
};
use crate::metadata::kraft::Cluster;
use crate::metadata::{DirectoryId, Image, MetadataRecord};

/// What came of an operation.
///
/// It holds the controller's turn: publish the updates to every shard, then drop this (or take the
/// response out of it), and only then does the next operation begin. So images are published in order.
#[derive(Debug)]
pub struct Committed<R> {
    /// For whoever asked, once the updates are published.
    pub response: R,
    /// Oldest first; none when nothing changed. More than one when an earlier caller gave up waiting
    /// before it could publish.
    pub updates: Vec<Update>,
    _turn: OwnedMutexGuard<()>,
}

impl<R> Committed<R> {
    /// Ends the turn.
    pub fn into_response(self) -> R {
        self.response
    }
}

/// The active controller. One per node, on the control thread.
pub struct ControllerService {
    quorum: Quorum,
    settings: std::sync::Mutex<Arc<ControllerSettings>>,
    rules: Arc<dyn ConfigRules>,
    turn: Arc<Mutex<()>>,
}

impl ControllerService {
    pub fn new(
        quorum: Quorum,
        settings: ControllerSettings,
        rules: Arc<dyn ConfigRules>,
    ) -> ControllerService {
        ControllerService {
            quorum,
            settings: std::sync::Mutex::new(Arc::new(settings)),
            rules,
            turn: Arc::default(),
        }
    }

    /// The latest committed image.
    pub fn image(&self) -> Arc<Image> {
        self.quorum.image()
    }

    pub fn quorum(&self) -> &Quorum {
        &self.quorum
    }

    pub fn settings(&self) -> Arc<ControllerSettings> {
        self.settings
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// For operations that begin after this.
    pub fn set_settings(&self, settings: ControllerSettings) {
        *self
            .settings
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(settings);
    }

    /// Runs one operation in its turn: `decide` on the latest image, commit, answer.
    ///
    /// If the caller goes away meanwhile, the records may still be committed; their update goes to the
    /// next operation.
    pub async fn operate<R, E: From<QuorumError>>(
        &self,
        decide: impl FnOnce(&Image, &ControllerSettings) -> Result<Outcome<R>, E>,
    ) -> Result<Committed<R>, E> {
        let turn = self.turn.clone().lock_owned().await;
        let Outcome { records, response } = decide(&self.quorum.image(), &self.settings())?;
        if !records.is_empty() {
            self.quorum.propose(records).await?;
        }
        Ok(Committed {
            response,
            updates: self.quorum.take_updates(),
            _turn: turn,
        })
    }

    async fn run<R>(
        &self,
        decide: impl FnOnce(&Image, &ControllerSettings) -> Outcome<R>,
    ) -> Result<Committed<R>, QuorumError> {
        self.operate(|image, settings| Ok(decide(image, settings)))
            .await
    }

    pub async fn create_topics(
        &self,
        request: &CreateTopicsRequest,
    ) -> Result<Committed<CreateTopicsResponse>, QuorumError> {
        self.run(|image, settings| {
            let mut new_id = || TopicId(uuid::Uuid::new_v4().as_u128());
            let seed = fastrand::u64(..);
            controller::create_topics(image, settings, &*self.rules, &mut new_id, seed, request)
        })
        .await
    }

    pub async fn delete_topics(
        &self,
        request: &DeleteTopicsRequest,
    ) -> Result<Committed<DeleteTopicsResponse>, QuorumError> {
        self.run(|image, settings| controller::delete_topics(image, settings, request))
            .await
    }

    pub async fn create_partitions(
        &self,
        request: &CreatePartitionsRequest,
    ) -> Result<Committed<CreatePartitionsResponse>, QuorumError> {
        self.run(|image, settings| {
            controller::create_partitions(image, settings, fastrand::u64(..), request)
        })
        .await
    }

    pub async fn incremental_alter_configs(
        &self,
        request: &IncrementalAlterConfigsRequest,
    ) -> Result<Committed<IncrementalAlterConfigsResponse>, QuorumError> {
        self.run(|image, settings| {
            controller::incremental_alter_configs(image, settings, &*self.rules, request)
        })
        .await
    }

    pub async fn alter_configs(
        &self,
        request: &AlterConfigsRequest,
    ) -> Result<Committed<AlterConfigsResponse>, QuorumError> {
        self.run(|image, settings| {
            controller::alter_configs(image, settings, &*self.rules, request)
        })
        .await
    }

    pub async fn elect_leaders(
        &self,
        request: &ElectLeadersRequest,
    ) -> Result<Committed<ElectLeadersResponse>, QuorumError> {
        self.run(|image, _| controller::elect_leaders(image, request))
            .await
    }

    pub async fn allocate_producer_ids(&self) -> Result<Committed<ProducerIdBlock>, QuorumError> {
        self.run(|image, _| controller::allocate_producer_ids(image))
            .await
    }

    /// Registers a broker at its start; the response is its epoch.
    pub async fn register_broker(&self, start: &BrokerStart) -> Result<Committed<i64>, StartError> {
        self.operate(|image, _| controller::register_broker(image, start).map_err(StartError::from))
            .await
    }

    /// Takes over topics found in the data directories of `broker`; see [`controller::adopt_topics`].
    pub async fn adopt_topics(
        &self,
        broker: BrokerId,
        found: &[FoundTopic],
        first_producer_id: ProducerId,
    ) -> Result<Committed<Vec<AdoptError>>, QuorumError> {
        self.run(|image, _| controller::adopt_topics(image, broker, found, first_producer_id))
            .await
    }

    /// Takes over a cluster of Apache Kafka; see [`controller::take_over`].
    pub async fn take_over(
        &self,
        broker: BrokerId,
        directories: &[DirectoryId],
        cluster: &Cluster,
        last_epoch: &dyn Fn(TopicId, PartitionIndex) -> Option<LeaderEpoch>,
    ) -> Result<Committed<Result<TakenOver, TakeOverError>>, QuorumError> {
        let rules = &*self.rules;
        self.run(|image, _| {
            match controller::take_over(image, rules, broker, directories, cluster, last_epoch) {
                Ok(Outcome { records, response }) => Outcome {
                    records,
                    response: Ok(response),
                },
                Err(error) => Outcome {
                    records: Vec::new(),
                    response: Err(error),
                },
            }
        })
        .await
    }

    /// Commits records that an operation of another module decided.
    pub async fn propose(
        &self,
        records: Vec<MetadataRecord>,
    ) -> Result<Committed<()>, QuorumError> {
        self.run(|_, _| Outcome {
            records,
            response: (),
        })
        .await
    }

    /// Waits for the operation that has its turn, then ends the quorum and closes its file.
    pub async fn close(&self) {
        let _turn = self.turn.lock().await;
        self.quorum.close().await;
    }
}

/// Why a broker could not be registered.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Refused(#[from] RegisterError),
    #[error(transparent)]
    Quorum(#[from] QuorumError),
}
