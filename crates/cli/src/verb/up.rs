//! `swarmpki up`: a daemon and `init` (or `join`) in one, in the foreground.

use std::time::{Duration, Instant};

use clap::Args;
use daemon::Host;

use super::Context;
use super::daemon::{DaemonArgs, Running};
use super::init::{self, InitArgs};
use super::join::{self, JoinArgs};
use super::join_token::how_to_join;
use crate::api::{Info, Node, Swarm};
use crate::args::Global;
use crate::client::{Client, Endpoint, escape};
use crate::failure::Failure;
use crate::notify;
use crate::output::complain;
use crate::spec::{self, SpecFlags};
use crate::token::TokenFile;

/// How long a restarted member may take to find its place before we say so.
const SETTLE_MAX: Duration = Duration::from_secs(20);
/// Pause between two looks at it.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Start a manager (or join one with --token) and stay in the foreground
#[derive(Args, Clone, Debug)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Join a swarm with this token instead of starting one
    #[arg(long, value_name = "STRING", requires = "manager")]
    token: Option<String>,
    #[command(flatten)]
    token_file: TokenFile,
    /// Address that other nodes reach this one at, <ip|interface>[:port]; that of the default route unless set
    #[arg(long, value_name = "STRING")]
    advertise_addr: Option<String>,
    /// Address to listen on for nodes, <ip|interface>[:port]
    #[arg(long, value_name = "NODE-ADDR", default_value = init::LISTEN_ADDR)]
    listen_addr: String,
    /// Availability of the node: active, pause or drain
    #[arg(long, value_name = "STRING")]
    availability: Option<String>,
    #[command(flatten)]
    spec: SpecFlags,
    /// With a token: a manager of the swarm to join
    #[arg(value_name = "HOST:PORT")]
    manager: Option<String>,
}

/// Starts the daemon, makes it a member if it is none, prints how others join, and stays until a signal.
pub(crate) async fn run(args: &UpArgs, global: &Global, context: &mut Context) -> Result<(), Failure> {
    let availability = spec::check_availability(args.availability.as_deref())?;
    let token_given = args.token_file.is_given(args.token.as_deref());
    if args.manager.is_none() && args.token_file.token_file.is_some() {
        return Err(Failure::new("a token needs a manager to join").hint("swarmpki up --token-file FILE HOST:PORT"));
    }
    if args.manager.is_some() && !token_given {
        return Err(Failure::new(
            "joining a swarm needs its token: --token is missing (or --token-file, or SWARMPKI_TOKEN)",
        )
        .hint(
            "'swarmpki join-token worker' on a manager shows it. Without HOST:PORT this starts a swarm of its own.",
        ));
    }
    let config = args.daemon.config(global)?;
    let hosts = config.hosts();
    let state_dir = config.state_dir.clone();
    let host =
        hosts.iter().find(|host| matches!(host, Host::Unix(_))).cloned().ok_or_else(|| {
            Failure::new("swarmpki up needs a unix socket").hint("Add one: -H unix:///run/swarmpki.sock")
        })?;
    let running = Running::start(config).await?;
    context.endpoint = Endpoint::plain(host);
    match member(args, availability, context).await {
        Ok(is_manager) => {
            notify::ready();
            if !context.out.json() {
                // A worker knows nothing of the other nodes.
                let look = if is_manager { "node ls" } else { "info" };
                context.out.line(format!("State: {}", state_dir.display()))?;
                context.out.line(format!("Look around with: swarmpki {}{look}", flag(&context.endpoint.host)))?;
                context.out.line("Stop with ctrl-C; start again with the same command.")?;
            }
            running.ended().await
        }
        Err(_) if running.shutdown.is_cancelled() => running.ended().await,
        Err(failure) => {
            running.shutdown.cancel();
            running.ended().await?;
            Err(failure)
        }
    }
}

