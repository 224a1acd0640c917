//! Keys as a token stores them: found, made, and read in their public halves.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use pki::key::{KeyKind, PublicKey};

use super::asn1;
use super::module::fault;
use crate::key::KeySelector;
use crate::protocol::Fault;

/// A private key of the token, and its public half.
pub(super) struct Found {
    pub(super) private: ObjectHandle,
    pub(super) public: PublicKey,
    /// CKA_ID; empty if it has none.
    pub(super) id: Vec<u8>,
}

/// The one private key that fits.
pub(super) fn find(session: &Session, selector: &KeySelector) -> Result<Found, Fault> {
    let mut template = vec![Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Token(true)];
    template.extend(named(selector));
    let handles = session.find_objects(&template).map_err(|error| fault(&error))?;
    let private = match handles.as_slice() {
        [] => return Err(Fault::NoKey),
        [handle] => *handle,
        many => return Err(Fault::ManyKeys(u32::try_from(many.len()).unwrap_or(u32::MAX))),
    };
    let own = Attributes::of(session, private)?;
    if own.always_authenticate {
        return Err(Fault::KeyKind("it asks for the PIN before each signature (CKA_ALWAYS_AUTHENTICATE)".into()));
    }
    let public = match own.public_key()? {
        Some(public) => public,
        None => public_half(session, &own)?.ok_or(Fault::NoPublicKey)?,
    };
    Ok(Found { private, public, id: own.id })
}

/// Makes a key pair that can sign and nothing else; its private half cannot leave the token.
pub(super) fn make(session: &Session, label: &str, id: &[u8], kind: KeyKind) -> Result<[ObjectHandle; 2], Fault> {
    let mut public = common(label, id);
    let mut private = common(label, id);
    public.extend([Attribute::Private(false), Attribute::Verify(true)]);
    private.extend(private_policy(kind));
    let mechanism = match kind {
        KeyKind::Rsa { bits } => {
            if !RSA_SIZES.contains(&bits) {
                return Err(Fault::KeyKind(format!("RSA keys are made of {RSA_SIZES:?} bits, not {bits}")));
            }
            public.push(Attribute::ModulusBits(u64::from(bits).into()));
            public.push(Attribute::PublicExponent(vec![1, 0, 1]));
            Mechanism::RsaPkcsKeyPairGen
        }
        KeyKind::EcP256 | KeyKind::EcP384 | KeyKind::EcP521 => {
            let curve = asn1::curve(kind).ok_or_else(|| Fault::KeyKind("no curve".into()))?;
            public.push(Attribute::EcParams(curve.to_vec()));
            Mechanism::EccKeyPairGen
        }
    };
    let (public, private) = session.generate_key_pair(&mechanism, &public, &private).map_err(|error| fault(&error))?;
    Ok([public, private])
}

/// [`Fault::KeyExists`] if any key has this label, or this id.
pub(super) fn refuse_existing(session: &Session, label: &str, id: &[u8]) -> Result<(), Fault> {
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        for name in [Attribute::Label(label.as_bytes().to_vec()), Attribute::Id(id.to_vec())] {
            let template = [Attribute::Class(class), Attribute::Token(true), name];
            if !session.find_objects(&template).map_err(|error| fault(&error))?.is_empty() {
                return Err(Fault::KeyExists);
            }
        }
    }
    Ok(())
}

/// What both halves of a key of ours say.
pub(super) fn common(label: &str, id: &[u8]) -> Vec<Attribute> {
    vec![Attribute::Token(true), Attribute::Label(label.as_bytes().to_vec()), Attribute::Id(id.to_vec())]
}

/// What a private key of ours may be used for, and by whom.
pub(super) fn private_policy(kind: KeyKind) -> Vec<Attribute> {
    let mut policy = vec![
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
    ];
    match kind {
        KeyKind::Rsa { .. } => policy.extend([Attribute::Decrypt(false), Attribute::Unwrap(false)]),
        KeyKind::EcP256 | KeyKind::EcP384 | KeyKind::EcP521 => policy.push(Attribute::Derive(false)),
    }
    policy
}

