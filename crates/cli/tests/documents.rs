//! The commands in the README and in the pages for operators exist: each verb answers `--help`, which names each flag.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn commands_in_documents_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![root.join("README.md"), root.join("packaging/README.md")];
    pages.extend(fs::read_dir(root.join("docs/operations")).unwrap().map(|entry| entry.unwrap().path()));
    let mut wrong = Vec::new();
    let mut seen = 0;
    for page in &pages {
        for command in commands(&fs::read_to_string(page).unwrap()) {
            seen += 1;
            wrong.extend(check(&command).err().map(|error| format!("{}: {command}: {error}", page.display())));
        }
    }
    assert!(seen > 20, "only {seen} commands found in {} pages", pages.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn links_in_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages: Vec<PathBuf> =
        ["README.md", "ARCHITECTURE.md", "packaging/README.md"].map(|page| root.join(page)).into();
    pages.extend(fs::read_dir(root.join("docs/operations")).unwrap().map(|entry| entry.unwrap().path()));
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("http") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(file.exists(), "{}: no {target}", page.display());
            let is_there =
                || fs::read_to_string(&file).unwrap().lines().any(|line| anchor_of(line) == Some(anchor.into()));
            assert!(anchor.is_empty() || is_there(), "{}: no {target}", page.display());
        }
    }
}

/// What a link to a heading says after the `#`.
fn anchor_of(line: &str) -> Option<String> {
    let heading = line.strip_prefix('#')?.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    Some(kept.map(|c| if c == ' ' { '-' } else { c }).collect())
}

/// The lines in fenced blocks that run our program, from the verb on.
fn commands(page: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut fenced = false;
    let mut pending = String::new();
    for line in page.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if !fenced {
            continue;
        }
        pending.push_str(line.trim().trim_end_matches('\\'));
        if line.ends_with('\\') {
            continue;
        }
        for part in std::mem::take(&mut pending).split("&&") {
            let part = part.trim().trim_start_matches("$ ").trim_start_matches("sudo ");
            let ours = part.strip_prefix("swarmpki ").or_else(|| part.strip_prefix("cargo run --release -- "));
            if let Some(rest) = ours {
                commands.push(rest.split(['#', '>', '|']).next().unwrap().trim().to_owned());
            }
        }
    }
    commands
}

fn check(command: &str) -> Result<(), String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let verb = |word: &&str| !word.starts_with('-');
    let nested = ["ca", "cert", "log", "node", "token"].contains(&words[0]) && words.get(1).is_some_and(verb);
    let serves = words.starts_with(&["ca", "serve"]) && words.get(2).is_some_and(|word| !word.starts_with('-'));
    let verbs = if serves { 3 } else { 1 + usize::from(nested) };
    let out = Command::new(env!("CARGO_BIN_EXE_swarmpki")).args(&words[..verbs]).arg("--help").output().unwrap();
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned());
    }
    let help = String::from_utf8(out.stdout).unwrap();
    for flag in words.iter().filter(|word| word.starts_with('-')) {
        let flag = flag.split('=').next().unwrap();
        let named =
            help.split_whitespace().any(|word| word.trim_end_matches(',').split(['=', '[']).next() == Some(flag));
        if !named {
            return Err(format!("its help does not name {flag}"));
        }
    }
    Ok(())
}

#[test]
fn finds_commands() {
    let page = "swarmpki not this\n```sh\n$ sudo swarmpki ca  # x\nswarmpki leave && swarmpki info\nswarmpki daemon -H x \\\n  --tls\n```\n";
    assert_eq!(commands(page), ["ca", "leave", "info", "daemon -H x --tls"]);
    assert!(check("nosuch").is_err());
    assert!(check("leave --nosuch").is_err());
}
