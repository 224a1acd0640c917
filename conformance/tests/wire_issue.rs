//! Joining and issuance at port 2377, as any peer may try it (conformance A and its lines in P). Our daemon, a caller that is not our code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use swarmpki_conformance::caller::{Pair, within};
use swarmpki_conformance::cluster::{Cluster, fetch};
use swarmpki_conformance::{csr, node, node_id, nodes, swarm, with_other_digest, with_other_secret};
use testkit::openssl::{self, openssl};
use testkit::require_or_skip;
use tonic::{Code, Request, Status};
use wire::proto::issuance_status::State;
use wire::proto::node_spec::{Availability, Membership};
use wire::proto::{GetRootCaCertificateRequest, IssueNodeCertificateRequest, NodeRole};

const NO_TOKEN: &str = "A valid join token is necessary to join this cluster";

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, text: &str) {
    let status = answer.expect_err("a refusal");
    assert_eq!((status.code(), status.message()), (code, text));
}

/// Writes a chain where `openssl` can read it.
fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn text_of(pair: &Pair) -> String {
    let folder = tempfile::tempdir().unwrap();
    let chain = file(&folder, "chain", &pair.chain);
    openssl(&["x509", "-in", chain.to_str().unwrap(), "-noout", "-text", "-nameopt", "sep_comma_plus"]).ok()
}

#[tokio::test]
async fn c001_the_root_is_served_as_it_is_stored() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let answer = cluster.stranger().await.ca().get_root_ca_certificate(within(GetRootCaCertificateRequest {})).await;
    assert_eq!(answer.unwrap().into_inner().certificate, cluster.root.as_bytes());
    assert_eq!(swarm(&cluster.manager)["TLSInfo"]["TrustRoot"].as_str().unwrap().as_bytes().last(), Some(&b'\n'));
}

#[tokio::test]
async fn c002_c003_an_unknown_id_is_not_found_before_and_after_a_restart() {
    require_or_skip!("swarmpki");
    let mut cluster = Cluster::start();
    refused(cluster.stranger().await.status("nonesuch").await, Code::NotFound, "NotFound");
    assert!(cluster.manager.stop().success());
    cluster.manager.restart();
    cluster.manager_is_back();
    refused(cluster.stranger().await.status("nonesuch").await, Code::NotFound, "NotFound");
}

#[tokio::test]
async fn c004_c005_empty_arguments_are_invalid() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let stranger = cluster.stranger().await;
    refused(stranger.status("").await, Code::InvalidArgument, "InvalidArgument");
    refused(stranger.issue(b"", &cluster.token("Worker")).await, Code::InvalidArgument, "InvalidArgument");
}

#[tokio::test]
async fn c006_to_c008_a_worker_token_gives_a_workers_certificate() {
    require_or_skip!("swarmpki", "openssl");
    let cluster = Cluster::start();
    let (stranger, request) = (cluster.stranger().await, csr::ordinary());
    let answer = stranger.issue(request.csr.as_bytes(), &cluster.token("Worker")).await.unwrap();
    assert_eq!(answer.node_membership(), Membership::Accepted);
    let id = answer.node_id;
    assert!(id.len() == 25 && id.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase()), "{id}");

    let status = stranger.status(&id).await.unwrap();
    assert_eq!(status.status.unwrap().state(), State::Issued);
    let certificate = status.certificate.unwrap();
    assert_eq!(certificate.role(), NodeRole::Worker);
    assert_eq!((certificate.csr, certificate.cn), (request.csr.as_bytes().to_vec(), id.clone()));

    let folder = tempfile::tempdir().unwrap();
    let chain = file(&folder, "chain", std::str::from_utf8(&certificate.certificate).unwrap());
    openssl::verify(&file(&folder, "root", &cluster.root), &chain);
    assert_eq!(openssl::subject(&chain), format!("O={},OU=swarm-worker,CN={id}", cluster.id));
}

#[tokio::test]
async fn p009_a_manager_token_is_for_our_own_nodes_only() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let status =
        cluster.stranger().await.issue(csr::ordinary().csr.as_bytes(), &cluster.token("Manager")).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(status.message().contains("worker"), "it must say what to do: {}", status.message());
    assert_eq!(nodes(&cluster.manager).len(), 1);
}

