//! The main future of a shard: open the partitions, serve, stop.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::base::counters::ShardCounters;
use crate::base::settings::NodeSettings;
use crate::base::{BrokerId, ShardId};
use crate::broker::event::Event;
use crate::broker::messages::{Holdings, Reply, Request};
use crate::broker::offload::{Directories, Directory, ShardOffload};
use crate::broker::reply::ReplyTo;
use crate::broker::shard::{Shard, spawn};
use crate::handlers::Handlers;
use crate::metadata::Image;
use crate::runtime::aux_ring::AuxRing;
use crate::runtime::budget::Budget;
use crate::runtime::executor;
use crate::runtime::mailbox::EndpointSeed;
use crate::runtime::profile;
use crate::runtime::readiness::Readiness;
use crate::server::acceptor::Acceptor;
use crate::server::connection::ConnectionHost;
use crate::server::memory::MemoryPlan;
use crate::storage::DirectLimits;
use crate::transport::{Bound, ConnectionOptions, ReceivePool};

/// What a shard's logs past the page cache may take of its pool: an eighth for what is written and read, and
/// half as much for what connections have to send.
fn direct_limits(memory: &MemoryPlan) -> DirectLimits {
    DirectLimits {
        cache_bytes: usize::try_from(memory.pool_bytes / 8).unwrap_or(usize::MAX),
        lent_bytes: memory.pool_bytes / 16,
    }
}

/// What a shard is started with.
pub struct ShardSeed {
    pub shards: u16,
    pub broker_id: BrokerId,
    pub endpoint: EndpointSeed<Request, Reply>,
    pub counters: Arc<[ShardCounters]>,
    pub directories: Arc<Vec<Directory>>,
    pub image: Arc<Image>,
    pub settings: Arc<NodeSettings>,
    /// Descriptors that the shard's logs may hold.
    pub files_max: usize,
    pub memory: MemoryPlan,
    /// Names of the listeners, by their index.
    pub listeners: Vec<Arc<str>>,
    /// The sockets to accept on: given to the first shard.
    pub accept: Vec<Bound>,
}

/// Runs one shard until the node stops. An error is one line for the operator.
pub async fn run(number: usize, seed: ShardSeed) -> Result<(), String> {
    if seed.settings.profile_enable {
        profile::start();
    }
    let endpoint = seed.endpoint.bind();
    let ring = AuxRing::new().map_err(|e| format!("shard {number}: no auxiliary ring: {e}"))?;
    let limits = direct_limits(&seed.memory);
    let offload = ShardOffload::new(ring.clone());
    let directories = Directories::new(seed.directories, offload, limits);
    let shard = Shard::new(
        ShardId(number as u16),
        seed.shards,
        seed.broker_id,
        endpoint.clone(),
        seed.counters,
        directories,
        seed.image,
        seed.settings.clone(),
    );
    shard.limit_open_files(seed.files_max);
    // By default a machine with few cores lets few syncs wait at once.
    let disk_workers = ring.set_disk_workers(64);
    let summary = shard.open_partitions().await;
    if let Ok(before) = disk_workers {
        let _ = ring.set_disk_workers(before);
    }
    // Many logs were opened at once, in as many tasks.
    executor::give_back().await;
    shard.start();

    // Requests and replies get half of the pool. The rest is for what is not counted byte by byte:
    // receive buffers kept for reuse (an eighth), indexes, tasks, and what the allocator rounds up and
    // holds back; and for logs past the page cache, where there are any.
    let requests_bytes = seed.memory.pool_bytes / 2;
    let stalled_after = Duration::from_millis(seed.settings.request_stall_timeout_ms);
    let aside_bytes = seed.memory.request_reserve_bytes;
    let budget = Budget::new(requests_bytes, aside_bytes, stalled_after);
    let idle_poll = Duration::from_micros(seed.settings.idle_poll_us);
    let readiness = Readiness::new(Some(ring.clone()), Some(endpoint.letters()), idle_poll)
        .map_err(|e| format!("shard {number}: no ring for sockets: {e}"))?;
    let options = ConnectionOptions {
        budget,
        pool: ReceivePool::new((seed.memory.pool_bytes / 8) as usize),
        frame_bytes_max: seed.settings.socket_request_max_bytes as usize,
        aux_ring: Some(ring),
        readiness,
    };
    let host = ConnectionHost::new(Handlers::new(shard.clone()), options, seed.listeners);
    let acceptor = Acceptor::new(shard.clone(), host.clone());
    let stopped = Rc::new(Event::default());

    let receive = {
        let (endpoint, stopped) = (endpoint.clone(), stopped.clone());
        let mut accept = Some(seed.accept);
        async move {
            while let Ok(incoming) = endpoint.next().await {
                shard.counters().mailbox_received.inc();
                let reply = ReplyTo::Remote(endpoint.clone(), incoming.token);
                match incoming.request {
                    Request::Connection(accepted) => host.serve(accepted, reply),
                    Request::Accept => {
                        for (index, bound) in accept.take().into_iter().flatten().enumerate() {
                            spawn("acceptor", acceptor.clone().run(index, bound.listen()));
                        }
                        reply.send(Reply::Done);
                    }
                    Request::Holdings => {
                        let partitions = shard.all_partitions();
                        reply.send(Reply::Holdings(Holdings {
                            shard: shard.id,
                            connections: host.peers(),
                            partitions: partitions
                                .iter()
                                .map(|p| (p.topic.clone(), p.key.partition))
                                .collect(),
                        }));
                    }
                    Request::Opened => reply.send(Reply::Opened(summary)),
                    Request::Drain => {
                        shard.begin_stop();
                        let host = host.clone();
                        spawn("drain", async move {
                            host.drain().await;
                            reply.send(Reply::Done);
                        });
                    }
                    Request::Stop => {
                        let shard = shard.clone();
                        let stopped = stopped.clone();
                        spawn("stop", async move {
                            let done = shard.finish_stop().await;
                            reply.send(done);
                            stopped.set();
                        });
                    }
                    request => shard.serve(incoming.from, request, reply),
                }
            }
        }
    };
    let receive = executor::spawn("mailbox receiver", receive);
    stopped.wait().await;
    receive.cancel().await;
    // Rings for what was answered last.
    endpoint.close();
    Ok(())
}
