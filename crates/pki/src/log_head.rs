//! Heads of the issuance log, signed by managers: what a witness keeps. Two heads of one cluster and epoch, of which neither log begins
//! with the other, are a proof that somebody tells two stories.
//!
//! What is signed is written here, byte by byte: it never changes.
//!
//! ```text
//! "swarmpki log head 1\0" | 8 epoch | 8 size | 32 root | 8 time, milliseconds | cluster id
//! ```
//! Numbers have their highest byte first.

use crate::certificate::Certificate;
use crate::identity::{ClusterId, Role};
use crate::key::{SignError, Signer};
use crate::merkle::{self, Hash};
use crate::time::Time;

/// Bytes of a certificate or signature in a head, at most.
pub const PART_BYTES_MAX: usize = 16 * 1024;

const CONTEXT: &[u8] = b"swarmpki log head 1\0";

/// How far the log of a cluster was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its epoch: a cluster made anew may have lost the last entries of the log of before.
    pub epoch: u64,
    /// Entries.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
    /// The cluster's time.
    pub time: Time,
}

/// A head, and the manager that vouches for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHead {
    /// The head.
    pub head: Head,
    /// The manager's certificate, DER.
    pub certificate: Vec<u8>,
    /// Its signature, with the key of that, by the algorithm that the key has in certificates.
    pub signature: Vec<u8>,
}

/// Why a head is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Its certificate cannot be read, or is no manager's of this cluster.
    #[error("the log head is not signed by a manager of its cluster")]
    Signer,
    /// The signature does not fit.
    #[error("the signature of the log head does not fit")]
    Signature,
}

/// How a later head stands to an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its log begins with the earlier one's.
    Follows,
    /// They are of different epochs, or clusters: nothing can be said.
    Apart,
    /// It is shown that it does not: a fork, or a log that was cut.
    Forked,
}

impl Head {
    /// What is signed.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let cluster = self.cluster.as_str().as_bytes();
        let mut bytes = Vec::with_capacity(CONTEXT.len() + 56 + cluster.len());
        bytes.extend_from_slice(CONTEXT);
        bytes.extend_from_slice(&self.epoch.to_be_bytes());
        bytes.extend_from_slice(&self.size.to_be_bytes());
        bytes.extend_from_slice(&self.root);
        bytes.extend_from_slice(&self.time.unix_millis().to_be_bytes());
        bytes.extend_from_slice(cluster);
        bytes
    }

    /// Signs it with a manager's key.
    ///
    /// # Errors
    /// If the key does not sign.
    pub fn sign(self, key: &dyn Signer, certificate: &Certificate) -> Result<SignedHead, SignError> {
        let signature = key.sign(&self.signed_bytes())?;
        Ok(SignedHead { head: self, certificate: certificate.der().to_vec(), signature })
    }

    /// How this head stands to an earlier one, by a proof between the two (RFC 9162, 2.1.4). A shorter log than one that was seen is a log that was cut.
    pub fn standing(&self, earlier: &Self, proof: &[Hash]) -> Standing {
        if self.cluster != earlier.cluster || self.epoch != earlier.epoch {
            return Standing::Apart;
        }
        if merkle::extends(earlier.size, &earlier.root, self.size, &self.root, proof) {
            Standing::Follows
        } else {
            Standing::Forked
        }
    }
}

impl SignedHead {
    /// Whether the key of its certificate signed it, and that certificate names a manager of its cluster. Whether the
    /// certificate leads to the root is for whoever has the root to say.
    ///
    /// # Errors
    /// [`HeadError`].
    pub fn verify(&self) -> Result<Certificate, HeadError> {
        let certificate = Certificate::from_der(self.certificate.clone()).map_err(|_| HeadError::Signer)?;
        let subject = certificate.node_subject().map_err(|_| HeadError::Signer)?;
        if subject.cluster != self.head.cluster || subject.role != Role::Manager {
            return Err(HeadError::Signer);
        }
        let key = certificate.public_key().map_err(|_| HeadError::Signer)?;
        let algorithm = crate::key::SignatureAlgorithm::for_key(key.kind());
        key.verify(algorithm, &self.head.signed_bytes(), &self.signature).map_err(|_| HeadError::Signature)?;
        Ok(certificate)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::digest::sha256;

    fn head(size: u64, root: Hash) -> Head {
        let cluster = "cluster0000000000000000aa".parse().unwrap();
        Head { cluster, epoch: 3, size, root, time: Time::from_unix_millis(1_700_000_000_000) }
    }

    #[test]
    fn what_is_signed_never_changes() {
        let bytes = head(7, [9; 32]).signed_bytes();
        assert_eq!(bytes.len(), 20 + 8 + 8 + 32 + 8 + 25);
        assert!(bytes.starts_with(b"swarmpki log head 1\0\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x07\x09"));
        assert!(bytes.ends_with(b"\0\0\x01\x8b\xcf\xe5\x68\x00cluster0000000000000000aa"));
    }

    #[test]
    fn a_shorter_log_and_another_one_are_forks() {
        let leaves = [merkle::leaf_hash(b"a"), merkle::leaf_hash(b"b")];
        let both = merkle::node_hash(&leaves[0], &leaves[1]);
        let (one, two) = (head(1, leaves[0]), head(2, both));
        assert_eq!(two.standing(&one, &[leaves[1]]), Standing::Follows);
        assert_eq!(two.standing(&one, &[leaves[0]]), Standing::Forked);
        assert_eq!(one.standing(&two, &[]), Standing::Forked, "it was cut");
        assert_eq!(head(2, sha256(b"x")).standing(&two, &[]), Standing::Forked);
        assert_eq!(two.standing(&two, &[]), Standing::Follows);
        let anew = Head { epoch: 4, ..one.clone() };
        assert_eq!(anew.standing(&two, &[]), Standing::Apart);
    }
}
