//! Which permission of an agent's manifest something needs: the counterpart of `mesh_messages::manifest::permission`.
//!
//! What is missing here needs none. Hands that are shaken, answers to what an agent was asked, and news of how its work
//! goes are talk with meshd itself.

use mesh_messages::access::{AccessVerb, TaskFacts};
use mesh_messages::address::Address;
use mesh_messages::klp::{
    CapabilityQuery, ClaimOp, ClaimOpKind, Envelope, MemoryOp, MemoryOpKind, MessageType, Publish,
    Subscribe, TaskRequest,
};
use mesh_messages::manifest::{Action, Need, ResourceKind};
use mesh_messages::task::TaskSpec;

/// What a line of an agent, or a message that it posts, needs. One that cannot be read needs nothing: it is refused for
/// what it is.
#[must_use]
pub fn of_message(envelope: &Envelope) -> Vec<Need> {
    match envelope.kind {
        MessageType::Memory => memory(envelope),
        MessageType::Claim => {
            let op = envelope.payload_as::<ClaimOp>().ok();
            // What it holds it may keep and give back.
            let taken = op.filter(|op| op.op == ClaimOpKind::Acquire);
            let need = |op: ClaimOp| Need::new(ResourceKind::Claim, Action::Write, op.resource);
            taken.map(need).into_iter().collect()
        }
        MessageType::TaskRequest => envelope
            .payload_as::<TaskRequest>()
            .map(|task| asked(task).iter().flat_map(of_task).collect())
            .unwrap_or_default(),
        MessageType::Message | MessageType::StatusUpdate => addressed(&envelope.to),
        MessageType::Publish => {
            let asked = envelope.payload_as::<Publish>().ok();
            asked
                .map(|asked| topic(Action::Write, asked.topic.as_str()))
                .into_iter()
                .collect()
        }
        MessageType::Subscribe => {
            let asked = envelope.payload_as::<Subscribe>().ok();
            asked
                .map(|asked| topic(Action::Read, asked.topic.as_str()))
                .into_iter()
                .collect()
        }
        MessageType::CapabilityQuery => {
            let asked: CapabilityQuery = envelope.payload_as().unwrap_or_default();
            let look = |name: String| Need::new(ResourceKind::Capability, Action::Read, name);
            if asked.capabilities.is_empty() {
                vec![look("*".to_owned())]
            } else {
                asked.capabilities.into_iter().map(look).collect()
            }
        }
        MessageType::Handshake
        | MessageType::TaskResult
        | MessageType::CapabilityReply
        | MessageType::SecurityAlert
        | MessageType::Ack
        | MessageType::Control
        | MessageType::Error => Vec::new(),
    }
}

/// What giving this task to somebody needs: the capabilities, and what it claims.
#[must_use]
pub fn of_task(task: &TaskFacts) -> Vec<Need> {
    let give = |name: &String| Need::new(ResourceKind::Capability, Action::Execute, name);
    let take = |resource: &String| Need::new(ResourceKind::Claim, Action::Write, resource);
    let claims = task.claims.iter().map(take);
    if task.needs.is_empty() {
        std::iter::once(give(&task.kind)).chain(claims).collect()
    } else {
        task.needs.iter().map(give).chain(claims).collect()
    }
}

/// What an action over HTTP needs, with the agent's own token: to be let in at the door. What it is about is asked for
/// behind it.
#[must_use]
pub fn of_action(verb: AccessVerb) -> Need {
    let action = match verb {
        AccessVerb::Read | AccessVerb::MessageReceive => Action::Read,
        AccessVerb::TaskSubmit
        | AccessVerb::ServiceCall
        | AccessVerb::Chaos
        | AccessVerb::Backup => Action::Execute,
        AccessVerb::Erase => Action::Delete,
        AccessVerb::TaskControl
        | AccessVerb::InboxAnswer
        | AccessVerb::MessageSend
        | AccessVerb::BusControl
        | AccessVerb::AgentRegister
        | AccessVerb::AgentControl
        | AccessVerb::AgentGovern
        | AccessVerb::Memory
        | AccessVerb::Tokens
        | AccessVerb::Keys
        | AccessVerb::Secrets
        | AccessVerb::Services
        | AccessVerb::Policy
        | AccessVerb::Governance => Action::Write,
    };
    Need::new(ResourceKind::Api, action, verb.name())
}

fn memory(envelope: &Envelope) -> Vec<Need> {
    let Ok(op) = envelope.payload_as::<MemoryOp>() else {
        return Vec::new();
    };
    let key = op.key.unwrap_or_default();
    let (action, subject) = match op.op {
        MemoryOpKind::Get => (Action::Read, key),
        // All keys that begin so.
        MemoryOpKind::List => (Action::Read, format!("{key}*")),
        MemoryOpKind::Set | MemoryOpKind::Once => (Action::Write, key),
        MemoryOpKind::Delete => (Action::Delete, key),
    };
    let own = envelope.from == envelope.to || !matches!(envelope.to, Address::Agent { .. });
    let mut needs = vec![Need::new(ResourceKind::Memory, action, subject)];
    if let (false, Address::Agent { id, .. }) = (own, &envelope.to) {
        needs.push(Need::new(ResourceKind::Agent, action, id.as_str()));
    }
    needs
}

fn addressed(to: &Address) -> Vec<Need> {
    vec![match to {
        Address::Node(_) => return Vec::new(),
        Address::Topic(name) => topic(Action::Write, name.as_str()),
        Address::Agent { id, .. } => Need::new(ResourceKind::Agent, Action::Write, id.as_str()),
        Address::Role { role, name } if &**role == "agent" => {
            // A replica is its agent.
            let id = name.split('#').next().unwrap_or_default();
            Need::new(ResourceKind::Agent, Action::Write, id)
        }
        other => Need::new(ResourceKind::Agent, Action::Write, other.to_string()),
    }]
}

