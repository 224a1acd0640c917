//! `NodeRole` ⇄ [`Role`].

use pki::identity::Role;

use crate::proto::NodeRole;

/// A number that stands for no role.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0} is not a node role")]
pub struct UnknownRole(pub i32);

impl From<Role> for NodeRole {
    fn from(role: Role) -> NodeRole {
        match role {
            Role::Worker => NodeRole::Worker,
            Role::Manager => NodeRole::Manager,
        }
    }
}

impl From<NodeRole> for Role {
    fn from(role: NodeRole) -> Role {
        match role {
            NodeRole::Worker => Role::Worker,
            NodeRole::Manager => Role::Manager,
        }
    }
}

/// The number on the wire.
#[must_use]
pub fn to_wire(role: Role) -> i32 {
    NodeRole::from(role).into()
}

/// The role that a number on the wire stands for.
///
/// # Errors
/// If it stands for none.
pub fn from_wire(number: i32) -> Result<Role, UnknownRole> {
    NodeRole::try_from(number).map(Role::from).map_err(|_| UnknownRole(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        for (role, number) in [(Role::Worker, 0), (Role::Manager, 1)] {
            assert_eq!(to_wire(role), number);
            assert_eq!(from_wire(number), Ok(role));
        }
        for number in [-1, 2, i32::MAX] {
            assert_eq!(from_wire(number), Err(UnknownRole(number)));
        }
    }
}
