//! The load itself: one thread that drives its connections from one poller.
//!
//! A phase ([`Phase`]) is divided among threads by producers and readers; a thread ([`run`]) sends what is
//! due, waits for answers or for the next record's time, and tells what it counted once a second. Its own
//! lateness is counted too: a latency is from when a record should have been sent, and who is late is seen.

pub mod fetch;
pub mod link;
pub mod produce;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Instant;

use anyhow::Result;
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::time::Timespec;

use crate::client::{self, error_name};
use crate::contents::Contents;
use crate::engine::fetch::{Look, Reader, Span, Told};
use crate::engine::link::Link;
use crate::engine::produce::{Pace, Producer, Pump};
use crate::sample::{Acked, Interval, Ledger};
use crate::verify::Checker;
use crate::wire;
use crate::workload::Workload;

const SECOND_NS: u64 = 1_000_000_000;
/// Longest sleep, so that a wish to stop is seen.
const MAX_WAIT_NS: u64 = 50_000_000;
/// A record due sooner than this is awaited awake: a sleep would end later.
const SPIN_NS: u64 = 60_000;
/// How long answers are awaited when the time is over: as long as was measured, within these bounds.
const GRACE_NS: (u64, u64) = (2 * SECOND_NS, 10 * SECOND_NS);
/// And after an interruption.
const INTERRUPTED_GRACE_NS: u64 = 2 * SECOND_NS;
/// No answer and no sending for so long is a failure.
const STALL_NS: u64 = 60 * SECOND_NS;
/// So many refusals with nothing acknowledged between them are a failure.
const MAX_REFUSALS: u64 = 1_000;
const PRODUCE_BUFFER_BYTES: usize = 64 * 1024;
const FETCH_BUFFER_BYTES: usize = 512 * 1024;
const EVENTS: usize = 256;

/// Where the partitions are: partition `p` of topic `t` has number `t * partitions + p` in a run.
#[derive(Debug, Clone)]
pub struct Lay {
    pub topics: Vec<String>,
    /// Of each topic.
    pub partitions: u32,
    /// Addresses.
    pub brokers: Vec<String>,
    /// By partition, its leader, of `brokers`.
    pub leaders: Vec<u16>,
}

impl Lay {
    pub fn total(&self) -> u32 {
        self.topics.len() as u32 * self.partitions
    }
    pub fn broker_of(&self, partition: u32) -> usize {
        self.leaders[partition as usize] as usize
    }
    pub fn topic(&self, name: &[u8]) -> Option<u32> {
        let index = match self.topics.as_slice() {
            [only] => (only.as_bytes() == name).then_some(0),
            topics => topics
                .binary_search_by(|topic| topic.as_bytes().cmp(name))
                .ok(),
        };
        index.map(|index| index as u32)
    }
    pub fn name(&self, partition: u32) -> String {
        let topic = &self.topics[(partition / self.partitions) as usize];
        format!("{topic} partition {}", partition % self.partitions)
    }
}

/// What all threads of a run know.
pub struct Shared {
    pub workload: Workload,
    /// Topics in the order of their names.
    pub lay: Lay,
    pub acks: i16,
    pub produce_version: i16,
    pub fetch_version: i16,
    /// When the clock of the run began: times are nanoseconds since.
    pub started: Instant,
    /// The same in milliseconds since 1970.
    pub started_ms: i64,
    pub stop: Arc<AtomicBool>,
}

impl Shared {
    pub fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }
}

/// A part of a run.
#[derive(Clone)]
pub struct Phase {
    /// Makes numbers of batches differ from those of other phases.
    pub number: u64,
    /// When it begins on the clock of the run, and how long it warms up and measures.
    pub begin_ns: u64,
    pub threads: usize,
    pub warmup_ns: u64,
    pub measured_ns: u64,
    pub produce: Option<Produce>,
    pub read: Option<ReadPlan>,
}

#[derive(Debug, Clone)]
pub struct Produce {
    pub pace: Pace,
    /// Keys and values to produce from when it is measured, after which the phase is over.
    pub budget_bytes: Option<u64>,
    /// By producer.
    pub producer_ids: Vec<Option<(i64, i16)>>,
}

