//! The allocator of the process, and how the memory that it keeps is given back to the kernel.
//!
//! Every thread has a heap of its own. Blocks that are freed stay with the page that they are of, those that another
//! thread frees too, until the heap's own thread looks; and pages without a block in use stay with the process for
//! later. So whatever there was much of for a moment, such as the tasks of a start, stays resident for good where
//! nothing comes after it. [`give_back`] ends that for the heap of the thread that calls it, and for pages that are
//! no heap's.
//!
//! It walks over the heap's pages and makes a system call for each range of free ones: some hundred microseconds, and
//! what is used again afterwards is faulted in again. It is for the end of what is rare.

/// To be the `#[global_allocator]` of a program.
pub use mimalloc::MiMalloc as Allocator;

unsafe extern "C" {
    /// mimalloc.h: frees what is unused of the calling thread's heap; `force` leaves nothing for later.
    fn mi_collect(force: bool);
}

/// Gives back what this thread's heap does not use. Does nothing where the program has another allocator.
pub fn give_back() {
    // SAFETY: it takes no pointer, may be called on any thread at any time, and frees only what no block is in use
    // of. On a thread that never allocated with it, it returns at once.
    unsafe { mi_collect(true) }
}

#[cfg(test)]
mod tests {
    use std::alloc::{GlobalAlloc, Layout};

    use super::*;

    /// How many of these blocks lie in pages that have memory.
    fn resident_of(blocks: &[*mut u8]) -> usize {
        let is_resident = |block: &&*mut u8| {
            let page = (**block as usize & !4095) as *mut libc::c_void;
            let mut resident = 0;
            // SAFETY: it writes one byte for the one page that is asked about, which may be unmapped by now.
            let asked = unsafe { libc::mincore(page, 4096, &mut resident) };
            asked == 0 && resident & 1 == 1
        };
        blocks.iter().filter(is_resident).count()
    }

    #[test]
    fn pages_without_a_block_in_use_are_given_back() {
        const BLOCKS: usize = 4096;
        let layout = Layout::from_size_align(1024, 16).unwrap();
        // A heap of its own, whose pages nobody else uses.
        let run = move || {
            // SAFETY: of a size that is not 0; each is freed once, with the layout it was allocated with.
            let blocks: Vec<*mut u8> = (0..BLOCKS)
                .map(|_| unsafe { Allocator.alloc_zeroed(layout) })
                .collect();
            let used = resident_of(&blocks);
            blocks
                .iter()
                .for_each(|&block| unsafe { Allocator.dealloc(block, layout) });
            let freed = resident_of(&blocks);
            give_back();
            (used, freed, resident_of(&blocks))
        };
        let (used, freed, given_back) = std::thread::spawn(run).join().unwrap();
        assert_eq!(used, BLOCKS);
        assert!(
            freed > BLOCKS / 2,
            "{freed}: there would be nothing to give back"
        );
        assert!(given_back < BLOCKS / 16, "{given_back} of {BLOCKS}");
    }
}
