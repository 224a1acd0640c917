//! PKCS#11 URIs (RFC 7512): `pkcs11:token=ca;object=root?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin`.
//!
//! Read strictly: an attribute that is unknown, not supported, empty or named twice is an error, never passed over, so that a slip of
//! the pen does not sign with another key. `pin-value` is refused by name: a PIN in an argument is read by every user of the machine.
//! Errors name attributes, never values.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::key::KeySelector;

/// Bytes of the longest URI that is read.
pub const URI_BYTES_MAX: usize = 4_096;

/// A `pkcs11:` URI. What is None fits everything. Holds no secret; [`fmt::Display`] writes a URI that reads back the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uri {
    /// `token`: the token's label.
    pub token: Option<String>,
    /// `manufacturer`: the token's manufacturer.
    pub manufacturer: Option<String>,
    /// `model`: the token's model.
    pub model: Option<String>,
    /// `serial`: the token's serial number.
    pub serial: Option<String>,
    /// `slot-id`: the number of the slot. Modules are free to number anew at each start: better name the token.
    pub slot_id: Option<u64>,
    /// `object`: the key's label (CKA_LABEL).
    pub object: Option<String>,
    /// `id`: the key's id (CKA_ID).
    pub id: Option<Vec<u8>>,
    /// `type`: the kind of object.
    pub kind: Option<ObjectKind>,
    /// `module-path`: the module's shared object, an absolute path.
    pub module_path: Option<PathBuf>,
    /// `pin-source`: the file with the PIN, an absolute path.
    pub pin_source: Option<PathBuf>,
}

/// What kind of object a URI names (RFC 7512, 2.3, `pk11-type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// `private`: a private key.
    Private,
    /// `public`: a public key.
    Public,
    /// `cert`: a certificate.
    Certificate,
    /// `secret-key`: a symmetric key.
    SecretKey,
    /// `data`: data.
    Data,
}

