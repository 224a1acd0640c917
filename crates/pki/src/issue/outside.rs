//! What a CA issues that stands beside a cluster: its own server's leaf, and the cross-signed certificate of a root of
//! which it is shown a request only.

use std::net::IpAddr;

use super::{CA_KEY_USAGE, IssueError, LEAF_BASIC_CONSTRAINTS, Tbs, authority_key_id, extension, subject_key_id};
use crate::asn1::{self, oid};
use crate::certificate::Certificate;
use crate::csr::Linted;
use crate::key::{PublicKey, Signer};
use crate::serial::Serial;
use crate::time::Time;

pub(super) const SERVER_KEY_USAGE: &[u8] = &[0x30, 14, 6, 3, 0x55, 0x1d, 15, 1, 1, 0xff, 4, 4, 3, 2, 7, 0x80];
const SERVER_EXT_KEY_USAGE: &[u8] = &[
    0x30, 19, 6, 3, 0x55, 0x1d, 37, 4, 12, 0x30, 10, //
    6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1, // serverAuth
];
/// CA, path length 0: it certifies leaves and no further CA.
pub(super) const CROSS_BASIC_CONSTRAINTS: &[u8] =
    &[0x30, 18, 6, 3, 0x55, 0x1d, 19, 1, 1, 0xff, 4, 8, 0x30, 6, 1, 1, 0xff, 2, 1, 0];

/// What the leaf of a CA's own server says beside its key.
pub struct ServerLeaf {
    /// CN: what the server is. There is neither O nor OU, so that it is nobody's node.
    pub common_name: &'static str,
    /// DNS names of the server.
    pub dns_names: Vec<String>,
    /// Addresses of the server.
    pub addresses: Vec<IpAddr>,
    /// From 20 random bytes, new for each leaf.
    pub serial: Serial,
    /// Start of the validity.
    pub not_before: Time,
    /// End of the validity.
    pub not_after: Time,
}

/// Issues the leaf of a CA's own server: for serving TLS, and nothing else.
pub fn server_leaf(
    key: &PublicKey,
    leaf: &ServerLeaf,
    issuer: &Certificate,
    signer: &dyn Signer,
) -> Result<Certificate, IssueError> {
    let attribute = asn1::tlv(asn1::SEQUENCE, &[oid::COMMON_NAME, &asn1::directory_string(leaf.common_name)]);
    let subject = asn1::tlv(asn1::SEQUENCE, &[&asn1::tlv(asn1::SET, &[&attribute])]);
    let names = leaf.dns_names.iter().map(|name| asn1::tlv(asn1::implicit(2), &[name.as_bytes()]));
    let addresses = leaf.addresses.iter().map(|address| match address {
        IpAddr::V4(address) => asn1::tlv(asn1::implicit(7), &[&address.octets()]),
        IpAddr::V6(address) => asn1::tlv(asn1::implicit(7), &[&address.octets()]),
    });
    let all: Vec<Vec<u8>> = names.chain(addresses).collect();
    let parts: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
    let alt_names = extension(oid::SUBJECT_ALT_NAME, &asn1::tlv(asn1::SEQUENCE, &parts));
    let tbs = Tbs {
        serial: leaf.serial,
        issuer: issuer.subject_der(),
        not_before: leaf.not_before,
        not_after: leaf.not_after,
        subject: &subject,
        spki: key.spki_der(),
        extensions: &[
            SERVER_KEY_USAGE,
            SERVER_EXT_KEY_USAGE,
            LEAF_BASIC_CONSTRAINTS,
            &subject_key_id(key),
            &authority_key_id(issuer),
            &alt_names,
        ],
    };
    tbs.sign(signer)
}

/// Numbers and dates of a cross-signed certificate.
pub struct CrossSign {
    /// From 20 random bytes. Not the root's own, which a request does not tell.
    pub serial: Serial,
    /// Start of the validity.
    pub not_before: Time,
    /// End of the validity; the old root's own end, if that is earlier.
    pub not_after: Time,
}

