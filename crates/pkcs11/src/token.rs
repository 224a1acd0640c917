//! The parent's end: a token behind a child process that is watched and replaced.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use pki::PrivateKey;
use pki::key::{PublicKey, SignatureAlgorithm};
use tokio::sync::watch;

use crate::error::TokenError;
use crate::key::{KeyRequest, KeySelector, TokenKey};
use crate::link::Link;
use crate::pin::Pin;
use crate::protocol::{Answer, Fault, Request};
use crate::supervisor::{Event, Supervisor};
use crate::uri::{ObjectKind, Uri};

/// How long a signature may take before the token counts as lost.
pub const SIGN_TIME_MAX: Duration = Duration::from_secs(10);
/// How long making or importing a key may take: RSA keys are slow to find.
pub const MAKE_TIME_MAX: Duration = Duration::from_secs(120);

/// Where modules usually are, in the order in which they are tried. The proxy of p11-kit comes last: it stands for all modules of the
/// machine.
pub const MODULE_PATHS: [&str; 14] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/libsofthsm2.so",
    "/usr/lib/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/p11-kit-proxy.so",
    "/usr/lib/aarch64-linux-gnu/p11-kit-proxy.so",
    "/usr/lib64/p11-kit-proxy.so",
    "/usr/lib/p11-kit-proxy.so",
    "/usr/local/lib/p11-kit-proxy.so",
];

/// Which module, which token, and how to log in. No Debug: it may hold the PIN.
pub struct ModuleConfig {
    /// The token, and usually the key.
    pub uri: Uri,
    /// The module's shared object. None: the URI's `module-path`, else the first of [`MODULE_PATHS`] that exists.
    pub module_path: Option<PathBuf>,
    /// The PIN. None: the URI's `pin-source`.
    pub pin: Option<Pin>,
    /// Variables added to the child's environment, for modules that are configured so (`SOFTHSM2_CONF`). No secrets.
    pub env: Vec<(OsString, OsString)>,
}

/// Ways to a [`Token`].
pub struct Module;

impl Module {
    /// Starts the child (`program` with `args`, which must end up in [`crate::child::run`]) and logs in. Blocks until the token is
    /// ready; at most half a minute.
    ///
    /// # Errors
    /// Whatever kept the first login from succeeding. Later losses are seen in [`Token::state`] and mended in the background.
    pub fn spawn(program: &Path, args: &[OsString], config: ModuleConfig) -> Result<Token, TokenError> {
        let (sender, first) = sync_channel(1);
        let token = Token::start(program, args, config, Some(sender))?;
        match first.recv() {
            Ok(Ok(())) => Ok(token),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(TokenError::Closed),
        }
    }

    /// As [`Module::spawn`], but returns at once, and a token that is not there yet is waited for in the background.
    ///
    /// # Errors
    /// [`TokenError::Start`] if no thread can be started.
    pub fn attach(program: &Path, args: &[OsString], config: ModuleConfig) -> Result<Token, TokenError> {
        Token::start(program, args, config, None)
    }

    /// The first module in the usual places.
    ///
    /// # Errors
    /// [`TokenError::NoModule`] with the places.
    pub fn search() -> Result<PathBuf, TokenError> {
        let places = MODULE_PATHS.map(PathBuf::from);
        let found = places.iter().find(|path| path.is_file()).cloned();
        found.ok_or_else(|| TokenError::NoModule { searched: places.to_vec() })
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
    Starting {
        /// Since when.
        since: SystemTime,
    },
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
        /// Why, as of the last try.
        reason: String,
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

/// A token behind a child process. Cheap to clone; the child ends with the last clone and the last [`TokenKey`].
#[derive(Clone)]
pub struct Token {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
}

/// Ends the supervisor when dropped.
struct Handle {
    events: Sender<Event>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _ended_already = self.events.send(Event::Close);
    }
}

/// How to start a child, checked as late as it is needed: a module may be installed while we wait for it.
pub(crate) struct Launcher {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) uri: Uri,
    pub(crate) given_path: Option<PathBuf>,
    pub(crate) pin: Option<Pin>,
    pub(crate) env: Vec<(OsString, OsString)>,
}

impl Launcher {
    pub(crate) fn module_path(&self) -> Result<PathBuf, TokenError> {
        let named = self.given_path.as_ref().or(self.uri.module_path.as_ref());
        named.map_or_else(Module::search, |path| Ok(path.clone()))
    }
}

