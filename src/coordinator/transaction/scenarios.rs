//! Runs the text files in `tests/scenarios/transactions/`. A step a line; what follows `->` is all that comes
//! of it: answers, then effects, separated by ` | `. `#` begins a comment.
//!
//! ```text
//! settings transaction.max.timeout.ms=1000     before the first step
//! feature 1                    transaction.version is finalized at 1
//! epoch ID E                   the id is there, at this epoch of a fresh producer id
//! init ID [timeout=60000] [pid=P epoch=E]      InitProducerId                  -> pid=P epoch=E
//! add ID pid=P epoch=E TOPIC-N... [v=2] [wait=MS]   AddPartitionsToTxn         -> ok
//! verify ID pid=P epoch=E TOPIC-N...           the same, to verify only        -> TOPIC-N=CODE ...
//! end ID pid=P epoch=E commit|abort [v=2]      EndTxn                          -> pid=P epoch=E
//! written ID pid=P epoch=E TOPIC-N[=gone|=retry]...   what came of the markers
//! tick MS                      time passes; what is due is done
//! restart                      the machine is made anew from its log
//! describe ID                  -> STATE pid=P epoch=E [TOPIC-N ...]
//! list [pid=P] [state=S] [duration=MS]         -> ID ...
//! last                         the last record: -> ID STATE pid=P prev=P next=P epoch=E v=V [TOPIC-N ...]
//! ```
//!
//! An effect is `markers commit|abort ID pid=P epoch=E v=V TOPIC-N ...`. A request that waits says nothing;
//! its answer, when it comes, is preceded by its number (`1:` is the first request of the file that
//! waited). Fresh producer ids are 1000, 1001, ...; time begins at 0; records are of a broker that has
//! topics `a`, `b` and `__transaction_state`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::base::Offset;
use crate::base::settings::{Inputs, NodeSettings, load};
use crate::metadata::MetadataRecord;

pub(super) fn settings(text: &str) -> NodeSettings {
    let inputs = Inputs {
        file: Some(("scenario", text)),
        ..Inputs::default()
    };
    load(&inputs).expect("settings of a scenario").settings
}

/// The machine, its log, and what a host does.
pub(super) struct Bench {
    pub machine: TransactionMachine,
    pub log: Vec<CoordinatorRecord>,
    pub image: Image,
    pub settings: NodeSettings,
    pub now: i64,
    next_producer_id: i64,
    next_token: u64,
}

/// What came of a step, as a host lets it out.
#[derive(Default)]
pub(super) struct Came {
    pub answers: Vec<(Token, Answer)>,
    pub effects: Vec<Effect>,
}

impl Bench {
    pub fn new(settings: NodeSettings) -> Self {
        let mut bench = Self {
            machine: TransactionMachine::new(PartitionIndex(0)),
            log: Vec::new(),
            image: Image::default(),
            settings,
            now: 0,
            next_producer_id: 1000,
            next_token: 0,
        };
        bench.restart();
        bench
    }

    pub fn feature(&mut self, level: i16) {
        let record = MetadataRecord::FeatureLevel {
            name: TRANSACTION_VERSION_FEATURE.to_owned(),
            level,
        };
        let version = self.image.version() + 1;
        self.image = self.image.apply(version, &[record]).unwrap().0;
    }

