//! The daemon as its clients see it: HTTP over unix sockets, a cluster of two daemons on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod running;

use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use running::{PATIENCE, Running, config};
use serde_json::{Value, json};
use swarmpki_daemon::{Daemon, DaemonConfig, Host};
use tokio_util::sync::CancellationToken;

const NO_SWARM: &str = swarmpki_daemon::backend::NO_SWARM;

#[tokio::test]
async fn transport_rules() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Running::start(dir.path()).await;

    let ping = daemon.call(Method::HEAD, "/_ping", None).await;
    let header = |name: &str| ping.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    for (name, value) in [
        ("api-version", "1.50"),
        ("builder-version", "2"),
        ("cache-control", "no-cache, no-store, must-revalidate"),
        ("docker-experimental", "false"),
        ("ostype", "linux"),
        ("pragma", "no-cache"),
        ("swarm", "inactive"),
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", "0"),
    ] {
        assert_eq!(header(name).as_deref(), Some(value), "{name}");
    }
    assert!(header("server").unwrap().starts_with("Docker/"));
    assert_eq!(daemon.get("/v1.50/_ping").await.body, "OK");

    let unknown = daemon.get("/v1.99/nosuch").await;
    assert_eq!(unknown.message(), (404, "page not found".into()), "an unknown path is unknown under any version");
    assert!(!unknown.headers.contains_key("api-version"));
    assert_eq!(unknown.body, "{\"message\":\"page not found\"}\n");
    for (method, path) in [
        (Method::PUT, "/v1.50/swarm"),
        (Method::GET, "/v1.50/swarm/"),
        (Method::GET, "/vfoo/swarm"),
        (Method::GET, "/swarm/init"),
    ] {
        assert_eq!(daemon.call(method, path, None).await.status, 404, "{path}");
    }
    assert_eq!(
        daemon.get("/v1.99/swarm").await.message(),
        (400, "client version 1.99 is too new. Maximum supported API version is 1.50".into())
    );
    let old = daemon.get("/v1.20/swarm").await;
    assert_eq!(old.headers["content-type"], "text/plain; charset=utf-8");
    assert!(old.body.ends_with(b"newer version\n"));
    let options = daemon.call(Method::OPTIONS, "/v1.50/swarm", None).await;
    assert_eq!((options.status.as_u16(), options.body.len()), (200, 0));
    assert_eq!(options.headers["api-version"], "1.50");

    // Syntax comes before the node's state.
    assert_eq!(daemon.get("/nodes?filters=garbage").await.message(), (400, "invalid filter".into()));
    assert_eq!(
        daemon.post("/swarm/update", &json!({})).await.message(),
        (400, "invalid swarm version '': strconv.ParseUint: parsing \"\": invalid syntax".into())
    );
    for path in [
        "/swarm",
        "/nodes",
        "/nodes/x",
        "/tasks",
        "/services",
        "/swarm/unlockkey",
        "/swarmpki/v1/nodes",
        "/swarmpki/v1/ca",
    ] {
        assert_eq!(daemon.get(path).await.message(), (503, NO_SWARM.into()), "{path}");
    }
    assert_eq!(daemon.post("/swarm/unlock", &json!({"UnlockKey": "x"})).await.message(), (503, NO_SWARM.into()));
    assert_eq!(
        daemon.call(Method::POST, "/swarm/leave?force=1", None).await.message(),
        (503, "This node is not part of a swarm".into())
    );
    assert_eq!(
        daemon.swarm().await,
        json!({"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "", "RemoteManagers": null})
    );
    daemon.stop().await;
}

#[tokio::test]
async fn a_refused_init_leaves_no_swarm() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Running::start(dir.path()).await;
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    let rows = [
        (json!({}), 400, "invalid ListenAddr \"\": invalid empty address".to_owned()),
        (
            json!({"ListenAddr": "127.0.0.1:0", "Spec": {"CAConfig": {"NodeCertExpiry": 1_800_000_000_000_u64}}}),
            400,
            "rpc error: code = InvalidArgument desc = minimum certificate expiry time is: 1h0m0s".to_owned(),
        ),
        (
            json!({"ListenAddr": taken}),
            500,
            format!(
                "manager stopped: failed to listen on remote API address: listen tcp {taken}: bind: address already in use"
            ),
        ),
    ];
    for (body, status, text) in rows {
        assert_eq!(daemon.post("/swarm/init", &body).await.message(), (status, text));
        assert_eq!(daemon.swarm().await["LocalNodeState"], "inactive");
    }
    daemon.init().await;
    daemon.stop().await;
}

