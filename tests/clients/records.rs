//! Records as the tests make, send and compare them, and the file in which drivers read and write them.
//!
//! The file is records one after another, all numbers big-endian:
//! ```text
//! partition i32 | offset i64 | timestamp i64 | key | value | header count i32 | (name, value) each
//! ```
//! where a key, value, name and header value is its length as i32 (-1: null) and its bytes. A negative
//! timestamp in a file to be produced leaves the time to the client.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Headers,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Headers {
    List(Vec<(String, Option<Vec<u8>>)>),
    /// As kcat prints them: `name=value,name=NULL`.
    Printed(Vec<u8>),
}

impl Headers {
    fn printed(&self) -> Vec<u8> {
        match self {
            Headers::Printed(text) => text.clone(),
            Headers::List(list) => {
                let each: Vec<Vec<u8>> = list
                    .iter()
                    .map(|(name, value)| {
                        let value = value.as_deref().unwrap_or(b"NULL");
                        // It prints them as C strings.
                        let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
                        [name.as_bytes(), b"=", value].concat()
                    })
                    .collect();
                each.join(&b","[..])
            }
        }
    }

    fn same(&self, other: &Headers) -> bool {
        match (self, other) {
            (Headers::List(one), Headers::List(two)) => one == two,
            _ => self.printed() == other.printed(),
        }
    }
}

/// What a client can put into a record.
#[derive(Debug, Clone, Copy)]
pub struct Abilities {
    /// Keys and values of length 0 beside null ones, any bytes, own headers and times for each record.
    pub anything: bool,
    /// Headers whose value is null.
    pub null_headers: bool,
}

/// `count` records for `partition`, whose offsets count from 0: small and large, compressible or not,
/// null and empty keys and values, headers of one name twice, and one value of 1 MiB in the middle.
///
/// Times lie between `time` and an hour later and do not always rise.
pub fn make(seed: u64, partition: i32, count: i64, time: i64, can: Abilities) -> Vec<Record> {
    let mut random = fastrand::Rng::with_seed(seed ^ (partition as u64) << 32);
    (0..count)
        .map(|offset| {
            let length = match offset {
                _ if offset == count / 2 => 1 << 20,
                _ if offset % 5 == 4 => random.usize(20_000..60_000),
                _ => random.usize(1..300),
            };
            let value = match offset % 7 {
                // kcat takes no record of neither key nor value.
                3 if can.anything || offset % 5 != 1 => None,
                5 if can.anything && offset != count / 2 => Some(Vec::new()),
                _ => Some(bytes(&mut random, length, can)),
            };
            let value = if offset == count / 2 {
                Some(bytes(&mut random, 1 << 20, can))
            } else {
                value
            };
            let key = match offset % 5 {
                1 => None,
                2 if can.anything => Some(Vec::new()),
                _ => Some(format!("key-{partition}-{offset}").into_bytes()),
            };
            let mut headers = Vec::new();
            if !can.anything {
                headers = vec![
                    ("one".to_string(), Some(b"1".to_vec())),
                    ("two".to_string(), Some(b"2".to_vec())),
                ];
            } else if offset % 3 == 0 {
                let length = random.usize(0..40);
                headers.push(("twice".to_string(), Some(b"first".to_vec())));
                headers.push(("twice".to_string(), Some(bytes(&mut random, length, can))));
                if can.null_headers {
                    headers.push(("nothing".to_string(), None));
                }
                headers.push(("größe".to_string(), Some(b"".to_vec())));
            }
            let late = if offset % 11 == 4 { 5_000 } else { 0 };
            Record {
                partition,
                offset,
                timestamp: if can.anything {
                    time + offset * 1_000 - late
                } else {
                    -1
                },
                key,
                value,
                headers: Headers::List(headers),
            }
        })
        .collect()
}

/// Random bytes, or words that compress.
fn bytes(random: &mut fastrand::Rng, length: usize, can: Abilities) -> Vec<u8> {
    if random.bool() {
        return b"ring spun yarn "
            .iter()
            .copied()
            .cycle()
            .take(length)
            .collect();
    }
    if can.anything {
        return (0..length).map(|_| random.u8(..)).collect();
    }
    // kcat splits its input at bytes of our choice, which must not be in the data.
    (0..length).map(|_| random.u8(32..=255)).collect()
}

