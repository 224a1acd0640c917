//! The pipeline: runs the steps of [`issue`](super) on the connection's own task, so signing uses every core; the log packs
//! what many callers propose into one entry and one sync.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use cluster::account::Account;
use cluster::command::Attributed;
use cluster::node::Node;
use cluster::{Command, State, issuance};
use pki::identity::NodeId;
use pki::key::SpkiHash;
use replica::{Handle, ProposeError};
use tokio::sync::Semaphore;
use wire::status::Refusal;

use super::refusals::Refusals;
use super::{Begun, Draw, Issued, Issuing, Judged, Request, Signing};
use crate::alarm::Alarm;
use crate::chance::NoChance;
use crate::outside::Outside;
use crate::server::Call;
use crate::sessions::Input;
use crate::shared::Shared;

/// Requests in work at a time; more are told to come back.
const IN_WORK_MAX: usize = 4096;

/// Why a request is refused that others are to sign.
const NOT_BARE: &str =
    "CSR refused: where a CA elsewhere signs, a request holds a key, and neither a name nor attributes";

/// When to come back if it is too busy.
const BUSY_RETRY: Duration = Duration::from_millis(500);

/// A request that was granted, or is kept.
pub(crate) struct Accepted {
    /// Whose it is.
    pub(crate) node: NodeId,
    /// Its public key.
    pub(crate) key: SpkiHash,
}

impl Accepted {
    fn of(issued: &Issued) -> Self {
        Self { node: issued.node.clone(), key: issued.letter.leaf.spki }
    }
}

/// The pipeline's own state: the parsed signer, and how many requests are in work.
pub(crate) struct Pipeline {
    signing: ArcSwapOption<Signing>,
    in_work: Semaphore,
    /// Refused joins, as the log tells of them.
    refusals: Arc<Refusals>,
}

impl Pipeline {
    /// Lets go of the signer: the roots have changed.
    pub(crate) fn forget_signer(&self) {
        self.signing.store(None);
    }
}

impl Default for Pipeline {
    fn default() -> Self {
        Self { signing: ArcSwapOption::empty(), in_work: Semaphore::new(IN_WORK_MAX), refusals: Arc::default() }
    }
}

impl<H: Handle> Shared<H> {
    /// One request, until its node may fetch what came of it, or may wait for it. An engine is told of a token that is one no more what
    /// its own managers would say; the reason is in the log.
    pub(crate) async fn issue(&self, call: &Call, request: Request) -> Result<Accepted, Refusal> {
        let ours = request.ours;
        match self.answer(call, request).await {
            Err(refusal) if refusal.is_of_limited_token() => {
                self.pipeline.refusals.tell(call.addr(), &refusal);
                Err(if ours { refusal } else { Refusal::TokenRefused })
            }
            answer => answer,
        }
    }

