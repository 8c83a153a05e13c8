//! An ordered map whose copies share what they do not change.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Most entries of one chunk; a chunk that grows beyond is cut in two.
const CHUNK_ENTRIES: usize = 64;

/// An ordered map that is cloned by counting one reference.
///
/// The entries lie sorted in chunks of at most [`CHUNK_ENTRIES`]. The first change after a clone
/// copies the list of chunks and the one chunk it touches; changes after that are in place. So a
/// change to a map of 10,000 entries costs some 160 counted references and 64 entries, not 10,000
/// nodes.
#[derive(Clone)]
pub struct SharedMap<K, V> {
    /// No chunk is empty.
    chunks: Arc<Vec<Chunk<K, V>>>,
    len: usize,
}

type Chunk<K, V> = Arc<Vec<(K, V)>>;

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self {
            chunks: Arc::new(Vec::new()),
            len: 0,
        }
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let (chunk, entry) = self.find(key)?;
        Some(&self.chunks[chunk][entry].1)
    }

    /// Copies the chunk of the entry if it is shared.
    pub fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let (chunk, entry) = self.find(key)?;
        let chunk = Arc::make_mut(&mut Arc::make_mut(&mut self.chunks)[chunk]);
        Some(&mut chunk[entry].1)
    }

    pub fn contains_key<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.find(key).is_some()
    }

    /// In the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks
            .iter()
            .flat_map(|c| c.iter())
            .map(|(k, v)| (k, v))
    }

    /// From the first key not below `key`, in order.
    pub fn iter_from<'a, Q>(&'a self, key: &Q) -> impl Iterator<Item = (&'a K, &'a V)>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let chunk = self.chunk_of(key);
        let skip = self
            .chunks
            .get(chunk)
            .map_or(0, |c| c.partition_point(|(k, _)| k.borrow() < key));
        self.chunks[chunk.min(self.chunks.len())..]
            .iter()
            .flat_map(|c| c.iter())
            .skip(skip)
            .map(|(k, v)| (k, v))
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(k, _)| k)
    }

    /// In the order of the keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, v)| v)
    }

    /// Returns the value that was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let at = self.chunk_of(&key);
        let chunks = Arc::make_mut(&mut self.chunks);
        if chunks.is_empty() {
            chunks.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        }
        let chunk = Arc::make_mut(&mut chunks[at]);
        match chunk.binary_search_by(|(k, _)| k.cmp(&key)) {
            Ok(i) => Some(std::mem::replace(&mut chunk[i].1, value)),
            Err(i) => {
                chunk.insert(i, (key, value));
                self.len += 1;
                if chunk.len() > CHUNK_ENTRIES {
                    // Keys that arrive in order (a snapshot) leave full chunks behind.
                    let cut = if i + 1 == chunk.len() {
                        CHUNK_ENTRIES
                    } else {
                        CHUNK_ENTRIES / 2
                    };
                    let upper = chunk.split_off(cut);
                    chunks.insert(at + 1, Arc::new(upper));
                }
                None
            }
        }
    }

    /// Returns the value that was there.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let (at, i) = self.find(key)?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(&mut chunks[at]);
        let (_, value) = chunk.remove(i);
        if chunk.is_empty() {
            chunks.remove(at);
        }
        self.len -= 1;
        Some(value)
    }

    /// The chunk in which `key` is, or would be put; 0 when there is none.
    fn chunk_of<Q>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.chunks
            .partition_point(|c| c.first().is_some_and(|(k, _)| k.borrow() <= key))
            .saturating_sub(1)
    }

    fn find<Q>(&self, key: &Q) -> Option<(usize, usize)>
    where
        K: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        let at = self.chunk_of(key);
        let chunk = self.chunks.get(at)?;
        let i = chunk.binary_search_by(|(k, _)| k.borrow().cmp(key)).ok()?;
        Some((at, i))
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                self.chunks
                    .iter()
                    .flat_map(|c| c.iter())
                    .map(|(k, v)| (k, v)),
            )
            .finish()
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for SharedMap<K, V> {
    /// By content: two histories may have cut their chunks differently.
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len
            && self
                .chunks
                .iter()
                .flat_map(|c| c.iter())
                .eq(other.chunks.iter().flat_map(|c| c.iter()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn behaves_as_a_btree_map_and_leaves_its_clones_alone(
            steps in prop::collection::vec((any::<bool>(), 0u16..600, any::<u8>()), 0..1500)
        ) {
            let mut model = BTreeMap::new();
            let mut map = SharedMap::default();
            let mut kept = Vec::new();
            for (n, (put, key, value)) in steps.into_iter().enumerate() {
                if n % 100 == 0 {
                    kept.push((map.clone(), model.clone()));
                }
                if put {
                    prop_assert_eq!(map.insert(key, value), model.insert(key, value));
                } else {
                    prop_assert_eq!(map.remove(&key), model.remove(&key));
                }
                prop_assert_eq!(map.len(), model.len());
            }
            kept.push((map, model));
            for (map, model) in kept {
                prop_assert!(map.iter().eq(model.iter()));
                for key in [0u16, 1, 77, 300, 599, 700] {
                    prop_assert_eq!(map.get(&key), model.get(&key));
                    prop_assert!(map.iter_from(&key).eq(model.range(key..)));
                }
                prop_assert!(map.chunks.iter().all(|c| !c.is_empty() && c.len() <= CHUNK_ENTRIES));
            }
        }
    }
}
