//! A node's key, certificate, root and managers on disk: names, formats and modes of a Docker Engine (pki.md 9).
//!
//! - A pair is written so that a power cut at any moment leaves a pair that loads, the old one or the new one: certificate to
//!   `.swarm-node.crt`, key to `swarm-node.key`, certificate into place. Each file is synced before it gets its name, and the
//!   directory after.
//! - Reading mends what a cut left behind.
//! - A worker's key is never sealed and its file has no headers of a manager.
//! - Headers of the key file are kept over every rewrite. The data keys of a manager's store are among them; whoever asks here sees
//!   them open, and on disk they are sealed whenever the key is.
//! - The unlock key is never on disk. Key and headers go from one to another in one rewrite, and until it is known to be whole the file is
//!   read by either.

mod data_keys;
mod disk;
mod error;
mod kek;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pki::certificate::Certificate;
use pki::identity::Role;
use pki::key::{PrivateKey, Signer};
use pki::key_file::{Headers, KeyFile, KeyFileError};
use pki::secret::SecretBytes;
use pki::time::Time;

pub use data_keys::DataKeys;
pub use error::KeystoreError;
pub use kek::Rekeyed;

use crate::plan::Peer;
use disk::{Disk, RealDisk};
use kek::{Kek, Keks};

/// The directory of certificates inside the state directory.
pub const CERTIFICATES_DIR: &str = "certificates";
/// The trust bundle.
pub const ROOT_FILE: &str = "swarm-root-ca.crt";
/// Leaf and intermediates.
pub const CERTIFICATE_FILE: &str = "swarm-node.crt";
/// The key, with headers.
pub const KEY_FILE: &str = "swarm-node.key";
/// The certificate while a pair is being written.
const NEXT_CERTIFICATE_FILE: &str = ".swarm-node.crt";
/// The key of a write by a very old engine.
const LEGACY_KEY_FILE: &str = ".swarm-node.key";
/// The managers, in the state directory.
pub const MANAGERS_FILE: &str = "state.json";
/// What only our nodes keep, in the state directory: the time floor.
pub const NODE_FILE: &str = "swarmpki-node.json";
/// Certificates that were taken back, beside the node's own.
pub const REVOKED_FILE: &str = "swarm-revoked.bin";
/// The newest head of the issuance log that a manager signed.
pub const LOG_HEAD_FILE: &str = "swarm-log-head.bin";
/// Two heads that cannot be of one log.
pub const LOG_FORK_FILE: &str = "swarm-log-fork.bin";
/// What temporary files begin with.
const TEMPORARY: &str = ".tmp-";

const PUBLIC: u32 = 0o644;
const PRIVATE: u32 = 0o600;

/// A certificate and its key, as they lie on disk.
pub struct Pair {
    /// Leaf and intermediates, PEM.
    pub chain_pem: Vec<u8>,
    /// The same, parsed.
    pub chain: Vec<Certificate>,
    /// The key file.
    pub key: KeyFile,
    /// When the certificate was written.
    pub received: Time,
}

/// The files of one node. Share it by `Arc`: its writes exclude each other.
pub struct Keystore {
    state_dir: PathBuf,
    certificates: PathBuf,
    disk: Arc<dyn Disk>,
    kek: Mutex<Keks>,
    writing: Mutex<()>,
}

