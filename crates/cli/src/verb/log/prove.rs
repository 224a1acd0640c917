//! `swarmpki log prove`: that an entry is in the log of a root.

use clap::Args;
use daemon::engine_api::log::Proof;
use pki::digest::unhex;
use pki::merkle::{self, Hash};

use super::Context;
use crate::failure::Failure;

/// Show that an entry is in the log, for whoever knows the log's root (RFC 9162)
#[derive(Args, Clone, Debug)]
pub(crate) struct ProveArgs {
    /// The entry
    #[arg(value_name = "SEQ")]
    seq: u64,
    /// In the log as it was with so many entries
    #[arg(long, value_name = "N")]
    size: Option<u64>,
}

/// Asks for the proof, and believes it only if it holds.
pub(super) async fn run(args: &ProveArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let size = args.size.map(|size| format!("&size={size}")).unwrap_or_default();
    let proof: Option<Proof> = client.own(&format!("/log/prove?seq={}{size}", args.seq)).await?;
    let proof = proof.ok_or_else(super::no_log)?;
    if !holds(&proof) {
        return Err(Failure::new(format!("the proof of entry {} does not hold: do not trust this manager", proof.seq))
            .hint("Ask another manager, and see docs/operations/audit.md."));
    }
    if context.out.json() {
        return context.out.document(&proof);
    }
    context
        .out
        .line(format!("Entry {} is in the log of {} entries with root {}", proof.seq, proof.size, proof.root_hash))?;
    context.out.line(format!("leaf {}", proof.leaf_hash))?;
    for step in &proof.path {
        context.out.line(format!("path {step}"))?;
    }
    Ok(())
}

fn holds(proof: &Proof) -> bool {
    let hashes: Option<Vec<Hash>> = proof.path.iter().map(|step| hash(step)).collect();
    let (Some(path), Some(root), Some(entry)) = (hashes, hash(&proof.root_hash), unhex(&proof.entry)) else {
        return false;
    };
    let leaf = merkle::leaf_hash(&entry);
    hash(&proof.leaf_hash) == Some(leaf) && merkle::includes(leaf, proof.seq, proof.size, &path, &root)
}

fn hash(text: &str) -> Option<Hash> {
    unhex(text)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pki::digest::hex;

    #[test]
    fn a_proof_is_checked_here() {
        let leaves = [merkle::leaf_hash(b"a"), merkle::leaf_hash(b"b")];
        let proof = Proof {
            seq: 0,
            entry: hex(b"a"),
            leaf_hash: hex(&leaves[0]),
            size: 2,
            root_hash: hex(&merkle::node_hash(&leaves[0], &leaves[1])),
            path: vec![hex(&leaves[1])],
        };
        assert!(holds(&proof));
        assert!(!holds(&Proof { entry: hex(b"c"), ..proof.clone() }));
        assert!(!holds(&Proof { seq: 1, ..proof.clone() }));
        assert!(!holds(&Proof { path: vec!["zz".to_owned()], ..proof }));
    }
}
