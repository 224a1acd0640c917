//! `swarmpki unlock`: opens a locked manager with the swarm's unlock key.

use std::io::{BufRead as _, IsTerminal as _, Read as _};

use clap::Args;
use daemon::UnlockSource;
use pki::secret::SecretString;
use serde_json::json;
use zeroize::Zeroizing;

use super::Context;
use crate::api::{Info, UnlockRequest};
use crate::failure::Failure;
use crate::output::complain;
use crate::root_files::Hidden;

/// More than any key has, in bytes.
const KEY_BYTES_MAX: u64 = 4096;

/// Unlock a manager that was started locked
#[derive(Args, Clone, Debug)]
pub(crate) struct UnlockArgs {
    /// Where the key is: file:PATH, fd:NUMBER or command:COMMAND; else it is asked for, or read from standard input
    #[arg(long, value_name = "SOURCE")]
    from: Option<UnlockSource>,
}

/// Unlocks.
pub(crate) async fn run(args: &UnlockArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let info: Info = client.get("/info").await?;
    match info.swarm.local_node_state.as_str() {
        "locked" => {}
        "inactive" => return Err(Failure::new("Error: This node is not part of a swarm")),
        _ => return Err(Failure::new("Error: swarm is not locked")),
    }
    let key = match &args.from {
        Some(source) => source.read().await.map_err(|error| Failure::new(error.to_string()))?,
        None => typed("unlock key")?,
    };
    client.post("/swarm/unlock", Some(&UnlockRequest { unlock_key: key.expose() })).await?;
    if context.out.json() {
        return context.out.document(&json!({"Unlocked": true}));
    }
    Ok(())
}

/// One line: from the terminal, where it is not shown, or from standard input.
pub(crate) fn typed(what: &str) -> Result<SecretString, Failure> {
    let stdin = std::io::stdin();
    let hidden = if stdin.is_terminal() {
        complain(format!("Enter {what}: "));
        Some(Hidden::new(&stdin)?)
    } else {
        None
    };
    let mut line = Zeroizing::new(Vec::with_capacity(KEY_BYTES_MAX as usize));
    let read = stdin.lock().take(KEY_BYTES_MAX).read_until(b'\n', &mut line);
    drop(hidden);
    read.map_err(|error| Failure::new(format!("cannot read the {what}: {error}")))?;
    let text = std::str::from_utf8(&line).map_err(|_| Failure::new(format!("the {what} is not text")))?;
    Ok(SecretString::new(text.trim().to_owned()))
}