/// Makes this machine a member if it is none; answers whether it is a manager.
async fn member(args: &UpArgs, availability: String, context: &mut Context) -> Result<bool, Failure> {
    let mut client = context.client().await?;
    let info: Info = client.get("/info").await?;
    if info.swarm.local_node_state != "inactive" {
        let info = settled(info, &mut client).await?;
        present(&info, &mut client, context).await?;
        return Ok(info.swarm.control_available);
    }
    if let Some(manager) = &args.manager {
        let token = args.token_file.token(args.token.as_deref())?.unwrap_or_default();
        let join = JoinArgs {
            token: String::new(),
            token_file: TokenFile::default(),
            advertise_addr: args.advertise_addr.clone(),
            listen_addr: args.listen_addr.clone(),
            availability: None,
            data_path_addr: String::new(),
            manager: manager.clone(),
        };
        let info = join::request(&join, &token, availability, &mut client).await?;
        present(&info, &mut client, context).await?;
        return Ok(info.swarm.control_available);
    }
    let init = InitArgs {
        advertise_addr: Some(args.advertise_addr.clone().unwrap_or_else(route_address)),
        listen_addr: args.listen_addr.clone(),
        spec: args.spec.clone(),
        ..InitArgs::default()
    };
    let node = init::request(&init, availability, &mut client).await.map_err(|failure| {
        if failure.text().contains("address already in use") {
            failure.hint("Another manager or engine listens there. Name another port: --listen-addr 0.0.0.0:2378")
        } else {
            failure
        }
    })?;
    init::report(&node, &mut client, context).await?;
    Ok(true)
}

/// Waits while a member that was restarted finds its place again; not for ever, since its managers may be away.
async fn settled(mut info: Info, client: &mut Client) -> Result<Info, Failure> {
    let deadline = Instant::now() + SETTLE_MAX;
    while info.swarm.local_node_state == "pending" && Instant::now() < deadline {
        tokio::time::sleep(LOOK_EVERY).await;
        info = client.get("/info").await?;
    }
    Ok(info)
}

/// Says what this machine already is.
async fn present(info: &Info, client: &mut Client, context: &mut Context) -> Result<(), Failure> {
    let swarm = &info.swarm;
    if swarm.local_node_state != "active" {
        let why = if swarm.error.is_empty() { "no manager answers yet" } else { &swarm.error };
        complain(format!("This machine is in a swarm, but {why}. It goes on trying. See: swarmpki info"));
    }
    let role = if swarm.control_available { "manager" } else { "worker" };
    if context.out.json() {
        return context.out.document(&serde_json::json!({"NodeID": info.swarm.node_id, "Role": role}));
    }
    context.out.line(format!("This machine is a {role} of a swarm: node {}.\n", info.swarm.node_id))?;
    if info.swarm.control_available {
        let swarm: Swarm = client.get("/swarm").await?;
        let node: Node = client.get(&format!("/nodes/{}", escape(&info.swarm.node_id))).await?;
        let addr = node.manager_status.map(|status| status.addr).unwrap_or_default();
        context.out.text(how_to_join("worker", &swarm.join_tokens.worker, &addr))?;
    }
    Ok(())
}

/// The `-H` that others need to reach this daemon; empty if it is where they look anyway.
fn flag(host: &Host) -> String {
    if daemon::DaemonConfig::default_hosts(false).contains(host) { String::new() } else { format!("-H {host} ") }
}

/// The address of this machine on its default route; without one, loopback. Nothing is sent.
fn route_address() -> String {
    // Any address beyond the local networks will do: these are for documentation (RFC 5737, RFC 3849).
    for (from, to) in [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")] {
        let found = std::net::UdpSocket::bind(from).and_then(|socket| {
            socket.connect(to)?;
            socket.local_addr()
        });
        if let Ok(address) = found
            && !address.ip().is_unspecified()
        {
            return address.ip().to_string();
        }
    }
    "127.0.0.1".to_owned()
}
