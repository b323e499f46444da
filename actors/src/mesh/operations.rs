//! [`Operations`] by the parts of the mesh: each method finds its part and asks it.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use mesh_messages::address::Address;
use mesh_messages::agent::{
    AgentRegistration, AgentStatus, AgentStatusKind, AgentSummary, InstanceView, Page, PolicyValue,
    SandboxView,
};
use mesh_messages::certificate::Credentials;
use mesh_messages::chaos::{ChaosAnswer, ChaosOrder};
use mesh_messages::claim::Claim;
use mesh_messages::dependency::DependencyGraph;
use mesh_messages::erasure::{ErasureOrder, ErasureReport};
use mesh_messages::gate::ProviderGate;
use mesh_messages::identity::DidKey;
use mesh_messages::policy::{PolicyDocument, PolicyInForce};
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::schedule::Schedule;
use mesh_messages::secret::{SecretInfo, SecretWrite};
use mesh_messages::system::{
    AuditEntry, AuditFilter, AuditTrace, Board, Caller, HealthReport, IssuedToken, JournalStatus,
    KeyInfo, KeyRotation, MemoryEntry, MemoryStats, NodeInfo, PastAt, PastState, Role, RotatedKey,
    SystemStatus, TokenInfo, TokenOrder,
};
use mesh_messages::task::{Task, TaskExplanation, TaskSpec};
use mesh_messages::workflow::{WorkflowCheck, WorkflowRun};
use mesh_messages::{Position, TaskId};

use super::Mesh;
use super::access::TASKS;
use super::audit::agent_id;
use super::talk::{OF_TASK, messages_about};
use super::tasks::{find, reported, retried, task_id, wait_ended};
use super::views::{directory_bytes, instances, profile, status_kind};
use crate::agents::policy::effective;
use crate::clock::now;
use crate::operations::{
    Action, AgentFilter, AgentInsights, AgentProfile, AgentVerb, BundleSource, ChunkStream,
    EventFeed, ExportOf, LogLine, Operations, OutcomeReport, PageRequest, PastAbout, ScheduleOrder,
    SubmitOutcome, TaskFilter, TraceFrom, VaultCopy, VerbOutcome, WitnessAnswer, WorkflowOrder,
};
use crate::registry::PolicyChange;

#[async_trait]
impl Operations for Mesh {
    fn authenticate(&self, given: Credentials<'_>) -> Result<Caller, Problem> {
        self.sentinel.authenticate_by(given)
    }

    async fn authorize(
        &self,
        caller: &Caller,
        action: Action,
        resource: &str,
    ) -> Result<(), Problem> {
        self.may(caller, action, resource).await
    }

    async fn register_agent(
        &self,
        caller: &Caller,
        bundle: BundleSource,
        start: bool,
    ) -> Result<AgentRegistration, Problem> {
        self.register(caller, bundle, start).await
    }

    async fn agents(
        &self,
        filter: AgentFilter,
        page: PageRequest<'_>,
    ) -> Result<Page<AgentSummary>, Problem> {
        Ok(self.agent_page(&filter, page))
    }

    async fn agent(&self, id: &str) -> Result<AgentProfile, Problem> {
        let entry = self.entry(id)?;
        let insights = self.agent_insights(id).await?;
        profile(&entry, insights)
    }

    async fn agent_status(&self, id: &str) -> Result<AgentStatus, Problem> {
        let entry = self.ctx.directory.get(id);
        Ok(entry.map_or_else(AgentStatus::not_found, |entry| self.status(&entry)))
    }

    async fn remove_agent(&self, caller: &Caller, id: &str) -> Result<(), Problem> {
        self.remove(caller, id).await
    }

    async fn agent_verb(
        &self,
        caller: &Caller,
        id: &str,
        verb: AgentVerb,
    ) -> Result<VerbOutcome, Problem> {
        self.verb(caller, id, verb).await
    }

