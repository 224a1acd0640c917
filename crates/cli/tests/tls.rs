//! The command over TCP: with TLS and without, as docker's command does it (engine-api.md 12).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod live;

use std::fs;
use std::path::Path;
use std::process::Command;

use live::{Up, free_port, program};
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// A CA with a folder for a daemon and one for a client, each with ca.pem, cert.pem and key.pem.
fn certificates(dir: &Path, name: &str) {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.distinguished_name.push(DnType::CommonName, name);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    for (end, names) in [("server", vec!["127.0.0.1".to_owned(), "localhost".to_owned()]), ("client", Vec::new())] {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
        let folder = dir.join(end);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
        fs::write(folder.join("cert.pem"), leaf.pem()).unwrap();
        fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    }
}

/// Runs the command; its exit is 0 or 1 as `good` says. Returns what it printed.
fn outcome(command: &mut Command, good: bool) -> String {
    let out = command.output().unwrap();
    let errors = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(i32::from(!good)), "{errors}");
    if good { String::from_utf8(out.stdout).unwrap() } else { errors }
}

#[test]
fn a_daemon_with_tls_and_its_clients() {
    let home = tempfile::tempdir().unwrap();
    certificates(home.path(), "ours");
    let other = tempfile::tempdir().unwrap();
    certificates(other.path(), "theirs");
    let host = format!("tcp://127.0.0.1:{}", free_port());
    let server = home.path().join("server");
    let file = |name: &str| server.join(name).display().to_string();
    let mut flags = vec!["-H".to_owned(), host.clone(), "--tlsverify".to_owned()];
    for (flag, name) in [("--tlscacert", "ca.pem"), ("--tlscert", "cert.pem"), ("--tlskey", "key.pem")] {
        flags.extend([flag.to_owned(), file(name)]);
    }
    let up = Up::with(home.path(), free_port(), flags);
    let version = |flags: &[&str], certs: Option<&Path>| {
        let mut command = program(home.path());
        command.args(["-H", &host, "info"]).args(flags);
        if let Some(certs) = certs {
            command.env("SWARMPKI_CERT_PATH", certs);
        }
        command
    };
    let (client, node) = (home.path().join("client"), up.node());

    // All the ways to ask for it.
    assert!(outcome(&mut version(&["--tls"], Some(&client)), true).contains(&node));
    assert!(outcome(&mut version(&["--tlsverify"], Some(&client)), true).contains(&node));
    for (variable, value) in [("SWARMPKI_TLS_VERIFY", "1"), ("DOCKER_TLS_VERIFY", "0"), ("DOCKER_TLS", "1")] {
        assert!(outcome(version(&[], Some(&client)).env(variable, value), true).contains(&node), "{variable}");
    }
    assert!(outcome(version(&["--tls"], None).env("DOCKER_CERT_PATH", &client), true).contains(&node));
    let named = ["--tls", "--tlscacert", "client/ca.pem", "--tlscert", "client/cert.pem", "--tlskey", "client/key.pem"];
    assert!(outcome(version(&named, None).current_dir(home.path()), true).contains(&node));
    // A unix socket never has it.
    assert!(up.run(&["--tls", "info"]).contains(&node));

    let refused = |command: &mut Command, words: &str| {
        let text = outcome(command, false);
        assert!(text.contains(words), "no {words:?} in {text}");
    };
    refused(
        version(&[], Some(&client)).env("DOCKER_TLS_VERIFY", "1").env("SWARMPKI_TLS_VERIFY", ""),
        "Error response from daemon: Client sent an HTTP request to an HTTPS server.",
    );
    refused(
        &mut version(&["--tls"], Some(&other.path().join("client"))),
        "tls: failed to verify certificate: x509: certificate signed by unknown authority",
    );
    refused(
        &mut version(&["--tls", "--tlscacert", &file("ca.pem")], None),
        &format!("error during connect: {host}: remote error: tls: certificate required"),
    );
    refused(&mut version(&["--tls"], None), ".docker/ca.pem: no such file or directory");
    refused(
        &mut version(&["--tls", "--tlscert", "/nowhere/cert.pem"], Some(&client)),
        "open /nowhere/cert.pem: no such file or directory",
    );
    refused(&mut version(&["--tlsverify=false"], Some(&client)), "always verifies");
    up.stop(Signal::SIGTERM);
}

#[test]
fn tls_to_a_daemon_without_it() {
    let home = tempfile::tempdir().unwrap();
    certificates(home.path(), "ours");
    let host = format!("tcp://127.0.0.1:{}", free_port());
    let up = Up::with(home.path(), free_port(), vec!["-H".to_owned(), host.clone()]);
    let mut plain = program(home.path());
    assert!(outcome(plain.args(["-H", &host, "info"]), true).contains(&up.node()));
    let mut tls = program(home.path());
    tls.args(["-H", &host, "--tls", "info"]).env("SWARMPKI_CERT_PATH", home.path().join("client"));
    let text = outcome(&mut tls, false);
    assert!(text.contains("http: server gave HTTP response to HTTPS client"), "{text}");
    up.stop(Signal::SIGTERM);
}
