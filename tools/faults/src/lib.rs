//! Random workloads on ringspun's log over a disk in memory that fails, is cut off and lies.
//!
//! A seed chooses the settings of two logs, what they are asked for, when the disk fails, when the process is
//! killed and when the power goes, what of the unsynced bytes and names survives, and all of that again while
//! the process starts. After every start, and now and then between, each log is held against what its clients
//! were told ([`check`] has the rules). A seed replays exactly.
//!
//! ```text
//! world     the process: how it starts, stops and is cut off
//! workload  what it is asked for
//! beside    the same, all at once
//! readers   who reads and searches meanwhile
//! ending    how a log is cut and the process stops meanwhile
//! folder    how a log gets another name, or goes
//! history   what a log was told to hold
//! check     holds a log against its history
//! switch    syncs that are left out on purpose, to show that it is noticed
//! ```

mod beside;
mod check;
mod ending;
mod folder;
mod history;
mod readers;
mod reading;
mod switch;
mod workload;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use switch::Switch;
use world::{Stop, World};

/// Operations of one seed.
pub const OPERATIONS: u32 = 40;

/// How a seed is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// A sync to leave out.
    pub switch: Option<Switch>,
    /// Have what happens told.
    pub traces: bool,
}

/// What a seed went through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    /// Starts after a kill or a power cut.
    pub crashes: u64,
    /// Calls to the last of its disks.
    pub calls: u64,
    /// Syncs that were left out of that.
    pub lies: u64,
}

/// A seed that showed something wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub what: String,
    /// One line for each operation, after the number of calls to the disk; empty unless asked for.
    pub trace: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        write!(
            f,
            "seed {}: {}\nto replay: cargo run -p ringspun-faults -- --seed {}",
            self.seed, self.what, self.seed
        )
    }
}

/// Runs a seed. A panic counts as a failure where panics unwind.
pub fn simulate(seed: u64, options: Options) -> Result<Passed, Failure> {
    let mut world = World::new(seed, options.switch, options.traces);
    let played = catch_unwind(AssertUnwindSafe(|| workload::play(&mut world, OPERATIONS)));
    let what = match played {
        Ok(Ok(())) => {
            return Ok(Passed {
                crashes: world.crashes,
                calls: world.disk.calls(ringspun::storage::memory::Call::Any),
                lies: world.disk.lies_told(),
            });
        }
        Ok(Err(Stop::Bug(what))) => what,
        Ok(Err(Stop::Off)) => "the power went, and nobody crashed".into(),
        Err(panic) => match panic.downcast_ref::<String>() {
            Some(text) => format!("panic: {text}"),
            None => match panic.downcast_ref::<&str>() {
                Some(text) => format!("panic: {text}"),
                None => "panic".into(),
            },
        },
    };
    let mut trace = world.trace.take().unwrap_or_default();
    if options.traces {
        trace.extend(reading::files(&world.disk));
    }
    Err(Failure { seed, what, trace })
}
