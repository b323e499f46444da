//! Promises about agents: their incarnations, their starts, their quarantine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_messages::agent::FaultState;
use mesh_messages::events::AgentEvent;
use mesh_messages::{AgentId, Position, TaskId, Timestamp};

use super::super::evidence::{Before, Evidence, Fact};
use super::super::stories::Story;
use super::{Against, Finding, Verdict};

const HOUR: Duration = Duration::from_hours(1);
/// Who the records name when the policy itself decided.
const MESHD: &str = "meshd";

/// No incarnation's number was given out twice, or after a higher one.
pub(super) fn epochs_rise(evidence: &Evidence) -> Finding {
    let what = (
        "epochs-rise",
        "every start got a higher incarnation number than all before",
    );
    let mut against = Against::default();
    let mut starts = 0_u64;
    for agent in evidence.agents.keys() {
        let mut last = None;
        for (fact, event) in evidence.life(agent) {
            let AgentEvent::Activated { epoch, .. } = event else {
                continue;
            };
            starts += 1;
            if last.is_some_and(|last| *epoch <= last) {
                against.add(format!(
                    "{agent}: record {} gives epoch {epoch} again",
                    fact.position
                ));
            }
            last = Some(*epoch).max(last);
        }
    }
    let otherwise = if starts == 0 {
        Verdict::NotTested
    } else {
        Verdict::Held
    };
    against.finding(what, otherwise, format!("{starts} starts"))
}

/// One agent's policy, followed through its records.
struct Followed<'e> {
    agent: &'e AgentId,
    before: &'e Before,
    state: FaultState,
    /// When the wait that it is in may end; `None` when it is in none, or a person ended it.
    due: Option<Timestamp>,
    failures: Vec<Timestamp>,
    /// A decision that is judged when all that led to it was read: the record of a failure may follow it.
    decided: Option<(FaultState, Timestamp, Position)>,
    /// Failures that turned out to be a task's fault, and count no more.
    refunded: usize,
}

impl Followed<'_> {
    fn within(&self, window: Duration, until: Timestamp) -> usize {
        let from = until.minus(window);
        self.failures.iter().filter(|at| **at > from).count()
    }

    /// Whether the policy could decide so after that many failures.
    fn settle(&mut self, against: &mut Against) {
        let Some((state, at, position)) = self.decided.take() else {
            return;
        };
        let policy = &self.before.policy;
        let allowed = |most: u32| usize::try_from(most).unwrap_or(usize::MAX) + self.refunded;
        let in_window = self.within(policy.window, at);
        if state == FaultState::Backoff && in_window > allowed(policy.max_crashes) {
            against.add(format!(
                "{}: record {position} restarts it after {in_window} failures in {:?}, more than {}",
                self.agent, policy.window, policy.max_crashes
            ));
        }
        let in_hour = self.within(HOUR, at);
        if matches!(state, FaultState::Backoff | FaultState::Open)
            && in_hour > allowed(policy.per_hour)
        {
            against.add(format!(
                "{}: record {position} leaves it {} after {in_hour} failures in an hour, more than {}",
                self.agent,
                state.name(),
                policy.per_hour
            ));
        }
    }

    fn read(&mut self, fact: &Fact, event: &AgentEvent, against: &mut Against) {
        match event {
            AgentEvent::InstanceFailed { failure, .. } => {
                if failure.class.is_scored() {
                    self.failures.push(fact.time);
                }
                return;
            }
            AgentEvent::FaultChanged { view, .. } => {
                self.settle(against);
                let waits = matches!(
                    view.state,
                    FaultState::Backoff | FaultState::Open | FaultState::Quarantined
                );
                if waits {
                    self.due = view.next_attempt_at;
                } else if fact.actor != MESHD {
                    // A person's order: no wait has to be sat out.
                    self.due = None;
                }
                self.state = view.state;
                self.decided = Some((view.state, fact.time, fact.position));
                return;
            }
            AgentEvent::Activated { epoch, .. } => {
                let starts = matches!(
                    self.state,
                    FaultState::Running | FaultState::HalfOpen | FaultState::Recovering
                );
                if !starts {
                    against.add(format!(
                        "{}: record {} starts epoch {epoch} while it is {}",
                        self.agent,
                        fact.position,
                        self.state.name()
                    ));
                }
                if let Some(due) = self.due.filter(|due| starts && fact.time < *due) {
                    let early = due.since(fact.time);
                    against.add(format!(
                        "{}: record {} starts epoch {epoch} {early:?} before its time",
                        self.agent, fact.position
                    ));
                }
                self.due = None;
            }
            _ => {}
        }
        self.settle(against);
    }
}

