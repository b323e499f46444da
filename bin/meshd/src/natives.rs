//! Agents compiled into meshd. They have no sandbox and no process: what is measured with them is meshd alone.

use std::sync::Arc;

use async_trait::async_trait;
use mesh_actors::agents::native::{NativeAgents, NativeBehaviour};
use mesh_messages::Failure;
use serde_json::Value;

/// Answers with its input.
#[derive(Debug)]
struct Echo;

#[async_trait]
impl NativeBehaviour for Echo {
    async fn on_task(&self, _action: &str, input: &Value) -> Result<Value, Failure> {
        Ok(input.clone())
    }
}

/// All of them: `runtime.kind: native` with `entry: builtin:<name>` in a manifest.
pub(crate) fn all() -> NativeAgents {
    NativeAgents::default().with("echo", Arc::new(Echo))
}
