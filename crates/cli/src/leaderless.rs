//! A refusal for want of a leader, with the managers that the one that was asked does not reach: docker's text names none.

use daemon::engine_api::extra::{GroupReport, OutOfReachReport, StatusReport};
use jiff::Timestamp;

use crate::api::moment;
use crate::client::Client;
use crate::failure::Failure;
use crate::shown;
use crate::span;
use crate::verb::Context;

/// What is said of a command that failed: if it was for want of a leader, the daemon is asked once more, for what it finds itself.
pub(crate) async fn explained(failure: Failure, context: &Context) -> Failure {
    if !failure.wants_leader() {
        return failure;
    }
    let Ok(mut client) = Client::connect(&context.endpoint).await else { return failure };
    // A Docker Engine says no more, nor does a node that is no manager.
    let Ok(Some(StatusReport { group: Some(group), .. })) = client.own("/status").await else { return failure };
    match hint(&group, Timestamp::now()) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Which managers have to come back; none: it cannot be said.
fn hint(group: &GroupReport, now: Timestamp) -> Option<String> {
    let away = group.out_of_reach.len() as u64;
    let lacking = group.majority.saturating_sub(group.managers.saturating_sub(away));
    if group.managers == 0 {
        return None;
    }
    if lacking == 0 {
        return Some(
            "Hint: a majority of the managers is in reach, and elects a leader: try again in a moment".to_owned(),
        );
    }
    let mut hint = format!(
        "Hint: {lacking} of these {} to be there again, or in reach of this manager ({} of {} make a majority):",
        if lacking == 1 { "has" } else { "have" },
        group.majority,
        group.managers,
    );
    for manager in &group.out_of_reach {
        hint.push_str(&format!("\n  {}", line(manager, now)));
    }
    hint.push_str("\nIf too many are gone for good: 'swarmpki init --force-new-cluster', on the one that was up last");
    Some(hint)
}

/// A manager that is out of reach: its id, its host name, where it is, since when and why.
pub(crate) fn line(manager: &OutOfReachReport, now: Timestamp) -> String {
    let mut line = manager.node_id.clone();
    for part in [&manager.hostname, &manager.addr].into_iter().filter(|part| !part.is_empty()) {
        line.push_str(&format!("  {}", shown::field(part)));
    }
    if let Some(since) = manager.since.as_deref().and_then(moment) {
        line.push_str(&format!("  since {since} ({})", span::relative(since, now)));
    }
    if let Some(why) = &manager.why {
        line.push_str(&format!(": {}", shown::field(why)));
    }
    line
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn away(n: u8) -> OutOfReachReport {
        OutOfReachReport {
            node_id: format!("id{n}"),
            hostname: format!("m{n}"),
            addr: format!("10.0.0.{n}:2377"),
            since: Some("2026-11-21T12:00:00Z".into()),
            why: Some("Connection refused".into()),
        }
    }

    #[test]
    fn who_has_to_come_back() {
        let now: Timestamp = "2026-11-21T12:02:00Z".parse().unwrap();
        let told = |managers, numbers: &[u8]| {
            let out_of_reach = numbers.iter().map(|n| away(*n)).collect();
            hint(&GroupReport { managers, majority: managers / 2 + 1, leader: None, out_of_reach }, now)
        };
        let text = told(3, &[2, 3]).unwrap();
        assert_eq!(
            text,
            "Hint: 1 of these has to be there again, or in reach of this manager (2 of 3 make a majority):\n  \
             id2  m2  10.0.0.2:2377  since 2026-11-21T12:00:00Z (2m ago): Connection refused\n  \
             id3  m3  10.0.0.3:2377  since 2026-11-21T12:00:00Z (2m ago): Connection refused\n\
             If too many are gone for good: 'swarmpki init --force-new-cluster', on the one that was up last"
        );
        assert!(told(5, &[1, 2, 3, 4]).unwrap().starts_with("Hint: 2 of these have to"));
        assert!(told(3, &[2]).unwrap().contains("try again in a moment"), "nobody has to come");
        assert_eq!(told(0, &[]), None);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let bare =
            OutOfReachReport { node_id: "id1".into(), addr: "10.0.0.1:2377".into(), ..OutOfReachReport::default() };
        assert_eq!(line(&bare, Timestamp::UNIX_EPOCH), "id1  10.0.0.1:2377");
    }
}
