//! Questions about single certificates, and the answers. Questions come from strangers: they are read strictly, and are small.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};

use super::generalized;
use crate::asn1::{self, Element, Malformed, oid};
use crate::certificate::Certificate;
use crate::issue::extension;
use crate::key::{SignError, Signer};
use crate::serial::Serial;
use crate::time::Time;

/// Bytes of a request, at most. OpenSSL's has about 110.
pub const REQUEST_BYTES_MAX: usize = 2048;

/// Bytes of a nonce that is echoed, at most (RFC 8954, 2.1). A longer one is left out of the answer.
pub const NONCE_BYTES_MAX: usize = 32;

/// Certificates asked for in one request, at most.
const QUESTIONS_MAX: usize = 16;
/// Source: X.690, 8.8.
const NULL: &[u8] = &[5, 0];

/// Which certificate is asked for (RFC 6960, 4.1.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertId {
    /// As it came: it stands in the answer byte for byte.
    der: Vec<u8>,
    hash: Option<Hash>,
    name: Vec<u8>,
    key: Vec<u8>,
    /// The serial; none if it is no number that a certificate can have.
    pub serial: Option<Serial>,
    /// Whether its algorithm has no parameters, or NULL: there are two ways to write that, and no end of ways to write others.
    is_plain: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hash {
    Sha1,
    Sha256,
}

impl Hash {
    fn of(self, bytes: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha1 => &SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &SHA256,
        };
        digest(algorithm, bytes).as_ref().to_vec()
    }
}

impl CertId {
    /// Whether it asks for a certificate of this issuer.
    pub fn is_of(&self, issuer: &Certificate) -> bool {
        let Some(hash) = self.hash else { return false };
        let Ok(key) = issuer.public_key() else { return false };
        self.name == hash.of(issuer.subject_der()) && self.key == hash.of(key.key_bytes())
    }

    /// As it came, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whether it is written as everybody does, so that there are few of them for a certificate.
    pub fn is_plain(&self) -> bool {
        self.is_plain
    }
}

/// What was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// For which certificates; at least one.
    pub certificates: Vec<CertId>,
    /// The nonce, if it has one that is echoed: the content of its extension.
    pub nonce: Option<Vec<u8>>,
}

/// Why a request is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Longer than any need be.
    #[error("longer than {REQUEST_BYTES_MAX} bytes")]
    TooLong,
    /// Not what RFC 6960 says.
    #[error("not an OCSP request")]
    Malformed,
}

impl From<Malformed> for RequestError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Reads a request. Who asks, and whether it is signed, makes no difference to the answer.
///
/// # Errors
/// [`RequestError`].
pub fn ocsp_request(der: &[u8]) -> Result<Question, RequestError> {
    if der.len() > REQUEST_BYTES_MAX {
        return Err(RequestError::TooLong);
    }
    let mut request = Element::only(der)?.expect(asn1::SEQUENCE)?.inside()?;
    let mut tbs = request.next()?.expect(asn1::SEQUENCE)?.inside()?;
    request.optional(asn1::explicit(0))?;
    request.end()?;
    if let Some(version) = tbs.optional(asn1::explicit(0))?
        && !Element::only(version.value)?.unsigned()?.is_empty()
    {
        return Err(RequestError::Malformed);
    }
    tbs.optional(asn1::explicit(1))?;
    let mut list = tbs.next()?.expect(asn1::SEQUENCE)?.inside()?;
    let mut certificates = Vec::new();
    while !list.is_empty() {
        if certificates.len() >= QUESTIONS_MAX {
            return Err(RequestError::Malformed);
        }
        let mut one = list.next()?.expect(asn1::SEQUENCE)?.inside()?;
        certificates.push(cert_id(one.next()?)?);
        one.optional(asn1::explicit(0))?;
        one.end()?;
    }
    if certificates.is_empty() {
        return Err(RequestError::Malformed);
    }
    let nonce = match tbs.optional(asn1::explicit(2))? {
        Some(extensions) => nonce(Element::only(extensions.value)?)?,
        None => None,
    };
    tbs.end()?;
    Ok(Question { certificates, nonce })
}

