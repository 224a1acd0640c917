//! A cluster's beginning: a root, an id, the first manager with its leaf, two tokens, and the first entry of the log.

use std::sync::Arc;
use std::time::Duration;

use cluster::command::{self, SecretBox};
use cluster::node::{Availability, IssuerHash, Leaf, Letter, Spec};
use cluster::roots::Root;
use cluster::settings::Settings;
use pki::bundle::{Issuer, TrustBundle};
use pki::certificate::Certificate;
use pki::identity::{ClusterId, NodeId, Role, Subject};
use pki::join_token::JoinSecret;
use pki::key::{PrivateKey, Signer};
use pki::time::Time;

use crate::chance::{Chance, NoChance};

/// Everything a machine needs to be the first manager.
pub struct Bootstrap {
    /// The first entry of the log.
    pub command: cluster::Command,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The first manager.
    pub node_id: NodeId,
    /// Its leaf, and what is sent with it.
    pub chain: Vec<Certificate>,
    /// Its key.
    pub key: PrivateKey,
    /// The trust bundle.
    pub trust: TrustBundle,
}

/// What a cluster begins with.
pub struct Params {
    /// The advertised `host:port` of the first manager.
    pub addr: String,
    /// Whether the first manager takes work.
    pub availability: Availability,
    /// The settings, already checked.
    pub settings: Settings,
}

/// Why a cluster cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// No random numbers.
    #[error(transparent)]
    Chance(#[from] NoChance),
    /// The new root or leaf could not be made.
    #[error("the first certificates could not be made: {0}")]
    Issue(String),
}

impl Bootstrap {
    /// Makes a new cluster with a new root.
    ///
    /// # Errors
    /// If there is no randomness, or a certificate cannot be made.
    pub fn prepare(params: Params, chance: &Chance, now: Time) -> Result<Self, BootstrapError> {
        let failed = |error: &dyn std::fmt::Display| BootstrapError::Issue(error.to_string());
        let root_key = chance.p256_key()?;
        let root = pki::issue::root(&root_key, chance.serial()?, now).map_err(|error| failed(&error))?;
        let bundle = root.pem();
        let key_bytes = Arc::new(root_key.pkcs8_der());
        let signer: Arc<dyn Signer> = Arc::new(root_key);
        let issuer = Issuer::build(bundle.as_bytes(), Some(bundle.as_bytes()), Some(signer), b"", now)
            .map_err(|error| failed(&error))?;

        let cluster_id = ClusterId::generate(chance.bytes()?);
        let node_id = chance.node_id()?;
        let key = chance.p256_key()?;
        let subject = Subject { cluster: cluster_id.clone(), role: Role::Manager, node: node_id.clone() };
        let csr = pki::csr::request(&key).map_err(|error| failed(&error))?;
        let life = params.settings.leaf_life();
        let leaf = sign(csr.as_bytes(), &subject, chance, now, life, &issuer).map_err(|error| failed(&error))?;
        let letter = letter(csr.into_bytes(), &leaf, &[], Role::Manager, IssuerHash::of(&issuer.id()), now);

        let trust = issuer.trust().clone();
        let command = cluster::Command::Bootstrap(Box::new(command::Bootstrap {
            cluster: cluster_id.clone(),
            fips: false,
            root: Arc::new(Root::new(bundle.into_bytes(), root.clone(), Vec::new(), Some(key_bytes))),
            logged: vec![root.der().to_vec()],
            node: node_id.clone(),
            spec: Spec::new(Role::Manager, params.availability),
            addr: params.addr,
            letter,
            worker_secret: SecretBox(Arc::new(JoinSecret::from_bytes(chance.bytes()?))),
            manager_secret: SecretBox(Arc::new(JoinSecret::from_bytes(chance.bytes()?))),
            settings: params.settings,
        }));
        Ok(Self { command, cluster_id, node_id, chain: vec![leaf], key, trust })
    }
}

fn sign(
    csr: &[u8],
    subject: &Subject,
    chance: &Chance,
    now: Time,
    expiry: Duration,
    issuer: &Issuer,
) -> Result<Certificate, String> {
    let linted = pki::csr::Csr::parse(csr).and_then(pki::csr::Csr::verify).map_err(|error| error.to_string())?;
    let serial = chance.serial().map_err(|error| error.to_string())?;
    let leaf = pki::issue::Leaf { subject, serial, now, expiry };
    pki::issue::leaf(&linted, &leaf, issuer).map_err(|error| error.to_string())
}

/// What is kept of an issued leaf until it is used.
pub(crate) fn letter(
    csr: Vec<u8>,
    leaf: &Certificate,
    ladder: &[Certificate],
    role: Role,
    issuer: IssuerHash,
    now: Time,
) -> Letter {
    Letter {
        csr,
        leaf: Leaf {
            serial: leaf.serial(),
            spki: leaf.spki_hash(),
            issuer,
            role,
            not_before: leaf.not_before(),
            not_after: leaf.not_after(),
        },
        certificate: leaf.der().to_vec(),
        ladder: ladder.iter().map(|step| step.der().to_vec()).collect(),
        issued: now,
    }
}
