//! `cargo xtask test`: everything that must hold before a change lands, from the cheapest to the dearest.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::bail;

use crate::step::{self, Outcome, Steps, cargo};
use crate::{arrows, codegen, coverage, readme, workspace};

/// What every run simulates, each with what the simulator is told: `cargo xtask sim` takes the same words.
const SIMULATED: [&[&str]; 6] = [
    // Small clusters in which everything goes wrong, their roots too: a few long lives, and a thousand short ones.
    &["--seed", "0x5eed", "--seeds", "8"],
    &["--seeds", "1000", "--nodes", "2", "--steps", "12", "--rotations", "250"],
    // A thousand nodes, of which some sleep, calls get lost, and the manager restarts; then one in which nothing fails.
    &["--fleet", "1000"],
    &["--fleet", "1000", "--asleep", "0", "--restarts", "0", "--skew", "0", "--lost", "0"],
    // Three managers that crash, are cut off, lag, come and go.
    &["--managers", "3", "--seed", "0", "--seeds", "4"],
    // How long a rotation of 100,000 nodes takes 8 cores.
    &["--large", "100000", "--cores", "8"],
];

/// What a whole run leaves in an empty target folder, and a little more, KiB.
const BUILT_KIB: u64 = 7 << 20;

/// How many tests ran, over all runners.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Runs all steps; ends with one line `N passed, N failed, N skipped`, which counts tests.
pub(crate) fn test() -> ExitCode {
    let mut steps = Steps::default();
    let mut count = Count::default();
    let list = SkippedTests::new();
    let done = |outcome: anyhow::Result<()>| outcome.map(|()| Outcome::Done);

    steps.run("room on disk", || done(room_on_disk()));
    steps.run("format", || done(cargo(&["fmt", "--all", "--check"])));
    steps.run("arrows", || done(arrows::check()));
    steps.run("generated code", || done(codegen::run(true)));
    steps.run("conformance coverage", || done(coverage::run(true)));
    steps.run("lints", || done(cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])));
    steps.run("documentation", || done(documentation()));
    steps.run("program", || done(cargo(&["build", "--locked", "-p", "swarmpki-cli"])));
    steps.run("readme", readme::check);
    steps.run("tests", || done(tests(&list, &mut count)));
    steps.run("documentation tests", || done(doc_tests(&mut count)));
    steps.run("simulation", simulation);
    steps.run("benchmarks", bench_smoke);
    steps.run("licences, bans, sources", || {
        if !step::has_cargo("deny") {
            return Ok(Outcome::Skipped("cargo-deny is not installed (cargo install --locked cargo-deny)".into()));
        }
        done(cargo(&["deny", "check", "licenses", "bans", "sources"]))
    });

    let skipped = list.lines();
    for line in steps.skipped() {
        println!("skipped: {line}");
    }
    for line in &skipped {
        println!("{line}");
    }
    // To its runner, a test that found no peer is one that passed.
    let absent = u64::try_from(skipped.len()).unwrap_or(u64::MAX);
    count.passed = count.passed.saturating_sub(absent);
    count.skipped = count.skipped.saturating_add(absent);
    if !steps.failed().is_empty() {
        println!("failed: {}", steps.failed().join(", "));
    }
    println!("{} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped);
    if steps.failed().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the simulator, told these words.
pub(crate) fn sim(words: &[&str]) -> anyhow::Result<()> {
    cargo(&[&["run", "--quiet", "-p", "swarmpki-sim", "--"], words].concat())
}

/// Feeds the parsers. The tests run this too; alone it is for whoever works on one.
pub(crate) fn fuzz_smoke() -> anyhow::Result<()> {
    cargo(&["test", "-p", "swarmpki-conformance", "--test", "fuzz_smoke"])
}

/// Runs each benchmark once.
pub(crate) fn bench_smoke() -> anyhow::Result<Outcome> {
    let metadata = workspace::metadata()?;
    let any = metadata
        .packages
        .iter()
        .any(|package| !workspace::targets(&metadata, package.name.as_str(), "bench").is_empty());
    if any {
        // In the test profile and for the whole workspace, which are built already: here it must run, not be fast.
        cargo(&["test", "--workspace", "--locked", "--bench", "*", "--", "--test"])?;
    }
    Ok(if any { Outcome::Done } else { Outcome::Skipped("there is no benchmark yet".into()) })
}

/// A full disk shows half-way, as an error of the compiler or the linker that names something else.
fn room_on_disk() -> anyhow::Result<()> {
    let target = &workspace::metadata()?.target_directory;
    std::fs::create_dir_all(target)?;
    let told = Command::new("df").args(["-P", "-k"]).arg(target).output()?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let free =
        told.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)).and_then(|kib| kib.parse::<u64>().ok());
    let Some(free) = free else { bail!("df says nothing of {target}: {told}") };
    let built = target.join("debug/deps").as_std_path().is_dir();
    if !built && free < BUILT_KIB {
        bail!("{} GiB are free for {target}, and a build from nothing takes {}", free >> 20, BUILT_KIB >> 20);
    }
    Ok(())
}

