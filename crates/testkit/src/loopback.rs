//! Loopback addresses that no other test uses at the same time.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Who holds this port of `127.a.b.254` owns the network `127.a.b.0/24`. The kernel gives it back when the test's process ends, however it ends.
const CLAIM_PORT: u16 = 23_770;

/// A `/24` of loopback, one test's own while the value lives: every host of it may listen on the same port, 2377 say.
pub struct Loopback {
    network: [u8; 2],
    _claim: TcpListener,
}

impl Loopback {
    /// Takes a free network.
    ///
    /// # Panics
    /// If all are taken.
    pub fn claim() -> Self {
        // Start at another place in each process, so that tests that start together do not queue for the same ones.
        let start = std::process::id() as usize * 7;
        let count = 100 * 250;
        for n in 0..count {
            let place = (start + n) % count;
            let network = [
                u8::try_from(100 + place / 250).expect("below 200"),
                u8::try_from(1 + place % 250).expect("below 251"),
            ];
            let address = Ipv4Addr::new(127, network[0], network[1], 254);
            if let Ok(claim) = TcpListener::bind((address, CLAIM_PORT)) {
                return Self { network, _claim: claim };
            }
        }
        panic!("no free loopback network")
    }

    /// A host of the network, 1 to 253.
    ///
    /// # Panics
    /// Outside that.
    pub fn host(&self, n: u8) -> Ipv4Addr {
        assert!((1..=253).contains(&n), "hosts are 1 to 253, not {n}");
        Ipv4Addr::new(127, self.network[0], self.network[1], n)
    }

    /// `HOST:2377`, the swarm port of a host.
    pub fn swarm(&self, n: u8) -> String {
        format!("{}:2377", self.host(n))
    }

    /// A port of a host that nobody listens on now.
    ///
    /// # Panics
    /// If there is none.
    pub fn free_port(&self, n: u8) -> SocketAddr {
        TcpListener::bind((self.host(n), 0)).and_then(|listener| listener.local_addr()).expect("a free port")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_claims_never_share_a_network() {
        let (one, two) = (Loopback::claim(), Loopback::claim());
        assert_ne!(one.host(1), two.host(1));
        assert!(one.host(1).is_loopback());
        assert_eq!(one.swarm(9), format!("{}:2377", one.host(9)));
    }

    #[test]
    fn a_dropped_claim_can_be_taken_again() {
        let one = Loopback::claim();
        let address = (Ipv4Addr::new(127, one.network[0], one.network[1], 254), CLAIM_PORT);
        assert!(TcpListener::bind(address).is_err());
        drop(one);
        assert!(TcpListener::bind(address).is_ok());
    }

    #[test]
    fn a_free_port_can_be_bound() {
        let net = Loopback::claim();
        let port = net.free_port(3);
        assert_eq!(port.ip(), net.host(3));
        assert!(TcpListener::bind(port).is_ok());
    }
}
