//! The README shows what `swarmpki --help` prints, between two comments; here the two are compared.

use std::process::Command;

use anyhow::{Context, bail};

use crate::step::Outcome;
use crate::workspace;

const BEGIN: &str = "<!-- swarmpki --help -->";
const END: &str = "<!-- end of help -->";

/// Compares them.
///
/// # Errors
/// If they differ, or the README has no such place.
pub(crate) fn check() -> anyhow::Result<Outcome> {
    let root = workspace::root()?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), std::path::PathBuf::from);
    let program = target.join("debug/swarmpki");
    let Ok(readme) = std::fs::read_to_string(root.join("README.md")) else {
        return Ok(Outcome::Skipped("there is no README.md".into()));
    };
    let shown = shown(&readme).with_context(|| format!("README.md lacks {BEGIN} … {END}"))?;
    let output =
        Command::new(&program).arg("--help").output().with_context(|| format!("cannot run {}", program.display()))?;
    let printed = String::from_utf8(output.stdout).context("the help text is not UTF-8")?;
    if shown.trim() != printed.trim() {
        bail!("README.md shows another help text than `swarmpki --help` prints:\n{printed}");
    }
    Ok(Outcome::Done)
}

/// The text between the comments, without the fence around it.
fn shown(readme: &str) -> Option<String> {
    let (_, rest) = readme.split_once(BEGIN)?;
    let (between, _) = rest.split_once(END)?;
    let lines: Vec<_> = between.lines().filter(|line| !line.starts_with("```")).collect();
    Some(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fence_is_not_part_of_the_text() {
        let readme = format!("# x\n{BEGIN}\n```text\nUsage: a\n\n  b\n```\n{END}\nmore");
        assert_eq!(shown(&readme).as_deref().map(str::trim), Some("Usage: a\n\n  b"));
        assert_eq!(shown("# x"), None);
        assert_eq!(shown(BEGIN), None);
    }
}
