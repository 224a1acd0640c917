//! The command line: verbs, and the flags that all of them take.

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use daemon::Host;
use daemon::config::{HostError, default_socket};

use crate::client::Endpoint;
use crate::failure::Failure;
use crate::tls::TlsFlags;
use crate::verb;

/// Names the daemon to talk to, as `-H` does.
const HOST_VARIABLE: &str = "SWARMPKI_HOST";

/// Docker swarm mode's cluster CA as a program of its own
#[derive(Parser, Debug)]
#[command(name = "swarmpki", version, propagate_version = false, arg_required_else_help = true)]
#[command(disable_help_subcommand = true, max_term_width = 100, subcommand_value_name = "COMMAND")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of all verbs.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Daemon's address: unix://PATH or tcp://HOST:PORT
    // Also from the environment: SWARMPKI_HOST. The daemon itself listens there; it takes the flag more than once.
    #[arg(short = 'H', long = "host", value_name = "HOST", global = true, action = ArgAction::Append)]
    pub(crate) hosts: Vec<Host>,
    #[command(flatten)]
    pub(crate) tls: TlsFlags,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Log lines as text or json
    #[arg(long, value_name = "FORMAT", global = true, value_enum, default_value_t = LogFormat::Text, hide_possible_values = true)]
    pub(crate) log_format: LogFormat,
    /// error, warn, info, debug or trace
    // Or filters such as info,manager=debug.
    #[arg(long, value_name = "LEVEL", global = true, default_value = "info")]
    pub(crate) log_level: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// The verbs.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Backup(verb::backup::BackupArgs),
    #[command(subcommand, arg_required_else_help = true, subcommand_value_name = "COMMAND")]
    Bench(verb::bench::BenchCommand),
    Ca(verb::ca::CaArgs),
    /// Issue and revoke certificates of those who command the swarm
    #[command(subcommand, arg_required_else_help = true, subcommand_value_name = "COMMAND")]
    Cert(verb::cert::CertCommand),
    Check(verb::check::CheckArgs),
    Completion(verb::completion::CompletionArgs),
    Crl(verb::crl::CrlArgs),
    Daemon(verb::daemon::DaemonArgs),
    Demo(verb::demo::DemoArgs),
    /// Show what this machine is in its swarm, and its certificate
    Info,
    Init(verb::init::InitArgs),
    Join(verb::join::JoinArgs),
    JoinToken(verb::join_token::JoinTokenArgs),
    Leave(verb::leave::LeaveArgs),
    Log(verb::log::LogArgs),
    Man(verb::man::ManArgs),
    /// Manage nodes
    #[command(subcommand, arg_required_else_help = true, subcommand_value_name = "COMMAND")]
    Node(verb::node::NodeCommand),
    /// The process that holds a PKCS#11 module: started by others of this program
    #[command(name = crate::token_flags::MODULE_VERB, hide = true)]
    Pkcs11Module,
    Restore(verb::restore::RestoreArgs),
    Revoke(verb::revoke::RevokeArgs),
    /// Make, list and revoke join tokens with limits
    #[command(subcommand, arg_required_else_help = true, subcommand_value_name = "COMMAND")]
    Token(verb::token::TokenCommand),
    Unlock(verb::unlock::UnlockArgs),
    UnlockKey(verb::unlock_key::UnlockKeyArgs),
    Up(verb::up::UpArgs),
    Update(verb::update::UpdateArgs),
    /// Show the versions of this command and of the daemon
    Version,
}

impl Global {
    /// The addresses given, by flag or environment; empty: none was.
    pub(crate) fn hosts(&self) -> Result<Vec<Host>, Failure> {
        if !self.hosts.is_empty() {
            return Ok(self.hosts.clone());
        }
        match std::env::var(HOST_VARIABLE) {
            Ok(text) if !text.is_empty() => text
                .parse()
                .map(|host| vec![host])
                .map_err(|error: HostError| Failure::flag(HOST_VARIABLE, &text, error)),
            _ => Ok(Vec::new()),
        }
    }

    /// The one daemon to talk to, and how.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, Failure> {
        let (host, named) = match self.hosts()?.as_slice() {
            [] => (Host::Unix(default_socket()), false),
            [host] => (host.clone(), true),
            _ => return Err(Failure::new("Specify only one -H")),
        };
        let tls = self.tls.client(&host)?;
        Ok(Endpoint { host, tls, named })
    }
}
