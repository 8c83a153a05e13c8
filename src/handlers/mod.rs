//! One file per API family: decode, authorise, route, merge, encode.
//!
//! A request has two stages. [`begin`] is the first: it runs in the order of the connection, decodes,
//! and sends what concerns partitions to their shards, so that two produces on one connection reach
//! their partition in order. What it returns is the second: a future that waits for the shards'
//! answers and encodes the response. Responses leave in the order of the requests; the connection sees
//! to that.
//!
//! Here, and nowhere below, a failure gets its Kafka error code ([`errors`]).

pub mod advertise;
pub mod api_versions;
pub mod configs;
pub mod consumer_groups;
pub mod coordinators;
pub mod errors;
pub mod fetch;
pub mod fetch_session;
pub mod group_offsets;
pub mod groups;
pub mod log_dirs;
pub mod metadata;
pub mod offsets;
pub mod produce;
pub mod producers;
pub mod quorum;
pub mod scatter;
pub mod topics;
pub mod transaction_listings;
pub mod transactions;

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::{Encodable, Request};

use crate::base::profile::{About, Timeline};
use crate::base::settings::NodeSettings;
use crate::broker::shard::Shard;
use crate::handlers::fetch_session::{MAX_CACHED_PARTITIONS, SessionCache};
use crate::handlers::producers::ProducerIds;
use crate::metadata::Image;
use crate::protocol::api::{self, Api, Lookup, key};
use crate::protocol::response::{self, EncodeError};
use crate::protocol::walker::{self, Walked};
use crate::protocol::{ErrorCode, Malformed, StrBytes, frame};
use crate::runtime::budget::{Budget, Units};
use crate::runtime::executor;
use crate::runtime::mailbox::Closed;
use crate::transport::Outgoing;

/// What the handlers of one shard share.
pub struct Handlers {
    pub shard: Rc<Shard>,
    pub sessions: RefCell<SessionCache>,
    pub producer_ids: ProducerIds,
}

impl Handlers {
    pub fn new(shard: Rc<Shard>) -> Rc<Self> {
        let slots = shard.settings().max_incremental_fetch_session_cache_slots as usize;
        let slots = slots.div_ceil(usize::from(shard.shards));
        let sessions = SessionCache::new(shard.id.0, shard.shards, slots, MAX_CACHED_PARTITIONS);
        Rc::new(Self {
            shard,
            sessions: RefCell::new(sessions),
            producer_ids: ProducerIds::default(),
        })
    }
}

/// What is known of a connection. One per connection.
pub struct Peer {
    pub handlers: Rc<Handlers>,
    /// Name of the listener it came through.
    pub listener: Arc<str>,
    pub address: SocketAddr,
    /// The memory of the shard.
    pub budget: Budget,
    /// What the client last called itself, cut off after [`CLIENT_ID_BYTES`].
    pub client_id: RefCell<Option<Rc<str>>>,
}

/// Bytes of a client id that a connection keeps.
const CLIENT_ID_BYTES: usize = 256;

impl Peer {
    pub fn shard(&self) -> &Rc<Shard> {
        &self.handlers.shard
    }

    pub fn image(&self) -> Arc<Image> {
        self.handlers.shard.image()
    }

    /// Keeps a client id, which is the same in one request after the other.
    fn known_as(&self, id: &str) -> Rc<str> {
        let mut end = id.len().min(CLIENT_ID_BYTES);
        while !id.is_char_boundary(end) {
            end -= 1;
        }
        let mut kept = self.client_id.borrow_mut();
        let kept = match &mut *kept {
            Some(kept) if **kept == id[..end] => kept,
            other => other.insert(id[..end].into()),
        };
        if end < id.len() {
            return id.into();
        }
        kept.clone()
    }

    pub fn settings(&self) -> Arc<NodeSettings> {
        self.handlers.shard.settings()
    }
}

/// One request, past its header.
pub struct Call {
    pub peer: Rc<Peer>,
    pub api: &'static Api,
    pub version: i16,
    pub correlation_id: i32,
    pub client_id: Option<Rc<str>>,
    /// What is known of the body.
    pub walked: Walked,
}