pub fn write(path: &Path, records: &[Record]) -> Result<(), String> {
    let mut out = Vec::new();
    let octets = |out: &mut Vec<u8>, value: Option<&[u8]>| match value {
        None => out.extend((-1i32).to_be_bytes()),
        Some(value) => {
            out.extend((value.len() as i32).to_be_bytes());
            out.extend(value);
        }
    };
    for record in records {
        out.extend(record.partition.to_be_bytes());
        out.extend(record.offset.to_be_bytes());
        out.extend(record.timestamp.to_be_bytes());
        octets(&mut out, record.key.as_deref());
        octets(&mut out, record.value.as_deref());
        let Headers::List(headers) = &record.headers else {
            unreachable!("only read")
        };
        out.extend((headers.len() as i32).to_be_bytes());
        for (name, value) in headers {
            octets(&mut out, Some(name.as_bytes()));
            octets(&mut out, value.as_deref());
        }
    }
    fs::write(path, out).map_err(|error| format!("{}: {error}", path.display()))
}

pub fn read(path: &Path) -> Result<Vec<Record>, String> {
    let data = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut left = data.as_slice();
    let mut records = Vec::new();
    while !left.is_empty() {
        records.push(read_one(&mut left).ok_or("a driver wrote half a record")?);
    }
    Ok(records)
}

fn read_one(left: &mut &[u8]) -> Option<Record> {
    fn take<'a>(left: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = left.split_at_checked(length)?;
        *left = rest;
        Some(taken)
    }
    fn int(left: &mut &[u8]) -> Option<i32> {
        Some(i32::from_be_bytes(take(left, 4)?.try_into().ok()?))
    }
    fn long(left: &mut &[u8]) -> Option<i64> {
        Some(i64::from_be_bytes(take(left, 8)?.try_into().ok()?))
    }
    fn octets(left: &mut &[u8]) -> Option<Option<Vec<u8>>> {
        match usize::try_from(int(left)?) {
            Ok(length) => Some(Some(take(left, length)?.to_vec())),
            Err(_) => Some(None),
        }
    }
    Some(Record {
        partition: int(left)?,
        offset: long(left)?,
        timestamp: long(left)?,
        key: octets(left)?,
        value: octets(left)?,
        headers: {
            let mut headers = Vec::new();
            for _ in 0..int(left)? {
                let name = String::from_utf8(octets(left)??).ok()?;
                headers.push((name, octets(left)?));
            }
            Headers::List(headers)
        },
    })
}

/// By partition, in the order they came.
pub fn by_partition(records: Vec<Record>) -> BTreeMap<i32, Vec<Record>> {
    let mut partitions: BTreeMap<i32, Vec<Record>> = BTreeMap::new();
    for record in records {
        partitions.entry(record.partition).or_default().push(record);
    }
    partitions
}

/// Whether what was read is exactly what was sent: the same records, bytes, times and offsets, in the
/// same order in each partition.
pub fn compare(sent: &[Record], read: Vec<Record>) -> Result<(), String> {
    let (sent, read) = (by_partition(sent.to_vec()), by_partition(read));
    if !sent.keys().eq(read.keys()) {
        return Err(format!("partitions {:?} were read", read.keys()));
    }
    for (partition, sent) in sent {
        let read = &read[&partition];
        for (sent, read) in sent.iter().zip(read) {
            if let Some(difference) = difference(sent, read) {
                return Err(format!(
                    "partition {partition}, offset {}: {difference}",
                    sent.offset
                ));
            }
        }
        if sent.len() != read.len() {
            return Err(format!(
                "partition {partition}: {} sent, {} read",
                sent.len(),
                read.len()
            ));
        }
    }
    Ok(())
}

fn difference(sent: &Record, read: &Record) -> Option<String> {
    let octets = |name: &str, sent: &Option<Vec<u8>>, read: &Option<Vec<u8>>| {
        let show = |octets: &Option<Vec<u8>>| match octets {
            None => "null".to_string(),
            Some(octets) => {
                let start = String::from_utf8_lossy(&octets[..octets.len().min(40)]).into_owned();
                format!("{} bytes {start:?}", octets.len())
            }
        };
        (sent != read).then(|| format!("{name} {} was read as {}", show(sent), show(read)))
    };
    if sent.offset != read.offset {
        return Some(format!("offset {} was read", read.offset));
    }
    if sent.timestamp >= 0 && sent.timestamp != read.timestamp {
        return Some(format!(
            "time {} was read as {}",
            sent.timestamp, read.timestamp
        ));
    }
    if !sent.headers.same(&read.headers) {
        return Some(format!(
            "headers {:?} were read as {:?}",
            sent.headers, read.headers
        ));
    }
    octets("key", &sent.key, &read.key).or_else(|| octets("value", &sent.value, &read.value))
}
