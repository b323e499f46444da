//! Who may say what is run to check a task's result.

use mesh_messages::problem::Problem;
use mesh_messages::system::Caller;
use mesh_messages::task::{TaskContract, TaskSpec};
use serde_json::Value;

use super::Mesh;
use crate::operations::Action;

/// What is asked for, in the audit.
const RESOURCE: &str = "contract.checks";

impl Mesh {
    /// A check's command runs in the sandbox of whoever does the work: which code runs there is for an admin to say.
    ///
    /// # Errors
    /// `forbidden`.
    pub(super) async fn may_check(
        &self,
        caller: &Caller,
        specs: &[TaskSpec],
    ) -> Result<(), Problem> {
        let commands = |contract: &TaskContract| {
            let mut checks = contract.checks.iter();
            checks.any(|check| !check.command.is_empty())
        };
        let mut contracts = specs.iter().filter_map(|spec| spec.contract.as_ref());
        if contracts.any(commands) {
            return self.may_say_commands(caller).await;
        }
        Ok(())
    }

    /// The same for the steps of a document, those of documents inside it included.
    ///
    /// # Errors
    /// `forbidden`.
    pub(super) async fn may_check_in(
        &self,
        caller: &Caller,
        document: &Value,
    ) -> Result<(), Problem> {
        if has_commands(document) {
            return self.may_say_commands(caller).await;
        }
        Ok(())
    }

    async fn may_say_commands(&self, caller: &Caller) -> Result<(), Problem> {
        let action = Action::AgentGovern;
        self.sentinel.authorize(caller, action, RESOURCE).await
    }
}

/// Whether any part of a document is a contract whose checks have commands. It has been read as JSON, so it is not deep.
fn has_commands(part: &Value) -> bool {
    match part {
        Value::Array(parts) => parts.iter().any(has_commands),
        Value::Object(fields) => {
            let checks = fields.get("contract").and_then(|c| c.get("checks"));
            let mut checks = checks.and_then(Value::as_array).into_iter().flatten();
            checks.any(|check| check.get("command").is_some()) || fields.values().any(has_commands)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn commands_are_found_in_every_step_however_deep() {
        let check = json!({"name": "c", "command": ["true"]});
        let step = json!({"id": "a", "contract": {"checks": [check]}});
        for document in [
            json!({"steps": [step]}),
            json!({"steps": [{"id": "l", "workflow": {"steps": [{"id": "b"}, step]}}]}),
        ] {
            assert!(has_commands(&document));
        }
        let asks = json!({"name": "c", "requirements": ["review"]});
        let step = json!({"id": "a", "contract": {"checks": [asks]}, "input": {"command": ["x"]}});
        assert!(!has_commands(&json!({"steps": [step]})));
    }
}
