//! `swarmpki join-token`: shows or replaces the token that lets nodes join.

use clap::Args;
use serde_json::{Value, json};

use super::Context;
use crate::api::{Info, Node, Swarm};
use crate::client::escape;
use crate::failure::Failure;
use crate::go_bool;
use crate::shown;

/// How join tokens begin. Source: pki.md 6.
const TOKEN_BEGINS: &str = "SWMTKN-";

/// Show or rotate the token that lets nodes join
#[derive(Args, Clone, Debug)]
#[command(mut_args(go_bool::flags(&["rotate", "quiet"])))]
pub(crate) struct JoinTokenArgs {
    /// Replace the token; the old one lets nobody in any more
    #[arg(long)]
    rotate: bool,
    /// Only display the token
    #[arg(short, long)]
    quiet: bool,
    /// The role that the token gives: worker or manager
    #[arg(value_name = "worker|manager")]
    role: String,
}

/// Shows the token, after replacing it if asked.
pub(crate) async fn run(args: &JoinTokenArgs, context: &mut Context) -> Result<(), Failure> {
    let role = args.role.as_str();
    if role != "worker" && role != "manager" {
        return Err(Failure::new(format!("unknown role {}", shown::field(role))));
    }
    let mut client = context.client().await?;
    let swarm: Swarm = client.get("/swarm").await?;
    let mut swarm = swarm;
    if args.rotate {
        update(&mut client, &swarm, &swarm.spec, role).await?;
        if !args.quiet && !context.out.json() {
            context.out.line(format!("Successfully rotated {role} join token.\n"))?;
        }
        swarm = client.get("/swarm").await?;
    }
    // Who may only look is shown something else.
    if !token_of(&swarm, role).starts_with(TOKEN_BEGINS) {
        return Err(Failure::new("no token is shown: this needs an administrator's certificate").hint(
            "Run this on a manager, or with a certificate of 'swarmpki cert issue NAME --role admin --out DIR'.",
        ));
    }
    if args.quiet && !context.out.json() {
        return context.out.line(token_of(&swarm, role));
    }
    let info: Info = client.get("/info").await?;
    let node: Node = client.get(&format!("/nodes/{}", escape(&info.swarm.node_id))).await?;
    let addr = node.manager_status.map(|status| status.addr).unwrap_or_default();
    if context.out.json() {
        return context.out.document(&json!({"Role": role, "Token": token_of(&swarm, role), "Addr": addr}));
    }
    context.out.text(how_to_join(role, token_of(&swarm, role), &addr))
}

/// The text that tells how a node joins; empty without an address.
pub(crate) fn how_to_join(role: &str, token: &str, addr: &str) -> String {
    if addr.is_empty() {
        return String::new();
    }
    if role == "manager" {
        return format!(
            "To add a manager to this swarm, run the following command:\n\n    swarmpki join --token {token} {addr}\n\n"
        );
    }
    format!(
        "To add a worker to this swarm, run the following command:\n\n    swarmpki join --token {token} {addr}\n\n\
         or, on a Docker Engine:\n\n    docker swarm join --token {token} {addr}\n\n"
    )
}

/// The token for a role.
pub(crate) fn token_of<'a>(swarm: &'a Swarm, role: &str) -> &'a str {
    if role == "manager" { &swarm.join_tokens.manager } else { &swarm.join_tokens.worker }
}

/// What [`update`] replaces beside tokens.
pub(crate) const UNLOCK_KEY: &str = "unlock key";

/// Posts the cluster's settings back, replacing the token of `rotate` (a role, [`UNLOCK_KEY`], or nothing).
pub(crate) async fn update(
    client: &mut crate::client::Client,
    swarm: &Swarm,
    spec: &Value,
    rotate: &str,
) -> Result<(), Failure> {
    let path = format!(
        "/swarm/update?rotateManagerToken={}&rotateManagerUnlockKey={}&rotateWorkerToken={}&version={}",
        rotate == "manager",
        rotate == UNLOCK_KEY,
        rotate == "worker",
        swarm.version.index
    );
    client.post(&path, Some(spec)).await.map(drop)
}
