//! Stored plans.

use axum::http::{HeaderValue, StatusCode, header};
use mesh_actors::operations::{Action, PlanOrder, PlanWork};
use mesh_messages::agent::Page;
use mesh_messages::plan::{PlanStart, PlanSubmission, StoredPlan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::page_of;
use super::workflows::{DEPLOY_LATER, apart};
use crate::decode;
use crate::problem::{Answer, Refusal};
use crate::query::{CURSOR, LIMIT};
use crate::route::{BodySize, Call, Route, json, ok};

/// The answer to `DELETE /v1/plans/{id}`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct RemovedPlan {
    /// Which it was.
    id: String,
    /// Always true.
    removed: bool,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post(
            "/v1/plans",
            "createPlan",
            "Stores a plan, a workflow, a single task or a team's draft, to be read and edited before it is started",
            create,
        )
        .needs(Action::TaskControl)
        .query(&[DEPLOY_LATER])
        .takes::<PlanSubmission>(BodySize::Json)
        .answers::<StoredPlan>(201, "Stored, and durable; nothing of it runs.")
        .refuses(&[409]),
        Route::get("/v1/plans", "listPlans", "Lists plans by id", list)
            .query(&[LIMIT, CURSOR])
            .answers::<Page<StoredPlan>>(200, "A page of plans, as they are now."),
        Route::get("/v1/plans/{id}", "getPlan", "Shows a plan", show)
            .answers::<StoredPlan>(200, "The plan, with its latest earlier versions."),
        Route::put(
            "/v1/plans/{id}",
            "editPlan",
            "Writes another version of a plan that was not started; `version` is the one that was read",
            edit,
        )
        .needs(Action::TaskControl)
        .query(&[DEPLOY_LATER])
        .takes::<PlanSubmission>(BodySize::Json)
        .answers::<StoredPlan>(200, "The version that holds from now on, durable.")
        .refuses(&[409]),
        Route::post(
            "/v1/plans/{id}/start",
            "startPlan",
            "Starts a plan as it was read: its run begins, and it is edited no more",
            start,
        )
        .needs(Action::TaskControl)
        .takes::<PlanStart>(BodySize::Json)
        .answers::<StoredPlan>(202, "Started, and durable; `run` is its run.")
        .answers::<StoredPlan>(200, "It was started before.")
        .refuses(&[409]),
        Route::delete(
            "/v1/plans/{id}",
            "deletePlan",
            "Removes a plan; a run that it began goes on",
            remove,
        )
        .needs(Action::TaskControl)
        .answers::<RemovedPlan>(200, "It is gone."),
    ]
}

/// The plan. Its document is read later, so that everything that is wrong with it is told at once.
fn order(call: &Call) -> Result<PlanOrder, Refusal> {
    let mut value = decode::value(&call.body)?;
    let workflow = apart(&mut value);
    let rest: PlanSubmission = decode::typed(value)?;
    let refused = |field: &'static str, detail: &str| {
        let detail = format!("{field}: {detail}");
        Err(Refusal::new("invalid_plan", detail).field(field))
    };
    let work = match (workflow, rest.task, rest.team) {
        (Some(workflow), None, None) => PlanWork::Workflow(workflow),
        (None, Some(_), None) if !rest.input.is_null() => {
            return refused(
                "input",
                "a task has an input of its own; leave this one out",
            );
        }
        (None, Some(task), None) => PlanWork::Task(task),
        (None, None, Some(team)) => PlanWork::Team(team),
        (None, None, None) => {
            return refused("workflow", "give a workflow, or a task or a team instead");
        }
        _ => return refused("workflow", "give one of workflow, task and team"),
    };
    Ok(PlanOrder {
        goal: rest.goal,
        work,
        input: rest.input,
        replaces: rest.version,
        deploy_later: call.query.flag(&DEPLOY_LATER)?.unwrap_or_default(),
    })
}

async fn create(call: Call) -> Answer {
    let order = order(&call)?;
    if order.replaces.is_some() {
        let detail = "version: a new plan has none to take the place of; leave it out, or PUT it to the plan";
        return Err(Refusal::new("invalid_plan", detail).field("version"));
    }
    let plan = call.ops().create_plan(&call.caller, order).await?;
    let place = HeaderValue::from_str(&format!("/v1/plans/{}", plan.id));
    let mut response = json(StatusCode::CREATED, &plan)?;
    if let Ok(place) = place {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

async fn list(call: Call) -> Answer {
    ok(&page_of(call.ops().plans().await?, call.query.page()?)?)
}

async fn show(call: Call) -> Answer {
    ok(&call.ops().plan(call.param("id")).await?)
}

async fn edit(call: Call) -> Answer {
    let order = order(&call)?;
    ok(&call
        .ops()
        .edit_plan(&call.caller, call.param("id"), order)
        .await?)
}

async fn start(call: Call) -> Answer {
    let PlanStart { version } = decode::typed(decode::value(&call.body)?)?;
    let (plan, replayed) = call
        .ops()
        .start_plan(&call.caller, call.param("id"), version)
        .await?;
    if replayed {
        return ok(&plan);
    }
    json(StatusCode::ACCEPTED, &plan)
}

async fn remove(call: Call) -> Answer {
    let id = call.param("id");
    call.ops().remove_plan(&call.caller, id).await?;
    ok(&RemovedPlan {
        id: id.to_owned(),
        removed: true,
    })
}
