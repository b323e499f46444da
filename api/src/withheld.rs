//! What not every reader is shown: the log holds the values of agents' memory, and those are for whoever may read memory.

use mesh_actors::operations::{Action, Operations};
use mesh_messages::events::STATE_SAVED;
use mesh_messages::system::{AuditEntry, Caller, MeshEvent};
use serde_json::Value;

/// What the kinds of the records begin with that hold them.
const MEMORY: &str = "memory.";

fn is_memory(kind: &str) -> bool {
    kind.starts_with(MEMORY) || kind == STATE_SAVED
}

/// Whether a caller is shown what agents remember.
pub(crate) fn sees_memory(ops: &dyn Operations, caller: &Caller) -> bool {
    ops.would_permit(caller, Action::Memory)
}

/// Empties the payloads that a caller is not shown; the records stay, with their commitments.
pub(crate) fn withhold<'e>(
    ops: &dyn Operations,
    caller: &Caller,
    entries: impl IntoIterator<Item = &'e mut AuditEntry>,
) {
    if sees_memory(ops, caller) {
        return;
    }
    for entry in entries {
        if is_memory(&entry.kind) {
            entry.payload = None;
        }
    }
}

/// The same for an event of the live stream.
pub(crate) fn shown(sees_memory: bool, event: &MeshEvent) -> MeshEvent {
    let mut event = event.clone();
    let hidden = !sees_memory && event.data["kind"].as_str().is_some_and(is_memory);
    if hidden && let Some(data) = event.data.as_object_mut() {
        data.insert("payload".to_owned(), Value::Null);
    }
    event
}
