//! The operator's part in a rotation: which root, by which policy, and what has to be signed for it.
//!
//! Decisions and cross-certificates are the product's; only the signatures are made again, so that a run repeats to the byte.

use std::sync::{Arc, Mutex, PoisonError};

use cluster::State;
use cluster::command::ReplaceLadder;
use cluster::roots::{Root, Roots};
use cluster::rotation::{Policy, RootsChange, Way};
use manager::rotate::{self, Decision, Reach, Signers, Wish};
use pki::certificate::{Certificate, pem_of_der};
use pki::key::Signer as _;
use pki::secret::{SecretBytes, SecretString};
use pki::time::Time;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose, PublicKeyData, SerialNumber,
    SigningKey,
};

use crate::chance::Chance;
use crate::signer::Key;

/// What an operator asks of the roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A root that is made for it.
    Fresh,
    /// A root of the operator's own.
    Given(Kind),
    /// A root that the cluster had before, or has.
    Former,
    /// The rotation under way goes back.
    Abort,
}

/// What a root of the operator's own is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Named as docker names its roots.
    SameName,
    /// Named otherwise.
    OtherName,
    /// No CA certificate may stand below it: the way from it is a bundle.
    NothingBelow,
}

/// The operator: knows every root that the cluster was to have, with its key.
#[derive(Default)]
pub struct Operator {
    roots: Vec<Arc<Root>>,
}

impl Operator {
    /// One who knows the first root.
    pub fn new(first: Arc<Root>) -> Self {
        Self { roots: vec![first] }
    }

    /// Whether leaves may be of this issuer: a root that was asked for.
    pub fn knows(&self, root: &Root) -> bool {
        self.roots.iter().any(|known| known.issuer == root.issuer)
    }

    /// What is to be proposed for it; none: that is how it is already, or it is refused.
    ///
    /// # Errors
    /// What must never be.
    pub fn change(
        &mut self,
        state: &State,
        ask: Ask,
        policy: Policy,
        chance: &mut Chance,
        now: Time,
    ) -> Result<Option<RootsChange>, String> {
        let drawn = Mutex::new(Chance::new(chance.draw()));
        let bytes = manager::Chance::new(move |bytes| {
            drawn.lock().unwrap_or_else(PoisonError::into_inner).fill(bytes);
            true
        });
        let asked = state.settings.force_rotate;
        let wish = match ask {
            Ask::Abort => {
                return Ok(rotate::turn_back(state, Some(policy), &Signers::default(), now)
                    .ok()
                    .map(|change| again(state, change)));
            }
            Ask::Fresh => Wish { force_rotate: asked.wrapping_add(1), ..Wish::default() },
            Ask::Given(kind) => wish(given(kind, chance)?)?,
            Ask::Former => {
                let place = chance.below(self.roots.len() as u64) as usize;
                let root = self.roots.get(place).ok_or("no root is known")?;
                wish(Arc::clone(root))?
            }
        };
        let (root, made) = match rotate::decide(state, &wish, &Reach::default(), now) {
            Ok(Decision::Generate) => {
                let root = rotate::generate(&bytes, now).map_err(|error| error.message)?;
                (signed_again(&root).ok_or("a root is signed again")?, true)
            }
            Ok(Decision::Given(root)) => (root, false),
            Ok(Decision::Abort) => {
                return Ok(rotate::turn_back(state, Some(policy), &Signers::default(), now)
                    .ok()
                    .map(|change| again(state, change)));
            }
            // The keys are all here, and stay.
            Ok(Decision::Keep | Decision::Entrust { .. }) => return Ok(None),
            Err(_) if ask == Ask::Former => return Ok(None),
            Err(error) => return Err(format!("{ask:?} is refused: {}", error.message)),
        };
        if !self.knows(&root) {
            self.roots.push(Arc::clone(&root));
        }
        Ok(rotate::prepare(state, root, made, policy, &Signers::default(), now).ok().map(|change| again(state, change)))
    }
}

/// The ladder that a leader makes anew, if it is time.
pub fn prolong(state: &State, now: Time) -> Option<ReplaceLadder> {
    let mut replace = rotate::prolong(state, &Signers::default(), now).ok()??;
    sign_again(state, &mut replace.ladder, &mut replace.logged);
    Some(replace)
}

/// The same root; its certificate's signature is that of every run.
pub fn signed_again(root: &Root) -> Option<Arc<Root>> {
    let secret = root.key()?;
    let certificate = Key::from_pkcs8(secret.expose())?.sign_again(&root.signer)?;
    Some(Arc::new(Root::new(certificate.pem().into_bytes(), certificate, Vec::new(), root.key().cloned())))
}

fn again(state: &State, mut change: RootsChange) -> RootsChange {
    match &mut change {
        RootsChange::Start(start) => {
            if let Way::Ladder(ladder) = &mut start.way {
                sign_again(state, ladder, &mut start.logged);
            }
        }
        RootsChange::Abort(abort) => sign_again(state, &mut abort.ladder, &mut abort.logged),
        RootsChange::Policy(_) => {}
    }
    change
}

fn sign_again(state: &State, ladder: &mut [Certificate], logged: &mut [Vec<u8>]) {
    let roots: Vec<_> = match &state.roots {
        Roots::None => Vec::new(),
        Roots::Stable { root, .. } => vec![root],
        Roots::Rotating(rotation) => rotation.roots().collect(),
    };
    for step in ladder {
        let Some(entry) = logged.iter_mut().find(|entry| entry.as_slice() == step.der()) else { continue };
        let maker = roots.iter().find(|root| pki::chain::signed_by(step, &root.signer).is_ok());
        let key = maker.and_then(|root| Key::from_pkcs8(root.key()?.expose()));
        let Some(fresh) = key.and_then(|key| key.sign_again(step)) else { continue };
        *entry = fresh.der().to_vec();
        *step = fresh;
    }
}

fn wish(root: Arc<Root>) -> Result<Wish, String> {
    let key = root.key().ok_or("the operator has the key")?;
    let pem = pem_of_der(key.expose()).replace("CERTIFICATE", "PRIVATE KEY");
    Ok(Wish { certificate: root.bundle.clone(), key: Some(SecretString::from(pem)), ..Wish::default() })
}

struct Rcgen<'a>(&'a Key);

impl PublicKeyData for Rcgen<'_> {
    fn der_bytes(&self) -> &[u8] {
        // The point, after what says that it is one of P-256.
        self.0.public().spki_der().get(26..).unwrap_or_default()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for Rcgen<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// A root as other tools make them.
fn given(kind: Kind, chance: &mut Chance) -> Result<Arc<Root>, String> {
    let key = Key::draw(chance);
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, if kind == Kind::OtherName { "the operator's root" } else { "swarm-ca" });
    params.distinguished_name = name;
    params.serial_number = Some(SerialNumber::from_slice(&chance.bytes::<8>()));
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2046, 1, 1);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let below =
        if kind == Kind::NothingBelow { BasicConstraints::Constrained(0) } else { BasicConstraints::Unconstrained };
    params.is_ca = IsCa::Ca(below);
    let certificate = params.self_signed(&Rcgen(&key)).map_err(|error| error.to_string())?;
    let certificate = Certificate::from_der(certificate.der().to_vec()).map_err(|error| error.to_string())?;
    let secret = SecretBytes::from(key.pkcs8().ok_or("a key in PKCS #8")?);
    Ok(Arc::new(Root::new(certificate.pem().into_bytes(), certificate, Vec::new(), Some(Arc::new(secret)))))
}
