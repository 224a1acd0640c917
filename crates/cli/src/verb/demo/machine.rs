//! The demo's machines: daemons as child processes, in one temporary folder.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use daemon::Host;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pki::bundle::TrustBundle;
use pki::certificate::Certificate;
use pki::chain;
use pki::time::Time;
use tokio::process::{Child, Command};

use crate::client::{Client, Endpoint};
use crate::failure::Failure;

/// Pause between two looks at something that takes a moment.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Longest wait for anything; far above what a slow machine needs.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a daemon may take to end before it is killed.
const END_WITHIN: Duration = Duration::from_secs(10);
/// Lines of a daemon's log shown when a step fails.
const LAST_LINES: usize = 5;

/// The folder and the machines in it.
pub(super) struct Stage {
    dir: PathBuf,
    machines: Vec<Machine>,
}

/// One daemon.
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) host: Host,
    state: PathBuf,
    log: PathBuf,
    child: Child,
}

/// A node's certificate, checked against the root that the node trusts.
pub(super) struct Held {
    pub(super) leaf: Certificate,
    pub(super) issuer: String,
}

impl Stage {
    /// Makes the folder, readable by nobody else.
    pub(super) fn build() -> Result<Self, Failure> {
        let dir = std::env::temp_dir().join(format!("swarmpki-demo-{}", std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .map_err(|error| Failure::new(format!("cannot make the folder {}: {error}", dir.display())))?;
        Ok(Self { dir, machines: Vec::new() })
    }

    /// The folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts a daemon and waits until it answers.
    pub(super) async fn start(&mut self, name: &str) -> Result<(), Failure> {
        let host = Host::Unix(self.dir.join(format!("{name}.sock")));
        let (state, log) = (self.dir.join(name), self.dir.join(format!("{name}.log")));
        let failed = |error: std::io::Error| Failure::new(format!("cannot start the daemon of {name}: {error}"));
        let child = Command::new(std::env::current_exe().map_err(failed)?)
            .arg("daemon")
            .arg("--state-dir")
            .arg(&state)
            .args(["-H", &host.to_string(), "--hostname", name])
            .env_remove("NOTIFY_SOCKET")
            .env_remove("SWARMPKI_HOST")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).map_err(failed)?)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        self.machines.push(Machine { name: name.to_owned(), host: host.clone(), state, log, child });
        let machine = self.machines.last_mut();
        let Some(machine) = machine else { return Ok(()) };
        let deadline = Instant::now() + PATIENCE;
        loop {
            if Client::connect(&Endpoint::plain(host.clone())).await.is_ok() {
                return Ok(());
            }
            if let Some(status) = machine.child.try_wait().map_err(failed)? {
                return Err(Failure::new(format!("the daemon of {name} ended at once ({status})")));
            }
            if Instant::now() > deadline {
                return Err(Failure::new(format!("the daemon of {name} does not answer")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A machine by name.
    pub(super) fn machine(&self, name: &str) -> Result<&Machine, Failure> {
        self.machines
            .iter()
            .find(|machine| machine.name == name)
            .ok_or_else(|| Failure::new(format!("there is no machine {name}")))
    }

    /// What the daemons logged last, for a failure's text.
    pub(super) fn last_words(&self) -> String {
        let mut words = String::new();
        for machine in &self.machines {
            let log = fs::read_to_string(&machine.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            for line in lines.iter().skip(lines.len().saturating_sub(LAST_LINES)) {
                words.push_str(&format!("\n  {}: {line}", machine.name));
            }
        }
        words
    }

    /// Ends the daemons and removes the folder, unless it is to be kept: then returns it.
    pub(super) async fn clear(mut self, keep: bool) -> Result<Option<PathBuf>, Failure> {
        for machine in &self.machines {
            machine.ask_to_end();
        }
        let mut slow = Vec::new();
        for machine in &mut self.machines {
            if tokio::time::timeout(END_WITHIN, machine.child.wait()).await.is_err() {
                slow.push(machine.name.clone());
                // It is past asking; whether the signal arrives changes nothing for us.
                let _ = machine.child.kill().await;
            }
        }
        if keep {
            return Ok(Some(self.dir));
        }
        fs::remove_dir_all(&self.dir)
            .map_err(|error| Failure::new(format!("cannot remove {}: {error}", self.dir.display())))?;
        if slow.is_empty() {
            Ok(None)
        } else {
            Err(Failure::new(format!("had to kill the daemon of {}", slow.join(", "))))
        }
    }
}

impl Machine {
    /// A connection to its daemon.
    pub(super) async fn client(&self) -> Result<Client, Failure> {
        Client::connect(&Endpoint::plain(self.host.clone())).await
    }

    /// Its certificate as it lies on disk, checked against the root beside it.
    pub(super) fn certificate(&self) -> Result<Held, Failure> {
        let failed = |what: String| Failure::new(format!("the certificate of {} does not hold: {what}", self.name));
        let read = |name: &str| {
            let path = self.state.join("certificates").join(name);
            fs::read(&path).map_err(|error| failed(format!("{}: {error}", path.display())))
        };
        let (chain_pem, root_pem) = (read("swarm-node.crt")?, read("swarm-root-ca.crt")?);
        let now = Time::from(std::time::SystemTime::now());
        let trust = TrustBundle::parse(&root_pem, now).map_err(|error| failed(error.to_string()))?;
        let validated = chain::validate(&chain_pem, &trust, false, now).map_err(|error| failed(error.to_string()))?;
        let leaf = validated.chain.first().cloned().ok_or_else(|| failed("there is none".to_owned()))?;
        let root = trust.certificates().first();
        Ok(Held { leaf, issuer: root.map(Certificate::common_name).unwrap_or_default() })
    }

    fn ask_to_end(&self) {
        if let Some(id) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            // A process that has ended already needs no signal.
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
    }
}

/// Looks again and again until there is something to see.
pub(super) async fn until<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await? {
            return Ok(seen);
        }
        if Instant::now() > deadline {
            return Err(Failure::new(format!("waited {} seconds in vain for {what}", PATIENCE.as_secs())));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A TCP port on loopback that nobody listens on.
pub(super) fn free_port() -> Result<u16, Failure> {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| Failure::new(format!("no free port on loopback: {error}")))
}
