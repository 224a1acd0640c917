//! `swarmpki crl`: the list of revoked certificates, signed by the root's key.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;
use daemon::engine_api::revocation::{RevocationLine, RevocationPage};
use serde_json::json;

use super::Context;
use crate::client::{Client, escape};
use crate::failure::Failure;
use crate::table::Table;

/// Show which certificates are revoked, or write the signed list (CRL) of them
#[derive(Args, Clone, Debug)]
pub(crate) struct CrlArgs {
    /// Write the signed list to this file, DER; - for standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// With --out: PEM
    #[arg(long, requires = "out")]
    pem: bool,
    /// With --out: only what came after the list with this number (RFC 5280 delta CRL)
    #[arg(long, value_name = "NUMBER", requires = "out")]
    since: Option<String>,
    /// With --out: of the root with this key identifier, hexadecimal, while one is being replaced
    #[arg(long, value_name = "HEX", requires = "out")]
    issuer: Option<String>,
}

/// Shows the rows, or fetches the list.
pub(crate) async fn run(args: &CrlArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let Some(out) = &args.out else { return show(&mut client, context).await };
    let query: Vec<String> = [("since", &args.since), ("issuer", &args.issuer)]
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name}={}", escape(value.as_deref()?))))
        .collect();
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    let der = client.own_bytes(&format!("/crl{query}")).await?;
    let bytes = if args.pem { pki::revocation::crl_pem(&der).into_bytes() } else { der.to_vec() };
    if out.as_os_str() == "-" {
        return context.out.bytes(&bytes);
    }
    let written = std::fs::File::create(out).and_then(|mut file| file.write_all(&bytes));
    written.map_err(|error| Failure::new(format!("cannot write {}: {error}", out.display())))?;
    if context.out.json() {
        return context.out.document(&json!({"File": out.display().to_string(), "Bytes": bytes.len()}));
    }
    context.out.line(format!("List written: {} ({} bytes)", out.display(), bytes.len()))
}

async fn show(client: &mut Client, context: &mut Context) -> Result<(), Failure> {
    let mut rows: Vec<RevocationLine> = Vec::new();
    let mut whole = RevocationPage::default();
    loop {
        let since = rows.last().map_or(0, |row| row.version);
        let page: Option<RevocationPage> = client.own(&format!("/revocations?since={since}")).await?;
        let Some(page) = page else { return Err(Failure::new("this daemon knows nothing of revocations")) };
        (whole.epoch, whole.version) = (page.epoch, page.version);
        if page.revocations.is_empty() {
            break;
        }
        rows.extend(page.revocations);
    }
    if context.out.json() {
        whole.revocations = rows;
        return context.out.document(&whole);
    }
    let mut table = Table::new(&["SERIAL", "NODE", "REVOKED", "REASON", "EXPIRES"]);
    for row in rows {
        table.row(vec![row.serial, row.node_id.unwrap_or_default(), row.at, row.reason, row.until]);
    }
    context.out.text(table.draw())
}
