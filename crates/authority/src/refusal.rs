//! Why a request is not carried out, and how an engine is told so.
//!
//! An engine tries again in ten seconds on any status but 200, and gives a node up for good (`FAILED`) on a 200 that says
//! `success: false` (pki.md 11.3). So 200 is for what no later try can mend, the node's own request; everything else has a
//! status of its own: the operator, an upgrade or time may mend it, and the nodes that wait then go on by themselves.

use std::time::Duration;

use http::StatusCode;
use pki::csr::CsrError;
use pki::digest::hex;
use pki::identity::ClusterId;
use pki::key::SpkiHash;

/// Why a request is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The caller's certificate is over.
    #[error("the caller's certificate has expired")]
    CallerExpired,
    /// The caller is no manager.
    #[error("only managers may ask for certificates: the caller's certificate is a worker's")]
    NotAManager,
    /// The caller is of another cluster.
    #[error("this CA serves the cluster {served}; the caller is of {caller}")]
    OtherCluster {
        /// Ours.
        served: ClusterId,
        /// The caller's.
        caller: ClusterId,
    },
    /// The caller's leaf was signed by our key, and not by this CA.
    #[error("the caller's certificate is signed by this CA's key but does not stand in its log")]
    NotInLog,
    /// The caller's leaf is below another CA that our root certified.
    #[error(
        "the caller's certificate is of another CA that this one certified: only those that this CA issued are accepted"
    )]
    OtherIssuer,
    /// The caller's leaf is of the former root, whose time is over.
    #[error(
        "certificates of the swarm's former root are accepted until 24 hours after the first manager had one of this CA; that time is over"
    )]
    FormerRootOver,
    /// The operator shut the caller, or the node that the certificate is for, out.
    #[error("{0} is shut out (swarmpki ca serve refuse)")]
    ShutOut(String),
    /// What lies in the state directory cannot be read.
    #[error("the list of those that are shut out cannot be read ({0}): nobody is let in until it can")]
    State(String),
    /// No such path.
    #[error("there is nothing here: POST to /api/v1/cfssl/sign or /api/v1/cfssl/info")]
    Path,
    /// Not POST.
    #[error("only POST is answered here")]
    Method,
    /// The body is too large.
    #[error("the request's body is larger than {0} bytes")]
    TooLarge(usize),
    /// The body did not come in time.
    #[error("the request's body did not come within {0:?}")]
    TooSlow(Duration),
    /// The body is no request.
    #[error("the request cannot be read: {0}")]
    Malformed(String),
    /// A field that is not obeyed is set.
    #[error("the field {0} must not be set: this CA decides that itself")]
    Field(&'static str),
    /// The subject is not that of a node of this cluster.
    #[error("subject: {0}")]
    Subject(String),
    /// The names are not those of the subject.
    #[error("hosts must be {expected}")]
    Hosts {
        /// What they must be.
        expected: String,
    },
    /// The PKCS #10 request is not accepted.
    #[error("certificate_request: {0}")]
    Csr(#[from] CsrError),
    /// Another CA is to be certified, and nobody allowed it.
    #[error(
        "cross-signing is off. To allow it once, for the key {}: swarmpki ca serve allow-cross-sign --spki {} --ttl 10m{}",
        hex(&.spki.0[..4]), hex(&.spki.0), .why
    )]
    CrossSignOff {
        /// The key that was to be certified.
        spki: SpkiHash,
        /// What is wrong with the permit that lies there; empty if none does.
        why: String,
    },
    /// Another CA cannot be certified like this.
    #[error("cross-signing: {0}")]
    CrossSign(String),
    /// Too many requests of this caller.
    #[error("too many requests of this manager; try again in a second")]
    TooFast,
    /// Too many requests at a time.
    #[error("too many requests at a time; try again in a second")]
    Busy,
    /// The entry could not be written down. Nothing was answered.
    #[error("the issuance log cannot be written ({0}): nothing is issued until it can")]
    Log(String),
    /// The key did not sign.
    #[error("the CA's key cannot be used now: {0}")]
    Signer(String),
}

