//! Tasks that are submitted while blows fall, so that there is something to lose.

use std::collections::{BTreeMap, VecDeque};
use std::str::FromStr;
use std::time::Duration;

use mesh_messages::task::{TaskReceipt, TaskSpec};
use mesh_messages::{TaskId, Timestamp};
use serde_json::Value;

use crate::client::{Request, RequestError};
use crate::exit::{Exit, Failure};
use crate::session::Session;

/// Longest attempt at one of these tasks: what is hung must come to an end while somebody looks.
const ATTEMPT_MAX: Duration = Duration::from_secs(15);
/// How often one submission is tried; while meshd's own parts are hurt it is refused for a moment.
const TRIES_MAX: u32 = 50;

/// What to submit: a capability, and what the agent gets.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Load {
    pub(super) capability: String,
    pub(super) input: Value,
}

impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (capability, input) = text.split_once('=').unwrap_or((text, "null"));
        if capability.is_empty() {
            return Err("must be CAPABILITY or CAPABILITY=JSON".to_owned());
        }
        let input = mesh_messages::json::parse(input.as_bytes())
            .map_err(|error| format!("{input:?} is not JSON: {error}"))?;
        Ok(Self {
            capability: capability.to_owned(),
            input,
        })
    }
}

/// A submission that is still to be made.
#[derive(Debug)]
struct Due {
    at: Duration,
    spec: TaskSpec,
    tries: u32,
}

/// The tasks of one run.
#[derive(Debug)]
pub(super) struct Tasks {
    due: VecDeque<Due>,
    /// Those that meshd acknowledged, and when they must have ended.
    pub(super) acknowledged: BTreeMap<TaskId, Timestamp>,
    /// Those that it never did; they need not end.
    pub(super) given_up: u64,
}

impl Tasks {
    /// So many tasks, spread evenly over the time, each kind in its turn. `run` tells this run's from another's.
    pub(super) fn new(
        loads: &[Load],
        count: u32,
        time: Duration,
        patience: Duration,
        run: &str,
    ) -> Self {
        let mut due = VecDeque::new();
        for (n, load) in (0..count).zip(loads.iter().cycle()) {
            let at = time * n / count.max(1);
            let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let spec = TaskSpec {
                requirements: vec![load.capability.clone()],
                input: load.input.clone(),
                idempotency_key: Some(format!("chaos-{run}-{n}")),
                timeout_ms: Some(millis(ATTEMPT_MAX)),
                deadline_ms: Some(millis(time.saturating_sub(at) + patience)),
                labels: [("chaos".to_owned(), run.to_owned())].into(),
                ..TaskSpec::default()
            };
            due.push_back(Due { at, spec, tries: 0 });
        }
        Self {
            due,
            acknowledged: BTreeMap::new(),
            given_up: 0,
        }
    }

    /// When the next one is to be submitted.
    pub(super) fn next(&self) -> Option<Duration> {
        self.due.front().map(|due| due.at)
    }

    /// Submits what is due. What meshd cannot take just now stays due: under its key it is one task however often it is sent.
    pub(super) fn submit(
        &mut self,
        elapsed: Duration,
        now: Timestamp,
        session: &Session,
    ) -> Result<(), Failure> {
        while let Some(mut due) = self.due.pop_front_if(|due| due.at <= elapsed) {
            let body = serde_json::to_value(&due.spec).map_err(|error| {
                Failure::new(Exit::Bug, format!("cannot write the task as JSON: {error}"))
            })?;
            let sent = session
                .client()?
                .send(&Request::post(&["v1", "tasks"]).json(&body));
            match sent {
                Ok(answer) => {
                    let receipt: TaskReceipt = answer.read()?;
                    let within = Duration::from_millis(due.spec.deadline_ms.unwrap_or_default());
                    self.acknowledged.insert(receipt.id, now.plus(within));
                }
                Err(error) if !passes(&error) => return Err(error.into()),
                Err(_) => {
                    due.tries += 1;
                    if due.tries < TRIES_MAX {
                        self.due.push_front(due);
                    } else {
                        self.given_up += 1;
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Whether trying again makes sense.
fn passes(error: &RequestError) -> bool {
    match error {
        RequestError::Refused(refusal) => matches!(refusal.status, 429 | 503 | 504),
        RequestError::Lost { .. }
        | RequestError::TimedOut { .. }
        | RequestError::Unreachable { .. } => true,
        RequestError::Foreign { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_load_is_a_capability_and_perhaps_an_input() {
        let load = |text: &str| text.parse::<Load>();
        let expected = |input| {
            Ok(Load {
                capability: "echo".to_owned(),
                input,
            })
        };
        assert_eq!(load("echo"), expected(Value::Null));
        assert_eq!(load(r#"echo={"a":1}"#), expected(json!({"a": 1})));
        assert_eq!(load("echo=7"), expected(json!(7)));
        assert!(load("=7").is_err() && load("echo={").is_err());
    }

    #[test]
    fn tasks_are_spread_over_the_time_and_have_to_end_in_it() {
        let loads = ["a".parse().unwrap(), "b".parse().unwrap()];
        let (time, patience) = (Duration::from_secs(10), Duration::from_secs(20));
        let tasks = Tasks::new(&loads, 5, time, patience, "7");
        let told: Vec<_> = tasks
            .due
            .iter()
            .map(|due| {
                (
                    due.at.as_secs(),
                    due.spec.requirements[0].as_str(),
                    due.spec.deadline_ms,
                )
            })
            .collect();
        let expected = [
            (0, "a", Some(30_000)),
            (2, "b", Some(28_000)),
            (4, "a", Some(26_000)),
            (6, "b", Some(24_000)),
            (8, "a", Some(22_000)),
        ];
        assert_eq!(told, expected);
        let keys: std::collections::BTreeSet<_> = tasks
            .due
            .iter()
            .map(|due| due.spec.idempotency_key.clone())
            .collect();
        assert_eq!(keys.len(), 5);
        assert!(Tasks::new(&[], 5, time, patience, "7").due.is_empty());
    }
}
