//! The thread that keeps a child at work: starts it, looks after it, starts another.
//!
//! A child that ends is replaced: at once if it had worked for a while, else after a pause that grows from one second to thirty. A
//! refused PIN is the exception: it is not tried again until somebody asks, because a few wrong ones lock a token for good.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::{Duration, Instant, SystemTime};

use crate::error::TokenError;
use crate::link::{Launch, Link};
use crate::pin::{Pin, PinError};
use crate::protocol::{Answer, Fault, PinSource, Request, TokenMatch, VERSION};
use crate::token::{Launcher, Shared, TokenInfo, TokenState};

/// What the supervisor is told.
pub(crate) enum Event {
    /// A child is gone: its number.
    Ended(u64),
    /// Try again now, with another PIN if there is one.
    Retry(Option<Pin>),
    /// The end.
    Close,
}

/// What the thread owns.
pub(crate) struct Supervisor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) launcher: Launcher,
    pub(crate) events: Receiver<Event>,
    pub(crate) told: Sender<Event>,
    /// Told of the first outcome; a failure is then the end.
    pub(crate) first: Option<SyncSender<Result<(), TokenError>>>,
    pub(crate) children: u64,
}

enum Next {
    /// Another child, after this pause.
    Again(Duration),
    /// Only when asked.
    WhenAsked,
    End,
}

impl Supervisor {
    pub(crate) fn run(mut self) {
        let mut pause = PAUSE_MIN;
        loop {
            let next = match self.open() {
                Ok((link, token)) => {
                    let since = Instant::now();
                    self.shared.gain(&link, token);
                    if let Some(first) = self.first.take() {
                        // Whoever asked may have gone.
                        let _ = first.try_send(Ok(()));
                    }
                    match self.look_after(&link) {
                        Ended::Closed => {
                            self.shared.part();
                            self.say_goodbye(&link);
                            link.end("closed");
                            link.reap();
                            Next::End
                        }
                        Ended::Lost => {
                            self.shared.lose(&link);
                            link.reap();
                            if since.elapsed() >= STABLE {
                                pause = PAUSE_MIN;
                                Next::Again(Duration::ZERO)
                            } else {
                                Next::Again(longer(&mut pause))
                            }
                        }
                    }
                }
                Err(error) => match self.first.take() {
                    Some(first) => {
                        let _ = first.try_send(Err(error));
                        Next::End
                    }
                    None => self.failed(error, &mut pause),
                },
            };
            if self.rest(next) {
                break;
            }
        }
        self.shared.set_state(TokenState::Closed);
    }

    /// A child that could not log in.
    fn failed(&self, error: TokenError, pause: &mut Duration) -> Next {
        if let TokenError::PinRefused(reason) = error {
            tracing::error!(reason, "the PKCS#11 token refused the PIN: not tried again until asked");
            self.shared.set_state(TokenState::PinRefused { since: SystemTime::now(), reason });
            return Next::WhenAsked;
        }
        let reason = match error {
            TokenError::Lost { reason, .. } => reason,
            other => other.to_string(),
        };
        let since = match self.shared.state() {
            TokenState::Lost { since, .. } => since,
            _ => SystemTime::now(),
        };
        tracing::debug!(reason, "the PKCS#11 token is not back");
        self.shared.set_state(TokenState::Lost { since, reason });
        Next::Again(longer(pause))
    }

    /// Starts a child and has it log in.
    fn open(&mut self) -> Result<(Arc<Link>, TokenInfo), TokenError> {
        let module = self.launcher.module_path()?;
        let pin = match (&self.launcher.pin, &self.launcher.uri.pin_source) {
            (Some(Pin::File(file)), _) | (None, Some(file)) => PinSource::File(file.clone()),
            (Some(Pin::Secret(pin)), _) => PinSource::Text(pin.duplicate()),
            (None, None) => return Err(TokenError::Pin(PinError::Missing)),
        };
        self.children += 1;
        let (number, told) = (self.children, self.told.clone());
        let launch = Launch { program: &self.launcher.program, args: &self.launcher.args, env: &self.launcher.env };
        let link = Link::start(&launch, move || {
            let _supervisor_is_gone = told.send(Event::Ended(number));
        })
        .map_err(|error| TokenError::Start(error.to_string()))?;

        let token = TokenMatch::from(&self.launcher.uri);
        // Before the PIN is said: who speaks another version might take it for something else.
        let opened = greet(&link).and_then(|()| {
            match link.ask(&Request::Open { module: module.clone(), token, pin }, OPEN_TIME_MAX).map_err(lost)? {
                Answer::Opened(token) => Ok(token),
                Answer::Fault(fault) => Err(fault.into_error(&module, SystemTime::now())),
                _ => Err(lost("an answer to another question".into())),
            }
        });
        if opened.is_err() {
            link.end("not logged in");
            link.reap();
        }
        opened.map(|token| (link, token))
    }

