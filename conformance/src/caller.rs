//! A caller at port 2377 that is nobody's code but the test's: what an engine may send, and what it never would.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use testkit::engine::Certificates;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{AlertDescription, ClientConfig, Error, RootCertStore};
use tonic::Status;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use wire::client::{
    CaClient, ControlClient, DispatcherClient, HealthClient, LogBrokerClient, NodeCaClient, RaftMembershipClient,
};
use wire::proto::{
    HeartbeatRequest, IssueNodeCertificateRequest, IssueNodeCertificateResponse, NodeCertificateStatusRequest,
    NodeCertificateStatusResponse, NodeDescription, SessionMessage, SessionRequest,
};

/// The engine's own limit for a call.
const CALL_WITHIN: Duration = Duration::from_secs(5);

/// A key with its chain, both in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Leaf first.
    pub chain: String,
    /// Any form that rustls reads.
    pub key: String,
}

impl Pair {
    /// What lies on an engine's disk; its key file has headers, which are left out here.
    ///
    /// # Panics
    /// If the files cannot be read.
    pub fn load(files: &Certificates) -> Self {
        let key = std::fs::read_to_string(files.key()).expect("the key file");
        let chain = std::fs::read_to_string(files.chain()).expect("the certificate file");
        Self { chain, key: without_headers(&key) }
    }

    /// Puts it where an engine will find it at its next start.
    ///
    /// # Panics
    /// If the files cannot be written.
    pub fn save(&self, files: &Certificates) {
        write(&files.key(), &self.key);
        write(&files.chain(), &self.chain);
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("an engine's file");
}

/// PEM headers (RFC 1421) are lines with a colon, up to the first empty line.
fn without_headers(pem: &str) -> String {
    pem.lines().filter(|line| !line.contains(": ") && !line.is_empty()).map(|line| format!("{line}\n")).collect()
}

/// A connection to a manager.
#[derive(Clone)]
pub struct Caller {
    channel: Channel,
}

impl Caller {
    /// Connects without a certificate, as a joiner does once it trusts `root` (PEM).
    ///
    /// # Errors
    /// If the manager cannot be reached or does not prove to be one under `root`.
    pub async fn plain(manager: SocketAddr, root: &str) -> Result<Self, String> {
        Self::connect(manager, root, None, "swarm-ca").await
    }

    /// Connects with a certificate, as a node does.
    ///
    /// # Errors
    /// As [`Self::plain`]. That the manager refuses the certificate shows only at the first call: TLS 1.3 tells it after the handshake.
    pub async fn with(manager: SocketAddr, root: &str, pair: &Pair) -> Result<Self, String> {
        Self::connect(manager, root, Some(pair), "swarm-manager").await
    }

    /// How the manager's TLS ends a connection with a certificate that it refuses. TLS 1.3 tells it after the client's own end of the
    /// handshake, so the client reads, and says nothing meanwhile: what it sent unread would take the alert's place on the way.
    ///
    /// # Errors
    /// What came instead: an answer, an end without an alert, or nothing within an engine's limit.
    pub async fn alert(manager: SocketAddr, root: &str, pair: &Pair) -> Result<AlertDescription, String> {
        let connector = TlsConnector::from(Arc::new(config(root, Some(pair))?));
        let name = ServerName::try_from("swarm-manager").map_err(|error| error.to_string())?;
        let read = async {
            let stream = TcpStream::connect(manager).await?;
            connector.connect(name, stream).await?.read(&mut [0]).await
        };
        let error = match tokio::time::timeout(CALL_WITHIN, read).await {
            Ok(Ok(bytes)) => return Err(format!("{bytes} bytes and no refusal")),
            Ok(Err(error)) => error,
            Err(_) => return Err(format!("neither an answer nor a refusal within {CALL_WITHIN:?}")),
        };
        match error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) {
            Some(Error::AlertReceived(alert)) => Ok(*alert),
            _ => Err(format!("{error:?}")),
        }
    }

    async fn connect(manager: SocketAddr, root: &str, pair: Option<&Pair>, name: &'static str) -> Result<Self, String> {
        let config = Arc::new(config(root, pair)?);
        let connector = tower::service_fn(move |_| {
            let config = Arc::clone(&config);
            async move {
                let stream = TcpStream::connect(manager).await?;
                stream.set_nodelay(true)?;
                let name = ServerName::try_from(name).map_err(std::io::Error::other)?;
                TlsConnector::from(config).connect(name, stream).await.map(TokioIo::new)
            }
        });
        let endpoint = Endpoint::from_static("http://manager").connect_timeout(CALL_WITHIN);
        let channel = endpoint.connect_with_connector(connector).await.map_err(|error| format!("{error:?}"))?;
        Ok(Self { channel })
    }

    /// The `CA` service.
    pub fn ca(&self) -> CaClient<Channel> {
        CaClient::new(self.channel.clone())
    }

