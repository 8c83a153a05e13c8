//! CPUs, what interrupts them, their clock and their memory.

use super::{Asked, Change, Finding, Machine, Scope, Tuner, Verdict};
use crate::base::cpu_list;

/// Waking up from an idle state may take this long, in microseconds.
const IDLE_LATENCY_US: u64 = 10;

const CPUS: &str = "/sys/devices/system/cpu";

pub const TUNERS: &[Tuner] = &[
    Tuner {
        name: "cpu-governor",
        reason: "a governor that saves power lowers the clock of a shard that has little to do, and the next burst of requests finds a slow CPU",
        measured: None,
        scope: Scope::Machine,
        look: governor,
    },
    Tuner {
        name: "cpu-idle",
        reason: "an idle shard sleeps in the kernel; leaving a deep idle state takes tens to hundreds of microseconds, which every request that finds the shard idle waits",
        measured: Some(
            "waking a halted virtual CPU makes the round trip of a message between idle shards 60 to 95 us (2-core EPYC guest, kernel 6.18)",
        ),
        scope: Scope::Machine,
        look: idle,
    },
    Tuner {
        name: "isolated-cpus",
        reason: "other threads that the kernel places on a shard's CPU take its turns: a shard cannot move away",
        measured: None,
        scope: Scope::Machine,
        look: isolated,
    },
    Tuner {
        name: "irq-affinity",
        reason: "an interrupt is served by stopping what runs on its CPU; where CPUs are free of shards, interrupts belong there",
        measured: None,
        scope: Scope::Machine,
        look: interrupts,
    },
    Tuner {
        name: "clocksource",
        reason: "the clock is read several times for each request; only some clocks are read without a system call",
        measured: None,
        scope: Scope::Machine,
        look: clock,
    },
    Tuner {
        name: "numa",
        reason: "memory, card and disk of another node are reached over the interconnect, and automatic balancing stops threads to see which memory they touch, though a pinned shard never moves",
        measured: None,
        scope: Scope::Machine,
        look: numa,
    },
];

fn governor(machine: &Machine, asked: &Asked) -> Vec<Finding> {
    let mut changes = Vec::new();
    let mut found = Vec::new();
    for cpu in &asked.shard_cpus {
        let path = format!("{CPUS}/cpu{cpu}/cpufreq/scaling_governor");
        let Some(governor) = machine.text(&path) else {
            continue;
        };
        if governor != "performance" {
            let to = "performance".to_string();
            changes.push(Change { path, to });
        }
        found.push(governor);
    }
    found.sort_unstable();
    found.dedup();
    let found = found.join(", ");
    match (&machine.hypervisor, changes.is_empty()) {
        (Some(hypervisor), _) if found.is_empty() => Finding::not_here(format!(
            "in a virtual machine ({hypervisor}) the host sets the clock"
        )),
        (None, _) if found.is_empty() => {
            Finding::not_here("the kernel does not govern the clock of these CPUs")
        }
        (_, true) => vec![Finding::good("", found)],
        (_, false) => vec![Finding::new(
            "",
            found,
            "performance",
            Verdict::Change(changes),
        )],
    }
}

fn idle(machine: &Machine, asked: &Asked) -> Vec<Finding> {
    if let Some(hypervisor) = &machine.hypervisor {
        return Finding::not_here(format!(
            "in a virtual machine ({hypervisor}) a CPU that halts is the host's to wake: ask there for CPUs of its own, and for halt polling"
        ));
    }
    let mut deep = Vec::new();
    let mut changes = Vec::new();
    let mut states = 0;
    for cpu in &asked.shard_cpus {
        let folder = format!("{CPUS}/cpu{cpu}/cpuidle");
        for state in machine.names(&folder) {
            let at = format!("{folder}/{state}");
            let Some(latency) = machine.number(&format!("{at}/latency")) else {
                continue;
            };
            states += 1;
            let path = format!("{at}/disable");
            if latency > IDLE_LATENCY_US && machine.number(&path) == Some(0) {
                let name = machine.text(&format!("{at}/name")).unwrap_or(state);
                let name = format!("{name} ({latency} us)");
                if !deep.contains(&name) {
                    deep.push(name);
                }
                let to = "1".to_string();
                changes.push(Change { path, to });
            }
        }
    }
    let wanted = format!("none above {IDLE_LATENCY_US} us");
    match (states, changes.is_empty()) {
        (0, _) => Finding::not_here("the kernel manages no idle states of these CPUs"),
        (_, true) => vec![Finding::good("", wanted)],
        (_, false) => vec![Finding::new(
            "",
            deep.join(", "),
            wanted,
            Verdict::Change(changes),
        )],
    }
}