    fn call(
        &mut self,
        what: impl FnOnce(&mut TransactionMachine, &mut Context<'_>) -> Outcome<TransactionMachine>,
    ) -> Came {
        let mut context = Context {
            now: Timestamp(self.now),
            image: &self.image,
            settings: &self.settings,
            random: &mut || 0,
        };
        let outcome = what(&mut self.machine, &mut context);
        assert!(outcome.producer.is_none());
        check_records(&outcome.records);
        for record in outcome.records {
            let at = Position {
                offset: Offset(self.log.len() as i64),
                timestamp: Timestamp(self.now),
                producer: None,
            };
            self.machine.apply(&record, at).unwrap();
            self.log.push(record);
        }
        self.machine.check();
        Came {
            answers: outcome.answers,
            effects: outcome.effects,
        }
    }

    pub fn fresh(&mut self) -> ProducerId {
        self.next_producer_id += 1;
        ProducerId(self.next_producer_id - 1)
    }

    /// A transactional id that has come a long way.
    pub fn put(&mut self, id: &TransactionalId, producer_id: ProducerId, epoch: ProducerEpoch) {
        let txn = Transaction {
            producer_epoch: epoch,
            prev_producer_id: producer_id,
            ..Transaction::created(producer_id, 60_000, Timestamp(self.now))
        };
        self.call(|_, _| Outcome {
            records: vec![record::encode(id, &txn, TRANSACTION_VERSION_2)],
            ..Outcome::default()
        });
    }

    pub fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    /// Asks, and again with a fresh producer id if one is needed.
    pub fn ask(&mut self, token: Token, ask: impl Fn(Option<ProducerId>) -> Ask) -> Came {
        let came = self.call(|machine, context| machine.ask(context, token, ask(None)));
        if !matches!(came.answers.first(), Some((_, Answer::NeedsProducerId))) {
            return came;
        }
        assert!(came.effects.is_empty());
        let fresh = self.fresh();
        self.call(|machine, context| machine.ask(context, token, ask(Some(fresh))))
    }

    pub fn restart(&mut self) -> Came {
        let mut machine = TransactionMachine::new(PartitionIndex(0));
        for (offset, record) in self.log.iter().enumerate() {
            let at = Position {
                offset: Offset(offset as i64),
                timestamp: Timestamp(self.now),
                producer: None,
            };
            machine.apply(record, at).unwrap();
        }
        self.machine = machine;
        self.call(|machine, context| machine.loaded(context))
    }

    /// Time passes, deadline by deadline.
    pub fn tick(&mut self, ms: i64) -> Came {
        let end = self.now + ms;
        let mut all = Came::default();
        let mut calls = 0;
        while let Some(Timestamp(at)) = self.machine.next_deadline()
            && at <= end
        {
            self.now = self.now.max(at);
            let came = self.call(|machine, context| machine.expire(context));
            all.answers.extend(came.answers);
            for effect in came.effects {
                match effect {
                    Effect::ProducerId { transactional_id } => {
                        let (token, fresh) = (self.token(), self.fresh());
                        let came = self.call(|machine, context| {
                            let ask = Ask::AbortTimedOut {
                                transactional_id,
                                fresh,
                            };
                            machine.ask(context, token, ask)
                        });
                        all.effects.extend(came.effects);
                    }
                    Effect::WriteMarkers(_) => all.effects.push(effect),
                }
            }
            calls += 1;
            assert!(calls < 100_000, "a deadline that does not pass");
        }
        self.now = end;
        all
    }
}

/// What one outcome may come to: it fits into a batch, and decides about an id once.
fn check_records(records: &[CoordinatorRecord]) {
    let value = |record: &CoordinatorRecord| record.value.clone().unwrap_or_default();
    let bytes: usize = records.iter().map(|r| r.key.len() + value(r).len()).sum();
    assert!(records.len() <= 2 || bytes <= 2 * EXPIRE_BYTES, "{bytes}");
    let mut last: BTreeMap<&[u8], State> = BTreeMap::new();
    for record in records {
        let state = match &record.value {
            Some(value) => record::decode_value(value).unwrap().state,
            None => State::Empty,
        };
        // But that one without partitions is prepared and complete at once.
        let before = last.insert(&record.key[..], state);
        assert!(
            before.is_none_or(State::is_prepared),
            "{before:?}, {state:?}"
        );
    }
}

impl TransactionMachine {
    /// What holds at every moment.
    fn check(&self) {
        for (id, txn) in &self.transactions {
            let ongoing = self.ongoing.contains(&(txn.times_out_at(), id.clone()));
            assert_eq!(ongoing, txn.state == State::Ongoing);
            let idle = self.idle.contains(&(txn.last_update, id.clone()));
            assert_eq!(idle, txn.state.is_idle());
            assert_eq!(self.ending.contains_key(id), txn.state.is_prepared());
            assert!(txn.producer_epoch >= ProducerEpoch(0));
        }
        let count = self.ongoing.len() + self.idle.len() + self.ending.len();
        assert_eq!(count, self.transactions.len());
        let waiting: usize = self.waiting.values().map(Vec::len).sum();
        assert_eq!(waiting, self.waiting_count);
    }
}

/// `ConcurrentTransactions` is `CONCURRENT_TRANSACTIONS`.
pub(super) fn code(code: ErrorCode) -> String {
    let mut out = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_uppercase());
    }
    out
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
                // A partition with what became of it.
                Some((name, _)) if name.contains('-') => words.plain.push(word),
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

    fn producer(&self) -> (ProducerId, ProducerEpoch) {
        let epoch = self.number("epoch", -1) as i16;
        (ProducerId(self.number("pid", -1)), ProducerEpoch(epoch))
    }

    fn partitions(&self, from: usize) -> Vec<NamedPartition> {
        self.plain[from..].iter().map(|word| named(word)).collect()
    }
}

fn named(word: &str) -> NamedPartition {
    let word = word.split('=').next().unwrap();
    let (topic, partition) = word.rsplit_once('-').expect("TOPIC-N");
    NamedPartition {
        topic: Arc::from(topic),
        partition: PartitionIndex(partition.parse().unwrap()),
    }
}

