//! One connection: requests in, responses out, in order.
//!
//! Two tasks share a connection. The reader takes a frame, runs the request's first stage, and puts
//! its second stage into a queue; the writer takes the queue's front, waits for it, and sends. So
//! requests start in the order in which they came, work on in parallel, and are answered in order.
//!
//! The queue is bounded, in requests and in bytes of answers that wait to be sent: when it is full the
//! reader stops reading, and the kernel's buffers fill, and the client waits. What requests and answers
//! hold is taken from the shard's budget.
//!
//! When a client sends what cannot be read, what it asked before is still answered, for 5 s at most: a
//! fetch may have been asked to wait for weeks. When it has gone, nothing is.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_lite::future;
use glommio::timer::Timer;

use crate::base::counters::{CloseReason, ShardCounters};
use crate::base::log_limit::LogLimit;
use crate::base::profile::{About, Kind, Nanos, Stage, Timeline};
use crate::broker::event::Event;
use crate::broker::messages::{Accepted, Reply};
use crate::broker::reply::ReplyTo;
use crate::broker::shard::{spawn, wall_clock};
use crate::handlers::{self, Answered, Begun, Close, Handlers, Later, Peer};
use crate::runtime::budget::Units;
use crate::runtime::executor;
use crate::runtime::profile;
use crate::transport::{
    ConnectionOptions, Control, FrameError, FrameReader, Outgoing, Sender, connection,
};

/// Requests of one connection that are begun and not answered. Kafka has one at a time.
pub const MAX_IN_FLIGHT: usize = 128;

/// Bytes of finished answers that may wait behind the one that is being sent.
pub const MAX_UNSENT_BYTES: u64 = 1 << 20;

/// Finished answers are sent in one call until they are so many bytes: one record a request, 5 requests at once on a
/// connection, took 5 calls of 5 us each.
const SENT_TOGETHER_BYTES: u64 = 64 * 1024;

/// What a connection takes even when nothing happens: its tasks, its place in the tables.
const CONNECTION_BYTES: u64 = 8 * 1024;

/// How long a client may take nothing of a response before its connection is closed.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// How often connections are looked through for those to close.
const SWEEP: Duration = Duration::from_millis(500);

/// How long requests in flight may take when the node stops, or when their client is gone.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A response that is due, in its place in the order.
struct Due {
    response: Response,
    api_key: i16,
    arrived: Nanos,
    /// Up to the end of its first stage; off for requests that are not profiled.
    timeline: Timeline,
    /// Bytes of the request.
    request_bytes: u64,
    /// The memory of the request, or of the answer if it is there.
    units: Option<Units>,
}

enum Response {
    Ready(Outgoing),
    Later(Later),
    /// It was later.
    Answered(Result<Answered, Close>),
}

impl Response {
    /// Bytes of memory of an answer that is there.
    fn ready_bytes(&self) -> u64 {
        match self {
            Response::Ready(outgoing) => outgoing.memory_bytes(),
            Response::Later(_) | Response::Answered(_) => 0,
        }
    }
}

/// What the tasks of one connection share.
struct Queue {
    due: RefCell<VecDeque<Due>>,
    /// The writer has something to do, or the reader has ended.
    filled: Event,
    /// The reader may go on, or the writer has ended.
    drained: Event,
    control: Control,
    /// Bytes of the answers in `due` that are there.
    unsent_bytes: Cell<u64>,
    reader_done: Cell<bool>,
    /// When the reader ended, if it did.
    ended: Cell<Option<Instant>>,
    writer_done: Cell<bool>,
    /// Bytes received and sent when the sweep last looked, and when they last were others.
    received: Cell<u64>,
    sent: Cell<u64>,
    last_received: Cell<Instant>,
    last_sent: Cell<Instant>,
    /// When the send began that is under way.
    sending_since: Cell<Option<Instant>>,
    /// The connection is to end, and why.
    cut: Cell<Option<CloseReason>>,
    cut_event: Event,
    /// The writer is to give up at once.
    abort_event: Event,
}

