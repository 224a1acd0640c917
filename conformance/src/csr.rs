//! Requests for certification, made by a stranger's code: good ones, odd ones and bad ones.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
};
use testkit::openssl::openssl;

/// A request and the key it is for, both in PEM.
#[derive(Debug, Clone)]
pub struct Request {
    /// The request.
    pub csr: String,
    /// The key, PKCS#8.
    pub key: String,
}

/// What an engine sends: P-256, an empty subject, no extensions.
pub fn ordinary() -> Request {
    made(&key(&PKCS_ECDSA_P256_SHA256), nameless())
}

/// Another request for the key of `request`: the signature differs, so the bytes do.
pub fn again(request: &Request) -> Request {
    made(&KeyPair::from_pem(&request.key).expect("its key"), nameless())
}

/// The same with a P-384 key.
pub fn p384() -> Request {
    made(&key(&PKCS_ECDSA_P384_SHA384), nameless())
}

/// The same with an Ed25519 key.
pub fn ed25519() -> Request {
    made(&key(&PKCS_ED25519), nameless())
}

/// The same with an RSA key of this many bits.
pub fn rsa(bits: u32) -> Request {
    let folder = tempfile::tempdir().expect("a folder");
    let (key, csr) = (folder.path().join("key"), folder.path().join("csr"));
    let (key, csr) = (key.to_str().expect("UTF-8"), csr.to_str().expect("UTF-8"));
    openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", &format!("rsa_keygen_bits:{bits}"), "-out", key]).ok();
    openssl(&["req", "-new", "-key", key, "-subj", "/", "-out", csr]).ok();
    let read = |path: &str| std::fs::read_to_string(path).expect("what openssl wrote");
    Request { csr: read(csr), key: read(key) }
}

/// A request that asks to be somebody, and a manager, and a CA.
pub fn greedy(cluster: &str, node: &str) -> Request {
    let mut params = CertificateParams::new(vec!["swarm-manager".into(), "swarm-ca".into(), "attacker.example".into()])
        .expect("names");
    params.distinguished_name = DistinguishedName::new();
    for (kind, value) in [
        (DnType::OrganizationName, cluster),
        (DnType::OrganizationalUnitName, "swarm-manager"),
        (DnType::CommonName, node),
        (DnType::LocalityName, "attacker's place"),
    ] {
        params.distinguished_name.push(kind, value);
    }
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    made(&key(&PKCS_ECDSA_P256_SHA256), params)
}

/// A request whose signature does not fit: one bit of the signature is turned over.
pub fn with_a_wrong_signature() -> String {
    let good = ordinary().csr;
    let mut lines: Vec<String> = good.lines().map(str::to_owned).collect();
    let last = lines.len() - 2;
    // In the middle of the last base64 line lies the signature's second number.
    let place = lines[last].len() / 2;
    let turned = if &lines[last][place..=place] == "A" { "B" } else { "A" };
    lines[last].replace_range(place..=place, turned);
    lines.join("\n") + "\n"
}

/// A request whose DER ends too early.
pub fn truncated() -> String {
    let good = ordinary().csr;
    let lines: Vec<&str> = good.lines().collect();
    let mut short = lines[..lines.len() - 3].to_vec();
    short.push(lines[lines.len() - 1]);
    short.join("\n") + "\n"
}

fn key(algorithm: &'static rcgen::SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).expect("a key")
}

fn nameless() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
}

fn made(key: &KeyPair, params: CertificateParams) -> Request {
    let csr = params.serialize_request(key).expect("a request").pem().expect("PEM").replace("\r\n", "\n");
    Request { csr, key: key.serialize_pem() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::require_or_skip;

    fn openssl_says(csr: &str) -> testkit::docker::Output {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("csr");
        std::fs::write(&file, csr).unwrap();
        openssl(&["req", "-in", file.to_str().unwrap(), "-noout", "-verify", "-subject"])
    }

    #[test]
    fn openssl_accepts_the_good_ones_only() {
        require_or_skip!("openssl");
        for good in [ordinary(), p384(), ed25519(), rsa(2048), greedy("c", "n")] {
            let said = openssl_says(&good.csr);
            assert_eq!(said.code, 0, "{said:?}");
        }
        for bad in [with_a_wrong_signature(), truncated()] {
            let said = openssl_says(&bad);
            assert!(said.code != 0 || said.stderr.contains("fail"), "{said:?}");
        }
    }

    #[test]
    fn a_request_made_again_has_other_bytes_for_the_same_key() {
        let one = ordinary();
        let two = again(&one);
        assert_eq!(one.key, two.key);
        assert_ne!(one.csr, two.csr);
    }

    #[test]
    fn an_ordinary_request_has_no_subject() {
        require_or_skip!("openssl");
        assert_eq!(openssl_says(&ordinary().csr).ok(), "subject=");
    }
}
