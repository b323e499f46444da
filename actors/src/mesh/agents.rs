//! Agents, as the outside asks for them.

use std::sync::Arc;
use std::time::Duration;

use mesh_actors_core::agent::{AgentCommand, AgentState};
use mesh_actors_core::dependencies::names_agents;
use mesh_messages::address::Address;
use mesh_messages::agent::{
    AgentRegistration, AgentStatusKind, AgentSummary, FaultState, Lifecycle, Page, PolicyValue,
    REPLICAS_MAX, RecoveryResult, SandboxView,
};
use mesh_messages::identity::DidKey;
use mesh_messages::manifest::RuntimeKind;
use mesh_messages::policy::{PolicyDocument, PolicyInForce};
use mesh_messages::problem::Problem;
use mesh_messages::system::{Caller, Role};
use mesh_messages::{Epoch, InstanceNo};

use super::Mesh;
use super::audit::read_only;
use super::views::{status_kind, summary};
use crate::agents::agent::AgentMessage;
use crate::agents::bundle;
use crate::agents::grants;
use crate::agents::home;
use crate::agents::native::behaviour;
use crate::agents::policy::{effective, effective_default};
use crate::agents::spawn::{Start, homes_of, plan_start, sandbox_view};
use crate::clock::now;
use crate::directory::AgentEntry;
use crate::operations::{
    Action, AgentFilter, AgentVerb, BundleSource, PageRequest, QuarantineOrder, UpgradeRequest,
    UpgradeResult, UpgradeType, VerbOutcome,
};
use crate::partition::Cause;

/// How long an order to an agent may take to be durable.
const ORDER_MAX: Duration = Duration::from_secs(30);
/// How long a verb waits for its effect before it answers how the agent stands.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// How long a removal waits for the agent's instances to end.
const REMOVE_MAX: Duration = Duration::from_mins(1);
/// How long an upgrade may take: draining the old version and starting the new one.
const UPGRADE_MAX: Duration = Duration::from_mins(2);

impl Mesh {
    /// An agent with a registered version.
    pub(super) fn entry(&self, id: &str) -> Result<Arc<AgentEntry>, Problem> {
        self.ctx
            .directory
            .get(id)
            .filter(|entry| entry.state().version().is_some())
            .ok_or_else(|| Problem::agent_not_found(id))
    }

    pub(super) fn agent_page(
        &self,
        filter: &AgentFilter,
        page: PageRequest<'_>,
    ) -> Page<AgentSummary> {
        let at = now();
        let mut rows = self
            .ctx
            .directory
            .all()
            .into_iter()
            .filter(|entry| page.cursor.is_none_or(|cursor| entry.id.as_str() > cursor))
            .filter_map(|entry| summary(&entry, at))
            .filter(|row| {
                filter
                    .capability
                    .as_ref()
                    .is_none_or(|c| row.capabilities.contains(c))
                    && filter.persona.as_ref().is_none_or(|p| row.persona == *p)
                    && filter.status.is_none_or(|s| row.status == s)
                    && filter.tag.as_ref().is_none_or(|t| row.tags.contains(t))
            });
        let items: Vec<_> = rows.by_ref().take(page.limit).collect();
        let more = rows.next().is_some();
        let next_cursor = items.last().filter(|_| more).map(|row| row.id.to_string());
        Page { items, next_cursor }
    }

