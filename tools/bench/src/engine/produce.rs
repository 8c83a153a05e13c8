//! A producer of the load: which records go into which batch, and when.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

use hdrhistogram::Histogram;

use crate::codec::Codec;
use crate::content::{BatchHeader, BatchId, RecordDigest, Times};
use crate::contents::Contents;
use crate::engine::link::{Link, Part};
use crate::engine::{Lay, Shared};
use crate::schedule::Schedule;
use crate::wire::{PRODUCE, Writer};

/// Tails up to this size are copied behind their head: one run of bytes costs less than two.
const COPY_TAIL_BYTES: usize = 2048;
/// Records of one producer that wait for their turn to be sent; more stay in the schedule.
const MAX_PENDING: u64 = 1 << 16;

/// A batch on its way.
pub struct Batch {
    pub partition: u32,
    pub records: u32,
    pub id: BatchId,
    pub digest: RecordDigest,
    pub payload: u64,
    pub wire: u64,
    /// When it should have been sent; the time of each record is in `times` if they differ.
    pub at_ns: u64,
    pub times: Vec<u64>,
}

/// A request without an answer.
pub struct Sent {
    pub correlation: i32,
    pub batches: Vec<Batch>,
}

/// What goes from one producer to one broker.
pub struct Lane {
    pub link: usize,
    pub in_flight: VecDeque<Sent>,
    /// Closed loop: whose turn it is.
    cursor: usize,
    /// Open loop: batches that may be sent.
    ready: VecDeque<Open>,
}

/// A batch that fills.
struct Open {
    partition: u32,
    times: Vec<u64>,
    drawn_at: u64,
}

/// By broker, the partitions that a closed loop writes to in turn; with keys, as they were drawn.
pub type Turns = Vec<Vec<u32>>;

pub fn turns(lay: &Lay, contents: &Contents) -> Turns {
    let mut turns = vec![Vec::new(); lay.brokers.len()];
    let drawn = contents.drawn();
    if drawn.is_empty() {
        for partition in 0..lay.total() {
            turns[lay.broker_of(partition)].push(partition);
        }
    }
    for (turn, within) in drawn.iter().enumerate() {
        let topic = (turn % lay.topics.len()) as u32;
        let partition = topic * lay.partitions + within;
        turns[lay.broker_of(partition)].push(partition);
    }
    turns
}

pub struct Producer {
    /// Of all producers of the run.
    pub index: u32,
    pub lanes: Vec<Lane>,
    next_batch: u64,
    idempotence: Option<(i64, i16)>,
    sequences: HashMap<u32, i32>,
    /// Records taken from the schedule so far.
    pub taken: u64,
    sticky: usize,
    keyed: bool,
    turns: Rc<Turns>,
    open: BTreeMap<u32, Open>,
    /// When the open batches are to be sent though not full: in order, some gone already.
    lingering: VecDeque<(u64, u32, u64)>,
    pending: u64,
    client_id: String,
}

/// How the load of a phase comes.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    Closed,
    Open(Schedule),
}

pub struct Pump<'a> {
    pub shared: &'a Shared,
    pub contents: &'a Contents,
    pub now_ns: u64,
    /// What the schedule counts from.
    pub begin_ns: u64,
    /// From here on what is sent is of the budget.
    pub measure_ns: u64,
    /// No record with a time from here on is sent.
    pub end_ns: u64,
    pub pace: Pace,
    /// Keys and values that may still be sent.
    pub budget: &'a mut u64,
    pub scratch: &'a mut Vec<u8>,
    /// How long after its time a record is sent.
    pub lateness: &'a mut Histogram<u64>,
}

