//! The only way to the orchestrator.

mod orders;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::broadcast;

use mesh_actors_core::routing::{AgentQuality, FleetAgent, InstanceKey};
use mesh_actors_core::task::{Answer, Answerer, Asker, Command, FleetChange, NewTask};
use mesh_messages::claim::Claim;
use mesh_messages::inbox::InboxAnswer;
use mesh_messages::klp::{ClaimCode, ClaimReply};
use mesh_messages::problem::Problem;
use mesh_messages::task::{Progress, Task, TaskExplanation, TaskReceipt, TaskSpec};
use mesh_messages::trust::{AgentTrust, TrustReset};
use mesh_messages::{AgentId, Failure, InstanceNo, Position, TaskId};

use super::load::Listeners;
use super::record::AgentRecord;
use super::waiters::{EndWatch, Waiters};
use super::{Message, attempt_ref};
use crate::agents::delivery::AttemptNews;
use crate::agents::services::{ClaimRequest, Delegation};
use crate::operations::OutcomeReport;
use crate::partition::Cause;
use crate::slot::{CallError, Slot};

/// How long a caller waits for an answer: a restart of the actor and a slow disk fit in.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(30);
/// How often a report is repeated when its answer is missing, and the pause between. Beyond that its attempt is found
/// to be nobody's when the orchestrator takes stock.
const REPORTS_MAX: u32 = 20;
const REPORT_PAUSE: Duration = Duration::from_millis(500);

/// The only way to talk to the orchestrator. Cheap to clone.
#[derive(Debug, Clone)]
pub struct OrchestratorHandle {
    pub(super) slot: Slot<Message>,
    waiters: Arc<Waiters>,
    // Only of attempts that are under way, so it is as bounded as they are.
    progress: Arc<Mutex<BTreeMap<TaskId, Option<Progress>>>>,
    pub(super) created: Listeners,
}

impl Default for OrchestratorHandle {
    fn default() -> Self {
        Self {
            slot: Slot::new("orchestrator"),
            waiters: Arc::default(),
            progress: Arc::default(),
            created: Listeners::default(),
        }
    }
}

impl OrchestratorHandle {
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

    pub(super) async fn ask(&self, command: Command, cause: Cause) -> Result<Answer, Problem> {
        self.slot
            .call(CALL_LIMIT, |reply| Message::Command {
                command: Box::new(command),
                cause,
                reply: Some(reply),
            })
            .await?
    }

    pub(super) fn tell(&self, command: Command) -> Result<(), CallError> {
        let cause = Cause::meshd();
        self.slot.cast(Message::Command {
            command: Box::new(command),
            cause,
            reply: None,
        })
    }

    /// Accepts tasks, all or none; the receipts, and whether all of them were there before.
    ///
    /// # Errors
    /// What is wrong with the tasks, or why none is accepted now.
    pub async fn submit(
        &self,
        by: &str,
        specs: Vec<TaskSpec>,
    ) -> Result<(Vec<TaskReceipt>, bool), Problem> {
        let tasks = specs.into_iter().map(|spec| new_task(spec, None)).collect();
        self.submit_all(by, tasks).await
    }

    /// Accepts a task that came as a message, which its sender may have signed.
    ///
    /// # Errors
    /// As [`OrchestratorHandle::submit`].
    pub(crate) async fn submit_said(
        &self,
        by: &str,
        spec: TaskSpec,
        envelope: Option<Box<Value>>,
    ) -> Result<TaskReceipt, Problem> {
        let (receipts, _) = self.submit_all(by, vec![new_task(spec, envelope)]).await?;
        let missing = || Problem::internal("a submission without a receipt");
        receipts.into_iter().next().ok_or_else(missing)
    }

    async fn submit_all(
        &self,
        by: &str,
        tasks: Vec<NewTask>,
    ) -> Result<(Vec<TaskReceipt>, bool), Problem> {
        let command = Command::Submit {
            by: by.to_owned(),
            tasks,
        };
        match self.ask(command, Cause::by(by)).await? {
            Answer::Receipts { receipts, replayed } => Ok((receipts, replayed)),
            other => Err(unexpected(&other)),
        }
    }

