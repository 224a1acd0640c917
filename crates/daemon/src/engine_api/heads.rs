//! `/swarmpki/v1/log/head`: how the issuance log stands, signed by this manager, or as this node keeps it; and what the log says of such a head.
//!
//! - A head counts for what a manager signed: what stands beside that in its file is for people, and has to say the same.
//! - Who signed it is proven by a root of now, or by the issuance log: the certificates of managers are in it, also those of roots that are gone.
//! - By a head that nobody is known to have signed, or whose signer was taken back, nobody is accused.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cluster::account::Event;
use cluster::format::LogRecord;
use cluster::log::Hash;
use cluster::node::IssuerHash;
use cluster::revocation::SHOWN_AFTER_END;
use cluster::{LogEntry, State};
use manager::view::ForkSeen;
use pki::certificate::Certificate;
use pki::chain::{self, Usage};
use pki::digest::{hex, sha256};
use pki::identity::{NodeId, Role};
use pki::serial::Serial;
use pki::time::Time;
use replica::{Handle, Replica};
use serde::{Deserialize, Serialize};
use swarmpki::Fork;
pub use swarmpki::KeptHead;
use wire::limits::NEWS_LOG_HEAD;

use super::error::ApiError;
use super::query::Query;
use super::{Answer, json};
use crate::backend::Backend;

/// Heads that a log is compared with at a time, at most.
const GIVEN_MAX: usize = 100;

/// Entries read at once.
const PAGE: usize = 4096;

/// A signed head of the issuance log; as a file, it can be compared with the log at any time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeadReport {
    /// The cluster's id.
    pub cluster_id: String,
    /// The cluster's epoch.
    pub epoch: u64,
    /// Entries.
    pub size: u64,
    /// The root over them (RFC 9162, 2.1), hex.
    pub root_hash: String,
    /// When it was signed.
    pub time: String,
    /// The manager that signed it, by the certificate in it.
    pub manager: Option<String>,
    /// All of it as it was signed, base64: `swarmpki.v1.Statement`, context `log-head`.
    pub statement: String,
}

/// What the log says of a head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeadVerdict {
    /// Whether it is the one that this node keeps.
    pub kept: bool,
    /// The cluster's epoch in it.
    pub epoch: u64,
    /// Its entries.
    pub size: u64,
    /// The root over them, hex.
    pub root_hash: String,
    /// When it was signed.
    pub time: String,
    /// The manager that signed it, if that is proven.
    pub manager: Option<String>,
    /// Why that is not proven.
    pub unproven: Option<String>,
    /// `fits`; `bygone`: the cluster was made anew from less, and the log cannot say; `differs`: the log has other entries; `ahead`: entries are
    /// gone; `foreign`: of another cluster, or of a later epoch; `unproven`: no manager is known to have signed it, or one whose certificate was
    /// taken back, and nothing is said by it.
    pub verdict: String,
    /// The same in words.
    pub text: String,
}

impl HeadVerdict {
    /// Whether something is wrong.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        !matches!(self.verdict.as_str(), "fits" | "bygone")
    }
}

impl From<&KeptHead> for HeadReport {
    fn from(kept: &KeptHead) -> Self {
        Self {
            cluster_id: kept.head.cluster.to_string(),
            epoch: kept.head.epoch,
            size: kept.head.size,
            root_hash: hex(&kept.head.root),
            time: kept.head.at.rfc3339(),
            manager: kept.manager.as_ref().map(ToString::to_string),
            statement: BASE64.encode(kept.bytes()),
        }
    }
}

