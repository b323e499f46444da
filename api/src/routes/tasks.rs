//! Tasks, the board, and messages.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use mesh_actors::operations::{Action, OutcomeReport, TaskFilter};
use mesh_messages::agent::Page;
use mesh_messages::inbox::{ANSWER_BYTES_MAX, InboxAnswer};
use mesh_messages::split::SplitOrder;
use mesh_messages::system::{AuditEntry, Board};
use mesh_messages::task::{
    TASKS_PER_SUBMIT_MAX, Task, TaskExplanation, TaskReceipt, TaskSpec, TaskState,
};
use mesh_messages::units::Span;
use mesh_messages::{AgentId, TaskId};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Nothing;
use crate::decode;
use crate::problem::{Answer, Refusal};
use crate::query::{CURSOR, LIMIT, Param, Shape, invalid};
use crate::route::{BodySize, Call, Route, json, ok};
use crate::withheld::withhold;

/// Longest `?wait=`. Proxies and clients give up on silent connections about then; who needs longer asks again.
pub const WAIT_MAX: Duration = Duration::from_mins(10);

pub(crate) const WAIT: Param = Param {
    name: "wait",
    about: "How long to wait for the end of the task: seconds, or with a unit such as 500ms or 2m; at most 10m.",
    shape: Shape::Typed(wait_schema),
};
const STATE: Param = Param {
    name: "state",
    about: "Only tasks in this state.",
    shape: Shape::of::<TaskState>(),
};
const KIND: Param = Param {
    name: "type",
    about: "Only tasks of this type.",
    shape: Shape::Text,
};
const AGENT: Param = Param {
    name: "agent",
    about: "Only tasks last assigned to this agent.",
    shape: Shape::of::<AgentId>(),
};
const COLUMN: Param = Param {
    name: "column",
    about: "Only tasks in this column of the board.",
    shape: Shape::OneOf(&COLUMNS),
};
const CARDS: Param = Param {
    name: "cards",
    about: "Cards per column, at most; 100 when absent.",
    shape: Shape::Integer(0, 1000),
};
const IDEMPOTENCY_KEY: Param = Param {
    name: "Idempotency-Key",
    about: "The same as `idempotencyKey` in the body. For a single task only.",
    shape: Shape::Text,
};

/// The columns of the board.
const COLUMNS: [&str; 6] = [
    "Backlog",
    "Ready",
    "In progress",
    "Review",
    "Blocked",
    "Done",
];
/// Cards per column when the caller names no number.
const CARDS_DEFAULT: usize = 100;

/// The body of a submission.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(
    dead_code,
    clippy::large_enum_variant,
    reason = "only its schema is used: the body is read as one or the other, for better errors"
)]
enum Submission {
    /// One task.
    One(TaskSpec),
    /// Up to 1000 tasks, all of them or none.
    Many(#[schemars(length(min = 1, max = 1000))] Vec<TaskSpec>),
}

/// The body of `cancel`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CancelOrder {
    /// Why; it stays with the task.
    #[serde(default)]
    pub(super) reason: Option<String>,
}

/// The body of `approve`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ApproveOrder {
    /// Whether it is approved; true when absent.
    #[serde(default = "yes")]
    approve: bool,
    /// The answer, when the task asks a question.
    #[serde(default)]
    #[schemars(length(max = ANSWER_BYTES_MAX))]
    answer: Option<String>,
    /// In words; it stays with the task.
    #[serde(default)]
    #[schemars(length(max = ANSWER_BYTES_MAX))]
    comment: Option<String>,
}

