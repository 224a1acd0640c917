//! A network of its own for a test: hosts in network namespaces, joined by a bridge that is in yet another one. Nothing of it is in the
//! machine's own network, so the addresses are always the same and in nobody's way. It can be cut, in one direction too, and made to lose.
//!
//! Who makes it needs the right to (root, as a rule) and the programs `ip` and `nft`: ask `require_or_skip!("netns")`.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::daemon::Daemon;
use crate::docker::{Output, run};
use crate::peer;

/// Networks made by this process.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// What the names of all namespaces begin with; the process id of the test follows, so that those of a killed test are known as such.
const PREFIX: &str = "swarmpki-";

/// Every host has this table, with what it does not hear.
const TABLE: &str = "inet swarmpki";

/// The network. Dropping it removes it; what still runs in it has no network then.
pub struct Net {
    name: String,
    hosts: u8,
}

/// `ip`, if networks can be made with it here.
///
/// # Errors
/// One line for a person: what is missing.
pub(crate) fn program() -> Result<PathBuf, String> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOUND.get_or_init(probe).clone()
}

fn probe() -> Result<PathBuf, String> {
    let program = peer::find("ip")?;
    peer::find("nft")?;
    let name = format!("{PREFIX}{}-probe", std::process::id());
    let made = run(Command::new(&program).args(["netns", "add", &name]));
    if made.code != 0 {
        return Err(format!("no right to make a network: {}", made.stderr.trim()));
    }
    let filter = nft(&name, &format!("add table {TABLE}"));
    ip(&["netns", "del", &name]).ok();
    if filter.code == 0 { Ok(program) } else { Err(format!("no packet filter: {}", filter.stderr.trim())) }
}

impl Net {
    /// Makes a network of so many hosts, counted from 1.
    ///
    /// # Panics
    /// If that fails.
    pub fn make(hosts: u8) -> Self {
        remove_leftovers();
        let net =
            Self { name: format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)), hosts };
        let hub = net.name.as_str();
        ip(&["netns", "add", hub]).ok();
        ip(&["-n", hub, "link", "add", "bridge", "type", "bridge"]).ok();
        ip(&["-n", hub, "link", "set", "bridge", "up"]).ok();
        for n in 1..=hosts {
            let (host, port) = (net.namespace(n), format!("port{n}"));
            ip(&["netns", "add", &host]).ok();
            ip(&["link", "add", "eth0", "netns", &host, "type", "veth", "peer", "name", &port, "netns", hub]).ok();
            ip(&["-n", hub, "link", "set", &port, "master", "bridge", "up"]).ok();
            ip(&["-n", &host, "addr", "add", &format!("{}/24", net.host(n)), "dev", "eth0"]).ok();
            for link in ["eth0", "lo"] {
                ip(&["-n", &host, "link", "set", link, "up"]).ok();
            }
            nft(&host, &format!("add table {TABLE}")).ok();
            nft(&host, &format!("add chain {TABLE} in {{ type filter hook input priority 0; }}")).ok();
        }
        net
    }

    /// The address of a host.
    ///
    /// # Panics
    /// If there is no such host.
    pub fn host(&self, n: u8) -> Ipv4Addr {
        assert!((1..=self.hosts).contains(&n), "hosts are 1 to {}, not {n}", self.hosts);
        Ipv4Addr::new(10, 77, 0, n)
    }

    /// Starts our daemon on a host. Its API is reached as if it were here.
    ///
    /// # Panics
    /// As [`Daemon::start`].
    pub fn daemon(&self, n: u8, name: &str) -> Daemon {
        let ip = peer::find("ip").expect("ip, after require_or_skip!(\"netns\")").into_os_string();
        let command = vec![ip, "netns".into(), "exec".into(), self.namespace(n).into()];
        Daemon::start_under(command, name, Vec::new(), Vec::new())
    }

    /// These hear nothing any more from those: packets are lost, nobody is told.
    ///
    /// # Panics
    /// If the packet filter refuses.
    pub fn deafen(&self, these: &[u8], those: &[u8]) {
        for this in these {
            let from: Vec<_> = those.iter().map(|n| self.host(*n).to_string()).collect();
            nft(&self.namespace(*this), &format!("add rule {TABLE} in ip saddr {{ {} }} drop", from.join(", "))).ok();
        }
    }

    /// These and those hear nothing of each other any more.
    ///
    /// # Panics
    /// As [`deafen`](Self::deafen).
    pub fn cut(&self, these: &[u8], those: &[u8]) {
        self.deafen(these, those);
        self.deafen(those, these);
    }

    /// So many of a hundred packets, 1 to 99, are lost, at random, on every way.
    ///
    /// # Panics
    /// As [`deafen`](Self::deafen).
    pub fn lose(&self, percent: u8) {
        for n in 1..=self.hosts {
            let rule = format!("add rule {TABLE} in ip saddr 10.77.0.0/24 numgen random mod 100 < {percent} drop");
            nft(&self.namespace(n), &rule).ok();
        }
    }

    /// Every packet takes so long. False if this kernel cannot do that.
    pub fn delay(&self, millis: u32) -> bool {
        let Ok(tc) = peer::find("tc") else { return false };
        (1..=self.hosts).all(|n| {
            let (host, delay) = (self.namespace(n), format!("{millis}ms"));
            let line = ["-n", &host, "qdisc", "replace", "dev", "eth0", "root", "netem", "delay", &delay];
            run(Command::new(&tc).args(line)).code == 0
        })
    }

    /// All hear all again.
    ///
    /// # Panics
    /// As [`deafen`](Self::deafen).
    pub fn heal(&self) {
        for n in 1..=self.hosts {
            nft(&self.namespace(n), &format!("flush chain {TABLE} in")).ok();
        }
    }

    fn namespace(&self, n: u8) -> String {
        format!("{}-{n}", self.name)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for n in 1..=self.hosts {
            let _ = ip(&["netns", "del", &self.namespace(n)]);
        }
        let _ = ip(&["netns", "del", &self.name]);
    }
}