impl HeadReport {
    /// What was signed, if the key of the certificate in it did sign it, and the rest of the document says the same. Whose certificate that is
    /// and whether anybody believes it is not looked at.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn read(&self) -> Result<KeptHead, String> {
        let bytes = BASE64.decode(&self.statement).ok();
        let kept = bytes.and_then(|bytes| KeptHead::read(&bytes)).ok_or("it is no signed head of a log")?;
        let signed = Self::from(&kept);
        let or_none = |manager: &Option<String>| manager.clone().unwrap_or_else(|| "none".to_owned());
        let fields = [
            ("cluster_id", self.cluster_id.clone(), signed.cluster_id),
            ("epoch", self.epoch.to_string(), signed.epoch.to_string()),
            ("size", self.size.to_string(), signed.size.to_string()),
            ("root_hash", self.root_hash.clone(), signed.root_hash),
            ("time", self.time.clone(), signed.time),
            ("manager", or_none(&self.manager), or_none(&signed.manager)),
        ];
        if let Some((field, said, signed)) = fields.into_iter().find(|(_, said, signed)| said != signed) {
            return Err(format!("it was changed: its {field} is {said:?}, and what was signed says {signed:?}"));
        }
        kept.statement.signed_by(NEWS_LOG_HEAD).map_err(|error| format!("it was changed, or is damaged: {error}"))?;
        Ok(kept)
    }
}

/// Who signed a head, as far as it is known here.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Signed {
    /// A manager, with a certificate that was good then.
    By(NodeId),
    /// One whose certificate was taken back: whoever has its key could have signed it at any time.
    Withdrawn(String),
    /// Nobody who is known.
    Nobody(String),
}

/// What the log tells of heads and of those who signed them.
#[derive(Debug, Default)]
struct Told {
    /// Entries that were read.
    size: u64,
    /// When the cluster was made anew: the epoch from then on, and the entry that says so, in their order.
    refounded: Vec<(u64, u64)>,
    /// Certificates that were issued: SHA-256 of each.
    issued: BTreeSet<[u8; 32]>,
    /// Certificates that were revoked, and when.
    revoked: BTreeMap<Serial, Time>,
    /// Nodes that were removed, and when.
    removed: BTreeMap<NodeId, Time>,
}

impl Told {
    /// Reads the whole log, once, for what it tells of these certificates.
    async fn of<F: Future<Output = Result<Vec<LogEntry>, String>>>(
        state: &State,
        leaves: &[&Certificate],
        mut page: impl FnMut(u64, usize) -> F,
    ) -> Result<Self, String> {
        let wanted: BTreeSet<[u8; 32]> = leaves.iter().map(|leaf| leaf.fingerprint()).collect();
        let serials: BTreeSet<Serial> = leaves.iter().map(|leaf| leaf.serial()).collect();
        let nodes: BTreeSet<NodeId> =
            leaves.iter().filter_map(|leaf| leaf.node_subject().ok()).map(|subject| subject.node).collect();
        let mut told = Self::default();
        loop {
            let entries = page(told.size, PAGE).await?;
            let Some(last) = entries.last() else { break };
            told.size = last.seq.saturating_add(1);
            for entry in &entries {
                let record = LogRecord::decode(&entry.bytes).map_err(|error| error.to_string())?;
                match &record.event {
                    Event::Issued => {
                        let certificate = sha256(&record.certificate);
                        if wanted.contains(&certificate) {
                            told.issued.insert(certificate);
                        }
                    }
                    Event::Revoked { serial, .. } if serials.contains(serial) => {
                        told.revoked.entry(*serial).or_insert(record.time);
                    }
                    Event::Removed(node) if nodes.contains(node) => {
                        told.removed.entry(node.clone()).or_insert(record.time);
                    }
                    Event::Refounded { epoch, .. } => told.refounded.push((*epoch, entry.seq)),
                    _ => {}
                }
            }
        }
        for ((_, serial), row) in state.revocations.rows().filter(|((_, serial), _)| serials.contains(serial)) {
            told.revoked.entry(*serial).or_insert(row.at);
        }
        Ok(told)
    }

    /// How many entries were there when the cluster was first made anew after this epoch.
    fn made_anew(&self, epoch: u64) -> u64 {
        self.refounded.iter().find(|(later, _)| *later > epoch).map_or(self.size, |(_, seq)| *seq)
    }

    /// Whether the holder of a certificate was taken back, in words.
    fn withdrawn(&self, leaf: &Certificate, node: &NodeId) -> Option<String> {
        let revoked =
            self.revoked.get(&leaf.serial()).map(|at| format!("its certificate was revoked at {}", at.rfc3339()));
        revoked.or_else(|| self.removed.get(node).map(|at| format!("it was removed at {}", at.rfc3339())))
    }
}

/// Who may have signed a head: a manager of this cluster, by its own words.
struct Signer {
    leaf: Certificate,
    node: NodeId,
    /// When it says it did.
    at: Time,
}