impl Refusal {
    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Refusal::Csr(_) => StatusCode::OK,
            Refusal::CallerExpired
            | Refusal::NotAManager
            | Refusal::OtherCluster { .. }
            | Refusal::NotInLog
            | Refusal::OtherIssuer
            | Refusal::FormerRootOver
            | Refusal::ShutOut(_)
            | Refusal::CrossSignOff { .. } => StatusCode::FORBIDDEN,
            Refusal::Path => StatusCode::NOT_FOUND,
            Refusal::Method => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            Refusal::Malformed(_)
            | Refusal::Field(_)
            | Refusal::Subject(_)
            | Refusal::Hosts { .. }
            | Refusal::CrossSign(_) => StatusCode::BAD_REQUEST,
            Refusal::TooFast => StatusCode::TOO_MANY_REQUESTS,
            Refusal::Busy | Refusal::Log(_) | Refusal::State(_) | Refusal::Signer(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// CFSSL's number: its category and reason (errors package of cfssl 1.2).
    #[must_use]
    pub fn code(&self) -> i64 {
        match self {
            Refusal::CallerExpired
            | Refusal::NotAManager
            | Refusal::OtherCluster { .. }
            | Refusal::NotInLog
            | Refusal::OtherIssuer
            | Refusal::FormerRootOver
            | Refusal::ShutOut(_) => 7100,
            Refusal::Path | Refusal::Method | Refusal::TooLarge(_) | Refusal::TooSlow(_) | Refusal::Malformed(_) => {
                7200
            }
            Refusal::Field(_) | Refusal::Subject(_) | Refusal::Hosts { .. } => 5300,
            Refusal::CrossSignOff { .. } | Refusal::CrossSign(_) => 5400,
            Refusal::Csr(_) => 9002,
            Refusal::TooFast | Refusal::Busy => 7500,
            Refusal::Log(_) | Refusal::State(_) => 11000,
            Refusal::Signer(_) => 2000,
        }
    }

    /// Whether it is the caller that is refused, whatever it asks.
    #[must_use]
    pub fn is_of_caller(&self) -> bool {
        self.code() == 7100
    }

    /// One word, for counters and log lines.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Refusal::CallerExpired => "caller-expired",
            Refusal::NotAManager => "not-a-manager",
            Refusal::OtherCluster { .. } => "other-cluster",
            Refusal::NotInLog => "not-in-log",
            Refusal::OtherIssuer => "other-issuer",
            Refusal::FormerRootOver => "former-root-over",
            Refusal::ShutOut(_) => "shut-out",
            Refusal::State(_) => "state",
            Refusal::Path => "path",
            Refusal::Method => "method",
            Refusal::TooLarge(_) => "too-large",
            Refusal::TooSlow(_) => "too-slow",
            Refusal::Malformed(_) => "malformed",
            Refusal::Field(_) => "field",
            Refusal::Subject(_) => "subject",
            Refusal::Hosts { .. } => "hosts",
            Refusal::Csr(_) => "csr",
            Refusal::CrossSignOff { .. } => "cross-sign-off",
            Refusal::CrossSign(_) => "cross-sign",
            Refusal::TooFast => "too-fast",
            Refusal::Busy => "busy",
            Refusal::Log(_) => "log",
            Refusal::Signer(_) => "signer",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_a_nodes_own_request_is_refused_for_good() {
        let rows = [
            (Refusal::Csr(CsrError::Signature), 200, "csr"),
            (Refusal::NotAManager, 403, "not-a-manager"),
            (Refusal::FormerRootOver, 403, "former-root-over"),
            (Refusal::Method, 405, "method"),
            (Refusal::TooLarge(1), 413, "too-large"),
            (Refusal::Field("profile"), 400, "field"),
            (Refusal::TooFast, 429, "too-fast"),
            (Refusal::Log("disk full".into()), 503, "log"),
            (Refusal::Signer("token".into()), 503, "signer"),
        ];
        for (refusal, status, word) in rows {
            assert_eq!((refusal.status().as_u16(), refusal.word()), (status, word), "{refusal}");
        }
        let off = Refusal::CrossSignOff { spki: SpkiHash([0xab; 32]), why: String::new() };
        assert!(off.to_string().contains("swarmpki ca serve allow-cross-sign --spki abab"), "{off}");
    }
}
