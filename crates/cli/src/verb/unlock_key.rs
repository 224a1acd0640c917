//! `swarmpki unlock-key`: shows or replaces the key that opens locked managers.

use clap::Args;
use serde_json::{Value, json};

use super::{Context, join_token};
use crate::api::{Swarm, UnlockKey};
use crate::client::Client;
use crate::failure::Failure;
use crate::go_bool;

/// Show or rotate the key that unlocks managers
#[derive(Args, Clone, Debug)]
#[command(mut_args(go_bool::flags(&["rotate", "quiet"])))]
pub(crate) struct UnlockKeyArgs {
    /// Replace the key; managers that are stopped now are still opened with the old one
    #[arg(long)]
    rotate: bool,
    /// Only display the key
    #[arg(short, long)]
    quiet: bool,
}

/// Shows the key, after replacing it if asked.
pub(crate) async fn run(args: &UnlockKeyArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    if args.rotate {
        let swarm: Swarm = client.get("/swarm").await?;
        if swarm.spec["EncryptionConfig"]["AutoLockManagers"] != Value::Bool(true) {
            return Err(Failure::new("cannot rotate because autolock is not turned on")
                .hint("Hint: 'swarmpki update --autolock' turns it on, and makes a key"));
        }
        join_token::update(&mut client, &swarm, &swarm.spec, join_token::UNLOCK_KEY).await?;
        if !args.quiet && !context.out.json() {
            context.out.line("Successfully rotated manager unlock key.\n")?;
        }
    }
    let key = get(&mut client).await?;
    if key.unlock_key.is_empty() {
        return Err(Failure::new("no unlock key is set"));
    }
    if context.out.json() {
        return context.out.document(&json!({"UnlockKey": key.unlock_key}));
    }
    if args.quiet {
        return context.out.line(&key.unlock_key);
    }
    context.out.text(how_to_unlock(&key.unlock_key))
}

/// Asks for the key.
pub(crate) async fn get(client: &mut Client) -> Result<UnlockKey, Failure> {
    let key = client.get("/swarm/unlockkey").await;
    key.map_err(|failure| Failure::new(format!("could not fetch unlock key: {}", failure.text())))
}

/// The text that tells how a manager is unlocked.
pub(crate) fn how_to_unlock(key: &str) -> String {
    format!(
        "To unlock a swarm manager after it restarts, run 'swarmpki unlock' on it\n(or 'docker swarm unlock') and provide the following \
         key:\n\n    {key}\n\nKeep it in a password manager: without it a stopped manager cannot be\nstarted again.\n\n"
    )
}
