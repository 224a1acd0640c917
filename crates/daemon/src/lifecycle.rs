//! The one task that owns what this machine is: nothing, joining, a worker or a manager, without restart.
//!
//! - Commands come over a channel and are done one after the other; what the machine is at present goes out over a watch.
//! - `daemon.json` is written before a change begins and after it ended (its own module, `settings`), so a crash in between is
//!   undone or gone on with at the next start.
//! - A join that fails leaves nothing behind; one that only takes long goes on after its answer.

mod leave;
pub(crate) mod locked;
mod member;
mod moved;
mod refound;
mod request;
mod restore;
mod sealing;
mod seat;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pki::secret::SecretString;
use swarmpki::keystore::Keystore;
use swarmpki::{Ended, NodeId, Phase, Role};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use leave::leave_refusal;
pub use request::{InitRequest, JoinRequest};
pub(crate) use restore::RestoreRequest;

use crate::backend::{ALREADY_MEMBER, Failure, Membership, NOT_MEMBER, Present};
use crate::engine_api::error::ApiError;
use crate::engine_api::extra::NodeAt;
use crate::settings::{Resume, Settings, UnderWay};
use crate::unlock_source::UnlockSource;
use member::{Joined, Joining, Running};

/// How long a join may keep its caller waiting. Source: engine-api.md 13.
const JOIN_ANSWER_MAX: Duration = Duration::from_secs(20);
/// Pauses between attempts to start a member that failed: doubled from the first to the last. Source: engine-api.md 3.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(200);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// A member whose parts break off again within this time waits longer each time.
const RESTART_COUNTS: Duration = Duration::from_secs(5 * 60);
/// How long the agent and the manager may take to stop.
const STOP_MAX: Duration = Duration::from_secs(5);

const JOIN_TIMEOUT: &str = "Timeout was reached before node joined. The attempt to join the swarm will continue in the background. Use the \"docker info\" command to see the current swarm status of your node.";
const ENDING: &str = "the daemon is shutting down";
const REMOVED: &str =
    "this node was removed from the swarm: run \"docker swarm leave\" (or \"swarmpki leave\") here, then join again";

/// Handle of the task.
#[derive(Clone)]
pub struct Lifecycle {
    commands: mpsc::Sender<Command>,
    present: watch::Receiver<Arc<Present>>,
}

enum Command {
    Init(Box<InitRequest>, oneshot::Sender<Result<NodeId, ApiError>>),
    Join(Box<JoinRequest>, oneshot::Sender<Result<(), ApiError>>),
    Leave(bool, oneshot::Sender<Result<(), ApiError>>),
    Unlock(SecretString, oneshot::Sender<Result<(), ApiError>>),
    Restore(Box<RestoreRequest>, oneshot::Sender<Result<NodeId, ApiError>>),
    Move(Box<NodeAt>, oneshot::Sender<Result<NodeAt, ApiError>>),
}

/// What the task needs to know of the machine.
#[derive(Clone)]
pub(crate) struct Setup {
    /// The state directory; it exists and is locked by this process.
    pub(crate) state_dir: PathBuf,
    /// Host name to show for this node instead of the kernel's.
    pub(crate) hostname: Option<String>,
    /// How tokens are reached.
    pub(crate) keys: manager::Keys,
    /// The node's files. It is the only one that writes them, and holds the unlock key while there is one.
    pub(crate) keystore: Arc<Keystore>,
    /// Where the unlock key comes from when nobody types it.
    pub(crate) unlock_from: Option<UnlockSource>,
}

/// Why the daemon has to end.
#[derive(Debug, thiserror::Error)]
pub enum LifecycleError {
    /// The settings file could not be read, written or removed.
    #[error("{0}")]
    Settings(String),
    /// The replicated store failed in a way that makes going on unsafe.
    #[error("the cluster's store failed and this process cannot go on safely: {0}")]
    Store(String),
}

