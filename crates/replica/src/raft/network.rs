//! The way to other members: openraft's calls become questions that the [`Carrier`] brings.

use super::machine::Image;
use super::record::{self, Description};
use super::words::{self, Answered, Append, AskVote, Asked, HandOver, PIECE_BYTES, Piece};
use super::{Types, Vote};
use crate::carrier::{Carrier, CarryError};
use openraft::alias::SnapshotOf;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a follower may take to write what it was sent: many times what a slow disk needs.
const APPEND_WITHIN: Duration = Duration::from_secs(2);
/// How long a piece of a snapshot may take on its way.
const PIECE_WITHIN: Duration = Duration::from_secs(10);
/// How long the last piece may take: the snapshot is written and read back then.
const INSTALL_WITHIN: Duration = Duration::from_secs(60);

/// Ways to the other members.
#[derive(Clone)]
pub(super) struct Peers {
    pub(super) carrier: Arc<dyn Carrier>,
    /// Whether this member's log says, on disk, that it is alone.
    pub(super) alone: watch::Receiver<bool>,
}

/// The way to one member.
pub(super) struct Peer {
    to: u64,
    peers: Peers,
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, to: u64, _: &BasicNode) -> Peer {
        Peer { to, peers: self.clone() }
    }
}

impl Peer {
    /// A member that restarts leads the same term again if its log says that it is alone. So nothing leaves it before the
    /// entry that says otherwise is on disk.
    async fn ask(&mut self, asked: Asked, within: Duration, bulk: bool) -> Result<Answered, RPCError<Types>> {
        // The sender is gone only when raft is.
        let _ = self.peers.alone.wait_for(|alone| !alone).await;
        match self.peers.carrier.ask(self.to, words::question(asked), within, bulk).await {
            Ok(answer) => words::answered(&answer).map_err(unreadable),
            Err(error @ CarryError::Lost(_)) => Err(RPCError::Network(NetworkError::new(&error))),
            Err(error) => Err(RPCError::Unreachable(Unreachable::new(&error))),
        }
    }

    async fn piece(&mut self, piece: Piece, within: Duration) -> Result<(u64, Option<Vote>), RPCError<Types>> {
        let Answered::Piece(taken) = self.ask(Asked::Piece(piece), within, true).await? else { return Err(other()) };
        let vote = taken.vote.as_ref().map(record::vote_from).transpose().map_err(unreadable)?;
        Ok((taken.bytes, vote))
    }

    async fn send(&mut self, vote: Vote, snapshot: SnapshotOf<Types, Image>) -> Result<Vote, RPCError<Types>> {
        let Image::Stored { store, description } = snapshot.snapshot else { return Err(other()) };
        let description = Description { meta: snapshot.meta, ..description };
        let read = move || Image::load(&store, &description).map(|bytes| (bytes, description));
        // It fails when a newer one has replaced it: the next attempt sends that.
        let (bytes, description) = match tokio::task::spawn_blocking(read).await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => return Err(RPCError::Network(NetworkError::new(&error))),
            Err(error) => return Err(RPCError::Network(NetworkError::new(&error))),
        };
        let mut offset = 0;
        loop {
            let rest = bytes.get(offset..).unwrap_or_default();
            let bytes = rest.get(..PIECE_BYTES).unwrap_or(rest).to_vec();
            let last = bytes.len() == rest.len();
            let piece = Piece {
                vote: Some(record::vote_record(&vote)),
                snapshot: Some(record::description_record(&description)),
                offset: offset as u64,
                bytes,
            };
            let sent = offset + piece.bytes.len();
            let (has, vote) = self.piece(piece, if last { INSTALL_WITHIN } else { PIECE_WITHIN }).await?;
            match vote {
                Some(vote) => return Ok(vote),
                None if !last && has == sent as u64 => offset = sent,
                // It lost what it had, or another snapshot came between.
                None => return Err(other()),
            }
        }
    }
}

fn unreadable(error: std::io::Error) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(&error))
}

fn other() -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::from_string("an answer to another question"))
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Image;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        match self.ask(Asked::Append(Append::from(&request)), APPEND_WITHIN, false).await? {
            Answered::Append(appended) => appended.try_into().map_err(unreadable),
            _ => Err(other()),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(Asked::Vote(AskVote::new(&request, false)), option.hard_ttl(), false).await? {
            Answered::Vote(voted) => voted.try_into().map_err(unreadable),
            _ => Err(other()),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(Asked::Vote(AskVote::new(&request, true)), option.hard_ttl(), false).await? {
            Answered::Vote(voted) => voted.try_into().map_err(unreadable),
            _ => Err(other()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<Types, Image>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = self.send(vote, snapshot) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(RPCError::Network(error)) => Err(StreamingError::Network(error)),
                Err(RPCError::Unreachable(error)) => Err(StreamingError::Unreachable(error)),
                Err(error) => Err(StreamingError::Unreachable(Unreachable::new(&error))),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        match self.ask(Asked::HandOver(HandOver::from(&request)), option.hard_ttl(), false).await? {
            Answered::HandOver(handed) if handed.refused.is_empty() => Ok(Ok(())),
            Answered::HandOver(handed) => Err(RPCError::Network(NetworkError::from_string(handed.refused))),
            _ => Err(other()),
        }
    }
}
