//! What agents' sessions can ask of the mesh, answered by its parts; and what the bus needs of them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{broadcast, watch};

use mesh_actors_core::routing::InstanceKey;
use mesh_messages::access::TaskFacts;
use mesh_messages::address::Address;
use mesh_messages::agent::AgentStatusKind;
use mesh_messages::events::{EgressDenial, SentinelEvent};
use mesh_messages::identity::DidKey;
use mesh_messages::klp::{
    ClaimReply, Envelope, ErrorCode, KlpError, MemoryOp, MemoryOpKind, MemoryReply, MessageType,
    SessionToken,
};
use mesh_messages::manifest::Need;
use mesh_messages::problem::Problem;
use mesh_messages::system::Caller;
use mesh_messages::{AgentId, Epoch, Failure, FailureClass, InstanceNo, Position, TaskId};

use super::access::limits_of;
use super::views::status_kind;
use crate::agents::delivery::AttemptNews;
use crate::agents::services::{BearerText, ClaimRequest, Delegation, Services};
use crate::bus::{self, BusHandle};
use crate::context::Context;
use crate::directory::AgentEntry;
use crate::memory::MemoryHandle;
use crate::operations::Action;
use crate::orchestrator::OrchestratorHandle;
use crate::partition::Cause;
use crate::sentinel::SentinelHandle;

/// What a line of an agent is called in the audit, when it is refused.
const LINE: &str = "klp.line";
/// How long a session token is valid, unless its incarnation ends before.
const SESSION_TTL: Duration = Duration::from_hours(1);
/// Upgrades that a listener may lag behind; each caller of `upgrade` is one.
const UPGRADES_KEPT: usize = 256;

/// The parts, as agents reach them.
#[derive(Debug)]
pub(crate) struct MeshServices {
    pub(crate) ctx: Arc<Context>,
    pub(crate) sentinel: SentinelHandle,
    pub(crate) memory: MemoryHandle,
    pub(crate) orchestrator: OrchestratorHandle,
    // The bus needs the others to be made, so it comes last.
    pub(crate) bus: OnceLock<BusHandle>,
    pub(crate) escalated: watch::Sender<Option<String>>,
    pub(crate) upgrades: broadcast::Sender<(AgentId, Option<String>)>,
}

impl MeshServices {
    pub(crate) fn new(
        ctx: Arc<Context>,
        sentinel: SentinelHandle,
        memory: MemoryHandle,
        orchestrator: OrchestratorHandle,
    ) -> Self {
        Self {
            ctx,
            sentinel,
            memory,
            orchestrator,
            bus: OnceLock::new(),
            escalated: watch::Sender::new(None),
            upgrades: broadcast::Sender::new(UPGRADES_KEPT),
        }
    }
}

impl MeshServices {
    /// Whose token an agent bears on its own channel.
    fn bearer(&self, agent: &AgentId, token: &BearerText) -> Result<Caller, Problem> {
        let text = token.text();
        let resolved = match text.strip_prefix("vault://") {
            Some(name) => secret_text(&self.ctx, name, agent),
            None => Some(zeroize::Zeroizing::new(text.to_owned())),
        };
        let text = resolved.as_ref().map(|text| text.as_str());
        let name = format!("agent:{agent}");
        let found = self.sentinel.authenticate_within(&name, text);
        found.map_err(|problem| problem.field("auth.token"))
    }
}

impl MeshServices {
    /// Puts on record what an agent signed. An attempt whose result cannot be is lost, and made again: what counts as an
    /// agent's word under its key can be proven afterwards.
    async fn keep_said(&self, agent: &AgentId, news: &mut [AttemptNews]) {
        let Some(bus) = self.bus.get() else { return };
        let mut lost = Vec::new();
        for one in news.iter() {
            let AttemptNews::Said { task, line, led } = one else {
                continue;
            };
            let said = bus.said(agent, line);
            let (cause, correlation) = (led.cause, led.correlation.clone());
            if let Err(problem) = crate::request::following(cause, correlation, said).await {
                tracing::error!(%agent, %task, %problem, "a signed result could not be put on record");
                lost.push((task.clone(), problem));
            }
        }
        for one in news {
            if let AttemptNews::Ended { task, result, .. } = one
                && let Some((_, problem)) = lost.iter().find(|(lost, _)| lost == task)
            {
                let text = format!("its signed result could not be put on record: {problem}");
                *result = Err(Failure::new(FailureClass::Lost, text));
            }
        }
    }
}

