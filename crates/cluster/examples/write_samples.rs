//! Writes the samples of the present storage format: `cargo run -p swarmpki-cluster --example write_samples`.
//! Once a format is released its samples are never written again.
#![allow(missing_docs)]

extern crate swarmpki_cluster as cluster;

#[path = "../tests/support/mod.rs"]
mod support;

fn main() -> std::io::Result<()> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/state/format-1");
    let (batch, cluster) = support::sample();
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("batch.bin"), batch.encode())?;
    std::fs::write(dir.join("state.bin"), cluster.state.encode_snapshot())?;
    let (batch, managed) = support::managers();
    std::fs::write(dir.join("managers-batch.bin"), batch.encode())?;
    std::fs::write(dir.join("managers.bin"), managed.state.encode_snapshot())?;
    let (batch, refounded) = support::refounded();
    std::fs::write(dir.join("refounded-batch.bin"), batch.encode())?;
    std::fs::write(dir.join("refounded.bin"), refounded.state.encode_snapshot())?;
    let (batch, told) = support::account();
    std::fs::write(dir.join("account-batch.bin"), batch.encode())?;
    std::fs::write(dir.join("account.bin"), told.state.encode_snapshot())?;
    let (batch, limited) = support::limited();
    std::fs::write(dir.join("limited-batch.bin"), batch.encode())?;
    std::fs::write(dir.join("limited.bin"), limited.state.encode_snapshot())?;
    let (batch, operators) = support::operators::sample();
    std::fs::write(dir.join("operators-batch.bin"), batch.encode())?;
    std::fs::write(dir.join("operators.bin"), operators.state.encode_snapshot())?;
    let (batch, revoked) = support::revoked();
    std::fs::write(dir.join("revoked-batch.bin"), batch.encode())?;
    std::fs::write(dir.join("revoked.bin"), revoked.state.encode_snapshot())?;
    std::fs::write(dir.join("locked.bin"), support::locked().encode_snapshot())?;
    std::fs::write(dir.join("ended.bin"), support::ended().encode_snapshot())?;
    std::fs::write(dir.join("rotating.bin"), support::rotating().encode_snapshot())?;
    std::fs::write(dir.join("log.bin"), &cluster.log[2].bytes)
}
