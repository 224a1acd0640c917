//! The arrows of the workspace: which of our crates may use which. The list is the style guide's.

use std::collections::BTreeSet;

use anyhow::bail;
use cargo_metadata::{DependencyKind, Metadata};

/// Package, and the packages of ours that it may use in what ships. `None`: it may use anything, and nothing ships with it.
const ARROWS: [(&str, Option<&[&str]>); 16] = [
    ("swarmpki-pki", Some(&[])),
    ("swarmpki-cluster", Some(&["swarmpki-pki"])),
    ("swarmpki-wire", Some(&["swarmpki-pki"])),
    ("swarmpki-mtls", Some(&["swarmpki-pki"])),
    ("swarmpki-pkcs11", Some(&["swarmpki-pki"])),
    ("swarmpki-cfssl", Some(&["swarmpki-mtls", "swarmpki-pki"])),
    ("swarmpki-authority", Some(&["swarmpki-cfssl", "swarmpki-mtls", "swarmpki-pki"])),
    ("swarmpki-replica", Some(&["swarmpki-wire", "swarmpki-cluster", "swarmpki-pki"])),
    ("swarmpki", Some(&["swarmpki-mtls", "swarmpki-wire", "swarmpki-pki"])),
    (
        "swarmpki-manager",
        Some(&[
            "swarmpki",
            "swarmpki-cfssl",
            "swarmpki-pkcs11",
            "swarmpki-mtls",
            "swarmpki-replica",
            "swarmpki-wire",
            "swarmpki-cluster",
            "swarmpki-pki",
        ]),
    ),
    (
        "swarmpki-daemon",
        Some(&[
            "swarmpki-manager",
            "swarmpki",
            "swarmpki-mtls",
            "swarmpki-replica",
            "swarmpki-wire",
            "swarmpki-cluster",
            "swarmpki-pki",
        ]),
    ),
    (
        "swarmpki-cli",
        Some(&[
            "swarmpki-daemon",
            "swarmpki-authority",
            "swarmpki-pkcs11",
            "swarmpki",
            "swarmpki-mtls",
            "swarmpki-wire",
            "swarmpki-pki",
        ]),
    ),
    ("swarmpki-sim", None),
    ("swarmpki-testkit", None),
    ("swarmpki-conformance", None),
    ("xtask", None),
];

/// What brings clocks, sockets or tasks: not for the pure crates.
const IMPURE: [&str; 6] = ["tokio", "hyper", "tonic", "futures", "async-std", "nix"];
const PURE: [&str; 2] = ["swarmpki-pki", "swarmpki-cluster"];

/// Compares the list with `cargo metadata`.
///
/// # Errors
/// Naming each arrow that is not on the list, and each package that is missing on either side.
pub(crate) fn check() -> anyhow::Result<()> {
    let wrong = violations(&crate::workspace::metadata()?);
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{}", wrong.join("\n"))
}

fn violations(metadata: &Metadata) -> Vec<String> {
    let ours: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
            wrong.push(format!("{name}: not on the list of arrows"));
            continue;
        };
        // What only tests use does not ship.
        for dependency in
            package.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development)
        {
            let used = dependency.name.as_str();
            if ours.contains(used) && allowed.is_some_and(|allowed| !allowed.contains(&used)) {
                wrong.push(format!("{name} → {used}: no such arrow"));
            }
            if PURE.contains(&name) && IMPURE.contains(&used) {
                wrong.push(format!("{name} → {used}: {name} is pure (no I/O, no clock, no async)"));
            }
        }
    }
    wrong.extend(
        ARROWS
            .iter()
            .filter(|(known, _)| !ours.contains(known))
            .map(|(known, _)| format!("{known}: on the list, but no such package")),
    );
    wrong
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_workspace_keeps_its_arrows() {
        assert_eq!(violations(&crate::workspace::metadata().unwrap()), Vec::<String>::new());
    }

    #[test]
    fn a_wrong_arrow_is_named() {
        let mut metadata = crate::workspace::metadata().unwrap();
        let manager = metadata.packages.iter().find(|package| package.name.as_str() == "swarmpki-manager").unwrap();
        let upward = manager.dependencies.clone();
        let pki = metadata.packages.iter_mut().find(|package| package.name.as_str() == "swarmpki-pki").unwrap();
        pki.dependencies = upward;
        let wrong = violations(&metadata);
        assert!(wrong.contains(&"swarmpki-pki → swarmpki-cluster: no such arrow".into()), "{wrong:?}");
        assert!(
            wrong.contains(&"swarmpki-pki → tokio: swarmpki-pki is pure (no I/O, no clock, no async)".into()),
            "{wrong:?}"
        );
    }

    #[test]
    fn a_crate_that_is_not_on_the_list_is_named() {
        let mut metadata = crate::workspace::metadata().unwrap();
        metadata.packages.retain(|package| package.name.as_str() != "swarmpki-wire");
        assert_eq!(violations(&metadata), ["swarmpki-wire: on the list, but no such package"]);
    }
}
