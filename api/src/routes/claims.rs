//! Claims on named resources.

use mesh_messages::agent::Page;
use mesh_messages::claim::Claim;

use super::page_of;
use crate::problem::Answer;
use crate::query::{CURSOR, LIMIT};
use crate::route::{Call, Route, ok};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/claims",
            "listClaims",
            "Lists the resources that agents have claimed: who holds each, until when, and who waits",
            list,
        )
        .query(&[LIMIT, CURSOR])
        .answers::<Page<Claim>>(200, "A page of claims, by the name of the resource."),
    ]
}

async fn list(call: Call) -> Answer {
    ok(&page_of(call.ops().claims().await?, call.query.page()?)?)
}
