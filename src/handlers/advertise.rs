//! What a client is told of nodes, made in one place from the image and the listener it came through.

use crate::base::BrokerId;
use crate::metadata::Image;

/// A broker as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdvertisedBroker {
    pub node_id: i32,
    pub host: String,
    pub port: u16,
    pub rack: Option<String>,
    pub fenced: bool,
}

/// Every broker that can be reached through a listener of this name.
pub fn brokers(image: &Image, listener: &str) -> Vec<AdvertisedBroker> {
    image
        .brokers()
        .filter_map(|broker| {
            let endpoint = broker.listeners.get(listener)?;
            Some(AdvertisedBroker {
                node_id: node_id(broker.broker_id),
                host: endpoint.host.clone(),
                port: endpoint.port,
                rack: broker.rack.clone(),
                fenced: broker.fenced,
            })
        })
        .collect()
}

/// The id under which clients know a broker.
pub fn node_id(broker: BrokerId) -> i32 {
    broker.0
}

/// The broker that a client means by an id.
pub fn broker_id(node_id: i32) -> BrokerId {
    BrokerId(node_id)
}

/// The id of the broker a client should take for the controller, or -1: the quorum's leader if it can
/// be reached, else any broker, since every broker takes what is meant for the controller.
pub fn controller_id(image: &Image, listener: &str) -> i32 {
    let reachable = |id: &BrokerId| image.endpoint(*id, listener).is_some();
    image
        .controller_id()
        .filter(reachable)
        .or_else(|| image.alive_brokers().map(|b| b.broker_id).find(reachable))
        .map_or(-1, node_id)
}
