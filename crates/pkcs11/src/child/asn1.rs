//! The few pieces of DER that tokens speak: points, curves, signatures, and the parts of a private key.

use der::asn1::OctetStringRef;
use der::{AnyRef, Decode, Reader as _, SliceReader, Tag, Tagged as _};
use pki::key::KeyKind;

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

const EC_PUBLIC_KEY: &[u8] = &[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const RSA: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const NULL: &[u8] = &[5, 0];
const CURVES: [(KeyKind, &[u8], usize); 3] = [
    (KeyKind::EcP256, &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7], 32),
    (KeyKind::EcP384, &[0x06, 5, 0x2b, 0x81, 4, 0, 34], 48),
    (KeyKind::EcP521, &[0x06, 5, 0x2b, 0x81, 4, 0, 35], 66),
];

/// CKA_EC_PARAMS of a curve: its OID. None for RSA.
pub(super) fn curve(kind: KeyKind) -> Option<&'static [u8]> {
    CURVES.into_iter().find(|(known, ..)| *known == kind).map(|(_, oid, _)| oid)
}

/// Bytes of a coordinate. None for RSA.
pub(super) fn field_bytes(kind: KeyKind) -> Option<usize> {
    CURVES.into_iter().find(|(known, ..)| *known == kind).map(|(.., bytes)| bytes)
}

/// SubjectPublicKeyInfo from CKA_EC_PARAMS and CKA_EC_POINT. The point is wrapped in an OCTET STRING (PKCS#11 2.40, 2.3.3); some
/// modules leave the wrapping out.
pub(super) fn ec_spki(parameters: &[u8], point: &[u8]) -> Option<Vec<u8>> {
    let (.., field) = CURVES.into_iter().find(|(_, oid, _)| *oid == parameters)?;
    let bare = if point.len() == 1 + 2 * field { point } else { <&OctetStringRef>::from_der(point).ok()?.as_bytes() };
    let algorithm = tlv(SEQUENCE, &[EC_PUBLIC_KEY, parameters]);
    Some(tlv(SEQUENCE, &[&algorithm, &tlv(BIT_STRING, &[&[0], bare])]))
}

/// SubjectPublicKeyInfo from CKA_MODULUS and CKA_PUBLIC_EXPONENT.
pub(super) fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let key = tlv(SEQUENCE, &[&unsigned(modulus), &unsigned(exponent)]);
    tlv(SEQUENCE, &[&tlv(SEQUENCE, &[RSA, NULL]), &tlv(BIT_STRING, &[&[0], &key])])
}

/// CKA_EC_POINT of an uncompressed point.
pub(super) fn wrapped_point(point: &[u8]) -> Vec<u8> {
    tlv(OCTET_STRING, &[point])
}

/// ECDSA-Sig-Value (RFC 3279, 2.2.3) from a token's r and s, one after the other.
pub(super) fn ecdsa_signature(kind: KeyKind, raw: &[u8]) -> Option<Vec<u8>> {
    let field = field_bytes(kind)?;
    if raw.len() != 2 * field {
        return None;
    }
    let (r, s) = raw.split_at(field);
    Some(tlv(SEQUENCE, &[&unsigned(r), &unsigned(s)]))
}

/// The scalar of an ECDSA key in the PKCS #8 form that [`pki::PrivateKey::pkcs8_der`] writes.
pub(super) fn ec_scalar(pkcs8: &[u8]) -> Option<&[u8]> {
    let inner = inner_key(pkcs8)?;
    sequence(inner)?.get(1).filter(|scalar| scalar.0 == Tag::OctetString).map(|scalar| scalar.1)
}

/// Modulus, both exponents, both primes, both their exponents and the coefficient of an RSA key in PKCS #8 form.
pub(super) fn rsa_numbers(pkcs8: &[u8]) -> Option<[&[u8]; 8]> {
    let inner = inner_key(pkcs8)?;
    let numbers: Vec<&[u8]> = sequence(inner)?.into_iter().map(|(_, value)| magnitude(value)).collect();
    let [_version, numbers @ ..] = numbers.as_slice() else {
        return None;
    };
    numbers.try_into().ok()
}

