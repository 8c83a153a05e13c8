//! What Kafka 4.3 has and the types of the crate (Kafka 4.1) have not.
//!
//! - ListOffsets 11 adds a special timestamp (KIP-1023) and no field: the crate's version 10 is its bytes.
//! - DescribeLogDirs 5 adds `IsCordoned` to the response: a type of our own, for all versions. The
//!   request is version 4's.
//! - WriteTxnMarkers 2 says of each marker which protocol decided it: [`super::txn_markers`] for the request. The
//!   response is version 1's.

use kafka_protocol::messages::describe_log_dirs_response::DescribeLogDirsTopic;
use kafka_protocol::protocol::buf::ByteBufMut;
use kafka_protocol::protocol::{Encodable, StrBytes};

use super::api::key;

/// The version in which the crate decodes a request that came in `version`.
pub(super) fn request_version(api_key: i16, version: i16) -> i16 {
    match api_key {
        key::LIST_OFFSETS => version.min(10),
        key::DESCRIBE_LOG_DIRS => version.min(4),
        _ => version,
    }
}

/// The version in which the crate encodes the answer to a request of `version`.
pub(super) fn response_version(api_key: i16, version: i16) -> i16 {
    match api_key {
        key::LIST_OFFSETS => version.min(10),
        key::WRITE_TXN_MARKERS => version.min(1),
        _ => version,
    }
}

/// DescribeLogDirs response, versions 1 to 5.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DescribeLogDirsResponse {
    pub throttle_time_ms: i32,
    /// v3+.
    pub error_code: i16,
    pub results: Vec<DescribeLogDirsResult>,
}

/// One data directory.
#[derive(Debug, Clone, PartialEq)]
pub struct DescribeLogDirsResult {
    pub error_code: i16,
    /// Absolute path.
    pub log_dir: StrBytes,
    pub topics: Vec<DescribeLogDirsTopic>,
    /// Size of the volume, -1 if unknown; v4+.
    pub total_bytes: i64,
    /// What is free of it, -1 if unknown; v4+.
    pub usable_bytes: i64,
    /// Whether new partitions are kept off the directory; v5+.
    pub is_cordoned: bool,
}

impl Default for DescribeLogDirsResult {
    fn default() -> Self {
        Self {
            error_code: 0,
            log_dir: StrBytes::default(),
            topics: Vec::new(),
            total_bytes: -1,
            usable_bytes: -1,
            is_cordoned: false,
        }
    }
}

impl Encodable for DescribeLogDirsResponse {
    fn encode<B: ByteBufMut>(&self, out: &mut B, version: i16) -> anyhow::Result<()> {
        let flexible = version >= 2;
        out.put_i32(self.throttle_time_ms);
        if version >= 3 {
            out.put_i16(self.error_code);
        }
        put_count(out, flexible, self.results.len())?;
        for result in &self.results {
            out.put_i16(result.error_code);
            let path = result.log_dir.as_bytes();
            if flexible {
                put_count(out, true, path.len())?;
            } else {
                out.put_i16(i16::try_from(path.len())?);
            }
            out.put_slice(path);
            put_count(out, flexible, result.topics.len())?;
            for topic in &result.topics {
                // Nothing inside a topic changed since version 2.
                topic.encode(out, version.min(4))?;
            }
            if version >= 4 {
                out.put_i64(result.total_bytes);
                out.put_i64(result.usable_bytes);
            }
            if version >= 5 {
                out.put_u8(u8::from(result.is_cordoned));
            }
            if flexible {
                out.put_u8(0);
            }
        }
        if flexible {
            out.put_u8(0);
        }
        Ok(())
    }

    fn compute_size(&self, version: i16) -> anyhow::Result<usize> {
        let mut out = Vec::new();
        self.encode(&mut out, version)?;
        Ok(out.len())
    }
}

fn put_count<B: ByteBufMut>(out: &mut B, flexible: bool, count: usize) -> anyhow::Result<()> {
    let count = i32::try_from(count)?;
    if !flexible {
        out.put_i32(count);
        return Ok(());
    }
    let mut value = count as u32 + 1;
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::messages::describe_log_dirs_response as crates;

    fn sample() -> DescribeLogDirsResponse {
        let partition = crates::DescribeLogDirsPartition::default()
            .with_partition_index(3)
            .with_partition_size(1 << 40)
            .with_is_future_key(true);
        let topic = DescribeLogDirsTopic::default()
            .with_name(TopicName(StrBytes::from_static_str("orders")))
            .with_partitions(vec![partition; 2]);
        DescribeLogDirsResponse {
            throttle_time_ms: 5,
            error_code: 0,
            results: vec![DescribeLogDirsResult {
                log_dir: StrBytes::from_string("/data/".repeat(40)),
                topics: vec![topic; 130],
                total_bytes: 77,
                usable_bytes: 66,
                ..Default::default()
            }],
        }
    }

    #[test]
    fn describe_log_dirs_up_to_4_is_the_crates_byte_for_byte() {
        let ours = sample();
        for version in 1..=4 {
            let result = crates::DescribeLogDirsResult::default()
                .with_log_dir(ours.results[0].log_dir.clone())
                .with_topics(ours.results[0].topics.clone())
                .with_total_bytes(if version >= 4 { 77 } else { -1 })
                .with_usable_bytes(if version >= 4 { 66 } else { -1 });
            let crates = crates::DescribeLogDirsResponse::default()
                .with_throttle_time_ms(5)
                .with_results(vec![result]);
            let (mut a, mut b) = (BytesMut::new(), BytesMut::new());
            ours.encode(&mut a, version).unwrap();
            crates.encode(&mut b, version).unwrap();
            assert_eq!(a, b);
            assert_eq!(ours.compute_size(version).unwrap(), a.len());
        }
    }

    #[test]
    fn describe_log_dirs_5_says_whether_a_directory_is_cordoned() {
        let mut response = sample();
        let (mut four, mut five) = (BytesMut::new(), BytesMut::new());
        response.results[0].is_cordoned = true;
        response.encode(&mut four, 4).unwrap();
        response.encode(&mut five, 5).unwrap();
        // The flag stands before the tag sections of the result and of the response.
        let (head, tail) = four.split_at(four.len() - 2);
        assert_eq!(five, [head, &[1], tail].concat());
    }
}
