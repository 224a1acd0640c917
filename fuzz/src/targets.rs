// The functions that fuzzing drives, one for each parser, and for each of them inputs to start from. This file is compiled twice: by the fuzz
// targets, and by the smoke test in `conformance/tests/fuzz_smoke.rs`, so that every run of the tests drives the same functions.
//
// A target may panic only where a promise of the parser is broken: what was accepted must be encoded and accepted again.

use pki::time::Time;

/// One parser under test.
pub struct Target {
    /// Its name, and that of its file under `fuzz_targets/`.
    pub name: &'static str,
    /// Feeds it.
    pub run: fn(&[u8]),
    /// Inputs that it accepts.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "csr", run: csr, seeds: csr_seeds },
    Target { name: "certificate", run: certificate, seeds: certificate_seeds },
    Target { name: "bundle", run: bundle, seeds: certificate_seeds },
    Target { name: "join_token", run: join_token, seeds: join_token_seeds },
    Target { name: "key_file", run: key_file, seeds: key_file_seeds },
    Target { name: "subject", run: subject, seeds: subject_seeds },
    Target { name: "public_key", run: public_key, seeds: public_key_seeds },
    Target { name: "batch", run: batch, seeds: empty_seeds },
    Target { name: "snapshot", run: snapshot, seeds: snapshot_seeds },
    Target { name: "session", run: session, seeds: session_seeds },
    Target { name: "external_answer", run: external_answer, seeds: certificate_seeds },
    Target { name: "external_request", run: external_request, seeds: external_request_seeds },
    Target { name: "token_uri", run: token_uri, seeds: token_uri_seeds },
    Target { name: "kept_head", run: kept_head, seeds: kept_head_seeds },
    Target { name: "log_fork", run: log_fork, seeds: log_fork_seeds },
];

/// Some moment within the life of the certificates below.
const NOW: Time = Time::from_unix_secs(1_795_000_000);

/// A CSR, and its signature.
pub fn csr(input: &[u8]) {
    if let Ok(csr) = pki::csr::Csr::parse(input) {
        let _ = csr.public_key().hash();
        let _ = csr.verify();
    }
    let _ = pki::csr::Csr::from_der(input.to_vec());
}

/// Certificates in PEM and DER, and everything that is read off them.
pub fn certificate(input: &[u8]) {
    let mut found = pki::Certificate::parse_pem_bundle(input).unwrap_or_default();
    found.extend(pki::Certificate::from_der(input.to_vec()));
    for certificate in &found {
        let again = pki::Certificate::parse_pem_bundle(certificate.pem().as_bytes());
        assert!(
            again.is_ok_and(|again| again.len() == 1 && again[0].der() == certificate.der()),
            "PEM of what was accepted is accepted"
        );
        let _ = (
            certificate.public_key(),
            certificate.node_subject(),
            certificate.issuer_id(),
            certificate.signature_algorithm(),
        );
        let _ = (
            certificate.ski(),
            certificate.aki(),
            certificate.path_len(),
            certificate.dns_names(),
            certificate.common_name(),
        );
        let _ = (certificate.not_before().rfc3339(), certificate.not_after().rfc1123());
    }
    let normal = pki::certificate::normalize(input);
    assert_eq!(pki::certificate::normalize(&normal), normal, "what is normal stays as it is");
}

/// A trust bundle, an issuer made of it, and chains checked against it.
pub fn bundle(input: &[u8]) {
    if let Ok(trust) = pki::TrustBundle::parse(input, NOW) {
        assert_eq!(trust.raw(), input, "a bundle is kept as it came");
        for allow_expired in [false, true] {
            let _ = pki::chain::validate(input, &trust, allow_expired, NOW);
        }
        let _ = trust.intermediates(input, NOW);
    }
}

/// A join token.
pub fn join_token(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(token) = text.parse::<pki::JoinToken>() {
        assert_eq!(token.text(), text, "a token is kept as it was typed");
        assert!(token.matches(text));
        let _ = (token.digest(), token.fips());
    }
}

/// A key file, with and without a key that opens it.
pub fn key_file(input: &[u8]) {
    let kek = pki::SecretBytes::new(vec![7; 32]);
    for kek in [None, Some(&kek)] {
        if let Ok(file) = pki::KeyFile::parse(input, kek) {
            let Ok(encoded) = file.encode(None) else { continue };
            let Ok(again) = pki::KeyFile::parse(encoded.expose(), None) else {
                panic!("a key file that was written cannot be read")
            };
            assert_eq!(*again.headers, *file.headers);
        }
    }
}

/// A subject name in DER.
pub fn subject(input: &[u8]) {
    if let Ok(subject) = pki::Subject::from_name_der(input) {
        assert!(pki::Subject::from_name_der(&subject.to_name_der()).is_ok_and(|again| again == subject));
    }
}

