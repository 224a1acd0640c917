//! The stock `docker` command.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::peer;

/// No command of a test takes longer: a join gives up after 20 s.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);

/// One `docker` program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    program: PathBuf,
}

impl Client {
    /// The `docker` that a person on this machine would run.
    ///
    /// # Panics
    /// If there is none: ask [`require_or_skip!`](crate::require_or_skip) first.
    pub fn first() -> Self {
        Self { program: peer::find("docker").expect("docker, after require_or_skip!(\"docker\")") }
    }

    /// Every `docker` on this machine, in the order of the search path: a test that holds for all of them says so for each version there is.
    pub fn all() -> Vec<Self> {
        peer::all("docker").into_iter().map(|program| Self { program }).collect()
    }

    /// What it calls itself: `Docker version 20.10.24+dfsg1, build 297e128`.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn version(&self) -> String {
        run(Command::new(&self.program).arg("--version")).ok()
    }

    /// Runs it against the API at `socket`, with nothing of this machine's own settings.
    ///
    /// # Panics
    /// If it cannot be run or does not end in a minute.
    pub fn run(&self, socket: &Path, args: &[&str]) -> Output {
        let folder = socket.parent().expect("a socket in a folder").join("docker-config");
        let host = format!("unix://{}", socket.display());
        self.run_in(&folder, &[], &[&["-H", host.as_str()], args].concat())
    }

    /// Runs it in `folder`, where its settings are too, with these variables and nothing else of this machine's own settings.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn run_in(&self, folder: &Path, env: &[(&str, &str)], args: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        let own = [
            "DOCKER_HOST",
            "DOCKER_CONTEXT",
            "DOCKER_TLS",
            "DOCKER_TLS_VERIFY",
            "DOCKER_CERT_PATH",
            "DOCKER_API_VERSION",
        ];
        for name in own {
            command.env_remove(name);
        }
        if folder.is_dir() {
            command.current_dir(folder);
        }
        run(command.env("DOCKER_CONFIG", folder).envs(env.iter().copied()).args(args))
    }
}

/// What a command left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The command line, for messages.
    pub line: String,
    /// Its exit code; −1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Output {
    /// Standard output without blanks around it.
    ///
    /// # Panics
    /// If the command failed.
    pub fn ok(&self) -> String {
        assert_eq!(self.code, 0, "{}\nstdout: {}\nstderr: {}", self.line, self.stdout, self.stderr);
        self.stdout.trim().to_owned()
    }

    /// Standard error without blanks around it.
    ///
    /// # Panics
    /// If the command did not fail with exit code 1.
    pub fn refused(&self) -> String {
        assert_eq!(self.code, 1, "{}\nstdout: {}\nstderr: {}", self.line, self.stdout, self.stderr);
        self.stderr.trim().to_owned()
    }
}

/// Runs a command to its end with no standard input.
///
/// # Panics
/// If it cannot be run or does not end in a minute.
pub fn run(command: &mut Command) -> Output {
    let line = format!("{command:?}");
    let start = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.unwrap_or_else(|error| panic!("{line}: {error}"));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    // The reader owns the child; its answer, or the limit, whichever is first.
    let (done, ended) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || done.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(COMMAND_WITHIN) else {
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        panic!("{line}: still running after {COMMAND_WITHIN:?}");
    };
    let _ = reader.join();
    let output = output.unwrap_or_else(|error| panic!("{line}: {error}"));
    Output {
        line,
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: start.elapsed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_keeps_both_streams_and_the_code() {
        let output = run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 1"]));
        assert_eq!((output.code, output.stdout.as_str()), (1, "out\n"));
        assert_eq!(output.refused(), "err");
    }

    #[test]
    #[should_panic(expected = "stderr: no")]
    fn ok_refuses_a_failure() {
        run(Command::new("sh").args(["-c", "echo no >&2; exit 3"])).ok();
    }
}
