//! Storage format 1: what is written comes back, samples stay readable, and no bytes make it panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

extern crate swarmpki_cluster as cluster;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cluster::account::{Actor, Event};
use cluster::command::{
    Admit, Ask, Batch, Bootstrap, Command, CreateToken, Founder, Premises, Refound, Renew, ReplaceLadder, Reported,
    Restored, Revoke, Right, SecretBox, UpdateCluster, Withdraw, Withdrawn,
};
use cluster::format::LogRecord;
use cluster::lock::UnlockBox;
use cluster::node::{Availability, BlobDigest, IssuerHash, Leaf, Letter, Report, Spec, TokenUse};
use cluster::operators::{FoundOperators, IssueApiServer, IssueOperator, OperatorRoot, OperatorRow, RevokeOperator};
use cluster::revocation::Reason;
use cluster::roots::{Custody, Root};
use cluster::rotation::{Abort, Advance, Phase, Policy, RootsChange, Rotation, Start, Way};
use cluster::settings::{ExternalCa, RaftSettings, Settings};
use cluster::tokens::limited::TokenHash;
use cluster::{DecodeError, Outcome, Rejection, State, invariant};
use pki::digest::Digest;
use pki::identity::{NodeId, Role};
use pki::join_token::JoinSecret;
use pki::key::SpkiHash;
use pki::operator::OperatorRole;
use pki::secret::SecretBytes;
use pki::serial::Serial;
use pki::time::Time;
use pki::unlock_key::UnlockKey;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use support::walk::Step;
use support::{Cluster, assert_same, id};

fn node_id() -> impl Strategy<Value = NodeId> {
    "[0-9A-Za-z._-]{1,64}".prop_map(|text| text.parse().unwrap())
}

fn time() -> impl Strategy<Value = Time> {
    any::<i64>().prop_map(Time::from_unix_millis)
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Worker), Just(Role::Manager)]
}

fn text() -> impl Strategy<Value = String> {
    ".{0,12}"
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(text(), text(), 0..4)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

fn secret() -> impl Strategy<Value = SecretBox> {
    any::<[u8; 16]>().prop_map(|bytes| SecretBox(Arc::new(JoinSecret::from_bytes(bytes))))
}

fn unlock() -> impl Strategy<Value = UnlockBox> {
    any::<[u8; 32]>().prop_map(|bytes| UnlockBox(Arc::new(UnlockKey::from_bytes(bytes))))
}

fn spec() -> impl Strategy<Value = Spec> {
    let availability = prop_oneof![Just(Availability::Active), Just(Availability::Pause), Just(Availability::Drain)];
    (text(), labels(), role(), availability).prop_map(|(name, labels, role, availability)| Spec {
        name,
        labels,
        role,
        availability,
    })
}

fn leaf() -> impl Strategy<Value = Leaf> {
    (any::<[u8; 20]>(), any::<[u8; 32]>(), any::<[u8; 32]>(), role(), time(), time()).prop_map(
        |(serial, spki, issuer, role, not_before, not_after)| Leaf {
            serial: Serial::from_random(serial),
            spki: SpkiHash(spki),
            issuer: IssuerHash(issuer),
            role,
            not_before,
            not_after,
        },
    )
}

fn letter() -> impl Strategy<Value = Letter> {
    (bytes(), leaf(), bytes(), vec(bytes(), 0..3), time()).prop_map(|(csr, leaf, certificate, ladder, issued)| Letter {
        csr,
        leaf,
        certificate,
        ladder,
        issued,
    })
}

fn token() -> impl Strategy<Value = TokenUse> {
    any::<(u32, u64)>().prop_map(|(row, generation)| TokenUse { row, generation })
}

fn premises() -> impl Strategy<Value = Premises> {
    (any::<[u8; 32]>(), any::<u64>(), time()).prop_map(|(issuer, epoch, signed)| Premises {
        issuer: IssuerHash(issuer),
        epoch,
        signed,
    })
}

fn duration() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_nanos)
}

