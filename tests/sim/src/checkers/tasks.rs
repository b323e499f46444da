//! Acknowledged tasks are never lost, each has exactly one outcome, and nobody speaks for an attempt that is over.
//!
//! The ledger folds the journal's events by rules of its own: where a task may go from where it is, what a failure of
//! each class leads to, who has which attempt. It is kept twice: of what is on the disk, and of what the machine has
//! decided; a crash throws the second away.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use mesh_messages::claim::{ClaimMode, ClaimStep};
use mesh_messages::escalation::EscalationMove;
use mesh_messages::events::{AfterFailure, TaskEvent};
use mesh_messages::task::{TaskAssignment, TaskState, WaitReason};
use mesh_messages::team::TeamStep;
use mesh_messages::{AgentId, AttemptNo, Epoch, FailureClass, InstanceNo, TaskId};

use super::fault_rules::{LOST_MAX, Meaning, of_class};
use super::{Verdict, breach, ensure};
use crate::edges::Edges;
use crate::journal::Stored;
use crate::world::Part;

const LOST: &str = "an acknowledged task is never lost";
const ONCE: &str = "every task has exactly one outcome";
const FENCE: &str = "results of superseded attempts are refused";
const RETRIES: &str = "a failure leads to what its class says";
const DECLINED: &str = "who declined a task is not asked again";
const SLOTS: &str = "no more work at once than is allowed";
const CLAIMS: &str =
    "what one attempt has claimed, no other has, and it has all that its task claims";

const TEAMS: &str = "a team's task succeeds with all of its parts, and nobody else has it";

/// Who has an attempt.
pub(crate) type Holder = (AgentId, InstanceNo, Epoch);

/// One task.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) state: TaskState,
    pub(crate) attempt: AttemptNo,
    pub(crate) holder: Option<Holder>,
    pub(crate) parent: Option<TaskId>,
    /// What each of its attempts has for itself.
    claims: Vec<String>,
    round: u32,
    attempts_max: u32,
    used: u32,
    lost: u32,
    solo: u32,
    /// Who declined it in this round.
    declined: BTreeSet<Holder>,
    /// How it ends if nobody takes it up, while somebody is asked to.
    escalated: Option<TaskState>,
    /// The parts of the team that has it.
    team: Option<Vec<TaskId>>,
}

/// All tasks by their events.
#[derive(Debug, Clone, Default)]
pub(crate) struct Book {
    pub(crate) lines: BTreeMap<TaskId, Line>,
    /// What each incarnation has in flight.
    pub(crate) held: BTreeMap<Holder, BTreeSet<TaskId>>,
    /// Children that have not ended, by parent.
    children: BTreeMap<TaskId, usize>,
    /// Who has which resource, and how.
    claimed: BTreeMap<String, BTreeMap<TaskId, ClaimMode>>,
    /// The last token that was given out.
    token: u64,
}