    /// Waits until the child is gone or to be ended; asks it now and then whether its token is still there.
    fn look_after(&mut self, link: &Link) -> Ended {
        loop {
            match self.events.recv_timeout(CHECK_EVERY) {
                Ok(Event::Ended(number)) if number == self.children => return Ended::Lost,
                Ok(Event::Ended(_)) => {}
                Ok(Event::Retry(pin)) => self.take_pin(pin),
                Ok(Event::Close) | Err(RecvTimeoutError::Disconnected) => return Ended::Closed,
                Err(RecvTimeoutError::Timeout) => {
                    if let Ok(Answer::Fault(Fault::Gone(reason))) = link.ask(&Request::Check, CHECK_TIME_MAX) {
                        link.end(&reason);
                    }
                }
            }
        }
    }

    /// Lets the child close its sessions.
    fn say_goodbye(&self, link: &Link) {
        link.hang_up();
        let until = Instant::now() + GOODBYE_TIME_MAX;
        loop {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Event::Ended(number)) if number == self.children => return,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }

    /// Waits before the next child. Whether it is over.
    fn rest(&mut self, next: Next) -> bool {
        let until = match next {
            Next::End => return true,
            Next::Again(pause) => Some(Instant::now() + pause),
            Next::WhenAsked => None,
        };
        loop {
            let event = match until {
                Some(until) => self.events.recv_timeout(until.saturating_duration_since(Instant::now())),
                None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(Event::Retry(pin)) => {
                    self.take_pin(pin);
                    return false;
                }
                Ok(Event::Ended(_)) => {}
                Ok(Event::Close) | Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
    }

    fn take_pin(&mut self, pin: Option<Pin>) {
        if pin.is_some() {
            self.launcher.pin = pin;
        }
    }
}

/// Makes sure that the child speaks our version.
fn greet(link: &Link) -> Result<(), TokenError> {
    match link.ask(&Request::Hello { version: VERSION }, OPEN_TIME_MAX).map_err(lost)? {
        Answer::Hello { version: VERSION } => Ok(()),
        Answer::Hello { version } => Err(TokenError::OtherVersion { ours: VERSION, theirs: version }),
        _ => Err(lost("an answer to another question".into())),
    }
}

fn lost(reason: String) -> TokenError {
    TokenError::Lost { since: SystemTime::now(), reason }
}

enum Ended {
    Lost,
    Closed,
}

/// This pause, and next time one twice as long.
fn longer(pause: &mut Duration) -> Duration {
    let now = *pause;
    *pause = (now * 2).min(PAUSE_MAX);
    now
}

/// The first pause before another child.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest one.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A child that worked so long is replaced at once.
const STABLE: Duration = Duration::from_secs(10);
/// How often an idle token is looked at.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// How long that may take.
const CHECK_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a child may take to close its sessions.
const GOODBYE_TIME_MAX: Duration = Duration::from_secs(3);
/// How long loading the module and logging in may take: hardware wakes up slowly.
const OPEN_TIME_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_of_another_version_is_told_no_more() {
        // It reads what it is asked, and answers that it speaks version 9.
        let script = r"head -c 1 >&2; printf '\0\0\0\0\0\0\0\1\377\0\0\0\11'; exec cat >&2";
        let launch = Launch { program: "/bin/sh".as_ref(), args: &["-c".into(), script.into()], env: &[] };
        let link = Link::start(&launch, || ()).unwrap();
        let refused = greet(&link);
        assert_eq!(refused, Err(TokenError::OtherVersion { ours: VERSION, theirs: 9 }));
        assert!(refused.is_err_and(|error| error.to_string().ends_with("restart this one")));
        link.end("enough");
        link.reap();
    }
}
