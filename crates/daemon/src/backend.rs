//! What the Engine API's handlers work on: what this machine is at present, and the handle of the task that changes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use manager::server::bounded::{Bounded, Place};
use manager::view::ControlError;
use swarmpki::{NodeId, Status};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use crate::caller::{Caller, Holder, Right};
use crate::engine_api::error::ApiError;
use crate::engine_api::json::RemoteManager;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::locked::LOCKED;
use crate::machine::Machine;
use crate::settings::Settings;

/// The operator's side of the manager this machine runs.
pub type Control = manager::Control<replica::Replica>;

/// Text of manager-only requests on a machine in no swarm.
pub const NO_SWARM: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.";
/// Text of manager-only requests on a worker.
pub const WORKER: &str = "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.";
/// Text of manager-only requests while the manager starts.
pub const MANAGER_STARTING: &str =
    "This node is not a swarm manager. Manager is being prepared or has trouble connecting to the cluster.";
/// Text of manager-only requests after the node's certificate has ended.
pub const EXPIRED: &str = "Swarm certificates have expired. To replace them, leave the swarm and join again.";
/// Text of init and join on a machine that is in a swarm.
pub const ALREADY_MEMBER: &str =
    "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.";
/// Text of leave on a machine in no swarm.
pub const NOT_MEMBER: &str = "This node is not part of a swarm";

/// What this machine is.
#[derive(Clone)]
pub enum Present {
    /// In no swarm.
    Inactive,
    /// Joining, or restarted and not yet accepted by a manager.
    Pending(Membership),
    /// A worker.
    Worker(Membership),
    /// A manager, with its replica of the cluster's state.
    Manager(Membership, Control, replica::Replica),
    /// A manager whose files are sealed, and which nobody unlocked yet.
    Locked(Membership),
    /// A member whose part stopped with an error.
    Error(Membership, Failure),
}

/// Why a member does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The text for people.
    pub text: String,
    /// Whether it is that the node's certificate has ended.
    pub expired: bool,
}

impl Failure {
    /// A failure that is not the certificate's end.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), expired: false }
    }
}

/// What a member knows of itself.
#[derive(Clone, Default)]
pub struct Membership {
    /// The advertised host, without port; empty if unknown.
    pub addr: String,
    /// The manager that a join under way asks, `host:port`; empty otherwise.
    pub join_addr: String,
    /// Whether it is, or was before a restart, a manager.
    pub manager: bool,
    /// What keeps it from being what it is to be; it goes on meanwhile.
    pub trouble: Option<String>,
    /// What the node's agent says of itself, once there is one.
    pub status: Option<watch::Receiver<Status>>,
    /// The node's agent, once it runs.
    pub agent: Option<swarmpki::Handle>,
}

impl Membership {
    /// What the settings on disk say, before anything runs.
    pub(crate) fn of(settings: &Settings) -> Self {
        let addr = settings.advertise_addr.parse().map(|address: std::net::SocketAddr| address.ip().to_string());
        Self {
            addr: addr.unwrap_or_default(),
            join_addr: settings.remote_addr.clone(),
            manager: false,
            trouble: None,
            status: None,
            agent: None,
        }
    }

    /// What is shown of a locked manager: where it is, and nothing else.
    pub(crate) fn locked(settings: &Settings) -> Self {
        Self { addr: Self::of(settings).addr, ..Self::default() }
    }

    /// What the agent says at present.
    pub fn status(&self) -> Option<Status> {
        self.status.as_ref().map(|status| status.borrow().clone())
    }

    /// The node's id; `None` until its certificate came.
    pub fn node_id(&self) -> Option<NodeId> {
        self.status.as_ref().and_then(|status| status.borrow().node.clone())
    }

    /// The managers it knows; while it has no certificate, the one it asks.
    pub fn remote_managers(&self) -> Option<Vec<RemoteManager>> {
        let mut known: Vec<RemoteManager> = self
            .status
            .as_ref()
            .map(|status| {
                let status = status.borrow();
                status
                    .managers
                    .iter()
                    .map(|peer| RemoteManager { node_id: peer.node.clone(), addr: peer.addr.clone() })
                    .collect()
            })
            .unwrap_or_default();
        if known.is_empty() && !self.join_addr.is_empty() {
            known.push(RemoteManager { node_id: String::new(), addr: self.join_addr.clone() });
        }
        (!known.is_empty()).then_some(known)
    }
}

