//! `swarmpki log prove`: that an entry is in the log of a root, or that the log goes on from what it was.

use clap::Args;
use daemon::engine_api::log::{Consistency, Proof};
use pki::digest::{hex, unhex};
use pki::merkle::{self, Hash};

use super::Context;
use crate::client::Client;
use crate::failure::Failure;

/// Show that an entry is in the log, or that the log goes on from what it was (RFC 9162)
#[derive(Args, Clone, Debug)]
pub(crate) struct ProveArgs {
    /// The entry
    #[arg(value_name = "SEQ", required_unless_present = "before")]
    seq: Option<u64>,
    /// Not an entry: that the log begins with what it was with so many
    #[arg(long, value_name = "N", conflicts_with = "seq")]
    before: Option<u64>,
    /// The root that it had then, as it was kept
    #[arg(long, value_name = "HASH", requires = "before")]
    root: Option<String>,
    /// In the log as it was with so many entries
    #[arg(long, value_name = "N")]
    size: Option<u64>,
}

/// Asks for the proof, and believes it only if it holds.
pub(super) async fn run(args: &ProveArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let size = args.size.map(|size| format!("&size={size}")).unwrap_or_default();
    if let Some(before) = args.before {
        return since(before, &size, args.root.as_deref(), &mut client, context).await;
    }
    let proof: Option<Proof> = client.own(&format!("/log/prove?seq={}{size}", args.seq.unwrap_or_default())).await?;
    let proof = proof.ok_or_else(super::no_log)?;
    if !holds(&proof) {
        return Err(lies(&format!("of entry {}", proof.seq)));
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

/// That the log goes on from what it was.
async fn since(
    before: u64,
    size: &str,
    root: Option<&str>,
    client: &mut Client,
    context: &mut Context,
) -> Result<(), Failure> {
    let known = match root {
        Some(text) => Some(hash(text).ok_or_else(|| {
            Failure::flag("--root", text, "not 64 hex digits")
                .hint("Give the whole root, as swarmpki log head printed it then: N entries, root HASH")
        })?),
        None => None,
    };
    let proof: Option<Consistency> = client.own(&format!("/log/consistency?before={before}{size}")).await?;
    let proof = proof.ok_or_else(super::no_log)?;
    let told = hash(&proof.root_before).unwrap_or_default();
    if let Some(known) = known.filter(|known| *known != told) {
        let text = format!(
            "the log was changed: with {before} entries its root is {}, not {}",
            proof.root_before,
            hex(&known)
        );
        return Err(Failure::new(text).hint("Ask another manager, and see docs/operations/audit.md."));
    }
    if !goes_on(&proof, before, &told, proof.size) {
        return Err(lies(&format!("that the log goes on from {before} entries")));
    }
    if context.out.json() {
        return context.out.document(&proof);
    }
    let Consistency { root_before, size, root_hash, path, .. } = &proof;
    context.out.line(format!("The log of {size} entries with root {root_hash}"))?;
    context.out.line(format!("begins with the {before} entries with root {root_before}"))?;
    path.iter().try_for_each(|step| context.out.line(format!("path {step}")))
}

/// Whether this shows that the log of `size` entries begins with the `before` entries of `root`.
pub(super) fn goes_on(proof: &Consistency, before: u64, root: &Hash, size: u64) -> bool {
    let path: Option<Vec<Hash>> = proof.path.iter().map(|step| hash(step)).collect();
    let (Some(path), Some(later)) = (path, hash(&proof.root_hash)) else { return false };
    (proof.before, proof.size) == (before, size) && merkle::extends(before, root, size, &later, &path)
}

/// A manager whose proof is none.
pub(super) fn lies(of: &str) -> Failure {
    Failure::new(format!("the proof {of} does not hold: do not trust this manager"))
        .hint("Ask another manager, and see docs/operations/audit.md.")
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

    #[test]
    fn that_a_log_goes_on_is_checked_here() {
        let leaves = [merkle::leaf_hash(b"a"), merkle::leaf_hash(b"b")];
        let root = merkle::node_hash(&leaves[0], &leaves[1]);
        let proof = Consistency {
            before: 1,
            root_before: hex(&leaves[0]),
            size: 2,
            root_hash: hex(&root),
            path: vec![hex(&leaves[1])],
        };
        assert!(goes_on(&proof, 1, &leaves[0], 2));
        assert!(!goes_on(&proof, 1, &leaves[1], 2), "another root than was kept");
        assert!(!goes_on(&proof, 2, &leaves[0], 2) && !goes_on(&proof, 1, &leaves[0], 3), "of other sizes");
        assert!(!goes_on(&Consistency { path: Vec::new(), ..proof.clone() }, 1, &leaves[0], 2));
        assert!(!goes_on(&Consistency { path: vec!["zz".to_owned()], ..proof }, 1, &leaves[0], 2));
    }
}
