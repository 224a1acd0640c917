//! A SoftHSM2 token in a folder of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use pki::SecretString;
use swarmpki_pkcs11::{MODULE_PATHS, Module, ModuleConfig, Pin, Token, TokenError};

/// The user's PIN of every token made here.
pub(crate) const PIN: &str = "1234-right";

/// The child of tests and benches.
pub(crate) const CHILD: &str = env!("CARGO_BIN_EXE_swarmpki-pkcs11-child");

/// A token named `ca`.
pub(crate) struct SoftHsm {
    folder: tempfile::TempDir,
    pub(crate) module: PathBuf,
}

impl SoftHsm {
    /// None, after saying so, if SoftHSM2 is not on this machine.
    pub(crate) fn new(test: &str) -> Option<Self> {
        let util = match testkit::peer::find("softhsm2-util") {
            Ok(util) => util,
            Err(missing) => {
                testkit::peer::skip(test, &missing);
                return None;
            }
        };
        let module =
            MODULE_PATHS.iter().map(PathBuf::from).find(|path| path.is_file() && path.ends_with("libsofthsm2.so"));
        let Some(module) = module else {
            testkit::peer::skip(test, "libsofthsm2.so not found");
            return None;
        };
        let token = SoftHsm { folder: tempfile::tempdir().unwrap(), module };
        std::fs::create_dir(token.tokens()).unwrap();
        let settings = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            token.tokens().display()
        );
        std::fs::write(token.settings(), settings).unwrap();
        let made = Command::new(util)
            .args(["--init-token", "--free", "--label", "ca", "--so-pin", "5678-so", "--pin", PIN])
            .env("SOFTHSM2_CONF", token.settings())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        Some(token)
    }

    /// The folder with the token's files.
    pub(crate) fn tokens(&self) -> PathBuf {
        self.folder.path().join("tokens")
    }

    pub(crate) fn settings(&self) -> PathBuf {
        self.folder.path().join("softhsm2.conf")
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn config(&self, pin: &str) -> ModuleConfig {
        ModuleConfig {
            uri: "pkcs11:token=ca".parse().unwrap(),
            module_path: Some(self.module.clone()),
            pin: Some(crate::softhsm::pin(pin)),
            env: self.env(),
        }
    }

    pub(crate) fn env(&self) -> Vec<(OsString, OsString)> {
        vec![("SOFTHSM2_CONF".into(), self.settings().into())]
    }

    pub(crate) fn open(&self) -> Token {
        self.try_open(PIN).unwrap()
    }

    pub(crate) fn try_open(&self, pin: &str) -> Result<Token, TokenError> {
        Module::spawn(Path::new(CHILD), &[], self.config(pin))
    }
}

pub(crate) fn pin(text: &str) -> Pin {
    Pin::Secret(SecretString::new(text.to_owned()))
}
