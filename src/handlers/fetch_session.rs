//! Incremental fetch sessions (KIP-227): a consumer names its partitions once and then only changes.
//!
//! One cache a shard. A session id carries the shard it was made on in its low bits, so ids of two
//! shards never meet; a client that comes back over another shard's connection is told
//! FETCH_SESSION_ID_NOT_FOUND and starts again with a full fetch, as after a restart.
//!
//! Bounded twice: by the number of sessions (`max.incremental.fetch.session.cache.slots`, shared out
//! over the shards) and by the partitions that all sessions of the shard name together. A fetch that
//! finds no room is served without a session.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::base::{Offset, PartitionIndex, Timestamp, TopicId};
use crate::broker::messages::FetchPartition;

/// Session id of a fetch without a session.
pub const NO_SESSION: i32 = 0;
/// Epoch of the first fetch of a session.
pub const INITIAL_EPOCH: i32 = 0;
/// Epoch of a fetch that wants no session, or closes the one it names.
pub const FINAL_EPOCH: i32 = -1;

/// A session that was not used for this long makes room for another (Kafka's
/// MinIncrementalFetchSessionEvictionMs).
const EVICTION_MS: i64 = 120_000;

/// Partitions that one session may name: all of them are gone through at each of its fetches, without a
/// pause. Who fetches more names them each time.
pub const MAX_SESSION_PARTITIONS: usize = 5_000;

/// Partitions that the sessions of one shard may name together: about 150 bytes each.
pub const MAX_CACHED_PARTITIONS: usize = 200_000;

/// Why an incremental fetch has to start again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// FETCH_SESSION_ID_NOT_FOUND
    NotFound,
    /// INVALID_FETCH_SESSION_EPOCH
    InvalidEpoch,
    /// FETCH_SESSION_TOPIC_ID_ERROR: the request has topic ids and the session has none, or the other
    /// way round (KIP-516).
    TopicIds,
}

/// A partition as the client names it: by name below version 13, by id from there on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PartitionName {
    pub topic: TopicName,
    pub partition: PartitionIndex,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TopicName {
    Name(Arc<str>),
    Id(TopicId),
}

/// What is asked of a partition, and what the client was last told about it.
#[derive(Clone, Debug)]
pub struct SessionPartition {
    pub name: PartitionName,
    pub ask: FetchPartition,
    told: Option<(Offset, Offset)>,
}

impl SessionPartition {
    pub fn new(name: PartitionName, ask: FetchPartition) -> Self {
        Self {
            name,
            ask,
            told: None,
        }
    }
}

/// What decides whether a partition is in an incremental answer.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    pub high_watermark: Offset,
    pub log_start_offset: Offset,
    pub has_records: bool,
    pub has_error: bool,
    pub diverging: bool,
}

struct Session {
    epoch: i32,
    uses_topic_ids: bool,
    last_used: Timestamp,
    /// In the order in which they are served; what had records goes to the end, so that none starves.
    order: BTreeMap<u64, SessionPartition>,
    places: HashMap<PartitionName, u64>,
    next_place: u64,
}

impl Session {
    fn put(&mut self, partition: SessionPartition) {
        match self.places.get(&partition.name) {
            Some(place) => {
                if let Some(known) = self.order.get_mut(place) {
                    known.ask = partition.ask;
                }
            }
            None => {
                self.places.insert(partition.name.clone(), self.next_place);
                self.order.insert(self.next_place, partition);
                self.next_place += 1;
            }
        }
    }

    fn forget(&mut self, name: &PartitionName) {
        if let Some(place) = self.places.remove(name) {
            self.order.remove(&place);
        }
    }

    fn tell(&mut self, name: &PartitionName, told: Told) -> bool {
        let Some(place) = self.places.get(name).copied() else {
            return true;
        };
        let Some(partition) = self.order.get_mut(&place) else {
            return true;
        };
        let now = (told.high_watermark, told.log_start_offset);
        let respond =
            told.has_records || told.has_error || told.diverging || partition.told != Some(now);
        // After an error the client has to hear the next good answer, whatever it says.
        partition.told = (!told.has_error).then_some(now);
        if told.has_records
            && let Some(partition) = self.order.remove(&place)
        {
            self.order.insert(self.next_place, partition);
            self.places.insert(name.clone(), self.next_place);
            self.next_place += 1;
        }
        respond
    }
}

/// How a fetch is served.
pub enum Context {
    /// No session: answer everything that was asked.
    Sessionless,
    /// A session begins with this fetch: answer everything.
    Full(i32),
    /// Answer only what changed.
    Incremental(i32),
}

impl Context {
    /// The session id to put into the answer.
    pub fn session_id(&self) -> i32 {
        match *self {
            Context::Sessionless => NO_SESSION,
            Context::Full(id) | Context::Incremental(id) => id,
        }
    }
}

/// The sessions of one shard.
pub struct SessionCache {
    sessions: HashMap<i32, Session>,
    slots: usize,
    cached_partitions: usize,
    max_cached_partitions: usize,
    evicted: u64,
    next_number: i32,
    shard: i32,
    shards: i32,
}