    /// Accepts a task under a given id.
    ///
    /// # Errors
    /// `task_exists` when there is one already; what is wrong with it, or why none is accepted now.
    pub(crate) async fn submit_as(
        &self,
        by: &str,
        id: TaskId,
        spec: TaskSpec,
    ) -> Result<TaskReceipt, Problem> {
        let command = Command::Submit {
            by: by.to_owned(),
            tasks: vec![NewTask {
                id,
                fresh: false,
                envelope: None,
                spec,
            }],
        };
        match self.ask(command, Cause::by(by)).await? {
            Answer::Receipts { receipts, .. } if receipts.len() == 1 => {
                let mut receipts = receipts;
                Ok(receipts.remove(0))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Has these tasks, which are about to be removed, stay as they ended; those of them that have not ended.
    ///
    /// # Errors
    /// The task machine is not there.
    pub(crate) async fn retire(&self, tasks: Vec<TaskId>) -> Result<BTreeSet<TaskId>, Problem> {
        let asked = |reply| Message::Retire { tasks, reply };
        Ok(self.slot.call(CALL_LIMIT, asked).await?)
    }

    /// Answers what a task asks a person; the first answer counts.
    ///
    /// # Errors
    /// It is unknown, asks nobody, or was answered already.
    pub async fn approve(
        &self,
        by: Answerer,
        task: TaskId,
        answer: InboxAnswer,
    ) -> Result<Task, Problem> {
        let cause = Cause::by(by.name.clone());
        self.task(Command::Approve { task, by, answer }, cause)
            .await
    }

    async fn task(&self, command: Command, cause: Cause) -> Result<Task, Problem> {
        match self.ask(command, cause).await? {
            Answer::Task(task) => Ok(*task),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes the outcome of an attempt from outside its channel.
    ///
    /// # Errors
    /// The attempt is over, or never was.
    pub async fn outcome(
        &self,
        by: &str,
        task: TaskId,
        report: OutcomeReport,
    ) -> Result<(), Problem> {
        let result = match (report.output, report.error) {
            (None, Some(error)) => Err(error),
            (output, None) => Ok(output.unwrap_or_default()),
            (Some(_), Some(_)) => {
                let detail = "output and error contradict each other";
                return Err(Problem::invalid("invalid_outcome", "error", detail));
            }
        };
        let attempt = attempt_ref(task, report.attempt, report.epoch);
        self.ask(
            Command::AttemptEnded {
                attempt,
                key: None,
                result,
            },
            Cause::by(by),
        )
        .await
        .map(drop)
    }

    /// Tasks that are held, in the order of their ids, each with why it waits and how far it is; `None` where the read
    /// side has it.
    ///
    /// # Errors
    /// The orchestrator does not answer.
    pub async fn views(&self, tasks: Vec<TaskId>) -> Result<Vec<Option<Task>>, Problem> {
        let views = self
            .slot
            .call(CALL_LIMIT, |reply| Message::View { tasks, reply })
            .await?;
        let with_progress = |view: Option<Task>| view.map(|task| self.with_progress(task));
        Ok(views.into_iter().map(with_progress).collect())
    }

    /// One of them.
    ///
    /// # Errors
    /// The orchestrator does not answer.
    pub async fn view(&self, task: &TaskId) -> Result<Option<Task>, Problem> {
        let views = self.views(vec![task.clone()]).await?;
        Ok(views.into_iter().next().flatten())
    }

    /// Why a task that is held went to whom, or waits.
    ///
    /// # Errors
    /// The orchestrator does not answer.
    pub async fn explain(&self, task: &TaskId) -> Result<Option<TaskExplanation>, Problem> {
        let task = task.clone();
        Ok(self
            .slot
            .call(CALL_LIMIT, |reply| Message::Explain { task, reply })
            .await?)
    }

    /// How good every agent's verified results are.
    ///
    /// # Errors
    /// The orchestrator does not answer.
    pub(crate) async fn qualities(&self) -> Result<Vec<(AgentId, AgentQuality)>, Problem> {
        let asked = self
            .slot
            .call(CALL_LIMIT, |reply| Message::Quality { reply });
        Ok(asked.await?)
    }

    /// An agent's record.
    ///
    /// # Errors
    /// The orchestrator does not answer.
    pub(crate) async fn stats(&self, agent: &AgentId) -> Result<AgentRecord, Problem> {
        let agent = agent.clone();
        Ok(self
            .slot
            .call(CALL_LIMIT, |reply| Message::Stats { agent, reply })
            .await?)
    }

    /// The task with what its agent last said of it.
    pub fn with_progress(&self, task: Task) -> Task {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        match progress.get(&task.id) {
            Some(Some(progress)) => Task {
                progress: Some(progress.clone()),
                ..task
            },
            Some(None) | None => task,
        }
    }

    /// Hears of the ends of these tasks from now on.
    pub fn ends_of<'a>(&self, tasks: impl IntoIterator<Item = &'a TaskId>) -> EndWatch {
        self.waiters.watch(tasks)
    }

    /// Hears of every task that ends from now on: for the few who have to.
    #[must_use]
    pub fn ends(&self) -> broadcast::Receiver<TaskId> {
        self.waiters.all()
    }

    /// An attempt is under way: from now on its progress is kept.
    pub(super) fn under_way(&self, task: &TaskId) {
        self.progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(task.clone())
            .or_default();
    }

    pub(super) fn ended(&self, task: &TaskId, view: impl FnOnce() -> Option<Task>) {
        self.progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(task);
        self.waiters.ended(task, view);
    }

    /// Takes no new work from outside any more.
    pub fn close(&self) {
        let _ended_already = self.slot.cast(Message::Close);
    }

    // ---- for agents ----

    /// Takes reports on attempts, in order; returns when the machine has them, or will never want them.
    pub(crate) async fn report(
        &self,
        agent: &AgentId,
        instance: InstanceNo,
        news: Vec<AttemptNews>,
    ) {
        let reports: Vec<Command> = news
            .into_iter()
            .filter_map(|news| self.command_of(agent, instance, news))
            .collect();
        if reports.is_empty() {
            return;
        }
        for _ in 0..REPORTS_MAX {
            let reports = reports.clone();
            let taken = self
                .slot
                .call(CALL_LIMIT, |reply| Message::Reports { reports, reply })
                .await;
            match taken {
                Ok(()) => return,
                Err(error) => {
                    tracing::debug!(%error, "reports were not answered; they are repeated");
                    tokio::time::sleep(REPORT_PAUSE).await;
                }
            }
        }
        let count = reports.len();
        tracing::warn!(
            count,
            "reports could not be delivered; their attempts will count as lost"
        );
    }

    /// What a report says to the task machine; progress is only kept.
    fn command_of(
        &self,
        agent: &AgentId,
        instance: InstanceNo,
        news: AttemptNews,
    ) -> Option<Command> {
        match news {
            AttemptNews::Started {
                task,
                attempt,
                epoch,
            } => Some(Command::AttemptStarted {
                attempt: attempt_ref(task, attempt, epoch),
                key: (agent.clone(), instance, epoch),
            }),
            AttemptNews::Checking {
                task,
                attempt,
                epoch,
                checks,
            } => Some(Command::AttemptChecking {
                attempt: attempt_ref(task, attempt, epoch),
                key: (agent.clone(), instance, epoch),
                checks,
            }),
            AttemptNews::Checked {
                task,
                attempt,
                epoch,
                checks,
            } => Some(Command::AttemptChecked {
                attempt: attempt_ref(task, attempt, epoch),
                key: (agent.clone(), instance, epoch),
                checks,
            }),
            AttemptNews::Used {
                task,
                attempt,
                epoch,
                usage,
                last,
            } => Some(Command::AttemptUsed {
                attempt: attempt_ref(task, attempt, epoch),
                key: (agent.clone(), instance, epoch),
                usage,
                last,
            }),
            AttemptNews::Ended {
                task,
                attempt,
                epoch,
                result,
            } => Some(Command::AttemptEnded {
                attempt: attempt_ref(task, attempt, epoch),
                key: Some((agent.clone(), instance, epoch)),
                result,
            }),
            // It is on record already.
            AttemptNews::Said { .. } => None,
            AttemptNews::Progress { task, progress, .. } => {
                let mut kept = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(last) = kept.get_mut(&task) {
                    *last = Some(progress);
                }
                None
            }
        }
    }

    /// Accepts a delegation.
    ///
    /// # Errors
    /// What is wrong with it, or why it is not allowed.
    pub(crate) async fn delegate(
        &self,
        key: InstanceKey,
        delegation: Delegation,
        envelope: Option<Box<Value>>,
    ) -> Result<TaskId, Problem> {
        let by = format!("agent:{}", delegation.agent);
        let spec = delegation.spec();
        let asker = Asker {
            parent: attempt_ref(delegation.parent, delegation.attempt, delegation.epoch),
            key,
            request: delegation.request,
        };
        match self
            .ask(
                Command::Delegate {
                    asker,
                    spec: Box::new(spec),
                    envelope,
                },
                Cause::by(by),
            )
            .await?
        {
            Answer::Child(task) => Ok(task),
            other => Err(unexpected(&other)),
        }
    }

    /// Takes, keeps or gives back a resource on behalf of an attempt; `None` when it waits for it.
    pub(crate) async fn claim(&self, request: ClaimRequest) -> Option<ClaimReply> {
        let by = format!("agent:{}", request.key.0);
        let resource = request.op.resource.clone();
        let asker = Asker {
            parent: attempt_ref(request.task, request.attempt, request.key.2),
            key: request.key,
            request: request.request,
        };
        let command = Command::Claim {
            asker,
            op: Box::new(request.op),
        };
        match self.ask(command, Cause::by(by)).await {
            Ok(Answer::Claim(reply)) => reply.map(|reply| *reply),
            Ok(other) => {
                let problem = unexpected(&other);
                let code = ClaimCode::Unavailable;
                Some(ClaimReply::refused(&resource, code, problem.detail))
            }
            Err(problem) => {
                let code = match problem.code {
                    "stale_attempt" => ClaimCode::Stale,
                    _ => ClaimCode::Unavailable,
                };
                Some(ClaimReply::refused(&resource, code, problem.detail))
            }
        }
    }

    /// Who holds which resource, and who waits for it, by name.
    ///
    /// # Errors
    /// The orchestrator does not answer.
    pub async fn claims(&self) -> Result<Vec<Claim>, Problem> {
        Ok(self
            .slot
            .call(CALL_LIMIT, |reply| Message::Claims { reply })
            .await?)
    }

    /// How far agents are trusted, by id; one that is named with its history.
    ///
    /// # Errors
    /// The orchestrator does not answer.
    pub async fn trust(&self, agent: Option<AgentId>) -> Result<Vec<AgentTrust>, Problem> {
        Ok(self
            .slot
            .call(CALL_LIMIT, |reply| Message::Trust { agent, reply })
            .await?)
    }

    /// Sets the trust in an agent; answers when that is durable.
    ///
    /// # Errors
    /// The orchestrator does not answer.
    pub async fn reset_trust(
        &self,
        by: &str,
        agent: AgentId,
        reset: TrustReset,
    ) -> Result<(), Problem> {
        let command = Command::ResetTrust {
            agent,
            by: by.to_owned(),
            reset,
        };
        match self.ask(command, Cause::by(by)).await? {
            Answer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// An agent's condition has changed. One that is restarted looks for itself.
    pub(crate) fn fleet(&self, agent: AgentId, fleet: FleetAgent) {
        let _restarting = self.tell(Command::Fleet(FleetChange::Agent(agent, Box::new(fleet))));
    }

    /// An agent was removed.
    pub(crate) fn fleet_gone(&self, agent: AgentId) {
        let _restarting = self.tell(Command::Fleet(FleetChange::Gone(agent)));
    }

    /// Every registered agent has been announced.
    pub(crate) fn fleet_complete(&self) {
        let _restarting = self.tell(Command::Fleet(FleetChange::Complete));
    }

    /// An incarnation is gone; the record that says so.
    pub(crate) fn instance_down(
        &self,
        key: InstanceKey,
        failure: Failure,
        record: Option<Position>,
    ) {
        let cause = Cause {
            cause: record,
            ..Cause::meshd()
        };
        let _restarting = self.slot.cast(Message::Command {
            command: Box::new(Command::InstanceDown { key, failure }),
            cause,
            reply: None,
        });
    }
}

fn new_task(spec: TaskSpec, envelope: Option<Box<Value>>) -> NewTask {
    NewTask {
        id: new_task_id(),
        fresh: true,
        spec,
        envelope,
    }
}

fn new_task_id() -> TaskId {
    // A hyphenated UUID is a valid id by its alphabet and length.
    TaskId::new(uuid::Uuid::now_v7().to_string()).expect("a UUID is a valid task id")
}

pub(super) fn unexpected(answer: &Answer) -> Problem {
    Problem::internal(format!("the task machine answered {answer:?}"))
}
