//! A worker that a test leads by the hand through a rotation: it does what an engine does, but only when told to.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use pki::certificate::Certificate;
use pki::chain::validate_certificates;
use tonic::{Code, Status, Streaming};
use wire::proto::issuance_status::State;
use wire::proto::{NodeDescription, NodeTlsInfo, SessionMessage, SessionRequest};

use crate::caller::{Caller, Pair};
use crate::cluster::{Cluster, fetch};
use crate::csr::{self, Request};

/// How often what happens elsewhere is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The worker.
pub struct Puppet {
    /// Its id.
    pub id: String,
    /// Its key and chain.
    pub pair: Pair,
    /// What it trusts, PEM.
    pub trust: String,
    manager: SocketAddr,
    /// The id of its session, as an engine keeps it: it is no new registration then.
    session: Mutex<String>,
}

/// A session that it has open.
pub struct Told {
    /// The connection.
    pub caller: Caller,
    /// Further messages.
    pub stream: Streaming<SessionMessage>,
    /// The newest message.
    pub message: SessionMessage,
}

impl Told {
    /// Whether it is told to renew.
    pub fn is_ordered(&self) -> bool {
        let certificate = self.message.node.as_ref().and_then(|node| node.certificate.as_ref());
        certificate
            .and_then(|certificate| certificate.status.as_ref())
            .is_some_and(|status| status.state() == State::Rotate)
    }

    /// The root that it is given.
    ///
    /// # Panics
    /// If that is no text.
    pub fn root(&self) -> &str {
        std::str::from_utf8(&self.message.root_ca).expect("PEM")
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// How the session ended.
    pub async fn next(&mut self) -> Result<(), Status> {
        let message = self.stream.message().await?;
        self.message = message.ok_or_else(|| Status::unknown("the session ended"))?;
        Ok(())
    }
}

impl Puppet {
    /// Joins, and uses its leaf once: from then on a rotation waits for it.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn join(cluster: &Cluster) -> Self {
        let worker = Self::only_issued(cluster).await;
        worker.session().await.expect("its first session");
        worker
    }