impl SessionCache {
    /// For shard `shard` of `shards`, with room for `slots` sessions.
    pub fn new(shard: u16, shards: u16, slots: usize, max_cached_partitions: usize) -> Self {
        assert!(shard < shards);
        Self {
            sessions: HashMap::new(),
            slots,
            cached_partitions: 0,
            max_cached_partitions,
            evicted: 0,
            next_number: 1,
            shard: i32::from(shard),
            shards: i32::from(shards),
        }
    }

    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Sessions so far that were thrown out to make room.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Takes a fetch in and says how to serve it, and which partitions.
    ///
    /// `seed` spreads session ids, so that those of an earlier run of the broker are not met again.
    #[allow(clippy::too_many_arguments)]
    pub fn begin(
        &mut self,
        session_id: i32,
        session_epoch: i32,
        uses_topic_ids: bool,
        asked: Vec<SessionPartition>,
        forgotten: &[PartitionName],
        now: Timestamp,
        seed: u32,
    ) -> Result<(Context, Vec<SessionPartition>), SessionError> {
        if session_epoch == INITIAL_EPOCH || session_epoch == FINAL_EPOCH {
            if session_id != NO_SESSION {
                self.remove(session_id);
            }
            if session_epoch == FINAL_EPOCH || asked.is_empty() {
                return Ok((Context::Sessionless, asked));
            }
            return Ok(match self.create(uses_topic_ids, &asked, now, seed) {
                Some(id) => (Context::Full(id), asked),
                None => (Context::Sessionless, asked),
            });
        }
        let session = self
            .sessions
            .get_mut(&session_id)
            .ok_or(SessionError::NotFound)?;
        if session.epoch != session_epoch {
            return Err(SessionError::InvalidEpoch);
        }
        if session.uses_topic_ids != uses_topic_ids {
            return Err(SessionError::TopicIds);
        }
        if asked.len().max(forgotten.len()) > MAX_SESSION_PARTITIONS {
            self.remove(session_id);
            return Err(SessionError::NotFound);
        }
        let before = session.order.len();
        for partition in asked {
            session.put(partition);
        }
        for name in forgotten {
            session.forget(name);
        }
        let after = session.order.len();
        session.epoch = next_epoch(session.epoch);
        session.last_used = now;
        let partitions = session.order.values().cloned().collect();
        self.cached_partitions = self.cached_partitions + after - before;
        if after == 0
            || after > MAX_SESSION_PARTITIONS
            || self.cached_partitions > self.max_cached_partitions
        {
            self.remove(session_id);
            return Ok((Context::Sessionless, partitions));
        }
        Ok((Context::Incremental(session_id), partitions))
    }

    /// Records what the answer says about a partition; returns whether it must be in the answer.
    pub fn tell(&mut self, context: &Context, name: &PartitionName, told: Told) -> bool {
        match *context {
            Context::Sessionless => true,
            Context::Full(id) => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.tell(name, told);
                }
                true
            }
            Context::Incremental(id) => match self.sessions.get_mut(&id) {
                Some(session) => session.tell(name, told),
                None => true,
            },
        }
    }

    fn create(
        &mut self,
        uses_topic_ids: bool,
        asked: &[SessionPartition],
        now: Timestamp,
        seed: u32,
    ) -> Option<i32> {
        if asked.len() > MAX_SESSION_PARTITIONS {
            return None;
        }
        if self.sessions.len() >= self.slots {
            let (&oldest, session) = self.sessions.iter().min_by_key(|(_, s)| s.last_used)?;
            if now.0 - session.last_used.0 < EVICTION_MS {
                return None;
            }
            self.remove(oldest);
            self.evicted += 1;
        }
        if self.cached_partitions + asked.len() > self.max_cached_partitions {
            return None;
        }
        let id = self.free_id(seed)?;
        let mut session = Session {
            epoch: next_epoch(INITIAL_EPOCH),
            uses_topic_ids,
            last_used: now,
            order: BTreeMap::new(),
            places: HashMap::new(),
            next_place: 0,
        };
        for partition in asked {
            session.put(partition.clone());
        }
        self.cached_partitions += session.order.len();
        self.sessions.insert(id, session);
        Some(id)
    }

    /// An id that is positive, names this shard, and is not in use.
    fn free_id(&mut self, seed: u32) -> Option<i32> {
        let limit = i32::MAX / self.shards - 1;
        let start = (seed % limit as u32) as i32;
        for _ in 0..=self.sessions.len() {
            self.next_number = (self.next_number + 1) % limit;
            let number = (start + self.next_number) % limit + 1;
            let id = number * self.shards + self.shard;
            if !self.sessions.contains_key(&id) {
                return Some(id);
            }
        }
        None
    }

    fn remove(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.cached_partitions -= session.order.len();
        }
    }
}

