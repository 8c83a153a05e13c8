//! Pinned executors, the mailbox between them, the memory budget.

pub mod budget;
mod lane;
pub mod mailbox;
