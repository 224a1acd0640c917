//! Certificates of operators, and of the API that they speak to: asked for, signed, committed, and only then given away.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cluster::command::Premises;
use cluster::operators::{
    FoundOperators, IssueApiServer, IssueOperator, OperatorRoot, OperatorRow, Operators, RevokeOperator,
};
use cluster::{Command, Outcome, Rejection, State};
use pki::certificate::Certificate;
use pki::csr::{Csr, Linted};
use pki::issue::{
    OPERATOR_BACKDATE, OPERATOR_LIFE_MAX, OPERATOR_LIFE_MIN, OperatorLeaf, ServerLeaf, operator_leaf, operators_root,
    server_leaf,
};
use pki::key::{PrivateKey, Signer};
use pki::operator::{OperatorName, OperatorSubject};
use pki::serial::Serial;
use pki::time::Time;
use replica::Handle;
use tonic::Code;
use wire::status::Refusal;

use crate::chance::NoChance;
use crate::control::{Control, unread};
use crate::view::ControlError;

/// Life of the certificate of an API: its key is in memory, and it is replaced at half of this.
pub const API_SERVER_LIFE: Duration = Duration::from_secs(30 * 86_400);

/// CN of an API's certificate.
const API_SERVER_NAME: &str = "swarmpki API";

/// How often something is signed anew because the state changed under it.
const ATTEMPTS: usize = 3;

/// A certificate that was issued to an operator.
#[derive(Clone, Debug)]
pub struct IssuedOperator {
    /// Whose it is.
    pub subject: OperatorSubject,
    /// The certificate.
    pub certificate: Certificate,
    /// Its root, by which its holder knows the API.
    pub root: Certificate,
}

/// A certificate of this manager's API, with its key.
pub struct ApiServer {
    /// The certificate.
    pub certificate: Certificate,
    /// Its key, in memory only.
    pub key: PrivateKey,
    /// The operators' root.
    pub root: Arc<OperatorRoot>,
}

/// What an API is reached by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiNames {
    /// Host names.
    pub dns: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
}

impl<H: Handle> Control<H> {
    /// The operators' root and certificates, as last applied here.
    pub fn operators(&self) -> Operators {
        self.0.handle.state().operators.clone()
    }

    /// Issues a certificate for the key of a request (PEM). Name and role are the caller's to say, the request's subject is not
    /// looked at.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a request or life that is refused; RESOURCE_EXHAUSTED if there are too many; what keeps a change from
    /// being committed.
    pub async fn issue_operator(
        &self,
        subject: OperatorSubject,
        life: Duration,
        csr: &[u8],
    ) -> Result<IssuedOperator, ControlError> {
        let issued = self.certify_operator(&subject, check_life(life)?, &lint(csr)?, None).await?;
        tracing::info!(
            operator = %subject.name, role = subject.role.word(), serial = %issued.certificate.serial(),
            "a certificate was issued to an operator"
        );
        Ok(issued)
    }

    /// Issues another certificate to the holder of the one with this serial: with its name and role, and for `life`, but no longer than
    /// that one was for.
    ///
    /// # Errors
    /// NOT_FOUND, or FAILED_PRECONDITION if that certificate was revoked or has ended; as [`issue_operator`](Self::issue_operator).
    pub async fn renew_operator(
        &self,
        serial: &Serial,
        life: Option<Duration>,
        csr: &[u8],
    ) -> Result<IssuedOperator, ControlError> {
        let row = self.operators().rows.get(serial).cloned().ok_or_else(|| refusal(&Rejection::UnknownOperator))?;
        let before = row.not_after.since(row.not_before).saturating_sub(OPERATOR_BACKDATE);
        let life = check_life(life.unwrap_or(before).min(before).max(OPERATOR_LIFE_MIN))?;
        let subject = OperatorSubject { name: row.name.clone(), role: row.role };
        let issued = self.certify_operator(&subject, life, &lint(csr)?, Some(*serial)).await?;
        tracing::info!(
            operator = %subject.name, serial = %issued.certificate.serial(), renewed = %serial,
            "an operator's certificate was renewed"
        );
        Ok(issued)
    }

