//! Operators: the root of their certificates, and every certificate of it that has not ended. Rules:
//! - the root is made at first use, has a key of its own, sealed with the rest of the state, and is never a swarm root;
//! - a certificate is on record before it leaves a manager, with the role that it has: what is not on record opens nothing;
//! - what was taken back stays so until its end, and is renewed no more;
//! - who renews keeps name and role.

use std::sync::Arc;

use imbl::OrdMap;
use pki::certificate::Certificate;
use pki::issue::OPERATOR_LIFE_MIN;
use pki::key::SpkiHash;
use pki::operator::{OperatorName, OperatorRole};
use pki::secret::SecretBytes;
use pki::serial::Serial;
use pki::time::Time;

use crate::account::Event;
use crate::apply::Entry;
use crate::command::Premises;
use crate::issuance::SIGNING_SKEW_MAX;
use crate::node::IssuerHash;
use crate::outcome::{Outcome, Rejection};
use crate::state::State;

/// Certificates of operators on record at a time.
pub const OPERATORS_MAX: usize = 10_000;

/// Certificates of one name, not taken back: a bound on what one operator can have by renewing.
pub const CERTIFICATES_PER_NAME_MAX: usize = 64;

/// Everything about operators.
#[derive(Clone, Default)]
pub struct Operators {
    /// The root of their certificates, once there was use for it.
    pub root: Option<Arc<OperatorRoot>>,
    /// Their certificates that have not ended.
    pub rows: OrdMap<Serial, Arc<OperatorRow>>,
}

/// The root of operators' certificates.
#[derive(Clone)]
pub struct OperatorRoot {
    /// The certificate.
    pub certificate: Certificate,
    /// Its private key, PKCS#8 DER.
    pub key: Arc<SecretBytes>,
    /// Hash of its subject and key.
    pub issuer: IssuerHash,
}

impl OperatorRoot {
    /// A root made of its parts.
    pub fn new(certificate: Certificate, key: Arc<SecretBytes>) -> Self {
        let issuer = IssuerHash::of(&certificate.issuer_id());
        Self { certificate, key, issuer }
    }
}

impl std::fmt::Debug for OperatorRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OperatorRoot").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// One certificate of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorRow {
    /// Whose.
    pub name: OperatorName,
    /// What its holder may do.
    pub role: OperatorRole,
    /// SHA-256 of its public key.
    pub spki: SpkiHash,
    /// Start of the validity.
    pub not_before: Time,
    /// End of the validity.
    pub not_after: Time,
    /// When it was committed.
    pub issued: Time,
    /// When it was taken back, if it was.
    pub revoked: Option<Time>,
}

/// Why a certificate gives no right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperatorDenial {
    /// It is not on record: of another root, or signed and never committed, or forged; or it ended long ago.
    #[error("this certificate is not on record")]
    Unknown,
    /// It was taken back.
    #[error("this certificate was revoked at {}", .0.rfc3339())]
    Revoked(Time),
    /// It has ended.
    #[error("this certificate ended at {}", .0.rfc3339())]
    Ended(Time),
    /// Its validity has not begun.
    #[error("this certificate begins at {}", .0.rfc3339())]
    Early(Time),
}

/// A root for operators, if there is none.
#[derive(Clone, Debug)]
pub struct FoundOperators {
    /// The root.
    pub root: Arc<OperatorRoot>,
}

/// A certificate for an operator.
#[derive(Clone, Debug)]
pub struct IssueOperator {
    /// Its serial.
    pub serial: Serial,
    /// What is to be on record; `issued` and `revoked` are the entry's to say.
    pub row: OperatorRow,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// What it was based on.
    pub premises: Premises,
    /// The certificate that it renews, if it was asked for with one.
    pub renews: Option<Serial>,
}

/// A certificate of a manager's API, for the operators who speak to it. It is logged as all that a CA's key signs, and not on record:
/// its key never leaves the manager's memory.
#[derive(Clone, Debug)]
pub struct IssueApiServer {
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// What it was based on.
    pub premises: Premises,
}

