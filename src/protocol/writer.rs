//! Writes the wire's basic types.

use bytes::{BufMut, BytesMut};

/// A buffer that writes in the encodings of one version: compact ones if `flexible` (KIP-482).
pub(super) struct Writer {
    pub(super) out: BytesMut,
    pub(super) flexible: bool,
}

impl Writer {
    /// Begins a response frame: room for the length, the correlation id, and the header's empty tag
    /// section in flexible versions. `capacity` is a guess at the size of the whole.
    pub(super) fn response(correlation_id: i32, flexible: bool, capacity: usize) -> Self {
        let mut out = BytesMut::with_capacity(capacity);
        out.put_i32(0);
        out.put_i32(correlation_id);
        if flexible {
            out.put_u8(0);
        }
        Self { out, flexible }
    }

    /// Fills in the frame's length: what was written plus `elsewhere` bytes that follow or are put in
    /// between. `None` if that is more than a frame can say.
    pub(super) fn finish_length(&mut self, elsewhere: u64) -> Option<()> {
        let length = (self.out.len() as u64)
            .checked_sub(4)?
            .checked_add(elsewhere)?;
        let length = i32::try_from(length).ok()?;
        self.out
            .get_mut(..4)?
            .copy_from_slice(&length.to_be_bytes());
        Some(())
    }

    #[inline]
    pub(super) fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.put_u8(value as u8);
    }

    /// A string. Longer than the wire can say, it is cut at a character: only messages of our own can
    /// be so long.
    pub(super) fn string(&mut self, text: Option<&str>) {
        let text = text.map(|text| {
            let mut end = text.len().min(i16::MAX as usize);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            &text[..end]
        });
        match (text, self.flexible) {
            (Some(text), true) => self.varint(text.len() as u32 + 1),
            (Some(text), false) => self.out.put_i16(text.len() as i16),
            (None, true) => self.varint(0),
            (None, false) => self.out.put_i16(-1),
        }
        self.out.put_slice(text.unwrap_or("").as_bytes());
    }

    /// The count of an array's elements, or the length of bytes; null is `None`. Counts beyond 2^31-2
    /// cannot occur: each element takes memory of ours.
    pub(super) fn length(&mut self, count: Option<u32>) {
        debug_assert!(count.is_none_or(|n| n < i32::MAX as u32));
        match (count, self.flexible) {
            (Some(n), true) => self.varint(n + 1),
            (Some(n), false) => self.out.put_i32(n as i32),
            (None, true) => self.varint(0),
            (None, false) => self.out.put_i32(-1),
        }
    }

    pub(super) fn count(&mut self, count: usize) {
        self.length(Some(count as u32));
    }

    /// An empty tag section, if the version has one.
    #[inline]
    pub(super) fn no_tags(&mut self) {
        if self.flexible {
            self.out.put_u8(0);
        }
    }

    /// A tagged field whose content is fixed in size.
    pub(super) fn tag<const N: usize>(&mut self, tag: u32, content: [u8; N]) {
        self.varint(tag);
        self.varint(N as u32);
        self.out.put_slice(&content);
    }
}

/// The bytes an unsigned varint takes.
pub(super) fn varint_size(value: u32) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        0x20_0000..=0xfff_ffff => 4,
        _ => 5,
    }
}
