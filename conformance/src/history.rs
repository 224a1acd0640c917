//! A history of what several clients asked several managers at the same time, and whether it could have been one manager that did one thing after
//! the other: each within the time between a question and its answer (linearizability).
//!
//! The search is that of Wing and Gong with Lowe's memory: take any operation that began before every one that is left has ended, if what is known
//! allows it, and go on; what was tried from the same point is not tried again. A change of which nobody knows whether it was made may come at
//! any time after it was asked for, or never.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What was done to one thing that has one value at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It was this.
    Read(String),
    /// It became `to`, having been `from`.
    Change {
        /// Before.
        from: String,
        /// After.
        to: String,
    },
}

/// Something that a client did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who and where, for people.
    pub by: String,
    /// What.
    pub what: What,
    /// When it was asked for, from the beginning of the history.
    pub asked: Duration,
    /// When it was answered; none: nobody knows whether it was done.
    pub answered: Option<Duration>,
}

/// Operations on several things, each by its name. Shared by all clients.
pub struct History {
    began: Instant,
    all: Mutex<BTreeMap<String, Vec<Operation>>>,
}

impl Default for History {
    fn default() -> Self {
        Self { began: Instant::now(), all: Mutex::default() }
    }
}

impl History {
    /// The time now.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Adds an operation.
    pub fn add(&self, thing: &str, operation: Operation) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(thing.to_owned()).or_default().push(operation);
    }

    /// Operations with an answer so far.
    pub fn answered(&self) -> usize {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().flatten().filter(|operation| operation.answered.is_some()).count()
    }

    /// Changes so far that were made, and those of which nobody knows.
    pub fn changes(&self) -> (usize, usize) {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = all.values().flatten().filter(|operation| matches!(operation.what, What::Change { .. }));
        let (made, open): (Vec<_>, Vec<_>) = changes.partition(|operation| operation.answered.is_some());
        (made.len(), open.len())
    }

    /// Whether each thing's operations could have been done one after the other, beginning with these values; the empty one where none is given.
    ///
    /// # Errors
    /// The thing, and the operations that fit nowhere.
    pub fn check(&self, initial: &BTreeMap<String, String>) -> Result<(), String> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        for (thing, operations) in all.iter() {
            let first = initial.get(thing).cloned().unwrap_or_default();
            check(&first, operations).map_err(|what| format!("{thing}: {what}"))?;
        }
        Ok(())
    }
}

/// Where the search is.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Point {
    /// All answered operations before this one are placed.
    first: usize,
    /// So are these behind it.
    placed: Vec<usize>,
    /// Unanswered changes that are placed.
    open: Vec<usize>,
    value: u32,
}

/// Values as numbers.
#[derive(Default)]
struct Values(BTreeMap<String, u32>);

impl Values {
    fn of(&mut self, text: &str) -> u32 {
        let next = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        *self.0.entry(text.to_owned()).or_insert(next)
    }
}

/// An operation in numbers: what has to be, and what is then.
#[derive(Clone, Copy)]
struct Step {
    from: u32,
    to: u32,
    asked: Duration,
    answered: Duration,
}

