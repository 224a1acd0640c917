//! A real cfssl signs for us, over mutual TLS, and certifies a new root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ca;

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ca::{Asker, DAY, HOUR, LIFE, Root, client, clock, now, settings};
use pki::Role;
use pki::chain::{self, Usage};
use pki::key::Signer as _;
use rcgen::KeyPair;
use serde_json::json;
use swarmpki_cfssl::{CrossSignFailure, LifePolicy, Settings, Target, probe};
use testkit::loopback::Loopback;
use testkit::{peer, require_or_skip, wait};

const NODE: &str = "pffsvkyjmbor73mxcfb8s5edu";

/// A running `cfssl serve`; it ends with the value.
struct Cfssl {
    process: Child,
    folder: tempfile::TempDir,
    _network: Loopback,
    url: String,
}

impl Drop for Cfssl {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Cfssl {
    /// Serves `root`'s key to clients with a certificate of `root`'s. `cross_signs`: the profile `CA` is there.
    fn start(root: &Root, cross_signs: bool) -> Cfssl {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let usages = ["signing", "key encipherment", "server auth", "client auth"];
        let mut signing = json!({"default": {"usages": usages, "expiry": "2160h"}});
        if cross_signs {
            let constraint = json!({"is_ca": true, "max_path_len": 1});
            signing["profiles"]["CA"] =
                json!({"usages": ["cert sign", "crl sign"], "expiry": "87600h", "ca_constraint": constraint});
        }
        let network = Loopback::claim();
        let address = network.free_port(1);
        let (certificate, key) = root.server_pem(&address.ip().to_string());
        let log = File::create(folder.path().join("log")).unwrap();
        let program = peer::find("cfssl").unwrap();
        let option = |name: &str, path: &Path| format!("-{name}={}", path.display());
        let process = Command::new(program)
            .arg("serve")
            .arg(format!("-address={}", address.ip()))
            .arg(format!("-port={}", address.port()))
            .arg(option("ca", &file("ca.pem", &root.pem())))
            .arg(option("ca-key", &file("ca-key.pem", &root.key.serialize_pem())))
            .arg(option("config", &file("config.json", &json!({"signing": signing}).to_string())))
            .arg(option("tls-cert", &file("tls.pem", &certificate)))
            .arg(option("tls-key", &file("tls-key.pem", &key)))
            .arg(option("mutual-tls-ca", &folder.path().join("ca.pem")))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let cfssl = Cfssl { process, folder, _network: network, url: format!("https://{address}/api/v1/cfssl/sign") };
        wait::until_true("cfssl listens", Duration::from_secs(60), || std::net::TcpStream::connect(address).is_ok());
        cfssl
    }

    fn target(&self, root: &Root) -> Target {
        Target { url: self.url.clone(), roots: vec![root.certificate.clone()] }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

#[tokio::test]
async fn real_cfssl_signs_for_both_roles() {
    require_or_skip!("cfssl");
    let root = Root::new("external-root");
    let cfssl = Cfssl::start(&root, false);
    let (_publisher, live) = root.live("m1");
    probe(&cfssl.url, std::slice::from_ref(&root.certificate), Some(&live), clock(), Duration::from_secs(60))
        .await
        .unwrap();
    let client = client(settings(), Some(live), vec![cfssl.target(&root)]);
    let mut serials = std::collections::HashSet::new();
    for role in [Role::Worker, Role::Manager, Role::Manager] {
        let asker = Asker::new(role, NODE);
        let granted = client.sign(&asker.request, |pem| asker.check(&root.certificate, pem)).await;
        let granted = granted.unwrap_or_else(|failure| panic!("{failure}\n{}", cfssl.log()));
        assert!(serials.insert(granted.value.leaf.serial()));
        assert_eq!(granted.value.leaf.node_subject().unwrap(), asker.subject);
    }
    // What the profile gives is more than this cluster allows.
    let asker = Asker::new(Role::Worker, NODE);
    let expected = swarmpki_cfssl::Expected {
        key: asker.key.public(),
        subject: &asker.subject,
        root: &root.certificate,
        intermediates: &[],
        life: LifePolicy { max: 30 * DAY, ..LIFE },
    };
    let check = |pem: &[u8]| swarmpki_cfssl::answer::check(pem, &expected, now(), |_| false);
    let failure = client.sign(&asker.request, check).await.unwrap_err();
    assert_eq!(failure.per_url[0].reason.name(), "lifetime");
}

#[tokio::test]
async fn real_cfssl_refuses_us_without_a_certificate_and_with_a_strangers() {
    require_or_skip!("cfssl");
    let (root, twin) = (Root::new("external-root"), Root::new("external-root"));
    let cfssl = Cfssl::start(&root, false);
    let (_publisher, stranger) = twin.live("m1");
    for identity in [None, Some(stranger)] {
        let client = client(Settings { ..settings() }, identity, vec![cfssl.target(&root)]);
        let asker = Asker::new(Role::Worker, NODE);
        let failure =
            client.sign(&asker.request, |pem| asker.check(&root.certificate, pem)).await.map(|_| ()).unwrap_err();
        assert_eq!((failure.recoverable, failure.per_url[0].reason.name()), (true, "unreachable"), "{failure}");
    }
}

#[tokio::test]
async fn c316_c317_real_cfssl_cross_signs_where_its_profile_allows() {
    require_or_skip!("cfssl");
    let old = Root::new("external-root");
    let (_publisher, live) = old.live("m1");
    let cfssl = Cfssl::start(&old, true);
    let client_of = |cfssl: &Cfssl| client(settings(), Some(live.clone()), vec![cfssl.target(&old)]);
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    for new in [Root::new("swarm-ca"), Root::with_key("swarm-ca", rsa)] {
        let key = new.private_key();
        let granted = client_of(&cfssl).cross_sign(&new.certificate, &key, &old.certificate, 365 * DAY, HOUR).await;
        let crossed = granted.unwrap_or_else(|failure| panic!("{failure}\n{}", cfssl.log())).value;
        // A leaf of the new root reaches the old one over it.
        let asker = Asker::new(Role::Worker, NODE);
        let pem = new.certify(&asker.json(), |_| {});
        let leaf = asker.check(&new.certificate, pem.as_bytes()).unwrap().leaf;
        let anchors = [old.certificate.clone()];
        chain::reaches(&leaf, &[crossed], &anchors, now(), Usage::Server).unwrap();
        assert!(chain::reaches(&leaf, &[], &anchors, now(), Usage::Server).is_err());
    }

    let without = Cfssl::start(&old, false);
    let new = Root::new("swarm-ca");
    let failure = client_of(&without)
        .cross_sign(&new.certificate, &new.private_key(), &old.certificate, 365 * DAY, HOUR)
        .await
        .map(|_| ())
        .unwrap_err();
    let CrossSignFailure::Sign(failure) = failure else { panic!("{failure}") };
    // Without the profile it signs a leaf by the default one, or says no: it depends on its version.
    assert!(["not-ca", "refused", "status"].contains(&failure.per_url[0].reason.name()), "{failure}");
}
