//! A mesh of one agent, `echo`, that remembers what it was asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use mesh_actors::operations::*;
use mesh_messages::address::Address;
use mesh_messages::agent::*;
use mesh_messages::budget::{Amounts, BudgetView, Limits};
use mesh_messages::bus::{
    AckOp, AckOrder, AckOutcome, DeadLetter, DeadSettlement, MessageTrace, Pulled, Route,
    SubscriptionOrder, SubscriptionView,
};
use mesh_messages::certificate::Credentials;
use mesh_messages::chaos::*;
use mesh_messages::dependency::DependencyGraph;
use mesh_messages::erasure::{ErasureOrder, ErasureReport};
use mesh_messages::gate::ProviderGate;
use mesh_messages::governance::{GovernanceUpdate, GovernanceView};
use mesh_messages::identity::DidKey;
use mesh_messages::inbox::{InboxAnswer, InboxItem};
use mesh_messages::limits::{LimitChange, LimitsInForce};
use mesh_messages::manifest::SandboxLevel;
use mesh_messages::plan::StoredPlan;
use mesh_messages::policy::{PolicyDocument, PolicyInForce};
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::profile::{ProfileDiff, SecurityProfile};
use mesh_messages::schedule::*;
use mesh_messages::secret::{SecretInfo, SecretWrite};
use mesh_messages::service::*;
use mesh_messages::signal::{SignalOrder, SignalSent};
use mesh_messages::split::SplitOrder;
use mesh_messages::system::*;
use mesh_messages::task::*;
use mesh_messages::trust::{AgentTrust, TrustReset};
use mesh_messages::workflow::*;
use mesh_messages::{AgentId, Epoch, Position, TaskId, Timestamp};
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc};

/// Live events that a slow reader may fall behind by.
pub(crate) const FEED_CAPACITY: usize = 8;

pub(crate) struct Fake {
    pub(crate) calls: Mutex<Vec<String>>,
    pub(crate) alive: AtomicBool,
    tasks: Mutex<BTreeMap<TaskId, Task>>,
    journal: Mutex<Vec<MeshEvent>>,
    feed: broadcast::Sender<Arc<MeshEvent>>,
    memory: Mutex<BTreeMap<String, Value>>,
}

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            calls: Mutex::default(),
            alive: AtomicBool::new(true),
            tasks: Mutex::default(),
            journal: Mutex::default(),
            feed: broadcast::channel(FEED_CAPACITY).0,
            memory: Mutex::default(),
        })
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    /// Journals an event, then shows it, as meshd does.
    pub(crate) fn publish(&self, topic: &str) -> Position {
        let mut journal = self.journal.lock().unwrap();
        let id = Position(journal.len() as u64);
        let event = MeshEvent {
            id: Some(id),
            topic: topic.into(),
            time: Timestamp::ZERO,
            data: json!({}),
        };
        journal.push(event.clone());
        // Fails when nobody listens.
        let _ = self.feed.send(Arc::new(event));
        id
    }

    /// Shows an event that no journal holds.
    pub(crate) fn publish_volatile(&self, topic: &str) {
        let event = MeshEvent {
            id: None,
            topic: topic.into(),
            time: Timestamp::ZERO,
            data: json!({"progress": 0.5}),
        };
        let _ = self.feed.send(Arc::new(event));
    }

    pub(crate) fn readers(&self) -> usize {
        self.feed.receiver_count()
    }

    fn note(&self, call: impl Into<String>) {
        self.calls.lock().unwrap().push(call.into());
    }

    fn task_of(&self, id: &str) -> Result<Task, Problem> {
        let tasks = self.tasks.lock().unwrap();
        tasks
            .get(id)
            .cloned()
            .ok_or_else(|| Problem::task_not_found(id))
    }

    fn known(id: &str) -> Result<(), Problem> {
        if id == "echo" {
            Ok(())
        } else {
            Err(Problem::agent_not_found(id))
        }
    }
}

pub(crate) fn status() -> AgentStatus {
    AgentStatus {
        status: AgentStatusKind::Active,
        epoch: Some(Epoch(1)),
        ..AgentStatus::not_found()
    }
}

fn task(id: TaskId, spec: TaskSpec) -> Task {
    Task {
        id,
        state: TaskState::Queued,
        spec,
        output: None,
        error: None,
        attempts: Vec::new(),
        progress: None,
        waiting_for: None,
        assignment: None,
        submitted_by: "user:admin".into(),
        submitted_at: Timestamp::ZERO,
        deadline_at: Timestamp::ZERO,
        ended_at: None,
        escalation: None,
        teamwork: None,
    }
}

fn entry(key: &str, value: Value) -> MemoryEntry {
    MemoryEntry {
        key: key.into(),
        value,
        updated_at: Timestamp::ZERO,
        expires_at: None,
        persistent: true,
    }
}

