//! One way to talk to every client: a driver process that is told what to do by lines, or kcat, which is
//! run once for each thing.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use crate::broker::die_with_parent;
use crate::records::{self, Abilities, Headers, Record};

/// Longest time one command may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(150);

/// A partition and the offsets to read of it: from the first up to the second, which is not read.
pub type Range = (i32, i64, i64);

pub struct Client {
    pub name: &'static str,
    pub can: Abilities,
    kind: Kind,
}

enum Kind {
    Driver(Driver),
    Kcat { program: PathBuf, bootstrap: String },
}

struct Driver {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
    stderr: PathBuf,
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Client {
    pub fn driver(
        name: &'static str,
        can: Abilities,
        mut command: Command,
        bootstrap: &str,
        stderr: &Path,
    ) -> Result<Client, String> {
        let file = std::fs::File::create(stderr).map_err(|error| error.to_string())?;
        command
            .arg(bootstrap)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file);
        die_with_parent(&mut command);
        let mut child = command
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        let stdin = child.stdin.take().expect("piped");
        let stdout = child.stdout.take().expect("piped");
        let (lines, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        let kind = Kind::Driver(Driver {
            child,
            stdin,
            answers,
            stderr: stderr.to_path_buf(),
        });
        Ok(Client { name, can, kind })
    }

    pub fn kcat(program: PathBuf, bootstrap: &str) -> Client {
        let can = Abilities {
            anything: false,
            null_headers: false,
        };
        Client {
            name: "kcat",
            can,
            kind: Kind::Kcat {
                program,
                bootstrap: bootstrap.to_string(),
            },
        }
    }

    /// Sends one command to a driver; the fields of its answer.
    pub fn ask(&mut self, command: &[&str]) -> Result<Vec<String>, String> {
        let Kind::Driver(driver) = &mut self.kind else {
            return Err(format!("kcat has no command {command:?}"));
        };
        let line = command.join("\t") + "\n";
        let failed = |problem: String| {
            format!(
                "{}: {}: {problem}",
                self.name,
                line.trim_end().replace('\t', " ")
            )
        };
        let sent = driver.stdin.write_all(line.as_bytes());
        let answer = sent.map_err(|error| error.to_string()).and_then(|()| {
            let answer = driver.answers.recv_timeout(ANSWER_TIMEOUT);
            answer.map_err(|error| error.to_string())
        });
        let answer = answer.map_err(|error| {
            let said = std::fs::read_to_string(&driver.stderr).unwrap_or_default();
            let lines: Vec<&str> = said.lines().collect();
            let last = lines[lines.len().saturating_sub(15)..].join("\n");
            failed(format!("no answer: {error}\n{last}"))
        })?;
        let fields: Vec<String> = answer.split('\t').map(unescape).collect();
        match fields[0].as_str() {
            "ok" => Ok(fields[1..].to_vec()),
            _ => Err(failed(fields[1..].join(" "))),
        }
    }

    /// As [`Client::ask`], for an answer of one field.
    pub fn ask_one(&mut self, command: &[&str]) -> Result<String, String> {
        Ok(self.ask(command)?.swap_remove(0))
    }

    /// Sends `records`, which may be of several partitions, through `file`, and waits until all are
    /// acknowledged. Where the client says at which offset each was put, that is checked.
    pub fn produce(
        &mut self,
        topic: &str,
        records: &[Record],
        file: &Path,
        codec: &str,
        acks: &str,
        idempotent: bool,
    ) -> Result<(), String> {
        if let Kind::Kcat { program, bootstrap } = &self.kind {
            for (partition, records) in records::by_partition(records.to_vec()) {
                let mut command = Command::new(program);
                command.args([
                    "-P",
                    "-b",
                    bootstrap,
                    "-t",
                    topic,
                    "-p",
                    &partition.to_string(),
                ]);
                command.args(["-Z", "-z", codec, "-D", "\\x1e", "-K", "\\x1f"]);
                command.args([
                    "-H",
                    "one=1",
                    "-H",
                    "two=2",
                    "-X",
                    "message.max.bytes=1100000",
                ]);
                command.args([
                    "-X",
                    &format!("acks={acks}"),
                    "-X",
                    &format!("enable.idempotence={idempotent}"),
                ]);
                kcat_run(command, &kcat_input(&records))?;
            }
            return Ok(());
        }
        records::write(file, records)?;
        let idempotent = if idempotent { "1" } else { "0" };
        let path = file.to_string_lossy();
        let count = self.ask_one(&["produce", topic, &path, codec, acks, idempotent])?;
        if count != records.len().to_string() {
            return Err(format!("{count} of {} acknowledged", records.len()));
        }
        let Ok(offsets) = std::fs::read(format!("{path}.offsets")) else {
            return Ok(());
        };
        for (record, offset) in records.iter().zip(offsets.chunks_exact(8)) {
            let offset = i64::from_be_bytes(offset.try_into().expect("eight bytes"));
            let expected = if acks == "0" { -1 } else { record.offset };
            if record.offset >= 0 && offset != expected {
                return Err(format!(
                    "partition {}: offset {expected} was acknowledged as {offset}",
                    record.partition
                ));
            }
        }
        Ok(())
    }

    /// Reads `ranges` of `topic` through `file`. kcat reads either one range or whole partitions.
    pub fn consume(
        &mut self,
        topic: &str,
        ranges: &[Range],
        file: &Path,
    ) -> Result<Vec<Record>, String> {
        if let Kind::Kcat { program, bootstrap } = &self.kind {
            let mut command = Command::new(program);
            command.args([
                "-C",
                "-q",
                "-b",
                bootstrap,
                "-t",
                topic,
                "-X",
                "check.crcs=true",
            ]);
            command.args(["-f", "%p %o %T %K %S\\n%k%s%h\\x1e\\n"]);
            if let [(partition, from, to)] = ranges {
                command.args([
                    "-p",
                    &partition.to_string(),
                    "-o",
                    &from.to_string(),
                    "-c",
                    &(to - from).to_string(),
                ]);
            } else {
                command.args(["-e", "-o", "beginning"]);
            }
            return kcat_records(&kcat_run(command, b"")?);
        }
        let ranges: Vec<String> = ranges
            .iter()
            .map(|(p, from, to)| format!("{p}:{from}:{to}"))
            .collect();
        self.ask(&["consume", topic, &file.to_string_lossy(), &ranges.join(",")])?;
        records::read(file)
    }

    /// Joins `group`, reads `topic` until there are `least` records or more, commits, and leaves. `protocol`:
    /// `classic`, `consumer`, or the class of an assignor (Java).
    pub fn group(
        &mut self,
        topic: &str,
        group: &str,
        protocol: &str,
        least: usize,
        file: &Path,
    ) -> Result<Vec<Record>, String> {
        if let Kind::Kcat { program, bootstrap } = &self.kind {
            let mut command = Command::new(program);
            command.args(["-q", "-b", bootstrap, "-X", "auto.offset.reset=earliest"]);
            command.args(["-f", "%p %o %T %K %S\\n%k%s%h\\x1e\\n"]);
            command.args(["-c", &least.to_string(), "-G", group, topic]);
            return kcat_records(&kcat_run(command, b"")?);
        }
        let path = file.to_string_lossy();
        self.ask(&["group", topic, &path, group, protocol, &least.to_string()])?;
        records::read(file)
    }

    /// `which`: `earliest`, `latest`, `max` (the largest timestamp), or milliseconds since 1970.
    pub fn offset(&mut self, topic: &str, partition: i32, which: &str) -> Result<i64, String> {
        let answer = if let Kind::Kcat { program, bootstrap } = &self.kind {
            let time = match which {
                "earliest" => "-2",
                "latest" => "-1",
                other => other,
            };
            let mut command = Command::new(program);
            command.args([
                "-Q",
                "-b",
                bootstrap,
                "-t",
                &format!("{topic}:{partition}:{time}"),
            ]);
            let printed = kcat_run(command, b"")?;
            let text = String::from_utf8_lossy(&printed).into_owned();
            // topic [0] offset 5
            text.split_whitespace()
                .last()
                .unwrap_or_default()
                .to_string()
        } else {
            self.ask_one(&["offset", topic, &partition.to_string(), which])?
        };
        answer
            .parse()
            .map_err(|_| format!("{}: offset {which}: {answer:?}", self.name))
    }

    /// The names of all topics and their numbers of partitions, as `kcat -L` prints them.
    pub fn kcat_list(&self) -> Result<String, String> {
        let Kind::Kcat { program, bootstrap } = &self.kind else {
            return Err("not kcat".into());
        };
        let mut command = Command::new(program);
        command.args(["-L", "-b", bootstrap]);
        Ok(String::from_utf8_lossy(&kcat_run(command, b"")?).into_owned())
    }
}

/// Reads what a driver wrote with `\n`, `\t` and `\\`.
fn unescape(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some(other) => other,
                None => '\\',
            },
            other => other,
        });
    }
    text
}

