//! TLS of tcp:// hosts: docker's flags and environment, for the command and for the daemon (engine-api.md 12).
//!
//! - It is on with any of the flags `--tls` and `--tlsverify`; for a command also with a non-empty `SWARMPKI_TLS_VERIFY`,
//!   or, if that is not set, `DOCKER_TLS_VERIFY` or `DOCKER_TLS`. It never applies to unix sockets.
//! - A command verifies the daemon always: docker's way to turn that off (`--tls` alone, `--tlsverify=false`) is not taken.
//! - The CA file is the only anchor. Key and certificate of a command are optional where no flag names them.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use clap::{ArgAction, Args};
use daemon::{Host, TlsMode, TlsSettings};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};

use crate::failure::Failure;
use crate::go_bool;

/// Holds the files where no flag names them.
const CERT_DIR_VARIABLE: &str = "SWARMPKI_CERT_PATH";
/// Where a daemon's files lie when the variable is not set either.
const DAEMON_CERT_DIR: &str = "/etc/swarmpki";

/// What `--tls` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// TLS, from files.
    Files,
    /// No TLS, outright.
    Nothing,
    /// TLS of the cluster's own operators.
    Operators,
}

impl FromStr for Wanted {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "operators" => Ok(Self::Operators),
            text => match go_bool::parse(text) {
                Ok(true) => Ok(Self::Files),
                Ok(false) => Ok(Self::Nothing),
                Err(_) => Err("must be one of true, false, operators"),
            },
        }
    }
}

/// The flags of TLS, for the daemon and for those who talk to it.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub(crate) struct TlsFlags {
    /// TLS for tcp:// hosts; both sides need certificates. Daemon: =operators
    // With =false a daemon serves plain text also where others reach it.
    #[arg(long, value_name = "BOOL", global = true, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", action = ArgAction::Set)]
    tls: Option<Wanted>,
    /// As --tls; a daemon with =false takes clients without
    #[arg(long, value_name = "BOOL", global = true, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", action = ArgAction::Set, value_parser = go_bool::parse)]
    tlsverify: Option<bool>,
    /// CA of the other side's certificate
    #[arg(long, value_name = "FILE", global = true)]
    tlscacert: Option<PathBuf>,
    /// Own certificate
    #[arg(long, value_name = "FILE", global = true)]
    tlscert: Option<PathBuf>,
    /// Own key
    #[arg(long, value_name = "FILE", global = true)]
    tlskey: Option<PathBuf>,
}

impl TlsFlags {
    /// Whether plain text was asked for in so many words.
    pub(crate) fn refused(&self) -> bool {
        self.tls == Some(Wanted::Nothing)
    }

    /// Whether a flag asks for TLS or, where none says anything, the environment.
    fn asked(&self, environment: impl FnOnce() -> bool) -> bool {
        self.tlsverify.is_some() || self.tls.map_or_else(environment, |wanted| wanted != Wanted::Nothing)
    }

    /// The daemon's settings: files from the flags, else from `$SWARMPKI_CERT_PATH`, else from `/etc/swarmpki`.
    pub(crate) fn server(&self) -> Result<Option<TlsMode>, Failure> {
        if self.tls == Some(Wanted::Operators) {
            return match self.first_of_files() {
                None => Ok(Some(TlsMode::Operators)),
                Some(flag) => Err(Failure::new(format!("--tls=operators and {flag} do not go together"))
                    .hint("--tls=operators takes its certificates from the cluster. For your own files leave it out: --tlsverify --tlscacert FILE --tlscert FILE --tlskey FILE")),
            };
        }
        if self.tls != Some(Wanted::Files) && self.tlsverify.is_none() {
            return Ok(None);
        }
        let dir = directory(CERT_DIR_VARIABLE).unwrap_or_else(|| PathBuf::from(DAEMON_CERT_DIR));
        let file = |given: &Option<PathBuf>, name: &str| given.clone().unwrap_or_else(|| dir.join(name));
        Ok(Some(TlsMode::Files(TlsSettings {
            ca: file(&self.tlscacert, "ca.pem"),
            cert: file(&self.tlscert, "cert.pem"),
            key: file(&self.tlskey, "key.pem"),
            verify: self.tlsverify.unwrap_or(true),
        })))
    }