#[async_trait]
impl InboxOperations for Fake {
    async fn inbox(
        &self,
        query: InboxQuery,
        _: PageRequest<'_>,
    ) -> Result<Page<InboxItem>, Problem> {
        self.note(format!("inbox {query:?}"));
        Ok(Page {
            items: Vec::new(),
            next_cursor: None,
        })
    }
    async fn inbox_item(&self, id: &str) -> Result<InboxItem, Problem> {
        let detail = format!("nothing of the id {id} is in the inbox");
        Err(Problem::new(ProblemKind::NotFound, "not_in_inbox", detail))
    }
    async fn answer_inbox(
        &self,
        _: &Caller,
        id: &str,
        _: InboxAnswer,
    ) -> Result<InboxItem, Problem> {
        self.inbox_item(id).await
    }
    async fn approve_task(&self, _: &Caller, id: &str, _: InboxAnswer) -> Result<Task, Problem> {
        let task = self.task_of(id)?;
        let detail = format!(
            "task {} is {} and waits for no approval",
            task.id, task.state
        );
        Err(Problem::new(
            ProblemKind::Conflict,
            "not_waiting_for_approval",
            detail,
        ))
    }
}

#[async_trait]
impl ServiceOperations for Fake {
    async fn services(&self) -> Result<Vec<ServiceView>, Problem> {
        Ok(vec![service_of("a"), service_of("b")])
    }
    async fn service(&self, id: &str) -> Result<ServiceView, Problem> {
        Ok(service_of(id))
    }
    async fn add_service(
        &self,
        caller: &Caller,
        definition: ServiceDefinition,
    ) -> Result<(ServiceView, bool), Problem> {
        let mut service = service_of(definition.id.as_str());
        service.by.clone_from(&caller.name);
        Ok((service, false))
    }
    async fn replace_service(
        &self,
        _: &Caller,
        id: &str,
        _: ServiceDefinition,
    ) -> Result<ServiceView, Problem> {
        Ok(service_of(id))
    }
    async fn remove_service(&self, _: &Caller, id: &str) -> Result<(), Problem> {
        self.note(format!("remove service {id}"));
        Ok(())
    }
    async fn check_service(&self, _: &Caller, id: &str) -> Result<ServiceView, Problem> {
        Ok(service_of(id))
    }
    async fn call_service(
        &self,
        _: &Caller,
        id: &str,
        order: ServiceCallOrder,
    ) -> Result<ServiceReply, Problem> {
        let reply = serde_json::json!({
            "service": id, "endpoint": order.endpoint.unwrap_or_default(), "status": 200,
            "output": order.params, "attempts": 1, "durationMs": 3,
        });
        Ok(serde_json::from_value(reply).expect("a reply"))
    }
}

#[async_trait]
impl TrustOperations for Fake {
    async fn trust(&self) -> Result<Vec<AgentTrust>, Problem> {
        Ok(Vec::new())
    }
    async fn agent_trust(&self, id: &str) -> Result<AgentTrust, Problem> {
        Err(Problem::agent_not_found(id))
    }
    async fn reset_trust(
        &self,
        caller: &Caller,
        id: &str,
        reset: TrustReset,
    ) -> Result<AgentTrust, Problem> {
        self.note(format!("reset_trust {} {id} {}", caller.name, reset.reason));
        self.agent_trust(id).await
    }
}

#[async_trait]
impl BusOperations for Fake {
    async fn make_subscription(
        &self,
        _: &Caller,
        _: SubscriptionOrder,
    ) -> Result<(SubscriptionView, bool), Problem> {
        Err(Problem::unavailable("shutting_down", "no bus here"))
    }
    async fn subscriptions(&self) -> Result<Vec<SubscriptionView>, Problem> {
        Ok(Vec::new())
    }
    async fn subscription(&self, _: &Caller, id: &str) -> Result<SubscriptionView, Problem> {
        Err(no_subscription(id))
    }
    async fn remove_subscription(&self, _: &Caller, id: &str) -> Result<(), Problem> {
        Err(no_subscription(id))
    }
    async fn pull(
        &self,
        _: &Caller,
        id: &str,
        most: usize,
        wait: Duration,
    ) -> Result<Pulled, Problem> {
        self.note(format!("pull {id} {most} {wait:?}"));
        Ok(Pulled {
            messages: Vec::new(),
        })
    }
    async fn settle_deliveries(
        &self,
        _: &Caller,
        id: &str,
        op: AckOp,
        order: AckOrder,
    ) -> Result<AckOutcome, Problem> {
        self.note(format!("settle {id} {op:?} {}", order.tokens.join(" ")));
        Ok(AckOutcome::default())
    }
    async fn routes(&self) -> Result<Vec<Route>, Problem> {
        Ok(Vec::new())
    }
    async fn dead_letters(&self) -> Result<Vec<DeadLetter>, Problem> {
        Ok(Vec::new())
    }
    async fn settle_dead(
        &self,
        _: &Caller,
        id: Position,
        how: DeadSettlement,
    ) -> Result<(), Problem> {
        self.note(format!("settle_dead {id} {how:?}"));
        Ok(())
    }
    async fn message_trace(&self, id: &str) -> Result<MessageTrace, Problem> {
        let detail = format!("message {id} is not traced");
        Err(Problem::new(
            ProblemKind::NotFound,
            "message_not_traced",
            detail,
        ))
    }
}

