//! One task and how its events change it. The same fold serves the machine and the read side.

use std::collections::BTreeSet;

use mesh_messages::budget::{Amounts, BudgetStep};
use mesh_messages::events::{AfterFailure, TaskEvent};
use mesh_messages::inbox::{Answered, Ruling};
use mesh_messages::task::{
    ATTEMPTS_KEPT_MAX, AcceptanceCheck, Attempt, CandidateReport, CheckReport, Task,
    TaskExplanation, TaskSpec, TaskState, WaitReason, WaitingFor,
};
use mesh_messages::{
    AgentId, AttemptNo, Failure, FailureClass, TaskConsequence, TaskId, Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::RetryPolicy;
use super::teams::holds_as;
use crate::routing::InstanceKey;
use waits::{waiting_for_checks, waiting_for_person};
pub(crate) use waits::{waiting_for_tasks, who_answers};

mod asked;
mod escalated;
mod team;
mod waits;

/// An event that cannot happen to a task in this state: its log has lost records, or this is a bug.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{event} does not fit a task that is {}", state.map_or("unknown", TaskState::name))]
pub struct Misfit {
    /// The event's kind.
    pub event: &'static str,
    /// The task's state; `None` when it is not known at all.
    pub state: Option<TaskState>,
}

/// A task with what it takes to go on with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskRecord {
    /// As it is shown.
    pub task: Task,
    /// The retry policy in force.
    pub retry: RetryPolicy,
    /// How many delegations lie above it.
    pub depth: u32,
    /// Digest of its specification.
    pub digest: String,
    /// How often somebody gave it another round of attempts.
    pub round: u32,
    /// The last attempt's number; the first attempt is 1.
    pub last_attempt: AttemptNo,
    /// Attempts of this round that were used up.
    pub used: u32,
    /// How often this round's attempts were lost.
    pub lost: u32,
    /// The agents of which an instance ended while it had this task, once per instance.
    pub killed_on: Vec<AgentId>,
    /// How many of these instances had nothing else in hand.
    pub solo_kills: u32,
    /// Agents that failed it in this round.
    pub failed_on: BTreeSet<AgentId>,
    /// The last of them.
    pub last_failed_on: Option<AgentId>,
    /// Incarnations that declined it in this round.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub declined: BTreeSet<InstanceKey>,
    /// Everybody who was looked at for the latest assignment.
    pub candidates: Vec<CandidateReport>,
    /// What policy said of it, when it asks a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ruling: Option<Box<Ruling>>,
    /// The answer, when somebody gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<Box<Answered>>,
    /// How long the attempt under way may take where a budget bounds it further than its own limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_bound_ms: Option<u64>,
    /// Whether the next attempt, or the one under way, begins anew what one before it began and failed at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anew: bool,
}

impl TaskRecord {
    /// The task that a first event makes: a submission, or a new round for a task that was no longer held.
    ///
    /// # Errors
    /// [`Misfit`] for every other event.
    pub fn first(id: &TaskId, event: &TaskEvent) -> Result<Self, Misfit> {
        let misfit = Misfit {
            event: event.kind(),
            state: None,
        };
        match event {
            TaskEvent::Submitted {
                spec,
                by,
                at,
                deadline_at,
                retry,
                depth,
                digest,
                ruling,
                envelope: _,
            } => {
                let retry = RetryPolicy::default().completed(Some(retry));
                let task = new_task(id.clone(), spec, by, *at, *deadline_at);
                // As one that failed it: the last to be asked.
                let avoided = spec.avoid.iter().cloned().collect();
                Ok(Self {
                    task,
                    retry,
                    depth: *depth,
                    digest: digest.clone(),
                    round: 0,
                    last_attempt: AttemptNo(0),
                    used: 0,
                    lost: 0,
                    killed_on: Vec::new(),
                    solo_kills: 0,
                    failed_on: avoided,
                    last_failed_on: None,
                    declined: BTreeSet::new(),
                    candidates: Vec::new(),
                    ruling: ruling.clone(),
                    answered: None,
                    wall_bound_ms: None,
                    anew: false,
                })
            }
            TaskEvent::Retried {
                record: Some(record),
                ..
            } => {
                let mut held: Self =
                    serde_json::from_value((**record).clone()).map_err(|_| misfit)?;
                held.fold(event)?;
                Ok(held)
            }
            _ => Err(misfit),
        }
    }

