//! What a node says of itself, taken apart for storage (bulky parts once, by digest) and put together again.

use std::sync::Arc;

use cluster::State;
use cluster::command::Reported;
use cluster::node::{BlobDigest, Report};
use pki::identity::NodeId;
use prost::Message;
use wire::proto::{NodeDescription, NodeTlsInfo};

/// Takes a description apart. Blobs that `state` has already are left out.
pub fn split(state: &State, node: &NodeId, description: NodeDescription, addr: &str) -> Reported {
    let NodeDescription { hostname, tls_info, .. } = description.clone();
    let tls = tls_info.unwrap_or_default();
    let issuer = NodeTlsInfo {
        trust_root: Vec::new(),
        cert_issuer_subject: tls.cert_issuer_subject,
        cert_issuer_public_key: tls.cert_issuer_public_key,
    };
    let rest = NodeDescription { hostname: String::new(), tls_info: None, ..description };
    let mut blobs = Vec::new();
    let mut keep = |bytes: Vec<u8>| {
        let digest = BlobDigest::of(&bytes);
        if state.blob(&digest).is_none() {
            blobs.push((digest, Arc::from(bytes)));
        }
        digest
    };
    let report = Report {
        hostname,
        addr: addr.to_owned(),
        issuer: keep(issuer.encode_to_vec()),
        trust: keep(tls.trust_root),
        description: keep(rest.encode_to_vec()),
    };
    Reported { node: node.clone(), report, blobs }
}

/// Puts a description together again. Blobs that cannot be read count as empty: they are for display.
pub fn join(state: &State, report: &Report) -> NodeDescription {
    let blob = |digest: &BlobDigest| state.blob(digest).map(|bytes| bytes.as_ref()).unwrap_or_default();
    let mut description = NodeDescription::decode(blob(&report.description)).unwrap_or_default();
    let mut tls = NodeTlsInfo::decode(blob(&report.issuer)).unwrap_or_default();
    tls.trust_root = blob(&report.trust).to_vec();
    description.hostname.clone_from(&report.hostname);
    description.tls_info = Some(tls);
    description
}
