use super::*;
use crate::base::{ProducerEpoch, Timestamp};
use crate::metadata::DirectoryId;
use crate::records::BatchBuilder;

const ID: u128 = 0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00;

/// Writes fields in the flexible encoding.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn kind(kind: u8, version: u8) -> Out {
        Out(vec![1, kind, version])
    }
    fn bytes(mut self, bytes: &[u8]) -> Out {
        self.0.extend_from_slice(bytes);
        self
    }
    fn i8(self, value: i8) -> Out {
        self.bytes(&value.to_be_bytes())
    }
    fn i16(self, value: i16) -> Out {
        self.bytes(&value.to_be_bytes())
    }
    fn i32(self, value: i32) -> Out {
        self.bytes(&value.to_be_bytes())
    }
    fn i64(self, value: i64) -> Out {
        self.bytes(&value.to_be_bytes())
    }
    fn uuid(self, value: u128) -> Out {
        self.bytes(&value.to_be_bytes())
    }
    fn text(self, text: &str) -> Out {
        let length = u8::try_from(text.len() + 1).unwrap();
        self.bytes(&[length]).bytes(text.as_bytes())
    }
    fn null(self) -> Out {
        self.bytes(&[0])
    }
    fn brokers(self, ids: &[i32]) -> Out {
        let out = self.bytes(&[ids.len() as u8 + 1]);
        ids.iter().fold(out, |out, id| out.i32(*id))
    }
    fn tag(self, tag: u8, content: &[u8]) -> Out {
        self.bytes(&[tag, content.len() as u8]).bytes(content)
    }
    fn end(self) -> Vec<u8> {
        self.bytes(&[0]).0
    }
}

pub(crate) fn topic(name: &str, id: u128) -> Vec<u8> {
    Out::kind(2, 0).text(name).uuid(id).end()
}

pub(crate) fn partition(number: i32, id: u128) -> Vec<u8> {
    Out::kind(3, 2)
        .i32(number)
        .uuid(id)
        .brokers(&[1])
        .brokers(&[1])
        .brokers(&[])
        .brokers(&[])
        .i32(1)
        .i32(0)
        .i32(0)
        .bytes(&[2])
        .uuid(77)
        // An empty list of eligible leaders.
        .bytes(&[1])
        .tag(1, &[1])
        .0
}

pub(crate) fn config(kind: i8, name: &str, key: &str, value: Option<&str>) -> Vec<u8> {
    let out = Out::kind(4, 0).i8(kind).text(name).text(key);
    match value {
        Some(value) => out.text(value).end(),
        None => out.null().end(),
    }
}

fn leader(number: i32, id: u128, leader: i32) -> Vec<u8> {
    Out::kind(5, 2)
        .i32(number)
        .uuid(id)
        .bytes(&[2])
        .tag(0, &[2, 0, 0, 0, 1])
        .tag(1, &leader.to_be_bytes())
        .0
}

pub(crate) fn producer_ids(next: i64) -> Vec<u8> {
    Out::kind(15, 0).i32(1).i64(3).i64(next).end()
}

/// An ACL of User:alice.
pub(crate) fn acl(id: u128) -> Vec<u8> {
    Out::kind(18, 0)
        .uuid(id)
        .i8(2)
        .text("orders")
        .i8(3)
        .text("User:alice")
        .text("*")
        .i8(3)
        .i8(3)
        .end()
}

/// A partition on these brokers is led by one of them.
pub(crate) fn replicas(number: i32, id: u128, brokers: &[i32]) -> Vec<u8> {
    let change = Out::kind(5, 2).i32(number).uuid(id).bytes(&[1]);
    let list = Out::default().brokers(brokers).0;
    change.tag(2, &list).0
}

fn remove(id: u128) -> Vec<u8> {
    Out::kind(9, 0).uuid(id).end()
}

fn batch(at: i64, records: &[Vec<u8>]) -> Vec<u8> {
    let mut builder = BatchBuilder::uncompressed().base_offset(Offset(at));
    for record in records {
        builder.append(Timestamp(1), None, Some(record), &[]);
    }
    builder.build()
}

fn control(at: i64, kind: u8) -> Vec<u8> {
    let mut builder = BatchBuilder::uncompressed()
        .base_offset(Offset(at))
        .control();
    builder = builder.producer(ProducerId(-1), ProducerEpoch(-1), -1);
    builder.append(Timestamp(1), Some(&[0, 0, 0, kind]), Some(&[0, 0]), &[]);
    builder.build()
}

