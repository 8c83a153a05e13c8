//! A reader of the load: asks for what follows, and understands the answer while it arrives, so that
//! what is not looked at need not be copied.

use std::collections::HashMap;
use std::io;

use crate::codec::Codec;
use crate::content::{self, BATCH_HEADER, BatchView, Stamp};
use crate::engine::link::{Link, Part};
use crate::engine::{Lay, Shared};
use crate::verify::Checker;
use crate::wire::{FETCH, Reader as Fields, Writer};

/// Batches from this size on are dropped by the kernel rather than copied.
const DROP_FROM_BYTES: usize = 8 * 1024;
/// What is read at once where batches are dropped: the next header and a little more.
const PEEK_BYTES: usize = 512;
const READ_BYTES: usize = 256 * 1024;
const READS_AT_ONCE: usize = 64;
/// A batch claimed larger than this is not believed.
const MAX_BATCH_BYTES: usize = 256 << 20;
const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
const INVALID_FETCH_SESSION_EPOCH: i16 = 71;
const OFFSET_OUT_OF_RANGE: i16 = 1;

/// How much of what is fetched is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The headers of batches.
    Headers,
    /// The stamp of a batch's first record, which is that of all.
    FirstStamp,
    /// The stamp of each record.
    Stamps,
    /// Every byte, against what was acknowledged.
    Everything,
}

/// Where reading a partition begins and ends.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub partition: u32,
    pub start: i64,
    /// None where reading goes on with what is produced.
    pub end: Option<i64>,
}

struct Position {
    span: Span,
    next: i64,
    done: bool,
    /// Whether the broker's session has another offset.
    changed: bool,
}

/// Where in an answer the bytes are that come next.
#[derive(Debug, Clone, Copy, PartialEq)]
enum At {
    Length,
    Head,
    Topic { topics: usize },
    Partition { topics: usize, partitions: usize },
    Records { topics: usize, partitions: usize },
    PartitionEnd { topics: usize, partitions: usize },
    TopicEnd { topics: usize },
    End,
}

pub struct Reader {
    /// Of the consumer.
    pub index: u32,
    pub link: usize,
    /// Bytes of batches that were read.
    pub bytes: u64,
    /// When everything was read that has an end, on the clock of the run.
    pub done_at_ns: Option<u64>,
    look: Look,
    read_again: bool,
    positions: Vec<Position>,
    by_partition: HashMap<u32, usize>,
    unfinished: usize,
    session: (i32, i32),
    /// When the request without an answer was sent.
    pub asked_at_ns: Option<u64>,
    at: At,
    /// Bytes of the frame that are not consumed.
    frame_left: usize,
    topic: Option<u32>,
    position: Option<usize>,
    records_left: usize,
    /// Bytes that are to be passed over.
    skip: usize,
    last_batch_bytes: usize,
    got_records: bool,
    /// When the last question was asked that had nothing in its answer.
    empty_asked_at_ns: u64,
    client_id: String,
    scratch: Vec<u8>,
}

/// What reading tells.
pub trait Told {
    /// A batch with so many records, its bytes on the wire.
    fn batch(&mut self, records: u64, bytes: u64);
    /// A record (or so many) with this stamp arrived.
    fn stamped(&mut self, at_ns: u64, records: u64);
    /// An answer is complete; whether it had records.
    fn answered(&mut self, asked_at_ns: u64, with_records: bool);
    fn refused(&mut self, error: i16);
    fn checker(&mut self) -> Option<&mut Checker>;
}

impl Reader {
    pub fn new(index: u32, link: usize, look: Look, read_again: bool, spans: Vec<Span>) -> Reader {
        let positions: Vec<Position> = spans
            .into_iter()
            .map(|span| Position {
                span,
                next: span.start,
                done: span.end.is_some_and(|end| end <= span.start),
                changed: true,
            })
            .collect();
        Reader {
            index,
            link,
            bytes: 0,
            done_at_ns: None,
            look,
            read_again,
            by_partition: positions
                .iter()
                .enumerate()
                .map(|(i, position)| (position.span.partition, i))
                .collect(),
            unfinished: positions.iter().filter(|it| !it.done).count(),
            positions,
            session: (0, 0),
            asked_at_ns: None,
            at: At::Length,
            frame_left: 0,
            topic: None,
            position: None,
            records_left: 0,
            skip: 0,
            last_batch_bytes: 0,
            got_records: false,
            empty_asked_at_ns: 0,
            client_id: format!("ringspun-bench-reader-{index}"),
            scratch: Vec::new(),
        }
    }

    /// Whether everything was read that has an end.
    pub fn is_done(&self) -> bool {
        self.unfinished == 0
    }

    /// Whether nothing is left of what was there at this time, for a reader that has no end of its own.
    pub fn has_caught_up(&self, at_ns: u64) -> bool {
        self.unfinished == 0 || self.read_again || self.empty_asked_at_ns >= at_ns
    }

