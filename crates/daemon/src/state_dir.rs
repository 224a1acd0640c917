//! The state directory: ours alone, as it holds the node's key.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use tracing::warn;

/// Makes the directory, or takes one that belongs to the user we run as; afterwards nobody else may enter it.
///
/// # Errors
/// It is not a directory of ours, or the system refuses.
pub(crate) fn take(dir: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let found = std::fs::metadata(dir)?;
    let ours = nix::unistd::geteuid().as_raw();
    if found.uid() != ours {
        return Err(foreign(found.uid(), ours));
    }
    if found.mode() & 0o077 != 0 {
        warn!(
            dir = %dir.display(),
            mode = format!("{:04o}", found.mode() & 0o7777),
            "others could enter the state directory; it is 0700 from now on"
        );
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

fn foreign(owner: u32, ours: u32) -> io::Error {
    let text = format!(
        "it belongs to user id {owner} and this daemon runs as {ours}: its owner could read the node's key; \
         change its owner with chown, or give another --state-dir"
    );
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn mode(dir: &Path) -> u32 {
        std::fs::metadata(dir).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_directory_that_others_may_enter_is_closed() {
        let top = tempfile::tempdir().unwrap();
        for given in [0o777, 0o1777, 0o755, 0o750, 0o700, 0o500] {
            let dir = top.path().join(format!("{given:o}"));
            std::fs::create_dir(&dir).unwrap();
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(given)).unwrap();
            take(&dir).unwrap();
            assert_eq!(mode(&dir), if given == 0o500 { 0o500 } else { 0o700 }, "{given:o}");
        }
        let new = top.path().join("a/b");
        take(&new).unwrap();
        assert_eq!(mode(&new), 0o700);
        std::fs::write(top.path().join("file"), "").unwrap();
        assert!(take(&top.path().join("file")).is_err());
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        let root = nix::unistd::geteuid().is_root();
        let top = tempfile::tempdir().unwrap();
        // Only root can give a directory away; for others the root directory itself is somebody else's.
        let dir = if root { top.path() } else { Path::new("/") };
        if root {
            std::os::unix::fs::chown(dir, Some(65_534), None).unwrap();
        }
        let before = mode(dir);
        let refused = take(dir).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(refused.to_string().starts_with(if root {
            "it belongs to user id 65534"
        } else {
            "it belongs to user id 0"
        }));
        assert_eq!(mode(dir), before);
    }
}
