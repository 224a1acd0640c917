//! The root, for the operator: rotated, turned back, rehearsed, shown.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cluster::command::UpdateCluster;
use cluster::issuance::SIGNING_SKEW_MAX;
use cluster::node::BlobDigest;
use cluster::roots::{Custody, Root};
use cluster::rotation::{Policy, RootsChange};
use cluster::settings::NODE_CERT_EXPIRY_MIN;
use cluster::{Command, State};
use pki::identity::NodeId;
use pki::secret::SecretString;
use pki::time::Time;
use replica::Handle;
use wire::status::{CaUpdateRefusal, Refusal, WhichCa};

use super::Control;
use crate::keys::Missing;
use crate::outside::SignerView;
use crate::rotate::status::{LOST_AFTER, Seen};
use crate::rotate::{self, CaStatus, Certify, Decision, Reach, Rehearsal, Signers, TokenWish, Wish};
use crate::shared::cores;
use crate::view::{ControlError, ExternalCa};

impl<H: Handle> Control<H> {
    /// Begins to replace the root.
    ///
    /// # Errors
    /// The refusals of engine-api.md 7.2; FAILED_PRECONDITION if a rotation is under way that this one cannot replace.
    pub async fn rotate_root(
        &self,
        wish: Wish,
        node_cert_expiry: Option<Duration>,
        external_cas: Option<Vec<ExternalCa>>,
        policy: Option<Policy>,
    ) -> Result<(), ControlError> {
        let state = self.0.handle.state();
        let mut settings = state.settings.as_ref().clone();
        if let Some(expiry) = node_cert_expiry {
            if !expiry.is_zero() && expiry < NODE_CERT_EXPIRY_MIN {
                return Err(Refusal::ExpiryTooShort.into());
            }
            settings.node_cert_expiry = expiry;
        }
        // What is repeated while the rotation runs asks for no other root.
        if !Self::is_repeated(&state, &wish, external_cas.as_deref()) {
            settings.force_rotate = settings.force_rotate.wrapping_add(1);
        }
        if let Some(external_cas) = external_cas {
            settings.external_cas = rotate::with_present(&state, &wish, external_cas);
        }
        let wish = Wish { force_rotate: settings.force_rotate, ..wish };
        let change = self.rotation_change(&state, wish, &settings.external_cas, policy).await?;
        self.try_out(&state, &change, &settings.external_cas).await?;
        // Whoever stole the key may know the tokens too.
        let emergency = matches!(policy, Some(Policy::Emergency { .. }));
        let update = UpdateCluster {
            version: state.cluster_version,
            settings: Some(settings),
            worker_secret: self.secret(emergency)?,
            manager_secret: self.secret(emergency)?,
            roots: change.roots,
            custody: change.custody,
            unlock: None,
            told: true,
        };
        self.ask(Command::UpdateCluster(Box::new(update)), None).await
    }

    /// Turns the rotation under way back.
    ///
    /// # Errors
    /// FAILED_PRECONDITION if there is none, or none that can be turned.
    pub async fn abort_rotation(&self, policy: Option<Policy>) -> Result<(), ControlError> {
        let state = self.0.handle.state();
        let change = self.turn_back(&state, policy).await?;
        let update = UpdateCluster { version: state.cluster_version, roots: Some(change), ..UpdateCluster::default() };
        self.ask(Command::UpdateCluster(Box::new(update)), None).await
    }

    /// How the roots stand.
    ///
    /// # Errors
    /// If there is no cluster yet.
    pub fn ca_status(&self) -> Result<CaStatus, ControlError> {
        let state = self.0.handle.state();
        self.seen(|seen| rotate::status(&state, seen, self.0.now())).ok_or_else(|| Refusal::SignerStarting.into())
    }

    /// Who signs now, and whether it can.
    ///
    /// # Errors
    /// If there is no cluster yet.
    pub fn signer(&self) -> Result<SignerView, ControlError> {
        self.0.outside.view(&self.0.handle.state()).ok_or_else(|| Refusal::SignerStarting.into())
    }

