//! Bytes of the requests of the hot path, and of their answers: Produce 3 to 12 and Fetch 4 to 12, whose
//! topics have names.

/// Least and greatest version of Produce that is written here.
pub const PRODUCE_VERSIONS: (i16, i16) = (3, 12);
/// Least and greatest version of Fetch that is written here.
pub const FETCH_VERSIONS: (i16, i16) = (4, 12);
pub const PRODUCE: i16 = 0;
pub const FETCH: i16 = 1;

/// Writes fields as a version has them: compact or not.
pub struct Writer<'a> {
    pub out: &'a mut Vec<u8>,
    pub flexible: bool,
}

impl Writer<'_> {
    pub fn i8(&mut self, value: i8) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }
    pub fn i16(&mut self, value: i16) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }
    pub fn i32(&mut self, value: i32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }
    pub fn i64(&mut self, value: i64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }
    pub fn uvarint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }
    /// The count of an array's elements, or the length of bytes.
    pub fn length(&mut self, length: usize) {
        if self.flexible {
            self.uvarint(length as u32 + 1);
        } else {
            self.i32(length as i32);
        }
    }
    pub fn string(&mut self, text: &str) {
        if self.flexible {
            self.uvarint(text.len() as u32 + 1);
        } else {
            self.i16(text.len() as i16);
        }
        self.out.extend_from_slice(text.as_bytes());
    }
    pub fn null_string(&mut self) {
        if self.flexible {
            self.uvarint(0);
        } else {
            self.i16(-1);
        }
    }
    pub fn tags(&mut self) {
        if self.flexible {
            self.out.push(0);
        }
    }
    /// The beginning of a frame, its length still 0.
    pub fn header(&mut self, api: i16, version: i16, correlation: i32, client_id: &str) {
        self.i32(0);
        self.i16(api);
        self.i16(version);
        self.i32(correlation);
        self.i16(client_id.len() as i16);
        self.out.extend_from_slice(client_id.as_bytes());
        self.tags();
    }
}

/// Reads fields of an answer of which not all may be here yet: None where bytes are missing.
pub struct Reader<'a> {
    bytes: &'a [u8],
    pub at: usize,
    flexible: bool,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], flexible: bool) -> Reader<'a> {
        Reader {
            bytes,
            at: 0,
            flexible,
        }
    }
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, _) = self.bytes.get(self.at..)?.split_first_chunk::<N>()?;
        self.at += N;
        Some(*taken)
    }
    pub fn skip(&mut self, bytes: usize) -> Option<()> {
        let at = self.at.checked_add(bytes)?;
        (at <= self.bytes.len()).then(|| self.at = at)
    }
    pub fn i16(&mut self) -> Option<i16> {
        self.take().map(i16::from_be_bytes)
    }
    pub fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_be_bytes)
    }
    pub fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_be_bytes)
    }
    pub fn uvarint(&mut self) -> Option<u32> {
        let mut value = 0;
        for shift in (0..35).step_by(7) {
            let [byte] = self.take()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Some(value as u32)
    }
    /// The count of an array's elements, or the length of bytes; 0 for null.
    pub fn length(&mut self) -> Option<usize> {
        if self.flexible {
            Some(self.uvarint()?.saturating_sub(1) as usize)
        } else {
            Some(usize::try_from(self.i32()?).unwrap_or(0))
        }
    }
    pub fn string(&mut self) -> Option<&'a [u8]> {
        let length = if self.flexible {
            self.uvarint()?.saturating_sub(1) as usize
        } else {
            usize::try_from(self.i16()?).unwrap_or(0)
        };
        let from = self.at;
        self.skip(length)?;
        self.bytes.get(from..self.at)
    }
    pub fn tags(&mut self) -> Option<()> {
        if self.flexible {
            for _ in 0..self.uvarint()? {
                self.uvarint()?;
                let length = self.uvarint()?;
                self.skip(length as usize)?;
            }
        }
        Some(())
    }
}

/// What a Produce answer says of one partition.
#[derive(Debug, PartialEq, Eq)]
pub struct Produced<'a> {
    pub topic: &'a [u8],
    pub partition: i32,
    pub error: i16,
    pub base_offset: i64,
}

/// Calls `each` for every partition of a Produce answer (behind its correlation id); None if it is cut short.
pub fn produce_answer<'a>(
    bytes: &'a [u8],
    version: i16,
    mut each: impl FnMut(Produced<'a>),
) -> Option<()> {
    let mut reader = Reader::new(bytes, version >= 9);
    reader.tags()?;
    for _ in 0..reader.length()? {
        let topic = reader.string()?;
        for _ in 0..reader.length()? {
            let partition = reader.i32()?;
            let error = reader.i16()?;
            let base_offset = reader.i64()?;
            reader.i64()?; // log append time
            if version >= 5 {
                reader.i64()?; // log start offset
            }
            if version >= 8 {
                for _ in 0..reader.length()? {
                    reader.i32()?;
                    reader.string()?;
                    reader.tags()?;
                }
                reader.string()?; // message
            }
            reader.tags()?;
            each(Produced {
                topic,
                partition,
                error,
                base_offset,
            });
        }
        reader.tags()?;
    }
    reader.i32()?; // throttle time
    reader.tags()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::produce_response::{
        BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse,
    };
    use kafka_protocol::messages::{ProduceResponse, ResponseHeader, TopicName};
    use kafka_protocol::protocol::{Encodable, HeaderVersion, StrBytes};

    use super::*;

    #[test]
    fn every_version_of_a_produce_answer_is_read() {
        for version in PRODUCE_VERSIONS.0..=PRODUCE_VERSIONS.1 {
            let mut partition = PartitionProduceResponse::default()
                .with_index(3)
                .with_error_code(6)
                .with_base_offset(77);
            if version >= 8 {
                partition = partition
                    .with_record_errors(vec![BatchIndexAndErrorMessage::default()])
                    .with_error_message(Some(StrBytes::from_static_str("no")));
            }
            let topic = TopicProduceResponse::default()
                .with_name(TopicName(StrBytes::from_static_str("here")))
                .with_partition_responses(vec![partition]);
            let answer = ProduceResponse::default().with_responses(vec![topic]);
            let mut bytes = BytesMut::new();
            ResponseHeader::default()
                .encode(&mut bytes, ProduceResponse::header_version(version))
                .unwrap();
            answer.encode(&mut bytes, version).unwrap();
            let mut seen = Vec::new();
            let read = produce_answer(&bytes[4..], version, |partition| seen.push(partition));
            assert_eq!(read, Some(()), "version {version}");
            let expected = Produced {
                topic: b"here",
                partition: 3,
                error: 6,
                base_offset: 77,
            };
            assert_eq!(seen, [expected], "version {version}");
            let cut = produce_answer(&bytes[4..bytes.len() - 1], version, |_| ());
            assert_eq!(cut, None);
        }
    }
}
