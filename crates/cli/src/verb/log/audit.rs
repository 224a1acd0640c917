//! `swarmpki log audit`: whether this cluster ever issued a certificate.

use std::path::PathBuf;

use clap::Args;
use daemon::engine_api::log::Audited;
use serde_json::json;

use super::Context;
use crate::failure::Failure;
use crate::shown;

/// Exit code if a certificate was not issued here.
const NOT_ISSUED: u8 = 3;

/// Say of each certificate whether this cluster ever issued it: a forged one is told from an issued one
#[derive(Args, Clone, Debug)]
pub(crate) struct AuditArgs {
    /// Files with certificates in PEM
    #[arg(value_name = "CERT", required = true)]
    files: Vec<PathBuf>,
}

/// Asks; a certificate that was never issued is a failure.
pub(super) async fn run(args: &AuditArgs, context: &mut Context) -> Result<(), Failure> {
    let mut texts = Vec::new();
    for file in &args.files {
        let text = std::fs::read(file);
        let text = text.map_err(|error| Failure::new(format!("cannot read {}: {error}", file.display())))?;
        texts.push(String::from_utf8_lossy(&text).into_owned());
    }
    let mut client = context.client().await?;
    let audited: Vec<Audited> = client.own_call("/log/audit", &json!({"Certificates": texts})).await?;
    if context.out.json() {
        context.out.document(&audited)?;
    } else {
        for one in &audited {
            context.out.line(words(one))?;
        }
    }
    let is = |one: &Audited, verdicts: &[&str]| verdicts.contains(&one.verdict.as_str());
    let bad = audited.iter().filter(|one| is(one, &["forged", "unproven", "foreign"])).count();
    let unknown = audited.iter().filter(|one| is(one, &["unknown"])).count();
    if bad == 0 && unknown == 0 {
        return Ok(());
    }
    if bad == 0 {
        let text =
            format!("of {unknown} of {} certificates this manager cannot say it: its log is not whole", audited.len());
        return Err(Failure::new(text).hint("Ask another manager, or this one again in a while."));
    }
    let any = |verdict| audited.iter().any(|one| is(one, &[verdict]));
    let failure = Failure::new(format!("{bad} of {} certificates were not issued by this cluster", audited.len()));
    let failure = if any("forged") {
        failure.hint(
            "A forged one means that somebody else has the root's key: docs/operations/rotate.md, the key is stolen.",
        )
    } else if any("unproven") {
        failure.hint(
            "Give the CA certificate of that former key along with it: swarmpki log audit CERT CA; see docs/operations/audit.md.",
        )
    } else {
        failure
    };
    Err(failure.with_code(NOT_ISSUED))
}

fn words(one: &Audited) -> String {
    let subject = shown::field(&one.subject);
    let what = match one.verdict.as_str() {
        "issued" => format!(
            "issued as entry {} at {}{}",
            one.seq.unwrap_or_default(),
            one.time.as_deref().unwrap_or("?"),
            one.node.as_ref().map(|node| format!(" to node {node}")).unwrap_or_default()
        ),
        "ca" => "a CA certificate of this cluster".to_owned(),
        "former" => format!(
            "a CA certificate that this cluster had before: its key stands in entry {} at {}, or signed it",
            one.seq.unwrap_or_default(),
            one.time.as_deref().unwrap_or("?")
        ),
        "forged" => "FORGED: signed with a key that this cluster has or had, and never issued by it".to_owned(),
        "unproven" => {
            "never issued: it names a former key of this cluster as its signer, whose certificate is not held here; \
                       whether that key signed it cannot be told"
                .to_owned()
        }
        "foreign" => "never issued: signed by another CA".to_owned(),
        _ => "not found, but the log is not whole on this manager: ask another one".to_owned(),
    };
    format!("{} ({subject}): {what}", one.serial)
}
