//! `swarmpki ca external`: the CAs elsewhere that sign for the root, how they are, and which there are.

use clap::{Args, Subcommand};
use daemon::engine_api::rotation::{StatusReport, UrlReport};
use serde_json::{Value, json};

use super::words;
use crate::api::{Swarm, moment};
use crate::failure::Failure;
use crate::span;
use crate::spec::{self, ExternalCa};
use crate::table::Table;
use crate::verb::{Context, join_token};

/// List, add or remove external CAs that sign for the root
#[derive(Args, Clone, Debug)]
#[command(subcommand_value_name = "COMMAND")]
pub(crate) struct ExternalArgs {
    #[command(subcommand)]
    command: ExternalCommand,
}

/// The verbs of `ca external`.
#[derive(Subcommand, Clone, Debug)]
enum ExternalCommand {
    /// Add one: it is looked at first, and refused if it cannot be reached
    Add {
        /// protocol=cfssl,url=https://…[,cacert=FILE]
        #[arg(value_name = "EXTERNAL-CA", value_parser = spec::parse_external_ca)]
        ca: ExternalCa,
    },
    /// List them, and how each is
    Ls,
    /// Remove one
    Rm {
        /// Its URL, as the list shows it
        #[arg(value_name = "URL")]
        url: String,
    },
}

/// Carries one out.
pub(super) async fn run(args: &ExternalArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let swarm: Swarm = client.get("/swarm").await?;
    let listed = || swarm.spec["CAConfig"]["ExternalCAs"].as_array().cloned().unwrap_or_default();
    let changed = match &args.command {
        ExternalCommand::Ls => {
            let status: Option<StatusReport> = client.own("/ca/status").await?;
            return list(&listed(), &status.unwrap_or_default(), context);
        }
        ExternalCommand::Add { ca } => {
            let mut all = listed();
            // For the root of now unless another is named.
            let root = swarm.tls_info.trust_root.as_str();
            let added = ca.json(root);
            if all.iter().any(|known| known["URL"] == added["URL"] && known["CACert"] == added["CACert"]) {
                return Err(Failure::new(format!(
                    "{} is among the external CAs already",
                    added["URL"].as_str().unwrap_or_default()
                ))
                .hint("List them with swarmpki ca external ls."));
            }
            all.push(added);
            all
        }
        ExternalCommand::Rm { url } => {
            let (gone, kept): (Vec<Value>, Vec<Value>) = listed().into_iter().partition(|ca| ca["URL"] == url.as_str());
            if gone.is_empty() {
                return Err(Failure::new(format!("no external CA has the URL {url}"))
                    .hint("List them with swarmpki ca external ls."));
            }
            kept
        }
    };
    let mut spec = swarm.spec.clone();
    spec::put(&mut spec, "CAConfig", "ExternalCAs", Value::Array(changed.clone()));
    join_token::update(&mut client, &swarm, &spec, "").await?;
    if context.out.json() { context.out.document(&json!(changed)) } else { context.out.line("External CAs updated.") }
}

fn list(listed: &[Value], status: &StatusReport, context: &mut Context) -> Result<(), Failure> {
    if context.out.json() {
        return context.out.document(&json!({ "ExternalCAs": listed, "Signer": status.signer }));
    }
    if listed.is_empty() {
        return context.out.line("No external CA is configured.");
    }
    let mut table = Table::new(&["URL", "STATE", "LAST ANSWER", "ISSUED", "LAST ERROR"]);
    let now = words::now(status);
    for ca in listed {
        let url = ca["URL"].as_str().unwrap_or_default();
        let known = status.signer.urls.iter().find(|known| known.url == url);
        let ago = |known: &UrlReport| {
            let at = known.last_success.as_deref().and_then(moment)?;
            Some(format!("{} ago", span::short(now.max(at).duration_since(at).unsigned_abs())))
        };
        table.row(vec![
            url.to_owned(),
            known.map_or("not asked", UrlReport::shown).to_owned(),
            known.and_then(ago).unwrap_or_default(),
            known.map(|known| known.granted.to_string()).unwrap_or_default(),
            known.and_then(|known| known.last_error.clone()).unwrap_or_default(),
        ]);
    }
    context.out.text(table.draw())
}
