//! The rows of the comparison: what is done to a broker, what is read off, what must come out.
//!
//! The workloads are settings of `ringspun-bench run`. Rows that are about the CPU of writing do a fixed
//! amount of work (`produce_bytes`), so that the fast broker does not outgrow the page cache while the slow one does not; rows
//! that are about latency last a fixed time.

use super::judge::PERCENTILE_ROUNDS;
use super::metric::Metric;
use super::row::{Against, Floor, Fsync, Judgement, Procedure, Row, Variant};

const fn one(settings: &'static [(&'static str, &'static str)]) -> [Variant; 1] {
    [Variant {
        name: "",
        settings,
        broker: &[],
        ringspun_only: false,
    }]
}

const fn kafka(metric: Metric, must: f64, goal: f64) -> Judgement {
    Judgement {
        metric,
        variant: "",
        against: Against::Kafka,
        must,
        goal,
    }
}

const fn floor(metric: Metric, must: f64, goal: f64) -> Judgement {
    Judgement {
        metric,
        variant: "",
        against: Against::Floor,
        must,
        goal,
    }
}

const fn of_variant(variant: &'static str, judgement: Judgement) -> Judgement {
    Judgement {
        variant,
        ..judgement
    }
}

const CPU: &[Metric] = &[
    Metric::CpuPerGb,
    Metric::CpuPerRecord,
    Metric::ProduceMbS,
    Metric::P99,
    Metric::RssPeakMb,
];
const FETCH: &[Metric] = &[Metric::CpuPerGb, Metric::FetchMbS, Metric::RssPeakMb];
const SMALL: &[Metric] = &[
    Metric::AcksPerCpuSecond,
    Metric::AcksPerSecond,
    Metric::P50,
    Metric::P99,
    Metric::P999,
];
const TAILS: &[Metric] = &[
    Metric::P50,
    Metric::P99,
    Metric::P999,
    Metric::P9999,
    Metric::Max,
    Metric::LoadLateP999,
    Metric::CpuPerRecord,
];
const RESTING: &[Metric] = &[Metric::StartMs, Metric::ResidentMb, Metric::IdleCpuPercent];

/// 5,000 records/s beside one who reads what is not in memory, and without.
const BESIDE_COLD_READS: &[Variant] = &[
    Variant {
        name: "read",
        settings: &[
            OPEN_5K[0],
            OPEN_5K[1],
            OPEN_5K[2],
            OPEN_5K[3],
            ("consumers", "1"),
            ("read", "backlog"),
            ("backlog_bytes", "2000000000"),
            ("drop_caches", "true"),
        ],
        broker: &[],
        ringspun_only: false,
    },
    Variant {
        name: "alone",
        settings: OPEN_5K,
        broker: &[],
        ringspun_only: false,
    },
];

const AS_IF_ALONE: &[Judgement] = &[Judgement {
    metric: Metric::P999,
    variant: "read",
    against: Against::Variant("alone"),
    must: 2.0,
    goal: 1.2,
}];

const OF_COLD_READS: &[Metric] = &[
    Metric::FetchMbS,
    Metric::P50,
    Metric::P99,
    Metric::P999,
    Metric::Max,
    Metric::LoadLateP999,
];

