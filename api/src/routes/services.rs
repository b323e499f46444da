//! Services beside the agents.

use axum::http::{HeaderValue, StatusCode, header};
use mesh_actors::operations::Action;
use mesh_messages::agent::Page;
use mesh_messages::service::{ServiceCallOrder, ServiceDefinition, ServiceReply, ServiceView};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Nothing, page_of};
use crate::problem::Answer;
use crate::query::{CURSOR, LIMIT, Param, Shape};
use crate::route::{BodySize, Call, Route, json, ok};

/// The answer to `DELETE /v1/services/{id}`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct RemovedService {
    /// Which it was.
    id: String,
    /// Always true.
    removed: bool,
}

const CAPABILITY: Param = Param {
    name: "capability",
    about: "Only services with this capability.",
    shape: Shape::Text,
};
const TYPE: Param = Param {
    name: "type",
    about: "Only services of this type.",
    shape: Shape::OneOf(&["llm", "image", "vector", "utility"]),
};
const STATUS: Param = Param {
    name: "status",
    about: "Only services that stand so.",
    shape: Shape::OneOf(&["active", "inactive", "error"]),
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post(
            "/v1/services",
            "addService",
            "Registers a service and checks it; one whose check fails is registered as one in error",
            add,
        )
        .needs(Action::Services)
        .takes::<ServiceDefinition>(BodySize::Json)
        .answers::<ServiceView>(201, "Registered, durable, and checked: `status` says how it stands.")
        .answers::<ServiceView>(200, "The same one was there before; it was checked again.")
        .refuses(&[409]),
        Route::get(
            "/v1/services",
            "listServices",
            "Lists services by id, with how each stands",
            list,
        )
        .query(&[CAPABILITY, TYPE, STATUS, LIMIT, CURSOR])
        .answers::<Page<ServiceView>>(200, "A page of services."),
        Route::get("/v1/services/{id}", "getService", "Shows a service", show)
            .answers::<ServiceView>(200, "The service, its latest check and its circuit breaker."),
        Route::put(
            "/v1/services/{id}",
            "replaceService",
            "Replaces the definition of a service, and checks it",
            replace,
        )
        .needs(Action::Services)
        .takes::<ServiceDefinition>(BodySize::Json)
        .answers::<ServiceView>(200, "The service as it is from now on, durable.")
        .refuses(&[409]),
        Route::delete("/v1/services/{id}", "removeService", "Removes a service", remove)
            .needs(Action::Services)
            .answers::<RemovedService>(200, "It is gone.")
            .refuses(&[409]),
        Route::post(
            "/v1/services/{id}/check",
            "checkService",
            "Checks a service now",
            check,
        )
        .needs(Action::ServiceCall)
        .may_take::<Nothing>()
        .answers::<ServiceView>(200, "The service, as the check found it.")
        .refuses(&[409]),
        Route::post(
            "/v1/services/{id}/call",
            "callService",
            "Calls an endpoint of a service",
            call_service,
        )
        .needs(Action::ServiceCall)
        .takes::<ServiceCallOrder>(BodySize::Json)
        .answers::<ServiceReply>(200, "What the service answered.")
        .refuses(&[409, 413, 429]),
    ]
}

async fn add(call: Call) -> Answer {
    let definition: ServiceDefinition = call.json()?;
    let (service, replayed) = call.ops().add_service(&call.caller, definition).await?;
    if replayed {
        return ok(&service);
    }
    let place = HeaderValue::from_str(&format!("/v1/services/{}", service.id));
    let mut response = json(StatusCode::CREATED, &service)?;
    if let Ok(place) = place {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

async fn list(call: Call) -> Answer {
    let capability = call.query.text(&CAPABILITY);
    let kind = call.query.name(&TYPE)?;
    let status = call.query.name(&STATUS)?;
    let mut services = call.ops().services().await?;
    services.retain(|service| {
        capability.is_none_or(|wanted| service.capabilities.iter().any(|known| known == wanted))
            && kind
                .as_deref()
                .is_none_or(|wanted| service.kind.name() == wanted)
            && status
                .as_deref()
                .is_none_or(|wanted| service.status.name() == wanted)
    });
    ok(&page_of(services, call.query.page()?)?)
}

async fn show(call: Call) -> Answer {
    ok(&call.ops().service(call.param("id")).await?)
}

async fn replace(call: Call) -> Answer {
    let definition: ServiceDefinition = call.json()?;
    let id = call.param("id");
    ok(&call
        .ops()
        .replace_service(&call.caller, id, definition)
        .await?)
}

async fn remove(call: Call) -> Answer {
    let id = call.param("id");
    call.ops().remove_service(&call.caller, id).await?;
    ok(&RemovedService {
        id: id.to_owned(),
        removed: true,
    })
}

async fn check(call: Call) -> Answer {
    let Nothing {} = call.json_or_empty()?;
    ok(&call
        .ops()
        .check_service(&call.caller, call.param("id"))
        .await?)
}

async fn call_service(call: Call) -> Answer {
    let order: ServiceCallOrder = call.json()?;
    ok(&call
        .ops()
        .call_service(&call.caller, call.param("id"), order)
        .await?)
}
