//! A run as it is shown, as far as its own events tell: where its tasks stand is for the shell to add.

use mesh_messages::task::TaskState;
use mesh_messages::workflow::{StepKind, StepState, StepView, WorkflowRun};

use super::decide::child_run;
use super::plan::Work;
use super::state::{Run, StepRun, Workflows};
use crate::task::who_answers;

impl Workflows {
    /// A run that is held, as it is shown.
    pub fn view(&self, run: &Run) -> WorkflowRun {
        view(run)
    }
}

/// A run as it is shown.
pub(crate) fn view(run: &Run) -> WorkflowRun {
    if let Some(ended) = &run.ended {
        return (**ended).clone();
    }
    let steps: Vec<StepView> = (0..run.steps.len())
        .map(|number| step(run, number))
        .collect();
    WorkflowRun {
        id: run.id.clone(),
        state: state(run, &steps),
        name: run.plan.document.name.clone(),
        version: run.plan.document.version.0.clone(),
        digest: run.plan.digest.clone(),
        steps,
        output: None,
        error: run.ending.as_ref().map(|ending| ending.error.clone()),
        input: run.input.clone(),
        submitted_by: run.by.clone(),
        submitted_at: run.at,
        ended_at: None,
        parent: run.parent.clone(),
        scheduled: run.scheduled.clone(),
        workflow: Some(Box::new((*run.plan.document).clone())),
    }
}

fn state(run: &Run, steps: &[StepView]) -> TaskState {
    let going = |step: &&StepView| !step.state.is_terminal() && step.round > 0;
    let asks = |step: &StepView| step.kind == StepKind::Approval;
    let mut under_way = steps.iter().filter(going).peekable();
    if run
        .steps
        .iter()
        .all(|step| step.round == 0 && step.state == StepState::Blocked)
    {
        TaskState::Queued
    } else if run.ending.is_none() && under_way.peek().is_some() && under_way.all(asks) {
        TaskState::Blocked
    } else {
        TaskState::Running
    }
}

fn step(run: &Run, number: usize) -> StepView {
    let (plan, step) = (&run.plan.steps[number], &run.steps[number]);
    let kind = plan.kind();
    let each = plan.each.is_some();
    let runs = if matches!(kind, StepKind::Workflow | StepKind::Team) {
        // A team that is not drafted yet has no run.
        let begun = |index: &usize| {
            let drafted = run.children.contains(&(number, *index));
            kind == StepKind::Workflow || drafted
        };
        let units = 0..step.units.len();
        units
            .filter(begun)
            .map(|index| child_run(&run.id, &plan.id, step.round, index))
            .collect()
    } else {
        Vec::new()
    };
    let is_task = matches!(kind, StepKind::Task | StepKind::Approval);
    let tasks = step.units.iter().filter_map(|unit| unit.task.clone());
    let undo = step.units.iter().filter_map(|unit| unit.undo.as_ref());
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let ended = step
        .units
        .iter()
        .filter(|unit| unit.outcome.is_some())
        .count();
    StepView {
        id: plan.id.clone(),
        kind,
        state: match (step.state, kind) {
            (StepState::Running, StepKind::Approval) => StepState::Blocked,
            (StepState::Running, StepKind::Task) => StepState::Queued,
            (state, _) => state,
        },
        task_ids: if is_task { tasks.collect() } else { Vec::new() },
        runs,
        after: plan
            .deps
            .iter()
            .map(|dep| run.plan.steps[*dep].id.clone())
            .collect(),
        round: step.round,
        items: (each && step.round > 0).then(|| (count(ended), count(step.units.len()))),
        output: (step.state == StepState::Succeeded || each && step.state.is_terminal())
            .then(|| step.output(each))
            .filter(|_| step.state != StepState::Skipped),
        error: step.error.clone(),
        waiting_for: waiting(run, number, step),
        started_at: step.started_at,
        ended_at: step.ended_at,
        compensation: undone(step),
        compensation_task_ids: undo.map(|undo| undo.task.clone()).collect(),
    }
}

fn waiting(run: &Run, number: usize, step: &StepRun) -> Option<String> {
    let plan = &run.plan.steps[number];
    if step.is_running()
        && let Work::Task(spec) = &plan.work
        && let Some(asked) = &spec.approval
    {
        return Some(format!("{} has to approve or deny it", who_answers(asked)));
    }
    if step.state != StepState::Blocked {
        return None;
    }
    let open = plan
        .deps
        .iter()
        .filter(|dep| !run.steps[**dep].state.is_terminal());
    let names: Vec<&str> = open.map(|dep| run.plan.steps[*dep].id.as_str()).collect();
    (!names.is_empty()).then(|| format!("steps that come before it: {}", names.join(", ")))
}

fn undone(step: &StepRun) -> Option<StepState> {
    let mut undo = step
        .units
        .iter()
        .filter_map(|unit| unit.undo.as_ref())
        .peekable();
    undo.peek()?;
    let undo: Vec<_> = undo.collect();
    Some(if undo.iter().any(|undo| !undo.ended) {
        StepState::Running
    } else if undo.iter().any(|undo| undo.error.is_some()) {
        StepState::Failed
    } else {
        StepState::Succeeded
    })
}
