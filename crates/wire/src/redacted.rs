//! `Debug` of the messages that hold a secret: it shows what helps and only says whether the secret is there.
//!
//! `cargo xtask codegen` leaves the generated one out for these. Messages that contain them print through them.

use std::fmt::{Debug, Formatter, Result};

use crate::managers::{AskRequest, AskResponse};
use crate::proto::acceptance_policy::role_admission_policy::Secret;
use crate::proto::{
    CaConfig, EncryptionKey, GetUnlockKeyResponse, IssueNodeCertificateRequest, JoinTokens, RootCa, RootRotation,
};

/// In the place of a secret.
struct Hidden(bool);

impl Debug for Hidden {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(if self.0 { "(hidden)" } else { "(none)" })
    }
}

const fn hidden(secret: &[u8]) -> Hidden {
    Hidden(!secret.is_empty())
}

/// Bytes that are no secret, by their number.
struct Bytes(usize);

impl Debug for Bytes {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{} bytes", self.0)
    }
}

impl Debug for AskRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("AskRequest")
            .field("cluster", &self.cluster)
            .field("epoch", &self.epoch)
            .field("from", &self.from)
            .field("question", &Bytes(self.question.len()))
            .finish()
    }
}

impl Debug for AskResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("AskResponse").field("answer", &Bytes(self.answer.len())).finish()
    }
}

impl Debug for GetUnlockKeyResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("GetUnlockKeyResponse")
            .field("unlock_key", &hidden(&self.unlock_key))
            .field("version", &self.version)
            .finish()
    }
}

impl Debug for IssueNodeCertificateRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("IssueNodeCertificateRequest")
            .field("role", &self.role())
            .field("csr", &Bytes(self.csr.len()))
            .field("token", &hidden(self.token.as_bytes()))
            .field("availability", &self.availability())
            .finish()
    }
}

impl Debug for EncryptionKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("EncryptionKey")
            .field("subsystem", &self.subsystem)
            .field("algorithm", &self.algorithm)
            .field("key", &hidden(&self.key))
            .field("lamport_time", &self.lamport_time)
            .finish()
    }
}

impl Debug for JoinTokens {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("JoinTokens")
            .field("worker", &hidden(self.worker.as_bytes()))
            .field("manager", &hidden(self.manager.as_bytes()))
            .finish()
    }
}

impl Debug for RootCa {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("RootCa")
            .field("ca_key", &hidden(&self.ca_key))
            .field("ca_cert", &Bytes(self.ca_cert.len()))
            .field("ca_cert_hash", &self.ca_cert_hash)
            .field("join_tokens", &self.join_tokens)
            .field("root_rotation", &self.root_rotation)
            .field("last_forced_rotation", &self.last_forced_rotation)
            .finish()
    }
}

impl Debug for RootRotation {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("RootRotation")
            .field("ca_cert", &Bytes(self.ca_cert.len()))
            .field("ca_key", &hidden(&self.ca_key))
            .field("cross_signed_ca_cert", &Bytes(self.cross_signed_ca_cert.len()))
            .finish()
    }
}

impl Debug for CaConfig {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("CaConfig")
            .field("node_cert_expiry", &self.node_cert_expiry)
            .field("external_cas", &self.external_cas.len())
            .field("signing_ca_cert", &Bytes(self.signing_ca_cert.len()))
            .field("signing_ca_key", &hidden(&self.signing_ca_key))
            .field("force_rotate", &self.force_rotate)
            .finish()
    }
}

impl Debug for Secret {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("Secret").field("data", &hidden(&self.data)).field("alg", &self.alg).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::acceptance_policy::RoleAdmissionPolicy;
    use crate::proto::{AcceptancePolicy, Cluster, ClusterSpec, SessionMessage};

    const SECRET: &str = "sesame";
    /// The same as a list of numbers, which is how bytes print.
    const NUMBERS: &str = "115, 101, 115, 97, 109, 101";

    fn bytes() -> Vec<u8> {
        SECRET.as_bytes().to_vec()
    }

    #[test]
    fn no_message_prints_a_secret() {
        let key = EncryptionKey { subsystem: "manager".to_owned(), key: bytes(), ..EncryptionKey::default() };
        let tokens = JoinTokens { worker: SECRET.to_owned(), manager: SECRET.to_owned() };
        let root = RootCa {
            ca_key: bytes(),
            join_tokens: Some(tokens),
            root_rotation: Some(RootRotation { ca_key: bytes(), ..RootRotation::default() }),
            ..RootCa::default()
        };
        let policy = RoleAdmissionPolicy {
            secret: Some(Secret { data: bytes(), alg: String::new() }),
            ..RoleAdmissionPolicy::default()
        };
        let spec = ClusterSpec {
            acceptance_policy: Some(AcceptancePolicy { policies: vec![policy] }),
            ca_config: Some(CaConfig { signing_ca_key: bytes(), ..CaConfig::default() }),
            ..ClusterSpec::default()
        };
        let cluster = Cluster {
            spec: Some(spec),
            root_ca: Some(root),
            unlock_keys: vec![key.clone()],
            network_bootstrap_keys: vec![key.clone()],
            ..Cluster::default()
        };
        let session = SessionMessage { network_bootstrap_keys: vec![key], ..SessionMessage::default() };
        let issue = IssueNodeCertificateRequest { token: SECRET.to_owned(), ..IssueNodeCertificateRequest::default() };
        let unlock = GetUnlockKeyResponse { unlock_key: bytes(), version: None };
        for (text, hidden) in [
            (format!("{cluster:?}"), 8),
            (format!("{session:?}"), 1),
            (format!("{issue:?}"), 1),
            (format!("{unlock:?}"), 1),
        ] {
            assert!(!text.contains(SECRET) && !text.contains(NUMBERS), "{text}");
            assert_eq!(text.matches("(hidden)").count(), hidden, "{text}");
        }
        assert!(format!("{:?}", GetUnlockKeyResponse::default()).contains("(none)"));
    }
}