/// Why a text is no URI that we take. Names attributes, never values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// It does not begin with `pkcs11:`.
    #[error("not a PKCS#11 URI: it must begin with pkcs11:")]
    Scheme,
    /// It is longer than [`URI_BYTES_MAX`].
    #[error("PKCS#11 URI of more than {URI_BYTES_MAX} bytes")]
    TooLong,
    /// A part without `=`.
    #[error("PKCS#11 URI: part {0} is not name=value")]
    NoValue(usize),
    /// An attribute that RFC 7512 does not have.
    #[error("PKCS#11 URI: unknown attribute in part {0}")]
    Unknown(usize),
    /// An attribute of RFC 7512 that we do not use.
    #[error("PKCS#11 URI: {0} is not supported")]
    Unsupported(&'static str),
    /// A PIN in the URI.
    #[error("PKCS#11 URI: pin-value is refused, a PIN in an argument is seen by every user")]
    PinValue,
    /// An attribute that is there twice.
    #[error("PKCS#11 URI: {0} is there twice")]
    Twice(&'static str),
    /// A value that is empty, badly escaped, no text, or not of the attribute's form.
    #[error("PKCS#11 URI: bad value of {attribute}: {reason}")]
    Value {
        /// Of which attribute.
        attribute: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Uri {
    /// The key that the URI names; None if it names only a token.
    pub fn key(&self) -> Option<KeySelector> {
        let named = self.object.is_some() || self.id.is_some();
        named.then(|| KeySelector { label: self.object.clone(), id: self.id.clone() })
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        // RFC 3986, 3.1: a scheme's letters may be of either case.
        let rest = match text.split_at_checked(SCHEME.len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => rest,
            _ => return Err(UriError::Scheme),
        };
        if text.len() > URI_BYTES_MAX {
            return Err(UriError::TooLong);
        }
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let mut uri = Uri::default();
        let mut number = 0;
        for part in path.split(';').filter(|_| !path.is_empty()) {
            number += 1;
            uri.path_attribute(part, number)?;
        }
        for part in query.into_iter().flat_map(|query| query.split('&')) {
            number += 1;
            uri.query_attribute(part, number)?;
        }
        Ok(uri)
    }
}

impl Uri {
    fn path_attribute(&mut self, part: &str, number: usize) -> Result<(), UriError> {
        let (name, value) = part.split_once('=').ok_or(UriError::NoValue(number))?;
        let bytes = |attribute| decode(attribute, value, PATH_MARKS);
        let text = |attribute| bytes(attribute).and_then(|bytes| plain_text(attribute, bytes));
        match name {
            "token" => set(&mut self.token, "token", text("token")?),
            "manufacturer" => set(&mut self.manufacturer, "manufacturer", text("manufacturer")?),
            "model" => set(&mut self.model, "model", text("model")?),
            "serial" => set(&mut self.serial, "serial", text("serial")?),
            "slot-id" => set(&mut self.slot_id, "slot-id", slot_id(value)?),
            "object" => set(&mut self.object, "object", text("object")?),
            "id" => set(&mut self.id, "id", bytes("id")?),
            "type" => set(&mut self.kind, "type", object_kind(value)?),
            "pin-value" => Err(UriError::PinValue),
            other => Err(refused(other, number)),
        }
    }

    fn query_attribute(&mut self, part: &str, number: usize) -> Result<(), UriError> {
        let (name, value) = part.split_once('=').ok_or(UriError::NoValue(number))?;
        let text = |attribute| decode(attribute, value, QUERY_MARKS).and_then(|bytes| plain_text(attribute, bytes));
        match name {
            "module-path" => set(&mut self.module_path, "module-path", absolute("module-path", &text("module-path")?)?),
            "pin-source" => set(&mut self.pin_source, "pin-source", pin_file(&text("pin-source")?)?),
            "pin-value" => Err(UriError::PinValue),
            other => Err(refused(other, number)),
        }
    }
}

fn set<T>(slot: &mut Option<T>, name: &'static str, value: T) -> Result<(), UriError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(UriError::Twice(name)),
    }
}

fn refused(name: &str, number: usize) -> UriError {
    UNSUPPORTED.into_iter().find(|known| *known == name).map_or(UriError::Unknown(number), UriError::Unsupported)
}

fn bad(attribute: &'static str, reason: &'static str) -> UriError {
    UriError::Value { attribute, reason }
}

/// Undoes percent-encoding; `marks` are the characters that may stand for themselves beside the unreserved ones.
fn decode(attribute: &'static str, value: &str, marks: &[u8]) -> Result<Vec<u8>, UriError> {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
            let (high, low) = (digit(), digit());
            let (Some(high), Some(low)) = (high, low) else {
                return Err(bad(attribute, "% must be followed by two hexadecimal digits"));
            };
            out.push((high * 16 + low) as u8);
        } else if is_unreserved(byte) || marks.contains(&byte) {
            out.push(byte);
        } else {
            return Err(bad(attribute, "a character that must be percent-encoded"));
        }
    }
    if out.is_empty() { Err(bad(attribute, "empty")) } else { Ok(out) }
}

fn plain_text(attribute: &'static str, bytes: Vec<u8>) -> Result<String, UriError> {
    let text = String::from_utf8(bytes).map_err(|_| bad(attribute, "not UTF-8"))?;
    if text.chars().any(char::is_control) { Err(bad(attribute, "a control character")) } else { Ok(text) }
}

fn slot_id(value: &str) -> Result<u64, UriError> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| value.parse().ok()).flatten().ok_or(bad("slot-id", "not a decimal number"))
}

fn object_kind(value: &str) -> Result<ObjectKind, UriError> {
    KINDS
        .into_iter()
        .find(|(_, name)| *name == value)
        .map(|(kind, _)| kind)
        .ok_or(bad("type", "must be private, public, cert, secret-key or data"))
}

fn absolute(attribute: &'static str, path: &str) -> Result<PathBuf, UriError> {
    let path = PathBuf::from(path);
    if path.is_absolute() { Ok(path) } else { Err(bad(attribute, "not an absolute path")) }
}

