//! Certificates of authorities that no cluster knows.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

/// A root of our own making, named like a swarm's.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A leaf with its key, both in PEM.
pub struct Leaf {
    /// The certificate.
    pub certificate: String,
    /// The key, PKCS#8.
    pub key: String,
}

impl Authority {
    /// A new P-256 root with subject `CN=<name>`; a swarm's is `swarm-ca`.
    ///
    /// # Panics
    /// If the crypto library fails.
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, printable(name));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).expect("a root").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// The root in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A leaf shaped as a swarm node's: `O=<cluster>, OU=<ou>, CN=<node>`, and the names that go with the role.
    ///
    /// # Panics
    /// If a name cannot be a DNS name or a PrintableString.
    pub fn leaf(&self, cluster: &str, ou: &str, node: &str) -> Leaf {
        let key = KeyPair::generate().expect("a key");
        let mut names = vec![node.to_owned(), ou.to_owned()];
        if ou == "swarm-manager" {
            names.push("swarm-ca".into());
        }
        let mut params = CertificateParams::new(names).expect("DNS names");
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in
            [(DnType::OrganizationName, cluster), (DnType::OrganizationalUnitName, ou), (DnType::CommonName, node)]
        {
            params.distinguished_name.push(kind, printable(value));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).expect("a leaf").pem();
        Leaf { certificate, key: key.serialize_pem() }
    }
}

fn printable(value: &str) -> DnValue {
    DnValue::PrintableString(value.try_into().expect("a PrintableString"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{openssl, require_or_skip};

    #[test]
    fn openssl_accepts_a_leaf_of_its_own_root_only() {
        require_or_skip!("openssl");
        let (one, other) = (Authority::new("swarm-ca"), Authority::new("swarm-ca"));
        let leaf = one.leaf("cluster", "swarm-worker", "node");
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (root, wrong, chain) =
            (file("root", one.pem()), file("wrong", other.pem()), file("leaf", &leaf.certificate));
        openssl::verify(&root, &chain);
        assert_eq!(openssl::subject(&chain), "O=cluster,OU=swarm-worker,CN=node");
        assert!(std::panic::catch_unwind(|| openssl::verify(&wrong, &chain)).is_err());
    }
}
