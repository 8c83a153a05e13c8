//! What the process and its container may use.

use super::machine::field;
use super::{Asked, Finding, Machine, Scope, Tuner, Verdict};

/// Fewer than this are few for a broker: each connection and each open segment takes one.
const OPEN_FILES: u64 = 100_000;

/// What the executors demand, and what a shard registers with its rings beyond that.
const MEMLOCK_BYTES: u64 = 512 << 10;
const MEMLOCK_SHARD_BYTES: u64 = 256 << 10;

pub const TUNERS: &[Tuner] = &[
    Tuner {
        name: "io-uring",
        reason: "each shard does its input and output through rings of its own; without io_uring the broker does not start",
        measured: None,
        scope: Scope::Process,
        look: io_uring,
    },
    Tuner {
        name: "locked-memory",
        reason: "rings and the buffers registered with them count against the limit of locked memory (RLIMIT_MEMLOCK); below 512 KiB the broker does not start",
        measured: None,
        scope: Scope::Process,
        look: locked_memory,
    },
    Tuner {
        name: "open-files",
        reason: "each connection and each open segment takes a file descriptor; when there is none left, clients are turned away and logs cannot roll",
        measured: None,
        scope: Scope::Process,
        look: open_files,
    },
    Tuner {
        name: "cpu-quota",
        reason: "a shard whose control group has used up its quota stands still for the rest of the period (100 ms by default), and with it everything that waits for it",
        measured: None,
        scope: Scope::Process,
        look: cpu_quota,
    },
];

fn io_uring(machine: &Machine, _: &Asked) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut numbers = machine
        .kernel
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < (5, 15) => found.push(Finding::new(
            "kernel",
            machine.kernel.clone(),
            "5.15",
            Verdict::Advice("run Linux 5.15 or newer".into()),
        )),
        _ => {}
    }
    let path = "/proc/sys/kernel/io_uring_disabled";
    match machine.text(path).as_deref() {
        None | Some("0") => {}
        Some(value) => {
            let verdict = match &machine.container {
                Some(_) => {
                    Verdict::Advice("set sysctl kernel.io_uring_disabled=0 on the host".into())
                }
                None => Verdict::write(path, "0"),
            };
            let meaning = if value == "1" {
                "only for the privileged"
            } else {
                "for nobody"
            };
            found.push(Finding::new(
                "",
                format!("kernel.io_uring_disabled={value}: {meaning}"),
                "0",
                verdict,
            ));
        }
    }
    match &machine.ring {
        Some(Err(why)) if found.is_empty() => found.push(Finding::new(
            "",
            format!("a ring cannot be made: {why}"),
            "allowed",
            Verdict::Advice(
                "allow the io_uring system calls: a container's seccomp profile or a security module forbids them \
                 (docker: --security-opt seccomp=unconfined, or a profile with io_uring_setup, _enter, _register), or \
                 the limit of locked memory is too low"
                    .into(),
            ),
        )),
        _ if found.is_empty() => found.push(Finding::good("", "allowed")),
        _ => {}
    }
    found
}

/// The hard limit of a line of `/proc/PID/limits`, since the broker raises the soft one to it.
/// `Some(None)` is no limit.
fn hard_limit(machine: &Machine, name: &str) -> Option<Option<u64>> {
    let limits = machine.process_text("limits")?;
    let mut fields = field(&limits, name)?.split_whitespace();
    match fields.nth(1)? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    }
}

fn limit(machine: &Machine, name: &str, wanted: u64, remedy: &str) -> Vec<Finding> {
    match hard_limit(machine, name) {
        None => Finding::unknown("the limits of the process cannot be read"),
        Some(None) => vec![Finding::good("", "unlimited")],
        Some(Some(limit)) if limit >= wanted => vec![Finding::good("", limit.to_string())],
        Some(Some(limit)) => vec![Finding::new(
            "",
            limit.to_string(),
            format!("{wanted} or more"),
            Verdict::Advice(remedy.into()),
        )],
    }
}

fn locked_memory(machine: &Machine, asked: &Asked) -> Vec<Finding> {
    let shards = asked.shard_cpus.len() as u64;
    limit(
        machine,
        "Max locked memory",
        MEMLOCK_BYTES + shards * MEMLOCK_SHARD_BYTES,
        "LimitMEMLOCK=infinity in a systemd unit, --ulimit memlock=-1 for docker, `memlock` in \
         /etc/security/limits.conf for a login",
    )
}

fn open_files(machine: &Machine, _: &Asked) -> Vec<Finding> {
    limit(
        machine,
        "Max open files",
        OPEN_FILES,
        "LimitNOFILE=1048576 in a systemd unit, --ulimit nofile=1048576 for docker, `nofile` in \
         /etc/security/limits.conf for a login",
    )
}

fn cpu_quota(machine: &Machine, _: &Asked) -> Vec<Finding> {
    let own = machine.process_text("cgroup").unwrap_or_default();
    let mut folders = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let mount = match controllers {
            "" => "/sys/fs/cgroup",
            list if list.split(',').any(|c| c == "cpu") => "/sys/fs/cgroup/cpu",
            _ => continue,
        };
        // What lies above our own part of the tree cannot be seen, and a path may lead out of it.
        let mut path = path
            .split('/')
            .filter(|part| !matches!(*part, "" | ".." | "."))
            .collect::<Vec<_>>();
        loop {
            folders.push(format!("{mount}/{}", path.join("/")));
            if path.pop().is_none() {
                break;
            }
        }
    }
    for folder in folders {
        let v2 = machine.text(&format!("{folder}/cpu.max"));
        let v1 = machine.text(&format!("{folder}/cpu.cfs_quota_us"));
        let quota = v2
            .filter(|text| !text.starts_with("max"))
            .or(v1.filter(|text| !text.starts_with('-')));
        if let Some(quota) = quota {
            return vec![Finding::new(
                "",
                format!("{quota} in {folder}"),
                "none",
                Verdict::Advice(
                    "give the broker whole CPUs (a cpuset: --cpuset-cpus for docker, a static CPU manager for Kubernetes, \
                     AllowedCPUs= for systemd) instead of a quota"
                        .into(),
                ),
            )];
        }
    }
    vec![Finding::good("", "none")]
}
