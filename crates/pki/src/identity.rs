//! Who is who: ids of clusters and nodes, roles, and the subject of a node's certificate (pki.md 1 and 2.2).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::asn1::{self, Element, oid};
use crate::base36;

/// The CA's name: CN of generated roots, SAN of managers, server name for joining.
/// Source: pki.md 1.
pub const CA_NAME: &str = "swarm-ca";

/// Characters an id may have. Generated ids have 25; readers take others' ids as they are.
pub const ID_CHARS_MAX: usize = 64;

/// The text is no id: 1 to 64 characters of `0-9A-Za-z._-`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid id: 1 to 64 characters of 0-9, A-Z, a-z, '.', '_' and '-' are allowed")]
pub struct InvalidId;

/// Makes the text of an id, 25 characters `0-9a-z`, from 17 random bytes (pki.md 1).
/// Also used for session ids and the like.
pub fn random_id(random: [u8; 17]) -> String {
    let mut number = random;
    number[0] |= 0x80;
    let digits = base36::encode::<27>(&number);
    String::from_utf8_lossy(&digits[1..26]).into_owned()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// A new id from 17 random bytes (pki.md 1).
            pub fn generate(random: [u8; 17]) -> Self {
                $name(random_id(random).into())
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
                if text.is_empty() || text.len() > ID_CHARS_MAX || !text.bytes().all(allowed) {
                    return Err(InvalidId);
                }
                Ok($name(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

id! {
    /// A node's id: CN of its certificates. Opaque; never used twice in a cluster.
    NodeId
}
id! {
    /// A cluster's id: O of all its node certificates. Starts with `FIPS.` if the cluster demands FIPS mode.
    ClusterId
}

impl ClusterId {
    /// Whether the cluster demands FIPS mode of its nodes (pki.md 15).
    pub fn fips(&self) -> bool {
        self.0.starts_with("FIPS.")
    }
}

/// What a node's certificate allows it to be.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Role {
    /// Runs tasks. Value 0 on the wire.
    Worker = 0,
    /// Also a member of the cluster's control plane. Value 1 on the wire.
    Manager = 1,
}

impl Role {
    /// OU and SAN of the certificate: `swarm-worker` or `swarm-manager`.
    pub const fn ou(self) -> &'static str {
        match self {
            Role::Worker => "swarm-worker",
            Role::Manager => "swarm-manager",
        }
    }

    /// The role that an OU stands for.
    pub fn from_ou(ou: &str) -> Option<Role> {
        [Role::Worker, Role::Manager].into_iter().find(|role| role.ou() == ou)
    }

    /// The role as people write it: `worker` or `manager`.
    pub const fn word(self) -> &'static str {
        match self {
            Role::Worker => "worker",
            Role::Manager => "manager",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The subject of a node's certificate: cluster (O), role (OU), node (CN).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Subject {
    /// O.
    pub cluster: ClusterId,
    /// OU.
    pub role: Role,
    /// CN.
    pub node: NodeId,
}

/// Why a name is no node's subject.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// The name is no DER, or one of the three parts is no text.
    #[error("malformed certificate subject")]
    Malformed,
    /// No OU (conformance 146).
    #[error("no OU found in certificate subject")]
    NoRole,
    /// No O (conformance 146).
    #[error("no organization found in certificate subject")]
    NoCluster,
    /// No CN (conformance 146).
    #[error("no valid subject names found for TLS configuration")]
    NoNode,
    /// O, OU or CN more than once: whom it names would depend on the reader.
    #[error("more than one {0} in certificate subject")]
    Ambiguous(&'static str),
    /// The OU is no role.
    #[error("OU in certificate subject is not a role: {0:?}")]
    UnknownRole(String),
    /// O or CN is no id.
    #[error("{0} in certificate subject is not an id")]
    InvalidId(&'static str),
}

impl Subject {
    /// Reads a DER name: exactly one O, one OU and one CN; other attributes are ignored.
    pub fn from_name_der(der: &[u8]) -> Result<Subject, SubjectError> {
        let name = Names::read(der)?;
        let role = name.role.ok_or(SubjectError::NoRole)?;
        let cluster = name.cluster.ok_or(SubjectError::NoCluster)?;
        let node = name.node.ok_or(SubjectError::NoNode)?;
        Ok(Subject {
            cluster: cluster.parse().map_err(|InvalidId| SubjectError::InvalidId("O"))?,
            role: Role::from_ou(role).ok_or_else(|| SubjectError::UnknownRole(role.to_owned()))?,
            node: node.parse().map_err(|InvalidId| SubjectError::InvalidId("CN"))?,
        })
    }

    /// The DER name: O, OU, CN in this order, each a PrintableString where its characters allow (pki.md 2.2).
    pub fn to_name_der(&self) -> Vec<u8> {
        let part = |kind: &[u8], text: &str| {
            let attribute = asn1::tlv(asn1::SEQUENCE, &[kind, &asn1::directory_string(text)]);
            asn1::tlv(asn1::SET, &[&attribute])
        };
        asn1::tlv(
            asn1::SEQUENCE,
            &[
                &part(oid::ORGANIZATION, self.cluster.as_str()),
                &part(oid::ORGANIZATIONAL_UNIT, self.role.ou()),
                &part(oid::COMMON_NAME, self.node.as_str()),
            ],
        )
    }
}

/// The name of generated roots: `CN=swarm-ca` alone.
pub(crate) fn ca_name_der() -> Vec<u8> {
    let attribute = asn1::tlv(asn1::SEQUENCE, &[oid::COMMON_NAME, &asn1::directory_string(CA_NAME)]);
    asn1::tlv(asn1::SEQUENCE, &[&asn1::tlv(asn1::SET, &[&attribute])])
}

/// The three parts of a name that matter here.
#[derive(Default)]
struct Names<'a> {
    cluster: Option<&'a str>,
    role: Option<&'a str>,
    node: Option<&'a str>,
}

impl<'a> Names<'a> {
    fn read(der: &'a [u8]) -> Result<Self, SubjectError> {
        let malformed = |_: asn1::Malformed| SubjectError::Malformed;
        let mut found = Names::default();
        let name = Element::only(der).and_then(|name| name.expect(asn1::SEQUENCE));
        let mut sets = name.and_then(Element::inside).map_err(malformed)?;
        while !sets.is_empty() {
            let set = sets.next().and_then(|set| set.expect(asn1::SET));
            let mut attributes = set.and_then(Element::inside).map_err(malformed)?;
            while !attributes.is_empty() {
                let (kind, text) = attribute(&mut attributes).map_err(malformed)?;
                let (slot, name) = match kind {
                    oid::ORGANIZATION => (&mut found.cluster, "O"),
                    oid::ORGANIZATIONAL_UNIT => (&mut found.role, "OU"),
                    oid::COMMON_NAME => (&mut found.node, "CN"),
                    _ => continue,
                };
                if slot.is_some() {
                    return Err(SubjectError::Ambiguous(name));
                }
                *slot = Some(text.ok_or(SubjectError::Malformed)?);
            }
        }
        Ok(found)
    }
}

/// Type (with tag and length) and, if it is one, text of the next attribute.
fn attribute<'a>(attributes: &mut asn1::Elements<'a>) -> Result<(&'a [u8], Option<&'a str>), asn1::Malformed> {
    let mut parts = attributes.next()?.expect(asn1::SEQUENCE)?.inside()?;
    let kind = parts.next()?.raw;
    let value = parts.next()?;
    parts.end()?;
    let text = match value.tag {
        asn1::PRINTABLE_STRING | asn1::UTF8_STRING | asn1::IA5_STRING => std::str::from_utf8(value.value).ok(),
        _ => None,
    };
    Ok((kind, text))
}

/// The first CN of a name, for texts only; empty if there is none.
pub(crate) fn common_name(der: &[u8]) -> String {
    let first = || -> Result<Option<String>, asn1::Malformed> {
        let mut sets = Element::only(der)?.inside()?;
        while !sets.is_empty() {
            let mut attributes = sets.next()?.inside()?;
            while !attributes.is_empty() {
                if let (oid::COMMON_NAME, Some(text)) = attribute(&mut attributes)? {
                    return Ok(Some(text.to_owned()));
                }
            }
        }
        Ok(None)
    };
    first().ok().flatten().unwrap_or_default()
}
