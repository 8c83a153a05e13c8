//! The APIs that are served, in which versions: the only place that says so.

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Api {
    pub key: i16,
    /// Kafka's name of the API.
    pub name: &'static str,
    /// The oldest version that is served.
    pub min: i16,
    /// The newest version that is served, and advertised.
    pub max: i16,
    /// The oldest version that is advertised. Below `min` only for Produce: librdkafka goes wrong
    /// unless it is said to begin at 0 (KAFKA-18659).
    pub min_advertised: i16,
    /// The first version with compact lengths and tagged fields (KIP-482), in the body as in the headers.
    pub first_flexible: i16,
}

/// API keys in Kafka's order.
pub mod key {
    pub const PRODUCE: i16 = 0;
    pub const FETCH: i16 = 1;
    pub const LIST_OFFSETS: i16 = 2;
    pub const METADATA: i16 = 3;
    pub const OFFSET_COMMIT: i16 = 8;
    pub const OFFSET_FETCH: i16 = 9;
    pub const FIND_COORDINATOR: i16 = 10;
    pub const JOIN_GROUP: i16 = 11;
    pub const HEARTBEAT: i16 = 12;
    pub const LEAVE_GROUP: i16 = 13;
    pub const SYNC_GROUP: i16 = 14;
    pub const DESCRIBE_GROUPS: i16 = 15;
    pub const LIST_GROUPS: i16 = 16;
    pub const API_VERSIONS: i16 = 18;
    pub const CREATE_TOPICS: i16 = 19;
    pub const DELETE_TOPICS: i16 = 20;
    pub const DELETE_RECORDS: i16 = 21;
    pub const INIT_PRODUCER_ID: i16 = 22;
    pub const OFFSET_FOR_LEADER_EPOCH: i16 = 23;
    pub const ADD_PARTITIONS_TO_TXN: i16 = 24;
    pub const ADD_OFFSETS_TO_TXN: i16 = 25;
    pub const END_TXN: i16 = 26;
    pub const WRITE_TXN_MARKERS: i16 = 27;
    pub const TXN_OFFSET_COMMIT: i16 = 28;
    pub const DESCRIBE_CONFIGS: i16 = 32;
    pub const ALTER_CONFIGS: i16 = 33;
    pub const ALTER_REPLICA_LOG_DIRS: i16 = 34;
    pub const DESCRIBE_LOG_DIRS: i16 = 35;
    pub const CREATE_PARTITIONS: i16 = 37;
    pub const DELETE_GROUPS: i16 = 42;
    pub const ELECT_LEADERS: i16 = 43;
    pub const INCREMENTAL_ALTER_CONFIGS: i16 = 44;
    pub const ALTER_PARTITION_REASSIGNMENTS: i16 = 45;
    pub const LIST_PARTITION_REASSIGNMENTS: i16 = 46;
    pub const OFFSET_DELETE: i16 = 47;
    pub const DESCRIBE_QUORUM: i16 = 55;
    pub const DESCRIBE_CLUSTER: i16 = 60;
    pub const DESCRIBE_PRODUCERS: i16 = 61;
    pub const DESCRIBE_TRANSACTIONS: i16 = 65;
    pub const LIST_TRANSACTIONS: i16 = 66;
    pub const CONSUMER_GROUP_HEARTBEAT: i16 = 68;
    pub const CONSUMER_GROUP_DESCRIBE: i16 = 69;
    pub const LIST_CONFIG_RESOURCES: i16 = 74;
    pub const DESCRIBE_TOPIC_PARTITIONS: i16 = 75;
}

const fn api(key: i16, name: &'static str, min: i16, max: i16, first_flexible: i16) -> Api {
    let min_advertised = if key == key::PRODUCE { 0 } else { min };
    Api {
        key,
        name,
        min,
        max,
        min_advertised,
        first_flexible,
    }
}

