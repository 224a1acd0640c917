//! `swarmpki revoke`: certificates are taken back before their end.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use daemon::engine_api::revocation::RevokeReport;
use serde::Serialize;

use super::{Context, node};
use crate::failure::Failure;
use crate::words::RevocationReason;

/// Take back certificates of a node before they end
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("what").required(true).args(["serial", "certificate", "node"]))]
pub(crate) struct RevokeArgs {
    /// The certificate with this serial number, hexadecimal, the whole of it
    #[arg(long, value_name = "HEX")]
    serial: Option<String>,
    /// With --serial: also one that the swarm never issued, such as an alarm named
    #[arg(long, requires = "serial")]
    unissued: bool,
    /// This very certificate, PEM; also one that the swarm never issued
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// Every certificate that this node was issued before now: id, host name or beginning of the id
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// With --node: have it renew first, and take back what it had before; the node stays
    #[arg(long, requires = "node")]
    rekey: bool,
    /// Why
    #[arg(long, value_name = "REASON", value_enum, default_value_t = RevocationReason::Unspecified)]
    reason: RevocationReason,
}

#[derive(Serialize)]
struct RevokeRequest<'a> {
    serial: &'a str,
    certificate: &'a str,
    node: &'a str,
    rekey: bool,
    unissued: bool,
    reason: &'a str,
}

/// Has them taken back. When it returns no manager accepts them any more.
pub(crate) async fn run(args: &RevokeArgs, context: &mut Context) -> Result<(), Failure> {
    let certificate = match &args.certificate {
        None => String::new(),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?,
    };
    let mut client = context.client().await?;
    let node = match &args.node {
        Some(reference) => node::resolve(&mut client, reference).await?,
        None => String::new(),
    };
    let request = RevokeRequest {
        serial: args.serial.as_deref().unwrap_or_default(),
        certificate: &certificate,
        node: &node,
        rekey: args.rekey,
        unissued: args.unissued,
        reason: args.reason.word(),
    };
    let report: RevokeReport = client.own_call("/revoke", &request).await?;
    if context.out.json() {
        return context.out.document(&report);
    }
    context.out.text(told(&report, args.node.is_some()))
}

/// What was done, and what is left to do.
fn told(report: &RevokeReport, whole_node: bool) -> String {
    let whose = if report.node_id.is_empty() { String::new() } else { format!(" of node {}", report.node_id) };
    let mut text = match report.certificates {
        0 if whole_node => format!("No certificate{whose} was on record that was not revoked before.\n"),
        0 => format!("The certificate{whose} was revoked before.\n"),
        1 => format!("Revoked 1 certificate{whose}.\n"),
        many => format!("Revoked {many} certificates{whose}.\n"),
    };
    if !report.issued {
        text.push_str("This swarm has no record of having issued it: somebody else may have the root's key.\n");
        text.push_str("See: swarmpki ca rotate --emergency --dry-run\n");
    }
    match &report.kept {
        Some(serial) => text.push_str(&format!("The node goes on with certificate {serial}.\n")),
        None if whole_node || report.out => {
            let id = &report.node_id;
            text.push_str(&format!(
                "The node has none in order any more: it is out at once, and cannot renew.\n\
                 Remove it here:   swarmpki node rm {id}\n\
                 To have it back:  swarmpki leave (an engine: docker swarm leave) on it, then join it again: it gets another id.\n"
            ));
        }
        None => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told() {
        let node_id = "x9qmrfg3w2n1zk4hj6p8stvb5".to_owned();
        let report = |certificates, issued, kept: Option<&str>| RevokeReport {
            node_id: node_id.clone(),
            certificates,
            issued,
            until: None,
            kept: kept.map(str::to_owned),
            out: false,
        };
        let out = RevokeReport { out: true, ..report(1, true, None) };
        let rows = [
            (report(2, true, None), true, "Revoked 2 certificates of node", "node rm x9qmrfg3w2n1zk4hj6p8stvb5"),
            (report(1, true, Some("0a")), true, "Revoked 1 certificate of node", "goes on with certificate 0a"),
            (report(0, true, None), false, "was revoked before", "revoked before"),
            (out, false, "Revoked 1 certificate of node", "it is out at once"),
            (report(1, false, None), false, "Revoked 1 certificate", "ca rotate"),
        ];
        for (report, whole, begins, holds) in rows {
            let text = told(&report, whole);
            assert!(text.contains(begins) && text.contains(holds), "{text}");
            assert!(text.ends_with('\n'));
            assert_eq!(text.contains("join it again"), text.contains("it is out"), "{text}");
        }
    }
}
