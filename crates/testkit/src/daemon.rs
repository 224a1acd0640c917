//! Our own daemon, as a guard.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::Command;

use crate::docker::{self, Output};
use crate::engine::Certificates;
use crate::server::{self, Server};

/// A `swarmpki daemon` with a state folder and a socket of its own.
pub struct Daemon(Server);

impl Daemon {
    /// Starts it, in no swarm.
    ///
    /// # Panics
    /// If it does not answer; ask [`require_or_skip!`](crate::require_or_skip)`("swarmpki")` first.
    pub fn start(name: &str) -> Self {
        let program = program().expect("swarmpki, after require_or_skip!(\"swarmpki\")");
        Self(Server::start(name, program, |folder| {
            let listen = format!("unix://{}", server::socket(folder).display());
            ["daemon".into(), "--state-dir".into(), folder.join("state").into(), "-H".into(), listen.into()].to_vec()
        }))
    }

    /// Runs our own command against it: `swarmpki -H … ARGS`.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn swarmpki(&self, args: &[&str]) -> Output {
        let mut command = Command::new(program().expect("swarmpki"));
        command.env_remove("SWARMPKI_HOST").arg("-H").arg(format!("unix://{}", self.socket().display()));
        docker::run(command.args(args))
    }

    /// Where it keeps its node certificate, key and trust bundle.
    pub fn certificates(&self) -> Certificates {
        Certificates::in_folder(&self.folder().join("state/certificates"))
    }
}

impl Deref for Daemon {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.0
    }
}

impl DerefMut for Daemon {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}

/// Our program: `SWARMPKI_BIN`, else the one that cargo built beside this test (`target/<profile>/swarmpki`).
///
/// # Errors
/// If it has not been built.
pub fn program() -> Result<PathBuf, String> {
    if let Some(file) = std::env::var_os("SWARMPKI_BIN").map(PathBuf::from) {
        return if file.is_file() { Ok(file) } else { Err(format!("SWARMPKI_BIN={}: no such file", file.display())) };
    }
    // A test's own file is target/<profile>/deps/NAME-HASH.
    let test = std::env::current_exe().map_err(|error| error.to_string())?;
    let built = test.parent().and_then(|deps| deps.parent()).map(|profile| profile.join("swarmpki"));
    built.filter(|file| file.is_file()).ok_or_else(|| "swarmpki not built (cargo build -p swarmpki-cli)".into())
}