/// A log of these batches, each of some records.
pub(crate) fn read(batches: &[&[Vec<u8>]]) -> Result<Cluster, KraftError> {
    let mut cluster = Cluster::default();
    let mut at = 0;
    for records in batches {
        cluster.apply_log_batch(&batch(at, records))?;
        at += records.len() as i64;
    }
    Ok(cluster.end())
}

fn names(cluster: &Cluster) -> Vec<&str> {
    cluster.topics().map(|(_, topic)| &*topic.name).collect()
}

#[test]
fn a_topic_has_what_was_said_of_it_last() {
    let cluster = read(&[
        &[
            topic("orders", ID),
            config(2, "orders", "retention.ms", Some("5")),
        ],
        &[partition(0, ID), partition(1, ID)],
        &[
            config(2, "orders", "retention.ms", Some("-1")),
            config(2, "orders", "segment.bytes", Some("9")),
            config(2, "orders", "segment.bytes", None),
            config(4, "", "log.retention.ms", Some("7")),
        ],
        &[leader(1, ID, -1), leader(1, ID, 1)],
        &[producer_ids(2000)],
        &[Out::kind(12, 0).text("metadata.version").i16(30).end()],
        &[Out::kind(20, 0).end()],
    ])
    .unwrap();
    assert_eq!(names(&cluster), ["orders"]);
    let (id, orders) = cluster.topics().next().unwrap();
    assert_eq!(id, TopicId(ID));
    let of = |n| &orders.partitions[&PartitionIndex(n)];
    assert_eq!(orders.partitions.len(), 2);
    assert_eq!(
        (of(0).leader_epoch, of(0).partition_epoch),
        (LeaderEpoch(0), 0)
    );
    assert_eq!(
        (of(1).leader_epoch, of(1).partition_epoch),
        (LeaderEpoch(2), 2)
    );
    assert_eq!(of(1).replicas, [BrokerId(1)]);
    assert_eq!(of(1).directories, [DirectoryId(77)]);
    let configs: Vec<_> = cluster.configs().collect();
    let set = |key: &str, value: &str| Configs::from([(key.to_owned(), value.to_owned())]);
    assert_eq!(
        configs,
        [
            (2, "orders", &set("retention.ms", "-1")),
            (4, "", &set("log.retention.ms", "7"))
        ]
    );
    assert_eq!(cluster.next_producer_id(), ProducerId(2000));
    assert_eq!(cluster.features()["metadata.version"], 30);
    assert_eq!(cluster.applied_to(), Offset(13));
}

#[test]
fn a_topic_that_was_removed_is_gone_with_its_settings_and_may_come_again() {
    let made = [
        topic("t", ID),
        partition(0, ID),
        config(2, "t", "k", Some("v")),
    ];
    let cluster = read(&[&made, &[remove(ID)]]).unwrap();
    assert_eq!(
        (cluster.topics().count(), cluster.configs().count()),
        (0, 0)
    );
    let cluster = read(&[&made, &[remove(ID), topic("t", ID + 1)]]).unwrap();
    assert_eq!(cluster.topics().next().unwrap().0, TopicId(ID + 1));
}

#[test]
fn a_transaction_of_the_controller_counts_when_it_ends() {
    let (begin, end, abort) = (
        Out::kind(23, 0).end(),
        Out::kind(24, 0).end(),
        Out::kind(25, 0).end(),
    );
    let whole = read(&[
        &[begin.clone(), topic("a", 2)],
        &[topic("b", 3), end.clone()],
    ])
    .unwrap();
    assert_eq!(names(&whole), ["a", "b"]);
    let aborted = read(&[&[begin.clone(), topic("a", 2), abort], &[topic("c", 4)]]).unwrap();
    assert_eq!(names(&aborted), ["c"]);
    let open = read(&[&[topic("c", 4), begin.clone()], &[topic("a", 2)]]).unwrap();
    assert_eq!(names(&open), ["c"]);
    assert!(read(&[&[end]]).is_err());
    assert!(read(&[&[begin.clone(), begin]]).is_err());
}

#[test]
fn a_snapshot_stands_for_the_log_below_its_end() {
    let mut cluster = Cluster::default();
    cluster.apply_snapshot_batch(&control(0, 3)).unwrap();
    let state = [topic("a", 2), partition(0, 2)];
    cluster.apply_snapshot_batch(&batch(1, &state)).unwrap();
    assert_eq!(
        cluster.clone().end_snapshot(Offset(10)),
        Err(KraftError::Snapshot("footer"))
    );
    cluster.apply_snapshot_batch(&control(3, 4)).unwrap();
    cluster.end_snapshot(Offset(10)).unwrap();
    // Its topic is in the log, too, and one batch lies on both sides of the end.
    cluster
        .apply_log_batch(&batch(7, &[topic("a", 2)]))
        .unwrap();
    let across = [topic("gone", 5), partition(0, 2), topic("b", 3)];
    cluster.apply_log_batch(&batch(8, &across)).unwrap();
    cluster.apply_log_batch(&control(11, 2)).unwrap();
    assert_eq!(names(&cluster), ["a", "b"]);
    assert_eq!(cluster.applied_to(), Offset(12));
}

