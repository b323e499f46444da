//! What is remembered of requests that were let in or could not be taken, and what is asked before something is shown in part.

use mesh_messages::system::Caller;

use super::Action;

/// Remembers who was let in, and who was refused.
pub trait RefusalOperations {
    /// Audits that something that the caller may ask for could not be taken as it came, by the code of the answer. Never
    /// waits; a flood of them is counted instead.
    fn note_refused(&self, caller: &Caller, action: Action, resource: &str, code: &str);
    /// Counts that the caller was let do this by a verb, where that has no record of its own. Never waits.
    fn note_access(&self, caller: &Caller, action: Action, verb: &str, resource: &str);
    /// Whether the caller may do this, by its role, the operator's rules and its token. No act, so nothing is charged or
    /// audited.
    fn would_permit(&self, caller: &Caller, action: Action) -> bool;
}
