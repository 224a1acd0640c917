#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pki::certificate::Certificate;
use pki::identity::Role;
use pki::key::{PrivateKey, Signer};
use pki::secret::SecretBytes;
use pki::time::Time;

use super::disk::Disk;
use super::{CERTIFICATE_FILE, KEY_FILE, Keystore, KeystoreError, LEGACY_KEY_FILE, NEXT_CERTIFICATE_FILE, Rekeyed};
use crate::plan::Peer;
use crate::testing::{Ca, DAY, csr, key, subject};

const NOW: Time = Time::from_unix_secs(1_790_000_000);
const DIR: &str = "/state";

type Files = BTreeMap<PathBuf, Vec<u8>>;

#[derive(Clone)]
enum Op {
    Write(PathBuf, Vec<u8>),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Sync,
}

/// A disk in memory that remembers the order of what was done to it.
#[derive(Default)]
struct MemDisk {
    files: Mutex<Files>,
    ops: Mutex<Vec<Op>>,
}

impl MemDisk {
    fn with(files: Files) -> Arc<Self> {
        Arc::new(MemDisk { files: Mutex::new(files), ops: Mutex::default() })
    }

    fn keystore(self: &Arc<Self>) -> Keystore {
        Keystore::on(PathBuf::from(DIR), self.clone())
    }

    fn does(&self, op: Op) {
        apply(&mut self.files.lock().unwrap(), &op);
        self.ops.lock().unwrap().push(op);
    }

    fn files(&self) -> Files {
        self.files.lock().unwrap().clone()
    }

    fn take_ops(&self) -> Vec<Op> {
        std::mem::take(&mut self.ops.lock().unwrap())
    }
}

fn apply(files: &mut Files, op: &Op) {
    match op {
        Op::Write(path, bytes) => {
            files.insert(path.clone(), bytes.clone());
        }
        Op::Rename(from, to) => {
            if let Some(bytes) = files.remove(from) {
                files.insert(to.clone(), bytes);
            }
        }
        Op::Remove(path) => {
            files.remove(path);
        }
        Op::Sync => {}
    }
}

impl Disk for MemDisk {
    fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        Ok(self.files.lock().unwrap().get(path).cloned())
    }
    fn modified(&self, _: &Path) -> io::Result<Time> {
        Ok(NOW)
    }
    fn write_new(&self, path: &Path, bytes: &[u8], _: u32) -> io::Result<()> {
        self.does(Op::Write(path.to_owned(), bytes.to_owned()));
        Ok(())
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.does(Op::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.does(Op::Remove(path.to_owned()));
        Ok(())
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        self.does(Op::Sync);
        Ok(())
    }
    fn create_dir(&self, _: &Path, _: u32) -> io::Result<()> {
        Ok(())
    }
    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        let files = self.files.lock().unwrap();
        let names = files.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect())
    }
}

/// Every state that a power cut during `ops` can leave: of the names changed since the last sync any first part may have
/// reached the disk, and a file that was being written may be torn.
fn after_every_cut(before: &Files, ops: &[Op]) -> Vec<Files> {
    let mut states = Vec::new();
    for cut in 0..=ops.len() {
        let done = &ops[..cut];
        let durable = done.iter().rposition(|op| matches!(op, Op::Sync)).map_or(0, |at| at + 1);
        for kept in durable..=cut {
            let mut files = before.clone();
            done[..kept].iter().for_each(|op| apply(&mut files, op));
            if let Some(Op::Write(path, bytes)) = ops.get(cut) {
                let mut torn = files.clone();
                torn.insert(path.clone(), bytes[..bytes.len() / 2].to_vec());
                states.push(torn);
            }
            states.push(files);
        }
    }
    states
}

fn pair(seed: u8) -> (Vec<Certificate>, PrivateKey) {
    let ca = Ca::new(200, NOW);
    let key = key(seed);
    let pem = ca.issue(&csr(&key), &subject("node1", Role::Worker), NOW, DAY);
    (Certificate::parse_pem_bundle(&pem).unwrap(), key)
}

fn loaded(keystore: &Keystore) -> Option<Vec<u8>> {
    let pair = keystore.load_pair().unwrap()?;
    assert_eq!(pair.chain[0].spki_der(), pair.key.key.public().spki_der());
    Some(pair.chain[0].spki_der().to_vec())
}

