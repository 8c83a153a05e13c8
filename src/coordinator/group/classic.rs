//! A classic group: its members, and the state it is in (KIP-62, 134, 345, 394, 429).
//!
//! ```text
//!           join                    all joined                 leader's sync
//!  Empty ---------> PreparingRebalance ------> CompletingRebalance ------> Stable
//!    ^                |  ^         ^                 |                       |
//!    +----------------+  |         +-----------------+                       |
//!      nobody joined     +---------------------------------------------------+
//!                            a member joins, leaves, changes or is lost
//! ```
//! Every JoinGroup waits in PreparingRebalance until all members have sent theirs, or the longest
//! rebalance timeout has passed; the generation then grows by one, the leader is told the members and
//! the others wait in SyncGroup for what it assigns.
//!
//! Here is what a group is and what holds of it; who moves it through its states is `rebalance`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;

use super::record::{GroupMetadata, MemberMetadata};
use super::text;
use super::timers::{Timer, Timers};
use crate::base::Timestamp;
use crate::coordinator::fields::FieldReader;
use crate::coordinator::{CoordinatorRecord, Token, Unreadable};
use crate::protocol::ErrorCode;

/// The protocol type of consumers; of another one the coordinator understands nothing.
pub const CONSUMER_PROTOCOL: &str = "consumer";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
}

impl State {
    /// As DescribeGroups and ListGroups say it.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }
}

/// A way of assigning that a member knows, and what it says to whoever assigns that way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    pub name: Arc<str>,
    pub metadata: Bytes,
}

/// Copies a request's protocols out of its frame. Of two with one name the first counts.
pub fn protocols(request: &[JoinGroupRequestProtocol]) -> Vec<Protocol> {
    let mut seen = BTreeSet::new();
    let once = request.iter().filter(|p| seen.insert(p.name.as_str()));
    once.map(|p| Protocol {
        name: p.name.as_str().into(),
        metadata: Bytes::copy_from_slice(&p.metadata),
    })
    .collect()
}

#[derive(Clone, Debug)]
pub struct Member {
    pub id: Arc<str>,
    /// Of a static member (KIP-345): who it is, whatever id it has at the moment.
    pub instance_id: Option<Arc<str>>,
    pub client_id: Box<str>,
    pub client_host: Box<str>,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    /// In the order in which the member prefers them.
    pub protocols: Vec<Protocol>,
    pub assignment: Bytes,
    /// The JoinGroup that waits for the others.
    pub awaiting_join: Option<Token>,
    /// The SyncGroup that waits for the leader's.
    pub awaiting_sync: Option<Token>,
    /// Has not been through a rebalance: may be given up even while it waits.
    pub is_new: bool,
}

impl Member {
    fn metadata(&self, protocol: &str) -> Bytes {
        let known = self.protocols.iter().find(|p| &*p.name == protocol);
        known.map(|p| p.metadata.clone()).unwrap_or_default()
    }

    /// A member whose request waits here is alive without a heartbeat.
    pub fn is_alive_without_heartbeat(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }
}

/// A group whose members assign. See the module.
#[derive(Debug)]
pub struct ClassicGroup {
    id: Arc<str>,
    state: State,
    previous_state: State,
    /// When the group came into its state; `None` for a group from a record that does not say.
    state_since: Option<Timestamp>,
    generation: i32,
    /// `None` until somebody joined: a group that only keeps offsets.
    protocol_type: Option<Arc<str>>,
    /// Chosen with each generation.
    protocol: Option<Arc<str>>,
    leader: Option<Arc<str>>,
    members: BTreeMap<Arc<str>, Member>,
    /// Member id by instance id.
    static_members: BTreeMap<Arc<str>, Arc<str>>,
    /// Ids given to members that are yet to join with them (KIP-394).
    pending: BTreeSet<Arc<str>>,
    /// Members whose SyncGroup of this generation has not come.
    pending_sync: BTreeSet<Arc<str>>,
    /// Members whose JoinGroup waits.
    awaiting_join: usize,
    /// How many members know a protocol, by its name.
    supported: BTreeMap<Arc<str>, usize>,
    /// Topics the members read, if they are consumers and could be understood.
    subscribed: Option<BTreeSet<Arc<str>>>,
    /// Somebody joined during the delay before a first rebalance: it may be longer.
    pub(super) member_added: bool,
    /// How long the delay before a first rebalance may yet be extended.
    pub(super) initial_delay_left_ms: i64,
    /// The delay under way.
    pub(super) initial_delay_ms: i64,
}