#[tokio::test]
async fn life_of_a_manager() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Running::start(dir.path()).await;
    let id = daemon.init().await;

    let swarm = daemon.get("/v1.50/swarm").await.json();
    let node = daemon.get(&format!("/nodes/{id}")).await.json();
    assert_eq!(node["ManagerStatus"]["Leader"], true);
    assert_eq!(node["Description"]["Hostname"], "host1");
    assert_eq!(node["Description"]["TLSInfo"], swarm["TLSInfo"], "docker node ls compares them");
    let info = daemon.swarm().await;
    assert_eq!(info["Cluster"]["TLSInfo"], swarm["TLSInfo"]);
    assert_eq!((&info["Nodes"], &info["Managers"], &info["NodeID"]), (&json!(1), &json!(1), &json!(id)));
    assert_eq!(info["RemoteManagers"][0]["Addr"], node["ManagerStatus"]["Addr"]);

    // A Spec read, changed and written back.
    let mut spec = swarm["Spec"].clone();
    spec["CAConfig"]["NodeCertExpiry"] = json!(7_200_000_000_000_u64);
    let version = swarm["Version"]["Index"].as_u64().unwrap();
    let update = |version: u64, rest: &str| format!("/swarm/update?version={version}{rest}");
    assert_eq!(
        daemon.post(&update(version + 1, ""), &spec).await.message().1,
        "rpc error: code = Unknown desc = update out of sequence"
    );
    let maybe = daemon.post(&update(version, "&rotateWorkerToken=maybe"), &spec).await;
    assert_eq!(maybe.message(), (400, "invalid value for rotateWorkerToken: maybe".into()));
    let done = daemon.post(&update(version, "&rotateWorkerToken=true"), &spec).await;
    assert_eq!((done.status.as_u16(), done.body.len()), (200, 0));
    assert!(!done.headers.contains_key("content-type"));
    let after = daemon.get("/swarm").await.json();
    assert_eq!(after["Spec"]["CAConfig"]["NodeCertExpiry"], json!(7_200_000_000_000_u64));
    assert_ne!(after["JoinTokens"]["Worker"], swarm["JoinTokens"]["Worker"]);
    assert_eq!(after["JoinTokens"]["Manager"], swarm["JoinTokens"]["Manager"]);

    // Refusals of a manager.
    let member =
        "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.";
    assert_eq!(daemon.post("/swarm/init", &json!({})).await.message(), (503, member.into()));
    assert_eq!(daemon.post("/swarm/join", &json!({})).await.message(), (503, member.into()));
    assert_eq!(daemon.post("/swarm/unlock", &json!({})).await.message(), (409, "swarm is not locked".into()));
    assert_eq!(daemon.get("/swarm/unlockkey").await.json(), json!({"UnlockKey": ""}));
    assert_eq!(daemon.get("/nodes/nosuch").await.message(), (404, "node nosuch not found".into()));
    let wish = |role: &str| json!({"Role": role, "Availability": "active"});
    let version = node["Version"]["Index"].as_u64().unwrap();
    let path = format!("/nodes/{id}/update?version={version}");
    assert_eq!(daemon.post(&path, &wish("")).await.message(), (400, "invalid Role: \"\"".into()));
    assert_eq!(
        daemon.post(&path, &json!({"Role": "worker"})).await.message(),
        (400, "invalid Availability: \"\"".into())
    );
    let demoted = daemon.post(&path, &wish("worker")).await.message();
    assert_eq!(
        demoted,
        (400, "rpc error: code = FailedPrecondition desc = attempting to demote the last manager of the swarm".into())
    );
    let left = daemon.call(Method::POST, "/swarm/leave", None).await.message();
    assert_eq!(left.0, 503);
    assert!(left.1.ends_with(
        "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. "
    ));

    // A restart changes nothing but the session.
    daemon.stop().await;
    let daemon = Running::start(dir.path()).await;
    // Asked before it is up again: it takes a moment longer, and is not refused.
    let nodes = daemon.get("/nodes").await;
    assert_eq!((nodes.status.as_u16(), nodes.json()[0]["ID"].clone()), (200, json!(id)));
    let again = daemon.until("a manager again", "/info", |info| info["Swarm"]["ControlAvailable"] == true).await;
    assert_eq!(again["Swarm"]["NodeID"], json!(id));
    assert_eq!(daemon.get("/swarm").await.json()["JoinTokens"], after["JoinTokens"]);

    // By force it forgets everything, and founds another cluster without restart.
    assert_eq!(daemon.call(Method::POST, "/swarm/leave?force=1", None).await.status, 200);
    assert_eq!(daemon.swarm().await["LocalNodeState"], "inactive");
    let mut files: Vec<_> =
        std::fs::read_dir(dir.path().join("state")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["daemon.lock", "engine-id"]);
    assert_ne!(daemon.init().await, id);
    assert_ne!(daemon.get("/swarm").await.json()["ID"], swarm["ID"]);
    daemon.stop().await;
}

