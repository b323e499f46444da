//! How good each agent's results are, by what verified them. Folded from the journal, part of the task machine's state.
//!
//! | what happened | verified | passed first | passed |
//! |---|---|---|---|
//! | its first result at a task passed | +1 | +1 | +1 |
//! | its first result at a task broke the contract | +1 | | |
//! | a later result of its at the same task passed | | | +1 |
//! | a later one broke the contract | | | |
//! | it says itself that it broke the contract, or hands in what is no result | | | |
//!
//! Each task counts once for each agent that handed something in, under its type and under every capability that it needed.

use std::collections::BTreeMap;

use mesh_messages::events::TaskEvent;
use mesh_messages::quality::Quality;
use mesh_messages::task::{Task, TaskContract};
use mesh_messages::{AgentId, Failure, FailureClass};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::PAIRS_MAX;

/// What is known of one agent's results.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AgentQuality {
    /// Of all its tasks, each once.
    pub all: Quality,
    /// By the type of the task.
    pub types: BTreeMap<String, Quality>,
    /// By each capability that the task needed.
    pub capabilities: BTreeMap<String, Quality>,
}

/// What is known of every agent's results.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(from = "BTreeMap<AgentId, AgentQuality>")]
pub struct Qualities {
    agents: BTreeMap<AgentId, AgentQuality>,
    /// How many types and capabilities are kept of all of them.
    pairs: usize,
}

impl From<BTreeMap<AgentId, AgentQuality>> for Qualities {
    fn from(agents: BTreeMap<AgentId, AgentQuality>) -> Self {
        let pairs = |known: &AgentQuality| known.types.len() + known.capabilities.len();
        let pairs = agents.values().map(pairs).sum();
        Self { agents, pairs }
    }
}

impl Serialize for Qualities {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.agents.serialize(serializer)
    }
}

impl Qualities {
    /// What is known of an agent.
    pub fn agent(&self, agent: &AgentId) -> Option<&AgentQuality> {
        self.agents.get(agent)
    }

    /// What is known of every agent.
    pub fn all(&self) -> impl Iterator<Item = (&AgentId, &AgentQuality)> {
        self.agents.iter()
    }

    /// Takes in what an event says of the attempt that it ends; `needs` is what the task needed. The event is part of the
    /// task already.
    pub(crate) fn note(&mut self, task: &Task, needs: &[String], event: &TaskEvent) {
        let passed = match event {
            TaskEvent::Succeeded { .. } => true,
            TaskEvent::AttemptFailed { failure, .. } if is_found(failure) => false,
            TaskEvent::AttemptFailed { .. }
            | TaskEvent::Submitted { .. }
            | TaskEvent::Waiting { .. }
            | TaskEvent::Assigned { .. }
            | TaskEvent::Started { .. }
            | TaskEvent::Checking { .. }
            | TaskEvent::Checked { .. }
            | TaskEvent::Claim { .. }
            | TaskEvent::Trust(_)
            | TaskEvent::Gate { .. }
            | TaskEvent::Budget { .. }
            | TaskEvent::Cancelled { .. }
            | TaskEvent::DeadLettered { .. }
            | TaskEvent::Approved { .. }
            | TaskEvent::Escalation { .. }
            | TaskEvent::Team { .. }
            | TaskEvent::Retried { .. } => return,
        };
        let by_agent = task.submitted_by.starts_with("agent:");
        let verified = task.spec.contract.as_ref().is_some_and(verifies);
        let Some((last, earlier)) = task.attempts.split_last().filter(|_| verified && !by_agent)
        else {
            return;
        };
        let again = earlier.iter().any(|attempt| {
            attempt.agent_id == last.agent_id && attempt.error.as_ref().is_some_and(is_found)
        });
        let seen = Quality {
            verified: u64::from(!again),
            passed_first: u64::from(!again && passed),
            passed: u64::from(passed),
        };
        if seen != Quality::default() {
            self.add(&last.agent_id, task.spec.action(), needs, seen);
        }
    }

