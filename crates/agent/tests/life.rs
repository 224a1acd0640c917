//! A node's life against a manager in this process: join, session, renewal, rotation, removal, restart.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fake;

use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fake::testing::{Ca, subject};
use fake::{Fake, Listening, now, soon};
use pki::secret::SecretBytes;
use swarmpki::{
    Config, Description, Ended, Handle, JoinError, JoinRequest, Node, NodeError, Phase, Role, Status, Time,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A node that runs until it is told to stop.
struct Running {
    handle: Handle,
    task: JoinHandle<Ended>,
    stop: oneshot::Sender<()>,
}

impl Running {
    fn start(node: Node) -> Running {
        let (stop, stopped) = oneshot::channel();
        let handle = node.handle();
        Running { handle, task: tokio::spawn(node.run(stopped)), stop }
    }

    async fn when(&self, what: &str, mut good: impl FnMut(&Status) -> bool) -> Status {
        let mut status = self.handle.status();
        let found = soon(what, status.wait_for(|status| good(status))).await;
        found.unwrap_or_else(|_| panic!("the node stopped before: {what}")).clone()
    }

    async fn stop(self) -> Ended {
        let _ = self.stop.send(());
        soon("the end", self.task).await.unwrap()
    }
}

async fn join(fake: &Fake, at: &Listening, dir: &Path) -> Result<Node, NodeError> {
    let request = JoinRequest::new(fake.token(), [at.addr.to_string()]);
    soon("the join", Node::join(Config::new(dir), request)).await
}

async fn ready(fake: &Fake, at: &Listening, dir: &Path) -> Running {
    let running = Running::start(join(fake, at, dir).await.unwrap());
    running.when("ready", |status| status.phase == Phase::Ready).await;
    running
}

fn read(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(name)).unwrap()
}

#[tokio::test]
async fn c47_c67_c356_join_live_restart_with_the_same_id() {
    let fake = Fake::new(Role::Worker);
    let at = fake.listen().await;
    let dir = tempfile::tempdir().unwrap();
    let hooked = Arc::new(AtomicU64::new(0));
    let config = || {
        let hooked = hooked.clone();
        let mut config = Config::new(dir.path());
        config.can_manage = true;
        config.on_identity = Some(Arc::new(move |_| {
            hooked.fetch_add(1, Ordering::Relaxed);
        }));
        config
    };
    let request = JoinRequest::new(fake.token(), [at.addr.to_string()]);
    let node = soon("the join", Node::join(config(), request)).await.unwrap();
    assert_eq!(hooked.load(Ordering::Relaxed), 1);
    assert_eq!(*node.identity().current().unwrap().subject(), subject("node1", Role::Worker));
    assert_eq!(read(dir.path(), "certificates/swarm-root-ca.crt"), fake.facts().trust);
    assert_eq!(read(dir.path(), "certificates/swarm-node.crt").matches("BEGIN").count(), 1);

    let running = Running::start(node);
    let status = running.when("ready", |status| status.phase == Phase::Ready).await;
    assert_eq!(status.managers.len(), 1);
    assert!(status.renew_at.unwrap() < status.not_after.unwrap());
    assert!(read(dir.path(), "state.json").contains(&at.addr.to_string()));
    let first = fake.facts().sessions[0].clone();
    let description = first.description.unwrap();
    assert_eq!(description.tls_info.unwrap().trust_root, fake.facts().trust.as_bytes());
    assert!(description.engine.unwrap().labels.contains_key(wire::marker::VERSION_LABEL));
    assert_eq!(fake.facts().marked, 1);
    assert_eq!(running.stop().await, Ended::Shutdown);

    // From disk, without token or address.
    let running = Running::start(Node::open(config()).unwrap());
    let status = running.when("ready again", |status| status.phase == Phase::Ready).await;
    assert_eq!(status.node.unwrap().as_str(), "node1");
    assert_eq!(fake.facts().nodes["node1"].issued, 1);
    running.stop().await;
}

