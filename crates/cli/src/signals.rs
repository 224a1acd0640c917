//! SIGINT and SIGTERM: the first asks for a clean end, the second does not wait for it. SIGHUP: files are read again.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// Exit code of a process that was told twice to end: 128 + SIGINT, as a shell reports it.
const INTERRUPTED: i32 = 130;

/// Cancels `shutdown` at the first signal; ends the process at the second.
pub(crate) fn watch(shutdown: CancellationToken) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(format!("cannot listen for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            }
        };
        let name = next().await;
        tracing::info!(signal = name, "shutting down; once more ends at once");
        shutdown.cancel();
        let name = next().await;
        tracing::warn!(signal = name, "ending at once");
        // The one end outside `main`: whoever asks twice does not want to wait for anything.
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}

/// Notifies `reload` at each SIGHUP, which does not end the process then.
pub(crate) fn watch_for_reload(reload: Arc<Notify>) -> Result<(), Failure> {
    let mut hangup =
        signal(SignalKind::hangup()).map_err(|error| Failure::new(format!("cannot listen for signals: {error}")))?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reload.notify_one();
        }
    });
    Ok(())
}
