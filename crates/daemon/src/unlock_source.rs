//! Where the unlock key comes from when nobody types it: a file, an open descriptor, the answer of a command. Never an argument and never
//! a variable of the environment, which others on the machine can read.

use std::fmt;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use pki::secret::SecretString;
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

/// The name of the credential that a unit hands over: `LoadCredentialEncrypted=swarmpki-unlock-key:…`.
pub const CREDENTIAL: &str = "swarmpki-unlock-key";
/// Bytes that are read. A key has 52.
const BYTES_MAX: u64 = 4096;
/// How long a command may take: it may have to ask a machine far away.
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// A place to read the key from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnlockSource {
    /// A file.
    File(PathBuf),
    /// A descriptor that this process was started with.
    Descriptor(u32),
    /// What this command line, run by `sh`, writes to its standard output.
    Command(String),
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum UnlockSourceError {
    /// It is not one of the three forms.
    #[error("expected file:PATH, fd:NUMBER or command:COMMAND")]
    Form,
    /// It cannot be read.
    #[error("the unlock key cannot be read from {from}: {text}")]
    Read {
        /// The source.
        from: String,
        /// Why.
        text: String,
    },
}

impl FromStr for UnlockSource {
    type Err = UnlockSourceError;

    fn from_str(text: &str) -> Result<Self, UnlockSourceError> {
        let refused = || UnlockSourceError::Form;
        match text.split_once(':') {
            Some((_, "")) => Err(refused()),
            Some(("file", path)) => Ok(Self::File(PathBuf::from(path))),
            Some(("fd", number)) => number.parse().map(Self::Descriptor).map_err(|_| refused()),
            Some(("command", command)) => Ok(Self::Command(command.to_owned())),
            _ => Err(refused()),
        }
    }
}

impl fmt::Display for UnlockSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Descriptor(number) => write!(f, "fd:{number}"),
            Self::Command(command) => write!(f, "command:{command}"),
        }
    }
}

impl UnlockSource {
    /// The credential that the service manager handed over, if it did.
    pub fn credential() -> Option<Self> {
        let path = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(CREDENTIAL);
        path.is_file().then_some(Self::File(path))
    }

    /// Reads the key, without the blanks and the line's end around it.
    ///
    /// # Errors
    /// If it cannot be read, is longer than any key, or the command failed.
    pub async fn read(&self) -> Result<SecretString, UnlockSourceError> {
        let failed = |text: String| UnlockSourceError::Read { from: self.to_string(), text };
        let bytes = match self {
            Self::File(path) => read_file(path.clone()).await,
            Self::Descriptor(number) => read_file(PathBuf::from(format!("/dev/fd/{number}"))).await,
            Self::Command(command) => answer_of(command).await,
        };
        let bytes = bytes.map_err(failed)?;
        if bytes.len() as u64 > BYTES_MAX {
            return Err(failed(format!("it is longer than {BYTES_MAX} bytes")));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| failed("it is not text".to_owned()))?;
        Ok(SecretString::new(text.trim().to_owned()))
    }
}

async fn read_file(path: PathBuf) -> Result<Zeroizing<Vec<u8>>, String> {
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = buffer();
        std::fs::File::open(path)?.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    });
    read.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

async fn answer_of(command: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut child = tokio::process::Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| error.to_string())?;
    let output = child.stdout.take().ok_or_else(|| "it has no output".to_owned())?;
    let answered = async {
        let mut bytes = buffer();
        output.take(BYTES_MAX + 1).read_to_end(&mut bytes).await.map_err(|error| error.to_string())?;
        let status = child.wait().await.map_err(|error| error.to_string())?;
        if status.success() { Ok(bytes) } else { Err(format!("it ended with {status}")) }
    };
    tokio::time::timeout(COMMAND_MAX, answered)
        .await
        .unwrap_or_else(|_| Err(format!("it took more than {} seconds", COMMAND_MAX.as_secs())))
}

/// Room for everything, so that no copy of a part is left behind by growing.
fn buffer() -> Zeroizing<Vec<u8>> {
    Zeroizing::new(Vec::with_capacity(2 * BYTES_MAX as usize))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn forms() {
        for text in ["file:/etc/key", "fd:3", "command:kms decrypt --key a:b"] {
            assert_eq!(text.parse::<UnlockSource>().unwrap().to_string(), text);
        }
        for text in ["", "file:", "fd:x", "fd:-1", "env:KEY", "SWMKEY-1-abc", "/etc/key"] {
            assert!(text.parse::<UnlockSource>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn what_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "SWMKEY-1-abc\n").unwrap();
        let read = async |source: &str| {
            let source: UnlockSource = source.parse().unwrap();
            source.read().await.map(|text| text.expose().to_owned()).map_err(|error| error.to_string())
        };
        assert_eq!(read(&format!("file:{}", path.display())).await.unwrap(), "SWMKEY-1-abc");
        assert_eq!(read(&format!("command:cat {}", path.display())).await.unwrap(), "SWMKEY-1-abc");
        assert_eq!(
            read("command:exit 3").await.unwrap_err(),
            "the unlock key cannot be read from command:exit 3: it ended with exit status: 3"
        );
        std::fs::write(&path, "x".repeat(5000)).unwrap();
        assert!(read(&format!("file:{}", path.display())).await.unwrap_err().contains("longer than 4096"));
        assert!(read("file:/nonexistent").await.unwrap_err().contains("No such file"));
        let open = std::fs::File::open(&path).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&open);
        assert!(read(&format!("fd:{number}")).await.unwrap_err().contains("longer than 4096"));
    }
}
