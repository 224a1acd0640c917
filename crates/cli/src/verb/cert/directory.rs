//! A directory with `ca.pem`, `cert.pem` and `key.pem`, as docker's command wants it in `DOCKER_CERT_PATH`.
//!
//! - The key is for its owner only. Nothing that is there already is written over, but by a renewal of what is there.
//! - A renewal replaces two files. The new ones lie beside the old ones before either is replaced, so that one that was interrupted is
//!   brought to its end by the next.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pki::certificate::Certificate;
use pki::key::{PrivateKey, Signer, SpkiHash};
use zeroize::Zeroizing;

use crate::failure::Failure;

const CA: &str = "ca.pem";
const CERT: &str = "cert.pem";
const KEY: &str = "key.pem";
const NEW_CERT: &str = "cert.pem.new";
const NEW_KEY: &str = "key.pem.new";

const FOR_ALL: u32 = 0o644;
const FOR_OWNER: u32 = 0o600;

/// Longest file read, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Where a certificate lies, or is to lie.
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_path_buf())
    }

    /// As text.
    pub(super) fn shown(&self) -> String {
        self.0.display().to_string()
    }

    /// Makes it, and sees that nothing is in the way of a new certificate.
    pub(super) fn prepare(&self, with_key: bool) -> Result<(), Failure> {
        for name in [Some(CA), Some(CERT), with_key.then_some(KEY)].into_iter().flatten() {
            let path = self.0.join(name);
            if fs::symlink_metadata(&path).is_ok() {
                return Err(Failure::new(format!("{} exists: it is not written over", path.display()))
                    .hint("Name another directory with --out. A certificate that is there is replaced with: swarmpki cert renew --dir DIR"));
            }
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(|error| self.failed(&error))?;
        Ok(())
    }

    /// Writes a new certificate with its key, if that was made here.
    pub(super) fn fill(&self, ca: &str, certificate: &str, key: Option<&PrivateKey>) -> Result<(), Failure> {
        let write = || {
            // Whoever has seen a certificate finds the rest.
            if let Some(key) = key {
                self.put(KEY, key.pkcs8_pem().expose().as_bytes(), FOR_OWNER)?;
            }
            self.put(CA, ca.as_bytes(), FOR_ALL)?;
            self.put(CERT, certificate.as_bytes(), FOR_ALL)
        };
        write().map_err(|error| self.failed(&error))
    }

    /// The certificate that is there.
    pub(super) fn certificate(&self) -> Result<Certificate, Failure> {
        let path = self.0.join(CERT);
        let none = |why: String| {
            Failure::new(format!("no certificate in {}: {why}", path.display()))
                .hint("Name the directory that 'swarmpki cert issue' wrote with --dir, or in SWARMPKI_CERT_PATH or DOCKER_CERT_PATH.")
        };
        let pem = self.read(CERT).map_err(|error| none(error.to_string()))?;
        read_certificate(&pem).ok_or_else(|| none("it is not PEM".to_owned()))
    }

    /// Replaces key and certificate with new ones.
    pub(super) fn replace(&self, ca: &str, certificate: &str, key: &PrivateKey) -> Result<(), Failure> {
        let write = || {
            self.put(NEW_KEY, key.pkcs8_pem().expose().as_bytes(), FOR_OWNER)?;
            self.put(NEW_CERT, certificate.as_bytes(), FOR_ALL)?;
            self.put(CA, ca.as_bytes(), FOR_ALL)?;
            self.swap()
        };
        write().map_err(|error| self.failed(&error))
    }

    /// Brings a replacement to its end that was interrupted, or lets go of what came of it.
    pub(super) fn mend(&self) -> Result<(), Failure> {
        let mend = || -> io::Result<()> {
            let Some(new) = self.read(NEW_CERT).ok().and_then(|pem| read_certificate(&pem)) else {
                return self.clear();
            };
            let is_its = |key: Option<SpkiHash>| key == Some(new.spki_hash());
            if is_its(self.key_in(NEW_KEY)) || is_its(self.key_in(KEY)) { self.swap() } else { self.clear() }
        };
        match mend() {
            // There is nothing to mend where there is no directory.
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed(&error)),
            _ => Ok(()),
        }
    }

    /// Moves what is new into its place. The key may be there already.
    fn swap(&self) -> io::Result<()> {
        match fs::rename(self.0.join(NEW_KEY), self.0.join(KEY)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::rename(self.0.join(NEW_CERT), self.0.join(CERT))?;
        File::open(&self.0)?.sync_all()
    }

    fn clear(&self) -> io::Result<()> {
        for name in [NEW_KEY, NEW_CERT] {
            match fs::remove_file(self.0.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// All of a file or nothing.
    fn put(&self, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
        let scratch = self.0.join(format!(".{name}.{}", std::process::id()));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&scratch)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&scratch, self.0.join(name))?;
            File::open(&self.0)?.sync_all()
        })();
        if written.is_err() {
            let _ = fs::remove_file(&scratch);
        }
        written
    }

    fn read(&self, name: &str) -> io::Result<Zeroizing<Vec<u8>>> {
        let path = self.0.join(name);
        if fs::metadata(&path)?.len() > FILE_BYTES_MAX {
            return Err(io::Error::other("it is too long"));
        }
        fs::read(path).map(Zeroizing::new)
    }

    fn key_in(&self, name: &str) -> Option<SpkiHash> {
        let key = PrivateKey::from_pem(&self.read(name).ok()?, None).ok()?;
        Some(key.public().hash())
    }

    fn failed(&self, error: &io::Error) -> Failure {
        Failure::new(format!("cannot write to {}: {error}", self.0.display()))
    }
}

