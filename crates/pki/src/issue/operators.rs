//! What the operators' root is and issues: certificates with which people and programs command a cluster. The leaf of the server
//! that they speak to is [`server_leaf`](super::server_leaf).

use std::time::Duration;

use super::outside::{CROSS_BASIC_CONSTRAINTS, SERVER_KEY_USAGE};
use super::{CA_KEY_USAGE, IssueError, LEAF_BASIC_CONSTRAINTS, Tbs, authority_key_id, extension, subject_key_id};
use crate::asn1::{self, oid};
use crate::certificate::Certificate;
use crate::csr::Linted;
use crate::identity::ClusterId;
use crate::key::Signer;
use crate::operator::{self, OperatorSubject};
use crate::serial::Serial;
use crate::time::Time;

/// Life of an operators' root: ten years.
pub const OPERATORS_ROOT_LIFE: Duration = Duration::from_secs(3_652 * 86_400);
/// Life of an operator's certificate if nothing else is asked: 30 days.
pub const OPERATOR_LIFE_DEFAULT: Duration = Duration::from_secs(30 * 86_400);
/// The shortest life of an operator's certificate that is issued.
pub const OPERATOR_LIFE_MIN: Duration = Duration::from_secs(60);
/// The longest: a year.
pub const OPERATOR_LIFE_MAX: Duration = Duration::from_secs(365 * 86_400);
/// How far before its making an operator's certificate begins: tolerance for clocks that differ.
pub const OPERATOR_BACKDATE: Duration = Duration::from_secs(5 * 60);

const _: () = assert!(OPERATOR_LIFE_MIN.as_secs() < OPERATOR_LIFE_DEFAULT.as_secs());
const _: () = assert!(OPERATOR_LIFE_DEFAULT.as_secs() < OPERATOR_LIFE_MAX.as_secs());
const _: () = assert!(OPERATOR_LIFE_MAX.as_secs() < OPERATORS_ROOT_LIFE.as_secs());

const CLIENT_EXT_KEY_USAGE: &[u8] = &[
    0x30, 19, 6, 3, 0x55, 0x1d, 37, 4, 12, 0x30, 10, //
    6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2, // clientAuth
];

/// Makes the root of a cluster's operators, self-signed: it certifies leaves only (path length 0).
///
/// # Errors
/// If the signer gives no signature.
pub fn operators_root(
    cluster: &ClusterId,
    signer: &dyn Signer,
    serial: Serial,
    now: Time,
) -> Result<Certificate, IssueError> {
    let name = operator::root_name_der(cluster);
    let not_before = now.saturating_sub(OPERATOR_BACKDATE);
    let tbs = Tbs {
        serial,
        issuer: &name,
        not_before,
        not_after: now.saturating_add(OPERATORS_ROOT_LIFE),
        subject: &name,
        spki: signer.public().spki_der(),
        extensions: &[CA_KEY_USAGE, CROSS_BASIC_CONSTRAINTS, &subject_key_id(signer.public())],
    };
    tbs.sign(signer)
}

/// What an operator's certificate says beside its key.
pub struct OperatorLeaf<'a> {
    /// Who it is.
    pub subject: &'a OperatorSubject,
    /// From 20 random bytes, new for each leaf.
    pub serial: Serial,
    /// The present.
    pub now: Time,
    /// Life from now; brought within [`OPERATOR_LIFE_MIN`] and [`OPERATOR_LIFE_MAX`], and never beyond its root's.
    pub life: Duration,
}

