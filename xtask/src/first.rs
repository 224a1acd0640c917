//! `cargo xtask first`: which functions managers run, as a script for the linker that places them side by side (`crates/cli/first.ld`; what it
//! is good for: `crates/cli/build.rs`).
//!
//! - A release build tells by its map which function is where, and valgrind which instructions were run.
//! - First stands what was run while a manager started, founded a cluster and idled; then what others add that nodes join and whose root is
//!   rotated.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::step::cargo;
use crate::workspace;

const SCRIPT: &str = "crates/cli/first.ld";
/// Nodes that join and are rotated.
const NODES: &str = "12";
/// How long the manager idles: some heartbeats of its own node.
const IDLE: Duration = Duration::from_secs(12);
const ADDRESS: &str = "127.0.0.97:2377";
/// How long it may take to start; valgrind is some fifty times slower.
const START_MAX: Duration = Duration::from_secs(60);
/// What other processors run in place of what valgrind shows, which knows neither AVX-512 nor ADX.
const OTHER_PROCESSORS: [&str; 5] = [
    "aesni-gcm-avx512.o",
    "curve25519_x25519.o",
    "curve25519_x25519base.o",
    "mlkem_rej_uniform_avx2_asm.o",
    "aes-x86_64.o",
];

/// Files of objects, as the linker's patterns, with the patterns of their sections.
type Sections = BTreeMap<String, BTreeSet<String>>;

/// Writes the script. If that fails it is what it was.
pub(crate) fn run() -> anyhow::Result<()> {
    let path = workspace::root()?.join(SCRIPT);
    let before = fs::read(&path)?;
    let made = make(&path);
    if made.is_err() {
        fs::write(&path, before)?;
    }
    made
}

fn make(path: &Path) -> anyhow::Result<()> {
    let target = PathBuf::from(workspace::metadata()?.target_directory);
    let folder = target.join("first");
    fs::create_dir_all(&folder)?;
    let map = folder.join("map");
    // Valgrind knows a program's code by its section `.text` alone.
    fs::write(path, script(&Sections::new(), &Sections::new()))?;
    let link = format!("link-arg=-Wl,-Map={}", map.display());
    cargo(&["rustc", "--release", "--locked", "-p", "swarmpki-cli", "--bin", "swarmpki", "--", "-C", &link])?;
    let map = fs::read_to_string(map)?;
    let program = target.join("release/swarmpki");
    let ran = |name: &str, work: &Work<'_>| {
        let trace = folder.join(name);
        under_valgrind(&program, &trace, work)?;
        let ran = addresses(&fs::read_to_string(&trace)?, "/release/swarmpki");
        ensure!(!ran.is_empty(), "valgrind told of no instruction of the program");
        anyhow::Ok(sections_of(&map, &ran))
    };
    let mut idle = ran("idle", &|_| {
        sleep(IDLE);
        Ok(())
    })?;
    for object in OTHER_PROCESSORS {
        idle.entry(format!("*-{object}")).or_default().insert(".text".to_owned());
    }
    let mut busy = ran("busy", &|host| serve(&program, host))?;
    for (file, names) in &mut busy {
        names.retain(|name| !idle.get(file).is_some_and(|idle| idle.contains(name)));
    }
    busy.retain(|_, names| !names.is_empty());
    let count = |sections: &Sections| sections.values().map(BTreeSet::len).sum::<usize>();
    fs::write(path, script(&idle, &busy))?;
    println!("{SCRIPT}: {} patterns, and {} more", count(&idle), count(&busy));
    Ok(())
}

/// What is done with a manager, whose host is told.
type Work<'a> = dyn Fn(&str) -> anyhow::Result<()> + 'a;

/// Lets nodes join, stay, and follow a rotation.
fn serve(program: &Path, host: &str) -> anyhow::Result<()> {
    let ours = |args: &[&str]| {
        let mut command = Command::new(program);
        command.args(["-H", host]).args(args).stderr(Stdio::null());
        command
    };
    let token = || anyhow::Ok(String::from_utf8(ours(&["join-token", "-q", "worker"]).output()?.stdout)?);
    let rotate = format!("{} -H {host} ca rotate --detach", program.display());
    for bench in [
        // First: nodes that went would hold a rotation up.
        &["bench", "rotate", ADDRESS, "--nodes", NODES, "--settle", "2", "--rest", "2", "--start", &rotate][..],
        &["bench", "fleet", ADDRESS, "--nodes", NODES, "--hold", "6"],
    ] {
        let status = ours(bench).env("SWARMPKI_TOKEN", token()?.trim()).stdout(Stdio::null()).status()?;
        ensure!(status.success(), "{bench:?} failed under valgrind");
    }
    Ok(())
}

