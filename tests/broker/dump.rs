//! Kafka's own dumper over the files of a data directory: every batch, record and index entry.

use std::fs;
use std::path::{Path, PathBuf};

use super::packages;

/// Segments, and what stands beside them, of the partitions of topics that begin with `prefix`.
pub fn files(log_dir: &Path, prefix: &str) -> Result<(Vec<PathBuf>, Vec<PathBuf>), String> {
    let (mut logs, mut indexes) = (Vec::new(), Vec::new());
    for partition in fs::read_dir(log_dir)
        .map_err(|error| error.to_string())?
        .flatten()
    {
        let name = partition.file_name().to_string_lossy().into_owned();
        // A topic being deleted has a dot in the name of its folder.
        if !name.starts_with(prefix) || name.contains('.') || !partition.path().is_dir() {
            continue;
        }
        for file in fs::read_dir(partition.path())
            .map_err(|error| error.to_string())?
            .flatten()
        {
            match file
                .path()
                .extension()
                .and_then(|extension| extension.to_str())
            {
                Some("log") => logs.push(file.path()),
                Some("index" | "timeindex" | "txnindex" | "snapshot") => indexes.push(file.path()),
                _ => {}
            }
        }
    }
    logs.sort();
    indexes.sort();
    Ok((logs, indexes))
}

/// The arguments for both kinds of files, at most `at_once` files each: every option that says something
/// about them.
pub fn arguments(logs: &[PathBuf], indexes: &[PathBuf], at_once: usize) -> Vec<Vec<String>> {
    let list = |files: &[PathBuf]| {
        let names: Vec<String> = files
            .iter()
            .map(|file| file.to_string_lossy().into_owned())
            .collect();
        names.join(",")
    };
    let command = |options: &[&str], files: &[PathBuf]| {
        let options = options.iter().copied().chain(["--files"]);
        let mut command: Vec<String> = options.map(String::from).collect();
        command.push(list(files));
        command
    };
    let mut commands = Vec::new();
    for files in logs.chunks(at_once) {
        commands.push(command(
            &["--deep-iteration", "--skip-record-metadata"],
            files,
        ));
    }
    // What coordinators keep is read by Kafka's own decoders.
    for (topic, decoder) in [
        ("__consumer_offsets-", "--offsets-decoder"),
        ("__transaction_state-", "--transaction-log-decoder"),
    ] {
        let of_topic = |path: &&PathBuf| path.to_string_lossy().contains(topic);
        let files: Vec<PathBuf> = logs.iter().filter(of_topic).cloned().collect();
        if !files.is_empty() {
            commands.push(command(&[decoder], &files));
        }
    }
    for files in indexes.chunks(at_once) {
        commands.push(command(&["--verify-index-only"], files));
        commands.push(command(&["--index-sanity-check"], files));
        // With the entries, each held against a batch of a size that is always enough.
        commands.push(command(&["--max-message-size", "20971520"], files));
    }
    commands
}

/// What the dumper has to say against the files, of what it printed.
pub fn check(arguments: &[String], printed: &str) -> Result<(), String> {
    if let Some(line) = printed.lines().find(|line| is_complaint(line)) {
        return Err(format!("{}: {line}", arguments[0]));
    }
    if arguments[0] == "--deep-iteration" && !printed.contains("starting offset:") {
        return Err(format!("nothing was dumped:\n{printed}"));
    }
    Ok(())
}

fn is_complaint(line: &str) -> bool {
    // Of every segment but the first, 4.3.1 says that its first offset follows -1.
    if let Some((before, _)) = line.trim().split_once(" is followed by ") {
        return before != "-1";
    }
    let says = [
        "Mismatches in",
        "isvalid: false",
        "Found ",
        "out of order",
        "Exception",
        "Could not",
        "corrupt",
    ];
    says.iter().any(|text| line.contains(text))
}

/// Dumps everything of topics that begin with `prefix` in a Java machine of its own; how many files.
pub fn run(log_dir: &Path, prefix: &str) -> Result<usize, String> {
    run_if(log_dir, prefix, |_| true)
}

/// The same for topics from which records were compacted away.
pub fn run_with_gaps(log_dir: &Path, prefix: &str) -> Result<usize, String> {
    run_if(log_dir, prefix, |line| {
        !line.contains(" is followed by ") && !line.contains("Non-consecutive offsets")
    })
}

/// A record as the dumper prints it with `--print-data-log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printed {
    pub offset: i64,
    pub key: Option<String>,
    pub payload: Option<String>,
}

/// The records in the segments of one partition, those of no transaction's markers; their keys and values are
/// text without line breaks.
pub fn records(log_dir: &Path, partition: &str) -> Result<Vec<Printed>, String> {
    let (logs, _) = files(log_dir, partition)?;
    let names: Vec<_> = logs.iter().map(|log| log.to_string_lossy()).collect();
    let output = packages::java(&packages::jars()?)
        .arg("org.apache.kafka.tools.DumpLogSegments")
        .args(["--print-data-log", "--files", &names.join(",")])
        .output()
        .map_err(|error| error.to_string())?;
    let printed = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {said}", output.status));
    }
    let lines = printed.lines().filter_map(|line| line.strip_prefix("| "));
    let data = lines.filter(|line| !line.contains(" endTxnMarker: "));
    data.map(|line| record(line).ok_or_else(|| format!("no record: {line}")))
        .collect()
}

/// `offset: 7 CreateTime: … headerKeys: [] key: k payload: v`, where key and payload are left out for null.
fn record(line: &str) -> Option<Printed> {
    let rest = line.strip_prefix("offset: ")?;
    let (offset, rest) = rest.split_once(' ')?;
    let (_, rest) = rest.split_once(" headerKeys: [")?;
    let (_, rest) = rest.split_once(']')?;
    let (before, payload) = match rest.split_once(" payload: ") {
        Some((before, payload)) => (before, Some(payload.to_owned())),
        None => (rest, None),
    };
    let key = before.strip_prefix(" key: ").map(str::to_owned);
    Some(Printed {
        offset: offset.parse().ok()?,
        key,
        payload,
    })
}

/// Dumps, and has the lines checked that `counts` says so of.
fn run_if(log_dir: &Path, prefix: &str, counts: fn(&str) -> bool) -> Result<usize, String> {
    let jars = packages::jars()?;
    let (logs, indexes) = files(log_dir, prefix)?;
    for arguments in arguments(&logs, &indexes, 1000) {
        let output = packages::java(&jars)
            .arg("org.apache.kafka.tools.DumpLogSegments")
            .args(&arguments)
            .output()
            .map_err(|error| error.to_string())?;
        let mut printed = String::from_utf8_lossy(&output.stdout).into_owned();
        printed += &String::from_utf8_lossy(&output.stderr);
        let printed: Vec<&str> = printed.lines().filter(|line| counts(line)).collect();
        let printed = printed.join("\n");
        check(&arguments, &printed)?;
        if !output.status.success() {
            return Err(format!("{}: {printed}", output.status));
        }
    }
    Ok(logs.len() + indexes.len())
}
