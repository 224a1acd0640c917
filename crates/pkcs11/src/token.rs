//! The parent's end: a token behind a child process that is watched and replaced.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pki::PrivateKey;
use pki::key::PublicKey;
use tokio::sync::watch;

use crate::error::TokenError;
use crate::key::{KeyRequest, KeySelector, TokenKey};
use crate::pin::Pin;
use crate::uri::Uri;

/// Which module, which token, and how to log in.
pub struct ModuleConfig {
    /// The token, and usually the key.
    pub uri: Uri,
    /// The module's shared object. None: the URI's `module-path`, else the usual places ([`Module::search`]).
    pub module_path: Option<PathBuf>,
    /// The PIN. None: the URI's `pin-source`.
    pub pin: Option<Pin>,
    /// Variables added to the child's environment, for modules that are configured so.
    pub env: Vec<(OsString, OsString)>,
}

/// Ways to a [`Token`].
pub struct Module;

impl Module {
    /// Starts the child (`program` with `args`, which must end up in [`crate::child::run`]) and logs in. Blocks until the token is ready.
    ///
    /// # Errors
    /// Whatever kept the first login from succeeding. Later losses are seen in [`Token::state`] and mended in the background.
    pub fn spawn(program: &Path, args: &[OsString], config: ModuleConfig) -> Result<Token, TokenError> {
        let _ = (program, args, config);
        Err(TokenError::Closed)
    }

    /// As [`Module::spawn`], but returns at once, and a token that is not there yet is waited for in the background.
    pub fn attach(program: &Path, args: &[OsString], config: ModuleConfig) -> Token {
        let _ = (program, args, config);
        Token {}
    }
}

/// Who a token says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// Its label.
    pub label: String,
    /// Its serial number.
    pub serial: String,
    /// Its manufacturer.
    pub manufacturer: String,
    /// Its model.
    pub model: String,
}

/// How a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenState {
    /// The first child is being started.
    Starting,
    /// Logged in; keys can sign.
    Ready {
        /// Since when.
        since: SystemTime,
        /// Which token.
        token: TokenInfo,
    },
    /// Nothing can be signed; tried again in the background.
    Lost {
        /// Since when.
        since: SystemTime,
        /// Why.
        reason: TokenError,
    },
    /// The token refused the PIN. Nothing is tried again until [`Token::retry`].
    PinRefused {
        /// Since when.
        since: SystemTime,
        /// The token's words.
        reason: String,
    },
    /// [`Token::close`] was called.
    Closed,
}

/// A token behind a child process. Cheap to clone.
#[derive(Clone)]
pub struct Token {}

impl Token {
    /// How the token is now.
    pub fn state(&self) -> TokenState {
        TokenState::Closed
    }

    /// Follows [`Token::state`].
    pub fn watch(&self) -> watch::Receiver<TokenState> {
        watch::channel(TokenState::Closed).1
    }

    /// Finds a private key and its public half, and has it sign once to see that they belong together.
    pub fn find(&self, _selector: &KeySelector) -> Result<TokenKey, TokenError> {
        Err(TokenError::Closed)
    }

    /// A key whose public half is known already, without asking the token: it may be lost at the moment. Each signature fails with
    /// [`TokenError::OtherKey`] if the token holds another key under that name.
    pub fn known_key(&self, selector: KeySelector, public: PublicKey) -> TokenKey {
        TokenKey { token: self.clone(), selector, public }
    }

    /// Makes a key pair in the token: sensitive, never extractable.
    pub fn make(&self, _request: &KeyRequest) -> Result<TokenKey, TokenError> {
        Err(TokenError::Closed)
    }

    /// Puts a private key into the token: sensitive, not extractable. The kind is that of `key`.
    pub fn import(&self, _label: &str, _id: Option<Vec<u8>>, _key: &PrivateKey) -> Result<TokenKey, TokenError> {
        Err(TokenError::Closed)
    }

    /// Tries again now: after a refused PIN (with another source if one is given), or instead of waiting.
    pub fn retry(&self, _pin: Option<Pin>) {}

    /// Ends the child. Every key fails from then on.
    pub fn close(&self) {}
}
