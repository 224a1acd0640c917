//! Listen, advertise and data path addresses: parsing and detection, with the engine's texts (engine-api.md 2.1, 6.3).

use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::engine_api::error::ApiError;

/// Port of cluster traffic when none is named.
pub const CLUSTER_PORT: u16 = 2377;

const BAD_LISTEN: &str = "listen address must be an IP address or network interface (with optional port number)";
const BAD_ADVERTISE: &str =
    "advertise address must be a non-zero IP address or network interface (with optional port number)";
const BAD_DATA_PATH: &str =
    "data path address must be a non-zero IP address or network interface (without a port number)";
const NO_SYSTEM_ADDRESS: &str = "could not find the system's IP address";

/// One network interface, as far as addresses are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether addresses may be chosen from it by themselves: it is up, not loopback and no container bridge.
    pub eligible: bool,
    /// Its addresses, in the kernel's order, without IPv6 link-local ones.
    pub addresses: Vec<IpAddr>,
}

/// The machine's interfaces.
pub fn interfaces() -> Vec<Interface> {
    use nix::net::if_::InterfaceFlags;
    let mut found: Vec<Interface> = Vec::new();
    for entry in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let eligible = entry.flags.contains(InterfaceFlags::IFF_UP)
            && !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK)
            && !is_bridge(&entry.interface_name);
        let address = entry.address.as_ref().and_then(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        });
        let at = match found.iter().position(|known| known.name == entry.interface_name) {
            Some(at) => at,
            None => {
                found.push(Interface { name: entry.interface_name, eligible, addresses: Vec::new() });
                found.len() - 1
            }
        };
        if let (Some(interface), Some(address)) = (found.get_mut(at), address.filter(|address| !is_link_local(address)))
        {
            interface.addresses.push(address);
        }
    }
    found
}

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80)
}

/// Bridges of containers carry addresses no other machine reaches.
fn is_bridge(name: &str) -> bool {
    std::path::Path::new("/sys/class/net").join(name).join("bridge").exists()
}

/// The addresses of an init, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What other nodes are told.
    pub advertise: SocketAddr,
}

impl Addresses {
    /// The same with the port that a listener on port 0 was given.
    pub(crate) fn with_port(mut self, port: u16) -> Self {
        if self.advertise.port() == self.listen.port() {
            self.advertise.set_port(port);
        }
        self.listen.set_port(port);
        self
    }
}

/// Resolves the three addresses of an init. `listen` has passed [`parse_tcp`].
pub fn resolve(
    listen: &str,
    advertise: &str,
    data_path: &str,
    interfaces: &[Interface],
) -> Result<Addresses, ApiError> {
    let listen = resolve_listen(listen, interfaces)?;
    let advertise = resolve_advertise(advertise, listen, interfaces)?;
    if !data_path.is_empty() {
        resolve_data_path(data_path, interfaces)?;
    }
    Ok(Addresses { listen, advertise })
}

/// Reads `[tcp://]host[:port]`, with defaults for what is missing. `what` names the field in the error text.
pub fn parse_tcp(what: &str, text: &str, default_host: &str) -> Result<String, ApiError> {
    let invalid = |reason: &str| ApiError::bad_request(format!("invalid {what} {text:?}: {reason}"));
    let rest = text.strip_prefix("tcp://").unwrap_or(text);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.is_empty() {
        return Err(invalid("invalid empty address"));
    }
    if rest.contains("://") || rest.contains('/') {
        return Err(invalid("expected host or host:port"));
    }
    let (host, port) = split_port(rest).ok_or_else(|| invalid("too many colons in address"))?;
    let port = match port {
        None | Some("") => CLUSTER_PORT,
        Some(port) => port.parse().map_err(|_| invalid("invalid port"))?,
    };
    let host = if host.is_empty() { default_host } else { host };
    Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// Splits `host[:port]`, `[v6][:port]` or a bare IPv6 address; `None` if it is none of these.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(inner) = text.strip_prefix('[') {
        let (host, rest) = inner.split_once(']')?;
        return match rest {
            "" => Some((host, None)),
            _ => rest.strip_prefix(':').map(|port| (host, Some(port))),
        };
    }
    match text.matches(':').count() {
        0 => Some((text, None)),
        1 => text.split_once(':').map(|(host, port)| (host, Some(port))),
        _ => text.parse::<IpAddr>().ok().map(|_| (text, None)),
    }
}

/// Resolves a listen address: interface name or IP, with optional port.
pub fn resolve_listen(text: &str, interfaces: &[Interface]) -> Result<SocketAddr, ApiError> {
    let text = parse_tcp("ListenAddr", text, "0.0.0.0")?;
    let unparsable = || ApiError::bad_request(format!("could not parse listen address {text}"));
    let (host, port) = split_port(&text).ok_or_else(unparsable)?;
    let port = port.and_then(|port| port.parse().ok()).ok_or_else(unparsable)?;
    match named(host, interfaces)? {
        Some(address) => Ok(SocketAddr::new(address, port)),
        None => {
            host.parse().map(|address| SocketAddr::new(address, port)).map_err(|_| ApiError::bad_request(BAD_LISTEN))
        }
    }
}

