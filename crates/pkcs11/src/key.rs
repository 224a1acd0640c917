//! A key in a token.

use pki::key::{KeyKind, PublicKey, SignError, SignatureAlgorithm, Signer};

use crate::error::TokenError;
use crate::token::Token;

/// Which private key of a token: by label, by id, or by both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct KeySelector {
    /// CKA_LABEL.
    pub label: Option<String>,
    /// CKA_ID.
    pub id: Option<Vec<u8>>,
}

/// A key pair to be made or imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRequest {
    /// CKA_LABEL of both halves.
    pub label: String,
    /// CKA_ID of both halves; drawn at random when none is given.
    pub id: Option<Vec<u8>>,
    /// Kind and size of a key to be made.
    pub kind: KeyKind,
}

/// A private key in a token, as a signer. Cheap to clone; signs from many threads at once.
#[derive(Clone)]
pub struct TokenKey {
    pub(crate) token: Token,
    pub(crate) selector: KeySelector,
    pub(crate) public: PublicKey,
}

impl TokenKey {
    /// Signs `message`, with the typed error. At most [`crate::SIGN_TIME_MAX`]; fails at once while the token is lost.
    ///
    /// # Errors
    /// [`TokenError::Lost`] and the other states of the token, [`TokenError::OtherKey`],
    /// [`TokenError::Refused`].
    pub fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, TokenError> {
        self.token.sign(self, message)
    }

    /// Which key it is.
    pub fn selector(&self) -> &KeySelector {
        &self.selector
    }

    /// The token that holds it.
    pub fn token(&self) -> &Token {
        &self.token
    }
}

impl Signer for TokenKey {
    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::for_key(self.public.kind())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.try_sign(message).map_err(|error| {
            if error.is_lasting() {
                tracing::warn!(%error, "no signature from the PKCS#11 token");
                SignError::Failed
            } else {
                SignError::Unavailable(error.to_string())
            }
        })
    }
}
