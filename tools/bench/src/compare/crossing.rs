//! Rows of two shards: connections that ask for partitions of their own shard, or of the other.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::floor::{self, Amount};
use super::judge::Round;
use super::measure::{Plan, SLICE_S, named, ran_of_floor};
use super::row::Row;
use super::target::Broker;
use super::wire;

/// What a row of two shards writes, unless its records are small.
pub(super) const CROSSING_BYTES: u64 = 1_500_000_000;

impl Plan {
    /// Two shards, and connections of which each asks for partitions of its own shard, or of the other.
    pub(super) fn crossing(
        &self,
        row: &'static Row,
        small: bool,
        keep: &mut dyn FnMut(Round) -> Result<()>,
    ) -> Result<()> {
        for target in self.targets_of(row) {
            let mut broker = Broker::new(
                target,
                &self.folder(target),
                &self.broker_cores,
                self.shape(row, target),
            )?;
            broker.start()?;
            let batch = if small {
                wire::batch(1, 100)
            } else {
                wire::batch(63, 1024)
            };
            for number in 0..=self.rounds_of(row) {
                for variant in row.variants {
                    self.prepare(row)?;
                    let topic = format!("crossing-{number}-{}", variant.name);
                    let seconds = if number == 0 {
                        self.seconds.min(SLICE_S)
                    } else {
                        self.seconds
                    };
                    let amount = Amount {
                        in_flight: if small { 1 } else { 4 },
                        bytes: if small { u64::MAX } else { CROSSING_BYTES },
                        time: Duration::from_secs_f64(seconds),
                        rate: None,
                    };
                    let connections = if small { 32 } else { 8 };
                    let (streams, frames) = self.placed(
                        &broker,
                        &topic,
                        connections,
                        &batch,
                        variant.name == "crosses",
                    )?;
                    let records = if small { 1 } else { 63 };
                    let round = self.observe(broker.pid(), || {
                        self.on_load_cores(|| {
                            let loads = streams
                                .into_iter()
                                .zip(&frames)
                                .map(|(s, f)| (s, f.as_slice()))
                                .collect();
                            Ok(ran_of_floor(
                                &floor::pour(loads, &amount)?,
                                "produce",
                                records,
                            ))
                        })
                    });
                    broker.check()?;
                    keep(named(
                        round?,
                        row,
                        &broker.target.name,
                        variant.name,
                        number,
                    ))?;
                    broker.remove_topics()?;
                }
            }
            broker.stop()?;
        }
        Ok(())
    }

    /// Connections to a new topic with the request that each is to send.
    fn placed(
        &self,
        broker: &Broker,
        topic: &str,
        connections: usize,
        batch: &[u8],
        crosses: bool,
    ) -> Result<(Vec<TcpStream>, Vec<Vec<u8>>)> {
        let mut client = broker.client()?;
        client.create_topic(topic, 16)?;
        client.wait_for_topic(topic, 16)?;
        let mut streams = Vec::new();
        for _ in 0..connections {
            streams.push(TcpStream::connect(broker.address())?);
        }
        let http = broker.http().context("ringspun says no address of HTTP")?;
        // Connections are there for the broker when it has given them to a shard.
        let mut tries = 0;
        let shards = loop {
            let shards = Shards::ask(http)?;
            let placed = |stream: &TcpStream| {
                Some(shards.of_connection(stream.local_addr().ok()?).is_some())
            };
            if streams.iter().all(|stream| placed(stream) == Some(true)) {
                break shards;
            }
            tries += 1;
            ensure!(tries < 200, "ringspun does not list its connections");
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut frames = Vec::new();
        for (number, stream) in streams.iter().enumerate() {
            let shard = shards
                .of_connection(stream.local_addr()?)
                .context("listed before")?;
            let owned: Vec<i32> = (0..16)
                .filter(|partition| {
                    shards
                        .of_partition(topic, *partition)
                        .is_some_and(|of| (of != shard) == crosses)
                })
                .collect();
            ensure!(
                !owned.is_empty(),
                "no partition of {topic} lies where it is needed"
            );
            frames.push(wire::produce(topic, owned[number % owned.len()], batch));
        }
        // One of each is looked at: what is refused costs less.
        for (stream, frame) in streams.iter().zip(&frames) {
            let mut stream = stream;
            stream.write_all(frame)?;
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let mut answer = vec![0; (u32::from_be_bytes(length) as usize).min(1 << 20)];
            stream.read_exact(&mut answer)?;
            let code = wire::produce_error(topic, &answer);
            ensure!(code == Some(0), "a batch is refused with error {code:?}");
        }
        Ok((streams, frames))
    }
}

/// Which shard serves which connection and owns which partition, as ringspun says it.
#[derive(Debug, Default)]
struct Shards {
    connections: BTreeMap<SocketAddr, u64>,
    partitions: BTreeMap<(String, i32), u64>,
}

impl Shards {
    fn ask(http: SocketAddr) -> Result<Shards> {
        let mut stream = TcpStream::connect(http)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let request = format!("GET /shards HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
        ensure!(
            head.starts_with("HTTP/1.1 200"),
            "GET /shards: {}",
            head.lines().next().unwrap_or("")
        );
        Shards::parse(&serde_json::from_str(body).context("GET /shards is no JSON")?)
    }

    fn parse(page: &Value) -> Result<Shards> {
        let mut shards = Shards::default();
        for shard in page["shards"].as_array().context("no shards")? {
            let number = shard["shard"]
                .as_u64()
                .context("a shard without its number")?;
            for connection in shard["connections"].as_array().into_iter().flatten() {
                if let Some(peer) = connection["peer"]
                    .as_str()
                    .and_then(|peer| peer.parse().ok())
                {
                    shards.connections.insert(peer, number);
                }
            }
            for partition in shard["partitions"].as_array().into_iter().flatten() {
                let topic = partition["topic"]
                    .as_str()
                    .context("a partition without its topic")?;
                let index = partition["partition"]
                    .as_i64()
                    .context("a partition without its number")?;
                shards
                    .partitions
                    .insert((topic.to_owned(), i32::try_from(index)?), number);
            }
        }
        Ok(shards)
    }

    fn of_connection(&self, ours: SocketAddr) -> Option<u64> {
        self.connections.get(&ours).copied()
    }

    fn of_partition(&self, topic: &str, partition: i32) -> Option<u64> {
        self.partitions.get(&(topic.to_owned(), partition)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_shards_is_read() {
        let page = serde_json::json!({ "shards": [
            { "shard": 0, "connections": [{ "peer": "127.0.0.1:4000" }], "partitions": [] },
            { "shard": 1, "connections": [], "partitions": [{ "topic": "t", "partition": 3 }] },
        ]});
        let shards = Shards::parse(&page).expect("well formed");
        assert_eq!(shards.of_connection(([127, 0, 0, 1], 4000).into()), Some(0));
        assert_eq!(shards.of_partition("t", 3), Some(1));
        assert_eq!(shards.of_partition("t", 0), None);
        assert!(Shards::parse(&serde_json::json!({})).is_err());
    }
}
