//! Who commands a cluster over TLS: names and roles of operators, and what their certificates say of them. They are of a root of
//! their own and no node's: there is no O, and their OU is no node's role.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::asn1::{self, oid};
use crate::identity::ClusterId;

/// Characters that an operator's name may have.
pub const OPERATOR_NAME_CHARS_MAX: usize = 64;

/// The text is no operator's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid name: 1 to 64 characters of 0-9, A-Z, a-z, '.', '_', '@' and '-' are allowed")]
pub struct InvalidName;

/// An operator's name: CN of its certificates. Several certificates may have the same one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperatorName(Arc<str>);

impl OperatorName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OperatorName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
        if text.is_empty() || text.len() > OPERATOR_NAME_CHARS_MAX || !text.bytes().all(allowed) {
            return Err(InvalidName);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for OperatorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OperatorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an operator may do.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum OperatorRole {
    /// Look at what is no secret.
    Viewer,
    /// Everything.
    Admin,
}

impl OperatorRole {
    /// OU of the certificate.
    pub const fn ou(self) -> &'static str {
        match self {
            Self::Viewer => "swarmpki-viewer",
            Self::Admin => "swarmpki-admin",
        }
    }

    /// The role as people write it: `viewer` or `admin`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for OperatorRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The text is neither `admin` nor `viewer`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid role: only admin and viewer are supported")]
pub struct InvalidOperatorRole;

impl FromStr for OperatorRole {
    type Err = InvalidOperatorRole;

    fn from_str(text: &str) -> Result<Self, InvalidOperatorRole> {
        [Self::Viewer, Self::Admin].into_iter().find(|role| role.word() == text).ok_or(InvalidOperatorRole)
    }
}

/// Whom an operator's certificate names. What it may do is what the cluster has on record for it, not what it says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OperatorSubject {
    /// CN.
    pub name: OperatorName,
    /// OU.
    pub role: OperatorRole,
}

impl OperatorSubject {
    /// The DER name: OU, CN in this order.
    pub fn to_name_der(&self) -> Vec<u8> {
        name_der(&[(oid::ORGANIZATIONAL_UNIT, self.role.ou()), (oid::COMMON_NAME, self.name.as_str())])
    }

    /// The name as URI, which the SAN of the certificate holds: `swarmpki://operator/NAME`.
    pub fn uri(&self) -> String {
        format!("swarmpki://operator/{}", self.name)
    }
}

/// The name of a cluster's operators' root, DER.
pub(crate) fn root_name_der(cluster: &ClusterId) -> Vec<u8> {
    name_der(&[(oid::COMMON_NAME, &format!("swarmpki operators of {cluster}"))])
}

fn name_der(parts: &[(&[u8], &str)]) -> Vec<u8> {
    let parts: Vec<Vec<u8>> = parts
        .iter()
        .map(|(kind, text)| {
            let attribute = asn1::tlv(asn1::SEQUENCE, &[kind, &asn1::directory_string(text)]);
            asn1::tlv(asn1::SET, &[&attribute])
        })
        .collect();
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    asn1::tlv(asn1::SEQUENCE, &parts)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names() {
        for (text, fits) in [
            ("alice", true),
            ("alice@example.org", true),
            ("ci-runner_7.x", true),
            ("", false),
            ("a b", false),
            ("a/b", false),
            ("a\u{1b}[2J", false),
            ("ä", false),
            (&"x".repeat(64), true),
            (&"x".repeat(65), false),
        ] {
            assert_eq!(text.parse::<OperatorName>().is_ok(), fits, "{text:?}");
        }
    }

    #[test]
    fn roles() {
        assert_eq!("admin".parse(), Ok(OperatorRole::Admin));
        assert_eq!("viewer".parse(), Ok(OperatorRole::Viewer));
        assert_eq!("Admin".parse::<OperatorRole>(), Err(InvalidOperatorRole));
        assert!(OperatorRole::Viewer < OperatorRole::Admin);
        for role in [OperatorRole::Viewer, OperatorRole::Admin] {
            assert_eq!(crate::Role::from_ou(role.ou()), None, "no node's role");
        }
    }
}
