//! What follows in a run from what has happened in it.

use std::sync::Arc;
use std::time::Duration;

use mesh_messages::events::WorkflowEvent;
use mesh_messages::task::TaskState;
use mesh_messages::workflow::{OnError, ParentStep, StepState, UnitOutcome, UnitPlan};
use mesh_messages::{Failure, FailureClass, WorkflowRunId};
use serde_json::{Map, Value};

use super::decide::{
    Effect, LIVE_RUNS_MAX, NewRun, Tx, bounded, child_run, fail_step, is_bad, unit_task,
};
use super::plan::{Plan, StepPlan, Work};
use super::state::{Run, StepRun};
use super::units::{claims, contract, effect_of, scope, short, units};

/// Does all that can be done now.
pub(crate) fn advance(tx: &mut Tx<'_>, id: &WorkflowRunId) {
    loop {
        if tx.is_full() {
            tx.state.index.dirty.insert(id.clone());
            return;
        }
        let Some(run) = tx.state.run(id).filter(|run| run.ended.is_none()) else {
            return;
        };
        let Some(next) = next(run) else {
            tx.state.index.dirty.remove(id);
            return;
        };
        perform(tx, id, next);
        tx.state.index.dirty.remove(id);
    }
}

/// One thing that follows.
enum Next {
    /// Start the run of a unit.
    Child(usize, usize),
    /// A unit of the step failed for good.
    Failing(usize, Failure),
    /// All units of the step have ended.
    Close(usize),
    /// The run fails by this step.
    End(usize),
    /// The step's turn has come.
    Begin(usize),
    /// Take back what this unit did.
    Undo(usize, usize),
    /// Nothing is left to do.
    Finish,
}

fn next(run: &Run) -> Option<Next> {
    let mut running = false;
    for (number, step) in run.steps.iter().enumerate() {
        if !step.is_running() {
            continue;
        }
        running = true;
        if let Some(next) = next_of_step(run, number, step) {
            return Some(next);
        }
    }
    if let Some(ending) = &run.ending {
        return if running {
            None
        } else if ending.compensate {
            next_undo(run)
        } else {
            Some(Next::Finish)
        };
    }
    let plans = run.plan.steps.iter().zip(&run.steps).enumerate();
    for (number, (plan, step)) in plans.clone() {
        if is_bad(step.state) && plan.on_error != OnError::Continue {
            return Some(Next::End(number));
        }
    }
    let over = |number: &usize| run.steps[*number].state.is_terminal();
    for (number, (plan, step)) in plans {
        if step.state == StepState::Blocked && plan.deps.iter().all(over) {
            return Some(Next::Begin(number));
        }
    }
    let all = run.steps.iter().all(|step| step.state.is_terminal());
    all.then_some(Next::Finish)
}

fn next_of_step(run: &Run, number: usize, step: &StepRun) -> Option<Next> {
    let plan = &run.plan.steps[number];
    let stopping = step.error.is_some() || run.ending.is_some();
    let mut open = false;
    let mut failed = None;
    for (index, unit) in step.units.iter().enumerate() {
        match &unit.outcome {
            // It begins when its team is drafted.
            None if matches!(plan.work, Work::Team(_)) && !stopping => open = true,
            None if unit.task.is_none() && !unit_has_run(run, number, index) => {
                return Some(Next::Child(number, index));
            }
            None => open = true,
            Some(UnitOutcome::Failed { error, .. }) => {
                failed.get_or_insert(error);
            }
            Some(UnitOutcome::Succeeded { .. }) => {}
        }
    }
    if !open {
        return Some(Next::Close(number));
    }
    match failed {
        Some(error) if !stopping && plan.on_error != OnError::Continue => {
            Some(Next::Failing(number, error.clone()))
        }
        _ => None,
    }
}

/// Whether the run of a unit has been started: a unit of a run is told apart by its mark.
fn unit_has_run(run: &Run, number: usize, index: usize) -> bool {
    run.children.contains(&(number, index))
}

/// What succeeded last and is not taken back yet; one after the other.
fn next_undo(run: &Run) -> Option<Next> {
    let mut latest: Option<(u64, usize, usize)> = None;
    for (number, step) in run.steps.iter().enumerate() {
        if run.plan.steps[number].undo.is_none() {
            continue;
        }
        for (index, unit) in step.units.iter().enumerate() {
            match (&unit.undo, unit.done) {
                (Some(undo), _) if !undo.ended => return None,
                (None, Some(order)) => latest = latest.max(Some((order, number, index))),
                _ => {}
            }
        }
    }
    Some(latest.map_or(Next::Finish, |(_, number, index)| Next::Undo(number, index)))
}