fn settings() -> impl Strategy<Value = Settings> {
    let raft = any::<(u64, Option<u64>, u64, u32, u32)>();
    let external = (text(), labels(), text()).prop_map(|(url, options, ca_cert)| ExternalCa { url, options, ca_cert });
    let plain = any::<(Option<i64>, u64, bool, u32, u32)>();
    (labels(), raft, duration(), duration(), vec(external, 0..3), plain, vec(text(), 0..3)).prop_map(
        |(labels, raft, heartbeat, node_cert_expiry, external_cas, plain, default_addr_pool)| Settings {
            labels,
            task_history: plain.0,
            raft: RaftSettings {
                snapshot_interval: raft.0,
                keep_old_snapshots: raft.1,
                slow_followers: raft.2,
                election_tick: raft.3,
                heartbeat_tick: raft.4,
            },
            heartbeat,
            node_cert_expiry,
            external_cas,
            force_rotate: plain.1,
            autolock: plain.2,
            default_addr_pool,
            subnet_size: plain.3,
            data_path_port: plain.4,
        },
    )
}

fn root() -> impl Strategy<Value = Arc<Root>> {
    (bytes(), bytes(), custody()).prop_map(|(bundle, intermediates, custody)| {
        Arc::new(Root::new(bundle, support::root().signer.clone(), intermediates, custody))
    })
}

fn right() -> impl Strategy<Value = Right> {
    prop_oneof![
        (spec(), any::<bool>(), token()).prop_map(|(spec, ours, token)| Right::Token { spec, ours, token }),
        any::<u32>().prop_map(|cut| Right::Node { cut }),
    ]
}

fn custody() -> impl Strategy<Value = Custody> {
    prop_oneof![
        bytes().prop_map(|key| Custody::Sealed(Arc::new(SecretBytes::new(key)))),
        text().prop_map(|uri| Custody::Token(uri.into())),
        Just(Custody::Outside),
    ]
}

fn bootstrap() -> impl Strategy<Value = Command> {
    let first = ("[0-9A-Za-z._-]{1,64}", any::<bool>(), root(), vec(bytes(), 0..3), node_id());
    (first, (spec(), text(), letter(), secret(), secret(), settings(), option::of(unlock()))).prop_map(
        |(
            (cluster, fips, root, logged, node),
            (spec, addr, letter, worker_secret, manager_secret, settings, unlock),
        )| {
            Command::Bootstrap(Box::new(Bootstrap {
                cluster: cluster.parse().unwrap(),
                fips,
                root,
                logged,
                node,
                spec,
                addr,
                letter,
                worker_secret,
                manager_secret,
                settings,
                unlock,
            }))
        },
    )
}

fn reported() -> impl Strategy<Value = Command> {
    (node_id(), text(), text(), any::<[[u8; 32]; 3]>(), vec(bytes(), 0..4)).prop_map(
        |(node, hostname, addr, [issuer, trust, description], blobs)| {
            let report = Report {
                hostname,
                addr,
                issuer: BlobDigest(issuer),
                trust: BlobDigest(trust),
                description: BlobDigest(description),
            };
            let blobs = blobs.into_iter().map(|bytes| (BlobDigest::of(&bytes), Arc::from(bytes))).collect();
            Command::Report(Box::new(Reported { node, report, blobs }))
        },
    )
}

fn ladder() -> impl Strategy<Value = Vec<pki::certificate::Certificate>> {
    (0_usize..3).prop_map(|steps| vec![support::root().signer.clone(); steps])
}

fn policy() -> impl Strategy<Value = Policy> {
    let emergency = any::<u32>().prop_map(|millis| Policy::Emergency { bound: Duration::from_millis(millis.into()) });
    prop_oneof![Just(Policy::WaitForAll), time().prop_map(Policy::Deadline), emergency]
}

fn roots_change() -> impl Strategy<Value = RootsChange> {
    let way = prop_oneof![ladder().prop_map(Way::Ladder), bytes().prop_map(|bundle| Way::Bundle(Arc::from(bundle))),];
    let start = (root(), way, policy(), vec(bytes(), 0..3))
        .prop_map(|(to, way, policy, logged)| RootsChange::Start(Box::new(Start { to, way, policy, logged })));
    let abort = (ladder(), policy(), vec(bytes(), 0..3))
        .prop_map(|(ladder, policy, logged)| RootsChange::Abort(Box::new(Abort { ladder, policy, logged })));
    prop_oneof![start, abort, policy().prop_map(RootsChange::Policy)]
}

