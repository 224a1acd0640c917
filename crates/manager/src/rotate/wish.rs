//! What an update asks of the roots, judged in docker's order (engine-api.md 7.2, pki.md 12.2). Whether external CAs can be reached
//! was found out before: [`must_reach`] says which of them matter.

use std::sync::Arc;

use cluster::State;
use cluster::node::BlobDigest;
use cluster::roots::{Custody, Root, Roots};
use cluster::settings::ExternalCa;
use pki::bundle::{BundleError, Issuer};
use pki::certificate::{Certificate, encode_pem, normalize};
use pki::csr::CSR_RSA_BITS_MAX;
use pki::issue::GIVEN_ROOT_LIFE_MIN;
use pki::key::{KeyError, KeyKind, PrivateKey, PublicKey};
use pki::secret::SecretString;
use pki::time::Time;
use wire::status::{CaUpdateRefusal, Refusal, WhichCa};

use super::{GIVEN_STEPS_MAX, first_end};
use crate::outside::urls;
use crate::view::ControlError;

/// What an engine says of a certificate that it cannot read.
const UNREADABLE_ROOT: &str = r#"{"code":1003,"message":"Failed to parse certificate"}"#;
/// The same of a key.
const UNREADABLE_KEY: &str = r#"{"code":2003,"message":"Failed to parse private key"}"#;
/// The same of a key with a passphrase: the Engine API has no place for it.
const ENCRYPTED_KEY: &str = r#"{"code":2100,"message":"Private key is encrypted."}"#;

/// The root that an update asks for (engine-api.md 7.2).
#[derive(Default)]
pub struct Wish {
    /// Counter: any change asks for a new root, if no certificate is given.
    pub force_rotate: u64,
    /// The root to rotate to, PEM; empty: none given.
    pub certificate: Vec<u8>,
    /// A certificate below that root which is to sign in its place, PEM; the root's own key stays where it is.
    pub signer: Option<Vec<u8>>,
    /// The key of whichever signs, PEM.
    pub key: Option<SecretString>,
    /// Where that key is instead, if it is in a token.
    pub token: Option<TokenWish>,
}

/// A key in a token that is to sign.
#[derive(Clone)]
pub struct TokenWish {
    /// Which: a PKCS#11 URI.
    pub uri: Arc<str>,
    /// Its public half, as the token gave it.
    pub public: PublicKey,
}

/// Which roots' external CAs could be reached; those that were not asked count as reached.
#[derive(Default)]
pub struct Reach {
    failed: Vec<(WhichCa, String)>,
}

impl Reach {
    /// None of these could be, and why.
    pub fn failed(&mut self, which: WhichCa, why: String) {
        self.failed.push((which, why));
    }

    fn demand(&self, which: WhichCa) -> Result<(), ControlError> {
        match self.failed.iter().find(|(failed, _)| *failed == which) {
            None => Ok(()),
            Some((_, why)) => {
                let refusal = ControlError::from(Refusal::CaUpdate(CaUpdateRefusal::ExternalCaMissing { which }));
                let message = if why.is_empty() { refusal.message } else { format!("{}: {why}", refusal.message) };
                Err(ControlError { code: refusal.code, message })
            }
        }
    }
}

/// A root whose external CAs must be reached before an update can be judged.
pub struct MustReach {
    /// Which root that is.
    pub which: WhichCa,
    /// Its certificate, to be trusted alone.
    pub root: Arc<Root>,
    /// Their URLs; one is enough.
    pub urls: Vec<String>,
}

/// Which external CAs matter to an update that would set these.
///
/// Docker asks for the one of an external root at every update, whatever it is for; here only updates that have to do with the CA do.
pub fn must_reach(state: &State, wish: &Wish, cas: &[ExternalCa]) -> Vec<MustReach> {
    let mut all = Vec::new();
    let mut add = |which, root: &Arc<Root>| {
        let urls = urls::among(cas, state, root).map(str::to_owned).collect();
        all.push(MustReach { which, root: Arc::clone(root), urls });
    };
    let (present, next) = match &state.roots {
        Roots::None => return all,
        Roots::Stable { root, .. } => (root, None),
        Roots::Rotating(rotation) => (&rotation.old, Some(&rotation.new)),
    };
    let touched = state.settings.external_cas.as_slice() != cas || wish.asks(state);
    let before: Vec<_> = urls::of(state, present).collect();
    let added = urls::among(cas, state, present).any(|url| !before.contains(&url));
    let takes_key = wish.key().is_some() && normalize(&wish.certificate) == normalize(&present.bundle);
    if (touched && present.custody.is_outside() && !takes_key) || added {
        add(WhichCa::Current, present);
    }
    if let Some(next) = next
        && touched
        && next.custody.is_outside()
        && !wish.asks(state)
    {
        add(WhichCa::Next, next);
    }
    if !wish.certificate.is_empty()
        && wish.key().is_none()
        && wish.token.is_none()
        && let Ok(desired) = outside(wish)
    {
        add(WhichCa::Desired, &Arc::new(desired));
    }
    all
}

