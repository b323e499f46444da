//! Where the journal's time comes from.

use mesh_messages::Timestamp;

/// Gives the time that records are stamped with.
///
/// The journal itself never reads a clock. It may be called under the journal's lock, so it must not block.
pub trait Clock: Send + Sync {
    /// The wall clock. It may jump; the journal never lets a record's time go back.
    fn now(&self) -> Timestamp;
}

impl<F> Clock for F
where
    F: Fn() -> Timestamp + Send + Sync,
{
    fn now(&self) -> Timestamp {
        self()
    }
}
