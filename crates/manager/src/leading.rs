//! What only the leader does.

use std::pin::pin;
use std::sync::Arc;

use replica::Handle;
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;

/// Does `work` while this manager leads, anew each time that it comes to lead, until `shutdown`. The work has to end when the token that it
/// is given says so.
pub(crate) async fn while_leading<H, F, W>(shared: Arc<Shared<H>>, shutdown: CancellationToken, work: F)
where
    H: Handle,
    F: Fn(Arc<Shared<H>>, CancellationToken) -> W,
    W: Future<Output = ()>,
{
    let mut leadership = shared.handle.leadership();
    loop {
        let led = tokio::select! {
            () = shutdown.cancelled() => return,
            led = leadership.wait_for(|now| now.here) => led.map(|now| now.term),
        };
        let Ok(term) = led else { return };
        let over = shutdown.child_token();
        let mut working = pin!(work(Arc::clone(&shared), over.clone()));
        let ended = tokio::select! {
            () = &mut working => true,
            over = leadership.wait_for(|now| !now.here || now.term != term) => over.is_err(),
        };
        if ended {
            return;
        }
        over.cancel();
        working.await;
    }
}
