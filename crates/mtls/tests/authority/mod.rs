//! Roots, leaves and cross-certificates made by another library than the one under test, with every liberty that a
//! stranger's CA might take.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use pki::bundle::TrustBundle;
use pki::certificate::Certificate;
use pki::key::PrivateKey;
use pki::time::Time;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use swarmpki_mtls::Identity;

/// 2026-02-01: within the validity of every certificate that [`Node`] makes by default.
pub const NOW: Time = Time::from_unix_secs(1_769_904_000);
/// 2025-12-01: 31 days before they begin.
pub const BEFORE: Time = Time::from_unix_secs(1_764_547_200);
/// 2026-05-01: 30 days after leaves end.
pub const AFTER: Time = Time::from_unix_secs(1_777_593_600);
/// Days between the end of leaves and [`AFTER`].
pub const AFTER_DAYS: u64 = 30;
/// Days between [`BEFORE`] and the beginning of leaves.
pub const BEFORE_DAYS: u64 = 31;

fn printable(value: &str) -> DnValue {
    DnValue::PrintableString(value.try_into().unwrap())
}

fn name(parts: &[(DnType, &str)]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for (kind, value) in parts {
        name.push(kind.clone(), printable(value));
    }
    name
}

/// A root named `CN=swarm-ca`, as all of them are.
pub struct Root {
    params: CertificateParams,
    key: KeyPair,
    pub certificate: Certificate,
}

impl Root {
    pub fn new() -> Root {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = name(&[(DnType::CommonName, "swarm-ca")]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date_time_ymd(2025, 1, 1);
        params.not_after = date_time_ymd(2045, 1, 1);
        let der = params.self_signed(&key).unwrap();
        let certificate = Certificate::from_der(der.der().to_vec()).unwrap();
        Root { params, key, certificate }
    }

    /// This root's name and key, certified by `old`, without a key identifier of the old one.
    pub fn crossed_by(&self, old: &Root) -> Certificate {
        let issuer = Issuer::from_params(&old.params, &old.key);
        assert!(!self.params.use_authority_key_identifier_extension);
        let der = self.params.signed_by(&self.key, &issuer).unwrap();
        let crossed = Certificate::from_der(der.der().to_vec()).unwrap();
        assert_eq!(crossed.subject_der(), crossed.issuer_der());
        assert_eq!(crossed.aki(), None);
        crossed
    }
}

/// What a leaf says.
pub struct Node {
    pub cluster: &'static str,
    pub ou: Option<&'static str>,
    pub id: &'static str,
    pub names: Vec<&'static str>,
    pub usages: Vec<ExtendedKeyUsagePurpose>,
}

impl Node {
    pub fn manager(id: &'static str) -> Node {
        Node {
            cluster: "cluster-1",
            ou: Some("swarm-manager"),
            id,
            names: vec!["swarm-manager", id, "swarm-ca"],
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        }
    }

    pub fn worker(id: &'static str) -> Node {
        Node { ou: Some("swarm-worker"), names: vec!["swarm-worker", id], ..Node::manager(id) }
    }

    /// A leaf of `root` and its key.
    pub fn issued_by(&self, root: &Root) -> (Certificate, PrivateKey) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = self.names.iter().map(|&one| one.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let mut parts = vec![(DnType::OrganizationName, self.cluster)];
        parts.extend(self.ou.map(|ou| (DnType::OrganizationalUnitName, ou)));
        parts.push((DnType::CommonName, self.id));
        params.distinguished_name = name(&parts);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = self.usages.clone();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 4, 1);
        let der = params.signed_by(&key, &Issuer::from_params(&root.params, &root.key)).unwrap();
        let leaf = Certificate::from_der(der.der().to_vec()).unwrap();
        (leaf, PrivateKey::from_der(key.serialized_der()).unwrap())
    }

    /// An identity under `root`, with `ladder` after the leaf, that trusts `trusted`.
    pub fn identity(&self, root: &Root, ladder: &[Certificate], trusted: &[&Root]) -> Identity {
        let (leaf, key) = self.issued_by(root);
        let mut chain = vec![leaf];
        chain.extend_from_slice(ladder);
        Identity { chain, key, trust: bundle(trusted) }
    }
}

pub fn bundle(roots: &[&Root]) -> TrustBundle {
    let pem: String = roots.iter().map(|root| root.certificate.pem()).collect();
    TrustBundle::parse(pem.as_bytes(), NOW).unwrap()
}