#[test]
fn c224_a_power_cut_at_any_step_leaves_the_old_pair_or_the_new() {
    let (old_chain, old_key) = pair(1);
    let (new_chain, new_key) = pair(2);
    let (last_chain, last_key) = pair(3);
    for first in [true, false] {
        for role in [Role::Worker, Role::Manager] {
            let disk = MemDisk::with(Files::new());
            if !first {
                disk.keystore().save_pair(&old_chain, &old_key, role).unwrap();
            }
            let before = disk.files();
            disk.take_ops();
            disk.keystore().save_pair(&new_chain, &new_key, role).unwrap();
            let ops = disk.take_ops();
            assert!(ops.len() >= 8, "three files' worth of steps");
            let (mut olds, mut news) = (0, 0);
            for files in after_every_cut(&before, &ops) {
                let cut = MemDisk::with(files);
                let found = loaded(&cut.keystore());
                if found.as_deref() == Some(new_key.public().spki_der()) {
                    news += 1;
                } else {
                    assert_eq!(found.as_deref(), (!first).then(|| old_key.public().spki_der()));
                    olds += 1;
                }
                // Loading again gives the same, nothing of a key lies about, and the next renewal works.
                assert_eq!(loaded(&cut.keystore()), found);
                assert!(cut.files().keys().all(|path| !path.to_string_lossy().contains(".tmp-")));
                cut.keystore().save_pair(&last_chain, &last_key, role).unwrap();
                assert_eq!(loaded(&cut.keystore()).as_deref(), Some(last_key.public().spki_der()));
            }
            assert!(olds > 0 && news > 0);
        }
    }
}

#[test]
fn a_power_cut_in_a_recovery_is_recovered_from() {
    let (old_chain, old_key) = pair(1);
    let (new_chain, new_key) = pair(2);
    let disk = MemDisk::with(Files::new());
    disk.keystore().save_pair(&old_chain, &old_key, Role::Worker).unwrap();
    let before = disk.files();
    disk.take_ops();
    disk.keystore().save_pair(&new_chain, &new_key, Role::Worker).unwrap();
    for files in after_every_cut(&before, &disk.take_ops()) {
        let cut = MemDisk::with(files.clone());
        let found = loaded(&cut.keystore());
        for files in after_every_cut(&files, &cut.take_ops()) {
            assert_eq!(loaded(&MemDisk::with(files).keystore()), found);
        }
    }
}

#[test]
fn a_power_cut_while_headers_change_keeps_key_and_headers() {
    let (chain, key) = pair(1);
    let disk = MemDisk::with(Files::new());
    let keystore = disk.keystore();
    keystore.save_pair(&chain, &key, Role::Manager).unwrap();
    let set = |value: u8| keystore.update_data_keys(|keys| keys.current = Some(SecretBytes::copy_of(&[value; 32])));
    set(1).unwrap();
    let before = disk.files();
    disk.take_ops();
    set(2).unwrap();
    for files in after_every_cut(&before, &disk.take_ops()) {
        let cut = MemDisk::with(files);
        assert!(loaded(&cut.keystore()).is_some());
        let value = current(&cut.keystore()).unwrap();
        assert!(value == [1; 32] || value == [2; 32], "{value:?}");
    }
}

#[test]
fn headers_survive_a_managers_renewal_and_not_a_demotion() {
    let keystore = MemDisk::with(Files::new()).keystore();
    assert!(matches!(keystore.update_headers(|_| ()), Err(KeystoreError::Missing { .. })));
    let (chain, key) = pair(1);
    keystore.save_pair(&chain, &key, Role::Manager).unwrap();
    keystore
        .update_headers(|headers| {
            headers.insert("other".to_owned(), "value".to_owned());
        })
        .unwrap();
    keystore.update_data_keys(|keys| keys.current = Some(SecretBytes::copy_of(&[1; 32]))).unwrap();
    let (chain, key) = pair(2);
    keystore.save_pair(&chain, &key, Role::Manager).unwrap();
    assert_eq!(keystore.headers().unwrap()["other"], "value");
    assert_eq!(current(&keystore), Some(vec![1; 32]));
    let (chain, key) = pair(3);
    keystore.save_pair(&chain, &key, Role::Worker).unwrap();
    assert!(keystore.headers().unwrap().is_empty());
}

