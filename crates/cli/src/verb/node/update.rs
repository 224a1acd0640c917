//! `swarmpki node update`: role, availability and labels of a node.

use clap::Args;
use serde_json::{Map, Value, json};

use super::write;
use crate::api::Node;
use crate::client::escape;
use crate::failure::Failure;
use crate::shown;
use crate::verb::Context;
use crate::words::NodeRole;

/// Change a node's role, availability or labels
#[derive(Args, Clone, Debug)]
pub(crate) struct UpdateArgs {
    /// Availability of the node: active, pause or drain
    #[arg(long, value_name = "STRING")]
    availability: Option<String>,
    /// Add or change a label, key=value; may be repeated
    #[arg(long, value_name = "LIST")]
    label_add: Vec<String>,
    /// Remove a label; may be repeated
    #[arg(long, value_name = "LIST")]
    label_rm: Vec<String>,
    /// Role wished for
    #[arg(long, value_name = "STRING", value_enum)]
    role: Option<NodeRole>,
    /// Node id, host name or beginning of an id
    #[arg(value_name = "NODE")]
    node: String,
}

/// Reads the node, changes what the flags say, writes it back.
pub(crate) async fn run(args: &UpdateArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let node: Node = client.get(&format!("/nodes/{}", escape(&args.node))).await?;
    let spec = changed(args, &node.spec)?;
    write(&mut client, &node, &spec).await?;
    if context.out.json() {
        return context.out.document(&json!({"ID": node.id, "Spec": spec}));
    }
    context.out.line(&args.node)
}

fn changed(args: &UpdateArgs, spec: &Value) -> Result<Value, Failure> {
    let mut spec = spec.clone();
    if !spec.is_object() {
        spec = json!({});
    }
    if let Some(role) = args.role {
        spec["Role"] = json!(role.word());
    }
    if let Some(availability) = &args.availability {
        spec["Availability"] = json!(availability);
    }
    let mut labels: Map<String, Value> = spec["Labels"].as_object().cloned().unwrap_or_default();
    for label in &args.label_add {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        labels.insert(key.to_owned(), json!(value));
    }
    for key in &args.label_rm {
        if labels.remove(key).is_none() {
            return Err(Failure::new(format!("key {} doesn't exist in node's labels", shown::field(key))));
        }
    }
    spec["Labels"] = Value::Object(labels);
    Ok(spec)
}
