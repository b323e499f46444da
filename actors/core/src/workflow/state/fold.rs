//! What the events of a step make of it.

use mesh_messages::events::WorkflowEvent;
use mesh_messages::workflow::StepState;

use super::{StepRun, UndoRun, Unit};

pub(super) fn fold_step(step: &mut StepRun, event: &WorkflowEvent) {
    match event {
        WorkflowEvent::StepStarted {
            round,
            at,
            ends_at,
            units,
            ..
        } => {
            let before = std::mem::take(&mut step.units);
            step.state = StepState::Running;
            step.round = *round;
            step.started_at.get_or_insert(*at);
            step.ends_at = *ends_at;
            for (index, plan) in units.iter().enumerate() {
                let last = before.get(index);
                step.units.push(Unit {
                    input: plan.input.clone(),
                    item: plan.item.clone(),
                    task: plan.task.clone(),
                    claims: plan.claims.clone(),
                    outcome: None,
                    done: last.and_then(|unit| unit.done),
                    last_output: last.and_then(|unit| unit.outcome.as_ref()?.output().cloned()),
                    undo: None,
                });
            }
        }
        WorkflowEvent::StepFailing { error, .. } => step.error = Some(error.clone()),
        WorkflowEvent::StepEnded {
            state, error, at, ..
        } => {
            step.state = *state;
            step.ended_at = Some(*at);
            step.error.clone_from(error);
        }
        WorkflowEvent::Compensating {
            index,
            input,
            claims,
            task,
            ..
        } => {
            if let Some(unit) = step.units.get_mut(*index as usize) {
                unit.undo = Some(UndoRun {
                    task: task.clone(),
                    input: input.clone(),
                    claims: claims.clone(),
                    ended: false,
                    error: None,
                });
            }
        }
        WorkflowEvent::Compensated { index, error, .. } => {
            let unit = step.units.get_mut(*index as usize);
            if let Some(undo) = unit.and_then(|unit| unit.undo.as_mut()) {
                undo.ended = true;
                undo.error.clone_from(error);
            }
        }
        WorkflowEvent::Started { .. }
        | WorkflowEvent::UnitEnded { .. }
        | WorkflowEvent::Ending { .. }
        | WorkflowEvent::Ended { .. }
        | WorkflowEvent::ScheduleCreated { .. }
        | WorkflowEvent::ScheduleChanged { .. }
        | WorkflowEvent::ScheduleFired { .. }
        | WorkflowEvent::ScheduleRemoved { .. }
        | WorkflowEvent::PlanWritten { .. }
        | WorkflowEvent::PlanStarted { .. }
        | WorkflowEvent::PlanRemoved { .. } => {}
    }
}
