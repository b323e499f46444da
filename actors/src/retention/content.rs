//! Erasing records together with what of them lies in the content store.

use std::collections::BTreeSet;

use mesh_messages::{Position, Record};
use mesh_persistence::ContentDigest;

use super::RetentionError;
use crate::partition::content_of;
use crate::reads::LookupError;
use crate::store::OpenStore;

/// Erases salts and payloads of these records, and their content unless a record refers to it that is not erased.
///
/// In this order, so that a crash in between leaves content without a reference, never a reference without content.
pub(super) fn erase_with_content(
    store: &OpenStore,
    positions: &[Position],
) -> Result<(), RetentionError> {
    let mut apart: BTreeSet<ContentDigest> = BTreeSet::new();
    for position in positions {
        let record = store.journal.get(*position).map_err(LookupError::from)?;
        apart.extend(record.as_ref().and_then(content_of));
    }
    store.journal.erase(positions)?;
    if apart.is_empty() {
        return Ok(());
    }
    // Tasks that were submitted together may share what they hold.
    let records = store.journal.read(Position(0)).map_err(LookupError::from)?;
    for record in records {
        let record: Record = record.map_err(LookupError::from)?;
        if let Some(digest) = content_of(&record) {
            apart.remove(&digest);
        }
        if apart.is_empty() {
            return Ok(());
        }
    }
    for digest in &apart {
        store.content.remove(digest)?;
    }
    Ok(())
}