/// Removes networks of tests that were killed: their process is gone.
fn remove_leftovers() {
    let listed = ip(&["netns", "list"]).stdout;
    for name in listed.lines().filter_map(|line| line.split(' ').next()) {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another test may remove it at the same time.
            let _ = ip(&["netns", "del", name]);
        }
    }
}

fn ip(args: &[&str]) -> Output {
    run(Command::new(peer::find("ip").expect("ip, after require_or_skip!(\"netns\")")).args(args))
}

fn nft(namespace: &str, rule: &str) -> Output {
    let ip = peer::find("ip").expect("ip, after require_or_skip!(\"netns\")");
    run(Command::new(ip).args(["netns", "exec", namespace, "nft", rule]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::require_or_skip;

    fn hears(net: &Net, from: u8, to: u8) -> bool {
        // A refused connection is an answer too: nobody listens there.
        let connect = format!("exec 3<>/dev/tcp/{}/9", net.host(to));
        let ip = peer::find("ip").unwrap();
        let said = run(Command::new(ip).args([
            "netns",
            "exec",
            &net.namespace(from),
            "timeout",
            "0.3",
            "bash",
            "-c",
            &connect,
        ]));
        said.stderr.contains("refused")
    }

    #[test]
    fn a_network_is_cut_and_heals() {
        require_or_skip!("netns", "timeout", "bash");
        let net = Net::make(3);
        assert!(hears(&net, 1, 2) && hears(&net, 2, 1) && hears(&net, 3, 1));
        net.cut(&[1], &[2]);
        assert!(!hears(&net, 1, 2) && !hears(&net, 2, 1) && hears(&net, 3, 1));
        net.heal();
        assert!(hears(&net, 1, 2));
        net.deafen(&[1], &[2, 3]);
        assert!(!hears(&net, 1, 2), "the answer is not heard");
        assert!(hears(&net, 2, 3));
        net.heal();
        net.lose(99);
        assert!(!(hears(&net, 3, 2) && hears(&net, 3, 1) && hears(&net, 1, 3)));
    }
}
