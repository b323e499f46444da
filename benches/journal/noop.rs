//! The agents that do nothing: one in this process, one in a process of its own.

use std::io::{self, BufRead as _, Write as _};

use async_trait::async_trait;
use mesh_actors::agents::native::NativeBehaviour;
use mesh_messages::Failure;
use serde_json::{Value, json};

/// Says that this program is to be the agent.
pub(crate) const AGENT: &str = "--noop-agent";

/// The one in this process.
#[derive(Debug)]
pub(crate) struct Noop;

#[async_trait]
impl NativeBehaviour for Noop {
    async fn on_task(&self, _action: &str, _input: &Value) -> Result<Value, Failure> {
        Ok(Value::Null)
    }
}

/// Whether this program is to be the agent.
pub(crate) fn is_agent() -> bool {
    std::env::args().nth(1).as_deref() == Some(AGENT)
}

/// Is the agent, until its input ends.
pub(crate) fn run_agent() -> io::Result<()> {
    let mut out = io::stdout().lock();
    let hello = json!({"type": "HANDSHAKE", "payload": {
        "name": "noop", "version": "1.0.0", "capabilities": ["noop"]
    }});
    writeln!(out, "{hello}")?;
    out.flush()?;
    for line in io::stdin().lock().lines() {
        let line: Value = serde_json::from_str(&line?)?;
        if line["type"] == "TASK_REQUEST" {
            let done = json!({
                "type": "TASK_RESULT", "task_id": line["task_id"],
                "payload": {"ok": true, "output": null}
            });
            writeln!(out, "{done}")?;
            out.flush()?;
        } else if line["payload"]["verb"] == "shutdown" {
            return Ok(());
        }
    }
    Ok(())
}
