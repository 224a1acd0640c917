//! One request on its way, from its arrival to its end: what is done next, without log, clock or chance of its own. The
//! pipeline moves it over the real log, the simulator over its model.
//!
//! ```text
//! begin ──► sign ──► propose ──► judge ──► the certificate, or why not
//!            ▲                     │
//!            └── again ◄── read ◄──┘ stale, once
//! ```

use std::sync::Arc;

use cluster::authorize::Caller;
use cluster::node::Letter;
use cluster::{Command, Outcome, State};
use pki::csr::Linted;
use pki::identity::NodeId;
use pki::key::SpkiHash;
use pki::time::Time;
use wire::status::Refusal;

use super::{Draw, Purpose, Request, Signing, Verdict, admit, room, shape, sign, verdict};
use crate::server::Peer;

/// Signatures made for one request, at most.
const SIGNATURES_MAX: u8 = 2;

/// A request that was admitted and is not answered yet.
pub struct Issuing {
    request: Request,
    purpose: Purpose,
    csr: Linted,
    signed: u8,
}

/// A certificate was issued, and may be fetched.
#[derive(Debug)]
pub struct Issued {
    /// To whom.
    pub node: NodeId,
    /// What.
    pub letter: Arc<Letter>,
}

/// What there is for a node that asks for its certificate.
#[derive(Debug)]
pub enum Fetched {
    /// This one.
    Issued(Issued),
    /// Its request waits for the signer.
    Pending(NodeId),
}

/// What a request meets first.
pub enum Begun {
    /// It was answered before: here is that answer again.
    Answered(Issued),
    /// It is admitted, and its own signature holds: to be signed.
    Admitted(Box<Issuing>),
}

/// What follows from the outcome of an entry.
pub enum Judged {
    /// The certificate may be fetched.
    Issued(Issued),
    /// The request is kept and signed later: the node may ask for what comes of it.
    Pending(NodeId),
    /// A premise fell: go on with [`Issuing::again`] on a state read after the outcome, then sign.
    Again,
    /// Refused for good.
    Refused(Refusal),
}

impl Issuing {
    /// Looks at shape and size, admits, looks whether there is room, and only then verifies the request's own signature.
    ///
    /// # Errors
    /// The refusal.
    pub fn begin(state: &State, caller: Caller<'_>, request: Request, now: Time) -> Result<Begun, Refusal> {
        let csr = shape(&request)?;
        let purpose = admit(state, caller, &request, now)?;
        if let Purpose::Join(admission) = &purpose
            && let Some((node, letter)) =
                state.answered_join(&admission.token, &csr.public_key().hash(), &request.csr, now)
        {
            return Ok(Begun::Answered(Issued { node: node.id.clone(), letter: Arc::clone(letter) }));
        }
        room(state, &purpose, &request, &csr.public_key().hash(), now)?;
        let csr = csr.verify().map_err(|error| Refusal::CsrRefused { reason: error.to_string() })?;
        Ok(Begun::Admitted(Box::new(Self { request, purpose, csr, signed: 0 })))
    }

    /// Signs, and says what to propose. The signature leaves only after [`judge`](Self::judge).
    ///
    /// # Errors
    /// If the node is gone, or the signer fails.
    pub fn sign(&mut self, state: &State, signing: &Signing, draw: Draw, now: Time) -> Result<Command, Refusal> {
        self.signed = self.signed.saturating_add(1);
        sign(state, &self.purpose, &self.request, &self.csr, signing, draw, now)
    }

    /// Says what to propose for a signer that is not at hand: the request is kept, and the certificate is an entry of its own.
    pub fn ask(&mut self, drawn: NodeId) -> Command {
        self.signed = self.signed.saturating_add(1);
        super::ask(&self.purpose, &self.request, &self.csr, drawn)
    }

    /// Whether the request holds a key and nothing else.
    pub fn is_bare(&self) -> bool {
        self.csr.is_bare()
    }

    /// The request's public key.
    pub fn key(&self) -> SpkiHash {
        self.csr.public_key().hash()
    }

    /// What came of the command that was signed last.
    pub fn judge(&self, outcome: Option<&Outcome>) -> Judged {
        let node = match &self.purpose {
            Purpose::Join(_) => None,
            Purpose::Renewal { node, .. } => Some(node),
        };
        match verdict(outcome, node) {
            Verdict::Answer(node, letter) => Judged::Issued(Issued { node, letter }),
            Verdict::Pending(node) => Judged::Pending(node),
            Verdict::Refused(refusal) => Judged::Refused(refusal),
            Verdict::Again if self.signed >= SIGNATURES_MAX => Judged::Refused(Refusal::IssuanceStale),
            Verdict::Again => Judged::Again,
        }
    }

    /// Admits the request anew, on fresh state.
    ///
    /// # Errors
    /// The refusal.
    pub fn again(&mut self, state: &State, caller: Caller<'_>, now: Time) -> Result<(), Refusal> {
        self.purpose = admit(state, caller, &self.request, now)?;
        Ok(())
    }
}

/// The certificate that a peer asks for by node id: what was issued to it and not yet used, to anybody who knows the id, and
/// the one issued on this very connection before others.
///
/// # Errors
/// [`Refusal::CaArgumentMissing`] without an id; [`Refusal::CertificateMissing`] if there is none.
pub fn fetch(state: &State, peer: &Peer, id: &str) -> Result<Fetched, Refusal> {
    if id.is_empty() {
        return Err(Refusal::CaArgumentMissing);
    }
    let node: NodeId = id.parse().map_err(|_| Refusal::CertificateMissing)?;
    let record = state.node(&node).ok_or(Refusal::CertificateMissing)?;
    let asked = peer.issued_key(&node);
    if let Some(pending) = &record.pending
        && asked.is_none_or(|key| key == pending.spki)
    {
        return Ok(Fetched::Pending(node));
    }
    let letter = record.letter(asked.as_ref()).ok_or(Refusal::CertificateMissing)?;
    Ok(Fetched::Issued(Issued { letter: Arc::clone(letter), node }))
}
