//! What is written out whole: the audit log, the SQL tables, a backup. Each as a stream that waits for a slow reader, and ends
//! when the reader is gone or the journal has to be opened again.

use std::io::{self, Write};

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use mesh_actors_core::projection::SqlScript;
use mesh_messages::RecordHeader;
use mesh_messages::events::{STATE_SAVED, partition};
use mesh_messages::problem::Problem;
use mesh_persistence::{ExportError, VaultCopy, backup, export_without};

use super::Mesh;
use crate::operations::{ChunkStream, ExportOf};
use crate::reads::{self, LookupError, StoreReader};
use crate::store::OpenStore;

/// Chunks of an export that wait for a slow reader; beyond it the export waits.
const EXPORT_CHUNKS_MAX: usize = 16;
/// Bytes of a chunk.
const EXPORT_CHUNK: usize = 64 * 1024;
/// What the reader of an export is told when the journal had to be opened again.
const CUT_OFF: &str = "the journal is being opened again, which cut the export off; begin it anew";

impl Mesh {
    pub(super) fn audit_stream(
        &self,
        of: Option<ExportOf>,
        memory: bool,
    ) -> Result<ChunkStream, Problem> {
        self.streamed(move |store, out| {
            let hidden = |header: &RecordHeader| {
                let of_memory = header.partition == partition::MEMORY;
                !memory && (of_memory || header.kind == STATE_SAVED)
            };
            let of = of.as_ref().map(|of| (&of.agent, of.witnessed));
            let done = export_without(&*store.journal, of, &hidden, out);
            done.map(drop).map_err(|error| match error {
                ExportError::NoRecords(agent) => Problem::agent_not_found(agent.as_str()),
                error => Problem::internal(told("the export failed", &error)),
            })
        })
    }

    pub(super) async fn sql_stream(&self) -> Result<ChunkStream, Problem> {
        reads::caught_up(&*self.ctx.store.get()?).await?;
        self.streamed(|store, out| {
            let projections = &store.projections;
            let position = || projections.next_position().map_err(behind);
            let (mut script, mut seen) = (SqlScript::default(), position()?);
            while let Some(chunk) = script
                .next_chunk(&StoreReader(store))
                .map_err(LookupError::from)?
            {
                // Views that are made anew are empty at first: a script of them would look whole and be none.
                let now = position()?;
                if now < seen {
                    return Err(LookupError::Behind.into());
                }
                seen = now;
                out.write_all(chunk.as_bytes()).map_err(|e| unwritten(&e))?;
            }
            Ok(())
        })
    }

    pub(super) fn backup_stream(&self, vault: VaultCopy) -> Result<ChunkStream, Problem> {
        let data = self.ctx.settings.data.clone();
        self.streamed(move |store, out| {
            let cut = store.journal.cut().map_err(|error| not_backed_up(&error))?;
            backup(&cut, &data, vault, out).map_err(|error| not_backed_up(&error))
        })
    }

    /// Runs a writer where it may block, and hands on what it writes.
    fn streamed(
        &self,
        write: impl FnOnce(&OpenStore, &mut dyn Write) -> Result<(), Problem> + Send + 'static,
    ) -> Result<ChunkStream, Problem> {
        let store = self.ctx.store.get()?;
        let (tx, rx) = mpsc::channel(EXPORT_CHUNKS_MAX);
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            let mut out = Chunks {
                tx: tx.clone(),
                buffer: Vec::with_capacity(EXPORT_CHUNK),
                store: &store,
                runtime,
            };
            let done =
                write(&store, &mut out).and_then(|()| out.flush().map_err(|e| unwritten(&e)));
            if let Err(problem) = done {
                let problem = if store.is_closing() {
                    Problem::unavailable("component_restarting", CUT_OFF)
                } else {
                    problem
                };
                // A reader that takes its time must not keep the journal from opening again.
                drop(store);
                let _reader_gone = tx.blocking_send(Err(problem));
            }
        });
        Ok(rx)
    }
}

fn behind(error: mesh_persistence::ProjectionError) -> Problem {
    let failure = mesh_actors_core::projection::ProjectFailure::View(error);
    LookupError::from(failure).into()
}

type Why<'a> = &'a (dyn std::error::Error + 'static);

fn causes(error: Why<'_>) -> impl Iterator<Item = Why<'_>> {
    std::iter::successors(Some(error), |error| error.source())
}

/// Says all that is known, such as the damaged file, because somebody has to look at it.
fn told(what: &str, error: Why<'_>) -> String {
    causes(error).fold(what.to_owned(), |told, cause| format!("{told}: {cause}"))
}

/// Without space no checkpoint can be stored; that may pass.
fn not_backed_up(error: Why<'_>) -> Problem {
    let detail = told("the backup failed", error);
    let is_full = |cause: Why<'_>| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::StorageFull)
    };
    if causes(error).any(is_full) {
        Problem::unavailable("read_only", detail)
    } else {
        Problem::internal(detail)
    }
}

fn unwritten(error: &io::Error) -> Problem {
    Problem::internal(format!("the export broke off: {error}"))
}

/// Hands what is written on in chunks. A reader that is gone ends the writing, and so does a journal that is to be opened
/// again, however slowly the reader reads.
struct Chunks<'a> {
    tx: mpsc::Sender<Result<Vec<u8>, Problem>>,
    buffer: Vec<u8>,
    store: &'a OpenStore,
    runtime: Handle,
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= EXPORT_CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(EXPORT_CHUNK));
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.store.closing() => Err(io::Error::other(CUT_OFF)),
                sent = self.tx.send(Ok(chunk)) => {
                    sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use mesh_messages::problem::ProblemKind;
    use mesh_persistence::{CheckpointError, CutError};

    use super::*;

    #[test]
    fn a_backup_that_finds_no_space_is_to_be_tried_again_and_any_other_failure_is_told_whole() {
        let failure = |kind: io::ErrorKind| {
            let file = "checkpoint".to_owned();
            let source = kind.into();
            not_backed_up(&CutError::Checkpoint(CheckpointError::Io { file, source }))
        };
        let full = failure(io::ErrorKind::StorageFull);
        assert_eq!(
            (full.kind, full.code),
            (ProblemKind::Unavailable, "read_only")
        );
        let other = failure(io::ErrorKind::PermissionDenied);
        assert_eq!(other.kind, ProblemKind::Internal);
        assert!(
            other.detail.ends_with(": permission denied"),
            "{}",
            other.detail
        );
    }
}
