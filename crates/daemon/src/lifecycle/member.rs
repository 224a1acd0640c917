//! A node that joins, and one that runs: worker, or manager with its [`Seat`].

use std::sync::Arc;
use std::time::Duration;

use manager::peers::EnlistError;
use swarmpki::{Description, Ended, JoinError, Node, NodeError, NodeId, Phase, Role, Status};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::request::JoinPlan;
use super::seat::{Seat, SeatError};
use super::{Event, REMOVED, STOP_MAX, Setup};
use crate::ENGINE_VERSION;
use crate::backend::{Failure, Membership, Present, rpc};
use crate::engine_api::error::ApiError;
use crate::settings::{Settings, UnderWay};

/// The error state of a manager without its store: as a worker it would look for a manager for ever.
pub(super) const STORE_LOST: &str = "this node is a manager and its store (raft/ in the state directory) is lost: restore the state directory from backup, or give the swarm up with \"swarmpki leave --force\"";

/// What is logged and shown of a node that is to be a manager, before the reason.
pub(super) const NO_PLACE: &str = "this node is to be a manager and has no place among them yet";

/// Who waits for a join to come through.
pub(super) type Answer = Option<oneshot::Sender<Result<(), ApiError>>>;

/// Whether the state directory holds a manager's store.
pub(super) fn is_manager(setup: &Setup) -> bool {
    // One that is damaged is one; without a header, the making of one was cut short.
    !matches!(replica::header(&setup.state_dir.join("raft")), Ok(None))
}

/// The agent's configuration for this machine.
pub(super) fn agent_config(setup: &Setup, managers: Vec<String>) -> swarmpki::Config {
    let mut config = swarmpki::Config::new(&setup.state_dir);
    config.keystore = setup.keystore.clone();
    config.managers = managers;
    config.can_manage = true;
    let hostname = setup.hostname.clone();
    config.describe = Arc::new(move || {
        let seen = Description { version: ENGINE_VERSION.to_owned(), ..Description::default() };
        match &hostname {
            Some(hostname) => Description { hostname: hostname.clone(), ..seen },
            None => seen,
        }
    });
    config
}

/// A join under way.
pub(super) struct Joining {
    pub(super) settings: Settings,
    pub(super) answer: Answer,
    status: Option<watch::Receiver<Status>>,
    task: JoinHandle<Result<Joined, ApiError>>,
}

/// What came of a join: a node with its certificate, and its manager's part if that is a manager's.
pub(super) struct Joined {
    pub(super) node: Node,
    pub(super) seat: Option<Seat>,
}

impl Joining {
    /// Starts asking for a certificate.
    pub(super) fn start(
        setup: &Setup,
        plan: JoinPlan,
        settings: Settings,
        answer: oneshot::Sender<Result<(), ApiError>>,
    ) -> Self {
        let config = agent_config(setup, Vec::new());
        let mut request = swarmpki::JoinRequest::new(plan.token, [plan.remote]);
        request.availability = match plan.availability {
            manager::view::Availability::Active => swarmpki::Availability::Active,
            manager::view::Availability::Pause => swarmpki::Availability::Pause,
            manager::view::Availability::Drain => swarmpki::Availability::Drain,
        };
        let (status, task) = match Node::prepare(config, request) {
            Ok(pending) => {
                let status = pending.handle().status();
                (Some(status), tokio::spawn(join(setup.clone(), settings.clone(), pending)))
            }
            Err(error) => (None, tokio::spawn(std::future::ready(Err(join_refusal(&error))))),
        };
        Self { settings, answer: Some(answer), status, task }
    }

    /// How the request for a certificate ended.
    pub(super) async fn finished(&mut self) -> Result<Joined, ApiError> {
        match (&mut self.task).await {
            Ok(finished) => finished,
            Err(error) => Err(ApiError::internal(error.to_string())),
        }
    }

