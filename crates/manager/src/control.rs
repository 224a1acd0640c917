//! The operator's side: what the Engine API reads and asks for. Texts and codes are docker's (pki.md 13, 14).

pub mod tokens;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cluster::account::Account;
use cluster::command::{SecretBox, UpdateCluster};
use cluster::issuance::SIGNING_SKEW_MAX;
use cluster::lock::{self, LockChange, UnlockBox};
use cluster::node::{BlobDigest, Node};
use cluster::roots::{Custody, Root};
use cluster::rotation::{Policy, RootsChange};
use cluster::settings::NODE_CERT_EXPIRY_MIN;
use cluster::tokens::{MANAGER_ROW, WORKER_ROW};
use cluster::{Command, Outcome, Rejection, State};
use pki::digest::Digest;
use pki::identity::{NodeId, Role};
use pki::join_token::JoinSecret;
use pki::secret::SecretString;
use pki::time::Time;
use pki::unlock_key::UnlockKey;
use replica::Handle;
use tokio::sync::watch;
use wire::status::{CaUpdateRefusal, Refusal, WhichCa};

use crate::heads::Signed;
use crate::issue::pipeline::refused;
use crate::keys::Missing;
use crate::outside::SignerView;
use crate::report;
use crate::rotate::status::{LOST_AFTER, Seen};
use crate::rotate::{self, CaStatus, Certify, Decision, Reach, Rehearsal, Signers, TokenWish, Wish};
use crate::sessions::Row;
use crate::shared::{Shared, cores};
use crate::view::{
    ClusterSpec, ClusterView, ControlError, ExternalCa, ForkSeen, GroupView, NodeSpec, NodeState, NodeView, OutOfReach,
    Rotate,
};

/// How long the removal of a node waits for its demotion, which takes a moment.
const DEMOTED_WITHIN: Duration = Duration::from_secs(5);

/// The operator's handle on a manager, and who that operator is; cheap to clone.
pub struct Control<H>(pub(crate) Arc<Shared<H>>, pub(crate) Option<Arc<Account>>);

impl<H> Clone for Control<H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), self.1.clone())
    }
}

impl<H: Handle> Control<H> {
    /// The same for somebody who is named: what is asked for by this stands in the log with that name.
    #[must_use]
    pub fn by(&self, account: Account) -> Self {
        Self(Arc::clone(&self.0), Some(Arc::new(account)))
    }

    /// Brings what this manager knows up to date with whatever was answered anywhere before: the state, and who is in session with whom.
    ///
    /// # Errors
    /// Without a leader, or if leadership cannot be confirmed (engine-api.md 2.1).
    pub async fn fresh(&self) -> Result<(), ControlError> {
        // Known already: nobody has to wait to be told. A leader that hears no majority is none.
        if self.0.is_cut_off() {
            return Err(Refusal::NoLeader.into());
        }
        tokio::select! {
            biased;
            () = self.lost() => return Err(Refusal::NoLeader.into()),
            read = self.0.handle.read() => drop(read.map_err(unread)?),
        }
        if self.0.is_one_of_several(&self.0.handle.state()) {
            // What sessions there are is shown as it was known last if the leader does not say.
            let _ = self.0.sharer.lock().await.exchange(&self.0).await;
        }
        Ok(())
    }

    /// Waits until this manager hears nobody, and finds no majority either: while it finds one, that will soon have a leader.
    async fn lost(&self) {
        let mut cut_off = self.0.cut_off.subscribe();
        // The sender is here.
        let _ = cut_off.wait_for(|cut_off| *cut_off).await;
        let state = self.0.handle.state();
        let all = state.members.rows.len();
        if all.saturating_sub(self.0.unreachable(&state).len()) > all / 2 {
            std::future::pending().await
        }
    }

