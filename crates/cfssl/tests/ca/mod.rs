//! A CA of the test's own: roots and leaves with every liberty a stranger might take, and an HTTPS server that answers as the
//! test tells it.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use mtls::{Clock, Identity, Live, Publisher};
use pki::bundle::{Issuer as PkiIssuer, TrustBundle};
use pki::certificate::Certificate;
use pki::csr::Csr;
use pki::issue::{self, Leaf};
use pki::key::{PrivateKey, Signer as _};
use pki::serial::Serial;
use pki::time::Time;
use pki::{Role, Subject};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SubjectPublicKeyInfo,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use swarmpki_cfssl::message::SignRequest;
use swarmpki_cfssl::{Backoff, Client, Expected, Hostile, LifePolicy, Settings, Signed, Target, answer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub const DAY: Duration = Duration::from_secs(86_400);
pub const HOUR: Duration = Duration::from_secs(3_600);
pub const LIFE: LifePolicy =
    LifePolicy { min: HOUR, max: Duration::from_secs(91 * 86_400), skew: Duration::from_secs(300) };

pub fn now() -> Time {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Time::from_unix_millis(i64::try_from(since.as_millis()).unwrap())
}

pub fn clock() -> Clock {
    Arc::new(now)
}

pub fn printable(value: &str) -> DnValue {
    DnValue::PrintableString(value.try_into().unwrap())
}

/// A root.
pub struct Root {
    pub params: CertificateParams,
    pub key: KeyPair,
    pub certificate: Certificate,
}

impl Root {
    pub fn new(name: &str) -> Root {
        Root::with_key(name, KeyPair::generate().unwrap())
    }

    pub fn with_key(name: &str, key: KeyPair) -> Root {
        let mut params = ca_params(name);
        params.not_after = (SystemTime::now() + DAY * 7_300).into();
        let der = params.self_signed(&key).unwrap();
        Root { certificate: Certificate::from_der(der.der().to_vec()).unwrap(), params, key }
    }

    /// A CA below this one.
    pub fn intermediate(&self, name: &str, life: Duration) -> Root {
        let key = KeyPair::generate().unwrap();
        let mut params = ca_params(name);
        params.not_after = (SystemTime::now() + life).into();
        let der = params.signed_by(&key, &self.issuer()).unwrap();
        Root { certificate: Certificate::from_der(der.der().to_vec()).unwrap(), params, key }
    }

    pub fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub fn private_key(&self) -> PrivateKey {
        PrivateKey::from_der(self.key.serialized_der()).unwrap()
    }

    /// A server's certificate for an address or a name, and its key.
    pub fn server(&self, host: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let (certificate, key) = self.server_leaf(host);
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    /// The same as PEM: certificate and key.
    pub fn server_pem(&self, host: &str) -> (String, String) {
        let (certificate, key) = self.server_leaf(host);
        (certificate.pem(), key.serialize_pem())
    }

    fn server_leaf(&self, host: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "external CA");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.signed_by(&key, &self.issuer()).unwrap(), key)
    }

    /// Certifies what a request asks for, altered.
    pub fn certify(&self, request: &Value, alter: impl FnOnce(&mut CertificateParams)) -> String {
        let csr = request["certificate_request"].as_str().unwrap();
        let key = Csr::parse(csr.as_bytes()).unwrap();
        self.certify_key(request, key.public_key().spki_der(), alter)
    }

    pub fn certify_key(&self, request: &Value, spki: &[u8], alter: impl FnOnce(&mut CertificateParams)) -> String {
        let hosts: Vec<String> = serde_json::from_value(request["hosts"].clone()).unwrap();
        let text = |value: &Value| printable(value.as_str().unwrap());
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name = DistinguishedName::new();
        let subject = &request["subject"];
        params.distinguished_name.push(DnType::OrganizationName, text(&subject["names"][0]["O"]));
        params.distinguished_name.push(DnType::OrganizationalUnitName, text(&subject["names"][0]["OU"]));
        params.distinguished_name.push(DnType::CommonName, text(&subject["CN"]));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.not_before = (SystemTime::now() - Duration::from_secs(300)).into();
        params.not_after = (SystemTime::now() + 90 * DAY).into();
        alter(&mut params);
        let key = SubjectPublicKeyInfo::from_der(spki).unwrap();
        params.signed_by(&key, &self.issuer()).unwrap().pem()
    }

    /// A manager's identity under this root that ends after `life`; negative if it has ended.
    pub fn manager(&self, node: &str, expired: bool) -> Identity {
        let trust = TrustBundle::parse(self.pem().as_bytes(), now()).unwrap();
        let key_pem = self.key.serialize_pem();
        let (root, key_pem) = (self.pem(), key_pem.as_bytes());
        let issuer = PkiIssuer::from_pem(root.as_bytes(), Some(root.as_bytes()), Some(key_pem), b"", now()).unwrap();
        let key = PrivateKey::generate_p256(&rand::<32>()).unwrap();
        let at = if expired { now().saturating_sub(DAY) } else { now() };
        let subject = subject(Role::Manager, node);
        let leaf = Leaf { subject: &subject, serial: Serial::from_random(rand()), now: at, expiry: 2 * HOUR };
        let certificate = issue::leaf_for_signer(&key, &leaf, &issuer).unwrap();
        Identity { chain: vec![certificate], key, trust }
    }

    pub fn live(&self, node: &str) -> (Publisher, Live) {
        let (publisher, live) = Publisher::new();
        publisher.publish(self.manager(node, false), now()).unwrap();
        (publisher, live)
    }
}

