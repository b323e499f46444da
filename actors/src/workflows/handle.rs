//! The only way to the runs of workflows.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use mesh_actors_core::workflow::{Answer, Command, NewRun, PlanCommand, ScheduleCommand};
use mesh_messages::plan::StoredPlan;
use mesh_messages::problem::Problem;
use mesh_messages::schedule::Schedule;
use mesh_messages::workflow::{WorkflowDocument, WorkflowRun};
use mesh_messages::{PlanId, ScheduleId, WorkflowRunId};

use super::Message;
use crate::partition::Cause;
use crate::slot::Slot;

/// How long a caller waits for an answer: a restart of the actor and a slow disk fit in.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// Ends of runs that a waiter may lag behind before it has to look for itself.
const ENDS_KEPT: usize = 1024;

/// The only way to talk to the workflows. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WorkflowsHandle {
    pub(super) slot: Slot<Message>,
    ends: broadcast::Sender<WorkflowRunId>,
}

impl Default for WorkflowsHandle {
    fn default() -> Self {
        Self {
            slot: Slot::new("workflows"),
            ends: broadcast::Sender::new(ENDS_KEPT),
        }
    }
}

impl WorkflowsHandle {
    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.slot.is_running()
    }

    /// How often it was restarted.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.slot.restarts()
    }

    /// Hears of every run that ends from now on.
    #[must_use]
    pub fn ends(&self) -> broadcast::Receiver<WorkflowRunId> {
        self.ends.subscribe()
    }

    pub(super) fn ended(&self, run: &WorkflowRunId) {
        let _nobody_waits = self.ends.send(run.clone());
    }

    async fn decide(&self, by: &str, command: Command) -> Result<Answer, Problem> {
        self.slot
            .call(CALL_LIMIT, |reply| Message::Command {
                command: Box::new(command),
                by: Cause::by(by),
                reply: Some(reply),
            })
            .await?
    }

    async fn ask(&self, by: &str, command: Command) -> Result<(WorkflowRunId, bool), Problem> {
        match self.decide(by, command).await? {
            Answer::Run { id, replayed } => Ok((id, replayed)),
            Answer::Done | Answer::Schedule { .. } | Answer::Plan { .. } => {
                Err(Problem::internal("the workflow machine answered nothing"))
            }
        }
    }

    /// Starts a run; answers when it is durable, with its id and whether it was there before.
    ///
    /// # Errors
    /// Its key stands for another submission, or none is accepted now.
    pub async fn start(&self, new: NewRun) -> Result<(WorkflowRunId, bool), Problem> {
        let by = new.by.clone();
        self.ask(&by, Command::Start(Box::new(new))).await
    }

    /// Has a run ended.
    ///
    /// # Errors
    /// It is unknown, or has ended.
    pub async fn cancel(&self, by: &str, run: WorkflowRunId, reason: &str) -> Result<(), Problem> {
        let reason = format!("by {by}: {reason}");
        self.ask(by, Command::Cancel { run, reason })
            .await
            .map(drop)
    }

    /// A run that is held; `None` when the read side has it.
    ///
    /// # Errors
    /// The actor does not answer.
    pub async fn view(&self, run: &WorkflowRunId) -> Result<Option<WorkflowRun>, Problem> {
        let run = run.clone();
        Ok(self
            .slot
            .call(CALL_LIMIT, |reply| Message::View { run, reply })
            .await?)
    }

    /// Makes, changes or removes a schedule; answers when it is durable, with whether it was like this before.
    ///
    /// # Errors
    /// It is unknown or another one, or makes no sense.
    pub async fn schedule(&self, by: &str, command: ScheduleCommand) -> Result<bool, Problem> {
        let answer = self.decide(by, Command::Schedule(command)).await?;
        Ok(answer == Answer::Schedule { replayed: true })
    }

    /// A schedule with its document, or all without; empty when there is none.
    ///
    /// # Errors
    /// The actor does not answer.
    pub async fn schedules(&self, id: Option<ScheduleId>) -> Result<Vec<Schedule>, Problem> {
        Ok(self
            .slot
            .call(CALL_LIMIT, |reply| Message::Schedules { id, reply })
            .await?)
    }

    /// Writes, starts or removes a plan; answers when it is durable, with whether it was like this before.
    ///
    /// # Errors
    /// It is unknown, was changed or started meanwhile, or makes no sense.
    pub async fn plan(&self, by: &str, command: PlanCommand) -> Result<bool, Problem> {
        let answer = self.decide(by, Command::Plan(command)).await?;
        Ok(answer == Answer::Plan { replayed: true })
    }

    /// A plan with its earlier versions, or all without; empty when there is none.
    ///
    /// # Errors
    /// The actor does not answer.
    pub async fn plans(&self, id: Option<PlanId>) -> Result<Vec<StoredPlan>, Problem> {
        Ok(self
            .slot
            .call(CALL_LIMIT, |reply| Message::Plans { id, reply })
            .await?)
    }

    /// The newest document of a name.
    ///
    /// # Errors
    /// The actor does not answer.
    pub async fn named(&self, name: &str) -> Result<Option<Arc<WorkflowDocument>>, Problem> {
        let name = name.to_owned();
        Ok(self
            .slot
            .call(CALL_LIMIT, |reply| Message::Named { name, reply })
            .await?)
    }
}