    /// Takes an event in.
    ///
    /// # Errors
    /// [`Misfit`]; the task is unchanged then.
    pub fn fold(&mut self, event: &TaskEvent) -> Result<(), Misfit> {
        let state = self.task.state;
        let misfit = || {
            Err(Misfit {
                event: event.kind(),
                state: Some(state),
            })
        };
        match event {
            _ if self.noted(event) => {}
            // It is about an account, and no part of the record of the task that it was noted with.
            TaskEvent::Gate { .. } => {}
            TaskEvent::Budget { step, .. } => self.note_budget(step),
            TaskEvent::Submitted { .. }
            | TaskEvent::Checking { .. }
            | TaskEvent::Checked { .. }
            | TaskEvent::Claim { .. }
            | TaskEvent::Escalation { .. }
            | TaskEvent::Team { .. }
            | TaskEvent::Trust(_) => return misfit(),
            TaskEvent::Waiting {
                state: to,
                waiting_for,
            } => {
                let legal = matches!(
                    to,
                    TaskState::Queued | TaskState::Blocked | TaskState::Parked
                );
                if !legal || state.is_terminal() || state.is_in_flight() {
                    return misfit();
                }
                self.task.state = *to;
                self.task.waiting_for.clone_from(waiting_for);
            }
            TaskEvent::Assigned {
                assignment,
                candidates,
                limit_ms,
            } => {
                let legal = matches!(state, TaskState::Queued | TaskState::Parked);
                if !legal || assignment.attempt != self.last_attempt.next() {
                    return misfit();
                }
                self.assigned(assignment, candidates, *limit_ms);
            }
            TaskEvent::Started { attempt, .. } => {
                if state != TaskState::Assigned || *attempt != self.last_attempt {
                    return misfit();
                }
                self.task.state = TaskState::Running;
            }
            TaskEvent::AttemptFailed {
                attempt,
                at,
                failure,
                ended_instance,
                alone,
                then,
            } => {
                if !state.is_in_flight() || *attempt != self.last_attempt {
                    return misfit();
                }
                self.attempt_failed(*at, failure, *ended_instance, *alone);
                self.follow(*at, failure, then);
            }
            TaskEvent::Succeeded {
                attempt,
                at,
                output,
            } => {
                if !state.is_in_flight() || *attempt != self.last_attempt {
                    return misfit();
                }
                self.succeeded(*at, output);
            }
            TaskEvent::Cancelled { at, reason } => {
                if state.is_terminal() {
                    return misfit();
                }
                let failure = Failure::new(FailureClass::Cancelled, reason.clone());
                self.end_early(*at, TaskState::Cancelled, failure);
            }
            TaskEvent::DeadLettered { at, failure } => {
                if state.is_terminal() {
                    return misfit();
                }
                self.end_early(*at, TaskState::DeadLettered, failure.clone());
            }
            TaskEvent::Approved { .. } => {
                if state != TaskState::Blocked || self.task.spec.approval.is_none() {
                    return misfit();
                }
                self.approved(event);
            }
            TaskEvent::Retried { deadline_at, .. } => {
                if !matches!(state, TaskState::Failed | TaskState::DeadLettered) {
                    return misfit();
                }
                self.retried(*deadline_at);
            }
        }
        Ok(())
    }

    fn is_under_way(&self, number: AttemptNo) -> bool {
        self.attempt()
            .is_some_and(|attempt| attempt.number == number)
    }

    /// Takes in what happens in the midst of an attempt, if it is the one under way, to an escalated task, or to a team's.
    fn noted(&mut self, event: &TaskEvent) -> bool {
        match event {
            TaskEvent::Checking {
                attempt, checks, ..
            } if self.is_under_way(*attempt) => {
                self.task.waiting_for = Some(waiting_for_checks(checks));
                true
            }
            TaskEvent::Checked {
                attempt, checks, ..
            } => self.note_checks(*attempt, checks),
            // Who holds what is no part of a task's own record.
            TaskEvent::Escalation { at, step } => self.escalated(*at, step),
            TaskEvent::Team { at, step } => self.teamed(*at, step),
            TaskEvent::Claim { attempt, .. } => {
                self.is_under_way(*attempt) || holds_as(self, *attempt)
            }
            _ => false,
        }
    }

    /// Whether it is known already that these checks are being made.
    pub(crate) fn is_checking(&self, checks: &[AcceptanceCheck]) -> bool {
        self.task.waiting_for.as_ref() == Some(&waiting_for_checks(checks))
    }

