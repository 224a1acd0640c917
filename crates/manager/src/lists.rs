//! What the outside is told of certificates that were taken back: lists (CRL) and answers about one (OCSP), signed by the root's key, kept until
//! something changes or they are old.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cluster::State;
use cluster::node::{IssuerHash, Node};
use cluster::roots::Root;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use pki::identity::NodeId;
use pki::key::Signer;
use pki::revocation::{
    CertId, CrlNumber, Entry, List, Question, Single, Status, Trouble, crl, ocsp_request, ocsp_response, ocsp_trouble,
};
use pki::serial::Serial;
use pki::time::Time;
use replica::Handle;
use tonic::Code;
use wire::status::Refusal;

use crate::control::Control;
use crate::keys::Keys;
use crate::news::Held;
use crate::shared::cores;
use crate::view::ControlError;

/// After so long a list is signed anew, although nothing has changed.
pub const CRL_FRESH: Duration = Duration::from_secs(60 * 60);
/// How long a list is good.
pub const CRL_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// After so long an answer is signed anew.
pub const OCSP_FRESH: Duration = Duration::from_secs(60);
/// How long an answer is good.
pub const OCSP_LIFE: Duration = Duration::from_secs(10 * 60);

const _: () = assert!(CRL_LIFE.as_secs() <= cluster::revocation::SHOWN_AFTER_END.as_secs());

/// Lists for those who hold another that are kept, at most, beside the whole one of each root. Of each root there are fewer than
/// there are bits in a version, and a few roots.
const DELTAS_MAX: usize = 256;
/// Answers a second that are signed about single certificates of which something is known, asked for as everybody does. Each is kept: strangers know few.
const KNOWN_PER_SECOND: u64 = 200;
/// Answers a second that are signed about all else: serials that were never issued, several at once, with a nonce. There is no end of those.
const RARE_PER_SECOND: u64 = 20;
/// Seconds' worth of answers that may be signed at once.
const BURST_SECONDS: u64 = 10;
/// What an answer costs, in the unit in which credit grows: a thousandth of one a millisecond and rate.
const COST: u64 = 1_000;
/// Answers that are kept, at most.
const ANSWERS_MAX: usize = 4096;

/// A signed list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedList {
    /// DER.
    pub der: Arc<[u8]>,
    /// Its number.
    pub number: CrlNumber,
    /// Whether it has only what came since another.
    pub delta: bool,
    /// When it was signed.
    pub this_update: Time,
    /// When the next is there at the latest.
    pub next_update: Time,
}

type Leaves = BTreeSet<(IssuerHash, Serial)>;

/// Of which root, and after which list.
type ListKey = (IssuerHash, Option<CrlNumber>);

/// Of which state, when it was signed, and it.
type Answer = (Held, Time, Arc<[u8]>);

/// What was signed and is kept.
pub(crate) struct Lists {
    lists: Mutex<BTreeMap<ListKey, (Held, SignedList)>>,
    /// The last whole list of each root, whatever changed since: for while its key cannot be reached.
    last: Mutex<BTreeMap<IssuerHash, Last>>,
    answers: Mutex<BTreeMap<Vec<u8>, Answer>>,
    /// The leaves on record, as of the nodes beside them.
    on_record: Mutex<(OrdMap<NodeId, Arc<Node>>, Leaves)>,
    /// Lists do not wait for answers.
    listing: tokio::sync::Semaphore,
    /// Signatures of answers under way: a token signs one after the other.
    signing: tokio::sync::Semaphore,
    known: Rate,
    rare: Rate,
}

/// A whole list, and whether it was said that it is served although it is not of now.
struct Last {
    list: SignedList,
    told: bool,
}

/// So many a second for long.
struct Rate {
    per_second: u64,
    credit: Mutex<Option<(u64, Time)>>,
}

impl Rate {
    fn new(per_second: u64) -> Self {
        Self { per_second, credit: Mutex::default() }
    }

