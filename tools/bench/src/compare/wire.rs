//! The few requests that the comparison sends itself: is it there, make a topic, remove all topics; and
//! batches of records for loads that need to choose their connection.
//!
//! Versions are those that every broker still speaks: ApiVersions 0, Metadata 1, CreateTopics 2,
//! DeleteTopics 1, Produce 3.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

const PRODUCE: i16 = 0;
const METADATA: i16 = 3;
const API_VERSIONS: i16 = 18;
const CREATE_TOPICS: i16 = 19;
const DELETE_TOPICS: i16 = 20;

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;

fn string(out: &mut Vec<u8>, text: &str) {
    // Names come from us; the longest that Kafka allows has 249 bytes.
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

/// A request with header version 1 and no client id.
pub fn frame(api_key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut frame = ((10 + body.len()) as u32).to_be_bytes().to_vec();
    frame.extend(api_key.to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend([0, 0, 0, 7, 0xff, 0xff]);
    frame.extend(body);
    frame
}

/// A connection that asks one thing after another.
pub struct Client {
    stream: TcpStream,
}

/// Takes numbers and strings off an answer.
struct Answer<'a>(&'a [u8]);

impl<'a> Answer<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) = self
            .0
            .split_at_checked(len)
            .context("an answer that is too short")?;
        self.0 = rest;
        Ok(head)
    }

    fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.take(2)?.try_into()?))
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into()?))
    }

    /// Elements of an array; null has none.
    fn count(&mut self) -> Result<usize> {
        Ok(usize::try_from(self.i32()?).unwrap_or(0))
    }

    fn string(&mut self) -> Result<String> {
        let len = self.i16()?;
        let bytes = self.take(usize::try_from(len).unwrap_or(0))?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }
}