/// The action of the next event, which must be about the node `id`.
async fn next_node_event(events: &mut Incoming, id: &str) -> String {
    let frame = tokio::time::timeout(PATIENCE, events.frame()).await.unwrap().unwrap().unwrap();
    let event: Value = serde_json::from_slice(&frame.into_data().unwrap()).unwrap();
    assert_eq!((&event["Type"], &event["scope"], &event["Actor"]["ID"]), (&json!("node"), &json!("swarm"), &json!(id)));
    event["Action"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn life_of_a_worker() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (manager, worker) = (Running::start(dirs[0].path()).await, Running::start(dirs[1].path()).await);
    manager.init().await;
    let here = manager.swarm().await;
    let token = manager.get("/swarm").await.json()["JoinTokens"]["Worker"].as_str().unwrap().to_owned();

    assert_eq!(worker.join(&here, "x").await.message(), (500, "invalid join token".into()));
    let mut wrong = token.clone();
    wrong.replace_range(token.len() - 4.., if token.ends_with("aaaa") { "bbbb" } else { "aaaa" });
    let refused = "rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster";
    assert_eq!(worker.join(&here, &wrong).await.message(), (400, refused.into()));
    assert_eq!(worker.swarm().await["LocalNodeState"], "inactive", "a failed join leaves nothing behind");

    // Events reach a reader that was there before.
    let mut events = manager
        .open(Method::GET, "/events?filters=%7B%22event%22%3A%5B%22create%22%2C%22remove%22%5D%7D", None)
        .await
        .into_body();

    let joined = worker.join(&here, &token).await;
    assert_eq!((joined.status.as_u16(), joined.body.len()), (200, 0), "{:?}", joined.body);
    let info = worker.swarm().await;
    assert_eq!((&info["LocalNodeState"], &info["ControlAvailable"]), (&json!("active"), &json!(false)));
    assert_eq!(worker.get("/nodes").await.message(), (503, swarmpki_daemon::backend::WORKER.into()));
    assert_eq!(worker.call(Method::HEAD, "/_ping", None).await.headers["swarm"], "active/worker");
    let id = info["NodeID"].as_str().unwrap().to_owned();

    let extended = manager.get("/swarmpki/v1/nodes").await.json();
    let row = extended.as_array().unwrap().iter().find(|row| row["id"] == json!(id)).unwrap().clone();
    assert_eq!((&row["state"], &row["unfinished"], &row["this"]), (&json!("ready"), &json!(false), &json!(false)));
    assert!(row["not_after"].is_string() && row["renew_from"].is_string() && row["last_contact"].is_string(), "{row}");

    // Read here: changes that come close together are told as one, and a node that came and went is no change.
    assert_eq!(next_node_event(&mut events, &id).await, "create");

    // A restarted worker comes back by itself.
    worker.stop().await;
    let worker = Running::start(dirs[1].path()).await;
    worker.until("a worker again", "/info", |info| info["Swarm"]["LocalNodeState"] == "active").await;

    let live = manager.call(Method::DELETE, &format!("/nodes/{id}"), None).await.message();
    assert_eq!(
        live,
        (400, format!("rpc error: code = FailedPrecondition desc = node {id} is not down and can't be removed"))
    );
    assert_eq!(manager.call(Method::DELETE, &format!("/nodes/{id}?force=1"), None).await.status, 200);
    let removed = worker.until("told of its removal", "/info", |info| info["Swarm"]["LocalNodeState"] == "error").await;
    assert!(removed["Swarm"]["Error"].as_str().unwrap().contains("was removed from the swarm"));
    assert_eq!(next_node_event(&mut events, &id).await, "remove");

    // It leaves without force and comes back under another id.
    assert_eq!(worker.call(Method::POST, "/swarm/leave", None).await.status, 200);
    assert_eq!(worker.join(&here, &token).await.status, 200);
    assert_ne!(worker.swarm().await["NodeID"], json!(id));
    worker.stop().await;
    manager.stop().await;
}

#[tokio::test]
async fn a_join_under_way_can_be_given_up_and_is_forgotten_by_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let manager = json!({"RemoteManagers": [{"Addr": silent.local_addr().unwrap().to_string()}]});
    let token = "SWMTKN-1-4eseirmqbydwkl2d3ysfv4221k4u9u5nb3z3xva2er4rnpnpma-dq6umgirxgqt581skg9vk91n7";
    let daemon = std::sync::Arc::new(Running::start(dir.path()).await);

    let (asking, target) = (daemon.clone(), manager.clone());
    let join = tokio::spawn(async move { asking.join(&target, token).await.message() });
    let info = daemon.until("pending", "/info", |info| info["Swarm"]["LocalNodeState"] == "pending").await;
    assert_eq!(info["Swarm"]["RemoteManagers"], json!([{"NodeID": "", "Addr": manager["RemoteManagers"][0]["Addr"]}]));
    assert_eq!(daemon.call(Method::POST, "/swarm/leave", None).await.status, 200);
    assert_eq!(join.await.unwrap(), (503, "the join was given up: this node was told to leave".into()));

    let asking = daemon.clone();
    let join = tokio::spawn(async move { asking.join(&manager, token).await.message() });
    daemon.until("pending again", "/info", |info| info["Swarm"]["LocalNodeState"] == "pending").await;
    daemon.shutdown.cancel();
    join.await.unwrap();
    let Ok(daemon) = std::sync::Arc::try_unwrap(daemon) else { panic!("still asking") };
    daemon.stop().await;
    let daemon = Running::start(dir.path()).await;
    daemon.until("forgotten", "/info", |info| info["Swarm"]["LocalNodeState"] == "inactive").await;
    assert!(!dir.path().join("state/daemon.json").exists());
    daemon.stop().await;
}

