//! `/swarmpki/v1/log`: the whole account of what the CA did, proofs over it, and questions to it. Managers only.

use std::collections::BTreeSet;

use cluster::account::{Actor, Event, Private};
use cluster::format::LogRecord;
use cluster::log::leaf_hash;
use cluster::{LogEntry, State};
use pki::certificate::Certificate;
use pki::chain::signed_by;
use pki::digest::hex;
use pki::identity::NodeId;
use pki::time::Time;
use replica::{Handle, Replica};
use serde::{Deserialize, Serialize};

use super::body::Document;
use super::decode::Object;
use super::error::ApiError;
use super::heads::{self, HeadVerdict};
use super::issuance_log::{LOOKED_AT_MAX, PAGE_DEFAULT, PAGE_MAX, issuers, number};
use super::query::Query;
use super::{Answer, json};
use crate::backend::{Backend, refusal};
use crate::caller::Right;
use crate::clock::now;

/// Certificates that are looked for at a time, at most.
pub const AUDITED_MAX: usize = 100;

/// A page of the account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccountPage {
    /// Entries in the whole log.
    pub size: u64,
    /// Root of the Merkle tree (RFC 9162, 2.1) over them, hex.
    pub root_hash: String,
    /// Private parts of entries below this one were erased.
    pub erased: u64,
    /// Where to go on.
    pub next: u64,
    /// The entries, in order.
    pub entries: Vec<AccountLine>,
}

/// One entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccountLine {
    /// Its place, from 0.
    pub seq: u64,
    /// The cluster's time when it was committed.
    pub time: String,
    /// What was done: a word.
    pub event: String,
    /// The node that it is about.
    pub node: Option<String>,
    /// Who asked for it.
    pub by: String,
    /// More about it.
    pub detail: String,
    /// Serial of the certificate that it is about, hex.
    pub serial: Option<String>,
    /// SHA-256 of the certificate in it, hex.
    pub fingerprint: Option<String>,
    /// The address that it was asked from; null: not known, erased, or not for this caller.
    pub from: Option<String>,
    /// The host name of its node then.
    pub host: Option<String>,
    /// The address of its node then.
    pub addr: Option<String>,
}

/// That an entry is in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Proof {
    /// The entry.
    pub seq: u64,
    /// Its bytes, hex.
    pub entry: String,
    /// Its hash, hex: SHA-256 over a zero byte and the entry.
    pub leaf_hash: String,
    /// Entries of the log that it is shown for.
    pub size: u64,
    /// The root over them, hex.
    pub root_hash: String,
    /// From the leaf to the root (RFC 9162, 2.1.3), hex.
    pub path: Vec<String>,
}

/// That a log begins with an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Consistency {
    /// Entries of the earlier one.
    pub before: u64,
    /// The root over them, hex.
    pub root_before: String,
    /// Entries of the later one.
    pub size: u64,
    /// The root over them, hex.
    pub root_hash: String,
    /// What shows it (RFC 9162, 2.1.4), hex.
    pub path: Vec<String>,
}

/// Whether the log is whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VerifyReport {
    /// Its entries.
    pub size: u64,
    /// The root over them, hex.
    pub root_hash: String,
    /// Private parts that are there.
    pub private: u64,
    /// The first that is wrong; null: nothing is.
    pub problem: Option<LogProblem>,
    /// Signed heads that it was compared with: the one that this node keeps, and those that were given.
    pub heads: Vec<HeadVerdict>,
}

/// What is wrong with a log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogProblem {
    /// The first entry that it may be.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// What it is.
    pub text: String,
}

/// What the log says of a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Audited {
    /// SHA-256 of its DER, hex.
    pub fingerprint: String,
    /// Its serial, hex.
    pub serial: String,
    /// The name in it.
    pub subject: String,
    /// `issued`, `ca` (a CA certificate of this cluster that was made elsewhere), `former` (one that it had before: its key stands in an entry, or signed one), `forged` (a key that this cluster has
    /// or had signed it, and it was never issued), `unproven` (never issued; it names a former key of this cluster, whose certificate is not held here any more), `foreign` (another key signed it), or
    /// `unknown` (the log is not whole here).
    pub verdict: String,
    /// Its entry; of a former CA certificate: the first that its key signed, or that certifies its key.
    pub seq: Option<u64>,
    /// When that was made.
    pub time: Option<String>,
    /// The node that it was issued to.
    pub node: Option<String>,
}