impl Queue {
    fn new(control: Control) -> Rc<Queue> {
        let now = Instant::now();
        Rc::new(Queue {
            due: RefCell::default(),
            filled: Event::default(),
            drained: Event::default(),
            control,
            unsent_bytes: Cell::new(0),
            reader_done: Cell::new(false),
            ended: Cell::new(None),
            writer_done: Cell::new(false),
            received: Cell::new(0),
            sent: Cell::new(0),
            last_received: Cell::new(now),
            last_sent: Cell::new(now),
            sending_since: Cell::new(None),
            cut: Cell::new(None),
            cut_event: Event::default(),
            abort_event: Event::default(),
        })
    }

    fn is_full(&self) -> bool {
        self.due.borrow().len() >= MAX_IN_FLIGHT || self.unsent_bytes.get() >= MAX_UNSENT_BYTES
    }

    /// Ends the connection if it has stood still for too long.
    fn sweep(&self, now: Instant, idle: Option<Duration>) {
        let since = |then: Instant| now.saturating_duration_since(then);
        if self.received.replace(self.control.received()) != self.control.received() {
            self.last_received.set(now);
        }
        if self.sent.replace(self.control.sent()) != self.control.sent() {
            self.last_sent.set(now);
        }
        match self.sending_since.get() {
            Some(began) => {
                if since(began.max(self.last_sent.get())) >= SEND_TIMEOUT {
                    self.cut(CloseReason::SlowReader);
                    self.abort_event.set();
                }
            }
            None => {
                let quiet = since(self.last_received.get().max(self.last_sent.get()));
                if idle.is_some_and(|idle| quiet >= idle) {
                    self.cut(CloseReason::Idle);
                }
            }
        }
        if self
            .ended
            .get()
            .is_some_and(|ended| since(ended) >= DRAIN_TIMEOUT)
        {
            self.abort_event.set();
        }
    }

    fn cut(&self, reason: CloseReason) {
        if self.cut.get().is_none() {
            self.cut.set(Some(reason));
            self.cut_event.set();
        }
    }
}

/// The connections of one shard, and what they are made with. One per shard.
pub struct ConnectionHost {
    handlers: Rc<Handlers>,
    options: ConnectionOptions,
    /// Names of the listeners, by their index.
    listeners: Vec<Arc<str>>,
    open: RefCell<BTreeMap<u64, Rc<Queue>>>,
    /// Whose they are, and by which listener they came.
    peers: RefCell<BTreeMap<u64, (SocketAddr, Arc<str>)>>,
    next: Cell<u64>,
    log_limit: LogLimit,
}

impl ConnectionHost {
    pub fn new(
        handlers: Rc<Handlers>,
        options: ConnectionOptions,
        listeners: Vec<Arc<str>>,
    ) -> Rc<Self> {
        let host = Rc::new(Self {
            handlers,
            options,
            listeners,
            open: RefCell::default(),
            peers: RefCell::default(),
            next: Cell::new(0),
            log_limit: LogLimit::new(10, 1000),
        });
        spawn("connection sweep", Self::sweep_loop(Rc::downgrade(&host)));
        host
    }

    /// Serves a connection until it ends; `reply` is answered then.
    pub fn serve(self: &Rc<Self>, accepted: Accepted, reply: ReplyTo) {
        let host = self.clone();
        let peer = accepted.peer;
        let serving = async move {
            let shard = host.handlers.shard.clone();
            let counters = shard.counters();
            counters.connections_accepted.inc();
            counters.connections_open.inc();
            let reason = host.run(accepted).await;
            counters.connections_open.dec();
            counters.closed(reason).inc();
            reply.send(Reply::Done);
        };
        executor::spawn_for("connection reader", peer, serving).detach();
    }

    /// Clients that are connected to this shard, with the names of their listeners.
    pub fn peers(&self) -> Vec<(SocketAddr, Arc<str>)> {
        self.peers.borrow().values().cloned().collect()
    }

    /// Closes what is silent for too long, does not read its answers, or stands still in the middle of a
    /// frame while others wait for memory.
    async fn sweep_loop(host: std::rc::Weak<Self>) {
        loop {
            Timer::new(SWEEP).await;
            let Some(host) = host.upgrade() else { return };
            let now = Instant::now();
            host.options.budget.sweep(now);
            host.options.pool.trim();
            host.sample();
            let idle_ms = host.handlers.shard.settings().connections_max_idle_ms;
            let idle = u64::try_from(idle_ms).ok().map(Duration::from_millis);
            for queue in host.open.borrow().values() {
                queue.sweep(now, idle);
            }
        }
    }

