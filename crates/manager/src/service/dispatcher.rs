//! `Dispatcher`: sessions and heartbeats (wire.md 6). There is no work to hand out: assignments are one empty set.

use std::sync::Arc;

use cluster::Command;
use cluster::authorize::{Caller, Grant, Method};
use futures::stream;
use pki::identity::NodeId;
use pki::time::Time;
use replica::Handle;
use tonic::{Request, Response, Status};
use wire::convert;
use wire::proto::{
    AssignmentsMessage, AssignmentsRequest, HeartbeatRequest, HeartbeatResponse, SessionMessage, SessionRequest,
    TasksMessage, TasksRequest, UpdateTaskStatusRequest, UpdateTaskStatusResponse, UpdateVolumeStatusRequest,
    UpdateVolumeStatusResponse,
};
use wire::status::Refusal;

use super::{Answers, Service, call};
use crate::issue::pipeline::refused;
use crate::message::{Next, Telling};
use crate::report;
use crate::server::Call;
use crate::sessions::{NodeClock, Opening};
use crate::shared::Shared;
use crate::slots::Slot;

#[tonic::async_trait]
impl<H: Handle> wire::server::Dispatcher for Service<H> {
    type SessionStream = Answers<SessionMessage>;
    type TasksStream = Answers<TasksMessage>;
    type AssignmentsStream = Answers<AssignmentsMessage>;

    async fn session(&self, request: Request<SessionRequest>) -> Result<Response<Self::SessionStream>, Status> {
        let call = call(&request)?;
        let shared = &self.0;
        let (node, grant) = shared.authorize_node(&call, Method::Session)?;
        shared.admits()?;
        let returning = matches!(grant, Grant::Returning(_));
        let clock = node_clock(&request, shared);
        let addr = call.addr().ip().to_string();
        let SessionRequest { description, session_id } = request.into_inner();
        let description = description.unwrap_or_default();
        convert::node_description::check_size(&description)?;
        let state = shared.handle.state();
        let issuer = match call.caller() {
            Caller::Identified(leaf, _) => Some(leaf.issuer),
            Caller::Anonymous | Caller::Forwarded { .. } => None,
        };
        let opening = Opening {
            node: node.clone(),
            previous: session_id,
            fresh: pki::identity::random_id(shared.chance.bytes().map_err(|_| Refusal::DispatcherStopped)?),
            returning,
            issuer,
            reported: report::split(&state, &node, description, &addr),
            clock,
        };
        let opened = shared.sessions().open(shared.now(), &state, opening)?;
        shared.deadline_moved.notify_one();

        let mut commands: Vec<_> =
            call.peer.take_unproven().map(|(node, serial)| Command::Confirm { node, serial }).into_iter().collect();
        commands.extend(opened.report);
        if !commands.is_empty() {
            shared.handle.propose(commands).await.map_err(|error| {
                call.peer.give_back_unproven();
                refused(&error)
            })?;
        }
        if returning && !opened.resumed {
            tracing::warn!(%node, addr, "a node came back with an old certificate and is told to renew it");
        } else if !returning && !opened.resumed {
            tracing::info!(%node, addr, "the node is in session");
        }
        if shared.is_one_of_several(&state) {
            shared.shares.told().await;
        }
        let slot = shared.slots.open(&node);
        shared.arrived(&node);
        shared.touch();
        let telling = Telling::new(node, opened.session, returning);
        Ok(Response::new(session_stream(Arc::clone(shared), telling, slot, call)))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        let call = call(&request)?;
        let (node, _) = self.0.authorize_node(&call, Method::Heartbeat)?;
        self.0.admits()?;
        let period = self.0.handle.state().settings.heartbeat_period();
        let jitter = u32::from_be_bytes(self.0.chance.bytes().map_err(|_| Refusal::DispatcherStopped)?);
        let clock = node_clock(&request, &self.0);
        let told = {
            let mut sessions = self.0.sessions();
            let told = sessions.heartbeat(self.0.now(), &node, &request.get_ref().session_id, period, jitter)?;
            if let Some(clock) = clock {
                sessions.note_clock(&node, clock);
            }
            told
        };
        Ok(Response::new(HeartbeatResponse { period: Some(convert::duration::to_wire(told)) }))
    }