/// Starts a manager under valgrind, founds a cluster, and ends it after some work.
fn under_valgrind(program: &Path, trace: &Path, work: &Work<'_>) -> anyhow::Result<()> {
    let folder = trace.with_file_name("state");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let host = format!("unix://{}", folder.join("s").display());
    let daemon = Command::new("valgrind")
        .args(["--tool=callgrind", "--dump-instr=yes", "--demangle=no"])
        .arg(format!("--callgrind-out-file={}", trace.display()))
        .arg(program)
        .args(["-H", &host, "daemon", "--state-dir"])
        .arg(folder.join("d"))
        .stderr(Stdio::null())
        .spawn();
    let mut daemon = daemon.context("valgrind (apt-get install valgrind)")?;
    let outcome = found(program, &host, &mut daemon).and_then(|()| work(&host));
    let ended = Command::new("kill").arg(daemon.id().to_string()).status();
    daemon.wait()?;
    ensure!(ended?.success(), "the manager could not be ended");
    outcome
}

fn found(program: &Path, host: &str, daemon: &mut Child) -> anyhow::Result<()> {
    let start = Instant::now();
    let init = ["-H", host, "init", "--advertise-addr", ADDRESS, "--listen-addr", ADDRESS];
    while !Command::new(program).args(init).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success() {
        if start.elapsed() > START_MAX || daemon.try_wait()?.is_some() {
            bail!("the manager under valgrind founds no cluster");
        }
        sleep(Duration::from_millis(300));
    }
    // What any manager is asked now and then.
    for asked in [&["info"][..], &["join-token", "worker"], &["node", "ls"]] {
        let asked = Command::new(program).args(["-H", host]).args(asked).stdout(Stdio::null()).status()?;
        ensure!(asked.success(), "the manager under valgrind does not answer");
    }
    Ok(())
}

/// The addresses of `object`'s instructions in a trace of callgrind: those that begin its cost lines (Callgrind Format Specification, 3.2).
fn addresses(trace: &str, object: &str) -> BTreeSet<u64> {
    let mut names: BTreeMap<&str, bool> = BTreeMap::new();
    let (mut ours, mut at, mut found) = (false, 0_u64, BTreeSet::new());
    for line in trace.lines() {
        if let Some(name) = line.strip_prefix("ob=") {
            let (number, text) = name.split_once(' ').unwrap_or((name, ""));
            ours = *names.entry(number).or_insert_with(|| text.ends_with(object));
            continue;
        }
        // A callee's object has a number from the same list.
        if let Some((number, text)) = line.strip_prefix("cob=").and_then(|name| name.split_once(' ')) {
            names.insert(number, text.ends_with(object));
            continue;
        }
        let first = line.split(' ').next().unwrap_or_default();
        at = match first.split_at_checked(1) {
            Some(("+", step)) => step.parse().map_or(at, |step: u64| at.wrapping_add(step)),
            Some(("-", step)) => step.parse().map_or(at, |step: u64| at.wrapping_sub(step)),
            Some(("*", "")) => at,
            _ => match first.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
                Some(address) => address,
                None => continue,
            },
        };
        if ours {
            found.insert(at);
        }
    }
    found
}

/// The sections of code in a map of lld that hold one of the addresses.
fn sections_of(map: &str, ran: &BTreeSet<u64>) -> Sections {
    let mut sections = Sections::new();
    for line in map.lines() {
        let mut words = line.split_whitespace();
        let number = |word: Option<&str>| word.and_then(|word| u64::from_str_radix(word, 16).ok());
        let (Some(address), _, Some(size)) = (number(words.next()), words.next(), number(words.next())) else {
            continue;
        };
        let Some((file, section)) = line.split_once(":(.text").filter(|_| size > 0) else { continue };
        if ran.range(address..address.saturating_add(size)).next().is_none() {
            continue;
        }
        // Behind address, load address, size and alignment.
        let file = file.trim_start().splitn(5, char::is_whitespace).last().unwrap_or_default();
        let file = file.rsplit('/').next().unwrap_or(file);
        let section = section.trim_end_matches(')');
        sections.entry(file_pattern(file, section)).or_default().insert(format!(".text{}", section_pattern(section)));
    }
    sections
}