    /// Takes one; false if there is none left.
    fn take(&self, now: Time) -> bool {
        let full = self.per_second * BURST_SECONDS * COST;
        let mut held = lock(&self.credit);
        let credit = held.map_or(full, |(credit, since)| {
            let millis = u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX);
            credit.saturating_add(millis.saturating_mul(self.per_second)).min(full)
        });
        let left = credit.checked_sub(COST);
        *held = Some((left.unwrap_or(credit), now));
        left.is_some()
    }
}

/// What is signed for whoever asks, and how it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// As asked for.
    Asked,
    /// Without the nonce, for everybody.
    Shared,
}

impl Default for Lists {
    fn default() -> Self {
        Self {
            lists: Mutex::default(),
            last: Mutex::default(),
            answers: Mutex::default(),
            on_record: Mutex::default(),
            listing: tokio::sync::Semaphore::new(1),
            signing: tokio::sync::Semaphore::new(cores()),
            known: Rate::new(KNOWN_PER_SECOND),
            rare: Rate::new(RARE_PER_SECOND),
        }
    }
}

impl Lists {
    fn list(&self, key: &ListKey, held: Held, now: Time) -> Option<SignedList> {
        let lists = lock(&self.lists);
        let (of, list) = lists.get(key)?;
        (*of == held && is_fresh(list.this_update, CRL_FRESH, now)).then(|| list.clone())
    }

    /// The last whole list of a root that can be served while none can be signed; and whether it is the first time since it was signed. It is one
    /// whose time is not over (RFC 5280, 5.1.2.5), of the present epoch, and not older than what the caller has.
    fn last(&self, root: &IssuerHash, since: Option<CrlNumber>, epoch: u64, now: Time) -> Option<(SignedList, bool)> {
        let mut last = lock(&self.last);
        let Last { list, told } = last.get_mut(root)?;
        let holds = now >= list.this_update && now < list.next_update;
        let newer = since.is_none_or(|since| list.number.version() >= since.version());
        if !holds || !newer || list.number.epoch() != epoch {
            return None;
        }
        Some((list.clone(), !std::mem::replace(told, true)))
    }

    /// Strangers choose which deltas are made: the whole lists stay, whatever they ask for.
    fn keep(&self, key: ListKey, held: Held, list: SignedList, now: Time) {
        if key.1.is_none() {
            let mut last = lock(&self.last);
            last.retain(|_, last| now < last.list.next_update);
            // Of two that were signed side by side the later one may be the older.
            if last.get(&key.0).is_none_or(|last| last.list.number <= list.number) {
                last.insert(key.0, Last { list: list.clone(), told: false });
            }
        }
        let mut kept = lock(&self.lists);
        kept.retain(|_, (of, list)| *of == held && is_fresh(list.this_update, CRL_FRESH, now));
        if key.1.is_some() {
            let deltas: Vec<_> = kept.keys().filter(|(_, since)| since.is_some()).copied().collect();
            if let Some(first) = deltas.first().filter(|_| deltas.len() >= DELTAS_MAX) {
                kept.remove(first);
            }
        }
        kept.insert(key, (held, list));
    }

    fn answer(&self, about: &[u8], held: Held, now: Time) -> Option<Arc<[u8]>> {
        let answers = lock(&self.answers);
        let (of, produced, answer) = answers.get(about)?;
        (*of == held && is_fresh(*produced, OCSP_FRESH, now)).then(|| Arc::clone(answer))
    }

    fn keep_answer(&self, about: Vec<u8>, held: Held, now: Time, answer: Arc<[u8]>) {
        let mut kept = lock(&self.answers);
        if kept.len() >= ANSWERS_MAX {
            kept.retain(|_, (of, produced, _)| *of == held && is_fresh(*produced, OCSP_FRESH, now));
            if kept.len() >= ANSWERS_MAX {
                kept.clear();
            }
        }
        kept.insert(about, (held, now, answer));
    }

