//! The gates before providers' accounts.

use mesh_actors::operations::Action;
use mesh_messages::agent::Page;
use mesh_messages::gate::ProviderGate;

use super::{Nothing, page_of};
use crate::problem::Answer;
use crate::query::{CURSOR, LIMIT};
use crate::route::{Call, Route, ok};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/gates",
            "listGates",
            "Lists the providers' accounts whose limit was reached, and when each is tried again",
            list,
        )
        .query(&[LIMIT, CURSOR])
        .answers::<Page<ProviderGate>>(200, "A page of gates that are not open, by account."),
        Route::post(
            "/v1/gates/{account}/try",
            "tryGate",
            "Has an account tried now by one attempt, before its gate's time has come",
            try_now,
        )
        .needs(Action::TaskControl)
        .may_take::<Nothing>()
        .answers::<ProviderGate>(200, "The gate afterwards."),
    ]
}

async fn list(call: Call) -> Answer {
    ok(&page_of(call.ops().gates().await?, call.query.page()?)?)
}

async fn try_now(call: Call) -> Answer {
    let Nothing {} = call.json_or_empty()?;
    ok(&call
        .ops()
        .try_gate(&call.caller, call.param("account"))
        .await?)
}