impl Keystore {
    /// The keystore in `state_dir`. Nothing is read or made yet.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self::on(state_dir.into(), Arc::new(RealDisk))
    }

    fn on(state_dir: PathBuf, disk: Arc<dyn Disk>) -> Self {
        Keystore {
            certificates: state_dir.join(CERTIFICATES_DIR),
            state_dir,
            disk,
            kek: Mutex::default(),
            writing: Mutex::new(()),
        }
    }

    /// The state directory.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The certificate file, for programs that read it.
    #[must_use]
    pub fn certificate_path(&self) -> PathBuf {
        self.certificates.join(CERTIFICATE_FILE)
    }

    /// The key file.
    #[must_use]
    pub fn key_path(&self) -> PathBuf {
        self.certificates.join(KEY_FILE)
    }

    /// The trust bundle's file.
    #[must_use]
    pub fn root_path(&self) -> PathBuf {
        self.certificates.join(ROOT_FILE)
    }

    /// Sets the key by which a manager's key file is read and written from now on; the file itself is not touched.
    pub fn set_kek(&self, key: Option<Arc<SecretBytes>>, version: u64) {
        *lock(&self.kek) = Keks::of(Kek { key, version });
    }

    /// The same for a key that a manager handed out: taken with the next manager's pair that is written, and only if it was read later than
    /// the present one.
    pub fn offer_kek(&self, key: Option<Arc<SecretBytes>>, version: u64) {
        lock(&self.kek).offer(Kek { key, version });
    }

    /// Opens a sealed key file with the operator's key, for this process. Nothing is written; a file that is not sealed needs no key.
    ///
    /// # Errors
    /// [`KeystoreError::Locked`] if it is another key.
    pub fn unlock(&self, key: SecretBytes) -> Result<(), KeystoreError> {
        let _writing = lock(&self.writing);
        let path = self.key_path();
        let Some(bytes) = self.read(&path)?.map(SecretBytes::new) else { return Ok(()) };
        if !KeyFile::is_encrypted(bytes.expose()) {
            return Ok(());
        }
        let kek = Kek { key: Some(Arc::new(key)), version: 0 };
        let file = kek.open(bytes.expose()).map_err(|error| KeystoreError::key(path, error))?;
        *lock(&self.kek) = Keks::of(Kek { version: file.kek_version, ..kek });
        Ok(())
    }

    /// Whether a key file exists and cannot be read without another unlock key.
    pub fn is_locked(&self) -> Result<bool, KeystoreError> {
        match self.read_key() {
            Err(KeystoreError::Locked { .. }) => Ok(true),
            Err(error) => Err(error),
            Ok(_) => Ok(false),
        }
    }

    /// Seals the key file under another key, or opens it for good, in one rewrite (pki.md 10.2). An older key, and the same, change nothing.
    /// When a file is sealed that was not, its data key has been on disk for all to read, and is marked to be replaced. A worker's is never
    /// sealed.
    ///
    /// # Errors
    /// [`KeystoreError::KekConflict`] for another key of the same version.
    pub fn rekey(&self, key: Option<Arc<SecretBytes>>, version: u64) -> Result<Rekeyed, KeystoreError> {
        let _writing = lock(&self.writing);
        let file = self.read_key()?;
        let (next, rekeyed) = {
            let mut keks = lock(&self.kek);
            let next = Kek { key, version };
            let rekeyed = keks.judge(&next).map_err(|kek::Conflict| KeystoreError::KekConflict)?;
            if rekeyed == Rekeyed::Unchanged {
                return Ok(rekeyed);
            }
            keks.next = Some(next.clone());
            (next, rekeyed)
        };
        if let Some(mut file) = file {
            next.adopt(&mut file, rekeyed == Rekeyed::Locked);
            self.write_sealed(&file, Some(&next))?;
        }
        *lock(&self.kek) = Keks::of(next);
        Ok(rekeyed)
    }

    /// The trust bundle's bytes, if the file is there.
    pub fn load_trust(&self) -> Result<Option<Vec<u8>>, KeystoreError> {
        self.read(&self.root_path())
    }

    /// Writes the trust bundle, byte for byte.
    pub fn save_trust(&self, pem: &[u8]) -> Result<(), KeystoreError> {
        let _writing = lock(&self.writing);
        self.replace(&self.root_path(), pem, PUBLIC)
    }

    /// The pair, if there is one; what a power cut left behind is put in order.
    pub fn load_pair(&self) -> Result<Option<Pair>, KeystoreError> {
        let _writing = lock(&self.writing);
        self.sweep()?;
        self.adopt_legacy_key()?;
        let Some(key) = self.read_key()? else {
            return Ok(None);
        };
        let place = self.certificate_path();
        let next = self.certificates.join(NEXT_CERTIFICATE_FILE);
        let first = match self.read_matching(&place, &key)? {
            Ok(pair) => return self.pair(pair, key, &place).map(Some),
            Err(problem) => problem,
        };
        match self.read_matching(&next, &key)? {
            Ok(pair) => {
                self.rename(&next, &place)?;
                self.pair(pair, key, &place).map(Some)
            }
            Err(KeystoreError::Missing { .. }) if matches!(first, KeystoreError::Missing { .. }) => Ok(None),
            Err(KeystoreError::Missing { .. }) => Err(first),
            Err(_) => {
                self.remove(&next)?;
                Err(first)
            }
        }
    }

    /// Writes a pair. A manager's key is sealed if there is a key for that, and keeps its headers; a worker's is not and does not.
    pub fn save_pair(&self, chain: &[Certificate], key: &PrivateKey, role: Role) -> Result<(), KeystoreError> {
        let _writing = lock(&self.writing);
        let mut file = KeyFile { kek_version: 0, headers: Headers::default(), key: key.duplicate() };
        let kek = if role == Role::Manager {
            match self.read_key() {
                Ok(before) => file.headers = before.map(|file| file.headers).unwrap_or_default(),
                // Its data key would be lost with it.
                Err(error @ KeystoreError::Locked { .. }) => return Err(error),
                Err(_) => {}
            }
            let keks = lock(&self.kek);
            let kek = keks.latest().clone();
            kek.adopt(&mut file, keks.locks(&kek));
            Some(kek)
        } else {
            None
        };
        let next = self.certificates.join(NEXT_CERTIFICATE_FILE);
        self.replace(&next, pki::certificate::encode_pem(chain).as_bytes(), PUBLIC)?;
        self.write_sealed(&file, kek.as_ref())?;
        match kek {
            Some(kek) => *lock(&self.kek) = Keks::of(kek),
            None => lock(&self.kek).of_worker = true,
        }
        self.rename(&next, &self.certificate_path())
    }

    /// The headers of the key file other than `kek-version`, data keys open; none if there is no file.
    pub fn headers(&self) -> Result<Headers, KeystoreError> {
        Ok(self.read_key()?.map(|file| file.headers).unwrap_or_default())
    }

    /// Changes headers of the key file in one atomic rewrite; the key stays. The file must exist.
    pub fn update_headers(&self, change: impl FnOnce(&mut Headers)) -> Result<(), KeystoreError> {
        self.rewrite(|file| {
            change(&mut file.headers);
            Ok(())
        })
    }

    /// The data keys of the manager's store; none if there is no file.
    ///
    /// # Errors
    /// Also if the headers that hold them contradict each other.
    pub fn data_keys(&self) -> Result<DataKeys, KeystoreError> {
        let file = self.read_key()?;
        let keys = file.map(|file| DataKeys::of(&file.headers)).transpose();
        keys.map(Option::unwrap_or_default).map_err(|error| KeystoreError::key(self.key_path(), error))
    }

    /// Changes the data keys in one atomic rewrite, on disk when this returns. The file must exist. Once a worker's pair was written
    /// there are none, and none come: a manager that has become a worker may be at it still.
    pub fn update_data_keys(&self, change: impl FnOnce(&mut DataKeys)) -> Result<(), KeystoreError> {
        self.rewrite(|file| {
            if lock(&self.kek).of_worker {
                return Ok(());
            }
            let mut keys = DataKeys::of(&file.headers)?;
            change(&mut keys);
            keys.put(&mut file.headers);
            Ok(())
        })
    }

    fn rewrite(&self, change: impl FnOnce(&mut KeyFile) -> Result<(), KeyFileError>) -> Result<(), KeystoreError> {
        let _writing = lock(&self.writing);
        let path = self.key_path();
        let mut file = self.read_key()?.ok_or_else(|| KeystoreError::Missing { path: path.clone() })?;
        change(&mut file).map_err(|error| KeystoreError::key(path, error))?;
        let kek = lock(&self.kek).in_force();
        self.write_sealed(&file, Some(&kek))
    }

    /// The managers that the last session told; none if the file is not there or not readable as such.
    pub fn load_managers(&self) -> Result<Vec<Peer>, KeystoreError> {
        let path = self.state_dir.join(MANAGERS_FILE);
        let Some(bytes) = self.read(&path)? else {
            return Ok(Vec::new());
        };
        serde_json::from_slice(&bytes).map_err(|error| KeystoreError::Unreadable { path, text: error.to_string() })
    }

    /// Writes the list of managers, sorted by node id.
    pub fn save_managers(&self, managers: &[Peer]) -> Result<(), KeystoreError> {
        let _writing = lock(&self.writing);
        let mut managers = managers.to_vec();
        managers.sort();
        let path = self.state_dir.join(MANAGERS_FILE);
        let bytes = serde_json::to_vec(&managers)
            .map_err(|error| KeystoreError::Unreadable { path: path.clone(), text: error.to_string() })?;
        self.replace(&path, &bytes, PRIVATE)
    }

    /// The time that is proven to have passed; the epoch if none is kept.
    pub fn load_floor(&self) -> Result<Time, KeystoreError> {
        let path = self.state_dir.join(NODE_FILE);
        let Some(bytes) = self.read(&path)? else {
            return Ok(Time::default());
        };
        serde_json::from_slice(&bytes)
            .map(|facts: NodeFacts| Time::from_unix_millis(facts.time_floor_ms))
            .map_err(|error| KeystoreError::Unreadable { path, text: error.to_string() })
    }

    /// Writes the time that is proven to have passed.
    pub fn save_floor(&self, floor: Time) -> Result<(), KeystoreError> {
        let _writing = lock(&self.writing);
        let facts = NodeFacts { time_floor_ms: floor.unix_millis() };
        let path = self.state_dir.join(NODE_FILE);
        let bytes = serde_json::to_vec(&facts)
            .map_err(|error| KeystoreError::Unreadable { path: path.clone(), text: error.to_string() })?;
        self.replace(&path, &bytes, PRIVATE)
    }

    /// What is kept of certificates that were taken back.
    pub fn load_revoked(&self) -> Result<Option<Vec<u8>>, KeystoreError> {
        self.read(&self.certificates.join(REVOKED_FILE))
    }

    /// Writes what is kept of certificates that were taken back.
    pub fn save_revoked(&self, bytes: &[u8]) -> Result<(), KeystoreError> {
        let _writing = lock(&self.writing);
        self.replace(&self.certificates.join(REVOKED_FILE), bytes, PUBLIC)
    }

    /// What is kept of the issuance log: the newest head.
    pub fn load_log_head(&self) -> Result<Option<Vec<u8>>, KeystoreError> {
        self.read(&self.certificates.join(LOG_HEAD_FILE))
    }

    /// Writes the newest head of the issuance log.
    pub fn save_log_head(&self, bytes: &[u8]) -> Result<(), KeystoreError> {
        let _writing = lock(&self.writing);
        self.replace(&self.certificates.join(LOG_HEAD_FILE), bytes, PRIVATE)
    }

    /// What is kept as evidence that the issuance log was changed.
    pub fn load_log_fork(&self) -> Result<Option<Vec<u8>>, KeystoreError> {
        self.read(&self.certificates.join(LOG_FORK_FILE))
    }

    /// Writes evidence that the issuance log was changed.
    pub fn save_log_fork(&self, bytes: &[u8]) -> Result<(), KeystoreError> {
        let _writing = lock(&self.writing);
        self.replace(&self.certificates.join(LOG_FORK_FILE), bytes, PRIVATE)
    }

    /// Forgets the node: key first, then certificate, root, managers, time floor.
    pub fn wipe(&self) -> Result<(), KeystoreError> {
        let _writing = lock(&self.writing);
        self.sweep()?;
        let node = [KEY_FILE, LEGACY_KEY_FILE, CERTIFICATE_FILE, NEXT_CERTIFICATE_FILE, ROOT_FILE];
        for name in node.into_iter().chain([REVOKED_FILE, LOG_HEAD_FILE, LOG_FORK_FILE]) {
            self.remove(&self.certificates.join(name))?;
        }
        for name in [MANAGERS_FILE, NODE_FILE] {
            self.remove(&self.state_dir.join(name))?;
        }
        Ok(())
    }

    fn pair(
        &self,
        (chain_pem, chain): (Vec<u8>, Vec<Certificate>),
        key: KeyFile,
        place: &Path,
    ) -> Result<Pair, KeystoreError> {
        let received = self.disk.modified(place).map_err(|source| KeystoreError::io(place, "look at", source))?;
        Ok(Pair { chain_pem, chain, key, received })
    }

    /// Reads a certificate file and compares its leaf with the key. The inner error is about the content.
    #[allow(clippy::type_complexity)]
    fn read_matching(
        &self,
        path: &Path,
        key: &KeyFile,
    ) -> Result<Result<(Vec<u8>, Vec<Certificate>), KeystoreError>, KeystoreError> {
        let Some(pem) = self.read(path)? else {
            return Ok(Err(KeystoreError::Missing { path: path.to_owned() }));
        };
        let chain = match Certificate::parse_pem_bundle(&pem) {
            Ok(chain) => chain,
            Err(error) => {
                return Ok(Err(KeystoreError::Unreadable { path: path.to_owned(), text: error.to_string() }));
            }
        };
        let matches = chain.first().is_some_and(|leaf| leaf.spki_der() == key.key.public().spki_der());
        if !matches {
            return Ok(Err(KeystoreError::Mismatch { path: path.to_owned() }));
        }
        Ok(Ok((pem, chain)))
    }

    /// A key that a very old engine left under another name is taken if it belongs to the certificate, else removed.
    fn adopt_legacy_key(&self) -> Result<(), KeystoreError> {
        let legacy = self.certificates.join(LEGACY_KEY_FILE);
        let Some(bytes) = self.read(&legacy)? else {
            return Ok(());
        };
        let kek = lock(&self.kek).now.clone();
        let matches = match kek.open(&bytes) {
            Ok(key) => self.read_matching(&self.certificate_path(), &key)?.is_ok(),
            Err(_) => false,
        };
        if matches { self.rename(&legacy, &self.key_path()) } else { self.remove(&legacy) }
    }

    fn read_key(&self) -> Result<Option<KeyFile>, KeystoreError> {
        let path = self.key_path();
        let Some(bytes) = self.read(&path)? else {
            return Ok(None);
        };
        let bytes = SecretBytes::new(bytes);
        let mut keks = lock(&self.kek);
        keks.open(bytes.expose()).map(Some).map_err(|error| KeystoreError::key(path, error))
    }

    /// Writes the key file, sealed if there is a key for that; without `kek` it is a worker's.
    fn write_sealed(&self, file: &KeyFile, kek: Option<&Kek>) -> Result<(), KeystoreError> {
        let path = self.key_path();
        let none = Kek::default();
        let seeds = kek::Seeds::draw().map_err(|source| KeystoreError::io(&path, "write", source))?;
        let bytes = kek.unwrap_or(&none).seal(file, seeds).map_err(|error| KeystoreError::key(path.clone(), error))?;
        self.replace(&path, bytes.expose(), PRIVATE)
    }

    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, KeystoreError> {
        self.disk.read(path).map_err(|source| KeystoreError::io(path, "read", source))
    }

    fn remove(&self, path: &Path) -> Result<(), KeystoreError> {
        self.disk.remove(path).map_err(|source| KeystoreError::io(path, "remove", source))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), KeystoreError> {
        self.disk.rename(from, to).map_err(|source| KeystoreError::io(to, "move into place", source))?;
        self.sync_dir(to)
    }

    fn sync_dir(&self, of: &Path) -> Result<(), KeystoreError> {
        match of.parent() {
            Some(dir) => self.disk.sync_dir(dir).map_err(|source| KeystoreError::io(dir, "sync", source)),
            None => Ok(()),
        }
    }

    /// Writes a file whole: under another name, synced, then renamed, then the directory synced.
    fn replace(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), KeystoreError> {
        for (dir, mode) in [(&self.state_dir, 0o700), (&self.certificates, 0o755)] {
            self.disk.create_dir(dir, mode).map_err(|source| KeystoreError::io(dir, "make", source))?;
        }
        let mut random = [0; 8];
        crate::connect::fill_random(&mut random).map_err(|source| KeystoreError::io(path, "write", source))?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let name = format!("{TEMPORARY}{name}{}", u64::from_le_bytes(random));
        let temporary = path.with_file_name(name);
        let written = self.disk.write_new(&temporary, bytes, mode);
        if let Err(source) = written {
            // The disk may be full: do not leave the torn file there too.
            let _ = self.disk.remove(&temporary);
            return Err(KeystoreError::io(path, "write", source));
        }
        self.rename(&temporary, path)
    }

    /// Removes temporary files that a power cut left behind; they may hold a key.
    fn sweep(&self) -> Result<(), KeystoreError> {
        for dir in [&self.certificates, &self.state_dir] {
            let names = self.disk.names(dir).map_err(|source| KeystoreError::io(dir, "list", source))?;
            for name in names.iter().filter(|name| name.starts_with(TEMPORARY)) {
                self.remove(&dir.join(name))?;
            }
        }
        Ok(())
    }
}

/// Stored since format 1.
#[derive(serde::Serialize, serde::Deserialize)]
struct NodeFacts {
    time_floor_ms: i64,
}

/// A lock whose holder panicked guards plain values here: they are whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