#[tokio::test]
async fn a_node_that_dies_right_after_its_join_comes_back_alone() {
    let fake = Fake::new(Role::Worker);
    let at = fake.listen().await;
    let dir = tempfile::tempdir().unwrap();
    drop(join(&fake, &at, dir.path()).await.unwrap());
    assert!(fake.facts().sessions.is_empty());
    let running = Running::start(Node::open(Config::new(dir.path())).unwrap());
    running.when("ready", |status| status.phase == Phase::Ready).await;
    running.stop().await;
}

#[tokio::test]
async fn c199_nothing_on_disk_is_no_identity() {
    let dir = tempfile::tempdir().unwrap();
    let error = Node::open(Config::new(dir.path())).err().unwrap();
    assert!(matches!(error, NodeError::NoIdentity { .. }), "{error}");
}

#[tokio::test]
async fn c48_a_token_of_another_root_joins_nothing() {
    let fake = Fake::new(Role::Worker);
    let at = fake.listen().await;
    let dir = tempfile::tempdir().unwrap();
    let other = Fake::new(Role::Worker);
    other.facts().trust = Ca::new(101, now()).pem();
    let error = join(&other, &at, dir.path()).await.err().unwrap();
    assert!(matches!(error, NodeError::Join(JoinError::RootMismatch { .. })), "{error}");
    assert!(error.to_string().contains("remote CA does not match fingerprint"));
    assert!(!dir.path().join("certificates/swarm-root-ca.crt").exists());
    assert!(fake.facts().nodes.is_empty());
}

#[tokio::test]
async fn a_rotated_token_is_refused_with_the_managers_words() {
    let fake = Fake::new(Role::Worker);
    let at = fake.listen().await;
    let dir = tempfile::tempdir().unwrap();
    let digest = pki::digest::Digest::of(fake.facts().trust.as_bytes());
    let token = pki::join_token::JoinToken::new(digest, &pki::join_token::JoinSecret::from_bytes([8; 16]), false);
    let request = JoinRequest::new(token, [at.addr.to_string()]);
    let error = soon("the refusal", Node::join(Config::new(dir.path()), request)).await.err().unwrap();
    assert_eq!(error.to_string(), "A valid join token is necessary to join this cluster");
    assert!(matches!(Node::open(Config::new(dir.path())), Err(NodeError::NoIdentity { .. })));
}

#[tokio::test]
async fn c347_nobody_at_the_address() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::new(Role::Worker);
    let at = fake.listen().await;
    let request = JoinRequest::new(fake.token(), [at.addr.to_string()]);
    at.stop();
    drop(at);
    let pending = Node::prepare(Config::new(dir.path()), request).unwrap();
    let mut status = pending.handle().status();
    // Five rounds with pauses of two seconds are not waited for: the first failure is told at once.
    let told = soon("a word", async {
        tokio::select! {
            _ = pending.join() => panic!("joined at nobody"),
            told = status.wait_for(|status| status.last_error.is_some()) => told.unwrap().clone(),
        }
    });
    let told = told.await;
    assert_eq!(told.phase, Phase::Joining);
    assert!(told.last_error.unwrap().hint.contains("port 2377"));
}

#[tokio::test]
async fn c78_another_manager_finishes_what_the_first_began() {
    let fake = Fake::new(Role::Worker);
    let (first, second) = (fake.listen().await, fake.listen().await);
    let dir = tempfile::tempdir().unwrap();
    fake.facts().signs = false;
    let request = JoinRequest::new(fake.token(), [first.addr.to_string(), second.addr.to_string()]);
    let pending = Node::prepare(Config::new(dir.path()), request).unwrap();
    let mut status = pending.handle().status();
    let joining = tokio::spawn(pending.join());
    soon("the first question", status.wait_for(|status| status.last_error.is_some())).await.unwrap();
    first.stop();
    fake.facts().signs = true;
    let node = soon("the join", joining).await.unwrap().unwrap();
    assert_eq!(node.status().borrow().node.as_ref().unwrap().as_str(), "node1");
    assert_eq!(fake.facts().nodes.len(), 1);
}