fn rotation_step() -> impl Strategy<Value = Command> {
    let phase = prop_oneof![Just(Phase::Widen), Just(Phase::Renew), Just(Phase::Trust)];
    let advance =
        (any::<u64>(), phase, secret(), secret()).prop_map(|(rotation, phase, worker_secret, manager_secret)| {
            Command::AdvanceRotation(Box::new(Advance { rotation, phase, worker_secret, manager_secret }))
        });
    let replace = (any::<u64>(), ladder(), vec(bytes(), 0..3)).prop_map(|(rotation, ladder, logged)| {
        Command::ReplaceLadder(Box::new(ReplaceLadder { rotation, ladder, logged }))
    });
    let entrust = option::of((any::<[u8; 32]>(), custody()));
    let change = (any::<u64>(), roots_change(), entrust).prop_map(|(version, roots, entrust)| {
        Command::UpdateCluster(Box::new(UpdateCluster {
            custody: entrust.map(|(trust, custody)| (BlobDigest(trust), custody)),
            version,
            roots: Some(roots),
            ..UpdateCluster::default()
        }))
    });
    prop_oneof![advance, replace, change]
}

fn limited() -> impl Strategy<Value = Command> {
    (any::<bool>(), any::<[[u8; 32]; 2]>(), any::<u64>(), any::<u32>(), text()).prop_map(
        |(manager, [hash, digest], ttl, uses, note)| {
            Command::CreateToken(Box::new(CreateToken {
                role: if manager { Role::Manager } else { Role::Worker },
                hash: TokenHash(hash),
                digest: Digest::from_bytes(digest),
                ttl: Duration::from_millis(ttl),
                uses,
                note,
            }))
        },
    )
}

fn command() -> impl Strategy<Value = Command> {
    let admit = (node_id(), spec(), any::<bool>(), token(), letter(), premises());
    let renew = (node_id(), any::<u32>(), letter(), premises());
    let update = (any::<u64>(), option::of(settings()), [secret(), secret()], option::of(unlock()), any::<[bool; 2]>());
    prop_oneof![
        bootstrap(),
        admit.prop_map(|(node, spec, ours, token, letter, premises)| Command::Admit(Box::new(Admit {
            node,
            spec,
            ours,
            token,
            letter: Arc::new(letter),
            premises
        }))),
        renew.prop_map(|(node, cut, letter, premises)| Command::Renew(Box::new(Renew {
            node,
            cut,
            letter: Arc::new(letter),
            premises
        }))),
        (node_id(), right(), bytes(), any::<[u8; 32]>()).prop_map(|(node, right, csr, spki)| Command::Ask(Box::new(
            Ask { node, right, csr, spki: SpkiHash(spki) }
        ))),
        (node_id(), any::<[u8; 20]>())
            .prop_map(|(node, serial)| Command::Confirm { node, serial: Serial::from_random(serial) }),
        reported(),
        limited(),
        any::<u32>().prop_map(|row| Command::RevokeToken { row }),
        (node_id(), any::<bool>(), time()).prop_map(|(node, down, seen)| Command::Presence { node, down, seen }),
        (node_id(), any::<u64>(), spec()).prop_map(|(node, version, spec)| Command::UpdateNode {
            node,
            version,
            spec: Box::new(spec)
        }),
        (node_id(), any::<bool>(), any::<bool>()).prop_map(|(node, force, ready)| Command::RemoveNode {
            node,
            force,
            ready
        }),
        update.prop_map(|(version, settings, [worker, manager], unlock, [some_worker, some_manager])| {
            Command::UpdateCluster(Box::new(UpdateCluster {
                version,
                settings,
                worker_secret: some_worker.then_some(worker),
                manager_secret: some_manager.then_some(manager),
                unlock,
                ..UpdateCluster::default()
            }))
        }),
        vec(node_id(), 0..4).prop_map(|nodes| Command::Collect { nodes }),
        (node_id(), text(), any::<[u8; 20]>(), any::<Option<u64>>()).prop_map(|(node, addr, serial, replaces)| {
            Command::Enlist { node, addr, serial: Serial::from_random(serial), replaces }
        }),
        (node_id(), any::<u64>()).prop_map(|(node, raft_id)| Command::Seat { node, raft_id }),
        (node_id(), any::<Option<u64>>()).prop_map(|(node, raft_id)| Command::Unseat { node, raft_id }),
        refound(),
        rotation_step(),
        operators(),
        revoke(),
    ]
}