impl Book {
    /// Takes an event in.
    pub(crate) fn fold(&mut self, id: &TaskId, event: &TaskEvent, edges: &mut Edges) -> Verdict {
        let before = self.lines.get(id).map(|line| line.state);
        if let TaskEvent::Submitted { spec, retry, .. } = event {
            ensure(before.is_none(), ONCE, || {
                format!("{id} was accepted twice")
            })?;
            let state = if spec.depends_on.is_empty() && spec.approval.is_none() {
                TaskState::Queued
            } else {
                TaskState::Blocked
            };
            if let Some(parent) = &spec.parent {
                *self.children.entry(parent.clone()).or_default() += 1;
            }
            let line = Line {
                state,
                attempt: AttemptNo(0),
                holder: None,
                parent: spec.parent.clone(),
                claims: spec.claims.iter().map(|one| one.resource.clone()).collect(),
                round: 0,
                attempts_max: retry.max_attempts.unwrap_or(3),
                used: 0,
                lost: 0,
                solo: 0,
                declined: BTreeSet::new(),
                escalated: None,
                team: None,
            };
            edges.hit_named("task", format_args!("submitted > {state}"));
            self.lines.insert(id.clone(), line);
            return Ok(());
        }
        if matches!(event, TaskEvent::Gate { .. } | TaskEvent::Budget { .. }) {
            // It tells of an account; the task that it was noted with may have ended.
            return Ok(());
        }
        let Some(line) = self.lines.get_mut(id) else {
            return breach(
                LOST,
                format!("{id} is not known, and {} happens to it", event.kind()),
            );
        };
        let from = line.state;
        let over = from.is_terminal();
        ensure(
            !over || matches!(event, TaskEvent::Retried { .. }),
            ONCE,
            || format!("{id} has ended {from}, and then {}", event.kind()),
        )?;
        let held = line.holder.clone();
        let to = next(id, line, event, edges)?;
        line.state = to;
        let team = line.team.clone();
        if to != TaskState::Blocked || line.escalated.is_some() {
            line.team = None;
        }
        let teams = line.team.is_some();
        if let (TaskEvent::Team { step, .. }, Some(parts)) = (event, &team)
            && matches!(**step, TeamStep::Done { .. })
        {
            let lacks = parts.iter().find(|part| {
                let part = self.lines.get(*part);
                part.is_none_or(|part| part.state != TaskState::Succeeded)
            });
            ensure(lacks.is_none(), TEAMS, || {
                format!("{id} succeeded, and not its part {lacks:?}")
            })?;
        }
        let Some(line) = self.lines.get(id) else {
            return Ok(());
        };
        if from != to {
            edges.hit_named("task", format_args!("{from} > {to}"));
        }
        let (now, parent) = (line.holder.clone(), line.parent.clone());
        self.claims(id, event, now.is_some() || teams, edges)?;
        self.moved(id, held, now);
        if let Some(parent) = parent {
            let open = self.children.entry(parent).or_default();
            if to.is_terminal() && !over {
                *open = open.saturating_sub(1);
            } else if over && !to.is_terminal() {
                *open += 1;
            }
        }
        Ok(())
    }

    /// What an event means for the resources that tasks claim.
    fn claims(
        &mut self,
        id: &TaskId,
        event: &TaskEvent,
        under_way: bool,
        edges: &mut Edges,
    ) -> Verdict {
        if !under_way {
            for holders in self.claimed.values_mut() {
                if holders.remove(id).is_some() {
                    edges.hit("claim", "given back with the attempt");
                }
            }
            self.claimed.retain(|_, holders| !holders.is_empty());
        }
        match event {
            TaskEvent::Claim { resource, step, .. } => {
                let ClaimStep::Granted { token, mode, .. } = step else {
                    let what = || format!("{id}: {step:?}, and nobody asks for that here");
                    return ensure(false, CLAIMS, what);
                };
                let holders = self.claimed.entry(resource.clone()).or_default();
                let shared =
                    |of: &ClaimMode| *of == ClaimMode::Shared && *mode == ClaimMode::Shared;
                let fits = holders.values().all(shared) && !holders.contains_key(id);
                ensure(fits && *token > self.token, CLAIMS, || {
                    format!(
                        "{id} gets {resource} as {token}, {holders:?} had it; the last was {}",
                        self.token
                    )
                })?;
                if holders.insert(id.clone(), *mode).is_none() && holders.len() > 1 {
                    edges.hit("claim", "shared");
                }
                self.token = *token;
                edges.hit("claim", "taken with an attempt");
            }
            TaskEvent::Started { .. } => {
                let line = self.lines.get(id);
                let mut claims = line.into_iter().flat_map(|line| &line.claims);
                let has = |one: &String| {
                    self.claimed
                        .get(one)
                        .is_some_and(|all| all.contains_key(id))
                };
                let lacks = claims.find(|one| !has(one));
                ensure(lacks.is_none(), CLAIMS, || {
                    format!("{id} began without {lacks:?}")
                })?;
            }
            TaskEvent::Waiting {
                waiting_for: Some(waits),
                ..
            } if waits.reason == WaitReason::Claim => {
                edges.hit("claim", "waited for");
            }
            _ => {}
        }
        Ok(())
    }