    pub(super) async fn register(
        &self,
        caller: &Caller,
        source: BundleSource,
        start: bool,
    ) -> Result<AgentRegistration, Problem> {
        if let Some(full) = read_only(self) {
            return Err(full);
        }
        if start {
            self.not_halted()?;
        }
        let data = self.ctx.settings.data.clone();
        let stored = tokio::task::spawn_blocking(move || bundle::store(&data, source)).await;
        let stored = stored
            .map_err(|_| Problem::unavailable("shutting_down", "meshd is shutting down"))??;
        let signed = self.vouched(stored.signer.as_ref())?;
        let manifest = stored.manifest.manifest;
        let mut notices: Vec<String> = stored
            .manifest
            .notices
            .iter()
            .map(ToString::to_string)
            .collect();
        notices.extend(signed);
        // Two that would close a circle together do not come in at once.
        let _one_by_one = if names_agents(&manifest) {
            Some(self.registering.lock().await)
        } else {
            None
        };
        self.circle(&manifest)?;
        notices.extend(self.dependency_notices(&manifest));
        grants::by_whom(&self.ctx, caller, &manifest)?;
        self.may_call_as(caller, &manifest)?;
        notices.extend(grants::notices(&self.ctx, &manifest));
        if let Err(refusal) = self.validate(&manifest, &stored.digest) {
            // Registered without a start, it harms nobody; what this machine would refuse to start is said. What the operator's
            // policy does not take does not come in.
            if start || refusal.code == "policy_refused" {
                return Err(refusal);
            }
            notices.push(format!("it will not start: {}", refusal.detail));
        }
        let cause = Cause::by(&caller.name);
        let id = manifest.id.clone();
        self.registry.list(id.clone(), cause.clone()).await?;
        let entry = self.ctx.directory.enter(&id);
        let version = manifest.version.to_string();
        let (changed, state) = entry
            .slot
            .call(ORDER_MAX, |reply| AgentMessage::Register {
                manifest: Box::new(manifest),
                digest: stored.digest.clone(),
                cause: cause.clone(),
                reply,
            })
            .await??;
        if changed
            && state.versions.len() == 1
            && let Err(problem) = self.memory.unseal(&caller.name, &id).await
        {
            tracing::warn!(agent = %id, %problem, "its memory stays sealed");
        }
        let stopped = state.fault_state() == FaultState::Stopped && !state.running;
        if start && stopped {
            // It may have been ordered while the bundle was stored. Whoever is known is isolated by the order itself.
            self.not_halted()?;
            self.order(&entry, AgentCommand::Start, &cause).await?;
        }
        let state = entry.state();
        Ok(AgentRegistration {
            lifecycle: state.stage(),
            instances_ready: u32::try_from(state.ready().count()).unwrap_or(u32::MAX),
            instances_wanted: state.replicas,
            registered_at: state.created_at,
            digest: stored.digest,
            version,
            changed,
            notices,
            id,
        })
    }

    /// Whether the bundle's signer suffices; what is to be said of it.
    fn vouched(&self, signer: Option<&DidKey>) -> Result<Option<String>, Problem> {
        let known = signer.is_some_and(|key| self.sentinel.knows_key(key));
        if self.ctx.settings.signature_required && !known {
            let text = match signer {
                Some(key) => format!(
                    "signature.key: {key} is no registered key; meshctl key register does that"
                ),
                None => "signature: missing; meshctl agent sign makes one".to_owned(),
            };
            return Err(Problem::invalid("policy_refused", "signature", text));
        }
        Ok(signer.map(|key| {
            let whose = if known {
                "registered here"
            } else {
                "which is not registered here"
            };
            format!("signature: signed by {key}, {whose}")
        }))
    }