impl ClassicGroup {
    pub fn new(id: Arc<str>, now: Timestamp) -> Self {
        Self {
            id,
            state: State::Empty,
            previous_state: State::Empty,
            state_since: Some(now),
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending: BTreeSet::new(),
            pending_sync: BTreeSet::new(),
            awaiting_join: 0,
            supported: BTreeMap::new(),
            subscribed: None,
            member_added: false,
            initial_delay_left_ms: 0,
            initial_delay_ms: 0,
        }
    }

    /// A group of these members in this generation, none of which has an assignment.
    pub fn stable(
        id: Arc<str>,
        generation: i32,
        protocol_type: &str,
        members: Vec<Member>,
        now: Timestamp,
    ) -> Self {
        let mut group = Self::new(id, now);
        group.generation = generation;
        for member in members {
            group.add(member, protocol_type);
        }
        group.protocol = group.choose_protocol();
        group.subscribed = group.understand_subscriptions();
        group.state = State::Stable;
        group
    }

    /// As the record says it: stable, or empty.
    pub fn from_record(id: &str, record: &GroupMetadata<'_>) -> Result<Self, Unreadable> {
        let since = Timestamp(record.current_state_timestamp);
        let mut group = Self::new(id.into(), since);
        group.state_since = (since != Timestamp::NONE).then_some(since);
        group.generation = record.generation;
        group.protocol_type = Some(record.protocol_type)
            .filter(|name| !name.is_empty())
            .map(Arc::from);
        group.protocol = record.protocol.map(Arc::from);
        group.leader = record.leader.map(Arc::from);
        let Some(protocol) = &group.protocol else {
            if record.members.is_empty() {
                return Ok(group);
            }
            return Err(Unreadable("a group with members and no protocol".into()));
        };
        let protocol = protocol.clone();
        for member in &record.members {
            let timeout = match member.rebalance_timeout_ms {
                -1 => member.session_timeout_ms,
                given => given,
            };
            let loaded = Member {
                id: member.member_id.into(),
                instance_id: member.group_instance_id.map(Arc::from),
                client_id: member.client_id.into(),
                client_host: member.client_host.into(),
                rebalance_timeout_ms: timeout,
                session_timeout_ms: member.session_timeout_ms,
                protocols: vec![Protocol {
                    name: protocol.clone(),
                    metadata: Bytes::copy_from_slice(member.subscription),
                }],
                assignment: Bytes::copy_from_slice(member.assignment),
                awaiting_join: None,
                awaiting_sync: None,
                is_new: false,
            };
            let again = group.members.contains_key(&loaded.id)
                || loaded
                    .instance_id
                    .as_ref()
                    .is_some_and(|id| group.static_members.contains_key(id));
            if again {
                return Err(Unreadable(format!(
                    "member {} comes twice",
                    member.member_id
                )));
            }
            let kind = group.protocol_type.clone().unwrap_or_else(|| "".into());
            group.add(loaded, &kind);
            group.state = State::Stable;
        }
        group.subscribed = group.understand_subscriptions();
        Ok(group)
    }

    /// The group as it is, for the log.
    pub fn record(&self) -> CoordinatorRecord {
        self.record_in(self.generation)
    }

    /// The group as it is, for the log, one generation ahead of its members. Whoever reads it after a
    /// restart makes a group in which every member has to join again: that a rebalance was under way is
    /// not on record.
    pub fn record_of_the_next_generation(&self) -> CoordinatorRecord {
        self.record_in(self.generation.saturating_add(1))
    }