    /// Has a certificate and never uses it.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn only_issued(cluster: &Cluster) -> Self {
        let request = csr::ordinary();
        let trust = crate::rotation::Marks::of(&cluster.manager).root;
        let stranger = Caller::plain(cluster.address(), &trust).await.expect("a connection");
        let answer = stranger.issue(request.csr.as_bytes(), &cluster.token("Worker")).await.expect("an id");
        let pair = fetch(&stranger, &answer.node_id, &request).await;
        Self { id: answer.node_id, pair, trust, manager: cluster.address(), session: Mutex::default() }
    }

    /// A connection with its leaf, to a manager that it verifies under what it trusts.
    ///
    /// # Errors
    /// If it does not verify the manager.
    pub async fn caller(&self) -> Result<Caller, String> {
        Caller::with(self.manager, &self.trust, &self.pair).await
    }

    /// Opens a session, in which it reports what it has, and waits for the first message.
    ///
    /// # Errors
    /// The manager's refusal, or that it does not verify the manager.
    pub async fn session(&self) -> Result<Told, Status> {
        self.session_saying(self.tls_info()).await
    }

    /// The same, with any report.
    ///
    /// # Errors
    /// As [`session`](Self::session).
    pub async fn session_saying(&self, tls_info: NodeTlsInfo) -> Result<Told, Status> {
        let caller = self.caller().await.map_err(Status::unavailable)?;
        let description =
            NodeDescription { hostname: "puppet".into(), tls_info: Some(tls_info), ..NodeDescription::default() };
        let session_id = self.session.lock().expect("its session's id").clone();
        let request = SessionRequest { description: Some(description), session_id };
        let mut stream = caller.dispatcher().session(request).await?.into_inner();
        let message = stream.message().await?.ok_or_else(|| Status::unknown("the session ended without a message"))?;
        self.session.lock().expect("its session's id").clone_from(&message.session_id);
        Ok(Told { caller, stream, message })
    }

    /// What it says of its certificates.
    ///
    /// # Panics
    /// If its leaf does not verify under what it trusts.
    pub fn tls_info(&self) -> NodeTlsInfo {
        let issuer = self.verified(&self.trust).expect("its own leaf");
        NodeTlsInfo {
            trust_root: self.trust.clone().into_bytes(),
            cert_issuer_subject: issuer.0,
            cert_issuer_public_key: issuer.1,
        }
    }

    /// Whether it would take this root, as an engine would: its leaf, with what lies beside it, verifies under it.
    pub fn would_take(&self, root: &str) -> bool {
        self.verified(root).is_ok()
    }

    /// The issuer of its leaf, subject and key, on a path to `root`.
    fn verified(&self, root: &str) -> Result<(Vec<u8>, Vec<u8>), String> {
        let read = |pem: &str| Certificate::parse_pem_bundle(pem.as_bytes()).map_err(|error| error.to_string());
        let (chain, anchors) = (read(&self.pair.chain)?, read(root)?);
        let issuer = validate_certificates(&chain, &anchors, false, SystemTime::now().into());
        issuer.map(|issuer| (issuer.subject, issuer.spki)).map_err(|error| error.to_string())
    }

    /// Renews on a connection of its own; the new pair replaces the old one at once.
    ///
    /// # Errors
    /// The manager's refusal, or that it does not verify the manager.
    ///
    /// # Panics
    /// If what it fetches is not what it asked for, or verifies under nothing that it trusts.
    pub async fn renew(&mut self) -> Result<(), Status> {
        let (caller, request) = self.ask().await?;
        let pair = fetch(&caller, &self.id, &request).await;
        let before = std::mem::replace(&mut self.pair, pair);
        if let Err(error) = self.verified(&self.trust) {
            let wrong = std::mem::replace(&mut self.pair, before);
            panic!("{}: a leaf that verifies under nothing it trusts: {error}\n{}", self.id, wrong.chain);
        }
        Ok(())
    }

    /// Asks for a new certificate and does not fetch it.
    ///
    /// # Errors
    /// As [`renew`](Self::renew).
    pub async fn ask(&self) -> Result<(Caller, Request), Status> {
        let caller = self.caller().await.map_err(Status::unavailable)?;
        let request = csr::ordinary();
        let answer = caller.issue(request.csr.as_bytes(), "").await?;
        assert_eq!(answer.node_id, self.id, "a renewal keeps the id");
        Ok((caller, request))
    }

    /// Does all that an engine does when told to, until `there` holds while it is told nothing new; the session stays open in the answer.
    /// A session that ends is opened again, as an engine does.
    ///
    /// # Errors
    /// If the manager lets it in no more.
    ///
    /// # Panics
    /// As [`renew`](Self::renew).
    pub async fn follow(&mut self, there: impl Fn(&Self, &Told) -> bool) -> Result<Told, Status> {
        'session: loop {
            let mut told = match self.session().await {
                Ok(told) => told,
                Err(status) if status.code() == Code::PermissionDenied => return Err(status),
                // The manager starts, or has had enough of this node's sessions for a while.
                Err(_) => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
            };
            loop {
                // One order is one renewal: an engine leaves the session for it.
                if told.is_ordered() {
                    self.renew().await?;
                    continue 'session;
                }
                let root = told.root().to_owned();
                if !root.is_empty() && root != self.trust && self.would_take(&root) {
                    self.trust = root;
                    continue 'session;
                }
                if there(self, &told) {
                    return Ok(told);
                }
                // What it waits for may happen elsewhere; and a heartbeat is due from time to time.
                match tokio::time::timeout(LOOK_AGAIN, told.next()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => continue 'session,
                    Err(_) => {
                        if told.caller.heartbeat(&told.message.session_id).await.is_err() {
                            continue 'session;
                        }
                    }
                }
            }
        }
    }
}
