//! Lines that cannot be acted upon: each is answered and counted, and may end the attempt that it was about.

use serde_json::{Value, json};

use mesh_messages::address::Address;
use mesh_messages::klp::{ControlVerb, Envelope, ErrorCode, KlpError, MessageType};
use mesh_messages::{AgentId, Failure, FailureClass, TaskId};

use super::session::problem;
use super::{BAD_LINES_MAX, Session};
use crate::agents::agent::AgentMessage;
use crate::agents::lines::LINE_MAX;

impl Session {
    /// Answers a line that cannot be acted upon, and counts it.
    pub(super) fn refuse(&mut self, in_reply_to: Option<String>, problem: &KlpError) {
        self.refused(in_reply_to, problem, false);
    }

    /// The same for one that may be on record.
    pub(super) fn refused(
        &mut self,
        in_reply_to: Option<String>,
        problem: &KlpError,
        recorded: bool,
    ) {
        self.bad_lines += 1;
        self.args.live.refused();
        self.args.ctx.metrics.refused("agent_line");
        if !recorded {
            let services = &self.args.services;
            services.line_refused(&self.args.agent, &problem.code);
        }
        if self.bad_lines > BAD_LINES_MAX {
            let text =
                format!("flooded meshd with more than {BAD_LINES_MAX} lines that it had to refuse");
            return self.kill(Some(Failure::new(FailureClass::Resource, text)));
        }
        let payload = serde_json::to_value(problem).unwrap_or_default();
        let mut envelope = self.message(MessageType::Error, payload.clone());
        envelope.in_reply_to = in_reply_to;
        self.send(&envelope);
        self.hook_error(None, payload);
    }

    /// Tells an agent that wants to know by its `error` hook that something of its own failed.
    pub(super) fn hook_error(&mut self, task: Option<TaskId>, args: Value) {
        if self.hooks.contains(&ControlVerb::Error) {
            self.control(ControlVerb::Error, args, task, None);
        }
    }

    /// The channel says who speaks; whoever says otherwise forges, and nothing it says counts from here on.
    ///
    /// True when the line is a forgery.
    pub(super) fn is_forged(&mut self, envelope: &Envelope) -> bool {
        if speaks_for_itself(&self.args.agent, &envelope.from) {
            return false;
        }
        self.violated(&format!(
            "forged its sender: it speaks in the name of {}",
            envelope.from
        ));
        true
    }

    /// It did what nobody does by accident: it is isolated, and ended.
    pub(super) fn violated(&mut self, description: &str) {
        self.args.live.refused();
        self.args.ctx.metrics.refused("forged_sender");
        // Said before its end, so that it is isolated before its attempts are tried elsewhere.
        let _owner_gone = self.args.owner.cast(AgentMessage::Violation {
            epoch: self.args.epoch,
            description: description.to_owned(),
        });
        self.kill(Some(Failure::new(FailureClass::Policy, description)));
    }

    /// A line beyond the limit was passed over; `ends` are its first and its last bytes.
    pub(super) fn too_long(&mut self, ends: &[u8]) {
        let detail = format!("a line has at most {LINE_MAX} bytes");
        self.unreadable_result(ends, &detail);
        self.refuse(None, &problem(ErrorCode::TooLarge, None, detail));
    }

    /// A result that cannot be read as an envelope still ends its attempt, if its task is beyond doubt: else the task
    /// would wait for its timeout, although its agent is done with it.
    pub(super) fn unreadable_result(&mut self, line: &[u8], why: &str) {
        let lenient: Option<Value> = serde_json::from_slice(line).ok();
        let task = match &lenient {
            Some(value) if value["type"] != "TASK_RESULT" => return,
            Some(value) => value["task_id"].as_str().and_then(|t| TaskId::new(t).ok()),
            None if !contains(line, b"\"TASK_RESULT\"") => return,
            None => None,
        };
        let task = task.or_else(|| self.only_task_meant_by(line));
        if let Some(task) = task.filter(|task| self.flights.contains_key(task)) {
            let text = format!("its TASK_RESULT is malformed: {why}");
            self.land(&task, Err(Failure::new(FailureClass::Contract, text)));
        }
    }

    /// The one task in hand, unless the line names another.
    fn only_task_meant_by(&self, line: &[u8]) -> Option<TaskId> {
        let task = self.only_task()?;
        let named = contains(line, format!("\"{task}\"").as_bytes());
        (named || !contains(line, b"\"task_id\"")).then_some(task)
    }

    /// The task in hand, if it is the only one.
    pub(super) fn only_task(&self) -> Option<TaskId> {
        let mut tasks = self.flights.keys();
        tasks.next().filter(|_| tasks.next().is_none()).cloned()
    }
}

/// A result without its task.
pub(super) fn nameless() -> (Failure, KlpError) {
    let text = "Missing required field: task_id";
    (
        Failure::new(
            FailureClass::Contract,
            format!("its TASK_RESULT is malformed: {text}"),
        ),
        problem(ErrorCode::MissingField, Some("task_id"), text.to_owned()),
    )
}

/// What the `error` hook is told of a failure.
pub(super) fn told(failure: &Failure) -> Value {
    json!({"class": failure.class.name(), "message": failure.message})
}

/// Whether an address is the agent's own, in whichever form, or that of one of its instances.
fn speaks_for_itself(agent: &AgentId, from: &Address) -> bool {
    match from {
        Address::Agent { id, .. } => id == agent,
        Address::Role { role, name } => {
            let name = name.split_once('#').map_or(&**name, |(name, _)| name);
            &**role == "agent" && name == agent.as_str()
        }
        Address::Kai(_) | Address::Node(_) | Address::Topic(_) | Address::Policy(_) => false,
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_speaks_for_itself_and_its_instances_only() {
        let agent = AgentId::new("other").unwrap();
        for (from, own) in [
            ("kai://agent.other", true),
            ("agent:other", true),
            ("agent:other#2", true),
            ("kai://agent.webscraper", false),
            ("agent:webscraper", false),
            ("user:ada", false),
            ("user:other", false),
        ] {
            let from: Address = from.parse().unwrap();
            assert_eq!(speaks_for_itself(&agent, &from), own, "{from}");
        }
    }
}
