//! Agents compiled into meshd: trusted, in its own process, without a sandbox.
//!
//! They exist for what must be as fast as the journal, and for tests. A manifest names one by `runtime.kind: native` and
//! `entry: builtin:<name>`; only names that the binary brings are accepted.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use mesh_messages::Failure;
use mesh_messages::claim::TaskClaim;

/// A behaviour compiled into meshd.
#[async_trait]
pub trait NativeBehaviour: Send + Sync + 'static {
    /// Does a task. A panic ends the instance as a crash; dropping the future cancels the task.
    ///
    /// # Errors
    /// The failure that ends the attempt.
    async fn on_task(&self, action: &str, input: &Value) -> Result<Value, Failure>;

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
