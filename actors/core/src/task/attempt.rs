//! Attempts: their start, their end, and what follows a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_messages::events::{AfterFailure, TaskEvent};
use mesh_messages::failure::{LOST_PAUSE_MAX, LOST_RETRIES_MAX};
use mesh_messages::schema::Checker;
use mesh_messages::task::{AcceptanceCheck, CheckReport, TASK_DATA_MAX, TaskState};
use mesh_messages::{AgentId, AttemptNo, Failure, FailureClass, TaskConsequence, TaskId};
use serde_json::Value;

use super::budgets;
use super::command::{Answer, AttemptRef, Effect, Refusal};
use super::decline::declined;
use super::index::instance_of;
use super::standing;
use super::tx::{Slots, Tx};
use super::validate::json_len;
use crate::routing::{InstanceKey, Occupancy};

/// After so many instances ended while they had a task and nothing else, the task is to blame.
pub const POISON_KILLS: u32 = 2;

/// Violations of an output schema that a failure's message names.
const VIOLATIONS_NAMED_MAX: usize = 5;

pub(crate) fn started(
    tx: &mut Tx<'_>,
    attempt: AttemptRef,
    key: &InstanceKey,
) -> Result<Answer, Refusal> {
    let Some(state) = current(tx, &attempt, Some(key)) else {
        return drop_stale(tx, attempt, key);
    };
    if state == TaskState::Assigned {
        let event = TaskEvent::Started {
            attempt: attempt.attempt,
            at: tx.ctx.now,
        };
        tx.emit(&attempt.task, event);
    }
    Ok(Answer::Done)
}

/// Takes note that the result of an attempt is there, and is being checked.
pub(crate) fn checking(
    tx: &mut Tx<'_>,
    attempt: AttemptRef,
    key: &InstanceKey,
    checks: Vec<AcceptanceCheck>,
) -> Answer {
    if current(tx, &attempt, Some(key)).is_none() {
        return Answer::Stale;
    }
    // Said again, such as after a restart of who takes it in, it is no news.
    let held = tx.tasks.record(&attempt.task);
    if held.is_some_and(|record| record.is_checking(&checks)) {
        return Answer::Done;
    }
    let event = TaskEvent::Checking {
        attempt: attempt.attempt,
        at: tx.ctx.now,
        checks,
    };
    tx.emit(&attempt.task, event);
    Answer::Done
}

/// Takes in how the checks of a result went; its end follows.
pub(crate) fn checked(
    tx: &mut Tx<'_>,
    attempt: AttemptRef,
    key: &InstanceKey,
    checks: Vec<CheckReport>,
) -> Answer {
    // One that is being dropped is told of with its end.
    if current(tx, &attempt, Some(key)).is_none() {
        return Answer::Stale;
    }
    let held = tx.tasks.record(&attempt.task);
    if held.is_some_and(|record| record.has_checked(&checks)) {
        return Answer::Done;
    }
    let event = TaskEvent::Checked {
        attempt: attempt.attempt,
        at: tx.ctx.now,
        checks,
    };
    tx.emit(&attempt.task, event);
    Answer::Done
}

/// An instance works on what nobody waits for: it is told to drop it, and its slot counts as taken until it has.
fn drop_stale(tx: &mut Tx<'_>, stale: AttemptRef, key: &InstanceKey) -> Result<Answer, Refusal> {
    let told = (stale.task.clone(), stale.attempt);
    if !tx.live.fleet.has_instance(key)
        || !tx
            .live
            .releasing
            .entry(key.clone())
            .or_default()
            .insert(told)
    {
        return Err(Refusal::Stale(stale));
    }
    tx.keep_claims(key, &stale.task, stale.attempt);
    tx.effect(Effect::CancelAttempt {
        key: key.clone(),
        task: stale.task,
        attempt: stale.attempt,
        reason: "the attempt is over".to_owned(),
    });
    Ok(Answer::Stale)
}

