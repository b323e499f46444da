//! Callbacks at a time of the wall clock: on time to a fraction of a millisecond, and cheap to have very many of.
//!
//! The runtime's own timers count whole milliseconds and round up, twice; and a task that sleeps costs some hundred
//! bytes for each of a hundred thousand agents. One thread waits for all of them instead.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_messages::Timestamp;

/// The longest wait for the next alarm before the clocks are compared again: one of them may have been set.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

type Call = Box<dyn FnOnce() + Send>;

/// When, and which of those at that time.
type Key = (Timestamp, u64);

/// The alarms of one mesh. Cheap to clone; the thread ends with the last of them.
#[derive(Debug, Clone)]
pub struct Alarms(Arc<Clock>);

/// An alarm that was set. Dropping it takes it back.
#[derive(Debug)]
pub struct Alarm {
    clock: Arc<Shared>,
    key: Key,
}

#[derive(Debug)]
struct Clock {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    set: BTreeMap<Key, Call>,
    last: u64,
    ends: bool,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("set", &self.set.len())
            .finish_non_exhaustive()
    }
}

impl Alarms {
    /// With a thread of their own.
    ///
    /// # Errors
    /// If the system has none left.
    pub fn start() -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let rings = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("mesh-alarms".to_owned())
            .spawn(move || rings.run())?;
        Ok(Self(Arc::new(Clock { shared })))
    }

    /// Has `call` called as soon as it is `at`; it must not block, for all others wait for it. Never before that, as the
    /// wall clock counts, nor by whoever sets it.
    #[must_use = "an alarm that is dropped is taken back"]
    pub fn set(&self, at: Timestamp, call: impl FnOnce() + Send + 'static) -> Alarm {
        let shared = &self.0.shared;
        let mut inner = shared.lock();
        inner.last += 1;
        let key = (at, inner.last);
        inner.set.insert(key, Box::new(call));
        let is_first = inner.set.first_key_value().is_some_and(|(k, _)| *k == key);
        drop(inner);
        if is_first {
            shared.changed.notify_one();
        }
        Alarm {
            clock: Arc::clone(shared),
            key,
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.shared.lock().ends = true;
        self.shared.changed.notify_one();
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // The thread finds out by itself that there is less to wait for. What the call holds may set or drop alarms.
        let taken_back = self.clock.lock().set.remove(&self.key);
        drop(taken_back);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No call is made under it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut inner = self.lock();
        while !inner.ends {
            let wait = match inner.set.first_entry() {
                None => LOOK_AGAIN,
                Some(first) => match until(first.key().0) {
                    Duration::ZERO => {
                        let call = first.remove();
                        drop(inner);
                        call();
                        inner = self.lock();
                        continue;
                    }
                    wait => wait.min(LOOK_AGAIN),
                },
            };
            let waited = self.changed.wait_timeout(inner, wait);
            (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// How long it is until then, to the nanosecond.
fn until(at: Timestamp) -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let at = Duration::from_millis(at.as_millis());
    at.saturating_sub(since.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;
    use crate::clock::now;

    #[test]
    fn alarms_go_off_in_their_order_and_never_too_early() {
        let (alarms, (tell, told)) = (Alarms::start().unwrap(), mpsc::channel());
        let begin = now();
        let set: Vec<_> = [30, 10, 20, 0]
            .into_iter()
            .map(|ms| {
                let (tell, at) = (tell.clone(), begin.plus(Duration::from_millis(ms)));
                alarms.set(at, move || tell.send((ms, now() >= at)).unwrap())
            })
            .collect();
        for expected in [0, 10, 20, 30] {
            let (ms, in_time) = told.recv_timeout(Duration::from_secs(20)).unwrap();
            assert_eq!((ms, in_time), (expected, true));
        }
        drop(set);
    }

    #[test]
    fn an_alarm_that_was_dropped_does_not_go_off() {
        let (alarms, (tell, told)) = (Alarms::start().unwrap(), mpsc::channel());
        let at = |ms| now().plus(Duration::from_millis(ms));
        let never = tell.clone();
        drop(alarms.set(at(1), move || never.send("dropped").unwrap()));
        let _kept = alarms.set(at(30), move || tell.send("kept").unwrap());
        assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok("kept"));
    }

    #[test]
    fn the_thread_ends_with_the_last_of_the_alarms() {
        let (alarms, (tell, told)) = (Alarms::start().unwrap(), mpsc::channel::<()>());
        let late = now().plus(Duration::from_hours(1));
        let alarm = alarms.set(late, move || drop(tell));
        let shared = Arc::downgrade(&alarms.0.shared);
        drop(alarm);
        drop(alarms);
        assert_eq!(told.recv(), Err(mpsc::RecvError));
        let begun = Instant::now();
        while shared.strong_count() > 0 && begun.elapsed() < Duration::from_secs(20) {
            std::thread::yield_now();
        }
        assert_eq!(shared.strong_count(), 0);
    }
}
