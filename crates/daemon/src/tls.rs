//! TLS of the Engine API over TCP, from the files dockerd's flags name (engine-api.md 12).

mod clients;
mod reload;

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::config::TlsSettings;
use clients::ClientAnchors;
pub(crate) use reload::Files;

/// The API's TLS could not be set up; the text is docker's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid TLS configuration: {0}")]
pub struct TlsError(String);

/// What is made of a CA file that does not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strictness {
    /// Whatever can be read of it is taken: docker's way.
    AsDocker,
    /// Nothing: it may be half written.
    Whole,
}

/// Builds the server's configuration: TLS 1.2 at least, `http/1.1` only, no resumption.
fn server_config(settings: &TlsSettings, strictness: Strictness) -> Result<Arc<ServerConfig>, TlsError> {
    let pair =
        format!("(cert: {:?}, key: {:?})", settings.cert.display().to_string(), settings.key.display().to_string());
    let no_pair = |reason: String| TlsError(format!("could not load X509 key pair {pair}: {reason}"));
    let bad_pair = |reason: &str| {
        TlsError(format!("error reading X509 key pair - make sure the key is not encrypted {pair}: tls: {reason}"))
    };
    let cert = read(&settings.cert).map_err(no_pair)?;
    let key = read(&settings.key).map_err(no_pair)?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&cert)
        .collect::<Result<_, _>>()
        .map_err(|_| bad_pair("failed to parse the certificate"))?;
    if chain.is_empty() {
        return Err(bad_pair("failed to find any PEM data in certificate input"));
    }
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|_| bad_pair("failed to find any PEM data in key input"))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError(error.to_string()))?;
    let builder = if settings.verify {
        builder.with_client_cert_verifier(anchors(&settings.ca, strictness)?)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => bad_pair("private key does not match public key"),
        other => TlsError(other.to_string()),
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// The client CA's certificates: the only anchors.
fn anchors(path: &Path, strictness: Strictness) -> Result<Arc<ClientAnchors>, TlsError> {
    let shown = path.display().to_string();
    let pem = read(path).map_err(|reason| TlsError(format!("could not read CA certificate {shown:?}: {reason}")))?;
    let unusable = || TlsError(format!("failed to append certificates from PEM file: {shown:?}"));
    let (mut certificates, mut faults) = (Vec::new(), 0_usize);
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        match certificate {
            Ok(certificate) => certificates.push(certificate),
            Err(_) => faults += 1,
        }
    }
    if faults > 0 && strictness == Strictness::Whole {
        return Err(unusable());
    }
    ClientAnchors::new(&certificates).ok_or_else(unusable)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    std::fs::read(path).map(Zeroizing::new).map_err(|error| {
        let reason = error
            .raw_os_error()
            .map_or_else(|| error.to_string(), |number| nix::errno::Errno::from_raw(number).desc().to_lowercase());
        format!("open {}: {reason}", path.display())
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::fs;

    #[test]
    fn texts_of_a_failed_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (first, second) = (
            rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap(),
            rcgen::generate_simple_self_signed(["b".to_owned()]).unwrap(),
        );
        fs::write(path("cert.pem"), first.cert.pem()).unwrap();
        fs::write(path("key.pem"), first.signing_key.serialize_pem()).unwrap();
        fs::write(path("other-key.pem"), second.signing_key.serialize_pem()).unwrap();
        fs::write(path("empty.pem"), "nothing").unwrap();
        let d = dir.path().display();
        let try_with = |ca: &str, key: &str, verify: bool| {
            let settings = TlsSettings { ca: path(ca), cert: path("cert.pem"), key: path(key), verify };
            server_config(&settings, Strictness::AsDocker)
                .map(|config| config.alpn_protocols.clone())
                .map_err(|error| error.to_string())
        };
        assert_eq!(try_with("cert.pem", "key.pem", true), Ok(vec![b"http/1.1".to_vec()]));
        assert!(try_with("none.pem", "key.pem", false).is_ok(), "the CA file is not read then");
        assert_eq!(
            try_with("cert.pem", "none.pem", true),
            Err(format!(
                "invalid TLS configuration: could not load X509 key pair (cert: \"{d}/cert.pem\", key: \"{d}/none.pem\"): open {d}/none.pem: no such file or directory"
            ))
        );
        assert_eq!(
            try_with("none.pem", "key.pem", true),
            Err(format!(
                "invalid TLS configuration: could not read CA certificate \"{d}/none.pem\": open {d}/none.pem: no such file or directory"
            ))
        );
        assert_eq!(
            try_with("cert.pem", "other-key.pem", true),
            Err(format!(
                "invalid TLS configuration: error reading X509 key pair - make sure the key is not encrypted (cert: \"{d}/cert.pem\", key: \"{d}/other-key.pem\"): tls: private key does not match public key"
            ))
        );
        assert_eq!(
            try_with("empty.pem", "key.pem", true),
            Err(format!("invalid TLS configuration: failed to append certificates from PEM file: \"{d}/empty.pem\""))
        );
    }
}