    /// The cluster.
    ///
    /// # Errors
    /// If there is none yet.
    pub fn cluster(&self) -> Result<ClusterView, ControlError> {
        let state = self.0.handle.state();
        let missing = || ControlError::from(Refusal::SignerStarting);
        let facts = state.cluster.as_deref().ok_or_else(missing)?;
        let root = state.roots.served().ok_or_else(missing)?;
        let signing = state.roots.signing().ok_or_else(missing)?;
        let digest = Digest::of(&root.bundle);
        let token = |row| {
            let token = state.tokens.text(row, &digest, facts.fips).ok_or_else(missing)?;
            Ok::<_, ControlError>(SecretString::new(token.text().to_owned()))
        };
        Ok(ClusterView {
            id: facts.id.clone(),
            version: state.cluster_version,
            created: facts.created,
            updated: state.cluster_updated,
            spec: ClusterSpec::from(&*state.settings),
            trust_root: String::from_utf8_lossy(&root.bundle).into_owned(),
            issuer: state.rotation().map_or(signing, |rotation| rotation.to()).issuer_id(),
            rotation_in_progress: state.rotation().is_some(),
            worker_token: token(WORKER_ROW)?,
            manager_token: token(MANAGER_ROW)?,
            fips: facts.fips,
            default_addr_pool: state.settings.default_addr_pool.clone(),
            subnet_size: state.settings.subnet_size,
            data_path_port: state.settings.data_path_port,
        })
    }

    /// Every node, unfinished joins too (they say so).
    pub fn nodes(&self) -> Vec<NodeView> {
        let state = self.0.handle.state();
        state.nodes.values().map(|node| self.view(&state, node)).collect()
    }

    /// How the group of managers stands, by what is known here at this moment. Nobody is asked: it is for who finds no leader.
    pub fn group(&self) -> GroupView {
        let shared = &self.0;
        let state = shared.handle.state();
        let leader = shared.handle.leadership().borrow().leader.filter(|_| !shared.is_cut_off());
        let rows = &state.members.rows;
        let away = rows.iter().filter(|(_, row)| !shared.is_reachable(row.raft_id)).map(|(id, row)| {
            let missed = shared.peers.misses(row.raft_id);
            OutOfReach {
                node: id.clone(),
                hostname: state
                    .node(id)
                    .and_then(|node| Some(node.report.as_deref()?.hostname.clone()))
                    .unwrap_or_default(),
                addr: row.addr.clone(),
                since: missed.as_ref().map(|missed| missed.since),
                why: missed.map(|missed| missed.why),
            }
        });
        GroupView {
            managers: rows.len(),
            leader: rows.iter().find(|(_, row)| Some(row.raft_id) == leader).map(|(id, _)| id.clone()),
            out_of_reach: away.collect(),
        }
    }

    /// One node.
    pub fn node(&self, id: &NodeId) -> Option<NodeView> {
        let state = self.0.handle.state();
        state.node(id).map(|node| self.view(&state, node))
    }

    /// The replicated state, as last applied here.
    pub fn state(&self) -> Arc<State> {
        self.0.handle.state()
    }

    /// The head of the issuance log, signed by this manager; none: it cannot sign now.
    pub fn log_head(&self) -> Option<Arc<Signed>> {
        self.0.sign_head()
    }

    /// The head of the issuance log in this state, signed by this manager.
    pub fn log_head_of(&self, state: &State) -> Option<Arc<Signed>> {
        self.0.sign_head_of(state)
    }

    /// Says where another manager is, to one that finds none: it is asked there, too.
    pub fn manager_at(&self, addr: String) {
        self.0.whereabouts.ask_at(addr);
    }

    /// Why the others could not be told yet where this manager is; none: they know, or nobody was asked.
    pub fn untold(&self) -> Option<String> {
        self.0.whereabouts.untold()
    }

    /// Heads that nodes showed and that are not of this manager's log, since it started.
    pub fn log_forks(&self) -> Vec<ForkSeen> {
        self.0.heads.forks()
    }

