//! WriteTxnMarkers request, versions 1 and 2: version 2 (KIP-1228) says of each marker by which protocol
//! of transactions it was decided, and the crate's type stops at 1.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::messages::write_txn_markers_request::WritableTxnMarkerTopic;
use kafka_protocol::messages::{ApiKey, WriteTxnMarkersResponse};
use kafka_protocol::protocol::buf::{ByteBuf, ByteBufMut};
use kafka_protocol::protocol::{
    Decodable, Encodable, HeaderVersion, Message, Request, VersionRange,
};

/// Markers that a coordinator, or an operator, has written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WriteTxnMarkersRequest {
    pub markers: Vec<TxnMarker>,
    tags: BTreeMap<u32, Bytes>,
}

/// The end of one producer's transaction.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TxnMarker {
    pub producer_id: i64,
    pub producer_epoch: i16,
    /// Commit, or abort.
    pub transaction_result: bool,
    pub topics: Vec<WritableTxnMarkerTopic>,
    pub coordinator_epoch: i32,
    /// v2+; 0 before.
    pub transaction_version: i8,
    tags: BTreeMap<u32, Bytes>,
}

fn get_varint<B: ByteBuf>(buf: &mut B) -> anyhow::Result<u32> {
    let mut value = 0u64;
    for shift in [0, 7, 14, 21, 28] {
        let byte = buf.try_get_u8()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(u32::try_from(value)?);
        }
    }
    anyhow::bail!("a varint that is too long")
}

fn put_varint<B: ByteBufMut>(buf: &mut B, mut value: u32) {
    while value >= 0x80 {
        buf.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    buf.put_u8(value as u8);
}

/// The elements of an array that is not null. Nothing is allocated ahead of the bytes.
fn get_array<B: ByteBuf, T>(
    buf: &mut B,
    element: impl Fn(&mut B) -> anyhow::Result<T>,
) -> anyhow::Result<Vec<T>> {
    let Some(count) = get_varint(buf)?.checked_sub(1) else {
        anyhow::bail!("null where an array is due");
    };
    (0..count).map(|_| element(buf)).collect()
}

fn get_tags<B: ByteBuf>(buf: &mut B) -> anyhow::Result<BTreeMap<u32, Bytes>> {
    let mut tags = BTreeMap::new();
    for _ in 0..get_varint(buf)? {
        let tag = get_varint(buf)?;
        let size = get_varint(buf)? as usize;
        tags.insert(tag, buf.try_get_bytes(size)?);
    }
    Ok(tags)
}

fn put_tags<B: ByteBufMut>(buf: &mut B, tags: &BTreeMap<u32, Bytes>) {
    put_varint(buf, tags.len() as u32);
    for (&tag, content) in tags {
        put_varint(buf, tag);
        put_varint(buf, content.len() as u32);
        buf.put_slice(content);
    }
}

impl Decodable for WriteTxnMarkersRequest {
    fn decode<B: ByteBuf>(buf: &mut B, version: i16) -> anyhow::Result<Self> {
        let markers = get_array(buf, |buf| {
            Ok(TxnMarker {
                producer_id: buf.try_get_i64()?,
                producer_epoch: buf.try_get_i16()?,
                transaction_result: buf.try_get_u8()? != 0,
                topics: get_array(buf, |buf| WritableTxnMarkerTopic::decode(buf, 1))?,
                coordinator_epoch: buf.try_get_i32()?,
                transaction_version: if version >= 2 { buf.try_get_i8()? } else { 0 },
                tags: get_tags(buf)?,
            })
        })?;
        let tags = get_tags(buf)?;
        Ok(Self { markers, tags })
    }
}

impl Encodable for WriteTxnMarkersRequest {
    fn encode<B: ByteBufMut>(&self, buf: &mut B, version: i16) -> anyhow::Result<()> {
        put_varint(buf, u32::try_from(self.markers.len())? + 1);
        for marker in &self.markers {
            buf.put_i64(marker.producer_id);
            buf.put_i16(marker.producer_epoch);
            buf.put_u8(u8::from(marker.transaction_result));
            put_varint(buf, u32::try_from(marker.topics.len())? + 1);
            for topic in &marker.topics {
                topic.encode(buf, 1)?;
            }
            buf.put_i32(marker.coordinator_epoch);
            if version >= 2 {
                buf.put_i8(marker.transaction_version);
            }
            put_tags(buf, &marker.tags);
        }
        put_tags(buf, &self.tags);
        Ok(())
    }

    fn compute_size(&self, version: i16) -> anyhow::Result<usize> {
        let mut out = Vec::new();
        self.encode(&mut out, version)?;
        Ok(out.len())
    }
}

impl Message for WriteTxnMarkersRequest {
    const VERSIONS: VersionRange = VersionRange { min: 1, max: 2 };
    const DEPRECATED_VERSIONS: Option<VersionRange> = None;
}

impl HeaderVersion for WriteTxnMarkersRequest {
    fn header_version(_: i16) -> i16 {
        2
    }
}

impl Request for WriteTxnMarkersRequest {
    const KEY: i16 = ApiKey::WriteTxnMarkers as i16;
    type Response = WriteTxnMarkersResponse;
}
