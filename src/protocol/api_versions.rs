//! ApiVersions (key 18), versions 0 to 4: what a client asks first, and must be able to read whatever
//! version it guessed (KIP-511).

use bytes::Bytes;
use kafka_protocol::messages::ApiVersionsResponse;
use kafka_protocol::messages::api_versions_response::{
    ApiVersion, FinalizedFeatureKey, SupportedFeatureKey,
};

use super::StrBytes;
use super::api::{self, APIS, Api, key};
use super::errors::ErrorCode;
use super::response::{EncodeError, encode_response};

/// A feature with levels (KIP-584).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    pub name: &'static str,
    /// Lowest and highest level this broker can work at.
    pub min: i16,
    pub max: i16,
    /// The level it works at; 0 is "not at all", and is not sent.
    pub finalized: i16,
}

/// Every feature that is served, in the order of names: the only place that says so. `kafka-features
/// describe` prints these rows.
///
/// A feature is listed when all that its level promises works, and not before: clients act on it (a Java
/// producer speaks the transaction protocol of KIP-890 from `transaction.version` 2 on). Levels are those
/// of Kafka 4.3. Left out on purpose: `kraft.version`, because the quorum is not KRaft's, and
/// `eligible.leader.replicas.version`, because no such replicas are kept (KIP-966).
pub static FEATURES: &[Feature] = &[
    // 1 is the consumer group protocol of KIP-848.
    Feature {
        name: "group.version",
        min: 0,
        max: 1,
        finalized: 1,
    },
    // 30 is 4.3-IV0, the release whose APIs these are; web consoles show it as the broker's version. No
    // other level, because the metadata log is our own and has one format.
    Feature {
        name: "metadata.version",
        min: 30,
        max: 30,
        finalized: 30,
    },
    // Clients of level 2 add partitions by producing to them, and have a new epoch after each end (KIP-890).
    Feature {
        name: "transaction.version",
        min: 0,
        max: 2,
        finalized: 2,
    },
];

