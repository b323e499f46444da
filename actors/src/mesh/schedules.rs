//! Schedules, as the outside asks for them.

use std::sync::Arc;

use mesh_actors_core::workflow::{NewSchedule, ScheduleCommand};
use mesh_messages::ScheduleId;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::schedule::Schedule;
use mesh_messages::system::Caller;

use super::Mesh;
use crate::operations::ScheduleOrder;

/// A schedule's id, or that there is no such schedule: what is no id is nobody's.
fn schedule_id(text: &str) -> Result<ScheduleId, Problem> {
    ScheduleId::new(text).map_err(|_| not_found(text))
}

fn not_found(id: &str) -> Problem {
    let detail = format!("Schedule {id} not found");
    Problem::new(ProblemKind::NotFound, "schedule_not_found", detail)
}

impl Mesh {
    pub(super) async fn schedule_create(
        &self,
        caller: &Caller,
        order: ScheduleOrder,
    ) -> Result<(Schedule, bool), Problem> {
        self.may_check_in(caller, &order.workflow).await?;
        let plan = self.plan(&order.workflow, order.deploy_later).await?;
        self.may_run(caller, "/v1/schedules", plan.document())?;
        let id = order.id.clone();
        let new = NewSchedule {
            id: order.id,
            terms: order.terms,
            plan: Arc::new(plan),
            by: caller.name.clone(),
            paused: order.paused,
        };
        let command = ScheduleCommand::Create(Box::new(new));
        let replayed = self.workflows.schedule(&caller.name, command).await?;
        Ok((self.schedule_of(id).await?, replayed))
    }

    pub(super) async fn schedule_named(&self, id: &str) -> Result<Schedule, Problem> {
        self.schedule_of(schedule_id(id)?).await
    }

    async fn schedule_of(&self, id: ScheduleId) -> Result<Schedule, Problem> {
        let mut found = self.workflows.schedules(Some(id.clone())).await?;
        found.pop().ok_or_else(|| not_found(id.as_str()))
    }

    pub(super) async fn schedule_pause(
        &self,
        caller: &Caller,
        id: &str,
        paused: bool,
    ) -> Result<Schedule, Problem> {
        let id = schedule_id(id)?;
        let by = caller.name.clone();
        let command = ScheduleCommand::Pause {
            id: id.clone(),
            paused,
            by,
        };
        self.workflows.schedule(&caller.name, command).await?;
        self.schedule_of(id).await
    }

    pub(super) async fn schedule_remove(&self, caller: &Caller, id: &str) -> Result<(), Problem> {
        let id = schedule_id(id)?;
        let by = caller.name.clone();
        let command = ScheduleCommand::Remove { id, by };
        self.workflows.schedule(&caller.name, command).await?;
        Ok(())
    }
}
