//! The `openssl` command as a judge of certificates.

use std::path::Path;
use std::process::Command;

use crate::docker::{Output, run};

/// Runs `openssl` with these arguments.
///
/// # Panics
/// If there is none: ask [`require_or_skip!`](crate::require_or_skip)`("openssl")` first.
pub fn openssl(args: &[&str]) -> Output {
    run(Command::new("openssl").args(args))
}

/// Whether the first certificate of `chain` verifies under `root`, the rest of the file being untrusted intermediates.
///
/// # Panics
/// If it does not, with what `openssl verify` says.
pub fn verify(root: &Path, chain: &Path) {
    let (root, chain) = (text(root), text(chain));
    let said = openssl(&["verify", "-CAfile", &root, "-untrusted", &chain, &chain]).ok();
    assert!(said.ends_with(": OK"), "{said}");
}

/// The subject of the first certificate of a file, in RFC 2253 order turned round, so as it stands in the certificate: `O=…,OU=…,CN=…`.
///
/// # Panics
/// If it cannot be read.
pub fn subject(chain: &Path) -> String {
    let said = openssl(&["x509", "-in", &text(chain), "-noout", "-subject", "-nameopt", "sep_comma_plus"]).ok();
    said.strip_prefix("subject=").expect("a subject").trim().replace(" = ", "=").replace(", ", ",")
}

/// The serial number of the first certificate of a file, in hexadecimal.
///
/// # Panics
/// If it cannot be read.
pub fn serial(chain: &Path) -> String {
    let said = openssl(&["x509", "-in", &text(chain), "-noout", "-serial"]).ok();
    said.strip_prefix("serial=").expect("a serial").to_owned()
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}
