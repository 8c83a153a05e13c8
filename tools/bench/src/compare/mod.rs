//! `compare`: brokers side by side on one machine, with the same work, in alternating rounds.
//!
//! 1. Every target of a row is started, pinned to the broker's cores, and warmed up; its first run is read
//!    back and compared record by record. Then it is frozen.
//! 2. Rounds go from target to target, every other one backwards, and end with the floor: A B floor, B A
//!    floor. Before each, what the one before wrote is removed, and what is dirty is synced.
//! 3. Each round becomes a file at once. The report is made from these files alone, and anew after each
//!    row, so a run that is cut short leaves a report of what there was.
//!
//! Whatever happens, no process and no data of a broker outlives this one: children are killed when their
//! owner is dropped, and by the kernel when this process dies.

mod crossing;
mod facts;
mod floor;
mod jars;
mod judge;
mod measure;
mod metric;
mod report;
mod row;
mod rows;
mod run;
mod sys;
mod syscalls;
mod target;
mod usage;
mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use self::judge::Round;
use self::measure::{Failed, Plan};
use self::report::{About, Report, TargetFacts};
use self::row::Row;
use self::sys::Cores;
use self::target::{Shape, Target, With};

pub use self::floor::{Program as FloorProgram, run as run_floor};

/// Rounds fewer than this are for trying the harness.
const ROUNDS_MIN: u32 = 5;

/// Compare brokers side by side: ringspun, Apache Kafka, and others by their start command.
///
/// Starts each broker itself, pinned to the same cores, and runs the rows of the table in alternating
/// rounds. Writes raw rounds, report.md and report.html into a folder.
#[derive(clap::Args, Clone, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// Rows to measure, separated by commas; all of them by default (--list-rows names them)
    #[arg(long, value_delimiter = ',', value_name = "ROW,…")]
    rows: Vec<String>,

    /// Rounds of each row, at least 5; rows judged by percentiles have at least 9
    #[arg(long, default_value_t = ROUNDS_MIN)]
    rounds: u32,

    /// Length of one measurement
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,

    /// Longest warm-up of a broker in a row, in seconds; it ends when the cost of a record is steady
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    warmup: f64,

    /// Cores of the brokers and of the floor
    #[arg(long, default_value = "0", value_name = "CORES")]
    broker_cores: Cores,

    /// Cores of the load
    #[arg(long, default_value = "1", value_name = "CORES")]
    load_cores: Cores,

    /// Another broker: a name, and the shell command that runs it in the foreground, in which {port},
    /// {bootstrap} and {data} are replaced; may be repeated
    #[arg(long, value_name = "NAME='COMMAND'", value_parser = Target::parse)]
    target: Vec<Target>,

    /// Another ringspun, the same program with other settings; may be repeated
    #[arg(long, value_name = "NAME:SETTING=VALUE,…", value_parser = With::parse)]
    with: Vec<With>,

    /// Only these targets of ringspun, kafka and those of --with and --target
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    only: Vec<String>,

    /// One round of one second without warm-up: whether everything works, not how fast
    #[arg(long)]
    quick: bool,

    /// Where the results go; by default benches/runs/<date>-compare
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Where the brokers keep their data while they run: choose the disk that is to be measured. By default
    /// a folder beside the results
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// The program of ringspun; by default the release build of this checkout, made if need be
    #[arg(long, value_name = "FILE")]
    ringspun: Option<PathBuf>,

    /// Where Apache Kafka's jars are kept; by default beside the build, as the tests keep them
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,

    /// Name the rows, and end
    #[arg(long)]
    list_rows: bool,

    /// Only make the reports in DIR anew from its raw rounds
    #[arg(long, value_name = "DIR")]
    render: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  Everything, which takes about two hours:
    ringspun-bench compare
  Two rows, longer rounds:
    ringspun-bench compare --rows produce-1k,fetch-1 --rounds 7 --seconds 10
  Whether it works here, in a minute, without Java:
    ringspun-bench compare --quick --only ringspun --rows produce-1k
  The page cache and O_DIRECT side by side:
    ringspun-bench compare --only ringspun,direct --with direct:ringspun.log.io=direct
  A third broker (cargo install nisshi --no-default-features --features dynostore --ignore-rust-version):
    ringspun-bench compare --target nisshi='exec nisshi broker --listener-url tcp://127.0.0.1:{port} \\
      --advertised-listener-url tcp://127.0.0.1:{port} --storage-engine memory://nisshi/'

Exit code: 0 when everything was measured, 1 when a broker lost, doubled or altered a record, 2 when
something could not be run.";

