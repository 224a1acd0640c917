//! A node that calls a peer over HTTPS and insists on whom it talks to: a node of its own cluster, of a role and with an
//! id if asked so. `https_peer` is such a peer.
//!
//! ```text
//! JOIN_TOKEN=SWMTKN-1-… cargo run --example https_client -- --manager 10.0.0.1:2377 --dir /tmp/client \
//!     --peer 127.0.0.1:8443 --role worker --node k452muqd9uhn713lris4ny8bw
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use swarmpki::{Config, JoinRequest, Node, PeerPolicy, Role, Time, subject_of};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let options = options()?;
    let config = Config::new(&options.dir);
    let node = match std::env::var("JOIN_TOKEN") {
        Ok(token) => Node::join(config, JoinRequest::new(token.parse()?, [options.manager])).await,
        Err(_) => Node::open(config),
    };
    let node = node.inspect_err(|error| eprintln!("{error}; {}", error.hint()))?;

    let clock = Arc::new(|| Time::from(std::time::SystemTime::now()));
    let tls = TlsConnector::from(node.identity().client_config_for(options.policy, clock)?);
    let tcp = TcpStream::connect(&options.peer).await?;
    // Nodes are known by cluster, role and id; the name is only what TLS needs to be there.
    let stream = tls.connect(ServerName::try_from("peer")?, tcp).await?;
    if let Some(peer) = subject_of(stream.get_ref().1.peer_certificates()) {
        println!("talking to {} {} of cluster {}", peer.role.word(), peer.node, peer.cluster);
    }

    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get("/").header("host", "peer").body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let body = answer.into_body().collect().await?.to_bytes();
    print!("{}", String::from_utf8_lossy(&body));
    Ok(())
}

struct Options {
    manager: String,
    dir: String,
    peer: String,
    policy: PeerPolicy,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options {
        manager: "127.0.0.1:2377".to_owned(),
        dir: "./https-client".to_owned(),
        peer: "127.0.0.1:8443".to_owned(),
        policy: PeerPolicy { alpn: vec![b"http/1.1".to_vec()], ..PeerPolicy::default() },
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--manager" => options.manager = value,
            "--dir" => options.dir = value,
            "--peer" => options.peer = value,
            "--node" => options.policy.node = Some(value.parse()?),
            "--role" => {
                let role = [Role::Worker, Role::Manager].into_iter().find(|role| role.word() == value);
                options.policy.role = Some(role.ok_or("the roles are worker and manager")?);
            }
            _ => return Err(format!("unknown option {name}: --manager, --dir, --peer, --node, --role").into()),
        }
    }
    Ok(options)
}