/// Which certificates of operators are taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevokeOperator {
    /// One.
    Serial(Serial),
    /// All that have this name now.
    Name(OperatorName),
    /// All there are, with their root: what it ever signed is nothing any more. The next use makes another.
    All,
}

impl Operators {
    /// What the holder of a certificate may do at `now`. To be asked for each request: the answer changes with the state.
    ///
    /// # Errors
    /// Why it may do nothing.
    pub fn right(
        &self,
        serial: &Serial,
        spki: &SpkiHash,
        now: Time,
    ) -> Result<(OperatorRole, &OperatorRow), OperatorDenial> {
        let row = self.rows.get(serial).filter(|row| row.spki == *spki).ok_or(OperatorDenial::Unknown)?;
        if let Some(at) = row.revoked {
            return Err(OperatorDenial::Revoked(at));
        }
        if now < row.not_before {
            return Err(OperatorDenial::Early(row.not_before));
        }
        if now > row.not_after {
            return Err(OperatorDenial::Ended(row.not_after));
        }
        Ok((row.role, row))
    }

    /// Whether the certificate with this serial is on record, was not taken back, and has not ended.
    pub(crate) fn is_in_force(&self, serial: &Serial, now: Time) -> bool {
        self.rows.get(serial).is_some_and(|row| row.revoked.is_none() && row.not_after >= now)
    }

    /// Whether [`Command::Collect`](crate::Command::Collect), of no node too, would let go of a certificate at `now`.
    pub fn ended(&self, now: Time) -> bool {
        self.rows.values().any(|row| row.not_after < now)
    }

    fn named<'a>(&'a self, name: &'a OperatorName) -> impl Iterator<Item = (&'a Serial, &'a Arc<OperatorRow>)> {
        self.rows.iter().filter(move |(_, row)| row.name == *name)
    }
}

impl State {
    pub(crate) fn found_operators(
        &mut self,
        entry: &mut Entry<'_>,
        found: &FoundOperators,
    ) -> Result<Outcome, Rejection> {
        // Of two who begin at once, the first has it; one that has nearly ended is of no use to anybody.
        let used =
            |root: &Arc<OperatorRoot>| root.certificate.not_after() > entry.now.saturating_add(OPERATOR_LIFE_MIN);
        if self.operators.root.as_ref().is_some_and(used) {
            return Ok(Outcome::Unchanged);
        }
        if self.roots.in_use().any(|root| root.issuer == found.root.issuer) {
            return Err(Rejection::Issuer);
        }
        if !used(&found.root) {
            return Err(Rejection::Skew);
        }
        self.note_authorities(entry, &[found.root.certificate.der().to_vec()]);
        self.operators.root = Some(Arc::clone(&found.root));
        Ok(Outcome::Done { version: entry.index })
    }

    pub(crate) fn issue_operator(
        &mut self,
        entry: &mut Entry<'_>,
        issue: &IssueOperator,
    ) -> Result<Outcome, Rejection> {
        if self.has_operator(issue) {
            return Ok(Outcome::Unchanged);
        }
        let root = self.check_operators_premises(entry, &issue.premises)?;
        if issue.row.not_after > root.certificate.not_after() {
            return Err(Rejection::Issuer);
        }
        let operators = &self.operators;
        if operators.rows.contains_key(&issue.serial) {
            return Err(Rejection::SerialUsed);
        }
        if let Some(renewed) = &issue.renews {
            let row = operators.rows.get(renewed).ok_or(Rejection::UnknownOperator)?;
            if row.revoked.is_some() || row.not_after < entry.now {
                return Err(Rejection::OperatorRevoked);
            }
            if (&row.name, row.role) != (&issue.row.name, issue.row.role) {
                return Err(Rejection::UnknownOperator);
            }
        }
        let own = operators.named(&issue.row.name).filter(|(_, row)| row.revoked.is_none()).count();
        if operators.rows.len() >= OPERATORS_MAX || own >= CERTIFICATES_PER_NAME_MAX {
            return Err(Rejection::OperatorsFull);
        }
        entry.tell(Event::OperatorIssued {
            name: issue.row.name.to_string(),
            role: issue.row.role.word().to_owned(),
            serial: issue.serial,
            certificate: issue.certificate.clone(),
        });
        let row = OperatorRow { issued: entry.now, revoked: None, ..issue.row.clone() };
        self.operators.rows.insert(issue.serial, Arc::new(row));
        Ok(Outcome::Done { version: entry.index })
    }

