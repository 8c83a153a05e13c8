//! Fetch sessions (KIP-227): what is asked once is answered until it is forgotten, and told when it
//! changed.

use kafka_protocol::messages::fetch_request::{FetchTopic, ForgottenTopic};
use kafka_protocol::messages::{FetchRequest, FetchResponse};

use crate::wire::*;

fn session(id: i32, epoch: i32, topics: Vec<FetchTopic>) -> FetchRequest {
    fetch_request(0, 0, topics)
        .with_session_id(id)
        .with_session_epoch(epoch)
}

fn told(response: &FetchResponse) -> Vec<i32> {
    let partitions = response.responses.iter().flat_map(|t| &t.partitions);
    partitions.map(|p| p.partition_index).collect()
}

fn begin(wire: &mut Wire, topic: &str, partitions: i32) -> i32 {
    let asked = (0..partitions).map(|p| fetch_partition(p, 0)).collect();
    let response = wire.ask(12, &session(0, 0, vec![fetch_topic(topic, asked)]));
    assert_eq!(response.error_code, 0);
    assert_ne!(response.session_id, 0);
    assert_eq!(told(&response).len(), partitions as usize);
    response.session_id
}

#[test]
fn a_session_tells_what_changed_and_nothing_else() {
    let mut wire = Wire::shared();
    let topic = name("session");
    wire.create(&topic, 4, &[]);
    let id = begin(&mut wire, &topic, 4);
    let response = wire.ask(12, &session(id, 1, vec![]));
    assert_eq!((response.session_id, told(&response)), (id, vec![]));
    wire.append(&topic, 2, batch(1));
    let response = wire.ask(12, &session(id, 2, vec![]));
    assert_eq!(told(&response), [2]);
    // Not moved on: the records come again.
    let response = wire.ask(12, &session(id, 3, vec![]));
    assert_eq!(told(&response), [2]);
    let moved = vec![fetch_topic(&topic, vec![fetch_partition(2, 1)])];
    let response = wire.ask(12, &session(id, 4, moved));
    assert_eq!(told(&response), Vec::<i32>::new());
}

#[test]
fn partitions_join_and_are_forgotten() {
    let mut wire = Wire::shared();
    let topic = name("session");
    wire.create(&topic, 4, &[]);
    for partition in 0..4 {
        wire.append(&topic, partition, batch(1));
    }
    let id = begin(&mut wire, &topic, 2);
    let joined = vec![fetch_topic(&topic, vec![fetch_partition(3, 0)])];
    let mut all = told(&wire.ask(12, &session(id, 1, joined)));
    all.sort();
    assert_eq!(all, [0, 1, 3]);
    let forgotten = ForgottenTopic::default()
        .with_topic(topic_name(&topic))
        .with_partitions(vec![0, 3]);
    let request = session(id, 2, vec![]).with_forgotten_topics_data(vec![forgotten]);
    assert_eq!(told(&wire.ask(12, &request)), [1]);
}

#[test]
fn what_had_records_goes_behind_what_had_none() {
    let mut wire = Wire::shared();
    let topic = name("session");
    wire.create(&topic, 3, &[]);
    for partition in 0..3 {
        wire.append(&topic, partition, batch_of_bytes(10_000));
    }
    let asked = (0..3).map(|p| fetch_partition(p, 0)).collect();
    let request = session(0, 0, vec![fetch_topic(&topic, asked)]).with_max_bytes(5_000);
    let response = wire.ask(12, &request);
    let with_records = |response: &FetchResponse| -> Vec<i32> {
        let partitions = response.responses.iter().flat_map(|t| &t.partitions);
        partitions
            .filter(|p| p.records.as_ref().is_some_and(|r| r.len() >= 10_000))
            .map(|p| p.partition_index)
            .collect()
    };
    let mut seen = with_records(&response);
    for epoch in 1..4 {
        let request = session(response.session_id, epoch, vec![]).with_max_bytes(5_000);
        seen.extend(with_records(&wire.ask(12, &request)));
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen, [0, 1, 2], "no partition starves");
}

#[test]
fn unknown_sessions_and_wrong_epochs_are_refused() {
    let mut wire = Wire::shared();
    let topic = name("session");
    wire.create(&topic, 1, &[]);
    let response = wire.ask(12, &session(1_234_567, 1, vec![]));
    assert_eq!(response.error_code, code::FETCH_SESSION_ID_NOT_FOUND);
    assert_eq!(response.responses.len(), 0);
    let id = begin(&mut wire, &topic, 1);
    let response = wire.ask(12, &session(id, 5, vec![]));
    assert_eq!(response.error_code, code::INVALID_FETCH_SESSION_EPOCH);
    assert_eq!(wire.ask(12, &session(id, 1, vec![])).error_code, 0);
    // Closed by epoch -1.
    let response = wire.ask(12, &session(id, -1, vec![]));
    assert_eq!((response.error_code, response.session_id), (0, 0));
    let response = wire.ask(12, &session(id, 2, vec![]));
    assert_eq!(response.error_code, code::FETCH_SESSION_ID_NOT_FOUND);
}

#[test]
fn a_session_by_names_is_not_continued_by_ids() {
    let mut wire = Wire::shared();
    let topic = name("session");
    wire.create(&topic, 1, &[]);
    let id = begin(&mut wire, &topic, 1);
    let response = wire.ask(13, &session(id, 1, vec![]));
    assert_eq!(response.error_code, code::FETCH_SESSION_TOPIC_ID_ERROR);
}