fn operators() -> impl Strategy<Value = Command> {
    let name = || "[0-9A-Za-z.@_-]{1,64}".prop_map(|text| text.parse().unwrap());
    let serial = || any::<[u8; 20]>().prop_map(Serial::from_random);
    let found = bytes().prop_map(|key| {
        let root = OperatorRoot::new(support::root().signer.clone(), Arc::new(SecretBytes::new(key)));
        Command::FoundOperators(FoundOperators { root: Arc::new(root) })
    });
    let row = (name(), any::<bool>(), any::<[u8; 32]>(), (time(), time()), time(), option::of(time())).prop_map(
        |(name, admin, spki, (not_before, not_after), issued, revoked)| OperatorRow {
            name,
            role: if admin { OperatorRole::Admin } else { OperatorRole::Viewer },
            spki: SpkiHash(spki),
            not_before,
            not_after,
            issued,
            revoked,
        },
    );
    let issue = (serial(), row, bytes(), premises(), option::of(serial())).prop_map(
        |(serial, row, certificate, premises, renews)| {
            Command::IssueOperator(Box::new(IssueOperator { serial, row, certificate, premises, renews }))
        },
    );
    let revoke = prop_oneof![
        serial().prop_map(RevokeOperator::Serial),
        name().prop_map(RevokeOperator::Name),
        Just(RevokeOperator::All),
    ];
    let server = (bytes(), premises())
        .prop_map(|(certificate, premises)| Command::IssueApiServer(IssueApiServer { certificate, premises }));
    prop_oneof![found, issue, server, revoke.prop_map(Command::RevokeOperator)]
}

fn revoke() -> impl Strategy<Value = Command> {
    let serial = || any::<[u8; 20]>().prop_map(Serial::from_random);
    let one = || {
        (any::<[u8; 32]>(), serial(), time(), option::of(node_id()))
            .prop_map(|(issuer, serial, until, node)| Withdrawn { issuer: IssuerHash(issuer), serial, until, node })
    };
    let these = || vec(one(), 0..4);
    let found = (node_id(), time(), these(), any::<bool>())
        .prop_map(|(node, at, certificates, last)| Withdraw::Found { node, at, certificates, last });
    let what = prop_oneof![
        these().prop_map(Withdraw::Certificates),
        (node_id(), option::of(serial())).prop_map(|(node, keep)| Withdraw::Node { node, keep }),
        found,
    ];
    let reason = (0..Reason::ALL.len()).prop_map(|at| Reason::ALL[at]);
    (reason, what).prop_map(|(reason, what)| Command::Revoke(Box::new(Revoke { reason, what })))
}

fn refound() -> impl Strategy<Value = Command> {
    let first = (time(), node_id(), spec(), letter());
    let rest = (secret(), secret(), option::of(unlock()), vec(node_id(), 0..4));
    let restored = (first, rest).prop_map(|((backup, node, spec, letter), rest)| {
        let (worker_secret, manager_secret, unlock, removed) = rest;
        let restored = Restored { backup, node, spec, letter, worker_secret, manager_secret, unlock, removed };
        Founder::Restored(Box::new(restored))
    });
    let founder = prop_oneof![node_id().prop_map(Founder::Manager), restored];
    (any::<u64>(), text(), founder)
        .prop_map(|(epoch, addr, founder)| Command::Refound(Box::new(Refound { epoch, addr, founder })))
}

