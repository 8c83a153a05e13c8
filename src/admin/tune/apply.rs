//! Writes what the tuners ask for, and takes it back.
//!
//! 1. [`check`](super::check) says what is to be written; a dry run ends here.
//! 2. What is there now is written to the state file, which is synced.
//! 3. The files of the kernel are written, one after the other; a refusal does not stop the others.
//! 4. The tuners check again, and each file is read back.
//! 5. The state file keeps what was changed.
//!
//! [`revert`] goes the other way, last change first. A file that is neither as it was found nor as it was left has been
//! written by somebody else since: it is left alone unless forced. The kernel forgets all of it when the machine restarts, so
//! a state file of an earlier start is void.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Asked, Finding, Machine, Tuner, Verdict, check};
use crate::base::cpu_list;

/// Where the state file is unless another is named: on a file system that forgets when the kernel does.
pub const STATE_FILE: &str = "/run/ringspun-tune.json";

const SCHEMA: u32 = 1;

/// What was changed, on disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    schema: u32,
    /// Of the start of the kernel that was changed.
    boot_id: String,
    /// In the order in which they were made.
    changes: Vec<Kept>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    tuner: String,
    path: String,
    before: String,
    after: String,
}

/// One file, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub tuner: String,
    pub path: String,
    pub from: String,
    pub to: String,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It would be written.
    Planned,
    Done,
    /// The kernel did not take it: why.
    Refused(String),
    /// It was taken, and something else is there now.
    NotHeld(String),
    /// Written by somebody else since: what is there now.
    LeftAlone(String),
    /// What it belonged to is gone.
    Gone,
}

impl Written {
    /// Whether the one who asked has to be told that it went wrong. Some interrupts only the kernel may move, and
    /// which ones does not show before.
    pub fn failed(&self) -> bool {
        match &self.outcome {
            Outcome::Planned | Outcome::Done | Outcome::Gone => false,
            Outcome::Refused(_) => !self.path.starts_with("/proc/irq/"),
            Outcome::NotHeld(_) | Outcome::LeftAlone(_) => true,
        }
    }
}

