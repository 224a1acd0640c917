//! The URL of an external CA, read so that nobody reads it otherwise.
//!
//! Docker hands URLs to Go, we to the `url` crate, and the two forgive different things: one takes `https:host` for a
//! host, the other for an opaque text. What either refuses, or both read differently, is no URL here.

use std::fmt;

use reqwest::Url;

/// Bytes of the longest URL that is read.
pub const URL_BYTES_MAX: usize = 2_048;
/// The port if the URL names none. Source: pki.md 11.5.
const HTTPS_PORT: u16 = 443;

/// A URL that an external CA can be asked at: `https`, a host, perhaps a port and a path.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    text: String,
    url: Url,
    host: String,
    port: u16,
}

/// Why a text is no URL of an external CA.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidUrl {
    /// Longer than [`URL_BYTES_MAX`].
    #[error("the URL is longer than {max} bytes", max = URL_BYTES_MAX)]
    TooLong,
    /// Another scheme, or none.
    #[error("invalid URL scheme: an external CA is asked over https only")]
    Scheme,
    /// Blanks, control characters, backslashes or letters beyond ASCII.
    #[error("the URL holds a character that is not allowed in one: {0:?}")]
    Character(char),
    /// A user or a password.
    #[error("a URL with a user or a password is not accepted: we are known by our certificate")]
    User,
    /// No host, or none that everybody reads alike.
    #[error("the URL names no valid host")]
    Host,
    /// The port is no number from 1 to 65535, or there are too many colons.
    #[error("the URL names no valid port")]
    Port,
    /// Anything else.
    #[error("the URL cannot be read: {0}")]
    Other(String),
}

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`InvalidUrl`].
    pub fn parse(text: &str) -> Result<Address, InvalidUrl> {
        if text.len() > URL_BYTES_MAX {
            return Err(InvalidUrl::TooLong);
        }
        if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic() || *c == '\\') {
            return Err(InvalidUrl::Character(bad));
        }
        let (scheme, rest) = text.split_once("://").ok_or(InvalidUrl::Scheme)?;
        if !scheme.eq_ignore_ascii_case("https") {
            return Err(InvalidUrl::Scheme);
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(InvalidUrl::User);
        }
        let (host, port) = split_authority(authority)?;
        if let Some(at) = escapes_badly(path) {
            return Err(InvalidUrl::Other(format!("invalid escape {at:?}")));
        }
        let url = Url::parse(text).map_err(|error| InvalidUrl::Other(error.to_string()))?;
        let read = url.host_str().unwrap_or_default();
        let bare = read.strip_prefix('[').and_then(|read| read.strip_suffix(']')).unwrap_or(read);
        let same = match host.parse::<std::net::Ipv6Addr>() {
            Ok(ip) => bare.parse() == Ok(ip),
            Err(_) => bare.eq_ignore_ascii_case(host),
        };
        if !same || url.port_or_known_default() != Some(port) {
            return Err(InvalidUrl::Host);
        }
        Ok(Address { text: text.to_owned(), host: bare.to_owned(), port, url })
    }

    /// The URL as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host: a name or an address, an IPv6 one without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Host without brackets, and port.
fn split_authority(authority: &str) -> Result<(&str, u16), InvalidUrl> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(inside) => inside.split_once(']').ok_or(InvalidUrl::Host)?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    if host.is_empty() || host.contains('%') {
        return Err(InvalidUrl::Host);
    }
    // As Go reads it, a colon with nothing after it names no port.
    let port = match rest {
        "" | ":" => HTTPS_PORT,
        port => {
            let digits = port.strip_prefix(':').ok_or(InvalidUrl::Host)?;
            let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|port| all_digits && *port != 0).ok_or(InvalidUrl::Port)?
        }
    };
    Ok((host, port))
}

/// The first `%` that two hex digits do not follow: Go refuses it.
fn escapes_badly(path: &str) -> Option<&str> {
    path.match_indices('%').find_map(|(at, _)| {
        let digits = path.get(at + 1..at + 3);
        let good = digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        (!good).then(|| path.get(at..at + 3).unwrap_or("%"))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn urls_are_read_as_go_reads_them() {
        let rows = [
            ("https://127.0.32.1:8888/api/v1/cfssl/sign", "127.0.32.1", 8888),
            ("HTTPS://ca.example/x", "ca.example", 443),
            ("https://CA.example:443", "ca.example", 443),
            ("https://ca.example:/x", "ca.example", 443),
            ("https://[::1]:9/", "::1", 9),
            ("https://ca.example?x=%20", "ca.example", 443),
        ];
        for (text, host, port) in rows {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.host(), address.port(), address.as_str()), (host, port, text));
        }
    }

    #[test]
    fn c257_bad_urls() {
        let rows = [
            ("invalidurl", InvalidUrl::Scheme),
            ("", InvalidUrl::Scheme),
            ("http://ca.example/", InvalidUrl::Scheme),
            ("https:ca.example", InvalidUrl::Scheme),
            ("https:/ca.example", InvalidUrl::Scheme),
            ("//ca.example", InvalidUrl::Scheme),
            ("https:///ca.example", InvalidUrl::Host),
            ("https://:443/", InvalidUrl::Host),
            ("https://a:b:c:1/", InvalidUrl::Port),
            ("https://1:2:3:4", InvalidUrl::Port),
            ("https://ca:0/", InvalidUrl::Port),
            ("https://ca:65536/", InvalidUrl::Port),
            ("https://ca:+1/", InvalidUrl::Port),
            ("https://[::1/", InvalidUrl::Host),
            ("https://[::1]x/", InvalidUrl::Host),
            ("https://0x7f.1/", InvalidUrl::Host),
            ("https://2130706433/", InvalidUrl::Host),
            ("https://user:secret@ca/", InvalidUrl::User),
            ("https://ca\\x/", InvalidUrl::Character('\\')),
            ("https://ca /", InvalidUrl::Character(' ')),
            ("https://ca/\n", InvalidUrl::Character('\n')),
            ("https://bücher/", InvalidUrl::Character('ü')),
            ("https://%63a/", InvalidUrl::Host),
            ("https://ca/%zz", InvalidUrl::Other("invalid escape \"%zz\"".to_owned())),
        ];
        for (text, why) in rows {
            assert_eq!(Address::parse(text), Err(why), "{text}");
        }
        assert_eq!(Address::parse(&format!("https://ca/{}", "a".repeat(2_048))), Err(InvalidUrl::TooLong));
    }
}