    /// What a start would be refused for. The security validator: nothing of the agent's has been run.
    fn validate(
        &self,
        manifest: &mesh_messages::manifest::AgentManifest,
        digest: &str,
    ) -> Result<(), Problem> {
        let settings = &self.ctx.settings;
        if manifest.replicas > REPLICAS_MAX {
            let text = format!("replicas: at most {REPLICAS_MAX} on one node");
            return Err(Problem::invalid("invalid_manifest", "replicas", text));
        }
        if settings.sandbox_required
            && let Some(field) = manifest.declines_sandbox()
        {
            let text = format!("{field}: false is refused while sandbox_required is true");
            return Err(Problem::invalid("policy_refused", field, text));
        }
        if settings.crypto_required
            && manifest.security.crypto == mesh_messages::manifest::Crypto::None
        {
            let text = "security.crypto: none is refused while crypto_required is true";
            return Err(Problem::invalid("policy_refused", "security.crypto", text));
        }
        let own = Address::agent(manifest.id.clone());
        let crypto = manifest.security.crypto;
        let key = self.sentinel.key_of(&own);
        if let Some(other) = key.filter(|key| !crypto.is_of(key)) {
            let text = format!(
                "security.crypto: {}, but the key that is registered as the agent's own is of kind {}",
                crypto.name(),
                other.kind()
            );
            return Err(Problem::invalid("policy_refused", "security.crypto", text));
        }
        if manifest.signs_itself() && key.is_none() {
            let text = format!(
                "policy.security.crypto_required: no key is registered as the agent's own; meshctl key register DID --owner agent:{} does that",
                manifest.id
            );
            let field = "policy.security.crypto_required";
            return Err(Problem::invalid("policy_refused", field, text));
        }
        let config = effective(manifest, &self.ctx).fault;
        config.check().map_err(|error| {
            Problem::invalid("invalid_manifest", "policy", format!("policy: {error}"))
        })?;
        if manifest.resolved_runtime().kind == RuntimeKind::Native {
            let name = manifest.entry.as_deref().unwrap_or_default();
            return if behaviour(&self.ctx, manifest).is_some() {
                Ok(())
            } else {
                let text = format!("entry: this meshd brings no native agent `{name}`");
                Err(Problem::invalid("policy_refused", "entry", text))
            };
        }
        let start = Start {
            manifest,
            digest,
            instance: InstanceNo(0),
            epoch: Epoch(0),
            process: 0,
        };
        plan_start(&self.ctx, start)
            .map(drop)
            .map_err(Problem::from)
    }

    pub(super) fn policy_in_force(&self) -> PolicyInForce {
        let applied = PolicyDocument::clone(&self.ctx.policy.load());
        let mut values = effective_default(&self.ctx).values;
        values.extend(applied.budgets.iter().map(|(account, budget)| PolicyValue {
            key: format!("budgets.{account}"),
            value: serde_json::json!(budget),
            origin: "policy".to_owned(),
        }));
        PolicyInForce {
            values: self.signed(values),
            applied,
        }
    }

    pub(super) async fn order(
        &self,
        entry: &AgentEntry,
        command: AgentCommand,
        cause: &Cause,
    ) -> Result<Arc<AgentState>, Problem> {
        let cause = cause.clone();
        entry
            .slot
            .call(ORDER_MAX, |reply| AgentMessage::Order {
                command,
                cause,
                reply,
            })
            .await?
    }

    pub(super) async fn verb(
        &self,
        caller: &Caller,
        id: &str,
        verb: AgentVerb,
    ) -> Result<VerbOutcome, Problem> {
        let entry = self.entry(id)?;
        let cause = Cause::by(&caller.name);
        let ends = matches!(
            verb,
            AgentVerb::Stop(_) | AgentVerb::Pause | AgentVerb::Quarantine(_) | AgentVerb::Terminate
        );
        if !ends {
            self.not_halted()?;
        }
        let command = match verb {
            AgentVerb::Start(order) => {
                self.startable(&entry)?;
                self.start_needed(caller, &entry, order.needed, &cause)
                    .await?;
                AgentCommand::Start
            }
            AgentVerb::Stop(order) => {
                self.before_stop(caller, &entry, order.dependents, &cause)
                    .await?;
                AgentCommand::Stop
            }
            AgentVerb::Restart => AgentCommand::Restart,
            AgentVerb::Pause => AgentCommand::Pause,
            AgentVerb::Resume => AgentCommand::Resume,
            AgentVerb::Terminate => {
                // First, so that `audited` is the last that is said of this life.
                self.memory.seal(&caller.name, &entry.id).await?;
                AgentCommand::Terminate {
                    reason: format!("ordered by {}", caller.name),
                }
            }
            AgentVerb::Quarantine(QuarantineOrder {
                kind,
                description,
                severity,
            }) => {
                let description = if description.is_empty() {
                    format!("ordered by {}", caller.name)
                } else {
                    description
                };
                AgentCommand::Quarantine {
                    kind,
                    severity,
                    description,
                }
            }
            AgentVerb::Scale { replicas } => {
                if replicas > REPLICAS_MAX {
                    let text = format!("replicas: at most {REPLICAS_MAX} on one node");
                    return Err(Problem::invalid("invalid_scale", "replicas", text));
                }
                AgentCommand::Scale { replicas }
            }
            AgentVerb::Recover { force } => {
                return self.recover(caller, &entry, force, &cause).await;
            }
            AgentVerb::Upgrade(request) => {
                return self.upgrade(&entry, request, false, &cause).await;
            }
            AgentVerb::Rollback(request) => {
                return self.upgrade(&entry, request, true, &cause).await;
            }
        };
        let down = matches!(
            command,
            AgentCommand::Stop | AgentCommand::Terminate { .. } | AgentCommand::Quarantine { .. }
        );
        let last = entry.state().epoch;
        let restart = matches!(command, AgentCommand::Restart);
        self.order(&entry, command, &cause).await?;
        // The order is durable; its effect is usually a moment away and worth the wait. The answer says how it stands.
        entry
            .settled(SETTLE_MAX, |state| {
                let wanted = state.instances.len() == state.replicas as usize;
                if !down && !self.waits(&entry).is_empty() {
                    return true;
                }
                match (down, state.fault_state()) {
                    (true, _) => state.instances.is_empty(),
                    (
                        false,
                        FaultState::Running | FaultState::HalfOpen | FaultState::Recovering,
                    ) => {
                        wanted
                            && state
                                .instances
                                .values()
                                .all(|i| i.stage == Lifecycle::Executing)
                            && (!restart || state.instances.values().all(|i| i.epoch > last))
                    }
                    (false, _) => true,
                }
            })
            .await;
        Ok(VerbOutcome::Status(Box::new(self.status(&entry))))
    }

