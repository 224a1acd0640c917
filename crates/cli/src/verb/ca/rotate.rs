//! `swarmpki ca rotate`: replaces the root, rehearses that, or does it in a hurry because the key was stolen.

use std::io::{BufRead, IsTerminal};
use std::time::Duration;

use clap::Args;
use daemon::engine_api::rotation::{DEADLINE_MIN, PolicyRequest, RehearsalReport, RotateRequest, StatusReport};

use super::follow::{self, Wait};
use super::{docker, outcome, words};
use crate::client::Client;
use crate::failure::Failure;
use crate::go_bool;
use crate::go_duration;
use crate::output::complain;
use crate::root_files::RootFiles;
use crate::span;
use crate::spec::{self, ExternalCa};
use crate::verb::Context;

/// Time for each phase of an emergency, unless told otherwise: an engine needs a second, a thousand nodes ten.
const BOUND: Duration = Duration::from_secs(60);

/// Replace the root: a new one is made unless a certificate is given
///
/// Waits for the end and shows how far it is. Exit code 0: done; 3: it was aborted or replaced; 130: interrupted, and the
/// rotation goes on.
#[derive(Args, Clone, Debug, Default)]
#[command(mut_args(go_bool::flags(&["detach", "quiet"])))]
pub(crate) struct RotateArgs {
    #[command(flatten)]
    pub(crate) root: RootFiles,
    /// Certificate signing endpoint: protocol=cfssl,url=https://…[,cacert=FILE]; may be repeated
    #[arg(long, value_name = "EXTERNAL-CA", value_parser = spec::parse_external_ca)]
    pub(super) external_ca: Vec<ExternalCa>,
    /// Validity period for node certificates (ns|us|ms|s|m|h|d)
    #[arg(long, value_name = "DURATION", value_parser = go_duration::parse)]
    pub(crate) cert_expiry: Option<Duration>,
    /// Put nodes aside that did not come along by then; they come back by themselves later
    #[arg(long, value_name = "DURATION", value_parser = go_duration::parse, conflicts_with = "emergency")]
    pub(crate) deadline: Option<Duration>,
    /// The key is stolen: replace tokens and root as fast as it can be, and leave behind who misses it
    #[arg(long)]
    pub(crate) emergency: bool,
    /// Longest time for each phase of an emergency; 1m unless set
    #[arg(long, value_name = "DURATION", value_parser = go_duration::parse)]
    pub(crate) bound: Option<Duration>,
    /// Only say how it would go: who converts, who blocks and why, how long it takes
    #[arg(long, conflicts_with = "detach")]
    pub(crate) dry_run: bool,
    /// Do not ask before an emergency rotation
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Start the rotation and do not wait for its end
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Wait without showing progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

impl RotateArgs {
    /// The first flag given that docker's way of rotating has no place for.
    pub(super) fn beyond_docker(&self) -> Option<&'static str> {
        [
            ("--signer-cert", self.root.signer_cert.is_some()),
            ("--pkcs11", self.root.pkcs11.is_some()),
            ("--deadline", self.deadline.is_some()),
            ("--emergency", self.emergency),
            ("--dry-run", self.dry_run),
        ]
        .into_iter()
        .find_map(|(flag, given)| given.then_some(flag))
    }

