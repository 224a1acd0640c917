//! Configurations for programs that embed the library and serve each other over TLS of their own: mutual, and every peer
//! a node of this cluster. They follow the identity: nothing has to be rebuilt when it changes.

use std::fmt;
use std::sync::Arc;

use pki::certificate::Certificate;
use pki::identity::{NodeId, Role, Subject};
use pki::time::Time;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use webpki::KeyUsage;

use crate::fault::ChainFault;
use crate::handshake::{algorithms, client_builder, finish_client, server_config};
use crate::live::Live;
use crate::verified_peer::{Expired, VerifiedPeer};
use crate::verifier::{check_subject, handshake_signatures};

/// Where the time comes from.
pub type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

/// Who a peer must be, beside being a node of this cluster whose leaf has not expired. Server names play no part: nodes
/// are known by cluster, role and id.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PeerPolicy {
    /// The role it must have; any if none.
    pub role: Option<Role>,
    /// The node it must be; any if none.
    pub node: Option<NodeId>,
    /// Protocols offered by ALPN, best first: `h2`, `http/1.1`.
    pub alpn: Vec<Vec<u8>>,
}

impl Live {
    /// A server's configuration that follows this identity. Clients must present a certificate.
    ///
    /// # Errors
    /// If rustls refuses the parameters, which it does not for those used here.
    pub fn server_config_for(&self, policy: PeerPolicy, clock: Clock) -> Result<Arc<ServerConfig>, rustls::Error> {
        let alpn = policy.alpn.clone();
        let verifier = Arc::new(ClusterVerifier { live: self.clone(), policy, clock });
        let resolver = Arc::new(Following(self.clone()));
        Ok(Arc::new(server_config(verifier, resolver, alpn)?))
    }

    /// A client's configuration that follows this identity. Any server name may be dialled, since none is checked.
    ///
    /// # Errors
    /// As [`Live::server_config_for`].
    pub fn client_config_for(&self, policy: PeerPolicy, clock: Clock) -> Result<Arc<ClientConfig>, rustls::Error> {
        let alpn = policy.alpn.clone();
        let verifier = Arc::new(ClusterVerifier { live: self.clone(), policy, clock });
        let config = client_builder(verifier)?.with_client_cert_resolver(Arc::new(Following(self.clone())));
        Ok(Arc::new(finish_client(config, alpn)))
    }
}

/// Who a peer is, from the certificates of a finished handshake (`peer_certificates()` of rustls) under one of the
/// configurations above. None if there are none or the leaf names no node.
#[must_use]
pub fn subject_of(peer_certificates: Option<&[CertificateDer<'_>]>) -> Option<Subject> {
    let leaf = peer_certificates?.first()?;
    Certificate::from_der(leaf.as_ref()).ok()?.node_subject().ok()
}

/// Judges peers by the identity that is in use at each handshake.
struct ClusterVerifier {
    live: Live,
    policy: PeerPolicy,
    clock: Clock,
}

impl ClusterVerifier {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
    ) -> Result<(), ChainFault> {
        let current = self.live.current().ok_or(ChainFault::NoIdentity)?;
        let at = (self.clock)();
        let (peer, _) = VerifiedPeer::verify(&current.anchors, leaf, intermediates, at, usage, Expired::Refused)?;
        self.live.check_revoked(&peer)?;
        let policy = &self.policy;
        check_subject(&peer, &current.subject.cluster, policy.role, policy.node.as_ref())
    }
}

impl ClientCertVerifier for ClusterVerifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(leaf, intermediates, KeyUsage::client_auth()).map_err(|fault| fault.to_tls())?;
        Ok(ClientCertVerified::assertion())
    }

    handshake_signatures!();
}

impl ServerCertVerifier for ClusterVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(leaf, intermediates, KeyUsage::server_auth()).map_err(|fault| fault.to_tls())?;
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

impl fmt::Debug for ClusterVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterVerifier").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// Presents whatever identity is in use at each handshake.
#[derive(Debug)]
pub(crate) struct Following(pub(crate) Live);

impl Following {
    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.0.current().map(|current| current.certified.clone())
    }
}

impl ResolvesServerCert for Following {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }
}

impl ResolvesClientCert for Following {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
