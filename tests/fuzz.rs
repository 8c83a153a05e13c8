//! Hostile frames over the whole path of a request, and what they once broke.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `RINGSPUN_SEED` | of the frames | 1 |
//! | `RINGSPUN_FUZZ_FRAMES` | frames, at least | 200,000 |
//! | `RINGSPUN_FUZZ_SECONDS` | go on, with the next seeds, until this time is over | one run |
//!
//! `tools/fuzz HOURS` runs it for long.

mod broker;
mod hostile;

use std::time::Duration;

use hostile::environment;
use hostile::fuzzing::{self, Plan};

#[test]
fn hostile_frames_neither_stop_nor_stall_nor_bloat_the_node() {
    let plan = Plan {
        seed: environment("RINGSPUN_SEED").unwrap_or(1),
        frames: environment("RINGSPUN_FUZZ_FRAMES").unwrap_or(200_000),
        at_least: Duration::from_secs(environment("RINGSPUN_FUZZ_SECONDS").unwrap_or(0)),
    };
    println!("RINGSPUN_SEED={}", plan.seed);
    let started = std::time::Instant::now();
    let done = fuzzing::run(plan);
    println!("{done:?} in {:?}", started.elapsed());
    assert!(done.frames >= plan.frames);
    // Else the frames would not reach the handlers at all.
    assert!(done.answers > done.frames / 10, "{done:?}");
}
