//! Kafka's error codes, as of 4.3, under Kafka's names.

use std::fmt;

macro_rules! error_codes {
    ($($name:ident = $code:literal $(, $message:literal)?;)*) => {
        /// An error code of the protocol.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(i16)]
        pub enum ErrorCode {
            $($name = $code,)*
        }

        impl ErrorCode {
            /// Every code, in ascending order.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$name,)*];

            /// The error of a code from the wire.
            pub fn from_code(code: i16) -> Option<ErrorCode> {
                match code {
                    $($code => Some(ErrorCode::$name),)*
                    _ => None,
                }
            }

            /// What the error means, for a response's error message when there is nothing more precise
            /// to say. `None` for `None` and for codes that no part of the broker sends.
            pub fn message(self) -> Option<&'static str> {
                match self {
                    $(ErrorCode::$name => error_codes!(@message $($message)?),)*
                }
            }
        }
    };
    (@message $message:literal) => { Some($message) };
    (@message) => { None };
}

error_codes! {
    UnknownServerError = -1, "the broker failed unexpectedly; its log says more";
    None = 0;
    OffsetOutOfRange = 1, "the offset lies outside the partition's log";
    CorruptMessage = 2, "the batch fails its checksum or is damaged";
    UnknownTopicOrPartition = 3, "this broker does not host this topic or partition";
    InvalidFetchSize = 4, "the fetch size is invalid";
    LeaderNotAvailable = 5, "the partition has no leader for now";
    NotLeaderOrFollower = 6, "this broker is not the leader or a follower of the partition";
    RequestTimedOut = 7, "the request timed out";
    BrokerNotAvailable = 8, "the broker is not available";
    ReplicaNotAvailable = 9, "the replica is not available";
    MessageTooLarge = 10, "the batch is larger than max.message.bytes allows";
    StaleControllerEpoch = 11;
    OffsetMetadataTooLarge = 12;
    NetworkException = 13;
    CoordinatorLoadInProgress = 14, "the coordinator is loading";
    CoordinatorNotAvailable = 15, "the coordinator is not available";
    NotCoordinator = 16, "this broker is not the coordinator";
    InvalidTopicException = 17, "the topic does not exist or its name is not valid";
    RecordListTooLarge = 18, "the batch is larger than a segment";
    NotEnoughReplicas = 19, "fewer replicas are in sync than min.insync.replicas asks for";
    NotEnoughReplicasAfterAppend = 20, "the batch was appended, but to fewer in-sync replicas than asked for";
    InvalidRequiredAcks = 21, "acks must be 0, 1 or -1 (all)";
    IllegalGeneration = 22;
    InconsistentGroupProtocol = 23;
    InvalidGroupId = 24;
    UnknownMemberId = 25;
    InvalidSessionTimeout = 26;
    RebalanceInProgress = 27;
    InvalidCommitOffsetSize = 28;
    TopicAuthorizationFailed = 29, "not authorized for the topic";
    GroupAuthorizationFailed = 30, "not authorized for the group";
    ClusterAuthorizationFailed = 31, "not authorized for the cluster";
    InvalidTimestamp = 32, "the timestamp lies outside the range the topic allows";
    UnsupportedSaslMechanism = 33;
    IllegalSaslState = 34;
    UnsupportedVersion = 35, "the version of the API is not supported";
    TopicAlreadyExists = 36, "a topic of this name exists already";
    InvalidPartitions = 37, "the number of partitions is invalid";
    InvalidReplicationFactor = 38, "the replication factor is below 1 or above the number of brokers";
    InvalidReplicaAssignment = 39, "the replica assignment is invalid";
    InvalidConfig = 40, "the configuration is invalid";
    NotController = 41, "this broker is not the controller";
    InvalidRequest = 42, "the request is invalid";
    UnsupportedForMessageFormat = 43, "the message format does not support the request";
    PolicyViolation = 44, "the request breaks a policy of this cluster";
    OutOfOrderSequenceNumber = 45, "the batch's sequence does not follow the producer's last one";
    DuplicateSequenceNumber = 46, "the batch was appended before";
    InvalidProducerEpoch = 47, "the producer's epoch is older than its last one";
    InvalidTxnState = 48, "the transaction is not in a state for this";
    InvalidProducerIdMapping = 49;
    InvalidTransactionTimeout = 50, "the transaction timeout is above transaction.max.timeout.ms";
    ConcurrentTransactions = 51, "another operation on the transaction is still going on";
    TransactionCoordinatorFenced = 52;
    TransactionalIdAuthorizationFailed = 53, "not authorized for the transactional id";
    SecurityDisabled = 54, "security is switched off";
    OperationNotAttempted = 55, "not attempted, because another part of the request failed";
    KafkaStorageError = 56, "the disk failed, or the log is offline";
    LogDirNotFound = 57, "this broker has no such log directory";
    SaslAuthenticationFailed = 58;
    UnknownProducerId = 59, "this broker knows nothing of the producer id";
    ReassignmentInProgress = 60, "the partition is being reassigned";
    DelegationTokenAuthDisabled = 61;
    DelegationTokenNotFound = 62;
    DelegationTokenOwnerMismatch = 63;
    DelegationTokenRequestNotAllowed = 64;
    DelegationTokenAuthorizationFailed = 65;
    DelegationTokenExpired = 66;
    InvalidPrincipalType = 67;
    NonEmptyGroup = 68;
    GroupIdNotFound = 69;
    FetchSessionIdNotFound = 70, "this broker has no such fetch session";
    InvalidFetchSessionEpoch = 71, "the fetch session's epoch is not the one expected";
    ListenerNotFound = 72;
    TopicDeletionDisabled = 73, "topics cannot be deleted: delete.topic.enable is false";
    FencedLeaderEpoch = 74, "the leader epoch of the request is older than this broker's";
    UnknownLeaderEpoch = 75, "the leader epoch of the request is newer than this broker's";
    UnsupportedCompressionType = 76, "this version of the API cannot carry the topic's compression";
    StaleBrokerEpoch = 77, "the broker epoch has changed";
    OffsetNotAvailable = 78, "the high watermark has not caught up since the leader was elected";
    MemberIdRequired = 79;
    PreferredLeaderNotAvailable = 80, "the preferred leader is not available";
    GroupMaxSizeReached = 81;
    FencedInstanceId = 82;
    EligibleLeadersNotAvailable = 83, "no replica is eligible to lead";
    ElectionNotNeeded = 84, "the partition has the leader it should have";
    NoReassignmentInProgress = 85, "the partition is not being reassigned";
    GroupSubscribedToTopic = 86;
    InvalidRecord = 87, "a record is not valid";
    UnstableOffsetCommit = 88;
    ThrottlingQuotaExceeded = 89, "the quota is exceeded";
    ProducerFenced = 90, "a newer producer has the same transactional id";
    ResourceNotFound = 91, "the resource does not exist";
    DuplicateResource = 92, "the resource is named twice";
    UnacceptableCredential = 93;
    InconsistentVoterSet = 94;
    InvalidUpdateVersion = 95, "the feature's version is not valid";
    FeatureUpdateFailed = 96, "the features could not be updated";
    PrincipalDeserializationFailure = 97;
    SnapshotNotFound = 98;
    PositionOutOfRange = 99;
    UnknownTopicId = 100, "this broker does not host this topic id";
    DuplicateBrokerRegistration = 101;
    BrokerIdNotRegistered = 102;
    InconsistentTopicId = 103, "the topic id does not match the log's";
    InconsistentClusterId = 104, "the cluster id does not match this cluster's";
    TransactionalIdNotFound = 105, "the transactional id does not exist";
    FetchSessionTopicIdError = 106, "the fetch session mixes topic ids and names";
    IneligibleReplica = 107;
    NewLeaderElected = 108;
    OffsetMovedToTieredStorage = 109, "the offset has moved to tiered storage";
    FencedMemberEpoch = 110;
    UnreleasedInstanceId = 111;
    UnsupportedAssignor = 112;
    StaleMemberEpoch = 113;
    MismatchedEndpointType = 114, "this endpoint does not answer requests of this kind";
    UnsupportedEndpointType = 115, "this kind of endpoint is not supported";
    UnknownControllerId = 116;
    UnknownSubscriptionId = 117, "the telemetry subscription is unknown or outdated";
    TelemetryTooLarge = 118;
    InvalidRegistration = 119;
    TransactionAbortable = 120, "the transaction must be aborted";
    InvalidRecordState = 121;
    ShareSessionNotFound = 122;
    InvalidShareSessionEpoch = 123;
    FencedStateEpoch = 124;
    InvalidVoterKey = 125;
    DuplicateVoter = 126;
    VoterNotFound = 127;
    InvalidRegularExpression = 128;
    RebootstrapRequired = 129;
    StreamsInvalidTopology = 130;
    StreamsInvalidTopologyEpoch = 131;
    StreamsTopologyFenced = 132;
    ShareSessionLimitReached = 133;
}

impl ErrorCode {
    /// The number on the wire.
    pub fn code(self) -> i16 {
        self as i16
    }

    /// The code of a request that succeeded.
    pub fn is_none(self) -> bool {
        self == ErrorCode::None
    }
}

impl From<ErrorCode> for i16 {
    fn from(error: ErrorCode) -> i16 {
        error.code()
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message() {
            Some(message) => write!(f, "{self:?}: {message}"),
            None => write!(f, "{self:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::ResponseError;

    #[test]
    fn codes_are_complete_and_kafkas() {
        let codes: Vec<i16> = ErrorCode::ALL.iter().map(|e| e.code()).collect();
        assert_eq!(codes, (-1..=133).collect::<Vec<i16>>());
        for &error in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_code(error.code()), Some(error));
            if let Some(known) = ResponseError::try_from_code(error.code()) {
                assert_eq!(format!("{known:?}"), format!("{error:?}"));
            }
        }
        assert_eq!(ErrorCode::from_code(134), None);
    }
}