    async fn agent_history(
        &self,
        id: &str,
        page: PageRequest<'_>,
    ) -> Result<Page<AuditEntry>, Problem> {
        let filter = AuditFilter {
            agent: Some(agent_id(id)?),
            ..AuditFilter::default()
        };
        let history = self.audit_page(filter, page).await?;
        // A removed agent still has its history; one that never was has none.
        if history.items.is_empty() && page.cursor.is_none() {
            self.entry(id)?;
        }
        Ok(history)
    }

    async fn agent_insights(&self, id: &str) -> Result<AgentInsights, Problem> {
        self.insights_of(&*self.entry(id)?).await
    }

    async fn agent_logs(&self, id: &str, tail: usize) -> Result<Vec<LogLine>, Problem> {
        Ok(self.entry(id)?.log.tail(tail))
    }

    async fn agent_policy(&self, id: &str) -> Result<Vec<PolicyValue>, Problem> {
        let state = self.entry(id)?.state();
        let manifest = state
            .manifest()
            .ok_or_else(|| Problem::agent_not_found(id))?;
        Ok(self.signed(effective(manifest, &self.ctx).values))
    }

    async fn policies(&self) -> Result<PolicyInForce, Problem> {
        Ok(self.policy_in_force())
    }

    async fn apply_policy(
        &self,
        caller: &Caller,
        document: PolicyDocument,
    ) -> Result<PolicyInForce, Problem> {
        let change = PolicyChange::Document(document);
        self.change_policy(caller, change, "/v1/policies").await?;
        self.orchestrator.policy_changed();
        Ok(self.policy_in_force())
    }

    async fn agent_instances(&self, id: &str) -> Result<Vec<InstanceView>, Problem> {
        Ok(instances(&*self.entry(id)?, now()))
    }

    async fn agent_sandbox(&self, id: &str) -> Result<SandboxView, Problem> {
        self.sandbox(id).await
    }

    async fn submit_tasks(
        &self,
        caller: &Caller,
        specs: Vec<TaskSpec>,
    ) -> Result<SubmitOutcome, Problem> {
        let specs = self.permitted(caller, specs).await?;
        let submitted = self.orchestrator.submit(&caller.name, specs).await;
        let (receipts, replayed) =
            submitted.inspect_err(|problem| self.sentinel.note_confined(caller, TASKS, problem))?;
        Ok(SubmitOutcome { receipts, replayed })
    }

    async fn tasks(
        &self,
        filter: TaskFilter,
        page: PageRequest<'_>,
    ) -> Result<Page<Task>, Problem> {
        self.task_page(filter, page).await
    }

    async fn task(&self, id: &str) -> Result<Task, Problem> {
        find(&self.ctx, &self.orchestrator, &task_id(id)?).await
    }

    async fn wait_task(&self, id: &str, wait: Duration) -> Result<Task, Problem> {
        let ids = [task_id(id)?];
        let tasks = wait_ended(&self.ctx, &self.orchestrator, &ids, wait).await?;
        let task = tasks.into_iter().next();
        task.ok_or_else(|| Problem::task_not_found(id))
    }

    async fn wait_tasks(&self, ids: &[TaskId], wait: Duration) -> Result<Vec<Task>, Problem> {
        wait_ended(&self.ctx, &self.orchestrator, ids, wait).await
    }

    async fn cancel_task(&self, caller: &Caller, id: &str, reason: &str) -> Result<Task, Problem> {
        self.orchestrator
            .cancel(&caller.name, task_id(id)?, reason)
            .await
    }

    async fn retry_task(&self, caller: &Caller, id: &str) -> Result<Task, Problem> {
        let task = task_id(id)?;
        self.goes_on(&task).await?;
        retried(&self.ctx, &self.orchestrator, &caller.name, task).await
    }

    async fn report_outcome(
        &self,
        caller: &Caller,
        id: &str,
        outcome: OutcomeReport,
    ) -> Result<Task, Problem> {
        let (ctx, by) = (&self.ctx, &caller.name);
        reported(ctx, &self.orchestrator, by, (task_id(id)?, outcome)).await
    }

