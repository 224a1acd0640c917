//! A cluster's beginning: a root, an id, the first manager with its leaf, two tokens, and the first entry of the log.

use std::sync::Arc;
use std::time::Duration;

use cluster::State;
use cluster::command::{self, SecretBox};
use cluster::lock::UnlockBox;
use cluster::node::{Availability, IssuerHash, Leaf, Letter, Spec};
use cluster::roots::{Custody, Root};
use cluster::settings::{ExternalCa, Settings};
use pki::bundle::{Issuer, TrustBundle};
use pki::certificate::Certificate;
use pki::identity::{ClusterId, NodeId, Role, Subject};
use pki::join_token::JoinSecret;
use pki::key::PrivateKey;
use pki::time::Time;
use pki::unlock_key::UnlockKey;

use wire::status::{CaUpdateRefusal, Refusal, WhichCa};

use crate::chance::{Chance, NoChance};
use crate::keys::{Keys, Missing};
use crate::outside::{self, urls};
use crate::rotate::{self, Reach, TokenWish, Wish};
use crate::shared::Clock;
use crate::view::ControlError;

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
    /// The unlock key, if the settings want managers locked at rest.
    pub unlock: Option<UnlockBox>,
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
        let draft = Draft { logged, ..Draft::new(params, Arc::new(root), chance)? };
        draft.by_key(&Keys::default(), chance, now)
    }
}

/// A cluster whose first manager's certificate is to be signed.
pub struct Draft {
    params: Params,
    root: Arc<Root>,
    logged: Vec<Vec<u8>>,
    subject: Subject,
    key: PrivateKey,
    csr: String,
}

impl Draft {
    /// Draws the ids and the manager's key. The root was given: what others signed is not in the log of what our keys signed.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn new(params: Params, root: Arc<Root>, chance: &Chance) -> Result<Self, BootstrapError> {
        let cluster = ClusterId::generate(chance.bytes()?);
        let subject = Subject { cluster, role: Role::Manager, node: chance.node_id()? };
        let key = chance.p256_key()?;
        let csr = pki::csr::request(&key).map_err(failed)?;
        Ok(Self { params, root, logged: Vec::new(), subject, key, csr })
    }

    /// Signs with the root's key, which is here or in a token.
    ///
    /// # Errors
    /// If the key cannot be reached, or a certificate cannot be made.
    pub fn by_key(self, keys: &Keys, chance: &Chance, now: Time) -> Result<Bootstrap, BootstrapError> {
        let signer = keys.signer(&self.root).map_err(failed)?;
        let signing = self.root.signer.pem();
        let issuer =
            Issuer::build(&self.root.bundle, Some(signing.as_bytes()), Some(signer), &self.root.intermediates, now)
                .map_err(failed)?;
        let life = crate::issue::life(self.params.settings.leaf_life(), Some(rotate::first_end(&self.root)), now);
        let leaf = sign(self.csr.as_bytes(), &self.subject, chance, now, life, &issuer).map_err(failed)?;
        self.with(leaf, chance, now)
    }

    /// Has the root's external CA sign. The first manager has no certificate yet to show it.
    ///
    /// # Errors
    /// If no CA answers, or none with a certificate to be believed.
    pub async fn by_external_ca(self, clock: Clock, chance: &Chance, now: Time) -> Result<Bootstrap, BootstrapError> {
        let leaf = outside::first_leaf(&self.root, &self.params.settings, &self.subject, &self.csr, clock, chance)
            .await
            .map_err(failed)?;
        self.with(leaf, chance, now)
    }

    fn with(self, leaf: Certificate, chance: &Chance, now: Time) -> Result<Bootstrap, BootstrapError> {
        let Self { params, root, logged, subject, key, csr } = self;
        let letter = letter(csr.into_bytes(), &leaf, &root.steps, Role::Manager, root.issuer, now);
        let trust = TrustBundle::parse(&root.bundle, now).map_err(failed)?;
        let unlock = match params.settings.autolock {
            true => Some(UnlockBox(Arc::new(UnlockKey::from_bytes(chance.bytes()?)))),
            false => None,
        };
        let chain = [leaf].into_iter().chain(root.steps.iter().cloned()).collect();
        let command = cluster::Command::Bootstrap(Box::new(command::Bootstrap {
            cluster: subject.cluster.clone(),
            fips: false,
            root,
            logged,
            node: subject.node.clone(),
            spec: Spec::new(Role::Manager, params.availability),
            addr: params.addr,
            letter,
            worker_secret: SecretBox(Arc::new(JoinSecret::from_bytes(chance.bytes()?))),
            manager_secret: SecretBox(Arc::new(JoinSecret::from_bytes(chance.bytes()?))),
            settings: params.settings,
            unlock: unlock.clone(),
        }));
        Ok(Bootstrap { command, cluster_id: subject.cluster, node_id: subject.node, chain, key, trust, unlock })
    }
}

/// What a machine brings to a cluster that it makes anew from a backup.
pub struct Restoration {
    /// Where others reach it, `host:port`.
    pub addr: String,
    /// The cluster's time in the backup.
    pub backup: Time,
    /// Nodes that were removed after the backup.
    pub removed: Vec<NodeId>,
}

