//! The program: reads what it was given, prepares the start, runs the node.
//!
//! Standard output carries the ready line (or what `--print-config` and `--version` print) and nothing else.
//! The exit code is 0 after a clean stop and 1 after a refusal or failure, with one line on standard error
//! that says what is wrong and what to do. A second signal ends the process at once, by that signal.

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::{Parser, Subcommand};
use tokio::sync::oneshot;

use ringspun::admin::http;
use ringspun::admin::metrics::{Metrics, PartitionSample, PartitionSource};
use ringspun::admin::profile::command::{self, ProfileArguments};
use ringspun::admin::profile::{ProfileSource, Profiler, Sample, names};
use ringspun::admin::shards::{self, ShardSource};
use ringspun::admin::tune::command::{self as tune, TuneArguments};
use ringspun::base::listeners::{self, HostPort};
use ringspun::base::settings::{self, Inputs, Loaded};
use ringspun::broker::loggers::Loggers;
use ringspun::runtime::allocator::Allocator;
use ringspun::runtime::executor;
use ringspun::server::error::{StartError, one_line};
use ringspun::server::logging;
use ringspun::server::node::{self, LocalFuture, NodeView, Watcher};
use ringspun::server::signals::StopSignals;
use ringspun::server::startup::{self, Prepared};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// A Kafka-compatible message broker. Without arguments it runs one on 127.0.0.1:9092.
#[derive(Parser)]
#[command(name = "ringspun", version, args_conflicts_with_subcommands = true)]
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

    #[command(subcommand)]
    command: Option<Command>,
}

/// What the program does beside running a broker.
#[derive(Subcommand)]
enum Command {
    Profile(ProfileArguments),
    Tune(TuneArguments),
    /// What a node asks a process of its own for a flame graph
    #[command(name = names::COMMAND, hide = true)]
    LookUpNames,
}

