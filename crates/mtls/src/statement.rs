//! What a node says, signed by the key of its certificate over a context: it can be passed on, kept, and checked again.

use pki::certificate::Certificate;
use pki::identity::Role;
use pki::time::Time;
use rustls::SignatureScheme;
use rustls::pki_types::CertificateDer;
use webpki::{EndEntityCert, KeyUsage};

use crate::current::Current;
use crate::fault::ChainFault;
use crate::handshake::algorithms;
use crate::live::Live;
use crate::verified_peer::{Expired, VerifiedPeer};
use crate::verifier::check_subject;

/// Comes before every statement. 64 octets: longer than what a stranger chooses of what is signed in a handshake, and no handshake
/// begins like this.
const BEFORE: [u8; 64] = *b"swarmpki statement 1: signed by the key of a node's certificate.";

/// Certificates in a statement's chain, at most.
const CHAIN_MAX: usize = 8;

/// What the key of a node may sign with.
const SCHEMES: [SignatureScheme; 5] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED25519,
    SignatureScheme::RSA_PSS_SHA256,
];

/// A statement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statement {
    /// The node's chain, leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// The TLS number of the way it was signed in.
    pub scheme: u16,
    /// What is said.
    pub content: Vec<u8>,
    /// The signature.
    pub signature: Vec<u8>,
}

/// Why nothing can be said, or what was said is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// There is no identity to say it with, or to judge it by.
    #[error("this node holds no identity yet")]
    NoIdentity,
    /// The key gave no signature.
    #[error("the node's key does not sign: {0}")]
    Key(String),
    /// Whose it is, is not believed.
    #[error("signed by a certificate that is not accepted: {0}")]
    Chain(#[from] ChainFault),
    /// It was not signed by that key, in that context.
    #[error("the signature is not good")]
    Signature,
}

impl Current {
    /// Says something in a context, signed by this identity's key.
    ///
    /// # Errors
    /// [`StatementError::Key`].
    pub fn say(&self, context: &str, content: Vec<u8>) -> Result<Statement, StatementError> {
        let failed = |why: &dyn std::fmt::Display| StatementError::Key(why.to_string());
        let signer = self.certified.key.choose_scheme(&SCHEMES).ok_or_else(|| failed(&"of another kind"))?;
        let signature = signer.sign(&signed(context, &content)).map_err(|error| failed(&error))?;
        let chain = self.chain.iter().map(|one| one.der().to_vec()).collect();
        Ok(Statement { chain, scheme: u16::from(signer.scheme()), content, signature })
    }
}

impl Statement {
    /// The certificate in it, if its key did sign this in a context. Whose that is, and whether anybody believes it, is not looked at.
    ///
    /// # Errors
    /// [`StatementError::Signature`], or [`StatementError::Chain`] if there is nothing to look at.
    pub fn signed_by(&self, context: &str) -> Result<Certificate, StatementError> {
        let leaf = self.leaf()?;
        self.check_signature(context, leaf)?;
        Certificate::from_der(leaf.to_vec()).map_err(|error| malformed(&error.to_string()))
    }

    fn leaf(&self) -> Result<&[u8], StatementError> {
        if self.chain.len() > CHAIN_MAX {
            return Err(malformed("too many certificates"));
        }
        self.chain.first().map(Vec::as_slice).ok_or_else(|| malformed("no certificate"))
    }

    fn check_signature(&self, context: &str, leaf: &[u8]) -> Result<(), StatementError> {
        let leaf = CertificateDer::from(leaf);
        let entity = EndEntityCert::try_from(&leaf).map_err(|error| malformed(&error.to_string()))?;
        let message = signed(context, &self.content);
        let scheme = SignatureScheme::from(self.scheme);
        let known = SCHEMES.contains(&scheme).then_some(algorithms().mapping).into_iter().flatten();
        let mut ways = known.filter(|(one, _)| *one == scheme).flat_map(|(_, ways)| ways.iter());
        if ways.any(|way| entity.verify_signature(*way, &message, &self.signature).is_ok()) {
            Ok(())
        } else {
            Err(StatementError::Signature)
        }
    }
}

impl Live {
    /// Who said this: a manager of our own cluster, whose certificate is good at `at` and was not taken back.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn who_said(&self, context: &str, statement: &Statement, at: Time) -> Result<VerifiedPeer, StatementError> {
        let peer = self.who_signed(context, statement, at)?;
        self.check_revoked(&peer)?;
        Ok(peer)
    }

    /// Who signed this: the same, and the certificate may have been taken back since. Nothing is done on such a word; that it was
    /// given stays evidence.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn who_signed(&self, context: &str, statement: &Statement, at: Time) -> Result<VerifiedPeer, StatementError> {
        let current = self.current().ok_or(StatementError::NoIdentity)?;
        let leaf = CertificateDer::from(statement.leaf()?);
        let rest: Vec<_> = statement.chain.iter().skip(1).map(|der| CertificateDer::from(der.as_slice())).collect();
        let usage = KeyUsage::server_auth();
        let (peer, _): (_, Certificate) =
            VerifiedPeer::verify(&current.anchors, &leaf, &rest, at, usage, Expired::Refused)?;
        check_subject(&peer, &current.subject().cluster, Some(Role::Manager), None)?;
        statement.check_signature(context, &leaf)?;
        Ok(peer)
    }
}

fn malformed(what: &str) -> StatementError {
    StatementError::Chain(ChainFault::Malformed(what.to_owned()))
}

/// What is signed.
fn signed(context: &str, content: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(BEFORE.len() + context.len() + 1 + content.len());
    message.extend_from_slice(&BEFORE);
    message.extend_from_slice(context.as_bytes());
    message.push(0);
    message.extend_from_slice(content);
    message
}
