//! `swarmpki ca serve`: the external CA of a Docker swarm, in the foreground; [`log`] prints what it issued, [`permit`] lets
//! it certify another CA once, [`refuse`] shuts a manager out.

mod log;
mod permit;
mod refuse;

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use authority::{Authority, Config, Listeners};
use clap::{Args, Subcommand};
use daemon::TokenAccess;
use nix::sys::resource::{Resource, setrlimit};
use pkcs11::{Module, ModuleConfig};
use pki::certificate::Certificate;
use pki::identity::ClusterId;
use pki::issue::LEAF_EXPIRY_DEFAULT;
use pki::key::{PrivateKey, Signer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::CaArgs;
use crate::failure::Failure;
use crate::go_duration;
use crate::output::Output;
use crate::root_files::{self, KeyText};
use crate::token_flags::TokenFlags;
use crate::{notify, signals, spec};

/// Permission bits that a file with a key must not have, as for a PIN's: a service manager may hand it to the group.
const EXPOSED: u32 = 0o027;

/// Serve as the external CA of a Docker swarm: its managers ask for their nodes' certificates over CFSSL
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true, subcommand_value_name = "COMMAND")]
pub(crate) struct ServeArgs {
    #[command(subcommand)]
    command: Option<ServeCommand>,
    /// Where to answer, HOST:PORT; the host is a name of the server's certificate
    #[arg(long, value_name = "ADDR", required = true)]
    listen: Option<String>,
    /// File with the PEM certificate of the root that this CA signs as
    #[arg(long, value_name = "FILE", required = true, value_parser = spec::read_pem)]
    ca_cert: Option<String>,
    /// File with its PEM key; other users must not be able to read it
    #[arg(long, value_name = "FILE", required_unless_present = "pkcs11", value_parser = private_key)]
    ca_key: Option<KeyText>,
    /// PKCS#11 URI of its key, in a token
    #[arg(long, value_name = "URI", conflicts_with = "ca_key")]
    pkcs11: Option<String>,
    #[command(flatten)]
    token: TokenFlags,
    /// File with the password of an encrypted key, - for standard input; asked for on a terminal
    #[arg(long, value_name = "FILE")]
    ca_key_password_file: Option<PathBuf>,
    /// File with the root that the swarm has now: its managers are let in until a day after the first has a certificate of
    /// this CA
    #[arg(long, value_name = "FILE", value_parser = spec::read_pem)]
    trust: Option<String>,
    /// Id of the swarm to serve; that of the first manager that comes unless set
    #[arg(long, value_name = "ID")]
    cluster: Option<ClusterId>,
    #[command(flatten)]
    state: StateArgs,
    /// Another name or address of this server, for its certificate; may be repeated
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// Validity period for node certificates (ns|us|ms|s|m|h|d), at least 1h; 90d unless set
    #[arg(long, value_name = "DURATION", value_parser = go_duration::parse)]
    cert_expiry: Option<Duration>,
    /// Validity period of a cross-signed certificate, no less than that of nodes'; twice that unless set
    #[arg(long, value_name = "DURATION", value_parser = go_duration::parse)]
    cross_sign_expiry: Option<Duration>,
    /// Requests a second that one manager may make for long, and ten times as many at once
    #[arg(long, value_name = "NUMBER", default_value_t = authority::RATE_DEFAULT)]
    rate: u32,
    /// Certificates a second for all managers together for long, and ten times as many at once
    #[arg(long, value_name = "NUMBER", default_value_t = authority::RATE_ALL_DEFAULT)]
    rate_all: u32,
    /// Certificates in an hour above which the messages hold the alarm many-issuances
    #[arg(long, value_name = "NUMBER", default_value_t = authority::MANY_DEFAULT)]
    alarm_above: u32,
    /// Loopback address to answer /metrics on, in Prometheus' format
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
}

/// Where the state lies; the same for all verbs of `ca serve`.
#[derive(Args, Clone, Debug)]
struct StateArgs {
    /// Where the issuance log lies: /var/lib/swarmpki-ca for root, ~/.local/state/swarmpki-ca for others unless set
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl StateArgs {
    fn dir(&self) -> PathBuf {
        let beside = || daemon::config::default_state_dir().with_file_name("swarmpki-ca");
        self.state_dir.clone().unwrap_or_else(beside)
    }

    /// The same, for verbs that speak to a server by what they put there.
    fn of_a_server(&self) -> Result<PathBuf, Failure> {
        let dir = self.dir();
        if dir.join(authority::log::FILE_NAME).is_file() {
            return Ok(dir);
        }
        Err(Failure::new(format!("{} is not the state directory of a swarmpki ca serve", dir.display()))
            .hint("Name the one it was started with: --state-dir DIR"))
    }
}

/// The verbs of `ca serve`.
#[derive(Subcommand, Clone, Debug)]
enum ServeCommand {
    AllowCrossSign(permit::PermitArgs),
    Log(log::LogArgs),
    Refuse(refuse::RefuseArgs),
}

/// Serves until a signal ends it, or carries out one of its verbs.
pub(crate) async fn run(args: &CaArgs, out: &mut Output) -> Result<(), Failure> {
    let Some(args) = args.serve() else { return Ok(()) };
    match &args.command {
        Some(ServeCommand::AllowCrossSign(args)) => permit::run(args, out),
        Some(ServeCommand::Log(args)) => log::run(args, out),
        Some(ServeCommand::Refuse(args)) => refuse::run(args, out),
        None => serve(args).await,
    }
}

/// Reads the CA's key, if it is its owner's alone.
fn private_key(path: &str) -> Result<KeyText, String> {
    let mode = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|found| found.mode() & 0o7777);
    if let Some(mode) = mode.filter(|mode| mode & EXPOSED != 0) {
        return Err(format!("the file has mode {mode:04o}: other users can read or change the CA's key, set 0400"));
    }
    root_files::read_key(path)
}

