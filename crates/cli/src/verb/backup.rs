//! `swarmpki backup`: everything that the managers share, in one encrypted file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use daemon::UnlockSource;
use serde::Serialize;
use serde_json::json;

use super::Context;
use super::unlock::typed;
use crate::failure::Failure;
use crate::output::working;

/// Write an encrypted backup of the swarm to a file
#[derive(Args, Clone, Debug)]
pub(crate) struct BackupArgs {
    /// Who can open it: an age recipient; more than one may be named
    #[arg(long = "recipient", value_name = "AGE1", conflicts_with = "passphrase_from")]
    recipients: Vec<String>,
    /// Where a passphrase is: file:PATH, fd:NUMBER or command:COMMAND; it is asked for if nobody is named
    #[arg(long, value_name = "SOURCE")]
    passphrase_from: Option<UnlockSource>,
    /// The file; one that is there is replaced
    file: PathBuf,
}

/// Said while it is made.
const GATHERING: &str = "Everything that the managers share is read and encrypted...";
/// Said while it is made with a passphrase, which is made hard to guess.
const STRETCHING: &str =
    "Everything that the managers share is read and encrypted: with a passphrase that takes a few seconds...";

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct BackupRequest<'a> {
    recipients: &'a [String],
    passphrase: &'a str,
}

/// Has it made and writes it.
pub(crate) async fn run(args: &BackupArgs, context: &mut Context) -> Result<(), Failure> {
    let passphrase = match (&args.passphrase_from, args.recipients.is_empty()) {
        (Some(source), _) => Some(source.read().await.map_err(|error| Failure::new(error.to_string()))?),
        (None, true) => Some(typed("passphrase")?),
        (None, false) => None,
    };
    let passphrase = passphrase.as_ref().map(pki::secret::SecretString::expose).unwrap_or_default();
    if passphrase.is_empty() && args.recipients.is_empty() {
        return Err(Failure::new("the passphrase is empty")
            .hint("Without a terminal: --passphrase-from file:PATH, or --recipient with an age key."));
    }
    let mut client = context.client().await?;
    let request = BackupRequest { recipients: &args.recipients, passphrase };
    if !context.out.json() {
        working(if passphrase.is_empty() { GATHERING } else { STRETCHING });
    }
    let bytes = client.own_file("/backup", &request).await?;
    write_whole(&args.file, &bytes)
        .map_err(|error| Failure::new(format!("cannot write {}: {error}", args.file.display())))?;
    if context.out.json() {
        return context.out.document(&json!({"File": args.file.display().to_string(), "Bytes": bytes.len()}));
    }
    context.out.line(format!("Backup written: {} ({} bytes)", args.file.display(), bytes.len()))
}

/// All of it or nothing, for the owner only.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let scratch = dir.join(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&scratch)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&scratch, path)?;
        File::open(dir)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&scratch);
    }
    written
}