/// A request with more elements, or an answer, is decoded, encoded and freed on the helper thread: that
/// cannot be cut into pieces, and everything on the shard would wait for it.
const MANY_ELEMENTS: usize = 2_000;

/// A body that is longer is walked there as well; not one of records, which are only stepped over.
const LONG_BODY_BYTES: usize = 256 * 1024;

/// Walks over the body of a request.
async fn walk(key: i16, version: i16, body: BytesMut) -> Result<(Walked, BytesMut), Close> {
    if key == key::PRODUCE || body.len() <= LONG_BODY_BYTES {
        let walked = walker::walk_up_to(key, version, &body, MANY_ELEMENTS)?;
        if let Some(walked) = walked {
            return Ok((walked, body));
        }
    }
    let walk = move || (walker::walk(key, version, &body), body);
    let (walked, body) = executor::run_aside(walk).await;
    Ok((walked?, body))
}

/// Does `job` here, or on the helper thread if it concerns many elements.
async fn run<T: Send + 'static>(elements: usize, job: impl FnOnce() -> T + Send + 'static) -> T {
    if elements <= MANY_ELEMENTS {
        job()
    } else {
        executor::run_aside(job).await
    }
}

impl Call {
    /// What the client calls itself, as a group's members are described.
    pub fn client_id(&self) -> StrBytes {
        StrBytes::from_string(self.client_id.as_deref().unwrap_or_default().to_owned())
    }

    /// Where it asks from, as Kafka writes it there.
    pub fn client_host(&self) -> StrBytes {
        StrBytes::from_string(format!("/{}", self.peer.address.ip().to_canonical()))
    }

    /// The request.
    pub async fn decode<T: Request + Send + 'static>(&self, body: Bytes) -> Result<T, Close> {
        let (version, walked) = (self.version, self.walked);
        let decode = move || response::decode_walked(version, body, walked);
        Ok(run(walked.elements, decode).await?)
    }

    /// A request that has a decoder of its own.
    async fn decode_with<T: Send + 'static>(
        &self,
        body: Bytes,
        decode: fn(i16, Bytes) -> Result<T, Malformed>,
    ) -> Result<T, Close> {
        let version = self.version;
        Ok(run(self.walked.elements, move || decode(version, body)).await?)
    }

    /// The whole frame of a response of `elements` parts, and the end of the response and of `request`:
    /// many parts take long to free, too.
    pub async fn encode_all<R: Encodable + Send + 'static>(
        &self,
        request: impl Send + 'static,
        response: R,
        elements: usize,
    ) -> Result<Outgoing, Close> {
        let (key, version, id) = (self.api.key, self.version, self.correlation_id);
        let elements = elements.max(self.walked.elements);
        let encode = move || {
            let bytes = response::encode_response(key, version, id, &response);
            drop((request, response));
            bytes
        };
        Ok(Outgoing::from(run(elements, encode).await?))
    }

    /// Counts an error code of the response; 0 is none.
    pub fn count(&self, code: i16) {
        if code != 0 {
            let counters = self.peer.shard().counters();
            counters.api(self.api.key).errors.inc();
            if let Some(counter) = counters.error_code(code) {
                counter.inc();
            }
        }
    }

    /// The whole frame of a response of the crate's types.
    pub fn encode(&self, response: &impl Encodable) -> Result<Outgoing, Close> {
        let bytes =
            response::encode_response(self.api.key, self.version, self.correlation_id, response)?;
        Ok(Outgoing::from(bytes))
    }
}