fn perform(tx: &mut Tx<'_>, id: &WorkflowRunId, next: Next) {
    match next {
        Next::Child(number, index) => start_child(tx, id, number, index),
        Next::Failing(number, error) => fail_step(tx, id, number, error),
        Next::Close(number) => close(tx, id, number),
        Next::Begin(number) => begin(tx, id, number),
        Next::Undo(number, index) => undo(tx, id, number, index),
        Next::Finish => finish(tx, id),
        Next::End(number) => {
            let Some(run) = tx.state.run(id) else { return };
            let plan = &run.plan.steps[number];
            let compensate = plan.on_error == OnError::Compensate;
            let why = run.steps[number].error.clone();
            let why = why.unwrap_or_else(|| contract("failed"));
            let error = Failure {
                message: format!("step {}: {}", plan.id, why.message),
                ..why
            };
            tx.end(id, TaskState::Failed, error, compensate);
        }
    }
}

fn step_ended(
    tx: &mut Tx<'_>,
    id: &WorkflowRunId,
    number: usize,
    state: StepState,
    error: Option<Failure>,
) {
    let Some(run) = tx.state.run(id) else { return };
    let step = run.plan.steps[number].id.clone();
    tx.emit(WorkflowEvent::StepEnded {
        run: id.clone(),
        step,
        at: tx.now,
        state,
        error,
    });
}

/// Begins a step, or skips it.
fn begin(tx: &mut Tx<'_>, id: &WorkflowRunId, number: usize) {
    let Some(run) = tx.state.run(id) else { return };
    let plan = &run.plan.steps[number];
    if let Some(when) = &plan.when {
        match when.write(&scope(run, &[when])) {
            Ok(Value::Bool(true)) => {}
            Ok(Value::Bool(false)) => {
                return step_ended(tx, id, number, StepState::Skipped, None);
            }
            Ok(other) => {
                let error = contract(format!("when: must be a bool, not {}", short(&other)));
                return step_ended(tx, id, number, StepState::Failed, Some(error));
            }
            Err(error) => {
                let error = contract(format!("when: {error}"));
                return step_ended(tx, id, number, StepState::Failed, Some(error));
            }
        }
    }
    match units(run, number, 1) {
        Ok(units) => {
            let span = plan.timeout_ms.map(Duration::from_millis);
            let ends_at = span.map(|span| tx.now.plus(span));
            open_round(tx, id, number, (1, ends_at), units);
        }
        Err(error) => step_ended(tx, id, number, StepState::Failed, Some(error)),
    }
}

fn open_round(
    tx: &mut Tx<'_>,
    id: &WorkflowRunId,
    number: usize,
    (round, ends_at): (u32, Option<mesh_messages::Timestamp>),
    units: Vec<UnitPlan>,
) {
    let Some(run) = tx.state.run(id) else { return };
    let step = run.plan.steps[number].id.clone();
    let count = units.len();
    tx.emit(WorkflowEvent::StepStarted {
        run: id.clone(),
        step,
        round,
        at: tx.now,
        ends_at,
        units,
    });
    let Some(run) = tx.state.run(id) else { return };
    let effects: Vec<Effect> = (0..count)
        .filter_map(|index| effect_of(run, number, index, false))
        .collect();
    for effect in effects {
        tx.effect(effect);
    }
}

fn start_child(tx: &mut Tx<'_>, id: &WorkflowRunId, number: usize, index: usize) {
    let Some(run) = tx.state.run(id) else { return };
    let plan = &run.plan.steps[number];
    let step = &run.steps[number];
    let place = u32::try_from(index).unwrap_or(u32::MAX);
    let never = if step.error.is_some() || run.ending.is_some() {
        // It was never begun, and now need not be.
        Some(UnitOutcome::Failed {
            state: StepState::Cancelled,
            error: Failure::new(FailureClass::Cancelled, "the step has failed"),
        })
    } else {
        None
    };
    if let Some(outcome) = never {
        return tx.emit(WorkflowEvent::UnitEnded {
            run: id.clone(),
            step: plan.id.clone(),
            index: place,
            at: tx.now,
            outcome,
        });
    }
    if let Work::Run(inner) = &plan.work {
        let inner = Arc::clone(inner);
        begin_run(tx, id, (number, index), inner);
    }
}

