//! What holds before there is a cluster, and of what a manager finds on its disk (conformance 41, 344, 358).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cluster::State;
use cluster::authorize::{Caller, Denial, Grant, Method, Presented, Standing};
use pki::certificate::Certificate;
use pki::identity::Role;
use pki::time::Time;
use swarmpki_conformance::cluster::Cluster;
use swarmpki_conformance::{info, init, node_id, swarm};
use testkit::authority::Authority;
use testkit::daemon::Daemon;
use testkit::loopback::Loopback;
use testkit::{openssl, require_or_skip, wait};

#[test]
fn c041_where_there_is_no_cluster_nobody_was_removed() {
    let state = State::empty();
    let now = Time::from_unix_secs(1_790_000_000);
    let leaf =
        Authority::new("swarm-ca").leaf("w1b8p8777smiidzvu9mwghgki", "swarm-manager", "k452muqd9uhn713lris4ny8bw");
    let certificate = Certificate::parse_pem_bundle(leaf.certificate.as_bytes()).unwrap().remove(0);
    let presented = Presented {
        cluster: "w1b8p8777smiidzvu9mwghgki".parse().unwrap(),
        role: Role::Manager,
        node: "k452muqd9uhn713lris4ny8bw".parse().unwrap(),
        serial: certificate.serial(),
        spki: certificate.spki_hash(),
        issuer: cluster::node::IssuerHash::of(&certificate.issuer_id()),
        not_before: certificate.not_before(),
        not_after: certificate.not_after(),
    };
    let standing = state.standing(&presented, now);
    assert_eq!(standing, Standing::Foreign);
    for method in Method::ALL {
        match state.authorize(Caller::Identified(&presented, &standing), method, now) {
            Ok(Grant::Anybody) | Err(Denial::Organization(_)) => {}
            other => panic!("{method:?}: {other:?}"),
        }
    }
}

/// A daemon whose state folder holds these certificate files of another swarm, and nothing else of it.
fn left_with(files: &[&str]) -> (Loopback, Daemon, Daemon) {
    let net = Loopback::claim();
    let (before, mut daemon) = (Daemon::start("before"), Daemon::start("manager1"));
    init(&before, net.host(1));
    assert!(daemon.stop().success());
    let [from, to] = [&before, &daemon].map(|daemon| daemon.folder().join("state/certificates"));
    std::fs::create_dir_all(&to).unwrap();
    for file in files {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
    daemon.restart();
    (net, before, daemon)
}

#[test]
fn c344_half_of_an_identity_is_none_and_a_new_swarm_has_its_own() {
    require_or_skip!("swarmpki", "docker", "openssl");
    for files in [&["swarm-root-ca.crt"][..], &["swarm-node.crt", "swarm-node.key"]] {
        let (net, before, daemon) = left_with(files);
        assert_eq!(info(&daemon)["LocalNodeState"], "inactive", "{files:?}");
        let id = init(&daemon, net.host(2));
        assert_ne!(id, node_id(&before), "{files:?}");
        let certificates = daemon.certificates();
        let root = std::fs::read_to_string(certificates.root()).unwrap();
        assert_eq!(root, swarm(&daemon)["TLSInfo"]["TrustRoot"].as_str().unwrap());
        assert_ne!(root, swarm(&before)["TLSInfo"]["TrustRoot"].as_str().unwrap(), "{files:?}");
        openssl::verify(&certificates.root(), &certificates.chain());
    }
}

#[tokio::test]
async fn c358_a_manager_does_not_start_with_a_forged_identity() {
    require_or_skip!("swarmpki");
    for with_root in [false, true] {
        let mut cluster = Cluster::start();
        let id = node_id(&cluster.manager);
        assert!(cluster.manager.stop().success());
        // Same names, another root: and with its root in place of ours, or without.
        let forger = Authority::new("swarm-ca");
        let leaf = forger.leaf(&cluster.id, "swarm-manager", &id);
        let files = cluster.manager.certificates();
        let key = std::fs::read_to_string(files.key()).unwrap();
        let headers: String = key.lines().filter(|line| line.contains(": ")).map(|line| format!("{line}\n")).collect();
        let forged = leaf.key.replacen("-----\n", &format!("-----\n{headers}\n"), 1);
        std::fs::write(files.key(), forged).unwrap();
        std::fs::write(files.chain(), &leaf.certificate).unwrap();
        if with_root {
            std::fs::write(files.root(), forger.pem()).unwrap();
        }
        cluster.manager.restart();
        let (said, _) = wait::until("the daemon says what is wrong", Duration::from_secs(20), || {
            let info = info(&cluster.manager);
            let error = info["Error"].as_str().unwrap_or_default().to_owned();
            if error.is_empty() { Err(info.to_string()) } else { Ok(error) }
        });
        let text = format!("error while loading TLS certificate in {}: ", files.chain().display());
        assert!(said.starts_with(&text) && said.contains("unknown authority"), "with its root {with_root}: {said}");
        assert_ne!(info(&cluster.manager)["ControlAvailable"], true);
        assert!(std::net::TcpStream::connect(cluster.address()).is_err(), "port 2377 is not served");
    }
}