/// Whether these could have been done one after the other, beginning with this value.
///
/// # Errors
/// The first operations that fit nowhere, with as many before them placed as can be.
pub fn check(initial: &str, operations: &[Operation]) -> Result<(), String> {
    let mut values = Values::default();
    let mut step = |operation: &Operation| {
        let (from, to) = match &operation.what {
            What::Read(value) => (value, value),
            What::Change { from, to } => (from, to),
        };
        let (from, to) = (values.of(from), values.of(to));
        Step { from, to, asked: operation.asked, answered: operation.answered.unwrap_or(Duration::MAX) }
    };
    let mut sorted: Vec<&Operation> = operations.iter().filter(|operation| operation.answered.is_some()).collect();
    sorted.sort_by_key(|operation| operation.asked);
    let steps: Vec<Step> = sorted.iter().map(|operation| step(operation)).collect();
    // What was read and perhaps never answered says nothing.
    let open = operations.iter().filter(|operation| operation.answered.is_none());
    let open: Vec<Step> = open.filter(|operation| matches!(operation.what, What::Change { .. })).map(step).collect();
    let value = values.of(initial);
    let mut seen = HashSet::new();
    let mut todo = vec![Point { first: 0, placed: Vec::new(), open: Vec::new(), value }];
    let mut furthest = 0;
    while let Some(point) = todo.pop() {
        if point.first == steps.len() {
            return Ok(());
        }
        furthest = furthest.max(point.first);
        if !seen.insert(point.clone()) {
            continue;
        }
        // Whatever is next began before any that is left had ended.
        let mut end = Duration::MAX;
        let mut next = Vec::new();
        for (n, step) in steps.iter().enumerate().skip(point.first) {
            if step.asked > end {
                break;
            }
            if point.placed.contains(&n) {
                continue;
            }
            end = end.min(step.answered);
            next.push(n);
        }
        for (n, step) in open.iter().enumerate() {
            if step.asked <= end && step.from == point.value && !point.open.contains(&n) {
                let mut after = point.clone();
                after.open.push(n);
                after.open.sort_unstable();
                after.value = step.to;
                todo.push(after);
            }
        }
        for n in next {
            let fits = steps.get(n).filter(|step| step.asked <= end && step.from == point.value);
            let Some(step) = fits else { continue };
            let mut after = point.clone();
            after.value = step.to;
            after.placed.push(n);
            after.placed.sort_unstable();
            while after.placed.first() == Some(&after.first) {
                after.placed.remove(0);
                after.first += 1;
            }
            todo.push(after);
        }
    }
    let around = furthest.saturating_sub(4)..(furthest + 6).min(sorted.len());
    let lines: Vec<String> =
        around.map(|n| format!("{} {:?}", if n == furthest { ">" } else { " " }, sorted[n])).collect();
    Err(format!("no order of {} operations fits; the first that has no place:\n{}", operations.len(), lines.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `0-3 r a`: read as a from 0 to 3. `0-3 a>b`: changed. `0-? a>b`: perhaps.
    fn operations(text: &str) -> Vec<Operation> {
        let parse = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            let (asked, answered) = words[0].split_once('-').unwrap();
            let what = match words[1] {
                "r" => What::Read(words.get(2).unwrap_or(&"").to_string()),
                change => {
                    let (from, to) = change.split_once('>').unwrap();
                    What::Change { from: from.to_owned(), to: to.to_owned() }
                }
            };
            Operation {
                by: line.to_owned(),
                what,
                asked: Duration::from_secs(asked.parse().unwrap()),
                answered: answered.parse().ok().map(Duration::from_secs),
            }
        };
        text.split(',').map(str::trim).map(parse).collect()
    }

    #[test]
    fn what_one_after_the_other_could_have_done() {
        for (history, fits, why) in [
            ("0-1 r a", true, "it begins so"),
            ("0-1 r b", false, "nobody made it so"),
            ("0-1 a>b, 2-3 r b", true, ""),
            ("0-1 a>b, 2-3 r a", false, "a read of what was before, after the change was answered"),
            ("0-5 a>b, 1-2 r a, 3-4 r b", true, "the change lies between the reads"),
            ("0-5 a>b, 1-2 r b, 3-4 r a", false, "once seen, it stays"),
            ("0-5 a>b, 1-4 r b, 2-3 r a", true, "reads at the same time may see both"),
            ("0-? a>b, 5-6 r a, 7-8 r b", true, "a change that nobody knows of may come late"),
            ("0-? a>b, 5-6 r a, 7-8 r a", true, "or never"),
            ("5-? a>b, 1-2 r b", false, "but not before it was asked for"),
            ("0-? a>b, 1-2 r b, 3-4 r a", false, "nor be undone"),
            ("0-1 a>b, 2-3 a>c", false, "a change of what was not"),
            ("0-5 a>b, 0-5 a>c", false, "two changes of the same"),
            ("0-5 a>b, 0-? a>c, 6-7 r b", true, "of which one was not made"),
            ("0-? a>b, 0-? b>c, 0-? c>d, 1-2 r d, 3-4 r d", true, "all of them"),
            ("0-? a>b, 0-? b>c, 0-? c>d, 1-2 r d, 3-4 r c", false, "a stale read behind them"),
            ("0-9 r c, 0-2 a>b, 3-5 b>c, 6-7 r c", true, "a slow read"),
            ("0-4 r c, 0-2 a>b, 5-6 b>c", false, "a read of what is only to be"),
        ] {
            let checked = check("a", &operations(history));
            assert_eq!(checked.is_ok(), fits, "{history}: {why}: {checked:?}");
        }
    }

    #[test]
    fn a_planted_stale_read_is_found_in_a_long_history() {
        let history = |stale: bool| {
            let mut all = Vec::new();
            let name = |n: u64| format!("v{n}");
            for n in 0..2_000_u64 {
                let at = |part: u64| Duration::from_millis(n * 10 + part);
                let by = String::new;
                let change = What::Change { from: name(n), to: name(n + 1) };
                all.push(Operation { by: by(), what: change, asked: at(0), answered: Some(at(6)) });
                // One who reads meanwhile sees either.
                let read = What::Read(name(n + n % 2));
                all.push(Operation { by: by(), what: read, asked: at(1), answered: Some(at(5)) });
                let after = if stale && n == 1_234 { name(n) } else { name(n + 1) };
                all.push(Operation { by: by(), what: What::Read(after), asked: at(7), answered: Some(at(8)) });
                // Nobody knows of this one, and it was never made.
                if n % 10 == 0 {
                    let lost = What::Change { from: name(n), to: format!("lost{n}") };
                    all.push(Operation { by: by(), what: lost, asked: at(0), answered: None });
                }
            }
            all
        };
        check("v0", &history(false)).unwrap();
        let found = check("v0", &history(true)).unwrap_err();
        assert!(found.contains("> ") && found.contains(r#"Read("v1234")"#), "{found}");
    }
}
