//! Taking certificates back: what an operator asks for, and what the leader looks up in the issuance log of nodes whose certificates were all
//! taken back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cluster::command::{Revoke, Withdraw, Withdrawn};
use cluster::node::IssuerHash;
use cluster::revocation::{Owed, REVOKED_PER_COMMAND_MAX, Reason};
use cluster::{Command, Outcome, Rejection, State};
use pki::certificate::Certificate;
use pki::identity::NodeId;
use pki::serial::Serial;
use pki::time::Time;
use replica::{FOUND_MAX, Found, Handle, Wanted};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use wire::status::Refusal;

use crate::control::Control;
use crate::shared::Shared;
use crate::view::ControlError;

/// How long a node may take to use its new certificate before the old ones are left alone.
const REKEY_WAIT: Duration = Duration::from_secs(60);

/// How long it has to install it before its connections are let go, so that it uses it; and again.
const LET_GO: Duration = Duration::from_secs(2);

/// After so long the log is searched again if that failed.
const SEARCH_AGAIN: Duration = Duration::from_secs(5);

/// What is to be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The certificate with this serial.
    Serial {
        /// Which.
        serial: Serial,
        /// Also if it was never issued here: somebody else signed it.
        unissued: bool,
    },
    /// This very certificate, whoever signed it.
    Certificate(Certificate),
    /// Everything that a node was issued before now.
    Node {
        /// Which node.
        node: NodeId,
        /// It renews first, and goes on with what it gets then.
        rekey: bool,
    },
}

/// What was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenBack {
    /// Whose it was, if that is known.
    pub node: Option<NodeId>,
    /// Certificates that were taken back by this; those that only the issuance log knows follow.
    pub certificates: u64,
    /// Of a serial: whether this cluster ever issued it.
    pub issued: bool,
    /// When the last of them ends, and with it its row.
    pub until: Option<Time>,
    /// The certificate that the node goes on with.
    pub kept: Option<Serial>,
    /// Whether the node is left without one: it is out, and cannot renew.
    pub out: bool,
}

impl<H: Handle> Control<H> {
    /// Takes certificates back.
    ///
    /// # Errors
    /// NOT_FOUND if there is no such node, or no such certificate on record; FAILED_PRECONDITION if a manager would be locked out by it, or a node that is to renew first has
    /// no session or does not renew; UNAVAILABLE if the issuance log cannot be read now.
    pub async fn revoke(&self, target: Target, reason: Reason) -> Result<TakenBack, ControlError> {
        let before = self.0.handle.read().await.map_err(|_| ControlError::from(Refusal::NoLeader))?;
        let version = before.revocations.version();
        let (what, issued, kept) = match target {
            Target::Serial { serial, unissued } => {
                let (one, issued) = self.by_serial(&before, serial, unissued).await?;
                (Withdraw::Certificates(vec![one]), issued, None)
            }
            Target::Certificate(certificate) => {
                let (one, issued) = self.by_certificate(&before, &certificate).await?;
                (Withdraw::Certificates(vec![one]), issued, None)
            }
            Target::Node { node, rekey } => {
                let keep = if rekey { Some(self.renewed(&before, &node).await?) } else { None };
                (Withdraw::Node { node, keep }, true, keep)
            }
        };
        let node = match &what {
            Withdraw::Certificates(these) => these.first().and_then(|one| one.node.clone()),
            Withdraw::Node { node, .. } | Withdraw::Found { node, .. } => Some(node.clone()),
        };
        let command = Command::Revoke(Box::new(Revoke { reason, what: what.clone() }));
        if let Outcome::Rejected(rejection) = self.propose(command).await? {
            return Err(rejected(&rejection, node.as_ref()));
        }
        let state = self.0.handle.state();
        let rows = state.revocations.since(version).filter(|((issuer, serial), row)| match &what {
            Withdraw::Certificates(these) => these.iter().any(|one| one.issuer == *issuer && one.serial == *serial),
            Withdraw::Node { .. } | Withdraw::Found { .. } => row.node == node,
        });
        let (mut certificates, mut until) = (0, None);
        for (_, row) in rows {
            certificates += 1;
            until = until.max(Some(row.until));
        }
        tracing::info!(node = node.as_ref().map(ToString::to_string), certificates, reason = reason.word(), "revoked");
        let out = node.as_ref().and_then(|id| state.node(id)).is_some_and(|node| state.is_revoked(node));
        Ok(TakenBack { node, certificates, issued, until, kept, out })
    }