/// Begins the run of a unit.
pub(super) fn begin_run(
    tx: &mut Tx<'_>,
    id: &WorkflowRunId,
    (number, index): (usize, usize),
    inner: Arc<Plan>,
) {
    let Some(run) = tx.state.run(id) else { return };
    let (plan, step) = (&run.plan.steps[number], &run.steps[number]);
    let place = u32::try_from(index).unwrap_or(u32::MAX);
    if tx.state.index.live >= LIVE_RUNS_MAX {
        // To wait for room could be for ever: those that have it may wait for this one.
        let message = format!(
            "{LIVE_RUNS_MAX} runs have not ended, and no more are held; have fewer steps that are workflows begin at once"
        );
        return tx.emit(WorkflowEvent::UnitEnded {
            run: id.clone(),
            step: plan.id.clone(),
            index: place,
            at: tx.now,
            outcome: UnitOutcome::failed(FailureClass::Resource, message),
        });
    }
    let parent = ParentStep {
        run: id.clone(),
        step: plan.id.clone(),
        index: place,
    };
    let new = NewRun {
        scheduled: None,
        id: child_run(id, &plan.id, step.round, index),
        plan: inner,
        input: step.units[index].input.clone(),
        by: run.by.clone(),
        key: None,
        request: String::new(),
    };
    tx.start(new, Some(parent));
}

/// All units of a step have ended: it ends, or does another round.
fn close(tx: &mut Tx<'_>, id: &WorkflowRunId, number: usize) {
    let Some(run) = tx.state.run(id) else { return };
    let (plan, step) = (&run.plan.steps[number], &run.steps[number]);
    let failed = step.units.iter().find_map(|unit| match &unit.outcome {
        Some(UnitOutcome::Failed { state, error }) => Some((*state, error.clone())),
        _ => None,
    });
    if let Some(error) = step.error.clone() {
        let own = failed
            .filter(|(_, own)| *own == error)
            .map(|(state, _)| state);
        let state = own.unwrap_or(StepState::Failed);
        return step_ended(tx, id, number, state, Some(error));
    }
    if let Some((state, error)) = failed {
        return step_ended(tx, id, number, state, Some(error));
    }
    match another_round(run, plan, step) {
        Ok(None) => step_ended(tx, id, number, StepState::Succeeded, None),
        Ok(Some(units)) => {
            let (round, ends_at) = (step.round + 1, step.ends_at);
            open_round(tx, id, number, (round, ends_at), units);
        }
        Err(error) => step_ended(tx, id, number, StepState::Failed, Some(error)),
    }
}

fn another_round(
    run: &Run,
    plan: &StepPlan,
    step: &StepRun,
) -> Result<Option<Vec<UnitPlan>>, Failure> {
    let Some((max, until)) = &plan.repeat else {
        return Ok(None);
    };
    if let Some(until) = until {
        let mut scope = scope(run, &[until]);
        scope.round = Some(step.round);
        match until.write(&scope) {
            Ok(Value::Bool(true)) => return Ok(None),
            Ok(Value::Bool(false)) => {}
            Ok(other) => {
                let message = format!("repeat.until: must be a bool, not {}", short(&other));
                return Err(contract(message));
            }
            Err(error) => return Err(contract(format!("repeat.until: {error}"))),
        }
    }
    if step.round >= *max || run.ending.is_some() {
        return Ok(None);
    }
    let number = run.plan.by_id.get(&plan.id).copied().unwrap_or_default();
    units(run, number, step.round + 1).map(Some)
}

