//! `swarmpki.v1.Managers`: what members of the group say to each other, and how a node becomes one.

use std::net::SocketAddr;
use std::time::Duration;

use cluster::authorize::{Caller, Method};
use cluster::{Command, Outcome, Rejection, epoch};
use pki::identity::Role;
use replica::Handle;
use tokio::net::TcpStream;
use tonic::{Request, Response, Status};
use wire::managers::{AskRequest, AskResponse, EnlistRequest, EnlistResponse, ShareRequest, ShareResponse};
use wire::status::{Refusal, Unauthorized};

use super::{Service, call};
use crate::issue::pipeline::refused;
use crate::peers;
use crate::server::{Call, Peer};
use crate::share;

/// Who has heard no leader for so long may be one whose state is old.
const UNHEARD: Duration = Duration::from_secs(1);
/// Time for reaching a newcomer under the address that it gave.
const REACH_WITHIN: Duration = Duration::from_secs(3);

#[tonic::async_trait]
impl<H: Handle> wire::managers::Managers for Service<H> {
    async fn enlist(&self, request: Request<EnlistRequest>) -> Result<Response<EnlistResponse>, Status> {
        let call = call(&request)?;
        let shared = &self.0;
        let (node, _) = shared.authorize_node(&call, Method::Enlist)?;
        let Caller::Identified(leaf, _) = call.caller() else {
            return Err(Refusal::Peer(Unauthorized::NoCertificate).status());
        };
        let serial = leaf.serial;
        let EnlistRequest { addr, raft_id } = request.into_inner();
        let addr = reachable(&addr, call.addr())?;
        // Who cannot be reached would be a member that the others wait for.
        let reached = tokio::time::timeout(REACH_WITHIN, TcpStream::connect(&addr)).await;
        if !matches!(reached, Ok(Ok(_))) {
            let refused = unreachable(&addr);
            shared.note_unseated(&node, refused.message());
            return Err(refused);
        }
        // Told at once, and before it is committed: without it nobody may lead.
        let known = shared.handle.state().members.rows.get(&node).map(|row| row.raft_id);
        if known == Some(raft_id) {
            shared.peers.find(&node, &addr);
        }
        // A store that was lost must not pass for the one that another manager knows of.
        let state = shared.look().await.ok_or(Refusal::NoLeader)?;
        let known = state.members.rows.get(&node).map(|row| row.raft_id);
        if let Some(refused) = given_up(known, raft_id) {
            return Err(refused);
        }
        // Who only asks whether it is known where it is changes nothing.
        let seated = state.node(&node).is_some_and(|node| node.role == Role::Manager);
        let there = state.members.rows.get(&node).is_some_and(|row| row.raft_id == raft_id && row.addr == addr);
        if seated && there {
            return Ok(Response::new(peers::response(&state, raft_id).ok_or(Refusal::SignerStarting)?));
        }
        let replaces = known.filter(|_| raft_id == 0);
        let enlist = Command::Enlist { node: node.clone(), addr: addr.clone(), serial, replaces };
        let enlist = shared.attributed(&call.account(), enlist).map_err(|_| Refusal::SignerStopped)?;
        let outcomes = shared.handle.propose(vec![enlist]).await.map_err(|error| refused(&error))?;
        let raft_id = match outcomes.into_iter().next() {
            Some(Outcome::Enlisted { raft_id }) => raft_id,
            Some(Outcome::Rejected(Rejection::NotPromoted)) => {
                return Err(Status::failed_precondition(format!(
                    "node {node} is not to be a manager any more: promote it first (docker node promote {node})"
                )));
            }
            Some(Outcome::Rejected(rejection)) => {
                return Err(Status::failed_precondition(format!("no place among the managers: {rejection}")));
            }
            _ => return Err(Refusal::OutcomeUnknown.status()),
        };
        shared.take_unseated(&node);
        tracing::info!(%node, addr, raft_id, "a manager has its place in the group");
        let response = peers::response(&shared.handle.state(), raft_id).ok_or(Refusal::SignerStarting)?;
        Ok(Response::new(response))
    }

