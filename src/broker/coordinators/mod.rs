//! The hosts of the coordinators: what stands between a [`Machine`] and its partition.
//!
//! A [`Host`] has a [`Seat`] for each partition of its internal topic that this shard owns. A seat loads
//! its machine from the log, then takes requests one after the other:
//! 1. Requests that arrive in one turn are asked of the machine together. Their records get their offsets,
//!    are applied, and go into one batch, or into as many as their transactions and sizes need.
//! 2. Answers wait for the end of that batch; those without records wait for the end of what was
//!    appended before them, because they may rest on it.
//! 3. When the high watermark passes an end, what waited for it is let out.
//!
//! When an append fails, whoever waits is told, and the machine is loaded anew; if the log itself is
//! offline, the seat stays empty and says so.

mod gathering;
mod loading;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use futures_lite::future;
use glommio::timer::Timer;

use gathering::Gathering;
use loading::Loading;

use crate::base::settings::NodeSettings;
use crate::base::{Offset, PartitionIndex, ProducerEpoch, ProducerId, Timestamp};
use crate::broker::event::Event;
use crate::broker::internal_topics::{CONSUMER_OFFSETS, TRANSACTION_STATE};
use crate::broker::messages::{Marker, Reply};
use crate::broker::partition::Partition;
use crate::broker::reply::ReplyTo;
use crate::broker::shard::{Shard, spawn, wall_clock};
use crate::broker::transactions;
use crate::coordinator::group::GroupMachine;
use crate::coordinator::transaction::TransactionMachine;
use crate::coordinator::{Context, Machine, Outcome, Token};
use crate::metadata::Delta;
use crate::records::CompressionType;

/// Why there is no answer of the machine. The handler picks Kafka's code for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoordinatorError {
    /// The log is being read: ask again soon.
    #[error("the coordinator is loading")]
    Loading,
    /// The partition is not here, or no longer.
    #[error("this is not the coordinator")]
    NotCoordinator,
    /// The log is offline, or the append failed: nothing was done.
    #[error("the coordinator cannot write")]
    NotAvailable,
    /// More than one batch of the internal topic holds: nothing was done.
    #[error("the state is larger than a batch of the coordinator's topic")]
    TooLarge,
    /// A newer incarnation of the producer has written: nothing was done.
    #[error("the producer is fenced")]
    Fenced,
    /// The transaction that the records were for has ended: nothing was done.
    #[error("the records belong to no open transaction")]
    NotInTransaction,
    /// Written, and not acknowledged in time.
    #[error("not acknowledged in time")]
    TimedOut,
}

/// How an answer of machine `M` becomes a reply of the shard.
type Wrap<M> = fn(Result<<M as Machine>::Answer, CoordinatorError>) -> Reply;

/// Carries out what a machine wants done outside of its partition.
type Effects<M> = fn(&Rc<Shard>, PartitionIndex, <M as Machine>::Effect);

/// How the log of one kind of machine is written and read.
struct Habits {
    /// How batches are compressed.
    codec: fn(&NodeSettings) -> CompressionType,
    /// How long requests are gathered before they are asked; 0 for those that arrive in one turn.
    linger_ms: fn(&NodeSettings) -> u64,
    /// Bytes read at once while the log is loaded.
    load_bytes: fn(&NodeSettings) -> u32,
}

/// The coordinators of one kind on this shard. One per shard and kind.
pub struct Host<M: Machine> {
    wrap: Wrap<M>,
    effects: Effects<M>,
    habits: Habits,
    seats: RefCell<BTreeMap<PartitionIndex, Rc<Seat<M>>>>,
    clock: Clock,
    next_token: Cell<u64>,
}

/// All coordinators of one shard. One per shard.
pub struct Coordinators {
    pub groups: Rc<Host<GroupMachine>>,
    pub transactions: Rc<Host<TransactionMachine>>,
}