impl Signer {
    /// Whoever has the key of the certificate in it; an error: that is no manager's of this cluster, or not of that time.
    fn of(kept: &KeptHead, state: &State, now: Time) -> Result<Self, String> {
        let leaf = kept.statement.signed_by(NEWS_LOG_HEAD).map_err(|error| error.to_string())?;
        let subject = leaf.node_subject().map_err(|error| format!("its certificate is no node's: {error}"))?;
        if state.cluster_id() != Some(&subject.cluster) {
            return Err(format!("its certificate is of another cluster, {}", subject.cluster));
        }
        if subject.role != Role::Manager {
            return Err("its certificate is no manager's".to_owned());
        }
        // What is dated later than it is may have been signed at any time.
        let at = kept.head.at.min(now);
        if at < leaf.not_before() || leaf.not_after() < at {
            return Err(format!("its certificate was not valid at {}", at.rfc3339()));
        }
        Ok(Self { leaf, node: subject.node, at })
    }

    /// The key that issued the certificate, if it leads to a root of now or to one that is still accepted.
    fn issuer(&self, kept: &KeptHead, state: &State) -> Option<IssuerHash> {
        let of_now = state.roots.in_use().flat_map(|root| root.certificates.iter());
        let of_before = state.roots.stragglers().iter().map(|anchor| &anchor.certificate);
        let anchors: Vec<Certificate> = of_now.chain(of_before).cloned().collect();
        let steps = kept.statement.chain.iter().skip(1).filter_map(|der| Certificate::from_der(der.clone()).ok());
        let steps: Vec<Certificate> = steps.collect();
        let issuer = chain::reaches(&self.leaf, &steps, &anchors, self.at, Usage::Server).ok()?;
        Some(IssuerHash::of(&issuer))
    }

    /// What the state alone says of it; none: the log has to be asked.
    fn by_state(&self, kept: &KeptHead, state: &State, now: Time) -> Option<Signed> {
        let issuer = self.issuer(kept, state)?;
        if let Some(gone) = state.removals.get(&self.node) {
            return Some(Signed::Withdrawn(withdrawn(&self.node, &format!("it was removed at {}", gone.at.rfc3339()))));
        }
        if let Some(row) = state.revocations.get(&issuer, &self.leaf.serial()) {
            return Some(Signed::Withdrawn(withdrawn(
                &self.node,
                &format!("its certificate was revoked at {}", row.at.rfc3339()),
            )));
        }
        // Later the state does not know any more what was taken back.
        (now <= self.leaf.not_after().saturating_add(SHOWN_AFTER_END)).then(|| Signed::By(self.node.clone()))
    }

    fn by_log(&self, kept: &KeptHead, state: &State, told: &Told) -> Signed {
        if let Some(why) = told.withdrawn(&self.leaf, &self.node) {
            return Signed::Withdrawn(withdrawn(&self.node, &why));
        }
        if told.issued.contains(&self.leaf.fingerprint()) || self.issuer(kept, state).is_some() {
            return Signed::By(self.node.clone());
        }
        let serial = self.leaf.serial();
        Signed::Nobody(format!(
            "certificate {serial}, which says that it is of manager {}, is neither in this log nor of a root that is trusted here",
            self.node
        ))
    }
}

fn withdrawn(node: &NodeId, why: &str) -> String {
    format!("manager {node}, and {why}: whoever has its key may have signed it since")
}

/// What the log says of heads, and who signed them. Each comes with whether it is the one that is kept here.
pub(crate) async fn judge(
    replica: &Replica,
    heads: &[(bool, KeptHead)],
    now: Time,
) -> Result<Vec<HeadVerdict>, String> {
    let page = |from, max| async move { replica.log_entries(from, max).await.map_err(|error| error.to_string()) };
    let root = |size| async move { replica.root_at(size).await.map_err(|error| error.to_string()) };
    judge_by(&replica.state(), heads, now, page, root).await
}

