//! How keys in PKCS#11 tokens are reached from this machine, as flags. The PIN is never an argument, which other users of the machine
//! could see.

use std::path::PathBuf;

use clap::Args;
use daemon::{Keys, Pin, TokenAccess};

use crate::failure::Failure;

/// The hidden verb of the process that holds the module.
pub(crate) const MODULE_VERB: &str = "pkcs11-module";

/// How tokens are reached.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct TokenFlags {
    /// PKCS#11 module (a .so) of the token that holds the root's key; the usual places are searched unless set
    #[arg(long, value_name = "FILE")]
    pub(crate) pkcs11_module: Option<PathBuf>,
    /// File with the token's PIN, readable by its owner only
    #[arg(long, value_name = "FILE", conflicts_with = "pkcs11_pin_fd")]
    pub(crate) pkcs11_pin_file: Option<PathBuf>,
    /// Open file descriptor with the token's PIN
    #[arg(long, value_name = "NUMBER")]
    pub(crate) pkcs11_pin_fd: Option<u32>,
}

impl TokenFlags {
    /// The access that the flags describe. The module is held by another process of this program.
    pub(crate) fn access(&self) -> Result<TokenAccess, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::new(format!("this program cannot find itself: {error}")))?;
        let pin = match (&self.pkcs11_pin_file, self.pkcs11_pin_fd) {
            (Some(path), _) => Some(Pin::File(path.clone())),
            (None, Some(fd)) => Some(Pin::from_fd(fd).map_err(|error| Failure::new(error.to_string()))?),
            (None, None) => None,
        };
        Ok(TokenAccess { program, args: vec![MODULE_VERB.into()], module: self.pkcs11_module.clone(), pin })
    }

    /// The keys that are reached so.
    pub(crate) fn keys(&self) -> Result<Keys, Failure> {
        Ok(Keys::new(self.access()?))
    }
}
