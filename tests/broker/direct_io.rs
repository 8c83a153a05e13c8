//! Whether files go past the page cache.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use crate::broker::packages;

/// Whether the file system of `dir` takes O_DIRECT; said, and a failure where everything is required.
pub fn is_direct_here(dir: &Path) -> bool {
    match ringspun::storage::probe_direct(dir) {
        Ok(()) => true,
        Err(reason) if packages::all_required() => panic!("O_DIRECT is refused: {reason}"),
        Err(reason) => {
            println!("skipped: O_DIRECT is refused: {reason}");
            false
        }
    }
}

/// Pages of the log files in a partition's folder, and how many of those are in the page cache.
pub fn log_pages(folder: &Path) -> (usize, usize) {
    let (mut pages, mut cached) = (0, 0);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|suffix| suffix == "log") {
            let of_file = cached_pages(&File::open(path).unwrap());
            pages += of_file.len();
            cached += of_file.iter().filter(|page| **page & 1 == 1).count();
        }
    }
    (pages, cached)
}

/// What mincore(2) says of each page of a file.
fn cached_pages(file: &File) -> Vec<u8> {
    let len = file.metadata().unwrap().len() as usize;
    let mut pages = vec![0; len.div_ceil(4096)];
    if len == 0 {
        return pages;
    }
    // SAFETY: a mapping of our own that nobody reads; mincore writes one byte a page, for which there is room.
    unsafe {
        let (fd, read) = (file.as_raw_fd(), libc::PROT_READ);
        let map = libc::mmap(std::ptr::null_mut(), len, read, libc::MAP_SHARED, fd, 0);
        assert_ne!(map, libc::MAP_FAILED);
        assert_eq!(libc::mincore(map, len, pages.as_mut_ptr()), 0);
        libc::munmap(map, len);
    }
    pages
}