    async fn check_workflow(
        &self,
        caller: &Caller,
        order: &WorkflowOrder,
    ) -> Result<WorkflowCheck, Problem> {
        self.workflow_check(caller, order).await
    }

    async fn start_workflow(
        &self,
        caller: &Caller,
        order: WorkflowOrder,
    ) -> Result<(WorkflowRun, bool), Problem> {
        self.workflow_start(caller, order).await
    }

    async fn workflows(&self, page: PageRequest<'_>) -> Result<Page<WorkflowRun>, Problem> {
        self.workflow_page(page).await
    }

    async fn workflow(&self, id: &str) -> Result<WorkflowRun, Problem> {
        self.workflow_named(id).await
    }

    async fn wait_workflow(&self, id: &str, wait: Duration) -> Result<WorkflowRun, Problem> {
        self.workflow_wait(id, wait).await
    }

    async fn cancel_workflow(
        &self,
        caller: &Caller,
        id: &str,
        reason: &str,
    ) -> Result<WorkflowRun, Problem> {
        self.workflow_cancel(caller, id, reason).await
    }

    async fn claims(&self) -> Result<Vec<Claim>, Problem> {
        self.orchestrator.claims().await
    }

    async fn gates(&self) -> Result<Vec<ProviderGate>, Problem> {
        self.orchestrator.gates().await
    }

    async fn try_gate(&self, caller: &Caller, account: &str) -> Result<ProviderGate, Problem> {
        self.orchestrator.try_gate(&caller.name, account).await
    }

    async fn create_schedule(
        &self,
        caller: &Caller,
        order: ScheduleOrder,
    ) -> Result<(Schedule, bool), Problem> {
        self.schedule_create(caller, order).await
    }

    async fn schedules(&self) -> Result<Vec<Schedule>, Problem> {
        self.workflows.schedules(None).await
    }

    async fn schedule(&self, id: &str) -> Result<Schedule, Problem> {
        self.schedule_named(id).await
    }

    async fn pause_schedule(
        &self,
        caller: &Caller,
        id: &str,
        paused: bool,
    ) -> Result<Schedule, Problem> {
        self.schedule_pause(caller, id, paused).await
    }

    async fn remove_schedule(&self, caller: &Caller, id: &str) -> Result<(), Problem> {
        self.schedule_remove(caller, id).await
    }

    async fn explain_task(&self, id: &str) -> Result<TaskExplanation, Problem> {
        let task = task_id(id)?;
        let mut told = self.explanation(&task).await?;
        let store = self.ctx.store.get()?;
        let said = messages_about(&store, vec![task], OF_TASK).await?;
        told.messages = said.into_iter().flatten().collect();
        Ok(told)
    }

    async fn task_events(
        &self,
        id: &str,
        page: PageRequest<'_>,
    ) -> Result<Page<AuditEntry>, Problem> {
        let task = task_id(id)?;
        find(&self.ctx, &self.orchestrator, &task).await?;
        let filter = AuditFilter {
            task: Some(task),
            ..AuditFilter::default()
        };
        self.audit_page(filter, page).await
    }

    async fn dependencies(&self) -> Result<DependencyGraph, Problem> {
        Ok(self.ctx.directory.graph().view())
    }
    async fn board(&self, cards: usize) -> Result<Board, Problem> {
        self.board_of(cards).await
    }

    async fn send_message(
        &self,
        caller: &Caller,
        envelope: Value,
        wait: Option<Duration>,
    ) -> Result<Value, Problem> {
        self.bus.send_within(caller, envelope, wait).await
    }

    fn subscribe(&self) -> EventFeed {
        self.ctx.events.subscribe()
    }