/// Runs the comparison. An error is what could not be run at all.
pub fn main(arguments: &Arguments) -> ExitCode {
    match compare(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("ringspun-bench compare: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn compare(arguments: &Arguments) -> Result<u8> {
    if arguments.list_rows {
        for row in rows::ROWS {
            println!("{:16} {}", row.name, row.title);
        }
        return Ok(0);
    }
    if let Some(folder) = &arguments.render {
        let (about, rounds) = Folder(folder.clone()).read()?;
        Folder(folder.clone()).report(&about, &rounds)?;
        println!("{}", folder.join("report.md").display());
        return Ok(0);
    }
    let chosen = rows::select(&arguments.rows).map_err(anyhow::Error::msg)?;
    check(arguments)?;
    sys::catch_stops()?;
    let targets = targets(arguments)?;

    let started = facts::utc_now();
    let folder = match &arguments.out {
        Some(folder) => folder.clone(),
        None => {
            let stamp = started
                .replace([':', 'T'], "-")
                .trim_end_matches('Z')
                .to_owned();
            PathBuf::from("benches/runs").join(format!("{stamp}-compare"))
        }
    };
    let folder = Folder(folder);
    folder.make()?;
    let data = Data::new(arguments.data.as_deref().unwrap_or(&folder.0))?;
    let plan = Plan {
        rounds: if arguments.quick { 1 } else { arguments.rounds },
        seconds: if arguments.quick {
            arguments.seconds.min(1.0)
        } else {
            arguments.seconds
        },
        warmup: Duration::from_secs_f64(arguments.warmup),
        quick: arguments.quick,
        broker_cores: arguments.broker_cores.clone(),
        load_cores: arguments.load_cores.clone(),
        data: data.folder.clone(),
        targets,
    };
    let about = About {
        schema: 1,
        started,
        command: std::env::args().skip(1).collect(),
        commit: facts::commit(),
        machine: facts::Machine::look(&data.folder),
        broker_cores: plan.broker_cores.to_string(),
        load_cores: plan.load_cores.to_string(),
        rounds: plan.rounds,
        seconds: plan.seconds,
        quick: plan.quick,
        targets: plan.targets.iter().map(facts_of).collect(),
        rows: chosen.iter().map(|row| row.name.to_owned()).collect(),
        ..About::default()
    };
    measured(&plan, &chosen, about, &folder)
}

fn facts_of(target: &Target) -> TargetFacts {
    TargetFacts {
        name: target.name.clone(),
        version: target.version.clone(),
        settings: target.settings(&Shape::default()),
    }
}

/// Measures the rows and writes the reports; the exit code.
fn measured(plan: &Plan, chosen: &[&'static Row], mut about: About, folder: &Folder) -> Result<u8> {
    // Looking on must not cost the broker's core anything. Children say where they run.
    plan.load_cores.pin()?;
    let mut rounds: Vec<Round> = Vec::new();
    let mut troubles: Vec<String> = Vec::new();
    for row in chosen {
        eprintln!("{}: {}", row.name, row.title);
        let mut keep = |round: Round| {
            eprintln!("  {}", line(&round));
            folder.keep(&round, rounds.len())?;
            rounds.push(round);
            Ok(())
        };
        let outcome = plan.row(row, &mut keep);
        let (trouble, over) = match outcome {
            Ok(()) => (None, false),
            Err(Failed::Row(error)) => (Some(error), false),
            Err(Failed::All(error)) => (Some(error), true),
        };
        if let Some(error) = trouble {
            let text = format!("row {}: {error:#}", row.name);
            eprintln!("ringspun-bench compare: {text}");
            troubles.push(text);
        }
        about.ended = facts::utc_now();
        about.cut_short = (!troubles.is_empty()).then(|| troubles.join("; "));
        folder.report(&about, &rounds)?;
        if over {
            break;
        }
    }
    let report = Report::new(&about, &rounds);
    println!("{}", report::verdicts(&report));
    println!("{}", folder.0.join("report.html").display());
    let invalid = rounds.iter().any(|round| round.status == "invalid");
    Ok(match (invalid, troubles.is_empty()) {
        (true, _) => 1,
        (false, true) => 0,
        (false, false) => 2,
    })
}

/// A round for whoever watches.
fn line(round: &Round) -> String {
    let values: Vec<String> = metric::Metric::ALL
        .iter()
        .filter_map(|metric| Some(format!("{} {:.3}", metric.title(), round.metric(*metric)?)))
        .collect();
    let variant = if round.variant.is_empty() {
        String::new()
    } else {
        format!(" {}", round.variant)
    };
    let status = if round.is_valid() {
        String::new()
    } else {
        format!(
            "{}: {}; ",
            round.status.to_uppercase(),
            round.problems.join("; ")
        )
    };
    format!(
        "{} {}{variant}: {status}{}, steal {:.2} %",
        round.round,
        round.target,
        values.join(", "),
        round.steal * 100.0
    )
}

/// What can be known to be wrong before anything is started.
fn check(arguments: &Arguments) -> Result<()> {
    ensure!(
        arguments.quick || arguments.rounds >= 1,
        "--rounds {}: at least one",
        arguments.rounds
    );
    if !arguments.quick && arguments.rounds < ROUNDS_MIN {
        eprintln!(
            "{} rounds are too few for figures to be believed; {ROUNDS_MIN} are the least",
            arguments.rounds
        );
    }
    let seconds = |name: &str, value: f64, from: f64| {
        ensure!(
            value.is_finite() && (from..=3600.0).contains(&value),
            "--{name} {value}: {from} to 3600 seconds"
        );
        Ok(())
    };
    seconds("seconds", arguments.seconds, 0.1)?;
    seconds("warmup", arguments.warmup, 0.0)?;
    for (name, cores) in [
        ("broker", &arguments.broker_cores),
        ("load", &arguments.load_cores),
    ] {
        let missing = cores.missing()?;
        ensure!(
            missing.is_empty(),
            "--{name}-cores {cores}: this process may not run on {}",
            Cores(missing)
        );
    }
    let shared = arguments
        .broker_cores
        .0
        .iter()
        .any(|core| arguments.load_cores.0.contains(core));
    ensure!(
        !shared || arguments.quick,
        "--broker-cores {} and --load-cores {} overlap: the load would be measured as the broker",
        arguments.broker_cores,
        arguments.load_cores
    );
    Ok(())
}

/// The targets that take part; everything they need is fetched or built.
fn targets(arguments: &Arguments) -> Result<Vec<Target>> {
    let mut names = vec!["ringspun", "kafka"];
    names.extend(arguments.with.iter().map(|with| with.name.as_str()));
    names.extend(arguments.target.iter().map(|target| target.name.as_str()));
    for (i, name) in names.iter().enumerate() {
        ensure!(!names[..i].contains(name), "two targets are called {name}");
    }
    for name in &arguments.only {
        ensure!(
            names.contains(&name.as_str()),
            "--only {name}: there are {}",
            names.join(", ")
        );
    }
    let wanted =
        |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == name);
    let mut targets = Vec::new();
    let others = || arguments.with.iter().filter(|with| wanted(&with.name));
    if wanted("ringspun") || others().next().is_some() {
        let program = match &arguments.ringspun {
            Some(program) => program.clone(),
            None => built()?,
        };
        let ringspun = Target::ringspun(&program)?;
        let others: Vec<Target> = others().map(|with| ringspun.with(with)).collect();
        targets.extend(wanted("ringspun").then_some(ringspun));
        targets.extend(others);
    }
    if wanted("kafka") {
        targets.push(Target::kafka(jars::Java::get(arguments.cache.as_deref())?));
    }
    targets.extend(
        arguments
            .target
            .iter()
            .filter(|target| wanted(&target.name))
            .cloned(),
    );
    Ok(targets)
}

/// The release build of the checkout that this program was built from.
fn built() -> Result<PathBuf> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if checkout.join("Cargo.toml").is_file() {
        eprintln!("building ringspun in release");
        let status = Command::new("cargo")
            .current_dir(&checkout)
            .args([
                "build",
                "--quiet",
                "--release",
                "--package",
                "ringspun",
                "--bin",
                "ringspun",
            ])
            .status();
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => {
                bail!("ringspun could not be built ({status}); name a program with --ringspun")
            }
            Err(error) => bail!("cargo could not be run ({error}); name a program with --ringspun"),
        }
    }
    // Beside us, whatever profile we were built in.
    let program = std::env::current_exe()?;
    let target = program
        .parent()
        .and_then(Path::parent)
        .context("this program lies nowhere")?;
    let candidate = target.join("release/ringspun");
    ensure!(
        candidate.is_file(),
        "{} is not there; name the program with --ringspun",
        candidate.display()
    );
    Ok(candidate)
}

