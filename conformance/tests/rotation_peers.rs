//! What applications notice of a rotation: nothing. Two nodes of ours talk mutual TLS with each other all the while (issue 3, point 9).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use swarmpki::{Config, JoinRequest, Node, PeerPolicy, Time};
use swarmpki_conformance::cluster::Cluster;
use swarmpki_conformance::puppet::Puppet;
use swarmpki_conformance::rotation::{ENDS_WITHIN, GivenRoot, Marks, P256, abort, in_progress, rotated, waits_for};
use testkit::require_or_skip;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Between two words on a connection that stands.
const WORD_EVERY: Duration = Duration::from_millis(5);
/// Callers at a time, in each direction.
const CALLERS: usize = 2;

/// A node of ours in this process, which answers every byte it is sent.
struct Peer {
    identity: swarmpki::Live,
    addr: SocketAddr,
    _folder: tempfile::TempDir,
}

/// What was counted.
#[derive(Default)]
struct Talk {
    over: AtomicBool,
    handshakes: AtomicU64,
    words: AtomicU64,
}

impl Talk {
    /// Waits until so many more handshakes were made that there were some between any two.
    async fn goes_on(&self) {
        let wanted = self.handshakes.load(Ordering::Relaxed) + 5 * CALLERS as u64;
        let more = async {
            while self.handshakes.load(Ordering::Relaxed) < wanted {
                tokio::time::sleep(WORD_EVERY).await;
            }
        };
        tokio::time::timeout(ENDS_WITHIN, more).await.expect("handshakes go on");
    }
}

fn clock() -> Arc<dyn Fn() -> Time + Send + Sync> {
    Arc::new(|| Time::from(SystemTime::now()))
}

impl Peer {
    async fn join(cluster: &Cluster, tasks: &mut JoinSet<()>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let request = JoinRequest::new(cluster.token("Worker").parse().unwrap(), [cluster.address().to_string()]);
        let node = Node::join(Config::new(folder.path()), request).await.unwrap();
        let identity = node.identity();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let tls = TlsAcceptor::from(identity.server_config_for(PeerPolicy::default(), clock()).unwrap());
        tasks.spawn(async move {
            let _ended = node.run(std::future::pending::<()>()).await;
        });
        tasks.spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let tls = tls.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = tls.accept(tcp).await else { return };
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).await.is_ok() {
                        if stream.write_all(&byte).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { identity, addr, _folder: folder }
    }