/// What `Debug` hides of a command: its secrets, and a root's bytes.
fn hidden(command: &Command) -> Vec<Option<Vec<u8>>> {
    let secret = |secret: &SecretBox| Some(secret.0.expose().to_vec());
    match command {
        Command::Bootstrap(first) => vec![
            secret(&first.worker_secret),
            secret(&first.manager_secret),
            first.root.key().map(|key| key.expose().to_vec()),
            Some(first.root.bundle.clone()),
            Some(first.root.signer.der().to_vec()),
            Some(first.root.intermediates.clone()),
            first.unlock.as_ref().map(|key| key.0.bytes().expose().to_vec()),
        ],
        Command::UpdateCluster(update) => {
            let unlock = update.unlock.as_ref().map(|key| key.0.bytes().expose().to_vec());
            vec![
                update.worker_secret.as_ref().and_then(secret),
                update.manager_secret.as_ref().and_then(secret),
                unlock,
            ]
        }
        Command::AdvanceRotation(advance) => vec![secret(&advance.worker_secret), secret(&advance.manager_secret)],
        Command::Refound(refound) => match &refound.founder {
            Founder::Manager(_) => Vec::new(),
            Founder::Restored(restored) => {
                let unlock = restored.unlock.as_ref().map(|key| key.0.bytes().expose().to_vec());
                vec![secret(&restored.worker_secret), secret(&restored.manager_secret), unlock]
            }
        },
        Command::FoundOperators(found) => {
            vec![Some(found.root.key.expose().to_vec()), Some(found.root.certificate.der().to_vec())]
        }
        _ => Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_batch_comes_back(time in time(), commands in vec(command(), 0..4)) {
        let batch = Batch { time, commands };
        let bytes = batch.encode();
        let back = Batch::decode(&bytes).unwrap();
        prop_assert_eq!(format!("{batch:?}"), format!("{back:?}"));
        let secrets = |batch: &Batch| batch.commands.iter().map(hidden).collect::<Vec<_>>();
        prop_assert!(secrets(&batch) == secrets(&back), "what Debug hides differs");
        prop_assert_eq!(&bytes, &back.encode());
        let sum: usize = batch.commands.iter().map(Command::encoded_len).sum();
        prop_assert!(sum <= bytes.len() && bytes.len() <= sum + 20 + 11 * batch.commands.len());
    }

    #[test]
    fn a_populated_state_comes_back(steps in vec(any::<Step>(), 0..120)) {
        let mut cluster = Cluster::new();
        cluster.walk(&steps);
        let bytes = cluster.state.encode_snapshot();
        let back = State::decode_snapshot(&bytes).unwrap();
        assert_same(&cluster.state, &back);
        prop_assert!(bytes == back.encode_snapshot());
        invariant::check(&back).unwrap();
    }

    #[test]
    fn no_bytes_make_decoding_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = Batch::decode(&bytes);
        let _ = State::decode_snapshot(&bytes);
        let _ = LogRecord::decode(&bytes);
        let _ = Outcome::decode(&bytes);
    }

    /// Damage to what was written: it is refused, or means something that can be applied without panic.
    #[test]
    fn no_damage_makes_decoding_or_applying_panic(
        steps in vec(any::<Step>(), 0..40),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        next in any::<Step>(),
    ) {
        let mut cluster = Cluster::new();
        let trail = cluster.walk(&steps);
        let hurt = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            for (place, value) in &damage {
                let place = place.index(bytes.len());
                bytes[place] = *value;
            }
            bytes
        };
        let snapshot = cluster.state.encode_snapshot();
        let _ = State::decode_snapshot(&snapshot[..cut.index(snapshot.len())]);
        if let Some((bytes, _)) = trail.last()
            && let Ok(batch) = Batch::decode(&hurt(bytes))
        {
            cluster.state.clone().apply(u64::MAX, &batch);
        }
        if let Ok(mut state) = State::decode_snapshot(&hurt(&snapshot)) {
            let commands = cluster.step(next).into_iter().collect();
            state.apply(1_000, &Batch { time: cluster.now, commands });
            state.encode_snapshot();
        }
    }
}

const SAMPLES: [&str; 3] = ["batch.bin", "state.bin", "log.bin"];

