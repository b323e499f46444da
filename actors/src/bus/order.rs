//! Messages that become tasks.

use std::time::Duration;

use serde_json::json;

use mesh_actors_core::bus::{Destination, Presence, Snapshot};
use mesh_messages::AgentId;
use mesh_messages::klp::{Envelope, ErrorCode, MessageType, TaskRequest};
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::Caller;
use mesh_messages::task::TaskSpec;

use super::BusHandle;
use super::answer::{Answer, Asked, reply_to};
use super::check::{refusal, unreadable};
use super::outside::{TaskAnswer, TaskOrder};
use super::route::find;

/// How long a sender waits for a task, unless it says less; then it gets a receipt that names the task.
const TASK_WAIT: Duration = Duration::from_mins(1);

/// Label under which a task bears the `task_id` of the message that it came from.
const LABEL: &str = "klp.task_id";

/// Has a task done, and answers with its result if it comes in time.
pub(super) async fn task(
    bus: &BusHandle,
    caller: &Caller,
    envelope: &Envelope,
    asked: &Asked,
) -> Result<Answer, Problem> {
    let request: TaskRequest = envelope.payload_as().map_err(unreadable)?;
    let snapshot = bus.outside.directory.snapshot();
    let destination = find(bus, &snapshot, &caller.name, envelope).await?;
    let (requirements, only) = match &request.approval {
        // It goes to a person, whatever its address.
        Some(_) => (request.requirements.clone(), None),
        None => requirements(&snapshot, &request, destination)?,
    };
    let left = asked
        .left
        .map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
    let deadline_ms = request.deadline_ms.into_iter().chain(left).min();
    let spec = TaskSpec {
        kind: request.action,
        requirements,
        input: request.input,
        priority: envelope.priority,
        deadline_ms,
        timeout_ms: request.timeout_ms,
        approval: request.approval,
        budget: request.budget,
        claims: request.claims,
        trust: request.trust,
        escalate: request.escalate,
        labels: envelope
            .task_id
            .iter()
            .map(|id| (LABEL.to_owned(), id.to_string()))
            .collect(),
        idempotency_key: Some(format!("klp:{}", envelope.id)),
        ..TaskSpec::default()
    };
    let wait = asked.wait(TASK_WAIT);
    let wait = deadline_ms.map_or(wait, |ms| wait.min(Duration::from_millis(ms)));
    let order = TaskOrder {
        caller: caller.clone(),
        spec,
        only,
        wait,
        envelope: bus.own_word(envelope),
    };
    match bus.outside.tasks.submit_and_wait(order).await? {
        TaskAnswer::Running(task) => Ok(asked.receipt("running", json!({"taskId": task.as_str()}))),
        TaskAnswer::Ended(task, result) => {
            let payload =
                serde_json::to_value(result).map_err(|e| Problem::internal(e.to_string()))?;
            let mut reply = reply_to(bus, envelope, MessageType::TaskResult, payload);
            // Its sender knows the task by the name that it gave; the mesh knows it by its own.
            reply.context = Some(json!({"taskId": task.as_str()}));
            reply.task_id = Some(envelope.task_id.clone().unwrap_or(task));
            bus.node.sign(&mut reply);
            Ok(Answer::Reply(Box::new(reply)))
        }
    }
}

/// What the task needs, and whether only one agent may get it.
///
/// Addressed to an agent by name, it is that agent's, which knows its actions: where the task says nothing, whatever the
/// agent can do will do. Addressed by capability, it needs that capability.
fn requirements(
    snapshot: &Snapshot,
    request: &TaskRequest,
    destination: Destination,
) -> Result<(Vec<String>, Option<AgentId>), Problem> {
    let mut needs = request.requirements.clone();
    match destination {
        Destination::Agent {
            id,
            presence: Presence::Gone,
            ..
        } => {
            let detail = format!("agent {id} was terminated and receives nothing");
            Err(Problem::new(ProblemKind::Conflict, "agent_terminated", detail).field("to"))
        }
        Destination::Agent {
            capability: Some(capability),
            ..
        } => {
            if !needs.contains(&capability) {
                needs.push(capability);
            }
            Ok((needs, None))
        }
        Destination::Agent {
            id,
            capability: None,
            ..
        } => {
            let can = snapshot
                .agents
                .get(&id)
                .map(|entry| &*entry.capabilities)
                .unwrap_or_default();
            if needs.is_empty()
                && !request
                    .action
                    .as_ref()
                    .is_some_and(|action| can.contains(action))
            {
                needs.extend(can.first().cloned());
            }
            Ok((needs, Some(id)))
        }
        Destination::Node => Ok((needs, None)),
        Destination::Person | Destination::Topic(_) => {
            let detail = "a task goes to an agent, a role or a node";
            Err(refusal(ErrorCode::Unexpected, "to", detail))
        }
    }
}