/// The first number and the second of an RSAPublicKey.
pub(super) fn rsa_public_numbers(key: &[u8]) -> Option<(&[u8], &[u8])> {
    match sequence(key)?.as_slice() {
        [(_, modulus), (_, exponent)] => Some((magnitude(modulus), magnitude(exponent))),
        _ => None,
    }
}

fn inner_key(pkcs8: &[u8]) -> Option<&[u8]> {
    sequence(pkcs8)?.get(2).filter(|key| key.0 == Tag::OctetString).map(|key| key.1)
}

/// The elements of a SEQUENCE: tag and value.
fn sequence(der: &[u8]) -> Option<Vec<(Tag, &[u8])>> {
    let outer = AnyRef::from_der(der).ok()?;
    if outer.tag() != Tag::Sequence {
        return None;
    }
    let mut reader = SliceReader::new(outer.value()).ok()?;
    let mut elements = Vec::new();
    while !reader.is_finished() {
        let element = AnyRef::decode(&mut reader).ok()?;
        elements.push((element.tag(), element.value()));
    }
    Some(elements)
}

fn magnitude(integer: &[u8]) -> &[u8] {
    integer.strip_prefix(&[0]).unwrap_or(integer)
}

fn unsigned(magnitude: &[u8]) -> Vec<u8> {
    let zeros = magnitude.iter().take_while(|byte| **byte == 0).count();
    match &magnitude[zeros..] {
        [] => tlv(INTEGER, &[&[0]]),
        rest if rest[0] & 0x80 != 0 => tlv(INTEGER, &[&[0], rest]),
        rest => tlv(INTEGER, &[rest]),
    }
}

fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![tag];
    let bytes = length.to_be_bytes();
    match &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..] {
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

#[cfg(test)]
mod tests {
    use pki::PrivateKey;
    use pki::key::{PublicKey, Signer};

    use super::*;

    #[test]
    fn points_with_and_without_their_wrapping() {
        let key = PrivateKey::generate_p256(&[7; 32]).unwrap();
        let point = key.public().key_bytes();
        let parameters = curve(KeyKind::EcP256).unwrap();
        for form in [point.to_vec(), wrapped_point(point)] {
            let spki = ec_spki(parameters, &form).unwrap();
            assert_eq!(&PublicKey::from_spki_der(&spki).unwrap(), key.public());
        }
        assert_eq!(ec_spki(parameters, &point[1..]), None);
        assert_eq!(ec_spki(b"\x06\x01\x00", point), None, "another curve");
    }

    #[test]
    fn an_rsa_key_in_its_numbers() {
        let modulus = [0xc1; 256];
        let key = PublicKey::from_spki_der(&rsa_spki(&modulus, &[1, 0, 1])).unwrap();
        assert_eq!(key.kind(), KeyKind::Rsa { bits: 2_048 });
        assert_eq!(rsa_public_numbers(key.key_bytes()), Some((modulus.as_slice(), [1, 0, 1].as_slice())));
    }

    #[test]
    fn signatures_are_der_without_leading_zeros() {
        let mut raw = [0; 64];
        raw[31] = 0x7f;
        raw[63] = 0x80;
        assert_eq!(ecdsa_signature(KeyKind::EcP256, &raw), Some(vec![0x30, 7, 2, 1, 0x7f, 2, 2, 0, 0x80]));
        assert_eq!(ecdsa_signature(KeyKind::EcP256, &raw[1..]), None);
        assert_eq!(ecdsa_signature(KeyKind::EcP384, &raw), None);
        assert_eq!(ecdsa_signature(KeyKind::Rsa { bits: 2_048 }, &raw), None);
        assert_eq!(ecdsa_signature(KeyKind::EcP521, &[0xff; 132]).unwrap()[..2], [0x30, 0x81]);
    }

    #[test]
    fn the_scalar_of_a_key() {
        let key = PrivateKey::generate_p256(&[7; 32]).unwrap();
        assert_eq!(ec_scalar(key.pkcs8_der().expose()), Some([7; 32].as_slice()));
        for der in [b"".as_slice(), b"\x30\x00", b"\x04\x01\x00", key.public().spki_der()] {
            assert_eq!(ec_scalar(der), None);
            assert_eq!(rsa_numbers(der), None);
        }
    }
}
