//! A node as a program holds it.

use std::collections::BTreeMap;
use std::sync::Arc;

use pki::bundle::TrustBundle;
use pki::join_token::JoinToken;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::{Availability, Config, JoinRequest};
use crate::connect::random_u64;
use crate::error::{JoinError, NodeError};
use crate::keystore::{Keystore, KeystoreError, Pair};
use crate::news;
use crate::plan::{Input, Plan, Start, StartError, credible_floor};
use crate::run::{Held, Outcome, Runner};
use crate::status::Status;
use crate::witness::{Fork, KeptHead, Witness};

/// What a session tells and the machine has not taken yet: beyond this the stream waits, and with it the manager.
const SESSION_INPUTS_MAX: usize = 1;

/// How a node's run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The caller asked for it.
    Shutdown,
    /// The cluster removed the node. Running it again is refused the same way.
    Removed {
        /// The manager's words.
        text: String,
    },
}

/// A node that holds a certificate. [`Node::run`] makes it live.
pub struct Node {
    runner: Runner,
    handle: Handle,
}

/// A join that has not ended yet: its status can be watched. Dropping it gives the join up.
pub struct Pending {
    runner: Runner,
    handle: Handle,
}

/// A node as seen by everybody but its runner. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    status: watch::Receiver<Status>,
    live: mtls::Live,
    tell: mpsc::UnboundedSender<Input>,
    keystore: Arc<Keystore>,
}

impl Node {
    /// Joins a cluster: fetches the root and checks it against the token's digest, asks for a certificate, writes both. If
    /// the directory holds an identity already, that one is opened and the token is ignored.
    ///
    /// There is no deadline for a cluster that accepts but does not sign: give the future one, or drop it.
    ///
    /// # Errors
    /// [`NodeError::Join`] with what the cluster said, or what is wrong on this machine.
    pub async fn join(config: Config, request: JoinRequest) -> Result<Node, NodeError> {
        Self::prepare(config, request)?.join().await
    }

    /// The same in two steps, so that the status of a slow join can be watched.
    ///
    /// # Errors
    /// What is on disk cannot be used.
    pub fn prepare(config: Config, request: JoinRequest) -> Result<Pending, NodeError> {
        let (runner, handle) = build(config, Some(request))?;
        Ok(Pending { runner, handle })
    }

    /// Opens the identity in the keystore's directory. An expired certificate is taken: a manager may still renew it.
    ///
    /// # Errors
    /// There is none, or it does not hold.
    pub fn open(config: Config) -> Result<Node, NodeError> {
        let dir = config.keystore.state_dir().display().to_string();
        let (runner, handle) = build(config, None)?;
        if runner.held.is_none() {
            return Err(NodeError::NoIdentity { dir });
        }
        Ok(Node { runner, handle })
    }

    /// Lives until `shutdown` is ready or the cluster removes the node: holds a session, renews.
    pub async fn run<F: Future + Send>(mut self, shutdown: F) -> Ended {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut input = Input::Run;
        loop {
            if let Some(Outcome::Removed(text)) = self.runner.feed(input).await {
                tracing::error!(reason = text, "this node was removed from its cluster");
                return Ended::Removed { text };
            }
            input = tokio::select! {
                input = self.runner.next() => input,
                _ = &mut shutdown => return Ended::Shutdown,
            };
        }
    }

    /// The part that others may hold while the node runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The node's state, and every change of it.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.handle.status()
    }

    /// The identity for TLS: it follows every renewal.
    #[must_use]
    pub fn identity(&self) -> mtls::Live {
        self.handle.identity()
    }

    /// Renews the certificate now, once the node runs.
    pub fn renew_now(&self) {
        self.handle.renew_now();
    }
}

impl Pending {
    /// Joins. See [`Node::join`].
    ///
    /// # Errors
    /// As there.
    pub async fn join(mut self) -> Result<Node, NodeError> {
        let mut input = Input::Join;
        loop {
            match self.runner.feed(input).await {
                Some(Outcome::Joined) => break,
                Some(Outcome::JoinFailed(error)) => return Err(NodeError::Join(error)),
                Some(Outcome::Removed(text)) => {
                    return Err(NodeError::Join(JoinError::Refused { code: 7, text }));
                }
                None => {}
            }
            input = self.runner.next().await;
        }
        // The token is not needed any more, and is a secret.
        self.runner.token = None;
        Ok(Node { runner: self.runner, handle: self.handle })
    }

    /// The part that others may hold meanwhile.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Handle {
    /// The node's state, and every change of it.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The identity for TLS: it follows every renewal.
    #[must_use]
    pub fn identity(&self) -> mtls::Live {
        self.live.clone()
    }

    /// The node's files. Write to them through this one only: its writes exclude the node's own.
    #[must_use]
    pub fn keystore(&self) -> Arc<Keystore> {
        self.keystore.clone()
    }

    /// Says where the manager on this machine listens, or that there is none any more: it is asked before all others. A manager renews its
    /// own certificate by it, also one that has ended.
    pub fn seated(&self, own: Option<String>) {
        let _ = self.tell.send(Input::Seated(own));
    }

