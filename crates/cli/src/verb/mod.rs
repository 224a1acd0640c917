//! The verbs, one a file.

pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod ca;
pub(crate) mod cert;
pub(crate) mod check;
pub(crate) mod completion;
pub(crate) mod crl;
pub(crate) mod daemon;
pub(crate) mod demo;
pub(crate) mod info;
pub(crate) mod init;
pub(crate) mod join;
pub(crate) mod join_token;
pub(crate) mod leave;
pub(crate) mod log;
pub(crate) mod man;
pub(crate) mod node;
pub(crate) mod restore;
pub(crate) mod revoke;
pub(crate) mod token;
pub(crate) mod unlock;
pub(crate) mod unlock_key;
pub(crate) mod up;
pub(crate) mod update;
pub(crate) mod version;

use crate::client::{Client, Endpoint};
use crate::failure::Failure;
use crate::output::Output;

/// What every verb is given: where the daemon is, and where to print.
pub(crate) struct Context {
    /// The daemon to talk to.
    pub(crate) endpoint: Endpoint,
    /// Where results go.
    pub(crate) out: Output,
}

impl Context {
    /// Connects to the daemon.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        Client::connect(&self.endpoint).await
    }
}
