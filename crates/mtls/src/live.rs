//! The read end: handshakes with the identity in use.

use std::fmt;
use std::sync::Arc;

use pki::bundle::TrustBundle;
use pki::certificate::Certificate;
use pki::identity::{CA_NAME, ClusterId, NodeId, Role};
use pki::key::SpkiHash;
use pki::time::Time;
use rustls::pki_types::{DnsName, ServerName};
use rustls::{ClientConfig, ClientConnection, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::anchors::{Anchors, CallerAnchors};
use crate::client_stream::ClientStream;
use crate::current::{Current, Presented};
use crate::fault::{AcceptError, ChainFault, ConnectError};
use crate::handshake::{ALPN_H2, WRITE_BUFFER_BYTES_MAX, client_builder, finish_client, server_config};
use crate::publisher::Shared;
use crate::revoked::RevokedSet;
use crate::verified_peer::{Expired, VerifiedPeer};
use crate::verifier::{AnyServer, Finding, ManagerVerifier, NodeVerifier};

/// The name that a manager's certificate is checked for. Sent as SNI, by which a manager knows whom it talks to.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum ManagerName {
    /// `swarm-ca`: joining, and fetching the unlock key.
    Ca,
    /// `swarm-manager`: everything else.
    Manager,
}

impl ManagerName {
    /// The DNS name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ManagerName::Ca => CA_NAME,
            ManagerName::Manager => Role::Manager.ou(),
        }
    }
}

/// What a manager that is dialled must be, beside being one of our own cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expect {
    /// The name its certificate must be for.
    pub name: ManagerName,
    /// Whether our own certificate is presented.
    pub identify: bool,
    /// The manager it must be, if that matters.
    pub node: Option<NodeId>,
    /// Whether it may present a leaf that has expired; [`VerifiedPeer::expired`] then says so, and the caller decides.
    pub expired: bool,
    /// The key of this very node: whoever proves to have it is the manager on this machine, whose leaf may have expired too.
    pub own: Option<SpkiHash>,
}

impl Expect {
    /// Sessions, renewals and calls between managers.
    #[must_use]
    pub fn manager() -> Expect {
        Expect { name: ManagerName::Manager, identify: true, node: None, expired: false, own: None }
    }

    /// A certain manager, also one that has slept for too long: managers know each other by their registered keys.
    #[must_use]
    pub fn member(node: NodeId) -> Expect {
        Expect { name: ManagerName::Manager, identify: true, node: Some(node), expired: true, own: None }
    }

    /// The unlock key for a new manager's certificate.
    #[must_use]
    pub fn ca() -> Expect {
        Expect { name: ManagerName::Ca, identify: true, node: None, expired: false, own: None }
    }

    /// The same, or the manager on this machine, which is known by the key that this node has.
    #[must_use]
    pub fn or_own(self, own: Option<SpkiHash>) -> Expect {
        Expect { own, ..self }
    }
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted<IO> {
    /// The stream, after its handshake.
    pub stream: tokio_rustls::server::TlsStream<IO>,
    /// Who the peer is, if it presented a certificate.
    pub peer: Option<VerifiedPeer>,
    /// The name the peer dialled: none or `swarm-ca` for a joiner, `swarm-manager` for a node.
    pub sni: Option<String>,
}

/// A connection that was made.
#[derive(Debug)]
pub struct Connected<IO> {
    /// The stream, after its handshake.
    pub stream: ClientStream<IO>,
    /// Who the manager is.
    pub peer: VerifiedPeer,
}

/// The read end of an identity. Cheap to clone; all clones see a publication at once.
#[derive(Clone)]
pub struct Live {
    pub(crate) shared: Arc<Shared>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("current", &self.current()).finish()
    }
}

impl Live {
    /// The identity in use, if there is one yet.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Current>> {
        self.shared.current.load_full()
    }

    /// The number of the identity in use; 0 while there is none. Changes after a swap, never before.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.shared.generation.subscribe()
    }

    /// The certificates that were taken back, as far as this node was told.
    #[must_use]
    pub fn revoked(&self) -> Arc<RevokedSet> {
        self.shared.revoked.load_full()
    }

    /// Epoch and version of that set. Changes after a swap, never before: who keeps connections open for long looks at its peers
    /// again then.
    #[must_use]
    pub fn revocations(&self) -> watch::Receiver<(u64, u64)> {
        self.shared.revocations.subscribe()
    }

    pub(crate) fn check_revoked(&self, peer: &VerifiedPeer) -> Result<(), ChainFault> {
        check_revoked(&self.shared.revoked.load(), peer)
    }

    /// Does the server's side of a handshake at the time `at`. `extra_anchors` are trusted beside the bundle in use.
    /// It waits for the peer without end: the caller sets the time-out.
    ///
    /// # Errors
    /// [`AcceptError`]; the peer has then been told by an alert as far as TLS has one.
    pub async fn accept<IO>(&self, io: IO, at: Time, extra_anchors: &[Certificate]) -> Result<Accepted<IO>, AcceptError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let current = self.current().ok_or(AcceptError::NoIdentity)?;
        let anchors = CallerAnchors::of(&current, extra_anchors)?;
        accept(current, io, at, anchors).await
    }

    /// The same with anchors made before, which are all that callers' chains may end at.
    ///
    /// # Errors
    /// [`AcceptError`].
    pub async fn accept_from<IO>(&self, io: IO, at: Time, anchors: CallerAnchors) -> Result<Accepted<IO>, AcceptError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let current = self.current().ok_or(AcceptError::NoIdentity)?;
        accept(current, io, at, anchors).await
    }

    /// Does the client's side of a handshake with a manager of our own cluster at the time `at`.
    /// It waits for the peer without end: the caller sets the time-out.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect<IO>(&self, io: IO, expect: &Expect, at: Time) -> Result<Connected<IO>, ConnectError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let current = self.current().ok_or(ConnectError::NoIdentity)?;
        let target = Target {
            anchors: current.anchors.clone(),
            name: expect.name,
            cluster: Some(current.subject.cluster.clone()),
            node: expect.node.clone(),
            expired: match expect.own {
                _ if expect.expired => Expired::Marked,
                Some(own) => Expired::OfKey(own),
                None => Expired::Refused,
            },
            revoked: self.revoked(),
        };
        dial(io, target, at, expect.identify.then_some(current)).await
    }
}

