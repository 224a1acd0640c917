//! What managers of ours tell every node as it changes: certificates that were taken back. They are kept beside the node's own, and whoever
//! comes with one of them is refused from the next handshake on.
//!
//! A statement counts if a manager of this cluster signed it; an older set never replaces a newer one.

use std::time::Duration;

use mtls::{NotTaken, RevokedDelta, RevokedSet, Statement, StatementError};
use pki::identity::ClusterId;
use pki::serial::Serial;
use pki::time::Time;
use prost::Message;
use tokio::sync::mpsc;
use tonic::Code;
use wire::limits::{NEWS_MESSAGE_BYTES_MAX, NEWS_REVOCATIONS};
use wire::node::{News, NewsRequest, NodeClient, Revocations, RevokedRow};

use crate::connect::Channel;

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

/// Hears what a manager has to say, for as long as the session stands; ends only with one that has no news to tell.
pub(crate) async fn hear(channel: Channel, live: mtls::Live, told: mpsc::Sender<News>) {
    loop {
        let (revocations_epoch, revocations_version) = live.revoked().version();
        let request = NewsRequest { revocations_epoch, revocations_version };
        let mut client = NodeClient::new(channel.grpc.clone()).max_decoding_message_size(NEWS_MESSAGE_BYTES_MAX);
        match client.news(request).await {
            Ok(answer) => {
                let mut stream = answer.into_inner();
                while let Ok(Some(news)) = stream.message().await {
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

/// What is held after `news`; none: there is nothing about revocations in it.
pub(crate) fn heard(live: &mtls::Live, news: News, at: Time) -> Result<Option<RevokedSet>, NewsError> {
    let Some(said) = news.revocations else { return Ok(None) };
    let scheme = u16::try_from(said.scheme).map_err(|error| NewsError::Malformed(error.to_string()))?;
    let statement = Statement { chain: said.chain, scheme, content: said.content, signature: said.signature };
    live.who_said(NEWS_REVOCATIONS, &statement, at)?;
    let own = live.current().ok_or(StatementError::NoIdentity)?;
    let delta = decode(&statement.content, &own.subject().cluster)?;
    let mut set = live.revoked().with(&delta)?;
    set.expire(at);
    Ok(Some(set))
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
    };
    told.encode_to_vec()
}

/// The set as it was written; what is another cluster's, or cannot be read, is as good as none: managers tell it anew.
pub(crate) fn from_disk(bytes: &[u8], cluster: &ClusterId, at: Time) -> Result<RevokedSet, NewsError> {
    let delta = decode(bytes, cluster)?;
    let mut set = match RevokedSet::default().with(&delta) {
        Ok(set) => set,
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
        let set = RevokedSet::default().with(&delta).unwrap();
        let bytes = to_disk(&set, &cluster, Time::default());
        assert_eq!(from_disk(&bytes, &cluster, Time::default()).unwrap(), set);
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
