//! A load generator for any broker that speaks the Kafka protocol.
//!
//! | module | |
//! |---|---|
//! | [`workload`] | what a run does: the keys of a workload file |
//! | [`schedule`] | when each record of an open loop should be sent |
//! | [`content`], [`contents`], [`codec`], [`crc`] | what records contain, made cheaply and checkable |
//! | [`client`], [`wire`] | rare requests, and the bytes of the frequent ones |
//! | [`engine`] | the load itself |
//! | [`verify`] | whether what is read back is what was acknowledged |
//! | [`sample`], [`report`] | what was counted, and how it is told |
//! | [`run`] | the subcommand that does all this |
//! | [`compare`] | the subcommand that runs brokers in turns and reports ratios |

pub mod client;
pub mod codec;
pub mod compare;
pub mod content;
pub mod contents;
pub mod crc;
pub mod engine;
pub mod phase;
pub mod report;
pub mod run;
pub mod sample;
pub mod schedule;
pub mod verify;
pub mod wire;
pub mod workload;