#[derive(Debug, Clone)]
pub struct ReadPlan {
    pub look: Look,
    pub read_again: bool,
    /// By consumer.
    pub spans: Vec<Vec<Span>>,
    /// Whether the phase is over when all is read.
    pub ends_phase: bool,
}

/// What a thread tells: a second, or that it is done.
pub enum Message {
    Second(usize, Interval),
    Done(usize, Box<Ledger>, Option<Box<Checker>>),
}

#[derive(Clone, Copy)]
enum Role {
    Produce { producer: usize, lane: usize },
    Read(usize),
}

/// Counts what happens, by second.
struct Tally<'a> {
    shared: &'a Shared,
    phase: &'a Phase,
    interval: Interval,
    ledger: Ledger,
    now_ns: u64,
    refusals: u64,
    checker: Option<Box<Checker>>,
}

impl Tally<'_> {
    fn measure_from(&self) -> u64 {
        self.phase.begin_ns + self.phase.warmup_ns
    }
    fn measured(&self, at_ns: u64) -> bool {
        let from = self.measure_from();
        (from..from + self.phase.measured_ns).contains(&at_ns)
    }
    /// Whether a latency from this time belongs to the second in hand.
    fn counts(&self, at_ns: u64) -> bool {
        self.measured(at_ns) || self.interval.t < 0
    }
    fn refuse(&mut self, error: i16) {
        self.refusals += 1;
        *self.ledger.errors.entry(error).or_default() += 1;
        if self.refusals >= MAX_REFUSALS {
            self.fail(format!(
                "nothing but refusals: {} {} times",
                error_name(error),
                self.refusals
            ));
        }
    }
    fn fail(&mut self, why: String) {
        let after = (self.now_ns - self.phase.begin_ns) / (SECOND_NS / 10);
        self.ledger
            .failure
            .get_or_insert_with(|| format!("after {}.{} s: {why}", after / 10, after % 10));
    }
}

impl Told for Tally<'_> {
    fn batch(&mut self, records: u64, bytes: u64) {
        if self.measured(self.now_ns) || self.interval.t < 0 {
            self.interval.fetched.records += records;
            self.interval.fetched.bytes += bytes;
            self.interval.fetched.wire_bytes += bytes;
        }
    }
    fn stamped(&mut self, at_ns: u64, records: u64) {
        if self.counts(at_ns) {
            let latency = self.shared.now_ns().saturating_sub(at_ns);
            self.interval
                .end_to_end
                .saturating_record_n(latency, records);
        }
    }
    fn answered(&mut self, asked_at_ns: u64, with_records: bool) {
        if !with_records {
            return;
        }
        self.refusals = 0;
        let now = self.shared.now_ns();
        if self.measured(now) || self.interval.t < 0 {
            self.interval.fetched.requests += 1;
            let latency = now.saturating_sub(asked_at_ns);
            self.interval.fetch_latency.saturating_record(latency);
        }
    }
    fn refused(&mut self, error: i16) {
        self.interval.fetched.errors += 1;
        self.refuse(error);
    }
    fn checker(&mut self) -> Option<&mut Checker> {
        self.checker.as_deref_mut()
    }
}

struct Engine<'a> {
    tally: Tally<'a>,
    poller: OwnedFd,
    links: Vec<Link>,
    roles: Vec<Role>,
    producers: Vec<Producer>,
    readers: Vec<Reader>,
    contents: Contents,
    pace: Pace,
    budget: u64,
    /// No record with a time from here on is sent.
    end_ns: u64,
    timers: BinaryHeap<Reverse<(u64, usize)>>,
    /// By producer, the timer that counts: others in the heap are void.
    timer_of: Vec<Option<u64>>,
    scratch: Vec<u8>,
    drain: Vec<u8>,
    last_progress_ns: u64,
    /// When everything was sent and answered.
    idle_at_ns: Option<u64>,
}

