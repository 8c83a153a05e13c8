//! What one shard owns, and how it answers.
//!
//! A shard is one thread; everything here is reached through one `Rc<Shard>`. Its standing tasks:
//! the receiver takes requests from the mailbox; the writer writes what was staged at the end of each
//! turn; the flusher keeps one fsync of each partition in flight and puts all that arrived meanwhile into
//! its next, and another one flushes what rolls have closed; the timer completes what has waited to its
//! deadline; the keeper does retention, rolls, checkpoints.

mod writer;

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_lite::future;
use glommio::timer::Timer;

use crate::base::counters::{Purgatory as PurgatoryKind, ShardCounters};
use crate::base::profile::{Stage, Timeline};
use crate::base::settings::NodeSettings;
use crate::base::{BrokerId, ShardId, Timestamp, TopicPartition};
use crate::broker::coordinators::Coordinators;
use crate::broker::error::PartitionError;
use crate::broker::event::Event;
use crate::broker::lifecycle::Offline;
use crate::broker::messages::{
    Answer, Fetch, Fetched, Item, Marker, PartitionSize, Produce, ProduceBatch, Reply, Request,
    TransactionBatch,
};
use crate::broker::moves::Move;
use crate::broker::offload::Directories;
use crate::broker::open_files::OpenFiles;
use crate::broker::partition::{Moved, Partition};
use crate::broker::purgatory::{Expired, FetchOp, ProduceOp, Purgatory};
use crate::broker::reply::{self, Pending, ReplyTo};
use crate::broker::room::Room;
use crate::metadata::Image;
use crate::records::Scratch;
use crate::runtime::mailbox::{Closed, Endpoint};
use crate::runtime::profile;
use crate::runtime::yield_budget::{YIELD_BYTES, YieldBudget, count_short_request};

/// Bytes that are checked and staged before other tasks run.
const APPEND_BUDGET_BYTES: usize = 512 * 1024;

/// A produce request under way.
struct Producing {
    op: Rc<ProduceOp>,
    acks: i16,
    timeout_ms: u32,
    left: std::vec::IntoIter<Item<ProduceBatch>>,
    /// Slots that are not acknowledged yet.
    waiting: Vec<u32>,
}

/// How long a marker may wait for its acknowledgement, before its coordinator tries again.
const MARKER_TIMEOUT: Duration = Duration::from_secs(30);

/// One per shard.
pub struct Shard {
    pub id: ShardId,
    /// Shards of this node; the control thread is the endpoint after them.
    pub shards: u16,
    pub broker_id: BrokerId,
    pub endpoint: Endpoint<Request, Reply>,
    all_counters: Arc<[ShardCounters]>,
    pub purgatory: Purgatory,
    pub coordinators: Coordinators,
    pub(crate) directories: Directories,
    pub(crate) open_files: OpenFiles,
    pub(crate) room: Room,
    image: RefCell<Arc<Image>>,
    settings: RefCell<Arc<NodeSettings>>,
    partitions: RefCell<HashMap<TopicPartition, Rc<Partition>>>,
    /// Partitions of this shard whose logs could not be opened.
    offline: RefCell<HashMap<TopicPartition, Offline>>,
    /// Produces that were too large for one turn, and those behind them.
    producing: RefCell<VecDeque<Producing>>,
    dirty: RefCell<Vec<Rc<Partition>>>,
    dirty_event: Event,
    to_flush: RefCell<Vec<Rc<Partition>>>,
    flush_event: Event,
    /// Flushes under way.
    flushes: Cell<usize>,
    flush_ended: Event,
    /// Partitions with segments that were closed and are to be flushed in the background.
    rolled: RefCell<Vec<Rc<Partition>>>,
    rolled_event: Event,
    /// Logs that are on their way to another directory.
    moves: RefCell<HashMap<TopicPartition, Rc<Move>>>,
    /// One of them is being copied.
    pub(crate) move_turn: Cell<bool>,
    /// Directories in which a log failed on its way there.
    pub(crate) suspected: RefCell<BTreeSet<usize>>,
    /// What the cleaner is at.
    pub(crate) cleaning: Cell<Option<TopicPartition>>,
    /// Where compressed batches are looked into, a piece at a time.
    scratch: RefCell<Scratch>,
    stopping: Cell<bool>,
    next_fetch_id: Cell<u64>,
}

