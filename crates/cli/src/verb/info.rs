//! `swarmpki info`: what this machine is, in the lines of `docker info`, and its certificate.

use std::fmt::Write as _;
use std::time::Duration;

use daemon::engine_api::extra::{GroupReport, StatusReport};
use daemon::engine_api::rotation::{StatusReport as CaReport, UrlReport};
use jiff::Timestamp;
use serde_json::Value;

use super::Context;
use crate::api::{Info, Swarm, moment};
use crate::failure::Failure;
use crate::leaderless;
use crate::output::complain;
use crate::shown;
use crate::span;

/// The word of a session that ended with the node's removal.
const REMOVED: &str = "removed";

/// Prints the machine's part in the cluster.
pub(crate) async fn run(context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    if context.out.json() {
        let info: Value = client.get("/info").await?;
        let own: Option<Value> = client.own("/status").await?;
        let mut swarm = info.get("Swarm").cloned().unwrap_or_default();
        if let (Some(swarm), Some(own)) = (swarm.as_object_mut(), own) {
            swarm.insert("Swarmpki".to_owned(), own);
        }
        return context.out.document(&swarm);
    }
    let info: Info = client.get("/info").await?;
    let own: Option<StatusReport> = client.own("/status").await?;
    // Only managers know how external CAs are; while one starts, nobody does.
    let ca: Option<CaReport> =
        if info.swarm.control_available { client.own("/ca/status").await.unwrap_or(None) } else { None };
    let urls = ca.map(|ca| ca.signer.urls).unwrap_or_default();
    context.out.text(page(&info, own.as_ref(), &urls, Timestamp::now()))?;
    info.warnings.iter().for_each(complain);
    Ok(())
}

fn page(info: &Info, own: Option<&StatusReport>, urls: &[UrlReport], now: Timestamp) -> String {
    let mut page = String::new();
    let swarm = &info.swarm;
    // Writing to a String cannot fail.
    let mut line = |depth: usize, text: String| {
        let _ = writeln!(page, "{:depth$}{}", "", shown::field(&text));
    };
    line(0, format!("Name: {}", info.name));
    line(0, format!("Server Version: {}", info.server_version));
    line(0, format!("Swarm: {}", swarm.local_node_state));
    if swarm.local_node_state == "inactive" || swarm.local_node_state == "locked" {
        return page;
    }
    line(1, format!("NodeID: {}", swarm.node_id));
    if !swarm.error.is_empty() {
        line(1, format!("Error: {}", swarm.error));
    }
    line(1, format!("Is Manager: {}", swarm.control_available));
    if let Some(cluster) = swarm.cluster.as_ref().filter(|_| swarm.control_available && swarm.error.is_empty()) {
        line(1, format!("ClusterID: {}", cluster.id));
        line(1, format!("Managers: {}", swarm.managers));
        line(1, format!("Nodes: {}", swarm.nodes));
        settings(cluster, urls, &mut line);
    }
    line(1, format!("Node Address: {}", swarm.node_addr));
    let mut managers: Vec<&str> = swarm.remote_managers.iter().map(|manager| manager.addr.as_str()).collect();
    if !managers.is_empty() {
        managers.sort_unstable();
        line(1, "Manager Addresses:".to_owned());
        managers.iter().for_each(|addr| line(2, (*addr).to_owned()));
    }
    if let Some(group) = own.and_then(|own| own.group.as_ref()) {
        out_of_reach(group, now, &mut line);
    }
    if let Some(own) = own {
        certificate(own, &swarm.error, now, &mut line);
    }
    page
}

/// The managers that `node ls` calls unreachable; without a leader those that this one does not reach.
fn out_of_reach(group: &GroupReport, now: Timestamp, line: &mut impl FnMut(usize, String)) {
    let away = &group.out_of_reach;
    if away.is_empty() {
        return;
    }
    line(1, format!("Managers Out Of Reach: {} of {}, {} make a majority", away.len(), group.managers, group.majority));
    away.iter().for_each(|manager| line(2, leaderless::line(manager, now)));
}

fn settings(cluster: &Swarm, urls: &[UrlReport], line: &mut impl FnMut(usize, String)) {
    let number = |group: &str, field: &str| cluster.spec[group][field].as_i64().unwrap_or(0);
    let words =
        |group: &str, field: &str| span::words(Duration::from_nanos(cluster.spec[group][field].as_u64().unwrap_or(0)));
    if let Some(pools) = &cluster.default_addr_pool {
        let pools: String = pools.iter().map(|pool| format!("{pool}  ")).collect();
        line(1, format!("Default Address Pool: {pools}"));
        line(1, format!("SubnetSize: {}", cluster.subnet_size));
    }
    if cluster.data_path_port > 0 {
        line(1, format!("Data Path Port: {}", cluster.data_path_port));
    }
    line(1, "Orchestration:".to_owned());
    line(2, format!("Task History Retention Limit: {}", number("Orchestration", "TaskHistoryRetentionLimit")));
    line(1, "Raft:".to_owned());
    line(2, format!("Snapshot Interval: {}", number("Raft", "SnapshotInterval")));
    line(2, format!("Number of Old Snapshots to Retain: {}", number("Raft", "KeepOldSnapshots")));
    line(2, format!("Heartbeat Tick: {}", number("Raft", "HeartbeatTick")));
    line(2, format!("Election Tick: {}", number("Raft", "ElectionTick")));
    line(1, "Dispatcher:".to_owned());
    line(2, format!("Heartbeat Period: {}", words("Dispatcher", "HeartbeatPeriod")));
    line(1, "CA Configuration:".to_owned());
    line(2, format!("Expiry Duration: {}", words("CAConfig", "NodeCertExpiry")));
    line(2, format!("Force Rotate: {}", number("CAConfig", "ForceRotate")));
    if let Some(externals) = cluster.spec["CAConfig"]["ExternalCAs"].as_array().filter(|list| !list.is_empty()) {
        line(2, "External CAs:".to_owned());
        for external in externals {
            let text = |field: &str| external[field].as_str().unwrap_or_default().to_owned();
            let known = urls.iter().find(|known| known.url == text("URL"));
            let state = known.map(|known| match (&known.last_error, known.state.as_str()) {
                (Some(why), state @ ("down" | "invalid" | "trying")) => format!(" ({state}: {why})"),
                _ => format!(" ({})", known.shown()),
            });
            line(3, format!("{}: {}{}", text("Protocol"), text("URL"), state.unwrap_or_default()));
        }
    }
    let locked = cluster.spec["EncryptionConfig"]["AutoLockManagers"].as_bool().unwrap_or(false);
    line(1, format!("Autolock Managers: {locked}"));
    line(1, format!("Root Rotation In Progress: {}", cluster.root_rotation_in_progress));
}