pub fn rand<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rustls::crypto::aws_lc_rs::default_provider().secure_random.fill(&mut bytes).unwrap();
    bytes
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, printable(name));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (SystemTime::now() - DAY).into();
    params
}

pub fn subject(role: Role, node: &str) -> Subject {
    Subject { cluster: "r62qla19jtyxgvvgsddkfb8ym".parse().unwrap(), role, node: node.parse().unwrap() }
}

/// A node that asks for a certificate.
pub struct Asker {
    pub key: PrivateKey,
    pub subject: Subject,
    pub request: SignRequest,
}

impl Asker {
    pub fn new(role: Role, node: &str) -> Asker {
        let key = PrivateKey::generate_p256(&rand::<32>()).unwrap();
        let subject = subject(role, node);
        let csr = pki::csr::request(&key).unwrap();
        let request = SignRequest::for_node(&subject, &csr);
        Asker { key, subject, request }
    }

    pub fn json(&self) -> Value {
        serde_json::to_value(&self.request).unwrap()
    }

    pub fn spki(&self) -> &[u8] {
        self.key.public().spki_der()
    }

    pub fn check(&self, root: &Certificate, pem: &[u8]) -> Result<Signed, Hostile> {
        self.check_with(root, &[], pem, |_| false)
    }

    pub fn check_with(
        &self,
        root: &Certificate,
        intermediates: &[Certificate],
        pem: &[u8],
        seen: impl FnOnce(&Serial) -> bool,
    ) -> Result<Signed, Hostile> {
        let expected = Expected { key: self.key.public(), subject: &self.subject, root, intermediates, life: LIFE };
        answer::check(pem, &expected, now(), seen)
    }
}

/// What the server does with a request.
pub enum Reply {
    /// A whole answer, and the connection is kept.
    Http { status: u16, headers: String, body: Vec<u8> },
    /// A body without end.
    Endless,
    /// A body whose end never comes.
    Stuck,
    /// Nothing at all.
    Silence,
    /// An answer after a while.
    Late(Duration, Box<Reply>),
    /// An answer once the gate is open.
    Held(tokio::sync::watch::Receiver<bool>, Box<Reply>),
}

impl Reply {
    pub fn json(status: u16, body: &Value) -> Reply {
        Reply::Http {
            status,
            headers: "Content-Type: application/json\r\n".to_owned(),
            body: body.to_string().into_bytes(),
        }
    }

    pub fn certificate(pem: &str) -> Reply {
        Reply::json(200, &json!({"success": true, "result": {"certificate": pem}, "errors": [], "messages": []}))
    }
}

type Act = Arc<dyn Fn(&Value) -> Reply + Send + Sync>;

/// Counts, and can be waited for.
pub struct Dropped(tokio::sync::Semaphore);

impl Default for Dropped {
    fn default() -> Dropped {
        Dropped(tokio::sync::Semaphore::new(0))
    }
}

impl Dropped {
    fn add_permits(&self, count: usize) {
        self.0.add_permits(count);
    }

    /// Waits for one more.
    pub async fn one(&self) {
        self.0.acquire().await.unwrap().forget();
    }
}

/// What the server saw.
#[derive(Default)]
pub struct Seen {
    pub connections: AtomicUsize,
    pub requests: AtomicUsize,
    /// Connections that the client ended while the server still had something to say.
    pub dropped: Dropped,
    /// For each request the serial of the client's certificate, if there was one.
    pub clients: Mutex<Vec<Option<Serial>>>,
    pub bodies: Mutex<Vec<String>>,
    pub heads: Mutex<Vec<String>>,
}

