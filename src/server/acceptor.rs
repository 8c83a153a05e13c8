//! Taking connections, and giving each to the shard that has the fewest.
//!
//! One acceptor for all shards, on the first: with a socket a shard the kernel spreads by a hash, and
//! a few connections on a few shards leave some of them with none. The limits of connections are kept
//! here, where all of them come by; a shard answers the message that brought it a connection when that
//! connection has ended.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use crate::base::ShardId;
use crate::base::counters::CloseReason;
use crate::base::log_limit::LogLimit;
use crate::broker::messages::{Accepted, Request};
use crate::broker::reply::{self, Pending, ReplyTo};
use crate::broker::shard::{Shard, spawn, wall_clock};
use crate::server::connection::ConnectionHost;
use crate::transport::{self, Listener};

/// One per node, on the first shard.
pub struct Acceptor {
    shard: Rc<Shard>,
    host: Rc<ConnectionHost>,
    open: Cell<u32>,
    by_address: RefCell<HashMap<IpAddr, u32>>,
    /// Connections by shard: what is on its way counts already.
    by_shard: RefCell<Vec<u32>>,
    log_limit: LogLimit,
}

impl Acceptor {
    pub fn new(shard: Rc<Shard>, host: Rc<ConnectionHost>) -> Rc<Self> {
        let shards = usize::from(shard.shards);
        Rc::new(Self {
            shard,
            host,
            open: Cell::new(0),
            by_address: RefCell::default(),
            by_shard: RefCell::new(vec![0; shards]),
            log_limit: LogLimit::new(10, 1000),
        })
    }

    /// Accepts on one listener until the node stops.
    pub async fn run(self: Rc<Self>, index: usize, listener: Listener) {
        loop {
            match listener.accept().await {
                Ok(accepted) => self.take(index, accepted),
                Err(error) => {
                    if let Some(held_back) = self.log_limit.admit(wall_clock()) {
                        tracing::warn!(held_back, "connection could not be accepted: {error}");
                    }
                }
            }
        }
    }

    fn take(self: &Rc<Self>, listener: usize, accepted: transport::Accepted) {
        let settings = self.shard.settings();
        // IPv4 through an IPv6 socket is the same host.
        let address = accepted.peer.ip().to_canonical();
        let of_address = self.by_address.borrow().get(&address).copied().unwrap_or(0);
        let refused = if self.open.get() >= settings.max_connections {
            Some((CloseReason::TooManyConnections, "max.connections"))
        } else if of_address >= settings.max_connections_of(address) {
            Some((CloseReason::TooManyFromAddress, "max.connections.per.ip"))
        } else {
            None
        };
        if let Some((reason, limit)) = refused {
            self.shard.counters().closed(reason).inc();
            if let Some(held_back) = self.log_limit.admit(wall_clock()) {
                let peer = accepted.peer;
                tracing::warn!(%peer, held_back, "connection refused: {limit} is reached");
            }
            return;
        }
        let target = {
            let by_shard = self.by_shard.borrow();
            let least = by_shard.iter().enumerate().min_by_key(|(_, open)| **open);
            least.map_or(0, |(shard, _)| shard)
        };
        self.open.set(self.open.get() + 1);
        *self.by_address.borrow_mut().entry(address).or_default() += 1;
        self.by_shard.borrow_mut()[target] += 1;
        let accepted = Accepted {
            fd: accepted.fd,
            peer: accepted.peer,
            listener,
        };
        let acceptor = self.clone();
        spawn(async move {
            if let Some(ended) = acceptor.hand_over(ShardId(target as u16), accepted).await {
                // An error says that the shard is gone, and its connections with it.
                let _ = ended.await;
            }
            acceptor.ended(target, address);
        });
    }

    async fn hand_over(&self, target: ShardId, accepted: Accepted) -> Option<Pending> {
        if target == self.shard.id {
            let (sender, receiver) = reply::local();
            self.host.serve(accepted, ReplyTo::Local(sender));
            return Some(Pending::Local(receiver));
        }
        let request = Request::Connection(accepted);
        let posted = self.shard.endpoint.post(target.index(), request).await;
        posted.ok().map(Pending::Remote)
    }

    fn ended(&self, shard: usize, address: IpAddr) {
        self.open.set(self.open.get() - 1);
        self.by_shard.borrow_mut()[shard] -= 1;
        let mut by_address = self.by_address.borrow_mut();
        if let Some(open) = by_address.get_mut(&address) {
            *open -= 1;
            if *open == 0 {
                by_address.remove(&address);
            }
        }
    }
}
