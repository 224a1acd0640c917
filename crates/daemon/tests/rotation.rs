//! The root is replaced: what docker's client sees step by step, what our own endpoints tell, and what a check says of the
//! state on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod running;

use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use running::{Running, config};
use serde_json::{Value, json};
use swarmpki_daemon::check::check;

type Ca = CertifiedIssuer<'static, KeyPair>;

fn params(name: &str, path_len: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(path_len);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params.not_after = rcgen::date_time_ymd(2099, 1, 1);
    params
}

fn root(name: &str) -> Ca {
    CertifiedIssuer::self_signed(params(name, BasicConstraints::Unconstrained), KeyPair::generate().unwrap()).unwrap()
}

fn below(root: &Ca, name: &str) -> Ca {
    let key = KeyPair::generate().unwrap();
    CertifiedIssuer::signed_by(params(name, BasicConstraints::Constrained(0)), key, root).unwrap()
}

/// A manager and a worker of ours that has joined it.
struct Pair {
    manager: Running,
    worker: Running,
    dirs: [tempfile::TempDir; 2],
    worker_id: String,
}

impl Pair {
    async fn start() -> Self {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let (manager, worker) = (Running::start(dirs[0].path()).await, Running::start(dirs[1].path()).await);
        manager.init().await;
        let token = manager.get("/swarm").await.json()["JoinTokens"]["Worker"].as_str().unwrap().to_owned();
        assert_eq!(worker.join(&manager.swarm().await, &token).await.status, 200);
        let worker_id = worker.swarm().await["NodeID"].as_str().unwrap().to_owned();
        Self { manager, worker, dirs, worker_id }
    }

    /// The worker ends without a word of farewell to the cluster.
    async fn without_worker(self) -> Absent {
        self.worker.stop().await;
        Absent { manager: self.manager, dirs: self.dirs, worker_id: self.worker_id }
    }
}

/// The same, while the worker is not there.
struct Absent {
    manager: Running,
    dirs: [tempfile::TempDir; 2],
    worker_id: String,
}

impl Absent {
    async fn worker(&self) -> Running {
        Running::start(self.dirs[1].path()).await
    }

    async fn node(&self, id: &str) -> Value {
        self.manager.get(&format!("/nodes/{id}")).await.json()
    }

    async fn status(&self) -> Value {
        self.manager.get("/swarmpki/v1/ca/status").await.json()
    }

    async fn rotate(&self, body: Value) -> running::Answer {
        self.manager.post("/swarmpki/v1/ca/rotate", &body).await
    }

    /// Ends the manager, checks what it leaves, and starts it again.
    async fn checked(self) -> Self {
        self.manager.stop().await;
        let dir = config(self.dirs[0].path()).state_dir;
        let report = check(&dir, None, SystemTime::now().into()).await.unwrap();
        assert_eq!(report.problems, [], "{report:?}");
        Self { manager: Running::start(self.dirs[0].path()).await, dirs: self.dirs, worker_id: self.worker_id }
    }

    async fn until_done(&self) -> Value {
        self.manager
            .until("the end of the rotation", "/swarmpki/v1/ca/status", |status| status["rotation"].is_null())
            .await
    }

    async fn until_waiting(&self) -> Value {
        let alone =
            |status: &Value| status["rotation"]["done"] == json!(1) && status["rotation"]["required"] == json!(2);
        self.manager.until("a rotation that waits for the worker", "/swarmpki/v1/ca/status", alone).await
    }
}

fn issuer(object: &Value) -> (Value, Value) {
    let tls = if object["TLSInfo"].is_object() { &object["TLSInfo"] } else { &object["Description"]["TLSInfo"] };
    (tls["CertIssuerSubject"].clone(), tls["CertIssuerPublicKey"].clone())
}

fn trust(object: &Value) -> Value {
    let tls = if object["TLSInfo"].is_object() { &object["TLSInfo"] } else { &object["Description"]["TLSInfo"] };
    tls["TrustRoot"].clone()
}

