//! A cluster made anew by one of its managers (`init --force-new-cluster`): when too few of them are left, nobody can ask the others.
//!
//! - The manager is stopped, its store is made anew beside what it is, and it starts again, alone in its group. If that cannot be done it
//!   starts again as it was, or is locked again if it was.
//! - Its addresses are written before its store is made anew, and put back if that cannot be done: what can fail comes first.
//! - While there is a majority it is refused: the others would be shut out although they can be asked. Docker does it.
//! - From then on it turns to no manager but itself: the others, if any still runs, go on as another cluster of the same name.
//! - What has taken effect is not reported as refused: who would believe that tries again, or goes on with the others.
//! - What the request says of settings is not looked at: the cluster keeps its own. Docker takes some of it, and so begins a rotation of
//!   the root, or unlocks its managers, unasked.

use cluster::command::{Command, Founder, Refound};
use cluster::{Outcome, Rejection, epoch};
use manager::chance::Chance;
use pki::identity::NodeId;
use replica::{Handle as _, OpenError, Replica, StoreError};
use std::time::Duration;
use tracing::{error, info, warn};

use super::request::InitRequest;
use super::{JOIN_ANSWER_MAX, Owner, Part, REMOVED, RESTART_PAUSE_MIN, locked, member, seat};
use crate::address;
use crate::backend::WORKER;
use crate::data_key;
use crate::engine_api::error::ApiError;
use crate::settings::Settings;

/// How long this manager tries to reach a majority before it is believed that there is none. An election takes less.
const MAJORITY_WITHIN: Duration = Duration::from_secs(3);

const HAS_MAJORITY: &str = "this swarm has a leader and a majority of its managers, whom --force-new-cluster would shut out. A manager that is gone is removed without it: \
     \"docker node demote NODE\", then \"docker node rm NODE\". To go on with this manager alone, demote the others first";

/// Whether there are other managers, and with those that are reached something can be decided.
async fn has_majority(replica: &Replica) -> bool {
    replica.state().members().len() > 1
        && tokio::time::timeout(MAJORITY_WITHIN, replica.read()).await.is_ok_and(|read| read.is_ok())
}

impl Owner {
    /// Makes this manager the only one of its cluster; answers its node id once it works. One that is locked takes the unlock key with the
    /// request, and runs at no moment as the manager that it was.
    pub(super) async fn force_new_cluster(&mut self, request: &InitRequest) -> Result<NodeId, ApiError> {
        // Those who removed it go on with the cluster: with this node it would be there twice.
        if let Part::Member(running) = &self.part
            && running.is_removed()
        {
            return Err(ApiError::unavailable(REMOVED));
        }
        if let Part::Member(running) = &self.part
            && let Some(seat) = &running.seat
            && has_majority(&seat.replica()).await
        {
            return Err(ApiError::bad_request(HAS_MAJORITY));
        }
        let mut settings = match &self.part {
            Part::Locked { .. } if request.unlock_key.expose().is_empty() => {
                return Err(ApiError::unavailable(locked::LOCKED));
            }
            Part::Locked { settings } => settings.clone(),
            Part::Outlived { text, .. } => return Err(ApiError::unavailable(text.clone())),
            Part::Member(running) if running.seat.is_some() => running.settings.clone(),
            Part::Stopped { settings, .. } if member::is_manager(&self.setup) => settings.clone(),
            Part::Stopped { failure, .. } if failure.text.starts_with(member::STORE_LOST) => {
                return Err(ApiError::unavailable(member::STORE_LOST));
            }
            Part::Member(running) if running.store_lost => return Err(ApiError::unavailable(member::STORE_LOST)),
            _ => return Err(ApiError::unavailable(WORKER)),
        };
        let old = settings.clone();
        // Where it is stays, unless it is said.
        if !request.advertise.is_empty() {
            let interfaces = address::interfaces();
            address::parse_tcp("ListenAddr", &request.listen, "0.0.0.0")?;
            let told = address::resolve(&request.listen, &request.advertise, &request.data_path, &interfaces)?;
            settings.listen_addr = told.listen.to_string();
            settings.advertise_addr = told.advertise.to_string();
        }
        // Last of what can be refused.
        let was_locked = matches!(self.part, Part::Locked { .. });
        if was_locked {
            locked::unlock(&self.setup, &request.unlock_key).await?;
        }
        settings.remote_addr.clear();
        let part = std::mem::replace(&mut self.part, Part::Nothing);
        part.stop().await;
        let node = match self.make_anew(&settings, &old).await {
            Ok(node) => node,
            Err(refused) => {
                warn!(error = %refused, "the cluster was not made anew");
                if was_locked {
                    locked::lock(&self.setup);
                    self.part = Part::Locked { settings: old };
                } else {
                    self.start_member(old, RESTART_PAUSE_MIN).await;
                }
                self.show();
                return Err(refused);
            }
        };
        info!("the cluster was made anew with this manager alone");
        self.forget_others().await;
        self.start_member(settings, RESTART_PAUSE_MIN).await;
        self.show();
        let unstarted = |text: &str| {
            ApiError::internal(format!(
                "the cluster was made anew with this manager alone, which does not work yet (see \"docker info\"; do not do it again): {text}"
            ))
        };
        match &mut self.part {
            Part::Member(running) => match running.until_ready(JOIN_ANSWER_MAX).await {
                Ok(node) => Ok(node),
                Err(text) if running.seat.is_none() => Err(unstarted(&text)),
                Err(text) => {
                    warn!(%text, "this node has no session with its own manager yet");
                    Ok(node)
                }
            },
            Part::Stopped { failure, .. } => Err(unstarted(&failure.text)),
            _ => Err(unstarted("the manager does not run")),
        }
    }

