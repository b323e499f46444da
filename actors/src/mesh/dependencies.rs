//! What agents need of each other, as the outside meets it: circles are refused, stops say what they would break, and
//! agents are stopped before what they need.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mesh_actors_core::agent::{AgentCommand, AgentState, pick_rollback, pick_upgrade};
use mesh_actors_core::dependencies::Graph;
use mesh_messages::AgentId;
use mesh_messages::agent::{AgentStatus, FaultState};
use mesh_messages::dependency::{Dependents, NeedView, Needed, Unmet};
use mesh_messages::manifest::{AgentManifest, DependencyType};
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::Caller;

use super::Mesh;
use super::views::status_of;
use crate::agents::agent::AgentMessage;
use crate::clock::now;
use crate::directory::AgentEntry;
use crate::operations::{Action, UpgradeRequest};
use crate::partition::Cause;

/// What each wave of agents has to stop in, before those that they need are stopped, too, beyond the times that work in
/// flight and an agent's own end have.
const WAVE_REST: Duration = Duration::from_secs(15);
/// A wave that stops with the daemon has at least this, also when those before it have used up the time.
const WAVE_LEAST: Duration = Duration::from_secs(1);

impl Mesh {
    /// How an agent stands, and what it waits for.
    pub(super) fn status(&self, entry: &AgentEntry) -> AgentStatus {
        AgentStatus {
            waiting_for: self.waits(entry),
            ..status_of(entry, now())
        }
    }

    /// What an agent that is to run, and has no instance, waits for.
    pub(super) fn waits(&self, entry: &AgentEntry) -> Vec<Unmet> {
        let state = entry.state();
        let started = matches!(
            state.fault_state(),
            FaultState::Running | FaultState::HalfOpen | FaultState::Recovering
        );
        let held = state.running && started && state.instances.is_empty();
        match state.version().filter(|_| held) {
            Some(version) => self.ctx.directory.unmet(&version.manifest),
            None => Vec::new(),
        }
    }

    /// Refuses a manifest whose needs would lead back to it.
    pub(super) fn circle(&self, manifest: &AgentManifest) -> Result<(), Problem> {
        let manifest = Arc::new(manifest.clone());
        let look = |id: &str| self.ctx.directory.node(id);
        let Some(way) = Graph::around(&manifest, look).cycle(&manifest.id) else {
            return Ok(());
        };
        let first = way.get(1).map_or("", AgentId::as_str);
        let mut all = manifest.dependencies.iter();
        let index = all.position(|need| need.kind == DependencyType::Agent && need.name == first);
        let field = format!("dependencies[{}].name", index.unwrap_or(0));
        let way: Vec<&str> = way.iter().map(AgentId::as_str).collect();
        let text = format!(
            "{field}: agents would need each other in a circle: {}; leave out one of these dependencies",
            way.join(" → ")
        );
        Err(Problem::invalid("dependency_cycle", field, text))
    }

    /// What is to be said of a manifest's dependencies when it is deployed.
    pub(super) fn dependency_notices(&self, manifest: &AgentManifest) -> Vec<String> {
        let look = |id: &str| self.ctx.directory.node(id);
        let own = Arc::new(manifest.clone());
        let graph = Graph::around(&own, look).with_services(self.ctx.directory.services());
        let graph = graph.view();
        let node = graph.agents.into_iter().find(|node| node.id == manifest.id);
        let needs = node.map(|node| node.needs).unwrap_or_default();
        let told = needs.into_iter().enumerate().filter_map(|(index, need)| {
            let at = format!("dependencies[{index}]");
            let NeedView {
                name,
                required,
                detail,
                ..
            } = need;
            match (need.kind, detail) {
                (DependencyType::Agent | DependencyType::Service, None) => None,
                (DependencyType::Agent, Some(detail)) if required => Some(format!(
                    "{at}: it waits until agent {name} serves, which {detail}"
                )),
                (DependencyType::Agent, Some(detail)) => {
                    Some(format!("{at}: agent {name} {detail}; it starts without it"))
                }
                (DependencyType::Service, Some(detail)) if required => Some(format!(
                    "{at}: it waits until service {name} is registered and active; now it {detail}"
                )),
                (DependencyType::Service, Some(detail)) => Some(format!(
                    "{at}: service {name} {detail}; it starts without it"
                )),
                (DependencyType::Module, _) => {
                    Some(format!("{at}: meshd does not look for {name}"))
                }
            }
        });
        told.collect()
    }

    /// Starts what an agent needs and nobody runs, those first that the others need.
    pub(super) async fn start_needed(
        &self,
        caller: &Caller,
        entry: &AgentEntry,
        order: Needed,
        cause: &Cause,
    ) -> Result<(), Problem> {
        let ids = match order {
            Needed::Wait => return Ok(()),
            Needed::Start => self.ctx.directory.graph().to_start(&entry.id),
        };
        for id in &ids {
            let resource = format!("/v1/agents/{id}/start");
            self.may(caller, Action::AgentControl, &resource).await?;
            let needed = self.entry(id.as_str())?;
            self.startable(&needed)?;
        }
        for id in &ids {
            let needed = self.entry(id.as_str())?;
            // Each waits by itself for those that it needs in turn.
            self.order(&needed, AgentCommand::Start, cause).await?;
        }
        Ok(())
    }

