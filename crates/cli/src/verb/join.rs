//! `swarmpki join`: makes this machine a node of a cluster that exists.

use clap::Args;
use serde_json::json;

use super::Context;
use super::init::LISTEN_ADDR;
use crate::api::{Info, JoinRequest};
use crate::client::Client;
use crate::failure::Failure;
use crate::spec;
use crate::token::TokenFile;

/// Join a swarm as a worker or a manager, as the token says
#[derive(Args, Clone, Debug)]
pub(crate) struct JoinArgs {
    /// Token for entry into the swarm: 'swarmpki join-token worker' on a manager shows it
    #[arg(long, value_name = "STRING", default_value = "", hide_default_value = true)]
    pub(crate) token: String,
    #[command(flatten)]
    pub(crate) token_file: TokenFile,
    /// Address that other nodes reach this one at, <ip|interface>[:port]
    #[arg(long, value_name = "STRING")]
    pub(crate) advertise_addr: Option<String>,
    /// Address to listen on if this node is a manager, <ip|interface>[:port]
    #[arg(long, value_name = "NODE-ADDR", default_value = LISTEN_ADDR)]
    pub(crate) listen_addr: String,
    /// Availability of the node: active, pause or drain
    #[arg(long, value_name = "STRING")]
    pub(crate) availability: Option<String>,
    /// Address or interface for data path traffic; kept for docker's sake
    #[arg(long, value_name = "STRING", hide = true, default_value = "")]
    pub(crate) data_path_addr: String,
    /// A manager of the swarm
    #[arg(value_name = "HOST:PORT")]
    pub(crate) manager: String,
}

/// Joins and says as what.
pub(crate) async fn run(args: &JoinArgs, context: &mut Context) -> Result<(), Failure> {
    let availability = spec::check_availability(args.availability.as_deref())?;
    let token = args.token_file.token(Some(&args.token))?.unwrap_or_default();
    if token.is_empty() {
        return Err(Failure::new("no join token was given")
            .hint("'swarmpki join-token worker' on a manager shows it: --token-file FILE, or SWARMPKI_TOKEN."));
    }
    let mut client = context.client().await?;
    let info = request(args, &token, availability, &mut client).await?;
    let role = if info.swarm.control_available { "manager" } else { "worker" };
    if context.out.json() {
        return context.out.document(&json!({"NodeID": info.swarm.node_id, "Role": role}));
    }
    context.out.line(format!("This node joined a swarm as a {role}."))
}

/// Asks the daemon to join with this token, whatever the arguments say of it; returns what it then is.
pub(crate) async fn request(
    args: &JoinArgs,
    token: &str,
    availability: String,
    client: &mut Client,
) -> Result<Info, Failure> {
    let request = JoinRequest {
        listen_addr: args.listen_addr.clone(),
        advertise_addr: args.advertise_addr.clone().unwrap_or_default(),
        data_path_addr: args.data_path_addr.clone(),
        remote_addrs: vec![args.manager.clone()],
        join_token: token.to_owned(),
        availability,
    };
    client.post("/swarm/join", Some(&request)).await?;
    client.get("/info").await
}
