//! Waiting for states.

use std::time::{Duration, Instant};

/// Pause between two looks: short against every deadline in the tests, long against what a look costs.
const PAUSE: Duration = Duration::from_millis(25);

/// Looks until there is an answer, and returns it.
///
/// `look` says what it sees instead while it is not there; that is what the failure shows.
#[track_caller]
pub fn eventually<T>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let end = Instant::now() + within;
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(seen) => {
                assert!(
                    Instant::now() < end,
                    "not within {within:?}: {what}; seen instead: {seen}"
                );
            }
        }
        std::thread::sleep(PAUSE);
    }
}
