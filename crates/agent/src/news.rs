//! What managers of ours tell every node as it changes: certificates that were taken back, and how the issuance log stands ([`crate::witness`]).
//! The former are kept beside the node's own, and whoever comes with one of them is refused from the next handshake on.
//!
//! A statement counts if a manager of this cluster signed it. What keeps a manager who lies from doing lasting harm: [`mtls::RevokedSet`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mtls::{NotTaken, RevokedDelta, RevokedSet, Statement, StatementError, Teller};
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

/// What was kept was cut when it came.
const NO_END: Time = Time::from_unix_millis(i64::MAX);

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
        let revoked = live.revoked();
        let (revocations_epoch, revocations_version) = revoked.version();
        NewsRequest {
            revocations_epoch,
            revocations_version,
            revocations_from: tellers(&revoked),
            log_head: witness.head.map(|kept| kept.to_wire()),
            log_fork: witness.fork.map(|fork| fork.said.to_wire()),
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
    let mut set = live.revoked().with(&delta, Some(&(signer.issuer.digest(), signer.serial)), latest)?;
    set.expire(at);
    Ok(set)
}

fn tellers(set: &RevokedSet) -> Vec<Vec<u8>> {
    set.tellers().iter().map(|(issuer, serial)| [&issuer[..], serial.as_bytes()].concat()).collect()
}

fn teller(bytes: &[u8]) -> Option<Teller> {
    let (issuer, serial) = bytes.split_first_chunk::<32>()?;
    Some((*issuer, Serial::from_bytes(serial).ok()?))
}

fn decode(bytes: &[u8], cluster: &ClusterId) -> Result<RevokedDelta, NewsError> {
    let malformed = |why: &dyn std::fmt::Display| NewsError::Malformed(why.to_string());
    let told = Revocations::decode(bytes).map_err(|error| malformed(&error))?;
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
        issuers: told.issuers.iter().map(issuer).collect::<Result<_, _>>()?,
        rows: told.rows.iter().map(row).collect::<Result<_, _>>()?,
    })
}

/// The set as it lies on disk: the message that it came in, whole.
pub(crate) fn to_disk(set: &RevokedSet, cluster: &ClusterId, at: Time) -> Vec<u8> {
    let whole = set.whole();
    let row = |(issuer, serial, until): &(u32, Serial, Time)| RevokedRow {
        issuer: *issuer,
        serial: serial.as_bytes().to_vec(),
        until: until.unix_millis().div_euclid(1000),
    };
    let told = Revocations {
        cluster: cluster.to_string(),
        epoch: whole.epoch,
        since: 0,
        version: whole.version,
        at: at.unix_millis(),
        issuers: whole.issuers.iter().map(|issuer| issuer.to_vec()).collect(),
        rows: whole.rows.iter().map(row).collect(),
        from: tellers(set),
        doubted: set.is_doubted(),
    };
    told.encode_to_vec()
}

/// The set as it was written; what is another cluster's, or cannot be read, is as good as none: managers tell it anew.
pub(crate) fn from_disk(bytes: &[u8], cluster: &ClusterId, at: Time) -> Result<RevokedSet, NewsError> {
    let delta = decode(bytes, cluster)?;
    let kept = Revocations::decode(bytes).map_err(|error| NewsError::Malformed(error.to_string()))?;
    let from: Option<Vec<Teller>> = kept.from.iter().map(|bytes| teller(bytes)).collect();
    let doubted = kept.doubted || from.is_none();
    let mut set = match RevokedSet::default().with(&delta, None, NO_END) {
        Ok(set) => set.from_tellers(from.unwrap_or_default(), doubted),
        // Nothing was ever taken back.
        Err(NotTaken::Old) => RevokedSet::default(),
        Err(other) => return Err(other.into()),
    };
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
            issuers: vec![[1; 32], [2; 32]],
            rows: (1..=7)
                .map(|n| (u32::from(n % 2), Serial::from_random([n; 20]), Time::from_unix_secs(100)))
                .collect(),
        };
        let teller = ([1; 32], Serial::from_random([99; 20]));
        let set = RevokedSet::default().with(&delta, Some(&teller), NO_END).unwrap();
        let bytes = to_disk(&set, &cluster, Time::default());
        assert_eq!(from_disk(&bytes, &cluster, Time::default()).unwrap(), set);
        let mut doubted = set.clone();
        assert!(doubted.doubt());
        assert_eq!(
            from_disk(&to_disk(&doubted, &cluster, Time::default()), &cluster, Time::default()).unwrap(),
            doubted
        );
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
