//! `/shards`: which connections each shard serves and which partitions it owns, as JSON.
//!
//! ```text
//! {"shards": [{"shard": 0,
//!              "connections": [{"peer": "127.0.0.1:40000", "listener": "PLAINTEXT"}],
//!              "partitions": [{"topic": "orders", "partition": 3}]}]}
//! ```
//! Whoever wants no request to cross shards, or every one, finds here what to connect. The shards are asked
//! at each request, by one message each; the page is as long as there are connections and partitions.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::broker::messages::Holdings;

/// How long a request waits for the shards.
const WAIT: Duration = Duration::from_secs(2);

/// Where the page comes from: whoever holds the other end answers each sender once. One that is dropped,
/// or late, makes the page unavailable.
pub type ShardSource = mpsc::Sender<oneshot::Sender<Vec<Shard>>>;

/// What is on one shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shard {
    pub shard: u16,
    pub connections: Vec<Connection>,
    pub partitions: Vec<Partition>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Connection {
    pub peer: SocketAddr,
    pub listener: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Partition {
    pub topic: Arc<str>,
    pub partition: i32,
}

impl Shard {
    /// In an order that does not change by itself.
    pub fn of(held: Holdings) -> Self {
        let partitions = held.partitions.into_iter();
        let mut partitions: Vec<Partition> = partitions
            .map(|(topic, partition)| Partition {
                topic,
                partition: partition.0,
            })
            .collect();
        partitions.sort();
        let connections = held.connections.into_iter();
        Self {
            shard: held.shard.0,
            connections: connections
                .map(|(peer, listener)| Connection { peer, listener })
                .collect(),
            partitions,
        }
    }
}

/// The whole page.
#[derive(Serialize)]
struct Page {
    shards: Vec<Shard>,
}

/// `GET /shards`.
pub fn routes(source: ShardSource) -> Router {
    Router::new().route("/shards", get(page)).with_state(source)
}

async fn page(State(source): State<ShardSource>) -> impl IntoResponse {
    let (sender, receiver) = oneshot::channel();
    let asked = async {
        source.send(sender).await.ok()?;
        receiver.await.ok()
    };
    match tokio::time::timeout(WAIT, asked).await {
        Ok(Some(shards)) => match serde_json::to_string(&Page { shards }) {
            Ok(page) => ([(header::CONTENT_TYPE, "application/json")], page).into_response(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        },
        _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{PartitionIndex, ShardId};

    #[test]
    fn the_page_is_in_order_and_says_who_is_where() {
        let topic: Arc<str> = "t".into();
        let shard = Shard::of(Holdings {
            shard: ShardId(1),
            connections: vec![(([127, 0, 0, 1], 4000).into(), "PLAINTEXT".into())],
            partitions: vec![
                (topic.clone(), PartitionIndex(10)),
                (topic, PartitionIndex(2)),
            ],
        });
        let page = serde_json::to_string(&Page {
            shards: vec![shard],
        })
        .unwrap();
        assert_eq!(
            page,
            "{\"shards\":[{\"shard\":1,\
             \"connections\":[{\"peer\":\"127.0.0.1:4000\",\"listener\":\"PLAINTEXT\"}],\
             \"partitions\":[{\"topic\":\"t\",\"partition\":2},{\"topic\":\"t\",\"partition\":10}]}]}"
        );
    }
}
