//! `swarmpki.v1.Node/News`: a stream that says what is new for as long as the node may hear it.

use std::sync::Arc;

use cluster::authorize::Method;
use futures::stream;
use replica::Handle;
use tokio::sync::watch;
use wire::node::{News, NewsRequest, Statement};

use super::Answers;
use crate::news::Held;
use crate::server::Call;
use crate::shared::Shared;

struct Telling<H> {
    shared: Arc<Shared<H>>,
    call: Call,
    held: Held,
    changed: watch::Receiver<Held>,
    over: bool,
}

/// Tells `call` what it does not know yet, now and whenever there is something.
pub(super) fn tell<H: Handle>(shared: Arc<Shared<H>>, call: Call, asked: NewsRequest) -> Answers<News> {
    let held = Held { epoch: asked.revocations_epoch, version: asked.revocations_version };
    let changed = shared.news.changed();
    let telling = Telling { shared, call, held, changed, over: false };
    Box::pin(stream::unfold(telling, |mut telling| async move {
        loop {
            if telling.over {
                return None;
            }
            telling.changed.mark_unchanged();
            if let Err(refusal) = telling.shared.authorize(&telling.call, Method::News) {
                telling.over = true;
                return Some((Err(refusal.status()), telling));
            }
            let (shared, now) = (&telling.shared, telling.shared.now());
            let next = shared.news.next(&shared.handle.state(), telling.held, &shared.identity, now);
            if let Some((held, statement)) = next {
                telling.held = held;
                let news = News { revocations: Some(to_wire(&statement)) };
                return Some((Ok(news), telling));
            }
            if telling.changed.changed().await.is_err() {
                return None;
            }
        }
    }))
}

pub(crate) fn to_wire(statement: &mtls::Statement) -> Statement {
    Statement {
        chain: statement.chain.clone(),
        content: statement.content.clone(),
        scheme: statement.scheme.into(),
        signature: statement.signature.clone(),
    }
}
