//! A signing key that lives in a PKCS#11 token, behind a process of its own.
//!
//! The module (a vendor's shared object) is loaded by a child process, the same program started with a hidden verb that calls
//! [`child::run`]. Only the child is given the PIN, and only it talks to the token; the parent holds a [`Token`], whose
//! [`TokenKey`]s implement [`pki::Signer`]. A module that crashes, hangs or prints takes the child with it and nothing else: the
//! parent sees a [`TokenState`] other than ready, starts another child, and signs again.
//!
//! ```text
//! daemon ── Token ──(messages over a pair of sockets: digests there, signatures back)── child ── module.so ── token
//! ```

pub mod child;
mod error;
mod key;
mod link;
mod pin;
mod protocol;
mod records;
mod supervisor;
mod token;
pub mod uri;

pub use error::TokenError;
pub use key::{KeyRequest, KeySelector, TokenKey};
pub use pin::{PIN_BYTES_MAX, Pin, PinError};
pub use token::{MAKE_TIME_MAX, MODULE_PATHS, Module, ModuleConfig, SIGN_TIME_MAX, Token, TokenInfo, TokenState};
pub use uri::{Uri, UriError};