    pub(super) fn present(&self) -> Present {
        Present::Pending(Membership { status: self.status.clone(), ..Membership::of(&self.settings) })
    }

    pub(super) async fn give_up(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        if let Some(answer) = self.answer {
            let _ = answer.send(Err(ApiError::unavailable("the join was given up: this node was told to leave")));
        }
    }
}

/// Asks for a certificate, and with a manager's for a place in the group.
async fn join(setup: Setup, settings: Settings, pending: swarmpki::Pending) -> Result<Joined, ApiError> {
    let node = pending.join().await.map_err(|error| join_refusal(&error))?;
    let manager = node.status().borrow().role == Some(Role::Manager);
    let seat = if manager {
        let taken = Seat::take(&setup, &settings, &node.handle()).await;
        let id = node.status().borrow().node.clone();
        Some(taken.map_err(|error| seat_refusal(&error, id.as_ref()))?)
    } else {
        None
    };
    Ok(Joined { node, seat })
}

/// A place in the group that was not given, in the words of whoever refused it.
fn seat_refusal(error: &SeatError, node: Option<&NodeId>) -> ApiError {
    match error {
        SeatError::Enlist(EnlistError::Refused { code: tonic::Code::Unimplemented, .. }) => {
            ApiError::not_implemented(foreign_managers(node))
        }
        SeatError::Enlist(EnlistError::Refused { code, message }) => rpc(*code, message),
        SeatError::Enlist(EnlistError::Unreachable(text)) => rpc(tonic::Code::Unavailable, text),
        other => ApiError::internal(other.to_string()),
    }
}

/// The refusal of a join with the manager token of a swarm of engines, which has let us in as `node` and keeps that: an engine's manager does
/// not remove a node that never came, and waits for it to renew when it rotates its root.
fn foreign_managers(node: Option<&NodeId>) -> String {
    let id = node.map_or("ID", NodeId::as_str);
    format!(
        "the managers of that swarm are Docker Engines, whose group only engines can enter: join with the worker token (docker swarm join-token \
         worker). That swarm now lists this machine as node {id}, which holds up a rotation of its root: on its manager, run \
         \"docker node rm --force {id}\" (or \"swarmpki node rm --force {id}\")"
    )
}

/// How long a node waits before it asks for a place among the managers again.
const SEAT_PAUSE: Duration = Duration::from_secs(2);

/// A node that runs.
pub(super) struct Running {
    pub(super) settings: Settings,
    pub(super) answer: Answer,
    pub(super) seat: Option<Seat>,
    pub(super) status: watch::Receiver<Status>,
    /// Whether a manager ever served its session since it runs here.
    pub(super) ready: bool,
    ended: bool,
    /// A worker that takes a place among the managers.
    seating: Option<JoinHandle<Result<Seat, SeatError>>>,
    /// Why it got no place among the managers when it last asked.
    denied: Option<String>,
    /// Whether it is a manager whose store is lost, until the others have given it a place anew.
    pub(super) store_lost: bool,
    stop: CancellationToken,
    agent: swarmpki::Handle,
    task: JoinHandle<Ended>,
}

impl Running {
    /// Runs a node.
    pub(super) fn start(node: Node, settings: Settings, answer: Answer, seat: Option<Seat>) -> Self {
        let stop = CancellationToken::new();
        let (status, agent) = (node.status(), node.handle());
        agent.seated(seat.as_ref().map(Seat::addr));
        let task = tokio::spawn(node.run(stop.clone().cancelled_owned()));
        Self {
            settings,
            answer,
            seat,
            status,
            ready: false,
            ended: false,
            seating: None,
            denied: None,
            store_lost: false,
            stop,
            agent,
            task,
        }
    }

