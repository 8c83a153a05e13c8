//! Whether somebody else has a file open.

use std::fs::File;
use std::os::fd::AsRawFd;

/// fcntl(2), of <asm-generic/fcntl.h>: which signal tells that a lease is to be given back.
const F_SETSIG: libc::c_int = 10;

/// Whether this is the only open file of its inode, as far as the kernel knows, and stays so if the file has no name
/// any more: it gives a lease for writing (fcntl(2), `F_SETLEASE`) under no other condition. `false` where it cannot
/// be told. `file` is open for writing. The lease is given back at once, and who opens the file by way of `/proc`
/// meanwhile makes a signal that is ignored: the usual one ends the process.
pub fn is_open_only_here(file: &File) -> bool {
    let fcntl = |command: libc::c_int, argument: libc::c_int| {
        // SAFETY: the descriptor is open as long as `file` is borrowed; no memory is passed.
        unsafe { libc::fcntl(file.as_raw_fd(), command, argument) == 0 }
    };
    fcntl(F_SETSIG, libc::SIGURG)
        && fcntl(libc::F_SETLEASE, libc::F_WRLCK)
        && fcntl(libc::F_SETLEASE, libc::F_UNLCK)
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
        // It can be opened again, without waiting for a lease and without a signal.
        assert!(File::open(named.path()).is_ok());
        assert!(is_open_only_here(named.as_file()));
    }
}
