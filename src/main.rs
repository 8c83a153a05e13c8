//! The program: reads what it was given, prepares the start, runs the node.
//!
//! Standard output carries the ready line (or what `--print-config` and `--version` print) and nothing else.
//! The exit code is 0 after a clean stop and 1 after a refusal or failure, with one line on standard error
//! that says what is wrong and what to do. A second signal ends the process at once, by that signal.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;

use ringspun::base::listeners;
use ringspun::base::settings::{self, Inputs, Loaded};
use ringspun::server::logging;
use ringspun::server::startup::{self, Prepared, StartError, one_line};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A Kafka-compatible message broker. Without arguments it runs one on 127.0.0.1:9092.
#[derive(Parser)]
#[command(name = "ringspun", version)]
struct Arguments {
    /// Read settings from FILE, in the format of Kafka's server.properties
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Set one setting, over the file and the environment; may be repeated
    #[arg(short = 'o', value_name = "KEY=VALUE")]
    option: Vec<String>,

    /// Print every effective setting with its source, and exit
    #[arg(long)]
    print_config: bool,
}

fn main() -> ExitCode {
    let started = Instant::now();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // --help and --version come as errors too, with what to print on standard output.
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or("bad arguments");
            let first = first.strip_prefix("error: ").unwrap_or(first);
            return refuse(&format!("{first}; `ringspun --help` shows what is allowed"));
        }
    };
    match run(&arguments, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&error.line()),
    }
}

/// One line on standard error, whatever the log level is, and exit code 1.
fn refuse(line: &str) -> ExitCode {
    eprintln!("ringspun: {line}");
    ExitCode::FAILURE
}

fn run(arguments: &Arguments, started: Instant) -> Result<(), StartError> {
    let loaded = load(arguments)?;
    if arguments.print_config {
        use std::io::Write as _;
        // Whoever closes the pipe early (`| head`) has seen enough.
        let _ = std::io::stdout().write_all(settings::print_config(&loaded.settings).as_bytes());
        return Ok(());
    }
    logging::init(
        &loaded.settings.logging_level,
        loaded.settings.logging_format,
    )
    .map_err(|why| StartError::Setting {
        name: "ringspun.logging.level",
        why: format!("{} is not understood", loaded.settings.logging_level),
        remedy: why,
    })?;
    logging::abort_on_panic();
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    for note in &loaded.notes {
        tracing::info!("{note}");
    }
    let prepared = startup::prepare(Arc::new(loaded.settings), loaded.cluster_id.as_deref())?;
    serve(prepared, started)
}

/// Reads the file and the environment, and checks every setting.
fn load(arguments: &Arguments) -> Result<Loaded, StartError> {
    let file = match &arguments.config {
        None => None,
        Some(path) => {
            let name = path.display().to_string();
            let text = std::fs::read(path).map_err(|error| StartError::Probe {
                what: format!("--config {name} cannot be read"),
                error,
                remedy: "name a file in the format of Kafka's server.properties".into(),
            })?;
            Some((name, String::from_utf8_lossy(&text).into_owned()))
        }
    };
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    settings::load(&Inputs {
        file: file
            .as_ref()
            .map(|(name, text)| (name.as_str(), text.as_str())),
        environment: &environment,
        command_line: &arguments.option,
        host_name: &listeners::host_name(),
    })
    .map_err(|errors| {
        // All at once, so that a file is put right in one go; still one line.
        let texts: Vec<String> = errors.iter().map(|e| one_line(&e.to_string())).collect();
        StartError::Other(texts.join("; also: "))
    })
}

/// Runs the node until it is stopped.
fn serve(prepared: Prepared, _started: Instant) -> Result<(), StartError> {
    // The node is not assembled yet: what was prepared is given back.
    drop(prepared);
    Err(StartError::Other(
        "this build checks its settings and directories but cannot serve clients yet".into(),
    ))
}