/// The same by whoever reads the log: pages of it, and the root over its first entries. However many heads there are, it is read once at most.
async fn judge_by<P, R>(
    state: &State,
    heads: &[(bool, KeptHead)],
    now: Time,
    page: impl FnMut(u64, usize) -> P,
    mut root: impl FnMut(u64) -> R,
) -> Result<Vec<HeadVerdict>, String>
where
    P: Future<Output = Result<Vec<LogEntry>, String>>,
    R: Future<Output = Result<Hash, String>>,
{
    let signers: Vec<Result<Signer, String>> = heads.iter().map(|(_, kept)| Signer::of(kept, state, now)).collect();
    let mut signed: Vec<Option<Signed>> = signers
        .iter()
        .zip(heads)
        .map(|(signer, (_, kept))| match signer {
            Ok(signer) => signer.by_state(kept, state, now),
            Err(why) => Some(Signed::Nobody(why.clone())),
        })
        .collect();
    let open = || signers.iter().zip(&signed).filter(|(_, signed)| signed.is_none());
    let leaves: Vec<&Certificate> = open().filter_map(|(signer, _)| Some(&signer.as_ref().ok()?.leaf)).collect();
    // Of the others nothing is looked up: they are foreign, or of later than anything that is known here.
    let ours = |kept: &KeptHead| state.cluster_id() == Some(&kept.head.cluster);
    let of_before = |kept: &KeptHead| ours(kept) && kept.head.epoch < state.epoch();
    let told = match leaves.is_empty() && !heads.iter().any(|(_, kept)| of_before(kept)) {
        true => Told::default(),
        false => Told::of(state, &leaves, page).await?,
    };
    for ((signer, signed), (_, kept)) in signers.iter().zip(&mut signed).zip(heads) {
        if let (Ok(signer), None) = (signer, signed.as_ref()) {
            *signed = Some(signer.by_log(kept, state, &told));
        }
    }
    let mut verdicts = Vec::with_capacity(heads.len());
    for ((is_kept, kept), signed) in heads.iter().zip(signed) {
        let size = kept.head.size;
        let is_known = ours(kept) && kept.head.epoch <= state.epoch() && size <= state.log_size();
        let own = if is_known { Some(root(size).await?) } else { None };
        let verdict = HeadVerdict { kept: *is_kept, ..compare(state, kept, own, &told) };
        let nobody = || Signed::Nobody("it was not looked into".to_owned());
        verdicts.push(verdict.signed(&signed.unwrap_or_else(nobody)));
    }
    Ok(verdicts)
}

impl HeadVerdict {
    /// With who signed it. Only what a manager is known to have signed says something against the log.
    fn signed(self, signed: &Signed) -> Self {
        let is_ours = self.verdict != "foreign" || !self.text.starts_with(OTHER_CLUSTER);
        let fits = self.verdict == "fits";
        match signed {
            Signed::By(node) => Self { manager: Some(node.to_string()), ..self },
            Signed::Nobody(why) if !is_ours => Self { unproven: Some(why.clone()), ..self },
            Signed::Nobody(why) => {
                let but = if fits { "; its entries and its root are those of this log" } else { "" };
                let text = format!("no manager is known to have signed it, so it says nothing: {why}{but}");
                Self { unproven: Some(why.clone()), verdict: "unproven".to_owned(), text, ..self }
            }
            Signed::Withdrawn(why) if !self.is_bad() || !is_ours => Self { unproven: Some(why.clone()), ..self },
            Signed::Withdrawn(why) => {
                let text = format!("it is not of this log, and accuses nobody: signed by {why}");
                Self { unproven: Some(why.clone()), verdict: "unproven".to_owned(), text, ..self }
            }
        }
    }
}

/// How the words for a head of another cluster begin.
const OTHER_CLUSTER: &str = "it is of another cluster";

/// `GET /swarmpki/v1/log/head`; `?kept=1`: not one that this manager signs, but the one that this node keeps.
pub(super) fn head(backend: &Backend, query: &Query) -> Answer {
    let kept = if query.value("kept").is_empty() {
        let signed = backend.control()?.log_head();
        let signed =
            signed.ok_or_else(|| ApiError::unavailable("this manager cannot sign now: try again in a moment"))?;
        KeptHead::new(swarmpki::Statement::clone(&signed.statement))
    } else {
        let status = backend.present().membership().and_then(crate::backend::Membership::status);
        status.and_then(|status| status.witness.head.clone())
    };
    let kept = kept.ok_or_else(|| {
        ApiError::unavailable("this node keeps no head of the issuance log yet: it is told one when it is in session with a manager of ours")
    })?;
    json(&HeadReport::from(&kept))
}