    /// A start that cannot succeed is refused before anything is counted.
    pub(super) fn startable(&self, entry: &AgentEntry) -> Result<(), Problem> {
        let state = entry.state();
        match state.version() {
            Some(version) => self.validate(&version.manifest, &version.digest),
            None => Err(Problem::agent_not_found(entry.id.as_str())),
        }
    }

    async fn recover(
        &self,
        caller: &Caller,
        entry: &AgentEntry,
        force: bool,
        cause: &Cause,
    ) -> Result<VerbOutcome, Problem> {
        if force && caller.role != Role::Admin {
            let resource = format!("/v1/agents/{}/recover", entry.id);
            return Err(self.sentinel.refuse(caller, Action::AgentGovern, &resource));
        }
        match self
            .order(entry, AgentCommand::Recover { force }, cause)
            .await
        {
            Ok(_) => Ok(VerbOutcome::Recovery(RecoveryResult {
                success: true,
                reason: None,
            })),
            Err(problem) if problem.code == "max_retries_exceeded" => {
                Ok(VerbOutcome::Recovery(RecoveryResult {
                    success: false,
                    reason: Some(problem.detail),
                }))
            }
            Err(problem) => Err(problem),
        }
    }

    async fn upgrade(
        &self,
        entry: &AgentEntry,
        request: UpgradeRequest,
        rollback: bool,
        cause: &Cause,
    ) -> Result<VerbOutcome, Problem> {
        if request.agent_id.as_ref().is_some_and(|id| *id != entry.id) {
            let text = "agentId: is not the agent of the path";
            return Err(Problem::invalid("invalid_upgrade", "agentId", text));
        }
        let rollback = rollback || request.kind == UpgradeType::Rollback;
        self.upgradable(&entry.state(), &request, rollback)?;
        // A process cannot exchange its code in place: soft means that the `upgrade` hook is called on the new version,
        // which happens whenever it names it; without it, the upgrade is hard.
        let hook = entry
            .state()
            .instances
            .values()
            .any(|i| i.hooks.iter().any(|h| h == "upgrade" || h == "save_state"));
        let kind = match (rollback, request.kind) {
            (true, _) => UpgradeType::Rollback,
            (false, UpgradeType::Soft) if hook => UpgradeType::Soft,
            (false, _) => UpgradeType::Hard,
        };
        let name = match kind {
            UpgradeType::Soft => "soft",
            UpgradeType::Hard => "hard",
            UpgradeType::Rollback => "rollback",
        };
        let mut done = self.services.upgrades.subscribe();
        let command = AgentCommand::Upgrade {
            target: request.target_version,
            forceful: request.forceful,
            rollback,
            kind: name.to_owned(),
        };
        self.order(entry, command, cause).await?;
        let ended = tokio::time::timeout(UPGRADE_MAX, async {
            loop {
                match done.recv().await {
                    Ok((agent, error)) if agent == entry.id => return error,
                    Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => {
                        return Some("meshd is shutting down".to_owned());
                    }
                }
            }
        })
        .await;
        let error = ended.unwrap_or_else(|_| {
            Some("it goes on; it took longer than one waits for it".to_owned())
        });
        if error.is_some() {
            // The version before is coming back.
            entry
                .settled(SETTLE_MAX, |state| state.ready().next().is_some())
                .await;
        }
        Ok(VerbOutcome::Upgrade(UpgradeResult {
            success: error.is_none(),
            kind,
            error,
            rollback_available: !entry.state().past.is_empty(),
        }))
    }

