//! Distinguished encoding rules: writing by hand, so that copied parts keep every byte; reading by the `der` crate.

use der::{AnyRef, Decode, Reader as _, SliceReader};

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const ENUMERATED: u8 = 0x0a;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const PRINTABLE_STRING: u8 = 0x13;
pub(crate) const IA5_STRING: u8 = 0x16;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
/// `[n]`, constructed.
pub(crate) const fn explicit(number: u8) -> u8 {
    0xa0 | number
}
/// `[n]`, primitive.
pub(crate) const fn implicit(number: u8) -> u8 {
    0x80 | number
}

/// Object identifiers, each with its tag and length.
pub(crate) mod oid {
    pub(crate) const ORGANIZATION: &[u8] = &[0x06, 3, 0x55, 4, 10];
    pub(crate) const ORGANIZATIONAL_UNIT: &[u8] = &[0x06, 3, 0x55, 4, 11];
    pub(crate) const COMMON_NAME: &[u8] = &[0x06, 3, 0x55, 4, 3];

    pub(crate) const SUBJECT_KEY_ID: &[u8] = &[0x06, 3, 0x55, 0x1d, 14];
    pub(crate) const SUBJECT_ALT_NAME: &[u8] = &[0x06, 3, 0x55, 0x1d, 17];
    pub(crate) const AUTHORITY_KEY_ID: &[u8] = &[0x06, 3, 0x55, 0x1d, 35];

    pub(crate) const CRL_NUMBER: &[u8] = &[0x06, 3, 0x55, 0x1d, 20];
    pub(crate) const CRL_REASON: &[u8] = &[0x06, 3, 0x55, 0x1d, 21];
    pub(crate) const DELTA_CRL_INDICATOR: &[u8] = &[0x06, 3, 0x55, 0x1d, 27];
    pub(crate) const OCSP_BASIC: &[u8] = &[0x06, 9, 0x2b, 6, 1, 5, 5, 7, 48, 1, 1];
    pub(crate) const OCSP_NONCE: &[u8] = &[0x06, 9, 0x2b, 6, 1, 5, 5, 7, 48, 1, 2];
    pub(crate) const SHA1: &[u8] = &[0x06, 5, 0x2b, 14, 3, 2, 26];
    pub(crate) const SHA256: &[u8] = &[0x06, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];

    pub(crate) const EC_PUBLIC_KEY: &[u8] = &[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
    pub(crate) const P224: &[u8] = &[0x06, 5, 0x2b, 0x81, 4, 0, 33];
    pub(crate) const P256: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    pub(crate) const P384: &[u8] = &[0x06, 5, 0x2b, 0x81, 4, 0, 34];
    pub(crate) const P521: &[u8] = &[0x06, 5, 0x2b, 0x81, 4, 0, 35];
    pub(crate) const RSA: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
    pub(crate) const RSA_PSS: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10];
    pub(crate) const DSA: &[u8] = &[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x38, 4, 1];
    pub(crate) const ED25519: &[u8] = &[0x06, 3, 0x2b, 0x65, 0x70];
    pub(crate) const ED448: &[u8] = &[0x06, 3, 0x2b, 0x65, 0x71];
    pub(crate) const X25519: &[u8] = &[0x06, 3, 0x2b, 0x65, 0x6e];
}

pub(crate) const NULL: &[u8] = &[5, 0];
pub(crate) const TRUE: &[u8] = &[1, 1, 0xff];

/// One element: tag, length and the parts one after the other.
pub(crate) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    let bytes = length.to_be_bytes();
    let significant = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
    match significant {
        [] => out.push(0),
        [short] if *short < 0x80 => out.push(*short),
        long => {
            out.push(0x80 | long.len() as u8);
            out.extend_from_slice(long);
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// INTEGER from a big-endian magnitude.
pub(crate) fn unsigned_integer(magnitude: &[u8]) -> Vec<u8> {
    let zeros = magnitude.iter().take_while(|byte| **byte == 0).count();
    match &magnitude[zeros..] {
        [] => tlv(INTEGER, &[&[0]]),
        rest if rest[0] & 0x80 != 0 => tlv(INTEGER, &[&[0], rest]),
        rest => tlv(INTEGER, &[rest]),
    }
}

/// BIT STRING of whole bytes.
pub(crate) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    tlv(BIT_STRING, &[&[0], bytes])
}

/// A text as Go writes it: PrintableString if its characters allow, else UTF8String.
pub(crate) fn directory_string(text: &str) -> Vec<u8> {
    let printable = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&byte));
    let tag = if printable { PRINTABLE_STRING } else { UTF8_STRING };
    tlv(tag, &[text.as_bytes()])
}

/// Malformed DER. Which part, the caller says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl From<der::Error> for Malformed {
    fn from(_: der::Error) -> Self {
        Malformed
    }
}

/// One element as read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    /// With tag and length.
    pub(crate) raw: &'a [u8],
    /// Without.
    pub(crate) value: &'a [u8],
}

impl<'a> Element<'a> {
    /// The one element that `der` consists of.
    pub(crate) fn only(der: &'a [u8]) -> Result<Self, Malformed> {
        let any = AnyRef::from_der(der)?;
        Ok(Element { tag: der.first().copied().ok_or(Malformed)?, raw: der, value: any.value() })
    }

    pub(crate) fn expect(self, tag: u8) -> Result<Self, Malformed> {
        if self.tag == tag { Ok(self) } else { Err(Malformed) }
    }

    pub(crate) fn inside(self) -> Result<Elements<'a>, Malformed> {
        Elements::of(self.value)
    }

    /// The magnitude of a non-negative INTEGER without the leading zero.
    pub(crate) fn unsigned(self) -> Result<&'a [u8], Malformed> {
        self.expect(INTEGER)?;
        match self.value {
            [] => Err(Malformed),
            [0] => Ok(&[]),
            [0, next, ..] if next & 0x80 == 0 => Err(Malformed),
            [0, rest @ ..] => Ok(rest),
            [first, ..] if first & 0x80 != 0 => Err(Malformed),
            value => Ok(value),
        }
    }

    /// The content of a BIT STRING of whole bytes.
    pub(crate) fn bits(self) -> Result<&'a [u8], Malformed> {
        match self.expect(BIT_STRING)?.value {
            [0, rest @ ..] => Ok(rest),
            _ => Err(Malformed),
        }
    }
}

/// Elements one after the other.
pub(crate) struct Elements<'a> {
    reader: SliceReader<'a>,
}

impl<'a> Elements<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Ok(Elements { reader: SliceReader::new(bytes)? })
    }

    pub(crate) fn next(&mut self) -> Result<Element<'a>, Malformed> {
        Element::only(self.reader.tlv_bytes()?)
    }

    /// The next element if there is one and it has this tag.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<Element<'a>>, Malformed> {
        if self.is_empty() || self.reader.peek_byte() != Some(tag) {
            return Ok(None);
        }
        self.next().map(Some)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.reader.is_finished()
    }

    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}
