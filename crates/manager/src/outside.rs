//! Signers that are not at hand: an external CA, or a key in a token. What they are to sign is committed first, and signed by
//! whoever leads:
//!
//! ```text
//! Issue ──► kept as pending, answered ──► worker: ask the CA, check what it says ──► committed ──► Status answers
//! ```
//!
//! Rules:
//! - nothing waits for them but the request itself, and no request is given up because they are down;
//! - what an external CA answers is believed field by field, and never beyond what was asked;
//! - a certificate that was signed and could not be committed reaches nobody, and is said to be an orphan.

mod queue;
mod serials;
mod troubles;
mod unsure;
pub mod urls;
mod waiting;
mod worker;

pub(crate) use worker::run;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cfssl::{Client, Expected, Settings, Target, UrlHealth};
use cluster::State;
use cluster::roots::{Custody, Root};
use cluster::settings::ExternalCa;
use pkcs11::TokenState;
use pki::certificate::Certificate;
use pki::csr::Csr;
use pki::identity::{NodeId, Subject};
use pki::time::Time;
use replica::Handle;
use wire::convert;
use wire::proto::NodeCertificateStatusResponse;
use wire::status::Refusal;

use self::serials::Serials;
use self::troubles::Troubles;
use self::unsure::Unsure;
use self::waiting::Waiting;
use crate::chance::Chance;
use crate::issue::{self, Fetched};
use crate::keys::Keys;
use crate::server::Peer;
use crate::shared::{Clock, Shared};

/// Who signs now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignerView {
    /// Where the key is.
    pub kind: SignerKind,
    /// What keeps it from signing, as far as is known.
    pub trouble: Option<String>,
    /// Its external CAs, each as it is.
    pub urls: Vec<UrlHealth>,
    /// Requests that wait for it.
    pub waiting: usize,
}

/// Where the key is that signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignerKind {
    /// In the replicated state.
    Key,
    /// In a token.
    Token,
    /// With an external CA.
    External,
}

impl SignerKind {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Token => "token",
            Self::External => "external",
        }
    }
}

/// What the parts of a manager share of signers that are not at hand.
pub(crate) struct Outside {
    /// Keys in our own custody.
    pub(crate) keys: Keys,
    client: Client,
    clock: Clock,
    jitter: cfssl::Jitter,
    identity: mtls::Live,
    /// The external CAs that the client asks.
    asked: Mutex<Vec<Target>>,
    serials: Mutex<Serials>,
    troubles: Troubles,
    unsure: Unsure,
    waiting: Waiting,
    /// Why what waits was not signed when it was last tried.
    hindrance: Mutex<Option<(Time, String)>>,
}

impl Outside {
    pub(crate) fn new(keys: Keys, clock: Clock, chance: &Chance, identity: mtls::Live) -> Self {
        let jitter = jitter(chance.clone());
        let client = Client::new(Settings::new(Arc::clone(&clock), Arc::clone(&jitter)), Some(identity.clone()));
        Self {
            keys,
            client,
            clock,
            jitter,
            identity,
            asked: Mutex::default(),
            serials: Mutex::default(),
            troubles: Troubles::default(),
            unsure: Unsure::default(),
            waiting: Waiting::default(),
            hindrance: Mutex::default(),
        }
    }

    /// Whether a request has to wait for its signer: unless the key is here and no external CA is to be asked first.
    pub(crate) fn takes(state: &State, root: &Root) -> bool {
        !matches!(root.custody, Custody::Sealed(_)) || urls::of(state, root).next().is_some()
    }

    /// Asks the external CAs of the root that signs now, and lets go of tokens that are needed no more.
    ///
    /// Whether there are others to ask than before.
    fn follow(&self, state: &State) -> bool {
        let targets = state.roots.signing().map(|root| targets(state, root)).unwrap_or_default();
        self.keys.keep_only(state.roots.in_use());
        if let Some(Custody::Token(uri)) = state.roots.signing().map(|root| &root.custody)
            && let Err(fault) = self.keys.token(uri)
        {
            self.note(Some(((self.clock)(), fault.to_string())));
        }
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *asked != targets;
        if changed {
            self.client.configure(targets.clone());
            *asked = targets;
        }
        changed
    }