/// Epochs count from 1 and wrap to 1: 0 and -1 have meanings of their own.
fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::LeaderEpoch;

    fn name(partition: i32) -> PartitionName {
        PartitionName {
            topic: TopicName::Id(TopicId(7)),
            partition: PartitionIndex(partition),
        }
    }

    fn ask(partition: i32, offset: i64) -> SessionPartition {
        SessionPartition::new(
            name(partition),
            FetchPartition {
                fetch_offset: Offset(offset),
                max_bytes: 1000,
                current_leader_epoch: LeaderEpoch::NONE,
                last_fetched_epoch: LeaderEpoch::NONE,
            },
        )
    }

    fn told(high_watermark: i64, has_records: bool) -> Told {
        Told {
            high_watermark: Offset(high_watermark),
            log_start_offset: Offset(0),
            has_records,
            has_error: false,
            diverging: false,
        }
    }

    fn cache() -> SessionCache {
        SessionCache::new(1, 4, 2, 10)
    }

    fn full(cache: &mut SessionCache, partitions: &[i32], now: i64) -> Context {
        let asked = partitions.iter().map(|&p| ask(p, 0)).collect();
        cache
            .begin(0, 0, true, asked, &[], Timestamp(now), 99)
            .unwrap()
            .0
    }

    fn order(partitions: &[SessionPartition]) -> Vec<i32> {
        partitions.iter().map(|p| p.name.partition.0).collect()
    }

    #[test]
    fn an_incremental_fetch_asks_for_all_and_answers_only_what_changed() {
        let mut cache = cache();
        let context = full(&mut cache, &[0, 1, 2], 0);
        let id = context.session_id();
        assert!(id > 0 && id % 4 == 1);
        for p in 0..3 {
            assert!(cache.tell(&context, &name(p), told(5, false)));
        }
        let (context, partitions) = cache
            .begin(id, 1, true, vec![ask(1, 5)], &[name(2)], Timestamp(1), 0)
            .unwrap();
        assert_eq!(order(&partitions), [0, 1]);
        assert_eq!(partitions[1].ask.fetch_offset, Offset(5));
        assert!(!cache.tell(&context, &name(0), told(5, false)));
        assert!(cache.tell(&context, &name(1), told(6, false)));
        // A partition that had records goes to the end.
        assert!(cache.tell(&context, &name(0), told(7, true)));
        let (_, partitions) = cache
            .begin(id, 2, true, vec![], &[], Timestamp(2), 0)
            .unwrap();
        assert_eq!(order(&partitions), [1, 0]);
    }

    #[test]
    fn the_answer_after_an_error_is_always_told() {
        let mut cache = cache();
        let context = full(&mut cache, &[0], 0);
        cache.tell(&context, &name(0), told(5, false));
        let id = context.session_id();
        let (context, _) = cache
            .begin(id, 1, true, vec![], &[], Timestamp(1), 0)
            .unwrap();
        let error = Told {
            has_error: true,
            ..told(-1, false)
        };
        assert!(cache.tell(&context, &name(0), error));
        assert!(cache.tell(&context, &name(0), told(5, false)));
        assert!(!cache.tell(&context, &name(0), told(5, false)));
    }

    #[test]
    fn wrong_session_epoch_and_topic_ids_are_told_apart() {
        let mut cache = cache();
        let id = full(&mut cache, &[0], 0).session_id();
        let mut begin = |id, epoch, ids| {
            cache
                .begin(id, epoch, ids, vec![], &[], Timestamp(1), 0)
                .map(|(_, p)| p.len())
        };
        assert_eq!(begin(id + 4, 1, true), Err(SessionError::NotFound));
        assert_eq!(begin(id, 2, true), Err(SessionError::InvalidEpoch));
        assert_eq!(begin(id, 1, false), Err(SessionError::TopicIds));
        assert_eq!(begin(id, 1, true), Ok(1));
        // The final epoch closes it.
        assert_eq!(begin(id, FINAL_EPOCH, true), Ok(0));
        assert_eq!(begin(id, 2, true), Err(SessionError::NotFound));
    }

    #[test]
    fn sessions_and_their_partitions_are_bounded() {
        let mut cache = cache();
        let first = full(&mut cache, &[0, 1, 2], 0).session_id();
        assert_ne!(full(&mut cache, &[0, 1, 2], 1).session_id(), 0);
        // Both slots are taken and in use: the next is served without a session.
        assert_eq!(full(&mut cache, &[0], 2).session_id(), 0);
        assert_ne!(full(&mut cache, &[0], EVICTION_MS).session_id(), 0);
        assert!(!cache.sessions.contains_key(&first));
        assert_eq!((cache.evicted(), cache.len()), (1, 2));
        // Ten partitions in all.
        let mut cache = SessionCache::new(0, 1, 100, 10);
        let id = full(&mut cache, &[0, 1, 2, 3, 4, 5, 6], 0).session_id();
        assert_eq!(full(&mut cache, &[0, 1, 2, 3], 0).session_id(), 0);
        let more = (7..12).map(|p| ask(p, 0)).collect();
        let (context, partitions) = cache
            .begin(id, 1, true, more, &[], Timestamp(1), 0)
            .unwrap();
        assert_eq!((context.session_id(), partitions.len()), (0, 12));
        assert_eq!(cache.cached_partitions, 0);
    }
}