/// Every API that is served, in the order of keys. The maxima are those of Kafka 4.3, because some
/// clients infer the broker's release from them.
pub static APIS: &[Api] = &[
    //                                                              min max flexible
    api(key::PRODUCE, "Produce", 3, 13, 9),
    api(key::FETCH, "Fetch", 4, 18, 12),
    api(key::LIST_OFFSETS, "ListOffsets", 1, 11, 6),
    api(key::METADATA, "Metadata", 0, 13, 9),
    api(key::OFFSET_COMMIT, "OffsetCommit", 2, 10, 8),
    api(key::OFFSET_FETCH, "OffsetFetch", 1, 10, 6),
    api(key::FIND_COORDINATOR, "FindCoordinator", 0, 6, 3),
    api(key::JOIN_GROUP, "JoinGroup", 0, 9, 6),
    api(key::HEARTBEAT, "Heartbeat", 0, 4, 4),
    api(key::LEAVE_GROUP, "LeaveGroup", 0, 5, 4),
    api(key::SYNC_GROUP, "SyncGroup", 0, 5, 4),
    api(key::DESCRIBE_GROUPS, "DescribeGroups", 0, 6, 5),
    api(key::LIST_GROUPS, "ListGroups", 0, 5, 3),
    api(key::API_VERSIONS, "ApiVersions", 0, 4, 3),
    api(key::CREATE_TOPICS, "CreateTopics", 2, 7, 5),
    api(key::DELETE_TOPICS, "DeleteTopics", 1, 6, 4),
    api(key::DELETE_RECORDS, "DeleteRecords", 0, 2, 2),
    api(key::INIT_PRODUCER_ID, "InitProducerId", 0, 5, 2),
    api(
        key::OFFSET_FOR_LEADER_EPOCH,
        "OffsetForLeaderEpoch",
        2,
        4,
        4,
    ),
    api(key::ADD_PARTITIONS_TO_TXN, "AddPartitionsToTxn", 0, 5, 3),
    api(key::ADD_OFFSETS_TO_TXN, "AddOffsetsToTxn", 0, 4, 3),
    api(key::END_TXN, "EndTxn", 0, 5, 3),
    api(key::WRITE_TXN_MARKERS, "WriteTxnMarkers", 1, 2, 1),
    api(key::TXN_OFFSET_COMMIT, "TxnOffsetCommit", 0, 5, 3),
    api(key::DESCRIBE_CONFIGS, "DescribeConfigs", 1, 4, 4),
    api(key::ALTER_CONFIGS, "AlterConfigs", 0, 2, 2),
    api(key::ALTER_REPLICA_LOG_DIRS, "AlterReplicaLogDirs", 1, 2, 2),
    api(key::DESCRIBE_LOG_DIRS, "DescribeLogDirs", 1, 5, 2),
    api(key::CREATE_PARTITIONS, "CreatePartitions", 0, 3, 2),
    api(key::DELETE_GROUPS, "DeleteGroups", 0, 2, 2),
    api(key::ELECT_LEADERS, "ElectLeaders", 0, 2, 2),
    api(
        key::INCREMENTAL_ALTER_CONFIGS,
        "IncrementalAlterConfigs",
        0,
        1,
        1,
    ),
    api(
        key::ALTER_PARTITION_REASSIGNMENTS,
        "AlterPartitionReassignments",
        0,
        1,
        0,
    ),
    api(
        key::LIST_PARTITION_REASSIGNMENTS,
        "ListPartitionReassignments",
        0,
        0,
        0,
    ),
    api(key::OFFSET_DELETE, "OffsetDelete", 0, 0, 1),
    api(key::DESCRIBE_QUORUM, "DescribeQuorum", 0, 2, 0),
    api(key::DESCRIBE_CLUSTER, "DescribeCluster", 0, 2, 0),
    api(key::DESCRIBE_PRODUCERS, "DescribeProducers", 0, 0, 0),
    api(key::DESCRIBE_TRANSACTIONS, "DescribeTransactions", 0, 0, 0),
    api(key::LIST_TRANSACTIONS, "ListTransactions", 0, 2, 0),
    api(
        key::CONSUMER_GROUP_HEARTBEAT,
        "ConsumerGroupHeartbeat",
        0,
        1,
        0,
    ),
    api(
        key::CONSUMER_GROUP_DESCRIBE,
        "ConsumerGroupDescribe",
        0,
        1,
        0,
    ),
    api(key::LIST_CONFIG_RESOURCES, "ListConfigResources", 0, 1, 0),
    api(
        key::DESCRIBE_TOPIC_PARTITIONS,
        "DescribeTopicPartitions",
        0,
        0,
        0,
    ),
];

