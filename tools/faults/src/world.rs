//! A process with two logs on one disk: how it starts, stops and is cut off.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use ringspun::base::settings::{CleanupPolicy, LogIo, LogSettings, NodeSettings};
use ringspun::base::{Offset, PartitionIndex, Timestamp, TopicId};
use ringspun::storage::checkpoint::{
    CLEANER_OFFSET_CHECKPOINT, LOG_START_OFFSET_CHECKPOINT, RECOVERY_POINT_CHECKPOINT,
    decode_offsets,
};
use ringspun::storage::log_dir::{self, DataDir, FoundPartition};
use ringspun::storage::memory::{Call, Crash, Fault};
use ringspun::storage::{
    DirectLimits, Disk, Log, LogDisk, LogError, MemoryDisk, OpenOptions, OpenReport,
};

use crate::check::check;
use crate::history::{After, History, PRODUCER_EXPIRATION_MS};
use crate::reading::check_indexes;
use crate::switch::{Phase, Switch};

/// Polls until it is done: nothing here waits for anything but itself.
pub fn run<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1_000_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("waits for something that does not come");
}

/// A log on a disk in memory, through its page cache or past it.
pub type TestLog = Log<LogDisk<MemoryDisk>>;

/// What a checkpoint says of a log.
type Value = fn(&TestLog) -> Option<Offset>;

/// The checkpoints of a data directory, in the order in which they are written.
pub const CHECKPOINTS: [(&str, Value); 3] = [
    (RECOVERY_POINT_CHECKPOINT, |log| {
        Some(log.recovery_checkpoint())
    }),
    (LOG_START_OFFSET_CHECKPOINT, |log| {
        Some(log.log_start_offset())
    }),
    (CLEANER_OFFSET_CHECKPOINT, |log| log.cleaned_to()),
];

/// Why an operation was not finished.
#[derive(Debug)]
pub enum Stop {
    /// The power is off.
    Off,
    /// The log did what it must not.
    Bug(String),
}

impl From<String> for Stop {
    fn from(what: String) -> Self {
        Self::Bug(what)
    }
}

/// What the next start may find of a log's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It has this name: the first or the second.
    At(usize),
    /// It is given the other one.
    From(usize),
    /// It is deleted: all of the log is there, or nothing.
    Deleting,
    /// It is gone, and does not come back.
    Deleted,
}

/// One log with its history.
pub struct Side {
    pub topic: &'static str,
    pub place: Place,
    pub settings: LogSettings,
    /// `None` while the process is down.
    pub log: Option<Rc<TestLog>>,
    pub history: History,
}

impl Side {
    pub fn log(&self) -> Rc<TestLog> {
        self.log.clone().expect("the process is up")
    }

    pub fn is_offline(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.failure().is_some())
    }

    /// What a consumer may be shown.
    pub fn high_watermark(&self) -> Offset {
        match self.settings.flush_messages {
            1 => Offset(self.history.flushed),
            _ => Offset(self.history.end),
        }
    }

    /// The names that the folder has in turns.
    pub fn dirs(&self) -> [PathBuf; 2] {
        let names = [
            format!("{}-0", self.topic),
            format!("{}.moved-0", self.topic),
        ];
        names.map(|name| Path::new(DATA).join(name))
    }

    /// Takes note of where the log was `found`; false if it is to be made.
    fn find(&mut self, found: &[&FoundPartition]) -> Result<bool, String> {
        let dirs = self.dirs();
        let place = match found {
            [] => None,
            [it] => dirs.iter().position(|dir| *dir == it.dir),
            _ => return Err(format!("{} has two folders: {found:?}", self.topic)),
        };
        let was = self.place;
        match (was, place) {
            (Place::At(expected), Some(place)) if place != expected => Err(format!(
                "{} was given the name {:?} and is found at {:?}",
                self.topic, dirs[expected], dirs[place]
            )),
            (Place::Deleted, Some(_)) => Err(format!("{} is back though deleted", self.topic)),
            (_, Some(place)) => {
                self.place = Place::At(place);
                Ok(true)
            }
            (Place::Deleting | Place::Deleted, None) => {
                self.place = Place::Deleted;
                Ok(false)
            }
            (Place::At(_) | Place::From(_), None) => {
                self.place = Place::At(0);
                Ok(false)
            }
        }
    }
}

