//! A backup of the node, as a stream.

use mesh_actors::operations::Action;

use super::export::streamed;
use super::stream::place;
use crate::problem::Answer;
use crate::route::{Call, Route, TAR};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get(
            "/v1/backup",
            "takeBackup",
            "Everything that the node cannot make anew, as of now, for `meshctl restore`",
            backup,
        )
        .needs(Action::Backup)
        .answers_as(
            TAR,
            "Its last entry is a digest of the rest. Without it, the backup broke off. The node's key is not in it.",
        ),
    ]
}

async fn backup(call: Call) -> Answer {
    let permit = place(&call.shared)?;
    let chunks = call.ops().backup().await?;
    streamed(&call.shared, permit, TAR, chunks).await
}
