//! Putting a private key that was made elsewhere into the token.

use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use pki::key::{KeyKind, PublicKey, Signer};
use pki::{PrivateKey, SecretBytes};
use zeroize::Zeroize;

use super::module::fault;
use super::{asn1, object};
use crate::protocol::Fault;

/// Stores both halves of `key`. The private half is sensitive and cannot be extracted again.
pub(super) fn import(session: &Session, label: &str, id: &[u8], key: &PrivateKey) -> Result<[ObjectHandle; 2], Fault> {
    let kind = key.public().kind();
    let mut private = object::common(label, id);
    private.push(Attribute::Class(ObjectClass::PRIVATE_KEY));
    private.extend(object::private_policy(kind));
    private.extend(secret_part(kind, &key.pkcs8_der()).ok_or_else(unreadable)?);
    let created = session.create_object(&private);
    for attribute in &mut private {
        wipe(attribute);
    }
    let private = created.map_err(|error| fault(&error))?;
    match create_public(session, label, id, key.public()) {
        Ok(public) => Ok([public, private]),
        Err(error) => {
            // Half a key is worse than none.
            let _ = session.destroy_object(private);
            Err(error)
        }
    }
}

fn create_public(session: &Session, label: &str, id: &[u8], key: &PublicKey) -> Result<ObjectHandle, Fault> {
    let mut template = object::common(label, id);
    template.extend([Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Private(false), Attribute::Verify(true)]);
    match asn1::curve(key.kind()) {
        Some(curve) => template.extend([
            Attribute::KeyType(KeyType::EC),
            Attribute::EcParams(curve.to_vec()),
            Attribute::EcPoint(asn1::wrapped_point(key.key_bytes())),
        ]),
        None => {
            let (modulus, exponent) = asn1::rsa_public_numbers(key.key_bytes()).ok_or_else(unreadable)?;
            template.extend([
                Attribute::KeyType(KeyType::RSA),
                Attribute::Modulus(modulus.to_vec()),
                Attribute::PublicExponent(exponent.to_vec()),
            ]);
        }
    }
    session.create_object(&template).map_err(|error| fault(&error))
}

fn secret_part(kind: KeyKind, pkcs8: &SecretBytes) -> Option<Vec<Attribute>> {
    if let Some(curve) = asn1::curve(kind) {
        let scalar = asn1::ec_scalar(pkcs8.expose())?;
        return Some(vec![
            Attribute::KeyType(KeyType::EC),
            Attribute::EcParams(curve.to_vec()),
            Attribute::Value(scalar.to_vec()),
        ]);
    }
    let [modulus, public, private, prime1, prime2, exponent1, exponent2, coefficient] =
        asn1::rsa_numbers(pkcs8.expose())?.map(<[u8]>::to_vec);
    Some(vec![
        Attribute::KeyType(KeyType::RSA),
        Attribute::Modulus(modulus),
        Attribute::PublicExponent(public),
        Attribute::PrivateExponent(private),
        Attribute::Prime1(prime1),
        Attribute::Prime2(prime2),
        Attribute::Exponent1(exponent1),
        Attribute::Exponent2(exponent2),
        Attribute::Coefficient(coefficient),
    ])
}

fn wipe(attribute: &mut Attribute) {
    match attribute {
        Attribute::Value(secret)
        | Attribute::PrivateExponent(secret)
        | Attribute::Prime1(secret)
        | Attribute::Prime2(secret)
        | Attribute::Exponent1(secret)
        | Attribute::Exponent2(secret)
        | Attribute::Coefficient(secret) => secret.zeroize(),
        _ => {}
    }
}

fn unreadable() -> Fault {
    Fault::KeyKind("the private key cannot be read".into())
}
