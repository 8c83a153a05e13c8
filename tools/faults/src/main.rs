//! `cargo run --release -p ringspun-faults -- --minutes 60`: one seed after the other, until one shows something
//! wrong.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use ringspun_faults::{Failure, Options, simulate};

/// Random workloads on the log over a disk in memory that fails and is cut off.
#[derive(Parser)]
struct Arguments {
    /// How long.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Where to begin; a number of the clock's otherwise.
    #[arg(long)]
    from: Option<u64>,
    /// Only this seed, and what it does.
    #[arg(long)]
    seed: Option<u64>,
    /// Threads.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Where a panic ends the process it must not take the seed along.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        SEED.with(|seed| eprintln!("seed {}:", seed.get()));
        hook(info);
    }));
    if let Some(seed) = arguments.seed {
        SEED.set(seed);
        let traces = true;
        return match simulate(
            seed,
            Options {
                traces,
                ..Options::default()
            },
        ) {
            Ok(passed) => {
                println!("seed {seed}: {passed:?}");
                ExitCode::SUCCESS
            }
            Err(failure) => {
                println!("{failure}");
                ExitCode::FAILURE
            }
        };
    }
    match search(&arguments) {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

thread_local! {
    static SEED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

fn search(arguments: &Arguments) -> Option<Failure> {
    let from = arguments.from.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |now| now.as_secs() * 1_000_000)
    });
    let began = Instant::now();
    let ends = began + Duration::from_secs_f64(arguments.minutes * 60.0);
    let next = AtomicU64::new(from);
    let crashes = AtomicU64::new(0);
    let is_over = AtomicBool::new(false);
    println!("from seed {from}, for {} minutes", arguments.minutes);
    let work = || -> Option<Failure> {
        while !is_over.load(Ordering::Relaxed) && Instant::now() < ends {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            SEED.set(seed);
            match simulate(seed, Options::default()) {
                Ok(passed) => crashes.fetch_add(passed.crashes, Ordering::Relaxed),
                Err(failure) => {
                    is_over.store(true, Ordering::Relaxed);
                    return Some(failure);
                }
            };
        }
        None
    };
    let report = || {
        let seeds = next.load(Ordering::Relaxed) - from;
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{seeds} seeds, {} crashes, {:.0} seeds/s",
            crashes.load(Ordering::Relaxed),
            seeds as f64 / seconds
        );
    };
    let failure = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..arguments.threads.max(1))
            .map(|_| scope.spawn(work))
            .collect();
        let mut told = Instant::now();
        while threads.iter().any(|thread| !thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(50));
            if told.elapsed() > Duration::from_secs(10) {
                told = Instant::now();
                report();
            }
        }
        let mut failures = threads.into_iter().filter_map(|thread| thread.join().ok()?);
        failures.next()
    });
    report();
    failure
}
