//! The authority: who called, what may be had, signed, written down, answered. In that order.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cfssl::message::{InfoRequest, InfoResult, SignRequest};
use mtls::{CallerAnchors, VerifiedPeer};
use pki::bundle::{BundleError, Issuer};
use pki::certificate::{Certificate, IssuerId};
use pki::csr::Csr;
use pki::digest::{hex, unhex};
use pki::identity::{ClusterId, Role, Subject};
use pki::issue::{self, GIVEN_ROOT_LIFE_MIN, IssueError, LEAF_EXPIRY_MIN};
use pki::key::{SignError, SpkiHash};
use pki::serial::Serial;
use pki::time::Time;

use crate::caller::{self, Known, Standing};
use crate::config::Config;
use crate::entry::{Asker, Entry, Issued};
use crate::log::{self, LogError, LogFault, Writer};
use crate::metrics::Metrics;
use crate::permit::Permit;
use crate::rate::{Hourly, Rate, RateAll, Told};
use crate::refusal::Refusal;
use crate::request::{self, Wanted};
use crate::server_leaf::{self, NoRandom, random};
use crate::shut_out;
use crate::state_dir::{StateDir, StateDirError};

/// Leaves of managers that are remembered at once before those that have ended are forgotten.
const MANAGERS_SWEEP: usize = 4_096;

/// Why an authority does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificate and key of the CA are not usable, or not together.
    #[error("the CA cannot sign: {0}")]
    Issuer(#[from] BundleError),
    /// The CA's certificate may not certify.
    #[error("the CA's certificate is no CA's (CA:TRUE is missing)")]
    NotACa,
    /// A certificate that callers are to be verified by is unusable.
    #[error("callers cannot be verified: {0}")]
    Anchors(String),
    /// The state directory cannot be taken.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log is another CA's.
    #[error("the issuance log in {dir} is another CA's: its key has the SHA-256 {logged}, this one's {own}")]
    OtherCa {
        /// The state directory.
        dir: String,
        /// The key that the log was begun for.
        logged: String,
        /// The key given.
        own: String,
    },
    /// The log is another cluster's.
    #[error("the issuance log in {dir} is of cluster {logged}, not of {given}")]
    OtherCluster {
        /// The state directory.
        dir: String,
        /// The cluster that was settled.
        logged: ClusterId,
        /// The cluster given.
        given: ClusterId,
    },
    /// There is no former root, and no manager holds a leaf of ours.
    #[error(
        "nobody could call: no manager holds a certificate of this CA, and no former root is given (--trust: the root that the swarm has now)"
    )]
    NobodyCanCall,
    /// The life of leaves is too short, or that of cross-signed certificates shorter.
    #[error("{0}")]
    Expiry(&'static str),
    /// No name for a server.
    #[error("{0:?} is neither a host name nor an address")]
    Name(String),
    /// The server's own certificate could not be made.
    #[error("this server's own certificate cannot be made: {0}")]
    ServerLeaf(String),
    /// The system refuses a thread or a socket.
    #[error("cannot start: {0}")]
    Io(#[from] std::io::Error),
}

/// The CA of one swarm.
pub struct Authority {
    pub(crate) config: Config,
    pub(crate) issuer: Issuer,
    pub(crate) anchors: CallerAnchors,
    pub(crate) log: Writer,
    pub(crate) metrics: Metrics,
    ca: IssuerId,
    /// Of each former root: who it is, and its name in the log.
    former: Vec<(IssuerId, String)>,
    /// Milliseconds; no time in the log is after this. A clock that was set back does not bring back what is over.
    floor_ms: AtomicI64,
    settled: Mutex<Settled>,
    rate: Rate,
    rate_all: RateAll,
    hourly: Hourly,
    told: Told,
    // After the log: nobody else may take the directory before that is written.
    _dir: StateDir,
}

/// What the log tells, in memory.
#[derive(Default)]
struct Settled {
    cluster: Option<ClusterId>,
    cluster_stored: bool,
    /// When the time of a former root, by its name, began to run; and whether that is stored.
    windows: HashMap<String, (Time, bool)>,
    /// Managers' leaves that have not ended: key, and end.
    managers: HashMap<Serial, (SpkiHash, Time)>,
}

impl Settled {
    /// Takes in what an entry tells.
    fn read(&mut self, entry: &Entry, now: Time) {
        match entry {
            Entry::Cluster { cluster, .. } => {
                self.cluster = cluster.parse().ok();
                self.cluster_stored = self.cluster.is_some();
            }
            Entry::Ours { former, .. } => {
                self.windows.entry(former.clone()).or_insert((entry.time(), true));
            }
            Entry::Leaf(issued) if issued.manager => self.learn(issued, now),
            _ => {}
        }
    }

    /// Remembers a manager's leaf.
    fn learn(&mut self, issued: &Issued, now: Time) {
        let serial = unhex(&issued.serial).and_then(|bytes| Serial::from_bytes(&bytes).ok());
        let spki = unhex(&issued.spki).and_then(|bytes| bytes.try_into().ok()).map(SpkiHash);
        let end = Time::from_unix_millis(issued.not_after_ms);
        if let (Some(serial), Some(spki)) = (serial, spki)
            && end >= now
        {
            if self.managers.len() >= MANAGERS_SWEEP && self.managers.len().is_power_of_two() {
                self.managers.retain(|_, (_, end)| *end >= now);
            }
            self.managers.insert(serial, (spki, end));
        }
    }
}

/// Who calls, and from where.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) peer: VerifiedPeer,
    pub(crate) address: SocketAddr,
}

