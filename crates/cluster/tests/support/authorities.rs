//! Roots with real P-256 keys, and what they certify of each other: made once for each test process.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};

use cluster::node::IssuerHash;
use cluster::roots::Root;
use cluster::rotation::Rotation;
use cluster::trust::{Anchor, Link};
use pki::certificate::Certificate;
use pki::key::PrivateKey;
use pki::serial::Serial;

use super::START;

/// Roots that tests may use.
pub const AUTHORITIES: usize = 5;

static ROOTS: LazyLock<Vec<Arc<Root>>> = LazyLock::new(|| (0..AUTHORITIES).map(made).collect());

static CATALOG: LazyLock<Catalog> = LazyLock::new(Catalog::new);

fn key(n: usize) -> PrivateKey {
    PrivateKey::generate_p256(&[n as u8 + 1; 32]).unwrap()
}

fn made(n: usize) -> Arc<Root> {
    let (key, serial) = (key(n), Serial::from_random([n as u8 + 1; 20]));
    let root = pki::issue::root(&key, serial, START).unwrap();
    Arc::new(Root::new(root.pem().into_bytes(), root, Vec::new(), Some(Arc::new(key.pkcs8_der()))))
}

/// The `n`th root.
pub fn authority(n: usize) -> Arc<Root> {
    Arc::clone(&ROOTS[n])
}

/// Which root this issuer is.
pub fn number(issuer: &IssuerHash) -> usize {
    ROOTS.iter().position(|root| root.issuer == *issuer).unwrap()
}

/// The one root certified by the other.
pub fn cross(of: &Root, by: &Root) -> Certificate {
    assert!(by.key().is_some(), "this key is gone");
    CATALOG.crosses[&(number(&of.issuer), number(&by.issuer))].clone()
}

/// The one certified by the other until then.
pub fn cross_until(of: usize, by: usize, end: pki::time::Time) -> Certificate {
    pki::issue::cross_sign(&ROOTS[of].signer, &ROOTS[by].signer, &key(by), Some(end)).unwrap()
}

/// Two bundles in one.
pub fn both(one: &Root, other: &Root) -> Arc<[u8]> {
    Arc::from([one.bundle.as_slice(), other.bundle.as_slice()].concat())
}

/// The ladder with which a manager begins a rotation to `to`.
pub fn ladder_to(to: &Root, stable: Option<&Root>, running: Option<&Rotation>) -> Vec<Certificate> {
    match (stable, running) {
        (Some(root), _) => vec![cross(to, root)],
        (None, Some(running)) if running.given.is_empty() => vec![cross(to, &running.old)],
        (None, Some(running)) => {
            [cross(to, running.to())].into_iter().chain(running.ladder().iter().cloned()).collect()
        }
        (None, None) => Vec::new(),
    }
}

/// The ladder with which a manager turns a rotation back.
pub fn ladder_back(running: &Rotation) -> Vec<Certificate> {
    if running.given.is_empty() || running.bundle().is_some() {
        return Vec::new();
    }
    let onward = running.ladder();
    let end = cluster::rotation::steps_to(onward, &running.old).map_or(onward.len(), |steps| steps.len());
    [cross(&running.old, &running.new)].into_iter().chain(onward[..end - 1].iter().cloned()).collect()
}

/// Certificates and bundles as they stand in the graph of trust, read once.
struct Catalog {
    crosses: BTreeMap<(usize, usize), Certificate>,
    links: BTreeMap<Vec<u8>, Link>,
    anchors: Mutex<BTreeMap<Vec<u8>, Arc<[Anchor]>>>,
}

impl Catalog {
    fn new() -> Self {
        let mut crosses = BTreeMap::new();
        for of in 0..AUTHORITIES {
            for by in (0..AUTHORITIES).filter(|by| *by != of) {
                let signed = pki::issue::cross_sign(&ROOTS[of].signer, &ROOTS[by].signer, &key(by), None).unwrap();
                crosses.insert((of, by), signed);
            }
        }
        let roots: Vec<_> = ROOTS.iter().map(|root| root.signer.clone()).collect();
        let link = |step: &Certificate| {
            let step = step.clone();
            let link = cluster::trust::links(std::slice::from_ref(&step), &roots).remove(0);
            (step.der().to_vec(), link)
        };
        let links = crosses.values().map(link).collect();
        Self { crosses, links, anchors: Mutex::default() }
    }
}

/// Whether a leaf of `issuer`, sent with `ladder` (DER), verifies for who holds `bundle`.
pub fn verifies(issuer: &IssuerHash, ladder: &[Vec<u8>], bundle: &[u8]) -> bool {
    let mut known = CATALOG.anchors.lock().unwrap();
    if !known.contains_key(bundle) {
        let roots = Certificate::parse_pem_bundle(bundle).unwrap();
        known.insert(bundle.to_vec(), roots.iter().map(Anchor::of).collect());
    }
    let anchors = Arc::clone(&known[bundle]);
    drop(known);
    verifies_at(issuer, ladder, &anchors)
}

/// The same, for ends already read.
pub fn verifies_at(issuer: &IssuerHash, ladder: &[Vec<u8>], anchors: &[Anchor]) -> bool {
    let read = |step: &Vec<u8>| {
        let step = [Certificate::from_der(step.as_slice()).unwrap()];
        let roots: Vec<_> = ROOTS.iter().map(|root| root.signer.clone()).collect();
        cluster::trust::links(&step, &roots).remove(0)
    };
    let links: Vec<_> =
        ladder.iter().map(|step| CATALOG.links.get(step).copied().unwrap_or_else(|| read(step))).collect();
    cluster::trust::reaches(issuer, &links, anchors)
}
