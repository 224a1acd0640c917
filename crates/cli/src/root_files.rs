//! A root of one's own as flags name it: certificate, key, and the certificate that signs in the root's place. Encrypted
//! keys are decrypted here; a password is never an argument, which other users of the machine could see.

use std::fs::File;
use std::io::{BufRead, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::Args;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use pki::key::{KeyError, PrivateKey};
use pki::secret::SecretBytes;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::output::complain;
use crate::spec;

/// Longest password taken, in bytes.
const PASSWORD_BYTES_MAX: u64 = 1024;
/// Longest key file taken, in bytes: an encrypted RSA key of 8192 bits has 7 KB.
const KEY_BYTES_MAX: u64 = 64 * 1024;

/// A root of one's own.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RootFiles {
    /// File with the PEM root certificate to use; a new root is made without one
    #[arg(long, value_name = "PEM-FILE", value_parser = spec::read_pem)]
    pub(crate) ca_cert: Option<String>,
    /// File with the PEM key that signs: the root's, or that of --signer-cert
    #[arg(long, value_name = "PEM-FILE", value_parser = read_key)]
    pub(crate) ca_key: Option<KeyText>,
    /// File with the PEM certificate below --ca-cert that signs in its place: the root's key stays offline
    #[arg(long, value_name = "PEM-FILE", value_parser = spec::read_pem)]
    pub(crate) signer_cert: Option<String>,
    /// PKCS#11 URI of the key that signs: it is used in its token, made there if it is not there yet, or put there from --ca-key
    #[arg(long, value_name = "URI")]
    pub(crate) pkcs11: Option<String>,
    /// File with the password of an encrypted key, - for standard input; asked for on a terminal
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_key_password_file: Option<PathBuf>,
}

/// A key as its file holds it. No Debug of what is in it.
#[derive(Clone)]
pub(crate) struct KeyText(Zeroizing<String>);

impl std::fmt::Debug for KeyText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyText(..)")
    }
}

impl RootFiles {
    /// The first flag given, if any was.
    pub(crate) fn given(&self) -> Option<&'static str> {
        [
            ("--ca-cert", self.ca_cert.is_some()),
            ("--ca-key", self.ca_key.is_some()),
            ("--signer-cert", self.signer_cert.is_some()),
            ("--pkcs11", self.pkcs11.is_some()),
            ("--ca-key-password-file", self.ca_key_password_file.is_some()),
        ]
        .into_iter()
        .find_map(|(flag, given)| given.then_some(flag))
    }

    /// The refusals that need no daemon.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.signer_cert.is_some() && self.ca_cert.is_none() {
            return Err(Failure::new("the --signer-cert flag requires the --ca-cert flag: the root it is below"));
        }
        if self.ca_key_password_file.is_some() && self.ca_key.is_none() {
            return Err(Failure::new("the --ca-key-password-file flag requires the --ca-key flag"));
        }
        Ok(())
    }

    /// The key, decrypted if it has to be; asks for the password on a terminal.
    pub(crate) fn key(&self) -> Result<Option<Zeroizing<String>>, Failure> {
        self.ca_key.as_ref().map(|key| decrypted(key, self.ca_key_password_file.as_deref())).transpose()
    }
}

/// A key of --ca-key, decrypted if it has to be; asks for the password on a terminal.
pub(crate) fn decrypted(key: &KeyText, password_file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    let KeyText(pem) = key;
    match PrivateKey::from_pem(pem.as_bytes(), None) {
        Err(KeyError::Encrypted) => {}
        // What is wrong with it otherwise is for others to say: a daemon does it in docker's words.
        Ok(_) | Err(_) => return Ok(pem.clone()),
    }
    let password = match password_file {
        Some(path) if path == Path::new("-") => password(std::io::stdin(), "standard input")?,
        Some(path) => {
            let name = path.display().to_string();
            password(File::open(path).map_err(|error| unreadable(&name, &error))?, &name)?
        }
        None => ask()?,
    };
    let key = PrivateKey::from_pem(pem.as_bytes(), Some(&password)).map_err(|error| match error {
        KeyError::Password | KeyError::Padding => Failure::new("the password does not open the key of --ca-key"),
        other => Failure::new(format!("the key of --ca-key cannot be decrypted: {other}")),
    })?;
    Ok(Zeroizing::new(key.pkcs8_pem().expose().to_owned()))
}

