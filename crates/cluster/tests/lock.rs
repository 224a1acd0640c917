//! Managers that are locked at rest (pki.md 10.1): the unlock key comes and goes with the setting.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

extern crate swarmpki_cluster as cluster;

use std::sync::Arc;

use cluster::command::{Command, UpdateCluster};
use cluster::lock::UnlockBox;
use cluster::settings::Settings;
use cluster::{Outcome, State, invariant};
use pki::unlock_key::UnlockKey;
use support::Cluster;

fn key(seed: u8) -> UnlockBox {
    UnlockBox(Arc::new(UnlockKey::from_bytes([seed; 32])))
}

fn update(cluster: &mut Cluster, autolock: Option<bool>, unlock: Option<UnlockBox>) -> Outcome {
    let before = cluster.state.settings.as_ref().clone();
    let settings = autolock.map(|autolock| Settings { autolock, ..before });
    let version = cluster.state.cluster_version;
    cluster.run(Command::UpdateCluster(Box::new(UpdateCluster { version, settings, unlock, ..Default::default() })))
}

#[test]
fn c170_c171_c172_c173_c174_the_key_comes_and_goes_with_the_setting() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.state.unlock, None);
    update(&mut cluster, None, Some(key(9)));
    assert_eq!(cluster.state.unlock, None, "a key alone locks nobody");
    update(&mut cluster, Some(true), None);
    assert!(!cluster.state.settings.autolock, "nobody is locked without a key");
    update(&mut cluster, Some(true), Some(key(1)));
    assert_eq!((cluster.state.settings.autolock, cluster.state.unlock.clone()), (true, Some(key(1))));
    update(&mut cluster, Some(true), None);
    assert_eq!(cluster.state.unlock, Some(key(1)), "an update of something else keeps it");
    update(&mut cluster, None, Some(key(2)));
    assert_eq!(cluster.state.unlock, Some(key(2)));
    assert_eq!(format!("{:?}", cluster.state.unlock), "Some(UnlockBox)");
    update(&mut cluster, Some(false), Some(key(3)));
    assert_eq!((cluster.state.settings.autolock, cluster.state.unlock.clone()), (false, None));
}

#[test]
fn what_was_answered_can_be_told_from_what_was_lost() {
    let mut cluster = Cluster::new();
    let version = cluster.state.cluster_version;
    let settings = Settings { autolock: true, ..Settings::default() };
    let command = |seed| {
        let update = UpdateCluster {
            version,
            settings: Some(settings.clone()),
            unlock: Some(key(seed)),
            ..UpdateCluster::default()
        };
        Command::UpdateCluster(Box::new(update))
    };
    assert_eq!(cluster.state.already(&command(1)), None);
    cluster.run(command(1));
    assert!(cluster.state.already(&command(1)).is_some());
    assert_eq!(cluster.state.already(&command(2)), None);
}

#[test]
fn a_snapshot_keeps_the_key() {
    let state = support::locked();
    let again = State::decode_snapshot(&state.encode_snapshot()).unwrap();
    assert_eq!(again.unlock, Some(key(7)));
    invariant::check(&again).unwrap();
    let sample = std::fs::read("testdata/state/format-1/locked.bin").unwrap();
    assert_eq!(State::decode_snapshot(&sample).unwrap().unlock, Some(key(7)));
}
