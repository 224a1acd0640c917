//! `swarmpki ca`: shows the root, or replaces it ([`rotate`], [`abort`]), tells how that stands ([`status`]), and lists what
//! it signed ([`log`]). [`serve`] is another thing: the external CA of somebody else's swarm.

mod abort;
mod docker;
mod external;
mod follow;
pub(crate) mod log;
mod outcome;
mod rotate;
pub(crate) mod serve;
mod status;
mod words;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Context;
use crate::api::Swarm;
use crate::client::Client;
use crate::failure::Failure;
use crate::go_bool;

/// Show or rotate the root CA, list what it signed, or serve a CA to a Docker swarm
#[derive(Args, Clone, Debug)]
#[command(mut_args(go_bool::flags(&["rotate"])))]
#[command(args_conflicts_with_subcommands = true, subcommand_value_name = "COMMAND")]
pub(crate) struct CaArgs {
    #[command(subcommand)]
    command: Option<CaCommand>,
    /// Replace the root, as ca rotate does, and show the new one
    #[arg(long)]
    rotate: bool,
    #[command(flatten)]
    how: rotate::RotateArgs,
}

impl CaArgs {
    /// The verb that is no question to a daemon.
    pub(crate) fn serve(&self) -> Option<&serve::ServeArgs> {
        match &self.command {
            Some(CaCommand::Serve(args)) => Some(args),
            _ => None,
        }
    }
}

/// The verbs of `ca`. Docker has none.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum CaCommand {
    Abort(abort::AbortArgs),
    External(external::ExternalArgs),
    Log(log::LogArgs),
    Rotate(Box<rotate::RotateArgs>),
    Serve(Box<serve::ServeArgs>),
    Status(status::StatusArgs),
    Wait(status::WaitArgs),
}

/// Shows the root, after rotating it if asked.
pub(crate) async fn run(args: &CaArgs, context: &mut Context) -> Result<(), Failure> {
    match &args.command {
        Some(CaCommand::Abort(args)) => return abort::run(args, context).await,
        Some(CaCommand::External(args)) => return external::run(args, context).await,
        Some(CaCommand::Log(args)) => return log::run(args, context).await,
        Some(CaCommand::Rotate(args)) => {
            args.check()?;
            let mut client = context.client().await?;
            return rotate::run(args, &mut client, context).await;
        }
        // Carried out before: it asks no daemon.
        Some(CaCommand::Serve(_)) => return Ok(()),
        Some(CaCommand::Status(args)) => return status::run(args, context).await,
        Some(CaCommand::Wait(args)) => return status::wait(args, context).await,
        None => {}
    }
    if !args.rotate {
        let external = (!args.how.external_ca.is_empty()).then_some("--external-ca");
        if let Some(flag) = args.how.given().or(external) {
            return Err(Failure::new(format!("`{flag}` flag requires the `--rotate` flag to update the CA")));
        }
        let mut client = context.client().await?;
        return show(&mut client, context).await;
    }
    args.how.check()?;
    let mut client = context.client().await?;
    rotate::run(&args.how, &mut client, context).await?;
    if args.how.detach || args.how.quiet || args.how.dry_run || context.out.json() {
        return Ok(());
    }
    show(&mut client, context).await
}

async fn show(client: &mut Client, context: &mut Context) -> Result<(), Failure> {
    let swarm: Swarm = client.get("/swarm").await?;
    if swarm.tls_info.trust_root.is_empty() {
        return Err(Failure::new("no CA information available"));
    }
    if context.out.json() {
        let more: Option<Value> = client.own("/ca").await?;
        return context.out.document(&more.unwrap_or_else(|| {
            json!({"TrustRoot": swarm.tls_info.trust_root, "RootRotationInProgress": swarm.root_rotation_in_progress})
        }));
    }
    context.out.line(swarm.tls_info.trust_root.trim())
}
