//! One child: started, asked, and ended. Requests of many threads go out as they come and are told apart by their numbers.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::protocol::{Answer, Body, Request};
use crate::records::{Records, Room};

/// How to start a child.
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a Path,
    pub(crate) args: &'a [OsString],
    pub(crate) env: &'a [(OsString, OsString)],
}

/// A child process and the stream to it.
pub(crate) struct Link {
    stream: Records,
    waiting: Mutex<Waiting>,
    process: Mutex<Child>,
    process_id: u32,
    next: AtomicU64,
}

enum Waiting {
    /// Who waits for which answer.
    Open(HashMap<u64, SyncSender<Answer>>),
    /// Why nobody does any more.
    Ended(String),
}

impl Link {
    /// Starts a child. `on_end` is called once, from the thread that reads, when the child is gone.
    pub(crate) fn start(launch: &Launch<'_>, on_end: impl FnOnce() + Send + 'static) -> io::Result<Arc<Self>> {
        let (stream, theirs) = Records::pair(WRITE_TIME_MAX)?;
        let process = Command::new(launch.program)
            .args(launch.args)
            .envs(launch.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::from(theirs.try_clone()?))
            .stdout(Stdio::from(theirs))
            .spawn()?;
        let link = Arc::new(Link {
            stream,
            waiting: Mutex::new(Waiting::Open(HashMap::new())),
            process_id: process.id(),
            process: Mutex::new(process),
            next: AtomicU64::new(1),
        });
        let reader = Arc::clone(&link);
        std::thread::Builder::new().name("pkcs11-answers".into()).spawn(move || {
            reader.read_answers();
            on_end();
        })?;
        Ok(link)
    }

    /// Asks, and waits for the answer. A child that does not answer in time is ended: its module hangs.
    ///
    /// # Errors
    /// Why the child is gone.
    pub(crate) fn ask(&self, request: &Request, time_max: Duration) -> Result<Answer, String> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let answer = self.expect(number)?;
        self.send(&request.encode(number))?;
        match answer.recv_timeout(time_max) {
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Disconnected) => Err(self.reason()),
            Err(RecvTimeoutError::Timeout) => {
                self.end(&format!("no answer within {} s", time_max.as_secs()));
                Err(self.reason())
            }
        }
    }

    /// Ends the stream, for this reason unless there was one before. Everybody who waits for an answer is told.
    pub(crate) fn end(&self, reason: &str) {
        let mut waiting = lock(&self.waiting);
        if let Waiting::Open(_) = *waiting {
            *waiting = Waiting::Ended(reason.to_owned());
            drop(waiting);
            // Whatever else has the stream open: nobody waits for it any longer.
            self.stream.shut();
        }
    }

    /// Tells the child that nothing more will come: it closes its sessions and ends.
    pub(crate) fn hang_up(&self) {
        self.stream.shut_writing();
    }

    /// Ends the child, and waits until it is gone: a module that hangs knows nothing of the end of a stream.
    pub(crate) fn reap(&self) {
        let mut process = lock(&self.process);
        // It may be gone already.
        let _ = process.kill();
        if let Err(error) = process.wait() {
            tracing::warn!(%error, "cannot wait for the process of the PKCS#11 module");
        }
    }

    /// The child's process id.
    pub(crate) fn process_id(&self) -> u32 {
        self.process_id
    }

    /// Why the child was ended.
    pub(crate) fn reason(&self) -> String {
        match &*lock(&self.waiting) {
            Waiting::Ended(reason) => reason.clone(),
            Waiting::Open(_) => String::new(),
        }
    }

    fn expect(&self, number: u64) -> Result<Receiver<Answer>, String> {
        let (sender, receiver) = sync_channel(1);
        match &mut *lock(&self.waiting) {
            Waiting::Open(open) => open.insert(number, sender),
            Waiting::Ended(reason) => return Err(reason.clone()),
        };
        Ok(receiver)
    }

    fn send(&self, body: &Body) -> Result<(), String> {
        self.stream.send(body).map_err(|error| {
            self.end(&format!("cannot reach the process of the module: {error}"));
            self.reason()
        })
    }

    fn read_answers(&self) {
        let mut room = Room::new();
        let reason = loop {
            let decoded = match self.stream.receive(&mut room, Answer::decode) {
                Ok(Some(decoded)) => decoded,
                Ok(None) => break "the process of the module ended".to_owned(),
                Err(error) => break format!("cannot hear the process of the module: {error}"),
            };
            let Ok((number, answer)) = decoded else {
                break "the process of the module answered nonsense".to_owned();
            };
            let waiting = match &mut *lock(&self.waiting) {
                Waiting::Open(open) => open.remove(&number),
                Waiting::Ended(_) => return,
            };
            if let Some(waiting) = waiting {
                // Somebody who waits no longer needs no answer.
                let _ = waiting.try_send(answer);
            }
        };
        self.end(&reason);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long one write may wait for a child that reads nothing.
const WRITE_TIME_MAX: Duration = Duration::from_secs(10);
