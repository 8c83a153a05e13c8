//! Pinned executors, the mailbox between them, the memory budget.
