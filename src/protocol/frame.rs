//! The head of a request frame, after its 4-byte length.
//!
//! ```text
//! api_key i16 | api_version i16 | correlation_id i32 | client_id nullable string | tagged fields (v2)
//! ```
//! The client id keeps its 2-byte length in header version 2, so that a broker can read it before it
//! knows whether it knows the version (KIP-482).

use std::borrow::Cow;

use super::api::Api;
use super::reader::{Malformed, Reader, Reason};

/// What every frame begins with, whatever its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peek {
    pub api_key: i16,
    pub api_version: i16,
    pub correlation_id: i32,
}

/// Reads the first 8 bytes of a frame. `None` if there are fewer.
pub fn peek(frame: &[u8]) -> Option<Peek> {
    let mut reader = Reader::new(frame, false);
    Some(Peek {
        api_key: reader.i16("api_key").ok()?,
        api_version: reader.i16("api_version").ok()?,
        correlation_id: reader.i32("correlation_id").ok()?,
    })
}

/// A request's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader<'a> {
    pub api_key: i16,
    pub api_version: i16,
    pub correlation_id: i32,
    /// As Kafka does, bytes that are not UTF-8 are replaced, not refused.
    pub client_id: Option<Cow<'a, str>>,
    /// Where in the frame the body begins.
    pub body_offset: usize,
}

/// Reads the header of a frame whose [`peek`]ed key and version were found to be `api`'s.
///
/// Tagged fields of the header are skipped; there are at most [`super::MAX_TAGS`].
pub fn parse_header<'a>(api: &Api, frame: &'a [u8]) -> Result<RequestHeader<'a>, Malformed> {
    let mut reader = Reader::new(frame, false);
    let api_key = reader.i16("api_key")?;
    let api_version = reader.i16("api_version")?;
    let correlation_id = reader.i32("correlation_id")?;
    let client_id = match reader.i16("client_id")? {
        -1 => None,
        length => match usize::try_from(length) {
            Ok(length) => Some(String::from_utf8_lossy(reader.take(length, "client_id")?)),
            Err(_) => return reader.err("client_id", Reason::BadLength),
        },
    };
    reader.flexible = api.request_header_version(api_version) >= 2;
    reader.skip_tags()?;
    Ok(RequestHeader {
        api_key,
        api_version,
        correlation_id,
        client_id,
        body_offset: reader.position(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::api;
    use bytes::{BufMut, BytesMut};
    use kafka_protocol::messages::RequestHeader as CrateHeader;
    use kafka_protocol::protocol::{Encodable, StrBytes};

    fn header(key: i16, version: i16, client_id: Option<&'static str>, tag: bool) -> BytesMut {
        let header_version = api::find(key).unwrap().request_header_version(version);
        let mut header = CrateHeader::default()
            .with_request_api_key(key)
            .with_request_api_version(version)
            .with_correlation_id(77)
            .with_client_id(client_id.map(StrBytes::from_static_str));
        if tag {
            header = header.with_unknown_tagged_field(9, bytes::Bytes::from_static(b"abc"));
        }
        let mut out = BytesMut::new();
        header.encode(&mut out, header_version).unwrap();
        out
    }

    #[test]
    fn headers_of_both_versions_are_read_to_their_end() {
        for (key, version, tag) in [(3, 8, false), (3, 9, false), (3, 9, true)] {
            for client_id in [None, Some(""), Some("kcat")] {
                let mut frame = header(key, version, client_id, tag);
                let end = frame.len();
                frame.put_slice(b"body");
                let read = parse_header(api::find(key).unwrap(), &frame).unwrap();
                assert_eq!(read.client_id.as_deref(), client_id);
                assert_eq!(read.correlation_id, 77);
                assert_eq!(read.body_offset, end);
                for cut in 0..end {
                    assert!(parse_header(api::find(key).unwrap(), &frame[..cut]).is_err());
                }
            }
        }
    }

    #[test]
    fn a_frame_under_8_bytes_has_no_head() {
        assert_eq!(peek(&[0; 7]), None);
        assert_eq!(
            peek(&[0, 18, 0, 3, 0, 0, 0, 5, 9]),
            Some(Peek {
                api_key: 18,
                api_version: 3,
                correlation_id: 5
            })
        );
    }

    #[test]
    fn a_client_id_that_is_not_utf8_is_replaced_as_kafka_does() {
        let frame = [0, 3, 0, 0, 0, 0, 0, 1, 0, 2, 0xff, b'x'];
        let read = parse_header(api::find(3).unwrap(), &frame).unwrap();
        assert_eq!(read.client_id.as_deref(), Some("\u{fffd}x"));
    }

    #[test]
    fn tags_of_a_header_are_bounded() {
        let mut frame = header(3, 9, None, false);
        frame.truncate(frame.len() - 1);
        frame.put_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
        frame.put_bytes(0, 100);
        let error = parse_header(api::find(3).unwrap(), &frame).unwrap_err();
        assert_eq!(error.reason, Reason::BeyondEnd);
    }
}