    /// Changes whenever something that the views show has changed.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.seen.subscribe()
    }

    /// New settings, fresh join tokens, and another root if `wish` asks for one (pki.md 12.2 and 14).
    ///
    /// # Errors
    /// The refusals of engine-api.md 2.1, in the order of 7.1.
    pub async fn update_cluster(
        &self,
        version: u64,
        spec: ClusterSpec,
        rotate: Rotate,
        wish: Wish,
    ) -> Result<(), ControlError> {
        let state = self.0.handle.state();
        if !spec.node_cert_expiry.is_zero() && spec.node_cert_expiry < NODE_CERT_EXPIRY_MIN {
            return Err(Refusal::ExpiryTooShort.into());
        }
        let before = &state.settings;
        let mut wanted = spec.settings(before);
        wanted.external_cas = rotate::with_present(&state, &wish, wanted.external_cas);
        let change = self.roots_change(&state, wish, &wanted.external_cas, None).await?;
        self.try_out(&state, &change, &wanted.external_cas).await?;
        let lock = lock::change(wanted.autolock, state.unlock.is_some(), rotate.unlock_key);
        let update = UpdateCluster {
            version,
            settings: Some(wanted),
            worker_secret: self.secret(rotate.worker)?,
            manager_secret: self.secret(rotate.manager)?,
            roots: change.roots,
            custody: change.custody,
            unlock: self.fresh_unlock_key(lock)?,
            told: true,
        };
        let changed = update.settings.as_ref() != Some(before);
        self.ask(Command::UpdateCluster(Box::new(update)), None).await?;
        if changed {
            tracing::info!("the cluster's settings were changed");
        }
        for (role, replaced) in [(Role::Worker, rotate.worker), (Role::Manager, rotate.manager)] {
            if replaced {
                tracing::info!(role = role.word(), "the join token was replaced: the old one admits nobody any more");
            }
        }
        match lock {
            LockChange::Keep => {}
            LockChange::Fresh => tracing::info!("there is a new unlock key: managers need it when they start"),
            LockChange::Drop => tracing::info!("managers are not locked at rest any more"),
        }
        Ok(())
    }

    /// The unlock key; none while managers are not locked at rest. It is the key of now, whichever manager was asked.
    ///
    /// # Errors
    /// Without a leader, or if leadership cannot be confirmed (engine-api.md 2.1).
    pub async fn unlock_key(&self) -> Result<Option<SecretString>, ControlError> {
        let state = self.0.handle.read().await.map_err(unread)?;
        if state.unlock.is_some() {
            self.ask(Command::UnlockKeyShown, None).await?;
        }
        Ok(state.unlock.as_ref().map(|unlock| unlock.0.text()))
    }

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
    async fn roots_change(
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
    async fn try_out(&self, state: &State, change: &RootsUpdate, cas: &[ExternalCa]) -> Result<(), ControlError> {
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

    fn secret(&self, wanted: bool) -> Result<Option<SecretBox>, ControlError> {
        if !wanted {
            return Ok(None);
        }
        let bytes = self.0.chance.bytes().map_err(|_| Refusal::SignerStopped)?;
        Ok(Some(SecretBox(Arc::new(JoinSecret::from_bytes(bytes)))))
    }

    fn fresh_unlock_key(&self, change: LockChange) -> Result<Option<UnlockBox>, ControlError> {
        if change != LockChange::Fresh {
            return Ok(None);
        }
        let bytes = self.0.chance.bytes().map_err(|_| Refusal::SignerStopped)?;
        Ok(Some(UnlockBox(Arc::new(UnlockKey::from_bytes(bytes)))))
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

    /// The operator's wish for a node.
    ///
    /// # Errors
    /// The refusals of pki.md 13.1.
    pub async fn update_node(&self, id: &NodeId, version: u64, spec: NodeSpec) -> Result<(), ControlError> {
        let state = self.0.handle.state();
        let node = state.node(id).ok_or_else(|| Refusal::NodeMissing { node: id.to_string() })?;
        if spec.role == Role::Worker && node.spec.role == Role::Manager && self.0.needs(&state, id) {
            return Err(Refusal::QuorumLoss.into());
        }
        self.ask(Command::UpdateNode { node: id.clone(), version, spec: Box::new(spec) }, Some(id)).await?;
        tracing::info!(node = %id, "what is wished of the node was changed");
        Ok(())
    }

    /// Erases private parts of the log: of all entries below this one, with every manager.
    ///
    /// # Errors
    /// If there are not so many entries; without a leader.
    pub async fn erase_log(&self, below: u64) -> Result<(), ControlError> {
        self.ask(Command::EraseLog { below }, None).await?;
        tracing::info!(below, "private parts of the issuance log were erased");
        Ok(())
    }

    /// Removes a node for good. Its connections and streams are ended as soon as this is committed.
    ///
    /// # Errors
    /// The refusals of pki.md 13.2.
    pub async fn remove_node(&self, id: &NodeId, force: bool) -> Result<(), ControlError> {
        // One whose demotion is under way is a manager for a moment yet.
        let demoted = |state: &Arc<State>| {
            let wish = state.node(id).map(|node| node.spec.role);
            wish != Some(Role::Worker) || !state.members().contains_key(id)
        };
        let mut states = self.0.handle.watch();
        // In vain: it is refused as a manager.
        let _ = tokio::time::timeout(DEMOTED_WITHIN, states.wait_for(demoted)).await;
        let elsewhere = || self.0.roster().get(id).is_some_and(|session| !session.returning);
        let ready = self.0.sessions().is_ready(id) || elsewhere();
        self.ask(Command::RemoveNode { node: id.clone(), force, ready }, Some(id)).await?;
        tracing::info!(node = %id, was_in_session = ready, "the node was removed: its certificates are refused");
        Ok(())
    }

    /// Orders a node in session to renew its certificate now, with whichever manager. It is told so in its session; engines begin within half
    /// a second. Asked again, the order is given again.
    ///
    /// # Errors
    /// If there is no such node, or it has no session.
    pub async fn order_renewal(&self, id: &NodeId) -> Result<(), ControlError> {
        if self.0.handle.state().node(id).is_none() {
            return Err(Refusal::NodeMissing { node: id.to_string() }.into());
        }
        if self.0.order_renewal(id).is_ok() {
            return Ok(());
        }
        if self.0.roster().get(id).is_none() {
            return Err(ControlError {
                code: tonic::Code::FailedPrecondition,
                message: format!("node {id} has no session: it renews when it comes back"),
            });
        }
        self.0.sharer.lock().await.order_renewal(&self.0, id).await.map_err(|error| ControlError {
            code: tonic::Code::Unavailable,
            message: format!("node {id} is in session with another manager, which could not be told: {error}"),
        })
    }

    async fn ask(&self, command: Command, node: Option<&NodeId>) -> Result<(), ControlError> {
        match self.propose(command).await? {
            Outcome::Rejected(rejection) => Err(refusal(&rejection, node).into()),
            _ => Ok(()),
        }
    }

    /// Commits a command; what came of it.
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, ControlError> {
        let command = match &self.1 {
            Some(account) => self.0.attributed(account, command).map_err(|_| Refusal::SignerStopped)?,
            None => command,
        };
        let outcomes = self.0.handle.propose(vec![command]).await.map_err(|error| refused(&error))?;
        outcomes.into_iter().next().ok_or_else(|| Refusal::OutcomeUnknown.into())
    }

    fn view(&self, state: &State, node: &Node) -> NodeView {
        let row = self.0.sessions().row(&node.id).cloned().filter(|row| row.session.is_some());
        let row = row.or_else(|| self.0.roster().get(&node.id).map(|other| Row::elsewhere(self.0.now(), other)));
        let in_session = row.as_ref().filter(|row| row.session.is_some());
        let (presence, message) = match in_session {
            // Its session is gone, although its time has not run out yet.
            _ if state.is_revoked(node) => (NodeState::Down, "its certificates were revoked"),
            Some(row) if row.returning => {
                (NodeState::Disconnected, "node came back with an old certificate and is renewing it")
            }
            Some(_) => (NodeState::Ready, ""),
            None if node.down => (NodeState::Down, "heartbeat failure"),
            None if node.report.is_some() => {
                (NodeState::Unknown, "Node moved to \"unknown\" state due to leadership change in cluster")
            }
            None => (NodeState::Unknown, ""),
        };
        // The newest: a node keeps its session on the leaf before, and shows the new one when it reconnects.
        let leaf = node.offered.last().or(node.current.as_ref());
        let renew_window = leaf.map(|leaf| {
            if node.ours {
                let at = pki::renewal::renew_at(received(leaf), leaf.not_after, &leaf.serial);
                (at, at)
            } else {
                pki::renewal::engine_window(leaf.not_before, leaf.not_after)
            }
        });
        let member = state.members.rows.get(&node.id).filter(|_| node.role == Role::Manager);
        NodeView {
            id: node.id.clone(),
            version: node.version,
            created: node.created,
            updated: node.updated,
            spec: node.spec.clone(),
            role: node.role,
            description: node.report.as_deref().map(|said| report::join(state, said)),
            state: presence,
            message: message.to_owned(),
            addr: node.report.as_deref().map(|said| said.addr.clone()).unwrap_or_default(),
            manager: member.map(|member| self.0.manager_status(member)),
            not_after: leaf.map(|leaf| leaf.not_after),
            renew_window,
            clock_offset_ms: row.as_ref().and_then(|row| row.clock).map(|clock| clock.offset_ms),
            last_contact: row.and_then(|row| row.last_contact).or(node.last_seen),
            unfinished: node.unfinished.is_some(),
        }
    }
}

/// When one of our nodes received its leaf, as near as a manager can tell.
fn received(leaf: &cluster::node::Leaf) -> Time {
    leaf.not_before.saturating_add(pki::issue::LEAF_BACKDATE)
}

/// What an update does to the roots.
#[derive(Default)]
struct RootsUpdate {
    roots: Option<RootsChange>,
    custody: Option<(BlobDigest, Custody)>,
}

/// Why the state could not be read as it is now.
pub(crate) fn unread(error: replica::ReadError) -> ControlError {
    match error {
        replica::ReadError::NoLeader => Refusal::NoLeader.into(),
        replica::ReadError::Unavailable { .. } => Refusal::DeadlineExceeded.into(),
        replica::ReadError::Fatal(fatal) => ControlError { code: tonic::Code::Internal, message: fatal.to_string() },
    }
}

fn signer_failed(why: &dyn std::fmt::Display) -> ControlError {
    ControlError { code: tonic::Code::Internal, message: format!("the root cannot sign: {why}") }
}

impl From<Refusal> for ControlError {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code(), message: refusal.to_string() }
    }
}