pub(crate) fn ended(
    tx: &mut Tx<'_>,
    attempt: AttemptRef,
    key: Option<&InstanceKey>,
    result: Result<Value, Failure>,
) -> Result<Answer, Refusal> {
    if let Some(key) = key
        && dropped(tx, &attempt, key)
    {
        tx.settle();
        return Ok(Answer::Dropped);
    }
    if current(tx, &attempt, key).is_none() {
        return Err(Refusal::Stale(attempt));
    }
    if key.is_none() && result.is_ok() && !wanted_checks(tx, &attempt.task).is_empty() {
        return Err(Refusal::NeedsChecks(attempt.task));
    }
    let id = attempt.task;
    let result = result.map_err(|failure| unseen(failure, key));
    if key.is_none() {
        tx.stop_attempt(&id, "its outcome was reported from outside");
    }
    let result = result.and_then(|output| conforming(tx, &id, output));
    match result.and_then(|output| accepted(tx, &id).map(|()| output)) {
        Ok(output) => {
            succeed(tx, &id, output);
            // What people report from outside tells nothing of the agent.
            if key.is_some() {
                standing::verified(tx, &id);
            }
        }
        Err(failure) => {
            // A scored failure ends its instance, so the attempt counts as having ended it.
            let ended_instance = failure.class.is_scored();
            let alone = is_alone(tx, &id);
            let class = failure.class;
            fail(tx, &id, failure, ended_instance, alone);
            if key.is_some() {
                standing::failed(tx, &id, class);
            }
        }
    }
    tx.settle();
    Ok(tx
        .view(&id)
        .map_or(Answer::Done, |task| Answer::Task(Box::new(task))))
}

/// A failure that comes in: of its own instance it is by nobody who looked at a result, whatever it says of itself. People
/// who report from outside have looked.
fn unseen(failure: Failure, by: Option<&InstanceKey>) -> Failure {
    let unchecked = by.is_some() && failure.class == FailureClass::Contract;
    Failure {
        unchecked,
        ..failure
    }
}

/// Takes note that an instance dropped an attempt that had ended here before.
fn dropped(tx: &mut Tx<'_>, attempt: &AttemptRef, key: &InstanceKey) -> bool {
    let Some(held) = tx.live.releasing.get_mut(key) else {
        return false;
    };
    let was_held = held.remove(&(attempt.task.clone(), attempt.attempt));
    if held.is_empty() {
        tx.live.releasing.remove(key);
    }
    was_held
}

/// The state of the attempt's task, if that very attempt is under way (on that instance, if one is named).
pub(crate) fn current(
    tx: &Tx<'_>,
    named: &AttemptRef,
    key: Option<&InstanceKey>,
) -> Option<TaskState> {
    let entry = tx.tasks.entry(&named.task)?;
    let attempt = entry.record.attempt()?;
    let same = attempt.number == named.attempt
        && attempt.epoch == named.epoch
        && key.is_none_or(|key| instance_of(entry).as_ref() == Some(key));
    same.then_some(entry.task().state)
}

/// The output, if it satisfies the task's contract.
pub(crate) fn conforming(tx: &Tx<'_>, id: &TaskId, output: Value) -> Result<Value, Failure> {
    let broken = |message: String| Err(Failure::new(FailureClass::Contract, message));
    let size = json_len(&output);
    if size > TASK_DATA_MAX {
        return broken(format!(
            "the output has {size} bytes as JSON; at most {TASK_DATA_MAX} are accepted"
        ));
    }
    let contract = tx
        .tasks
        .get(id)
        .and_then(|task| task.spec.contract.as_ref());
    let Some(schema) = contract.and_then(|contract| contract.output_schema.as_ref()) else {
        return Ok(output);
    };
    match Checker::new(schema.clone()) {
        Ok(checker) => {
            let mut wrong = checker.check(&output);
            if wrong.is_empty() {
                return Ok(output);
            }
            wrong.truncate(VIOLATIONS_NAMED_MAX);
            let wrong: Vec<_> = wrong.iter().map(ToString::to_string).collect();
            broken(format!(
                "the output breaks its schema: {}",
                wrong.join("; ")
            ))
        }
        Err(error) => broken(format!("the output cannot be checked: {error}")),
    }
}

