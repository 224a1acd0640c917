//! What parent and child say to each other: one record a message, a message of a request's number, its kind and its fields.
//!
//! Both ends are the same program, but not always the same version of it: a program may be replaced while a daemon of before runs, and
//! the next child is of the new one. So both first say which version they speak, in a message whose form never changes, and nothing else
//! is said unless they agree.
//!
//! Each end treats the other's bytes as foreign: lengths are bounded before anything is allocated, and what does not parse ends the
//! connection. A message may hold the PIN, or a key to be imported: they are wiped when dropped.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use pki::key::{KeyKind, SignatureAlgorithm};
use pki::{SecretBytes, SecretString, SpkiHash};
use zeroize::Zeroizing;

use crate::error::TokenError;
use crate::key::KeySelector;
use crate::pin::PinError;
use crate::token::TokenInfo;
use crate::uri::Uri;

/// Bytes of the longest message: an RSA key of 8192 bits to be imported, several times over.
pub(crate) const BODY_BYTES_MAX: usize = 1 << 15;

/// What these messages are: one more whenever their form or meaning changes.
pub(crate) const VERSION: u32 = 1;

/// The kind of the first message of either end. It and the version behind it stay as they are in all versions.
const HELLO: u8 = 0xff;

/// A message, wiped when dropped.
pub(crate) type Body = Zeroizing<Vec<u8>>;

/// Where the child has the PIN from.
pub(crate) enum PinSource {
    /// Reads it itself.
    File(PathBuf),
    /// Is told.
    Text(SecretString),
}

/// What the parent asks.
pub(crate) enum Request {
    /// Which version the parent speaks. The first request, and only the first.
    Hello { version: u32 },
    /// Load the module, find the token, log in. The second request, and only the second.
    Open { module: PathBuf, token: TokenMatch, pin: PinSource },
    /// Find a key and have it sign once.
    Find { selector: KeySelector },
    /// Make a key pair.
    Make { label: String, id: Option<Vec<u8>>, kind: KeyKind },
    /// Put in a private key (PKCS #8).
    Import { label: String, id: Option<Vec<u8>>, pkcs8: SecretBytes },
    /// Sign a digest, with the key whose public half has this hash.
    Sign { selector: KeySelector, public: SpkiHash, algorithm: SignatureAlgorithm, digest: Vec<u8> },
    /// Is the token still there, and logged in?
    Check,
}

/// Which token.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct TokenMatch {
    pub(crate) label: Option<String>,
    pub(crate) manufacturer: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) serial: Option<String>,
    pub(crate) slot_id: Option<u64>,
}

/// What the child answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// To Hello: which version the child speaks. If it is another it ends.
    Hello { version: u32 },
    /// To Open.
    Opened(TokenInfo),
    /// To Find, Make and Import: under which id, and the public half's SubjectPublicKeyInfo.
    Key { id: Vec<u8>, spki: Vec<u8> },
    /// To Sign: DER for ECDSA.
    Signature(Vec<u8>),
    /// To Check.
    Alive,
    /// To any.
    Fault(Fault),
}

/// Why the child could not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    Load(String),
    Pin(PinError),
    PinRefused(String),
    NoToken,
    ManyTokens(u32),
    NoKey,
    ManyKeys(u32),
    NoPublicKey,
    KeyExists,
    KeyKind(String),
    OtherKey,
    /// This request was refused; the next may do.
    Refused(String),
    /// Module, token or session are unusable: the child is to be replaced.
    Gone(String),
}

impl From<&Uri> for TokenMatch {
    fn from(uri: &Uri) -> Self {
        TokenMatch {
            label: uri.token.clone(),
            manufacturer: uri.manufacturer.clone(),
            model: uri.model.clone(),
            serial: uri.serial.clone(),
            slot_id: uri.slot_id,
        }
    }
}

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed message")]
pub(crate) struct Malformed;