fn spell<'a>(partitions: impl IntoIterator<Item = &'a NamedPartition>) -> String {
    let spelled = partitions
        .into_iter()
        .map(|p| format!(" {}-{}", p.topic, p.partition));
    spelled.collect()
}

fn spell_answer(answer: &Answer) -> String {
    let with = |result: &Result<(ProducerId, ProducerEpoch), ErrorCode>| match result {
        Ok((producer_id, epoch)) => format!("pid={producer_id} epoch={epoch}"),
        Err(error) => code(*error),
    };
    match answer {
        Answer::InitProducerId(result) | Answer::End(result) => with(result),
        Answer::NeedsProducerId => "needs a producer id".into(),
        Answer::AddPartitions(ErrorCode::None) => "ok".into(),
        Answer::AddPartitions(error) => code(*error),
        Answer::VerifyPartitions(Err(error)) => code(*error),
        Answer::VerifyPartitions(Ok(results)) => {
            let results = results
                .iter()
                .map(|(p, error)| format!("{}-{}={}", p.topic, p.partition, code(*error)));
            results.collect::<Vec<_>>().join(" ")
        }
        Answer::Describe(Err(error)) => code(*error),
        Answer::Describe(Ok(txn)) => format!(
            "{} pid={} epoch={}{}",
            txn.state.name(),
            txn.producer_id,
            txn.producer_epoch,
            spell(&txn.partitions)
        ),
        Answer::List(listed) => {
            let ids: Vec<&str> = listed.iter().map(|l| &*l.transactional_id).collect();
            ids.join(" ")
        }
        Answer::Done => String::new(),
    }
}

fn spell_effect(effect: &Effect) -> String {
    match effect {
        Effect::WriteMarkers(markers) => format!(
            "markers {} {} pid={} epoch={} v={}{}",
            if markers.commit { "commit" } else { "abort" },
            markers.transactional_id,
            markers.producer_id,
            markers.producer_epoch,
            markers.client_version,
            spell(&markers.partitions)
        ),
        Effect::ProducerId { transactional_id } => format!("producer id for {transactional_id}"),
    }
}

struct Run {
    bench: Bench,
    /// Requests that wait, with their numbers.
    waiting: BTreeMap<Token, u32>,
    waited: u32,
}

impl Run {
    fn step(&mut self, step: &str) -> String {
        let words = Words::of(step);
        let id = || -> TransactionalId {
            match words.plain[1] {
                "''" => Arc::from(""),
                id => Arc::from(id),
            }
        };
        let (producer_id, producer_epoch) = words.producer();
        let bench = &mut self.bench;
        let token = bench.token();
        let came = match words.plain[0] {
            "feature" => {
                bench.feature(words.plain[1].parse().unwrap());
                Came::default()
            }
            "epoch" => {
                let fresh = bench.fresh();
                let epoch = words.plain[2].parse().unwrap();
                bench.put(&id(), fresh, ProducerEpoch(epoch));
                Came::default()
            }
            "init" => {
                let expected = words
                    .named
                    .contains_key("pid")
                    .then_some((producer_id, producer_epoch));
                bench.ask(token, |fresh| Ask::InitProducerId {
                    transactional_id: id(),
                    timeout_ms: words.number("timeout", 60_000) as i32,
                    expected,
                    fresh,
                })
            }
            "add" => bench.ask(token, |_| Ask::AddPartitions {
                transactional_id: id(),
                producer_id,
                producer_epoch,
                partitions: words.partitions(2),
                client_version: words.number("v", 0) as i16,
                patience_ms: words.number("wait", 0) as u32,
            }),
            "verify" => bench.ask(token, |_| Ask::VerifyPartitions {
                transactional_id: id(),
                producer_id,
                producer_epoch,
                partitions: words.partitions(2),
            }),
            "end" => {
                let commit = words.plain[2] == "commit";
                assert!(commit || words.plain[2] == "abort");
                bench.ask(token, |fresh| Ask::End {
                    transactional_id: id(),
                    producer_id,
                    producer_epoch,
                    commit,
                    client_version: words.number("v", 0) as i16,
                    fresh,
                })
            }
            "written" => {
                let result = |word: &&str| {
                    let result = match word.split_once('=') {
                        None => MarkerResult::Written,
                        Some((_, "gone")) => MarkerResult::Gone,
                        Some((_, "retry")) => MarkerResult::Retry,
                        Some((_, other)) => panic!("{other}"),
                    };
                    (named(word), result)
                };
                let partitions: Vec<_> = words.plain[2..].iter().map(result).collect();
                bench.ask(token, |_| Ask::MarkersWritten {
                    transactional_id: id(),
                    producer_id,
                    producer_epoch,
                    partitions: partitions.clone(),
                })
            }
            "tick" => bench.tick(words.plain[1].parse().unwrap()),
            "restart" => bench.restart(),
            "describe" => bench.ask(token, |_| Ask::Describe {
                transactional_id: id(),
            }),
            "list" => {
                let state = words.named.get("state").map(|name| {
                    let state = State::ALL.into_iter().find(|state| state.name() == *name);
                    state.into_iter().collect()
                });
                let pids = words.named.contains_key("pid").then_some(producer_id);
                let filter = Arc::new(ListFilter {
                    producer_ids: pids.into_iter().collect(),
                    states: state,
                    duration_ms: words.number("duration", -1),
                    id_matches: None,
                });
                bench.ask(token, |_| Ask::List(filter.clone()))
            }
            "last" => return self.last(),
            other => panic!("unknown step {other:?}"),
        };
        if came.answers.is_empty() && words.plain[0] == "add" {
            self.waited += 1;
            self.waiting.insert(token, self.waited);
        }
        let mut said = Vec::new();
        for (to, answer) in &came.answers {
            let spelled = spell_answer(answer);
            match self.waiting.remove(to) {
                Some(number) => said.push(format!("{number}: {spelled}")),
                None if spelled.is_empty() => {}
                None => {
                    assert_eq!(*to, token);
                    said.push(spelled);
                }
            }
        }
        said.extend(came.effects.iter().map(spell_effect));
        said.join(" | ")
    }

