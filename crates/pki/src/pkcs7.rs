//! Certificates in a PKCS #7 envelope (RFC 2315, 9.1: SignedData without signers): what `openssl crl2pkcs7` writes and trust bundles may
//! be kept in (pki.md 3, step 1). Only the certificates are taken; signatures over nothing say nothing.

use crate::asn1::{self, Element, Malformed};

/// Types of PEM blocks that hold one.
pub(crate) const TAGS: [&str; 3] = ["PKCS7", "PKCS #7 SIGNED DATA", "CMS"];

const SIGNED_DATA: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];

/// The certificates, each in DER and in the order given; those of other kinds ([n] instead of a sequence, RFC 5652, 10.2.2) are refused.
pub(crate) fn certificates(der: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    let mut envelope = Element::only(der)?.expect(asn1::SEQUENCE)?.inside()?;
    if envelope.next()?.raw != SIGNED_DATA {
        return Err(Malformed);
    }
    let content = envelope.next()?.expect(asn1::explicit(0))?;
    envelope.end()?;
    let mut data = Element::only(content.value)?.expect(asn1::SEQUENCE)?.inside()?;
    data.next()?.unsigned()?;
    data.next()?.expect(asn1::SET)?;
    data.next()?.expect(asn1::SEQUENCE)?;
    let mut found = Vec::new();
    if let Some(set) = data.optional(asn1::explicit(0))? {
        let mut set = set.inside()?;
        while !set.is_empty() {
            found.push(set.next()?.expect(asn1::SEQUENCE)?.raw);
        }
    }
    Ok(found)
}
