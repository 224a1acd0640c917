//! One session with a manager on one connection: the Session stream, heartbeats, and what an engine needs besides.

use std::sync::Arc;

use pki::time::Time;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Code;
use wire::client::DispatcherClient;
use wire::node::News;
use wire::proto::{
    AssignmentsRequest, EngineDescription, HeartbeatRequest, NodeDescription, NodeTlsInfo, Platform, Resources,
    SessionRequest,
};

use crate::config::Description;
use crate::connect::{As, Channel, dial, request};
use crate::join::ask_clock;
use crate::news;
use crate::plan::{Failure, FailureKind, Input, Peer, TlsInfo};

/// What a manager that tells no period means. Source: pki.md 1.
const HEARTBEAT_PERIOD: std::time::Duration = std::time::Duration::from_secs(5);

/// What the machine asks of a running session.
pub(crate) enum Ask {
    Beat { session_id: String, floor: Time },
    Clock,
}

/// What a session needs to know.
pub(crate) struct Opening {
    pub(crate) number: u64,
    pub(crate) peer: Peer,
    pub(crate) session_id: String,
    pub(crate) description: NodeDescription,
    pub(crate) live: mtls::Live,
    pub(crate) at: Time,
    pub(crate) clock: Arc<dyn Fn() -> Time + Send + Sync>,
    /// The time before which no certificate is judged.
    pub(crate) floor: Time,
    pub(crate) told: mpsc::UnboundedSender<Input>,
    /// For what the manager sends, and the end.
    pub(crate) messages: mpsc::Sender<Input>,
    pub(crate) asks: mpsc::UnboundedReceiver<Ask>,
    /// For what the manager tells every node.
    pub(crate) news: mpsc::Sender<News>,
    /// What it is shown of what was told before.
    pub(crate) shown: Arc<news::Shown>,
}

/// Holds the session until it ends, and tells why.
pub(crate) async fn hold(opening: Opening) {
    let (number, messages) = (opening.number, opening.messages.clone());
    let failure = match serve(opening).await {
        Ok(()) => Failure::new(FailureKind::Connect, "the manager ended the session"),
        Err(failure) => failure,
    };
    let _ = messages.send(Input::SessionEnded { session: number, failure }).await;
}

async fn serve(mut opening: Opening) -> Result<(), Failure> {
    let session = opening.number;
    let channel = dial(&opening.peer.addr, As::Node(opening.live.clone()), opening.at).await?;
    let _ = opening.told.send(Input::SessionDialed { session });
    let mut client =
        DispatcherClient::new(channel.grpc.clone()).max_decoding_message_size(wire::limits::SESSION_MESSAGE_BYTES_MAX);
    let message = SessionRequest { description: Some(opening.description), session_id: opening.session_id };
    // No deadline: the stream stands as long as the session; the machine watches for its first message.
    let mut message = tonic::Request::new(message);
    tell_clock(&mut message, opening.clock.as_ref(), opening.floor);
    let mut messages = client.session(message).await.map_err(|status| channel.failure(&status))?.into_inner();
    let mut calls = JoinSet::new();
    // Ends with the session.
    let mut hearing = JoinSet::new();
    let mut session_id = String::new();
    loop {
        tokio::select! {
            message = messages.message() => {
                let Some(message) = message.map_err(|status| channel.failure(&status))? else {
                    return Ok(());
                };
                session_id.clone_from(&message.session_id);
                // Waits for room: nothing more is read from the manager before the machine took this.
                let _ = opening.messages.send(Input::Message { session, message: Box::new(message) }).await;
            }
            ask = opening.asks.recv() => match ask {
                None => return Ok(()),
                Some(Ask::Beat { session_id, floor }) => {
                    let (channel, told, clock) = (channel.clone(), opening.told.clone(), opening.clock.clone());
                    calls.spawn(async move {
                        let result = beat(channel, session_id, clock.as_ref(), floor).await;
                        let _ = told.send(Input::Heartbeat { session, result });
                        Ok(())
                    });
                }
                Some(Ask::Clock) => {
                    let (channel, told, clock) = (channel.clone(), opening.told.clone(), opening.clock.clone());
                    let id = session_id.clone();
                    if hearing.is_empty() {
                        let (live, news, shown) = (opening.live.clone(), opening.news.clone(), opening.shown.clone());
                        hearing.spawn(news::hear(channel.clone(), live, news, shown));
                    }
                    calls.spawn(async move {
                        match ask_clock(&channel, clock.as_ref()).await {
                            Ok((offset_ms, time)) => {
                                let _ = told.send(Input::Clock { offset_ms, proven: Some(time) });
                                Ok(())
                            }
                            // An engine: it expects its nodes to listen for tasks.
                            Err(failure) if failure.kind == FailureKind::Status(Code::Unimplemented) => {
                                listen_for_tasks(channel, id).await
                            }
                            Err(_) => Ok(()),
                        }
                    });
                }
            },
            Some(Ok(done)) = calls.join_next() => done?,
        }
    }
}

