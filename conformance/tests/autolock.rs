//! Managers that are locked at rest, by the stock `docker` command as in transcripts/10, and what lies on their disks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pki::secret::SecretBytes;
use pki::unlock_key::UnlockKey;
use replica::Handle as _;
use swarmpki::keystore::Keystore;
use swarmpki_conformance::caller::Pair;
use swarmpki_conformance::cluster::Cluster;
use swarmpki_conformance::{all_ready, node_id, swarm, token, try_join, unlock};
use testkit::daemon::Daemon;
use testkit::loopback::Loopback;
use testkit::require_or_skip;
use wire::proto::GetUnlockKeyRequest;

const LOCKED: &str = "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it.";
/// How long what follows a change by itself may take.
const SOON: Duration = Duration::from_secs(30);

fn refused(text: &str) -> String {
    format!("Error response from daemon: {text}")
}

fn unlock_text(key: &str) -> String {
    format!(
        "To unlock a swarm manager after it restarts, run the `docker swarm unlock`\ncommand and provide the following key:\n\n    \
         {key}\n\nRemember to store this key in a password manager, since without it you\nwill not be able to restart the manager."
    )
}

fn init(daemon: &Daemon, net: &Loopback, more: &[&str]) -> String {
    let (host, listen) = (net.host(1).to_string(), net.swarm(1));
    let args = ["swarm", "init", "--advertise-addr", &host, "--listen-addr", &listen];
    daemon.docker(&[&args, more].concat()).ok()
}

fn state(daemon: &Daemon) -> String {
    daemon.docker(&["info", "--format", "{{.Swarm.LocalNodeState}}"]).ok()
}

fn wait(what: &str, done: impl FnMut() -> bool) {
    testkit::wait::until_true(what, SOON, done);
}

/// Restarts a manager, which is locked then.
fn restart_locked(daemon: &mut Daemon) {
    daemon.stop();
    daemon.restart();
    wait("locked after a restart", || state(daemon) == "locked");
}

fn key_file(daemon: &Daemon) -> PathBuf {
    daemon.state().join("certificates/swarm-node.key")
}

fn key_text(daemon: &Daemon) -> String {
    std::fs::read_to_string(key_file(daemon)).unwrap()
}

/// Waits until the key file has followed: sealed, and the data key replaced.
fn settled(daemon: &Daemon, sealed: bool) {
    wait("the key file follows", || {
        let text = key_text(daemon);
        text.starts_with("-----BEGIN ENCRYPTED") == sealed && !text.contains("raft-dek-")
    });
}