    /// What may be signed for this question now, of which an answer without nonce may be `kept`; nothing: too much was asked for.
    fn turn(&self, question: &Question, statuses: &[Status], kept: bool, now: Time) -> Option<Turn> {
        let is_known = match (question.certificates.as_slice(), statuses) {
            ([one], [status]) => one.is_plain() && *status != Status::Unknown,
            _ => false,
        };
        match (&question.nonce, is_known) {
            (None, true) => self.known.take(now).then_some(Turn::Shared),
            (None, false) => self.rare.take(now).then_some(Turn::Shared),
            (Some(_), _) if self.rare.take(now) => Some(Turn::Asked),
            // Whoever asks with a nonce may be answered without it (RFC 8954, 2.1).
            (Some(_), true) => (kept || self.known.take(now)).then_some(Turn::Shared),
            (Some(_), false) => None,
        }
    }

    /// Whether a leaf is on record. What changed since the last question costs, nothing else.
    fn is_on_record(&self, state: &State, issuer: &IssuerHash, serial: &Serial) -> bool {
        let mut on_record = lock(&self.on_record);
        let (nodes, leaves) = &mut *on_record;
        for item in nodes.diff(&state.nodes) {
            let (old, new) = match &item {
                DiffItem::Add(_, new) => (None, Some(*new)),
                DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
                DiffItem::Remove(_, old) => (Some(*old), None),
            };
            for leaf in old.iter().flat_map(|node| node.leaves()) {
                leaves.remove(&(leaf.issuer, leaf.serial));
            }
            for leaf in new.iter().flat_map(|node| node.leaves()) {
                leaves.insert((leaf.issuer, leaf.serial));
            }
        }
        *nodes = state.nodes.clone();
        leaves.contains(&(*issuer, *serial))
    }

    fn status(&self, state: &State, issuer: &IssuerHash, serial: Option<Serial>) -> Status {
        let Some(serial) = serial else { return Status::Unknown };
        match state.revocations.get(issuer, &serial) {
            Some(row) => Status::Revoked { at: row.at, reason: row.reason.code() },
            None if self.is_on_record(state, issuer, &serial) => Status::Good,
            None => Status::Unknown,
        }
    }
}

