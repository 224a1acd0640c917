//! `Certificate` and the answer of `NodeCertificateStatus`.

use pki::identity::{NodeId, Role};

use crate::convert::role;
use crate::proto::issuance_status::State;
use crate::proto::{Certificate, IssuanceStatus, NodeCertificateStatusResponse};

/// The answer for a leaf that was issued: the CSR goes back unchanged, since the client takes nothing else.
/// `chain` is PEM, leaf first.
#[must_use]
pub fn issued(node: &NodeId, held: Role, csr: Vec<u8>, chain: Vec<u8>) -> NodeCertificateStatusResponse {
    let status = status(State::Issued, "");
    NodeCertificateStatusResponse {
        status: Some(status.clone()),
        certificate: Some(Certificate {
            role: role::to_wire(held),
            csr,
            status: Some(status),
            certificate: chain,
            cn: node.to_string(),
        }),
    }
}

/// The answer for a request that is not signed yet: of a joiner, or of a node that renews. `why` is for people.
#[must_use]
pub fn waiting(joining: bool, why: &str) -> NodeCertificateStatusResponse {
    let state = if joining { State::Pending } else { State::Renew };
    NodeCertificateStatusResponse { status: Some(status(state, why)), certificate: None }
}

/// A state with its text. Another text makes an order of the same state a new one (wire.md 6.4).
#[must_use]
pub fn status(state: State, text: &str) -> IssuanceStatus {
    IssuanceStatus { state: state.into(), err: text.to_owned() }
}

/// What an answer of `NodeCertificateStatus` is to the node that sent `csr`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The chain in PEM, leaf first.
    Issued(Vec<u8>),
    /// Final, but for another request, or not final: ask again.
    AskAgain,
    /// Final and for this request, but without a certificate.
    Empty,
    /// The request will never be granted. An engine asks on; we stop.
    Failed(String),
}

/// Judges an answer of `NodeCertificateStatus` (pki.md 7.3).
#[must_use]
pub fn answer(response: NodeCertificateStatusResponse, csr: &[u8]) -> Answer {
    let state = response.status.as_ref().map(|status| status.state());
    let (Some(state), Some(certificate)) = (state, response.certificate) else {
        return match state {
            Some(State::Issued | State::Rotate) => Answer::Empty,
            Some(State::Unknown | State::Renew | State::Pending | State::Failed) | None => Answer::AskAgain,
        };
    };
    if certificate.csr != csr {
        return Answer::AskAgain;
    }
    match state {
        State::Issued | State::Rotate if certificate.certificate.is_empty() => Answer::Empty,
        State::Issued | State::Rotate => Answer::Issued(certificate.certificate),
        State::Failed => Answer::Failed(response.status.map(|status| status.err).unwrap_or_default()),
        State::Unknown | State::Renew | State::Pending => Answer::AskAgain,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn with_state(state: State) -> NodeCertificateStatusResponse {
        let node: NodeId = "n1".parse().unwrap();
        let mut response = issued(&node, Role::Worker, b"csr".to_vec(), b"chain".to_vec());
        response.status = Some(status(state, "why"));
        response
    }

    #[test]
    fn only_a_final_answer_with_the_same_csr_counts() {
        let chain = Answer::Issued(b"chain".to_vec());
        for (state, expected) in [
            (State::Issued, chain.clone()),
            (State::Rotate, chain),
            (State::Pending, Answer::AskAgain),
            (State::Renew, Answer::AskAgain),
            (State::Unknown, Answer::AskAgain),
            (State::Failed, Answer::Failed("why".to_owned())),
        ] {
            assert_eq!(answer(with_state(state), b"csr"), expected);
            assert_eq!(answer(with_state(state), b"another csr"), Answer::AskAgain);
        }
    }

    #[test]
    fn an_answer_without_certificate() {
        let mut response = with_state(State::Issued);
        response.certificate.as_mut().unwrap().certificate.clear();
        assert_eq!(answer(response, b"csr"), Answer::Empty);
        let mut response = with_state(State::Issued);
        response.certificate = None;
        assert_eq!(answer(response, b"csr"), Answer::Empty);
        let response = NodeCertificateStatusResponse { status: None, certificate: None };
        assert_eq!(answer(response, b"csr"), Answer::AskAgain);
    }
}