#[test]
fn c183_the_whole_cycle_by_the_stock_command() {
    require_or_skip!("swarmpki", "docker");
    let (net, mut daemon) = (Loopback::claim(), Daemon::start("manager1"));
    init(&daemon, &net, &[]);
    let docker = |daemon: &Daemon, args: &[&str]| daemon.docker(args);

    // While autolock is off.
    assert_eq!(docker(&daemon, &["swarm", "unlock-key"]).refused(), "no unlock key is set");
    assert_eq!(daemon.api("GET", "/swarm/unlockkey", None).body.trim(), "{\"UnlockKey\":\"\"}");
    assert_eq!(
        docker(&daemon, &["swarm", "unlock-key", "--rotate"]).refused(),
        "cannot rotate because autolock is not turned on"
    );
    assert_eq!(docker(&daemon, &["swarm", "unlock"]).refused(), "Error: swarm is not locked");
    let raw = daemon.api("POST", "/swarm/unlock", Some("{\"UnlockKey\":\"x\"}"));
    assert_eq!((raw.status, raw.body.contains("swarm is not locked")), (409, true));

    // On, and on again.
    let shown = docker(&daemon, &["swarm", "update", "--autolock=true"]).ok();
    let first = docker(&daemon, &["swarm", "unlock-key", "-q"]).ok();
    assert_eq!(shown, format!("Swarm updated.\n{}", unlock_text(&first)));
    assert_eq!(docker(&daemon, &["swarm", "update", "--autolock=true"]).ok(), "Swarm updated.");
    assert_eq!(docker(&daemon, &["swarm", "unlock-key"]).ok(), unlock_text(&first));
    let shown = docker(&daemon, &["swarm", "unlock-key", "--rotate"]).ok();
    let second = docker(&daemon, &["swarm", "unlock-key", "-q"]).ok();
    assert_eq!(shown, format!("Successfully rotated manager unlock key.\n{}", unlock_text(&second)));
    let key = docker(&daemon, &["swarm", "unlock-key", "--rotate", "-q"]).ok();
    assert!(key != second && second != first && key.len() == 52);
    settled(&daemon, true);
    wait("sealed under the newest key", || opens(&daemon, &key));

    // A restart: locked.
    let id = node_id(&daemon);
    restart_locked(&mut daemon);
    assert_eq!(
        docker(&daemon, &["info", "--format", "{{json .Swarm}}"]).ok(),
        format!(
            "{{\"NodeID\":\"\",\"NodeAddr\":\"{}\",\"LocalNodeState\":\"locked\",\"ControlAvailable\":false,\"Error\":\"{}\",\"RemoteManagers\":null}}",
            net.host(1),
            LOCKED.replace('"', "\\\"")
        )
    );
    let commands: [&[&str]; 5] = [
        &["node", "ls"],
        &["swarm", "ca"],
        &["swarm", "join-token", "worker"],
        &["swarm", "update", "--autolock=false"],
        &["node", "inspect", "self"],
    ];
    for command in commands {
        assert_eq!(docker(&daemon, command).refused(), refused(LOCKED), "{command:?}");
    }
    let unfetched = format!("could not fetch unlock key: {}", refused(LOCKED));
    assert_eq!(docker(&daemon, &["swarm", "unlock-key"]).refused(), unfetched);
    let leave = "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.";
    assert_eq!(docker(&daemon, &["swarm", "leave"]).refused(), refused(leave));
    let member =
        "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.";
    let (host, listen) = (net.host(1).to_string(), net.swarm(1));
    assert_eq!(docker(&daemon, &["swarm", "init", "--advertise-addr", &host]).refused(), refused(member));
    assert_eq!(docker(&daemon, &["swarm", "join", "--token", "x", &listen]).refused(), refused(member));
    let ping = daemon.api("GET", "/_ping", None);
    assert_eq!(ping.header("swarm"), Some("locked"));
    assert!(std::net::TcpStream::connect(&listen).is_err(), "a locked manager serves nobody");

    // Wrong keys.
    assert_eq!(unlock(&daemon, "nonsense").refused(), refused("invalid key string"));
    let wrong = refused("swarm could not be unlocked: invalid key provided");
    for line in ["SWMKEY-1-abc", &first, &second] {
        assert_eq!(unlock(&daemon, line).refused(), wrong, "{line}");
    }
    assert_eq!(unlock(&daemon, "").refused(), refused("invalid key string"));
    assert_eq!(docker(&daemon, &["swarm", "unlock"]).refused(), refused("invalid key string"));
    for (line, status) in [("nonsense", 400), (first.as_str(), 401)] {
        let body = format!("{{\"UnlockKey\":\"{line}\"}}");
        assert_eq!(daemon.api("POST", "/swarm/unlock", Some(&body)).status, status);
    }
    assert_eq!(state(&daemon), "locked");

    // The right one.
    assert_eq!(unlock(&daemon, &key).ok(), "");
    assert_eq!(
        docker(&daemon, &["info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}"]).ok(),
        "active true"
    );
    assert_eq!(docker(&daemon, &["swarm", "unlock"]).refused(), "Error: swarm is not locked");
    all_ready(&daemon, &[&id]);

    // Off.
    assert_eq!(docker(&daemon, &["swarm", "update", "--autolock=false"]).ok(), "Swarm updated.");
    assert_eq!(docker(&daemon, &["swarm", "unlock-key"]).refused(), "no unlock key is set");
    settled(&daemon, false);
    daemon.stop();
    daemon.restart();
    wait("active after a restart", || state(&daemon) == "active");
}

/// Whether the key file opens with this key.
fn opens(daemon: &Daemon, key: &str) -> bool {
    let key: UnlockKey = key.parse().unwrap();
    Keystore::new(daemon.state()).unlock(key.into_bytes()).is_ok()
}

#[test]
fn c70_c196_a_second_manager_is_sealed_from_its_first_write_and_follows_the_key() {
    require_or_skip!("swarmpki", "docker");
    let net = Loopback::claim();
    let (one, mut two) = (Daemon::start("manager1"), Daemon::start("manager2"));
    init(&one, &net, &["--autolock"]);
    let key = one.docker(&["swarm", "unlock-key", "-q"]).ok();
    let joined = try_join(&two, net.host(2), &token(&one, "manager"), &net.swarm(1)).ok();
    assert_eq!(joined, "This node joined a swarm as a manager.");
    let id = node_id(&two);
    assert!(key_text(&two).starts_with("-----BEGIN ENCRYPTED"), "{}", &key_text(&two)[..60]);
    assert!(opens(&two, &key));
    all_ready(&one, &[&id]);
    // Each manager re-keys its own file.
    let next = two.docker(&["swarm", "unlock-key", "--rotate", "-q"]).ok();
    assert_eq!(one.docker(&["swarm", "unlock-key", "-q"]).ok(), next);
    wait("both follow", || opens(&one, &next) && opens(&two, &next));
    restart_locked(&mut two);
    assert_eq!(unlock(&two, &key).refused(), refused("swarm could not be unlocked: invalid key provided"));
    assert_eq!(unlock(&two, &next).ok(), "");
    all_ready(&one, &[&id]);
    wait("it answers", || two.docker(&["node", "ls"]).code == 0);
}

