//! Places the functions that every manager runs side by side in the program, as `first.ld` names them.
//!
//! - Why: what an idle manager holds in memory is mostly its program, which the kernel maps in windows of 64 KiB. Where a few functions of
//!   each window are run, nearly all of it is held.
//! - `cargo xtask first` writes it. A name that is no more does nothing; one that is missing leaves its function where it was.
//! - Only for the linker that Rust itself brings, and only for release builds. Who chooses another (`-C linker=…`, `-C link-arg=…`) gets the
//!   same program in the usual order.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const SCRIPT: &str = "first.ld";

fn main() {
    println!("cargo::rerun-if-changed={SCRIPT}");
    println!("cargo::rerun-if-changed=build.rs");
    if variable("PROFILE") != "release" || !is_linked_by_lld() {
        return;
    }
    let script = Path::new(&variable("CARGO_MANIFEST_DIR")).join(SCRIPT);
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
}

/// What cargo tells a build script; empty if it does not.
fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

/// Whether nobody chose a linker, and the compiler has one of its own for this target.
fn is_linked_by_lld() -> bool {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let chosen = env::var_os("RUSTC_LINKER").is_some() || variable("CARGO_ENCODED_RUSTFLAGS").contains("link");
    if chosen || variable("TARGET") != TARGET {
        return false;
    }
    let told = Command::new(variable("RUSTC")).args(["--print", "sysroot"]).output();
    let sysroot = told.ok().and_then(|told| String::from_utf8(told.stdout).ok()).unwrap_or_default();
    let linker: PathBuf = [sysroot.trim(), "lib/rustlib", TARGET, "bin/gcc-ld/ld.lld"].iter().collect();
    linker.is_file()
}
