//! Security profiles.

use mesh_messages::agent::Page;
use mesh_messages::manifest::SandboxLevel;
use mesh_messages::profile::{ProfileDiff, SecurityProfile};

use super::page_of;
use crate::problem::Answer;
use crate::query::{CURSOR, LIMIT, Param, Shape};
use crate::route::{Call, Route, ok};

const AGAINST: Param = Param {
    name: "against",
    about: "The profile to compare with; `strict` when absent.",
    shape: Shape::of::<SandboxLevel>(),
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/profiles",
            "listProfiles",
            "Lists the security profiles, and which agents have which",
            list,
        )
        .query(&[LIMIT, CURSOR])
        .answers::<Page<SecurityProfile>>(200, "The profiles, the weakest first."),
        Route::get(
            "/v1/agents/{id}/profile",
            "diffAgentProfile",
            "How a security profile differs from what holds for an agent",
            diff,
        )
        .query(&[AGAINST])
        .answers::<ProfileDiff>(200, "What would be another."),
    ]
}

async fn list(call: Call) -> Answer {
    ok(&page_of(
        call.ops().security_profiles().await?,
        call.query.page()?,
    )?)
}

async fn diff(call: Call) -> Answer {
    let against = call.query.read(&AGAINST)?.unwrap_or_default();
    ok(&call.ops().profile_diff(call.param("id"), against).await?)
}