/// A public key in DER.
pub fn public_key(input: &[u8]) {
    if let Ok(key) = pki::PublicKey::from_spki_der(input) {
        assert_eq!(key.spki_der(), input, "a public key is kept as it came");
        let _ = (key.kind(), key.key_id(), key.hash());
    }
}

/// An entry of the raft log.
pub fn batch(input: &[u8]) {
    if let Ok(batch) = cluster::Batch::decode(input) {
        let again = cluster::Batch::decode(&batch.encode());
        assert!(
            again.is_ok_and(|again| again.encode() == batch.encode()),
            "an entry that was accepted can be stored again"
        );
    }
}

/// A snapshot of the state.
pub fn snapshot(input: &[u8]) {
    if let Ok(state) = cluster::State::decode_snapshot(input) {
        let bytes = state.encode_snapshot();
        let again = cluster::State::decode_snapshot(&bytes);
        assert!(
            again.is_ok_and(|again| again.encode_snapshot() == bytes),
            "a snapshot that was accepted can be stored again"
        );
    }
}

/// The largest messages that a stranger may send.
pub fn session(input: &[u8]) {
    use prost::Message;
    let _ = wire::proto::SessionRequest::decode(input);
    let _ = wire::proto::SessionMessage::decode(input);
    let _ = wire::proto::IssueNodeCertificateRequest::decode(input);
}

fn key(seed: u8) -> Option<pki::PrivateKey> {
    pki::PrivateKey::generate_p256(&[seed; 32]).ok()
}

fn csr_seeds() -> Vec<Vec<u8>> {
    let pem = key(1).and_then(|key| pki::csr::request(&key).ok());
    pem.into_iter().flat_map(|pem| [opened(&pem), pem.into_bytes()]).collect()
}

fn certificate_seeds() -> Vec<Vec<u8>> {
    let roots = [2, 3].into_iter().filter_map(|seed| {
        let serial = pki::Serial::from_random([seed; 20]);
        pki::issue::root(&key(seed)?, serial, NOW).ok()
    });
    let roots: Vec<_> = roots.collect();
    let each = roots.iter().flat_map(|root| [root.der().to_vec(), root.pem().into_bytes()]);
    each.chain([pki::certificate::encode_pem(&roots).into_bytes()]).collect()
}

/// The DER in a PEM block, so that damage can be done inside it.
fn opened(text: &str) -> Vec<u8> {
    pem::parse(text).map(|block| block.contents().to_vec()).unwrap_or_default()
}

fn join_token_seeds() -> Vec<Vec<u8>> {
    let digest = pki::Digest::of(b"root");
    let secret = pki::JoinSecret::from_bytes([5; 16]);
    [false, true].map(|fips| pki::JoinToken::new(digest, &secret, fips).text().as_bytes().to_vec()).to_vec()
}

fn key_file_seeds() -> Vec<Vec<u8>> {
    let Some(key) = key(4) else { return Vec::new() };
    let headers = std::collections::BTreeMap::from([("raft-dek".to_owned(), "EgMKAQ".to_owned())]);
    let file = pki::KeyFile { kek_version: 3, headers: headers.into(), key };
    let kek = pki::SecretBytes::new(vec![7; 32]);
    let encoded = [file.encode(None), file.encode(Some((&kek, [1; 8], [2; 16])))];
    encoded.into_iter().flatten().map(|bytes| bytes.expose().to_vec()).collect()
}

fn subject_seeds() -> Vec<Vec<u8>> {
    let (Ok(cluster), Ok(node)) = ("v80z2gochcgtdkvsyeu3kfmx9".parse(), "7bke00cq5ruqtr0huzvotenf4".parse()) else {
        return Vec::new();
    };
    vec![pki::Subject { cluster, role: pki::Role::Worker, node }.to_name_der()]
}

fn public_key_seeds() -> Vec<Vec<u8>> {
    use pki::Signer;
    key(5).into_iter().map(|key| key.public().spki_der().to_vec()).collect()
}

fn snapshot_seeds() -> Vec<Vec<u8>> {
    vec![cluster::State::empty().encode_snapshot()]
}

fn session_seeds() -> Vec<Vec<u8>> {
    use prost::Message;
    let description = wire::proto::NodeDescription { hostname: "worker1".into(), ..Default::default() };
    vec![wire::proto::SessionRequest { description: Some(description), session_id: "abc".into() }.encode_to_vec()]
}

fn empty_seeds() -> Vec<Vec<u8>> {
    vec![Vec::new()]
}

