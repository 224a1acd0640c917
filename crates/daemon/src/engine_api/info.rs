//! `GET /info` (engine-api.md 6.2): the machine, and the swarm as this node sees it. Always 200.

use serde_json::{Value, json};

use super::{Answer, convert, json as answer_json};
use crate::ENGINE_VERSION;
use crate::backend::{Backend, Present, refusal};
use crate::caller::Right;
use crate::config::{Host, TlsMode};
use crate::engine_api::error::ApiError;
use crate::engine_api::json::{ShownCluster, SwarmInfo, Timestamp};
use crate::lifecycle::locked::LOCKED;

/// Given when a swarm has exactly two managers. Source: engine-api.md 6.2.
const TWO_MANAGERS: &str = "WARNING: Running Swarm in a two-manager configuration. This configuration provides\n         no fault tolerance, and poses a high risk to lose control over the cluster.\n         Refer to https://docs.docker.com/engine/swarm/admin_guide/ to configure the\n         Swarm for fault-tolerance.";

/// Said of each host on which others reach the API. Source: 15-tls-to-the-api.md, the engine's log; what it announces for later
/// versions of itself is left out.
const ATTACK_SURFACE: &str = "Access to the remote API is equivalent to root access on the host. Refer\n         to the 'Docker daemon attack surface' section in the documentation for\n         more information: https://docs.docker.com/go/attack-surface/";

/// What is to be warned of a host, as bound: that it is open to whoever reaches it.
pub fn exposure(host: &Host, tls: Option<&TlsMode>) -> Option<String> {
    let Host::Tcp(address) = host else { return None };
    let open = match tls {
        None => format!("http://{address} without encryption"),
        Some(TlsMode::Files(files)) if !files.verify => format!("https://{address} without TLS client verification"),
        Some(TlsMode::Files(_) | TlsMode::Operators) => return None,
    };
    Some(format!("[DEPRECATION NOTICE]: API is accessible on {open}.\n         {ATTACK_SURFACE}"))
}

/// The `Swarm` part; `trouble` says why a manager could not look what is so in the cluster.
pub fn swarm_info(present: &Present, trouble: Option<ApiError>) -> SwarmInfo {
    let mut info = SwarmInfo { local_node_state: present.word(), ..SwarmInfo::default() };
    if let Some(membership) = present.membership() {
        info.node_id = membership.node_id().map(|id| id.to_string()).unwrap_or_default();
        info.node_addr = membership.addr.clone();
        info.remote_managers = membership.remote_managers();
    }
    match present {
        Present::Inactive => {}
        Present::Worker(membership) => info.error = membership.trouble.clone().unwrap_or_default(),
        Present::Pending(membership) => {
            let last = membership.status().and_then(|status| status.last_error).map(|trouble| trouble.text);
            info.error = last.or_else(|| membership.trouble.clone()).unwrap_or_default();
        }
        Present::Locked(_) => LOCKED.clone_into(&mut info.error),
        Present::Error(_, failure) => info.error = failure.text.clone(),
        Present::Manager(..) if trouble.is_some() => {
            info.control_available = true;
            info.error = trouble.map(|trouble| trouble.message).unwrap_or_default();
            info.cluster = Some(ShownCluster::zero());
        }
        Present::Manager(_, control, _) => {
            let nodes = control.nodes();
            info.control_available = true;
            info.nodes = nodes.iter().filter(|node| !node.unfinished).count() as u64;
            info.managers = nodes.iter().filter(|node| node.manager.is_some()).count() as u64;
            match control.cluster() {
                Ok(cluster) => info.cluster = Some(ShownCluster::Known(Box::new(convert::cluster_info(&cluster)))),
                Err(error) => info.error = refusal(error).message,
            }
            if info.managers == 2 {
                info.warnings.push(TWO_MANAGERS.to_owned());
            }
        }
    }
    info
}

pub(super) async fn info(backend: &Backend, right: Right) -> Answer {
    let machine = backend.machine();
    let trouble = backend.fresh().await.err();
    let mut swarm = swarm_info(&backend.present(), trouble);
    if let Some(ShownCluster::Known(cluster)) = &mut swarm.cluster
        && right < Right::Admin
    {
        cluster.hide_secrets();
    }
    let warnings = [backend.warnings(), &swarm.warnings].concat();
    let swarm = serde_json::to_value(swarm).map_err(|error| ApiError::internal(error.to_string()))?;
    let now = Timestamp(Some(crate::clock::now())).text();
    let nothing: [Value; 0] = [];
    let Value::Object(mut info) = engine_facts() else { return Err(ApiError::internal("info")) };
    let Value::Object(known) = json!({
        "ID": backend.engine_id(),
        "SystemTime": now,
        "KernelVersion": machine.kernel,
        "OperatingSystem": machine.operating_system,
        "OSVersion": machine.os_version,
        "OSType": "linux",
        "Architecture": machine.architecture,
        "RegistryConfig": { "IndexConfigs": {}, "InsecureRegistryCIDRs": nothing, "Mirrors": nothing },
        "NCPU": machine.processors,
        "MemTotal": machine.memory_bytes,
        "DockerRootDir": backend.state_dir().display().to_string(),
        "Name": machine.hostname(),
        "ServerVersion": ENGINE_VERSION,
        "Swarm": swarm,
        "Warnings": warnings,
    }) else {
        return Err(ApiError::internal("info"));
    };
    info.extend(known);
    answer_json(&info)
}

/// What an engine says of its containers: we run none. The limits are said to be there, so that clients do not warn of them.
fn engine_facts() -> Value {
    let nothing: [Value; 0] = [];
    let mut facts = json!({
        "Driver": "none",
        "DriverStatus": null,
        "Plugins": { "Volume": nothing, "Network": nothing, "Authorization": null, "Log": nothing },
        "LoggingDriver": "none",
        "CgroupDriver": "none",
        "CgroupVersion": "",
        "GenericResources": null,
        "Labels": nothing,
        "Runtimes": {},
        "SecurityOptions": nothing,
        "ContainerdCommit": { "ID": "", "Expected": "" },
        "RuncCommit": { "ID": "", "Expected": "" },
        "InitCommit": { "ID": "", "Expected": "" },
    });
    for name in [
        "Containers",
        "ContainersRunning",
        "ContainersPaused",
        "ContainersStopped",
        "Images",
        "NFd",
        "NGoroutines",
        "NEventsListener",
    ] {
        facts[name] = json!(0);
    }
    for name in
        ["IndexServerAddress", "HttpProxy", "HttpsProxy", "NoProxy", "DefaultRuntime", "Isolation", "InitBinary"]
    {
        facts[name] = json!("");
    }
    for name in ["Debug", "ExperimentalBuild", "LiveRestoreEnabled"] {
        facts[name] = json!(false);
    }
    for name in [
        "MemoryLimit",
        "SwapLimit",
        "KernelMemory",
        "KernelMemoryTCP",
        "CpuCfsPeriod",
        "CpuCfsQuota",
        "CPUShares",
        "CPUSet",
        "PidsLimit",
        "IPv4Forwarding",
        "BridgeNfIptables",
        "BridgeNfIp6tables",
        "OomKillDisable",
    ] {
        facts[name] = json!(true);
    }
    facts
}