    /// What is counted by looking.
    fn sample(&self) {
        let counters = self.handlers.shard.counters();
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let budget = &self.options.budget;
        let used = budget.capacity().saturating_sub(budget.available());
        counters.budget_limit_bytes.set(signed(budget.capacity()));
        counters.budget_used_bytes.set(signed(used));
        counters.budget_waits.set(budget.waits());
        let sessions = self.handlers.sessions.borrow();
        counters
            .fetch_sessions_open
            .set(signed(sessions.len() as u64));
        counters.fetch_sessions_evicted.set(sessions.evicted());
        let waits = self.handlers.shard.endpoint.waits();
        counters.mailbox_full_waits.set(waits);
        counters.watchdog_wakes.set(executor::watchdog_pokes());
    }

    /// Takes no more requests, and waits until those in flight are answered, at most 5 s.
    pub async fn drain(&self) {
        for queue in self.open.borrow().values() {
            queue.cut(CloseReason::Shutdown);
        }
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while !self.open.borrow().is_empty() && Instant::now() < deadline {
            Timer::new(Duration::from_millis(1)).await;
        }
        for queue in self.open.borrow().values() {
            queue.abort_event.set();
        }
    }

    async fn run(self: Rc<Self>, accepted: Accepted) -> CloseReason {
        let shard = self.handlers.shard.clone();
        let Some(listener) = self.listeners.get(accepted.listener).cloned() else {
            return CloseReason::Socket;
        };
        // As far as there is room: it is there already, and requests are what can wait.
        let _units = self.options.budget.try_reserve_ahead(CONNECTION_BYTES);
        let (reader, sender, control) = match connection(accepted.fd, &self.options) {
            Ok(halves) => halves,
            Err(error) => {
                let peer = accepted.peer;
                tracing::warn!(%peer, "a connection cannot be served: {error}");
                return CloseReason::Socket;
            }
        };
        let peer = Rc::new(Peer {
            handlers: self.handlers.clone(),
            listener,
            address: accepted.peer,
            budget: self.options.budget.clone(),
            client_id: RefCell::default(),
        });
        let queue = Queue::new(control);
        let number = self.next.get();
        self.next.set(number + 1);
        self.open.borrow_mut().insert(number, queue.clone());
        let from = (accepted.peer, peer.listener.clone());
        self.peers.borrow_mut().insert(number, from);
        if shard.is_stopping() {
            queue.cut(CloseReason::Shutdown);
        }
        let counters = self.handlers.shard.counters();
        let writer = executor::spawn_for(
            "connection writer",
            peer.address,
            write_loop(peer.clone(), queue.clone(), sender),
        );
        let reason = future::or(self.read_loop(&peer, &queue, reader), async {
            queue.cut_event.wait().await;
            queue.cut.get().unwrap_or(CloseReason::Shutdown)
        })
        .await;
        // A client that has gone reads nothing more; one whose request cannot be read, or failed
        // without an answer, is told first what it asked before, and so is everybody when the node stops.
        if matches!(
            reason,
            CloseReason::Client
                | CloseReason::Socket
                | CloseReason::Idle
                | CloseReason::Stalled
                | CloseReason::SlowReader
        ) {
            for _ in queue.due.take() {
                counters.requests_in_flight.dec();
            }
            queue.abort_event.set();
        }
        queue.reader_done.set(true);
        queue.ended.set(Some(Instant::now()));
        queue.filled.set();
        let written = writer.await;
        // What was due behind the response that failed.
        for _ in queue.due.take() {
            counters.requests_in_flight.dec();
        }
        self.open.borrow_mut().remove(&number);
        self.peers.borrow_mut().remove(&number);
        written.unwrap_or(reason)
    }

