//! Agents: registering, looking, removing.

use std::path::PathBuf;

use axum::http::{HeaderValue, StatusCode, header};
use mesh_actors::operations::{
    Action, AgentFilter, AgentInsights, AgentProfile, BundleSource, LogLine,
};
use mesh_messages::agent::{
    AgentRegistration, AgentStatus, AgentStatusKind, AgentSummary, InstanceView, Page, PolicyValue,
    SandboxView,
};
use mesh_messages::dependency::DependencyGraph;
use mesh_messages::system::{AuditEntry, MemoryStats, Role};
use schemars::{JsonSchema, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::page_of;
use crate::problem::{Answer, Refusal};
use crate::query::{CURSOR, LIMIT, Param, Shape};
use crate::route::{BodySize, Call, Route, TAR, json, ok};
use crate::withheld::withhold;

const CAPABILITY: Param = Param {
    name: "capability",
    about: "Only agents with this capability.",
    shape: Shape::Text,
};
const PERSONA: Param = Param {
    name: "persona",
    about: "Only agents with this persona.",
    shape: Shape::Text,
};
const STATUS: Param = Param {
    name: "status",
    about: "Only agents with this status.",
    shape: Shape::of::<AgentStatusKind>(),
};
const TAG: Param = Param {
    name: "tag",
    about: "Only agents with this tag.",
    shape: Shape::Text,
};
const START: Param = Param {
    name: "start",
    about: "Whether to start it, too; true when absent.",
    shape: Shape::Flag,
};
const TAIL: Param = Param {
    name: "tail",
    about: "How many lines, at most; 100 when absent.",
    shape: Shape::Integer(1, TAIL_MAX),
};

/// Most lines of a log in one answer; more would make it megabytes.
const TAIL_MAX: u64 = 10_000;
/// Lines when the caller names no number: a screen or two.
const TAIL_DEFAULT: usize = 100;

/// The JSON body of a registration.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RegistrationRequest {
    /// The manifest.
    manifest: Value,
    /// A directory of meshd's host that holds the bundle's other files. For an admin on that host.
    #[serde(default)]
    path: Option<PathBuf>,
}

/// The answer to a removal.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct RemovedAgent {
    /// Which agent.
    id: String,
    /// True: it is gone.
    removed: bool,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/v1/agents", "registerAgent", "Registers a bundle, and starts it unless told not to", register)
            .needs(Action::AgentRegister)
            .query(&[START])
            .takes::<RegistrationRequest>(BodySize::Bundle)
            .or_takes(TAR, |_| json_schema!({ "description": "A tar archive with manifest.json or manifest.yaml." }))
            .answers::<AgentRegistration>(201, "The version is new.")
            .answers::<AgentRegistration>(200, "The same content was registered already; nothing changed.")
            .refuses(&[409]),
        Route::get("/v1/agents", "listAgents", "Lists agents", list)
            .query(&[CAPABILITY, PERSONA, STATUS, TAG, LIMIT, CURSOR])
            .answers::<Page<AgentSummary>>(200, "A page of agents, by id."),
        Route::get("/v1/dependencies", "getDependencies", "What agents need of each other, and the order in which they start", dependencies)
            .answers::<DependencyGraph>(200, "All agents, what each needs and waits for, and the waves in which they start."),
        Route::get("/v1/agents/{id}", "getAgent", "Shows an agent", show)
            .answers::<AgentProfile>(200, "The agent."),
        Route::delete("/v1/agents/{id}", "removeAgent", "Drains, stops and removes an agent; its audit stays", remove)
            .needs(Action::AgentGovern)
            .answers::<RemovedAgent>(200, "It is gone."),
        Route::get("/v1/agents/{id}/status", "getAgentStatus", "An agent's status; of an unknown id: not_found", status)
            .answers::<AgentStatus>(200, "The status."),
        Route::get("/v1/agents/{id}/history", "getAgentHistory", "An agent's audit records", history)
            .query(&[LIMIT, CURSOR])
            .answers::<Page<AuditEntry>>(200, "A page of records, oldest first."),
        Route::get("/v1/agents/{id}/insights", "getAgentInsights", "What its tasks say of an agent", insights)
            .answers::<AgentInsights>(200, "The insights."),
        Route::get("/v1/agents/{id}/logs", "getAgentLogs", "The last lines of an agent's log", logs)
            .query(&[TAIL])
            .answers::<Page<LogLine>>(200, "Lines, oldest first."),
        Route::get("/v1/agents/{id}/policy", "getAgentPolicy", "The policy in force, with origins", policy)
            .query(&[LIMIT, CURSOR])
            .answers::<Page<PolicyValue>>(200, "Each value and where it came from."),
        Route::get("/v1/agents/{id}/instances", "listAgentInstances", "An agent's replicas", instances)
            .query(&[LIMIT, CURSOR])
            .answers::<Page<InstanceView>>(200, "The replicas, by number."),
        Route::get("/v1/agents/{id}/sandbox", "getAgentSandbox", "What is enforced around an agent", sandbox)
            .answers::<SandboxView>(200, "Each control as it is."),
        Route::get("/v1/agents/{id}/memory", "getAgentMemoryStats", "An agent's memory in numbers", memory)
            .needs(Action::Memory)
            .answers::<MemoryStats>(200, "The numbers."),
    ]
}

