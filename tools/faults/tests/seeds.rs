//! Ten thousand seeds, and proof that a sync that is left out would be noticed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ringspun_faults::{Failure, Options, Passed, Switch, simulate};

/// Of the suite: the same ones each time. `cargo run --release -p ringspun-faults` takes others.
const SEEDS: u64 = 10_000;

/// Within so many seeds each switch is found.
const SEEDS_OF_A_SWITCH: u64 = 3_000;

/// Runs seeds on two threads until one fails. Returns that, or what all of them went through.
fn run(seeds: std::ops::Range<u64>, options: Options) -> Result<Passed, Failure> {
    let next = AtomicU64::new(seeds.start);
    let is_over = AtomicBool::new(false);
    let work = || {
        let mut all = Passed::default();
        while !is_over.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            match simulate(seed, options) {
                Ok(passed) => {
                    all.crashes += passed.crashes;
                    all.lies += passed.lies;
                }
                Err(failure) => {
                    is_over.store(true, Ordering::Relaxed);
                    return Err(failure);
                }
            }
        }
        Ok(all)
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        let mut all = Passed::default();
        for thread in threads {
            let passed = thread.join().expect("panics are failures")?;
            all.crashes += passed.crashes;
            all.lies += passed.lies;
        }
        Ok(all)
    })
}

#[test]
fn nothing_promised_is_lost_and_nothing_else_is_served() {
    match run(0..SEEDS, Options::default()) {
        Ok(passed) => assert!(passed.crashes > 3 * SEEDS, "{passed:?}"),
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn a_seed_replays_exactly() {
    let options = Options {
        traces: true,
        switch: Some(Switch::Data),
    };
    let failure = (0..SEEDS_OF_A_SWITCH).find_map(|seed| simulate(seed, options).err());
    let failure = failure.expect("a segment that is never synced is noticed");
    let again = simulate(failure.seed, options).expect_err("as before");
    assert_eq!((failure.what, failure.trace), (again.what, again.trace));
}

#[test]
fn a_build_that_leaves_out_a_sync_is_found() {
    let mut unnoticed = Vec::new();
    for switch in Switch::ALL {
        let options = Options {
            switch: Some(switch),
            ..Options::default()
        };
        match run(0..SEEDS_OF_A_SWITCH, options) {
            Err(failure) => println!("{switch:?}: {failure}"),
            Ok(passed) => unnoticed.push((switch, passed)),
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
}