impl Lifecycle {
    /// Makes the handle and the task, which runs until `shutdown`.
    pub(crate) fn new(
        setup: Setup,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = Result<(), LifecycleError>> + Send) {
        let (commands, queue) = mpsc::channel(16);
        // What a manager's state directory says before it is opened: whoever asks at once is asked to wait, not refused.
        let at_first = if member::is_manager(&setup) {
            Present::Pending(Membership { manager: true, ..Membership::default() })
        } else {
            Present::Inactive
        };
        let (publish, present) = watch::channel(Arc::new(at_first));
        let owner = Owner { setup, publish, part: Part::Nothing, broke: None };
        (Self { commands, present }, owner.run(queue, shutdown))
    }

    /// What this machine is at present.
    pub fn present(&self) -> Arc<Present> {
        self.present.borrow().clone()
    }

    /// Tells of every change of what this machine is.
    pub fn watch(&self) -> watch::Receiver<Arc<Present>> {
        self.present.clone()
    }

    /// Makes this machine the first manager of a new cluster; answers its node id once it works.
    pub async fn init(&self, request: InitRequest) -> Result<NodeId, ApiError> {
        self.ask(|reply| Command::Init(Box::new(request), reply)).await?.await.unwrap_or_else(|_| Err(ending()))
    }

    /// Joins a cluster; answers once the node is in session with a manager, or after 20 s while it goes on trying.
    pub async fn join(&self, request: JoinRequest) -> Result<(), ApiError> {
        let answer = self.ask(|reply| Command::Join(Box::new(request), reply)).await?;
        match tokio::time::timeout(JOIN_ANSWER_MAX, answer).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(ending())),
            Err(_) => Err(ApiError::unavailable(JOIN_TIMEOUT)),
        }
    }

    /// Leaves the cluster and forgets everything about it.
    pub async fn leave(&self, force: bool) -> Result<(), ApiError> {
        self.ask(|reply| Command::Leave(force, reply)).await?.await.unwrap_or_else(|_| Err(ending()))
    }

    /// Opens a locked manager with the operator's key; answers once it works.
    pub async fn unlock(&self, key: SecretString) -> Result<(), ApiError> {
        self.ask(|reply| Command::Unlock(key, reply)).await?.await.unwrap_or_else(|_| Err(ending()))
    }

    /// Makes this machine the first manager of a cluster that is made anew from a backup; answers its node id once it works.
    pub(crate) async fn restore(&self, request: RestoreRequest) -> Result<NodeId, ApiError> {
        self.ask(|reply| Command::Restore(Box::new(request), reply)).await?.await.unwrap_or_else(|_| Err(ending()))
    }

    /// Has this member found at other addresses; answers these once the others know.
    pub async fn move_to(&self, request: NodeAt) -> Result<NodeAt, ApiError> {
        self.ask(|reply| Command::Move(Box::new(request), reply)).await?.await.unwrap_or_else(|_| Err(ending()))
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<oneshot::Receiver<T>, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| ending())?;
        Ok(answer)
    }
}

fn ending() -> ApiError {
    ApiError::unavailable(ENDING)
}

/// What this machine is, with all that runs for it.
enum Part {
    Nothing,
    Joining(Joining),
    Member(Box<Running>),
    /// A manager whose files are sealed.
    Locked {
        settings: Settings,
    },
    /// A member that could not start; tried again after `pause`.
    Stopped {
        settings: Settings,
        failure: Failure,
        pause: Duration,
    },
    /// A manager of a cluster that was made anew without it: it stays stopped.
    Outlived {
        settings: Settings,
        text: String,
    },
}

/// What can happen by itself.
enum Event {
    Joined(Result<Box<Joined>, ApiError>),
    Status,
    Ended(Ended),
    /// A worker that is to be a manager has its place in the group, or has none.
    Seated(Result<Box<seat::Seat>, String>),
    Fatal(String),
    /// A part of the member broke off.
    Broken(String),
    /// The leader says that this manager has no place in the group.
    Out,
    /// The cluster was made anew without this manager.
    Outlived(String),
    Restart,
}

struct Owner {
    setup: Setup,
    publish: watch::Sender<Arc<Present>>,
    part: Part,
    /// When a part of the member last broke off, and the pause before it was started anew.
    broke: Option<(Instant, Duration)>,
}

impl Owner {
    async fn run(
        mut self,
        mut queue: mpsc::Receiver<Command>,
        shutdown: CancellationToken,
    ) -> Result<(), LifecycleError> {
        let outcome = self.serve(&mut queue, &shutdown).await;
        // The socket goes on answering while this stops: what is running is still shown, changes are refused.
        queue.close();
        std::mem::replace(&mut self.part, Part::Nothing).stop().await;
        outcome
    }

