//! What all our handshakes have in common: provider, versions, limits.

use std::sync::{Arc, LazyLock};

use rustls::client::WantsClientCert;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, StoresServerSessions};
use rustls::{CipherSuite, ClientConfig, ConfigBuilder, ServerConfig, SupportedProtocolVersion};

/// The protocol that is offered by ALPN, and never required.
pub(crate) const ALPN_H2: &[u8] = b"h2";

/// Bytes that a connection holds for a peer that reads slowly, before writing waits.
pub(crate) const WRITE_BUFFER_BYTES_MAX: usize = 32 * 1024;

/// TLS 1.2 at least. Source: wire.md 1.
const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// Named everywhere: the process-wide default may be another one in a program that embeds us.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = aws_lc_rs::default_provider();
    // First the suite whose hash is SHA-256, as Go has it: no weaker than P-256 and X25519 are, and with SHA-384, which few
    // processors accelerate, the key schedule alone costs a tenth of a handshake.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
});

static NO_SESSIONS: LazyLock<Arc<dyn StoresServerSessions>> = LazyLock::new(|| Arc::new(NoServerSessionStorage {}));

/// The algorithms that signatures are verified by.
pub(crate) fn algorithms() -> &'static WebPkiSupportedAlgorithms {
    &PROVIDER.signature_verification_algorithms
}

/// A server's configuration. Made for each connection, since the verifier belongs to one connection.
pub(crate) fn server_config(
    verifier: Arc<dyn ClientCertVerifier>,
    resolver: Arc<dyn ResolvesServerCert>,
    alpn: Vec<Vec<u8>>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&VERSIONS)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.alpn_protocols = alpn;
    // A resumed session would carry the old chain past the verifier.
    config.session_storage = NO_SESSIONS.clone();
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The beginning of a client's configuration; [`finish_client`] is its end.
pub(crate) fn client_builder(
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Ok(builder)
}

pub(crate) fn finish_client(mut config: ClientConfig, alpn: Vec<Vec<u8>>) -> ClientConfig {
    config.alpn_protocols = alpn;
    config.resumption = rustls::client::Resumption::disabled();
    config
}
