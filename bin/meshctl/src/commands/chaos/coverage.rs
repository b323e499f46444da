//! How deep it went: which edges of the agents' fault policies were taken, and what became of attempts.

use std::collections::BTreeMap;

use mesh_messages::agent::FaultState;
use mesh_messages::events::{AfterFailure, AgentEvent, TaskEvent};
use serde::Serialize;

use super::evidence::{Evidence, Outcome};

/// The edges that chaos can lead an agent over, in the order in which it gets there.
const EDGES: [(FaultState, FaultState); 12] = [
    (FaultState::Running, FaultState::Backoff),
    (FaultState::Backoff, FaultState::Running),
    (FaultState::Running, FaultState::Open),
    (FaultState::Open, FaultState::HalfOpen),
    (FaultState::HalfOpen, FaultState::Running),
    (FaultState::HalfOpen, FaultState::Open),
    (FaultState::Running, FaultState::Quarantined),
    (FaultState::HalfOpen, FaultState::Quarantined),
    (FaultState::Quarantined, FaultState::Recovering),
    (FaultState::Recovering, FaultState::Running),
    (FaultState::Recovering, FaultState::Quarantined),
    (FaultState::Running, FaultState::Stopped),
];

/// How often something was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Seen {
    /// What.
    pub(super) what: String,
    pub(super) times: u64,
}

/// What was seen, and what could have been seen and was not.
pub(super) fn coverage(evidence: &Evidence) -> Vec<Seen> {
    let mut edges: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut failures: BTreeMap<&str, u64> = BTreeMap::new();
    for (agent, before) in &evidence.agents {
        let mut state = before.state;
        for (_, event) in evidence.life(agent) {
            match event {
                AgentEvent::FaultChanged { view, .. } if view.state != state => {
                    *edges.entry((state.name(), view.state.name())).or_default() += 1;
                    state = view.state;
                }
                AgentEvent::InstanceFailed { failure, .. } => {
                    *failures.entry(failure.class.name()).or_default() += 1;
                }
                _ => {}
            }
        }
    }
    let mut retried = 0;
    for (_, _, event) in evidence.work() {
        if let TaskEvent::AttemptFailed {
            then: AfterFailure::Retry { .. },
            ..
        } = event
        {
            retried += 1;
        }
    }
    let mut seen: Vec<Seen> = Vec::new();
    for (from, to) in EDGES {
        let edge = (from.name(), to.name());
        let times = edges.remove(&edge).unwrap_or_default();
        seen.push(Seen {
            what: format!("{} → {}", edge.0, edge.1),
            times,
        });
    }
    // Edges that only orders take.
    let others = edges
        .iter()
        .map(|((from, to), times)| (format!("{from} → {to}"), *times));
    let failures = failures
        .iter()
        .map(|(class, times)| (format!("failure: {class}"), *times));
    let all = others
        .chain(failures)
        .chain([("attempt tried again".to_owned(), retried)])
        .chain(blows(evidence));
    seen.extend(all.map(|(what, times)| Seen { what, times }));
    seen
}

/// Blows by action, and those that did not fall.
fn blows(evidence: &Evidence) -> Vec<(String, u64)> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for dealt in &evidence.dealt {
        let what = match &dealt.outcome {
            Outcome::Struck(answer) => format!("blow: {}", answer.blow.action),
            Outcome::Refused { code, .. } => format!("no blow: {code}"),
            Outcome::Unknown(_) => "no blow: no answer".to_owned(),
        };
        *counts.entry(what).or_default() += 1;
    }
    counts.into_iter().collect()
}
