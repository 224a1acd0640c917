//! Promotion and demotion: a change of the role that is wished for.

use serde_json::json;

use super::write;
use crate::api::Node;
use crate::client::escape;
use crate::failure::Failure;
use crate::verb::Context;

/// Wishes `role` for each node in turn; stops at the first failure.
pub(super) async fn wish(nodes: &[String], role: &str, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let mut changed = Vec::new();
    for reference in nodes {
        let node: Node = client.get(&format!("/nodes/{}", escape(reference))).await?;
        if node.wish("Role") == role {
            if !context.out.json() {
                context.out.line(format!("Node {reference} is already a {role}."))?;
            }
            continue;
        }
        let mut spec = node.spec.clone();
        spec["Role"] = json!(role);
        write(&mut client, &node, &spec).await?;
        changed.push(node.id.clone());
        if !context.out.json() {
            context.out.line(match role {
                "manager" => format!("Node {reference} promoted to a manager in the swarm."),
                _ => format!("Manager {reference} demoted in the swarm."),
            })?;
        }
    }
    if context.out.json() {
        return context.out.document(&json!({"Role": role, "Changed": changed}));
    }
    Ok(())
}