fn is_fresh(signed: Time, fresh: Duration, now: Time) -> bool {
    now >= signed && now.since(signed) < fresh
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What stands on a list of `root`, whole, or what came after `since`.
fn entries(state: &State, root: &IssuerHash, since: u64) -> Vec<Entry> {
    let rows = state.revocations.since(since).filter(|((issuer, _), _)| issuer == root);
    rows.map(|((_, serial), row)| Entry { serial: *serial, at: row.at, reason: row.reason.code() }).collect()
}

/// After which list a delta is made for whoever holds `since`; none: the whole list is for them. Without the second in which that was signed,
/// which anybody can make up: a delta may complete any list that is not after theirs (RFC 5280, 5.2.4). For the same reason it may be
/// after an earlier one: so few are signed, whoever asks for what.
fn base(since: CrlNumber, held: Held) -> Option<CrlNumber> {
    let ours = since.epoch() == held.epoch && (1..=held.version).contains(&since.version());
    let after = match held.version.checked_sub(since.version())? {
        0 => held.version,
        missed => held.version.saturating_sub(missed.next_power_of_two()).max(1),
    };
    ours.then(|| CrlNumber::new(held.epoch, after, Time::from_unix_secs(0)))
}

/// Signs a list.
fn sign(
    state: &State,
    root: &Root,
    since: Option<CrlNumber>,
    keys: &Keys,
    now: Time,
) -> Result<SignedList, ControlError> {
    let signer = keys.signer(root).map_err(|fault| failed(Code::Unavailable, &fault))?;
    let number = CrlNumber::new(state.epoch, state.revocations.version(), now);
    let (this_update, next_update) = (now, now.saturating_add(CRL_LIFE));
    let list = List { issuer: &root.signer, number, since, this_update, next_update };
    let entries = entries(state, &root.issuer, since.map_or(0, CrlNumber::version));
    let der = crl(&list, entries, signer.as_ref()).map_err(|error| failed(Code::Unavailable, &error))?;
    Ok(SignedList { der: der.into(), number, delta: since.is_some(), this_update, next_update })
}

fn failed(code: Code, why: &dyn std::fmt::Display) -> ControlError {
    ControlError { code, message: format!("the list of revoked certificates cannot be signed: {why}") }
}

impl<H: Handle> Control<H> {
    /// The list of revoked certificates of the root that signs, or of the one with this key identifier. `since`: only what came after the list
    /// with that number; the whole one, if it is of another epoch, none of ours, or has nothing on it.
    ///
    /// While the root's token is away it is the last whole list, as long as that holds: who asks would otherwise go on with an older one, or
    /// with none. When it was signed stands in it.
    ///
    /// # Errors
    /// NOT_FOUND if no root has this key identifier; FAILED_PRECONDITION if its key is with an external CA; UNAVAILABLE if its token is away,
    /// and no list signed before holds.
    pub async fn crl(&self, issuer: Option<&[u8]>, since: Option<CrlNumber>) -> Result<SignedList, ControlError> {
        let state = self.0.handle.state();
        let root = match issuer {
            None => state.roots.signing().ok_or(Refusal::SignerStarting)?,
            Some(key_id) => state
                .roots
                .in_use()
                .find(|root| root.signer.ski().is_some_and(|ski| is_same(&ski, key_id)))
                .ok_or_else(|| ControlError {
                    code: Code::NotFound,
                    message: "no root of this cluster that signs now has this key identifier".to_owned(),
                })?,
        };
        if root.custody.is_outside() {
            return Err(ControlError {
                code: Code::FailedPrecondition,
                message: "the root's key is with an external CA: only that CA can sign the list of revoked certificates, and has to publish \
                          it; what was revoked here: GET /swarmpki/v1/revocations"
                    .to_owned(),
            });
        }
        let held = Held::of(&state);
        let asked = since.filter(|since| base(*since, held).is_some());
        let since = asked.and_then(|since| base(since, held));
        let key = (root.issuer, since);
        let lists = &self.0.lists;
        if let Some(list) = lists.list(&key, held, self.0.now()) {
            return Ok(list);
        }
        let _signing = lists.listing.acquire().await.map_err(|_| Refusal::SignerStopped)?;
        // Somebody else may have had it signed meanwhile.
        let now = self.0.now();
        if let Some(list) = lists.list(&key, held, now) {
            return Ok(list);
        }
        let (keys, root) = (self.0.outside.keys.clone(), Arc::clone(root));
        let work = tokio::task::spawn_blocking(move || sign(&state, &root, since, &keys, now));
        let list = match work.await.unwrap_or_else(|error| Err(failed(Code::Internal, &error))) {
            Ok(list) => list,
            Err(error) if error.code == Code::Unavailable => {
                let (last, first) = lists.last(&key.0, asked, held.epoch, self.0.now()).ok_or_else(|| error.clone())?;
                if first {
                    tracing::warn!(error = %error.message, signed = %last.this_update.rfc3339(), until = %last.next_update.rfc3339(),
                        "the last list of revoked certificates is served: none can be signed");
                }
                return Ok(last);
            }
            Err(error) => return Err(error),
        };
        lists.keep(key, held, list.clone(), now);
        Ok(list)
    }

    /// The answer to an OCSP request, DER; there always is one. The second part says until when it may be kept by whoever passes it on: none
    /// for one that is nobody else's.
    pub async fn ocsp(&self, request: &[u8]) -> (Arc<[u8]>, Option<Time>) {
        let trouble = |trouble| (Arc::from(ocsp_trouble(trouble)), None);
        let Ok(mut question) = ocsp_request(request) else { return trouble(Trouble::Malformed) };
        let state = self.0.handle.state();
        let asked = |root: &&Arc<Root>| question.certificates.iter().all(|one| one.is_of(&root.signer));
        let Some(root) = state.roots.in_use().find(asked).filter(|root| !root.custody.is_outside()) else {
            return trouble(Trouble::Unauthorized);
        };
        let (lists, held) = (&self.0.lists, Held::of(&state));
        let about = question.certificates.iter().map(CertId::der).collect::<Vec<_>>().concat();
        let kept = |now: Time| {
            let answer = lists.answer(&about, held, now)?;
            Some((answer, Some(now.saturating_add(OCSP_FRESH))))
        };
        if let Some(kept) = kept(self.0.now()).filter(|_| question.nonce.is_none()) {
            return kept;
        }
        let certificates = question.certificates.iter();
        let statuses: Vec<_> = certificates.map(|one| lists.status(&state, &root.issuer, one.serial)).collect();
        let Ok(signer) = self.0.outside.keys.signer(root) else { return trouble(Trouble::TryLater) };
        let Ok(_signing) = lists.signing.acquire().await else { return trouble(Trouble::TryLater) };
        let now = self.0.now();
        // Somebody else may have had it signed meanwhile.
        if let Some(kept) = kept(now).filter(|_| question.nonce.is_none()) {
            return kept;
        }
        let turn = match lists.turn(&question, &statuses, kept(now).is_some(), now) {
            Some(Turn::Asked) => Turn::Asked,
            Some(Turn::Shared) => match kept(now) {
                Some(kept) => return kept,
                None => Turn::Shared,
            },
            None => return kept(now).unwrap_or_else(|| trouble(Trouble::TryLater)),
        };
        if turn == Turn::Shared {
            question.nonce = None;
        }
        let work = tokio::task::spawn_blocking(move || answer(&question, &statuses, now, signer.as_ref()));
        let Ok(Ok(answer)) = work.await else { return trouble(Trouble::TryLater) };
        let answer: Arc<[u8]> = answer.into();
        if turn == Turn::Asked {
            return (answer, None);
        }
        lists.keep_answer(about, held, now, Arc::clone(&answer));
        (answer, Some(now.saturating_add(OCSP_FRESH)))
    }
}

/// Key identifiers as numbers.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let digits = |id: &[u8]| id.iter().skip_while(|byte| **byte == 0).copied().collect::<Vec<_>>();
    digits(one) == digits(other)
}

