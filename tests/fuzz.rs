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

use std::collections::BTreeSet;
use std::time::Duration;

use ringspun::protocol::{api, frame, walker};

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

/// The fuzzer starts from them, so they have to be what they claim.
#[test]
fn what_clients_sent_is_walked_to_its_last_byte() {
    let mut apis = BTreeSet::new();
    let captured = fuzzing::captured();
    for request in &captured {
        let peek = frame::peek(request).expect("a header");
        let api::Lookup::Served(api) = api::lookup(peek.api_key, peek.api_version) else {
            continue;
        };
        let header = frame::parse_header(api, request).expect("a header");
        let body = &request[header.body_offset..];
        let walked = walker::walk(api.key, peek.api_version, body).expect("a body");
        assert_eq!(walked.consumed, body.len(), "{peek:?}");
        apis.insert(api.key);
    }
    assert!(captured.len() > 80, "{}", captured.len());
    assert!(apis.len() > 15, "{apis:?}");
}
