//! What goes wrong with chains, handshakes and connections, as values that can be told to people.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use pki::identity::{ClusterId, NodeId, Role, SubjectError};
use pki::serial::Serial;
use rustls::{AlertDescription, CertificateError};

/// Why a peer's chain is not accepted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChainFault {
    /// No path to a trust anchor, or a signature on the path that does not verify.
    #[error("certificate signed by unknown authority")]
    UnknownAuthority,
    /// The leaf or an intermediate is not valid yet.
    #[error("certificate is not valid for another {by:?}: is a clock wrong?")]
    NotYetValid {
        /// How long until it is.
        by: Duration,
    },
    /// The leaf or an intermediate is not valid any more.
    #[error("certificate expired {by:?} ago")]
    Expired {
        /// How long ago it ended.
        by: Duration,
    },
    /// The certificates do not parse.
    #[error("malformed certificate: {0}")]
    Malformed(String),
    /// The chain must not be used like this: wrong purpose, a CA as leaf, a broken constraint.
    #[error("certificate cannot be used for this: {0}")]
    Unusable(String),
    /// The subject does not name a node.
    #[error(transparent)]
    NotANode(#[from] SubjectError),
    /// The certificate is not for the name that was dialled.
    #[error("certificate is not valid for {expected}, only for {}", .presented.join(", "))]
    NameMismatch {
        /// The name that was dialled.
        expected: String,
        /// The names it is for.
        presented: Vec<String>,
    },
    /// The node is of another cluster.
    #[error("peer is of cluster {found}, not of {expected}")]
    OtherCluster {
        /// Ours.
        expected: ClusterId,
        /// The peer's.
        found: ClusterId,
    },
    /// The node has another role.
    #[error("peer is a {found}, not a {expected}")]
    OtherRole {
        /// The role asked for.
        expected: Role,
        /// The peer's.
        found: Role,
    },
    /// Another node than the one asked for.
    #[error("peer is node {found}, not {expected}")]
    OtherNode {
        /// The node asked for.
        expected: NodeId,
        /// The peer.
        found: NodeId,
    },
    /// The certificate was taken back.
    #[error("certificate {serial} of node {node} was revoked")]
    Revoked {
        /// Whose it is.
        node: NodeId,
        /// Its serial.
        serial: Serial,
    },
    /// No certificate of our own, and so no cluster, to judge by.
    #[error("this node holds no identity yet")]
    NoIdentity,
}

impl ChainFault {
    /// The error that makes rustls send the alert that fits.
    pub(crate) fn to_tls(&self) -> rustls::Error {
        let certificate = match self {
            ChainFault::UnknownAuthority => CertificateError::UnknownIssuer,
            ChainFault::NotYetValid { .. } => CertificateError::NotValidYet,
            ChainFault::Expired { .. } => CertificateError::Expired,
            ChainFault::Malformed(_) => CertificateError::BadEncoding,
            ChainFault::Unusable(_) => CertificateError::InvalidPurpose,
            ChainFault::NameMismatch { .. } => CertificateError::NotValidForName,
            ChainFault::Revoked { .. } => CertificateError::Revoked,
            ChainFault::NotANode(_)
            | ChainFault::OtherCluster { .. }
            | ChainFault::OtherRole { .. }
            | ChainFault::OtherNode { .. }
            | ChainFault::NoIdentity => CertificateError::ApplicationVerificationFailure,
        };
        rustls::Error::InvalidCertificate(certificate)
    }
}

/// What a peer said when it refused us.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum PeerAlert {
    /// It does not know who issued our certificate.
    UnknownAuthority,
    /// Our certificate has expired by its clock.
    CertificateExpired,
    /// It does not accept our certificate for another reason.
    CertificateRefused,
    /// It wants a certificate and got none.
    CertificateRequired,
    /// No TLS version or suite in common.
    NothingInCommon,
    /// Another alert, by its number.
    Other(u8),
}

impl From<AlertDescription> for PeerAlert {
    fn from(alert: AlertDescription) -> PeerAlert {
        match alert {
            AlertDescription::UnknownCA => PeerAlert::UnknownAuthority,
            AlertDescription::CertificateExpired => PeerAlert::CertificateExpired,
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::AccessDenied
            // What Go and rustls send for a signature on the path that does not verify.
            | AlertDescription::DecryptError => PeerAlert::CertificateRefused,
            AlertDescription::CertificateRequired => PeerAlert::CertificateRequired,
            AlertDescription::ProtocolVersion
            | AlertDescription::HandshakeFailure
            | AlertDescription::NoApplicationProtocol
            | AlertDescription::InsufficientSecurity => PeerAlert::NothingInCommon,
            other => PeerAlert::Other(other.into()),
        }
    }
}

impl fmt::Display for PeerAlert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerAlert::UnknownAuthority => {
                f.write_str("the peer does not know the authority that issued our certificate")
            }
            PeerAlert::CertificateExpired => f.write_str("our certificate has expired for the peer"),
            PeerAlert::CertificateRefused => f.write_str("the peer does not accept our certificate"),
            PeerAlert::CertificateRequired => f.write_str("the peer wants a certificate"),
            PeerAlert::NothingInCommon => f.write_str("no TLS version, suite or protocol in common with the peer"),
            PeerAlert::Other(number) => write!(f, "the peer refused us with TLS alert {number}"),
        }
    }
}

/// Why a connection could not be made, or broke.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// The peer is not accepted by us.
    #[error(transparent)]
    Peer(ChainFault),
    /// The peer does not accept us. With TLS 1.3 this is learned after the handshake, from [`crate::LastError`].
    #[error("{0}")]
    Refused(PeerAlert),
    /// There is no identity to present.
    #[error("this node holds no identity yet")]
    NoIdentity,
    /// The peer does not speak TLS, or not well.
    #[error("TLS: {0}")]
    Tls(rustls::Error),
    /// The transport failed.
    #[error("{0}")]
    Io(Arc<io::Error>),
}

impl ConnectError {
    pub(crate) fn from_io(error: io::Error) -> ConnectError {
        match tls_error(&error) {
            Some(rustls::Error::AlertReceived(alert)) => ConnectError::Refused((*alert).into()),
            Some(other) => ConnectError::Tls(other.clone()),
            None => ConnectError::Io(Arc::new(error)),
        }
    }
}

/// Why a connection was not accepted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AcceptError {
    /// There is no identity to present.
    #[error("this node holds no identity yet")]
    NoIdentity,
    /// The peer presented a certificate that is not accepted.
    #[error("peer's certificate: {0}")]
    Peer(ChainFault),
    /// The peer does not accept our certificate.
    #[error("{0}")]
    Refused(PeerAlert),
    /// An anchor that was given does not parse.
    #[error("trust anchor: {0}")]
    Anchor(String),
    /// The peer does not speak TLS, or not well.
    #[error("TLS: {0}")]
    Tls(rustls::Error),
    /// The transport failed.
    #[error("{0}")]
    Io(Arc<io::Error>),
}

impl AcceptError {
    pub(crate) fn from_io(error: io::Error) -> AcceptError {
        match tls_error(&error) {
            Some(rustls::Error::AlertReceived(alert)) => AcceptError::Refused((*alert).into()),
            Some(other) => AcceptError::Tls(other.clone()),
            None => AcceptError::Io(Arc::new(error)),
        }
    }
}

/// The TLS error inside an I/O error.
pub(crate) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}