    async fn answer(&self, call: &Call, request: Request) -> Result<Accepted, Refusal> {
        let busy = || Refusal::Busy { retry_after: BUSY_RETRY };
        let _in_work = self.pipeline.in_work.try_acquire().map_err(|_| busy())?;
        let mut state = self.handle.state();
        let mut began = Some(Instant::now());
        let spare = self.is_one_of_several(&state).then(|| request.clone());
        let mut begun = Issuing::begin(&state, call.caller(), request, self.now());
        // What was changed by way of another manager may not have come here yet: nobody is refused for that.
        let unsure = |refusal: &Refusal| {
            matches!(refusal, Refusal::TokenRefused | Refusal::Peer(_)) || refusal.is_of_limited_token()
        };
        if let (Some(request), true) = (spare, begun.as_ref().err().is_some_and(unsure)) {
            let sure = self.surely().await?;
            begun = Issuing::begin(&sure, call.caller(), request, self.now());
            state = sure;
        }
        let mut issuing = match begun? {
            Begun::Answered(issued) => return Ok(Accepted::of(&issued)),
            Begun::Admitted(issuing) => issuing,
        };
        // Nothing can be committed. A node waits five seconds for an answer: it is to hear this one.
        if self.is_cut_off() {
            return Err(Refusal::NoLeader);
        }
        loop {
            let draw = self.draw().map_err(|_| Refusal::SignerStopped)?;
            let command = match self.at_hand(&state)? {
                Some(signing) => issuing.sign(&state, &signing, draw, self.now())?,
                // An external CA may do what it is asked for in the request, or refuse all of it.
                None if !issuing.is_bare() => return Err(Refusal::CsrRefused { reason: NOT_BARE.to_owned() }),
                None => issuing.ask(draw.node),
            };
            if let Some(began) = began.take().filter(|_| state.rotation().is_some()) {
                self.pacer().measured(began.elapsed());
            }
            let mut commands = Vec::with_capacity(2);
            commands.extend(call.peer.take_unproven().map(|(node, serial)| Command::Confirm { node, serial }));
            commands.push(self.attributed(&call.account(), command).map_err(|_| Refusal::SignerStopped)?);
            let outcomes = self.handle.propose(commands).await.map_err(|error| {
                call.peer.give_back_unproven();
                refused(&error)
            })?;
            match issuing.judge(outcomes.last()) {
                Judged::Issued(issued) => {
                    self.watch_rate(&issued.node);
                    self.tell(Input::Renewed(&issued.node)).await;
                    return Ok(Accepted::of(&issued));
                }
                Judged::Pending(node) => return Ok(Accepted { node, key: issuing.key() }),
                Judged::Refused(refusal) => return Err(refusal),
                Judged::Again => {}
            }
            state = self.look().await.ok_or_else(busy)?;
            issuing.again(&state, call.caller(), self.now())?;
        }
    }

    pub(crate) fn watch_rate(&self, node: &NodeId) {
        let state = self.handle.state();
        // A rotation orders renewals, and orders again what was lost.
        let usual = if state.rotation().is_some() { 10 * issuance::ISSUANCES_PER_HOUR_ALARM } else { 0 };
        let many = |record: &Arc<Node>| issuance::is_alarming(record, state.time()) && record.issuances.1 > usual;
        if state.node(node).is_some_and(many) {
            self.alarms.raise(Alarm::ManyIssuances { node: node.clone() }, self.now());
        }
    }

    /// A command with who asked for it, and where from.
    pub(crate) fn attributed(&self, account: &Account, command: Command) -> Result<Command, NoChance> {
        let Account { by, from } = account.clone();
        Ok(Command::Attributed(Box::new(Attributed { by, from, salt: self.chance.bytes()?, command })))
    }

    fn draw(&self) -> Result<Draw, NoChance> {
        Ok(Draw { node: self.chance.node_id()?, serial: self.chance.serial()? })
    }

    /// Today's signer, parsed once and kept until the roots change; none: it is not at hand.
    fn at_hand(&self, state: &State) -> Result<Option<Arc<Signing>>, Refusal> {
        let root = state.roots.signing().ok_or(Refusal::SignerStarting)?;
        if Outside::takes(state, root) {
            return Ok(None);
        }
        if let Some(signing) = self.pipeline.signing.load_full().filter(|signing| signing.hash == root.issuer) {
            return Ok(Some(signing));
        }
        let signing = Signing::of(root, self.now()).map_err(|error| {
            tracing::error!(error, "the root cannot sign");
            Refusal::SignerStopped
        })?;
        let signing = Arc::new(signing);
        self.pipeline.signing.store(Some(Arc::clone(&signing)));
        Ok(Some(signing))
    }
}

/// What a failed proposal means for the caller. An unknown outcome is neither success nor failure: the caller is told to ask
/// again, and gets the same certificate for the same key if there is one.
pub fn refused(error: &ProposeError) -> Refusal {
    match error {
        ProposeError::Unavailable { retry_after } => Refusal::Busy { retry_after: *retry_after },
        ProposeError::Unknown => Refusal::OutcomeUnknown,
        ProposeError::NoLeader => Refusal::LeaderLost,
        ProposeError::TooLarge { .. } | ProposeError::Fatal(_) => Refusal::SignerStopped,
    }
}