    /// Whether it is this root's external CAs that are asked now.
    fn asks(&self, state: &State, root: &Root) -> bool {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) == targets(state, root)
    }

    /// A client for the external CAs of one root, for a single purpose.
    pub(crate) fn client_for(&self, cas: &[ExternalCa], state: &State, root: &Root) -> Client {
        let settings = Settings::new(Arc::clone(&self.clock), Arc::clone(&self.jitter));
        let client = Client::new(settings, Some(self.identity.clone()));
        let roots = root.certificates.clone();
        let target = |url: &str| Target { url: url.to_owned(), roots: roots.clone() };
        client.configure(urls::among(cas, state, root).map(target).collect());
        client
    }

    /// Whether one of these external CAs can be reached: nothing is asked of it (pki.md 11.5).
    ///
    /// # Errors
    /// Why none can, each by its URL.
    pub(crate) async fn probe(&self, urls: &[String], root: &Root) -> Result<(), Vec<String>> {
        let probes = urls.iter().map(|url| async move {
            let clock = Arc::clone(&self.clock);
            cfssl::probe(url, &root.certificates, Some(&self.identity), clock, cfssl::PROBE_LIMIT)
                .await
                .map_err(|failure| format!("{url}: {failure}"))
        });
        let results = futures::future::join_all(probes).await;
        if results.iter().any(Result::is_ok) {
            Ok(())
        } else {
            Err(results.into_iter().filter_map(Result::err).collect())
        }
    }

    /// Who signs now, and what keeps it from it.
    pub(crate) fn view(&self, state: &State) -> Option<SignerView> {
        let root = state.roots.signing()?;
        let urls = self.client.health();
        let (kind, trouble) = match (&root.custody, self.keys.token_state(root)) {
            (Custody::Token(_), Some(Ok(token))) => (SignerKind::Token, trouble(&token)),
            (Custody::Token(_), Some(Err(fault))) => (SignerKind::Token, Some(fault.to_string())),
            (Custody::Outside, _) if urls.is_empty() => {
                (SignerKind::External, Some("no external CA is configured for this root".to_owned()))
            }
            (Custody::Outside, _) => (SignerKind::External, None),
            (Custody::Sealed(_) | Custody::Token(_), _) => (SignerKind::Key, None),
        };
        let hindrance = self.hindrance().filter(|_| !state.pending.is_empty()).map(|(_, why)| why);
        Some(SignerView { kind, trouble: trouble.or(hindrance), urls, waiting: state.pending.len() })
    }

    /// Why what waits was not signed when it was last tried, and when that was.
    pub(crate) fn hindrance(&self) -> Option<(Time, String)> {
        self.hindrance.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, hindrance: Option<(Time, String)>) {
        *self.hindrance.lock().unwrap_or_else(PoisonError::into_inner) = hindrance;
    }
}

/// What a node is told whose certificate is not signed yet; why that is, is the operator's to know.
const WAITS: &str = "the certificate waits for the CA's signer";

/// How long a caller waits for a certificate in one call; it asks again then. Engines wait for five seconds.
const WAIT: Duration = Duration::from_secs(60);

impl<H: Handle> Shared<H> {
    /// What there is for the node that asks. While its request waits, so does the caller.
    pub(crate) async fn fetch(&self, peer: &Peer, id: &str) -> Result<Fetched, Refusal> {
        let until = tokio::time::Instant::now() + WAIT;
        // It may have been issued by another manager, a moment ago.
        let state = self.handle.state();
        if self.is_one_of_several(&state) && matches!(issue::fetch(&state, peer, id), Err(Refusal::CertificateMissing))
        {
            self.surely().await?;
        }
        loop {
            let node = match issue::fetch(&self.handle.state(), peer, id)? {
                Fetched::Pending(node) => node,
                issued @ Fetched::Issued(_) => return Ok(issued),
            };
            let wait = self.outside.waiting.wait(&node);
            let notified = wait.notified();
            tokio::pin!(notified);
            // From here on nothing that happens is missed.
            notified.as_mut().enable();
            match issue::fetch(&self.handle.state(), peer, id)? {
                Fetched::Pending(_) => {}
                issued @ Fetched::Issued(_) => return Ok(issued),
            }
            if tokio::time::timeout_at(until, notified).await.is_err() {
                return Ok(Fetched::Pending(node));
            }
        }
    }