    /// The first partition that is not read to its end, and where it stands.
    pub fn stands_at(&self) -> Option<(u32, i64)> {
        self.positions
            .iter()
            .find(|it| !it.done)
            .map(|it| (it.span.partition, it.next))
    }

    /// Asks for what follows, unless an answer is awaited.
    pub fn ask(&mut self, link: &mut Link, shared: &Shared, now_ns: u64) {
        if self.asked_at_ns.is_some() || self.unfinished == 0 {
            return;
        }
        let version = shared.fetch_version;
        let workload = &shared.workload;
        let lay = &shared.lay;
        link.correlation = link.correlation.wrapping_add(1);
        let mut frame = Vec::with_capacity(256);
        let mut writer = Writer {
            out: &mut frame,
            flexible: version >= 12,
        };
        writer.header(FETCH, version, link.correlation, &self.client_id);
        writer.i32(-1); // no replica
        writer.i32(workload.fetch_max_wait_ms);
        writer.i32(workload.fetch_min_bytes);
        writer.i32(workload.fetch_max_bytes);
        writer.i8(0); // uncommitted too
        if version >= 7 {
            writer.i32(self.session.0);
            writer.i32(self.session.1);
        }
        let everything = self.session.1 == 0;
        let asked: Vec<(u32, usize)> = (0..self.positions.len())
            .filter(|&i| {
                let position = &self.positions[i];
                !position.done && (everything || position.changed)
            })
            .map(|i| (self.positions[i].span.partition / lay.partitions, i))
            .collect();
        let topics = asked.chunk_by(|a, b| a.0 == b.0);
        writer.length(topics.clone().count());
        for positions in topics {
            writer.string(&lay.topics[positions[0].0 as usize]);
            writer.length(positions.len());
            for &(_, i) in positions {
                let position = &mut self.positions[i];
                position.changed = false;
                writer.i32((position.span.partition % lay.partitions) as i32);
                if version >= 9 {
                    writer.i32(-1); // leader epoch
                }
                writer.i64(position.next);
                if version >= 12 {
                    writer.i32(-1); // epoch of what was read last
                }
                if version >= 5 {
                    writer.i64(-1); // a follower's log start
                }
                writer.i32(workload.fetch_partition_max_bytes);
                writer.tags();
            }
            writer.tags();
        }
        if version >= 7 {
            writer.length(0); // nothing to forget
        }
        if version >= 11 {
            writer.string(""); // rack
        }
        writer.tags();
        let length = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        link.push(Part::Own(frame));
        self.asked_at_ns = Some(now_ns);
    }

