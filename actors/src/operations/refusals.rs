//! What is remembered of requests that could not be taken, and what is asked before something is shown in part.

use mesh_messages::system::Caller;

use super::Action;

/// Remembers refusals.
pub trait RefusalOperations {
    /// Audits that something that the caller may ask for could not be taken as it came, by the code of the answer. Never
    /// waits; a flood of them is counted instead.
    fn note_refused(&self, caller: &Caller, action: Action, resource: &str, code: &str);
    /// Whether the caller may do this, by its role, the operator's rules and its token. No act, so nothing is charged or
    /// audited.
    fn would_permit(&self, caller: &Caller, action: Action) -> bool;
}
