//! Operators whose certificates are made of numbers.

use std::sync::Arc;
use std::time::Duration;

use cluster::command::{Batch, Command, Premises};
use cluster::operators::{FoundOperators, IssueApiServer, IssueOperator, OperatorRoot, OperatorRow, RevokeOperator};
use cluster::outcome::Outcome;
use pki::identity::Role;
use pki::operator::OperatorRole;
use pki::secret::SecretBytes;
use pki::serial::Serial;

use super::{Cluster, DAY, HOUR, kept, letter, serial, spki};

/// What an operator's key hides in.
pub fn operators_root() -> Arc<OperatorRoot> {
    let key = Arc::new(SecretBytes::new(b"not a key of operators".to_vec()));
    Arc::new(OperatorRoot::new(kept()[0].clone(), key))
}

pub fn found() -> Command {
    Command::FoundOperators(FoundOperators { root: operators_root() })
}

pub fn revoke(n: u64) -> Command {
    Command::RevokeOperator(RevokeOperator::Serial(operator_serial(n)))
}

pub fn revoke_name(name: &str) -> Command {
    Command::RevokeOperator(RevokeOperator::Name(name.parse().unwrap()))
}

pub fn operator_serial(n: u64) -> Serial {
    serial(1 << 40 | n)
}

impl Cluster {
    /// A certificate of a manager's API.
    pub fn api_server(&self) -> Command {
        let issuer = operators_root().issuer;
        let premises = Premises { issuer, epoch: self.state.epoch, signed: self.now };
        Command::IssueApiServer(IssueApiServer { certificate: b"a server".to_vec(), premises })
    }

    /// Certificate `n`, for this operator.
    pub fn operator(&self, n: u64, name: &str, role: OperatorRole, life: Duration) -> IssueOperator {
        let (not_before, not_after) = (self.now.saturating_sub(HOUR / 12), self.now.saturating_add(life));
        let (issued, revoked) = (self.now, None);
        let row =
            OperatorRow { name: name.parse().unwrap(), role, spki: spki(n), not_before, not_after, issued, revoked };
        let issuer = operators_root().issuer;
        IssueOperator {
            serial: operator_serial(n),
            row,
            certificate: letter(n, n, Role::Worker, self.now, life).certificate,
            premises: Premises { issuer, epoch: self.state.epoch, signed: self.now },
            renews: None,
        }
    }

    /// The same, issued.
    pub fn issue_operator(&mut self, n: u64, name: &str, role: OperatorRole) {
        let issue = self.operator(n, name, role, 30 * DAY);
        assert!(matches!(self.run(Command::IssueOperator(Box::new(issue))), Outcome::Done { .. }));
    }
}

/// What the samples with operators hold: the commands, and a state with one in order and one taken back.
pub fn sample() -> (Batch, Cluster) {
    let mut cluster = Cluster::new();
    cluster.run(found());
    cluster.issue_operator(1, "alice", OperatorRole::Admin);
    cluster.issue_operator(2, "bob@example.org", OperatorRole::Viewer);
    let mut renewal = cluster.operator(3, "alice", OperatorRole::Admin, DAY);
    renewal.renews = Some(operator_serial(1));
    cluster.later(HOUR).run(revoke(2));
    let commands = vec![
        found(),
        Command::IssueOperator(Box::new(cluster.operator(2, "bob@example.org", OperatorRole::Viewer, DAY))),
        Command::IssueOperator(Box::new(renewal)),
        cluster.api_server(),
        revoke(2),
        revoke_name("alice"),
        Command::RevokeOperator(RevokeOperator::All),
    ];
    (Batch { time: cluster.now, commands }, cluster)
}