/// What was erased.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErasedReport {
    /// Entries below this one have no private part any more.
    pub below: u64,
}

impl VerifyReport {
    /// Of what was found.
    pub fn of(state: &State, found: &Result<replica::Verified, replica::Fault>) -> Self {
        let report = Self { size: state.log_size(), root_hash: hex(&state.log.root()), ..Self::default() };
        match found {
            Ok(verified) => {
                Self { size: verified.size, root_hash: hex(&verified.root), private: verified.private, ..report }
            }
            Err(fault) => {
                let (first, last) = (fault.entries.start, fault.entries.end.saturating_sub(1));
                Self { problem: Some(LogProblem { first, last, text: fault.to_string() }), ..report }
            }
        }
    }
}

/// `GET /swarmpki/v1/log?from=&max=&since=&node=`: `since` in milliseconds since 1970, `node` the id that entries must be about.
pub(super) async fn page(backend: &Backend, right: Right, query: &Query) -> Answer {
    let replica = backend.replica()?;
    let state = replica.state();
    let mut next = number(query, "from")?.unwrap_or(0);
    if let Some(since) = number(query, "since")? {
        let since = Time::from_unix_millis(i64::try_from(since).unwrap_or(i64::MAX));
        next = next.max(first_since(&replica, &state, since).await?);
    }
    let max = number(query, "max")?.map_or(PAGE_DEFAULT, |max| usize::try_from(max).unwrap_or(PAGE_MAX)).min(PAGE_MAX);
    let node: Option<NodeId> = match query.value("node") {
        "" => None,
        raw => Some(raw.parse().map_err(|_| ApiError::bad_request(format!("invalid value for node: {raw}")))?),
    };
    let mut page = AccountPage {
        size: state.log_size(),
        root_hash: hex(&state.log.root()),
        erased: state.log_erased,
        ..AccountPage::default()
    };
    let last = state.log_size().min(next.saturating_add(LOOKED_AT_MAX));
    while page.entries.len() < max && next < last {
        let rest = usize::try_from(last.saturating_sub(next)).unwrap_or(PAGE_MAX);
        let wanted = if node.is_some() { PAGE_MAX } else { max - page.entries.len() };
        let entries = replica.log_entries(next, rest.min(wanted)).await.map_err(|error| failed(&error))?;
        // What a newcomer has not been given yet is not passed over.
        if entries.is_empty() {
            return Err(ApiError::unavailable(NOT_WHOLE));
        }
        for entry in entries {
            if page.entries.len() >= max {
                break;
            }
            if entry.seq != next {
                return Err(ApiError::unavailable(NOT_WHOLE));
            }
            next = entry.seq.saturating_add(1);
            let record = record(&entry)?;
            if node.is_none() || record.node == node {
                page.entries.push(line(&entry, &record, right));
            }
        }
    }
    page.next = next;
    json(&page)
}

/// `GET /swarmpki/v1/log/prove?seq=&size=`.
pub(super) async fn prove(backend: &Backend, query: &Query) -> Answer {
    let replica = backend.replica()?;
    let state = replica.state();
    let size = number(query, "size")?.unwrap_or(state.log_size());
    let seq = number(query, "seq")?.ok_or_else(|| ApiError::bad_request("seq is missing: which entry?"))?;
    if size > state.log_size() || seq >= size {
        return Err(ApiError::bad_request(format!("there is no entry {seq} among the first {size}")));
    }
    let path = replica.inclusion(seq, size).await.map_err(|error| failed(&error))?.unwrap_or_default();
    let root = replica.root_at(size).await.map_err(|error| failed(&error))?;
    let entries = replica.log_entries(seq, 1).await.map_err(|error| failed(&error))?;
    let entry = entries.first().filter(|entry| entry.seq == seq);
    let entry = entry.ok_or_else(|| ApiError::unavailable(NOT_WHOLE))?;
    json(&Proof {
        seq,
        entry: hex(&entry.bytes),
        leaf_hash: hex(&leaf_hash(&entry.bytes)),
        size,
        root_hash: hex(&root),
        path: path.iter().map(|step| hex(step)).collect(),
    })
}

