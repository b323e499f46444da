//! Schedules.

use axum::http::{HeaderValue, StatusCode, header};
use mesh_actors::operations::{Action, ScheduleOrder};
use mesh_messages::agent::Page;
use mesh_messages::schedule::{Schedule, ScheduleSubmission, ScheduleTerms};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::page_of;
use super::workflows::{DEPLOY_LATER, apart};
use crate::decode;
use crate::problem::Answer;
use crate::query::{CURSOR, LIMIT};
use crate::route::{BodySize, Call, Route, json, ok};

/// The answer to `DELETE /v1/schedules/{id}`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct RemovedSchedule {
    /// Which it was.
    id: String,
    /// Always true.
    removed: bool,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post(
            "/v1/schedules",
            "createSchedule",
            "Makes a schedule that begins runs of a workflow at planned times",
            create,
        )
        .needs(Action::TaskControl)
        .query(&[DEPLOY_LATER])
        .takes::<ScheduleSubmission>(BodySize::Json)
        .answers::<Schedule>(201, "Made, and durable.")
        .answers::<Schedule>(200, "The same one was there before.")
        .refuses(&[409]),
        Route::get(
            "/v1/schedules",
            "listSchedules",
            "Lists schedules by name, with the times at which they fire next",
            list,
        )
        .query(&[LIMIT, CURSOR])
        .answers::<Page<Schedule>>(200, "A page of schedules."),
        Route::get(
            "/v1/schedules/{id}",
            "getSchedule",
            "Shows a schedule",
            show,
        )
        .answers::<Schedule>(200, "The schedule, with what became of its latest times."),
        Route::post(
            "/v1/schedules/{id}/pause",
            "pauseSchedule",
            "Has a schedule begin nothing until it is resumed",
            pause,
        )
        .needs(Action::TaskControl)
        .answers::<Schedule>(200, "The schedule afterwards."),
        Route::post(
            "/v1/schedules/{id}/resume",
            "resumeSchedule",
            "Has a schedule go on; what passed while it was paused is not made up for",
            resume,
        )
        .needs(Action::TaskControl)
        .answers::<Schedule>(200, "The schedule afterwards."),
        Route::delete(
            "/v1/schedules/{id}",
            "deleteSchedule",
            "Removes a schedule; its runs go on",
            remove,
        )
        .needs(Action::TaskControl)
        .answers::<RemovedSchedule>(200, "It is gone."),
    ]
}

async fn create(call: Call) -> Answer {
    let mut value = decode::value(&call.body)?;
    // The document itself is read later, so that everything that is wrong with it is told at once.
    let workflow = apart(&mut value);
    let new: ScheduleSubmission = decode::typed(value)?;
    let order = ScheduleOrder {
        id: new.id,
        terms: ScheduleTerms {
            cron: new.cron,
            time_zone: new.time_zone.unwrap_or_else(|| "UTC".to_owned()),
            input: new.input,
            missed: new.missed,
            overlap: new.overlap,
        },
        workflow: workflow.unwrap_or_default(),
        paused: new.paused,
        deploy_later: call.query.flag(&DEPLOY_LATER)?.unwrap_or_default(),
    };
    let (schedule, replayed) = call.ops().create_schedule(&call.caller, order).await?;
    if replayed {
        return ok(&schedule);
    }
    let place = HeaderValue::from_str(&format!("/v1/schedules/{}", schedule.id));
    let mut response = json(StatusCode::CREATED, &schedule)?;
    if let Ok(place) = place {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

async fn list(call: Call) -> Answer {
    ok(&page_of(call.ops().schedules().await?, call.query.page()?)?)
}

async fn show(call: Call) -> Answer {
    ok(&call.ops().schedule(call.param("id")).await?)
}

async fn pause(call: Call) -> Answer {
    set_paused(call, true).await
}

async fn resume(call: Call) -> Answer {
    set_paused(call, false).await
}

async fn set_paused(call: Call, paused: bool) -> Answer {
    ok(&call
        .ops()
        .pause_schedule(&call.caller, call.param("id"), paused)
        .await?)
}

async fn remove(call: Call) -> Answer {
    let id = call.param("id");
    call.ops().remove_schedule(&call.caller, id).await?;
    ok(&RemovedSchedule {
        id: id.to_owned(),
        removed: true,
    })
}
