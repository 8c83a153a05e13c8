//! `cargo run --release -p ringspun-faults -- --minutes 60`: one seed after the other, until one shows something
//! wrong; with `--from 10000 --to 60000 --all` a range of them, and every one that does.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use ringspun_faults::{Options, simulate};

/// Random workloads on the log over a disk in memory that fails and is cut off.
#[derive(Parser)]
struct Arguments {
    /// How long.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Where to begin; a number of the clock's otherwise.
    #[arg(long)]
    from: Option<u64>,
    /// Where to end at the latest.
    #[arg(long, default_value_t = u64::MAX)]
    to: u64,
    /// Go on behind a seed that shows something.
    #[arg(long)]
    all: bool,
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
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

thread_local! {
    static SEED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Runs seeds, prints those that show something, and returns how many did.
fn search(arguments: &Arguments) -> u64 {
    let from = arguments.from.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |now| now.as_secs() * 1_000_000)
    });
    let began = Instant::now();
    let ends = began + Duration::from_secs_f64(arguments.minutes * 60.0);
    let next = AtomicU64::new(from);
    let [passed, crashes, failed] = [const { AtomicU64::new(0) }; 3];
    let is_over = AtomicBool::new(false);
    println!("from seed {from}, for {} minutes", arguments.minutes);
    let work = || {
        while !is_over.load(Ordering::Relaxed) && Instant::now() < ends {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= arguments.to {
                break;
            }
            SEED.set(seed);
            match simulate(seed, Options::default()) {
                Ok(went) => {
                    passed.fetch_add(1, Ordering::Relaxed);
                    crashes.fetch_add(went.crashes, Ordering::Relaxed);
                }
                Err(failure) => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    println!("{failure}");
                    is_over.fetch_or(!arguments.all, Ordering::Relaxed);
                }
            }
        }
    };
    let report = || {
        let (passed, failed) = (
            passed.load(Ordering::Relaxed),
            failed.load(Ordering::Relaxed),
        );
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{passed} seeds passed, {failed} failed, {} crashes, {:.0} seeds/s",
            crashes.load(Ordering::Relaxed),
            (passed + failed) as f64 / seconds
        );
    };
    std::thread::scope(|scope| {
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
    });
    report();
    failed.into_inner()
}
