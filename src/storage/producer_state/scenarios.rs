//! Runs the text files in `tests/scenarios/producer_state/`. A step a line, `#` begins a comment:
//!
//! ```text
//! append pid=1 epoch=0 seq=0 [count=1] [txn] [time=0] [origin=client] -> RESULT
//! marker pid=1 epoch=0 commit|abort [coordinator=0] [time=0] [origin=coordinator] -> RESULT
//! hw 10                 the high watermark moves
//! start 10              the log start offset moves
//! expire 1000           producers idle at this time are forgotten   -> number
//! restart log           the state is rebuilt from the log from its start offset, and must be equal
//! restart snapshot [1]  the state is written as a snapshot and read again [at this time]
//! lso                   -> last stable offset
//! producer 1            -> none | epoch=E seq=S batches=N [txn=OFFSET]
//! ```
//!
//! RESULT is `offset N`, `duplicate N`, or the name of the error; for a marker `offset N`, and behind it
//! `committed FIRST..LAST` or `aborted FIRST..LAST stable OFFSET` when it ended a transaction.
//! `settings expiration=1000` comes before the first step. A step that is refused changes nothing.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::base::{LeaderEpoch, ProducerEpoch};
use crate::storage::producer_snapshot;

struct Run {
    state: ProducerState,
    log: Vec<(BatchHeader, Option<EndTxnMarker>)>,
    log_start_offset: Offset,
    high_watermark: Offset,
    /// Nothing was forgotten yet that the log still has.
    whole: bool,
}

struct Words<'a> {
    named: BTreeMap<&'a str, &'a str>,
    plain: Vec<&'a str>,
}

impl<'a> Words<'a> {
    fn of(text: &'a str) -> Self {
        let mut words = Words {
            named: BTreeMap::new(),
            plain: Vec::new(),
        };
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some((name, value)) => drop(words.named.insert(name, value)),
                None => words.plain.push(word),
            }
        }
        words
    }

    fn number(&self, name: &str, default: i64) -> i64 {
        match self.named.get(name) {
            Some(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text}")),
            None => default,
        }
    }

    fn has(&self, word: &str) -> bool {
        self.plain.contains(&word)
    }

    fn origin(&self, default: AppendOrigin) -> AppendOrigin {
        match self.named.get("origin") {
            None => default,
            Some(&"client") => AppendOrigin::Client,
            Some(&"coordinator") => AppendOrigin::Coordinator,
            Some(&"replication") => AppendOrigin::Replication,
            Some(other) => panic!("origin={other}"),
        }
    }
}

impl Run {
    fn new(expiration_ms: i64) -> Self {
        Run {
            state: ProducerState::new(expiration_ms, Offset(0)),
            log: Vec::new(),
            log_start_offset: Offset(0),
            high_watermark: Offset(0),
            whole: true,
        }
    }

    fn header(&self, words: &Words<'_>, control: bool) -> BatchHeader {
        let count = words.number("count", 1) as i32;
        let transactional = words.has("txn") || control;
        let epoch = words.number("epoch", 0);
        BatchHeader {
            base_offset: self.state.map_end_offset(),
            batch_length: 49,
            partition_leader_epoch: LeaderEpoch(0),
            crc: 0,
            attributes: if transactional { 0x10 } else { 0 } | if control { 0x20 } else { 0 },
            last_offset_delta: count - 1,
            base_timestamp: Timestamp(words.number("time", 0)),
            max_timestamp: Timestamp(words.number("time", 0)),
            producer_id: ProducerId(words.number("pid", -1)),
            producer_epoch: ProducerEpoch(epoch as i16),
            base_sequence: words.number("seq", -1) as i32,
            records_count: count,
        }
    }

    fn append(&mut self, words: &Words<'_>) -> String {
        let batch = self.header(words, false);
        let before = self.state.clone();
        let outcome = self.state.check(words.origin(AppendOrigin::Client), &batch);
        assert_eq!(before, self.state, "a check changes nothing");
        match outcome {
            Ok(Outcome::Append) => {
                self.log.push((batch, None));
                assert_eq!(self.state.update(&batch, None), None);
                format!("offset {}", batch.base_offset)
            }
            Ok(Outcome::Duplicate {
                base_offset,
                last_offset,
                ..
            }) => {
                assert_eq!(
                    last_offset.0 - base_offset.0,
                    i64::from(batch.last_offset_delta)
                );
                format!("duplicate {base_offset}")
            }
            Err(error) => name(&error),
        }
    }

    fn marker(&mut self, words: &Words<'_>) -> String {
        let batch = self.header(words, true);
        let marker = EndTxnMarker {
            outcome: if words.has("abort") {
                TxnOutcome::Abort
            } else {
                assert!(words.has("commit"));
                TxnOutcome::Commit
            },
            coordinator_epoch: words.number("coordinator", 0) as i32,
        };
        let origin = words.origin(AppendOrigin::Coordinator);
        if let Err(error) = self.state.check_marker(origin, &batch, &marker) {
            return name(&error);
        }
        self.log.push((batch, Some(marker)));
        let mut said = format!("offset {}", batch.base_offset);
        if let Some(done) = self.state.update(&batch, Some(&marker)) {
            let range = format!("{}..{}", done.first_offset, done.last_offset);
            said += &match done.aborted() {
                None => format!(" committed {range}"),
                Some(aborted) => format!(" aborted {range} stable {}", aborted.last_stable_offset),
            };
        }
        said
    }

