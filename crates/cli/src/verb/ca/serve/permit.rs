//! `swarmpki ca serve allow-cross-sign`: lets the running server certify another CA, once.

use std::time::{Duration, SystemTime};

use authority::permit::{Permit, parse_spki};
use clap::Args;
use pki::key::SpkiHash;
use serde_json::json;

use super::StateArgs;
use crate::failure::Failure;
use crate::go_duration;
use crate::output::{Output, complain};
use crate::span;

/// Longest that a permit may lie there.
const TTL_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Let the server certify another CA, once: the way back, when the swarm is rotated away from this CA
#[derive(Args, Clone, Debug)]
#[group(id = "whom", required = true, multiple = false, args = ["spki", "once"])]
pub(crate) struct PermitArgs {
    /// SHA-256 of the public key to certify, hex: openssl x509 -noout -pubkey | openssl pkey -pubin -outform der | sha256sum
    #[arg(long, value_name = "SHA256", value_parser = spki)]
    spki: Option<SpkiHash>,
    /// Whichever key is asked for first: not after a theft, for whoever has a manager's certificate may be the first
    #[arg(long)]
    once: bool,
    /// How long the permit stands (ns|us|ms|s|m|h|d), a day at most
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = go_duration::parse)]
    ttl: Duration,
    #[command(flatten)]
    state: StateArgs,
}

fn spki(text: &str) -> Result<SpkiHash, &'static str> {
    parse_spki(text).ok_or("64 hexadecimal digits are wanted")
}

/// Puts the permit into the server's state directory.
pub(super) fn run(args: &PermitArgs, out: &mut Output) -> Result<(), Failure> {
    if args.ttl.is_zero() || args.ttl > TTL_MAX {
        return Err(Failure::flag("--ttl", &format!("{:?}", args.ttl), "must be more than nothing and a day at most"));
    }
    let dir = args.state.of_a_server()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = pki::Time::from_unix_millis(i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    let permit = Permit { spki: args.spki, until: now.saturating_add(args.ttl) };
    permit
        .write(&dir)
        .map_err(|error| Failure::new(format!("cannot put the permit into {}: {error}", dir.display())))?;
    if permit.spki.is_none() {
        complain(
            "Warning: whoever has a manager's certificate can use this permit for a CA of its own. After a theft name the key: --spki.",
        );
    }
    if out.json() {
        let spki = permit.spki.map(|spki| format!("{spki:?}"));
        return out.document(&json!({"spki": spki, "until": permit.until.rfc3339()}));
    }
    let whom = permit.spki.map_or_else(|| "whichever CA asks first".to_owned(), |spki| format!("the key {spki:?}"));
    out.line(format!("For {} the server certifies {whom}, once.", span::short(args.ttl)))
}
