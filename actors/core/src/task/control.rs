//! Orders from people, the passing of time, and finding back after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mesh_messages::events::TaskEvent;
use mesh_messages::inbox::InboxAnswer;
use mesh_messages::task::{DEADLINE_DEFAULT_MS, TaskState};
use mesh_messages::workflow::ApprovalSpec;
use mesh_messages::{AgentId, AttemptNo, Failure, FailureClass, TaskId};

use super::asks;
use super::attempt::{end_all_on, fail, is_alone};
use super::budgets::{self, Ruled};
use super::claims;
use super::command::{Answer, Answerer, Effect, FleetChange, FleetNews, Refusal};
use super::escalate;
use super::index::{Timer, instance_of};
use super::standing;
use super::tx::Tx;
use crate::routing::InstanceKey;

pub(crate) fn cancel(tx: &mut Tx<'_>, id: &TaskId, reason: String) -> Result<Answer, Refusal> {
    match state_of(tx, id) {
        None => Err(Refusal::NotFound(id.clone())),
        Some(state) if state.is_terminal() => Err(Refusal::Ended {
            task: id.clone(),
            state,
        }),
        Some(_) => {
            tx.cancel(id, reason);
            tx.settle();
            Ok(answer_with(tx, id))
        }
    }
}

fn state_of(tx: &Tx<'_>, id: &TaskId) -> Option<TaskState> {
    let held = tx.tasks.record(id).or_else(|| tx.ctx.known.tasks.get(id));
    held.map(|record| record.task.state)
}

fn answer_with(tx: &Tx<'_>, id: &TaskId) -> Answer {
    tx.view(id)
        .map_or(Answer::Done, |task| Answer::Task(Box::new(task)))
}

/// Gives a failed task another round of attempts and a new deadline.
pub(crate) fn retry(tx: &mut Tx<'_>, id: &TaskId) -> Result<Answer, Refusal> {
    if let Some(answer) = escalate::retry(tx, id) {
        return Ok(answer);
    }
    let Some(record) = tx.tasks.record(id).or_else(|| tx.ctx.known.tasks.get(id)) else {
        return Err(Refusal::NotFound(id.clone()));
    };
    let refused = |why: String| {
        Err(Refusal::NotRetryable {
            task: id.clone(),
            why,
        })
    };
    let state = record.task.state;
    if !matches!(state, TaskState::Failed | TaskState::DeadLettered) {
        return refused(format!("it is {state}, neither failed nor dead_lettered"));
    }
    let spec = &record.task.spec;
    if let Some(about) = spec.escalates.as_ref().filter(|_| spec.approval.is_none()) {
        return refused(format!("it was to take up task {about}; retry that"));
    }
    if spec.approval.is_some() {
        return refused("a person has answered it; submit it anew".to_owned());
    }
    let span = Duration::from_millis(spec.deadline_ms.unwrap_or(DEADLINE_DEFAULT_MS));
    let mut deadline_at = tx.ctx.now.plus(span);
    if let Some(parent) = &spec.parent {
        match tx.tasks.live(parent) {
            Some(parent) => deadline_at = deadline_at.min(parent.task().deadline_at),
            None => return refused(format!("its parent {parent} has ended; retry that")),
        }
    }
    if let Some(budget) = &spec.budget {
        let (parent, taken) = (spec.parent.as_ref(), &mut BTreeMap::new());
        let over = budgets::over_ask(tx.tasks, budget, parent, taken, tx.ctx.now);
        if let Some((field, why)) = over {
            return refused(format!("budget{field}: {why}"));
        }
    }
    // Also of a task that is held: whoever replays this may have forgotten it by then.
    let value = serde_json::to_value(record);
    let record = Some(Box::new(value.expect("a task record has string keys only")));
    tx.emit(
        id,
        TaskEvent::Retried {
            at: tx.ctx.now,
            deadline_at,
            record,
        },
    );
    tx.settle();
    Ok(answer_with(tx, id))
}

/// Takes a person's answer; the first one counts.
pub(crate) fn approve(
    tx: &mut Tx<'_>,
    id: &TaskId,
    answerer: Answerer,
    InboxAnswer {
        approve,
        answer,
        comment,
    }: InboxAnswer,
) -> Result<Answer, Refusal> {
    let held = tx.tasks.record(id).or_else(|| tx.ctx.known.tasks.get(id));
    let Some(record) = held else {
        return Err(Refusal::NotFound(id.clone()));
    };
    let state = record.task.state;
    let task = id.clone();
    let Some(ask) = &record.task.spec.approval else {
        return Err(Refusal::NotAsking { task, state });
    };
    if !asks::suffices(answerer.role, record.answer_role()) {
        return Err(Refusal::NotEntitled(task));
    }
    if state != TaskState::Blocked {
        return Err(Refusal::NotAsking { task, state });
    }
    let approved = answer.as_deref().filter(|_| approve);
    let unbound = ApprovalSpec {
        choices: Vec::new(),
        ..ask.clone()
    };
    // What is escalated can be answered with more than its choices.
    let escalated = escalate::check_answer(tx.tasks, record, approved)?;
    let ask = if escalated { &unbound } else { ask };
    if let Some(why) = asks::misfit(ask, approve, answer.as_deref()) {
        return Err(Refusal::Unfit(why));
    }
    let ruled = budgets::read_answer(tx.tasks, id, answer.as_deref())?;
    let (at, who) = (tx.ctx.now, answerer.name.clone());
    if let Some(Ruled::Raise(about, by)) = &ruled {
        tx.raise(id, about, *by, &who);
    }
    let event = TaskEvent::Approved {
        at,
        by: answerer.name,
        approve,
        comment,
        answer,
    };
    tx.emit(id, event);
    match ruled {
        Some(Ruled::End(task)) => tx.end_for_want(task, &who),
        Some(Ruled::Raise(..)) | None => {}
    }
    tx.settle();
    Ok(answer_with(tx, id))
}

