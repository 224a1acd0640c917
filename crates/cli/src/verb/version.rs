//! `swarmpki version`: this command's version and the daemon's.

use serde_json::{Value, json};

use super::Context;
use crate::client::API_VERSION;
use crate::failure::Failure;

/// Prints both versions; the command's own also when there is no daemon.
pub(crate) async fn run(context: &mut Context) -> Result<(), Failure> {
    let server = match context.client().await {
        Ok(mut client) => {
            let version: Result<Value, Failure> = client.get("/version").await;
            version.map(|version| (version, client.version()))
        }
        Err(failure) => Err(failure),
    };
    let used = server.as_ref().map_or(API_VERSION, |(_, used)| *used);
    let platform = format!("{}/{}", std::env::consts::OS, go_architecture());
    if context.out.json() {
        let server_json = server.as_ref().map_or(Value::Null, |(version, _)| version.clone());
        context.out.document(&json!({
            "Client": {"Version": env!("CARGO_PKG_VERSION"), "ApiVersion": used.to_string(), "OsArch": platform},
            "Server": server_json,
        }))?;
        return server.map(drop);
    }
    let mut text = format!("Client:\n Version:           {}\n API version:       {used}", env!("CARGO_PKG_VERSION"));
    if used < API_VERSION {
        text.push_str(&format!(" (downgraded from {API_VERSION})"));
    }
    text.push_str(&format!("\n OS/Arch:           {platform}\n"));
    context.out.text(text)?;
    let (server, _) = server?;
    let of = |field: &str| server[field].as_str().unwrap_or_default();
    context.out.text(format!(
        "\nServer:\n Engine:\n  Version:          {}\n  API version:      {} (minimum version {})\n  OS/Arch:          {}/{}\n",
        of("Version"),
        of("ApiVersion"),
        of("MinAPIVersion"),
        of("Os"),
        of("Arch"),
    ))
}

fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
