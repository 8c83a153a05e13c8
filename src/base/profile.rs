//! Where the time of a request goes: its stages, and what a shard tells of them.
//!
//! A [`Timeline`] travels with a Produce or Fetch through connection, mailbox, shard and back. It has one
//! cursor: each mark gives the time since the last one to a stage. So the stages of a request are in the
//! order of time, never overlap, and add up to the time it took, whatever way it went; a request over
//! several shards goes on with the timeline of the shard that answered last.
//!
//! No clock is read here, and nothing is kept: `runtime::profile` does both.

use std::net::SocketAddr;

use super::histogram::Recorded;
use super::{TopicId, ids::ShardId};

/// A moment, in nanoseconds since some moment of this process. Comparable between its threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Nanoseconds since `earlier`; 0 if that is later.
    #[inline]
    pub fn since(self, earlier: Nanos) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $label:literal, $meaning:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $(#[doc = $meaning] $variant,)* }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];
            pub const COUNT: usize = Self::ALL.len();

            /// As it is called in tables, tags and labels.
            pub fn label(self) -> &'static str {
                match self { $($name::$variant => $label,)* }
            }

            /// What is measured, in a line.
            pub fn meaning(self) -> &'static str {
                match self { $($name::$variant => $meaning,)* }
            }

            pub fn index(self) -> usize {
                self as usize
            }
        }
    };
}

table!(
    /// A stage of a request, in the order in which they are passed.
    Stage {
        Receive = "receive", "first byte seen by the shard -> last byte in its memory";
        Queue = "queue", "-> begun: behind earlier requests of its connection, or waiting for memory";
        Decode = "decode", "-> header and body decoded";
        Post = "post", "-> checked, routed and sent to the shard that owns the partitions";
        Mailbox = "mailbox", "-> begun there, a wait for room in the mailbox included: 0 on the connection's own shard";
        Append = "append", "-> batches checked, numbered and staged";
        Write = "write", "-> written into the page cache, with all that was staged in the same turn";
        Commit = "commit", "-> acknowledged: on disk where that is asked for, and below the high watermark";
        Read = "read", "-> looked up in index and log";
        Purgatory = "purgatory", "-> min_bytes are there, or the time to wait for them is over";
        Return = "return", "-> taken up by the connection's writer: the way back, and replies before it";
        Encode = "encode", "-> reply encoded";
        Send = "send", "-> its last byte accepted by the socket";
    }
);

table!(
    /// The requests that are profiled.
    Kind {
        Produce = "produce", "Produce requests";
        Fetch = "fetch", "Fetch requests";
    }
);

impl Kind {
    /// By the API key of the wire.
    pub fn of_api_key(key: i16) -> Option<Kind> {
        match key {
            0 => Some(Kind::Produce),
            1 => Some(Kind::Fetch),
            _ => None,
        }
    }

    /// The stages that such a request passes.
    pub fn stages(self) -> &'static [Stage] {
        use Stage::*;
        match self {
            Kind::Produce => &[
                Receive, Queue, Decode, Post, Mailbox, Append, Write, Commit, Return, Encode, Send,
            ],
            Kind::Fetch => &[
                Receive, Queue, Decode, Post, Mailbox, Read, Purgatory, Return, Encode, Send,
            ],
        }
    }
}

table!(
    /// What is measured beside requests.
    Gauged {
        Turn = "turn", "how long a task kept the core before it gave it back";
        RunQueue = "run_queue", "from the wake of a task of the shard to its run";
        WriteTime = "write", "one pwritev into the page cache, or one write past it";
        Fsync = "fsync", "one fdatasync";
        DiskRead = "disk_read", "bringing in a piece that was not in memory";
        WriteBytes = "write_bytes", "bytes of one such write";
        SendfileBytes = "sendfile_bytes", "bytes of one sendfile of what was in the page cache";
        SpliceBytes = "splice_bytes", "bytes of one splice of what was not in the page cache";
    }
);

impl Gauged {
    /// Whether its values are bytes; the others are nanoseconds.
    pub fn is_bytes(self) -> bool {
        match self {
            Gauged::WriteBytes | Gauged::SendfileBytes | Gauged::SpliceBytes => true,
            Gauged::Turn
            | Gauged::RunQueue
            | Gauged::WriteTime
            | Gauged::Fsync
            | Gauged::DiskRead => false,
        }
    }
}

/// The time of one request so far, by stage. Travels with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    began: Nanos,
    at: Nanos,
    spent: [u64; Stage::COUNT],
}

