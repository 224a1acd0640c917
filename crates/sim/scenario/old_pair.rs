//! A power cut takes back a renewal: the old pair is on disk again, and the cluster has seen the new one in use. The node is
//! let in to renew, and nothing else, and is itself again without an operator.

use std::sync::Arc;

use cluster::authorize::{Quarantine, Standing};
use swarmpki_sim::handshake::judge_client;
use swarmpki_sim::packet::Identity;

use super::{HOUR, MINUTE, run, until_renewed, with_node};

#[test]
fn an_old_pair_put_back_comes_back_by_itself() {
    let (mut world, node, id) = with_node(0x01d_9a12);
    let old = world.machines[node].disk.clone();
    until_renewed(&mut world, node);
    // A restart: the session is made with the new leaf, so the old one is replaced.
    world.crash(node);
    world.boot(node);
    run(&mut world, MINUTE);
    assert_eq!(world.manager.state().node(&id).unwrap().previous.len(), 1);

    world.crash(node);
    world.machines[node].disk = old;
    let (chain, key, _) = world.machines[node].disk.pair.clone().unwrap();
    let trust = world.machines[node].disk.trust.clone().unwrap();
    let identity = Identity { chain, key, trust };
    let own = world.machines[0].live.clone().unwrap();
    let leaf = judge_client(&world.manager.known, &world.manager.state(), &own.trust, &identity, world.now).unwrap();
    let standing = world.manager.state().standing(&leaf, world.now);
    assert_eq!(standing, Standing::Quarantined { cut: 0, reason: Quarantine::Replaced });
    world.boot(node);
    run(&mut world, MINUTE);
    assert_eq!(world.machines[node].id().as_ref(), Some(&id));
    assert!(world.manager.sessions.is_ready(&id));
    let state = world.manager.state();
    let current = state.node(&id).unwrap().current.clone().unwrap();
    assert_eq!(current.serial, world.machines[node].live.as_ref().unwrap().chain[0].serial());
    assert!(!Arc::ptr_eq(&identity.key, &world.machines[node].live.as_ref().unwrap().key));
    run(&mut world, HOUR);
    assert!(world.manager.sessions.is_ready(&id));
}
