//! Hurting the mesh on purpose.

use mesh_actors::operations::Action;
use mesh_messages::chaos::{ChaosAnswer, ChaosOrder};

use crate::problem::Answer;
use crate::route::{BodySize, Call, Route, ok};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post(
            "/v1/chaos",
            "strike",
            "Hurts one instance or one part of meshd on purpose; only where chaos.enabled is set",
            strike,
        )
        .needs(Action::Chaos)
        .takes::<ChaosOrder>(BodySize::Small)
        .answers::<ChaosAnswer>(200, "What was done, to what.")
        .refuses(&[404, 409]),
    ]
}

async fn strike(call: Call) -> Answer {
    let order: ChaosOrder = call.json()?;
    ok(&call.ops().strike(&call.caller, order).await?)
}