    /// Turns to the managers of before no more. If that cannot be written down the cluster is made anew all the same.
    async fn forget_others(&self) {
        let keystore = self.setup.keystore.clone();
        let forgotten = tokio::task::spawn_blocking(move || keystore.save_managers(&[])).await;
        if let Err(error) =
            forgotten.map_err(|error| error.to_string()).and_then(|done| done.map_err(|error| error.to_string()))
        {
            error!(error, "the managers of before could not be forgotten");
        }
    }

    /// The settings, and then the store, of a manager that does not run. If it fails both are what they were, or it says what is not.
    async fn make_anew(&self, settings: &Settings, old: &Settings) -> Result<NodeId, ApiError> {
        let dir = &self.setup.state_dir;
        settings.save(dir).map_err(|error| failed(&error))?;
        let made = self.make_store_anew(settings).await;
        if made.is_err()
            && let Err(error) = old.save(dir)
        {
            return Err(ApiError::internal(format!(
                "the cluster cannot be made anew, and is as it was, but for the addresses of this manager from its next start on: they are {} \
                 and {}, since those of before cannot be written: {error}",
                settings.listen_addr, settings.advertise_addr
            )));
        }
        made
    }

    async fn make_store_anew(&self, settings: &Settings) -> Result<NodeId, ApiError> {
        let keystore = self.setup.keystore.clone();
        let read = tokio::task::spawn_blocking(move || {
            let pair = keystore.load_pair()?;
            Ok::<_, swarmpki::keystore::KeystoreError>((pair, data_key::load(&keystore)?))
        });
        let (pair, keys) = read.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        let subject = pair.as_ref().and_then(|pair| pair.chain.first()).and_then(|leaf| leaf.node_subject().ok());
        let node = subject.ok_or_else(|| failed(&"this node has no certificate"))?.node;
        let drawn = Chance::system().bytes().map(u32::from_be_bytes).map_err(|error| failed(&error))?;
        let mut refused = failed(&seat::SeatError::NoDataKey(self.setup.state_dir.display().to_string()));
        for key in keys {
            let config = seat::offline_config(&self.setup.state_dir, key);
            let (founder, addr) = (Founder::Manager(node.clone()), settings.advertise_addr.clone());
            let anew = Replica::refound(config, move |state| {
                Command::Refound(Box::new(Refound { epoch: epoch::next(state.epoch(), drawn), addr, founder }))
            });
            match anew.await {
                Ok(()) => return Ok(node),
                Err(error @ OpenError::Store(StoreError::WrongKey { .. })) => refused = failed(&error),
                Err(OpenError::Refused(Some(Outcome::Rejected(Rejection::NotSeated)))) => {
                    return Err(failed(&"by what it knows itself, this node is no manager"));
                }
                Err(OpenError::Refused(None)) => {
                    return Err(failed(&"this manager was never told of the cluster's state"));
                }
                Err(error) => return Err(failed(&error)),
            }
        }
        Err(refused)
    }

    /// The others went on without this manager: it serves nobody any more, until it is told to leave.
    pub(super) async fn outlived(&mut self, text: String) {
        let Part::Member(running) = std::mem::replace(&mut self.part, Part::Nothing) else { return };
        warn!(%text, "this manager stops for good");
        let settings = running.settings.clone();
        running.stop().await;
        self.part = Part::Outlived { settings, text };
    }
}

fn failed(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::internal(format!("the cluster cannot be made anew, and is as it was: {error}"))
}