/// Runs the share of thread `thread` in a phase, telling what it counts.
pub fn run(
    shared: &Shared,
    phase: &Phase,
    thread: usize,
    checker: Option<Box<Checker>>,
    tell: &Sender<Message>,
) {
    let tally = Tally {
        shared,
        phase,
        interval: Interval::new(-(phase.warmup_ns.div_ceil(SECOND_NS) as i64)),
        ledger: Ledger::default(),
        now_ns: phase.begin_ns,
        refusals: 0,
        checker,
    };
    let mut ledger = Ledger::default();
    let mut checker = None;
    match Engine::new(tally, thread) {
        Ok(mut engine) => {
            engine.run(thread, tell);
            let tally = engine.tally;
            let _ = tell.send(Message::Second(thread, tally.interval));
            (ledger, checker) = (tally.ledger, tally.checker);
        }
        Err(error) => ledger.failure = Some(format!("{error:#}")),
    }
    let _ = tell.send(Message::Done(thread, Box::new(ledger), checker));
}

impl<'a> Engine<'a> {
    fn new(tally: Tally<'a>, thread: usize) -> Result<Engine<'a>> {
        let (shared, phase) = (tally.shared, tally.phase);
        let threads = phase.threads;
        let mine = |index: &usize| index % threads == thread;
        // A timer that may be late by 50 us, as by default, would show in every latency.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let contents = Contents::new(&shared.workload)?;
        let mut engine = Engine {
            poller: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            links: Vec::new(),
            roles: Vec::new(),
            producers: Vec::new(),
            readers: Vec::new(),
            pace: Pace::Closed,
            budget: u64::MAX,
            end_ns: phase.begin_ns + phase.warmup_ns + phase.measured_ns,
            timers: BinaryHeap::new(),
            timer_of: Vec::new(),
            scratch: Vec::new(),
            drain: Vec::new(),
            last_progress_ns: phase.begin_ns,
            idle_at_ns: None,
            contents,
            tally,
        };
        if let Some(produce) = &phase.produce {
            engine.pace = produce.pace;
            let turns = Rc::new(produce::turns(&shared.lay, &engine.contents));
            if let Some(budget) = produce.budget_bytes {
                engine.budget = budget / threads as u64;
            }
            for index in (0..produce.producer_ids.len()).filter(mine) {
                let producer = engine.producers.len();
                let mut links = Vec::new();
                for (lane, address) in shared.lay.brokers.iter().enumerate() {
                    let role = Role::Produce { producer, lane };
                    links.push(engine.connect(address, role, PRODUCE_BUFFER_BYTES)?);
                }
                engine.producers.push(Producer::new(
                    index as u32,
                    turns.clone(),
                    &engine.contents,
                    &links,
                    produce.producer_ids[index],
                    phase.number << 32,
                ));
            }
        }
        if let Some(plan) = &phase.read {
            for index in (0..plan.spans.len()).filter(mine) {
                for (broker, address) in shared.lay.brokers.iter().enumerate() {
                    let spans: Vec<Span> = plan.spans[index]
                        .iter()
                        .filter(|span| shared.lay.broker_of(span.partition) == broker)
                        .copied()
                        .collect();
                    if spans.is_empty() {
                        continue;
                    }
                    let role = Role::Read(engine.readers.len());
                    let link = engine.connect(address, role, FETCH_BUFFER_BYTES)?;
                    engine.readers.push(Reader::new(
                        index as u32,
                        link,
                        plan.look,
                        plan.read_again,
                        spans,
                    ));
                }
            }
        }
        Ok(engine)
    }

    fn connect(&mut self, address: &str, role: Role, buffer: usize) -> Result<usize> {
        let link = Link::new(client::connect(address)?, address.into(), buffer)?;
        let index = self.links.len();
        epoll::add(
            &self.poller,
            &link.stream,
            epoll::EventData::new_u64(index as u64),
            epoll::EventFlags::IN,
        )?;
        self.links.push(link);
        self.roles.push(role);
        Ok(index)
    }

    fn run(&mut self, thread: usize, tell: &Sender<Message>) {
        let mut events = Vec::with_capacity(EVENTS);
        self.timer_of = vec![None; self.producers.len()];
        for producer in 0..self.producers.len() {
            self.set_timer(producer, self.tally.phase.begin_ns);
        }
        let plan = self.tally.phase.read.as_ref();
        let reads_from = match plan {
            // A backlog is not touched before it is measured.
            Some(plan) if plan.ends_phase => self.tally.measure_from(),
            _ => self.tally.phase.begin_ns,
        };
        let mut begun = false;
        let mut grace_ends = None;
        loop {
            let now = self.tally.shared.now_ns();
            self.tally.now_ns = now;
            if !begun && now >= reads_from {
                begun = true;
                for reader in 0..self.readers.len() {
                    self.ask(reader);
                }
            }
            let stopped = self.tally.shared.stop.load(Ordering::Relaxed);
            if stopped {
                self.end_ns = self.end_ns.min(now);
            }
            self.tell_second(now, thread, tell);
            self.pump_due(now);
            if self.tally.ledger.failure.is_some() || self.is_over(now) {
                break;
            }
            if now >= self.end_ns {
                let grace = if stopped {
                    INTERRUPTED_GRACE_NS
                } else {
                    self.grace_ns()
                };
                if now >= *grace_ends.get_or_insert(now + grace) {
                    break;
                }
            }
            if now.saturating_sub(self.last_progress_ns) > STALL_NS && self.expects_progress() {
                let seconds = STALL_NS / SECOND_NS;
                self.tally
                    .fail(format!("the broker has not answered for {seconds} s"));
                break;
            }
            let due = self.timers.peek().map_or(u64::MAX, |Reverse((at, _))| *at);
            let wait = due.saturating_sub(now).min(MAX_WAIT_NS);
            let wait = if wait < SPIN_NS {
                0
            } else {
                wait - SPIN_NS / 2
            };
            let timeout = Timespec {
                tv_sec: 0,
                tv_nsec: wait as i64,
            };
            let waited = epoll::wait(
                &self.poller,
                rustix::buffer::spare_capacity(&mut events),
                Some(&timeout),
            );
            match waited {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    self.tally.fail(format!("epoll: {error}"));
                    break;
                }
            }
            for event in events.drain(..) {
                let epoll::Event { flags, data } = event;
                self.happened(data.u64() as usize, flags);
            }
        }
        self.close_books();
    }