impl Bootstrap {
    /// Gives this machine an identity in the cluster of a backup, signed by its root, and draws fresh secrets. The command is the one that makes
    /// the cluster anew.
    ///
    /// # Errors
    /// If the root's key cannot be reached, or a certificate cannot be made.
    pub async fn restore(
        state: Arc<State>,
        restoration: Restoration,
        keys: Keys,
        clock: Clock,
        chance: &Chance,
    ) -> Result<Self, BootstrapError> {
        let now = clock();
        let cluster = state.cluster_id().cloned().ok_or_else(|| failed("the backup holds no cluster"))?;
        let root = state.roots.signing().cloned().ok_or_else(|| failed("the backup holds no root"))?;
        let ladder = state.roots.ladder_for(None, Role::Manager, now);
        let served = state.roots.served().cloned().ok_or_else(|| failed("the backup holds no root"))?;
        let params = Params {
            addr: restoration.addr.clone(),
            availability: Availability::Active,
            settings: state.settings.as_ref().clone(),
        };
        let mut draft = Draft::new(params, Arc::clone(&root), chance)?;
        draft.subject.cluster = cluster.clone();
        let leaf = if root.custody.is_outside() {
            let settings = &draft.params.settings;
            outside::first_leaf(&root, settings, &draft.subject, &draft.csr, Arc::clone(&clock), chance)
                .await
                .map_err(failed)?
        } else {
            let (subject, csr, life) = (draft.subject.clone(), draft.csr.clone(), draft.params.settings.leaf_life());
            let (chance, root) = (chance.clone(), Arc::clone(&root));
            let ends = ladder.iter().map(Certificate::not_after).chain([rotate::first_end(&root)]).min();
            let signed = tokio::task::spawn_blocking(move || {
                let signer = keys.signer(&root).map_err(|error| error.to_string())?;
                let signing = root.signer.pem();
                let issuer =
                    Issuer::build(&root.bundle, Some(signing.as_bytes()), Some(signer), &root.intermediates, now)
                        .map_err(|error| error.to_string())?;
                sign(csr.as_bytes(), &subject, &chance, now, crate::issue::life(life, ends, now), &issuer)
            });
            signed.await.map_err(failed)?.map_err(failed)?
        };
        let letter = letter(draft.csr.clone().into_bytes(), &leaf, &ladder, Role::Manager, root.issuer, now);
        let unlock = match state.settings.autolock {
            true => Some(UnlockBox(Arc::new(UnlockKey::from_bytes(chance.bytes()?)))),
            false => None,
        };
        let restored = command::Restored {
            backup: restoration.backup,
            node: draft.subject.node.clone(),
            spec: Spec::new(Role::Manager, Availability::Active),
            letter,
            worker_secret: SecretBox(Arc::new(JoinSecret::from_bytes(chance.bytes()?))),
            manager_secret: SecretBox(Arc::new(JoinSecret::from_bytes(chance.bytes()?))),
            unlock: unlock.clone(),
            removed: restoration.removed,
        };
        let command = cluster::Command::Refound(Box::new(command::Refound {
            epoch: cluster::epoch::next(state.epoch(), u32::from_be_bytes(chance.bytes()?)),
            addr: restoration.addr,
            founder: command::Founder::Restored(Box::new(restored)),
        }));
        let trust = TrustBundle::parse(&served.bundle, now).map_err(failed)?;
        let chain = [leaf].into_iter().chain(ladder).collect();
        Ok(Self { command, cluster_id: cluster, node_id: draft.subject.node, chain, key: draft.key, trust, unlock })
    }
}

/// The root that a cluster begins with, as it is given; none: one is made. An external CA that comes with its root's certificate is
/// honoured from the first certificate on.
///
/// # Errors
/// The refusals of engine-api.md 2.1.
pub fn first_root(mut wish: Wish, cas: &[ExternalCa], now: Time) -> Result<Option<Arc<Root>>, ControlError> {
    if wish.certificate.is_empty()
        && let Some(named) = cas.iter().find(|ca| !ca.ca_cert.trim().is_empty())
    {
        wish.certificate = named.ca_cert.clone().into_bytes();
    }
    if wish.certificate.is_empty() {
        return Ok(None);
    }
    let root = rotate::given(&wish, &Reach::default(), now)?;
    if root.custody.is_outside() && urls::among(cas, &State::empty(), &root).next().is_none() {
        return Err(Refusal::CaUpdate(CaUpdateRefusal::ExternalCaMissing { which: WhichCa::Desired }).into());
    }
    Ok(Some(root))
}

/// The root that a cluster begins with, its key in a token: found there, or made there when no certificate is given. Blocks until
/// the token answers.
///
/// # Errors
/// What is wrong with URI, token, key or certificate.
pub fn root_in_token(wish: Wish, uri: &str, keys: &Keys, now: Time) -> Result<Arc<Root>, ControlError> {
    let refused = |message: String| ControlError { code: tonic::Code::FailedPrecondition, message };
    let uri = Arc::<str>::from(uri);
    let given = rotate::key_to_import(wish.key.as_ref())?;
    if given.is_some() && wish.certificate.is_empty() {
        return Err(Refusal::CaUpdate(CaUpdateRefusal::KeyWithoutCertificate).into());
    }
    let missing = given.as_ref().map_or(Missing::Make, Missing::Put);
    let public = keys.find(&uri, missing).map_err(|fault| refused(fault.to_string()))?;
    let public = public.ok_or_else(|| refused("the key is not in the token".to_owned()))?;
    if !wish.certificate.is_empty() {
        let wish = Wish { token: Some(TokenWish { uri, public }), key: None, ..wish };
        return rotate::given(&wish, &Reach::default(), now);
    }
    let key = keys.key_in(&uri, &public).map_err(|fault| refused(fault.to_string()))?;
    rotate::self_signed(&key, Custody::Token(uri), &Chance::system(), now)
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