async fn beat(
    channel: Channel,
    session_id: String,
    clock: &(dyn Fn() -> Time + Send + Sync),
    floor: Time,
) -> Result<std::time::Duration, Failure> {
    let mut client = DispatcherClient::new(channel.grpc.clone());
    let mut message = request(HeartbeatRequest { session_id }, false);
    tell_clock(&mut message, clock, floor);
    let answer = channel.call(client.heartbeat(message)).await?;
    Ok(answer.period.and_then(|period| std::time::Duration::try_from(period).ok()).unwrap_or(HEARTBEAT_PERIOD))
}

/// Tells the manager our time, for `node ls`, and what we judge certificates by, for a rotation: milliseconds since the epoch.
/// An engine does not look at it.
fn tell_clock<T>(message: &mut tonic::Request<T>, clock: &(dyn Fn() -> Time + Send + Sync), floor: Time) {
    message.metadata_mut().insert(wire::marker::CLOCK_KEY, clock().unix_millis().into());
    message.metadata_mut().insert(wire::marker::FLOOR_KEY, floor.unix_millis().into());
}

/// Reads the assignments of an engine's dispatcher and does none of them (wire.md 7, item 4).
async fn listen_for_tasks(channel: Channel, session_id: String) -> Result<(), Failure> {
    let mut client = DispatcherClient::new(channel.grpc.clone())
        .max_decoding_message_size(wire::limits::ASSIGNMENTS_MESSAGE_BYTES_MAX);
    let mut messages = match client.assignments(AssignmentsRequest { session_id }).await {
        Ok(answer) => answer.into_inner(),
        Err(status) if status.code() == Code::Unimplemented => return Ok(()),
        Err(status) => return Err(channel.failure(&status)),
    };
    while messages.message().await.map_err(|status| channel.failure(&status))?.is_some() {}
    Err(Failure::new(FailureKind::Connect, "the manager ended the assignments"))
}

/// The description on the wire.
pub(crate) fn describe(description: &Description, tls: TlsInfo, fips: bool, can_manage: bool) -> NodeDescription {
    let mut labels = description.labels.clone();
    if can_manage {
        labels.insert(wire::marker::VERSION_LABEL.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    }
    NodeDescription {
        hostname: description.hostname.clone(),
        platform: Some(Platform { architecture: description.architecture.clone(), os: description.os.clone() }),
        resources: Some(Resources {
            nano_cpus: description.nano_cpus,
            memory_bytes: description.memory_bytes,
            generic: Vec::new(),
        }),
        engine: Some(EngineDescription { engine_version: description.version.clone(), labels, plugins: Vec::new() }),
        tls_info: Some(NodeTlsInfo {
            trust_root: tls.trust_root,
            cert_issuer_subject: tls.issuer_subject,
            cert_issuer_public_key: tls.issuer_key,
        }),
        fips,
        csi_info: Vec::new(),
    }
}
