//! The cluster image and the records it is made of. Pure.
