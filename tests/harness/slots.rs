//! How many daemons run at once.

use std::cell::Cell;
use std::sync::{Condvar, Mutex, PoisonError};

/// Enough to keep two cores busy, few enough that deadlines hold on them.
const DAEMONS_MAX: usize = 4;

static TAKEN: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

thread_local! {
    /// Whether this test has had one before.
    static HAS_HAD: Cell<bool> = const { Cell::new(false) };
}

/// The right to run a daemon, until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot(());

impl Slot {
    /// Waits for a free one. Only a test's first waits: two tests that each hold some and want more would wait for each other.
    pub(crate) fn take() -> Self {
        let waits = !HAS_HAD.replace(true);
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = FREED
            .wait_while(taken, |taken| waits && *taken >= DAEMONS_MAX)
            .unwrap_or_else(PoisonError::into_inner);
        *taken += 1;
        Self(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        FREED.notify_one();
    }
}