    fn add(&mut self, agent: &AgentId, kind: &str, needs: &[String], seen: Quality) {
        let full = self.pairs >= PAIRS_MAX;
        if full && !self.agents.contains_key(agent) {
            return;
        }
        let known = self.agents.entry(agent.clone()).or_default();
        known.all = known.all.plus(seen);
        // Types are free text of the submitters: when there are too many, later ones count in the sum alone.
        let pairs = &mut self.pairs;
        let mut count = |named: &mut BTreeMap<String, Quality>, name: &str| {
            if let Some(old) = named.get_mut(name) {
                *old = old.plus(seen);
            } else if !full {
                named.insert(name.to_owned(), seen);
                *pairs += 1;
            }
        };
        count(&mut known.types, kind);
        for need in needs {
            count(&mut known.capabilities, need);
        }
    }
}

/// Whether a failure is what meshd's checks found of a result. That an agent says so of its own, nobody looked at.
fn is_found(failure: &Failure) -> bool {
    failure.class == FailureClass::Contract && !failure.unchecked
}

/// Whether a contract can refuse anything.
fn verifies(contract: &TaskContract) -> bool {
    let schema = contract.output_schema.as_ref();
    let says = |schema: &Value| match schema {
        Value::Object(rules) => !rules.is_empty(),
        Value::Bool(accepts) => !accepts,
        _ => true,
    };
    !contract.checks.is_empty() || schema.is_some_and(says)
}

#[cfg(test)]
mod tests {
    use mesh_messages::events::AfterFailure;
    use mesh_messages::task::TaskSpec;
    use mesh_messages::{AttemptNo, Epoch, InstanceNo, Timestamp};
    use serde_json::json;

    use super::*;
    use crate::task::TaskRecord;

    /// A task, and what is known of the agents that try it.
    struct Story {
        record: TaskRecord,
        qualities: Qualities,
        attempts: u32,
    }

    impl Story {
        fn new(by: &str, contract: Value) -> Self {
            let spec: TaskSpec = serde_json::from_value(json!({
                "requirements": ["write"], "type": "essay", "input": 1, "contract": contract,
            }))
            .unwrap();
            let submitted = TaskEvent::Submitted {
                spec: Box::new(spec),
                by: by.to_owned(),
                at: Timestamp::ZERO,
                deadline_at: Timestamp::from_millis(1000),
                retry: mesh_messages::task::RetrySpec::default(),
                depth: 0,
                digest: String::new(),
                ruling: None,
                envelope: None,
            };
            let id = mesh_messages::TaskId::new("t").unwrap();
            Self {
                record: TaskRecord::first(&id, &submitted).unwrap(),
                qualities: Qualities::default(),
                attempts: 0,
            }
        }

        fn take(&mut self, event: &TaskEvent) {
            self.record.fold(event).unwrap();
            let task = &self.record.task;
            self.qualities.note(task, &["write".to_owned()], event);
        }

        fn attempt(&mut self, agent: &str, end: Result<(), FailureClass>) {
            self.attempt_with(agent, end.map_err(|class| Failure::new(class, "it is so")));
        }

        fn attempt_with(&mut self, agent: &str, end: Result<(), Failure>) {
            let failed = end.is_err();
            self.attempts += 1;
            let (attempt, at) = (AttemptNo(self.attempts), Timestamp::from_millis(1));
            self.take(&TaskEvent::Assigned {
                assignment: mesh_messages::task::TaskAssignment {
                    task_id: self.record.task.id.clone(),
                    agent_id: AgentId::new(agent).unwrap(),
                    instance: InstanceNo(0),
                    epoch: Epoch(1),
                    attempt,
                    confidence: 0.5,
                    reasoning: Vec::new(),
                    estimated_duration: None,
                    risk_factors: Vec::new(),
                    assigned_at: at,
                    expected_completion: None,
                },
                candidates: Vec::new(),
                limit_ms: None,
            });
            self.take(&TaskEvent::Started { attempt, at });
            self.take(&match end {
                Ok(()) => TaskEvent::Succeeded {
                    attempt,
                    at,
                    output: json!(1),
                },
                Err(failure) => TaskEvent::AttemptFailed {
                    attempt,
                    at,
                    failure,
                    ended_instance: false,
                    alone: false,
                    then: AfterFailure::Retry { at },
                },
            });
            if failed {
                self.take(&TaskEvent::Waiting {
                    state: mesh_messages::task::TaskState::Queued,
                    waiting_for: None,
                });
            }
        }

