//! Stands in for the manager's part until that crate starts managers.

use std::net::SocketAddr;

use swarmpki::Node;
use tokio::net::TcpListener;

use super::Setup;
use super::request::InitPlan;
use crate::backend::Control;
use crate::engine_api::error::ApiError;
use crate::settings::Settings;

#[derive(Debug, thiserror::Error)]
#[error("this build runs no managers")]
pub(super) struct SeatError;

pub(super) struct Founded;

impl Founded {
    pub(super) async fn found(_: &Setup, _: &InitPlan, _: SocketAddr) -> Result<Self, SeatError> {
        Err(SeatError)
    }
    pub(super) fn sit(self, _: &Node, _: TcpListener) -> Result<Seat, SeatError> {
        Err(SeatError)
    }
}

pub(super) struct Seat(Control);

impl Seat {
    pub(super) async fn resume(_: &Setup, _: &Settings, _: &Node) -> Result<Self, SeatError> {
        Err(SeatError)
    }
    pub(super) fn control(&self) -> Control {
        self.0.clone()
    }
    pub(super) async fn failed(&self) -> String {
        std::future::pending().await
    }
    pub(super) async fn stop(self) {}
}

pub(super) async fn bind(address: SocketAddr) -> Result<TcpListener, ApiError> {
    TcpListener::bind(address).await.map_err(|error| {
        let reason = error
            .raw_os_error()
            .map_or_else(|| error.to_string(), |number| nix::errno::Errno::from_raw(number).desc().to_lowercase());
        ApiError::internal(format!("manager stopped: failed to listen on remote API address: listen tcp {address}: bind: {reason}"))
    })
}