impl Client {
    pub fn connect(address: SocketAddr, timeout: Duration) -> Result<Client> {
        let stream = TcpStream::connect_timeout(&address, timeout)
            .with_context(|| format!("{address} does not take connections"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Client { stream })
    }

    fn ask(&mut self, api_key: i16, version: i16, body: &[u8]) -> Result<Vec<u8>> {
        self.stream.write_all(&frame(api_key, version, body))?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        ensure!(
            (4..=ANSWER_BYTES_MAX).contains(&length),
            "an answer of {length} bytes"
        );
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        // The correlation id.
        answer.drain(..4);
        Ok(answer)
    }

    /// Whether a broker answers.
    pub fn api_versions(&mut self) -> Result<()> {
        let answer = self.ask(API_VERSIONS, 0, &[])?;
        ensure!(Answer(&answer).i16()? == 0, "ApiVersions is refused");
        Ok(())
    }

    pub fn create_topic(&mut self, name: &str, partitions: i32) -> Result<()> {
        let mut body = 1i32.to_be_bytes().to_vec();
        string(&mut body, name);
        body.extend(partitions.to_be_bytes());
        body.extend(1i16.to_be_bytes());
        // No assignments, no configs; 60 s; really.
        body.extend([0; 8]);
        body.extend(60_000i32.to_be_bytes());
        body.push(0);
        let answer = self.ask(CREATE_TOPICS, 2, &body)?;
        let mut answer = Answer(&answer);
        answer.i32()?;
        ensure!(
            answer.count()? == 1,
            "CreateTopics answers for other topics"
        );
        answer.string()?;
        let code = answer.i16()?;
        ensure!(code == 0, "topic {name} was refused with error {code}");
        Ok(())
    }

    /// Topics, and how many of their partitions have a leader.
    pub fn topics(&mut self) -> Result<Vec<(String, usize)>> {
        let answer = self.ask(METADATA, 1, &(-1i32).to_be_bytes())?;
        let mut answer = Answer(&answer);
        for _ in 0..answer.count()? {
            answer.i32()?;
            answer.string()?;
            answer.i32()?;
            answer.string()?;
        }
        answer.i32()?;
        let mut topics = Vec::new();
        for _ in 0..answer.count()? {
            answer.i16()?;
            let name = answer.string()?;
            answer.take(1)?;
            let mut led = 0;
            for _ in 0..answer.count()? {
                answer.i16()?;
                answer.i32()?;
                led += usize::from(answer.i32()? >= 0);
                for _ in 0..2 {
                    let replicas = answer.count()?;
                    answer.take(4 * replicas)?;
                }
            }
            topics.push((name, led));
        }
        Ok(topics)
    }

    /// Waits until all partitions of a topic have a leader: Kafka answers before.
    pub fn wait_for_topic(&mut self, name: &str, partitions: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if self.topics()?.contains(&(name.to_owned(), partitions)) {
                return Ok(());
            }
            if Instant::now() > deadline || super::sys::stop_asked() {
                bail!("topic {name} has not had its leaders within 60 s");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Deletes every topic that is not the broker's own.
    pub fn delete_topics(&mut self) -> Result<()> {
        let mut names: Vec<String> = self.topics()?.into_iter().map(|(name, _)| name).collect();
        names.retain(|name| !name.starts_with("__"));
        if names.is_empty() {
            return Ok(());
        }
        let mut body = (names.len() as u32).to_be_bytes().to_vec();
        for name in &names {
            string(&mut body, name);
        }
        body.extend(60_000i32.to_be_bytes());
        let answer = self.ask(DELETE_TOPICS, 1, &body)?;
        let mut answer = Answer(&answer);
        answer.i32()?;
        for _ in 0..answer.count()? {
            let (name, code) = (answer.string()?, answer.i16()?);
            // 3: it is gone already.
            ensure!(
                code == 0 || code == 3,
                "topic {name} is not deleted: error {code}"
            );
        }
        Ok(())
    }
}

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut left = ((value << 1) ^ (value >> 63)) as u64;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

/// A record batch, version 2, of `records` records without keys, each with a value of `bytes`.
pub fn batch(records: u32, bytes: usize) -> Vec<u8> {
    let value: Vec<u8> = (0..bytes)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8)
        .collect();
    let mut body = Vec::with_capacity((bytes + 12) * records as usize);
    for delta in 0..records {
        let mut record = vec![0, 0];
        varint(&mut record, i64::from(delta));
        varint(&mut record, -1);
        varint(&mut record, bytes as i64);
        record.extend(&value);
        record.push(0);
        varint(&mut body, record.len() as i64);
        body.extend(record);
    }
    let mut checked = vec![0, 0];
    checked.extend((records - 1).to_be_bytes());
    checked.extend(1i64.to_be_bytes());
    checked.extend(1i64.to_be_bytes());
    // No producer: id, epoch and sequence are -1.
    checked.extend([0xff; 14]);
    checked.extend(records.to_be_bytes());
    checked.extend(body);
    let mut batch = vec![0; 8];
    batch.extend((checked.len() as u32 + 9).to_be_bytes());
    batch.extend((-1i32).to_be_bytes());
    batch.push(2);
    batch.extend(crc32c::crc32c(&checked).to_be_bytes());
    batch.extend(checked);
    batch
}

/// A Produce request, acks=all, of one batch for one partition.
pub fn produce(topic: &str, partition: i32, batch: &[u8]) -> Vec<u8> {
    let mut body = vec![0xff, 0xff, 0xff, 0xff];
    body.extend(30_000i32.to_be_bytes());
    body.extend(1i32.to_be_bytes());
    string(&mut body, topic);
    body.extend(1i32.to_be_bytes());
    body.extend(partition.to_be_bytes());
    body.extend((batch.len() as u32).to_be_bytes());
    body.extend(batch);
    frame(PRODUCE, 3, &body)
}

/// The error in the answer to [`produce`], correlation id included.
pub fn produce_error(topic: &str, answer: &[u8]) -> Option<i16> {
    let at = 4 + 4 + 2 + topic.len() + 4 + 4;
    let code = answer.get(at..at + 2)?;
    Some(i16::from_be_bytes(code.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_says_its_own_length_and_checksum() {
        let batch = batch(3, 100);
        let length = u32::from_be_bytes(batch[8..12].try_into().expect("4 bytes")) as usize;
        assert_eq!(length + 12, batch.len());
        let crc = u32::from_be_bytes(batch[17..21].try_into().expect("4 bytes"));
        assert_eq!(crc, crc32c::crc32c(&batch[21..]));
        assert_eq!(batch[57..61], [0, 0, 0, 3]);
    }

    #[test]
    fn an_answer_that_ends_too_soon_is_an_error() {
        assert!(Answer(&[0]).i16().is_err());
        assert!(Answer(&[0, 9, b'x']).string().is_err());
        assert_eq!(Answer(&[0xff; 4]).count().expect("null"), 0);
        assert_eq!(produce_error("t", &[0; 4]), None);
    }
}