/// The external CAs that an update would set. A rotation away from an external root still needs that root's, also when the list
/// that comes with it names only those of the new one.
pub fn with_present(state: &State, wish: &Wish, mut cas: Vec<ExternalCa>) -> Vec<ExternalCa> {
    let present = match &state.roots {
        Roots::None => return cas,
        Roots::Stable { root, .. } => root,
        Roots::Rotating(rotation) => &rotation.old,
    };
    let rotates = !wish.certificate.is_empty() && normalize(&wish.certificate) != normalize(&present.bundle);
    if !rotates || !present.custody.is_outside() || urls::among(&cas, state, present).next().is_some() {
        return cas;
    }
    let bundle = String::from_utf8_lossy(&present.bundle);
    for ca in &state.settings.external_cas {
        if urls::among(std::slice::from_ref(ca), state, present).next().is_some() {
            cas.push(ExternalCa { ca_cert: bundle.to_string(), ..ca.clone() });
        }
    }
    cas
}

impl Wish {
    /// The key given, if there is one.
    fn key(&self) -> Option<&SecretString> {
        self.key.as_ref().filter(|key| !key.expose().is_empty())
    }

    /// Whether it names no root: a new one will do.
    pub(crate) fn is_for_any_root(&self) -> bool {
        self.certificate.is_empty() && self.key().is_none() && self.token.is_none()
    }

    /// Whether it asks for anything.
    fn asks(&self, state: &State) -> bool {
        !self.certificate.is_empty()
            || self.key().is_some()
            || self.token.is_some()
            || self.force_rotate != state.settings.force_rotate
    }
}

/// What an update means for the roots.
pub enum Decision {
    /// Nothing.
    Keep,
    /// The rotation under way goes back.
    Abort,
    /// The key of the root with this bundle changes hands; a rotation to another root under way goes back.
    Entrust {
        /// The bundle's digest.
        trust: BlobDigest,
        /// Where the key is from now on.
        custody: Custody,
        /// Whether that ends a rotation.
        abort: bool,
    },
    /// A rotation to a root that is made for it, in a token if one was named.
    Generate,
    /// A rotation to this root.
    Given(Arc<Root>),
}

/// Judges what an update asks of the roots, in docker's order (pki.md 12.2).
///
/// # Errors
/// The refusals of engine-api.md 2.1.
pub fn decide(state: &State, wish: &Wish, reach: &Reach, now: Time) -> Result<Decision, ControlError> {
    let refused = |refusal: CaUpdateRefusal| ControlError::from(Refusal::CaUpdate(refusal));
    if wish.certificate.is_empty() && wish.key().is_some() {
        return Err(refused(CaUpdateRefusal::KeyWithoutCertificate));
    }
    reach.demand(WhichCa::Current)?;
    if wish.certificate.is_empty() {
        if wish.force_rotate == state.settings.force_rotate && wish.token.is_none() {
            reach.demand(WhichCa::Next)?;
            return Ok(Decision::Keep);
        }
        if let (Some(token), Roots::Stable { root, .. }) = (&wish.token, &state.roots)
            && root.signer.public_key().is_ok_and(|key| *key == token.public)
        {
            // The key of the root of now: at most it changes hands.
            let custody = Custody::Token(Arc::clone(&token.uri));
            let kept = same_custody(&root.custody, &custody);
            let entrust = Decision::Entrust { trust: root.trust, custody, abort: false };
            return Ok(if kept { Decision::Keep } else { entrust });
        }
        return Ok(Decision::Generate);
    }
    let wanted = given(wish, reach, now)?;
    let same = |root: &Root| normalize(&root.bundle) == wanted.bundle && root.issuer == wanted.issuer;
    let entrust =
        |root: &Root, abort: bool| Decision::Entrust { trust: root.trust, custody: wanted.custody.clone(), abort };
    let kept = |root: &Root| same_custody(&root.custody, &wanted.custody);
    match &state.roots {
        Roots::None => Err(refused(CaUpdateRefusal::RootNotLoaded)),
        Roots::Stable { root, .. } if same(root) && kept(root) => Ok(Decision::Keep),
        Roots::Stable { root, .. } if same(root) => Ok(entrust(root, false)),
        Roots::Rotating(running) if same(&running.old) => Ok(match (kept(&running.old), running.back) {
            (true, true) => Decision::Keep,
            (true, false) => Decision::Abort,
            (false, back) => entrust(&running.old, !back),
        }),
        Roots::Stable { root, .. } if same_key(root, &wanted) => Err(refused(CaUpdateRefusal::SameKey)),
        Roots::Rotating(running) if same_key(&running.old, &wanted) => Err(refused(CaUpdateRefusal::SameKey)),
        Roots::Rotating(running) if same(&running.new) && !running.back => {
            Ok(if kept(&running.new) { Decision::Keep } else { entrust(&running.new, false) })
        }
        Roots::Stable { .. } | Roots::Rotating(_) => Ok(Decision::Given(wanted)),
    }
}

