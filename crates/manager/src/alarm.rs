//! Alarms: direct evidence that something is wrong, by name, in the log.

use pki::identity::NodeId;

/// What an alarm is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// A certificate that chains to our root and that nobody registered: somebody else signs with the CA's key, or a state
    /// was rolled back.
    ForgedOrForeignLeaf {
        /// Whom it names.
        node: NodeId,
        /// Its serial.
        serial: String,
    },
    /// A node gets more certificates than is usual.
    ManyIssuances {
        /// Which.
        node: NodeId,
    },
}

impl Alarm {
    /// Says it.
    pub(crate) fn raise(&self) {
        match self {
            Self::ForgedOrForeignLeaf { node, serial } => tracing::error!(
                alarm = "forged-or-foreign-leaf",
                %node,
                serial,
                "a certificate of our root is presented that this cluster never registered; \
                 if it cannot be explained by a restored backup, rotate the root"
            ),
            Self::ManyIssuances { node } => {
                tracing::warn!(alarm = "many-issuances", %node, "a node asks for certificates again and again");
            }
        }
    }
}
