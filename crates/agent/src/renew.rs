//! The calls of a request for a certificate, at a join and at a renewal (pki.md 7).

use std::sync::Arc;

use pki::bundle::TrustBundle;
use pki::certificate::Certificate;
use pki::join_token::JoinToken;
use pki::key::{PrivateKey, SignError};
use pki::secret::SecretBytes;
use pki::time::Time;
use tokio::sync::Mutex;
use wire::client::{CaClient, NodeCaClient};
use wire::proto::{GetUnlockKeyRequest, IssueNodeCertificateRequest, NodeCertificateStatusRequest};

use crate::config::Availability;
use crate::connect::{As, Channel, dial, fill_random, request};
use crate::plan::{Accepted, Answer, Caller, Failure, FailureKind, Peer};

/// How often a seed is drawn for a key; the chance that one is out of range is 2^-32.
const SEEDS_MAX: u32 = 8;

/// The unlock key, if the cluster is locked, and the version of the cluster object it was read at.
pub(crate) type Fetched = (Option<Arc<SecretBytes>>, u64);

/// What a request for a certificate keeps between its calls.
#[derive(Clone)]
pub(crate) struct Asking {
    pub(crate) number: u64,
    pub(crate) key: Arc<PrivateKey>,
    csr: Arc<[u8]>,
    /// The connection of the last call, with its address: Issue and Status share one.
    channel: Arc<Mutex<Option<(String, Channel)>>>,
    /// The unlock key and its version, once fetched.
    pub(crate) kek: Arc<std::sync::Mutex<Option<Fetched>>>,
    live: mtls::Live,
    marked: bool,
}

impl Asking {
    /// Makes a new key and its CSR.
    pub(crate) fn new(number: u64, live: mtls::Live, marked: bool) -> Result<Self, Failure> {
        let key = new_key()?;
        let csr = pki::csr::request(&key).map_err(|error: SignError| local(&error))?;
        Ok(Asking {
            number,
            key: Arc::new(key),
            csr: csr.into_bytes().into(),
            channel: Arc::default(),
            kek: Arc::default(),
            live,
            marked,
        })
    }

    /// A channel to `peer`: the one at hand if it leads there, else a new one.
    async fn channel(&self, peer: &Peer, caller: Caller, fresh: bool, at: Time) -> Result<Channel, Failure> {
        let mut held = self.channel.lock().await;
        if !fresh
            && let Some((addr, channel)) = held.as_ref()
            && *addr == peer.addr
        {
            return Ok(channel.clone());
        }
        *held = None;
        let who = match caller {
            Caller::Joiner(trust) => As::Joiner(trust),
            Caller::Node => As::Node(self.live.clone()),
        };
        let channel = dial(&peer.addr, who, at).await?;
        *held = Some((peer.addr.clone(), channel.clone()));
        Ok(channel)
    }

    async fn drop_broken(&self, failure: &Failure) {
        if !matches!(failure.kind, FailureKind::Timeout | FailureKind::Status(_)) {
            *self.channel.lock().await = None;
        }
    }

    /// Sends the CSR.
    pub(crate) async fn issue(
        &self,
        peer: &Peer,
        caller: Caller,
        token: Option<&JoinToken>,
        availability: Availability,
        at: Time,
    ) -> Result<Accepted, Failure> {
        let channel = self.channel(peer, caller, true, at).await?;
        let message = IssueNodeCertificateRequest {
            role: 0,
            csr: self.csr.to_vec(),
            token: token.map(|token| token.text().to_owned()).unwrap_or_default(),
            availability: availability.wire(),
        };
        let mut client = NodeCaClient::new(channel.grpc.clone());
        let answer = channel.call(client.issue_node_certificate(request(message, self.marked))).await;
        match answer {
            Ok(answer) => Ok(Accepted { csr: self.csr.to_vec(), node: answer.node_id }),
            Err(failure) => {
                self.drop_broken(&failure).await;
                Err(failure)
            }
        }
    }

    /// Asks what has become of it; a manager holds the call until there is something to say.
    pub(crate) async fn poll(&self, peer: &Peer, caller: Caller, node: String, at: Time) -> Result<Answer, Failure> {
        let channel = self.channel(peer, caller, false, at).await?;
        let message = NodeCertificateStatusRequest { node_id: node };
        let mut client = NodeCaClient::new(channel.grpc.clone());
        let answer = channel.call(client.node_certificate_status(request(message, self.marked))).await;
        match answer {
            Ok(answer) => {
                let status = answer.status.unwrap_or_default();
                let certificate = answer.certificate.unwrap_or_default();
                Ok(Answer {
                    state: status.state,
                    err: status.err,
                    csr: certificate.csr.to_vec(),
                    chain: certificate.certificate.to_vec(),
                })
            }
            Err(failure) => {
                self.drop_broken(&failure).await;
                Err(failure)
            }
        }
    }

    /// Fetches the unlock key with the new identity. A manager without the call has none.
    pub(crate) async fn fetch_unlock_key(
        &self,
        peer: &Peer,
        chain: Vec<Certificate>,
        trust: TrustBundle,
        at: Time,
    ) -> Result<(), Failure> {
        let own = self.live.current().and_then(|current| current.spki());
        let (publisher, live) = mtls::Publisher::new();
        let identity = mtls::Identity { chain, key: self.key.duplicate(), trust };
        publisher.publish(identity, at).map_err(|error| local(&error))?;
        let channel = dial(&peer.addr, As::NewManager(live, own), at).await?;
        let mut client = CaClient::new(channel.grpc.clone());
        let answer = channel.call(client.get_unlock_key(request(GetUnlockKeyRequest {}, self.marked))).await;
        let fetched = match answer {
            Ok(answer) => {
                let version = answer.version.map_or(0, |version| version.index);
                let bytes = answer.unlock_key.to_vec();
                let key = (!bytes.is_empty()).then(|| Arc::new(SecretBytes::new(bytes)));
                Some((key, version))
            }
            Err(failure) if failure.kind == FailureKind::Status(tonic::Code::Unimplemented) => None,
            Err(failure) => return Err(failure),
        };
        *self.kek.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = fetched;
        Ok(())
    }
}

fn new_key() -> Result<PrivateKey, Failure> {
    let mut last = None;
    for _ in 0..SEEDS_MAX {
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        fill_random(seed.as_mut_slice()).map_err(|error| local(&error))?;
        match PrivateKey::generate_p256(&seed) {
            Ok(key) => return Ok(key),
            Err(error) => last = Some(local(&error)),
        }
    }
    Err(last.unwrap_or_else(|| Failure::new(FailureKind::Local, "no key could be made")))
}

pub(crate) fn local(error: &impl std::error::Error) -> Failure {
    Failure::new(FailureKind::Local, error.to_string())
}
