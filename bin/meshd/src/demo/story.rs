//! What the log tells, in a person's words: a line for what is notable, numbers for the rest. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_messages::agent::{FaultState, FaultView};
use mesh_messages::system::MeshEvent;
use mesh_messages::task::TaskAssignment;
use mesh_messages::{Failure, TaskId, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// An instance of an agent in one incarnation: id, replica, epoch.
type Incarnation = (String, u64, u64);

/// The story so far.
#[derive(Debug, Default)]
pub(super) struct Story {
    root: PathBuf,
    /// What each task is about, as people would name it.
    subjects: BTreeMap<TaskId, String>,
    at_work: BTreeMap<Incarnation, TaskId>,
    started: BTreeMap<TaskId, Timestamp>,
    /// Time from start to durable result of each attempt that succeeded.
    took: Vec<Duration>,
    succeeded: u64,
    failed: u64,
    attempts: u64,
    attempts_failed: u64,
    repeated: u64,
    instances: BTreeSet<(String, u64)>,
    restarts: u64,
    crashes: u64,
    breakers: u64,
    quarantines: u64,
    faults: BTreeMap<String, FaultState>,
    /// Crashes that the fault policy has not answered yet, and answers whose crash is not known yet, in words.
    unanswered: BTreeMap<String, String>,
    answers: BTreeMap<String, String>,
}

impl Story {
    /// An empty one. Files are named relative to `root`.
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            ..Self::default()
        }
    }

    /// Takes in an event; a line when it is notable.
    pub(super) fn see(&mut self, event: &MeshEvent) -> Option<String> {
        let kind = event.data["kind"].as_str()?;
        let payload = &event.data["payload"];
        if let Some(task) = read::<TaskId>(&event.data["task"]) {
            self.see_task(kind, task, payload);
            return None;
        }
        let agent = event.data["agent"].as_str()?.to_owned();
        match kind {
            "activated" => {
                let first = self.instances.insert((agent, number(payload, "instance")));
                self.restarts += u64::from(!first);
                None
            }
            "error" => self.crashed(agent, payload),
            "fault.changed" => self.fault(agent, event.time, &read(&payload["view"])?),
            _ => None,
        }
    }

    fn see_task(&mut self, kind: &str, task: TaskId, payload: &Value) {
        match kind {
            "task.submitted" => {
                let spec = &payload["spec"];
                let subject = spec["input"]["path"]
                    .as_str()
                    .map(|path| self.relative(path));
                let requirement = || {
                    spec["requirements"][0]
                        .as_str()
                        .unwrap_or("a task")
                        .to_owned()
                };
                self.subjects
                    .insert(task, subject.unwrap_or_else(requirement));
            }
            "task.assigned" => {
                self.attempts += 1;
                if let Some(to) = read::<TaskAssignment>(&payload["assignment"]) {
                    let at = (
                        to.agent_id.to_string(),
                        u64::from(to.instance.0),
                        to.epoch.0,
                    );
                    self.at_work.insert(at, task);
                }
            }
            "task.started" => {
                if let Some(at) = read(&payload["at"]) {
                    self.started.insert(task, at);
                }
            }
            "task.attempt_failed" => {
                self.attempts_failed += 1;
                let last = matches!(payload["then"].as_str(), Some("fail" | "dead_letter"));
                self.failed += u64::from(last);
                self.repeated += u64::from(!last);
            }
            "task.succeeded" => {
                self.succeeded += 1;
                let ended = read::<Timestamp>(&payload["at"]);
                if let (Some(started), Some(ended)) = (self.started.get(&task), ended) {
                    self.took.push(ended.since(*started));
                }
            }
            "task.dead_lettered" | "task.cancelled" => self.failed += 1,
            _ => {}
        }
    }

    fn relative(&self, path: &str) -> String {
        let relative = Path::new(path)
            .strip_prefix(&self.root)
            .unwrap_or(Path::new(path));
        relative.display().to_string()
    }

    /// An instance failed. Told together with what the fault policy made of it, whichever of the two is recorded first.
    fn crashed(&mut self, agent: String, payload: &Value) -> Option<String> {
        self.crashes += 1;
        let at = (agent, number(payload, "instance"), number(payload, "epoch"));
        let subject = self
            .at_work
            .get(&at)
            .and_then(|task| self.subjects.get(task));
        let on = subject
            .map(|subject| format!(" on {subject}"))
            .unwrap_or_default();
        let why = read::<Failure>(&payload["failure"])
            .map(|failure| format!(", {}", failure.message.trim_start_matches("ended by ")));
        let crash = format!("{} crashed{on}{}", at.0, why.unwrap_or_default());
        if let Some(answer) = self.answers.remove(&at.0) {
            return Some(format!("{crash}; {answer}"));
        }
        self.unanswered.insert(at.0, crash);
        None
    }

    fn fault(&mut self, agent: String, now: Timestamp, view: &FaultView) -> Option<String> {
        let before = self.faults.insert(agent.clone(), view.state);
        let wait = view.next_attempt_at.map(|at| seconds(at.since(now)));
        let wait = wait.unwrap_or_else(|| "a while".to_owned());
        let answer = match view.state {
            FaultState::Backoff => format!("restarts in {wait}"),
            FaultState::Open if before != Some(FaultState::Open) => {
                self.breakers += 1;
                format!("breaker open for {wait}, the others take its work")
            }
            FaultState::Quarantined if before != Some(FaultState::Quarantined) => {
                self.quarantines += 1;
                "quarantined, it gets nothing more to do".to_owned()
            }
            FaultState::HalfOpen if before != Some(FaultState::HalfOpen) => {
                return Some(format!("{agent} is on probation, with one task"));
            }
            FaultState::Running if before == Some(FaultState::HalfOpen) => {
                return Some(format!("{agent} did it, and is trusted again"));
            }
            FaultState::Running
            | FaultState::Open
            | FaultState::HalfOpen
            | FaultState::Quarantined
            | FaultState::Recovering
            | FaultState::Stopped
            | FaultState::Terminated => return None,
        };
        if let Some(crash) = self.unanswered.remove(&agent) {
            return Some(format!("{crash}; {answer}"));
        }
        self.answers.insert(agent, answer);
        None
    }

    /// The numbers.
    pub(super) fn summary(&self) -> String {
        let mut took = self.took.clone();
        took.sort();
        let tasks = match self.failed {
            0 => format!("{} accepted, all of them done", self.subjects.len()),
            failed => format!(
                "{} accepted, {} done, {failed} failed",
                self.subjects.len(),
                self.succeeded
            ),
        };
        let attempts = match self.attempts_failed {
            0 => format!("{}, none failed", self.attempts),
            failed if failed == self.repeated => format!(
                "{}, of which {failed} failed and were repeated",
                self.attempts
            ),
            failed => format!(
                "{}, of which {failed} failed, {} of them to be repeated",
                self.attempts, self.repeated
            ),
        };
        let faults = [
            counted(self.crashes, "crash", "crashes"),
            counted(self.restarts, "restart", "restarts"),
            counted(self.breakers, "breaker opening", "breaker openings"),
            counted(self.quarantines, "quarantine", "quarantines"),
        ];
        let times = match (percentile(&took, 50), percentile(&took, 99)) {
            (Some(median), Some(tail)) => {
                format!(
                    "p50 {}, p99 {}, from start to durable result",
                    seconds(median),
                    seconds(tail)
                )
            }
            _ => "none".to_owned(),
        };
        let rows = [
            ("tasks", tasks),
            ("attempts", attempts),
            ("agents", faults.join(", ")),
            ("task time", times),
        ];
        rows.map(|(name, text)| format!("{name:<10} {text}"))
            .join("\n")
    }
}