#[test]
fn what_is_missing_or_damaged_is_an_error() {
    let one = batch(0, &[topic("a", 2)]);
    let mut cluster = Cluster::default();
    let later = batch(5, &[topic("a", 2)]);
    assert!(matches!(
        cluster.apply_log_batch(&later),
        Err(KraftError::Gap { .. })
    ));
    cluster.apply_log_batch(&one).unwrap();
    assert!(matches!(
        cluster.apply_log_batch(&batch(2, &[topic("b", 3)])),
        Err(KraftError::Gap { .. })
    ));
    for end in 0..one.len() {
        assert!(Cluster::default().apply_log_batch(&one[..end]).is_err());
    }
    for at in 16..one.len() {
        let mut bad = one.clone();
        bad[at] ^= 0x10;
        assert!(Cluster::default().apply_log_batch(&bad).is_err(), "{at}");
    }
    let mut cluster = Cluster::default();
    assert_eq!(
        cluster.apply_snapshot_batch(&one),
        Err(KraftError::Snapshot("header"))
    );
    for contradiction in [partition(0, 9), remove(9), leader(0, 9, 1)] {
        assert!(matches!(
            read(&[&[contradiction]]),
            Err(KraftError::Contradiction { .. })
        ));
    }
    assert!(read(&[&[producer_ids(5), producer_ids(4)]]).is_err());
}

#[test]
fn records_of_a_later_version_are_not_guessed_at() {
    let unknown = |value: Vec<u8>| Record::decode(&value).unwrap_err().to_string();
    assert!(unknown(Out::kind(29, 0).end()).contains("kind 29"));
    assert!(unknown(Out::kind(3, 3).end()).contains("PartitionRecord of version 3"));
    assert!(unknown(vec![0, 2, 0]).contains("framed as version 0"));
    let mut more = topic("t", ID);
    more.push(0);
    assert!(unknown(more).contains("1 bytes are left"));
}

#[test]
fn every_cut_and_every_bit_of_a_record_is_an_error_or_a_record() {
    let records = [
        topic("orders", ID),
        partition(3, ID),
        leader(3, ID, 1),
        config(2, "orders", "retention.ms", Some("5")),
        Out::kind(14, 0)
            .bytes(&[2])
            .text("user")
            .null()
            .end()
            .into_iter()
            .chain(Out::default().text("rate").i64(1).i8(0).end())
            .collect(),
    ];
    for record in records {
        Record::decode(&record).unwrap();
        for end in 0..record.len() {
            assert!(Record::decode(&record[..end]).is_err(), "{end}: {record:?}");
        }
        for at in 0..record.len() * 8 {
            let mut other = record.clone();
            other[at / 8] ^= 1 << (at % 8);
            let _ = Record::decode(&other);
        }
    }
}

#[test]
fn what_is_not_taken_over_is_kept_by_name() {
    let quota = |removed| {
        let entity = Out::kind(14, 0)
            .bytes(&[2])
            .text("user")
            .text("bob")
            .bytes(&[0]);
        entity.text("rate").i64(1).i8(removed).end()
    };
    let scram = Out::kind(11, 0)
        .text("carol")
        .i8(2)
        .text("salt")
        .text("k")
        .text("s");
    let cluster = read(&[
        &[acl(1), acl(2), acl(3), quota(0), scram.i32(4096).end()],
        &[Out::kind(19, 0).uuid(2).end()],
    ])
    .unwrap();
    let left: Vec<_> = cluster.left_behind().iter().collect();
    assert_eq!(
        left,
        [
            (&LeftBehind::Acl(1), &"User:alice".to_owned()),
            (&LeftBehind::Acl(3), &"User:alice".to_owned()),
            (
                &LeftBehind::Quota("user bob: rate".into()),
                &"user bob".to_owned()
            ),
            (&LeftBehind::Scram("carol".into(), 2), &"carol".to_owned()),
        ]
    );
    let cluster = read(&[&[quota(0), quota(1)]]).unwrap();
    assert!(cluster.left_behind().is_empty());
}
