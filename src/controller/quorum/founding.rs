//! The file while it is being made: nothing is synced until it is whole.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;
use redb::backends::FileBackend;

/// redb's own file, whose syncs are left out while the file has a name under which nobody looks.
///
/// Making a database takes redb seven syncs, each a commit of the file system's journal; one at the
/// end says the same about a file that is thrown away if the machine stops before.
#[derive(Debug)]
pub(super) struct FoundingFile {
    inner: FileBackend,
    founded: Arc<AtomicBool>,
}

/// Turns the syncs on.
pub(super) struct Founding {
    file: File,
    founded: Arc<AtomicBool>,
}

impl FoundingFile {
    pub fn new(file: File) -> Result<(FoundingFile, Founding), redb::DatabaseError> {
        let founded = Arc::new(AtomicBool::new(false));
        let founding = Founding {
            file: file.try_clone()?,
            founded: founded.clone(),
        };
        let inner = FileBackend::new(file)?;
        Ok((FoundingFile { inner, founded }, founding))
    }
}

impl Founding {
    /// Syncs all that was written, and lets every later sync through.
    pub fn finish(self) -> io::Result<()> {
        self.founded.store(true, Ordering::SeqCst);
        self.file.sync_all()
    }
}

impl StorageBackend for FoundingFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.founded.load(Ordering::SeqCst) {
            self.inner.sync_data()
        } else {
            Ok(())
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}
