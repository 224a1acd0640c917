//! Keys of roots that are in our own custody, ready to sign: from the replicated state, or in a PKCS#11 token behind a process
//! of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cluster::roots::{Custody, Root};
use pkcs11::{KeyRequest, KeySelector, Module, ModuleConfig, Pin, Token, TokenError, TokenKey, TokenState, Uri};
use pki::key::{KeyKind, PrivateKey, PublicKey, Signer};
use pki::secret::SecretString;
use tokio::runtime::Handle;

/// How long an operator waits for a token that is being reached.
const READY_MAX: Duration = Duration::from_secs(30);

/// How long a token that no root needs yet, or any more, is kept: a rotation into it begins after it was reached.
const KEPT_UNUSED: Duration = Duration::from_secs(2 * 60);

/// How tokens are reached on this machine.
pub struct TokenAccess {
    /// The program that holds the module: this one, as a rule.
    pub program: PathBuf,
    /// Its arguments, which must lead to [`pkcs11::child::run`].
    pub args: Vec<OsString>,
    /// The module, if a URI names none.
    pub module: Option<PathBuf>,
    /// The PIN, if a URI names no source of it.
    pub pin: Option<Pin>,
}

/// What happens if a key is not in its token.
#[derive(Clone, Copy)]
pub enum Missing<'a> {
    /// Nothing.
    Leave,
    /// It is made.
    Make,
    /// This one is put there.
    Put(&'a PrivateKey),
}

/// Why a root cannot sign here.
#[derive(Debug, thiserror::Error)]
pub enum KeyFault {
    /// Its key is with a CA elsewhere, or gone.
    #[error("no valid signer found: the key is not here")]
    Outside,
    /// The key does not load.
    #[error("the key cannot be read: {0}")]
    Unreadable(String),
    /// Its token cannot be reached from this machine.
    #[error("the key in the token cannot be used: {0}")]
    Token(String),
}

/// The keys; clones share the tokens.
#[derive(Clone, Default)]
pub struct Keys {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("tokens", &self.inner.access.is_some()).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Inner {
    access: Option<TokenAccess>,
    /// Attached tokens, by URI, each with the time of its last use.
    tokens: Mutex<BTreeMap<Arc<str>, (Token, Instant)>>,
}

impl Keys {
    /// With tokens.
    pub fn new(access: TokenAccess) -> Self {
        Self { inner: Arc::new(Inner { access: Some(access), tokens: Mutex::default() }) }
    }

    /// Whoever signs with the root's key. With a token it may block while it signs, and fail while the token is away.
    ///
    /// # Errors
    /// [`KeyFault`].
    pub fn signer(&self, root: &Root) -> Result<Arc<dyn Signer>, KeyFault> {
        let unreadable = |error: &dyn std::fmt::Display| KeyFault::Unreadable(error.to_string());
        match &root.custody {
            Custody::Sealed(key) => {
                let key = PrivateKey::from_der(key.expose()).map_err(|error| unreadable(&error))?;
                Ok(Arc::new(key))
            }
            Custody::Token(uri) => {
                let public = root.signer.public_key().map_err(|error| unreadable(&error))?;
                Ok(Arc::new(self.key_in(uri, public)?))
            }
            Custody::Outside => Err(KeyFault::Outside),
        }
    }

    /// The token behind a URI, attached at its first use and kept.
    ///
    /// # Errors
    /// [`KeyFault::Token`] if it can never be reached from here; one that is only away is a [`Token`] all the same.
    pub fn token(&self, uri: &Arc<str>) -> Result<Token, KeyFault> {
        let mut tokens = self.tokens();
        if let Some((token, used)) = tokens.get_mut(uri) {
            *used = Instant::now();
            return Ok(token.clone());
        }
        let fault = |error: &dyn std::fmt::Display| KeyFault::Token(error.to_string());
        let access = self.inner.access.as_ref().ok_or_else(|| fault(&"this program was started without tokens"))?;
        let parsed = uri.parse::<Uri>().map_err(|error| fault(&error))?;
        let config = ModuleConfig {
            uri: parsed,
            module_path: access.module.clone(),
            pin: access.pin.as_ref().map(again),
            env: Vec::new(),
        };
        let token = Module::attach(&access.program, &access.args, config).map_err(|error| fault(&error))?;
        tokens.insert(Arc::clone(uri), (token.clone(), Instant::now()));
        Ok(token)
    }

    /// A key in a token, whose public half is known.
    pub(crate) fn key_in(&self, uri: &Arc<str>, public: &PublicKey) -> Result<TokenKey, KeyFault> {
        let key = selector(uri)?;
        Ok(self.token(uri)?.known_key(key, public.clone()))
    }