    async fn by_serial(
        &self,
        state: &State,
        serial: Serial,
        unissued: bool,
    ) -> Result<(Withdrawn, bool), ControlError> {
        for node in state.nodes.values() {
            if let Some(leaf) = node.leaves().find(|leaf| leaf.serial == serial) {
                let node = Some(node.id.clone());
                return Ok((Withdrawn { issuer: leaf.issuer, serial, until: leaf.not_after, node }, true));
            }
        }
        if let Some(((issuer, serial), row)) = state.revocations.rows().find(|((_, known), _)| *known == serial) {
            let known = Withdrawn { issuer: *issuer, serial: *serial, until: row.until, node: row.node.clone() };
            return Ok((known, row.node.is_some()));
        }
        if let Some(found) = self.search(Wanted::Serial(serial)).await?.into_iter().next() {
            return Ok((withdrawn(state, &found).ok_or_else(not_ours)?, true));
        }
        if !unissued {
            return Err(not_on_record(state, &serial));
        }
        // Signed by somebody else with our key, if there is one: nobody knows until when.
        let signing = state.roots.signing().ok_or(Refusal::SignerStarting)?;
        let until = signing.signer.not_after();
        Ok((Withdrawn { issuer: signing.issuer, serial, until, node: None }, false))
    }

    async fn by_certificate(
        &self,
        state: &State,
        certificate: &Certificate,
    ) -> Result<(Withdrawn, bool), ControlError> {
        let found = self.search(Wanted::Serial(certificate.serial())).await?.into_iter().next();
        let found = found.filter(|found| found.certificate == *certificate);
        let issued = found.is_some();
        let found = found.unwrap_or_else(|| Found { seq: None, node: None, certificate: certificate.clone() });
        let mut one = withdrawn(state, &found).ok_or_else(not_ours)?;
        if !issued {
            // Its name may be a real node's, whose connections have nothing to do with it.
            one.node = None;
        }
        Ok((one, issued))
    }

    async fn search(&self, wanted: Wanted) -> Result<Vec<Found>, ControlError> {
        self.0.handle.find_issued(&wanted).await.ok_or_else(|| ControlError {
            code: Code::Unavailable,
            message:
                "the issuance log cannot be read now, or is not whole on this manager yet: try again, or ask another"
                    .to_owned(),
        })
    }

    /// Has a node renew, and waits until it uses what it got.
    async fn renewed(&self, state: &State, id: &NodeId) -> Result<Serial, ControlError> {
        let node = state.node(id).ok_or_else(|| Refusal::NodeMissing { node: id.to_string() })?;
        let before: BTreeSet<Serial> = node.leaves().map(|leaf| leaf.serial).collect();
        let mut states = self.0.handle.watch();
        self.order_renewal(id).await?;
        let fresh = |state: &Arc<State>| {
            let current = state.node(id).and_then(|node| node.current.as_ref()).map(|leaf| leaf.serial);
            current.filter(|serial| !before.contains(serial))
        };
        let waiting = async {
            loop {
                // The state that was waited for is not kept while something else is.
                let looking =
                    async { states.wait_for(|state| fresh(state).is_some()).await.map(|state| fresh(&state)) };
                match tokio::time::timeout(LET_GO, looking).await {
                    Ok(Ok(used)) => return used,
                    Ok(Err(_)) => return None,
                    Err(_) => {}
                }
                // It has one and is still in the session of before: let go, it comes with that.
                let state = self.0.handle.state();
                let offered = state.node(id).and_then(|node| node.offered.last()).map(|leaf| leaf.serial);
                if let Some(serial) = offered.filter(|serial| !before.contains(serial)) {
                    let what = Withdraw::Node { node: id.clone(), keep: Some(serial) };
                    let revoke = Revoke { reason: Reason::Unspecified, what };
                    // Too late is as good: then it is in use.
                    let _ = self.0.handle.propose(vec![Command::Revoke(Box::new(revoke))]).await;
                }
            }
        };
        let used = tokio::time::timeout(REKEY_WAIT, waiting).await.ok().flatten();
        used.ok_or_else(|| ControlError {
            code: Code::DeadlineExceeded,
            message: format!(
                "node {id} did not use a new certificate within {} seconds: nothing was revoked; try again, or revoke without \
                 renewing first",
                REKEY_WAIT.as_secs()
            ),
        })
    }
}

