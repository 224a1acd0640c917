//! Keys, certificates, bundles and join tokens of a swarm cluster.
//!
//! Pure: no I/O, no clock, no async. Time is an argument ([`time::Time`]), and so is chance (seeds, serials, salts);
//! only a [`key::Signer`] may draw random numbers of its own, because ECDSA does.
//!
//! The life of a leaf, from the manager's side: a [`csr::Csr`] is parsed (shape, size, kind of key), verified into a
//! [`csr::Linted`], and [`issue::leaf`] signs it for a [`identity::Subject`] with a [`bundle::Issuer`]. From the node's side:
//! [`csr::request`] asks, [`chain::validate`] judges the answer against a [`bundle::TrustBundle`], [`renewal::renew_at`] says
//! when to ask again, and [`key_file::KeyFile`] is how the key lies on disk.

mod asn1;
mod base36;
pub mod bundle;
pub mod certificate;
pub mod chain;
pub mod csr;
mod dek_info;
pub mod digest;
pub mod identity;
pub mod issue;
pub mod join_token;
pub mod key;
pub mod key_file;
pub mod merkle;
pub mod operator;
mod pbes2;
mod pem_block;
mod pkcs7;
mod private_key;
pub mod renewal;
pub mod revocation;
pub mod sealed_record;
pub mod secret;
pub mod serial;
pub mod time;
pub mod unlock_key;
pub mod witness;

pub use bundle::{Issuer, TrustBundle};
pub use certificate::{Certificate, IssuerId};
pub use digest::Digest;
pub use identity::{CA_NAME, ClusterId, NodeId, Role, Subject};
pub use join_token::{JoinSecret, JoinToken};
pub use key::{PrivateKey, PublicKey, Signer, SpkiHash};
pub use key_file::KeyFile;
pub use operator::{OperatorName, OperatorRole, OperatorSubject};
pub use secret::{SecretBytes, SecretString};
pub use serial::Serial;
pub use time::Time;
pub use unlock_key::UnlockKey;