fn no_subscription(id: &str) -> Problem {
    let detail = format!("there is no subscription {id}");
    Problem::new(ProblemKind::NotFound, "subscription_not_found", detail)
}

#[async_trait]
impl LimitOperations for Fake {
    async fn change_limits(
        &self,
        caller: &Caller,
        id: &str,
        _change: LimitChange,
    ) -> Result<LimitsInForce, Problem> {
        Self::known(id)?;
        self.note(format!("change_limits {} {id}", caller.name));
        Ok(LimitsInForce::default())
    }
}

#[async_trait]
impl SignalOperations for Fake {
    async fn signal_agent(
        &self,
        caller: &Caller,
        id: &str,
        order: SignalOrder,
    ) -> Result<SignalSent, Problem> {
        Self::known(id)?;
        self.note(format!(
            "signal {} {id} {}",
            caller.name,
            order.signal.name()
        ));
        Ok(SignalSent {
            agent_id: id.parse().unwrap(),
            signal: order.signal,
            instances: Vec::new(),
        })
    }
}

#[async_trait]
impl SplitOperations for Fake {
    async fn split_task(
        &self,
        caller: &Caller,
        id: &str,
        order: SplitOrder,
    ) -> Result<Task, Problem> {
        self.note(format!("split {} {id} {}", caller.name, order.parts.len()));
        self.task(id).await
    }
}

#[async_trait]
impl ProfileOperations for Fake {
    async fn security_profiles(&self) -> Result<Vec<SecurityProfile>, Problem> {
        Ok(Vec::new())
    }

    async fn profile_diff(&self, id: &str, profile: SandboxLevel) -> Result<ProfileDiff, Problem> {
        Self::known(id)?;
        Ok(ProfileDiff {
            agent: AgentId::new(id).unwrap(),
            effective: SandboxLevel::Strict,
            profile,
            would_hold: profile,
            differences: Vec::new(),
            refused: None,
        })
    }
}

#[async_trait]
impl BudgetOperations for Fake {
    async fn budgets(&self) -> Result<Vec<BudgetView>, Problem> {
        Ok(vec![budget_of("agent:a"), budget_of("task:T1")])
    }
    async fn budget(&self, account: &str) -> Result<BudgetView, Problem> {
        Ok(budget_of(account))
    }
}

fn budget_of(account: &str) -> BudgetView {
    BudgetView {
        account: account.to_owned(),
        limits: Limits::default(),
        used: Amounts::default(),
        reserved: Amounts::default(),
        left: Limits::default(),
        per_ms: None,
        until: None,
        question: None,
        waiting: Vec::new(),
        attempts: Vec::new(),
    }
}

#[async_trait]
impl GovernanceOperations for Fake {
    async fn governance(&self) -> Result<GovernanceView, Problem> {
        Err(Problem::unavailable("shutting_down", "no node here"))
    }
    async fn govern(&self, _: &Caller, _: GovernanceUpdate) -> Result<GovernanceView, Problem> {
        self.governance().await
    }
}

impl RefusalOperations for Fake {
    fn note_refused(&self, _: &Caller, action: Action, resource: &str, code: &str) {
        self.note(format!("refused {} {resource}: {code}", action.name()));
    }
    fn note_access(&self, _: &Caller, _: Action, _: &str, _: &str) {}
    fn would_permit(&self, caller: &Caller, action: Action) -> bool {
        mesh_actors::sentinel::permits(caller.role, action)
    }
}

#[async_trait]
impl Operations for Fake {
    fn authenticate(&self, given: Credentials<'_>) -> Result<Caller, Problem> {
        let (bearer, loopback) = (given.bearer, given.loopback);
        let role = match bearer {
            Some("admin") => Role::Admin,
            Some("viewer") => Role::Viewer,
            Some(_) => {
                return Err(Problem::new(
                    ProblemKind::Unauthenticated,
                    "unauthenticated",
                    "token expired",
                ));
            }
            None => {
                return Err(Problem::new(
                    ProblemKind::Unauthenticated,
                    "unauthenticated",
                    "no token",
                ));
            }
        };
        Ok(Caller {
            name: format!("user:{}", role.name()),
            role,
            loopback,
            narrowed: Vec::new(),
        })
    }

    async fn authorize(
        &self,
        caller: &Caller,
        action: Action,
        resource: &str,
    ) -> Result<(), Problem> {
        self.note(format!("authorize {} {resource}", action.name()));
        if caller.role == Role::Viewer && action != Action::Read {
            return Err(Problem::new(
                ProblemKind::Forbidden,
                "forbidden",
                "Insufficient permissions",
            ));
        }
        Ok(())
    }

    async fn register_agent(
        &self,
        _: &Caller,
        bundle: BundleSource,
        start: bool,
    ) -> Result<AgentRegistration, Problem> {
        let changed = match &bundle {
            BundleSource::Tar(bytes) => bytes.as_slice() != b"same",
            BundleSource::Manifest { .. } => true,
        };
        self.note(format!("register start={start} {bundle:?}"));
        Ok(AgentRegistration {
            id: AgentId::new("echo").unwrap(),
            version: "1.0.0".into(),
            digest: "blake3:00".into(),
            lifecycle: Lifecycle::Registered,
            instances_ready: 0,
            instances_wanted: 1,
            registered_at: Timestamp::ZERO,
            changed,
            notices: Vec::new(),
        })
    }

