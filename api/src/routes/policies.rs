//! The operator's policy.

use mesh_actors::operations::Action;
use mesh_messages::policy::{PolicyDocument, PolicyInForce};

use crate::problem::Answer;
use crate::route::{BodySize, Call, Route, ok};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/policies",
            "showPolicies",
            "Shows the thresholds and limits in force, and what was applied to this mesh",
            show,
        )
        .needs(Action::Read)
        .answers::<PolicyInForce>(200, "What holds for agents that override nothing."),
        Route::put(
            "/v1/policies",
            "applyPolicy",
            "Replaces thresholds and limits while the mesh runs, all that the body names or none",
            apply,
        )
        .needs(Action::Policy)
        .takes::<PolicyDocument>(BodySize::Json)
        .answers::<PolicyInForce>(
            200,
            "It is durable; limits hold at once where the kernel lets them change, thresholds when the agent's episode of failures is over.",
        ),
    ]
}

async fn show(call: Call) -> Answer {
    ok(&call.ops().policies().await?)
}

async fn apply(call: Call) -> Answer {
    let document: PolicyDocument = call.json()?;
    ok(&call.ops().apply_policy(&call.caller, document).await?)
}
