//! Pinned executors, the mailbox between them, the memory budget.

pub mod aligned;
pub mod allocator;
pub mod aux_ring;
pub mod budget;
pub mod clock;
pub mod disk_reads;
pub mod executor;
mod lane;
pub mod lease;
mod lookout;
pub mod mailbox;
pub mod pipes;
pub mod profile;
pub mod readiness;
pub mod stacks;
pub mod yield_budget;
