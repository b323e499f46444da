//! The audit and its proofs, as the outside asks for them.

use std::io;

use mesh_messages::agent::Page;
use mesh_messages::problem::{Problem, ProblemKind};
use mesh_messages::system::{AuditEntry, AuditFilter, AuditTrace, MeshEvent, PastAt, PastState};
use mesh_messages::{AgentId, Position};
use mesh_persistence::{CheckpointError, Hash, ProofError};
use serde_json::{Value, json};

use super::Mesh;
use super::tasks::bad_cursor;
use crate::operations::{PageRequest, PastAbout, TraceFrom};
use crate::past;
use crate::projector::event_of;
use crate::reads::{self, LookupError};
use crate::store::OpenStore;

impl Mesh {
    pub(super) async fn audit_page(
        &self,
        filter: AuditFilter,
        page: PageRequest<'_>,
    ) -> Result<Page<AuditEntry>, Problem> {
        let store = self.ctx.store.get()?;
        reads::caught_up(&store).await?;
        let after = page
            .cursor
            .map(|cursor| cursor.parse().map(Position).map_err(|_| bad_cursor()))
            .transpose()?;
        let limit = page.limit;
        let (items, next) = reads::blocking(store, move |store| {
            reads::audit_page(store, &filter, after, limit)
        })
        .await?;
        Ok(Page {
            items,
            next_cursor: next.map(|position| position.to_string()),
        })
    }

    pub(super) async fn trace(&self, from: TraceFrom) -> Result<AuditTrace, Problem> {
        let store = self.ctx.store.get()?;
        reads::caught_up(&store).await?;
        let asked = from.clone();
        let trace = reads::blocking(store, move |store| {
            let position = match from {
                TraceFrom::Record(position) => Some(position),
                TraceFrom::Task(task) => reads::first_record(store, &task)?,
            };
            position.map_or(Ok(None), |position| reads::audit_trace(store, position))
        });
        trace.await?.ok_or_else(|| match asked {
            TraceFrom::Task(task) => Problem::task_not_found(task.as_str()),
            TraceFrom::Record(position) => {
                let detail = format!("the log has no record {position} yet");
                Problem::new(ProblemKind::NotFound, "record_not_found", detail)
            }
        })
    }

    pub(super) async fn state_at(
        &self,
        at: PastAt,
        about: PastAbout,
    ) -> Result<PastState, Problem> {
        let store = self.ctx.store.get()?;
        reads::caught_up(&store).await?;
        reads::blocking(store, move |store| past::state_at(store, at, &about)).await
    }

    pub(super) async fn events_from(
        &self,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<MeshEvent>, Problem> {
        let store = self.ctx.store.get()?;
        let read = move |store: &OpenStore| -> Result<_, LookupError> {
            let from = after.map_or(Position(0), Position::next);
            let records = store.journal.read(from).map_err(LookupError::from)?;
            records
                .take(limit)
                .map(|record| {
                    Ok(event_of(
                        &record.map_err(LookupError::from)?,
                        &store.content,
                    ))
                })
                .collect()
        };
        reads::blocking(store, read).await
    }

    pub(super) async fn signed_checkpoint(&self) -> Result<String, Problem> {
        let store = self.ctx.store.get()?;
        let signed = tokio::task::spawn_blocking(move || store.journal.checkpoint()).await;
        signed
            .map_err(|_| Problem::unavailable("shutting_down", "meshd is shutting down"))?
            .map(|checkpoint| checkpoint.note)
            .map_err(no_checkpoint)
    }

    pub(super) async fn inclusion(
        &self,
        index: Position,
        size: Option<u64>,
    ) -> Result<Value, Problem> {
        let field = move |asked| if size == Some(asked) { "size" } else { "index" };
        self.proof(field, move |journal| {
            let size = size.unwrap_or_else(|| journal.durable().borrow().size());
            let path = journal.inclusion_proof(index, size)?;
            let root = journal.root(size)?;
            Ok(json!({ "index": index, "size": size, "path": hashes(&path), "root": hash(&root) }))
        })
        .await
    }

    pub(super) async fn consistency(&self, from: u64, to: Option<u64>) -> Result<Value, Problem> {
        let field = move |asked| if to == Some(asked) { "to" } else { "from" };
        self.proof(field, move |journal| {
            let to = to.unwrap_or_else(|| journal.durable().borrow().size());
            let path = journal.consistency_proof(from, to)?;
            Ok(json!({ "from": from, "to": to, "path": hashes(&path) }))
        })
        .await
    }

    /// Makes a proof; `field` says which parameter brought a number that is out of range.
    async fn proof(
        &self,
        field: impl Fn(u64) -> &'static str,
        make: impl FnOnce(&dyn mesh_persistence::Journal) -> Result<Value, ProofError> + Send + 'static,
    ) -> Result<Value, Problem> {
        let store = self.ctx.store.get()?;
        tokio::task::spawn_blocking(move || make(&*store.journal))
            .await
            .map_err(|_| Problem::unavailable("shutting_down", "meshd is shutting down"))?
            .map_err(|error| match error {
                ProofError::OutOfRange { asked, .. } => {
                    Problem::invalid("out_of_range", field(asked), error.to_string())
                }
                error => Problem::internal(format!("no proof: {error}")),
            })
    }
}

/// A checkpoint has to be remembered before it is given out, which a full disk does not allow.
fn no_checkpoint(error: CheckpointError) -> Problem {
    match &error {
        CheckpointError::Io { source, .. } if is_full(source) => {
            let why = format!("no checkpoint can be stored: {source}");
            Problem::unavailable("read_only", why).retry_after(5)
        }
        CheckpointError::Failed(failed) => {
            Problem::unavailable("component_restarting", failed.to_string())
        }
        _ => Problem::internal(format!("no checkpoint: {error}")),
    }
}

/// Whether the disk takes nothing more, for now.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(
        error.kind(),
        StorageFull | QuotaExceeded | ReadOnlyFilesystem
    )
}

fn hash(hash: &Hash) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(hash.0)
}

fn hashes(path: &[Hash]) -> Vec<String> {
    path.iter().map(hash).collect()
}

/// A refusal to look for what cannot exist.
pub(super) fn agent_id(text: &str) -> Result<AgentId, Problem> {
    AgentId::new(text).map_err(|_| Problem::agent_not_found(text))
}

/// What a full disk answers to whatever would have to be written.
pub(super) fn read_only(mesh: &Mesh) -> Option<Problem> {
    let store = mesh.ctx.store.get().ok()?;
    let full = store.journal.admission().err()?;
    Some(Problem::new(ProblemKind::Unavailable, "read_only", full.to_string()).retry_after(5))
}
