//! Erasing content by order.

use mesh_actors::operations::Action;
use mesh_messages::erasure::{ErasureOrder, ErasureReport};

use crate::problem::Answer;
use crate::route::{BodySize, Call, Route, ok};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post(
            "/v1/erasures",
            "erase",
            "Erases content of a task, or of somebody's tasks and messages, for ever; all proofs stay valid",
            erase,
        )
        .needs(Action::Erase)
        .takes::<ErasureOrder>(BodySize::Small)
        .answers::<ErasureReport>(200, "What was erased, and what is left.")
        .refuses(&[404, 409, 422]),
    ]
}

async fn erase(call: Call) -> Answer {
    let order: ErasureOrder = call.json()?;
    ok(&call.ops().erase(&call.caller, order).await?)
}