    /// Reads requests and begins them until the connection ends.
    async fn read_loop(
        &self,
        peer: &Rc<Peer>,
        queue: &Queue,
        mut reader: FrameReader,
    ) -> CloseReason {
        let counters = peer.shard().counters();
        loop {
            while queue.is_full() && !queue.writer_done.get() {
                queue.drained.wait().await;
            }
            if queue.writer_done.get() {
                return CloseReason::Client;
            }
            let frame = match reader.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return CloseReason::Client,
                Err(error) => {
                    let reason = read_reason(&error);
                    self.say(peer, reason, &error);
                    return reason;
                }
            };
            let arrived = profile::now(Stage::Queue);
            let request_bytes = frame.bytes.len() as u64 + 4;
            counters.received_bytes.add(request_bytes);
            let api_key = match frame.bytes.first_chunk() {
                Some(key) => i16::from_be_bytes(*key),
                None => -1,
            };
            counters.api(api_key).requests.inc();
            let mut timeline = Timeline::OFF;
            if Kind::of_api_key(api_key).is_some() && frame.readable != Nanos(0) {
                timeline = Timeline::begin(frame.readable);
                timeline.mark(Stage::Receive, frame.complete);
                timeline.mark(Stage::Queue, arrived);
            }
            let mut units = frame.units;
            let begun = handlers::begin(peer, frame.bytes, &mut units, &mut timeline).await;
            let response = match begun {
                Ok(Begun::Silent) => continue,
                Ok(Begun::Done(outgoing)) => Response::Ready(outgoing),
                Ok(Begun::Later(later)) => Response::Later(later),
                Err(close) => {
                    let reason = close_reason(&close);
                    self.say(peer, reason, &close);
                    return reason;
                }
            };
            let mut units = Some(units);
            let ready_bytes = response.ready_bytes();
            if ready_bytes > 0 {
                // The request is done with; the answer is held instead.
                drop(units.take());
                units = self.options.budget.try_reserve_ahead(ready_bytes);
                queue
                    .unsent_bytes
                    .set(queue.unsent_bytes.get() + ready_bytes);
            }
            counters.requests_in_flight.inc();
            queue.due.borrow_mut().push_back(Due {
                response,
                api_key,
                arrived,
                timeline,
                request_bytes,
                units,
            });
            queue.filled.set();
        }
    }

    /// One line about a connection that is cut off; a bounded number a second, whatever peers do.
    fn say(&self, peer: &Peer, reason: CloseReason, why: &dyn std::fmt::Display) {
        if matches!(reason, CloseReason::Socket | CloseReason::Client) {
            tracing::debug!(peer = %peer.address, "connection closed: {why}");
        } else if let Some(held_back) = self.log_limit.admit(wall_clock()) {
            tracing::warn!(peer = %peer.address, held_back, "connection closed: {why}");
        }
    }
}

/// Sends responses in order until the reader has ended and all are sent, or the connection is cut.
async fn write_loop(peer: Rc<Peer>, queue: Rc<Queue>, mut sender: Sender) -> Option<CloseReason> {
    // In one expression: what is named here and moved later has room in the task twice.
    let reason = future::or(send_all(&peer, &queue, &mut sender), async {
        queue.abort_event.wait().await;
        Some(CloseReason::Shutdown)
    })
    .await;
    let reason = reason.map(|reason| queue.cut.get().unwrap_or(reason));
    queue.writer_done.set(true);
    queue.drained.set();
    queue.control.shutdown();
    // Wakes a reader that waits for a client that will send nothing more.
    queue.cut(reason.unwrap_or(CloseReason::Client));
    reason
}

async fn send_all(peer: &Peer, queue: &Queue, sender: &mut Sender) -> Option<CloseReason> {
    let counters = peer.shard().counters();
    let mut answers: Vec<Answer<'_>> = Vec::new();
    loop {
        let next = queue.due.borrow_mut().pop_front();
        let Some(due) = next else {
            if queue.reader_done.get() {
                return None;
            }
            queue.filled.wait().await;
            continue;
        };
        // What is finished behind it goes out in the same call.
        let mut together = Outgoing::default();
        let mut failed = match Answer::of(due, peer, queue, &mut together).await {
            Ok(answer) => {
                answers.push(answer);
                None
            }
            Err(reason) => Some(reason),
        };
        while failed.is_none() && together.len() < SENT_TOGETHER_BYTES {
            let next = queue.due.borrow_mut().pop_front();
            let Some(mut due) = next else { break };
            if let Response::Later(later) = &mut due.response {
                match future::poll_once(later).await {
                    Some(answered) => due.response = Response::Answered(answered),
                    None => {
                        queue.due.borrow_mut().push_front(due);
                        break;
                    }
                }
            }
            match Answer::of(due, peer, queue, &mut together).await {
                Ok(answer) => answers.push(answer),
                Err(reason) => failed = Some(reason),
            }
        }
        let len = together.len();
        if len > 0 {
            queue.sending_since.set(Some(Instant::now()));
            if sender.send(together).await.is_err() {
                return Some(CloseReason::Socket);
            }
            counters.sent_bytes.add(len);
            let file_bytes = sender.take_file_bytes();
            counters.sent_zero_copy_bytes.add(file_bytes.zero_copy);
            counters.fetched_cold_bytes.add(file_bytes.cold);
        }
        queue.sending_since.set(None);
        let now = profile::now(Stage::Send);
        for answer in answers.drain(..) {
            answer.sent(peer, now);
        }
        answers.shrink_to(4);
        if failed.is_some() {
            return failed;
        }
        queue.drained.set();
    }
}

