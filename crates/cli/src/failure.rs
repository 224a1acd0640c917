//! Why a command ends without having done its work: what happened, what to do next, and the exit code.

use std::fmt;

use crate::shown;

/// Exit code of a command that was understood but failed. Source: engine-api.md 10, what docker's command answers.
pub(crate) const FAILED: u8 = 1;
/// Exit code of a flag that does not parse. Source: engine-api.md 10.
pub(crate) const BAD_FLAG: u8 = 125;
/// Exit code of a wait that ended before what it waited for, because that ended in another way.
pub(crate) const ENDED_OTHERWISE: u8 = 3;
/// Exit code of a wait whose time ran out, as that of timeout(1).
pub(crate) const TIMED_OUT: u8 = 124;
/// Exit code of a wait that was interrupted: 128 + SIGINT, as a shell reports it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Beginning of a manager's refusal while it finds no majority. Source: engine-api.md 2.1.
const NO_LEADER: &str = "The swarm does not have a leader.";

/// What a daemon's refusals say, as an engine says it too, and what to do about them. The first that fits; a `*` stands for anything.
const NEXT_STEPS: [(&str, &str); 37] = [
    (
        "participating as a manager*--force-new-cluster",
        "demote this node first, on any manager of a swarm that works: 'swarmpki node demote NODE'; then leave. With --force it goes on to be counted as a manager until it is demoted",
    ),
    (
        "Use \"docker swarm init\" or",
        "'swarmpki init' starts a swarm here, 'swarmpki join' makes this machine a node of another",
    ),
    ("Use \"docker swarm leave\" to", "'swarmpki leave' leaves it; then init or join again"),
    ("Worker nodes can't be used", "run this on the swarm's manager, or name its daemon with -H"),
    (
        "needs to be unlocked before it can be used",
        "'swarmpki unlock' here, with the key that 'swarmpki unlock-key' showed",
    ),
    (
        "swarm could not be unlocked: invalid key provided",
        "'swarmpki unlock-key' on a manager that runs shows the key of now; one that was stopped when it was rotated is opened with the key before",
    ),
    ("invalid join token", "copy the whole token, SWMTKN-1-...; 'swarmpki join-token worker' on the manager shows it"),
    (
        "A valid join token is necessary",
        "the token may have been rotated: copy it again, 'swarmpki join-token worker' on the manager shows it",
    ),
    ("this join token ", "'swarmpki token create' on a manager makes another one"),
    (
        "remote CA does not match fingerprint",
        "the token is another swarm's: copy it again from a manager you trust; if it still differs, do not join, somebody may stand in between",
    ),
    (
        "Error while dialing",
        "look whether the address is right, the manager runs, and its port (2377) is open to this machine",
    ),
    (
        "CA certificate expires too soon",
        "root and signer have to last for another year: openssl x509 -noout -enddate -in FILE",
    ),
    (
        "403 - Invalid CN",
        "the CA does not let this manager in: have its node id ('swarmpki info') among the names that the CA takes, cfssl's -mutual-tls-cn",
    ),
    ("certificate key mismatch", "--ca-key is the key of --ca-cert, or of --signer-cert if that is given"),
    ("signing CA cert must also be provided", "--ca-key needs --ca-cert, the certificate of that key"),
    (
        "Cannot update to a cert with an identical key",
        "that key is in use already. To put a signer below this root, rotate to a new root first: 'swarmpki ca rotate', then the same again",
    ),
    (
        "there must be at least one valid, reachable external CA",
        "start it, or name one that answers with --external-ca. With the root's key at hand: --ca-cert and --ca-key. If the CA is gone for good: 'swarmpki ca rotate --emergency'",
    ),
    (
        "unable to generate a cross-signed certificate",
        "the old root's CA has to certify the new one: an external one needs the profile CA (swarmpki ca serve: allow-cross-sign), a token has to be reachable, and --ca-cert has to be a CA's (CA:TRUE). Without the old CA's help: 'swarmpki ca rotate --emergency'",
    ),
    ("an emergency rotation goes on to its end", "'swarmpki ca status --watch' shows how far it is"),
    (
        " was ever issued here",
        "give the whole serial: 'swarmpki log --node NODE' shows it. One that somebody else signed, as an alarm said: --unissued, or --certificate FILE",
    ),
    (
        "not down and can't be removed",
        "stop it, or have it leave, and wait until it is Down; or remove it as it is, with --force",
    ),
    (
        "no PIN given",
        "start the daemon with --pkcs11-pin-file FILE, or name the file in the key's URI: ?pin-source=file:FILE",
    ),
    (
        "in session with the manager at",
        "nothing has to be told: 'swarmpki info' shows the managers it knows. After they moved, give the command once it is in no session",
    ),
    (
        "--force-new-cluster would shut out",
        "'swarmpki node ls' shows the managers; --force-new-cluster is for when most of them are gone for good",
    ),
    (
        "invalid key string",
        "copy the whole key, SWMKEY-1-...; 'swarmpki unlock-key' on a manager that is unlocked shows it",
    ),
    (
        "nothing was restored: of --removed",
        "a node goes by its id, the beginning of that or its host name, as it had them when the backup was made; without --removed all of them are taken along, and 'swarmpki node ls' shows them then",
    ),
    ("node * is ambiguous", "'swarmpki node ls' shows ids: give the whole one"),
    (
        "node * not found",
        "'swarmpki node ls' shows ids and host names, with --unfinished joins that nobody finished; one that was removed stands in 'swarmpki log'",
    ),
    (
        "token * not found",
        "'swarmpki token ls' shows ids. The standing tokens have none: 'swarmpki join-token --rotate worker' replaces one",
    ),
    ("no operator's certificate has the name or serial", "'swarmpki cert ls' shows names and whole serials"),
    (
        "no such operator's certificate",
        "'swarmpki cert ls' on a manager shows those on record; 'swarmpki cert issue NAME --out DIR' makes another",
    ),
    (
        "the operator's certificate was revoked or has ended",
        "it is renewed no more: 'swarmpki cert issue NAME --out DIR' on a manager makes another",
    ),
    ("an operator renews its own certificate", "for that one, run this on a manager: 'swarmpki cert renew --dir DIR'"),
    (
        "this needs an administrator's",
        "run this on a manager, or with a certificate of 'swarmpki cert issue NAME --role admin --out DIR'",
    ),
    (
        "CSR *",
        "make the request anew: openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -subj / -out NAME.csr",
    ),
    (
        NO_LEADER,
        "the manager that was asked finds no majority of the managers: start those that are down, then give the command again",
    ),
    ("Timeout was reached before node joined", "'swarmpki info' shows how it goes on; 'swarmpki leave' gives it up"),
];