/// What a reference stands for, as the agent could have it as a file: a secret for requests to some hosts is for nothing
/// else. What stands behind the `@` names the store, of which there is one.
pub(super) fn secret_text(
    ctx: &Context,
    name: &str,
    agent: &AgentId,
) -> Option<zeroize::Zeroizing<String>> {
    let name = name.split('@').next()?;
    let value = ctx.secrets.mounted(name, agent.as_str()).ok()?;
    let text = std::str::from_utf8(&value).ok()?;
    Some(zeroize::Zeroizing::new(text.trim_end().to_owned()))
}

/// Does something of an agent's end that may take a while; what fails is logged, since nobody waits for it.
fn aside(
    what: &'static str,
    agent: &AgentId,
    work: impl Future<Output = Result<(), Problem>> + Send + 'static,
) {
    let agent = agent.clone();
    ractor::concurrency::spawn(async move {
        if let Err(problem) = work.await {
            tracing::error!(%agent, %problem, "failed to {what}");
        }
    });
}

fn klp_error(problem: Problem) -> KlpError {
    KlpError {
        code: problem.code.to_owned(),
        field: problem.field,
        detail: problem.detail,
    }
}

#[async_trait]
impl Services for MeshServices {
    async fn report(&self, agent: &AgentId, instance: InstanceNo, mut news: Vec<AttemptNews>) {
        self.keep_said(agent, &mut news).await;
        let mut ended = Vec::new();
        for news in &news {
            match news {
                AttemptNews::Progress { task, progress, .. } => {
                    let data =
                        serde_json::json!({ "task": task, "agent": agent, "progress": progress });
                    let event = mesh_messages::system::MeshEvent {
                        id: None,
                        topic: "task.progress".to_owned(),
                        time: progress.at,
                        data,
                    };
                    let _nobody_listens = self.ctx.events.send(Arc::new(event));
                }
                AttemptNews::Ended {
                    task,
                    attempt,
                    epoch,
                    ..
                } => ended.push((*epoch, task.clone(), *attempt)),
                AttemptNews::Said { .. }
                | AttemptNews::Started { .. }
                | AttemptNews::Checking { .. }
                | AttemptNews::Checked { .. }
                | AttemptNews::Used { .. } => {}
            }
        }
        self.orchestrator.report(agent, instance, news).await;
        if let Some(entry) = self.ctx.directory.get(agent.as_str()) {
            for (epoch, task, attempt) in ended {
                entry.settle(epoch, task, attempt);
            }
        }
    }

    async fn delegate(&self, mut delegation: Delegation) -> Result<TaskId, KlpError> {
        let key = (
            delegation.agent.clone(),
            delegation.instance,
            delegation.epoch,
        );
        let caller = bus::agent_as_caller(&delegation.agent);
        let resource = format!("/v1/tasks/{}", delegation.parent);
        let facts = TaskFacts::all_of(&delegation.spec());
        // What checks a result was decided on with the work, for whoever submitted that.
        if !delegation.verifies() {
            let decided = self.sentinel.may_submit(&caller, &resource, facts.clone());
            decided.map_err(klp_error)?;
        }
        if let Some(token) = delegation.token.take() {
            // With somebody's token it does what both may, and no more.
            let bearer = self.bearer(&delegation.agent, &token).map_err(klp_error)?;
            let decided = self.sentinel.may_submit(&bearer, &resource, facts);
            decided.map_err(klp_error)?;
            delegation.within = limits_of(&bearer).collect();
        }
        let line = delegation.line.take();
        let bus = self.bus.get();
        let said = line.and_then(|line| bus?.own_word(&line));
        let delegated = self.orchestrator.delegate(key, delegation, said).await;
        delegated.map_err(|problem| {
            self.sentinel.note_confined(&caller, &resource, &problem);
            klp_error(problem)
        })
    }