/// Milliseconds since the epoch, now.
pub fn wall_clock() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
}

impl Shard {
    pub fn new(
        id: ShardId,
        shards: u16,
        broker_id: BrokerId,
        endpoint: Endpoint<Request, Reply>,
        all_counters: Arc<[ShardCounters]>,
        directories: Directories,
        image: Arc<Image>,
        settings: Arc<NodeSettings>,
    ) -> Rc<Self> {
        Rc::new(Self {
            id,
            shards,
            broker_id,
            endpoint,
            all_counters,
            purgatory: Purgatory::default(),
            coordinators: Coordinators::default(),
            open_files: OpenFiles::default(),
            room: Room::new(directories.all().len()),
            directories,
            image: RefCell::new(image),
            settings: RefCell::new(settings),
            partitions: RefCell::default(),
            offline: RefCell::default(),
            producing: RefCell::default(),
            dirty: RefCell::default(),
            dirty_event: Event::default(),
            to_flush: RefCell::default(),
            flush_event: Event::default(),
            flushes: Cell::new(0),
            flush_ended: Event::default(),
            rolled: RefCell::default(),
            rolled_event: Event::default(),
            moves: RefCell::default(),
            move_turn: Cell::new(false),
            suspected: RefCell::default(),
            cleaning: Cell::new(None),
            scratch: RefCell::new(Scratch::default()),
            stopping: Cell::new(false),
            next_fetch_id: Cell::new(0),
        })
    }

    /// Starts the standing tasks.
    pub fn start(self: &Rc<Self>) {
        spawn("log writer", Self::write_loop(self.clone()));
        spawn("log flusher", Self::flush_loop(self.clone()));
        spawn(
            "closed segments flusher",
            Self::flush_closed_loop(self.clone()),
        );
        spawn("purgatory timer", Self::timer_loop(self.clone()));
        spawn("keeper", Self::keep_loop(self.clone()));
        spawn("log cleaner", Self::clean_loop(self.clone()));
    }

    /// What this shard counts.
    pub fn counters(&self) -> &ShardCounters {
        &self.all_counters[self.id.index()]
    }

    /// What every shard counts, by their numbers.
    pub fn all_counters(&self) -> &[ShardCounters] {
        &self.all_counters
    }

    pub fn image(&self) -> Arc<Image> {
        self.image.borrow().clone()
    }

    pub fn settings(&self) -> Arc<NodeSettings> {
        self.settings.borrow().clone()
    }

    pub(crate) fn set_image(&self, image: Arc<Image>) {
        *self.image.borrow_mut() = image;
    }

    pub(crate) fn set_settings(&self, settings: Arc<NodeSettings>) {
        *self.settings.borrow_mut() = settings;
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// The partition, if this shard serves it.
    pub fn partition(&self, key: TopicPartition) -> Option<Rc<Partition>> {
        self.partitions.borrow().get(&key).cloned()
    }

    /// The partition, or why this shard does not serve it.
    pub fn find(&self, key: TopicPartition) -> Result<Rc<Partition>, PartitionError> {
        match self.partition(key) {
            Some(partition) => Ok(partition),
            None if self.offline.borrow().contains_key(&key) => Err(PartitionError::Storage),
            None => Err(PartitionError::Unknown),
        }
    }

    /// All partitions that this shard serves.
    pub fn all_partitions(&self) -> Vec<Rc<Partition>> {
        self.partitions.borrow().values().cloned().collect()
    }

    /// Partitions with records that are not flushed.
    pub(crate) fn unflushed(&self) -> Vec<Rc<Partition>> {
        self.partitions
            .borrow()
            .values()
            .filter(|p| p.has_unflushed())
            .cloned()
            .collect()
    }

    pub(crate) fn insert_partition(&self, partition: Rc<Partition>) {
        self.partitions
            .borrow_mut()
            .insert(partition.key, partition);
    }

    pub(crate) fn remove_partition(&self, key: TopicPartition) -> Option<Rc<Partition>> {
        self.partitions.borrow_mut().remove(&key)
    }

    /// Partitions whose logs could not be opened.
    pub(crate) fn offline(&self) -> RefMut<'_, HashMap<TopicPartition, Offline>> {
        self.offline.borrow_mut()
    }