    fn record_in(&self, generation: i32) -> CoordinatorRecord {
        let metadata: Vec<Bytes> = self
            .members
            .values()
            .map(|member| self.metadata(member))
            .collect();
        let members = self
            .members
            .values()
            .zip(&metadata)
            .map(|(member, metadata)| MemberMetadata {
                member_id: &member.id,
                group_instance_id: member.instance_id.as_deref(),
                client_id: &member.client_id,
                client_host: &member.client_host,
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                session_timeout_ms: member.session_timeout_ms,
                subscription: metadata,
                assignment: &member.assignment,
            });
        GroupMetadata {
            protocol_type: self.protocol_type.as_deref().unwrap_or(""),
            generation,
            protocol: self.protocol.as_deref(),
            leader: self.leader.as_deref(),
            current_state_timestamp: self.state_since.unwrap_or(Timestamp::NONE).0,
            members: members.collect(),
        }
        .record(&self.id)
    }

    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn generation(&self) -> i32 {
        self.generation
    }

    pub fn protocol_type(&self) -> Option<&Arc<str>> {
        self.protocol_type.as_ref()
    }

    pub fn protocol(&self) -> Option<&Arc<str>> {
        self.protocol.as_ref()
    }

    pub fn leader(&self) -> Option<&Arc<str>> {
        self.leader.as_ref()
    }

    pub fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    pub fn is_empty(&self) -> bool {
        self.state == State::Empty
    }

    /// Whether nobody ever joined it: it is there for its offsets, and not on record itself.
    pub fn only_keeps_offsets(&self) -> bool {
        self.is_empty() && self.protocol_type.is_none() && self.pending.is_empty()
    }