/// What [`apply`] did.
pub struct Applied {
    pub written: Vec<Written>,
    /// What the tuners say afterwards; before, if nothing was written.
    pub findings: Vec<(&'static Tuner, Finding)>,
}

/// Writes what the tuners ask for; with `dry_run` only says what it would write.
pub fn apply(
    machine: &Machine,
    asked: &Asked,
    state_file: &Path,
    dry_run: bool,
) -> Result<Applied, String> {
    let findings = check(machine, asked);
    let mut written = Vec::new();
    let mut paths = BTreeSet::new();
    for (tuner, finding) in &findings {
        let Verdict::Change(changes) = &finding.verdict else {
            continue;
        };
        // Two cards may ask for the same table.
        for change in changes
            .iter()
            .filter(|change| paths.insert(change.path.clone()))
        {
            let from = machine.value(&change.path);
            let from = from.ok_or_else(|| format!("{} cannot be read", change.path))?;
            written.push(Written {
                tuner: tuner.name.into(),
                path: change.path.clone(),
                from,
                to: change.to.clone(),
                outcome: Outcome::Planned,
            });
        }
    }
    if dry_run || written.is_empty() {
        return Ok(Applied { written, findings });
    }
    let boot_id = machine.boot_id();
    let mut state = read_state(state_file)?
        .filter(|state| state.boot_id == boot_id)
        .unwrap_or_default();
    (state.schema, state.boot_id) = (SCHEMA, boot_id);
    let already = state.clone();
    for one in &written {
        keep(&mut state, one);
    }
    write_state(state_file, &state)?;
    for one in &mut written {
        one.outcome = match machine.write(&one.path, &one.to) {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Refused(error.to_string()),
        };
    }
    let mut kept = already;
    for one in &mut written {
        if one.outcome == Outcome::Done {
            keep(&mut kept, one);
            let now = machine.value(&one.path).unwrap_or_default();
            if !same(&one.path, &now, &one.to) {
                one.outcome = Outcome::NotHeld(now);
            }
        }
    }
    write_state(state_file, &kept)?;
    let findings = check(machine, asked);
    Ok(Applied { written, findings })
}

/// Notes a change. What was there before the first of several counts.
fn keep(state: &mut State, one: &Written) {
    match state.changes.iter_mut().find(|kept| kept.path == one.path) {
        Some(kept) => kept.after = one.to.clone(),
        None => state.changes.push(Kept {
            tuner: one.tuner.clone(),
            path: one.path.clone(),
            before: one.from.clone(),
            after: one.to.clone(),
        }),
    }
}

/// Whether two texts are the same in this file: a mask `3` is read back as `00000000,00000003`.
fn same(path: &str, a: &str, b: &str) -> bool {
    let (a, b) = (a.trim(), b.trim());
    let as_masks = || Some(cpu_list::parse_mask(a)? == cpu_list::parse_mask(b)?);
    let is_mask = path.ends_with("_cpus");
    a == b || (is_mask && as_masks().unwrap_or(false))
}

/// Puts back what was there before. `None`: nothing was changed since the machine started.
pub fn revert(
    machine: &Machine,
    state_file: &Path,
    dry_run: bool,
    force: bool,
) -> Result<Option<Vec<Written>>, String> {
    let Some(mut state) = read_state(state_file)? else {
        return Ok(None);
    };
    if state.boot_id != machine.boot_id() {
        if !dry_run {
            remove(state_file)?;
        }
        return Ok(None);
    }
    let mut written = Vec::new();
    let mut remaining = Vec::new();
    for kept in state.changes.drain(..).rev() {
        let outcome = match machine.value(&kept.path) {
            None => Outcome::Gone,
            Some(now) if same(&kept.path, &now, &kept.before) => Outcome::Done,
            Some(now) if !same(&kept.path, &now, &kept.after) && !force => Outcome::LeftAlone(now),
            Some(_) if dry_run => Outcome::Planned,
            Some(_) => match machine.write(&kept.path, &kept.before) {
                Ok(()) => match machine.value(&kept.path).unwrap_or_default() {
                    now if same(&kept.path, &now, &kept.before) => Outcome::Done,
                    now => Outcome::NotHeld(now),
                },
                Err(error) => Outcome::Refused(error.to_string()),
            },
        };
        if !matches!(outcome, Outcome::Done | Outcome::Gone) {
            remaining.push(kept.clone());
        }
        written.push(Written {
            tuner: kept.tuner,
            path: kept.path,
            from: kept.after,
            to: kept.before,
            outcome,
        });
    }
    if !dry_run {
        remaining.reverse();
        state.changes = remaining;
        match state.changes.is_empty() {
            true => remove(state_file)?,
            false => write_state(state_file, &state)?,
        }
    }
    Ok(Some(written))
}

fn read_state(file: &Path) -> Result<Option<State>, String> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{} cannot be read: {error}", file.display())),
    };
    let bad = |why: String| {
        format!(
            "{} is no state file of `ringspun tune` ({why}); move it away, or name another with --state",
            file.display()
        )
    };
    let state: State = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    match state.schema {
        SCHEMA => Ok(Some(state)),
        other => Err(bad(format!("schema {other}"))),
    }
}

/// Writes it so that a crash leaves the old one or the new one.
fn write_state(file: &Path, state: &State) -> Result<(), String> {
    let temporary = file.with_extension("json.tmp");
    let write = || -> io::Result<()> {
        let mut out = File::create(&temporary)?;
        out.write_all(&serde_json::to_vec_pretty(state)?)?;
        out.sync_all()?;
        fs::rename(&temporary, file)?;
        let folder = file
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        format!("{} cannot be written, so nothing more is changed: {error}; run as root, or name another file with --state", file.display())
    })
}

fn remove(file: &Path) -> Result<(), String> {
    fs::remove_file(file).map_err(|error| format!("{} cannot be removed: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_compared_as_the_kernel_prints_them() {
        let (mask, other) = ("/q/rps_cpus", "/proc/irq/1/smp_affinity_list");
        assert!(same(mask, "00000000,00000003", "3"));
        assert!(!same(mask, "10", "1"));
        assert!(same(other, "none\n", "none"));
        assert!(!same(other, "0,2", "2"));
    }
}