/// Keeps this process, which holds a CA's key, from leaving it in a core dump or showing it to a debugger.
fn keep_memory_private() -> Result<(), Failure> {
    let failed = |error| Failure::new(format!("cannot rule out core dumps, which would hold the CA's key: {error}"));
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(failed)?;
    nix::sys::prctl::set_dumpable(false).map_err(failed)
}

async fn serve(args: &ServeArgs) -> Result<(), Failure> {
    if args.ca_key.is_some() {
        keep_memory_private()?;
    }
    if let Some(metrics) = args.metrics
        && !metrics.ip().is_loopback()
    {
        return Err(Failure::flag("--metrics", &metrics.to_string(), "must be a loopback address: it is in clear"));
    }
    // clap has made sure of them; without a subcommand they are required.
    let listen = args.listen.as_deref().unwrap_or_default();
    let (host, _) = listen.rsplit_once(':').ok_or_else(|| Failure::flag("--listen", listen, "must be HOST:PORT"))?;
    let config = config(args, host)?;
    let bound = |address: &str, error: std::io::Error| Failure::new(format!("cannot listen on {address}: {error}"));
    let managers = TcpListener::bind(listen).await.map_err(|error| bound(listen, error))?;
    let metrics = match args.metrics {
        Some(address) => Some(TcpListener::bind(address).await.map_err(|error| bound(&address.to_string(), error))?),
        None => None,
    };
    let address = managers.local_addr().map_err(|error| bound(listen, error))?;
    let authority = Arc::new(Authority::open(config).map_err(|error| Failure::new(error.to_string()))?);
    let shutdown = CancellationToken::new();
    signals::watch(shutdown.clone())?;
    let stopping = shutdown.clone();
    tokio::spawn(async move {
        stopping.cancelled().await;
        notify::stopping();
    });
    let ready = || {
        tracing::info!(%address, "serving: https://{address}/api/v1/cfssl/sign");
        notify::ready();
    };
    let ended = authority::serve(authority, Listeners { managers, metrics }, ready, shutdown).await;
    ended.map_err(|error| Failure::new(error.to_string()))
}

fn config(args: &ServeArgs, host: &str) -> Result<Config, Failure> {
    let certificate = certificates("--ca-cert", args.ca_cert.as_deref())?;
    let [certificate] = certificate.as_slice() else {
        return Err(Failure::new("--ca-cert must hold one certificate, the root's"));
    };
    let mut config = Config::new(certificate.clone(), signer(args, certificate)?, args.state.dir());
    config.signer_waits = args.pkcs11.is_some();
    config.former = certificates("--trust", args.trust.as_deref())?;
    config.cluster.clone_from(&args.cluster);
    config.names = std::iter::once(host).chain(args.name.iter().map(String::as_str)).map(str::to_owned).collect();
    config.names.retain(|name| !name.is_empty());
    config.cert_expiry = args.cert_expiry.unwrap_or(LEAF_EXPIRY_DEFAULT);
    config.cross_sign_expiry = args.cross_sign_expiry.unwrap_or(config.cert_expiry * 2);
    config.rate = args.rate;
    config.rate_all = args.rate_all;
    config.many = args.alarm_above;
    Ok(config)
}

fn signer(args: &ServeArgs, certificate: &Certificate) -> Result<Arc<dyn Signer>, Failure> {
    if let Some(uri) = &args.pkcs11 {
        return token_key(uri, &args.token, certificate);
    }
    let Some(key) = &args.ca_key else { return Err(Failure::new("the --ca-key flag is required")) };
    let pem = root_files::decrypted(key, args.ca_key_password_file.as_deref())?;
    let key = PrivateKey::from_pem(pem.as_bytes(), None)
        .map_err(|error| Failure::new(format!("the key of --ca-key cannot be used: {error}")))?;
    Ok(Arc::new(key))
}

/// The key in a token. The token is waited for; once found it may go and come again.
fn token_key(uri: &str, flags: &TokenFlags, certificate: &Certificate) -> Result<Arc<dyn Signer>, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(format!("the key of --pkcs11 cannot be used: {error}"));
    let TokenAccess { program, args, module, pin } = flags.access()?;
    let uri: pkcs11::Uri = uri.parse().map_err(|error| failed(&error))?;
    let config = ModuleConfig { uri: uri.clone(), module_path: module, pin, env: Vec::new() };
    let token = Module::spawn(&program, &args, config).map_err(|error| failed(&error))?;
    let key = token.find_named(&uri).map_err(|error| failed(&error))?;
    if certificate.public_key().is_ok_and(|public| public == key.public()) {
        Ok(Arc::new(key))
    } else {
        Err(failed(&"it is not that of --ca-cert"))
    }
}

fn certificates(flag: &str, pem: Option<&str>) -> Result<Vec<Certificate>, Failure> {
    let Some(pem) = pem else { return Ok(Vec::new()) };
    match Certificate::parse_pem_bundle(pem.as_bytes()) {
        Ok(certificates) if certificates.is_empty() => {
            Err(Failure::new(format!("the file of {flag} holds no certificate")))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(Failure::new(format!("the file of {flag} cannot be used: {error}"))),
    }
}