    /// How a rotation would go if it began now. Nothing changes.
    ///
    /// # Errors
    /// As [`rotate_root`](Self::rotate_root).
    pub async fn rehearse_rotation(
        &self,
        wish: Wish,
        external_cas: Option<Vec<ExternalCa>>,
        policy: Option<Policy>,
    ) -> Result<Rehearsal, ControlError> {
        let state = self.0.handle.state();
        let repeated = Self::is_repeated(&state, &wish, external_cas.as_deref());
        let wish = Wish { force_rotate: state.settings.force_rotate.wrapping_add(u64::from(!repeated)), ..wish };
        let external_cas = external_cas.unwrap_or_else(|| state.settings.external_cas.clone());
        let external_cas = rotate::with_present(&state, &wish, external_cas);
        let update = self.rotation_change(&state, wish, &external_cas, policy).await?;
        // The one under way goes on as it is.
        let goes_on = || state.rotation().map(|running| RootsChange::Policy(running.policy));
        let Some(change) = update.roots.or_else(goes_on) else {
            let message = match update.custody {
                Some(_) => "that is the root of now: only its key would change hands, and no node would notice",
                None => rotate::NOTHING_TO_ROTATE_TO,
            };
            return Err(ControlError { code: tonic::Code::FailedPrecondition, message: message.to_owned() });
        };
        self.seen(|seen| rotate::rehearse(&state, seen, change, cores(), self.0.now()))
    }

    /// Whether an order to rotate to a new root is given while a rotation to one is under way: it means that one.
    fn is_repeated(state: &State, wish: &Wish, external_cas: Option<&[ExternalCa]>) -> bool {
        wish.is_for_any_root() && external_cas.is_none() && rotate::goes_to_a_made_root(state)
    }

    /// What an order to rotate means: it says how long to wait too, also of a rotation that is under way to that very root.
    async fn rotation_change(
        &self,
        state: &Arc<State>,
        wish: Wish,
        external_cas: &[ExternalCa],
        policy: Option<Policy>,
    ) -> Result<RootsUpdate, ControlError> {
        let change = self.roots_change(state, wish, external_cas, policy).await?;
        if change.roots.is_some() {
            return Ok(change);
        }
        Ok(RootsUpdate { roots: rotate::keep(state, policy)?, ..change })
    }

    /// What an update asks of the roots, with everything signed that it needs.
    pub(super) async fn roots_change(
        &self,
        state: &Arc<State>,
        wish: Wish,
        external_cas: &[ExternalCa],
        asked: Option<Policy>,
    ) -> Result<RootsUpdate, ControlError> {
        let now = self.0.now();
        let policy = asked.unwrap_or(Policy::WaitForAll);
        let reach = self.reach(state, &wish, external_cas, policy).await;
        let roots = match rotate::decide(state, &wish, &reach, now)? {
            Decision::Keep => None,
            Decision::Abort => Some(self.turn_back(state, asked).await?),
            Decision::Entrust { trust, custody, abort } => {
                tracing::info!(custody = custody.word(), "the key of the root changes hands");
                let roots = if abort { Some(self.turn_back(state, asked).await?) } else { None };
                return Ok(RootsUpdate { roots, custody: Some((trust, custody)) });
            }
            Decision::Given(root) => Some(self.prepare(state, root, false, external_cas, policy).await?),
            Decision::Generate => {
                let root = match &wish.token {
                    None => rotate::generate(&self.0.chance, now)?,
                    Some(token) => self.self_signed(token.clone()).await?,
                };
                Some(self.prepare(state, root, true, external_cas, policy).await?)
            }
        };
        Ok(RootsUpdate { roots, custody: None })
    }

