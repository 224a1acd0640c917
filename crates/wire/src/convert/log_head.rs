//! The head of the issuance log.

use pki::identity::ClusterId;
use pki::time::Time;
use pki::witness::Head;
use prost::Message;

use crate::node::LogHead;

/// Why bytes are no head of a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is no head of a log: {0}")]
pub struct NoHead(&'static str);

/// What is signed.
#[must_use]
pub fn encode(head: &Head) -> Vec<u8> {
    let Head { cluster, epoch, size, root, at } = head;
    let told =
        LogHead { cluster: cluster.to_string(), epoch: *epoch, size: *size, root: root.to_vec(), at: at.unix_millis() };
    told.encode_to_vec()
}

/// Reads what was signed.
///
/// # Errors
/// [`NoHead`].
pub fn decode(bytes: &[u8]) -> Result<Head, NoHead> {
    let told = LogHead::decode(bytes).map_err(|_| NoHead("not such a message"))?;
    let cluster: ClusterId = told.cluster.parse().map_err(|_| NoHead("of no cluster"))?;
    let root = told.root.try_into().map_err(|_| NoHead("its root has not 32 octets"))?;
    Ok(Head { cluster, epoch: told.epoch, size: told.size, root, at: Time::from_unix_millis(told.at) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn there_and_back_or_refused() {
        let head = Head {
            cluster: ClusterId::generate([7; 17]),
            epoch: 3 << 32,
            size: u64::MAX,
            root: [9; 32],
            at: Time::from_unix_millis(1_700_000_000_123),
        };
        let bytes = encode(&head);
        assert_eq!(decode(&bytes), Ok(head));
        for end in 0..bytes.len() {
            // Cut, it is refused or says another thing; it never panics.
            let _ = decode(&bytes[..end]);
        }
        let short = LogHead { root: vec![1; 31], ..LogHead::decode(&*bytes).unwrap() };
        assert!(decode(&short.encode_to_vec()).is_err());
        let nobody = LogHead { cluster: "../x".to_owned(), ..LogHead::decode(&*bytes).unwrap() };
        assert!(decode(&nobody.encode_to_vec()).is_err());
    }
}