fn wanted_checks<'t>(tx: &'t Tx<'_>, id: &TaskId) -> &'t [AcceptanceCheck] {
    let contract = tx
        .tasks
        .get(id)
        .and_then(|task| task.spec.contract.as_ref());
    contract.map_or(&[], |contract| contract.checks.as_slice())
}

/// Whether every check of the contract was made of this attempt, and passed.
fn accepted(tx: &Tx<'_>, id: &TaskId) -> Result<(), Failure> {
    let record = tx.tasks.record(id);
    let made = record
        .and_then(|record| record.attempt())
        .map_or(&[][..], |attempt| &attempt.checks);
    for wanted in wanted_checks(tx, id) {
        let told = match made.iter().find(|report| report.name == wanted.name) {
            Some(report) if report.passed => continue,
            Some(report) => format!("did not pass: {}", report.evidence),
            None => "was not made".to_owned(),
        };
        let message = format!("check \"{}\" {told}", wanted.name);
        return Err(Failure::new(FailureClass::Contract, message));
    }
    Ok(())
}

fn succeed(tx: &mut Tx<'_>, id: &TaskId, output: Value) {
    let Some((_, attempt)) = place(tx, id) else {
        return;
    };
    tx.limit_passed(id);
    tx.emit(
        id,
        TaskEvent::Succeeded {
            attempt,
            at: tx.ctx.now,
            output,
        },
    );
}

fn place(tx: &Tx<'_>, id: &TaskId) -> Option<(InstanceKey, AttemptNo)> {
    let entry = tx.tasks.entry(id)?;
    Some((instance_of(entry)?, entry.record.last_attempt))
}

/// Whether nothing else is at work on the instance that has this task.
pub(crate) fn is_alone(tx: &Tx<'_>, id: &TaskId) -> bool {
    let Some((key, _)) = place(tx, id) else {
        return false;
    };
    let kept = BTreeSet::new();
    let slots = Slots::new((tx.tasks, tx.live, tx.ctx), &kept, None);
    // Itself is in hand, too.
    slots.on_instance(&key).at_work <= 1
}

/// Ends the attempt under way by a failure, and decides what follows.
pub(crate) fn fail(
    tx: &mut Tx<'_>,
    id: &TaskId,
    mut failure: Failure,
    ended_instance: bool,
    alone: bool,
) {
    let Some((_, attempt)) = place(tx, id) else {
        return;
    };
    let at = tx.ctx.now;
    let then = what_follows(tx, id, &mut failure, ended_instance && alone);
    let then = tx.or_escalate(id, then, &failure);
    let otherwise = match &then {
        AfterFailure::Escalate { otherwise } => Some((*otherwise, failure.clone())),
        _ => None,
    };
    let resumes = matches!(&then, AfterFailure::Retry { at: next } if *next <= at);
    tx.emit(
        id,
        TaskEvent::AttemptFailed {
            attempt,
            at,
            failure,
            ended_instance,
            alone,
            then,
        },
    );
    if let Some((otherwise, failure)) = otherwise {
        tx.escalate(id, 0, otherwise, &failure);
    }
    if resumes {
        tx.emit(
            id,
            TaskEvent::Waiting {
                state: TaskState::Queued,
                waiting_for: None,
            },
        );
    }
}

