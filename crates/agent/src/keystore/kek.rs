//! The key that a manager's key file is sealed under (pki.md 10.2): which one counts, and how a file is opened and sealed with it.

use std::io;
use std::sync::Arc;

use pki::key::KeyError;
use pki::key_file::{KeyFile, KeyFileError};
use pki::sealed_record;
use pki::secret::SecretBytes;

use super::data_keys::{self, DataKeys};

/// What [`Keystore::rekey`](super::Keystore::rekey) did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rekeyed {
    /// Nothing: it is the same key, or an older one.
    Unchanged,
    /// The file was not sealed and is now: its data key is to be replaced, and so is its private key.
    Locked,
    /// It is sealed under another key.
    Changed,
    /// It is not sealed any more.
    Unlocked,
}

/// Another key of the same version.
#[derive(Debug)]
pub(super) struct Conflict;

/// A key, or none, and the version of the cluster object it was read at.
#[derive(Clone, Default)]
pub(super) struct Kek {
    pub(super) key: Option<Arc<SecretBytes>>,
    pub(super) version: u64,
}

/// Random numbers for one writing.
pub(super) struct Seeds {
    salt: [u8; 8],
    iv: [u8; 16],
    nonces: [[u8; sealed_record::NONCE_BYTES]; data_keys::SECRETS.len()],
}

impl Seeds {
    pub(super) fn draw() -> io::Result<Self> {
        let mut seeds = Seeds { salt: [0; 8], iv: [0; 16], nonces: Default::default() };
        crate::connect::fill_random(&mut seeds.salt)?;
        crate::connect::fill_random(&mut seeds.iv)?;
        for nonce in &mut seeds.nonces {
            crate::connect::fill_random(nonce)?;
        }
        Ok(seeds)
    }
}

impl Kek {
    fn present(&self) -> Option<&SecretBytes> {
        self.key.as_deref().filter(|key| !key.expose().is_empty())
    }

    fn is_same(&self, other: &Kek) -> bool {
        match (self.present(), other.present()) {
            (Some(one), Some(other)) => one.ct_eq(other.expose()),
            (None, None) => true,
            _ => false,
        }
    }

    /// Reads a key file, data keys open. A wrong key can pass the padding of the private key's encryption by chance, and no data key's seal
    /// (conformance 194).
    pub(super) fn open(&self, bytes: &[u8]) -> Result<KeyFile, KeyFileError> {
        let mut file = KeyFile::parse(bytes, self.present())?;
        for name in data_keys::SECRETS {
            if let Some(text) = file.headers.get_mut(name) {
                let record = data_keys::decode(name, text)?;
                let (plain, _) = sealed_record::open(record.expose(), self.present())
                    .map_err(|_| KeyFileError::InvalidKek(KeyError::Password))?;
                data_keys::replace(text, &sealed_record::in_clear(&plain));
            }
        }
        Ok(file)
    }

    /// Writes a key file whose data keys are open, all of it sealed if there is a key.
    pub(super) fn seal(&self, file: &KeyFile, seeds: Seeds) -> Result<SecretBytes, KeyFileError> {
        let mut out = KeyFile { kek_version: file.kek_version, headers: Default::default(), key: file.key.duplicate() };
        out.headers.extend(file.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        for (name, nonce) in data_keys::SECRETS.into_iter().zip(seeds.nonces) {
            let Some(text) = out.headers.get_mut(name) else { continue };
            let plain = data_keys::plain(name, text)?;
            let record = match self.present() {
                Some(key) => {
                    sealed_record::seal(&plain, key, nonce).map_err(|_| KeyFileError::DataKey(name.to_owned()))?
                }
                None => sealed_record::in_clear(&plain),
            };
            data_keys::replace(text, &record);
        }
        out.encode(self.present().map(|key| (key, seeds.salt, seeds.iv)))
    }

    /// Makes `file` one that is to be written with this key; with `locks` its data key was in clear until now.
    pub(super) fn adopt(&self, file: &mut KeyFile, locks: bool) {
        file.kek_version = self.version;
        if locks && file.headers.contains_key(data_keys::CURRENT) {
            DataKeys::mark(&mut file.headers);
        }
    }
}

/// The key of now, and one that may be in force: it was handed out, or is being written.
#[derive(Default)]
pub(super) struct Keks {
    pub(super) now: Kek,
    pub(super) next: Option<Kek>,
    /// The pair is a worker's: its key lies in clear and has no data keys, whatever is still to be written for the manager that it was.
    pub(super) of_worker: bool,
}

impl Keks {
    pub(super) fn of(now: Kek) -> Self {
        Keks { now, next: None, of_worker: false }
    }

    /// The key that a file is written anew with.
    pub(super) fn in_force(&self) -> Kek {
        if self.of_worker { Kek::default() } else { self.now.clone() }
    }

    /// Takes a key for the next writing, if it was read later than the present one.
    pub(super) fn offer(&mut self, kek: Kek) {
        if kek.version > self.latest().version {
            self.next = Some(kek);
        }
    }

    /// The key to write with.
    pub(super) fn latest(&self) -> &Kek {
        self.next.as_ref().unwrap_or(&self.now)
    }

    /// Whether a file that is open now is sealed when it is written with `kek`.
    pub(super) fn locks(&self, kek: &Kek) -> bool {
        self.now.present().is_none() && kek.present().is_some()
    }

    /// What a key means that was read from the cluster's state (pki.md 10.2).
    pub(super) fn judge(&self, kek: &Kek) -> Result<Rekeyed, Conflict> {
        if self.of_worker {
            return Ok(Rekeyed::Unchanged);
        }
        let same = self.now.is_same(kek);
        if self.now.version == kek.version && !same {
            return Err(Conflict);
        }
        if self.now.version >= kek.version || same {
            return Ok(Rekeyed::Unchanged);
        }
        Ok(match (self.now.present().is_some(), kek.present().is_some()) {
            (false, _) => Rekeyed::Locked,
            (true, true) => Rekeyed::Changed,
            (true, false) => Rekeyed::Unlocked,
        })
    }

    /// Reads a key file by the key of now, or by the next one if that turns out to be in force.
    pub(super) fn open(&mut self, bytes: &[u8]) -> Result<KeyFile, KeyFileError> {
        let file = match (self.now.open(bytes), self.next.clone()) {
            (Ok(file), _) => file,
            (Err(error), None) => return Err(error),
            (Err(error), Some(next)) => {
                let Ok(file) = next.open(bytes) else { return Err(error) };
                *self = Keks::of(next);
                file
            }
        };
        self.now.version = self.now.version.max(file.kek_version);
        Ok(file)
    }
}
