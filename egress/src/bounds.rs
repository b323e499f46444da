//! The bounds of a way out that may change while it is open: how many connections at once, and how fast.
//!
//! All ways out of one instance share them, so that what they hold holds for the instance as a whole.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::Limits;
use crate::metered::Rate;

/// How many connections at once, and how many bytes per second. What is changed holds at once: a connection that waits
/// for its turn looks again, and those beyond a smaller number stay until they end by themselves.
#[derive(Debug)]
pub struct Bounds {
    held: Mutex<Held>,
    open: AtomicU32,
}

#[derive(Debug)]
struct Held {
    connections: u32,
    bytes_per_second: Option<u32>,
    rate: Option<Arc<Rate>>,
}

impl Held {
    fn new(connections: u32, bytes_per_second: Option<u32>) -> Self {
        Self {
            connections,
            bytes_per_second,
            rate: bytes_per_second.map(|rate| Arc::new(Rate::new(rate))),
        }
    }
}

/// Lets nobody through: what a way out begins with whose bounds are still to be set.
impl Default for Bounds {
    fn default() -> Self {
        Self::new(0, None)
    }
}

impl Bounds {
    /// At most so many connections, and bytes per second in both directions together; any number when absent.
    #[must_use]
    pub fn new(connections: u32, bytes_per_second: Option<u32>) -> Self {
        Self {
            held: Mutex::new(Held::new(connections, bytes_per_second)),
            open: AtomicU32::new(0),
        }
    }

    /// Those that limits name.
    #[must_use]
    pub fn of(limits: &Limits) -> Self {
        Self::new(limits.connections, limits.bytes_per_second)
    }

    /// Replaces them.
    pub fn set(&self, connections: u32, bytes_per_second: Option<u32>) {
        let mut held = self.held();
        if held.bytes_per_second == bytes_per_second {
            // A new rate would begin with a burst.
            held.connections = connections;
        } else {
            *held = Held::new(connections, bytes_per_second);
        }
    }

    /// Connections at once, and bytes per second.
    #[must_use]
    pub fn get(&self) -> (u32, Option<u32>) {
        let held = self.held();
        (held.connections, held.bytes_per_second)
    }

    pub(crate) fn rate(&self) -> Option<Arc<Rate>> {
        self.held().rate.clone()
    }

    /// A place for one more connection, while there is one; else how many there are.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Place, u32> {
        let most = self.held().connections;
        let taken = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
                (open < most).then_some(open.saturating_add(1))
            });
        match taken {
            Ok(_) => Ok(Place(Arc::clone(self))),
            Err(_) => Err(most),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Bounds>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_places_hold_for_those_who_come_and_more_at_once() {
        let bounds = Arc::new(Bounds::new(2, None));
        let (one, two) = (bounds.enter().unwrap(), bounds.enter().unwrap());
        assert_eq!(bounds.enter().unwrap_err(), 2);
        bounds.set(1, None);
        drop(one);
        assert_eq!(bounds.enter().unwrap_err(), 1, "one is still there");
        drop(two);
        let _one = bounds.enter().unwrap();
        bounds.set(2, Some(1000));
        let _two = bounds.enter().unwrap();
        assert_eq!(bounds.get(), (2, Some(1000)));
    }

    #[test]
    fn the_same_rate_again_is_no_new_burst() {
        let bounds = Bounds::new(1, Some(1000));
        let before = bounds.rate().unwrap();
        bounds.set(9, Some(1000));
        assert!(Arc::ptr_eq(&before, &bounds.rate().unwrap()));
        bounds.set(9, Some(2000));
        assert!(!Arc::ptr_eq(&before, &bounds.rate().unwrap()));
        bounds.set(9, None);
        assert!(bounds.rate().is_none());
    }
}