    async fn agents(
        &self,
        filter: AgentFilter,
        page: PageRequest<'_>,
    ) -> Result<Page<AgentSummary>, Problem> {
        self.note(format!("agents {filter:?} {page:?}"));
        Ok(Page {
            items: Vec::new(),
            next_cursor: None,
        })
    }

    async fn agent(&self, id: &str) -> Result<AgentProfile, Problem> {
        match id {
            "panics" => panic!("a bug"),
            "hangs" => std::future::pending().await,
            "restarting" => Err(Problem::unavailable(
                "component_restarting",
                "the registry is being restarted",
            )),
            _ => Err(Problem::agent_not_found(id)),
        }
    }

    async fn agent_status(&self, id: &str) -> Result<AgentStatus, Problem> {
        Ok(if id == "echo" {
            status()
        } else {
            AgentStatus::not_found()
        })
    }

    async fn remove_agent(&self, _: &Caller, id: &str) -> Result<(), Problem> {
        Self::known(id)
    }

    async fn agent_verb(
        &self,
        _: &Caller,
        id: &str,
        verb: AgentVerb,
    ) -> Result<VerbOutcome, Problem> {
        Self::known(id)?;
        self.note(format!("{verb:?}"));
        Ok(match verb {
            AgentVerb::Recover { .. } => VerbOutcome::Recovery(RecoveryResult {
                success: true,
                reason: None,
            }),
            AgentVerb::Upgrade(_) | AgentVerb::Rollback(_) => VerbOutcome::Upgrade(UpgradeResult {
                success: true,
                kind: UpgradeType::Soft,
                error: None,
                rollback_available: true,
            }),
            _ => VerbOutcome::Status(Box::new(status())),
        })
    }

    async fn agent_history(
        &self,
        id: &str,
        _: PageRequest<'_>,
    ) -> Result<Page<AuditEntry>, Problem> {
        Self::known(id)?;
        Ok(Page {
            items: Vec::new(),
            next_cursor: None,
        })
    }

    async fn agent_insights(&self, id: &str) -> Result<AgentInsights, Problem> {
        Self::known(id).map(|()| AgentInsights::default())
    }

    async fn agent_logs(&self, id: &str, tail: usize) -> Result<Vec<LogLine>, Problem> {
        self.note(format!("logs {tail}"));
        Self::known(id).map(|()| Vec::new())
    }

    async fn policies(&self) -> Result<PolicyInForce, Problem> {
        self.note("policies");
        Ok(PolicyInForce {
            values: Vec::new(),
            applied: PolicyDocument::default(),
        })
    }

    async fn apply_policy(
        &self,
        _caller: &Caller,
        document: PolicyDocument,
    ) -> Result<PolicyInForce, Problem> {
        self.note(format!("apply_policy {document:?}"));
        Ok(PolicyInForce {
            values: Vec::new(),
            applied: document,
        })
    }

    async fn agent_policy(&self, id: &str) -> Result<Vec<PolicyValue>, Problem> {
        Self::known(id)?;
        let value = |key: &str| PolicyValue {
            key: key.into(),
            value: json!(1),
            origin: "default".into(),
        };
        Ok(["a", "b", "c"].map(value).to_vec())
    }

    async fn agent_instances(&self, id: &str) -> Result<Vec<InstanceView>, Problem> {
        Self::known(id).map(|()| Vec::new())
    }

    async fn agent_sandbox(&self, id: &str) -> Result<SandboxView, Problem> {
        Self::known(id).map(|()| SandboxView {
            profile: "standard".into(),
            degraded: Vec::new(),
            controls: Vec::new(),
        })
    }

    async fn submit_tasks(
        &self,
        _: &Caller,
        specs: Vec<TaskSpec>,
    ) -> Result<SubmitOutcome, Problem> {
        self.note(format!("submit {}", specs.len()));
        let mut tasks = self.tasks.lock().unwrap();
        let mut receipts = Vec::new();
        let mut replayed = true;
        for spec in specs {
            let same = |old: &&Task| {
                spec.idempotency_key.is_some() && old.spec.idempotency_key == spec.idempotency_key
            };
            let id = if let Some(old) = tasks.values().find(same) {
                if old.spec != spec {
                    return Err(Problem::new(
                        ProblemKind::Conflict,
                        "idempotency_conflict",
                        "another body",
                    ));
                }
                old.id.clone()
            } else {
                replayed = false;
                let id = TaskId::new(format!("T{}", tasks.len())).unwrap();
                tasks.insert(id.clone(), task(id.clone(), spec));
                id
            };
            receipts.push(TaskReceipt {
                id,
                state: TaskState::Queued,
                assignment: None,
                waiting_for: None,
            });
        }
        Ok(SubmitOutcome { receipts, replayed })
    }

    async fn tasks(
        &self,
        filter: TaskFilter,
        page: PageRequest<'_>,
    ) -> Result<Page<Task>, Problem> {
        self.note(format!("tasks {filter:?} {page:?}"));
        Ok(Page {
            items: self.tasks.lock().unwrap().values().cloned().collect(),
            next_cursor: None,
        })
    }