/// What the table says of a request's key and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    Served(&'static Api),
    /// The API is known, this version is not. The connection is closed, except for ApiVersions, which is
    /// answered ([`super::api_versions::encode_unsupported_version`]).
    UnsupportedVersion(&'static Api),
    UnknownKey,
}

/// The row of an API.
pub fn find(key: i16) -> Option<&'static Api> {
    APIS.iter().find(|api| api.key == key)
}

/// Whether a request of this key and version is served.
pub fn lookup(key: i16, version: i16) -> Lookup {
    match find(key) {
        Some(api) if (api.min..=api.max).contains(&version) => Lookup::Served(api),
        Some(api) => Lookup::UnsupportedVersion(api),
        None => Lookup::UnknownKey,
    }
}

impl Api {
    /// Whether this version has compact lengths and tagged fields (KIP-482).
    pub fn flexible(&self, version: i16) -> bool {
        version >= self.first_flexible
    }

    /// 2 in flexible versions, else 1.
    pub fn request_header_version(&self, version: i16) -> i16 {
        if self.flexible(version) { 2 } else { 1 }
    }

    /// 1 in flexible versions, else 0. For ApiVersions always 0: a client that guessed too high a version
    /// must be able to read the answer (KIP-511).
    pub fn response_header_version(&self, version: i16) -> i16 {
        i16::from(self.flexible(version) && self.key != key::API_VERSIONS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::ApiKey;

    #[test]
    fn the_table_is_what_was_decided() {
        let rows: Vec<_> = APIS
            .iter()
            .map(|a| (a.key, a.min_advertised, a.min, a.max))
            .collect();
        assert_eq!(
            rows,
            [
                (0, 0, 3, 13),
                (1, 4, 4, 18),
                (2, 1, 1, 11),
                (3, 0, 0, 13),
                (8, 2, 2, 10),
                (9, 1, 1, 10),
                (10, 0, 0, 6),
                (11, 0, 0, 9),
                (12, 0, 0, 4),
                (13, 0, 0, 5),
                (14, 0, 0, 5),
                (15, 0, 0, 6),
                (16, 0, 0, 5),
                (18, 0, 0, 4),
                (19, 2, 2, 7),
                (20, 1, 1, 6),
                (21, 0, 0, 2),
                (22, 0, 0, 5),
                (23, 2, 2, 4),
                (24, 0, 0, 5),
                (25, 0, 0, 4),
                (26, 0, 0, 5),
                (27, 1, 1, 2),
                (28, 0, 0, 5),
                (32, 1, 1, 4),
                (33, 0, 0, 2),
                (34, 1, 1, 2),
                (35, 1, 1, 5),
                (37, 0, 0, 3),
                (42, 0, 0, 2),
                (43, 0, 0, 2),
                (44, 0, 0, 1),
                (45, 0, 0, 1),
                (46, 0, 0, 0),
                (47, 0, 0, 0),
                (55, 0, 0, 2),
                (60, 0, 0, 2),
                (61, 0, 0, 0),
                (65, 0, 0, 0),
                (66, 0, 0, 2),
                (68, 0, 0, 1),
                (69, 0, 0, 1),
                (74, 0, 0, 1),
                (75, 0, 0, 0),
            ]
        );
    }

    #[test]
    fn header_versions_are_kafkas() {
        for api in APIS {
            let crates = ApiKey::try_from(api.key).unwrap();
            for version in api.min..=api.max {
                assert_eq!(
                    api.request_header_version(version),
                    crates.request_header_version(version)
                );
                assert_eq!(
                    api.response_header_version(version),
                    crates.response_header_version(version)
                );
            }
        }
    }

    #[test]
    fn produce_is_advertised_from_0_and_served_from_3() {
        assert_eq!(find(key::PRODUCE).unwrap().min_advertised, 0);
        assert!(matches!(lookup(0, 2), Lookup::UnsupportedVersion(_)));
        assert!(matches!(lookup(0, 3), Lookup::Served(_)));
        assert!(matches!(lookup(0, 14), Lookup::UnsupportedVersion(_)));
        assert!(matches!(lookup(0, -1), Lookup::UnsupportedVersion(_)));
        assert_eq!(lookup(4, 0), Lookup::UnknownKey);
        assert_eq!(lookup(-1, 0), Lookup::UnknownKey);
    }
}
