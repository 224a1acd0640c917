//! `swarmpki update`: changes the cluster's settings.

use std::time::{Duration, Instant};

use clap::{ArgAction, Args};
use daemon::engine_api::extra::{ManagerAt, NodeAt, StatusReport};
use serde_json::{Value, json};

use super::Context;
use super::{join_token, unlock_key};
use crate::api::Swarm;
use crate::client::Client;
use crate::failure::Failure;
use crate::go_bool;
use crate::spec::{self, SpecFlags};

/// How long a session may take to come about.
const SESSION_MAX: Duration = Duration::from_secs(20);
/// Pause between two looks whether it has.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Change the swarm's settings, or where this node is
#[derive(Args, Clone, Debug)]
pub(crate) struct UpdateArgs {
    /// Of this node alone: where the others reach it now, <ip|interface>[:port]; a manager tells them
    #[arg(long, value_name = "ADDR")]
    advertise_addr: Option<String>,
    /// Whether managers are locked at rest (true|false)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          action = ArgAction::Set, value_parser = go_bool::parse)]
    autolock: Option<bool>,
    /// With --advertise-addr: where this node listens as a manager now; else that follows if it was the address told
    #[arg(long, value_name = "ADDR")]
    listen_addr: Option<String>,
    /// Of a node that finds no manager, and of nothing else: where one is now, HOST[:PORT]
    #[arg(long, value_name = "ADDR")]
    manager: Option<String>,
    #[command(flatten)]
    spec: SpecFlags,
}

impl UpdateArgs {
    /// Whether no flag was given: docker's command prints its help then.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes_nothing() && self.manager.is_none() && self.advertise_addr.is_none() && self.listen_addr.is_none()
    }

    /// Whether the settings stay.
    fn changes_nothing(&self) -> bool {
        self.autolock.is_none() && self.spec.is_empty()
    }
}

/// Reads the settings, changes what the flags say and writes them back.
pub(crate) async fn run(args: &UpdateArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let own = args.advertise_addr.as_ref().map(|_| "--advertise-addr").or(args.manager.as_ref().map(|_| "--manager"));
    if let Some(flag) = own.filter(|_| !args.changes_nothing()) {
        return Err(Failure::new(format!("the {flag} flag is for this node alone: settings are changed on a manager")));
    }
    if args.listen_addr.is_some() && args.advertise_addr.is_none() {
        return Err(Failure::new("the --listen-addr flag goes with --advertise-addr"));
    }
    if let Some(addr) = &args.advertise_addr {
        return move_to(addr, args, &mut client, context).await;
    }
    if let Some(addr) = &args.manager {
        return find(addr, &mut client, context).await;
    }
    let swarm: Swarm = client.get("/swarm").await?;
    let mut spec = swarm.spec.clone();
    args.spec.put_into(&mut spec, &swarm.tls_info.trust_root);
    if let Some(lock) = args.autolock {
        spec::put(&mut spec, "EncryptionConfig", "AutoLockManagers", json!(lock));
    }
    join_token::update(&mut client, &swarm, &spec, "").await?;
    let locked = |spec: &Value| spec["EncryptionConfig"]["AutoLockManagers"] == Value::Bool(true);
    let newly = locked(&spec) && !locked(&swarm.spec);
    let key = if newly { Some(unlock_key::get(&mut client).await?) } else { None };
    if context.out.json() {
        let mut swarm: Swarm = client.get("/swarm").await?;
        if let Some(key) = &key {
            swarm.spec["UnlockKey"] = json!(key.unlock_key);
        }
        return context.out.document(&swarm.spec);
    }
    context.out.line("Swarm updated.")?;
    if let Some(key) = key {
        context.out.text(unlock_key::how_to_unlock(&key.unlock_key))?;
    }
    Ok(())
}

/// Has this machine's node found at another address.
async fn move_to(addr: &str, args: &UpdateArgs, client: &mut Client, context: &mut Context) -> Result<(), Failure> {
    let no_node = || Failure::new("--advertise-addr needs a daemon of swarmpki: this one is a Docker Engine");
    let Some(_) = client.own::<StatusReport>("/status").await? else { return Err(no_node()) };
    let request = NodeAt {
        advertise_addr: addr.to_owned(),
        listen_addr: args.listen_addr.clone().unwrap_or_default(),
        manager: args.manager.clone().unwrap_or_default(),
    };
    let moved: NodeAt = client.own_call("/address", &request).await?;
    if context.out.json() {
        return context.out.document(&moved);
    }
    context.out.line(format!("The others find this node at {} now.", moved.advertise_addr))
}

/// Tells this machine's node where a manager is, and waits for a session.
async fn find(addr: &str, client: &mut Client, context: &mut Context) -> Result<(), Failure> {
    let no_node = || Failure::new("--manager needs a daemon of swarmpki: this one is a Docker Engine");
    let Some(_) = client.own::<StatusReport>("/status").await? else { return Err(no_node()) };
    client.own_tell("/managers", &ManagerAt { addr: addr.to_owned() }).await?;
    let since = Instant::now();
    loop {
        let status: StatusReport = client.own("/status").await?.ok_or_else(no_node)?;
        if let Some(manager) = &status.connected {
            if context.out.json() {
                return context.out.document(&status);
            }
            return context.out.line(format!("This node is in session with the manager at {}.", manager.addr));
        }
        if since.elapsed() >= SESSION_MAX {
            let why = status.error.map(|why| format!(": {why}")).unwrap_or_default();
            return Err(Failure::new(format!("no session with a manager at {addr} yet{why}")).hint(
                "It goes on trying: 'swarmpki info'. Look whether the address is right, the manager runs, and its port (2377) is open.",
            ));
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}
