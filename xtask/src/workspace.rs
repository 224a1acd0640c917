//! Where things are, and what cargo knows of them.

use std::path::PathBuf;

use anyhow::Context;
use cargo_metadata::{Metadata, MetadataCommand};

/// The folder of the workspace: the parent of this package's.
pub(crate) fn root() -> anyhow::Result<PathBuf> {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    package.parent().map(PathBuf::from).context("this package has no parent folder")
}

/// Our packages with their dependencies and targets, without those of strangers.
pub(crate) fn metadata() -> anyhow::Result<Metadata> {
    let manifest = root()?.join("Cargo.toml");
    MetadataCommand::new().manifest_path(manifest).no_deps().exec().context("cargo metadata")
}

/// Whether `package` has a target of this kind (`bin`, `bench`), and which.
pub(crate) fn targets(metadata: &Metadata, package: &str, kind: &str) -> Vec<String> {
    let found = metadata.packages.iter().filter(|known| known.name.as_str() == package);
    let targets = found.flat_map(|package| &package.targets);
    let of_kind = targets.filter(|target| target.kind.iter().any(|known| known.to_string() == kind));
    of_kind.map(|target| target.name.clone()).collect()
}
