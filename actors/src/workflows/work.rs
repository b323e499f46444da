//! What is done for steps outside of the actor: tasks are submitted, followed and ended, services called.

use std::sync::Arc;
use std::time::Duration;

use ractor::ActorRef;

use mesh_actors_core::workflow::{Call, Command, Draft, Effect, Job};
use mesh_messages::access::TaskFacts;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::task::{Task, TaskState};
use mesh_messages::workflow::{StepState, UnitOutcome};
use mesh_messages::{Failure, FailureClass, TaskId};

use super::{Message, Shell, never_begun, service};
use crate::context::Context;
use crate::mesh::{TASKS, find_task, measured};
use crate::orchestrator::OrchestratorHandle;
use crate::partition::Cause;
use crate::request::following;
use crate::sentinel::SentinelHandle;

/// First and last pause before something is asked again that could not be answered.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

impl Shell {
    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Submit(job) => self.submit(*job),
            Effect::Call(call) => self.call(*call),
            Effect::Cancel { task, reason } => {
                if let Some(wanted) = self.submitting.get_mut(&task) {
                    *wanted = Some(reason);
                } else if let Some(call) = self.calls.remove(&task) {
                    call.abort();
                    tell(&self.me, task, never_begun(&reason));
                } else {
                    self.settle(task, reason);
                }
            }
            Effect::Draft(draft) => self.draft(draft),
            Effect::RunEnded(run) => self.args.handle.ended(&run),
        }
    }

    fn submit(&mut self, job: Job) {
        self.submitting.insert(job.task.clone(), None);
        let outside = self.outside();
        let asks = Arc::clone(&self.asks);
        let led = Cause::after(&job.by, self.partition.state().trail_of_task(&job.task));
        self.work.spawn(async move {
            let _slot = asks.acquire().await;
            let task = job.task.clone();
            let submitted = following(led.cause, led.correlation, outside.submitted(job));
            match submitted.await {
                Ok(ended) => {
                    let _gone = outside.me.cast(Message::Taken(task.clone()));
                    if ended {
                        outside.learned(task).await;
                    }
                }
                Err(problem) => {
                    let outcome = UnitOutcome::failed(FailureClass::Refusal, problem.detail);
                    tell(&outside.me, task, outcome);
                }
            }
        });
    }

    /// Says which agents there are, as soon as all that are registered are known.
    fn draft(&mut self, draft: Box<Draft>) {
        let (ctx, me) = (Arc::clone(&self.args.ctx), self.me.clone());
        let orchestrator = self.args.orchestrator.clone();
        self.work.spawn(async move {
            let (mut pause, longest) = PAUSE;
            while !ctx.directory.is_complete() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
            // Its parts restart by themselves; whoever asks meanwhile asks again.
            let fleet = loop {
                match measured(&ctx, &orchestrator).await {
                    Ok(fleet) => break fleet,
                    Err(problem) => tracing::debug!(%problem, "what was measured is asked again"),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
            };
            let _gone = me.cast(Message::Command {
                command: Box::new(Command::Drafted { draft, fleet }),
                by: Cause::meshd(),
                reply: None,
            });
        });
    }

    fn call(&mut self, call: Call) {
        let me = self.me.clone();
        let slots = Arc::clone(&self.call_slots);
        let task = call.task.clone();
        let (ctx, registry) = (Arc::clone(&self.args.ctx), self.args.registry.clone());
        let led = Cause::after(&call.by, self.partition.state().trail_of_task(&call.task));
        let under_way = self.work.spawn(async move {
            let _slot = slots.acquire().await;
            let task = call.task.clone();
            let called = service::call(&ctx, &registry, call);
            let outcome = following(led.cause, led.correlation, called).await;
            tell(&me, task, outcome);
        });
        self.calls.insert(task, under_way);
    }

    /// Asks how a task ended, and tells it.
    pub(super) fn learn(&mut self, task: TaskId) {
        let outside = self.outside();
        let asks = Arc::clone(&self.asks);
        self.work.spawn(async move {
            let _slot = asks.acquire().await;
            outside.learned(task).await;
        });
    }

    /// Ends a task, and tells how it ended.
    pub(super) fn settle(&mut self, task: TaskId, reason: String) {
        let outside = self.outside();
        self.work
            .spawn(async move { outside.settled(task, &reason).await });
    }

    fn outside(&self) -> Outside {
        Outside {
            ctx: Arc::clone(&self.args.ctx),
            orchestrator: self.args.orchestrator.clone(),
            sentinel: self.args.sentinel.clone(),
            me: self.me.clone(),
        }
    }
}

