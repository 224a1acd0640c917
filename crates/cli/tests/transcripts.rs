//! Runs the transcripts beside this file: the real program against a daemon played by a few canned answers.
//!
//! A transcript is a text. Lines starting with `#` are comments. `@ METHOD PATH STATUS [BODY]` sets the answer to a
//! request, `@ clear` forgets all answers; without any answer set, no daemon is there. `@ daemon` starts a real one.
//! `@ file NAME TEXT` writes a file in `[DIR]`; `@ env NAME=VALUE`, `@ stdin TEXT` and `@ interrupt` are for the next command
//! alone: the last sends it SIGINT after its first line.
//! `$ swarmpki …` runs the program; below it stand what it printed and how it ended:
//!
//! ```text
//! $ swarmpki join-token -q worker
//! -- stdout --
//! SWMTKN-1-…
//! -- requests --
//! HEAD /_ping
//! GET /v1.50/swarm
//! -- exit code: 0 --
//! ```
//!
//! `[SOCK]` stands for the daemon's socket, `[DIR]` for an empty directory of the transcript's own,
//! `[PORT]` for a free port on loopback, `[VERSION]` and `[OS/ARCH]` for the program's. A line
//! `[...]` stands for any number of lines. `UPDATE_TRANSCRIPTS=1` writes down what the program does now: read the diff.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[derive(Default)]
struct Canned {
    answers: BTreeMap<String, (u16, String)>,
    seen: Vec<String>,
}

/// What the next command gets besides its arguments.
#[derive(Default)]
struct Given {
    env: Vec<(String, String)>,
    stdin: String,
    interrupt: bool,
}

#[test]
fn transcripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no transcripts in {}", folder.display());
    let failed: Vec<String> = files.iter().filter_map(|file| run(file).err()).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Runs one file; the error shows what differs.
fn run(file: &Path) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let sock = dir.path().join("d.sock");
    let canned = Arc::new(Mutex::new(Canned::default()));
    let listener = UnixListener::bind(&sock).unwrap();
    let shared = Arc::clone(&canned);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || serve(stream.unwrap(), &shared));
        }
    });

    let expected = fs::read_to_string(file).unwrap();
    let mut actual = String::new();
    let mut lines = expected.lines().peekable();
    let mut live = None;
    let mut given = Given::default();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    while let Some(line) = lines.next() {
        actual.push_str(line);
        actual.push('\n');
        if line == "@ daemon" {
            live = Some(Live::start(dir.path()));
        } else if let Some((name, text)) = line.strip_prefix("@ file ").and_then(|rest| rest.split_once(' ')) {
            fs::write(dir.path().join(name), format!("{text}\n")).unwrap();
        } else if let Some((name, value)) = line.strip_prefix("@ env ").and_then(|rest| rest.split_once('=')) {
            given.env.push((name.to_owned(), value.to_owned()));
        } else if let Some(text) = line.strip_prefix("@ stdin ") {
            given.stdin = format!("{text}\n");
        } else if line == "@ interrupt" {
            given.interrupt = true;
        } else if let Some(rule) = line.strip_prefix("@ ") {
            set(&canned, rule);
        } else if let Some(command) = line.strip_prefix("$ swarmpki") {
            let there = !canned.lock().unwrap().answers.is_empty();
            let mut below = Vec::new();
            while let Some(line) = lines.peek() {
                if line.starts_with("$ ")
                    || line.starts_with("@ ")
                    || line.starts_with("# ")
                    || below.last().is_some_and(|last: &String| last.starts_with("-- exit code"))
                {
                    break;
                }
                below.push(lines.next().unwrap().to_owned());
            }
            let host = match (&live, there) {
                (Some(live), _) => live.sock.clone(),
                (None, true) => sock.clone(),
                (None, false) => dir.path().join("none.sock"),
            };
            let printed =
                execute(&command.replace("[PORT]", &port), &host, dir.path(), &canned, &std::mem::take(&mut given));
            let printed = printed.replace(&port, "[PORT]");
            let printed = if live.is_some() { without_chance(&printed) } else { printed };
            let below = below.join("\n");
            actual.push_str(if matches(&below, printed.trim_end()) { &below } else { printed.trim_end() });
            actual.push('\n');
        }
    }
    if actual == expected {
        return Ok(());
    }
    if std::env::var_os("UPDATE_TRANSCRIPTS").is_some() {
        fs::write(file, actual).unwrap();
        return Ok(());
    }
    let differs = expected.lines().zip(actual.lines()).position(|(a, b)| a != b).unwrap_or(0);
    let around = |text: &str| {
        text.lines().skip(differs.saturating_sub(4)).take(16).map(|line| format!("    {line}\n")).collect::<String>()
    };
    Err(format!(
        "{}:{}: the program now does\n{}  and not\n{}",
        file.display(),
        differs + 1,
        around(&actual),
        around(&expected)
    ))
}

/// A real daemon; it is killed when the transcript ends.
struct Live {
    sock: PathBuf,
    child: Child,
}