fn yes() -> bool {
    true
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/v1/tasks", "submitTasks", "Submits a task, or an array of them: all or none", submit)
            .needs(Action::TaskSubmit)
            .query(&[WAIT])
            .headers(&[IDEMPOTENCY_KEY])
            .takes::<Submission>(BodySize::Json)
            .answers::<TaskReceipt>(202, "Accepted, and durable. For an array: an array.")
            .answers::<Vec<TaskReceipt>>(202, "Accepted.")
            .answers::<Task>(200, "Ended within the wait, or submitted before under the same key. For an array: an array.")
            .answers::<Vec<Task>>(200, "Ended.")
            .refuses(&[409]),
        Route::get("/v1/tasks", "listTasks", "Lists tasks, newest first", list)
            .query(&[STATE, KIND, AGENT, COLUMN, LIMIT, CURSOR])
            .answers::<Page<Task>>(200, "A page of tasks."),
        Route::get("/v1/tasks/{id}", "getTask", "Shows a task", show)
            .query(&[WAIT])
            .answers::<Task>(200, "The task: as it is, or with a wait, once it has ended or the wait is over."),
        Route::post("/v1/tasks/{id}/cancel", "cancelTask", "Ends a task", cancel)
            .needs(Action::TaskControl)
            .may_take::<CancelOrder>()
            .answers::<Task>(200, "The task afterwards.")
            .refuses(&[409]),
        Route::post("/v1/tasks/{id}/retry", "retryTask", "Gives a failed task another round", retry)
            .needs(Action::TaskControl)
            .may_take::<Nothing>()
            .answers::<Task>(200, "The task afterwards.")
            .refuses(&[409]),
        Route::post("/v1/tasks/{id}/split", "splitTask", "Has a task that nobody has begun done as several", split)
            .needs(Action::TaskControl)
            .takes::<SplitOrder>(BodySize::Json)
            .answers::<Task>(200, "The task afterwards: blocked until its parts have succeeded.")
            .refuses(&[409]),
        Route::post("/v1/tasks/{id}/outcome", "reportOutcome", "Reports the outcome of an attempt", outcome)
            .needs(Action::TaskControl)
            .takes::<OutcomeReport>(BodySize::Json)
            .answers::<Task>(200, "The task afterwards.")
            .refuses(&[409]),
        Route::post("/v1/tasks/{id}/approve", "approveTask", "Approves or denies what a task asks a person", approve)
            .needs(Action::InboxAnswer)
            .may_take::<ApproveOrder>()
            .answers::<Task>(200, "The task afterwards: succeeded, or failed when it was denied.")
            .refuses(&[409]),
        Route::get("/v1/tasks/{id}/explain", "explainTask", "Why a task went where it went, or why it waits", explain)
            .answers::<TaskExplanation>(200, "Every candidate and every reason."),
        Route::get("/v1/tasks/{id}/events", "listTaskEvents", "A task's audit records", events)
            .query(&[LIMIT, CURSOR])
            .answers::<Page<AuditEntry>>(200, "A page of records, oldest first."),
        Route::get("/v1/board", "getBoard", "Tasks as a board", board)
            .query(&[CARDS])
            .answers::<Board>(200, "Columns and cards."),
        Route::post("/v1/messages", "sendMessage", "Sends one KLP envelope", send)
            .needs(Action::MessageSend)
            .takes::<Value>(BodySize::Envelope)
            .query(&[WAIT])
            .answers::<Value>(
                200,
                "The reply; or a receipt, `{accepted, id, status, …}`, where no reply is expected or none came in time.",
            )
            .refuses(&[404, 409]),
    ]
}

async fn submit(call: Call) -> Answer {
    let wait = wait(&call)?;
    let (specs, many) = specs(&call)?;
    let submitted = call.ops().submit_tasks(&call.caller, specs).await?;
    let ids: Vec<TaskId> = submitted
        .receipts
        .iter()
        .map(|receipt| receipt.id.clone())
        .collect();
    let mut receipts = submitted.receipts;
    if let Some(wait) = wait {
        let tasks = ended(&call, &ids, wait).await?;
        if submitted.replayed || tasks.iter().all(|task| task.state.is_terminal()) {
            return one_or_many(StatusCode::OK, many, &tasks);
        }
        receipts = tasks.into_iter().map(receipt).collect();
    } else if submitted.replayed {
        return one_or_many(
            StatusCode::OK,
            many,
            &ended(&call, &ids, Duration::ZERO).await?,
        );
    }
    let mut response = one_or_many(StatusCode::ACCEPTED, many, &receipts)?;
    if let [id] = &ids[..] {
        locate(&mut response, id);
    }
    Ok(response)
}

/// The tasks of a submission, and whether they came as an array.
fn specs(call: &Call) -> Result<(Vec<TaskSpec>, bool), Refusal> {
    let key = match call
        .headers
        .get(IDEMPOTENCY_KEY.name)
        .map(HeaderValue::to_str)
    {
        None => None,
        Some(Ok(key)) => Some(key),
        Some(Err(_)) => {
            let detail = "Idempotency-Key: expected visible ASCII characters";
            return Err(Refusal::new("invalid_header", detail).field(IDEMPOTENCY_KEY.name));
        }
    };
    let value = decode::value(&call.body)?;
    let Value::Array(items) = &value else {
        let mut spec: TaskSpec = decode::typed(value)?;
        match (&spec.idempotency_key, key) {
            (Some(field), Some(header)) if field != header => {
                let detail = format!("the header says \"{header}\", the body \"{field}\"");
                return Err(
                    Refusal::new("idempotency_key_mismatch", detail).field("idempotencyKey")
                );
            }
            (None, Some(header)) => spec.idempotency_key = Some(header.to_owned()),
            _ => {}
        }
        return Ok((vec![spec], false));
    };
    if key.is_some() {
        let detail = "give each task of an array an idempotencyKey of its own";
        return Err(Refusal::new("idempotency_key_for_array", detail).field(IDEMPOTENCY_KEY.name));
    }
    match items.len() {
        0 => Err(Refusal::new(
            "empty_submission",
            "expected at least one task",
        )),
        n if n > TASKS_PER_SUBMIT_MAX => Err(Refusal::new(
            "too_many_in_array",
            format!("{n} tasks; at most {TASKS_PER_SUBMIT_MAX} at once"),
        )),
        _ => Ok((decode::typed(value)?, true)),
    }
}

