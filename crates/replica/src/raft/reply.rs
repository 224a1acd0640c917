//! Where raft leaves what came of a proposal: with a function, called by whoever applied it, so that nobody has to be woken
//! only to pass it on.

use super::Types;
use crate::handle::ProposeError;
use cluster::Outcome;
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use openraft::raft::responder::Responder;

/// Called once with the result, or dropped if there will be none. It must not block.
pub(crate) struct Reply<T>(Box<dyn FnOnce(T) + Send>);

impl Reply<ClientWriteResult<Types>> {
    /// A reply in our own words.
    pub(crate) fn new(done: impl FnOnce(Result<Vec<Outcome>, ProposeError>) + Send + 'static) -> Self {
        Self(Box::new(move |result| {
            done(match result {
                Ok(response) => Ok(response.data),
                Err(ClientWriteError::ForwardToLeader(_)) => Err(ProposeError::NoLeader),
                // Discarded entries may still be committed by another leader.
                Err(_) => Err(ProposeError::Unknown),
            });
        }))
    }
}

impl<T: Send + 'static> Responder<Types, T> for Reply<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}
