//! Kafka's command-line tools, run inside the Java driver.

use crate::World;
use crate::broker::{Kind, dump};
use crate::group_tools;

type ToolTest = fn(&mut World) -> Result<(), String>;

pub const TESTS: [(&str, ToolTest); 14] = [
    ("topics", topics),
    (
        "console_producer_and_consumer",
        console_producer_and_consumer,
    ),
    ("configs", configs),
    (
        "get_offsets_and_delete_records",
        get_offsets_and_delete_records,
    ),
    ("log_dirs", log_dirs),
    ("broker_api_versions", broker_api_versions),
    ("producer_perf_test", producer_perf_test),
    ("features_quorum_and_election", features_quorum_and_election),
    ("transactions", transactions),
    ("consumer_groups", group_tools::consumer_groups),
    ("reset_offsets", group_tools::reset_offsets),
    ("delete_groups", group_tools::delete_groups),
    ("log_compaction", log_compaction),
    ("delete_topic", delete_topic),
];

const TOPIC: &str = "tools";

/// Runs `class` with `--bootstrap-server` and `arguments`; what it printed.
pub fn tool(
    world: &mut World,
    class: &str,
    input: &str,
    arguments: &[&str],
) -> Result<String, String> {
    let bootstrap = world.broker.bootstrap();
    let more = [&["--bootstrap-server", &bootstrap], arguments].concat();
    bare_tool(world, class, input, &more)
}

fn bare_tool(
    world: &mut World,
    class: &str,
    input: &str,
    arguments: &[&str],
) -> Result<String, String> {
    let class = if class.contains('.') {
        class.to_string()
    } else {
        format!("org.apache.kafka.tools.{class}")
    };
    let input = input.replace('\n', "\\n").replace('\t', "\\t");
    let command = [&["tool", &class, &input], arguments].concat();
    let answer = world.client("java").ask(&command)?;
    match answer.as_slice() {
        [status, printed] if status == "0" => Ok(printed.clone()),
        other => Err(format!("{class} {arguments:?}: {}", other.join("\n"))),
    }
}

pub fn expect(printed: &str, texts: &[&str]) -> Result<(), String> {
    match texts.iter().find(|text| !printed.contains(**text)) {
        Some(text) => Err(format!("no {text:?} in what was printed:\n{printed}")),
        None => Ok(()),
    }
}

fn topics(world: &mut World) -> Result<(), String> {
    let create = [
        "--create",
        "--topic",
        TOPIC,
        "--partitions",
        "3",
        "--config",
        "segment.bytes=1048576",
    ];
    expect(
        &tool(world, "TopicCommand", "", &create)?,
        &["Created topic tools."],
    )?;
    world.soon(|world| expect(&tool(world, "TopicCommand", "", &["--list"])?, &[TOPIC]))?;
    tool(
        world,
        "TopicCommand",
        "",
        &["--alter", "--topic", TOPIC, "--partitions", "5"],
    )?;
    world.soon(|world| {
        let printed = tool(world, "TopicCommand", "", &["--describe", "--topic", TOPIC])?;
        expect(
            &printed,
            &[
                "PartitionCount: 5",
                "ReplicationFactor: 1",
                "segment.bytes=1048576",
                "Partition: 4\tLeader: 1\tReplicas: 1\tIsr: 1",
            ],
        )
    })?;
    for filter in [
        "--under-replicated-partitions",
        "--unavailable-partitions",
        "--under-min-isr-partitions",
    ] {
        let printed = tool(world, "TopicCommand", "", &["--describe", filter])?;
        if printed.contains("Partition:") {
            return Err(format!("{filter}: {printed}"));
        }
    }
    Ok(())
}

fn console_producer_and_consumer(world: &mut World) -> Result<(), String> {
    let produce = [
        "--topic",
        TOPIC,
        "--reader-property",
        "parse.key=true",
        "--reader-property",
        "key.separator=:",
    ];
    tool(
        world,
        "ConsoleProducer",
        "a:one\nb:two\nc:three\n",
        &produce,
    )?;
    let mut read = Vec::new();
    for partition in 0..5 {
        let consume = [
            "--topic",
            TOPIC,
            "--partition",
            &partition.to_string(),
            "--offset",
            "earliest",
            "--timeout-ms",
            "1500",
            "--formatter-property",
            "print.key=true",
        ];
        let printed = tool(
            world,
            "org.apache.kafka.tools.consumer.ConsoleConsumer",
            "",
            &consume,
        )?;
        read.extend(
            printed
                .lines()
                .filter(|line| line.contains('\t'))
                .map(str::to_string),
        );
    }
    read.sort();
    if read != ["a\tone", "b\ttwo", "c\tthree"] {
        return Err(format!("the consumer printed {read:?}"));
    }
    Ok(())
}

