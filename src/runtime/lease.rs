//! Whether somebody else has a file open.

use std::fs::File;
use std::os::fd::AsRawFd;

/// Whether this is the only open file of its inode, as far as the kernel knows, and stays so if the file has no name
/// any more: it gives a lease for writing (fcntl(2), `F_SETLEASE`) under no other condition. `false` where it cannot
/// be told. `file` is open for writing.
pub fn is_open_only_here(file: &File) -> bool {
    // SAFETY: the descriptor is open as long as `file` is borrowed; no memory is passed.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_open_elsewhere_is_told_from_one_that_is_not() {
        let named = tempfile::NamedTempFile::new().unwrap();
        let reader = File::open(named.path()).unwrap();
        assert!(!is_open_only_here(named.as_file()));
        drop(reader);
        assert!(is_open_only_here(named.as_file()));
    }
}