fn tell(me: &ActorRef<Message>, task: TaskId, outcome: UnitOutcome) {
    let command = Box::new(Command::Ended { task, outcome });
    let _gone = me.cast(Message::Command {
        command,
        by: Cause::meshd(),
        reply: None,
    });
}

/// Whom work speaks to.
struct Outside {
    ctx: Arc<Context>,
    orchestrator: OrchestratorHandle,
    sentinel: SentinelHandle,
    me: ActorRef<Message>,
}

impl Outside {
    /// Has a task accepted, however often it takes; true when it has ended already.
    async fn submitted(&self, job: Job) -> Result<bool, Problem> {
        // The policy may be another one than when the run was started.
        let facts = TaskFacts::all_of(&job.spec);
        self.sentinel.may_go_on(&job.by, TASKS, facts)?;
        let (mut pause, longest) = PAUSE;
        loop {
            let spec = job.spec.clone();
            let asked = self.orchestrator.submit_as(&job.by, job.task.clone(), spec);
            match asked.await {
                Ok(receipt) => return Ok(receipt.state.is_terminal()),
                // It was submitted in an earlier life.
                Err(problem) if problem.code == "task_exists" => return Ok(true),
                Err(problem) if passes(&problem) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(longest);
                }
                Err(problem) => return Err(problem),
            }
        }
    }

    /// Tells how a task ended, if it has.
    async fn learned(&self, task: TaskId) {
        let (mut pause, longest) = PAUSE;
        loop {
            match find_task(&self.ctx, &self.orchestrator, &task).await {
                Ok(found) => {
                    if let Some(outcome) = outcome_of(found) {
                        tell(&self.me, task, outcome);
                    }
                    return;
                }
                Err(problem) if problem.kind == ProblemKind::NotFound => return,
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(longest);
                }
            }
        }
    }

    async fn settled(&self, task: TaskId, reason: &str) {
        let (mut pause, longest) = PAUSE;
        loop {
            match self
                .orchestrator
                .cancel("workflow", task.clone(), reason)
                .await
            {
                Ok(ended) => {
                    if let Some(outcome) = outcome_of(ended) {
                        return tell(&self.me, task, outcome);
                    }
                }
                Err(problem) if problem.kind == ProblemKind::NotFound => {
                    return tell(&self.me, task, never_begun(reason));
                }
                Err(problem) if problem.code == "task_ended" => return self.learned(task).await,
                Err(_) => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }
}

/// Whether asking again may help.
fn passes(problem: &Problem) -> bool {
    matches!(
        problem.kind,
        ProblemKind::Unavailable
            | ProblemKind::Timeout
            | ProblemKind::RateLimited
            | ProblemKind::Internal
    )
}

fn outcome_of(task: Task) -> Option<UnitOutcome> {
    let state = match task.state {
        TaskState::Succeeded => {
            let output = task.output.unwrap_or_default();
            return Some(UnitOutcome::Succeeded { output });
        }
        TaskState::Failed => StepState::Failed,
        TaskState::Cancelled => StepState::Cancelled,
        TaskState::DeadLettered => StepState::DeadLettered,
        TaskState::Queued
        | TaskState::Assigned
        | TaskState::Running
        | TaskState::Blocked
        | TaskState::Parked
        | TaskState::Retrying => return None,
    };
    let error = task.error;
    let error = error.unwrap_or_else(|| Failure::new(FailureClass::Cancelled, state.name()));
    Some(UnitOutcome::Failed { state, error })
}
