//! What a browser may be led to send: requests over plain TCP that come from a page, or under a name that was made to lead here.
//!
//! - A page of another site can have its reader's browser send requests to this machine. They carry `Origin`; no client of
//!   this API sends that.
//! - A name of its own that suddenly leads to this machine makes the page one of the same site (DNS rebinding). Then `Host` is
//!   that name, and never one of ours.

use std::net::{IpAddr, SocketAddr};

use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http::uri::Authority;

use crate::engine_api::error::ApiError;

/// Port of plain HTTP, where a request names none. Source: RFC 9110 4.2.1.
const HTTP_PORT: u16 = 80;

/// What the requests of one connection are checked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Nothing: no browser comes this way.
    None,
    /// That they come from no page.
    Origin,
    /// That they come from no page, and are meant for this daemon.
    OriginAndHost {
        /// Our end of the connection.
        local: SocketAddr,
        /// Names of this machine besides: what it listens on as it was given, and the machine's own; in small letters.
        names: Vec<String>,
    },
}

impl Guard {
    /// Refuses a request that a browser may have been led to send.
    pub(crate) fn check(&self, head: &Parts) -> Result<(), ApiError> {
        if *self == Self::None {
            return Ok(());
        }
        if head.headers.contains_key(ORIGIN) {
            return Err(ApiError::forbidden("requests from web pages are refused here: this one has an Origin header"));
        }
        let Self::OriginAndHost { local, names } = self else { return Ok(()) };
        let mut hosts = head.headers.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err(ApiError::forbidden("a request over plain TCP needs one Host header"));
        };
        let given = host.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
        let ours = |authority: &Authority| is_ours(authority, *local, names);
        // A proxy's request names the host in its target too, and that counts then (RFC 9112 3.2.2).
        if given.as_ref().is_some_and(ours) && head.uri.authority().is_none_or(ours) {
            return Ok(());
        }
        Err(ApiError::forbidden(format!(
            "this daemon serves plain text and answers to its own address only, {local} or localhost:{}, not to {:?}: use that, or serve the API over TLS",
            local.port(),
            String::from_utf8_lossy(host.as_bytes()),
        )))
    }
}

fn is_ours(authority: &Authority, local: SocketAddr, names: &[String]) -> bool {
    let host = authority.host().to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    if authority.port_u16().unwrap_or(HTTP_PORT) != local.port() || authority.as_str().contains('@') {
        return false;
    }
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse::<IpAddr>();
    match address {
        Ok(address) => {
            let (address, own) = (address.to_canonical(), local.ip().to_canonical());
            address == own || address.is_loopback() && own.is_loopback()
        }
        // RFC 6761 6.3: these lead to loopback, whoever is asked.
        Err(_) => host == "localhost" || host.ends_with(".localhost") || names.iter().any(|name| name == host),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use http::Request;

    fn guard() -> Guard {
        let names = vec!["manager1".to_owned()];
        Guard::OriginAndHost { local: "127.0.0.1:2375".parse().unwrap(), names }
    }

    fn status(guard: &Guard, target: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::get(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        guard.check(&request.body(()).unwrap().into_parts().0).map_or_else(|refused| refused.status.as_u16(), |()| 200)
    }

    #[test]
    fn hosts_that_are_ours() {
        let rows = [
            ("127.0.0.1:2375", 200),
            ("127.8.9.1:2375", 200),
            ("[::1]:2375", 200),
            ("localhost:2375", 200),
            ("LocalHost.:2375", 200),
            ("api.localhost:2375", 200),
            ("manager1:2375", 200),
            ("MANAGER1:2375", 200),
            ("127.0.0.1", 403),
            ("127.0.0.1:80", 403),
            ("localhost:2376", 403),
            ("evil.example:2375", 403),
            ("localhost.evil.example:2375", 403),
            ("notlocalhost:2375", 403),
            ("10.0.0.1:2375", 403),
            ("user@localhost:2375", 403),
            ("", 403),
            ("a b", 403),
        ];
        for (host, expected) in rows {
            assert_eq!(status(&guard(), "/info", &[("host", host)]), expected, "{host:?}");
        }
        assert_eq!(status(&guard(), "/info", &[]), 403);
        assert_eq!(status(&guard(), "/info", &[("host", "localhost:2375"), ("host", "localhost:2375")]), 403);
        assert_eq!(status(&guard(), "http://evil.example:2375/info", &[("host", "localhost:2375")]), 403);
        assert_eq!(status(&guard(), "http://localhost:2375/info", &[("host", "localhost:2375")]), 200);
    }

    #[test]
    fn beyond_loopback_its_own_address_counts_only() {
        let guard = Guard::OriginAndHost { local: "10.0.0.1:80".parse().unwrap(), names: Vec::new() };
        for (host, expected) in [("10.0.0.1", 200), ("10.0.0.1:80", 200), ("127.0.0.1:80", 403), ("10.0.0.2", 403)] {
            assert_eq!(status(&guard, "/info", &[("host", host)]), expected, "{host}");
        }
    }

    #[test]
    fn pages_are_refused_whatever_their_origin() {
        for origin in ["http://localhost:2375", "null", "https://evil.example"] {
            let headers = [("host", "localhost:2375"), ("origin", origin)];
            assert_eq!(status(&guard(), "/info", &headers), 403);
            assert_eq!(status(&Guard::Origin, "/info", &headers), 403);
            assert_eq!(status(&Guard::None, "/info", &headers), 200);
        }
        assert_eq!(status(&Guard::Origin, "/info", &[("host", "evil.example")]), 200);
    }
}