impl Present {
    /// `Swarm.LocalNodeState` (engine-api.md 3).
    pub fn word(&self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Pending(_) => "pending",
            Self::Worker(_) | Self::Manager(..) => "active",
            Self::Locked(_) => "locked",
            Self::Error(..) => "error",
        }
    }

    /// The `Swarm` header of a ping (engine-api.md 1.3).
    pub fn ping_word(&self) -> &'static str {
        match self {
            Self::Worker(_) => "active/worker",
            Self::Manager(..) => "active/manager",
            other => other.word(),
        }
    }

    /// What it knows of itself, if it is a member.
    pub fn membership(&self) -> Option<&Membership> {
        match self {
            Self::Inactive => None,
            Self::Pending(membership)
            | Self::Worker(membership)
            | Self::Manager(membership, ..)
            | Self::Locked(membership)
            | Self::Error(membership, _) => Some(membership),
        }
    }

    /// Whether it is a manager that is about to work.
    fn is_starting_manager(&self) -> bool {
        matches!(self, Self::Pending(membership) if membership.manager)
    }

    /// The manager's control, or why there is none (engine-api.md 2.1, 3).
    pub fn control(&self) -> Result<&Control, ApiError> {
        Err(ApiError::unavailable(match self {
            Self::Manager(_, control, _) => return Ok(control),
            Self::Inactive => NO_SWARM,
            Self::Locked(_) => LOCKED,
            Self::Error(_, failure) if failure.expired => EXPIRED,
            Self::Error(..) => NO_SWARM,
            starting if starting.is_starting_manager() => MANAGER_STARTING,
            Self::Pending(_) | Self::Worker(_) => WORKER,
        }))
    }
}

/// How long a manager-only request waits for a manager that is starting. Source: engine-api.md 13, the limit of a request.
const START_MAX: Duration = Duration::from_secs(20);

/// The handlers' side of the daemon; each connection has its own, with who calls.
#[derive(Clone)]
pub struct Backend {
    inner: Arc<Inner>,
    caller: Option<Arc<Caller>>,
    ends: CancellationToken,
}

struct Inner {
    machine: Machine,
    engine_id: String,
    state_dir: PathBuf,
    lifecycle: Lifecycle,
    warnings: Vec<String>,
    streams: Rooms,
    /// Held by the viewer for whom the whole log is read.
    reading: Semaphore,
}

/// Streams of events at a time: half for administrators, half for viewers. Fewer than there are places for connections of each.
const STREAMS_MAX: usize = 256;

/// Places of callers. Viewers have their own: however many they are, administrators find theirs. In each the greediest gives way.
pub(crate) struct Rooms {
    viewers: Arc<Bounded<Holder>>,
    admins: Arc<Bounded<Holder>>,
}

impl Rooms {
    pub(crate) fn new(viewers: usize, admins: usize) -> Self {
        Self { viewers: Bounded::new(viewers), admins: Bounded::new(admins) }
    }

    /// Takes a place.
    pub(crate) fn enter(&self, caller: &Caller, right: Right) -> Place<Holder> {
        match right {
            Right::Viewer => self.viewers.enter(caller.holder()),
            Right::Admin => self.admins.enter(caller.holder()),
        }
    }
}

impl Backend {
    pub(crate) fn new(
        machine: Machine,
        engine_id: String,
        state_dir: PathBuf,
        lifecycle: Lifecycle,
        warnings: Vec<String>,
        shutdown: CancellationToken,
    ) -> Self {
        let streams = Rooms::new(STREAMS_MAX / 2, STREAMS_MAX / 2);
        let reading = Semaphore::new(1);
        let inner = Arc::new(Inner { machine, engine_id, state_dir, lifecycle, warnings, streams, reading });
        Self { inner, caller: None, ends: shutdown }
    }

    /// What `docker info` warns of: hosts on which the API is open to others.
    pub fn warnings(&self) -> &[String] {
        &self.inner.warnings
    }