    /// The first flag given that means nothing without a rotation, in docker's order (engine-api.md 10); `--detach` and
    /// `--quiet` docker ignores.
    pub(super) fn given(&self) -> Option<&'static str> {
        let more =
            [("--cert-expiry", self.cert_expiry.is_some()), ("--bound", self.bound.is_some()), ("--yes", self.yes)];
        let more = more.into_iter().find_map(|(flag, given)| given.then_some(flag));
        self.root.given().or(more).or_else(|| self.beyond_docker())
    }

    /// The refusals that need no daemon, in docker's order (engine-api.md 10).
    pub(super) fn check(&self) -> Result<(), Failure> {
        let external_ca = &self.external_ca;
        if self.root.ca_cert.is_none() && !external_ca.is_empty() {
            return Err(Failure::new(
                "rotating to an external CA requires the `--ca-cert` flag to specify the external CA's cert - to add an \
                 external CA with the current root CA certificate, use the `update` command instead",
            ));
        }
        if self.root.ca_cert.is_some()
            && self.root.ca_key.is_none()
            && self.root.pkcs11.is_none()
            && external_ca.is_empty()
        {
            return Err(Failure::new(
                "the --ca-cert flag requires that a --ca-key flag and/or --external-ca flag be provided as well",
            ));
        }
        check_deadline(self.deadline)?;
        if self.bound.is_some() && !self.emergency {
            return Err(Failure::new("the --bound flag requires the --emergency flag"));
        }
        self.root.check()
    }

    fn bound(&self) -> Duration {
        self.bound.unwrap_or(BOUND)
    }

    /// What is said of nodes that do not come along; nothing: they are waited for, or as long as the rotation under way says.
    fn policy(&self) -> Option<PolicyRequest> {
        match self.deadline {
            _ if self.emergency => Some(PolicyRequest::Emergency { bound_ms: millis(self.bound()) }),
            after => after.map(|after| PolicyRequest::Deadline { after_ms: millis(after) }),
        }
    }
}

/// Rotates, or says how it would go.
pub(super) async fn run(args: &RotateArgs, client: &mut Client, context: &mut Context) -> Result<(), Failure> {
    args.check()?;
    let key = args.root.key()?;
    let before: Option<StatusReport> = client.own("/ca/status").await?;
    let Some(before) = before else {
        return docker::rotate(args, key, client, context).await;
    };
    let root = args.root.ca_cert.clone().unwrap_or_default();
    let request = RotateRequest {
        policy: args.policy(),
        external_cas: (!args.external_ca.is_empty())
            .then(|| args.external_ca.iter().map(|ca| ca.request(&root)).collect()),
        pkcs11: args.root.pkcs11.clone().unwrap_or_default(),
        certificate: root,
        signer_certificate: args.root.signer_cert.clone().unwrap_or_default(),
        key: key.unwrap_or_default(),
        node_cert_expiry_ms: args.cert_expiry.map(millis),
        dry_run: args.dry_run,
    };
    if args.dry_run {
        let rehearsal: RehearsalReport = client.own_call("/ca/rotate", &request).await?;
        return if context.out.json() {
            context.out.document(&rehearsal)
        } else {
            context.out.line(rehearsed(args, &rehearsal, &before))
        };
    }
    if args.emergency && !args.yes {
        confirm(args)?;
    }
    let begun: StatusReport = client.own_call("/ca/rotate", &request).await?;
    drop(request);
    if !args.quiet
        && let Some(said) = already(args, &before, &begun)
    {
        complain(said);
    }
    if args.detach {
        return if context.out.json() { context.out.document(&begun) } else { Ok(()) };
    }
    let wait = Wait { quiet: args.quiet, ..Wait::default() };
    let silent = args.quiet && !context.out.json();
    match follow::follow(begun.clone(), wait, client, context).await? {
        _ if silent => Ok(()),
        Some(ended) => outcome::report(&ended, context),
        None if context.out.json() => context.out.document(&begun),
        None if begun.served.digest == before.served.digest && place(&begun) != place(&before) => {
            context.out.line(format!("The root stays; its key is {} from now on.", place(&begun)))
        }
        None if begun.served.digest == before.served.digest => {
            context.out.line("Nothing to do: that is the root already.")
        }
        None => {
            context.out.line("The root was replaced.")?;
            context.out.line(words::root("root", &begun.served, words::now(&begun)).join("\n"))
        }
    }
}

/// Where the key of the root in use is.
fn place(report: &StatusReport) -> String {
    match (report.served.custody.as_str(), &report.served.token) {
        ("token", Some(uri)) => format!("the token's {uri}"),
        ("token", None) => "in its token".to_owned(),
        ("outside", _) => "with its external CA".to_owned(),
        _ => "with the managers".to_owned(),
    }
}