    /// Takes what has arrived. Returns whether an answer was completed.
    pub fn take(
        &mut self,
        link: &mut Link,
        shared: &Shared,
        drain: &mut Vec<u8>,
        told: &mut impl Told,
    ) -> Result<bool, String> {
        let io = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => "the broker closed the connection".to_string(),
            _ => error.to_string(),
        };
        // A socket that always has data does not keep the others waiting for ever.
        let mut reads = 0..READS_AT_ONCE;
        loop {
            if self.skip > 0 {
                let here = link.input().len().min(self.skip);
                link.consume(here);
                self.pass(here);
                if self.skip > 0 {
                    if reads.next().is_none() {
                        return Ok(false);
                    }
                    let dropped = link.drop_arrived(self.skip, drain).map_err(io)?;
                    if dropped == 0 {
                        return Ok(false);
                    }
                    self.pass(dropped);
                }
                continue;
            }
            match self.step(link, shared, told)? {
                Step::Went(true) => return Ok(true),
                Step::Went(false) => continue,
                Step::Short => {}
            }
            let drops = self.look != Look::Everything
                && matches!(self.at, At::Records { .. })
                && self.last_batch_bytes >= DROP_FROM_BYTES;
            let most = if drops && self.look != Look::Stamps {
                PEEK_BYTES + shared.workload.key_bytes as usize
            } else {
                READ_BYTES
            };
            if reads.next().is_none() || link.read(most).map_err(io)? == 0 {
                return Ok(false);
            }
        }
    }

    fn pass(&mut self, bytes: usize) {
        self.skip -= bytes;
        self.frame_left = self.frame_left.saturating_sub(bytes);
    }

    fn step(
        &mut self,
        link: &mut Link,
        shared: &Shared,
        told: &mut impl Told,
    ) -> Result<Step, String> {
        let version = shared.fetch_version;
        let input = link.input();
        if self.at == At::Length {
            let Some((length, _)) = input.split_first_chunk::<4>() else {
                return Ok(Step::Short);
            };
            self.frame_left = usize::try_from(i32::from_be_bytes(*length))
                .map_err(|_| "an answer of negative length")?;
            link.consume(4);
            self.got_records = false;
            self.at = At::Head;
            return Ok(Step::Went(false));
        }
        if let At::Records { topics, partitions } = self.at {
            return self.step_records(link, told, topics, partitions);
        }
        let whole = input.len() >= self.frame_left;
        let input = &input[..input.len().min(self.frame_left)];
        let mut fields = Fields::new(input, version >= 12);
        let next = match self.at {
            At::Head => fields
                .i32()
                .and_then(|correlation| {
                    fields.tags()?;
                    fields.i32()?; // throttle time
                    let (mut error, mut session) = (0, 0);
                    if version >= 7 {
                        error = fields.i16()?;
                        session = fields.i32()?;
                    }
                    let topics = fields.length()?;
                    Some((correlation, error, session, topics))
                })
                .map(|(correlation, error, session, topics)| {
                    if correlation != link.correlation {
                        return Err(format!("an answer to request {correlation}, not to ours"));
                    }
                    self.session = match error {
                        FETCH_SESSION_ID_NOT_FOUND | INVALID_FETCH_SESSION_EPOCH => (0, 0),
                        0 if session != 0 => (session, self.session.1 % i32::MAX + 1),
                        0 => (0, 0),
                        error => {
                            return Err(format!(
                                "a fetch was refused: {}",
                                crate::client::error_name(error)
                            ));
                        }
                    };
                    Ok(At::Topic { topics })
                })
                .transpose()?,
            At::Topic { topics: 0 } => Some(At::End),
            At::Topic { topics } => fields.string().and_then(|name| {
                let partitions = fields.length()?;
                self.topic = shared.lay.topic(name);
                Some(At::Partition { topics, partitions })
            }),
            At::Partition {
                topics,
                partitions: 0,
            } => Some(At::TopicEnd { topics }),
            At::Partition { topics, partitions } => match partition_head(&mut fields, version) {
                None => None,
                Some(head) => {
                    self.begin_partition(head, &shared.lay, told);
                    Some(At::Records { topics, partitions })
                }
            },
            At::PartitionEnd { topics, partitions } => fields.tags().map(|()| At::Partition {
                topics,
                partitions: partitions - 1,
            }),
            At::TopicEnd { topics } => fields.tags().map(|()| At::Topic { topics: topics - 1 }),
            At::End => fields.tags().map(|()| At::Length),
            At::Length | At::Records { .. } => unreachable!("handled above"),
        };
        let Some(next) = next else {
            if whole {
                return Err("an answer ends in its middle".into());
            }
            return Ok(Step::Short);
        };
        let at = fields.at;
        self.frame_left -= at;
        link.consume(at);
        self.at = next;
        if next != At::Length {
            return Ok(Step::Went(false));
        }
        self.skip = self.frame_left;
        if let Some(asked_at_ns) = self.asked_at_ns.take() {
            if !self.got_records {
                self.empty_asked_at_ns = asked_at_ns;
            }
            told.answered(asked_at_ns, self.got_records);
        }
        Ok(Step::Went(true))
    }

    fn begin_partition(&mut self, head: PartitionHead, lay: &Lay, told: &mut impl Told) {
        self.records_left = head.records;
        self.position = self.topic.and_then(|topic| {
            let within = u32::try_from(head.partition).ok()?;
            let partition = topic.checked_mul(lay.partitions)?.checked_add(within)?;
            self.by_partition.get(&partition).copied()
        });
        let Some(position) = self.position.map(|i| &mut self.positions[i]) else {
            return;
        };
        if head.error == OFFSET_OUT_OF_RANGE && head.log_start > position.next {
            // Retention was faster than we.
            position.next = head.log_start;
            position.changed = true;
            self.advance();
        } else if head.error != 0 {
            position.changed = true;
            told.refused(head.error);
        }
    }

    fn step_records(
        &mut self,
        link: &mut Link,
        told: &mut impl Told,
        topics: usize,
        partitions: usize,
    ) -> Result<Step, String> {
        if self.records_left > self.frame_left {
            return Err("records are longer than their answer".into());
        }
        if self.records_left < BATCH_HEADER || self.position.is_none() {
            // Nothing, or the beginning of a batch that was cut off.
            self.skip = self.records_left;
            self.records_left = 0;
            self.at = At::PartitionEnd { topics, partitions };
            return Ok(Step::Went(false));
        }
        let input = link.input();
        if input.len() < BATCH_HEADER {
            return Ok(Step::Short);
        }
        let view = BatchView::of(input)?;
        if view.bytes > MAX_BATCH_BYTES {
            return Err(format!("a batch of {} bytes was fetched", view.bytes));
        }
        if view.bytes > self.records_left {
            self.skip = self.records_left;
            self.records_left = 0;
            return Ok(Step::Went(false));
        }
        let codec = Codec::of_attributes(view.attributes).map_err(|error| error.to_string())?;
        let wanted = match self.look {
            Look::Headers => BATCH_HEADER,
            Look::FirstStamp if codec == Codec::None => view.bytes.min(BATCH_HEADER + 64 + 4096),
            Look::FirstStamp | Look::Stamps | Look::Everything => view.bytes,
        };
        // The first record's stamp is usually here already.
        let enough = match self.look {
            Look::FirstStamp if codec == Codec::None => {
                input.len() >= wanted || first_stamp(&input[BATCH_HEADER..]).is_some()
            }
            _ => input.len() >= wanted,
        };
        if !enough {
            return Ok(Step::Short);
        }
        self.last_batch_bytes = view.bytes;
        self.got_records = true;
        let index = self.position.expect("checked above");
        let next = self.positions[index].next;
        // A batch may begin before what was asked for.
        if view.last_offset >= next {
            let bytes = &input[..view.bytes.min(input.len())];
            self.bytes += view.bytes as u64;
            told.batch(view.records as u64, view.bytes as u64);
            self.look_at(bytes, view, codec, index, told)?;
            let position = &mut self.positions[index];
            position.next = view.last_offset + 1;
            position.changed = true;
            self.advance();
        }
        self.skip = view.bytes;
        self.records_left -= view.bytes;
        Ok(Step::Went(false))
    }

    fn look_at(
        &mut self,
        bytes: &[u8],
        view: BatchView,
        codec: Codec,
        index: usize,
        told: &mut impl Told,
    ) -> Result<(), String> {
        if self.look == Look::Headers {
            return Ok(());
        }
        let body = &bytes[BATCH_HEADER..];
        if self.look == Look::FirstStamp && codec == Codec::None {
            if let Some(at_ns) = first_stamp(body) {
                told.stamped(at_ns, view.records as u64);
            }
            return Ok(());
        }
        let body = if codec == Codec::None {
            body
        } else {
            self.scratch.clear();
            if let Err(error) = codec.decompress(body, &mut self.scratch) {
                if let Some(checker) = told.checker() {
                    checker.broken(view.records as u64, &format!("{error:#}"));
                }
                return Ok(());
            }
            &self.scratch
        };
        if self.look == Look::Everything {
            let partition = self.positions[index].span.partition;
            if let Some(checker) = told.checker() {
                checker.batch(partition, view, BatchView::crc_holds(bytes), body);
            }
            return Ok(());
        }
        let mut latest = None;
        for record in content::records(body).flatten() {
            match Stamp::of(record.value) {
                Stamp::Head { at_ns, .. } | Stamp::Follower { at_ns } => {
                    told.stamped(at_ns, 1);
                    latest = Some(at_ns);
                }
                Stamp::Filler => {
                    if let Some(at_ns) = latest {
                        told.stamped(at_ns, 1);
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks whether the partition in hand is read to its end.
    fn advance(&mut self) {
        let Some(index) = self.position else { return };
        let position = &mut self.positions[index];
        if position.done || position.span.end.is_none_or(|end| position.next < end) {
            return;
        }
        if self.read_again {
            position.next = position.span.start;
            position.changed = true;
        } else {
            position.done = true;
            self.unfinished -= 1;
            // A session would go on to watch it: the next request begins another.
            self.session = (0, -1);
        }
    }

    /// To be called when an answer is complete.
    pub fn settle(&mut self) {
        if self.session.1 < 0 {
            self.session = (0, 0);
        }
        if self.session.1 == 0 {
            self.positions.iter_mut().for_each(|it| it.changed = true);
        }
    }
}

enum Step {
    /// Something was understood; whether the answer is complete.
    Went(bool),
    /// More bytes are needed.
    Short,
}

struct PartitionHead {
    partition: i32,
    error: i16,
    log_start: i64,
    records: usize,
}

fn partition_head(fields: &mut Fields<'_>, version: i16) -> Option<PartitionHead> {
    let partition = fields.i32()?;
    let error = fields.i16()?;
    fields.i64()?; // high watermark
    fields.i64()?; // last stable offset
    let log_start = if version >= 5 { fields.i64()? } else { -1 };
    for _ in 0..fields.length()? {
        fields.i64()?; // aborted transactions: producer id
        fields.i64()?; // and first offset
        fields.tags()?;
    }
    if version >= 11 {
        fields.i32()?; // preferred replica
    }
    Some(PartitionHead {
        partition,
        error,
        log_start,
        records: fields.length()?,
    })
}

fn first_stamp(body: &[u8]) -> Option<u64> {
    // The record's own length is beyond what is here, so its fields are walked by hand.
    let at_ns = content::first_value(body).map(Stamp::of);
    match at_ns {
        Some(Stamp::Head { at_ns, .. } | Stamp::Follower { at_ns }) => Some(at_ns),
        _ => None,
    }
}