    fn last(&self) -> String {
        let Some(record) = self.bench.log.last() else {
            return "none".into();
        };
        let id = record::decode_key(&record.key).unwrap();
        let Some(value) = &record.value else {
            return format!("{id} tombstone");
        };
        let txn = record::decode_value(value).unwrap();
        format!(
            "{id} {} pid={} prev={} next={} epoch={} v={}{}",
            txn.state.name(),
            txn.producer_id,
            txn.prev_producer_id,
            txn.next_producer_id,
            txn.producer_epoch,
            txn.client_version,
            spell(&txn.partitions)
        )
    }
}

fn run(file: &str, text: &str) {
    let mut lines = String::from("listeners=PLAINTEXT://127.0.0.1:0\n");
    let mut run: Option<Run> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        if let Some(setting) = line.strip_prefix("settings ") {
            assert!(run.is_none(), "settings come first");
            lines += &format!("{setting}\n");
            continue;
        }
        let run = run.get_or_insert_with(|| Run {
            bench: Bench::new(settings(&lines)),
            waiting: BTreeMap::new(),
            waited: 0,
        });
        let (step, expected) = line.split_once("->").unwrap_or((line, ""));
        let expected: Vec<&str> = expected.split_whitespace().collect();
        let found = run.step(step.trim());
        assert_eq!(found, expected.join(" "), "{file}:{}: {line}", number + 1);
    }
    assert!(run.is_some());
}

#[test]
fn transactions_follow_the_scenarios() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios/transactions");
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
#[should_panic(expected = "PRODUCER_FENCED")]
fn a_scenario_that_expects_the_wrong_thing_fails() {
    run(
        "canary",
        "init tx -> pid=1000 epoch=0\nadd tx pid=1000 epoch=1 a-0 -> ok",
    );
}

#[test]
fn ids_belong_to_the_partition_that_kafka_says() {
    // What Java says of Utils.abs(id.hashCode()) % 50; the last hash is -2147483648.
    for (id, partition) in [
        ("", 0),
        ("a", 47),
        ("tx", 16),
        ("my-transactional-id", 46),
        ("\u{e9}\u{1f600}", 12),
        ("polygenelubricants", 0),
    ] {
        assert_eq!(partition_for(id, 50), PartitionIndex(partition), "{id}");
    }
}

#[test]
fn what_times_out_together_is_aborted_in_batches_that_fit() {
    let mut bench = Bench::new(settings(""));
    for n in 0..300 {
        let id: TransactionalId = format!("tx-{n}").into();
        let token = bench.token();
        let mut came = bench.ask(token, |fresh| Ask::InitProducerId {
            transactional_id: id.clone(),
            timeout_ms: 1_000,
            expected: None,
            fresh,
        });
        let Some((_, Answer::InitProducerId(Ok((producer_id, producer_epoch))))) =
            came.answers.pop()
        else {
            panic!("no producer id");
        };
        let partition = |n| NamedPartition {
            topic: "a".into(),
            partition: PartitionIndex(n),
        };
        bench.ask(token, |_| Ask::AddPartitions {
            transactional_id: id.clone(),
            producer_id,
            producer_epoch,
            partitions: (0..1_000).map(partition).collect(),
            client_version: TRANSACTION_VERSION_2,
            patience_ms: 0,
        });
    }
    assert_eq!(bench.tick(20_000).effects.len(), 300);
}
