//! The write end: a candidate is checked as a peer would check it, then swapped in whole.

use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use pki::identity::SubjectError;
use pki::time::Time;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use webpki::KeyUsage;

use crate::anchors::Anchors;
use crate::current::{Current, Identity};
use crate::fault::ChainFault;
use crate::live::Live;
use crate::revoked::RevokedSet;
use crate::verified_peer::{Expired, VerifiedPeer};

/// Why a candidate was not published. What was in use stays in use.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Rejected {
    /// No certificate.
    #[error("no certificates to publish")]
    Empty,
    /// The subject does not name a node.
    #[error(transparent)]
    NotANode(SubjectError),
    /// A peer would not accept it.
    #[error("peers would not accept the certificate: {0}")]
    Chain(ChainFault),
    /// The key is not the leaf's.
    #[error("certificate and private key do not belong together")]
    KeyMismatch,
    /// The key cannot sign for TLS.
    #[error("private key cannot be used for TLS: {0}")]
    KeyUnusable(String),
    /// A trust anchor does not parse.
    #[error("trust anchor: {0}")]
    Anchor(ChainFault),
}

pub(crate) struct Shared {
    pub(crate) current: ArcSwapOption<Current>,
    pub(crate) generation: watch::Sender<u64>,
    pub(crate) revoked: ArcSwap<RevokedSet>,
    pub(crate) revocations: watch::Sender<(u64, u64)>,
}

/// The write end of an identity. There is one for each node.
pub struct Publisher {
    shared: Arc<Shared>,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

impl Publisher {
    /// Both ends, without an identity yet.
    #[must_use]
    #[allow(clippy::new_ret_no_self)]
    pub fn new() -> (Publisher, Live) {
        let shared = Arc::new(Shared {
            current: ArcSwapOption::empty(),
            generation: watch::Sender::new(0),
            revoked: ArcSwap::default(),
            revocations: watch::Sender::new((0, 0)),
        });
        (Publisher { shared: shared.clone() }, Live { shared })
    }

    /// Checks a candidate as a peer would and puts it in use for every handshake from now on.
    /// A leaf that only has expired passes: managers let it renew, and nothing else can.
    ///
    /// # Errors
    /// [`Rejected`]; the identity in use, if any, stays.
    pub fn publish(&self, identity: Identity, now: Time) -> Result<(), Rejected> {
        let mut current = check(identity, now)?;
        self.shared.generation.send_modify(|generation| {
            *generation += 1;
            current.generation = *generation;
            self.shared.current.store(Some(Arc::new(current)));
        });
        Ok(())
    }

    /// From every handshake on that begins now, peers are refused whose certificate is in `set`.
    pub fn revoke(&self, set: RevokedSet) {
        let version = set.version();
        self.shared.revoked.store(Arc::new(set));
        self.shared.revocations.send_replace(version);
    }
}

fn check(identity: Identity, now: Time) -> Result<Current, Rejected> {
    let leaf = identity.chain.first().ok_or(Rejected::Empty)?;
    let subject = leaf.node_subject().map_err(Rejected::NotANode)?;
    let anchors = Anchors::new(identity.trust.certificates()).map_err(Rejected::Anchor)?;

    let wire_chain = Current::wire_chain(&identity.chain);
    let (first, rest) = wire_chain.split_first().ok_or(Rejected::Empty)?;
    let walk =
        |usage| VerifiedPeer::verify(&anchors, first, rest, now, usage, Expired::Marked).map_err(Rejected::Chain);
    let (as_client, _) = walk(KeyUsage::client_auth())?;
    walk(KeyUsage::server_auth())?;

    let der = identity.key.pkcs8_der();
    let key = PrivateKeyDer::try_from(der.expose()).map_err(|reason| Rejected::KeyUnusable(reason.to_owned()))?;
    let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
        .map_err(|error| Rejected::KeyUnusable(error.to_string()))?;
    let certified = CertifiedKey::new(wire_chain.clone(), signing);
    certified.keys_match().map_err(|_| Rejected::KeyMismatch)?;

    Ok(Current {
        subject,
        issuer: as_client.issuer,
        not_before: as_client.not_before,
        not_after: as_client.not_after,
        chain: identity.chain,
        trust: identity.trust,
        generation: 0,
        certified: Arc::new(certified),
        anchors: Arc::new(anchors),
    })
}
