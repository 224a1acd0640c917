//! A peer whose chain was verified.

use pki::certificate::{Certificate, IssuerId};
use pki::identity::Subject;
use pki::key::SpkiHash;
use pki::serial::Serial;
use pki::time::Time;

use rustls::pki_types::CertificateDer;
use webpki::KeyUsage;

use crate::anchors::Anchors;
use crate::fault::ChainFault;

/// A peer whose chain was verified in the handshake of its connection: made only by the verifier.
/// Whether the leaf is one that the cluster has on record is not known here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedPeer {
    /// Cluster, role and node. The cluster may be another one under the same root.
    pub subject: Subject,
    /// The leaf's serial.
    pub serial: Serial,
    /// SHA-256 of the leaf's public key.
    pub spki: SpkiHash,
    /// Who issued the leaf: the first intermediate of the verified path, or the anchor.
    pub issuer: IssuerId,
    /// The anchor at which the verified path ended.
    pub anchor: IssuerId,
    /// The start of the leaf's validity.
    pub not_before: Time,
    /// The end of the leaf's validity.
    pub not_after: Time,
    /// Whether that end was past at the handshake; everything else about the chain was good then.
    pub expired: bool,
}

/// What is done with a leaf that has expired and is good otherwise.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Expired {
    /// It passes, marked.
    Marked,
    /// It passes, marked, if it is of this key: our own.
    OfKey(SpkiHash),
    /// It is refused.
    Refused,
}

impl VerifiedPeer {
    /// Verifies a chain as a peer presented it, at the time `at`.
    pub(crate) fn verify(
        anchors: &Anchors,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        at: Time,
        usage: KeyUsage,
        expired: Expired,
    ) -> Result<(VerifiedPeer, Certificate), ChainFault> {
        let outcome = anchors.walk(leaf, intermediates, at, usage);
        let certificate = parse(leaf)?;
        let ((issuer, anchor), past) = match outcome {
            Ok(found) => (found, false),
            Err(fault @ ChainFault::Expired { .. }) if certificate.not_after() < at => {
                // Dates are judged before signatures: only now it is known whether the rest is good.
                let found = anchors.walk(leaf, intermediates, certificate.not_after(), usage)?;
                let passes = match expired {
                    Expired::Marked => true,
                    Expired::OfKey(own) => own == certificate.spki_hash(),
                    Expired::Refused => false,
                };
                if !passes {
                    return Err(fault);
                }
                (found, true)
            }
            Err(fault) => return Err(fault),
        };
        let peer = VerifiedPeer {
            subject: certificate.node_subject()?,
            serial: certificate.serial(),
            spki: certificate.spki_hash(),
            issuer,
            anchor,
            not_before: certificate.not_before(),
            not_after: certificate.not_after(),
            expired: past,
        };
        Ok((peer, certificate))
    }
}

fn parse(leaf: &CertificateDer<'_>) -> Result<Certificate, ChainFault> {
    Certificate::from_der(leaf.as_ref()).map_err(|error| ChainFault::Malformed(error.to_string()))
}
