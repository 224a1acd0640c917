//! Certificate revocation lists, version 2, whole or what came since another.

use crate::asn1::{self, oid};
use crate::certificate::Certificate;
use crate::issue::{authority_key_id, date, extension};
use crate::key::{SignError, Signer};
use crate::serial::Serial;
use crate::time::Time;

/// A list's number (RFC 5280, 5.2.3). It grows with the epoch, with the revocations that are on it, and with the time, in this order: so
/// several managers that sign lists side by side never give one number to two lists, and the number alone says what is on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CrlNumber(u128);

const TIME_BITS: u32 = 40;
const VERSION_BITS: u32 = 48;

impl CrlNumber {
    /// Of a list signed at `at`, in this epoch, with everything up to this version.
    pub fn new(epoch: u64, version: u64, at: Time) -> Self {
        let secs = u128::try_from(at.unix_millis().div_euclid(1000)).unwrap_or(0) & mask(TIME_BITS);
        let version = u128::from(version) & mask(VERSION_BITS);
        let epoch = u128::from(epoch) & mask(127 - TIME_BITS - VERSION_BITS);
        Self((epoch << (TIME_BITS + VERSION_BITS)) | (version << TIME_BITS) | secs)
    }

    /// A number as OpenSSL and we print it: decimal, or hexadecimal after `0x`.
    pub fn parse(text: &str) -> Option<Self> {
        let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) => u128::from_str_radix(digits, 16),
            None => text.parse(),
        };
        parsed.ok().map(Self)
    }

    /// The epoch of the list.
    pub fn epoch(self) -> u64 {
        u64::try_from(self.0 >> (TIME_BITS + VERSION_BITS)).unwrap_or(u64::MAX)
    }

    /// The version of the revocations on it.
    pub fn version(self) -> u64 {
        u64::try_from((self.0 >> TIME_BITS) & mask(VERSION_BITS)).unwrap_or(u64::MAX)
    }

    fn der(self) -> Vec<u8> {
        asn1::unsigned_integer(&self.0.to_be_bytes())
    }
}

const fn mask(bits: u32) -> u128 {
    (1 << bits) - 1
}

impl std::fmt::Display for CrlNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One certificate on a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its serial.
    pub serial: Serial,
    /// When it was taken back.
    pub at: Time,
    /// CRLReason (RFC 5280, 5.3.1); 0 is not written down.
    pub reason: u8,
}

/// What a list says beside its entries.
#[derive(Clone, Copy)]
pub struct List<'a> {
    /// Whose certificates are on it: the one that signs.
    pub issuer: &'a Certificate,
    /// Its number.
    pub number: CrlNumber,
    /// The whole list that this one completes; none: it is whole itself.
    pub since: Option<CrlNumber>,
    /// When it was signed.
    pub this_update: Time,
    /// When the next one is there at the latest.
    pub next_update: Time,
}

/// Signs a list, DER.
///
/// # Errors
/// The signer gave no signature.
pub fn crl(
    list: &List<'_>,
    entries: impl IntoIterator<Item = Entry>,
    signer: &dyn Signer,
) -> Result<Vec<u8>, SignError> {
    let mut rows = Vec::new();
    for entry in entries {
        rows.extend_from_slice(&row(&entry));
    }
    // An empty list must be left out (RFC 5280, 5.1.2.6).
    let rows = if rows.is_empty() { rows } else { asn1::tlv(asn1::SEQUENCE, &[&rows]) };
    let mut extensions = vec![authority_key_id(list.issuer), extension(oid::CRL_NUMBER, &list.number.der())];
    if let Some(base) = list.since {
        extensions.push(asn1::tlv(
            asn1::SEQUENCE,
            &[oid::DELTA_CRL_INDICATOR, asn1::TRUE, &asn1::tlv(asn1::OCTET_STRING, &[&base.der()])],
        ));
    }
    let extensions: Vec<&[u8]> = extensions.iter().map(Vec::as_slice).collect();
    let extensions = asn1::tlv(asn1::SEQUENCE, &extensions);
    let algorithm = signer.algorithm().identifier_der();
    let tbs = asn1::tlv(
        asn1::SEQUENCE,
        &[
            &[asn1::INTEGER, 1, 1],
            algorithm,
            list.issuer.subject_der(),
            &date(list.this_update),
            &date(list.next_update),
            &rows,
            &asn1::tlv(asn1::explicit(0), &[&extensions]),
        ],
    );
    let signature = signer.sign(&tbs)?;
    Ok(asn1::tlv(asn1::SEQUENCE, &[&tbs, algorithm, &asn1::bit_string(&signature)]))
}