/// `GET /swarmpki/v1/log/consistency?before=&size=`.
pub(super) async fn consistency(backend: &Backend, query: &Query) -> Answer {
    let replica = backend.replica()?;
    let state = replica.state();
    let size = number(query, "size")?.unwrap_or(state.log_size());
    let before = number(query, "before")?.unwrap_or(0);
    if size > state.log_size() || before > size {
        return Err(ApiError::bad_request(format!("the log has no first {before} entries among {size}")));
    }
    let path = replica.consistency(before, size).await.map_err(|error| failed(&error))?.unwrap_or_default();
    let root_before = replica.root_at(before).await.map_err(|error| failed(&error))?;
    let root = replica.root_at(size).await.map_err(|error| failed(&error))?;
    json(&Consistency {
        before,
        root_before: hex(&root_before),
        size,
        root_hash: hex(&root),
        path: path.iter().map(|step| hex(step)).collect(),
    })
}

/// `POST /swarmpki/v1/log/verify`: reads all of it, and compares it with signed heads: `{"Heads": ["base64…"]}`, beside the one that is kept here.
pub(super) async fn verify(backend: &Backend, right: Right, body: Option<Document>) -> Answer {
    let document = Object::document(body.as_ref().map(Document::value), "swarmpki.VerifyRequest")?;
    let given = heads::given(&document.strings("Heads")?)?;
    let _turn = backend.turn_to_read(right).await;
    let replica = backend.replica()?;
    if replica.missing().await.map_err(|error| failed(&error))?.is_some() {
        return Err(ApiError::unavailable(NOT_WHOLE));
    }
    let found = replica.verify_log().await.map_err(|error| failed(&error))?;
    if let Err(fault) = &found {
        tracing::error!(alarm = "log-damaged", %fault, "the issuance log is not whole");
    }
    let mut report = VerifyReport::of(&replica.state(), &found);
    let kept = backend
        .present()
        .membership()
        .and_then(|member| member.status())
        .and_then(|status| status.witness.head.clone());
    let all: Vec<_> =
        kept.into_iter().map(|kept| (true, kept)).chain(given.into_iter().map(|given| (false, given))).collect();
    // Where the log itself is damaged, nothing can be said beyond that.
    if found.is_ok() {
        report.heads = heads::judge(&replica, &all, now()).await.map_err(|text| failed(&text))?;
    }
    json(&report)
}

/// `POST /swarmpki/v1/log/audit`: `{"Certificates": ["-----BEGIN CERTIFICATE-----…"]}`, in PEM, one or more in each.
pub(super) async fn audit(backend: &Backend, right: Right, body: Option<Document>) -> Answer {
    let document = Object::document(body.as_ref().map(Document::value), "swarmpki.AuditRequest")?;
    let mut certificates = Vec::new();
    for pem in document.strings("Certificates")? {
        let parsed = Certificate::parse_pem_bundle(pem.as_bytes());
        certificates.extend(parsed.map_err(|error| ApiError::bad_request(format!("a certificate: {error}")))?);
    }
    if certificates.is_empty() || certificates.len() > AUDITED_MAX {
        return Err(ApiError::bad_request(format!("name 1 to {AUDITED_MAX} certificates")));
    }
    let _turn = backend.turn_to_read(right).await;
    let replica = backend.replica()?;
    let state = replica.state();
    let issuers = issuers(&state);
    let mut found: Vec<Option<(u64, LogRecord)>> = certificates.iter().map(|_| None).collect();
    let mut past = Past::new(&certificates, &issuers);
    let mut next = 0;
    while next < state.log_size() && found.iter().any(Option::is_none) {
        let entries = replica.log_entries(next, PAGE_MAX).await.map_err(|error| failed(&error))?;
        // Where entries are missing, others may follow.
        let Some(last) = entries.last() else { break };
        next = last.seq.saturating_add(1);
        for entry in &entries {
            let record = record(entry)?;
            for (certificate, found) in certificates.iter().zip(&mut found) {
                // The whole certificate: whoever has the key can sign any serial and name anew.
                if found.is_none() && certificate.der() == record.certificate {
                    *found = Some((entry.seq, record.clone()));
                }
            }
            past.look(entry.seq, &record);
        }
    }
    let whole = replica.missing().await.map_err(|error| failed(&error))?.is_none();
    let verdicts: Vec<Audited> = certificates
        .iter()
        .zip(found)
        .map(|(certificate, found)| verdict(certificate, found, &past, &issuers, whole))
        .collect();
    // The key of a root that was given signs for others too, and viewers may ask of all that: they are told, and raise no alarm.
    let alarming = verdicts.iter().filter(|audited| right == Right::Admin && audited.verdict == "forged");
    for forged in alarming {
        tracing::error!(alarm = "forged-or-foreign-leaf", serial = %forged.serial, fingerprint = %forged.fingerprint,
            "a certificate is signed by a key of this cluster, and was never issued: somebody else has the key");
    }
    json(&verdicts)
}

