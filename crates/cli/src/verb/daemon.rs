//! `swarmpki daemon`: what a machine runs. It is nothing, a worker or a manager, as the other verbs make it.

use std::path::PathBuf;

use clap::Args;
use daemon::{Daemon, DaemonConfig, RunError, UnlockSource};
use nix::unistd::{Gid, Group};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::args::Global;
use crate::failure::Failure;
use crate::token_flags::TokenFlags;
use crate::{notify, signals};

/// Run the daemon of this machine
#[derive(Args, Clone, Debug)]
pub(crate) struct DaemonArgs {
    /// Where the node's state lies: /var/lib/swarmpki for root, ~/.local/state/swarmpki for others unless set
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Name of this node in lists; the machine's unless set
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Group, by name or number, that may use the unix sockets
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Where a locked manager's unlock key is: file:PATH, fd:NUMBER or command:COMMAND; read when it starts, and only then
    // Else the service manager's credential swarmpki-unlock-key, if there is one.
    #[arg(long, value_name = "SOURCE")]
    unlock_from: Option<UnlockSource>,
    /// Serve lists of revoked certificates (CRL) and answers about them (OCSP) over plain HTTP, HOST:PORT
    #[arg(long, value_name = "ADDR")]
    revocation_listen: Option<String>,
    #[command(flatten)]
    tokens: TokenFlags,
}

impl DaemonArgs {
    /// The daemon's configuration.
    pub(crate) fn config(&self, global: &Global) -> Result<DaemonConfig, Failure> {
        let mut config = DaemonConfig {
            hosts: global.hosts()?,
            tls: global.tls.server()?,
            plain_tcp: global.tls.refused(),
            hostname: self.hostname.clone(),
            group: self.group.as_deref().map(group).transpose()?,
            keys: self.tokens.keys()?,
            unlock_from: self.unlock_from.clone().or_else(UnlockSource::credential),
            revocation_listen: self.revocation_listen.clone(),
            ..DaemonConfig::default()
        };
        if let Some(dir) = &self.state_dir {
            config.state_dir.clone_from(dir);
        }
        Ok(config)
    }
}

/// A group by its name, else by its number.
fn group(given: &str) -> Result<Gid, Failure> {
    let failed = |reason: &str| Failure::flag("--group", given, reason);
    match Group::from_name(given) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => given.parse().map(Gid::from_raw).map_err(|_| failed("there is no such group: groupadd makes one")),
        Err(error) => Err(failed(error.desc())),
    }
}

/// Runs until a signal ends it; SIGHUP has it read the files of TLS again.
pub(crate) async fn run(args: &DaemonArgs, global: &Global) -> Result<(), Failure> {
    let config = args.config(global)?;
    signals::watch_for_reload(config.reload.clone())?;
    let running = Running::start(config).await?;
    notify::ready();
    running.ended().await
}

/// A daemon in this process.
pub(crate) struct Running {
    task: JoinHandle<Result<(), RunError>>,
    /// Ends the daemon; signals cancel it too.
    pub(crate) shutdown: CancellationToken,
}

impl Running {
    /// Starts it, and listens for signals. It answers from now on.
    pub(crate) async fn start(config: DaemonConfig) -> Result<Self, Failure> {
        let shutdown = CancellationToken::new();
        signals::watch(shutdown.clone())?;
        let daemon = Daemon::start(config, shutdown.clone()).await.map_err(|error| ended_by(&error))?;
        Ok(Self { task: tokio::spawn(daemon.serve()), shutdown })
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> Result<(), Failure> {
        let ended = tokio::select! {
            () = self.shutdown.cancelled() => {
                notify::stopping();
                self.task.await
            }
            ended = &mut self.task => ended,
        };
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(ended_by(&error)),
            Err(error) => Err(Failure::new(format!("the daemon broke off: {error}"))
                .hint("This is a defect: please report it with the log above.")),
        }
    }
}

/// The daemon's error with its causes, as far as it does not name them itself.
fn ended_by(error: &RunError) -> Failure {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(&format!(": {cause_text}"));
        }
        source = cause.source();
    }
    Failure::new(text)
}