/// What handles, keys and the supervisor share.
pub(crate) struct Shared {
    /// Locked to be looked at, never across a request.
    link: Mutex<Option<Arc<Link>>>,
    state: watch::Sender<TokenState>,
}

impl Shared {
    /// A child is logged in.
    pub(crate) fn gain(&self, link: &Arc<Link>, token: TokenInfo) {
        let mut current = self.lock_link();
        *current = Some(Arc::clone(link));
        self.set_state(TokenState::Ready { since: SystemTime::now(), token });
    }

    /// The child is gone. Whoever sees it first says so: a caller never hears of a loss that [`Token::state`] does not know.
    pub(crate) fn lose(&self, link: &Arc<Link>) {
        let mut current = self.lock_link();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            *current = None;
            let reason = link.reason();
            tracing::warn!(reason, "the PKCS#11 token is lost");
            self.set_state(TokenState::Lost { since: SystemTime::now(), reason });
        }
    }

    /// No child is asked any more.
    pub(crate) fn part(&self) {
        *self.lock_link() = None;
    }

    pub(crate) fn set_state(&self, state: TokenState) {
        self.state.send_replace(state);
    }

    pub(crate) fn state(&self) -> TokenState {
        self.state.borrow().clone()
    }

    fn lock_link(&self) -> MutexGuard<'_, Option<Arc<Link>>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why there is no child to ask.
    fn absence(&self) -> TokenError {
        match self.state() {
            TokenState::PinRefused { reason, .. } => TokenError::PinRefused(reason),
            TokenState::Lost { since, reason } => TokenError::Lost { since, reason },
            TokenState::Starting { since } => TokenError::Lost { since, reason: "not logged in yet".into() },
            // No child is asked any more: it is being closed.
            TokenState::Ready { .. } | TokenState::Closed => TokenError::Closed,
        }
    }

    fn ask(&self, request: &Request, time_max: Duration) -> Result<Answer, TokenError> {
        let link = self.lock_link().clone().ok_or_else(|| self.absence())?;
        let lost = |reason| {
            self.lose(&link);
            TokenError::Lost { since: SystemTime::now(), reason }
        };
        match link.ask(request, time_max).map_err(lost)? {
            Answer::Fault(Fault::Gone(reason)) => {
                link.end(&reason);
                Err(lost(reason))
            }
            Answer::Fault(fault) => Err(fault.into_error(Path::new(""), SystemTime::now())),
            answer => Ok(answer),
        }
    }
}

impl Token {
    fn start(
        program: &Path,
        args: &[OsString],
        config: ModuleConfig,
        first: Option<std::sync::mpsc::SyncSender<Result<(), TokenError>>>,
    ) -> Result<Self, TokenError> {
        let (told, events) = channel();
        let state = watch::Sender::new(TokenState::Starting { since: SystemTime::now() });
        let shared = Arc::new(Shared { link: Mutex::new(None), state });
        let launcher = Launcher {
            program: program.to_owned(),
            args: args.to_vec(),
            uri: config.uri,
            given_path: config.module_path,
            pin: config.pin,
            env: config.env,
        };
        let token = Token { shared: Arc::clone(&shared), handle: Arc::new(Handle { events: told.clone() }) };
        let supervisor = Supervisor { shared, launcher, events, told, first, children: 0 };
        std::thread::Builder::new()
            .name("pkcs11-token".into())
            .spawn(|| supervisor.run())
            .map_err(|error| TokenError::Start(error.to_string()))?;
        Ok(token)
    }

    /// How the token is now.
    pub fn state(&self) -> TokenState {
        self.shared.state()
    }

    /// Follows [`Token::state`].
    pub fn watch(&self) -> watch::Receiver<TokenState> {
        self.shared.state.subscribe()
    }

    /// The child's process id, while there is one that is logged in.
    pub fn process_id(&self) -> Option<u32> {
        self.shared.lock_link().as_ref().map(|link| link.process_id())
    }

    /// The key that `uri` names.
    ///
    /// # Errors
    /// [`TokenError::NoKey`] if it names none; else as [`Token::find`].
    pub fn find_named(&self, uri: &Uri) -> Result<TokenKey, TokenError> {
        if uri.kind.is_some_and(|kind| kind != ObjectKind::Private) {
            return Err(TokenError::KeyKind("the URI's type must be private".into()));
        }
        self.find(&uri.key().ok_or(TokenError::NoKey)?)
    }