/// Takes back what one unit did.
fn undo(tx: &mut Tx<'_>, id: &WorkflowRunId, number: usize, index: usize) {
    let Some(run) = tx.state.run(id) else { return };
    let (plan, step) = (&run.plan.steps[number], &run.steps[number]);
    let Some(undo) = &plan.undo else { return };
    let unit = &step.units[index];
    let made = unit.outcome.as_ref().and_then(UnitOutcome::output).cloned();
    // What a round before it made is taken back as of that round.
    let round = match &made {
        Some(_) => step.round,
        None => step.round.saturating_sub(1).max(1),
    };
    let made = made
        .or_else(|| unit.last_output.clone())
        .unwrap_or_default();
    let named: Vec<_> = undo.input.iter().chain(&undo.claims).collect();
    let mut scope = scope(run, &named);
    if let Some(own) = Arc::make_mut(&mut scope.steps).get_mut(plan.id.as_str()) {
        own["output"] = made.clone();
    }
    scope.item = unit.item.as_ref();
    scope.index = u32::try_from(index).ok();
    scope.round = Some(round);
    let input = match &undo.input {
        None => Ok(made),
        Some(template) => {
            let written = template.write(&scope);
            written.map_err(|error| contract(format!("compensate.input: {error}")))
        }
    };
    let ready = input.and_then(|input| {
        let claims = claims(undo.claims.as_ref(), &scope);
        let claims = claims.map_err(|wrong| contract(format!("compensate.{}", wrong.message)))?;
        Ok((input, claims))
    });
    let task = unit_task(id, &plan.id, step.round, index, true);
    let (step, place) = (plan.id.clone(), u32::try_from(index).unwrap_or(u32::MAX));
    let ((input, claims), wrong) = match ready {
        Ok(ready) => (ready, None),
        Err(wrong) => ((Value::Null, Vec::new()), Some(wrong)),
    };
    tx.emit(WorkflowEvent::Compensating {
        run: id.clone(),
        step: step.clone(),
        index: place,
        at: tx.now,
        input,
        claims,
        task,
    });
    if wrong.is_some() {
        return tx.emit(WorkflowEvent::Compensated {
            run: id.clone(),
            step,
            index: place,
            at: tx.now,
            error: wrong,
        });
    }
    let effect = tx
        .state
        .run(id)
        .and_then(|run| effect_of(run, number, index, true));
    if let Some(effect) = effect {
        tx.effect(effect);
    }
}

/// Ends a run in which nothing is left to do.
fn finish(tx: &mut Tx<'_>, id: &WorkflowRunId) {
    let Some(run) = tx.state.run(id) else { return };
    let (state, output, error) = match &run.ending {
        Some(ending) => (ending.to, None, Some(with_failed_undo(run, &ending.error))),
        None => match output(run) {
            Ok(output) => (TaskState::Succeeded, Some(output), None),
            Err(error) => (TaskState::Failed, None, Some(error)),
        },
    };
    let mut view = super::view::view(run);
    view.state = state;
    view.output.clone_from(&output);
    view.error.clone_from(&error);
    view.ended_at = Some(tx.now);
    for step in &mut view.steps {
        if !step.state.is_terminal() {
            step.state = StepState::Cancelled;
            step.waiting_for = None;
        }
    }
    let parent = run.parent.clone();
    tx.emit(WorkflowEvent::Ended {
        run: id.clone(),
        view: Box::new(view),
        key: run.key.clone(),
        request: run.request.clone(),
    });
    tx.effect(Effect::RunEnded(id.clone()));
    let Some(parent) = parent else { return };
    let outcome = match (output, error) {
        (Some(output), None) => {
            let outcome = UnitOutcome::Succeeded { output };
            match tx.state.run(&parent.run) {
                Some(above) => bounded(above, outcome),
                None => outcome,
            }
        }
        (_, error) => UnitOutcome::Failed {
            state: state.into(),
            error: error.unwrap_or_else(|| contract("failed")),
        },
    };
    tx.emit(WorkflowEvent::UnitEnded {
        run: parent.run,
        step: parent.step,
        index: parent.index,
        at: tx.now,
        outcome,
    });
}

/// The failure of a run, with what could not be taken back.
fn with_failed_undo(run: &Run, error: &Failure) -> Failure {
    let mut error = error.clone();
    for (plan, step) in run.plan.steps.iter().zip(&run.steps) {
        let undone = step
            .units
            .iter()
            .filter_map(|unit| unit.undo.as_ref()?.error.as_ref());
        for failed in undone {
            let more = format!("; the compensation of step {} failed: {failed}", plan.id);
            error.message.push_str(&more);
        }
    }
    error
}

fn output(run: &Run) -> Result<Value, Failure> {
    let Some(template) = &run.plan.output else {
        let last = run.plan.last_steps();
        let outputs = last.map(|(number, plan)| {
            let output = run.steps[number].output(plan.each.is_some());
            (plan.id.clone(), output)
        });
        return Ok(Value::Object(outputs.collect::<Map<_, _>>()));
    };
    let output = template.write(&scope(run, &[template]));
    output.map_err(|error| contract(format!("output: {error}")))
}
