//! Waiting for what another process will do, with an end.

use std::time::{Duration, Instant};

/// How often a condition in another process is looked at. Such a process has no event to wait for, only an answer to ask for.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// Asks `probe` until it answers `Some`, and returns that with the time it took.
///
/// # Panics
/// After `limit`, naming `what` and the last thing that `probe` said of its failure.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<T, String>) -> (T, Duration) {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return (value, start.elapsed()),
            Err(last) if start.elapsed() >= limit => {
                panic!("{what}: not within {limit:?}; last seen: {last}")
            }
            Err(_) => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// As [`until`], for a condition that is true or false.
///
/// # Panics
/// After `limit`, naming `what`.
pub fn until_true(what: &str, limit: Duration, mut probe: impl FnMut() -> bool) -> Duration {
    until(what, limit, || if probe() { Ok(()) } else { Err("false".into()) }).1
}

/// Checks that `probe` goes on holding for the whole of `span`: here the delay itself is the point.
///
/// # Panics
/// As soon as it does not hold.
pub fn throughout(what: &str, span: Duration, mut probe: impl FnMut() -> Result<(), String>) {
    let start = Instant::now();
    while start.elapsed() < span {
        if let Err(seen) = probe() {
            panic!("{what}: ended after {:?}: {seen}", start.elapsed());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_returns_what_the_probe_found() {
        let mut left = 3;
        let (value, _) = until("a count", Duration::from_secs(5), || {
            left -= 1;
            if left == 0 { Ok("there") } else { Err(left.to_string()) }
        });
        assert_eq!((value, left), ("there", 0));
    }

    #[test]
    #[should_panic(expected = "a miracle: not within 0ns; last seen: nothing")]
    fn until_says_what_it_saw_last() {
        until("a miracle", Duration::ZERO, || Err::<(), _>("nothing".into()));
    }

    #[test]
    #[should_panic(expected = "peace: ended after")]
    fn throughout_ends_with_the_first_failure() {
        throughout("peace", Duration::from_secs(5), || Err("war".into()));
    }
}
