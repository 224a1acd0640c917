//! `swarmpki token …`: join tokens with limits. The two standing ones are those of `join-token`.

pub(crate) mod create;
pub(crate) mod ls;
pub(crate) mod revoke;

use clap::Subcommand;

use super::Context;
use crate::failure::Failure;

/// The verbs of `token`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum TokenCommand {
    Create(create::CreateArgs),
    #[command(visible_alias = "list")]
    Ls(ls::LsArgs),
    Revoke(revoke::RevokeArgs),
}

/// Carries out one of them.
pub(crate) async fn run(command: &TokenCommand, context: &mut Context) -> Result<(), Failure> {
    match command {
        TokenCommand::Create(args) => create::run(args, context).await,
        TokenCommand::Ls(args) => ls::run(args, context).await,
        TokenCommand::Revoke(args) => revoke::run(args, context).await,
    }
}

/// Said of a Docker Engine, or a daemon from before there were such tokens.
fn no_such_tokens() -> Failure {
    Failure::new("this daemon has no join tokens with limits: it is a Docker Engine, or an older swarmpki")
        .hint("The standing tokens: swarmpki join-token worker")
}