fn read_certificate(pem: &[u8]) -> Option<Certificate> {
    Certificate::parse_pem_bundle(pem).ok()?.into_iter().next()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::unix::fs::PermissionsExt;

    use pki::serial::Serial;
    use pki::time::Time;

    use super::*;

    fn made(seed: u8) -> (PrivateKey, String) {
        let key = PrivateKey::generate_p256(&[seed; 32]).unwrap();
        let now = Time::from_unix_secs(1_795_000_000);
        let certificate = pki::issue::root(&key, Serial::from_random([seed; 20]), now).unwrap().pem();
        (key, certificate)
    }

    fn is_pair(directory: &Directory, seed: u8) -> bool {
        let key = made(seed).0.public().hash();
        directory.certificate().unwrap().spki_hash() == key && directory.key_in(KEY) == Some(key)
    }

    #[test]
    fn a_key_is_its_owners_and_nothing_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(&dir.path().join("a/b"));
        directory.prepare(true).unwrap();
        let (key, certificate) = made(1);
        directory.fill("CA", &certificate, Some(&key)).unwrap();
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(directory.0.join(KEY)), 0o600);
        assert_eq!(mode(directory.0.clone()), 0o700);
        assert_eq!(fs::read(directory.0.join(CA)).unwrap(), b"CA");
        assert_eq!(fs::read_dir(&directory.0).unwrap().count(), 3);
        assert!(is_pair(&directory, 1));
        assert!(directory.prepare(true).unwrap_err().to_string().contains("it is not written over"));
        fs::remove_file(directory.0.join(CA)).unwrap();
        fs::remove_file(directory.0.join(CERT)).unwrap();
        assert!(directory.prepare(true).is_err(), "somebody's key");
        directory.prepare(false).unwrap();
    }

    #[test]
    fn an_interrupted_renewal_is_brought_to_its_end() {
        // Which of the new files are there, which key is in place, and which pair it comes to.
        for (new_key, new_cert, key_moved, comes_to) in [
            (false, false, false, 1),
            (true, false, false, 1),
            (true, true, false, 2),
            (false, true, true, 2),
            (false, true, false, 1),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let directory = Directory::new(dir.path());
            let ((old, old_cert), (new, new_pem)) = (made(1), made(2));
            let in_place = if key_moved { &new } else { &old };
            directory.fill("CA", &old_cert, Some(in_place)).unwrap();
            if new_key {
                directory.put(NEW_KEY, new.pkcs8_pem().expose().as_bytes(), FOR_OWNER).unwrap();
            }
            if new_cert {
                directory.put(NEW_CERT, new_pem.as_bytes(), FOR_ALL).unwrap();
            }
            directory.mend().unwrap();
            assert!(is_pair(&directory, comes_to), "{new_key} {new_cert} {key_moved}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "nothing is left over");
        }
        Directory::new(Path::new("/nowhere/at/all")).mend().unwrap();
    }
}
