//! `swarmpki ca`: shows the root, or replaces it; [`log`] lists what it signed.

pub(crate) mod log;

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Context;
use super::join_token;
use crate::api::{Node, Swarm};
use crate::client::Client;
use crate::failure::Failure;
use crate::go_duration;
use crate::spec::{self, ExternalCa};

/// How often a rotation's progress is read. Source: engine-api.md 8.2.
const POLL_EVERY: Duration = Duration::from_millis(200);

/// Show or rotate the root CA, or list what it signed
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_value_name = "COMMAND")]
pub(crate) struct CaArgs {
    #[command(subcommand)]
    command: Option<CaCommand>,
    /// Replace the root; a new one is made unless a certificate or key is given
    #[arg(long)]
    rotate: bool,
    /// File with the PEM root certificate to rotate to
    #[arg(long, value_name = "PEM-FILE", value_parser = spec::read_pem)]
    ca_cert: Option<String>,
    /// File with the PEM key of the root to rotate to
    #[arg(long, value_name = "PEM-FILE", value_parser = spec::read_pem)]
    ca_key: Option<String>,
    /// Validity period for node certificates (ns|us|ms|s|m|h|d)
    #[arg(long, value_name = "DURATION", value_parser = go_duration::parse)]
    cert_expiry: Option<Duration>,
    /// Certificate signing endpoint: protocol=cfssl,url=https://…; may be repeated
    #[arg(long, value_name = "EXTERNAL-CA", value_parser = spec::parse_external_ca)]
    external_ca: Vec<ExternalCa>,
    /// Start the rotation and do not wait for its end
    #[arg(short, long)]
    detach: bool,
    /// Wait without showing progress
    #[arg(short, long)]
    quiet: bool,
}

/// The verbs of `ca`. Docker has none.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum CaCommand {
    Log(log::LogArgs),
}

/// Shows the root, after rotating it if asked.
pub(crate) async fn run(args: &CaArgs, context: &mut Context) -> Result<(), Failure> {
    if let Some(CaCommand::Log(args)) = &args.command {
        return log::run(args, context).await;
    }
    check(args)?;
    let mut client = context.client().await?;
    let mut swarm: Swarm = client.get("/swarm").await?;
    if args.rotate {
        let spec = wanted(args, &swarm);
        join_token::update(&mut client, &swarm, &spec, "").await?;
        if args.detach {
            return Ok(());
        }
        follow(&mut client, context, args.quiet).await?;
        if args.quiet {
            return Ok(());
        }
        swarm = client.get("/swarm").await?;
    }
    show(&swarm, &mut client, context).await
}

async fn show(swarm: &Swarm, client: &mut Client, context: &mut Context) -> Result<(), Failure> {
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

/// The refusals that need no daemon, in docker's order (engine-api.md 10).
fn check(args: &CaArgs) -> Result<(), Failure> {
    if !args.rotate {
        let given = [
            ("--ca-cert", args.ca_cert.is_some()),
            ("--ca-key", args.ca_key.is_some()),
            ("--cert-expiry", args.cert_expiry.is_some()),
            ("--external-ca", !args.external_ca.is_empty()),
        ];
        return match given.iter().find(|(_, given)| *given) {
            Some((flag, _)) => {
                Err(Failure::new(format!("`{flag}` flag requires the `--rotate` flag to update the CA")))
            }
            None => Ok(()),
        };
    }
    if args.ca_cert.is_none() && !args.external_ca.is_empty() {
        return Err(Failure::new(
            "rotating to an external CA requires the `--ca-cert` flag to specify the external CA's cert - to add an \
             external CA with the current root CA certificate, use the `update` command instead",
        ));
    }
    if args.ca_cert.is_some() && args.ca_key.is_none() && args.external_ca.is_empty() {
        return Err(Failure::new(
            "the --ca-cert flag requires that a --ca-key flag and/or --external-ca flag be provided as well",
        ));
    }
    Ok(())
}

/// The settings that make the daemon rotate.
fn wanted(args: &CaArgs, swarm: &Swarm) -> Value {
    let mut spec = swarm.spec.clone();
    let mut set = |field: &str, value: Value| spec::put(&mut spec, "CAConfig", field, value);
    if args.ca_cert.is_none() && args.ca_key.is_none() {
        let forced = swarm.spec["CAConfig"]["ForceRotate"].as_u64().unwrap_or(0);
        set("ForceRotate", json!(forced.saturating_add(1)));
    }
    if let Some(cert) = &args.ca_cert {
        set("SigningCACert", json!(cert));
    }
    if let Some(key) = &args.ca_key {
        set("SigningCAKey", json!(key));
    }
    if let Some(expiry) = args.cert_expiry {
        set("NodeCertExpiry", json!(go_duration::nanos(expiry)));
    }
    if !args.external_ca.is_empty() {
        let root = args.ca_cert.as_deref().unwrap_or_default();
        set("ExternalCAs", args.external_ca.iter().map(|ca| ca.json(root)).collect());
    }
    spec
}

/// Waits for the end of a rotation, with a line for each change.
async fn follow(client: &mut Client, context: &mut Context, quiet: bool) -> Result<(), Failure> {
    let mut shown = String::new();
    loop {
        let swarm: Swarm = client.get("/swarm").await?;
        let nodes: Vec<Node> = client.get("/nodes").await?;
        let same_issuer = |node: &&Node| {
            node.description.tls_info.cert_issuer_subject == swarm.tls_info.cert_issuer_subject
                && node.description.tls_info.cert_issuer_public_key == swarm.tls_info.cert_issuer_public_key
        };
        let certificates = nodes.iter().filter(same_issuer).count();
        let roots =
            nodes.iter().filter(|node| node.description.tls_info.trust_root == swarm.tls_info.trust_root).count();
        let switched = certificates == nodes.len() && !swarm.root_rotation_in_progress;
        let line = format!(
            "rotated TLS certificates: {certificates}/{total} nodes, rotated CA certificates: {roots}/{total} nodes",
            total = nodes.len(),
            roots = if switched { roots } else { 0 },
        );
        if !quiet && !context.out.json() && line != shown {
            context.out.line(&line)?;
            shown = line;
        }
        if switched && roots == nodes.len() {
            return Ok(());
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}
