//! The bugs: mistakes that somebody could make, one place each.

/// A bug, as an edit of the one place that reads `from`.
#[derive(Debug)]
pub(super) struct Mutant {
    /// Its name on the command line.
    pub(super) name: &'static str,
    /// What would be wrong.
    pub(super) bug: &'static str,
    /// Whose tests have to notice.
    pub(super) package: &'static str,
    /// From the root of the workspace.
    pub(super) file: &'static str,
    /// Text that the file has exactly once.
    pub(super) from: &'static str,
    /// What it becomes.
    pub(super) to: &'static str,
}

const SUPERVISION: &str = "mesh-supervision-core";
const SHELL: &str = "mesh-supervision";
const DECISIONS: &str = "mesh-actors-core";
const JOURNAL: &str = "mesh-persistence";

/// All of them.
pub(super) const MUTANTS: &[Mutant] = &[
    // ---- supervisors ----
    Mutant {
        name: "intensity-off-by-one",
        bug: "a supervisor gives up one restart too early",
        package: SUPERVISION,
        file: "supervision/core/src/supervisor/window.rs",
        from: "if count > intensity {",
        to: "if count >= intensity {",
    },
    Mutant {
        name: "window-edge",
        bug: "a restart exactly one period old no longer counts",
        package: SUPERVISION,
        file: "supervision/core/src/supervisor/window.rs",
        from: "now.since(time) > period)",
        to: "now.since(time) >= period)",
    },
    Mutant {
        name: "unordered-stop",
        bug: "children are told to stop all at once, not the last one first",
        package: SUPERVISION,
        file: "supervision/core/src/supervisor/ending.rs",
        from: "if self.flags.strategy == Strategy::Dynamic {",
        to: "if self.flags.strategy != Strategy::OneForAll {",
    },
    Mutant {
        name: "rest-for-all",
        bug: "rest_for_one restarts the children before the failed one, too",
        package: SUPERVISION,
        file: "supervision/core/src/supervisor/lifecycle.rs",
        from: "Strategy::RestForOne => self.restart_group(seat, turn),",
        to: "Strategy::RestForOne => self.restart_group(Seat::default(), turn),",
    },
    Mutant {
        name: "transient-always",
        bug: "a transient child that ended in order is restarted",
        package: SUPERVISION,
        file: "supervision/core/src/supervisor/lifecycle.rs",
        from: "Restart::Transient => reason.is_abnormal(),",
        to: "Restart::Transient => true,",
    },
    Mutant {
        name: "past-incarnation",
        bug: "the exit of a past incarnation is taken for the present one's",
        package: SUPERVISION,
        file: "supervision/core/src/supervisor.rs",
        from: "                == Some(incarnation)\n",
        to: "                .is_some()\n",
    },
    Mutant {
        name: "failed-restarts-are-free",
        bug: "a restart that failed is tried again without being counted",
        package: SUPERVISION,
        file: "supervision/core/src/supervisor/lifecycle.rs",
        from: "            self.restart(seat, \"its restart failed\", turn);",
        to: "            self.start(seat, StartCause::Restart, turn);",
    },
    Mutant {
        name: "late-limit-kills",
        bug: "the limit of asking, reached late, ends a child that is being killed already",
        package: SUPERVISION,
        file: "supervision/core/src/supervisor/stopping.rs",
        from: "(Limit::Killed, Limit::Killed) => {",
        to: "(Limit::Killed, _) => {",
    },
    Mutant {
        name: "all-significant-is-any",
        bug: "the end of one significant child ends a supervisor that waits for all of them",
        package: SUPERVISION,
        file: "supervision/core/src/supervisor/lifecycle.rs",
        from: "ChildState::Running { .. } | ChildState::Restarting { .. } => stays = true,",
        to: "ChildState::Running { .. } | ChildState::Restarting { .. } => {}",
    },
    Mutant {
        name: "killed-is-normal",
        bug: "an actor that was killed counts as ended in order",
        package: SHELL,
        file: "supervision/src/exit.rs",
        from: "Some(KILLED | CANCELLED) => ExitReason::Killed,",
        to: "Some(KILLED | CANCELLED) => ExitReason::Normal,",
    },
    // ---- the fault policy ----
    Mutant {
        name: "crashes-off-by-one",
        bug: "the breaker opens one crash too early",
        package: SUPERVISION,
        file: "supervision/core/src/fault/failures.rs",
        from: "map_or(true, |count| count > max)",
        to: "map_or(true, |count| count >= max)",
    },
    Mutant {
        name: "forgotten-timer-token",
        bug: "a timer that was disarmed fires all the same",
        package: SUPERVISION,
        file: "supervision/core/src/fault/trial.rs",
        from: "self.record.timer.filter(|timer| timer.token == token)",
        to: "self.record.timer.filter(|timer| timer.token >= token)",
    },
    Mutant {
        name: "early-timer",
        bug: "a timer that a clock set back delivers early starts the agent early",
        package: SUPERVISION,
        file: "supervision/core/src/fault/trial.rs",
        from: "if turn.now < timer.at {",
        to: "if turn.now > timer.at {",
    },
    Mutant {
        name: "two-permits",
        bug: "an agent on trial is given a second task",
        package: SUPERVISION,
        file: "supervision/core/src/fault/trial.rs",
        from: "if self.record.up_since.is_some() && self.is_idle() {",
        to: "if self.record.up_since.is_some() {",
    },
    Mutant {
        name: "past-epoch-is-up",
        bug: "the readiness of a past incarnation counts for the present one",
        package: SUPERVISION,
        file: "supervision/core/src/fault/trial.rs",
        from: "if epoch != record.epoch || record",
        to: "if record",
    },
    Mutant {
        name: "no-hourly-limit",
        bug: "an agent that crashes slowly is restarted for ever",
        package: SUPERVISION,
        file: "supervision/core/src/fault/failures.rs",
        from: "|| exceeds(self.record.hour.len(), self.config.hourly_max)",
        to: "",
    },
    Mutant {
        name: "one-recovery-more",
        bug: "an exhausted agent recovers by itself once more",
        package: SUPERVISION,
        file: "supervision/core/src/fault.rs",
        from: "self.record.recovery_attempt > quarantine.max_retries",
        to: "self.record.recovery_attempt > quarantine.max_retries + 1",
    },
    Mutant {
        name: "quarantine-forgotten",
        bug: "an agent in quarantine runs again after a restart of its owner",
        package: SUPERVISION,
        file: "supervision/core/src/fault.rs",
        from: "                policy.isolate(turn);\n                if let Some(timer)",
        to: "                policy.start(turn);\n                if let Some(timer)",
    },
    Mutant {
        name: "cool-down-is-skipped",
        bug: "an order to start ends a cool-down early",
        package: SUPERVISION,
        file: "supervision/core/src/fault/orders.rs",
        from: "(Order::Start, FaultState::Stopped) => {",
        to: "(Order::Start, FaultState::Stopped | FaultState::Open) => {",
    },
    // ---- tasks ----
    Mutant {
        name: "missing-fence",
        bug: "a result of a past epoch is accepted",
        package: DECISIONS,
        file: "actors/core/src/task/attempt.rs",
        from: "        && attempt.epoch == named.epoch\n",
        to: "",
    },
    Mutant {
        name: "any-attempt",
        bug: "a result of a superseded attempt is accepted",
        package: DECISIONS,
        file: "actors/core/src/task/attempt.rs",
        from: "attempt.number == named.attempt",
        to: "attempt.number >= named.attempt",
    },
    Mutant {
        name: "one-attempt-more",
        bug: "a task is tried once more than its limit allows",
        package: DECISIONS,
        file: "actors/core/src/task/attempt.rs",
        from: "record.used + 1 < record.retry.max_attempts",
        to: "record.used < record.retry.max_attempts",
    },
    Mutant {
        name: "lost-uses-up",
        bug: "an attempt that meshd lost uses up one of the task's",
        package: DECISIONS,
        file: "actors/core/src/task/record.rs",
        from: "TaskConsequence::RetryFree => self.lost += 1,",
        to: "TaskConsequence::RetryFree => self.used += 1,",
    },
    Mutant {
        name: "key-for-any-body",
        bug: "one idempotency key answers for two different tasks",
        package: DECISIONS,
        file: "actors/core/src/task/submit.rs",
        from: "if first != digest {",
        to: "if first.is_empty() {",
    },
    Mutant {
        name: "cancelled-works-on",
        bug: "a cancelled task's attempt is not told to stop",
        package: DECISIONS,
        file: "actors/core/src/task/tx.rs",
        from: "        self.stop_attempt(id, &reason);\n        let at = self.ctx.now;\n        self.emit(id, TaskEvent::Cancelled",
        to: "        let at = self.ctx.now;\n        self.emit(id, TaskEvent::Cancelled",
    },
    Mutant {
        name: "poison-is-blamed",
        bug: "an agent keeps the score of a poison task",
        package: DECISIONS,
        file: "actors/core/src/task/attempt.rs",
        from: "tx.effect(Effect::RefundScore { agent, failures });",
        to: "let _kept = (agent, failures);",
    },
    Mutant {
        name: "no-parallel-limit",
        bug: "more tasks are at work than max_parallel_tasks",
        package: DECISIONS,
        file: "actors/core/src/task/dispatch.rs",
        from: "limit.saturating_sub(tasks.at_work())",
        to: "limit.saturating_sub(tasks.at_work().min(1))",
    },
    // ---- the journal ----
    Mutant {
        name: "dropped-fsync",
        bug: "an append is acknowledged without being synced",
        package: JOURNAL,
        file: "persistence/src/file/committer.rs",
        from: "        self.file.write_all_at(&buffer, self.offset)?;\n        self.sync()?;\n",
        to: "        self.file.write_all_at(&buffer, self.offset)?;\n",
    },
    Mutant {
        name: "failed-fsync-goes-on",
        bug: "after a failed sync the journal takes more",
        package: JOURNAL,
        file: "persistence/src/file/committer.rs",
        from: "            inner.failed = Some(failed.clone());\n",
        to: "",
    },
    Mutant {
        name: "acknowledged-is-torn",
        bug: "damage to what was acknowledged is taken for an unfinished write, and cut off",
        package: JOURNAL,
        file: "persistence/src/file/recover.rs",
        from: "if at < acknowledged || followed_by_batch(data, at, next) {",
        to: "if followed_by_batch(data, at, next) {",
    },
    Mutant {
        name: "unchecked-payload",
        bug: "a payload with a wrong checksum is read",
        package: JOURNAL,
        file: "persistence/src/file/layout.rs",
        from: "(crc32c::crc32c(content) == u32_at(self.body, 0)).then_some((salt, payload))",
        to: "Some((salt, payload))",
    },
    Mutant {
        name: "middle-is-torn",
        bug: "damage with sound batches behind it is taken for an unfinished write, and cut off with them",
        package: JOURNAL,
        file: "persistence/src/file/recover.rs",
        from: "if at < acknowledged || followed_by_batch(data, at, next) {",
        to: "if at < acknowledged {",
    },
];