fn isolated(machine: &Machine, asked: &Asked) -> Vec<Finding> {
    let isolated = machine
        .text(&format!("{CPUS}/isolated"))
        .and_then(|list| cpu_list::parse(&list))
        .unwrap_or_default();
    let beside: Vec<usize> = isolated
        .iter()
        .filter(|cpu| !asked.shard_cpus.contains(cpu))
        .copied()
        .collect();
    let shards = asked.shard_list();
    if !beside.is_empty() {
        return vec![Finding::new(
            "",
            format!(
                "{} isolated, shards on {shards}",
                cpu_list::format(&isolated)
            ),
            "shards on all that are isolated",
            Verdict::Advice(format!(
                "nothing runs on CPUs {}: name them in ringspun.cores, and let the broker use them (CPUAffinity= of systemd, taskset)",
                cpu_list::format(&beside)
            )),
        )];
    }
    if asked.every_cpu {
        return Finding::not_here(
            "every CPU runs a shard; with fewer in ringspun.cores the others could take interrupts and all other work",
        );
    }
    let bare = asked.shard_cpus.iter().any(|cpu| !isolated.contains(cpu));
    if !bare {
        return vec![Finding::good("", cpu_list::format(&isolated))];
    }
    vec![Finding::new(
        "",
        match isolated.is_empty() {
            true => "none isolated".to_string(),
            false => format!("{} isolated", cpu_list::format(&isolated)),
        },
        shards.clone(),
        Verdict::Advice(format!(
            "boot with isolcpus=managed_irq,domain,{shards} nohz_full={shards} rcu_nocbs={shards}, and let the broker use them (CPUAffinity={shards} of systemd, taskset)"
        )),
    )]
}

/// An interrupt of a device, from `/proc/interrupts`.
struct Interrupt {
    number: u32,
    device: String,
}

/// Interrupts of devices that have come at least once.
fn interrupts_of(machine: &Machine) -> Vec<Interrupt> {
    let table = machine.text("/proc/interrupts").unwrap_or_default();
    let mut lines = table.lines();
    let cpus = lines
        .next()
        .map_or(0, |line| line.split_whitespace().count());
    lines
        .filter(|line| line.contains("MSI"))
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let number = fields.next()?.strip_suffix(':')?.parse().ok()?;
            let came = fields
                .by_ref()
                .take(cpus)
                .filter(|count| *count != "0")
                .count();
            let device = fields.next_back()?.to_string();
            (came > 0).then_some(Interrupt { number, device })
        })
        .collect()
}

/// Whether the kernel alone decides where these go.
fn is_managed(device: &str) -> bool {
    device.starts_with("nvme") || (device.starts_with("virtio") && device.contains("-req"))
}

fn interrupts(machine: &Machine, asked: &Asked) -> Vec<Finding> {
    let others = asked.other_cpus(machine);
    if others.is_empty() {
        return Finding::not_here("every CPU runs a shard, so some of them serve the interrupts");
    }
    let list = cpu_list::format(&others);
    let mut changes = Vec::new();
    let mut devices = Vec::new();
    let mut seen = 0;
    for Interrupt { number, device } in interrupts_of(machine) {
        if is_managed(&device) {
            continue;
        }
        let path = format!("/proc/irq/{number}/smp_affinity_list");
        let Some(cpus) = machine.text(&path).and_then(|list| cpu_list::parse(&list)) else {
            continue;
        };
        seen += 1;
        if cpus.iter().any(|cpu| asked.shard_cpus.contains(cpu)) {
            changes.push(Change {
                path,
                to: list.clone(),
            });
            devices.push(device);
        }
    }
    let mut found = match (seen, changes.is_empty()) {
        (0, _) => return Finding::not_here("no interrupt here can be moved"),
        (_, true) => vec![Finding::good("", format!("on CPUs {list}"))],
        (_, false) => {
            let wanted = format!("on CPUs {list}");
            let found = format!("{} may come on shards' CPUs", devices.join(", "));
            vec![Finding::new("", found, wanted, Verdict::Change(changes))]
        }
    };
    if machine.runs("irqbalance") {
        found.push(Finding::new(
            "irqbalance",
            "runs",
            "",
            Verdict::Advice(format!(
                "it moves interrupts back: stop it, or set IRQBALANCE_BANNED_CPULIST={}",
                asked.shard_list()
            )),
        ));
    }
    found
}

