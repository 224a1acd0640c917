//! `swarmpki cert issue`: a certificate for somebody who commands the swarm, ready for docker's command.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use daemon::engine_api::operators::{IssueRequest, IssuedReport};
use pki::operator::OperatorName;

use super::directory::Directory;
use super::{key_and_request, told};
use crate::failure::Failure;
use crate::go_duration;
use crate::spec;
use crate::verb::Context;
use crate::words::OperatorRole;

/// Issue a certificate to somebody who commands the swarm over TLS
#[derive(Args, Clone, Debug)]
pub(crate) struct IssueArgs {
    /// What its holder may do: admin, or viewer, who sees neither tokens nor keys
    #[arg(long, value_name = "ROLE", value_enum, default_value_t = OperatorRole::Admin)]
    role: OperatorRole,
    /// How long it lasts (s|m|h|d): 1m to 365d; 30d unless set
    #[arg(long, value_name = "DURATION", value_parser = go_duration::parse)]
    ttl: Option<Duration>,
    /// Directory for ca.pem, cert.pem and key.pem; made if it is missing
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// File with the PEM request for a key of your own; no key is made then
    #[arg(long, value_name = "FILE", value_parser = spec::read_pem)]
    csr: Option<String>,
    /// Whose it is: up to 64 of 0-9 A-Z a-z . _ @ -
    #[arg(value_name = "NAME")]
    name: OperatorName,
}

/// Asks for it and writes it.
pub(crate) async fn run(args: &IssueArgs, context: &mut Context) -> Result<(), Failure> {
    let Some(out) = &args.out else {
        return Err(Failure::new("where to? Name a directory for the certificate with --out")
            .hint("It is the one that DOCKER_CERT_PATH is to name; it is made if it is missing."));
    };
    let directory = Directory::new(out);
    directory.prepare(args.csr.is_none())?;
    let (key, csr) = match &args.csr {
        Some(csr) => (None, csr.clone()),
        None => key_and_request().map(|(key, csr)| (Some(key), csr))?,
    };
    let request = IssueRequest {
        name: args.name.to_string(),
        role: args.role.word().to_owned(),
        ttl_s: args.ttl.map(|ttl| ttl.as_secs()),
        csr,
    };
    let mut client = context.client().await?;
    let issued: IssuedReport = client.own_call("/operators", &request).await?;
    directory.fill(&issued.ca, &issued.certificate, key.as_ref()).map_err(|failure| {
        failure.hint(format!(
            "The certificate is issued all the same, and nobody has it: swarmpki cert revoke {}",
            issued.operator.serial
        ))
    })?;
    told(&issued, &directory.shown(), &format!("Issued to {}", args.name), context)?;
    if context.out.json() {
        return Ok(());
    }
    let shown = directory.shown();
    if key.is_none() {
        context.out.line(format!("The key of the request belongs beside it, for its owner only: {shown}/key.pem"))?;
    }
    context
        .out
        .line(format!("Use it with: DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH={shown} docker -H tcp://HOST:2376 node ls"))
}