pub const DATA: &str = "/data";
const TOPIC_ID: TopicId = TopicId(7);

/// The process, its disk, and what is known of both.
pub struct World {
    pub disk: MemoryDisk,
    /// The same, as the process that runs has it.
    logs: LogDisk<MemoryDisk>,
    pub sides: [Side; 2],
    pub rng: fastrand::Rng,
    pub now: i64,
    /// A call to the disk was told to fail, and may have.
    pub is_faulty: bool,
    pub next_value: u32,
    pub leader_epoch: i32,
    pub crashes: u64,
    switch: Option<Switch>,
    phase: Phase,
    /// Decides when somebody removes checkpoints; apart from the rest, so that older seeds keep most of what they do.
    removals: fastrand::Rng,
    /// That of recovery points was removed, and nothing was written since.
    is_checkpoint_removed: bool,
    /// What happened, for whoever replays a seed.
    pub trace: Option<Vec<String>>,
}

fn settings(rng: &mut fastrand::Rng) -> LogSettings {
    let mut settings = NodeSettings::defaults().log_defaults.clone();
    settings.segment_bytes = rng.u32(500..1800);
    settings.index_interval_bytes = rng.u32(50..400);
    settings.segment_ms = 7 * 24 * 3600 * 1000;
    settings.segment_jitter_ms = 0;
    settings.retention_ms = -1;
    settings.retention_bytes = -1;
    let compact = rng.bool();
    settings.cleanup_policy = CleanupPolicy {
        compact,
        delete: !compact || rng.u8(0..4) == 0,
    };
    settings.delete_retention_ms = rng.u64(0..3000);
    settings.min_cleanable_dirty_ratio = 0.0;
    if rng.u8(0..3) == 0 {
        settings.flush_messages = 1;
    }
    if rng.u8(0..3) == 0 {
        settings.log_io = LogIo::Direct;
    }
    settings
}

impl World {
    /// A disk without logs.
    pub fn new(seed: u64, switch: Option<Switch>, traces: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = MemoryDisk::new();
        run(disk.create_dir(Path::new(DATA))).expect("a new disk");
        run(disk.sync_dir(Path::new(DATA))).expect("a new disk");
        let side = |topic, rng: &mut fastrand::Rng| {
            let settings = settings(rng);
            Side {
                topic,
                place: Place::At(0),
                log: None,
                history: History {
                    is_compacted: settings.cleanup_policy.compact,
                    delete_retention_ms: settings.delete_retention_ms as i64,
                    ..History::default()
                },
                settings,
            }
        };
        Self {
            logs: LogDisk::new(disk.clone(), DirectLimits::default()),
            disk,
            sides: [side("topic", &mut rng), side("other", &mut rng)],
            rng,
            now: 1_700_000_000_000,
            is_faulty: false,
            next_value: 0,
            leader_epoch: 0,
            crashes: 0,
            switch,
            phase: Phase::Other,
            removals: fastrand::Rng::with_seed(!seed),
            is_checkpoint_removed: false,
            trace: traces.then(Vec::new),
        }
    }

