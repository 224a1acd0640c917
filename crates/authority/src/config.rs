//! What an authority is started with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pki::certificate::Certificate;
use pki::identity::ClusterId;
use pki::issue::LEAF_EXPIRY_DEFAULT;
use pki::key::Signer;
use pki::time::Time;

/// Where the time comes from.
pub type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

/// Requests a second that one caller may make for long. A root rotation asks for 30 certificates in 3 s at most.
/// Source: pki.md 12.5.
pub const RATE_DEFAULT: u32 = 200;

/// Certificates a second that are issued to all callers together for long.
pub const RATE_ALL_DEFAULT: u32 = 2_000;

/// Certificates in an hour above which an alarm is raised.
pub const MANY_DEFAULT: u32 = 10_000;

/// What an authority is started with.
pub struct Config {
    /// The certificate of the CA: the swarm's root.
    pub certificate: Certificate,
    /// Its key.
    pub signer: Arc<dyn Signer>,
    /// Whether signing waits for something outside, as a token: then it is done where it holds up nobody else.
    pub signer_waits: bool,
    /// The swarm's former root. May be empty once managers have leaves of ours.
    pub former: Vec<Certificate>,
    /// The cluster that is served; none for that of the first manager that comes.
    pub cluster: Option<ClusterId>,
    /// Where the issuance log and the permits lie.
    pub state_dir: PathBuf,
    /// Names and addresses of this server, for its own certificate.
    pub names: Vec<String>,
    /// Life of nodes' certificates.
    pub cert_expiry: Duration,
    /// Life of a cross-signed certificate. It has to outlive every leaf it goes with: an engine whose file holds an
    /// intermediate that has ended does not start again. Source: pki.md 12.8.
    pub cross_sign_expiry: Duration,
    /// Requests a second that one caller may make for long; ten seconds' worth at once.
    pub rate: u32,
    /// Certificates a second that are issued to all callers together for long; ten seconds' worth at once.
    pub rate_all: u32,
    /// Certificates in an hour above which the alarm `many-issuances` is raised.
    pub many: u32,
    /// Where the time comes from.
    pub clock: Clock,
}

impl Config {
    /// A configuration with this key and defaults everywhere else.
    #[must_use]
    pub fn new(certificate: Certificate, signer: Arc<dyn Signer>, state_dir: PathBuf) -> Self {
        Self {
            certificate,
            signer,
            signer_waits: false,
            former: Vec::new(),
            cluster: None,
            state_dir,
            names: Vec::new(),
            cert_expiry: LEAF_EXPIRY_DEFAULT,
            cross_sign_expiry: LEAF_EXPIRY_DEFAULT * 2,
            rate: RATE_DEFAULT,
            rate_all: RATE_ALL_DEFAULT,
            many: MANY_DEFAULT,
            clock: Arc::new(system_time),
        }
    }
}

/// The system's clock.
#[must_use]
pub fn system_time() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Time::from_unix_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
