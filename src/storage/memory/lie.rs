//! Syncs that are answered and not done: for tests that have to show that they would notice.

use std::cell::Cell;
use std::path::Path;

/// Which syncs are answered without anything being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Those of files whose name ends so.
    Files(&'static str),
    /// Those of directories whose name ends so: the `nth` since the lie began (from 1), or all for 0.
    Dirs { ends_with: &'static str, nth: u32 },
}

/// What a disk lies about at the moment.
#[derive(Debug, Default)]
pub(super) struct Lies {
    lie: Cell<Option<Lie>>,
    seen: Cell<u32>,
    told: Cell<u64>,
}

impl Lies {
    pub(super) fn set(&self, lie: Option<Lie>) {
        self.lie.set(lie);
        self.seen.set(0);
    }

    /// How many syncs were answered and not done.
    pub(super) fn told(&self) -> u64 {
        self.told.get()
    }

    pub(super) fn are_about_files(&self) -> bool {
        matches!(self.lie.get(), Some(Lie::Files(_)))
    }

    /// Whether the sync of the file of this name is to be left out.
    pub(super) fn skip_file(&self, path: &Path) -> bool {
        match self.lie.get() {
            Some(Lie::Files(end)) => self.skip(name(path).ends_with(end)),
            _ => false,
        }
    }

    /// Whether the sync of this directory is to be left out.
    pub(super) fn skip_dir(&self, path: &Path) -> bool {
        let Some(Lie::Dirs { ends_with, nth }) = self.lie.get() else {
            return false;
        };
        if !name(path).ends_with(ends_with) {
            return false;
        }
        self.seen.set(self.seen.get() + 1);
        self.skip(nth == 0 || nth == self.seen.get())
    }

    fn skip(&self, skips: bool) -> bool {
        self.told.set(self.told.get() + u64::from(skips));
        skips
    }
}

fn name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("")
}
