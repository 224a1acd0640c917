//! The rotation as docker's command asks for it and follows it: for a Docker Engine, and for external CAs.

use std::time::Duration;

use serde_json::{Value, json};
use zeroize::{Zeroize, Zeroizing};

use super::rotate::RotateArgs;
use crate::api::{Node, Swarm};
use crate::client::Client;
use crate::failure::Failure;
use crate::go_duration;
use crate::spec;
use crate::verb::{Context, join_token};

/// How often a rotation's progress is read. Source: engine-api.md 8.2.
const POLL_EVERY: Duration = Duration::from_millis(200);

/// Begins and, unless detached, follows to the end.
pub(super) async fn rotate(
    args: &RotateArgs,
    key: Option<Zeroizing<String>>,
    client: &mut Client,
    context: &mut Context,
) -> Result<(), Failure> {
    if let Some(flag) = args.beyond_docker() {
        return Err(Failure::new(format!("{flag} needs a daemon of swarmpki: this one knows docker's rotation only")));
    }
    let swarm: Swarm = client.get("/swarm").await?;
    let mut spec = wanted(args, key, &swarm);
    let begun = join_token::update(client, &swarm, &spec, "").await;
    if let Some(Value::String(key)) = spec.pointer_mut("/CAConfig/SigningCAKey") {
        key.zeroize();
    }
    begun?;
    if args.detach { Ok(()) } else { follow(client, context, args.quiet).await }
}

/// The settings that make the daemon rotate.
fn wanted(args: &RotateArgs, key: Option<Zeroizing<String>>, swarm: &Swarm) -> Value {
    let mut spec = swarm.spec.clone();
    let mut set = |field: &str, value: Value| spec::put(&mut spec, "CAConfig", field, value);
    if args.root.ca_cert.is_none() && key.is_none() {
        let forced = swarm.spec["CAConfig"]["ForceRotate"].as_u64().unwrap_or(0);
        set("ForceRotate", json!(forced.saturating_add(1)));
    }
    if let Some(cert) = &args.root.ca_cert {
        set("SigningCACert", json!(cert));
    }
    if let Some(mut key) = key {
        set("SigningCAKey", Value::String(std::mem::take(&mut *key)));
    }
    if let Some(expiry) = args.cert_expiry {
        set("NodeCertExpiry", json!(go_duration::nanos(expiry)));
    }
    if !args.external_ca.is_empty() {
        let root = args.root.ca_cert.as_deref().unwrap_or_default();
        set("ExternalCAs", args.external_ca.iter().map(|ca| ca.json(root)).collect());
    }
    spec
}

/// Waits for the end of a rotation, with a line for each change.
async fn follow(client: &mut Client, context: &mut Context, quiet: bool) -> Result<(), Failure> {
    let mut shown = String::new();
    loop {
        let swarm: Swarm = client.get("/swarm").await?;
        let nodes: Vec<Node> = client.get("/nodes").await?;
        let same_issuer = |node: &&Node| {
            node.description.tls_info.cert_issuer_subject == swarm.tls_info.cert_issuer_subject
                && node.description.tls_info.cert_issuer_public_key == swarm.tls_info.cert_issuer_public_key
        };
        let certificates = nodes.iter().filter(same_issuer).count();
        let roots =
            nodes.iter().filter(|node| node.description.tls_info.trust_root == swarm.tls_info.trust_root).count();
        let switched = certificates == nodes.len() && !swarm.root_rotation_in_progress;
        let line = format!(
            "rotated TLS certificates: {certificates}/{total} nodes, rotated CA certificates: {roots}/{total} nodes",
            total = nodes.len(),
            roots = if switched { roots } else { 0 },
        );
        if !quiet && !context.out.json() && line != shown {
            context.out.line(&line)?;
            shown = line;
        }
        if switched && roots == nodes.len() {
            return Ok(());
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}
