//! `swarmpki completion`: what a shell needs to complete our commands.

use clap::{Args, CommandFactory, ValueEnum};

use crate::args::Cli;
use crate::failure::Failure;
use crate::output::Output;

/// Print a completion script for a shell
#[derive(Args, Clone, Debug)]
pub(crate) struct CompletionArgs {
    /// The shell
    #[arg(value_name = "bash|zsh|fish")]
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script.
pub(crate) fn run(args: &CompletionArgs, out: &mut Output) -> Result<(), Failure> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "swarmpki", &mut script);
    out.bytes(&script)
}