/// The update that `docker swarm ca --rotate` sends: the settings as read, with another counter.
async fn rotate_as_docker(manager: &Running) {
    let swarm = manager.get("/swarm").await.json();
    let mut spec = swarm["Spec"].clone();
    let forced = spec["CAConfig"]["ForceRotate"].as_u64().unwrap_or(0);
    spec["CAConfig"]["ForceRotate"] = json!(forced + 1);
    let path = format!(
        "/v1.50/swarm/update?rotateManagerToken=false&rotateManagerUnlockKey=false&rotateWorkerToken=false&version={}",
        swarm["Version"]["Index"]
    );
    let done = manager.post(&path, &spec).await;
    assert_eq!((done.status.as_u16(), done.body.len()), (200, 0), "{:?}", done.body);
}

/// engine-api.md 8.1, row by row; the worker is away so that the steps stand still.
#[tokio::test]
async fn dockers_client_sees_the_steps_of_a_rotation() {
    let cluster = Pair::start().await.without_worker().await;
    let manager_id = cluster.manager.swarm().await["NodeID"].as_str().unwrap().to_owned();
    let before = cluster.manager.get("/v1.50/swarm").await.json();
    let old = issuer(&before);
    assert_eq!(
        (&before["RootRotationInProgress"], trust(&cluster.node(&cluster.worker_id).await)),
        (&json!(false), trust(&before))
    );

    rotate_as_docker(&cluster.manager).await;
    cluster.until_waiting().await;
    let during = cluster.manager.get("/v1.50/swarm").await.json();
    let new = issuer(&during);
    assert_eq!(during["RootRotationInProgress"], true);
    assert_ne!(new, old, "the swarm shows the new issuer from the start");
    assert_eq!((trust(&during), &during["JoinTokens"]), (trust(&before), &before["JoinTokens"]));
    assert_eq!(during["Spec"]["CAConfig"]["ForceRotate"], 1);
    let info = cluster.manager.swarm().await["Cluster"].clone();
    assert_eq!((&info["RootRotationInProgress"], &info["TLSInfo"]), (&json!(true), &during["TLSInfo"]));
    let converted = |node: &Value| issuer(node) == new;
    let manager = cluster.manager.until("the manager has renewed", &format!("/nodes/{manager_id}"), converted).await;
    assert_eq!(trust(&manager), trust(&before));
    let worker = cluster.node(&cluster.worker_id).await;
    assert_eq!((issuer(&worker), trust(&worker)), (old.clone(), trust(&before)), "docker counts it as not rotated");
    let ca = cluster.manager.get("/swarmpki/v1/ca").await.json();
    assert_eq!((&ca["rotation_in_progress"], &ca["trust_root"]), (&json!(true), &trust(&before)));

    // A token is replaced on the way: of the old root still.
    let digest =
        |swarm: &Value, role: &str| swarm["JoinTokens"][role].as_str().unwrap().split('-').nth(2).unwrap().to_owned();
    let path = format!("/swarm/update?rotateWorkerToken=true&version={}", during["Version"]["Index"]);
    assert_eq!(cluster.manager.post(&path, &during["Spec"]).await.status, 200);
    let again = cluster.manager.get("/swarm").await.json();
    assert_ne!(again["JoinTokens"]["Worker"], during["JoinTokens"]["Worker"]);
    assert_eq!(digest(&again, "Worker"), digest(&before, "Worker"));
    assert_eq!(again["RootRotationInProgress"], true, "another update does not touch the rotation");

    let worker = cluster.worker().await;
    cluster.until_done().await;
    let after = cluster.manager.get("/v1.50/swarm").await.json();
    assert_eq!((&after["RootRotationInProgress"], issuer(&after)), (&json!(false), new.clone()));
    assert_ne!(trust(&after), trust(&before));
    for role in ["Worker", "Manager"] {
        assert_ne!(after["JoinTokens"][role], again["JoinTokens"][role]);
        assert_ne!(digest(&after, role), digest(&before, role));
    }
    let converted = |nodes: &Value| {
        nodes.as_array().unwrap().iter().all(|node| issuer(node) == new && trust(node) == trust(&after))
    };
    cluster.manager.until("both bars full", "/nodes", converted).await;
    worker.stop().await;
    cluster.manager.stop().await;
}