impl Producer {
    pub fn new(
        index: u32,
        turns: Rc<Turns>,
        contents: &Contents,
        links: &[usize],
        idempotence: Option<(i64, i16)>,
        first_batch: u64,
    ) -> Producer {
        // Producers begin at different partitions.
        let first = index as usize * 7919;
        let lanes = links
            .iter()
            .enumerate()
            .map(|(broker, &link)| Lane {
                link,
                in_flight: VecDeque::new(),
                cursor: first % turns[broker].len().max(1),
                ready: VecDeque::new(),
            })
            .collect();
        Producer {
            index,
            lanes,
            next_batch: first_batch,
            idempotence,
            sequences: HashMap::new(),
            taken: 0,
            sticky: first,
            keyed: !contents.drawn().is_empty(),
            turns,
            open: BTreeMap::new(),
            lingering: VecDeque::new(),
            pending: 0,
            client_id: format!("ringspun-bench-{index}"),
        }
    }

    /// The number that the next batch would have.
    pub fn next_batch(&self) -> u64 {
        self.next_batch
    }

    /// Sends what can be sent. Returns when it should be called again if nothing happens before; None if
    /// only an answer changes anything.
    pub fn pump(&mut self, links: &mut [Link], pump: &mut Pump<'_>) -> Option<u64> {
        match pump.pace {
            Pace::Closed => {
                self.pump_closed(links, pump);
                None
            }
            Pace::Open(schedule) => self.pump_open(links, pump, schedule),
        }
    }

    fn may_send(&self, lane: usize, links: &[Link], shared: &Shared) -> bool {
        let lane = &self.lanes[lane];
        if shared.acks == 0 {
            links[lane.link].is_flushed()
        } else {
            lane.in_flight.len() < shared.workload.in_flight as usize
        }
    }

    fn pump_closed(&mut self, links: &mut [Link], pump: &mut Pump<'_>) {
        if pump.now_ns >= pump.end_ns {
            return;
        }
        for lane in 0..self.lanes.len() {
            if self.turns[lane].is_empty() {
                continue;
            }
            while *pump.budget > 0 && self.may_send(lane, links, pump.shared) {
                let mut opens = Vec::new();
                while opens.len() < pump.shared.workload.batches_per_request as usize {
                    let turn = &self.turns[lane];
                    let it = &mut self.lanes[lane];
                    let partition = turn[it.cursor % turn.len()];
                    it.cursor += 1;
                    // A request has a partition once.
                    if opens.iter().any(|open: &Open| open.partition == partition) {
                        it.cursor -= 1;
                        break;
                    }
                    opens.push(Open {
                        partition,
                        times: Vec::new(),
                        drawn_at: 0,
                    });
                }
                self.send(lane, opens, links, pump);
            }
        }
    }

