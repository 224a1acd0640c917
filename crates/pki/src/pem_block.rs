//! PEM blocks: lenient reading as Go does it, and writing with 64 columns and `\n`.

use pem::{EncodeConfig, LineEnding, Pem};

use crate::secret::SecretString;

/// The blocks of a text, whatever stands before and between them; a damaged block is skipped, as Go does.
pub(crate) struct Blocks<'a> {
    rest: &'a [u8],
}

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";

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
    type Item = Pem;

    fn next(&mut self) -> Option<Pem> {
        let mut text = self.rest;
        loop {
            let first = line_start(text, BEGIN)?;
            let end = first + line_start(&text[first..], END)?;
            let end_of_line = text[end..].iter().position(|byte| *byte == b'\n');
            let after = end_of_line.map_or(text.len(), |line| end + line + 1);
            // Where several blocks begin before one ends, only the last of them can be whole.
            let mut begin = first;
            while let Some(inner) = line_start(&text[begin + BEGIN.len()..end], BEGIN) {
                begin += BEGIN.len() + inner;
            }
            let block = pem::parse(&text[begin..after]);
            text = &text[after..];
            if let Ok(block) = block {
                self.rest = text;
                return Some(block);
            }
        }
    }
}

/// Where `mark` first stands at the start of a line.
fn line_start(text: &[u8], mark: &[u8]) -> Option<usize> {
    let mut line = 0;
    while line < text.len() {
        if text[line..].starts_with(mark) {
            return Some(line);
        }
        line += text[line..].iter().position(|byte| *byte == b'\n')? + 1;
    }
    None
}

/// A private-key block. Wiped on drop.
pub(crate) struct KeyBlock {
    tag: String,
    legacy: bool,
    der: crate::secret::SecretBytes,
    headers: Vec<(String, String)>,
}

impl KeyBlock {
    /// `ENCRYPTED PRIVATE KEY`.
    pub(crate) fn encrypted(&self) -> bool {
        self.tag == "ENCRYPTED PRIVATE KEY"
    }

    /// Encrypted the old way, by a `DEK-Info` header.
    pub(crate) fn legacy_encryption(&self) -> bool {
        self.legacy
    }

    pub(crate) fn der(&self) -> &[u8] {
        self.der.expose()
    }

    /// The block's headers, in the file's order.
    pub(crate) fn headers(&self) -> &[(String, String)] {
        &self.headers
    }
}

const KEY_TAGS: [&str; 4] = ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY"];

/// The private-key blocks of `text`.
pub(crate) fn private_keys(text: &[u8]) -> Vec<KeyBlock> {
    Blocks::of(text)
        .filter(|block| KEY_TAGS.contains(&block.tag()))
        .map(|block| {
            let headers: Vec<(String, String)> = block
                .headers()
                .iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            KeyBlock {
                tag: block.tag().to_owned(),
                legacy: headers.iter().any(|(name, _)| name == "DEK-Info"),
                headers,
                der: crate::secret::SecretBytes::new(block.into_contents()),
            }
        })
        .collect()
}

const CONFIG: EncodeConfig = EncodeConfig::new().set_line_ending(LineEnding::LF).set_line_wrap(64);

/// One block without headers.
pub(crate) fn encode(tag: &str, der: &[u8]) -> String {
    pem::encode_config(&Pem::new(tag, der), CONFIG)
}

/// One block without headers that holds a secret.
pub(crate) fn encode_secret(tag: &str, der: &[u8]) -> SecretString {
    SecretString::new(encode(tag, der))
}