fn answer(
    question: &Question,
    statuses: &[Status],
    now: Time,
    signer: &dyn Signer,
) -> Result<Vec<u8>, pki::key::SignError> {
    let both = question.certificates.iter().zip(statuses);
    let singles: Vec<_> = both.map(|(certificate, status)| Single { certificate, status: *status }).collect();
    ocsp_response(&singles, question.nonce.as_deref(), now, now.saturating_add(OCSP_LIFE), signer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_is_after_a_version_and_no_second() {
        let held = Held { epoch: 3, version: 7 };
        let number = |epoch, version, at| CrlNumber::new(epoch, version, Time::from_unix_secs(at));
        let rows = [
            (number(3, 7, 1_700_000_000), Some(number(3, 7, 0))),
            (number(3, 7, 1_700_000_001), Some(number(3, 7, 0))),
            (number(3, 6, 0), Some(number(3, 6, 0))),
            (number(3, 5, 0), Some(number(3, 5, 0))),
            (number(3, 4, 0), Some(number(3, 3, 0))),
            (number(3, 2, 0), Some(number(3, 1, 0))),
            (number(3, 1, 0), Some(number(3, 1, 0))),
            (number(3, 0, 1_700_000_000), None),
            (number(3, 8, 1_700_000_000), None),
            (number(2, 7, 1_700_000_000), None),
            (number(4, 7, 1_700_000_000), None),
        ];
        for (since, expected) in rows {
            assert_eq!(base(since, held), expected, "{since}");
        }
    }

    #[test]
    fn few_deltas_whatever_is_asked_for() {
        let held = Held { epoch: 0, version: 1_000_000 };
        let bases = (1..=held.version).map(|version| {
            let since = CrlNumber::new(0, version, Time::from_unix_secs(1));
            let base = base(since, held).unwrap();
            assert!(base.version() <= version && held.version - base.version() <= 2 * (held.version - version));
            base
        });
        let bases: BTreeSet<_> = bases.collect();
        assert!(bases.len() < 24, "{}", bases.len());
    }

    #[test]
    fn a_rate_has_a_burst_and_grows_again() {
        let rate = Rate::new(20);
        let at = |millis: i64| Time::from_unix_millis(1_700_000_000_000 + millis);
        assert_eq!((0..1000).filter(|_| rate.take(at(0))).count(), 200);
        assert_eq!((0..1000).filter(|_| rate.take(at(500))).count(), 10);
        // A clock that is set back gives nothing, and takes nothing away.
        assert!(!rate.take(at(-3_600_000)));
        assert!(rate.take(at(-3_599_950)));
        assert_eq!(
            (0..1000).filter(|_| rate.take(at(3_600_000))).count(),
            200,
            "no more than a burst, however long nobody asked"
        );
    }

    #[test]
    fn the_whole_lists_are_kept_and_a_few_deltas() {
        let (held, now) = (Held { epoch: 0, version: 1000 }, Time::from_unix_secs(1_700_000_000));
        let number = |version| CrlNumber::new(0, version, Time::from_unix_secs(0));
        let list =
            SignedList { der: Arc::from([]), number: number(1000), delta: false, this_update: now, next_update: now };
        let (old, new) = (IssuerHash([1; 32]), IssuerHash([2; 32]));
        let lists = Lists::default();
        let keys = [(old, None), (new, None)].into_iter();
        for key in keys.chain((1..=1000).map(|version| (old, Some(number(version))))) {
            lists.keep(key, held, list.clone(), now);
        }
        let rows = [
            ((old, None), true),
            ((new, None), true),
            ((old, Some(number(1000))), true),
            ((old, Some(number(1001 - DELTAS_MAX as u64))), true),
            ((old, Some(number(1000 - DELTAS_MAX as u64))), false),
            ((old, Some(number(1))), false),
        ];
        for (key, kept) in rows {
            assert_eq!(lists.list(&key, held, now).is_some(), kept, "{key:?}");
        }
        assert_eq!(lock(&lists.lists).len(), 2 + DELTAS_MAX);
        let later = Held { version: 1001, ..held };
        lists.keep((old, None), later, list, now);
        assert_eq!(lock(&lists.lists).len(), 1, "of another state");
    }
    #[test]
    fn while_none_can_be_signed_the_last_whole_list_is_served_as_long_as_it_holds() {
        let (held, now) = (Held { epoch: 3, version: 7 }, Time::from_unix_secs(1_700_000_000));
        let number = |version| CrlNumber::new(3, version, now);
        let next_update = now.saturating_add(CRL_LIFE);
        let list = SignedList { der: Arc::from([7]), number: number(7), delta: false, this_update: now, next_update };
        let (root, other) = (IssuerHash([1; 32]), IssuerHash([2; 32]));
        let lists = Lists::default();
        let delta = SignedList { delta: true, number: number(8), ..list.clone() };
        lists.keep((other, Some(number(6))), held, delta, now);
        lists.keep((root, None), held, list.clone(), now);
        // Of another state, and by the other root: what is kept to be served at once is let go.
        let later = Held { version: 8, ..held };
        lists.keep((other, Some(number(7))), later, SignedList { delta: true, ..list.clone() }, now);
        assert_eq!(lists.list(&(root, None), held, now), None);

        let after = |secs| now.saturating_add(Duration::from_secs(secs));
        let day = CRL_LIFE.as_secs();
        let rows = [
            (root, None, 3, after(0), true),
            (root, None, 3, after(day - 1), true),
            (root, None, 3, after(day), false),
            (root, None, 3, now.saturating_sub(Duration::from_secs(1)), false),
            (root, None, 4, after(1), false),
            (root, Some(number(7)), 3, after(1), true),
            (root, Some(number(8)), 3, after(1), false),
            (other, None, 3, after(1), false),
        ];
        for (n, (root, since, epoch, at, served)) in rows.into_iter().enumerate() {
            let last = lists.last(&root, since, epoch, at);
            assert_eq!(last, served.then(|| (list.clone(), n == 0)), "row {n}");
        }
        // Said once more when another was signed.
        lists.keep((root, None), later, list.clone(), now);
        assert_eq!(lists.last(&root, None, 3, now), Some((list, true)));
    }
}