/// Issues an operator's certificate: a TLS client's, and no server's. From the request only the key is taken.
///
/// # Errors
/// If the signer is not that of `root`, or gives no signature.
pub fn operator_leaf(
    csr: &Linted,
    leaf: &OperatorLeaf<'_>,
    root: &Certificate,
    signer: &dyn Signer,
) -> Result<Certificate, IssueError> {
    if root.public_key()? != signer.public() {
        return Err(IssueError::KeyMismatch);
    }
    let key = csr.public_key();
    let life = leaf.life.clamp(OPERATOR_LIFE_MIN, OPERATOR_LIFE_MAX);
    let uri = asn1::tlv(asn1::implicit(6), &[leaf.subject.uri().as_bytes()]);
    let tbs = Tbs {
        serial: leaf.serial,
        issuer: root.subject_der(),
        not_before: leaf.now.saturating_sub(OPERATOR_BACKDATE).max(root.not_before()),
        not_after: leaf.now.saturating_add(life).min(root.not_after()),
        subject: &leaf.subject.to_name_der(),
        spki: key.spki_der(),
        extensions: &[
            SERVER_KEY_USAGE,
            CLIENT_EXT_KEY_USAGE,
            LEAF_BASIC_CONSTRAINTS,
            &subject_key_id(key),
            &authority_key_id(root),
            &extension(oid::SUBJECT_ALT_NAME, &asn1::tlv(asn1::SEQUENCE, &[&uri])),
        ],
    };
    tbs.sign(signer)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::OperatorRole;
    use crate::chain::{self, Usage};
    use crate::csr::{self, Csr};
    use crate::key::PrivateKey;

    const NOW: Time = Time::from_unix_secs(1_795_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::generate_p256(&[seed; 32]).unwrap()
    }

    fn root() -> (Certificate, PrivateKey) {
        let cluster = "w1b8p8777smiidzvu9mwghgki".parse().unwrap();
        (operators_root(&cluster, &key(1), Serial::from_random([1; 20]), NOW).unwrap(), key(1))
    }

    fn issued(life: Duration, role: OperatorRole) -> Certificate {
        let (root, signer) = root();
        let request = csr::named_request(&operator::root_name_der(&"x".parse().unwrap()), &key(9)).unwrap();
        let linted = Csr::parse(request.as_bytes()).unwrap().verify().unwrap();
        let subject = OperatorSubject { name: "alice@example.org".parse().unwrap(), role };
        let leaf = OperatorLeaf { subject: &subject, serial: Serial::from_random([7; 20]), now: NOW, life };
        operator_leaf(&linted, &leaf, &root, &signer).unwrap()
    }

    #[test]
    fn an_operators_certificate_is_a_clients_and_no_nodes() {
        for role in [OperatorRole::Viewer, OperatorRole::Admin] {
            let leaf = issued(DAY, role);
            let anchors = [root().0];
            assert!(chain::reaches(&leaf, &[], &anchors, NOW, Usage::Client).is_ok());
            assert!(chain::reaches(&leaf, &[], &anchors, NOW, Usage::Server).is_err(), "it serves nothing");
            assert!(leaf.node_subject().is_err());
            let subject = OperatorSubject { name: "alice@example.org".parse().unwrap(), role };
            assert_eq!(leaf.subject_der(), subject.to_name_der(), "not what was asked for");
            let uri = b"swarmpki://operator/alice@example.org";
            assert!(leaf.der().windows(uri.len()).any(|bytes| bytes == uri));
            assert_eq!((leaf.is_ca(), leaf.aki(), leaf.ski().is_some()), (false, anchors[0].ski(), true));
            assert_eq!(leaf.spki_hash(), key(9).public().hash());
        }
    }

    #[test]
    fn the_root_is_a_ca_of_leaves_with_a_name_of_its_own() {
        let (root, _) = root();
        assert_eq!(root.common_name(), "swarmpki operators of w1b8p8777smiidzvu9mwghgki");
        assert_eq!((root.may_certify(), root.path_len(), root.self_named()), (true, Some(0), true));
        assert_eq!(root.not_after(), NOW.saturating_add(OPERATORS_ROOT_LIFE));
        assert_eq!(root.subject_der(), operator::root_name_der(&"w1b8p8777smiidzvu9mwghgki".parse().unwrap()));
    }

    #[test]
    fn a_life_has_bounds() {
        let life = |life| issued(life, OperatorRole::Admin).not_after().since(NOW);
        assert_eq!(life(Duration::ZERO), OPERATOR_LIFE_MIN);
        assert_eq!(life(DAY), DAY);
        assert_eq!(life(Duration::MAX), OPERATOR_LIFE_MAX);
        let (root, signer) = root();
        let late = root.not_after().saturating_sub(DAY);
        let linted = Csr::parse(csr::request(&key(9)).unwrap().as_bytes()).unwrap().verify().unwrap();
        let subject = OperatorSubject { name: "a".parse().unwrap(), role: OperatorRole::Admin };
        let leaf = OperatorLeaf { subject: &subject, serial: root.serial(), now: late, life: OPERATOR_LIFE_MAX };
        let made = operator_leaf(&linted, &leaf, &root, &signer).unwrap();
        assert_eq!(made.not_after(), root.not_after(), "never longer than its root");
        let wrong = operator_leaf(&linted, &leaf, &root, &key(2));
        assert_eq!(wrong.unwrap_err(), IssueError::KeyMismatch);
    }
}
