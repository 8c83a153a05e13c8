//! Network cards: on which CPUs packets come in and go out.

use super::{Asked, Change, Finding, Machine, Scope, Tuner, Verdict};
use crate::base::cpu_list;

/// Flows that are remembered with the CPU their reader runs on.
const FLOWS: u64 = 32_768;

const FLOW_TABLE: &str = "/proc/sys/net/core/rps_sock_flow_entries";

pub const TUNERS: &[Tuner] = &[
    Tuner {
        name: "nic-queues",
        reason: "with a queue for each shard's CPU the card itself spreads connections, and no CPU works for another",
        measured: None,
        scope: Scope::Machine,
        look: queues,
    },
    Tuner {
        name: "rps",
        reason: "a card with fewer queues than shards brings all packets in on few CPUs; the kernel can pass them on to the CPU whose shard reads the connection",
        measured: None,
        scope: Scope::Machine,
        look: receive_steering,
    },
    Tuner {
        name: "xps",
        reason: "a shard that sends through a queue of its own contends with no other for the queue's lock",
        measured: None,
        scope: Scope::Machine,
        look: transmit_steering,
    },
];

/// Cards with a device behind them that are up.
pub(super) fn cards(machine: &Machine) -> Vec<String> {
    let mut cards = machine.names("/sys/class/net");
    cards.retain(|card| {
        let state = machine.text(&format!("/sys/class/net/{card}/operstate"));
        machine.exists(&format!("/sys/class/net/{card}/device")) && state.as_deref() != Some("down")
    });
    cards
}

fn queues_of(machine: &Machine, card: &str, kind: &str) -> Vec<String> {
    let folder = format!("/sys/class/net/{card}/queues");
    let mut queues = machine.names(&folder);
    queues.retain(|queue| queue.starts_with(kind));
    queues
        .into_iter()
        .map(|queue| format!("{folder}/{queue}"))
        .collect()
}

/// Looks at each card, unless none matters.
fn each_card(machine: &Machine, asked: &Asked, look: impl Fn(&str) -> Finding) -> Vec<Finding> {
    if asked.loopback_only {
        return Finding::not_here("every listener is on the loopback");
    }
    let cards = cards(machine);
    if cards.is_empty() {
        return Finding::not_here("there is no network card");
    }
    cards.iter().map(|card| look(card)).collect()
}

fn queues(machine: &Machine, asked: &Asked) -> Vec<Finding> {
    let shards = asked.shard_cpus.len();
    each_card(machine, asked, |card| {
        let receive = queues_of(machine, card, "rx-").len();
        let transmit = queues_of(machine, card, "tx-").len();
        let found = format!("{receive} to receive, {transmit} to send");
        if receive >= shards && transmit >= shards {
            return Finding::good(card, found);
        }
        let whose = match &machine.hypervisor {
            Some(_) => "the host may have to give the guest more",
            None => "the card may not have so many",
        };
        Finding::new(
            card,
            found,
            format!("{shards} of each"),
            Verdict::Advice(format!(
                "`ethtool -l {card}` shows how many it can have and `ethtool -L {card} combined {shards}` sets them; {whose}"
            )),
        )
    })
}

fn receive_steering(machine: &Machine, asked: &Asked) -> Vec<Finding> {
    each_card(machine, asked, |card| {
        let queues = queues_of(machine, card, "rx-");
        let enough = queues.len() >= asked.shard_cpus.len();
        let cpus = match enough {
            true => &[][..],
            false => &asked.shard_cpus,
        };
        let flows = match enough {
            true => 0,
            false => FLOWS / (queues.len() as u64).max(1),
        };
        let mut changes = Vec::new();
        let mut found = Vec::new();
        for queue in &queues {
            let path = format!("{queue}/rps_cpus");
            let set = machine
                .text(&path)
                .and_then(|mask| cpu_list::parse_mask(&mask));
            let Some(set) = set else { continue };
            if set != cpus {
                let to = cpu_list::format_mask(cpus);
                changes.push(Change { path, to });
            }
            found.push(cpu_list::format(&set));
            let path = format!("{queue}/rps_flow_cnt");
            if !enough && machine.number(&path).is_some_and(|set| set < flows) {
                let to = flows.to_string();
                changes.push(Change { path, to });
            }
        }
        if !enough && machine.number(FLOW_TABLE).is_some_and(|set| set < FLOWS) {
            changes.push(Change {
                path: FLOW_TABLE.into(),
                to: FLOWS.to_string(),
            });
        }
        found.sort_unstable();
        found.dedup();
        let found = match found.iter().all(String::is_empty) {
            true => "off".to_string(),
            false => format!("to CPUs {}", found.join(" / ")),
        };
        let wanted = match enough {
            true => "off: each shard's CPU has its queue".to_string(),
            false => format!(
                "to CPUs {}, where the reader runs ({FLOWS} flows)",
                asked.shard_list()
            ),
        };
        match changes.is_empty() {
            true => Finding::good(card, found),
            false => Finding::new(card, found, wanted, Verdict::Change(changes)),
        }
    })
}

fn transmit_steering(machine: &Machine, asked: &Asked) -> Vec<Finding> {
    each_card(machine, asked, |card| {
        let queues = queues_of(machine, card, "tx-");
        let why = |why: &str| Finding::new(card, "", "", Verdict::NotHere(why.into()));
        if queues.len() < 2 {
            return why("one queue sends for all CPUs");
        }
        let sets: Option<Vec<Vec<usize>>> = queues
            .iter()
            .map(|queue| cpu_list::parse_mask(&machine.text(&format!("{queue}/xps_cpus"))?))
            .collect();
        let Some(sets) = sets else {
            return why("its driver does not let CPUs choose their queue");
        };
        let has_queue = |cpu: &usize| sets.iter().any(|set| set.contains(cpu));
        if asked.shard_cpus.iter().all(has_queue) {
            return Finding::good(card, "each shard's CPU has its queue");
        }
        let changes = queues.iter().enumerate().map(|(place, queue)| {
            let cpus = machine
                .cpus
                .iter()
                .filter(|cpu| *cpu % queues.len() == place);
            Change {
                path: format!("{queue}/xps_cpus"),
                to: cpu_list::format_mask(&cpus.copied().collect::<Vec<_>>()),
            }
        });
        Finding::new(
            card,
            "some shards' CPUs have no queue",
            "one queue for each CPU",
            Verdict::Change(changes.collect()),
        )
    })
}