    /// Looks which external CAs can be reached that matter to an update. In an emergency nobody waits for the old one's.
    async fn reach(&self, state: &State, wish: &Wish, cas: &[ExternalCa], policy: Policy) -> Reach {
        let mut reach = Reach::default();
        let emergency = matches!(policy, Policy::Emergency { .. });
        let all = rotate::must_reach(state, wish, cas).into_iter();
        let probes = all
            .filter(|must| !(emergency && must.which == WhichCa::Current))
            .map(|must| async move { (must.which, self.0.outside.probe(&must.urls, &must.root).await) });
        for (which, result) in futures::future::join_all(probes).await {
            if let Err(why) = result {
                reach.failed(which, why.join("; "));
            }
        }
        reach
    }

    async fn prepare(
        &self,
        state: &Arc<State>,
        to: Arc<Root>,
        made: bool,
        external_cas: &[ExternalCa],
        policy: Policy,
    ) -> Result<RootsChange, ControlError> {
        let certify = rotate::certify(state, &to, policy);
        let signers = self.signers(state, certify, external_cas).await?;
        let now = self.0.now();
        self.off_thread(state, move |state| rotate::prepare(state, to, made, policy, &signers, now)).await
    }

    /// Tries whoever is to sign for the root that is rotated to, if that is a CA elsewhere.
    pub(super) async fn try_out(
        &self,
        state: &State,
        change: &RootsUpdate,
        cas: &[ExternalCa],
    ) -> Result<(), ControlError> {
        let Some(RootsChange::Start(start)) = &change.roots else { return Ok(()) };
        if !start.to.custody.is_outside() {
            return Ok(());
        }
        self.0.outside.try_out(cas, state, &start.to, &self.0.chance).await.map_err(|why| ControlError {
            code: tonic::Code::InvalidArgument,
            message: format!(
                "the external CA of the desired CA certificate gives no certificate that can be used: {why}"
            ),
        })
    }

    async fn turn_back(&self, state: &Arc<State>, policy: Option<Policy>) -> Result<RootsChange, ControlError> {
        let signers = self.signers(state, rotate::certify_back(state), &state.settings.external_cas).await?;
        let now = self.0.now();
        self.off_thread(state, move |state| rotate::turn_back(state, policy, &signers, now)).await
    }

    /// Whoever signs for a rotation, with what an external CA has to certify for it.
    async fn signers(
        &self,
        state: &State,
        certify: Option<Certify>,
        external_cas: &[ExternalCa],
    ) -> Result<Signers, ControlError> {
        let keys = self.0.outside.keys.clone();
        let Some(Certify { root, by }) = certify else { return Ok(Signers { keys, certified: Vec::new() }) };
        let client = self.0.outside.client_for(external_cas, state, &by);
        if !client.is_configured() {
            return Err(Refusal::CaUpdate(CaUpdateRefusal::ExternalCrossSigner).into());
        }
        let failed = |why: &dyn std::fmt::Display| {
            let refusal = ControlError::from(Refusal::CaUpdate(CaUpdateRefusal::CrossSigningFailed));
            ControlError { code: refusal.code, message: format!("{}: {why}", refusal.message) }
        };
        let Some(new) = root.certificates.first() else { return Err(failed(&"the root has no certificate")) };
        let key = keys.signer(&root).map_err(|fault| failed(&fault))?;
        let life = rotate::certify_life(state, self.0.now());
        let granted = client.cross_sign(new, key.as_ref(), &by.signer, life, SIGNING_SKEW_MAX).await;
        let certified = granted.map_err(|failure| failed(&failure))?.value;
        Ok(Signers { keys, certified: vec![certified] })
    }

    /// A root whose key is in a token.
    async fn self_signed(&self, token: TokenWish) -> Result<Arc<Root>, ControlError> {
        let (keys, chance, now) = (self.0.outside.keys.clone(), self.0.chance.clone(), self.0.now());
        let made = tokio::task::spawn_blocking(move || {
            let key = keys.key_in(&token.uri, &token.public).map_err(|fault| signer_failed(&fault))?;
            rotate::self_signed(&key, Custody::Token(token.uri), &chance, now)
        });
        made.await.unwrap_or_else(|error| Err(signer_failed(&error)))
    }

