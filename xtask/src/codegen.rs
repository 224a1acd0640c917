//! Generates the Rust side of `proto/` into `crates/wire/src/gen/`, which is checked in: building the project needs
//! neither protoc nor this step. The `.proto` files are compiled in Rust.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// The files to generate from, relative to `proto/`.
const FILES: [&str; 3] = ["swarmkit.proto", "swarmpki/v1/node.proto", "swarmpki/v1/managers.proto"];

/// Messages that hold a secret: their `Debug` is written by hand in `crates/wire/src/redacted.rs`.
const SECRETS: [&str; 10] = [
    ".docker.swarmkit.v1.GetUnlockKeyResponse",
    ".docker.swarmkit.v1.IssueNodeCertificateRequest",
    ".docker.swarmkit.v1.EncryptionKey",
    ".docker.swarmkit.v1.JoinTokens",
    ".docker.swarmkit.v1.RootCA",
    ".docker.swarmkit.v1.RootRotation",
    ".docker.swarmkit.v1.CAConfig",
    ".docker.swarmkit.v1.AcceptancePolicy.RoleAdmissionPolicy.Secret",
    ".swarmpki.v1.AskRequest",
    ".swarmpki.v1.AskResponse",
];

/// Writes the generated code, or with `check` only compares it with what is there.
///
/// # Errors
/// When a `.proto` file does not compile, a file cannot be read or written, or, with `check`, when the code that is
/// checked in is not what the `.proto` files say.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let root = root()?;
    let kept = root.join("crates/wire/src/gen");
    let fresh = root.join("target/codegen");
    if fresh.exists() {
        fs::remove_dir_all(&fresh).with_context(|| format!("clear {}", fresh.display()))?;
    }
    fs::create_dir_all(&fresh).with_context(|| format!("create {}", fresh.display()))?;
    generate(&root.join("proto"), &fresh)?;

    let mut stale = Vec::new();
    let mut names = Vec::new();
    for entry in fs::read_dir(&fresh)? {
        let entry = entry?;
        let name = entry.file_name();
        let wanted = fs::read(entry.path())?;
        let target = kept.join(&name);
        if fs::read(&target).ok().as_deref() != Some(&wanted) {
            stale.push(target.display().to_string());
            if !check {
                fs::create_dir_all(&kept)?;
                fs::write(&target, &wanted).with_context(|| format!("write {}", target.display()))?;
            }
        }
        names.push(name);
    }
    if let Ok(entries) = fs::read_dir(&kept) {
        for entry in entries {
            let entry = entry?;
            if !names.contains(&entry.file_name()) {
                stale.push(entry.path().display().to_string());
                if !check {
                    fs::remove_file(entry.path())?;
                }
            }
        }
    }
    if check && !stale.is_empty() {
        bail!("generated code is not in step with proto/: {}; run `cargo xtask codegen`", stale.join(", "));
    }
    Ok(())
}

fn generate(proto: &Path, out: &Path) -> anyhow::Result<()> {
    let files: Vec<PathBuf> = FILES.iter().map(|file| proto.join(file)).collect();
    let descriptors = protox::compile(&files, [proto])?;
    tonic_prost_build::configure()
        .out_dir(out)
        .build_client(true)
        .build_server(true)
        // Connections are made by `mtls`, never by tonic.
        .build_transport(false)
        // Ours: small buffers.
        .codec_path("crate::codec::Codec")
        // Maps keep their order: equal values have equal bytes.
        .btree_map(".")
        .skip_debug(SECRETS)
        // Sent unchanged to every node: shared, not copied.
        .bytes(".docker.swarmkit.v1.SessionMessage.RootCA")
        .bytes(".docker.swarmkit.v1.GetRootCACertificateResponse.certificate")
        .compile_fds(descriptors)?;
    Ok(())
}

/// The workspace's root: the parent of the folder of this package.
fn root() -> anyhow::Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().context("xtask has no parent folder")?.to_path_buf())
}
