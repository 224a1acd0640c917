//! Which items of the conformance list have a test: read off the names of the tests, written to `conformance/COVERAGE.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

use crate::workspace;

/// An item: the list it is on (`c` the numbered ones, `o`, `p`) and its number.
type Item = (char, u16);

/// `conformance/items.txt`, read.
#[derive(Default)]
struct Items {
    sections: Vec<Section>,
    later: BTreeMap<Item, String>,
}

struct Section {
    letter: String,
    items: BTreeSet<Item>,
    about: String,
}

/// Writes the table, or with `check` only compares it with what is there.
///
/// # Errors
/// If `items.txt` cannot be read, if a test names an item that does not exist, or, with `check`, if the table is not in step.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let root = workspace::root()?;
    let items = parse(&fs::read_to_string(root.join("conformance/items.txt"))?)?;
    let mut tests = BTreeMap::new();
    for folder in ["crates", "conformance", "xtask"] {
        collect(&root, &root.join(folder), &mut tests)?;
    }
    let known: BTreeSet<Item> = items.sections.iter().flat_map(|section| section.items.iter().copied()).collect();
    let unknown: Vec<_> = tests
        .iter()
        .filter(|(item, _)| !known.contains(item))
        .map(|(item, files)| format!("{} in {files:?}", name(*item)))
        .collect();
    if !unknown.is_empty() {
        bail!("tests named after items that are not on the list: {}", unknown.join(", "));
    }
    let table = table(&items, &tests);
    let file = root.join("conformance/COVERAGE.md");
    if !check {
        return fs::write(&file, table).with_context(|| format!("write {}", file.display()));
    }
    if fs::read_to_string(&file).ok().as_deref() != Some(&table) {
        bail!("conformance/COVERAGE.md is not in step with the tests; run `cargo xtask coverage`");
    }
    Ok(())
}

fn parse(text: &str) -> anyhow::Result<Items> {
    let mut items = Items::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.split(' ').peekable();
        let kind = words.next().unwrap_or_default();
        let letter = if kind == "section" { words.next().unwrap_or_default() } else { "" };
        let mut named = BTreeSet::new();
        while let Some(range) = words.peek().and_then(|word| parse_range(word)) {
            named.extend(range);
            words.next();
        }
        let rest = words.collect::<Vec<_>>().join(" ");
        match kind {
            "section" if !named.is_empty() => {
                items.sections.push(Section { letter: letter.to_owned(), items: named, about: rest })
            }
            "later" if !named.is_empty() => items.later.extend(named.into_iter().map(|item| (item, rest.clone()))),
            _ => bail!("items.txt: {line:?}"),
        }
    }
    Ok(items)
}

/// `17`, `1-46`, `o1-o12`, `p9`.
fn parse_range(text: &str) -> Option<Vec<Item>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (list, first) = parse_item(first)?;
    let (_, last) = parse_item(last)?;
    Some((first..=last).map(|number| (list, number)).collect())
}

fn parse_item(text: &str) -> Option<Item> {
    let list = text.chars().next().filter(|first| matches!(first, 'o' | 'p'));
    let digits = text.strip_prefix(|first| matches!(first, 'o' | 'p')).unwrap_or(text);
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| digits.parse().ok().map(|number| (list.unwrap_or('c'), number)))?
}

/// Adds the tests of every Rust file under `folder`.
fn collect(root: &Path, folder: &Path, tests: &mut BTreeMap<Item, BTreeSet<String>>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, tests)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = path.strip_prefix(root)?.display().to_string();
            for item in tests_in(&fs::read_to_string(&path)?).flat_map(covered) {
                tests.entry(item).or_default().insert(file.clone());
            }
        }
    }
    Ok(())
}

/// The names of the tests in a source text: functions with an attribute `test` (of any crate) in front. A function that only
/// tests call covers nothing by its name.
fn tests_in(text: &str) -> impl Iterator<Item = &str> {
    let mut is_test = false;
    text.lines().filter_map(move |line| {
        let line = line.trim_start();
        if let Some(name) = function_name(line) {
            return std::mem::take(&mut is_test).then_some(name);
        }
        if let Some(attribute) = line.strip_prefix("#[") {
            let path = attribute.split(['(', ']']).next().unwrap_or_default();
            is_test |= path.split("::").last() == Some("test");
        } else if !line.starts_with("//") && !line.is_empty() {
            is_test = false;
        }
        None
    })
}

/// The name of the function that a line defines.
fn function_name(line: &str) -> Option<&str> {
    let rest = line.trim_start();
    let rest = rest.strip_prefix("async ").unwrap_or(rest).strip_prefix("fn ")?;
    rest.split_once('(').map(|(name, _)| name)
}

/// The items that a test's name begins with: `c006_c007_plain_join` covers two, `c010_to_c013_no_token` four.
fn covered(test: &str) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let mut up_to = false;
    for word in test.split('_') {
        if word == "to" && !items.is_empty() {
            up_to = true;
            continue;
        }
        let Some(item) = word.strip_prefix('c').map_or_else(
            || parse_item(word).filter(|(list, _)| *list != 'c'),
            |digits| parse_item(digits).filter(|(list, _)| *list == 'c'),
        ) else {
            break;
        };
        match items.last() {
            Some(&(list, last)) if up_to && list == item.0 => {
                items.extend((last + 1..=item.1).map(|number| (list, number)))
            }
            _ => items.push(item),
        }
        up_to = false;
    }
    items
}

