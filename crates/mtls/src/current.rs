//! The identity that is in use.

use std::fmt;
use std::sync::Arc;

use pki::bundle::TrustBundle;
use pki::certificate::{Certificate, IssuerId};
use pki::identity::Subject;
use pki::key::{PrivateKey, SpkiHash};
use pki::time::Time;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::anchors::Anchors;

/// What a node is known by: a candidate until it is published.
pub struct Identity {
    /// Leaf first, then the intermediates that go with it; no root.
    pub chain: Vec<Certificate>,
    /// The leaf's key.
    pub key: PrivateKey,
    /// What peers are verified against.
    pub trust: TrustBundle,
}

/// The identity that is in use, without its key.
pub struct Current {
    pub(crate) subject: Subject,
    pub(crate) chain: Vec<Certificate>,
    pub(crate) trust: TrustBundle,
    pub(crate) issuer: IssuerId,
    pub(crate) not_before: Time,
    pub(crate) not_after: Time,
    pub(crate) generation: u64,
    pub(crate) certified: Arc<CertifiedKey>,
    pub(crate) anchors: Arc<Anchors>,
}

impl Current {
    /// Cluster, role and node.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Leaf first.
    #[must_use]
    pub fn chain(&self) -> &[Certificate] {
        &self.chain
    }

    /// What peers are verified against.
    #[must_use]
    pub fn trust(&self) -> &TrustBundle {
        &self.trust
    }

    /// Who issued the leaf.
    #[must_use]
    pub fn issuer(&self) -> &IssuerId {
        &self.issuer
    }

    /// The start of the leaf's validity.
    #[must_use]
    pub fn not_before(&self) -> Time {
        self.not_before
    }

    /// The end of the leaf's validity.
    #[must_use]
    pub fn not_after(&self) -> Time {
        self.not_after
    }

    /// SHA-256 of the leaf's public key.
    #[must_use]
    pub fn spki(&self) -> Option<SpkiHash> {
        self.chain.first().map(Certificate::spki_hash)
    }

    /// Counts publications, from 1.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The chain as it goes over the wire.
    pub(crate) fn wire_chain(chain: &[Certificate]) -> Vec<CertificateDer<'static>> {
        chain.iter().map(|one| CertificateDer::from(one.der().to_vec())).collect()
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current")
            .field("subject", &self.subject)
            .field("not_after", &self.not_after)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// One identity presented by a server: there is one chain for all names.
#[derive(Debug)]
pub(crate) struct Presented(pub(crate) Arc<Current>);

impl ResolvesServerCert for Presented {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.certified.clone())
    }
}

impl ResolvesClientCert for Presented {
    // Presented whatever issuers the server names: during a rotation its list says little.
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.certified.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
