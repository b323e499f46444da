//! Restart intensity.

use std::{collections::VecDeque, time::Duration};

use crate::Timestamp;

/// The restarts of the last period.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct RestartWindow {
    /// Invariant: ascending, and at most one more than the intensity of the last call.
    times: VecDeque<Timestamp>,
}

impl RestartWindow {
    /// Counts a restart at `now`; `Err` when it is one too many. A restart exactly `period` old still counts.
    pub(super) fn count(
        &mut self,
        now: Timestamp,
        intensity: u32,
        period: Duration,
    ) -> Result<u32, ()> {
        self.times.push_back(now);
        // Compared as `age > period`, not `time < now - period`, which would saturate near the origin.
        while self
            .times
            .front()
            .is_some_and(|&time| now.since(time) > period)
        {
            self.times.pop_front();
        }
        let count = u32::try_from(self.times.len()).unwrap_or(u32::MAX);
        if count > intensity {
            Err(())
        } else {
            Ok(count)
        }
    }
}