#[tokio::test]
async fn p009_our_own_node_gets_a_managers_certificate_and_is_a_worker_until_the_group_has_taken_it_in() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let (stranger, request) = (cluster.stranger().await, csr::ordinary());
    let message = IssueNodeCertificateRequest {
        csr: request.csr.clone().into_bytes(),
        token: cluster.token("Manager"),
        ..Default::default()
    };
    let mut ours: Request<_> = within(message);
    wire::marker::mark(ours.metadata_mut());
    let id = stranger.node_ca().issue_node_certificate(ours).await.unwrap().into_inner().node_id;
    let folder = tempfile::tempdir().unwrap();
    let certificate = stranger.status(&id).await.unwrap().certificate.unwrap();
    let chain = file(&folder, "chain", std::str::from_utf8(&certificate.certificate).unwrap());
    assert_eq!(openssl::subject(&chain), format!("O={},OU=swarm-manager,CN={id}", cluster.id));
    assert!(node(&cluster.manager, &id).is_none_or(|node| node.get("ManagerStatus").is_none()));
}

#[tokio::test]
async fn c010_to_c012_no_token_no_certificate() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let stranger = cluster.stranger().await;
    let worker = cluster.token("Worker");
    let near = [
        with_other_secret(&worker),
        with_other_digest(&worker),
        worker.to_uppercase(),
        format!("{worker} "),
        worker[..84].to_owned(),
    ];
    for token in ["", "invalid-secret"].into_iter().map(str::to_owned).chain(near) {
        for role in [NodeRole::Worker, NodeRole::Manager] {
            let message = IssueNodeCertificateRequest {
                role: role.into(),
                csr: csr::ordinary().csr.into_bytes(),
                token: token.clone(),
                ..Default::default()
            };
            refused(stranger.node_ca().issue_node_certificate(within(message)).await, Code::InvalidArgument, NO_TOKEN);
        }
    }
    assert_eq!(nodes(&cluster.manager).len(), 1);
}

#[tokio::test]
async fn c013_the_role_asked_for_is_ignored() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let (stranger, request) = (cluster.stranger().await, csr::ordinary());
    let message = IssueNodeCertificateRequest {
        role: NodeRole::Manager.into(),
        csr: request.csr.into_bytes(),
        token: cluster.token("Worker"),
        ..Default::default()
    };
    let id = stranger.node_ca().issue_node_certificate(within(message)).await.unwrap().into_inner().node_id;
    assert_eq!(stranger.status(&id).await.unwrap().certificate.unwrap().role(), NodeRole::Worker);
}

#[tokio::test]
async fn c014_to_c016_a_rotated_token_is_dead_and_the_new_one_lives() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let (old, manager) = (cluster.token("Worker"), cluster.token("Manager"));
    cluster.rotate_worker_token();
    let new = cluster.token("Worker");
    assert_ne!(new, old);
    assert_eq!(swarmpki_conformance::digest_of(&new), swarmpki_conformance::digest_of(&old));
    assert_eq!(cluster.token("Manager"), manager, "only the one that was asked for");
    let stranger = cluster.stranger().await;
    refused(stranger.issue(csr::ordinary().csr.as_bytes(), &old).await, Code::InvalidArgument, NO_TOKEN);
    stranger.issue(csr::ordinary().csr.as_bytes(), &new).await.unwrap();

    // A manager's token that is known is refused for what it would make (see 9), one that is not, as any other text.
    let known = stranger.issue(csr::ordinary().csr.as_bytes(), &manager).await.unwrap_err();
    assert_eq!(known.code(), Code::FailedPrecondition, "{known:?}");
    cluster.rotate_manager_token();
    let replaced = cluster.token("Manager");
    assert_ne!(replaced, manager);
    assert_eq!(cluster.token("Worker"), new, "only the one that was asked for");
    refused(stranger.issue(csr::ordinary().csr.as_bytes(), &manager).await, Code::InvalidArgument, NO_TOKEN);
    let known = stranger.issue(csr::ordinary().csr.as_bytes(), &replaced).await.unwrap_err();
    assert_eq!(known.code(), Code::FailedPrecondition, "{known:?}");
}

