//! Configurations for asking servers that are no nodes: external CAs. Such a server is known by its host name and by
//! roots that are given; we are known to it by the identity in use.

use std::fmt;
use std::sync::Arc;

use pki::certificate::Certificate;
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};

use crate::anchors::Anchors;
use crate::fault::{ChainFault, ConnectError};
use crate::handshake::{algorithms, client_builder, finish_client};
use crate::live::Live;
use crate::peers::{Clock, Following};
use crate::verifier::handshake_signatures;

/// A client's configuration for servers that are certified for their host name by one of `roots`, and by no other.
/// With `live` the identity in use at each handshake is presented, if there is one; without it none is.
/// No ALPN, so HTTP/1.1; no resumption.
///
/// # Errors
/// [`ConnectError::Peer`] if a root cannot be a trust anchor; [`ConnectError::Tls`] if rustls refuses the parameters,
/// which it does not for those used here.
pub fn outside_client_config(
    roots: &[Certificate],
    live: Option<&Live>,
    clock: Clock,
) -> Result<ClientConfig, ConnectError> {
    let anchors = Anchors::new(roots).map_err(ConnectError::Peer)?;
    let builder = client_builder(Arc::new(HostVerifier { anchors, clock })).map_err(ConnectError::Tls)?;
    let config = match live {
        Some(live) => builder.with_client_cert_resolver(Arc::new(Following(live.clone()))),
        None => builder.with_no_client_auth(),
    };
    Ok(finish_client(config, Vec::new()))
}

/// Judges a server by its host name.
struct HostVerifier {
    anchors: Anchors,
    clock: Clock,
}

impl ServerCertVerifier for HostVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let at = (self.clock)();
        self.anchors.walk(leaf, intermediates, at, KeyUsage::server_auth()).map_err(|fault| fault.to_tls())?;
        let malformed = |error: webpki::Error| ChainFault::Malformed(error.to_string()).to_tls();
        let entity = EndEntityCert::try_from(leaf).map_err(malformed)?;
        entity.verify_is_valid_for_subject_name(name).map_err(|_| {
            let presented = entity.valid_dns_names().map(str::to_owned).collect();
            let expected = name.to_owned();
            rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { expected, presented })
        })?;
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

impl fmt::Debug for HostVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostVerifier").finish_non_exhaustive()
    }
}
