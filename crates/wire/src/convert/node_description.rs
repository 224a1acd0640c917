//! `NodeDescription`: what a node says of itself.

use std::collections::BTreeMap;

use pki::certificate::IssuerId;
use prost::Message;

use crate::limits::DESCRIPTION_BYTES_MAX;
use crate::marker::VERSION_LABEL;
use crate::proto::{EngineDescription, NodeDescription, NodeTlsInfo, Platform, Resources};
use crate::status::Refusal;

/// What one of our nodes says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Description {
    /// The host's name.
    pub hostname: String,
    /// As `uname -m` says it: `x86_64`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// Processors, in billionths.
    pub nano_cpus: i64,
    /// Memory, in bytes.
    pub memory_bytes: i64,
    /// Shown in the last column of `docker node ls`.
    pub engine_version: String,
    /// Our version: written as a label, by which managers know that the node is one of ours.
    pub swarmpki_version: String,
    /// Labels beside that one.
    pub labels: BTreeMap<String, String>,
    /// Whether the node runs in FIPS mode.
    pub fips: bool,
}

impl Description {
    /// The message. `trust_bundle` is the bundle the node holds, byte for byte; `issuer` is who issued its leaf.
    #[must_use]
    pub fn to_wire(&self, trust_bundle: &[u8], issuer: &IssuerId) -> NodeDescription {
        let mut labels = self.labels.clone();
        labels.insert(VERSION_LABEL.to_owned(), self.swarmpki_version.clone());
        NodeDescription {
            hostname: self.hostname.clone(),
            platform: Some(Platform { architecture: self.architecture.clone(), os: self.os.clone() }),
            resources: Some(Resources {
                nano_cpus: self.nano_cpus,
                memory_bytes: self.memory_bytes,
                generic: Vec::new(),
            }),
            engine: Some(EngineDescription {
                engine_version: self.engine_version.clone(),
                labels,
                plugins: Vec::new(),
            }),
            tls_info: Some(NodeTlsInfo {
                trust_root: trust_bundle.to_vec(),
                cert_issuer_subject: issuer.subject.clone(),
                cert_issuer_public_key: issuer.spki.clone(),
            }),
            fips: self.fips,
            csi_info: Vec::new(),
        }
    }
}

/// Whether a description is of one of our nodes.
#[must_use]
pub fn is_ours(description: &NodeDescription) -> bool {
    version(description).is_some()
}

/// The version that one of our nodes says it has.
#[must_use]
pub fn version(description: &NodeDescription) -> Option<&str> {
    description.engine.as_ref()?.labels.get(VERSION_LABEL).map(String::as_str)
}

/// The issuer that a node reports of its leaf, if it reports one.
#[must_use]
pub fn reported_issuer(description: &NodeDescription) -> Option<IssuerId> {
    let info = description.tls_info.as_ref()?;
    if info.cert_issuer_subject.is_empty() || info.cert_issuer_public_key.is_empty() {
        return None;
    }
    Some(IssuerId { subject: info.cert_issuer_subject.clone(), spki: info.cert_issuer_public_key.clone() })
}

/// Checks the size of a description that is to be kept.
///
/// # Errors
/// [`Refusal::DescriptionTooLarge`].
pub fn check_size(description: &NodeDescription) -> Result<(), Refusal> {
    let bytes = description.encoded_len();
    if bytes > DESCRIPTION_BYTES_MAX {
        return Err(Refusal::DescriptionTooLarge { bytes, bytes_max: DESCRIPTION_BYTES_MAX });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn issuer() -> IssuerId {
        IssuerId { subject: vec![0x30, 0x00], spki: vec![0x30, 0x01] }
    }

    #[test]
    fn ours_is_known_by_its_label() {
        let ours = Description { swarmpki_version: "0.1.0".to_owned(), ..Description::default() };
        let mut message = ours.to_wire(b"bundle", &issuer());
        assert!(is_ours(&message));
        assert_eq!(version(&message), Some("0.1.0"));
        assert_eq!(reported_issuer(&message), Some(issuer()));
        message.engine.as_mut().unwrap().labels.clear();
        assert!(!is_ours(&message));
        assert!(!is_ours(&NodeDescription::default()));
        assert_eq!(reported_issuer(&NodeDescription::default()), None);
    }

    #[test]
    fn survives_the_wire() {
        let message = Description::default().to_wire(b"bundle", &issuer());
        let back = NodeDescription::decode(message.encode_to_vec().as_slice()).unwrap();
        assert_eq!(back, message);
    }

    #[test]
    fn sizes_are_bounded() {
        let mut message = Description::default().to_wire(b"bundle", &issuer());
        assert_eq!(check_size(&message), Ok(()));
        message.hostname = "h".repeat(DESCRIPTION_BYTES_MAX);
        assert!(matches!(check_size(&message), Err(Refusal::DescriptionTooLarge { .. })));
    }
}