/// Resolves an advertise address; empty: the listen address if it is a definite one, else the machine's only one.
pub fn resolve_advertise(text: &str, listen: SocketAddr, interfaces: &[Interface]) -> Result<SocketAddr, ApiError> {
    if text.is_empty() {
        let address = if listen.ip().is_unspecified() { system_address(interfaces)? } else { listen.ip() };
        return Ok(SocketAddr::new(address, listen.port()));
    }
    let bad = || ApiError::bad_request(BAD_ADVERTISE);
    let (host, port) = split_port(text).ok_or_else(bad)?;
    let port = port.map_or(Ok(listen.port()), |port| port.parse().map_err(|_| bad()))?;
    let address = match named(host, interfaces)? {
        Some(address) => address,
        None => host.parse().ok().filter(|address: &IpAddr| !address.is_unspecified()).ok_or_else(bad)?,
    };
    Ok(SocketAddr::new(address, port))
}

fn resolve_data_path(text: &str, interfaces: &[Interface]) -> Result<IpAddr, ApiError> {
    match named(text, interfaces)? {
        Some(address) => Ok(address),
        None => text
            .parse()
            .ok()
            .filter(|address: &IpAddr| !address.is_unspecified())
            .ok_or_else(|| ApiError::bad_request(BAD_DATA_PATH)),
    }
}

/// The address of the interface with this name, if there is one: its only IPv4 address, else its only IPv6 address.
fn named(name: &str, interfaces: &[Interface]) -> Result<Option<IpAddr>, ApiError> {
    let Some(interface) = interfaces.iter().find(|interface| interface.name == name) else { return Ok(None) };
    for (version, v4) in [("IPv4", true), ("IPv6", false)] {
        let mut addresses = interface.addresses.iter().filter(|address| address.is_ipv4() == v4);
        match (addresses.next(), addresses.next()) {
            (Some(first), Some(second)) => {
                return Err(ApiError::bad_request(format!(
                    "interface {name} has more than one {version} address ({first} and {second})"
                )));
            }
            (Some(only), None) => return Ok(Some(*only)),
            (None, _) => {}
        }
    }
    Err(ApiError::bad_request(format!("interface {name} has no usable IPv4 or IPv6 address")))
}

/// The only address of the machine that other machines may reach; IPv4 before IPv6.
pub fn system_address(interfaces: &[Interface]) -> Result<IpAddr, ApiError> {
    let eligible = || interfaces.iter().filter(|interface| interface.eligible);
    for v4 in [true, false] {
        let mut addresses = eligible()
            .flat_map(|interface| interface.addresses.iter().map(move |address| (interface.name.as_str(), *address)))
            .filter(|(_, address)| address.is_ipv4() == v4);
        match (addresses.next(), addresses.next()) {
            (Some((first_name, first)), Some((second_name, second))) => {
                let lead = "could not choose an IP address to advertise since this system has multiple addresses on";
                return Err(ApiError::bad_request(if first_name == second_name {
                    format!("{lead} interface {first_name} ({first} and {second})")
                } else {
                    format!("{lead} different interfaces ({first} on {first_name} and {second} on {second_name})")
                }));
            }
            (Some((_, only)), None) => return Ok(only),
            (None, _) => {}
        }
    }
    Err(ApiError::bad_request(NO_SYSTEM_ADDRESS))
}