/// Records as lines of key, 0x1f, value, ended by 0x1e; no 0x1f means no key.
fn kcat_input(records: &[Record]) -> Vec<u8> {
    let mut input = Vec::new();
    for record in records {
        if let Some(key) = &record.key {
            input.extend(key);
            input.push(0x1f);
        }
        input.extend(record.value.as_deref().unwrap_or_default());
        input.push(0x1e);
    }
    input
}

fn kcat_run(mut command: Command, input: &[u8]) -> Result<Vec<u8>, String> {
    die_with_parent(&mut command);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let mut stdin = child.stdin.take().expect("piped");
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            let _ = stdin.write_all(input);
        });
        child.wait_with_output()
    })
    .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(format!("{command:?}: {}\n{said}", output.status));
    }
    if said.contains("ERROR") || said.contains("Delivery failed") {
        return Err(format!("{command:?}: {said}"));
    }
    Ok(output.stdout)
}

/// Reads `%p %o %T %K %S\n%k%s%h\x1e\n`.
fn kcat_records(mut printed: &[u8]) -> Result<Vec<Record>, String> {
    let mut records = Vec::new();
    while !printed.is_empty() {
        let one = (|| {
            let end = printed.iter().position(|byte| *byte == b'\n')?;
            let line = std::str::from_utf8(&printed[..end]).ok()?;
            printed = &printed[end + 1..];
            let numbers: Vec<i64> = line
                .split(' ')
                .map_while(|number| number.parse().ok())
                .collect();
            let [partition, offset, timestamp, key, value] = numbers[..] else {
                return None;
            };
            let mut take = |length: i64| match usize::try_from(length) {
                Err(_) => Some(None),
                Ok(length) => {
                    let (taken, rest) = printed.split_at_checked(length)?;
                    printed = rest;
                    Some(Some(taken.to_vec()))
                }
            };
            let (key, value) = (take(key)?, take(value)?);
            let end = printed.windows(2).position(|two| two == b"\x1e\n")?;
            let headers = Headers::Printed(printed[..end].to_vec());
            printed = &printed[end + 2..];
            Some(Record {
                partition: partition as i32,
                offset,
                timestamp,
                key,
                value,
                headers,
            })
        })();
        records.push(one.ok_or_else(|| {
            let next = String::from_utf8_lossy(&printed[..printed.len().min(60)]).into_owned();
            format!(
                "kcat printed something else after {} records: {next:?}",
                records.len()
            )
        })?);
    }
    Ok(records)
}
