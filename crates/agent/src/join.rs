//! The calls of a joiner, and of a node that must doubt its root: downloads that prove nothing by themselves.

use std::time::Instant;

use pki::time::Time;
use wire::client::CaClient;
use wire::node::{ClockRequest, NodeClient};
use wire::proto::GetRootCaCertificateRequest;

use crate::connect::{As, Channel, dial, request};
use crate::plan::{Failure, Peer};

/// Downloads the trust bundle over an unverified connection.
pub(crate) async fn fetch_root(peer: &Peer, marked: bool, at: Time) -> Result<Vec<u8>, Failure> {
    let channel = dial(&peer.addr, As::Stranger, at).await?;
    let mut client =
        CaClient::new(channel.grpc.clone()).max_decoding_message_size(wire::limits::BOOTSTRAP_MESSAGE_BYTES_MAX);
    let answer = channel.call(client.get_root_ca_certificate(request(GetRootCaCertificateRequest {}, marked))).await?;
    Ok(answer.certificate.to_vec())
}

/// Asks a manager for its time on this channel: its clock minus ours in milliseconds, and its time.
pub(crate) async fn ask_clock(
    channel: &Channel,
    clock: &(dyn Fn() -> Time + Send + Sync),
) -> Result<(i64, Time), Failure> {
    let asked = Instant::now();
    let mut client = NodeClient::new(channel.grpc.clone());
    let answer = channel.call(client.clock(request(ClockRequest {}, false))).await?;
    let half = i64::try_from(asked.elapsed().as_millis() / 2).unwrap_or(0);
    let told = Time::from_unix_millis(answer.unix_millis);
    let offset = answer.unix_millis.saturating_add(half).saturating_sub(clock().unix_millis());
    Ok((offset, told))
}
