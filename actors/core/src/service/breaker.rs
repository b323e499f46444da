//! The circuit breaker of one service.
//!
//! ```text
//!  closed ── OPENS_AFTER failures in a row ──► open ── its time is up ──► half-open ── one call: ─┬─ succeeds ──► closed
//!                                               ▲                                                 │
//!                                               └────────────── for twice as long ◄───────────────┴─ fails
//! ```
//!
//! The fault policy of agents is not this: it counts ends of processes, and restarts them.

use mesh_messages::Timestamp;
use mesh_messages::service::{BreakerState, BreakerView};

/// Failures one after the other that open it: more than a call has tries, so that no single call does.
pub const OPENS_AFTER: u32 = 5;
/// How long it stays open the first time, and at most, in milliseconds.
pub const OPEN_MS: (u64, u64) = (10_000, 300_000);

/// Why a call does not go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// When one may be tried; at once after the call that decides, when there is one under way.
    pub until: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until: Timestamp,
        pause_ms: u64,
    },
    /// One call is under way since then, and decides.
    Trial {
        began: Timestamp,
        limit_ms: u64,
        pause_ms: u64,
    },
}

/// A circuit breaker. Tries come in as they begin ([`Breaker::admit`]) and as they end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    state: State,
    failures: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: State::Closed,
            failures: 0,
        }
    }
}

impl Breaker {
    /// Whether a try may begin at `now`, which ends after `limit_ms` at the latest.
    ///
    /// # Errors
    /// [`Held`]: it is open, or a trial is under way. A trial that did not end within its limit was given up by its caller,
    /// and the next one takes its place.
    pub fn admit(&mut self, now: Timestamp, limit_ms: u64) -> Result<(), Held> {
        let trial = |pause_ms| State::Trial {
            began: now,
            limit_ms,
            pause_ms,
        };
        match self.state {
            State::Closed => Ok(()),
            State::Open { until, pause_ms } if now >= until => {
                self.state = trial(pause_ms);
                Ok(())
            }
            State::Open { until, .. } => Err(Held { until }),
            State::Trial {
                began,
                limit_ms,
                pause_ms,
            } => {
                let until = Timestamp::from_millis(began.as_millis().saturating_add(limit_ms));
                if now < until {
                    return Err(Held { until });
                }
                self.state = trial(pause_ms);
                Ok(())
            }
        }
    }

    /// A try was answered: somebody is there, whatever was said.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A try was not answered, or as one that cannot answer now.
    pub fn failed(&mut self, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        let open = |pause_ms: u64| State::Open {
            until: Timestamp::from_millis(now.as_millis().saturating_add(pause_ms)),
            pause_ms,
        };
        match self.state {
            State::Closed if self.failures >= OPENS_AFTER => self.state = open(OPEN_MS.0),
            State::Trial { pause_ms, .. } => {
                self.state = open(pause_ms.saturating_mul(2).min(OPEN_MS.1));
            }
            // One that began before it opened says nothing new.
            State::Closed | State::Open { .. } => {}
        }
    }

    /// A try ended without a word on whether the service is well. If it was to decide, the next one does.
    pub fn given_up(&mut self, now: Timestamp) {
        if let State::Trial { pause_ms, .. } = self.state {
            self.state = State::Open {
                until: now,
                pause_ms,
            };
        }
    }

    /// How it is shown.
    pub fn view(&self, now: Timestamp) -> BreakerView {
        let (state, retry_at) = match self.state {
            State::Closed => (BreakerState::Closed, None),
            State::Open { until, .. } if now < until => (BreakerState::Open, Some(until)),
            State::Open { .. } | State::Trial { .. } => (BreakerState::HalfOpen, None),
        };
        BreakerView {
            state,
            failures: self.failures,
            retry_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..OPENS_AFTER {
            breaker.failed(at(0));
        }
        breaker
    }

    #[test]
    fn it_opens_after_so_many_failures_in_a_row_and_a_success_between_begins_anew() {
        let mut breaker = Breaker::default();
        for _ in 1..OPENS_AFTER {
            breaker.failed(at(0));
        }
        assert_eq!(breaker.view(at(0)).state, BreakerState::Closed);
        breaker.succeeded();
        for _ in 1..OPENS_AFTER {
            breaker.failed(at(0));
        }
        assert_eq!(breaker.admit(at(0), 1), Ok(()));
        breaker.failed(at(0));
        let until = at(OPEN_MS.0);
        assert_eq!(breaker.admit(at(0), 1), Err(Held { until }));
        let view = breaker.view(at(0));
        assert_eq!(
            (view.state, view.retry_at),
            (BreakerState::Open, Some(until))
        );
    }

    #[test]
    fn half_open_lets_one_through_which_decides() {
        let mut breaker = opened();
        let then = at(OPEN_MS.0);
        assert_eq!(breaker.view(then).state, BreakerState::HalfOpen);
        assert_eq!(breaker.admit(then, 100), Ok(()));
        let until = at(OPEN_MS.0 + 100);
        assert_eq!(
            breaker.admit(then, 100),
            Err(Held { until }),
            "one at a time"
        );
        let mut good = breaker.clone();
        good.succeeded();
        assert_eq!(good, Breaker::default());
        breaker.failed(then);
        let until = at(OPEN_MS.0 + 2 * OPEN_MS.0);
        assert_eq!(
            breaker.admit(then, 100),
            Err(Held { until }),
            "twice as long"
        );
    }

    #[test]
    fn a_trial_that_was_given_up_makes_room_for_the_next() {
        let mut breaker = opened();
        assert_eq!(breaker.admit(at(OPEN_MS.0), 100), Ok(()));
        assert_eq!(breaker.admit(at(OPEN_MS.0 + 100), 100), Ok(()));
        breaker.given_up(at(OPEN_MS.0 + 101));
        assert_eq!(breaker.admit(at(OPEN_MS.0 + 101), 100), Ok(()));
    }

    proptest! {
        /// Whatever happens, a closed breaker has had fewer failures in a row than open it, no pause is longer than the
        /// longest, and one that is left alone lets a call through in the end.
        #[test]
        fn it_never_holds_for_ever(steps in prop::collection::vec((0_u8..3, 0_u64..400_000), 0..200)) {
            let mut breaker = Breaker::default();
            let mut now = 0;
            for (what, pause) in steps {
                now += pause;
                match what {
                    0 => breaker.succeeded(),
                    1 => breaker.failed(at(now)),
                    _ => {
                        if let Err(held) = breaker.admit(at(now), 30_000) {
                            prop_assert!(held.until > at(now));
                            prop_assert!(held.until <= at(now + OPEN_MS.1));
                        }
                    }
                }
                let view = breaker.view(at(now));
                if view.state == BreakerState::Closed {
                    prop_assert!(view.failures < OPENS_AFTER);
                }
            }
            prop_assert_eq!(breaker.admit(at(now + OPEN_MS.1), 1), Ok(()));
        }
    }
}