/// Heads that were given in base64.
pub(super) fn given(texts: &[String]) -> Result<Vec<KeptHead>, ApiError> {
    if texts.len() > GIVEN_MAX {
        return Err(ApiError::bad_request(format!("no more than {GIVEN_MAX} heads at a time")));
    }
    let read = |text: &String| {
        let kept = BASE64.decode(text).ok().and_then(|bytes| KeptHead::read(&bytes));
        kept.ok_or_else(|| ApiError::bad_request("this is no signed head of an issuance log"))
    };
    texts.iter().map(read).collect()
}

/// What the log says of a head, with its own root over as many entries; who signed it is another question.
fn compare(state: &State, kept: &KeptHead, own: Option<Hash>, told: &Told) -> HeadVerdict {
    let (head, size) = (&kept.head, state.log_size());
    let (verdict, text) = if state.cluster_id() != Some(&head.cluster) {
        ("foreign", format!("{OTHER_CLUSTER}, {}", head.cluster))
    } else if head.epoch > state.epoch() {
        let (theirs, ours) = (cluster::epoch::text(head.epoch), cluster::epoch::text(state.epoch()));
        (
            "foreign",
            format!(
                "it is of a later epoch, {theirs}, than this manager's, {ours}: the cluster was made anew elsewhere"
            ),
        )
    } else {
        // Up to here this log is also that of the epoch of the head.
        let shared = if head.epoch < state.epoch() { told.made_anew(head.epoch) } else { u64::MAX };
        match own {
            Some(own) if own == head.root => ("fits", "the log begins with these entries".to_owned()),
            Some(_) if head.size <= shared => (
                "differs",
                format!("the log was changed: its first {} entries are not those that were signed", head.size),
            ),
            None if shared == u64::MAX => {
                ("ahead", format!("the log lost entries: {} were signed, {size} are there", head.size))
            }
            _ => (
                "bygone",
                format!(
                    "the cluster was made anew after {shared} of these {} entries: of the others the log says nothing",
                    head.size
                ),
            ),
        }
    };
    HeadVerdict {
        epoch: head.epoch,
        size: head.size,
        root_hash: hex(&head.root),
        time: head.at.rfc3339(),
        verdict: verdict.to_owned(),
        text,
        ..HeadVerdict::default()
    }
}

/// What contradicts the head that this node keeps, in words.
pub(super) fn told(fork: &Fork) -> String {
    let by = |kept: &KeptHead| kept.manager.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string);
    let why = fork.why().map(|why| why.to_string()).unwrap_or_default();
    format!(
        "the issuance log was changed, or a manager lies: this node was told of {} by {}, and at {} of {} by {}: {why}",
        fork.kept.head,
        by(&fork.kept),
        fork.at.rfc3339(),
        fork.said.head,
        by(&fork.said)
    )
}

