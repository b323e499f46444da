//! Secrets as the outside sets them. Who did it is in the audit already, by `authorize`.

use std::sync::Arc;

use mesh_messages::problem::Problem;
use mesh_messages::secret::{SecretInfo, SecretWrite};

use super::Mesh;

impl Mesh {
    pub(super) async fn secret_set(
        &self,
        name: &str,
        secret: SecretWrite,
    ) -> Result<SecretInfo, Problem> {
        let (ctx, name) = (Arc::clone(&self.ctx), name.to_owned());
        aside(move || ctx.secrets.set(&name, secret)).await
    }

    pub(super) async fn secret_delete(&self, name: &str) -> Result<(), Problem> {
        let (ctx, name) = (Arc::clone(&self.ctx), name.to_owned());
        aside(move || ctx.secrets.delete(&name)).await
    }
}

/// Does something that waits for the disk.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Problem::unavailable("shutting_down", "meshd is shutting down"))?
}
