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
        let key = chance.p256_key()?;
        let root = pki::issue::root(&key, chance.serial()?, now).map_err(failed)?;
        let logged = vec![root.der().to_vec()];
        let root = Root::new(root.pem().into_bytes(), root, Vec::new(), Some(Arc::new(key.pkcs8_der())));
        Self::begin(params, Arc::new(root), logged, chance, now)
    }

    /// Makes a new cluster with a root that was given: see [`crate::rotate::given`].
    ///
    /// # Errors
    /// If there is no randomness, the key is not here, or a certificate cannot be made.
    pub fn with_root(params: Params, root: Arc<Root>, chance: &Chance, now: Time) -> Result<Self, BootstrapError> {
        // What others signed is not in the log of what our keys signed.
        Self::begin(params, root, Vec::new(), chance, now)
    }

    fn begin(
        params: Params,
        root: Arc<Root>,
        logged: Vec<Vec<u8>>,
        chance: &Chance,
        now: Time,
    ) -> Result<Self, BootstrapError> {
        let root_key = root.key.as_ref().ok_or_else(|| failed("the root's key is not here"))?;
        let signer: Arc<dyn Signer> = Arc::new(PrivateKey::from_der(root_key.expose()).map_err(failed)?);
        let signing = root.signer.pem();
        let issuer = Issuer::build(&root.bundle, Some(signing.as_bytes()), Some(signer), &root.intermediates, now)
            .map_err(failed)?;

        let cluster_id = ClusterId::generate(chance.bytes()?);
        let node_id = chance.node_id()?;
        let key = chance.p256_key()?;
        let subject = Subject { cluster: cluster_id.clone(), role: Role::Manager, node: node_id.clone() };
        let csr = pki::csr::request(&key).map_err(failed)?;
        let life = params.settings.leaf_life();
        let leaf = sign(csr.as_bytes(), &subject, chance, now, life, &issuer).map_err(failed)?;
        let letter = letter(csr.into_bytes(), &leaf, &root.steps, Role::Manager, IssuerHash::of(&issuer.id()), now);

        let trust = issuer.trust().clone();
        let chain = [leaf].into_iter().chain(root.steps.iter().cloned()).collect();
        let command = cluster::Command::Bootstrap(Box::new(command::Bootstrap {
            cluster: cluster_id.clone(),
            fips: false,
            root,
            logged,
            node: node_id.clone(),
            spec: Spec::new(Role::Manager, params.availability),
            addr: params.addr,
            letter,
            worker_secret: SecretBox(Arc::new(JoinSecret::from_bytes(chance.bytes()?))),
            manager_secret: SecretBox(Arc::new(JoinSecret::from_bytes(chance.bytes()?))),
            settings: params.settings,
        }));
        Ok(Self { command, cluster_id, node_id, chain, key, trust })
    }
}

fn failed(error: impl std::fmt::Display) -> BootstrapError {
    BootstrapError::Issue(error.to_string())
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