/// Does what is due.
pub(crate) fn tick(tx: &mut Tx<'_>) -> Answer {
    tx.catch_up();
    tx.step_gates();
    while let Some((at, timer, id)) = tx.tasks.index().timers.first().cloned() {
        if at > tx.ctx.now || tx.is_full() {
            break;
        }
        match timer {
            Timer::Deadline => tx.deadline_passed(&id),
            Timer::Attempt => time_ran_out(tx, &id),
            Timer::Resume => {
                tx.emit(
                    &id,
                    TaskEvent::Waiting {
                        state: TaskState::Queued,
                        waiting_for: None,
                    },
                );
            }
        }
        tx.carry_on();
    }
    // After the attempts whose time is over, whose claims end with them.
    claims::expire(tx);
    tx.settle();
    Answer::Done
}

/// Ends an attempt that has taken too long: a failure, unless it was a budget that gave it no more.
fn time_ran_out(tx: &mut Tx<'_>, id: &TaskId) {
    if let Some(shortage) = tx.wall_spent(id) {
        return tx.cut_off(id, &shortage);
    }
    let failure = Failure::new(FailureClass::Timeout, "the attempt's time ran out");
    let alone = is_alone(tx, id);
    tx.stop_attempt(id, &failure.message);
    fail(tx, id, failure, false, alone);
    standing::failed(tx, id, FailureClass::Timeout);
}

pub(crate) fn fleet(tx: &mut Tx<'_>, change: FleetChange) -> Answer {
    change_fleet(tx, change);
    tx.settle();
    Answer::Done
}

fn change_fleet(tx: &mut Tx<'_>, change: FleetChange) {
    match change {
        FleetChange::Agent(id, agent) => {
            standing::announced(tx, &id, &agent);
            tx.live.fleet.put(id, *agent);
        }
        FleetChange::Gone(id) => tx.live.fleet.remove(&id),
        FleetChange::Complete => tx.live.fleet.set_complete(),
    }
}

/// Takes in what happened to many agents, then decides what follows. Who sends it sees to it that the tasks that end with
/// the instances fit into one group.
pub(crate) fn news(tx: &mut Tx<'_>, news: Vec<FleetNews>) -> Answer {
    for news in news {
        match news {
            FleetNews::Changed(change) => change_fleet(tx, change),
            FleetNews::Down { key, failure } => end_all_on(tx, &key, &failure),
        }
    }
    tx.settle();
    Answer::Done
}

/// Ends every attempt of an earlier life of meshd as lost.
pub(crate) fn recover(tx: &mut Tx<'_>) -> Answer {
    reconcile(
        tx,
        None,
        &BTreeSet::new(),
        "meshd ended while it was under way",
    )
}

/// Ends the attempts that no agent has, and has those dropped that should not be.
pub(crate) fn reconcile(
    tx: &mut Tx<'_>,
    agent: Option<&AgentId>,
    present: &BTreeSet<(InstanceKey, TaskId, AttemptNo)>,
    why: &str,
) -> Answer {
    tx.catch_up();
    let concerned = |key: &InstanceKey| agent.is_none_or(|agent| *agent == key.0);
    let mut missing = Vec::new();
    let mut expected = BTreeSet::new();
    for (key, ids) in tx
        .tasks
        .index()
        .in_flight
        .iter()
        .filter(|(key, _)| concerned(key))
    {
        for id in ids {
            let Some(record) = tx.tasks.record(id) else {
                continue;
            };
            let attempt = (key.clone(), id.clone(), record.last_attempt);
            if present.contains(&attempt) {
                expected.insert(attempt);
            } else {
                missing.push((key.clone(), id.clone()));
            }
        }
    }
    tx.live.releasing.retain(|key, _| !concerned(key));
    for (key, task, attempt) in present.difference(&expected) {
        let held = tx.live.releasing.entry(key.clone()).or_default();
        held.insert((task.clone(), *attempt));
        tx.keep_claims(key, task, *attempt);
        tx.effect(Effect::CancelAttempt {
            key: key.clone(),
            task: task.clone(),
            attempt: *attempt,
            reason: "the attempt is over".to_owned(),
        });
    }
    for (key, id) in missing {
        if tx.is_full() {
            break;
        }
        let still = tx
            .tasks
            .entry(&id)
            .is_some_and(|e| instance_of(e).as_ref() == Some(&key));
        if still {
            let alone = is_alone(tx, &id);
            fail(tx, &id, Failure::new(FailureClass::Lost, why), true, alone);
            tx.carry_on();
        }
    }
    tx.settle();
    Answer::Done
}