#[test]
fn c69_c70_c71_c94_only_a_managers_key_is_sealed() {
    let disk = MemDisk::with(Files::new());
    let kek = || Some(Arc::new(SecretBytes::copy_of(&[7; 32])));
    let keystore = disk.keystore();
    keystore.set_kek(kek(), 5);
    let (chain, key) = pair(1);
    keystore.save_pair(&chain, &key, Role::Worker).unwrap();
    assert!(!disk.keystore().is_locked().unwrap());
    keystore.save_pair(&chain, &key, Role::Manager).unwrap();
    assert!(disk.keystore().is_locked().unwrap());
    assert!(matches!(disk.keystore().load_pair(), Err(KeystoreError::Locked { .. })));
    let opened = disk.keystore();
    opened.set_kek(kek(), 5);
    assert_eq!(opened.load_pair().unwrap().unwrap().key.kek_version, 5);
    keystore.rekey(None, 9).unwrap();
    assert_eq!(disk.keystore().load_pair().unwrap().unwrap().key.kek_version, 9);
    // An older key from a manager does not come back.
    keystore.offer_kek(kek(), 8);
    keystore.save_pair(&chain, &key, Role::Manager).unwrap();
    assert!(!disk.keystore().is_locked().unwrap());
}

fn current(keystore: &Keystore) -> Option<Vec<u8>> {
    keystore.data_keys().unwrap().current.map(|key| key.expose().to_vec())
}

fn kek(seed: u8) -> Option<Arc<SecretBytes>> {
    Some(Arc::new(SecretBytes::copy_of(&[seed; 32])))
}

/// A manager with a data key, its file in clear.
fn manager() -> (Arc<MemDisk>, Keystore) {
    let disk = MemDisk::with(Files::new());
    let keystore = disk.keystore();
    let (chain, key) = pair(1);
    keystore.save_pair(&chain, &key, Role::Manager).unwrap();
    keystore.update_data_keys(|keys| keys.current = Some(SecretBytes::copy_of(&[9; 32]))).unwrap();
    (disk, keystore)
}

fn key_text(disk: &MemDisk) -> String {
    let path = Path::new(DIR).join("certificates").join(KEY_FILE);
    String::from_utf8(disk.files()[&path].clone()).unwrap()
}

fn opened(disk: &Arc<MemDisk>, seed: u8) -> Result<Keystore, KeystoreError> {
    let keystore = disk.keystore();
    keystore.unlock(SecretBytes::copy_of(&[seed; 32])).map(|()| keystore)
}