    fn moved(&mut self, id: &TaskId, from: Option<Holder>, to: Option<Holder>) {
        if from == to {
            return;
        }
        if let Some(from) = from
            && let Some(held) = self.held.get_mut(&from)
        {
            held.remove(id);
            if held.is_empty() {
                self.held.remove(&from);
            }
        }
        if let Some(to) = to {
            self.held.entry(to).or_default().insert(id.clone());
        }
    }

    /// Whether this is the attempt under way.
    pub(crate) fn is_current(&self, id: &TaskId, attempt: AttemptNo, holder: &Holder) -> bool {
        self.lines
            .get(id)
            .is_some_and(|line| line.attempt == attempt && line.holder.as_ref() == Some(holder))
    }

    /// Who has this attempt, if it is the one under way.
    pub(crate) fn holder(&self, id: &TaskId, attempt: AttemptNo) -> Option<&Holder> {
        let line = self.lines.get(id).filter(|line| line.attempt == attempt)?;
        line.holder.as_ref()
    }

    fn at_work(&self, id: &TaskId) -> bool {
        self.children.get(id).is_none_or(|open| *open == 0)
    }

    /// The limits on work at one time, whenever something was handed out.
    pub(crate) fn check_slots(&self, holder: &Holder, slots: u32, parallel: u32) -> Verdict {
        let busy = |ids: &BTreeSet<TaskId>| ids.iter().filter(|id| self.at_work(id)).count();
        let on_it = self.held.get(holder).map_or(0, busy);
        ensure(on_it <= slots as usize, SLOTS, || {
            format!("{on_it} are at work on {holder:?}, which takes {slots}")
        })?;
        let all: usize = self.held.values().map(busy).sum();
        ensure(all <= parallel as usize, SLOTS, || {
            format!("{all} are at work, and {parallel} may be")
        })
    }
}

/// The result of the attempt under way was checked, which by itself leads nowhere.
fn checked(id: &TaskId, line: &Line, attempt: AttemptNo) -> Result<TaskState, super::Breach> {
    let in_flight = matches!(line.state, TaskState::Assigned | TaskState::Running);
    ensure(in_flight && attempt == line.attempt, FENCE, || {
        format!(
            "attempt {attempt} of {id} was checked, {} is {}",
            line.attempt, line.state
        )
    })?;
    Ok(line.state)
}

/// A task was handed out: while it waited, as its next attempt, to somebody who has not declined it.
fn assigned(
    id: &TaskId,
    line: &mut Line,
    assignment: &TaskAssignment,
) -> Result<TaskState, super::Breach> {
    let from = line.state;
    let ready = matches!(from, TaskState::Queued | TaskState::Parked);
    ensure(ready, ONCE, || {
        format!("{id} was handed out while it is {from}")
    })?;
    ensure(assignment.attempt == line.attempt.next(), FENCE, || {
        format!(
            "{id} got attempt {} after {}",
            assignment.attempt, line.attempt
        )
    })?;
    line.attempt = assignment.attempt;
    let agent = assignment.agent_id.clone();
    let holder = (agent, assignment.instance, assignment.epoch);
    ensure(!line.declined.contains(&holder), DECLINED, || {
        format!("{id} is offered to {holder:?} again")
    })?;
    line.holder = Some(holder);
    Ok(TaskState::Assigned)
}