/// `file:/path` or `file:///path` (RFC 8089). A bare path is refused: RFC 7512 leaves its meaning to the reader.
fn pin_file(source: &str) -> Result<PathBuf, UriError> {
    let rest = source.strip_prefix("file:").ok_or(bad("pin-source", "only file:/path is supported"))?;
    let path = rest.strip_prefix("//").unwrap_or(rest);
    absolute("pin-source", path)
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        let texts = [
            ("token", &self.token),
            ("manufacturer", &self.manufacturer),
            ("model", &self.model),
            ("serial", &self.serial),
        ];
        let mut path: Vec<String> = Vec::new();
        let mut put = |name: &str, value: &Option<String>| {
            path.extend(value.as_ref().map(|value| format!("{name}={}", encode(value.as_bytes(), PATH_MARKS))));
        };
        for (name, value) in texts {
            put(name, value);
        }
        put("slot-id", &self.slot_id.map(|id| id.to_string()));
        put("object", &self.object);
        // RFC 7512, 2.3: every byte of an id is percent-encoded.
        path.extend(self.id.as_ref().map(|id| format!("id={}", id.iter().map(percent).collect::<String>())));
        path.extend(self.kind.map(|kind| format!("type={kind}")));
        f.write_str(&path.join(";"))?;

        let file = |path: &PathBuf| encode(path.as_os_str().as_encoded_bytes(), QUERY_MARKS);
        let mut query: Vec<String> = Vec::new();
        query.extend(self.module_path.as_ref().map(|path| format!("module-path={}", file(path))));
        query.extend(self.pin_source.as_ref().map(|path| format!("pin-source=file:{}", file(path))));
        if !query.is_empty() {
            write!(f, "?{}", query.join("&"))?;
        }
        Ok(())
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = KINDS.into_iter().find(|(kind, _)| kind == self).map(|(_, name)| name);
        f.write_str(name.unwrap_or_default())
    }
}

fn encode(bytes: &[u8], marks: &[u8]) -> String {
    let one = |byte: &u8| {
        let plain = is_unreserved(*byte) || marks.contains(byte);
        if plain { char::from(*byte).to_string() } else { percent(byte) }
    };
    bytes.iter().map(one).collect()
}

