//! The `swarmpki` command: a daemon, and the verbs that talk to it.
//!
//! Verbs are one file each in [`verb`]; they talk to the daemon through [`client`] and print through [`output`]. Only
//! `main` ends the process. To add a verb: a file in `verb/`, a line in [`args::Command`], a line in `dispatch`.

mod api;
mod args;
mod client;
mod failure;
mod go_bool;
mod go_duration;
mod leaderless;
mod logging;
mod notify;
mod output;
mod root_files;
mod shown;
mod signals;
mod span;
mod spec;
mod table;
mod tls;
mod token;
mod token_flags;
mod usage;
mod verb;
mod words;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use daemon::Host;
use daemon::config::default_socket;

use args::{Cli, Command};
use client::Endpoint;
use failure::Failure;
use output::{Output, complain, fail};
use verb::Context;

/// Smaller and faster than the C library's: docs/performance.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    if matches!(cli.command, Command::Pkcs11Module) {
        // A process of its own, before there are threads: it holds the module and the PIN.
        return pkcs11::child::run();
    }
    match dispatch(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_quiet() {
                fail(failure.text(), failure.next_step(), cli.global.json);
            }
            ExitCode::from(failure.code())
        }
    }
}

fn refuse(error: &clap::Error) -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).skip(1).collect();
    let refusal = usage::refusal(error, &arguments);
    let text = refusal.text.trim_end();
    if refusal.asked {
        // A reader that went away has seen enough of the help.
        let _ = Output::new(false).line(text);
    } else if refusal.code != 0 && arguments.iter().any(|argument| argument == "--json") {
        let line = text.lines().next().unwrap_or_default();
        fail(line, text.lines().last().filter(|last| *last != line), true);
    } else {
        complain(text);
    }
    ExitCode::from(refusal.code)
}

fn dispatch(cli: &Cli) -> Result<(), Failure> {
    let mut out = Output::new(cli.global.json);
    match &cli.command {
        Command::Bench(command) => {
            logging::start(&cli.global)?;
            on_one_thread(verb::bench::run(command, &mut out))
        }
        Command::Check(args) => {
            logging::start(&cli.global)?;
            on_one_thread(verb::check::run(args, &mut out))
        }
        Command::Completion(args) => verb::completion::run(args, &mut out),
        Command::Man(args) => verb::man::run(args, &mut out),
        Command::Update(args) if args.is_empty() => out.text(help_of("update")),
        Command::Daemon(args) => {
            logging::start(&cli.global)?;
            on_all_threads(verb::daemon::run(args, &cli.global))
        }
        Command::Up(args) => {
            logging::start(&cli.global)?;
            // Which of its sockets to talk to is settled once the daemon listens.
            let mut context = Context { endpoint: Endpoint::plain(Host::Unix(default_socket())), out };
            on_all_threads(verb::up::run(args, &cli.global, &mut context))
        }
        Command::Ca(args) if args.serve().is_some() => {
            logging::start(&cli.global)?;
            on_all_threads(verb::ca::serve::run(args, &mut out))
        }
        Command::Log(args) if args.offline().is_some() => {
            logging::start(&cli.global)?;
            match args.offline() {
                Some(args) => on_one_thread(verb::log::verify::offline(args, &mut out)),
                None => Ok(()),
            }
        }
        command => {
            logging::start(&cli.global)?;
            if let Command::Cert(command) = command {
                command.mend()?;
            }
            let mut context = Context { endpoint: cli.global.endpoint()?, out };
            on_one_thread(async {
                match ask(command, &mut context).await {
                    Err(failure) => Err(leaderless::explained(failure, &context).await),
                    Ok(()) => Ok(()),
                }
            })
        }
    }
}

/// The verbs that ask a daemon.
async fn ask(command: &Command, context: &mut Context) -> Result<(), Failure> {
    match command {
        Command::Demo(args) => verb::demo::run(args, context).await,
        Command::Backup(args) => verb::backup::run(args, context).await,
        Command::Crl(args) => verb::crl::run(args, context).await,
        Command::Revoke(args) => verb::revoke::run(args, context).await,
        Command::Restore(args) => verb::restore::run(args, context).await,
        Command::Ca(args) => verb::ca::run(args, context).await,
        Command::Cert(command) => verb::cert::run(command, context).await,
        Command::Info => verb::info::run(context).await,
        Command::Init(args) => verb::init::run(args, context).await,
        Command::Join(args) => verb::join::run(args, context).await,
        Command::JoinToken(args) => verb::join_token::run(args, context).await,
        Command::Leave(args) => verb::leave::run(args, context).await,
        Command::Log(args) => verb::log::run(args, context).await,
        Command::Node(command) => verb::node::run(command, context).await,
        Command::Token(command) => verb::token::run(command, context).await,
        Command::Unlock(args) => verb::unlock::run(args, context).await,
        Command::UnlockKey(args) => verb::unlock_key::run(args, context).await,
        Command::Update(args) => verb::update::run(args, context).await,
        Command::Version => verb::version::run(context).await,
        // These ask nobody and were carried out before.
        Command::Bench(_)
        | Command::Check(_)
        | Command::Completion(_)
        | Command::Daemon(_)
        | Command::Man(_)
        | Command::Pkcs11Module
        | Command::Up(_) => Ok(()),
    }
}

/// A daemon uses all processors: it signs and verifies.
fn on_all_threads(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    runtime.block_on(work)
}

fn on_one_thread(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}")))?;
    runtime.block_on(work)
}

/// The help text of a verb, as `--help` prints it.
fn help_of(verb: &str) -> String {
    let mut cli = Cli::command();
    cli.build();
    cli.find_subcommand_mut(verb).map(|verb| verb.render_help().to_string()).unwrap_or_default()
}