/// `libtokio-0123456789abcdef.rlib(…)` is whatever build of it; an object whose code is in one section is known by its own name.
fn file_pattern(file: &str, section: &str) -> String {
    let member = file.split_once('(').map(|(_, member)| member.trim_end_matches(')'));
    match (section, member) {
        ("", Some(member)) => format!("*-{}", member.split_once('-').map_or(member, |(_, name)| name)),
        _ => format!("*/{}*", file.split_inclusive('-').next().unwrap_or(file)),
    }
}

/// A section's name without what changes from build to build: hashes of crates and instances, and the version in C symbols.
fn section_pattern(section: &str) -> String {
    let is_hash = |text: &str| text.len() == 20 && text.starts_with("17h") && text.ends_with('E');
    let name = match section.len().checked_sub(20).and_then(|at| section.split_at_checked(at)) {
        Some((name, hash)) if is_hash(hash) => format!("{name}17h*E"),
        _ => section.to_owned(),
    };
    // Symbols of the newer kind name their crates with a hash: Cs, up to a dozen letters and digits, and an underscore.
    let mut parts = name.split("Cs");
    let mut pattern = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let hash = part.find('_').filter(|end| (8..=14).contains(end));
        let rest =
            hash.and_then(|end| part.get(end..)).filter(|_| section.starts_with("._R") || section.contains("._R"));
        pattern.push_str("Cs");
        pattern.push_str(&rest.map_or_else(|| part.to_owned(), |rest| format!("*{rest}")));
    }
    match pattern.split_once(".aws_lc_") {
        Some((before, versioned)) => {
            format!("{before}.aws_lc_*_{}", versioned.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_'))
        }
        None => pattern,
    }
}

fn script(first: &Sections, second: &Sections) -> String {
    let mut text = "/* Written by `cargo xtask first`; do not edit. */\nSECTIONS {\n".to_owned();
    for (name, sections) in [("first", first), ("second", second)] {
        text.push_str(&format!("  .text.{name} : {{\n"));
        for (file, names) in sections {
            text.push_str(&format!("    {file}(\n"));
            for name in names {
                text.push_str(&format!("{name}\n"));
            }
            text.push_str("    )\n");
        }
        text.push_str("  }\n");
    }
    text.push_str("}\nINSERT BEFORE .text;\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_from_build_to_build_is_left_open() {
        let pattern = section_pattern;
        assert_eq!(pattern("._ZN5tokio3run17h0123456789abcdefE"), "._ZN5tokio3run17h*E");
        assert_eq!(pattern(".unlikely._ZN5tokio3run17h0123456789abcdefE"), ".unlikely._ZN5tokio3run17h*E");
        assert_eq!(pattern("._RNvCsjrHSEGnQ3l9_7___rustc12___rust_alloc"), "._RNvCs*_7___rustc12___rust_alloc");
        assert_eq!(pattern(".aws_lc_0_47_0_HMAC_Init_ex"), ".aws_lc_*_HMAC_Init_ex");
        assert_eq!(pattern("._ZN9aws_lc_rs4rand4fill17h0123456789abcdefE"), "._ZN9aws_lc_rs4rand4fill17h*E");
        assert_eq!(pattern(""), "");
        assert_eq!(
            file_pattern("libtokio-639c0130768a4af4.rlib(tokio-639c.tokio.5150-cgu.0.rcgu.o)", ".x"),
            "*/libtokio-*"
        );
        assert_eq!(file_pattern("libaws_lc_sys-fcc1.rlib(6ccad9807b8-sha256-x86_64.o)", ""), "*-sha256-x86_64.o");
        assert_eq!(file_pattern("swarmpki-4005.swarmpki.50db-cgu.0.rcgu.o", ".x"), "*/swarmpki-*");
    }

    #[test]
    fn addresses_are_counted_on_from_line_to_line() {
        let trace = "ob=(1) /lib/ld.so\nfn=(1) a\n0x10 1 6\nob=(2) /x/release/swarmpki\nfn=(2) b\n0x20 1 2\n+3 * 2\ncob=(1)\ncalls=1 0x10 1\n+4 * 9\n* +1 1\nob=(1)\n+1 1 1\n";
        assert_eq!(addresses(trace, "/release/swarmpki"), BTreeSet::from([0x20, 0x23, 0x27]));
    }
}
