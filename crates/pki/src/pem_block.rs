//! PEM blocks (RFC 7468 with the headers of RFC 1421): read as leniently as Go does it, written with 64 columns and `\n`.
//!
//! What stands before and between blocks is skipped, and so is a damaged block. Bodies and headers may hold secrets,
//! so every copy made here is wiped.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::dek_info::DEK_INFO;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";
const COLUMNS: usize = 64;
/// Types of blocks that hold a private key.
const KEY_TAGS: [&str; 4] = ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY"];

/// Types of blocks that hold nothing secret.
const PUBLIC_TAGS: [&str; 4] = ["CERTIFICATE", "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST", "PKCS7"];

/// One block.
pub(crate) struct Block {
    tag: String,
    headers: Vec<(String, Zeroizing<String>)>,
    der: Zeroizing<Vec<u8>>,
}

impl Block {
    /// The type: what follows `BEGIN`.
    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }

    /// Names and values, in the text's order.
    pub(crate) fn headers(&self) -> &[(String, Zeroizing<String>)] {
        &self.headers
    }

    /// The body.
    pub(crate) fn der(&self) -> &[u8] {
        &self.der
    }

    /// The body of a block that holds nothing secret, without another copy of it.
    pub(crate) fn into_public_der(mut self) -> Vec<u8> {
        std::mem::take(&mut *self.der)
    }

    /// Whether this is a private key.
    pub(crate) fn is_key(&self) -> bool {
        KEY_TAGS.contains(&self.tag())
    }

    /// Whether this is an encrypted PKCS #8 key.
    pub(crate) fn is_encrypted_pkcs8(&self) -> bool {
        self.tag == "ENCRYPTED PRIVATE KEY"
    }

    /// Whether the body is encrypted the old way, as a `DEK-Info` header says.
    pub(crate) fn is_legacy_encrypted(&self) -> bool {
        self.headers.iter().any(|(name, _)| name == DEK_INFO)
    }

    /// Reads one block, from its BEGIN line to the end of its END line.
    fn read(text: &[u8]) -> Option<Block> {
        let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
        let tag = lines.next()?.strip_prefix(BEGIN)?.strip_suffix(DASHES)?;
        let mut headers = Vec::new();
        let mut body = Zeroizing::new(Vec::with_capacity(text.len()));
        let mut in_headers = true;
        for line in lines {
            if let Some(end) = line.strip_prefix(END) {
                let der = Zeroizing::new(STANDARD.decode(body.as_slice()).ok()?);
                let whole = end.strip_suffix(DASHES)? == tag;
                let tag = std::str::from_utf8(tag).ok()?.to_owned();
                if PUBLIC_TAGS.contains(&tag.as_str()) {
                    // Wiping takes longer than reading.
                    drop(std::mem::take(&mut *body));
                }
                return whole.then_some(Block { tag, headers, der });
            }
            in_headers = in_headers && line.contains(&b':');
            if in_headers {
                let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
                headers.push((name.trim().to_owned(), Zeroizing::new(value.trim().to_owned())));
            } else {
                body.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()));
            }
        }
        None
    }
}

/// The blocks of a text.
pub(crate) struct Blocks<'a> {
    rest: &'a [u8],
}

impl<'a> Blocks<'a> {
    pub(crate) fn of(text: &'a [u8]) -> Self {
        Blocks { rest: text }
    }

    /// What follows the last block given out.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl Iterator for Blocks<'_> {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        // As Go's readers of certificates: blanks in front of a block are none, even on its own line.
        let mut text = self.rest.trim_ascii_start();
        loop {
            let mut begin = line_start(text, BEGIN)?;
            let end = begin + line_start(&text[begin..], END)?;
            let after = end + line_len(&text[end..]);
            // Where several blocks begin before one ends, only the last of them can be whole.
            while let Some(inner) = line_start(&text[begin + 1..end], BEGIN) {
                begin += 1 + inner;
            }
            let block = Block::read(&text[begin..after]);
            text = &text[after..];
            if block.is_some() {
                self.rest = text;
                return block;
            }
        }
    }
}

