//! ringspun: a Kafka-compatible message broker in which every pinned core owns a shard of the
//! partitions.
//!
//! This page is the architecture. A module uses the layers below its own and no other:
//!
//! ```text
//! L7  server   admin                      accept, connection loop        | HTTP, console, CLI
//! L6  handlers                            one file per API family: decode, authorise, route, merge, encode
//! L5  broker                              what one shard owns; the shells that drive the machines below
//! L4  replication coordinator controller security      pure machines; one shell: controller/quorum.rs
//! L3  storage  metadata                   the log on disk                | the cluster image (pure)
//! L2  records  transport                  record batches (pure)          | sockets, TLS, zero-copy send, peers
//! L1  protocol runtime                    wire bytes (pure)              | pinned executors, mailbox, memory budget
//! L0  base                                ids, settings, clock, counters
//! ```
//!
//! What is absent keeps it livable:
//! 1. Below L5 nothing knows its shard; below L6 nothing knows which connection asked.
//! 2. No lower layer calls an upper one. Upward go return values, one-shot replies, the published image.
//! 3. A pure module has no clock, file, socket, executor, thread or random source: time is an argument
//!    and effects are returned.
//! 4. Only [`runtime`]'s mailbox crosses cores, besides relaxed counters that `/metrics` sums.
//! 5. Storage, transport and replication do not speak Kafka error codes; the handler picks the code.
//! 6. Storage never spawns, sleeps or sends.
//!
//! `tests/layers.rs` walks the `use` lines and holds the direction and the purity.

pub mod admin;
pub mod base;
pub mod broker;
pub mod controller;
pub mod coordinator;
pub mod handlers;
pub mod metadata;
pub mod protocol;
pub mod records;
pub mod replication;
pub mod runtime;
pub mod security;
pub mod server;
pub mod storage;
pub mod transport;
