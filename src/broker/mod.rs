//! What one shard owns, and the shells that drive the machines below.
