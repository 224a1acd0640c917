//! Trust anchors in the form the path builder wants, made once for each published identity.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use pki::certificate::{Certificate, IssuerId};
use pki::time::Time;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::current::Current;
use crate::fault::{AcceptError, ChainFault};
use crate::signatures::of_certificates;

/// Trust anchors. Their own dates play no part here: a bundle's dates are judged when it is loaded.
#[derive(Clone, Default)]
pub(crate) struct Anchors {
    list: Vec<TrustAnchor<'static>>,
    // Beside `list`, same order.
    ids: Vec<IssuerId>,
}

impl Anchors {
    pub(crate) fn new(certificates: &[Certificate]) -> Result<Anchors, ChainFault> {
        let mut anchors = Anchors::default();
        anchors.extend(certificates)?;
        Ok(anchors)
    }

    pub(crate) fn extend(&mut self, certificates: &[Certificate]) -> Result<(), ChainFault> {
        for certificate in certificates {
            let der = CertificateDer::from(certificate.der());
            let anchor =
                webpki::anchor_from_trusted_cert(&der).map_err(|error| ChainFault::Malformed(error.to_string()))?;
            let (anchor, id) = (anchor.to_owned(), certificate.issuer_id());
            // Twice the same would be tried twice, each time with a signature verified.
            if !self.list.iter().zip(&self.ids).any(|(known, by)| *known == anchor && *by == id) {
                self.list.push(anchor);
                self.ids.push(id);
            }
        }
        Ok(())
    }

    /// Looks for a path from `leaf` to an anchor in which everything is valid at `at`; yields who issued the leaf, and the anchor.
    pub(crate) fn walk(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        at: Time,
        usage: KeyUsage,
    ) -> Result<(IssuerId, IssuerId), ChainFault> {
        let entity = EndEntityCert::try_from(leaf).map_err(fault)?;
        let path = entity
            .verify_for_usage(of_certificates(), &self.list, intermediates, unix_time(at), usage, None, None)
            .map_err(fault)?;
        let found = self.list.iter().zip(&self.ids).find(|(anchor, _)| *anchor == path.anchor());
        let anchor = found.map(|(_, id)| id.clone()).ok_or(ChainFault::UnknownAuthority)?;
        if let Some(intermediate) = path.intermediate_certificates().next() {
            let issuer = Certificate::from_der(intermediate.der().as_ref())
                .map_err(|error| ChainFault::Malformed(error.to_string()))?;
            return Ok((issuer.issuer_id(), anchor));
        }
        Ok((anchor.clone(), anchor))
    }
}

/// What callers' chains may end at: the bundle of an identity and further certificates, made once for many handshakes.
/// Cheap to clone.
#[derive(Clone)]
pub struct CallerAnchors(pub(crate) Arc<Anchors>);

impl CallerAnchors {
    /// These certificates and no others; one that is given twice counts once.
    ///
    /// # Errors
    /// [`AcceptError::Anchor`] if one of them cannot be an anchor.
    pub fn from_certificates(certificates: &[Certificate]) -> Result<Self, AcceptError> {
        let anchors = Anchors::new(certificates).map_err(|fault| AcceptError::Anchor(fault.to_string()))?;
        Ok(Self(Arc::new(anchors)))
    }

    /// The bundle of `current` and `further`; one that is in both counts once.
    ///
    /// # Errors
    /// [`AcceptError::Anchor`] if one of `further` cannot be an anchor.
    pub fn of(current: &Current, further: &[Certificate]) -> Result<Self, AcceptError> {
        if further.is_empty() {
            return Ok(Self(Arc::clone(&current.anchors)));
        }
        let mut all = (*current.anchors).clone();
        all.extend(further).map_err(|fault| AcceptError::Anchor(fault.to_string()))?;
        Ok(Self(Arc::new(all)))
    }
}

impl fmt::Debug for CallerAnchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CallerAnchors").field(&self.0.ids.len()).finish()
    }
}

/// A time as TLS libraries take it; before 1970 counts as 1970.
pub(crate) fn unix_time(at: Time) -> UnixTime {
    let millis = u64::try_from(at.unix_millis()).unwrap_or(0);
    UnixTime::since_unix_epoch(Duration::from_millis(millis))
}

/// The path builder's errors as ours.
fn fault(error: webpki::Error) -> ChainFault {
    use webpki::Error;
    let between =
        |later: UnixTime, earlier: UnixTime| Duration::from_secs(later.as_secs().saturating_sub(earlier.as_secs()));
    match error {
        // Anchors of one name are told apart by signature only: "wrong key" is "none of ours".
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => ChainFault::UnknownAuthority,
        Error::CertExpired { time, not_after } => ChainFault::Expired { by: between(time, not_after) },
        Error::CertNotValidYet { time, not_before } => ChainFault::NotYetValid { by: between(not_before, time) },
        Error::BadDer
        | Error::BadDerTime
        | Error::TrailingData(_)
        | Error::UnsupportedCertVersion
        | Error::InvalidSerialNumber
        | Error::InvalidCertValidity => ChainFault::Malformed(error.to_string()),
        other => ChainFault::Unusable(other.to_string()),
    }
}
