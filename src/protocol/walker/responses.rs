//! The layout of every served response, version by version, after the message schemas of Kafka 4.3.
//!
//! A field is there in every served version unless `since` or `until` narrow it (both inclusive), is
//! null only from `nullable` on, and is a tagged field (KIP-482) if `tagged`. Names are the schemas'.

use super::Kind::*;
use super::{Layout, field as f, layout};
use crate::protocol::api::key;

#[rustfmt::skip]
pub(in crate::protocol) static RESPONSES: &[Layout] = &[
    layout(key::PRODUCE, &[
        f("Responses", Array(&Struct(&[
            f("Name", Str).until(12),
            f("TopicId", Uuid).since(13),
            f("PartitionResponses", Array(&Struct(&[
                f("Index", I32),
                f("ErrorCode", I16),
                f("BaseOffset", I64),
                f("LogAppendTimeMs", I64),
                f("LogStartOffset", I64).since(5),
                f("RecordErrors", Array(&Struct(&[
                    f("BatchIndex", I32).since(8),
                    f("BatchIndexErrorMessage", Str).since(8).nullable(8),
                ]))).since(8),
                f("ErrorMessage", Str).since(8).nullable(8),
                f("CurrentLeader", Struct(&[
                    f("LeaderId", I32).since(10),
                    f("LeaderEpoch", I32).since(10),
                ])).since(10).tagged(0),
            ]))),
        ]))),
        f("ThrottleTimeMs", I32),
        f("NodeEndpoints", Array(&Struct(&[
            f("NodeId", I32).since(10),
            f("Host", Str).since(10),
            f("Port", I32).since(10),
            f("Rack", Str).since(10).nullable(10),
        ]))).since(10).tagged(0),
    ]),
    layout(key::FETCH, &[
        f("ThrottleTimeMs", I32),
        f("ErrorCode", I16).since(7),
        f("SessionId", I32).since(7),
        f("Responses", Array(&Struct(&[
            f("Topic", Str).until(12),
            f("TopicId", Uuid).since(13),
            f("Partitions", Array(&Struct(&[
                f("PartitionIndex", I32),
                f("ErrorCode", I16),
                f("HighWatermark", I64),
                f("LastStableOffset", I64),
                f("LogStartOffset", I64).since(5),
                f("DivergingEpoch", Struct(&[
                    f("Epoch", I32).since(12),
                    f("EndOffset", I64).since(12),
                ])).since(12).tagged(0),
                f("CurrentLeader", Struct(&[
                    f("LeaderId", I32).since(12),
                    f("LeaderEpoch", I32).since(12),
                ])).since(12).tagged(1),
                f("SnapshotId", Struct(&[
                    f("EndOffset", I64),
                    f("Epoch", I32),
                ])).since(12).tagged(2),
                f("AbortedTransactions", Array(&Struct(&[
                    f("ProducerId", I64),
                    f("FirstOffset", I64),
                ]))).nullable(0),
                f("PreferredReadReplica", I32).since(11),
                f("Records", Records).nullable(0),
            ]))),
        ]))),
        f("NodeEndpoints", Array(&Struct(&[
            f("NodeId", I32).since(16),
            f("Host", Str).since(16),
            f("Port", I32).since(16),
            f("Rack", Str).since(16).nullable(16),
        ]))).since(16).tagged(0),
    ]),
    layout(key::LIST_OFFSETS, &[
        f("ThrottleTimeMs", I32).since(2),
        f("Topics", Array(&Struct(&[
            f("Name", Str),
            f("Partitions", Array(&Struct(&[
                f("PartitionIndex", I32),
                f("ErrorCode", I16),
                f("Timestamp", I64),
                f("Offset", I64),
                f("LeaderEpoch", I32).since(4),
            ]))),
        ]))),
    ]),
    layout(key::METADATA, &[
        f("ThrottleTimeMs", I32).since(3),
        f("Brokers", Array(&Struct(&[
            f("NodeId", I32),
            f("Host", Str),
            f("Port", I32),
            f("Rack", Str).since(1).nullable(1),
        ]))),
        f("ClusterId", Str).since(2).nullable(2),
        f("ControllerId", I32).since(1),
        f("Topics", Array(&Struct(&[
            f("ErrorCode", I16),
            f("Name", Str).nullable(12),
            f("TopicId", Uuid).since(10),
            f("IsInternal", Bool).since(1),
            f("Partitions", Array(&Struct(&[
                f("ErrorCode", I16),
                f("PartitionIndex", I32),
                f("LeaderId", I32),
                f("LeaderEpoch", I32).since(7),
                f("ReplicaNodes", Array(&I32)),
                f("IsrNodes", Array(&I32)),
                f("OfflineReplicas", Array(&I32)).since(5),
            ]))),
            f("TopicAuthorizedOperations", I32).since(8),
        ]))),
        f("ClusterAuthorizedOperations", I32).since(8).until(10),
        f("ErrorCode", I16).since(13),
    ]),
    layout(key::OFFSET_COMMIT, &[
        f("ThrottleTimeMs", I32).since(3),
        f("Topics", Array(&Struct(&[
            f("Name", Str).until(9),
            f("TopicId", Uuid).since(10),
            f("Partitions", Array(&Struct(&[
                f("PartitionIndex", I32),
                f("ErrorCode", I16),
            ]))),
        ]))),
    ]),
    layout(key::OFFSET_FETCH, &[
        f("ThrottleTimeMs", I32).since(3),
        f("Topics", Array(&Struct(&[
            f("Name", Str).until(7),
            f("Partitions", Array(&Struct(&[
                f("PartitionIndex", I32).until(7),
                f("CommittedOffset", I64).until(7),
                f("CommittedLeaderEpoch", I32).since(5).until(7),
                f("Metadata", Str).until(7).nullable(1),
                f("ErrorCode", I16).until(7),
            ]))).until(7),
        ]))).until(7),
        f("ErrorCode", I16).since(2).until(7),
        f("Groups", Array(&Struct(&[
            f("GroupId", Str).since(8),
            f("Topics", Array(&Struct(&[
                f("Name", Str).since(8).until(9),
                f("TopicId", Uuid).since(10),
                f("Partitions", Array(&Struct(&[
                    f("PartitionIndex", I32).since(8),
                    f("CommittedOffset", I64).since(8),
                    f("CommittedLeaderEpoch", I32).since(8),
                    f("Metadata", Str).since(8).nullable(8),
                    f("ErrorCode", I16).since(8),
                ]))).since(8),
            ]))).since(8),
            f("ErrorCode", I16).since(8),
        ]))).since(8),
    ]),
    layout(key::FIND_COORDINATOR, &[
        f("ThrottleTimeMs", I32).since(1),
        f("ErrorCode", I16).until(3),
        f("ErrorMessage", Str).since(1).until(3).nullable(1),
        f("NodeId", I32).until(3),
        f("Host", Str).until(3),
        f("Port", I32).until(3),
        f("Coordinators", Array(&Struct(&[
            f("Key", Str).since(4),
            f("NodeId", I32).since(4),
            f("Host", Str).since(4),
            f("Port", I32).since(4),
            f("ErrorCode", I16).since(4),
            f("ErrorMessage", Str).since(4).nullable(4),
        ]))).since(4),
    ]),
    layout(key::JOIN_GROUP, &[
        f("ThrottleTimeMs", I32).since(2),
        f("ErrorCode", I16),
        f("GenerationId", I32),
        f("ProtocolType", Str).since(7).nullable(7),
        f("ProtocolName", Str).nullable(7),
        f("Leader", Str),
        f("SkipAssignment", Bool).since(9),
        f("MemberId", Str),
        f("Members", Array(&Struct(&[
            f("MemberId", Str),
            f("GroupInstanceId", Str).since(5).nullable(5),
            f("Metadata", Records),
        ]))),
    ]),
    layout(key::HEARTBEAT, &[
        f("ThrottleTimeMs", I32).since(1),
        f("ErrorCode", I16),
    ]),
    layout(key::LEAVE_GROUP, &[
        f("ThrottleTimeMs", I32).since(1),
        f("ErrorCode", I16),
        f("Members", Array(&Struct(&[
            f("MemberId", Str).since(3),
            f("GroupInstanceId", Str).since(3).nullable(3),
            f("ErrorCode", I16).since(3),
        ]))).since(3),
    ]),
    layout(key::SYNC_GROUP, &[
        f("ThrottleTimeMs", I32).since(1),
        f("ErrorCode", I16),
        f("ProtocolType", Str).since(5).nullable(5),
        f("ProtocolName", Str).since(5).nullable(5),
        f("Assignment", Records),
    ]),
    layout(key::DESCRIBE_GROUPS, &[
        f("ThrottleTimeMs", I32).since(1),
        f("Groups", Array(&Struct(&[
            f("ErrorCode", I16),
            f("ErrorMessage", Str).since(6).nullable(6),
            f("GroupId", Str),
            f("GroupState", Str),
            f("ProtocolType", Str),
            f("ProtocolData", Str),
            f("Members", Array(&Struct(&[
                f("MemberId", Str),
                f("GroupInstanceId", Str).since(4).nullable(4),
                f("ClientId", Str),
                f("ClientHost", Str),
                f("MemberMetadata", Records),
                f("MemberAssignment", Records),
            ]))),
            f("AuthorizedOperations", I32).since(3),
        ]))),
    ]),
    layout(key::LIST_GROUPS, &[
        f("ThrottleTimeMs", I32).since(1),
        f("ErrorCode", I16),
        f("Groups", Array(&Struct(&[
            f("GroupId", Str),
            f("ProtocolType", Str),
            f("GroupState", Str).since(4),
            f("GroupType", Str).since(5),
        ]))),
    ]),
    layout(key::API_VERSIONS, &[
        f("ErrorCode", I16),
        f("ApiKeys", Array(&Struct(&[
            f("ApiKey", I16),
            f("MinVersion", I16),
            f("MaxVersion", I16),
        ]))),
        f("ThrottleTimeMs", I32).since(1),
        f("SupportedFeatures", Array(&Struct(&[
            f("Name", Str).since(3),
            f("MinVersion", I16).since(3),
            f("MaxVersion", I16).since(3),
        ]))).since(3).tagged(0),
        f("FinalizedFeaturesEpoch", I64).since(3).tagged(1),
        f("FinalizedFeatures", Array(&Struct(&[
            f("Name", Str).since(3),
            f("MaxVersionLevel", I16).since(3),
            f("MinVersionLevel", I16).since(3),
        ]))).since(3).tagged(2),
        f("ZkMigrationReady", Bool).since(3).tagged(3),
    ]),
    layout(key::CREATE_TOPICS, &[
        f("ThrottleTimeMs", I32),
        f("Topics", Array(&Struct(&[
            f("Name", Str),
            f("TopicId", Uuid).since(7),
            f("ErrorCode", I16),
            f("ErrorMessage", Str).nullable(0),
            f("TopicConfigErrorCode", I16).since(5).tagged(0),
            f("NumPartitions", I32).since(5),
            f("ReplicationFactor", I16).since(5),
            f("Configs", Array(&Struct(&[
                f("Name", Str).since(5),
                f("Value", Str).since(5).nullable(5),
                f("ReadOnly", Bool).since(5),
                f("ConfigSource", I8).since(5),
                f("IsSensitive", Bool).since(5),
            ]))).since(5).nullable(5),
        ]))),
    ]),
    layout(key::DELETE_TOPICS, &[
        f("ThrottleTimeMs", I32),
        f("Responses", Array(&Struct(&[
            f("Name", Str).nullable(6),
            f("TopicId", Uuid).since(6),
            f("ErrorCode", I16),
            f("ErrorMessage", Str).since(5).nullable(5),
        ]))),
    ]),
    layout(key::DELETE_RECORDS, &[
        f("ThrottleTimeMs", I32),
        f("Topics", Array(&Struct(&[
            f("Name", Str),
            f("Partitions", Array(&Struct(&[
                f("PartitionIndex", I32),
                f("LowWatermark", I64),
                f("ErrorCode", I16),
            ]))),
        ]))),
    ]),
    layout(key::INIT_PRODUCER_ID, &[
        f("ThrottleTimeMs", I32),
        f("ErrorCode", I16),
        f("ProducerId", I64),
        f("ProducerEpoch", I16),
    ]),
    layout(key::OFFSET_FOR_LEADER_EPOCH, &[
        f("ThrottleTimeMs", I32),
        f("Topics", Array(&Struct(&[
            f("Topic", Str),
            f("Partitions", Array(&Struct(&[
                f("ErrorCode", I16),
                f("Partition", I32),
                f("LeaderEpoch", I32),
                f("EndOffset", I64),
            ]))),
        ]))),
    ]),
    layout(key::ADD_PARTITIONS_TO_TXN, &[
        f("ThrottleTimeMs", I32),
        f("ErrorCode", I16).since(4),
        f("ResultsByTransaction", Array(&Struct(&[
            f("TransactionalId", Str).since(4),
            f("TopicResults", Array(&Struct(&[
                f("Name", Str),
                f("ResultsByPartition", Array(&Struct(&[
                    f("PartitionIndex", I32),
                    f("PartitionErrorCode", I16),
                ]))),
            ]))).since(4),
        ]))).since(4),
        f("ResultsByTopicV3AndBelow", Array(&Struct(&[
            f("Name", Str),
            f("ResultsByPartition", Array(&Struct(&[
                f("PartitionIndex", I32),
                f("PartitionErrorCode", I16),
            ]))),
        ]))).until(3),
    ]),
    layout(key::ADD_OFFSETS_TO_TXN, &[
        f("ThrottleTimeMs", I32),
        f("ErrorCode", I16),
    ]),
    layout(key::END_TXN, &[
        f("ThrottleTimeMs", I32),
        f("ErrorCode", I16),
        f("ProducerId", I64).since(5),
        f("ProducerEpoch", I16).since(5),
    ]),
    layout(key::WRITE_TXN_MARKERS, &[
        f("Markers", Array(&Struct(&[
            f("ProducerId", I64),
            f("Topics", Array(&Struct(&[
                f("Name", Str),
                f("Partitions", Array(&Struct(&[
                    f("PartitionIndex", I32),
                    f("ErrorCode", I16),
                ]))),
            ]))),
        ]))),
    ]),
    layout(key::TXN_OFFSET_COMMIT, &[
        f("ThrottleTimeMs", I32),
        f("Topics", Array(&Struct(&[
            f("Name", Str),
            f("Partitions", Array(&Struct(&[
                f("PartitionIndex", I32),
                f("ErrorCode", I16),
            ]))),
        ]))),
    ]),
    layout(key::DESCRIBE_CONFIGS, &[
        f("ThrottleTimeMs", I32),
        f("Results", Array(&Struct(&[
            f("ErrorCode", I16),
            f("ErrorMessage", Str).nullable(0),
            f("ResourceType", I8),
            f("ResourceName", Str),
            f("Configs", Array(&Struct(&[
                f("Name", Str),
                f("Value", Str).nullable(0),
                f("ReadOnly", Bool),
                f("ConfigSource", I8),
                f("IsSensitive", Bool),
                f("Synonyms", Array(&Struct(&[
                    f("Name", Str),
                    f("Value", Str).nullable(0),
                    f("Source", I8),
                ]))),
                f("ConfigType", I8).since(3),
                f("Documentation", Str).since(3).nullable(0),
            ]))),
        ]))),
    ]),
    layout(key::ALTER_CONFIGS, &[
        f("ThrottleTimeMs", I32),
        f("Responses", Array(&Struct(&[
            f("ErrorCode", I16),
            f("ErrorMessage", Str).nullable(0),
            f("ResourceType", I8),
            f("ResourceName", Str),
        ]))),
    ]),
    layout(key::ALTER_REPLICA_LOG_DIRS, &[
        f("ThrottleTimeMs", I32),
        f("Results", Array(&Struct(&[
            f("TopicName", Str),
            f("Partitions", Array(&Struct(&[
                f("PartitionIndex", I32),
                f("ErrorCode", I16),
            ]))),
        ]))),
    ]),
    layout(key::DESCRIBE_LOG_DIRS, &[
        f("ThrottleTimeMs", I32),
        f("ErrorCode", I16).since(3),
        f("Results", Array(&Struct(&[
            f("ErrorCode", I16),
            f("LogDir", Str),
            f("Topics", Array(&Struct(&[
                f("Name", Str),
                f("Partitions", Array(&Struct(&[
                    f("PartitionIndex", I32),
                    f("PartitionSize", I64),
                    f("OffsetLag", I64),
                    f("IsFutureKey", Bool),
                ]))),
            ]))),
            f("TotalBytes", I64).since(4),
            f("UsableBytes", I64).since(4),
            f("IsCordoned", Bool).since(5),
        ]))),
    ]),
    layout(key::CREATE_PARTITIONS, &[
        f("ThrottleTimeMs", I32),
        f("Results", Array(&Struct(&[
            f("Name", Str),
            f("ErrorCode", I16),
            f("ErrorMessage", Str).nullable(0),
        ]))),
    ]),
    layout(key::DELETE_GROUPS, &[
        f("ThrottleTimeMs", I32),
        f("Results", Array(&Struct(&[
            f("GroupId", Str),
            f("ErrorCode", I16),
        ]))),
    ]),
    layout(key::ELECT_LEADERS, &[
        f("ThrottleTimeMs", I32),
        f("ErrorCode", I16).since(1),
        f("ReplicaElectionResults", Array(&Struct(&[
            f("Topic", Str),
            f("PartitionResult", Array(&Struct(&[
                f("PartitionId", I32),
                f("ErrorCode", I16),
                f("ErrorMessage", Str).nullable(0),
            ]))),
        ]))),
    ]),
    layout(key::INCREMENTAL_ALTER_CONFIGS, &[
        f("ThrottleTimeMs", I32),
        f("Responses", Array(&Struct(&[
            f("ErrorCode", I16),
            f("ErrorMessage", Str).nullable(0),
            f("ResourceType", I8),
            f("ResourceName", Str),
        ]))),
    ]),
    layout(key::ALTER_PARTITION_REASSIGNMENTS, &[
        f("ThrottleTimeMs", I32),
        f("AllowReplicationFactorChange", Bool).since(1),
        f("ErrorCode", I16),
        f("ErrorMessage", Str).nullable(0),
        f("Responses", Array(&Struct(&[
            f("Name", Str),
            f("Partitions", Array(&Struct(&[
                f("PartitionIndex", I32),
                f("ErrorCode", I16),
                f("ErrorMessage", Str).nullable(0),
            ]))),
        ]))),
    ]),
    layout(key::LIST_PARTITION_REASSIGNMENTS, &[
        f("ThrottleTimeMs", I32),
        f("ErrorCode", I16),
        f("ErrorMessage", Str).nullable(0),
        f("Topics", Array(&Struct(&[
            f("Name", Str),
            f("Partitions", Array(&Struct(&[
                f("PartitionIndex", I32),
                f("Replicas", Array(&I32)),
                f("AddingReplicas", Array(&I32)),
                f("RemovingReplicas", Array(&I32)),
            ]))),
        ]))),
    ]),
    layout(key::OFFSET_DELETE, &[
        f("ErrorCode", I16),
        f("ThrottleTimeMs", I32),
        f("Topics", Array(&Struct(&[
            f("Name", Str),
            f("Partitions", Array(&Struct(&[
                f("PartitionIndex", I32),
                f("ErrorCode", I16),
            ]))),
        ]))),
    ]),
    layout(key::DESCRIBE_QUORUM, &[
        f("ErrorCode", I16),
        f("ErrorMessage", Str).since(2).nullable(2),
        f("Topics", Array(&Struct(&[
            f("TopicName", Str),
            f("Partitions", Array(&Struct(&[
                f("PartitionIndex", I32),
                f("ErrorCode", I16),
                f("ErrorMessage", Str).since(2).nullable(2),
                f("LeaderId", I32),
                f("LeaderEpoch", I32),
                f("HighWatermark", I64),
                f("CurrentVoters", Array(&Struct(&[
                    f("ReplicaId", I32),
                    f("ReplicaDirectoryId", Uuid).since(2),
                    f("LogEndOffset", I64),
                    f("LastFetchTimestamp", I64).since(1),
                    f("LastCaughtUpTimestamp", I64).since(1),
                ]))),
                f("Observers", Array(&Struct(&[
                    f("ReplicaId", I32),
                    f("ReplicaDirectoryId", Uuid).since(2),
                    f("LogEndOffset", I64),
                    f("LastFetchTimestamp", I64).since(1),
                    f("LastCaughtUpTimestamp", I64).since(1),
                ]))),
            ]))),
        ]))),
        f("Nodes", Array(&Struct(&[
            f("NodeId", I32).since(2),
            f("Listeners", Array(&Struct(&[
                f("Name", Str).since(2),
                f("Host", Str).since(2),
                f("Port", U16).since(2),
            ]))).since(2),
        ]))).since(2),
    ]),
    layout(key::DESCRIBE_CLUSTER, &[
        f("ThrottleTimeMs", I32),
        f("ErrorCode", I16),
        f("ErrorMessage", Str).nullable(0),
        f("EndpointType", I8).since(1),
        f("ClusterId", Str),
        f("ControllerId", I32),
        f("Brokers", Array(&Struct(&[
            f("BrokerId", I32),
            f("Host", Str),
            f("Port", I32),
            f("Rack", Str).nullable(0),
            f("IsFenced", Bool).since(2),
        ]))),
        f("ClusterAuthorizedOperations", I32),
    ]),
    layout(key::DESCRIBE_PRODUCERS, &[
        f("ThrottleTimeMs", I32),
        f("Topics", Array(&Struct(&[
            f("Name", Str),
            f("Partitions", Array(&Struct(&[
                f("PartitionIndex", I32),
                f("ErrorCode", I16),
                f("ErrorMessage", Str).nullable(0),
                f("ActiveProducers", Array(&Struct(&[
                    f("ProducerId", I64),
                    f("ProducerEpoch", I32),
                    f("LastSequence", I32),
                    f("LastTimestamp", I64),
                    f("CoordinatorEpoch", I32),
                    f("CurrentTxnStartOffset", I64),
                ]))),
            ]))),
        ]))),
    ]),
    layout(key::DESCRIBE_TRANSACTIONS, &[
        f("ThrottleTimeMs", I32),
        f("TransactionStates", Array(&Struct(&[
            f("ErrorCode", I16),
            f("TransactionalId", Str),
            f("TransactionState", Str),
            f("TransactionTimeoutMs", I32),
            f("TransactionStartTimeMs", I64),
            f("ProducerId", I64),
            f("ProducerEpoch", I16),
            f("Topics", Array(&Struct(&[
                f("Topic", Str),
                f("Partitions", Array(&I32)),
            ]))),
        ]))),
    ]),
    layout(key::LIST_TRANSACTIONS, &[
        f("ThrottleTimeMs", I32),
        f("ErrorCode", I16),
        f("UnknownStateFilters", Array(&Str)),
        f("TransactionStates", Array(&Struct(&[
            f("TransactionalId", Str),
            f("ProducerId", I64),
            f("TransactionState", Str),
        ]))),
    ]),
    layout(key::CONSUMER_GROUP_HEARTBEAT, &[
        f("ThrottleTimeMs", I32),
        f("ErrorCode", I16),
        f("ErrorMessage", Str).nullable(0),
        f("MemberId", Str).nullable(0),
        f("MemberEpoch", I32),
        f("HeartbeatIntervalMs", I32),
        f("Assignment", Struct(&[
            f("TopicPartitions", Array(&Struct(&[
                f("TopicId", Uuid),
                f("Partitions", Array(&I32)),
            ]))),
        ])).nullable(0),
    ]),
    layout(key::CONSUMER_GROUP_DESCRIBE, &[
        f("ThrottleTimeMs", I32),
        f("Groups", Array(&Struct(&[
            f("ErrorCode", I16),
            f("ErrorMessage", Str).nullable(0),
            f("GroupId", Str),
            f("GroupState", Str),
            f("GroupEpoch", I32),
            f("AssignmentEpoch", I32),
            f("AssignorName", Str),
            f("Members", Array(&Struct(&[
                f("MemberId", Str),
                f("InstanceId", Str).nullable(0),
                f("RackId", Str).nullable(0),
                f("MemberEpoch", I32),
                f("ClientId", Str),
                f("ClientHost", Str),
                f("SubscribedTopicNames", Array(&Str)),
                f("SubscribedTopicRegex", Str).nullable(0),
                f("Assignment", Struct(&[
                    f("TopicPartitions", Array(&Struct(&[
                        f("TopicId", Uuid),
                        f("TopicName", Str),
                        f("Partitions", Array(&I32)),
                    ]))),
                ])),
                f("TargetAssignment", Struct(&[
                    f("TopicPartitions", Array(&Struct(&[
                        f("TopicId", Uuid),
                        f("TopicName", Str),
                        f("Partitions", Array(&I32)),
                    ]))),
                ])),
                f("MemberType", I8).since(1),
            ]))),
            f("AuthorizedOperations", I32),
        ]))),
    ]),
    layout(key::LIST_CONFIG_RESOURCES, &[
        f("ThrottleTimeMs", I32),
        f("ErrorCode", I16),
        f("ConfigResources", Array(&Struct(&[
            f("ResourceName", Str),
            f("ResourceType", I8).since(1),
        ]))),
    ]),
    layout(key::DESCRIBE_TOPIC_PARTITIONS, &[
        f("ThrottleTimeMs", I32),
        f("Topics", Array(&Struct(&[
            f("ErrorCode", I16),
            f("Name", Str).nullable(0),
            f("TopicId", Uuid),
            f("IsInternal", Bool),
            f("Partitions", Array(&Struct(&[
                f("ErrorCode", I16),
                f("PartitionIndex", I32),
                f("LeaderId", I32),
                f("LeaderEpoch", I32),
                f("ReplicaNodes", Array(&I32)),
                f("IsrNodes", Array(&I32)),
                f("EligibleLeaderReplicas", Array(&I32)).nullable(0),
                f("LastKnownElr", Array(&I32)).nullable(0),
                f("OfflineReplicas", Array(&I32)),
            ]))),
            f("TopicAuthorizedOperations", I32),
        ]))),
        f("NextCursor", Struct(&[
            f("TopicName", Str),
            f("PartitionIndex", I32),
        ])).nullable(0),
    ]),
];