/// Whether a key stays where it is. A key that is here is the root's own: there is no other.
fn same_custody(a: &Custody, b: &Custody) -> bool {
    match (a, b) {
        (Custody::Sealed(_), Custody::Sealed(_)) | (Custody::Outside, Custody::Outside) => true,
        (Custody::Token(a), Custody::Token(b)) => a == b,
        (Custody::Sealed(_) | Custody::Token(_) | Custody::Outside, _) => false,
    }
}

/// The root that is given, checked (pki.md 12.2, 4).
///
/// # Errors
/// The refusals of engine-api.md 2.1.
pub fn given(wish: &Wish, reach: &Reach, now: Time) -> Result<Arc<Root>, ControlError> {
    let refused = |refusal: CaUpdateRefusal| ControlError::from(Refusal::CaUpdate(refusal));
    let bundle = normalize(&wish.certificate);
    let given = Certificate::parse_pem_bundle(&bundle)
        .map_err(|error| invalid(&BundleError::Roots(error)))
        .map(|mut all| (all.len() == 1).then(|| all.remove(0)))?;
    let (to, custody) = match (wish.key(), &wish.token) {
        (Some(key), _) => {
            let below = chain_below(wish.signer.as_deref().unwrap_or_default())?;
            let signing = if below.is_empty() { &bundle } else { &below };
            let issuer = Issuer::from_pem(&bundle, Some(signing), Some(key.expose().as_bytes()), &below, now)
                .map_err(|error| invalid(&error))?;
            let key = PrivateKey::from_pem(key.expose().as_bytes(), None)
                .map_err(|error| invalid(&BundleError::MalformedKey(error)))?;
            let to = Root::new(bundle, issuer.certificate().clone(), below, Custody::Outside);
            (to, Custody::Sealed(Arc::new(key.pkcs8_der())))
        }
        (None, Some(token)) => {
            let to = checked(wish, now)?;
            if to.signer.public_key().ok() != Some(&token.public) {
                return Err(refused(CaUpdateRefusal::KeyMismatch));
            }
            (to, Custody::Token(Arc::clone(&token.uri)))
        }
        (None, None) if given.is_none() => return Err(refused(CaUpdateRefusal::SeveralCertificates)),
        (None, None) => {
            reach.demand(WhichCa::Desired)?;
            (checked(wish, now)?, Custody::Outside)
        }
    };
    let given = given.ok_or_else(|| refused(CaUpdateRefusal::SeveralCertificates))?;
    for certificate in [&given, &to.signer] {
        // Slow to sign with, and too large for every leaf to carry.
        if let Ok(key) = certificate.public_key()
            && let KeyKind::Rsa { bits } = key.kind()
            && bits > CSR_RSA_BITS_MAX
        {
            return Err(refused(CaUpdateRefusal::RsaUnsupported));
        }
    }
    if first_end(&to) < now.saturating_add(GIVEN_ROOT_LIFE_MIN) {
        return Err(refused(CaUpdateRefusal::ExpiresTooSoon));
    }
    Ok(Arc::new(Root { custody, ..to }))
}

