//! Who is in scope, and how everybody stood before the first blow.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_messages::agent::{AgentStatus, AgentSummary, FaultState, PolicyValue};
use mesh_messages::events::AgentEvent;
use mesh_messages::system::{AuditEntry, SystemStatus};
use mesh_messages::task::{Task, TaskState};
use mesh_messages::{AgentId, Position, TaskId, Timestamp};
use serde_json::Value;

use super::evidence::{Before, Fact, Policy, What};
use super::plan::Prey;
use crate::client::{Listing, Request};
use crate::exit::{Exit, Failure};
use crate::session::Session;

/// Most agents of a fleet that are looked at: each costs a few requests.
const AGENTS_MAX: usize = 10_000;
/// Most unended tasks that are watched from the beginning.
const TASKS_MAX: usize = 5_000;
/// Records of one request.
const PAGE_ROWS: usize = 1000;
/// How far back failures count.
const HOUR: Duration = Duration::from_hours(1);

/// Whom the user named.
#[derive(Debug)]
pub(super) struct Scope<'a> {
    pub(super) agents: &'a [AgentId],
    pub(super) capability: Option<&'a str>,
    pub(super) all: bool,
    /// Whether parts of the tree are hurt, too.
    pub(super) parts: bool,
}

/// The fleet, before anything is done to it.
#[derive(Debug)]
pub(super) struct Fleet {
    /// Those in scope.
    pub(super) prey: Vec<Prey>,
    /// Everybody else.
    pub(super) siblings: Vec<AgentId>,
    /// Those whose processes are looked at: a part of the tree that is hurt may end anybody's.
    pub(super) watched: Vec<AgentId>,
}

/// Finds whom the scope means.
pub(super) fn find(scope: &Scope<'_>, session: &mut Session) -> Result<Fleet, Failure> {
    let answer = session.pages(&Request::get(&["v1", "agents"]), AGENTS_MAX)?;
    let all: Vec<AgentSummary> = answer.rows()?;
    let known: BTreeSet<&AgentId> = all.iter().map(|agent| &agent.id).collect();
    if let Some(unknown) = scope.agents.iter().find(|agent| !known.contains(agent)) {
        return Err(
            Failure::new(Exit::NotFound, format!("there is no agent {unknown}"))
                .hint("`meshctl agent list` shows who is there"),
        );
    }
    let is_meant = |agent: &AgentSummary| {
        let capable = |wanted: &str| agent.capabilities.iter().any(|known| known == wanted);
        scope.all || scope.agents.contains(&agent.id) || scope.capability.is_some_and(capable)
    };
    if let Some(wanted) = scope.capability.filter(|_| !all.iter().any(is_meant)) {
        return Err(Failure::new(
            Exit::NotFound,
            format!("no agent has the capability {wanted}"),
        ));
    }
    let (prey, siblings): (Vec<_>, Vec<_>) = all.into_iter().partition(is_meant);
    let prey: Vec<Prey> = prey
        .into_iter()
        .map(|agent| Prey {
            agent: agent.id,
            replicas: agent.instances_wanted,
        })
        .collect();
    let siblings: Vec<AgentId> = siblings.into_iter().map(|agent| agent.id).collect();
    let mut watched: Vec<AgentId> = prey.iter().map(|prey| prey.agent.clone()).collect();
    if scope.parts {
        watched.extend(siblings.iter().cloned());
    }
    Ok(Fleet {
        prey,
        siblings,
        watched,
    })
}

/// How everything stood.
#[derive(Debug)]
pub(super) struct Start {
    /// The first record that is not in the past.
    pub(super) from: Position,
    /// The node's key.
    pub(super) key: String,
    /// A signed checkpoint of the log so far.
    pub(super) witness: String,
    pub(super) agents: BTreeMap<AgentId, Before>,
    /// Tasks that had not ended, and their deadlines.
    pub(super) tasks: BTreeMap<TaskId, Timestamp>,
    /// When, by meshd's clock.
    pub(super) at: Timestamp,
}

