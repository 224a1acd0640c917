//! What managers of ours tell every node as it changes: certificates that were taken back, and how the issuance log stands ([`crate::witness`]).
//! The former are kept beside the node's own, and whoever comes with one of them is refused from the next handshake on.
//!
//! A statement counts if a manager of this cluster signed it. What keeps a manager who lies from doing lasting harm: [`mtls::RevokedSet`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mtls::{KeptSet, NotTaken, RevokedDelta, RevokedSet, Statement, StatementError, Teller};
use pki::certificate::Certificate;
use pki::identity::ClusterId;
use pki::serial::Serial;
use pki::time::Time;
use prost::Message;
use tokio::sync::{Notify, mpsc};
use tonic::Code;
use wire::limits::{NEWS_MESSAGE_BYTES_MAX, NEWS_REVOCATIONS};
use wire::node::{self, News, NewsRequest, NodeClient, Revocations, RevokedRow};

use crate::connect::Channel;
use crate::witness::Witness;

/// After so long a stream of news that broke is opened again, while the session stands.
const AGAIN: Duration = Duration::from_secs(2);

/// Why news was not believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NewsError {
    #[error(transparent)]
    Statement(#[from] StatementError),
    #[error("it is of another cluster")]
    Cluster,
    #[error("it cannot be read: {0}")]
    Malformed(String),
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
}

/// What a node shows of what it was told, and how it asks for all of it anew.
#[derive(Default)]
pub(crate) struct Shown {
    witness: Mutex<Witness>,
    /// The stream is to be opened again.
    pub(crate) again: Notify,
}

impl Shown {
    pub(crate) fn of(witness: Witness) -> Arc<Self> {
        Arc::new(Self { witness: Mutex::new(witness), again: Notify::new() })
    }

    pub(crate) fn show(&self, witness: &Witness) {
        self.witness.lock().unwrap_or_else(PoisonError::into_inner).clone_from(witness);
    }

    fn request(&self, live: &mtls::Live) -> NewsRequest {
        let witness = self.witness.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut evidence = witness.evidence(live).into_iter();
        let revoked = live.revoked();
        let (revocations_epoch, revocations_version) = revoked.version();
        NewsRequest {
            revocations_epoch,
            revocations_version,
            revocations_from: tellers(&revoked),
            log_fork: evidence.next(),
            log_evidence: evidence.collect(),
            log_head: witness.head.map(|kept| kept.to_wire()),
        }
    }
}