/// What docker's command prints before a daemon's refusal.
const REFUSED: &str = "Error response from daemon: ";

/// A command's failure, printed once by `main`.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What happened; empty: nothing to print (the reader of our output went away).
    text: String,
    /// What to do about it, if we know.
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// A failure with exit code 1.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), hint: None, code: FAILED }
    }

    /// A refusal in a daemon's words, without the code of the call behind it, with the next step in ours if these tell one.
    pub(crate) fn refused(text: &str) -> Self {
        let text = without_code(text);
        let hint = NEXT_STEPS.iter().find(|(words, _)| holds(text, words)).map(|(_, step)| format!("Hint: {step}"));
        Self { text: format!("{REFUSED}{}", shown::field(text)), hint, code: FAILED }
    }

    /// A flag's value that does not parse: exit code 125.
    pub(crate) fn flag(flag: &str, value: &str, reason: impl fmt::Display) -> Self {
        let reason = reason.to_string();
        let (value, reason) = (shown::field(value), shown::field(&reason));
        Self { text: format!("invalid argument \"{value}\" for \"{flag}\" flag: {reason}"), hint: None, code: BAD_FLAG }
    }

    /// Ends the program without a word and with exit code 0: nobody reads what we write any more.
    pub(crate) fn quiet() -> Self {
        Self { text: String::new(), hint: None, code: 0 }
    }

    /// With another exit code.
    pub(crate) fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Adds the next step.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Several failures as one: their texts a line each, the worst exit code.
    pub(crate) fn join(failures: Vec<Failure>) -> Result<(), Self> {
        let Some(code) = failures.iter().map(|failure| failure.code).max() else {
            return Ok(());
        };
        let text = failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        Err(Self { text, hint: None, code })
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// Whether a daemon refused because its managers have no leader, or did not say in time who leads.
    pub(crate) fn wants_leader(&self) -> bool {
        let refusals = [NO_LEADER, "context deadline exceeded"];
        self.text.strip_prefix(REFUSED).is_some_and(|text| refusals.iter().any(|refusal| text.starts_with(refusal)))
    }

    /// Whether there is anything to print.
    pub(crate) fn is_quiet(&self) -> bool {
        self.text.is_empty()
    }

    /// What to do about it.
    pub(crate) fn next_step(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// What happened, without the next step.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

/// Whether a text holds these words, one after the other where a `*` stands between them.
fn holds(text: &str, words: &str) -> bool {
    let mut rest = Some(text);
    for part in words.split('*') {
        rest = rest.and_then(|rest| rest.split_once(part)).map(|(_, rest)| rest);
    }
    rest.is_some()
}

/// What `rpc error: code = … desc = …` describes: the rest is for programs.
fn without_code(text: &str) -> &str {
    text.strip_prefix("rpc error: code = ").and_then(|rest| rest.split_once(" desc = ")).map_or(text, |(_, desc)| desc)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n{hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_a_next_step() {
        let rows = [
            ("invalid join token", "copy the whole token"),
            (
                "rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster",
                "rotated",
            ),
            ("remote CA does not match fingerprint. Expected: 12", "do not join"),
            ("transport: Error while dialing: dial tcp 127.0.0.1:2: connect: connection refused\"", "port (2377)"),
            (daemon::backend::NO_SWARM, "Hint: 'swarmpki init'"),
            (daemon::backend::ALREADY_MEMBER, "Hint: 'swarmpki leave'"),
            (daemon::backend::WORKER, "manager"),
            (
                "You are attempting to leave the swarm on a node that is participating as a manager. Doing so may lose the consensus of your \
                 cluster. The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`.",
                "swarmpki node demote",
            ),
            ("node x not found", "'swarmpki node ls'"),
            ("node a is ambiguous (2 matches found)", "whole one"),
            ("token 9 not found", "'swarmpki token ls'"),
            (
                "rpc error: code = NotFound desc = no certificate with serial 07 was ever issued here: nothing was revoked",
                "--unissued",
            ),
            ("no operator's certificate has the name or serial 5f", "cert ls"),
            (
                "rpc error: code = FailedPrecondition desc = the operator's certificate was revoked or has ended",
                "cert issue",
            ),
            ("this needs an administrator's certificate; yours (bob) is a viewer's", "--role admin"),
            ("rpc error: code = InvalidArgument desc = CSR Decode failed", "openssl req"),
        ];
        for (text, step) in rows {
            let shown = Failure::refused(text).to_string();
            let (words, hint) = shown.split_once("\nHint: ").unwrap_or_default();
            assert_eq!(words, format!("Error response from daemon: {}", without_code(text)));
            assert!(format!("Hint: {hint}").contains(step), "{shown}");
        }
        let refused =
            Failure::refused("rpc error: code = InvalidArgument desc = CA certificate expires too soon").to_string();
        assert!(
            refused.starts_with("Error response from daemon: CA certificate expires too soon\nHint: "),
            "{refused}"
        );
        assert_eq!(Failure::refused("page not found").to_string(), "Error response from daemon: page not found");
    }
}
