//! The file `ringspun-metadata.redb`: vote, log and snapshot of the metadata quorum.
//!
//! A redb database with two tables:
//!
//! ```text
//! log      u64 index  -> entry
//! state    text key   -> value
//!   "node_id"            i32, big endian
//!   "vote"               u64 term, u64 node id, u8 1 if committed
//!   "purged"             log id of the last entry that was purged; absent before the first purge
//!   "snapshot"           u8 version 1, log id, u32 length of the membership, membership, records
//!
//! entry    u8 version 1, u64 term, u64 leader, u8 kind, body
//!   kind 0               no body
//!   kind 1               records (see metadata::record)
//!   kind 2               membership
//! log id   u64 index, u64 term, u64 leader
//! membership             openraft's own, as JSON
//! ```
//!
//! Numbers are big endian. Each function here is one transaction and blocks for one sync of the file:
//! callers run it on a blocking thread. redb writes copies and swings a root at the end, so whatever
//! moment a crash picks, the file opens with the last transaction that was committed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use openraft::{
    BasicNode, CommittedLeaderId, EntryPayload, LogId, Membership, StoredMembership, Vote,
};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::founding::FoundingFile;
use super::{Proposal, QuorumError, TypeConfig};
use crate::base::BrokerId;
use crate::metadata::{MetadataRecord, decode_records, encode_records};

const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const STATE: TableDefinition<&str, &[u8]> = TableDefinition::new("state");

const NODE_ID: &str = "node_id";
const VOTE: &str = "vote";
const PURGED: &str = "purged";
const SNAPSHOT: &str = "snapshot";

const VERSION: u8 = 1;
const BLANK: u8 = 0;
const RECORDS: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// redb keeps pages it has read or written; metadata is in memory anyway. The upper pages of its trees fit, the records
/// of large topics do not.
const CACHE_BYTES: usize = 64 << 10;

/// Bytes of an entry before its body.
pub(super) const ENTRY_HEAD_BYTES: usize = 18;

pub(super) type NodeId = u64;
pub(super) type Entry = openraft::Entry<TypeConfig>;

/// What a snapshot holds: the image as records, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct StoredSnapshot {
    pub last_log_id: LogId<NodeId>,
    pub membership: StoredMembership<NodeId, BasicNode>,
    pub records: Vec<MetadataRecord>,
    /// Bytes of the value.
    pub bytes: usize,
}

/// Everything in the file.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub vote: Option<Vote<NodeId>>,
    pub purged: Option<LogId<NodeId>>,
    /// In the order of their indexes, without gaps; each with its bytes.
    pub log: Vec<(Entry, usize)>,
    pub snapshot: Option<StoredSnapshot>,
}

/// The open file. One per node; closed by [`Store::close`] or by dropping it.
pub(super) struct Store {
    db: RwLock<Option<Database>>,
    path: PathBuf,
    /// Holds the file's name since a rename, and was not synced since.
    unsynced_folder: Mutex<Option<PathBuf>>,
}

