//! Verifiers that serve one connection and keep what they found.

use std::fmt;
use std::sync::{Arc, OnceLock};

use pki::identity::{ClusterId, NodeId, Role};
use pki::time::Time;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use webpki::KeyUsage;

use crate::anchors::Anchors;
use crate::fault::ChainFault;
use crate::handshake::algorithms;
use crate::live::check_revoked;
use crate::revoked::RevokedSet;
use crate::verified_peer::{Expired, VerifiedPeer};

/// The part of a verifier that is the same for all: signatures over the handshake.
macro_rules! handshake_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            leaf: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls12_signature(message, leaf, signature, algorithms())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            leaf: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, leaf, signature, algorithms())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            algorithms().supported_schemes()
        }
    };
}
pub(crate) use handshake_signatures;

/// What a verifier found.
pub(crate) type Finding = OnceLock<Result<VerifiedPeer, ChainFault>>;

fn keep(finding: &Finding, outcome: Result<VerifiedPeer, ChainFault>) -> Result<(), rustls::Error> {
    let answer = match &outcome {
        Ok(_) => Ok(()),
        Err(fault) => Err(fault.to_tls()),
    };
    // A verifier serves one handshake; a second finding would change nothing.
    let _ = finding.set(outcome);
    answer
}

/// Judges the client of one connection: a certificate must verify if it is given.
pub(crate) struct NodeVerifier {
    pub(crate) anchors: Arc<Anchors>,
    pub(crate) at: Time,
    /// Whether there must be one.
    pub(crate) mandatory: bool,
    pub(crate) finding: Finding,
}

impl ClientCertVerifier for NodeVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    // Empty: a Go client then sends its certificate whatever its issuer.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let usage = KeyUsage::client_auth();
        let outcome = VerifiedPeer::verify(&self.anchors, leaf, intermediates, self.at, usage, Expired::Marked);
        keep(&self.finding, outcome.map(|(peer, _)| peer))?;
        Ok(ClientCertVerified::assertion())
    }

    handshake_signatures!();
}

/// Judges the server of one connection.
pub(crate) struct ManagerVerifier {
    pub(crate) anchors: Arc<Anchors>,
    pub(crate) at: Time,
    /// The DNS name it must be for.
    pub(crate) name: &'static str,
    /// The cluster it must manage; none for a joiner, who trusts whatever the pinned root certified for the name.
    pub(crate) cluster: Option<ClusterId>,
    /// The node it must be, if that matters.
    pub(crate) node: Option<NodeId>,
    /// What an expired leaf is.
    pub(crate) expired: Expired,
    /// What was taken back.
    pub(crate) revoked: Arc<RevokedSet>,
    pub(crate) finding: Finding,
}

impl ManagerVerifier {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<VerifiedPeer, ChainFault> {
        let usage = KeyUsage::server_auth();
        let (peer, certificate) =
            VerifiedPeer::verify(&self.anchors, leaf, intermediates, self.at, usage, self.expired)?;
        check_revoked(&self.revoked, &peer)?;
        let names = certificate.dns_names();
        if !names.iter().any(|name| name.eq_ignore_ascii_case(self.name)) {
            return Err(ChainFault::NameMismatch { expected: self.name.to_owned(), presented: names.to_vec() });
        }
        if let Some(cluster) = &self.cluster {
            check_subject(&peer, cluster, Some(Role::Manager), self.node.as_ref())?;
        }
        Ok(peer)
    }
}

/// Checks who a peer is.
pub(crate) fn check_subject(
    peer: &VerifiedPeer,
    cluster: &ClusterId,
    role: Option<Role>,
    node: Option<&NodeId>,
) -> Result<(), ChainFault> {
    let found = &peer.subject;
    if found.cluster != *cluster {
        return Err(ChainFault::OtherCluster { expected: cluster.clone(), found: found.cluster.clone() });
    }
    if let Some(expected) = role
        && found.role != expected
    {
        return Err(ChainFault::OtherRole { expected, found: found.role });
    }
    if let Some(expected) = node
        && found.node != *expected
    {
        return Err(ChainFault::OtherNode { expected: expected.clone(), found: found.node.clone() });
    }
    Ok(())
}

impl ServerCertVerifier for ManagerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        keep(&self.finding, self.judge(leaf, intermediates))?;
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

/// Accepts any server. Only for the download of a root bundle, whose digest the caller then checks.
pub(crate) struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

impl fmt::Debug for NodeVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeVerifier").finish_non_exhaustive()
    }
}

impl fmt::Debug for ManagerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagerVerifier").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for AnyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyServer")
    }
}