impl Live {
    /// Starts it and waits until it tells its service manager, which is us, that it answers.
    fn start(dir: &Path) -> Self {
        let (sock, notify) = (dir.join("live.sock"), dir.join("notify"));
        let told = UnixDatagram::bind(&notify).unwrap();
        told.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_swarmpki"))
            .args(["daemon", "--hostname", "here", "--log-level", "warn", "--state-dir"])
            .arg(dir.join("state"))
            .args(["-H", &format!("unix://{}", sock.display())])
            .env("NOTIFY_SOCKET", &notify)
            .spawn()
            .unwrap();
        let live = Self { sock, child };
        let mut word = [0; 16];
        let length = told.recv(&mut word).expect("the daemon says that it is ready");
        assert_eq!(&word[..length], b"READY=1");
        live
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ids and tokens by their names: they are drawn anew each time.
fn without_chance(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_word) {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let word = &rest[..end];
        plain.push_str(match word.len() {
            _ if word.starts_with("SWMTKN-1-") => "[TOKEN]",
            25 if word.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase()) => "[ID]",
            _ => word,
        });
        rest = &rest[end..];
    }
    plain + rest
}

fn set(canned: &Mutex<Canned>, rule: &str) {
    let mut canned = canned.lock().unwrap();
    if rule == "clear" {
        canned.answers.clear();
        return;
    }
    let mut words = rule.splitn(4, ' ');
    let request = format!("{} {}", words.next().unwrap(), words.next().expect("@ METHOD PATH STATUS [BODY]"));
    let status = words.next().expect("a status").parse().expect("a number");
    canned.answers.insert(request, (status, words.next().unwrap_or_default().to_owned()));
}

fn execute(command: &str, sock: &Path, dir: &Path, canned: &Mutex<Canned>, given: &Given) -> String {
    canned.lock().unwrap().seen.clear();
    let mut child = Command::new(env!("CARGO_BIN_EXE_swarmpki"))
        .args(words(&command.replace("[DIR]", dir.to_str().unwrap())))
        .current_dir(dir)
        .env_clear()
        .env("SWARMPKI_HOST", format!("unix://{}", sock.display()))
        .env("HOME", dir)
        .envs(given.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that does not read may have ended already.
    let _ = child.stdin.take().unwrap().write_all(given.stdin.as_bytes());
    let mut begin = Vec::new();
    if given.interrupt {
        BufReader::with_capacity(1, child.stdout.as_mut().unwrap()).read_until(b'\n', &mut begin).unwrap();
        kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    }
    let mut out = child.wait_with_output().unwrap();
    out.stdout.splice(0..0, begin);
    let mut text = String::new();
    let hide = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes)
            .replace(sock.to_str().unwrap(), "[SOCK]")
            .replace(dir.to_str().unwrap(), "[DIR]")
            .replace(env!("CARGO_PKG_VERSION"), "[VERSION]")
            .replace("linux/amd64", "[OS/ARCH]")
            .replace("linux/arm64", "[OS/ARCH]")
    };
    for (name, bytes) in [("stdout", &out.stdout), ("stderr", &out.stderr)] {
        let printed = hide(bytes);
        if !printed.is_empty() {
            text.push_str(&format!("-- {name} --\n{}\n", printed.strip_suffix('\n').unwrap_or(&printed)));
        }
    }
    let seen = &canned.lock().unwrap().seen;
    if !seen.is_empty() {
        text.push_str(&format!("-- requests --\n{}\n", seen.join("\n")));
    }
    text.push_str(&format!(
        "-- exit code: {} --\n",
        out.status.code().map_or("signal".into(), |code| code.to_string())
    ));
    text
}

/// Splits a command line; single quotes keep words together.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    for c in line.chars() {
        match c {
            '\'' => (quoted, begun) = (!quoted, true),
            ' ' if !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// Whether the text is as expected, where `[...]` stands for any number of lines.
fn matches(expected: &str, actual: &str) -> bool {
    let parts: Vec<&str> = expected.split("[...]\n").collect();
    let [first, middle @ .., last] = parts.as_slice() else { return expected == actual };
    let (Some(rest), true) = (actual.strip_prefix(first), actual.len() >= first.len() + last.len()) else {
        return false;
    };
    let Some(mut rest) = rest.strip_suffix(last) else { return false };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

fn serve(stream: UnixStream, canned: &Mutex<Canned>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut head = String::new();
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
        let request = head.rsplit_once(' ').unwrap().0.to_owned();
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let (status, answer) = {
            let mut canned = canned.lock().unwrap();
            let body = String::from_utf8_lossy(&body);
            canned.seen.push(format!("{request} {body}").trim().to_owned());
            canned.answers.get(&request).cloned().unwrap_or((404, r#"{"message":"page not found"}"#.into()))
        };
        let kind = if answer.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let version = if request.ends_with("/_ping") { "Api-Version: 1.56\r\n" } else { "" };
        let sent = if request.starts_with("HEAD") { "" } else { answer.as_str() };
        write!(stream, "HTTP/1.1 {status} X\r\n{version}{kind}Content-Length: {}\r\n\r\n{sent}", sent.len()).unwrap();
    }
}

#[test]
fn gaps_match_any_lines() {
    for (expected, actual, ok) in [
        ("a\nb", "a\nb", true),
        ("a\nb", "a\nc", false),
        ("a\n[...]\nd", "a\nb\nc\nd", true),
        ("a\n[...]\nd", "a\nd", true),
        ("a\n[...]\nd", "a\nb\nc", false),
    ] {
        assert_eq!(matches(expected, actual), ok, "{expected:?} {actual:?}");
    }
}

#[test]
fn commands_split_into_words() {
    assert_eq!(words(" a  'b c' ''"), ["a", "b c", ""]);
}