    /// Logs that are on their way to another directory.
    pub(crate) fn moves(&self) -> RefMut<'_, HashMap<TopicPartition, Rc<Move>>> {
        self.moves.borrow_mut()
    }

    /// The shard that owns a partition.
    pub fn owner(&self, key: TopicPartition) -> ShardId {
        key.shard(self.shards)
    }

    /// A number that no other fetch of this shard has.
    pub fn fetch_id(&self) -> u64 {
        let id = self.next_fetch_id.get();
        self.next_fetch_id.set(id + 1);
        id
    }

    /// Sends a request to a shard, which may be this one. Returns once there is room for it; requests
    /// of one task reach a shard in the order in which they were posted.
    pub async fn post(self: &Rc<Self>, to: ShardId, request: Request) -> Result<Pending, Closed> {
        if to == self.id {
            let (sender, receiver) = reply::local();
            self.serve(self.id.index(), request, ReplyTo::Local(sender));
            return Ok(Pending::Local(receiver));
        }
        let pending = self.endpoint.post(to.index(), request).await?;
        self.counters().mailbox_sent.inc();
        Ok(Pending::Remote(pending))
    }

    /// Sends a request to the control thread and waits for the answer.
    pub async fn ask_control(&self, request: Request) -> Result<Reply, Closed> {
        self.endpoint.call(usize::from(self.shards), request).await
    }

    /// Answers one request, now or when it is ready. `from` is the endpoint that asked.
    ///
    /// Connections and the stop are the business of who owns the connections: they are dropped here, and
    /// the asker sees that nobody answers.
    pub fn serve(self: &Rc<Self>, from: usize, request: Request, reply: ReplyTo) {
        match request {
            Request::Produce(mut produce) => {
                if from != self.id.index() {
                    profile::mark(&mut produce.timeline, Stage::Mailbox);
                }
                self.produce(produce, reply);
            }
            Request::Fetch(fetch) => {
                let mut timeline = fetch.timeline;
                if from != self.id.index() {
                    profile::mark(&mut timeline, Stage::Mailbox);
                }
                let fetch = self.clone().fetch(from, Rc::new(fetch), timeline, reply);
                spawn("fetch", fetch);
            }
            Request::FetchNow(id) => {
                self.hurry_fetch(from, id);
                reply.send(Reply::Done);
            }
            Request::ListOffsets(asks) => {
                let shard = self.clone();
                spawn("list offsets", async move {
                    let mut answers = Vec::with_capacity(asks.len());
                    let mut pace = YieldBudget::of_elements();
                    for ask in asks {
                        pace.step().await;
                        let result = match shard.find(ask.partition) {
                            Ok(partition) => {
                                partition
                                    .list_offset(
                                        ask.timestamp,
                                        ask.current_leader_epoch,
                                        ask.read_committed,
                                    )
                                    .await
                            }
                            Err(error) => Err(error),
                        };
                        let slot = ask.slot;
                        answers.push(Answer { slot, result });
                    }
                    reply.send(Reply::ListOffsets(answers));
                });
            }
            Request::DeleteRecords(asks) => {
                self.each(
                    asks,
                    |a| (a.slot, a.partition),
                    |partition, ask| partition.delete_records(ask.before),
                    Reply::DeleteRecords,
                    reply,
                );
            }
            Request::EpochEnds(asks) => {
                self.each(
                    asks,
                    |a| (a.slot, a.partition),
                    |partition, ask| {
                        partition.epoch_end(ask.current_leader_epoch, ask.leader_epoch)
                    },
                    Reply::EpochEnds,
                    reply,
                );
            }
            Request::DescribeProducers(asks) => {
                self.each(
                    asks,
                    |a: &Item<()>| (a.slot, a.partition),
                    |partition, _| partition.producers(),
                    Reply::DescribeProducers,
                    reply,
                );
            }
            Request::Group(partition, ask) => {
                self.coordinators.groups.ask(self, partition, ask, reply);
            }
            Request::Transaction(partition, ask) => {
                let host = &self.coordinators.transactions;
                host.ask(self, partition, ask, reply);
            }
            Request::Verifications(asks) => {
                self.each(
                    asks,
                    |a: &Item<TransactionBatch>| (a.slot, a.partition),
                    |partition, item| partition.verification(item.ask),
                    Reply::Verifications,
                    reply,
                );
            }
            Request::WriteMarkers(markers) => self.write_markers(markers, reply),
            Request::MoveReplicas(asks) => {
                let answers = asks.iter().map(|ask| Answer {
                    slot: ask.slot,
                    result: self.move_replica(ask.partition, ask.ask),
                });
                reply.send(Reply::MoveReplicas(answers.collect()));
            }
            Request::LogDirs => reply.send(Reply::LogDirs(self.sizes())),
            Request::Image(image, delta) => {
                let shard = self.clone();
                spawn("metadata image", async move {
                    shard.apply_image(image, &delta).await;
                    reply.send(Reply::Done);
                });
            }
            Request::Settings(settings) => {
                self.change_settings(settings);
                reply.send(Reply::Done);
            }
            Request::Checkpoints => reply.send(Reply::Checkpoints(self.checkpoints())),
            Request::Profile => {
                let mut told = profile::snapshot(self.id);
                if let Some(told) = &mut told {
                    told.cold_bytes = self.counters().fetched_cold_bytes.get();
                }
                reply.send(Reply::Profile(told));
            }
            // Only the control thread serves the last.
            Request::Connection(_)
            | Request::Holdings
            | Request::Accept
            | Request::Opened
            | Request::Drain
            | Request::Stop
            | Request::Control(_) => drop(reply),
        }
    }

    /// Answers what is asked of each partition, and lets other tasks run now and then.
    fn each<A: 'static, T: 'static>(
        self: &Rc<Self>,
        asks: Vec<A>,
        name: impl Fn(&A) -> (u32, TopicPartition) + 'static,
        answer: impl Fn(&Partition, &A) -> Result<T, PartitionError> + 'static,
        done: impl FnOnce(Vec<Answer<T>>) -> Reply + 'static,
        reply: ReplyTo,
    ) {
        let shard = self.clone();
        spawn("partition answers", async move {
            let answers = asks.iter().map(|ask| {
                let (slot, key) = name(ask);
                let result = shard.find(key);
                let result = result.and_then(|partition| answer(&partition, ask));
                Answer { slot, result }
            });
            let answers = YieldBudget::of_elements().collect(answers).await;
            reply.send(done(answers));
        });
    }

    fn sizes(&self) -> Vec<PartitionSize> {
        self.partitions
            .borrow()
            .values()
            .map(|partition| PartitionSize {
                partition: partition.key,
                topic: partition.topic.clone(),
                directory: partition.directory,
                size_bytes: partition.log.size_bytes(),
                future_lag: None,
            })
            .chain(self.moving_sizes())
            .collect()
    }

    /// Appends in order; whatever is not acknowledged yet waits. A request of many bytes lets other tasks run
    /// between its partitions, and those that come meanwhile stay behind it.
    fn produce(self: &Rc<Self>, produce: Produce, reply: ReplyTo) {
        count_short_request();
        let op = ProduceOp::new(produce.partitions.len(), reply, produce.timeline);
        let producing = Producing {
            op,
            acks: produce.acks,
            timeout_ms: produce.timeout_ms,
            left: produce.partitions.into_iter(),
            waiting: Vec::new(),
        };
        if !self.producing.borrow().is_empty() {
            self.producing.borrow_mut().push_back(producing);
        } else if let Some(rest) = self.append_some(producing) {
            self.producing.borrow_mut().push_back(rest);
            spawn("produce", self.clone().produce_rest());
        }
    }

    async fn produce_rest(self: Rc<Self>) {
        loop {
            crate::runtime::executor::yield_now().await;
            let Some(first) = self.producing.borrow_mut().pop_front() else {
                return;
            };
            if let Some(rest) = self.append_some(first) {
                self.producing.borrow_mut().push_front(rest);
            } else if self.producing.borrow().is_empty() {
                return;
            }
        }
    }

    /// Appends as much as one turn may. Returns what is left of it.
    fn append_some(self: &Rc<Self>, mut producing: Producing) -> Option<Producing> {
        let now = wall_clock();
        let verify = self.settings().transaction_partition_verification_enable;
        let counters = self.counters();
        let mut scratch = self.scratch.borrow_mut();
        let mut turn = 0;
        let (op, acks) = (&producing.op, producing.acks);
        while let Some(item) = producing.left.next() {
            let slot = item.slot;
            if self.stopping.get() {
                op.answer(slot, Err(PartitionError::Stopping));
                continue;
            }
            let partition = match self.find(item.partition) {
                Ok(partition) => partition,
                Err(error) => {
                    op.answer(slot, Err(error));
                    continue;
                }
            };
            let bytes = item.ask.records.len();
            if !self.room.take(partition.directory, bytes) {
                counters.disk_full_refusals.inc();
                op.answer(slot, Err(PartitionError::DiskFull));
                continue;
            }
            match partition.append(item.ask, acks, verify, now, &mut scratch) {
                Ok(appended) => {
                    if appended.is_duplicate {
                        counters.produced_duplicate_batches.inc();
                    } else {
                        counters.produced_batches.inc();
                        counters.produced_bytes.add(bytes as u64);
                        counters.produced_records.add(appended.records);
                        self.mark_dirty(&partition);
                    }
                    if partition.wait(appended, acks, slot, op) {
                        producing.waiting.push(slot);
                    }
                }
                Err(error) => op.answer(slot, Err(error)),
            }
            turn += bytes;
            if turn >= APPEND_BUDGET_BYTES && producing.left.len() > 0 {
                return Some(producing);
            }
        }
        op.appended();
        if !producing.waiting.is_empty() {
            self.purgatory.count_produce(op);
            if acks == -1 {
                let timeout = Duration::from_millis(producing.timeout_ms.into());
                let deadline = Instant::now() + timeout;
                self.purgatory
                    .watch_produce(op, producing.waiting, deadline);
            }
        }
        None
    }

    /// Appends the markers of transactions, and answers each when it is acknowledged by all.
    fn write_markers(self: &Rc<Self>, items: Vec<Item<Marker>>, reply: ReplyTo) {
        let op = ProduceOp::new(items.len(), reply, Timeline::OFF);
        let now = wall_clock();
        let mut waiting = Vec::new();
        for item in items {
            let slot = item.slot;
            if self.stopping.get() {
                op.answer(slot, Err(PartitionError::Stopping));
                continue;
            }
            let appended = self
                .find(item.partition)
                .and_then(|p| p.append_marker(item.ask, now).map(|appended| (p, appended)));
            let (partition, appended) = match appended {
                Ok(appended) => appended,
                Err(error) => {
                    op.answer(slot, Err(error));
                    continue;
                }
            };
            if !appended.is_duplicate {
                self.mark_dirty(&partition);
                self.coordinators.marker_appended(&partition, &item.ask);
            }
            if partition.wait(appended, -1, slot, &op) {
                waiting.push(slot);
            }
        }
        if !waiting.is_empty() {
            self.purgatory.count_produce(&op);
            let deadline = Instant::now() + MARKER_TIMEOUT;
            self.purgatory.watch_produce(&op, waiting, deadline);
        }
    }

    /// Has what is staged in `partition` written at the end of this turn.
    pub(crate) fn mark_dirty(&self, partition: &Rc<Partition>) {
        if !partition.dirty.replace(true) {
            self.dirty.borrow_mut().push(partition.clone());
            self.dirty_event.set();
        }
    }

    pub(crate) fn mark_flush(&self, partition: &Rc<Partition>) {
        if !partition.wants_flush.replace(true) {
            self.to_flush.borrow_mut().push(partition.clone());
            self.flush_event.set();
        }
    }

    /// Finishes what a partition found ready.
    pub(crate) fn settle(self: &Rc<Self>, moved: Moved) {
        for op in moved.produces {
            if op.is_done() {
                self.purgatory.forget_produce(&op);
            }
        }
        for op in moved.fetches {
            self.complete_fetch(&op, false);
        }
    }

    async fn timer_loop(self: Rc<Self>) {
        loop {
            let earlier = self.purgatory.earlier.wait();
            match self.purgatory.next_deadline() {
                None => earlier.await,
                Some(deadline) => {
                    let wait = deadline.saturating_duration_since(Instant::now());
                    let timer = async {
                        Timer::new(wait).await;
                    };
                    future::or(timer, earlier).await;
                }
            }
            while let Some(expired) = self.purgatory.expired(Instant::now()) {
                match expired {
                    Expired::Fetch(op) => {
                        self.counters().expired(PurgatoryKind::Fetch).inc();
                        self.complete_fetch(&op, true);
                    }
                    Expired::Produce(op, slots) => {
                        self.counters().expired(PurgatoryKind::Produce).inc();
                        op.expire(&slots);
                    }
                }
            }
        }
    }

    /// Has a fetch of this shard answered at once, wherever it is.
    pub fn hurry_fetch(self: &Rc<Self>, from: usize, id: u64) {
        match self.purgatory.named(from, id) {
            Some(op) => self.complete_fetch(&op, true),
            None => self.purgatory.hurry(from, id),
        }
    }

    /// Answers a waiting fetch if it has enough by now, or in any case if `at_once`.
    fn complete_fetch(self: &Rc<Self>, op: &Rc<FetchOp>, at_once: bool) {
        let Some(reply) = op.take_reply() else { return };
        let timeline = op.woken();
        self.purgatory.forget_fetch(op);
        let mut fetch = op.fetch.clone();
        if at_once {
            let mut now = (*fetch).clone();
            now.deadline = None;
            fetch = Rc::new(now);
        }
        spawn("fetch", self.clone().fetch(op.from, fetch, timeline, reply));
    }

    /// Reads; answers when there is enough, an error, or no more time; waits otherwise.
    async fn fetch(
        self: Rc<Self>,
        from: usize,
        fetch: Rc<Fetch>,
        mut timeline: Timeline,
        reply: ReplyTo,
    ) {
        let mut answers: Vec<Answer<Fetched>> = Vec::with_capacity(fetch.partitions.len());
        let mut partitions = Vec::with_capacity(fetch.partitions.len());
        let mut left = fetch.max_bytes;
        let mut bytes = 0u64;
        let mut answer_now = fetch.deadline.is_none_or(|d| d <= Instant::now());
        self.purgatory.begin_read(from, fetch.id);
        let mut yields = YieldBudget::new(YIELD_BYTES);
        for item in &fetch.partitions {
            let result = match self.find(item.partition) {
                Err(error) => Err(error),
                Ok(partition) => {
                    let result = partition
                        .fetch(
                            item.ask,
                            item.ask.max_bytes.min(left),
                            bytes == 0,
                            fetch.read_committed,
                        )
                        .await;
                    partitions.push(partition);
                    result
                }
            };
            match &result {
                Ok(fetched) => {
                    left = left.saturating_sub(fetched.records_len);
                    bytes += u64::from(fetched.records_len);
                    answer_now |= fetched.diverging_epoch.is_some();
                    yields.spend(fetched.copied_bytes()).await;
                }
                Err(_) => answer_now = true,
            }
            let slot = item.slot;
            answers.push(Answer { slot, result });
        }
        answer_now |= self.purgatory.end_read(from, fetch.id) || self.stopping.get();
        profile::mark(&mut timeline, Stage::Read);
        if answer_now || bytes >= u64::from(fetch.min_bytes) {
            reply.send(Reply::Fetch(answers, timeline));
            return;
        }
        let op = FetchOp::new(from, fetch, bytes, timeline, reply);
        for partition in &partitions {
            partition.watch(&op);
        }
        self.purgatory.watch_fetch(&op);
        // What moved between a read and now would be told to nobody.
        let missed = partitions.iter().zip(&answers).any(|(partition, answer)| {
            matches!(&answer.result, Ok(f) if f.high_watermark != partition.high_watermark())
                || partition.deleted.get()
        });
        if missed {
            self.complete_fetch(&op, false);
        }
    }

    /// Nothing new is appended from here on, and fetches that wait are answered with what there is.
    pub fn begin_stop(self: &Rc<Self>) {
        self.stopping.set(true);
        self.coordinators.stop();
        for op in self.purgatory.all_fetches() {
            self.complete_fetch(&op, true);
        }
    }

    /// Writes and flushes all there is, and closes the logs. What is answered tells where not cleanly.
    pub async fn finish_stop(self: &Rc<Self>) -> Reply {
        let unclean = self.close_partitions().await;
        Reply::Stopped {
            unclean,
            checkpoints: self.checkpoints(),
        }
    }
}

/// Runs a task of this shard that nobody waits for. Its turns are counted under `name`.
pub(crate) fn spawn(name: &'static str, task: impl Future<Output = ()> + 'static) {
    crate::runtime::executor::spawn(name, task).detach();
}
