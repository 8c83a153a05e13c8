//! Consumer groups of the new protocol (KIP-848) with real clients: Java members, librdkafka's, and Kafka's
//! tools. The same tests pass against Apache Kafka (`RINGSPUN_TEST_BROKER=kafka`).

mod broker;
#[path = "consumer_groups/verifiable.rs"]
mod verifiable;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};

use broker::{Broker, Kind, die_with_parent, packages};

/// Longest time one command may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(150);

/// A broker and a program in which Java members live.
struct World {
    broker: Broker,
    jars: PathBuf,
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
    _folder: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl World {
    /// `None`, with a word, if there is no Java here.
    fn start(settings: &[(&str, &str)]) -> Option<World> {
        let jars = match packages::jars() {
            Ok(jars) => jars,
            Err(reason) if packages::all_required() => panic!("{reason}"),
            Err(reason) => {
                println!("skipped: {reason}");
                return None;
            }
        };
        let folder = tempfile::tempdir().unwrap();
        let kind = Kind::from_environment();
        let broker = Broker::start(kind, &folder.path().join("broker"), settings).unwrap();
        let mut command = packages::java(&jars);
        let source =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/members/Members.java");
        command
            .arg(source)
            .arg(broker.bootstrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        die_with_parent(&mut command);
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (lines, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        Some(World {
            broker,
            jars,
            child,
            stdin,
            answers,
            _folder: folder,
        })
    }

    fn try_ask(&mut self, command: &str) -> Result<Vec<String>, String> {
        let line = command.split(' ').collect::<Vec<_>>().join("\t") + "\n";
        self.stdin.write_all(line.as_bytes()).unwrap();
        let answer = self.answers.recv_timeout(ANSWER_TIMEOUT);
        let answer = answer.map_err(|error| format!("{command}: {error}"))?;
        let mut fields = answer.split('\t').map(str::to_owned);
        match fields.next().as_deref() {
            Some("ok") => Ok(fields.collect()),
            _ => Err(fields.collect::<Vec<_>>().join(" ")),
        }
    }

    /// Sends a command, words separated by spaces; the fields of its answer.
    fn ask(&mut self, command: &str) -> Vec<String> {
        match self.try_ask(command) {
            Ok(fields) => fields,
            Err(error) => panic!("{command}: {error}\n{}", self.broker.last_words()),
        }
    }

    /// How many partitions each of these members owns, once they own all there are.
    fn settled(&mut self, topics: &str, names: &str) -> Vec<usize> {
        let fields = self.ask(&format!("settled {topics} {names}"));
        let owned = fields.iter().map(|field| {
            let (_, owned) = field.split_once('=').unwrap();
            owned.split(',').filter(|p| !p.is_empty()).count()
        });
        owned.collect()
    }

    /// Runs one of Kafka's tools against the broker; what it printed.
    fn tool(&self, class: &str, arguments: &[&str]) -> String {
        let bootstrap = self.broker.bootstrap();
        let more = [&["--bootstrap-server", &bootstrap], arguments].concat();
        self.bare_tool(class, &more)
    }

    fn bare_tool(&self, class: &str, arguments: &[&str]) -> String {
        let mut command: Command = packages::java(&self.jars);
        let output = command.arg(class).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    }
}

const GROUPS_TOOL: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";

fn has(printed: &str, words: &[&str]) {
    for word in words {
        assert!(printed.contains(word), "no {word:?} in\n{printed}");
    }
}

#[test]
fn members_share_the_partitions_and_hand_them_over() {
    let Some(mut world) = World::start(&[]) else {
        return;
    };
    world.ask("create orders 6");
    world.ask("start a g topics=orders");
    assert_eq!(world.settled("orders", "a"), [6]);
    world.ask("produce orders 600");
    world.ask("consumed 600 a");
    world.ask("start b g topics=orders");
    assert_eq!(world.settled("orders", "a b"), [3, 3]);
    world.ask("start c g topics=orders");
    assert_eq!(world.settled("orders", "a b c"), [2, 2, 2]);
    world.ask("await g Stable Consumer 3");
    world.ask("produce orders 600");
    world.ask("consumed 1200 a b c");
    assert_eq!(world.ask("committed g"), ["1200"]);

    let printed = world.tool(
        GROUPS_TOOL,
        &["--describe", "--group", "g", "--state", "--verbose"],
    );
    has(&printed, &["uniform", "Stable", "3"]);
    let printed = world.tool(
        GROUPS_TOOL,
        &["--describe", "--group", "g", "--members", "--verbose"],
    );
    has(&printed, &["consumer-g-", "/127.0.0.1", "orders:"]);
    let printed = world.tool(GROUPS_TOOL, &["--describe", "--group", "g"]);
    has(&printed, &["orders", "200"]);
    let printed = world.tool(GROUPS_TOOL, &["--list", "--type", "consumer", "--state"]);
    has(&printed, &["g", "Consumer", "Stable"]);

    // The topic grows; a member leaves; all leave.
    world.ask("grow orders 9");
    assert_eq!(world.settled("orders", "a b c"), [3, 3, 3]);
    world.ask("stop a");
    let mut shares = world.settled("orders", "b c");
    shares.sort_unstable();
    assert_eq!(shares, [4, 5]);
    assert!(world.try_ask("delete-group g").is_err());
    world.ask("stop b c");
    world.ask("await g Empty Consumer 0");
    world.ask("delete-group g");
    // Kafka's dumper knows every record: the group is on partition 103 modulo 50, by its name.
    let folder = world.broker.log_dir().join("__consumer_offsets-3");
    let log = folder.join("00000000000000000000.log");
    let printed = world.bare_tool(
        "org.apache.kafka.tools.DumpLogSegments",
        &["--offsets-decoder", "--files", log.to_str().unwrap()],
    );
    let types = [3, 4, 5, 6, 7, 8].map(|kind| format!("\"type\":\"{kind}\""));
    has(&printed, &types.each_ref().map(String::as_str));
    let words = [
        "metadataHash",
        "subscribedTopicNames",
        "assignmentTimestamp",
        "assignmentEpochs",
    ];
    has(&printed, &words);
    assert!(!printed.contains("Could not"), "{printed}");

    // Who joins again finds the group as it was never there.
    world.ask("start d g topics=orders");
    world.ask("consumed 1200 d");
}

#[test]
fn a_static_member_comes_back_to_its_partitions() {
    let Some(mut world) = World::start(&[]) else {
        return;
    };
    world.ask("create orders 4");
    world.ask("start a g topics=orders instance=one");
    world.ask("start b g topics=orders instance=two");
    world.settled("orders", "a b");
    world.ask("await g Stable Consumer 2");
    let before = world.ask("settled orders a b");
    world.ask("stop a");
    // It is away, not gone: nobody takes over.
    world.ask("await g Reconciling Consumer 2");
    world.ask("start a g topics=orders instance=one");
    assert_eq!(world.ask("settled orders a b"), before);
    // Another by its name is turned away while it is there.
    world.ask("start c g topics=orders instance=one");
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    loop {
        let failure = world.ask("failures c").concat();
        if failure.contains("UnreleasedInstanceId") || failure.contains("instance") {
            break;
        }
        assert!(Instant::now() < deadline, "{failure:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(world.ask("settled orders a b"), before);
}

#[test]
fn a_pattern_finds_topics_that_come_later() {
    let Some(mut world) = World::start(&[]) else {
        return;
    };
    world.ask("create orders-eu 2");
    world.ask("create other 2");
    world.ask("start a g regex=orders-.*");
    assert_eq!(world.settled("orders-eu", "a"), [2]);
    world.ask("create orders-us 3");
    assert_eq!(world.settled("orders-eu+orders-us", "a"), [5]);
    world.ask("start b g regex=orders-.*");
    let mut shares = world.settled("orders-eu+orders-us", "a b");
    shares.sort_unstable();
    assert_eq!(shares, [2, 3]);
    // What is no pattern fails the member, and nobody else.
    world.ask("start c g regex=orders-(");
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    while !world
        .ask("failures c")
        .concat()
        .contains("InvalidRegularExpression")
    {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(50));
    }
    world.settled("orders-eu+orders-us", "a b");
}

#[test]
fn a_group_changes_its_protocol_and_back_while_it_works() {
    let Some(mut world) = World::start(&[("group.initial.rebalance.delay.ms", "0")]) else {
        return;
    };
    let strategies = [
        "org.apache.kafka.clients.consumer.RangeAssignor",
        "org.apache.kafka.clients.consumer.CooperativeStickyAssignor",
    ];
    for (round, strategy) in strategies.into_iter().enumerate() {
        let (topic, g) = (format!("orders{round}"), format!("g{round}"));
        let name = |name: &str| format!("{name}{round}");
        let (a, b, c, d) = (name("a"), name("b"), name("c"), name("d"));
        world.ask(&format!("create {topic} 6"));
        let classic = format!("topics={topic} protocol=classic strategy={strategy}");
        world.ask(&format!("start {a} {g} {classic}"));
        world.ask(&format!("start {b} {g} {classic}"));
        assert_eq!(world.settled(&topic, &format!("{a} {b}")), [3, 3]);
        world.ask(&format!("await {g} Stable Classic 2"));
        world.ask(&format!("produce {topic} 300"));
        world.ask(&format!("consumed 300 {a} {b}"));

        // The first member of the new protocol makes it a consumer group, in which classic ones stay.
        world.ask(&format!("start {c} {g} topics={topic}"));
        assert_eq!(world.settled(&topic, &format!("{a} {b} {c}")), [2, 2, 2]);
        world.ask(&format!("await {g} Stable Consumer 3"));
        world.ask(&format!("produce {topic} 300"));
        world.ask(&format!("consumed 600 {a} {b} {c}"));
        assert_eq!(world.ask(&format!("committed {g}")), ["600"]);

        // The last of them leaves, and it is a classic one again.
        world.ask(&format!("stop {b}"));
        assert_eq!(world.settled(&topic, &format!("{a} {c}")), [3, 3]);
        world.ask(&format!("stop {c}"));
        assert_eq!(world.settled(&topic, &a), [6]);
        world.ask(&format!("await {g} Stable Classic 1"));
        world.ask(&format!("produce {topic} 300"));
        world.ask(&format!("consumed 900 {a} {b} {c}"));

        // And once more, all the way.
        world.ask(&format!("start {d} {g} topics={topic}"));
        assert_eq!(world.settled(&topic, &format!("{a} {d}")), [3, 3]);
        world.ask(&format!("stop {a}"));
        assert_eq!(world.settled(&topic, &d), [6]);
        world.ask(&format!("await {g} Stable Consumer 1"));
        assert_eq!(world.ask(&format!("committed {g}")), ["900"]);
        world.ask(&format!("stop {d}"));
    }
}

#[test]
fn groups_have_settings_of_their_own() {
    let Some(mut world) = World::start(&[]) else {
        return;
    };
    world.ask("create orders 2");
    let configs = |change: &[&str]| {
        let group = ["--entity-type", "groups", "--entity-name", "g"];
        world.tool("kafka.admin.ConfigCommand", &[&group[..], change].concat())
    };
    let printed = configs(&[
        "--alter",
        "--add-config",
        "consumer.session.timeout.ms=1000",
    ]);
    has(&printed, &["group.consumer.min.session.timeout.ms"]);
    let printed = configs(&[
        "--alter",
        "--add-config",
        "consumer.session.timeout.ms=50000,consumer.heartbeat.interval.ms=6000",
    ]);
    has(&printed, &["Completed updating config for group g"]);
    let printed = configs(&["--describe"]);
    has(
        &printed,
        &[
            "consumer.session.timeout.ms=50000",
            "consumer.heartbeat.interval.ms=6000",
        ],
    );
    world.ask("start a g topics=orders assignor=range");
    assert_eq!(world.settled("orders", "a"), [2]);
    assert_eq!(world.ask("await g Stable Consumer 1")[2], "range");
}

/// What is refused while the group has members, and done when it has none.
#[test]
fn kafkas_tools_reset_and_delete_the_offsets_of_a_group_and_the_group() {
    let Some(mut world) = World::start(&[]) else {
        return;
    };
    world.ask("create orders 1");
    world.ask("start a g topics=orders");
    assert_eq!(world.settled("orders", "a"), [1]);
    world.ask("produce orders 100");
    world.ask("consumed 100 a");
    assert_eq!(world.ask("committed g"), ["100"]);
    let reset = ["--reset-offsets", "--group", "g", "--topic", "orders"];
    let delete_offsets = ["--delete-offsets", "--group", "g", "--topic", "orders"];
    let delete = ["--delete", "--group", "g"];
    let earliest = [&reset[..], &["--to-earliest", "--execute"]].concat();
    for (arguments, words) in [
        (&earliest[..], "inactive"),
        (&delete_offsets, "GroupSubscribedToTopicException"),
        (&delete, "GroupNotEmptyException"),
    ] {
        has(&world.tool(GROUPS_TOOL, arguments), &[words]);
    }
    assert_eq!(world.ask("committed g"), ["100"]);

    world.ask("stop a");
    world.ask("await g Empty Consumer 0");
    for (how, expected) in [
        (&["--to-earliest"][..], "0"),
        (&["--to-latest"], "100"),
        (&["--to-offset", "30"], "30"),
        (&["--shift-by", "-10"], "20"),
        (&["--to-current"], "20"),
        (&["--by-duration", "PT0S"], "100"),
        (&["--to-datetime", "2000-01-01T00:00:00.000"], "0"),
        (&["--to-offset", "60"], "60"),
    ] {
        let printed = world.tool(GROUPS_TOOL, &[&reset[..], how, &["--execute"]].concat());
        has(&printed, &["orders", expected]);
        assert_eq!(world.ask("committed g"), [expected], "{how:?}\n{printed}");
    }
    // Who comes next reads from there.
    world.ask("start b g topics=orders");
    world.ask("consumed 40 b");
    world.ask("stop b");
    world.ask("await g Empty Consumer 0");
    let printed = world.tool(GROUPS_TOOL, &delete_offsets);
    has(&printed, &["Successful"]);
    assert_eq!(world.ask("committed g"), ["0"]);
    let printed = world.tool(GROUPS_TOOL, &delete);
    has(&printed, &["successful"]);
    let printed = world.tool(GROUPS_TOOL, &["--list"]);
    let listed = printed.lines().any(|line| line.trim() == "g");
    assert!(!listed, "{printed}");
    let printed = world.tool(GROUPS_TOOL, &delete);
    has(&printed, &["GroupIdNotFoundException"]);
}

#[test]
fn members_go_on_when_the_broker_was_killed() {
    let Some(mut world) = World::start(&[]) else {
        return;
    };
    world.ask("create orders 4");
    world.ask("start a g topics=orders");
    world.ask("start b g topics=orders");
    assert_eq!(world.settled("orders", "a b"), [2, 2]);
    for round in 1..=3 {
        world.ask("produce orders 400");
        world.ask(&format!("consumed {} a b", round * 400));
        world.broker.kill();
        world.broker.start_again().unwrap();
    }
    assert_eq!(world.settled("orders", "a b"), [2, 2]);
    world.ask("await g Stable Consumer 2");
    world.ask("produce orders 400");
    world.ask("consumed 1600 a b");
    assert_eq!(world.ask("committed g"), ["1600"]);
    for name in ["a", "b"] {
        assert_eq!(world.ask(&format!("failures {name}")).concat(), "");
    }
}

#[test]
fn librdkafka_speaks_the_protocol_too() {
    let Some(mut world) = World::start(&[]) else {
        return;
    };
    world.ask("create orders 4");
    world.ask("produce orders 400");
    let member = || -> BaseConsumer {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", world.broker.bootstrap())
            .set("group.id", "g")
            .set("group.protocol", "consumer")
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        consumer.subscribe(&["orders"]).unwrap();
        consumer
    };
    let (a, b) = (member(), member());
    let mut read = 0;
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let owned = |consumer: &BaseConsumer| consumer.assignment().unwrap().count();
    while read < 400 || owned(&a) != 2 || owned(&b) != 2 {
        assert!(
            Instant::now() < deadline,
            "read {read}, own {} and {}",
            owned(&a),
            owned(&b)
        );
        for consumer in [&a, &b] {
            match consumer.poll(Duration::from_millis(20)) {
                None => {}
                Some(message) => {
                    message.unwrap();
                    read += 1;
                    consumer.commit_consumer_state(CommitMode::Sync).unwrap();
                }
            }
        }
    }
    world.ask("await g Stable Consumer 2");
    assert_eq!(world.ask("committed g"), ["400"]);
    drop(a);
    drop(b);
    world.ask("await g Empty Consumer 0");
}
