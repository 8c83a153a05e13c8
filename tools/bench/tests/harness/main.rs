//! The harness sees itself fail: brokers that lose, double, alter, stand still, die and crawl, and bad use.

mod fake;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use fake::{Fake, Fault};
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_ringspun-bench");

fn bench(address: &str, out: &Path, settings: &[&str]) -> Child {
    let mut command = Command::new(BENCH);
    command.args(["run", "--bootstrap", address, "--warmup", "0", "--quiet"]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command
        .arg("--out")
        .arg(out)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What the process ended with, what it said, and the result it wrote.
fn ended(child: Child, out: &Path) -> (i32, String, Value) {
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let json = fs::read(out.join("result.json")).unwrap_or_default();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    let code = status.code().unwrap_or_else(|| panic!("{status}: {said}"));
    (
        code,
        said,
        serde_json::from_slice(&json).unwrap_or_default(),
    )
}

fn run(fault: Fault, settings: &[&str]) -> (i32, String, Value) {
    let fake = Fake::start(fault);
    let out = tempfile::tempdir().unwrap();
    let ended = ended(bench(&fake.address, out.path(), settings), out.path());
    assert!(fault_kills(fault) || fake.topics() == 0, "topics are left");
    ended
}

fn fault_kills(fault: Fault) -> bool {
    matches!(fault, Fault::Dies(_))
}

const SHORT: [&str; 3] = ["seconds=0.5", "producers=2", "partitions=3"];

#[test]
fn a_broker_that_keeps_everything_is_valid() {
    let tail = [
        "seconds=0.5",
        "partitions=3",
        "rate=500",
        "consumers=2",
        "keys=zipf",
    ];
    for settings in [&SHORT[..], &tail] {
        let (code, said, result) = run(Fault::None, settings);
        assert_eq!((code, &result["status"]), (0, &"valid".into()), "{said}");
        assert_eq!(result["schema"], 1);
        let verify = &result["verify"];
        assert_eq!(verify["expected"], verify["found"]);
        assert!(verify["found"].as_u64() > Some(0));
    }
}

#[test]
fn a_request_takes_along_what_lingers_beside_the_batch_that_is_due() {
    // Each record is of another partition than the one before, and the next one comes as soon as one has lingered.
    let settings = [
        "producers=1",
        "partitions=8",
        "keys=round_robin",
        "rate=1000",
        "seconds=0.5",
        "linger_ms=1",
        "batches_per_request=8",
    ];
    let (code, said, result) = run(Fault::None, &settings);
    assert_eq!(code, 0, "{said}");
    let produced = |name: &str| result["produce"][name].as_u64().unwrap_or_default();
    let (records, requests) = (produced("records"), produced("requests"));
    assert!(
        requests > 0 && requests * 10 <= records * 6,
        "{requests} of {records}"
    );
}

#[test]
fn a_broker_that_loses_a_batch_is_invalid() {
    let (code, said, result) = run(Fault::Loses(100), &SHORT);
    assert_eq!((code, &result["status"]), (1, &"invalid".into()), "{said}");
    assert!(result["verify"]["lost"].as_u64() > Some(0), "{result}");
    assert_eq!(result["verify"]["doubled"], 0);
    assert!(
        said.contains("acknowledged records are not there"),
        "{said}"
    );
}

#[test]
fn a_broker_that_doubles_a_batch_is_invalid() {
    let (code, said, result) = run(Fault::Doubles(100), &SHORT);
    assert_eq!((code, &result["status"]), (1, &"invalid".into()), "{said}");
    assert!(result["verify"]["doubled"].as_u64() > Some(0), "{result}");
    assert_eq!(result["verify"]["lost"], 0);
}

#[test]
fn a_broker_that_alters_a_byte_is_invalid_though_its_checksum_is_right() {
    let (code, said, result) = run(Fault::Alters(100), &SHORT);
    assert_eq!((code, &result["status"]), (1, &"invalid".into()), "{said}");
    assert!(result["verify"]["altered"].as_u64() > Some(0), "{result}");
}

#[test]
fn a_pause_counts_for_every_record_that_should_have_been_sent_in_it() {
    // 1,000 records a second for two seconds, and 400 ms of silence: a fifth of them waits, evenly from 0 to
    // 400 ms. The slowest tenth waited longer than 200 ms, the slowest hundredth longer than 380 ms.
    let silence = Duration::from_millis(400);
    let settings = ["seconds=2", "rate=1000", "in_flight=1"];
    let (code, said, result) = run(Fault::Stands(500, silence), &settings);
    assert_eq!(code, 0, "{said}");
    let latency = &result["produce"]["latency_us"];
    assert_eq!(latency["count"], 2000);
    let at = |name: &str| latency[name].as_f64().unwrap();
    assert!(at("p90") > 190_000.0, "{latency}");
    assert!(at("p99") > 370_000.0, "{latency}");
    assert!(at("max") > 395_000.0, "{latency}");
    // That it was silent is not the load's own lateness.
    let own = &result["produce"]["load_late_us"];
    assert!(own["count"].as_u64() > Some(100), "{own}");
    assert!(own["p90"].as_f64() < Some(100_000.0), "{own}");
}

#[test]
fn a_rate_nobody_can_reach_is_said_and_its_latencies_grow() {
    let settings = ["seconds=1", "rate=1000000", "in_flight=1"];
    let (code, said, result) = run(Fault::Crawls(Duration::from_millis(5)), &settings);
    assert_eq!((code, &result["status"]), (2, &"failed".into()), "{said}");
    assert!(said.contains("asked for 1,000,000 records/s"), "{said}");
    let verify = &result["verify"];
    assert_eq!(verify["expected"], verify["found"]);
    // What was never sent counts with what it has waited: two seconds of grace, at least.
    assert!(result["produce"]["latency_us"]["p50"].as_f64() > Some(1_500_000.0));
}

#[test]
fn a_broker_that_dies_leaves_a_partial_result_and_says_so() {
    let (code, said, result) = run(Fault::Dies(200), &["seconds=60"]);
    assert_eq!((code, &result["status"]), (2, &"failed".into()), "{said}");
    assert!(said.contains("the broker closed the connection"), "{said}");
    assert!(result["produce"]["records"].as_u64() > Some(0));
}

#[test]
fn an_interruption_leaves_a_partial_result_that_was_checked() {
    let fake = Fake::start(Fault::None);
    let out = tempfile::tempdir().unwrap();
    let child = bench(&fake.address, out.path(), &["seconds=60", "rate=1000"]);
    fake.await_records(300);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let (code, said, result) = ended(child, out.path());
    assert_eq!(
        (code, &result["status"]),
        (130, &"partial".into()),
        "{said}"
    );
    assert!(result["verify"]["found"].as_u64() >= Some(300));
    assert_eq!(result["verify"]["lost"], 0);
    assert_eq!(fake.topics(), 0);
}

#[test]
fn the_highest_rate_under_a_latency_is_found() {
    let settings = [
        "seconds=0.5",
        "find_rate_p99_ms=200",
        "find_rate_seconds=0.3",
        "rate=2000",
        "in_flight=1",
        "record_bytes=100",
        "batch_records=10",
    ];
    let (code, said, result) = run(Fault::Crawls(Duration::from_millis(2)), &settings);
    assert_eq!(code, 0, "{said}");
    let found = result["workload"]["rate"].as_f64().unwrap();
    // Ten records in two milliseconds at the most.
    assert!((1.0..=5_500.0).contains(&found), "{found}");
    assert!(result["produce"]["latency_us"]["p99"].as_f64() <= Some(200_000.0));
    assert!(result["search"].as_array().unwrap().len() > 2);
}

#[test]
fn histogram_logs_hold_what_the_result_says() {
    let fake = Fake::start(Fault::None);
    let out = tempfile::tempdir().unwrap();
    let settings = ["seconds=1.5", "rate=200", "consumers=1"];
    let (code, said, result) = ended(bench(&fake.address, out.path(), &settings), out.path());
    assert_eq!(code, 0, "{said}");
    let count = |name: &str| {
        let log = fs::read(out.path().join(name)).unwrap();
        let mut count = 0;
        for entry in IntervalLogIterator::new(&log) {
            if let LogEntry::Interval(interval) = entry.unwrap() {
                use base64::Engine;
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(interval.encoded_histogram())
                    .unwrap();
                let histogram: hdrhistogram::Histogram<u64> =
                    hdrhistogram::serialization::Deserializer::new()
                        .deserialize(&mut &bytes[..])
                        .unwrap();
                count += histogram.len();
            }
        }
        count
    };
    assert_eq!(count("produce.hlog"), 300);
    assert_eq!(count("end_to_end.hlog"), 300);
    assert_eq!(result["fetch"]["end_to_end_us"]["count"], 300);
    let csv = fs::read_to_string(out.path().join("per_second.csv")).unwrap();
    assert_eq!(csv.lines().count(), 3, "{csv}");
}

#[test]
fn bad_use_is_said_and_ends_with_two() {
    let out = tempfile::tempdir().unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let (code, said, _) = ended(bench(&address, out.path(), &[]), out.path());
    assert_eq!(code, 2);
    assert!(said.contains("no broker answers at 127.0.0.1:"), "{said}");

    let (code, said, _) = ended(bench(&address, out.path(), &["lingerms=3"]), out.path());
    assert_eq!(code, 2);
    assert!(said.contains("did you mean linger_ms?"), "{said}");

    let file = out.path().join("file");
    fs::write(&file, "").unwrap();
    let (code, said, _) = ended(bench(&address, &file.join("below"), &[]), out.path());
    assert_eq!(code, 2);
    assert!(said.contains("output folder"), "{said}");
    let left: Vec<_> = fs::read_dir(out.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_full_disk_is_said_and_no_half_file_is_left() {
    let fake = Fake::start(Fault::None);
    let out = tempfile::tempdir().unwrap();
    let half = out.path().join("result.json.part");
    std::os::unix::fs::symlink("/dev/full", &half).unwrap();
    let (code, said, _) = ended(bench(&fake.address, out.path(), &SHORT), out.path());
    assert_eq!(code, 2);
    assert!(said.contains("No space left on device"), "{said}");
    assert!(fs::read_dir(out.path()).unwrap().next().is_none());
}
