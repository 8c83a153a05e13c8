//! The report for tools. Times are nanoseconds, sizes bytes; `"schema": 1`.

use std::time::UNIX_EPOCH;

use serde_json::{Map, Value, json};

use super::{QUANTILES, Report, Sample, merged, share};
use crate::base::TopicId;
use crate::base::histogram::Recorded;
use crate::base::profile::{Gauged, Kind, ShardProfile};

/// The whole document.
pub fn render(report: &Report) -> String {
    let sample = &report.sample;
    let at = report.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let shards = sample.shards.iter();
    let parts: Vec<Value> = if report.by_shard {
        shards.clone().map(part).collect()
    } else {
        merged(&sample.shards).iter().map(part).collect()
    };
    let cores = shards.clone().map(|shard| {
        json!({
            "shard": shard.shard.0,
            "on_core_ns": shard.on_core,
            "waited_for_core_ns": shard.waited_for_core,
        })
    });
    let stalls = shards.clone().flat_map(|shard| {
        shard.stalls.iter().map(move |stall| {
            json!({
                "shard": shard.shard.0,
                "task": stall.task,
                "took_ns": stall.took,
                "ago_ns": shard.now.since(stall.at),
                "stage": stall.stage.map(|stage| stage.label()),
                "peer": stall.peer.map(|peer| peer.to_string()),
            })
        })
    });
    let page = json!({
        "schema": 1,
        "at_ms": at.as_millis() as u64,
        "since": if report.interval.is_some() { "interval" } else { "start" },
        "seconds": shards.clone().map(|shard| shard.age).max().unwrap_or(0) as f64 / 1e9,
        "by": if report.by_shard { "shard" } else { "node" },
        "parts": parts,
        "cores": cores.collect::<Vec<_>>(),
        "stalls": stalls.collect::<Vec<_>>(),
        "slowest": slowest(sample),
    });
    format!("{page}\n")
}

fn part(shard: &ShardProfile) -> Value {
    let mut kinds = Map::new();
    for &kind in Kind::ALL {
        let mut stages = Map::new();
        for &stage in kind.stages() {
            let mut of = times(&shard.stages[kind.index()][stage.index()]);
            of["share"] = json!(share(shard, kind, stage));
            stages.insert(stage.label().into(), of);
        }
        let total = times(&shard.totals[kind.index()]);
        kinds.insert(
            kind.label().into(),
            json!({ "total": total, "stages": stages }),
        );
    }
    let gauged = Gauged::ALL.iter();
    let gauged: Map<String, Value> = gauged
        .map(|gauged| {
            let unit = if gauged.is_bytes() { "bytes" } else { "ns" };
            let mut of = times(&shard.gauged[gauged.index()]);
            of["unit"] = json!(unit);
            (gauged.label().into(), of)
        })
        .collect();
    let tasks = shard.tasks.iter().map(|task| {
        json!({
            "name": task.name,
            "turns": task.turns,
            "busy_ns": task.busy,
            "longest_ns": task.longest,
            "stalls": task.stalls,
        })
    });
    json!({
        "shard": shard.shard.0,
        "requests": kinds,
        "gauged": gauged,
        "cold_bytes": shard.cold_bytes,
        "tasks": tasks.collect::<Vec<_>>(),
    })
}

fn times(recorded: &Recorded) -> Value {
    let mut of = json!({
        "count": recorded.count(),
        "sum": recorded.sum(),
        "mean": recorded.mean(),
        "max": recorded.max(),
    });
    for (q, name) in QUANTILES {
        of[name] = json!(recorded.quantile(q));
    }
    of
}

fn slowest(sample: &Sample) -> Vec<Value> {
    let shards = sample.shards.iter();
    let mut all: Vec<_> = shards
        .flat_map(|shard| shard.slowest.iter().map(move |slow| (shard, slow)))
        .collect();
    all.sort_by_key(|(_, slow)| std::cmp::Reverse(slow.about.lateness(&slow.timeline)));
    let one = all.into_iter().take(100).map(|(shard, slow)| {
        let timeline = &slow.timeline;
        let stages = slow.kind.stages().iter();
        let stages: Map<String, Value> = stages
            .map(|&stage| (stage.label().into(), json!(timeline.spent(stage))))
            .collect();
        json!({
            "shard": shard.shard.0,
            "api": slow.kind.label(),
            "total_ns": timeline.total(),
            "late_ns": slow.about.lateness(timeline),
            "ago_ns": shard.now.since(timeline.at()),
            "client_id": &*slow.client_id,
            "peer": slow.peer.to_string(),
            "topic": topic(sample, slow.about.topic),
            "partition": slow.about.partition,
            "partitions": slow.about.partitions,
            "request_bytes": slow.request_bytes,
            "response_bytes": slow.response_bytes,
            "stages_ns": stages,
        })
    });
    one.collect()
}

/// The name of a topic, or its id if it is gone.
pub(super) fn topic(sample: &Sample, id: TopicId) -> String {
    match sample.topics.get(&id) {
        Some(name) => name.to_string(),
        None => id.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_every_stage_and_the_slowest_whose_stages_add_up() {
        let page: Value = serde_json::from_str(&render(&super::super::tests::report())).unwrap();
        let produce = &page["parts"][0]["requests"]["produce"];
        assert_eq!(produce["total"]["count"], 100);
        for stage in Kind::Produce.stages() {
            assert_eq!(produce["stages"][stage.label()]["count"], 100);
        }
        let slowest = page["slowest"].as_array().unwrap();
        assert_eq!(slowest.len(), 100);
        for slow in slowest {
            let stages = slow["stages_ns"].as_object().unwrap().values();
            let sum: u64 = stages.map(|spent| spent.as_u64().unwrap()).sum();
            assert_eq!(slow["total_ns"], sum);
            assert_eq!(slow["topic"], "orders");
        }
        assert_eq!(page["stalls"][0]["task"], "sleepy");
    }
}