    async fn stands_still(&self, task: &TaskId) -> bool {
        let Ok(Some(task)) = self.orchestrator.view(task).await else {
            return false;
        };
        let agents = match (task.assignment, task.waiting_for) {
            (Some(assignment), _) if task.state.is_in_flight() => vec![assignment.agent_id],
            (_, Some(waiting)) => waiting.agents,
            (_, None) => Vec::new(),
        };
        let paused = |agent: &AgentId| {
            let entry = self.ctx.directory.get(agent.as_str());
            entry.is_some_and(|entry| entry.state().paused)
        };
        !agents.is_empty() && agents.iter().all(paused)
    }

    fn give_up(&self, task: TaskId, why: String) {
        let orchestrator = self.orchestrator.clone();
        ractor::concurrency::spawn(async move {
            // One that has ended meanwhile need not be ended.
            if let Err(problem) = orchestrator.cancel("meshd", task, &why).await {
                tracing::debug!(%problem, "a verification had ended when it was given up");
            }
        });
    }

    async fn claim(&self, request: ClaimRequest) -> Option<ClaimReply> {
        self.orchestrator.claim(request).await
    }

    async fn memory(&self, agent: &AgentId, owner: &AgentId, op: MemoryOp) -> MemoryReply {
        if matches!(op.op, MemoryOpKind::Get | MemoryOpKind::List) {
            let (user, whose) = (format!("agent:{agent}"), format!("/v1/memory/{owner}"));
            self.sentinel
                .note_look(user, Action::Memory, "MEMORY", &whose);
        }
        self.memory.agent_op(agent, owner, op).await
    }

    async fn pass_on(
        &self,
        agent: &AgentId,
        epoch: Epoch,
        envelope: Envelope,
    ) -> Result<Option<Envelope>, KlpError> {
        let Some(bus) = self.bus.get() else {
            return Ok(None);
        };
        if envelope.kind == MessageType::CapabilityQuery {
            let (user, verb) = (format!("agent:{agent}"), "CAPABILITY_QUERY");
            self.sentinel.note_look(user, Action::Read, verb, "");
        }
        bus.from_agent(agent, epoch, envelope)
            .await
            .map_err(klp_error)
    }

    async fn answered(
        &self,
        agent: &AgentId,
        epoch: Epoch,
        (asker, envelope): (&Address, Envelope),
    ) -> Result<Envelope, KlpError> {
        let Some(bus) = self.bus.get() else {
            return Ok(envelope);
        };
        bus.answered(agent, epoch, (asker, envelope))
            .await
            .map_err(klp_error)
    }

    fn heard(&self, agent: &AgentId, line: &Envelope) {
        if let Some(bus) = self.bus.get() {
            bus.heard(agent, line);
        }
    }

    fn open_session(&self, agent: &AgentId, epoch: Epoch) -> Result<SessionToken, KlpError> {
        let expires = crate::clock::now().plus(SESSION_TTL);
        let issued = self.sentinel.issue_session(agent, epoch, expires);
        let token = issued.map_err(klp_error)?.to_string();
        // Asked after it was issued: whoever isolates the agent meanwhile says so first, and makes void all there is then.
        let entry = self.ctx.directory.get(agent.as_str());
        let active =
            |entry: Arc<AgentEntry>| status_kind(&entry.state()) == AgentStatusKind::Active;
        if !entry.is_some_and(active) {
            self.sentinel.revoke_session(agent, epoch);
            let detail = "an agent that is isolated or terminated is given no token".to_owned();
            let code = ErrorCode::NotAllowed.name().to_owned();
            let field = None;
            return Err(KlpError {
                code,
                field,
                detail,
            });
        }
        Ok(SessionToken { token, expires })
    }

