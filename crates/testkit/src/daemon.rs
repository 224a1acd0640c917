//! Our own daemon, as a guard.

use std::ffi::OsString;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
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
        Self::start_with(name, Vec::new(), Vec::new())
    }

    /// Starts it with more arguments, and with more in its environment.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn start_with(name: &str, more: Vec<OsString>, env: Vec<(OsString, OsString)>) -> Self {
        Self::start_under(Vec::new(), name, more, env)
    }

    /// The same through another command, which becomes the daemon: the line of that command up to ours.
    pub(crate) fn start_under(
        command: Vec<OsString>,
        name: &str,
        more: Vec<OsString>,
        env: Vec<(OsString, OsString)>,
    ) -> Self {
        let program = program().expect("swarmpki, after require_or_skip!(\"swarmpki\")");
        let mut line = command.into_iter().chain([program.into_os_string()]);
        let first = line.next().expect("a command").into();
        let args = |folder: &Path| {
            let listen = format!("unix://{}", server::socket(folder).display());
            let mut args: Vec<OsString> = line.collect();
            args.extend([
                "daemon".into(),
                "--state-dir".into(),
                folder.join("state").into(),
                "-H".into(),
                listen.into(),
            ]);
            args.extend(more);
            args
        };
        Self(Server::start_with(name, first, args, env))
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.folder().join("state")
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
        Certificates::in_folder(&self.state().join("certificates"))
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