    /// The public half of the key that a URI names; none: it is not there, and nothing is to be done about it. Blocks until the
    /// token answers: call it on a thread of a tokio runtime that may block. A token that is away or refused the PIN is asked once
    /// more, now.
    ///
    /// # Errors
    /// [`KeyFault::Token`], also if the URI names another key than the one to be put there.
    pub fn find(&self, uri: &Arc<str>, missing: Missing<'_>) -> Result<Option<PublicKey>, KeyFault> {
        let fault = |error: &dyn std::fmt::Display| KeyFault::Token(error.to_string());
        let key = selector(uri)?;
        let token = self.token(uri)?;
        let runtime = Handle::try_current().map_err(|error| fault(&error))?;
        let mut states = token.watch();
        let is_away = matches!(&*states.borrow_and_update(), TokenState::Lost { .. } | TokenState::PinRefused { .. });
        if is_away {
            token.retry(None);
        }
        let settled = async {
            // The state of now is what it was before somebody asked.
            if is_away && states.changed().await.is_err() {
                return;
            }
            let _ = states.wait_for(|state| !matches!(state, TokenState::Starting { .. })).await;
        };
        // What came of it, or that nothing did, says the next call.
        let _ = runtime.block_on(async { tokio::time::timeout(READY_MAX, settled).await });
        match token.find(&key) {
            Ok(found) => match missing {
                Missing::Put(given) if given.public() != found.public() => {
                    Err(fault(&"its URI names another key than the one given, and that is there already"))
                }
                Missing::Put(_) | Missing::Make | Missing::Leave => Ok(Some(found.public().clone())),
            },
            Err(TokenError::NoKey) => {
                let label =
                    || key.label.clone().ok_or_else(|| fault(&"to make a key its URI has to name it: object=…"));
                let made = match missing {
                    Missing::Leave => return Ok(None),
                    Missing::Make => {
                        token.make(&KeyRequest { label: label()?, id: key.id.clone(), kind: KeyKind::EcP256 })
                    }
                    Missing::Put(given) => token.import(&label()?, key.id.clone(), given),
                };
                Ok(Some(made.map_err(|error| fault(&error))?.public().clone()))
            }
            Err(error) => Err(fault(&error)),
        }
    }

    /// How the token of a root is, if its key is in one.
    pub fn token_state(&self, root: &Root) -> Option<Result<TokenState, KeyFault>> {
        match &root.custody {
            Custody::Token(uri) => Some(self.token(uri).map(|token| token.state())),
            Custody::Sealed(_) | Custody::Outside => None,
        }
    }

    /// Lets go of tokens that no root of these needs, and nobody was about to use.
    pub(crate) fn keep_only<'a>(&self, roots: impl Iterator<Item = &'a Arc<Root>>) {
        let needed: Vec<&Arc<str>> = roots
            .filter_map(|root| match &root.custody {
                Custody::Token(uri) => Some(uri),
                Custody::Sealed(_) | Custody::Outside => None,
            })
            .collect();
        self.tokens().retain(|uri, (token, used)| {
            let kept = needed.contains(&uri) || used.elapsed() < KEPT_UNUSED;
            if !kept {
                token.close();
            }
            kept
        });
    }

    fn tokens(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, (Token, Instant)>> {
        self.inner.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn selector(uri: &str) -> Result<KeySelector, KeyFault> {
    let parsed = uri.parse::<Uri>().map_err(|error| KeyFault::Token(error.to_string()))?;
    // A client of the API would choose what code this machine loads, and every manager would have to have it in the same place.
    if parsed.module_path.is_some() || parsed.pin_source.is_some() {
        let why = "module-path and pin-source are for the machine to say: --pkcs11-module and --pkcs11-pin-file of its daemon";
        return Err(KeyFault::Token(why.to_owned()));
    }
    parsed.key().ok_or_else(|| KeyFault::Token("its URI names no key: object=… or id=… is missing".to_owned()))
}

/// The same PIN for another login.
fn again(pin: &Pin) -> Pin {
    match pin {
        Pin::File(path) => Pin::File(path.clone()),
        Pin::Secret(secret) => Pin::Secret(SecretString::new(secret.expose().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_uri_names_a_key_and_says_nothing_of_the_machine() {
        assert_eq!(selector("pkcs11:token=t;object=root").unwrap().label.as_deref(), Some("root"));
        let rows = [
            ("pkcs11:token=t", "names no key"),
            ("pkcs11:object=root?module-path=/tmp/x.so", "--pkcs11-module"),
            ("pkcs11:object=root?pin-source=file:/tmp/pin", "--pkcs11-pin-file"),
            ("nonsense", ""),
        ];
        for (uri, text) in rows {
            let Err(refused) = selector(uri) else { panic!("accepted: {uri}") };
            assert!(refused.to_string().contains(text), "{refused}");
        }
    }
}