#[test]
fn c178_c180_c185_c188_a_file_is_sealed_and_opened_again() {
    let (disk, keystore) = manager();
    assert!(key_text(&disk).starts_with("-----BEGIN PRIVATE KEY-----\nkek-version: 0\nraft-dek: EiAJ"));
    assert_eq!(keystore.rekey(kek(7), 5).unwrap(), Rekeyed::Locked);
    let text = key_text(&disk);
    assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\nkek-version: 5\nraft-dek: CAESM"), "{text}");
    assert!(keystore.data_keys().unwrap().needs_rotation, "it lay there in clear");
    assert!(disk.keystore().is_locked().unwrap());
    assert!(matches!(opened(&disk, 8), Err(KeystoreError::Locked { .. })));
    let again = opened(&disk, 7).unwrap();
    assert_eq!(current(&again), Some(vec![9; 32]));
    assert!(loaded(&again).is_some());
    // What is written after an unlock is sealed too, and its version stays.
    again.update_data_keys(|keys| keys.needs_rotation = false).unwrap();
    let (chain, key) = pair(2);
    again.save_pair(&chain, &key, Role::Manager).unwrap();
    assert!(key_text(&disk).starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\nkek-version: 5\nraft-dek: CAESM"));
    assert_eq!(again.rekey(kek(8), 6).unwrap(), Rekeyed::Changed);
    assert!(opened(&disk, 7).is_err());
    assert_eq!(current(&opened(&disk, 8).unwrap()), Some(vec![9; 32]));
    assert_eq!(again.rekey(None, 9).unwrap(), Rekeyed::Unlocked);
    let text = key_text(&disk);
    assert!(text.starts_with("-----BEGIN PRIVATE KEY-----\nkek-version: 9\nraft-dek: EiAJ"), "{text}");
    assert!(!again.data_keys().unwrap().needs_rotation);
    assert!(!disk.keystore().is_locked().unwrap());
    // The version in the file counts after a restart.
    assert_eq!(disk.keystore().rekey(kek(7), 8).unwrap(), Rekeyed::Unchanged);
}

#[test]
fn c197_c198_what_a_manager_still_had_to_write_leaves_a_workers_key_as_it_is() {
    let (disk, keystore) = manager();
    keystore.rekey(kek(7), 5).unwrap();
    let (chain, key) = pair(2);
    keystore.save_pair(&chain, &key, Role::Worker).unwrap();
    let clear = key_text(&disk);
    assert!(clear.starts_with("-----BEGIN PRIVATE KEY-----\n") && !clear.contains("raft-dek"), "{clear}");
    assert_eq!(keystore.rekey(kek(8), 6).unwrap(), Rekeyed::Unchanged);
    keystore.update_data_keys(|keys| keys.pending = Some(SecretBytes::copy_of(&[3; 32]))).unwrap();
    keystore.update_data_keys(|keys| *keys = super::DataKeys::default()).unwrap();
    assert_eq!(key_text(&disk), clear);
    assert!(!disk.keystore().is_locked().unwrap());
    // A manager again: by the key that it is handed.
    keystore.offer_kek(kek(8), 6);
    let (chain, key) = pair(3);
    keystore.save_pair(&chain, &key, Role::Manager).unwrap();
    assert!(key_text(&disk).starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\nkek-version: 6\n"));
    keystore.update_data_keys(|keys| keys.current = Some(SecretBytes::copy_of(&[9; 32]))).unwrap();
    assert_eq!(current(&opened(&disk, 8).unwrap()), Some(vec![9; 32]));
}

#[test]
fn c184_c186_c187_keys_that_change_nothing() {
    let (disk, keystore) = manager();
    keystore.rekey(kek(7), 5).unwrap();
    let before = disk.files();
    let conflict = keystore.rekey(kek(8), 5).unwrap_err();
    assert_eq!(
        conflict.to_string(),
        "candidate KEK has the same version as the current KEK, but a different KEK value"
    );
    assert!(keystore.rekey(None, 5).is_err());
    assert_eq!(keystore.rekey(kek(8), 4).unwrap(), Rekeyed::Unchanged);
    assert_eq!(keystore.rekey(None, 4).unwrap(), Rekeyed::Unchanged);
    assert_eq!(keystore.rekey(kek(7), 9).unwrap(), Rekeyed::Unchanged);
    assert!(disk.files() == before);
}

#[test]
fn c190_c191_c192_c193_data_keys() {
    let (disk, keystore) = manager();
    keystore
        .update_data_keys(|keys| {
            keys.pending = Some(SecretBytes::copy_of(&[10; 32]));
            keys.needs_rotation = true;
        })
        .unwrap();
    keystore.rekey(kek(7), 5).unwrap();
    let keys = opened(&disk, 7).unwrap().data_keys().unwrap();
    assert_eq!(keys.pending.unwrap().expose(), [10; 32]);
    assert!(keys.needs_rotation);
    assert_eq!(key_text(&disk).matches(": CAESM").count(), 2);
    keystore.update_data_keys(|keys| *keys = Default::default()).unwrap();
    let text = key_text(&disk);
    assert_eq!(text.lines().filter(|line| line.contains(": ")).collect::<Vec<_>>(), ["kek-version: 5"]);
    keystore.update_data_keys(|keys| keys.pending = Some(SecretBytes::copy_of(&[10; 32]))).unwrap();
    let error = keystore.data_keys().err().unwrap().to_string();
    assert!(error.contains("pending DEK, but no current DEK"), "{error}");
}

#[test]
fn a_key_as_it_stood_there_before_there_were_records() {
    let (disk, keystore) = manager();
    let bare = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [9; 32]);
    let path = Path::new(DIR).join("certificates").join(KEY_FILE);
    let text = key_text(&disk);
    let line = text.lines().find(|line| line.starts_with("raft-dek")).unwrap();
    let text = text.replace(line, &format!("raft-dek: {bare}"));
    disk.files.lock().unwrap().insert(path, text.into_bytes());
    assert_eq!(current(&keystore), Some(vec![9; 32]));
    keystore.rekey(kek(7), 5).unwrap();
    assert_eq!(current(&opened(&disk, 7).unwrap()), Some(vec![9; 32]));
}

#[test]
fn c194_c206_a_wrong_key_that_passes_the_padding_is_found_out() {
    let (disk, keystore) = manager();
    keystore.rekey(kek(7), 5).unwrap();
    // The private key opens and the data key does not: it is of another file.
    let sealed = key_text(&disk).lines().find(|line| line.starts_with("raft-dek: ")).unwrap().to_owned();
    keystore.rekey(kek(8), 6).unwrap();
    let other = key_text(&disk).lines().find(|line| line.starts_with("raft-dek: ")).unwrap().to_owned();
    let path = Path::new(DIR).join("certificates").join(KEY_FILE);
    let mixed = key_text(&disk).replace(&other, &sealed);
    disk.files.lock().unwrap().insert(path, mixed.into_bytes());
    assert!(matches!(opened(&disk, 8), Err(KeystoreError::Locked { .. })));
    assert!(matches!(keystore.headers(), Err(KeystoreError::Locked { .. })));
    // Nobody writes a pair over a data key that cannot be read.
    let (chain, key) = pair(2);
    assert!(matches!(keystore.save_pair(&chain, &key, Role::Manager), Err(KeystoreError::Locked { .. })));
}

#[test]
fn a_key_that_is_handed_out_is_taken_with_the_next_pair() {
    let (disk, keystore) = manager();
    keystore.offer_kek(kek(7), 5);
    assert!(!disk.keystore().is_locked().unwrap());
    assert_eq!(current(&keystore), Some(vec![9; 32]));
    let (chain, key) = pair(2);
    keystore.save_pair(&chain, &key, Role::Manager).unwrap();
    let again = opened(&disk, 7).unwrap();
    assert_eq!(current(&again), Some(vec![9; 32]));
    assert!(again.data_keys().unwrap().needs_rotation);
    keystore.offer_kek(kek(8), 4);
    keystore.offer_kek(kek(9), 6);
    keystore.save_pair(&chain, &key, Role::Manager).unwrap();
    assert_eq!(current(&opened(&disk, 9).unwrap()), Some(vec![9; 32]));
    keystore.save_pair(&chain, &key, Role::Worker).unwrap();
    assert!(!disk.keystore().is_locked().unwrap());
    assert!(disk.keystore().headers().unwrap().is_empty());
}

#[test]
fn a_power_cut_while_the_unlock_key_changes_leaves_the_old_one_or_the_new() {
    for (from, to) in [(None, kek(7)), (kek(7), kek(8)), (kek(7), None)] {
        let (disk, keystore) = manager();
        keystore.rekey(from.clone(), 4).unwrap();
        let before = disk.files();
        disk.take_ops();
        keystore.rekey(to.clone(), 5).unwrap();
        let reads = |files: &Files, key: &Option<Arc<SecretBytes>>| {
            let cut = MemDisk::with(files.clone()).keystore();
            cut.set_kek(key.clone(), 1);
            !cut.is_locked().unwrap() && current(&cut) == Some(vec![9; 32])
        };
        for files in after_every_cut(&before, &disk.take_ops()) {
            assert!(reads(&files, &from) || reads(&files, &to));
        }
        assert!(reads(&disk.files(), &to));
    }
}

#[test]
fn c93_garbage_is_named_with_its_remedy() {
    let (chain, key) = pair(1);
    let file = |name: &str| Path::new(DIR).join("certificates").join(name);
    let check = |name: &str, bytes: &[u8]| {
        let disk = MemDisk::with(Files::new());
        disk.keystore().save_pair(&chain, &key, Role::Worker).unwrap();
        disk.files.lock().unwrap().insert(file(name), bytes.to_vec());
        let error = disk.keystore().load_pair().err().expect(name);
        assert!(error.to_string().contains(name), "{error}");
        assert!(error.hint().contains(name), "{}", error.hint());
    };
    check(CERTIFICATE_FILE, b"garbage");
    check(KEY_FILE, b"garbage");
    let (other, _) = pair(2);
    check(CERTIFICATE_FILE, pki::certificate::encode_pem(&other).as_bytes());
}

#[test]
fn c211_c212_a_certificate_left_aside_is_moved_into_place_if_it_belongs_to_the_key() {
    let (chain, key) = pair(1);
    let (other, _) = pair(2);
    let file = |name: &str| Path::new(DIR).join("certificates").join(name);
    let (place, next) = (file(CERTIFICATE_FILE), file(NEXT_CERTIFICATE_FILE));
    let pem = |chain: &[Certificate]| pki::certificate::encode_pem(chain).into_bytes();
    for in_place in [None, Some(pem(&other)), Some(b"garbage".to_vec())] {
        let disk = MemDisk::with(Files::new());
        assert!(disk.keystore().load_pair().unwrap().is_none(), "nothing on disk is no pair");
        disk.keystore().save_pair(&chain, &key, Role::Worker).unwrap();
        let mut files = disk.files();
        files.remove(&place);
        files.extend(in_place.clone().map(|bytes| (place.clone(), bytes)));
        files.insert(next.clone(), pem(&chain));
        let disk = MemDisk::with(files);
        assert_eq!(loaded(&disk.keystore()).as_deref(), Some(key.public().spki_der()));
        assert_eq!(disk.files().get(&place), Some(&pem(&chain)), "{in_place:?}");
        assert!(!disk.files().contains_key(&next));
    }
}

#[test]
fn c213_c214_what_is_left_aside_and_does_not_belong_to_the_key_goes() {
    let (chain, key) = pair(1);
    let (other, other_key) = pair(2);
    let next = Path::new(DIR).join("certificates").join(NEXT_CERTIFICATE_FILE);
    let disk = MemDisk::with(Files::new());
    disk.keystore().save_pair(&chain, &key, Role::Worker).unwrap();
    disk.files.lock().unwrap().insert(next.clone(), b"garbage".to_vec());
    assert_eq!(loaded(&disk.keystore()).as_deref(), Some(key.public().spki_der()));

    // The certificate in place is wrong, and so is the one aside: the first is the error, the second goes.
    let place = Path::new(DIR).join("certificates").join(CERTIFICATE_FILE);
    disk.files.lock().unwrap().insert(place, pki::certificate::encode_pem(&other).into_bytes());
    assert!(matches!(
        disk.keystore().load_pair(),
        Err(KeystoreError::Mismatch { path }) if path.ends_with(CERTIFICATE_FILE)
    ));
    assert!(!disk.files().contains_key(&next));

    // A key of a very old engine belongs to the certificate: taken.
    let legacy = Path::new(DIR).join("certificates").join(LEGACY_KEY_FILE);
    let pem = other_key.pkcs8_pem().expose().as_bytes().to_vec();
    disk.files.lock().unwrap().insert(legacy.clone(), pem);
    assert_eq!(loaded(&disk.keystore()).as_deref(), Some(other_key.public().spki_der()));
    assert!(!disk.files().contains_key(&legacy));
    disk.files.lock().unwrap().insert(legacy.clone(), b"garbage".to_vec());
    assert!(loaded(&disk.keystore()).is_some());
    assert!(!disk.files().contains_key(&legacy));
}

#[test]
fn c65_c67_c200_c215_files_have_the_engines_names_modes_and_formats() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("swarm");
    assert!(!state.exists(), "it is made by the first write");
    let keystore = Keystore::new(&state);
    assert!(keystore.load_pair().unwrap().is_none());
    assert_eq!(keystore.load_trust().unwrap(), None);
    assert_eq!(keystore.load_managers().unwrap(), []);
    assert_eq!(keystore.load_floor().unwrap(), Time::default());

    let ca = Ca::new(200, NOW);
    let (chain, key) = pair(1);
    keystore.save_trust(ca.pem().as_bytes()).unwrap();
    keystore.save_pair(&chain, &key, Role::Worker).unwrap();
    let peer = |node: &str, addr: &str| Peer { node: node.to_owned(), addr: addr.to_owned() };
    keystore.save_managers(&[peer("b", "10.0.0.2:2377"), peer("a", "10.0.0.1:2377")]).unwrap();
    keystore.save_floor(NOW).unwrap();

    let mode = |name: &str| std::fs::metadata(state.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("certificates"), 0o755);
    assert_eq!(mode("certificates/swarm-root-ca.crt"), 0o644);
    assert_eq!(mode("certificates/swarm-node.crt"), 0o644);
    assert_eq!(mode("certificates/swarm-node.key"), 0o600);
    assert_eq!(mode("state.json"), 0o600);
    assert_eq!(
        std::fs::read_to_string(state.join("state.json")).unwrap(),
        r#"[{"node_id":"a","addr":"10.0.0.1:2377"},{"node_id":"b","addr":"10.0.0.2:2377"}]"#
    );
    let text = std::fs::read_to_string(keystore.key_path()).unwrap();
    assert!(text.starts_with("-----BEGIN PRIVATE KEY-----\nkek-version: 0\n\n"), "{}", &text[..60]);
    assert_eq!(std::fs::read_to_string(keystore.certificate_path()).unwrap(), pki::certificate::encode_pem(&chain));
    assert_eq!(keystore.load_floor().unwrap(), NOW);
    assert_eq!(keystore.load_managers().unwrap().len(), 2);
    assert!(loaded(&Keystore::new(&state)).is_some());

    keystore.wipe().unwrap();
    assert!(keystore.load_pair().unwrap().is_none());
    assert_eq!(std::fs::read_dir(state.join("certificates")).unwrap().count(), 0);
}
