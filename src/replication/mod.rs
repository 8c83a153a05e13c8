//! What a leader knows of its followers. Pure. One node has none yet.