/// Where `mark` first stands at the start of a line. A text starts a line.
fn line_start(text: &[u8], mark: &[u8]) -> Option<usize> {
    let mut line = 0;
    while line < text.len() {
        if text[line..].starts_with(mark) {
            return Some(line);
        }
        line += line_len(&text[line..]);
    }
    None
}

/// Bytes up to and with the first line feed.
fn line_len(text: &[u8]) -> usize {
    text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |line| line + 1)
}

/// Writes one block that may be secret; the headers in the order given, each on one line.
pub(crate) fn encode<'h>(
    tag: &str,
    headers: impl IntoIterator<Item = (&'h str, &'h str)>,
    der: &[u8],
) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    Zeroizing::new(write(tag, headers, &body))
}

/// Writes one block that may be secret, without headers.
pub(crate) fn encode_plain(tag: &str, der: &[u8]) -> Zeroizing<String> {
    encode(tag, [], der)
}

/// Writes one block that everybody may read, without headers.
pub(crate) fn encode_public(tag: &str, der: &[u8]) -> String {
    write(tag, [], &STANDARD.encode(der))
}

fn write<'h>(tag: &str, headers: impl IntoIterator<Item = (&'h str, &'h str)>, body: &str) -> String {
    let headers: Vec<(&str, &str)> = headers.into_iter().collect();
    let heads: usize = headers.iter().map(|(name, value)| name.len() + value.len() + 3).sum();
    // Enough for all, so that no part is left behind in memory by growing.
    let mut text = String::with_capacity(body.len() + body.len() / COLUMNS + heads + 2 * tag.len() + 64);
    for part in ["-----BEGIN ", tag, "-----\n"] {
        text.push_str(part);
    }
    for (name, value) in &headers {
        for part in [name, ": ", value, "\n"] {
            text.push_str(part);
        }
    }
    if !headers.is_empty() {
        text.push('\n');
    }
    let mut rest = body;
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(COLUMNS));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    for part in ["-----END ", tag, "-----\n"] {
        text.push_str(part);
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(text: &str, expected: &[(&str, &[u8])], rest: &str) {
        let mut blocks = Blocks::of(text.as_bytes());
        let found: Vec<Block> = blocks.by_ref().collect();
        let found: Vec<(&str, &[u8])> = found.iter().map(|block| (block.tag(), block.der())).collect();
        assert_eq!(found, expected, "{text:?}");
        assert_eq!(blocks.rest(), rest.as_bytes(), "{text:?}");
    }

    #[test]
    fn reads_what_is_whole() {
        check("", &[], "");
        check("garbage", &[], "garbage");
        check("-----BEGIN A-----\nAQI=\n-----END A-----", &[("A", &[1, 2])], "");
        check("x\n-----BEGIN A-----\r\nAQI=\r\n-----END A-----\r\ny", &[("A", &[1, 2])], "y");
        check(
            "  \n\t -----BEGIN A-----\nAQI=\n-----END A-----\n  -----BEGIN B-----\nAw==\n-----END B-----",
            &[("A", &[1, 2]), ("B", &[3])],
            "",
        );
        check("x-----BEGIN A-----\nAQI=\n-----END A-----\n", &[], "x-----BEGIN A-----\nAQI=\n-----END A-----\n");
        check("-----BEGIN A-----\n-----END A-----\n", &[("A", &[])], "");
        check(
            "-----BEGIN A-----\nAQI=\n-----END B-----\n-----BEGIN B-----\nAw==\n-----END B-----\n",
            &[("B", &[3])],
            "",
        );
        check("-----BEGIN A-----\n-----BEGIN B-----\nAw==\n-----END B-----\n", &[("B", &[3])], "");
        check("-----BEGIN A-----\n!\n-----END A-----\n-----BEGIN B-----\nAw==\n-----END B-----\n", &[("B", &[3])], "");
    }

    #[test]
    fn headers_come_and_go() {
        let text = encode("A", [("a", "1"), ("b", "x y")], &[7; 60]);
        assert_eq!(text.lines().nth(5).map(str::len), Some(16), "64 columns");
        let block = Blocks::of(text.as_bytes()).next().unwrap();
        let headers: Vec<(&str, &str)> =
            block.headers().iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(headers, [("a", "1"), ("b", "x y")]);
        assert_eq!(block.der(), [7; 60]);
    }
}
