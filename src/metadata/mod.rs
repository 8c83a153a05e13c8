//! The cluster image and the records it is made of. Pure.
//!
//! Metadata is a log of [`MetadataRecord`]s. Replaying them gives the [`Image`]: immutable, shared by
//! `Arc`, one a node at a time. [`Image::apply`] makes the next image out of the last one and a batch
//! of records, and says in a [`Delta`] what differs, so that a shard does not compare ten thousand
//! topics to find one new partition.
//!
//! Invariants:
//! - an image never changes; the next one shares all that did not change with it ([`SharedMap`]);
//! - a batch of records is applied whole or not at all;
//! - [`kraft`] reads the log of another broker's metadata; nothing of it is in an image;
//! - records come from a disk and, later, from other nodes: one that contradicts the image is an
//!   [`ApplyError`], never a panic.

mod image;
#[cfg(test)]
mod image_tests;
pub mod kraft;
mod record;
mod shared_map;

pub use image::{
    ApplyError, BrokerImage, Delta, Image, PartitionImage, TopicImage, is_internal_topic,
};
pub use record::{
    BrokerRegistration, ConfigResource, Configs, DecodeError, DirectoryId, Endpoint, LeaderChange,
    MetadataRecord, PartitionChange, PartitionRegistration, decode_records, encode_records,
};
pub use shared_map::SharedMap;