    pub fn is_of_consumers(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER_PROTOCOL)
    }

    /// When the group came into its state, if that is known.
    pub fn state_since(&self) -> Option<Timestamp> {
        self.state_since
    }

    /// Whether the group is known to read the topic, or, of consumers that were not understood, may.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed {
            Some(topics) => topics.contains(topic),
            None => self.is_of_consumers(),
        }
    }

    pub fn knows_subscriptions(&self) -> bool {
        self.subscribed.is_some()
    }

    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub fn members_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.members.values_mut()
    }

    pub fn member_count(&self) -> usize {
        self.members.len()
    }

    pub fn member(&self, id: &str) -> Option<&Member> {
        self.members.get(id)
    }

    pub fn member_mut(&mut self, id: &str) -> Option<&mut Member> {
        self.members.get_mut(id)
    }

    /// The id that a static member has now.
    pub fn static_member(&self, instance_id: &str) -> Option<&Arc<str>> {
        self.static_members.get(instance_id)
    }

    pub fn is_pending(&self, member_id: &str) -> bool {
        self.pending.contains(member_id)
    }

    pub fn pending_mut(&mut self) -> &mut BTreeSet<Arc<str>> {
        &mut self.pending
    }

    pub fn pending_sync(&self) -> &BTreeSet<Arc<str>> {
        &self.pending_sync
    }

    pub fn pending_sync_mut(&mut self) -> &mut BTreeSet<Arc<str>> {
        &mut self.pending_sync
    }

    pub fn awaiting_join(&self) -> usize {
        self.awaiting_join
    }

    /// What the member said for the group's protocol.
    pub fn metadata(&self, member: &Member) -> Bytes {
        match &self.protocol {
            Some(protocol) => member.metadata(protocol),
            None => Bytes::new(),
        }
    }

    /// The members as the leader is told them.
    pub fn members_for_leader(&self) -> Vec<JoinGroupResponseMember> {
        let told = self.members.values().map(|member| {
            JoinGroupResponseMember::default()
                .with_member_id(text(&member.id))
                .with_group_instance_id(member.instance_id.as_deref().map(text))
                .with_metadata(self.metadata(member))
        });
        told.collect()
    }

    /// Whether the group can work with a member that knows these protocols.
    pub fn supports<'a>(
        &self,
        protocol_type: &str,
        mut names: impl Iterator<Item = &'a str>,
    ) -> bool {
        if self.state == State::Empty {
            return !protocol_type.is_empty() && names.next().is_some();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && names.any(|name| self.known_by(name) == self.members.len())
    }

    fn known_by(&self, protocol: &str) -> usize {
        self.supported.get(protocol).copied().unwrap_or(0)
    }

    /// Who speaks for a member must be it: of a static member only the one that joined last is.
    pub fn check_member(&self, id: &str, instance_id: Option<&str>) -> Result<&Member, ErrorCode> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(known) if **known != *id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        self.members.get(id).ok_or(ErrorCode::UnknownMemberId)
    }

    /// Panics if there is a member of this id or instance id.
    pub fn add(&mut self, member: Member, protocol_type: &str) {
        if let Some(instance_id) = &member.instance_id {
            let before = self
                .static_members
                .insert(instance_id.clone(), member.id.clone());
            assert!(before.is_none());
        }
        if self.members.is_empty() {
            self.protocol_type = Some(protocol_type.into());
        }
        self.leader.get_or_insert_with(|| member.id.clone());
        self.pending.remove(&member.id);
        self.count_protocols(&member);
        self.awaiting_join += usize::from(member.awaiting_join.is_some());
        let before = self.members.insert(member.id.clone(), member);
        assert!(before.is_none());
    }

    /// Takes a member out, and its id out of everything that waits for it. Another one leads if it led.
    pub fn remove(&mut self, id: &str) -> Option<Member> {
        self.pending.remove(id);
        self.pending_sync.remove(id);
        let member = self.members.remove(id);
        if let Some(member) = &member {
            self.uncount_protocols(member);
            self.awaiting_join -= usize::from(member.awaiting_join.is_some());
            if let Some(instance_id) = &member.instance_id {
                self.static_members.remove(instance_id);
            }
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
        member
    }

    /// Gives a static member another id. What waits for the old one is returned with it.
    pub fn replace_static(&mut self, old_id: &str, new_id: Arc<str>) -> Option<Member> {
        let old = self.members.remove(old_id)?;
        self.awaiting_join -= usize::from(old.awaiting_join.is_some());
        if let Some(instance_id) = &old.instance_id {
            self.static_members
                .insert(instance_id.clone(), new_id.clone());
        }
        if self.is_leader(old_id) {
            self.leader = Some(new_id.clone());
        }
        let new = Member {
            id: new_id.clone(),
            awaiting_join: None,
            awaiting_sync: None,
            is_new: false,
            ..old.clone()
        };
        self.members.insert(new_id, new);
        Some(old)
    }

    /// A member joins again, with what it says now.
    pub fn update(
        &mut self,
        id: &str,
        protocols: Vec<Protocol>,
        rebalance_timeout_ms: i32,
        session_timeout_ms: i32,
        token: Token,
    ) -> Option<Token> {
        let mut member = self.members.remove(id)?;
        self.uncount_protocols(&member);
        member.protocols = protocols;
        member.rebalance_timeout_ms = rebalance_timeout_ms;
        member.session_timeout_ms = session_timeout_ms;
        let before = member.awaiting_join.replace(token);
        self.awaiting_join += usize::from(before.is_none());
        self.count_protocols(&member);
        self.members.insert(member.id.clone(), member);
        before
    }

    /// The JoinGroup that waits for this member, to be answered.
    pub fn take_join(&mut self, id: &str) -> Option<Token> {
        let token = self.members.get_mut(id)?.awaiting_join.take()?;
        self.awaiting_join -= 1;
        Some(token)
    }

    fn count_protocols(&mut self, member: &Member) {
        for protocol in &member.protocols {
            *self.supported.entry(protocol.name.clone()).or_default() += 1;
        }
    }

    fn uncount_protocols(&mut self, member: &Member) {
        for protocol in &member.protocols {
            if let Some(count) = self.supported.get_mut(&protocol.name) {
                *count -= 1;
                if *count == 0 {
                    self.supported.remove(&protocol.name);
                }
            }
        }
    }

    pub fn has_all_joined(&self) -> bool {
        self.members.len() == self.awaiting_join && self.pending.is_empty()
    }

    /// How long the slowest member may take over a rebalance.
    pub fn rebalance_timeout_ms(&self) -> i32 {
        let longest = self
            .members
            .values()
            .map(|member| member.rebalance_timeout_ms);
        longest.max().unwrap_or(0).max(0)
    }

    /// If the leader did not join, one who did leads. False if nobody did.
    pub fn elect_joined_leader(&mut self) -> bool {
        let leader = self.leader.as_ref().and_then(|id| self.members.get(id));
        if leader.is_some_and(|leader| leader.awaiting_join.is_some()) {
            return true;
        }
        let joined = self
            .members
            .values()
            .find(|member| member.awaiting_join.is_some());
        match joined.map(|member| member.id.clone()) {
            Some(id) => {
                self.leader = Some(id);
                true
            }
            None => false,
        }
    }

    pub fn enter(&mut self, state: State, now: Timestamp) {
        self.previous_state = self.state;
        self.state = state;
        self.state_since = Some(now);
    }

    pub fn is_first_rebalance(&self) -> bool {
        self.state == State::PreparingRebalance && self.previous_state == State::Empty
    }

    /// The join phase is over: a generation of those who are in, or none.
    pub fn next_generation(&mut self, now: Timestamp) {
        self.generation = self.generation.wrapping_add(1).max(0);
        self.protocol = self.choose_protocol();
        self.subscribed = self.understand_subscriptions();
        self.pending_sync.clear();
        let state = if self.members.is_empty() {
            State::Empty
        } else {
            State::CompletingRebalance
        };
        self.enter(state, now);
    }

    /// Of the protocols that all members know, the one that most of them like best.
    pub fn choose_protocol(&self) -> Option<Arc<str>> {
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for member in self.members.values() {
            let mut liked = member.protocols.iter();
            if let Some(vote) = liked.find(|p| self.known_by(&p.name) == self.members.len()) {
                *votes.entry(&vote.name).or_default() += 1;
            }
        }
        let most = votes.into_iter().max_by_key(|(_, count)| *count);
        most.map(|(name, _)| name.clone())
    }

    /// The topics of all members' subscriptions. `None` if they are not consumers, or one of them said
    /// what cannot be read.
    fn understand_subscriptions(&self) -> Option<BTreeSet<Arc<str>>> {
        if !self.is_of_consumers() {
            return None;
        }
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            add_topics(&self.metadata(member), &mut topics).ok()?;
        }
        if !self.members.is_empty() && self.protocol.is_none() {
            return None;
        }
        Some(topics)
    }

    pub fn cancel_timers(&self, timers: &mut Timers) {
        for member in self.members.keys().chain(&self.pending) {
            timers.cancel(&self.session_timer(member));
        }
        timers.cancel(&self.join_timer());
        timers.cancel(&self.sync_timer());
    }

    pub fn session_timer(&self, member: &Arc<str>) -> Timer {
        Timer::Session {
            group: self.id.clone(),
            member: member.clone(),
        }
    }

    pub fn join_timer(&self) -> Timer {
        Timer::Join {
            group: self.id.clone(),
        }
    }

    pub fn sync_timer(&self) -> Timer {
        Timer::Sync {
            group: self.id.clone(),
        }
    }
}

/// The topics of a consumer's subscription. All versions begin with version 0's fields: a version, the
/// topics, user data.
fn add_topics(subscription: &[u8], topics: &mut BTreeSet<Arc<str>>) -> Result<(), Unreadable> {
    let mut reader = FieldReader::new(subscription);
    if reader.i16("version")? < 0 {
        return Err(Unreadable("a version below 0".into()));
    }
    for _ in 0..reader.count("topics")? {
        let topic = reader.string("topic")?;
        if !topics.contains(topic) {
            topics.insert(topic.into());
        }
    }
    Ok(())
}
