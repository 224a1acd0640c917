//! `swarmpki cert …`: certificates for those who command the swarm. Keys are made here and stay here.

mod directory;
mod issue;
mod ls;
mod renew;
mod revoke;

use clap::Subcommand;
use daemon::engine_api::operators::IssuedReport;
use pki::csr;
use pki::key::PrivateKey;
use serde_json::json;
use zeroize::Zeroizing;

use super::Context;
use crate::failure::Failure;

/// How often a key is drawn: one in 2^32 draws is no key.
const DRAWS: usize = 4;

/// The verbs of `cert`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum CertCommand {
    Issue(issue::IssueArgs),
    #[command(visible_alias = "list")]
    Ls(ls::LsArgs),
    Renew(renew::RenewArgs),
    Revoke(revoke::RevokeArgs),
}

impl CertCommand {
    /// What comes before the daemon is spoken to: its TLS may need the very files that a renewal left half replaced.
    pub(crate) fn mend(&self) -> Result<(), Failure> {
        match self {
            Self::Renew(args) => args.mend(),
            Self::Issue(_) | Self::Ls(_) | Self::Revoke(_) => Ok(()),
        }
    }
}

/// Carries out one of them.
pub(crate) async fn run(command: &CertCommand, context: &mut Context) -> Result<(), Failure> {
    match command {
        CertCommand::Issue(args) => issue::run(args, context).await,
        CertCommand::Ls(args) => ls::run(args, context).await,
        CertCommand::Renew(args) => renew::run(args, context).await,
        CertCommand::Revoke(args) => revoke::run(args, context).await,
    }
}

/// A new key, and the request for its certificate.
fn key_and_request() -> Result<(PrivateKey, String), Failure> {
    for _ in 0..DRAWS {
        let mut seed = Zeroizing::new([0_u8; 32]);
        aws_lc_rs::rand::fill(&mut *seed).map_err(|_| Failure::new("the system's random numbers are not available"))?;
        let Ok(key) = PrivateKey::generate_p256(&seed) else { continue };
        let request = csr::request(&key).map_err(|error| Failure::new(format!("cannot sign a request: {error}")))?;
        return Ok((key, request));
    }
    Err(Failure::new("the system's random numbers make no key"))
}

/// What a certificate is used with, or its record as JSON.
fn told(issued: &IssuedReport, directory: &str, what: &str, context: &mut Context) -> Result<(), Failure> {
    let operator = &issued.operator;
    if context.out.json() {
        return context.out.document(&json!({"Operator": operator, "Directory": directory}));
    }
    context.out.line(format!(
        "{what} ({}): serial {}, until {}. Written to {directory}.",
        operator.role, operator.serial, operator.not_after
    ))
}