    /// The certificate's role may be another than what this node does: begins to take a place among the managers, or gives that up. Whether it
    /// is a manager no more: it gets a worker's certificate when it is out of the group.
    pub(super) fn follow_role(&mut self, setup: &Setup, role: Option<Role>) -> bool {
        if role == Some(Role::Worker) {
            self.denied = None;
        }
        match (role, self.seat.is_some(), &self.seating) {
            (Some(Role::Manager), false, None) => {
                let (setup, settings, agent) = (setup.clone(), self.settings.clone(), self.agent.clone());
                // What was asked for in vain is asked for again in a while.
                let pause = if self.denied.is_some() { SEAT_PAUSE } else { Duration::ZERO };
                self.seating = Some(tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    Seat::take(&setup, &settings, &agent).await
                }));
            }
            (Some(Role::Worker), false, Some(_)) => {
                let (setup, keystore) = (setup.clone(), self.keystore());
                if let Some(task) = self.seating.take() {
                    task.abort();
                    tokio::spawn(async move {
                        let _ = task.await;
                        // What was begun holds the cluster's keys: a worker keeps none of it.
                        if let Err(error) = super::seat::forget(&setup, keystore).await {
                            tracing::error!(%error, "what this node got on its way to a manager could not be removed");
                        }
                    });
                }
            }
            _ => {}
        }
        role == Some(Role::Worker) && self.seat.is_some()
    }

    /// It is a manager now.
    pub(super) fn sit_down(&mut self, seat: Seat) {
        self.agent.seated(Some(seat.addr()));
        (self.seat, self.store_lost) = (Some(seat), false);
    }

    /// What it was a manager by, which it is no more.
    pub(super) fn stand_up(&mut self) -> Option<Seat> {
        self.agent.seated(None);
        self.seat.take()
    }

    /// There is a manager there.
    pub(super) fn manager_at(&self, addr: &str) {
        if let Some(seat) = &self.seat {
            seat.control().manager_at(addr.to_owned());
        }
        self.agent.manager_at(addr.to_owned());
    }

    /// Whether the cluster has removed this node, as far as it was told.
    pub(super) fn is_removed(&self) -> bool {
        self.status.borrow().phase == Phase::Removed
    }

    pub(super) fn keystore(&self) -> Arc<swarmpki::keystore::Keystore> {
        self.agent.keystore()
    }

    /// Waits for what happens next.
    pub(super) async fn event(&mut self) -> Event {
        let (seat, seating) = (&self.seat, &mut self.seating);
        let fatal = async {
            match seat {
                Some(seat) => seat.failed().await,
                None => std::future::pending().await,
            }
        };
        let out = async {
            match seat {
                Some(seat) => seat.out().await,
                None => std::future::pending().await,
            }
        };
        let broken = async {
            match seat {
                Some(seat) => seat.broken().await,
                None => std::future::pending().await,
            }
        };
        let outlived = async {
            match seat {
                Some(seat) => seat.outlived().await,
                None => std::future::pending().await,
            }
        };
        if self.ended {
            return tokio::select! {
                text = fatal => Event::Fatal(text),
                text = broken => Event::Broken(text),
                text = outlived => Event::Outlived(text),
            };
        }
        let seated = async {
            let Some(task) = seating else { return std::future::pending().await };
            match task.await {
                Ok(taken) => taken.map(Box::new).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        };
        let event = tokio::select! {
            taken = seated => Event::Seated(taken),
            text = fatal => Event::Fatal(text),
            text = broken => Event::Broken(text),
            text = outlived => Event::Outlived(text),
            () = out => Event::Out,
            changed = self.status.changed() => match changed {
                Ok(()) => Event::Status,
                Err(_) => Self::outcome(&mut self.task, &mut self.ended).await,
            },
            ended = Self::outcome(&mut self.task, &mut self.ended) => ended,
        };
        if let Event::Seated(taken) = &event {
            (self.seating, self.denied) = (None, taken.as_ref().err().cloned());
        }
        event
    }

    async fn outcome(task: &mut JoinHandle<Ended>, ended: &mut bool) -> Event {
        let outcome = task.await;
        *ended = true;
        match outcome {
            Ok(outcome) => Event::Ended(outcome),
            Err(error) => Event::Broken(format!("the node's agent: {error}")),
        }
    }

    /// Waits until a manager serves the session; answers the node's id.
    pub(super) async fn until_ready(&mut self, at_most: Duration) -> Result<NodeId, String> {
        let decided = |status: &Status| status.phase == Phase::Ready || status.phase.is_final();
        let waited = tokio::time::timeout(at_most, self.status.wait_for(decided))
            .await
            .map(|found| found.map(|status| status.clone()));
        let status = match waited {
            Ok(Ok(status)) => status,
            Ok(Err(_)) => return Err("the node's agent ended".to_owned()),
            Err(_) => {
                let last = self.status.borrow().last_error.as_ref().map(|trouble| trouble.text.clone());
                return Err(last.unwrap_or_else(|| "the node got no session with its own manager in time".to_owned()));
            }
        };
        match status.node.filter(|_| status.phase == Phase::Ready) {
            Some(node) => {
                self.ready = true;
                Ok(node)
            }
            None => {
                Err(status.last_error.map_or_else(|| "the node's agent stopped".to_owned(), |trouble| trouble.text))
            }
        }
    }

    pub(super) fn present(&self) -> Present {
        let status = self.status.borrow().clone();
        let mut membership = Membership {
            status: Some(self.status.clone()),
            agent: Some(self.agent.clone()),
            manager: self.seat.is_some() || self.store_lost,
            ..Membership::of(&self.settings)
        };
        if self.ready || !self.settings_join() {
            membership.join_addr.clear();
        }
        membership.trouble = self.denied.as_ref().map(|why| format!("{NO_PLACE}: {why}"));
        let text = |default: &str| {
            status.last_error.as_ref().map_or_else(|| default.to_owned(), |trouble| trouble.text.clone())
        };
        if let Some(seat) = self.seat.as_ref().filter(|_| status.phase != Phase::Removed) {
            return Present::Manager(membership, seat.control(), seat.replica());
        }
        match status.phase {
            Phase::Removed => Present::Error(membership, Failure::new(REMOVED)),
            Phase::Failed => Present::Error(membership, Failure::new(text("the node stopped"))),
            Phase::Expired => {
                Present::Error(membership, Failure { text: text("the node's certificate has expired"), expired: true })
            }
            _ if self.store_lost => match &self.denied {
                None => Present::Pending(membership),
                Some(why) => {
                    let text = format!("{STORE_LOST}. No other manager has given it a place anew: {why}");
                    Present::Error(membership, Failure::new(text))
                }
            },
            _ if self.ready => Present::Worker(membership),
            _ => Present::Pending(membership),
        }
    }

    fn settings_join(&self) -> bool {
        self.settings.under_way == UnderWay::Join
    }

    /// Stops the agent, then the manager.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.seating.take() {
            task.abort();
            let _ = task.await;
        }
        if !self.ended && tokio::time::timeout(STOP_MAX, &mut self.task).await.is_err() {
            self.task.abort();
        }
        if let Some(seat) = self.seat.take() {
            seat.stop().await;
        }
        if let Some(answer) = self.answer.take() {
            let _ = answer.send(Err(ApiError::unavailable("the join was given up: this node was told to leave")));
        }
    }
}