fn sample(name: &str) -> Vec<u8> {
    let path = format!("{}/testdata/state/format-1/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|_| panic!("no {path}: cargo run -p swarmpki-cluster --example write_samples"))
}

/// Every stored format ever released still opens, and this build still writes it the same.
#[test]
fn samples_of_format_1_open() {
    let [batch, state, log] = SAMPLES.map(sample);
    let (commands, cluster) = support::sample();
    let decoded = Batch::decode(&batch).unwrap();
    assert_eq!(format!("{decoded:?}"), format!("{commands:?}"));
    assert!(decoded.commands.iter().map(hidden).eq(commands.commands.iter().map(hidden)), "secrets differ");
    assert!(commands.encode() == batch, "this build writes batches otherwise: a new sample is due");

    let decoded = State::decode_snapshot(&state).unwrap();
    assert_same(&decoded, &cluster.state);
    invariant::check(&decoded).unwrap();
    // These two samples say that managers are locked, and have no key, as no manager ever wrote it: nobody is locked by that.
    assert!(!decoded.settings.autolock);
    assert!(
        cluster.state.encode_snapshot() == decoded.encode_snapshot(),
        "this build writes states otherwise: a new sample is due"
    );

    let rotating = support::rotating();
    let bytes = sample("rotating.bin");
    assert_same(&State::decode_snapshot(&bytes).unwrap(), &rotating);
    let again = State::decode_snapshot(&bytes).unwrap().encode_snapshot();
    assert!(rotating.encode_snapshot() == again, "this build writes rotations otherwise: a new sample is due");

    let locked = support::locked();
    let bytes = sample("locked.bin");
    assert_same(&State::decode_snapshot(&bytes).unwrap(), &locked);
    assert!(locked.encode_snapshot() == bytes, "this build writes unlock keys otherwise: a new sample is due");

    let ended = support::ended();
    let bytes = sample("ended.bin");
    assert_same(&State::decode_snapshot(&bytes).unwrap(), &ended);
    assert!(ended.encode_snapshot() == bytes, "this build writes rotations otherwise: a new sample is due");

    let (commands, managed) = support::managers();
    let bytes = sample("managers-batch.bin");
    assert_eq!(format!("{:?}", Batch::decode(&bytes).unwrap()), format!("{commands:?}"));
    assert!(commands.encode() == bytes, "this build writes batches otherwise: a new sample is due");
    let bytes = sample("managers.bin");
    let decoded = State::decode_snapshot(&bytes).unwrap();
    assert_same(&decoded, &managed.state);
    invariant::check(&decoded).unwrap();
    assert!(managed.state.encode_snapshot() == bytes, "this build writes managers otherwise: a new sample is due");

    let (commands, refounded) = support::refounded();
    let bytes = sample("refounded-batch.bin");
    let decoded = Batch::decode(&bytes).unwrap();
    assert_eq!(format!("{decoded:?}"), format!("{commands:?}"));
    assert!(decoded.commands.iter().map(hidden).eq(commands.commands.iter().map(hidden)), "secrets differ");
    assert!(commands.encode() == bytes, "this build writes batches otherwise: a new sample is due");
    let bytes = sample("refounded.bin");
    assert_same(&State::decode_snapshot(&bytes).unwrap(), &refounded.state);
    assert!(refounded.state.encode_snapshot() == bytes, "this build writes states otherwise: a new sample is due");

    let (commands, told) = support::account();
    let bytes = sample("account-batch.bin");
    assert_eq!(format!("{:?}", Batch::decode(&bytes).unwrap()), format!("{commands:?}"));
    assert!(commands.encode() == bytes, "this build writes batches otherwise: a new sample is due");
    let bytes = sample("account.bin");
    assert_same(&State::decode_snapshot(&bytes).unwrap(), &told.state);
    assert!(told.state.encode_snapshot() == bytes, "this build writes states otherwise: a new sample is due");
    let (commands, limited) = support::limited();
    let bytes = sample("limited-batch.bin");
    assert_eq!(format!("{:?}", Batch::decode(&bytes).unwrap()), format!("{commands:?}"));
    assert!(commands.encode() == bytes, "this build writes batches otherwise: a new sample is due");
    let bytes = sample("limited.bin");
    let decoded = State::decode_snapshot(&bytes).unwrap();
    assert_same(&decoded, &limited.state);
    invariant::check(&decoded).unwrap();
    assert!(limited.state.encode_snapshot() == bytes, "this build writes tokens otherwise: a new sample is due");
    let (commands, operators) = support::operators::sample();
    let bytes = sample("operators-batch.bin");
    let decoded = Batch::decode(&bytes).unwrap();
    assert_eq!(format!("{decoded:?}"), format!("{commands:?}"));
    assert!(decoded.commands.iter().map(hidden).eq(commands.commands.iter().map(hidden)), "secrets differ");
    assert!(commands.encode() == bytes, "this build writes batches otherwise: a new sample is due");
    let bytes = sample("operators.bin");
    assert_same(&State::decode_snapshot(&bytes).unwrap(), &operators.state);
    assert!(operators.state.encode_snapshot() == bytes, "this build writes operators otherwise: a new sample is due");

    let (commands, revoked) = support::revoked();
    let bytes = sample("revoked-batch.bin");
    assert_eq!(format!("{:?}", Batch::decode(&bytes).unwrap()), format!("{commands:?}"));
    assert!(commands.encode() == bytes, "this build writes batches otherwise: a new sample is due");
    let bytes = sample("revoked.bin");
    let decoded = State::decode_snapshot(&bytes).unwrap();
    assert_same(&decoded, &revoked.state);
    assert_eq!(decoded.revocations, revoked.state.revocations);
    invariant::check(&decoded).unwrap();
    assert!(revoked.state.encode_snapshot() == bytes, "this build writes revocations otherwise: a new sample is due");

    let record = LogRecord::decode(&log).unwrap();
    assert_eq!((record.event, record.by, record.private), (Event::Issued, Actor::Cluster, None));
    assert_eq!(record.node, Some(id(1)));
    assert_eq!(record.time, support::START);
    assert_eq!(log, cluster.log[2].bytes);
}

#[test]
fn a_sample_has_every_command() {
    let batches = [
        support::sample().0,
        support::managers().0,
        support::refounded().0,
        support::account().0,
        support::limited().0,
        support::operators::sample().0,
        support::revoked().0,
    ];
    let commands = batches.map(|batch| batch.commands).concat();
    let kinds: std::collections::BTreeSet<_> =
        commands.iter().flat_map(|command| [kind(command), kind(command.asked())]).collect();
    assert!(kinds.into_iter().eq((0..17).chain(40..44).chain(45..46).chain(50..55)));
}

/// Fails to compile when a command is added: it needs a place in the sample.
fn kind(command: &Command) -> u8 {
    match command {
        Command::Bootstrap(_) => 0,
        Command::Admit(_) => 1,
        Command::Renew(_) => 2,
        Command::Confirm { .. } => 3,
        Command::Report(_) => 4,
        Command::Presence { .. } => 5,
        Command::UpdateNode { .. } => 6,
        Command::RemoveNode { .. } => 7,
        Command::UpdateCluster(_) => 8,
        Command::Collect { .. } => 9,
        Command::AdvanceRotation(_) => 10,
        Command::ReplaceLadder(_) => 11,
        Command::Ask(_) => 12,
        Command::Enlist { .. } => 13,
        Command::Seat { .. } => 14,
        Command::Unseat { .. } => 15,
        Command::Refound(_) => 16,
        Command::Revoke(_) => 45,
        Command::Attributed(_) => 50,
        Command::UnlockKeyShown => 51,
        Command::EraseLog { .. } => 52,
        Command::CreateToken(_) => 53,
        Command::RevokeToken { .. } => 54,
        Command::FoundOperators(_) => 40,
        Command::IssueOperator(_) => 41,
        Command::RevokeOperator(_) => 42,
        Command::IssueApiServer(_) => 43,
    }
}

#[test]
fn a_snapshot_that_contradicts_itself_is_refused() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    cluster.report(1, "one", b"linux");
    let decode = |state: &State| State::decode_snapshot(&state.encode_snapshot()).err();
    assert_eq!(decode(&cluster.state), None);

    let mut missing = cluster.state.clone();
    let digest = *missing.blobs.keys().next().unwrap();
    missing.blobs.remove(&digest);
    assert_eq!(decode(&missing), Some(DecodeError::Field("blob")));

    let mut unread = cluster.state.clone();
    unread.blobs.insert(BlobDigest::of(b"unread"), (1, Arc::from(b"unread".as_slice())));
    assert_eq!(decode(&unread), Some(DecodeError::Field("blob")));

    let mut twice = cluster.state.clone();
    twice.nodes.insert(id(2), Arc::new(cluster.node(1).clone()));
    assert_eq!(decode(&twice), Some(DecodeError::Field("node id")));

    let mut rootless = cluster.state.clone();
    rootless.roots = cluster::roots::Roots::None;
    assert_eq!(decode(&rootless), Some(DecodeError::Field("root")));

    let mut no_token = cluster.state.clone();
    let mut record = cluster.node(1).clone();
    record.unfinished = Some(TokenUse { row: 9, generation: 0 });
    no_token.nodes.insert(id(1), Arc::new(record));
    assert_eq!(decode(&no_token), Some(DecodeError::Field("token")));
}