fn topic(action: Action, name: &str) -> Need {
    Need::new(ResourceKind::Topic, action, name)
}

/// The task that a delegation asks for, and those that it leads to.
fn asked(task: TaskRequest) -> Vec<TaskFacts> {
    TaskFacts::all_of(&TaskSpec {
        kind: task.action,
        requirements: task.requirements,
        approval: task.approval,
        escalate: task.escalate,
        claims: task.claims,
        ..TaskSpec::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use mesh_messages::klp::Defaults;

    use super::*;

    fn needs(kind: &str, to: &str, payload: &Value) -> Vec<String> {
        let line = json!({
            "v": 1, "id": "1", "type": kind, "from": "kai://agent.me", "to": to, "payload": payload,
            "timestamp": "2026-01-01T00:00:00Z",
        });
        let envelope = mesh_messages::klp::decode(line, &Defaults::default()).unwrap();
        let show = |need: &Need| {
            need.to_string()
                .trim_start_matches("permission ")
                .to_owned()
        };
        of_message(&envelope).iter().map(show).collect()
    }

    #[test]
    fn each_line_needs_what_the_table_says() {
        let node = "kai://node.here";
        for (kind, to, payload, expected) in [
            (
                "MEMORY",
                node,
                json!({"op": "get", "key": "a"}),
                &["memory:read (a)"][..],
            ),
            (
                "MEMORY",
                node,
                json!({"op": "list", "key": "a/"}),
                &["memory:read (a/*)"],
            ),
            ("MEMORY", node, json!({"op": "list"}), &["memory:read (*)"]),
            (
                "MEMORY",
                node,
                json!({"op": "set", "key": "a", "value": 1}),
                &["memory:write (a)"],
            ),
            (
                "MEMORY",
                node,
                json!({"op": "once", "key": "a", "value": 1}),
                &["memory:write (a)"],
            ),
            (
                "MEMORY",
                node,
                json!({"op": "delete", "key": "a"}),
                &["memory:delete (a)"],
            ),
            (
                "MEMORY",
                "kai://agent.you",
                json!({"op": "get", "key": "a"}),
                &["memory:read (a)", "agent:read (you)"],
            ),
            (
                "MEMORY",
                "kai://agent.me",
                json!({"op": "get", "key": "a"}),
                &["memory:read (a)"],
            ),
            ("MEMORY", node, json!({"op": "frob"}), &[]),
            (
                "CLAIM",
                node,
                json!({"op": "acquire", "resource": "port:80"}),
                &["claim:write (port:80)"],
            ),
            (
                "CLAIM",
                node,
                json!({"op": "release", "resource": "port:80"}),
                &[],
            ),
            (
                "TASK_REQUEST",
                node,
                json!({"action": "scrape", "requirements": ["web", "pdf"]}),
                &["capability:execute (web)", "capability:execute (pdf)"],
            ),
            (
                "TASK_REQUEST",
                node,
                json!({"requirements": ["web"]}),
                &["capability:execute (web)"],
            ),
            (
                "TASK_REQUEST",
                node,
                json!({
                    "requirements": ["web"], "input": 1, "claims": [{"resource": "port:80"}],
                    "escalate": [{"requirements": ["pdf"]}, {"person": "admin"}],
                }),
                &[
                    "capability:execute (web)",
                    "claim:write (port:80)",
                    "capability:execute (pdf)",
                ],
            ),
            (
                "TASK_REQUEST",
                node,
                json!({"approval": {"message": "go on?"}}),
                &["capability:execute (approval)"],
            ),
            (
                "MESSAGE",
                "kai://agent.you",
                json!({}),
                &["agent:write (you)"],
            ),
            ("MESSAGE", node, json!({}), &[]),
            (
                "STATUS_UPDATE",
                "kai://agent.you",
                json!({}),
                &["agent:write (you)"],
            ),
            ("MESSAGE", "agent:you", json!({}), &["agent:write (you)"]),
            ("MESSAGE", "agent:you#1", json!({}), &["agent:write (you)"]),
            (
                "MESSAGE",
                "kPlanner:research",
                json!({}),
                &["agent:write (kPlanner:research)"],
            ),
            ("MESSAGE", "topic://a.b", json!({}), &["topic:write (a.b)"]),
            (
                "PUBLISH",
                node,
                json!({"topic": "a.b"}),
                &["topic:write (a.b)"],
            ),
            (
                "SUBSCRIBE",
                node,
                json!({"topic": "a.*"}),
                &["topic:read (a.*)"],
            ),
            (
                "CAPABILITY_QUERY",
                node,
                json!({}),
                &["capability:read (*)"],
            ),
            (
                "CAPABILITY_QUERY",
                node,
                json!({"capabilities": ["web"]}),
                &["capability:read (web)"],
            ),
            ("STATUS_UPDATE", node, json!({"progress": 0.5}), &[]),
            ("TASK_RESULT", node, json!({"status": "done"}), &[]),
            ("SECURITY_ALERT", node, json!({}), &[]),
        ] {
            assert_eq!(needs(kind, to, &payload), expected, "{kind} {to} {payload}");
        }
    }

    #[test]
    fn every_action_over_http_needs_one_that_its_kind_knows() {
        for verb in AccessVerb::ALL {
            let need = of_action(verb);
            assert_eq!(
                (need.kind, need.subject.as_str()),
                (ResourceKind::Api, verb.name())
            );
        }
    }
}