impl Default for Coordinators {
    fn default() -> Self {
        Self {
            groups: Rc::new(Host::new(
                Reply::Group,
                |_, _, effect| match effect {},
                Habits {
                    codec: offsets_codec,
                    linger_ms: |settings| settings.groups.coordinator_append_linger_ms,
                    load_bytes: |settings| settings.groups.offsets_load_buffer_size,
                },
            )),
            transactions: Rc::new(Host::new(
                Reply::Transaction,
                transactions::carry_out,
                Habits {
                    codec: |_| CompressionType::None,
                    linger_ms: |_| 0,
                    load_bytes: |settings| settings.transaction_state_log_load_buffer_size,
                },
            )),
        }
    }
}

impl Coordinators {
    /// This shard serves `partition` from now on.
    pub fn open(&self, shard: &Rc<Shard>, partition: &Rc<Partition>) {
        match &*partition.topic {
            CONSUMER_OFFSETS => self.groups.open(shard, partition),
            TRANSACTION_STATE => self.transactions.open(shard, partition),
            _ => {}
        }
    }

    /// This shard no longer serves `partition`.
    pub fn close(&self, partition: &Partition) {
        match &*partition.topic {
            CONSUMER_OFFSETS => self.groups.close(partition.key.partition),
            TRANSACTION_STATE => self.transactions.close(partition.key.partition),
            _ => {}
        }
    }

    /// The image that the shard serves has changed.
    pub fn image_changed(&self, shard: &Rc<Shard>, delta: &Delta) {
        self.groups.image_changed(shard, delta);
        self.transactions.image_changed(shard, delta);
    }

    /// The node stops: whoever waits for others is told.
    pub fn stop(&self) {
        self.groups.stop();
        self.transactions.stop();
    }

    /// A transaction's marker was appended to `partition`.
    pub fn marker_appended(&self, partition: &Partition, marker: &Marker) {
        if &*partition.topic == CONSUMER_OFFSETS {
            let producer = (marker.producer_id, marker.producer_epoch);
            let host = &self.groups;
            host.marker_appended(partition.key.partition, producer, marker.commit);
        }
    }
}

/// The wall clock as it was at the start, and never back from there.
#[derive(Clone, Copy)]
struct Clock {
    start: Timestamp,
    began: Instant,
}

impl Clock {
    fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        Timestamp(self.start.0.saturating_add(elapsed))
    }

    fn until(&self, deadline: Timestamp) -> Duration {
        let left = deadline.0.saturating_sub(self.now().0);
        Duration::from_millis(u64::try_from(left).unwrap_or(0))
    }
}

/// What waits for the high watermark to reach `end`.
struct Committing<M: Machine> {
    end: Offset,
    /// Answered as timed out then; effects stay.
    deadline: Timestamp,
    answers: Vec<(Token, M::Answer)>,
    effects: Vec<M::Effect>,
}

enum State<M> {
    Loading,
    Serving(M),
    /// The log is offline.
    Failed,
}

/// The place of one coordinator. One per partition, on the shard that owns it.
struct Seat<M: Machine> {
    partition: Rc<Partition>,
    state: RefCell<State<M>>,
    /// Asked in this turn.
    inbox: RefCell<Vec<(Token, M::Ask)>>,
    /// Who is to be answered.
    waiting: RefCell<HashMap<Token, ReplyTo>>,
    committing: RefCell<VecDeque<Committing<M>>>,
    /// Something arrived, the partition moved, or an earlier deadline stands.
    woken: Rc<Event>,
    /// The task that serves this seat runs: it is started by the first thing there is to do.
    running: Cell<bool>,
    closed: Cell<bool>,
}

impl<M: Machine> Host<M> {
    fn new(wrap: Wrap<M>, effects: Effects<M>, habits: Habits) -> Self {
        Self {
            wrap,
            effects,
            habits,
            seats: RefCell::default(),
            clock: Clock {
                start: wall_clock(),
                began: Instant::now(),
            },
            next_token: Cell::new(0),
        }
    }

    fn seat(&self, partition: PartitionIndex) -> Option<Rc<Seat<M>>> {
        self.seats.borrow().get(&partition).cloned()
    }