    fn grace_ns(&self) -> u64 {
        self.tally.phase.measured_ns.clamp(GRACE_NS.0, GRACE_NS.1)
    }

    /// Whether everything is sent, answered and read.
    fn is_over(&mut self, now: u64) -> bool {
        let plan = &self.tally.phase.read;
        let drained = !self.readers.is_empty() && self.readers.iter().all(Reader::is_done);
        if drained {
            let at = now - self.tally.phase.begin_ns;
            self.tally.ledger.drained_at_ns.get_or_insert(at);
            if plan.as_ref().is_some_and(|plan| plan.ends_phase) {
                self.end_ns = self.end_ns.min(now);
            }
        }
        if self.budget == 0 {
            self.end_ns = self.end_ns.min(now);
        }
        if now < self.end_ns
            || !self.timers.is_empty()
            || !self.producers.iter().all(Producer::is_idle)
        {
            return false;
        }
        // Whoever reads along gets the last records too: until an answer to a question from now on is empty.
        let idle_at = *self.idle_at_ns.get_or_insert(now);
        self.producers.is_empty() || self.readers.iter().all(|it| it.has_caught_up(idle_at))
    }

    fn expects_progress(&self) -> bool {
        let sent = self
            .producers
            .iter()
            .any(|producer| producer.lanes.iter().any(|lane| !lane.in_flight.is_empty()));
        sent || self.tally.checker.is_some()
    }

    fn tell_second(&mut self, now: u64, thread: usize, tell: &Sender<Message>) {
        let from = self.tally.measure_from() as i64;
        let t = (now as i64 - from).div_euclid(SECOND_NS as i64);
        // What comes in after the end belongs to the last second.
        let last = (self.tally.phase.measured_ns.div_ceil(SECOND_NS) as i64 - 1).max(0);
        let t = t.min(last);
        if t > self.tally.interval.t {
            let interval = std::mem::replace(&mut self.tally.interval, Interval::new(t));
            let _ = tell.send(Message::Second(thread, interval));
        }
    }