    /// Whether it is known already what these checks of the attempt under way showed.
    pub(crate) fn has_checked(&self, checks: &[CheckReport]) -> bool {
        let held = self.task.attempts.last();
        held.is_some_and(|held| held.checks == checks)
    }

    /// Keeps what the checks of an attempt showed, if it is the one under way.
    fn note_checks(&mut self, number: AttemptNo, checks: &[CheckReport]) -> bool {
        let under_way = self.task.state.is_in_flight();
        let held = self.task.attempts.last_mut();
        match held.filter(|held| under_way && held.number == number) {
            Some(held) => {
                held.checks = checks.to_vec();
                true
            }
            None => false,
        }
    }

    /// Keeps what is set aside for an attempt, and what it used.
    fn note_budget(&mut self, step: &BudgetStep) {
        let mut most = Amounts::default();
        match step {
            BudgetStep::Reserved {
                attempt,
                charges,
                wall_time_ms,
            } => {
                for (charge, d) in charges
                    .iter()
                    .flat_map(|c| c.dimensions.iter().map(move |d| (c, *d)))
                {
                    most.set(d, most.get(d).max(charge.amounts.get(d)));
                }
                self.wall_bound_ms = *wall_time_ms;
                let held = self.task.attempts.last_mut();
                if let Some(held) = held.filter(|held| held.number == *attempt) {
                    held.reserved = Some(most);
                }
            }
            BudgetStep::Settled { attempt, used } => {
                self.wall_bound_ms = None;
                let held = self.task.attempts.last_mut();
                if let Some(held) = held.filter(|held| held.number == *attempt) {
                    held.reserved = None;
                    held.used = Some(*used);
                }
            }
            BudgetStep::Told { .. }
            | BudgetStep::Short { .. }
            | BudgetStep::Raised { .. }
            | BudgetStep::Restarted { .. }
            | BudgetStep::Noted { .. } => {}
        }
    }

    fn succeeded(&mut self, at: Timestamp, output: &Value) {
        self.end_attempt(at, None);
        self.task.output = Some(output.clone());
        self.end(at, TaskState::Succeeded, None);
    }

    /// Ends it, and the attempt under way with it.
    fn end_early(&mut self, at: Timestamp, state: TaskState, failure: Failure) {
        self.end_attempt(at, Some(&failure));
        self.end(at, state, Some(failure));
    }

    /// The attempt that is under way.
    pub fn attempt(&self) -> Option<&Attempt> {
        self.task
            .attempts
            .last()
            .filter(|_| self.task.state.is_in_flight())
    }

    /// Whether it may have ended an instance; then it has to run alone.
    pub fn is_suspect(&self) -> bool {
        !self.killed_on.is_empty()
    }

    /// Why it is where it is, as far as its own record tells.
    pub fn explanation(&self) -> TaskExplanation {
        TaskExplanation {
            task_id: self.task.id.clone(),
            state: self.task.state,
            requirements: self.task.spec.needs(),
            waiting_for: self.task.waiting_for.clone(),
            assignment: self.task.assignment.clone(),
            candidates: self.candidates.clone(),
            teamwork: self.task.teamwork.clone(),
            messages: Vec::new(),
        }
    }

    fn assigned(
        &mut self,
        assignment: &mesh_messages::task::TaskAssignment,
        candidates: &[CandidateReport],
        limit_ms: Option<u64>,
    ) {
        self.last_attempt = assignment.attempt;
        if self.task.attempts.len() >= ATTEMPTS_KEPT_MAX {
            self.task.attempts.remove(0);
        }
        self.task.attempts.push(Attempt {
            number: assignment.attempt,
            agent_id: assignment.agent_id.clone(),
            instance: assignment.instance,
            epoch: assignment.epoch,
            started_at: assignment.assigned_at,
            limit_ms,
            ended_at: None,
            error: None,
            checks: Vec::new(),
            reserved: None,
            used: None,
        });
        self.task.state = TaskState::Assigned;
        self.task.waiting_for = None;
        self.task.progress = None;
        self.task.assignment = Some(assignment.clone());
        self.candidates = candidates.to_vec();
    }