pub const ROWS: &[Row] = &[
    Row {
        name: "produce-1k",
        title: "produce, 1 KiB records, batches of 1 MB, 8 connections, acks=all",
        procedure: Procedure::Load,
        fsync: Fsync::Nobody,
        variants: &one(&[
            ("producers", "8"),
            ("partitions", "8"),
            ("batch_bytes", "1000000"),
            ("in_flight", "2"),
            ("record_bytes", "1024"),
            FIXED_WORK,
            ("produce_bytes", "2000000000"),
        ]),
        floor: Some(Floor::Receive {
            frame_bytes: 1_000_000,
            connections: 8,
            in_flight: 2,
            records: 960,
        }),
        judgements: &[
            kafka(Metric::CpuPerGb, 4.0, 6.0),
            floor(Metric::CpuPerGb, 2.0, 1.3),
        ],
        percentiles: false,
        rounds_min: 0,
        shown: CPU,
    },
    Row {
        name: "produce-100b",
        title: "produce, 100 B records, batches of 1 MB, 8 connections, acks=all",
        procedure: Procedure::Load,
        fsync: Fsync::Nobody,
        variants: &one(&[
            ("producers", "8"),
            ("partitions", "8"),
            ("batch_bytes", "1000000"),
            ("in_flight", "2"),
            ("record_bytes", "100"),
            FIXED_WORK,
            ("produce_bytes", "1000000000"),
        ]),
        floor: Some(Floor::Receive {
            frame_bytes: 1_000_000,
            connections: 8,
            in_flight: 2,
            records: 9_100,
        }),
        judgements: &[kafka(Metric::CpuPerGb, 4.0, 7.0)],
        percentiles: false,
        rounds_min: 0,
        shown: CPU,
    },
    Row {
        name: "produce-10x16",
        title: "produce, batches of 10 records of 1 KiB over 16 partitions, 8 connections",
        procedure: Procedure::Load,
        fsync: Fsync::Nobody,
        variants: &one(&[
            ("producers", "8"),
            ("partitions", "16"),
            ("batch_bytes", "1000000"),
            ("batch_records", "10"),
            ("in_flight", "5"),
            ("record_bytes", "1024"),
            FIXED_WORK,
            ("produce_bytes", "500000000"),
        ]),
        floor: Some(Floor::Receive {
            frame_bytes: 10_400,
            connections: 8,
            in_flight: 5,
            records: 10,
        }),
        judgements: &[kafka(Metric::CpuPerRecord, 4.0, 10.0)],
        percentiles: false,
        rounds_min: 0,
        shown: CPU,
    },
    Row {
        name: "produce-one",
        title: "produce, one record of 1 KiB a request, 64 connections, one request in flight on each",
        procedure: Procedure::Load,
        fsync: Fsync::Nobody,
        variants: &one(ONE_RECORD),
        floor: Some(ONE_RECORD_FLOOR),
        judgements: &[kafka(Metric::AcksPerCpuSecond, 2.5, 3.5)],
        percentiles: false,
        rounds_min: 0,
        shown: SMALL,
    },
    Row {
        name: "fetch-1",
        title: "fetch from the page cache, 1 KiB records, 1 consumer",
        procedure: Procedure::Load,
        fsync: Fsync::Nobody,
        variants: &one(&[
            ("producers", "0"),
            ("consumers", "1"),
            ("partitions", "8"),
            ("read", "backlog"),
            ("read_again", "true"),
            ("backlog_bytes", "500000000"),
            ("batch_bytes", "1000000"),
            ("record_bytes", "1024"),
        ]),
        floor: Some(Floor::Send { connections: 1 }),
        judgements: &[
            kafka(Metric::CpuPerGb, 3.0, 4.5),
            floor(Metric::CpuPerGb, 1.5, 1.1),
        ],
        percentiles: false,
        rounds_min: 0,
        shown: FETCH,
    },
    Row {
        name: "fetch-8",
        title: "fetch from the page cache, 1 KiB records, 8 consumers",
        procedure: Procedure::Load,
        fsync: Fsync::Nobody,
        variants: &one(&[
            ("producers", "0"),
            ("consumers", "8"),
            ("partitions", "8"),
            ("read", "backlog"),
            ("read_again", "true"),
            ("backlog_bytes", "500000000"),
            ("batch_bytes", "1000000"),
            ("record_bytes", "1024"),
        ]),
        floor: Some(Floor::Send { connections: 8 }),
        judgements: &[
            kafka(Metric::CpuPerGb, 3.0, 4.5),
            floor(Metric::CpuPerGb, 1.5, 1.1),
        ],
        percentiles: false,
        rounds_min: 0,
        shown: FETCH,
    },
    Row {
        name: "backlog",
        title: "fetch of a cold backlog by 1 consumer while producing at 30 % of Kafka's rate",
        procedure: Procedure::Backlog,
        fsync: Fsync::Nobody,
        variants: &one(&[
            ("producers", "8"),
            ("partitions", "8"),
            ("batch_bytes", "16384"),
            ("linger_ms", "1"),
            ("record_bytes", "1024"),
            ("consumers", "1"),
            ("read", "backlog"),
            ("backlog_bytes", "2000000000"),
            ("drop_caches", "true"),
        ]),
        floor: None,
        judgements: &[
            kafka(Metric::FetchMbS, 1.5, 3.0),
            kafka(Metric::P999, 3.0, 10.0),
        ],
        percentiles: true,
        rounds_min: PERCENTILE_ROUNDS,
        shown: &[
            Metric::FetchMbS,
            Metric::P50,
            Metric::P99,
            Metric::P999,
            Metric::Max,
        ],
    },
    Row {
        name: "drain",
        title: "fetch of a cold backlog, 1 KiB records, by 1 consumer and by 8, nothing else to do",
        procedure: Procedure::Load,
        fsync: Fsync::Nobody,
        variants: &[
            Variant {
                name: "1",
                settings: &[
                    OF_BACKLOG[0],
                    OF_BACKLOG[1],
                    OF_BACKLOG[2],
                    OF_BACKLOG[3],
                    OF_BACKLOG[4],
                    OF_BACKLOG[5],
                    OF_BACKLOG[6],
                    ("consumers", "1"),
                ],
                broker: &[],
                ringspun_only: false,
            },
            Variant {
                name: "8",
                settings: &[
                    OF_BACKLOG[0],
                    OF_BACKLOG[1],
                    OF_BACKLOG[2],
                    OF_BACKLOG[3],
                    OF_BACKLOG[4],
                    OF_BACKLOG[5],
                    OF_BACKLOG[6],
                    ("consumers", "8"),
                ],
                broker: &[],
                ringspun_only: false,
            },
        ],
        floor: Some(Floor::Drain {
            bytes: 2_000_000_000,
        }),
        judgements: &[
            of_variant("1", floor(Metric::FetchMbS, 1.11, 1.05)),
            of_variant("8", floor(Metric::FetchMbS, 1.11, 1.05)),
            Judgement {
                metric: Metric::ReadersApart,
                variant: "8",
                against: Against::Nothing,
                must: 1.5,
                goal: 1.1,
            },
        ],
        percentiles: false,
        rounds_min: 0,
        shown: &[
            Metric::FetchMbS,
            Metric::ReadersApart,
            Metric::CpuPerGb,
            Metric::RssPeakMb,
        ],
    },
    Row {
        name: "cleaner",
        title: "produce at 20 MB/s to a compacted topic that is cleaned all the time, and to one that is kept",
        procedure: Procedure::Load,
        fsync: Fsync::Nobody,
        variants: &[
            Variant {
                name: "cleaned",
                settings: &[
                    OF_4_KIB[0],
                    OF_4_KIB[1],
                    OF_4_KIB[2],
                    OF_4_KIB[3],
                    OF_4_KIB[4],
                    OF_4_KIB[5],
                    OF_4_KIB[6],
                    // What the cleaner takes away cannot be read back.
                    ("verify", "false"),
                    ("topic_config.cleanup.policy", "compact"),
                    ("topic_config.min.cleanable.dirty.ratio", "0.01"),
                ],
                broker: BUSY_CLEANER,
                ringspun_only: false,
            },
            Variant {
                name: "kept",
                settings: OF_4_KIB,
                broker: BUSY_CLEANER,
                ringspun_only: false,
            },
        ],
        floor: None,
        judgements: &[Judgement {
            metric: Metric::P999,
            variant: "cleaned",
            against: Against::Variant("kept"),
            must: 2.0,
            goal: 1.2,
        }],
        percentiles: true,
        rounds_min: PERCENTILE_ROUNDS,
        shown: TAILS,
    },
    Row {
        name: "retention",
        title: "produce at 100 MB/s into segments of 1 MiB, of which 100 expire a second, and none does",
        procedure: Procedure::Load,
        fsync: Fsync::Nobody,
        variants: &[
            Variant {
                name: "expires",
                settings: &[
                    OF_10_KIB[0],
                    OF_10_KIB[1],
                    OF_10_KIB[2],
                    OF_10_KIB[3],
                    OF_10_KIB[4],
                    ("topic_config.retention.bytes", "2097152"),
                ],
                broker: BUSY_RETENTION,
                ringspun_only: false,
            },
            Variant {
                name: "stays",
                settings: OF_10_KIB,
                broker: BUSY_RETENTION,
                ringspun_only: false,
            },
        ],
        floor: None,
        judgements: &[Judgement {
            metric: Metric::P999,
            variant: "expires",
            against: Against::Variant("stays"),
            must: 2.0,
            goal: 1.2,
        }],
        percentiles: true,
        rounds_min: PERCENTILE_ROUNDS,
        shown: TAILS,
    },
    Row {
        name: "cold-beside",
        title: "produce at 5,000 records/s while 1 consumer reads a cold backlog on the same shard, and alone",
        procedure: Procedure::Load,
        fsync: Fsync::Nobody,
        variants: BESIDE_COLD_READS,
        floor: None,
        judgements: AS_IF_ALONE,
        percentiles: true,
        rounds_min: PERCENTILE_ROUNDS,
        shown: OF_COLD_READS,
    },
    Row {
        name: "cold-beside-fsync",
        title: "the same with fsync before every acknowledgement",
        procedure: Procedure::Load,
        fsync: Fsync::Everybody,
        variants: BESIDE_COLD_READS,
        floor: None,
        judgements: AS_IF_ALONE,
        percentiles: true,
        rounds_min: PERCENTILE_ROUNDS,
        shown: OF_COLD_READS,
    },
    Row {
        name: "open-5k",
        title: "produce at 5,000 records/s, open loop, no linger",
        procedure: Procedure::Load,
        fsync: Fsync::Nobody,
        variants: &one(OPEN_5K),
        floor: Some(Floor::ReceiveAtRate {
            frame_bytes: 1_150,
            rate: 5_000.0,
        }),
        judgements: &[
            kafka(Metric::P999, 4.0, 10.0),
            floor(Metric::P999, 3.0, 1.5),
        ],
        percentiles: true,
        rounds_min: PERCENTILE_ROUNDS,
        shown: TAILS,
    },
    Row {
        name: "open-20k",
        title: "produce at 20,000 records/s, open loop, no linger",
        procedure: Procedure::Load,
        fsync: Fsync::Nobody,
        variants: &one(OPEN_20K),
        floor: Some(Floor::ReceiveAtRate {
            frame_bytes: 1_150,
            rate: 20_000.0,
        }),
        judgements: &[
            kafka(Metric::P999, 4.0, 10.0),
            floor(Metric::P999, 3.0, 1.5),
        ],
        percentiles: true,
        rounds_min: PERCENTILE_ROUNDS,
        shown: TAILS,
    },
    Row {
        name: "open-5k-fsync",
        title: "produce at 5,000 records/s, open loop, fsync before every acknowledgement",
        procedure: Procedure::Load,
        fsync: Fsync::Everybody,
        variants: &one(OPEN_5K),
        floor: Some(Floor::Durable {
            rate: Some(5_000.0),
        }),
        judgements: &[
            kafka(Metric::P999, 4.0, 20.0),
            floor(Metric::P999, 3.0, 1.5),
        ],
        percentiles: true,
        rounds_min: PERCENTILE_ROUNDS,
        shown: TAILS,
    },
    Row {
        name: "open-20k-fsync",
        title: "produce at 20,000 records/s, open loop, fsync before every acknowledgement",
        procedure: Procedure::Load,
        fsync: Fsync::Everybody,
        variants: &one(OPEN_20K),
        floor: Some(Floor::Durable {
            rate: Some(20_000.0),
        }),
        judgements: &[kafka(Metric::P999, 4.0, 20.0)],
        percentiles: true,
        rounds_min: PERCENTILE_ROUNDS,
        shown: TAILS,
    },
    Row {
        name: "acks-fsync",
        title: "one record a request, 64 connections: ringspun with fsync before every acknowledgement, Kafka without",
        procedure: Procedure::Load,
        fsync: Fsync::Ringspun,
        variants: &one(ONE_RECORD),
        floor: Some(Floor::Durable { rate: None }),
        judgements: &[kafka(Metric::AcksPerSecond, 1.0, 2.0)],
        percentiles: false,
        rounds_min: 0,
        shown: SMALL,
    },
    Row {
        name: "crossing",
        title: "batches of 64 KiB over 2 shards on the same cores: every request crosses, and none does",
        procedure: Procedure::Crossing { small: false },
        fsync: Fsync::Nobody,
        variants: CROSSING,
        floor: None,
        judgements: &[Judgement {
            metric: Metric::CpuPerGb,
            variant: "crosses",
            against: Against::Variant("stays"),
            must: 1.3,
            goal: 1.1,
        }],
        percentiles: false,
        rounds_min: 0,
        shown: &[Metric::CpuPerGb, Metric::ProduceMbS, Metric::P99],
    },
    Row {
        name: "crossing-small",
        title: "one record of 100 B a request over 2 shards on the same cores: every request crosses, and none does",
        procedure: Procedure::Crossing { small: true },
        fsync: Fsync::Nobody,
        variants: CROSSING,
        floor: None,
        judgements: &[Judgement {
            metric: Metric::CpuPerRequest,
            variant: "crosses",
            against: Against::Variant("stays"),
            must: 1.6,
            goal: 1.25,
        }],
        percentiles: false,
        rounds_min: 0,
        shown: &[Metric::CpuPerRequest, Metric::AcksPerSecond, Metric::P99],
    },
    Row {
        name: "profiler",
        title: "one record of 1 KiB a request, 64 connections: the profiler of ringspun on, and off",
        procedure: Procedure::Load,
        fsync: Fsync::Nobody,
        variants: &[
            Variant {
                name: "on",
                settings: ONE_RECORD,
                broker: &[],
                ringspun_only: true,
            },
            Variant {
                name: "off",
                settings: ONE_RECORD,
                broker: &[("ringspun.profile.enable", "false")],
                ringspun_only: true,
            },
        ],
        floor: None,
        judgements: &[Judgement {
            metric: Metric::CpuPerRequest,
            variant: "on",
            against: Against::Variant("off"),
            must: 1.01,
            goal: 1.005,
        }],
        percentiles: false,
        // A hundredth hides among few rounds.
        rounds_min: 15,
        shown: &[Metric::CpuPerRequest, Metric::AcksPerSecond, Metric::P99],
    },
    Row {
        name: "idle",
        title: "nothing to do, 1,000 partitions",
        procedure: Procedure::Idle,
        fsync: Fsync::Nobody,
        variants: &one(&[]),
        floor: None,
        judgements: &[Judgement {
            metric: Metric::IdleCpuPercent,
            variant: "",
            against: Against::Nothing,
            must: 1.0,
            goal: 0.1,
        }],
        percentiles: false,
        rounds_min: 0,
        shown: RESTING,
    },
    Row {
        name: "start",
        title: "from exec to the first answer: empty, and with 1,000 partitions",
        procedure: Procedure::Start,
        fsync: Fsync::Nobody,
        variants: &[
            Variant {
                name: "empty",
                settings: &[],
                broker: &[],
                ringspun_only: false,
            },
            Variant {
                name: "1000-partitions",
                settings: &[],
                broker: &[],
                ringspun_only: false,
            },
        ],
        floor: None,
        judgements: &[],
        percentiles: false,
        rounds_min: 0,
        shown: RESTING,
    },
    Row {
        name: "wide",
        title: "50 producers over 288 partitions with keys, against 4 producers over 4 partitions, batches of 16 KiB",
        procedure: Procedure::Load,
        fsync: Fsync::Nobody,
        variants: &[
            Variant {
                name: "50x288",
                settings: &[
                    ("producers", "50"),
                    ("partitions", "288"),
                    ("keys", "round_robin"),
                    ("batch_bytes", "16384"),
                    ("record_bytes", "1024"),
                    WRITTEN_BEFORE,
                    ("produce_bytes", "600000000"),
                ],
                broker: &[],
                ringspun_only: false,
            },
            Variant {
                name: "4x4",
                settings: &[
                    ("producers", "4"),
                    ("partitions", "4"),
                    ("keys", "round_robin"),
                    ("batch_bytes", "16384"),
                    ("record_bytes", "1024"),
                    WRITTEN_BEFORE,
                    ("produce_bytes", "600000000"),
                ],
                broker: &[],
                ringspun_only: false,
            },
        ],
        floor: None,
        judgements: &[Judgement {
            metric: Metric::CpuPerRecord,
            variant: "50x288",
            against: Against::Variant("4x4"),
            must: 2.0,
            goal: 1.3,
        }],
        percentiles: false,
        rounds_min: 0,
        shown: CPU,
    },
    Row {
        name: "wide-linger",
        title: "50 producers over 288 partitions with keys, linger 1 ms, 50,000 records/s",
        procedure: Procedure::Load,
        fsync: Fsync::Nobody,
        variants: &one(&[
            ("producers", "50"),
            ("partitions", "288"),
            ("keys", "round_robin"),
            ("batch_bytes", "16384"),
            ("record_bytes", "1024"),
            ("linger_ms", "1"),
            ("rate", "50000"),
            WRITTEN_BEFORE,
            // As every client does: what is due goes in one request.
            ("batches_per_request", "288"),
        ]),
        floor: None,
        judgements: &[kafka(Metric::CpuPerRecord, 3.0, 8.0)],
        percentiles: false,
        rounds_min: 0,
        shown: CPU,
    },
];