#[test]
fn a_manager_that_is_started_unattended() {
    require_or_skip!("swarmpki", "docker");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("swarmpki-unlock-key");
    let from = format!("file:{}", file.display());
    let by_flag = (vec!["--unlock-from".into(), from.clone().into()], Vec::new());
    let by_credential = (Vec::new(), vec![("CREDENTIALS_DIRECTORY".into(), folder.path().as_os_str().to_owned())]);
    for (args, env) in [by_flag, by_credential] {
        let _ = std::fs::remove_file(&file);
        let net = Loopback::claim();
        std::fs::write(&file, "not yet").unwrap();
        let mut daemon = Daemon::start_with("manager1", args, env);
        init(&daemon, &net, &["--autolock"]);
        let key = daemon.docker(&["swarm", "unlock-key", "-q"]).ok();
        std::fs::write(&file, format!("{key}\n")).unwrap();
        daemon.stop();
        daemon.restart();
        wait("unlocked by itself", || state(&daemon) == "active");
        // Without the key it waits for somebody.
        std::fs::write(&file, "nonsense").unwrap();
        restart_locked(&mut daemon);
        std::fs::write(&file, &key).unwrap();
        daemon.swarmpki(&["unlock", "--from", &from]).ok();
        assert_eq!(state(&daemon), "active");
    }
}

/// What must not lie on the disk of a locked manager: the words for what it is, and its bytes.
struct Secrets(Vec<(&'static str, Vec<u8>)>);

impl Secrets {
    /// Of a manager that is stopped, from a copy of what it has.
    async fn of(state: &Path, unlock_key: Option<&str>, earlier: &[u8]) -> Self {
        let copy = tempfile::tempdir().unwrap();
        for name in ["raft", "certificates"] {
            std::fs::create_dir(copy.path().join(name)).unwrap();
            for entry in std::fs::read_dir(state.join(name)).unwrap() {
                let entry = entry.unwrap();
                std::fs::copy(entry.path(), copy.path().join(name).join(entry.file_name())).unwrap();
            }
        }
        let keystore = Keystore::new(copy.path());
        let mut found = vec![("the data key that lay there in clear", earlier.to_vec())];
        if let Some(key) = unlock_key {
            let key: UnlockKey = key.parse().unwrap();
            found.push(("the unlock key", key.bytes().expose().to_vec()));
            found.push(("the unlock key's text", key.text().expose().as_bytes()[9..].to_vec()));
            keystore.unlock(key.into_bytes()).unwrap();
        }
        let pair = keystore.load_pair().unwrap().unwrap();
        let node_key = pair.key.key.pkcs8_der();
        found.push(("the node's key", scalar(node_key.expose())));
        let dek = keystore.data_keys().unwrap().current.unwrap();
        found.push(("the data key", dek.expose().to_vec()));
        let config = replica::Config {
            dir: copy.path().join("raft"),
            dek: SecretBytes::copy_of(dek.expose()),
            clock: std::sync::Arc::new(|| std::time::SystemTime::now().into()),
            carrier: std::sync::Arc::new(replica::carrier::Alone),
            limits: replica::Limits::default(),
        };
        let replica = replica::Replica::open(config).await.unwrap();
        let state = replica.read().await.unwrap();
        let root = state.roots.signing().unwrap().key().unwrap().clone();
        found.push(("the root's key", scalar(root.expose())));
        for row in &state.tokens.rows {
            found.push(("a token's secret", row.secret.expose().to_vec()));
        }
        replica.shutdown().await;
        // As text they would be no less readable, wherever in a text of base64 they begin.
        let text = |bytes: &[u8]| STANDARD.encode(&bytes[..bytes.len() / 3 * 3]).into_bytes();
        let texts: Vec<_> =
            (0..3).flat_map(|at| found.iter().map(move |(what, bytes)| (*what, text(&bytes[at..])))).collect();
        found.extend(texts);
        Secrets(found)
    }

    /// Those that are found in a file below `dir`.
    fn in_clear(&self, dir: &Path) -> Vec<(String, &'static str)> {
        let mut found = Vec::new();
        let mut left = vec![dir.to_path_buf()];
        while let Some(dir) = left.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    left.push(path);
                    continue;
                }
                let bytes = std::fs::read(&path).unwrap();
                let here = self.0.iter().filter(|(_, secret)| contains(&bytes, secret));
                found.extend(here.map(|(what, _)| (path.file_name().unwrap().to_string_lossy().into_owned(), *what)));
            }
        }
        found
    }
}