/// A serial of which this cluster knows nothing: a part of one, as a rule.
fn not_on_record(state: &State, serial: &Serial) -> ControlError {
    let (part, leaves) = (serial.to_string(), state.nodes.values().flat_map(|node| node.leaves()));
    let alike = leaves.filter(|leaf| leaf.serial.to_string().starts_with(&part)).count();
    let alike = match alike {
        0 => String::new(),
        1 => "; one that is on record begins with it".to_owned(),
        many => format!("; {many} that are on record begin with it"),
    };
    ControlError {
        code: Code::NotFound,
        message: format!("no certificate with serial {part} was ever issued here: nothing was revoked{alike}"),
    }
}

fn not_ours() -> ControlError {
    ControlError {
        code: Code::FailedPrecondition,
        message: "that is no node's certificate of a root that this cluster trusts: to give up a root, rotate it"
            .to_owned(),
    }
}

fn rejected(rejection: &Rejection, node: Option<&NodeId>) -> ControlError {
    let failed = |message: String| ControlError { code: Code::FailedPrecondition, message };
    let name = node.map_or_else(|| "the node".to_owned(), |node| format!("node {node}"));
    match rejection {
        Rejection::Manager => failed(format!(
            "{name} is a manager and would be locked out: demote it first, or let it renew first (--rekey)"
        )),
        Rejection::NotKept => failed(format!("{name} renewed once more meanwhile: nothing was revoked; try again")),
        Rejection::TooManyRevoked => failed(format!("there is no room for more: {rejection}")),
        Rejection::UnknownNode | Rejection::Removed => {
            Refusal::NodeMissing { node: node.map(ToString::to_string).unwrap_or_default() }.into()
        }
        other => failed(other.to_string()),
    }
}

/// What is taken back of a certificate that was found; none if it is a CA's, or of a root that nobody here trusts.
fn withdrawn(state: &State, found: &Found) -> Option<Withdrawn> {
    let certificate = &found.certificate;
    if certificate.may_certify() {
        return None;
    }
    Some(Withdrawn {
        issuer: issuer_of(state, certificate)?,
        serial: certificate.serial(),
        until: certificate.not_after(),
        node: found.node.clone(),
    })
}

/// Who issued a certificate, among those whose leaves anybody accepts.
fn issuer_of(state: &State, certificate: &Certificate) -> Option<IssuerHash> {
    let signers = state.roots.in_use().map(|root| (&root.signer, root.issuer));
    let anchors = state.roots.stragglers().iter().map(|anchor| (&anchor.certificate, anchor.issuer));
    let signed = |signer: &Certificate| {
        certificate.issuer_der() == signer.subject_der() && pki::chain::signed_by(certificate, signer).is_ok()
    };
    signers.chain(anchors).find(|(signer, _)| signed(signer)).map(|(_, issuer)| issuer)
}

/// Looks up in the issuance log what else nodes were issued whose certificates were all taken back, while this manager leads.
pub(crate) async fn gather<H: Handle>(shared: Arc<Shared<H>>, over: CancellationToken) {
    let mut states = shared.handle.watch();
    loop {
        let state = Arc::clone(&states.borrow_and_update());
        let mut failed = false;
        for (node, owed) in state.revocations.owed() {
            let looked_up = tokio::select! {
                () = over.cancelled() => return,
                done = look_up(&shared, node, owed) => done,
            };
            failed |= !looked_up;
        }
        drop(state);
        let pause = async {
            if failed {
                tokio::time::sleep(SEARCH_AGAIN).await;
            } else {
                let _ = states.wait_for(|state| !state.revocations.owed().is_empty()).await;
            }
        };
        tokio::select! {
            () = over.cancelled() => return,
            () = pause => {}
        }
        if states.has_changed().is_err() {
            return;
        }
    }
}

