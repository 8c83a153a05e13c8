//! Group and transaction coordinators: pure machines. Groups and transactions are not served yet.