#[tokio::test]
async fn c77_a_join_that_is_given_up_ends_and_the_next_one_goes_on() {
    let fake = Fake::new(Role::Worker);
    let at = fake.listen().await;
    let dir = tempfile::tempdir().unwrap();
    fake.facts().signs = false;
    let request = || JoinRequest::new(fake.token(), [at.addr.to_string()]);
    let pending = Node::prepare(Config::new(dir.path()), request()).unwrap();
    let mut status = pending.handle().status();
    // The caller's limit, here an event: it has asked, and nobody signs.
    tokio::select! {
        _ = pending.join() => panic!("joined without a signature"),
        told = soon("a word", status.wait_for(|status| status.last_error.is_some())) => drop(told.unwrap()),
    }
    assert!(matches!(Node::open(Config::new(dir.path())), Err(NodeError::NoIdentity { .. })), "nothing half is left");
    let asked = fake.facts().asked;
    fake.facts().signs = true;
    let node = soon("the join", Node::join(Config::new(dir.path()), request())).await.unwrap();
    assert_eq!(node.status().borrow().phase, Phase::Connecting);
    // What was given up asks no more: each question since then was the second join's.
    assert_eq!(fake.facts().asked, asked + 1);
}

#[tokio::test]
async fn c79_when_every_manager_is_gone_it_is_said_at_once_and_the_join_goes_on() {
    let fake = Fake::new(Role::Worker);
    let (first, second) = (fake.listen().await, fake.listen().await);
    let dir = tempfile::tempdir().unwrap();
    fake.facts().signs = false;
    let request = JoinRequest::new(fake.token(), [first.addr.to_string(), second.addr.to_string()]);
    let pending = Node::prepare(Config::new(dir.path()), request).unwrap();
    let mut status = pending.handle().status();
    let joining = tokio::spawn(pending.join());
    soon("the first question", status.wait_for(|status| status.last_error.is_some())).await.unwrap();
    first.stop();
    second.stop();
    drop((first, second));
    let gone = |status: &Status| status.last_error.as_ref().is_some_and(|trouble| trouble.hint.contains("port 2377"));
    let told = soon("the cause", status.wait_for(|status| gone(status))).await.unwrap().clone();
    assert_eq!(told.phase, Phase::Joining);
    assert!(!joining.is_finished(), "a certificate may wait for it: the caller sets the limit");
    joining.abort();
}

#[tokio::test]
async fn c68_a_chain_with_an_intermediate_is_kept_whole_and_normal() {
    let fake = Fake::new(Role::Worker);
    let (old, new) = (Ca::new(100, now()), Ca::new(101, now()));
    // The intermediate is stored with blanks around it, as an operator's file may be.
    let cross = new.crossed_by(&old, now()).intermediates()[0].pem();
    let padded = format!("  \n\t{cross}  \n");
    let signer: Arc<dyn pki::Signer> = Arc::new(new.key.duplicate());
    let trust = old.pem();
    let issuer =
        pki::Issuer::build(trust.as_bytes(), Some(padded.as_bytes()), Some(signer), padded.as_bytes(), now()).unwrap();
    fake.facts().issuer = issuer;
    fake.take_leaf();
    let at = fake.listen().await;
    let dir = tempfile::tempdir().unwrap();
    let node = join(&fake, &at, dir.path()).await.unwrap();
    let text = read(dir.path(), "certificates/swarm-node.crt");
    let chain = pki::Certificate::parse_pem_bundle(text.as_bytes()).unwrap();
    assert_eq!(chain.len(), 2);
    assert_eq!(text, format!("{}{cross}", chain[0].pem()), "normal, and the second is the intermediate");
    let running = Running::start(node);
    running.when("ready", |status| status.phase == Phase::Ready).await;
    let tls = fake.facts().sessions[0].description.clone().unwrap().tls_info.unwrap();
    assert_eq!(tls.cert_issuer_subject, chain[1].subject_der());
    assert_eq!(tls.cert_issuer_public_key, chain[1].spki_der());
    running.stop().await;
}