    async fn serve(
        &mut self,
        queue: &mut mpsc::Receiver<Command>,
        shutdown: &CancellationToken,
    ) -> Result<(), LifecycleError> {
        match Settings::resume(&self.setup.state_dir).map_err(settings_failed)? {
            Resume::Nothing => {}
            Resume::Wipe => {
                info!("removing what an unfinished init, join or leave left behind");
                Settings::wipe(&self.setup.state_dir).map_err(settings_failed)?;
            }
            Resume::Member(settings) => self.start_member(settings, RESTART_PAUSE_MIN).await,
        }
        loop {
            self.show();
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                command = queue.recv() => match command {
                    Some(command) => self.obey(command).await?,
                    None => return Ok(()),
                },
                event = self.part.event() => self.react(event).await?,
            }
        }
    }

    async fn obey(&mut self, command: Command) -> Result<(), LifecycleError> {
        // A caller that went away has had its time-out; what it asked for stands all the same.
        match command {
            Command::Init(request, reply) => {
                let _ = reply.send(self.init(*request).await);
            }
            Command::Join(request, reply) => {
                if let Err((refused, reply)) = self.join(*request, reply) {
                    let _ = reply.send(Err(refused));
                }
            }
            Command::Leave(force, reply) => {
                let _ = reply.send(self.leave(force).await);
            }
            Command::Restore(request, reply) => {
                let _ = reply.send(self.restore(*request).await);
            }
            Command::Move(request, reply) => {
                let _ = reply.send(self.move_to(*request).await);
            }
            Command::Unlock(key, reply) => {
                let _ = reply.send(self.unlock(key).await);
            }
        }
        Ok(())
    }

    async fn react(&mut self, event: Event) -> Result<(), LifecycleError> {
        match event {
            Event::Joined(Ok(joined)) => self.joined(*joined).await,
            Event::Joined(Err(refused)) => self.join_failed(refused).await,
            Event::Status => {
                if self.status_changed() {
                    self.dismissed().await;
                }
            }
            Event::Ended(ended) => self.ended(&ended).await,
            Event::Seated(taken) => self.seated(taken),
            Event::Fatal(text) => {
                error!(%text, "the cluster's store failed");
                return Err(LifecycleError::Store(text));
            }
            Event::Broken(text) => self.broken(text).await,
            Event::Out => self.out().await,
            Event::Outlived(text) => self.outlived(text).await,
            Event::Restart => {
                if let Part::Stopped { settings, pause, .. } = &self.part {
                    let (settings, pause) = (settings.clone(), pause.saturating_mul(2).min(RESTART_PAUSE_MAX));
                    self.start_member(settings, pause).await;
                }
            }
        }
        Ok(())
    }

    /// This manager is none any more: as long as it serves, its own node would turn to it. By its certificate, which another manager may replace
    /// next, it asks for another place, or goes on as a worker.
    async fn out(&mut self) {
        let Part::Member(running) = &mut self.part else { return };
        let role = running.status.borrow().role;
        if role == Some(Role::Worker) {
            return self.dismissed().await;
        }
        if let Some(seat) = running.stand_up() {
            info!("this manager has no place among the managers any more");
            seat.stop().await;
        }
        running.follow_role(&self.setup, role);
    }

    /// A part of this member broke off, by a mistake of ours: all of it is stopped, and started anew from what is on disk.
    async fn broken(&mut self, text: String) {
        let Part::Member(running) = std::mem::replace(&mut self.part, Part::Nothing) else { return };
        let now = Instant::now();
        let again = self.broke.filter(|(at, _)| now.duration_since(*at) < RESTART_COUNTS);
        let pause = again.map_or(RESTART_PAUSE_MIN, |(_, pause)| pause.saturating_mul(2).min(RESTART_PAUSE_MAX));
        self.broke = Some((now, pause));
        error!(%text, restart_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX), "a part of this member broke off: the member is started anew");
        let settings = running.settings.clone();
        let failure = Failure::new(format!("a part of this member broke off and it is started anew: {text}"));
        self.publish.send_replace(Arc::new(Present::Error(Membership::of(&settings), failure.clone())));
        running.stop().await;
        self.part = Part::Stopped { settings, failure, pause };
    }

    /// Publishes what the machine is now.
    fn show(&self) {
        let present = self.part.present();
        self.publish.send_replace(Arc::new(present));
    }

    async fn init(&mut self, request: InitRequest) -> Result<NodeId, ApiError> {
        if request.force_new_cluster {
            return self.force_new_cluster(&request).await;
        }
        if !matches!(self.part, Part::Nothing) {
            return Err(ApiError::unavailable(ALREADY_MEMBER));
        }
        let plan = request.check(&crate::address::interfaces(), &self.setup.keys).await?;
        let listener = seat::bind(plan.addresses.listen).await?;
        match self.found(plan, listener).await {
            Ok((node_id, running)) => {
                self.part = Part::Member(Box::new(running));
                self.show();
                info!(node = %node_id, "cluster founded");
                Ok(node_id)
            }
            Err(failed) => {
                warn!(error = %failed, "init failed");
                self.wipe();
                Err(failed)
            }
        }
    }

    async fn found(
        &self,
        plan: request::InitPlan,
        listener: tokio::net::TcpListener,
    ) -> Result<(NodeId, Running), ApiError> {
        let internal =
            |error: &dyn std::fmt::Display| ApiError::internal(format!("swarm could not be started: {error}"));
        let port = listener.local_addr().map_err(|error| internal(&error))?.port();
        let addresses = plan.addresses.clone().with_port(port);
        let settings = Settings {
            format: Settings::FORMAT,
            listen_addr: addresses.listen.to_string(),
            advertise_addr: addresses.advertise.to_string(),
            remote_addr: String::new(),
            under_way: UnderWay::Init,
        };
        settings.save(&self.setup.state_dir).map_err(|error| internal(&error))?;
        let open = || member::open(&self.setup, &settings);
        let founded = seat::Founded::found(&self.setup, &plan, addresses.advertise, open).await;
        let (node, founded) = founded.map_err(|error| internal(&error))?;
        let seat = founded
            .sit(&node.handle(), listener, &settings, self.setup.keys.clone())
            .map_err(|error| internal(&error))?;
        self.founded(node, settings, seat).await
    }

    /// Runs the first manager of a cluster that is made; it counts from when it works.
    async fn founded(
        &self,
        node: swarmpki::Node,
        mut settings: Settings,
        seat: seat::Seat,
    ) -> Result<(NodeId, Running), ApiError> {
        let internal =
            |error: &dyn std::fmt::Display| ApiError::internal(format!("swarm could not be started: {error}"));
        let mut running = Running::start(node, settings.clone(), None, Some(seat));
        let node_id = match running.until_ready(JOIN_ANSWER_MAX).await {
            Ok(node_id) => node_id,
            Err(text) => {
                running.stop().await;
                return Err(internal(&text));
            }
        };
        settings.under_way = UnderWay::Nothing;
        if let Err(error) = settings.save(&self.setup.state_dir) {
            running.stop().await;
            return Err(internal(&error));
        }
        running.settings = settings;
        Ok((node_id, running))
    }

    #[allow(clippy::result_large_err, clippy::type_complexity)]
    fn join(
        &mut self,
        request: JoinRequest,
        reply: oneshot::Sender<Result<(), ApiError>>,
    ) -> Result<(), (ApiError, oneshot::Sender<Result<(), ApiError>>)> {
        if !matches!(self.part, Part::Nothing) {
            return Err((ApiError::unavailable(ALREADY_MEMBER), reply));
        }
        let plan = match request.check(&crate::address::interfaces()) {
            Ok(plan) => plan,
            Err(refused) => return Err((refused, reply)),
        };
        let settings = Settings {
            format: Settings::FORMAT,
            listen_addr: plan.listen.to_string(),
            advertise_addr: plan.advertise.map(|address| address.to_string()).unwrap_or_default(),
            remote_addr: plan.remote.clone(),
            under_way: UnderWay::Join,
        };
        if let Err(error) = settings.save(&self.setup.state_dir) {
            return Err((ApiError::internal(error.to_string()), reply));
        }
        info!(manager = %plan.remote, "joining");
        self.part = Part::Joining(Joining::start(&self.setup, plan, settings, reply));
        Ok(())
    }

    /// The certificate came, and a manager's place in the group: runs the node; the join is answered when a manager serves its session.
    async fn joined(&mut self, Joined { node, seat }: Joined) {
        let Part::Joining(mut joining) = std::mem::replace(&mut self.part, Part::Nothing) else { return };
        // A manager is one of the group now: it goes on as that whatever comes.
        if seat.is_some() {
            joining.settings.under_way = UnderWay::Nothing;
            if let Err(error) = joining.settings.save(&self.setup.state_dir) {
                error!(%error, "that the join has ended could not be written down");
            }
        }
        let running = Running::start(node, joining.settings, joining.answer, seat);
        self.part = Part::Member(Box::new(running));
    }

    async fn join_failed(&mut self, refused: ApiError) {
        warn!(error = %refused, "join failed");
        let answer = match std::mem::replace(&mut self.part, Part::Nothing) {
            Part::Joining(joining) => joining.answer,
            Part::Member(mut running) => {
                let answer = running.answer.take();
                running.stop().await;
                answer
            }
            Part::Nothing | Part::Locked { .. } | Part::Stopped { .. } | Part::Outlived { .. } => None,
        };
        self.wipe();
        self.show();
        if let Some(answer) = answer {
            let _ = answer.send(Err(refused));
        }
    }

    /// Whether this node is a manager no more.
    fn status_changed(&mut self) -> bool {
        let Part::Member(running) = &mut self.part else { return false };
        let status = running.status.borrow_and_update().clone();
        let ready = status.phase == Phase::Ready;
        running.ready |= ready;
        let dismissed = running.follow_role(&self.setup, status.role);
        if !ready || (running.settings.under_way != UnderWay::Join && running.answer.is_none()) {
            return dismissed;
        }
        running.settings.under_way = UnderWay::Nothing;
        let saved = running.settings.save(&self.setup.state_dir).map_err(|error| ApiError::internal(error.to_string()));
        let answer = running.answer.take();
        info!(node = status.node.as_ref().map(NodeId::as_str), "joined");
        // Shown first: the caller asks for it as soon as it is answered.
        self.show();
        if let Some(answer) = answer {
            let _ = answer.send(saved);
        }
        dismissed
    }

    /// A worker that was promoted is a manager now. One that has got no place yet asks again.
    fn seated(&mut self, taken: Result<Box<seat::Seat>, String>) {
        let Part::Member(running) = &mut self.part else { return };
        match taken {
            Ok(seat) => {
                info!("this node is a manager now");
                running.sit_down(*seat);
            }
            Err(error) => {
                warn!(%error, "this node is to be a manager and has no place among them yet");
                let role = running.status.borrow().role;
                running.follow_role(&self.setup, role);
            }
        }
    }

    /// A manager that was demoted is a worker now: what it held of the cluster goes.
    async fn dismissed(&mut self) {
        let Part::Member(running) = &mut self.part else { return };
        if let Some(seat) = running.stand_up() {
            seat.stop().await;
        }
        // Who founded the cluster is told from who joined it by this; it is a worker of others' now.
        let known = running.status.borrow().managers.first().map(|peer| peer.addr.clone());
        if let Some(manager) = known.filter(|_| running.settings.founded()) {
            running.settings.remote_addr = manager;
            if let Err(error) = running.settings.save(&self.setup.state_dir) {
                error!(%error, "that this node is a worker now could not be written down");
            }
        }
        if let Err(error) = seat::forget(&self.setup, running.keystore()).await {
            error!(%error, "what this node held as a manager could not be removed");
        }
        info!("this node is a worker now");
    }

    async fn ended(&mut self, ended: &Ended) {
        let Part::Member(running) = &mut self.part else { return };
        let text = running
            .status
            .borrow()
            .last_error
            .as_ref()
            .map_or_else(|| format!("{ended:?}"), |trouble| trouble.text.clone());
        if running.settings.under_way == UnderWay::Join {
            self.join_failed(ApiError::internal(text)).await;
        } else {
            warn!(%text, "this node's membership has ended");
            // Who was removed while it did not run has no place to be told of: it would wait for a leader for ever.
            if matches!(ended, Ended::Removed { .. })
                && let Some(seat) = running.stand_up()
            {
                seat.stop().await;
            }
        }
    }

    async fn leave(&mut self, force: bool) -> Result<(), ApiError> {
        if matches!(self.part, Part::Nothing) {
            return Err(ApiError::unavailable(NOT_MEMBER));
        }
        if matches!(self.part, Part::Locked { .. }) && !force {
            return Err(ApiError::unavailable(locked::LEAVE));
        }
        if let Present::Manager(_, control, _) = self.part.present()
            && !force
        {
            return Err(ApiError::unavailable(leave_refusal(&control.nodes())));
        }
        // Docker lets a manager that does not run go without a word, and the only copy of the CA's key with it.
        if let Part::Stopped { failure, .. } = &self.part
            && (member::is_manager(&self.setup) || failure.text.starts_with(member::STORE_LOST))
            && !force
        {
            return Err(ApiError::unavailable(leave::STOPPED_MANAGER));
        }
        if matches!(&self.part, Part::Member(running) if running.store_lost) && !force {
            return Err(ApiError::unavailable(leave::STOPPED_MANAGER));
        }
        if matches!(self.part, Part::Outlived { .. }) && !force {
            return Err(ApiError::unavailable(leave::STOPPED_MANAGER));
        }
        let part = std::mem::replace(&mut self.part, Part::Nothing);
        self.show();
        part.stop().await;
        Settings::wipe(&self.setup.state_dir).map_err(|error| ApiError::internal(error.to_string()))?;
        self.setup.keystore.set_kek(None, 0);
        info!("left the cluster");
        Ok(())
    }

    /// Starts what the settings say; a failure is shown and tried again.
    async fn start_member(&mut self, settings: Settings, pause: Duration) {
        if settings.under_way == UnderWay::Nothing && matches!(self.part, Part::Nothing) {
            let starting = Membership { manager: member::is_manager(&self.setup), ..Membership::of(&settings) };
            self.publish.send_replace(Arc::new(Present::Pending(starting)));
        }
        if locked::is_locked(&self.setup).await && !locked::unlock_unattended(&self.setup).await {
            self.part = Part::Locked { settings };
            return;
        }
        self.part = match member::resume(&self.setup, &settings).await {
            Ok(running) => Part::Member(Box::new(running)),
            Err(failure) => {
                error!(error = %failure.text, retry_in_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX), "this member could not start");
                Part::Stopped { settings, failure, pause }
            }
        };
    }

    fn wipe(&self) {
        self.setup.keystore.set_kek(None, 0);
        if let Err(error) = Settings::wipe(&self.setup.state_dir) {
            error!(%error, "what a failed init or join left behind could not be removed");
        }
    }
}