#[tokio::test]
async fn a_rotation_that_waits_is_explained_rehearsed_and_ended() {
    let cluster = Pair::start().await.without_worker().await;
    let before = cluster.status().await;
    assert_eq!((&before["rotation"], &before["served"]), (&Value::Null, &before["signing"]));
    let lost = |status: &Value| {
        let rehearsed = &status["blocks"][0];
        ["lost", "down"].contains(&rehearsed["reason"].as_str().unwrap_or_default())
    };

    // A rehearsal changes nothing.
    let mut dry = cluster.rotate(json!({"dry_run": true})).await.json();
    // A connection that is gone for a moment only is not called lost.
    for _ in 0..400 {
        if lost(&dry) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        dry = cluster.rotate(json!({"dry_run": true})).await.json();
    }
    assert!(lost(&dry), "{dry}");
    assert_eq!(dry["to"], Value::Null);
    assert_eq!((&dry["blocks"][0]["node"], &dry["takes_ms"]), (&json!(cluster.worker_id), &Value::Null));
    assert_eq!(dry["converts"].as_array().unwrap().len(), 1);
    let dry = cluster.rotate(json!({"dry_run": true, "policy": {"kind": "deadline", "after_ms": 60_000}})).await.json();
    assert_eq!(
        (&dry["aside"], &dry["blocks"]),
        (&json!([{"node": cluster.worker_id, "hostname": "host1"}]), &json!([]))
    );
    // It counts from when it is played, not from when it was asked for.
    assert!(dry["takes_ms"].as_u64().unwrap() > 30_000, "{dry}");
    assert_eq!(cluster.status().await["signing"], before["signing"]);

    // What is refused begins nothing.
    for (body, text) in [
        (json!({"deadline": 5}), "invalid request: unknown field `deadline`"),
        (json!({"policy": {"kind": "deadline", "after_ms": 999}}), "the deadline is less than a second"),
        (json!({"policy": {"kind": "emergency", "bound_ms": 5}}), "bound_ms is less than a second"),
        (json!({"key": "x"}), "if a signing CA key is provided, the signing CA cert must also be provided"),
        (json!({"signer_certificate": "x"}), "signer_certificate needs the root it is below"),
        (json!({"node_cert_expiry_ms": 5}), "minimum certificate expiry time is: 1h0m0s"),
    ] {
        let (status, refused) = cluster.rotate(body.clone()).await.message();
        assert!(status == 400 && refused.contains(text), "{body}: {status} {refused}");
    }
    let refused = cluster.manager.post("/swarmpki/v1/ca/abort", &json!({})).await.message();
    assert!(refused.0 == 400 && refused.1.contains("no root rotation is under way"), "{refused:?}");
    let still = cluster.status().await;
    assert_eq!(
        (&still["rotation"], &still["served"], &still["signing"]),
        (&Value::Null, &before["served"], &before["signing"])
    );

    // It waits, says for whom and why, and the state is whole meanwhile.
    let begun = cluster.rotate(json!({"node_cert_expiry_ms": 7_200_000})).await;
    assert_eq!(begun.status, 200, "{:?}", begun.body);
    assert_eq!(begun.json()["rotation"]["policy"], json!({"kind": "wait", "deadline": null, "bound_ms": null}));
    let waiting = cluster.until_waiting().await;
    let missing = &waiting["rotation"]["blocking"][0];
    assert_eq!((&missing["node"], &missing["hostname"]), (&json!(cluster.worker_id), &json!("host1")));
    let remedy = missing["remedy"].as_str().unwrap();
    assert!(remedy.contains(&format!("swarmpki node rm --force {}", cluster.worker_id)), "{remedy}");
    assert_eq!(cluster.manager.get("/swarm").await.json()["Spec"]["CAConfig"]["NodeCertExpiry"], 7_200_000_000_000_u64);
    assert_ne!(waiting["signing"]["digest"], before["signing"]["digest"]);
    let log = cluster.manager.get("/swarmpki/v1/ca/log").await.json();
    assert!(log["entries"].as_array().unwrap().iter().all(|entry| entry["issuer"].is_string()), "{log}");
    let cluster = cluster.checked().await;
    assert_eq!(cluster.until_waiting().await["rotation"]["id"], waiting["rotation"]["id"], "a restart goes on with it");

    // And back. The manager has converted: its node returns to the old root before the new key goes.
    let turned = cluster.manager.post("/swarmpki/v1/ca/abort", &json!({})).await;
    assert_eq!(turned.status, 200, "{:?}", turned.body);
    let after = cluster.until_done().await;
    assert_eq!((&after["served"], &after["signing"]), (&before["served"], &before["signing"]));
    let cluster = cluster.checked().await;
    let worker = cluster.worker().await;
    let ready = |node: &Value| node["Status"]["State"] == "ready";
    cluster.manager.until("the worker is back", &format!("/nodes/{}", cluster.worker_id), ready).await;
    worker.stop().await;
    cluster.manager.stop().await;
}

