//! What tells others that a certificate was taken back: certificate revocation lists (RFC 5280, 5) and answers to questions about one
//! certificate (OCSP, RFC 6960). Both are signed by the key that signed the certificates.

mod crl;
mod ocsp;

pub use crl::{CrlNumber, Entry, List, crl};
pub use ocsp::{
    CertId, NONCE_BYTES_MAX, Question, REQUEST_BYTES_MAX, RequestError, Single, Status, Trouble, ocsp_request,
    ocsp_response, ocsp_trouble,
};

use crate::asn1;
use crate::pem_block;
use crate::time::Time;

/// A list as PEM (RFC 7468, 6).
pub fn crl_pem(der: &[u8]) -> String {
    pem_block::encode_public("X509 CRL", der)
}

/// GeneralizedTime in whole seconds, as RFC 5280 (4.1.2.5.2) wants it.
fn generalized(time: Time) -> Vec<u8> {
    const LAST: Time = Time::from_unix_secs(253_402_300_799);
    let c = time.max(Time::from_unix_secs(0)).min(LAST).civil();
    let text = format!("{:04}{:02}{:02}{:02}{:02}{:02}Z", c.year, c.month, c.day, c.hour, c.minute, c.second);
    asn1::tlv(asn1::GENERALIZED_TIME, &[text.as_bytes()])
}