fn table(items: &Items, tests: &BTreeMap<Item, BTreeSet<String>>) -> String {
    let mut text = String::from(
        "# Which conformance items have a test\n\nWritten by `cargo xtask coverage` from the names of the tests and from `items.txt`; do not edit.\n\n\
         | section | about | items | with a test |\n| --- | --- | --- | --- |\n",
    );
    let mut total = (0, 0);
    for section in &items.sections {
        let with = section.items.iter().filter(|item| tests.contains_key(item)).count();
        total = (total.0 + section.items.len(), total.1 + with);
        let _ = writeln!(text, "| {} | {} | {} | {with} |", section.letter, section.about, section.items.len());
    }
    let _ = writeln!(text, "| all | | {} | {} |", total.0, total.1);
    for section in &items.sections {
        let _ = write!(text, "\n## {}: {}\n\n", section.letter, section.about);
        let mut by_file: BTreeMap<&str, Vec<Item>> = BTreeMap::new();
        let mut by_reason: BTreeMap<&str, Vec<Item>> = BTreeMap::new();
        for item in &section.items {
            match tests.get(item) {
                Some(files) => files.iter().for_each(|file| by_file.entry(file).or_default().push(*item)),
                None => by_reason
                    .entry(items.later.get(item).map_or("no test yet", String::as_str))
                    .or_default()
                    .push(*item),
            }
        }
        for (file, covered) in by_file {
            let _ = writeln!(text, "- {}: `{file}`", ranges(&covered));
        }
        for (reason, open) in by_reason {
            let _ = writeln!(text, "- open: {}: {reason}", ranges(&open));
        }
    }
    text
}

/// `1–4, 7`.
fn ranges(items: &[Item]) -> String {
    let mut parts: Vec<(Item, Item)> = Vec::new();
    for &item in items {
        match parts.last_mut() {
            Some((_, last)) if last.0 == item.0 && last.1 + 1 == item.1 => *last = item,
            _ => parts.push((item, item)),
        }
    }
    let shown = parts.iter().map(
        |(first, last)| {
            if first == last { name(*first) } else { format!("{}–{}", name(*first), last.1) }
        },
    );
    shown.collect::<Vec<_>>().join(", ")
}

fn name((list, number): Item) -> String {
    match list {
        'o' => format!("O{number}"),
        'p' => format!("P{number}"),
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(test: &str, expected: &[Item]) {
        assert_eq!(covered(test), expected, "{test}");
    }

    #[test]
    fn names_of_tests() {
        check("c107_malformed_root", &[('c', 107)]);
        check("c006_c007_plain_join", &[('c', 6), ('c', 7)]);
        check("c010_to_c012_no_token", &[('c', 10), ('c', 11), ('c', 12)]);
        check("o12_kill", &[('o', 12)]);
        check("p018_to_p021_bad_csr", &[('p', 18), ('p', 19), ('p', 20), ('p', 21)]);
        check("c034_p034_removed", &[('c', 34), ('p', 34)]);
        check("c018_to_be_or_not", &[('c', 18)]);
        check("check", &[]);
        check("c_107", &[]);
        check("o", &[]);
        check("107_is_no_name", &[]);
    }

    #[test]
    fn only_tests_count() {
        let text = "#[test]\nfn c001_a() {}\nfn c002_b() {}\n#[tokio::test(flavor = \"x\")]\n// why\n#[ignore]\nasync fn c003_c() {}\n\
            #[test]\nstruct S;\nfn c004_d() {}\n    #[test]\n    fn c005_e(n: u8) {}\n#[cfg(test)]\nfn c006_f() {}\n";
        assert_eq!(tests_in(text).collect::<Vec<_>>(), ["c001_a", "c003_c", "c005_e"]);
    }

    #[test]
    fn every_number_is_on_the_list_once() {
        let text = fs::read_to_string(workspace::root().unwrap().join("conformance/items.txt")).unwrap();
        let items = parse(&text).unwrap();
        let all: Vec<Item> = items.sections.iter().flat_map(|section| section.items.iter().copied()).collect();
        let numbered: Vec<u16> = all.iter().filter(|(list, _)| *list == 'c').map(|(_, number)| *number).collect();
        assert_eq!(numbered, (1..=377).collect::<Vec<_>>());
        assert_eq!(all.iter().filter(|(list, _)| *list == 'o').count(), 12);
        assert_eq!(all.iter().filter(|(list, _)| *list == 'p').count(), 18);
        assert!(items.later.keys().all(|item| all.contains(item)));
    }

    #[test]
    fn an_item_without_a_test_has_its_reason() {
        let items = parse("section A 1-3 x y\nlater 3 not built\n").unwrap();
        let tests = BTreeMap::from([(('c', 1), BTreeSet::from(["a.rs".to_owned()]))]);
        let table = table(&items, &tests);
        assert!(table.contains("| A | x y | 3 | 1 |"), "{table}");
        assert!(table.contains("- 1: `a.rs`\n- open: 2: no test yet\n- open: 3: not built\n"), "{table}");
    }
}