/// One node's; whether it is done with.
async fn look_up<H: Handle>(shared: &Arc<Shared<H>>, node: &NodeId, owed: &Owed) -> bool {
    let (mut below, mut certificates) = (Some(u64::MAX), 0);
    while let Some(end) = below {
        let wanted = Wanted::Node { node: node.clone(), since: owed.since, until: owed.at, below: end };
        let Some(found) = shared.handle.find_issued(&wanted).await else {
            tracing::debug!(%node, "the issuance log cannot be searched now for certificates to revoke");
            return false;
        };
        below = older(&found);
        let (state, now) = (shared.handle.state(), shared.now());
        let known = |one: &Withdrawn| state.revocations.contains(&one.issuer, &one.serial);
        let all = found.iter().filter(|found| found.certificate.not_after() >= now);
        let rest: Vec<Withdrawn> = all.filter_map(|found| withdrawn(&state, found)).filter(|one| !known(one)).collect();
        for command in of_found(node, owed, &rest, below.is_none()) {
            match shared.handle.propose(vec![command]).await {
                Ok(outcomes) => {
                    if let Some(Outcome::Rejected(why)) = outcomes.first() {
                        tracing::warn!(%node, %why, "older certificates of a node are not on the list of revoked ones");
                        return false;
                    }
                }
                Err(error) => {
                    tracing::warn!(%node, %error, "older certificates of a node could not be revoked yet");
                    return false;
                }
            }
        }
        certificates += rest.len();
    }
    if certificates > 0 {
        tracing::info!(%node, certificates, "older certificates of the node were revoked too");
    }
    true
}

/// Below which entry to search on: there may be more if the search yielded all that it may.
fn older(found: &[Found]) -> Option<u64> {
    found.last().filter(|_| found.len() >= FOUND_MAX).and_then(|oldest| oldest.seq)
}

/// The commands that tell what was found; if nothing is searched after it, the last of them says so.
fn of_found(node: &NodeId, owed: &Owed, found: &[Withdrawn], end: bool) -> Vec<Command> {
    let mut parts: Vec<&[Withdrawn]> = found.chunks(REVOKED_PER_COMMAND_MAX).collect();
    if parts.is_empty() && end {
        parts.push(&[]);
    }
    let count = parts.len();
    let command = |(at, part): (usize, &[Withdrawn])| {
        let last = end && at + 1 == count;
        let what = Withdraw::Found { node: node.clone(), at: owed.at, certificates: part.to_vec(), last };
        Command::Revoke(Box::new(Revoke { reason: owed.reason, what }))
    };
    parts.into_iter().enumerate().map(command).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_told_in_parts_and_an_end() {
        let node = NodeId::generate([1; 17]);
        let at = Time::from_unix_secs(7);
        let owed = Owed { at, since: at, reason: Reason::KeyCompromise, keep: None };
        let one = |n: usize| {
            let mut random = [1; 20];
            random[12..].copy_from_slice(&(n as u64).to_be_bytes());
            Withdrawn { issuer: IssuerHash([1; 32]), serial: Serial::from_random(random), until: at, node: None }
        };
        let rows = [
            (0, true, vec![0]),
            (1, true, vec![1]),
            (1024, true, vec![1024]),
            (1025, true, vec![1024, 1]),
            // It is searched on: no end yet.
            (0, false, vec![]),
            (1025, false, vec![1024, 1]),
        ];
        for (count, end, parts) in rows {
            let found: Vec<_> = (0..count).map(one).collect();
            let told: Vec<_> = of_found(&node, &owed, &found, end)
                .into_iter()
                .filter_map(|command| match command {
                    Command::Revoke(revoke) => match revoke.what {
                        Withdraw::Found { certificates, last, .. } => Some((certificates.len(), last)),
                        _ => None,
                    },
                    _ => None,
                })
                .collect();
            let lasts: Vec<_> = (1..=parts.len()).map(|at| end && at == parts.len()).collect();
            assert_eq!(told, parts.into_iter().zip(lasts).collect::<Vec<_>>(), "{count} {end}");
        }
    }

    #[test]
    fn a_search_that_yielded_all_it_may_goes_on_below() -> Result<(), Box<dyn std::error::Error>> {
        let key = pki::key::PrivateKey::generate_p256(&[1; 32])?;
        let certificate = pki::issue::root(&key, Serial::from_random([1; 20]), Time::from_unix_secs(1_700_000_000))?;
        for (count, expected) in [(0, None), (1, None), (FOUND_MAX - 1, None), (FOUND_MAX, Some(7))] {
            let seqs = (7..).take(count).collect::<Vec<u64>>().into_iter().rev();
            let found = seqs.map(|seq| Found { seq: Some(seq), node: None, certificate: certificate.clone() });
            assert_eq!(older(&found.collect::<Vec<_>>()), expected, "{count}");
        }
        Ok(())
    }
}