/// A response that is being sent.
struct Answer<'a> {
    _in_flight: InFlight<'a>,
    api_key: i16,
    arrived: Nanos,
    timeline: Timeline,
    about: About,
    /// Bytes of the request, and of the answer.
    bytes: [u64; 2],
    _units: Option<Units>,
}

impl<'a> Answer<'a> {
    /// Waits for the response, and puts it behind what is to be sent.
    async fn of(
        due: Due,
        peer: &'a Peer,
        queue: &Queue,
        together: &mut Outgoing,
    ) -> Result<Answer<'a>, CloseReason> {
        let ready_bytes = due.response.ready_bytes();
        queue
            .unsent_bytes
            .set(queue.unsent_bytes.get() - ready_bytes);
        let mut answer = Answer {
            _in_flight: InFlight(peer.shard().counters()),
            api_key: due.api_key,
            arrived: due.arrived,
            timeline: due.timeline,
            about: About::default(),
            bytes: [due.request_bytes, 0],
            _units: due.units,
        };
        let answered = match due.response {
            Response::Ready(outgoing) => {
                answer.bytes[1] = outgoing.len();
                put_behind(together, outgoing);
                return Ok(answer);
            }
            Response::Answered(answered) => answered,
            Response::Later(later) => later.await,
        };
        let answered = answered.map_err(|close| close_reason(&close))?;
        answer.timeline = answered.timeline;
        answer.about = answered.about;
        answer.bytes[1] = answered.outgoing.len();
        // The request is done with: what it held is free before the client has read the answer. That is held
        // as far as there is room: it exists already.
        drop(answer._units.take());
        let memory_bytes = answered.outgoing.memory_bytes();
        answer._units = peer.budget.try_reserve_ahead(memory_bytes);
        put_behind(together, answered.outgoing);
        Ok(answer)
    }

    fn sent(mut self, peer: &Peer, now: Nanos) {
        let counters = peer.shard().counters();
        counters
            .api(self.api_key)
            .duration
            .record_us(now.since(self.arrived) / 1_000);
        if let Some(kind) = Kind::of_api_key(self.api_key) {
            self.timeline.mark(Stage::Send, now);
            let client_id = peer.client_id.borrow();
            profile::finish(kind, &self.timeline, &self.about, || {
                let client_id = client_id.as_deref().unwrap_or_default();
                (client_id, peer.address, self.bytes)
            });
        }
    }
}

fn put_behind(together: &mut Outgoing, outgoing: Outgoing) {
    if together.parts.is_empty() {
        *together = outgoing;
    } else {
        together.parts.extend(outgoing.parts);
    }
}

/// Counts a request as in flight until it is dropped.
struct InFlight<'a>(&'a ShardCounters);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.requests_in_flight.dec();
    }
}

fn read_reason(error: &FrameError) -> CloseReason {
    match error {
        FrameError::Io(_) => CloseReason::Socket,
        FrameError::Truncated => CloseReason::Client,
        FrameError::Length { length, most } => {
            if usize::try_from(*length).is_ok_and(|length| length > *most) {
                CloseReason::TooLarge
            } else {
                CloseReason::Malformed
            }
        }
        FrameError::Stalled(_) => CloseReason::Stalled,
    }
}

fn close_reason(close: &Close) -> CloseReason {
    match close {
        Close::Malformed(_) | Close::Short(_) => CloseReason::Malformed,
        Close::Unsupported { .. } => CloseReason::UnsupportedVersion,
        Close::Unanswered(_) => CloseReason::UnacknowledgedError,
        Close::Encode(_) => CloseReason::Socket,
        Close::NoMemory(_) => CloseReason::Stalled,
        Close::Stopping => CloseReason::Shutdown,
    }
}
