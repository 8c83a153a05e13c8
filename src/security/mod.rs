//! Principals and permissions. Pure. Every listener is PLAINTEXT and everything is allowed yet.