impl Store {
    /// Opens the file at `path`, or makes it with `node_id` as a quorum of one that leads from the
    /// start: with one voter an election decides nothing, and costs three syncs.
    ///
    /// The file is made under another name, and renamed when it is whole and synced.
    pub fn open(path: &Path, node_id: BrokerId) -> Result<(Store, Loaded), QuorumError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let fails = |e: redb::DatabaseError| QuorumError::from_open(path, e);
        let exists = match fs::metadata(path) {
            Ok(meta) => meta.len() > 0,
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(QuorumError::io(path, e)),
        };
        if exists {
            check_length(path)?;
            let db = builder.open(path).map_err(fails)?;
            let store = Store {
                db: RwLock::new(Some(db)),
                path: path.to_owned(),
                unsynced_folder: Mutex::new(None),
            };
            let loaded = store.load(node_id)?;
            return Ok((store, loaded));
        }
        let staging = path.with_extension("redb.new");
        match fs::remove_file(&staging) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(QuorumError::io(&staging, e));
            }
            _ => {}
        }
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&staging)
            .map_err(|e| QuorumError::io(&staging, e))?;
        let (file, founding) = FoundingFile::new(file).map_err(fails)?;
        let db = builder.create_with_backend(file).map_err(fails)?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let store = Store {
            db: RwLock::new(Some(db)),
            path: path.to_owned(),
            // Synced behind the first commit, whose own sync has most of the work done by then.
            unsynced_folder: Mutex::new(Some(folder.to_owned())),
        };
        store.found(node_id)?;
        founding
            .finish()
            .and_then(|()| fs::rename(&staging, path))
            .map_err(|e| QuorumError::io(path, e))?;
        let loaded = store.load(node_id)?;
        Ok((store, loaded))
    }

    /// Writes what a file starts with: this node leads term 1, whose first entry makes it the voter.
    fn found(&self, node_id: BrokerId) -> Result<(), QuorumError> {
        let id = raft_id(node_id)?;
        let membership = Membership::new(
            vec![[id].into()],
            std::collections::BTreeMap::from([(id, BasicNode::default())]),
        );
        let entry = Entry {
            log_id: LogId::new(CommittedLeaderId::new(1, id), 0),
            payload: EntryPayload::Membership(membership),
        };
        self.write(|state, log| {
            state.insert(NODE_ID, node_id.0.to_be_bytes().as_slice())?;
            state.insert(VOTE, encode_vote(&Vote::new_committed(1, id)).as_slice())?;
            log.insert(0, encode_entry(&entry).as_slice())?;
            Ok(())
        })
    }

    fn load(&self, node_id: BrokerId) -> Result<Loaded, QuorumError> {
        let mut loaded = Loaded::default();
        let raw = self.read(|state, log| {
            let get = |key: &str| -> Result<Option<Vec<u8>>, redb::Error> {
                Ok(state.get(key)?.map(|v| v.value().to_vec()))
            };
            let mut entries = Vec::new();
            for item in log.iter()? {
                let (index, value) = item?;
                entries.push((index.value(), value.value().to_vec()));
            }
            Ok((
                get(NODE_ID)?,
                get(VOTE)?,
                get(PURGED)?,
                get(SNAPSHOT)?,
                entries,
            ))
        })?;
        let (node, vote, purged, snapshot, entries) = raw;
        let bad = |what: &str| QuorumError::Corrupt {
            path: self.path.clone(),
            reason: format!("{what} cannot be read"),
        };
        let found = node
            .and_then(|n| Some(i32::from_be_bytes(n.try_into().ok()?)))
            .ok_or_else(|| bad("the node id"))?;
        if found != node_id.0 {
            return Err(QuorumError::OtherNode {
                path: self.path.clone(),
                expected: node_id,
                found: BrokerId(found),
            });
        }
        if let Some(vote) = vote {
            loaded.vote = Some(decode_vote(&vote).ok_or_else(|| bad("the vote"))?);
        }
        if let Some(purged) = purged {
            let id = Bytes(&purged)
                .log_id()
                .ok_or_else(|| bad("the purge mark"))?;
            loaded.purged = Some(id);
        }
        if let Some(snapshot) = snapshot {
            let snapshot = decode_snapshot(&snapshot)
                .map_err(|reason| bad(&format!("the snapshot ({reason})")))?;
            loaded.snapshot = Some(snapshot);
        }
        for (index, bytes) in entries {
            let entry = decode_entry(index, &bytes)
                .map_err(|reason| bad(&format!("log entry {index} ({reason})")))?;
            loaded.log.push((entry, bytes.len()));
        }
        Ok(loaded)
    }

    pub fn save_vote(&self, vote: &Vote<NodeId>) -> Result<(), QuorumError> {
        self.write(|state, _| {
            state.insert(VOTE, encode_vote(vote).as_slice())?;
            Ok(())
        })?;
        self.sync_folder()
    }

    /// `entries`: index and what [`encode_entry`] gave.
    pub fn append(&self, entries: &[(u64, Vec<u8>)]) -> Result<(), QuorumError> {
        self.write(|_, log| {
            for (index, bytes) in entries {
                log.insert(index, bytes.as_slice())?;
            }
            Ok(())
        })?;
        self.sync_folder()
    }

    /// Removes entries from `index` on.
    pub fn truncate(&self, index: u64) -> Result<(), QuorumError> {
        self.write(|_, log| log.retain_in(index.., |_, _| false).map_err(Into::into))
    }

    /// Removes entries up to and with `upto`.
    pub fn purge(&self, upto: LogId<NodeId>) -> Result<(), QuorumError> {
        self.write(|state, log| {
            let mut mark = Vec::new();
            put_log_id(&mut mark, &upto);
            state.insert(PURGED, mark.as_slice())?;
            log.retain_in(..=upto.index, |_, _| false)?;
            Ok(())
        })
    }

    /// `snapshot` is what [`encode_snapshot`] gave.
    pub fn save_snapshot(&self, snapshot: &[u8]) -> Result<(), QuorumError> {
        self.write(|state, _| {
            state.insert(SNAPSHOT, snapshot)?;
            Ok(())
        })
    }

    pub fn load_snapshot(&self) -> Result<Option<Vec<u8>>, QuorumError> {
        self.read(|state, _| Ok(state.get(SNAPSHOT)?.map(|v| v.value().to_vec())))
    }

    /// Closes the file and gives up its lock. What comes later fails with [`QuorumError::Closed`].
    pub fn close(&self) {
        let db = self
            .db
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(db);
    }

    fn write(
        &self,
        change: impl FnOnce(
            &mut redb::Table<'_, &'static str, &'static [u8]>,
            &mut redb::Table<'_, u64, &'static [u8]>,
        ) -> Result<(), redb::Error>,
    ) -> Result<(), QuorumError> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let db = db.as_ref().ok_or(QuorumError::Closed)?;
        let run = || -> Result<(), redb::Error> {
            let transaction = db.begin_write()?;
            {
                let mut state = transaction.open_table(STATE)?;
                let mut log = transaction.open_table(LOG)?;
                change(&mut state, &mut log)?;
            }
            transaction.commit()?;
            Ok(())
        };
        run().map_err(|e| QuorumError::from_redb(&self.path, e))
    }

    /// Makes the file's name as durable as its content.
    fn sync_folder(&self) -> Result<(), QuorumError> {
        let mut unsynced = self
            .unsynced_folder
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = &*unsynced {
            fs::File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(|e| QuorumError::io(folder, e))?;
            *unsynced = None;
        }
        Ok(())
    }

    fn read<T>(
        &self,
        look: impl FnOnce(
            &redb::ReadOnlyTable<&'static str, &'static [u8]>,
            &redb::ReadOnlyTable<u64, &'static [u8]>,
        ) -> Result<T, redb::Error>,
    ) -> Result<T, QuorumError> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let db = db.as_ref().ok_or(QuorumError::Closed)?;
        let run = || -> Result<T, redb::Error> {
            let transaction = db.begin_read()?;
            let state = transaction.open_table(STATE)?;
            let log = transaction.open_table(LOG)?;
            look(&state, &log)
        };
        run().map_err(|e| QuorumError::from_redb(&self.path, e))
    }
}

