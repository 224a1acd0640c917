//! A SoftHSM2 token as a guard: where a root's key lives.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use testkit::daemon::Daemon;
use testkit::docker::run;
use testkit::peer;

/// The user's PIN.
const PIN: &str = "1234-right";

/// A token named `swarm`, in a folder of its own.
pub struct SoftHsm {
    folder: tempfile::TempDir,
}

impl SoftHsm {
    /// Makes it.
    ///
    /// # Panics
    /// If that fails; ask `require_or_skip!("softhsm2-util")` first.
    pub fn new() -> Self {
        let hsm = Self { folder: tempfile::Builder::new().prefix("swarmpki-").tempdir().expect("a folder") };
        std::fs::create_dir(hsm.tokens()).expect("a folder");
        let settings = format!("directories.tokendir = {}\nobjectstore.backend = file\n", hsm.tokens().display());
        std::fs::write(hsm.path("softhsm2.conf"), settings).expect("a file");
        std::fs::write(hsm.path("pin"), PIN).expect("a file");
        std::fs::set_permissions(hsm.path("pin"), PermissionsExt::from_mode(0o600)).expect("for its owner only");
        hsm.util(&["--init-token", "--free", "--label", "swarm", "--so-pin", "5678-so", "--pin", PIN]);
        hsm
    }

    /// Starts a daemon of ours that can reach the token.
    ///
    /// # Panics
    /// As [`Daemon::start`].
    pub fn daemon(&self, name: &str) -> Daemon {
        self.daemon_with(name, Vec::new())
    }

    /// The same with more flags.
    ///
    /// # Panics
    /// As [`Daemon::start`].
    pub fn daemon_with(&self, name: &str, mut more: Vec<OsString>) -> Daemon {
        more.extend(["--pkcs11-pin-file".into(), self.path("pin").into_os_string()]);
        Daemon::start_with(name, more, vec![self.env()])
    }

    /// Puts the PKCS#8 key of this file into the token.
    ///
    /// # Panics
    /// If the token does not take it.
    pub fn import(&self, key: &str, label: &str) {
        self.util(&["--import", key, "--token", "swarm", "--label", label, "--id", "0a", "--pin", PIN]);
    }

    /// Takes the token away: its files are elsewhere.
    ///
    /// # Panics
    /// If they cannot be moved.
    pub fn take_away(&self) {
        std::fs::rename(self.tokens(), self.path("away")).expect("it was there");
    }

    /// Gives it back.
    ///
    /// # Panics
    /// If it was not away.
    pub fn give_back(&self) {
        std::fs::rename(self.path("away"), self.tokens()).expect("it was away");
    }

    fn util(&self, args: &[&str]) {
        let (name, value) = self.env();
        run(Command::new(peer::find("softhsm2-util").expect("softhsm2-util")).args(args).env(name, value)).ok();
    }

    fn env(&self) -> (OsString, OsString) {
        ("SOFTHSM2_CONF".into(), self.path("softhsm2.conf").into_os_string())
    }

    fn tokens(&self) -> PathBuf {
        self.path("tokens")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Default for SoftHsm {
    fn default() -> Self {
        Self::new()
    }
}
