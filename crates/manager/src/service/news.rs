//! `swarmpki.v1.Node/News`: a stream that says what is new for as long as the node may hear it.

use std::sync::Arc;

use cluster::authorize::Method;
use futures::stream;
use pki::identity::NodeId;
use replica::Handle;
use tokio::sync::watch;
use wire::node::{News, NewsRequest, Statement};

use super::Answers;
use crate::heads::{self, Listener, Signed};
use crate::news::{self, Held};
use crate::server::Call;
use crate::shared::Shared;

struct Telling<H> {
    shared: Arc<Shared<H>>,
    call: Call,
    held: Held,
    changed: watch::Receiver<Held>,
    listener: Listener,
    grown: watch::Receiver<Option<Arc<Signed>>>,
    over: bool,
}

/// Tells `call` what it does not know yet, now and whenever there is something.
pub(super) fn tell<H: Handle>(shared: Arc<Shared<H>>, call: Call, node: NodeId, asked: NewsRequest) -> Answers<News> {
    let held = news::believed(&shared.handle.state(), &asked);
    let (changed, grown) = (shared.news.changed(), shared.heads.changed());
    let evidence = asked.log_fork.into_iter().chain(asked.log_evidence).filter_map(heads::from_wire);
    let listener = Listener::new(node, asked.log_head.and_then(heads::from_wire), evidence);
    let telling = Telling { shared, call, held, changed, listener, grown, over: false };
    Box::pin(stream::unfold(telling, |mut telling| async move {
        loop {
            if telling.over {
                return None;
            }
            telling.changed.mark_unchanged();
            telling.grown.mark_unchanged();
            if let Err(refusal) = telling.shared.authorize(&telling.call, Method::News) {
                telling.over = true;
                return Some((Err(refusal.status()), telling));
            }
            let (shared, now) = (&telling.shared, telling.shared.now());
            let next = shared.news.next(&shared.handle.state(), telling.held, &shared.identity, now);
            if let Some((held, statement)) = next {
                telling.held = held;
                let news = News { revocations: Some(to_wire(&statement)), ..News::default() };
                return Some((Ok(news), telling));
            }
            if let Some((statement, proof)) = heads::next(shared, &mut telling.listener).await {
                let log_proof = proof.iter().map(|hash| hash.to_vec()).collect();
                let news = News { log_head: Some(to_wire(&statement)), log_proof, ..News::default() };
                return Some((Ok(news), telling));
            }
            let changed = tokio::select! {
                changed = telling.changed.changed() => changed,
                grown = telling.grown.changed() => grown,
            };
            if changed.is_err() {
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
