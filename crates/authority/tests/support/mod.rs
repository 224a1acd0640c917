//! A swarm's managers as the CA sees them: roots, leaves, and a client that speaks HTTP over mutual TLS as an engine does.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "each test uses a part"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pki::certificate::Certificate;
use pki::identity::{Role, Subject};
use pki::issue;
use pki::key::PrivateKey;
use pki::{Issuer, Serial, Time};
use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// The cluster of all tests that do not say otherwise.
pub const CLUSTER: &str = "r62qla19jtyxgvvgsddkfb8ym";
/// The path that is asked.
pub const SIGN: &str = "/api/v1/cfssl/sign";
/// The other one.
pub const INFO: &str = "/api/v1/cfssl/info";

/// The present.
pub fn now() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Time::from_unix_millis(i64::try_from(since.as_millis()).unwrap())
}

/// Bytes that were not there before, in this process.
fn fresh<const N: usize>() -> [u8; N] {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut bytes = [0x11; N];
    bytes[N - 8..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    bytes[N - 12..N - 8].copy_from_slice(&std::process::id().to_be_bytes());
    bytes
}

/// A new key.
pub fn key() -> PrivateKey {
    PrivateKey::generate_p256(&fresh()).unwrap()
}

/// A node's id.
pub fn node_id(n: u64) -> String {
    format!("{n:025}")
}

/// A root with its key.
pub struct Root {
    /// The certificate.
    pub certificate: Certificate,
    /// The key.
    pub key: PrivateKey,
}

impl Root {
    /// A new one, from the present on.
    pub fn new() -> Self {
        let key = key();
        Self { certificate: issue::root(&key, Serial::from_random(fresh()), now()).unwrap(), key }
    }

    /// As what signs leaves.
    pub fn issuer(&self) -> Issuer {
        let pem = self.certificate.pem();
        let signer = Arc::new(self.key.duplicate());
        Issuer::build(pem.as_bytes(), Some(pem.as_bytes()), Some(signer), b"", now()).unwrap()
    }

    /// A node's leaf, made at `at`.
    pub fn leaf(&self, cluster: &str, role: Role, node: &str, at: Time) -> Node {
        let key = key();
        let subject = Subject { cluster: cluster.parse().unwrap(), role, node: node.parse().unwrap() };
        let details = issue::Leaf {
            subject: &subject,
            serial: Serial::from_random(fresh()),
            now: at,
            expiry: issue::LEAF_EXPIRY_DEFAULT,
        };
        let leaf = issue::leaf_for_signer(&key, &details, &self.issuer()).unwrap();
        Node { chain: vec![leaf], key }
    }

    /// A manager's leaf, of [`CLUSTER`].
    pub fn manager(&self, n: u64) -> Node {
        self.leaf(CLUSTER, Role::Manager, &node_id(n), now())
    }
}

/// A node with its certificate.
pub struct Node {
    /// Leaf first.
    pub chain: Vec<Certificate>,
    /// The leaf's key.
    pub key: PrivateKey,
}

impl Node {
    /// A TLS client that trusts `root` alone and checks the server's name.
    pub fn tls(&self, root: &Certificate, alpn: &[&str]) -> Arc<rustls::ClientConfig> {
        let der = self.key.pkcs8_der().expose().to_vec();
        let chain = self.chain.iter().map(|one| CertificateDer::from(one.der().to_vec())).collect();
        let mut config = builder(root).with_client_auth_cert(chain, PrivateKeyDer::try_from(der).unwrap()).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// Connects.
    pub async fn connect(&self, root: &Certificate, to: SocketAddr) -> Result<Client, String> {
        Client::connect(self.tls(root, &[]), to).await
    }
}

/// A TLS client without a certificate.
pub fn nobody(root: &Certificate) -> Arc<rustls::ClientConfig> {
    Arc::new(builder(root).with_no_client_auth())
}

fn builder(root: &Certificate) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(root.der().to_vec())).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyTime(verifier)))
}

/// Verifies a server as always, but as if it were soon after its certificate began: tests move the server's clock.
#[derive(Debug)]
struct AnyTime(Arc<rustls::client::WebPkiServerVerifier>);