pub(crate) fn check_revoked(revoked: &RevokedSet, peer: &VerifiedPeer) -> Result<(), ChainFault> {
    if revoked.contains(&peer.issuer, &peer.serial) {
        return Err(ChainFault::Revoked { node: peer.subject.node.clone(), serial: peer.serial });
    }
    Ok(())
}

async fn accept<IO>(
    current: Arc<Current>,
    io: IO,
    at: Time,
    anchors: CallerAnchors,
) -> Result<Accepted<IO>, AcceptError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let verifier = Arc::new(NodeVerifier { anchors: anchors.0, at, mandatory: false, finding: Finding::new() });
    let presented = Arc::new(Presented(current));
    let config = server_config(verifier.clone(), presented, vec![ALPN_H2.to_vec()]).map_err(AcceptError::Tls)?;
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

/// Connects without a certificate of our own to a manager that is certified by `trust`, at the time `at`: for joining.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect_pinned<IO>(
    io: IO,
    trust: &TrustBundle,
    name: ManagerName,
    at: Time,
) -> Result<Connected<IO>, ConnectError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let anchors = Anchors::new(trust.certificates()).map_err(ConnectError::Peer)?;
    let target = Target {
        anchors: Arc::new(anchors),
        name,
        cluster: None,
        node: None,
        expired: Expired::Refused,
        revoked: Arc::default(),
    };
    dial(io, target, at, None).await
}

/// Connects without verifying anything and without a name: only for the download of a root bundle, whose digest the
/// caller must check, or which it must check its own certificate against.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect_unverified<IO>(io: IO) -> Result<ClientStream<IO>, ConnectError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut config = client_builder(Arc::new(AnyServer)).map_err(ConnectError::Tls)?.with_no_client_auth();
    config.enable_sni = false;
    let stream = handshake(io, config, ManagerName::Ca).await.map_err(ConnectError::from_io)?;
    Ok(ClientStream::new(stream))
}

struct Target {
    anchors: Arc<Anchors>,
    name: ManagerName,
    cluster: Option<ClusterId>,
    node: Option<NodeId>,
    expired: Expired,
    revoked: Arc<RevokedSet>,
}

async fn dial<IO>(
    io: IO,
    target: Target,
    at: Time,
    identity: Option<Arc<Current>>,
) -> Result<Connected<IO>, ConnectError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let verifier = Arc::new(ManagerVerifier {
        anchors: target.anchors,
        at,
        name: target.name.as_str(),
        cluster: target.cluster,
        node: target.node,
        expired: target.expired,
        revoked: target.revoked,
        finding: Finding::new(),
    });
    let builder = client_builder(verifier.clone()).map_err(ConnectError::Tls)?;
    let config = match identity {
        Some(current) => builder.with_client_cert_resolver(Arc::new(Presented(current))),
        None => builder.with_no_client_auth(),
    };
    let outcome = handshake(io, config, target.name).await;
    match (outcome, verifier.finding.get()) {
        (Ok(stream), Some(Ok(peer))) => Ok(Connected { stream: ClientStream::new(stream), peer: peer.clone() }),
        (_, Some(Err(fault))) => Err(ConnectError::Peer(fault.clone())),
        (Err(error), _) => Err(ConnectError::from_io(error)),
        // Not reachable with the suites we offer: each of them has the server present a certificate.
        (Ok(_), None) => Err(ConnectError::Tls(rustls::Error::NoCertificatesPresented)),
    }
}

async fn handshake<IO>(
    io: IO,
    config: ClientConfig,
    name: ManagerName,
) -> std::io::Result<tokio_rustls::client::TlsStream<IO>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let config = finish_client(config, vec![ALPN_H2.to_vec()]);
    let name = DnsName::try_from(name.as_str()).map_err(std::io::Error::other)?;
    let limit = |connection: &mut ClientConnection| {
        connection.set_buffer_limit(Some(WRITE_BUFFER_BYTES_MAX));
    };
    TlsConnector::from(Arc::new(config)).connect_with(ServerName::DnsName(name), io, limit).await
}