/// Opens the identity on disk. `managers` are tried when the cluster told none.
pub(super) fn open(setup: &Setup, settings: &Settings) -> Result<Node, NodeError> {
    let known = [&settings.advertise_addr, &settings.remote_addr];
    // A manager's agent talks to the manager beside it; a worker's own address is no manager's.
    let manager = is_manager(setup) || settings.founded();
    let known = known.into_iter().skip(usize::from(!manager)).filter(|address| !address.is_empty());
    Node::open(agent_config(setup, known.cloned().collect()))
}

/// Starts again what the directory holds.
pub(super) async fn resume(setup: &Setup, settings: &Settings) -> Result<Running, Failure> {
    let node = open(setup, settings).map_err(|error| Failure::new(error.to_string()))?;
    let failed = |error: SeatError| Failure::new(error.to_string());
    let role = node.status().borrow().role;
    let manager = role == Some(Role::Manager) || (role.is_none() && settings.founded());
    let seat = if is_manager(setup) {
        Seat::resume(setup, settings, &node).await.map_err(failed)?
    } else if manager && settings.founded() {
        return Err(Failure::new(STORE_LOST));
    } else {
        None
    };
    // It was to be a manager, and fell back before it was one.
    if seat.is_none() && role == Some(Role::Worker) && is_manager(setup) {
        super::seat::forget(setup, setup.keystore.clone()).await.map_err(failed)?;
    }
    let mut running = Running::start(node, settings.clone(), None, seat);
    // A join that was cut short, or a store that is lost: the group has another copy, and gives this node another place.
    let lost = running.seat.is_none() && !is_manager(setup);
    running.store_lost = manager && lost && settings.under_way != UnderWay::Join;
    running.follow_role(setup, role);
    Ok(running)
}

