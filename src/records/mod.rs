//! Record batches as they lie on the wire and on disk. Pure.