    async fn ask(&self, request: Request<AskRequest>) -> Result<Response<AskResponse>, Status> {
        let call = call(&request)?;
        let known = self.member(&call);
        let AskRequest { cluster, epoch, from: claimed, question } = request.into_inner();
        let from = match (known, self.newcomer(&call.peer)) {
            (Ok(from), _) => from,
            (Err(_), Some(from)) if replica::handle::is_of_the_log(&question) => {
                tracing::info!(from, "a manager is heard by a certificate that is newer than what is known here");
                from
            }
            (Err(refused), _) => return Err(refused.status()),
        };
        self.in_scope(&cluster, epoch)?;
        if claimed != from {
            return Err(Status::permission_denied(format!("the caller is member {from} of the group, not {claimed}")));
        }
        let answer = self.0.handle.answer(from, question).await;
        let answer = answer.map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(Response::new(AskResponse { answer }))
    }

    async fn share(&self, request: Request<ShareRequest>) -> Result<Response<ShareResponse>, Status> {
        let call = call(&request)?;
        let from = self.member(&call)?;
        let request = request.into_inner();
        let shared = &self.0;
        if !shared.leads() {
            return Err(Refusal::LeaderLost.status());
        }
        if shared.admits().is_err() {
            return Err(Refusal::NoLeader.status());
        }
        // Its own sessions as they are now: whoever asks shows them.
        let _ = shared.sharer.lock().await.exchange(shared).await;
        Ok(Response::new(share::told(shared, from, request)))
    }
}

impl<H: Handle> Service<H> {
    /// The place of the caller in the group.
    pub(crate) fn member(&self, call: &Call) -> Result<u64, Refusal> {
        let Caller::Identified(leaf, _) = call.caller() else {
            return Err(Refusal::Peer(Unauthorized::NoCertificate));
        };
        let place = self.0.peers.raft_id_of(leaf, self.0.now());
        place.ok_or_else(|| Refusal::Peer(Unauthorized::Unregistered { node: leaf.node.clone() }))
    }

    /// The place of a caller whose leaf may be newer than this manager's state; of use only while it hears no leader.
    pub(super) fn newcomer(&self, peer: &Peer) -> Option<u64> {
        let (leaf, anchor) = peer.unknown_leaf()?;
        let silent = self.0.handle.contact().is_none_or(|since| since > UNHEARD);
        // Also who leads, as far as it knows, and hears no majority: the others may have had another leader for long.
        // Whoever was heard once by this leaf goes on being heard, on each of its connections: its first word ends the silence, and what this
        // manager lacks comes after it.
        let peers = &self.0.peers;
        if !silent && !peers.was_heard(leaf) {
            return None;
        }
        peers.newer_leaf_of(leaf, anchor, self.0.now()).inspect(|_| peers.note_heard(leaf))
    }

    /// Whether the caller belongs to the group; one that did, before the cluster was made anew, is told so.
    pub(super) fn judge_member(&self, call: &Call) -> Result<(), Status> {
        let refused = match self.member(call) {
            Ok(_) => return Ok(()),
            Err(refused) => refused,
        };
        let state = self.0.handle.state();
        let Caller::Identified(leaf, _) = call.caller() else { return Err(refused.status()) };
        let now = self.0.now();
        let unknown = call.peer.anchored_leaf().is_some_and(|(leaf, root)| self.0.peers.outlived_leaf(leaf, root, now));
        if let Some(anew) = peers::made_anew(&state).filter(|_| unknown || state.was_manager(leaf, now)) {
            return Err(anew);
        }
        // Whoever leads knows of everything that was decided.
        let out = self.0.leads() && self.0.admits().is_ok() && !state.members.rows.contains_key(&leaf.node);
        let refused = refused.status();
        Err(if out { peers::without_place(refused) } else { refused })
    }

