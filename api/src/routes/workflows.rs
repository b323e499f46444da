//! Workflows.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use mesh_actors::operations::{Action, WorkflowOrder};
use mesh_messages::agent::Page;
use mesh_messages::workflow::{WorkflowCheck, WorkflowRun, WorkflowSubmission};
use serde_json::Value;

use super::tasks::{CancelOrder, WAIT, wait};
use crate::decode;
use crate::problem::{Answer, Refusal};
use crate::query::{CURSOR, LIMIT, Param, Shape};
use crate::route::{BodySize, Call, Route, json, ok};

const CHECK: Param = Param {
    name: "check",
    about: "Only say whether the workflow makes sense; nothing is started.",
    shape: Shape::Flag,
};
pub(super) const DEPLOY_LATER: Param = Param {
    name: "deployLater",
    about: "Accept steps that no registered agent can do yet; their tasks wait for one.",
    shape: Shape::Flag,
};
const IDEMPOTENCY_KEY: Param = Param {
    name: "Idempotency-Key",
    about: "The same as `idempotencyKey` in the body.",
    shape: Shape::Text,
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post(
            "/v1/workflows",
            "submitWorkflow",
            "Starts a run of a workflow, or only checks it",
            submit,
        )
        .needs(Action::TaskControl)
        .query(&[CHECK, DEPLOY_LATER, WAIT])
        .headers(&[IDEMPOTENCY_KEY])
        .takes::<WorkflowSubmission>(BodySize::Json)
        .answers::<WorkflowRun>(202, "Accepted, and durable.")
        .answers::<WorkflowRun>(
            200,
            "Ended within the wait, or submitted before under the same key.",
        )
        .answers::<WorkflowCheck>(200, "With `check=true`: it makes sense.")
        .refuses(&[409]),
        Route::get(
            "/v1/workflows",
            "listWorkflows",
            "Lists runs, newest first",
            list,
        )
        .query(&[LIMIT, CURSOR])
        .answers::<Page<WorkflowRun>>(200, "A page of runs, those that are steps of others apart."),
        Route::get("/v1/workflows/{id}", "getWorkflow", "Shows a run", show)
            .query(&[WAIT])
            .answers::<WorkflowRun>(
                200,
                "The run: as it is, or with a wait, once it has ended or the wait is over.",
            ),
        Route::post(
            "/v1/workflows/{id}/cancel",
            "cancelWorkflow",
            "Ends a run",
            cancel,
        )
        .needs(Action::TaskControl)
        .may_take::<CancelOrder>()
        .answers::<WorkflowRun>(
            200,
            "The run afterwards; it ends once what it has under way has ended.",
        )
        .refuses(&[409]),
    ]
}

async fn submit(call: Call) -> Answer {
    let wait = wait(&call)?;
    let order = order(&call)?;
    if call.query.flag(&CHECK)?.unwrap_or_default() {
        return ok(&call.ops().check_workflow(&call.caller, &order).await?);
    }
    let (mut run, replayed) = call.ops().start_workflow(&call.caller, order).await?;
    if let Some(wait) = wait {
        run = ended(&call, run.id.as_str(), wait).await?;
    }
    if replayed || run.state.is_terminal() {
        return ok(&run);
    }
    let place = HeaderValue::from_str(&format!("/v1/workflows/{}", run.id));
    let mut response = json(StatusCode::ACCEPTED, &run)?;
    if let Ok(place) = place {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

/// The submission. The document itself is read later, so that everything that is wrong with it is told at once.
fn order(call: &Call) -> Result<WorkflowOrder, Refusal> {
    let mut value = decode::value(&call.body)?;
    let workflow = apart(&mut value);
    let rest: WorkflowSubmission = decode::typed(value)?;
    let header = call
        .headers
        .get(IDEMPOTENCY_KEY.name)
        .map(HeaderValue::to_str);
    let key = match (header, rest.idempotency_key) {
        (Some(Err(_)), _) => {
            let detail = "Idempotency-Key: expected visible ASCII characters";
            return Err(Refusal::new("invalid_header", detail).field(IDEMPOTENCY_KEY.name));
        }
        (Some(Ok(header)), Some(field)) if header != field => {
            let detail = format!("the header says \"{header}\", the body \"{field}\"");
            return Err(Refusal::new("idempotency_key_mismatch", detail).field("idempotencyKey"));
        }
        (Some(Ok(header)), _) => Some(header.to_owned()),
        (None, field) => field,
    };
    if key
        .as_ref()
        .is_some_and(|key| key.is_empty() || key.len() > KEY_MAX)
    {
        let detail = format!("idempotencyKey: must have 1 to {KEY_MAX} bytes");
        return Err(Refusal::new("invalid_value", detail).field("idempotencyKey"));
    }
    Ok(WorkflowOrder {
        workflow: workflow.unwrap_or_default(),
        input: rest.input,
        idempotency_key: key,
        deploy_later: call.query.flag(&DEPLOY_LATER)?.unwrap_or_default(),
    })
}

/// Takes the document out of a body.
pub(super) fn apart(value: &mut Value) -> Option<Value> {
    let workflow = value.get_mut("workflow").map(Value::take);
    if let (Some(workflow @ (Value::Object(_) | Value::String(_))), Value::Object(fields)) =
        (&workflow, value)
    {
        // Stands in for the document, so that the rest is read as strictly as everything.
        let name = workflow.as_str().unwrap_or("document").to_owned();
        fields.insert("workflow".to_owned(), Value::from(name));
    }
    workflow
}

/// Longest idempotency key, as for tasks.
const KEY_MAX: usize = 255;

async fn ended(call: &Call, id: &str, wait: Duration) -> Result<WorkflowRun, Refusal> {
    if wait.is_zero() {
        return Ok(call.ops().workflow(id).await?);
    }
    tokio::select! {
        run = call.ops().wait_workflow(id, wait) => Ok(run?),
        () = call.shared.closed() => Ok(call.ops().workflow(id).await?),
    }
}

async fn list(call: Call) -> Answer {
    ok(&call.ops().workflows(call.query.page()?).await?)
}

async fn show(call: Call) -> Answer {
    let wait = wait(&call)?.unwrap_or_default();
    ok(&ended(&call, call.param("id"), wait).await?)
}

async fn cancel(call: Call) -> Answer {
    let CancelOrder { reason } = call.json_or_empty()?;
    let reason = reason.unwrap_or_else(|| "cancelled".to_owned());
    ok(&call
        .ops()
        .cancel_workflow(&call.caller, call.param("id"), &reason)
        .await?)
}
