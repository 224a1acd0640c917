#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! openraft's storage suite, and the sample of format 1.

use super::log::Log;
use super::machine::{Machine, Progress};
use super::*;
use crate::disk::Local;
use crate::seal::{DataKey, Scope};
use crate::store::Store;
use cluster::State;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use std::path::Path;
use tempfile::TempDir;
use tokio::sync::watch;

fn key() -> DataKey {
    DataKey::from_slice(&[1; 32]).unwrap()
}

fn open(store: Store) -> (Log, Machine) {
    let states = Arc::new(watch::Sender::new(Arc::new(State::empty())));
    (Log::open(store.clone()).unwrap(), Machine::open(store, states, Arc::new(Progress::default())).unwrap())
}

struct Fresh;

impl StoreBuilder<Types, Log, Machine, TempDir> for Fresh {
    async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let scope = Scope { cluster: "cluster".into(), epoch: 0 };
        let store = Store::create(&Local, dir.path(), scope, &key()).unwrap().finish().unwrap();
        let (log, machine) = open(store);
        Ok((dir, log, machine))
    }
}

#[test]
fn the_storage_suite_of_openraft_passes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(Suite::<Types, Log, Machine, Fresh, TempDir>::test_all(Fresh)).unwrap();
}