/// The features of the cluster (KIP-584), in the order in which they are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Features {
    /// Name, lowest and highest level this broker can work at.
    pub supported: Vec<(&'static str, i16, i16)>,
    /// Name and level the cluster works at; a level of 0 is not sent.
    pub finalized: Vec<(&'static str, i16)>,
    /// Version of the finalized set, -1 if there is none.
    pub finalized_epoch: i64,
}

impl Features {
    /// What [`FEATURES`] says. `epoch` must not go back while a client is connected, and is not negative:
    /// clients keep the levels of the highest epoch they saw.
    pub fn served(epoch: i64) -> Self {
        Self {
            supported: FEATURES.iter().map(|f| (f.name, f.min, f.max)).collect(),
            finalized: FEATURES.iter().map(|f| (f.name, f.finalized)).collect(),
            finalized_epoch: epoch.max(0),
        }
    }
}

/// The answer to an ApiVersions request of a version that is served.
///
/// Features go out from version 3 on, and only where they say something: a tagged field at its default
/// is misread by librdkafka before 2.2. Below version 4, features whose lowest level is 0 are left out,
/// because older clients fail on them (KAFKA-17011).
pub fn response(version: i16, features: &Features, throttle_time_ms: i32) -> ApiVersionsResponse {
    let mut response =
        ApiVersionsResponse::default().with_api_keys(APIS.iter().map(advertised).collect());
    if version >= 1 {
        response.throttle_time_ms = throttle_time_ms;
    }
    if version >= 3 {
        response.supported_features = features
            .supported
            .iter()
            .filter(|(_, min, _)| version >= 4 || *min != 0)
            .map(|&(name, min, max)| {
                SupportedFeatureKey::default()
                    .with_name(StrBytes::from_static_str(name))
                    .with_min_version(min)
                    .with_max_version(max)
            })
            .collect();
        response.finalized_features = features
            .finalized
            .iter()
            .filter(|(_, level)| *level != 0)
            .map(|&(name, level)| {
                FinalizedFeatureKey::default()
                    .with_name(StrBytes::from_static_str(name))
                    .with_max_version_level(level)
                    .with_min_version_level(level)
            })
            .collect();
        response.finalized_features_epoch = features.finalized_epoch;
    }
    response
}

fn advertised(api: &Api) -> ApiVersion {
    ApiVersion::default()
        .with_api_key(api.key)
        .with_min_version(api.min_advertised)
        .with_max_version(api.max)
}

/// The frame that answers an ApiVersions request of a version that is not served: version 0, which every
/// client can read, with UNSUPPORTED_VERSION and the versions of ApiVersions alone.
pub fn encode_unsupported_version(correlation_id: i32) -> Result<Bytes, EncodeError> {
    let response = ApiVersionsResponse::default()
        .with_error_code(ErrorCode::UnsupportedVersion.code())
        .with_api_keys(
            api::find(key::API_VERSIONS)
                .into_iter()
                .map(advertised)
                .collect(),
        );
    encode_response(key::API_VERSIONS, 0, correlation_id, &response)
}

/// The answer to a request whose software name or version is not valid (v3+): INVALID_REQUEST, no list.
pub fn invalid_request(version: i16, throttle_time_ms: i32) -> ApiVersionsResponse {
    let throttle_time_ms = if version >= 1 { throttle_time_ms } else { 0 };
    ApiVersionsResponse::default()
        .with_error_code(ErrorCode::InvalidRequest.code())
        .with_throttle_time_ms(throttle_time_ms)
}

/// Whether a client's software name or version (v3+) is one Kafka takes: letters, digits, `-` and `.`,
/// with a letter or digit at both ends (KIP-511).
pub fn client_software_is_valid(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.iter()
        .all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::protocol::Decodable;

    fn features() -> Features {
        Features {
            supported: vec![("kraft.version", 0, 1), ("metadata.version", 7, 29)],
            finalized: vec![("kraft.version", 0), ("metadata.version", 29)],
            finalized_epoch: 12,
        }
    }

    #[test]
    fn an_unknown_version_is_answered_in_version_0_with_the_range_of_api_versions() {
        let frame = encode_unsupported_version(0x01020304).unwrap();
        assert_eq!(
            &frame[..],
            [
                0, 0, 0, 16, 1, 2, 3, 4, // length, correlation id
                0, 35, 0, 0, 0, 1, // UNSUPPORTED_VERSION, one key
                0, 18, 0, 0, 0, 4
            ]
        );
    }

    #[test]
    fn features_that_begin_at_0_are_left_out_below_version_4() {
        for version in 0..=4 {
            let built = response(version, &features(), 0);
            let supported: Vec<&str> = built.supported_features.iter().map(|f| &*f.name).collect();
            let expected: &[&str] = match version {
                0..=2 => &[],
                3 => &["metadata.version"],
                _ => &["kraft.version", "metadata.version"],
            };
            assert_eq!(supported, expected);
            let finalized = if version >= 3 { 1 } else { 0 };
            assert_eq!(built.finalized_features.len(), finalized);
            let frame = encode_response(key::API_VERSIONS, version, 1, &built).unwrap();
            let mut body = frame.slice(8..);
            assert_eq!(
                ApiVersionsResponse::decode(&mut body, version).unwrap(),
                built
            );
            assert!(body.is_empty());
        }
    }

    #[test]
    fn a_response_without_features_has_no_tagged_field() {
        let none = Features {
            finalized_epoch: -1,
            ..Features::default()
        };
        for version in 3..=4 {
            let built = response(version, &none, 0);
            let frame = encode_response(key::API_VERSIONS, version, 1, &built).unwrap();
            // Error code, count, 7 bytes a row, throttle time, tag section; no tag in the header.
            assert_eq!(frame.len(), 8 + 2 + 1 + 7 * APIS.len() + 4 + 1);
            assert_eq!(frame.last(), Some(&0));
        }
    }

    #[test]
    fn every_listed_feature_works_at_a_level_within_its_range() {
        assert!(FEATURES.is_sorted_by_key(|f| f.name));
        for feature in FEATURES {
            let levels = feature.min..=feature.max;
            assert!(levels.contains(&feature.finalized), "{feature:?}");
        }
        let response = response(4, &Features::served(-1), 0);
        assert_eq!(response.finalized_features_epoch, 0);
        assert_eq!(response.supported_features.len(), FEATURES.len());
    }

    #[test]
    fn names_of_client_software_are_kafkas() {
        for good in ["kcat", "apache-kafka-java", "3.7.0", "a", "a--b"] {
            assert!(client_software_is_valid(good), "{good}");
        }
        for bad in ["", "-a", "a.", "a b", "a_b", "ä"] {
            assert!(!client_software_is_valid(bad), "{bad}");
        }
    }
}