    /// The first flag given that is about files.
    fn first_of_files(&self) -> Option<&'static str> {
        [
            ("--tlsverify", self.tlsverify.is_some()),
            ("--tlscacert", self.tlscacert.is_some()),
            ("--tlscert", self.tlscert.is_some()),
            ("--tlskey", self.tlskey.is_some()),
        ]
        .into_iter()
        .find_map(|(flag, given)| given.then_some(flag))
    }

    /// The TLS with which a command talks to `host`; `None`: none.
    pub(crate) fn client(&self, host: &Host) -> Result<Option<Arc<ClientConfig>>, Failure> {
        if matches!(host, Host::Unix(_)) || !self.asked(environment_asks) {
            return Ok(None);
        }
        if self.tls == Some(Wanted::Operators) {
            return Err(Failure::new("--tls=operators is for the daemon")
                .hint("A command needs a certificate: swarmpki --tls -H tcp://HOST:2376, with ca.pem, cert.pem and key.pem in $SWARMPKI_CERT_PATH or $DOCKER_CERT_PATH"));
        }
        if self.tlsverify == Some(false) {
            return Err(Failure::new("--tlsverify=false: this command always verifies the daemon's certificate")
                .hint("Name the CA that it comes from: --tlscacert FILE"));
        }
        let dir = client_directory();
        let file = |given: &Option<PathBuf>, name: &str| given.clone().unwrap_or_else(|| dir.join(name));
        let anchors = anchors(&file(&self.tlscacert, "ca.pem"))?;
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid(&error))?
            .with_root_certificates(anchors);
        let (cert, key) = (file(&self.tlscert, "cert.pem"), file(&self.tlskey, "key.pem"));
        let named = self.tlscert.is_some() || self.tlskey.is_some();
        let mut config = if named || (cert.exists() && key.exists()) {
            let (chain, private) = pair(&cert, &key)?;
            builder.with_client_auth_cert(chain, private).map_err(|error| invalid(&error))?
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Some(Arc::new(config)))
    }
}

/// The name to verify the daemon at `address` (host:port) by.
pub(crate) fn server_name(address: &str) -> Result<ServerName<'static>, InvalidDnsNameError> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(host.to_owned())
}

/// What broke in TLS, in docker's words and with the next step in ours, if an error or one of its causes came from there.
pub(crate) fn broken(host: &Host, error: &(dyn std::error::Error + 'static)) -> Option<Failure> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            let failure = Failure::new(format!("error during connect: {host}: {}", words(tls)));
            return Some(match next_step(tls) {
                Some(step) => failure.hint(step),
                None => failure,
            });
        }
        // An io::Error does not name the error that it wraps as its source, but that error's.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Go's words, which docker's command shows. Source: Go, crypto/tls/alert.go.
fn words(error: &rustls::Error) -> String {
    match error {
        rustls::Error::AlertReceived(alert) => match alert_words(*alert) {
            Some(words) => format!("remote error: tls: {words}"),
            None => format!("remote error: tls: {alert:?}"),
        },
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "tls: failed to verify certificate: x509: certificate signed by unknown authority".to_owned()
        }
        rustls::Error::InvalidCertificate(fault) if is_a_ca(fault) => {
            "tls: failed to verify certificate: it is a CA's, and no server's".to_owned()
        }
        rustls::Error::InvalidCertificate(fault) => format!("tls: failed to verify certificate: {fault}"),
        rustls::Error::InvalidMessage(_) => "http: server gave HTTP response to HTTPS client".to_owned(),
        other => format!("tls: {other}"),
    }
}

fn alert_words(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::HandshakeFailure => "handshake failure",
        AlertDescription::BadCertificate => "bad certificate",
        AlertDescription::UnsupportedCertificate => "unsupported certificate",
        AlertDescription::CertificateRevoked => "revoked certificate",
        AlertDescription::CertificateExpired => "expired certificate",
        AlertDescription::CertificateUnknown => "unknown certificate",
        AlertDescription::UnknownCA => "unknown certificate authority",
        AlertDescription::AccessDenied => "access denied",
        AlertDescription::DecryptError => "error decrypting message",
        AlertDescription::ProtocolVersion => "protocol version not supported",
        AlertDescription::InternalError => "internal error",
        AlertDescription::CertificateRequired => "certificate required",
        AlertDescription::NoApplicationProtocol => "no application protocol",
        _ => return None,
    })
}

/// What to do about it.
fn next_step(error: &rustls::Error) -> Option<&'static str> {
    Some(match error {
        rustls::Error::AlertReceived(alert) => match *alert {
            AlertDescription::CertificateRevoked => {
                "Your certificate was revoked, and is renewed no more: have a new one issued on a manager: swarmpki cert issue NAME --out DIR"
            }
            AlertDescription::CertificateExpired => {
                "Your certificate has ended: have a new one issued on a manager (swarmpki cert issue NAME --out DIR), and renew that in time."
            }
            AlertDescription::UnknownCA => {
                "Your certificate is of a root that this daemon does not take: a node's, another swarm's, or one from before 'cert revoke --all'. \
                 Have one issued on a manager: swarmpki cert issue NAME --out DIR"
            }
            AlertDescription::AccessDenied => {
                "This daemon does not know your certificate, or is no manager: try another manager, and look with 'swarmpki cert ls' there."
            }
            AlertDescription::CertificateRequired => {
                "Name your certificate: a directory with ca.pem, cert.pem and key.pem in SWARMPKI_CERT_PATH or DOCKER_CERT_PATH."
            }
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown => {
                "It is not a certificate for clients, or its time has not begun: look at it with openssl x509 -noout -text, and at both clocks."
            }
            _ => return None,
        },
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "The daemon's certificate is of another CA than your ca.pem: of another swarm, or of one whose operators' root was given up \
             ('cert revoke --all'). Have a directory with its ca.pem from somebody you trust."
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "The daemon does not know that name as its own: name it by another, or start it with that name in -H.",
        rustls::Error::InvalidCertificate(fault) if is_a_ca(fault) => {
            "Give the daemon a certificate that is no CA's: openssl req -x509 ... -addext basicConstraints=critical,CA:FALSE"
        }
        rustls::Error::InvalidMessage(_) => {
            "The daemon has no TLS there: leave out --tls, or start it with --tls=operators."
        }
        _ => return None,
    })
}

