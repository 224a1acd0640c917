//! Who may be a client of TLS from files: those with a certificate of the CA that `--tlscacert` names.
//!
//! - The CA file is the only anchor, and an anchor's own word counts: its dates, its right to certify, its path length.
//!   The engine's verifier looks at them; webpki by itself does not.
//! - A certificate that lies in the CA file itself is accepted as it is, though it be a CA's: that is how self-signed
//!   certificates are admitted one by one.
//! - The anchors' names are sent as acceptable issuers (engine-api.md 12): who has no certificate of theirs sends none.

use std::sync::Arc;

use pki::certificate::Certificate;
use pki::chain::Usage;
use pki::time::Time;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

/// The anchors of clients.
#[derive(Debug)]
pub(super) struct ClientAnchors {
    certificates: Vec<Certificate>,
    /// Of the same order.
    anchors: Vec<TrustAnchor<'static>>,
    names: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientAnchors {
    /// Those of `certificates` that can be anchors; `None` if none can.
    pub(super) fn new(certificates: &[CertificateDer<'_>]) -> Option<Arc<Self>> {
        let (certificates, anchors): (Vec<_>, Vec<_>) = certificates
            .iter()
            .filter_map(|der| {
                let anchor = webpki::anchor_from_trusted_cert(der).ok()?.to_owned();
                Some((Certificate::from_der(der.as_ref()).ok()?, anchor))
            })
            .unzip();
        let names = certificates
            .iter()
            .map(|certificate| DistinguishedName::from(certificate.subject_der().to_vec()))
            .collect();
        let algorithms = default_provider().signature_verification_algorithms;
        (!certificates.is_empty()).then(|| Arc::new(Self { certificates, anchors, names, algorithms }))
    }

    /// Checks what webpki leaves out: the anchor's own word.
    fn check_anchor(&self, path: &VerifiedPath<'_>, now: Time, time: UnixTime) -> Result<(), webpki::Error> {
        let found = self.anchors.iter().position(|anchor| std::ptr::eq(anchor, path.anchor()));
        let anchor = found.and_then(|at| self.certificates.get(at)).ok_or(webpki::Error::UnknownIssuer)?;
        if now < anchor.not_before() {
            return Err(webpki::Error::CertNotValidYet { time, not_before: unix_time(anchor.not_before()) });
        }
        if anchor.not_after() < now {
            return Err(webpki::Error::CertExpired { time, not_after: unix_time(anchor.not_after()) });
        }
        if !anchor.may_anchor() {
            return Err(webpki::Error::EndEntityUsedAsCa);
        }
        let intermediates = path.intermediate_certificates().count();
        if anchor.path_len().is_some_and(|max| intermediates > max as usize) {
            return Err(webpki::Error::PathLenConstraintViolated);
        }
        Ok(())
    }
}

impl ClientCertVerifier for ClientAnchors {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.names
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        time: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let now = Time::from_unix_millis(i64::try_from(time.as_secs()).unwrap_or(i64::MAX / 1000).saturating_mul(1000));
        if let Some(own) = self.certificates.iter().find(|certificate| certificate.der() == leaf.as_ref()) {
            return check_own(own, now);
        }
        let check_anchor = |path: &VerifiedPath<'_>| self.check_anchor(path, now, time);
        EndEntityCert::try_from(leaf)
            .and_then(|entity| {
                let usage = KeyUsage::client_auth();
                entity
                    .verify_for_usage(
                        self.algorithms.all,
                        &self.anchors,
                        intermediates,
                        time,
                        usage,
                        None,
                        Some(&check_anchor),
                    )
                    .map(|_| ClientCertVerified::assertion())
            })
            .map_err(|error| refusal(error).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A certificate that is itself in the CA file: its dates and its usage.
fn check_own(own: &Certificate, now: Time) -> Result<ClientCertVerified, rustls::Error> {
    let fault = if now < own.not_before() {
        CertificateError::NotValidYet
    } else if own.not_after() < now {
        CertificateError::Expired
    } else if !own.allows(Usage::Client) {
        CertificateError::InvalidPurpose
    } else {
        return Ok(ClientCertVerified::assertion());
    };
    Err(fault.into())
}

/// The path builder's errors as rustls tells them to the client.
fn refusal(error: webpki::Error) -> CertificateError {
    use webpki::Error;
    match error {
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => CertificateError::UnknownIssuer,
        Error::CertExpired { .. } => CertificateError::Expired,
        Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        Error::BadDer | Error::BadDerTime | Error::TrailingData(_) => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
}

fn unix_time(time: Time) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(time.unix_secs()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        date_time_ymd,
    };

    type Ca = CertifiedIssuer<'static, KeyPair>;

    fn named(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    fn ca_params(name: &str, years: (i32, i32)) -> CertificateParams {
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        params
    }

    fn ca(name: &str) -> Ca {
        Ca::self_signed(ca_params(name, (2000, 2100)), KeyPair::generate().unwrap()).unwrap()
    }

    fn leaf(issuer: &Issuer<'_, KeyPair>, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = named("ann");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()
    }

    /// `ok`, or the fault in rustls's words.
    fn judge(anchors: &[CertificateDer<'static>], chain: &[CertificateDer<'static>]) -> String {
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_795_294_266));
        let anchors = ClientAnchors::new(anchors).unwrap();
        match anchors.verify_client_cert(&chain[0], &chain[1..], now) {
            Ok(_) => "ok".to_owned(),
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => other.0.to_string(),
            Err(rustls::Error::InvalidCertificate(fault)) => format!("{fault:?}"),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn clients_of_a_ca() {
        let (ours, theirs) = (ca("ours"), ca("theirs"));
        let namesake = ca("ours");
        let ended = Ca::self_signed(ca_params("ended", (2000, 2010)), KeyPair::generate().unwrap()).unwrap();
        let der = |ca: &Ca| ca.der().clone();
        let ends = |year| move |leaf: &mut CertificateParams| leaf.not_after = date_time_ymd(year, 1, 1);
        let begins = |year| move |leaf: &mut CertificateParams| leaf.not_before = date_time_ymd(year, 1, 1);
        let server = |leaf: &mut CertificateParams| {
            leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        };
        let any = |leaf: &mut CertificateParams| leaf.extended_key_usages.clear();
        let rows = [
            (leaf(&ours, |_| {}), "ok"),
            (leaf(&ours, any), "ok"),
            (leaf(&ours, ends(2010)), "Expired"),
            (leaf(&ours, begins(2090)), "NotValidYet"),
            (leaf(&ours, server), "InvalidPurpose"),
            (leaf(&theirs, |_| {}), "UnknownIssuer"),
            (leaf(&namesake, |_| {}), "UnknownIssuer"),
            (leaf(&ended, |_| {}), "CertExpired"),
            (der(&theirs), "CaUsedAsEndEntity"),
            (der(&ours), "ok"),
        ];
        for (row, (leaf, expected)) in rows.into_iter().enumerate() {
            let judged = judge(&[der(&ours), der(&ended)], &[leaf]);
            assert!(
                judged.starts_with(expected) || expected == "CertExpired" && judged.starts_with("Expired"),
                "{row}: {judged}"
            );
        }
        let names = ClientAnchors::new(&[der(&ours), der(&theirs)]).unwrap().root_hint_subjects().len();
        assert_eq!(names, 2);
        assert!(ClientAnchors::new(&[CertificateDer::from(vec![1, 2, 3])]).is_none());
    }

    #[test]
    fn clients_below_an_intermediate() {
        let root = ca("root");
        let short = {
            let mut params = ca_params("short", (2000, 2100));
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            Ca::self_signed(params, KeyPair::generate().unwrap()).unwrap()
        };
        let below = |above: &Ca| {
            Ca::signed_by(ca_params("issuing", (2000, 2100)), KeyPair::generate().unwrap(), above).unwrap()
        };
        let (issuing, other) = (below(&root), below(&root));
        let der = |ca: &Ca| ca.der().clone();
        let client = leaf(&issuing, |_| {});
        assert_eq!(judge(&[der(&root)], &[client.clone(), der(&issuing)]), "ok");
        assert_eq!(judge(&[der(&root)], std::slice::from_ref(&client)), "UnknownIssuer");
        // With only the issuing CA as anchor, what others below the same root issue is not let in.
        assert_eq!(judge(&[der(&issuing)], &[client]), "ok");
        assert_eq!(judge(&[der(&issuing)], &[leaf(&other, |_| {}), der(&other)]), "UnknownIssuer");
        let below_short = below(&short);
        let judged = judge(&[der(&short)], &[leaf(&below_short, |_| {}), der(&below_short)]);
        assert!(judged.contains("PathLenConstraint"), "{judged}");
    }

    #[test]
    fn self_signed_clients_one_by_one() {
        let own = |change: fn(&mut CertificateParams)| {
            let mut params = named("bob");
            change(&mut params);
            params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
        };
        // As openssl req -x509 makes them: a CA; and as others do: none.
        let as_ca = own(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
        let plain = own(|_| {});
        let ended = own(|params| params.not_after = date_time_ymd(2010, 1, 1));
        let server = own(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
        let file = [as_ca.clone(), plain.clone(), ended.clone(), server.clone()];
        for (leaf, expected) in [
            (as_ca, "ok"),
            (plain, "ok"),
            (ended, "Expired"),
            (server, "InvalidPurpose"),
            (own(|_| {}), "UnknownIssuer"),
        ] {
            assert_eq!(judge(&file, &[leaf]), expected);
        }
    }
}