/// What to say when the order met a rotation to that very root: it goes on, and takes what was named.
fn already(args: &RotateArgs, before: &StatusReport, begun: &StatusReport) -> Option<String> {
    let running =
        begun.rotation.as_ref().filter(|now| before.rotation.as_ref().is_some_and(|then| then.id == now.id))?;
    let mut lines = vec!["That rotation is under way already, and goes on.".to_owned()];
    match args.deadline {
        Some(_) => lines.push(format!("  late       {}", words::policy(running, words::now(begun)))),
        None if running.policy.kind == "wait" => {
            lines
                .push("To have it go on without nodes that do not come along: the same with --deadline 10m".to_owned());
        }
        None => {}
    }
    lines.push("To another new root instead: swarmpki ca abort, then rotate again".to_owned());
    Some(lines.join("\n"))
}

/// Refuses a deadline in which no node could come along: every one would be put aside.
pub(super) fn check_deadline(deadline: Option<Duration>) -> Result<(), Failure> {
    if deadline.is_some_and(|deadline| deadline < DEADLINE_MIN) {
        return Err(Failure::new("the --deadline flag takes 1s or more: in less no node could come along")
            .hint("Without --deadline every node is waited for."));
    }
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How it would go, for people.
fn rehearsed(args: &RotateArgs, rehearsal: &RehearsalReport, status: &StatusReport) -> String {
    let now = words::now(status);
    let mut lines = vec!["A rotation begun now, with the nodes as they are:".to_owned()];
    lines.extend(words::root("leaves", &rehearsal.from, now));
    match &rehearsal.to {
        Some(to) => lines.extend(words::root("goes to", to, now)),
        None => lines.push("  goes to    a new root, made for it".to_owned()),
    }
    if rehearsal.by_bundle {
        lines.push(format!("  way        {}", words::way(args.emergency)));
    }
    let last = rehearsal.converts.iter().map(|node| node.after_ms).max();
    let last = last.map(|ms| format!(", the last after about {}", span::short(Duration::from_millis(ms))));
    lines.push(format!("  converts   {}{}", words::counted(rehearsal.converts.len()), last.unwrap_or_default()));
    lines.push(match rehearsal.takes_ms {
        Some(ms) => format!("  takes      about {}", span::short(Duration::from_millis(ms))),
        None => "  takes      no end in sight: it would wait for the nodes below".to_owned(),
    });
    lines.extend(words::nodes("would be waited for", &rehearsal.blocks, now, usize::MAX));
    if !rehearsal.aside.is_empty() {
        let how = match (args.emergency, rehearsal.aside.len()) {
            (true, _) => "would be left behind, to leave and join again by the new token",
            (false, 1) => "would be put aside, to come back by itself later",
            (false, _) => "would be put aside, to come back by themselves later",
        };
        lines.push(format!("  {} {how}:", words::counted(rehearsal.aside.len())));
        lines.extend(rehearsal.aside.iter().map(|node| format!("    {}", words::name(&node.hostname, &node.node))));
    }
    lines.push("Nothing was changed.".to_owned());
    lines.join("\n")
}

/// Says what an emergency is, and asks.
fn confirm(args: &RotateArgs) -> Result<(), Failure> {
    let bound = span::short(args.bound());
    complain(format!(
        "An emergency rotation takes the key of the root for stolen. In this order:\n  \
         at once    both join tokens are replaced; who joins has to wait\n  \
         widen      every node is given the old and the new root, for {bound} at most\n  \
         renew      the new key signs: every node gets a new certificate, for {bound} at most\n  \
         trust      every node is given the new root alone, for {bound} at most; managers refuse the old one\n  \
         end        the old key is removed from the manager's store\n\
         Nodes that miss it, as those that are down, are left behind and join again by token. It cannot be aborted.\n\
         See who that is with --dry-run. Without haste, a rotation with --deadline loses nobody."
    ));
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(
            Failure::new("an emergency rotation has to be confirmed").hint("To begin it without being asked: --yes")
        );
    }
    complain("Type yes to begin:");
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).map_err(|error| Failure::new(format!("cannot read the answer: {error}")))?;
    if answer.trim() == "yes" { Ok(()) } else { Err(Failure::new("Not begun: nothing was changed.")) }
}