#[test]
fn the_next_number_of_a_place_is_kept_and_not_given_twice() {
    let one = Cluster::new();
    assert_eq!(
        State::decode_snapshot(&one.state.encode_snapshot()).unwrap().members.next_raft_id,
        2,
        "nothing says so"
    );
    let (_, managed) = support::managers();
    assert_eq!(State::decode_snapshot(&managed.state.encode_snapshot()).unwrap().members.next_raft_id, 5);
    let mut low = managed.state.clone();
    low.members.next_raft_id = 3;
    assert_eq!(
        State::decode_snapshot(&low.encode_snapshot()).err(),
        Some(DecodeError::Field("next raft id")),
        "4 is taken"
    );
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        (node_id(), letter(), any::<bool>()).prop_map(|(node, letter, fresh)| Outcome::Issued {
            node,
            letter: Arc::new(letter),
            fresh
        }),
        node_id().prop_map(|node| Outcome::Pending { node }),
        any::<u64>().prop_map(|version| Outcome::Done { version }),
        Just(Outcome::Unchanged),
        vec(node_id(), 0..4).prop_map(Outcome::Collected),
        prop::sample::select(Rejection::ALL.to_vec()).prop_map(Outcome::Rejected),
        any::<u64>().prop_map(|raft_id| Outcome::Enlisted { raft_id }),
    ]
}