/// Every partition of many is written to before it is measured: files are made then.
const WRITTEN_BEFORE: (&str, &str) = ("warmup_seconds", "3");

/// Work that is fixed is warmed up for a moment only: what is written then comes on top.
const FIXED_WORK: (&str, &str) = ("warmup_seconds", "0.2");

const ONE_RECORD: &[(&str, &str)] = &[
    ("producers", "64"),
    ("partitions", "8"),
    ("batch_records", "1"),
    ("in_flight", "1"),
    ("record_bytes", "1024"),
];

const ONE_RECORD_FLOOR: Floor = Floor::Receive {
    frame_bytes: 1_150,
    connections: 64,
    in_flight: 1,
    records: 1,
};

const OPEN_5K: &[(&str, &str)] = &[
    ("producers", "8"),
    ("partitions", "8"),
    ("record_bytes", "1024"),
    ("rate", "5000"),
];

const OPEN_20K: &[(&str, &str)] = &[
    ("producers", "8"),
    ("partitions", "8"),
    ("record_bytes", "1024"),
    ("rate", "20000"),
];

/// 2 GB in 8 partitions that are not in memory.
const OF_BACKLOG: &[(&str, &str)] = &[
    ("producers", "0"),
    ("partitions", "8"),
    ("read", "backlog"),
    ("backlog_bytes", "2000000000"),
    ("drop_caches", "true"),
    ("batch_bytes", "1000000"),
    ("record_bytes", "1024"),
];

