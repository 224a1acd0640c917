//! `/swarmpki/v1/log/head`: how the issuance log stands, signed by this manager, or as this node keeps it; and what the log says of such a head.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cluster::account::Event;
use cluster::format::LogRecord;
use manager::view::ForkSeen;
use pki::digest::hex;
use replica::{Handle, Replica};
use serde::{Deserialize, Serialize};
use swarmpki::{Fork, KeptHead};

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
    /// The manager that signed it, if that was looked into and proven.
    pub manager: Option<String>,
    /// Why that is not proven.
    pub unproven: Option<String>,
    /// `fits`; `bygone`: the cluster was made anew from less, and the log cannot say; `differs`: the log has other entries; `ahead`: entries are
    /// gone; `foreign`: of another cluster, or of a later epoch.
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
    /// What was signed; the rest of the document is for people.
    #[must_use]
    pub fn read(&self) -> Option<KeptHead> {
        KeptHead::read(&BASE64.decode(&self.statement).ok()?)
    }
}

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

/// What the log says of a head; who signed it is another question.
pub(crate) async fn compare(replica: &Replica, kept: &KeptHead) -> Result<HeadVerdict, String> {
    let (state, head) = (replica.state(), &kept.head);
    let size = state.log_size();
    let (verdict, text) = if state.cluster_id() != Some(&head.cluster) {
        ("foreign", format!("it is of another cluster, {}", head.cluster))
    } else if head.epoch > state.epoch() {
        let (theirs, ours) = (cluster::epoch::text(head.epoch), cluster::epoch::text(state.epoch()));
        (
            "foreign",
            format!(
                "it is of a later epoch, {theirs}, than this manager's, {ours}: the cluster was made anew elsewhere"
            ),
        )
    } else {
        let own = match head.size <= size {
            true => Some(replica.root_at(head.size).await.map_err(|error| error.to_string())?),
            false => None,
        };
        // Up to here this log is also that of the epoch of the head.
        let shared = if head.epoch < state.epoch() { made_anew(replica, head.epoch).await? } else { u64::MAX };
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
    Ok(HeadVerdict {
        epoch: head.epoch,
        size: head.size,
        root_hash: hex(&head.root),
        time: head.at.rfc3339(),
        verdict: verdict.to_owned(),
        text,
        ..HeadVerdict::default()
    })
}

/// How many entries were there when the cluster was first made anew after this epoch.
async fn made_anew(replica: &Replica, epoch: u64) -> Result<u64, String> {
    let mut next = 0;
    loop {
        let entries = replica.log_entries(next, PAGE).await.map_err(|error| error.to_string())?;
        let Some(last) = entries.last() else { return Ok(next) };
        next = last.seq.saturating_add(1);
        for entry in &entries {
            let record = LogRecord::decode(&entry.bytes).map_err(|error| error.to_string())?;
            if matches!(record.event, Event::Refounded { epoch: later, .. } if later > epoch) {
                return Ok(entry.seq);
            }
        }
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
