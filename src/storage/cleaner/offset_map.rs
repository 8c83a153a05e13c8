//! The last offset of each key of the dirty part of a log, in memory of a fixed size.
//!
//! Keys are told apart by 128 bits of SipHash with keys of their own for each map, so that nobody can make
//! two keys that the cleaner takes for one. An entry takes 24 bytes whatever the key has. Open addressing,
//! linear probing. The table is made in pieces, so that neither making nor freeing it takes long at once.

use std::hash::{BuildHasher, RandomState};

/// Slots of one piece of the table.
const PIECE_SLOTS: usize = 8192;
/// Bytes of one entry.
pub(super) const SLOT_BYTES: usize = 24;

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    hash: [u64; 2],
    /// One more than the offset; 0 is an empty slot.
    offset_and_1: u64,
}

const _: () = assert!(size_of::<Slot>() == SLOT_BYTES);

/// Offsets by key.
#[derive(Debug)]
pub(super) struct OffsetMap {
    hashers: [RandomState; 2],
    pieces: Vec<Option<Box<[Slot]>>>,
    slots: usize,
    /// Most keys: an open table that is nearly full is slow.
    limit: usize,
    len: usize,
}

impl OffsetMap {
    /// A map of at most `bytes`, filled to `load_factor` of them, for at most `records` keys; there is room
    /// for one key at least.
    pub(super) fn new(bytes: u64, load_factor: f64, records: u64) -> Self {
        let load_factor = load_factor.clamp(0.01, 0.95);
        let most = usize::try_from(bytes).unwrap_or(usize::MAX) / SLOT_BYTES;
        let needed = usize::try_from(records).unwrap_or(usize::MAX / 128);
        let needed = ((needed as f64 / load_factor) as usize).saturating_add(2);
        let slots = most.min(needed).max(2);
        let limit = ((slots as f64 * load_factor) as usize).clamp(1, slots - 1);
        Self {
            hashers: [RandomState::new(), RandomState::new()],
            pieces: vec![None; slots.div_ceil(PIECE_SLOTS)],
            slots,
            limit,
            len: 0,
        }
    }

    /// Keys in it.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Notes that `key` was last seen at `offset`. False if the key is new and there is no room.
    #[must_use]
    pub(super) fn put(&mut self, key: &[u8], offset: i64) -> bool {
        let hash = self.hash(key);
        let mut at = self.home(hash);
        loop {
            let piece = self.pieces[at / PIECE_SLOTS]
                .get_or_insert_with(|| vec![Slot::default(); PIECE_SLOTS].into_boxed_slice());
            let slot = &mut piece[at % PIECE_SLOTS];
            if slot.offset_and_1 == 0 {
                if self.len == self.limit {
                    return false;
                }
                self.len += 1;
                slot.hash = hash;
            } else if slot.hash != hash {
                at = if at + 1 == self.slots { 0 } else { at + 1 };
                continue;
            }
            slot.offset_and_1 = offset.unsigned_abs() + 1;
            return true;
        }
    }

    /// Where `key` was last seen.
    pub(super) fn get(&self, key: &[u8]) -> Option<i64> {
        let hash = self.hash(key);
        let mut at = self.home(hash);
        loop {
            // A piece that was never written is all empty.
            let slot = self.pieces[at / PIECE_SLOTS].as_ref()?[at % PIECE_SLOTS];
            if slot.offset_and_1 == 0 {
                return None;
            }
            if slot.hash == hash {
                return i64::try_from(slot.offset_and_1 - 1).ok();
            }
            at = if at + 1 == self.slots { 0 } else { at + 1 };
        }
    }

    /// Frees a piece of the table; false when there is none left. The map is at its end then.
    pub(super) fn free_piece(&mut self) -> bool {
        self.pieces.pop().is_some()
    }

    fn hash(&self, key: &[u8]) -> [u64; 2] {
        let [a, b] = &self.hashers;
        [a.hash_one(key), b.hash_one(key)]
    }

    /// Where the key belongs, unless other keys are in its place.
    fn home(&self, [high, _]: [u64; 2]) -> usize {
        ((u128::from(high) * self.slots as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_the_offset_it_was_last_put_with() {
        let mut map = OffsetMap::new(1 << 20, 0.9, 20_000);
        for offset in 0..60_000i64 {
            let key = (offset % 20_000).to_string();
            assert!(map.put(key.as_bytes(), offset));
        }
        assert_eq!(map.len(), 20_000);
        for key in 0..20_000i64 {
            assert_eq!(map.get(key.to_string().as_bytes()), Some(40_000 + key));
        }
        assert_eq!(map.get(b"another"), None);
    }

    #[test]
    fn a_full_map_takes_no_new_key_but_moves_those_it_has() {
        let mut map = OffsetMap::new(10 * SLOT_BYTES as u64, 0.5, u64::MAX);
        for key in 0..5u8 {
            assert!(map.put(&[key], key.into()));
        }
        assert!(!map.put(&[9], 9));
        assert!(map.put(&[3], 10));
        assert_eq!(
            (map.get(&[3]), map.get(&[9]), map.len()),
            (Some(10), None, 5)
        );
    }

    #[test]
    fn the_smallest_map_has_room_for_one_key_and_the_largest_is_made_when_it_is_used() {
        let mut map = OffsetMap::new(0, 0.9, 0);
        assert!(map.put(b"a", 0));
        assert!(!map.put(b"b", 1));
        assert_eq!((map.get(b"a"), map.get(b"b")), (Some(0), None));
        let mut map = OffsetMap::new(1 << 40, 0.9, 1 << 36);
        assert!(map.put(b"", i64::MAX));
        assert_eq!(map.get(b""), Some(i64::MAX));
        assert_eq!(map.pieces.iter().flatten().count(), 1);
        while map.free_piece() {}
    }
}
