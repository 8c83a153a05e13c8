//! The command line: each subcommand is a module of the library.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ringspun_bench::compare;
use ringspun_bench::run;
use ringspun_bench::workload;

/// Puts load on any broker that speaks the Kafka protocol, and checks what it measures.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Ends with 0 if the run was valid, 1 if records were lost, doubled or altered, 2 if it could not run (or not at the
rate asked for), 130 if it was interrupted.

Examples:
  ringspun-bench workloads
  ringspun-bench run --bootstrap 127.0.0.1:9092 --workload default --seconds 5
  ringspun-bench run --bootstrap 127.0.0.1:9092 --set rate=20000 --set consumers=1 --out result
  ringspun-bench run --bootstrap 127.0.0.1:9092 --set producers=8 --set find_rate_p99_ms=5";

#[derive(Subcommand)]
enum Command {
    /// Runs one workload against one broker or cluster
    Run(run::Args),
    /// Lists the workloads that have a name, or prints one
    Workloads(workload::Args),
    /// Runs ringspun and Apache Kafka in turns, on the same work, and reports ratios
    Compare(compare::Arguments),
    /// The least that any broker has to do: what the comparison holds them against
    #[command(hide = true, subcommand)]
    Floor(compare::FloorProgram),
}

fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Command::Run(args) => run::main(&args),
        Command::Workloads(args) => workload::main(&args),
        Command::Compare(arguments) => return compare::main(&arguments),
        Command::Floor(program) => compare::run_floor(&program).map(|()| 0),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("ringspun-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}
