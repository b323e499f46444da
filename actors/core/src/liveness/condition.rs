//! How an instance is, and what follows: a warning drains it and watches, only what is critical restarts it.
//!
//! ```text
//!            reported or found worse: at once            critical: for good
//!  Healthy ───────────────────────────► Warning ─────────────────────► Critical ──► ended, by its fault policy
//!     ▲    nothing worse for `CONFIRM`      │
//!     └─────────────────────────────────────┘
//! ```
//! Worse counts at once, better only when it lasts, so an instance that cannot make up its mind changes at most twice in
//! [`CONFIRM`]. What an agent said of itself counts for [`REPORT_FRESH`]: nobody is kept out of work for ever by a word
//! that was never taken back.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_messages::agent::HealthLevel;
use mesh_messages::klp::ReportedHealth;
use mesh_messages::{TaskId, Timestamp};

/// How long a better level must last to be believed.
pub const CONFIRM: Duration = Duration::from_secs(5);
/// How long what an agent said of itself counts, unless it says it again. Twelve times the interval of the `health` hook.
pub const REPORT_FRESH: Duration = Duration::from_mins(1);
/// Longest reason that is kept.
const REASON_MAX: usize = 500;

/// A change of an instance's level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// From.
    pub from: HealthLevel,
    /// To.
    pub to: HealthLevel,
    /// Why, for people.
    pub reason: String,
}

/// How an instance is: the worst of what it says of itself and what was found.
#[derive(Debug, Clone)]
pub struct Condition {
    level: HealthLevel,
    reported: Option<(HealthLevel, String, Timestamp)>,
    // Attempts with a finding that is watched. Invariant: no more than it has in hand.
    alerts: BTreeMap<TaskId, String>,
    better_since: Option<Timestamp>,
}

impl Default for Condition {
    fn default() -> Self {
        Self {
            level: HealthLevel::Healthy,
            reported: None,
            alerts: BTreeMap::new(),
            better_since: None,
        }
    }
}

impl Condition {
    /// The level that was last settled.
    pub fn level(&self) -> HealthLevel {
        self.level
    }

    /// It says how it is.
    pub fn reported(&mut self, now: Timestamp, health: &ReportedHealth) {
        let said = health.message.as_deref().unwrap_or_default();
        let said: String = said.chars().take(REASON_MAX).collect();
        self.reported = Some((health.status, said, now));
    }

    /// Something was found in an attempt that it has in hand, and is watched.
    pub fn alerted(&mut self, task: TaskId, reason: &str) {
        self.alerts
            .insert(task, reason.chars().take(REASON_MAX).collect());
    }

    /// It has let go of a task.
    pub fn ended(&mut self, task: &TaskId) {
        self.alerts.remove(task);
    }

    /// Where it stands now, if that is a change.
    pub fn settle(&mut self, now: Timestamp) -> Option<Change> {
        self.reported
            .take_if(|(.., at)| now.since(*at) >= REPORT_FRESH);
        let (to, reason) = self.target();
        if self.level == HealthLevel::Critical || to == self.level {
            self.better_since = None;
            return None;
        }
        if to < self.level && now.since(*self.better_since.get_or_insert(now)) < CONFIRM {
            return None;
        }
        self.better_since = None;
        let from = std::mem::replace(&mut self.level, to);
        Some(Change { from, to, reason })
    }

    /// When [`Condition::settle`] may have something to say by the passing of time alone.
    pub fn due(&self) -> Option<Timestamp> {
        if self.level == HealthLevel::Critical {
            return None;
        }
        let stale = self
            .reported
            .as_ref()
            .filter(|(level, ..)| *level != HealthLevel::Healthy)
            .map(|(.., at)| at.plus(REPORT_FRESH));
        let confirmed = self.better_since.map(|since| since.plus(CONFIRM));
        confirmed.into_iter().chain(stale).min()
    }

    fn target(&self) -> (HealthLevel, String) {
        let reported = self
            .reported
            .as_ref()
            .filter(|(level, ..)| *level != HealthLevel::Healthy)
            .map(|(level, said, _)| (*level, said));
        match (reported, self.alerts.values().next()) {
            (Some((HealthLevel::Critical, said)), _) => {
                (HealthLevel::Critical, told("critical", said))
            }
            (_, Some(found)) => (HealthLevel::Warning, found.clone()),
            (Some((level, said)), None) => (level, told("warning", said)),
            (None, None) => (HealthLevel::Healthy, "nothing is wrong any more".to_owned()),
        }
    }
}