fn named(selector: &KeySelector) -> impl Iterator<Item = Attribute> {
    let label = selector.label.as_ref().map(|label| Attribute::Label(label.as_bytes().to_vec()));
    label.into_iter().chain(selector.id.clone().map(Attribute::Id))
}

/// The public key object that goes with a private one: the same id, or the same label where there is no id.
fn public_half(session: &Session, private: &Attributes) -> Result<Option<PublicKey>, Fault> {
    let name = match (&private.id, &private.label) {
        (id, _) if !id.is_empty() => Attribute::Id(id.clone()),
        (_, label) if !label.is_empty() => Attribute::Label(label.clone()),
        _ => return Ok(None),
    };
    let template = [Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Token(true), name];
    let handles = session.find_objects(&template).map_err(|error| fault(&error))?;
    match handles.as_slice() {
        [] => Ok(None),
        [handle] => Attributes::of(session, *handle)?.public_key(),
        many => Err(Fault::ManyKeys(u32::try_from(many.len()).unwrap_or(u32::MAX))),
    }
}

/// What an object tells about itself.
#[derive(Default)]
struct Attributes {
    id: Vec<u8>,
    label: Vec<u8>,
    key_type: Option<KeyType>,
    ec_parameters: Vec<u8>,
    ec_point: Vec<u8>,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
    spki: Vec<u8>,
    always_authenticate: bool,
}

impl Attributes {
    fn of(session: &Session, object: ObjectHandle) -> Result<Self, Fault> {
        let asked = [
            AttributeType::Id,
            AttributeType::Label,
            AttributeType::KeyType,
            AttributeType::EcParams,
            AttributeType::EcPoint,
            AttributeType::Modulus,
            AttributeType::PublicExponent,
            AttributeType::PublicKeyInfo,
            AttributeType::AlwaysAuthenticate,
        ];
        let mut told = Attributes::default();
        for attribute in session.get_attributes(object, &asked).map_err(|error| fault(&error))? {
            match attribute {
                Attribute::Id(id) => told.id = id,
                Attribute::Label(label) => told.label = label,
                Attribute::KeyType(key_type) => told.key_type = Some(key_type),
                Attribute::EcParams(parameters) => told.ec_parameters = parameters,
                Attribute::EcPoint(point) => told.ec_point = point,
                Attribute::Modulus(modulus) => told.modulus = modulus,
                Attribute::PublicExponent(exponent) => told.exponent = exponent,
                Attribute::PublicKeyInfo(spki) => told.spki = spki,
                Attribute::AlwaysAuthenticate(always) => told.always_authenticate = always,
                _ => {}
            }
        }
        Ok(told)
    }

    /// The public key, if the object tells it.
    fn public_key(&self) -> Result<Option<PublicKey>, Fault> {
        let spki = match self.key_type {
            Some(KeyType::RSA) if !self.modulus.is_empty() && !self.exponent.is_empty() => {
                Some(asn1::rsa_spki(&self.modulus, &self.exponent))
            }
            Some(KeyType::EC) if !self.ec_point.is_empty() => Some(
                asn1::ec_spki(&self.ec_parameters, &self.ec_point)
                    .ok_or_else(|| Fault::KeyKind("its curve is not P-256, P-384 or P-521".into()))?,
            ),
            Some(KeyType::RSA | KeyType::EC) if !self.spki.is_empty() => Some(self.spki.clone()),
            Some(KeyType::RSA | KeyType::EC) => None,
            _ => return Err(Fault::KeyKind("neither ECDSA nor RSA".into())),
        };
        let read = |spki: Vec<u8>| PublicKey::from_spki_der(&spki).map_err(|error| Fault::KeyKind(error.to_string()));
        spki.map(read).transpose()
    }
}

/// Bits of the RSA keys that are made.
const RSA_SIZES: [u32; 3] = [2_048, 3_072, 4_096];