/// `POST /swarmpki/v1/log/erase`: `{"Before": MILLISECONDS}` since 1970.
pub(super) async fn erase(backend: &Backend, body: Option<Document>) -> Answer {
    let document = Object::document(body.as_ref().map(Document::value), "swarmpki.EraseRequest")?;
    let before = document.signed("Before", "int64")?.ok_or_else(|| ApiError::bad_request("Before is missing"))?;
    let replica = backend.replica()?;
    let state = replica.state();
    let below = first_since(&replica, &state, Time::from_unix_millis(before)).await?;
    backend.control()?.erase_log(below).await.map_err(refusal)?;
    // Nothing of it is left on this disk when this is answered.
    replica.forgotten().await;
    json(&ErasedReport { below: below.max(state.log_erased) })
}

const NOT_WHOLE: &str =
    "this manager does not have the whole issuance log yet: try again in a minute, or on another manager";

fn failed(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::internal(format!("{error}; see: swarmpki log verify --state-dir DIR, on the stopped daemon"))
}

fn record(entry: &LogEntry) -> Result<LogRecord, ApiError> {
    LogRecord::decode(&entry.bytes)
        .map_err(|error| failed(&format!("entry {} of the issuance log cannot be read: {error}", entry.seq)))
}

/// The first entry that is not before this time: times never go back.
async fn first_since(replica: &Replica, state: &State, since: Time) -> Result<u64, ApiError> {
    let (mut low, mut high) = (0, state.log_size());
    while low < high {
        let middle = low + (high - low) / 2;
        let entries = replica.log_entries(middle, 1).await.map_err(|error| failed(&error))?;
        let entry = entries.first().ok_or_else(|| ApiError::unavailable(NOT_WHOLE))?;
        if record(entry)?.time < since { low = middle + 1 } else { high = middle }
    }
    Ok(low)
}

/// What the log tells of keys that signed for the cluster before.
struct Past<'a> {
    /// Whether somebody asks for a certificate that no key of now signed: else the log need not be read for keys.
    wanted: bool,
    /// CA certificates that stand in the log, one a key: roots that were made here, and what certified one that was given.
    known: Vec<Certificate>,
    /// CA certificates that are asked for, and that the cluster does not hold.
    signers: Vec<PastSigner<'a>>,
    /// Who signed entries, by name and key identifier.
    named: BTreeSet<(Vec<u8>, Option<Vec<u8>>)>,
}

impl<'a> Past<'a> {
    fn new(certificates: &'a [Certificate], issuers: &[Certificate]) -> Self {
        let ours = |certificate| issuers.iter().any(|issuer| signed_by(certificate, issuer).is_ok());
        let signers = certificates.iter().filter(|one| one.may_certify() && !issuers.contains(one));
        Self {
            wanted: certificates.iter().any(|certificate| !ours(certificate)),
            known: Vec::new(),
            signers: signers.map(PastSigner::new).collect(),
            named: BTreeSet::new(),
        }
    }

    fn look(&mut self, seq: u64, record: &LogRecord) {
        if !self.wanted || record.event != Event::Issued {
            return;
        }
        let Ok(issued) = Certificate::from_der(record.certificate.clone()) else { return };
        self.signers.iter_mut().for_each(|signer| signer.look((seq, record.time), &issued));
        self.named.insert((issued.issuer_der().to_vec(), issued.aki()));
        if issued.may_certify() && self.known.iter().all(|known| known.spki_der() != issued.spki_der()) {
            self.known.push(issued);
        }
    }