fn cert_id(element: Element<'_>) -> Result<CertId, Malformed> {
    let mut parts = element.expect(asn1::SEQUENCE)?.inside()?;
    let mut algorithm = parts.next()?.expect(asn1::SEQUENCE)?.inside()?;
    let hash = match algorithm.next()?.raw {
        oid::SHA1 => Some(Hash::Sha1),
        oid::SHA256 => Some(Hash::Sha256),
        _ => None,
    };
    let is_plain = algorithm.is_empty() || algorithm.next()?.raw == NULL;
    algorithm.end()?;
    let name = parts.next()?.expect(asn1::OCTET_STRING)?.value.to_vec();
    let key = parts.next()?.expect(asn1::OCTET_STRING)?.value.to_vec();
    let serial = parts.next()?.expect(asn1::INTEGER)?;
    parts.end()?;
    let serial = serial.unsigned().ok().and_then(|bytes| Serial::from_bytes(bytes).ok());
    Ok(CertId { der: element.raw.to_vec(), hash, name, key, serial, is_plain })
}

/// The nonce among extensions. Others are not critical to us: RFC 6960 (4.4) has none that changes what is true.
fn nonce(extensions: Element<'_>) -> Result<Option<Vec<u8>>, Malformed> {
    let mut list = extensions.expect(asn1::SEQUENCE)?.inside()?;
    let mut found = None;
    while !list.is_empty() {
        let mut parts = list.next()?.expect(asn1::SEQUENCE)?.inside()?;
        let kind = parts.next()?.raw;
        parts.optional(asn1::BOOLEAN)?;
        let value = parts.next()?.expect(asn1::OCTET_STRING)?.value;
        parts.end()?;
        if kind != oid::OCSP_NONCE {
            continue;
        }
        // An OCTET STRING inside (RFC 8954); some clients of before leave that out.
        let length = Element::only(value).and_then(|inner| inner.expect(asn1::OCTET_STRING)).map(|it| it.value.len());
        let length = length.unwrap_or(value.len());
        if found.is_some() {
            return Err(Malformed);
        }
        found = Some(((1..=NONCE_BYTES_MAX).contains(&length)).then(|| value.to_vec()));
    }
    Ok(found.flatten())
}

/// How a certificate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is on record, and was not taken back.
    Good,
    /// It was taken back.
    Revoked {
        /// When.
        at: Time,
        /// CRLReason; 0 is not written down.
        reason: u8,
    },
    /// Nothing is known of it.
    Unknown,
}

/// One certificate's part of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Single<'a> {
    /// Which.
    pub certificate: &'a CertId,
    /// How it stands.
    pub status: Status,
}

