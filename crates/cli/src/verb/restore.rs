//! `swarmpki restore`: this machine becomes the first manager of a swarm that is made anew from a backup.

use std::path::PathBuf;

use clap::Args;
use daemon::UnlockSource;
use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::init::LISTEN_ADDR;
use super::unlock::typed;
use super::{Context, join_token};
use crate::api::{Node, Swarm};
use crate::client::escape;
use crate::failure::Failure;

/// Make this machine the first manager of a swarm from a backup
#[derive(Args, Clone, Debug)]
pub(crate) struct RestoreArgs {
    /// Address that other nodes reach this one at, <ip|interface>[:port]; found out if the machine has only one
    #[arg(long, value_name = "STRING")]
    advertise_addr: Option<String>,
    /// Address to listen on for nodes, <ip|interface>[:port]
    #[arg(long, value_name = "NODE-ADDR", default_value = LISTEN_ADDR)]
    listen_addr: String,
    /// File with the age identity that opens the backup
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_from")]
    identity_file: Option<PathBuf>,
    /// Where the passphrase is: file:PATH, fd:NUMBER or command:COMMAND; it is asked for if neither is given
    #[arg(long, value_name = "SOURCE")]
    passphrase_from: Option<UnlockSource>,
    /// Node that was removed after the backup, by id, host name or the beginning of its id; may be repeated
    #[arg(long = "removed", value_name = "NODE")]
    removed: Vec<String>,
    /// The backup
    file: PathBuf,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RestoreRequest<'a> {
    identity: &'a str,
    passphrase: &'a str,
    listen_addr: &'a str,
    advertise_addr: &'a str,
    removed: &'a [String],
}

/// Has it restored, and prints how others join.
pub(crate) async fn run(args: &RestoreArgs, context: &mut Context) -> Result<(), Failure> {
    let unreadable = |path: &PathBuf, error| Failure::new(format!("cannot read {}: {error}", path.display()));
    let file = std::fs::read(&args.file).map_err(|error| unreadable(&args.file, error))?;
    let identity = match &args.identity_file {
        Some(path) => Zeroizing::new(std::fs::read_to_string(path).map_err(|error| unreadable(path, error))?),
        None => Zeroizing::default(),
    };
    let passphrase = match (&args.passphrase_from, &args.identity_file) {
        (Some(source), _) => Some(source.read().await.map_err(|error| Failure::new(error.to_string()))?),
        (None, None) => Some(typed("passphrase")?),
        (None, Some(_)) => None,
    };
    let request = RestoreRequest {
        identity: &identity,
        passphrase: passphrase.as_ref().map(pki::secret::SecretString::expose).unwrap_or_default(),
        listen_addr: &args.listen_addr,
        advertise_addr: args.advertise_addr.as_deref().unwrap_or_default(),
        removed: &args.removed,
    };
    let mut client = context.client().await?;
    let answer: Value = client.own_upload("/restore", &request, &file).await?;
    let node = answer["NodeID"].as_str().unwrap_or_default().to_owned();
    let this: Node = client.get(&format!("/nodes/{}", escape(&node))).await?;
    let swarm: Swarm = client.get("/swarm").await?;
    let addr = this.manager_status.map(|status| status.addr).unwrap_or_default();
    if context.out.json() {
        return context.out.document(&json!({
            "NodeID": node, "ClusterID": swarm.id, "Addr": addr,
            "JoinTokens": {"Worker": swarm.join_tokens.worker, "Manager": swarm.join_tokens.manager},
        }));
    }
    context.out.line(format!("Swarm restored: current node ({node}) is now its only manager.\n"))?;
    context.out.text(join_token::how_to_join("worker", &swarm.join_tokens.worker, &addr))?;
    context.out.text(join_token::how_to_join("manager", &swarm.join_tokens.manager, &addr))?;
    if Value::Bool(true) == swarm.spec["EncryptionConfig"]["AutoLockManagers"] {
        context
            .out
            .line("Managers are locked, and the unlock key is new: write down what 'swarmpki unlock-key' shows.")?;
    }
    Ok(())
}