    fn restart(&mut self, words: &Words<'_>) {
        let old = self.state.clone();
        if words.has("log") {
            let mut state = ProducerState::new(old.expiration_ms, self.log_start_offset);
            for (batch, marker) in &self.log {
                if batch.next_offset() > self.log_start_offset {
                    state.update(batch, marker.as_ref());
                }
            }
            state.on_high_watermark_updated(self.high_watermark);
            self.state = state;
            if self.whole {
                assert_eq!(self.state.producers, old.producers);
                assert_eq!(self.state.ongoing, old.ongoing);
                assert_eq!(self.state.unreplicated, old.unreplicated);
                assert_eq!(self.state.map_end_offset, old.map_end_offset);
            }
        } else {
            assert!(words.has("snapshot"));
            self.whole = false;
            let now = words.plain.get(2).map_or(0, |t| t.parse().unwrap());
            let (offset, bytes) = old.snapshot().expect("something was written");
            let entries = producer_snapshot::decode(&bytes).unwrap();
            self.state =
                ProducerState::from_snapshot(old.expiration_ms, entries, offset, Timestamp(now));
            assert_eq!(self.state.map_end_offset, old.map_end_offset);
            assert_eq!(
                self.state.snapshot(),
                None,
                "nothing new since the snapshot"
            );
        }
    }

    fn producer(&self, id: i64) -> String {
        let Some(entry) = self.state.get(ProducerId(id)) else {
            return "none".into();
        };
        let mut said = format!(
            "epoch={} seq={} batches={}",
            entry.producer_epoch,
            entry.last_sequence(),
            entry.batches().len()
        );
        if let Some(first) = entry.current_txn_first_offset {
            said += &format!(" txn={first}");
        }
        said
    }

    /// Does one step and says what came of it; nothing for steps that only change something.
    fn step(&mut self, step: &str) -> String {
        let words = Words::of(step);
        let argument = || -> i64 { words.plain[1].parse().expect("a number") };
        match words.plain[0] {
            "append" => return self.append(&words),
            "marker" => return self.marker(&words),
            "producer" => return self.producer(argument()),
            "expire" => {
                self.whole = false;
                return self.state.remove_expired(Timestamp(argument())).to_string();
            }
            "lso" => {
                return self
                    .state
                    .last_stable_offset(self.log_start_offset, self.high_watermark)
                    .to_string();
            }
            "hw" => {
                self.high_watermark = Offset(argument());
                self.state.on_high_watermark_updated(self.high_watermark);
            }
            "start" => {
                self.whole = false;
                self.log_start_offset = Offset(argument());
                self.state
                    .on_log_start_offset_incremented(self.log_start_offset);
            }
            "restart" => self.restart(&words),
            other => panic!("unknown step {other:?}"),
        }
        String::new()
    }
}

fn name(error: &SequenceError) -> String {
    match error {
        SequenceError::InvalidProducerEpoch { .. } => "INVALID_PRODUCER_EPOCH",
        SequenceError::OutOfOrderSequence { .. } | SequenceError::NewEpochNotAtZero { .. } => {
            "OUT_OF_ORDER_SEQUENCE_NUMBER"
        }
        SequenceError::NotTransactional { .. } => "INVALID_TXN_STATE",
        SequenceError::CoordinatorFenced { .. } => "TRANSACTION_COORDINATOR_FENCED",
    }
    .into()
}

fn run(file: &str, text: &str) {
    let mut run = Run::new(86_400_000);
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        if let Some(settings) = line.strip_prefix("settings ") {
            run = Run::new(Words::of(settings).number("expiration", 86_400_000));
            continue;
        }
        let (step, expected) = line.split_once("->").unwrap_or((line, ""));
        let expected: Vec<&str> = expected.split_whitespace().collect();
        let found = run.step(step.trim());
        assert_eq!(found, expected.join(" "), "{file}:{}: {line}", number + 1);
    }
}

#[test]
fn producer_state_follows_the_scenarios() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios/producer_state");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "txt") {
            run(
                &path.file_name().unwrap().to_string_lossy(),
                &std::fs::read_to_string(&path).unwrap(),
            );
            files += 1;
        }
    }
    assert!(files > 0, "no scenarios found");
}

#[test]
#[should_panic(expected = "INVALID_PRODUCER_EPOCH")]
fn a_scenario_that_expects_the_wrong_thing_fails() {
    run(
        "canary",
        "append pid=1 epoch=1 seq=0 -> offset 0\nappend pid=1 epoch=0 seq=1 -> offset 1",
    );
}
