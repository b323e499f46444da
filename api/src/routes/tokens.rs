//! Tokens.

use axum::http::StatusCode;
use mesh_actors::operations::Action;
use mesh_messages::agent::Page;
use mesh_messages::system::{IssuedToken, Role, TokenInfo, TokenOrder};
use mesh_messages::units::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::page_of;
use crate::problem::Answer;
use crate::query::{CURSOR, LIMIT};
use crate::route::{BodySize, Call, Route, json, ok};

/// The body of an issue.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TokenRequest {
    /// What its bearer may do.
    role: Role,
    /// Its bearer's name in the audit.
    #[serde(default)]
    subject: Option<String>,
    /// How long it is valid.
    #[serde(default)]
    ttl: Option<Span>,
    /// Whether its holder can narrow it without asking, with `meshctl token narrow`.
    #[serde(default)]
    attenuable: bool,
}

/// The answer to a revocation.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct RevokedToken {
    /// Which token.
    id: String,
    /// True: it is void.
    revoked: bool,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post(
            "/v1/tokens",
            "issueToken",
            "Issues a token, and shows it this once",
            issue,
        )
        .needs(Action::Tokens)
        .takes::<TokenRequest>(BodySize::Small)
        .answers::<IssuedToken>(201, "The token."),
        Route::get(
            "/v1/tokens",
            "listTokens",
            "Lists tokens, without their secrets",
            list,
        )
        .needs(Action::Tokens)
        .query(&[LIMIT, CURSOR])
        .answers::<Page<TokenInfo>>(200, "A page of tokens."),
        Route::delete(
            "/v1/tokens/{id}",
            "revokeToken",
            "Voids a token; by the id of a block, all that was derived from that block",
            revoke,
        )
        .needs(Action::Tokens)
        .answers::<RevokedToken>(200, "It is void."),
    ]
}

async fn issue(call: Call) -> Answer {
    let request: TokenRequest = call.json()?;
    let order = TokenOrder {
        role: request.role,
        subject: request.subject,
        ttl: request.ttl.map(Span::duration),
        attenuable: request.attenuable,
    };
    let issued = call.ops().issue_token(&call.caller, order).await?;
    json(StatusCode::CREATED, &issued)
}

async fn list(call: Call) -> Answer {
    ok(&page_of(call.ops().tokens().await?, call.query.page()?)?)
}

async fn revoke(call: Call) -> Answer {
    let id = call.param("id");
    call.ops().revoke_token(&call.caller, id).await?;
    ok(&RevokedToken {
        id: id.to_owned(),
        revoked: true,
    })
}
