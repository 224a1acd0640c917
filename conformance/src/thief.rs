//! A thief with the real root key: what it signs chains to the root, and was never issued.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pki::bundle::Issuer;
use pki::identity::{ClusterId, NodeId, Role, Subject};
use pki::key::PrivateKey;
use pki::serial::Serial;
use pki::time::Time;
use replica::{Handle, Replica};

use crate::caller::Pair;
use crate::cluster::Cluster;

fn now() -> Time {
    SystemTime::now().into()
}

/// Who has read the root key off a manager's disk.
pub struct Thief {
    issuer: Issuer,
    cluster: ClusterId,
}

impl Thief {
    /// Copies the disk of a manager that is stopped, and opens the copy with the data key of the key file.
    ///
    /// # Panics
    /// If that fails.
    pub async fn visit(cluster: &mut Cluster) -> Self {
        assert!(cluster.manager.stop().success());
        let state = cluster.manager.folder().join("state");
        let loot = tempfile::tempdir().unwrap();
        copy(&state.join("raft"), &loot.path().join("raft"));
        let dek = swarmpki::keystore::Keystore::new(&state).data_keys().unwrap().current.unwrap();
        let config = replica::Config {
            dir: loot.path().join("raft"),
            dek,
            clock: Arc::new(now),
            carrier: Arc::new(replica::carrier::Alone),
            limits: replica::Limits::default(),
        };
        let replica = Replica::open(config).await.unwrap();
        let stolen = replica.read().await.unwrap();
        let root = stolen.roots.signing().unwrap();
        let key = PrivateKey::from_der(root.key().unwrap().expose()).unwrap();
        let signer = root.signer.pem();
        let issuer =
            Issuer::build(&root.bundle, Some(signer.as_bytes()), Some(Arc::new(key)), &root.intermediates, now());
        let thief = Self { issuer: issuer.unwrap(), cluster: stolen.cluster_id().unwrap().clone() };
        replica.shutdown().await;
        cluster.manager.restart();
        cluster.manager_is_back();
        thief
    }

    /// A perfect leaf, but for its not being registered.
    ///
    /// # Panics
    /// If it cannot be signed.
    pub fn leaf(&self, role: Role, node: &NodeId, serial: Serial, key: &str) -> Pair {
        self.leaf_of(&self.cluster, role, node, serial, key)
    }

    /// The same of any cluster.
    ///
    /// # Panics
    /// If it cannot be signed.
    pub fn leaf_of(&self, cluster: &ClusterId, role: Role, node: &NodeId, serial: Serial, key: &str) -> Pair {
        let subject = Subject { cluster: cluster.clone(), role, node: node.clone() };
        let leaf = pki::issue::Leaf { subject: &subject, serial, now: now(), expiry: Duration::from_secs(7200) };
        let own = PrivateKey::from_pem(key.as_bytes(), None).unwrap();
        let certificate = pki::issue::leaf_for_signer(&own, &leaf, &self.issuer).unwrap();
        Pair { chain: self.issuer.chain_pem(&certificate), key: key.to_owned() }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