    /// The answer to a node whose request still waits.
    pub(crate) fn pending(&self, node: &NodeId) -> NodeCertificateStatusResponse {
        let state = self.handle.state();
        let first = state.node(node).is_none_or(|record| record.unfinished.is_some());
        convert::certificate::waiting(first, WAITS)
    }
}

/// What keeps a token from signing, for people; none: it can sign.
pub(crate) fn trouble(state: &TokenState) -> Option<String> {
    match state {
        TokenState::Ready { .. } => None,
        TokenState::Starting { .. } => Some("the token is being reached".to_owned()),
        TokenState::Lost { reason, .. } => Some(format!("the token is away: {reason}")),
        TokenState::PinRefused { reason, .. } => Some(format!(
            "the token refuses the PIN, and is not asked again by itself: put the right one in its file, then restart the daemon: {reason}"
        )),
        TokenState::Closed => Some("the token was closed".to_owned()),
    }
}

/// The first manager's certificate, by an external CA.
///
/// # Errors
/// Why no CA gave one.
pub(crate) async fn first_leaf(
    root: &Root,
    settings: &cluster::settings::Settings,
    subject: &Subject,
    csr: &str,
    clock: Clock,
    chance: &Chance,
) -> Result<Certificate, String> {
    let client = Client::new(Settings::new(Arc::clone(&clock), jitter(chance.clone())), None);
    let state = State::empty();
    let target = |url: &str| Target { url: url.to_owned(), roots: root.certificates.clone() };
    client.configure(urls::among(&settings.external_cas, &state, root).map(target).collect());
    leaf_by(&client, root, settings.leaf_life(), subject, csr, clock()).await
}

impl Outside {
    /// Has the external CA of a root that is to be rotated to sign a certificate for this manager, with a key that nobody keeps: what
    /// it would refuse, or sign otherwise than it must, would show only when the rotation waits for it.
    ///
    /// # Errors
    /// Why no CA gave one that can be used.
    pub(crate) async fn try_out(
        &self,
        cas: &[ExternalCa],
        state: &State,
        root: &Root,
        chance: &Chance,
    ) -> Result<(), String> {
        let current = self.identity.current().ok_or("this manager has no certificate")?;
        let key = chance.p256_key().map_err(|error| error.to_string())?;
        let csr = pki::csr::request(&key).map_err(|error| error.to_string())?;
        let client = self.client_for(cas, state, root);
        let life = state.settings.leaf_life();
        leaf_by(&client, root, life, current.subject(), &csr, (self.clock)()).await.map(drop)
    }
}

async fn leaf_by(
    client: &Client,
    root: &Root,
    life: Duration,
    subject: &Subject,
    csr: &str,
    now: Time,
) -> Result<Certificate, String> {
    let key = Csr::parse(csr.as_bytes()).and_then(Csr::verify).map_err(|error| error.to_string())?;
    let anchor = root.certificates.first().ok_or("the root has no certificate")?;
    let expected =
        Expected { key: key.public_key(), subject, root: anchor, intermediates: &root.steps, life: worker::life(life) };
    let request = cfssl::message::SignRequest::for_node(subject, csr);
    let check = |pem: &[u8]| worker::check(pem, &expected, &root.issuer_id(), now, |_| false);
    Ok(client.sign(&request, check).await.map_err(|failure| failure.to_string())?.value)
}

fn targets(state: &State, root: &Root) -> Vec<Target> {
    urls::of(state, root).map(|url| Target { url: url.to_owned(), roots: root.certificates.clone() }).collect()
}

/// Numbers from 0 to 1.
fn jitter(chance: Chance) -> cfssl::Jitter {
    Arc::new(move || {
        chance.bytes::<4>().map_or(0.5, |bytes| f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX))
    })
}