proptest! {
    #[test]
    fn an_outcome_comes_back_from_another_manager(outcome in outcome()) {
        prop_assert_eq!(Outcome::decode(&outcome.encode()), Ok(outcome));
    }
}

#[test]
fn outcomes_of_later_versions_and_garbage_are_refused() {
    assert_eq!(Outcome::decode(&[0x08, 0x02, 0x20, 0x01]), Err(DecodeError::Later(2)));
    assert_eq!(Outcome::decode(&[0x08, 0x01, 0x38, 0x63]), Err(DecodeError::Field("rejection")));
    assert_eq!(Outcome::decode(&[]), Err(DecodeError::Field("outcome")));
}

#[test]
fn a_rotation_that_contradicts_itself_is_refused() {
    let good = support::rotating();
    assert!(State::decode_snapshot(&good.encode_snapshot()).is_ok());
    let twist = |edit: &dyn Fn(&mut Rotation)| {
        let mut state = good.clone();
        let mut rotation = state.rotation().unwrap().as_ref().clone();
        edit(&mut rotation);
        state.roots = cluster::roots::Roots::Rotating(Arc::new(rotation));
        State::decode_snapshot(&state.encode_snapshot()).err()
    };
    let emergency = Policy::Emergency { bound: Duration::from_secs(1) };
    let wrong = Some(DecodeError::Field("rotation"));
    assert_eq!(twist(&|rotation| rotation.new = Arc::clone(&rotation.old)), wrong);
    assert_eq!(twist(&|rotation| rotation.phase = Phase::Widen), wrong);
    assert_eq!(twist(&|rotation| rotation.policy = emergency), wrong);
    assert_eq!(twist(&|rotation| rotation.handed_over = true), wrong);
    assert_eq!(twist(&|rotation| rotation.given = [BlobDigest([9; 32])].into_iter().collect()), wrong);
    assert_eq!(twist(&|rotation| rotation.history = vec![(Phase::Renew, rotation.since); 65]), wrong);
}

#[test]
fn no_secret_shows_in_debug() {
    let (batch, _) = support::sample();
    let shown = format!("{batch:?}");
    assert!(!shown.contains("[1, 1, 1") && !shown.contains("not a key"), "{shown}");
}
