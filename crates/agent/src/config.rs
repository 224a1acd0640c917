//! What a node is told before it starts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use pki::join_token::JoinToken;
use pki::time::Time;

use crate::keystore::Keystore;
use crate::status::Status;

/// Called after a new identity was installed and published, with the status of that moment. It must not block.
pub type IdentityHook = Arc<dyn Fn(&Status) + Send + Sync>;

/// Says what a node reports of its machine at this moment.
pub type Describe = Arc<dyn Fn() -> Description + Send + Sync>;

/// How to run a node.
#[derive(Clone)]
pub struct Config {
    /// Where the node keeps key, certificate, root and managers: the layout of a Docker Engine's swarm directory.
    pub keystore: Arc<Keystore>,
    /// Managers to try when none of those the cluster told can be reached, as host:port.
    pub managers: Vec<String>,
    /// What the node tells the cluster about its machine: asked at every session and every 20 s, so that a change is
    /// reported by itself. It must not block.
    pub describe: Describe,
    /// Whether this program can be a manager (the daemon can, a program that embeds a node cannot). It marks its calls and
    /// its description so; without the mark our managers refuse it a manager's certificate and refuse to promote it.
    pub can_manage: bool,
    /// Whether this node runs in FIPS mode.
    pub fips: bool,
    /// Where the time comes from.
    pub clock: Arc<dyn Fn() -> Time + Send + Sync>,
    /// Called whenever the identity has changed.
    pub on_identity: Option<IdentityHook>,
}

impl Config {
    /// The usual configuration with its state in `state_dir`.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Config {
            keystore: Arc::new(Keystore::new(state_dir)),
            managers: Vec::new(),
            describe: Arc::new(Description::default),
            can_manage: false,
            fips: false,
            clock: Arc::new(|| Time::from(SystemTime::now())),
            on_identity: None,
        }
    }
}

/// What a node tells the cluster about its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The name shown in node lists.
    pub hostname: String,
    /// The processor, in the words of `uname -m`.
    pub architecture: String,
    /// The operating system, in Go's words: `linux`.
    pub os: String,
    /// The version shown as engine version.
    pub version: String,
    /// Labels shown with the engine. The one that marks our own nodes is added by itself.
    pub labels: BTreeMap<String, String>,
    /// Processors, in billionths.
    pub nano_cpus: i64,
    /// Memory, in bytes.
    pub memory_bytes: i64,
}

impl Default for Description {
    /// What the kernel says of this machine now.
    fn default() -> Self {
        let hostname = nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_else(|| "unknown".to_owned());
        let cpus = std::thread::available_parallelism().map_or(1, |count| i64::try_from(count.get()).unwrap_or(1));
        Description {
            hostname,
            architecture: std::env::consts::ARCH.to_owned(),
            os: std::env::consts::OS.to_owned(),
            version: concat!("swarmpki-", env!("CARGO_PKG_VERSION")).to_owned(),
            labels: BTreeMap::new(),
            nano_cpus: cpus.saturating_mul(1_000_000_000),
            memory_bytes: memory_bytes(),
        }
    }
}

/// The machine's memory as the kernel tells it; 0 if it does not.
fn memory_bytes() -> i64 {
    let Ok(text) = std::fs::read_to_string("/proc/meminfo") else {
        return 0;
    };
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse::<i64>().ok())
        .map_or(0, |kib| kib.saturating_mul(1024))
}

/// What an operator wants of a node as to work; a cluster of `swarmpki` nodes only keeps and shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Availability {
    /// Takes tasks.
    #[default]
    Active,
    /// Takes no new tasks.
    Pause,
    /// Takes none and gives away those it has.
    Drain,
}

impl Availability {
    /// The number on the wire.
    #[must_use]
    pub const fn wire(self) -> i32 {
        match self {
            Availability::Active => 0,
            Availability::Pause => 1,
            Availability::Drain => 2,
        }
    }
}

/// How to join a cluster. There is no way to join without a token: its digest is what makes the root trustworthy.
pub struct JoinRequest {
    /// The token, as the cluster printed it. It decides the role.
    pub token: JoinToken,
    /// Managers to ask, as host:port, tried in order.
    pub addrs: Vec<String>,
    /// The availability to start with. In a real Docker swarm a node that runs no containers asks for `Drain`.
    pub availability: Availability,
}

impl JoinRequest {
    /// Joins with `token` at one of `addrs`, with availability `Active`.
    pub fn new<A: Into<String>>(token: JoinToken, addrs: impl IntoIterator<Item = A>) -> Self {
        JoinRequest { token, addrs: addrs.into_iter().map(Into::into).collect(), availability: Availability::Active }
    }
}