    fn close_session(&self, agent: &AgentId, epoch: Epoch) {
        self.sentinel.revoke_session(agent, epoch);
    }

    fn key_of(&self, agent: &AgentId) -> Option<DidKey> {
        self.sentinel.key_of(&Address::agent(agent.clone()))
    }

    fn fleet_changed(&self, entry: &AgentEntry) {
        self.orchestrator.fleet(entry.id.clone(), entry.fleet());
    }

    fn fleet_gone(&self, agent: &AgentId) {
        self.orchestrator.fleet_gone(agent.clone());
        if let Some(bus) = self.bus.get() {
            bus.agent_gone(agent);
        }
    }

    fn fleet_complete(&self) {
        self.orchestrator.fleet_complete();
        if let Some(bus) = self.bus.get() {
            bus.fleet_complete();
        }
    }

    fn agent_ready(&self, agent: &AgentId) {
        self.ctx.directory.serves(agent);
        if let Some(bus) = self.bus.get() {
            bus.agent_ready(agent);
        }
    }

    fn instance_down(&self, key: InstanceKey, failure: Failure, record: Option<Position>) {
        let (agent, instance, epoch) = &key;
        self.sentinel.revoke_session(agent, *epoch);
        if let Some(bus) = self.bus.get() {
            bus.instance_down(agent);
        }
        if failure.class == FailureClass::Lost {
            tracing::info!(%agent, %instance, %epoch, reason = failure.message, "instance ended");
        } else {
            tracing::warn!(
                %agent, %instance, %epoch, class = %failure.class, reason = failure.message,
                "instance failed"
            );
        }
        self.orchestrator.instance_down(key, failure, record);
    }

    fn called(&self, event: SentinelEvent, led: Option<Cause>) {
        self.sentinel.record_call(event, led);
    }

    fn line_refused(&self, agent: &AgentId, code: &str) {
        let user = format!("agent:{agent}");
        self.sentinel.record_refused(&user, LINE, "", code);
    }

    fn lacks(&self, agent: &AgentId, action: Action, resource: &str, need: &Need) -> Problem {
        let caller = bus::agent_as_caller(agent);
        self.sentinel.lacks(&caller, action, resource, need)
    }

    fn egress_denied(&self, denial: EgressDenial) {
        self.sentinel.record_egress(denial);
    }

    fn idle(&self, agent: &AgentId) {
        let (memory, idle) = (self.memory.clone(), agent.clone());
        aside(
            "clear the volatile memory of a stopped agent",
            agent,
            async move { memory.clear_volatile(&idle).await },
        );
    }

    fn isolate(&self, agent: &AgentId) {
        let reason = self.ctx.directory.get(agent.as_str()).and_then(|entry| {
            let state = entry.state();
            state.fault.as_ref().and_then(|fault| fault.reason.clone())
        });
        tracing::error!(%agent, reason, "quarantined: it executes nothing and receives nothing");
        let (sentinel, isolated) = (self.sentinel.clone(), agent.clone());
        sentinel.revoke_sessions(agent);
        aside(
            "revoke the tokens of an isolated agent",
            agent,
            async move { sentinel.revoke_agent("meshd", &isolated).await },
        );
    }

    fn release(&self, agent: &AgentId) {
        self.agent_ready(agent);
    }

    fn seal(&self, agent: &AgentId) {
        let (memory, sealed) = (self.memory.clone(), agent.clone());
        aside("seal the memory of a terminated agent", agent, async move {
            memory.seal("meshd", &sealed).await
        });
        if let Some(bus) = self.bus.get() {
            bus.agent_gone(agent);
        }
    }

    fn escalate(&self, agent: &AgentId, reason: &str) {
        tracing::error!(%agent, reason, "an essential agent is exhausted: meshd ends");
        self.escalated.send_replace(Some(format!(
            "essential agent {agent} is exhausted: {reason}"
        )));
    }

    fn upgrade_done(&self, agent: &AgentId, error: Option<String>) {
        let _nobody_waits = self.upgrades.send((agent.clone(), error));
    }
}