#[tokio::test]
async fn a_node_put_aside_comes_back_by_itself() {
    let cluster = Pair::start().await.without_worker().await;
    let begun = cluster.rotate(json!({"policy": {"kind": "deadline", "after_ms": 1000}})).await.json();
    assert_eq!(begun["rotation"]["policy"]["kind"], "deadline", "{begun}");
    let done = cluster.until_done().await;
    assert_eq!(done["stragglers"][0]["nodes"], json!([cluster.worker_id]));
    assert_ne!(done["stragglers"][0]["digest"], done["served"]["digest"]);
    let cluster = cluster.checked().await;
    let worker = cluster.worker().await;
    let swarm = cluster.manager.get("/swarm").await.json();
    let back = |node: &Value| {
        node["Status"]["State"] == "ready" && issuer(node) == issuer(&swarm) && trust(node) == trust(&swarm)
    };
    cluster.manager.until("the straggler is back", &format!("/nodes/{}", cluster.worker_id), back).await;
    worker.stop().await;
    cluster.manager.stop().await;
}

#[tokio::test]
async fn a_root_of_ones_own_and_an_offline_root() {
    let cluster = Pair::start().await;
    let Pair { manager, worker, dirs, worker_id } = cluster;
    let cluster = Absent { manager, dirs, worker_id };
    let (own, other) = (root("my-own-ca"), root("other-ca"));
    let given = |cert: &Ca, key: &Ca| json!({"certificate": cert.pem(), "key": key.key().serialize_pem()});
    let refused = cluster.rotate(given(&own, &other)).await.message();
    assert_eq!(refused.0, 400, "{refused:?}");
    assert_eq!(cluster.rotate(given(&own, &own)).await.status, 200);
    let done = cluster.until_done().await;
    assert_eq!((&done["served"]["name"], &done["served"]["has_key"]), (&json!("my-own-ca"), &json!(true)));
    // Once more changes nothing.
    let same = cluster.rotate(given(&own, &own)).await.json();
    assert_eq!((&same["rotation"], &same["served"]), (&Value::Null, &done["served"]));

    // The root's own key stays offline: the certificate below signs, and goes with every leaf.
    let offline = root("offline-root");
    let online = below(&offline, "online-ca");
    let wish =
        json!({"certificate": offline.pem(), "signer_certificate": online.pem(), "key": online.key().serialize_pem()});
    let mut rehearsed = wish.clone();
    rehearsed["dry_run"] = json!(true);
    let dry = cluster.rotate(rehearsed).await.json();
    assert_eq!(
        (&dry["to"]["name"], &dry["to"]["signer"]["name"]),
        (&json!("offline-root"), &json!("online-ca")),
        "{dry}"
    );
    let begun = cluster.rotate(wish).await;
    assert_eq!(begun.status, 200, "{:?}", begun.body);
    let done = cluster.until_done().await;
    assert_eq!(
        (&done["signing"]["name"], &done["signing"]["signer"]["name"]),
        (&json!("offline-root"), &json!("online-ca"))
    );
    let swarm = cluster.manager.get("/swarm").await.json();
    assert_eq!(trust(&swarm).as_str().unwrap().trim(), offline.pem().trim());
    let all = |nodes: &Value| {
        nodes.as_array().unwrap().iter().all(|node| trust(node) == trust(&swarm) && issuer(node) == issuer(&swarm))
    };
    cluster.manager.until("both nodes are there", "/nodes", all).await;
    worker.stop().await;
    cluster.checked().await.manager.stop().await;
}