/// A server. It ends with the value.
pub struct Ca {
    pub url: String,
    pub seen: Arc<Seen>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Ca {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ca {
    /// Listens at `host` with a certificate of `root`, takes certificates of `root`'s from clients that have one.
    pub async fn start(host: &str, root: &Root, act: impl Fn(&Value) -> Reply + Send + Sync + 'static) -> Ca {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        Ca::start_on(listener, root, root, act)
    }

    pub fn start_on(
        listener: TcpListener,
        root: &Root,
        clients: &Root,
        act: impl Fn(&Value) -> Reply + Send + Sync + 'static,
    ) -> Ca {
        let address = listener.local_addr().unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(clients.certificate.der().to_vec().into()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let (certificate, key) = root.server(&address.ip().to_string());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let seen = Arc::new(Seen::default());
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let task = tokio::spawn(accept(listener, acceptor, seen.clone(), Arc::new(act)));
        Ca { url: format!("https://{address}/api/v1/cfssl/sign"), seen, task }
    }

    /// One that does what it should.
    pub async fn good(host: &str, root: Arc<Root>) -> Ca {
        Ca::good_on(TcpListener::bind((host, 0)).await.unwrap(), root)
    }

    pub fn good_on(listener: TcpListener, root: Arc<Root>) -> Ca {
        let maker = root.clone();
        Ca::start_on(listener, &root, &root, move |request| Reply::certificate(&maker.certify(request, |_| {})))
    }

    pub fn target(&self, root: &Root) -> Target {
        Target { url: self.url.clone(), roots: vec![root.certificate.clone()] }
    }

    pub fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, seen: Arc<Seen>, act: Act) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        seen.connections.fetch_add(1, Ordering::SeqCst);
        stream.set_nodelay(true).unwrap();
        let (acceptor, seen, act) = (acceptor.clone(), seen.clone(), act.clone());
        tokio::spawn(async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                let _ = serve(stream, &seen, &act).await;
            }
        });
    }
}

async fn serve(mut stream: TlsStream<tokio::net::TcpStream>, seen: &Seen, act: &Act) -> io::Result<()> {
    let client = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|leaf| Certificate::from_der(leaf.to_vec()).unwrap().serial());
    let mut buffer = Vec::new();
    while let Some((head, body)) = read_request(&mut stream, &mut buffer).await? {
        seen.requests.fetch_add(1, Ordering::SeqCst);
        seen.clients.lock().unwrap().push(client);
        seen.bodies.lock().unwrap().push(String::from_utf8(body.clone()).unwrap());
        seen.heads.lock().unwrap().push(head);
        let mut reply = act(&serde_json::from_slice(&body).unwrap());
        match reply {
            Reply::Late(wait, after) => {
                tokio::time::sleep(wait).await;
                reply = *after;
            }
            Reply::Held(mut gate, after) => {
                gate.wait_for(|open| *open).await.unwrap();
                reply = *after;
            }
            _ => {}
        }
        match reply {
            Reply::Http { status, headers, body } => {
                let head = format!("HTTP/1.1 {status} Text\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
                stream.write_all(&[head.as_bytes(), &body].concat()).await?;
            }
            Reply::Endless => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
                let chunk = [b"4000\r\n".as_slice(), &[b'x'; 0x4000], b"\r\n"].concat();
                while stream.write_all(&chunk).await.is_ok() {}
                seen.dropped.add_permits(1);
                return Ok(());
            }
            Reply::Stuck => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"success\":").await?;
                let _ = stream.read(&mut [0; 16]).await;
                seen.dropped.add_permits(1);
                return Ok(());
            }
            Reply::Silence | Reply::Late(..) | Reply::Held(..) => {
                let _ = stream.read(&mut [0; 16]).await;
                seen.dropped.add_permits(1);
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn read_request(
    stream: &mut TlsStream<tokio::net::TcpStream>,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<(String, Vec<u8>)>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned))
                .map_or(0, |length| length.trim().parse().unwrap());
            if buffer.len() >= end + 4 + length {
                let body = buffer[end + 4..end + 4 + length].to_vec();
                buffer.drain(..end + 4 + length);
                return Ok(Some((head, body)));
            }
        }
        let mut part = [0; 8_192];
        match stream.read(&mut part).await? {
            0 => return Ok(None),
            read => buffer.extend_from_slice(&part[..read]),
        }
    }
}

/// Waits that never end within a test unless something says so.
pub fn settings() -> Settings {
    let mut settings = Settings::new(clock(), Arc::new(|| 0.0));
    settings.timeout = Duration::from_secs(60);
    settings.hedge_after = Duration::from_secs(3_600);
    settings.backoff = Backoff { first: Duration::from_secs(3_600), max: Duration::from_secs(7_200) };
    settings
}

/// A client that asks these.
pub fn client(settings: Settings, live: Option<Live>, targets: Vec<Target>) -> Client {
    let client = Client::new(settings, live);
    client.configure(targets);
    client
}

/// An address that refuses connections, nobody else's while the value lives: bound, but not listened on.
pub struct Dead {
    pub address: SocketAddr,
    _socket: TcpSocket,
}

impl Dead {
    pub fn new(host: &str) -> Dead {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(host.parse().unwrap(), 0)).unwrap();
        Dead { address: socket.local_addr().unwrap(), _socket: socket }
    }

    pub fn target(&self, root: &Root) -> Target {
        let url = format!("https://{}/api/v1/cfssl/sign", self.address);
        Target { url, roots: vec![root.certificate.clone()] }
    }
}