/// Those that are read without a system call, the best first.
const GOOD_CLOCKS: &[&str] = &[
    "tsc",
    "arch_sys_counter",
    "kvm-clock",
    "hyperv_clocksource_tsc_page",
    "stp",
];

fn clock(machine: &Machine, _: &Asked) -> Vec<Finding> {
    let folder = "/sys/devices/system/clocksource/clocksource0";
    let path = format!("{folder}/current_clocksource");
    let Some(current) = machine.text(&path) else {
        return Finding::unknown("the kernel does not name its clock");
    };
    if GOOD_CLOCKS.contains(&current.as_str()) {
        return vec![Finding::good("", current)];
    }
    let there = machine.choices(&format!("{folder}/available_clocksource"));
    let better = GOOD_CLOCKS
        .iter()
        .find(|clock| there.iter().any(|there| there == *clock));
    let verdict = match better {
        Some(clock) => Verdict::write(path, *clock),
        None => Verdict::Advice(
            "the kernel distrusts the CPU's counter (`dmesg | grep -i tsc` says why): update the firmware, or boot with tsc=reliable if it is known to be good"
                .into(),
        ),
    };
    vec![Finding::new(
        "",
        current,
        better.copied().unwrap_or("tsc"),
        verdict,
    )]
}

fn numa(machine: &Machine, asked: &Asked) -> Vec<Finding> {
    let nodes = machine
        .text("/sys/devices/system/node/online")
        .and_then(|list| cpu_list::parse(&list))
        .unwrap_or_default();
    if nodes.len() < 2 {
        return Finding::not_here("the machine has one node");
    }
    let mut of_shards = Vec::new();
    for node in &nodes {
        let cpus = machine
            .text(&format!("/sys/devices/system/node/node{node}/cpulist"))
            .and_then(|list| cpu_list::parse(&list))
            .unwrap_or_default();
        if cpus.iter().any(|cpu| asked.shard_cpus.contains(cpu)) {
            of_shards.push(*node);
        }
    }
    let path = "/proc/sys/kernel/numa_balancing";
    let mut found = vec![match machine.text(path) {
        Some(value) if value != "0" => {
            Finding::new("balancing", value, "0", Verdict::write(path, "0"))
        }
        _ => Finding::good("balancing", "off"),
    }];
    let shards = cpu_list::format(&of_shards);
    let mut devices = Vec::new();
    if !asked.loopback_only {
        let cards = super::network::cards(machine).into_iter();
        devices.extend(cards.map(|card| (format!("/sys/class/net/{card}/device/numa_node"), card)));
    }
    let disks = super::disks::disks(machine, asked).into_iter();
    devices.extend(disks.map(|disk| (format!("/sys/block/{disk}/device/numa_node"), disk)));
    for (path, device) in devices {
        // -1 is a device that belongs to no node.
        let Some(node) = machine
            .text(&path)
            .and_then(|node| node.parse::<usize>().ok())
        else {
            continue;
        };
        found.push(if of_shards == [node] {
            Finding::good(device, format!("node {node}, as the shards"))
        } else {
            Finding::new(
                device,
                format!("node {node}, shards on nodes {shards}"),
                "one node",
                Verdict::Advice(format!(
                    "run the shards on CPUs of node {node} with ringspun.cores, if they suffice"
                )),
            )
        });
    }
    found
}