pub(super) fn wait(call: &Call) -> Result<Option<Duration>, Refusal> {
    let Some(text) = call.query.text(&WAIT) else {
        return Ok(None);
    };
    let bare = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let read: Result<Span, _> = if bare {
        format!("{text}s").parse()
    } else {
        text.parse()
    };
    match read.map(Span::duration) {
        Ok(wait) if wait > WAIT_MAX => Err(invalid(WAIT.name, "at most 10m; ask again after that")),
        Ok(wait) => Ok(Some(wait)),
        Err(_) => Err(invalid(
            WAIT.name,
            "expected seconds such as 10, or a duration such as 500ms, 30s or 2m",
        )),
    }
}

/// What `wait` may be: a duration, or a number, which counts seconds as numbers in URLs do elsewhere.
fn wait_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": r"^[0-9]{1,12}(\.[0-9]{1,3})?(ms|s|m|h|d)?$",
        "examples": ["10", "30s", "500ms"],
    })
}

/// The tasks once all of them have ended, or as they are when the time is up or meshd shuts down.
async fn ended(call: &Call, ids: &[TaskId], wait: Duration) -> Result<Vec<Task>, Refusal> {
    let at_once = call.ops().wait_tasks(ids, Duration::ZERO);
    if wait.is_zero() {
        return Ok(at_once.await?);
    }
    tokio::select! {
        tasks = call.ops().wait_tasks(ids, wait) => Ok(tasks?),
        () = call.shared.closed() => Ok(at_once.await?),
    }
}

fn receipt(task: Task) -> TaskReceipt {
    TaskReceipt {
        id: task.id,
        state: task.state,
        assignment: task.assignment,
        waiting_for: task.waiting_for,
    }
}

fn one_or_many<T: Serialize>(status: StatusCode, many: bool, rows: &[T]) -> Answer {
    match rows {
        [only] if !many => json(status, only),
        rows => json(status, &rows),
    }
}

fn locate(response: &mut Response, id: &TaskId) {
    if let Ok(place) = HeaderValue::from_str(&format!("/v1/tasks/{id}")) {
        response.headers_mut().insert(header::LOCATION, place);
    }
}

async fn list(call: Call) -> Answer {
    let filter = TaskFilter {
        state: call.query.read(&STATE)?,
        kind: call.query.name(&KIND)?,
        agent: call.query.read(&AGENT)?,
        column: call.query.name(&COLUMN)?,
    };
    ok(&call.ops().tasks(filter, call.query.page()?).await?)
}

async fn show(call: Call) -> Answer {
    let wait = wait(&call)?.unwrap_or_default();
    if wait.is_zero() {
        return ok(&call.ops().task(call.param("id")).await?);
    }
    tokio::select! {
        task = call.ops().wait_task(call.param("id"), wait) => ok(&task?),
        () = call.shared.closed() => ok(&call.ops().task(call.param("id")).await?),
    }
}

async fn cancel(call: Call) -> Answer {
    let CancelOrder { reason } = call.json_or_empty()?;
    let reason = reason.unwrap_or_else(|| format!("cancelled by {}", call.caller.name));
    ok(&call
        .ops()
        .cancel_task(&call.caller, call.param("id"), &reason)
        .await?)
}

async fn retry(call: Call) -> Answer {
    let Nothing {} = call.json_or_empty()?;
    ok(&call
        .ops()
        .retry_task(&call.caller, call.param("id"))
        .await?)
}

async fn split(call: Call) -> Answer {
    let order: SplitOrder = call.json()?;
    ok(&call
        .ops()
        .split_task(&call.caller, call.param("id"), order)
        .await?)
}

async fn outcome(call: Call) -> Answer {
    let report: OutcomeReport = call.json()?;
    ok(&call
        .ops()
        .report_outcome(&call.caller, call.param("id"), report)
        .await?)
}

/// The first answer counts; whoever comes later is told so.
async fn approve(call: Call) -> Answer {
    let ApproveOrder {
        approve,
        answer,
        comment,
    } = call.json_or_empty()?;
    let answer = InboxAnswer {
        approve,
        answer,
        comment,
    };
    let long = |text: &Option<String>| text.as_ref().is_some_and(|t| t.len() > ANSWER_BYTES_MAX);
    if long(&answer.comment) {
        let detail = format!("comment: must have at most {ANSWER_BYTES_MAX} bytes");
        return Err(Refusal::new("invalid_value", detail).field("comment"));
    }
    ok(&call
        .ops()
        .approve_task(&call.caller, call.param("id"), answer)
        .await?)
}

async fn explain(call: Call) -> Answer {
    ok(&call.ops().explain_task(call.param("id")).await?)
}

async fn events(call: Call) -> Answer {
    let events = call.ops().task_events(call.param("id"), call.query.page()?);
    let mut events = events.await?;
    withhold(call.ops(), &call.caller, &mut events.items);
    ok(&events)
}

async fn board(call: Call) -> Answer {
    let cards = call.query.count(&CARDS, CARDS_DEFAULT)?;
    ok(&call.ops().board(cards).await?)
}

async fn send(call: Call) -> Answer {
    let wait = wait(&call)?;
    let envelope = decode::value(&call.body)?;
    ok(&call
        .ops()
        .send_message(&call.caller, envelope, wait)
        .await?)
}