async fn register(call: Call) -> Answer {
    let start = call.query.flag(&START)?.unwrap_or(true);
    let bundle = if call.media == TAR {
        BundleSource::Tar(call.body.to_vec())
    } else {
        let RegistrationRequest { manifest, path } = call.json()?;
        if path.is_some() && !(call.caller.loopback && call.caller.role == Role::Admin) {
            // Reading any directory of the host is more than registering may give.
            return Err(Refusal::new("forbidden", "Insufficient permissions")
                .field("path")
                .errors(vec![
                    "path: only an admin on meshd's own host may name a directory of it".to_owned(),
                ]));
        }
        BundleSource::Manifest { manifest, path }
    };
    let registration = call
        .ops()
        .register_agent(&call.caller, bundle, start)
        .await?;
    let status = if registration.changed {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let mut response = json(status, &registration)?;
    if let Ok(place) = HeaderValue::from_str(&format!("/v1/agents/{}", registration.id)) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

async fn list(call: Call) -> Answer {
    let filter = AgentFilter {
        capability: call.query.name(&CAPABILITY)?,
        persona: call.query.name(&PERSONA)?,
        status: call.query.read(&STATUS)?,
        tag: call.query.name(&TAG)?,
    };
    ok(&call.ops().agents(filter, call.query.page()?).await?)
}

async fn dependencies(call: Call) -> Answer {
    ok(&call.ops().dependencies().await?)
}

async fn show(call: Call) -> Answer {
    ok(&call.ops().agent(call.param("id")).await?)
}

async fn remove(call: Call) -> Answer {
    let id = call.param("id");
    call.ops().remove_agent(&call.caller, id).await?;
    ok(&RemovedAgent {
        id: id.to_owned(),
        removed: true,
    })
}

async fn status(call: Call) -> Answer {
    ok(&call.ops().agent_status(call.param("id")).await?)
}

async fn history(call: Call) -> Answer {
    let history = call
        .ops()
        .agent_history(call.param("id"), call.query.page()?);
    let mut history = history.await?;
    withhold(call.ops(), &call.caller, &mut history.items);
    ok(&history)
}

async fn insights(call: Call) -> Answer {
    ok(&call.ops().agent_insights(call.param("id")).await?)
}

async fn logs(call: Call) -> Answer {
    let tail = call.query.count(&TAIL, TAIL_DEFAULT)?;
    let items = call.ops().agent_logs(call.param("id"), tail).await?;
    ok(&Page {
        items,
        next_cursor: None,
    })
}

async fn policy(call: Call) -> Answer {
    ok(&page_of(
        call.ops().agent_policy(call.param("id")).await?,
        call.query.page()?,
    )?)
}

async fn instances(call: Call) -> Answer {
    ok(&page_of(
        call.ops().agent_instances(call.param("id")).await?,
        call.query.page()?,
    )?)
}

async fn sandbox(call: Call) -> Answer {
    ok(&call.ops().agent_sandbox(call.param("id")).await?)
}

async fn memory(call: Call) -> Answer {
    ok(&call.ops().memory_stats(call.param("id")).await?)
}