    fn all(&self) -> Vec<Rc<Seat<M>>> {
        self.seats.borrow().values().cloned().collect()
    }

    /// This shard owns `partition` of the internal topic from now on.
    pub fn open(self: &Rc<Self>, shard: &Rc<Shard>, partition: &Rc<Partition>) {
        let index = partition.key.partition;
        let seat = Rc::new(Seat {
            partition: partition.clone(),
            state: RefCell::new(State::Loading),
            inbox: RefCell::default(),
            waiting: RefCell::default(),
            committing: RefCell::default(),
            woken: Rc::default(),
            running: Cell::new(false),
            closed: Cell::new(false),
        });
        partition.set_watcher(seat.woken.clone());
        self.seats.borrow_mut().insert(index, seat.clone());
        if partition.log.log_start_offset() == partition.log.staged_end_offset() {
            // Nothing to load: what an idle coordinator costs is this seat.
            *seat.state.borrow_mut() = State::Serving(M::new(index));
        } else {
            self.run(shard, &seat);
        }
    }

    /// The partition is gone from here: whoever waits is told.
    pub fn close(&self, partition: PartitionIndex) {
        if let Some(seat) = self.seats.borrow_mut().remove(&partition) {
            seat.closed.set(true);
            self.turn_away(&seat, CoordinatorError::NotCoordinator);
            seat.woken.set();
        }
    }

    /// The node stops: nothing is begun any more, and whoever waits for others is told.
    pub fn stop(&self) {
        let all: Vec<PartitionIndex> = self.seats.borrow().keys().copied().collect();
        for partition in all {
            self.close(partition);
        }
    }

    /// Asks the coordinator of `partition`. Answers go the way of `reply`.
    pub fn ask(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        partition: PartitionIndex,
        ask: M::Ask,
        reply: ReplyTo,
    ) {
        let Some(seat) = self.seat(partition) else {
            reply.send((self.wrap)(Err(CoordinatorError::NotCoordinator)));
            return;
        };
        let refused = match &*seat.state.borrow() {
            State::Loading => Some(CoordinatorError::Loading),
            State::Failed => Some(CoordinatorError::NotAvailable),
            State::Serving(_) => None,
        };
        if let Some(error) = refused {
            reply.send((self.wrap)(Err(error)));
            return;
        }
        let token = Token(self.next_token.get());
        self.next_token.set(token.0 + 1);
        seat.waiting.borrow_mut().insert(token, reply);
        seat.inbox.borrow_mut().push((token, ask));
        seat.woken.set();
        self.run(shard, &seat);
    }

    /// A transaction's marker was appended to a partition of the internal topic.
    pub fn marker_appended(
        &self,
        partition: PartitionIndex,
        producer: (ProducerId, ProducerEpoch),
        committed: bool,
    ) {
        let Some(seat) = self.seat(partition) else {
            return;
        };
        // While it loads, the marker is read with the rest of the log.
        if let State::Serving(machine) = &mut *seat.state.borrow_mut() {
            machine.apply_marker(producer.0, producer.1, committed);
        }
        seat.woken.set();
    }

    /// Every machine sees the image that the shard serves now.
    pub fn image_changed(self: &Rc<Self>, shard: &Rc<Shard>, delta: &Delta) {
        for seat in self.all() {
            let outcome = self.with_machine(shard, &seat, |machine, context| {
                machine.image_changed(context, delta)
            });
            let Some(outcome) = outcome else { continue };
            let wake = !outcome.records.is_empty()
                || !outcome.answers.is_empty()
                || !outcome.effects.is_empty()
                || self.next_deadline(&seat).is_some();
            self.carry(shard, &seat, vec![outcome]);
            if wake {
                seat.woken.set();
                self.run(shard, &seat);
            }
        }
    }

    /// Has the seat's task run.
    fn run(self: &Rc<Self>, shard: &Rc<Shard>, seat: &Rc<Seat<M>>) {
        if !seat.running.replace(true) {
            let task = serve(self.clone(), Rc::downgrade(shard), seat.clone());
            spawn("coordinator", task);
        }
    }

