//! Against a real SoftHSM2.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod softhsm;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use pki::key::{KeyKind, SignError, SignatureAlgorithm, Signer};
use pki::{PrivateKey, SecretString};
use softhsm::{CHILD, PIN, SoftHsm};
use swarmpki_pkcs11::{
    KeyRequest, KeySelector, Module, ModuleConfig, Pin, PinError, Token, TokenError, TokenKey, TokenState,
};

/// Returns from the test if there is no SoftHSM2.
macro_rules! softhsm {
    () => {
        match SoftHsm::new(&testkit::peer::test_name()) {
            Some(token) => token,
            None => return,
        }
    };
}

fn request(label: &str, kind: KeyKind) -> KeyRequest {
    KeyRequest { label: label.into(), id: None, kind }
}

fn by_label(label: &str) -> KeySelector {
    KeySelector { label: Some(label.into()), id: None }
}

fn signs(key: &TokenKey) {
    let message = b"a certificate to be";
    let signature = key.sign(message).unwrap();
    key.public().verify(key.algorithm(), message, &signature).unwrap();
    assert!(key.public().verify(key.algorithm(), b"another", &signature).is_err());
}

/// Waits for a state, for as long as a slow machine may take.
fn wait_for(token: &Token, wanted: impl Fn(&TokenState) -> bool) -> TokenState {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut states = token.watch();
    runtime.block_on(async {
        let waited = tokio::time::timeout(Duration::from_secs(60), states.wait_for(wanted)).await;
        waited.unwrap_or_else(|_| panic!("still {:?}", token.state())).unwrap().clone()
    })
}

/// Stops the child, and waits until all its threads stand still.
fn stop(child: Pid) {
    kill(child, Signal::SIGSTOP).unwrap();
    assert_eq!(waitpid(child, Some(WaitPidFlag::WUNTRACED)), Ok(WaitStatus::Stopped(child, Signal::SIGSTOP)));
}

fn is_ready(state: &TokenState) -> bool {
    matches!(state, TokenState::Ready { .. })
}

fn is_lost(state: &TokenState) -> bool {
    matches!(state, TokenState::Lost { .. })
}

#[test]
fn keys_of_every_kind_are_made_found_and_sign() {
    let hsm = softhsm!();
    let token = hsm.open();
    let TokenState::Ready { token: info, .. } = token.state() else { panic!("{:?}", token.state()) };
    assert_eq!((info.label.as_str(), info.manufacturer.as_str()), ("ca", "SoftHSM project"));
    let rows = [
        (KeyKind::EcP256, SignatureAlgorithm::EcdsaSha256),
        (KeyKind::EcP384, SignatureAlgorithm::EcdsaSha384),
        (KeyKind::EcP521, SignatureAlgorithm::EcdsaSha512),
        (KeyKind::Rsa { bits: 2_048 }, SignatureAlgorithm::RsaSha256),
        (KeyKind::Rsa { bits: 3_072 }, SignatureAlgorithm::RsaSha384),
        (KeyKind::Rsa { bits: 4_096 }, SignatureAlgorithm::RsaSha512),
    ];
    for (kind, algorithm) in rows {
        let label = kind.to_string();
        let made = token.make(&request(&label, kind)).unwrap();
        assert_eq!((made.public().kind(), made.algorithm()), (kind, algorithm));
        signs(&made);
        let found = token.find(&by_label(&label)).unwrap();
        assert_eq!(found.public(), made.public());
        assert_eq!(found.selector().id, made.selector().id, "found by its label, known by its id");
        assert_eq!(found.selector().id.as_ref().map(Vec::len), Some(16));
        signs(&found);
    }
    // Another process finds them too.
    let again = hsm.open();
    let uri = "pkcs11:token=ca;object=ECDSA%20P-384;type=private".parse().unwrap();
    signs(&again.find_named(&uri).unwrap());
}