impl Request {
    /// The body of request `number`.
    pub(crate) fn encode(&self, number: u64) -> Body {
        let mut out = Writer::new(number, self.size_hint());
        match self {
            Request::Hello { version } => {
                out.byte(HELLO);
                out.number(*version);
            }
            Request::Open { module, token, pin } => {
                out.byte(0);
                out.bytes(module.as_os_str().as_encoded_bytes());
                for text in [&token.label, &token.manufacturer, &token.model, &token.serial] {
                    out.optional(text.as_ref().map(String::as_bytes));
                }
                out.optional(token.slot_id.map(u64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
                match pin {
                    PinSource::File(path) => {
                        out.byte(0);
                        out.bytes(path.as_os_str().as_encoded_bytes());
                    }
                    PinSource::Text(pin) => {
                        out.byte(1);
                        out.bytes(pin.expose().as_bytes());
                    }
                }
            }
            Request::Find { selector } => {
                out.byte(1);
                out.selector(selector);
            }
            Request::Make { label, id, kind } => {
                out.byte(2);
                out.bytes(label.as_bytes());
                out.optional(id.as_deref());
                out.number(match kind {
                    KeyKind::EcP256 => 256,
                    KeyKind::EcP384 => 384,
                    KeyKind::EcP521 => 521,
                    KeyKind::Rsa { bits } => *bits,
                });
            }
            Request::Import { label, id, pkcs8 } => {
                out.byte(3);
                out.bytes(label.as_bytes());
                out.optional(id.as_deref());
                out.bytes(pkcs8.expose());
            }
            Request::Sign { selector, public, algorithm, digest } => {
                out.byte(4);
                out.selector(selector);
                out.bytes(&public.0);
                out.bytes(algorithm.identifier_der());
                out.bytes(digest);
            }
            Request::Check => out.byte(5),
        }
        out.body
    }

    /// The number and the request of a body.
    pub(crate) fn decode(body: &[u8]) -> Result<(u64, Self), Malformed> {
        let mut reader = Reader(body);
        let number = reader.long()?;
        let request = match reader.byte()? {
            0 => Request::Open {
                module: reader.path()?,
                token: TokenMatch {
                    label: reader.optional_text()?,
                    manufacturer: reader.optional_text()?,
                    model: reader.optional_text()?,
                    serial: reader.optional_text()?,
                    slot_id: match reader.optional()? {
                        Some(bytes) => Some(u64::from_be_bytes(bytes.try_into().map_err(|_| Malformed)?)),
                        None => None,
                    },
                },
                pin: match reader.byte()? {
                    0 => PinSource::File(reader.path()?),
                    1 => PinSource::Text(SecretString::new(reader.text()?)),
                    _ => return Err(Malformed),
                },
            },
            1 => Request::Find { selector: reader.selector()? },
            2 => Request::Make {
                label: reader.text()?,
                id: reader.optional()?.map(<[u8]>::to_vec),
                kind: match reader.number()? {
                    256 => KeyKind::EcP256,
                    384 => KeyKind::EcP384,
                    521 => KeyKind::EcP521,
                    bits => KeyKind::Rsa { bits },
                },
            },
            3 => Request::Import {
                label: reader.text()?,
                id: reader.optional()?.map(<[u8]>::to_vec),
                pkcs8: SecretBytes::copy_of(reader.bytes()?),
            },
            4 => Request::Sign {
                selector: reader.selector()?,
                public: SpkiHash(reader.bytes()?.try_into().map_err(|_| Malformed)?),
                algorithm: SignatureAlgorithm::from_identifier_der(reader.bytes()?).map_err(|_| Malformed)?,
                digest: reader.bytes()?.to_vec(),
            },
            5 => Request::Check,
            HELLO => Request::Hello { version: reader.number()? },
            _ => return Err(Malformed),
        };
        reader.end()?;
        Ok((number, request))
    }

    /// Room for the whole body, so that a secret is not left behind by a buffer that grew.
    fn size_hint(&self) -> usize {
        let variable = match self {
            Request::Open { module, token, pin } => {
                let pin = match pin {
                    PinSource::File(path) => path.as_os_str().len(),
                    PinSource::Text(pin) => pin.expose().len(),
                };
                let texts = [&token.label, &token.manufacturer, &token.model, &token.serial];
                module.as_os_str().len() + pin + texts.into_iter().flatten().map(String::len).sum::<usize>()
            }
            Request::Import { label, id, pkcs8 } => {
                label.len() + id.as_ref().map_or(0, Vec::len) + pkcs8.expose().len()
            }
            Request::Hello { .. }
            | Request::Sign { .. }
            | Request::Find { .. }
            | Request::Make { .. }
            | Request::Check => 0,
        };
        variable + 256
    }
}

impl Answer {
    /// The body of the answer to request `number`.
    pub(crate) fn encode(&self, number: u64) -> Body {
        let mut out = Writer::new(number, 512);
        match self {
            Answer::Hello { version } => {
                out.byte(HELLO);
                out.number(*version);
            }
            Answer::Opened(token) => {
                out.byte(0);
                for text in [&token.label, &token.serial, &token.manufacturer, &token.model] {
                    out.bytes(text.as_bytes());
                }
            }
            Answer::Key { id, spki } => {
                out.byte(1);
                out.bytes(id);
                out.bytes(spki);
            }
            Answer::Signature(signature) => {
                out.byte(2);
                out.bytes(signature);
            }
            Answer::Alive => out.byte(3),
            Answer::Fault(fault) => {
                out.byte(4);
                let (code, count, first, second) = fault.parts();
                out.byte(code);
                out.number(count);
                out.bytes(first.as_bytes());
                out.bytes(second.as_bytes());
            }
        }
        out.body
    }

    /// The number and the answer of a body.
    pub(crate) fn decode(body: &[u8]) -> Result<(u64, Self), Malformed> {
        let mut reader = Reader(body);
        let number = reader.long()?;
        let answer = match reader.byte()? {
            0 => Answer::Opened(TokenInfo {
                label: reader.text()?,
                serial: reader.text()?,
                manufacturer: reader.text()?,
                model: reader.text()?,
            }),
            1 => Answer::Key { id: reader.bytes()?.to_vec(), spki: reader.bytes()?.to_vec() },
            2 => Answer::Signature(reader.bytes()?.to_vec()),
            3 => Answer::Alive,
            4 => {
                let code = reader.byte()?;
                Answer::Fault(Fault::from_parts(code, reader.number()?, reader.text()?, reader.text()?)?)
            }
            HELLO => Answer::Hello { version: reader.number()? },
            _ => return Err(Malformed),
        };
        reader.end()?;
        Ok((number, answer))
    }
}

impl Fault {
    fn parts(&self) -> (u8, u32, &str, &str) {
        match self {
            Fault::Load(reason) => (0, 0, reason, ""),
            Fault::Pin(PinError::Missing) => (1, 0, "", ""),
            Fault::Pin(PinError::Unreadable { from, reason }) => (2, 0, from, reason),
            Fault::Pin(PinError::Exposed { file, mode }) => (3, *mode, file, ""),
            Fault::Pin(PinError::Malformed { from }) => (4, 0, from, ""),
            Fault::PinRefused(reason) => (5, 0, reason, ""),
            Fault::NoToken => (6, 0, "", ""),
            Fault::ManyTokens(count) => (7, *count, "", ""),
            Fault::NoKey => (8, 0, "", ""),
            Fault::ManyKeys(count) => (9, *count, "", ""),
            Fault::NoPublicKey => (10, 0, "", ""),
            Fault::KeyExists => (11, 0, "", ""),
            Fault::KeyKind(reason) => (12, 0, reason, ""),
            Fault::OtherKey => (13, 0, "", ""),
            Fault::Refused(reason) => (14, 0, reason, ""),
            Fault::Gone(reason) => (15, 0, reason, ""),
        }
    }

    fn from_parts(code: u8, count: u32, first: String, second: String) -> Result<Self, Malformed> {
        Ok(match code {
            0 => Fault::Load(first),
            1 => Fault::Pin(PinError::Missing),
            2 => Fault::Pin(PinError::Unreadable { from: first, reason: second }),
            3 => Fault::Pin(PinError::Exposed { file: first, mode: count }),
            4 => Fault::Pin(PinError::Malformed { from: first }),
            5 => Fault::PinRefused(first),
            6 => Fault::NoToken,
            7 => Fault::ManyTokens(count),
            8 => Fault::NoKey,
            9 => Fault::ManyKeys(count),
            10 => Fault::NoPublicKey,
            11 => Fault::KeyExists,
            12 => Fault::KeyKind(first),
            13 => Fault::OtherKey,
            14 => Fault::Refused(first),
            15 => Fault::Gone(first),
            _ => return Err(Malformed),
        })
    }

    /// As the parent's callers see it. [`Fault::Gone`] and [`Fault::Load`] need what the parent knows.
    pub(crate) fn into_error(self, module: &std::path::Path, now: std::time::SystemTime) -> TokenError {
        match self {
            Fault::Load(reason) => TokenError::Load { path: module.to_owned(), reason },
            Fault::Pin(error) => TokenError::Pin(error),
            Fault::PinRefused(reason) => TokenError::PinRefused(reason),
            Fault::NoToken => TokenError::NoToken,
            Fault::ManyTokens(count) => TokenError::ManyTokens(count),
            Fault::NoKey => TokenError::NoKey,
            Fault::ManyKeys(count) => TokenError::ManyKeys(count),
            Fault::NoPublicKey => TokenError::NoPublicKey,
            Fault::KeyExists => TokenError::KeyExists,
            Fault::KeyKind(reason) => TokenError::KeyKind(reason),
            Fault::OtherKey => TokenError::OtherKey,
            Fault::Refused(reason) => TokenError::Refused(reason),
            Fault::Gone(reason) => TokenError::Lost { since: now, reason },
        }
    }
}

struct Writer {
    body: Body,
}

impl Writer {
    fn new(number: u64, room: usize) -> Self {
        let mut body = Zeroizing::new(Vec::with_capacity(room));
        body.extend_from_slice(&number.to_be_bytes());
        Writer { body }
    }

    fn byte(&mut self, byte: u8) {
        self.body.push(byte);
    }

    fn number(&mut self, number: u32) {
        self.body.extend_from_slice(&number.to_be_bytes());
    }

    /// Longer than 32 bits cannot be sent anyway: the stream refuses it.
    fn bytes(&mut self, bytes: &[u8]) {
        self.number(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.body.extend_from_slice(bytes);
    }

    fn optional(&mut self, bytes: Option<&[u8]>) {
        self.byte(u8::from(bytes.is_some()));
        if let Some(bytes) = bytes {
            self.bytes(bytes);
        }
    }

    fn selector(&mut self, selector: &KeySelector) {
        self.optional(selector.label.as_ref().map(String::as_bytes));
        self.optional(selector.id.as_deref());
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Result<u32, Malformed> {
        self.take(4)?.try_into().map(u32::from_be_bytes).map_err(|_| Malformed)
    }

    fn long(&mut self) -> Result<u64, Malformed> {
        self.take(8)?.try_into().map(u64::from_be_bytes).map_err(|_| Malformed)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.number()? as usize;
        self.take(length)
    }

    fn text(&mut self) -> Result<String, Malformed> {
        std::str::from_utf8(self.bytes()?).map(str::to_owned).map_err(|_| Malformed)
    }

    fn path(&mut self) -> Result<PathBuf, Malformed> {
        self.bytes().map(|bytes| OsString::from_vec(bytes.to_vec()).into())
    }

    fn optional(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.byte()? {
            0 => Ok(None),
            1 => self.bytes().map(Some),
            _ => Err(Malformed),
        }
    }

    fn optional_text(&mut self) -> Result<Option<String>, Malformed> {
        let bytes = self.optional()?;
        bytes.map(|bytes| std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed)).transpose()
    }

    fn selector(&mut self) -> Result<KeySelector, Malformed> {
        Ok(KeySelector { label: self.optional_text()?, id: self.optional()?.map(<[u8]>::to_vec) })
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn requests() -> Vec<Request> {
        let selector = KeySelector { label: Some("root".into()), id: None };
        let token = TokenMatch { label: Some("ca".into()), slot_id: Some(u64::MAX), ..TokenMatch::default() };
        let open = |pin| Request::Open { module: "/m.so".into(), token: token.clone(), pin };
        let id = Some(vec![0, 255]);
        vec![
            open(PinSource::File("/pin".into())),
            open(PinSource::Text(SecretString::new("1234".into()))),
            Request::Find { selector: KeySelector { label: None, id: id.clone() } },
            Request::Make { label: "a".into(), id: None, kind: KeyKind::EcP521 },
            Request::Make { label: "a".into(), id: id.clone(), kind: KeyKind::Rsa { bits: 3_072 } },
            Request::Import { label: "a".into(), id, pkcs8: SecretBytes::new(vec![7; 9]) },
            Request::Sign {
                selector,
                public: SpkiHash([3; 32]),
                algorithm: SignatureAlgorithm::RsaSha384,
                digest: vec![5; 48],
            },
            Request::Check,
            Request::Hello { version: VERSION },
        ]
    }

    /// Of all versions, so that two that differ understand at least this much.
    #[test]
    fn a_hello_is_the_same_for_ever() {
        let bytes = [0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0, 7];
        assert_eq!(Request::Hello { version: 7 }.encode(1).as_slice(), bytes);
        assert_eq!(Answer::Hello { version: 7 }.encode(1).as_slice(), bytes);
        assert!(matches!(Request::decode(&bytes), Ok((1, Request::Hello { version: 7 }))));
        assert_eq!(Answer::decode(&bytes), Ok((1, Answer::Hello { version: 7 })));
    }

    #[test]
    fn requests_survive_the_way_and_nothing_shorter_or_longer_parses() {
        for (number, request) in (1..).zip(requests()) {
            let body = request.encode(number);
            let (told, read) = Request::decode(&body).unwrap();
            assert_eq!(told, number);
            assert_eq!(read.encode(number), body);
            assert!(body.len() <= request.size_hint(), "request {number} left a grown buffer behind");
            for length in 0..body.len() {
                assert!(Request::decode(&body[..length]).is_err(), "request {number} cut to {length}");
            }
            let longer = [body.as_slice(), &[0]].concat();
            assert!(Request::decode(&longer).is_err());
        }
    }

    #[test]
    fn answers_survive_the_way() {
        let text = || "why".to_owned();
        let faults = vec![
            Fault::Load(text()),
            Fault::Pin(PinError::Missing),
            Fault::Pin(PinError::Unreadable { from: text(), reason: "x".into() }),
            Fault::Pin(PinError::Exposed { file: text(), mode: 0o644 }),
            Fault::Pin(PinError::Malformed { from: text() }),
            Fault::PinRefused(text()),
            Fault::NoToken,
            Fault::ManyTokens(2),
            Fault::NoKey,
            Fault::ManyKeys(3),
            Fault::NoPublicKey,
            Fault::KeyExists,
            Fault::KeyKind(text()),
            Fault::OtherKey,
            Fault::Refused(text()),
            Fault::Gone(text()),
        ];
        let info = TokenInfo { label: "l".into(), serial: "s".into(), manufacturer: "m".into(), model: "o".into() };
        let mut answers: Vec<Answer> = faults.into_iter().map(Answer::Fault).collect();
        answers.extend([
            Answer::Opened(info),
            Answer::Key { id: vec![1], spki: vec![2, 3] },
            Answer::Signature(vec![4; 70]),
            Answer::Alive,
            Answer::Hello { version: VERSION },
        ]);
        for (number, answer) in (1..).zip(answers) {
            let body = answer.encode(number);
            assert_eq!(Answer::decode(&body), Ok((number, answer)));
            assert!(Answer::decode(&body[..body.len() - 1]).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Request::decode(&bytes);
            let _ = Answer::decode(&bytes);
        }
    }
}
