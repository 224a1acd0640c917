//! `swarmpki ca serve` as a guard: the external CA of a test's swarm.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use testkit::daemon;
use testkit::docker::{Output, run};

use crate::rotation::GivenRoot;

/// How long it may take to answer, and to end.
const WITHIN: Duration = Duration::from_secs(30);

/// A running `swarmpki ca serve`, or one that can be started again.
pub struct Outside {
    folder: tempfile::TempDir,
    args: Vec<String>,
    child: Option<Child>,
    addr: SocketAddr,
}

impl Outside {
    /// Starts it as `root` for a swarm whose root is `trust` (PEM) now.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn start(addr: SocketAddr, root: &GivenRoot, trust: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("swarmpki-").tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
        std::fs::write(path("trust.pem"), trust).expect("a file");
        // The command takes no key that others can read.
        std::fs::set_permissions(root.key_path(), std::fs::Permissions::from_mode(0o600)).expect("a key of our own");
        let args = [
            ["--listen", &addr.to_string()],
            ["--ca-cert", &root.path()],
            ["--ca-key", &root.key_path()],
            ["--trust", &path("trust.pem")],
            ["--state-dir", &path("state")],
        ];
        let args = args.concat().into_iter().map(str::to_owned).collect();
        let mut outside = Self { folder, args, child: None, addr };
        outside.go_on();
        outside
    }

    /// Where its signing endpoint is.
    pub fn url(&self) -> String {
        format!("https://{}/api/v1/cfssl/sign", self.addr)
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Starts it (again) and waits until it says that it answers.
    ///
    /// # Panics
    /// If it does not.
    pub fn go_on(&mut self) {
        let notify = self.folder.path().join("notify");
        let _absent = std::fs::remove_file(&notify);
        let told = UnixDatagram::bind(&notify).expect("a socket");
        told.set_read_timeout(Some(WITHIN)).expect("a time-out");
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log");
        let program = daemon::program().expect("swarmpki, after require_or_skip!(\"swarmpki\")");
        let child = Command::new(program)
            .args(["ca", "serve"])
            .args(&self.args)
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("swarmpki ca serve"));
        let mut word = [0; 16];
        let length = told.recv(&mut word).unwrap_or_else(|error| panic!("it does not start: {error}\n{}", self.log()));
        assert_eq!(&word[..length], b"READY=1");
    }

    /// Asks it to end, and waits.
    ///
    /// # Panics
    /// If it does not, or not well.
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("running");
        kill(pid(&child), Signal::SIGTERM).expect("SIGTERM");
        let ended = child.wait().expect("its end");
        assert!(ended.success(), "{ended}\n{}", self.log());
    }

    /// Kills it at once (`kill -9`).
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("running");
        child.kill().expect("kill");
        child.wait().expect("its end");
    }

    /// Runs `swarmpki ca serve ARGS --state-dir …`.
    ///
    /// # Panics
    /// If it cannot be run.
    pub fn verb(&self, args: &[&str]) -> Output {
        let mut command = Command::new(daemon::program().expect("swarmpki"));
        run(command.args(["ca", "serve"]).args(args).arg("--state-dir").arg(self.state()))
    }

    /// What it issued, as `ca serve log --json` prints it, of one kind: `leaf`, `cross-signed`, `server`.
    ///
    /// # Panics
    /// If that fails.
    pub fn issued(&self, kind: &str) -> Vec<Value> {
        let printed = self.verb(&["log", "--json"]).ok();
        let all = printed.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        all.filter(|entry| entry["kind"] == kind).collect()
    }

    /// Whether a certificate of this serial number (hex) was issued to a node.
    pub fn holds(&self, serial: &str) -> bool {
        let plain = |text: &str| text.to_ascii_lowercase().trim_start_matches('0').to_owned();
        self.issued("leaf").iter().any(|entry| entry["serial"].as_str().map(plain) == Some(plain(serial)))
    }

    /// All it ever said, over its restarts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        Path::new(self.folder.path()).join("log")
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the external CA said:\n{}", self.log());
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id"))
}
