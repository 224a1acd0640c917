//! The cluster's trust: which root its nodes hold, who signs, and which old roots late nodes may still come with.

use std::sync::Arc;

use pki::certificate::{Certificate, IssuerId};
use pki::secret::SecretBytes;
use pki::time::Time;

use crate::node::IssuerHash;

/// Exactly the phases that exist. A rotation adds its own variant.
#[derive(Clone, Debug, Default)]
pub enum Roots {
    /// No cluster yet.
    #[default]
    None,
    /// One root; its key signs.
    Stable {
        /// The root.
        root: Arc<Root>,
        /// Old roots without keys, whose leaves may still come.
        stragglers: Vec<StragglerAnchor>,
    },
}

impl Roots {
    /// The trust bundle as served to joiners.
    pub fn served(&self) -> Option<&Arc<Root>> {
        match self {
            Self::None => None,
            Self::Stable { root, .. } => Some(root),
        }
    }

    /// The root whose key signs leaves now.
    pub fn signing(&self) -> Option<&Arc<Root>> {
        match self {
            Self::None => None,
            Self::Stable { root, .. } => Some(root),
        }
    }

    /// Old roots whose leaves may still come.
    pub fn stragglers(&self) -> &[StragglerAnchor] {
        match self {
            Self::None => &[],
            Self::Stable { stragglers, .. } => stragglers,
        }
    }

    /// Whether leaves of `issuer` are those of today's signer.
    pub fn is_signing(&self, issuer: &IssuerHash) -> bool {
        self.signing().is_some_and(|root| root.issuer == *issuer)
    }
}

/// A root of the cluster.
#[derive(Clone)]
pub struct Root {
    /// The trust bundle, PEM, byte for byte as served; join tokens carry its digest.
    pub bundle: Vec<u8>,
    /// The certificate that signs: the root itself, or an intermediate below it.
    pub signer: Certificate,
    /// Certificates to be sent between a leaf and the root, PEM; empty for a root that signs itself.
    pub intermediates: Vec<u8>,
    /// The private key, PKCS#8 DER; none when it lives outside.
    pub key: Option<Arc<SecretBytes>>,
    /// Hash of the signer's subject and key.
    pub issuer: IssuerHash,
}

impl Root {
    /// A root made of its parts.
    pub fn new(bundle: Vec<u8>, signer: Certificate, intermediates: Vec<u8>, key: Option<Arc<SecretBytes>>) -> Self {
        let issuer = IssuerHash::of(&signer.issuer_id());
        Self { bundle, signer, intermediates, key, issuer }
    }

    /// Who signs with it.
    pub fn issuer_id(&self) -> IssuerId {
        self.signer.issuer_id()
    }
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Root")
            .field("issuer", &self.issuer)
            .field("has_key", &self.key.is_some())
            .finish_non_exhaustive()
    }
}

/// The certificate of a root that was replaced, without its key, until its last leaf has ended.
#[derive(Clone, Debug)]
pub struct StragglerAnchor {
    /// The old root.
    pub certificate: Certificate,
    /// Cross-certificates that lead from today's signer to it, leaf side first.
    pub ladder: Vec<Certificate>,
    /// When its last leaf ends.
    pub until: Time,
}
