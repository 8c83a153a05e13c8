//! `ringspun tune`: the machine beneath the broker: what of it is in the way, and how to change that and back.
//!
//! A [`Tuner`] looks at one thing and gives [`Finding`]s: each says what was found, what is wanted, and what
//! follows ([`Verdict`]). Tuners only read. What can be put right by writing files of the kernel is written by
//! [`apply`] and taken back by [`apply::revert`]; nothing is written by anything else. What needs more (a boot parameter,
//! a mount option, another unit file) is said.
//!
//! 1. Every path goes through [`Machine`], which has a root, so that tests look at made-up trees.
//! 2. In a container the machine's settings belong to its host: they are not judged, and never written.
//! 3. What was there before a change is on disk before the change is made.
//! 4. A tuner asks for nothing that weakens durability: the write cache of a disk is looked at, never set.
//!
//! [`probe`] measures the disk under a directory and the loopback.

pub mod apply;
pub mod command;
mod cpus;
mod disks;
mod limits;
mod machine;
mod memory;
mod network;
mod probe;
mod report;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use machine::Machine;

use crate::base::cpu_list;
use crate::base::settings::{CoreList, NodeSettings};

/// One thing of the machine that is looked at.
pub struct Tuner {
    pub name: &'static str,
    /// Why it matters to a broker of pinned shards.
    pub reason: &'static str,
    /// What was measured of it, and on what.
    pub measured: Option<&'static str>,
    pub scope: Scope,
    look: fn(&Machine, &Asked) -> Vec<Finding>,
}

/// Whose a setting is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The kernel's: one for all who run on it.
    Machine,
    /// The process's or its container's.
    Process,
}

/// All of them, in the order of the report.
pub fn tuners() -> impl Iterator<Item = &'static Tuner> {
    [
        limits::TUNERS,
        cpus::TUNERS,
        network::TUNERS,
        memory::TUNERS,
        disks::TUNERS,
    ]
    .into_iter()
    .flatten()
}

/// What the broker on this machine is meant to run with.
#[derive(Clone, Debug)]
pub struct Asked {
    /// CPUs that run shards, ascending.
    pub shard_cpus: Vec<usize>,
    /// Whether each CPU that the process may use runs a shard.
    pub every_cpu: bool,
    /// Absolute.
    pub log_dirs: Vec<PathBuf>,
    /// Whether clients can only come from this machine.
    pub loopback_only: bool,
}

impl Asked {
    pub fn new(settings: &NodeSettings, machine: &Machine) -> Self {
        let shard_cpus: Vec<usize> = match &settings.cores {
            CoreList::All => machine.allowed_cpus.clone(),
            CoreList::Count(count) => {
                let first = machine.allowed_cpus.iter().take(usize::from(*count));
                first.copied().collect()
            }
            CoreList::These(cpus) => cpus.iter().map(|&cpu| usize::from(cpu)).collect(),
        };
        let is_loopback = |host: &str| {
            host == "localhost"
                || (host.parse::<std::net::IpAddr>()).is_ok_and(|ip| ip.is_loopback())
        };
        let mut listeners = settings.listeners.iter();
        Self {
            every_cpu: machine.cpus.iter().all(|cpu| shard_cpus.contains(cpu)),
            shard_cpus,
            log_dirs: settings.log_dirs.clone(),
            loopback_only: listeners.all(|listener| is_loopback(&listener.bind.host)),
        }
    }

    /// CPUs of the machine that run no shard.
    fn other_cpus(&self, machine: &Machine) -> Vec<usize> {
        let cpus = machine.cpus.iter();
        cpus.filter(|cpu| !self.shard_cpus.contains(cpu))
            .copied()
            .collect()
    }

    fn shard_list(&self) -> String {
        cpu_list::format(&self.shard_cpus)
    }
}

/// What a tuner found about one subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which of several: a disk, a network card, a directory; empty where there is one.
    pub subject: String,
    pub found: String,
    /// Empty where nothing is.
    pub wanted: String,
    pub verdict: Verdict,
}

/// What follows from a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// Writing these makes it good.
    Change(Vec<Change>),
    /// What to do by hand.
    Advice(String),
    /// Why it does not apply here.
    NotHere(String),
    /// The machine does not say.
    Unknown,
}

/// A file of the kernel, and what is to be in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// As it is on a machine, without the root of a made-up tree.
    pub path: String,
    pub to: String,
}

impl Finding {
    fn new(
        subject: impl Into<String>,
        found: impl Into<String>,
        wanted: impl Into<String>,
        verdict: Verdict,
    ) -> Self {
        Self {
            subject: subject.into(),
            found: found.into(),
            wanted: wanted.into(),
            verdict,
        }
    }

    fn good(subject: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(subject, found, "", Verdict::Good)
    }

    fn not_here(why: impl Into<String>) -> Vec<Self> {
        vec![Self::new("", "", "", Verdict::NotHere(why.into()))]
    }

    fn unknown(what: impl Into<String>) -> Vec<Self> {
        vec![Self::new("", what, "", Verdict::Unknown)]
    }
}

impl Verdict {
    /// Its word in reports.
    pub fn word(&self) -> &'static str {
        match self {
            Verdict::Good => "good",
            Verdict::Change(_) => "change",
            Verdict::Advice(_) => "advice",
            Verdict::NotHere(_) => "not here",
            Verdict::Unknown => "unknown",
        }
    }

    fn write(path: impl Into<String>, to: impl Into<String>) -> Self {
        Verdict::Change(vec![Change {
            path: path.into(),
            to: to.into(),
        }])
    }
}

/// Everything that is to be said about the machine.
pub fn check(machine: &Machine, asked: &Asked) -> Vec<(&'static Tuner, Finding)> {
    let mut found = Vec::new();
    for tuner in tuners() {
        let mut findings = (tuner.look)(machine, asked);
        if let (Scope::Machine, Some(container)) = (tuner.scope, &machine.container) {
            for finding in &mut findings {
                if matches!(finding.verdict, Verdict::Change(_) | Verdict::Advice(_)) {
                    finding.verdict = Verdict::NotHere(format!(
                        "in a container ({container}) this is the host's: check and apply there"
                    ));
                }
            }
        }
        found.extend(findings.into_iter().map(|finding| (tuner, finding)));
    }
    found
}