#[tokio::test]
async fn a_cluster_begins_with_a_root_of_ones_own() {
    let (own, other, offline) = (root("my-own-ca"), root("other-ca"), root("offline-root"));
    let online = below(&offline, "online-ca");
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let manager = Running::start(dirs[0].path()).await;
    let init = |ca: Value| json!({"ListenAddr": "127.0.0.1:0", "AdvertiseAddr": "127.0.0.1", "Spec": {"CAConfig": ca}});
    let key = |ca: &Ca| ca.key().serialize_pem();
    let mut short = params("short-ca", BasicConstraints::Unconstrained);
    short.not_after = (SystemTime::now() + std::time::Duration::from_secs(300 * 24 * 3600)).into();
    let short = Ca::self_signed(short, KeyPair::generate().unwrap()).unwrap();
    for (ca, text) in [
        (json!({"SigningCACert": own.pem(), "SigningCAKey": key(&other)}), "certificate key mismatch"),
        (
            json!({"SigningCACert": own.pem() + &other.pem(), "SigningCAKey": key(&own)}),
            "cannot contain multiple certificates",
        ),
        (json!({"SigningCACert": short.pem(), "SigningCAKey": key(&short)}), "CA certificate expires too soon"),
        (json!({"SigningCAKey": key(&own)}), "the signing CA cert must also be provided"),
        (json!({"SigningCACert": own.pem()}), "external CA"),
        (
            json!({"SigningCACert": own.pem(), "SignerCertificate": online.pem(), "SigningCAKey": key(&online)}),
            "signed by unknown authority",
        ),
    ] {
        let (status, refused) = manager.post("/swarm/init", &init(ca)).await.message();
        assert!(status == 400 && refused.contains(text), "{text}: {status} {refused}");
        assert_eq!(manager.swarm().await["LocalNodeState"], "inactive");
    }
    let ca = json!({"SigningCACert": offline.pem(), "SignerCertificate": online.pem(), "SigningCAKey": key(&online)});
    let founded = manager.post("/swarm/init", &init(ca)).await;
    assert_eq!(founded.status, 200, "{:?}", founded.body);
    let swarm = manager.get("/swarm").await.json();
    assert_eq!(trust(&swarm).as_str().unwrap().trim(), offline.pem().trim());
    assert!(swarm["Spec"]["CAConfig"].get("SigningCAKey").is_none(), "{swarm}");
    let worker = Running::start(dirs[1].path()).await;
    let token = swarm["JoinTokens"]["Worker"].as_str().unwrap();
    let joined = worker.join(&manager.swarm().await, token).await;
    assert_eq!(joined.status, 200, "{:?}", joined.body);
    let worker_id = worker.swarm().await["NodeID"].as_str().unwrap().to_owned();
    worker.stop().await;
    let cluster = Absent { manager, dirs, worker_id }.checked().await;
    let status = cluster.status().await;
    assert_eq!(
        (&status["signing"]["signer"]["name"], &status["signing"]["has_key"]),
        (&json!("online-ca"), &json!(true))
    );
    cluster.manager.stop().await;
}

#[tokio::test]
async fn an_emergency_ends_whoever_is_missing() {
    let cluster = Pair::start().await.without_worker().await;
    let before = cluster.manager.get("/swarm").await.json();
    let begun = cluster.rotate(json!({"policy": {"kind": "emergency", "bound_ms": 1000}})).await.json();
    assert_eq!(
        (&begun["rotation"]["phase"], &begun["rotation"]["by_bundle"]),
        (&json!("widen"), &json!(true)),
        "{begun}"
    );
    let tokens = cluster.manager.get("/swarm").await.json()["JoinTokens"].clone();
    for role in ["Worker", "Manager"] {
        assert_ne!(tokens[role], before["JoinTokens"][role], "tokens go first");
    }
    let refused = cluster.manager.post("/swarmpki/v1/ca/abort", &json!({})).await.message();
    assert!(refused.1.contains("the old key is taken for stolen"), "{refused:?}");
    let done = cluster.until_done().await;
    assert_eq!(done["stragglers"], json!([]), "nobody comes back with a leaf of the stolen key");
    cluster.checked().await.manager.stop().await;
}

