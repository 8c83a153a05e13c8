//! Requests into the crate's types, and its types into response frames.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::{Encodable, Request};

use super::api::{self, Lookup};
use super::newer;
use super::reader::{Malformed, Reason};
use super::walker;

/// A response could not be written: a mistake of ours, the connection is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncodeError {
    /// The API or the version is not in the table.
    NotServed,
    /// The frame would be longer than 2^31-1 bytes.
    TooLarge,
    /// The message holds what the version cannot carry.
    Refused(String),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodeError::NotServed => f.write_str("the API or version is not served"),
            EncodeError::TooLarge => f.write_str("the response is longer than a frame can be"),
            EncodeError::Refused(why) => write!(f, "the response does not fit its version: {why}"),
        }
    }
}

impl std::error::Error for EncodeError {}

/// Decodes the body of a request into the crate's type, after the walker has checked it.
///
/// Bytes behind the request are ignored, as Kafka does. Strings and bytes of the result are slices of
/// `body` and keep all of it alive: copy out what is kept.
pub fn decode_request<T: Request>(version: i16, body: Bytes) -> Result<T, Malformed> {
    let walked = walker::walk(T::KEY, version, &body)?;
    decode_walked(version, body, walked)
}

/// As [`decode_request`], for who has walked these very bytes already (to reserve
/// [`walker::Walked::memory_bytes`] before decoding).
pub fn decode_walked<T: Request>(
    version: i16,
    mut body: Bytes,
    walked: walker::Walked,
) -> Result<T, Malformed> {
    body.truncate(walked.consumed);
    T::decode(&mut body, newer::request_version(T::KEY, version)).map_err(|_| Malformed {
        at: walked.consumed - body.len(),
        field: "request",
        reason: Reason::Refused,
    })
}

/// The whole frame of a response: length prefix, header of the right version, body.
///
/// `response` is a type of the crate, or one of [`newer`] where the crate's stops short of `version`.
pub fn encode_response(
    api_key: i16,
    version: i16,
    correlation_id: i32,
    response: &impl Encodable,
) -> Result<Bytes, EncodeError> {
    let Lookup::Served(api) = api::lookup(api_key, version) else {
        return Err(EncodeError::NotServed);
    };
    let body_version = newer::response_version(api_key, version);
    let refused = |error| EncodeError::Refused(format!("{error}"));
    let size = response.compute_size(body_version).map_err(refused)?;
    let mut out = BytesMut::with_capacity(size + 9);
    out.put_i32(0);
    out.put_i32(correlation_id);
    if api.response_header_version(version) >= 1 {
        out.put_u8(0);
    }
    response.encode(&mut out, body_version).map_err(refused)?;
    let length = i32::try_from(out.len() - 4).map_err(|_| EncodeError::TooLarge)?;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(out.freeze())
}
