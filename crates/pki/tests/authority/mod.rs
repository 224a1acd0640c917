//! Certificates of every kind for tests, made by another library than the one under test.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use pki::time::Time;
use pki::{Certificate, PrivateKey};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};

/// A moment at which everything in `tests/data` is valid.
pub const NOW: Time = Time::from_unix_secs(1_797_000_000);

/// A file of `tests/data`.
pub fn data(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

pub fn key(number: u8) -> PrivateKey {
    PrivateKey::generate_p256(&[number; 32]).unwrap()
}

/// Valid from 1 January of the first year to 1 January of the second.
pub type Years = (i32, i32);
pub const GOOD: Years = (2020, 2040);

/// A certificate and its key.
pub struct Holder {
    params: CertificateParams,
    key: KeyPair,
    pub pem: String,
}

impl Holder {
    pub fn root(name: &str, years: Years) -> Holder {
        Self::root_with(name, years, KeyPair::generate().unwrap())
    }

    pub fn root_with(name: &str, years: Years, key: KeyPair) -> Holder {
        let params = params(name, years, true);
        let pem = params.self_signed(&key).unwrap().pem();
        Holder { params, key, pem }
    }

    pub fn intermediate(&self, name: &str, years: Years) -> Holder {
        self.certify(params(name, years, true))
    }

    pub fn leaf(&self, name: &str, years: Years) -> Holder {
        self.certify(params(name, years, false))
    }

    fn certify(&self, params: CertificateParams) -> Holder {
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let pem = params.signed_by(&key, &issuer).unwrap().pem();
        Holder { params, key, pem }
    }

    pub fn certificate(&self) -> Certificate {
        Certificate::parse_pem_bundle(self.pem.as_bytes()).unwrap().remove(0)
    }

    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

fn params(name: &str, years: Years, ca: bool) -> CertificateParams {
    let mut params = CertificateParams::new(if ca { vec![] } else { vec![name.to_owned()] }).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    if ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    }
    params
}