#[tokio::test]
async fn c96_a_key_in_either_form_serves_for_mutual_tls() {
    let fake = Fake::new(Role::Worker);
    let at = fake.listen().await;
    let dir = tempfile::tempdir().unwrap();
    ready(&fake, &at, dir.path()).await.stop().await;
    let file = dir.path().join("certificates/swarm-node.key");
    let key = swarmpki::keystore::Keystore::new(dir.path()).load_pair().unwrap().unwrap().key.key;
    for (form, pem) in [("EC PRIVATE KEY", key.sec1_pem().unwrap()), ("PRIVATE KEY", key.pkcs8_pem())] {
        assert!(pem.expose().starts_with(&format!("-----BEGIN {form}-----")));
        std::fs::write(&file, pem.expose()).unwrap();
        let sessions = fake.facts().sessions.len();
        let running = Running::start(Node::open(Config::new(dir.path())).unwrap());
        running.when("ready", |status| status.phase == Phase::Ready).await;
        assert!(fake.facts().sessions.len() > sessions, "{form}: a session with this key");
        running.stop().await;
    }
}

#[tokio::test]
async fn c357_a_node_of_another_root_is_told_so_and_tries_on() {
    let (theirs, ours) = (Fake::new(Role::Worker), Fake::other(Role::Worker));
    let at = theirs.listen().await;
    let dir = tempfile::tempdir().unwrap();
    ready(&theirs, &at, dir.path()).await.stop().await;
    at.stop();
    // Its manager's address is now that of a manager under another root.
    let other = ours.listen().await;
    let managers = read(dir.path(), "state.json").replace(&at.addr.to_string(), &other.addr.to_string());
    std::fs::write(dir.path().join("state.json"), managers).unwrap();
    let running = Running::start(Node::open(Config::new(dir.path())).unwrap());
    let blamed = |status: &Status| status.last_error.as_ref().is_some_and(|trouble| trouble.text.contains("authority"));
    let status = running.when("the cause", blamed).await;
    assert!(status.connected.is_none());
    assert!(ours.facts().sessions.is_empty());
    // It goes on trying, and its own manager is found again where it was.
    let text = read(dir.path(), "certificates/swarm-root-ca.crt");
    assert_eq!(text, theirs.facts().trust, "no other root is taken");
    assert_eq!(running.stop().await, Ended::Shutdown);
}

