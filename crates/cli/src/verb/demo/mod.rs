//! `swarmpki demo`: a throw-away cluster on loopback that shows a certificate's whole life.
//!
//! Every machine is a daemon of its own: a child process of this very program, with a state directory and a socket in a
//! temporary folder, driven through its API as the other verbs drive it. Root is not needed, nor is docker.

mod machine;
mod story;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use self::machine::Stage;
use self::story::Story;
use super::Context;
use crate::failure::Failure;

/// Show a cluster's whole life on loopback: join, certificates, renewal, removal
#[derive(Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// Keep the folder with the daemons' states and logs
    #[arg(long)]
    keep: bool,
}

/// Plays the whole life, cleans up, and fails if any step did.
pub(crate) async fn run(args: &DemoArgs, context: &mut Context) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("cannot listen for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut stage = Stage::build()?;
    let mut story = Story::new(&mut context.out);
    let played = tokio::select! {
        played = story::play(&mut stage, &mut story) => played,
        _ = interrupt.recv() => Err(Failure::new("interrupted")),
        _ = terminate.recv() => Err(Failure::new("interrupted")),
    };
    let played = match played {
        Err(failure) if failure.is_quiet() => Err(failure),
        Err(failure) => Err(Failure::new(format!("the demo failed: {failure}{}", stage.last_words()))
            .hint("Run it with --keep to look at the daemons' states and logs.")),
        Ok(()) => Ok(()),
    };
    let cleared = stage.clear(args.keep).await;
    played?;
    let kept = cleared?;
    story.end(kept.as_deref())
}
