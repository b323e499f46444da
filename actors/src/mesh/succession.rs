//! Another key for this node: the one in force hands over, on order.
//!
//! ```text
//! 1. the new secret is written aside             (persistence/src/nodekey.rs)
//! 2. both keys sign, and the log's file says so  from here on the new key is in force
//! 3. the new secret takes its place
//! 4. `key.rotated` is on record                  killed before it: the next start records it before anybody is served
//! ```

use std::sync::Arc;

use serde_json::json;
use zeroize::Zeroizing;

use mesh_actors_core::sentinel::REASON_MAX;
use mesh_messages::identity::SigningKey;
use mesh_messages::problem::Problem;
use mesh_messages::system::{Caller, KeyRotation, RotatedKey};
use mesh_persistence::{
    LogSigner, NodeKeyError, SucceedError, SuccessionInvalid, prepare_next, settle,
};

use super::Mesh;
use crate::agents::agent::AgentMessage;
use crate::context::Context;
use crate::store::OpenStore;

/// Why the node's key was not changed.
#[derive(Debug, thiserror::Error)]
enum RotationError {
    #[error(transparent)]
    Files(#[from] NodeKeyError),
    #[error(transparent)]
    Journal(#[from] SucceedError),
}

impl Mesh {
    /// Gives the node another key; answers when that is on record.
    pub(super) async fn rotate(
        &self,
        caller: &Caller,
        order: KeyRotation,
    ) -> Result<RotatedKey, Problem> {
        let KeyRotation {
            compromised,
            reason,
        } = order;
        if reason.chars().count() > REASON_MAX || reason.chars().any(char::is_control) {
            let text = format!(
                "reason: at most {REASON_MAX} characters, none of them a control character"
            );
            return Err(Problem::invalid("invalid_reason", "reason", text));
        }
        let _turn = self.rotating.lock().await;
        let store = self.ctx.store.get()?;
        let admitted = store.journal.admission();
        admitted.map_err(|full| Problem::unavailable("read_only", full.to_string()))?;
        let new = fresh()?;
        let ctx = Arc::clone(&self.ctx);
        let done =
            tokio::task::spawn_blocking(move || change(&ctx, &store, new, compromised)).await;
        let signer = done
            .map_err(|_| Problem::unavailable("shutting_down", "meshd is shutting down"))?
            .map_err(not_rotated)?;
        self.tell_agents(&signer);
        let successions = signer.keys().successions().to_vec();
        let ended_tokens = self
            .sentinel
            .record_rotations(&caller.name, successions, reason)
            .await?;
        let last = signer.keys().successions().last();
        let last = last.ok_or_else(|| Problem::internal("a key that took over from none"))?;
        Ok(RotatedKey {
            node: *signer.keys().log(),
            key: last.new,
            replaces: last.old,
            size: last.size,
            ended_tokens,
            succession: last.note.clone(),
        })
    }

    /// Tells agents that run; those that start are told in their handshake.
    fn tell_agents(&self, signer: &LogSigner) {
        let Some(last) = signer.keys().successions().last() else {
            return;
        };
        let told = Arc::new(json!({"key": last.new, "succession": last.note}));
        for entry in self.ctx.directory.all() {
            // One that is being started shakes hands with the new key.
            drop(entry.slot.cast(AgentMessage::NodeKey(Arc::clone(&told))));
        }
    }

    /// Puts on record what a kill kept from it.
    pub(super) async fn record_rotations(&self) -> Result<(), Problem> {
        let signer = self.ctx.node.signer();
        let successions = signer.keys().successions();
        if successions.is_empty() {
            return Ok(());
        }
        let (successions, reason) = (successions.to_vec(), String::new());
        self.sentinel
            .record_rotations("meshd", successions, reason)
            .await?;
        Ok(())
    }

    /// The notes that say which keys took over from the log's first one.
    pub(super) fn succession_notes(&self) -> String {
        self.ctx.node.signer().keys().to_text()
    }
}

fn fresh() -> Result<SigningKey, Problem> {
    let mut secret = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *secret).map_err(|error| {
        let text = format!("the system gives no randomness: {error}");
        Problem::unavailable("no_randomness", text)
    })?;
    Ok(SigningKey::from_secret(&secret))
}

/// Steps 1 to 3. Blocks on the disk.
fn change(
    ctx: &Context,
    store: &OpenStore,
    new: SigningKey,
    compromised: bool,
) -> Result<Arc<LogSigner>, RotationError> {
    let data = &ctx.settings.data;
    let before = store.journal.signer();
    prepare_next(data, before.keys().current(), &new)?;
    let after = match store.journal.succeed(new, compromised) {
        Ok(after) => after,
        Err(error) => {
            // A journal that has failed may have another key in force; the next opening finds out, and tidies up.
            if store.journal.durable().borrow().failed.is_none()
                && let Err(error) = settle(data, before.keys().current())
            {
                tracing::warn!(%error, "the secret of a change that did not happen is left");
            }
            return Err(error.into());
        }
    };
    ctx.node.hold(Arc::clone(&after));
    if let Err(error) = settle(data, after.keys().current()) {
        tracing::warn!(%error, "the new secret is not in its place yet; the next start puts it there");
    }
    Ok(after)
}

fn not_rotated(error: RotationError) -> Problem {
    match error {
        RotationError::Journal(SucceedError::Refused(SuccessionInvalid::TooMany)) => Problem::new(
            mesh_messages::problem::ProblemKind::Conflict,
            "too_many_keys",
            error.to_string(),
        ),
        error => {
            tracing::error!(%error, "the node's key was not changed");
            Problem::unavailable(
                "read_only",
                format!("the node's key was not changed: {error}"),
            )
        }
    }
}