fn configs(world: &mut World) -> Result<(), String> {
    let class = "kafka.admin.ConfigCommand";
    let topic = ["--entity-type", "topics", "--entity-name", TOPIC];
    let with = |more: &[&'static str]| [&topic[..], more].concat();
    let printed = tool(
        world,
        class,
        "",
        &with(&[
            "--alter",
            "--add-config",
            "retention.ms=1000000000,max.message.bytes=2000000",
        ]),
    )?;
    expect(&printed, &["Completed updating config for topic tools."])?;
    world.soon(|world| {
        let printed = tool(world, class, "", &with(&["--describe"]))?;
        expect(&printed, &["retention.ms=1000000000 sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:retention.ms=1000000000", "segment.bytes=1048576"])
    })?;
    let printed = tool(world, class, "", &with(&["--describe", "--all"]))?;
    expect(
        &printed,
        &[
            "cleanup.policy=delete sensitive=false synonyms={DEFAULT_CONFIG:log.cleanup.policy=delete}",
            "min.insync.replicas=1",
        ],
    )?;
    tool(
        world,
        class,
        "",
        &with(&["--alter", "--delete-config", "retention.ms"]),
    )?;
    world.soon(|world| {
        let printed = tool(world, class, "", &with(&["--describe"]))?;
        if printed.contains("retention.ms") {
            Err(format!("not deleted: {printed}"))
        } else {
            Ok(())
        }
    })?;
    if tool(
        world,
        class,
        "",
        &with(&["--alter", "--add-config", "retention.ms=never"]),
    )
    .is_ok()
    {
        return Err("retention.ms=never was taken".into());
    }
    let broker = ["--entity-type", "brokers", "--entity-name", "1"];
    let printed = tool(
        world,
        class,
        "",
        &[&broker[..], &["--describe", "--all"]].concat(),
    )?;
    expect(
        &printed,
        &[
            "log.segment.bytes=1073741824",
            "num.partitions=1",
            "log.dirs=",
        ],
    )?;
    let cluster = ["--entity-type", "brokers", "--entity-default"];
    tool(
        world,
        class,
        "",
        &[
            &cluster[..],
            &[
                "--alter",
                "--add-config",
                "log.retention.ms=999999999,min.insync.replicas=2",
            ],
        ]
        .concat(),
    )?;
    const MIN_ISR: &str = "min.insync.replicas=2 sensitive=false synonyms={DYNAMIC_DEFAULT_BROKER_CONFIG:min.insync.replicas=2";
    world.soon(|world| {
        let printed = tool(world, class, "", &[&cluster[..], &["--describe"]].concat())?;
        expect(&printed, &["log.retention.ms=999999999", MIN_ISR])
    })?;
    world.soon(|world| {
        let printed = tool(world, class, "", &with(&["--describe", "--all"]))?;
        expect(&printed, &[MIN_ISR, "retention.ms=999999999 sensitive=false synonyms={DYNAMIC_DEFAULT_BROKER_CONFIG:log.retention.ms=999999999"])
    })?;
    tool(
        world,
        class,
        "",
        &[
            &cluster[..],
            &["--alter", "--delete-config", "log.retention.ms"],
        ]
        .concat(),
    )?;
    loggers(world)?;
    let read_only = [
        &broker[..],
        &["--alter", "--add-config", "log.dirs=/elsewhere"],
    ]
    .concat();
    if tool(world, class, "", &read_only).is_ok() {
        return Err("log.dirs was altered".into());
    }
    Ok(())
}

/// The level of a logger changes while the broker runs (KIP-412). Each broker has loggers of its own names.
fn loggers(world: &mut World) -> Result<(), String> {
    let logger = match world.broker.kind() {
        Kind::Ringspun => "ringspun.storage",
        Kind::Kafka => "kafka.server.KafkaApis",
    };
    let run = |world: &mut World, more: &[&str]| {
        let entity = ["--entity-type", "broker-loggers", "--entity-name", "1"];
        let arguments = [&entity[..], more].concat();
        tool(world, "kafka.admin.ConfigCommand", "", &arguments)
    };
    expect(&run(world, &["--describe"])?, &["root=", logger])?;
    let debug = format!("{logger}=DEBUG");
    run(world, &["--alter", "--add-config", &debug])?;
    expect(&run(world, &["--describe"])?, &[&debug])?;
    run(world, &["--alter", "--delete-config", logger])?;
    if run(world, &["--describe"])?.contains(&debug) {
        return Err(format!("{logger} is still at DEBUG"));
    }
    for refused in ["no.such.logger=DEBUG", "root=LOUD"] {
        if run(world, &["--alter", "--add-config", refused]).is_ok() {
            return Err(format!("{refused} was taken"));
        }
    }
    Ok(())
}

fn get_offsets_and_delete_records(world: &mut World) -> Result<(), String> {
    let total = |world: &mut World, time: &str| -> Result<i64, String> {
        let printed = tool(
            world,
            "GetOffsetShell",
            "",
            &["--topic", TOPIC, "--time", time],
        )?;
        Ok(printed
            .lines()
            .filter_map(|line| {
                line.strip_prefix("tools:")?
                    .split(':')
                    .nth(1)?
                    .parse::<i64>()
                    .ok()
            })
            .sum())
    };
    if total(world, "-1")? < 3 || total(world, "earliest")? != 0 {
        return Err("offsets are not those of three records".into());
    }
    total(world, "max-timestamp")?;
    let file = world.file("delete-records.json");
    let partitions: Vec<String> = (0..5)
        .map(|partition| format!(r#"{{"topic":"tools","partition":{partition},"offset":-1}}"#))
        .collect();
    let json = format!(r#"{{"version":1,"partitions":[{}]}}"#, partitions.join(","));
    std::fs::write(&file, json).map_err(|error| error.to_string())?;
    let printed = tool(
        world,
        "DeleteRecordsCommand",
        "",
        &["--offset-json-file", &file.to_string_lossy()],
    )?;
    expect(&printed, &["partition: tools-4\tlow_watermark:"])?;
    if printed.contains("error") {
        return Err(printed);
    }
    if total(world, "earliest")? != total(world, "latest")? {
        return Err("records are left".into());
    }
    Ok(())
}

fn log_dirs(world: &mut World) -> Result<(), String> {
    let folder = world.broker.log_dir().to_string_lossy().into_owned();
    let printed = tool(
        world,
        "LogDirsCommand",
        "",
        &["--describe", "--topic-list", TOPIC],
    )?;
    expect(
        &printed,
        &["\"broker\":1", "\"partition\":\"tools-4\"", &folder],
    )
}

fn broker_api_versions(world: &mut World) -> Result<(), String> {
    let printed = tool(world, "BrokerApiVersionsCommand", "", &[])?;
    let wanted = [
        "(id: 1 rack: null",
        "Produce(0): 0 to 13",
        "Fetch(1): 4 to 18",
        "ListOffsets(2): 1 to 11",
        "Metadata(3): 0 to 13",
        "ApiVersions(18): 0 to 4",
        "CreateTopics(19): 2 to 7",
        "DeleteTopics(20): 1 to 6",
        "DeleteRecords(21): 0 to 2",
        "InitProducerId(22): 0 to ",
        "DescribeConfigs(32): 1 to 4",
        "DescribeTopicPartitions(75): 0",
    ];
    expect(&printed, &wanted)
}

fn transactions(world: &mut World) -> Result<(), String> {
    let transact = ["transact", "tools-id", TOPIC, "a", "commit"];
    world.client("java").ask(&transact)?;
    let class = "TransactionsCommand";
    let printed = tool(world, class, "", &["list"])?;
    let row = |printed: &str| -> Vec<String> {
        let row = printed.lines().find(|line| line.starts_with("tools-id"));
        row.unwrap_or_default()
            .split_whitespace()
            .map(str::to_string)
            .collect()
    };
    // Id, coordinator, producer id, state.
    let listed = row(&printed);
    if listed.len() != 4 || listed[1] != "1" || listed[3] != "CompleteCommit" {
        return Err(printed);
    }
    let like = ["list", "--transactional-id-pattern", "nobody.*"];
    if tool(world, class, "", &like)?.contains("tools-id") {
        return Err("listed although the pattern is another".into());
    }
    let describe = ["describe", "--transactional-id", "tools-id"];
    let printed = tool(world, class, "", &describe)?;
    expect(&printed, &[&listed[2], "CompleteCommit", "60000"])?;
    let partition = ["describe-producers", "--topic", TOPIC, "--partition", "0"];
    expect(&tool(world, class, "", &partition)?, &[&listed[2]])?;
    let hanging = ["find-hanging", "--broker-id", "1"];
    let printed = tool(world, class, "", &hanging)?;
    if printed.contains(TOPIC) {
        return Err(format!("nothing hangs, but\n{printed}"));
    }
    Ok(())
}

fn producer_perf_test(world: &mut World) -> Result<(), String> {
    let bootstrap = world.broker.bootstrap();
    let arguments = [
        "--topic",
        TOPIC,
        "--num-records",
        "50000",
        "--record-size",
        "200",
        "--throughput",
        "-1",
        "--bootstrap-server",
        &bootstrap,
        "--command-property",
        "acks=all",
    ];
    expect(
        &bare_tool(world, "ProducerPerformance", "", &arguments)?,
        &["50000 records sent"],
    )
}

fn features_quorum_and_election(world: &mut World) -> Result<(), String> {
    let printed = tool(world, "FeatureCommand", "", &["describe"])?;
    let metadata = printed.lines().find(|l| l.contains("metadata.version"));
    expect(
        metadata.unwrap_or_default(),
        &[
            "SupportedMaxVersion: 4.3-IV0",
            "FinalizedVersionLevel: 4.3-IV0",
        ],
    )?;
    let printed = tool(
        world,
        "MetadataQuorumCommand",
        "",
        &["describe", "--status"],
    )?;
    expect(&printed, &["ClusterId:", "LeaderId:", "HighWatermark:"])?;
    let elect = [
        "--election-type",
        "preferred",
        "--topic",
        TOPIC,
        "--partition",
        "0",
    ];
    tool(world, "LeaderElectionCommand", "", &elect)?;
    Ok(())
}

fn delete_topic(world: &mut World) -> Result<(), String> {
    tool(world, "TopicCommand", "", &["--delete", "--topic", TOPIC])?;
    world.soon(|world| {
        let printed = tool(world, "TopicCommand", "", &["--list"])?;
        if printed.lines().any(|line| line == TOPIC) {
            Err("still listed".into())
        } else {
            Ok(())
        }
    })
}

/// Kafka's own dumper goes over every batch, record and index entry on disk, after a clean stop.
pub fn dump(world: &mut World) -> Result<(), String> {
    world.broker.stop()?;
    let (mut logs, mut indexes) = dump::files(&world.broker.log_dir(), "own-")?;
    let (more_logs, more_indexes) = dump::files(&world.broker.log_dir(), "together-")?;
    logs.extend(more_logs);
    indexes.extend(more_indexes);
    if logs.len() < 40 {
        return Err(format!("only {} segments", logs.len()));
    }
    for arguments in dump::arguments(&logs, &indexes, 40) {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let printed = bare_tool(world, "DumpLogSegments", "", &words)?;
        dump::check(&arguments, &printed)?;
    }
    // What coordinators keep is read by Kafka's own decoder.
    let (logs, _) = dump::files(&world.broker.log_dir(), "__transaction_state-")?;
    let logs: Vec<String> = logs
        .iter()
        .filter(|log| std::fs::metadata(log).is_ok_and(|file| file.len() > 0))
        .map(|log| log.to_string_lossy().into_owned())
        .collect();
    let printed = bare_tool(
        world,
        "DumpLogSegments",
        "",
        &["--transaction-log-decoder", "--files", &logs.join(",")],
    )?;
    // The producer of an earlier test.
    expect(
        &printed,
        &[
            r#""transactionalId":"tools-id""#,
            r#""transactionStatus":4"#,
        ],
    )?;
    match printed.lines().find(|line| line.contains("Error at")) {
        Some(line) => Err(line.to_owned()),
        None => Ok(()),
    }
}

/// Apache's own test of compaction: what is read at last is the last value of each key.
fn log_compaction(world: &mut World) -> Result<(), String> {
    let class = "kafka.admin.ConfigCommand";
    let brokers = ["--entity-type", "brokers", "--entity-default", "--alter"];
    let with = |more: [&'static str; 2]| [&brokers[..], &more].concat();
    let settings =
        "log.segment.bytes=1048576,log.cleaner.backoff.ms=100,log.cleaner.min.cleanable.ratio=0.01";
    tool(world, class, "", &with(["--add-config", settings]))?;
    let arguments = [
        "--messages",
        "100000",
        "--percent-deletes",
        "10",
        "--sleep",
        "3",
    ];
    let printed = tool(world, "LogCompactionTester", "", &arguments);
    let names = "log.segment.bytes,log.cleaner.backoff.ms,log.cleaner.min.cleanable.ratio";
    tool(world, class, "", &with(["--delete-config", names]))?;
    let printed = printed?;
    expect(
        &printed,
        &[" 0 mismatches.", "Data verification is completed"],
    )?;
    let rows = |what: &str| {
        let before = printed.split(what).next().unwrap_or_default();
        let number = before.rsplit(|c: char| !c.is_ascii_digit()).next();
        number.and_then(|number| number.parse::<u64>().ok())
    };
    let (produced, consumed) = (
        rows(" rows of data produced"),
        rows(" rows of data consumed"),
    );
    match (produced, consumed) {
        (Some(produced), Some(consumed)) if consumed < produced / 4 * 3 => Ok(()),
        _ => Err(format!("little was compacted away:\n{printed}")),
    }
}