#[tokio::test]
async fn p018_to_p021_p026_to_p027_a_bad_csr_is_refused_at_once_and_leaves_nothing() {
    require_or_skip!("swarmpki", "openssl");
    let cluster = Cluster::start();
    let (stranger, token) = (cluster.stranger().await, cluster.token("Worker"));
    let wrong_kind = csr::ordinary().csr.replace("CERTIFICATE REQUEST", "PUBLIC KEY");
    for (bad, text) in [
        ("random garbage".to_owned(), "CSR Decode failed"),
        (wrong_kind, "not a c"),
        (csr::truncated(), ""),
        (csr::with_a_wrong_signature(), ""),
        (csr::ed25519().csr, "Ed25519"),
        (csr::rsa(1024).csr, "1024"),
        (format!("{}{}", csr::ordinary().csr, "#".repeat(9000)), ""),
    ] {
        let status = stranger.issue(bad.as_bytes(), &token).await.expect_err(&bad);
        assert_eq!(status.code(), Code::InvalidArgument, "{bad}\n{status:?}");
        assert!(status.message().contains(text) && status.message() != NO_TOKEN, "{bad}\n{status:?}");
    }
    let unfinished = cluster.manager.swarmpki(&["node", "ls", "--unfinished", "--json"]).ok();
    assert_eq!(nodes(&cluster.manager).len(), 1);
    assert!(!unfinished.contains("\"id\""), "{unfinished}");
}

#[tokio::test]
async fn c022_c023_nothing_but_the_key_is_taken_from_a_csr() {
    require_or_skip!("swarmpki", "openssl");
    let cluster = Cluster::start();
    let request = csr::greedy(&cluster.id, &node_id(&cluster.manager));
    let (id, pair) = cluster.issued(&request, &cluster.token("Worker")).await;
    let text = text_of(&pair);
    assert!(text.contains(&format!("O={},OU=swarm-worker,CN={id}", cluster.id)), "{text}");
    assert!(
        text.contains(&format!("DNS:swarm-worker, DNS:{id}")) || text.contains(&format!("DNS:{id}, DNS:swarm-worker")),
        "{text}"
    );
    assert!(text.contains("CA:FALSE"), "{text}");
    for asked in ["swarm-manager", "swarm-ca,", "attacker", "CA:TRUE"] {
        assert!(!text.contains(asked), "{asked} in {text}");
    }
}

#[tokio::test]
async fn c024_c025_other_keys_are_certified_by_the_same_root() {
    require_or_skip!("swarmpki", "openssl");
    let cluster = Cluster::start();
    let folder = tempfile::tempdir().unwrap();
    let root = file(&folder, "root", &cluster.root);
    for request in [csr::p384(), csr::rsa(2048)] {
        let (_, pair) = cluster.issued(&request, &cluster.token("Worker")).await;
        openssl::verify(&root, &file(&folder, "chain", &pair.chain));
        let text = text_of(&pair);
        assert!(text.contains("Signature Algorithm: ecdsa-with-SHA256"), "{text}");
    }
}

#[tokio::test]
async fn c028_c031_a_renewal_keeps_id_and_role() {
    require_or_skip!("swarmpki", "openssl");
    let cluster = Cluster::start();
    let worker = cluster.worker().await;
    let request = csr::ordinary();
    let message = IssueNodeCertificateRequest {
        role: NodeRole::Manager.into(),
        csr: request.csr.clone().into_bytes(),
        ..Default::default()
    };
    let answer = worker.caller.node_ca().issue_node_certificate(within(message)).await.unwrap().into_inner();
    assert_eq!(answer.node_id, worker.id);
    let renewed = fetch(&worker.caller, &worker.id, &request).await;
    assert_ne!(renewed.chain, worker.pair.chain);
    let text = text_of(&renewed);
    assert!(text.contains(&format!("O={},OU=swarm-worker,CN={}", cluster.id, worker.id)), "{text}");
    cluster.caller(&renewed).await.session("").await.expect("the new leaf is registered");
}

#[tokio::test]
async fn c030_a_token_in_a_renewal_is_ignored() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let worker = cluster.worker().await;
    for token in [cluster.token("Worker"), cluster.token("Manager"), "nonsense".into()] {
        let answer = worker.caller.issue(csr::ordinary().csr.as_bytes(), &token).await.unwrap();
        assert_eq!(answer.node_id, worker.id);
    }
}

#[tokio::test]
async fn c034_p034_c154_to_c156_a_removed_node_is_a_stranger() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let worker = cluster.worker().await;
    cluster.remove(&worker.id);
    let again = cluster.caller(&worker.pair).await;
    refused(again.issue(csr::ordinary().csr.as_bytes(), "").await, Code::InvalidArgument, NO_TOKEN);
    refused(again.status(&worker.id).await, Code::NotFound, "NotFound");
    let new = again.issue(csr::ordinary().csr.as_bytes(), &cluster.token("Worker")).await.unwrap().node_id;
    assert_ne!(new, worker.id);
}