    /// Begins one connection that stands, and callers that connect anew all the time.
    fn talk_to(&self, other: &Self, talk: &Arc<Talk>, tasks: &mut JoinSet<()>) {
        for caller in 0..=CALLERS {
            let tls = TlsConnector::from(self.identity.client_config_for(PeerPolicy::default(), clock()).unwrap());
            let (addr, talk) = (other.addr, Arc::clone(talk));
            let stands = caller == 0;
            tasks.spawn(async move {
                while !talk.over.load(Ordering::Acquire) {
                    let tcp = TcpStream::connect(addr).await.unwrap();
                    let name = ServerName::try_from("peer").unwrap();
                    let mut stream =
                        tls.connect(name, tcp).await.unwrap_or_else(|error| panic!("a handshake failed: {error:?}"));
                    loop {
                        // TLS 1.3 tells a refusal of the client only after the handshake: a word there and back proves both.
                        word(&mut stream)
                            .await
                            .unwrap_or_else(|error| panic!("a connection dropped (it stands: {stands}): {error:?}"));
                        talk.words.fetch_add(1, Ordering::Relaxed);
                        if !stands || talk.over.load(Ordering::Acquire) {
                            break;
                        }
                        tokio::time::sleep(WORD_EVERY).await;
                    }
                    talk.handshakes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }
}

async fn word(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) -> std::io::Result<()> {
    stream.write_all(b"x").await?;
    let mut byte = [0];
    stream.read_exact(&mut byte).await.map(|_| ())
}

/// Waits until both have a leaf of the swarm's signer and trust its root alone.
async fn both_follow(peers: [&Peer; 2], root: &str) {
    let deadline = tokio::time::Instant::now() + ENDS_WITHIN;
    for peer in peers {
        let mut changed = peer.identity.changed();
        loop {
            let current = peer.identity.current().unwrap();
            let wanted = &pki::certificate::Certificate::parse_pem_bundle(root.as_bytes()).unwrap()[0];
            if current.trust().raw() == root.as_bytes() && *current.issuer() == wanted.issuer_id() {
                break;
            }
            tokio::time::timeout_at(deadline, changed.changed()).await.expect("it follows").unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_notice_nothing_of_rotations_aborts_and_a_managers_death() {
    require_or_skip!("swarmpki", "docker", "openssl");
    let mut cluster = Cluster::start();
    let (mut tasks, talk) = (JoinSet::new(), Arc::new(Talk::default()));
    let (one, other) = (Peer::join(&cluster, &mut tasks).await, Peer::join(&cluster, &mut tasks).await);
    let mut puppet = Puppet::join(&cluster).await;
    let mut talkers = JoinSet::new();
    one.talk_to(&other, &talk, &mut talkers);
    other.talk_to(&one, &talk, &mut talkers);

    // By ladder; back in the middle; to a root below which nothing may be, and from there by bundle.
    for step in 0..4 {
        let before = Marks::of(&cluster.manager);
        let narrow = GivenRoot::make("narrow", P256, 3650, ",pathlen:0");
        let (certificate, key) = (narrow.path(), narrow.key_path());
        let mut line = vec!["swarm", "ca", "--rotate", "--detach"];
        line.extend(["--ca-cert", &certificate, "--ca-key", &key].iter().filter(|_| step == 2));
        cluster.manager.docker(&line).ok();
        if step == 3 {
            waits_for(&cluster.manager, "widen", &[&puppet.id]);
            kill(&mut cluster, &talk).await;
            let root = before.root.clone();
            drop(
                tokio::time::timeout(ENDS_WITHIN, puppet.follow(|puppet, _| puppet.trust != root))
                    .await
                    .unwrap()
                    .unwrap(),
            );
        }
        // The puppet holds each phase, so that the peers stay in it for a while; the manager dies there too.
        waits_for(&cluster.manager, "renew", &[&puppet.id]);
        kill(&mut cluster, &talk).await;
        if step == 1 {
            abort(&cluster.manager);
        }
        let there = |puppet: &Puppet, _: &_| puppet.trust != before.root && puppet.trust.matches("BEGIN").count() == 1;
        if step != 1 {
            puppet.renew().await.unwrap();
            drop(puppet.session().await.unwrap());
            waits_for(&cluster.manager, "trust", &[&puppet.id]);
            kill(&mut cluster, &talk).await;
            drop(tokio::time::timeout(ENDS_WITHIN, puppet.follow(there)).await.unwrap().unwrap());
            both_follow([&one, &other], &rotated(&cluster.manager, &before).root).await;
        }
        let end = puppet.follow(|puppet, told| {
            !told.is_ordered() && !in_progress(&cluster.manager) && puppet.trust == Marks::of(&cluster.manager).root
        });
        drop(tokio::time::timeout(ENDS_WITHIN, end).await.unwrap().unwrap());
        both_follow([&one, &other], &Marks::of(&cluster.manager).root).await;
        while let Some(ended) = talkers.try_join_next() {
            ended.unwrap_or_else(|failed| panic!("step {step}: {failed}"));
        }
    }
    talk.over.store(true, Ordering::Release);
    while let Some(ended) = talkers.join_next().await {
        ended.unwrap();
    }
    let (handshakes, words) = (talk.handshakes.load(Ordering::Relaxed), talk.words.load(Ordering::Relaxed));
    assert!(handshakes > 100 && words > handshakes, "{handshakes} handshakes, {words} words");
}

/// `kill -9`; the peers connect to each other while it is gone and afterwards.
async fn kill(cluster: &mut Cluster, talk: &Talk) {
    talk.goes_on().await;
    cluster.manager.kill();
    talk.goes_on().await;
    cluster.manager.restart();
    cluster.manager_is_back();
    talk.goes_on().await;
}
