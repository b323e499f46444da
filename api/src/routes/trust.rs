//! Trust in agents.

use mesh_actors::operations::Action;
use mesh_messages::agent::Page;
use mesh_messages::trust::{AgentTrust, TrustReset};

use super::page_of;
use crate::problem::Answer;
use crate::query::{CURSOR, LIMIT};
use crate::route::{BodySize, Call, Route, ok};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/trust",
            "listTrust",
            "Lists how far each agent is trusted at each capability",
            list,
        )
        .query(&[LIMIT, CURSOR])
        .answers::<Page<AgentTrust>>(200, "A page of agents, by id, without their histories."),
        Route::get(
            "/v1/trust/{id}",
            "getTrust",
            "Shows how far an agent is trusted, and what led to it",
            show,
        )
        .answers::<AgentTrust>(200, "The agent's trust with its latest changes."),
        Route::post(
            "/v1/trust/{id}/reset",
            "resetTrust",
            "Sets the trust in an agent, for a reason that is kept",
            reset,
        )
        .needs(Action::AgentGovern)
        .takes::<TrustReset>(BodySize::Small)
        .answers::<AgentTrust>(200, "The agent's trust as it is now; durable."),
    ]
}

async fn list(call: Call) -> Answer {
    ok(&page_of(call.ops().trust().await?, call.query.page()?)?)
}

async fn show(call: Call) -> Answer {
    ok(&call.ops().agent_trust(call.param("id")).await?)
}

async fn reset(call: Call) -> Answer {
    let order: TrustReset = call.json()?;
    let id = call.param("id");
    ok(&call.ops().reset_trust(&call.caller, id, order).await?)
}
