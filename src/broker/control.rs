//! What shards ask of the control thread, and the host that answers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use kafka_protocol::messages::incremental_alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, CreatePartitionsRequest, CreatePartitionsResponse,
    CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
    ElectLeadersRequest, ElectLeadersResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};

use crate::base::settings::NodeSettings;
use crate::base::{BrokerId, ProducerId};
use crate::broker::config_rules::TableRules;
use crate::broker::loggers::{BROKER_LOGGER, Loggers};
use crate::broker::messages::{Reply, Request};
use crate::controller::ControllerSettings;
use crate::controller::quorum::{Committed, ControllerService, QuorumError};
use crate::metadata::{ConfigResource, Image};
use crate::runtime::mailbox::{Closed, Endpoint};

/// A change of metadata. Answered when every shard serves the image that has it.
pub enum ControlRequest {
    CreateTopics(CreateTopicsRequest),
    DeleteTopics(DeleteTopicsRequest),
    CreatePartitions(CreatePartitionsRequest),
    AlterConfigs(AlterConfigsRequest),
    IncrementalAlterConfigs(IncrementalAlterConfigsRequest),
    ElectLeaders(ElectLeadersRequest),
    /// The next block of producer ids.
    ProducerIds,
    /// Every logger of this process with its level.
    Loggers,
    /// The state of the metadata quorum.
    Quorum,
}

/// The answer to the [`ControlRequest`] of the same name.
pub enum ControlReply {
    CreateTopics(CreateTopicsResponse),
    DeleteTopics(DeleteTopicsResponse),
    CreatePartitions(CreatePartitionsResponse),
    AlterConfigs(AlterConfigsResponse),
    IncrementalAlterConfigs(IncrementalAlterConfigsResponse),
    ElectLeaders(ElectLeadersResponse),
    ProducerIds {
        first: ProducerId,
        /// How many; 0 when the ids have run out.
        len: i32,
    },
    Loggers(BTreeMap<String, &'static str>),
    Quorum(QuorumState),
    /// The quorum could not commit: nothing changed.
    Unavailable(String),
}

/// What DescribeQuorum tells of the metadata log (KIP-595, 836).
#[derive(Clone, Copy, Debug, Default)]
pub struct QuorumState {
    /// The term of the quorum's leader.
    pub epoch: i32,
    pub high_watermark: i64,
    pub log_end_offset: i64,
}

/// The host of the controller: takes what shards ask, has it decided and committed, brings the new
/// image to every shard, and answers only then. One per node, on the control thread.
pub struct ControlHost {
    endpoint: Endpoint<Request, Reply>,
    service: ControllerService,
    rules: Arc<TableRules>,
    shards: u16,
    broker_id: BrokerId,
    /// As the node was started, without what is set at run time.
    start_settings: Arc<NodeSettings>,
    settings: RefCell<Arc<NodeSettings>>,
    loggers: RefCell<Loggers>,
}

impl ControlHost {
    pub fn new(
        endpoint: Endpoint<Request, Reply>,
        service: ControllerService,
        rules: Arc<TableRules>,
        shards: u16,
        broker_id: BrokerId,
        start_settings: Arc<NodeSettings>,
        settings: Arc<NodeSettings>,
        loggers: Loggers,
    ) -> Rc<Self> {
        Rc::new(Self {
            endpoint,
            service,
            rules,
            shards,
            broker_id,
            start_settings,
            settings: RefCell::new(settings),
            loggers: RefCell::new(loggers),
        })
    }

    pub fn service(&self) -> &ControllerService {
        &self.service
    }

    /// Settings as they are now, with what is set at run time.
    pub fn settings(&self) -> Arc<NodeSettings> {
        self.settings.borrow().clone()
    }

    /// Takes requests until the node stops. Runs in a `LocalSet`.
    pub async fn run(self: Rc<Self>) {
        while let Ok(incoming) = self.endpoint.next().await {
            let host = self.clone();
            tokio::task::spawn_local(async move {
                let Request::Control(request) = incoming.request else {
                    // Shards ask nothing else of this thread; dropping the token says so.
                    return;
                };
                let reply = host.serve(request).await.unwrap_or_else(|error| {
                    tracing::error!("metadata cannot be changed: {error}");
                    ControlReply::Unavailable(error.to_string())
                });
                host.endpoint.reply(incoming.token, Reply::Control(reply));
            });
        }
    }

