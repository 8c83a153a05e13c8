//! Bytes of the wire: frames, headers, versions, requests and responses. Pure.
//!
//! A frame's way in: [`frame::peek`] says which API and version it claims, [`api::lookup`] whether that
//! is served, [`frame::parse_header`] where the body begins, and then either a decoder of our own
//! ([`produce`], [`fetch`]) or [`response::decode_request`], which lets [`walker::walk`] check every
//! length before the types of the `kafka-protocol` crate allocate from them. The way out:
//! [`response::encode_response`], or the encoders of [`produce`], [`fetch`] and [`api_versions`].
//!
//! What holds here:
//! 1. No byte of a peer can panic, abort, or make anything allocate more than a small multiple of the
//!    bytes that arrived.
//! 2. Every message is what the schemas of Kafka 4.3 say, in every version of [`api::APIS`]; where the
//!    crate's types stop earlier, [`newer`] and [`topic_ids`] go on.
//! 3. A tagged field is never written at its default: old clients misread it.

pub mod api;
pub mod api_versions;
pub mod errors;
pub mod fetch;
pub mod frame;
pub mod fuzz;
pub mod newer;
pub mod produce;
pub(crate) mod reader;
pub mod response;
#[cfg(test)]
mod testing;
pub mod topic_ids;
pub mod txn_markers;
pub mod walker;
mod writer;

pub use errors::ErrorCode;
pub use kafka_protocol::messages;
pub use kafka_protocol::protocol::StrBytes;
pub use reader::{MAX_ELEMENTS, MAX_TAGS, Malformed, Reason};

use crate::base::ids::TopicId;

/// A topic id as the crate's types hold it.
pub fn topic_id(uuid: uuid::Uuid) -> TopicId {
    TopicId(uuid.as_u128())
}

/// A topic id for the crate's types.
pub fn uuid(id: TopicId) -> uuid::Uuid {
    uuid::Uuid::from_u128(id.0)
}