/// The key that is to be put into a token; empty: none.
///
/// # Errors
/// If it cannot be read.
pub fn key_to_import(key: Option<&SecretString>) -> Result<Option<PrivateKey>, ControlError> {
    key.filter(|key| !key.expose().is_empty())
        .map(|key| PrivateKey::from_pem(key.expose().as_bytes(), None))
        .transpose()
        .map_err(|error| invalid(&BundleError::MalformedKey(error)))
}

/// A root whose key is not given, with the chain of whoever signs below it.
fn outside(wish: &Wish) -> Result<Root, ControlError> {
    let bundle = normalize(&wish.certificate);
    let mut roots =
        Certificate::parse_pem_bundle(&bundle).map_err(|error| invalid(&BundleError::Roots(error)))?.into_iter();
    let below = chain_below(wish.signer.as_deref().unwrap_or_default())?;
    let first = match below.is_empty() {
        true => roots.next(),
        false => Certificate::parse_pem_bundle(&below)
            .map_err(|error| invalid(&BundleError::Signer(error)))?
            .into_iter()
            .next(),
    };
    let signer = first.ok_or_else(|| ControlError::from(Refusal::CaUpdate(CaUpdateRefusal::CertificateMalformed)))?;
    Ok(Root::new(bundle, signer, below, Custody::Outside))
}

/// The same, checked as a root with a key would be.
fn checked(wish: &Wish, now: Time) -> Result<Root, ControlError> {
    let root = outside(wish)?;
    let trust = pki::bundle::TrustBundle::parse(&root.bundle, now).map_err(|error| invalid(&error))?;
    trust.intermediates(&root.intermediates, now).map_err(|error| invalid(&error))?;
    match root.signer.public_key() {
        Ok(_) if root.signer.may_certify() => Ok(root),
        Ok(_) => Err(super::refused_root(&"it is not a CA's")),
        Err(error) => Err(invalid(&BundleError::UnsupportedKey(error))),
    }
}

/// The signer's chain as it is to be sent, PEM: people give files that hold the root too, or the same certificate twice, and
/// each place that such a one took would be missing for what leads on.
fn chain_below(pem: &[u8]) -> Result<Vec<u8>, ControlError> {
    let pem = normalize(pem);
    if pem.is_empty() {
        return Ok(pem);
    }
    // What is wrong with it is said together with the rest.
    let Ok(given) = Certificate::parse_pem_bundle(&pem) else { return Ok(pem) };
    let mut chain: Vec<Certificate> = Vec::new();
    for step in given {
        let signs_itself = step.issuer_der() == step.subject_der() && pki::chain::signed_by(&step, &step).is_ok();
        if signs_itself || chain.contains(&step) {
            continue;
        }
        if chain.len() >= GIVEN_STEPS_MAX {
            let message = format!("the signing certificate comes with too many others: {GIVEN_STEPS_MAX} at most");
            return Err(ControlError { code: tonic::Code::InvalidArgument, message });
        }
        chain.push(step);
    }
    Ok(encode_pem(&chain).into_bytes())
}

/// Two certificates of one key in a chain do not verify everywhere (pki.md 12.2, 5b).
fn same_key(root: &Root, wanted: &Root) -> bool {
    let keys = |root: &Root| -> Vec<_> {
        root.certificates.iter().chain([&root.signer]).map(|certificate| certificate.spki_hash()).collect()
    };
    keys(wanted).iter().any(|key| keys(root).contains(key))
}

fn invalid(error: &BundleError) -> ControlError {
    let refused = |refusal: CaUpdateRefusal| Refusal::CaUpdate(refusal).to_string();
    let message = match error {
        BundleError::UnsupportedKey(KeyError::RsaSize { .. } | KeyError::RsaExponent) => {
            refused(CaUpdateRefusal::RsaUnsupported)
        }
        BundleError::UnsupportedKey(_) => refused(CaUpdateRefusal::EcdsaUnsupported),
        // Clients know the engine's own words, which do not say what is wrong (engine-api.md 2.1).
        BundleError::Roots(_) => refused(CaUpdateRefusal::RootInvalid { reason: UNREADABLE_ROOT.to_owned() }),
        BundleError::MalformedKey(KeyError::Encrypted) => {
            refused(CaUpdateRefusal::KeyMalformed { reason: ENCRYPTED_KEY.to_owned() })
        }
        BundleError::MalformedKey(_) => refused(CaUpdateRefusal::KeyMalformed { reason: UNREADABLE_KEY.to_owned() }),
        other => other.to_string(),
    };
    ControlError { code: tonic::Code::InvalidArgument, message }
}

#[cfg(test)]
mod tests;