    /// Takes certificates back: their holders are refused with their next request, and their connections end. Gives back those that
    /// are meant, as they are on record now.
    ///
    /// # Errors
    /// NOT_FOUND if there is none; what keeps a change from being committed.
    pub async fn revoke_operators(
        &self,
        what: RevokeOperator,
    ) -> Result<Vec<(Serial, Arc<OperatorRow>)>, ControlError> {
        match self.propose(Command::RevokeOperator(what.clone())).await? {
            Outcome::Rejected(rejection) => return Err(refusal(&rejection)),
            Outcome::Unchanged => {}
            _ => tracing::info!(?what, "certificates of operators were revoked"),
        }
        let rows = self.operators().rows;
        let meant = |serial: &Serial, row: &OperatorRow| match &what {
            RevokeOperator::Serial(one) => serial == one,
            RevokeOperator::Name(name) => row.name == *name,
            RevokeOperator::All => true,
        };
        Ok(rows.iter().filter(|(serial, row)| meant(serial, row)).map(|(serial, row)| (*serial, row.clone())).collect())
    }

    /// Makes a key and a certificate for this manager's API. It is in the issuance log before it is given back.
    ///
    /// # Errors
    /// What keeps a change from being committed.
    pub async fn issue_api_server(&self, names: &ApiNames) -> Result<ApiServer, ControlError> {
        let key = self.0.chance.p256_key().map_err(no_chance)?;
        for _ in 0..ATTEMPTS {
            let (state, root) = self.operators_root().await?;
            let now = self.0.now();
            let leaf = ServerLeaf {
                common_name: API_SERVER_NAME,
                dns_names: names.dns.clone(),
                addresses: names.addresses.clone(),
                serial: self.0.chance.serial().map_err(no_chance)?,
                not_before: now.saturating_sub(OPERATOR_BACKDATE),
                not_after: now.saturating_add(API_SERVER_LIFE).min(root.certificate.not_after()),
            };
            let certificate = server_leaf(key.public(), &leaf, &root.certificate, &signer(&root)?)
                .map_err(|error| cannot_sign(&error))?;
            let issue =
                IssueApiServer { certificate: certificate.der().to_vec(), premises: premises(&state, &root, now) };
            match self.propose(Command::IssueApiServer(issue)).await? {
                Outcome::Rejected(rejection) if rejection.is_stale() => self.refresh().await?,
                Outcome::Rejected(rejection) => return Err(refusal(&rejection)),
                _ => return Ok(ApiServer { certificate, key, root }),
            }
        }
        Err(Refusal::IssuanceStale.into())
    }

    async fn certify_operator(
        &self,
        subject: &OperatorSubject,
        life: Duration,
        csr: &Linted,
        renews: Option<Serial>,
    ) -> Result<IssuedOperator, ControlError> {
        for _ in 0..ATTEMPTS {
            let (state, root) = self.operators_root().await?;
            let now = self.0.now();
            let leaf = OperatorLeaf { subject, serial: self.0.chance.serial().map_err(no_chance)?, now, life };
            let certificate =
                operator_leaf(csr, &leaf, &root.certificate, &signer(&root)?).map_err(|error| cannot_sign(&error))?;
            let row = OperatorRow {
                name: OperatorName::clone(&subject.name),
                role: subject.role,
                spki: certificate.spki_hash(),
                not_before: certificate.not_before(),
                not_after: certificate.not_after(),
                issued: now,
                revoked: None,
            };
            let issue = IssueOperator {
                serial: certificate.serial(),
                row,
                certificate: certificate.der().to_vec(),
                premises: premises(&state, &root, now),
                renews,
            };
            match self.propose(Command::IssueOperator(Box::new(issue))).await? {
                Outcome::Rejected(rejection) if rejection.is_stale() => self.refresh().await?,
                Outcome::Rejected(rejection) => return Err(refusal(&rejection)),
                _ => {
                    let (subject, root) = (subject.clone(), root.certificate.clone());
                    return Ok(IssuedOperator { subject, certificate, root });
                }
            }
        }
        Err(Refusal::IssuanceStale.into())
    }

