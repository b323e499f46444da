//! A backup of the node, as a stream.

use mesh_actors::operations::{Action, VaultCopy};

use super::export::streamed;
use super::stream::place;
use crate::problem::Answer;
use crate::query::{Param, Shape};
use crate::route::{Call, Route, TAR};

const VAULT: Param = Param {
    name: "vault",
    about: "With the vault, encrypted as it is; its key never is in a backup.",
    shape: Shape::Flag,
};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/backup",
            "takeBackup",
            "Everything that the node cannot make anew, as of now, for `meshctl restore`",
            backup,
        )
        .query(&[VAULT])
        .needs(Action::Backup)
        .answers_as(
            TAR,
            "Its last entry is a digest of the rest. Without it, the backup broke off. The node's key is not in it, nor the vault's.",
        ),
    ]
}

async fn backup(call: Call) -> Answer {
    let permit = place(&call.shared)?;
    let vault = match call.query.flag(&VAULT)? {
        Some(true) => VaultCopy::With,
        Some(false) | None => VaultCopy::Without,
    };
    let chunks = call.ops().backup(vault).await?;
    streamed(&call.shared, permit, TAR, chunks).await
}
