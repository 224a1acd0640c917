//! The server's end for one that is no node itself: nodes call it, each with its certificate.

use std::fmt;
use std::sync::Arc;

use pki::certificate::Certificate;
use pki::key::PrivateKey;
use pki::time::Time;
use rustls::ServerConnection;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use crate::anchors::CallerAnchors;
use crate::current::Current;
use crate::fault::AcceptError;
use crate::handshake::{WRITE_BUFFER_BYTES_MAX, server_config};
use crate::live::Accepted;
use crate::publisher::Rejected;
use crate::verifier::{Finding, NodeVerifier};

/// What a server presents that is no node: a certificate for its names, and the key. Cheap to clone.
#[derive(Clone)]
pub struct ServerKey(Arc<CertifiedKey>);

impl ServerKey {
    /// A chain, leaf first, and the leaf's key.
    ///
    /// # Errors
    /// [`Rejected`] if there is no certificate, or the key cannot be used or is another's.
    pub fn new(chain: &[Certificate], key: &PrivateKey) -> Result<Self, Rejected> {
        if chain.is_empty() {
            return Err(Rejected::Empty);
        }
        let der = key.pkcs8_der();
        let key = PrivateKeyDer::try_from(der.expose()).map_err(|reason| Rejected::KeyUnusable(reason.to_owned()))?;
        let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|error| Rejected::KeyUnusable(error.to_string()))?;
        let certified = CertifiedKey::new(Current::wire_chain(chain), signing);
        certified.keys_match().map_err(|_| Rejected::KeyMismatch)?;
        Ok(Self(Arc::new(certified)))
    }

    /// Does the server's side of a handshake at the time `at` with a node that must present a certificate; `alpn` is offered
    /// and not required. A leaf that only has expired passes, marked. It waits for the peer without end: the caller sets the
    /// time-out.
    ///
    /// # Errors
    /// [`AcceptError`]; the peer has then been told by an alert as far as TLS has one.
    pub async fn accept<IO>(
        &self,
        io: IO,
        at: Time,
        callers: CallerAnchors,
        alpn: &[&[u8]],
    ) -> Result<Accepted<IO>, AcceptError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let verifier = Arc::new(NodeVerifier { anchors: callers.0, at, mandatory: true, finding: Finding::new() });
        let alpn = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let config = server_config(verifier.clone(), Arc::new(self.clone()), alpn).map_err(AcceptError::Tls)?;
        let limit = |connection: &mut ServerConnection| {
            connection.set_buffer_limit(Some(WRITE_BUFFER_BYTES_MAX));
        };
        let accepted = TlsAcceptor::from(Arc::new(config)).accept_with(io, limit).await;
        let stream = match (accepted, verifier.finding.get()) {
            (Ok(stream), _) => stream,
            (Err(_), Some(Err(fault))) => return Err(AcceptError::Peer(fault.clone())),
            (Err(error), _) => return Err(AcceptError::from_io(error)),
        };
        let peer = verifier.finding.get().and_then(|found| found.as_ref().ok()).cloned();
        let sni = stream.get_ref().1.server_name().map(str::to_owned);
        Ok(Accepted { stream, peer, sni })
    }
}

impl ResolvesServerCert for ServerKey {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerKey")
    }
}