    async fn events_after(
        &self,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<mesh_messages::system::MeshEvent>, Problem> {
        self.events_from(after, limit).await
    }

    async fn audit(
        &self,
        filter: AuditFilter,
        page: PageRequest<'_>,
    ) -> Result<Page<AuditEntry>, Problem> {
        self.audit_page(filter, page).await
    }

    async fn audit_trace(&self, from: TraceFrom) -> Result<AuditTrace, Problem> {
        self.trace(from).await
    }

    async fn past_state(&self, at: PastAt, about: PastAbout) -> Result<PastState, Problem> {
        self.state_at(at, about).await
    }

    async fn erase(&self, caller: &Caller, order: ErasureOrder) -> Result<ErasureReport, Problem> {
        self.retention.erase(&caller.name, order).await
    }

    async fn checkpoint(&self) -> Result<String, Problem> {
        self.signed_checkpoint().await
    }

    async fn inclusion_proof(&self, index: Position, size: Option<u64>) -> Result<Value, Problem> {
        self.inclusion(index, size).await
    }

    async fn consistency_proof(&self, from: u64, to: Option<u64>) -> Result<Value, Problem> {
        self.consistency(from, to).await
    }

    async fn export_audit(
        &self,
        of: Option<ExportOf>,
        memory: bool,
    ) -> Result<ChunkStream, Problem> {
        self.audit_stream(of, memory)
    }

    async fn export_sql(&self) -> Result<ChunkStream, Problem> {
        self.sql_stream().await
    }

    async fn backup(&self, vault: VaultCopy) -> Result<ChunkStream, Problem> {
        self.backup_stream(vault)
    }

    fn alive(&self) -> bool {
        self.ctx
            .store
            .get()
            .is_ok_and(|store| store.journal.durable().borrow().failed.is_none())
    }

    async fn status(&self) -> Result<SystemStatus, Problem> {
        let store = self.ctx.store.get()?;
        let health = self.health.report(&self.ctx).await;
        let refusing = store.journal.admission().err().map(|full| full.to_string());
        let size = store.journal.durable().borrow().size();
        let mut refused = self.ctx.metrics.refusals();
        refused.extend(
            self.sentinel
                .refused()
                .into_iter()
                .map(|(kind, n)| (kind.to_owned(), n)),
        );
        let at = now();
        Ok(SystemStatus {
            version: self.ctx.settings.version.clone(),
            node: self.ctx.node.did.to_string(),
            key: Some(self.ctx.node.signer().keys().current().to_string()),
            run_id: self.ctx.settings.run_id.clone(),
            started_at: self.started_at,
            uptime: u64::try_from(at.since(self.started_at).as_millis()).unwrap_or(u64::MAX),
            health: health.status,
            issues: health.issues,
            accepting: refusing.is_none(),
            refusing_because: refusing,
            components: self.components().await,
            agents: self.agent_counts(),
            services: self.service_counts(),
            // The status says what is wrong, so it must not depend on what may be.
            tasks: self.task_counts().await.unwrap_or_default(),
            journal: JournalStatus {
                records: size,
                bytes: directory_bytes(&self.ctx.settings.data.join("journal")),
                projected: store
                    .projections
                    .next_position()
                    .ok()
                    .and_then(|n| n.checked_sub(1))
                    .map(Position),
                checkpoint_size: size,
            },
            encryption: self.ctx.settings.encryption.clone(),
            warnings: self.warnings(),
            refused,
        })
    }

    async fn health(&self) -> Result<HealthReport, Problem> {
        Ok(self.health.report(&self.ctx).await)
    }

    async fn metrics(&self) -> Result<String, Problem> {
        self.metrics_text().await
    }

    async fn insights(&self) -> Result<Value, Problem> {
        let mut agents = Vec::new();
        for entry in self.ctx.directory.all() {
            if entry.state().version().is_some() {
                let insights = self.agent_insights(entry.id.as_str()).await?;
                agents.push(json!({ "agentId": entry.id, "performance": insights }));
            }
        }
        Ok(json!({ "agents": agents, "timestamp": now() }))
    }

    async fn nodes(&self) -> Result<Vec<NodeInfo>, Problem> {
        Ok(self.node_infos())
    }

    async fn memory_list(
        &self,
        agent: &str,
        page: PageRequest<'_>,
    ) -> Result<Page<MemoryEntry>, Problem> {
        self.memory.list(agent, page).await
    }

    async fn memory_get(&self, agent: &str, key: &str) -> Result<MemoryEntry, Problem> {
        self.memory.get(agent, key).await
    }

    async fn memory_set(
        &self,
        caller: &Caller,
        agent: &str,
        key: &str,
        value: Value,
        ttl: Option<Duration>,
    ) -> Result<MemoryEntry, Problem> {
        self.memory.set(caller, agent, key, value, ttl).await
    }

    async fn memory_delete(
        &self,
        caller: &Caller,
        agent: &str,
        key: &str,
    ) -> Result<bool, Problem> {
        self.memory.delete(caller, agent, key).await
    }

    async fn memory_stats(&self, agent: &str) -> Result<MemoryStats, Problem> {
        self.memory.stats(agent).await
    }

    async fn issue_token(
        &self,
        caller: &Caller,
        order: TokenOrder,
    ) -> Result<IssuedToken, Problem> {
        if let (Role::Agent, Some(subject)) = (order.role, &order.subject) {
            // An agent that may execute nothing holds no valid token, whoever asks for one.
            match status_kind(&self.entry(subject)?.state()) {
                AgentStatusKind::Quarantined => {
                    let text = format!("agent {subject} is in quarantine; recover it first");
                    return Err(Problem::new(ProblemKind::Conflict, "quarantined", text));
                }
                AgentStatusKind::Terminated => {
                    let text = format!("agent {subject} has been terminated");
                    return Err(Problem::new(ProblemKind::Conflict, "terminated", text));
                }
                AgentStatusKind::Active | AgentStatusKind::NotFound => {}
            }
        }
        self.sentinel.issue_order(&caller.name, order).await
    }

    async fn tokens(&self) -> Result<Vec<TokenInfo>, Problem> {
        self.sentinel.tokens().await
    }

    async fn keys(&self) -> Result<Vec<KeyInfo>, Problem> {
        self.sentinel.keys().await
    }

    async fn register_key(
        &self,
        caller: &Caller,
        key: DidKey,
        owner: Address,
    ) -> Result<KeyInfo, Problem> {
        self.register_foreign_key(caller, &key, owner).await
    }

    async fn revoke_key(
        &self,
        caller: &Caller,
        key: DidKey,
        reason: String,
    ) -> Result<KeyInfo, Problem> {
        self.sentinel.revoke_key(&caller.name, key, reason).await
    }

    async fn rotate_key(&self, caller: &Caller, order: KeyRotation) -> Result<RotatedKey, Problem> {
        self.rotate(caller, order).await
    }

    fn successions(&self) -> String {
        self.succession_notes()
    }

    async fn witness_succession(&self, by: &Caller, body: &str) -> Result<WitnessAnswer, Problem> {
        self.succession_witnessed(by, body).await
    }

    async fn audit_tile(&self, path: &str) -> Result<Vec<u8>, Problem> {
        self.tile(path).await
    }

    async fn witness(&self, by: &Caller, body: &str) -> Result<WitnessAnswer, Problem> {
        self.cosigned(by, body).await
    }

    async fn secrets(&self) -> Result<Vec<SecretInfo>, Problem> {
        self.ctx.secrets.list()
    }

    async fn set_secret(
        &self,
        _: &Caller,
        name: &str,
        secret: SecretWrite,
    ) -> Result<SecretInfo, Problem> {
        self.secret_set(name, secret).await
    }

    async fn delete_secret(&self, _: &Caller, name: &str) -> Result<(), Problem> {
        self.secret_delete(name).await
    }

    async fn strike(&self, caller: &Caller, order: ChaosOrder) -> Result<ChaosAnswer, Problem> {
        self.strike_once(caller, order).await
    }

    async fn revoke_token(&self, caller: &Caller, id: &str) -> Result<(), Problem> {
        self.token_revoke(caller, id).await
    }
}