    /// Waits for the turn of whoever has the whole log read: viewers come one after the other, however many they are.
    pub(crate) async fn turn_to_read(&self, right: Right) -> Option<SemaphorePermit<'_>> {
        match right {
            Right::Viewer => self.inner.reading.acquire().await.ok(),
            Right::Admin => None,
        }
    }

    /// The same for the requests of one connection: whose they are, and what is cancelled when they have to end.
    pub(crate) fn by(&self, caller: Arc<Caller>, ends: CancellationToken) -> Self {
        Self { inner: self.inner.clone(), caller: Some(caller), ends }
    }

    /// Who calls; `None`: the daemon itself.
    pub fn caller(&self) -> Option<&Caller> {
        self.caller.as_deref()
    }

    /// A place for an answer that lasts; `None`: the daemon itself asks.
    pub(crate) fn stream(&self, right: Right) -> Option<Place<Holder>> {
        self.caller.as_deref().map(|caller| self.inner.streams.enter(caller, right))
    }

    /// What this machine is at present.
    pub fn present(&self) -> Arc<Present> {
        self.inner.lifecycle.present()
    }

    /// Waits while this machine's manager is starting, as after a restart, so that a request is not refused for arriving a
    /// moment early; for at most 20 s.
    pub async fn manager_started(&self) {
        let mut watch = self.inner.lifecycle.watch();
        let started = watch.wait_for(|present| !present.is_starting_manager());
        // Still starting: the request is refused with that text. A lifecycle that has ended changes no more.
        let _ = tokio::time::timeout(START_MAX, started).await;
    }

    /// Brings a manager's state up to date before it is shown or changed; elsewhere there is nothing to do.
    ///
    /// # Errors
    /// Without a leader of the managers (engine-api.md 2.1).
    pub async fn fresh(&self) -> Result<(), ApiError> {
        match &*self.present() {
            Present::Manager(_, control, _) => control.fresh().await.map_err(refusal),
            _ => Ok(()),
        }
    }

    /// The manager's control, in the name of who calls, or the refusal that a manager-only request gets.
    pub fn control(&self) -> Result<Control, ApiError> {
        let control = self.present().control().cloned()?;
        Ok(match &self.caller {
            Some(caller) => control.by(caller.account()),
            None => control,
        })
    }

    /// The manager's replica, or the refusal that a manager-only request gets.
    pub fn replica(&self) -> Result<replica::Replica, ApiError> {
        let present = self.present();
        match &*present {
            Present::Manager(_, _, replica) => Ok(replica.clone()),
            other => other.control().and(Err(ApiError::unavailable(MANAGER_STARTING))),
        }
    }

    /// The task that owns what this machine is.
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.inner.lifecycle
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.inner.machine
    }

    /// The daemon's own id, which outlives memberships.
    pub fn engine_id(&self) -> &str {
        &self.inner.engine_id
    }

    /// The state directory.
    pub fn state_dir(&self) -> &Path {
        &self.inner.state_dir
    }

    /// Cancelled when the daemon ends, or when the caller may not call any more; what streams without end watches it.
    pub fn ends(&self) -> &CancellationToken {
        &self.ends
    }
}

/// A refusal of the cluster's control as the Engine API words it (engine-api.md 2, family 2).
pub fn refusal(error: ControlError) -> ApiError {
    rpc(error.code, &error.message)
}

/// `rpc error: code = <Code> desc = <text>` with the status of the code.
pub fn rpc(code: tonic::Code, text: &str) -> ApiError {
    use http::StatusCode;
    use tonic::Code;
    let status = match code {
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    };
    ApiError { status, message: wire::status::rpc_text(code, text), plain: false }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use tonic::Code;

    #[test]
    fn rpc_texts_and_statuses() {
        let rows = [
            (Code::Unknown, 500, "rpc error: code = Unknown desc = x"),
            (Code::FailedPrecondition, 400, "rpc error: code = FailedPrecondition desc = x"),
            (Code::Cancelled, 500, "rpc error: code = Canceled desc = x"),
            (Code::Unavailable, 503, "rpc error: code = Unavailable desc = x"),
            (Code::NotFound, 404, "rpc error: code = NotFound desc = x"),
        ];
        for (code, status, text) in rows {
            let refused = rpc(code, "x");
            assert_eq!((refused.status.as_u16(), refused.message.as_str()), (status, text));
        }
    }

    #[test]
    fn gate_texts() {
        let member = Membership::default();
        let manager = Membership { manager: true, ..Membership::default() };
        let expired = Failure { text: "x".into(), expired: true };
        let rows = [
            (Present::Inactive, "inactive", NO_SWARM),
            (Present::Pending(member.clone()), "pending", WORKER),
            (Present::Pending(manager), "pending", MANAGER_STARTING),
            (Present::Worker(member.clone()), "active/worker", WORKER),
            (Present::Locked(member.clone()), "locked", LOCKED),
            (Present::Error(member.clone(), Failure::new("x")), "error", NO_SWARM),
            (Present::Error(member, expired), "error", EXPIRED),
        ];
        for (present, ping, text) in rows {
            assert_eq!(present.ping_word(), ping);
            let Err(refused) = present.control() else { panic!("let in") };
            assert_eq!((refused.status.as_u16(), refused.message.as_str()), (503, text));
        }
    }
}