/// TLS with client certificates over TCP, as `docker --tlsverify` and its failures meet it (engine-api.md 12).
#[tokio::test]
async fn tls_over_tcp() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};

    let dir = tempfile::tempdir().unwrap();
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("cert.pem"), pair.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), pair.signing_key.serialize_pem()).unwrap();
    let tls = swarmpki_daemon::TlsSettings {
        ca: path("cert.pem"),
        cert: path("cert.pem"),
        key: path("key.pem"),
        verify: true,
    };
    let config = DaemonConfig {
        hosts: vec![Host::Tcp("127.0.0.1:0".into())],
        tls: Some(swarmpki_daemon::TlsMode::Files(tls)),
        ..config(dir.path())
    };
    let shutdown = CancellationToken::new();
    let daemon = Daemon::start(config, shutdown.clone()).await.unwrap();
    let Some(Host::Tcp(address)) = daemon.hosts().pop() else { panic!("no TCP host") };
    let task = tokio::spawn(daemon.serve());

    let mut plain = tokio::net::TcpStream::connect(&address).await.unwrap();
    plain.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut told = String::new();
    plain.read_to_string(&mut told).await.unwrap();
    assert_eq!(told, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n");

    let mut anchors = RootCertStore::empty();
    anchors.add(pair.cert.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(std::sync::Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(anchors);
    let key = PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
    let mine = builder.clone().with_client_auth_cert(vec![pair.cert.der().clone()], key).unwrap();
    for (client, served) in [(mine, true), (builder.with_no_client_auth(), false)] {
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(client));
        let tcp = tokio::net::TcpStream::connect(&address).await.unwrap();
        let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap();
        // In TLS 1.3 a client learns of its refusal with the first answer.
        let _ = stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer).await;
        assert_eq!(answer.ends_with(b"OK"), served);
        assert_eq!(read.is_err(), !served);
    }
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

/// Over plain TCP a request is for this machine, and of no web page; `docker info` warns of the port.
#[tokio::test]
async fn plain_tcp_takes_no_requests_of_browsers() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let dir = tempfile::tempdir().unwrap();
    let config = DaemonConfig { hosts: vec![Host::Tcp("127.0.0.1:0".into())], ..config(dir.path()) };
    let shutdown = CancellationToken::new();
    let daemon = Daemon::start(config, shutdown.clone()).await.unwrap();
    let Some(Host::Tcp(address)) = daemon.hosts().pop() else { panic!("no TCP host") };
    let task = tokio::spawn(daemon.serve());
    let port = address.rsplit_once(':').unwrap().1;
    let ask = async |path: &str, head: &str| {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\n{head}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let own =
        [format!("Host: {address}\r\n"), format!("Host: localhost:{port}\r\n"), format!("host: HOST1:{port}\r\n")];
    for head in &own {
        assert!(ask("/_ping", head).await.starts_with("HTTP/1.1 200"), "{head}");
        let refused = ask("/_ping", &format!("{head}Origin: http://localhost:{port}\r\n")).await;
        assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("Origin"), "{refused}");
    }
    let refused = ask("/_ping", &format!("Host: rebound.example:{port}\r\n")).await;
    assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("serves plain text"), "{refused}");
    assert!(ask("/_ping", "Host: localhost\r\n").await.starts_with("HTTP/1.1 403"));
    let info = ask("/info", &own[0]).await;
    assert!(
        info.contains(&format!("[DEPRECATION NOTICE]: API is accessible on http://{address} without encryption.")),
        "{info}"
    );
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn one_daemon_a_directory_and_stale_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Running::start(dir.path()).await;
    let Err(refused) = Daemon::start(config(dir.path()), CancellationToken::new()).await else {
        panic!("started twice")
    };
    assert!(refused.to_string().contains(&format!("pid {}", std::process::id())), "{refused}");

    let elsewhere = DaemonConfig { state_dir: dir.path().join("other"), ..config(dir.path()) };
    let Err(refused) = Daemon::start(elsewhere, CancellationToken::new()).await else {
        panic!("took a socket that answers")
    };
    assert!(refused.to_string().contains("in use by another process"), "{refused}");
    daemon.stop().await;

    // A socket that nobody answers is taken over; a file that is none is not touched.
    let socket = dir.path().join("run/api.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let daemon = Running::start(dir.path()).await;
    assert_eq!(daemon.get("/_ping").await.status, 200);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, if nix::unistd::geteuid().is_root() { 0o660 } else { 0o600 });
    daemon.stop().await;
    assert!(!socket.exists());
    std::fs::write(&socket, "x").unwrap();
    let Err(refused) = Daemon::start(config(dir.path()), CancellationToken::new()).await else { panic!("took a file") };
    assert!(refused.to_string().contains("is not a socket"), "{refused}");
}