/// Failures of each agent that were a poisonous task's fault.
fn refunds(stories: &BTreeMap<TaskId, Story>) -> BTreeMap<&AgentId, usize> {
    let mut refunds: BTreeMap<&AgentId, usize> = BTreeMap::new();
    for story in stories.values().filter(|story| story.dead_lettered) {
        for attempt in story
            .attempts
            .values()
            .filter(|attempt| attempt.ended_instance)
        {
            *refunds.entry(&attempt.agent).or_default() += 1;
        }
    }
    refunds
}

/// No agent was started more often, or earlier, than its policy allows.
pub(super) fn starts_by_policy(evidence: &Evidence, stories: &BTreeMap<TaskId, Story>) -> Finding {
    let what = (
        "starts-within-policy",
        "no agent was started more often or earlier than its policy allows",
    );
    let refunds = refunds(stories);
    let mut against = Against::default();
    let (mut starts, mut failures) = (0, 0);
    for (agent, before) in &evidence.agents {
        let mut followed = Followed {
            agent,
            before,
            state: before.state,
            due: before.due,
            failures: before.failures.clone(),
            decided: None,
            refunded: refunds.get(agent).copied().unwrap_or_default(),
        };
        for (fact, event) in evidence.life(agent) {
            starts += usize::from(matches!(event, AgentEvent::Activated { .. }));
            followed.read(fact, event, &mut against);
        }
        followed.settle(&mut against);
        failures += followed.failures.len() - before.failures.len();
    }
    let otherwise = if starts == 0 {
        Verdict::NotTested
    } else {
        Verdict::Held
    };
    let agents = evidence.agents.len();
    let text = format!("{starts} starts after {failures} failures of {agents} agents");
    against.finding(what, otherwise, text)
}

/// A quarantined agent was not started, and began no task.
pub(super) fn quarantine_is_complete(
    evidence: &Evidence,
    stories: &BTreeMap<TaskId, Story>,
) -> Finding {
    let what = (
        "quarantine-is-complete",
        "a quarantined agent was started by nobody and began no task",
    );
    let mut against = Against::default();
    let mut isolated: BTreeMap<&AgentId, Vec<(Position, Option<Position>)>> = BTreeMap::new();
    for (agent, before) in &evidence.agents {
        let spans = isolated.entry(agent).or_default();
        if before.state == FaultState::Quarantined {
            spans.push((Position(0), None));
        }
        for (fact, event) in evidence.life(agent) {
            let open = spans.last().is_some_and(|(_, end)| end.is_none());
            match event {
                AgentEvent::Quarantined { .. } if !open => spans.push((fact.position, None)),
                AgentEvent::FaultChanged { view, .. }
                    if open && view.state != FaultState::Quarantined =>
                {
                    if let Some((_, end)) = spans.last_mut() {
                        *end = Some(fact.position);
                    }
                }
                AgentEvent::Activated { epoch, .. } if open => {
                    against.add(format!(
                        "{agent}: record {} starts epoch {epoch}",
                        fact.position
                    ));
                }
                _ => {}
            }
        }
    }
    let mut declined = 0_u64;
    for (task, story) in stories {
        for attempt in story.attempts.values() {
            let within = isolated
                .get(&attempt.agent)
                .into_iter()
                .flatten()
                .any(|(begin, end)| {
                    attempt.assigned > *begin && end.is_none_or(|end| attempt.assigned < end)
                });
            match (within, attempt.started) {
                (true, true) => against.add(format!("{}: began {task}", attempt.agent)),
                (true, false) => declined += 1,
                (false, _) => {}
            }
        }
    }
    let agents: BTreeSet<_> = isolated
        .iter()
        .filter(|(_, spans)| !spans.is_empty())
        .collect();
    let otherwise = if agents.is_empty() {
        Verdict::NotTested
    } else {
        Verdict::Held
    };
    let text = if agents.is_empty() {
        "nobody was quarantined".to_owned()
    } else {
        format!(
            "{} agents were quarantined; {declined} assignments that crossed with it were declined",
            agents.len()
        )
    };
    against.finding(what, otherwise, text)
}
