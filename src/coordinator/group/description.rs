//! What is told of groups: ListGroups and DescribeGroups.

use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::protocol::StrBytes;

use super::classic::{CONSUMER_PROTOCOL, ClassicGroup, State};
use super::{Answer, Group, GroupMachine, group_id, text};
use crate::coordinator::{Outcome, Token};
use crate::protocol::ErrorCode;

impl GroupMachine {
    pub(super) fn list(&self, token: Token, states: &[String], types: &[String]) -> Outcome<Self> {
        let wanted = |filter: &[String], is: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(is))
        };
        let listed = self.groups.values().filter_map(|group| match group {
            Group::Classic(group) => {
                let kind = "Classic";
                let state = group.state().name();
                (wanted(states, state) && wanted(types, kind)).then(|| {
                    ListedGroup::default()
                        .with_group_id(group_id(&text(group.id())))
                        .with_protocol_type(
                            group.protocol_type().map(|t| text(t)).unwrap_or_default(),
                        )
                        .with_group_state(StrBytes::from_static_str(state))
                        .with_group_type(StrBytes::from_static_str(kind))
                })
            }
            Group::Consumer(group) => {
                let kind = "Consumer";
                let state = group.state().to_string();
                (wanted(states, &state) && wanted(types, kind)).then(|| {
                    ListedGroup::default()
                        .with_group_id(group_id(&text(&group.id)))
                        .with_protocol_type(StrBytes::from_static_str(CONSUMER_PROTOCOL))
                        .with_group_state(text(&state))
                        .with_group_type(StrBytes::from_static_str(kind))
                })
            }
        });
        Outcome::answer(token, Answer::List(listed.collect()))
    }

    pub(super) fn describe(&self, token: Token, ids: Vec<StrBytes>) -> Outcome<Self> {
        let described = ids.iter().map(|id| match self.groups.get(&**id) {
            Some(Group::Classic(group)) => describe_classic(group),
            Some(Group::Consumer(_)) => {
                not_described(id, ErrorCode::GroupIdNotFound).with_error_message(Some(text(
                    &format!("Group {} is not a classic group.", id.as_str()),
                )))
            }
            None => not_described(id, ErrorCode::GroupIdNotFound)
                .with_error_message(Some(text(&format!("Group {} not found.", id.as_str())))),
        });
        Outcome::answer(token, Answer::Describe(described.collect()))
    }
}

/// A group of which nothing can be told.
pub fn not_described(id: &StrBytes, code: ErrorCode) -> DescribedGroup {
    let state = match code {
        ErrorCode::GroupIdNotFound => StrBytes::from_static_str("Dead"),
        _ => StrBytes::default(),
    };
    DescribedGroup::default()
        .with_group_id(group_id(id))
        .with_group_state(state)
        .with_error_code(code.code())
}

/// What members said to each other is told only of a stable group: in between it means nothing.
fn describe_classic(group: &ClassicGroup) -> DescribedGroup {
    let stable = group.state() == State::Stable;
    let members = group.members().map(|member| {
        let described = DescribedGroupMember::default()
            .with_member_id(text(&member.id))
            .with_group_instance_id(member.instance_id.as_deref().map(text))
            .with_client_id(text(&member.client_id))
            .with_client_host(text(&member.client_host))
            .with_member_assignment(member.assignment.clone());
        if stable {
            described.with_member_metadata(group.metadata(member))
        } else {
            described
        }
    });
    let protocol = group.protocol().filter(|_| stable);
    DescribedGroup::default()
        .with_group_id(group_id(&text(group.id())))
        .with_group_state(StrBytes::from_static_str(group.state().name()))
        .with_protocol_type(group.protocol_type().map(|t| text(t)).unwrap_or_default())
        .with_protocol_data(protocol.map(|name| text(name)).unwrap_or_default())
        .with_members(members.collect())
}
