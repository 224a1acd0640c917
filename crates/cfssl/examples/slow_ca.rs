//! An external CA that takes its time, to measure a manager with: `slow_ca ADDR:PORT MILLIS ROOT-FILE` writes its root's certificate to
//! the file and answers until it is ended. Then:
//!
//! ```text
//! docker -H … swarm init --external-ca protocol=cfssl,url=https://ADDR:PORT/api/v1/cfssl/sign,cacert=ROOT-FILE
//! swarmpki bench issue --concurrency 16 …
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../tests/ca/mod.rs"]
mod ca;

use std::sync::Arc;
use std::time::Duration;

use ca::{Ca, Reply, Root};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [addr, millis, file] = args.as_slice() else { panic!("slow_ca ADDR:PORT MILLIS ROOT-FILE") };
    let takes = Duration::from_millis(millis.parse().expect("a number"));
    let root = Arc::new(Root::new("slow-root"));
    let listener = TcpListener::bind(addr).await.expect("an address");
    let maker = root.clone();
    let ca = Ca::start_on(listener, &root, &root, move |request| {
        Reply::Late(takes, Box::new(Reply::certificate(&maker.certify(request, |_| {}))))
    });
    std::fs::write(file, root.pem()).expect("a file");
    tokio::signal::ctrl_c().await.expect("a signal");
    drop(ca);
}