    /// The entry that shows that this CA certificate was the cluster's.
    fn entry_of(&self, certificate: &Certificate) -> Option<(u64, Time)> {
        self.signers.iter().find(|signer| signer.certificate == certificate)?.entry
    }

    /// CA certificates of before: from the log, and those that are asked for and that it proves.
    fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        let proven = self.signers.iter().filter(|signer| signer.entry.is_some());
        self.known.iter().chain(proven.map(|signer| signer.certificate))
    }

    /// Whether it names a signer of this log whose key nobody here has, so that the signature cannot be looked at.
    fn names_unseen(&self, certificate: &Certificate, issuers: &[Certificate]) -> bool {
        let name = (certificate.issuer_der().to_vec(), certificate.aki());
        let is_it = |ca: &Certificate| ca.subject_der() == name.0 && (ca.ski() == name.1 || name.1.is_none());
        self.named.contains(&name) && !issuers.iter().chain(self.certificates()).any(is_it)
    }
}

/// A CA certificate that the cluster does not hold, and the first entry that its key signed, or that certifies that key.
struct PastSigner<'a> {
    certificate: &'a Certificate,
    entry: Option<(u64, Time)>,
    /// Signatures that were looked at: whoever asks chooses name and key identifier.
    looked: u32,
}

/// Signatures looked at for one certificate, at most.
const LOOKED_MAX: u32 = 16;

impl<'a> PastSigner<'a> {
    fn new(certificate: &'a Certificate) -> Self {
        Self { certificate, entry: None, looked: 0 }
    }

    fn look(&mut self, entry: (u64, Time), issued: &Certificate) {
        if self.entry.is_some() {
            return;
        }
        if issued.may_certify() && issued.issuer_id() == self.certificate.issuer_id() {
            self.entry = Some(entry);
            return;
        }
        let named = match (issued.aki(), self.certificate.ski()) {
            (Some(wanted), Some(key)) => wanted == key,
            _ => true,
        };
        if named && issued.issuer_der() == self.certificate.subject_der() && self.looked < LOOKED_MAX {
            self.looked += 1;
            self.entry = signed_by(issued, self.certificate).is_ok().then_some(entry);
        }
    }
}

fn verdict(
    certificate: &Certificate,
    found: Option<(u64, LogRecord)>,
    past: &Past<'_>,
    issuers: &[Certificate],
    whole: bool,
) -> Audited {
    let by_now = || issuers.iter().any(|issuer| signed_by(certificate, issuer).is_ok());
    let by_past = || past.certificates().any(|issuer| signed_by(certificate, issuer).is_ok());
    let former = past.entry_of(certificate);
    let verdict = match &found {
        Some(_) => "issued",
        // A root that was given to the cluster was issued elsewhere.
        None if issuers.iter().any(|issuer| issuer.der() == certificate.der()) => "ca",
        None if former.is_some() && !by_now() => "former",
        // What is missing may be its entry, or that of the key that signed it.
        None if !whole => "unknown",
        None if by_now() || by_past() => "forged",
        None if past.names_unseen(certificate, issuers) => "unproven",
        None => "foreign",
    };
    let node = found.as_ref().and_then(|(_, record)| record.node.as_ref());
    let entry = match &found {
        Some((seq, record)) => Some((*seq, record.time)),
        None => former.filter(|_| verdict == "former"),
    };
    Audited {
        fingerprint: hex(&certificate.fingerprint()),
        serial: certificate.serial().to_string(),
        subject: certificate.common_name(),
        verdict: verdict.to_owned(),
        seq: entry.map(|(seq, _)| seq),
        time: entry.map(|(_, time)| time.rfc3339()),
        node: node.map(ToString::to_string),
    }
}

