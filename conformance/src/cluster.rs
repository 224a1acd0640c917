//! A swarm of ours with one manager, driven at its port 2377 and at its Engine API; no engine and no `docker` needed.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use testkit::daemon::Daemon;
use testkit::loopback::Loopback;
use testkit::wait;

use crate::caller::{Caller, Pair};
use crate::csr::{self, Request};
use crate::{node_id, swarm};

/// The swarm; it ends with the value.
pub struct Cluster {
    /// Its only manager.
    pub manager: Daemon,
    /// Its addresses: the manager is host 1.
    pub net: Loopback,
    /// Its trust root in PEM.
    pub root: String,
    /// Its id.
    pub id: String,
}

/// A node that only a test plays.
pub struct Played {
    /// Its id.
    pub id: String,
    /// Its key and certificate.
    pub pair: Pair,
    /// Its connection with them.
    pub caller: Caller,
}

impl Cluster {
    /// Starts our daemon and makes it the first manager.
    ///
    /// # Panics
    /// If that fails; ask `require_or_skip!("swarmpki")` first.
    pub fn start() -> Self {
        let net = Loopback::claim();
        let manager = Daemon::start("manager1");
        let body = format!(r#"{{"ListenAddr":"{0}:2377","AdvertiseAddr":"{0}:2377","Spec":{{}}}}"#, net.host(1));
        let answer = manager.api("POST", "/swarm/init", Some(&body));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json(), node_id(&manager));
        Self::of(manager, net)
    }

    /// The swarm that this daemon is the first manager of, at host 1.
    ///
    /// # Panics
    /// If it is in none.
    pub fn of(manager: Daemon, net: Loopback) -> Self {
        let swarm = swarm(&manager);
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        Self { root: text(&swarm["TLSInfo"]["TrustRoot"]), id: text(&swarm["ID"]), manager, net }
    }

    /// Waits until a manager that was started again serves its cluster: its API answers before that.
    ///
    /// # Panics
    /// If it does not within a minute.
    pub fn manager_is_back(&self) {
        wait::until("the manager is back", Duration::from_secs(60), || {
            let answer = self.manager.api("GET", "/swarm", None);
            if answer.status == 200 { Ok(()) } else { Err(answer.body) }
        });
    }

    /// Where its port 2377 is.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.net.host(1).into(), 2377)
    }

    /// A join token (`Worker` or `Manager`), as it is now.
    ///
    /// # Panics
    /// If there is none.
    pub fn token(&self, role: &str) -> String {
        swarm(&self.manager)["JoinTokens"][role].as_str().expect("a token").to_owned()
    }

    /// Replaces the worker's join token.
    ///
    /// # Panics
    /// If that is refused.
    pub fn rotate_worker_token(&self) {
        self.update("&rotateWorkerToken=true&rotateManagerToken=false&rotateManagerUnlockKey=false", |_| {});
    }

    /// Replaces the manager's join token.
    ///
    /// # Panics
    /// If that is refused.
    pub fn rotate_manager_token(&self) {
        self.update("&rotateWorkerToken=false&rotateManagerToken=true&rotateManagerUnlockKey=false", |_| {});
    }

    /// Changes the settings: reads them, lets `change` at them, writes them back.
    ///
    /// # Panics
    /// If that is refused.
    pub fn update(&self, parameters: &str, change: impl FnOnce(&mut Value)) {
        let mut swarm = swarm(&self.manager);
        let version = swarm["Version"]["Index"].to_string();
        change(&mut swarm["Spec"]);
        let path = format!("/swarm/update?version={version}{parameters}");
        let answer = self.manager.api("POST", &path, Some(&swarm["Spec"].to_string()));
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Removes a node, ready or not.
    ///
    /// # Panics
    /// If that is refused.
    pub fn remove(&self, id: &str) {
        let answer = self.manager.api("DELETE", &format!("/nodes/{id}?force=1"), None);
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// A caller without a certificate.
    ///
    /// # Panics
    /// If it cannot connect.
    pub async fn stranger(&self) -> Caller {
        Caller::plain(self.address(), &self.root).await.expect("a connection")
    }

    /// A caller with this certificate.
    ///
    /// # Panics
    /// If it cannot connect.
    pub async fn caller(&self, pair: &Pair) -> Caller {
        Caller::with(self.address(), &self.root, pair).await.expect("a connection")
    }

    /// A node that has joined as a worker and connected with its certificate.
    ///
    /// # Panics
    /// If any step is refused.
    pub async fn worker(&self) -> Played {
        let (id, pair) = self.issued(&csr::ordinary(), &self.token("Worker")).await;
        let caller = self.caller(&pair).await;
        Played { id, pair, caller }
    }

    /// Asks for a certificate with a token and fetches it.
    ///
    /// # Panics
    /// If any step is refused.
    pub async fn issued(&self, request: &Request, token: &str) -> (String, Pair) {
        let stranger = self.stranger().await;
        let answer = stranger.issue(request.csr.as_bytes(), token).await.expect("an id");
        let pair = fetch(&stranger, &answer.node_id, request).await;
        (answer.node_id, pair)
    }
}

impl Played {
    /// Renews with a new key; returns the pair, not used yet.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn renewed(&self) -> Pair {
        let request = csr::ordinary();
        let answer = self.caller.issue(request.csr.as_bytes(), "").await.expect("a renewal");
        assert_eq!(answer.node_id, self.id);
        fetch(&self.caller, &self.id, &request).await
    }
}

/// Fetches the certificate for `request`, as an engine does: only an answer with its own CSR counts.
///
/// # Panics
/// If the state is not ISSUED, or the CSR is not the one that was sent.
pub async fn fetch(caller: &Caller, id: &str, request: &Request) -> Pair {
    let answer = caller.status(id).await.expect("a status");
    let (status, certificate) = (answer.status.expect("a state"), answer.certificate.expect("a certificate"));
    assert_eq!((status.state(), status.err.as_str()), (wire::proto::issuance_status::State::Issued, ""));
    assert_eq!(certificate.csr, request.csr.as_bytes(), "the CSR must come back as it was sent");
    assert_eq!(certificate.cn, id);
    Pair { chain: String::from_utf8(certificate.certificate).expect("PEM"), key: request.key.clone() }
}