    async fn task(&self, id: &str) -> Result<Task, Problem> {
        self.task_of(id)
    }

    /// Tasks of type `quick` end at once, others never.
    async fn wait_task(&self, id: &str, wait: Duration) -> Result<Task, Problem> {
        let mut task = self.task_of(id)?;
        if task.spec.kind.as_deref() == Some("quick") {
            task.state = TaskState::Succeeded;
            task.output = Some(json!({"done": true}));
        } else {
            tokio::time::sleep(wait).await;
        }
        Ok(task)
    }

    async fn wait_tasks(&self, ids: &[TaskId], wait: Duration) -> Result<Vec<Task>, Problem> {
        let mut tasks = Vec::new();
        for id in ids {
            tasks.push(self.wait_task(id.as_str(), wait).await?);
        }
        Ok(tasks)
    }

    async fn cancel_task(&self, _: &Caller, id: &str, reason: &str) -> Result<Task, Problem> {
        self.note(format!("cancel {reason}"));
        self.task_of(id)
    }

    async fn retry_task(&self, _: &Caller, id: &str) -> Result<Task, Problem> {
        self.task_of(id)
    }

    async fn report_outcome(
        &self,
        _: &Caller,
        id: &str,
        outcome: OutcomeReport,
    ) -> Result<Task, Problem> {
        self.note(format!("outcome {}", outcome.attempt));
        self.task_of(id)
    }

