//! A member at another address: what it tells the others, and where it listens, changes; who it is stays.
//!
//! - It is started anew with the new addresses. One that cannot be started with them goes on with those that it had.
//! - A manager tells the others; a worker's address is asked for when it becomes a manager.

use std::net::SocketAddr;

use tracing::{info, warn};

use super::{JOIN_ANSWER_MAX, Owner, Part, RESTART_PAUSE_MIN};
use crate::address::{self, Interface};
use crate::backend::NOT_MEMBER;
use crate::engine_api::error::ApiError;
use crate::engine_api::extra::NodeAt;
use crate::settings::{Settings, UnderWay};

const JOINING: &str = "this node is joining a swarm: its addresses are those that it was told to join with";

impl Owner {
    /// Changes the addresses of this member; answers those that it has then.
    pub(super) async fn move_to(&mut self, request: NodeAt) -> Result<NodeAt, ApiError> {
        let old = match &self.part {
            Part::Nothing => return Err(ApiError::unavailable(NOT_MEMBER)),
            Part::Joining(_) => return Err(ApiError::unavailable(JOINING)),
            Part::Outlived { text, .. } => return Err(ApiError::unavailable(text.clone())),
            Part::Member(running) => running.settings.clone(),
            Part::Locked { settings } | Part::Stopped { settings, .. } => settings.clone(),
        };
        if old.under_way != UnderWay::Nothing {
            return Err(ApiError::unavailable(JOINING));
        }
        let settings = resolve(&request, &old, &address::interfaces())?;
        let manager = match request.manager.as_str() {
            "" => String::new(),
            told => address::parse_tcp("manager address", told, "127.0.0.1")?,
        };
        let answer = NodeAt {
            advertise_addr: settings.advertise_addr.clone(),
            listen_addr: settings.listen_addr.clone(),
            manager,
        };
        self.keep(&settings)?;
        if matches!(self.part, Part::Locked { .. }) {
            self.part = Part::Locked { settings };
            return Ok(answer);
        }
        std::mem::replace(&mut self.part, Part::Nothing).stop().await;
        self.start_member(settings, RESTART_PAUSE_MIN).await;
        if let Part::Stopped { failure, .. } = &self.part {
            let text = format!(
                "this node could not be started with these addresses, and keeps those it had: {}",
                failure.text
            );
            warn!(%text, "the addresses were not changed");
            self.keep(&old)?;
            self.part = Part::Nothing;
            self.start_member(old, RESTART_PAUSE_MIN).await;
            return Err(ApiError::internal(text));
        }
        self.show();
        info!(advertise = answer.advertise_addr, listen = answer.listen_addr, "this node has other addresses");
        self.told(&answer).await?;
        Ok(answer)
    }

    fn keep(&self, settings: &Settings) -> Result<(), ApiError> {
        settings.save(&self.setup.state_dir).map_err(|error| ApiError::internal(error.to_string()))
    }

    /// Waits until the others know where this manager is.
    async fn told(&self, to: &NodeAt) -> Result<(), ApiError> {
        let Part::Member(running) = &self.part else { return Ok(()) };
        if !to.manager.is_empty() {
            running.manager_at(&to.manager);
        }
        let Some(seat) = &running.seat else { return Ok(()) };
        if tokio::time::timeout(JOIN_ANSWER_MAX, seat.told_at(&to.advertise_addr)).await.is_ok() {
            return Ok(());
        }
        let why = seat.control().untold().unwrap_or_else(|| "none of them was reached".to_owned());
        Err(ApiError::unavailable(format!(
            "this manager is at {} now, and the others could not be told yet; it goes on trying: {why}",
            to.advertise_addr
        )))
    }
}

/// The settings with these addresses.
fn resolve(request: &NodeAt, old: &Settings, interfaces: &[Interface]) -> Result<Settings, ApiError> {
    let held: Option<SocketAddr> = old.listen_addr.parse().ok();
    let listen = match (request.listen_addr.as_str(), held) {
        ("", Some(held)) => held,
        (told, _) => address::resolve_listen(told, interfaces)?,
    };
    let advertise = address::resolve_advertise(&request.advertise_addr, listen, interfaces)?;
    let before: Option<SocketAddr> = old.advertise_addr.parse().ok();
    let follows = request.listen_addr.is_empty() && before.is_some_and(|before| before.ip() == listen.ip());
    let listen = if follows { SocketAddr::new(advertise.ip(), listen.port()) } else { listen };
    Ok(Settings { listen_addr: listen.to_string(), advertise_addr: advertise.to_string(), ..old.clone() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn where_it_listens_follows_only_what_it_advertised() {
        let check = |held: (&str, &str), told: (&str, &str), expected: (&str, &str)| {
            let (listen_addr, advertise_addr) = (held.0.to_owned(), held.1.to_owned());
            let old = Settings { listen_addr, advertise_addr, remote_addr: "kept".into(), ..Settings::default() };
            let request = NodeAt { listen_addr: told.0.into(), advertise_addr: told.1.into(), ..NodeAt::default() };
            let found = resolve(&request, &old, &[]).unwrap();
            assert_eq!((found.listen_addr.as_str(), found.advertise_addr.as_str()), expected, "{told:?}");
            assert_eq!(found.remote_addr, "kept");
        };
        let all = ("0.0.0.0:2377", "10.0.0.1:2377");
        check(all, ("", "10.0.0.9"), ("0.0.0.0:2377", "10.0.0.9:2377"));
        check(all, ("", "10.0.0.9:4000"), ("0.0.0.0:2377", "10.0.0.9:4000"));
        check(all, ("0.0.0.0:4000", "10.0.0.9"), ("0.0.0.0:4000", "10.0.0.9:4000"));
        let one = ("10.0.0.1:2377", "10.0.0.1:2377");
        check(one, ("", "10.0.0.9"), ("10.0.0.9:2377", "10.0.0.9:2377"));
        check(one, ("10.0.0.1", "10.0.0.9"), ("10.0.0.1:2377", "10.0.0.9:2377"));
        // Behind a translation of addresses the two have nothing to do with each other.
        check(("10.0.0.1:2377", "192.0.2.1:2377"), ("", "192.0.2.9"), ("10.0.0.1:2377", "192.0.2.9:2377"));
        let old = Settings { listen_addr: "0.0.0.0:2377".into(), ..Settings::default() };
        for wrong in ["0.0.0.0", "nowhere", "10.0.0.9:port"] {
            let request = NodeAt { advertise_addr: wrong.into(), ..NodeAt::default() };
            assert_eq!(resolve(&request, &old, &[]).unwrap_err().status.as_u16(), 400, "{wrong}");
        }
    }
}