/// Hears what a manager has to say, for as long as the session stands; ends only with one that has no news to tell.
pub(crate) async fn hear(channel: Channel, live: mtls::Live, told: mpsc::Sender<News>, shown: Arc<Shown>) {
    loop {
        let request = shown.request(&live);
        let mut client = NodeClient::new(channel.grpc.clone()).max_decoding_message_size(NEWS_MESSAGE_BYTES_MAX);
        match client.news(request).await {
            Ok(answer) => {
                let mut stream = answer.into_inner();
                loop {
                    let news = tokio::select! {
                        news = stream.message() => news,
                        () = shown.again.notified() => break,
                    };
                    let Ok(Some(news)) = news else { break };
                    // Waits for room: nothing more is read before the node took this.
                    if told.send(news).await.is_err() {
                        return;
                    }
                }
            }
            // One of before.
            Err(status) if status.code() == Code::Unimplemented => return,
            Err(status) => tracing::debug!(%status, "the manager tells no news now"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What is held after a statement about revocations.
pub(crate) fn heard(live: &mtls::Live, said: node::Statement, at: Time) -> Result<RevokedSet, NewsError> {
    let scheme = u16::try_from(said.scheme).map_err(|error| NewsError::Malformed(error.to_string()))?;
    let statement = Statement { chain: said.chain, scheme, content: said.content, signature: said.signature };
    let signer = live.who_said(NEWS_REVOCATIONS, &statement, at)?;
    let own = live.current().ok_or(StatementError::NoIdentity)?;
    let delta = decode(&statement.content, &own.subject().cluster)?;
    // No certificate is accepted after the end of what it chains to.
    let latest = own.trust().certificates().iter().map(Certificate::not_after).max().unwrap_or(at);
    let teller = Teller { issuer: signer.issuer.digest(), serial: signer.serial, node: signer.subject.node };
    let mut set = live.revoked().with(&delta, Some(&teller), latest)?;
    set.expire(at);
    Ok(set)
}

fn tellers(set: &RevokedSet) -> Vec<Vec<u8>> {
    set.tellers().iter().map(|teller| [&teller.issuer[..], teller.serial.as_bytes()].concat()).collect()
}

fn teller(bytes: &[u8], node: &str) -> Option<Teller> {
    let (issuer, serial) = bytes.split_first_chunk::<32>()?;
    Some(Teller { issuer: *issuer, serial: Serial::from_bytes(serial).ok()?, node: node.parse().ok()? })
}

fn decode(bytes: &[u8], cluster: &ClusterId) -> Result<RevokedDelta, NewsError> {
    delta(&read(bytes)?, cluster)
}

fn read(bytes: &[u8]) -> Result<Revocations, NewsError> {
    Revocations::decode(bytes).map_err(|error| NewsError::Malformed(error.to_string()))
}

fn delta(told: &Revocations, cluster: &ClusterId) -> Result<RevokedDelta, NewsError> {
    let malformed = |why: &dyn std::fmt::Display| NewsError::Malformed(why.to_string());
    if told.cluster != cluster.as_str() {
        return Err(NewsError::Cluster);
    }
    let issuer = |bytes: &Vec<u8>| <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| malformed(&"an issuer"));
    let row = |row: &RevokedRow| {
        let serial = Serial::from_bytes(&row.serial).map_err(|error| malformed(&error))?;
        Ok::<_, NewsError>((row.issuer, serial, Time::from_unix_millis(row.until.saturating_mul(1000))))
    };
    Ok(RevokedDelta {
        epoch: told.epoch,
        since: told.since,
        version: told.version,
        newest: told.newest,
        issuers: told.issuers.iter().map(issuer).collect::<Result<_, _>>()?,
        rows: told.rows.iter().map(row).collect::<Result<_, _>>()?,
    })
}

/// The set as it lies on disk: the message that it came in, whole.
pub(crate) fn to_disk(set: &RevokedSet, cluster: &ClusterId, at: Time) -> Vec<u8> {
    let kept = set.to_kept();
    let whole = &kept.whole;
    let row = |((issuer, serial, until), told_by): (&(u32, Serial, Time), &u64)| RevokedRow {
        issuer: *issuer,
        serial: serial.as_bytes().to_vec(),
        until: until.unix_millis().div_euclid(1000),
        told_by: *told_by,
    };
    let told = Revocations {
        cluster: cluster.to_string(),
        epoch: whole.epoch,
        since: 0,
        version: whole.version,
        newest: 0,
        at: at.unix_millis(),
        issuers: whole.issuers.iter().map(|issuer| issuer.to_vec()).collect(),
        rows: whole.rows.iter().zip(&kept.told_by).map(row).collect(),
        from: tellers(set),
        doubted: kept.doubted,
        from_nodes: kept.tellers.iter().map(|teller| teller.node.to_string()).collect(),
    };
    told.encode_to_vec()
}

/// The set as it was written; what is another cluster's, or cannot be read, is as good as none: managers tell it anew.
pub(crate) fn from_disk(bytes: &[u8], cluster: &ClusterId, at: Time) -> Result<RevokedSet, NewsError> {
    let kept = read(bytes)?;
    let named = || kept.from.iter().zip(&kept.from_nodes).map(|(bytes, node)| teller(bytes, node)).collect();
    let tellers: Option<Vec<Teller>> = (kept.from.len() == kept.from_nodes.len()).then(named).flatten();
    let set = KeptSet {
        whole: delta(&kept, cluster)?,
        doubted: kept.doubted || tellers.is_none(),
        told_by: kept.rows.iter().map(|row| row.told_by).collect(),
        tellers: tellers.unwrap_or_default(),
    };
    let mut set = RevokedSet::from_kept(&set)?;
    set.expire(at);
    Ok(set)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let cluster: ClusterId = "c0qmrfg3w2n1zk4hj6p8stvb5".parse().unwrap();
        let delta = RevokedDelta {
            epoch: 3,
            since: 0,
            version: 7,
            newest: 9,
            issuers: vec![[1; 32], [2; 32]],
            rows: (1..=7)
                .map(|n| (u32::from(n % 2), Serial::from_random([n; 20]), Time::from_unix_secs(100)))
                .collect(),
        };
        let teller = Teller { issuer: [1; 32], serial: Serial::from_random([99; 20]), node: "m1".parse().unwrap() };
        let set = RevokedSet::default().with(&delta, Some(&teller), Time::from_unix_secs(100)).unwrap();
        let bytes = to_disk(&set, &cluster, Time::default());
        let read = from_disk(&bytes, &cluster, Time::default()).unwrap();
        assert_eq!((read.to_kept(), read.is_doubted()), (set.to_kept(), false));
        // One of before says nothing of whose the rows are: they stay, and everything is asked for anew.
        let mut before = Revocations::decode(&*bytes).unwrap();
        before.from_nodes.clear();
        let before = from_disk(&before.encode_to_vec(), &cluster, Time::default()).unwrap();
        assert_eq!((before.len(), before.is_doubted(), before.tellers()), (7, true, &[][..]));
        let mut doubted = set.clone();
        assert!(doubted.doubt());
        let bytes_doubted = to_disk(&doubted, &cluster, Time::default());
        assert_eq!(from_disk(&bytes_doubted, &cluster, Time::default()).unwrap(), doubted);
        let late = from_disk(&bytes, &cluster, Time::from_unix_secs(101)).unwrap();
        assert_eq!((late.len(), late.version()), (0, (3, 7)));
        let other: ClusterId = "d0qmrfg3w2n1zk4hj6p8stvb5".parse().unwrap();
        assert!(matches!(from_disk(&bytes, &other, Time::default()), Err(NewsError::Cluster)));
        for end in 0..bytes.len() {
            // Cut off, it is refused or is less; it never panics.
            let _ = from_disk(&bytes[..end], &cluster, Time::default());
        }
        let none = to_disk(&RevokedSet::default(), &cluster, Time::default());
        assert!(from_disk(&none, &cluster, Time::default()).unwrap().is_empty());
    }
}
