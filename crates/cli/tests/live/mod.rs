//! `swarmpki up` as a child process, for tests that need a live manager.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, unreachable_pub)]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The program with nothing of this process's environment but a home.
pub fn program(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_swarmpki"));
    command.env_clear().env("HOME", home).env("TMPDIR", home).stdin(Stdio::null());
    command
}

/// A port that is free at this moment.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Sends a signal.
pub fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

/// A running `up`; killed when dropped.
pub struct Up {
    home: PathBuf,
    port: u16,
    flags: Vec<String>,
    child: Child,
    /// What it printed up to its last line.
    pub text: String,
}

impl Up {
    /// Starts it with its state in `home`, and waits until it says how to stop.
    pub fn start(home: &Path) -> Up {
        Self::with(home, free_port(), Vec::new())
    }

    /// The same with further flags.
    pub fn with(home: &Path, port: u16, flags: Vec<String>) -> Up {
        let addr = format!("127.0.0.1:{port}");
        let mut child = program(home)
            .args(["up", "--state-dir"])
            .arg(home.join("state"))
            .args(["-H", &format!("unix://{}", home.join("up.sock").display())])
            .args(["--listen-addr", &addr, "--advertise-addr", &addr])
            .args(&flags)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut text = String::new();
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap());
        while lines.read_line(&mut text).unwrap() > 0 {
            if text.ends_with("same command.\n") {
                return Up { home: home.to_owned(), port, flags, child, text };
            }
        }
        child.wait().unwrap();
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        panic!("up ended:\n{text}{errors}");
    }

    /// Ends it by `how` and starts it again.
    pub fn restart(mut self, how: Signal) -> Up {
        self.end(how);
        Self::with(&self.home, self.port, self.flags.clone())
    }

    /// Ends it by `how`.
    pub fn stop(mut self, how: Signal) {
        self.end(how);
    }

    fn end(&mut self, how: Signal) {
        signal(&self.child, how);
        let status = self.child.wait().unwrap();
        assert!(status.success() || how == Signal::SIGKILL, "{how} is a clean end");
    }

    /// Where nodes reach it.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The manager's own node id.
    pub fn node(&self) -> String {
        self.text.split(['(', ')']).nth(1).unwrap().to_owned()
    }

    /// Runs a verb on its socket; it must succeed.
    pub fn run(&self, arguments: &[&str]) -> String {
        let out = program(&self.home)
            .args(["-H", &format!("unix://{}", self.home.join("up.sock").display())])
            .args(arguments)
            .output()
            .unwrap();
        assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// A join token.
    pub fn token(&self, role: &str) -> String {
        self.run(&["join-token", "--quiet", role]).trim().to_owned()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