/// The address this machine uses towards `remote` (host:port with a numeric host). Sends nothing.
pub fn local_towards(remote: &str) -> Option<IpAddr> {
    let remote: SocketAddr = remote.parse().ok()?;
    let any: SocketAddr = if remote.is_ipv4() { "0.0.0.0:0".parse().ok()? } else { "[::]:0".parse().ok()? };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(remote).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn interface(name: &str, eligible: bool, addresses: &[&str]) -> Interface {
        Interface {
            name: name.into(),
            eligible,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn check(
        listen: &str,
        advertise: &str,
        data_path: &str,
        interfaces: &[Interface],
        expected: Result<(&str, &str), &str>,
    ) {
        let found = resolve(listen, advertise, data_path, interfaces);
        let found =
            found.map(|found| (found.listen.to_string(), found.advertise.to_string())).map_err(|error| error.message);
        let expected =
            expected.map(|(listen, advertise)| (listen.to_owned(), advertise.to_owned())).map_err(str::to_owned);
        assert_eq!(found, expected, "{listen:?} {advertise:?} {data_path:?}");
    }

    #[test]
    fn listen_and_advertise() {
        let one = [interface("lo", false, &["127.0.0.1", "::1"]), interface("eth0", true, &["10.0.0.5", "fd00::5"])];
        type Row = (&'static str, &'static str, &'static str, Result<(&'static str, &'static str), &'static str>);
        let rows: [Row; 19] = [
            ("0.0.0.0:2377", "10.0.0.9", "", Ok(("0.0.0.0:2377", "10.0.0.9:2377"))),
            ("0.0.0.0:2377", "", "", Ok(("0.0.0.0:2377", "10.0.0.5:2377"))),
            ("tcp://0.0.0.0:99", "eth0", "", Ok(("0.0.0.0:99", "10.0.0.5:99"))),
            ("eth0", "eth0:7", "", Ok(("10.0.0.5:2377", "10.0.0.5:7"))),
            ("lo:1", "", "", Ok(("127.0.0.1:1", "127.0.0.1:1"))),
            ("127.0.0.1:2377", "", "", Ok(("127.0.0.1:2377", "127.0.0.1:2377"))),
            (":2377", "1.2.3.4", "", Ok(("0.0.0.0:2377", "1.2.3.4:2377"))),
            ("[::]:2377", "[fd00::1]:5", "", Ok(("[::]:2377", "[fd00::1]:5"))),
            ("fd00::5", "fd00::6", "", Ok(("[fd00::5]:2377", "[fd00::6]:2377"))),
            ("0.0.0.0:2377", "1.1.1.1", "10.0.0.5", Ok(("0.0.0.0:2377", "1.1.1.1:2377"))),
            ("", "", "", Err("invalid ListenAddr \"\": invalid empty address")),
            ("nosuchif:2377", "", "", Err(BAD_LISTEN)),
            ("0.0.0.0:2377", "nosuchif", "", Err(BAD_ADVERTISE)),
            ("0.0.0.0:2377", "0.0.0.0", "", Err(BAD_ADVERTISE)),
            ("0.0.0.0:2377", "[::]", "", Err(BAD_ADVERTISE)),
            ("0.0.0.0:2377", "1.1.1.1:x", "", Err(BAD_ADVERTISE)),
            ("0.0.0.0:2377", "1.1.1.1", "nosuch", Err(BAD_DATA_PATH)),
            ("0.0.0.0:2377", "1.1.1.1", "0.0.0.0", Err(BAD_DATA_PATH)),
            ("1.2.3.4:99999", "", "", Err("invalid ListenAddr \"1.2.3.4:99999\": invalid port")),
        ];
        for (listen, advertise, data_path, expected) in rows {
            check(listen, advertise, data_path, &one, expected);
        }
    }

    #[test]
    fn detection() {
        let any = "0.0.0.0:2377";
        check(any, "", "", &[interface("lo", false, &["127.0.0.1"])], Err(NO_SYSTEM_ADDRESS));
        check(any, "", "", &[interface("e", true, &["fd00::1"])], Ok((any, "[fd00::1]:2377")));
        check(
            any,
            "",
            "",
            &[interface("e", true, &["1.1.1.1", "1.1.1.2"])],
            Err(
                "could not choose an IP address to advertise since this system has multiple addresses on interface e (1.1.1.1 and 1.1.1.2)",
            ),
        );
        check(
            any,
            "",
            "",
            &[interface("e", true, &["1.1.1.1"]), interface("f", true, &["2.2.2.2"])],
            Err(
                "could not choose an IP address to advertise since this system has multiple addresses on different interfaces (1.1.1.1 on e and 2.2.2.2 on f)",
            ),
        );
        check(any, "e", "", &[interface("e", true, &[])], Err("interface e has no usable IPv4 or IPv6 address"));
        check(
            any,
            "e",
            "",
            &[interface("e", true, &["1.1.1.1", "1.1.1.2"])],
            Err("interface e has more than one IPv4 address (1.1.1.1 and 1.1.1.2)"),
        );
    }

    #[test]
    fn remote_addresses() {
        let rows = [
            ("127.0.2.1", Ok("127.0.2.1:2377")),
            ("127.0.2.1:99", Ok("127.0.2.1:99")),
            ("manager.example", Ok("manager.example:2377")),
            ("::1", Ok("[::1]:2377")),
            ("", Err("invalid remoteAddr \"\": invalid empty address")),
        ];
        for (text, expected) in rows {
            let found = parse_tcp("remoteAddr", text, "127.0.0.1").map_err(|error| error.message);
            assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn this_machine_has_a_loopback_interface() {
        let found = interfaces();
        let lo = found.iter().find(|interface| interface.name == "lo").expect("lo");
        assert!(!lo.eligible && lo.addresses.contains(&"127.0.0.1".parse().unwrap()), "{found:?}");
        assert_eq!(local_towards("127.0.0.1:1"), Some("127.0.0.1".parse().unwrap()));
    }
}
