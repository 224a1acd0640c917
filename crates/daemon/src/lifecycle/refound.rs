//! A cluster made anew by one of its managers (`init --force-new-cluster`): when too few of them are left, nobody can ask the others.
//!
//! - The manager is stopped, its store is made anew beside what it is, and it starts again, alone in its group. If that cannot be done it
//!   starts again as it was.
//! - What the request says of settings is not looked at: the cluster keeps its own. Docker takes some of it, and so begins a rotation of
//!   the root, or unlocks its managers, unasked.

use cluster::command::{Command, Founder, Refound};
use cluster::{Outcome, Rejection, epoch};
use manager::chance::Chance;
use pki::identity::NodeId;
use replica::{OpenError, Replica, StoreError};
use tracing::{info, warn};

use super::request::InitRequest;
use super::{JOIN_ANSWER_MAX, Owner, Part, RESTART_PAUSE_MIN, locked, member, seat};
use crate::address;
use crate::backend::WORKER;
use crate::data_key;
use crate::engine_api::error::ApiError;
use crate::settings::Settings;

impl Owner {
    /// Makes this manager the only one of its cluster; answers its node id once it works. One that is locked takes the unlock key with the
    /// request, and runs at no moment as the manager that it was.
    pub(super) async fn force_new_cluster(&mut self, request: &InitRequest) -> Result<NodeId, ApiError> {
        let mut settings = match &self.part {
            Part::Locked { .. } if request.unlock_key.expose().is_empty() => {
                return Err(ApiError::unavailable(locked::LOCKED));
            }
            Part::Locked { settings } => settings.clone(),
            Part::Outlived { text, .. } => return Err(ApiError::unavailable(text.clone())),
            Part::Member(running) if running.seat.is_some() => running.settings.clone(),
            Part::Stopped { settings, .. } if member::is_manager(&self.setup) => settings.clone(),
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
        // Last of what can be refused: it is open from then on.
        if matches!(self.part, Part::Locked { .. }) {
            locked::unlock(&self.setup, &request.unlock_key).await?;
        }
        let part = std::mem::replace(&mut self.part, Part::Nothing);
        part.stop().await;
        let made = self.make_anew(&settings).await;
        if let Err(refused) = made {
            warn!(error = %refused, "the cluster was not made anew");
            self.start_member(old, RESTART_PAUSE_MIN).await;
            return Err(refused);
        }
        info!("the cluster was made anew with this manager alone");
        self.start_member(settings, RESTART_PAUSE_MIN).await;
        self.show();
        let failed = |text: &str| ApiError::internal(format!("swarm could not be started: {text}"));
        match &mut self.part {
            Part::Member(running) => running.until_ready(JOIN_ANSWER_MAX).await.map_err(|text| failed(&text)),
            Part::Stopped { failure, .. } => Err(failed(&failure.text)),
            _ => Err(failed("the manager does not run")),
        }
    }

    /// The store of a manager that does not run.
    async fn make_anew(&self, settings: &Settings) -> Result<(), ApiError> {
        let failed = |error: &dyn std::fmt::Display| {
            ApiError::internal(format!("the cluster cannot be made anew, and is as it was: {error}"))
        };
        let keystore = self.setup.keystore.clone();
        let read = tokio::task::spawn_blocking(move || {
            let pair = keystore.load_pair()?;
            Ok::<_, swarmpki::keystore::KeystoreError>((pair, data_key::load(&keystore)?))
        });
        let (pair, keys) = read.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        let subject = pair.as_ref().and_then(|pair| pair.chain.first()).and_then(|leaf| leaf.node_subject().ok());
        let node = subject.ok_or_else(|| failed(&"this node has no certificate"))?.node;
        let drawn = Chance::system().bytes().map(u32::from_be_bytes).map_err(|error| failed(&error))?;
        let mut refused = ApiError::internal(member::STORE_LOST.to_owned());
        for key in keys {
            let config = seat::offline_config(&self.setup.state_dir, key);
            let (founder, addr) = (Founder::Manager(node.clone()), settings.advertise_addr.clone());
            let anew = Replica::refound(config, move |state| {
                Command::Refound(Box::new(Refound { epoch: epoch::next(state.epoch(), drawn), addr, founder }))
            });
            match anew.await {
                Ok(()) => return settings.save(&self.setup.state_dir).map_err(|error| failed(&error)),
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