impl Part {
    /// What happens next by itself.
    async fn event(&mut self) -> Event {
        match self {
            Self::Nothing | Self::Locked { .. } | Self::Outlived { .. } => std::future::pending().await,
            Self::Joining(joining) => Event::Joined(joining.finished().await.map(Box::new)),
            Self::Member(running) => running.event().await,
            Self::Stopped { pause, .. } => {
                tokio::time::sleep(*pause).await;
                Event::Restart
            }
        }
    }

    fn present(&self) -> Present {
        match self {
            Self::Nothing => Present::Inactive,
            Self::Joining(joining) => joining.present(),
            Self::Member(running) => running.present(),
            Self::Locked { settings } => Present::Locked(Membership::locked(settings)),
            Self::Stopped { settings, failure, .. } => Present::Error(Membership::of(settings), failure.clone()),
            Self::Outlived { settings, text } => Present::Error(Membership::of(settings), Failure::new(text.clone())),
        }
    }

    async fn stop(self) {
        match self {
            Self::Nothing | Self::Locked { .. } | Self::Stopped { .. } | Self::Outlived { .. } => {}
            Self::Joining(joining) => joining.give_up().await,
            Self::Member(running) => running.stop().await,
        }
    }
}

#[allow(clippy::needless_pass_by_value)]
fn settings_failed(error: crate::settings::SettingsError) -> LifecycleError {
    LifecycleError::Settings(error.to_string())
}