    fn in_scope(&self, cluster: &str, epoch: u64) -> Result<(), Status> {
        let Some((own, ours)) = self.0.peers.scope() else { return Err(Refusal::SignerStarting.status()) };
        if own != cluster {
            return Err(Status::failed_precondition(format!(
                "this manager is of cluster {own}, the caller of {cluster}"
            )));
        }
        if epoch != ours {
            let before = epoch::generation(epoch) < epoch::generation(ours);
            let anew = peers::made_anew(&self.0.handle.state()).filter(|_| before);
            return Err(anew.unwrap_or_else(|| {
                let (ours, theirs) = (epoch::text(ours), epoch::text(epoch));
                Status::failed_precondition(format!(
                    "this manager's state is of epoch {ours}, the caller's of epoch {theirs}"
                ))
            }));
        }
        Ok(())
    }
}

/// Refuses the store of a place that is given up: its node has another by now, or none. Its holder comes again without it.
fn given_up(known: Option<u64>, store: u64) -> Option<Status> {
    (store != 0 && known != Some(store)).then(|| {
        Status::not_found(format!("place {store} among the managers is given up, and the store made for it with it"))
    })
}

/// The refusal of one that the others would wait for in vain: the engine's words (wire.md 8), where it was looked for, and what to do.
fn unreachable(addr: &str) -> Status {
    Status::unknown(format!(
        "could not connect to prospective new cluster member using its advertised address {addr}: open that address and port to the other \
         managers, or, if it is another one, leave and join again with --advertise-addr"
    ))
}

/// The address under which the others reach the newcomer: its own word, but for a host that means nothing elsewhere.
fn reachable(addr: &str, caller: SocketAddr) -> Result<String, Refusal> {
    match addr.parse::<SocketAddr>() {
        Ok(told) if told.ip().is_unspecified() => Ok(SocketAddr::new(caller.ip(), told.port()).to_string()),
        Ok(told) => Ok(told.to_string()),
        // A name: looked up by whoever dials.
        Err(_) if addr.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => Ok(addr.to_owned()),
        Err(_) => Err(Refusal::ArgumentMissing),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_store_counts_for_its_own_place_only() {
        for (known, store, refused) in [
            (None, 0, false),
            (Some(2), 0, false),
            (Some(2), 2, false),
            (Some(3), 2, true),
            (Some(2), 3, true),
            (None, 2, true),
        ] {
            let status = given_up(known, store);
            assert_eq!(status.is_some(), refused, "{known:?} {store}");
            assert!(status.is_none_or(|status| status.code() == tonic::Code::NotFound));
        }
    }

    #[test]
    fn who_cannot_be_reached_is_told_where_and_what_to_do() {
        let status = unreachable("192.0.2.1:2377");
        assert_eq!(status.code(), tonic::Code::Unknown);
        let text = status.message();
        let engines = "could not connect to prospective new cluster member using its advertised address";
        assert!(
            text.starts_with(&format!("{engines} 192.0.2.1:2377: ")) && text.contains("--advertise-addr"),
            "{text}"
        );
    }

    #[test]
    fn a_host_without_meaning_elsewhere_is_the_callers() {
        let caller = "10.0.0.7:4000".parse().unwrap();
        assert_eq!(reachable("0.0.0.0:2377", caller).unwrap(), "10.0.0.7:2377");
        assert_eq!(reachable("[::]:2377", caller).unwrap(), "10.0.0.7:2377");
        assert_eq!(reachable("10.0.0.8:2377", caller).unwrap(), "10.0.0.8:2377");
        assert_eq!(reachable("m2.example:2377", caller).unwrap(), "m2.example:2377");
        for wrong in ["", "10.0.0.8", "m2.example:port"] {
            reachable(wrong, caller).unwrap_err();
        }
    }
}
