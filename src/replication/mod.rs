//! What a leader knows of its followers. Pure.
//!
//! [`leader::LeaderState`] decides the high watermark and whether a produce may be taken. A node that
//! is alone leads every partition with itself as the only replica; the rules are the same.

pub mod leader;

pub use leader::{LeaderState, NotEnoughReplicas};