impl ServerCertVerifier for AnyTime {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let begin = Certificate::from_der(leaf.as_ref()).unwrap().not_before().unix_secs();
        let soon = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(begin).unwrap() + 3_600));
        self.0.verify_server_cert(leaf, intermediates, name, ocsp, soon)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// An HTTP connection.
pub enum Client {
    /// HTTP/1.1.
    One(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    /// HTTP/2.
    Two(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// JSON, or null.
    pub body: Value,
    /// As it came.
    pub text: String,
}

impl Answer {
    /// The certificate.
    pub fn certificate(&self) -> Certificate {
        assert_eq!((self.status, &self.body["success"]), (200, &json!(true)), "{}", self.text);
        let pem = self.body["result"]["certificate"].as_str().unwrap();
        Certificate::parse_pem_bundle(pem.as_bytes()).unwrap().remove(0)
    }

    /// The first error's text, with the status in front.
    pub fn refusal(&self) -> String {
        assert_eq!(self.body["success"], json!(false), "{}", self.text);
        format!("{} {}", self.status, self.body["errors"][0]["message"].as_str().unwrap())
    }
}

impl Client {
    /// Connects; an alert that comes after the handshake (TLS 1.3) is an error of the first request.
    pub async fn connect(tls: Arc<rustls::ClientConfig>, to: SocketAddr) -> Result<Client, String> {
        let stream = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).unwrap();
        let name = ServerName::from(to.ip());
        let stream = tokio_rustls::TlsConnector::from(tls).connect(name, stream).await;
        let stream = stream.map_err(|error| error.to_string())?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .map_err(|error| error.to_string())?;
            tokio::spawn(connection);
            return Ok(Client::Two(sender));
        }
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        Ok(Client::One(sender))
    }

    /// Sends a request.
    pub async fn send(&mut self, method: &str, path: &str, body: impl Into<Bytes>) -> Result<Answer, String> {
        let request = http::Request::builder()
            .method(method)
            .uri(match self {
                Client::One(_) => path.to_owned(),
                Client::Two(_) => format!("https://ca{path}"),
            })
            .header("host", "ca")
            .header("content-type", "application/json")
            .body(Full::new(body.into()))
            .unwrap();
        let sent = async {
            let response = match self {
                Client::One(sender) => {
                    sender.ready().await.map_err(|error| error.to_string())?;
                    sender.send_request(request).await
                }
                Client::Two(sender) => sender.send_request(request).await,
            };
            let response = response.map_err(|error| error.to_string())?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
            let text = String::from_utf8_lossy(&body).into_owned();
            Ok(Answer { status, body: serde_json::from_str(&text).unwrap_or_default(), text })
        };
        tokio::time::timeout(Duration::from_secs(30), sent).await.unwrap_or_else(|_| Err("no answer in 30 s".into()))
    }

    /// Asks for a certificate.
    pub async fn sign(&mut self, request: &Value) -> Answer {
        self.send("POST", SIGN, request.to_string()).await.unwrap()
    }
}

/// What an engine sends for a node's certificate.
pub fn request(cluster: &str, role: Role, node: &str) -> Value {
    request_for(&key(), cluster, role, node)
}

/// The same for this key.
pub fn request_for(key: &PrivateKey, cluster: &str, role: Role, node: &str) -> Value {
    let subject = Subject { cluster: cluster.parse().unwrap(), role, node: node.parse().unwrap() };
    json!(cfssl::message::SignRequest::for_node(&subject, &pki::csr::request(key).unwrap()))
}

/// What an engine sends for the cross-signing of `root`.
pub fn cross_request(root: &Root) -> Value {
    let csr = pki::csr::named_request(root.certificate.subject_der(), &root.key).unwrap();
    json!({
        "hosts": null, "certificate_request": csr,
        "subject": {"CN": root.certificate.common_name(), "names": [], "SerialNumber": ""},
        "profile": "CA", "crl_override": "", "label": "",
        "extensions": [{"id": "2.5.29.19", "critical": true, "value": "30030101ff"}],
        "NotBefore": "0001-01-01T00:00:00Z", "NotAfter": "0001-01-01T00:00:00Z", "ReturnPrecert": false, "metadata": null,
    })
}
