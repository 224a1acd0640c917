//! Which strangers this machine has, and what a test does without them.

use std::path::{Path, PathBuf};

/// Where a program is, or why a test that needs it cannot run here. Programs are looked for in `PATH` and in the `sbin` folders, which
/// a plain user's `PATH` lacks.
///
/// `dockerd` counts as found only for root; `swarmpki` is our own program (see [`crate::daemon`]), `faketime` is its library (see
/// [`crate::clock`]), `netns` is the right to make networks (see [`crate::net`]).
///
/// # Errors
/// One line for a person: what is missing.
pub fn find(name: &str) -> Result<PathBuf, String> {
    if name == "swarmpki" {
        return crate::daemon::program();
    }
    if name == "faketime" {
        return crate::clock::find();
    }
    if name == "netns" {
        return crate::net::program();
    }
    let found = search(name).ok_or_else(|| format!("{name} not found"))?;
    if name == "dockerd" && !nix::unistd::geteuid().is_root() {
        return Err("dockerd found, but only root can run it".into());
    }
    Ok(found)
}

/// Every file of that name on the search path, in its order, each once (links resolved).
pub fn all(name: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for folder in folders() {
        let path = folder.join(name);
        let Ok(real) = path.canonicalize() else {
            continue;
        };
        if real.is_file() && !found.iter().any(|seen| seen.canonicalize().is_ok_and(|seen| seen == real)) {
            found.push(path);
        }
    }
    found
}

fn search(name: &str) -> Option<PathBuf> {
    folders().map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn folders() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].into_iter().map(PathBuf::from))
        .collect::<Vec<_>>()
        .into_iter()
}

/// Whether a missing peer must fail the test.
pub fn required() -> bool {
    std::env::var_os("SWARMPKI_REQUIRE_PEERS").is_some_and(|value| value == "1")
}

/// Notes that `test` does not run here because of `missing`. Used by [`require_or_skip!`](crate::require_or_skip).
///
/// # Panics
/// Under `SWARMPKI_REQUIRE_PEERS=1`.
pub fn skip(test: &str, missing: &str) {
    assert!(!required(), "{test}: {missing}, and SWARMPKI_REQUIRE_PEERS=1");
    let line = format!("skipped: {test}: {missing}");
    eprintln!("{line}");
    if let Some(file) = std::env::var_os("SWARMPKI_SKIPPED") {
        append(Path::new(&file), &line);
    }
}

fn append(file: &Path, line: &str) {
    use std::io::Write;
    // One write to a file opened for appending: lines of tests that run side by side do not mix.
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
    opened.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())).expect("the list of skipped tests");
}

/// The name of the test that runs now: tests run on threads named after them.
pub fn test_name() -> String {
    std::thread::current().name().unwrap_or("a test").to_owned()
}

/// Returns from the test, after saying so, unless each named peer is on this machine: `require_or_skip!("dockerd", "openssl")`.
/// Under `SWARMPKI_REQUIRE_PEERS=1` it panics instead.
#[macro_export]
macro_rules! require_or_skip {
    ($($name:expr),+ $(,)?) => {
        $(
            if let Err(missing) = $crate::peer::find($name) {
                $crate::peer::skip(&$crate::peer::test_name(), &missing);
                return;
            }
        )+
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_is_found_and_nonsense_is_not() {
        assert!(find("sh").is_ok_and(|path| path.is_absolute()));
        assert_eq!(find("no-such-program-anywhere"), Err("no-such-program-anywhere not found".into()));
    }

    #[test]
    fn a_link_to_the_same_file_counts_once() {
        let real: Vec<_> = all("sh").iter().map(|path| path.canonicalize().unwrap()).collect();
        assert!(!real.is_empty());
        for (n, path) in real.iter().enumerate() {
            assert!(!real[..n].contains(path), "{path:?} twice");
        }
    }

    #[test]
    fn the_name_of_a_test_is_its_path() {
        assert_eq!(test_name(), "peer::tests::the_name_of_a_test_is_its_path");
    }
}