    /// Says that a manager is at this address, `host:port`: a node in no session tries it at once, and keeps it over a restart. Who answers there
    /// is believed by its certificate, as any manager is.
    pub fn manager_at(&self, addr: String) {
        let _ = self.tell.send(Input::ManagerTold(addr));
    }

    /// Renews the certificate now, or as soon as the node runs.
    pub fn renew_now(&self) {
        let _ = self.tell.send(Input::RenewNow);
    }
}

fn build(config: Config, request: Option<JoinRequest>) -> Result<(Runner, Handle), NodeError> {
    let now = (config.clock)();
    let keystore = config.keystore.clone();
    let floor = match keystore.load_floor() {
        Ok(floor) => floor,
        Err(error) => {
            tracing::warn!(%error, "the time floor is lost; it is learnt again");
            pki::time::Time::default()
        }
    };
    let known = match keystore.load_managers() {
        Ok(known) => known,
        Err(error) => {
            tracing::warn!(%error, "the list of managers is lost; the configured ones are used");
            Vec::new()
        }
    };
    let trust_pem = keystore.load_trust()?;
    // A pair without its root is none (conformance 344).
    let pair = if trust_pem.is_some() { keystore.load_pair()? } else { None };
    let floor = credible_floor(floor, pair.as_ref().map(|pair| pair.chain_pem.as_slice()));
    let at = now.max(floor);
    let trust = match trust_pem {
        Some(pem) => Some(TrustBundle::parse(&pem, at).map_err(|error| NodeError::Certificate {
            path: keystore.root_path().display().to_string(),
            text: error.to_string(),
        })?),
        None => None,
    };
    let mut addrs = request.as_ref().map(|request| request.addrs.clone()).unwrap_or_default();
    addrs.extend(config.managers.iter().filter(|addr| !addrs.contains(addr)).cloned().collect::<Vec<_>>());
    let start = Start {
        known,
        addrs,
        trust: trust.clone(),
        pair: pair.as_ref().map(|pair| (pair.chain_pem.clone(), pair.received)),
        token: request.as_ref().map(|request| (request.token.digest(), request.token.fips())),
        fips: config.fips,
        floor,
    };
    let plan = Plan::new(start, now, random_u64()).map_err(|error| match error {
        StartError::Fips => NodeError::Fips,
        error => {
            NodeError::Certificate { path: keystore.certificate_path().display().to_string(), text: error.to_string() }
        }
    })?;
    let (publisher, live) = mtls::Publisher::new();
    let (tell, told) = mpsc::unbounded_channel();
    let (session_tell, session_told) = mpsc::channel(SESSION_INPUTS_MAX);
    let (news_tell, news_told) = mpsc::channel(SESSION_INPUTS_MAX);
    let witness = Arc::new(witness_of(&keystore));
    let (status, watching) = watch::channel(Status { witness: Arc::clone(&witness), ..plan.status().clone() });
    let (token, availability) = match request {
        Some(request) if pair.is_none() => (Some(request.token), request.availability),
        _ => (None::<JoinToken>, Availability::Active),
    };
    let handle = Handle { status: watching, live: live.clone(), tell: tell.clone(), keystore };
    let mut runner = Runner {
        plan,
        config,
        publisher,
        live,
        held: pair.map(|Pair { chain, key, .. }| Held { chain, key: Arc::new(key.key) }),
        trust,
        token,
        availability,
        tell,
        told,
        session_tell,
        session_told,
        news_tell,
        news_told,
        shown: news::Shown::of(Witness::clone(&witness)),
        witness,
        status,
        timers: BTreeMap::new(),
        asking: None,
        session: None,
        tasks: JoinSet::new(),
    };
    runner.publish(at).map_err(|failure| NodeError::Identity(failure.text))?;
    if let Some(current) = runner.live.current() {
        let kept = runner.config.keystore.load_revoked().map_err(|error| error.to_string());
        let read = kept.and_then(|bytes| {
            let read = |bytes: Vec<u8>| news::from_disk(&bytes, &current.subject().cluster, at);
            bytes.map(read).transpose().map_err(|error| error.to_string())
        });
        match read {
            Ok(Some(set)) => runner.publisher.revoke(set),
            Ok(None) => {}
            Err(error) => tracing::warn!(error, "what was revoked is lost; managers tell it again"),
        }
    }
    Ok((runner, handle))
}

/// What was kept of the issuance log; what cannot be read is as good as none, and said.
fn witness_of(keystore: &Keystore) -> Witness {
    let read = |what: &str, bytes: Result<Option<Vec<u8>>, KeystoreError>| match bytes {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::warn!(what, %error, "what this node kept of the issuance log is lost");
            None
        }
    };
    let head = read("head", keystore.load_log_head()).and_then(|bytes| {
        let head = KeptHead::read(&bytes);
        if head.is_none() {
            tracing::warn!(what = "head", "what this node kept of the issuance log cannot be read");
        }
        head
    });
    let forks = read("evidence", keystore.load_log_fork()).and_then(|bytes| {
        let forks = Fork::read(&bytes);
        if forks.is_none() {
            tracing::warn!(what = "evidence", "what this node kept of the issuance log cannot be read");
        }
        forks
    });
    Witness { head, forks: forks.unwrap_or_default() }
}