    pub fn tell(&mut self, what: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>6} {}", self.disk.calls(Call::Any), what(self));
            self.trace
                .iter_mut()
                .for_each(|trace| trace.push(line.clone()));
        }
    }

    /// What is done from now on, until it is left again. Returns what was done before.
    pub fn enter(&mut self, phase: Phase) -> Phase {
        let before = std::mem::replace(&mut self.phase, phase);
        let lie = self.switch.filter(|switch| switch.phase() == Some(phase));
        self.disk.lie(lie.and_then(Switch::lie));
        before
    }

    /// Whether this build leaves out that step.
    pub fn leaves_out(&self, step: Switch) -> bool {
        self.switch == Some(step)
    }

    /// An error that is to be expected is `None`.
    pub fn settle<T, E: std::fmt::Display>(&self, result: Result<T, E>) -> Result<Option<T>, Stop> {
        match result {
            _ if self.disk.is_off() => Err(Stop::Off),
            Ok(done) => Ok(Some(done)),
            Err(_) if self.is_faulty => Ok(None),
            Err(error) => Err(Stop::Bug(format!("without a fault: {error}"))),
        }
    }

    /// Starts the process: the logs are made, or opened and held against their histories.
    pub fn start(&mut self, after: After) -> Result<(), Stop> {
        let data = Path::new(DATA);
        self.logs = LogDisk::new(self.disk.clone(), DirectLimits::default());
        self.enter(Phase::Start);
        let is_clean = self.settle(run(log_dir::take_clean_shutdown_mark(&self.disk, data)))?;
        self.enter(Phase::Open);
        let Some(is_clean) = is_clean else {
            return Ok(());
        };
        let Some(found) = self.settle(run(log_dir::scan(&self.disk, data)))? else {
            return Ok(());
        };
        if !found.bad_checkpoints.is_empty() {
            return match self.is_faulty {
                // They count as empty: the next start reads them.
                true => Ok(()),
                false => Err(Stop::Bug(format!("{:?}", found.bad_checkpoints))),
            };
        }
        let path = data.join(CLEANER_OFFSET_CHECKPOINT);
        let cleaned = match run(self.disk.read_file(&path, 1 << 20)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Ok(()),
            read => read.unwrap_or_default(),
        };
        let cleaned = decode_offsets(&cleaned).map_err(|error| error.to_string())?;
        let mut has_recovered = false;
        let has_checkpoint = self.has_checkpoint();
        for i in 0..2 {
            let topic = self.sides[i].topic;
            let of = |offsets| DataDir::offset_of(offsets, topic, PartitionIndex(0));
            let options = OpenOptions {
                is_clean,
                recovery_point: of(&found.recovery_points).unwrap_or(Offset(0)),
                log_start_offset: of(&found.log_start_offsets),
                cleaned_to: of(&cleaned),
                has_checkpoint,
                producer_expiration_ms: PRODUCER_EXPIRATION_MS,
                allocation: None,
                now: Timestamp(self.now),
            };
            let dirs = self.sides[i].dirs();
            let folders = found.partitions.iter().filter(|p| dirs.contains(&p.dir));
            let folders: Vec<&FoundPartition> = folders.collect();
            let is_there = self.sides[i].find(&folders)?;
            let folder = folders.first().copied();
            if let Some(folder) = folder.filter(|f| f.topic_id != Some(TOPIC_ID)) {
                if self.is_faulty {
                    return Ok(());
                }
                if self.sides[i].history.has_metadata {
                    let what = format!("{topic} has lost its partition.metadata: {folder:?}");
                    return Err(Stop::Bug(what));
                }
                let dir = folder.dir.clone();
                let written = log_dir::write_partition_metadata(&self.disk, &dir, TOPIC_ID);
                self.settle(run(written))?;
                self.sides[i].history.has_metadata = true;
            }
            self.tell(|_| format!("open {topic} {options:?}"));
            if is_there {
                let dir = Arc::from(folders[0].dir.clone());
                has_recovered |= self.open(i, dir, options, is_clean, after)?;
            } else if self.sides[i].place != Place::Deleted {
                self.create(i, options)?;
            }
        }
        for path in &found.deleted {
            if self.settle(run(self.disk.remove_dir_all(path)))?.is_none() {
                return Ok(());
            }
        }
        if self.has_to_make_anew() {
            self.make_anew()?;
        }
        self.enter(Phase::Other);
        if self.sides.iter().any(|side| side.log.is_none()) {
            return Ok(());
        }
        if has_recovered || !has_checkpoint {
            // As the broker does before it lets anybody append.
            if !self.write_checkpoints()? {
                return Ok(());
            }
            self.is_checkpoint_removed = false;
            self.tell(|_| "checkpoints after a recovery".into());
        }
        for side in &mut self.sides {
            if let Some(log) = &side.log {
                side.history.flushed = side.history.end;
                log.on_high_watermark(side.high_watermark());
            }
        }
        Ok(())
    }

    /// Whether the data directory has a checkpoint of recovery points, or never had one: the broker writes the first before
    /// it makes a log.
    fn has_checkpoint(&self) -> bool {
        let path = Path::new(DATA).join(RECOVERY_POINT_CHECKPOINT);
        !self.is_checkpoint_removed || run(self.disk.read_file(&path, 1 << 20)).is_ok()
    }

    /// Somebody removes the checkpoint of recovery points, and maybe that of the cleaner, as where a data directory is put
    /// together from copies.
    fn remove_checkpoints(&mut self) {
        let names = [RECOVERY_POINT_CHECKPOINT, CLEANER_OFFSET_CHECKPOINT];
        let data = Path::new(DATA);
        for name in &names[..self.removals.usize(1..=2)] {
            if run(self.disk.remove_file(&data.join(name))).is_ok() {
                self.is_checkpoint_removed = true;
                self.tell(|_| format!("{name} is removed"));
            }
        }
        run(self.disk.sync_dir(data)).expect("a disk without a fault");
    }

    /// Whether there is a deleted log, and the others are open.
    fn has_to_make_anew(&self) -> bool {
        let is_deleted = |side: &Side| side.place == Place::Deleted;
        let are_open = |side: &Side| side.log.is_some() || is_deleted(side);
        self.sides.iter().any(is_deleted) && self.sides.iter().all(are_open)
    }

    /// Makes logs of the names of those that were deleted, once no checkpoint speaks of them any more: what it said would
    /// be taken for the new one's.
    pub fn make_anew(&mut self) -> Result<(), Stop> {
        if !self.leaves_out(Switch::DeletedCheckpoint) && !self.write_checkpoints()? {
            return Ok(());
        }
        for i in 0..2 {
            if self.sides[i].place != Place::Deleted {
                continue;
            }
            self.tell(|world| format!("{} is made anew", world.sides[i].topic));
            let side = &mut self.sides[i];
            side.place = Place::At(0);
            let history = &mut side.history;
            (history.start_ever, history.start_floor) = (0, 0);
            history.begin_at(0);
            let options = OpenOptions {
                is_clean: false,
                recovery_point: Offset(0),
                log_start_offset: None,
                cleaned_to: None,
                has_checkpoint: true,
                producer_expiration_ms: PRODUCER_EXPIRATION_MS,
                allocation: None,
                now: Timestamp(self.now),
            };
            self.create(i, options)?;
        }
        Ok(())
    }

    fn create(&mut self, i: usize, options: OpenOptions) -> Result<(), Stop> {
        let side = &mut self.sides[i];
        let start = options.log_start_offset.unwrap_or(Offset(0));
        let history = &mut side.history;
        if history.flushed > history.start_floor && history.flushed > 0 {
            let what = format!("{} is gone, flushed to {}", side.topic, history.flushed);
            return Err(Stop::Bug(what));
        }
        let log = run(Log::create(
            self.logs.clone(),
            Arc::from(side.dirs()[0].clone()),
            Arc::new(side.settings.clone()),
            TOPIC_ID,
            start,
            options,
        ));
        let log = self.settle(log)?;
        let side = &mut self.sides[i];
        side.history.begin_at(start.0);
        side.log = log.map(Rc::new);
        Ok(())
    }

    /// Opens a log and holds it against its history. Returns whether it was recovered.
    fn open(
        &mut self,
        i: usize,
        dir: Arc<Path>,
        options: OpenOptions,
        is_clean: bool,
        after: After,
    ) -> Result<bool, Stop> {
        let settings = Arc::new(self.sides[i].settings.clone());
        let opened = run(Log::open(self.logs.clone(), dir.clone(), settings, options));
        let Some((log, report)) = self.settle(opened)? else {
            return Ok(false);
        };
        if self.is_faulty {
            self.disk.clear_fault();
        }
        let max_bytes = self.rng.u32(1..2000);
        let side = &mut self.sides[i];
        let name = |what: String| Stop::Bug(format!("{} after {after:?}: {what}", side.topic));
        let is_first_look = side.history.end > side.history.start || !side.history.maybe.is_empty();
        if after == After::Running && is_clean && report != OpenReport::default() && is_first_look {
            return Err(name(format!("{report:?} after a clean stop")));
        }
        if let Some(damage) = &report.damage {
            // Below the start lies what had been removed, and came back with the names.
            let history = &side.history;
            let is_of_nobody = |at: i64| at >= history.flushed || at < history.start;
            let may_be =
                after == After::Power && is_of_nobody(damage.offset.0) || history.is_truncating;
            if !may_be {
                return Err(name(format!("{damage:?}")));
            }
        }
        // What a client reads now is as it was when it was told.
        check(&log, &mut side.history, after, self.now, max_bytes).map_err(name)?;
        check_indexes(&self.disk, &dir).map_err(name)?;
        side.log = Some(Rc::new(log));
        Ok(report.recovered_segments > 0)
    }

    /// The process stops at once; what it left on its disk is opened.
    pub fn crash(&mut self, first: Crash) -> Result<(), Stop> {
        let mut after = After::Kill;
        let mut crash = first;
        self.is_faulty = false;
        loop {
            self.crashes += 1;
            self.tell(|_| format!("{crash:?}"));
            for side in &mut self.sides {
                side.log = None;
            }
            if matches!(crash, Crash::Power { .. }) {
                after = After::Power;
            }
            self.disk = self.disk.crash(crash);
            self.disk.set_time(Timestamp(self.now));
            if after == After::Kill && self.removals.u8(0..16) == 0 {
                self.remove_checkpoints();
            }
            // It may be cut off, or fail to read, again while it starts.
            match self.rng.u8(0..12) {
                0..3 => {
                    let at = self.disk.calls(Call::Any) + self.rng.u64(1..30);
                    self.tell(|_| format!("the power goes at {at}"));
                    self.disk.set_fault(Call::Any, at, Fault::PowerOff);
                }
                3 => {
                    let at = self.disk.calls(Call::Read) + self.rng.u64(1..40);
                    self.tell(|_| format!("read {at} fails"));
                    self.disk.set_fault(Call::Read, at, Fault::Io);
                    self.is_faulty = true;
                }
                _ => {}
            }
            let started = self.start(after);
            self.disk.clear_fault();
            match started {
                Ok(()) if self.sides.iter().all(|side| side.log.is_some()) => {
                    self.is_faulty = false;
                    return Ok(());
                }
                // A log that cannot be read stays offline until the next start.
                Ok(()) => crash = Crash::Kill,
                Err(Stop::Off) => crash = self.any_crash(),
                Err(bug) => return Err(bug),
            }
            self.is_faulty = false;
        }
    }

    pub fn any_crash(&mut self) -> Crash {
        match self.rng.bool() {
            true => Crash::Kill,
            false => Crash::Power {
                seed: self.rng.u64(..),
            },
        }
    }

    /// Stops the process in order, as far as the disk lets it.
    pub fn stop(&mut self) -> Result<(), Stop> {
        self.enter(Phase::Stop);
        let mut is_clean = true;
        for i in 0..2 {
            let log = self.sides[i].log();
            let closed = run(log.close(Timestamp(self.now)));
            if self.sides[i].is_offline() {
                is_clean = false;
                continue;
            }
            match self.settle(closed)? {
                Some(()) => {
                    let history = &mut self.sides[i].history;
                    history.acknowledge();
                    history.flushed_to(i64::MAX, true);
                }
                None => is_clean = false,
            }
        }
        is_clean &= self.write_checkpoints()?;
        if is_clean {
            let mark = run(log_dir::write_clean_shutdown_mark(
                &self.disk,
                Path::new(DATA),
                -1,
            ));
            self.settle(mark)?;
        }
        self.enter(Phase::Other);
        Ok(())
    }

    /// What a checkpoint has to say of the logs that are open.
    pub fn entries(&self, value: Value) -> Vec<(&'static str, PartitionIndex, Offset)> {
        let entries = self.sides.iter().filter_map(|side| {
            let offset = value(side.log.as_ref()?)?;
            Some((side.topic, PartitionIndex(0), offset))
        });
        entries.collect()
    }

    /// Writes the checkpoints of the data directory. False if a fault kept it from that.
    pub fn write_checkpoints(&mut self) -> Result<bool, Stop> {
        let phase = self.enter(Phase::Checkpoint);
        for (name, value) in CHECKPOINTS {
            let entries = self.entries(value);
            let written: Result<(), LogError> = run(log_dir::write_offsets(
                &self.disk,
                Path::new(DATA),
                name,
                entries,
            ));
            if self.settle(written)?.is_none() {
                self.enter(phase);
                return Ok(false);
            }
            if name == LOG_START_OFFSET_CHECKPOINT {
                for side in &mut self.sides {
                    let start = side.log.as_ref().map(|log| log.log_start_offset().0);
                    side.history.start_floor = start.unwrap_or(0);
                }
            }
        }
        self.enter(phase);
        Ok(true)
    }
}