/// Refuses a file that is shorter than its own header says: redb would panic.
///
/// In redb's header (file format 3) little-endian u32 at 12: page size; 16: header pages of a region;
/// 20: data pages of a full region; 24: full regions; 28: data pages of the last, partial region.
fn check_length(path: &Path) -> Result<(), QuorumError> {
    use std::io::Read;
    let mut file = fs::File::open(path).map_err(|e| QuorumError::io(path, e))?;
    let len = file.metadata().map_err(|e| QuorumError::io(path, e))?.len();
    let mut header = [0u8; 32];
    file.read_exact(&mut header)
        .map_err(|e| QuorumError::io(path, e))?;
    let mut fields = [0u64; 5];
    for (field, bytes) in fields.iter_mut().zip(header[12..].as_chunks::<4>().0) {
        *field = u64::from(u32::from_le_bytes(*bytes));
    }
    let [page, region_header, region_data, regions, last] = fields;
    let needs = regions
        .checked_mul(region_header + region_data)
        .and_then(|pages| pages.checked_add(1 + last)?.checked_mul(page));
    if header.starts_with(b"redb") && needs.is_none_or(|needs| len < needs) {
        return Err(QuorumError::Corrupt {
            path: path.to_owned(),
            reason: format!("it is cut short at {len} bytes"),
        });
    }
    Ok(())
}

/// A node's id in the quorum. Ids are not negative, which the settings hold.
pub(super) fn raft_id(node_id: BrokerId) -> Result<NodeId, QuorumError> {
    u64::try_from(node_id.0).map_err(|_| QuorumError::NodeId(node_id))
}

pub(super) fn encode_entry(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(ENTRY_HEAD_BYTES);
    out.push(VERSION);
    out.extend(entry.log_id.leader_id.term.to_be_bytes());
    out.extend(entry.log_id.leader_id.node_id.to_be_bytes());
    match &entry.payload {
        EntryPayload::Blank => out.push(BLANK),
        EntryPayload::Normal(proposal) => {
            out.push(RECORDS);
            out.extend(encode_records(&proposal.0));
        }
        EntryPayload::Membership(membership) => {
            out.push(MEMBERSHIP);
            out.extend(encode_membership(membership));
        }
    }
    out
}