/// Where an event leads.
fn next(
    id: &TaskId,
    line: &mut Line,
    event: &TaskEvent,
    edges: &mut Edges,
) -> Result<TaskState, super::Breach> {
    let from = line.state;
    let in_flight = matches!(from, TaskState::Assigned | TaskState::Running);
    let of_this = |attempt: &AttemptNo| *attempt == line.attempt && in_flight;
    match event {
        TaskEvent::Submitted { .. } | TaskEvent::Gate { .. } | TaskEvent::Budget { .. } => {}
        TaskEvent::Waiting { state, .. } => {
            ensure(!in_flight, ONCE, || {
                format!("{id} waits while it is {from}")
            })?;
            return Ok(*state);
        }
        TaskEvent::Assigned { assignment, .. } => return assigned(id, line, assignment),
        TaskEvent::Started { attempt, .. } => {
            ensure(
                from == TaskState::Assigned && of_this(attempt),
                FENCE,
                || {
                    format!(
                        "attempt {attempt} of {id} began, {} is {from}",
                        line.attempt
                    )
                },
            )?;
            return Ok(TaskState::Running);
        }
        TaskEvent::Claim { attempt, .. } if line.team.is_some() => {
            ensure(*attempt == line.attempt, FENCE, || {
                format!("{id} claims as attempt {attempt} of {}", line.attempt)
            })?;
        }
        TaskEvent::Team { step, .. } => return teamed(id, line, step, edges),
        TaskEvent::Checking { attempt, .. }
        | TaskEvent::Checked { attempt, .. }
        | TaskEvent::Claim { attempt, .. } => return checked(id, line, *attempt),
        // It is no event of a task.
        TaskEvent::Trust(_) => return Ok(from),
        TaskEvent::AttemptFailed {
            attempt,
            failure,
            ended_instance,
            alone,
            then,
            ..
        } => {
            ensure(of_this(attempt), FENCE, || {
                format!(
                    "attempt {attempt} of {id} failed, {} is {from}",
                    line.attempt
                )
            })?;
            let holder = line.holder.take();
            if failure.class == FailureClass::Declined {
                line.declined.extend(holder);
            }
            edges.hit_named("task failure", format_args!("{}", failure.class));
            let scored = of_class(failure.class).1;
            let solo = line.solo + u32::from(*ended_instance && *alone && scored);
            return follow(
                id,
                line,
                (failure.class, failure.retryable, solo),
                then,
                edges,
            );
        }
        TaskEvent::Succeeded { attempt, .. } => {
            ensure(of_this(attempt), FENCE, || {
                format!(
                    "attempt {attempt} of {id} succeeded, {} is {from}",
                    line.attempt
                )
            })?;
            line.holder = None;
            return Ok(TaskState::Succeeded);
        }
        TaskEvent::Cancelled { .. } => {
            line.holder = None;
            return Ok(TaskState::Cancelled);
        }
        TaskEvent::DeadLettered { .. } => {
            line.holder = None;
            return Ok(TaskState::DeadLettered);
        }
        TaskEvent::Approved { approve, .. } => return Ok(answered(*approve)),
        TaskEvent::Escalation { step, .. } => return escalated(id, line, step, edges),
        TaskEvent::Retried { .. } => {
            let may = matches!(from, TaskState::Failed | TaskState::DeadLettered);
            ensure(may, ONCE, || {
                format!("{id} got another round while it is {from}")
            })?;
            line.round += 1;
            (line.used, line.lost, line.solo) = (0, 0, 0);
            line.declined.clear();
            return Ok(TaskState::Queued);
        }
    }
    Ok(from)
}

/// Where a move of an escalation leads: what is asked below it is there in the same breath, and ends before it moves on.
fn escalated(
    id: &TaskId,
    line: &mut Line,
    step: &EscalationMove,
    edges: &mut Edges,
) -> Result<TaskState, super::Breach> {
    let from = line.state;
    let in_flight = matches!(from, TaskState::Assigned | TaskState::Running);
    ensure(!in_flight, ONCE, || {
        format!("{id} is escalated while it is {from}")
    })?;
    if let EscalationMove::Asked(latest) = step {
        edges.hit("escalation", "somebody is asked");
        line.escalated = Some(latest.otherwise.state());
        return Ok(TaskState::Blocked);
    }
    let otherwise = line.escalated.take();
    let Some(otherwise) = otherwise.filter(|_| from == TaskState::Blocked) else {
        let what = format!("{id} is {from}, and {step:?}");
        return breach(ONCE, what).map(|()| from);
    };
    Ok(match step {
        EscalationMove::Asked(_) | EscalationMove::Retried { .. } => {
            edges.hit("escalation", "another round");
            line.round += 1;
            (line.used, line.lost, line.solo) = (0, 0, 0);
            line.declined.clear();
            TaskState::Queued
        }
        EscalationMove::Done { .. } => {
            edges.hit("escalation", "done by somebody else");
            TaskState::Succeeded
        }
        EscalationMove::Dropped { .. } => {
            edges.hit("escalation", "given up");
            otherwise
        }
    })
}

