//! Refusals of memory, as the outside sees them.

use mesh_actors_core::memory::MemoryRefusal;
use mesh_messages::problem::{Problem, ProblemKind};

/// One code for each thing that a caller can do about it.
pub(super) fn refused(refusal: &MemoryRefusal) -> Problem {
    let detail = refusal.to_string();
    match refusal {
        MemoryRefusal::Key => Problem::invalid("invalid_key", "key", detail),
        MemoryRefusal::Ttl => Problem::invalid("invalid_ttl", "ttl", detail),
        MemoryRefusal::Value { .. } => {
            Problem::new(ProblemKind::TooLarge, "value_too_large", detail).field("value")
        }
        MemoryRefusal::Size { .. } | MemoryRefusal::Count { .. } => {
            Problem::new(ProblemKind::Conflict, "memory_full", detail)
        }
        MemoryRefusal::Sealed(_) => Problem::new(ProblemKind::Conflict, "memory_sealed", detail),
        MemoryRefusal::NotShared { .. } => {
            Problem::new(ProblemKind::Forbidden, "memory_not_shared", detail)
        }
        MemoryRefusal::NotYours { .. } => {
            Problem::new(ProblemKind::Forbidden, "memory_not_yours", detail)
        }
    }
}
