//! Reads what is in a log, and in its files.

use std::path::Path;

use bytes::Bytes;
use ringspun::base::Offset;
use ringspun::records::control::EndTxnMarker;
use ringspun::records::{
    BATCH_HEADER_SIZE, BatchHeader, RecordIter, Scratch, decompress, verify_crc,
};
use ringspun::storage::names::{FileKind, parse_file_name};
use ringspun::storage::{Disk, LogSlice, MemoryDisk};

use crate::history::Record;
use crate::world::{TestLog, run};

/// A batch that was read.
#[derive(Clone, Debug)]
pub struct Found {
    pub header: BatchHeader,
    pub marker: Option<EndTxnMarker>,
    pub records: Vec<Record>,
}

fn number(bytes: Option<&[u8]>, prefix: &str) -> Result<u32, String> {
    let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
    text.and_then(|text| text.strip_prefix(prefix))
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| format!("garbage where {prefix:?} and a number should be: {bytes:?}"))
}

fn batch(header: BatchHeader, bytes: &[u8]) -> Result<Found, String> {
    if !verify_crc(bytes) {
        return Err(format!("wrong CRC at offset {}", header.base_offset));
    }
    let mut found = Found {
        header,
        marker: None,
        records: Vec::new(),
    };
    if header.records_count == 0 {
        return Ok(found);
    }
    if header.is_control() {
        found.marker = EndTxnMarker::of_batch(&header, bytes).map_err(|e| format!("{e:?}"))?;
        return Ok(found);
    }
    let records = decompress(
        header.compression(),
        &bytes[BATCH_HEADER_SIZE..],
        &mut Scratch::new(),
        1 << 20,
    );
    let records = records.map_err(|error| format!("{error:?}"))?;
    for record in RecordIter::new(&header, &records) {
        let record = record.map_err(|error| format!("{error:?}"))?;
        found.records.push(Record {
            offset: record.offset.0,
            key: number(record.key, "k")? as u8,
            value: match record.value {
                None => None,
                value => Some(number(value, "v")?),
            },
            timestamp: record.timestamp.0,
        });
    }
    Ok(found)
}

fn batches(bytes: &Bytes) -> Result<Vec<Found>, String> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let header = BatchHeader::parse(&bytes[at..]).map_err(|error| format!("{error:?}"))?;
        let end = at + header.size_in_bytes();
        let whole = bytes.get(at..end).ok_or("a batch that is not whole")?;
        found.push(batch(header, whole)?);
        at = end;
    }
    Ok(found)
}

/// The batches of what was read.
pub fn parse(slice: &LogSlice) -> Result<Vec<Found>, String> {
    let LogSlice::Bytes(bytes) = slice else {
        return Err("a slice of a file from memory".into());
    };
    batches(bytes).map_err(|error| {
        let whole = BatchHeader::parse(bytes);
        format!("{error} in {} bytes that begin with {whole:?}", bytes.len())
    })
}

/// The batches from `from` to the end of the log, by reads of at most `max_bytes`.
pub fn read(log: &TestLog, from: Offset, max_bytes: u32) -> Result<Vec<Found>, String> {
    let mut found = Vec::new();
    let end = log.log_end_offset();
    let mut next = from;
    while next < end {
        let out = run(log.read(next, max_bytes, end, true));
        let out = out.map_err(|error| format!("read at {next}: {error}"))?;
        let Some(slice) = &out.slice else { break };
        let read = parse(slice);
        let read = read.map_err(|error| format!("read of {max_bytes} at {next}: {error}"))?;
        if out.next_offset <= next {
            return Err(format!("a read at {next} goes on at {}", out.next_offset));
        }
        found.extend(read);
        next = out.next_offset;
    }
    Ok(found)
}

/// Holds the index files in a log's folder against its segments.
pub fn check_indexes(disk: &MemoryDisk, dir: &Path) -> Result<(), String> {
    let entries = run(disk.list(dir)).map_err(|error| error.to_string())?;
    let file = |name: &str| run(disk.read_file(&dir.join(name), 1 << 30));
    for entry in entries {
        let Some((base, FileKind::Log)) = parse_file_name(&entry.name) else {
            continue;
        };
        let log = file(&entry.name).map_err(|error| error.to_string())?;
        let mut places = Vec::new();
        let mut at = 0;
        while let Ok(header) = BatchHeader::parse(&log[at..]) {
            places.push((at, header));
            at += header.size_in_bytes();
            if at > log.len() {
                break;
            }
        }
        let stem = &entry.name[..20];
        let relative = |header: &BatchHeader| header.last_offset().0 - base.0;
        let index = file(&format!("{stem}.index")).unwrap_or_default();
        let mut before = (-1, -1);
        for bytes in index.as_chunks::<8>().0 {
            let (offset, position) = bytes.split_at(4);
            let be = |b: &[u8]| i64::from(u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
            let now = (be(offset), be(position));
            let is_there = places
                .iter()
                .any(|(at, header)| (relative(header), *at as i64) == now);
            if !is_there || now.0 <= before.0 || now.1 <= before.1 {
                return Err(format!("{stem}.index has {now:?}, which is no batch"));
            }
            before = now;
        }
        let index = file(&format!("{stem}.timeindex")).unwrap_or_default();
        let mut before = -1;
        for bytes in index.as_chunks::<12>().0 {
            let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
            let timestamp = i64::from_be_bytes([a, b, c, d, e, f, g, h]);
            let offset = i64::from(u32::from_be_bytes([i, j, k, l]));
            let is_there = places
                .iter()
                .any(|(_, h)| (relative(h), h.max_timestamp.0) == (offset, timestamp));
            if !is_there || timestamp <= before {
                let entry = (timestamp, offset);
                return Err(format!("{stem}.timeindex has {entry:?}, which is no batch"));
            }
            before = timestamp;
        }
    }
    Ok(())
}

/// The files of a disk, and what stands in them, one line each.
pub fn files(disk: &MemoryDisk) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, bytes) in disk.files() {
        let name = path.to_string_lossy();
        let mut line = format!("{name} {} bytes", bytes.len());
        if name.ends_with(".log") {
            let mut at = 0;
            while let Ok(header) = BatchHeader::parse(&bytes[at.min(bytes.len())..]) {
                let (base, last) = (header.base_offset, header.last_offset());
                line += &format!(" {at}:{base}-{last}@{}", header.partition_leader_epoch);
                at += header.size_in_bytes();
            }
        } else if name.ends_with(".index") {
            for entry in bytes.as_chunks::<8>().0 {
                let [a, b, c, d, e, f, g, h] = *entry;
                let offset = u32::from_be_bytes([a, b, c, d]);
                line += &format!(" {offset}@{}", u32::from_be_bytes([e, f, g, h]));
            }
        } else if name.ends_with(".timeindex") {
            for entry in bytes.as_chunks::<12>().0 {
                let [a, b, c, d, e, f, g, h, i, j, k, l] = *entry;
                let timestamp = i64::from_be_bytes([a, b, c, d, e, f, g, h]);
                line += &format!(" {timestamp}:{}", u32::from_be_bytes([i, j, k, l]));
            }
        } else if name.ends_with("checkpoint") {
            line += &format!(" {:?}", String::from_utf8_lossy(&bytes));
        }
        lines.push(line);
    }
    lines
}