fn documentation() -> anyhow::Result<()> {
    let mut command = step::cargo_command(&["doc", "--workspace", "--lib", "--no-deps", "--locked"])?;
    command.env("RUSTDOCFLAGS", "-D warnings");
    step::check(command)
}

fn simulation() -> anyhow::Result<Outcome> {
    if workspace::targets(&workspace::metadata()?, "swarmpki-sim", "bin").is_empty() {
        return Ok(Outcome::Skipped("the simulator has no program yet".into()));
    }
    for words in SIMULATED {
        // The simulator itself says which seed it was.
        sim(words)?;
    }
    Ok(Outcome::Done)
}

fn tests(list: &SkippedTests, count: &mut Count) -> anyhow::Result<()> {
    let mut command = if step::has_cargo("nextest") {
        step::cargo_command(&["nextest", "run", "--workspace", "--locked", "--no-fail-fast"])?
    } else {
        // Tests with real engines wait rather than work; but not all of them at once.
        step::cargo_command(&[
            "test",
            "--workspace",
            "--locked",
            "--lib",
            "--bins",
            "--tests",
            "--no-fail-fast",
            "--",
            "--test-threads=3",
        ])?
    };
    command.env("SWARMPKI_SKIPPED", &list.file);
    // The same drawn cases each time, unless others are asked for (ARCHITECTURE.md).
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        command.env("PROPTEST_RNG_SEED", "1");
    }
    run_counted(command, count)
}

fn doc_tests(count: &mut Count) -> anyhow::Result<()> {
    run_counted(step::cargo_command(&["test", "--workspace", "--locked", "--doc", "--no-fail-fast"])?, count)
}

fn run_counted(command: Command, count: &mut Count) -> anyhow::Result<()> {
    let mut ran = Count::default();
    let outcome = step::watch(command, |line| {
        if let Some(more) = summary(line) {
            ran = Count {
                passed: ran.passed + more.passed,
                failed: ran.failed + more.failed,
                skipped: ran.skipped + more.skipped,
            };
        }
    });
    *count = Count {
        passed: count.passed + ran.passed,
        failed: count.failed + ran.failed,
        skipped: count.skipped + ran.skipped,
    };
    outcome?;
    if ran.failed > 0 {
        bail!("{} tests failed", ran.failed);
    }
    Ok(())
}

/// Reads the closing line of nextest (`Summary [ 1.2s] 20 tests run: 19 passed (1 slow), 1 failed, 2 skipped`) or of the standard runner
/// (`test result: ok. 3 passed; 0 failed; 1 ignored; …`). Nextest shows the output of a failed test indented: such a line is told in its own.
fn summary(line: &str) -> Option<Count> {
    let numbers = line.strip_prefix("test result: ").or_else(|| {
        line.trim_start().strip_prefix("Summary [").and_then(|rest| rest.split_once("run: ").map(|(_, rest)| rest))
    })?;
    let mut count = Count::default();
    for part in numbers.split([',', ';']) {
        let words: Vec<_> = part.split([' ', '.', '(']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            let Ok(number) = pair[0].parse::<u64>() else {
                continue;
            };
            match pair[1] {
                "passed" => count.passed += number,
                "failed" => count.failed += number,
                // Timed out, or ended by a signal: not passed.
                "timed" | "exec" => count.failed += number,
                "skipped" | "ignored" => count.skipped += number,
                _ => {}
            }
        }
    }
    Some(count)
}

/// A file to which tests that find no peer add a line each, since runners hide what a passing test prints.
struct SkippedTests {
    file: PathBuf,
}

impl SkippedTests {
    fn new() -> Self {
        let file = std::env::temp_dir().join(format!("swarmpki-skipped-{}", std::process::id()));
        Self { file }
    }

    fn lines(&self) -> Vec<String> {
        std::fs::read_to_string(&self.file).map(|text| text.lines().map(str::to_owned).collect()).unwrap_or_default()
    }
}

impl Drop for SkippedTests {
    fn drop(&mut self) {
        // Absent if nothing was skipped.
        let _ = std::fs::remove_file(&self.file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Option<(u64, u64, u64)>) {
        let expected = expected.map(|(passed, failed, skipped)| Count { passed, failed, skipped });
        assert_eq!(summary(line), expected, "{line}");
    }

    #[test]
    fn summaries() {
        check("     Summary [  19.808s] 20 tests run: 19 passed, 1 failed, 0 skipped", Some((19, 1, 0)));
        check(
            "     Summary [   1.0s] 7 tests run: 4 passed (1 slow, 2 leaky), 1 failed, 2 timed out, 3 skipped",
            Some((4, 3, 3)),
        );
        check("     Summary [   0.1s] 1/9 tests run: 1 passed, 0 skipped", Some((1, 0, 0)));
        check(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 5 filtered out; finished in 0.00s",
            Some((3, 0, 1)),
        );
        check("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out", Some((3, 2, 0)));
        check("    test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out", None);
        check("error: 3 passed, 2 failed", None);
        check("", None);
    }
}
