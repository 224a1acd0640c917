//! A server process of a test: started in a folder of its own, asked until it answers, ended with the test.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::docker::{Client, Output};
use crate::http::{self, Answer};
use crate::{peer, wait};

/// How long a server may take until it answers. A Docker Engine alone takes 0.2 to 0.5 s; a loaded machine takes more.
const START_WITHIN: Duration = Duration::from_secs(60);
/// How long a server may take to end when asked to; then it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// A running server with an Engine API on a unix socket. Dropping it ends the process (only the one started here) and removes its
/// folder; if the test panics, the folder with the log is kept and named.
pub struct Server {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    folder: Option<tempfile::TempDir>,
    child: Option<Child>,
}

impl Server {
    /// Starts `program` with the arguments that `args` makes of the server's folder and waits until its API answers.
    pub(crate) fn start(name: &str, program: PathBuf, args: impl FnOnce(&Path) -> Vec<OsString>) -> Self {
        Self::start_with(name, program, args, Vec::new())
    }

    /// The same with more in its environment.
    pub(crate) fn start_with(
        name: &str,
        program: PathBuf,
        args: impl FnOnce(&Path) -> Vec<OsString>,
        env: Vec<(OsString, OsString)>,
    ) -> Self {
        // Short names: a path of a unix socket has at most 107 bytes.
        let folder = tempfile::Builder::new().prefix("swarmpki-").tempdir().expect("a folder");
        let args = args(folder.path());
        let mut server = Self { name: name.to_owned(), program, args, env, folder: Some(folder), child: None };
        server.spawn();
        server
    }

    /// What the test calls this server.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The server's folder, gone with it.
    ///
    /// # Panics
    /// Never while the value lives.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("the folder lives as long as the server").path()
    }

    /// Where its Engine API listens.
    pub fn socket(&self) -> PathBuf {
        socket(self.folder())
    }

    /// All it ever printed, over its restarts.
    pub fn log(&self) -> String {
        std::fs::read(self.folder().join("log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Whether it was started and neither killed nor stopped since.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// The process id.
    ///
    /// # Panics
    /// If it does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// Sends one request to its Engine API.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn api(&self, method: &str, path: &str, body: Option<&str>) -> Answer {
        http::request(&self.socket(), method, path, body)
            .unwrap_or_else(|error| panic!("{}: {method} {path}: {error}", self.name))
    }

    /// Runs the first `docker` of this machine against it.
    ///
    /// # Panics
    /// If there is no such command.
    pub fn docker(&self, args: &[&str]) -> Output {
        Client::first().run(&self.socket(), args)
    }

    /// Kills it at once (`kill -9`), as a power cut would.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("running");
        let pid = pid_of(&child);
        killpg(pid, Signal::SIGKILL).expect("kill");
        child.wait().expect("the killed process");
    }

    /// Stops it in its tracks (SIGSTOP), until [`Self::go_on`]: it neither ends nor says a word, as a machine that hangs.
    ///
    /// # Panics
    /// If it does not run.
    pub fn hang(&self) {
        kill(pid_of(self.child.as_ref().expect("running")), Signal::SIGSTOP).expect("SIGSTOP");
    }

    /// Lets it go on after [`Self::hang`].
    ///
    /// # Panics
    /// If it does not run.
    pub fn go_on(&self) {
        kill(pid_of(self.child.as_ref().expect("running")), Signal::SIGCONT).expect("SIGCONT");
    }

    /// Asks it to end (SIGTERM) and waits for that.
    ///
    /// # Panics
    /// If it does not run, or does not end in time.
    pub fn stop(&mut self) -> ExitStatus {
        let child = self.child.take().expect("running");
        match end(child) {
            Some(status) => status,
            None => panic!("{}: still running {STOP_WITHIN:?} after SIGTERM", self.name),
        }
    }

    /// Starts it again with the same arguments and the same folder; returns how long it took until it answered.
    ///
    /// # Panics
    /// If it still runs, or does not answer in time.
    pub fn restart(&mut self) -> Duration {
        assert!(self.child.is_none(), "{} still runs", self.name);
        self.spawn()
    }

    /// Waits until its log has a line with `text`, among what it printed after `from` bytes (see [`Self::log_len`]).
    ///
    /// # Panics
    /// After `limit`, with the end of the log.
    pub fn logged(&self, from: usize, text: &str, limit: Duration) -> Duration {
        let what = format!("{}: a log line with {text:?}", self.name);
        let (_, took) = wait::until(&what, limit, || {
            let log = self.log();
            let new = log.get(from..).unwrap_or_default();
            if new.contains(text) { Ok(()) } else { Err(new.lines().rev().take(5).collect::<Vec<_>>().join("\n")) }
        });
        took
    }

    /// How much it has printed so far, in bytes.
    pub fn log_len(&self) -> usize {
        self.log().len()
    }

    fn spawn(&mut self) -> Duration {
        let log = File::options().create(true).append(true).open(self.folder().join("log")).expect("a log file");
        // A test that is killed (a time limit, say) runs no guard: the kernel ends its servers then.
        let mut command = match peer::find("setpriv") {
            Ok(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "TERM"]).arg(&self.program);
                command
            }
            Err(_) => Command::new(&self.program),
        };
        let child = command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .process_group(0)
            .spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("{}: {}: {error}", self.name, self.program.display())));
        self.wait_ready()
    }

    fn wait_ready(&mut self) -> Duration {
        let socket = self.socket();
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().expect("its state")) {
                self.child = None;
                panic!(
                    "{} ended at its start with {status} (signal {:?}):\n{}",
                    self.name,
                    status.signal(),
                    self.tail()
                );
            }
            match http::request(&socket, "GET", "/_ping", None) {
                Ok(answer) if answer.status == 200 => return start.elapsed(),
                _ if start.elapsed() > START_WITHIN => {
                    panic!("{}: no answer within {START_WITHIN:?}:\n{}", self.name, self.tail())
                }
                // Nothing announces that a socket begins to answer.
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            end(child);
        }
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            eprintln!("{}: kept {}; its log ends with:\n{}", self.name, folder.path().display(), {
                let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
                log.lines().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
            });
            let _kept: PathBuf = folder.keep();
        }
    }
}

/// Where a server with this folder listens.
pub(crate) fn socket(folder: &Path) -> PathBuf {
    folder.join("s")
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id"))
}

/// SIGTERM, then the exit status; or SIGKILL to its group after [`STOP_WITHIN`] and `None`.
fn end(mut child: Child) -> Option<ExitStatus> {
    let pid = pid_of(&child);
    // It may have ended by itself: no error then.
    let _ = kill(pid, Signal::SIGTERM);
    let start = Instant::now();
    while start.elapsed() < STOP_WITHIN {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = killpg(pid, Signal::SIGKILL);
    let _ = child.wait();
    None
}
