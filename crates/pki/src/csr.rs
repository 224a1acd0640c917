//! Certificate requests (PKCS #10, RFC 2986). Only the public key is taken from one (pki.md 6.1).
//!
//! [`Csr::parse`] looks at shape, size and kind of key; the one public-key operation is in [`Csr::verify`],
//! so that nobody without a token or a leaf can make a manager compute.

use crate::asn1::{self, Element, Malformed};
use crate::identity;
use crate::key::{KeyError, KeyKind, PublicKey, SignError, SignatureAlgorithm, Signer, UnsupportedSignature};
use crate::pem_block;

/// Bytes of the largest request that is read, PEM included. An RSA-4096 request has about 1,700.
pub const CSR_BYTES_MAX: usize = 8_192;
/// Bits of the largest RSA key in a request: a bound on what verifying costs.
pub const CSR_RSA_BITS_MAX: u32 = 4_096;

const TAGS: [&str; 2] = ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"];

/// Why a request is refused. The texts contain those of conformance 18 to 21.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Longer than [`CSR_BYTES_MAX`].
    #[error("CSR Decode failed: {0} bytes are more than {max}", max = CSR_BYTES_MAX)]
    TooLong(usize),
    /// No PEM block (conformance 18, 19).
    #[error("CSR Decode failed")]
    NoPem,
    /// A PEM block of another type (conformance 20).
    #[error("CSR Decode failed: not a certificate or csr")]
    WrongType,
    /// No DER of a request (conformance 21).
    #[error("CSR Decode failed: asn1: structure error")]
    Malformed,
    /// A key that is not accepted (conformance 26, 27): says kind and size.
    #[error("CSR key refused: {0}")]
    Key(#[from] KeyError),
    /// An RSA key beyond [`CSR_RSA_BITS_MAX`].
    #[error("CSR key refused: RSA keys of {0} bits are not accepted, use 2048 to {max} bits", max = CSR_RSA_BITS_MAX)]
    KeyTooLong(u32),
    /// A signature algorithm that is not accepted.
    #[error("CSR signature refused: {0}")]
    Algorithm(#[from] UnsupportedSignature),
    /// The request was not signed by its own key.
    #[error("CSR signature does not verify")]
    Signature,
}

/// A request whose shape, size and kind of key are accepted; its signature is still unchecked.
pub struct Csr {
    der: Vec<u8>,
    info: std::ops::Range<usize>,
    signature: std::ops::Range<usize>,
    subject: std::ops::Range<usize>,
    bare: bool,
    algorithm: SignatureAlgorithm,
    public_key: PublicKey,
}

/// Proof that a request was accepted and signed by its own key: only [`Csr::verify`] makes one, and only such a request is issued for.
pub struct Linted {
    public_key: PublicKey,
    subject: Box<[u8]>,
    bare: bool,
}

impl Csr {
    /// Reads the first PEM block. No public-key operation.
    pub fn parse(pem: &[u8]) -> Result<Csr, CsrError> {
        if pem.len() > CSR_BYTES_MAX {
            return Err(CsrError::TooLong(pem.len()));
        }
        let block = pem_block::Blocks::of(pem).next().ok_or(CsrError::NoPem)?;
        if !TAGS.contains(&block.tag()) {
            return Err(CsrError::WrongType);
        }
        Self::from_der(block.into_public_der())
    }

    /// Reads a request's DER. No public-key operation.
    pub fn from_der(der: Vec<u8>) -> Result<Csr, CsrError> {
        if der.len() > CSR_BYTES_MAX {
            return Err(CsrError::TooLong(der.len()));
        }
        let parts = Parts::read(&der).map_err(|Malformed| CsrError::Malformed)?;
        let public_key = PublicKey::from_spki_der(parts.spki)?;
        match public_key.kind() {
            KeyKind::Rsa { bits } if bits > CSR_RSA_BITS_MAX => return Err(CsrError::KeyTooLong(bits)),
            _ => {}
        }
        let algorithm = SignatureAlgorithm::from_identifier_der(parts.algorithm)?;
        let info = span(&der, parts.info);
        let signature = span(&der, parts.signature);
        let subject = span(&der, parts.subject);
        let bare = parts.bare;
        Ok(Csr { info, signature, subject, bare, algorithm, public_key, der })
    }

    /// The key that asks for a certificate.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Checks that the request was signed by its own key. One public-key operation.
    pub fn verify(self) -> Result<Linted, CsrError> {
        self.public_key
            .verify(self.algorithm, &self.der[self.info.clone()], &self.der[self.signature.clone()])
            .map_err(|_| CsrError::Signature)?;
        Ok(Linted { public_key: self.public_key, subject: self.der[self.subject].into(), bare: self.bare })
    }
}

impl Linted {
    /// The key to certify.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The name that the request carries, DER. No leaf takes it; a root that is to be cross-signed keeps its name.
    pub fn subject_der(&self) -> &[u8] {
        &self.subject
    }

    /// Whether it holds a key and nothing else: no name, no attributes, as nodes send it (pki.md 7). Whoever signs what is asked for
    /// in a request must not be given more.
    pub fn is_bare(&self) -> bool {
        self.bare
    }

    /// The first CN of that name; empty if there is none.
    pub fn common_name(&self) -> String {
        identity::common_name(&self.subject)
    }
}

/// Makes a node's request (pki.md 7): empty subject, no extensions, PEM `CERTIFICATE REQUEST`.
pub fn request(signer: &dyn Signer) -> Result<String, SignError> {
    named_request(&asn1::tlv(asn1::SEQUENCE, &[]), signer)
}

/// Makes a request with a subject (a DER name), as that for the cross-signing of a root (pki.md 11.4).
pub fn named_request(subject_der: &[u8], signer: &dyn Signer) -> Result<String, SignError> {
    let info = asn1::tlv(
        asn1::SEQUENCE,
        &[&asn1::unsigned_integer(&[]), subject_der, signer.public().spki_der(), &asn1::tlv(asn1::explicit(0), &[])],
    );
    let signature = signer.sign(&info)?;
    let der = asn1::tlv(asn1::SEQUENCE, &[&info, signer.algorithm().identifier_der(), &asn1::bit_string(&signature)]);
    Ok(pem_block::encode_public(TAGS[0], &der))
}

struct Parts<'a> {
    info: &'a [u8],
    subject: &'a [u8],
    bare: bool,
    spki: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(der: &'a [u8]) -> Result<Self, Malformed> {
        let mut request = Element::only(der)?.expect(asn1::SEQUENCE)?.inside()?;
        let info = request.next()?.expect(asn1::SEQUENCE)?;
        let algorithm = request.next()?.expect(asn1::SEQUENCE)?.raw;
        let signature = request.next()?.bits()?;
        request.end()?;

        let mut fields = info.inside()?;
        fields.next()?.unsigned()?;
        let subject = fields.next()?.expect(asn1::SEQUENCE)?.raw;
        let spki = fields.next()?.expect(asn1::SEQUENCE)?.raw;
        // Attributes are ignored, and some writers leave them out although RFC 2986 wants them.
        let attributes = fields.optional(asn1::explicit(0))?;
        fields.end()?;
        let empty = |element: Element<'_>| element.inside().is_ok_and(|inside| inside.is_empty());
        let bare = Element::only(subject).is_ok_and(empty) && attributes.is_none_or(empty);
        Ok(Parts { info: info.raw, subject, bare, spki, algorithm, signature })
    }
}

/// Where `part`, a slice of `whole`, lies in it.
fn span(whole: &[u8], part: &[u8]) -> std::ops::Range<usize> {
    let start = part.as_ptr().addr().saturating_sub(whole.as_ptr().addr());
    start..start + part.len()
}