fn row(entry: &Entry) -> Vec<u8> {
    let serial = asn1::unsigned_integer(entry.serial.as_bytes());
    let at = date(entry.at);
    if entry.reason == 0 {
        return asn1::tlv(asn1::SEQUENCE, &[&serial, &at]);
    }
    let reason = extension(oid::CRL_REASON, &[asn1::ENUMERATED, 1, entry.reason]);
    asn1::tlv(asn1::SEQUENCE, &[&serial, &at, &asn1::tlv(asn1::SEQUENCE, &[&reason])])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use x509_parser::prelude::{FromDer, ParsedExtension, ReasonCode};
    use x509_parser::revocation_list::CertificateRevocationList;

    use super::*;
    use crate::issue;
    use crate::key::PrivateKey;

    const NOW: Time = Time::from_unix_secs(1_900_000_000);

    #[test]
    fn as_pem_in_lines_of_64() {
        let pem = super::super::crl_pem(&[0; 100]);
        assert!(pem.starts_with("-----BEGIN X509 CRL-----\n") && pem.ends_with("-----END X509 CRL-----\n"), "{pem}");
        assert!(pem.lines().all(|line| line.len() <= 64));
    }

    #[test]
    fn numbers_grow_and_say_what_is_on_a_list() {
        let later = Time::from_unix_secs(1_900_000_001);
        let ordered = [
            CrlNumber::new(0, 0, NOW),
            CrlNumber::new(0, 0, later),
            CrlNumber::new(0, 1, NOW),
            CrlNumber::new(0, 1 << 47, NOW),
            CrlNumber::new(1, 0, NOW),
            CrlNumber::new(u64::from(u32::MAX), u64::from(u32::MAX), NOW),
        ];
        assert!(ordered.is_sorted_by(|one, other| one < other), "{ordered:?}");
        for number in ordered {
            assert_eq!(CrlNumber::parse(&number.to_string()), Some(number));
            assert_eq!(CrlNumber::parse(&format!("0x{:X}", number.0)), Some(number));
            assert!(number.der().len() <= 2 + 20, "at most 20 octets");
        }
        assert_eq!((ordered[3].epoch(), ordered[3].version(), ordered[4].epoch()), (0, 1 << 47, 1));
        for text in ["", "-1", "x", "0x", "340282366920938463463374607431768211456"] {
            assert_eq!(CrlNumber::parse(text), None, "{text}");
        }
    }

    /// Another's parser reads what was written.
    #[test]
    fn a_third_party_reads_the_list() {
        let key = PrivateKey::generate_p256(&[1; 32]).unwrap();
        let root = issue::root(&key, Serial::from_random([1; 20]), NOW).unwrap();
        let entries: Vec<Entry> = (1..=200u8)
            .map(|n| Entry { serial: Serial::from_random([n; 20]), at: NOW, reason: [0, 1, 4, 5][usize::from(n % 4)] })
            .collect();
        let number = CrlNumber::new(2, 200, NOW);
        for (since, taken) in [(None, 200), (Some(CrlNumber::new(2, 190, NOW)), 10), (None, 0)] {
            let next_update = Time::from_unix_secs(1_900_086_400);
            let list = List { issuer: &root, number, since, this_update: NOW, next_update };
            let der = crl(&list, entries[..taken].iter().copied(), &key).unwrap();
            let (rest, read) = CertificateRevocationList::from_der(&der).unwrap();
            assert!(rest.is_empty());
            assert_eq!(read.version().map(|version| version.0), Some(1));
            assert_eq!(read.tbs_cert_list.issuer.as_raw(), root.subject_der());
            assert_eq!(read.last_update().timestamp(), 1_900_000_000);
            assert_eq!(read.next_update().unwrap().timestamp(), 1_900_086_400);
            assert_eq!(read.crl_number().unwrap().to_string(), number.to_string());
            let delta = read.extensions().iter().find(|extension| extension.oid.to_id_string() == "2.5.29.27");
            assert_eq!(delta.map(|extension| extension.critical), since.map(|_| true));
            let aki = read.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(aki) => aki.key_identifier.as_ref().map(|id| id.0.to_vec()),
                _ => None,
            });
            assert_eq!(aki, root.ski());
            let rows: Vec<_> = read.iter_revoked_certificates().collect();
            assert_eq!(rows.len(), taken);
            for (row, entry) in rows.iter().zip(&entries) {
                assert_eq!(row.raw_serial(), entry.serial.to_array().as_slice());
                let reason = row.reason_code().map(|(_, reason)| reason);
                assert_eq!(reason, (entry.reason != 0).then_some(ReasonCode(entry.reason)));
            }
            let signature = read.signature_value.data.as_ref();
            key.public().verify(key.algorithm(), read.tbs_cert_list.as_ref(), signature).unwrap();
        }
    }
}
