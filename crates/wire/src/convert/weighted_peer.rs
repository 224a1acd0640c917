//! The manager list of a session. It must never be empty: an engine would forget all managers (wire.md 6.3).

use pki::identity::NodeId;

use crate::limits::MANAGER_WEIGHT;
use crate::proto::{Peer, WeightedPeer};

/// A manager as sessions list it. `address` is the advertised `host:port`.
#[must_use]
pub fn manager(node: &NodeId, address: &str) -> WeightedPeer {
    WeightedPeer { peer: Some(Peer { node_id: node.to_string(), addr: address.to_owned() }), weight: MANAGER_WEIGHT }
}

/// The managers that a session lists: address and weight. Entries without an address are left out, as engines do.
#[must_use]
pub fn listed(peers: &[WeightedPeer]) -> Vec<(Peer, i64)> {
    let with_address = |one: &WeightedPeer| {
        let peer = one.peer.clone().filter(|peer| !peer.addr.is_empty())?;
        Some((peer, one.weight))
    };
    peers.iter().filter_map(with_address).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn entries_without_address_are_left_out() {
        let node: NodeId = "n1".parse().unwrap();
        let good = manager(&node, "10.0.0.1:2377");
        let peers = [good.clone(), manager(&node, ""), WeightedPeer { peer: None, weight: 10 }];
        assert_eq!(listed(&peers), vec![(good.peer.unwrap(), 10)]);
    }
}