    /// A token may take its time.
    async fn off_thread<T: Send + 'static>(
        &self,
        state: &Arc<State>,
        work: impl FnOnce(&State) -> Result<T, ControlError> + Send + 'static,
    ) -> Result<T, ControlError> {
        let state = Arc::clone(state);
        tokio::task::spawn_blocking(move || work(&state)).await.unwrap_or_else(|error| Err(signer_failed(&error)))
    }

    /// The key that an operator names by a PKCS#11 URI: found in its token, made there, or put there if it is given (PEM). `dry`:
    /// nothing is done in the token; none: the key is not there.
    ///
    /// # Errors
    /// INVALID_ARGUMENT or FAILED_PRECONDITION with what is wrong with URI, token or key.
    pub async fn token_key(
        &self,
        uri: &str,
        given: Option<SecretString>,
        dry: bool,
    ) -> Result<Option<TokenWish>, ControlError> {
        let (keys, uri) = (self.0.outside.keys.clone(), Arc::<str>::from(uri));
        let given = rotate::key_to_import(given.as_ref())?;
        let found = tokio::task::spawn_blocking(move || {
            let missing = match &given {
                _ if dry => Missing::Leave,
                Some(key) => Missing::Put(key),
                None => Missing::Make,
            };
            let public = keys
                .find(&uri, missing)
                .map_err(|fault| ControlError { code: tonic::Code::FailedPrecondition, message: fault.to_string() })?;
            Ok(public.map(|public| TokenWish { uri, public }))
        });
        found.await.unwrap_or_else(|error| Err(signer_failed(&error)))
    }

    /// What only this manager knows of nodes.
    fn seen<T>(&self, look: impl FnOnce(&Seen<'_>) -> T) -> T {
        let shared = &self.0;
        // Told once it has lasted, and by the other manager's clock, which may be ahead.
        let long_ago = shared.now().saturating_sub(LOST_AFTER);
        let lost = |at: i64| (at != 0).then(|| Time::from_unix_millis(at).min(long_ago));
        // By what their managers say of those that are in session with others: what ended here once says nothing of them.
        let (sessions, elsewhere) = {
            let (own, roster) = (shared.sessions(), shared.roster());
            let is_here = |node: &NodeId| own.row(node).is_some_and(|row| row.session.is_some());
            let elsewhere = roster.rows().filter(|(node, _)| !is_here(node));
            let elsewhere: HashMap<_, _> =
                elsewhere.map(|(node, told)| (node.clone(), (lost(told.lost), told.refusal.clone()))).collect();
            (own.with(shared.now(), roster.rows()), elsewhere)
        };
        let pacer = shared.pacer();
        let stream_lost = |node: &NodeId| match elsewhere.get(node) {
            Some((lost, _)) => *lost,
            None => shared.slots.lost_at(node),
        };
        let state = shared.handle.state();
        let waits = |node: &NodeId| state.pending.contains(node).then(|| shared.outside.hindrance()).flatten();
        let refused_there = |node: &NodeId| {
            elsewhere.get(node).map(|(_, refusal)| refusal).filter(|refusal| !refusal.is_empty()).cloned()
        };
        // Who is in session elsewhere asks there since: what it was refused here is older.
        let last_error = |node: &NodeId| {
            refused_there(node).or_else(|| shared.last_refusal(node)).or_else(|| waits(node).map(|(_, why)| why))
        };
        look(&Seen { sessions: &sessions, pacer: &pacer, stream_lost: &stream_lost, last_error: &last_error })
    }
}

/// What an update does to the roots.
#[derive(Default)]
pub(super) struct RootsUpdate {
    pub(super) roots: Option<RootsChange>,
    pub(super) custody: Option<(BlobDigest, Custody)>,
}

fn signer_failed(why: &dyn std::fmt::Display) -> ControlError {
    ControlError { code: tonic::Code::Internal, message: format!("the root cannot sign: {why}") }
}