/// Signs an answer, DER. It names its signer by its key, and brings no certificates: whoever asks has the issuer's.
///
/// # Errors
/// The signer gave no signature.
pub fn ocsp_response(
    answers: &[Single<'_>],
    nonce: Option<&[u8]>,
    produced: Time,
    next_update: Time,
    signer: &dyn Signer,
) -> Result<Vec<u8>, SignError> {
    let mut singles = Vec::new();
    for answer in answers {
        let next = asn1::tlv(asn1::explicit(0), &[&generalized(next_update)]);
        let parts = [&answer.certificate.der, &status(answer.status), &generalized(produced), &next];
        let parts: Vec<&[u8]> = parts.into_iter().map(Vec::as_slice).collect();
        singles.extend_from_slice(&asn1::tlv(asn1::SEQUENCE, &parts));
    }
    let key_id = asn1::tlv(asn1::OCTET_STRING, &[&signer.public().key_id()]);
    let extensions = nonce.map(|nonce| {
        let nonce = extension(oid::OCSP_NONCE, nonce);
        asn1::tlv(asn1::explicit(1), &[&asn1::tlv(asn1::SEQUENCE, &[&nonce])])
    });
    let data = asn1::tlv(
        asn1::SEQUENCE,
        &[
            &asn1::tlv(asn1::explicit(2), &[&key_id]),
            &generalized(produced),
            &asn1::tlv(asn1::SEQUENCE, &[&singles]),
            &extensions.unwrap_or_default(),
        ],
    );
    let signature = signer.sign(&data)?;
    let algorithm = signer.algorithm().identifier_der();
    let basic = asn1::tlv(asn1::SEQUENCE, &[&data, algorithm, &asn1::bit_string(&signature)]);
    let bytes = asn1::tlv(asn1::SEQUENCE, &[oid::OCSP_BASIC, &asn1::tlv(asn1::OCTET_STRING, &[&basic])]);
    Ok(asn1::tlv(asn1::SEQUENCE, &[&[asn1::ENUMERATED, 1, 0], &asn1::tlv(asn1::explicit(0), &[&bytes])]))
}

fn status(status: Status) -> Vec<u8> {
    match status {
        Status::Good => vec![asn1::implicit(0), 0],
        Status::Unknown => vec![asn1::implicit(2), 0],
        Status::Revoked { at, reason: 0 } => asn1::tlv(asn1::explicit(1), &[&generalized(at)]),
        Status::Revoked { at, reason } => {
            let reason = asn1::tlv(asn1::explicit(0), &[&[asn1::ENUMERATED, 1, reason]]);
            asn1::tlv(asn1::explicit(1), &[&generalized(at), &reason])
        }
    }
}

/// Why there is no answer (RFC 6960, 4.2.1); unsigned, as the protocol has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The request cannot be read.
    Malformed,
    /// The key that signs cannot be used now.
    TryLater,
    /// The certificate's issuer is not one that is answered for here.
    Unauthorized,
}