    pub(super) async fn remove(&self, caller: &Caller, id: &str) -> Result<(), Problem> {
        let entry = self.entry(id)?;
        let cause = Cause::by(&caller.name);
        let over = |state: &AgentState| {
            matches!(state.stage(), Lifecycle::Terminated | Lifecycle::Audited)
        };
        if !over(&entry.state()) {
            // Its work is drained first; what is quarantined has none.
            if status_kind(&entry.state()) != AgentStatusKind::Quarantined {
                self.order(&entry, AgentCommand::Stop, &cause).await?;
            }
            let closing = entry
                .slot
                .call(REMOVE_MAX, |reply| AgentMessage::Close { reply });
            closing.await?;
            let reason = format!("removed by {}", caller.name);
            self.order(&entry, AgentCommand::Terminate { reason }, &cause)
                .await?;
        }
        // Its manifest bounds it no more, so it does not speak any more either.
        self.sentinel.revoke_agent("meshd", &entry.id).await?;
        self.memory.purge(&caller.name, &entry.id).await?;
        let (data, agent, state) = (
            self.ctx.settings.data.clone(),
            entry.id.clone(),
            entry.state(),
        );
        // First, so that no user is free of whom this is not known.
        let noted = tokio::task::spawn_blocking(move || {
            let manifests: Vec<_> = state.versions.values().map(|one| &*one.manifest).collect();
            grants::remember(&data, &homes_of(&data, &agent), &manifests)
        });
        if let Err(error) = noted
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
        {
            let text = format!("where its user may have left files cannot be noted: {error}");
            return Err(Problem::unavailable("read_only", text));
        }
        self.registry.unlist(entry.id.clone(), cause).await?;
        let (data, agent) = (self.ctx.settings.data.clone(), entry.id.clone());
        let homes = tokio::task::spawn_blocking(move || {
            homes_of(&data, &agent)
                .iter()
                .try_for_each(|home| home::remove(&data, home))
        });
        if let Ok(Err(error)) = homes.await {
            tracing::warn!(agent = id, %error, "its home could not be removed");
        }
        Ok(())
    }

    pub(super) async fn sandbox(&self, id: &str) -> Result<SandboxView, Problem> {
        let entry = self.entry(id)?;
        let state = entry.state();
        if let Some(view) = &state.sandbox {
            return Ok(view.clone());
        }
        let mesh = self.clone();
        let planned = tokio::task::spawn_blocking(move || {
            let version = state
                .version()
                .ok_or_else(|| Problem::agent_not_found(entry.id.as_str()))?;
            if version.manifest.resolved_runtime().kind == RuntimeKind::Native {
                return Ok(SandboxView {
                    profile: "native".to_owned(),
                    degraded: Vec::new(),
                    controls: Vec::new(),
                });
            }
            let start = Start {
                manifest: &version.manifest,
                digest: &version.digest,
                instance: InstanceNo(0),
                epoch: Epoch(0),
                process: 0,
            };
            plan_start(&mesh.ctx, start)
                .map(|plan| sandbox_view(&mesh.ctx, &version.manifest, plan.report()))
                .map_err(Problem::from)
        });
        planned
            .await
            .map_err(|_| Problem::unavailable("shutting_down", "meshd is shutting down"))?
    }
}