fn read<T: DeserializeOwned>(value: &Value) -> Option<T> {
    T::deserialize(value).ok()
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or(0)
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// The smallest value that `percent` of all do not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

fn seconds(time: Duration) -> String {
    match time.as_millis() {
        // So that 999 ms reads as the second that it is.
        ms @ 0..950 => format!("{ms} ms"),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use mesh_messages::Position;
    use serde_json::json;

    use super::*;

    fn event(kind: &str, agent: Value, task: Value, payload: Value) -> MeshEvent {
        MeshEvent {
            id: Some(Position(1)),
            topic: kind.to_owned(),
            time: Timestamp::from_millis(1_000_000),
            data: json!({"kind": kind, "agent": agent, "task": task, "actor": "meshd", "payload": payload}),
        }
    }

    fn on_task(kind: &str, payload: Value) -> MeshEvent {
        event(kind, Value::Null, json!("t1"), payload)
    }

    fn on_agent(kind: &str, payload: Value) -> MeshEvent {
        event(kind, json!("fragile"), Value::Null, payload)
    }

    fn at(ms: u64) -> Value {
        json!(Timestamp::from_millis(ms))
    }

    fn fault(state: &str, next_ms: u64) -> MeshEvent {
        let view = json!({
            "state": state, "score": 1, "crashesInWindow": 1, "nextAttemptAt": at(next_ms), "reason": null,
        });
        on_agent("fault.changed", json!({"view": view, "record": {}}))
    }

    fn assigned() -> MeshEvent {
        let assignment = json!({
            "taskId": "t1", "agentId": "fragile", "instance": 0, "epoch": 2, "attempt": 1, "confidence": 1.0,
            "reasoning": [], "estimatedDuration": null, "riskFactors": [], "assignedAt": at(5),
            "expectedCompletion": null,
        });
        on_task(
            "task.assigned",
            json!({"assignment": assignment, "candidates": []}),
        )
    }

    fn crash() -> MeshEvent {
        let failure =
            json!({"class": "crash", "message": "ended by signal 6 (abort)", "retryable": true});
        on_agent(
            "error",
            json!({"instance": 0, "epoch": 2, "failure": failure}),
        )
    }

    #[test]
    fn a_crash_is_told_with_its_file_its_cause_and_what_follows() {
        let mut story = Story::new(Path::new("/tree"));
        let spec = json!({"requirements": ["analyse-file"], "input": {"path": "/tree/src/a.rs"}});
        let lines: Vec<String> = [
            on_task("task.submitted", json!({"spec": spec})),
            assigned(),
            crash(),
            fault("backoff", 1_000_180),
            crash(),
            fault("open", 1_001_000),
            fault("half_open", 1_000_000),
            // Whichever is recorded first.
            fault("quarantined", 1_000_000),
            crash(),
        ]
        .iter()
        .filter_map(|event| story.see(event))
        .collect();
        let crashed = "fragile crashed on src/a.rs, signal 6 (abort)";
        assert_eq!(
            lines,
            [
                format!("{crashed}; restarts in 180 ms"),
                format!("{crashed}; breaker open for 1.0 s, the others take its work"),
                "fragile is on probation, with one task".to_owned(),
                format!("{crashed}; quarantined, it gets nothing more to do"),
            ]
        );
        let agents = "agents     3 crashes, 0 restarts, 1 breaker opening, 1 quarantine";
        assert!(story.summary().contains(agents), "{}", story.summary());
    }

    #[test]
    fn numbers_add_up() {
        let mut story = Story::new(Path::new("/"));
        for _ in 0..2 {
            story.see(&on_agent("activated", json!({"instance": 0, "epoch": 1})));
        }
        for (start, end) in [(0, 10), (0, 30), (0, 20)] {
            story.see(&assigned());
            story.see(&on_task(
                "task.started",
                json!({"attempt": 1, "at": at(start)}),
            ));
            story.see(&on_task(
                "task.succeeded",
                json!({"attempt": 1, "at": at(end), "output": null}),
            ));
        }
        assert_eq!((story.restarts, story.attempts, story.succeeded), (1, 3, 3));
        assert!(
            story.summary().contains("p50 20 ms, p99 30 ms"),
            "{}",
            story.summary()
        );
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let took: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&took, 50), Some(Duration::from_millis(50)));
        assert_eq!(percentile(&took, 99), Some(Duration::from_millis(99)));
        assert_eq!(percentile(&took[..1], 99), Some(Duration::from_millis(1)));
        assert_eq!(percentile(&[], 50), None);
    }
}
