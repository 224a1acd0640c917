//! Asks a CFSSL sign endpoint for certificates over connections that stay, and says how many a second it gave and at what
//! cost of its process. For `swarmpki ca serve` and for real cfssl alike. It takes as little as it can of the processor that both share:
//! requests are made before the clock starts, and of an answer it looks at the status, the length and that a certificate is in it.
//!
//! ```text
//! load make DIR                           two roots, a manager's leaf and a server's, cfssl's configuration
//! load run DIR ADDR PID CONNECTIONS SECONDS
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use pki::Serial;
use pki::certificate::Certificate;
use pki::identity::Role;
use pki::issue::{self, ServerLeaf};
use pki::key::{PrivateKey, Signer as _};
use support::{CLUSTER, Node, Root, node_id, now, request};

/// Requests made before the clock starts, each with a key of its own.
const REQUESTS: usize = 64;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["make", dir] => make(Path::new(dir)),
        ["run", dir, addr, pid, connections, seconds] => {
            let seconds = Duration::from_secs(seconds.parse().unwrap());
            // One thread: the server is to have the rest of the machine.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(Path::new(dir), addr.parse().unwrap(), pid, connections.parse().unwrap(), seconds));
        }
        _ => panic!("load make DIR | load run DIR ADDR PID CONNECTIONS SECONDS"),
    }
}

fn make(dir: &Path) {
    let (ca, former) = (Root::new(), Root::new());
    let manager = former.leaf(CLUSTER, Role::Manager, &node_id(1), now());
    let key = support::key();
    let leaf = ServerLeaf {
        common_name: "server",
        dns_names: vec!["localhost".into()],
        addresses: vec!["127.0.0.1".parse().unwrap()],
        serial: Serial::from_random([9; 20]),
        not_before: ca.certificate.not_before(),
        not_after: ca.certificate.not_after(),
    };
    let server = issue::server_leaf(key.public(), &leaf, &ca.certificate, &ca.key).unwrap();
    let config = r#"{"signing":{"default":{"expiry":"2160h","usages":["signing","key encipherment","server auth","client auth"]}}}"#;
    let files = [
        ("ca.crt", ca.certificate.pem()),
        ("ca.key", ca.key.sec1_pem().unwrap().expose().to_owned()),
        ("former.crt", former.certificate.pem()),
        ("manager.crt", manager.chain[0].pem()),
        ("manager.key", manager.key.pkcs8_pem().expose().to_owned()),
        ("server.crt", server.pem()),
        ("server.key", key.sec1_pem().unwrap().expose().to_owned()),
        ("cfssl.json", config.to_owned()),
    ];
    for (name, text) in files {
        std::fs::write(dir.join(name), text).unwrap();
    }
}

async fn run(dir: &Path, addr: SocketAddr, pid: &str, connections: usize, span: Duration) {
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let certificate = |name: &str| Certificate::parse_pem_bundle(&read(name)).unwrap().remove(0);
    let ca = certificate("ca.crt");
    let manager = Node {
        chain: vec![certificate("manager.crt")],
        key: PrivateKey::from_pem(&read("manager.key"), None).unwrap(),
    };
    let make = |n: usize| {
        let body = request(CLUSTER, Role::Worker, &node_id(n as u64)).to_string();
        let length = body.len();
        format!(
            "POST {} HTTP/1.1\r\nhost: ca\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}",
            support::SIGN
        )
    };
    let requests: Arc<Vec<String>> = Arc::new((0..REQUESTS).map(make).collect());
    let tls = tokio_rustls::TlsConnector::from(manager.tls(&ca, &[]));
    let done = Arc::new(AtomicU64::new(0));
    for connection in 0..connections {
        let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut stream = tls.connect(addr.ip().into(), stream).await.unwrap();
        let (requests, done) = (Arc::clone(&requests), Arc::clone(&done));
        tokio::spawn(async move {
            let mut answer = Vec::with_capacity(16 * 1024);
            for n in connection.. {
                stream.write_all(requests[n % REQUESTS].as_bytes()).await.unwrap();
                answer.clear();
                while !is_whole(&answer) {
                    assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "{}", String::from_utf8_lossy(&answer));
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    // Warm: every connection has had an answer.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (begin, before, cpu) = (Instant::now(), done.load(Ordering::Relaxed), cpu_ms(pid));
    tokio::time::sleep(span).await;
    let (took, count) = (begin.elapsed(), done.load(Ordering::Relaxed) - before);
    let cpu = cpu_ms(pid) - cpu;
    println!(
        "{:.0} a second, {:.3} ms of the server's processor time each ({count} in {took:.2?} over {connections} connections)",
        count as f64 / took.as_secs_f64(),
        cpu / count as f64,
    );
}

/// Whether an answer with a certificate is there to its end.
fn is_whole(answer: &[u8]) -> bool {
    let text = std::str::from_utf8(answer).unwrap();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().unwrap())
    };
    if body.len() < head.lines().find_map(length).unwrap() {
        return false;
    }
    assert!(head.starts_with("HTTP/1.1 200 ") && body.contains("BEGIN CERTIFICATE"), "{text}");
    true
}

/// User and system time of a process, in milliseconds.
fn cpu_ms(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks * 10.0
}