    fn with_machine<T>(
        &self,
        shard: &Rc<Shard>,
        seat: &Seat<M>,
        ask: impl FnOnce(&mut M, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let (image, settings) = (shard.image(), shard.settings());
        let mut random = || uuid::Uuid::new_v4().as_u128();
        let mut context = Context {
            now: self.clock.now(),
            image: &image,
            settings: &settings,
            random: &mut random,
        };
        match &mut *seat.state.borrow_mut() {
            State::Serving(machine) => Some(ask(machine, &mut context)),
            State::Loading | State::Failed => None,
        }
    }

    fn next_deadline(&self, seat: &Seat<M>) -> Option<Timestamp> {
        let machine = match &*seat.state.borrow() {
            State::Serving(machine) => machine.next_deadline(),
            State::Loading | State::Failed => None,
        };
        let committing = seat.committing.borrow();
        let write = committing
            .iter()
            .find(|c| !c.answers.is_empty())
            .map(|c| c.deadline);
        match (machine, write) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Lets requests gather. What waits for the high watermark is let out meanwhile.
    async fn linger(&self, shard: &Rc<Shard>, seat: &Rc<Seat<M>>, time: Duration) {
        let time = async {
            Timer::new(time).await;
        };
        let release = async {
            while !seat.closed.get() {
                seat.woken.wait().await;
                self.release(shard, seat);
            }
        };
        future::or(time, release).await;
    }

    /// Asks the machine everything that is due and has arrived.
    fn turn(&self, shard: &Rc<Shard>, seat: &Rc<Seat<M>>) {
        let now = self.clock.now();
        let due = matches!(&*seat.state.borrow(), State::Serving(machine)
            if machine.next_deadline().is_some_and(|deadline| deadline <= now));
        let asks = seat.inbox.take();
        let asked = self.with_machine(shard, seat, |machine, context| {
            let mut gathering = Gathering::new(self, shard, seat);
            if due {
                let outcome = machine.expire(context);
                gathering.take(machine, context.now, outcome);
            }
            for (token, ask) in asks {
                let outcome = machine.ask(context, token, ask);
                gathering.take(machine, context.now, outcome);
            }
            gathering.finish(context.now)
        });
        if let Some(Err(error)) = asked {
            self.lost(seat, error);
        }
        self.release(shard, seat);
    }

    /// Appends outcomes that came of something else than a request.
    fn carry(&self, shard: &Rc<Shard>, seat: &Rc<Seat<M>>, outcomes: Vec<Outcome<M>>) {
        let done = self.with_machine(shard, seat, |machine, context| {
            let mut gathering = Gathering::new(self, shard, seat);
            for outcome in outcomes {
                gathering.take(machine, context.now, outcome);
            }
            gathering.finish(context.now)
        });
        if let Some(Err(error)) = done {
            self.lost(seat, error);
        }
        self.release(shard, seat);
    }

    /// An append failed: the machine has applied what is not in the log. It is loaded anew.
    fn lost(&self, seat: &Rc<Seat<M>>, error: CoordinatorError) {
        tracing::error!(
            topic = %seat.partition.topic,
            partition = seat.partition.key.partition.0,
            "the coordinator could not append, and is loaded anew: {error}"
        );
        self.turn_away(seat, error);
        *seat.state.borrow_mut() = State::Loading;
        seat.woken.set();
    }

    /// Answers everybody with `error`.
    fn turn_away(&self, seat: &Seat<M>, error: CoordinatorError) {
        seat.inbox.take();
        seat.committing.take();
        for (_, reply) in seat.waiting.take() {
            reply.send((self.wrap)(Err(error)));
        }
    }

    /// Lets out what the high watermark has passed.
    fn release(&self, shard: &Rc<Shard>, seat: &Rc<Seat<M>>) {
        let high_watermark = seat.partition.high_watermark();
        loop {
            let next = {
                let mut committing = seat.committing.borrow_mut();
                match committing.front() {
                    Some(front) if front.end <= high_watermark => committing.pop_front(),
                    _ => None,
                }
            };
            let Some(next) = next else { break };
            self.answer(seat, next.answers);
            for effect in next.effects {
                (self.effects)(shard, seat.partition.key.partition, effect);
            }
        }
        let now = self.clock.now();
        let mut late = Vec::new();
        for committing in seat.committing.borrow_mut().iter_mut() {
            if committing.deadline <= now {
                late.append(&mut committing.answers);
            }
        }
        for (token, _) in late {
            self.refuse(seat, token, CoordinatorError::TimedOut);
        }
    }

    fn refuse(&self, seat: &Seat<M>, token: Token, error: CoordinatorError) {
        let reply = seat.waiting.borrow_mut().remove(&token);
        if let Some(reply) = reply {
            reply.send((self.wrap)(Err(error)));
        }
    }

    fn answer(&self, seat: &Seat<M>, answers: Vec<(Token, M::Answer)>) {
        for (token, answer) in answers {
            let reply = seat.waiting.borrow_mut().remove(&token);
            if let Some(reply) = reply {
                reply.send((self.wrap)(Ok(answer)));
            }
        }
    }

    /// Reads the log into a new machine. Returns whether the seat serves.
    async fn load(&self, shard: &Rc<Shard>, seat: &Rc<Seat<M>>) -> bool {
        let began = Instant::now();
        let index = seat.partition.key.partition;
        let bytes = (self.habits.load_bytes)(&shard.settings());
        let mut loading = Loading::new(seat, bytes);
        if let Err(why) = loading.run().await {
            tracing::error!(
                topic = %seat.partition.topic,
                partition = index.0,
                "the coordinator's log cannot be read, and it does not serve: {why}"
            );
            *seat.state.borrow_mut() = State::Failed;
            return false;
        }
        tracing::debug!(
            topic = %seat.partition.topic,
            partition = index.0,
            records = loading.records,
            ms = began.elapsed().as_millis() as u64,
            "coordinator loaded"
        );
        *seat.state.borrow_mut() = State::Serving(loading.machine);
        if let Some(outcome) = self.with_machine(shard, seat, M::loaded) {
            self.carry(shard, seat, vec![outcome]);
        }
        true
    }
}

/// Serves one seat until it is closed.
async fn serve<M: Machine>(host: Rc<Host<M>>, shard: Weak<Shard>, seat: Rc<Seat<M>>) {
    while !seat.closed.get() {
        let Some(shard) = shard.upgrade() else { return };
        if seat.partition.log.failure().is_some() {
            // What was applied may not be in the log, and nothing can be appended until a restart.
            *seat.state.borrow_mut() = State::Failed;
            host.turn_away(&seat, CoordinatorError::NotAvailable);
        }
        // Apart, so that no borrow lives across the await.
        let loading = matches!(&*seat.state.borrow(), State::Loading);
        if loading && !host.load(&shard, &seat).await {
            host.turn_away(&seat, CoordinatorError::NotAvailable);
        }
        let linger_ms = (host.habits.linger_ms)(&shard.settings());
        if linger_ms > 0 && !seat.inbox.borrow().is_empty() {
            host.linger(&shard, &seat, Duration::from_millis(linger_ms))
                .await;
        }
        host.turn(&shard, &seat);
        let deadline = host.next_deadline(&seat);
        drop(shard);
        match deadline {
            None => seat.woken.wait().await,
            Some(deadline) => {
                let wait = host.clock.until(deadline);
                let timer = async {
                    Timer::new(wait).await;
                };
                future::or(seat.woken.wait(), timer).await;
            }
        }
    }
}

/// `offsets.topic.compression.codec`; an id that is none of Kafka's is none.
pub fn offsets_codec(settings: &NodeSettings) -> CompressionType {
    u8::try_from(settings.offsets_topic_compression_codec)
        .ok()
        .and_then(CompressionType::from_id)
        .unwrap_or(CompressionType::None)
}
