//! One node as the manager sees it: its key, its request, its certificate.

use mtls::{Identity, Live, Publisher};
use pki::bundle::TrustBundle;
use pki::certificate::Certificate;
use pki::key::PrivateKey;
use wire::client::NodeCaClient;
use wire::proto::issuance_status::State as Issuance;
use wire::proto::{IssueNodeCertificateRequest, NodeCertificateStatusRequest};

use super::target::{CALL_LIMIT, Calls, Target, now, origin, refused};
use crate::failure::Failure;

/// How often a certificate's status is asked for. Each call waits at the manager until it knows.
const POLLS: usize = 20;

/// A key that no certificate names yet, with its CSR.
pub(super) struct Candidate {
    key: PrivateKey,
    csr: Vec<u8>,
}

/// What a manager issued.
pub(super) struct Issued {
    pub(super) node: String,
    chain: Vec<u8>,
}

impl Candidate {
    /// Draws a key and signs its CSR.
    pub(super) fn new() -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(format!("a key could not be made: {error}"));
        loop {
            let mut seed = [0; 32];
            aws_lc_rs::rand::fill(&mut seed).map_err(|error| failed(&error))?;
            // One seed in 2^32 is out of range.
            if let Ok(key) = PrivateKey::generate_p256(&seed) {
                let csr = pki::csr::request(&key).map_err(|error| failed(&error))?.into_bytes();
                return Ok(Self { key, csr });
            }
        }
    }

    /// Makes many.
    pub(super) fn many(count: usize) -> Result<Vec<Self>, Failure> {
        (0..count).map(|_| Self::new()).collect()
    }

    /// Gets a certificate over `calls` as an engine does: asks for it, waits for it, checks that it is for this very CSR.
    pub(super) async fn certified(&self, calls: &Calls, token: &str) -> Result<Issued, Failure> {
        match tokio::time::timeout(CALL_LIMIT, self.ask(calls, token)).await {
            Ok(issued) => issued,
            Err(_) => Err(Failure::new(format!("no certificate within {CALL_LIMIT:?}"))),
        }
    }

    async fn ask(&self, calls: &Calls, token: &str) -> Result<Issued, Failure> {
        let mut client = NodeCaClient::with_origin(calls.clone(), origin());
        let wanted =
            IssueNodeCertificateRequest { csr: self.csr.clone(), token: token.to_owned(), ..Default::default() };
        let answer = client.issue_node_certificate(wanted).await;
        let node_id = answer.map_err(|status| refused("IssueNodeCertificate", &status))?.into_inner().node_id;
        for _ in 0..POLLS {
            let answer = client
                .node_certificate_status(NodeCertificateStatusRequest { node_id: node_id.clone() })
                .await
                .map_err(|status| refused("NodeCertificateStatus", &status))?
                .into_inner();
            let state = answer.status.map_or(Issuance::Unknown as i32, |status| status.state);
            let Some(certificate) = answer.certificate else { continue };
            let final_state = state == Issuance::Issued as i32 || state == Issuance::Rotate as i32;
            if final_state && certificate.csr == self.csr && !certificate.certificate.is_empty() {
                return Ok(Issued { node: node_id, chain: certificate.certificate });
            }
        }
        Err(Failure::new("the manager issued no certificate for our CSR"))
    }

    /// Becomes a node with what was issued.
    pub(super) fn into_member(self, issued: &Issued, trust: &TrustBundle) -> Result<Member, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(format!("the certificate: {error}"));
        let chain = Certificate::parse_pem_bundle(&issued.chain).map_err(|error| failed(&error))?;
        let (publisher, live) = Publisher::new();
        let identity = Identity { chain, key: self.key.duplicate(), trust: trust.clone() };
        publisher.publish(identity, now()).map_err(|error| failed(&error))?;
        Ok(Member { live, publisher, key: self.key })
    }

    /// Takes the place of a member's key and certificate.
    pub(super) fn replace(self, member: &mut Member, issued: &Issued) -> Result<(), Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(format!("the new certificate: {error}"));
        let chain = Certificate::parse_pem_bundle(&issued.chain).map_err(|error| failed(&error))?;
        let trust = member.trust().ok_or_else(|| Failure::new("a member without an identity"))?;
        let identity = Identity { chain, key: self.key.duplicate(), trust };
        member.publisher.publish(identity, now()).map_err(|error| failed(&error))?;
        member.key = self.key;
        Ok(())
    }
}

/// A node with its certificate.
pub(super) struct Member {
    pub(super) live: Live,
    publisher: Publisher,
    key: PrivateKey,
}

impl Member {
    /// The roots it trusts.
    pub(super) fn trust(&self) -> Option<TrustBundle> {
        self.live.current().map(|current| current.trust().clone())
    }

    /// Takes other roots, if its certificate verifies under them: whether it did (wire.md 6.3).
    pub(super) fn take_root(&self, bundle: &[u8]) -> bool {
        let (Ok(trust), Some(current)) = (TrustBundle::parse(bundle, now()), self.live.current()) else { return false };
        let identity = Identity { chain: current.chain().to_vec(), key: self.key.duplicate(), trust };
        self.publisher.publish(identity, now()).is_ok()
    }

    /// Joins on a connection of its own.
    pub(super) async fn join(target: &Target) -> Result<Self, Failure> {
        let candidate = Candidate::new()?;
        let issued = candidate.certified(&target.as_joiner().await?, target.token()).await?;
        candidate.into_member(&issued, &target.trust)
    }
}
