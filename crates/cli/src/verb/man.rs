//! `swarmpki man`: writes the manual pages, one a verb.

use std::fs;
use std::path::PathBuf;

use clap::{Args, CommandFactory};

use crate::args::Cli;
use crate::failure::Failure;
use crate::output::Output;

/// Write the manual pages into a directory
#[derive(Args, Clone, Debug)]
pub(crate) struct ManArgs {
    /// Where to; made if it does not exist
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Writes the pages and lists them.
pub(crate) fn run(args: &ManArgs, out: &mut Output) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(format!("cannot write manual pages to {}: {error}", args.dir.display()))
            .hint("Name a directory that you may write to.")
    };
    fs::create_dir_all(&args.dir).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(failed)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(&args.dir).map_err(failed)? {
        names.push(entry.map_err(failed)?.path());
    }
    names.sort();
    if out.json() {
        return out.document(&names);
    }
    names.iter().try_for_each(|name| out.line(name.display()))
}
