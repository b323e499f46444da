//! Requests that could not be taken, on record.

use mesh_messages::system::Caller;

use super::Mesh;
use crate::operations::{Action, RefusalOperations};

impl RefusalOperations for Mesh {
    fn note_refused(&self, caller: &Caller, action: Action, resource: &str, code: &str) {
        self.sentinel
            .record_refused(&caller.name, action.name(), resource, code);
    }

    fn would_permit(&self, caller: &Caller, action: Action) -> bool {
        self.sentinel.would_permit(caller, action)
    }
}