/// The managers' clock minus this machine's: `+12 ms`, `about -2h 3m (this machine's clock is ahead)`.
fn clock_offset(ms: i64, estimated: bool) -> String {
    let size = Duration::from_millis(ms.unsigned_abs());
    let about = if estimated { "about " } else { "" };
    match (size.as_secs(), ms.is_negative()) {
        (0, _) => format!("{about}{ms:+} ms"),
        (_, true) => format!("{about}-{} (this machine's clock is ahead)", span::short(size)),
        (_, false) => format!("{about}+{} (this machine's clock is behind)", span::short(size)),
    }
}

/// `told` is the error that the page shows already.
fn certificate(own: &StatusReport, told: &str, now: Timestamp, line: &mut impl FnMut(usize, String)) {
    let when = |text: &Option<String>| text.as_deref().and_then(moment);
    let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if let Some(end) = when(&own.not_after) {
        line(1, "Certificate:".to_owned());
        line(2, format!("Expires: {end} ({})", span::relative(end, now)));
        if let Some(renew) = when(&own.renew_at) {
            line(2, format!("Renews: {renew} ({})", span::relative(renew, now)));
        }
    }
    if let Some(offset) = own.clock_offset_ms {
        line(1, format!("Clock Offset: {}", clock_offset(offset, own.clock_offset_estimated)));
    }
    if let Some(log) = &own.log {
        let by = log.manager.as_ref().map(|manager| format!(", signed by {manager}")).unwrap_or_default();
        line(1, format!("Log Head: {} entries, root {}{by}", log.size, log.root_hash));
    }
    for alarm in &own.log_alarms {
        line(1, format!("ALARM: {alarm}"));
        line(2, "see docs/operations/audit.md".to_owned());
    }
    // A node that was removed has nothing more to say.
    if own.phase.as_deref() == Some(REMOVED) && !told.is_empty() {
        return;
    }
    if let Some(phase) = said(&own.phase) {
        line(1, format!("Session: {phase}"));
    }
    if let Some(error) = said(&own.error) {
        if error != told {
            line(1, format!("Last Error: {error}"));
        }
        if let Some(hint) = said(&own.hint) {
            line(2, hint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_shown_once() {
        let mut info = Info::default();
        info.swarm.local_node_state = "error".into();
        info.swarm.error = "this node was removed from the swarm: leave".into();
        let removed = StatusReport {
            phase: Some("removed".into()),
            error: Some("removed from the cluster".into()),
            hint: Some("leave the cluster".into()),
            ..StatusReport::default()
        };
        let shown = page(&info, Some(&removed), &[], Timestamp::UNIX_EPOCH);
        assert_eq!(shown.matches("removed").count() + shown.matches("leave the").count(), 1, "{shown}");

        let failed =
            StatusReport { phase: Some("failed".into()), error: Some(info.swarm.error.clone()), ..removed.clone() };
        let shown = page(&info, Some(&failed), &[], Timestamp::UNIX_EPOCH);
        assert_eq!(shown.matches("this node was removed").count(), 1, "{shown}");
        assert!(shown.contains("Session: failed") && shown.contains("  leave the cluster"), "{shown}");
    }

    #[test]
    fn managers_that_are_away_are_named() {
        let mut info = Info::default();
        info.swarm.local_node_state = "active".into();
        let away = daemon::engine_api::extra::OutOfReachReport {
            node_id: "id2".into(),
            hostname: "m2".into(),
            addr: "10.0.0.2:2377".into(),
            ..Default::default()
        };
        let group = GroupReport { managers: 3, majority: 2, leader: Some("id1".into()), out_of_reach: vec![away] };
        let status = |group| StatusReport { group, ..StatusReport::default() };
        let shown = page(&info, Some(&status(Some(group.clone()))), &[], Timestamp::UNIX_EPOCH);
        assert!(
            shown.contains(" Managers Out Of Reach: 1 of 3, 2 make a majority\n  id2  m2  10.0.0.2:2377\n"),
            "{shown}"
        );
        for all_there in [None, Some(GroupReport { out_of_reach: Vec::new(), ..group })] {
            let shown = page(&info, Some(&status(all_there)), &[], Timestamp::UNIX_EPOCH);
            assert!(!shown.contains("Out Of Reach"), "{shown}");
        }
    }

    #[test]
    fn offsets_of_a_clock() {
        assert_eq!(clock_offset(0, false), "+0 ms");
        assert_eq!(clock_offset(-12, false), "-12 ms");
        assert_eq!(clock_offset(-7_380_000, true), "about -2h 3m (this machine's clock is ahead)");
        assert_eq!(clock_offset(1500, false), "+1s (this machine's clock is behind)");
    }
}