fn what_follows(tx: &mut Tx<'_>, id: &TaskId, failure: &mut Failure, solo: bool) -> AfterFailure {
    // Also where the task itself ends here: whoever else uses the account has met the limit, too.
    let parked = (failure.class == FailureClass::Quota)
        .then(|| tx.limit_reached(id, failure))
        .flatten();
    let random = tx.random();
    let now = tx.ctx.now;
    let Some(record) = tx.tasks.record(id) else {
        return AfterFailure::Fail;
    };
    if failure.class == FailureClass::Cancelled {
        return AfterFailure::Cancel;
    }
    let kills = record.solo_kills + u32::from(solo && failure.class.is_scored());
    if kills >= POISON_KILLS {
        failure.message = format!(
            "poison: {kills} instances ended while they had this task and nothing else; the last one: {failure}"
        );
        failure.retryable = false;
        let last = record.attempt().map(|attempt| attempt.agent_id.clone());
        let mut blamed: BTreeMap<AgentId, u32> = BTreeMap::new();
        for agent in record.killed_on.iter().cloned().chain(last) {
            *blamed.entry(agent).or_default() += 1;
        }
        blamed.retain(|agent, _| tx.tasks.may_be_acquitted(agent));
        for (agent, failures) in blamed {
            tx.effect(Effect::RefundScore { agent, failures });
        }
        return AfterFailure::DeadLetter;
    }
    if !failure.retryable {
        return AfterFailure::Fail;
    }
    match failure.class.consequence() {
        TaskConsequence::Final => AfterFailure::Fail,
        TaskConsequence::Elsewhere => declined(tx, id, failure),
        TaskConsequence::RetryFree if record.lost < LOST_RETRIES_MAX => {
            // At once the first time; then with pauses, so that whatever loses it can find its feet.
            let pause = match record.lost {
                0 => Duration::ZERO,
                lost => record.retry.delay(lost, random).min(LOST_PAUSE_MAX),
            };
            AfterFailure::Retry {
                at: now.plus(pause),
            }
        }
        TaskConsequence::RetryFree => {
            failure.message = format!("lost {} times: {}", record.lost + 1, failure.message);
            AfterFailure::DeadLetter
        }
        TaskConsequence::Park => match parked {
            Some(waiting_for) => AfterFailure::Park { waiting_for },
            // Nothing holds it up.
            None => AfterFailure::Retry { at: now },
        },
        TaskConsequence::Retry if record.used + 1 < record.retry.max_attempts => {
            let pause = record.retry.delay(record.used + 1, random);
            AfterFailure::Retry {
                at: now.plus(pause),
            }
        }
        TaskConsequence::Retry => AfterFailure::DeadLetter,
    }
}

/// An incarnation is gone, and what follows from that is decided.
pub(crate) fn instance_down(tx: &mut Tx<'_>, key: &InstanceKey, failure: &Failure) -> Answer {
    end_all_on(tx, key, failure);
    tx.settle();
    Answer::Done
}

/// An incarnation is gone: so are its attempts, its slots and its place in the fleet.
pub(crate) fn end_all_on(tx: &mut Tx<'_>, key: &InstanceKey, failure: &Failure) {
    budgets::restarted(tx, key, failure);
    let had: Vec<_> = tx
        .tasks
        .in_flight_on(key)
        .map(|id| (id.clone(), is_alone(tx, id)))
        .collect();
    tx.live.releasing.remove(key);
    tx.live.fleet.remove_instance(key);
    end_on(tx, key, had, failure);
}

/// Ends these attempts on an instance that is gone, or as many as one group holds. Another decision ends the others.
fn end_on(tx: &mut Tx<'_>, key: &InstanceKey, had: Vec<(TaskId, bool)>, failure: &Failure) {
    for (id, alone) in had {
        if tx.is_full() {
            tx.live.gone.insert(key.clone(), failure.clone());
            return;
        }
        // Ending a parent ends its children, which may have been on the same instance.
        if tx
            .tasks
            .entry(&id)
            .is_some_and(|entry| instance_of(entry).as_ref() == Some(key))
        {
            let never_had = tx
                .tasks
                .get(&id)
                .is_some_and(|task| task.state == TaskState::Assigned);
            if never_had {
                // Instances report what they take in hand before their end. What was still on its way did not end it.
                let text = "the instance ended before it took the task in hand";
                fail(
                    tx,
                    &id,
                    Failure::new(FailureClass::Lost, text),
                    false,
                    false,
                );
            } else {
                fail(tx, &id, failure.clone(), true, alone);
                standing::failed(tx, &id, failure.class);
            }
            tx.carry_on();
        }
    }
}

impl Tx<'_> {
    /// Ends what earlier decisions left over of instances that are gone.
    pub(crate) fn end_rest_of_gone(&mut self) {
        for (key, failure) in std::mem::take(&mut self.live.gone) {
            // There were too many for any of them to have been alone.
            let rest = self.tasks.in_flight_on(&key);
            let rest: Vec<_> = rest.map(|id| (id.clone(), false)).collect();
            end_on(self, &key, rest, &failure);
        }
    }
}