    /// The operators' root, made if there is none, and the state that has it.
    async fn operators_root(&self) -> Result<(Arc<State>, Arc<OperatorRoot>), ControlError> {
        let state = self.0.handle.state();
        if let Some(root) = lasting(&state, self.0.now()) {
            return Ok((state, root));
        }
        let cluster = state.cluster_id().cloned().ok_or(Refusal::SignerStarting)?;
        let key = self.0.chance.p256_key().map_err(no_chance)?;
        let serial = self.0.chance.serial().map_err(no_chance)?;
        let certificate = operators_root(&cluster, &key, serial, self.0.now()).map_err(|error| cannot_sign(&error))?;
        let root = Arc::new(OperatorRoot::new(certificate, Arc::new(key.pkcs8_der())));
        match self.propose(Command::FoundOperators(FoundOperators { root })).await? {
            Outcome::Rejected(rejection) => return Err(refusal(&rejection)),
            // Another manager was first.
            Outcome::Unchanged => {}
            _ => tracing::info!("a root for operators' certificates was made"),
        }
        let state = self.0.handle.read().await.map_err(unread)?;
        let root = lasting(&state, self.0.now()).ok_or(Refusal::IssuanceStale)?;
        Ok((state, root))
    }

    async fn refresh(&self) -> Result<(), ControlError> {
        self.0.handle.read().await.map(drop).map_err(unread)
    }
}

/// The operators' root, if it can sign something that is of use.
fn lasting(state: &State, now: Time) -> Option<Arc<OperatorRoot>> {
    let lasts = |root: &&Arc<OperatorRoot>| root.certificate.not_after() > now.saturating_add(OPERATOR_LIFE_MIN);
    state.operators.root.as_ref().filter(lasts).cloned()
}

fn premises(state: &State, root: &OperatorRoot, now: Time) -> Premises {
    Premises { issuer: root.issuer, epoch: state.epoch(), signed: now }
}

fn signer(root: &OperatorRoot) -> Result<PrivateKey, ControlError> {
    PrivateKey::from_der(root.key.expose()).map_err(|error| cannot_sign(&error))
}

fn lint(csr: &[u8]) -> Result<Linted, ControlError> {
    Csr::parse(csr).and_then(Csr::verify).map_err(|error| invalid(error.to_string()))
}

fn check_life(life: Duration) -> Result<Duration, ControlError> {
    if (OPERATOR_LIFE_MIN..=OPERATOR_LIFE_MAX).contains(&life) {
        return Ok(life);
    }
    Err(invalid("a certificate of an operator lasts for 1 minute at least, and for 365 days at most".to_owned()))
}

fn invalid(message: String) -> ControlError {
    ControlError { code: Code::InvalidArgument, message }
}

fn cannot_sign(why: &dyn std::fmt::Display) -> ControlError {
    ControlError { code: Code::Internal, message: format!("the operators' root cannot sign: {why}") }
}

fn no_chance(NoChance: NoChance) -> ControlError {
    Refusal::SignerStopped.into()
}

fn refusal(rejection: &Rejection) -> ControlError {
    let code = match rejection {
        Rejection::UnknownOperator => Code::NotFound,
        Rejection::OperatorRevoked => Code::FailedPrecondition,
        Rejection::OperatorsFull => Code::ResourceExhausted,
        Rejection::NoCluster => return Refusal::SignerStarting.into(),
        _ => return Refusal::IssuanceStale.into(),
    };
    ControlError { code, message: rejection.to_string() }
}