fn told(level: &str, said: &str) -> String {
    if said.is_empty() {
        format!("says that its health is {level}")
    } else {
        format!("says that its health is {level}: {said}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use HealthLevel::{Critical, Healthy, Warning};

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn says(status: HealthLevel) -> ReportedHealth {
        ReportedHealth {
            status,
            message: None,
        }
    }

    fn levels(change: Option<Change>) -> Option<(HealthLevel, HealthLevel)> {
        change.map(|change| (change.from, change.to))
    }

    #[test]
    fn worse_counts_at_once_and_better_when_it_lasts() {
        let mut condition = Condition::default();
        assert_eq!(condition.due(), None);
        condition.reported(at(0), &says(Warning));
        assert_eq!(levels(condition.settle(at(0))), Some((Healthy, Warning)));
        assert_eq!(condition.settle(at(1)), None, "said once");
        condition.reported(at(2), &says(Healthy));
        assert_eq!(condition.settle(at(2)), None);
        assert_eq!(condition.due(), Some(at(7)));
        assert_eq!(levels(condition.settle(at(7))), Some((Warning, Healthy)));
        assert_eq!(condition.due(), None);
    }

    #[test]
    fn who_cannot_make_up_its_mind_stays_where_it_is() {
        let mut condition = Condition::default();
        let mut changes = 0;
        for tick in 0..1000_u64 {
            let now = Timestamp::from_millis(tick * 100);
            let level = if tick % 2 == 0 { Warning } else { Healthy };
            condition.reported(now, &says(level));
            changes += usize::from(condition.settle(now).is_some());
        }
        assert_eq!(changes, 1);
    }

    #[test]
    fn a_word_that_is_never_taken_back_is_forgotten() {
        let mut condition = Condition::default();
        condition.reported(at(0), &says(Warning));
        assert!(condition.settle(at(0)).is_some());
        assert_eq!(condition.due(), Some(at(60)));
        assert_eq!(condition.settle(at(60)), None);
        assert_eq!(condition.due(), Some(at(65)));
        assert_eq!(levels(condition.settle(at(65))), Some((Warning, Healthy)));
        assert_eq!(condition.due(), None, "there is nothing left to wait for");
    }

    proptest! {
        #[test]
        fn it_never_waits_for_what_is_past_and_changes_at_most_twice_in_a_while(
            history in prop::collection::vec((0_u64..9000, 0_u8..5), 1..200),
        ) {
            let (mut condition, mut now, mut changes) = (Condition::default(), 0, Vec::new());
            let task = TaskId::new("t").unwrap();
            for (passed, act) in history {
                now += passed;
                let at = Timestamp::from_millis(now);
                match act {
                    0 => condition.reported(at, &says(Warning)),
                    1 => condition.reported(at, &says(Healthy)),
                    2 => condition.alerted(task.clone(), "found"),
                    3 => condition.ended(&task),
                    _ => {}
                }
                if let Some(change) = condition.settle(at) {
                    prop_assert_eq!(change.to, condition.level());
                    prop_assert!(change.from != change.to);
                    changes.push(at);
                }
                prop_assert!(condition.due().is_none_or(|due| due > at));
            }
            for three in changes.windows(3) {
                prop_assert!(three[2].since(three[0]) >= CONFIRM);
            }
        }
    }

    #[test]
    fn a_finding_is_watched_as_long_as_its_attempt_lasts() {
        let mut condition = Condition::default();
        let task = TaskId::new("t").unwrap();
        condition.alerted(task.clone(), "a loop");
        let change = condition.settle(at(0)).unwrap();
        assert_eq!((change.to, change.reason.as_str()), (Warning, "a loop"));
        assert_eq!(condition.settle(at(1000)), None);
        condition.ended(&task);
        assert_eq!(condition.settle(at(1000)), None);
        assert_eq!(levels(condition.settle(at(1005))), Some((Warning, Healthy)));
    }

    #[test]
    fn critical_is_for_good() {
        let mut condition = Condition::default();
        condition.reported(at(0), &says(Warning));
        assert!(condition.settle(at(0)).is_some());
        condition.reported(at(1), &says(Critical));
        assert_eq!(levels(condition.settle(at(1))), Some((Warning, Critical)));
        condition.reported(at(2), &says(Healthy));
        assert_eq!(condition.settle(at(99)), None);
        assert_eq!(condition.due(), None);
    }
}
