//! Words that flags take, as clap lists them.

use clap::ValueEnum;

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NodeRole {
    Worker,
    Manager,
}

impl NodeRole {
    /// The word, as daemons take it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Manager => "manager",
        }
    }
}

/// What an operator may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OperatorRole {
    Admin,
    Viewer,
}

impl OperatorRole {
    /// The word, as daemons take it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Viewer => "viewer",
        }
    }
}

/// Why a certificate is taken back, in OpenSSL's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "camelCase")]
pub(crate) enum RevocationReason {
    Unspecified,
    KeyCompromise,
    Superseded,
    CessationOfOperation,
}

impl RevocationReason {
    /// The word, as daemons take it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What is typed is what is sent.
    #[test]
    fn words() {
        fn check<T: ValueEnum>(word: impl Fn(&T) -> &'static str) {
            for value in T::value_variants() {
                assert_eq!(value.to_possible_value().unwrap().get_name(), word(value));
            }
        }
        check(|role: &NodeRole| role.word());
        check(|role: &OperatorRole| role.word());
        check(|reason: &RevocationReason| reason.word());
    }
}
