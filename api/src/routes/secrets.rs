//! Secrets: set, listed and deleted; their values go in and never out.

use mesh_actors::operations::Action;
use mesh_messages::agent::Page;
use mesh_messages::secret::{SecretInfo, SecretWrite};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::page_of;
use crate::problem::{Answer, Refusal};
use crate::query::{CURSOR, LIMIT};
use crate::route::{BodySize, Call, Route, ok};

/// The answer to a deletion.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct DeletedSecret {
    /// Which secret.
    name: String,
    /// True: it is gone.
    deleted: bool,
}

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/secrets",
            "listSecrets",
            "Lists secrets, without their values",
            list,
        )
        .needs(Action::Secrets)
        .query(&[LIMIT, CURSOR])
        .answers::<Page<SecretInfo>>(200, "A page of secrets."),
        Route::put(
            "/v1/secrets/{name}",
            "setSecret",
            "Sets a secret, and who may use it",
            set,
        )
        .needs(Action::Secrets)
        .takes::<SecretWrite>(BodySize::Json)
        .answers::<SecretInfo>(200, "The secret, without its value."),
        Route::delete(
            "/v1/secrets/{name}",
            "deleteSecret",
            "Deletes a secret",
            delete,
        )
        .needs(Action::Secrets)
        .answers::<DeletedSecret>(200, "It is gone."),
    ]
}

async fn list(call: Call) -> Answer {
    ok(&page_of(call.ops().secrets().await?, call.query.page()?)?)
}

async fn set(call: Call) -> Answer {
    // An answer may end in a log, and the secret with it.
    let form = "needs the form {\"value\": TEXT, \"agents\": [NAMES], \"domains\": [NAMES]}; what was sent is not repeated";
    let secret: SecretWrite = call
        .json()
        .map_err(|refusal: Refusal| refusal.discreet(form))?;
    ok(&call
        .ops()
        .set_secret(&call.caller, call.param("name"), secret)
        .await?)
}

async fn delete(call: Call) -> Answer {
    let name = call.param("name");
    call.ops().delete_secret(&call.caller, name).await?;
    ok(&DeletedSecret {
        name: name.to_owned(),
        deleted: true,
    })
}
