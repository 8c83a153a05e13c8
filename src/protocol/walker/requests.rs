//! The layout of every served request, version by version, after the message schemas of Kafka 4.3.
//!
//! A field is there in every served version unless `since` or `until` narrow it (both inclusive), is
//! null only from `nullable` on, and is a tagged field (KIP-482) if `tagged`. Names are the schemas'.

use super::Kind::*;
use super::{Layout, field as f, layout};
use crate::protocol::api::key;

#[rustfmt::skip]
pub(in crate::protocol) static REQUESTS: &[Layout] = &[
    layout(key::PRODUCE, &[
        f("TransactionalId", Str).nullable(0),
        f("Acks", I16),
        f("TimeoutMs", I32),
        f("TopicData", Array(&Struct(&[
            f("Name", Str).until(12),
            f("TopicId", Uuid).since(13),
            f("PartitionData", Array(&Struct(&[
                f("Index", I32),
                f("Records", Records).nullable(0),
            ]))),
        ]))),
    ]),
    layout(key::FETCH, &[
        f("ClusterId", Str).since(12).nullable(12).tagged(0),
        f("ReplicaId", I32).until(14),
        f("ReplicaState", Struct(&[
            f("ReplicaId", I32).since(15),
            f("ReplicaEpoch", I64).since(15),
        ])).since(15).tagged(1),
        f("MaxWaitMs", I32),
        f("MinBytes", I32),
        f("MaxBytes", I32),
        f("IsolationLevel", I8),
        f("SessionId", I32).since(7),
        f("SessionEpoch", I32).since(7),
        f("Topics", Array(&Struct(&[
            f("Topic", Str).until(12),
            f("TopicId", Uuid).since(13),
            f("Partitions", Array(&Struct(&[
                f("Partition", I32),
                f("CurrentLeaderEpoch", I32).since(9),
                f("FetchOffset", I64),
                f("LastFetchedEpoch", I32).since(12),
                f("LogStartOffset", I64).since(5),
                f("PartitionMaxBytes", I32),
                f("ReplicaDirectoryId", Uuid).since(17).tagged(0),
                f("HighWatermark", I64).since(18).tagged(1),
            ]))),
        ]))),
        f("ForgottenTopicsData", Array(&Struct(&[
            f("Topic", Str).since(7).until(12),
            f("TopicId", Uuid).since(13),
            f("Partitions", Array(&I32)).since(7),
        ]))).since(7),
        f("RackId", Str).since(11),
    ]),
    layout(key::LIST_OFFSETS, &[
        f("ReplicaId", I32),
        f("IsolationLevel", I8).since(2),
        f("Topics", Array(&Struct(&[
            f("Name", Str),
            f("Partitions", Array(&Struct(&[
                f("PartitionIndex", I32),
                f("CurrentLeaderEpoch", I32).since(4),
                f("Timestamp", I64),
            ]))),
        ]))),
        f("TimeoutMs", I32).since(10),
    ]),
    layout(key::METADATA, &[
        f("Topics", Array(&Struct(&[
            f("TopicId", Uuid).since(10),
            f("Name", Str).nullable(10),
        ]))).nullable(1),
        f("AllowAutoTopicCreation", Bool).since(4),
        f("IncludeClusterAuthorizedOperations", Bool).since(8).until(10),
        f("IncludeTopicAuthorizedOperations", Bool).since(8),
    ]),
    layout(key::OFFSET_COMMIT, &[
        f("GroupId", Str),
        f("GenerationIdOrMemberEpoch", I32),
        f("MemberId", Str),
        f("GroupInstanceId", Str).since(7).nullable(7),
        f("RetentionTimeMs", I64).until(4),
        f("Topics", Array(&Struct(&[
            f("Name", Str).until(9),
            f("TopicId", Uuid).since(10),
            f("Partitions", Array(&Struct(&[
                f("PartitionIndex", I32),
                f("CommittedOffset", I64),
                f("CommittedLeaderEpoch", I32).since(6),
                f("CommittedMetadata", Str).nullable(2),
            ]))),
        ]))),
    ]),
    layout(key::OFFSET_FETCH, &[
        f("GroupId", Str).until(7),
        f("Topics", Array(&Struct(&[
            f("Name", Str).until(7),
            f("PartitionIndexes", Array(&I32)).until(7),
        ]))).until(7).nullable(2),
        f("Groups", Array(&Struct(&[
            f("GroupId", Str).since(8),
            f("MemberId", Str).since(9).nullable(9),
            f("MemberEpoch", I32).since(9),
            f("Topics", Array(&Struct(&[
                f("Name", Str).since(8).until(9),
                f("TopicId", Uuid).since(10),
                f("PartitionIndexes", Array(&I32)).since(8),
            ]))).since(8).nullable(8),
        ]))).since(8),
        f("RequireStable", Bool).since(7),
    ]),
    layout(key::FIND_COORDINATOR, &[
        f("Key", Str).until(3),
        f("KeyType", I8).since(1),
        f("CoordinatorKeys", Array(&Str)).since(4),
    ]),
    layout(key::JOIN_GROUP, &[
        f("GroupId", Str),
        f("SessionTimeoutMs", I32),
        f("RebalanceTimeoutMs", I32).since(1),
        f("MemberId", Str),
        f("GroupInstanceId", Str).since(5).nullable(5),
        f("ProtocolType", Str),
        f("Protocols", Array(&Struct(&[
            f("Name", Str),
            f("Metadata", Records),
        ]))),
        f("Reason", Str).since(8).nullable(8),
    ]),
    layout(key::HEARTBEAT, &[
        f("GroupId", Str),
        f("GenerationId", I32),
        f("MemberId", Str),
        f("GroupInstanceId", Str).since(3).nullable(3),
    ]),
    layout(key::LEAVE_GROUP, &[
        f("GroupId", Str),
        f("MemberId", Str).until(2),
        f("Members", Array(&Struct(&[
            f("MemberId", Str).since(3),
            f("GroupInstanceId", Str).since(3).nullable(3),
            f("Reason", Str).since(5).nullable(5),
        ]))).since(3),
    ]),
    layout(key::SYNC_GROUP, &[
        f("GroupId", Str),
        f("GenerationId", I32),
        f("MemberId", Str),
        f("GroupInstanceId", Str).since(3).nullable(3),
        f("ProtocolType", Str).since(5).nullable(5),
        f("ProtocolName", Str).since(5).nullable(5),
        f("Assignments", Array(&Struct(&[
            f("MemberId", Str),
            f("Assignment", Records),
        ]))),
    ]),
    layout(key::DESCRIBE_GROUPS, &[
        f("Groups", Array(&Str)),
        f("IncludeAuthorizedOperations", Bool).since(3),
    ]),
    layout(key::LIST_GROUPS, &[
        f("StatesFilter", Array(&Str)).since(4),
        f("TypesFilter", Array(&Str)).since(5),
    ]),
    layout(key::API_VERSIONS, &[
        f("ClientSoftwareName", Str).since(3),
        f("ClientSoftwareVersion", Str).since(3),
    ]),
    layout(key::CREATE_TOPICS, &[
        f("Topics", Array(&Struct(&[
            f("Name", Str),
            f("NumPartitions", I32),
            f("ReplicationFactor", I16),
            f("Assignments", Array(&Struct(&[
                f("PartitionIndex", I32),
                f("BrokerIds", Array(&I32)),
            ]))),
            f("Configs", Array(&Struct(&[
                f("Name", Str),
                f("Value", Str).nullable(0),
            ]))),
        ]))),
        f("timeoutMs", I32),
        f("validateOnly", Bool),
    ]),
    layout(key::DELETE_TOPICS, &[
        f("Topics", Array(&Struct(&[
            f("Name", Str).since(6).nullable(6),
            f("TopicId", Uuid).since(6),
        ]))).since(6),
        f("TopicNames", Array(&Str)).until(5),
        f("TimeoutMs", I32),
    ]),
    layout(key::DELETE_RECORDS, &[
        f("Topics", Array(&Struct(&[
            f("Name", Str),
            f("Partitions", Array(&Struct(&[
                f("PartitionIndex", I32),
                f("Offset", I64),
            ]))),
        ]))),
        f("TimeoutMs", I32),
    ]),
    layout(key::INIT_PRODUCER_ID, &[
        f("TransactionalId", Str).nullable(0),
        f("TransactionTimeoutMs", I32),
        f("ProducerId", I64).since(3),
        f("ProducerEpoch", I16).since(3),
    ]),
    layout(key::OFFSET_FOR_LEADER_EPOCH, &[
        f("ReplicaId", I32).since(3),
        f("Topics", Array(&Struct(&[
            f("Topic", Str),
            f("Partitions", Array(&Struct(&[
                f("Partition", I32),
                f("CurrentLeaderEpoch", I32),
                f("LeaderEpoch", I32),
            ]))),
        ]))),
    ]),
    layout(key::ADD_PARTITIONS_TO_TXN, &[
        f("Transactions", Array(&Struct(&[
            f("TransactionalId", Str).since(4),
            f("ProducerId", I64).since(4),
            f("ProducerEpoch", I16).since(4),
            f("VerifyOnly", Bool).since(4),
            f("Topics", Array(&Struct(&[
                f("Name", Str),
                f("Partitions", Array(&I32)),
            ]))).since(4),
        ]))).since(4),
        f("V3AndBelowTransactionalId", Str).until(3),
        f("V3AndBelowProducerId", I64).until(3),
        f("V3AndBelowProducerEpoch", I16).until(3),
        f("V3AndBelowTopics", Array(&Struct(&[
            f("Name", Str),
            f("Partitions", Array(&I32)),
        ]))).until(3),
    ]),
    layout(key::ADD_OFFSETS_TO_TXN, &[
        f("TransactionalId", Str),
        f("ProducerId", I64),
        f("ProducerEpoch", I16),
        f("GroupId", Str),
    ]),
    layout(key::END_TXN, &[
        f("TransactionalId", Str),
        f("ProducerId", I64),
        f("ProducerEpoch", I16),
        f("Committed", Bool),
    ]),
    layout(key::WRITE_TXN_MARKERS, &[
        f("Markers", Array(&Struct(&[
            f("ProducerId", I64),
            f("ProducerEpoch", I16),
            f("TransactionResult", Bool),
            f("Topics", Array(&Struct(&[
                f("Name", Str),
                f("PartitionIndexes", Array(&I32)),
            ]))),
            f("CoordinatorEpoch", I32),
            f("TransactionVersion", I8).since(2),
        ]))),
    ]),
    layout(key::TXN_OFFSET_COMMIT, &[
        f("TransactionalId", Str),
        f("GroupId", Str),
        f("ProducerId", I64),
        f("ProducerEpoch", I16),
        f("GenerationId", I32).since(3),
        f("MemberId", Str).since(3),
        f("GroupInstanceId", Str).since(3).nullable(3),
        f("Topics", Array(&Struct(&[
            f("Name", Str),
            f("Partitions", Array(&Struct(&[
                f("PartitionIndex", I32),
                f("CommittedOffset", I64),
                f("CommittedLeaderEpoch", I32).since(2),
                f("CommittedMetadata", Str).nullable(0),
            ]))),
        ]))),
    ]),
    layout(key::DESCRIBE_CONFIGS, &[
        f("Resources", Array(&Struct(&[
            f("ResourceType", I8),
            f("ResourceName", Str),
            f("ConfigurationKeys", Array(&Str)).nullable(0),
        ]))),
        f("IncludeSynonyms", Bool),
        f("IncludeDocumentation", Bool).since(3),
    ]),
    layout(key::ALTER_CONFIGS, &[
        f("Resources", Array(&Struct(&[
            f("ResourceType", I8),
            f("ResourceName", Str),
            f("Configs", Array(&Struct(&[
                f("Name", Str),
                f("Value", Str).nullable(0),
            ]))),
        ]))),
        f("ValidateOnly", Bool),
    ]),
    layout(key::ALTER_REPLICA_LOG_DIRS, &[
        f("Dirs", Array(&Struct(&[
            f("Path", Str),
            f("Topics", Array(&Struct(&[
                f("Name", Str),
                f("Partitions", Array(&I32)),
            ]))),
        ]))),
    ]),
    layout(key::DESCRIBE_LOG_DIRS, &[
        f("Topics", Array(&Struct(&[
            f("Topic", Str),
            f("Partitions", Array(&I32)),
        ]))).nullable(0),
    ]),
    layout(key::CREATE_PARTITIONS, &[
        f("Topics", Array(&Struct(&[
            f("Name", Str),
            f("Count", I32),
            f("Assignments", Array(&Struct(&[
                f("BrokerIds", Array(&I32)),
            ]))).nullable(0),
        ]))),
        f("TimeoutMs", I32),
        f("ValidateOnly", Bool),
    ]),
    layout(key::DELETE_GROUPS, &[
        f("GroupsNames", Array(&Str)),
    ]),
    layout(key::ELECT_LEADERS, &[
        f("ElectionType", I8).since(1),
        f("TopicPartitions", Array(&Struct(&[
            f("Topic", Str),
            f("Partitions", Array(&I32)),
        ]))).nullable(0),
        f("TimeoutMs", I32),
    ]),
    layout(key::INCREMENTAL_ALTER_CONFIGS, &[
        f("Resources", Array(&Struct(&[
            f("ResourceType", I8),
            f("ResourceName", Str),
            f("Configs", Array(&Struct(&[
                f("Name", Str),
                f("ConfigOperation", I8),
                f("Value", Str).nullable(0),
            ]))),
        ]))),
        f("ValidateOnly", Bool),
    ]),
    layout(key::ALTER_PARTITION_REASSIGNMENTS, &[
        f("TimeoutMs", I32),
        f("AllowReplicationFactorChange", Bool).since(1),
        f("Topics", Array(&Struct(&[
            f("Name", Str),
            f("Partitions", Array(&Struct(&[
                f("PartitionIndex", I32),
                f("Replicas", Array(&I32)).nullable(0),
            ]))),
        ]))),
    ]),
    layout(key::LIST_PARTITION_REASSIGNMENTS, &[
        f("TimeoutMs", I32),
        f("Topics", Array(&Struct(&[
            f("Name", Str),
            f("PartitionIndexes", Array(&I32)),
        ]))).nullable(0),
    ]),
    layout(key::OFFSET_DELETE, &[
        f("GroupId", Str),
        f("Topics", Array(&Struct(&[
            f("Name", Str),
            f("Partitions", Array(&Struct(&[
                f("PartitionIndex", I32),
            ]))),
        ]))),
    ]),
    layout(key::DESCRIBE_QUORUM, &[
        f("Topics", Array(&Struct(&[
            f("TopicName", Str),
            f("Partitions", Array(&Struct(&[
                f("PartitionIndex", I32),
            ]))),
        ]))),
    ]),
    layout(key::DESCRIBE_CLUSTER, &[
        f("IncludeClusterAuthorizedOperations", Bool),
        f("EndpointType", I8).since(1),
        f("IncludeFencedBrokers", Bool).since(2),
    ]),
    layout(key::DESCRIBE_PRODUCERS, &[
        f("Topics", Array(&Struct(&[
            f("Name", Str),
            f("PartitionIndexes", Array(&I32)),
        ]))),
    ]),
    layout(key::DESCRIBE_TRANSACTIONS, &[
        f("TransactionalIds", Array(&Str)),
    ]),
    layout(key::LIST_TRANSACTIONS, &[
        f("StateFilters", Array(&Str)),
        f("ProducerIdFilters", Array(&I64)),
        f("DurationFilter", I64).since(1),
        f("TransactionalIdPattern", Str).since(2).nullable(2),
    ]),
    layout(key::CONSUMER_GROUP_HEARTBEAT, &[
        f("GroupId", Str),
        f("MemberId", Str),
        f("MemberEpoch", I32),
        f("InstanceId", Str).nullable(0),
        f("RackId", Str).nullable(0),
        f("RebalanceTimeoutMs", I32),
        f("SubscribedTopicNames", Array(&Str)).nullable(0),
        f("SubscribedTopicRegex", Str).since(1).nullable(1),
        f("ServerAssignor", Str).nullable(0),
        f("TopicPartitions", Array(&Struct(&[
            f("TopicId", Uuid),
            f("Partitions", Array(&I32)),
        ]))).nullable(0),
    ]),
    layout(key::CONSUMER_GROUP_DESCRIBE, &[
        f("GroupIds", Array(&Str)),
        f("IncludeAuthorizedOperations", Bool),
    ]),
    layout(key::LIST_CONFIG_RESOURCES, &[
        f("ResourceTypes", Array(&I8)).since(1),
    ]),
    layout(key::DESCRIBE_TOPIC_PARTITIONS, &[
        f("Topics", Array(&Struct(&[
            f("Name", Str),
        ]))),
        f("ResponsePartitionLimit", I32),
        f("Cursor", Struct(&[
            f("TopicName", Str),
            f("PartitionIndex", I32),
        ])).nullable(0),
    ]),
];