    pub(crate) fn issue_api_server(
        &mut self,
        entry: &mut Entry<'_>,
        issue: &IssueApiServer,
    ) -> Result<Outcome, Rejection> {
        self.check_operators_premises(entry, &issue.premises)?;
        self.note_authorities(entry, std::slice::from_ref(&issue.certificate));
        Ok(Outcome::Done { version: entry.index })
    }

    /// The root that signed, if what was signed may still be issued.
    fn check_operators_premises(
        &self,
        entry: &Entry<'_>,
        premises: &Premises,
    ) -> Result<&Arc<OperatorRoot>, Rejection> {
        let root = self.operators.root.as_ref().filter(|root| root.issuer == premises.issuer);
        let root = root.ok_or(Rejection::Issuer)?;
        if premises.epoch != self.epoch {
            return Err(Rejection::Epoch);
        }
        let skew = entry.stamp.since(premises.signed).max(premises.signed.since(entry.stamp));
        if skew > SIGNING_SKEW_MAX { Err(Rejection::Skew) } else { Ok(root) }
    }

    /// Whether this very certificate is on record.
    pub(crate) fn has_operator(&self, issue: &IssueOperator) -> bool {
        let IssueOperator { serial, row: issued, .. } = issue;
        self.operators.rows.get(serial).is_some_and(|row| {
            let same = (&row.name, row.role, &row.spki) == (&issued.name, issued.role, &issued.spki);
            same && (row.not_before, row.not_after) == (issued.not_before, issued.not_after)
        })
    }

    pub(crate) fn revoke_operator(
        &mut self,
        entry: &mut Entry<'_>,
        what: &RevokeOperator,
    ) -> Result<Outcome, Rejection> {
        let operators = &mut self.operators;
        let found: Vec<Serial> = match what {
            RevokeOperator::Serial(serial) => operators.rows.get(serial).map(|_| *serial).into_iter().collect(),
            RevokeOperator::Name(name) => operators.named(name).map(|(serial, _)| *serial).collect(),
            RevokeOperator::All => operators.rows.keys().copied().collect(),
        };
        let rootless = *what == RevokeOperator::All && operators.root.take().is_some();
        if found.is_empty() && *what != RevokeOperator::All {
            return Err(Rejection::UnknownOperator);
        }
        let mut changed = rootless;
        for serial in &found {
            if let Some(row) = operators.rows.get_mut(serial).filter(|row| row.revoked.is_none()) {
                let row = Arc::make_mut(row);
                row.revoked = Some(entry.now);
                entry.tell(Event::OperatorRevoked { name: row.name.to_string(), serial: *serial });
                changed = true;
            }
        }
        Ok(if changed { Outcome::Done { version: entry.index } } else { Outcome::Unchanged })
    }

    /// Whether everything is taken back that this names, and something was.
    pub(crate) fn already_revoked(&self, what: &RevokeOperator) -> bool {
        let operators = &self.operators;
        let rows: Vec<&Arc<OperatorRow>> = match what {
            RevokeOperator::Serial(serial) => operators.rows.get(serial).into_iter().collect(),
            RevokeOperator::Name(name) => operators.named(name).map(|(_, row)| row).collect(),
            RevokeOperator::All if operators.root.is_some() => return false,
            RevokeOperator::All => operators.rows.values().collect(),
        };
        (*what == RevokeOperator::All || !rows.is_empty()) && rows.iter().all(|row| row.revoked.is_some())
    }

    /// Lets go of certificates that have ended; whether there were any.
    pub(crate) fn collect_operators(&mut self, now: Time) -> bool {
        let rows = &mut self.operators.rows;
        let ended: Vec<Serial> =
            rows.iter().filter(|(_, row)| row.not_after < now).map(|(serial, _)| *serial).collect();
        for serial in &ended {
            rows.remove(serial);
        }
        !ended.is_empty()
    }
}
