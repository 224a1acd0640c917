//! The keys that a manager's store is sealed under, in headers of its key file (pki.md 9.1, 10.3, 10.4).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pki::key_file::{Headers, KeyFileError};
use pki::sealed_record;
use pki::secret::SecretBytes;
use zeroize::{Zeroize, Zeroizing};

/// The key in use.
pub(super) const CURRENT: &str = "raft-dek";
/// The key that is being changed to.
const PENDING: &str = "raft-dek-pending";
/// That the key in use is to be replaced.
const NEEDS_ROTATION: &str = "raft-dek-needs-rotation";
/// Headers that hold keys.
pub(super) const SECRETS: [&str; 2] = [CURRENT, PENDING];
/// Length of a key that stands there without a record around it, as before there were records. A record is longer.
const BARE_BYTES: usize = 32;

/// The data keys of a manager's store.
#[derive(Default)]
pub struct DataKeys {
    /// The key in use; none: the store has none yet.
    pub current: Option<SecretBytes>,
    /// The key that is being changed to: the store may be under either.
    pub pending: Option<SecretBytes>,
    /// Whether the key in use is to be replaced.
    pub needs_rotation: bool,
}

impl DataKeys {
    pub(super) fn of(headers: &Headers) -> Result<Self, KeyFileError> {
        let read = |name: &str| headers.get(name).map(|text| plain(name, text)).transpose();
        let keys = DataKeys {
            current: read(CURRENT)?,
            pending: read(PENDING)?,
            needs_rotation: headers.get(NEEDS_ROTATION).is_some_and(|value| value == "true"),
        };
        if keys.pending.is_some() && keys.current.is_none() {
            return Err(KeyFileError::PendingAlone);
        }
        Ok(keys)
    }

    pub(super) fn put(&self, headers: &mut Headers) {
        for (name, key) in [(CURRENT, &self.current), (PENDING, &self.pending)] {
            if let Some(mut old) = headers.remove(name) {
                old.zeroize();
            }
            if let Some(key) = key {
                headers.insert(name.to_owned(), STANDARD.encode(sealed_record::in_clear(key).expose()));
            }
        }
        if self.needs_rotation {
            Self::mark(headers);
        } else {
            headers.remove(NEEDS_ROTATION);
        }
    }

    pub(super) fn mark(headers: &mut Headers) {
        headers.insert(NEEDS_ROTATION.to_owned(), "true".to_owned());
    }
}

/// The record in a header.
pub(super) fn decode(name: &str, text: &str) -> Result<SecretBytes, KeyFileError> {
    let bytes = STANDARD.decode(text).map_err(|_| KeyFileError::DataKey(name.to_owned()))?;
    let bytes = SecretBytes::new(bytes);
    Ok(if bytes.expose().len() == BARE_BYTES { sealed_record::in_clear(&bytes) } else { bytes })
}

/// The key in a header that is open.
pub(super) fn plain(name: &str, text: &str) -> Result<SecretBytes, KeyFileError> {
    let record = decode(name, text)?;
    sealed_record::open(record.expose(), None).map(|(key, _)| key).map_err(|_| KeyFileError::DataKey(name.to_owned()))
}

pub(super) fn replace(text: &mut String, record: &SecretBytes) {
    drop(Zeroizing::new(std::mem::replace(text, STANDARD.encode(record.expose()))));
}