/// Certifies a new root of which there is only a request (pki.md 11.4): its subject and its key. The certificate certifies
/// leaves only (path length 0).
pub fn cross_sign_request(
    new_root: &Linted,
    dates: &CrossSign,
    old_root: &Certificate,
    old: &dyn Signer,
) -> Result<Certificate, IssueError> {
    if old_root.public_key()? != old.public() {
        return Err(IssueError::KeyMismatch);
    }
    let key = new_root.public_key();
    let tbs = Tbs {
        serial: dates.serial,
        issuer: old_root.subject_der(),
        not_before: dates.not_before.max(old_root.not_before()),
        not_after: dates.not_after.min(old_root.not_after()),
        subject: new_root.subject_der(),
        spki: key.spki_der(),
        extensions: &[CA_KEY_USAGE, CROSS_BASIC_CONSTRAINTS, &subject_key_id(key), &authority_key_id(old_root)],
    };
    tbs.sign(old).map_err(|error| match error {
        IssueError::Sign(error) => IssueError::CrossSign(error),
        other => other,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::time::Duration;

    use super::*;
    use crate::chain::{self, Usage};
    use crate::csr::{self, Csr};
    use crate::issue;
    use crate::key::PrivateKey;

    const NOW: Time = Time::from_unix_secs(1_795_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    fn root(seed: u8) -> (Certificate, PrivateKey) {
        let key = PrivateKey::generate_p256(&[seed; 32]).unwrap();
        (issue::root(&key, Serial::from_random([seed; 20]), NOW).unwrap(), key)
    }

    #[test]
    fn a_servers_leaf_is_for_its_names_and_for_no_node() {
        let (ca, signer) = root(1);
        let key = PrivateKey::generate_p256(&[9; 32]).unwrap();
        let leaf = ServerLeaf {
            common_name: "swarmpki ca serve",
            dns_names: vec!["localhost".to_owned(), "ca.example".to_owned()],
            addresses: vec!["127.0.33.1".parse().unwrap(), "::1".parse().unwrap()],
            serial: Serial::from_random([7; 20]),
            not_before: NOW,
            not_after: NOW.saturating_add(DAY),
        };
        let made = server_leaf(key.public(), &leaf, &ca, &signer).unwrap();
        assert_eq!(made.dns_names(), ["localhost", "ca.example"]);
        assert!(made.der().windows(6).any(|bytes| bytes == [0x87, 4, 127, 0, 33, 1]), "an address");
        assert!(made.der().windows(2).any(|bytes| bytes == [0x87, 16]), "an address of IPv6");
        assert!(made.node_subject().is_err());
        let anchors = [ca];
        assert!(chain::reaches(&made, &[], &anchors, NOW, Usage::Server).is_ok());
        assert!(chain::reaches(&made, &[], &anchors, NOW, Usage::Client).is_err(), "no client");
    }

    #[test]
    fn a_cross_signed_request_keeps_name_and_key_and_certifies_leaves_only() {
        let ((old, old_key), (new, new_key)) = (root(1), root(2));
        let request = csr::named_request(new.subject_der(), &new_key).unwrap();
        let linted = Csr::parse(request.as_bytes()).unwrap().verify().unwrap();
        let far = Time::from_unix_secs(i64::from(u32::MAX));
        let dates = CrossSign { serial: Serial::from_random([7; 20]), not_before: NOW, not_after: far };
        let cross = cross_sign_request(&linted, &dates, &old, &old_key).unwrap();
        assert_eq!((cross.subject_der(), cross.spki_der()), (new.subject_der(), new.spki_der()));
        assert_eq!((cross.ski(), cross.aki()), (new.ski(), old.ski()));
        assert_eq!((cross.is_ca(), cross.path_len()), (true, Some(0)));
        assert_eq!(cross.not_after(), old.not_after(), "never longer than the old root");
        let subject =
            crate::Subject { cluster: "c".parse().unwrap(), role: crate::Role::Worker, node: "n".parse().unwrap() };
        let details = issue::Leaf { subject: &subject, serial: Serial::from_random([8; 20]), now: NOW, expiry: DAY };
        let issuer = crate::Issuer::build(
            new.pem().as_bytes(),
            Some(new.pem().as_bytes()),
            Some(std::sync::Arc::new(new_key)),
            b"",
            NOW,
        )
        .unwrap();
        let node = PrivateKey::generate_p256(&[5; 32]).unwrap();
        let leaf = issue::leaf_for_signer(&node, &details, &issuer).unwrap();
        assert!(chain::reaches(&leaf, &[cross], std::slice::from_ref(&old), NOW, Usage::Server).is_ok());
        assert!(chain::reaches(&leaf, &[], &[old], NOW, Usage::Server).is_err());
    }
}