/// Records that replace each other soon, in segments that close soon.
const OF_4_KIB: &[(&str, &str)] = &[
    ("producers", "8"),
    ("partitions", "8"),
    ("record_bytes", "4096"),
    ("rate", "5000"),
    ("keys", "round_robin"),
    ("key_count", "4000"),
    ("topic_config.segment.bytes", "1048576"),
];

/// The cleaner looks again at once.
const BUSY_CLEANER: &[(&str, &str)] = &[("log.cleaner.backoff.ms", "10")];

/// A hundred segments of 1 MiB a second.
const OF_10_KIB: &[(&str, &str)] = &[
    ("producers", "8"),
    ("partitions", "16"),
    ("record_bytes", "10240"),
    ("rate", "10000"),
    ("topic_config.segment.bytes", "1048576"),
];

const BUSY_RETENTION: &[(&str, &str)] = &[("log.retention.check.interval.ms", "1000")];

const CROSSING: &[Variant] = &[
    Variant {
        name: "stays",
        settings: &[],
        broker: &[],
        ringspun_only: true,
    },
    Variant {
        name: "crosses",
        settings: &[],
        broker: &[],
        ringspun_only: true,
    },
];

pub fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

/// The rows of a list of names, in the order of the table.
pub fn select(names: &[String]) -> Result<Vec<&'static Row>, String> {
    for name in names {
        if find(name).is_none() {
            let known: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
            let near = crate::workload::nearest(name, known.iter().copied());
            let near = near.map_or(String::new(), |near| format!(" Did you mean {near}?"));
            return Err(format!(
                "no row is called {name}.{near} There are: {}",
                known.join(", ")
            ));
        }
    }
    let wanted = |row: &&Row| names.is_empty() || names.iter().any(|name| name == row.name);
    Ok(ROWS.iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Workload;

    #[test]
    fn every_workload_of_the_table_is_one_that_the_load_generator_takes() {
        for row in ROWS {
            for variant in row.variants {
                let settings = row.settings(variant);
                let settings: Vec<String> =
                    settings.iter().map(|(k, v)| format!("{k}={v}")).collect();
                Workload::parse("", &settings).unwrap_or_else(|e| panic!("{}: {e:#}", row.name));
            }
        }
    }

    #[test]
    fn judgements_name_workloads_that_are_there_and_goals_lie_beyond_musts() {
        for row in ROWS {
            for judgement in row.judgements {
                let there = |name: &str| row.variants.iter().any(|v| v.name == name);
                assert!(there(judgement.variant), "{}", row.name);
                let stricter = match judgement.against {
                    Against::Kafka => judgement.goal > judgement.must,
                    Against::Floor | Against::Nothing => judgement.goal < judgement.must,
                    Against::Variant(other) => there(other) && judgement.goal < judgement.must,
                };
                assert!(stricter, "{}", row.name);
            }
        }
    }

    #[test]
    fn an_unknown_row_is_refused_with_the_nearest_and_the_list() {
        let error = select(&["produce-1kb".into()]).unwrap_err();
        assert!(error.contains("Did you mean produce-1k?"), "{error}");
        assert!(error.contains("open-20k-fsync"), "{error}");
        let rows = select(&["idle".into(), "fetch-1".into()]).expect("both are there");
        assert_eq!(
            rows.iter().map(|row| row.name).collect::<Vec<_>>(),
            ["fetch-1", "idle"]
        );
        assert_eq!(select(&[]).expect("all").len(), ROWS.len());
    }
}
