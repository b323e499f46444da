//! A team as a step: drafted over the agents that there are when the step begins, and done as a run of its own.
//!
//! Which agents there are is asked of the shell once the step has begun; what it answers is drafted and checked here, and
//! the document is in the record with which the run begins. Until then nothing but the step is known, so a restart asks
//! again.

use std::sync::Arc;

use mesh_messages::events::WorkflowEvent;
use mesh_messages::schema::FieldError;
use mesh_messages::team::TeamOrder;
use mesh_messages::workflow::UnitOutcome;
use mesh_messages::{FailureClass, WorkflowRunId};

use super::advance::begin_run;
use super::check::{Surroundings, check};
use super::decide::Tx;
use super::plan::{Plan, Work};
use super::state::Run;
use super::team::{self, Candidate};

/// The unit of a step for which a team is to be drafted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The run.
    pub run: WorkflowRunId,
    /// Its step.
    pub step: String,
    /// The step's round.
    pub round: u32,
    /// Which item.
    pub index: u32,
}

impl Draft {
    pub(super) fn of(run: &Run, number: usize, index: usize) -> Self {
        Self {
            run: run.id.clone(),
            step: run.plan.steps[number].id.clone(),
            round: run.steps[number].round,
            index: u32::try_from(index).unwrap_or(u32::MAX),
        }
    }
}

/// The plan of a team of these agents.
fn planned(order: &TeamOrder, fleet: &[Candidate]) -> Result<Plan, Vec<FieldError>> {
    let goal = order.goal.as_deref().unwrap_or_default();
    let document = team::draft(order, goal, fleet)?;
    let around = Surroundings {
        services: None,
        named: &|_| None,
        offered: None,
        registered: None,
        fleet: None,
    };
    check(&document, around)
}

/// Takes in which agents there are, and begins the run of a team of them. An answer to what is no longer asked is nothing.
pub(super) fn drafted(tx: &mut Tx<'_>, draft: &Draft, fleet: &[Candidate]) {
    let Some(run) = tx.state.run(&draft.run).filter(|run| run.ended.is_none()) else {
        return;
    };
    let Some(number) = run.plan.by_id.get(&draft.step).copied() else {
        return;
    };
    let (step, index) = (&run.steps[number], draft.index as usize);
    let waits = step.is_running() && step.round == draft.round && step.error.is_none();
    let open = step
        .units
        .get(index)
        .is_some_and(|unit| unit.outcome.is_none());
    let begun = run.children.contains(&(number, index));
    let Work::Team(order) = &run.plan.steps[number].work else {
        return;
    };
    if !waits || !open || begun || run.ending.is_some() {
        return;
    }
    match planned(order, fleet) {
        Ok(plan) => begin_run(tx, &draft.run, (number, index), Arc::new(plan)),
        Err(errors) => {
            let all = errors
                .iter()
                .map(|e| format!("team.{}: {}", e.path, e.message));
            let all = all.collect::<Vec<_>>().join("; ");
            let event = WorkflowEvent::UnitEnded {
                run: draft.run.clone(),
                step: draft.step.clone(),
                index: draft.index,
                at: tx.now,
                outcome: UnitOutcome::failed(FailureClass::Refusal, all),
            };
            tx.emit(event);
        }
    }
}
