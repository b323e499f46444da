//! What led to what, and how things stood: the log read backwards.

use mesh_actors::operations::{PastAbout, TraceFrom};
use mesh_messages::system::{AuditTrace, PastAt, PastState};
use mesh_messages::{AgentId, Position, TaskId};

use crate::problem::Answer;
use crate::query::{CURSOR, LIMIT, Param, Shape, invalid};
use crate::route::{Call, Route, ok};
use crate::withheld::withhold;

const POSITION: Param = Param {
    name: "position",
    about: "The record to begin at.",
    shape: Shape::Integer(0, u64::MAX),
};
const TRACED: Param = Param {
    name: "task",
    about: "Instead: begin at the first record of this task.",
    shape: Shape::of::<TaskId>(),
};
const AT: Param = Param {
    name: "at",
    about: "The position of the last record to take in, or a date and time: the last one until then.",
    shape: Shape::Text,
};
const TASK: Param = Param {
    name: "task",
    about: "How this task stood.",
    shape: Shape::of::<TaskId>(),
};
const AGENT: Param = Param {
    name: "agent",
    about: "How this agent stood.",
    shape: Shape::of::<AgentId>(),
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/audit/trace",
            "traceAudit",
            "Shows what led to a record, and what it led to",
            trace,
        )
        .query(&[POSITION, TRACED])
        .answers::<AuditTrace>(200, "The way to it, the record, and all that came of it.")
        .refuses(&[404]),
        Route::get(
            "/v1/audit/state",
            "getPastState",
            "Shows how a task, an agent or all tasks stood when the log had got to a record",
            state,
        )
        .query(&[AT, TASK, AGENT, LIMIT, CURSOR])
        .answers::<PastState>(
            200,
            "The task or the agent; without either, a page of at most 200 tasks, oldest first.",
        )
        .refuses(&[404, 422]),
    ]
}

async fn trace(call: Call) -> Answer {
    let from = match (call.query.integer(&POSITION)?, call.query.read(&TRACED)?) {
        (Some(position), None) => TraceFrom::Record(Position(position)),
        (None, Some(task)) => TraceFrom::Task(task),
        _ => return Err(invalid(POSITION.name, "expected either position or task")),
    };
    let mut trace = call.ops().audit_trace(from).await?;
    let around = trace.causes.iter_mut().chain(&mut trace.effects);
    withhold(call.ops(), &call.caller, around.chain([&mut trace.record]));
    ok(&trace)
}

async fn state(call: Call) -> Answer {
    let at: PastAt = call
        .query
        .text(&AT)
        .unwrap_or_default()
        .parse()
        .map_err(|error| invalid(AT.name, error))?;
    let page = call.query.page()?;
    let about = match (call.query.read(&TASK)?, call.query.read(&AGENT)?) {
        (Some(task), None) => PastAbout::Task(task),
        (None, Some(agent)) => PastAbout::Agent(agent),
        (None, None) => {
            let after = page.cursor.map(|cursor| cursor.parse().map(Position));
            let after = after.transpose();
            PastAbout::Tasks {
                after: after.map_err(|_| invalid(CURSOR.name, "expected a nextCursor"))?,
                limit: page.limit,
            }
        }
        (Some(_), Some(_)) => return Err(invalid(AGENT.name, "expected task or agent, not both")),
    };
    ok(&call.ops().past_state(at, about).await?)
}
