//! What a hostile peer may send.

use bytes::{Bytes, BytesMut};

use super::*;
use crate::protocol::api::{Lookup, key};
use crate::protocol::fetch::decode_fetch_request;
use crate::protocol::frame::{parse_header, peek};
use crate::protocol::fuzz::{Fuzzer, request_body};
use crate::protocol::produce::decode_produce_request;
use crate::protocol::walker::walk;
use crate::protocol::{MAX_ELEMENTS, MAX_TAGS, Reason, response::decode_request};

#[test]
fn every_truncation_of_a_request_is_malformed() {
    let mut rng = Rng::new(3);
    for (api, version) in served() {
        for _ in 0..20 {
            let body = request_body(&mut rng, api.key, version, true);
            for cut in 0..body.len() {
                let walked = walk(api.key, version, &body[..cut]);
                assert!(walked.is_err(), "{} {version} cut at {cut}", api.name);
            }
        }
    }
}

#[test]
fn bytes_behind_a_request_are_ignored_as_kafka_does() {
    let mut rng = Rng::new(4);
    for (api, version) in served() {
        let mut body = request_body(&mut rng, api.key, version, false);
        let length = body.len();
        body.extend_from_slice(&[0xff; 9]);
        assert_eq!(walk(api.key, version, &body).unwrap().consumed, length);
    }
}

/// Pushes a frame through everything here that looks at bytes of a peer; says whether it was accepted.
fn push(frame: &[u8]) -> bool {
    let Some(head) = peek(frame) else {
        return false;
    };
    let Lookup::Served(api) = api::lookup(head.api_key, head.api_version) else {
        return false;
    };
    let Ok(header) = parse_header(api, frame) else {
        return false;
    };
    let body = &frame[header.body_offset..];
    let version = head.api_version;
    let walked = walk(api.key, version, body);
    if let Ok(walked) = &walked {
        // An empty array costs a byte and a struct with one tag three: nothing is worth more memory.
        let most = 1024 + 256 * body.len();
        assert!(
            walked.memory_bytes <= most,
            "{} {version}: {walked:?}",
            api.name
        );
        let decoded = decode_any(api.key, version, &body[..walked.consumed]);
        // Only Fetch has tags that a served version does not know and a later one does, and Fetch is not
        // decoded by the crate.
        if api.key != key::FETCH {
            decoded.unwrap_or_else(|e| panic!("{} {version}: {e}: {body:?}", api.name));
        }
    }
    match api.key {
        key::PRODUCE => {
            let ours = decode_produce_request(version, BytesMut::from(body));
            assert_eq!(ours.map(drop), walked.map(drop));
        }
        key::FETCH => {
            let ours = decode_fetch_request(version, body);
            assert_eq!(
                ours.is_ok(),
                walked.is_ok(),
                "{version} {ours:?} {walked:?}"
            );
        }
        _ => {}
    }
    walked.is_ok()
}

#[test]
fn no_mutated_frame_panics_and_what_is_walked_is_decoded() {
    // A longer run, or another: RINGSPUN_FUZZ_FRAMES, RINGSPUN_FUZZ_SEED.
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let frames = number("RINGSPUN_FUZZ_FRAMES").unwrap_or(50_000);
    let mut fuzzer = Fuzzer::new(number("RINGSPUN_FUZZ_SEED").unwrap_or(5));
    let mut accepted = 0;
    for _ in 0..frames {
        accepted += u64::from(push(&fuzzer.next_frame()));
    }
    // Both outcomes are exercised.
    assert!(
        (frames / 10..frames - frames / 10).contains(&accepted),
        "{accepted}"
    );
}

#[test]
fn the_same_seed_gives_the_same_frames() {
    let (mut a, mut b) = (Fuzzer::new(9), Fuzzer::new(9));
    for _ in 0..100 {
        assert_eq!(a.next_frame(), b.next_frame());
    }
}

fn reason(key: i16, version: i16, body: &[u8]) -> Reason {
    walk(key, version, body).unwrap_err().reason
}