    async fn check_workflow(
        &self,
        _caller: &Caller,
        order: &WorkflowOrder,
    ) -> Result<WorkflowCheck, Problem> {
        Ok(WorkflowCheck {
            valid: true,
            name: order.workflow["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            version: "1".to_owned(),
            steps: 1,
            mermaid: String::new(),
        })
    }

    async fn start_workflow(
        &self,
        caller: &Caller,
        order: WorkflowOrder,
    ) -> Result<(WorkflowRun, bool), Problem> {
        let mut run = run_of("W1");
        run.submitted_by.clone_from(&caller.name);
        run.input = order.input;
        Ok((run, false))
    }

    async fn workflows(&self, _: PageRequest<'_>) -> Result<Page<WorkflowRun>, Problem> {
        Ok(Page {
            items: vec![run_of("W1")],
            next_cursor: None,
        })
    }

    async fn workflow(&self, id: &str) -> Result<WorkflowRun, Problem> {
        Ok(run_of(id))
    }

    async fn wait_workflow(&self, id: &str, _: Duration) -> Result<WorkflowRun, Problem> {
        Ok(run_of(id))
    }

    async fn cancel_workflow(&self, _: &Caller, id: &str, _: &str) -> Result<WorkflowRun, Problem> {
        Ok(run_of(id))
    }

    async fn claims(&self) -> Result<Vec<mesh_messages::claim::Claim>, Problem> {
        let claim = |name: &str| mesh_messages::claim::Claim {
            resource: name.to_owned(),
            holder: None,
            mode: mesh_messages::claim::ClaimMode::default(),
            others: Vec::new(),
            waiting: Vec::new(),
            tasks: Vec::new(),
        };
        Ok(vec![claim("a"), claim("b")])
    }

    async fn gates(&self) -> Result<Vec<ProviderGate>, Problem> {
        Ok(vec![gate_of("agent:a"), gate_of("provider:acme")])
    }

    async fn try_gate(&self, _: &Caller, account: &str) -> Result<ProviderGate, Problem> {
        Ok(gate_of(account))
    }

    async fn create_schedule(
        &self,
        caller: &Caller,
        order: ScheduleOrder,
    ) -> Result<(Schedule, bool), Problem> {
        let mut schedule = schedule_of(order.id.as_str());
        schedule.created_by.clone_from(&caller.name);
        schedule.cron = order.terms.cron;
        schedule.time_zone = order.terms.time_zone;
        Ok((schedule, false))
    }

    async fn schedules(&self) -> Result<Vec<Schedule>, Problem> {
        Ok(vec![schedule_of("a"), schedule_of("b")])
    }

    async fn schedule(&self, id: &str) -> Result<Schedule, Problem> {
        Ok(schedule_of(id))
    }

    async fn pause_schedule(
        &self,
        _: &Caller,
        id: &str,
        paused: bool,
    ) -> Result<Schedule, Problem> {
        Ok(Schedule {
            paused,
            ..schedule_of(id)
        })
    }

    async fn remove_schedule(&self, _: &Caller, id: &str) -> Result<(), Problem> {
        self.note(format!("remove schedule {id}"));
        Ok(())
    }

    async fn explain_task(&self, id: &str) -> Result<TaskExplanation, Problem> {
        let task = self.task_of(id)?;
        Ok(TaskExplanation {
            task_id: task.id,
            state: task.state,
            requirements: task.spec.needs(),
            waiting_for: None,
            assignment: None,
            candidates: Vec::new(),
            messages: Vec::new(),
            teamwork: None,
        })
    }

    async fn task_events(&self, id: &str, _: PageRequest<'_>) -> Result<Page<AuditEntry>, Problem> {
        self.task_of(id).map(|_| Page {
            items: Vec::new(),
            next_cursor: None,
        })
    }

    async fn dependencies(&self) -> Result<DependencyGraph, Problem> {
        self.note("dependencies".to_owned());
        Ok(DependencyGraph::default())
    }

    async fn board(&self, cards: usize) -> Result<Board, Problem> {
        self.note(format!("board {cards}"));
        Ok(Board {
            columns: Vec::new(),
            agents: Vec::new(),
            flow: BoardFlow::default(),
        })
    }

    async fn send_message(
        &self,
        _: &Caller,
        envelope: Value,
        _: Option<Duration>,
    ) -> Result<Value, Problem> {
        match envelope.get("to") {
            Some(to) if to == "user:nobody" => Ok(json!({"accepted": true, "status": "recorded"})),
            Some(to) => Ok(json!({"delivered": to})),
            None => Err(Problem::invalid(
                "klp_invalid",
                "to",
                "Missing required field: to",
            )),
        }
    }

    fn subscribe(&self) -> EventFeed {
        self.feed.subscribe()
    }

    async fn events_after(
        &self,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<MeshEvent>, Problem> {
        self.note(format!("events_after {after:?}"));
        let journal = self.journal.lock().unwrap();
        Ok(journal
            .iter()
            .filter(|event| event.id > after)
            .take(limit)
            .cloned()
            .collect())
    }

    async fn audit(
        &self,
        filter: AuditFilter,
        _: PageRequest<'_>,
    ) -> Result<Page<AuditEntry>, Problem> {
        self.note(format!("audit {filter:?}"));
        Ok(Page {
            items: Vec::new(),
            next_cursor: None,
        })
    }

    async fn audit_trace(&self, from: TraceFrom) -> Result<AuditTrace, Problem> {
        self.note(format!("trace {from:?}"));
        Err(Problem::new(
            ProblemKind::NotFound,
            "record_not_found",
            "the log has no such record yet",
        ))
    }

    async fn past_state(&self, at: PastAt, about: PastAbout) -> Result<PastState, Problem> {
        self.note(format!("past {at} {about:?}"));
        Ok(PastState {
            at: match at {
                PastAt::Record(at) => at,
                PastAt::Moment(_) => Position(7),
            },
            time: Timestamp::ZERO,
            task: None,
            agent: None,
            items: Some(Vec::new()),
            next_cursor: None,
            erased: 0,
            elsewhere: 0,
        })
    }

    async fn erase(&self, _: &Caller, order: ErasureOrder) -> Result<ErasureReport, Problem> {
        self.note(format!("erase {order:?}"));
        Ok(ErasureReport::default())
    }

    async fn checkpoint(&self) -> Result<String, Problem> {
        Ok("meshd/test\n1\nAAAA\n\n— meshd/test AAAA\n".into())
    }

    async fn inclusion_proof(&self, index: Position, size: Option<u64>) -> Result<Value, Problem> {
        Ok(json!({"index": index, "size": size, "path": []}))
    }

    async fn consistency_proof(&self, from: u64, to: Option<u64>) -> Result<Value, Problem> {
        Ok(json!({"from": from, "to": to, "path": []}))
    }

    async fn backup(&self, _vault: VaultCopy) -> Result<ChunkStream, Problem> {
        let (chunks, backup) = mpsc::channel(2);
        chunks.try_send(Ok(b"tar".to_vec())).unwrap();
        Ok(backup)
    }

    async fn export_sql(&self) -> Result<ChunkStream, Problem> {
        let (chunks, export) = mpsc::channel(2);
        chunks.try_send(Ok(b"BEGIN;\n".to_vec())).unwrap();
        chunks.try_send(Ok(b"COMMIT;\n".to_vec())).unwrap();
        Ok(export)
    }

    async fn export_audit(
        &self,
        of: Option<ExportOf>,
        _: bool,
    ) -> Result<mpsc::Receiver<Result<Vec<u8>, Problem>>, Problem> {
        let (chunks, export) = mpsc::channel(2);
        let agent = of.map(|of| of.agent);
        if let Some(agent) = agent.as_ref().filter(|agent| agent.as_str() == "ghost") {
            // What is wrong is found out only once the log is read.
            chunks
                .try_send(Err(Problem::agent_not_found(agent.as_str())))
                .unwrap();
            return Ok(export);
        }
        let last = match agent {
            Some(_) => Err(Problem::internal("disk")),
            None => Ok(b"{\"checkpoint\":\"\"}\n".to_vec()),
        };
        tokio::spawn(async move {
            chunks
                .send(Ok(b"{\"record\":\"\"}\n".to_vec()))
                .await
                .unwrap();
            chunks.send(last).await.unwrap();
        });
        Ok(export)
    }

    fn alive(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }

    async fn status(&self) -> Result<SystemStatus, Problem> {
        Ok(SystemStatus {
            version: "0.0.0".into(),
            node: "did:key:z6Mk".into(),
            key: None,
            run_id: "run".into(),
            started_at: Timestamp::ZERO,
            uptime: 0,
            health: OverallHealth::Healthy,
            issues: Vec::new(),
            accepting: true,
            refusing_because: None,
            components: Vec::new(),
            services: BTreeMap::new(),
            agents: BTreeMap::new(),
            tasks: BTreeMap::new(),
            journal: JournalStatus {
                records: self.journal.lock().unwrap().len() as u64,
                bytes: 0,
                projected: None,
                checkpoint_size: 0,
            },
            encryption: mesh_messages::system::AtRest::none(),
            warnings: Vec::new(),
            refused: BTreeMap::new(),
        })
    }

    async fn health(&self) -> Result<HealthReport, Problem> {
        Ok(HealthReport {
            status: OverallHealth::Healthy,
            checks: Vec::new(),
            issues: Vec::new(),
            timestamp: Timestamp::ZERO,
        })
    }

    async fn metrics(&self) -> Result<String, Problem> {
        Ok("# TYPE tasks_total counter\ntasks_total 0\n".into())
    }

    async fn insights(&self) -> Result<Value, Problem> {
        Ok(json!({"agents": []}))
    }

    async fn nodes(&self) -> Result<Vec<NodeInfo>, Problem> {
        Ok(Vec::new())
    }

    async fn memory_list(
        &self,
        agent: &str,
        _: PageRequest<'_>,
    ) -> Result<Page<MemoryEntry>, Problem> {
        Self::known(agent)?;
        let memory = self.memory.lock().unwrap();
        Ok(Page {
            items: memory
                .iter()
                .map(|(key, value)| entry(key, value.clone()))
                .collect(),
            next_cursor: None,
        })
    }

    async fn memory_get(&self, agent: &str, key: &str) -> Result<MemoryEntry, Problem> {
        Self::known(agent)?;
        let memory = self.memory.lock().unwrap();
        let value = memory.get(key).cloned();
        let value = value
            .ok_or_else(|| Problem::new(ProblemKind::NotFound, "memory_key_not_found", key))?;
        Ok(entry(key, value))
    }

    async fn memory_set(
        &self,
        _: &Caller,
        agent: &str,
        key: &str,
        value: Value,
        ttl: Option<Duration>,
    ) -> Result<MemoryEntry, Problem> {
        Self::known(agent)?;
        self.note(format!("set {key} {ttl:?}"));
        self.memory
            .lock()
            .unwrap()
            .insert(key.into(), value.clone());
        Ok(entry(key, value))
    }

    async fn memory_delete(&self, _: &Caller, agent: &str, key: &str) -> Result<bool, Problem> {
        Self::known(agent)?;
        Ok(self.memory.lock().unwrap().remove(key).is_some())
    }

    async fn memory_stats(&self, agent: &str) -> Result<MemoryStats, Problem> {
        Self::known(agent)?;
        Ok(MemoryStats {
            id: AgentId::new(agent).unwrap(),
            kind: "hybrid".into(),
            backend: "embedded".into(),
            size: 0.0,
            entry_count: 0,
            last_accessed: None,
        })
    }

    async fn issue_token(&self, _: &Caller, order: TokenOrder) -> Result<IssuedToken, Problem> {
        let TokenOrder {
            role, subject, ttl, ..
        } = order;
        self.note(format!("issue {subject:?} {ttl:?}"));
        Ok(IssuedToken {
            id: "k1".into(),
            token: "secret".into(),
            role,
            expires: None,
        })
    }

    async fn strike(&self, _: &Caller, order: ChaosOrder) -> Result<ChaosAnswer, Problem> {
        self.note(format!("strike {order:?}"));
        Ok(ChaosAnswer {
            blow: ChaosBlow {
                id: "blow-1".into(),
                action: order.action,
                target: ChaosTarget {
                    agent: order.agent,
                    instance: order.instance,
                    epoch: None,
                    pid: None,
                    part: order.part,
                    actor: None,
                },
                duration_ms: order.duration_ms,
                lines: order.lines,
                bytes: order.bytes,
                at: Timestamp::ZERO,
            },
            effect: "struck".into(),
        })
    }

    async fn keys(&self) -> Result<Vec<KeyInfo>, Problem> {
        Ok(Vec::new())
    }

    async fn register_key(
        &self,
        _: &Caller,
        key: DidKey,
        owner: Address,
    ) -> Result<KeyInfo, Problem> {
        self.note(format!("register key of {owner}"));
        Ok(KeyInfo {
            key,
            owner: owner.to_string(),
            registered: Timestamp::ZERO,
            revoked: None,
            reason: None,
        })
    }

    async fn revoke_key(
        &self,
        _: &Caller,
        key: DidKey,
        reason: String,
    ) -> Result<KeyInfo, Problem> {
        self.note(format!("revoke key {reason}"));
        Ok(KeyInfo {
            key,
            owner: "user:ada".into(),
            registered: Timestamp::ZERO,
            revoked: Some(Timestamp::ZERO),
            reason: Some(reason),
        })
    }

    async fn rotate_key(&self, _: &Caller, _: KeyRotation) -> Result<RotatedKey, Problem> {
        Err(Problem::internal("not here"))
    }

    fn successions(&self) -> String {
        String::new()
    }

    async fn witness_succession(&self, _: &Caller, _: &str) -> Result<WitnessAnswer, Problem> {
        Err(Problem::internal("not here"))
    }

    async fn audit_tile(&self, path: &str) -> Result<Vec<u8>, Problem> {
        self.note(format!("tile {path}"));
        Ok(vec![7; 32])
    }

    async fn witness(&self, _: &Caller, body: &str) -> Result<WitnessAnswer, Problem> {
        Ok(match body {
            "old 0\n\nnote" => WitnessAnswer::Signed("\u{2014} witness AAAA\n".into()),
            _ => WitnessAnswer::Conflict(7),
        })
    }

    async fn secrets(&self) -> Result<Vec<SecretInfo>, Problem> {
        Ok(Vec::new())
    }

    async fn set_secret(
        &self,
        _: &Caller,
        name: &str,
        secret: SecretWrite,
    ) -> Result<SecretInfo, Problem> {
        self.note(format!("set secret {name} {secret:?}"));
        Ok(SecretInfo {
            name: name.to_owned(),
            agents: secret.agents,
            domains: secret.domains,
            updated: Timestamp::ZERO,
            version: 1,
        })
    }

    async fn delete_secret(&self, _: &Caller, name: &str) -> Result<(), Problem> {
        self.note(format!("delete secret {name}"));
        Ok(())
    }

    async fn tokens(&self) -> Result<Vec<TokenInfo>, Problem> {
        Ok(Vec::new())
    }

    async fn revoke_token(&self, _: &Caller, id: &str) -> Result<(), Problem> {
        self.note(format!("revoke {id}"));
        Ok(())
    }
}

fn service_of(id: &str) -> ServiceView {
    let service = serde_json::json!({
        "id": id, "name": id, "type": if id == "a" { "llm" } else { "utility" }, "status": "active",
        "capabilities": [id], "endpoints": [{"name": "run", "url": "https://a.example/run"}],
        "auth": {"type": "none"}, "health": {}, "version": 1, "origin": "api", "by": "ada",
        "registeredAt": "2026-01-01T00:00:00Z", "updatedAt": "2026-01-01T00:00:00Z",
        "breaker": {"state": "closed", "failures": 0},
    });
    serde_json::from_value(service).expect("a service")
}

fn schedule_of(id: &str) -> Schedule {
    let schedule = serde_json::json!({
        "id": id, "cron": "0 9 * * *", "timeZone": "UTC", "missed": "once", "overlap": "skip", "paused": false,
        "name": "w", "version": "1", "digest": "blake3:0", "input": null, "upcoming": [], "running": [],
        "waiting": [], "recent": [], "createdBy": "user:admin", "createdAt": "2026-01-01T00:00:00Z",
    });
    serde_json::from_value(schedule).expect("a schedule")
}

/// A run that has just begun.
fn run_of(id: &str) -> WorkflowRun {
    let run = serde_json::json!({
        "id": id, "state": "running", "name": "w", "version": "1", "digest": "blake3:0", "steps": [],
        "input": null, "submittedBy": "user:admin", "submittedAt": "2026-01-01T00:00:00Z",
    });
    serde_json::from_value(run).expect("a run")
}

fn plan_of(id: &str, version: u32) -> StoredPlan {
    let plan = serde_json::json!({
        "id": id, "state": "draft", "version": version, "goal": "tidy", "workflow": {"steps": []},
        "by": "user:admin", "at": "2026-01-01T00:00:00Z",
    });
    serde_json::from_value(plan).expect("a plan")
}

#[async_trait]
impl PlanOperations for Fake {
    async fn create_plan(&self, _: &Caller, order: PlanOrder) -> Result<StoredPlan, Problem> {
        self.note(format!("create plan {}", order.goal));
        Ok(plan_of("p", 1))
    }

    async fn plans(&self) -> Result<Vec<StoredPlan>, Problem> {
        Ok(vec![plan_of("p", 1)])
    }

    async fn plan(&self, id: &str) -> Result<StoredPlan, Problem> {
        Ok(plan_of(id, 1))
    }

    async fn edit_plan(
        &self,
        _: &Caller,
        id: &str,
        order: PlanOrder,
    ) -> Result<StoredPlan, Problem> {
        Ok(plan_of(id, order.replaces.unwrap_or_default() + 1))
    }

    async fn start_plan(
        &self,
        _: &Caller,
        id: &str,
        version: u32,
    ) -> Result<(StoredPlan, bool), Problem> {
        Ok((plan_of(id, version), false))
    }

    async fn remove_plan(&self, _: &Caller, id: &str) -> Result<(), Problem> {
        self.note(format!("remove plan {id}"));
        Ok(())
    }
}

fn gate_of(account: &str) -> ProviderGate {
    ProviderGate {
        account: account.to_owned(),
        state: mesh_messages::gate::GateState::Closed,
        reason: "HTTP 429".to_owned(),
        agent: AgentId::new("a").unwrap(),
        task: TaskId::new("t").unwrap(),
        since: Timestamp::from_millis(1),
        until: Timestamp::from_millis(2),
        strikes: 1,
        permits: 0,
        peak: 3,
    }
}
