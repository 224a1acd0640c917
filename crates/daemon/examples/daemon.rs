//! A bare daemon: `cargo run -p swarmpki-daemon --example daemon -- STATE_DIR HOST…`
//!
//! The product's own command is `swarmpki daemon`; this one shows that a daemon is a function of its configuration.

use std::error::Error;

use swarmpki_daemon::{Daemon, DaemonConfig};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let mut arguments = std::env::args().skip(1);
    let state_dir = arguments.next().ok_or("usage: daemon STATE_DIR HOST…")?.into();
    let hosts = arguments.map(|host| host.parse()).collect::<Result<_, _>>()?;
    let config = DaemonConfig { state_dir, hosts, ..DaemonConfig::default() };
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    });
    Ok(Daemon::start(config, shutdown).await?.serve().await?)
}
