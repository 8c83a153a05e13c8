//! The command line of `ringspun tune`.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::apply::{self, STATE_FILE};
use super::report::{self, Report};
use super::{Asked, Machine, check, probe};
use crate::base::settings::NodeSettings;

/// Look at the machine beneath the broker, tune it, and take that back.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  ringspun tune check --config server.properties
  ringspun tune check --pid $(pidof ringspun)      with the limits of a running broker
  ringspun tune apply --dry-run                    what would be written
  ringspun tune apply                              as root; noted in /run/ringspun-tune.json
  ringspun tune revert                             what was there before
  ringspun tune probe /var/lib/ringspun            how fast are disk and loopback, and what fits")]
pub struct TuneArguments {
    #[command(subcommand)]
    command: TuneCommand,
}

#[derive(Subcommand, Debug)]
enum TuneCommand {
    /// Say what of the machine is in the way; change nothing. Exit code 1 if there is something
    Check(#[command(flatten)] LookArguments),
    /// Write what can be put right by writing files of the kernel; holds until the machine restarts
    Apply {
        #[command(flatten)]
        look: LookArguments,
        #[command(flatten)]
        state: StateArguments,
    },
    /// Put back what was there before `apply`
    Revert {
        #[command(flatten)]
        state: StateArguments,
        /// Also where somebody else has written since
        #[arg(long)]
        force: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[arg(long, value_name = "DIR", hide = true)]
        root: Option<PathBuf>,
    },
    /// Measure the disk under DIR (at most 256 MiB, 20 s; leaves nothing behind) and the loopback
    Probe {
        /// A directory on the disk, as it would be in log.dirs
        dir: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args, Debug)]
struct LookArguments {
    /// Settings of the broker, in the format of Kafka's server.properties
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, over the file and the environment; may be repeated
    #[arg(short = 'o', value_name = "KEY=VALUE")]
    option: Vec<String>,
    /// Judge the limits of this process, not those of this shell
    #[arg(long)]
    pid: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Give reasons for what is good, too
    #[arg(long)]
    explain: bool,
    /// The machine whose files are below DIR
    #[arg(long, value_name = "DIR", hide = true)]
    root: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct StateArguments {
    /// Only say what would be written
    #[arg(long)]
    dry_run: bool,
    /// Where it is noted what was there before
    #[arg(long, value_name = "FILE", default_value = STATE_FILE)]
    state: PathBuf,
}

impl TuneArguments {
    /// The settings that matter for what was asked, if they do: `--config` and `-o`.
    pub fn settings(&self) -> Option<(Option<&Path>, &[String])> {
        match &self.command {
            TuneCommand::Check(look) | TuneCommand::Apply { look, .. } => {
                Some((look.config.as_deref(), &look.option))
            }
            TuneCommand::Revert { .. } | TuneCommand::Probe { .. } => None,
        }
    }
}

fn machine(root: Option<&Path>, pid: Option<u32>) -> Result<Machine, String> {
    match root {
        Some(root) => Machine::below(root, pid),
        None => Machine::here(pid),
    }
}

fn look(
    arguments: &LookArguments,
    settings: Option<&NodeSettings>,
) -> Result<(Machine, Asked), String> {
    let machine = machine(arguments.root.as_deref(), arguments.pid)?;
    let settings = settings.ok_or("the settings were not read")?;
    let mut asked = Asked::new(settings, &machine);
    for dir in &mut asked.log_dirs {
        let absolute = std::path::absolute(&*dir);
        *dir = absolute.map_err(|error| format!("{}: {error}", dir.display()))?;
    }
    if asked.shard_cpus.is_empty() {
        return Err("ringspun.cores leaves no CPU for a shard".into());
    }
    Ok((machine, asked))
}

/// Does what was asked for; `settings` are those of [`TuneArguments::settings`]. An error is one line for people.
pub fn run(arguments: &TuneArguments, settings: Option<&NodeSettings>) -> Result<(), String> {
    match &arguments.command {
        TuneCommand::Check(asked_for) => {
            let (machine, asked) = look(asked_for, settings)?;
            let findings = check(&machine, &asked);
            print(
                asked_for.json,
                &Report {
                    command: "check",
                    dry_run: false,
                    machine: &machine,
                    asked: Some(&asked),
                    findings: &findings,
                    written: &[],
                    explain: asked_for.explain,
                },
            )?;
            match report::open(&findings) {
                (0, 0) => Ok(()),
                (changes, advice) => Err(format!(
                    "{changes} to change with `ringspun tune apply`, {advice} by hand"
                )),
            }
        }
        TuneCommand::Apply {
            look: asked_for,
            state,
        } => {
            let (machine, asked) = look(asked_for, settings)?;
            let applied = apply::apply(&machine, &asked, &state.state, state.dry_run)?;
            print(
                asked_for.json,
                &Report {
                    command: "apply",
                    dry_run: state.dry_run,
                    machine: &machine,
                    asked: Some(&asked),
                    findings: &applied.findings,
                    written: &applied.written,
                    explain: asked_for.explain,
                },
            )?;
            failures(&applied.written)
        }
        TuneCommand::Revert {
            state,
            force,
            json,
            root,
        } => {
            let machine = machine(root.as_deref(), None)?;
            let written = apply::revert(&machine, &state.state, state.dry_run, *force)?;
            let nothing = written.is_none();
            let written = written.unwrap_or_default();
            print(
                *json,
                &Report {
                    command: "revert",
                    dry_run: state.dry_run,
                    machine: &machine,
                    asked: None,
                    findings: &[],
                    written: &written,
                    explain: false,
                },
            )?;
            if nothing && !json {
                write("nothing was changed since the machine started\n")?;
            }
            failures(&written)
        }
        TuneCommand::Probe { dir, json } => {
            let measured = probe::measure(dir)?;
            write(&match json {
                true => measured.json(),
                false => measured.text(),
            })
        }
    }
}

fn failures(written: &[apply::Written]) -> Result<(), String> {
    match written.iter().filter(|one| one.failed()).count() {
        0 => Ok(()),
        failed => Err(format!(
            "{failed} of {} files are not as they should be",
            written.len()
        )),
    }
}

fn print(json: bool, report: &Report) -> Result<(), String> {
    write(&if json { report.json() } else { report.text() })
}

fn write(text: &str) -> Result<(), String> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever closes the pipe early (`| head`) has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("standard output: {error}"))
        }
        _ => Ok(()),
    }
}
