//! A program that joins a cluster and serves HTTPS to its peers. Its certificate renews itself while it serves.
//!
//! ```text
//! JOIN_TOKEN=SWMTKN-1-… cargo run --example https_peer -- --manager 10.0.0.1:2377 --listen 127.0.0.1:8443 --dir /tmp/peer1
//! ```
//!
//! Every caller must be a node of the same cluster; the answer greets it by its id. `https_client` is such a caller.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use swarmpki::{Config, JoinRequest, Node, PeerPolicy, Time, subject_of};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let options = options()?;

    // Join, or open what an earlier run left in the directory. The token comes from the environment: arguments are public.
    let config = Config::new(&options.dir);
    let node = match std::env::var("JOIN_TOKEN") {
        Ok(token) => Node::join(config, JoinRequest::new(token.parse()?, [options.manager])).await,
        Err(_) => Node::open(config),
    };
    let node = node.inspect_err(|error| eprintln!("{error}; {}", error.hint()))?;

    // The configuration follows the identity: nothing is rebuilt at a renewal.
    let policy = PeerPolicy { alpn: vec![b"http/1.1".to_vec()], ..PeerPolicy::default() };
    let clock = Arc::new(|| Time::from(std::time::SystemTime::now()));
    let tls = TlsAcceptor::from(node.identity().server_config_for(policy, clock)?);

    let listener = TcpListener::bind(&options.listen).await?;
    println!("serving on https://{}", listener.local_addr()?);
    let mut life = tokio::spawn(node.run(std::future::pending::<()>()));
    loop {
        tokio::select! {
            ended = &mut life => {
                println!("this node's life has ended: {:?}", ended?);
                return Ok(());
            }
            accepted = listener.accept() => {
                let (tcp, _) = accepted?;
                let tls = tls.clone();
                tokio::spawn(async move {
                    if let Err(error) = serve(tcp, tls).await {
                        eprintln!("a caller was turned away: {error}");
                    }
                });
            }
        }
    }
}

async fn serve(tcp: TcpStream, tls: TlsAcceptor) -> Result<(), Failure> {
    let stream = tokio::time::timeout(Duration::from_secs(5), tls.accept(tcp)).await??;
    let Some(caller) = subject_of(stream.get_ref().1.peer_certificates()) else {
        return Err("no certificate".into());
    };
    let greet = service_fn(move |_: Request<Incoming>| {
        let text = format!("hello {} {}\n", caller.role.word(), caller.node);
        async move { Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(text)))) }
    });
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), greet).await?;
    Ok(())
}

struct Options {
    manager: String,
    listen: String,
    dir: String,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options {
        manager: "127.0.0.1:2377".to_owned(),
        listen: "127.0.0.1:8443".to_owned(),
        dir: "./https-peer".to_owned(),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--manager" => options.manager = value,
            "--listen" => options.listen = value,
            "--dir" => options.dir = value,
            _ => return Err(format!("unknown option {name}: --manager, --listen and --dir are known").into()),
        }
    }
    Ok(options)
}
