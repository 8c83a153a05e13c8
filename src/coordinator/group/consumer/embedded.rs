//! What classic consumers put into the opaque bytes of the classic protocol: subscriptions and
//! assignments, versions 0 to 3. A later version is read as 3: it begins the same.

use std::collections::BTreeMap;

use super::record::Partitions;
use crate::metadata::Image;
use crate::protocol::Malformed;
use crate::protocol::Reason;
use crate::protocol::reader::Reader;

/// What a member subscribes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    pub topics: Vec<String>,
    /// By topic name; from version 1 on.
    pub owned: Vec<(String, Vec<i32>)>,
    /// From version 3 on.
    pub rack_id: Option<String>,
}

/// The version that the bytes begin with.
pub fn version(bytes: &[u8]) -> Result<i16, Malformed> {
    let mut reader = Reader::new(bytes, false);
    match reader.i16("version")? {
        version if version < 0 => reader.err("version", Reason::NotServed),
        version => Ok(version),
    }
}

fn topics(r: &mut Reader<'_>) -> Result<Vec<(String, Vec<i32>)>, Malformed> {
    let mut topics = Vec::new();
    for _ in 0..r.elements(6, "Partitions")? {
        let topic = r.text("Topic")?.to_owned();
        let count = r.elements(4, "Partitions")?;
        let partitions = (0..count).map(|_| r.i32("Partitions"));
        topics.push((topic, partitions.collect::<Result<_, _>>()?));
    }
    Ok(topics)
}

/// Reads a subscription.
pub fn subscription(bytes: &[u8]) -> Result<Subscription, Malformed> {
    let version = version(bytes)?;
    let r = &mut Reader::new(bytes, false);
    r.i16("version")?;
    let mut subscription = Subscription::default();
    for _ in 0..r.elements(2, "Topics")? {
        subscription.topics.push(r.text("Topics")?.to_owned());
    }
    r.bytes(true, "UserData")?;
    if version >= 1 {
        subscription.owned = topics(r)?;
    }
    if version >= 2 {
        r.i32("GenerationId")?;
    }
    if version >= 3 {
        subscription.rack_id = r.string(true, "RackId")?.map(str::to_owned);
    }
    Ok(subscription)
}

/// Reads an assignment: partitions by topic name, and whether there is user data.
pub fn assignment(bytes: &[u8]) -> Result<(Vec<(String, Vec<i32>)>, bool), Malformed> {
    version(bytes)?;
    let r = &mut Reader::new(bytes, false);
    r.i16("version")?;
    let partitions = topics(r)?;
    let user_data = r.bytes(true, "UserData")?;
    Ok((partitions, user_data.is_some_and(|data| !data.is_empty())))
}

/// Writes an assignment. Topics that are gone are left out.
pub fn encode_assignment(version: i16, partitions: &Partitions, image: &Image) -> Vec<u8> {
    let topics = partitions
        .iter()
        .filter_map(|(id, partitions)| Some((image.topic(*id)?.name.clone(), partitions)));
    let topics: BTreeMap<_, _> = topics.collect();
    let mut out = version.clamp(0, 3).to_be_bytes().to_vec();
    out.extend_from_slice(&(topics.len() as i32).to_be_bytes());
    for (name, partitions) in topics {
        // A topic's name has at most 249 bytes.
        out.extend_from_slice(&(name.len() as i16).to_be_bytes());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&(partitions.len() as i32).to_be_bytes());
        for partition in partitions {
            out.extend_from_slice(&partition.to_be_bytes());
        }
    }
    // No user data.
    out.extend_from_slice(&(-1i32).to_be_bytes());
    out
}

/// Partitions by topic id. Topics that do not exist are left out.
pub fn by_id(partitions: &[(String, Vec<i32>)], image: &Image) -> Partitions {
    let mut topics = Partitions::new();
    for (name, partitions) in partitions {
        if let Some(id) = image.topic_id(name) {
            topics.entry(id).or_default().extend(partitions);
        }
    }
    topics
}