/// Why a connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
pub enum Close {
    #[error("malformed request: {0}")]
    Malformed(#[from] Malformed),
    #[error("request of {0} bytes is too short for a header")]
    Short(usize),
    #[error("API key {key} version {version} is not supported")]
    Unsupported { key: i16, version: i16 },
    /// A produce that wants no answer failed: closing is the only way to say so.
    #[error("produce with acks=0 failed: {0:?}")]
    Unanswered(ErrorCode),
    #[error("response could not be encoded: {0}")]
    Encode(#[from] EncodeError),
    #[error("a request that takes {0} bytes to read, and no memory for it")]
    NoMemory(u64),
    #[error("the broker is stopping")]
    Stopping,
}

impl From<Closed> for Close {
    fn from(_: Closed) -> Self {
        Close::Stopping
    }
}

/// The reply to a request, and where its time went.
pub struct Answered {
    pub outgoing: Outgoing,
    /// Up to the encoding of the reply; off for requests that are not profiled.
    pub timeline: Timeline,
    pub about: About,
}

/// The second stage of a request.
pub type Later = Pin<Box<dyn Future<Output = Result<Answered, Close>>>>;

/// What the first stage came to.
pub enum Begun {
    /// Nothing will be answered.
    Silent,
    Done(Outgoing),
    Later(Later),
}

impl Begun {
    /// A second stage.
    fn later(stage: impl Future<Output = Result<Outgoing, Close>> + 'static) -> Begun {
        Begun::profiled(async move {
            Ok(Answered {
                outgoing: stage.await?,
                timeline: Timeline::OFF,
                about: About::default(),
            })
        })
    }

    /// A second stage that goes on with the request's timeline.
    fn profiled(stage: impl Future<Output = Result<Answered, Close>> + 'static) -> Begun {
        Begun::Later(Box::pin(stage))
    }
}

/// Adds to `units`, which a request's frame holds, the `bytes` that it takes decoded.
///
/// A little more than there is is let pass, or complete requests would wait for memory that complete
/// requests hold. Who needs much (no honest client does: what it sends are mostly records, names and
/// numbers of some length) waits, and is closed when it waited in vain.
async fn charge(budget: &Budget, units: &mut Units, bytes: u64) -> Result<(), Close> {
    const LITTLE_BYTES: u64 = 4 * 1024;
    if let Some(more) = budget.try_reserve_ahead(bytes) {
        units.merge(more);
        return Ok(());
    }
    if bytes <= LITTLE_BYTES.max(units.bytes() / 4) {
        return Ok(());
    }
    let need = bytes.min(budget.capacity().saturating_sub(units.bytes()));
    let granted = async { Some(budget.reserve(need).await) };
    let in_vain = async {
        glommio::timer::Timer::new(budget.stalled_after()).await;
        None
    };
    match futures_lite::future::or(granted, in_vain).await {
        Some(more) => {
            units.merge(more);
            Ok(())
        }
        None => Err(Close::NoMemory(bytes)),
    }
}

/// Starts a request. `frame` is what came behind the length prefix; `units` is what it holds of the
/// shard's memory, to be kept until the request is answered; `timeline` is its time so far, off for all but
/// Produce and Fetch.
pub async fn begin(
    peer: &Rc<Peer>,
    mut frame: BytesMut,
    units: &mut Units,
    timeline: &mut Timeline,
) -> Result<Begun, Close> {
    let peek = frame::peek(&frame).ok_or(Close::Short(frame.len()))?;
    let api = match api::lookup(peek.api_key, peek.api_version) {
        Lookup::Served(api) => api,
        Lookup::UnsupportedVersion(api) if api.key == key::API_VERSIONS => {
            return Ok(Begun::Done(api_versions::unsupported(peek.correlation_id)?));
        }
        Lookup::UnsupportedVersion(_) | Lookup::UnknownKey => {
            return Err(Close::Unsupported {
                key: peek.api_key,
                version: peek.api_version,
            });
        }
    };
    let header = frame::parse_header(api, &frame)?;
    let mut call = Call {
        peer: peer.clone(),
        api,
        version: header.api_version,
        correlation_id: header.correlation_id,
        client_id: header.client_id.map(|id| peer.known_as(&id)),
        walked: Walked::default(),
    };
    let body_offset = header.body_offset;
    let body = frame.split_off(body_offset);
    let (walked, body) = walk(api.key, call.version, body).await?;
    call.walked = walked;
    charge(&peer.budget, units, walked.memory_bytes as u64).await?;
    match api.key {
        key::PRODUCE => return Box::pin(produce::begin(call, body, timeline)).await,
        key::FETCH => return Box::pin(fetch::begin(call, body.freeze(), timeline)).await,
        _ => {}
    }
    // What these take while they are begun is theirs alone: kept in the future of every connection it would
    // be many megabytes for ten thousand that wait.
    Box::pin(dispatch(call, body.freeze())).await
}

/// Starts a request of any other API.
async fn dispatch(call: Call, body: Bytes) -> Result<Begun, Close> {
    match call.api.key {
        key::API_VERSIONS => api_versions::begin(&call, body),
        key::METADATA => metadata::metadata(call, body).await,
        key::DESCRIBE_CLUSTER => metadata::describe_cluster(call, body),
        key::DESCRIBE_TOPIC_PARTITIONS => metadata::describe_topic_partitions(call, body).await,
        key::LIST_OFFSETS => offsets::list_offsets(call, body).await,
        key::OFFSET_FOR_LEADER_EPOCH => offsets::offset_for_leader_epoch(call, body).await,
        key::DELETE_RECORDS => offsets::delete_records(call, body).await,
        key::FIND_COORDINATOR => coordinators::find_coordinator(call, body).await,
        key::JOIN_GROUP => groups::join_group(call, body).await,
        key::SYNC_GROUP => groups::sync_group(call, body).await,
        key::HEARTBEAT => groups::heartbeat(call, body).await,
        key::LEAVE_GROUP => groups::leave_group(call, body).await,
        key::LIST_GROUPS => groups::list_groups(call, body).await,
        key::DESCRIBE_GROUPS => groups::describe_groups(call, body).await,
        key::DELETE_GROUPS => groups::delete_groups(call, body).await,
        key::OFFSET_COMMIT => group_offsets::offset_commit(call, body).await,
        key::OFFSET_FETCH => group_offsets::offset_fetch(call, body).await,
        key::OFFSET_DELETE => group_offsets::offset_delete(call, body).await,
        key::CONSUMER_GROUP_HEARTBEAT => consumer_groups::heartbeat(call, body).await,
        key::CONSUMER_GROUP_DESCRIBE => consumer_groups::describe(call, body).await,
        key::CREATE_TOPICS => topics::create_topics(call, body).await,
        key::DELETE_TOPICS => topics::delete_topics(call, body).await,
        key::CREATE_PARTITIONS => topics::create_partitions(call, body).await,
        key::ELECT_LEADERS => topics::elect_leaders(call, body).await,
        key::ALTER_PARTITION_REASSIGNMENTS => {
            topics::alter_partition_reassignments(call, body).await
        }
        key::LIST_PARTITION_REASSIGNMENTS => topics::list_partition_reassignments(call, body).await,
        key::DESCRIBE_CONFIGS => configs::describe_configs(call, body).await,
        key::ALTER_CONFIGS => configs::alter_configs(call, body).await,
        key::INCREMENTAL_ALTER_CONFIGS => configs::incremental_alter_configs(call, body).await,
        key::LIST_CONFIG_RESOURCES => configs::list_config_resources(call, body).await,
        key::INIT_PRODUCER_ID => producers::init_producer_id(call, body),
        key::DESCRIBE_PRODUCERS => producers::describe_producers(call, body).await,
        key::ADD_PARTITIONS_TO_TXN => transactions::add_partitions_to_txn(call, body).await,
        key::ADD_OFFSETS_TO_TXN => transactions::add_offsets_to_txn(call, body).await,
        key::END_TXN => transactions::end_txn(call, body).await,
        key::WRITE_TXN_MARKERS => transactions::write_txn_markers(call, body).await,
        key::TXN_OFFSET_COMMIT => transactions::txn_offset_commit(call, body).await,
        key::DESCRIBE_TRANSACTIONS => transaction_listings::describe_transactions(call, body).await,
        key::LIST_TRANSACTIONS => transaction_listings::list_transactions(call, body).await,
        key::ALTER_REPLICA_LOG_DIRS => log_dirs::alter_replica_log_dirs(call, body).await,
        key::DESCRIBE_LOG_DIRS => log_dirs::describe_log_dirs(call, body).await,
        key::DESCRIBE_QUORUM => quorum::describe_quorum(call, body).await,
        other => Err(Close::Unsupported {
            key: other,
            version: call.version,
        }),
    }
}