impl Timeline {
    /// One that records nothing: of requests that are not profiled.
    pub const OFF: Timeline = Timeline {
        began: Nanos(0),
        at: Nanos(0),
        spent: [0; Stage::COUNT],
    };

    /// Begins at `now`, which is not 0.
    pub fn begin(now: Nanos) -> Self {
        Timeline {
            began: now,
            at: now,
            ..Timeline::OFF
        }
    }

    #[inline]
    pub fn is_on(&self) -> bool {
        self.began.0 != 0
    }

    /// The time since the last mark was spent in `stage`. A `now` that lies before it adds nothing.
    #[inline]
    pub fn mark(&mut self, stage: Stage, now: Nanos) {
        if self.is_on() {
            self.spent[stage as usize] += now.since(self.at);
            self.at = self.at.max(now);
        }
    }

    /// Goes on with `other`, which began as a copy of this one, if that came further.
    pub fn follow(&mut self, other: &Timeline) {
        if other.at > self.at {
            *self = *other;
        }
    }

    /// The last mark.
    pub fn at(&self) -> Nanos {
        self.at
    }

    /// Nanoseconds spent in a stage so far.
    pub fn spent(&self, stage: Stage) -> u64 {
        self.spent[stage as usize]
    }

    /// Nanoseconds from the beginning to the last mark: the sum of all stages.
    pub fn total(&self) -> u64 {
        self.at.since(self.began)
    }
}

/// What a request was about, as its handler knows it.
#[derive(Clone, Copy, Debug, Default)]
pub struct About {
    /// Topic and partition of the first item; zero if there is none.
    pub topic: TopicId,
    pub partition: i32,
    /// How many partitions there are.
    pub partitions: u32,
    /// Nanoseconds that a fetch asked to wait at most: waiting that long is not slow.
    pub may_wait: u64,
}

impl About {
    /// How long the request took of what it did not ask for itself: what the slowest are ranked by.
    pub fn lateness(&self, timeline: &Timeline) -> u64 {
        let waited = timeline.spent(Stage::Purgatory).min(self.may_wait);
        timeline.total().saturating_sub(waited)
    }
}

/// One of the slowest requests.
#[derive(Clone, Debug)]
pub struct SlowRequest {
    pub kind: Kind,
    pub timeline: Timeline,
    pub about: About,
    /// As the client sent it, cut off after [`MAX_CLIENT_ID_BYTES`].
    pub client_id: Box<str>,
    pub peer: SocketAddr,
    pub request_bytes: u64,
    pub response_bytes: u64,
}

/// Bytes of a client id that are kept.
pub const MAX_CLIENT_ID_BYTES: usize = 64;

/// A task that kept the core for too long.
#[derive(Clone, Copy, Debug)]
pub struct Stall {
    pub task: &'static str,
    /// When it gave the core back.
    pub at: Nanos,
    pub took: u64,
    /// The stage that took the longest of it, if one did.
    pub stage: Option<Stage>,
    /// The connection that the task served.
    pub peer: Option<SocketAddr>,
}

/// What the tasks of one name did.
#[derive(Clone, Debug)]
pub struct TaskTime {
    pub name: &'static str,
    pub turns: u64,
    pub busy: u64,
    pub longest: u64,
    /// Turns over a millisecond.
    pub stalls: u64,
}

/// All that one shard tells, at one moment.
#[derive(Clone, Debug)]
pub struct ShardProfile {
    pub shard: ShardId,
    /// The shard's thread, as the kernel numbers it.
    pub thread: i32,
    pub now: Nanos,
    /// Nanoseconds since the profiler began, or of the interval.
    pub age: u64,
    /// Nanoseconds that the thread had its core, and that it waited for it while another had it; 0 where the
    /// kernel does not say.
    pub on_core: u64,
    pub waited_for_core: u64,
    /// By [`Kind`], then [`Stage`].
    pub stages: Vec<Vec<Recorded>>,
    /// By [`Kind`].
    pub totals: Vec<Recorded>,
    /// By [`Gauged`].
    pub gauged: Vec<Recorded>,
    /// Bytes that were to be sent and were not in the page cache.
    pub cold_bytes: u64,
    pub tasks: Vec<TaskTime>,
    /// The latest first.
    pub stalls: Vec<Stall>,
    /// The slowest of the last minute, slowest first.
    pub slowest: Vec<SlowRequest>,
}