    fn attempt_failed(&mut self, at: Timestamp, failure: &Failure, ended: bool, alone: bool) {
        // A provider's limit is no fault of the agent, and its gate sees to it that the task is not tried there.
        let class = failure.class;
        let attempt = self.task.attempts.last();
        if let Some(attempt) = attempt.filter(|_| class == FailureClass::Declined) {
            let key = (attempt.agent_id.clone(), attempt.instance, attempt.epoch);
            self.declined.insert(key);
        } else if !matches!(class, FailureClass::Lost | FailureClass::Quota)
            && let Some(attempt) = attempt
        {
            self.failed_on.insert(attempt.agent_id.clone());
            self.last_failed_on = Some(attempt.agent_id.clone());
        }
        let never_had = self.task.state == TaskState::Assigned && !ended;
        if !(never_had && failure.class == FailureClass::Lost) {
            // Who ran into a limit, or declined, has not failed.
            self.anew = !matches!(class, FailureClass::Quota | FailureClass::Declined);
        }
        self.end_attempt(at, Some(failure));
        match failure.class.consequence() {
            TaskConsequence::RetryFree => self.lost += 1,
            TaskConsequence::Retry => self.used += 1,
            TaskConsequence::Park | TaskConsequence::Elsewhere | TaskConsequence::Final => {}
        }
        if ended && failure.class.is_scored() {
            self.killed_on
                .extend(self.task.attempts.last().map(|a| a.agent_id.clone()));
            self.solo_kills += u32::from(alone);
        }
    }

    fn follow(&mut self, at: Timestamp, failure: &Failure, then: &AfterFailure) {
        match then {
            AfterFailure::Retry { at: next } => {
                self.task.state = TaskState::Retrying;
                self.task.error = Some(failure.clone());
                self.task.waiting_for = Some(WaitingFor {
                    reason: WaitReason::Retry,
                    detail: format!("pauses before its next attempt after {failure}"),
                    until: Some(*next),
                    agents: Vec::new(),
                    tasks: Vec::new(),
                });
            }
            AfterFailure::Park { waiting_for } => {
                self.task.state = TaskState::Parked;
                self.task.error = Some(failure.clone());
                self.task.waiting_for = Some(waiting_for.clone());
            }
            AfterFailure::Fail => self.end(at, TaskState::Failed, Some(failure.clone())),
            AfterFailure::DeadLetter => {
                self.end(at, TaskState::DeadLettered, Some(failure.clone()));
            }
            AfterFailure::Escalate { .. } => {
                self.task.state = TaskState::Blocked;
                self.task.error = Some(failure.clone());
                self.task.waiting_for = Some(escalated::waiting_for_escalation(None));
            }
            AfterFailure::Cancel => self.end(at, TaskState::Cancelled, Some(failure.clone())),
        }
    }

    fn end_attempt(&mut self, at: Timestamp, error: Option<&Failure>) {
        let in_flight = self.task.state.is_in_flight();
        if let Some(attempt) = self.task.attempts.last_mut().filter(|_| in_flight) {
            attempt.ended_at = Some(at);
            attempt.error = error.cloned();
        }
    }

    fn end(&mut self, at: Timestamp, state: TaskState, error: Option<Failure>) {
        self.task.state = state;
        self.task.error = error;
        self.task.waiting_for = None;
        self.task.ended_at = Some(at);
    }

    fn retried(&mut self, deadline_at: Timestamp) {
        self.round += 1;
        self.used = 0;
        self.lost = 0;
        self.killed_on.clear();
        self.solo_kills = 0;
        self.failed_on.clear();
        self.last_failed_on = None;
        self.declined.clear();
        self.anew = false;
        self.task.state = TaskState::Queued;
        self.task.deadline_at = deadline_at;
        self.task.ended_at = None;
        self.task.progress = None;
    }
}

fn new_task(
    id: TaskId,
    spec: &TaskSpec,
    by: &str,
    submitted_at: Timestamp,
    deadline_at: Timestamp,
) -> Task {
    let waiting_for = match &spec.approval {
        Some(approval) => Some(waiting_for_person(approval)),
        None if spec.depends_on.is_empty() => None,
        None => Some(waiting_for_tasks(spec.depends_on.clone())),
    };
    Task {
        id,
        state: if waiting_for.is_some() {
            TaskState::Blocked
        } else {
            TaskState::Queued
        },
        waiting_for,
        spec: spec.clone(),
        output: None,
        error: None,
        attempts: Vec::new(),
        progress: None,
        assignment: None,
        escalation: None,
        teamwork: None,
        submitted_by: by.to_owned(),
        submitted_at,
        deadline_at,
        ended_at: None,
    }
}
