//! Why a token did not do what was asked.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::pin::PinError;

/// Why a token did not do what was asked. Texts hold no PIN, no key and no query of a URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No module was named, and none is in the usual places.
    #[error("no PKCS#11 module found, looked for {}", list(.searched))]
    NoModule {
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// The child process could not be started.
    #[error("cannot start the process for the PKCS#11 module: {0}")]
    Start(String),
    /// The child is another version of this program: that was replaced while this process runs.
    #[error(
        "the program was replaced by another version since this process began: it speaks version {theirs} with the PKCS#11 module's process, this one version {ours}; restart this one"
    )]
    OtherVersion {
        /// What this process speaks.
        ours: u32,
        /// What the child speaks.
        theirs: u32,
    },
    /// The module's shared object could not be loaded or initialised.
    #[error("cannot load the PKCS#11 module {path}: {reason}")]
    Load {
        /// The file.
        path: PathBuf,
        /// The loader's or the module's words.
        reason: String,
    },
    /// The PIN could not be had.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The token refused the PIN. Nothing tries again until [`crate::Token::retry`] is called.
    #[error("the token refused the PIN: {0}")]
    PinRefused(String),
    /// No token fits the URI.
    #[error("no token fits the URI")]
    NoToken,
    /// More than one token fits the URI.
    #[error("{0} tokens fit the URI: name its serial number too")]
    ManyTokens(u32),
    /// No private key fits.
    #[error("no such private key in the token")]
    NoKey,
    /// More than one private key fits.
    #[error("{0} private keys fit: name the key's id too")]
    ManyKeys(u32),
    /// The token tells no public half of the key.
    #[error("the token holds no public key for this private key")]
    NoPublicKey,
    /// A key of that label or id exists already.
    #[error("the token holds a key of that label or id already")]
    KeyExists,
    /// The key is of a kind that we do not use.
    #[error("unusable key: {0}")]
    KeyKind(String),
    /// The key in the token is not the one that is wanted.
    #[error("the token holds another key under that name")]
    OtherKey,
    /// The token refused this request, and goes on working.
    #[error("the token refused: {0}")]
    Refused(String),
    /// The token is lost for now; the parent is trying to get it back.
    #[error("the token is lost: {reason}")]
    Lost {
        /// Since when.
        since: SystemTime,
        /// Why.
        reason: String,
    },
    /// The [`crate::Token`] was closed.
    #[error("the token was closed")]
    Closed,
}

impl TokenError {
    /// Whether the same request fails again as long as nobody changes something.
    pub fn is_lasting(&self) -> bool {
        match self {
            TokenError::ManyTokens(_)
            | TokenError::ManyKeys(_)
            | TokenError::NoPublicKey
            | TokenError::KeyExists
            | TokenError::KeyKind(_)
            | TokenError::OtherKey
            | TokenError::Refused(_)
            | TokenError::Closed => true,
            TokenError::NoModule { .. }
            | TokenError::Start(_)
            | TokenError::OtherVersion { .. }
            | TokenError::Load { .. }
            | TokenError::Pin(_)
            | TokenError::PinRefused(_)
            | TokenError::NoToken
            | TokenError::NoKey
            | TokenError::Lost { .. } => false,
        }
    }

    /// What to do about it; empty if the error says it all.
    pub fn hint(&self) -> &'static str {
        match self {
            TokenError::NoModule { .. } => "name the vendor's PKCS#11 module (module-path in the URI)",
            TokenError::PinRefused(_) => "give the right PIN and ask again: a few wrong ones lock the token",
            TokenError::NoToken => {
                "is it plugged in, and does the URI name its label and serial number as the token has them?"
            }
            TokenError::KeyExists => "use that key, or choose another label",
            TokenError::OtherKey => "the key was replaced: rotate the root to the new one, or put the old one back",
            TokenError::Lost { .. } => "nothing is signed until it is back; it is looked for without end",
            _ => "",
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