#[tokio::test]
async fn c82_renewed_on_demand_on_the_same_session() {
    let fake = Fake::new(Role::Worker);
    let at = fake.listen().await;
    let dir = tempfile::tempdir().unwrap();
    let running = ready(&fake, &at, dir.path()).await;
    let before = running.handle.identity().current().unwrap().chain()[0].serial();
    running.handle.renew_now();
    running.when("the renewal", |status| status.installed == 2).await;
    assert_ne!(running.handle.identity().current().unwrap().chain()[0].serial(), before);
    let pair = swarmpki::keystore::Keystore::new(dir.path()).load_pair().unwrap().unwrap();
    assert_ne!(pair.chain[0].serial(), before);
    assert_eq!(fake.facts().sessions.len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn c355_c352_a_rotation_from_the_order_to_the_new_root() {
    let fake = Fake::new(Role::Worker);
    let at = fake.listen().await;
    let dir = tempfile::tempdir().unwrap();
    let running = ready(&fake, &at, dir.path()).await;
    let new = Ca::new(101, now());
    let issuer = new.crossed_by(&fake.facts().ca, now());
    fake.facts().issuer = issuer;
    fake.take_leaf();
    fake.told.send_modify(|told| told.state = 5);
    let key = new.root.spki_der().to_vec();
    let reported = |fake: &Fake| {
        let facts = fake.facts();
        let last = facts.sessions.last().unwrap();
        (last.session_id.clone(), last.description.clone().unwrap().tls_info.unwrap())
    };
    running.when("conversion", |status| status.installed == 2 && status.phase == Phase::Ready).await;
    let (id, tls) = reported(&fake);
    assert_eq!((id.as_str(), &tls.cert_issuer_public_key), ("session1", &key));
    assert_eq!(read(dir.path(), "certificates/swarm-node.crt").matches("BEGIN").count(), 2);

    fake.told.send_modify(|told| {
        told.state = 3;
        told.trust = new.pem();
    });
    let mut changed = running.handle.identity().changed();
    let trusts_new = || running.handle.identity().current().unwrap().trust().raw() == new.pem().as_bytes();
    while !trusts_new() {
        soon("the new root", changed.changed()).await.unwrap();
    }
    let mut status = running.handle.status();
    while fake.facts().sessions.len() < 3 {
        soon("the third session", status.changed()).await.unwrap();
    }
    running.when("ready", |status| status.phase == Phase::Ready).await;
    let (id, tls) = reported(&fake);
    assert_eq!((id.as_str(), tls.trust_root.as_slice()), ("session2", new.pem().as_bytes()));
    assert_eq!(read(dir.path(), "certificates/swarm-root-ca.crt"), new.pem());
    running.stop().await;
}

#[tokio::test]
async fn c354_a_promotion_brings_a_managers_certificate_and_the_unlock_key() {
    let fake = Fake::new(Role::Worker);
    let at = fake.listen().await;
    let dir = tempfile::tempdir().unwrap();
    let running = ready(&fake, &at, dir.path()).await;
    {
        let mut facts = fake.facts();
        facts.role = Role::Manager;
        facts.unlock_key = vec![7; 32];
    }
    fake.told.send_modify(|told| told.desired_role = 1);
    let status = running.when("promotion", |status| status.role == Some(Role::Manager)).await;
    assert_eq!(status.desired_role, Some(Role::Manager));
    // c70: sealed under the key that the manager gave, and under no other.
    let keystore = swarmpki::keystore::Keystore::new(dir.path());
    assert!(keystore.is_locked().unwrap());
    keystore.set_kek(Some(Arc::new(SecretBytes::copy_of(&[7; 32]))), 7);
    assert_eq!(keystore.load_pair().unwrap().unwrap().key.kek_version, 7);
    // And back: the key lies open again.
    fake.facts().role = Role::Worker;
    fake.told.send_modify(|told| told.desired_role = 0);
    running.when("demotion", |status| status.role == Some(Role::Worker)).await;
    assert!(!swarmpki::keystore::Keystore::new(dir.path()).is_locked().unwrap());
    running.stop().await;
}

#[tokio::test]
async fn a_removed_node_stops_and_says_so() {
    let fake = Fake::new(Role::Worker);
    let at = fake.listen().await;
    let dir = tempfile::tempdir().unwrap();
    let running = ready(&fake, &at, dir.path()).await;
    fake.facts().removed = true;
    let ended = soon("the end", running.task).await.unwrap();
    let Ended::Removed { text } = ended else { panic!("{ended:?}") };
    assert!(text.contains("node node1 was removed from swarm"), "{text}");
    let status = running.handle.status();
    assert_eq!(status.borrow().phase, Phase::Removed);
}

#[tokio::test]
async fn a_manager_that_comes_back_is_found_again() {
    let fake = Fake::new(Role::Worker);
    let first = fake.listen().await;
    let dir = tempfile::tempdir().unwrap();
    let running = ready(&fake, &first, dir.path()).await;
    // The second one is known from the session before the first goes.
    let second = fake.listen().await;
    running.when("both known", |status| status.managers.len() == 2).await;
    first.stop();
    let addr = second.addr.to_string();
    running.when("the other manager", |status| status.connected.as_ref().is_some_and(|peer| peer.addr == addr)).await;
    running.stop().await;
}

#[tokio::test]
async fn a_clock_before_the_root_is_told_at_the_join() {
    let fake = Fake::new(Role::Worker);
    let at = fake.listen().await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path());
    config.clock = Arc::new(|| now().saturating_sub(Duration::from_secs(86_400)));
    let request = JoinRequest::new(fake.token(), [at.addr.to_string()]);
    let error = soon("the refusal", Node::join(config, request)).await.err().unwrap();
    let NodeError::Join(JoinError::Clock { offset, .. }) = &error else { panic!("{error}") };
    assert!((82_700_000..86_500_000).contains(&offset.ms), "{error}");
    assert!(error.hint().contains("clock"), "{}", error.hint());
}

/// A clock that a test may set wrong: by so many seconds.
fn shifted() -> (Arc<AtomicI64>, Arc<dyn Fn() -> Time + Send + Sync>) {
    let shift = Arc::new(AtomicI64::new(0));
    let seconds = shift.clone();
    let clock = move || Time::from_unix_millis(now().unix_millis() + seconds.load(Ordering::Relaxed) * 1000);
    (shift, Arc::new(clock))
}

#[tokio::test]
async fn a_clock_far_ahead_is_named_and_once_right_the_node_goes_on() {
    let fake = Fake::new(Role::Worker);
    let first = fake.listen().await;
    let dir = tempfile::tempdir().unwrap();
    let (shift, clock) = shifted();
    let config = Config { clock, ..Config::new(dir.path()) };
    let request = JoinRequest::new(fake.token(), [first.addr.to_string()]);
    let running = Running::start(soon("the join", Node::join(config, request)).await.unwrap());
    let _second = fake.listen().await;
    running.when("both known", |status| status.phase == Phase::Ready && status.managers.len() == 2).await;

    // Not on the edge of a day: what is measured lies off by what the answer took.
    shift.store(100 * 86_400 + 600, Ordering::Relaxed);
    first.stop();
    let blamed = |status: &Status| status.last_error.as_ref().is_some_and(|trouble| trouble.text.contains("clock"));
    let status = running.when("the cause", blamed).await;
    assert_eq!(status.phase, Phase::Expired);
    let text = status.last_error.unwrap().text;
    assert!(text.starts_with("this machine's clock is 100d ahead of the managers': "), "{text}");

    shift.store(0, Ordering::Relaxed);
    let status = running.when("ready", |status| status.phase == Phase::Ready && status.last_error.is_none()).await;
    assert_eq!(status.clock_behind_floor_ms, None);
    running.when("the clock", |status| status.clock_offset.is_some_and(|offset| !offset.is_notable())).await;
    running.stop().await;
}

#[tokio::test]
async fn a_time_floor_that_a_wrong_clock_left_on_disk_does_not_stop_the_node() {
    let fake = Fake::new(Role::Worker);
    let at = fake.listen().await;
    let dir = tempfile::tempdir().unwrap();
    let node = join(&fake, &at, dir.path()).await.unwrap();
    // 100 days lie beyond the leaf, 30 years beyond the root as well.
    for days in [100, 30 * 366] {
        node.handle().keystore().save_floor(now().saturating_add(Duration::from_secs(days * 86_400))).unwrap();
        let running = Running::start(Node::open(Config::new(dir.path())).unwrap());
        let status = running.when("ready", |status| status.phase == Phase::Ready).await;
        assert_eq!((status.clock_behind_floor_ms, status.last_error), (None, None));
        running.stop().await;
    }
}

#[tokio::test]
async fn a_join_with_a_clock_far_ahead_says_by_how_much() {
    let fake = Fake::new(Role::Worker);
    let at = fake.listen().await;
    let dir = tempfile::tempdir().unwrap();
    let (shift, clock) = shifted();
    shift.store(2 * 86_400 + 600, Ordering::Relaxed);
    let config = Config { clock, ..Config::new(dir.path()) };
    let request = JoinRequest::new(fake.token(), [at.addr.to_string()]);
    let error = soon("the refusal", Node::join(config, request)).await.err().unwrap();
    assert!(error.to_string().starts_with("this machine's clock is 2d ahead of the managers': "), "{error}");
}

#[tokio::test]
async fn the_machine_is_described_anew_every_20_seconds() {
    let fake = Fake::new(Role::Worker);
    // No call of a heartbeat is under way when the time jumps.
    fake.facts().period_ms = 300_000;
    let at = fake.listen().await;
    let dir = tempfile::tempdir().unwrap();
    let name = Arc::new(Mutex::new("before"));
    let mut config = Config::new(dir.path());
    let shared = name.clone();
    config.describe =
        Arc::new(move || Description { hostname: (*shared.lock().unwrap()).to_owned(), ..Description::default() });
    let request = JoinRequest::new(fake.token(), [at.addr.to_string()]);
    let running = Running::start(soon("the join", Node::join(config, request)).await.unwrap());
    let first = running.when("all calls", |status| status.connected.is_some() && status.clock_offset.is_some()).await;
    while fake.facts().clocks.len() < 2 {
        tokio::task::yield_now().await;
    }

    *name.lock().unwrap() = "after";
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(21)).await;
    tokio::time::resume();
    let status = running
        .when("the second session", |status| status.connected.is_some() && status.session_since != first.session_since)
        .await;
    assert_eq!(status.last_error, None);
    let facts = fake.facts();
    let told: Vec<_> = facts
        .sessions
        .iter()
        .map(|session| (session.session_id.as_str(), session.description.as_ref().unwrap().hostname.as_str()))
        .collect();
    assert_eq!(told, [("", "before"), ("session1", "after")]);
}