    fn pump_open(
        &mut self,
        links: &mut [Link],
        pump: &mut Pump<'_>,
        schedule: Schedule,
    ) -> Option<u64> {
        let workload = &pump.shared.workload;
        let linger_ns = (workload.linger_ms * 1e6) as u64;
        let producers = u64::from(workload.producers);
        let partitions = pump.shared.lay.partitions;
        let topics = pump.shared.lay.topics.len();
        let mut next_due;
        loop {
            // Records whose time has come.
            loop {
                let number = self.taken * producers + u64::from(self.index);
                let at = pump.begin_ns + schedule.time_ns(number);
                next_due = (at < pump.end_ns).then_some(at);
                if at > pump.now_ns || at >= pump.end_ns || self.pending >= MAX_PENDING {
                    break;
                }
                let partition = if self.keyed {
                    let turn = self.taken as usize + self.index as usize * 7919;
                    let drawn = pump.contents.drawn();
                    (turn % topics) as u32 * partitions + drawn[turn % drawn.len()]
                } else {
                    (self.sticky % (partitions as usize * topics)) as u32
                };
                let open = self.open.entry(partition).or_insert_with(|| {
                    let deadline = at.saturating_add(linger_ns);
                    self.lingering.push_back((deadline, partition, self.taken));
                    Open {
                        partition,
                        times: Vec::new(),
                        drawn_at: self.taken,
                    }
                });
                open.times.push(at);
                self.taken += 1;
                self.pending += 1;
                let most = pump.contents.template(partition % partitions).max_records();
                if open.times.len() >= most {
                    self.close(partition, &pump.shared.lay);
                }
            }
            // Batches that have waited long enough.
            while let Some(&(deadline, partition, drawn_at)) = self.lingering.front() {
                let is_open = self
                    .open
                    .get(&partition)
                    .is_some_and(|open| open.drawn_at == drawn_at);
                if !is_open {
                    self.lingering.pop_front();
                    continue;
                }
                let lane = pump.shared.lay.broker_of(partition);
                // A batch that cannot go yet goes on filling.
                if deadline > pump.now_ns
                    || !(self.lanes[lane].ready.is_empty()
                        && self.may_send(lane, links, pump.shared))
                {
                    break;
                }
                self.lingering.pop_front();
                self.close(partition, &pump.shared.lay);
                self.fill_request(lane, pump.shared);
                self.send_ready(lane, links, pump);
            }
            let mut sent = false;
            for lane in 0..self.lanes.len() {
                sent |= self.send_ready(lane, links, pump);
            }
            if !sent || self.pending >= MAX_PENDING {
                break;
            }
        }
        let linger = self.lingering.front().map(|(deadline, ..)| *deadline);
        // What waits for an answer is looked at when one comes.
        let linger = linger.filter(|&deadline| deadline > pump.now_ns);
        let due = next_due.filter(|_| self.pending < MAX_PENDING);
        match (linger, due) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// A request that goes because one batch has waited long enough takes along what else fills for its
    /// broker, as that of Kafka's own producer does (its accumulator drains a broker, not a partition).
    fn fill_request(&mut self, lane: usize, shared: &Shared) {
        let room = (shared.workload.batches_per_request as usize)
            .saturating_sub(self.lanes[lane].ready.len());
        let lay = &shared.lay;
        let of_lane = self.open.keys().copied();
        let along: Vec<u32> = of_lane
            .filter(|&partition| lay.broker_of(partition) == lane)
            .take(room)
            .collect();
        for partition in along {
            self.close(partition, lay);
        }
    }

    fn close(&mut self, partition: u32, lay: &Lay) {
        if let Some(open) = self.open.remove(&partition) {
            self.lanes[lay.broker_of(partition)].ready.push_back(open);
            if !self.keyed {
                self.sticky += 1;
            }
        }
    }

    fn send_ready(&mut self, lane: usize, links: &mut [Link], pump: &mut Pump<'_>) -> bool {
        let mut sent = false;
        while !self.lanes[lane].ready.is_empty() && self.may_send(lane, links, pump.shared) {
            let mut opens: Vec<Open> = Vec::new();
            let most = pump.shared.workload.batches_per_request as usize;
            while opens.len() < most
                && let Some(next) = self.lanes[lane].ready.front()
            {
                if opens.iter().any(|open| open.partition == next.partition) {
                    break;
                }
                opens.extend(self.lanes[lane].ready.pop_front());
            }
            for open in &opens {
                self.pending -= open.times.len() as u64;
            }
            self.send(lane, opens, links, pump);
            sent = true;
        }
        sent
    }

    /// Records that were taken and not sent, the times of which are told.
    pub fn unsent(&self, mut each: impl FnMut(u64)) {
        let ready = self.lanes.iter().flat_map(|lane| &lane.ready);
        for open in self.open.values().chain(ready) {
            open.times.iter().for_each(|&at| each(at));
        }
    }

    /// Whether everything taken was sent and answered.
    pub fn is_idle(&self) -> bool {
        self.pending == 0 && self.lanes.iter().all(|lane| lane.in_flight.is_empty())
    }

    fn send(&mut self, lane: usize, mut opens: Vec<Open>, links: &mut [Link], pump: &mut Pump<'_>) {
        let shared = pump.shared;
        let lay = &shared.lay;
        opens.sort_by_key(|open| open.partition);
        let link = &mut links[self.lanes[lane].link];
        link.correlation = link.correlation.wrapping_add(1);
        let correlation = link.correlation;
        let version = shared.produce_version;
        let flexible = version >= 9;
        let mut head = Vec::with_capacity(512);
        let mut parts: Vec<Part> = Vec::new();
        let mut batches = Vec::with_capacity(opens.len());
        let mut frame_bytes = 0;
        let mut writer = Writer {
            out: &mut head,
            flexible,
        };
        writer.header(PRODUCE, version, correlation, &self.client_id);
        writer.null_string(); // transactional id
        writer.i16(shared.acks);
        writer.i32(shared.workload.timeout_ms);
        let mut topics: Vec<(u32, usize)> = Vec::new();
        for open in &opens {
            let topic = open.partition / lay.partitions;
            match topics.last_mut() {
                Some((last, count)) if *last == topic => *count += 1,
                _ => topics.push((topic, 1)),
            }
        }
        writer.length(topics.len());
        let mut opens = opens.into_iter();
        for (topic, count) in topics {
            let mut writer = Writer {
                out: &mut head,
                flexible,
            };
            writer.string(&lay.topics[topic as usize]);
            writer.length(count);
            for open in opens.by_ref().take(count) {
                let within = open.partition % lay.partitions;
                let template = pump.contents.template(within);
                let closed = open.times.is_empty();
                let records = if closed {
                    template.max_records()
                } else {
                    open.times.len()
                };
                let at_ns = open.times.first().copied().unwrap_or(pump.now_ns);
                for at in &open.times {
                    pump.lateness
                        .saturating_record(pump.now_ns.saturating_sub(*at));
                }
                let id = BatchId::new(self.index as u16, self.next_batch);
                self.next_batch += 1;
                let (producer_id, producer_epoch, base_sequence) = match self.idempotence {
                    None => (-1, -1, -1),
                    Some((id, epoch)) => {
                        let next = self.sequences.entry(open.partition).or_insert(0);
                        let base = *next;
                        // Sequences begin again at 0 after the greatest.
                        *next = ((i64::from(base) + records as i64) % (1 << 31)) as i32;
                        (id, epoch, base)
                    }
                };
                let header = BatchHeader {
                    id,
                    timestamp_ms: shared.started_ms + (pump.now_ns / 1_000_000) as i64,
                    producer_id,
                    producer_epoch,
                    base_sequence,
                };
                let mut writer = Writer {
                    out: &mut head,
                    flexible,
                };
                writer.i32(within as i32);
                let codec = shared.workload.codec;
                let digest;
                let wire;
                if closed && codec == Codec::None {
                    wire = template.batch_bytes(records);
                    writer.length(wire);
                    let (tail, of_batch) = template.batch(&mut head, &header, records, at_ns);
                    digest = of_batch;
                    if tail.len() <= COPY_TAIL_BYTES {
                        head.extend_from_slice(&template.body()[tail]);
                    } else {
                        frame_bytes += head.len() + tail.len();
                        parts.push(Part::Own(std::mem::take(&mut head)));
                        parts.push(Part::Shared(template.clone(), tail));
                    }
                } else {
                    let times = if closed {
                        Times::Same(at_ns)
                    } else {
                        Times::Each(&open.times)
                    };
                    let mut batch = Vec::with_capacity(template.batch_bytes(records));
                    digest = template.whole_batch(
                        &mut batch,
                        pump.scratch,
                        &header,
                        records,
                        times,
                        codec,
                    );
                    wire = batch.len();
                    writer.length(wire);
                    head.extend_from_slice(&batch);
                }
                let payload = template.payload_bytes(records);
                if pump.now_ns >= pump.measure_ns {
                    *pump.budget = pump.budget.saturating_sub(payload);
                }
                if flexible {
                    head.push(0);
                }
                batches.push(Batch {
                    partition: open.partition,
                    records: records as u32,
                    id,
                    digest,
                    payload,
                    wire: wire as u64,
                    at_ns,
                    times: open.times,
                });
            }
            if flexible {
                head.push(0);
            }
        }
        if flexible {
            head.push(0);
        }
        frame_bytes += head.len();
        parts.push(Part::Own(head));
        if let Some(Part::Own(first)) = parts.first_mut() {
            first[..4].copy_from_slice(&((frame_bytes - 4) as i32).to_be_bytes());
        }
        for part in parts {
            if !matches!(&part, Part::Own(bytes) if bytes.is_empty()) {
                link.push(part);
            }
        }
        self.lanes[lane].in_flight.push_back(Sent {
            correlation,
            batches,
        });
    }
}