    fn pump_due(&mut self, now: u64) {
        while let Some(&Reverse((at, producer))) = self.timers.peek()
            && at <= now
        {
            self.timers.pop();
            if self.timer_of[producer] == Some(at) {
                self.timer_of[producer] = None;
                let late = now - at;
                self.tally.interval.load_late.saturating_record(late);
                self.pump(producer);
            }
        }
    }

    fn set_timer(&mut self, producer: usize, at: u64) {
        if self.timer_of[producer].is_none_or(|earlier| at < earlier) {
            self.timer_of[producer] = Some(at);
            self.timers.push(Reverse((at, producer)));
        }
    }

    fn pump(&mut self, producer: usize) {
        let now_ns = self.tally.shared.now_ns();
        let mut pump = Pump {
            shared: self.tally.shared,
            contents: &self.contents,
            now_ns,
            begin_ns: self.tally.phase.begin_ns,
            measure_ns: self.tally.measure_from(),
            end_ns: self.end_ns,
            pace: self.pace,
            budget: &mut self.budget,
            scratch: &mut self.scratch,
            lateness: &mut self.tally.interval.lateness,
        };
        let again = self.producers[producer].pump(&mut self.links, &mut pump);
        if let Some(at) = again {
            self.set_timer(producer, at);
        }
        for lane in 0..self.producers[producer].lanes.len() {
            let link = self.producers[producer].lanes[lane].link;
            self.flush(link);
        }
        if self.tally.shared.acks == 0 {
            self.forget_sent(producer);
        }
    }

    /// acks=0: what the socket took counts as done.
    fn forget_sent(&mut self, producer: usize) {
        let now = self.tally.shared.now_ns();
        for lane in 0..self.producers[producer].lanes.len() {
            if !self.links[self.producers[producer].lanes[lane].link].is_flushed() {
                continue;
            }
            while let Some(sent) = self.producers[producer].lanes[lane].in_flight.pop_front() {
                self.last_progress_ns = now;
                self.tally.interval.produced.requests += 1;
                for batch in &sent.batches {
                    self.acknowledge(batch, -1, now);
                }
            }
        }
    }

    fn ask(&mut self, reader: usize) {
        let now = self.tally.shared.now_ns();
        let link = self.readers[reader].link;
        self.readers[reader].ask(&mut self.links[link], self.tally.shared, now);
        self.flush(link);
    }