/// The answer that says that there is none, DER.
pub fn ocsp_trouble(trouble: Trouble) -> Vec<u8> {
    let code = match trouble {
        Trouble::Malformed => 1,
        Trouble::TryLater => 3,
        Trouble::Unauthorized => 6,
    };
    asn1::tlv(asn1::SEQUENCE, &[&[asn1::ENUMERATED, 1, code]])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::issue;
    use crate::key::PrivateKey;

    const NOW: Time = Time::from_unix_secs(1_900_000_000);

    fn root() -> (PrivateKey, Certificate) {
        let key = PrivateKey::generate_p256(&[1; 32]).unwrap();
        let root = issue::root(&key, Serial::from_random([1; 20]), NOW).unwrap();
        (key, root)
    }

    fn asked(hash: Hash, root: &Certificate, serial: &[u8]) -> Vec<u8> {
        let kind = if hash == Hash::Sha1 { oid::SHA1 } else { oid::SHA256 };
        let (name, key) = (hash.of(root.subject_der()), hash.of(root.public_key().unwrap().key_bytes()));
        let octets = |bytes: &[u8]| asn1::tlv(asn1::OCTET_STRING, &[bytes]);
        let algorithm = asn1::tlv(asn1::SEQUENCE, &[kind, asn1::NULL]);
        let id = [algorithm, octets(&name), octets(&key), asn1::unsigned_integer(serial)].concat();
        asn1::tlv(asn1::SEQUENCE, &[&asn1::tlv(asn1::SEQUENCE, &[&id])])
    }

    fn request(list: &[Vec<u8>], nonce: Option<&[u8]>) -> Vec<u8> {
        let list = asn1::tlv(asn1::SEQUENCE, &[&list.concat()]);
        let nonce = nonce.map(|nonce| extension(oid::OCSP_NONCE, &asn1::tlv(asn1::OCTET_STRING, &[nonce])));
        let extensions = nonce.map(|one| asn1::tlv(asn1::explicit(2), &[&asn1::tlv(asn1::SEQUENCE, &[&one])]));
        let tbs = asn1::tlv(asn1::SEQUENCE, &[&list, &extensions.unwrap_or_default()]);
        asn1::tlv(asn1::SEQUENCE, &[&tbs])
    }

    #[test]
    fn a_request_is_read_strictly() {
        let (_, root) = root();
        for hash in [Hash::Sha1, Hash::Sha256] {
            let read = ocsp_request(&request(&[asked(hash, &root, &[7, 8])], Some(&[9; 16]))).unwrap();
            assert!(read.certificates[0].is_of(&root));
            assert_eq!(read.certificates[0].serial, Serial::from_bytes(&[7, 8]).ok());
            assert_eq!(read.nonce.map(|nonce| nonce.len()), Some(18));
        }
        let other = issue::root(&PrivateKey::generate_p256(&[2; 32]).unwrap(), Serial::from_random([1; 20]), NOW);
        let good = request(&[asked(Hash::Sha1, &root, &[1])], None);
        assert!(!ocsp_request(&good).unwrap().certificates[0].is_of(&other.unwrap()), "the same name, another key");
        for length in 0..good.len() {
            assert_eq!(ocsp_request(&good[..length]), Err(RequestError::Malformed), "cut off at {length}");
        }
        let rows: [(&str, Vec<u8>); 5] = [
            ("nothing asked", request(&[], None)),
            ("too many", request(&vec![asked(Hash::Sha1, &root, &[1]); QUESTIONS_MAX + 1], None)),
            ("something after it", [good.clone(), vec![0]].concat()),
            ("a certificate", root.der().to_vec()),
            ("long", vec![0x30; REQUEST_BYTES_MAX + 1]),
        ];
        for (what, bytes) in rows {
            assert!(ocsp_request(&bytes).is_err(), "{what}");
        }
        for (length, echoed) in [(0, false), (1, true), (NONCE_BYTES_MAX, true), (NONCE_BYTES_MAX + 1, false)] {
            let read = ocsp_request(&request(&[asked(Hash::Sha1, &root, &[1])], Some(&vec![9; length]))).unwrap();
            assert_eq!(read.nonce.is_some(), echoed, "{length} bytes");
        }
        let long = request(&[asked(Hash::Sha1, &root, &[0x7f; 21])], None);
        assert_eq!(ocsp_request(&long).unwrap().certificates[0].serial, None, "no certificate has such a serial");
    }

    #[test]
    fn an_answer_holds_what_was_asked_and_nothing_else() {
        let (key, root) = root();
        let question = ocsp_request(&request(&[asked(Hash::Sha1, &root, &[5])], Some(&[9; 4]))).unwrap();
        let single = Single { certificate: &question.certificates[0], status: Status::Revoked { at: NOW, reason: 1 } };
        let der = ocsp_response(&[single], question.nonce.as_deref(), NOW, NOW, &key).unwrap();
        let mut outer = Element::only(&der).unwrap().inside().unwrap();
        assert_eq!(outer.next().unwrap().raw, [asn1::ENUMERATED, 1, 0]);
        let bytes = outer.next().unwrap().expect(asn1::explicit(0)).unwrap();
        let mut bytes = Element::only(bytes.value).unwrap().inside().unwrap();
        assert_eq!(bytes.next().unwrap().raw, oid::OCSP_BASIC);
        let mut basic = Element::only(bytes.next().unwrap().value).unwrap().inside().unwrap();
        let data = basic.next().unwrap();
        assert_eq!(basic.next().unwrap().raw, key.algorithm().identifier_der());
        let signature = basic.next().unwrap().bits().unwrap();
        basic.end().unwrap();
        key.public().verify(key.algorithm(), data.raw, signature).unwrap();
        let mut data = data.inside().unwrap();
        assert_eq!(data.next().unwrap().expect(asn1::explicit(2)).unwrap().value[2..], key.public().key_id());
        data.next().unwrap().expect(asn1::GENERALIZED_TIME).unwrap();
        let singles = data.next().unwrap();
        assert!(singles.raw.windows(single.certificate.der.len()).any(|part| part == single.certificate.der));
        assert!(data.next().unwrap().raw.ends_with(&[4, 6, 4, 4, 9, 9, 9, 9]), "the nonce as it came");
        data.end().unwrap();
        assert_eq!(ocsp_trouble(Trouble::Unauthorized), [0x30, 3, 10, 1, 6]);
    }
}