fn main() -> ExitCode {
    let started = Instant::now();
    executor::prepare_process();
    // A huge page for every thread's first few objects is most of what an idle process would hold. The
    // allocator does not ask for them; some machines give them unasked.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
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
    let done = match &arguments.command {
        Some(Command::Profile(asked)) => command::run(asked),
        Some(Command::Tune(asked)) => run_tune(asked),
        Some(Command::LookUpNames) => names::serve(),
        None => run(&arguments, started).map_err(|error| error.line()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => refuse(&line),
    }
}

/// One line on standard error, whatever the log level is, and exit code 1.
fn refuse(line: &str) -> ExitCode {
    eprintln!("ringspun: {line}");
    ExitCode::FAILURE
}

fn run(arguments: &Arguments, started: Instant) -> Result<(), StartError> {
    let loaded = load(arguments.config.as_deref(), &arguments.option)?;
    if arguments.print_config {
        use std::io::Write as _;
        // Whoever closes the pipe early (`| head`) has seen enough.
        let _ = std::io::stdout().write_all(settings::print_config(&loaded.settings).as_bytes());
        return Ok(());
    }
    let loggers = logging::init(
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
    serve(prepared, started, loggers)
}

fn run_tune(asked: &TuneArguments) -> Result<(), String> {
    let settings = match asked.settings() {
        None => None,
        Some((config, options)) => {
            let loaded = load(config, options).map_err(|error| error.line())?;
            Some(loaded.settings)
        }
    };
    tune::run(asked, settings.as_ref())
}

/// Reads the file and the environment, and checks every setting.
fn load(config: Option<&Path>, options: &[String]) -> Result<Loaded, StartError> {
    let file = match config {
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
        command_line: options,
        host_name: &listeners::host_name(),
    })
    .map_err(|errors| {
        // All at once, so that a file is put right in one go; still one line.
        let texts: Vec<String> = errors.iter().map(|e| one_line(&e.to_string())).collect();
        StartError::Other(texts.join("; also: "))
    })
}

/// Runs the node until it is stopped.
fn serve(prepared: Prepared, started: Instant, loggers: Loggers) -> Result<(), StartError> {
    let failed = |what: &str, error: std::io::Error| {
        StartError::Other(format!("{what} could not be set up: {error}"))
    };
    let runtime = node::control_runtime().map_err(|e| failed("the control thread", e))?;
    let signals = {
        let _entered = runtime.enter();
        StopSignals::install()
    };
    let mut signals = signals.map_err(|e| failed("signals", e))?;
    let web = match &prepared.settings.http_listener {
        Some(at) => Some(Web::bind(at, prepared.settings.metrics_partitions)?),
        None => None,
    };
    let watcher = web.as_ref().map(|web| web as &dyn Watcher);
    let stop = async move { signals.next().await.to_string() };
    let ready = |ready| {
        use std::io::Write as _;
        let mut out = std::io::stdout();
        // Nobody may be reading it; the node serves all the same.
        let _ = writeln!(out, "{ready}").and_then(|()| out.flush());
    };
    let ran = node::run(&runtime, prepared, watcher, started, stop, ready, loggers);
    if ran.is_err() {
        // Shards that still run end with the process.
        runtime.shutdown_background();
    }
    ran.map_err(|error| match error {
        node::NodeError::Start(error) => error,
        other => StartError::Other(one_line(&other.to_string())),
    })
}

/// The HTTP server, beside the node.
struct Web {
    address: SocketAddr,
    bound: Cell<Option<http::Bound>>,
    health: http::Health,
    partitions: bool,
}

impl Web {
    fn bind(at: &HostPort, partitions: bool) -> Result<Self, StartError> {
        let bound = http::bind(at)
            .map_err(|error| StartError::bind("ringspun.http.listener", at, error))?;
        Ok(Self {
            address: bound.address(),
            bound: Cell::new(Some(bound)),
            health: http::Health::default(),
            partitions,
        })
    }
}

impl Watcher for Web {
    fn address(&self) -> Option<String> {
        Some(self.address.to_string())
    }

    fn run(&self, node: NodeView, stop: oneshot::Receiver<()>) -> LocalFuture {
        let source = self.partitions.then(|| partition_source(node.clone()));
        let metrics = Metrics::new(node.counters.clone(), source, logging::dropped_lines)
            .with_profiler(Profiler::new(profile_source(node.clone())));
        let shards = shard_source(node);
        let health = self.health.clone();
        let bound = self.bound.take();
        Box::pin(async move {
            let stops = async {
                let _ = stop.await;
            };
            if let Some(bound) = bound
                && let Err(error) = bound.serve(health, metrics, shards, stops).await
            {
                tracing::error!("HTTP server ended: {error}");
            }
        })
    }

    fn ready(&self) {
        self.health.set_ready();
    }

    fn stopping(&self) {
        self.health.set_stopping();
    }
}

/// Asks the shards for what `/metrics` says of partitions.
fn partition_source(node: NodeView) -> PartitionSource {
    let (source, mut asked) = tokio::sync::mpsc::channel::<oneshot::Sender<_>>(4);
    tokio::task::spawn_local(async move {
        while let Some(answer) = asked.recv().await {
            let samples = node
                .partitions()
                .await
                .into_iter()
                .map(|c| PartitionSample {
                    topic: c.topic,
                    partition: c.partition.0,
                    log_start_offset: c.log_start_offset.0,
                    high_watermark: c.high_watermark.0,
                    log_end_offset: c.log_end_offset.0,
                    size_bytes: c.size_bytes,
                });
            let _ = answer.send(samples.collect());
        }
    });
    source
}

/// Asks the shards where their time goes.
fn profile_source(node: NodeView) -> ProfileSource {
    let (source, mut asked) = tokio::sync::mpsc::channel::<oneshot::Sender<_>>(4);
    tokio::task::spawn_local(async move {
        while let Some(answer) = asked.recv().await {
            let shards = node.profile().await;
            let image = node.image();
            let slow = shards.iter().flat_map(|shard| &shard.slowest);
            let topics = slow.filter_map(|slow| {
                let topic = image.topic(slow.about.topic)?;
                Some((topic.id, topic.name.clone()))
            });
            let topics = topics.collect();
            let _ = answer.send(Sample { shards, topics });
        }
    });
    source
}

/// Asks the shards for what `/shards` says of them.
fn shard_source(node: NodeView) -> ShardSource {
    let (source, mut asked) = tokio::sync::mpsc::channel::<oneshot::Sender<_>>(4);
    tokio::task::spawn_local(async move {
        while let Some(answer) = asked.recv().await {
            let held = node.holdings().await;
            let _ = answer.send(held.into_iter().map(shards::Shard::of).collect());
        }
    });
    source
}