/// What an external CA answered: a certificate that nobody should believe.
pub fn external_answer(input: &[u8]) {
    static ROOT: std::sync::OnceLock<Option<pki::Certificate>> = std::sync::OnceLock::new();
    let serial = pki::Serial::from_random([2; 20]);
    let Some(root) = ROOT.get_or_init(|| pki::issue::root(&key(2)?, serial, NOW).ok()) else {
        panic!("the root is a root")
    };
    let Ok(key) = root.public_key() else { panic!("the root has a key") };
    let subject = pki::Subject {
        cluster: pki::ClusterId::generate([3; 17]),
        role: pki::Role::Worker,
        node: pki::NodeId::generate([4; 17]),
    };
    let hour = std::time::Duration::from_secs(3_600);
    let life = cfssl::LifePolicy { min: hour, max: 1_000 * hour, skew: hour };
    let expected = cfssl::Expected { key, subject: &subject, root, intermediates: &[], life };
    assert!(cfssl::answer::check(input, &expected, NOW, |_| false).is_err(), "nobody signs for this node");
    let expected = cfssl::ExpectedRoot { new_root: root, old_root: root, life_min: hour, skew: hour };
    let _ = cfssl::answer::check_cross_signed(input, &expected, NOW);
    let _ = serde_json::from_slice::<cfssl::message::Answer<cfssl::message::SignResult>>(input);
}

/// What a manager asks of an external CA.
pub fn external_request(input: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<cfssl::message::SignRequest>(input) {
        let Ok(written) = serde_json::to_vec(&request) else { panic!("what was read can be written") };
        let again = serde_json::from_slice::<cfssl::message::SignRequest>(&written);
        assert!(again.is_ok_and(|again| serde_json::to_vec(&again).is_ok_and(|again| again == written)));
    }
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = cfssl::Address::parse(text);
    }
}

fn external_request_seeds() -> Vec<Vec<u8>> {
    let subject = pki::Subject {
        cluster: pki::ClusterId::generate([3; 17]),
        role: pki::Role::Manager,
        node: pki::NodeId::generate([4; 17]),
    };
    let request = cfssl::message::SignRequest::for_node(&subject, "-----BEGIN CERTIFICATE REQUEST-----");
    [serde_json::to_vec(&request).unwrap_or_default(), b"https://[::1]:8888/api/v1/cfssl/sign".to_vec()].into()
}

/// A PKCS#11 URI.
pub fn token_uri(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(uri) = text.parse::<pkcs11::Uri>() {
        let again = uri.to_string().parse::<pkcs11::Uri>();
        assert!(again.is_ok_and(|again| again == uri), "a URI that was written means the same");
        let _ = uri.key();
    }
}

fn token_uri_seeds() -> Vec<Vec<u8>> {
    [
        b"pkcs11:token=swarm;object=root".to_vec(),
        b"pkcs11:slot-id=7;id=%01%ff;type=private?module-path=/usr/lib/x.so&pin-source=file:/run/pin".to_vec(),
    ]
    .into()
}

/// A signed head of the issuance log: what a manager says, what a node keeps, and what an operator gives.
pub fn kept_head(input: &[u8]) {
    if let Some(kept) = swarmpki::KeptHead::read(input) {
        assert!(
            swarmpki::KeptHead::read(&kept.bytes()).is_some_and(|again| again == kept),
            "a head that was kept can be read"
        );
        let _ = kept.statement.signed_by(wire::limits::NEWS_LOG_HEAD);
    }
}

/// Heads that contradict each other, as a node keeps them.
pub fn log_fork(input: &[u8]) {
    if let Some(forks) = swarmpki::Fork::read(input) {
        assert!(!forks.is_empty() && forks.len() <= wire::limits::NEWS_FORKS_MAX, "some, and no more than are kept");
        let written = swarmpki::Fork::write(&forks);
        assert!(
            swarmpki::Fork::read(&written).is_some_and(|again| again == forks),
            "evidence that was kept can be read"
        );
        for fork in &forks {
            let _ = fork.why();
        }
    }
}

fn signed_head(size: u64, root: u8) -> Option<swarmpki::KeptHead> {
    use pki::Signer;
    let cluster = pki::ClusterId::generate([3; 17]);
    let head = pki::witness::Head { cluster, epoch: 1, size, root: [root; 32], at: NOW };
    let content = wire::convert::log_head::encode(&head);
    let leaf = pki::issue::root(&key(2)?, pki::Serial::from_random([2; 20]), NOW).ok()?;
    // ecdsa_secp256r1_sha256. Source: RFC 8446, 4.2.3.
    let (scheme, signature) = (0x0403, key(2)?.sign(&content).ok()?);
    swarmpki::KeptHead::new(swarmpki::Statement { chain: vec![leaf.der().to_vec()], scheme, content, signature })
}

fn kept_head_seeds() -> Vec<Vec<u8>> {
    signed_head(7, 1).into_iter().map(|kept| kept.bytes()).collect()
}

fn log_fork_seeds() -> Vec<Vec<u8>> {
    let both = signed_head(7, 1).zip(signed_head(9, 2));
    let Some(fork) = both.map(|(kept, said)| swarmpki::Fork { kept, said, proof: vec![[4; 32]; 3], at: NOW }) else {
        return Vec::new();
    };
    [1, 2].map(|many| swarmpki::Fork::write(&vec![fork.clone(); many])).into()
}
