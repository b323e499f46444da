//! What of erased records lies in the content store.
//!
//! It is *doomed*, durably, before the records go that refer to it, and removed when none is left that does: one look
//! through the log for all that was doomed, however many tasks that was. A kill in between is gone on with by the next
//! incarnation, which finds in the log what is doomed.
//!
//! What somebody is about to refer to is spared and stays doomed, until a later look shows that a record does, or that
//! none will.

use std::collections::BTreeSet;

use ractor::ActorProcessingErr;

use mesh_messages::events::RetentionEvent;
use mesh_messages::{Position, Record};
use mesh_persistence::ContentDigest;

use super::{RetentionError, RetentionShell};
use crate::partition::{Cause, content_of};
use crate::reads::LookupError;
use crate::store::OpenStore;

/// Digests in one record, which then stays below the size from which on it would lie in the content store itself.
const DIGESTS_MAX: usize = 400;
/// Doomed content that is waited with until there is nothing else to do: each look for references reads the whole log.
const DOOMED_MAX: usize = 10_000;
/// Looks at what is spared. One is enough for what is in the log by then; content that is held for longer, as by an append
/// that waits for space on the disk, is looked at again with the rest of what is left to do.
const LOOKS_MAX: usize = 3;

impl RetentionShell {
    /// Puts on record what of these records lies in the content store, before they are erased.
    pub(super) async fn doom(
        &mut self,
        positions: &[Position],
        cause: &Cause,
    ) -> Result<bool, ActorProcessingErr> {
        let positions = positions.to_vec();
        let Some(apart) = self.told(move |store| apart(store, &positions)).await? else {
            return Ok(false);
        };
        self.store.content.doom(&apart);
        self.put_on_record(&apart, cause).await?;
        Ok(true)
    }

    /// Records what is doomed, and waits until that is durable: so is then everything that was appended before, by owners
    /// that have ended since and hold nothing any more, too.
    async fn put_on_record(
        &mut self,
        doomed: &BTreeSet<ContentDigest>,
        cause: &Cause,
    ) -> Result<(), ActorProcessingErr> {
        let digests: Vec<String> = doomed.iter().map(ToString::to_string).collect();
        for digests in digests.chunks(DIGESTS_MAX) {
            let digests = digests.to_vec();
            let event = RetentionEvent::ContentDoomed { digests };
            self.commit(event, cause).await?;
        }
        Ok(())
    }

    /// Whether so much is doomed that it should not wait.
    pub(super) fn is_much_doomed(&self) -> bool {
        self.partition.state().doomed.len() >= DOOMED_MAX
    }

    /// Removes the doomed content that nothing refers to; whether all of it is dealt with.
    pub(super) async fn remove_doomed(&mut self) -> Result<bool, ActorProcessingErr> {
        let mut doomed = self.doomed();
        let mut files = 0;
        for _look in 0..LOOKS_MAX {
            if doomed.is_empty() {
                break;
            }
            // After a restart it is not known there yet.
            if self.store.content.doom(&doomed) {
                self.put_on_record(&doomed, &self.last_cause()).await?;
            }
            let removal = self.told(move |store| {
                let referred = referred(store, doomed.clone())?;
                Ok(store.content.remove_doomed(&doomed, &referred)?)
            });
            let Some(removal) = removal.await? else {
                return Ok(false);
            };
            files += removal.files;
            doomed = removal.spared;
            self.put_on_record(&doomed, &self.last_cause()).await?;
        }
        if !doomed.is_empty() {
            tracing::debug!(
                count = doomed.len(),
                "content to remove is about to be referred to again"
            );
            return Ok(false);
        }
        if self.partition.state().doomed.is_empty() {
            return Ok(true);
        }
        let event = RetentionEvent::ContentRemoved { files };
        self.commit(event, &self.last_cause()).await?;
        Ok(true)
    }

    /// What is doomed and not dealt with, by the log.
    fn doomed(&self) -> BTreeSet<ContentDigest> {
        let doomed = &self.partition.state().doomed;
        doomed.iter().filter_map(|text| text.parse().ok()).collect()
    }
}

/// What of these records lies in the content store.
fn apart(
    store: &OpenStore,
    positions: &[Position],
) -> Result<BTreeSet<ContentDigest>, RetentionError> {
    let mut apart = BTreeSet::new();
    for position in positions {
        let record = store.journal.get(*position).map_err(LookupError::from)?;
        apart.extend(record.as_ref().and_then(content_of));
    }
    Ok(apart)
}

/// Which of these a record refers to that is not erased: what was submitted together may share what it holds.
fn referred(
    store: &OpenStore,
    mut sought: BTreeSet<ContentDigest>,
) -> Result<BTreeSet<ContentDigest>, RetentionError> {
    let mut found = BTreeSet::new();
    for record in store.journal.read(Position(0)).map_err(LookupError::from)? {
        let record: Record = record.map_err(LookupError::from)?;
        let Some(digest) = content_of(&record) else {
            continue;
        };
        if sought.remove(&digest) {
            found.insert(digest);
        }
        if sought.is_empty() {
            break;
        }
    }
    Ok(found)
}