    async fn update_task_status(
        &self,
        request: Request<UpdateTaskStatusRequest>,
    ) -> Result<Response<UpdateTaskStatusResponse>, Status> {
        let call = call(&request)?;
        let (node, _) = self.0.authorize_node(&call, Method::UpdateTaskStatus)?;
        self.0.sessions().check(&node, &request.get_ref().session_id)?;
        if request.get_ref().updates.is_empty() {
            return Ok(Response::new(UpdateTaskStatusResponse {}));
        }
        // No task was ever assigned to anybody, so none is this node's.
        Err(Status::permission_denied("cannot update a task not assigned this node"))
    }

    async fn update_volume_status(
        &self,
        request: Request<UpdateVolumeStatusRequest>,
    ) -> Result<Response<UpdateVolumeStatusResponse>, Status> {
        let call = call(&request)?;
        let (node, _) = self.0.authorize_node(&call, Method::UpdateVolumeStatus)?;
        self.0.sessions().check(&node, &request.get_ref().session_id)?;
        Ok(Response::new(UpdateVolumeStatusResponse {}))
    }

    async fn tasks(&self, request: Request<TasksRequest>) -> Result<Response<Self::TasksStream>, Status> {
        let call = call(&request)?;
        let (node, _) = self.0.authorize_node(&call, Method::Tasks)?;
        self.0.sessions().check(&node, &request.get_ref().session_id)?;
        let none = TasksMessage { tasks: Vec::new() };
        Ok(Response::new(until_session_ends(&self.0, &node, Some(none), call)))
    }

    async fn assignments(
        &self,
        request: Request<AssignmentsRequest>,
    ) -> Result<Response<Self::AssignmentsStream>, Status> {
        let call = call(&request)?;
        let (node, _) = self.0.authorize_node(&call, Method::Assignments)?;
        self.0.sessions().check(&node, &request.get_ref().session_id)?;
        Ok(Response::new(until_session_ends(&self.0, &node, Some(convert::assignments::none()), call)))
    }
}

/// The node's clock, if the request carries it.
fn node_clock<T, H: Handle>(request: &Request<T>, shared: &Shared<H>) -> Option<NodeClock> {
    let millis = |key| request.metadata().get(key)?.to_str().ok()?.parse::<i64>().ok();
    let offset_ms = millis(wire::marker::CLOCK_KEY)?.checked_sub(shared.now().unix_millis())?;
    let floor = millis(wire::marker::FLOOR_KEY).map(Time::from_unix_millis).unwrap_or_default();
    Some(NodeClock { offset_ms, floor })
}

/// A stream that says `first` and then nothing until the session ends, and with it the stream.
pub(super) fn until_session_ends<T: Send + 'static, H: Handle>(
    shared: &Shared<H>,
    node: &NodeId,
    first: Option<T>,
    call: Call,
) -> Answers<T> {
    let slot = shared.slots.get(node);
    Box::pin(stream::unfold((first, slot, Some(call)), |(first, slot, call)| async move {
        if let Some(first) = first {
            return Some((Ok(first), (None, slot, call)));
        }
        call.as_ref()?;
        let refusal = match &slot {
            Some(slot) => slot.ended().await,
            None => Refusal::NotRegistered,
        };
        Some((Err(refusal.status()), (None, slot, None)))
    }))
}

struct SessionState<H: Handle> {
    shared: Arc<Shared<H>>,
    telling: Telling,
    slot: Arc<Slot>,
    over: bool,
    _call: Call,
}

impl<H: Handle> Drop for SessionState<H> {
    fn drop(&mut self) {
        self.shared.slots.close(self.telling.node(), &self.slot, self.shared.now());
        self.shared.touch();
    }
}

fn session_stream<H: Handle>(
    shared: Arc<Shared<H>>,
    telling: Telling,
    slot: Arc<Slot>,
    call: Call,
) -> Answers<SessionMessage> {
    let state = SessionState { shared, telling, slot, over: false, _call: call };
    Box::pin(stream::unfold(state, |mut session| async move {
        loop {
            if session.over {
                return None;
            }
            if let Some(refusal) = session.slot.reason() {
                let status = refusal.status();
                session.over = true;
                return Some((Err(status), session));
            }
            let ordered = session.shared.sessions().ordered(session.telling.node());
            let pushes = session.shared.pacer().pushes(session.telling.node());
            match session.telling.next(&session.shared.handle.state(), ordered, pushes) {
                Next::Say(message) => return Some((Ok(*message), session)),
                Next::Wait => session.slot.changed().await,
                Next::Gone => session.slot.end(Refusal::SessionNodeMissing),
            }
        }
    }))
}
