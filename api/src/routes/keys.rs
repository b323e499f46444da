//! Public keys: whose is whose.

use axum::http::StatusCode;
use mesh_actors::operations::Action;
use mesh_messages::address::Address;
use mesh_messages::agent::Page;
use mesh_messages::identity::DidKey;
use mesh_messages::system::{KeyInfo, KeyRotation, RotatedKey};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::page_of;
use crate::problem::{Answer, Refusal};
use crate::query::{CURSOR, LIMIT};
use crate::route::{BodySize, Call, Route, json, ok};

/// The body of a registration.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KeyRequest {
    /// The public key: ed25519, secp256k1 in its compressed form, or RSA of 2048 to 4096 bits.
    key: DidKey,
    /// Whose it is: an address such as `user:ada`, `agent:echo` or `kai://node.<name>`. A key that the owner had before does
    /// not hold any more.
    owner: Address,
}

/// The body of a revocation.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RevocationRequest {
    /// Why, for the record.
    #[serde(default)]
    reason: String,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post(
            "/v1/keys",
            "registerKey",
            "Registers a public key as somebody's, in place of the one before",
            register,
        )
        .needs(Action::Keys)
        .takes::<KeyRequest>(BodySize::Small)
        .answers::<KeyInfo>(201, "The key.")
        .refuses(&[409, 422]),
        Route::get("/v1/keys", "listKeys", "Lists public keys", list)
            .query(&[LIMIT, CURSOR])
            .answers::<Page<KeyInfo>>(200, "A page of keys, those of the past included."),
        Route::post(
            "/v1/keys/{key}/revoke",
            "revokeKey",
            "Revokes a key, for ever",
            revoke,
        )
        .needs(Action::Keys)
        .may_take::<RevocationRequest>()
        .answers::<KeyInfo>(200, "It does not hold any more.")
        .refuses(&[404, 422]),
        Route::post(
            "/v1/keys/node/rotate",
            "rotateNodeKey",
            "Gives the node another key, which signs for its log from here on",
            rotate,
        )
        .needs(Action::Keys)
        .may_take::<KeyRotation>()
        .answers::<RotatedKey>(
            200,
            "The key in force, and the note by which both keys say so.",
        )
        .refuses(&[409, 422]),
    ]
}

async fn register(call: Call) -> Answer {
    let KeyRequest { key, owner } = call.json()?;
    let info = call.ops().register_key(&call.caller, key, owner).await?;
    json(StatusCode::CREATED, &info)
}

async fn list(call: Call) -> Answer {
    ok(&page_of(call.ops().keys().await?, call.query.page()?)?)
}

async fn revoke(call: Call) -> Answer {
    let RevocationRequest { reason } = call.json_or_empty()?;
    let text = call.param("key");
    let key: DidKey = text.parse().map_err(|_| {
        Refusal::new(
            "key_not_found",
            format!("{text} is no did:key of a kind that is taken"),
        )
        .field("key")
    })?;
    ok(&call.ops().revoke_key(&call.caller, key, reason).await?)
}

async fn rotate(call: Call) -> Answer {
    let order: KeyRotation = call.json_or_empty()?;
    ok(&call.ops().rotate_key(&call.caller, order).await?)
}