#[tokio::test]
async fn c038_a_node_gets_the_availability_that_it_asked_for() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    for (wanted, word) in
        [(Availability::Pause, "pause"), (Availability::Drain, "drain"), (Availability::Active, "active")]
    {
        let request = csr::ordinary();
        let message = IssueNodeCertificateRequest {
            csr: request.csr.clone().into_bytes(),
            token: cluster.token("Worker"),
            availability: wanted.into(),
            ..Default::default()
        };
        let stranger = cluster.stranger().await;
        let id = stranger.node_ca().issue_node_certificate(within(message)).await.unwrap().into_inner().node_id;
        // Listed once it has used its certificate.
        let pair = fetch(&stranger, &id, &request).await;
        let (_, _session) = cluster.caller(&pair).await.session("").await.unwrap();
        assert_eq!(node(&cluster.manager, &id).unwrap()["Spec"]["Availability"], word);
    }
}

#[tokio::test]
async fn c046_one_key_cannot_join_without_end_and_unfinished_joins_are_not_listed() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let (stranger, token, request) = (cluster.stranger().await, cluster.token("Worker"), csr::ordinary());
    // A joiner that heard no answer asks again: up to four times the same.
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(stranger.issue(request.csr.as_bytes(), &token).await.unwrap().node_id);
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "one request, one node: {ids:?}");

    let mut more = 0_u32;
    let refusal = loop {
        match stranger.issue(csr::again(&request).csr.as_bytes(), &token).await {
            Ok(_) => more += 1,
            Err(status) => break status,
        }
        assert!(more < 64, "no limit on unfinished joins with one key");
    };
    assert!(matches!(refusal.code(), Code::ResourceExhausted | Code::Unavailable), "{refusal:?}");
    assert_eq!(nodes(&cluster.manager).len(), 1, "unfinished joins are not nodes");
    cluster.worker().await.caller.session("").await.expect("others can still join");
}

#[tokio::test]
async fn c105_c252_a_new_lifetime_holds_for_the_next_certificate() {
    require_or_skip!("swarmpki", "openssl");
    let cluster = Cluster::start();
    cluster.update("", |spec| spec["CAConfig"]["NodeCertExpiry"] = 7_200_000_000_000_u64.into());
    let (_, pair) = cluster.issued(&csr::ordinary(), &cluster.token("Worker")).await;
    let folder = tempfile::tempdir().unwrap();
    let chain = file(&folder, "chain", &pair.chain);
    // Two hours, in whole minutes.
    for (seconds, code) in [("7080", 0), ("7260", 1)] {
        assert_eq!(
            openssl(&["x509", "-in", chain.to_str().unwrap(), "-noout", "-checkend", seconds]).code,
            code,
            "{seconds} s"
        );
    }
}

#[tokio::test]
async fn two_renewals_of_one_node_in_flight_both_end_well() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let worker = cluster.worker().await;
    let (one, two) = (csr::ordinary(), csr::ordinary());
    let first = worker.caller.issue(one.csr.as_bytes(), "");
    let second = worker.caller.issue(two.csr.as_bytes(), "");
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.unwrap().node_id, second.unwrap().node_id), (worker.id.clone(), worker.id.clone()));
    // A status call names a node, not a request: it answers for one of them, and the other asks again.
    let answer = worker.caller.status(&worker.id).await.unwrap();
    let echoed = answer.certificate.unwrap();
    let mine = [&one, &two].into_iter().find(|request| request.csr.as_bytes() == echoed.csr).expect("one of the two");
    let pair = Pair { chain: String::from_utf8(echoed.certificate).unwrap(), key: mine.key.clone() };
    let (message, _session) = cluster.caller(&pair).await.session("").await.expect("its leaf is good");
    assert_eq!(message.node.unwrap().id, worker.id);
}

#[tokio::test]
async fn the_same_request_again_gets_the_same_certificate() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let worker = cluster.worker().await;
    let request = csr::ordinary();
    let mut chains = Vec::new();
    for _ in 0..2 {
        assert_eq!(worker.caller.issue(request.csr.as_bytes(), "").await.unwrap().node_id, worker.id);
        chains.push(fetch(&worker.caller, &worker.id, &request).await.chain);
    }
    assert_eq!(chains[0], chains[1]);
}
