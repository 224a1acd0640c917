//! `swarmpki update`: changes the cluster's settings.

use clap::{ArgAction, Args};
use serde_json::{Value, json};

use super::Context;
use super::{join_token, unlock_key};
use crate::api::Swarm;
use crate::failure::Failure;
use crate::spec::{self, SpecFlags};

/// Change the swarm's settings
#[derive(Args, Clone, Debug)]
pub(crate) struct UpdateArgs {
    /// Whether managers are locked at rest (true|false)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          action = ArgAction::Set)]
    autolock: Option<bool>,
    #[command(flatten)]
    spec: SpecFlags,
}

impl UpdateArgs {
    /// Whether no flag was given: docker's command prints its help then.
    pub(crate) fn is_empty(&self) -> bool {
        self.autolock.is_none() && self.spec.is_empty()
    }
}

/// Reads the settings, changes what the flags say and writes them back.
pub(crate) async fn run(args: &UpdateArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let swarm: Swarm = client.get("/swarm").await?;
    let mut spec = swarm.spec.clone();
    args.spec.put_into(&mut spec, &swarm.tls_info.trust_root);
    if let Some(lock) = args.autolock {
        spec::put(&mut spec, "EncryptionConfig", "AutoLockManagers", json!(lock));
    }
    join_token::update(&mut client, &swarm, &spec, "").await?;
    let locked = |spec: &Value| spec["EncryptionConfig"]["AutoLockManagers"] == Value::Bool(true);
    if context.out.json() {
        let swarm: Swarm = client.get("/swarm").await?;
        return context.out.document(&swarm.spec);
    }
    context.out.line("Swarm updated.")?;
    if locked(&spec) && !locked(&swarm.spec) {
        let key = unlock_key::get(&mut client).await?;
        context.out.text(unlock_key::how_to_unlock(&key.unlock_key))?;
    }
    Ok(())
}