/// Where a step of a team leads: it has the task while that is blocked, and nobody else has.
fn teamed(
    id: &TaskId,
    line: &mut Line,
    step: &TeamStep,
    edges: &mut Edges,
) -> Result<TaskState, super::Breach> {
    let from = line.state;
    if let TeamStep::Formed(team) = step {
        let ready = matches!(from, TaskState::Queued | TaskState::Parked);
        ensure(ready && line.team.is_none(), TEAMS, || {
            format!("{id} gets a team while it is {from}")
        })?;
        edges.hit_named("team", format_args!("{} formed", team.pattern.name()));
        let parts = team.parts.iter().map(|part| part.task.clone());
        line.team = Some(parts.collect());
        return Ok(TaskState::Blocked);
    }
    ensure(line.team.is_some(), TEAMS, || {
        format!("{id} has no team, and {step:?}")
    })?;
    Ok(match step {
        TeamStep::Formed(_) | TeamStep::Phase(_) => from,
        TeamStep::Began => {
            edges.hit("team", "began");
            from
        }
        TeamStep::Done { .. } => {
            edges.hit("team", "done");
            TaskState::Succeeded
        }
        TeamStep::Failed {
            otherwise,
            escalates,
            ..
        } => {
            edges.hit("team", "failed");
            line.team = None;
            if *escalates {
                TaskState::Blocked
            } else {
                otherwise.state()
            }
        }
        TeamStep::Disbanded { .. } => {
            edges.hit("team", "disbanded");
            TaskState::Queued
        }
    })
}

/// Where a person's answer leaves the task that asked; no agent ever had it.
const fn answered(approve: bool) -> TaskState {
    if approve {
        TaskState::Succeeded
    } else {
        TaskState::Failed
    }
}

/// What has to follow a failure.
fn follow(
    id: &TaskId,
    line: &mut Line,
    (class, retryable, solo): (FailureClass, bool, u32),
    then: &AfterFailure,
    edges: &mut Edges,
) -> Result<TaskState, super::Breach> {
    line.solo = solo;
    let (used, lost) = (line.used, line.lost);
    let meaning = of_class(class).0;
    match meaning {
        Meaning::Retry => line.used += 1,
        Meaning::Free => line.lost += 1,
        Meaning::Park | Meaning::Elsewhere | Meaning::Final => {}
    }
    let due = if class == FailureClass::Cancelled {
        TaskState::Cancelled
    } else if solo >= 2 {
        edges.hit("task failure", "poison: dead-lettered");
        TaskState::DeadLettered
    } else if !retryable && meaning != Meaning::Free {
        TaskState::Failed
    } else {
        match meaning {
            Meaning::Final => TaskState::Failed,
            // Whether anybody is left to ask is for the fleet to say.
            Meaning::Elsewhere if matches!(then, AfterFailure::Retry { .. }) => TaskState::Retrying,
            Meaning::Park => TaskState::Parked,
            Meaning::Free if lost < LOST_MAX => TaskState::Retrying,
            Meaning::Retry if used + 1 < line.attempts_max => TaskState::Retrying,
            Meaning::Free | Meaning::Retry | Meaning::Elsewhere => TaskState::DeadLettered,
        }
    };
    let led = match then {
        AfterFailure::Retry { .. } => TaskState::Retrying,
        AfterFailure::Park { .. } => TaskState::Parked,
        AfterFailure::Fail => TaskState::Failed,
        AfterFailure::DeadLetter => TaskState::DeadLettered,
        AfterFailure::Cancel => TaskState::Cancelled,
        AfterFailure::Escalate { otherwise } => {
            let led = otherwise.state();
            // An attempt that its task's deadline ended.
            let over = class == FailureClass::Timeout && !retryable;
            let over = over && led == TaskState::DeadLettered;
            ensure(led == due || over, RETRIES, || {
                format!("{id} is escalated as {otherwise:?}, due is {due}")
            })?;
            edges.hit("task failure", "escalated");
            return Ok(TaskState::Blocked);
        }
    };
    ensure(led == due, RETRIES, || {
        format!("{class} led {id} to {led}, due is {due} ({used} used, {lost} lost, {solo} solo)")
    })?;
    Ok(led)
}

