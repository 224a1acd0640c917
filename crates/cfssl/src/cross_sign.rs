//! A root certified by an external CA (pki.md 11.4).

use std::time::Duration;

use pki::certificate::Certificate;
use pki::csr;
use pki::digest::hex;
use pki::key::{SignError, Signer};
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{
    OID_X509_COUNTRY_NAME, OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_LOCALITY_NAME, OID_X509_ORGANIZATION_NAME,
    OID_X509_ORGANIZATIONAL_UNIT, OID_X509_STATE_OR_PROVINCE_NAME, Oid,
};
use x509_parser::prelude::FromDer as _;

use crate::answer::{ExpectedRoot, check_cross_signed};
use crate::client::Client;
use crate::failure::{Granted, SignFailure};
use crate::message::{BASIC_CONSTRAINTS_OID, CA_PROFILE, Extension, NameParts, SignRequest, SubjectName};

/// Why a root was not cross-signed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CrossSignFailure {
    /// The new root's key gave no signature for the request.
    #[error("the new root's key does not sign: {0}")]
    Key(#[from] SignError),
    /// The new root cannot be read.
    #[error("the new root cannot be read")]
    Root,
    /// No external CA signed it.
    #[error(transparent)]
    Sign(#[from] SignFailure),
}

/// The request that a root be certified: made with its key, of its subject, with its basic constraints.
///
/// # Errors
/// [`CrossSignFailure::Key`], [`CrossSignFailure::Root`].
pub fn request(new_root: &Certificate, key: &dyn Signer) -> Result<SignRequest, CrossSignFailure> {
    let (_, parsed) = X509Certificate::from_der(new_root.der()).map_err(|_| CrossSignFailure::Root)?;
    let subject =
        SubjectName { common_name: new_root.common_name(), names: name_parts(&parsed), serial_number: String::new() };
    let mut request = SignRequest::new(csr::named_request(new_root.subject_der(), key)?, subject);
    request.profile = CA_PROFILE.to_owned();
    let constraints = parsed.extensions().iter().filter(|extension| extension.oid == OID_X509_EXT_BASIC_CONSTRAINTS);
    request.extensions = constraints
        .map(|extension| Extension {
            id: BASIC_CONSTRAINTS_OID.to_owned(),
            critical: extension.critical,
            value: hex(extension.value),
        })
        .collect();
    Ok(request)
}

/// The parts of a name beside CN: the first country with the first organization and so on, as CFSSL has them.
fn name_parts(parsed: &X509Certificate<'_>) -> Vec<NameParts> {
    let values = |kind: Oid<'static>| -> Vec<String> {
        let attributes = parsed.subject().iter_by_oid(&kind).filter_map(|attribute| attribute.as_str().ok());
        attributes.map(str::to_owned).collect()
    };
    let columns = [
        values(OID_X509_COUNTRY_NAME),
        values(OID_X509_STATE_OR_PROVINCE_NAME),
        values(OID_X509_LOCALITY_NAME),
        values(OID_X509_ORGANIZATION_NAME),
        values(OID_X509_ORGANIZATIONAL_UNIT),
    ];
    let rows = columns.iter().map(Vec::len).max().unwrap_or(0);
    let row = |index: usize| {
        let [country, province, locality, organization, organizational_unit] =
            columns.each_ref().map(|column| column.get(index).cloned().unwrap_or_default());
        NameParts { country, province, locality, organization, organizational_unit, serial_number: String::new() }
    };
    (0..rows).map(row).collect()
}

impl Client {
    /// Has `new_root`, whose key is `key`, certified by the CA of `old_root`. What it answers must last for `life_min` and may
    /// begin at most `skew` ahead of our clock.
    ///
    /// # Errors
    /// [`CrossSignFailure`].
    pub async fn cross_sign(
        &self,
        new_root: &Certificate,
        key: &dyn Signer,
        old_root: &Certificate,
        life_min: Duration,
        skew: Duration,
    ) -> Result<Granted<Certificate>, CrossSignFailure> {
        let request = request(new_root, key)?;
        let expected = ExpectedRoot { new_root, old_root, life_min, skew };
        Ok(self.sign(&request, |pem| check_cross_signed(pem, &expected, self.now())).await?)
    }
}
