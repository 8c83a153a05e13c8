//! Decides what may become metadata: pure machines, and one shell that keeps the quorum.