        #[track_caller]
        fn is(&self, agent: &str, counts: [u64; 3]) {
            let known = self.qualities.agent(&AgentId::new(agent).unwrap());
            let [verified, passed_first, passed] = counts;
            let expected = Quality {
                verified,
                passed_first,
                passed,
            };
            let known = known.cloned().unwrap_or_default();
            assert_eq!(known.all, expected, "{agent}");
            if !expected.is_empty() {
                assert_eq!(known.types["essay"], expected);
                assert_eq!(known.capabilities["write"], expected);
            }
        }
    }

    fn checked() -> Value {
        json!({"checks": [{"name": "c", "command": ["true"]}]})
    }

    #[test]
    fn each_agent_counts_once_for_a_task_by_its_first_and_its_last_result() {
        let mut story = Story::new("user:a", checked());
        story.attempt("one", Err(FailureClass::Contract));
        story.is("one", [1, 0, 0]);
        story.attempt("one", Err(FailureClass::Contract));
        story.is("one", [1, 0, 0]);
        // What was never handed in was not verified.
        story.attempt("two", Err(FailureClass::Crash));
        story.is("two", [0, 0, 0]);
        story.attempt("one", Ok(()));
        story.is("one", [1, 0, 1]);
        let mut story = Story::new("user:a", checked());
        story.attempt("one", Err(FailureClass::Contract));
        story.attempt("two", Ok(()));
        story.is("one", [1, 0, 0]);
        story.is("two", [1, 1, 1]);
    }

    #[test]
    fn what_an_agent_says_of_its_own_was_not_verified() {
        let own_word = || Failure {
            unchecked: true,
            ..Failure::new(FailureClass::Contract, "I broke it")
        };
        let mut story = Story::new("user:a", checked());
        story.attempt_with("one", Err(own_word()));
        story.is("one", [0, 0, 0]);
        // The first result that somebody looked at is its first.
        story.attempt("one", Ok(()));
        story.is("one", [1, 1, 1]);
    }

    #[test]
    fn without_a_word_of_somebody_else_nothing_counts() {
        for (by, contract) in [
            ("user:a", Value::Null),
            ("user:a", json!({"outputSchema": {}})),
            ("agent:boss", checked()),
        ] {
            let mut story = Story::new(by, contract);
            story.attempt("one", Ok(()));
            story.is("one", [0, 0, 0]);
        }
        let mut story = Story::new("user:a", json!({"outputSchema": {"type": "number"}}));
        story.attempt("one", Ok(()));
        story.is("one", [1, 1, 1]);
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_sum_goes_on() {
        let mut qualities = Qualities::default();
        let agent = AgentId::new("a").unwrap();
        let seen = Quality {
            verified: 1,
            passed_first: 1,
            passed: 1,
        };
        for kind in 0..PAIRS_MAX + 10 {
            qualities.add(&agent, &kind.to_string(), &[], seen);
        }
        let known = qualities.agent(&agent).unwrap();
        assert_eq!(known.types.len(), PAIRS_MAX);
        assert_eq!(known.all.verified, PAIRS_MAX as u64 + 10);
        qualities.add(&AgentId::new("b").unwrap(), "t", &[], seen);
        assert_eq!(qualities.agents.len(), 1);
        // Read back, it goes on the same way.
        let text = serde_json::to_string(&qualities).unwrap();
        assert!(text.starts_with("{\"a\":{\"all\""));
        assert_eq!(serde_json::from_str::<Qualities>(&text).unwrap(), qualities);
    }
}
