//! What a group coordinator is asked, and answers.

use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup as DescribedConsumerGroup;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, HeartbeatRequest,
    HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
    SyncGroupRequest, SyncGroupResponse, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};
use kafka_protocol::protocol::StrBytes;

use crate::coordinator::Guard;
use crate::protocol::ErrorCode;

/// A request about groups of one partition. Group ids were checked to be of that partition.
#[derive(Clone, Debug)]
pub enum Ask {
    Join(Join),
    Sync(SyncGroupRequest),
    Heartbeat(HeartbeatRequest),
    /// `members` are set in every version.
    Leave(LeaveGroupRequest),
    /// Topics by name; their ids, where zero is "not known", beside.
    Commit {
        version: i16,
        request: OffsetCommitRequest,
    },
    CommitInTransaction {
        version: i16,
        request: TxnOffsetCommitRequest,
        /// What the partition said before the transaction's coordinator agreed.
        guard: Option<Guard>,
    },
    Fetch {
        group: OffsetFetchRequestGroup,
        /// Offsets in an open transaction are an error, not the offsets before.
        require_stable: bool,
    },
    DeleteOffsets(OffsetDeleteRequest),
    /// All groups; the filters in lower case, empty for no filter.
    List {
        states: Vec<String>,
        types: Vec<String>,
    },
    Describe(Vec<StrBytes>),
    DeleteGroups(Vec<StrBytes>),
    ConsumerHeartbeat(ConsumerHeartbeat),
    ConsumerDescribe(Vec<StrBytes>),
}

/// A JoinGroup and who sent it.
#[derive(Clone, Debug)]
pub struct Join {
    pub version: i16,
    pub client_id: StrBytes,
    /// As Kafka writes addresses: `/127.0.0.1`.
    pub client_host: StrBytes,
    pub request: JoinGroupRequest,
}

/// A ConsumerGroupHeartbeat and who sent it.
#[derive(Clone, Debug)]
pub struct ConsumerHeartbeat {
    pub version: i16,
    pub client_id: StrBytes,
    /// As Kafka writes addresses: `/127.0.0.1`.
    pub client_host: StrBytes,
    pub request: ConsumerGroupHeartbeatRequest,
}

/// The answer to the [`Ask`] of the same name.
#[derive(Clone, Debug)]
pub enum Answer {
    Join(JoinGroupResponse),
    Sync(SyncGroupResponse),
    Heartbeat(HeartbeatResponse),
    Leave(LeaveGroupResponse),
    Commit(OffsetCommitResponse),
    CommitInTransaction(TxnOffsetCommitResponse),
    Fetch(OffsetFetchResponseGroup),
    DeleteOffsets(OffsetDeleteResponse),
    List(Vec<ListedGroup>),
    /// In the order of the ids; what was not found is said by the group's `error_code`.
    Describe(Vec<DescribedGroup>),
    DeleteGroups(Vec<(StrBytes, ErrorCode)>),
    ConsumerHeartbeat(ConsumerGroupHeartbeatResponse),
    /// In the order of the ids.
    ConsumerDescribe(Vec<DescribedConsumerGroup>),
}