/// Whether a certificate was refused for being a CA's: a self-signed one is, unless it says otherwise.
fn is_a_ca(fault: &CertificateError) -> bool {
    let CertificateError::Other(other) = fault else { return false };
    other.0.downcast_ref::<webpki::Error>() == Some(&webpki::Error::CaUsedAsEndEntity)
}

fn environment_asks() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    match std::env::var_os("SWARMPKI_TLS_VERIFY") {
        Some(value) => !value.is_empty(),
        None => set("DOCKER_TLS_VERIFY") || set("DOCKER_TLS"),
    }
}

/// Where a command's files lie: docker's places, so that who has them for docker has them for us.
fn client_directory() -> PathBuf {
    directory(CERT_DIR_VARIABLE)
        .or_else(|| directory("DOCKER_CERT_PATH"))
        .or_else(|| directory("DOCKER_CONFIG"))
        .or_else(|| directory("HOME").map(|home| home.join(".docker")))
        .unwrap_or_default()
}

fn directory(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn anchors(path: &Path) -> Result<RootCertStore, Failure> {
    let pem = read(path)?;
    let mut anchors = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem).flatten() {
        // One that cannot be an anchor leaves the others, as docker has it.
        let _ = anchors.add(certificate);
    }
    if anchors.is_empty() {
        return Err(Failure::new(format!(
            "invalid TLS configuration: failed to append certificates from PEM file: {:?}",
            path.display().to_string()
        )));
    }
    Ok(anchors)
}

fn pair(cert: &Path, key: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Failure> {
    let unusable = |path: &Path| {
        Failure::new(format!(
            "invalid TLS configuration: error reading X509 key pair - make sure the key is not encrypted: {}",
            path.display()
        ))
    };
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(&read(cert)?).collect::<Result<_, _>>().map_err(|_| unusable(cert))?;
    if chain.is_empty() {
        return Err(unusable(cert));
    }
    let secret = zeroize::Zeroizing::new(read(key)?);
    let private = PrivateKeyDer::from_pem_slice(&secret).map_err(|_| unusable(key))?;
    Ok((chain, private))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        let reason = error
            .raw_os_error()
            .map_or_else(|| error.to_string(), |number| nix::errno::Errno::from_raw(number).desc().to_lowercase());
        Failure::new(format!("invalid TLS configuration: open {}: {reason}", path.display())).hint(
            "ca.pem, cert.pem and key.pem are looked for in $SWARMPKI_CERT_PATH, else where docker has them (~/.docker).",
        )
    })
}

fn invalid(error: &rustls::Error) -> Failure {
    Failure::new(format!("invalid TLS configuration: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_tls_say_what_docker_says_and_what_to_do() {
        let rows = [
            (AlertDescription::CertificateRevoked, "revoked certificate", "swarmpki cert issue"),
            (AlertDescription::CertificateExpired, "expired certificate", "swarmpki cert issue"),
            (AlertDescription::UnknownCA, "unknown certificate authority", "swarmpki cert issue"),
            (AlertDescription::AccessDenied, "access denied", "swarmpki cert ls"),
            (AlertDescription::CertificateRequired, "certificate required", "DOCKER_CERT_PATH"),
            (AlertDescription::BadCertificate, "bad certificate", "openssl"),
        ];
        let host = Host::Tcp("h:1".to_owned());
        for (alert, text, step) in rows {
            // As it comes out of a stream.
            let error = std::io::Error::other(rustls::Error::AlertReceived(alert));
            let shown = broken(&host, &error).map(|failure| failure.to_string()).unwrap_or_default();
            let (first, hint) = shown.split_once('\n').unwrap_or_default();
            assert_eq!(first, format!("error during connect: tcp://h:1: remote error: tls: {text}"));
            assert!(hint.contains(step), "{shown}");
        }
        assert!(broken(&host, &std::io::Error::other("something else")).is_none());
        // As rustls wraps it.
        let ca = rustls::OtherError(Arc::new(webpki::Error::CaUsedAsEndEntity));
        let error = rustls::Error::InvalidCertificate(CertificateError::Other(ca));
        let shown = broken(&host, &std::io::Error::other(error)).map(|failure| failure.to_string()).unwrap_or_default();
        assert!(shown.contains("it is a CA's, and no server's\n") && shown.contains("CA:FALSE"), "{shown}");
    }
}