#[test]
fn a_count_that_would_abort_the_process_is_malformed() {
    // Metadata 1 with 2^31-1 topics; Metadata 9 with 2^32-2.
    assert_eq!(
        reason(key::METADATA, 1, &[0x7f, 0xff, 0xff, 0xff]),
        Reason::BeyondEnd
    );
    let compact = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0, 0];
    assert_eq!(reason(key::METADATA, 9, &compact), Reason::BeyondEnd);
}

#[test]
fn more_elements_than_the_limit_are_malformed_even_when_they_are_there() {
    // ElectLeaders 0: one topic without a name and one-way traffic of 4-byte partitions.
    let count = MAX_ELEMENTS as i32 - 1;
    let mut body = vec![0, 0, 0, 1, 0, 0];
    body.extend_from_slice(&count.to_be_bytes());
    body.resize(body.len() + 4 * (count as usize + 1) + 4, 0);
    assert!(walk(key::ELECT_LEADERS, 0, &body).is_ok());
    body[6..10].copy_from_slice(&(count + 1).to_be_bytes());
    assert_eq!(
        reason(key::ELECT_LEADERS, 0, &body),
        Reason::TooManyElements
    );
}

#[test]
fn more_tags_than_the_limit_are_malformed_even_when_they_are_there() {
    // ApiVersions 3: empty name and version, then tags without content.
    let body = |tags: usize| {
        let mut body = vec![1, 1];
        body.extend_from_slice(&[(tags & 0x7f) as u8 | 0x80, (tags >> 7) as u8]);
        body.resize(body.len() + 2 * tags, 0);
        body
    };
    assert!(walk(key::API_VERSIONS, 3, &body(MAX_TAGS)).is_ok());
    assert_eq!(
        reason(key::API_VERSIONS, 3, &body(MAX_TAGS + 1)),
        Reason::TooManyTags
    );
}

#[test]
fn a_null_is_malformed_where_the_version_has_none() {
    // Metadata 0 asks for all topics with an empty array; null is from version 1 on.
    assert_eq!(reason(key::METADATA, 0, &[0xff; 4]), Reason::UnexpectedNull);
    assert!(walk(key::METADATA, 1, &[0xff; 4]).is_ok());
    assert_eq!(
        reason(key::METADATA, 1, &[0xff, 0xff, 0xff, 0xfe]),
        Reason::BadLength
    );
}

#[test]
fn an_overlong_varint_is_malformed() {
    let body = [0x80, 0x80, 0x80, 0x80, 0x80, 0x00];
    assert_eq!(reason(key::METADATA, 9, &body), Reason::BadVarint);
}

#[test]
fn a_string_that_is_not_utf8_is_malformed() {
    assert_eq!(
        reason(key::API_VERSIONS, 3, &[2, 0xff, 1, 0]),
        Reason::NotUtf8
    );
}

#[test]
fn an_api_or_version_that_is_not_served_is_not_walked() {
    assert_eq!(reason(key::METADATA, 14, &[0; 64]), Reason::NotServed);
    assert_eq!(reason(4, 0, &[0; 64]), Reason::NotServed);
    assert!(decode_fetch_request(3, &[0; 64]).is_err());
    assert!(decode_produce_request(2, BytesMut::zeroed(64)).is_err());
}

#[test]
fn decoding_walks_first() {
    let body = Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff]);
    let refused = decode_request::<MetadataRequest>(1, body).unwrap_err();
    assert_eq!(refused.reason, Reason::BeyondEnd);
    let body = Bytes::from_static(&[0, 0, 0, 1, 0, 1, b't', 9, 9, 9]);
    let request: MetadataRequest = decode_request(1, body).unwrap();
    assert_eq!(request.topics.unwrap().len(), 1);
    // A version newer than the crate knows.
    let mut rng = Rng::new(6);
    let body = request_body(&mut rng, key::LIST_OFFSETS, 11, false);
    decode_request::<ListOffsetsRequest>(11, body.into()).unwrap();
}
