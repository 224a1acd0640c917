//! The Engine API over TCP, as the stock `docker` command and OpenSSL meet it: each mode of TLS, good and bad certificates of each
//! kind, and the three ways to come by certificates of docs/operations/api-tls.md (engine-api.md 12, transcript 15).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use testkit::daemon::Daemon;
use testkit::docker::{Client, Output};
use testkit::loopback::Loopback;
use testkit::openssl::openssl;
use testkit::{require_or_skip, wait};

const SOON: Duration = Duration::from_secs(20);
const VERSION: [&str; 3] = ["version", "--format", "{{.Server.Version}}"];
const REQUIRED: &str = "remote error: tls: certificate required";
const UNKNOWN: &str = "tls: failed to verify certificate: x509: certificate signed by unknown authority";
const PLAIN: &str = "Error response from daemon: Client sent an HTTP request to an HTTPS server.";

type Ca = CertifiedIssuer<'static, KeyPair>;
/// Variables and arguments of the command.
type Way<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

fn named(name: &str, names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = named(name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn ca(name: &str) -> Ca {
    Ca::self_signed(ca_params(name), KeyPair::generate().unwrap()).unwrap()
}

/// A folder as `DOCKER_CERT_PATH` has it: whom its owner trusts, and a certificate of `issuer` with what is above it.
fn folder(top: &Path, name: &str, trusts: &str, issuer: &Ca, above: &str, params: CertificateParams) -> PathBuf {
    let folder = top.join(name);
    fs::create_dir_all(&folder).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, issuer).unwrap();
    fs::write(folder.join("ca.pem"), trusts).unwrap();
    fs::write(folder.join("cert.pem"), [&leaf.pem(), above].concat()).unwrap();
    fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    folder
}

fn server(host: &str) -> CertificateParams {
    let mut params = named("server", &[host]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn client() -> CertificateParams {
    let mut params = named("ann", &[]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// A daemon that listens on TCP too, with these flags.
fn daemon(address: &str, flags: &[&str]) -> Daemon {
    let mut more: Vec<OsString> = vec!["-H".into(), format!("tcp://{address}").into()];
    more.extend(flags.iter().map(Into::into));
    Daemon::start_with("manager1", more, Vec::new())
}

/// The three flags that name files, of a folder.
fn files(folder: &Path) -> Vec<String> {
    [("--tlscacert", "ca.pem"), ("--tlscert", "cert.pem"), ("--tlskey", "key.pem")]
        .into_iter()
        .flat_map(|(flag, name)| [flag.to_owned(), folder.join(name).display().to_string()])
        .collect()
}

/// `docker version` over TCP.
fn version(top: &Path, address: &str, env: &[(&str, &str)], args: &[&str]) -> Output {
    let host = format!("tcp://{address}");
    let env = [&[("DOCKER_HOST", host.as_str())], env].concat();
    Client::first().run_in(top, &env, &[args, &VERSION].concat())
}

/// The same with the certificates of a folder, which has to verify the daemon.
fn with(top: &Path, address: &str, certs: &str) -> Output {
    let path = top.join(certs).display().to_string();
    version(top, address, &[("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", &path)], &[])
}

fn refused(output: &Output, words: &str) {
    let text = output.refused();
    assert!(text.contains(words), "no {words:?} in {text}");
}

fn copy(top: &Path, from: &str, to: &str, names: &[&str]) {
    fs::create_dir_all(top.join(to)).unwrap();
    for name in names {
        fs::copy(top.join(from).join(name), top.join(to).join(name)).unwrap();
    }
}

/// One name of each kind of client of transcript 15, and of those that a CA makes by mistake.
fn clients(top: &Path, ours: &Ca, host: &str) -> PathBuf {
    let (theirs, namesake) = (ca("other-ca"), ca("docker-api-ca"));
    let trusts = ours.pem();
    let make = |name: &str, trusts: &str, issuer: &Ca, params| folder(top, name, trusts, issuer, "", params);
    make("good", &trusts, ours, client());
    make("any-usage", &trusts, ours, named("ann", &[]));
    make("wrongca", &theirs.pem(), ours, client());
    make("stranger", &trusts, &theirs, client());
    make("namesake", &trusts, &namesake, client());
    let mut ended = client();
    (ended.not_before, ended.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    make("expired", &trusts, ours, ended);
    let mut early = client();
    early.not_before = date_time_ymd(2090, 1, 1);
    make("early", &trusts, ours, early);
    make("usage", &trusts, ours, server(host));
    copy(top, "good", "nocert", &["ca.pem"]);
    copy(top, "good", "half", &["ca.pem", "cert.pem"]);
    fs::create_dir_all(top.join("empty")).unwrap();
    make("server", &trusts, ours, server(host))
}

#[test]
fn with_client_certificates() {
    require_or_skip!("swarmpki", "docker", "openssl");
    let (net, top) = (Loopback::claim(), tempfile::tempdir().unwrap());
    let (top, host) = (top.path(), net.host(1).to_string());
    let ours = ca("docker-api-ca");
    let files = files(&clients(top, &ours, &host));
    for mode in ["--tlsverify", "--tls", "--tlsverify=true"] {
        let address = net.free_port(1).to_string();
        let mut flags = vec![mode];
        flags.extend(files.iter().map(String::as_str));
        let daemon = daemon(&address, &flags);
        let with = |certs: &str| with(top, &address, certs);
        let said = with("good").ok();
        with("any-usage").ok();
        for certs in ["nocert", "half", "stranger"] {
            refused(&with(certs), REQUIRED);
        }
        refused(&with("wrongca"), UNKNOWN);
        refused(&with("namesake"), "remote error: tls: unknown certificate authority");
        refused(&with("expired"), "remote error: tls: expired certificate");
        refused(&with("early"), "remote error: tls: expired certificate");
        refused(&with("usage"), "remote error: tls: unsupported certificate");
        refused(&with("empty"), "Failed to initialize: unable to resolve docker endpoint: open ");

        // The ways of the command to ask for TLS.
        let good = top.join("good").display().to_string();
        let path = ("DOCKER_CERT_PATH", good.as_str());
        let ways: [Way<'_>; 4] = [
            (&[path], &["--tls"]),
            (&[path], &["--tlsverify=false"]),
            (&[path, ("DOCKER_TLS_VERIFY", "0")], &[]),
            (&[path, ("DOCKER_TLS", "1")], &[]),
        ];
        for (env, args) in ways {
            assert_eq!(version(top, &address, env, args).ok(), said, "{env:?} {args:?}");
        }
        let named =
            ["--tlsverify", "--tlscacert", "good/ca.pem", "--tlscert", "good/cert.pem", "--tlskey", "good/key.pem"];
        assert_eq!(version(top, &address, &[], &named).ok(), said);
        refused(&version(top, &address, &[], &[]), PLAIN);
        let docker = |args: &[&str]| {
            Client::first().run_in(top, &[("DOCKER_TLS_VERIFY", "1"), path], &[&["-H", &address], args].concat())
        };

        // A whole life over TLS; and the certificate that the node gets opens nothing here.
        docker(&["swarm", "init", "--advertise-addr", &host, "--listen-addr", &net.swarm(1)]).ok();
        assert!(docker(&["node", "ls"]).ok().contains("Leader"));
        assert!(!docker(&["info"]).ok().contains("API is accessible"));
        // Who changes something is told, over TLS by name, over the socket as the kernel says.
        daemon.docker(&["swarm", "update", "--task-history-limit", "7"]).ok();
        let log = daemon.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("a request that changes something")).collect();
        assert!(lines.len() == 2 && lines[0].contains("caller=\"ann\" at 127."), "{lines:?}");
        let own = format!("caller=uid {} gid {} pid ", nix::unistd::getuid(), nix::unistd::getgid());
        assert!(lines[1].contains(&own) && lines[1].contains("/swarm/update"), "{lines:?}");
        let node = daemon.certificates();
        fs::create_dir_all(top.join("node")).unwrap();
        fs::copy(top.join("good/ca.pem"), top.join("node/ca.pem")).unwrap();
        fs::copy(node.chain(), top.join("node/cert.pem")).unwrap();
        // OpenSSL takes no headers in a key's PEM.
        let key = fs::read_to_string(node.key()).unwrap();
        let bare: Vec<&str> = key.lines().filter(|line| !line.is_empty() && !line.contains(':')).collect();
        fs::write(top.join("node/key.pem"), bare.join("\n") + "\n").unwrap();
        refused(&with("node"), REQUIRED);
        let file = |name: &str| top.join("node").join(name).display().to_string();
        let pushed =
            s_client(&address, &["-cert", &file("cert.pem"), "-key", &file("key.pem")], "GET /_ping HTTP/1.0\r\n\r\n");
        assert!(pushed.contains("alert unknown ca"), "{pushed}");
        docker(&["swarm", "leave", "-f"]).ok();
    }
}

/// What `openssl s_client` says, both streams, when it has sent `request`.
fn s_client(address: &str, args: &[&str], request: &str) -> String {
    let line = format!(
        "printf '{request}' | timeout 10 openssl s_client -connect {address} {} -ign_eof 2>&1; true",
        args.join(" ")
    );
    testkit::docker::run(Command::new("sh").args(["-c", &line])).stdout
}

#[test]
fn facts_of_the_handshake() {
    require_or_skip!("swarmpki", "openssl");
    let (net, top) = (Loopback::claim(), tempfile::tempdir().unwrap());
    let (top, host, address) = (top.path(), net.host(1).to_string(), net.free_port(1).to_string());
    let files = files(&clients(top, &ca("docker-api-ca"), &host));
    let mut flags = vec!["--tlsverify"];
    flags.extend(files.iter().map(String::as_str));
    let _daemon = daemon(&address, &flags);
    let good = top.join("good");
    let file = |name: &str| good.join(name).display().to_string();
    let (ca, cert, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    let own = ["-CAfile", &ca, "-cert", &cert, "-key", &key];
    let ask = |more: &[&str]| {
        s_client(
            &address,
            &[&own, more].concat(),
            "GET /_ping HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n",
        )
    };
    let said = ask(&["-alpn", "h2,http/1.1"]);
    for fact in [
        "New, TLSv1.3",
        "ALPN protocol: http/1.1",
        "Verification: OK",
        "Acceptable client certificate CA names",
        "CN = docker-api-ca",
        "HTTP/1.1 200 OK",
    ] {
        assert!(said.contains(fact) || said.contains(&fact.replace(" = ", "=")), "no {fact:?} in {said}");
    }
    let old = ask(&["-tls1_2"]);
    assert!(old.contains("New, TLSv1.2, Cipher is ECDHE-") && old.contains("HTTP/1.1 200 OK"), "{old}");
    let older = ask(&["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"]);
    assert!(older.contains("alert protocol version"), "{older}");
    let weak = ask(&["-tls1_2", "-cipher", "AES128-GCM-SHA256:ECDHE-ECDSA-AES128-SHA"]);
    assert!(weak.contains("handshake failure"), "{weak}");
}

#[test]
fn without_client_certificates_and_without_tls() {
    require_or_skip!("swarmpki", "docker");
    let (net, top) = (Loopback::claim(), tempfile::tempdir().unwrap());
    let (top, host) = (top.path(), net.host(1).to_string());
    let files = files(&clients(top, &ca("docker-api-ca"), &host));
    for mode in [&["--tls", "--tlsverify=false"][..], &["--tlsverify=false"]] {
        let address = net.free_port(1).to_string();
        let _daemon = daemon(&address, &[mode, &files.iter().map(String::as_str).collect::<Vec<_>>()].concat());
        for certs in ["good", "nocert", "stranger"] {
            with(top, &address, certs).ok();
        }
        refused(&with(top, &address, "wrongca"), UNKNOWN);
        refused(&version(top, &address, &[], &[]), PLAIN);
        let path = top.join("nocert").display().to_string();
        let env = [("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", path.as_str())];
        let info = Client::first().run_in(top, &env, &["-H", &address, "info"]);
        let warning = format!("API is accessible on https://{address} without TLS client verification.");
        assert!(info.ok().contains(&warning) || info.stderr.contains(&warning), "{info:?}");
    }

    let address = net.free_port(1).to_string();
    let _daemon = daemon(&address, &[]);
    version(top, &address, &[], &[]).ok();
    refused(&with(top, &address, "good"), "http: server gave HTTP response to HTTPS client");
    let info = Client::first().run_in(top, &[], &["-H", &address, "info"]);
    let warning = format!("API is accessible on http://{address} without encryption.");
    assert!(info.ok().contains(&warning) || info.stderr.contains(&warning), "{info:?}");
    drop(_daemon);
    refused(&version(top, &address, &[], &[]), &format!("Cannot connect to the Docker daemon at tcp://{address}."));
}

/// Files that are exchanged while the daemon runs.
#[test]
fn new_files_are_taken_and_bad_ones_are_not() {
    require_or_skip!("swarmpki", "docker");
    let (net, top) = (Loopback::claim(), tempfile::tempdir().unwrap());
    let (top, host, address) = (top.path(), net.host(1).to_string(), net.free_port(1).to_string());
    let (first, second) = (ca("first"), ca("second"));
    for (name, ca) in [("first", &first), ("second", &second)] {
        folder(top, name, &ca.pem(), ca, "", client());
        folder(top, &format!("{name}-server"), &ca.pem(), ca, "", server(&host));
    }
    let all = ["ca.pem", "cert.pem", "key.pem"];
    copy(top, "first-server", "used", &all);
    let files = files(&top.join("used"));
    let mut flags = vec!["--tlsverify"];
    flags.extend(files.iter().map(String::as_str));
    let daemon = daemon(&address, &flags);
    let with = |certs: &str| with(top, &address, certs);
    with("first").ok();
    refused(&with("second"), UNKNOWN);

    // A key that does not belong to the certificate: what was there stays in use.
    let from = daemon.log_len();
    copy(top, "second-server", "used", &["key.pem"]);
    daemon.logged(from, "cannot be used", SOON);
    with("first").ok();
    // The rest of the set: from then on it is the other one.
    copy(top, "second-server", "used", &all);
    wait::until_true("the second set", SOON, || with("second").code == 0);
    refused(&with("first"), UNKNOWN);
    // Half of a file; then SIGHUP, which reads them whatever they are, and ends nobody.
    let from = daemon.log_len();
    let whole = fs::read_to_string(top.join("used/ca.pem")).unwrap();
    fs::write(top.join("used/ca.pem"), &whole[..whole.len() - 30]).unwrap();
    daemon.logged(from, "cannot be used", SOON);
    with("second").ok();
    fs::write(top.join("used/ca.pem"), &whole).unwrap();
    daemon.logged(from, "were read again", SOON);
    let from = daemon.log_len();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.pid()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    daemon.logged(from, "were read again", SOON);
    with("second").ok();
}

/// A third party's certificate for the server, and a small CA of one's own for the clients.
#[test]
fn the_way_of_a_third_party() {
    require_or_skip!("swarmpki", "docker");
    let (net, top) = (Loopback::claim(), tempfile::tempdir().unwrap());
    let (top, host, address) = (top.path(), net.host(1).to_string(), net.free_port(1).to_string());
    let (public, own) = (ca("public-ca"), ca("own-clients-ca"));
    let served = folder(top, "server", &own.pem(), &public, "", server(&host));
    folder(top, "ann", &public.pem(), &own, "", client());
    // Whoever has a certificate of the third party's is not let in by that.
    folder(top, "anybody", &public.pem(), &public, "", client());
    let files = files(&served);
    let mut flags = vec!["--tlsverify"];
    flags.extend(files.iter().map(String::as_str));
    let _daemon = daemon(&address, &flags);
    with(top, &address, "ann").ok();
    refused(&with(top, &address, "anybody"), REQUIRED);
}

/// A root that is offline, and CAs below it that issue.
#[test]
fn the_way_of_a_corporate_ca() {
    require_or_skip!("swarmpki", "docker");
    let (net, top) = (Loopback::claim(), tempfile::tempdir().unwrap());
    let (top, host) = (top.path(), net.host(1).to_string());
    let root = ca("corporate-root");
    let below = |name: &str| Ca::signed_by(ca_params(name), KeyPair::generate().unwrap(), &root).unwrap();
    let (servers, people) = (below("servers-ca"), below("people-ca"));
    folder(top, "server", &root.pem(), &servers, &servers.pem(), server(&host));
    folder(top, "ann", &root.pem(), &people, &people.pem(), client());
    folder(top, "machine", &root.pem(), &servers, &servers.pem(), client());
    folder(top, "alone", &root.pem(), &people, "", client());
    // Clients of everybody below the root; then of the CA for people only.
    for (trusts, machine_may) in [(root.pem(), true), (people.pem(), false)] {
        fs::write(top.join("server/ca.pem"), trusts).unwrap();
        let address = net.free_port(1).to_string();
        let files = files(&top.join("server"));
        let mut flags = vec!["--tlsverify"];
        flags.extend(files.iter().map(String::as_str));
        let _daemon = daemon(&address, &flags);
        with(top, &address, "ann").ok();
        if machine_may {
            with(top, &address, "machine").ok();
            // Without the intermediate in cert.pem the client does not know that its certificate would do.
            refused(&with(top, &address, "alone"), REQUIRED);
        } else {
            refused(&with(top, &address, "machine"), REQUIRED);
            with(top, &address, "alone").ok();
        }
    }
}

/// Certificates that sign themselves, made with the commands of docs/operations/api-tls.md.
#[test]
fn the_way_of_self_signed_certificates() {
    require_or_skip!("swarmpki", "docker", "openssl");
    let (net, top) = (Loopback::claim(), tempfile::tempdir().unwrap());
    let (top, host, address) = (top.path(), net.host(1).to_string(), net.free_port(1).to_string());
    let make = |name: &str, cn: &str, extensions: &[&str]| {
        let folder = top.join(name);
        fs::create_dir_all(&folder).unwrap();
        let (key, cert) = (folder.join("key.pem").display().to_string(), folder.join("cert.pem").display().to_string());
        let subject = format!("/CN={cn}");
        let mut args =
            vec!["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "365"];
        args.extend(["-subj", &subject, "-keyout", &key, "-out", &cert]);
        for extension in extensions {
            args.extend(["-addext", extension]);
        }
        openssl(&args).ok();
    };
    make("server", "swarmpki", &[&format!("subjectAltName=IP:{host}"), "extendedKeyUsage=serverAuth"]);
    make("ann", "ann", &["extendedKeyUsage=clientAuth"]);
    make("bob", "bob", &["extendedKeyUsage=clientAuth"]);
    let pem = |name: &str| fs::read_to_string(top.join(name).join("cert.pem")).unwrap();
    for name in ["ann", "bob"] {
        fs::write(top.join(name).join("ca.pem"), pem("server")).unwrap();
    }
    // The list of those who may is the CA file.
    fs::write(top.join("server/ca.pem"), pem("ann")).unwrap();
    let files = files(&top.join("server"));
    let mut flags = vec!["--tlsverify"];
    flags.extend(files.iter().map(String::as_str));
    let _daemon = daemon(&address, &flags);
    with(top, &address, "ann").ok();
    refused(&with(top, &address, "bob"), REQUIRED);
    fs::write(top.join("server/ca.pem"), [pem("ann"), pem("bob")].concat()).unwrap();
    wait::until_true("bob is let in", SOON, || with(top, &address, "bob").code == 0);
    fs::write(top.join("server/ca.pem"), pem("bob")).unwrap();
    wait::until_true("ann is not any more", SOON, || with(top, &address, "ann").code != 0);
    with(top, &address, "bob").ok();
}

/// Flags that do not hold together.
#[test]
fn starts_that_fail() {
    require_or_skip!("swarmpki");
    let program = testkit::daemon::program().unwrap();
    let top = tempfile::tempdir().unwrap();
    let start = |flags: &[&str]| {
        let mut command = Command::new(&program);
        command.current_dir(top.path()).env_clear().env("HOME", top.path()).env("SWARMPKI_CERT_PATH", top.path());
        testkit::docker::run(command.args(["daemon", "--state-dir", "state", "-H", "tcp://127.0.0.1:0"]).args(flags))
            .refused()
    };
    let said = start(&["--tlsverify"]);
    assert!(
        said.contains("invalid TLS configuration: could not load X509 key pair (cert: \"")
            && said.contains("no such file"),
        "{said}"
    );
    let said = start(&["--tls=operators", "--tlscert", "x.pem"]);
    assert!(said.contains("--tls=operators and --tlscert do not go together"), "{said}");
    let said = start(&["--tls=operators", "--tlsverify"]);
    assert!(said.contains("--tls=operators and --tlsverify do not go together"), "{said}");
}