/// The 32 secret bytes of an EC key, in whatever form it is: RFC 5915 has them in an octet string after the version.
fn scalar(der: &[u8]) -> Vec<u8> {
    let at = der.windows(5).position(|window| window == [0x02, 0x01, 0x01, 0x04, 0x20]).unwrap() + 5;
    der[at..at + 32].to_vec()
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn c178_nothing_of_a_locked_manager_lies_on_its_disk_in_clear_also_if_it_was_locked_late() {
    require_or_skip!("swarmpki", "docker");
    for late in [false, true] {
        let (net, mut daemon) = (Loopback::claim(), Daemon::start("manager1"));
        init(&daemon, &net, if late { &[] } else { &["--autolock"] });
        let mut earlier = (100..132).collect();
        if late {
            // What a thief finds before: the test finds it too.
            daemon.stop();
            let clear = Secrets::of(&daemon.state(), None, b"none of it was there before this!").await;
            let found = clear.in_clear(&daemon.state());
            assert!(found.iter().any(|(_, what)| *what == "the data key"), "{found:?}");
            assert!(found.iter().all(|(file, _)| file == "swarm-node.key"), "{found:?}");
            earlier = clear.0.iter().find(|(what, _)| *what == "the data key").unwrap().1.clone();
            daemon.restart();
            wait("it is back", || daemon.docker(&["node", "ls"]).code == 0);
            daemon.docker(&["swarm", "update", "--autolock=true"]).ok();
            settled(&daemon, true);
        }
        let key = daemon.docker(&["swarm", "unlock-key", "-q"]).ok();
        assert!(opens(&daemon, &key));
        daemon.stop();
        let secrets = Secrets::of(&daemon.state(), Some(&key), &earlier).await;
        assert_eq!(secrets.in_clear(&daemon.state()), [], "late: {late}");
        if late {
            let now = &secrets.0.iter().find(|(what, _)| *what == "the data key").unwrap().1;
            assert_ne!(*now, earlier, "locking makes a new data key");
            let names: Vec<_> = std::fs::read_dir(daemon.state().join("raft"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
                .collect();
            assert!(names.iter().all(|name| !name.starts_with("store-1.")), "{names:?}");
        }
        // And it goes on where it was.
        daemon.restart();
        wait("locked", || state(&daemon) == "locked");
        unlock(&daemon, &key).ok();
        let id = node_id(&daemon);
        all_ready(&daemon, &[&id]);
        assert_eq!(state(&daemon), "active");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c168_c169_a_manager_is_given_the_key_of_now() {
    require_or_skip!("swarmpki", "docker");
    let cluster = Cluster::start();
    // Its certificate is a manager's, whoever presents it; and it lies there in clear, for now.
    let pair = Pair::load(&cluster.manager.certificates());
    let caller = cluster.caller(&pair).await;
    let version = || swarm(&cluster.manager)["Version"]["Index"].as_u64().unwrap();
    let given = caller.ca().get_unlock_key(GetUnlockKeyRequest {}).await.unwrap().into_inner();
    assert_eq!((given.unlock_key.len(), given.version.unwrap().index), (0, version()));
    cluster.manager.docker(&["swarm", "update", "--autolock=true"]).ok();
    let told: UnlockKey = cluster.manager.docker(&["swarm", "unlock-key", "-q"]).ok().parse().unwrap();
    let given = caller.ca().get_unlock_key(GetUnlockKeyRequest {}).await.unwrap().into_inner();
    assert!(told.bytes().ct_eq(&given.unlock_key));
    assert!(given.version.unwrap().index >= version());
}

#[test]
fn json_shows_the_unlock_key_when_a_swarm_begins_to_be_locked() {
    require_or_skip!("swarmpki");
    let net = Loopback::claim();
    let daemon = Daemon::start("manager1");
    let (addr, listen) = (net.host(1).to_string(), net.swarm(1));
    let said =
        daemon.swarmpki(&["--json", "init", "--autolock", "--advertise-addr", &addr, "--listen-addr", &listen]).ok();
    let shown: serde_json::Value = serde_json::from_str(&said).unwrap();
    let key = daemon.swarmpki(&["unlock-key", "-q"]).ok();
    assert_eq!(shown["UnlockKey"].as_str(), Some(key.as_str()));
    daemon.swarmpki(&["update", "--autolock=false"]).ok();
    let said = daemon.swarmpki(&["--json", "update", "--autolock"]).ok();
    let shown: serde_json::Value = serde_json::from_str(&said).unwrap();
    let next = daemon.swarmpki(&["unlock-key", "-q"]).ok();
    assert_eq!(shown["UnlockKey"].as_str(), Some(next.as_str()));
    assert_ne!(next, key);
    let said = daemon.swarmpki(&["--json", "update", "--autolock"]).ok();
    let shown: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert!(shown["UnlockKey"].is_null(), "nothing began");
}
