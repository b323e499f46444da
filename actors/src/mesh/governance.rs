//! Governance, as the outside asks for it; and a shutdown, as it is carried out.

use async_trait::async_trait;

use mesh_actors_core::agent::AgentCommand;
use mesh_messages::Severity;
use mesh_messages::agent::{AgentStatusKind, PolicyValue, QuarantineKind};
use mesh_messages::governance::{GovernanceUpdate, GovernanceView, Halt};
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::Caller;

use super::Mesh;
use super::views::status_kind;
use crate::operations::{Action, GovernanceOperations};
use crate::partition::Cause;

/// The origin of a value that the operator's policy says for all agents; for one, a colon and its id follow.
const FROM_POLICY: &str = "policy";

#[async_trait]
impl GovernanceOperations for Mesh {
    async fn governance(&self) -> Result<GovernanceView, Problem> {
        Ok(self.ctx.governance.load().view(self.ctx.node.did))
    }

    async fn govern(
        &self,
        caller: &Caller,
        update: GovernanceUpdate,
    ) -> Result<GovernanceView, Problem> {
        let resource = format!("{}#{}", update.kind, update.sequence);
        let (mesh, by) = (self.clone(), caller.name.clone());
        // On its own: a caller who hangs up leaves no shutdown half carried out. And whatever came of the update: one that
        // was accepted without an answer is carried out when it is sent again.
        let carried_out = tokio::spawn(async move {
            let governed = mesh.registry.govern(update, Cause::by(&by)).await;
            mesh.orchestrator.policy_changed();
            (governed, mesh.halt_if_ordered().await)
        });
        let (governed, halted) = carried_out
            .await
            .map_err(|error| Problem::internal(format!("the update was given up: {error}")))?;
        governed.inspect_err(|problem| {
            let refused = !matches!(
                problem.kind,
                ProblemKind::Unavailable | ProblemKind::Internal
            );
            if refused {
                let action = Action::Governance.name();
                self.sentinel
                    .record_denied(&caller.name, action, &resource, &problem.detail);
            }
        })?;
        halted?;
        self.governance().await
    }
}

impl Mesh {
    /// Isolates every agent while a shutdown is in force; what nothing but a forced recovery gets out stays as it is.
    ///
    /// # Errors
    /// An agent's quarantine could not be recorded; ordering the shutdown again, or a restart, goes on from there.
    pub(super) async fn halt_if_ordered(&self) -> Result<(), Problem> {
        let governance = self.ctx.governance.load_full();
        let Some(halt) = &governance.halted else {
            return Ok(());
        };
        let orders = self
            .ctx
            .directory
            .all()
            .into_iter()
            .map(|entry| async move {
                let state = entry.state();
                let held = match status_kind(&state) {
                    AgentStatusKind::Active => false,
                    // One that would be let out by time, or for what it did before, is not.
                    AgentStatusKind::Quarantined => state
                        .quarantine
                        .as_ref()
                        .is_some_and(|record| record.reason.severity == Severity::Critical),
                    AgentStatusKind::Terminated | AgentStatusKind::NotFound => true,
                };
                if held {
                    return Ok(());
                }
                let command = AgentCommand::Quarantine {
                    kind: QuarantineKind::Manual,
                    severity: Severity::Critical,
                    description: halted_because(halt),
                };
                match self.order(&entry, command, &Cause::by("governance")).await {
                    // It was removed meanwhile, or has nothing that could run.
                    Err(problem)
                        if problem.kind == ProblemKind::NotFound
                            || problem.code == "no_version"
                            || self.ctx.directory.get(entry.id.as_str()).is_none() =>
                    {
                        Ok(())
                    }
                    done => done.map(drop),
                }
            });
        // Side by side: each waits for its own record, and one sync makes many of them durable.
        let done = futures::future::join_all(orders).await;
        done.into_iter().collect()
    }

    /// Refuses what would have an agent run while a shutdown is in force.
    ///
    /// # Errors
    /// `emergency_shutdown`.
    pub(super) fn not_halted(&self) -> Result<(), Problem> {
        match &self.ctx.governance.load().halted {
            None => Ok(()),
            Some(halt) => {
                let detail = format!("{}; an emergency_lift ends it", halted_because(halt));
                Err(Problem::new(
                    ProblemKind::Conflict,
                    "emergency_shutdown",
                    detail,
                ))
            }
        }
    }

    /// Adds to each value that the operator's policy says who signed it.
    pub(super) fn signed(&self, mut values: Vec<PolicyValue>) -> Vec<PolicyValue> {
        let governance = self.ctx.governance.load();
        for value in &mut values {
            let Some(scope) = value.origin.strip_prefix(FROM_POLICY) else {
                continue;
            };
            let scope = match scope.strip_prefix(':') {
                None if value.key.starts_with("budgets.") => value.key.clone(),
                None => "default".to_owned(),
                Some(agent) => format!("agents.{agent}"),
            };
            if let Some(origin) = governance.origins.get(&scope) {
                let signers: Vec<_> = origin.signers.iter().map(ToString::to_string).collect();
                let (sequence, signers) = (origin.sequence, signers.join(", "));
                value.origin = format!("{}, update {sequence} signed by {signers}", value.origin);
            }
        }
        values
    }
}

fn halted_because(halt: &Halt) -> String {
    let sequence = halt.origin.sequence;
    format!("emergency_shutdown by update {sequence}: {}", halt.reason)
}