impl ShardProfile {
    /// What came after `earlier`, which the same shard told. The longest turn of a task stays what it was
    /// since the start.
    #[must_use]
    pub fn since(mut self, earlier: &ShardProfile) -> ShardProfile {
        for (ours, theirs) in self.recordings_mut().zip(earlier.recordings()) {
            *ours = ours.since(theirs);
        }
        for task in &mut self.tasks {
            if let Some(before) = earlier.tasks.iter().find(|t| t.name == task.name) {
                task.turns = task.turns.saturating_sub(before.turns);
                task.busy = task.busy.saturating_sub(before.busy);
                task.stalls = task.stalls.saturating_sub(before.stalls);
            }
        }
        self.age = self.now.since(earlier.now);
        self.on_core = self.on_core.saturating_sub(earlier.on_core);
        self.waited_for_core = self.waited_for_core.saturating_sub(earlier.waited_for_core);
        self.cold_bytes = self.cold_bytes.saturating_sub(earlier.cold_bytes);
        self.stalls.retain(|stall| stall.at > earlier.now);
        self.slowest.retain(|slow| slow.timeline.at() > earlier.now);
        self
    }

    /// Adds another shard's numbers; the stalls and the slowest stay those of this one.
    pub fn add(&mut self, other: &ShardProfile) {
        for (ours, theirs) in self.recordings_mut().zip(other.recordings()) {
            ours.add(theirs);
        }
        for task in &other.tasks {
            match self.tasks.iter_mut().find(|t| t.name == task.name) {
                Some(ours) => {
                    ours.turns += task.turns;
                    ours.busy += task.busy;
                    ours.stalls += task.stalls;
                    ours.longest = ours.longest.max(task.longest);
                }
                None => self.tasks.push(task.clone()),
            }
        }
        self.age = self.age.max(other.age);
        self.on_core += other.on_core;
        self.waited_for_core += other.waited_for_core;
        self.cold_bytes += other.cold_bytes;
    }

    fn recordings(&self) -> impl Iterator<Item = &Recorded> {
        let stages = self.stages.iter().flatten();
        stages.chain(&self.totals).chain(&self.gauged)
    }

    fn recordings_mut(&mut self) -> impl Iterator<Item = &mut Recorded> {
        let stages = self.stages.iter_mut().flatten();
        stages.chain(&mut self.totals).chain(&mut self.gauged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_add_up_to_the_total_whatever_the_clock_does() {
        let mut timeline = Timeline::begin(Nanos(100));
        timeline.mark(Stage::Receive, Nanos(150));
        timeline.mark(Stage::Queue, Nanos(140));
        timeline.mark(Stage::Read, Nanos(170));
        timeline.mark(Stage::Purgatory, Nanos(270));
        timeline.mark(Stage::Read, Nanos(275));
        let sum: u64 = Stage::ALL.iter().map(|&stage| timeline.spent(stage)).sum();
        assert_eq!((sum, timeline.total()), (175, 175));
        assert_eq!(timeline.spent(Stage::Read), 25);
        assert_eq!(timeline.spent(Stage::Queue), 0);
    }

    #[test]
    fn one_that_is_off_stays_empty() {
        let mut timeline = Timeline::OFF;
        timeline.mark(Stage::Send, Nanos(7));
        assert_eq!(timeline, Timeline::OFF);
    }

    #[test]
    fn a_request_over_shards_follows_the_one_that_answered_last() {
        let mut asked = Timeline::begin(Nanos(1));
        asked.mark(Stage::Post, Nanos(3));
        let (mut early, mut late) = (asked, asked);
        early.mark(Stage::Mailbox, Nanos(5));
        late.mark(Stage::Mailbox, Nanos(4));
        late.mark(Stage::Append, Nanos(9));
        for answers in [[early, late], [late, early]] {
            let mut merged = asked;
            answers.iter().for_each(|answer| merged.follow(answer));
            assert_eq!(merged, late);
        }
    }

    #[test]
    fn waiting_as_long_as_was_asked_for_is_not_late() {
        let about = About {
            may_wait: 500,
            ..About::default()
        };
        let mut timeline = Timeline::begin(Nanos(1));
        timeline.mark(Stage::Read, Nanos(11));
        timeline.mark(Stage::Purgatory, Nanos(561));
        assert_eq!(about.lateness(&timeline), 60);
    }

    #[test]
    fn each_kind_passes_its_stages_in_order() {
        for kind in Kind::ALL {
            assert!(kind.stages().is_sorted());
        }
    }
}