/// Notes how everything stands.
pub(super) fn start(fleet: &Fleet, session: &mut Session) -> Result<Start, Failure> {
    let witness = session.send(&Request::get(&["v1", "audit", "checkpoint"]))?;
    let mut agents = BTreeMap::new();
    let everybody = fleet
        .prey
        .iter()
        .map(|prey| &prey.agent)
        .chain(&fleet.siblings);
    for agent in everybody {
        let status = status(agent, session)?;
        let values = session.send(&Request::get(&["v1", "agents", agent.as_str(), "policy"]))?;
        let fault = status.fault;
        let before = Before {
            state: fault
                .as_ref()
                .map_or(FaultState::Stopped, |fault| fault.state),
            due: fault.and_then(|fault| fault.next_attempt_at),
            policy: policy(&values.rows::<PolicyValue>()?),
            failures: Vec::new(),
        };
        agents.insert(agent.clone(), before);
    }
    let mut tasks = BTreeMap::new();
    for state in TaskState::ALL
        .into_iter()
        .filter(|state| !state.is_terminal())
    {
        let request = Request::get(&["v1", "tasks"]).query("state", Some(state.name()));
        let listed: Vec<Task> = session.pages(&request, TASKS_MAX)?.rows()?;
        tasks.extend(listed.into_iter().map(|task| (task.id, task.deadline_at)));
    }
    let status: SystemStatus = session.send(&Request::get(&["status"]))?.read()?;
    let at = status.started_at.plus(Duration::from_millis(status.uptime));
    let from = Position(status.journal.records);
    let past = Request::get(&["v1", "audit"])
        .query("kind", Some("error"))
        .query("since", Some(at.minus(HOUR)));
    for fact in facts(&past, None, session)? {
        let What::Agent(event) = &fact.what else {
            continue;
        };
        let AgentEvent::InstanceFailed { failure, .. } = &**event else {
            continue;
        };
        let agent = fact.agent.as_ref().and_then(|agent| agents.get_mut(agent));
        if let Some(agent) = agent.filter(|_| fact.position < from && failure.class.is_scored()) {
            agent.failures.push(fact.time);
        }
    }
    Ok(Start {
        from,
        key: status.node,
        witness: witness.text().to_owned(),
        agents,
        tasks,
        at,
    })
}

/// An agent's status.
pub(super) fn status(agent: &AgentId, session: &Session) -> Result<AgentStatus, Failure> {
    session
        .send(&Request::get(&["v1", "agents", agent.as_str(), "status"]))?
        .read()
}

/// The records that a request lists, beginning with this one, to their end.
pub(super) fn facts(
    request: &Request,
    from: Option<Position>,
    session: &Session,
) -> Result<Vec<Fact>, Failure> {
    let mut facts = Vec::new();
    let mut cursor = from
        .and_then(|from| from.0.checked_sub(1))
        .map(|last| last.to_string());
    loop {
        let page = request
            .clone()
            .query("limit", Some(PAGE_ROWS))
            .query("cursor", cursor.as_deref());
        let listing: Listing<AuditEntry> = session.send(&page)?.read()?;
        facts.extend(listing.items.into_iter().map(Fact::from));
        match listing.next_cursor {
            Some(next) => cursor = Some(next),
            None => return Ok(facts),
        }
    }
}

fn policy(values: &[PolicyValue]) -> Policy {
    let number = |key: &str| {
        let value = values.iter().find(|value| value.key == key);
        value.and_then(|value| Value::as_u64(&value.value))
    };
    // What this meshd does not tell limits nothing that could be judged.
    let count = |key| {
        number(key)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(u32::MAX)
    };
    Policy {
        max_crashes: count("lifecycle.max_crashes"),
        window: Duration::from_millis(number("lifecycle.crash_window_ms").unwrap_or_default()),
        per_hour: count("lifecycle.failures_per_hour"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_policy_is_read_out_of_its_values_and_what_is_not_told_limits_nothing() {
        let value = |key: &str, value| PolicyValue {
            key: key.to_owned(),
            value,
            origin: "default".to_owned(),
        };
        let values = [
            value("lifecycle.max_crashes", json!(3)),
            value("lifecycle.crash_window_ms", json!(60_000)),
            value("lifecycle.failures_per_hour", json!(12)),
        ];
        let told = Policy {
            max_crashes: 3,
            window: Duration::from_mins(1),
            per_hour: 12,
        };
        assert_eq!(policy(&values), told);
        assert_eq!(policy(&[]).max_crashes, u32::MAX);
    }
}