/// A failed join in the engine's words (engine-api.md 2.1).
pub(super) fn join_refusal(error: &NodeError) -> ApiError {
    let NodeError::Join(error) = error else {
        return ApiError::internal(error.to_string());
    };
    match error {
        JoinError::Refused { code, text } => rpc(tonic::Code::from_i32(*code), text),
        JoinError::NoManager { last, .. } => {
            let dial = dial_text(last);
            rpc(
                tonic::Code::Unavailable,
                &format!("connection error: desc = \"transport: Error while dialing: {dial}\""),
            )
        }
        JoinError::NoAddress => ApiError::bad_request("at least 1 RemoteAddr is required to join"),
        other => ApiError::internal(other.to_string()),
    }
}

/// `host:port: words (os error N)` as the engine words it: `dial tcp host:port: connect: words`.
fn dial_text(last: &str) -> String {
    let parts = last.strip_suffix(')').and_then(|rest| rest.rsplit_once(" (os error "));
    let number = parts.and_then(|(_, number)| number.parse().ok());
    let address = last.split_once(": ").map(|(address, _)| address);
    match (address, number) {
        (Some(address), Some(number)) => {
            let words = nix::errno::Errno::from_raw(number).desc().to_lowercase();
            format!("dial tcp {address}: connect: {words}")
        }
        _ => last.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_join_as_manager_of_engines_says_how_to_remove_what_it_left_behind() {
        let node: NodeId = "dzm52djk15bshpeec4zdo7hez".parse().unwrap();
        let text = foreign_managers(Some(&node));
        assert!(text.contains("run \"docker node rm --force dzm52djk15bshpeec4zdo7hez\""), "{text}");
    }

    #[test]
    fn refusals_of_a_join() {
        let digest = pki::digest::Digest::of(b"root");
        let rows = [
            (
                JoinError::Refused { code: 3, text: "A valid join token is necessary to join this cluster".into() },
                400,
                "rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster".to_owned(),
            ),
            (
                JoinError::NoManager { tried: vec!["127.0.2.9:2377".into()], last: "127.0.2.9:2377: Connection refused (os error 111)".into() },
                503,
                "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: dial tcp 127.0.2.9:2377: connect: connection refused\"".to_owned(),
            ),
            (
                JoinError::RootMismatch { token: digest, presented: pki::digest::Digest::of(b"other"), source_of: "x".into() },
                500,
                format!("remote CA does not match fingerprint. Expected: {}", digest.hex()),
            ),
        ];
        for (error, status, text) in rows {
            let refused = join_refusal(&NodeError::Join(error));
            assert_eq!((refused.status.as_u16(), refused.message), (status, text));
        }
    }
}