/// Where brokers keep their data; removed when dropped, with the folder above it if that was made for it.
struct Data {
    folder: PathBuf,
    made: Option<PathBuf>,
}

impl Data {
    fn new(parent: &Path) -> Result<Data> {
        let made = (!parent.exists()).then(|| parent.to_path_buf());
        let folder = parent.join(format!("data-{}", std::process::id()));
        let mut data = Data { folder, made };
        fs::create_dir_all(&data.folder)
            .with_context(|| format!("no folder {} for data", data.folder.display()))?;
        data.folder = fs::canonicalize(&data.folder)?;
        Ok(data)
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
        if let Some(made) = &self.made {
            // Not if something else has come into it meanwhile.
            let _ = fs::remove_dir(made);
        }
    }
}

/// The folder of a run.
struct Folder(PathBuf);

impl Folder {
    fn make(&self) -> Result<()> {
        let path = self.0.display();
        if fs::read_dir(&self.0).is_ok_and(|mut entries| entries.next().is_some()) {
            bail!("{path} is not empty; choose another folder with --out");
        }
        fs::create_dir_all(self.0.join("rounds")).with_context(|| format!("no folder {path}"))
    }

    fn keep(&self, round: &Round, number: usize) -> Result<()> {
        let variant = if round.variant.is_empty() {
            String::new()
        } else {
            format!("-{}", round.variant)
        };
        let name = format!(
            "{number:04}-{}-{}{variant}-{}.json",
            round.row, round.target, round.round
        );
        fs::write(self.0.join("rounds").join(name), serde_json::to_vec(round)?)
            .context("a round cannot be written")
    }