    async fn serve(&self, request: ControlRequest) -> Result<ControlReply, QuorumError> {
        let service = &self.service;
        Ok(match request {
            ControlRequest::CreateTopics(request) => {
                let done = service.create_topics(&request).await?;
                ControlReply::CreateTopics(self.publish(done).await)
            }
            ControlRequest::DeleteTopics(request) => {
                let done = service.delete_topics(&request).await?;
                ControlReply::DeleteTopics(self.publish(done).await)
            }
            ControlRequest::CreatePartitions(request) => {
                let done = service.create_partitions(&request).await?;
                ControlReply::CreatePartitions(self.publish(done).await)
            }
            ControlRequest::AlterConfigs(request) => {
                let done = service.alter_configs(&request).await?;
                ControlReply::AlterConfigs(self.publish(done).await)
            }
            ControlRequest::IncrementalAlterConfigs(request) => {
                ControlReply::IncrementalAlterConfigs(self.alter(request).await?)
            }
            ControlRequest::ElectLeaders(request) => {
                let done = service.elect_leaders(&request).await?;
                ControlReply::ElectLeaders(self.publish(done).await)
            }
            ControlRequest::ProducerIds => {
                let done = service.allocate_producer_ids().await?;
                let block = self.publish(done).await;
                ControlReply::ProducerIds {
                    first: block.first,
                    len: block.len,
                }
            }
            ControlRequest::Loggers => ControlReply::Loggers(self.loggers.borrow().describe()),
            ControlRequest::Quorum => {
                let version = service.image().version();
                ControlReply::Quorum(QuorumState {
                    epoch: 1,
                    high_watermark: version + 1,
                    log_end_offset: version + 1,
                })
            }
        })
    }

    /// Loggers are this process's; everything else is the controller's. A logger's resource that is named
    /// twice goes to the controller, which refuses it.
    async fn alter(
        &self,
        mut request: IncrementalAlterConfigsRequest,
    ) -> Result<IncrementalAlterConfigsResponse, QuorumError> {
        let named = request.resources.clone();
        let ours = |resource: &AlterConfigsResource| {
            let same = |other: &&AlterConfigsResource| {
                (other.resource_type, &other.resource_name)
                    == (resource.resource_type, &resource.resource_name)
            };
            resource.resource_type == BROKER_LOGGER && named.iter().filter(same).count() == 1
        };
        let mut loggers = Vec::new();
        let mut place = 0;
        request.resources.retain(|resource| {
            let ours = ours(resource);
            if ours {
                let mut now = self.loggers.borrow_mut();
                let reply = now.alter(self.broker_id, resource, request.validate_only);
                loggers.push((place, reply));
            }
            place += 1;
            !ours
        });
        let mut response = IncrementalAlterConfigsResponse::default();
        if !request.resources.is_empty() || loggers.is_empty() {
            let done = self.service.incremental_alter_configs(&request).await?;
            response = self.publish(done).await;
        }
        for (place, reply) in loggers {
            let place = place.min(response.responses.len());
            response.responses.insert(place, reply);
        }
        Ok(response)
    }

    /// Brings what was committed to every shard, in order, and ends the controller's turn.
    pub async fn publish<R>(&self, committed: Committed<R>) -> R {
        for update in &committed.updates {
            let dynamic = update.delta.configs_changed.iter().any(|resource| {
                *resource == ConfigResource::BrokerDefault
                    || *resource == ConfigResource::Broker(self.broker_id)
            });
            if dynamic {
                self.change_settings(&update.image).await;
            }
            self.to_all(|| Request::Image(update.image.clone(), update.delta.clone()))
                .await;
        }
        committed.into_response()
    }

    async fn change_settings(&self, image: &Image) {
        let cluster = image.broker_default_configs();
        let broker = image.broker_configs(self.broker_id);
        match self.start_settings.with_dynamic(cluster, broker) {
            Ok(settings) => {
                let settings = Arc::new(settings);
                *self.settings.borrow_mut() = settings.clone();
                self.rules.set(settings.clone());
                self.service
                    .set_settings(controller_settings(&settings, self.broker_id));
                self.to_all(|| Request::Settings(settings.clone())).await;
            }
            // They were checked when they were set.
            Err(error) => tracing::error!("dynamic settings are left as they were: {error}"),
        }
    }

    /// Asks one shard and waits for its answer.
    pub async fn ask(&self, shard: usize, request: Request) -> Result<Reply, Closed> {
        self.endpoint.call(shard, request).await
    }

    /// Asks every shard and waits for all answers; those of shards that are gone are missing.
    pub async fn to_all(&self, request: impl Fn() -> Request) -> Vec<Reply> {
        let mut pending = Vec::new();
        for shard in 0..usize::from(self.shards) {
            if let Ok(sent) = self.endpoint.post(shard, request()).await {
                pending.push(sent);
            }
        }
        let mut replies = Vec::new();
        for pending in pending {
            if let Ok(reply) = pending.await {
                replies.push(reply);
            }
        }
        replies
    }
}

/// What the controller needs of a node's settings.
pub fn controller_settings(settings: &NodeSettings, node_id: BrokerId) -> ControllerSettings {
    ControllerSettings {
        num_partitions: settings.num_partitions,
        default_replication_factor: settings.default_replication_factor,
        max_partitions_per_node: settings.max_partitions as usize,
        delete_topic_enable: settings.delete_topic_enable,
        node_id,
        ..ControllerSettings::default()
    }
}
