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
use std::time::{Duration, Instant};

use glommio::timer::Timer;

use crate::base::ShardId;
use crate::base::counters::CloseReason;
use crate::base::log_limit::LogLimit;
use crate::broker::messages::{Accepted, Request};
use crate::broker::reply::{self, Pending, ReplyTo};
use crate::broker::shard::{Shard, spawn, wall_clock};
use crate::server::connection::ConnectionHost;
use crate::transport::{self, Listener};

/// How often the limits are looked at again while a connection waits for its turn.
const RATE_LOOK_EVERY: Duration = Duration::from_millis(100);

/// New connections against a rate: as many at once as may come in a second, then one by one.
#[derive(Clone, Copy, Debug)]
struct ConnectionRate {
    /// Connections that may come at once. Below 0 only after the limit was lowered.
    ready: f64,
    at: Instant,
}

impl ConnectionRate {
    fn new(now: Instant) -> Self {
        Self {
            ready: f64::INFINITY,
            at: now,
        }
    }

    /// How long the next connection has to wait at `per_second`; `None`: not at all.
    fn wait(&mut self, per_second: u32, now: Instant) -> Option<Duration> {
        let per_second = f64::from(per_second);
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.ready = (self.ready + since * per_second).min(per_second);
        if self.ready >= 1.0 {
            return None;
        }
        let wait = (1.0 - self.ready) / per_second;
        Some(Duration::try_from_secs_f64(wait).unwrap_or(RATE_LOOK_EVERY))
    }

    fn count(&mut self) {
        self.ready -= 1.0;
    }
}

/// One per node, on the first shard.
pub struct Acceptor {
    shard: Rc<Shard>,
    host: Rc<ConnectionHost>,
    open: Cell<u32>,
    by_address: RefCell<HashMap<IpAddr, u32>>,
    /// Connections by listener.
    by_listener: RefCell<Vec<u32>>,
    rate: Cell<ConnectionRate>,
    listener_rates: RefCell<Vec<ConnectionRate>>,
    /// Connections by shard: what is on its way counts already.
    by_shard: RefCell<Vec<u32>>,
    log_limit: LogLimit,
}

impl Acceptor {
    pub fn new(shard: Rc<Shard>, host: Rc<ConnectionHost>) -> Rc<Self> {
        let shards = usize::from(shard.shards);
        let listeners = shard.settings().listeners.len();
        let rate = ConnectionRate::new(Instant::now());
        Rc::new(Self {
            shard,
            host,
            open: Cell::new(0),
            by_address: RefCell::default(),
            by_listener: RefCell::new(vec![0; listeners]),
            rate: Cell::new(rate),
            listener_rates: RefCell::new(vec![rate; listeners]),
            by_shard: RefCell::new(vec![0; shards]),
            log_limit: LogLimit::new(10, 1000),
        })
    }

    /// Accepts on one listener until the node stops.
    pub async fn run(self: Rc<Self>, index: usize, listener: Listener) {
        loop {
            while let Some(wait) = self.throttle(index, Instant::now()) {
                // Limits may change meanwhile.
                Timer::new(wait.min(RATE_LOOK_EVERY)).await;
            }
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

    /// How long the next connection through a listener has to wait; `None`: it may come, and is counted.
    fn throttle(&self, listener: usize, now: Instant) -> Option<Duration> {
        let settings = self.shard.settings();
        let of_listener = settings.listener_limits.get(listener);
        let mut rates = self.listener_rates.borrow_mut();
        let mut unlimited = ConnectionRate::new(now);
        let (limit, own) = match (of_listener, rates.get_mut(listener)) {
            (Some(limits), Some(rate)) => (limits.max_connection_creation_rate, rate),
            _ => (u32::MAX, &mut unlimited),
        };
        let mut rate = self.rate.get();
        let waits = [
            rate.wait(settings.max_connection_creation_rate, now),
            own.wait(limit, now),
        ];
        let wait = waits.into_iter().flatten().max();
        if wait.is_none() {
            rate.count();
            own.count();
        }
        self.rate.set(rate);
        wait
    }

    fn take(self: &Rc<Self>, listener: usize, accepted: transport::Accepted) {
        let settings = self.shard.settings();
        // IPv4 through an IPv6 socket is the same host.
        let address = accepted.peer.ip().to_canonical();
        let of_address = self.by_address.borrow().get(&address).copied().unwrap_or(0);
        let of_listener = settings.listener_limits.get(listener);
        let on_listener = self.by_listener.borrow().get(listener).copied();
        let refused = if self.open.get() >= settings.max_connections {
            Some((CloseReason::TooManyConnections, "max.connections"))
        } else if of_listener
            .is_some_and(|limits| on_listener.unwrap_or(0) >= limits.max_connections)
        {
            let limit = "max.connections of the listener";
            Some((CloseReason::TooManyConnections, limit))
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
        if let Some(open) = self.by_listener.borrow_mut().get_mut(listener) {
            *open += 1;
        }
        let accepted = Accepted {
            fd: accepted.fd,
            peer: accepted.peer,
            listener,
        };
        let acceptor = self.clone();
        spawn("connection end", async move {
            if let Some(ended) = acceptor.hand_over(ShardId(target as u16), accepted).await {
                // An error says that the shard is gone, and its connections with it.
                let _ = ended.await;
            }
            acceptor.ended(target, listener, address);
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

    fn ended(&self, shard: usize, listener: usize, address: IpAddr) {
        self.open.set(self.open.get() - 1);
        if let Some(open) = self.by_listener.borrow_mut().get_mut(listener) {
            *open -= 1;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_in_a_second_come_at_once_and_then_each_in_its_turn() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut rate = ConnectionRate::new(start);
        for _ in 0..10 {
            assert_eq!(rate.wait(10, start), None);
            rate.count();
        }
        assert_eq!(rate.wait(10, start), Some(Duration::from_millis(100)));
        assert_eq!(rate.wait(10, at(50)), Some(Duration::from_millis(50)));
        assert_eq!(rate.wait(10, at(110)), None);
        rate.count();
        assert!(rate.wait(10, at(110)).is_some());
        // Nothing is saved up beyond a second.
        assert_eq!(rate.wait(10, at(60_000)), None);
        assert_eq!(rate.ready, 10.0);
    }

    #[test]
    fn a_rate_of_0_lets_nobody_in_and_the_default_everybody() {
        let now = Instant::now();
        let mut rate = ConnectionRate::new(now);
        assert_eq!(rate.wait(0, now), Some(RATE_LOOK_EVERY));
        for _ in 0..1_000 {
            assert_eq!(rate.wait(u32::MAX, now + Duration::from_secs(1)), None);
            rate.count();
        }
    }
}
