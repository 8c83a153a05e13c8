//! The log on disk, byte-compatible with Apache Kafka's.
