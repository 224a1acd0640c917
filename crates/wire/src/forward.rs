//! Who called, when a manager passes a call on to the leader (wire.md 8): metadata keys that the forwarding manager sets,
//! replacing whatever the caller sent.

use pki::identity::Subject;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use crate::status::Refusal;

/// Present with exactly one value, `true`: the call is a forwarded one.
pub const CERT_KEY: &str = "forwarded_cert";
/// The caller's CN, or empty.
pub const CN_KEY: &str = "forwarded_cert_cn";
/// The caller's O, or empty.
pub const ORG_KEY: &str = "forwarded_cert_org";
/// The caller's OU; one entry for each.
pub const OU_KEY: &str = "forwarded_cert_ou";
/// The caller's `ip:port`.
pub const REMOTE_ADDR_KEY: &str = "remote_addr";
/// The addresses that the call was redirected for; a second redirect is refused.
pub const REDIRECT_KEY: &str = "redirect";

/// The original caller of a forwarded call, as the forwarding manager tells. Worth something only if that manager may
/// forward.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Forwarded {
    /// CN, empty for a caller without certificate.
    pub cn: String,
    /// O, empty for a caller without certificate.
    pub org: String,
    /// OUs, none for a caller without certificate.
    pub ous: Vec<String>,
    /// `ip:port`, if told.
    pub remote_addr: Option<String>,
}

impl Forwarded {
    /// For a caller with this subject, or none, at `remote_addr`.
    #[must_use]
    pub fn new(caller: Option<&Subject>, remote_addr: &str) -> Forwarded {
        let remote_addr = Some(remote_addr.to_owned());
        match caller {
            None => Forwarded { remote_addr, ..Forwarded::default() },
            Some(subject) => Forwarded {
                cn: subject.node.to_string(),
                org: subject.cluster.to_string(),
                ous: vec![subject.role.ou().to_owned()],
                remote_addr,
            },
        }
    }

    /// What a call says of its original caller; none if it is a direct one, which it also is if the key has two values.
    #[must_use]
    pub fn read(metadata: &MetadataMap) -> Option<Forwarded> {
        let mut marks = metadata.get_all(CERT_KEY).iter();
        let first = marks.next()?;
        if first.as_bytes() != b"true" || marks.next().is_some() {
            return None;
        }
        let one = |key| metadata.get(key).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let ous = metadata.get_all(OU_KEY).iter().filter_map(|value| value.to_str().ok());
        Some(Forwarded {
            cn: one(CN_KEY).unwrap_or_default(),
            org: one(ORG_KEY).unwrap_or_default(),
            ous: ous.map(str::to_owned).collect(),
            remote_addr: one(REMOTE_ADDR_KEY),
        })
    }

    /// Sets the keys in the metadata of a call that is passed on, in place of what the caller sent.
    ///
    /// # Errors
    /// [`Refusal::SecondRedirect`] if the call was redirected before; [`Refusal::ForwardedIncomplete`] if a value
    /// cannot be sent.
    pub fn write(&self, metadata: &mut MetadataMap) -> Result<(), Refusal> {
        let from: Vec<String> = metadata
            .get_all(REDIRECT_KEY)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect();
        if !from.is_empty() {
            return Err(Refusal::SecondRedirect { from });
        }
        for key in [CERT_KEY, CN_KEY, ORG_KEY, OU_KEY, REMOTE_ADDR_KEY] {
            metadata.remove(key);
        }
        metadata.insert(CERT_KEY, MetadataValue::from_static("true"));
        metadata.insert(CN_KEY, value(&self.cn)?);
        metadata.insert(ORG_KEY, value(&self.org)?);
        for ou in &self.ous {
            metadata.append(OU_KEY, value(ou)?);
        }
        if let Some(address) = &self.remote_addr {
            metadata.insert(REMOTE_ADDR_KEY, value(address)?);
            metadata.append(REDIRECT_KEY, value(address)?);
        }
        Ok(())
    }
}

fn value(text: &str) -> Result<MetadataValue<Ascii>, Refusal> {
    MetadataValue::try_from(text).map_err(|_| Refusal::ForwardedIncomplete)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pki::identity::Role;

    fn worker() -> Subject {
        Subject { cluster: "c1".parse().unwrap(), role: Role::Worker, node: "w1".parse().unwrap() }
    }

    #[test]
    fn what_is_written_is_read() {
        for caller in [Some(worker()), None] {
            let forwarded = Forwarded::new(caller.as_ref(), "10.0.0.7:40000");
            let mut metadata = MetadataMap::new();
            forwarded.write(&mut metadata).unwrap();
            assert_eq!(Forwarded::read(&metadata), Some(forwarded));
        }
    }

    #[test]
    fn what_the_caller_sent_is_replaced() {
        let mut metadata = MetadataMap::new();
        metadata.insert(CERT_KEY, MetadataValue::from_static("true"));
        metadata.insert(CN_KEY, MetadataValue::from_static("m1"));
        metadata.append(OU_KEY, MetadataValue::from_static("swarm-manager"));
        let forwarded = Forwarded::new(Some(&worker()), "10.0.0.7:40000");
        forwarded.write(&mut metadata).unwrap();
        assert_eq!(Forwarded::read(&metadata), Some(forwarded));
    }

    #[test]
    fn c164_two_marks_make_a_direct_call() {
        let mut metadata = MetadataMap::new();
        assert_eq!(Forwarded::read(&metadata), None);
        metadata.append(CERT_KEY, MetadataValue::from_static("true"));
        assert!(Forwarded::read(&metadata).is_some());
        metadata.append(CERT_KEY, MetadataValue::from_static("true"));
        assert_eq!(Forwarded::read(&metadata), None);
        metadata.insert(CERT_KEY, MetadataValue::from_static("yes"));
        assert_eq!(Forwarded::read(&metadata), None);
    }

    #[test]
    fn c165_a_second_redirect_is_refused() {
        let forwarded = Forwarded::new(None, "10.0.0.7:40000");
        let mut metadata = MetadataMap::new();
        forwarded.write(&mut metadata).unwrap();
        let from = vec!["10.0.0.7:40000".to_owned()];
        assert_eq!(forwarded.write(&mut metadata), Err(Refusal::SecondRedirect { from }));
    }
}
