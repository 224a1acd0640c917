//! The child's end: the process that loads the module, logs in and signs.
//!
//! It lives exactly as long as the stream it reads: the end of stdin ends it, whatever a thread inside the module is doing. Signals
//! that a terminal or a service manager sends to the whole group are left to the parent.

mod asn1;
mod import;
mod login;
mod module;
mod object;
mod signature;
mod worker;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};

use crate::protocol::{Answer, Fault, Request, VERSION};
use crate::records::{Records, Room};
use worker::Worker;

/// Takes the process over: reads requests from stdin, answers on stdout, and returns when stdin ends. What a program's hidden verb
/// calls, before it starts threads of its own.
///
/// No core dump of this process is ever written and no other process of the same user may read its memory. The module finds stdin
/// empty, and what it prints goes to stderr.
pub fn run() -> ExitCode {
    match isolate().map(|(input, output)| serve(input, output)) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(%error, "the process of the PKCS#11 module cannot start");
            ExitCode::FAILURE
        }
    }
}

/// Takes stdin and stdout away from the module, and everything that would show its memory.
fn isolate() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ignored = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        ignored.add(signal);
    }
    ignored.thread_block()?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    nix::sys::prctl::set_dumpable(false)?;
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    nix::unistd::dup2_stdout(io::stderr())?;
    Ok((input, output))
}

/// Where requests come from and answers go to.
pub(crate) struct Streams {
    pub(crate) input: Records,
    pub(crate) output: Records,
}

fn serve(input: OwnedFd, output: OwnedFd) -> ExitCode {
    let Ok(watched) = input.try_clone() else {
        return ExitCode::FAILURE;
    };
    let streams = Streams { input: Records::of(input), output: Records::of(output) };
    if !greeted(&streams) {
        return ExitCode::FAILURE;
    }
    let (number, opened) = match open(&streams.input) {
        Ok(opened) => opened,
        Err(None) => return ExitCode::FAILURE,
        Err(Some((number, fault))) => {
            // If nobody listens, nobody needs to know.
            let _ = streams.output.send(&Answer::Fault(fault).encode(number));
            return ExitCode::FAILURE;
        }
    };
    let (module, sessions) = opened;
    let module = Arc::new(module);
    if streams.output.send(&Answer::Opened(module.info.clone()).encode(number)).is_err() {
        return ExitCode::FAILURE;
    }
    let streams = Arc::new(streams);
    let (ended, end) = mpsc::channel();
    let mut workers = Vec::new();
    for session in sessions {
        let (streams, ended) = (Arc::clone(&streams), ended.clone());
        let mut worker = Worker::new(Arc::clone(&module), session);
        workers.push(std::thread::spawn(move || {
            worker.serve(&streams);
            drop(worker);
            let _main_is_gone = ended.send(());
        }));
    }
    std::thread::spawn(move || {
        wait_for_hangup(&watched);
        let _main_is_gone = ended.send(());
    });
    // The first end of any thread is the end of the stream. A worker that hangs in the module does not keep the process.
    let _ = end.recv();
    let mut left = workers.len();
    while left > 0 && end.recv_timeout(LAST_WORDS).is_ok() {
        left -= 1;
    }
    if workers.iter().all(std::thread::JoinHandle::is_finished) {
        module::finalize(module);
    }
    ExitCode::SUCCESS
}

type Opened = (module::Module, Vec<cryptoki::session::Session>);

/// Tells the parent which version this is; whether that is also the parent's.
fn greeted(streams: &Streams) -> bool {
    let received = streams.input.receive(&mut Room::new(), Request::decode).ok().flatten();
    let Some(Ok((number, request))) = received else { return false };
    let (answer, agree) = match request {
        Request::Hello { version } => (Answer::Hello { version: VERSION }, version == VERSION),
        // A parent from before there were versions: this much it understands.
        _ => (
            Answer::Fault(Fault::Gone("the program was replaced by a newer version: restart the daemon".into())),
            false,
        ),
    };
    // If nobody listens, nobody needs to know.
    streams.output.send(&answer.encode(number)).is_ok() && agree
}

/// Reads the next request and does it. The PIN is wiped on return.
fn open(input: &Records) -> Result<(u64, Opened), Option<(u64, Fault)>> {
    let received = input.receive(&mut Room::new(), Request::decode).ok().flatten();
    let (number, request) = received.ok_or(None)?.map_err(|_| None)?;
    let Request::Open { module, token, pin } = request else {
        return Err(None);
    };
    login::open(&module, &token, pin).map(|opened| (number, opened)).map_err(|fault| Some((number, fault)))
}

/// Returns when nobody can write to `stream` any more, without reading from it.
fn wait_for_hangup(stream: &OwnedFd) {
    loop {
        let mut watched = [PollFd::new(stream.as_fd(), PollFlags::empty())];
        match poll(&mut watched, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => {}
            _ => return,
        }
    }
}

/// How long workers may take to close their sessions after the end of the stream.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use pki::SecretString;

    use super::*;
    use crate::protocol::{PinSource, TokenMatch};

    /// What the child says to a first request, and whether it goes on.
    fn said_to(first: &Request) -> (Answer, bool) {
        let (parent, ours) = Records::pair(LAST_WORDS).unwrap();
        let streams = Streams { input: Records::of(ours.try_clone().unwrap()), output: Records::of(ours) };
        parent.send(&first.encode(5)).unwrap();
        let goes_on = greeted(&streams);
        let (number, answer) = parent.receive(&mut Room::new(), Answer::decode).unwrap().unwrap().unwrap();
        assert_eq!(number, 5);
        (answer, goes_on)
    }

    #[test]
    fn only_a_parent_of_the_same_version_is_served() {
        let hello = Answer::Hello { version: VERSION };
        assert_eq!(said_to(&Request::Hello { version: VERSION }), (hello, true));
        for version in [0, VERSION + 1, u32::MAX] {
            assert_eq!(said_to(&Request::Hello { version }), (Answer::Hello { version: VERSION }, false), "{version}");
        }
        let pin = PinSource::Text(SecretString::new("1234".into()));
        let (answer, goes_on) = said_to(&Request::Open { module: "/m.so".into(), token: TokenMatch::default(), pin });
        assert!(matches!(answer, Answer::Fault(Fault::Gone(why)) if why.contains("restart")) && !goes_on);
    }
}