fn refusal(rejection: &Rejection, node: Option<&NodeId>) -> Refusal {
    let node_or = |refusal: fn(NodeId) -> Refusal| node.map_or(Refusal::ArgumentMissing, |node| refusal(node.clone()));
    match rejection {
        Rejection::OutOfSequence => Refusal::OutOfSequence,
        Rejection::UnknownNode | Rejection::Removed => node_or(|node| Refusal::NodeMissing { node: node.to_string() }),
        Rejection::Ready => node_or(|node| Refusal::RemovalOfLiveNode { node }),
        Rejection::Manager => node_or(|node| Refusal::RemovalOfManager { node }),
        Rejection::LastManager => Refusal::LastManager,
        Rejection::NotSeated | Rejection::NotPromoted => Refusal::NotRaftMember,
        Rejection::EngineNotPromotable => node_or(|node| Refusal::EngineNotPromotable { node }),
        Rejection::NoCluster => Refusal::SignerStarting,
        // The roots changed since the update was prepared: the version says so too.
        Rejection::NoRotation | Rejection::RotationBusy | Rejection::Way => Refusal::OutOfSequence,
        Rejection::Exists
        | Rejection::Issuer
        | Rejection::Epoch
        | Rejection::Skew
        | Rejection::Token
        | Rejection::TokenBusy
        | Rejection::IdTaken
        | Rejection::SerialUsed
        | Rejection::Cut
        | Rejection::Role
        | Rejection::NodeBusy
        | Rejection::NotConverted
        | Rejection::NotKept
        | Rejection::TooManyRevoked
        | Rejection::Blob
        | Rejection::TokenEnded
        | Rejection::TokenSpent
        | Rejection::TokenRevoked
        | Rejection::UnknownToken
        | Rejection::TokenLimits
        | Rejection::UnknownOperator
        | Rejection::OperatorRevoked
        | Rejection::OperatorsFull => Refusal::IssuanceStale,
    }
}
