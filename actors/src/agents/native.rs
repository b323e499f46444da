//! Agents compiled into meshd: trusted, in its own process, without a sandbox.
//!
//! They exist for what must be as fast as the journal, and for tests. A manifest names one by `runtime.kind: native` and
//! `entry: builtin:<name>`; only names that the binary brings are accepted.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use mesh_messages::Failure;

/// A behaviour compiled into meshd.
#[async_trait]
pub trait NativeBehaviour: Send + Sync + 'static {
    /// Does a task. A panic ends the instance as a crash; dropping the future cancels the task.
    ///
    /// # Errors
    /// The failure that ends the attempt.
    async fn on_task(&self, action: &str, input: &Value) -> Result<Value, Failure>;
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