fn decode_entry(index: u64, bytes: &[u8]) -> Result<Entry, String> {
    let mut bytes = Bytes(bytes);
    let head = (|| {
        let version = bytes.u8()?;
        Some((version, bytes.u64()?, bytes.u64()?, bytes.u8()?))
    })();
    let (version, term, leader, kind) = head.ok_or("cut short")?;
    if version != VERSION {
        return Err(format!("version {version}"));
    }
    let payload = match kind {
        BLANK => EntryPayload::Blank,
        RECORDS => EntryPayload::Normal(Proposal(
            decode_records(bytes.0).map_err(|e| e.to_string())?,
        )),
        MEMBERSHIP => {
            EntryPayload::Membership(serde_json::from_slice(bytes.0).map_err(|e| e.to_string())?)
        }
        _ => return Err(format!("kind {kind}")),
    };
    Ok(Entry {
        log_id: LogId::new(CommittedLeaderId::new(term, leader), index),
        payload,
    })
}

fn encode_membership<T: serde::Serialize>(membership: &T) -> Vec<u8> {
    serde_json::to_vec(membership).expect("a membership has numbers and text as keys")
}

pub(super) fn encode_snapshot(
    last_log_id: &LogId<NodeId>,
    membership: &StoredMembership<NodeId, BasicNode>,
    records: &[MetadataRecord],
) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_log_id(&mut out, last_log_id);
    let membership = encode_membership(membership);
    let len = u32::try_from(membership.len()).expect("a membership is a handful of nodes");
    out.extend(len.to_be_bytes());
    out.extend(membership);
    out.extend(encode_records(records));
    out
}

pub(super) fn decode_snapshot(bytes: &[u8]) -> Result<StoredSnapshot, String> {
    let (last_log_id, membership, records) = split_snapshot(bytes)?;
    Ok(StoredSnapshot {
        last_log_id,
        membership,
        records: decode_records(records).map_err(|e| e.to_string())?,
        bytes: bytes.len(),
    })
}

/// Where a snapshot stands, without reading its records.
pub(super) fn snapshot_head(
    bytes: &[u8],
) -> Result<(LogId<NodeId>, StoredMembership<NodeId, BasicNode>), String> {
    split_snapshot(bytes).map(|(last_log_id, membership, _)| (last_log_id, membership))
}

type SplitSnapshot<'a> = (LogId<NodeId>, StoredMembership<NodeId, BasicNode>, &'a [u8]);

fn split_snapshot(bytes: &[u8]) -> Result<SplitSnapshot<'_>, String> {
    let mut bytes = Bytes(bytes);
    let head = (|| {
        let version = bytes.u8()?;
        let log_id = bytes.log_id()?;
        let len = usize::try_from(bytes.u32()?).ok()?;
        Some((version, log_id, bytes.take(len)?))
    })();
    let (version, last_log_id, membership) = head.ok_or("cut short")?;
    if version != VERSION {
        return Err(format!("version {version}"));
    }
    let membership = serde_json::from_slice(membership).map_err(|e| e.to_string())?;
    Ok((last_log_id, membership, bytes.0))
}

fn encode_vote(vote: &Vote<NodeId>) -> Vec<u8> {
    let mut out = Vec::with_capacity(17);
    out.extend(vote.leader_id.term.to_be_bytes());
    out.extend(vote.leader_id.node_id.to_be_bytes());
    out.push(u8::from(vote.committed));
    out
}

fn decode_vote(bytes: &[u8]) -> Option<Vote<NodeId>> {
    let mut bytes = Bytes(bytes);
    let (term, node) = (bytes.u64()?, bytes.u64()?);
    match bytes.u8()? {
        0 => Some(Vote::new(term, node)),
        1 => Some(Vote::new_committed(term, node)),
        _ => None,
    }
}

fn put_log_id(out: &mut Vec<u8>, id: &LogId<NodeId>) {
    out.extend(id.index.to_be_bytes());
    out.extend(id.leader_id.term.to_be_bytes());
    out.extend(id.leader_id.node_id.to_be_bytes());
}

/// Bytes that are left to read; `None` when they are too few.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(u8::from_be_bytes(self.take(1)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    fn log_id(&mut self) -> Option<LogId<NodeId>> {
        let (index, term, leader) = (self.u64()?, self.u64()?, self.u64()?);
        Some(LogId::new(CommittedLeaderId::new(term, leader), index))
    }
}