#[test]
fn private_halves_are_sensitive_and_cannot_be_taken_out() {
    let hsm = softhsm!();
    let token = hsm.open();
    token.make(&request("a", KeyKind::EcP256)).unwrap();
    token.make(&request("b", KeyKind::Rsa { bits: 2_048 })).unwrap();
    token.import("c", None, &PrivateKey::generate_p256(&[7; 32]).unwrap()).unwrap();
    token.import("d", None, &rsa_key()).unwrap();

    let looked = Command::new(CHILD)
        .args(["inspect".as_ref(), hsm.module.as_os_str(), PIN.as_ref()])
        .env("SOFTHSM2_CONF", hsm.settings())
        .output()
        .unwrap();
    assert!(looked.status.success(), "{looked:?}");
    let mut lines: Vec<String> = String::from_utf8(looked.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    let expected = ["a", "b", "c", "d"]
        .map(|label| format!("{label}: sensitive true, extractable false, sign true, readable false"));
    assert_eq!(lines, expected);
}

#[test]
fn imported_keys_sign_as_themselves() {
    let hsm = softhsm!();
    let token = hsm.open();
    for (label, key) in
        [("p256", PrivateKey::generate_p256(&[7; 32]).unwrap()), ("p384", ec_key_p384()), ("rsa", rsa_key())]
    {
        let imported = token.import(label, None, &key).unwrap();
        assert_eq!(imported.public(), key.public());
        assert_eq!(imported.selector().id.as_deref(), Some(key.public().key_id().as_slice()));
        signs(&imported);
        signs(&token.find(&by_label(label)).unwrap());
    }
    let id = Some(vec![9; 3]);
    let imported = token.import("with an id", id.clone(), &PrivateKey::generate_p256(&[8; 32]).unwrap()).unwrap();
    assert_eq!(imported.selector().id, id);
}

#[test]
fn no_key_and_two_keys_and_another_key() {
    let hsm = softhsm!();
    let token = hsm.open();
    assert_eq!(token.find(&by_label("root")).err(), Some(TokenError::NoKey));
    assert_eq!(token.find_named(&"pkcs11:token=ca".parse().unwrap()).err(), Some(TokenError::NoKey));
    let root = token.make(&request("root", KeyKind::EcP256)).unwrap();
    assert_eq!(token.make(&request("root", KeyKind::EcP384)).err(), Some(TokenError::KeyExists));
    let same_id = KeyRequest { label: "other".into(), id: root.selector().id.clone(), kind: KeyKind::EcP256 };
    assert_eq!(token.make(&same_id).err(), Some(TokenError::KeyExists));
    let key = PrivateKey::generate_p256(&[7; 32]).unwrap();
    assert_eq!(token.import("root", None, &key).err(), Some(TokenError::KeyExists));
    assert!(matches!(token.make(&request("small", KeyKind::Rsa { bits: 1_024 })).err(), Some(TokenError::KeyKind(_))));
    assert_eq!(token.find(&by_label("small")).err(), Some(TokenError::NoKey), "nothing is left of it");

    token.make(&request("second", KeyKind::EcP256)).unwrap();
    assert_eq!(token.find(&KeySelector::default()).err(), Some(TokenError::ManyKeys(2)));

    let mistaken = token.known_key(by_label("second"), root.public().clone());
    assert_eq!(mistaken.try_sign(b"message"), Err(TokenError::OtherKey));
    assert_eq!(mistaken.sign(b"message"), Err(SignError::Failed));
    signs(&token.known_key(by_label("root"), root.public().clone()));
    assert!(is_ready(&token.state()), "none of these cost the token");
}

#[test]
fn no_token_no_module_no_program() {
    let hsm = softhsm!();
    let open = |config: ModuleConfig| Module::spawn(Path::new(CHILD), &[], config).err();
    let uri = |text: &str| ModuleConfig { uri: text.parse().unwrap(), ..hsm.config(PIN) };
    assert_eq!(open(uri("pkcs11:token=another")), Some(TokenError::NoToken));
    assert_eq!(open(uri("pkcs11:token=ca;serial=0")), Some(TokenError::NoToken));
    let gone = ModuleConfig { module_path: Some("/nowhere/module.so".into()), ..hsm.config(PIN) };
    assert!(matches!(open(gone), Some(TokenError::Load { path, .. }) if path == Path::new("/nowhere/module.so")));
    let none = ModuleConfig { pin: None, ..hsm.config(PIN) };
    assert_eq!(open(none), Some(TokenError::Pin(PinError::Missing)));
    let nobody = Module::spawn(Path::new("/nowhere/program"), &[], hsm.config(PIN)).err();
    assert!(matches!(nobody, Some(TokenError::Start(_))));
    let stranger = Module::spawn(Path::new("/bin/true"), &[], hsm.config(PIN)).err();
    assert!(matches!(stranger, Some(TokenError::Lost { .. })), "{stranger:?}");
}

#[test]
fn a_pin_from_a_file_is_read_by_the_child() {
    let hsm = softhsm!();
    let file = hsm.path().join("pin");
    std::fs::write(&file, format!("{PIN}\n")).unwrap();
    let config = || ModuleConfig {
        uri: format!("pkcs11:token=ca?pin-source=file:{}", file.display()).parse().unwrap(),
        pin: None,
        ..hsm.config(PIN)
    };
    let mode = |mode| std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
    mode(0o644);
    let exposed = Module::spawn(Path::new(CHILD), &[], config()).err();
    assert!(matches!(exposed, Some(TokenError::Pin(PinError::Exposed { mode: 0o644, .. }))), "{exposed:?}");
    mode(0o400);
    let token = Module::spawn(Path::new(CHILD), &[], config()).unwrap();
    signs(&token.make(&request("root", KeyKind::EcP256)).unwrap());
}

#[test]
fn a_wrong_pin_is_tried_once() {
    let hsm = softhsm!();
    let error = hsm.try_open("4321-wrong").err();
    assert_eq!(error, Some(TokenError::PinRefused("PinIncorrect".into())));

    let token = Module::attach(Path::new(CHILD), &[], hsm.config("4321-wrong")).unwrap();
    let state = wait_for(&token, |state| matches!(state, TokenState::PinRefused { .. }));
    assert!(!format!("{state:?} {error:?}").contains("4321"), "no PIN is told");
    let key = token.known_key(by_label("root"), PrivateKey::generate_p256(&[7; 32]).unwrap().public().clone());
    assert_eq!(key.try_sign(b"message"), Err(TokenError::PinRefused("PinIncorrect".into())));
    assert!(matches!(key.sign(b"message"), Err(SignError::Unavailable(_))));
    assert_eq!(token.process_id(), None, "no child is left to try");

    token.retry(Some(Pin::Secret(SecretString::new(PIN.into()))));
    wait_for(&token, is_ready);
    signs(&token.make(&request("root", KeyKind::EcP256)).unwrap());
}

#[test]
fn a_token_that_is_taken_away_is_lost_and_comes_back() {
    let hsm = softhsm!();
    let token = hsm.open();
    let key = token.make(&request("root", KeyKind::EcP256)).unwrap();
    signs(&key);
    let drawer = hsm.path().join("drawer");
    std::fs::rename(hsm.tokens(), &drawer).unwrap();

    let error = token.check().unwrap_err();
    assert!(matches!(error, TokenError::Lost { .. }), "{error:?}");
    wait_for(&token, is_lost);
    let before = Instant::now();
    let refused = key.sign(b"message");
    assert!(matches!(refused, Err(SignError::Unavailable(_))), "{refused:?}");
    assert!(before.elapsed() < Duration::from_secs(5), "it fails, it does not hang");

    std::fs::rename(&drawer, hsm.tokens()).unwrap();
    wait_for(&token, is_ready);
    signs(&key);
}

#[test]
fn a_token_that_is_not_there_yet_is_waited_for() {
    let hsm = softhsm!();
    let made = hsm.open().make(&request("root", KeyKind::EcP256)).unwrap().public().clone();
    let drawer = hsm.path().join("drawer");
    std::fs::rename(hsm.tokens(), &drawer).unwrap();
    let token = Module::attach(Path::new(CHILD), &[], hsm.config(PIN)).unwrap();
    let key = token.known_key(by_label("root"), made);
    wait_for(&token, is_lost);
    assert!(matches!(key.try_sign(b"message"), Err(TokenError::Lost { .. })));
    std::fs::rename(&drawer, hsm.tokens()).unwrap();
    token.retry(None);
    wait_for(&token, is_ready);
    signs(&key);
}

#[test]
fn a_killed_child_is_replaced() {
    let hsm = softhsm!();
    let token = hsm.open();
    let key = token.make(&request("root", KeyKind::EcP256)).unwrap();
    let first = token.process_id().unwrap();
    kill(Pid::from_raw(first.try_into().unwrap()), Signal::SIGKILL).unwrap();
    wait_for(&token, is_lost);
    wait_for(&token, is_ready);
    signs(&key);
    assert_ne!(token.process_id(), Some(first));
}

#[test]
fn a_child_that_hangs_is_given_up() {
    let hsm = softhsm!();
    let token = hsm.open();
    let key = token.make(&request("root", KeyKind::EcP256)).unwrap();
    let child = Pid::from_raw(token.process_id().unwrap().try_into().unwrap());
    stop(child);
    let error = key.try_sign(b"message").unwrap_err();
    assert!(matches!(&error, TokenError::Lost { reason, .. } if reason == "no answer within 10 s"), "{error:?}");
    wait_for(&token, is_ready);
    signs(&key);
}

#[test]
fn a_child_leaves_signals_to_its_parent_and_ends_with_its_stream() {
    let hsm = softhsm!();
    let token = hsm.open();
    let key = token.make(&request("root", KeyKind::EcP256)).unwrap();
    let child = Pid::from_raw(token.process_id().unwrap().try_into().unwrap());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        kill(child, signal).unwrap();
        signs(&key);
    }
    let limits = std::fs::read_to_string(format!("/proc/{child}/limits")).unwrap();
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(cores.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "no core dumps");
    token.close();
    wait_for(&token, |state| *state == TokenState::Closed);
    assert_eq!(key.try_sign(b"message"), Err(TokenError::Closed));
    assert!(!Path::new(&format!("/proc/{child}")).exists(), "ended and reaped");
}