    fn flush(&mut self, index: usize) {
        let link = &mut self.links[index];
        if let Err(error) = link.flush() {
            let why = match error.kind() {
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                    format!("{}: the broker closed the connection", link.address)
                }
                _ => format!("writing to {}: {error}", link.address),
            };
            self.tally.fail(why);
            return;
        }
        let waits = !link.is_flushed();
        if waits != link.waits_to_write {
            link.waits_to_write = waits;
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, waits);
            let data = epoll::EventData::new_u64(index as u64);
            if let Err(error) = epoll::modify(&self.poller, &link.stream, data, flags) {
                self.tally.fail(format!("epoll: {error}"));
            }
        }
    }

    fn happened(&mut self, index: usize, flags: epoll::EventFlags) {
        self.tally.now_ns = self.tally.shared.now_ns();
        if flags.contains(epoll::EventFlags::OUT) {
            self.flush(index);
            if let Role::Produce { producer, .. } = self.roles[index]
                && self.tally.shared.acks == 0
            {
                self.forget_sent(producer);
                self.pump(producer);
            }
        }
        if !flags
            .intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR)
        {
            return;
        }
        let outcome = match self.roles[index] {
            Role::Produce { producer, lane } => self.read_answers(index, producer, lane),
            Role::Read(reader) => self.read_records(index, reader),
        };
        if let Err(why) = outcome {
            let why = format!("{}: {why}", self.links[index].address);
            self.tally.fail(why);
        }
    }

    fn read_records(&mut self, index: usize, reader: usize) -> Result<(), String> {
        let it = &mut self.readers[reader];
        let link = &mut self.links[index];
        let complete = it.take(link, self.tally.shared, &mut self.drain, &mut self.tally)?;
        self.last_progress_ns = self.tally.now_ns;
        if it.is_done() {
            it.done_at_ns.get_or_insert(self.tally.now_ns);
        }
        if complete {
            it.settle();
            // Readers go on while the last records are on their way.
            let looks = self.tally.checker.is_some();
            if looks || self.tally.now_ns < self.end_ns.saturating_add(self.grace_ns()) {
                self.ask(reader);
            }
        }
        Ok(())
    }

    fn read_answers(&mut self, index: usize, producer: usize, lane: usize) -> Result<(), String> {
        let link = &mut self.links[index];
        link.read(PRODUCE_BUFFER_BYTES)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                    "the broker closed the connection".to_string()
                }
                _ => error.to_string(),
            })?;
        let now = self.tally.shared.now_ns();
        self.tally.now_ns = now;
        let mut answered = false;
        loop {
            let input = self.links[index].input();
            let Some((length, rest)) = input.split_first_chunk::<4>() else {
                break;
            };
            let length = usize::try_from(i32::from_be_bytes(*length))
                .map_err(|_| "an answer of negative length")?;
            let Some(answer) = rest.get(..length) else {
                break;
            };
            let lane = &mut self.producers[producer].lanes[lane];
            let sent = lane.in_flight.pop_front().ok_or("an answer too many")?;
            let (correlation, body) = answer
                .split_first_chunk::<4>()
                .ok_or("an answer without a correlation id")?;
            let correlation = i32::from_be_bytes(*correlation);
            if correlation != sent.correlation {
                return Err(format!("an answer to request {correlation}, not to ours"));
            }
            let lay = &self.tally.shared.lay;
            let mut outcomes: Vec<Option<(i16, i64)>> = vec![None; sent.batches.len()];
            let read = wire::produce_answer(body, self.tally.shared.produce_version, |it| {
                let partition = lay.topic(it.topic).and_then(|topic| {
                    Some(topic * lay.partitions + u32::try_from(it.partition).ok()?)
                });
                let at = sent
                    .batches
                    .iter()
                    .position(|batch| Some(batch.partition) == partition);
                if let Some(at) = at {
                    outcomes[at] = Some((it.error, it.base_offset));
                }
            });
            read.ok_or("an answer ends in its middle")?;
            self.links[index].consume(4 + length);
            answered = true;
            if self.tally.measured(now) || self.tally.interval.t < 0 {
                self.tally.interval.produced.requests += 1;
            }
            for (batch, outcome) in sent.batches.iter().zip(outcomes) {
                match outcome {
                    Some((0, base_offset)) => self.acknowledge(batch, base_offset, now),
                    Some((error, _)) => self.refused(batch, error),
                    None => return Err("an answer leaves out a partition".into()),
                }
            }
        }
        if answered {
            self.last_progress_ns = now;
            self.pump(producer);
        }
        Ok(())
    }

    fn acknowledge(&mut self, batch: &produce::Batch, base_offset: i64, now: u64) {
        let tally = &mut self.tally;
        tally.refusals = 0;
        tally.ledger.payload_bytes += batch.payload;
        if tally.shared.workload.verify {
            tally.ledger.acked.push(Acked {
                id: batch.id,
                base_offset,
                partition: batch.partition,
                records: batch.records,
                digest: batch.digest,
            });
        }
        if tally.measured(now) || tally.interval.t < 0 {
            let produced = &mut tally.interval.produced;
            produced.records += u64::from(batch.records);
            produced.bytes += batch.payload;
            produced.wire_bytes += batch.wire;
        }
        self.time(batch, now);
    }

    fn time(&mut self, batch: &produce::Batch, now: u64) {
        let tally = &mut self.tally;
        if batch.times.is_empty() {
            if tally.counts(batch.at_ns) {
                let latency = now.saturating_sub(batch.at_ns);
                let records = batch.records.into();
                tally
                    .interval
                    .produce_latency
                    .saturating_record_n(latency, records);
            }
            return;
        }
        for &at_ns in &batch.times {
            if tally.counts(at_ns) {
                let latency = now.saturating_sub(at_ns);
                tally.interval.produce_latency.saturating_record(latency);
            }
        }
    }

    fn refused(&mut self, batch: &produce::Batch, error: i16) {
        self.tally.interval.produced.errors += 1;
        self.tally.ledger.uncertain.push(batch.id);
        self.tally.refuse(error);
        if self.tally.shared.workload.idempotent {
            // Its sequences have a gap now, so nothing that follows would be taken.
            let name = error_name(error);
            self.tally
                .fail(format!("an idempotent producer is refused: {name}"));
        }
    }

    /// What was owed and is not done counts with the time it has waited so far.
    fn close_books(&mut self) {
        let now = self.tally.shared.now_ns();
        let mut unfinished = 0;
        let mut owed: Vec<u64> = Vec::new();
        for producer in &mut self.producers {
            producer.unsent(|at_ns| {
                owed.push(at_ns);
                unfinished += 1;
            });
            for lane in &mut producer.lanes {
                for sent in lane.in_flight.drain(..) {
                    for batch in sent.batches {
                        self.tally.ledger.uncertain.push(batch.id);
                        unfinished += u64::from(batch.records);
                        if batch.times.is_empty() {
                            owed.extend(std::iter::repeat_n(batch.at_ns, batch.records as usize));
                        }
                        owed.extend(batch.times);
                    }
                }
            }
        }
        let failed = self.tally.ledger.failure.is_some();
        if let Pace::Open(schedule) = self.pace
            && !failed
        {
            let producers = u64::from(self.tally.shared.workload.producers);
            let begin = self.tally.phase.begin_ns;
            let end = self.end_ns.saturating_sub(begin);
            let due = schedule.due_before(end);
            for producer in &self.producers {
                let index = u64::from(producer.index);
                let to = due.saturating_sub(index).div_ceil(producers);
                let missing = to.saturating_sub(producer.taken);
                unfinished += missing;
                // There may be any number of them: they count in as many lumps as make no difference.
                let lump = (missing / 1000).max(1);
                let mut from = producer.taken;
                while from < to {
                    let lump = lump.min(to - from);
                    let at_ns = begin + schedule.time_ns((from + lump / 2) * producers + index);
                    if self.tally.measured(at_ns) {
                        let latency = now.saturating_sub(at_ns);
                        let interval = &mut self.tally.interval;
                        interval.produce_latency.saturating_record_n(latency, lump);
                    }
                    from += lump;
                }
            }
        }
        for at_ns in owed {
            if self.tally.measured(at_ns) {
                let latency = now.saturating_sub(at_ns);
                self.tally
                    .interval
                    .produce_latency
                    .saturating_record(latency);
            }
        }
        self.tally.ledger.unfinished = unfinished;
        let idle_at = self.idle_at_ns.unwrap_or(now);
        // An amount of work is done when its last part is; a time is over when it is.
        let ended_at = if self.budget == 0 {
            idle_at
        } else {
            self.end_ns
        };
        self.tally.ledger.ended_at_ns = ended_at.min(now);
        self.tally.ledger.idle_at_ns = idle_at;
        let from = self.tally.measure_from();
        for reader in self.readers.iter().filter(|reader| reader.bytes > 0) {
            let until = reader.done_at_ns.unwrap_or(now);
            let read = self.tally.ledger.readers.entry(reader.index).or_default();
            read.bytes += reader.bytes;
            read.time_ns = read.time_ns.max(until.saturating_sub(from));
        }
        if let (Some(_), None) = (&self.tally.checker, &self.tally.ledger.failure) {
            let stuck = self.readers.iter().find_map(Reader::stands_at);
            if let Some((partition, offset)) = stuck {
                let name = self.tally.shared.lay.name(partition);
                self.tally
                    .fail(format!("{name} could not be read beyond offset {offset}"));
            }
        }
    }
}
