//! The profiler of a running node: every request is found in it, its stages add up, what is slow is shown
//! with the reason, and the command-line tool shows, records and compares it.

mod broker;
mod hostile;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use broker::packages;
use hostile::{FetchLimits, Node, Peer, batch, fetch, produce};

/// Stages in the order in which a request passes them.
const PRODUCE: [&str; 11] = [
    "receive", "queue", "decode", "post", "mailbox", "append", "write", "commit", "return",
    "encode", "send",
];
const FETCH: [&str; 10] = [
    "receive",
    "queue",
    "decode",
    "post",
    "mailbox",
    "read",
    "purgatory",
    "return",
    "encode",
    "send",
];

const MS: u64 = 1_000_000;

fn json(node: &Node, query: &str) -> Value {
    let answer = node.get(&format!("/profile?format=json{query}"));
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(body).expect("JSON")
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

fn limits(max_wait_ms: i32, min_bytes: i32) -> FetchLimits {
    FetchLimits {
        max_wait_ms,
        min_bytes,
        max_bytes: 1 << 20,
    }
}

/// Produces to and fetches from each partition in turn.
fn work(peer: &mut Peer, rounds: i32) {
    for n in 0..rounds {
        let partition = n % 4;
        peer.send(&produce("orders", partition, -1, batch(3, 100), 1));
        assert_eq!(peer.receive_id(), Some(1));
        peer.send(&fetch(11, "orders", partition, limits(0, 1), 2));
        assert_eq!(peer.receive_id(), Some(2));
    }
}

/// Two shards, so that some requests cross them.
fn node(settings: &[(&str, &str)]) -> Node {
    let mut all = vec![("ringspun.shards", "2")];
    all.extend_from_slice(settings);
    let node = Node::start(&all);
    node.create_topic("orders", 4);
    node
}

#[test]
fn every_request_passes_every_stage_and_its_stages_add_up() {
    let node = node(&[("log.flush.interval.messages", "1")]);
    let mut peer = node.connect();
    work(&mut peer, 40);
    let page = json(&node, "");
    let requests = &page["parts"][0]["requests"];
    for (api, stages) in [("produce", &PRODUCE[..]), ("fetch", &FETCH[..])] {
        let of = &requests[api];
        assert_eq!(number(&of["total"]["count"]), 40, "{of}");
        let named = of["stages"].as_object().expect("stages");
        assert_eq!(named.len(), stages.len());
        let mut sum = 0;
        for stage in stages {
            assert_eq!(number(&named[*stage]["count"]), 40, "{stage}");
            sum += number(&named[*stage]["sum"]);
        }
        assert_eq!(number(&of["total"]["sum"]), sum);
        // Half of the partitions belong to the other shard.
        assert!(number(&named["mailbox"]["sum"]) > 0);
    }
    let produce = &requests["produce"]["stages"];
    for stage in ["receive", "decode", "append", "write", "commit", "send"] {
        assert!(number(&produce[stage]["sum"]) > 0, "{stage}: {produce}");
    }
    let gauged = &page["parts"][0]["gauged"];
    for name in ["turn", "run_queue", "fsync", "write", "write_bytes"] {
        assert!(number(&gauged[name]["count"]) > 0, "{name}: {gauged}");
    }
    // Shards told apart are the same together.
    let apart = json(&node, "&by=shard");
    let parts = apart["parts"].as_array().expect("parts");
    assert_eq!(parts.len(), 2);
    let counts = parts
        .iter()
        .map(|part| number(&part["requests"]["produce"]["total"]["count"]));
    assert_eq!(counts.sum::<u64>(), 40);

    let slowest = page["slowest"].as_array().expect("a list");
    assert_eq!(slowest.len(), 80);
    let mut last = u64::MAX;
    for slow in slowest {
        let stages = slow["stages_ns"].as_object().expect("stages");
        let sum: u64 = stages.values().map(number).sum();
        assert_eq!(number(&slow["total_ns"]), sum);
        assert_eq!(slow["client_id"], "hostile");
        assert_eq!(slow["topic"], "orders");
        assert!(number(&slow["request_bytes"]) > 0 && number(&slow["response_bytes"]) > 0);
        assert!(number(&slow["late_ns"]) <= last, "slowest first");
        last = number(&slow["late_ns"]);
    }
    node.stop();
}

#[test]
fn a_late_request_is_shown_with_its_reason_and_a_wait_that_was_asked_for_is_its_own_stage() {
    let node = node(&[]);
    let mut peer = node.connect();
    work(&mut peer, 4);
    // The produce is done at once, but its reply stands behind the one of a fetch that waits.
    peer.send(&fetch(11, "orders", 0, limits(700, 1 << 20), 3));
    peer.send(&produce("orders", 1, -1, batch(3, 100), 4));
    assert_eq!(peer.receive_id(), Some(3));
    assert_eq!(peer.receive_id(), Some(4));
    let page = json(&node, "");
    let slowest = page["slowest"].as_array().expect("a list");
    let late = &slowest[0];
    assert_eq!(late["api"], "produce", "{late}");
    assert!(number(&late["total_ns"]) > 600 * MS, "{late}");
    assert!(number(&late["stages_ns"]["return"]) > 600 * MS, "{late}");
    let waited = slowest
        .iter()
        .find(|slow| slow["api"] == "fetch" && number(&slow["total_ns"]) > 600 * MS);
    let waited = waited.expect("the fetch is in the list");
    assert!(
        number(&waited["stages_ns"]["purgatory"]) > 600 * MS,
        "{waited}"
    );
    let total = number(&waited["total_ns"]);
    assert!(total - number(&waited["late_ns"]) > 600 * MS, "{waited}");
    node.stop();
}

#[test]
fn an_interval_counts_what_came_within_it() {
    let node = node(&[]);
    let mut peer = node.connect();
    work(&mut peer, 8);
    let page = json(&node, "&interval=0.05");
    assert_eq!(page["since"], "interval");
    let total = &page["parts"][0]["requests"]["produce"]["total"];
    assert_eq!(number(&total["count"]), 0);
    assert!(page["slowest"].as_array().expect("a list").is_empty());
    node.stop();
}

#[test]
fn it_is_text_for_people_an_hdr_log_for_tools_and_summaries_for_prometheus() {
    let node = node(&[]);
    let mut peer = node.connect();
    work(&mut peer, 8);
    let text = node.get("/profile");
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("text/plain"));
    for part in ["produce: 8 requests", "purgatory", "connection reader"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let log = node.get("/profile?format=hlog");
    assert!(
        log.contains("attachment") && log.contains("#[StartTime:"),
        "{log}"
    );
    assert!(log.contains("Tag=produce.append,"), "{log}");
    let series = "ringspun_request_stage_seconds_count{api=\"produce\",stage=\"append\"}";
    assert_eq!(node.metric(series), 8.0);
    assert!(node.get("/metrics").ends_with("# EOF\n"));
    for bad in ["format=xml", "interval=0", "interval=1e9", "x=y"] {
        let answer = node.get(&format!("/profile?{bad}"));
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    node.stop();
}

#[test]
fn shards_that_poll_serve_each_other_and_their_clients() {
    for (shards, micros) in [("1", "1000"), ("2", "1000000")] {
        let node = node(&[
            ("ringspun.idle.poll.us", micros),
            ("ringspun.shards", shards),
            ("log.flush.interval.messages", "1"),
        ]);
        let mut peer = node.connect();
        work(&mut peer, 40);
        let produced = &json(&node, "")["parts"][0]["requests"]["produce"]["total"];
        assert_eq!(number(&produced["count"]), 40);
        node.stop();
    }
}

#[test]
fn switched_off_it_says_so_and_measures_nothing() {
    let node = node(&[("ringspun.profile.enable", "false")]);
    let mut peer = node.connect();
    work(&mut peer, 4);
    let answer = node.get("/profile");
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(answer.contains("ringspun.profile.enable"), "{answer}");
    // What /metrics counts does not hang on it.
    let count = node.metric("ringspun_request_duration_seconds_count{api=\"Produce\"}");
    assert_eq!(count, 4.0);
    node.stop();
}

fn tool(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringspun"))
        .arg("profile")
        .args(arguments)
        .output()
        .expect("it runs")
}

fn printed(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_tool_shows_records_and_compares() {
    let node = node(&[]);
    let url = format!("http://{}", node.http());
    let mut peer = node.connect();
    work(&mut peer, 8);
    let shown = printed(tool(&["--url", &url]));
    assert!(shown.contains("produce: 8 requests"), "{shown}");
    let shown = printed(tool(&["--url", &url, "--per-shard"]));
    assert!(shown.contains("== shard 1 =="), "{shown}");
    let shown = printed(tool(&["--url", &url, "--json", "--interval", "0.05"]));
    let page: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(page["schema"], 1);

    let folder = tempfile::tempdir().expect("a folder");
    let files = ["a.hlog", "b.hlog"].map(|name| folder.path().join(name));
    let files = files.each_ref().map(|file| file.to_str().expect("a path"));
    for file in files {
        let worker = std::thread::scope(|scope| {
            let recording =
                scope.spawn(|| tool(&["--url", &url, "--record", file, "--interval", "0.5"]));
            while !recording.is_finished() {
                work(&mut peer, 4);
            }
            recording.join().expect("no panic")
        });
        assert!(printed(worker).contains(file));
    }
    let compared = printed(tool(&["--diff", files[0], files[1]]));
    for tag in ["produce.append", "fetch.read", "produce.total", "turn"] {
        assert!(compared.contains(tag), "{compared}");
    }

    let refused = tool(&["--diff", files[0], "/nowhere"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("/nowhere cannot be read"));
    node.stop();
    let refused = tool(&["--url", &url]);
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{errors}");
    assert!(errors.contains("does not answer"), "{errors}");
}

#[test]
fn the_tool_watches_again_and_again_until_nobody_reads() {
    let node = node(&[]);
    let mut peer = node.connect();
    work(&mut peer, 8);
    let mut watching = Command::new(env!("CARGO_BIN_EXE_ringspun"))
        .args(["profile", "--watch", "0.05", "--url"])
        .arg(format!("http://{}", node.http()))
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(watching.stdout.take().expect("piped")).lines();
    // Each page is of an interval, in which nothing or something was asked of the node.
    let mut counts = Vec::new();
    while counts.len() < 3 || counts.iter().all(|&count| count == 0) {
        work(&mut peer, 4);
        let line = lines.next().expect("it goes on").expect("text");
        // No page goes to a terminal, so none moves its cursor.
        assert!(!line.contains('\x1b'), "{line}");
        let count = line
            .strip_prefix("produce: ")
            .and_then(|rest| rest.split(' ').next());
        if let Some(count) = count {
            counts.push(count.parse::<u64>().expect("a number"));
        }
        assert!(counts.len() < 1_000, "no page counts anything: {counts:?}");
    }
    drop(lines);
    let status = watching.wait().expect("it ends");
    assert!(status.success(), "{status}");
    node.stop();
}

#[test]
fn the_tool_draws_where_the_time_on_the_cores_goes() {
    let node = node(&[]);
    let url = format!("http://{}", node.http());
    let mut peer = node.connect();
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("busy");
    let out = out.to_str().expect("a path");
    let flame = |seconds| tool(&["--url", &url, "--flame", seconds, "--out", out]);
    work(&mut peer, 64);
    let before = node.rss();
    let drawn = std::thread::scope(|scope| {
        let drawing = scope.spawn(|| flame("1.5"));
        let mut busy = None;
        while !drawing.is_finished() {
            work(&mut peer, 64);
            if busy.is_none() && !drawing.is_finished() {
                let answer = node.get("/profile/flame?seconds=0.01");
                busy = answer
                    .contains("another one is under way")
                    .then_some(answer);
            }
        }
        // One at a time.
        assert!(busy.is_some());
        drawing.join().expect("no panic")
    });
    // The tables by which functions are named were those of another process: what stays are the node's own for
    // unwinding, and what the allocator has not given back yet.
    let kept = node.rss().saturating_sub(before);
    assert!(kept < 32 << 20, "{kept} bytes stay");
    assert!(printed(drawn).contains("busy.svg"));
    let read = |extension| std::fs::read_to_string(format!("{out}.{extension}")).expect("written");
    let folded = read("folded");
    assert!(folded.contains("ringspun::"), "{folded}");
    // The sampler does not show itself.
    assert!(!folded.contains("ringspun_note_stack"), "{folded}");
    assert!(read("svg").contains("<svg"));
    let refused = String::from_utf8_lossy(&flame("61").stderr).into_owned();
    assert!(refused.contains("0.01 to 60"), "{refused}");
    // What was interrupted goes on.
    work(&mut peer, 8);
    node.stop();
}

/// HdrHistogram is what its own tools read, those of Java.
#[test]
fn java_reads_the_log_as_the_node_counted() {
    let jars = match packages::jars() {
        Ok(jars) => jars,
        Err(reason) if !packages::all_required() => return println!("skipped: {reason}"),
        Err(reason) => panic!("{reason}"),
    };
    let node = node(&[]);
    let mut peer = node.connect();
    work(&mut peer, 40);
    let (_, log) = {
        let answer = node.get("/profile?format=hlog");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        (head.to_owned(), body.to_owned())
    };
    let total = &json(&node, "")["parts"][0]["requests"]["produce"]["total"];
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("node.hlog");
    std::fs::write(&file, log).expect("room");
    let processed = |arguments: &[&str]| {
        let mut java = packages::java(&jars);
        java.args(["org.HdrHistogram.HistogramLogProcessor", "-i"]);
        printed(java.arg(&file).args(arguments).output().expect("Java runs"))
    };
    let tags = processed(&["-listtags"]);
    for tag in ["produce.total", "produce.append", "fetch.purgatory", "turn"] {
        assert!(tags.contains(tag), "{tag}: {tags}");
    }
    // A ratio of 1: nanoseconds as they are.
    let table = processed(&["-tag", "produce.total", "-outputValueUnitRatio", "1"]);
    assert!(table.contains("Total count    =           40"), "{table}");
    let max = table
        .split("#[Max     =")
        .nth(1)
        .and_then(|rest| rest.split(',').next())
        .and_then(|max| max.trim().parse::<f64>().ok());
    let (max, exact) = (max.expect("a maximum"), number(&total["max"]) as f64);
    assert!((max - exact).abs() <= exact / 100.0, "{max}, not {exact}");
    node.stop();
}