/// Reads a key file; worded as docker's command words it.
pub(crate) fn read_key(path: &str) -> Result<KeyText, String> {
    let file = File::open(path).map_err(|error| spec::not_open(path, &error))?;
    let mut text = Zeroizing::new(String::with_capacity(KEY_BYTES_MAX as usize + 1));
    file.take(KEY_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| format!("read {path}: {error}"))?;
    if !text.contains("-----BEGIN ") || text.len() as u64 > KEY_BYTES_MAX {
        return Err("file contents must be in PEM format".to_owned());
    }
    Ok(KeyText(text))
}

/// A password: the first line.
fn password(from: impl Read, name: &str) -> Result<SecretBytes, Failure> {
    let mut text = Zeroizing::new(Vec::with_capacity(PASSWORD_BYTES_MAX as usize + 1));
    from.take(PASSWORD_BYTES_MAX + 1).read_to_end(&mut text).map_err(|error| unreadable(name, &error))?;
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() || text.len() as u64 > PASSWORD_BYTES_MAX {
        return Err(Failure::new(format!("{name} does not hold a password")));
    }
    Ok(SecretBytes::copy_of(line))
}

fn unreadable(name: &str, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot read the password from {name}: {error}"))
}

/// Asks on the terminal, without showing what is typed.
fn ask() -> Result<SecretBytes, Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::new("the key of --ca-key is encrypted and there is no terminal to ask for its password")
            .hint("Name a file that holds it: --ca-key-password-file FILE"));
    }
    complain("Password of the CA key: ");
    let hidden = Hidden::new(&stdin)?;
    let mut line = Zeroizing::new(Vec::with_capacity(PASSWORD_BYTES_MAX as usize + 1));
    let read = stdin.lock().take(PASSWORD_BYTES_MAX).read_until(b'\n', &mut line);
    drop(hidden);
    read.map_err(|error| unreadable("the terminal", &error))?;
    password(line.as_slice(), "the terminal")
}

/// A terminal that does not show what is typed, until this is dropped.
pub(crate) struct Hidden<'a> {
    terminal: &'a std::io::Stdin,
    before: Termios,
}

impl<'a> Hidden<'a> {
    pub(crate) fn new(terminal: &'a std::io::Stdin) -> Result<Self, Failure> {
        let failed = |error: nix::Error| Failure::new(format!("cannot hide what is typed: {error}"));
        let before = tcgetattr(terminal.as_fd()).map_err(failed)?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(terminal.as_fd(), SetArg::TCSAFLUSH, &quiet).map_err(failed)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs no echo.
        let _ = tcsetattr(self.terminal.as_fd(), SetArg::TCSANOW, &self.before);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_password_is_the_first_line() {
        let rows = [("secret", Some("secret")), (" a b \r\nrest", Some(" a b ")), ("", None), ("\nsecret", None)];
        for (text, wanted) in rows {
            let read = password(text.as_bytes(), "f").ok();
            assert_eq!(read.as_ref().map(SecretBytes::expose), wanted.map(str::as_bytes), "{text:?}");
        }
        assert!(password(std::io::repeat(b'x'), "f").is_err());
    }

    #[test]
    fn a_key_is_not_shown() {
        let files = RootFiles { ca_key: Some(KeyText(Zeroizing::new("SECRET".into()))), ..RootFiles::default() };
        assert!(!format!("{files:?}").contains("SECRET"));
        assert_eq!(files.given(), Some("--ca-key"));
    }
}
