//! Kafka's command-line tools for groups, run inside the Java driver.

use std::process::Command;

use crate::World;
use crate::console_tools::{expect, tool};
use crate::{RECORDS, require};

const CLASS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
/// A group that has read all of [`TOPIC`] and committed, and has no members.
const GROUP: &str = "java-RangeAssignor";
const TOPIC: &str = "own-java";

fn groups(world: &mut World, arguments: &[&str]) -> Result<String, String> {
    tool(world, CLASS, "", arguments)
}

/// What `--reset-offsets` with `how` makes of the offset of partition 0.
fn reset(world: &mut World, how: &[&str]) -> Result<i64, String> {
    let topic = format!("{TOPIC}:0");
    let arguments = ["--reset-offsets", "--group", GROUP, "--topic", &topic];
    let printed = groups(world, &[&arguments[..], how].concat())?;
    column(&printed, 3)
}

/// A number in the line of partition 0.
fn column(printed: &str, index: usize) -> Result<i64, String> {
    printed
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|fields| fields.len() > index && fields[1] == TOPIC && fields[2] == "0")
        .and_then(|fields| fields[index].parse().ok())
        .ok_or_else(|| format!("no such line in\n{printed}"))
}

pub fn consumer_groups(world: &mut World) -> Result<(), String> {
    let printed = groups(world, &["--list", "--state"])?;
    let listed = printed
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&GROUP));
    let state = listed.and_then(|fields| fields.last().copied());
    require("state in the list", state, Some("Empty"))?;
    let describe = ["--describe", "--group", GROUP];
    let printed = groups(world, &describe)?;
    require("committed", column(&printed, 3)?, RECORDS)?;
    require("log end", column(&printed, 4)?, RECORDS)?;
    require("lag", column(&printed, 5)?, 0)?;
    let printed = groups(world, &[&describe[..], &["--state"]].concat())?;
    expect(&printed, &["Empty"])?;
    let printed = groups(
        world,
        &[&describe[..], &["--members", "--verbose"]].concat(),
    )?;
    expect(&printed, &["has no active members"])?;
    Ok(())
}

/// Every way to say where a group shall go on (KIP-122).
pub fn reset_offsets(world: &mut World) -> Result<(), String> {
    let offset = |world: &mut World| {
        let printed = groups(world, &["--describe", "--group", GROUP])?;
        column(&printed, 3)
    };
    let dry = reset(world, &["--to-earliest", "--dry-run"])?;
    require("a dry run", dry, 0)?;
    require("after a dry run", offset(world)?, RECORDS)?;
    let eighth = world
        .sent("java")?
        .into_iter()
        .find(|record| record.offset == 7);
    let time = date(eighth.ok_or("no record")?.timestamp)?;
    for (how, expected) in [
        (vec!["--to-earliest"], 0),
        (vec!["--to-latest"], RECORDS),
        (vec!["--to-offset", "30"], 30),
        (vec!["--shift-by", "-10"], 20),
        (vec!["--shift-by", "5"], 25),
        (vec!["--to-current"], 25),
        (vec!["--to-datetime", &time], 7),
        (vec!["--by-duration", "PT0S"], RECORDS),
        // Beyond the ends is at the ends.
        (vec!["--shift-by", "-1000"], 0),
        (vec!["--to-offset", "100000"], RECORDS),
    ] {
        let new = reset(world, &[&how[..], &["--execute"]].concat())?;
        require(&format!("{how:?}"), new, expected)?;
        require(&format!("committed by {how:?}"), offset(world)?, expected)?;
    }
    let file = world.file("offsets.csv");
    std::fs::write(&file, format!("{TOPIC},0,17\n")).map_err(|error| error.to_string())?;
    let path = file.to_string_lossy();
    let from_file = [
        "--reset-offsets",
        "--group",
        GROUP,
        "--from-file",
        &path,
        "--execute",
    ];
    groups(world, &from_file)?;
    require("from a file", offset(world)?, 17)
}

pub fn delete_groups(world: &mut World) -> Result<(), String> {
    let one = format!("{TOPIC}:0");
    let printed = groups(
        world,
        &["--delete-offsets", "--group", GROUP, "--topic", &one],
    )?;
    expect(&printed, &["Successful"])?;
    let printed = groups(world, &["--describe", "--group", GROUP])?;
    if column(&printed, 3).is_ok() {
        return Err(format!("still committed:\n{printed}"));
    }
    let printed = groups(world, &["--delete", "--group", GROUP])?;
    expect(&printed, &["successful"])?;
    let printed = groups(world, &["--list"])?;
    if printed.lines().any(|line| line.trim() == GROUP) {
        return Err(format!("still listed:\n{printed}"));
    }
    let printed = groups(world, &["--delete", "--group", "nobody"])?;
    expect(&printed, &["GroupIdNotFoundException"])
}

/// Milliseconds since 1970 as the tool takes them.
fn date(milliseconds: i64) -> Result<String, String> {
    let at = format!("@{}.{:03}", milliseconds / 1000, milliseconds % 1000);
    let output = Command::new("date")
        .args(["-u", "-d", &at, "+%Y-%m-%dT%H:%M:%S.%3N"])
        .output()
        .map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}