#[tokio::test]
async fn sessions_and_heartbeats_tell_the_nodes_clock() {
    let fake = Fake::new(Role::Worker);
    let at = fake.listen().await;
    let dir = tempfile::tempdir().unwrap();
    let (shift, clock) = shifted();
    shift.store(30, Ordering::Relaxed);
    let config = Config { clock, ..Config::new(dir.path()) };
    let request = JoinRequest::new(fake.token(), [at.addr.to_string()]);
    let running = Running::start(soon("the join", Node::join(config, request)).await.unwrap());
    running.when("ready", |status| status.phase == Phase::Ready).await;
    let told = soon("three heartbeats", async {
        loop {
            let clocks = fake.facts().clocks.clone();
            if clocks.len() > 3 {
                return clocks;
            }
            tokio::task::yield_now().await;
        }
    });
    let told = told.await;
    let end = now().unix_millis();
    assert!(told.iter().all(|told| (end + 10_000..end + 30_001).contains(told)), "{told:?} at {end}");
    assert!(told.is_sorted());
    running.stop().await;
}

#[tokio::test]
async fn a_wrong_clock_is_told_and_an_engine_is_listened_to() {
    let fake = Fake::new(Role::Worker);
    let at = fake.listen().await;
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path());
    config.clock = Arc::new(|| now().saturating_sub(Duration::from_secs(150)));
    let request = JoinRequest::new(fake.token(), [at.addr.to_string()]);
    let running = Running::start(soon("the join", Node::join(config, request)).await.unwrap());
    let status = running
        .when("the offset", |status| {
            status.phase == Phase::Ready
                && status
                    .clock_offset
                    .is_some_and(|offset| !offset.estimated && (145_000..155_000).contains(&offset.ms))
        })
        .await;
    assert!(status.clock_offset.unwrap().to_string().starts_with("this machine's clock is 2m"));
    assert_eq!(fake.told.borrow().assignments, 0);
    running.stop().await;

    fake.facts().ours = false;
    let running = Running::start(Node::open(Config::new(dir.path())).unwrap());
    let mut seen = fake.told.subscribe();
    soon("the assignments", seen.wait_for(|told| told.assignments > 0)).await.unwrap();
    running.stop().await;
}
