//! Signatures per second of a P-256 key in SoftHSM2: the module alone, driven in a loop by one thread of this process, beside the same
//! module behind its child process, asked by one caller and by sixteen.
//!
//! To reach: 0.8 of what the module does alone.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/softhsm/mod.rs"]
mod softhsm;

use std::process::Command;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use divan::Bencher;
use divan::counter::ItemsCount;
use pki::Signer;
use pki::key::KeyKind;
use softhsm::{CHILD, PIN, SoftHsm};
use std::path::Path;
use swarmpki_pkcs11::{KeyRequest, KeySelector, Module, ModuleConfig, TokenKey};

/// Signatures of one sample.
const SIGNATURES: usize = 1_600;
const CALLERS: usize = 16;

fn main() {
    // The module finds its token by a variable of this process: run once more with it.
    if std::env::var_os(MARK).is_some() {
        divan::main();
        return;
    }
    let Some(hsm) = SoftHsm::new("benches/sign") else { return };
    let key = KeyRequest { label: "root".into(), id: None, kind: KeyKind::EcP256 };
    hsm.open().make(&key).unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(std::env::args_os().skip(1))
        .env("SOFTHSM2_CONF", hsm.settings())
        .env(MARK, &hsm.module)
        .status()
        .unwrap();
    assert!(status.success());
}

/// Set to the module's path in the second run.
const MARK: &str = "SWARMPKI_BENCH_MODULE";

fn behind_the_child() -> TokenKey {
    let config = ModuleConfig {
        uri: "pkcs11:token=ca".parse().unwrap(),
        module_path: std::env::var_os(MARK).map(Into::into),
        pin: Some(softhsm::pin(PIN)),
        env: Vec::new(),
    };
    let token = Module::spawn(Path::new(CHILD), &[], config).unwrap();
    token.find(&KeySelector { label: Some("root".into()), id: None }).unwrap()
}

fn alone() -> (Session, ObjectHandle) {
    let pkcs11 = Pkcs11::new(std::env::var_os(MARK).unwrap().to_str().unwrap()).unwrap();
    // The samples share one process, and a module is initialised once.
    let _ = pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    let slot = pkcs11.get_slots_with_initialized_token().unwrap()[0];
    let session = pkcs11.open_ro_session(slot).unwrap();
    session.login(UserType::User, Some(&AuthPin::from(PIN.to_owned()))).unwrap();
    let key = session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)]).unwrap()[0];
    (session, key)
}

#[divan::bench(sample_count = 30, sample_size = 1)]
fn module_alone(bencher: Bencher<'_, '_>) {
    let (session, key) = alone();
    bencher.counter(ItemsCount::new(SIGNATURES)).bench_local(|| {
        for _ in 0..SIGNATURES {
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, MESSAGE);
            divan::black_box(session.sign(&Mechanism::Ecdsa, key, digest.as_ref()).unwrap());
        }
    });
}

#[divan::bench(sample_count = 30, sample_size = 1)]
fn one_caller(bencher: Bencher<'_, '_>) {
    let key = behind_the_child();
    bencher.counter(ItemsCount::new(SIGNATURES)).bench_local(|| {
        for _ in 0..SIGNATURES {
            divan::black_box(key.sign(MESSAGE).unwrap());
        }
    });
}

#[divan::bench(sample_count = 30, sample_size = 1)]
fn sixteen_callers(bencher: Bencher<'_, '_>) {
    let key = behind_the_child();
    bencher.counter(ItemsCount::new(SIGNATURES)).bench_local(|| {
        std::thread::scope(|scope| {
            for _ in 0..CALLERS {
                scope.spawn(|| {
                    for _ in 0..SIGNATURES / CALLERS {
                        divan::black_box(key.sign(MESSAGE).unwrap());
                    }
                });
            }
        });
    });
}

/// As long as a leaf's TBSCertificate.
const MESSAGE: &[u8] = &[0x5a; 520];