fn percent(byte: &u8) -> String {
    format!("%{byte:02X}")
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

const SCHEME: &str = "pkcs11:";
/// `pk11-path-res-avail` and `&` (RFC 7512, 2.3).
const PATH_MARKS: &[u8] = b":[]@!$'()*+,=&";
/// `pk11-query-res-avail` and `|` (RFC 7512, 2.3).
const QUERY_MARKS: &[u8] = b":[]@!$'()*+,=/?|";
const KINDS: [(ObjectKind, &str); 5] = [
    (ObjectKind::Private, "private"),
    (ObjectKind::Public, "public"),
    (ObjectKind::Certificate, "cert"),
    (ObjectKind::SecretKey, "secret-key"),
    (ObjectKind::Data, "data"),
];
const UNSUPPORTED: [&str; 6] = [
    "library-manufacturer",
    "library-description",
    "library-version",
    "slot-manufacturer",
    "slot-description",
    "module-name",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Uri, UriError> {
        text.parse()
    }

    #[test]
    fn a_whole_uri() {
        let text = "pkcs11:token=The%20CA;manufacturer=SoftHSM%20project;model=SoftHSM%20v2;serial=6f3c;slot-id=7;\
                    object=root;id=%01%FF;type=private?module-path=/usr/lib/x.so&pin-source=file:/run/my%20pin";
        let uri = parse(text).unwrap();
        assert_eq!(uri.token.as_deref(), Some("The CA"));
        assert_eq!(uri.model.as_deref(), Some("SoftHSM v2"));
        assert_eq!(uri.slot_id, Some(7));
        assert_eq!(uri.id, Some(vec![1, 0xff]));
        assert_eq!(uri.kind, Some(ObjectKind::Private));
        assert_eq!(uri.module_path, Some("/usr/lib/x.so".into()));
        assert_eq!(uri.pin_source, Some("/run/my pin".into()));
        assert_eq!(uri.key(), Some(KeySelector { label: Some("root".into()), id: Some(vec![1, 0xff]) }));
        assert_eq!(uri.to_string(), text);
    }

    #[test]
    fn short_forms() {
        assert_eq!(parse("pkcs11:"), Ok(Uri::default()));
        assert_eq!(parse("PKCS11:"), Ok(Uri::default()));
        assert_eq!(parse("pkcs11:token=a").unwrap().key(), None);
        assert_eq!(parse("pkcs11:?pin-source=file:///p").unwrap().pin_source, Some("/p".into()));
        assert_eq!(parse("pkcs11:token=a&b=c:d").unwrap().token.as_deref(), Some("a&b=c:d"));
    }

    #[test]
    fn what_is_refused() {
        let value = |attribute, reason| Err(UriError::Value { attribute, reason });
        let rows = [
            ("", Err(UriError::Scheme)),
            ("pkcs11", Err(UriError::Scheme)),
            ("pkcs12:token=a", Err(UriError::Scheme)),
            ("pkcs11:token=a;", Err(UriError::NoValue(2))),
            ("pkcs11:token", Err(UriError::NoValue(1))),
            ("pkcs11:token=a?", Err(UriError::NoValue(2))),
            ("pkcs11:colour=red", Err(UriError::Unknown(1))),
            ("pkcs11:Token=a", Err(UriError::Unknown(1))),
            ("pkcs11:token=a?x-vendor=1", Err(UriError::Unknown(2))),
            ("pkcs11:token=a?token=b", Err(UriError::Unknown(2))),
            ("pkcs11:library-version=1.0", Err(UriError::Unsupported("library-version"))),
            ("pkcs11:?module-name=softhsm2", Err(UriError::Unsupported("module-name"))),
            ("pkcs11:token=a;token=a", Err(UriError::Twice("token"))),
            ("pkcs11:?pin-source=file:/a&pin-source=file:/b", Err(UriError::Twice("pin-source"))),
            ("pkcs11:token=", value("token", "empty")),
            ("pkcs11:id=", value("id", "empty")),
            ("pkcs11:token=%", value("token", "% must be followed by two hexadecimal digits")),
            ("pkcs11:token=%4", value("token", "% must be followed by two hexadecimal digits")),
            ("pkcs11:token=%zz", value("token", "% must be followed by two hexadecimal digits")),
            ("pkcs11:token=a b", value("token", "a character that must be percent-encoded")),
            ("pkcs11:token=a/b", value("token", "a character that must be percent-encoded")),
            ("pkcs11:token=%FF", value("token", "not UTF-8")),
            ("pkcs11:token=%00", value("token", "a control character")),
            ("pkcs11:object=%0A", value("object", "a control character")),
            ("pkcs11:slot-id=", value("slot-id", "not a decimal number")),
            ("pkcs11:slot-id=+1", value("slot-id", "not a decimal number")),
            ("pkcs11:slot-id=99999999999999999999", value("slot-id", "not a decimal number")),
            ("pkcs11:type=key", value("type", "must be private, public, cert, secret-key or data")),
            ("pkcs11:?module-path=softhsm.so", value("module-path", "not an absolute path")),
            ("pkcs11:?pin-source=/run/pin", value("pin-source", "only file:/path is supported")),
            ("pkcs11:?pin-source=%7C/bin/pin", value("pin-source", "only file:/path is supported")),
            ("pkcs11:?pin-source=file://host/run/pin", value("pin-source", "not an absolute path")),
            ("pkcs11:?pin-source=file:pin", value("pin-source", "not an absolute path")),
        ];
        for (text, expected) in rows {
            assert_eq!(parse(text), expected, "{text}");
        }
        assert_eq!(parse(&format!("pkcs11:token={}", "a".repeat(URI_BYTES_MAX))), Err(UriError::TooLong));
    }

    #[test]
    fn a_pin_in_the_uri_is_refused_by_name_and_never_repeated() {
        for text in ["pkcs11:token=a?pin-value=s3cret", "pkcs11:pin-value=s3cret", "pkcs11:?pin-value="] {
            let error = parse(text).unwrap_err();
            assert_eq!(error, UriError::PinValue);
            assert!(!format!("{error} {error:?}").contains("s3cret"));
        }
        let error = parse("pkcs11:?pin-valu=s3cret").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            token in proptest::option::of("[^\\p{Cc}]{1,20}"),
            object in proptest::option::of("[^\\p{Cc}]{1,20}"),
            id in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..20)),
            slot_id in any::<Option<u64>>(),
            path in proptest::option::of("/[^\\p{Cc}/][^\\p{Cc}]{0,20}"),
        ) {
            let path: Option<PathBuf> = path.map(PathBuf::from);
            let uri = Uri { token, object, id, slot_id, module_path: path.clone(), pin_source: path, ..Uri::default() };
            prop_assert_eq!(parse(&uri.to_string()), Ok(uri));
        }

        #[test]
        fn no_text_panics(text in "pkcs11:.{0,60}") {
            let _ = parse(&text);
        }
    }
}
