//! TLS of the API for operators: a certificate of the operators' root with its key in memory, and clients of that root only.
//!
//! - It is there while this machine is a manager; on others handshakes are refused, and the log says so.
//! - A certificate is replaced at half of its life, and when the root or the names that the API is reached by are others.
//! - Who has no right is refused in the handshake already; each request is judged again (see [`caller`](crate::caller)).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cluster::node::IssuerHash;
use cluster::operators::OperatorDenial;
use manager::operators::{API_SERVER_LIFE, ApiNames, ApiServer};
use pki::certificate::Certificate;
use pki::time::Time;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::backend::{Backend, Control, Present};
use crate::caller::changed;
use crate::clock::now;
use crate::config::Host;

/// When it is tried again if no certificate could be had: the cluster may have no leader for a moment.
const RETRY: Duration = Duration::from_secs(2);
/// How often a certificate's age is looked at when nothing changes.
const LOOK_EVERY: Duration = Duration::from_secs(60);

const NO_MANAGER: &str = "this node is no manager: operators are known to managers only";

/// Where handshakes take their configuration from; none: they are refused.
pub(crate) type Published = watch::Sender<Option<Arc<ServerConfig>>>;

/// What is served at present.
struct Served {
    root: IssuerHash,
    names: ApiNames,
    renew_at: Time,
}

impl Served {
    /// Whether it is what would be made now.
    fn fits(&self, control: &Control, names: &ApiNames) -> bool {
        let root = control.state().operators.root.as_ref().map(|root| root.issuer);
        root == Some(self.root) && self.names == *names && now() < self.renew_at
    }
}

/// Publishes a configuration as the cluster's state has it, for ever. `own`: what this machine is reached by.
pub(crate) async fn publish(backend: Backend, published: Published, own: ApiNames) {
    let mut present = backend.lifecycle().watch();
    let mut served: Option<Served> = None;
    let mut said: Option<String> = None;
    loop {
        // Both are taken before the look: what comes after it is a change.
        let here = present.borrow_and_update().clone();
        let changes = here.control().ok().map(Control::changed);
        let trouble = match &*here {
            Present::Manager(membership, control, _) => {
                let names = with(own.clone(), &membership.addr);
                if served.as_ref().is_some_and(|served| served.fits(control, &names)) {
                    None
                } else {
                    match make(&backend, control, &names).await {
                        Ok((config, fresh)) => {
                            info!(until = %fresh.renew_at.rfc3339(), "the API has a certificate for operators");
                            published.send_replace(Some(config));
                            served = Some(fresh);
                            None
                        }
                        Err(why) => Some(why),
                    }
                }
            }
            Present::Pending(_) => Some("this node is not a manager yet".to_owned()),
            Present::Inactive | Present::Worker(_) | Present::Locked(_) | Present::Error(..) => {
                Some(NO_MANAGER.to_owned())
            }
        };
        if changes.is_none() && served.take().is_some() {
            published.send_replace(None);
        }
        if let Some(why) = trouble.as_ref().filter(|why| said.as_ref() != Some(why)) {
            warn!(why, served = served.is_some(), "the API gets no certificate for operators");
        }
        said = trouble;
        tokio::select! {
            Ok(()) = present.changed() => {}
            Some(()) = changed(changes), if said.is_none() => {}
            () = tokio::time::sleep(if said.is_some() { RETRY } else { LOOK_EVERY }) => {}
        }
    }
}

async fn make(backend: &Backend, control: &Control, names: &ApiNames) -> Result<(Arc<ServerConfig>, Served), String> {
    let server = control.issue_api_server(names).await.map_err(|error| error.to_string())?;
    let served = Served {
        root: server.root.issuer,
        names: names.clone(),
        renew_at: server.certificate.not_after().saturating_sub(API_SERVER_LIFE / 2),
    };
    let config = server_config(backend, &server).map_err(|error| error.to_string())?;
    Ok((config, served))
}

fn server_config(backend: &Backend, server: &ApiServer) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(default_provider());
    let mut anchors = RootCertStore::empty();
    anchors.add(CertificateDer::from(server.root.certificate.der().to_vec()))?;
    let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(anchors), Arc::clone(&provider))
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let key = PrivatePkcs8KeyDer::from(server.key.pkcs8_der().expose().to_vec());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(OnRecord { chain, backend: backend.clone() }))
        .with_single_cert(vec![CertificateDer::from(server.certificate.der().to_vec())], key.into())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Nobody comes back without showing the certificate.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// Takes certificates of the operators' root that the cluster's state has on record, and whose holders may do something.
struct OnRecord {
    chain: Arc<dyn ClientCertVerifier>,
    backend: Backend,
}

impl std::fmt::Debug for OnRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnRecord")
    }
}

impl ClientCertVerifier for OnRecord {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        let certificate = Certificate::from_der(end_entity.as_ref()).map_err(|_| CertificateError::BadEncoding)?;
        let at = Time::from_unix_secs(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let present = self.backend.present();
        let control = present.control().map_err(|_| CertificateError::ApplicationVerificationFailure)?;
        let state = control.state();
        match state.operators.right(&certificate.serial(), &certificate.spki_hash(), at) {
            Ok(_) => Ok(verified),
            Err(denial) => Err(rustls::Error::InvalidCertificate(match denial {
                OperatorDenial::Revoked(_) => CertificateError::Revoked,
                OperatorDenial::Ended(_) => CertificateError::Expired,
                OperatorDenial::Early(_) => CertificateError::NotValidYet,
                OperatorDenial::Unknown => CertificateError::ApplicationVerificationFailure,
            })),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// What the API on these hosts is reached by, on this machine; where it is from elsewhere is said by the advertised address.
pub(crate) fn names(hosts: &[Host], hostname: &str) -> ApiNames {
    let mut names = ApiNames::default();
    for host in ["localhost", "127.0.0.1", "::1", hostname] {
        names = with(names, host);
    }
    for address in hosts.iter().filter_map(|host| host.tcp_address(true)) {
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
        names = with(names, host.trim_start_matches('[').trim_end_matches(']'));
    }
    names
}

/// With one more name or address; what is neither, or is all addresses, adds nothing.
fn with(mut names: ApiNames, host: &str) -> ApiNames {
    match host.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() || names.addresses.contains(&address) => {}
        Ok(address) => names.addresses.push(address),
        Err(_) => {
            let fits = ServerName::try_from(host).is_ok() && !names.dns.iter().any(|name| name == host);
            if fits {
                names.dns.push(host.to_owned());
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_of_an_api() {
        let check = |hosts: &[&str], dns: &[&str], addresses: &[&str]| {
            let hosts: Vec<Host> = hosts.iter().map(|host| host.parse().unwrap()).collect();
            let found = with(names(&hosts, "box"), "192.0.2.7");
            assert_eq!(found.dns, [&["localhost", "box"], dns].concat());
            let mut expected = vec!["127.0.0.1", "::1"];
            expected.extend(addresses);
            expected.push("192.0.2.7");
            assert_eq!(found.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        };
        check(&["unix:///run/x.sock"], &[], &[]);
        check(&["tcp://0.0.0.0:2376", "tcp://[::]:2376"], &[], &[]);
        check(&["tcp://api.example:2376", "tcp://192.0.2.1", "tcp://localhost:1"], &["api.example"], &["192.0.2.1"]);
        check(&["tcp://[2001:db8::1]:2376", "tcp://a_b..c:1"], &[], &["2001:db8::1"]);
    }
}
