//! Changes that admins sign together.

use mesh_actors::operations::Action;
use mesh_messages::governance::{GovernanceUpdate, GovernanceView};

use crate::problem::Answer;
use crate::route::{BodySize, Call, Route, ok};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/governance",
            "showGovernance",
            "Shows the admins' keys, how many have to sign, what they decided, and by whose signatures",
            show,
        )
        .answers::<GovernanceView>(200, "Who governs this node."),
        Route::post(
            "/v1/governance",
            "submitGovernanceUpdate",
            "Takes an update that enough admins signed; each is taken once",
            submit,
        )
        .needs(Action::Governance)
        .takes::<GovernanceUpdate>(BodySize::Json)
        .answers::<GovernanceView>(200, "It is durable and in force; of a shutdown, every agent is isolated.")
        .refuses(&[409]),
    ]
}

async fn show(call: Call) -> Answer {
    ok(&call.ops().governance().await?)
}

async fn submit(call: Call) -> Answer {
    let update: GovernanceUpdate = call.json()?;
    ok(&call.ops().govern(&call.caller, update).await?)
}
