//! What a crash leaves of a disk.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::{Change, Content, Crash, Entry, Inode, MemoryDisk, apply, move_names, moved};

/// The piece of a write that reaches the device whole or not at all.
pub(super) const BLOCK_BYTES: usize = 512;

impl MemoryDisk {
    /// The disk that a crash at this moment leaves. This one goes on unharmed.
    pub fn crash(&self, crash: Crash) -> MemoryDisk {
        match crash {
            Crash::Kill => self.killed(),
            Crash::Power { seed } => self.without_power(fastrand::Rng::with_seed(seed)),
        }
    }

    /// The kernel keeps what was written, and still has to bring to the device what nobody has synced.
    fn killed(&self) -> MemoryDisk {
        let after = MemoryDisk::default();
        after.shared.now.set(self.shared.now.get());
        let mut copies = Copies::default();
        let mut copy = |names: &BTreeMap<PathBuf, Entry>| {
            let mut names = names.clone();
            copies.replace(&mut names, Content::clone);
            names
        };
        *after.shared.names.borrow_mut() = copy(&self.shared.names.borrow());
        *after.shared.synced_names.borrow_mut() = copy(&self.shared.synced_names.borrow());
        *after.shared.renames.borrow_mut() = self.shared.renames.borrow().clone();
        *after.shared.dir_renames.borrow_mut() = self.shared.dir_renames.borrow().clone();
        *after.shared.removals.borrow_mut() = self.shared.removals.borrow().clone();
        after
    }

    fn without_power(&self, mut rng: fastrand::Rng) -> MemoryDisk {
        let after = MemoryDisk::default();
        after.shared.now.set(self.shared.now.get());
        let mut live = self.shared.names.borrow().clone();
        let mut synced = self.shared.synced_names.borrow().clone();
        let mut renames = self.shared.renames.borrow().clone();
        let mut removals = self.shared.removals.borrow().clone();
        // So many directories have their new names, with all that is in them.
        let dir_renames = self.shared.dir_renames.borrow();
        let happened = match dir_renames.len() {
            0 => 0,
            all => rng.usize(0..=all),
        };
        for (from, to) in &dir_renames[..happened] {
            move_names(&mut synced, from, to);
        }
        let undone = &dir_renames[happened..];
        for (from, to) in undone.iter().rev() {
            let back = |path: &Path| moved(path, to, from);
            move_names(&mut live, to, from);
            renames
                .iter_mut()
                .for_each(|(old, new)| (*old, *new) = (back(old), back(new)));
            removals.iter_mut().for_each(|path| *path = back(path));
        }
        let mut names: BTreeMap<PathBuf, Entry> = BTreeMap::new();
        let mut renamed = related(&renames);
        // So many removals have happened: a journal keeps their order.
        let removed = rng.usize(0..=removals.len());
        let mut paths: Vec<&PathBuf> = live.keys().chain(synced.keys()).collect();
        paths.sort();
        paths.dedup();
        for path in paths {
            // A rename has happened for both names or for neither: file systems with a journal
            // keep them together.
            let coin = rng.bool();
            // What was removed from a directory after it got a name that it does not have was not.
            let is_back = undone.iter().any(|(from, _)| path.starts_with(from));
            let is_new = match renamed.iter_mut().find(|(of, _)| of.contains(path)) {
                _ if is_back && !live.contains_key(path) => false,
                Some((_, fate)) => *fate.get_or_insert(coin),
                None => match removals.iter().position(|of| of == path) {
                    Some(at) if !live.contains_key(path) => at < removed,
                    _ => coin,
                },
            };
            let chosen = match (live.get(path), synced.get(path)) {
                (Some(Entry::Dir), Some(_)) => Some(Entry::Dir),
                (new, old) if is_new => new.or(old.filter(|_| new.is_some())).cloned(),
                (_, old) => old.cloned(),
            };
            // Nothing is in a directory that is not there.
            let has_parent = path.parent().is_none_or(|dir| names.contains_key(dir));
            if let (Some(entry), true) = (chosen, has_parent) {
                names.insert(path.clone(), entry);
            }
        }
        Copies::default().replace(&mut names, |content| crashed_content(content, &mut rng));
        *after.shared.synced_names.borrow_mut() = names.clone();
        *after.shared.names.borrow_mut() = names;
        after
    }
}

/// Files and what became of them. The same content may have two names (a rename from one directory to another); it
/// stays one file.
#[derive(Default)]
struct Copies(Vec<(Inode, Inode)>);

impl Copies {
    fn replace(
        &mut self,
        names: &mut BTreeMap<PathBuf, Entry>,
        mut copy: impl FnMut(&Content) -> Content,
    ) {
        for entry in names.values_mut() {
            let Entry::File(inode) = entry else { continue };
            let known = self.0.iter().find(|(old, _)| Rc::ptr_eq(old, inode));
            let copied = match known {
                Some((_, copied)) => copied.clone(),
                None => {
                    let copied = Rc::new(RefCell::new(copy(&inode.borrow())));
                    self.0.push((inode.clone(), copied.clone()));
                    copied
                }
            };
            *entry = Entry::File(copied);
        }
    }
}

/// Names that hang together by renames, and room for what becomes of them.
fn related(renames: &[(PathBuf, PathBuf)]) -> Vec<(Vec<PathBuf>, Option<bool>)> {
    let mut all: Vec<(Vec<PathBuf>, Option<bool>)> = Vec::new();
    for (from, to) in renames {
        let (with, without): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|(names, _)| names.contains(from) || names.contains(to));
        let mut names = vec![from.clone(), to.clone()];
        names.extend(with.into_iter().flat_map(|(names, _)| names));
        all = without;
        all.push((names, None));
    }
    all
}

/// Any blocks of a write reach the device.
pub(super) fn apply_some(bytes: &mut Vec<u8>, position: u64, data: &[u8], rng: &mut fastrand::Rng) {
    let mut at = 0;
    while at < data.len() {
        let absolute = position as usize + at;
        let end = (at + BLOCK_BYTES - absolute % BLOCK_BYTES).min(data.len());
        if rng.bool() {
            apply(bytes, absolute as u64, &data[at..end]);
        } else if rng.bool() {
            // The length has arrived.
            let len = bytes.len().max(position as usize + end);
            bytes.resize(len, 0);
        }
        at = end;
    }
}

fn crashed_content(content: &Content, rng: &mut fastrand::Rng) -> Content {
    let mut bytes = content.synced.clone();
    // Sometimes all, sometimes a prefix of the changes, sometimes any blocks of them.
    let style = rng.u8(0..4);
    let prefix = rng.usize(0..=content.unsynced.len());
    for (i, change) in content.unsynced.iter().enumerate() {
        match change {
            Change::Truncate(len) => {
                if style != 3 || rng.bool() {
                    bytes.resize(*len as usize, 0);
                }
            }
            Change::Write {
                position,
                bytes: data,
                ..
            } => match style {
                0 => apply(&mut bytes, *position, data),
                1 if i < prefix => apply(&mut bytes, *position, data),
                1 if i == prefix => {
                    let cut = rng.usize(0..=data.len());
                    apply(&mut bytes, *position, &data[..cut]);
                }
                1 | 2 => {}
                _ => apply_some(&mut bytes, *position, data, rng),
            },
        }
    }
    Content {
        synced: bytes.clone(),
        allocated: content.allocated.max(bytes.len() as u64),
        bytes,
        unsynced: Vec::new(),
        synced_changes: 0,
        modified: content.modified,
        failures: 0,
    }
}