/// What a node showed this manager, in words.
pub(super) fn shown(fork: &ForkSeen) -> String {
    format!(
        "the issuance log was changed, or a manager lies: at {} node {} showed a head of {}, signed by {}: {}",
        fork.at.rfc3339(),
        fork.shown_by,
        fork.head,
        fork.signed_by,
        fork.why
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::cell::Cell;
    use std::future::ready;

    use cluster::command::{Founder, Refound};
    use cluster::{Batch, Command};
    use pki::witness::Head;
    use swarmpki::Statement;
    use wire::convert::log_head;

    use super::*;

    /// A cluster that was made anew twice, and its log. Of the managers of the sample, one goes on.
    fn made_anew_twice() -> (State, Vec<LogEntry>) {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../cluster/testdata/state/format-1/managers.bin");
        let mut state = State::decode_snapshot(&std::fs::read(path).unwrap()).unwrap();
        (state.log, state.log_told) = (cluster::log::LogHead::default(), true);
        let one = state.members().keys().find(|id| state.node(id).is_some_and(|node| node.role == Role::Manager));
        let one = one.unwrap().clone();
        let (index, mut log) = (state.index, Vec::new());
        for n in 1..=2 {
            let founder = Founder::Manager(one.clone());
            let refound = Refound { epoch: state.epoch() + 1, addr: "192.0.2.9:2377".to_owned(), founder };
            let batch = Batch { time: state.time, commands: vec![Command::Refound(Box::new(refound))] };
            log.extend(state.apply(index + n, &batch).issued);
        }
        assert_eq!(log.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [0, 1]);
        (state, log)
    }

    #[tokio::test]
    async fn however_many_heads_there_are_the_log_is_read_once() {
        let (state, log) = made_anew_twice();
        let unsigned = |before: u64, size: u64| {
            let cluster = state.cluster_id().unwrap().clone();
            let head = Head { cluster, epoch: state.epoch() - before, size, root: [7; 32], at: state.time };
            let content = log_head::encode(&head);
            KeptHead::new(Statement { chain: Vec::new(), scheme: 0x0403, content, signature: vec![1; 70] }).unwrap()
        };
        let read = Cell::new(0);
        let page = |from: u64, max: usize| {
            read.set(read.get() + usize::from(from == 0));
            ready(Ok(log.iter().filter(|entry| entry.seq >= from).take(max).cloned().collect()))
        };
        let root = |_| ready(Ok([8; 32]));
        let of_before: Vec<_> = (0..GIVEN_MAX).map(|n| (false, unsigned(1 + n as u64 % 2, 9))).collect();
        let verdicts = judge_by(&state, &of_before, state.time, page, root).await.unwrap();
        assert_eq!((verdicts.len(), read.get()), (GIVEN_MAX, 1));
        // What nobody signed says nothing, so the log need not be asked who signed it.
        judge_by(&state, &[(false, unsigned(0, 1))], state.time, page, root).await.unwrap();
        assert_eq!(read.get(), 1);

        // What is said of each: before the cluster was made anew the log is that of the epoch, and behind it that is not known.
        let told = Told::of(&state, &[], page).await.unwrap();
        let rows = [
            (0, 1, "differs"),
            (0, 9, "ahead"),
            (1, 1, "differs"),
            (1, 2, "bygone"),
            (2, 1, "bygone"),
            (2, 9, "bygone"),
        ];
        for (before, size, expected) in rows {
            let own = (size <= 2).then_some([8; 32]);
            let said = compare(&state, &unsigned(before, size), own, &told);
            assert_eq!(said.verdict, expected, "{before} {size}: {}", said.text);
        }
        assert_eq!(compare(&state, &unsigned(2, 1), Some([7; 32]), &told).verdict, "fits");
    }

    #[test]
    fn only_what_a_manager_signed_accuses() {
        let verdict = |verdict: &str, text: &str| HeadVerdict {
            verdict: verdict.to_owned(),
            text: text.to_owned(),
            ..HeadVerdict::default()
        };
        let elsewhere = format!("{OTHER_CLUSTER}, x");
        let by = Signed::By(NodeId::generate([1; 17]));
        let (withdrawn, nobody) = (Signed::Withdrawn("m, withdrawn".to_owned()), Signed::Nobody("a lie".to_owned()));
        // What the log says of it; and the verdict if a manager signed it, one that was taken back, nobody who is known.
        let rows = [
            ("fits", "", "fits", "fits", "unproven"),
            ("bygone", "", "bygone", "bygone", "unproven"),
            ("differs", "", "differs", "unproven", "unproven"),
            ("ahead", "", "ahead", "unproven", "unproven"),
            ("foreign", "of a later epoch", "foreign", "unproven", "unproven"),
            ("foreign", elsewhere.as_str(), "foreign", "foreign", "foreign"),
        ];
        for (word, text, by_one, by_withdrawn, by_nobody) in rows {
            for (signed, expected) in [(&by, by_one), (&withdrawn, by_withdrawn), (&nobody, by_nobody)] {
                let said = verdict(word, text).signed(signed);
                assert_eq!(said.verdict, expected, "{word} {text} {signed:?}");
                assert_eq!((said.manager.is_some(), said.unproven.is_none()), (signed == &by, signed == &by));
                assert_eq!(said.is_bad(), !matches!(expected, "fits" | "bygone"));
            }
        }
    }
}
