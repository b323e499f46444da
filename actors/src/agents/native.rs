//! Agents compiled into meshd: trusted, in its own process, without a sandbox.
//!
//! They exist for what must be as fast as the journal, and for tests. A manifest names one by `runtime.kind: native` and
//! `entry: builtin:<name>`; only names that the binary brings are accepted. A registered service is one, too, by
//! `entry: service:<id>/<endpoint>`: supervision, breaker, quarantine, budgets and contracts hold for it as for any agent.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use mesh_messages::claim::TaskClaim;
use mesh_messages::manifest::AgentManifest;
use mesh_messages::workflow::RegisteredCall;
use mesh_messages::{AgentId, Failure, FailureClass, TaskId};

use crate::context::Context;
use crate::desk::{Ask, Patience, service_call};
use crate::request::working_on;

/// A behaviour compiled into meshd.
#[async_trait]
pub trait NativeBehaviour: Send + Sync + 'static {
    /// Does a task. A panic ends the instance as a crash; dropping the future cancels the task.
    ///
    /// # Errors
    /// The failure that ends the attempt.
    async fn on_task(&self, action: &str, input: &Value) -> Result<Value, Failure>;

    /// Does a task of this id; it is the same for each attempt.
    ///
    /// # Errors
    /// As with [`NativeBehaviour::on_task`], to which it leads unless it is written otherwise.
    async fn on_keyed(&self, task: &TaskId, action: &str, input: &Value) -> Result<Value, Failure> {
        let _whoever_needs_no_key = task;
        self.on_task(action, input).await
    }

    /// Does a task that claims resources, each of which comes with its token.
    ///
    /// # Errors
    /// As with [`NativeBehaviour::on_task`], to which it leads unless it is written otherwise.
    async fn on_claimed(
        &self,
        action: &str,
        input: &Value,
        claims: &[TaskClaim],
    ) -> Result<Value, Failure> {
        let _whoever_needs_no_token = claims;
        self.on_task(action, input).await
    }
}

/// What runs an agent of this manifest natively: a registered service, or a behaviour that the binary brings.
pub(crate) fn behaviour(
    ctx: &Arc<Context>,
    manifest: &AgentManifest,
) -> Option<Arc<dyn NativeBehaviour>> {
    if let Some(call) = manifest.service() {
        return Some(Arc::new(ServiceAgent {
            ctx: Arc::clone(ctx),
            agent: manifest.id.clone(),
            call,
        }));
    }
    let entry = manifest.entry.as_deref().unwrap_or_default();
    ctx.natives
        .get(entry.strip_prefix("builtin:").unwrap_or(entry))
}

/// An agent whose tasks are calls of a registered service: the input is what it is called with, the answer the output.
struct ServiceAgent {
    ctx: Arc<Context>,
    agent: AgentId,
    call: RegisteredCall,
}

#[async_trait]
impl NativeBehaviour for ServiceAgent {
    async fn on_task(&self, _action: &str, _input: &Value) -> Result<Value, Failure> {
        Err(Failure::new(
            FailureClass::Refusal,
            "a service is called for a task that has an id",
        ))
    }

    async fn on_keyed(
        &self,
        task: &TaskId,
        _action: &str,
        input: &Value,
    ) -> Result<Value, Failure> {
        let Some(registry) = self.ctx.desk.registry() else {
            return Err(Failure::new(FailureClass::Unavailable, "meshd is starting"));
        };
        let ask = Ask {
            service: self.call.id.clone(),
            endpoint: self.call.endpoint.clone(),
            params: input.clone(),
            // The same for each attempt: a service that gets it twice can tell.
            key: task.as_str().to_owned(),
            by: format!("agent:{}", self.agent),
            limit: None,
            patience: Patience::Waits,
        };
        let called = service_call(&self.ctx, &registry, ask);
        let called = working_on(Some(task.clone()), None, None, called).await;
        match called {
            Ok(reply) => Ok(reply.output),
            Err(fault) => Err(fault.failure()),
        }
    }
}

/// The behaviours that a binary brings, by name.
#[derive(Clone, Default)]
pub struct NativeAgents(BTreeMap<String, Arc<dyn NativeBehaviour>>);

impl NativeAgents {
    /// Adds one.
    #[must_use]
    pub fn with(mut self, name: &str, behaviour: Arc<dyn NativeBehaviour>) -> Self {
        self.0.insert(name.to_owned(), behaviour);
        self
    }
    /// The behaviour of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<dyn NativeBehaviour>> {
        self.0.get(name).cloned()
    }
}

impl std::fmt::Debug for NativeAgents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