#[tokio::test]
async fn a_root_of_before_is_known_by_what_its_key_signed() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Running::start(dir.path()).await;
    manager.init().await;
    let rotated = async |body: Value| {
        let started = manager.post("/swarmpki/v1/ca/rotate", &body).await;
        assert!(started.status.is_success(), "{:?}", started.body);
        let over = |status: &Value| status["rotation"].is_null();
        manager.until("the rotation is over", "/swarmpki/v1/ca/status", over).await;
    };
    let audited = async |pem: String| {
        let answer = manager.post("/swarmpki/v1/log/audit", &json!({"Certificates": [pem]})).await.json();
        (answer[0]["verdict"].as_str().unwrap().to_owned(), answer[0]["seq"].is_u64())
    };
    let (given, other) = (root("Our own root"), root("Our own root"));
    assert_eq!(audited(given.pem()).await, ("foreign".to_owned(), false));
    rotated(json!({"certificate": given.pem(), "key": given.key().serialize_pem()})).await;
    assert_eq!(audited(given.pem()).await.0, "ca");
    rotated(json!({"policy": {"kind": "emergency", "bound_ms": 10_000}})).await;
    assert_eq!(audited(given.pem()).await, ("former".to_owned(), true));
    assert_eq!(audited(other.pem()).await, ("foreign".to_owned(), false), "the same name, another key");
    manager.stop().await;
}

#[tokio::test]
async fn what_a_former_key_signed_is_told_from_what_a_stranger_signed() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Running::start(dir.path()).await;
    let (first, second, third, stranger) = (root("own-1"), root("own-2"), root("own-3"), root("own-2"));
    let given = |ca: &Ca| (ca.pem(), ca.key().serialize_pem());
    let (pem, key) = given(&first);
    let ca = json!({"SigningCACert": pem, "SigningCAKey": key});
    let body = json!({"ListenAddr": "127.0.0.1:0", "AdvertiseAddr": "127.0.0.1", "Spec": {"CAConfig": ca}});
    assert_eq!(manager.post("/swarm/init", &body).await.status, 200);
    let issued = std::fs::read_to_string(dir.path().join("state/certificates/swarm-node.crt")).unwrap();
    let audited = async |pems: &[String]| -> Vec<String> {
        let answer = manager.post("/swarmpki/v1/log/audit", &json!({"Certificates": pems})).await.json();
        answer.as_array().unwrap().iter().map(|one| one["verdict"].as_str().unwrap().to_owned()).collect()
    };
    let rotated = async |body: Value| {
        let started = manager.post("/swarmpki/v1/ca/rotate", &body).await;
        assert!(started.status.is_success(), "{:?}", started.body);
        let over = |status: &Value| status["rotation"].is_null();
        manager.until("the rotation is over", "/swarmpki/v1/ca/status", over).await;
    };
    let emergency = json!({"kind": "emergency", "bound_ms": 10_000});
    // The second is certified by the first, and stands in the log so; of the others there are only leaves.
    let (pem, key) = given(&second);
    rotated(json!({"certificate": pem, "key": key})).await;
    let (pem, key) = given(&third);
    rotated(json!({"certificate": pem, "key": key, "policy": emergency})).await;
    rotated(json!({"policy": emergency})).await;

    let leaf = |ca: &Ca, names_key: bool| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "forged");
        params.use_authority_key_identifier_extension = names_key;
        params.signed_by(&KeyPair::generate().unwrap(), ca).unwrap().pem()
    };
    let (of_first, of_second, of_third) = (leaf(&first, true), leaf(&second, true), leaf(&third, true));
    let rows: [(&[String], &[&str]); 8] = [
        (std::slice::from_ref(&of_second), &["forged"]),
        (&[leaf(&second, false)], &["forged"]),
        (&[leaf(&stranger, true)], &["foreign"]),
        (&[of_first.clone(), of_third.clone()], &["unproven", "unproven"]),
        (&[of_first, first.pem(), of_third.clone()], &["forged", "former", "unproven"]),
        (&[third.pem(), of_third.clone(), leaf(&third, false)], &["former", "forged", "forged"]),
        // Whoever gives a CA of their own proves nothing with it.
        (&[leaf(&stranger, true), stranger.pem(), of_third], &["foreign", "foreign", "unproven"]),
        (&[second.pem()], &["former"]),
    ];
    for (n, (pems, expected)) in rows.iter().enumerate() {
        assert_eq!(audited(pems).await, *expected, "row {n}");
    }
    let own = audited(&[issued]).await;
    assert_eq!(own[0], "issued");
    manager.stop().await;
}