impl Authority {
    /// Checks the configuration, takes the state directory and reads the log.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn open(config: Config) -> Result<Self, StartError> {
        let now = (config.clock)();
        let own = &config.certificate;
        if !own.may_certify() {
            return Err(StartError::NotACa);
        }
        if config.cert_expiry < LEAF_EXPIRY_MIN {
            return Err(StartError::Expiry("certificates of nodes must last an hour or more"));
        }
        if config.cross_sign_expiry < config.cert_expiry {
            return Err(StartError::Expiry(
                "a cross-signed certificate must not end before the nodes' certificates that it goes with: an engine whose file holds one that has ended does not start again",
            ));
        }
        server_leaf::names(&config.names)?;
        let pem = own.pem();
        let signer = Arc::clone(&config.signer);
        let issuer = Issuer::build(pem.as_bytes(), Some(pem.as_bytes()), Some(signer), b"", now)?;
        let all: Vec<Certificate> = std::iter::once(own).chain(&config.former).cloned().collect();
        let anchors = CallerAnchors::from_certificates(&all).map_err(|error| StartError::Anchors(error.to_string()))?;
        let former: Vec<(IssuerId, String)> =
            config.former.iter().map(|one| (one.issuer_id(), hex(&one.fingerprint()))).collect();

        let dir = StateDir::take(&config.state_dir)?;
        let spki = hex(&own.spki_hash().0);
        let mut settled = Settled::default();
        let mut logged = None;
        let mut floor = i64::MIN;
        let begun = Entry::Begun { time_ms: now.unix_millis(), ca: spki.clone() };
        let (file, end) = log::open(&config.state_dir, &begun, |entry| {
            if let Entry::Begun { ca, .. } = &entry {
                logged.get_or_insert_with(|| ca.clone());
            }
            floor = floor.max(entry.time().unix_millis());
            settled.read(&entry, now);
        })?;
        // As early versions named all of them together.
        if let Some(window) = settled.windows.get(&set_name(&config.former)).copied() {
            for (_, name) in &former {
                settled.windows.entry(name.clone()).or_insert(window);
            }
        }
        if floor > now.unix_millis() {
            tracing::warn!(
                clock = now.rfc3339(),
                last_entry = Time::from_unix_millis(floor).rfc3339(),
                "the clock stands before the last entry of the issuance log: what ended before that entry stays ended"
            );
        }
        let shown = config.state_dir.display().to_string();
        if let Some(logged) = logged.filter(|logged| *logged != spki) {
            return Err(StartError::OtherCa { dir: shown, logged, own: spki });
        }
        match (&settled.cluster, &config.cluster) {
            (Some(logged), Some(given)) if logged != given => {
                return Err(StartError::OtherCluster { dir: shown, logged: logged.clone(), given: given.clone() });
            }
            (None, given) => settled.cluster.clone_from(given),
            _ => {}
        }
        if config.former.is_empty() && settled.managers.is_empty() {
            return Err(StartError::NobodyCanCall);
        }
        if own.not_after() < now.saturating_add(GIVEN_ROOT_LIFE_MIN) {
            tracing::warn!(
                not_after = own.not_after().rfc3339(),
                "the CA's certificate ends within a year: an engine does not rotate to it"
            );
        }
        tracing::info!(
            ca = spki,
            cluster = settled.cluster.as_ref().map_or("the first that comes", |cluster| cluster.as_str()),
            managers = settled.managers.len(),
            log_bytes = end,
            "the issuance log was read"
        );
        let ca = own.issuer_id();
        let (rate, rate_all) = (Rate::new(config.rate), RateAll::new(config.rate_all));
        let log = Writer::start(file, end)?;
        Ok(Self {
            config,
            issuer,
            anchors,
            log,
            metrics: Metrics::default(),
            ca,
            former,
            floor_ms: AtomicI64::new(floor),
            settled: Mutex::new(settled),
            rate,
            rate_all,
            hourly: Hourly::default(),
            told: Told::default(),
            _dir: dir,
        })
    }

    /// What the clock shows: the date of what is made.
    pub(crate) fn clock(&self) -> Time {
        (self.config.clock)()
    }

    /// The present, by which it is judged what is over: never before the last entry of the log.
    pub(crate) fn now(&self) -> Time {
        self.clock().max(Time::from_unix_millis(self.floor_ms.load(Ordering::Relaxed)))
    }

    /// Answers `sign`: the certificate, PEM, after it was written down.
    pub(crate) async fn sign(self: &Arc<Self>, caller: &Caller, body: &[u8]) -> Result<String, Refusal> {
        let now = self.now();
        // Again: its body may have taken its time.
        let shut_out = self.shut_out();
        let standing = self.judge_by(caller, now, Some(&shut_out))?;
        let request: SignRequest =
            serde_json::from_slice(body).map_err(|error| Refusal::Malformed(error.to_string()))?;
        match request::check(&request, &caller.peer.subject.cluster)? {
            Wanted::Leaf { subject, .. } if shut_out?.holds(&subject.node, None) => {
                Err(Refusal::ShutOut(subject.node.as_str().to_owned()))
            }
            Wanted::Leaf { subject, csr } => self.leaf(caller, standing, subject, csr, now).await,
            Wanted::CrossSigned { csr, common_name } => self.cross_sign(caller, standing, csr, common_name, now).await,
        }
    }

    /// Answers `info`.
    pub(crate) fn info(&self, caller: &Caller, body: &[u8]) -> Result<InfoResult, Refusal> {
        self.judge(caller, self.now())?;
        let request: InfoRequest =
            serde_json::from_slice(body).map_err(|error| Refusal::Malformed(error.to_string()))?;
        if !request.label.is_empty() {
            return Err(Refusal::Field("label"));
        }
        if !request.profile.is_empty() {
            return Err(Refusal::Field("profile"));
        }
        let usages = ["signing", "key encipherment", "server auth", "client auth"];
        Ok(InfoResult {
            certificate: self.issuer.certificate().pem(),
            usages: usages.map(str::to_owned).to_vec(),
            expiry: go_duration(self.config.cert_expiry),
        })
    }

    /// The text of `/metrics`.
    pub(crate) fn metrics_text(&self) -> String {
        self.metrics.text(&self.log.written, self.issuer.certificate().not_after())
    }

    /// Whether a caller may call, as far as memory tells, and has credit left for one request more.
    pub(crate) fn admit(&self, caller: &Caller) -> Result<(), Refusal> {
        self.judge_by(caller, self.now(), None)?;
        // After the verdict: a stranger is nobody whose credit could be counted.
        if self.rate.take(&caller.peer.subject.node, self.clock()) { Ok(()) } else { Err(Refusal::TooFast) }
    }

    /// Whether a caller may call, and by what; says once a minute that it may not.
    pub(crate) fn judge(&self, caller: &Caller, now: Time) -> Result<Standing, Refusal> {
        self.judge_by(caller, now, Some(&self.shut_out()))
    }

    fn judge_by(
        &self,
        caller: &Caller,
        now: Time,
        shut_out: Option<&Result<shut_out::List, Refusal>>,
    ) -> Result<Standing, Refusal> {
        let peer = &caller.peer;
        let verdict = {
            let settled = self.settled();
            let logged = settled.managers.get(&peer.serial);
            let known = Known {
                ca: &self.ca,
                cluster: settled.cluster.as_ref(),
                is_logged: logged.is_some_and(|(spki, _)| *spki == peer.spki),
                former_is_ours: self.config.former.contains(&self.config.certificate),
                ours_since: self
                    .window_of(&peer.anchor)
                    .and_then(|name| settled.windows.get(name))
                    .map(|(since, _)| *since),
            };
            caller::admit(peer, &known, now)
        };
        let verdict = verdict.and_then(|standing| match shut_out {
            None => Ok(standing),
            Some(Err(refusal)) => Err(refusal.clone()),
            Some(Ok(list)) if list.holds(&peer.subject.node, Some(&peer.serial)) => {
                Err(Refusal::ShutOut(peer.subject.node.as_str().to_owned()))
            }
            Some(Ok(_)) => Ok(standing),
        });
        let Err(refusal) = &verdict else { return verdict };
        if !self.told.is_news(peer.serial, self.clock()) {
            return verdict;
        }
        tracing::warn!(
            node = %peer.subject.node, cluster = %peer.subject.cluster, serial = %peer.serial, addr = %caller.address,
            reason = refusal.word(), %refusal, "refused"
        );
        if *refusal == Refusal::NotInLog {
            tracing::error!(
                alarm = "forged-or-foreign-leaf", node = %peer.subject.node, serial = %peer.serial, addr = %caller.address,
                "a certificate that this CA's key signed and its log does not hold: the key may be stolen, or was used elsewhere"
            );
        }
        verdict
    }

    /// Who is shut out now. Read anew each time: what an operator adds holds for the next request.
    fn shut_out(&self) -> Result<shut_out::List, Refusal> {
        shut_out::List::read(&self.config.state_dir).map_err(|error| Refusal::State(error.to_string()))
    }

    /// Takes one certificate from what is issued to all together; raises the alarm if it is one too many in this hour.
    fn count_one(&self) -> Result<(), Refusal> {
        let now = self.clock();
        if !self.rate_all.take(now) {
            return Err(Refusal::Busy);
        }
        if self.hourly.is_too_many(self.config.many, now) {
            tracing::error!(
                alarm = "many-issuances",
                more_than = self.config.many,
                "more certificates were asked for in this hour than a swarm needs: a manager may be stolen"
            );
        }
        Ok(())
    }

    async fn leaf(
        self: &Arc<Self>,
        caller: &Caller,
        standing: Standing,
        subject: Subject,
        csr: Csr,
        now: Time,
    ) -> Result<String, Refusal> {
        self.count_one()?;
        let named = subject.clone();
        let made_at = self.clock();
        let make = move |this: &Self| {
            let linted = csr.verify()?;
            let serial = Serial::from_random(random().map_err(|NoRandom| signer_fault(&NoRandom))?);
            let leaf = issue::Leaf { subject: &named, serial, now: made_at, expiry: this.config.cert_expiry };
            issue::leaf(&linted, &leaf, &this.issuer).map_err(|error| issue_fault(&error))
        };
        let certificate = if self.config.signer_waits { self.aside(make).await? } else { make(self)? };
        let name = format!("O={},OU={},CN={}", subject.cluster, subject.role.ou(), subject.node);
        let mut issued = Issued::of(&certificate, name, made_at, Some(asker(caller, standing)));
        issued.manager = subject.role == Role::Manager;
        self.record(caller, standing, Entry::Leaf(issued), now).await?;
        let counter = if subject.role == Role::Manager { &self.metrics.managers } else { &self.metrics.workers };
        counter.fetch_add(1, Ordering::Relaxed);
        // The issuance log says so too, and more: a line for each would double it.
        tracing::debug!(
            node = %subject.node, role = %subject.role, serial = %certificate.serial(),
            by = %caller.peer.subject.node, addr = %caller.address, "certificate issued"
        );
        Ok(certificate.pem())
    }

    async fn cross_sign(
        self: &Arc<Self>,
        caller: &Caller,
        standing: Standing,
        csr: Csr,
        common_name: String,
        now: Time,
    ) -> Result<String, Refusal> {
        let made_at = self.clock();
        self.count_one()?;
        let make = move |this: &Self| {
            let refuse = |text: &str| Err(Refusal::CrossSign(text.to_owned()));
            let linted = csr.verify()?;
            let spki = linted.public_key().hash();
            let own = this.issuer.certificate();
            if own.path_len() == Some(0) {
                return refuse("this CA's own certificate allows no CA below it (path length 0)");
            }
            if linted.common_name() != common_name {
                return refuse("subject.CN is not the CN of the request inside");
            }
            if Subject::from_name_der(linted.subject_der()).is_ok() {
                return refuse("the name is a node's, not a CA's");
            }
            if spki == own.spki_hash() {
                return refuse("the key is this CA's own");
            }
            // Last: what is refused for another reason does not use it up.
            Permit::take(&this.config.state_dir, spki, now).map_err(|why| Refusal::CrossSignOff { spki, why })?;
            let dates = issue::CrossSign {
                serial: Serial::from_random(random().map_err(|NoRandom| signer_fault(&NoRandom))?),
                not_before: made_at.round_to_minute().saturating_sub(issue::LEAF_BACKDATE),
                not_after: made_at.round_to_minute().saturating_add(this.config.cross_sign_expiry),
            };
            let made = issue::cross_sign_request(&linted, &dates, own, this.config.signer.as_ref());
            made.map_err(|error| issue_fault(&error))
        };
        let certificate = self.aside(make).await?;
        let name = format!("CN={}", certificate.common_name());
        let issued = Issued::of(&certificate, name, made_at, Some(asker(caller, standing)));
        self.record(caller, standing, Entry::CrossSigned(issued), now).await?;
        tracing::warn!(
            alarm = "cross-signed", name = certificate.common_name(), spki = hex(&certificate.spki_hash().0),
            serial = %certificate.serial(), not_after = certificate.not_after().rfc3339(),
            by = %caller.peer.subject.node, addr = %caller.address,
            "another CA was certified, as the permit allowed: what it signs is good for nodes that trust this CA"
        );
        Ok(certificate.pem())
    }

    /// Does what may wait for a token or a disk where it holds up nobody else.
    pub(crate) async fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let this = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&this)).await;
        done.unwrap_or_else(|_| Err(Refusal::Signer("signing broke off".to_owned())))
    }

    /// Writes down what was signed, and whatever this caller settles; only then may it be answered.
    async fn record(&self, caller: &Caller, standing: Standing, entry: Entry, now: Time) -> Result<(), Refusal> {
        let peer = &caller.peer.subject;
        let mut entries = Vec::with_capacity(1);
        {
            let mut settled = self.settled();
            let served = settled.cluster.get_or_insert_with(|| peer.cluster.clone()).clone();
            if served != peer.cluster {
                return Err(Refusal::OtherCluster { served, caller: peer.cluster.clone() });
            }
            // Until one of these was stored, each request carries it: the order of two that come together does not matter.
            if !settled.cluster_stored {
                entries.push(Entry::cluster(&served, now));
            }
            let is_managers = matches!(&entry, Entry::Leaf(issued) if issued.manager);
            if standing == Standing::Ours || is_managers {
                for (_, former) in &self.former {
                    let (since, stored) = *settled.windows.entry(former.clone()).or_insert((now, false));
                    if !stored {
                        let (former, node) = (former.clone(), peer.node.as_str().to_owned());
                        entries.push(Entry::Ours { time_ms: since.unix_millis(), former, node });
                    }
                }
            }
        }
        entries.push(entry);
        self.log.append(&entries).await.map_err(|fault| match fault {
            LogFault::Full => Refusal::Busy,
            LogFault::Io(error) => Refusal::Log(error),
            LogFault::Closed => Refusal::Log(fault.to_string()),
        })?;
        let mut settled = self.settled();
        for entry in &entries {
            self.floor_ms.fetch_max(entry.time().unix_millis(), Ordering::Relaxed);
            match entry {
                Entry::Cluster { .. } if !settled.cluster_stored => {
                    settled.cluster_stored = true;
                    tracing::info!(cluster = %peer.cluster, "this CA serves this cluster from now on, and no other");
                }
                Entry::Ours { former, .. } => {
                    let window = settled.windows.get_mut(former);
                    if window.is_some_and(|(_, stored)| !std::mem::replace(stored, true)) {
                        tracing::info!(
                            former, by = %peer.node,
                            "a manager has a certificate of this CA: those of the former root are accepted for 24 hours more"
                        );
                    }
                }
                Entry::Leaf(issued) if issued.manager => settled.learn(issued, now),
                _ => {}
            }
        }
        Ok(())
    }

    /// The name of a former root in the log.
    fn window_of(&self, anchor: &IssuerId) -> Option<&String> {
        self.former.iter().find(|(id, _)| id == anchor).map(|(_, name)| name)
    }

    fn settled(&self) -> MutexGuard<'_, Settled> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How early versions of the log named all former certificates together.
fn set_name(former: &[Certificate]) -> String {
    let all: BTreeSet<[u8; 32]> = former.iter().map(Certificate::fingerprint).collect();
    let joined: Vec<u8> = all.into_iter().flatten().collect();
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &joined).as_ref())
}

fn asker(caller: &Caller, standing: Standing) -> Asker {
    Asker {
        node: caller.peer.subject.node.as_str().to_owned(),
        serial: caller.peer.serial.to_string(),
        former: standing == Standing::Former,
        address: caller.address.to_string(),
    }
}

fn signer_fault(error: &dyn std::fmt::Display) -> Refusal {
    tracing::error!(%error, "the CA's key did not sign");
    Refusal::Signer(error.to_string())
}

pub(crate) fn issue_fault(error: &IssueError) -> Refusal {
    match error {
        IssueError::Sign(SignError::Unavailable(why)) | IssueError::CrossSign(SignError::Unavailable(why)) => {
            signer_fault(why)
        }
        other => signer_fault(other),
    }
}

/// A duration as Go prints whole seconds: `2160h0m0s`.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!("{}h{}m{}s", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}