    /// The `NodeCA` service.
    pub fn node_ca(&self) -> NodeCaClient<Channel> {
        NodeCaClient::new(self.channel.clone())
    }

    /// The `Dispatcher` service.
    pub fn dispatcher(&self) -> DispatcherClient<Channel> {
        DispatcherClient::new(self.channel.clone())
    }

    /// Our own `Node` service.
    pub fn node(&self) -> wire::node::NodeClient<Channel> {
        wire::node::NodeClient::new(self.channel.clone())
    }

    /// The `LogBroker` service.
    pub fn log_broker(&self) -> LogBrokerClient<Channel> {
        LogBrokerClient::new(self.channel.clone())
    }

    /// The `Control` service.
    pub fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone())
    }

    /// The `Health` service.
    pub fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel.clone())
    }

    /// The `RaftMembership` service.
    pub fn raft_membership(&self) -> RaftMembershipClient<Channel> {
        RaftMembershipClient::new(self.channel.clone())
    }

    /// Calls any method by its path with an empty message; what the manager said if it refused, at once or in place of a first answer. `News`
    /// is a stream that may have nothing to say: that it is open is an answer.
    ///
    /// # Panics
    /// If it neither answers nor refuses within an engine's limit.
    pub async fn refusal(&self, path: &'static str) -> Option<Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        let mut open = false;
        let asked = async {
            grpc.ready().await.map_err(|error| Status::unavailable(format!("{error:?}")))?;
            // A method with one answer looks like one with a stream of one.
            let codec = tonic_prost::ProstCodec::<(), ()>::default();
            let answers =
                grpc.server_streaming(tonic::Request::new(()), PathAndQuery::from_static(path), codec).await?;
            open = true;
            answers.into_inner().message().await
        };
        let answered = tokio::time::timeout(CALL_WITHIN, asked).await;
        if answered.is_err() && open && path.ends_with("/News") {
            return None;
        }
        answered.unwrap_or_else(|_| panic!("{path}: neither an answer nor a refusal within {CALL_WITHIN:?}")).err()
    }

    /// Asks for a certificate.
    ///
    /// # Errors
    /// The manager's refusal.
    pub async fn issue(&self, csr: &[u8], token: &str) -> Result<IssueNodeCertificateResponse, Status> {
        let request = IssueNodeCertificateRequest { csr: csr.to_vec(), token: token.to_owned(), ..Default::default() };
        self.node_ca().issue_node_certificate(within(request)).await.map(tonic::Response::into_inner)
    }

    /// Asks what became of it.
    ///
    /// # Errors
    /// The manager's refusal.
    pub async fn status(&self, node_id: &str) -> Result<NodeCertificateStatusResponse, Status> {
        let request = NodeCertificateStatusRequest { node_id: node_id.to_owned() };
        self.node_ca().node_certificate_status(within(request)).await.map(tonic::Response::into_inner)
    }

    /// Opens a session and waits for its first message.
    ///
    /// # Errors
    /// The manager's refusal, at once or in place of the first message.
    pub async fn session(
        &self,
        session_id: &str,
    ) -> Result<(SessionMessage, tonic::Streaming<SessionMessage>), Status> {
        let description = NodeDescription { hostname: "caller".into(), ..Default::default() };
        let request = SessionRequest { description: Some(description), session_id: session_id.to_owned() };
        let mut stream = self.dispatcher().session(request).await?.into_inner();
        let first = stream.message().await?.ok_or_else(|| Status::unknown("the session ended without a message"))?;
        Ok((first, stream))
    }

    /// Says that the node is alive; answers the period until the next time.
    ///
    /// # Errors
    /// The manager's refusal.
    pub async fn heartbeat(&self, session_id: &str) -> Result<Duration, Status> {
        let request = HeartbeatRequest { session_id: session_id.to_owned() };
        let answer = self.dispatcher().heartbeat(within(request)).await?.into_inner();
        let period = answer.period.ok_or_else(|| Status::unknown("no period"))?;
        period.try_into().map_err(|_| Status::unknown("a period below zero"))
    }
}

/// A request with the engine's deadline.
pub fn within<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL_WITHIN);
    request
}

fn config(root: &str, pair: Option<&Pair>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(root.as_bytes()) {
        roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder =
        builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?.with_root_certificates(roots);
    let mut config = match pair {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let chain = CertificateDer::pem_slice_iter(pair.chain.as_bytes()).collect::<Result<Vec<_>, _>>();
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(|error| error.to_string())?;
            let chain = chain.map_err(|error| error.to_string())?;
            builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_a_key_file_are_left_out() {
        let with =
            "-----BEGIN PRIVATE KEY-----\nkek-version: 0\nraft-dek: Zm9v\n\nMIGH\nAgEA\n-----END PRIVATE KEY-----\n";
        assert_eq!(without_headers(with), "-----BEGIN PRIVATE KEY-----\nMIGH\nAgEA\n-----END PRIVATE KEY-----\n");
    }
}