    /// Finds a private key and its public half, and has it sign once to see that they belong together.
    ///
    /// # Errors
    /// [`TokenError::NoKey`], [`TokenError::ManyKeys`], [`TokenError::NoPublicKey`], [`TokenError::KeyKind`], or that the token is
    /// lost.
    pub fn find(&self, selector: &KeySelector) -> Result<TokenKey, TokenError> {
        let answer = self.shared.ask(&Request::Find { selector: selector.clone() }, SIGN_TIME_MAX)?;
        self.key(selector.label.clone(), answer)
    }

    /// A key whose public half is known already, without asking the token: it may be lost at the moment. Signing fails with
    /// [`TokenError::OtherKey`] if the token holds another key under that name.
    pub fn known_key(&self, selector: KeySelector, public: PublicKey) -> TokenKey {
        TokenKey { token: self.clone(), selector, public }
    }

    /// Makes a key pair in the token: it can sign and nothing else, and its private half can never leave. P-256, P-384, P-521, and RSA
    /// of 2048, 3072 and 4096 bits, as far as the token can.
    ///
    /// # Errors
    /// [`TokenError::KeyExists`] if any key has this label or id; [`TokenError::KeyKind`], [`TokenError::Refused`], or that the token
    /// is lost: whether the key was made is unknown then.
    pub fn make(&self, request: &KeyRequest) -> Result<TokenKey, TokenError> {
        let KeyRequest { label, id, kind } = request.clone();
        let answer = self.shared.ask(&Request::Make { label: label.clone(), id, kind }, MAKE_TIME_MAX)?;
        self.key(Some(label), answer)
    }

    /// Puts a private key into the token, from which it cannot be taken again. Without an id it gets its key identifier (SHA-1 of the
    /// public key). Wiping every other copy is the caller's business.
    ///
    /// # Errors
    /// As [`Token::make`].
    pub fn import(&self, label: &str, id: Option<Vec<u8>>, key: &PrivateKey) -> Result<TokenKey, TokenError> {
        let request = Request::Import { label: label.to_owned(), id, pkcs8: key.pkcs8_der() };
        let answer = self.shared.ask(&request, MAKE_TIME_MAX)?;
        self.key(Some(label.to_owned()), answer)
    }

    /// Asks the token now whether it and the keys that have signed are still there; a token that is idle is asked every ten seconds.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), TokenError> {
        self.shared.ask(&Request::Check, SIGN_TIME_MAX).map(|_alive| ())
    }

    /// Tries again now: after a refused PIN (with another source if one is given), or instead of waiting. While the token is ready,
    /// only the source of the PIN is replaced.
    pub fn retry(&self, pin: Option<Pin>) {
        let _closed_already = self.handle.events.send(Event::Retry(pin));
    }

    /// Ends the child. Every key fails from then on.
    pub fn close(&self) {
        let _closed_already = self.handle.events.send(Event::Close);
    }

    /// Signs with a key of this token.
    pub(crate) fn sign(&self, key: &TokenKey, message: &[u8]) -> Result<Vec<u8>, TokenError> {
        let algorithm = pki::Signer::algorithm(key);
        let request = Request::Sign {
            selector: key.selector.clone(),
            public: key.public.hash(),
            algorithm,
            digest: digest::digest(hash(algorithm), message).as_ref().to_vec(),
        };
        match self.shared.ask(&request, SIGN_TIME_MAX)? {
            Answer::Signature(signature) => Ok(signature),
            _ => Err(TokenError::Refused("an answer to another question".into())),
        }
    }

    /// From here on the key goes by its id too, if it has one: labels may be given twice.
    fn key(&self, label: Option<String>, answer: Answer) -> Result<TokenKey, TokenError> {
        let Answer::Key { id, spki } = answer else {
            return Err(TokenError::Refused("an answer to another question".into()));
        };
        let public = PublicKey::from_spki_der(&spki).map_err(|error| TokenError::KeyKind(error.to_string()))?;
        let id = Some(id).filter(|id| !id.is_empty());
        Ok(self.known_key(KeySelector { label, id }, public))
    }
}

/// What a signature of this algorithm is made over. Hashed here: a digest is all that a token needs, and all that crosses to it.
pub(crate) fn hash(algorithm: SignatureAlgorithm) -> &'static digest::Algorithm {
    match algorithm {
        SignatureAlgorithm::EcdsaSha256 | SignatureAlgorithm::RsaSha256 => &digest::SHA256,
        SignatureAlgorithm::EcdsaSha384 | SignatureAlgorithm::RsaSha384 => &digest::SHA384,
        SignatureAlgorithm::EcdsaSha512 | SignatureAlgorithm::RsaSha512 => &digest::SHA512,
    }
}
