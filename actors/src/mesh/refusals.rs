//! Requests that only look, and requests that could not be taken, on record.

use mesh_messages::system::Caller;

use super::Mesh;
use crate::operations::{Action, RefusalOperations};

/// Codes of refusals for want of a right.
const NO_RIGHT: [&str; 2] = ["forbidden", "cross_agent_off"];
/// The reason that records name for it.
pub(super) const INSUFFICIENT: &str = "Insufficient permissions";

impl RefusalOperations for Mesh {
    fn note_refused(&self, caller: &Caller, action: Action, resource: &str, code: &str) {
        // Found out behind the door, and a want of a right all the same.
        if NO_RIGHT.contains(&code) {
            if !crate::request::was_denied() {
                let (user, action) = (&caller.name, action.name());
                self.sentinel
                    .record_denied(user, action, resource, INSUFFICIENT);
            }
            return;
        }
        self.sentinel
            .record_refused(&caller.name, action.name(), resource, code);
    }

    fn note_access(&self, caller: &Caller, action: Action, verb: &str, resource: &str) {
        self.sentinel.note_access(caller, action, verb, resource);
    }

    fn would_permit(&self, caller: &Caller, action: Action) -> bool {
        self.sentinel.would_permit(caller, action)
    }
}