/// What clients were told, and what the journal says.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) durable: Book,
    /// As the machine has decided, ahead of the disk.
    pub(crate) decided: Book,
    acknowledged: BTreeSet<TaskId>,
    /// Outcomes that somebody was told of, with their round.
    told: BTreeMap<TaskId, (u32, TaskState)>,
}

impl Ledger {
    /// A record is on the disk.
    pub(crate) fn durable_record(&mut self, record: &Stored, edges: &mut Edges) -> Verdict {
        if record.part != Part::Orchestrator {
            return Ok(());
        }
        let Some(id) = &record.header.task else {
            return Ok(());
        };
        let Ok(event) = serde_json::from_slice::<TaskEvent>(&record.payload) else {
            return breach(
                "replay: what was stored can be read",
                record.header.kind.to_string(),
            );
        };
        self.durable.fold(id, &event, edges)?;
        if let (Some(line), Some((round, state))) = (self.durable.lines.get(id), self.told.get(id))
        {
            ensure(line.round > *round || line.state == *state, ONCE, || {
                format!("{id} was said to have ended {state}, and is {}", line.state)
            })?;
        }
        Ok(())
    }

    /// A client has been told that a task is accepted.
    pub(crate) fn acknowledge(&mut self, id: &TaskId) -> Verdict {
        ensure(self.durable.lines.contains_key(id), LOST, || {
            format!("{id} was acknowledged before it was on the disk")
        })?;
        self.acknowledged.insert(id.clone());
        Ok(())
    }

    /// Somebody has been told how a task ended.
    pub(crate) fn outcome(&mut self, id: &TaskId) -> Verdict {
        let Some(line) = self.durable.lines.get(id) else {
            return breach(LOST, format!("{id} ended, and is not on the disk"));
        };
        // A new round may have begun meanwhile.
        if !line.state.is_terminal() {
            return Ok(());
        }
        let before = self.told.insert(id.clone(), (line.round, line.state));
        let other = before.filter(|(round, state)| *round == line.round && *state != line.state);
        ensure(other.is_none(), ONCE, || {
            format!("{id} ended {}, after {other:?}", line.state)
        })
    }

    /// The machine has been loaded anew.
    pub(crate) fn reloaded(&mut self, knows: impl Fn(&TaskId) -> Option<TaskState>) -> Verdict {
        self.decided = self.durable.clone();
        for id in &self.acknowledged {
            let (now, ours) = (knows(id), self.durable.lines.get(id).map(|line| line.state));
            ensure(now.is_some() && now == ours, LOST, || {
                format!("{id} is {now:?} after a start, and was {ours:?}")
            })?;
        }
        for (id, (round, state)) in &self.told {
            let line = self.durable.lines.get(id);
            let kept = line.is_some_and(|line| line.round > *round || line.state == *state);
            ensure(kept, ONCE, || {
                format!("{id} was said to be {state}, and is {line:?}")
            })?;
        }
        Ok(())
    }

    /// Every task that anybody was promised has come to an end.
    pub(crate) fn at_the_end(&self) -> Verdict {
        for id in &self.acknowledged {
            let state = self.durable.lines.get(id).map(|line| line.state);
            ensure(state.is_some_and(TaskState::is_terminal), LOST, || {
                format!("{id} is {state:?} when everything is over")
            })?;
        }
        Ok(())
    }

    /// How many tasks were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }
}