    fn report(&self, about: &About, rounds: &[Round]) -> Result<()> {
        fs::write(self.0.join("run.json"), serde_json::to_vec_pretty(about)?)?;
        let report = Report::new(about, rounds);
        fs::write(self.0.join("report.md"), report::markdown(&report))?;
        fs::write(self.0.join("report.html"), report::html(&report)?)?;
        Ok(())
    }

    /// What [`Folder::keep`] and [`Folder::report`] wrote.
    fn read(&self) -> Result<(About, Vec<Round>)> {
        let path = self.0.join("run.json");
        let text = fs::read(&path)
            .with_context(|| format!("{} is no folder of a comparison", self.0.display()))?;
        let about: About =
            serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        let mut paths = Vec::new();
        for entry in fs::read_dir(self.0.join("rounds"))? {
            paths.push(entry?.path());
        }
        paths.sort();
        let mut rounds = Vec::new();
        for path in paths {
            let round = serde_json::from_slice(&fs::read(&path)?);
            rounds.push(round.with_context(|| path.display().to_string())?);
        }
        Ok((about, rounds))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(arguments: &[&str]) -> Arguments {
        let all = ["compare"].iter().chain(arguments);
        Cli::try_parse_from(all)
            .unwrap_or_else(|e| panic!("{e}"))
            .arguments
    }

    fn refused(arguments: &[&str]) -> String {
        format!("{:#}", compare(&parse(arguments)).expect_err("refused"))
    }

    #[test]
    fn what_cannot_be_run_is_said_before_anything_starts() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().to_string_lossy().into_owned();
        let with = |more: &[&'static str]| {
            let mut all = vec!["--out", out.as_str(), "--only", "ringspun"];
            all.extend(more);
            refused(&all)
        };
        assert!(with(&["--rows", "nonsense"]).contains("no row is called nonsense"));
        assert!(with(&["--seconds", "0"]).contains("--seconds"));
        assert!(with(&["--broker-cores", "1023"]).contains("may not run on 1023"));
        assert!(with(&["--load-cores", "0"]).contains("overlap"));
        assert!(
            with(&["--ringspun", "/nonexistent/ringspun"])
                .contains("/nonexistent/ringspun cannot be run")
        );
        assert!(refused(&["--only", "nisshi"]).contains("--only nisshi"));
        let twice = with(&["--with", "a:b=c", "--target", "a=x {port}"]);
        assert!(twice.contains("two targets are called a"), "{twice}");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn a_run_is_read_back_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let run = Folder(folder.path().join("run"));
        run.make().expect("an empty folder");
        let about = About {
            schema: 1,
            rows: vec!["idle".into()],
            ..About::default()
        };
        let round = Round {
            schema: 1,
            row: "idle".into(),
            target: "ringspun".into(),
            round: 1,
            status: "valid".into(),
            ..Round::default()
        };
        run.keep(&round, 0).expect("room");
        run.report(&about, std::slice::from_ref(&round))
            .expect("room");
        assert_eq!(run.read().expect("what was written"), (about, vec![round]));
        // A run is not written over.
        assert!(run.make().is_err());
    }

    #[test]
    fn a_target_that_dies_at_once_is_told_and_leaves_only_the_partial_result() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("out");
        let arguments = parse(&[
            "--quick",
            "--rows",
            "start",
            "--only",
            "dies",
            "--target",
            "dies=echo no licence >&2; exit 7 # {port}",
            "--load-cores",
            "0",
            "--out",
            &out.to_string_lossy(),
        ]);
        assert_eq!(compare(&arguments).expect("a report"), 2);
        let mut names: Vec<String> = fs::read_dir(&out)
            .expect("a folder")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        assert_eq!(names, ["report.html", "report.md", "rounds", "run.json"]);
        let report = fs::read_to_string(out.join("report.md")).expect("a report");
        assert!(
            report.contains("cut short") && report.contains("no licence"),
            "{report}"
        );
    }
}