fn line(entry: &LogEntry, record: &LogRecord, right: Right) -> AccountLine {
    let certificate = Some(&record.certificate).filter(|der| !der.is_empty());
    let certificate = certificate.and_then(|der| Certificate::from_der(der.clone()).ok());
    let private = entry.private.as_ref().filter(|_| right == Right::Admin);
    let private = private.and_then(|bytes| Private::decode(bytes).ok()).unwrap_or_default();
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let serial = match &record.event {
        Event::Revoked { serial, .. } | Event::OperatorRevoked { serial, .. } => Some(serial.to_string()),
        _ => certificate.as_ref().map(|certificate| certificate.serial().to_string()),
    };
    AccountLine {
        seq: entry.seq,
        time: record.time.rfc3339(),
        event: record.event.word().to_owned(),
        node: record.node.as_ref().map(ToString::to_string),
        by: by(record),
        detail: detail(&record.event, certificate.as_ref()),
        serial,
        fingerprint: certificate.map(|certificate| hex(&certificate.fingerprint())),
        from: some(private.from),
        host: some(private.host),
        addr: some(private.addr),
    }
}

fn by(record: &LogRecord) -> String {
    match &record.by {
        Actor::Cluster if record.event == Event::Issued && record.node.is_some() => "the node".to_owned(),
        Actor::Cluster => "the cluster".to_owned(),
        Actor::Local { uid } => format!("uid {uid}"),
        Actor::Network => "the network".to_owned(),
        Actor::Named(name) => format!("client {name}"),
        Actor::Operator { name, serial } => format!("operator {name} ({serial})"),
        Actor::Node(node) => format!("node {node}"),
        Actor::Token(0) => "the worker token".to_owned(),
        Actor::Token(1) => "the manager token".to_owned(),
        Actor::Token(row) => format!("token {row}"),
    }
}

fn detail(event: &Event, certificate: Option<&Certificate>) -> String {
    match event {
        Event::Issued => match certificate {
            Some(certificate) if certificate.is_ca() => format!("CA certificate {:?}", certificate.common_name()),
            Some(certificate) => {
                let role = certificate.node_subject().map(|subject| subject.role.word().to_owned());
                let what = role.unwrap_or_else(|_| format!("certificate {:?}", certificate.common_name()));
                format!("{what}, until {}", certificate.not_after().rfc3339())
            }
            None => String::new(),
        },
        Event::Revoked { reason, .. } => reason.clone(),
        Event::TokenCreated { row, manager, until, uses } => {
            let role = if *manager { "manager" } else { "worker" };
            let uses = uses.map_or("any number of uses".to_owned(), |uses| format!("{uses} uses"));
            format!("token {row} for a {role}, {uses}, until {}", until.rfc3339())
        }
        Event::TokenUsed { row, .. } | Event::TokenRevoked { row } => format!("token {row}"),
        Event::TokenRotated { row: 0 } => "the worker token".to_owned(),
        Event::TokenRotated { row: 1 } => "the manager token".to_owned(),
        Event::TokenRotated { row } => format!("token {row}"),
        Event::RotationBegun { rotation, to, emergency } => {
            let why = if *emergency { ", an emergency" } else { "" };
            format!("rotation {rotation} to sha256:{}{why}", hex(&to.0))
        }
        Event::RotationPhase { rotation, phase } => format!("rotation {rotation}: {}", phase.word()),
        Event::RotationTurned { rotation } => format!("rotation {rotation}"),
        Event::RotationFinished { rotation, root } => {
            format!("rotation {rotation}: the root is sha256:{}", hex(&root.0))
        }
        Event::CustodyChanged(word) => word.clone(),
        Event::UnlockKeyChanged { locked: true } => "another unlock key".to_owned(),
        Event::UnlockKeyChanged { locked: false } => "managers are not locked at rest any more".to_owned(),
        Event::NodeUpdated { wish, .. } => wish.clone(),
        Event::Settings(changed) => changed.clone(),
        Event::OperatorIssued { name, role, .. } => format!("{name}, {role}"),
        Event::OperatorRevoked { name, .. } => name.clone(),
        Event::Refounded { epoch, backup: None } => format!("epoch {epoch}, by force"),
        Event::Refounded { epoch, backup: Some(at) } => format!("epoch {epoch}, from a backup of {}", at.rfc3339()),
        Event::Erased { below } => format!("of entries below {below}"),
        Event::Later(kind) => format!("kind {kind} of a later version"),
        Event::Removed(_) | Event::KeyDelivered { .. } | Event::Promoted(_) | Event::Demoted(_) | Event::Founded => {
            String::new()
        }
    }
}
