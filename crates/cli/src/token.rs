//! Where a join token comes from: the flag, a file or standard input, or the environment. Only the flag is seen by other
//! users of the machine, in its list of processes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use zeroize::Zeroizing;

use crate::failure::Failure;

/// The join token, for whom no flag names one.
const TOKEN_VARIABLE: &str = "SWARMPKI_TOKEN";
/// More than any token has, in bytes.
const TOKEN_BYTES_MAX: u64 = 4096;

/// A join token kept out of the command line.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct TokenFile {
    /// File that holds the token, - for standard input; or set SWARMPKI_TOKEN
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub(crate) token_file: Option<PathBuf>,
}

impl TokenFile {
    /// The token: that of the flag, else of the file, else of the environment; `None`: there is none.
    pub(crate) fn token(&self, flag: Option<&str>) -> Result<Option<Zeroizing<String>>, Failure> {
        if let Some(token) = flag.filter(|token| !token.is_empty()) {
            return Ok(Some(Zeroizing::new(token.to_owned())));
        }
        match &self.token_file {
            Some(path) if path == Path::new("-") => read(std::io::stdin(), "standard input").map(Some),
            Some(path) => {
                let name = path.display().to_string();
                let file = File::open(path).map_err(|error| unreadable(&name, &error))?;
                read(file, &name).map(Some)
            }
            None => Ok(from_environment()),
        }
    }

    /// Whether a token is named somewhere. Reads no file.
    pub(crate) fn is_given(&self, flag: Option<&str>) -> bool {
        flag.is_some() || self.token_file.is_some() || from_environment().is_some()
    }
}

fn from_environment() -> Option<Zeroizing<String>> {
    let token = std::env::var(TOKEN_VARIABLE).map(Zeroizing::new).ok()?;
    let token = Zeroizing::new(token.trim().to_owned());
    (!token.is_empty()).then_some(token)
}

/// One token with white space around it.
fn read(from: impl Read, name: &str) -> Result<Zeroizing<String>, Failure> {
    // With room for all of it, so that growing leaves no copy behind.
    let mut text = Zeroizing::new(String::with_capacity(TOKEN_BYTES_MAX as usize + 1));
    from.take(TOKEN_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| unreadable(name, &error))?;
    let token = text.trim();
    if token.is_empty() || token.contains(char::is_whitespace) || text.len() as u64 > TOKEN_BYTES_MAX {
        return Err(Failure::new(format!("{name} does not hold one join token"))
            .hint("On a manager, this writes one: swarmpki join-token -q worker > FILE"));
    }
    Ok(Zeroizing::new(token.to_owned()))
}

fn unreadable(name: &str, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot read the join token from {name}: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_file_holds_one_token_and_nothing_else() {
        let rows = [
            ("SWMTKN-1-a-b", Some("SWMTKN-1-a-b")),
            ("  SWMTKN-1-a-b\r\n", Some("SWMTKN-1-a-b")),
            ("", None),
            ("\n", None),
            ("SWMTKN-1-a-b SWMTKN-1-c-d", None),
        ];
        for (text, expected) in rows {
            assert_eq!(read(text.as_bytes(), "f").ok().as_deref().map(String::as_str), expected, "{text:?}");
        }
        assert!(read(std::io::repeat(b'x'), "f").unwrap_err().text().contains("does not hold one join token"));
        assert!(read([0xff_u8].as_slice(), "f").unwrap_err().text().starts_with("cannot read the join token from f"));
    }
}