#[test]
fn nothing_secret_is_in_arguments_or_environment() {
    let hsm = softhsm!();
    let token = hsm.open();
    let child = token.process_id().unwrap();
    for place in ["cmdline", "environ"] {
        let seen = std::fs::read(format!("/proc/{child}/{place}")).unwrap();
        assert!(!seen.windows(PIN.len()).any(|part| part == PIN.as_bytes()), "{place}");
    }
}

#[test]
fn sixteen_callers_at_once_each_get_their_own_signature() {
    let hsm = softhsm!();
    let token = hsm.open();
    let keys = [
        token.make(&request("a", KeyKind::EcP256)).unwrap(),
        token.make(&request("b", KeyKind::EcP384)).unwrap(),
        token.make(&request("c", KeyKind::Rsa { bits: 2_048 })).unwrap(),
    ];
    std::thread::scope(|scope| {
        for caller in 0..16_usize {
            let key = keys[caller % keys.len()].clone();
            scope.spawn(move || {
                for number in 0..20 {
                    let message = format!("{caller} {number}");
                    let signature = key.sign(message.as_bytes()).unwrap();
                    key.public().verify(key.algorithm(), message.as_bytes(), &signature).unwrap();
                }
            });
        }
    });
}

#[test]
fn callers_are_told_when_the_child_is_killed_under_them() {
    let hsm = softhsm!();
    let token = hsm.open();
    let key = token.make(&request("root", KeyKind::EcP256)).unwrap();
    let child = Pid::from_raw(token.process_id().unwrap().try_into().unwrap());
    stop(child);
    let (asking, asked) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..16)
            .map(|_| {
                let (key, asking) = (key.clone(), asking.clone());
                scope.spawn(move || {
                    asking.send(()).unwrap();
                    key.try_sign(b"message")
                })
            })
            .collect();
        for _ in 0..16 {
            asked.recv().unwrap();
        }
        kill(child, Signal::SIGKILL).unwrap();
        for caller in callers {
            let told = caller.join().unwrap();
            assert!(matches!(told, Err(TokenError::Lost { .. })), "{told:?}");
        }
    });
    wait_for(&token, is_ready);
    signs(&key);
}

#[test]
fn messages_of_any_length() {
    let hsm = softhsm!();
    let token = hsm.open();
    let key = token.make(&request("root", KeyKind::EcP256)).unwrap();
    for length in [0, 1, 100_000, 4 << 20] {
        let message = vec![b'x'; length];
        let signature = key.sign(&message).unwrap();
        key.public().verify(key.algorithm(), &message, &signature).unwrap();
    }
}

fn ec_key_p384() -> PrivateKey {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    PrivateKey::from_der(&pair.serialize_der()).unwrap()
}

fn rsa_key() -> PrivateKey {
    let pair = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = aws_lc_rs::encoding::AsDer::as_der(&pair).unwrap();
    PrivateKey::from_der(pkcs8.as_ref()).unwrap()
}