    /// Whether an agent may be stopped although others need it; stops them first where that is wanted.
    pub(super) async fn before_stop(
        &self,
        caller: &Caller,
        entry: &AgentEntry,
        order: Dependents,
        cause: &Cause,
    ) -> Result<(), Problem> {
        if order == Dependents::Leave {
            return Ok(());
        }
        if !self.ctx.directory.is_required(&entry.id) {
            return Ok(());
        }
        let waves = self.ctx.directory.graph().breaks(&entry.id);
        if order == Dependents::Refuse {
            return needed_by(&entry.id, &waves);
        }
        for id in waves.iter().flatten() {
            let resource = format!("/v1/agents/{id}/stop");
            self.may(caller, Action::AgentControl, &resource).await?;
        }
        let settings = &self.ctx.settings;
        let times = settings.drain_timeout.saturating_add(settings.stop_timeout);
        let limit = times.saturating_add(WAVE_REST);
        for wave in waves {
            for id in &wave {
                let dependent = self.entry(id.as_str())?;
                self.order(&dependent, AgentCommand::Stop, cause).await?;
            }
            let stopping = wave
                .iter()
                .filter_map(|id| self.ctx.directory.get(id.as_str()));
            let gone = stopping.map(|entry| async move {
                entry
                    .settled(limit, |state| state.instances.is_empty())
                    .await
            });
            if futures::future::join_all(gone).await.contains(&false) {
                let text = format!(
                    "agents that need {} have not stopped within {} s; it runs still",
                    entry.id,
                    limit.as_secs()
                );
                return Err(Problem::unavailable("component_restarting", text));
            }
        }
        Ok(())
    }

    /// Refuses an upgrade to a version that would wait, or close a circle: the old one would be stopped for nothing.
    pub(super) fn upgradable(
        &self,
        state: &AgentState,
        request: &UpgradeRequest,
        rollback: bool,
    ) -> Result<(), Problem> {
        let target = request.target_version.as_deref();
        let picked = if rollback {
            pick_rollback(state, target)
        } else {
            pick_upgrade(state, target, request.forceful)
        };
        // What is wrong with the order itself, the agent's machine says.
        let version = picked.ok().and_then(|text| state.versions.get(&text));
        let Some(version) = version else {
            return Ok(());
        };
        self.circle(&version.manifest)?;
        let lacking: Vec<String> = self
            .ctx
            .directory
            .unmet(&version.manifest)
            .iter()
            .map(ToString::to_string)
            .collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let text = format!(
            "version {} would wait: {}",
            version.manifest.version,
            lacking.join(", ")
        );
        Err(Problem::new(ProblemKind::Conflict, "needs_missing", text))
    }

    /// Closes all agents, each before what it needs. Each wave has what is left of `limit`, and a second at least.
    pub(super) async fn close_agents(&self, limit: Duration) {
        let until = tokio::time::Instant::now() + limit;
        let mut left = self.ctx.directory.all();
        let mut waves = self.ctx.directory.graph().waves();
        // Those whose life is over are in no wave; nothing is left of them to be closed, but for a moment.
        let ordered: BTreeSet<AgentId> = waves.iter().flatten().cloned().collect();
        let others = left.iter().filter(|entry| !ordered.contains(&entry.id));
        waves.push(others.map(|entry| entry.id.clone()).collect());
        for wave in waves.into_iter().rev() {
            let wave: BTreeSet<AgentId> = wave.into_iter().collect();
            let now;
            (now, left) = left.into_iter().partition(|entry| wave.contains(&entry.id));
            let time = until.saturating_duration_since(tokio::time::Instant::now());
            let time = time.max(WAVE_LEAST);
            let closing = now
                .iter()
                .map(|entry| entry.slot.call(time, |reply| AgentMessage::Close { reply }));
            for closed in futures::future::join_all(closing).await {
                if let Err(error) = closed {
                    tracing::debug!(%error, "an agent was not stopped in order; it is ended with the tree");
                }
            }
        }
    }
}

fn needed_by(agent: &AgentId, waves: &[Vec<AgentId>]) -> Result<(), Problem> {
    let dependents: Vec<&str> = waves.iter().flatten().map(AgentId::as_str).collect();
    if dependents.is_empty() {
        return Ok(());
    }
    let text = format!(
        "{} run and need {agent}: stop them first, or say what becomes of them with `dependents`: `stop` or `leave`",
        dependents.join(", ")
    );
    Err(Problem::new(ProblemKind::Conflict, "agent_needed", text).field("dependents"))
}
