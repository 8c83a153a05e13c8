//! The folder of a log gets another name, as at the end of a move from one disk to another, or is deleted.

use std::path::{Path, PathBuf};

use futures_lite::future::yield_now;
use ringspun::base::PartitionIndex;
use ringspun::storage::memory::Crash;
use ringspun::storage::{Disk, names};

use crate::beside::Shared;
use crate::switch::Phase;
use crate::world::{DATA, Place, Stop, World, run};

impl World {
    /// What the folder is called next, and by which of its names that is.
    fn other_name(&self, i: usize) -> (PathBuf, usize) {
        let side = &self.sides[i];
        let dirs = side.dirs();
        let other = usize::from(*side.log().dir() == *dirs[0]);
        (dirs[other].clone(), other)
    }

    fn deleted_name(&mut self, i: usize) -> PathBuf {
        let unique = u128::from(self.rng.u64(..));
        let name = names::deleted_folder_name(self.sides[i].topic, PartitionIndex(0), unique);
        Path::new(DATA).join(name)
    }

    pub fn rename(&mut self, i: usize) -> Result<(), Stop> {
        let phase = self.enter(Phase::Rename);
        let (to, other) = self.other_name(i);
        self.tell(|_| format!("rename to {to:?}"));
        self.sides[i].place = Place::From(1 - other);
        let log = self.sides[i].log();
        let renamed = run(log.rename_folder(&to));
        if self.settle(renamed)?.is_some() {
            self.sides[i].place = Place::At(other);
        }
        self.enter(phase);
        Ok(())
    }

    pub fn delete(&mut self, i: usize) -> Result<(), Stop> {
        let phase = self.enter(Phase::Delete);
        let to = self.deleted_name(i);
        self.tell(|_| format!("delete by the name {to:?}"));
        self.sides[i].place = Place::Deleting;
        let log = self.sides[i].log();
        let renamed = run(log.rename_deleted(&to));
        self.enter(phase);
        if self.settle(renamed)?.is_none() {
            return Ok(());
        }
        self.sides[i].place = Place::Deleted;
        let removed = run(self.disk.remove_dir_all(&to));
        self.settle(removed)?;
        self.go_on_without(i)
    }

    /// The log was deleted, and another one of its name is made.
    pub fn go_on_without(&mut self, i: usize) -> Result<(), Stop> {
        self.sides[i].log = None;
        self.make_anew()?;
        if self.sides[i].log.is_none() {
            self.disk.clear_fault();
            return self.crash(Crash::Kill);
        }
        Ok(())
    }
}

impl Shared<'_> {
    pub async fn rename(&self, mut rng: fastrand::Rng) -> Result<(), Stop> {
        for _ in 0..rng.u8(1..3) {
            for _ in 0..rng.u16(0..150) {
                yield_now().await;
            }
            if self.is_ending.get() || self.log.failure().is_some() {
                return Ok(());
            }
            let (to, other) = self.world.borrow().other_name(self.i);
            self.tell(|_| format!("rename to {to:?}"));
            self.place(Place::From(1 - other));
            let renamed = self.log.rename_folder(&to).await;
            if self.settle(renamed)?.is_none() {
                return Ok(());
            }
            self.tell(|_| "renamed".into());
            // Or its deletion waits for this.
            let place = self.world.borrow().sides[self.i].place;
            if place != Place::Deleting {
                self.place(Place::At(other));
            }
        }
        Ok(())
    }

    fn place(&self, place: Place) {
        self.world.borrow_mut().sides[self.i].place = place;
    }

    /// Deletes the log. Nothing is staged from here on, and who is at something gets as far as it gets.
    pub async fn delete(&self, mut rng: fastrand::Rng) -> Result<(), Stop> {
        for _ in 0..rng.u16(0..200) {
            yield_now().await;
        }
        self.is_ending.set(true);
        let (disk, to) = {
            let mut world = self.world.borrow_mut();
            (world.disk.clone(), world.deleted_name(self.i))
        };
        self.tell(|_| format!("delete by the name {to:?}"));
        self.place(Place::Deleting);
        let renamed = self.log.rename_deleted(&to).await;
        if self.settle(renamed)?.is_none() {
            return Ok(());
        }
        self.tell(|_| "deleted".into());
        self.place(Place::Deleted);
        self.is_deleted.set(true);
        for _ in 0..rng.u8(0..60) {
            yield_now().await;
        }
        let removed = disk.remove_dir_all(&to).await;
        self.settle(removed)?;
        Ok(())
    }
}
